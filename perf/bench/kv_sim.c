/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kv_sim [KEY=VALUE...] - a KV hand-over on the simulated network and its virtual clock: streamed
 * beside the prefill against sent after it, over lengths, links and hosts that look late. The same
 * every time for a seed; nothing of the machine that runs it is in a figure.
 *
 *   sweep (default)  a line a cell, median of rounds: exposed ms sent after, streamed, their ratio
 *   mode=wan         all layers at once: payload's share of what the link carries
 *   tokens=64,256    gbps=1,10   loss=0,1e-4   late_us=0,50   lists; each combination is a cell
 *   codec=raw,auto   of the streamed transfer; sent after is raw always
 *   rtt_us=20 mtu=9000 rounds=5 layers=30 heads=3 dim=64 rate=20000 (prefill, tokens/s) seed=1
 *   slice_us=0       one waking in 16 comes so much later: another program had the core
 *   clock=1          0: layers are pushed when they are ready, as from a GPU that says so
 *   budget=0         2: e4 may be used      slots=0, chunk=0 (KiB), inflight=0 (MB): the defaults
 *   sent=0           records of packets that a path may come to hold; 0: the default
 *   many=1           wan: so many transfers of the same blocks, begun together
 *   least=0.95       wan: the share that is asked for
 *   trace=1          each layer of the last round of each cell: ready, landed; wan: the window
 *
 * late_us: who slept wakes up to so much late, uniformly: hosts, and the clock that pushes. A host
 * says so (slack_ns), as udp does. A poll takes POLL_PS, a codec the time that it took on one
 * core of a server (COST), and its node does nothing else meanwhile. One that finds work at a
 * poll's end doesn't sleep.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../compress/compress.h"
#include "../../kvwire/core.h"
#include "../../kvwire/kv/dense.h"
#include "../../net/packet/endpoint.h"
#include "../../net/packet/wire.h"
#include "../../net/port/sim/sim.h"

#define LIST_MAX     16u
#define MANY_MAX     256u
#define ROUNDS_MAX   99u
#define LAYERS_MAX   128u
#define BLOCK_TOKENS 16u
#define LEAD_NS      2000000ull
#define GIVE_UP_NS   600000000000ull

/* Picoseconds a raw byte, encode and decode (RESULTS.md, codec_bench whole). */
static const struct {
    const char *name;
    double encode_ps, decode_ps;
} COST[] = {{"raw", 60, 60}, {"l0", 450, 350}, {"e8", 550, 300}, {"e4", 700, 400}};

#define SLACK_NS 8000000ull /* of a port on hosts that look late; as udp's */
#define POLL_PS  2e6        /* looking at a socket and a queue */

struct list {
    double at[LIST_MAX];
    uint32_t count;
};

static struct {
    struct list tokens, gbps, loss, late_us;
    char codecs[LIST_MAX][16];
    uint32_t codec_count;
    double rtt_us, mtu, rounds, layers, heads, dim, rate, seed, slice_us, budget, slots, inflight;
    double trace, least, clock, chunk, sent, many;
    bool wan;
} o = {.tokens = {{64}, 1},
       .gbps = {{10}, 1},
       .loss = {{0}, 1},
       .late_us = {{0}, 1},
       .codecs = {"raw"},
       .codec_count = 1,
       .rtt_us = 20,
       .mtu = 9000,
       .rounds = 5,
       .layers = 30,
       .heads = 3,
       .dim = 64,
       .rate = 20000,
       .seed = 1,
       .least = 0.95,
       .clock = 1,
       .many = 1};

/* A host: its core is looked at when it is due and its processor comes to it. */
struct host {
    struct kvw_transport *net;
    struct kvn_port *port;
    struct kvw_core *core;
    struct kvw_pool pool;
    struct kvw_dense dense;
    kvw_pool_id pool_id;
    kvw_peer_id peer; /* 0: not up */
    uint32_t *blocks;
    bool slept, awake; /* awake: it is due, and will be polled at poll_ns */
    uint32_t done;     /* transfers */
    uint64_t poll_ns, busy_ns;
    double wire_bytes;
    uint64_t ready_ns[LAYERS_MAX];
};

/* What one round is made of. */
struct plan {
    uint32_t tokens, codec;
    bool streamed;
    double late_us;
};

static struct host tx, rx;
static struct kvn_sim *sim;
static uint64_t random_state;
static double spent_ps; /* of codecs, in the poll that is under way */
static const struct plan *now_doing;
static uint64_t push_ns[LAYERS_MAX], end_ns; /* planned */

static void die(const char *what)
{
    fprintf(stderr, "kv_sim: %s\n", what);
    exit(1);
}

static double draw(void)
{
    uint64_t z = random_state += 0x9e3779b97f4a7c15ull;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return (double)((z ^ z >> 31) >> 11) / 9007199254740992.0;
}

/* How late a thread of a host is this time. */
static uint64_t lateness_ns(void)
{
    const double slice = draw() < 1.0 / 16 ? o.slice_us : 0;

    return (uint64_t)(1e3 * (draw() * now_doing->late_us + slice));
}

/* --- codecs that take virtual time ------------------------------------------------------------ */

static void spend(const struct kvw_codec_ops *of, const struct kvw_view *v, bool encode)
{
    for (uint32_t i = 0; i < sizeof(COST) / sizeof(COST[0]); ++i)
        if (strcmp(COST[i].name, of->name) == 0)
            spent_ps +=
                (double)kvw_view_bytes(v) * (encode ? COST[i].encode_ps : COST[i].decode_ps);
}

#define TIMED(codec)                                                                               \
    static kvw_err encode_##codec(const struct kvw_view *src, const struct kvw_codec_args *args,   \
                                  void *dst, uint64_t dst_bytes, uint64_t *bytes,                  \
                                  struct kvw_digest *digest, void *scratch)                        \
    {                                                                                              \
        spend(&kvc_codec_##codec, src, true);                                                      \
        return kvc_codec_##codec.encode(src, args, dst, dst_bytes, bytes, digest, scratch);        \
    }                                                                                              \
    static kvw_err decode_##codec(const void *src, uint64_t src_bytes,                             \
                                  const struct kvw_codec_book *book, const struct kvw_view *dst,   \
                                  struct kvw_digest *digest, void *scratch)                        \
    {                                                                                              \
        spend(&kvc_codec_##codec, dst, false);                                                     \
        return kvc_codec_##codec.decode(src, src_bytes, book, dst, digest, scratch);               \
    }
TIMED(raw)
TIMED(l0)
TIMED(e8)
TIMED(e4)

static struct kvw_codec_ops timed[4];
static const struct kvw_codec_ops *const codecs[] = {&timed[1], &timed[2], &timed[3], &timed[0],
                                                     NULL};

static void make_codecs(void)
{
    timed[0] = kvc_codec_raw;
    timed[0].encode = encode_raw;
    timed[0].decode = decode_raw;
    timed[1] = kvc_codec_l0;
    timed[1].encode = encode_l0;
    timed[1].decode = decode_l0;
    timed[2] = kvc_codec_e8;
    timed[2].encode = encode_e8;
    timed[2].decode = decode_e8;
    timed[3] = kvc_codec_e4;
    timed[3].encode = encode_e4;
    timed[3].decode = decode_e4;
}

static uint64_t clock_ns(void *arg)
{
    (void)arg;
    return kvn_sim_now(sim) + (uint64_t)(spent_ps / 1e3);
}

static uint32_t codec_id(const char *name)
{
    for (uint32_t i = 0; codecs[i] != NULL; ++i)
        if (strcmp(codecs[i]->name, name) == 0)
            return codecs[i]->id;
    if (strcmp(name, "auto") != 0)
        die("codec: raw, l0, e8, e4 or auto");
    return 0;
}

/* --- hosts ------------------------------------------------------------------------------------ */

/* Normal values, a scale for each channel: what codecs make of them is near to what they make of
 * recorded KV. */
static void fill(struct kvw_pool *p)
{
    static uint16_t table[1 << 16];
    uint16_t *to = p->mem.base;

    for (uint32_t i = 0; i < 1u << 16; ++i) {
        const double scale = exp2(4 * (double)(i * 40503u % p->head_dim) / p->head_dim - 2);
        const double u = sqrt(-2 * log(1 - draw())) * cos(6.283185307179586 * draw());
        const float value = (float)(u * scale);
        uint32_t bits;

        memcpy(&bits, &value, sizeof(bits));
        table[i] = (uint16_t)((bits + 0x8000u) >> 16);
    }
    for (uint64_t i = 0; i < p->mem.bytes / 2; ++i)
        to[i] = table[(i % p->head_dim * 1021u + i / p->head_dim * 2654435761u) & 0xffff];
}

static void make_pool(struct host *h, uint32_t tokens)
{
    struct kvw_pool *p = &h->pool;
    const uint32_t blocks = (tokens + BLOCK_TOKENS - 1) / BLOCK_TOKENS;
    const uint64_t head = 2 * (uint64_t)o.dim, token = head * (uint64_t)o.heads;

    *p = (struct kvw_pool){.layers = (uint32_t)o.layers,
                           .blocks = blocks,
                           .block_tokens = BLOCK_TOKENS,
                           .kv_heads = (uint32_t)o.heads,
                           .head_dim = (uint32_t)o.dim,
                           .dtype = KVW_DTYPE_BF16,
                           .head_stride = head,
                           .token_stride = token,
                           .block_stride = token * BLOCK_TOKENS,
                           .kv_stride = token * BLOCK_TOKENS * blocks,
                           .layer_stride = 2 * token * BLOCK_TOKENS * blocks};
    p->mem = (struct kvw_mem){
        .bytes = p->layers * p->layer_stride, .kind = KVW_MEM_HOST, .dmabuf_fd = -1};
    p->mem.base = malloc(p->mem.bytes);
    h->blocks = calloc(blocks, sizeof(*h->blocks));
    if (p->mem.base == NULL || h->blocks == NULL)
        die("no memory");
    for (uint32_t i = 0; i < blocks; ++i) {
        const uint32_t at = (uint32_t)(draw() * (i + 1));

        h->blocks[i] = h->blocks[at];
        h->blocks[at] = i;
    }
}

static void open_host(struct host *h, bool receiver, double late_us)
{
    const struct kvn_packet_config net = {.seed = 1 + receiver,
                                          .slice_bytes = (uint32_t)o.mtu - 28 - KVN_DATA_BYTES,
                                          .inflight_bytes = (uint32_t)(o.inflight * 1e6),
                                          .sent_max = (uint32_t)o.sent};
    struct kvw_core_path path = {.name = "sim", .listen = receiver};
    struct kvw_core_config cfg = {.size = sizeof(cfg),
                                  .path_count = 1,
                                  .paths = &path,
                                  .instance = 1 + receiver,
                                  .codecs = codecs,
                                  .clock = clock_ns,
                                  .chunk_raw_bytes = (uint32_t)o.chunk * 1024,
                                  .slots = (uint32_t)o.slots,
                                  .stages = (uint32_t)o.slots};
    char why[KVN_WHY_BYTES] = "";
    const char *field = "";

    if (kvn_sim_port_open(&h->port, sim, !receiver) != KVW_OK ||
        (h->port->slack_ns = late_us + o.slice_us > 0 ? SLACK_NS : 0,
         kvn_packet_open(&h->net, h->port, &net, why)) != KVW_OK)
        die(why);
    path.transport = h->net;
    if (kvw_core_open(&h->core, &cfg, kvn_sim_now(sim), &field) != KVW_OK)
        die(field);
    kvw_dense_make(&h->dense, &h->pool, "kv_sim");
    if (kvw_core_pool_add(h->core, &h->dense.desc, &h->pool_id, why, sizeof(why)) != KVW_OK)
        die(why);
}

static void close_host(struct host *h)
{
    kvw_core_close(h->core, kvn_sim_now(sim));
    h->net->ops->close(h->net);
    free(h->pool.mem.base);
    free(h->blocks);
    memset(h, 0, sizeof(*h));
}

static void take_events(struct host *h)
{
    struct kvw_core_event ev = {.size = sizeof(ev)};

    while (kvw_core_next_event(h->core, &ev)) {
        if (ev.kind == KVW_CEV_PEER_LOST)
            die(ev.text);
        if (ev.kind == KVW_CEV_PEER_POOL)
            h->peer = ev.peer;
        if (ev.kind == KVW_CEV_LAYER_READY)
            h->ready_ns[ev.layer] = clock_ns(NULL);
        if (ev.kind != KVW_CEV_XFER_DONE)
            continue;
        ++h->done;
        h->wire_bytes += (double)ev.wire_bytes;
        if (ev.err != KVW_OK)
            die(ev.text);
    }
}

/* --- time ------------------------------------------------------------------------------------- */

static uint64_t later(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

static uint64_t due_ns(const struct host *h)
{
    const uint64_t core = kvw_core_deadline_ns(h->core), port = h->port->ops->deadline_ns(h->port);

    return core < port ? core : port;
}

static void look(struct host *h)
{
    const uint64_t now = kvn_sim_now(sim);

    if (!h->slept && now > h->busy_ns && due_ns(h) > now)
        h->slept = true;
    if (!h->awake && due_ns(h) <= now) {
        h->awake = true;
        h->poll_ns = later(h->slept ? now + lateness_ns() : now, h->busy_ns);
    }
    if (!h->awake || h->poll_ns > now)
        return;
    spent_ps = POLL_PS;
    h->awake = kvw_core_poll(h->core, now); /* more to do: again, before anything is waited for */
    take_events(h);
    h->busy_ns = h->poll_ns = now + (uint64_t)(spent_ps / 1e3);
    spent_ps = 0;
    h->slept = false;
}

/* Both hosts look, then time moves to what comes next, at most to until_ns. */
static void step(uint64_t until_ns)
{
    struct host *const hosts[] = {&tx, &rx};
    uint64_t next = until_ns;

    for (int i = 0; i < 2; ++i)
        look(hosts[i]);
    for (int i = 0; i < 2; ++i) {
        const struct host *h = hosts[i];
        uint64_t at = h->awake ? h->poll_ns : due_ns(h);

        if (!h->slept && !h->awake && h->busy_ns >= kvn_sim_now(sim) && h->busy_ns < at)
            at = h->busy_ns + 1; /* its poll ends: does it sleep? */
        next = at < next ? at : next;
    }
    if (next > kvn_sim_now(sim))
        kvn_sim_advance(sim, next);
}

/* --- a round ---------------------------------------------------------------------------------- */

static void open_transfer(const struct plan *p, uint32_t round, kvw_xfer_ref *x)
{
    static uint32_t number;
    const struct kvw_group_blocks have = {.block_count =
                                              (p->tokens + BLOCK_TOKENS - 1) / BLOCK_TOKENS,
                                          .blocks = tx.blocks},
                                  want = {.block_count = have.block_count,
                                          .blocks = rx.blocks,
                                          .want_end = p->tokens};
    const struct kvw_offer_terms terms = {.size = sizeof(terms), .budget = (uint32_t)o.budget};
    char name[32];

    snprintf(name, sizeof(name), "%u %u", round, ++number);
    const struct kvw_offer_args offer = {.size = sizeof(offer),
                                         .pool = rx.pool_id,
                                         .key = kvw_key_of(name),
                                         .tokens = p->tokens,
                                         .groups = &want,
                                         .group_count = 1,
                                         .sources = &rx.peer,
                                         .source_count = 1,
                                         .group_bytes = sizeof(want),
                                         .terms = &terms};
    const struct kvw_stream_args stream = {.size = sizeof(stream),
                                           .pool = tx.pool_id,
                                           .key = offer.key,
                                           .tokens = p->tokens,
                                           .groups = &have,
                                           .group_count = 1,
                                           .group_bytes = sizeof(have),
                                           .codec = p->codec};
    kvw_xfer_ref in;
    char why[257] = "";

    if (kvw_core_offer(rx.core, &offer, kvn_sim_now(sim), &in, why, sizeof(why)) != KVW_OK ||
        kvw_core_stream(tx.core, &stream, kvn_sim_now(sim), x, why, sizeof(why)) != KVW_OK)
        die(why);
}

/* Runs one transfer; ms from when the last layer was planned to be ready until the last landed. */
static double run_round(const struct plan *p, uint32_t round)
{
    const uint64_t prefill_ns = (uint64_t)(1e9 * p->tokens / o.rate);
    const uint32_t layers = (uint32_t)o.layers;
    uint64_t begin, at, last = 0;
    kvw_xfer_ref x;

    now_doing = p;
    tx.done = rx.done = 0;
    tx.wire_bytes = rx.wire_bytes = 0;
    memset(rx.pool.mem.base, 0xa5, rx.pool.mem.bytes);
    open_transfer(p, round, &x);
    at = kvn_sim_now(sim);
    begin = at + later(LEAD_NS, (uint64_t)(3e3 * o.rtt_us));
    end_ns = begin + (p->streamed ? prefill_ns : 0);
    for (uint32_t l = 0; l < layers; ++l) {
        push_ns[l] = p->streamed ? begin + prefill_ns * (l + 1) / layers : begin;
        if (push_ns[l] >= kvn_sim_now(sim)) /* else the clock is awake, and behind */
            at = push_ns[l] + (o.clock > 0 ? lateness_ns() : 0);
        while (kvn_sim_now(sim) < at)
            step(at);
        if (kvw_core_push(tx.core, x, l, p->tokens, NULL) != KVW_OK)
            die("push");
    }
    if (kvw_core_commit(tx.core, x, NULL, 0) != KVW_OK)
        die("commit");
    while (tx.done < 1 || rx.done < 1) {
        if (kvn_sim_now(sim) > end_ns + GIVE_UP_NS)
            die("a transfer doesn't end");
        step(UINT64_MAX - 1);
    }
    for (uint32_t l = 0; l < layers; ++l)
        last = later(last, rx.ready_ns[l]);
    return ((double)last - (double)end_ns) / 1e6;
}

/* The same bytes o.many times, each of them a transfer, all begun at once; ms until the last is
 * over. What a far link carries when there is enough to do. */
static double run_many(const struct plan *p, uint32_t round)
{
    const uint64_t begin = kvn_sim_now(sim) + later(LEAD_NS, (uint64_t)(3e3 * o.rtt_us));
    const uint32_t many = (uint32_t)o.many;
    kvw_xfer_ref x[MANY_MAX];

    now_doing = p;
    tx.done = rx.done = 0;
    tx.wire_bytes = rx.wire_bytes = 0;
    memset(rx.pool.mem.base, 0xa5, rx.pool.mem.bytes);
    for (uint32_t i = 0; i < many; ++i)
        open_transfer(p, round, &x[i]);
    while (kvn_sim_now(sim) < begin)
        step(begin);
    for (uint32_t i = 0; i < many; ++i) {
        for (uint32_t l = 0; l < (uint32_t)o.layers; ++l)
            if (kvw_core_push(tx.core, x[i], l, p->tokens, NULL) != KVW_OK)
                die("push");
        if (kvw_core_commit(tx.core, x[i], NULL, 0) != KVW_OK)
            die("commit");
    }
    while (tx.done < many || rx.done < many) {
        if (kvn_sim_now(sim) > begin + GIVE_UP_NS)
            die("a transfer doesn't end");
        step(UINT64_MAX - 1);
    }
    return (double)(kvn_sim_now(sim) - begin) / 1e6;
}

/* Every token's K and V of every layer, as far as they are asked for; exact codecs only. */
static bool same(uint32_t tokens)
{
    for (uint32_t lk = 0; lk < 2 * tx.pool.layers; ++lk)
        for (uint32_t t = 0; t < tokens; ++t) {
            const uint64_t at = lk * tx.pool.kv_stride + t % BLOCK_TOKENS * tx.pool.token_stride;
            const uint64_t a = tx.blocks[t / BLOCK_TOKENS] * tx.pool.block_stride;
            const uint64_t b = rx.blocks[t / BLOCK_TOKENS] * rx.pool.block_stride;

            if (memcmp((char *)tx.pool.mem.base + at + a, (char *)rx.pool.mem.base + at + b,
                       tx.pool.token_stride) != 0)
                return false;
        }
    return true;
}

/* --- cells ------------------------------------------------------------------------------------ */

struct cell {
    double tokens, gbps, loss, late_us;
    const char *codec;
};

/* Packets that the network has room for: twice what a round trip holds. */
static uint32_t in_flight(double gbps)
{
    const double most = 2 * gbps * 1.25e8 * o.rtt_us * 1e-6 / o.mtu;
    uint32_t n = KVN_SIM_PACKETS;

    while (n < most && n < KVN_SIM_PACKETS_MAX)
        n *= 2;
    return n;
}

static void begin_cell(const struct cell *c)
{
    const struct kvn_sim_link link = {.delay_ns = (uint64_t)(500 * o.rtt_us),
                                      .bytes_per_s = (uint64_t)(c->gbps * 1.25e8),
                                      .loss = c->loss};
    static const struct plan idle = {.late_us = 0};
    kvw_peer_id peer;

    random_state = (uint64_t)o.seed;
    sim = kvn_sim_open_for((uint64_t)o.seed, (uint32_t)o.mtu - 28, in_flight(c->gbps));
    if (sim == NULL)
        die("no memory");
    kvn_sim_links(sim, &link);
    make_pool(&tx, (uint32_t)c->tokens);
    make_pool(&rx, (uint32_t)c->tokens);
    fill(&tx.pool);
    open_host(&rx, true, c->late_us);
    open_host(&tx, false, c->late_us);
    if (kvw_core_peer_add(tx.core, 0, NULL, 0, &peer) != KVW_OK)
        die("peer");
    now_doing = &idle;
    while (rx.peer.value == 0 || tx.peer.value == 0)
        step(kvn_sim_now(sim) + GIVE_UP_NS);
}

static void end_cell(void)
{
    close_host(&tx);
    close_host(&rx);
    kvn_sim_close(sim);
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static double median(double *of, uint32_t n)
{
    qsort(of, n, sizeof(of[0]), by_value);
    return n % 2 != 0 ? of[n / 2] : (of[n / 2 - 1] + of[n / 2]) / 2;
}

static void show_layers(const char *row)
{
    for (uint32_t l = 0; l < (uint32_t)o.layers; ++l)
        printf("    %s layer %u: ready %.3f, landed %.3f (%.3f later)\n", row, l,
               ((double)push_ns[l] - (double)end_ns) / 1e6,
               ((double)rx.ready_ns[l] - (double)end_ns) / 1e6,
               ((double)rx.ready_ns[l] - (double)push_ns[l]) / 1e6);
}

/* True: streamed is no slower. The first round of each is left out: it finds the link's rate. */
static bool sweep_cell(const struct cell *c)
{
    const uint32_t rounds = (uint32_t)o.rounds;
    const struct plan after = {(uint32_t)c->tokens, KVW_CODEC_RAW, false, c->late_us};
    const struct plan streamed = {(uint32_t)c->tokens, codec_id(c->codec), true, c->late_us};
    double a[ROUNDS_MAX], s[ROUNDS_MAX], ratio;
    bool equal = true;

    begin_cell(c);
    for (uint32_t i = 0; i <= rounds; ++i) {
        const double after_ms = run_round(&after, i);

        equal &= same(after.tokens);
        if (o.trace > 0 && i == rounds)
            show_layers("after");
        const double streamed_ms = run_round(&streamed, i);

        equal &= o.budget > 0 || same(after.tokens);
        if (o.trace > 0 && i == rounds)
            show_layers("streamed");
        if (i > 0) {
            a[i - 1] = after_ms;
            s[i - 1] = streamed_ms;
        }
    }
    ratio = median(s, rounds) / median(a, rounds);
    printf("| %g | %g | %g | %g | %s | %.4f | %.4f (%.4f .. %.4f) | %.3f | %s |\n", c->gbps,
           c->loss, c->late_us, c->tokens, c->codec, median(a, rounds), median(s, rounds), s[0],
           s[rounds - 1], ratio, equal ? "equal" : "WRONG");
    fflush(stdout);
    end_cell();
    return equal && ratio <= 1.02;
}

/* All at once, twice: what the link's start costs, and how it goes on. */
/* What the sender's connection has come to. */
static void show_link(void)
{
    struct kvn_conn_stats s;
    struct kvw_core_stats core = {.size = sizeof(core)};

    kvw_core_stats(tx.core, &core);
    for (uint32_t id = 0; id < 1u << 16; ++id)
        if (kvn_packet_conn_stats(tx.net, (kvw_conn_id){id}, &s) == KVW_OK)
            printf("    window %.1f MB, in flight %.1f MB, %u records, lost %llu, waits for credit "
                   "%llu and landing slots %llu, rtt %.2f ms (least %.2f)\n",
                   (double)s.path[0].cwnd_bytes / 1e6, (double)s.path[0].inflight_bytes / 1e6,
                   s.path[0].records, (unsigned long long)s.path[0].packets_lost,
                   (unsigned long long)s.credit_stalls, (unsigned long long)core.credit_stalls,
                   (double)s.path[0].srtt_ns / 1e6, (double)s.path[0].rtt_min_ns / 1e6);
}

static bool wan_cell(const struct cell *c)
{
    const struct plan p = {(uint32_t)c->tokens, codec_id(c->codec), false, c->late_us};
    const double head = 28 + KVN_DATA_BYTES, slice = o.mtu - head;
    double share[2], raw[2], ms[2];

    begin_cell(c);
    for (uint32_t i = 0; i < 2; ++i) {
        ms[i] = o.many > 1 ? run_many(&p, i) : run_round(&p, i);
        if (o.trace > 0)
            show_link();
        share[i] = 8e-6 * rx.wire_bytes * (1 + head / slice) / ms[i] / c->gbps;
        raw[i] =
            8e-6 * o.many * (double)(tx.pool.layers * 2 * p.tokens * tx.pool.token_stride) / ms[i];
    }
    printf("| %g | %g | %g | %g | %s | %.1f | %.1f, %.1f | %.3f, %.3f | %.2f | %s |\n", c->gbps,
           o.rtt_us / 1e3, c->loss, c->tokens, c->codec, rx.wire_bytes / 1e6, ms[0], ms[1],
           share[0], share[1], raw[1], o.budget > 0 || same(p.tokens) ? "equal" : "WRONG");
    fflush(stdout);
    end_cell();
    return share[1] >= o.least;
}

/* --- the command line ------------------------------------------------------------------------- */

static void take_list(struct list *to, const char *text)
{
    char *end;

    for (to->count = 0; to->count < LIST_MAX && *text != '\0'; ++to->count) {
        to->at[to->count] = strtod(text, &end);
        if (end == text)
            die("a list has something that is no number");
        text = *end == ',' ? end + 1 : end;
    }
}

static void take_codecs(const char *text)
{
    for (o.codec_count = 0; o.codec_count < LIST_MAX && *text != '\0'; ++o.codec_count) {
        const size_t n = strcspn(text, ",");

        snprintf(o.codecs[o.codec_count], sizeof(o.codecs[0]), "%.*s", (int)n, text);
        text += n + (text[n] == ',');
    }
}

static void take(const char *word)
{
    const struct {
        const char *key;
        double *number;
        struct list *list;
    } keys[] = {
        {"tokens", NULL, &o.tokens},     {"gbps", NULL, &o.gbps},     {"loss", NULL, &o.loss},
        {"late_us", NULL, &o.late_us},   {"rtt_us", &o.rtt_us, NULL}, {"mtu", &o.mtu, NULL},
        {"rounds", &o.rounds, NULL},     {"layers", &o.layers, NULL}, {"heads", &o.heads, NULL},
        {"dim", &o.dim, NULL},           {"rate", &o.rate, NULL},     {"seed", &o.seed, NULL},
        {"slice_us", &o.slice_us, NULL}, {"budget", &o.budget, NULL}, {"slots", &o.slots, NULL},
        {"inflight", &o.inflight, NULL}, {"trace", &o.trace, NULL},   {"least", &o.least, NULL},
        {"clock", &o.clock, NULL},       {"chunk", &o.chunk, NULL},   {"sent", &o.sent, NULL},
        {"many", &o.many, NULL}};
    const char *value = strchr(word, '=');

    if (value == NULL)
        die("an argument is no KEY=VALUE");
    if (strncmp(word, "codec=", 6) == 0) {
        take_codecs(value + 1);
        return;
    }
    if (strcmp(word, "mode=wan") == 0) {
        o.wan = true;
        return;
    }
    for (uint32_t i = 0; i < sizeof(keys) / sizeof(keys[0]); ++i)
        if (strlen(keys[i].key) == (size_t)(value - word) &&
            strncmp(keys[i].key, word, (size_t)(value - word)) == 0) {
            if (keys[i].list != NULL)
                take_list(keys[i].list, value + 1);
            else
                *keys[i].number = atof(value + 1);
            return;
        }
    die("an unknown key");
}

int main(int argc, char **argv)
{
    uint32_t cells = 0, bad = 0;

    for (int i = 1; i < argc; ++i)
        take(argv[i]);
    if (o.layers < 1 || o.layers > LAYERS_MAX || o.rounds < 1 || o.rounds > ROUNDS_MAX ||
        o.many < 1 || o.many > MANY_MAX)
        die("layers are 1 to 128, rounds 1 to 99, many 1 to 256");
    make_codecs();
    printf(
        o.wan
            ? "| Gb/s | RTT ms | loss | tokens | codec | wire MB | ms: first, next | of the link |"
              " KV Gb/s | data |\n|---|---|---|---|---|---|---|---|---|---|\n"
            : "| Gb/s | loss | late us | tokens | codec | after ms | streamed ms (min .. max) |"
              " ratio | data |\n|---|---|---|---|---|---|---|---|---|\n");
    for (uint32_t g = 0; g < o.gbps.count; ++g)
        for (uint32_t s = 0; s < o.loss.count; ++s)
            for (uint32_t h = 0; h < o.late_us.count; ++h)
                for (uint32_t t = 0; t < o.tokens.count; ++t)
                    for (uint32_t k = 0; k < o.codec_count; ++k, ++cells) {
                        const struct cell c = {o.tokens.at[t], o.gbps.at[g], o.loss.at[s],
                                               o.late_us.at[h], o.codecs[k]};

                        bad += !(o.wan ? wan_cell(&c) : sweep_cell(&c));
                    }
    printf("\n%u of %u cells don't hold (%s)\n", bad, cells,
           o.wan ? "the link's share" : "streamed <= 1.02 of sent after");
    return bad > 0;
}
