#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""mutate.py BUILD [NAME] [--write TABLE] | --list | --check TABLE

Is each barrier, each order and each wait of gpu/ needed, and would a test see that it is gone? In the kernels every
__syncthreads() and __syncwarp() is removed in turn, every order weakened, every atomic made plain; they are compiled with the
race checker and run on a few launches. In jobs.c every wait for an event and every fill is forgotten, and test_gpu_jobs runs.
Prints a line for each; exit 1 if one isn't caught. An hour of CPU at most, so not in tests/run.sh. NAME: only those whose name
has it. In the steps of a forward pass and their order, what each of them does is left out in turn, beside the barriers.
--write: the verdicts as rows of TABLE, in the others' place. --list: the names alone. --check: prints TAP; every name has
a row in TABLE that says by what it was caught, and no row is of a mutation that no longer is (tests/gpu/mutations.csv)."""
import argparse, csv, os, re, shutil, subprocess, sys, tempfile

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "../.."))
FILES = ["parts.h", "planes.h", "rows.h", "blocks.h", "raw.cu", "l0_parts.h", "l0_plan.cu", "l0_encode.cu", "l0_decode.cu",
         "e_parts.h", "e_plan.cu", "e_encode.cu", "e_decode.cu", "jobs.c",
         "step_parts.h", "step_norm.cu", "step_turn.cu", "step_attend.cu", "step_tile.cu", "step_gate.cu", "step_dequantise.cu", "pass.c", "run.c"]
# What is compiled anew for a file, and the codecs to run; files not named here are in "kernels".
OF_E = ("e_parts.h", "e_plan.cu", "e_encode.cu", "e_decode.cu")
UNITS = {"kernels": [], "kernels_e": ["e8 bf16", "e4 f16"], "kernels_steps": [], "jobs": [], "pass": [], "run": []}
# The program that runs a unit, and what it is given; of a host's unit, its source.
PROGRAMS = {"kernels_steps": ("test_pass_race", ["tests/engine/families"]), "pass": ("test_pass_plain", ["tests/engine/families"]),
            "jobs": ("test_gpu_jobs", ["--tap"]), "run": ("test_gpu_pass", ["--tap"])}
# [what to find, what to put there, what it is called]
DEVICE = [
    (r"__syncthreads\(\);", ";", "no barrier"),
    (r"__syncwarp\(\);", ";", "no warp barrier"),
    (r"kvg_add_acq_rel\(([^;]*?), 1\)", r"atomicAdd(\1, 1u)", "relaxed add"),
    (r"kvg_store_release_sys\(([^,]*), ([^)]*)\);", r"(void)atomicExch(\1, \2);", "relaxed store"),
    (r"kvg_load_relaxed\(([^)]*)\)", r"*(\1)", "plain load"),
    (r"atomicOr\(([^,]*), ([^;]*)\);", r"*(\1) |= \2;", "plain or"),
    (r"atomicAdd\(&([^,]*), ([^;]*)\);", r"\1 += \2;", "plain add"),
    (r"atomicAdd\(sum, ([^;]*)\);", r"*sum += \1;", "plain add"),
    (r"atomicMax\(&([^,]*), ([^;]*)\);", r"\1 = max(\1, \2);", "plain max"),
]
HOST = [
    (r"r = q->d->stream_wait_event\([^;]*\);", "r = KVG_CU_SUCCESS;", "no wait"),
    (r"q->d->event_record\([^;]*\);", "KVG_CU_SUCCESS;", "no event"),
    (r"q->d->fill\([^;]*\);", "KVG_CU_SUCCESS;", "no zeros"),
    (r"!= s->chunk\.epoch", "== 0", "any epoch"),
]
# What a step of a forward pass does, left out or done otherwise: [what to find, what to put there, what it is called].
STEPS = {
    "step_parts.h": [(r"sign \| 0x7eu", "sign | 0x7fu", "a NaN beyond the largest"), (r" \+ \(u >> 20 & 1\)", "", "ties not to even"),
                     (r"v / scale", "v", "no scale"), (r"is == 0x7fu \?", "false ?", "no NaN")],
    "step_norm.cu": [(r"x\[i\] \+= add\[i\]", "x[i] = add[i]", "no residual"), (r" \+ p\.eps", "", "no epsilon"),
                     (r" \* p\.norm\[i\]", "", "no weights"), (r"p\.add_norm\[i\] : 1", "1.0f : 1", "no post norm's weights"),
                     (r" \* p\.scale", "", "no embedding's scale")],
    "step_turn.cu": [(r"bias != NULL \? bias\[d\] : 0\.0f", "bias != NULL ? 0.0f : 0.0f", "no bias"), (r"scale \* norm\[d\]", "scale", "no weights"),
                     (r"second \? row\[other\] : -row\[other\]", "row[other]", "one sign"),
                     (r"\(size_t\)at \* 2", "(size_t)token * 2", "position of the call"),
                     (r"is_q \|\| is_k \?", "is_q ?", "K not turned"), (r"p\.kv\.v, at", "p.kv.k, at", "V to K")],
    "step_attend.cu": [(r"- window \+ 1", "- window", "window of one more"), (r" \* p\.scale", "", "no scale"),
                       (r"at \+ 1, part", "at + 2, part", "the next token is seen"), (r"part\.out\[j\] \*= keep", ";", "no rescaling"),
                       (r" \* expf\(p\.part_max\[at\] - max\)", "", "segments not weighed"),
                       (r"head / p\.group", "head % (p.heads / p.group)", "another head's K"),
                       (r"part\.sum /= p\.out_scale;", ";", "no scale of V"), (r"(?<!\.)\bsum /= p\.out_scale;", ";", "no scale of V, joined")],
    "step_tile.cu": [(r" \* p\.scale", "", "no scale"), (r"at <= r\.at\[j / 2\]", "at <= r.at[j / 2] + 1", "the next token is seen"),
                     (r"r\.sum\[h\] \*= keep;", ";", "no rescaling"), (r"sum /= p\.out_scale;", ";", "no scale of V")],
    "step_gate.cu": [(r"at \+ p\.width\]", "at]", "no up"), (r"p\.gelu \? g", "false ? g", "no GELU"),
                     (r"other_at < at", "other_at > at", "the last of equals"), (r"p\.cap != 0 \?", "false ?", "no cap")],
    "step_dequantise.cu": [(r" - 8\)", " - 7)", "another zero"), (r" \+ half_at\(b \+ 2\)", "", "no least"),
                           (r"\(int8_t\)", "", "no sign")],
    "pass.c": [(r"m->attn_scale \* w->layer->k_scale", "m->attn_scale", "no scale of K"),
               (r"is_fp8\(w->p\) \? w->layer->v_scale : 1", "1", "no scale of V"),
               (r"err = r->wait\(r->arg, l\);", "err = KVW_OK;", "no wait"),
               (r"err = r->written\(r->arg, l\);", "err = KVW_OK;", "nobody told"),
               (r"\.add = post_norm == NULL,", ".add = false,", "no residual"), (r"w->x \+= [^;]*;", ";", "another token's x")],
    "run.c": [(r"r->dev->driver->event_record\([^;]*\)\);", "(kvg_result)(layer & 0));", "no event"),
              (r"r->dev->driver->stream_wait_event\([^;]*\)\);", "(kvg_result)(layer & 0));", "no wait")],
}
# The same of the kernels of codecs.
CODECS = {
    "rows.h": [(r"lane = row - r\.first", "lane = 0", "each row is the first")],
    "planes.h": [(r"end % 8 != 0", "false", "padding not looked at")],
    "l0_decode.cu": [(r"(starts, &k\.plane\[7\]\);)", r"\1 k.plane[7] = 0;", "no class"),
                     (r"threadIdx\.x < f\.pad", "false", "padding not looked at"), (r"i < f\.pad", "false", "padding not looked at")],
}
FIELDS = ["file", "mutation", "nth", "caught_by"]


def unit_of(file):
    if file.endswith(".c"):
        return file[:-2]
    return "kernels_steps" if file.startswith("step_") else "kernels_e" if file in OF_E else "kernels"


def mutants():
    """(key, file, line, text): key is file, kind, and which of that kind in the file, from 1 on."""
    for name in FILES:
        text = open(os.path.join(ROOT, "gpu", name)).read()
        seen = {}
        for what, to, kind in (HOST if name == "jobs.c" else [] if name.endswith(".c") else DEVICE) + STEPS.get(name, CODECS.get(name, [])):
            for m in re.finditer(what, text):
                seen[kind] = seen.get(kind, 0) + 1
                yield ((name, kind, seen[kind]), name, text.count("\n", 0, m.start()) + 1,
                       text[: m.start()] + m.expand(to) + text[m.end():])


def say(key):
    return f"{key[0]}: {key[1]} {key[2]}"


def commands(build, target, source):
    out = subprocess.run(["ninja", "-C", build, "-t", "commands", target], capture_output=True,
                         text=True, check=True).stdout.splitlines()
    return next(l for l in out if re.search(source, l) and " -c " in l), out[-1]


def lines_of(build, work, unit):
    """How to compile the unit from the folder of mutants, and to link it with the rest."""
    program = PROGRAMS.get(unit, ("test_kernels_race",))[0]
    target = "tests/gpu/" + program
    host = not unit.startswith("kernels")
    compile_line, link_line = commands(build, target, rf"gpu/{unit}\.c$" if host else rf"{program}\.p.*/{unit}\.cpp$")
    object_file = re.search(r"-o (\S*\.o)", compile_line).group(1)
    compile_line = compile_line.replace(" -I", f" -I{work} -I", 1).replace(f"-o {object_file}", f"-o {work}/k.o")
    compile_line = re.sub(r" -M[QF] \S+| -MD", "", compile_line)
    link_line = link_line.replace(f"-o {target}", f"-o {work}/test")
    if host:  # before the library that has the other one
        compile_line = re.sub(r"-c \S+", f"-c {work}/gpu/{unit}.c", compile_line)
        return [compile_line, link_line.replace("-Wl,--start-group", f"{work}/k.o -Wl,--start-group", 1)]
    return [compile_line, link_line.replace(object_file, f"{work}/k.o")]


def run(build, work, unit, file):
    codecs = ["l0 bf16", "l8 e4m3"] if file.startswith("l0_") else UNITS[unit] or [None]
    runs = [["1", "12"] + ([codec] if codec else []) for codec in codecs]
    if unit in PROGRAMS:
        runs = [[a if a.startswith("-") else os.path.join(build, a) for a in PROGRAMS[unit][1]]]
    for args in runs:
        r = subprocess.run([os.path.join(work, "test")] + args, capture_output=True, text=True, timeout=900)
        if r.returncode != 0:
            break
    return r


def verdict(build, work, lines, unit, file):
    """(what was said, by what it was caught or None)"""
    for line in lines:
        r = subprocess.run(line, shell=True, cwd=build, capture_output=True, text=True)
        if r.returncode != 0:
            return "does not compile: " + (r.stderr.splitlines() or ["?"])[0], None
    try:
        r = run(build, work, unit, file)
    except subprocess.TimeoutExpired:
        return "hangs", "hang"
    if r.returncode == 0:
        return "NOT CAUGHT", None
    said = (r.stderr + r.stdout).splitlines()
    for begin, by in ("race:", "race"), ("simt:", "harness"), ("# seed", "bytes"), ("not ok", "test"):
        line = next((l for l in said if l.startswith(begin)), None)
        if line is not None:
            return line[:150], by
    return f"status {r.returncode}", "crash"


def write(table, rows):
    known = {}
    if os.path.exists(table):
        with open(table) as f:
            known = {(r["file"], r["mutation"], int(r["nth"])): r["caught_by"] for r in csv.DictReader(f)}
    known.update(rows)
    with open(table, "w", newline="") as f:
        out = csv.writer(f, lineterminator="\n")
        out.writerow(FIELDS)
        out.writerows([*key, known[key]] for key, *_ in mutants() if key in known)


def check(table):
    with open(table) as f:
        rows = {(r["file"], r["mutation"], int(r["nth"])): r["caught_by"] for r in csv.DictReader(f)}
    names = [key for key, *_ in mutants()]
    bad = [f"{say(k)}: no row; run mutate.py" for k in names if k not in rows]
    bad += [f"{say(k)}: there is no such thing in gpu/ any more" for k in rows if k not in names]
    bad += [f"{say(k)}: not caught" for k in rows if rows[k] == "nothing"]
    print(f"{'not ok' if bad else 'ok'} 1 - {len(names)} mutations of gpu/ have a row each that says what caught them"
          + "".join(f"\n# {b}" for b in bad) + "\n1..1")
    return bool(bad)


def run_all(build, only, table):
    missed = count = 0
    with tempfile.TemporaryDirectory() as work:
        shutil.copytree(os.path.join(ROOT, "gpu"), os.path.join(work, "gpu"))
        os.symlink(os.path.join(ROOT, "kvwire"), os.path.join(work, "kvwire"))
        chosen = [m for m in mutants() if only in say(m[0])]
        lines = {unit: lines_of(build, work, unit) for unit in {unit_of(m[1]) for m in chosen}}
        for unit in lines:
            said, _ = verdict(build, work, lines[unit], unit, next(m[1] for m in chosen if unit_of(m[1]) == unit))
            if said != "NOT CAUGHT":
                print(f"{unit} as it is:", said)
                return 1
        for key, file, line, text in chosen:
            path = os.path.join(work, "gpu", file)
            saved = open(path).read()
            open(path, "w").write(text)
            said, by = verdict(build, work, lines[unit_of(file)], unit_of(file), file)
            open(path, "w").write(saved)
            count, missed = count + 1, missed + (by is None)
            print(f"{say(key)} ({file}:{line}): {said}", flush=True)
            if table:
                write(table, {key: by or "nothing"})
    print(f"{count - missed} of {count} caught")
    return missed > 0


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("build", nargs="?")
    p.add_argument("name", nargs="?", default="")
    p.add_argument("--write", metavar="TABLE")
    p.add_argument("--list", action="store_true")
    p.add_argument("--check", metavar="TABLE")
    a = p.parse_args()
    if a.list:
        print("\n".join(say(key) for key, *_ in mutants()))
        return 0
    if a.check:
        return check(a.check)
    if not a.build:
        p.error("BUILD is missing")
    return run_all(os.path.abspath(a.build), a.name, a.write)


sys.exit(main())
