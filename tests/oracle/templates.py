#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Our prompts beside the chat templates themselves, run by Jinja2: 200 conversations each.

    oracle/bin/python tests/oracle/templates.py [--programs build/tests/oracle] [--model MODEL.gguf] [FILE.jinja...]

Templates: the model's own, those that llama-cpp-python brings, and any that are given. Each is put into a small vocabulary
and asked for a prompt. Conversations have every order of roles, blanks around what is said, thoughts, and answers of tools;
where a template raises an error ours must refuse, too. A template that isn't known is refused, and said so. Exits 1 on any
difference. Needs llama-cpp-python and jinja2.
"""
import argparse
import os
import random
import sys
import tempfile

import jinja2
import llama_cpp
from llama_cpp import llama_chat_format

from tokenizer import Ours, Strings

here = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(here, "../engine/model"))
import families  # noqa: E402  pylint: disable=wrong-import-position

COUNT = 200
AROUND = ["", "", "", " ", "\n", "\n\n ", "\u00a0", "\u3000\t", "\x1c", "\u200b"]


def conversations(seed):
    r = random.Random(seed)
    words = Strings(seed, ["<|im_end|>"]).words

    def said(role):
        text = r.choice(AROUND) + words(r.randint(1, 9)) + r.choice(AROUND)
        if role == "assistant" and r.random() < 0.4:
            thought = r.choice(["", "\n", "\n\n"]) + words(3) + r.choice(["", "\n"])
            text = r.choice(["<think>", "", "x<think>"]) + thought + "</think>" + r.choice(["", "\n", "\n\n"]) + text
        if role == "user" and r.random() < 0.1:
            text = "<tool_response>" + text.strip() + "</tool_response>"
        return r.choice(["", text]) if r.random() < 0.05 else text

    for i in range(COUNT):
        if i % 3 == 0:  # any order
            roles = [r.choice(["system", "user", "assistant", "tool", "other"]) for _ in range(r.randint(0, 7))]
        else:
            roles = ["system"] * r.randint(0, 1) + ["user", "assistant"] * r.randint(0, 4) + ["user"] * r.randint(0, 1)
        yield [{"role": role, "content": said(role)} for role in roles]


class Raised(Exception):
    pass


def raise_exception(message):
    raise Raised(message)


def check(programs, folder, name, template):
    keys = {**families.bpe(512, "qwen2", template), "general.architecture": (families.STRING, "llama")}
    path = os.path.join(folder, "vocabulary.gguf")
    families.write(path, keys, {})
    ours = Ours(os.path.join(programs, "tokenize_lines"), path)
    bos = keys["tokenizer.ggml.tokens"][1][1][keys["tokenizer.ggml.bos_token_id"][1]]
    jinja = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    jinja.globals["raise_exception"] = raise_exception
    compiled = jinja.from_string(template)
    same = refused = 0
    for messages in conversations(20261130):
        try:
            expected = compiled.render(messages=messages, add_generation_prompt=True, bos_token=bos)
        except (Raised, jinja2.UndefinedError):
            expected = None
        got = ours.chat(messages)
        if got.startswith("\0tokenizer.chat_template"):
            print(f"not ok - {name}: {got[1:]}")
            return 1
        got = None if got.startswith("\0") else got
        same += got == expected
        refused += expected is None
        if got != expected and same + 5 > COUNT:
            print(f"#  {messages}\n#  ours     {got!r}\n#  template {expected!r}")
    print(f"{'ok' if same == COUNT else 'not ok'} - {name}: {same} of {COUNT} conversations, {refused} of them refused by both")
    return same != COUNT


def main():
    cache = os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache"))
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--programs", default=os.path.join(here, "../../build/tests/oracle"))
    p.add_argument("--model", default=os.path.join(cache, "kvwire/SmolLM2-135M-Instruct.Q4_1.gguf"))
    p.add_argument("files", nargs="*")
    args = p.parse_args()
    model = llama_cpp.Llama(args.model, vocab_only=True, verbose=False)
    templates = {"the model's": model.metadata["tokenizer.chat_template"],
                 "chatml": llama_chat_format.CHATML_CHAT_TEMPLATE,
                 "Llama 3": llama_chat_format.LLAMA3_INSTRUCT_CHAT_TEMPLATE}
    for path in args.files:
        with open(path, encoding="utf-8", newline="") as f:
            templates[os.path.basename(path)] = f.read()
    bad = 0
    with tempfile.TemporaryDirectory() as folder:
        for name, template in templates.items():
            bad += check(args.programs, folder, name, template)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
