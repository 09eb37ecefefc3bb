/* SPDX-License-Identifier: Apache-2.0 */
/*
 * transport_bench NET LISTENER SENDER [PUT_BYTES] [SECONDS] [FAULT]: goodput of puts between two
 * processes over any transport that kvn_open() knows, with what both ends spend on it.
 *
 *   transport_bench udp 127.0.0.1:9100 127.0.0.1:9101 262144 2 loss=0.05,reorder=0.05
 *
 * Both ends sleep when there is nothing to do, as kvserve's do.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../../kvwire/wire.h"
#include "../../net/net.h"

#define POOL_BYTES  (64u << 20)
#define OUTSTANDING 16u
#define EVENTS      64u

static uint64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static double cpu_s(void)
{
    struct rusage r;

    getrusage(RUSAGE_SELF, &r);
    return (double)(r.ru_utime.tv_sec + r.ru_stime.tv_sec) +
           (double)(r.ru_utime.tv_usec + r.ru_stime.tv_usec) / 1e6;
}

static void die(const char *what, const char *why)
{
    fprintf(stderr, "transport_bench: %s: %s\n", what, why);
    _exit(1);
}

static struct kvw_transport *open_or_die(const struct kvn_config *cfg, const char *net)
{
    char why[KVN_WHY_BYTES];
    struct kvw_transport *t;

    if (kvn_open(&t, net, cfg, why) != KVW_OK)
        die(net, why);
    return t;
}

static uint32_t turn(struct kvw_transport *t, struct kvw_transport_event *ev)
{
    const uint32_t n = t->ops->poll(t, now_ns(), ev, EVENTS);

    if (n == 0) {
        uint64_t until = t->ops->deadline_ns(t);
        const uint64_t second = now_ns() + 1000000000u;
        t->ops->wait(t, until < second ? until : second, -1);
    }
    return n;
}

static void receive(const struct kvn_config *cfg, const char *net, uint8_t *pool)
{
    const struct kvw_mem mem = {.base = pool, .bytes = POOL_BYTES, .kind = KVW_MEM_HOST};
    struct kvw_transport_event ev[EVENTS];
    struct kvw_transport *t = open_or_die(cfg, net);
    struct kvw_transport_stats s;
    struct kvw_region_key key;
    uint64_t puts = 0, wrong = 0;
    bool over = false;

    if (t->ops->region_add(t, &mem, NULL, NULL, &key) != KVW_OK || t->ops->listen(t) != KVW_OK)
        die(net, "region_add or listen");
    while (!over) {
        const uint32_t n = turn(t, ev);
        for (uint32_t i = 0; i < n; ++i) {
            if (ev[i].kind == KVW_TEV_CONN_UP &&
                t->ops->send(t, ev[i].conn, &key, sizeof(key)) != KVW_OK)
                die(net, "send");
            if (ev[i].kind == KVW_TEV_PUT_LANDED) {
                ++puts;
                wrong += pool[ev[i].offset] != (uint8_t)ev[i].imm;
            }
            over |= ev[i].kind == KVW_TEV_CONN_DOWN;
        }
    }
    t->ops->stats(t, &s);
    printf("  receiver: cpu %.2f s, %llu puts, %llu wrong, packets in %llu out %llu dup %llu "
           "rejected %llu\n",
           cpu_s(), (unsigned long long)puts, (unsigned long long)wrong,
           (unsigned long long)s.packets_received, (unsigned long long)s.packets_sent,
           (unsigned long long)s.packets_duplicate, (unsigned long long)s.packets_rejected);
    fflush(stdout);
    t->ops->close(t);
}

/* The peer's key, once it has come. */
static kvw_conn_id meet(struct kvw_transport *t, const char *peer, struct kvw_region_key *key)
{
    struct kvw_transport_event ev[EVENTS];
    kvw_conn_id conn;

    if (t->ops->connect(t, NULL, now_ns(), &conn) != KVW_OK)
        die(peer, "connect");
    for (;;) {
        const uint32_t n = turn(t, ev);
        for (uint32_t i = 0; i < n; ++i) {
            if (ev[i].kind == KVW_TEV_CONN_DOWN)
                die(peer, ev[i].text);
            if (ev[i].kind == KVW_TEV_MESSAGE) {
                memcpy(key, ev[i].msg, sizeof(*key));
                return conn;
            }
        }
    }
}

static void send_all(const struct kvn_config *cfg, const char *net, uint8_t *pool, uint32_t bytes,
                     double seconds)
{
    struct kvw_transport *t = open_or_die(cfg, net);
    struct kvw_transport_event ev[EVENTS];
    struct kvw_transport_stats s;
    struct kvw_put put = {.iov_count = 1};
    const kvw_conn_id conn = meet(t, cfg->peer, &put.key);
    const uint64_t begin = now_ns(), end = begin + (uint64_t)(seconds * 1e9);
    const double cpu = cpu_s();
    uint64_t queued = 0, done = 0;
    double took;

    while (now_ns() < end || done < queued) {
        uint32_t n;
        while (queued - done < OUTSTANDING && now_ns() < end) {
            put.offset = queued * bytes % (POOL_BYTES - bytes);
            put.imm = pool[put.offset];
            put.iov[0] = (struct kvw_iov){pool + put.offset, bytes};
            if (t->ops->put(t, conn, &put) != KVW_OK)
                break;
            ++queued;
        }
        n = turn(t, ev);
        for (uint32_t i = 0; i < n; ++i) {
            if (ev[i].kind == KVW_TEV_PUT_DONE && ev[i].err == KVW_OK)
                ++done;
            else if (ev[i].kind != KVW_TEV_MESSAGE)
                die("sender", ev[i].text != NULL ? ev[i].text : "put failed");
        }
    }
    took = (double)(now_ns() - begin) / 1e9;
    t->ops->stats(t, &s);
    printf("%s %u B puts: %.0f MB/s, %llu puts in %.2f s\n"
           "  sender:   cpu %.2f s, packets out %llu again %llu lost %llu in %llu, port full %llu, "
           "srtt %llu us\n",
           net, bytes, (double)done * bytes / took / 1e6, (unsigned long long)done, took,
           cpu_s() - cpu, (unsigned long long)s.packets_sent,
           (unsigned long long)s.packets_retransmitted, (unsigned long long)s.packets_lost,
           (unsigned long long)s.packets_received, (unsigned long long)s.tx_full,
           (unsigned long long)s.srtt_ns / 1000);
    fflush(stdout);
    t->ops->close(t);
}

int main(int argc, char **argv)
{
    struct kvn_config listener = {.listener = true}, sender = {.local = NULL};
    uint8_t *pool = malloc(POOL_BYTES);
    pid_t child;

    if (argc < 4 || pool == NULL) {
        fprintf(stderr, "usage: %s NET LISTENER SENDER [PUT_BYTES] [SECONDS] [FAULT]\n", argv[0]);
        return 2;
    }
    for (uint32_t i = 0; i < POOL_BYTES; ++i)
        pool[i] = (uint8_t)(i * 2654435761u >> 24);
    listener.local = argv[2];
    sender.local = argv[3];
    sender.peer = argv[2];
    listener.fault = sender.fault = argc > 6 ? argv[6] : NULL;
    child = fork();
    if (child == 0) {
        memset(pool, 0, POOL_BYTES);
        receive(&listener, argv[1], pool);
        _exit(0);
    }
    send_all(&sender, argv[1], pool, argc > 4 ? (uint32_t)atoi(argv[4]) : 262144,
             argc > 5 ? atof(argv[5]) : 2);
    waitpid(child, NULL, 0);
    free(pool);
    return 0;
}
