# SPDX-License-Identifier: Apache-2.0
# serve.sh - sourced inside guests: kvserve as two processes over addresses of our choice, beside one process.
# The emulated CPU computes a token a second of the whole model, so it gets the real model's first layers (cut_gguf.py),
# a prompt of two KV blocks and a short answer.
model=$KVW_CUT_MODEL
kvserve=$build/engine/kvserve
serve_prompt='{"tokens":[504,3575,282,4649,314,260,2535,30,378,2761,1838,563,281,253,1485,1074,282,260,1029,28]}'
serve_answer=5
# qemu calls a function for every lane of an AVX2 instruction: with the kernels and oneDNN's code for AVX2 this prompt took
# 122 s in a guest, with those for a plainer CPU 2 to 10 s. Which kernels compute is not what is tested here.
export KVE_CPU=scalar ONEDNN_MAX_CPU_ISA=SSE41

serve_json() { # kvserve's options
    timeout 200 "$kvserve" run --model "$model" --batch - --json --max-tokens $serve_answer --ignore-end --no-compare \
        --timeout 180 "$@" <<<"$serve_prompt"
}

# The emulated CPU takes half a second to start a Python.
field() { # NAME, of the JSON on stdin: a number, or an array of some
    sed -nE 's/.*"'"$1"'":\[?([0-9,]*[0-9]).*/\1/p' | tr , ' '
}

one_process() {
    serve_json --net none --threads 1 --kv-tokens 64 | field output_tokens
}

# equal_tokens NET DECODE_LINK PREFILL_LINK PEER: prints both answers; one process's is $serve_want, if that is set. A lease of
# 5 s, since a link's thread may have to wait for the emulated CPU; what hangs is ended by serve_json's limits.
equal_tokens() {
    local dir want got line status=1 small="--threads 1 --kv-tokens 64 --quiet"
    dir=$(mktemp -d)
    # shellcheck disable=SC2086
    "$kvserve" decode --model "$model" --net "$1" --link "$2" --lease 5000 --control "$dir/d" $small &
    local decode=$!
    # shellcheck disable=SC2086
    "$kvserve" prefill --model "$model" --net "$1" --link "$3" --peer "$4" --control "$dir/p" $small &
    local prefill=$!
    for ((i = 0; i < 300; i++)); do
        [ -S "$dir/d" ] && [ -S "$dir/p" ] && break
        sleep 0.1
    done
    want=${serve_want:-$(one_process)}
    line=$(serve_json --prefill-at "$dir/p" --decode-at "$dir/d")
    got=$(field output_tokens <<<"$line")
    echo "one process: $want; two over $1: $got ($(field kv_bytes <<<"$line") bytes of KV)"
    [ "$(wc -w <<<"$want")" -eq $serve_answer ] && [ "$want" = "$got" ] && [ "$(field kv_bytes <<<"$line")" -gt 0 ] && status=0
    kill $decode $prefill 2>/dev/null
    wait $decode $prefill
    rm -rf "$dir"
    return $status
}
