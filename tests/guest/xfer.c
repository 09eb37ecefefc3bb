/* SPDX-License-Identifier: Apache-2.0 */
/*
 * xfer listen|send KEY=VALUE...: chunks from one process to another, perhaps on another host, over
 * a transport or TCP. Every byte of every chunk is checked, each must land exactly once and where
 * it was sent; prints goodput, and ends with 1 and a sentence if anything was not so.
 *
 *   xfer listen net=udp local=10.77.0.1:9100
 *   xfer send   net=udp local=10.77.0.2:0 peer=10.77.0.1:9100 seconds=5
 *
 * A chunk is put into slot (number % depth) once the receiver has checked what lay there before.
 */
#include "xfer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "../../kvwire/wire.h"
#include "../../net/net.h"

#define EVENTS 64u

uint64_t xfer_now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

void xfer_die(const char *what, const char *why)
{
    fprintf(stderr, "xfer: %s: %s\n", what, why);
    _exit(1);
}

/*
 * One long run of pseudo-random words; chunk n is what begins at words_at(n). So the sender fills
 * nothing and the receiver compares: the emulated CPU's time goes to the transfer.
 */
#define RUN_BYTES (4u << 20)
#define STEP      4160u /* between chunks: odd in cache lines */

static uint64_t *run;

static void make_run(void)
{
    uint64_t x = 88172645463325252u;

    run = aligned_alloc(4096, RUN_BYTES);
    if (run == NULL)
        xfer_die("memory", "none for the data");
    for (uint32_t i = 0; i < RUN_BYTES / 8; ++i) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        run[i] = x;
    }
}

const void *xfer_chunk(uint32_t bytes, uint64_t number)
{
    return (const uint8_t *)run + number * STEP % (RUN_BYTES - bytes) / 64 * 64;
}

uint64_t xfer_wrong(const void *chunk, uint32_t bytes, uint64_t number)
{
    const uint8_t *got = chunk, *want = xfer_chunk(bytes, number);
    uint64_t wrong = 0;

    if (memcmp(got, want, bytes) == 0)
        return 0;
    for (uint32_t i = 0; i < bytes; ++i)
        wrong += got[i] != want[i];
    return wrong;
}

void xfer_sent(const struct xfer *x, uint64_t chunks, uint64_t ns)
{
    printf("sent net=%s chunk=%u chunks=%llu seconds=%.2f MB/s=%.2f\n", x->net, x->chunk,
           (unsigned long long)chunks, (double)ns / 1e9,
           (double)chunks * x->chunk * 1e3 / (double)ns);
}

void xfer_received(const struct xfer *x, uint64_t chunks, uint64_t wrong, uint64_t twice)
{
    printf("received net=%s chunks=%llu wrong_bytes=%llu twice=%llu\n", x->net,
           (unsigned long long)chunks, (unsigned long long)wrong, (unsigned long long)twice);
    fflush(stdout);
    if (chunks == 0 || wrong != 0 || twice != 0)
        _exit(1);
}

static struct kvw_transport *open_end(const struct xfer *x, bool listener)
{
    const struct kvn_config cfg = {.local = x->local,
                                   .peer = x->peer,
                                   .listener = listener,
                                   .fault = x->fault,
                                   .open_by_ns = xfer_now_ns() + 30000000000u};
    char why[KVN_WHY_BYTES];
    struct kvw_transport *t;

    if (kvn_open(&t, x->net, &cfg, why) != KVW_OK)
        xfer_die(x->net, why);
    return t;
}

static uint32_t turn(struct kvw_transport *t, struct kvw_transport_event *ev)
{
    const uint32_t n = t->ops->poll(t, xfer_now_ns(), ev, EVENTS);

    if (n == 0) {
        const uint64_t until = t->ops->deadline_ns(t), second = xfer_now_ns() + 1000000000u;
        t->ops->wait(t, until < second ? until : second, -1);
    }
    return n;
}

struct receiver {
    const struct xfer *x;
    struct kvw_transport *t;
    uint8_t *slots;
    uint64_t next[XFER_DEPTH_MAX]; /* the chunk that each slot is to get */
    uint64_t checked, wrong, twice;
    uint64_t told; /* of checked, to the sender */
    bool over;
};

static void landed(struct receiver *r, const struct kvw_transport_event *ev)
{
    const uint32_t slot = ev->imm % r->x->depth;
    const uint8_t *at = r->slots + (size_t)slot * r->x->chunk;

    /* imm has the low 32 bits of the number; another than the expected came twice or never. */
    if (ev->imm != (uint32_t)r->next[slot] || ev->bytes != r->x->chunk ||
        ev->offset != (uint64_t)slot * r->x->chunk) {
        ++r->twice;
        return;
    }
    r->wrong += xfer_wrong(at, r->x->chunk, r->next[slot]);
    r->next[slot] += r->x->depth;
    ++r->checked;
}

/* Slots free one by one, in any order: the sender is told of the oldest that isn't. */
static uint64_t all_before(const struct receiver *r)
{
    uint64_t least = UINT64_MAX;

    for (uint32_t i = 0; i < r->x->depth; ++i)
        if (r->next[i] < least)
            least = r->next[i];
    return least;
}

static void receive(const struct xfer *x)
{
    struct receiver r = {.x = x, .t = open_end(x, true)};
    const uint64_t bytes = (uint64_t)x->chunk * x->depth;
    struct kvw_mem mem = {.bytes = bytes, .kind = KVW_MEM_HOST, .dmabuf_fd = -1};
    struct kvw_transport_event ev[EVENTS];
    struct kvw_region_key key;
    kvw_conn_id conn = {0};

    r.slots = mem.base = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
    for (uint32_t i = 0; i < x->depth; ++i)
        r.next[i] = i;
    if (r.slots == NULL || r.t->ops->region_add(r.t, &mem, NULL, NULL, &key) != KVW_OK ||
        r.t->ops->listen(r.t) != KVW_OK)
        xfer_die(x->net, "can't listen");
    fprintf(stderr, "xfer: listening\n");
    while (!r.over) {
        const uint32_t n = turn(r.t, ev);
        for (uint32_t i = 0; i < n; ++i) {
            if (ev[i].kind == KVW_TEV_CONN_UP) {
                conn = ev[i].conn;
                if (r.t->ops->region_open != NULL &&
                    r.t->ops->region_open(r.t, conn, &key) != KVW_OK)
                    xfer_die(x->net, "can't open the slots to the sender");
                if (r.t->ops->send(r.t, conn, &key, sizeof(key)) != KVW_OK)
                    xfer_die(x->net, "can't send the key");
            }
            if (ev[i].kind == KVW_TEV_PUT_LANDED)
                landed(&r, &ev[i]);
            r.over |= ev[i].kind == KVW_TEV_CONN_DOWN;
        }
        const uint64_t free_to = all_before(&r);
        if (!r.over && free_to > r.told && conn.value != 0 &&
            r.t->ops->send(r.t, conn, &free_to, sizeof(free_to)) == KVW_OK)
            r.told = free_to;
    }
    r.t->ops->close(r.t);
    xfer_received(x, r.checked, r.wrong, r.twice);
    free(r.slots);
}

struct sender {
    const struct xfer *x;
    struct kvw_transport *t;
    kvw_conn_id conn;
    struct kvw_put put;
    bool has_key;
    uint64_t queued, done, checked; /* checked: all before it */
    kvw_err bad;                    /* of a put; KVW_OK: none */
};

static void take_events(struct sender *s)
{
    struct kvw_transport_event ev[EVENTS];
    const uint32_t n = turn(s->t, ev);

    for (uint32_t i = 0; i < n; ++i) {
        if (ev[i].kind == KVW_TEV_CONN_DOWN)
            xfer_die(s->x->net, ev[i].text);
        if (ev[i].kind == KVW_TEV_PUT_DONE) {
            if (ev[i].err != KVW_OK)
                s->bad = ev[i].err; /* CONN_DOWN follows, and says more */
            ++s->done;
        }
        if (ev[i].kind == KVW_TEV_MESSAGE && !s->has_key) {
            memcpy(&s->put.key, ev[i].msg, sizeof(s->put.key));
            s->has_key = true;
        } else if (ev[i].kind == KVW_TEV_MESSAGE) {
            memcpy(&s->checked, ev[i].msg, sizeof(s->checked));
        }
    }
}

static void put_more(struct sender *s, uint64_t end)
{
    const struct xfer *x = s->x;

    while (s->queued < s->checked + x->depth && xfer_now_ns() < end) {
        const uint64_t at = s->queued % x->depth * x->chunk;

        s->put.offset = at;
        s->put.imm = (uint32_t)s->queued;
        s->put.iov[0] = (struct kvw_iov){xfer_chunk(x->chunk, s->queued), x->chunk};
        if (s->t->ops->put(s->t, s->conn, &s->put) != KVW_OK)
            return;
        ++s->queued;
    }
}

static void transmit(const struct xfer *x)
{
    struct sender s = {.x = x, .t = open_end(x, false), .put = {.iov_count = 1}};
    const struct kvw_mem source = {
        .base = run, .bytes = RUN_BYTES, .kind = KVW_MEM_HOST, .dmabuf_fd = -1};
    struct kvw_transport_stats stats;
    uint64_t begin, end;

    if (s.t->ops->source_add != NULL && s.t->ops->source_add(s.t, &source) != KVW_OK)
        xfer_die(x->net, "can't announce the source");
    if (s.t->ops->connect(s.t, NULL, xfer_now_ns(), &s.conn) != KVW_OK)
        xfer_die(x->net, "can't connect");
    while (!s.has_key)
        take_events(&s);
    begin = xfer_now_ns();
    end = begin + (uint64_t)(x->seconds * 1e9);
    while (xfer_now_ns() < end || s.done < s.queued || (s.checked < s.queued && s.bad == KVW_OK)) {
        put_more(&s, end);
        take_events(&s);
    }
    if (s.bad != KVW_OK)
        xfer_die("a put", kvw_strerror(s.bad));
    xfer_sent(x, s.queued, xfer_now_ns() - begin);
    s.t->ops->stats(s.t, &stats);
    printf("packets sent=%llu again=%llu lost=%llu srtt_us=%llu\n",
           (unsigned long long)stats.packets_sent, (unsigned long long)stats.packets_retransmitted,
           (unsigned long long)stats.packets_lost, (unsigned long long)stats.srtt_ns / 1000);
    s.t->ops->close(s.t);
}

static void option(struct xfer *x, const char *arg)
{
    const char *value = strchr(arg, '=');
    const size_t n = value != NULL ? (size_t)(value - arg) : 0;

    if (n == 0)
        xfer_die(arg, "options are KEY=VALUE");
    ++value;
    if (strncmp(arg, "net", n) == 0)
        x->net = value;
    else if (strncmp(arg, "local", n) == 0)
        x->local = value;
    else if (strncmp(arg, "peer", n) == 0)
        x->peer = value;
    else if (strncmp(arg, "fault", n) == 0)
        x->fault = value;
    else if (strncmp(arg, "chunk", n) == 0)
        x->chunk = (uint32_t)atoi(value) & ~7u;
    else if (strncmp(arg, "depth", n) == 0)
        x->depth = (uint32_t)atoi(value);
    else if (strncmp(arg, "seconds", n) == 0)
        x->seconds = atof(value);
    else if (strncmp(arg, "within", n) == 0)
        x->within = atof(value);
    else
        xfer_die(arg, "there are net, local, peer, fault, chunk, depth, seconds, within");
}

int main(int argc, char **argv)
{
    struct xfer x = {.net = "udp", .chunk = 262144, .depth = 16, .seconds = 5, .within = 60};
    const bool listener = argc > 1 && strcmp(argv[1], "listen") == 0;

    if (argc < 2 || (!listener && strcmp(argv[1], "send") != 0))
        xfer_die("usage", "xfer listen|send KEY=VALUE...");
    for (int i = 2; i < argc; ++i)
        option(&x, argv[i]);
    if (x.chunk == 0 || x.chunk > KVW_PUT_BYTES_MAX || x.depth == 0 || x.depth > XFER_DEPTH_MAX)
        xfer_die("chunk or depth", "out of range");
    make_run();
    alarm((unsigned)x.within + 1); /* whatever hangs, it ends */
    if (strcmp(x.net, "tcp") == 0)
        xfer_tcp(&x, listener);
    else if (listener)
        receive(&x);
    else
        transmit(&x);
    free(run);
    return 0;
}
