/* SPDX-License-Identifier: Apache-2.0 */
/* SPEC.md 3.7 and 5.1: regions, batches, notifications. */
#include "batches.h"

#include <assert.h>

#include "../core_types.h"
#include "chunks.h"
#include "fields.h"

#define CHECK_AT 60u /* of a chunk's header */

/* --- regions ---------------------------------------------------------------------------------- */

static bool region_in_range(const struct kvw_wire_region *r)
{
    if (r->id == 0)
        return r->base == 0 && r->bytes == 0 && r->rights == 0;
    return r->rights >= 1 && r->rights <= (KVW_REGION_READ | KVW_REGION_WRITE) && r->bytes >= 1 &&
           r->base <= UINT64_MAX - r->bytes;
}

kvw_err kvw_wire_region_decode(struct kvw_wire_region *out, const uint8_t *msg, uint32_t bytes)
{
    kvw_err err = kvw_field_front(msg, bytes, KVW_WIRE_REGION, KVW_WIRE_REGION_LEN);
    struct kvw_wire_region r;

    if (err != KVW_OK)
        return err;
    r = (struct kvw_wire_region){
        .rights = msg[1],
        .id = kvw_load_le32(msg + 4),
        .base = kvw_load_le64(msg + 8),
        .bytes = kvw_load_le64(msg + 16),
    };
    memcpy(r.key.bytes, msg + 24, sizeof(r.key.bytes));
    if (!kvw_field_zero(msg + 2, 2) || !region_in_range(&r) ||
        (r.id == 0 && !kvw_field_zero(r.key.bytes, sizeof(r.key.bytes))))
        return KVW_E_PROTOCOL;
    if ((err = kvw_field_exact(bytes, KVW_WIRE_REGION_LEN)) != KVW_OK)
        return err;
    *out = r;
    return KVW_OK;
}

uint32_t kvw_wire_region_encode(uint8_t *to, const struct kvw_wire_region *in)
{
    assert(region_in_range(in));
    to[0] = KVW_WIRE_REGION;
    to[1] = (uint8_t)in->rights;
    kvw_store_le16(to + 2, 0);
    kvw_store_le32(to + 4, in->id);
    kvw_store_le64(to + 8, in->base);
    kvw_store_le64(to + 16, in->bytes);
    memcpy(to + 24, in->key.bytes, sizeof(in->key.bytes));
    return KVW_WIRE_REGION_LEN;
}

kvw_err kvw_wire_gone_decode(uint32_t *id, const uint8_t *msg, uint32_t bytes)
{
    kvw_err err = kvw_field_front(msg, bytes, KVW_WIRE_GONE, KVW_WIRE_GONE_LEN);

    if (err != KVW_OK)
        return err;
    if (!kvw_field_zero(msg + 1, 3) || kvw_load_le32(msg + 4) == 0)
        return KVW_E_PROTOCOL;
    if ((err = kvw_field_exact(bytes, KVW_WIRE_GONE_LEN)) != KVW_OK)
        return err;
    *id = kvw_load_le32(msg + 4);
    return KVW_OK;
}

uint32_t kvw_wire_gone_encode(uint8_t *to, uint32_t id)
{
    assert(id != 0);
    memset(to, 0, KVW_WIRE_GONE_LEN);
    to[0] = KVW_WIRE_GONE;
    kvw_store_le32(to + 4, id);
    return KVW_WIRE_GONE_LEN;
}

/* --- batches ---------------------------------------------------------------------------------- */

bool kvw_wire_run_ends(const struct kvw_wire_run *r, uint64_t *low, uint64_t *end)
{
    const bool down = r->stride < 0;
    const uint64_t step = down ? 0 - (uint64_t)r->stride : (uint64_t)r->stride;
    uint64_t reach, last;

    if (r->count == 0 || r->bytes == 0 || __builtin_mul_overflow(step, r->count - 1, &reach))
        return false;
    if (down ? reach > r->base : __builtin_add_overflow(r->base, reach, &last))
        return false;
    *low = down ? r->base - reach : r->base;
    return !__builtin_add_overflow(down ? r->base : last, r->bytes, end);
}

static bool batch_in_range(const struct kvw_wire_batch *b)
{
    return (b->op == KVW_BATCH_READ || b->op == KVW_BATCH_WRITE) && b->epoch != 0 &&
           b->bytes >= 1 && b->bytes <= KVW_WIRE_BATCH_BYTES_MAX &&
           b->chunk_bytes >= KVW_CHUNK_RAW_MIN && b->chunk_bytes <= KVW_CHUNK_RAW_MAX &&
           b->runs >= 1 && b->runs <= KVW_WIRE_BATCH_RUNS_MAX && b->count >= 1 &&
           b->first < b->runs && b->count <= b->runs - b->first &&
           b->note_bytes <= (b->op == KVW_BATCH_WRITE && b->first == 0 ? KVW_WIRE_NOTE_MAX : 0);
}

struct kvw_wire_run kvw_wire_batch_run(const struct kvw_wire_batch *b, uint32_t i)
{
    const uint8_t *p = b->list + (size_t)i * KVW_WIRE_RUN_LEN;

    return (struct kvw_wire_run){
        .base = kvw_load_le64(p),
        .stride = (int64_t)kvw_load_le64(p + 8),
        .bytes = kvw_load_le32(p + 16),
        .count = kvw_load_le32(p + 20),
        .region = kvw_load_le32(p + 24),
    };
}

kvw_err kvw_wire_batch_decode(struct kvw_wire_batch *out, const uint8_t *msg, uint32_t bytes)
{
    kvw_err err = kvw_field_front(msg, bytes, KVW_WIRE_BATCH, KVW_WIRE_BATCH_LEN);
    struct kvw_wire_batch b;
    uint64_t low, end;

    if (err != KVW_OK)
        return err;
    b = (struct kvw_wire_batch){
        .op = msg[1],
        .note_bytes = kvw_load_le16(msg + 2),
        .chunk_bytes = kvw_load_le32(msg + 4),
        .epoch = kvw_load_le64(msg + 8),
        .bytes = kvw_load_le64(msg + 16),
        .runs = kvw_load_le32(msg + 24),
        .first = kvw_load_le32(msg + 28),
        .count = kvw_load_le32(msg + 32),
        .note = msg + KVW_WIRE_BATCH_LEN,
    };
    if (!batch_in_range(&b) || !kvw_field_zero(msg + 36, 4))
        return KVW_E_PROTOCOL;
    err = kvw_field_exact(bytes, (uint64_t)KVW_WIRE_BATCH_LEN + b.note_bytes +
                                     (uint64_t)b.count * KVW_WIRE_RUN_LEN);
    if (err != KVW_OK)
        return err;
    b.list = msg + KVW_WIRE_BATCH_LEN + b.note_bytes;
    for (uint32_t i = 0; i < b.count; ++i) {
        const struct kvw_wire_run r = kvw_wire_batch_run(&b, i);

        if (r.region == 0 || !kvw_wire_run_ends(&r, &low, &end))
            return KVW_E_PROTOCOL;
    }
    *out = b;
    return KVW_OK;
}

uint32_t kvw_wire_batch_encode(uint8_t *to, const struct kvw_wire_batch *in)
{
    assert(batch_in_range(in));
    to[0] = KVW_WIRE_BATCH;
    to[1] = in->op;
    kvw_store_le16(to + 2, (uint16_t)in->note_bytes);
    kvw_store_le32(to + 4, in->chunk_bytes);
    kvw_store_le64(to + 8, in->epoch);
    kvw_store_le64(to + 16, in->bytes);
    kvw_store_le32(to + 24, in->runs);
    kvw_store_le32(to + 28, in->first);
    kvw_store_le32(to + 32, in->count);
    kvw_store_le32(to + 36, 0);
    if (in->note_bytes > 0)
        memcpy(to + KVW_WIRE_BATCH_LEN, in->note, in->note_bytes);
    return KVW_WIRE_BATCH_LEN + in->note_bytes + in->count * KVW_WIRE_RUN_LEN;
}

void kvw_wire_run_encode(uint8_t *to, const struct kvw_wire_run *in)
{
    kvw_store_le64(to, in->base);
    kvw_store_le64(to + 8, (uint64_t)in->stride);
    kvw_store_le32(to + 16, in->bytes);
    kvw_store_le32(to + 20, in->count);
    kvw_store_le32(to + 24, in->region);
}

kvw_err kvw_wire_batch_done_decode(struct kvw_wire_batch_done *out, const uint8_t *msg,
                                   uint32_t bytes)
{
    kvw_err err = kvw_field_front(msg, bytes, KVW_WIRE_BATCH_DONE, KVW_WIRE_BATCH_DONE_LEN);
    const uint8_t *text = msg + KVW_WIRE_BATCH_DONE_LEN;
    struct kvw_wire_batch_done d;
    uint32_t length;

    if (err != KVW_OK)
        return err;
    memset(&d, 0, sizeof(d));
    length = kvw_load_le16(msg + 2);
    d.of_reader = msg[1] == 1;
    d.err = (kvw_err)(int32_t)kvw_load_le32(msg + 4);
    d.epoch = kvw_load_le64(msg + 8);
    d.bytes = kvw_load_le64(msg + 16);
    if (msg[1] > 1 || length > KVW_TEXT_BYTES_MAX || d.err > 0 || d.epoch == 0 ||
        d.bytes > KVW_WIRE_BATCH_BYTES_MAX)
        return KVW_E_PROTOCOL;
    if ((err = kvw_field_exact(bytes, KVW_WIRE_BATCH_DONE_LEN + length)) != KVW_OK)
        return err;
    kvw_field_text(d.text, text, length);
    *out = d;
    return KVW_OK;
}

uint32_t kvw_wire_batch_done_encode(uint8_t *to, const struct kvw_wire_batch_done *in)
{
    uint32_t length;

    assert(in->err <= 0 && in->epoch != 0 && in->bytes <= KVW_WIRE_BATCH_BYTES_MAX);
    length = kvw_field_put_text(to + KVW_WIRE_BATCH_DONE_LEN, in->text, KVW_TEXT_BYTES_MAX);
    to[0] = KVW_WIRE_BATCH_DONE;
    to[1] = in->of_reader;
    kvw_store_le16(to + 2, (uint16_t)length);
    kvw_store_le32(to + 4, (uint32_t)in->err);
    kvw_store_le64(to + 8, in->epoch);
    kvw_store_le64(to + 16, in->bytes);
    return KVW_WIRE_BATCH_DONE_LEN + length;
}

/* --- notifications ---------------------------------------------------------------------------- */

kvw_err kvw_wire_notify_decode(struct kvw_wire_notify *out, const uint8_t *msg, uint32_t bytes)
{
    kvw_err err = kvw_field_front(msg, bytes, KVW_WIRE_NOTIFY, KVW_WIRE_NOTIFY_LEN);
    uint32_t n;

    if (err != KVW_OK)
        return err;
    n = kvw_load_le16(msg + 2);
    if (msg[1] != 0 || n < 1 || n > KVW_WIRE_NOTE_MAX || !kvw_field_zero(msg + 4, 4))
        return KVW_E_PROTOCOL;
    if ((err = kvw_field_exact(bytes, KVW_WIRE_NOTIFY_LEN + n)) != KVW_OK)
        return err;
    *out = (struct kvw_wire_notify){n, msg + KVW_WIRE_NOTIFY_LEN};
    return KVW_OK;
}

uint32_t kvw_wire_notify_encode(uint8_t *to, const struct kvw_wire_notify *in)
{
    assert(in->bytes >= 1 && in->bytes <= KVW_WIRE_NOTE_MAX);
    memset(to, 0, KVW_WIRE_NOTIFY_LEN);
    to[0] = KVW_WIRE_NOTIFY;
    kvw_store_le16(to + 2, (uint16_t)in->bytes);
    memcpy(to + KVW_WIRE_NOTIFY_LEN, in->note, in->bytes);
    return KVW_WIRE_NOTIFY_LEN + in->bytes;
}

/* --- chunks ----------------------------------------------------------------------------------- */

bool kvw_wire_is_batch_chunk(const uint8_t *from, uint32_t bytes)
{
    return bytes >= KVW_WIRE_CHUNK_LEN && kvw_load_le32(from) == KVW_WIRE_BATCH_MAGIC;
}

static bool chunk_in_range(const struct kvw_wire_batch_chunk *h)
{
    return h->epoch != 0 && (h->op == KVW_BATCH_READ || h->op == KVW_BATCH_WRITE) &&
           h->digest != 0 && h->digest < 64 && h->bytes >= 1 && h->bytes <= KVW_CHUNK_RAW_MAX &&
           h->offset <= KVW_WIRE_BATCH_BYTES_MAX - h->bytes;
}

void kvw_wire_batch_chunk_encode(uint8_t to[KVW_WIRE_CHUNK_LEN],
                                 const struct kvw_wire_batch_chunk *in)
{
    assert(chunk_in_range(in));
    memset(to, 0, KVW_WIRE_CHUNK_LEN);
    kvw_store_le32(to, KVW_WIRE_BATCH_MAGIC);
    kvw_store_le32(to + 4, in->seq);
    kvw_store_le64(to + 8, in->epoch);
    kvw_store_le64(to + 16, in->offset);
    kvw_store_le32(to + 24, in->bytes);
    to[28] = in->op;
    to[29] = in->digest;
    kvw_store_le64(to + 32, in->digest_value);
    kvw_store_le32(to + CHECK_AT, kvw_wire_chunk_check(to));
}

kvw_err kvw_wire_batch_chunk_decode(struct kvw_wire_batch_chunk *out, const uint8_t *from,
                                    uint32_t bytes)
{
    struct kvw_wire_batch_chunk h;

    if (bytes < KVW_WIRE_CHUNK_LEN)
        return KVW_E_TRUNCATED;
    if (kvw_load_le32(from + CHECK_AT) != kvw_wire_chunk_check(from))
        return KVW_E_CHECKSUM;
    if (kvw_load_le32(from) != KVW_WIRE_BATCH_MAGIC || !kvw_field_zero(from + 30, 2) ||
        !kvw_field_zero(from + 40, CHECK_AT - 40))
        return KVW_E_PROTOCOL;
    h = (struct kvw_wire_batch_chunk){
        .seq = kvw_load_le32(from + 4),
        .epoch = kvw_load_le64(from + 8),
        .offset = kvw_load_le64(from + 16),
        .bytes = kvw_load_le32(from + 24),
        .op = from[28],
        .digest = from[29],
        .digest_value = kvw_load_le64(from + 32),
    };
    if (!chunk_in_range(&h) || h.bytes != bytes - KVW_WIRE_CHUNK_LEN)
        return KVW_E_PROTOCOL;
    *out = h;
    return KVW_OK;
}
