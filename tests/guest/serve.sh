# SPDX-License-Identifier: Apache-2.0
# serve.sh - sourced inside guests: kvserve as two processes over addresses of our choice, beside one process.
# The emulated CPU computes a token a second, so prompt and answer are short.
model=${KVE_MODEL:-${XDG_CACHE_HOME:-$HOME/.cache}/kvwire/SmolLM2-135M-Instruct.Q4_1.gguf}
kvserve=$build/engine/kvserve
serve_prompt='{"tokens":[504,3575,282]}'
serve_answer=3

serve_tokens() { # kvserve's options
    timeout 120 "$kvserve" run --model "$model" --batch - --json --max-tokens $serve_answer --ignore-end --no-compare "$@" \
        <<<"$serve_prompt" | python3 -c 'import json, sys; print(*json.loads(sys.stdin.readline())["output_tokens"])'
}

# equal_tokens NET DECODE_LINK PREFILL_LINK PEER
equal_tokens() {
    local dir want got status=1 small="--threads 1 --kv-tokens 64 --quiet"
    dir=$(mktemp -d)
    # shellcheck disable=SC2086
    "$kvserve" decode --model "$model" --net "$1" --link "$2" --control "$dir/d" $small &
    local decode=$!
    # shellcheck disable=SC2086
    "$kvserve" prefill --model "$model" --net "$1" --link "$3" --peer "$4" --control "$dir/p" $small &
    local prefill=$!
    for ((i = 0; i < 300; i++)); do
        [ -S "$dir/d" ] && [ -S "$dir/p" ] && break
        sleep 0.1
    done
    want=$(serve_tokens --net none --threads 1 --kv-tokens 64)
    got=$(serve_tokens --prefill-at "$dir/p" --decode-at "$dir/d")
    echo "one process: $want; two over $1: $got"
    [ "$(wc -w <<<"$want")" -eq $serve_answer ] && [ "$want" = "$got" ] && status=0
    kill $decode $prefill 2>/dev/null
    wait $decode $prefill
    rm -rf "$dir"
    return $status
}
