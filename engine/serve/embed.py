# SPDX-License-Identifier: Apache-2.0
"""embed.py IN OUT: a text file as a C string, kve_page (page.h)."""
import sys

text = open(sys.argv[1], encoding="utf-8").read()
with open(sys.argv[2], "w", encoding="utf-8") as out:
    out.write('extern const char kve_page[];\n\nconst char kve_page[] = {\n')
    data = text.encode() + b"\0"
    for at in range(0, len(data), 20):
        out.write(" ".join("%d," % (b - 256 if b > 127 else b) for b in data[at:at + 20]) + "\n")
    out.write("};\n")
