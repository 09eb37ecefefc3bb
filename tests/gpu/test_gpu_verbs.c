/* SPDX-License-Identifier: Apache-2.0 */
/*
 * KV from VRAM into VRAM by a NIC alone: pools of the stand-in for CUDA, registered by their
 * dma-bufs with the verbs transport on a pretended fabric, whose devices reach them by a mapping of
 * their own. A layer is put when the event behind it has come, and read by a stream behind its
 * landing; without either some bytes differ. The CPU touches no VRAM: that would be fatal. A host
 * copy is the last rung. When an end is gone all is given back.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../verbs/duo.h"
#include "fake_ask.h"

enum {
    LAYERS = 4,
    LAYER = 48 * 1024, /* K and V of it */
    PUT = 12 * 1024,
    PUTS = LAYER / PUT,
    POOL = LAYERS * LAYER,
    PIECES = 16,
    STEPS = 100000, /* more than any life takes */
};

struct end {
    struct kvg_pool pool;
    struct kvg_pinned pinned;
    kvg_stream stream;
    kvg_event written[LAYERS]; /* of prefill */
};

static struct t_gpu gpu;
static struct end prefill, decode;
static int fds;

enum way { ORDERED, PUT_AT_ONCE, READ_AT_ONCE };

static void open_end(struct end *e)
{
    char why[256] = "";

    cr_assert_eq(kvg_pool_open(&e->pool, &gpu.dev, POOL, why, sizeof(why)), KVW_OK, "%s", why);
    cr_assert_eq(kvg_pinned_open(&e->pinned, &gpu.dev, POOL, why, sizeof(why)), KVW_OK, "%s", why);
    cr_assert_eq(gpu.driver.stream_create(&e->stream, KVG_CU_STREAM_NON_BLOCKING, 0), 0);
    for (int l = 0; l < LAYERS; ++l)
        cr_assert_eq(gpu.driver.event_create(&e->written[l], KVG_CU_EVENT_DISABLE_TIMING), 0);
}

static void close_end(struct end *e)
{
    for (int l = 0; l < LAYERS; ++l)
        cr_assert_eq(gpu.driver.event_destroy(e->written[l]), 0);
    cr_assert_eq(gpu.driver.stream_synchronize(e->stream), 0);
    cr_assert_eq(gpu.driver.stream_destroy(e->stream), 0);
    kvg_pinned_close(&e->pinned);
    kvg_pool_close(&e->pool);
}

/* Both ends joined. */
static void begin(unsigned seed, const char *ordering)
{
    char text[16], why[KVN_WHY_BYTES] = "";

    snprintf(text, sizeof(text), "%u", seed);
    setenv("FAKECUDA_SEED", text, 1);
    setenv("FAKECUDA_ORDERING", ordering, 1);
    vf_reset(seed);
    fds = t_open_fds();
    t_gpu_open(&gpu);
    open_end(&prefill);
    open_end(&decode);
    cr_assert(duo_open(NULL, NULL, why) && duo_join(), "%s", why);
}

static void share(const char *words, bool plain)
{
    struct kvw_transport *a = duo_a.t, *b = duo_b.t;

    vf.vram = plain ? prefill.pool.mem.base : NULL; /* whose plain registration is refused */
    vf.vram_bytes = POOL;
    cr_assert_eq(a->ops->source_add(a, &prefill.pool.mem), KVW_OK);
    vf.vram = plain ? decode.pool.mem.base : NULL;
    cr_assert_eq(b->ops->region_add(b, &decode.pool.mem, NULL, NULL, &duo_b.key), KVW_OK);
    cr_assert_eq(b->ops->region_open(b, duo_b.conn, &duo_b.key), KVW_OK);
    cr_expect(strstr(kvn_verbs_about(b), words) != NULL, "%s", kvn_verbs_about(b));
}

static void end(void)
{
    duo_close();
    cr_expect_eq(vf.live, 0, "%d objects of the devices are left", vf.live);
    cr_expect_eq(vf.dmabufs, 0, "%d dma-bufs are mapped", vf.dmabufs);
    close_end(&prefill);
    close_end(&decode);
    t_gpu_close(&gpu); /* nothing of the GPU is left */
    cr_expect_eq(t_open_fds(), fds);
}

static unsigned char value(uint32_t at)
{
    return (unsigned char)((at * 2654435761u >> 13) + 1);
}

/* A layer to or from VRAM in many pieces, as a model's kernels write or read it. */
static void copy_layer(struct end *e, uint32_t layer, bool to_vram)
{
    for (uint32_t i = 0; i < PIECES; ++i) {
        const size_t at = layer * (size_t)LAYER + i * (size_t)(LAYER / PIECES);
        const kvg_devptr vram = (kvg_devptr)(uintptr_t)e->pool.mem.base + at;
        const kvg_devptr host = (kvg_devptr)(uintptr_t)e->pinned.mem.base + at;

        cr_assert_eq(gpu.driver.copy(to_vram ? vram : host, to_vram ? host : vram, LAYER / PIECES,
                                     e->stream),
                     0);
    }
}

static void put_layer(uint32_t layer)
{
    for (uint32_t i = 0; i < PUTS; ++i) {
        const uint32_t n = layer * PUTS + i, at = n * PUT;
        const struct kvw_put put = {
            .key = duo_b.key,
            .offset = at,
            .iov = {{(const uint8_t *)prefill.pool.mem.base + at, PUT}},
            .iov_count = 1,
            .imm = n,
            .cookie = n,
        };

        cr_assert_eq(duo_a.t->ops->put(duo_a.t, duo_a.conn, &put), KVW_OK);
    }
}

static bool has_landed(uint32_t layer)
{
    for (uint32_t i = 0; i < PUTS; ++i)
        if (duo_b.landed[layer * PUTS + i] == 0)
            return false;
    return true;
}

/* The layers in turn; nobody waits but for events and landings. False: some bytes differ. */
static bool transfer(enum way way)
{
    unsigned char *in = prefill.pinned.mem.base;
    const unsigned char *out = decode.pinned.mem.base;
    uint32_t put = 0, read = 0;
    bool same = true;

    for (uint32_t i = 0; i < POOL; ++i)
        in[i] = value(i);
    for (uint32_t l = 0; l < LAYERS; ++l) {
        copy_layer(&prefill, l, true);
        cr_assert_eq(gpu.driver.event_record(prefill.written[l], prefill.stream, 0), 0);
    }
    for (uint32_t i = 0; i < STEPS && read < LAYERS; ++i) {
        for (; put < LAYERS && (way == PUT_AT_ONCE ||
                                gpu.driver.event_query(prefill.written[put]) == KVG_CU_SUCCESS);
             ++put)
            put_layer(put);
        for (; read < LAYERS && (way == READ_AT_ONCE || has_landed(read)); ++read)
            copy_layer(&decode, read, false);
        duo_step();
    }
    cr_assert_eq(read, LAYERS, "a layer hasn't landed");
    cr_assert_eq(gpu.driver.stream_synchronize(decode.stream), 0);
    for (uint32_t i = 0; i < POOL; ++i)
        same = same && out[i] == value(i);
    return same;
}

TestSuite(gpu_verbs, .timeout = 120);

static void equal_by_dmabuf(unsigned seed, const char *ordering)
{
    begin(seed, ordering);
    cr_assert_eq(prefill.pool.rung, KVG_RUNG_DMABUF);
    share("CUDA memory by dma-buf", false);
    cr_expect_geq(vf.dmabufs, 4, "both pools on both devices");
    cr_expect(transfer(ORDERED), "seed %u", seed);
    cr_expect_eq(duo_a.ok, LAYERS * PUTS);
    end();
}

/* Where a NIC's writes aren't ordered before what comes after them, each landing is flushed. */
Test(gpu_verbs, bytes_are_equal_by_dmabuf)
{
    for (unsigned seed = 1; seed <= 6; ++seed)
        equal_by_dmabuf(seed, seed % 2 == 0 ? "100" : "0");
}

static void differ(enum way way)
{
    bool same = true;

    for (unsigned seed = 1; seed <= 8 && same; ++seed) {
        begin(seed, "100");
        share("CUDA memory by dma-buf", false);
        same = transfer(way);
        duo_run(300);
        end();
    }
    cr_expect_not(same, "no seed of 8 sees that the order is gone");
}

Test(gpu_verbs, a_put_must_wait_for_its_event)
{
    differ(PUT_AT_ONCE);
}

Test(gpu_verbs, a_stream_must_wait_for_the_landing)
{
    differ(READ_AT_ONCE);
}

/* A NIC that doesn't take the first dma-buf gets the next one. */
Test(gpu_verbs, bytes_are_equal_by_the_second_dmabuf)
{
    setenv("FAKECUDA_PCIE", "1", 1);
    begin(8, "100");
    vf.dmabuf_refused = prefill.pool.mem.dmabuf_fd;
    cr_assert_eq(duo_a.t->ops->source_add(duo_a.t, &prefill.pool.mem), KVW_OK);
    cr_expect_not_null(strstr(kvn_verbs_about(duo_a.t), "CUDA memory by dma-buf 2 (the first: "),
                       "%s", kvn_verbs_about(duo_a.t));
    duo_a.t->ops->source_remove(duo_a.t, &prefill.pool.mem);
    vf.dmabuf_refused = decode.pool.mem.dmabuf_fd;
    share("CUDA memory by dma-buf 2 (the first: ", false);
    cr_expect(transfer(ORDERED));
    end();
    unsetenv("FAKECUDA_PCIE");
}

/* The last rung: neither dma-buf nor peer memory, so what lands is carried over by the pool's own
 * functions, and puts are copied out by them. */
Test(gpu_verbs, bytes_are_equal_by_host_copies)
{
    begin(7, "100");
    vf.dmabuf_error = EOPNOTSUPP;
    vf.peermem_error = EFAULT;
    share("through a host copy", true);
    cr_expect(transfer(ORDERED));
    end();
}

/* One end's devices leave in the middle: the other hears of it, and all is given back. */
static void one_goes(bool prefill_goes)
{
    begin(prefill_goes ? 11 : 12, "100");
    share("CUDA memory by dma-buf", false);
    copy_layer(&prefill, 0, true);
    cr_assert_eq(gpu.driver.stream_synchronize(prefill.stream), 0);
    put_layer(0);
    vf.burst = 1;
    duo_step();
    cr_expect(!has_landed(0), "the middle");
    for (uint32_t d = 0; d < VF_DEVICES; ++d)
        vf.cut[d] = true;

    struct duo_end *const stays = prefill_goes ? &duo_b : &duo_a, *const goes = prefill_goes
                                                                                    ? &duo_a
                                                                                    : &duo_b;

    vf.burst = 0;
    goes->t->ops->close(goes->t);
    goes->t = NULL;
    for (uint32_t i = 0; i < STEPS && stays->downs == 0; ++i)
        duo_step();
    cr_expect_eq(stays->downs, 1, "it never heard of it");
    if (!prefill_goes)
        cr_expect_eq(duo_a.ok + duo_a.failed, PUTS, "each put has its end");
    end();
}

Test(gpu_verbs, prefill_goes)
{
    one_goes(true);
}

Test(gpu_verbs, decode_goes)
{
    one_goes(false);
}
