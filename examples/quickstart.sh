#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# quickstart.sh [PROMPT] - the main job on a bare Debian 12: install, build, fetch a real model, and let it
# answer with prefill in one process and decode in another, the KV cache streamed between them over DPDK,
# layer by layer, while the prefill is still running. Run it twice: the second time starts at once.
set -euo pipefail
. "$(dirname "$0")/setup.sh"

prompt=${1:-"Explain in three sentences why the sky is blue, and why sunsets are red."}

# shellcheck disable=SC2086
kvw_need $kvw_packages_build
kvw_get_model
kvw_build
kvw_say "asking: $prompt"
exec "$kvw_root/build/engine/kvserve" run --model "$kvw_model" --net dpdk --max-tokens 200 --prompt "$prompt"
