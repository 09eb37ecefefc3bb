/* SPDX-License-Identifier: Apache-2.0 */
#include "duo.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "../../compress/compress.h"

static uint32_t blocks[64];

void duo_init(struct duo *d)
{
    static const struct kvw_codec_ops *const raw[] = {&kvc_codec_raw, NULL};
    static const struct t_kv_shape r = {DUO_LAYERS, 20, 16, 2, 32, KVW_DTYPE_F16, T_KV_HND_PACKED};
    static const struct t_kv_shape s = {DUO_LAYERS, 20, 8, 2, 32, KVW_DTYPE_F16, T_KV_NHD_SPLIT};

    memset(d, 0, sizeof(*d));
    d->now = 1000000000ull;
    fake_init(&d->rf);
    fake_init(&d->sf);
    d->r_pool = t_kv_pool(&r);
    d->s_pool = t_kv_pool(&s);
    d->r_cfg = (struct kvw_session_config){.size = sizeof(d->r_cfg),
                                           .role = KVW_ROLE_RECEIVER,
                                           .transport = &d->rf.transport,
                                           .model_name = "tiny",
                                           .pool = d->r_pool,
                                           .codecs = raw,
                                           .chunk_raw_bytes = 4096,
                                           .slots = 4,
                                           .xfers_max = 3};
    d->s_cfg = d->r_cfg;
    d->s_cfg.role = KVW_ROLE_SENDER;
    d->s_cfg.transport = &d->sf.transport;
    d->s_cfg.pool = d->s_pool;
    for (uint32_t i = 0; i < 64; ++i)
        blocks[i] = i;
}

void duo_open(struct duo *d)
{
    const char *field = "";

    cr_assert_eq(kvw_session_open(&d->r, &d->r_cfg, d->now, &field), KVW_OK, "%s", field);
    cr_assert_eq(kvw_session_open(&d->s, &d->s_cfg, d->now, &field), KVW_OK, "%s", field);
}

void duo_close(struct duo *d)
{
    kvw_session_close(d->s, d->now);
    kvw_session_close(d->r, d->now);
    cr_expect_eq(d->rf.regions, 0);
    cr_expect_eq(d->sf.sources, 0);
    cr_expect_eq(d->sf.put_count, 0, "a put was left in flight");
    fake_free(&d->sf);
    fake_free(&d->rf);
    t_kv_free(&d->r_pool);
    t_kv_free(&d->s_pool);
}

void duo_poll(struct duo *d)
{
    for (int i = 0; i < 8; ++i) {
        const bool s = kvw_session_poll(d->s, d->now);

        if (!kvw_session_poll(d->r, d->now) && !s)
            break;
    }
}

static bool carry(struct fake *from, kvw_conn_id on, struct fake *to, kvw_conn_id at)
{
    bool any = false;

    for (uint32_t i = 0; i < from->sent_count;) {
        const struct fake_msg m = from->sent[i];

        if (m.conn.value != on.value) {
            ++i;
            continue;
        }
        --from->sent_count;
        memmove(&from->sent[i], &from->sent[i + 1], (from->sent_count - i) * sizeof(from->sent[0]));
        fake_message(to, at, m.msg, m.bytes);
        free(m.msg);
        any = true;
    }
    return any;
}

void duo_messages(struct duo *d)
{
    for (int i = 0; i < 50; ++i) {
        duo_poll(d);
        const bool a = carry(&d->sf, d->s_conn, &d->rf, d->r_conn);
        const bool b = carry(&d->rf, d->r_conn, &d->sf, d->s_conn);

        if (!a && !b)
            return;
    }
    cr_assert_fail("messages without end");
}

void duo_land(struct duo *d, uint32_t i)
{
    const struct kvw_put put = d->sf.puts[i].put;
    uint8_t *copy = malloc(put.iov[0].bytes);

    memcpy(copy, put.iov[0].base, put.iov[0].bytes);
    if (d->flip)
        copy[d->flip_bit / 8 % put.iov[0].bytes] ^= (uint8_t)(1u << d->flip_bit % 8);
    d->flip = false;
    const bool landed = fake_land(&d->rf, d->r_conn, put.offset, copy, put.iov[0].bytes, put.imm);
    cr_expect(landed || !kvw_session_peer_up(d->r), "the gate refused put %u", put.imm);
    free(copy);
    fake_put_done(&d->sf, i, KVW_OK);
}

void duo_run(struct duo *d)
{
    for (int i = 0; i < 1000; ++i) {
        duo_messages(d);
        if (d->sf.put_count == 0)
            return;
        while (d->sf.put_count > 0)
            duo_land(d, 0);
    }
    cr_assert_fail("puts without end");
}

void duo_sleep(struct duo *d, uint64_t ns)
{
    const uint64_t until = d->now + ns;

    while (d->now < until) {
        d->now += 1000000;
        duo_messages(d);
    }
}

void duo_up(struct duo *d)
{
    struct kvw_event ev;

    duo_poll(d);
    cr_assert_gt(d->sf.connects, 0);
    cr_assert_eq(d->sf.sources, 1, "the staging slots are made known");
    d->s_conn = d->sf.dialled;
    fake_dialled_up(&d->sf);
    d->r_conn = fake_incoming(&d->rf);
    duo_messages(d);
    cr_assert(duo_event(d->r, KVW_EV_PEER_UP, &ev));
    cr_assert(duo_event(d->s, KVW_EV_PEER_UP, &ev));
}

void duo_offer(struct duo *d, uint64_t id, uint64_t lease_ns)
{
    const struct kvw_blocks b = {blocks, (DUO_TOKENS + 15) / 16, DUO_TOKENS};

    cr_assert_eq(
        kvw_offer(d->r, (kvw_xfer_id){id}, &b, &(struct kvw_terms){.lease_ns = lease_ns}, d->now),
        KVW_OK);
}

void duo_stream(struct duo *d, uint64_t id)
{
    const struct kvw_blocks b = {blocks, (DUO_TOKENS + 7) / 8, DUO_TOKENS};

    t_kv_fill(&d->s_pool, blocks, DUO_TOKENS, DUO_WHAT);
    cr_assert_eq(kvw_stream_open(d->s, (kvw_xfer_id){id}, &b, 0, 0, d->now), KVW_OK);
}

void duo_push_all(struct duo *d, uint64_t id)
{
    for (uint32_t l = 0; l < DUO_LAYERS; ++l)
        cr_assert_eq(kvw_push_layer(d->s, (kvw_xfer_id){id}, l, DUO_TOKENS, NULL), KVW_OK);
}

void duo_commit(struct duo *d, uint64_t id)
{
    cr_assert_eq(kvw_commit(d->s, (kvw_xfer_id){id}, "note", 4), KVW_OK);
}

bool duo_event(struct kvw_session *s, kvw_event_kind kind, struct kvw_event *ev)
{
    while (kvw_session_next_event(s, ev))
        if (ev->kind == kind)
            return true;
    return false;
}

const char *duo_done(struct kvw_session *s, uint64_t id, kvw_err err)
{
    static char text[KVW_TEXT_BYTES_MAX + 1];
    struct kvw_event ev;
    uint32_t found = 0;

    while (kvw_session_next_event(s, &ev)) {
        if (ev.kind != KVW_EV_XFER_DONE || ev.xfer.value != id)
            continue;
        ++found;
        cr_expect_eq(ev.err, err, "transfer %lu: %s (%s), not %s", id, kvw_strerror(ev.err),
                     ev.text, kvw_strerror(err));
        strcpy(text, ev.text);
    }
    cr_expect_eq(found, 1, "transfer %lu has %u outcomes", id, found);
    return text;
}

void duo_calm(struct kvw_session *s)
{
    struct kvw_event ev;

    while (kvw_session_next_event(s, &ev))
        cr_expect(ev.kind == KVW_EV_LAYER_READY || ev.kind == KVW_EV_LAYER_SENT ||
                      ev.kind == KVW_EV_OFFERED,
                  "event %d: %s", ev.kind, ev.text);
}
