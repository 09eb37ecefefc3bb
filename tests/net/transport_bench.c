/* SPDX-License-Identifier: Apache-2.0 */
/*
 * transport_bench NET LISTENER SENDER [OPTION...]: goodput of puts between two processes over any
 * transport that kvn_open() knows, with what both ends spend on it; or, with --gap, how long one
 * put takes when both ends were asleep.
 *
 *   transport_bench udp 127.0.0.1:9100 127.0.0.1:9101 --seconds 2 --fault loss=0.05,reorder=0.05
 *   transport_bench dpdk af_packet:kvwb,ip=10.77.0.12/24 af_packet:kvwa,ip=10.77.0.11/24 \
 *       --peer 10.77.0.12:7400 --netns b,a
 *   transport_bench udp 10.77.0.2:9100 10.77.0.1:0 --netns b,a --cpu 0,0 --json
 *
 * Both ends sleep when there is nothing to do, as kvserve's do, unless --busy-poll is given.
 */
#include <fcntl.h>
#include <getopt.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include "../../kvwire/wire.h"
#include "../../net/net.h"

#define POOL_BYTES (64u << 20)
#define EVENTS     64u
#define LATENCIES  65536u

/* What an end did between CONN_UP and its last put. */
struct end {
    double cpu_s;
    uint64_t puts, wrong;
    struct kvw_transport_stats stats;
    char note[KVN_WHY_BYTES];
};

struct shared {
    struct end listener, sender;
    double seconds; /* of the sender, or of a listener without one */
    uint32_t latencies;
    uint32_t latency_ns[LATENCIES];
};

struct options {
    const char *net, *netns[2], *fault, *peer; /* netns, cpu: of listener, sender */
    const char *trace;
    int cpu[2];
    uint32_t bytes, outstanding, gap_us, slice;
    double seconds;
    uint8_t paths;
    bool busy, json;
    bool only[2]; /* this process is just one of the ends */
};

static struct shared *shared;

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

/* Where this end lives: before the transport is opened, so that its threads are there too. */
static void settle(const struct options *o, int end)
{
    if (o->netns[end] != NULL) {
        char path[128];
        int fd;

        snprintf(path, sizeof(path), "/run/netns/%s", o->netns[end]);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0 || setns(fd, CLONE_NEWNET) != 0)
            die(path, "can't enter this network namespace");
        close(fd);
    }
    if (o->cpu[end] >= 0) {
        cpu_set_t set;

        CPU_ZERO(&set);
        CPU_SET((size_t)o->cpu[end], &set);
        if (sched_setaffinity(0, sizeof(set), &set) != 0)
            die("--cpu", "there is no such CPU for us");
    }
}

static struct kvw_transport *open_or_die(const struct kvn_config *cfg, const char *net, char *note)
{
    char why[KVN_WHY_BYTES];
    struct kvw_transport *t;

    if (kvn_open(&t, net, cfg, why) != KVW_OK)
        die(net, why);
    memcpy(note, why, sizeof(why));
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

static void receive(const struct kvn_config *cfg, const struct options *o, uint8_t *pool)
{
    const struct kvw_mem mem = {.base = pool, .bytes = POOL_BYTES, .kind = KVW_MEM_HOST};
    struct kvw_transport_event ev[EVENTS];
    struct end *end = &shared->listener;
    struct kvw_transport *t = open_or_die(cfg, o->net, end->note);
    struct kvw_region_key key;
    uint64_t begin = now_ns();
    double cpu = 0;
    bool over = false;

    if (t->ops->region_add(t, &mem, NULL, NULL, &key) != KVW_OK || t->ops->listen(t) != KVW_OK)
        die(o->net, "region_add or listen");
    while (!over) {
        const uint32_t n = turn(t, ev);
        for (uint32_t i = 0; i < n; ++i) {
            if (ev[i].kind == KVW_TEV_CONN_UP) {
                cpu = cpu_s();
                begin = now_ns();
                if (t->ops->region_open != NULL &&
                    t->ops->region_open(t, ev[i].conn, &key) != KVW_OK)
                    die(o->net, "region_open");
                if (t->ops->send(t, ev[i].conn, &key, sizeof(key)) != KVW_OK)
                    die(o->net, "send");
            }
            if (ev[i].kind == KVW_TEV_PUT_LANDED) {
                ++end->puts;
                end->wrong += pool[ev[i].offset] != (uint8_t)ev[i].imm;
            }
            if (ev[i].kind == KVW_TEV_CONN_DOWN) {
                over = true;
                snprintf(end->note, sizeof(end->note), "%s", ev[i].text);
            }
        }
    }
    end->cpu_s = cpu_s() - cpu;
    if (o->only[0])
        shared->seconds = (double)(now_ns() - begin) / 1e9;
    t->ops->stats(t, &end->stats);
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

static void send_all(const struct kvn_config *cfg, const struct options *o, uint8_t *pool)
{
    struct end *me = &shared->sender;
    struct kvw_transport *t = open_or_die(cfg, o->net, me->note);
    struct kvw_transport_event ev[EVENTS];
    struct kvw_put put = {.iov_count = 1};
    const kvw_conn_id conn = meet(t, cfg->peer, &put.key);
    const uint64_t begin = now_ns(), end = begin + (uint64_t)(o->seconds * 1e9);
    const double cpu = cpu_s();
    uint64_t queued = 0, next_ns = begin;

    while (now_ns() < end || me->puts < queued) {
        uint32_t n;
        while (queued - me->puts < o->outstanding && now_ns() < end && now_ns() >= next_ns) {
            put.offset = queued * o->bytes % (POOL_BYTES - o->bytes);
            put.imm = pool[put.offset];
            put.iov[0] = (struct kvw_iov){pool + put.offset, o->bytes};
            put.cookie = now_ns();
            if (t->ops->put(t, conn, &put) != KVW_OK)
                break;
            ++queued;
            next_ns = o->gap_us != 0 ? now_ns() + o->gap_us * 1000ull : 0;
        }
        n = turn(t, ev);
        for (uint32_t i = 0; i < n; ++i) {
            if (ev[i].kind == KVW_TEV_PUT_DONE && ev[i].err == KVW_OK) {
                ++me->puts;
                if (shared->latencies < LATENCIES)
                    shared->latency_ns[shared->latencies++] = (uint32_t)(now_ns() - ev[i].cookie);
            } else if (ev[i].kind != KVW_TEV_MESSAGE) {
                die("sender", ev[i].text != NULL ? ev[i].text : "put failed");
            }
        }
        if (o->gap_us != 0 && queued == me->puts && now_ns() < next_ns && now_ns() < end)
            usleep((useconds_t)((next_ns - now_ns()) / 1000));
    }
    shared->seconds = (double)(now_ns() - begin) / 1e9;
    me->cpu_s = cpu_s() - cpu;
    t->ops->stats(t, &me->stats);
    t->ops->close(t);
}

static int by_size(const void *a, const void *b)
{
    const uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    return (x > y) - (x < y);
}

static double latency_us(double share)
{
    const uint32_t n = shared->latencies;

    return n == 0 ? 0 : shared->latency_ns[(uint32_t)(share * (n - 1))] / 1e3;
}

static void print_json(const struct options *o)
{
    const struct end *s = &shared->sender, *l = &shared->listener;
    const double bytes = (double)(s->puts > 0 ? s->puts : l->puts) * o->bytes;

    printf("{\"gbit_s\": %.4f, \"mb_s\": %.2f, \"seconds\": %.3f, \"puts\": %llu, \"landed\": "
           "%llu, \"wrong\": %llu, \"cpu_sender\": %.3f, \"cpu_listener\": %.3f, "
           "\"cpu_s_per_gib\": %.4f, \"packets\": %llu, \"again\": %llu, \"lost\": %llu, "
           "\"dup\": %llu, \"rejected\": %llu, \"tx_full\": %llu, \"srtt_us\": %llu, \"p50_us\": "
           "%.1f, \"p99_us\": %.1f}\n",
           bytes * 8 / shared->seconds / 1e9, bytes / shared->seconds / 1e6, shared->seconds,
           (unsigned long long)s->puts, (unsigned long long)l->puts, (unsigned long long)l->wrong,
           s->cpu_s, l->cpu_s, bytes > 0 ? (s->cpu_s + l->cpu_s) / (bytes / (1 << 30)) : 0,
           (unsigned long long)s->stats.packets_sent,
           (unsigned long long)s->stats.packets_retransmitted,
           (unsigned long long)s->stats.packets_lost,
           (unsigned long long)l->stats.packets_duplicate,
           (unsigned long long)l->stats.packets_rejected, (unsigned long long)s->stats.tx_full,
           (unsigned long long)s->stats.srtt_ns / 1000, latency_us(0.5), latency_us(0.99));
}

static void print_text(const struct options *o)
{
    const struct end *s = &shared->sender, *l = &shared->listener;
    const double bytes = (double)s->puts * o->bytes;

    printf("%s %u B puts: %.0f MB/s, %llu puts in %.2f s, one takes p50 %.1f p99 %.1f us\n"
           "  sender:   cpu %.2f s, packets out %llu again %llu lost %llu in %llu, port full %llu, "
           "srtt %llu us\n  receiver: cpu %.2f s, %llu puts, %llu wrong, packets in %llu out %llu "
           "dup %llu rejected %llu\n",
           o->net, o->bytes, bytes / shared->seconds / 1e6, (unsigned long long)s->puts,
           shared->seconds, latency_us(0.5), latency_us(0.99), s->cpu_s,
           (unsigned long long)s->stats.packets_sent,
           (unsigned long long)s->stats.packets_retransmitted,
           (unsigned long long)s->stats.packets_lost, (unsigned long long)s->stats.packets_received,
           (unsigned long long)s->stats.tx_full, (unsigned long long)s->stats.srtt_ns / 1000,
           l->cpu_s, (unsigned long long)l->puts, (unsigned long long)l->wrong,
           (unsigned long long)l->stats.packets_received, (unsigned long long)l->stats.packets_sent,
           (unsigned long long)l->stats.packets_duplicate,
           (unsigned long long)l->stats.packets_rejected);
    for (int i = 0; i < 2; ++i)
        if ((i == 0 ? s : l)->note[0] != '\0')
            printf("  %s\n", (i == 0 ? s : l)->note);
}

static void usage(void)
{
    fprintf(stderr, "usage: transport_bench NET LISTENER SENDER [OPTION...]\n"
                    "  --bytes N        of one put (262144)\n"
                    "  --outstanding N  puts on their way at once (16)\n"
                    "  --seconds S      (2)\n"
                    "  --gap US         one put every US microseconds, and how long it takes\n"
                    "  --slice N        most bytes of a put in one packet\n"
                    "  --fault SPEC     as kvn_config.fault, for both ends\n"
                    "  --paths N        UDP ports of each end (udp)\n"
                    "  --cpu L,S        CPU of the listener, of the sender\n"
                    "  --netns L,S      network namespace of the listener, of the sender\n"
                    "  --peer ADDRESS   where the listener is, if that isn't LISTENER\n"
                    "  --only END       listener or sender: the other end is another process\n"
                    "  --busy-poll      never sleep\n"
                    "  --trace FILE     what the sender's every packet does, as JSON (udp, dpdk)\n"
                    "  --json           one line for programs\n");
    exit(2);
}

/* "a,b" or "a" for both. */
static void split(char *text, const char *out[2])
{
    out[0] = out[1] = text;
    text = strchr(text, ',');
    if (text != NULL) {
        *text = '\0';
        out[1] = text + 1;
    }
}

static struct options parse(int argc, char **argv)
{
    static const struct option known[] = {
        {"bytes", 1, NULL, 'b'},     {"outstanding", 1, NULL, 'o'}, {"seconds", 1, NULL, 's'},
        {"gap", 1, NULL, 'g'},       {"fault", 1, NULL, 'f'},       {"paths", 1, NULL, 'p'},
        {"cpu", 1, NULL, 'c'},       {"netns", 1, NULL, 'n'},       {"slice", 1, NULL, 'l'},
        {"busy-poll", 0, NULL, 'y'}, {"only", 1, NULL, 'O'},        {"peer", 1, NULL, 'P'},
        {"json", 0, NULL, 'j'},      {"trace", 1, NULL, 't'},       {NULL, 0, NULL, 0},
    };
    struct options o = {.cpu = {-1, -1}, .bytes = 262144, .outstanding = 16, .seconds = 2};
    const char *pair[2];

    for (int c; (c = getopt_long(argc, argv, "", known, NULL)) != -1;) {
        switch (c) {
        case 'b':
            o.bytes = (uint32_t)atoi(optarg);
            break;
        case 'o':
            o.outstanding = (uint32_t)atoi(optarg);
            break;
        case 's':
            o.seconds = atof(optarg);
            break;
        case 'l':
            o.slice = (uint32_t)atoi(optarg);
            break;
        case 'g':
            o.gap_us = (uint32_t)atoi(optarg);
            o.outstanding = 1;
            break;
        case 'f':
            o.fault = optarg;
            break;
        case 'p':
            o.paths = (uint8_t)atoi(optarg);
            break;
        case 'c':
            split(optarg, pair);
            o.cpu[0] = atoi(pair[0]);
            o.cpu[1] = atoi(pair[1]);
            break;
        case 'n':
            split(optarg, o.netns);
            break;
        case 'P':
            o.peer = optarg;
            break;
        case 'O':
            o.only[strcmp(optarg, "sender") == 0] = true;
            break;
        case 't':
            o.trace = optarg;
            break;
        case 'y':
            o.busy = true;
            break;
        case 'j':
            o.json = true;
            break;
        default:
            usage();
        }
    }
    if (argc - optind != 3 || o.bytes == 0 || o.bytes > POOL_BYTES / 2 || o.outstanding == 0)
        usage();
    o.net = argv[optind];
    return o;
}

int main(int argc, char **argv)
{
    const struct options o = parse(argc, argv);
    const int shown = MAP_SHARED | MAP_ANONYMOUS;
    uint8_t *pool = malloc(POOL_BYTES);
    struct kvn_config cfg = {
        .fault = o.fault, .paths = o.paths, .busy_poll = o.busy, .slice_bytes = o.slice};
    pid_t child;

    shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, shown, -1, 0);
    if (pool == NULL || shared == MAP_FAILED)
        die("memory", "none");
    for (uint32_t i = 0; i < POOL_BYTES; ++i)
        pool[i] = (uint8_t)(i * 2654435761u >> 24);
    child = o.only[0] || o.only[1] ? 0 : fork();
    if (child == 0 && !o.only[1]) {
        if (!o.only[0])
            prctl(PR_SET_PDEATHSIG, SIGKILL);
        settle(&o, 0);
        memset(pool, 0, POOL_BYTES);
        cfg.local = argv[optind + 1];
        cfg.listener = true;
        receive(&cfg, &o, pool);
        if (!o.only[0])
            _exit(0);
    } else {
        settle(&o, 1);
        cfg.trace = o.trace;
        cfg.local = argv[optind + 2];
        cfg.peer = o.peer != NULL ? o.peer : argv[optind + 1];
        send_all(&cfg, &o, pool);
        if (child != 0)
            waitpid(child, NULL, 0);
    }
    qsort(shared->latency_ns, shared->latencies, sizeof(uint32_t), by_size);
    if (o.json)
        print_json(&o);
    else
        print_text(&o);
    free(pool);
    return 0;
}
