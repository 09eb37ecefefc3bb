#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Empty stand-ins for the CUDA libraries that a PyPI torch wheel links, so that `pip install --no-deps torch` works on a CPU-only machine.
argv: torch/lib folder, out folder.  Needs binutils (readelf) and gcc.  Every stub function returns 100 (cudaErrorNoDevice)."""
import sys, os, re, subprocess, glob
lib, out = sys.argv[1:3]; os.makedirs(out, exist_ok=True)
sos = [f for f in glob.glob(lib + "/*.so*") if os.path.isfile(f)]
PAT = re.compile(r"^lib(cud|cu[a-z]+|nv|nccl)")
need, und, defd, versions = set(), {}, set(), {}
for f in sos:
    d = subprocess.run(["readelf", "-dW", f], capture_output=True, text=True).stdout
    need |= {n for n in re.findall(r"NEEDED.*\[(.+?)\]", d) if PAT.match(n)}
    v = subprocess.run(["readelf", "-VW", f], capture_output=True, text=True).stdout; cur = None
    for l in v.splitlines():
        m = re.search(r"File: (\S+)", l); cur = m.group(1) if m else cur
        m = re.search(r"Name: (\S+)\s+Flags", l)
        if m and cur: versions.setdefault(m.group(1), cur)
    for l in subprocess.run(["readelf", "--dyn-syms", "-W", f], capture_output=True, text=True).stdout.splitlines():
        p = l.split()
        if len(p) < 8 or not p[0].rstrip(":").isdigit(): continue
        name, _, ver = p[7].partition("@"); ver = ver.lstrip("@")
        if p[6] == "UND":
            if p[4] != "WEAK" or ver in versions: und[(name, ver)] = p[3]
        else: defd.add(name)
need -= {os.path.basename(f) for f in sos}
table = {n: {} for n in need}; loose = set()
for (name, ver), typ in und.items():
    if ver and versions.get(ver) in table: table[versions[ver]].setdefault(ver, set()).add(name)
    elif not ver and name not in defd: loose.add(name)
loose = {n for n in loose if re.match(r"^(cu|nv|nccl|__cuda|cudnn|cublas|CUPTI|cupti|cufft|curand|cusp|cusolver)", n)}
home = "libcudnn.so.9" if "libcudnn.so.9" in table else sorted(table)[0]
for so, vers in sorted(table.items()):
    c, m, done = [], [], set()
    for i, (ver, names) in enumerate(sorted(vers.items())):
        m.append(f"{ver} {{ global: {'; '.join(sorted(names))}; }};")
        c += [f"long {n}(void) {{ return 100; }}" for n in sorted(names) if n not in done]; done |= names
    if so == home: c += [f"long {n}(void) {{ return 100; }}" for n in sorted(loose) if n not in done]
    src, mp = f"{out}/{so}.c", f"{out}/{so}.map"
    open(src, "w").write("\n".join(c) + "\nint kvw_stub_%s;\n" % re.sub(r"\W", "_", so)); open(mp, "w").write("\n".join(m) + "\n")
    a = ["gcc", "-shared", "-fPIC", "-fno-builtin", "-w", "-Wl,-soname," + so, src, "-o", f"{out}/{so}"] + (["-Wl,--version-script=" + mp] if m else [])
    r = subprocess.run(a, capture_output=True, text=True); print(so, sum(map(len, vers.values())), "versioned", len(loose) if so == home else 0, "loose", r.stderr[:300] if r.returncode else "ok")
