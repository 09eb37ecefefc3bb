#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Prefill and decode of llama.cpp in two processes: the state of a sequence crosses kvwire in between.

    python handoff.py MODEL.gguf                     # both processes here, one prompt, prints the answer
    python handoff.py MODEL.gguf --check PROMPTS     # a JSON list of prompts: equal to the unbroken run? exit 1 if not
    python handoff.py MODEL.gguf --prefill HOST:PORT # prefill alone, for a decode started elsewhere with
    python handoff.py MODEL.gguf --peer HOST:PORT    #   the address of that prefill

Decode writes the prompt's tokens into the prefill's memory, with a notification. Prefill evaluates them,
serialises the sequence (llama_state_seq_get_data) into its own memory, writes that into decode's memory and
notifies: the notification comes after the bytes. Decode restores the sequence and goes on; it never computes
the prompt. llama.cpp's state is opaque, so it travels as bytes, without a codec and not layer by layer: what
kvwire does for engines that describe their KV cache as a pool is more than this.

Needs llama-cpp-python, and kvwire (pip install, or KVWIRE_LIBRARY and PYTHONPATH from the tree).
"""
import argparse
import array
import ctypes
import json
import subprocess
import sys

import kvwire
import llama_cpp

CONTEXT, ANSWER, INBOX, ROOM = 2048, 32, 64 << 10, 128 << 20


class Engine:
    """One sequence of a llama.cpp context, greedy."""

    def __init__(self, path):
        self.llama = llama_cpp.Llama(path, n_ctx=CONTEXT, n_batch=CONTEXT, n_threads=1, n_threads_batch=1, verbose=False)
        self.at = self.llama._ctx.ctx

    def tokens(self, text):
        return self.llama.tokenize(text.encode(), add_bos=False, special=False)

    def evaluate(self, tokens):
        """Returns the token that comes next."""
        self.llama.eval(tokens)
        logits = llama_cpp.llama_get_logits_ith(self.at, -1)
        return max(range(self.llama.n_vocab()), key=lambda i: logits[i])

    def clear(self):
        self.llama.reset()
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.at), True)

    def go_on(self, token, count):
        out = [token]
        while len(out) < count:
            out.append(self.evaluate([out[-1]]))
        return out

    def save(self, memory):
        """The sequence's state into memory, from its start; returns its bytes."""
        size = llama_cpp.llama_state_seq_get_size(self.at, 0)
        if size > len(memory):
            raise SystemExit("the state of %d bytes is larger than the region's %d" % (size, len(memory)))
        into = (ctypes.c_uint8 * len(memory)).from_buffer(memory)
        return llama_cpp.llama_state_seq_get_data(self.at, into, len(memory), 0)

    def restore(self, memory, size, tokens):
        """Takes a sequence of that many tokens from memory's first size bytes."""
        self.clear()
        source = (ctypes.c_uint8 * len(memory)).from_buffer(memory)
        if llama_cpp.llama_state_seq_set_data(self.at, source, size, 0) == 0:
            raise SystemExit("llama.cpp doesn't take the state of %d bytes" % size)
        self.llama.n_tokens = tokens


class Side:
    """A node with two regions: an inbox that the peer writes to, and the state that leaves."""

    def __init__(self, name, local, inbox_bytes):
        self.node = kvwire.Node(name, local=local, listen=True)
        self.inbox, self.outbox = bytearray(inbox_bytes), bytearray(ROOM)
        self.node.add_region(self.inbox, read=False)
        self.out = self.node.add_region(self.outbox, read=False, write=False)

    def note(self, seconds):
        """The next notification: its peer and what it says."""
        for event in self.node.events(seconds):
            if event.kind == kvwire.EventKind.NOTIFY:
                return kvwire.Peer(self.node, event.peer), json.loads(event.note)
            if event.kind == kvwire.EventKind.PEER_LOST:
                raise SystemExit("the peer is lost: %s" % event.error)
        return None, None

    def write(self, peer, size, note):
        """The outbox's first bytes into the peer's inbox, then the note."""
        [(address, room, _, may_write)] = peer.regions()
        if size > room or not may_write:
            raise SystemExit("%d bytes don't fit the peer's inbox of %d" % (size, room))
        with self.node.batch("write", peer, ([self.out.memory.address], [address], [size])) as batch:
            batch.post(json.dumps(note).encode())
            batch.wait()


def prefill(path, local):
    engine, side = Engine(path), Side("prefill", local, INBOX)
    print("ready", flush=True)
    while True:
        peer, want = side.note(None)
        prompt = memoryview(side.inbox).cast("I")[:want["tokens"]].tolist()
        engine.clear()
        first = engine.evaluate(prompt)
        side.write(peer, size := engine.save(side.outbox), {"id": want["id"], "bytes": size, "first": first})


class Decode:
    def __init__(self, path, peer):
        self.engine, self.side = Engine(path), Side("decode", "127.0.0.1:0", ROOM)
        self.peer = self.side.node.add_peer(peer)
        self.peer.wait_up(60)
        while True:  # the peer tells its regions once it is up
            try:
                self.peer.regions()
                break
            except kvwire.AgainError:
                self.side.node.wait(1)

    def ask(self, number, prompt, first=None):
        """The answer's tokens, and the bytes of the state. first: begin with this token instead of prefill's."""
        self.side.outbox[:4 * len(prompt)] = array.array("I", prompt).tobytes()
        self.side.write(self.peer, 4 * len(prompt), {"id": number, "tokens": len(prompt)})
        _, told = self.side.note(120)
        if told is None or told["id"] != number:
            raise SystemExit("no answer from prefill within 120 s")
        self.engine.restore(self.side.inbox, told["bytes"], len(prompt))
        return self.engine.go_on(told["first"] if first is None else first, ANSWER), told["bytes"]


def unbroken(engine, prompt):
    engine.clear()
    return engine.go_on(engine.evaluate(prompt), ANSWER)


def check(decode, prompts):
    """Prints TAP. The control lets decode restore the state of another prompt of the same length."""
    bad = number = 0
    for number, text in enumerate(prompts):
        prompt = decode.engine.tokens(text)
        answer, size = decode.ask(number, prompt)
        same = answer == unbroken(decode.engine, prompt)
        bad += not same
        print("%s %d - a prompt of %d tokens goes on as if unbroken, %d bytes of state" % (
            "ok" if same else "not ok", number + 1, len(prompt), size), flush=True)
    prompt = decode.engine.tokens(prompts[-1])

    want = unbroken(decode.engine, prompt)
    answer, _ = decode.ask(number + 1, prompt[::-1], want[0])
    seen = answer != want
    print("%s %d - the state of another prompt of the same length gives another answer (control)\n1..%d" % (
        "ok" if seen else "not ok", number + 2, number + 2))
    return 1 if bad or not seen else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--prefill", metavar="HOST:PORT")
    parser.add_argument("--peer", metavar="HOST:PORT")
    parser.add_argument("--check", metavar="PROMPTS")
    parser.add_argument("--prompt", default="The capital of France is")
    args = parser.parse_args()
    if args.prefill:
        return prefill(args.model, args.prefill)
    child, peer = None, args.peer
    if peer is None:
        peer = "127.0.0.1:7460"
        child = subprocess.Popen([sys.executable, __file__, args.model, "--prefill", peer], stdout=subprocess.PIPE)
        child.stdout.readline()
    try:
        decode = Decode(args.model, peer)
        if args.check:
            with open(args.check, encoding="utf-8") as f:
                return check(decode, [p["text"] if isinstance(p, dict) else p for p in json.load(f)])
        answer, size = decode.ask(0, decode.engine.tokens(args.prompt))
        print("%s%s\n(%d bytes of state)" % (args.prompt, decode.engine.llama.detokenize(answer).decode(errors="replace"), size))
        return 0
    finally:
        if child is not None:
            child.kill()
            child.wait()


if __name__ == "__main__":
    sys.exit(main())
