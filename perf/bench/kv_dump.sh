#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# perf/bench/kv_dump.sh OUT_DIR [TOKENS] - K and V of every kind of text in perf/texts/, as files OUT_DIR/KIND.kv (kv_file.h).
# Needs build/ and the model in $KVW_MODEL (perf/run.sh sees to both). Existing files are kept.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
out=${1:?usage: perf/bench/kv_dump.sh OUT_DIR [TOKENS]} tokens=${2:-1024}
model=${KVW_MODEL:-${XDG_CACHE_HOME:-$HOME/.cache}/kvwire/SmolLM2-135M-Instruct.Q4_1.gguf}
mkdir -p "$out"
for text in "$root"/perf/texts/*.txt "$root/LICENSE"; do
    kind=$(basename "$text" .txt)
    [ "$kind" = LICENSE ] && kind=licence
    [ -s "$out/$kind.kv" ] && continue
    "$root/build/perf/kv_dump" "$model" "$tokens" "$text" "$out/$kind.kv.part"
    mv "$out/$kind.kv.part" "$out/$kind.kv"
done
