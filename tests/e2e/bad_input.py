#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Bad input ends in one clear sentence that names what was wrong, a non-zero exit, and nothing hung."""
import os
import random
import resource
import shutil
import socket
import struct
import time

import kvs

HELLO = ["--prompt", "Hello", "--max-tokens", "4", "--no-compare"]


def refused(name, args, words, timeout=60, code=1, within=None, **kw):
    """kvserve ARGS ends by itself, in time, with one line that has all of the words and this exit status: 2 for wrong usage, 1
    for what only trying shows. within: (least, most) seconds."""
    t0 = time.monotonic()
    try:
        out = kvs.run(args, timeout=timeout, **kw)
    except Exception as e:  # a hang
        kvs.check(False, name, str(e)[:200])
        return
    lines = [line for line in out.stderr.splitlines() if line.strip()]
    took = time.monotonic() - t0
    ok = out.returncode == code and len(lines) == 1 and all(w in lines[0] for w in words)
    ok = ok and (within is None or within[0] <= took <= within[1])
    kvs.check(ok, name, "%.1f s, exit %d (%d wanted): %s" % (took, out.returncode, code, " | ".join(lines)[:240]))


def hostile_files(folder):
    """(name, path, words the sentence must have)"""
    good = open(kvs.MODEL, "rb").read()
    head = bytearray(good[:64])

    def write(name, data):
        path = os.path.join(folder, name + ".gguf")
        with open(path, "wb") as f:
            f.write(data)
        return path

    yield "empty", write("empty", b""), ["empty.gguf", "is empty"]
    yield "truncated header", write("cut20", good[:20]), ["cut20.gguf", "metadata_kv_count takes 8 bytes"]
    yield "truncated metadata", write("cut100k", good[:100000]), ["cut100k.gguf", "tokenizer.ggml.tokens", "can't fit"]
    yield "truncated tensors", write("cuthalf", good[: len(good) // 2]), ["cuthalf.gguf", "tensor", "past the end"]
    yield "one byte short", write("cut1", good[:-1]), ["cut1.gguf", "tensor", "goes past"]
    yield "no GGUF at all", write("text", b"this is a text file, not a model\n" * 10), ["text.gguf", "magic"]
    yield "version 9", write("v9", good[:4] + struct.pack("<I", 9) + good[8:4096]), ["v9.gguf", "version", "9"]
    yield ("2^60 tensors", write("many", bytes(head[:8]) + struct.pack("<Q", 2**60) + good[16:4096]),
           ["many.gguf", "tensor_count %d can't fit" % 2**60])
    # No tensors, whose number would be refused before these are looked at.
    none = bytes(head[:8]) + struct.pack("<Q", 0)
    yield ("2^60 keys", write("keys", none + struct.pack("<Q", 2**60) + good[24:4096]),
           ["keys.gguf", "metadata_kv_count %d can't fit" % 2**60])
    yield ("a key of 2^50 bytes", write("long", none + bytes(head[16:24]) + struct.pack("<Q", 2**50) + good[32:4096]),
           ["long.gguf", "a key's name takes %d bytes" % 2**50])


def bit_flips(folder, count=40):
    """A flip in the first 2 MB may hit a name, a count, a token: either it runs or it ends in a sentence."""
    rng = random.Random(7)
    good = bytearray(open(kvs.MODEL, "rb").read())
    path = os.path.join(folder, "flip.gguf")
    bad, refusals = [], 0
    for i in range(count):
        at, bit = rng.randrange(2000 if i % 2 else 2000000), rng.randrange(8)
        with open(path, "wb") as f:
            good[at] ^= 1 << bit
            f.write(good)
            good[at] ^= 1 << bit
        out = kvs.run(["run", "--model", path, "--net", "none", "--prompt", "Hi", "--max-tokens", "2"], timeout=60)
        lines = [line for line in out.stderr.splitlines() if line.strip()]
        refusals += out.returncode == 1
        if not (out.returncode == 0 or (out.returncode == 1 and len(lines) == 1)):
            bad.append((at, bit, out.returncode, lines[:2]))
    kvs.check(not bad, "%d files with one flipped bit" % count, "%d refused, %d ran, wrong: %s" % (refusals, count - refusals, bad))


def files(folder):
    for name, path, words in hostile_files(folder):
        refused("GGUF: " + name, ["run", "--model", path, "--net", "none"] + HELLO, words)
    refused("GGUF: absent", ["run", "--model", os.path.join(folder, "absent.gguf")] + HELLO, ["absent.gguf", "No such file"])
    bit_flips(folder)


def wrong_model(folder):
    other = os.path.join(folder, "other.gguf")
    shutil.copy(kvs.MODEL, other)
    with open(other, "r+b") as f:  # still sound, but not the same weights
        f.seek(-1, 2)
        last = f.read(1)[0]
        f.seek(-1, 2)
        f.write(bytes([last ^ 1]))
    for net in kvs.nets():
        refused("another model on the decode side, " + net,
                ["run", "--model", kvs.MODEL, "--decode-model", other, "--net", net] + HELLO, ["fingerprint"])


def other_version(folder):
    """A kvserve built with the next protocol version talks to this one."""
    newer = os.path.join(kvs.BUILD, "tests", "e2e", "kvserve_next_version")
    if not kvs.check(os.path.exists(newer), "the build of the next protocol version is there", newer):
        return
    for net in [n for n in kvs.nets() if n != "loop"]:
        decode_link, prefill_link, peer = kvs.link_addresses(net, folder)
        decode = kvs.Worker("decode", net, decode_link, folder).connect()
        import subprocess
        args = [newer, "prefill", "--model", kvs.MODEL, "--net", net, "--link", prefill_link, "--quiet", "--threads", "1",
                "--control", os.path.join(folder, "newer.ctl")] + (["--peer", peer] if peer else [])
        t0 = time.monotonic()
        out = subprocess.run(args, capture_output=True, text=True, timeout=60)
        lines = [line for line in out.stderr.splitlines() if line.strip()]
        kvs.check(out.returncode == 1 and len(lines) == 1 and "version" in lines[0],
                  "a peer of another protocol version, " + net, "%.1f s, exit %d: %s" % (time.monotonic() - t0, out.returncode, lines[:2]))
        prefill = kvs.Worker("prefill", net, prefill_link, folder, peer=peer).connect()
        prefill.wait_up()
        decode.wait_up()
        kvs.check(True, "and a fitting peer is served after it, " + net)
        prefill.kill()
        decode.kill()


def requests(folder):
    long_text = os.path.join(folder, "long.txt")
    with open(long_text, "w") as f:
        f.write("one two three four " * 3000)
    refused("a prompt longer than the context", ["run", "--model", kvs.MODEL, "--prompt-file", long_text], ["context", "8192"])
    for net in ["none"] + kvs.nets():
        refused("no free blocks, " + net, ["run", "--model", kvs.MODEL, "--net", net, "--kv-tokens", "32", "--prompt", "word " * 100],
                ["no free KV blocks"])
    refused("an empty prompt", ["run", "--model", kvs.MODEL, "--raw", "--prompt", ""], ["empty"])
    refused("an unknown transport", ["run", "--model", kvs.MODEL, "--net", "pigeon"] + HELLO, ["pigeon"], code=2)
    refused("a wrong number", ["run", "--model", kvs.MODEL, "--threads", "many"] + HELLO, ["threads", "many"], code=2)
    refused("two prompts", ["run", "--model", kvs.MODEL, "--prompt-file", long_text] + HELLO, ["exactly one of"], code=2)
    refused("no such prompt file", ["run", "--model", kvs.MODEL, "--prompt-file", long_text + "x"], ["long.txtx", "No such file"], code=2)
    nul = os.path.join(folder, "nul.txt")
    with open(nul, "wb") as f:
        f.write(b"before\0behind")
    refused("a NUL in a prompt file", ["run", "--model", kvs.MODEL, "--prompt-file", nul], ["nul.txt", "byte 7", "NUL"], code=2)
    refused("a broken fault spec", ["run", "--model", kvs.MODEL, "--net", "udp", "--fault", "loss=two"] + HELLO, ["loss"])


def addresses(folder):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.bind(("127.0.0.1", 0))
    taken = "127.0.0.1:%d" % s.getsockname()[1]
    worker = ["--model", kvs.MODEL, "--quiet", "--threads", "1", "--control", os.path.join(folder, "c.ctl")]
    refused("a UDP port in use", ["decode", "--net", "udp", "--link", taken] + worker, [taken, "in use"])
    s.close()
    refused("an address that is none", ["decode", "--net", "udp", "--link", "somewhere"] + worker, ["somewhere"])
    d, p, peer = kvs.link_addresses("udp", folder)
    decode = kvs.Worker("decode", "udp", d, folder).connect()
    refused("a control socket in use", ["decode", "--net", "udp", "--link", "127.0.0.1:0"] + worker[:-1] + [decode.sock_path],
            [decode.sock_path, "in use"])
    decode.kill()
    refused("a control socket that isn't there", ["run", "--model", kvs.MODEL, "--prefill-at", "/nonexistent", "--decode-at", "/nonexistent"] + HELLO,
            ["/nonexistent", "No such file"])
    refused("no peer comes, udp, decode", ["decode", "--net", "udp", "--link", d, "--wait-peer", "1.5"] + worker, [d, "no peer came within 1.5 s"],
            within=(1.5, 20))
    refused("no peer comes, udp, prefill", ["prefill", "--net", "udp", "--link", p, "--peer", peer, "--wait-peer", "1.5"] + worker,
            [peer, "no peer came within 1.5 s"], within=(1.5, 20))


def dpdk(folder):
    worker = ["--model", kvs.MODEL, "--net", "dpdk", "--quiet", "--threads", "1", "--control", os.path.join(folder, "c.ctl")]
    refused("DPDK: no such directory", ["decode", "--link", os.path.join(folder, "no", "link.sock")] + worker, ["directory", folder])
    refused("DPDK: a path too long", ["decode", "--link", os.path.join(folder, "x" * 120)] + worker, ["xxx"])
    refused("DPDK: no peer comes", ["decode", "--link", os.path.join(folder, "link.sock"), "--wait-peer", "2"] + worker, ["link.sock", "peer"])
    refused("DPDK: no memory", ["decode", "--link", os.path.join(folder, "link.sock"), "--wait-peer", "5", "--kv-tokens", "64"] + worker,
            ["dpdk: EAL can't start: "], preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (250 << 20, 250 << 20)))
    path = os.path.join(folder, "busy.sock")
    s = socket.socket(socket.AF_UNIX)
    s.bind(path)
    s.listen(1)
    refused("DPDK: a socket in use", ["decode", "--link", path, "--wait-peer", "5"] + worker, ["busy.sock", "in use"])
    s.close()


def main():
    with kvs.Folder() as folder:
        requests(folder)
        addresses(folder)
        files(folder)
        wrong_model(folder)
        other_version(folder)
        if "dpdk" in kvs.nets():
            dpdk(folder)
    kvs.finish()


main()
