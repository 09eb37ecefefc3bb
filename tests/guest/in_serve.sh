#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# in_serve.sh - what suite.py runs in a guest with rxe0 (10.77.1.1) and rxe1 (10.77.1.2) for kvserve over net/verbs.
here=$(dirname "$0")
. "$here/tap.sh"
. "$here/serve.sh"

tells "kvserve over verbs: equal tokens" equal_tokens verbs 10.77.1.1:7400 10.77.1.2:0 10.77.1.1:7400
