/* SPDX-License-Identifier: Apache-2.0 */
/* Golden rows of batches. */
#include "golden_batch.h"

#include <criterion/criterion.h>
#include <string.h>

#include "../../../kvwire/core_types.h"
#include "../../../kvwire/wire/batches.h"

static bool begins(const char *name, const char *what)
{
    return strncmp(name, what, strlen(what)) == 0;
}

static kvw_err region(const char *name, const uint8_t *bytes, uint32_t n, uint8_t *again,
                      uint32_t *encoded)
{
    struct kvw_wire_region r;
    const kvw_err err = kvw_wire_region_decode(&r, bytes, n);

    if (err != KVW_OK)
        return err;
    if (strcmp(name, "region") == 0)
        cr_expect(r.id == 3 && r.rights == 3 && r.base == 0x7f0012340000 && r.bytes == 1 << 20 &&
                  r.key.bytes[0] == 0x40 && r.key.bytes[31] == 0x5f);
    *encoded = kvw_wire_region_encode(again, &r);
    return KVW_OK;
}

static kvw_err gone(const uint8_t *bytes, uint32_t n, uint8_t *again, uint32_t *encoded)
{
    uint32_t id;
    const kvw_err err = kvw_wire_gone_decode(&id, bytes, n);

    if (err != KVW_OK)
        return err;
    cr_expect_eq(id, 3);
    *encoded = kvw_wire_gone_encode(again, id);
    return KVW_OK;
}

static kvw_err batch(const char *name, const uint8_t *bytes, uint32_t n, uint8_t *again,
                     uint32_t *encoded)
{
    struct kvw_wire_batch b;
    const kvw_err err = kvw_wire_batch_decode(&b, bytes, n);

    if (err != KVW_OK)
        return err;
    for (uint32_t i = 0; i < b.count; ++i) {
        const struct kvw_wire_run r = kvw_wire_batch_run(&b, i);

        kvw_wire_run_encode(again + kvw_wire_batch_run_at(&b, i), &r);
        if (strcmp(name, "batch") == 0 && i == 0)
            cr_expect(r.base == 0x7f0012341000 && r.stride == 0x2000 && r.bytes == 0x1000 &&
                      r.count == 3 && r.region == 3);
        if (strcmp(name, "batch_run_down") == 0)
            cr_expect_eq(r.stride, -0x1000);
    }
    if (strcmp(name, "batch") == 0)
        cr_expect(b.op == KVW_BATCH_WRITE && b.epoch == 5 && b.bytes == 16384 && b.runs == 2 &&
                  b.first == 0 && b.count == 2 && b.chunk_bytes == 262144 && b.note_bytes == 4 &&
                  memcmp(b.note, "note", 4) == 0);
    if (strcmp(name, "batch_part") == 0)
        cr_expect(b.runs == 9 && b.first == 2 && b.note_bytes == 0);
    *encoded = kvw_wire_batch_encode(again, &b);
    return KVW_OK;
}

static kvw_err batch_done(const char *name, const uint8_t *bytes, uint32_t n, uint8_t *again,
                          uint32_t *encoded)
{
    struct kvw_wire_batch_done d;
    const kvw_err err = kvw_wire_batch_done_decode(&d, bytes, n);

    if (err != KVW_OK)
        return err;
    if (strcmp(name, "batch_done") == 0) {
        cr_expect(d.of_reader && d.err == KVW_E_CANCELED && d.epoch == 5 && d.bytes == 0);
        cr_expect_str_eq(d.text, "region 3 was removed");
    } else {
        cr_expect(!d.of_reader && d.err == KVW_OK && d.bytes == 16384);
    }
    *encoded = kvw_wire_batch_done_encode(again, &d);
    return KVW_OK;
}

static kvw_err notify(const char *name, const uint8_t *bytes, uint32_t n, uint8_t *again,
                      uint32_t *encoded)
{
    struct kvw_wire_notify m;
    const kvw_err err = kvw_wire_notify_decode(&m, bytes, n);

    if (err != KVW_OK)
        return err;
    if (strcmp(name, "notify") == 0)
        cr_expect(m.bytes == 4 && memcmp(m.note, "note", 4) == 0);
    *encoded = kvw_wire_notify_encode(again, &m);
    return KVW_OK;
}

static kvw_err chunk(const char *name, const uint8_t *bytes, uint32_t n, uint8_t *again,
                     uint32_t *encoded)
{
    struct kvw_wire_batch_chunk h;
    const kvw_err err = kvw_wire_batch_chunk_decode(&h, bytes, n);

    cr_expect_eq(kvw_wire_is_batch_chunk(bytes, n),
                 n >= KVW_WIRE_CHUNK_LEN && strcmp(name, "batchchunk_magic") != 0);
    if (err != KVW_OK)
        return err;
    cr_expect(h.epoch == 5 && h.seq == 17 && h.offset == 262144 && h.bytes == 16 && h.digest == 1);
    cr_expect_eq(h.op, strcmp(name, "batchchunk_read") == 0 ? KVW_BATCH_READ : KVW_BATCH_WRITE);
    kvw_wire_batch_chunk_encode(again, &h);
    memcpy(again + KVW_WIRE_CHUNK_LEN, bytes + KVW_WIRE_CHUNK_LEN, h.bytes);
    *encoded = KVW_WIRE_CHUNK_LEN + h.bytes;
    return KVW_OK;
}

kvw_err t_golden_batch(const char *name, const uint8_t *bytes, uint32_t n, uint8_t *again,
                       uint32_t *encoded)
{
    if (begins(name, "region"))
        return region(name, bytes, n, again, encoded);
    if (begins(name, "gone"))
        return gone(bytes, n, again, encoded);
    if (begins(name, "batchchunk"))
        return chunk(name, bytes, n, again, encoded);
    if (begins(name, "batch_done"))
        return batch_done(name, bytes, n, again, encoded);
    if (begins(name, "batch"))
        return batch(name, bytes, n, again, encoded);
    return notify(name, bytes, n, again, encoded);
}
