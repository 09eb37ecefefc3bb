#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""mutate.py BUILD [NAME]: is each barrier and each order of gpu/'s kernels needed, and would a test see that it is gone?

Every __syncthreads() is removed in turn, every order weakened, every atomic made plain; the kernels are compiled with the
race checker and run on a few launches. Prints a line for each; exit 1 if one isn't caught. About two minutes of CPU, so not
in tests/run.sh. NAME: only those whose line has it."""
import os, re, shutil, subprocess, sys, tempfile

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "../.."))
FILES = ["parts.h", "planes.h", "blocks.h", "raw.cu", "l0_parts.h", "l0_plan.cu", "l0_encode.cu", "l0_decode.cu",
         "e_parts.h", "e_plan.cu", "e_encode.cu", "e_decode.cu"]
# The unit of tests/gpu that a file is part of, and the codecs to run; the others are in both.
OF_E = ("e_parts.h", "e_plan.cu", "e_encode.cu", "e_decode.cu")
UNITS = {"kernels": [], "kernels_e": ["e8 bf16", "e4 f16"]}
# [what to find, what to put there, what it is called]
CHANGES = [
    (r"__syncthreads\(\);", ";", "no barrier"),
    (r"kvg_add_acq_rel\(([^;]*?), 1\)", r"atomicAdd(\1, 1u)", "relaxed add"),
    (r"kvg_store_release_sys\(([^,]*), ([^)]*)\);", r"(void)atomicExch(\1, \2);", "relaxed store"),
    (r"kvg_load_relaxed\(([^)]*)\)", r"*(\1)", "plain load"),
    (r"atomicOr\(([^,]*), ([^;]*)\);", r"*(\1) |= \2;", "plain or"),
    (r"atomicAdd\(&([^,]*), ([^;]*)\);", r"\1 += \2;", "plain add"),
    (r"atomicAdd\(sum, ([^;]*)\);", r"*sum += \1;", "plain add"),
    (r"atomicMax\(&([^,]*), ([^;]*)\);", r"\1 = max(\1, \2);", "plain max"),
]


def commands(build, unit):
    out = subprocess.run(["ninja", "-C", build, "-t", "commands", "tests/gpu/test_kernels_race"], capture_output=True,
                         text=True, check=True).stdout.splitlines()
    compile_line = next(l for l in out if f"/{unit}.cpp" in l and " -c " in l and "test_kernels_race.p" in l)
    return compile_line, out[-1]


def mutants():
    for name in FILES:
        text = open(os.path.join(ROOT, "gpu", name)).read()
        for what, to, kind in CHANGES:
            for m in re.finditer(what, text):
                line = text.count("\n", 0, m.start()) + 1
                yield f"{name}:{line}: {kind}", name, text[: m.start()] + m.expand(to) + text[m.end():]


def run(work, codecs):
    for codec in codecs or [None]:
        r = subprocess.run([os.path.join(work, "test"), "1", "12"] + ([codec] if codec else []), capture_output=True,
                           text=True, timeout=120)
        if r.returncode != 0:
            break
    return r


def verdict(build, work, lines, codecs):
    for line in lines:
        r = subprocess.run(line, shell=True, cwd=build, capture_output=True, text=True)
        if r.returncode != 0:
            return "does not compile: " + r.stderr.splitlines()[0], False
    try:
        r = run(work, codecs)
    except subprocess.TimeoutExpired:
        return "hangs", True
    if r.returncode == 0:
        return "NOT CAUGHT", False
    said = (r.stderr + r.stdout).splitlines()
    return next((l for l in said if l.startswith(("race:", "simt:", "# seed"))), f"status {r.returncode}")[:150], True


def lines_of(build, work, unit):
    """How to compile the unit from the folder of mutants, and to link it with the rest."""
    compile_line, link_line = commands(build, unit)
    object_file = re.search(r"-o (\S*/%s\.cpp\.o)" % unit, compile_line).group(1)
    compile_line = compile_line.replace(" -I", f" -I{work} -I", 1).replace(f"-o {object_file}", f"-o {work}/k.o")
    compile_line = re.sub(r" -M[QF] \S+| -MD", "", compile_line)
    return [compile_line, link_line.replace(object_file, f"{work}/k.o").replace("-o tests/gpu/test_kernels_race", f"-o {work}/test")]


def main():
    build, only = os.path.abspath(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else ""
    missed = count = 0
    with tempfile.TemporaryDirectory() as work:
        shutil.copytree(os.path.join(ROOT, "gpu"), os.path.join(work, "gpu"))
        os.symlink(os.path.join(ROOT, "kvwire"), os.path.join(work, "kvwire"))
        lines = {unit: lines_of(build, work, unit) for unit in UNITS}
        for unit, codecs in UNITS.items():
            said, caught = verdict(build, work, lines[unit], codecs)
            if caught or said != "NOT CAUGHT":
                print("the kernels as they are:", said)
                return 1
        for name, file, text in mutants():
            if only not in name:
                continue
            unit = "kernels_e" if file in OF_E else "kernels"
            path = os.path.join(work, "gpu", file)
            saved = open(path).read()
            open(path, "w").write(text)
            said, caught = verdict(build, work, lines[unit], UNITS[unit])
            open(path, "w").write(saved)
            count, missed = count + 1, missed + (not caught)
            print(f"{name}: {said}", flush=True)
    print(f"{count - missed} of {count} caught")
    return missed > 0


sys.exit(main())
