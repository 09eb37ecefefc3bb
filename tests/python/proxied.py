# SPDX-License-Identifier: Apache-2.0
"""proxied.py: kvwire.proxy in front of servers that only write down what they are asked, in both modes; imported by
suite.py."""
import http.client
import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import time

PARAMS = {"do_remote_prefill": True, "do_remote_decode": False, "transfer_id": "of prefill", "remote_host": "h",
          "remote_port": 9, "remote_engine_id": "e"}


class Fake(http.server.ThreadingHTTPServer):
    """A vLLM as the proxy sees it."""

    daemon_threads = True

    def __init__(self):
        self.asked, self.status, self.patience, self.cut = [], 200, 0.0, 0
        self.does = "answer"  # or "leave" without one, "begin" one and stay, "models" that are none
        fake = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *args):
                pass

            def send(self, what):
                body = json.dumps(what).encode()
                self.send_response(fake.status)
                self.send_header("Content-Length", str(len(body)))
                try:
                    self.end_headers()
                    self.wfile.write(body)
                except OSError:
                    pass  # the proxy has gone: who refused was faster

            def do_GET(self):
                self.send({"data": [] if fake.does == "models" else [{"id": "the model"}]})

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                fake.asked.append(body)
                until = time.monotonic() + fake.patience
                while time.monotonic() < until:
                    self.connection.settimeout(0.05)
                    try:
                        if self.connection.recv(1, socket.MSG_PEEK) == b"":
                            fake.cut += 1
                            return
                    except TimeoutError:
                        pass
                if fake.does == "leave":
                    return
                if fake.does == "begin":
                    self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nbegun")
                    time.sleep(3)
                    return
                self.send({"choices": [{"text": "said"}], "kv_transfer_params": PARAMS})

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()
        self.url = "http://127.0.0.1:%d" % self.server_address[1]


class Proxy:
    def __init__(self, mode, p, d, port):
        self.port = port
        self.process = subprocess.Popen([sys.executable, "-m", "kvwire.proxy", "--prefill", p.url, "--decode", d.url, "--mode",
                                         mode, "--port", str(port)], stdout=subprocess.PIPE, text=True, env=dict(os.environ))
        assert mode in self.process.stdout.readline()

    def open(self, body):
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        c.request("POST", "/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
        return c

    def ask(self, body):
        r = self.open(body).getresponse()
        return r.status, json.loads(r.read())

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.process.kill()
        self.process.wait()


def raw(port, body):
    """All bytes of an answer, until the connection's end."""
    text = json.dumps(body).encode()
    with socket.create_connection(("127.0.0.1", port), timeout=20) as s:
        s.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text))
        got = b""
        while more := s.recv(65536):
            got += more
    return got


def check_ends(port, asked):
    """Who leaves is named to the client, at once, and nothing follows an answer that has begun."""
    for mode in ("concurrent", "serial"):
        for which in (0, 1):
            ends = Fake(), Fake()
            ends[which].does = "leave"
            with Proxy(mode, *ends, port()) as proxy:
                begun = time.monotonic()
                status, said = proxy.ask(asked)
                assert status == 502 and ends[which].url in said["error"]["message"], (mode, which, status, said)
                assert time.monotonic() - begun < 3
    p, d = Fake(), Fake()
    p.does = "models"
    with Proxy("concurrent", p, d, port()) as proxy:
        status, said = proxy.ask(asked)
        assert status == 502 and p.url in said["error"]["message"], (status, said)
    p, d = Fake(), Fake()
    with Proxy("concurrent", p, d, port()) as proxy:
        assert proxy.ask(asked)[0] == 200
        d.does, p.status, p.patience = "begin", 429, 0.5
        got = raw(proxy.port, asked)
        assert got.endswith(b"begun") and got.count(b"HTTP/1.1") == 1, got
    wrong = subprocess.run([sys.executable, "-m", "kvwire.proxy", "--prefill", p.url, "--decode", d.url, "--port", "70000"],
                           capture_output=True, text=True, timeout=20)
    assert wrong.returncode == 1 and wrong.stderr.startswith("kvwire.proxy: ") and "70000" in wrong.stderr, wrong.stderr


def check(port):
    asked = {"model": "m", "prompt": "x", "max_tokens": 40, "stream": False, "n": 1}
    p, d = Fake(), Fake()
    d.patience = 0.3  # as decode waits for prefill
    with Proxy("concurrent", p, d, port()) as proxy:
        assert proxy.ask(asked)[0] == 200
        hello, prefill, decode = p.asked[0], p.asked[1], d.asked[0]
        assert hello["kv_transfer_params"]["kvwire_hello"] and hello["model"] == "the model"
        assert prefill["max_tokens"] == 1 and prefill["kv_transfer_params"]["do_remote_decode"]
        theirs = decode["kv_transfer_params"]
        assert decode["max_tokens"] == 40 and theirs["do_remote_prefill"] and theirs["remote_port"] == 9
        assert theirs["transfer_id"] == prefill["kv_transfer_params"]["transfer_id"] != "of prefill"
        proxy.ask(asked)
        assert len(p.asked) == 3 and d.asked[1]["kv_transfer_params"]["transfer_id"] != theirs["transfer_id"]
        p.patience = d.patience = 5
        c = proxy.open(asked)
        time.sleep(0.3)
        c.sock.close()  # the client goes away: both are told
        until = time.monotonic() + 3
        while (p.cut, d.cut) != (1, 1) and time.monotonic() < until:
            time.sleep(0.02)
        assert (p.cut, d.cut) == (1, 1), (p.cut, d.cut)
        p.patience, p.status = 0, 429
        begun = time.monotonic()
        assert proxy.ask(asked)[0] == 429 and time.monotonic() - begun < 3  # and decode isn't waited for
        assert proxy.ask([])[0] == 400
    p, d = Fake(), Fake()
    with Proxy("serial", p, d, port()) as proxy:
        status, said = proxy.ask(asked)
        assert status == 200 and said["choices"][0]["text"] == "said"
        assert len(p.asked) == 1 and d.asked[0]["kv_transfer_params"] == PARAMS
        d.status = 500
        assert proxy.ask(asked)[0] == 500
    check_ends(port, asked)
