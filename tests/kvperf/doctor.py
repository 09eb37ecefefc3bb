# SPDX-License-Identifier: Apache-2.0
"""kvperf doctor: right about machines made of files, about this one, about two hosts and about what lies between them."""
import os
import resource
import shutil
import subprocess

from tool import KVPERF, SERVER, SMALL, Server, Skipped, USAGE, expect, one_sentence, run, valid


def machine(folder, files):
    for path, text in files.items():
        path = os.path.join(folder, path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        open(path, "w").write(text)


def a_doctor_who_is_right(folder="/tmp/kvperf-doctor-%d" % os.getpid()):
    """Machines made of files: what is said of each is what is there."""
    huge = "sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"
    nic = {"sys/class/net/eth0/mtu": "9000", "sys/class/net/eth0/speed": "25000", "sys/class/net/eth0/operstate": "up"}
    bound = dict(nic, **{huge: "1024", "sys/bus/pci/drivers/vfio-pci/0000:00:04.0/x": "", "sys/class/iommu/dmar0/x": ""})
    rdma = dict(nic, **{"sys/class/infiniband/mlx5_0/ports/1/state": "4: ACTIVE", "sys/class/infiniband/mlx5_0/ports/1/rate": "400 Gb/sec"})
    cpu = "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"
    cases = (("bare", nic, "udp", {"NIC": "ok", "RDMA": "lacks", "hugepages": "costs", "DPDK": "lacks", "governor": "ok"}),
             ("short packets", dict(nic, **{"sys/class/net/eth0/mtu": "1400"}), "udp", {"NIC": "costs"}),
             ("link down", dict(nic, **{"sys/class/net/eth0/operstate": "down"}), "udp", {"NIC": None}),
             ("a bound NIC", bound, "dpdk (pci:ADDRESS)", {"DPDK": "ok", "hugepages": "ok", "IOMMU": "ok"}),
             ("bound, no hugepages", dict(bound, **{huge: "0"}), "udp", {"DPDK": "ok", "hugepages": "costs"}),
             ("RDMA", rdma, "verbs", {"RDMA": "ok"}),
             ("RDMA down", dict(rdma, **{"sys/class/infiniband/mlx5_0/ports/1/state": "1: DOWN"}), "udp", {"RDMA": "lacks"}),
             ("RDMA and a GPU", dict(rdma, **{"dev/nvidia0": "", "dev/nvidiactl": ""}), "verbs", {"GPUs": "ok", "GPUDirect": "costs"}),
             ("slow clock", dict(nic, **{cpu: "powersave"}), "udp", {"governor": "costs"}))
    for name, files, takes, healths in cases:
        try:
            machine(folder, files)
            r = valid(run("doctor", "--json", "--root", folder).stdout, "doctor")
            got = {x["what"]: x["health"] for x in r["findings"]}
            expect(r["takes"] == takes and all(got.get(k) == v for k, v in healths.items()), "%s: %s, %s" % (name, r["takes"], got))
            expect(all(("costs" in x and "do" in x) == (x["health"] != "ok") for x in r["findings"]), "%s: advice" % name)
        finally:
            shutil.rmtree(folder)
    out = run("doctor").stdout
    expect("It would take" in out and "NIC" in out, out)


def a_doctor_without_memlock(folder="/tmp/kvperf-doctor-%d" % os.getpid()):
    """A device that is there and can't be used: what verbs pins is limited, unless the process may pin what it likes."""
    def poor():
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))

    rdma = {"sys/class/infiniband/mlx5_0/ports/1/state": "4: ACTIVE", "sys/class/net/eth0/mtu": "9000"}
    limit = "Max locked memory         %s                %s                bytes\n"
    for memlock, caps, health, takes in (("0", "0", "lacks", "udp"), ("65536", "0", "lacks", "udp"), ("unlimited", "0", "ok", "verbs"),
                                         ("0", "0000000000004000", "ok", "verbs")):
        try:
            machine(folder, dict(rdma, **{"proc/self/limits": limit % (memlock, memlock), "proc/self/status": "CapEff:\t%s\n" % caps}))
            r = valid(run("doctor", "--json", "--root", folder).stdout, "doctor")
            got = [x["health"] for x in r["findings"] if x["what"] == "memlock"]
            expect(got == [health] and r["takes"] == takes, "memlock %s, caps %s: %s, %s" % (memlock, caps, got, r["takes"]))
        finally:
            shutil.rmtree(folder)
    # This machine, with ulimit -l 0 and without the capability that makes it unimportant.
    without = ["setpriv", "--bounding-set=-ipc_lock"] if os.geteuid() == 0 else []
    p = subprocess.run(without + [KVPERF, "doctor", "--json"], capture_output=True, text=True, preexec_fn=poor, timeout=30)
    r = valid(p.stdout, "doctor")
    lock = [x for x in r["findings"] if x["what"] == "memlock"][0]
    expect(lock["health"] != "ok" and "0 KiB" in lock["found"] and r["takes"] != "verbs", "%s, %s" % (lock, r["takes"]))
    r = valid(run("doctor", "--json").stdout, "doctor")
    with open("/proc/sys/vm/nr_hugepages") as f:
        pages = int(f.read())
    huge = [x for x in r["findings"] if x["what"] == "hugepages"][0]
    expect((huge["health"] == "ok") == (pages > 0) or "0 of 1 GiB" not in huge["found"], "%d hugepages: %s" % (pages, huge))


def a_doctor_between_two():
    with Server() as s:
        r = valid(run("doctor", "127.0.0.1", "-p", str(s.port), "--json").stdout, "doctor")
        there = r["server"]
        expect(there["mtu_there"] == there["mtu_back"] == 65535 and there["same_host"] and there["rtt_ms"] > 0, "%s" % there)
        expect([(x["what"], x["health"]) for x in there["between"]] == [("MTU there", "ok"), ("MTU back", "ok")], "%s" % there["between"])
        expect(r["takes"] in ("dpdk (PATH)", "udp") and any(x["what"] == "hugepages" for x in there["findings"]), "%s" % r["takes"])
        out = run("doctor", "127.0.0.1", "-p", str(s.port)).stdout
        expect("Between the two:" in out and "On 127.0.0.1:" in out and "It would take" in out, out)
        s.kv(*SMALL, "-n", "1")
    one_sentence(run("doctor", "127.0.0.1", "-p", str(s.port), code=SERVER), "Connection refused")
    one_sentence(run("doctor", "h", "-p", "0", code=USAGE), "--port 0")


def a_short_packet_on_the_way():
    """a - router - b, and the second link's MTU is 1,400: neither end's interface towards the other says so to a."""
    name = "kvperf%d" % os.getpid()
    ns = {x: name + x for x in "arb"}

    def ip(*words):
        p = subprocess.run(("ip",) + words, capture_output=True, text=True)
        if p.returncode != 0:
            raise Skipped("ip %s: %s" % (" ".join(words), p.stderr.strip()))

    if os.geteuid() != 0 or shutil.which("ip") is None:
        raise Skipped("network namespaces need root and iproute2")
    server = None
    try:
        for x in ns.values():
            ip("netns", "add", x)
        for end, net, mtu in (("a", "10.91.1", "1500"), ("b", "10.91.2", "1400")):
            ip("link", "add", "v" + end, "mtu", mtu, "netns", ns[end], "type", "veth", "peer", "name", "r" + end, "mtu", mtu, "netns", ns["r"])
            for where, dev, host in ((end, "v" + end, ".2"), ("r", "r" + end, ".1")):
                ip("-n", ns[where], "addr", "add", net + host + "/24", "dev", dev)
                ip("-n", ns[where], "link", "set", dev, "up")
            ip("-n", ns[end], "route", "add", "default", "via", net + ".1")
        ip("netns", "exec", ns["r"], "sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward")
        inside = ["ip", "netns", "exec"]
        server = subprocess.Popen(inside + [ns["b"], KVPERF, "server", "-B", "10.91.2.2"], stdout=subprocess.PIPE, text=True)
        expect("listening" in server.stdout.readline(), "no server")
        p = subprocess.run(inside + [ns["a"], KVPERF, "doctor", "10.91.2.2", "--json"], capture_output=True, text=True, timeout=60)
        expect(p.returncode == 0, p.stderr)
        r = valid(p.stdout, "doctor")["server"]
        expect((r["mtu_there"], r["mtu_back"]) == (1400, 1400), "%s" % r)
        expect([x["health"] for x in r["between"]] == ["costs", "costs"] and "1400" in r["between"][0]["found"], "%s" % r["between"])
    finally:
        if server is not None:
            server.kill()
            server.communicate()
        for x in ns.values():
            subprocess.run(["ip", "netns", "del", x], capture_output=True)


TESTS = [a_doctor_who_is_right, a_doctor_without_memlock, a_doctor_between_two, a_short_packet_on_the_way]
