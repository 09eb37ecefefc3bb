#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""sass.py NVCC TABLE [--write]: compile gpu/'s kernels for every architecture and hold what comes out against the table.

A spill is a failure. With the table's release of nvcc, so are more registers, or 2 % more instructions; --write makes the
table anew. Instructions are those of a kernel's section, 16 bytes each, the padding behind its end with them. Prints TAP."""
import csv, os, re, subprocess, sys, tempfile

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "../.."))
SOURCES = ["raw", "l0_plan", "l0_encode", "l0_decode", "e_plan", "e_encode", "e_decode",
           "step_attend", "step_dequantise", "step_gate", "step_norm", "step_tile", "step_turn"]
KERNELS = 47
ARCHES = ["80", "90", "100"]
FIELDS = ["nvcc", "arch", "kernel", "registers", "spill_bytes", "stack_bytes", "instructions"]


def compile_one(nvcc, release, source, arch, work):
    cubin = os.path.join(work, f"{source}.{arch}")
    said = subprocess.run([nvcc, "-std=c++17", "-O3", "-fmad=false", f"-arch=sm_{arch}", "-cubin", "-Xptxas", "-v",
                           os.path.join(ROOT, "gpu", source + ".cu"), "-o", cubin], capture_output=True, text=True)
    if said.returncode != 0:
        raise SystemExit(f"not ok 1 - {source}.cu for sm_{arch}\n# " + said.stderr.replace("\n", "\n# ") + "\n1..1")
    sections = subprocess.run(["readelf", "-SW", cubin], capture_output=True, text=True, check=True).stdout
    sizes = dict(re.findall(r"\.text\.(\w+) +PROGBITS +\w+ +\w+ +(\w+)", sections))
    found = re.findall(r"Compiling entry function '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, "
                       r"(\d+) bytes spill loads.*?Used (\d+) registers", said.stderr, re.S)
    for kernel, stack, stores, loads, registers in found:
        yield {"nvcc": release, "arch": arch, "kernel": kernel, "registers": int(registers),
               "spill_bytes": int(stores) + int(loads), "stack_bytes": int(stack),
               "instructions": int(sizes[kernel], 16) // 16}


def complaints(row, was, release):
    if row["spill_bytes"] != 0:
        yield f"{row['spill_bytes']} bytes of spills"
    if was is None:
        yield "not in the table"
    elif was["nvcc"] == release:
        if row["registers"] > int(was["registers"]):
            yield f"{row['registers']} registers, the table has {was['registers']}"
        if row["instructions"] > int(was["instructions"]) * 1.02:
            yield f"{row['instructions']} instructions, the table has {was['instructions']}"


def main():
    nvcc, table = sys.argv[1:3]
    release = re.search(r"release ([\d.]+)", subprocess.run([nvcc, "--version"], capture_output=True, text=True,
                                                            check=True).stdout).group(1)
    with tempfile.TemporaryDirectory() as work:
        rows = [row for s in SOURCES for a in ARCHES for row in compile_one(nvcc, release, s, a, work)]
    if "--write" in sys.argv:
        with open(table, "w", newline="") as f:
            writer = csv.DictWriter(f, FIELDS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        return 0
    with open(table) as f:
        known = {(r["arch"], r["kernel"]): r for r in csv.DictReader(f)}
    bad = 0
    for n, row in enumerate(rows, 1):
        said = list(complaints(row, known.get((row["arch"], row["kernel"])), release))
        bad += bool(said)
        print(f"{'not ok' if said else 'ok'} {n} - {row['kernel']} for sm_{row['arch']}: {row['registers']} registers, "
              f"{row['instructions']} instructions" + "".join(f"\n# {s}" for s in said))
    print(f"1..{len(rows)}")
    return bad > 0 or len(rows) != KERNELS * len(ARCHES)


sys.exit(main())
