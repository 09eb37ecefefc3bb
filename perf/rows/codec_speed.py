#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""codec_speed.py - the codecs' rows of budgets.csv, on K and V of the texts in texts/.

    codec_speed.py core CODEC LEVEL encode|decode    x memcpy's pace over the same bytes in the same process, the codec alone: one core, 512 KiB, warm
    codec_speed.py whole CODEC LEVEL encode|decode   x raw's pace, both with gathering, digest, scattering, in the same run
    codec_speed.py zipnn encode|decode               x ZipNN, both alone: 2 MiB of the same bytes, one thread ($KVW_ZIPNN_PYTHON)
    codec_speed.py ceiling worst|books               % of L0 over the per-channel order-0 ceiling
    codec_speed.py noise e8|e4                       ratio, at no more noise than its rival's in K and in V

What core and whole are, codec_bench.c says. Medians of ROUNDS runs, with their spread. A line "SKIP why" where this CPU lacks the level; no RESULT where a ratio falls
behind ZipNN's, or the noise exceeds the rival's: then speed or ratio are worth nothing."""
import functools
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import time
import types

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = ROOT / "build"
KV = BUILD / "perf/kv"
CORE = max(os.sched_getaffinity(0))
ROUNDS = 9
ZIPNN_BYTES = 2 << 20
RIVAL = {"e8": "fp8-e4m3", "e4": "hadamard-int4"}
QUALITY = ROOT / "tests/oracle/quality.py"


def come_first():
    """On a shared machine: a session of our own, and before all others (best effort), on one core."""
    for step in (os.setsid, lambda: pathlib.Path("/proc/self/autogroup").write_text("-20"), lambda: os.nice(-15)):
        try:
            step()
        except OSError:
            pass
    os.sched_setaffinity(0, {CORE})


def output(*command):
    out = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if out.returncode != 0:
        sys.exit(f"{command[0]}: status {out.returncode}: {out.stderr.strip()[-300:]}")
    return out.stdout


def dump():
    """The dump lies in the build folder, so that rows share it, and is made anew when its maker was built anew."""
    made = (BUILD / "perf/kv_dump").stat().st_mtime
    for old in KV.glob("*.kv"):
        if old.stat().st_mtime < made:
            old.unlink()
    output(ROOT / "perf/bench/kv_dump.sh", KV)


def bench(codec, level, size, runs):
    command = [BUILD / "perf/codec_bench", KV, "--codec", codec, "--size", size, "--runs", runs]
    return json.loads(output(*command, *(["--cpu", level] if level else [])))


def spread(name, values):
    print(f"{name}: median {statistics.median(values):.2f} ({min(values):.2f} .. {max(values):.2f})")
    return statistics.median(values)


def has(level):
    probe = subprocess.run([BUILD / "perf/codec_bench", KV, "--codec", "l0", "--size", "64K", "--runs", "1", "--cpu", level],
                           capture_output=True, text=True)
    if "this machine has no such level" not in probe.stderr:
        return True
    print(f"SKIP this CPU has no {level}")
    return False


def both_parts(codec, way, rows):
    """Prints core beside whole, whichever of them the row is about; returns their medians."""
    return {part: spread(f"{codec} {way}, {part}, GB/s", [r[f"{part}_{way}_GB_s"] for r in rows]) for part in ("core", "whole")}


def core(codec, level, way):
    if not has(level):
        return
    rows = [bench(codec, level, "512K", 21) for _ in range(ROUNDS)]
    copied = spread("memcpy, GB/s", [r["memcpy_GB_s"] for r in rows])
    ours = both_parts(codec, way, rows)["core"]
    key = f"core_{way}_GB_s"
    print("INFO %.2f GB/s, memcpy %.1f GB/s" % (ours, copied))
    print("RESULT %.4f 1" % spread("quotient", [r[key] / r["memcpy_GB_s"] for r in rows]))


def whole(codec, level, way):
    if not has(level):
        return
    pairs = [(bench(codec, level, "512K", 21), bench("raw", level, "512K", 21)) for _ in range(ROUNDS)]
    both_parts(codec, way, [p[0] for p in pairs])
    both_parts("raw", way, [p[1] for p in pairs])
    key = f"whole_{way}_GB_s"
    print("RESULT %.3f 1" % spread("quotient", [ours[key] / raw[key] for ours, raw in pairs]))


class Nothing(type):
    """A class whose every name is such a class; used as a decorator it gives back what it decorates."""

    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        setattr(cls, name, Nothing(name, (), {}))
        return cls.__dict__[name]

    def __call__(cls, decorated):
        return decorated


def zipnn_class():
    """ZipNN imports PyTorch and safetensors, and touches neither where it packs bytes."""
    for name in ("torch", "safetensors", "safetensors.torch"):
        try:
            __import__(name)
        except ImportError:
            sys.modules[name] = types.ModuleType(name)
            sys.modules[name].__getattr__ = functools.partial(getattr, Nothing(name, (), {}))
    from zipnn import ZipNN
    return ZipNN


def zipnn(way):
    """The first 2 MiB that codec_bench takes, in canonical order: the first file's, in whole tokens for each tensor."""
    head = min(KV.glob("*.kv")).read_bytes()[:32]
    tokens, heads, dim = (int.from_bytes(head[i:i + 4], "little") for i in (8, 12, 16))
    row, tensor = heads * dim * 2, tokens * heads * dim * 2
    size = ZIPNN_BYTES // tensor * tensor + ZIPNN_BYTES % tensor // row * row
    data = min(KV.glob("*.kv")).read_bytes()[32:32 + size]
    peer = zipnn_class()(input_format="byte", bytearray_dtype="bfloat16", threads=1)
    ours, theirs, quotients = [], [], []
    for _ in range(ROUNDS):
        r = bench("l0", None, "2M", 21)
        if r["bytes"] != size:
            sys.exit(f"codec_bench took {r['bytes']} bytes, ZipNN {size}")
        times = []
        for _ in range(21):
            source = bytes(bytearray(data))  # a copy: compress() writes into its argument
            start = time.perf_counter()
            packed = peer.compress(source)
            between = time.perf_counter()
            packed_bytes = bytes(bytearray(packed))
            again = time.perf_counter()
            back = peer.decompress(packed_bytes)
            end = time.perf_counter()
            times.append(between - start if way == "encode" else end - again)
        if bytes(back) != data:
            sys.exit("ZipNN did not give its input back")
        ours.append(r[f"core_{way}_GB_s"])
        theirs.append(size / statistics.median(times) * 1e-9)
        quotients.append(ours[-1] / theirs[-1])
    ratio = size / len(packed)
    spread("l0, GB/s", ours)
    spread("ZipNN, GB/s", theirs)
    print(f"ratio: l0 {r['ratio']:.4f}, ZipNN {ratio:.4f}")
    if r["ratio"] < ratio:
        sys.exit(f"l0's ratio {r['ratio']} is below ZipNN's {ratio:.4f}")
    print("RESULT %.2f" % spread("quotient", quotients))


def ceiling(which):
    said = re.search(r"in call: ([0-9.]+) % .*others: ([0-9.]+) %", output(BUILD / "perf/kv_entropy", *sorted(KV.glob("*.kv"))))
    print("RESULT %s 0" % said.group(1 if which == "worst" else 2))


def noise(codec):
    """One window of each kind of text, through the program that tests/oracle/quality.py asks."""
    model = os.environ.get("KVW_MODEL") or sys.exit("KVW_MODEL is not set (perf/run.sh does)")
    rival = RIVAL[codec]
    said = output(sys.executable, QUALITY, "--program", BUILD / "tests/oracle/quality", "--model", model, "--windows", "6",
                  "--codecs", f"{rival},{codec}/4/0")
    rows = {}
    for line in said.splitlines()[1:]:
        row = dict(cell.split("=", 1) for cell in line.split())
        rows[row["name"]] = {k: float(v) for k, v in row.items() if k in ("ratio", "snr_k", "snr_v")}
    ours = rows[f"{codec}/4/0"]
    print(f"{codec}: {ours}, {rival}: {rows[rival]}")
    for tensor in ("snr_k", "snr_v"):
        if ours[tensor] < rows[rival][tensor]:
            sys.exit(f"{codec} adds more noise than {rival}: {tensor} {ours[tensor]} dB against {rows[rival][tensor]} dB")
    print("RESULT %.3f" % ours["ratio"])


def main():
    kinds = {"core": core, "whole": whole, "zipnn": zipnn, "ceiling": ceiling, "noise": noise}
    if len(sys.argv) < 2 or sys.argv[1] not in kinds:
        sys.exit(__doc__)
    dump()
    if sys.argv[1] != "noise":  # that one isn't about time, and may use all cores
        come_first()
    kinds[sys.argv[1]](*sys.argv[2:])


if __name__ == "__main__":
    main()
