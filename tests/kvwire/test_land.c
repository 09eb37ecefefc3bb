/* SPDX-License-Identifier: Apache-2.0 */
/* Each field of a chunk is held to the offer it claims to fill: a wrong one ends that transfer with
 * a sentence, before a byte is written. The chunks are made by hand, as no honest sender would. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "../../compress/compress.h"
#include "../../kvwire/chunk.h"
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

/* As up(), with a codec beside raw. */
static void up_with(const struct kvw_codec_ops *codec)
{
    static const struct kvw_codec_ops *codecs[3];
    struct fake_msg m;
    struct kvw_offer_msg o;

    duo_close(&d);
    codecs[0] = codec;
    codecs[1] = &kvc_codec_raw;
    duo_init(&d);
    d.r_cfg.codecs = d.s_cfg.codecs = codecs;
    duo_open(&d);
    duo_up(&d);
    duo_offer(&d, DUO_ID, 0);
    kvw_session_poll(d.r, d.now);
    cr_assert(fake_take(&d.rf, KVW_MSG_OFFER, &m));
    cr_assert_eq(kvw_offer_decode(&o, m.msg, m.bytes), KVW_OK);
    epoch = o.epoch;
    free(m.msg);
}

Test(land, a_codec_that_the_budget_does_not_allow)
{
    struct kvw_codec_ops lossy = kvc_codec_raw;
    struct kvw_chunk_hdr h;

    lossy.id = 41;
    lossy.budget = KVW_BUDGET_E8;
    up_with(&lossy);
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
    up_with(&other);
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
