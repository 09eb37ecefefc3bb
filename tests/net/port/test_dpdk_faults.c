/* SPDX-License-Identifier: Apache-2.0 */
/* What goes wrong with a device is said in a sentence, or passes: buffers run out, interfaces go
 * down or away or carry less than they claim, peers stop, die or were killed before. */
#include <criterion/criterion.h>

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <rte_mbuf.h>
#include <rte_mempool.h>

#include "../../../net/port/dpdk/kind.h"
#include "../../../net/port/dpdk/nic.h"
#include "../../../net/port/udp/udp.h"
#include "dpdk_traffic.h"
#include "veth.h"

TestSuite(dpdk_faults, .timeout = 100);

static char why[KVN_WHY_BYTES];
static struct kvn_port *port, *kernel;

static kvw_err open_as(struct kvn_port **p, const char *local, const char *peer, bool listener,
                       unsigned ms)
{
    const struct kvn_config cfg = {.local = local,
                                   .peer = peer,
                                   .listener = listener,
                                   .open_by_ns = t_now_ns() + ms * 1000000ull};
    struct kvn_packet_config packet = {0};

    memset(why, 0, sizeof(why));
    return kvn_dpdk_kind_open(p, &cfg, &packet, why);
}

static void expect_why(const char *says)
{
    cr_expect_not_null(strstr(why, says), "\"%s\" doesn't say \"%s\"", why, says);
}

static void need_veth(unsigned mtu)
{
    const char *reason = t_veth_make(mtu);

    if (reason != NULL)
        cr_skip_test("%s", reason);
}

/* A DPDK port in side 0, the kernel's socket in side 1, each knowing the other. */
static void open_pair(const char *kind, unsigned mtu)
{
    const struct kvn_udp_config udp = {
        .local = "10.77.0.101:7400", .peer = "10.77.0.1:7400", .payload_max = 32768};
    char local[80];
    uint32_t queued;

    need_veth(mtu);
    t_veth_enter(1);
    cr_assert_eq(kvn_udp_port_open(&kernel, &udp, &queued, why), KVW_OK, "%s", why);
    t_veth_enter(0);
    snprintf(local, sizeof(local), "%s:kvt0,ip=10.77.0.1/24", kind);
    cr_assert_eq(open_as(&port, local, "10.77.0.101:7400", false, 5000), KVW_OK, "%s", why);
}

static void close_pair(void)
{
    port->ops->close(port);
    kernel->ops->close(kernel);
}

/* Send payloads of so many bytes until one arrives, for so long. */
static bool passes(struct kvn_port *from, struct kvn_port *to, uint32_t bytes, unsigned ms)
{
    static uint8_t out[9000];
    static uint64_t number;
    const uint64_t end_ns = t_now_ns() + ms * 1000000ull;
    const uint64_t first = ++number;
    struct kvn_rx_packet in[KVN_BURST];

    while (t_now_ns() < end_ns) {
        t_payload_make(out, bytes, ++number);

        const struct kvn_tx_packet p = {.to = from->default_peer,
                                        .head = out,
                                        .head_bytes = 24,
                                        .body = {{out + 24, bytes - 24}},
                                        .body_count = 1};
        uint32_t n;

        (void)from->ops->tx(from, t_now_ns(), &p, 1);
        (void)from->ops->rx(from, t_now_ns(), in, KVN_BURST); /* chores */
        to->ops->wait(to, t_now_ns() + 2000000u, -1);
        n = to->ops->rx(to, t_now_ns(), in, KVN_BURST);
        for (uint32_t i = 0; i < n; ++i) {
            uint64_t got;

            if (t_payload_check(in[i].bytes, in[i].len, &got) && got > first && in[i].len == bytes)
                return true;
        }
    }
    return false;
}

Test(dpdk_faults, names_that_cannot_be)
{
    static const struct {
        const char *local, *says;
    } rows[] = {
        {"pci:,ip=10.0.0.1", "names no device"},
        {"pci:0000:00:04.0", "ip=ADDRESS"},
        {"pci:hello,ip=10.0.0.1", "no PCI address"},
        {"pci:fffe:00:04.0,ip=10.0.0.1", "no PCI device"},
        {"af_packet:lo,ip=10.0.0", "'ip=10.0.0'"},
        {"af_packet:lo,ip=10.0.0.1/33", "can't be used"},
        {"af_packet:lo,ip=10.0.0.1,ip=10.0.0.2", "can't be used"},
        {"af_packet:lo,ip=10.0.0.1,mac=01:00:00:00:00:01", "mac=01"},
        {"af_packet:lo,ip=10.0.0.1,vlan=4095", "vlan=4095"},
        {"af_packet:lo,ip=10.0.0.1,colour=red", "colour=red"},
        {"af_packet:lo,ip=10.0.0.1,ring", "not KEY=VALUE"},
        {"af_packet:lo,ip=10.0.0.1,ring=100", "ring=100"},
        {"af_packet:lo,ip=10.0.0.1,queues=2", "queues=2"}, /* a port has one */
        {"af_packet:nosuch0,ip=10.0.0.1", "no interface nosuch0"},
        {"af_packet:lo,ip=127.0.0.1", "kernel has the port's address"},
        {"memif:/nowhere/at/all,ip=10.0.0.1", "no addresses"},
        {"memif:/nowhere/at/all", "No such file"},
        {"ring:a-name-much-too-long", "more than 15"},
    };

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); ++i) {
        struct kvn_port *p = NULL;

        cr_expect_neq(open_as(&p, rows[i].local, NULL, false, 300), KVW_OK, "%s", rows[i].local);
        cr_expect_not_null(strstr(why, rows[i].says), "%s: \"%s\" doesn't say \"%s\"",
                           rows[i].local, why, rows[i].says);
        cr_expect_null(p, "outputs are written on success only");
    }
}

Test(dpdk_faults, interfaces_that_cannot_be)
{
    struct kvn_port *p;

    need_veth(1500);
    cr_expect_eq(open_as(&p, "af_packet:kvt0,ip=10.77.0.1,mtu=9000", NULL, false, 300),
                 KVW_E_DEVICE);
    expect_why("ip link set kvt0 mtu 9000");
    cr_expect_eq(open_as(&p, "af_packet:kvt0,ip=10.77.0.100", NULL, false, 300), KVW_E_ADDRESS);
    expect_why("of its own");
    cr_expect_eq(t_veth_run(0, "ip link set kvt0 mtu 5000"), 0);
    cr_expect_eq(open_as(&p, "af_xdp:kvt0,ip=10.77.0.1", NULL, false, 300), KVW_E_DEVICE);
    expect_why("ip link set kvt0 mtu 3400");
    cr_expect_eq(t_veth_run(0, "ip link set kvt0 mtu 1500"), 0);
    /* Nobody at the peer's address. */
    const uint64_t begin_ns = t_now_ns();

    cr_expect_eq(open_as(&p, "af_packet:kvt0,ip=10.77.0.1/24", "10.77.0.9:7400", false, 700),
                 KVW_E_DEADLINE);
    expect_why("10.77.0.9:7400 (ARP)");
    cr_expect_lt(t_now_ns() - begin_ns, 10000000000u);
    cr_expect_eq(t_veth_run(0, "ip link set kvt0 down"), 0);
    cr_expect_eq(open_as(&p, "af_packet:kvt0,ip=10.77.0.1", NULL, false, 300), KVW_E_DEVICE);
    expect_why("ip link set kvt0 up");
}

static struct {
    struct rte_mbuf *taken[16384];
    unsigned count;
} hoard;

static void take_all(struct rte_mempool *pool, void *arg)
{
    (void)arg;
    while (hoard.count < 16384 && (hoard.taken[hoard.count] = rte_pktmbuf_alloc(pool)) != NULL)
        ++hoard.count;
}

/* Without a buffer nothing is sent, received or broken; with one again, all goes on. */
Test(dpdk_faults, buffers_run_out)
{
    struct kvn_dpdk_nic_stats before, stats;

    open_pair("af_packet", 9000);
    cr_assert(passes(port, kernel, 4000, 20000));
    kvn_dpdk_nic_stats(port, &before);
    rte_mempool_walk(take_all, NULL);
    cr_assert_gt(hoard.count, 1000);
    cr_expect_not(passes(port, kernel, 4000, 100));
    cr_expect_not(passes(kernel, port, 4000, 100));
    kvn_dpdk_nic_stats(port, &stats);
    cr_expect_gt(stats.tx_no_mbuf, 0);
    rte_pktmbuf_free_bulk(hoard.taken, hoard.count);
    cr_expect(passes(port, kernel, 4000, 20000));
    cr_expect(passes(kernel, port, 4000, 20000));
    (void)port->ops->rx(port, t_now_ns(), (struct kvn_rx_packet[KVN_BURST]){{0}}, KVN_BURST);
    kvn_dpdk_nic_stats(port, &stats);
    cr_expect_leq(stats.mbufs_in_use, before.mbufs_in_use + KVN_BURST, "%u in use, %u before",
                  stats.mbufs_in_use, before.mbufs_in_use);
    close_pair();
}

/* An interface that stops carrying what it claimed loses the long packets, and only those. */
Test(dpdk_faults, interface_without_the_mtu_it_claims)
{
    open_pair("af_packet", 9000);
    cr_assert(passes(port, kernel, 8900, 20000));
    cr_assert_eq(t_veth_run(0, "ip link set kvt0 mtu 1500"), 0);
    cr_expect_not(passes(port, kernel, 8900, 300));
    cr_expect(passes(port, kernel, 1400, 20000));
    cr_assert_eq(t_veth_run(0, "ip link set kvt0 mtu 9000"), 0);
    cr_expect(passes(port, kernel, 8900, 20000));
    close_pair();
}

static double cpu_s(void)
{
    struct rusage u;

    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
           (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1e-6;
}

/* What the machine adds, it adds now and then; a port that spins does so each time. */
static void sleep_beside_it(unsigned ms)
{
    const uint64_t end_ns = t_now_ns() + ms * 1000000ull;
    const double most = ms * 0.3e-3, before = cpu_s();
    struct kvn_rx_packet in[KVN_BURST];
    double took;

    while (t_now_ns() < end_ns) {
        (void)port->ops->rx(port, t_now_ns(), in, KVN_BURST);
        port->ops->wait(port, end_ns, -1);
    }
    took = cpu_s() - before;
    cr_expect_lt(took, most, "%.3f s of CPU in %u ms", took, ms);
}

/* Pulled under load: nothing hangs or spins; put back, traffic goes on; deleted, it can
 * be closed. */
static void unplug(const char *kind)
{
    open_pair(kind, 3400);
    cr_assert(passes(port, kernel, 1400, 20000));
    cr_assert_eq(t_veth_run(0, "ip link set kvt0 down"), 0);
    cr_expect_not(passes(port, kernel, 1400, 300));
    sleep_beside_it(500);
    cr_assert_eq(t_veth_run(0, "ip link set kvt0 up"), 0);
    cr_expect(passes(port, kernel, 1400, 20000), "it doesn't come back");
    cr_expect(passes(kernel, port, 1400, 20000), "it doesn't come back");
    cr_assert_eq(t_veth_run(0, "ip link del kvt0"), 0);
    cr_expect_not(passes(port, kernel, 1400, 300));
    sleep_beside_it(500);
    close_pair();
}

Test(dpdk_faults, af_packet_unplugged)
{
    unplug("af_packet");
}

Test(dpdk_faults, af_xdp_unplugged)
{
    unplug("af_xdp");
}

/* A process that died left its program attached: the next one says so, and how to remove it. */
Test(dpdk_faults, af_xdp_left_attached_by_a_crash)
{
    int status;
    pid_t child;

    need_veth(3400);
    if ((child = fork()) == 0) {
        if (open_as(&port, "af_xdp:kvt0,ip=10.77.0.1", NULL, false, 3000) != KVW_OK)
            _exit(1);
        kill(getpid(), SIGKILL);
    }
    cr_assert_eq(waitpid(child, &status, 0), child);
    cr_assert(WIFSIGNALED(status), "the child couldn't open: %x", (unsigned)status);
    cr_expect_eq(open_as(&port, "af_xdp:kvt0,ip=10.77.0.1", NULL, false, 3000), KVW_E_ADDRESS);
    expect_why("ip link set kvt0 xdp off");
    cr_assert_eq(t_veth_run(0, "ip link set kvt0 xdp off"), 0);
    cr_assert_eq(open_as(&port, "af_xdp:kvt0,ip=10.77.0.1", NULL, false, 3000), KVW_OK, "%s", why);
    port->ops->close(port);
    /* And one that closed leaves nothing. */
    cr_assert_eq(open_as(&port, "af_xdp:kvt0,ip=10.77.0.1", NULL, false, 3000), KVW_OK, "%s", why);
    port->ops->close(port);
}

/* A memif listener outlives peers killed in the middle of their bursts, and takes the next one. */
Test(dpdk_faults, memif_peer_leaves)
{
    char path[KVN_DPDK_PATH_BYTES], local[KVN_DPDK_PATH_BYTES + 8];
    uint64_t seen = 0;

    t_link_path(path);
    snprintf(local, sizeof(local), "memif:%s", path);
    srandom((unsigned)getpid());
    for (unsigned i = 0; i < 12; ++i) {
        struct kvn_rx_packet in[KVN_BURST];
        const pid_t peer = t_peer_start(local, "sender", "blast");
        const uint64_t before = seen;
        uint64_t end_ns;

        if (i == 0)
            cr_assert_eq(open_as(&port, local, NULL, true, 20000), KVW_OK, "%s; the peer %s", why,
                         t_peer_runs(peer) ? "runs" : "ended");
        end_ns = t_now_ns() + 20000000000u;
        while (seen < before + 500 && t_now_ns() < end_ns && t_peer_runs(peer))
            seen += port->ops->rx(port, t_now_ns(), in, KVN_BURST);
        cr_assert_geq(seen, before + 500, "%lu packets came from peer %u, which %s", seen - before,
                      i, t_peer_runs(peer) ? "runs" : "ended");
        kill(peer, i % 3 == 2 ? SIGTERM : SIGKILL);
        end_ns = t_now_ns() + 50000000u + (uint64_t)random() % 50000000u;
        while (t_now_ns() < end_ns)
            (void)port->ops->rx(port, t_now_ns(), in, KVN_BURST);
        (void)t_peer_end(peer, SIGKILL);
    }
    port->ops->close(port);
    t_link_remove(path);
}

/* A listener that isn't ready: it refuses, then takes a client and leaves it. Then a ready one. */
struct unready {
    char path[KVN_DPDK_PATH_BYTES], local[KVN_DPDK_PATH_BYTES + 8];
    bool turned_away;
    pid_t peer;
};

static void *unready_main(void *arg)
{
    struct unready *u = arg;
    const int fd = socket(AF_UNIX, SOCK_SEQPACKET, 0);
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    struct pollfd came = {.fd = fd, .events = POLLIN};

    memcpy(un.sun_path, u->path, sizeof(un.sun_path));
    if (bind(fd, (struct sockaddr *)&un, sizeof(un)) == 0) {
        t_sleep_ms(500); /* meanwhile it refuses */
        if (listen(fd, 1) == 0 && poll(&came, 1, 10000) == 1)
            u->turned_away = close(accept(fd, NULL, NULL)) == 0;
        (void)unlink(u->path);
    }
    close(fd);
    u->peer = t_peer_start(u->local, "listener", "echo");
    return NULL;
}

Test(dpdk_faults, memif_listener_not_ready)
{
    struct unready u = {.turned_away = false};
    pthread_t thread;
    kvw_err err;

    t_link_path(u.path);
    snprintf(u.local, sizeof(u.local), "memif:%s", u.path);
    cr_assert_eq(pthread_create(&thread, NULL, unready_main, &u), 0);
    err = open_as(&port, u.local, NULL, false, 20000);
    cr_assert_eq(pthread_join(thread, NULL), 0);
    cr_expect(u.turned_away, "it came only once");
    cr_expect_eq(err, KVW_OK, "%s", why);
    if (err == KVW_OK) {
        cr_expect(t_greet(port, 1, 10000), "no echo");
        port->ops->close(port);
    }
    (void)t_peer_end(u.peer, SIGTERM);
    t_link_remove(u.path);
}

/* One that died left its socket: nobody comes to it, and that is said in time. */
Test(dpdk_faults, memif_listener_dead)
{
    char path[KVN_DPDK_PATH_BYTES], local[KVN_DPDK_PATH_BYTES + 8];
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    const int fd = socket(AF_UNIX, SOCK_SEQPACKET, 0);

    t_link_path(path);
    snprintf(local, sizeof(local), "memif:%s", path);
    memcpy(un.sun_path, path, sizeof(un.sun_path));
    cr_assert_eq(bind(fd, (struct sockaddr *)&un, sizeof(un)), 0);
    close(fd);
    cr_expect_eq(open_as(&port, local, NULL, false, 300), KVW_E_DEADLINE, "%s", why);
    expect_why("no peer");
    t_link_remove(path);
}

/* Its socket is there. */
static void await_socket(const char *path, pid_t peer)
{
    const uint64_t end_ns = t_now_ns() + 20000000000u;
    struct stat st;

    while (stat(path, &st) != 0) {
        cr_assert(t_peer_runs(peer), "the listener ended");
        cr_assert_lt(t_now_ns(), end_ns, "no listener");
        t_sleep_ms(5);
    }
}

/* A second listener on the socket of a living one is refused, and doesn't disturb it. */
Test(dpdk_faults, memif_path_in_use)
{
    char path[KVN_DPDK_PATH_BYTES], local[KVN_DPDK_PATH_BYTES + 8];
    pid_t first;

    t_link_path(path);
    snprintf(local, sizeof(local), "memif:%s", path);
    first = t_peer_start(local, "listener", "echo");
    await_socket(path, first);
    cr_expect_eq(open_as(&port, local, NULL, true, 500), KVW_E_ADDRESS);
    expect_why("already in use");
    cr_assert_eq(open_as(&port, local, NULL, false, 10000), KVW_OK, "%s", why);
    cr_expect(t_greet(port, 1, 20000), "no echo");
    port->ops->close(port);
    (void)t_peer_end(first, SIGTERM);
    t_link_remove(path);
}

Test(dpdk_faults, memif_without_a_peer)
{
    char path[KVN_DPDK_PATH_BYTES], local[KVN_DPDK_PATH_BYTES + 8];

    t_link_path(path);
    snprintf(local, sizeof(local), "memif:%s", path);
    cr_expect_eq(open_as(&port, local, NULL, true, 300), KVW_E_DEADLINE);
    expect_why("no peer");
    cr_expect_eq(open_as(&port, local, NULL, false, 300), KVW_E_DEADLINE);
    expect_why("nobody listened");
    cr_expect_neq(access(path, F_OK), 0, "the socket was left behind");
    t_link_remove(path);
}

/* A vhost peer that is stopped while we start: a sentence in time, and the next try works. */
static void start_beside_a_stopped_peer(bool listener)
{
    char path[KVN_DPDK_PATH_BYTES];
    struct kvn_dpdk_config cfg = {.path = path, .listener = listener, .wait_peer = true};
    uint64_t begin_ns;
    pid_t peer;

    t_link_path(path);
    peer = t_peer_start(path, listener ? "sender" : "listener", "echo");
    if (!listener)
        await_socket(path, peer);
    t_sleep_ms(listener ? 400 : 50);
    kill(peer, SIGSTOP);
    begin_ns = t_now_ns();
    cfg.open_by_ns = begin_ns + 500000000u;
    cr_expect_eq(kvn_dpdk_port_open(&port, &cfg, why), KVW_E_DEADLINE, "%s", why);
    cr_expect_not_null(strstr(why, path));
    cr_expect_lt(t_now_ns() - begin_ns, 10000000000u);
    (void)t_peer_end(peer, SIGKILL);
    peer = t_peer_start(path, listener ? "sender" : "listener", "echo");
    cfg.open_by_ns = t_now_ns() + 10000000000u;
    cr_assert_eq(kvn_dpdk_port_open(&port, &cfg, why), KVW_OK, "%s", why);
    cr_expect(t_greet(port, 1, 20000), "no echo");
    port->ops->close(port);
    (void)t_peer_end(peer, SIGTERM);
    t_link_remove(path);
}

Test(dpdk_faults, listener_starts_beside_a_stopped_peer)
{
    start_beside_a_stopped_peer(true);
}

Test(dpdk_faults, sender_starts_beside_a_stopped_peer)
{
    start_beside_a_stopped_peer(false);
}
