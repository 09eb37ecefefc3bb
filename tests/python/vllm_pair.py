#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""vllm_pair.py PYTHON MODEL FOLDER [PROMPTS [DTYPE]]: real vLLM servers on this CPU with KvwireConnector. Prints TAP, and
writes FOLDER/table.md.

Three servers: prefill, decode, and a second decode whose connector lets data land in other memory than vLLM's: the
control, with which tokens must come wrong. In front of them `python -m kvwire.proxy`, concurrent and serial.

What makes the comparison honest: decode's blocks hold other prompts' KV before; references are computed only after all
transfers; float32, in which a last token recomputed alone gives the same logits; digests of the blocks at both ends."""
import contextlib
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PYTHON, MODEL, FOLDER = sys.argv[1], os.path.abspath(sys.argv[2]), os.path.abspath(sys.argv[3])
COUNT = int(sys.argv[4]) if len(sys.argv) > 4 else 100
DTYPE = sys.argv[5] if len(sys.argv) > 5 else os.environ.get("KVW_VLLM_DTYPE", "float32")
ANSWER, WAIT, CHUNK, BLOCK, STAGE_MB = 12, 20.0, 512, 128, 160
KEEP = float(os.environ.get("KVW_VLLM_KEEP", "60"))  # staging() takes three long prompts' time between prefill's answer and the pull
WORDS = ("river stone lamp garden winter copper music paper window horse silver bread island letter morning shadow "
         "engine valley cloud needle").split()


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


PORTS = {name: free_port() for name in ("prefill", "decode", "control", "concurrent", "serial", "to_control", "node")}


def story(seed, sentences):
    r = random.Random(seed)
    w = r.choice
    return " ".join("The %s of %s number %d went to the %s." % (w(WORDS), w(WORDS), r.randint(100, 999), w(WORDS))
                    for _ in range(sentences)) + " " + w(["Therefore the", "After that, the", "In short, the"])


def prompts():
    """From one token to about 1,500; a sentence has about 13."""
    r = random.Random(5)
    lengths = [0, 1, 9, 10, 40, 60, 90, 110] + [int(r.triangular(1, 112, 15)) for _ in range(COUNT)]
    return ["Hello" if n == 0 else story(1000 + i, n) for i, n in enumerate(lengths[:COUNT])]


HOST = {}  # where a server is reached, if not on loopback


def at(name, path):
    return "http://%s:%d%s" % (HOST.get(name, "127.0.0.1"), PORTS[name], path)


class Servers:
    def __init__(self):
        self.running = {}

    def vllm(self, name, role, extra, policy="fail", more=(), ranks=1):
        """more: options of vLLM, which count before those here; ranks: tensor-parallel"""
        config = {"kv_connector": "KvwireConnector", "kv_connector_module_path": "kvwire.vllm", "kv_role": role,
                  "kv_load_failure_policy": policy,
                  "kv_connector_extra_config": dict(extra, kvwire_wait=WAIT, kvwire_log="%s/%s.jsonl" % (FOLDER, name))}
        env = dict(os.environ, VLLM_CPU_KVCACHE_SPACE="1", HF_HUB_OFFLINE="1", VLLM_NO_USAGE_STATS="1", DO_NOT_TRACK="1",
                   VLLM_HOST_IP="127.0.0.1", OMP_NUM_THREADS="1",
                   VLLM_CPU_OMP_THREADS_BIND="|".join(str((len(self.running) + n) % (os.cpu_count() or 1)) for n in range(ranks)))
        self.start(name, ["nice", "-n", os.environ.get("KVW_VLLM_NICE", "10"), PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--model", MODEL,
                          "--served-model-name", "m", "--host", "127.0.0.1", "--port", str(PORTS[name]), "--enforce-eager",
                          "--max-model-len", "2048", "--max-num-seqs", "4", "--max-num-batched-tokens", str(CHUNK),
                          "--no-enable-prefix-caching", "--dtype", DTYPE, "--kv-transfer-config", json.dumps(config),
                          "--tensor-parallel-size", str(ranks), *more], env)

    def start(self, name, command, env=None):
        with open("%s/%s.log" % (FOLDER, name), "w", encoding="utf8") as log:
            self.running[name] = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)

    def healthy(self, names, seconds=1500):
        until = time.monotonic() + seconds
        while names and time.monotonic() < until:
            for name in list(names):
                if self.running[name].poll() is not None:
                    raise RuntimeError("%s ended with %d; see %s/%s.log" % (name, self.running[name].returncode, FOLDER, name))
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(at(name, "/health"), timeout=2).close()
                    names.remove(name)
            time.sleep(1)
        if names:
            raise RuntimeError("not healthy within %d s: %s" % (seconds, names))

    def kill(self, name, how=signal.SIGKILL):
        with contextlib.suppress(OSError):
            os.killpg(self.running[name].pid, how)

    def close(self):
        for name, p in self.running.items():
            self.kill(name, signal.SIGTERM)
        until = time.monotonic() + 30
        for name, p in self.running.items():
            with contextlib.suppress(subprocess.TimeoutExpired):
                p.wait(max(0.1, until - time.monotonic()))
            self.kill(name)


def ask(where, prompt, tokens=ANSWER, timeout=600, **more):
    """(status, token ids or the error's text, seconds, the whole answer)"""
    begun = time.monotonic()
    body = dict(model="m", prompt=prompt, max_tokens=tokens, temperature=0, return_token_ids=True, ignore_eos=True, **more)
    request = urllib.request.Request(at(where, "/v1/completions"), json.dumps(body).encode(),
                                     {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=timeout) as f:
            answer = json.load(f)
        return 200, answer["choices"][0]["token_ids"], time.monotonic() - begun, answer
    except urllib.error.HTTPError as e:
        return e.code, e.read().decode()[:300], time.monotonic() - begun, {}


def usage(name):
    with urllib.request.urlopen(at(name, "/metrics"), timeout=20) as f:
        return [float(line.split()[-1]) for line in f.read().decode().splitlines()
                if line.startswith("vllm:kv_cache_usage_perc")][0]


def emptied(name, seconds):
    """Seconds until no block of that server is held, None: it takes longer."""
    begun = time.monotonic()
    while time.monotonic() - begun < seconds:
        if usage(name) == 0:
            return time.monotonic() - begun
        time.sleep(0.25)
    return None


def journal(name):
    with open("%s/%s.jsonl" % (FOLDER, name), encoding="utf8") as f:
        return [json.loads(line) for line in f if line.endswith("\n")]


class Tap:
    def __init__(self):
        self.n, self.bad, self.rows = 0, 0, []

    def ok(self, right, name, seen):
        self.n += 1
        self.bad += not right
        self.rows.append((name, seen, "yes" if right else "NO"))
        print("%sok %d - %s: %s" % ("" if right else "not ", self.n, name, seen), flush=True)

    def end(self):
        with open(FOLDER + "/table.md", "w", encoding="utf8") as f:
            f.write("| what | seen | as it must be |\n|---|---|---|\n")
            f.writelines("| %s | %s | %s |\n" % row for row in self.rows)
        print("1..%d" % self.n)
        return 1 if self.bad else 0


def digests(name, side):
    """{transfer: {head: digest of all layers}}; each tensor-parallel rank tells of its heads."""
    got = {}
    for r in journal(name):
        if r["what"] == "digest" and r["side"] == side:
            got.setdefault(r["key"], {}).update(r["digest"])
    return got


def overlap():
    """Of prompts of more than 300 tokens in concurrent mode: (layers that were in decode's blocks before the layer after
    the next one was computed, layers that could have been)."""
    tokens, pushed, ready, keys, committed, offered = {}, {}, {}, {}, {}, {}
    for r in journal("prefill"):
        if r["what"] == "stream":
            tokens[r["request"]], keys[r["request"]] = r["tokens"], r["key"]
        elif r["what"] == "commit":
            committed[keys[r["request"]]] = r["at"]
        elif r["what"] == "push" and r["tokens"] == tokens[r["request"]]:
            pushed.setdefault(keys[r["request"]], {}).setdefault(r["layer"], r["at"])
    of = {}
    for r in journal("decode"):
        if r["what"] == "offer":
            of[r["request"]] = r["key"]
            offered[r["key"]] = r["at"]
        elif r["what"] == "layer_ready":
            ready.setdefault(of[r["request"]], {})[r["layer"]] = r["event_at"]
    sizes = {keys[name]: n for name, n in tokens.items()}
    early = could = 0
    for key, layers in pushed.items():
        if sizes[key] < 300 or key not in ready or offered[key] > committed.get(key, 0):
            continue  # short, or serial: decode came when the prompt was computed
        for k in range(len(layers) - 2):
            could += 1
            early += ready[key].get(k, 1 << 62) < layers[k + 2]
    return early, could


def transfers(tap, texts):
    """All prompts, concurrent and serial by turns; answers by prompt."""
    got, seconds = [], {"concurrent": [], "serial": []}
    for i, text in enumerate(texts):
        how = ("concurrent", "serial")[i % 2]
        status, ids, took, _ = ask(how, text)
        got.append(ids if status == 200 else (status, ids))
        seconds[how].append(took)
    answered = sum(isinstance(g, list) for g in got)
    tap.ok(answered == len(texts), "requests answered, concurrent and serial by turns", "%d of %d" % (answered, len(texts)))
    for how, took in seconds.items():
        print("# %s: %.1f s a request on average" % (how, sum(took) / max(1, len(took))))
    return got


def compare(tap, texts, got, control):
    refs = [ask("decode", text)[1] for text in texts]
    equal = sum(a == b for a, b in zip(got, refs))
    tap.ok(equal == len(texts) if DTYPE == "float32" else equal >= 0.8 * len(texts),
           "tokens equal to one vLLM alone, %s" % DTYPE, "%d of %d" % (equal, len(texts)))
    c = digests("control", "decode")  # of transfers that ended well; others were recomputed
    same = sum(control[i] == refs[i] for i in control)
    tap.ok(len(c) == len(control) and same == 0, "control: with the copy off, tokens that are equal all the same",
           "%d of %d, %d transfers ended well" % (same, len(control), len(c)))
    p, d = digests("prefill", "prefill"), digests("decode", "decode")
    both = [k for k in d if k in p]
    right = sum(p[k] == d[k] for k in both)
    tap.ok(right == len(both) == len(d) >= len(texts), "digests of all layers' blocks, prefill and decode",
           "%d of %d equal" % (right, len(d)))
    tap.ok(c and not any(c[k] == p.get(k) for k in c), "control: digests that are equal all the same",
           "%d of %d" % (sum(c[k] == p.get(k) for k in c), len(c)))
    return refs


def not_prefilled(tap, received):
    """What decode's scheduler gave to the model of each received request in its first step."""
    names = {r["request"] for r in journal("decode") if r["what"] == "offer"}
    first = {r["request"]: r["tokens"] for r in journal("decode") if r["what"] == "scheduled"}
    most = max((first[n] for n in names if n in first), default=-1)
    tap.ok(0 < most < BLOCK and len(names) >= received, "prompt tokens that decode computed of a request, at most", most)


def wrong_references(tap, texts, refs):
    """Decode is driven with references that aren't good: never a 200 with other tokens."""
    node = dict(remote_host="127.0.0.1", remote_port=PORTS["node"], do_remote_prefill=True, do_remote_decode=False)
    status, said, took, _ = ask("decode", texts[2], kv_transfer_params=dict(node, transfer_id="nobody"))
    tap.ok(status >= 400, "an unknown transfer id", "HTTP %d after %.0f s" % (status, took))
    status, said, took, _ = ask("decode", texts[2], kv_transfer_params=dict(node, transfer_id="x", remote_port=free_port()))
    tap.ok(status >= 400, "a port that nobody listens on", "HTTP %d after %.0f s" % (status, took))
    status, said, took, _ = ask("decode", texts[2], kv_transfer_params={"do_remote_prefill": True})
    tap.ok(status >= 400, "no reference at all", "HTTP %d after %.1f s" % (status, took))
    decode = dict(do_remote_decode=True, do_remote_prefill=False)
    good = ask("prefill", texts[3], 1, kv_transfer_params=decode)[3]["kv_transfer_params"]
    status, ids, _, _ = ask("decode", texts[3], kv_transfer_params=dict(good, remote_block_ids=[[1 << 30]]))
    tap.ok(status == 200 and ids == refs[3], "block ids out of range beside a good reference: nobody looks at them",
           "HTTP %d, tokens %s" % (status, "right" if ids == refs[3] else "WRONG"))
    good = ask("prefill", texts[3], 1, kv_transfer_params=decode)[3]["kv_transfer_params"]
    first = ask("decode", texts[3], kv_transfer_params=good)[0]
    again = ask("decode", texts[3], kv_transfer_params=good)
    tap.ok(first == 200 and again[0] >= 400, "a reference that was consumed", "HTTP %d, then %d" % (first, again[0]))
    good = ask("prefill", texts[3], 1, kv_transfer_params=decode)[3]["kv_transfer_params"]
    other = ask("decode", texts[2], kv_transfer_params=good)
    tap.ok(other[0] >= 400, "a good reference with another prompt", "HTTP %d" % other[0])
    good = ask("prefill", texts[3], 1, kv_transfer_params=decode)[3]["kv_transfer_params"]
    time.sleep(KEEP + 1)
    freed = emptied("prefill", 10)
    late = ask("decode", texts[3], kv_transfer_params=good)
    tap.ok(late[0] >= 400 and freed is not None, "a reference whose time is over; prefill's blocks were free by then",
           "HTTP %d" % late[0])
    for name, value in (("a made-up reference to staged state", "ab" * 32), ("a reference that isn't one", "abc"),
                        ("a reference of another type", [1, 2])):
        good = ask("prefill", texts[3], 1, kv_transfer_params=decode)[3]["kv_transfer_params"]
        status, said, took, _ = ask("decode", texts[3], kv_transfer_params=dict(good, kvwire_staged=value))
        tap.ok(status >= 400, name, "HTTP %d after %.1f s" % (status, took))
    status, ids, took, _ = ask("control", texts[2], kv_transfer_params=dict(node, transfer_id="nobody"))
    tap.ok(status == 200 and ids == ask("decode", texts[2])[1], "an unknown id under the policy recompute: computed there",
           "HTTP %d after %.0f s, tokens right" % (status, took))


def staging(tap, texts, refs):
    """Serial mode: prefill's blocks are free before decode is told, other prompts overwrite them, and the answer is right all
    the same. Without room to stage, the blocks are held instead."""
    decode = dict(do_remote_decode=True, do_remote_prefill=False)
    order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))[:3]
    params = [ask("prefill", texts[i], 1, kv_transfer_params=decode)[3]["kv_transfer_params"] for i in order[:1]]
    begun, free = time.monotonic(), emptied("prefill", WAIT)
    for seed in (81, 82, 83):
        ask("prefill", story(seed, 100), 1)
    got = ask("decode", texts[order[0]], kv_transfer_params=params[0])
    tap.ok("kvwire_staged" in params[0] and free is not None and got[1] == refs[order[0]],
           "serial, staged: blocks free before decode was told, then overwritten; tokens right",
           "free %.1f s after prefill's answer, HTTP %d, decoded %.1f s after it" % (free if free is not None else -1, got[0],
                                                                                  time.monotonic() - begun))
    params = [ask("prefill", texts[i], 1, kv_transfer_params=decode)[3]["kv_transfer_params"] for i in order]
    held = usage("prefill")
    right = [ask("decode", texts[i], kv_transfer_params=p)[1] == refs[i] for i, p in zip(order, params)]
    staged = sum("kvwire_staged" in p for p in params)
    tap.ok(all(right) and (staged == len(order) or held > 0) and emptied("prefill", WAIT + 5) is not None,
           "three long prompts and %d MiB to stage in: the rest is held, tokens right" % STAGE_MB,
           "%d of %d staged, %d of %d right, cache use %.3f" % (staged, len(order), sum(right), len(order), held))


def aborts(tap, texts, refs):
    """Clients that go away: early, in the middle, late. Then every block is free, and the next request is right."""
    for i, after in enumerate((0.05, 0.1, 0.3, 1.0, 2.0, 0.6, 1.5, 3.0, 4.0, 0.2)):
        body = json.dumps(dict(model="m", prompt=story(7000 + i, 70), max_tokens=60, temperature=0)).encode()
        c = http.client.HTTPConnection("127.0.0.1", PORTS[("concurrent", "serial")[i % 2]], timeout=60)
        c.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
        time.sleep(after)
        c.sock.close()
    p, d = emptied("prefill", 60), emptied("decode", 60)
    status, ids, _, _ = ask("concurrent", texts[3])
    tap.ok(p is not None and d is not None and status == 200 and ids == refs[3], "10 clients gone: blocks free on both, next request right",
           "after %s s and %s s, HTTP %d" % ("%.1f" % p if p is not None else "?", "%.1f" % d if d is not None else "?", status))


def prefill_stops(tap, servers, texts, refs):
    """Prefill stands still in mid-prompt, so layers never come; then it goes on, and what it sends late is for blocks that are
    others' by then."""
    seen, lines = [], len(journal("prefill"))
    t = threading.Thread(target=lambda: seen.append(ask_quietly("concurrent", story(9001, 100))))
    t.start()
    until = time.monotonic() + 60
    while time.monotonic() < until and not any(r["what"] == "push" for r in journal("prefill")[lines:]):
        time.sleep(0.02)
    servers.kill("prefill", signal.SIGSTOP)
    t.join(120)
    servers.kill("prefill", signal.SIGCONT)
    order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))[:2]
    right = [ask("decode", texts[i])[1] == refs[i] for i in order]
    freed = emptied("prefill", 60)
    tap.ok(seen and seen[0] != 200 and all(right) and freed is not None,
           "prefill stands still: layers never come; it goes on late: decode's next answers are right",
           "the client saw %s, %d of %d right" % (seen, sum(right), len(right)))


def prefill_restarts(tap, servers, texts, refs):
    """Prefill is killed with state staged, and comes back under the same name and address."""
    decode = dict(do_remote_decode=True, do_remote_prefill=False)
    old = ask("prefill", texts[3], 1, kv_transfer_params=decode)[3]["kv_transfer_params"]
    servers.kill("prefill")
    servers.running["prefill"].wait(30)
    start_prefill(servers)
    servers.healthy(["prefill"])
    stale = ask("decode", texts[3], kv_transfer_params=old)
    new = ask("prefill", texts[3], 1, kv_transfer_params=decode)[3]["kv_transfer_params"]
    status, ids, _, _ = ask("decode", texts[3], kv_transfer_params=new)
    tap.ok(stale[0] >= 400 and status == 200 and ids == refs[3],
           "prefill killed and back under its address: a reference of its former life, then a new one",
           "HTTP %d after %.1f s, then %d" % (stale[0], stale[2], status))


def decode_dies(tap, servers, texts, refs):
    """kill -9 of decode in the middle of a transfer."""
    seen = []
    t = threading.Thread(target=lambda: seen.append(ask_quietly("concurrent", story(9999, 100))))
    lines = len(journal("decode"))
    t.start()
    until = time.monotonic() + 60
    while time.monotonic() < until and not any(r["what"] == "layer_ready" for r in journal("decode")[lines:]):
        time.sleep(0.02)
    servers.kill("decode")
    freed = emptied("prefill", 60)
    t.join(120)
    status, ids, _, _ = ask("prefill", texts[3])
    tap.ok(freed is not None and status == 200 and ids == refs[3] and seen and seen[0] != 200,
           "kill -9 of decode in mid-transfer: prefill's blocks free, next request right",
           "after %s s; the client saw %s" % ("%.1f" % freed if freed is not None else "?", seen))


def ask_quietly(where, prompt):
    try:
        return ask(where, prompt)[0]
    except (OSError, http.client.HTTPException, ValueError) as e:
        return type(e).__name__


def start_prefill(servers):
    servers.vllm("prefill", "kv_producer", {"kvwire_port": PORTS["node"], "kvwire_keep": KEEP, "kvwire_stage_mb": STAGE_MB})


def run(tap, servers):
    start_prefill(servers)
    servers.vllm("decode", "kv_consumer", {})
    servers.vllm("control", "kv_consumer", {"kvwire_scratch": True}, policy="recompute")
    begun = time.monotonic()
    servers.healthy(["prefill", "decode", "control"])
    print("# healthy after %.0f s" % (time.monotonic() - begun), flush=True)
    for name, mode, decode in (("concurrent", "concurrent", "decode"), ("serial", "serial", "decode"),
                               ("to_control", "concurrent", "control")):
        servers.start(name, [PYTHON, "-m", "kvwire.proxy", "--prefill", "http://127.0.0.1:%d" % PORTS["prefill"], "--decode",
                             "http://127.0.0.1:%d" % PORTS[decode], "--mode", mode, "--port", str(PORTS[name])])
    time.sleep(2)
    for where in ("decode", "control"):  # other KV in the blocks that will be used
        for seed in (77, 78):
            ask(where, story(seed, 90), 1)
    texts = prompts()
    got = transfers(tap, texts)
    control = {i: ask("to_control", texts[i])[1] for i in range(2, min(len(texts), 8))}
    not_prefilled(tap, len(texts))
    refs = compare(tap, texts, got, control)
    early, could = overlap()
    tap.ok(could > 0 and early > could / 2, "layers in decode's blocks before the layer after the next was computed",
           "%d of %d" % (early, could))
    staging(tap, texts, refs)
    wrong_references(tap, texts, refs)
    aborts(tap, texts, refs)
    prefill_stops(tap, servers, texts, refs)
    prefill_restarts(tap, servers, texts, refs)
    decode_dies(tap, servers, texts, refs)


def main():
    os.makedirs(FOLDER, exist_ok=True)
    for name in os.listdir(FOLDER):
        if name.endswith((".jsonl", ".log")):
            os.remove(os.path.join(FOLDER, name))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.path.join(ROOT, "kvwire", "python"),
                                                             os.environ.get("PYTHONPATH")]))
    tap, servers, begun = Tap(), Servers(), time.monotonic()
    try:
        run(tap, servers)
    except (RuntimeError, OSError, KeyError, http.client.HTTPException) as e:
        tap.ok(False, "the run", "%s: %s" % (type(e).__name__, e))
    finally:
        servers.close()
    print("# %.0f s" % (time.monotonic() - begun))
    return tap.end()


if __name__ == "__main__":
    sys.exit(main())
