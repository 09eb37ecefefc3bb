#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What kvserve writes arrives or is an error: full disks, readers that stand still or leave, standard descriptors that
aren't there, signals, batches with bad lines. Nothing stays behind in the temporary folder."""
import glob
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time

import kvs

RUN = ["run", "--model", kvs.MODEL, "--prompt", "Tell a long story.", "--no-compare"]
LONG = ["--ignore-end", "--max-tokens", "700"]


def shell(text, timeout=120, **kw):
    """A command line of sh with $k as kvserve run and $m as the model."""
    env = dict(os.environ, k=kvs.KVSERVE, m=kvs.MODEL)
    return subprocess.run(["sh", "-c", text], capture_output=True, text=True, timeout=timeout, env=env, **kw)


def one_sentence(out, code, *words):
    lines = [line for line in out.stderr.splitlines() if line.strip()]
    return out.returncode == code and len(lines) == 1 and all(w in lines[0] for w in words)


def told(out):
    return "exit %d: %s" % (out.returncode, " | ".join(out.stderr.splitlines())[:200])


def full_disks(folder):
    batch = os.path.join(folder, "one.jsonl")
    with open(batch, "w") as f:
        f.write('{"prompt": "Hi", "max_tokens": 2}\n')
    run = '"$k" run --model "$m" --net none --no-compare '
    for name, command in (("text", run + "--prompt Hi --max-tokens 2"), ("--json", run + "--prompt Hi --max-tokens 2 --json"),
                          ("--batch", run + "--batch " + batch), ("--batch --json", run + "--json --batch " + batch),
                          ("tokenize", '"$k" tokenize --model "$m" --prompt Hi'), ("--help", '"$k" --help'), ("run --help", '"$k" run --help'),
                          ("--version", '"$k" --version')):
        out = shell(command + " > /dev/full")
        kvs.check(one_sentence(out, 1, "standard output", "No space left"), "a full disk, " + name, told(out))


def closed(folder):
    run = '"$k" run --model "$m" --prompt Hi --max-tokens 4 --no-compare --json --net '
    want = json.loads(shell(run + "none").stdout)["text"]
    for net in ["none"] + [n for n in kvs.nets() if n in ("udp", "dpdk")]:
        for redirect, fails in (("<&-", False), ("2>&-", False), ("<&- 2>&-", False), (">&-", True), (">&- <&-", True), (">&- 2>&-", True),
                                ("<&- >&- 2>&-", True)):
            out = shell("exec %s%s %s" % (run, net, redirect))
            try:
                text = json.loads(out.stdout)["text"]
            except ValueError:
                text = None
            if fails:
                quiet = "2>&-" in redirect
                ok = not out.stdout and (out.returncode == 1 and not out.stderr if quiet else one_sentence(out, 1, "standard output"))
            else:
                ok = out.returncode == 0 and text == want
            kvs.check(ok, "without standard descriptors: %s, %s" % (redirect, net), told(out))
    out = shell('exec "$k" run --model "$m" --net none --batch - <&-')
    kvs.check(one_sentence(out, 1, "Bad file descriptor"), "a batch from a standard input that isn't there", told(out))
    out = shell('"$k" tokenize --model "$m" --prompt Hi 1< /dev/null')
    kvs.check(one_sentence(out, 1, "standard output"), "standard output that is open for reading", told(out))


def processes(parent):
    """PIDs of a process's children."""
    found = []
    for path in glob.glob("/proc/[0-9]*/stat"):
        try:
            with open(path) as f:
                fields = f.read().rsplit(")", 1)[1].split()
            if int(fields[1]) == parent:
                found.append(int(path.split("/")[2]))
        except (OSError, IndexError):
            pass
    return found


def cpu_s(pids):
    total = 0
    for pid in pids:
        try:
            with open("/proc/%d/stat" % pid) as f:
                fields = f.read().rsplit(")", 1)[1].split()
            total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        except OSError:
            pass
    return total


def leaves(net, json_out):
    """A reader that takes 20 bytes and goes. The answer would take at least a second of CPU after that."""
    args = RUN + LONG + ["--net", net] + (["--json"] if json_out else [])
    p = subprocess.Popen([kvs.KVSERVE] + args, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if json_out:
        time.sleep(1.5)
    else:
        os.read(p.stdout.fileno(), 20)
    p.stdout.close()
    t0 = time.monotonic()
    err = p.stderr.read().decode()
    code = p.wait(60)
    ok = code == 1 and "reader has left" in err and len(err.splitlines()) == 1
    kvs.check(ok, "a reader that leaves ends the work, %s%s" % (net, ", --json" if json_out else ""),
              "%.2f s later, exit %d: %s" % (time.monotonic() - t0, code, err.strip()[:160]))


def stands_still(net):
    """A reader that takes nothing for 4 s, though far more than a pipe holds is written: no byte is lost. The pipe is as
    small as they come, so that it's the answer itself that waits."""
    import fcntl
    want = json.loads(kvs.run(RUN + LONG + ["--net", net, "--json"]).stdout)["text"]
    r, w = os.pipe()
    fcntl.fcntl(w, 1031, 4096)  # F_SETPIPE_SZ
    p = subprocess.Popen([kvs.KVSERVE] + RUN + LONG + ["--net", net], stdout=w, stderr=subprocess.PIPE)
    os.close(w)
    first = os.read(r, 1)
    time.sleep(4)
    got = first
    while True:
        part = os.read(r, 65536)
        if not part:
            break
        got += part
        time.sleep(0.05)
    os.close(r)
    err = p.stderr.read().decode()
    code = p.wait(60)
    text = got.decode(errors="replace")
    kvs.check(code == 0 and text.startswith(want) and "\nprompt " in text, "a reader that stands still for 4 s loses nothing, " + net,
              "exit %d, %d bytes: %s" % (code, len(got), err[:160]))


def router_stands_still(net):
    """The same between a worker and a router of its own making: 280 unread tokens and 4 s."""
    ids = kvs.text_tokens(20)
    with kvs.Folder() as folder:
        d, p, peer = kvs.link_addresses(net, folder)
        decode = kvs.Worker("decode", net, d, folder).connect()
        prefill = kvs.Worker("prefill", net, p, folder, peer=peer).connect()
        prefill.wait_up()
        decode.wait_up()
        q = kvs.request(ids, max_tokens=900, ignore_end=True)
        for w in (decode, prefill):
            w.send(q)
        decode.wait_ev(lambda e: e["ev"] == "token", 60)
        time.sleep(5)
        end, events = decode.wait_ev(lambda e: e["ev"] == "finished", 150)
        tokens = sum(e["ev"] == "token" for e in events)
        kvs.check(end is not None and end["err"] == 0 and tokens == 899, "a router that stands still for 5 s loses nothing, " + net,
                  "%d more tokens, %s" % (tokens, str(end)[:120]))
        q = kvs.request(ids, max_tokens=900, ignore_end=True, timeout_ms=2500)
        for w in (decode, prefill):
            w.send(q)
        time.sleep(5)
        try:
            end, events = decode.wait_ev(lambda e: e["ev"] == "finished" and e["err"] == 0, 5)
            whole = True
        except ValueError:  # half a line, and another one behind it
            end, events, whole = None, [], False
        kvs.check(whole and end is None, "one that stands still for longer than its request has: whole lines, then the end", str(end)[:100])
        decode.sock.close()
        decode.buf = b""
        decode.connect()
        q = kvs.request(ids, max_tokens=4)
        for w in (decode, prefill):
            w.send(q)
        end, _ = decode.wait_ev(lambda e: e["ev"] == "finished", 60)
        kvs.check(end is not None and end["err"] == 0, "and the next router is served", str(end)[:100])
        for w in (decode, prefill):
            w.kill()


def fresh():
    """In a child: no core files, and no signal ignored because whoever runs the tests ignores it (nohup, a job of sh)."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for name in ("HUP", "INT", "QUIT", "TERM"):
        signal.signal(getattr(signal, "SIG" + name), signal.SIG_DFL)


def signals(net):
    """Each signal that ends a process, at a moment when there is a folder."""
    names = ["HUP", "INT", "QUIT", "TERM", "USR1", "USR2", "ALRM", "VTALRM", "PROF", "IO", "PWR", "STKFLT", "XCPU", "SEGV", "BUS",
             "FPE", "ILL", "ABRT", "TRAP", "SYS", "RTMIN", "RTMAX", "PIPE", "XFSZ"]
    wrong = []
    with tempfile.TemporaryDirectory(prefix="kvt-", dir="/tmp") as folder:
        env = dict(os.environ, XDG_RUNTIME_DIR=folder)
        first = kvs.run(RUN[:-1] + ["--net", net, "--max-tokens", "1"], env=env)
        kvs.check(first.returncode == 0 and not os.listdir(folder), "a run leaves nothing there", told(first))
        for name in names:
            sig = getattr(signal, "SIG" + name)
            p = subprocess.Popen([kvs.KVSERVE] + RUN + LONG + ["--net", net, "--threads", "1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                 env=env, cwd=folder, preexec_fn=fresh)
            os.read(p.stdout.fileno(), 1)  # the answer has begun: both workers are there
            there = bool(os.listdir(folder))
            workers = processes(p.pid)
            p.send_signal(sig)
            if name in ("PIPE", "XFSZ"):  # mean nothing to it; it goes on
                time.sleep(0.3)
                went_on = p.poll() is None
                p.send_signal(signal.SIGTERM)
            p.stdout.read()
            p.stderr.read()
            code = p.wait(60)
            left = os.listdir(folder)
            time.sleep(0.05)
            alive = [w for w in workers if os.path.exists("/proc/%d" % w) and w in processes(p.pid)]
            crash = name in ("XCPU", "SEGV", "BUS", "FPE", "ILL", "ABRT", "TRAP", "SYS")
            want = -sig if crash else 128 + (signal.SIGTERM if name in ("PIPE", "XFSZ") else sig)
            if left or alive or code != want or not there or (name in ("PIPE", "XFSZ") and not went_on):
                wrong.append((name, code, left, alive, there))
                for path in left:
                    subprocess.run(["rm", "-rf", os.path.join(folder, path)])
    kvs.check(not wrong, "no signal leaves anything in the temporary folder, " + net, "%d signals; wrong: %s" % (len(names), wrong))
    out = shell('trap "" HUP; "$k" run --model "$m" --net none --prompt Hi --max-tokens 300 --ignore-end --no-compare --json & p=$!; sleep 0.7;'
                ' kill -HUP $p; wait $p')
    kvs.check(out.returncode == 0, "a signal that was ignored at start (nohup) still is", told(out))


def names():
    """ps and top show what a process is."""
    p = subprocess.Popen([kvs.KVSERVE] + RUN + LONG + ["--net", "udp"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    os.read(p.stdout.fileno(), 1)
    comms = sorted(open("/proc/%d/comm" % w).read().strip() for w in processes(p.pid))
    p.send_signal(signal.SIGTERM)
    p.stdout.read()
    p.wait(30)
    kvs.check(comms == ["kvserve-decode", "kvserve-prefill"], "workers show as what they are", str(comms))


def batches(folder):
    path = os.path.join(folder, "b.jsonl")
    lines = ['{"prompt": "Hi", "max_tokens": "3"}', '{"prompt": "Hi", "max_tokens": 3, "temperature": 2, "seed": 1, "ignore_end": true}',
             '{"prompt": "Hi", "max_tokens": 3, "temperature": 2, "seed": 2, "ignore_end": true}', '{"prompt": "a\\u0000b"}', '{"prompt": "Hi"', "",
             '{"prompt": "Hi", "max_tokens": 3, "temperature": 2, "seed": 1, "ignore_end": true}', '{"prompt": "Hi", "stop": "x"}']
    with open(path, "w") as f:
        f.write("\n".join(lines))
    out = kvs.run(["run", "--model", kvs.MODEL, "--net", "udp", "--json", "--batch", path, "--no-compare"])
    got = [json.loads(line) for line in out.stdout.splitlines()]
    kvs.check([r["line"] for r in got] == [1, 2, 3, 4, 5, 7, 8] and out.returncode == 1, "every line of a batch has its place", told(out))
    errors = {r["line"]: r["error"] for r in got if "error" in r}
    words = {1: "max_tokens", 4: "NUL", 5: "JSON", 8: "stop"}
    kvs.check(set(errors) == set(words) and all(words[n] in errors[n] for n in words), "bad ones say what was wrong", str(errors))
    ids = {r["line"]: r["output_tokens"] for r in got if "error" not in r}
    kvs.check(ids.get(2) == ids.get(7) and ids.get(2) != ids.get(3) and all(len(i) == 3 for i in ids.values()), "a line's seed and length count", str(ids))
    out = kvs.run(["run", "--model", kvs.MODEL, "--net", "none", "--batch", path, "--no-compare"])
    lines = out.stderr.splitlines()
    kvs.check(out.returncode == 1 and len(lines) == 5 and all("line %d: " % n in lines[i] for i, n in enumerate(sorted(words))),
              "and without --json on standard error, with their numbers", " | ".join(lines)[:200])


def main():
    want = sys.argv[1:]
    with kvs.Folder() as folder:
        parts = {"full": lambda: full_disks(folder), "closed": lambda: closed(folder), "batch": lambda: batches(folder), "names": names,
                 "leaves": lambda: [leaves(n, j) for n in ["none"] + [x for x in kvs.nets() if x in ("udp", "dpdk")] for j in (False, True)],
                 "still": lambda: [stands_still("none"), stands_still("udp")], "router": lambda: router_stands_still("udp"),
                 "signals": lambda: signals("dpdk" if "dpdk" in kvs.nets() else "udp")}
        for name, part in parts.items():
            if not want or name in want:
                part()
    kvs.finish()


main()
