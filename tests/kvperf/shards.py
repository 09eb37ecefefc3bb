# SPDX-License-Identifier: Apache-2.0
"""kvperf --tp: shards on either side, equal in number or not, have exactly their heads' bytes; a broken byte of one is seen."""
from tool import DATA, SMALL, Server, USAGE, expect, one_sentence, run, rows, valid

HOW = ["--codec", "raw", "-O", "0", "--json"]


def whole_bytes(r, tp):
    """What all shards of the receiver have together, and each of them."""
    return r["config"]["bytes"] * (tp if r["config"]["geometry"]["name"] == "deepseek-v3" else 1)


def shards_have_their_heads():
    for model, sender, receiver in (("llama-3.1-8b", 4, 2), ("llama-3.1-8b", 2, 4), ("llama-3.1-8b", 1, 8), ("smollm2-135m", 3, 1),
                                    ("qwen3-8b", 8, 8), ("deepseek-v3", 4, 2)):
        tp = "%d:%d" % (sender, receiver)
        r = valid(run("kv", "--model", model, "--tokens", "40", "--tp", tp, "-n", "2", *HOW).stdout)
        expect((r["config"]["tp_sender"], r["config"]["tp_receiver"]) == (sender, receiver), "%s" % r["config"])
        bytes_ = whole_bytes(r, receiver)
        for x in r["rows"]:
            expect(x["bytes_raw"] == 2 * bytes_ == x["data"]["bytes_compared"] and x["data"]["verdict"] == "equal", "%s %s: %s" % (model, tp, x))
            expect([y["bytes_raw"] for y in x["shards"]] == [2 * bytes_ // receiver] * receiver, "%s %s: %s" % (model, tp, x["shards"]))
            last = max(y["exposed_ms_mean"] for y in x["shards"])
            expect(last <= sum(x["samples_exposed_ms"]) / 2 + 1e-6, "%s %s: the last shard has %s ms of %s" % (model, tp, last, x["samples_exposed_ms"]))


def shards_of_two_programs():
    with Server() as s:
        r = valid(s.kv("--tp", "3:1", "-P", "2", "-n", "1", *SMALL, *HOW).stdout)
        expect(all(x["data"]["verdict"] == "equal" for x in r["rows"]), "%s" % r["rows"])
        expect(rows(r)[0]["bytes_raw"] == 2 * r["config"]["bytes"] == rows(r)[0]["shards"][0]["bytes_raw"], "%s" % rows(r))
        s.kv("-n", "1", *SMALL)


def a_broken_byte_of_a_shard_is_seen():
    r = valid(run("kv", *SMALL, "--tp", "1:3", "-n", "1", "--flip-byte", *HOW, code=DATA).stdout)
    expect(all(x["data"]["verdict"] == "wrong" and x["data"]["bytes_different"] == 1 for x in r["rows"]), "%s" % r["rows"])
    out = run("kv", *SMALL, "--tp", "1:3", "-n", "1", "-O", "0", "--codec", "raw", "--no-gantt").stdout
    expect("1 shards to 3" in out and "shards, raw: 3.9 MB" in out, out)


def shards_that_cannot_be():
    for words, says in ((["--tp", "3"], ["--tp 3", "8 rows"]), (["--tp", "9"], ["--tp 9"]), (["--tp", "2:"], ["--tp"]),
                        (["--tp", "2", "--net", "dpdk"], ["--tp", "--net udp"]), (["--tp", "4:8", "-P", "9"], ["--tp 4:8", "64"])):
        one_sentence(run("kv", *words, code=USAGE), *says)
    one_sentence(run("sweep", "--tp", "2", code=USAGE), "--tp", "kv, bw and lat")


TESTS = [shards_have_their_heads, shards_of_two_programs, a_broken_byte_of_a_shard_is_seen, shards_that_cannot_be]
