/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Twins: a sender's jobs write into the twins of the receiver's landing slots, and
 * headers alone are put. Two cores in one process with a toy for a GPU, whose memory is malloc's
 * and whose jobs run when the test lets them: the same bytes, each way that it can't be is one
 * sentence and goes by the transport, and a slot that a chunk had taken before its transfer ended
 * comes back.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../../compress/compress.h"
#include "../../../kvwire/kv/encode.h"
#include "../../../kvwire/peer/core_state.h"
#include "../../../net/net.h"
#include "state.h"

#define MS     1000000ull
#define TOKENS 100u
#define LAYERS 3u
#define SLOTS  8u /* fewer than a transfer has chunks */

/* ---- a toy for a GPU ------------------------------------------------------------------------- */

struct kvw_gpu {
    bool cannot_share, cannot_reach, no_memory;
};

struct toy_mem {
    struct kvw_mem mem;
    struct kvw_mem_device help;
    bool reached; /* another's */
};

static int mems;                        /* given and not given back */
static const struct kvw_mem *shared[2]; /* a token is their place here and one */
static uint64_t reached_bytes;

static kvw_err copy(void *arg, void *to, const void *from, uint64_t bytes)
{
    (void)arg;
    memcpy(to, from, bytes);
    return KVW_OK;
}

static const struct kvw_mem *give(void *base, uint64_t bytes, kvw_mem_kind kind, bool reached)
{
    struct toy_mem *m = calloc(1, sizeof(*m));

    m->help = (struct kvw_mem_device){.copy_in = copy, .copy_out = copy};
    m->mem = (struct kvw_mem){
        .base = base, .bytes = bytes, .kind = kind, .dmabuf_fd = -1, .device = &m->help};
    m->reached = reached;
    ++mems;
    return &m->mem;
}

static kvw_err pool_open(struct kvw_gpu *g, uint64_t bytes, const struct kvw_mem **mem, char *why)
{
    if (g->no_memory) {
        snprintf(why, KVW_GPU_TEXT, "toy: no memory");
        return KVW_E_NOMEM;
    }
    *mem = give(calloc(1, bytes), bytes, KVW_MEM_CUDA, false);
    return KVW_OK;
}

static kvw_err pinned_open(struct kvw_gpu *g, uint64_t bytes, const struct kvw_mem **mem, char *why)
{
    (void)g, (void)why;
    *mem = give(aligned_alloc(64, (bytes + 63) / 64 * 64), bytes, KVW_MEM_HOST, false);
    return KVW_OK;
}

static void mem_close(struct kvw_gpu *g, const struct kvw_mem *mem)
{
    struct toy_mem *m = (struct toy_mem *)(uintptr_t)mem;

    (void)g;
    for (int i = 0; i < 2; ++i)
        if (shared[i] == mem)
            shared[i] = NULL;
    if (!m->reached)
        free(m->mem.base);
    free(m);
    --mems;
}

static kvw_err share(struct kvw_gpu *g, const struct kvw_mem *mem, uint8_t token[KVW_GPU_TOKEN],
                     char *why)
{
    const int at = shared[0] != NULL;

    if (g->cannot_share) {
        snprintf(why, KVW_GPU_TEXT, "toy: no socket");
        return KVW_E_IO;
    }
    memset(token, 0, KVW_GPU_TOKEN);
    token[0] = (uint8_t)(at + 1);
    shared[at] = mem;
    return KVW_OK;
}

static kvw_err reach(struct kvw_gpu *g, const uint8_t token[KVW_GPU_TOKEN], uint64_t bytes,
                     const struct kvw_mem **mem, char *why)
{
    if (g->cannot_reach || token[0] < 1 || token[0] > 2 || shared[token[0] - 1] == NULL) {
        snprintf(why, KVW_GPU_TEXT, "toy: not on this host");
        return KVW_E_NOTFOUND;
    }
    reached_bytes = bytes;
    *mem = give(shared[token[0] - 1]->base, bytes, KVW_MEM_CUDA, true);
    return KVW_OK;
}

static bool hold; /* no job gets done */

struct toy_queue {
    struct kvw_jobs base;
    struct kvw_job *waiting[256];
    uint32_t count;
};

static kvw_err submit(struct kvw_jobs *q, struct kvw_job *j)
{
    struct toy_queue *t = (struct toy_queue *)q;

    if (t->count == 256)
        return KVW_E_AGAIN;
    t->waiting[t->count++] = j;
    kvw_job_set(j, KVW_JOB_QUEUED);
    return KVW_OK;
}

static void flush(struct kvw_jobs *q)
{
    (void)q;
}

static void forget(struct toy_queue *t, const struct kvw_job *j)
{
    uint32_t kept = 0;

    for (uint32_t i = 0; i < t->count; ++i)
        if (t->waiting[i] != j)
            t->waiting[kept++] = t->waiting[i];
    t->count = kept;
}

static bool done(struct kvw_jobs *q, struct kvw_job *j)
{
    static _Alignas(64) uint8_t scratch[1 << 20]; /* as codec.h asks */
    static const struct kvw_clock none = {NULL, NULL};

    if (kvw_job_done(j))
        return true;
    if (hold)
        return false;
    forget((struct toy_queue *)q, j);
    kvw_job_run(j, scratch, &none);
    return true;
}

static void drop(struct kvw_jobs *q, struct kvw_job *j)
{
    forget((struct toy_queue *)q, j);
    kvw_job_set(j, KVW_JOB_IDLE);
}

static void close_queue(struct kvw_jobs *q)
{
    cr_expect_eq(((struct toy_queue *)q)->count, 0, "a job is left");
    free(q);
}

static const struct kvw_jobs_ops jobs_ops = {
    .submit = submit, .flush = flush, .done = done, .drop = drop, .close = close_queue};

static kvw_err jobs_open(struct kvw_gpu *g, const struct kvw_gpu_jobs *cfg, struct kvw_jobs **q,
                         char *why)
{
    struct toy_queue *t = calloc(1, sizeof(*t));

    (void)g, (void)cfg, (void)why;
    t->base.ops = &jobs_ops;
    *q = &t->base;
    return KVW_OK;
}

static bool takes(const struct kvw_gpu *g, uint32_t codec)
{
    (void)g;
    return codec == KVW_CODEC_RAW || codec == KVW_CODEC_L0;
}

static const struct kvw_gpu_plugin toy = {
    .abi = KVW_GPU_ABI,
    .pool_open = pool_open,
    .pinned_open = pinned_open,
    .share = share,
    .reach = reach,
    .mem_close = mem_close,
    .jobs_open = jobs_open,
    .takes = takes,
};

/* ---- two cores ------------------------------------------------------------------------------- */

struct side {
    struct kvw_gpu gpu;
    bool no_gpu, no_twins, in_host; /* in_host: its pool */
    struct kvw_transport *t;
    struct kvw_core *core;
    struct t_state state;
    kvw_pool_id pool;
    kvw_peer_id peer;
    kvw_xfer_ref xfer;
    struct kvw_core_event done;
    uint32_t dones, losts;
};

static struct side d, p;
static uint64_t now;
static const uint32_t blocks[8] = {0, 1, 2, 3, 4, 5, 6, 7};

static void open_side(struct side *s, bool listen, uint32_t codec)
{
    const struct kvn_config net = {.local = "twins", .listener = listen};
    struct kvw_core_path path = {.name = "loop", .listen = listen};
    const struct kvw_core_config cfg = {.size = sizeof(cfg),
                                        .path_count = 1,
                                        .paths = &path,
                                        .instance = listen ? 77 : 78,
                                        .codecs = kvc_codecs,
                                        .codec = codec,
                                        .chunk_raw_bytes = 4096,
                                        .slots = SLOTS,
                                        .gpu_plugin = s->no_gpu ? NULL : &toy,
                                        .gpu = s->no_gpu ? NULL : &s->gpu,
                                        .no_twins = s->no_twins};
    char why[KVN_WHY_BYTES] = "";

    cr_assert_eq(kvn_open(&s->t, "loop", &net, why), KVW_OK, "%s", why);
    path.transport = s->t;
    cr_assert_eq(kvw_core_open(&s->core, &cfg, now, NULL), KVW_OK);
    t_state_dense(&s->state, LAYERS, 2, 128, KVW_DTYPE_BF16, 16, 8);
    t_state_make(&s->state);
    for (uint32_t i = 0; i < s->state.mem_count && !s->no_gpu && !s->in_host; ++i)
        s->state.mems[i].kind = KVW_MEM_CUDA;
    cr_assert_eq(kvw_core_pool_add(s->core, &s->state.desc, &s->pool, why, sizeof(why)), KVW_OK,
                 "%s", why);
}

static void poll_side(struct side *s)
{
    struct kvw_core_event ev = {.size = sizeof(ev)};

    (void)kvw_core_poll(s->core, now);
    while (kvw_core_next_event(s->core, &ev)) {
        if (ev.kind == KVW_CEV_PEER_UP)
            s->peer = ev.peer;
        s->losts += ev.kind == KVW_CEV_PEER_LOST;
        if (ev.kind == KVW_CEV_XFER_DONE) {
            s->done = ev;
            ++s->dones;
        }
    }
}

static void turns(uint32_t n)
{
    while (n-- > 0) {
        poll_side(&p);
        poll_side(&d);
        now += 10000;
    }
}

static void up(uint32_t codec)
{
    kvw_peer_id id;

    now = 1000 * MS;
    open_side(&d, true, 0);
    open_side(&p, false, codec);
    cr_assert_eq(kvw_core_peer_add(p.core, 0, NULL, now, &id), KVW_OK);
    turns(100);
    cr_assert(d.peer.value != 0 && p.peer.value == id.value);
}

static void down(void)
{
    kvw_core_close(p.core, now);
    kvw_core_close(d.core, now);
    p.t->ops->close(p.t);
    d.t->ops->close(d.t);
    t_state_free(&p.state);
    t_state_free(&d.state);
    cr_expect_eq(mems, 0, "%d pieces of the GPU's memory are left", mems);
    memset(&p, 0, sizeof(p));
    memset(&d, 0, sizeof(d));
    hold = false;
}

static void open_xfer(uint32_t n)
{
    const struct kvw_group_blocks want = {0, 7, blocks, 0, 0, TOKENS},
                                  have = {0, 7, blocks, 0, 0, 0};
    char key[16], why[257] = "";

    snprintf(key, sizeof(key), "%u", n);
    const struct kvw_offer_args offer = {.size = sizeof(offer),
                                         .pool = d.pool,
                                         .key = kvw_key_of(key),
                                         .tokens = TOKENS,
                                         .group_count = 1,
                                         .groups = &want,
                                         .sources = &d.peer,
                                         .source_count = 1};
    const struct kvw_stream_args stream = {.size = sizeof(stream),
                                           .pool = p.pool,
                                           .key = kvw_key_of(key),
                                           .tokens = TOKENS,
                                           .group_count = 1,
                                           .groups = &have};

    t_state_fill(&p.state, 0, blocks, 0, 0, TOKENS, n);
    cr_assert_eq(kvw_core_offer(d.core, &offer, now, &d.xfer, why, sizeof(why)), KVW_OK, "%s", why);
    cr_assert_eq(kvw_core_stream(p.core, &stream, now, &p.xfer, why, sizeof(why)), KVW_OK, "%s",
                 why);
    turns(20);
}

static void push_all(void)
{
    for (uint32_t l = 0; l < LAYERS; ++l)
        cr_assert_eq(kvw_core_push(p.core, p.xfer, l, TOKENS, NULL), KVW_OK);
}

/* Both ends have ended, so. */
static void ends(kvw_err err)
{
    const uint32_t ds = d.dones, ps = p.dones;

    for (uint32_t i = 0; i < 5000 && (d.dones == ds || p.dones == ps); ++i)
        turns(1);
    cr_assert(d.dones == ds + 1 && p.dones == ps + 1, "it never ended");
    cr_expect(d.done.err == err && p.done.err == err, "%s | %s", d.done.text, p.done.text);
}

static void transfer(uint32_t n)
{
    open_xfer(n);
    push_all();
    cr_assert_eq(kvw_core_commit(p.core, p.xfer, NULL, 0), KVW_OK);
    ends(KVW_OK);
    cr_expect(t_state_is(&d.state, 0, blocks, 0, 0, TOKENS, n), "transfer %u", n);
    cr_expect_gt(d.done.chunks, SLOTS);
    cr_expect_eq(d.done.wire_bytes, p.done.wire_bytes);
}

static bool headers_alone(void)
{
    return d.done.wire_bytes == d.done.chunks * (uint64_t)KVW_WIRE_CHUNK_LEN;
}

#define BY_TWINS "twins: kernels write into the peer's GPU memory"

static void expect_way_of(const struct side *s, const char *text)
{
    struct kvw_peer_info info = {.size = sizeof(info)};

    cr_assert_eq(kvw_core_peer_info(s->core, s->peer, &info), KVW_OK);
    cr_expect_str_eq(info.twins, text);
}

static void expect_way(const char *text)
{
    expect_way_of(&p, text);
}

Test(core_twins, headers_alone_are_put)
{
    up(KVW_CODEC_L0);
    expect_way(BY_TWINS);
    cr_expect_eq(reached_bytes, (uint64_t)SLOTS * d.core->slots.slot_bytes);
    for (uint32_t n = 1; n <= 20; ++n) {
        transfer(n);
        cr_expect(headers_alone());
        cr_expect_eq(d.done.codec_chunks[KVW_CODEC_L0], d.done.chunks);
    }
    down();
}

Test(core_twins, raw_if_nobody_names_a_codec)
{
    struct kvw_peer_info info = {.size = sizeof(info)};

    up(0);
    transfer(1);
    cr_expect(headers_alone());
    cr_expect_eq(d.done.codec_chunks[KVW_CODEC_RAW], d.done.chunks);
    cr_assert_eq(kvw_core_peer_info(p.core, p.peer, &info), KVW_OK);
    cr_expect_str_eq(info.why, "raw: written into the peer's GPU memory");
    down();
}

/* What lies in host memory goes through the transport, in both directions of the doubt. */
Test(core_twins, pools_in_host_memory)
{
    d.in_host = true; /* copied out of the twin */
    up(KVW_CODEC_L0);
    transfer(1);
    cr_expect(headers_alone());
    down();
    p.in_host = true; /* nothing of it is in the GPU's memory */
    up(KVW_CODEC_L0);
    expect_way(BY_TWINS);
    transfer(1);
    cr_expect_not(headers_alone());
    down();
}

static void by_transport(const char *text)
{
    up(KVW_CODEC_L0);
    expect_way(text);
    transfer(1);
    transfer(2);
    cr_expect_not(headers_alone());
    if (d.gpu.cannot_share)
        expect_way_of(&d, BY_TWINS "; none of ours: toy: no socket");
    down();
}

Test(core_twins, each_reason_against_it_is_a_sentence)
{
    p.no_twins = true;
    by_transport("no twins: the caller wants none");
    d.no_twins = true;
    by_transport("no twins: the peer shares no GPU memory");
    d.gpu.cannot_share = true;
    by_transport("no twins: the peer shares no GPU memory");
    d.gpu.no_memory = true;
    by_transport("no twins: the peer shares no GPU memory");
    p.gpu.cannot_reach = true;
    by_transport("no twins: toy: not on this host");
    d.no_gpu = true;
    by_transport("no twins: the peer shares no GPU memory");
    p.no_gpu = true;
    by_transport("no twins: this side has no GPU");
}

/* Chunks that had taken slots when their transfer ended: nothing of them is believed, not even by
 * the transfer of the first epoch, the reason is the sender's, and the slots come back, or the next
 * transfer would wait for ever. */
Test(core_twins, slots_of_a_transfer_that_ends_come_back)
{
    struct kvw_core_stats stats = {.size = sizeof(stats)};
    kvw_xfer_ref first;

    up(KVW_CODEC_L0);
    open_xfer(100);
    first = p.xfer;
    for (uint32_t n = 1; n <= 4; ++n) {
        hold = true;
        open_xfer(n);
        push_all();
        turns(20);
        cr_expect_eq(kvw_core_peer(p.core, p.peer)->queued, SLOTS, "all slots are taken");
        cr_assert_eq(kvw_core_abort(p.core, p.xfer, "enough"), KVW_OK);
        ends(KVW_E_CANCELED);
        hold = false;
    }
    turns(50);
    kvw_core_stats(d.core, &stats);
    cr_expect_eq(stats.chunks_stale, 4 * SLOTS);
    cr_expect_eq(stats.chunks_rejected, 0);
    transfer(9);
    t_state_fill(&p.state, 0, blocks, 0, 0, TOKENS, 100);
    p.xfer = first;
    push_all();
    cr_assert_eq(kvw_core_commit(p.core, first, NULL, 0), KVW_OK);
    ends(KVW_OK);
    cr_expect(t_state_is(&d.state, 0, blocks, 0, 0, TOKENS, 100));
    down();
}

/* Slots that the receiver calls back when nothing goes on: it has all of them again. */
Test(core_twins, idle_slots_are_given_back)
{
    up(KVW_CODEC_L0);
    hold = true;
    open_xfer(1);
    push_all();
    turns(20);
    cr_assert_eq(kvw_core_abort(d.core, d.xfer, "no more"), KVW_OK);
    hold = false;
    ends(KVW_E_CANCELED);
    for (uint32_t i = 0; i < 300; ++i) {
        now += 10 * MS;
        turns(1);
    }
    cr_expect_eq(d.core->slots.free_count, SLOTS);
    transfer(2);
    cr_expect_eq(p.losts + d.losts, 0);
    down();
}

/* A peer that goes while jobs write into its memory: they are taken back before it is let go. */
Test(core_twins, a_peer_that_goes)
{
    up(KVW_CODEC_L0);
    hold = true;
    open_xfer(1);
    push_all();
    turns(20);
    cr_assert_eq(kvw_core_peer_drop(p.core, p.peer, now), KVW_OK);
    turns(20);
    cr_expect_eq(mems, 4, "its twins are still mapped"); /* pinned and twins, of each */
    cr_expect_eq(p.done.err, KVW_E_CANCELED);
    down();
}
