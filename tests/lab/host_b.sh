#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# host_b.sh COMMAND...: run COMMAND in host b of the lab whose environment this is.
exec ip netns exec "$KVW_LAB_B" "$@"
