#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""two.py PORT TRANSPORT [damage]: two nodes in two processes, some requests, every byte compared. With "damage" the
sender alters one value after it pushed the layer's sums, so that the comparison must fail: exit 3."""
import random
import subprocess
import sys

import kvwire

SHAPE, DTYPE = (2, 6, 64, 16, 2, 64), "bf16"  # K and V, layers, blocks, tokens of a block, heads, values
BLOCK_BYTES = 16 * 2 * 64 * 2
REQUESTS, TOKENS = 4, 200


def values(number):
    """What the cache of one request holds: {(kv, layer, place in the table): bytes of a block}."""
    r = random.Random(number)
    return {(kv, layer, i): bytes(r.randrange(256) for _ in range(64)) * (BLOCK_BYTES // 64)
            for kv in range(2) for layer in range(SHAPE[1]) for i in range(blocks_of(TOKENS))}


def blocks_of(tokens):
    return (tokens + 15) // 16


def at(kv, layer, block):
    return ((kv * SHAPE[1] + layer) * SHAPE[2] + block) * BLOCK_BYTES


def ids_of(number, salt):
    ids = list(range(SHAPE[2]))
    random.Random(salt * 1000 + number).shuffle(ids)
    return ids[:blocks_of(TOKENS)]


def pool_of(node):
    kv = bytearray(2 * SHAPE[1] * SHAPE[2] * BLOCK_BYTES)
    return kv, node.add_pool(kvwire.paged_kv(kv, "KLBTHD", shape=SHAPE, dtype=DTYPE, name="two"))


def send(port, transport, damage):
    with kvwire.Node("prefill", transport=transport, local="127.0.0.1:0") as node:
        kv, pool = pool_of(node)
        peer = node.add_peer("127.0.0.1:%d" % port)
        peer.wait_up(20)
        for number in range(REQUESTS):
            ids, wanted = ids_of(number, 1), values(number)
            with_stream = node.stream(pool, "request %d" % number, TOKENS, ids, offer_by=20)
            for layer in range(SHAPE[1]):
                for kind in range(2):
                    for i, block in enumerate(ids):
                        kv[at(kind, layer, block):at(kind, layer, block) + BLOCK_BYTES] = wanted[kind, layer, i]
                if damage and number == REQUESTS - 1 and layer == 3:
                    kv[at(1, 3, ids[5]) + 77] ^= 1
                with_stream.push(layer, TOKENS)
            with_stream.commit(b"%d" % number)
            with_stream.wait(20)


def receive(port, transport):
    wrong = 0
    with kvwire.Node("decode", transport=transport, local="127.0.0.1:%d" % port, listen=True) as node:
        kv, pool = pool_of(node)
        print("listening", flush=True)
        peer = None
        for event in node.events(20):
            if event.kind == kvwire.EventKind.PEER_UP:
                peer = kvwire.Peer(node, event.peer)
                break
        for number in range(REQUESTS):
            ids, wanted = ids_of(number, 2), values(number)
            offer = node.offer(pool, "request %d" % number, TOKENS, ids, peer, take_by=20)
            done = offer.wait(20)
            assert done.note == b"%d" % number and all(offer.layer_ready(n) for n in range(SHAPE[1]))
            for (kind, layer, i), block in wanted.items():
                # Slots of the last block that the request doesn't fill are nobody's.
                length = BLOCK_BYTES if i < len(ids) - 1 else TOKENS % 16 * (BLOCK_BYTES // 16)
                place = at(kind, layer, ids[i])
                wrong += kv[place:place + length] != block[:length]
    print("%d blocks differ of %d requests" % (wrong, REQUESTS))
    return 3 if wrong else 0


def main():
    if sys.argv[1] == "send":
        return send(int(sys.argv[2]), sys.argv[3], sys.argv[4:] == ["damage"])
    port, transport = int(sys.argv[1]), sys.argv[2]
    other = subprocess.Popen([sys.executable, __file__, "send", str(port), transport] + sys.argv[3:])
    try:
        status = receive(port, transport)
        return other.wait(20) or status
    finally:
        other.kill()


if __name__ == "__main__":
    sys.exit(main())
