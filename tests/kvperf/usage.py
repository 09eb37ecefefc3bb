# SPDX-License-Identifier: Apache-2.0
"""kvperf told wrongly, or to write where it can't: one sentence, the exit status of thresholds and of usage, and what --help teaches."""
import socket
import subprocess

from tool import FAILED, KVPERF, SMALL, Server, THRESHOLD, USAGE, expect, one_sentence, run, valid


def thresholds():
    one_sentence(run("kv", *SMALL, "-n", "1", "--no-gantt", "--max-exposed-ms", "0", code=THRESHOLD), "--max-exposed-ms is 0")
    one_sentence(run("kv", *SMALL, "-n", "7", "--min-percent-of-floor", "1000", code=THRESHOLD), "--min-percent-of-floor is 1000")
    run("kv", *SMALL, "-n", "1", "--max-exposed-ms", "1e9", "--min-percent-of-floor", "0")


def wrong_usage():
    for args, words in ((["kv", "--tokens", "0"], ["--tokens 0", "1 to"]), (["kv", "--tokens", "1.5"], ["--tokens 1.5"]),
                        (["kv", "--tokens", "8q"], ["--tokens 8q"]), (["kv", "--model", "gpt-5"], ["--model gpt-5", "llama-3.1-8b"]),
                        (["kv", "--codec", "mp3"], ["--codec mp3", "l0"]), (["kv", "--codec", ""], ["--codec"]),
                        (["kv", "--dtype", "int4"], ["--dtype int4", "nvfp4"]), (["kv", "--fast"], ["--fast", "not an option"]),
                        (["kv", "--tokens"], ["--tokens", "needs a value"]), (["kv", "--order", "x"], ["--order x", "random"]),
                        (["kv", "host", "more"], ["more"]), (["client"], ["host"]), (["bench"], ["no command bench"]),
                        (["server", "--tokens", "5"], ["--tokens", "client"]), (["kv", "-1"], ["--one-off", "server"]),
                        (["kv", "--geometry", "/nowhere"], ["/nowhere", "No such file"]), (["kv", "--link", "x"], ["--link"]),
                        (["kv", "--payload", "zero"], ["--payload zero"]), (["kv", "--tokens", "1,2"], ["--tokens 1,2", "sweep"]),
                        (["sweep", "--tokens", "1,,2"], ["--tokens 1,,2", "comma"]), (["kv", "--codec", "l0,"], ["--codec l0,", "comma"]),
                        (["kv", "--seed", "1.5"], ["--seed 1.5", "whole"]),
                        (["kv", "--max-memory", "1"], ["--max-memory", "sweep"]), (["kv", "--piece", "1"], ["--piece", "batch"]),
                        (["batch", "--pieces", "0"], ["--pieces 0", "100000"]), (["batch", "--op", "x"], ["--op x", "write"]),
                        (["batch", "--piece", "4k,x"], ["--piece x"]), (["kv", "-i", "0"], ["--interval 0"]), (["replay"], ["--trace"]),
                        (["doctor", "-x"], ["kvperf doctor"]), (["kv", "h", "--net", "dpdk"], ["--link"])):
        one_sentence(run(*args, code=USAGE), *words)
    one_sentence(run("kv", *SMALL, "--payload", "file:/nowhere", code=FAILED), "/nowhere", "No such file")
    one_sentence(run("kv", *SMALL, "--fault", "nonsense=1", code=FAILED), "nonsense")


def help_teaches():
    for args, words in ((["--help"], ["kvperf kv", "Exit:"]), (["kv", "--help"], ["--max-exposed-ms", "--codec"]),
                        (["server", "--help"], ["--one-off"]), (["--version"], ["kvperf 0"]),
                        (["kv", "--model", "list"], ["llama-3.1-405b", "516096"])):
        out = run(*args).stdout
        expect(all(w in out for w in words) and all(len(x) <= 132 for x in out.splitlines()), out)


def disk_full():
    p = run("kv", *SMALL, "-n", "1", "--no-gantt", "-o", "/dev/full", code=FAILED)
    one_sentence(p, "/dev/full", "No space left")
    expect("streamed  auto" in p.stdout, "the table is missing: %s" % p.stdout)
    with open("/dev/full", "w") as full:
        p = subprocess.run([KVPERF, "kv", "--json"] + SMALL + ["-n", "1"], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    expect(p.returncode == FAILED, "exit %d" % p.returncode)
    one_sentence(p, "standard output", "No space left")


def no_output_is_no_success():
    """On a full disk, and where there is no standard output at all, alone or beside standard input; a control that has one."""
    for args in (["plan", "--codec", "raw"], ["codec", "--codec", "raw", "--json"], ["--help"], ["--version"], ["doctor"], ["doctor", "--json"],
                 ["kv", "--model", "list"], ["kv", "--no-gantt", "-n", "1"] + SMALL):
        for redirect in (">/dev/full <&-", ">&- <&-", ">&- </dev/null"):
            p = subprocess.run(["sh", "-c", '"$0" "$@" %s' % redirect, KVPERF] + args, capture_output=True, text=True, timeout=60)
            expect(p.returncode == FAILED, "%s %s: exit %d" % (args, redirect, p.returncode))
            one_sentence(p, "standard output")
    expect("kvperf 0" in run("--version").stdout, "the control")


def texts_of_any_bytes():
    """A title, a command and a server's words that aren't UTF-8, or would be orders to a terminal."""
    p = subprocess.run([KVPERF.encode(), b"kv", b"--json", b"--title", b"a\xed\xa0\x80\xff\xc3\xa9"] + [x.encode() for x in SMALL] + [b"-n", b"1"],
                       capture_output=True, timeout=60)
    expect(valid(p.stdout.decode())["start"]["title"] == "a????\u00e9", "%s" % p.stdout[:300])
    with Server() as s:
        with socket.create_connection(("127.0.0.1", s.port), timeout=10) as c, c.makefile() as lines:
            lines.readline()
            c.sendall(b'{"type":"hello","protocol":1,"command":"\\u001b[2Jx\xc2\x9b"}\n{"type":"\x1bnonsense"}\n')
            expect("?nonsense" in lines.readline(), "the error names what was said, made harmless")
        seen = s.p.stdout.readline() + s.p.stdout.readline()
        expect("?[2Jx?" in seen and "\x1b" not in seen, "the server printed %r" % seen)


TESTS = [thresholds, wrong_usage, help_teaches, disk_full, no_output_is_no_success, texts_of_any_bytes]
