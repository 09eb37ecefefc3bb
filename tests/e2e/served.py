# SPDX-License-Identifier: Apache-2.0
"""What the tests over HTTP share: kvserve up on a free port, requests to it, and the answers of one process."""
import http.client
import json
import os
import re
import socket
import subprocess
import tempfile
import time

from kvs import KVSERVE, MODEL, die_with_parent, run

KEY = "a-key-for-the-test"
TEXT = open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "text.txt"), encoding="utf-8").read()
NET = os.environ.get("HTTP_NET", "loop")


class Server:
    """kvserve up with a key, on a free port."""

    def __init__(self, *extra, net=NET):
        self.key = tempfile.NamedTemporaryFile("w", suffix=".key")
        self.key.write(KEY + "\n")
        self.key.flush()
        self.err = tempfile.TemporaryFile()
        args = [KVSERVE, "up", "--model", MODEL, "--net", net, "--listen", "127.0.0.1:0", "--kv-tokens", "4096",
                "--api-key-file", self.key.name] + list(extra)
        self.proc = subprocess.Popen(args, stdout=subprocess.PIPE, stderr=self.err, text=True, preexec_fn=die_with_parent)
        line = self.proc.stdout.readline().strip()
        found = re.fullmatch(r"http://([0-9.]+):(\d+)", line)
        if not found:
            self.err.seek(0)
            raise RuntimeError("no URL: %r, %s" % (line, self.err.read().decode()))
        self.addr = found.group(1), int(found.group(2))

    def ask(self, method, path, body=None, key=KEY, headers=()):
        """(status, headers, body) of one request."""
        c = http.client.HTTPConnection(*self.addr, timeout=120)
        h = dict(headers)
        if key:
            h["Authorization"] = "Bearer " + key
        c.request(method, path, json.dumps(body) if isinstance(body, dict) else body, h)
        r = c.getresponse()
        out = r.status, dict(r.getheaders()), r.read()
        c.close()
        return out

    def post(self, path, body):
        status, _, out = self.ask("POST", path, body)
        return status, json.loads(out)

    def stream(self, path, body):
        """A socket on which a stream comes; its end is the connection's."""
        s = socket.create_connection(self.addr, timeout=120)
        text = json.dumps(dict(body, stream=True))
        s.sendall(("POST %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n\r\n%s"
                   % (path, KEY, len(text), text)).encode())
        return s

    def raw(self, data):
        """The first line of the reply to these bytes."""
        s = socket.create_connection(self.addr, timeout=120)
        got = b""
        try:
            s.sendall(data)
            while b"\r\n" not in got:
                more = s.recv(65536)
                if not more:
                    break
                got += more
        except OSError:
            pass
        s.close()
        return got.split(b"\r\n")[0].decode("latin-1")

    def metrics(self):
        text = self.ask("GET", "/metrics")[2].decode()
        return {k: float(v) for k, v in (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))}

    def idle(self, timeout=60):
        """All blocks are free and nothing runs or waits, soon; what is not so."""
        end = time.monotonic() + timeout
        while True:
            m = self.metrics()
            busy = {k: v for k, v in m.items() if k.startswith("vllm:num_requests_") and v != 0}
            for name in (k for k in m if k.startswith("kvserve_kv_blocks{") and 'state="free"' in k):
                free, whole = m[name], m[name.replace('state="free"', 'state="all"')]
                if free != whole or whole == 0:
                    busy[name] = (free, whole)
            if not busy or time.monotonic() > end:
                return busy
            time.sleep(0.05)


def events(data):
    """The objects of a stream's body and whether it came to its end."""
    lines = [line[6:] for line in data.decode().split("\n") if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"], lines[-1:] == ["[DONE]"]


def alone(lines, raw=True):
    """Texts that one process answers to these lines of a batch, greedy."""
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as f:
        for line in lines:
            f.write(json.dumps(line) + "\n")
        f.flush()
        out = run(["run", "--model", MODEL, "--net", "none", "--json", "--batch", f.name] + (["--raw"] if raw else []))
    return [json.loads(line)["text"] for line in out.stdout.splitlines()]


def reference(prompts, raw):
    """Answers of one process, greedy, 12 tokens."""
    return alone([{"prompt": p, "max_tokens": 12} for p in prompts], raw)


def completion(prompt, **kw):
    return dict({"prompt": prompt, "max_tokens": 12, "temperature": 0}, **kw)


def chat(text, **kw):
    return dict({"messages": [{"role": "user", "content": text}], "max_tokens": 12, "temperature": 0}, **kw)
