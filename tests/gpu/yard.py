#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""yard.py: yardsticks beside gpu_day's speeds, on values like its own: a cast of bf16 to fp8 (e4m3) and back by torch, and nvCOMP's
ANS by its Python package. Prints CSV; what isn't here is a row with one sentence. DAY_SMALL=1: one small size."""
import os
import statistics
import sys
import time

FIELDS = "what,direction,raw bytes,GB/s,least,most,ratio"
REPEATS = 7


def absent(what, why):
    print('%s,absent,0,0,0,0,"%s"' % (what, str(why).replace('"', "'").replace("\n", " ")))


def row(torch, what, direction, raw, ratio, work):
    """Median, least and most of a few runs, after one that warms up."""
    seconds = []
    for i in range(REPEATS + 1):
        torch.cuda.synchronize()
        begin = time.monotonic()
        work()
        torch.cuda.synchronize()
        if i > 0:
            seconds.append(time.monotonic() - begin)
    rate = sorted(raw / s / 1e9 for s in seconds)
    print("%s,%s,%d,%.3f,%.3f,%.3f,%.4f" % (what, direction, raw, statistics.median(rate), rate[0], rate[-1], ratio))


def values(torch, count):
    """Near 2^0, each of 1,024 columns with a scale of its own."""
    scale = torch.exp2(-(torch.arange(1024, device="cuda") * 7 % 5).float())
    return (torch.randn(count // 1024, 1024, device="cuda") * scale).to(torch.bfloat16)


def cast(torch, kv):
    raw = kv.numel() * 2
    small = kv.to(torch.float8_e4m3fn)
    row(torch, "fp8 cast", "encode", raw, 2, lambda: kv.to(torch.float8_e4m3fn))
    row(torch, "fp8 cast", "decode", raw, 2, lambda: small.to(torch.bfloat16))


def ans(torch, kv):
    from nvidia import nvcomp
    codec = nvcomp.Codec(algorithm="ANS", cuda_stream=torch.cuda.current_stream().cuda_stream)
    plain = nvcomp.as_array(kv.view(torch.uint8).reshape(-1))
    packed = codec.encode(plain)
    raw = kv.numel() * 2
    ratio = raw / packed.buffer_size
    row(torch, "nvCOMP ANS", "encode", raw, ratio, lambda: codec.encode(plain))
    row(torch, "nvCOMP ANS", "decode", raw, ratio, lambda: codec.decode(packed))


def main():
    print(FIELDS)
    try:
        import torch
        torch.cuda.init()
    except (ImportError, AssertionError, RuntimeError) as e:
        absent("fp8 cast", "no torch that finds a GPU: %s" % e)
        absent("nvCOMP ANS", "no torch that finds a GPU, whose memory it would be given")
        return 0
    for size in [1 << 20] if os.environ.get("DAY_SMALL") == "1" else [2 << 20, 32 << 20, 512 << 20]:
        kv = values(torch, size // 2)
        cast(torch, kv)
        try:
            ans(torch, kv)
        except ImportError as e:
            absent("nvCOMP ANS", "no nvidia-libnvcomp here: %s" % e)
    return 0


sys.exit(main())
