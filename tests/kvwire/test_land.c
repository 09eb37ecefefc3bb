/* SPDX-License-Identifier: Apache-2.0 */
/* Each field of a chunk is held to the offer it claims to fill: a wrong one ends that transfer with
 * a sentence, before a byte is written. The chunks are made by hand, as no honest sender would. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../compress/compress.h"
#include "../../kvwire/chunk.h"
#include "../../kvwire/layout.h"
#include "../../kvwire/session.h"
#include "duo.h"

#define TOKEN_BYTES 128u

static struct duo d;
static uint32_t epoch;
static uint64_t seq;

/* The sender's fake carries what the test writes; its session only shakes hands. */
static void up(void)
{
    struct fake_msg m;
    struct kvw_offer_msg o;

    duo_init(&d);
    duo_open(&d);
    duo_up(&d);
    duo_offer(&d, DUO_ID, 0);
    kvw_session_poll(d.r, d.now);
    cr_assert(fake_take(&d.rf, KVW_MSG_OFFER, &m));
    cr_assert_eq(kvw_offer_decode(&o, m.msg, m.bytes), KVW_OK);
    epoch = o.epoch;
    free(m.msg);
    seq = 0;
}

static void down(void)
{
    duo_close(&d);
}

TestSuite(land, .init = up, .fini = down);

/* Layer 0 K, tokens 8 to 15, every byte 7. */
static struct kvw_chunk_hdr sound(void)
{
    return (struct kvw_chunk_hdr){.xfer = DUO_ID,
                                  .epoch = epoch,
                                  .seq = (uint32_t)seq,
                                  .codec = KVW_CODEC_RAW,
                                  .digest = KVW_DIGEST_XXH3_64,
                                  .head_count = 2,
                                  .token_first = 8,
                                  .token_count = 8,
                                  .raw_bytes = 8 * TOKEN_BYTES,
                                  .stream_bytes = 8 * TOKEN_BYTES};
}

static void land(struct kvw_chunk_hdr h)
{
    static uint8_t put[KVW_CHUNK_HDR_BYTES + 4096];
    struct kvw_digest digest;

    memset(put, 7, sizeof(put));
    cr_assert_eq(kvw_digest_begin(&digest, KVW_DIGEST_XXH3_64), KVW_OK);
    kvw_digest_update(&digest, put + KVW_CHUNK_HDR_BYTES, h.stream_bytes);
    h.digest_value = kvw_digest_value(&digest);
    kvw_chunk_hdr_encode(put, &h);
    cr_assert(fake_land(&d.rf, d.r_conn, seq % 4 * (KVW_CHUNK_HDR_BYTES + 4096), put,
                        KVW_CHUNK_HDR_BYTES + h.stream_bytes, (uint32_t)seq));
    ++seq;
    kvw_session_poll(d.r, d.now);
}

static bool nothing_written(void)
{
    for (uint32_t b = 0; b < d.r_pool.blocks; ++b)
        if (!t_kv_block_is_zero(&d.r_pool, b))
            return false;
    return true;
}

Test(land, a_sound_chunk)
{
    struct kvw_session_stats st;

    land(sound());
    duo_calm(d.r);
    cr_expect_not(nothing_written());
    kvw_session_stats(d.r, &st);
    cr_expect_eq(st.chunks_landed, 1);
    cr_expect_eq(st.raw_bytes, 8 * TOKEN_BYTES);
}

static void refused(const struct kvw_chunk_hdr *h, const char *why)
{
    struct kvw_session_stats st;
    const char *text;

    land(*h);
    text = duo_done(d.r, DUO_ID, KVW_E_PROTOCOL);
    cr_expect_not_null(strstr(text, why), "'%s' is not about '%s'", text, why);
    cr_expect(nothing_written(), "written before it was checked: %s", why);
    kvw_session_stats(d.r, &st);
    cr_expect_eq(st.chunks_rejected, 1);
    cr_expect(kvw_session_peer_up(d.r), "the session lives");
}

Test(land, layer)
{
    struct kvw_chunk_hdr h = sound();

    h.layer = DUO_LAYERS;
    refused(&h, "its layer is beyond the last");
}

Test(land, heads)
{
    struct kvw_chunk_hdr h = sound();

    h.head_count = 1;
    refused(&h, "it has not all heads");
}

Test(land, tokens)
{
    struct kvw_chunk_hdr h = sound();

    h.token_first = DUO_TOKENS - 7;
    refused(&h, "its tokens are beyond the last");
}

Test(land, raw_bytes)
{
    struct kvw_chunk_hdr h = sound();

    --h.raw_bytes;
    refused(&h, "its raw bytes don't fit its tokens");
}

Test(land, more_than_a_slot)
{
    struct kvw_chunk_hdr h = sound();

    h.token_first = 0;
    h.token_count = 33; /* 4224 bytes raw, in a stream that claims to have shrunk them */
    h.raw_bytes = 33 * TOKEN_BYTES;
    refused(&h, "its raw bytes are more than a landing slot holds");
}

Test(land, codec)
{
    struct kvw_chunk_hdr h = sound();

    h.codec = 60;
    refused(&h, "its codec is not in this side's HELLO");
}

/* Offer, and learn the epoch as the peer would. */
static void offer(uint64_t id, kvw_budget budget)
{
    static const uint32_t ids[] = {0, 1, 2, 3, 4, 5, 6, 7};
    const struct kvw_blocks b = {ids, (DUO_TOKENS + 15) / 16, DUO_TOKENS};
    const struct kvw_terms terms = {.budget = budget};
    struct fake_msg m;
    struct kvw_offer_msg o;

    cr_assert_eq(kvw_offer(d.r, (kvw_xfer_id){id}, &b, &terms, d.now), KVW_OK);
    kvw_session_poll(d.r, d.now);
    cr_assert(fake_take(&d.rf, KVW_MSG_OFFER, &m));
    cr_assert_eq(kvw_offer_decode(&o, m.msg, m.bytes), KVW_OK);
    cr_assert_eq(o.xfer, id);
    epoch = o.epoch;
    free(m.msg);
}

/* As up(), with a codec beside raw. */
static void up_with(const struct kvw_codec_ops *codec, kvw_budget budget)
{
    static const struct kvw_codec_ops *codecs[3];

    duo_close(&d);
    codecs[0] = codec;
    codecs[1] = &kvc_codec_raw;
    duo_init(&d);
    d.r_cfg.codecs = d.s_cfg.codecs = codecs;
    duo_open(&d);
    duo_up(&d);
    offer(DUO_ID, budget);
}

Test(land, a_codec_that_the_budget_does_not_allow)
{
    struct kvw_codec_ops lossy = kvc_codec_raw;
    struct kvw_chunk_hdr h;

    lossy.id = 41;
    lossy.budget = KVW_BUDGET_E8;
    up_with(&lossy, KVW_BUDGET_EXACT);
    h = sound();
    h.codec = 41;
    refused(&h, "its codec loses more than the offer allows");
}

Test(land, a_codec_for_other_elements)
{
    struct kvw_codec_ops other = kvc_codec_raw;
    struct kvw_chunk_hdr h;

    other.id = 42;
    other.dtypes = 1u << KVW_DTYPE_F8_E4M3;
    up_with(&other, KVW_BUDGET_EXACT);
    h = sound();
    h.codec = 42;
    refused(&h, "its codec doesn't take this element type");
}

Test(land, digest)
{
    struct kvw_chunk_hdr h = sound();

    h.digest = 9;
    refused(&h, "its digest is not in this side's HELLO");
}

Test(land, stream_length)
{
    struct kvw_chunk_hdr h = sound();
    const char *text;

    --h.stream_bytes;
    land(h);
    text = duo_done(d.r, DUO_ID, KVW_E_CODEC);
    cr_expect_not_null(strstr(text, "codec raw: damaged codec stream"), "%s", text);
}

/* A stream of a real codec for the chunk of sound(), into put; its length. */
static uint64_t encode(const struct kvw_codec_ops *codec, uint8_t *put, uint64_t *digest_value)
{
    static const struct kvw_codec_args args;
    static _Alignas(64) uint8_t scratch[1 << 20];
    static const uint32_t blocks[] = {0, 1, 2, 3, 4, 5, 6, 7};
    const struct kvw_view v = kvw_pool_view(&d.s_pool, blocks, 0, 0, 8, 8);
    struct kvw_digest digest;
    uint64_t bytes = 0;

    for (uint32_t t = 0; t < v.tokens; ++t)
        for (uint32_t h = 0; h < v.heads; ++h)
            for (uint32_t i = 0; i < v.head_bytes / 2; ++i) /* fp16, 1 to 2 */
                ((uint16_t *)(void *)kvw_view_at(&v, t, h))[i] =
                    (uint16_t)(0x3c00 + (t * 37 + h * 11 + i * 5) % 1024);
    cr_assert_leq(codec->scratch_bytes(8 * TOKEN_BYTES), sizeof(scratch));
    cr_assert_eq(kvw_digest_begin(&digest, KVW_DIGEST_XXH3_64), KVW_OK);
    cr_assert_eq(codec->encode(&v, &args, put, 4096, &bytes, &digest, scratch), KVW_OK);
    *digest_value = kvw_digest_value(&digest);
    return bytes;
}

/* Lands it, with the byte at `at` xored and cut short by `less`. */
static void land_stream(uint64_t id, const struct kvw_codec_ops *codec, uint32_t at, uint8_t xor,
                        uint32_t less)
{
    static uint8_t put[KVW_CHUNK_HDR_BYTES + 4096];
    struct kvw_chunk_hdr h = sound();

    h.xfer = id;
    h.codec = codec->id;
    h.stream_bytes = (uint32_t)encode(codec, put + KVW_CHUNK_HDR_BYTES, &h.digest_value) - less;
    cr_assert_lt(h.stream_bytes, h.raw_bytes, "%s stored it", codec->name);
    put[KVW_CHUNK_HDR_BYTES + at] ^= xor;
    kvw_chunk_hdr_encode(put, &h);
    cr_assert(fake_land(&d.rf, d.r_conn, seq % 4 * d.r->hello.slot_bytes, put,
                        KVW_CHUNK_HDR_BYTES + h.stream_bytes, (uint32_t)seq));
    ++seq;
    kvw_session_poll(d.r, d.now);
}

static const struct bad_stream {
    const struct kvw_codec_ops *codec;
    const char *what;
    uint32_t at; /* ../../compress/SPEC.md, 3 and 5 */
    uint8_t xor ;
    uint32_t less;
} bad_streams[] = {
    {&kvc_codec_l0, "another dtype", 1, KVW_DTYPE_BF16 ^ KVW_DTYPE_F16, 0},
    {&kvc_codec_l0, "more values, so another count of blocks", 5, 0x40, 0},
    {&kvc_codec_l0, "a byte less", 0, 0, 1},
    {&kvc_codec_e8, "another dtype", 1, KVW_DTYPE_BF16 ^ KVW_DTYPE_F16, 0},
    {&kvc_codec_e8, "another count of blocks", 20, 3, 0},
    {&kvc_codec_e8, "more tokens", 8, 1, 0},
    {&kvc_codec_e8, "a byte less", 0, 0, 1},
};

/* What a codec finds wrong with a stream ends that transfer, with the codec's name; the next one of
 * the same session goes well. */
Test(land, a_stream_that_its_codec_refuses)
{
    for (size_t i = 0; i < sizeof(bad_streams) / sizeof(bad_streams[0]); ++i) {
        const struct bad_stream *b = &bad_streams[i];
        struct kvw_session_stats st;
        const char *text;
        char name[32];

        seq = 0;
        up_with(b->codec, KVW_BUDGET_E8);
        land_stream(DUO_ID, b->codec, b->at, b->xor, b->less);
        text = duo_done(d.r, DUO_ID, KVW_E_CODEC);
        snprintf(name, sizeof(name), "codec %s: ", b->codec->name);
        cr_expect_not_null(strstr(text, name), "%s, %s: '%s'", b->codec->name, b->what, text);
        cr_expect(kvw_session_peer_up(d.r), "the session lives");
        offer(DUO_ID + 1, KVW_BUDGET_E8);
        land_stream(DUO_ID + 1, b->codec, 0, 0, 0);
        duo_calm(d.r);
        kvw_session_stats(d.r, &st);
        cr_expect_eq(st.chunks_rejected, 1, "%s, %s", b->codec->name, b->what);
        cr_expect_eq(st.chunks_landed, 1, "%s: the sound stream", b->codec->name);
    }
}

/* The same tokens, all or one of them; K and V don't mix. */
Test(land, overlap)
{
    struct kvw_chunk_hdr h = sound();
    const char *text;

    land(h);
    h.seq = (uint32_t)seq;
    h.kv = 1;
    land(h);
    duo_calm(d.r);
    h = sound();
    h.token_first = 15;
    land(h);
    text = duo_done(d.r, DUO_ID, KVW_E_PROTOCOL);
    cr_expect_str_eq(text, "chunk of layer 0 K tokens 15 to 22: its tokens have come before");
}

/* With four slots at most three chunks can have overtaken another. */
Test(land, more_gaps_than_slots)
{
    struct kvw_event ev;

    for (uint32_t i = 0; i < 5; ++i) {
        struct kvw_chunk_hdr h = sound();

        h.token_first = 2 + 4 * i;
        h.token_count = 2;
        h.raw_bytes = h.stream_bytes = 2 * TOKEN_BYTES;
        if (i == 4)
            cr_assert_not(duo_event(d.r, KVW_EV_XFER_DONE, &ev));
        land(h);
    }
    cr_expect_not_null(strstr(duo_done(d.r, DUO_ID, KVW_E_PROTOCOL), "more gaps"));
}

Test(land, a_wrong_seq_ends_the_connection)
{
    struct kvw_chunk_hdr h = sound();
    struct kvw_event ev;

    ++h.seq;
    land(h);
    cr_assert(duo_event(d.r, KVW_EV_XFER_DONE, &ev));
    cr_expect_eq(ev.err, KVW_E_PEER_LOST);
    cr_assert(duo_event(d.r, KVW_EV_PEER_LOST, &ev));
    cr_expect_eq(ev.err, KVW_E_PROTOCOL);
    cr_expect(nothing_written());
}

/* COMMIT with numbers that can't come true. */
Test(land, commit_disagrees)
{
    const struct kvw_commit_msg m = {{DUO_ID, epoch}, 1, 8 * TOKEN_BYTES, NULL, 0};
    uint8_t msg[KVW_MSG_SHORT_MAX];

    fake_message(&d.rf, d.r_conn, msg, kvw_commit_encode(msg, &m));
    kvw_session_poll(d.r, d.now);
    duo_calm(d.r); /* one chunk may still come */
    land(sound());
    cr_expect_str_eq(duo_done(d.r, DUO_ID, KVW_E_PROTOCOL),
                     "the peer committed 1 chunks, 1024 bytes; here 1, 1024, and 0 of 3 layers "
                     "complete");
}
