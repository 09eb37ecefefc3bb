/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a bare dpdk port can do between two processes, without a protocol over it: a measuring
 * program, not a test. One process is forked before DPDK starts in either.
 *
 *   dpdk_bench goodput [KEY=VALUE ...]   payload bytes placed in the receiver's memory per second
 *   dpdk_bench protocol [KEY=VALUE ...]  the same with the packet protocol over it, puts of `put`
 *                                        bytes
 *   dpdk_bench wake [KEY=VALUE ...]      from tx() to rx() in a peer that sleeps in wait()
 *   dpdk_bench start [KEY=VALUE ...]     from fork() to open, and to the first packet
 *
 * Keys: slice (payload bytes of a packet, 8192), max (the ports' payload_max), ring, seconds (1),
 * from (sender: the vhost end sends; listener), one_cpu (1: both on one CPU, yielding), idle_ms
 * (between wakes, 5).
 */
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../../../net/port/dpdk/link.h"
#include "dpdk_bench_protocol.h"

#define POOL_BYTES  (64u << 20)
#define HEAD_BYTES  40u
#define SAMPLES_MAX 4096u

static uint64_t now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static struct {
    const char *mode, *from;
    unsigned slice, max, ring, one_cpu, idle_ms, put;
    double seconds;
    char path[64];
    uint64_t fork_ns;
} arg = {
    .mode = "goodput", .from = "sender", .slice = 8192, .idle_ms = 5, .put = 262144, .seconds = 1};

struct head {
    uint64_t sequence, sent_ns, offset;
    uint32_t bytes, last;
    uint64_t spare;
};
_Static_assert(sizeof(struct head) == HEAD_BYTES, "a packet protocol's header is about as long");

static struct kvn_port *open_end(bool listener)
{
    const struct kvn_dpdk_config cfg = {
        .path = arg.path,
        .listener = listener,
        .wait_peer = true,
        .payload_max = arg.max,
        .ring = arg.ring,
        .open_by_ns = now_ns() + 10000000000u,
    };
    struct kvn_port *port;
    char why[KVN_WHY_BYTES];

    if (kvn_dpdk_port_open(&port, &cfg, why) != KVW_OK) {
        fprintf(stderr, "%s\n", why);
        _exit(1);
    }
    return port;
}

static void *pool(int fill)
{
    void *p = mmap(NULL, POOL_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    memset(p, fill, POOL_BYTES);
    return p;
}

static double cpu_s(void)
{
    struct rusage u;

    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
           (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1e-6;
}

/* Send until the time is up; the last packet says so, many times. */
static void send_stream(struct kvn_port *port)
{
    uint8_t *from = pool(1);
    struct head heads[KVN_BURST];
    struct kvn_tx_packet packets[KVN_BURST] = {0};
    uint64_t sequence = 0, end_ns = now_ns() + (uint64_t)(arg.seconds * 1e9), t;
    uint64_t full = 0;

    while ((t = now_ns()) < end_ns + 20000000u) {
        for (unsigned i = 0; i < KVN_BURST; ++i) {
            const uint64_t offset = (sequence + i) * arg.slice % (POOL_BYTES - arg.slice);

            heads[i] = (struct head){.sequence = sequence + i,
                                     .offset = offset,
                                     .bytes = arg.slice,
                                     .last = t >= end_ns};
            packets[i] = (struct kvn_tx_packet){.to = port->default_peer,
                                                .head = (uint8_t *)&heads[i],
                                                .head_bytes = HEAD_BYTES,
                                                .body = {{from + offset, arg.slice}},
                                                .body_count = 1};
        }

        const uint32_t n = port->ops->tx(port, t, packets, KVN_BURST);

        sequence += n;
        if (n < KVN_BURST) {
            ++full;
            if (arg.one_cpu)
                sched_yield();
        }
    }
    printf("  sent %lu packets, found the ring full %lu times\n", (unsigned long)sequence,
           (unsigned long)full);
}

static void receive_stream(struct kvn_port *port)
{
    uint8_t *to = pool(2);
    struct kvn_rx_packet packets[KVN_BURST];
    uint64_t n = 0, bytes = 0, begin_ns = 0, end_ns = 0, next = 0, lost = 0;
    struct kvn_dpdk_port_stats stats;

    for (;;) {
        const uint64_t t = now_ns();
        const uint32_t got = port->ops->rx(port, t, packets, KVN_BURST);

        for (uint32_t i = 0; i < got; ++i) {
            struct head h;

            memcpy(&h, packets[i].bytes, sizeof(h));
            if (begin_ns == 0)
                begin_ns = t;
            lost += h.sequence - next;
            next = h.sequence + 1;
            if (h.last)
                goto done;
            memcpy(to + h.offset, packets[i].bytes + HEAD_BYTES, h.bytes);
            bytes += h.bytes;
            ++n;
            end_ns = t;
        }
        if (got == 0 && begin_ns != 0 && t > end_ns + 1000000000u)
            break; /* the sender has gone, and its last packets with it */
        if (got == 0 && arg.one_cpu)
            sched_yield();
    }
done:
    kvn_dpdk_port_stats(port, &stats);
    printf("  received %lu packets, lost %lu, rejected %lu: %.1f Gb/s, %.2f Mpps\n",
           (unsigned long)n, (unsigned long)lost, (unsigned long)stats.rx_rejected,
           (double)bytes * 8 / (double)(end_ns - begin_ns),
           (double)n * 1e3 / (double)(end_ns - begin_ns));
}

static void send_pings(struct kvn_port *port)
{
    const uint64_t end_ns = now_ns() + (uint64_t)(arg.seconds * 1e9);
    struct head h = {0};
    uint64_t t;

    do {
        usleep(arg.idle_ms * 1000);
        t = now_ns();
        h.sent_ns = t;
        h.last = t >= end_ns;

        const struct kvn_tx_packet packet = {
            .to = port->default_peer, .head = (uint8_t *)&h, .head_bytes = HEAD_BYTES};

        while (port->ops->tx(port, t, &packet, 1) == 0)
            usleep(100);
        ++h.sequence;
    } while (!h.last);
}

static int by_value(const void *a, const void *b)
{
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

static void receive_pings(struct kvn_port *port)
{
    static uint64_t took[SAMPLES_MAX];
    struct kvn_rx_packet packets[KVN_BURST];
    struct kvn_dpdk_port_stats stats;
    unsigned n = 0, calls = 0;
    double cpu = cpu_s();
    uint64_t begin_ns = now_ns();

    for (bool last = false; !last; ++calls) {
        const uint32_t got = port->ops->rx(port, now_ns(), packets, KVN_BURST);
        const uint64_t t = now_ns();

        for (uint32_t i = 0; i < got; ++i) {
            struct head h;

            memcpy(&h, packets[i].bytes, sizeof(h));
            if (n < SAMPLES_MAX)
                took[n++] = t - h.sent_ns;
            last |= h.last != 0;
        }
        if (got == 0)
            port->ops->wait(port, now_ns() + 1000000000u, -1);
    }
    cpu = cpu_s() - cpu;
    kvn_dpdk_port_stats(port, &stats);
    qsort(took, n, sizeof(took[0]), by_value);
    printf("  %u wakes: p50 %.1f us, p90 %.1f us, p99 %.1f us, most %.1f us; %lu sleeps, "
           "%.1f %% of a core\n",
           n, took[n / 2] * 1e-3, took[n * 9 / 10] * 1e-3, took[n * 99 / 100] * 1e-3,
           took[n - 1] * 1e-3, (unsigned long)stats.sleeps,
           cpu / ((double)(now_ns() - begin_ns) * 1e-9) * 100);
}

static void start_end(struct kvn_port *port, const char *name, uint64_t begin_ns)
{
    const uint64_t open_ns = now_ns();
    const struct head h = {0};
    const struct kvn_tx_packet packet = {
        .to = port->default_peer, .head = (const uint8_t *)&h, .head_bytes = HEAD_BYTES};
    struct kvn_rx_packet in[KVN_BURST];
    uint64_t first_ns = 0;
    struct rusage u;

    while (now_ns() < open_ns + 300000000u) {
        (void)port->ops->tx(port, now_ns(), &packet, 1);
        port->ops->wait(port, now_ns() + 1000000u, -1);
        if (port->ops->rx(port, now_ns(), in, KVN_BURST) != 0 && first_ns == 0)
            first_ns = now_ns();
    }
    getrusage(RUSAGE_SELF, &u);
    printf("  %s: open after %.0f ms, first packet after %.0f ms, %ld MiB resident\n", name,
           (double)(open_ns - begin_ns) * 1e-6, (double)(first_ns - begin_ns) * 1e-6,
           u.ru_maxrss / 1024);
}

static void run_protocol(struct kvn_port *port, bool sends)
{
    const struct t_protocol p = {.slice = arg.slice,
                                 .put_bytes = arg.put,
                                 .pool = pool(sends ? 1 : 2),
                                 .pool_bytes = POOL_BYTES,
                                 .seconds = arg.seconds,
                                 .one_cpu = arg.one_cpu};

    (sends ? t_protocol_send : t_protocol_receive)(port, &p);
}

static void run_end(bool listener)
{
    const uint64_t begin_ns = now_ns();
    const bool sends = (strcmp(arg.from, "listener") == 0) == listener;
    struct kvn_port *port = open_end(listener);

    if (strcmp(arg.mode, "protocol") == 0) {
        run_protocol(port, !listener);
        return;
    }
    if (strcmp(arg.mode, "start") == 0)
        start_end(port, listener ? "listener (virtio-user)" : "sender (vhost)", begin_ns);
    else if (strcmp(arg.mode, "wake") == 0)
        (sends ? send_pings : receive_pings)(port);
    else
        (sends ? send_stream : receive_stream)(port);
    fflush(stdout);
    port->ops->close(port);
}

static void parse(const char *text)
{
    char key[32];
    char value[32];

    if (sscanf(text, "%31[^=]=%31s", key, value) != 2)
        return;
    if (strcmp(key, "slice") == 0)
        arg.slice = (unsigned)atoi(value);
    else if (strcmp(key, "max") == 0)
        arg.max = (unsigned)atoi(value);
    else if (strcmp(key, "ring") == 0)
        arg.ring = (unsigned)atoi(value);
    else if (strcmp(key, "seconds") == 0)
        arg.seconds = atof(value);
    else if (strcmp(key, "one_cpu") == 0)
        arg.one_cpu = (unsigned)atoi(value);
    else if (strcmp(key, "idle_ms") == 0)
        arg.idle_ms = (unsigned)atoi(value);
    else if (strcmp(key, "put") == 0)
        arg.put = (unsigned)atoi(value);
    else if (strcmp(key, "from") == 0)
        arg.from = strcmp(value, "listener") == 0 ? "listener" : "sender";
}

int main(int argc, char **argv)
{
    char dir[] = P_tmpdir "/kvwire-bench-XXXXXX";
    int status = 0;
    pid_t child;

    if (argc > 1)
        arg.mode = argv[1];
    for (int i = 2; i < argc; ++i)
        parse(argv[i]);
    if (mkdtemp(dir) == NULL)
        return 1;
    snprintf(arg.path, sizeof(arg.path), "%s/link", dir);
    if (arg.one_cpu) {
        cpu_set_t one;

        CPU_ZERO(&one);
        CPU_SET(0, &one);
        sched_setaffinity(0, sizeof(one), &one);
    }
    if ((child = fork()) == 0) {
        run_end(false);
        _exit(0);
    }
    run_end(true);
    waitpid(child, &status, 0);
    rmdir(dir);
    return status != 0;
}
