#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Our tokenizer beside llama.cpp's: the same ids for 1,000 strings of every kind, or exit 1.

    pip install llama-cpp-python
    python tests/oracle/tokenizer.py build/tests/oracle/tokenize_lines MODEL.gguf
        --seed N        other strings (the default's figures are recorded in README.md)
        --golden FILE   write the expected ids that tests/engine/text/test_tok.c reads, and stop
        --code-points   also every code point in seven contexts (half a minute)
        --pre KIND      the same vocabulary under another tokenizer.ggml.pre

Also compared: each token's bytes, whether it is a control token, whether it ends generation, and
chat prompts against the model's own template run by jinja2.
"""
import argparse
import ctypes
import os
import random
import re
import struct
import subprocess
import sys
import tempfile
import time

import llama_cpp

# llama.cpp throws out of its C interface, and so ends the process, on the four-byte forms of
# numbers past U+10FFFF; it can't be asked about them.
DEADLY = re.compile(rb"\xf4[\x90-\xbf][\x80-\xbf]{2}|[\xf5-\xf7][\x80-\xbf]{3}")

STD_REGEX = ("default",)

WORDS = """the of and to in a is that for it was on are as with his they at be this from have or by
one had not but what all were when we there can an your which their said if do will each about how
up out them then she many some so these would other into has more two like him see time could no
make than first been its who now people my made over did down only way find use may water long
little very after words called just where most know prefill decode cache transfer layer Antidisestablishmentarianism
don't I'm you're they've he'll she'd it's DON'T can’t naïve café Zürich coöperate Übermut señor""".split()
CJK = "你好世界春眠不覺曉處處聞啼鳥日本語東京都渋谷区ひらがなカタカナ한국어안녕하세요"
ARABIC = "السلام عليكم كيف حالك ١٢٣٤٥ שלום עולם हिन्दी में नमस्ते ไทยสวัสดี ελληνικά кириллица"
EMOJI = ["😀", "👍🏽", "👩‍👩‍👧‍👦", "🏳️‍🌈", "🇩🇪", "🇯🇵", "❤️", "☃", "🧑🏿‍🚀", "1️⃣", "🫠", "\u200d", "\ufe0f"]
SPACES = ["\u0085", "\u00a0", "\u1680", "\u180e", "\u2000", "\u2003", "\u2009", "\u200a", "\u200b",
          "\u2028", "\u2029", "\u202f", "\u205f", "\u2060", "\u3000", "\ufeff", " ", "\t", "\n",
          "\v", "\f", "\r", "\x1c", "\x1f"]
CODE = ['int main(int argc, char **argv)\n{\n\treturn argc > 1 ? 0 : 1;\n}\n',
        'def f(x, *, y=None):\n    """Doc."""\n    return [i ** 2 for i in range(x) if i % 2 == 0]\n',
        'SELECT id, COUNT(*) FROM t WHERE a <> \'b\' GROUP BY 1 HAVING n >= 10;',
        '{"a": [1, 2.5e-10, null], "b": {"c": "d\\n"}}',
        '<div class="x" id=\'y\'>&amp;&nbsp;</div>',
        '#!/bin/sh\nset -eu\nfor f in *.c; do cc -O2 "$f" -o "${f%.c}" || exit 1; done\n',
        'fn main() -> Result<(), Box<dyn Error>> { println!("{:?}", vec![0u8; 16]); Ok(()) }',
        'x := map[string]int{"a": 1} // comment\n\n\n    y++\r\n',
        r'\begin{equation} \sum_{i=0}^{n} x_i^2 \leq \frac{1}{2} \end{equation}',
        'https://example.org/a/b?c=d&e=%20f#g user@example.org 192.168.0.1:8080 2026-11-23T12:00:00Z']


def specials(model):
    """Texts of the control tokens."""
    vocab = llama_cpp.llama_model_get_vocab(model._model.model)
    wanted = llama_cpp.LLAMA_TOKEN_ATTR_CONTROL | llama_cpp.LLAMA_TOKEN_ATTR_UNKNOWN
    return [llama_cpp.llama_vocab_get_text(vocab, i).decode() for i in range(model.n_vocab())
            if llama_cpp.llama_vocab_get_attr(vocab, i) & wanted]


class Strings:
    """Makers of strings, by kind; each takes no argument and returns bytes."""

    def __init__(self, seed, special_texts):
        self.r = random.Random(seed)
        self.special_texts = special_texts

    def words(self, n=None):
        r = self.r
        out = []
        for _ in range(n or r.randint(1, 60)):
            w = r.choice(WORDS)
            w = r.choice([w, w, w, w.upper(), w.capitalize(), w + r.choice(".,;:!?)\"'-…—")])
            out.append(w + r.choice([" ", " ", " ", " ", "  ", "\n", "\t", ""]))
        return "".join(out)

    def english(self):
        return self.words().encode()

    def code(self):
        return "".join(self.r.choice(CODE) for _ in range(self.r.randint(1, 4))).encode()

    def emoji(self):
        return "".join(self.r.choice(EMOJI + [" ", "a", "!"])
                       for _ in range(self.r.randint(1, 30))).encode()

    def cjk(self):
        return "".join(self.r.choice(CJK + "，。！？、 a1\n")
                       for _ in range(self.r.randint(1, 80))).encode()

    def scripts(self):
        words = ARABIC.split()
        return " ".join(self.r.choice(words) for _ in range(self.r.randint(1, 30))).encode()

    def combining(self):
        r = self.r
        return "".join(r.choice("aeiouncAEIOU xy1") + "".join(chr(r.randint(0x300, 0x36f))
                       for _ in range(r.randint(0, 4))) for _ in range(r.randint(1, 40))).encode()

    def control(self):
        r = self.r
        return bytes(r.choice([r.randint(0, 31), 127, 0, 32, 97, 48]) for _ in range(r.randint(1, 60)))

    def digits(self):
        r = self.r
        return "".join(r.choice("0123456789") * r.randint(1, 3) + r.choice(["", "", " ", ".", ",", "a",
                       "٣", "Ⅷ", "½", "²", "\U0001d7d9", "\U00011f50", "-", "e", "\n"])
                       for _ in range(r.randint(1, 60))).encode()

    def spaces(self):
        r = self.r
        return "".join(r.choice(SPACES) * r.randint(1, 4) + r.choice(["", "", "a", "B", "1", "!", "é"])
                       for _ in range(r.randint(1, 30))).encode()

    def contractions(self):
        r = self.r
        return "".join(r.choice(["'", "'", "’", "''", " '"]) + r.choice(["s", "t", "re", "ve", "m", "ll",
                       "d", "S", "T", "RE", "Ve", "lL", "x", "r", "l", "v", "", "1", " "])
                       + r.choice(["", "a", " "]) for _ in range(r.randint(1, 30))).encode()

    def code_points(self):
        r = self.r
        top = r.choice([0x7f, 0x7ff, 0xffff, 0x10ffff])
        return "".join(chr(r.randint(0, top)) for _ in range(r.randint(1, 60))).encode(
            "utf-8", "surrogatepass")

    def not_utf8(self):
        r = self.r
        while True:
            kind = r.randint(0, 3)
            if kind == 0:
                out = bytes(r.randint(0, 255) for _ in range(r.randint(1, 60)))
            elif kind == 1:
                out = bytes(r.choice(b"\x80\xbf\xc0\xc1\xc2\xe0\xed\xa0\xef\xf0\xf4\x8f\xff\xfe a1")
                            for _ in range(r.randint(1, 60)))
            else:  # whole text with bytes cut out or put in
                b = bytearray(r.choice([self.cjk, self.emoji, self.scripts])())
                for _ in range(r.randint(1, 6)):
                    at = r.randrange(len(b) + 1)
                    if kind == 2 and at < len(b):
                        del b[at]
                    else:
                        b.insert(at, r.randint(128, 255))
                out = bytes(b)
            if out and not DEADLY.search(out):
                return out

    def special(self):
        r = self.r
        out = []
        for _ in range(r.randint(1, 20)):
            t = r.choice(self.special_texts)
            out.append(r.choice([t, t, t[:-1], t[1:], t + t, "<" + t, t.upper(), " " + t + " ",
                                 t + "\n", self.words(3), "<|", "|>", "<", ">", "é"]))
        return "".join(out).encode()

    def long_run(self):
        r = self.r
        unit = r.choice([" ", "\n", "a", "A", "=", "-", "ab", "\r\n", "\t", "é", "你", "😀", " a",
                         "0", "\u3000", "the", "xyz ", "'s", ".", "\x00"])
        n = r.choice([1_000, 10_000, 100_000]) // len(unit)
        return (r.choice(["", "x", " "]) + unit * n + r.choice(["", "x", " ", "1"])).encode()

    def long_letters(self):
        r = self.r
        letters = r.choice(["abcdefghijklmnopqrstuvwxyz", "etaoinshr", "αβγδεζηθ", "啊吧才的"])
        return "".join(r.choice(letters) for _ in range(r.choice([1_000, 20_000, 100_000]))).encode()

    def mixed(self):
        makers = [self.english, self.code, self.emoji, self.cjk, self.scripts, self.combining,
                  self.digits, self.spaces, self.contractions, self.special]
        return b"".join(self.r.choice(makers)() for _ in range(self.r.randint(2, 6)))

    KINDS = [("english", 120), ("code", 60), ("emoji", 70), ("cjk", 70), ("scripts", 60),
             ("combining", 60), ("control", 60), ("digits", 80), ("spaces", 90),
             ("contractions", 60), ("code_points", 70), ("not_utf8", 80), ("special", 60),
             ("long_run", 30), ("long_letters", 10), ("mixed", 20)]

    def all(self):
        for kind, count in self.KINDS:
            for _ in range(count):
                yield kind, getattr(self, kind)()


class Ours:
    def __init__(self, program, model):
        self.p = subprocess.Popen([program, model], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def ask(self, what, payload):
        self.p.stdin.write(what + struct.pack("<I", len(payload)) + payload)
        self.p.stdin.flush()
        head = self.p.stdout.read(4)
        if len(head) != 4:
            sys.exit("our program ended")
        return self.p.stdout.read(struct.unpack("<I", head)[0])

    def ids(self, text, special):
        answer = self.ask(b"s" if special else b"e", text)
        return list(struct.unpack(f"<{len(answer) // 4}I", answer))

    def seconds(self, text):
        return struct.unpack("<Q", self.ask(b"t", text))[0] / 1e9

    def piece(self, token):
        answer = self.ask(b"p", struct.pack("<I", token))
        flags, = struct.unpack("<I", answer[:4])
        return answer[4:], bool(flags & 1), bool(flags & 2)

    def chat(self, messages):
        flat = "".join(f"{m['role']}\0{m['content']}\0" for m in messages)
        return self.ask(b"c", flat.encode()).decode()


def theirs(model, text, special):
    return model.tokenize(text, add_bos=False, special=special) if text else []


def compare_strings(ours, model, seed, bytes_max):
    rows, wrong, total = [], 0, [0, 0]
    per_kind = {}
    for kind, text in Strings(seed, specials(model)).all():
        if len(text) > bytes_max:
            continue
        same = True
        for special in (False, True):
            a, b = ours.ids(text, special), theirs(model, text, special)
            total[1] += len(b)
            if a != b:
                same = False
                at = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
                print(f"{kind}, parse_special={special}: differs at id {at}: ours {a[at:at + 8]}, "
                      f"llama.cpp {b[at:at + 8]}; text {text[:200]!r}", file=sys.stderr)
        n = per_kind.setdefault(kind, [0, 0, 0])
        n[0] += 1
        n[1] += same
        n[2] += len(text)
        total[0] += 1
        wrong += not same
    print("| kind | strings | bytes | identical |\n|---|---:|---:|---:|")
    for kind, (count, same, size) in per_kind.items():
        rows.append(f"| {kind} | {count} | {size:,} | {same} |")
    print("\n".join(rows))
    print(f"| **all** | **{total[0]:,}** | {sum(v[2] for v in per_kind.values()):,} | "
          f"**{total[0] - wrong:,}** |")
    print(f"\nEach with and without parse_special; {total[1]:,} ids in all.")
    return wrong


def compare_vocabulary(ours, model):
    vocab = llama_cpp.llama_model_get_vocab(model._model.model)
    buffer = ctypes.create_string_buffer(4096)
    wrong = 0
    for i in range(model.n_vocab()):
        n = llama_cpp.llama_token_to_piece(vocab, i, buffer, len(buffer), 0, True)
        expected = (buffer.raw[:max(n, 0)], bool(llama_cpp.llama_vocab_is_control(vocab, i)),
                    bool(llama_cpp.llama_vocab_is_eog(vocab, i)))
        if ours.piece(i) != expected:
            wrong += 1
            print(f"token {i}: ours {ours.piece(i)}, llama.cpp {expected}", file=sys.stderr)
    print(f"\nVocabulary: {model.n_vocab():,} tokens, {model.n_vocab() - wrong:,} with the same "
          "bytes, control flag and end flag.")
    return wrong


def compare_chat(ours, model, seed):
    if "tokenizer.chat_template" not in model.metadata:
        print("Chat: the file has no template.")
        return 0
    import jinja2
    template = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(
        model.metadata["tokenizer.chat_template"])
    strings = Strings(seed, specials(model))
    r, wrong, count = random.Random(seed), 0, 100
    for i in range(count):
        messages = [{"role": r.choice(["system", "user", "assistant"]) if j == 0 else
                     ["user", "assistant"][j % 2], "content": strings.words()}
                    for j in range(i % 6)]
        expected = template.render(messages=messages, add_generation_prompt=True)
        if ours.chat(messages) != expected:
            wrong += 1
            print(f"chat {messages}: ours {ours.chat(messages)!r}, template {expected!r}",
                  file=sys.stderr)
    print(f"Chat: {count} prompts, {count - wrong} the same as the template's.")
    return wrong


def compare_code_points(ours, model):
    wrong = count = 0
    for base in range(0, 0x110000, 64):
        for context in ("a%sb", "%s", " %s!", "1%s%s", ".%s x", "  %s\n", "\u00e9%s\u4e00"):
            lines = [context.replace("%s", chr(c)) for c in range(base, base + 64)]
            text = "\n".join(lines).encode("utf-8", "surrogatepass")
            count += 64
            if ours.ids(text, False) != theirs(model, text, False):
                wrong += 1
                print(f"near U+{base:04X} in {context!r}: differs", file=sys.stderr)
    print(f"Code points: {count:,} strings, {wrong} groups of 64 differ.")
    return wrong


def speed(ours, model, seed):
    """Both in this run, the best of five, English-like and code."""
    s = Strings(seed, specials(model))
    text = b""
    while len(text) < 1 << 20:
        text += s.english() + s.code()
    a = min(ours.seconds(text) for _ in range(5))
    b = 1e9
    for _ in range(5):
        start = time.monotonic()
        theirs(model, text, False)
        b = min(b, time.monotonic() - start)
    size = len(text) / 1e6
    print(f"Speed, {size:.2f} MB of English and code, one thread, best of five: ours "
          f"{size / a:.1f} MB/s, llama.cpp {size / b:.1f} MB/s, {b / a:.1f} times.")


def write_golden(model, path, seed):
    """A few strings of every kind that fit into a small file: special, text in hex, ids."""
    per_kind = {}
    with open(path, "w", encoding="ascii") as f:
        f.write("# special text-in-hex ids; written by tests/oracle/tokenizer.py --golden\n")
        for kind, text in Strings(seed, specials(model)).all():
            if len(text) > 220 or per_kind.get(kind, 0) >= 30:
                continue
            per_kind[kind] = per_kind.get(kind, 0) + 1
            for special in (0, 1) if kind in ("special", "mixed") else (0,):
                ids = ",".join(str(i) for i in theirs(model, text, bool(special)))
                f.write(f"{special} {text.hex()} {ids}\n")


def with_pre(path, kind, directory):
    """A copy of the file's metadata, without tensors, under another tokenizer.ggml.pre."""
    with open(path, "rb") as f:
        b = f.read(64 << 20)
    sizes = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}

    def string(at):
        return at + 8 + struct.unpack_from("<Q", b, at)[0]

    def value(kind, at):
        if kind == 8:
            return string(at)
        if kind != 9:
            return at + sizes[kind]
        element, count = struct.unpack_from("<IQ", b, at)
        at += 12
        if element != 8:
            return at + sizes[element] * count
        for _ in range(count):
            at = string(at)
        return at

    out, at = [b[:8], struct.pack("<Q", 0), b[16:24]], 24
    for _ in range(struct.unpack_from("<Q", b, 16)[0]):
        key_end = string(at)
        end = value(struct.unpack_from("<I", b, key_end)[0], key_end + 4)
        if b[at + 8:key_end] == b"tokenizer.ggml.pre":
            out.append(b[at:key_end + 4] + struct.pack("<Q", len(kind)) + kind.encode())
        else:
            out.append(b[at:end])
        at = end
    path = os.path.join(directory, f"vocab-{kind}.gguf")
    with open(path, "wb") as f:
        f.write(b"".join(out))
    return path


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("model")
    parser.add_argument("--seed", type=int, default=20261123)
    parser.add_argument("--golden")
    parser.add_argument("--code-points", action="store_true")
    parser.add_argument("--pre")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        if args.pre:
            args.model = with_pre(args.model, args.pre, directory)
        return run(args)


def run(args):
    model = llama_cpp.Llama(args.model, vocab_only=True, verbose=False)
    if args.golden:
        write_golden(model, args.golden, args.seed)
        return 0
    print(f"llama-cpp-python {llama_cpp.__version__}, {os.path.basename(args.model)}, "
          f"seed {args.seed}\n")
    ours = Ours(args.program, args.model)
    # Where llama.cpp uses std::regex, it recurses for every character of a run.
    wrong = compare_strings(ours, model, args.seed, 10_100 if args.pre in STD_REGEX else 1 << 30)
    if args.pre in STD_REGEX:
        return 1 if wrong else 0
    wrong += compare_vocabulary(ours, model)
    wrong += compare_chat(ours, model, args.seed)
    if args.code_points:
        wrong += compare_code_points(ours, model)
    speed(ours, model, args.seed)
    print("\nidentical" if wrong == 0 else f"\n{wrong} DIFFERENCES")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
