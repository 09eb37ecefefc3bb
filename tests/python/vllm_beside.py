#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""vllm_beside.py PYTHON MODEL FOLDER [PROMPTS [ROUNDS [STACK...]]]: vLLM's own connectors beside KvwireConnector, one prefill and one
decode on this CPU for each stack, the stacks by turns. Prints TAP, and writes FOLDER/beside.md.

    alone            one vLLM without a connector: what prefill costs by itself
    kvwire           KvwireConnector, each prompt's length concurrent and serial; its codec is what the library chooses
    kvwire-raw       the same without a codec
    kvwire-e8        the same with the lossy codec e8 allowed (kvwire_budget)
    nixl             NixlConnector over UCX, as its wheel has it
    nixl-kvwire      NixlConnector over libplugin_KVWIRE.so of $NIXL_PLUGIN_DIR
    mooncake         MooncakeConnector over Mooncake's class, TCP
    mooncake-kvwire  MooncakeConnector over kvwire.mooncake's class

PYTHON needs nixl and mooncake-transfer-engine-non-cuda for theirs. Each stack gets the same prompts; decode never saw them; the
first stack's decode computes the references afterwards. In a lab (tests/lab/lab.py, its environment) prefill is host a, decode is
host b with this program, and UCX is told to use TCP, as shared memory would go around the link. TTFT: from the client's request to decode's
first token, prefill included. Hand-over: from prefill's answer to decode's first token, which takes one forward of one token in any case. CPU: from
the request to decode's last token, of all processes of that server.

KVW_VLLM_DTYPE=bfloat16: codecs without loss take 16-bit values alone, so in float32 the library chooses raw. A last token that is
computed alone may come out otherwise there (vllm_pair.py), so four in five answers are to be equal; of kvwire-e8 they are only counted."""
import contextlib
import http.client
import json
import os
import statistics
import sys
import threading
import time
import urllib.request
import uuid

import vllm_pair as pair

PROMPTS = int(sys.argv[4]) if len(sys.argv) > 4 else 12
ROUNDS = int(sys.argv[5]) if len(sys.argv) > 5 else 2
STACKS = sys.argv[6:] or ["kvwire", "nixl", "mooncake"]
BOOT, SIDE = pair.free_port(), [pair.free_port(), pair.free_port()]
HERE = os.path.dirname(os.path.abspath(__file__))
pair.DTYPE = os.environ.get("KVW_VLLM_DTYPE", "float32")
NICE = os.environ.get("KVW_VLLM_NICE", "10")
LAB = os.environ.get("KVW_LAB_A")
HOSTS = [os.environ["KVW_LAB_IP_A"], os.environ["KVW_LAB_IP_B"]] if LAB else ["127.0.0.1"] * 2
pair.HOST.update(zip(("prefill", "decode"), HOSTS))


def config(stack, role):
    made = {"kv_role": role}
    if stack.startswith("kvwire"):
        extra = {"kvwire_port": pair.PORTS["node"]} if role == "kv_producer" else {}
        extra.update({"kvwire-raw": {"kvwire_codec": "raw"}, "kvwire-e8": {"kvwire_budget": "e8"}}.get(stack, {}))
        return dict(made, kv_connector="KvwireConnector", kv_connector_module_path="kvwire.vllm", kv_connector_extra_config=extra)
    if stack.startswith("nixl"):
        made.update(kv_connector="NixlConnector", kv_buffer_device="cpu")
        return dict(made, kv_connector_extra_config={"backends": ["KVWIRE"]}) if stack == "nixl-kvwire" else made
    return dict(made, kv_connector="MooncakeConnector", kv_connector_module_path="mc_cpu",
                kv_connector_extra_config={"mooncake_protocol": "tcp"})


def start(servers, stack):
    roles = [("prefill", "kv_producer"), ("decode", "kv_consumer")][:1 if stack == "alone" else 2]
    for i, (name, role) in enumerate(roles):
        env = dict(os.environ, VLLM_CPU_KVCACHE_SPACE="1", HF_HUB_OFFLINE="1", VLLM_NO_USAGE_STATS="1", DO_NOT_TRACK="1",
                   VLLM_HOST_IP=HOSTS[i], OMP_NUM_THREADS="1", VLLM_CPU_OMP_THREADS_BIND=str(i % (os.cpu_count() or 1)),
                   VLLM_NIXL_SIDE_CHANNEL_HOST=HOSTS[i], VLLM_NIXL_SIDE_CHANNEL_PORT=str(SIDE[i]), MC_FORCE_TCP="1",
                   VLLM_MOONCAKE_BOOTSTRAP_PORT=str(BOOT if i == 0 else pair.free_port()))
        if stack == "mooncake":
            env["MC_REAL"] = "1"
        if stack != "nixl-kvwire":
            env.pop("NIXL_PLUGIN_DIR", None)
        if LAB:
            env["UCX_TLS"] = "tcp"
        space = ["ip", "netns", "exec", LAB] if LAB and name == "prefill" else []
        servers.start(name, space + ["nice", "-n", NICE, pair.PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--model", pair.MODEL,
                             "--served-model-name", "m", "--host", HOSTS[i], "--port", str(pair.PORTS[name]),
                             "--enforce-eager", "--max-model-len", "2048", "--max-num-seqs", "4",
                             "--max-num-batched-tokens", str(pair.CHUNK), "--no-enable-prefix-caching", "--dtype", pair.DTYPE,
                             *(["--kv-transfer-config", json.dumps(config(stack, role))] if stack != "alone" else [])], env)
    servers.healthy([name for name, _ in roles])


def streamed(text, params, where="decode"):
    """(moment of the first token, token ids) of decode."""
    body = dict(model="m", prompt=text, max_tokens=pair.ANSWER, temperature=0, return_token_ids=True, ignore_eos=True,
                stream=True, kv_transfer_params=params)
    request = urllib.request.Request(pair.at(where, "/v1/completions"), json.dumps(body).encode(),
                                     {"Content-Type": "application/json"})
    first, ids = 0.0, []
    with urllib.request.urlopen(request, timeout=600) as f:
        for line in f:
            if not line.startswith(b"data: {"):
                continue
            part = json.loads(line[6:])
            if "choices" not in part:
                raise ValueError(line[:300].decode())
            for choice in part["choices"]:
                if choice.get("token_ids"):
                    first = first or time.monotonic()
                    ids += choice["token_ids"]
    return first, ids


def serial(text):
    begun = time.monotonic()
    answer = pair.ask("prefill", text, 1, kv_transfer_params=dict(
        do_remote_decode=True, do_remote_prefill=False, remote_engine_id=None, remote_block_ids=None, remote_host=None,
        remote_port=None))[3]
    computed = time.monotonic()
    first, ids = streamed(text, answer["kv_transfer_params"])
    return first - begun, first - computed, computed - begun, ids


def at_once(text, to_prefill, to_decode):
    begun, computed = time.monotonic(), []

    def prefill():
        pair.ask("prefill", text, 1, kv_transfer_params=dict(to_prefill, do_remote_decode=True, do_remote_prefill=False))
        computed.append(time.monotonic())

    t = threading.Thread(target=prefill)
    t.start()
    first, ids = streamed(text, dict(to_decode, do_remote_decode=False, do_remote_prefill=True))
    t.join(600)
    return first - begun, first - computed[0], computed[0] - begun, ids


def through(stack, way, text):
    transfer = uuid.uuid4().hex
    if way == "none":
        begun = time.monotonic()
        first, ids = streamed(text, None, "prefill")
        return first - begun, 0.0, first - begun, ids
    if way == "serial":
        return serial(text)
    if stack.startswith("kvwire"):
        to = dict(transfer_id=transfer, remote_host=HOSTS[0], remote_port=pair.PORTS["node"])
    else:
        boot = "http://%s:%d" % (HOSTS[0], BOOT)
        with urllib.request.urlopen(boot + "/query", timeout=20) as f:
            engine = json.load(f)["0"]["engine_id"]
        to = dict(transfer_id=transfer, remote_bootstrap_addr=boot, remote_engine_id=engine)
    return at_once(text, {"transfer_id": transfer}, to)


def cpu(servers, name):
    """Seconds of CPU that the processes of that server have taken: other load on the machine doesn't count."""
    ticks, session = 0, str(servers.running[name].pid if name in servers.running else "none")
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open("/proc/%s/stat" % pid) as f:
            fields = f.read().rsplit(")", 1)[1].split()
            ticks += int(fields[11]) + int(fields[12]) if fields[3] == session else 0
    return ticks / os.sysconf("SC_CLK_TCK")


def on_the_wire():
    """Decode's own figures: bytes that KV took on the wire, of bytes of KV."""
    with urllib.request.urlopen(pair.at("decode", "/metrics"), timeout=20) as f:
        lines = [line for line in f.read().decode().splitlines() if 'way="received"' in line]
    wire, raw = (sum(float(line.split()[-1]) for line in lines if line.startswith(name))
                 for name in ("vllm:kvwire_wire_bytes_total", "vllm:kvwire_transfer_bytes_sum"))
    return "%.1f of %.1f MB" % (wire / 1e6, raw / 1e6)


def turn(stack, texts, seen, tokens):
    """One pair of servers; each prompt in each way the stack has."""
    servers = pair.Servers()
    ways = {"alone": ("none",), "kvwire": ("concurrent", "serial"), "mooncake": ("concurrent",), "nixl": ("serial",)}[stack.split("-")[0]]
    try:
        start(servers, stack)
        last = "prefill" if stack == "alone" else "decode"
        for seed in (77, 78):  # other KV in decode's blocks, and both engines warm
            pair.ask(last, pair.story(seed, 90), 1)
        for way in ways:
            through(stack, way, pair.story(79, 20))
        for i, text in enumerate(texts):
            for way in ways:
                before = [cpu(servers, name) for name in ("prefill", "decode")]
                ttft, handed, prefill, ids = through(stack, way, text)
                took = [cpu(servers, name) - of for name, of in zip(("prefill", "decode"), before)]
                seen.setdefault((stack, way, i % 2), []).append((ttft, handed, prefill, *took))
                tokens.setdefault((stack, way), []).append((i, ids))
        if stack.startswith("kvwire"):
            print("# %s: on the wire %s" % (stack, on_the_wire()), flush=True)
        if stack == STACKS[0] and "references" not in tokens:
            tokens["references"] = [pair.ask(last, text)[1] for text in texts]
    finally:
        servers.close()


def write(seen):
    def cell(values):
        values = sorted(values)
        return "%.0f (%.0f to %.0f)" % tuple(1e3 * v for v in (statistics.median(values), values[0], values[-1]))

    with open(pair.FOLDER + "/beside.md", "w", encoding="utf8") as f:
        f.write("| stack | dispatch | prompts | n | TTFT, ms: median (least to most) | hand-over, ms | prefill, ms | CPU ms of prefill | of decode |\n"
                "|---|---|---|---|---|---|---|---|---|\n")
        for (stack, way, long), rows in sorted(seen.items(), key=lambda item: (item[0][2], item[0])):
            f.write("| %s | %s | %s | %d | %s | %s | %s | %s | %s |\n" % (
                stack, way, "long" if long else "short", len(rows), *(cell([r[k] for r in rows]) for k in range(5))))
    theirs = [statistics.median(r[0] for r in rows) for (stack, _, long), rows in seen.items() if long and stack in ("nixl", "mooncake")]
    for (stack, way, long), rows in sorted(seen.items()):
        if long and theirs and stack.startswith("kvwire"):
            print("# TTFT of long prompts: %s, %s: %.2f of the best of NIXL and Mooncake" % (
                stack, way, statistics.median(r[0] for r in rows) / min(theirs)))
    with open(pair.FOLDER + "/beside.md", encoding="utf8") as f:
        print("# " + f.read().replace("\n", "\n# "))


def main():
    os.makedirs(pair.FOLDER, exist_ok=True)
    os.environ["PYTHONPATH"] = os.pathsep.join([os.path.join(pair.ROOT, "kvwire", "python"), os.path.join(HERE, "peers")])
    tap, begun, seen, tokens = pair.Tap(), time.monotonic(), {}, {}
    texts = [pair.story(3000 + i, (5, 75)[i % 2]) for i in range(PROMPTS)]  # some 65 and some 1,000 tokens
    for n in range(ROUNDS):
        for stack in STACKS if n % 2 == 0 else reversed(STACKS):
            try:
                turn(stack, texts, seen, tokens)
            except (RuntimeError, OSError, KeyError, IndexError, ValueError, http.client.HTTPException) as e:
                tap.ok(False, "%s, turn %d" % (stack, n), "%s: %s" % (type(e).__name__, e))
            with contextlib.suppress(OSError):
                for name in ("prefill", "decode"):
                    os.replace("%s/%s.log" % (pair.FOLDER, name), "%s/%s-%s.log" % (pair.FOLDER, stack, name))
    references = tokens.pop("references", [])
    for (stack, way), answers in sorted(tokens.items()):
        equal = sum(i < len(references) and ids == references[i] for i, ids in answers)
        least = {"kvwire-e8": 0}.get(stack, 1 if pair.DTYPE == "float32" else 0.8) * len(answers)
        tap.ok(equal >= least and len(answers) == PROMPTS * ROUNDS, "%s, %s: tokens equal to one vLLM alone, %s" % (stack, way, pair.DTYPE),
               "%d of %d" % (equal, len(answers)))
    write(seen)
    print("# %.0f s" % (time.monotonic() - begun))
    return tap.end()


if __name__ == "__main__":
    sys.exit(main())
