/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Four layers through the driver's API: each is "computed" on one stream, encoded behind an event
 * on another into pinned memory, decoded from there into a second pool. A layer's record says that
 * it is done, nothing else is asked; the streams are the plain C code's, and every value comes
 * back.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "compress/compress.h"
#include "fake_ask.h"
#include "gpu/l0.h"
#include "kvwire/digest.h"

enum {
    LAYERS = 4,
    TOKENS = 90,
    HEADS = 2,
    HEAD_BYTES = 128,
    COLUMNS = HEADS * HEAD_BYTES / 2,
    RAW = TOKENS * HEADS * HEAD_BYTES,
    ROOM = RAW + 64,
    SCRATCH = 8192, /* of a layer: state, ticket, spread, table */
};

struct arena { /* pinned */
    uint32_t blocks[1];
    struct kvg_chunk encode[LAYERS], decode[LAYERS];
    struct kvg_done encoded[LAYERS], decoded[LAYERS];
    unsigned char kv[LAYERS][RAW] __attribute__((aligned(16)));
    unsigned char stream[LAYERS][ROOM] __attribute__((aligned(16)));
};

struct bench {
    struct t_gpu g;
    struct kvg_pool from, to, scratch;
    struct kvg_pinned pinned;
    struct arena *a;
    kvg_stream compute, side;
    kvg_event ready[LAYERS], done;
    kvg_library library;
    kvg_kernel plan, encode, open, decode;
};

static struct kvw_view view_of(const struct arena *a, void *base)
{
    return (struct kvw_view){.base = base,
                             .blocks = a->blocks,
                             .block_tokens = TOKENS,
                             .tokens = TOKENS,
                             .heads = HEADS,
                             .head_bytes = HEAD_BYTES,
                             .dtype = KVW_DTYPE_BF16,
                             .token_stride = HEADS * HEAD_BYTES,
                             .head_stride = HEAD_BYTES};
}

static void begin(struct bench *b, unsigned seed)
{
    const struct kvg_driver *d = &b->g.driver;
    char text[256] = "";

    snprintf(text, sizeof(text), "%u", seed);
    setenv("FAKECUDA_SEED", text, 1);
    t_gpu_open(&b->g);
    cr_assert_eq(kvg_pool_open(&b->from, &b->g.dev, LAYERS * RAW, text, sizeof(text)), KVW_OK);
    cr_assert_eq(kvg_pool_open(&b->to, &b->g.dev, LAYERS * RAW, text, sizeof(text)), KVW_OK);
    cr_assert_eq(kvg_pool_open(&b->scratch, &b->g.dev, 2 * LAYERS * SCRATCH, text, sizeof(text)),
                 KVW_OK);
    cr_assert_eq(kvg_pinned_open(&b->pinned, &b->g.dev, sizeof(*b->a), text, sizeof(text)), KVW_OK);
    b->a = b->pinned.mem.base;
    memset(b->a, 0, sizeof(*b->a));
    cr_assert_eq(d->stream_create(&b->compute, KVG_CU_STREAM_NON_BLOCKING, 0), 0);
    cr_assert_eq(d->stream_create(&b->side, KVG_CU_STREAM_NON_BLOCKING, 0), 0);
    cr_assert_eq(d->event_create(&b->done, KVG_CU_EVENT_DISABLE_TIMING), 0);
    for (int l = 0; l < LAYERS; ++l)
        cr_assert_eq(d->event_create(&b->ready[l], KVG_CU_EVENT_DISABLE_TIMING), 0);
    cr_assert_eq(d->library_load(&b->library, FAKECUDA_IMAGE, NULL, NULL, 0, NULL, NULL, 0), 0);
    cr_assert_eq(d->library_kernel(&b->plan, b->library, "kvg_l0_plan_bf16"), 0);
    cr_assert_eq(d->library_kernel(&b->encode, b->library, "kvg_l0_encode_bf16"), 0);
    cr_assert_eq(d->library_kernel(&b->open, b->library, "kvg_l0_open"), 0);
    cr_assert_eq(d->library_kernel(&b->decode, b->library, "kvg_l0_decode_bf16"), 0);
}

static void end(struct bench *b)
{
    const struct kvg_driver *d = &b->g.driver;

    for (int l = 0; l < LAYERS; ++l)
        cr_expect_eq(d->event_destroy(b->ready[l]), 0);
    cr_expect_eq(d->event_destroy(b->done), 0);
    cr_expect_eq(d->stream_destroy(b->compute), 0);
    cr_expect_eq(d->stream_destroy(b->side), 0);
    cr_expect_eq(d->library_unload(b->library), 0);
    kvg_pinned_close(&b->pinned);
    kvg_pool_close(&b->scratch);
    kvg_pool_close(&b->to);
    kvg_pool_close(&b->from);
    t_gpu_close(&b->g);
}

/* `which`: the layer's piece of the scratch pool. Returns where its ticket is. */
static uint32_t *shape(struct bench *b, struct kvg_chunk *c, void *base, unsigned which)
{
    unsigned char *at = (unsigned char *)b->scratch.mem.base + (size_t)which * SCRATCH;
    const struct kvw_view v = view_of(b->a, base);

    cr_assert_eq(kvg_l0_shape(c, &v), KVW_OK);
    c->state = (struct kvg_state *)(void *)at;
    c->spread = (uint32_t *)(void *)(at + 2048);
    c->table = (uint16_t *)(void *)(at + 4096);
    c->epoch = 1 + which;
    return (uint32_t *)(void *)(at + 1024);
}

static void launch(struct bench *b, kvg_kernel kernel, unsigned blocks, unsigned shared_bytes,
                   void **params)
{
    const struct kvg_launch config = {.grid_x = blocks,
                                      .grid_y = 1,
                                      .grid_z = 1,
                                      .block_x = KVG_THREADS,
                                      .block_y = 1,
                                      .block_z = 1,
                                      .shared_bytes = shared_bytes,
                                      .stream = b->side};

    cr_assert_eq(b->g.driver.launch(&config, kernel, params, NULL), 0);
}

static void enqueue(struct bench *b, int l)
{
    const struct kvg_driver *d = &b->g.driver;
    unsigned char *from = (unsigned char *)b->from.mem.base + (size_t)l * RAW;
    struct kvg_chunk *c = &b->a->encode[l];
    uint32_t *ticket = shape(b, c, from, (unsigned)l);
    struct kvg_batch batch = {c, ticket, 1, c->blocks};
    void *params[] = {&batch};

    c->stream = b->a->stream[l];
    c->stream_bytes = ROOM;
    c->done = &b->a->encoded[l];
    cr_assert_eq(
        d->copy((kvg_devptr)(uintptr_t)from, (kvg_devptr)(uintptr_t)b->a->kv[l], RAW, b->compute),
        0); /* what a layer's kernels would have written */
    cr_assert_eq(d->event_record(b->ready[l], b->compute, 0), 0);
    cr_assert_eq(d->stream_wait_event(b->side, b->ready[l], 0), 0);
    launch(b, b->plan, 1, KVG_L0_PLAN_SHARED, params);
    launch(b, b->encode, c->blocks, KVG_L0_ENCODE_SHARED, params);
}

static void enqueue_decode(struct bench *b, int l)
{
    struct kvg_chunk *c = &b->a->decode[l];
    struct kvg_batch batch = {c, NULL, 1, 0};
    void *params[] = {&batch};

    shape(b, c, (unsigned char *)b->to.mem.base + (size_t)l * RAW, (unsigned)(LAYERS + l));
    c->stream = b->a->stream[l];
    c->stream_bytes = b->a->encoded[l].bytes;
    c->done = &b->a->decoded[l];
    batch.blocks = c->blocks;
    launch(b, b->open, 1, KVG_L0_OPEN_SHARED, params);
    launch(b, b->decode, c->blocks, KVG_L0_DECODE_SHARED, params);
}

static bool is_done(const struct kvg_done *done, uint32_t epoch)
{
    return __atomic_load_n(&done->epoch, __ATOMIC_ACQUIRE) == epoch;
}

/* The plain C code's stream of layer l, and its digest, are those in the arena. */
static void expect_plain(const struct arena *a, int l)
{
    static unsigned char want[RAW + 4096], scratch[1 << 20] __attribute__((aligned(64)));
    const struct kvw_view v = view_of(a, (void *)(uintptr_t)a->kv[l]);
    struct kvw_digest digest;
    uint64_t bytes = 0;

    cr_assert_leq(kvc_codec_l0.scratch_bytes(RAW), sizeof(scratch));
    cr_assert_eq(kvw_digest_begin_chunk(&digest, KVW_DIGEST_LANES, &v), KVW_OK);
    cr_assert_eq(kvc_codec_l0.encode(&v, NULL, want, sizeof(want), &bytes, &digest, scratch),
                 KVW_OK);
    cr_expect_eq(a->encoded[l].bytes, bytes);
    cr_expect_eq(memcmp(a->stream[l], want, bytes), 0, "layer %d", l);
    cr_expect_eq(a->encoded[l].digest, kvw_digest_value(&digest));
}

static void fill(struct arena *a, unsigned seed)
{
    uint16_t *values = (uint16_t *)(void *)a->kv;

    for (uint32_t i = 0; i < LAYERS * RAW / 2; ++i) {
        const uint32_t r = (i + 1) * 2654435761u ^ seed * 40503u;
        const uint32_t exponent = 127 - (uint32_t)__builtin_ctz(r | 1u << 20) - i % COLUMNS % 3;

        values[i] = (uint16_t)((r >> 24 & 0x7f) | exponent << 7 | (r >> 13 & 1) << 15);
    }
}

static unsigned run(unsigned seed)
{
    static unsigned char back[LAYERS * RAW];
    const struct kvg_driver *d;
    unsigned early = 0;
    struct bench b;

    begin(&b, seed);
    d = &b.g.driver;
    fill(b.a, seed);
    cr_assert_eq(
        d->fill((kvg_devptr)(uintptr_t)b.scratch.mem.base, 0, 2 * LAYERS * SCRATCH, b.side), 0);
    for (int l = 0; l < LAYERS; ++l)
        enqueue(&b, l);
    cr_assert_eq(d->event_record(b.done, b.side, 0), 0);
    for (int l = 0; l < LAYERS; ++l) {
        while (!is_done(&b.a->encoded[l], 1 + (uint32_t)l)) {
            const kvg_result r = d->event_query(b.done);

            cr_assert(r == 0 || r == KVG_CU_NOT_READY);
        }
        early += d->event_query(b.done) == KVG_CU_NOT_READY;
        expect_plain(b.a, l);
        enqueue_decode(&b, l);
    }
    cr_assert_eq(d->stream_synchronize(b.side), 0);
    for (int l = 0; l < LAYERS; ++l) {
        cr_expect(is_done(&b.a->decoded[l], 1 + LAYERS + (uint32_t)l));
        cr_expect_eq(b.a->decoded[l].fault, 0);
        cr_expect_eq(b.a->decoded[l].digest, b.a->encoded[l].digest);
    }
    cr_assert_eq(b.to.mem.device->copy_out(b.to.mem.device->arg, back, b.to.mem.base, sizeof(back)),
                 KVW_OK);
    cr_expect_eq(memcmp(back, b.a->kv, sizeof(back)), 0, "seed %u", seed);
    end(&b);
    return early;
}

Test(gpu_l0, layer_after_layer, .timeout = 100)
{
    unsigned early = 0;

    for (unsigned seed = 1; seed <= 5; ++seed)
        early += run(seed);
    cr_expect_gt(early, 0, "no layer was seen done before the last one");
}

struct book {
    uint8_t bytes[4];
    bool sound;
};

Test(gpu_l0, books)
{
    static const struct book books[] = {
        {{60, 1, 0, 0x40 | 63}, true}, {{0, 0, 0, 0}, true},      {{1, 0, 0, 0}, false},
        {{60, 1, 0x40, 2}, false},     {{60, 1, 0x81, 2}, false}, {{60, 1, 2, 0xc5}, false},
    };

    for (size_t i = 0; i < sizeof(books) / sizeof(books[0]); ++i)
        cr_expect_eq(kvg_l0_book_is_sound(books[i].bytes, 3), books[i].sound, "row %zu", i);
    cr_expect_not(kvg_l0_book_is_sound(books[0].bytes, 0));
    cr_expect_not(kvg_l0_book_is_sound(books[0].bytes, KVG_UNIT_MAX + 1));
}

/* What the kernels can't take is refused before any of it reaches them. */
Test(gpu_l0, shapes)
{
    static const struct kvw_view fine = {
        .block_tokens = 16, .tokens = 100, .heads = 3, .head_bytes = 10, .dtype = KVW_DTYPE_BF16};
    struct kvw_view v = fine;
    struct kvg_chunk c;

    cr_expect_eq(kvg_l0_shape(&c, &v), KVW_OK);
    cr_expect_eq(c.columns, 15);
    cr_expect_eq(c.values, 1500);
    cr_expect_eq(c.unit, 8190);
    cr_expect_eq(c.blocks, 1);
    v.dtype = KVW_DTYPE_F32;
    cr_expect_eq(kvg_l0_shape(&c, &v), KVW_E_INVALID);
    v = fine;
    v.token_stride = 31;
    cr_expect_eq(kvg_l0_shape(&c, &v), KVW_E_INVALID);
    cr_expect_eq(kvg_chunk_shape(&c, &v), KVW_OK);
    cr_expect_eq(c.grain, 1);
    v = fine;
    v.tokens = 0;
    cr_expect_eq(kvg_l0_shape(&c, &v), KVW_E_INVALID);
    v = fine;
    v.head_bytes = 9;
    cr_expect_eq(kvg_l0_shape(&c, &v), KVW_E_INVALID);
    v = fine;
    v.tokens = KVG_BYTES_MAX / 30 + 1;
    cr_expect_eq(kvg_l0_shape(&c, &v), KVW_E_INVALID);
    v = fine;
    v.first_token = INT32_MAX;
    cr_expect_eq(kvg_l0_shape(&c, &v), KVW_E_INVALID);
    v = fine;
    v.block_tokens = 0;
    cr_expect_eq(kvg_l0_shape(&c, &v), KVW_E_INVALID);
}
