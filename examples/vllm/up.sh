#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# up.sh MODEL [serial] - prefill, decode and proxy of one machine, two vLLM servers on its CPUs with KvwireConnector. MODEL: a folder
# as Hugging Face lays it out. $PYTHON: one that has vLLM and kvwire. Ends everything with Ctrl-C. The other command is ask.py.
set -eu
model=${1:?up.sh MODEL [serial]}
mode=${2:-concurrent}
python=${PYTHON:-python3}
log=${KVWIRE_DEMO:-/tmp/kvwire-demo}
mkdir -p "$log"
rm -f "$log"/*.jsonl
export VLLM_CPU_KVCACHE_SPACE=1 VLLM_HOST_IP=127.0.0.1 OMP_NUM_THREADS=1 VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1
trap 'kill $(jobs -p) 2>/dev/null; wait' EXIT
serve() { # NAME ROLE PORT CORE EXTRA
    VLLM_CPU_OMP_THREADS_BIND=$4 "$python" -m vllm.entrypoints.openai.api_server --model "$model" --served-model-name demo \
        --host 127.0.0.1 --port "$3" --enforce-eager --max-model-len 2048 --no-enable-prefix-caching --kv-transfer-config \
        "{\"kv_connector\": \"KvwireConnector\", \"kv_connector_module_path\": \"kvwire.vllm\", \"kv_role\": \"$2\",
          \"kv_connector_extra_config\": {\"kvwire_log\": \"$log/$1.jsonl\"$5}}" >"$log/$1.log" 2>&1 &
}
serve prefill kv_producer 8101 0 ', "kvwire_port": 7400'
serve decode kv_consumer 8102 1 ''
echo "the servers start; their logs are in $log"
for port in 8101 8102; do
    for _ in $(seq 300); do
        "$python" -c "import urllib.request as u; u.urlopen('http://127.0.0.1:$port/health', timeout=2)" 2>/dev/null && break
        sleep 1
    done
done
"$python" -m kvwire.proxy --prefill http://127.0.0.1:8101 --decode http://127.0.0.1:8102 --mode "$mode" --port 8000
