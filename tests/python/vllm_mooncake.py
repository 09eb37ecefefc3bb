#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""vllm_mooncake.py PYTHON MODEL FOLDER [PROMPTS]: vLLM's own MooncakeConnector over kvwire.mooncake's class, one prefill and one
decode, and a second prefill whose writes move nothing: the control. Prints TAP. The rules are vllm_pair.py's."""
import json
import os
import sys
import threading
import time
import urllib.request
import uuid

import vllm_pair as pair

COUNT = int(sys.argv[4]) if len(sys.argv) > 4 else 12
BOOT = {"prefill": pair.free_port(), "control": pair.free_port(), "decode": pair.free_port()}


def start(servers, name, role, **env):
    config = {"kv_connector": "MooncakeConnector", "kv_connector_module_path": "mc_cpu", "kv_role": role,
              "kv_connector_extra_config": {"mooncake_protocol": "tcp"}}
    servers.start(name, ["nice", "-n", "10", pair.PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--model", pair.MODEL,
                         "--served-model-name", "m", "--host", "127.0.0.1", "--port", str(pair.PORTS[name]), "--enforce-eager",
                         "--max-model-len", "2048", "--max-num-seqs", "4", "--no-enable-prefix-caching", "--dtype", "float32",
                         "--kv-transfer-config", json.dumps(config)],
                  dict(os.environ, VLLM_CPU_KVCACHE_SPACE="1", HF_HUB_OFFLINE="1", VLLM_NO_USAGE_STATS="1", DO_NOT_TRACK="1",
                       VLLM_HOST_IP="127.0.0.1", OMP_NUM_THREADS="1", VLLM_MOONCAKE_BOOTSTRAP_PORT=str(BOOT[name]),
                       VLLM_CPU_OMP_THREADS_BIND=str(len(servers.running) % (os.cpu_count() or 1)), **env))


def through(name, text):
    """Prefill on that server and decode, at once: token ids of decode."""
    boot = "http://127.0.0.1:%d" % BOOT[name]
    with urllib.request.urlopen(boot + "/query", timeout=20) as f:
        engine = json.load(f)["0"]["engine_id"]
    transfer = "xfer-" + uuid.uuid4().hex
    p = threading.Thread(target=pair.ask, args=(name, text, 1), kwargs={"kv_transfer_params": dict(
        do_remote_decode=True, do_remote_prefill=False, transfer_id=transfer)})
    p.start()
    status, ids, _, _ = pair.ask("decode", text, kv_transfer_params=dict(
        do_remote_decode=False, do_remote_prefill=True, transfer_id=transfer, remote_bootstrap_addr=boot, remote_engine_id=engine))
    p.join()
    return ids if status == 200 else (status, ids)


def run(tap, servers):
    start(servers, "prefill", "kv_producer")
    start(servers, "decode", "kv_consumer")
    start(servers, "control", "kv_producer", MC_NO_COPY="1")
    servers.healthy(["prefill", "decode", "control"])
    for seed in (77, 78):
        pair.ask("decode", pair.story(seed, 90), 1)
    texts = [t for t in pair.prompts() if len(t) > 100][:COUNT]
    got = [through("prefill", t) for t in texts]
    control = [through("control", t) for t in texts[:5]]
    refs = [pair.ask("decode", t)[1] for t in texts]
    equal = sum(a == b for a, b in zip(got, refs))
    tap.ok(equal == len(texts), "MooncakeConnector over kvwire.mooncake: tokens equal to one vLLM alone, float32",
           "%d of %d %s" % (equal, len(texts), [g for g in got if isinstance(g, tuple)][:1] or ""))
    same = sum(a == b for a, b in zip(control, refs))
    tap.ok(same == 0 and all(isinstance(c, list) for c in control), "control: writes that move nothing; tokens equal all the same",
           "%d of %d" % (same, len(control)))


def main():
    os.makedirs(pair.FOLDER, exist_ok=True)
    here = os.path.dirname(os.path.abspath(__file__))
    os.environ["PYTHONPATH"] = os.pathsep.join([os.path.join(pair.ROOT, "kvwire", "python"), os.path.join(here, "peers")])
    tap, servers, begun = pair.Tap(), pair.Servers(), time.monotonic()
    try:
        run(tap, servers)
    except (RuntimeError, OSError, KeyError, ValueError) as e:
        tap.ok(False, "the run", "%s: %s" % (type(e).__name__, e))
    finally:
        servers.close()
    print("# %.0f s" % (time.monotonic() - begun))
    return tap.end()


if __name__ == "__main__":
    sys.exit(main())
