# SPDX-License-Identifier: Apache-2.0
"""python -m kvwire.proxy --prefill http://HOST:PORT --decode http://HOST:PORT [--mode concurrent|serial] [--port 8000]

One address for OpenAI clients in front of vLLM servers that run KvwireConnector. Several --prefill and --decode take
turns.

concurrent  a request goes to prefill and decode at once, under one transfer id: layers move while they are computed
serial      prefill first, then decode with prefill's answer, as routers for NixlConnector do

/v1/completions and /v1/chat/completions are split so; anything else goes to decode as it is. If prefill refuses a
request, its answer is what the client gets. No TLS, no authentication: for one's own network.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import sys
import uuid
from typing import Any
from urllib.parse import urlsplit

HEAD_MAX, BODY_MAX = 64 * 1024, 64 * 1024 * 1024
CONNECT_SECONDS, REQUEST_SECONDS = 10, 600
SPLIT = ("/v1/completions", "/v1/chat/completions")


class Refused(Exception):
    """An answer for the client: status and a sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status, self.sentence = status, sentence


async def read_head(reader: asyncio.StreamReader) -> tuple[str, dict[str, str]]:
    """(first line, headers in small letters)."""
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.decode("latin1").split("\r\n")
    pairs = [line.split(":", 1) for line in lines[1:] if ":" in line]
    return lines[0], {k.strip().lower(): v.strip() for k, v in pairs}


async def read_body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if headers.get("transfer-encoding", "").lower() == "chunked":
        body = b""
        while True:
            size = int((await reader.readline()).split(b";")[0] or b"0", 16)
            if len(body) + size > BODY_MAX:
                raise Refused(413, "the body is longer than %d bytes" % BODY_MAX)
            body += await reader.readexactly(size)
            await reader.readline()
            if size == 0:
                return body
    length = int(headers.get("content-length", "0"))
    if length > BODY_MAX:
        raise Refused(413, "the body is longer than %d bytes" % BODY_MAX)
    return await reader.readexactly(length)


class Answer:
    """What a client gets. Nothing follows an answer that has begun: it would be taken for a part of it."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.writer, self.begun = writer, False

    async def more(self, data: bytes) -> None:
        self.begun = True
        self.writer.write(data)
        await self.writer.drain()

    def refuse(self, status: int, sentence: str) -> None:
        if self.begun:
            return  # its end, too early, says so
        self.begun = True
        try:
            text = json.dumps(json.loads(sentence))
        except ValueError:
            text = json.dumps({"error": {"message": sentence, "code": status}})
        body = text.encode()
        self.writer.write(b"HTTP/1.1 %d kvwire\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
                          b"Connection: close\r\n\r\n" % (status, len(body)) + body)


class Server:
    """A vLLM server, by its URL."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname or parts.path not in ("", "/"):
            raise ValueError("%r is not like http://HOST:PORT" % url)
        self.host, self.port, self.url = parts.hostname, parts.port or 80, url
        self.address: dict[str, Any] | None = None  # of its kvwire node

    async def send(self, method: str, path: str, body: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        try:
            reader, writer = await asyncio.wait_for(asyncio.open_connection(self.host, self.port, limit=HEAD_MAX),
                                                    CONNECT_SECONDS)
        except asyncio.TimeoutError:
            raise Refused(504, "%s can't be reached within %d s" % (self.url, CONNECT_SECONDS)) from None
        except OSError as e:
            raise Refused(502, "%s: %s" % (self.url, e)) from None
        writer.write(("%s %s HTTP/1.1\r\nHost: %s:%d\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
                      "Connection: close\r\n\r\n" % (method, path, self.host, self.port, len(body))).encode() + body)
        await writer.drain()
        return reader, writer

    async def ask(self, method: str, path: str, body: Any = None) -> Any:
        """The JSON of a whole answer. Refused with its status and text if that isn't 200."""
        reader, writer = await self.send(method, path, b"" if body is None else json.dumps(body).encode())
        try:
            line, headers = await read_head(reader)
            text = await read_body(reader, headers)
            status = int(line.split(" ")[1])
            answer = json.loads(text) if status == 200 else None
        except (asyncio.IncompleteReadError, OSError):
            raise Refused(502, "%s left without an answer" % self.url) from None
        except (ValueError, IndexError, asyncio.LimitOverrunError) as e:
            raise Refused(502, "%s: its answer can't be read: %s" % (self.url, e)) from None
        finally:
            writer.close()
        if status != 200:
            raise Refused(status, text.decode("utf8", "replace")[:2000])
        return answer

    async def node(self) -> dict[str, Any]:
        """Where its kvwire node is: asked once, by a prompt of one token that nobody receives."""
        if self.address is None:
            models = await self.ask("GET", "/v1/models")
            try:
                model = models["data"][0]["id"]
            except (KeyError, IndexError, TypeError):
                raise Refused(502, "%s says that it has no model" % self.url) from None
            answer = await self.ask("POST", "/v1/completions", {
                "model": model, "prompt": "a", "max_tokens": 1,
                "kv_transfer_params": {"do_remote_decode": True, "kvwire_hello": True}})
            address = (answer.get("kv_transfer_params") if isinstance(answer, dict) else None) or {}
            if not address.get("remote_port"):
                raise Refused(502, "%s doesn't run KvwireConnector as a producer" % self.url)
            self.address = {k: address[k] for k in ("remote_host", "remote_port", "remote_engine_id", "tp_size") if k in address}
        return self.address


class Proxy:
    def __init__(self, prefill: list[Server], decode: list[Server], mode: str) -> None:
        self.prefill, self.decode, self.mode = itertools.cycle(prefill), itertools.cycle(decode), mode

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answer = Answer(writer)
        try:
            await asyncio.wait_for(self.request(reader, answer), REQUEST_SECONDS)
        except Refused as e:
            answer.refuse(e.status, e.sentence)
        except asyncio.TimeoutError:
            answer.refuse(504, "nothing came within %d s" % REQUEST_SECONDS)
        except asyncio.IncompleteReadError:
            pass  # the client went away before all of its request was here
        except (OSError, ValueError, asyncio.LimitOverrunError) as e:
            answer.refuse(502, str(e) or type(e).__name__)
        finally:
            writer.close()

    async def request(self, reader: asyncio.StreamReader, answer: Answer) -> None:
        line, headers = await read_head(reader)
        method, path = line.split(" ")[:2]
        body = await read_body(reader, headers)
        if method != "POST" or path not in SPLIT:
            await self.relay(next(self.decode), method, path, body, answer)
            return
        asked = json.loads(body)
        if not isinstance(asked, dict):
            raise Refused(400, "the body isn't a JSON object")
        handle = self.concurrent if self.mode == "concurrent" else self.serial
        work = asyncio.ensure_future(handle(path, asked, answer))
        gone = asyncio.ensure_future(reader.read(1))  # a client that goes away: both servers are told at once
        try:
            await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
            if work.done() or gone.exception() or gone.result() != b"":
                await work
        finally:
            for task in (work, gone):
                task.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)

    @staticmethod
    def first_token(asked: dict[str, Any], params: dict[str, Any]) -> dict[str, Any]:
        """What prefill is asked for: the prompt and one token that nobody reads."""
        p = {k: v for k, v in asked.items() if k not in ("stream_options", "max_completion_tokens", "min_tokens")}
        return dict(p, stream=False, max_tokens=1, n=1, kv_transfer_params=params)

    async def concurrent(self, path: str, asked: dict[str, Any], answer: Answer) -> None:
        p, d = next(self.prefill), next(self.decode)
        transfer = uuid.uuid4().hex
        address = await p.node()
        wanted = dict(address, transfer_id=transfer, do_remote_prefill=True, do_remote_decode=False)
        theirs = asyncio.ensure_future(self.to_decode(d, path, dict(asked, kv_transfer_params=wanted), answer))
        ours = asyncio.ensure_future(p.ask("POST", path, self.first_token(asked, {
            "do_remote_decode": True, "do_remote_prefill": False, "transfer_id": transfer})))
        try:
            await asyncio.wait((ours, theirs), return_when=asyncio.FIRST_COMPLETED)
            if ours.done() and ours.exception() is not None and not theirs.done():
                p.address = None  # it may come back at another address
                ours.result()
            await theirs
        finally:
            for task in (ours, theirs):
                if not task.done():
                    task.cancel()
            await asyncio.gather(ours, theirs, return_exceptions=True)

    async def serial(self, path: str, asked: dict[str, Any], answer: Answer) -> None:
        first = await next(self.prefill).ask("POST", path, self.first_token(asked, {
            "do_remote_decode": True, "do_remote_prefill": False, "remote_engine_id": None, "remote_block_ids": None,
            "remote_host": None, "remote_port": None}))
        params = first.get("kv_transfer_params") if isinstance(first, dict) else None
        if not params:
            raise Refused(502, "prefill's answer has no kv_transfer_params: it has no KV connector that sends")
        await self.to_decode(next(self.decode), path, dict(asked, kv_transfer_params=params), answer)

    async def to_decode(self, d: Server, path: str, body: dict[str, Any], answer: Answer) -> None:
        await self.relay(d, "POST", path, json.dumps(body).encode(), answer)

    @staticmethod
    async def relay(far: Server, method: str, path: str, body: bytes, answer: Answer) -> None:
        """The answer byte by byte; it says "Connection: close", so its end is the connection's."""
        reader, theirs = await far.send(method, path, body)
        try:
            while data := await reader.read(65536):
                await answer.more(data)
            if not answer.begun:
                raise Refused(502, "%s left without an answer" % far.url)
        finally:
            theirs.close()  # if it is cut short, vLLM aborts the request


async def run(args: argparse.Namespace) -> None:
    if not 0 <= args.port <= 65535:
        raise ValueError("--port %d is none of 0 to 65535" % args.port)
    proxy = Proxy([Server(u) for u in args.prefill], [Server(u) for u in args.decode], args.mode)
    server = await asyncio.start_server(proxy.serve, args.host, args.port, limit=HEAD_MAX)
    print("kvwire.proxy: http://%s:%d, %s" % (args.host, args.port, args.mode), flush=True)
    async with server:
        await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m kvwire.proxy", description=(__doc__ or "").split("\n\n")[1])
    parser.add_argument("--prefill", action="append", required=True, metavar="URL")
    parser.add_argument("--decode", action="append", required=True, metavar="URL")
    parser.add_argument("--mode", choices=("concurrent", "serial"), default="concurrent")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    try:
        asyncio.run(run(parser.parse_args()))
    except KeyboardInterrupt:
        pass
    except (OSError, ValueError) as e:
        sys.exit("kvwire.proxy: %s" % e)


if __name__ == "__main__":
    main()
