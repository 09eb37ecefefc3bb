# SPDX-License-Identifier: Apache-2.0
"""What kvperf.py, doctor.py and usage.py have in common: kvperf run, its server, its results validated."""
import json
import os
import socket
import subprocess

import schema

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
BUILD = os.environ.get("KVW_BUILD", os.path.join(ROOT, "build"))
KVPERF = os.path.join(BUILD, "perf", "kvperf", "kvperf")
SCHEMA = json.load(open(os.path.join(ROOT, "perf", "kvperf", "schema.json")))
SMALL = ["--model", "smollm2-135m", "--prefill-rate", "20000", "--tokens", "512"]
FAILED, USAGE, DATA, THRESHOLD, SERVER, INTERRUPTED = 1, 2, 3, 4, 5, 130


class Wrong(Exception):
    pass


class Skipped(Exception):
    pass


def expect(ok, what):
    if not ok:
        raise Wrong(what)


def run(*args, code=0, timeout=60, **how):
    p = subprocess.run([KVPERF] + list(args), capture_output=True, text=True, timeout=timeout, **how)
    expect(p.returncode == code, "%s: exit %d, not %d: %s" % (" ".join(args), p.returncode, code, p.stderr[-500:]))
    return p


def one_sentence(p, *words):
    lines = p.stderr.strip().splitlines()
    expect(len(lines) == 1 and lines[0].startswith("kvperf: "), "not one sentence: %r" % p.stderr[-500:])
    expect(all(w in lines[0] for w in words), "%r lacks one of %s" % (lines[0], words))


def valid(text, kind=None):
    result = json.loads(text)
    found = list(schema.faults(result, SCHEMA["$defs"][kind] if kind else SCHEMA, SCHEMA))
    expect(not found, "\n".join(found[:5]))
    return result


def rows(result, name="streamed"):
    return [r for r in result["rows"] if r["name"] == name]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Server:
    """kvperf server on a port of its own."""

    def __init__(self, *args):
        self.port = free_port() % 30000 + 20000
        self.p = subprocess.Popen([KVPERF, "server", "-p", str(self.port), "-B", "127.0.0.1"] + list(args),
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def __enter__(self):
        expect("kvperf kv 127.0.0.1 -p %d" % self.port in "".join(self.p.stdout.readline() for _ in range(3)), "no client line")
        return self

    def __exit__(self, *_):
        self.p.kill()
        self.p.wait()
        self.p.stdout.close()
        self.p.stderr.close()

    def kv(self, *args, **how):
        return run("kv", "127.0.0.1", "-p", str(self.port), *args, **how)

    def start(self, *args):
        return subprocess.Popen([KVPERF, "kv", "127.0.0.1", "-p", str(self.port)] + list(args), stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True)


def ended(p, code, within):
    try:
        out, err = p.communicate(timeout=within)
    except subprocess.TimeoutExpired:
        p.kill()
        p.communicate()
        raise Wrong("it still ran after %g s" % within)
    expect(p.returncode == code, "exit %d, not %d: %s" % (p.returncode, code, err[-500:]))
    return subprocess.CompletedProcess(p.args, code, out, err)
