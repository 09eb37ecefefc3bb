#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""sglang_calls.py: SGLang's own wrapper of Mooncake's class (sglang/srt/distributed/device_communicators/mooncake_transfer_engine.py of the
wheel 0.5.23, unchanged), through which its prefill and decode move KV, over kvwire.mooncake's class and over Mooncake's: the calls that
SGLang's conn.py makes, between two processes, must do the same. SGLang itself isn't imported: what the file takes from its configuration
is stood in for. Prints TAP."""
import ctypes
import hashlib
import importlib.machinery
import importlib.util
import json
import os
import random
import subprocess
import sys
import time
import types

SIZE, PIECE, LAYERS, PAGES = 1 << 22, 4096, 16, 60  # a transfer: pages of one request in each layer's memory


def wrapper(kind):
    """SGLang's MooncakeTransferEngine over that kind of class."""
    os.environ.update(MOONCAKE_PROTOCOL="tcp", MC_FORCE_TCP="1", GLOG_minloglevel="3")
    if kind == "kvwire":
        import kvwire.mooncake
        kvwire.mooncake.install()
    where = importlib.machinery.PathFinder.find_spec("sglang").submodule_search_locations[0]
    for name, folder in (("sglang", ""), ("sglang.srt", "srt"), ("sglang.srt.utils", "srt/utils")):
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = [os.path.join(where, folder)]
    common = sys.modules["sglang.srt.utils.common"] = types.ModuleType("common")
    common.run_with_deadline = lambda call, **_: call()
    context = sys.modules["sglang.srt.runtime_context"] = types.ModuleType("runtime_context")
    context.get_disagg = context.get_exec = context.get_memory = None  # only asked whether to make an engine
    for name in ("psutil", "zmq", "zmq.auth", "zmq.auth.thread"):  # of utils/network.py, for what isn't called here
        sys.modules[name] = types.ModuleType(name)
    sys.modules["zmq.auth.thread"].ThreadAuthenticator = None
    spec = importlib.util.spec_from_file_location("wrapped", where + "/srt/distributed/device_communicators/mooncake_transfer_engine.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.init_mooncake_transfer_engine("127.0.0.1", 0)


def memory(engine):
    held = ctypes.create_string_buffer(SIZE)
    at = ctypes.addressof(held)
    each = SIZE // LAYERS
    return held, at, engine.batch_register([at + n * each for n in range(LAYERS)], [each] * LAYERS)


def decode(kind):
    engine = wrapper(kind)
    held, at, code = memory(engine)
    print(json.dumps([engine.get_session_id(), at, code]), flush=True)
    for line in sys.stdin:
        if line.strip() == "damage":
            held[0] = bytes([held.raw[0] ^ 1])
        print(json.dumps(hashlib.blake2b(held).hexdigest()), flush=True)


class Decode:
    def __init__(self, kind):
        self.p = subprocess.Popen([sys.executable, __file__, "decode", kind], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.session, self.at, self.registered = self.read()

    def read(self):
        while line := self.p.stdout.readline():
            if line.startswith(("[", '"')):
                return json.loads(line)
        raise RuntimeError("decode ended")

    def ask(self, what):
        self.p.stdin.write(what + "\n")
        self.p.stdin.flush()
        return self.read()


def blocks(seed, at, there):
    """[(source, target, bytes)], as conn.py's _transfer_data() takes them: some pages of each layer, in other places there."""
    r, each = random.Random(seed), SIZE // LAYERS
    return [(at + layer * each + a * PIECE, there + layer * each + b * PIECE, PIECE) for layer in range(LAYERS)
            for a, b in zip(r.sample(range(each // PIECE), PAGES), r.sample(range(each // PIECE), PAGES))]


def prefill(kind):
    """What every call gave."""
    engine, seen = wrapper(kind), {}
    held, at, seen["registered"] = memory(engine)
    held.raw = random.Random(1).randbytes(SIZE)

    def send(to, seed):
        transfer, want = blocks(seed, at, to.at), bytearray(SIZE)
        for source, target, size in transfer:
            want[target - to.at:target - to.at + size] = held[source - at:source - at + size]
        code = engine.batch_transfer_sync(to.session, *(list(x) for x in zip(*transfer)))
        return code, to.ask("digest") == hashlib.blake2b(want).hexdigest(), want

    to = Decode(kind)
    code, same, want = send(to, 2)
    seen["pages of all layers, landed"], seen["decode registered"] = (code, same), to.registered
    seen["a damaged byte is seen"] = to.ask("damage") != hashlib.blake2b(want).hexdigest()
    seen["one piece"] = engine.transfer_sync(to.session, at, to.at, 64)
    seen["an address of nobody"] = engine.batch_transfer_sync(to.session, [at], [to.at + (1 << 40)], [64])
    seen["probe"] = engine.send_probe(to.session)
    to.p.kill()
    to.p.wait()
    time.sleep(1.5)
    seen["decode killed: transfer, probe"] = engine.batch_transfer_sync(to.session, [at], [to.at], [64]), engine.send_probe(to.session)
    again = Decode(kind)
    seen["decode is back, landed"] = send(again, 3)[:2]
    seen["its former session, another one"] = engine.send_probe(to.session), to.session != again.session
    again.p.kill()
    seen["registered no more"] = engine.batch_deregister([at + n * (SIZE // LAYERS) for n in range(LAYERS)])
    print("= " + json.dumps(seen), flush=True)
    os._exit(0)


def main():
    if len(sys.argv) > 2:
        return {"decode": decode, "prefill": prefill}[sys.argv[1]](sys.argv[2])
    got = {}
    for kind in ("kvwire", "mooncake"):
        out = subprocess.run([sys.executable, __file__, "prefill", kind], stdout=subprocess.PIPE, text=True, timeout=300).stdout
        got[kind] = next((json.loads(line[2:]) for line in out.splitlines() if line.startswith("= ")), {})
    good = {"registered": 0, "pages of all layers, landed": [0, True], "a damaged byte is seen": True, "decode is back, landed": [0, True]}
    bad = 0
    for n, name in enumerate(got["mooncake"] or ["none"], 1):
        ours, theirs = got["kvwire"].get(name), got["mooncake"].get(name)
        right = ours == theirs == good.get(name, theirs) and ours is not None
        bad += not right
        print("%sok %d - sglang: %s: %r, over Mooncake's %r" % ("" if right else "not ", n, name, ours, theirs))
    print("1..%d" % max(1, len(got["mooncake"])))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
