#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""kvperf as a user runs it: results that hold together and say what really was, a broken byte that is seen, and every
way to fail with one sentence, its exit status, and what had been measured. Some seconds; both ends on this host."""
import copy
import csv
import html.parser
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree

import doctor
import schema
import shards
import usage
from tool import (DATA, FAILED, INTERRUPTED, KVPERF, ROOT, SCHEMA, SERVER, SMALL, Server, Skipped, THRESHOLD, USAGE, Wrong, ended, expect,
                  free_port, one_sentence, rows, run, valid)

sys.path.insert(0, os.path.join(ROOT, "tests", "lab"))
import lab as labs  # noqa: E402


# --- results


def floor_of(row, config, bulk_ms, bulk_bytes):
    """stats.h's formula again, for a model whose layers are equal."""
    layers, at = row["layers"], 0
    each = row["bytes_wire"] / row["rounds"] / len(layers)
    for layer in layers:
        at = max(at, layer["computed_ms"]) + each / (bulk_bytes / bulk_ms)
    return at - layers[-1]["computed_ms"]


def a_result_that_holds_together():
    r = valid(run("kv", *SMALL, "--codec", "raw,l0,e8", "-n", "3", "--json").stdout)
    expect([x["name"] for x in r["rows"]] == ["bulk", "after", "streamed", "streamed", "streamed"], "rows %s" % r["rows"])
    bytes_ = 30 * 3 * 64 * 2 * 2 * 512
    expect(r["config"]["bytes"] == bytes_ and r["end"] == {"complete": True, "exit": 0, "error": ""}, "%s" % r["end"])
    bulk = rows(r, "bulk")[0]
    for x in r["rows"]:
        expect(x["rounds"] == 3 and x["exposed_ms"]["n"] == 3 == len(x["samples_exposed_ms"]), "rounds of %s" % x)
        expect(x["bytes_raw"] == 3 * bytes_ == x["data"]["bytes_compared"], "bytes of %s" % x)
        expect(len(x["layers"]) == 30 and all(y["landed_ms"] >= y["computed_ms"] for y in x["layers"]), "layers of %s" % x)
        expect(abs(x["gb_per_s"] - bytes_ / x["total_ms"]["p50"] / 1e6) < 1e-6 * x["gb_per_s"], "GB/s of %s" % x)
        expect(x["packets_sent"] >= x["chunks"] > 0 and x["packets_retransmitted"] < x["packets_sent"], "packets of %s" % x)
        expect(x["cpu_s_per_gib_sender"] > 0 and x["cpu_s_per_gib_receiver"] > 0, "CPU of %s" % x)
    for x in rows(r):
        last = max(y["landed_ms"] for y in x["layers"])
        expect(abs(x["exposed_ms"]["p50"] - (last - x["layers"][-1]["computed_ms"])) < 1e-6, "exposed of %s" % x)
        expect(abs(x["layers"][-1]["computed_ms"] - 512 / 20) < 1e-9, "the clock of %s" % x)
        mine = floor_of(x, r["config"], bulk["total_ms"]["p50"], bulk["bytes_wire"] / 3)
        expect(abs(mine - x["floor_ms"]) < 1e-3 * x["floor_ms"], "floor %s, not %s" % (x["floor_ms"], mine))
        expect(abs(x["percent_of_floor"] - 100 * x["floor_ms"] / x["exposed_ms"]["p50"]) < 1e-6, "%s" % x)
        expect(x["overlap_percent"] > 0, "nothing went beside the prefill: %s" % x)


def a_payload_as_recorded():
    """l0 and e8 make of it what they make of recorded KV (compress/RESULTS-entropy.md: 1.49 to 1.52; 3.1)."""
    r = valid(run("kv", *SMALL, "--tokens", "2048", "--codec", "raw,l0,e8", "-n", "1", "-O", "0", "--json").stdout)
    raw, l0, e8 = rows(r)
    expect(raw["data"]["verdict"] == l0["data"]["verdict"] == "equal", "%s %s" % (raw["data"], l0["data"]))
    expect(1.42 < l0["ratio"] < 1.58 and 2.5 < e8["ratio"] < 3.4, "ratios %s %s" % (l0["ratio"], e8["ratio"]))
    expect(e8["data"]["verdict"] == "within the codec's bound" and 0.005 < e8["data"]["noise"] < 0.04, "%s" % e8["data"])
    expect(l0["codecs_used"] == {"l0": 1} and e8["codecs_used"] == {"e8": 1}, "%s %s" % (l0, e8))


def random_bits_do_not_shrink():
    r = valid(run("kv", *SMALL, "--codec", "l0", "-n", "1", "--payload", "random", "--json").stdout)
    expect(0.95 < rows(r)[0]["ratio"] < 1.02 and rows(r)[0]["data"]["verdict"] == "equal", "%s" % rows(r)[0])


def a_broken_byte_is_seen():
    r = valid(run("kv", *SMALL, "--codec", "raw", "-n", "1", "--flip-byte", "--json", code=DATA).stdout)
    expect(all(x["data"]["verdict"] == "wrong" and x["data"]["bytes_different"] == 1 for x in r["rows"]), "%s" % r["rows"])
    p = run("kv", *SMALL, "--codec", "raw", "-n", "1", "--flip-byte", code=DATA)
    one_sentence(p, "1 of 11796480 bytes", "differ")


def the_schema_refuses_what_it_does_not_know():
    good = valid(run("kv", *SMALL, "-n", "1", "-O", "0", "--json").stdout)
    for spoil in (lambda r: r.update(schema=2), lambda r: r["rows"][0].pop("name"), lambda r: r["rows"][2].update(speed=1),
                  lambda r: r["end"].update(exit=7), lambda r: r["rows"][2].update(ratio="1.5")):
        bad = copy.deepcopy(good)
        spoil(bad)
        expect(len(list(schema.faults(bad, SCHEMA))) == 1, "a spoilt result was taken")


def every_kind_of_state():
    for model, more in (("gpt-oss-120b", ()), ("deepseek-v4-like", ()), ("qwen3.5-like", ()), ("deepseek-v3", ("--dtype", "fp8")),
                        ("qwen3-8b", ("--dtype", "nvfp4")), ("smollm2-135m", ("--layout", "head")),
                        ("smollm2-135m", ("--layout", "block", "--block-tokens", "16,64", "--prefill-chunk", "100", "-P", "3"))):
        r = valid(run("kv", "--model", model, "--tokens", "300", "-n", "1", "-O", "0", "--json", *more).stdout)
        expect(all(x["data"]["verdict"] == "equal" for x in r["rows"]), "%s: %s" % (model, [x["data"] for x in r["rows"]]))


def a_geometry_from_a_file(path="/tmp/kvperf-test-%d.json" % os.getpid()):
    part = {"name": "k", "dtype": "bf16", "row_bytes": 256, "rows": 2}
    try:
        for groups, code, words in (([{"parts": [part]}], 0, ()), ([{"parts": [dict(part, rows=0)]}], USAGE, ("rows is 0",)),
                                    ([{"parts": [dict(part, dtype="int3")]}], USAGE, ("dtype",)),
                                    ([{"parts": [part], "pattern": "01"}], USAGE, ("layer 0 is in no group",)),
                                    ([{"parts": [part], "windowtokens": 8}], USAGE, ("windowtokens", "groups[]")),
                                    ([{"parts": [dict(part, head=1)]}], USAGE, ("head", "parts[]"))):
            json.dump({"name": "mine", "layers": 4, "prefill_tok_s": 10000, "groups": groups}, open(path, "w"))
            p = run("kv", "--geometry", path, "--tokens", "100", "-n", "1", "-O", "0", "--json", code=code)
            if code:
                one_sentence(p, path, *words)
            else:
                expect(valid(p.stdout)["config"]["bytes"] == 4 * 512 * 100, "bytes of %s" % p.stdout[:200])
        whole = json.dumps({"layers": 4, "prefill_tok_s": 10000, "groups": [{"parts": [part]}]}).encode()
        for behind, words in ((b"\0 {}", "not JSON"), (b" {}", "not JSON")):
            open(path, "wb").write(whole + behind)
            one_sentence(run("plan", "--geometry", path, code=USAGE), path, words)
        json.dump({"layers": 4, "prefill_tok_s": 10000, "dtype": "f16", "groups": [{"parts": [part]}]}, open(path, "w"))
        one_sentence(run("plan", "--geometry", path, code=USAGE), path, "dtype", "a geometry")
    finally:
        os.unlink(path)


def the_local_dpdk_link():
    p = subprocess.run([KVPERF, "kv", "--net", "?"], capture_output=True, text=True)
    r = valid(run("kv", *SMALL, "--net", "dpdk", "-n", "1", "--json").stdout)
    expect(r["path"]["net"] == "dpdk" and rows(r)[0]["codecs_used"] == {"raw": 1}, "%s" % r["path"])
    expect(p.returncode == USAGE, "--net ? was taken")


def on_a_device(server, client, start):
    """Every codec over one node on either side: a device has one address."""
    codecs = ["raw", "l0", "e8", "auto"]
    how = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    there = start("b", [KVPERF, "server", "-1", "--net", "dpdk"] + server, **how)
    try:
        there.stdout.readline()
        here = start("a", [KVPERF, "kv"] + client + SMALL + ["--net", "dpdk", "-n", "1", "--codec", ",".join(codecs), "--json"], **how)
        r = valid(ended(here, 0, 60).stdout)
        expect([list(x["codecs_used"]) for x in rows(r)[:3]] == [[c] for c in codecs[:3]], "%s" % [x["codecs_used"] for x in rows(r)])
        expect(all(x["data"]["verdict"] != "WRONG" for x in r["rows"]), "bytes")
    finally:
        there.kill()
        there.communicate()


def a_device_between_two():
    with tempfile.TemporaryDirectory() as folder:
        port, link = str(free_port() % 30000 + 20000), ["--link", "memif:" + os.path.join(folder, "m")]
        on_a_device(["-B", "127.0.0.1", "-p", port] + link, ["127.0.0.1", "-p", port] + link, lambda _, words, **how: subprocess.Popen(words, **how))


def an_interface_between_two():
    try:
        labs.check()
    except labs.NoLab as e:
        raise Skipped(str(e))
    with labs.Lab() as lab:
        on_a_device(["-B", labs.IP["b"], "--link", lab.af_packet("b")],
                    [labs.IP["b"], "--link", lab.af_packet("a"), "--peer", labs.IP_DPDK["b"] + ":7400"], lab.popen)


def a_slow_prefill_hides_nearly_all():
    r = valid(run("kv", "--model", "smollm2-135m", "--tokens", "2048", "--prefill-rate", "4000", "-n", "3", "--codec", "raw",
                  "--json").stdout)
    after, streamed = rows(r, "after")[0], rows(r)[0]
    expect(streamed["exposed_ms"]["p50"] < 0.5 * after["exposed_ms"]["p50"] and streamed["overlap_percent"] > 50,
           "exposed %s of %s, overlap %s" % (streamed["exposed_ms"], after["exposed_ms"], streamed["overlap_percent"]))


def the_table_and_its_picture():
    out = run("kv", *SMALL, "--codec", "raw,l0", "-n", "1", "-T", "a title").stdout
    expect(out.startswith("a title\n") and out.count("\nstreamed ") >= 4, out)
    gantt = out.split("streamed l0, the run with")[1].splitlines()[2:]
    bars = [line for line in gantt if "=" in line or "#" in line]
    expect(len(bars) == 30, "%d bars, not one a layer:\n%s" % (len(bars), "\n".join(gantt)))


# --- the other modes


def bandwidth_and_latency():
    r = valid(run("bw", "--model", "smollm2-135m", "--codec", "raw,l0", "-n", "2", "--json").stdout)
    expect([x["name"] for x in r["rows"]] == ["bulk", "all", "all"] and r["mode"] == "bw", "%s" % r["rows"])
    expect(all(abs(x["exposed_ms"]["p50"] - x["total_ms"]["p50"]) < 1e-9 for x in r["rows"]), "no prefill, so all is exposed")
    r = valid(run("lat", "--model", "smollm2-135m", "--codec", "raw", "-n", "20", "--json").stdout)
    expect(r["config"]["tokens"] == 16 and rows(r, "all")[0]["total_ms"]["n"] == 20, "%s" % r["config"])


def what_is_sent_again_is_told():
    r = valid(run("bw", *SMALL, "--codec", "raw", "-n", "2", "--fault", "loss=0.05,seed=7", "--json").stdout)
    for x in r["rows"]:
        expect(0.02 * x["packets_sent"] < x["packets_retransmitted"] < 0.5 * x["packets_sent"], "%s" % x)
        expect(x["data"]["verdict"] == "equal", "%s" % x["data"])


def batches_beside_contiguous():
    words = ["batch", "--pieces", "100", "--piece", "100,5000", "--depth", "3", "--posts", "5", "-n", "2", "-O", "0"]
    r = valid(run(*words, "--json").stdout, "batch")
    want = [(op, order, size) for size in (100, 5000) for op in ("write", "read") for order in ("contiguous", "scattered")]
    expect([(x["op"], x["order"], x["piece_bytes"]) for x in r["rows"]] == want, "%s" % r["rows"])
    for x in r["rows"]:
        expect(x["data"]["verdict"] == "equal" and x["posts"] == 10 == x["post_ms"]["n"] == x["call_us"]["n"], "%s" % x)
        expect(x["bytes"] == 10 * 100 * x["piece_bytes"] and x["data"]["bytes_compared"] == 2 * 3 * 100 * x["piece_bytes"], "%s" % x)
        expect(x["runs"] == 1 if x["order"] == "contiguous" else x["runs"] > 30, "runs of %s" % x)
    r = valid(run(*words, "--json", "--flip-byte", code=DATA).stdout, "batch")
    expect(all(x["data"]["bytes_different"] == 2 for x in r["rows"]), "%s" % r["rows"])
    r = valid(run(*words, "--json", "--no-verify", "--op", "read").stdout, "batch")
    expect([x["op"] for x in r["rows"]] == ["read"] * 4 and r["rows"][0]["data"]["verdict"] == "not compared", "%s" % r["rows"])
    out = run(*words[:-4], "--op", "write", "-n", "1").stdout
    expect(out.count("WRITE") == 4 and out.count("equal") == 4, out)


def trace(path, requests):
    with open(path, "w") as f:
        f.writelines(json.dumps({"timestamp": t, "input_length": n, "output_length": 9, "hash_ids": [0]}) + "\n" for t, n in requests)
    return path


def a_trace_replayed(path="/tmp/kvperf-test-%d.jsonl" % os.getpid()):
    """The trace's times stand, whatever becomes of the requests: what waits is late by all of its wait."""
    model = ["replay", "--model", "smollm2-135m", "--prefill-rate", "20000", "--codec", "raw", "--max-lag-ms", "0", "--trace", path]
    try:
        trace(path, [(3000 + 100 * (i // 3), 100 + i) for i in range(12)])
        r = valid(run(*model, "--json", "--csv", path + ".csv").stdout, "replay")
        expect(r["begun"] == r["done"] == 12 and r["failed"] == 0 and r["config"]["tokens_longest"] == 111, "%s" % r)
        expect(r["bytes_raw"] == 30 * 3 * 64 * 2 * 2 * sum(range(100, 112)) == r["data"]["bytes_compared"], "bytes of %s" % r)
        expect(r["data"]["verdict"] == "equal" and r["latency_ms"]["n"] == 12 == r["lag_ms"]["n"], "%s" % r["data"])
        span = max(100 * (i // 3) + (100 + i) / 20 for i in range(12))
        expect(abs(r["offered"]["requests_per_s"] - 12000 / span) < 1e-6, "offered %s" % r["offered"])
        with open(path + ".csv") as f:
            each = list(csv.DictReader(f))
        expect([float(x["at_ms"]) for x in each] == [100 * (i // 3) for i in range(12)], "times of %s" % each)
        for x in each:
            took = float(x["landed_ms"]) - float(x["at_ms"])
            expect(took >= int(x["tokens"]) / 20 + float(x["exposed_ms"]) - 1e-3 and float(x["lag_ms"]) <= took, "%s" % x)
        expect(max(float(x["landed_ms"]) - float(x["at_ms"]) for x in each) - r["latency_ms"]["max"] < 1e-3, "latency %s" % r["latency_ms"])
        # One place for twelve requests of 5 ms that all begin at once: eleven wait, and that is in all their times.
        trace(path, [(0, 100)] * 12)
        r = valid(run(*model, "--json", "-P", "1").stdout, "replay")
        expect(r["wait_ms"]["min"] == 0 < r["wait_ms"]["p50"] and r["latency_ms"]["max"] >= r["wait_ms"]["max"], "waits %s" % r["wait_ms"])
        expect(r["exposed_ms"]["max"] >= r["wait_ms"]["max"] - 5, "waits %s, exposed %s" % (r["wait_ms"], r["exposed_ms"]))
        expect(r["done"] == 12 and r["data"]["verdict"] == "equal", "%s" % r)
        trace(path, [(100 * i, 1000) for i in range(50)])
        r = valid(run(*model, "--json", "--speed", "2", "--scale", "0.1", "--duration", "0.5", "--tokens", "50", "--spread").stdout, "replay")
        expect(r["config"]["requests"] == 10 == r["config"]["requests_cut"] and r["config"]["tokens_longest"] == 50, "%s" % r["config"])
        r = valid(run(*model, "--json", "--flip-byte", "--duration", "0.3", "--scale", "0.1", code=DATA).stdout, "replay")
        expect(r["data"]["bytes_different"] == r["done"] == 3, "%s" % r["data"])
        out = run(*model, "--duration", "0.3", "--scale", "0.1", "-i", "0.1").stdout
        expect("offered" in out and "3 done, 0 failed" in out and "interval" in out, out)
        one_sentence(run(*model, "--max-lag-ms", "1e-6", "--duration", "0.3", "--scale", "0.1", code=THRESHOLD), "--max-lag-ms is 1e-06")
        one_sentence(run(*model, "--max-memory", "0.001", code=USAGE), "--max-memory", "--scale")
        one_sentence(run(*model[:2], "gpt-oss-120b", *model[3:], "--scale", "0.01", code=USAGE), "windows", "--no-verify")
        for text, words in (('{"timestamp": 0}', ["line 1", "input_length"]), ("x", ["line 1"]), ("", ["no request"]),
                            ('{"timestamp": 5, "input_length": 1}\n{"timestamp": 4, "input_length": 1}', ["line 2", "before"])):
            with open(path, "w") as f:
                f.write(text)
            one_sentence(run(*model, code=FAILED), path, *words)
    finally:
        for x in (path, path + ".csv"):
            os.path.exists(x) and os.unlink(x)


def a_replay_whose_server_dies(path="/tmp/kvperf-test-%d.jsonl" % os.getpid()):
    try:
        trace(path, [(20 * i, 100) for i in range(1000)])
        words = ["--model", "smollm2-135m", "--codec", "raw", "--trace", path, "--prefill-rate", "20000"]
        with Server() as s:
            p = subprocess.Popen([KVPERF, "replay", "127.0.0.1", "-p", str(s.port), "-i", "0.05", "--json-stream"] + words,
                                 stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            while json.loads(p.stdout.readline())["done"] == 0:
                pass
            s.p.kill()
            done = ended(p, SERVER, 10)
        one_sentence(done, "server 127.0.0.1")
        r = json.loads(done.stdout.splitlines()[-1])["result"]
        valid(json.dumps(r), "replay")
        expect(0 < r["done"] < 1000 and not r["end"]["complete"], "%s" % r["end"])
        p = subprocess.Popen([KVPERF, "replay", "-i", "0.05", "--json-stream"] + words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while json.loads(p.stdout.readline())["done"] == 0:
            pass
        p.send_signal(signal.SIGINT)
        one_sentence(ended(p, INTERRUPTED, 5), "stopped")
    finally:
        os.unlink(path)


def yardsticks_in_the_same_run():
    with Server() as s:
        words = [*SMALL, "-n", "2", "--codec", "raw", "--no-gantt", "--beside", "memcpy,iperf3"]
        r = valid(s.kv(*words, "--json").stdout)
        memcpy, tcp = r["beside"]
        expect(memcpy["rounds"] == 2 and memcpy["error"] == "" and memcpy["gb_per_s"] > 0.01, "%s" % memcpy)
        if shutil.which("iperf3"):
            expect(tcp["rounds"] == 2 and tcp["error"] == "" and min(tcp["samples_gb_per_s"]) > 0.001, "%s" % tcp)
        # Where it isn't installed the run goes on, and says so.
        p = s.kv(*words, env=dict(os.environ, PATH="/nowhere"))
        expect("beside memcpy: the same bytes at" in p.stdout and "streamed  raw" in p.stdout, p.stdout)
        expect("beside iperf3:" in p.stdout and "installed" in p.stdout, p.stdout)
    one_sentence(run("lat", "--beside", "memcpy", code=USAGE), "--beside", "kv and bw")
    one_sentence(run("kv", "--beside", "ping", code=USAGE), "--beside ping", "iperf3")


def intervals_and_spreadsheets(path="/tmp/kvperf-test-%d.csv" % os.getpid()):
    try:
        lines = run("batch", "-n", "2", "--pieces", "50", "--op", "write", "-i", "0.01", "--json-stream", "--csv", path).stdout.splitlines()
        ticks, last = [valid(x, "interval") for x in lines[:-1]], json.loads(lines[-1])
        valid(json.dumps(last["result"]), "batch")
        expect(sum(x["done"] for x in ticks) == 3 * 2 * 8 and last["event"] == "result", "%s" % ticks)
        expect(all(a["to_s"] == b["from_s"] for a, b in zip(ticks, ticks[1:])) and ticks[0]["from_s"] == 0, "a gap: %s" % ticks)
        with open(path) as f:
            table = list(csv.DictReader(f))
        expect([x["order"] for x in table] == ["contiguous", "scattered"] and all(x["data"] == "equal" for x in table), "%s" % table)
        out = run("kv", *SMALL, "-n", "1", "-i", "0.05", "--no-gantt", "--csv", path).stdout
        expect("interval, s" in out and "done" in out and "streamed  auto" in out, out)
        with open(path) as f:
            expect([x["row"] for x in csv.DictReader(f)] == ["bulk", "after", "streamed"], "rows")
        one_sentence(run("kv", *SMALL, "-n", "1", "--csv", "/dev/full", code=FAILED), "--csv /dev/full", "No space left")
    finally:
        os.path.exists(path) and os.unlink(path)


def a_sweep_has_all_its_cells():
    words = ["sweep", "--model", "smollm2-135m", "--tokens", "64,256", "-P", "1,3", "-n", "1", "-O", "0", "--codec", "raw"]
    r = valid(run(*words, "--json").stdout)
    cells = [(x["requests"], x["tokens"], x["name"], x["order"]) for x in r["rows"]]
    want = [(p, t) + x for p in (1, 3) for t in (64, 256) for x in
            (("bulk", "contiguous"), ("after", "random"), ("streamed", "random"), ("streamed", "contiguous"))]
    expect(cells == want and all(x["data"]["verdict"] == "equal" for x in r["rows"]), "%s" % cells)
    p = run(*words, "--max-memory", "0.005")
    expect(p.stdout.count("equal") == 2 and "2 cells need more" in p.stderr, p.stdout + p.stderr)


def what_find_finds_passes_and_the_next_does_not():
    words = ["find", "--model", "smollm2-135m", "--codec", "raw", "--tokens", "64", "--prefill-rate", "0", "-n", "3", "-O", "0"]
    r = valid(run(*words, "--max-exposed-ms", "40", "--max-memory", "0.2", "--json").stdout)
    tried = {x["tokens"]: x["exposed_ms"]["p50"] for x in rows(r)}
    found = r["found"]
    expect(len(tried) >= 9 and found["rounds"] >= 21 and found["tail"] >= 1, "%s of %s" % (found, tried))
    expect(0 < found["tokens"] <= max(tried) and found["p99_ms"] <= 40, "%s of %s" % (found, tried))
    expect(all(x["data"]["verdict"] == "equal" for x in r["rows"]), "bytes")
    one_sentence(run(*words, "--max-exposed-ms", "0", code=THRESHOLD), "no prompt shows at most 0 ms")
    one_sentence(run(*words, code=USAGE), "--max-exposed-ms")


def codecs_and_a_plan_without_a_network():
    r = valid(run("codec", "--json").stdout, "codec")
    by = {x["codec"]: x for x in r["codecs"]}
    expect(1.42 < by["l0"]["ratio"] < 1.58 and not by["l8"]["fits"] and by["raw"]["break_even_gbit_per_s"] == 0, "%s" % by)
    expect(0 < by["e8"]["noise"] < 0.04 < by["e4"]["noise"] < 0.18 and by["l0"]["noise"] == 0, "%s" % by)
    r = valid(run("plan", "--tokens", "8k", "--codec", "raw,l0", "--json").stdout, "plan")
    expect(r["bytes"] == 131072 * 8192 and abs(r["full_overlap_gbit_per_s"] - 131072 * 30800 * 8e-9) < 1e-6, "%s" % r)
    raw = [x for x in r["codecs"] if x["codec"] == "raw"][0]["links"][0]
    # At 1 Gb/s the wire is slower than the prefill: all of it but the first layer's wait shows.
    least = r["bytes"] / 125e3 - r["prefill_ms"] * 31 / 32
    expect(raw["gbit_per_s"] == 1 and abs(raw["streamed_ms"] / least - 1) < 0.01 and raw["after_ms"] > raw["streamed_ms"], "%s, not %s" % (raw, least))


class Page(html.parser.HTMLParser):
    """What a browser would make of a report: tags that match, headings, and the bars in each picture of layers."""

    EMPTY = {"meta", "br", "hr", "img"}

    def __init__(self, text):
        super().__init__()
        self.open, self.wrong, self.bars, self.headings, self.here = [], [], [], [], 0
        self.feed(text)
        self.close()
        self.wrong += self.open

    def handle_starttag(self, tag, attrs):
        if tag not in self.EMPTY:
            self.open.append(tag)
        if tag == "svg":
            self.here = 0
        if tag in ("h1", "h2", "h3"):
            self.headings.append("")
        self.here += tag == "rect" and dict(attrs).get("class") == "way" and float(dict(attrs)["width"]) > 0

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.EMPTY:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)
        if tag == "svg" and self.here > 0:
            self.bars.append(self.here)

    def handle_data(self, data):
        if self.open and self.open[-1] in ("h1", "h2", "h3"):
            self.headings[-1] += data


def a_report_with_a_bar_a_layer(folder="/tmp/kvperf-report-%d" % os.getpid()):
    os.mkdir(folder)
    a, b, page = (os.path.join(folder, x) for x in ("a.json", "b.json", "page.html"))
    try:
        for path, more in ((a, ("-T", "<script>alert(1)</script>")), (b, ("--prefill-rate", "5000"))):
            run("kv", *SMALL, "--codec", "raw,l0", "-n", "5", "--no-gantt", "-o", path, *more)
        run("report", a, b, "-o", page)
        text = open(page).read()
        expect(text.startswith("<!doctype html>") and text.rstrip().endswith("</html>"), text[:200])
        expect(text.count('<rect class="way"') == 4 * 30, "%d bars, not one for each of 30 layers in 4 rows" % text.count('<rect class="way"'))
        expect("<script" not in text and "http://" not in text and "https://" not in text, "something from elsewhere")
        expect(text.count("<svg") == text.count("</svg>") == 6 and text.count("<polyline") == 8 and "5 and 5 runs" in text, "pictures")
        for svg in text.split("<svg")[1:]:
            xml.etree.ElementTree.fromstring("<svg" + svg.split("</svg>")[0] + "</svg>")
        page_of = Page(text)
        expect(page_of.wrong == [], "tags that don't match: %s" % page_of.wrong[:5])
        expect(page_of.bars == [30] * 4, "bars of each picture: %s" % page_of.bars)
        expect(page_of.headings.count("streamed raw, 512 tokens") == 2 == page_of.headings.count("streamed l0, 512 tokens"), "%s" % page_of.headings)
        one_sentence(run("report", "/nowhere", code=FAILED), "/nowhere")
        one_sentence(run("report", code=USAGE), "kvperf report")
        one_sentence(run("report", a, "-o", "/dev/full", code=FAILED), "No space left")
        open(b, "w").write('{"tool": "iperf3"}')
        one_sentence(run("report", b, code=FAILED), "not a result of kvperf")
    finally:
        shutil.rmtree(folder)


# --- the other side


def one_server_and_its_clients():
    with Server() as s:
        for _ in range(2):
            r = valid(s.kv(*SMALL, "-n", "1", "--json").stdout)
            expect(r["path"]["to"] == "127.0.0.1" and r["start"]["server"]["mtu"] > 0 and not r["path"]["both_ends_here"], "%s" % r["path"])
        seen = s.p.stdout.readline() + s.p.stdout.readline() + s.p.stdout.readline()
        expect("kvperf kv 127.0.0.1 -p %d" % s.port in seen, "the server didn't show the client's command: %r" % seen)


def one_off():
    with Server("-1") as s:
        s.kv(*SMALL, "-n", "1")
        ended(s.p, 0, 5)


def server_away():
    port = str(free_port())
    one_sentence(run("kv", "127.0.0.1", "-p", port, code=SERVER), port, "Connection refused", "kvperf server")
    one_sentence(run("kv", "no.such.host.invalid", code=SERVER), "no.such.host.invalid")
    r = valid(run("kv", "127.0.0.1", "-p", port, "--json", code=SERVER).stdout)
    expect(not r["end"]["complete"] and all(x["rounds"] == 0 for x in r["rows"]), "%s" % r["end"])


def another_version():
    """Either side names both versions; a server goes on with the next client."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        s.settimeout(10)
        p = subprocess.Popen([KVPERF, "kv", "127.0.0.1", "-p", str(s.getsockname()[1])], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        c, _ = s.accept()
        with c:
            c.sendall(b'{"type":"hello","protocol":2,"version":"9.9.9"}\n')
            one_sentence(ended(p, SERVER, 10), "version 2", "9.9.9", "this is 1")
    with Server() as s:
        with socket.create_connection(("127.0.0.1", s.port), timeout=10) as c, c.makefile() as lines:
            json.loads(lines.readline())
            c.sendall(b'{"type":"hello","protocol":7,"version":"9.9.9"}\n')
            said = json.loads(lines.readline())
            expect(said["type"] == "error" and "version 1" in said["text"] and "7" in said["text"], "%s" % said)
        s.kv(*SMALL, "-n", "1")


def rubbish_on_the_port():
    with Server() as s:
        for text in (b"GET / HTTP/1.1\r\n\r\n", b"\0" * 100 + b"\n", b'{"type":"round"}\n', b'{"type":"hello","protocol":1}\n{"type":"open"}\n',
                     b'{"type":"hello","protocol":1}\n{"type":"round","lane":0}\n', b'{"type":"hello","protocol":1}\n[1,2]\n'):
            with socket.create_connection(("127.0.0.1", s.port)) as c, c.makefile() as lines:
                c.settimeout(10)
                lines.readline()
                c.sendall(text)
                expect('"type":"error"' in lines.readline(), "no error for %r" % text)
        s.kv(*SMALL, "-n", "1")


def until_measured(p, seconds=1.5):
    """A long run is well under way."""
    time.sleep(seconds)
    expect(p.poll() is None, "it ended too early: %s" % (p.stderr.read() if p.poll() is not None else ""))


LONG = SMALL + ["-n", "10000", "-O", "0"]


def server_killed():
    with Server() as s:
        p = s.start(*LONG, "--json")
        until_measured(p)
        s.p.kill()
        done = ended(p, SERVER, 10)
        one_sentence(done, "127.0.0.1")
        r = valid(done.stdout)
        expect(not r["end"]["complete"] and rows(r)[0]["rounds"] >= 1, "%s" % r["end"])


def client_killed():
    with Server() as s:
        p = s.start(*LONG)
        until_measured(p, 1)
        p.kill()
        p.communicate()
        s.kv(*SMALL, "-n", "1")


def interrupted():
    p = subprocess.Popen([KVPERF, "kv", "--no-gantt"] + LONG, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until_measured(p)
    p.send_signal(signal.SIGINT)
    done = ended(p, INTERRUPTED, 5)
    one_sentence(done, "stopped")
    expect("streamed  auto" in done.stdout and "equal" in done.stdout, "no summary: %s" % done.stdout)


TESTS = [a_result_that_holds_together, a_payload_as_recorded, random_bits_do_not_shrink, a_broken_byte_is_seen,
         the_schema_refuses_what_it_does_not_know, every_kind_of_state, a_geometry_from_a_file, the_local_dpdk_link,
         a_device_between_two, an_interface_between_two, a_slow_prefill_hides_nearly_all, the_table_and_its_picture,
         bandwidth_and_latency, what_is_sent_again_is_told,
         batches_beside_contiguous, yardsticks_in_the_same_run, a_trace_replayed, a_replay_whose_server_dies,
         intervals_and_spreadsheets, a_sweep_has_all_its_cells, what_find_finds_passes_and_the_next_does_not,
         codecs_and_a_plan_without_a_network, a_report_with_a_bar_a_layer, *shards.TESTS, *doctor.TESTS, one_server_and_its_clients, one_off,
         server_away, another_version, rubbish_on_the_port, server_killed, client_killed, interrupted, *usage.TESTS]


def main(argv):
    tests = [t for t in TESTS if t.__name__ in argv] if argv else TESTS
    print("1..%d" % len(tests))
    bad = 0
    for i, t in enumerate(tests, 1):
        name, began = t.__name__.replace("_", " "), time.monotonic()
        try:
            t()
            print("ok %d - %s (%.1f s)" % (i, name, time.monotonic() - began), flush=True)
        except Skipped as e:
            print("ok %d - %s # SKIP %s" % (i, name, e), flush=True)
        except (Wrong, OSError, ValueError, KeyError, IndexError, subprocess.SubprocessError) as e:
            bad += 1
            print("not ok %d - %s\n# %s" % (i, name, (type(e).__name__ + ": " + str(e))[:3000].replace("\n", "\n# ")), flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
