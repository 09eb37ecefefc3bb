/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A queue of jobs on the stand-in: many chunks of many layers in one launch, encoded behind the
 * stream that computes them and decoded before the stream that wants them, by events and records
 * alone. Streams, digests and values are those of the plain C code; what fails, fails one job and
 * leaves nothing behind.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "compress/compress.h"
#include "fake_ask.h"
#include "gpu/jobs.h"

enum {
    LAYERS = 3,
    CHUNKS = 2 * LAYERS, /* K and V of each */
    BLOCKS = 5,          /* of the pool, all in the table, in another order */
    BLOCK_TOKENS = 16,
    FIRST = 20, /* of a chunk's tokens: the table's first block isn't needed */
    TOKENS = 50,
    HEADS = 2,
    HEAD_BYTES = 128,
    COLUMNS = HEADS * HEAD_BYTES / 2,
    POOL = BLOCKS * BLOCK_TOKENS * HEADS * HEAD_BYTES, /* of a chunk */
    RAW = TOKENS * HEADS * HEAD_BYTES,
    ROOM = RAW + 64,
};

static const uint32_t table[BLOCKS] = {4, 0, 3, 1, 2};

struct arena { /* pinned */
    unsigned char kv[CHUNKS][POOL] __attribute__((aligned(16)));
    unsigned char back[CHUNKS][POOL] __attribute__((aligned(16)));
    unsigned char stream[CHUNKS][ROOM] __attribute__((aligned(16)));
};

struct bench {
    struct t_gpu g;
    struct kvg_pool from, to;
    struct kvg_pinned pinned;
    struct arena *a;
    kvg_stream compute;
    struct kvw_jobs *q;
    struct kvw_job jobs[CHUNKS];
};

static struct kvw_view view_of(void *base)
{
    return (struct kvw_view){.base = base,
                             .blocks = table,
                             .block_tokens = BLOCK_TOKENS,
                             .first_token = FIRST,
                             .tokens = TOKENS,
                             .heads = HEADS,
                             .head_bytes = HEAD_BYTES,
                             .dtype = KVW_DTYPE_BF16,
                             .block_stride = BLOCK_TOKENS * HEADS * HEAD_BYTES,
                             .token_stride = HEADS * HEAD_BYTES,
                             .head_stride = HEAD_BYTES};
}

static const struct kvg_jobs_config small = {.image = FAKECUDA_IMAGE,
                                             .jobs_max = CHUNKS,
                                             .chunk_bytes = RAW,
                                             .columns = COLUMNS,
                                             .table_blocks = BLOCKS,
                                             .ctas = 3};

static void fill(struct arena *a)
{
    uint16_t *values = (uint16_t *)(void *)a->kv;

    memset(a, 0, sizeof(*a));
    for (uint32_t i = 0; i < CHUNKS * POOL / 2; ++i) {
        const uint32_t r = (i + 1) * 2654435761u;
        const uint32_t exponent = 127 - (uint32_t)__builtin_ctz(r | 1u << 20) - i % COLUMNS % 3;

        values[i] = (uint16_t)((r >> 24 & 0x7f) | exponent << 7 | (r >> 13 & 1) << 15);
    }
}

static void begin(struct bench *b, unsigned seed)
{
    char text[256] = "";

    snprintf(text, sizeof(text), "%u", seed);
    setenv("FAKECUDA_SEED", text, 1);
    memset(b, 0, sizeof(*b));
    t_gpu_open(&b->g);
    cr_assert_eq(kvg_pool_open(&b->from, &b->g.dev, CHUNKS * POOL, text, sizeof(text)), KVW_OK);
    cr_assert_eq(kvg_pool_open(&b->to, &b->g.dev, CHUNKS * POOL, text, sizeof(text)), KVW_OK);
    cr_assert_eq(kvg_pinned_open(&b->pinned, &b->g.dev, sizeof(*b->a), text, sizeof(text)), KVW_OK);
    b->a = b->pinned.mem.base;
    fill(b->a);
    cr_assert_eq(b->g.driver.stream_create(&b->compute, KVG_CU_STREAM_NON_BLOCKING, 0), 0);
    cr_assert_eq(kvg_jobs_open(&b->q, &b->g.dev, &small, text, sizeof(text)), KVW_OK, "%s", text);
}

static void end(struct bench *b)
{
    b->q->ops->close(b->q);
    cr_expect_eq(b->g.driver.stream_destroy(b->compute), 0);
    kvg_pinned_close(&b->pinned);
    kvg_pool_close(&b->to);
    kvg_pool_close(&b->from);
    cr_expect_eq(t_live_total(&b->g.driver), 1, "only the context is left");
    t_gpu_close(&b->g);
}

/* What a layer's kernels would have done, on the stream that computes. */
static void compute(struct bench *b, uint32_t layer)
{
    const size_t at = 2 * (size_t)layer * POOL;

    cr_assert_eq(b->g.driver.copy((kvg_devptr)(uintptr_t)b->from.mem.base + at,
                                  (kvg_devptr)(uintptr_t)b->a->kv[2 * layer], 2 * POOL, b->compute),
                 0);
}

static void encode_job(struct bench *b, uint32_t i, const struct kvw_codec_ops *codec)
{
    b->jobs[i] = (struct kvw_job){
        .codec = codec,
        .args = {.kv = i % 2, .exact_first = i % 3},
        .view = view_of((unsigned char *)b->from.mem.base + (size_t)i * POOL),
        .to = b->a->stream[i],
        .to_bytes = ROOM,
        .digest = KVW_DIGEST_LANES,
    };
    if (codec->budget == KVW_BUDGET_EXACT)
        b->jobs[i].args.exact_first = 0;
}

static void decode_job(struct bench *b, uint32_t i, const struct kvw_codec_ops *codec,
                       uint64_t stream_bytes)
{
    b->jobs[i] = (struct kvw_job){
        .codec = codec,
        .view = view_of((unsigned char *)b->to.mem.base + (size_t)i * POOL),
        .kind = KVW_JOB_DECODE,
        .from = b->a->stream[i],
        .stream_bytes = stream_bytes,
        .digest = KVW_DIGEST_LANES,
    };
}

static void wait_for(struct bench *b, struct kvw_job *j)
{
    for (unsigned n = 0; !b->q->ops->done(b->q, j); ++n)
        cr_assert_lt(n, 100000, "a job isn't done");
}

static void *plain_scratch(uint64_t bytes)
{
    static unsigned char scratch[1 << 20] __attribute__((aligned(64)));

    cr_assert_leq(bytes, sizeof(scratch));
    return scratch;
}

/* Job i is done, and its stream and digest are the plain C code's. */
static void expect_stream(const struct bench *b, uint32_t i)
{
    static unsigned char want[ROOM];
    const struct kvw_job *j = &b->jobs[i];
    const struct kvw_view v = view_of(b->a->kv[i]);
    struct kvw_digest digest;
    uint64_t bytes = 0;

    cr_assert_eq(kvw_digest_begin_chunk(&digest, KVW_DIGEST_LANES, &v), KVW_OK);
    cr_assert_eq(j->codec->encode(&v, &j->args, want, sizeof(want), &bytes, &digest,
                                  plain_scratch(j->codec->scratch_bytes(RAW))),
                 KVW_OK);
    cr_expect_eq(j->err, KVW_OK);
    cr_expect_eq(j->stream_bytes, bytes, "chunk %u", i);
    cr_expect_eq(memcmp(b->a->stream[i], want, bytes), 0, "chunk %u (%s)", i, j->codec->name);
    cr_expect_eq(j->digest_value, kvw_digest_value(&digest), "chunk %u", i);
}

static const struct kvw_codec_ops *const mixed[CHUNKS] = {
    &kvc_codec_l0, &kvc_codec_e8, &kvc_codec_raw, &kvc_codec_e4, &kvc_codec_l0, &kvc_codec_l0};

/* All layers' chunks in one launch of each codec, behind the stream that computes them. */
static void encode_all(struct bench *b)
{
    for (uint32_t l = 0; l < LAYERS; ++l)
        compute(b, l);
    cr_assert_eq(b->q->ops->after(b->q, b->compute), KVW_OK);
    for (uint32_t i = 0; i < CHUNKS; ++i) {
        encode_job(b, i, mixed[i]);
        cr_assert_eq(b->q->ops->submit(b->q, &b->jobs[i]), KVW_OK);
        cr_expect(!b->q->ops->done(b->q, &b->jobs[i]), "not before a flush");
    }
    b->q->ops->flush(b->q);
    cr_expect_eq(kvg_jobs_launches(b->q), 5, "l0 and e: two each, raw: one");
    for (uint32_t i = CHUNKS; i-- > 0;)
        wait_for(b, &b->jobs[i]);
}

/* Decode into the other pool, and let the compute stream copy from there without a look at any job.
 * Whether what it copied is right. */
static bool decode_all(struct bench *b, bool ordered)
{
    uint64_t digest[CHUNKS];
    bool same = true;

    for (uint32_t i = 0; i < CHUNKS; ++i) {
        digest[i] = b->jobs[i].digest_value;
        decode_job(b, i, mixed[i], b->jobs[i].stream_bytes);
        cr_assert_eq(b->q->ops->submit(b->q, &b->jobs[i]), KVW_OK);
    }
    b->q->ops->flush(b->q);
    if (ordered)
        cr_assert_eq(b->q->ops->before(b->q, b->compute), KVW_OK);
    cr_assert_eq(b->g.driver.copy((kvg_devptr)(uintptr_t)b->a->back,
                                  (kvg_devptr)(uintptr_t)b->to.mem.base, CHUNKS * POOL, b->compute),
                 0);
    cr_assert_eq(b->g.driver.stream_synchronize(b->compute), 0);
    for (uint32_t i = 0; i < CHUNKS; ++i) { /* a lossless chunk's last token */
        const struct kvw_view v = view_of(b->a->kv[i]), w = view_of(b->a->back[i]);

        if (mixed[i]->budget == KVW_BUDGET_EXACT)
            same = same && memcmp(kvw_view_at(&v, TOKENS - 1, 0), kvw_view_at(&w, TOKENS - 1, 0),
                                  HEADS * HEAD_BYTES) == 0;
    }
    for (uint32_t i = 0; i < CHUNKS; ++i) {
        wait_for(b, &b->jobs[i]);
        cr_expect_eq(b->jobs[i].err, KVW_OK);
        cr_expect_eq(b->jobs[i].digest_value, digest[i]);
    }
    return same;
}

Test(gpu_jobs, many_layers_in_one_launch, .timeout = 100)
{
    unsigned early = 0;
    struct bench b;

    for (unsigned seed = 1; seed <= 6; ++seed) {
        begin(&b, seed);
        encode_all(&b);
        for (uint32_t i = 0; i < CHUNKS; ++i)
            expect_stream(&b, i);
        if (seed % 2 == 0)
            cr_expect(decode_all(&b, true), "seed %u: attention began before its layer", seed);
        else
            early += !decode_all(&b, false);
        end(&b);
    }
    cr_expect_gt(early, 0,
                 "without before() some copy comes too early, or this test shows nothing");
}

/* after() is needed: without it the kernels read what isn't computed yet, under some order. */
Test(gpu_jobs, encode_waits_for_compute, .timeout = 100)
{
    struct bench b;
    unsigned early = 0;

    for (unsigned seed = 1; seed <= 8; ++seed) {
        begin(&b, seed);
        const struct kvw_view v = view_of(b.a->kv[0]);

        compute(&b, 0);
        if (seed % 2 == 0)
            cr_assert_eq(b.q->ops->after(b.q, b.compute), KVW_OK);
        encode_job(&b, 0, &kvc_codec_raw);
        cr_assert_eq(b.q->ops->submit(b.q, &b.jobs[0]), KVW_OK);
        b.q->ops->flush(b.q);
        wait_for(&b, &b.jobs[0]);
        if (seed % 2 == 0)
            expect_stream(&b, 0);
        else
            early += memcmp(b.a->stream[0], kvw_view_at(&v, 0, 0), HEAD_BYTES) != 0;
        cr_assert_eq(b.g.driver.stream_synchronize(b.compute), 0);
        end(&b);
    }
    cr_expect_gt(early, 0);
}

/* A damaged stream is its own job's error, and no other's. */
Test(gpu_jobs, damaged_stream, .timeout = 100)
{
    struct bench b;

    begin(&b, 3);
    encode_all(&b);
    b.a->stream[0][40] ^= 0x80; /* a column's byte that no encoder writes */
    for (uint32_t i = 0; i < CHUNKS; ++i) {
        decode_job(&b, i, mixed[i], b.jobs[i].stream_bytes);
        cr_assert_eq(b.q->ops->submit(b.q, &b.jobs[i]), KVW_OK);
    }
    b.q->ops->flush(b.q);
    for (uint32_t i = 0; i < CHUNKS; ++i) {
        wait_for(&b, &b.jobs[i]);
        cr_expect_eq(b.jobs[i].err, i == 0 ? KVW_E_CODEC : KVW_OK, "chunk %u", i);
    }
    end(&b);
}

/* What a queue doesn't take stays the caller's. */
Test(gpu_jobs, refusals, .timeout = 100)
{
    static const struct kvw_codec_book book = {.id = 1};
    struct kvw_job more;
    struct bench b;

    begin(&b, 1);
    encode_job(&b, 0, &kvc_codec_l0);
    struct kvw_job j = b.jobs[0];

    j.digest = KVW_DIGEST_XXH3_64;
    cr_expect_eq(b.q->ops->submit(b.q, &j), KVW_E_UNSUPPORTED, "another digest");
    j = b.jobs[0];
    j.args.book = &book;
    cr_expect_eq(b.q->ops->submit(b.q, &j), KVW_E_UNSUPPORTED, "a book");
    j = b.jobs[0];
    j.codec = &kvc_codec_l8;
    cr_expect_eq(b.q->ops->submit(b.q, &j), KVW_E_UNSUPPORTED, "l8 takes no bf16");
    j = b.jobs[0];
    j.view.tokens = TOKENS + 1;
    j.to_bytes = ROOM + HEADS * HEAD_BYTES;
    cr_expect_eq(b.q->ops->submit(b.q, &j), KVW_E_UNSUPPORTED, "more bytes than chunk_bytes");
    j = b.jobs[0];
    j.view.first_token = 60; /* the table would have to have seven entries */
    j.view.block_tokens = 8;
    cr_expect_eq(b.q->ops->submit(b.q, &j), KVW_E_UNSUPPORTED, "a longer table");
    j = b.jobs[0];
    j.to = b.a->stream[0] + 8;
    cr_expect_eq(b.q->ops->submit(b.q, &j), KVW_E_INVALID, "a stream at no multiple of 16");
    j = b.jobs[0];
    j.to_bytes = RAW;
    cr_expect_eq(b.q->ops->submit(b.q, &j), KVW_E_INVALID, "less room than bound()");
    j = b.jobs[0];
    j.view.tokens = 0;
    cr_expect_eq(b.q->ops->submit(b.q, &j), KVW_E_INVALID, "no tokens");
    for (uint32_t i = 0; i < CHUNKS; ++i) {
        encode_job(&b, i, &kvc_codec_raw);
        cr_assert_eq(b.q->ops->submit(b.q, &b.jobs[i]), KVW_OK);
    }
    more = b.jobs[0];
    cr_expect_eq(b.q->ops->submit(b.q, &more), KVW_E_AGAIN, "the queue is full");
    b.q->ops->drop(b.q, &b.jobs[2]);
    cr_expect_eq(kvw_job_state_of(&b.jobs[2]), KVW_JOB_IDLE);
    cr_expect_eq(b.q->ops->submit(b.q, &more), KVW_OK, "and has room again");
    end(&b); /* with all of them pending */
}

/* drop() of what runs: nothing is written any more when it returns. */
Test(gpu_jobs, drop_what_runs, .timeout = 100)
{
    static unsigned char was[ROOM];
    struct bench b;

    for (unsigned seed = 1; seed <= 4; ++seed) {
        begin(&b, seed);
        compute(&b, 0);
        cr_assert_eq(b.q->ops->after(b.q, b.compute), KVW_OK);
        encode_job(&b, 0, &kvc_codec_l0);
        cr_assert_eq(b.q->ops->submit(b.q, &b.jobs[0]), KVW_OK);
        b.q->ops->flush(b.q);
        b.q->ops->drop(b.q, &b.jobs[0]);
        memcpy(was, b.a->stream[0], sizeof(was));
        cr_assert_eq(b.g.driver.stream_synchronize(b.compute), 0);
        cr_expect_eq(memcmp(was, b.a->stream[0], sizeof(was)), 0);
        expect_stream(&b, 0);
        end(&b);
    }
}

/* Rings and slots go round many times, with jobs of several flushes under way at once. */
Test(gpu_jobs, goes_round, .timeout = 100)
{
    unsigned next[CHUNKS] = {0};
    struct bench b;

    begin(&b, 5);
    for (uint32_t l = 0; l < LAYERS; ++l)
        compute(&b, l);
    cr_assert_eq(b.g.driver.stream_synchronize(b.compute), 0);
    for (unsigned round = 0; round < 60; ++round) {
        const uint32_t i = round % CHUNKS, k = (round * 5 + 2) % CHUNKS;

        if (next[i]++ > 0) {
            wait_for(&b, &b.jobs[i]);
            expect_stream(&b, i);
        }
        memset(b.a->stream[i], 0xee, ROOM);
        encode_job(&b, i, mixed[(i + round) % CHUNKS]);
        cr_assert_eq(b.q->ops->submit(b.q, &b.jobs[i]), KVW_OK);
        if (round % 4 != 3)
            b.q->ops->flush(b.q);
        (void)b.q->ops->done(b.q, &b.jobs[k]);
    }
    end(&b);
}

/* One job of each kind that a GPU tells apart, in one flush: as many launches as jobs, so that what
 * each takes of the rings beyond its own must be given back, or the last would overwrite the
 * first's before that has run. */
struct kind {
    const struct kvw_codec_ops *codec;
    kvw_dtype dtype;
};

static const struct kind kinds[] = {
    {&kvc_codec_raw, KVW_DTYPE_F32},     {&kvc_codec_raw, KVW_DTYPE_BF16},
    {&kvc_codec_raw, KVW_DTYPE_F8_E4M3}, {&kvc_codec_l0, KVW_DTYPE_BF16},
    {&kvc_codec_l0, KVW_DTYPE_F16},      {&kvc_codec_l8, KVW_DTYPE_F8_E4M3},
    {&kvc_codec_l8, KVW_DTYPE_F8_E5M2},  {&kvc_codec_e8, KVW_DTYPE_BF16},
    {&kvc_codec_e8, KVW_DTYPE_F16},
};
enum { KINDS = sizeof(kinds) / sizeof(kinds[0]), KIND_ROOM = RAW + 256 };

/* Job i's stream is that of the plain C code. */
static void expect_kind(const struct bench *b, const struct kvw_job *j, uint32_t i)
{
    static unsigned char want[KIND_ROOM];
    struct kvw_view v = view_of(b->a->kv[0]);
    struct kvw_digest digest;
    uint64_t bytes = 0;

    v.dtype = kinds[i].dtype;
    cr_assert_eq(kvw_digest_begin_chunk(&digest, KVW_DIGEST_LANES, &v), KVW_OK);
    cr_assert_eq(j->codec->encode(&v, &j->args, want, sizeof(want), &bytes, &digest,
                                  plain_scratch(j->codec->scratch_bytes(RAW))),
                 KVW_OK);
    cr_expect_eq(j->err, KVW_OK, "kind %u", i);
    cr_expect_eq(j->stream_bytes, bytes, "kind %u", i);
    cr_expect_eq(memcmp(j->to, want, bytes), 0, "kind %u", i);
    cr_expect_eq(j->digest_value, kvw_digest_value(&digest), "kind %u", i);
}

Test(gpu_jobs, each_kind_in_one_flush, .timeout = 100)
{
    const struct kvg_jobs_config cfg = {.image = FAKECUDA_IMAGE,
                                        .jobs_max = KINDS,
                                        .chunk_bytes = RAW,
                                        .columns = HEADS * HEAD_BYTES,
                                        .table_blocks = BLOCKS,
                                        .ctas = 3};
    struct kvw_jobs *q = NULL;
    struct kvg_pinned room;
    struct kvw_job jobs[KINDS];
    char text[256] = "";
    struct bench b;

    begin(&b, 2);
    compute(&b, 0);
    cr_assert_eq(b.g.driver.stream_synchronize(b.compute), 0);
    cr_assert_eq(kvg_pinned_open(&room, &b.g.dev, KINDS * KIND_ROOM, text, sizeof(text)), KVW_OK);
    cr_assert_eq(kvg_jobs_open(&q, &b.g.dev, &cfg, text, sizeof(text)), KVW_OK, "%s", text);
    for (uint32_t i = 0; i < KINDS; ++i) {
        jobs[i] = (struct kvw_job){.codec = kinds[i].codec,
                                   .view = view_of(b.from.mem.base),
                                   .to = (unsigned char *)room.mem.base + (size_t)i * KIND_ROOM,
                                   .to_bytes = KIND_ROOM,
                                   .digest = KVW_DIGEST_LANES};
        jobs[i].view.dtype = kinds[i].dtype;
        cr_assert_eq(q->ops->submit(q, &jobs[i]), KVW_OK, "kind %u", i);
    }
    q->ops->flush(q);
    cr_expect_eq(kvg_jobs_launches(q), 2 * KINDS - 3, "raw has one kernel a launch");
    for (uint32_t i = 0; i < KINDS; ++i) {
        for (unsigned n = 0; !q->ops->done(q, &jobs[i]); ++n)
            cr_assert_lt(n, 100000, "a job isn't done");
        expect_kind(&b, &jobs[i], i);
    }
    q->ops->close(q);
    kvg_pinned_close(&room);
    end(&b);
}

/* Each call that a flush makes fails in turn: its jobs are done, with the device's error. */
Test(gpu_jobs, flush_fails, .timeout = 100)
{
    struct bench b;

    for (unsigned nth = 1; nth <= 7; ++nth) {
        begin(&b, nth);
        for (uint32_t i = 0; i < 2; ++i) { /* two launches: the second may never come */
            encode_job(&b, i, i == 0 ? &kvc_codec_l0 : &kvc_codec_raw);
            cr_assert_eq(b.q->ops->submit(b.q, &b.jobs[i]), KVW_OK);
        }
        t_fail(&b.g.driver, nth, KVG_CU_LAUNCH_FAILED);
        b.q->ops->flush(b.q);
        t_fail(&b.g.driver, 0, KVG_CU_SUCCESS);
        for (uint32_t i = 2; i-- > 0;) { /* first the one that may not have begun */
            wait_for(&b, &b.jobs[i]);
            cr_expect(b.jobs[i].err == KVW_E_DEVICE || (nth >= 5 && b.jobs[i].err == KVW_OK),
                      "call %u: %d", nth, b.jobs[i].err);
        }
        end(&b);
    }
}

/* Each call that open makes fails in turn: a sentence, and nothing is held. */
Test(gpu_jobs, open_unwinds, .timeout = 100)
{
    struct kvw_jobs *q = NULL;
    struct t_gpu g;
    unsigned failed = 0;
    char text[256];

    t_gpu_open(&g);
    for (unsigned nth = 1; q == NULL && nth < 200; ++nth) {
        text[0] = '\0';
        t_fail(&g.driver, nth, KVG_CU_OUT_OF_MEMORY);
        if (kvg_jobs_open(&q, &g.dev, &small, text, sizeof(text)) == KVW_OK)
            break;
        cr_expect_eq(strncmp(text, "CUDA: ", 6), 0, "call %u: %s", nth, text);
        cr_expect_eq(t_live_total(&g.driver), 1, "call %u", nth);
        ++failed;
    }
    t_fail(&g.driver, 0, KVG_CU_SUCCESS);
    cr_expect_gt(failed, 30, "there are kernels, memory, a stream and events");
    cr_assert_not_null(q);
    q->ops->close(q);
    cr_expect_eq(t_live_total(&g.driver), 1);
    t_gpu_close(&g);
}

struct config {
    const char *field;
    struct kvg_jobs_config cfg;
};

Test(gpu_jobs, configurations)
{
    static const struct config bad[] = {
        {"image", {.jobs_max = 1, .chunk_bytes = 1, .columns = 1, .table_blocks = 1}},
        {"jobs_max", {.image = "", .chunk_bytes = 1, .columns = 1, .table_blocks = 1}},
        {"chunk_bytes", {.image = "", .jobs_max = 1, .columns = 1, .table_blocks = 1}},
        {"columns", {.image = "", .jobs_max = 1, .chunk_bytes = 1, .table_blocks = 1}},
        {"table_blocks", {.image = "", .jobs_max = 1, .chunk_bytes = 1, .columns = 1}},
    };
    struct kvw_jobs *q = NULL;
    struct t_gpu g;
    char text[256];

    t_gpu_open(&g);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); ++i) {
        cr_expect_eq(kvg_jobs_open(&q, &g.dev, &bad[i].cfg, text, sizeof(text)), KVW_E_INVALID);
        cr_expect_not_null(strstr(text, bad[i].field), "%s", text);
    }
    struct kvg_jobs_config cfg = small;

    cfg.image = "not the kernels";
    cr_expect_eq(kvg_jobs_open(&q, &g.dev, &cfg, text, sizeof(text)), KVW_E_UNSUPPORTED);
    cr_expect_not_null(strstr(text, "takes no kernels of this build"), "%s", text);
    t_gpu_close(&g);
}
