# SPDX-License-Identifier: Apache-2.0
"""What the end-to-end tests share: TAP output, starting workers, talking to them as a router does."""
import ctypes
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
BUILD = os.environ.get("KVW_BUILD", os.path.join(ROOT, "build"))
KVSERVE = os.path.join(BUILD, "engine", "kvserve")
CACHE = os.path.join(os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache")), "kvwire")
MODEL = os.environ.get("KVE_MODEL", os.path.join(CACHE, "SmolLM2-135M-Instruct.Q4_1.gguf"))

_results = []


def check(ok, name, detail=""):
    """One TAP line; returns ok."""
    _results.append(bool(ok))
    print("%s %d - %s%s" % ("ok" if ok else "not ok", len(_results), name, ": " + detail if detail else ""), flush=True)
    return ok


def finish():
    print("1..%d" % len(_results))
    sys.exit(0 if _results and all(_results) else 1)


def nets():
    """The transports of this build, without none."""
    out = subprocess.run([KVSERVE, "run", "--model", "x", "--prompt", "x", "--net", "?"], capture_output=True, text=True).stderr
    names = out.split("this build has", 1)[1].replace(" ", "").strip().split(",")
    here = os.path.isdir("/sys/class/infiniband") and os.listdir("/sys/class/infiniband")
    return [n for n in names if n != "none" and (n != "verbs" or here)]  # without a device: in the guest


def codecs():
    """The codecs of this build, by name."""
    out = subprocess.run([KVSERVE, "run", "--model", "x", "--prompt", "x", "--codec", "?"], capture_output=True, text=True).stderr
    return [c for c in out.split("this build has", 1)[1].replace(" ", "").strip().split(",") if c != "auto"]


def run(args, timeout=600, **kw):
    """kvserve ARGS; CompletedProcess with text output. A hang is a failure of its own."""
    return subprocess.run([KVSERVE] + args, capture_output=True, text=True, timeout=timeout, **kw)


def text_tokens(n):
    """The first n tokens of a fixed text: this project's own documents, repeated as needed."""
    docs = [os.path.join(ROOT, p) for p in ("tests/e2e/text.txt",)]
    text = "".join(open(p, encoding="utf-8").read() for p in docs)
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as f:
        f.write(text)
        f.flush()
        out = run(["tokenize", "--model", MODEL, "--raw", "--prompt-file", f.name])
    if out.returncode != 0:
        raise RuntimeError(out.stderr)
    ids = json.loads(out.stdout)
    while len(ids) < n:
        ids = ids + ids
    return ids[:n]


def die_with_parent():
    """A test that fails leaves no process behind."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


class Worker:
    """A kvserve prefill or decode process with its control channel."""

    def __init__(self, role, net, link, folder, peer=None, model=MODEL, extra=(), via=()):
        self.role, self.sock_path = role, os.path.join(folder, role + ".ctl")
        args = list(via) + [KVSERVE, role, "--model", model, "--net", net, "--control", self.sock_path, "--quiet", "--threads", "1"]
        args += ["--link", link] + (["--peer", peer] if peer else []) + list(extra)
        self.err_path = os.path.join(folder, role + ".err")
        self.err = open(self.err_path, "ab")
        self.proc = subprocess.Popen(args, stderr=self.err, stdout=self.err, preexec_fn=die_with_parent)
        self.sock, self.buf, self.before = None, b"", []

    def connect(self, timeout=30):
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            if self.proc.poll() is not None:
                raise RuntimeError("%s ended: %s" % (self.role, self.stderr()))
            try:
                self.sock = socket.socket(socket.AF_UNIX)
                self.sock.connect(self.sock_path)
                return self
            except OSError:
                self.sock.close()
                time.sleep(0.02)
        raise RuntimeError("%s: no control socket" % self.role)

    def send(self, obj):
        self.sock.sendall((json.dumps(obj) + "\n").encode())

    def read(self, until):
        """The next event, or None at the time until or when the worker hung up."""
        while b"\n" not in self.buf:
            left = until - time.monotonic()
            if left <= 0:
                return None
            self.sock.settimeout(left)
            try:
                got = self.sock.recv(65536)
            except (socket.timeout, OSError):
                return None
            if not got:
                return None
            self.buf += got
        line, self.buf = self.buf.split(b"\n", 1)
        return json.loads(line)

    def mark(self):
        """Read what is there already; earlier() gives it back."""
        self.before = []
        while True:
            ev = self.read(time.monotonic() + 0.001)
            if ev is None:
                return
            self.before.append(ev)

    def earlier(self):
        return self.before

    def wait_ev(self, want, timeout):
        """Events until want(event); returns (event or None, all events)."""
        end, seen = time.monotonic() + timeout, []
        while True:
            ev = self.read(end)
            if ev is None:
                return None, seen
            seen.append(ev)
            if want(ev):
                return ev, seen

    def wait_up(self, timeout=30):
        ev, _ = self.wait_ev(lambda e: e["ev"] == "link" and e["state"] == "up", timeout)
        if ev is None:
            raise RuntimeError("%s: the link did not come up: %s" % (self.role, self.stderr()))
        return self

    def stderr(self):
        return open(self.err_path, errors="replace").read()

    def kill(self, sig=signal.SIGKILL):
        if self.proc.poll() is None:
            self.proc.send_signal(sig)
        self.proc.wait(20)
        if self.sock:
            self.sock.close()
            self.sock = None


def request(tokens, max_tokens=8, rid=None, **kw):
    obj = {"op": "generate", "id": rid or random.randrange(1, 2**52), "tokens": tokens, "max_tokens": max_tokens,
           "temperature": 0, "top_p": 1, "seed": 0, "timeout_ms": 60000}
    obj.update(kw)
    return obj


def link_addresses(net, folder):
    """(decode's --link, prefill's --link, prefill's --peer)"""
    if net == "udp":
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        s.bind(("127.0.0.1", 0))
        addr = "127.0.0.1:%d" % s.getsockname()[1]
        s.close()
        return addr, "0.0.0.0:0", addr
    path = os.path.join(folder, "link.sock")
    return path, path, None


class Folder:
    """A private directory for sockets, short enough for sun_path."""

    def __enter__(self):
        self.path = tempfile.mkdtemp(prefix="kvs-", dir="/tmp")
        return self.path

    def __exit__(self, *_):
        shutil.rmtree(self.path, ignore_errors=True)
