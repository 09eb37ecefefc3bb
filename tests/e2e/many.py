#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""kvserve up with two prefills and two decodes over udp: every answer is that of one process, and every pair has its part; a
worker that is killed fails the answers that it was writing and nothing else, what nobody has seen any of begins again
elsewhere, no block stays away, and the worker comes back; what would break a promise is refused at once; a policy that isn't
there is a sentence with those that are.

A small model with random weights, made here. Times of workers don't matter: who must be in the middle of something is stopped
(SIGSTOP) there."""
import concurrent.futures
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
folder = tempfile.TemporaryDirectory(prefix="kvs-many-")
subprocess.run([sys.executable, os.path.join(HERE, "../engine/model/families.py"), folder.name, "llama"], check=True)
os.environ["KVE_MODEL"] = os.path.join(folder.name, "llama.gguf")
from kvs import check, finish, run, MODEL  # noqa: E402
from served import Server, alone, events  # noqa: E402

CONTEXT = 512
WORKERS = ["prefill-0", "prefill-1", "decode-0", "decode-1"]


def cases(count, rng, least=3, most=150, answer=24):
    """Bodies, and what one process answers to them; some prompts begin as others do."""
    shared = [4 + (i * 31) % 480 for i in range(70)]
    out = []
    for i in range(count):
        prompt = [4 + rng.randrange(480) for _ in range(rng.randrange(least, most))]
        out.append({"prompt": shared + prompt if i % 4 == 0 else prompt, "max_tokens": rng.randrange(1, answer), "temperature": 0})
    return list(zip(out, alone([{"tokens": c["prompt"], "max_tokens": c["max_tokens"]} for c in out])))


def said(s, body, stream):
    """The text of an answer, or what came in its place."""
    if not stream:
        status, out = s.post("/v1/completions", body)
        return out["choices"][0]["text"] if status == 200 else str((status, out))
    sock = s.stream("/v1/completions", body)
    return text_of(rest(sock))


def rest(sock, got=b""):
    """What is left of a reply in chunks, to its last one."""
    while not got.endswith(b"\r\n0\r\n\r\n"):
        more = sock.recv(65536)
        if not more:
            break
        got += more
    sock.close()
    return got


def text_of(data):
    """Of a stream that came to its end; else its last bytes."""
    pieces, done = events(data)
    return "".join(p["choices"][0]["text"] for p in pieces if p.get("choices")) if done else data[-200:].decode(errors="replace")


def wrong(s, asked):
    """Of (body, expected), eight at once: those that are answered otherwise."""
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda a: said(s, a[1][0], a[0] % 2 == 1), enumerate(asked)))
    return [(g, want) for g, (_, want) in zip(got, asked) if g != want]


def health(s):
    return {w["name"]: w for w in json.loads(s.ask("GET", "/health")[2])["workers"]}


def wait_for(what, timeout=60):
    end = time.monotonic() + timeout
    while not what() and time.monotonic() < end:
        time.sleep(0.02)
    return what()


def pids(s):
    """Worker to process: by what it was started as."""
    out = {}
    for pid in open("/proc/%d/task/%d/children" % (s.proc.pid, s.proc.pid)).read().split():
        args = open("/proc/%s/cmdline" % pid).read().split("\0")
        out[args[args.index("--name") + 1]] = int(pid)
    return out


def begin(*extra):
    return Server("--prefill", "2", "--decode", "2", "--threads", "1", "--kv-tokens", "2048", *extra, net="udp")


def pairs():
    rng = random.Random(1)
    asked = cases(40, rng)
    s = begin("--policy", "random")
    check(list(health(s)) == WORKERS and all(w["up"] for w in health(s).values()), "four workers are up", str(health(s)))
    check(len({want for _, want in asked}) > 30, "control: other prompts have other answers")
    bad = wrong(s, asked)
    check(not bad, "40 answers, eight at once, equal those of one process", str(bad[:2]))
    shifted = [(body, asked[i - 1][1]) for i, (body, _) in enumerate(asked)]
    check(len(wrong(s, shifted[:8])) > 5, "control: a wrong answer is seen")
    used = {k: v for k, v in s.metrics().items() if k.startswith("kvserve_pair_requests_total")}
    check(len(used) == 4 and all(v > 0 for v in used.values()) and sum(used.values()) == 48, "every pair has its part", str(used))
    check(s.idle() == {}, "and every block is free", str(s.idle()))
    s.proc.send_signal(signal.SIGTERM)
    check(s.proc.wait(60) == 0, "TERM: the exit status is 0")


def both_parts(s):
    """(requests that one worker did both parts of, all)."""
    used = {k: v for k, v in s.metrics().items() if k.startswith("kvserve_pair_requests_total")}
    return sum(v for k, v in used.items() if k.count("decode-") == 2), sum(used.values())


def at_home():
    """Short prompts one after the other: the first one's decode computes it itself, and so may those of the others, as they are
    estimated; long ones are sent."""
    asked, local = cases(16, random.Random(3), most=250), 48
    short = [a for a in asked if len(a[0]["prompt"]) <= local]
    s = begin("--local", str(local))
    bad = [(got, want) for body, want in short for got in [said(s, body, False)] if got != want]
    check(len(short) > 1 and not bad, "%d short prompts, one after the other: as one process" % len(short), str(bad[:2]))
    home, every = both_parts(s)
    check(1 <= home and every == len(short), "some were computed where their answers were written", str((home, every)))
    bad = wrong(s, asked)
    home, every = both_parts(s)
    check(not bad, "%d of all lengths, eight at once: as one process" % len(asked), str(bad[:2]))
    check(1 <= home <= 2 * len(short) and every == len(short) + len(asked), "what is longer was sent", str((home, every)))
    check(s.idle() == {}, "and every block is free", str(s.idle()))
    s.proc.kill()


def killed_decode(s, asked):
    """Two answers or more are being written on each decode when both are stopped, and one of them is killed."""
    bodies = [{"prompt": [4 + (i * 37 + k * 11) % 480 for k in range(20)], "max_tokens": CONTEXT - 30, "temperature": 0,
               "ignore_eos": True} for i in range(6)]
    want = alone([{"tokens": b["prompt"], "max_tokens": b["max_tokens"], "ignore_end": True} for b in bodies])
    at = pids(s)
    socks = [s.stream("/v1/completions", b) for b in bodies]
    begun = []
    for sock in socks:
        got = b""
        while b"data: " not in got:
            got += sock.recv(65536)
        begun.append(got)
    for name in ("decode-0", "decode-1"):
        os.kill(at[name], signal.SIGSTOP)
    had = {n: health(s)[n]["running"] for n in ("decode-0", "decode-1")}
    os.kill(at["decode-1"], signal.SIGKILL)
    os.kill(at["decode-0"], signal.SIGCONT)
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        got = [text_of(data) for data in pool.map(rest, socks, begun)]
    failed = [g for g, w in zip(got, want) if g != w]
    check(had["decode-0"] > 0 and had["decode-1"] > 0, "answers are being written on both decodes", str(had))
    check(len(failed) == had["decode-1"] and all("killed by signal 9" in f for f in failed),
          "kill -9 of a decode: its answers alone fail, in a sentence", str((had, failed[:2])))
    bad = wrong(s, asked[:8])
    check(not bad, "the others go on", str(bad[:2]))


def killed_prefill(s, asked):
    """A prefill is stopped, gets its part of the requests, and is killed."""
    at = pids(s)
    os.kill(at["prefill-0"], signal.SIGSTOP)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        got = pool.map(lambda a: said(s, a[0], False), asked[8:16])
        seen = wait_for(lambda: health(s)["prefill-0"]["running"] == 1)
        os.kill(at["prefill-0"], signal.SIGKILL)
        bad = [(g, w) for g, (_, w) in zip(got, asked[8:16]) if g != w]
    check(seen and not bad, "kill -9 of a prefill: what nobody has seen any of begins again, and is right", str(bad[:2]))
    check(restarted(s) >= 1, "and it was that prefill's", str(restarted(s)))
    check(not wrong(s, asked[16:24]), "the other one goes on")


def restarted(s):
    return next(v for k, v in s.metrics().items() if k.startswith("kvserve_requests_restarted_total"))


def killed():
    asked = cases(24, random.Random(2))
    s = begin("--local", "0")
    killed_decode(s, asked)
    back = wait_for(lambda: health(s)["decode-1"]["up"])
    check(back and health(s)["decode-1"]["lost"] == 1, "it comes back", str(health(s)["decode-1"]))
    killed_prefill(s, asked)
    check(wait_for(lambda: health(s)["prefill-0"]["up"]), "that one comes back, too", str(health(s)["prefill-0"]))
    check(not wrong(s, asked), "all of them answer as one process")
    check(s.idle() == {}, "and no block stays away", str(s.idle()))
    check(both_parts(s)[0] == 0, "control: without --local nothing is computed where it is decoded", str(both_parts(s)))
    s.proc.send_signal(signal.SIGTERM)
    check(s.proc.wait(60) == 0, "TERM: the exit status is 0")


def promised():
    s = begin("--ttft", "0.001")
    status, headers, out = s.ask("POST", "/v1/completions", {"prompt": list(range(4, 404)), "max_tokens": 2})
    check(status == 429 and int(headers.get("Retry-After", 0)) >= 1 and "would be late" in out.decode(),
          "what would be late is 429 at once, with Retry-After", str((status, headers.get("Retry-After"), out)))
    check(s.post("/v1/completions", {"prompt": [5, 6, 7], "max_tokens": 2})[0] == 200, "what wouldn't is served")
    s.proc.kill()


def names():
    out = run(["up", "--model", MODEL, "--policy", "fastest"])
    check(out.returncode == 2 and all(n in out.stderr for n in ("fastest", "finish, prefix, least-loaded", "round-robin")),
          "a policy that isn't there is a sentence with those that are", out.stderr)
    out = run(["up", "--model", MODEL, "--prefill", "2", "--net", "dpdk"])
    check(out.returncode == 2 and "--net udp" in out.stderr, "several workers over dpdk are a sentence", out.stderr)


def main():
    names()
    pairs()
    at_home()
    killed()
    promised()
    finish()


main()
