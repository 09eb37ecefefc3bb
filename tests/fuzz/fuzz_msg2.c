/* SPDX-License-Identifier: Apache-2.0 */
/* Every decoder of wire version 2 survives any bytes, and what it accepts encodes to them again. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "../../kvwire/wire/batches.h"
#include "../../kvwire/wire/chunks.h"
#include "../../kvwire/wire/credit.h"
#include "../../kvwire/wire/hello.h"
#include "../../kvwire/wire/layout.h"
#include "../../kvwire/wire/le.h"
#include "../../kvwire/wire/xfers.h"

#define CHECK(cond)                                                                                \
    do {                                                                                           \
        if (!(cond))                                                                               \
            abort();                                                                               \
    } while (0)

static uint8_t again[KVW_MSG_BYTES_MAX], third[KVW_MSG_BYTES_MAX];

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

static void same(const uint8_t *bytes, uint32_t n, uint32_t encoded)
{
    CHECK(encoded == n);
    CHECK(memcmp(bytes, again, n) == 0);
}

/* Texts are made printable when they are read, and Unused bytes aren't kept: then not the same
 * bytes come out, but what comes out is read as the same. */
static void hello(const uint8_t *bytes, uint32_t n)
{
    struct kvw_wire_hello h, twice;
    uint32_t encoded, layout;

    if (kvw_wire_hello_front(bytes, n, &layout) != KVW_OK)
        CHECK(kvw_wire_hello_decode(&h, bytes, n) != KVW_OK);
    if (kvw_wire_hello_decode(&h, bytes, n) != KVW_OK)
        return;
    encoded = kvw_wire_hello_encode(again, &h);
    CHECK(encoded <= n && encoded <= KVW_WIRE_SHORT_MAX);
    CHECK(kvw_wire_hello_decode(&twice, again, encoded) == KVW_OK);
    CHECK(memcmp(&h, &twice, sizeof(h)) == 0);
    CHECK(kvw_wire_agree(h.versions, h.versions) >= 2);
}

static void ends(const uint8_t *bytes, uint32_t n)
{
    static const uint8_t types[] = {KVW_WIRE_ABORT, KVW_WIRE_REFUSE};
    struct kvw_wire_reject r, again_r;
    struct kvw_wire_abort a;

    if (kvw_wire_reject_decode(&r, bytes, n) == KVW_OK) {
        CHECK(kvw_wire_reject_encode(again, &r) <= n);
        CHECK(kvw_wire_reject_decode(&again_r, again,
                                     KVW_WIRE_REJECT_LEN + (uint32_t)strlen(r.text)) == KVW_OK);
    }
    for (uint32_t i = 0; i < 2; ++i)
        if (kvw_wire_abort_decode(&a, types[i], bytes, n) == KVW_OK) {
            CHECK(a.err < 0 && (a.about.epoch != 0 || types[i] == KVW_WIRE_REFUSE));
            CHECK(kvw_wire_abort_encode(again, types[i], &a) == n);
            CHECK(memcmp(again, bytes, KVW_WIRE_ABORT_LEN) == 0);
        }
}

static void offer(const uint8_t *bytes, uint32_t n)
{
    struct kvw_wire_span spans[KVW_WIRE_SPANS_MAX];
    struct kvw_wire_offer o;

    if (kvw_wire_offer_decode(&o, bytes, n) != KVW_OK)
        return;
    for (uint32_t i = 0; i < o.span_count; ++i) {
        spans[i] = kvw_wire_offer_span(&o, i);
        CHECK(spans[i].token_end <= o.tokens && spans[i].rows >= 1);
    }
    same(bytes, n, kvw_wire_offer_encode(again, &o, spans));
}

static void slots(const uint8_t *bytes, uint32_t n)
{
    struct kvw_wire_grant g;
    uint64_t next;

    if (kvw_wire_grant_decode(&g, bytes, n) == KVW_OK) {
        for (uint32_t i = 0; i < g.count; ++i)
            CHECK(kvw_wire_grant_slot(&g, i) < KVW_WIRE_LANDING_SLOTS_MAX);
        memcpy(again + KVW_WIRE_GRANT_LEN, g.slots, 2 * (size_t)g.count);
        same(bytes, n, kvw_wire_grant_encode(again, &g));
    }
    if (kvw_wire_recall_decode(bytes, n) == KVW_OK)
        same(bytes, n, kvw_wire_recall_encode(again));
    if (kvw_wire_return_decode(&next, bytes, n) == KVW_OK)
        same(bytes, n, kvw_wire_return_encode(again, next));
}

static void small(const uint8_t *bytes, uint32_t n)
{
    struct kvw_wire_commit commit;
    struct kvw_wire_done done;
    const uint8_t *epochs;
    uint32_t count;

    if (kvw_wire_commit_decode(&commit, bytes, n) == KVW_OK)
        same(bytes, n, kvw_wire_commit_encode(again, &commit));
    if (kvw_wire_done_decode(&done, bytes, n) == KVW_OK)
        same(bytes, n, kvw_wire_done_encode(again, &done));
    if (kvw_wire_alive_decode(&epochs, &count, bytes, n) == KVW_OK) {
        memcpy(again + KVW_WIRE_ALIVE_LEN, epochs, 4 * (size_t)count);
        same(bytes, n, kvw_wire_alive_encode(again, count));
    }
}

static void pool(const uint8_t *bytes, uint32_t n)
{
    struct kvw_layout *l, *twice;
    uint16_t number, number2;
    uint32_t encoded;
    char why[96];

    if (kvw_pool_gone_decode(&number, bytes, n) == KVW_OK) {
        CHECK(kvw_pool_msg_gone(bytes, n));
        same(bytes, n, kvw_pool_gone_encode(again, number));
    }
    if (kvw_layout_decode(&l, &number, bytes, n, why, sizeof(why)) != KVW_OK)
        return;
    CHECK((encoded = kvw_layout_encode(again, number, l)) == n);
    CHECK(kvw_layout_decode(&twice, &number2, again, encoded, why, sizeof(why)) == KVW_OK);
    CHECK(kvw_layout_encode(third, number2, twice) == n && memcmp(again, third, n) == 0);
    for (uint32_t g = 0; g < l->group_count; ++g) {
        uint32_t first, end;

        for (uint32_t i = 0; i < l->groups[g].layer_count; ++i)
            CHECK(kvw_layout_layer(&l->groups[g], l->groups[g].layers[i]) == i);
        kvw_layout_entries(&l->groups[g], 1000, 3, 900, &first, &end);
        CHECK(first <= end);
    }
    kvw_layout_free(l);
    kvw_layout_free(twice);
}

static void batch(const uint8_t *bytes, uint32_t n)
{
    struct kvw_wire_batch b;

    if (kvw_wire_batch_decode(&b, bytes, n) != KVW_OK)
        return;
    for (uint32_t i = 0; i < b.count; ++i) {
        const struct kvw_wire_run r = kvw_wire_batch_run(&b, i);
        uint64_t low, end;

        CHECK(kvw_wire_run_ends(&r, &low, &end) && low < end && end - low >= r.bytes);
        kvw_wire_run_encode(again + kvw_wire_batch_run_at(&b, i), &r);
    }
    same(bytes, n, kvw_wire_batch_encode(again, &b));
}

static void batches(const uint8_t *bytes, uint32_t n)
{
    struct kvw_wire_batch_done done;
    struct kvw_wire_notify notify;
    struct kvw_wire_region region;
    uint32_t id;

    if (kvw_wire_region_decode(&region, bytes, n) == KVW_OK)
        same(bytes, n, kvw_wire_region_encode(again, &region));
    if (kvw_wire_gone_decode(&id, bytes, n) == KVW_OK)
        same(bytes, n, kvw_wire_gone_encode(again, id));
    if (kvw_wire_notify_decode(&notify, bytes, n) == KVW_OK)
        same(bytes, n, kvw_wire_notify_encode(again, &notify));
    if (kvw_wire_batch_done_decode(&done, bytes, n) == KVW_OK) {
        CHECK(kvw_wire_batch_done_encode(again, &done) <= n); /* a 0 ends a text */
        CHECK(memcmp(again + 4, bytes + 4, KVW_WIRE_BATCH_DONE_LEN - 4) == 0);
    }
}

/* No fuzzer guesses a digest: give the header the right one, so that the fields are reached. */
static const uint8_t *mend(const uint8_t *bytes, uint32_t n)
{
    static uint8_t mended[KVW_MSG_BYTES_MAX];

    memcpy(mended, bytes, n);
    kvw_store_le32(mended + 60, kvw_wire_chunk_check(mended));
    return mended;
}

static void batch_chunk(const uint8_t *bytes, uint32_t n)
{
    struct kvw_wire_batch_chunk h;

    if (kvw_wire_batch_chunk_decode(&h, bytes, n) != KVW_OK && n >= KVW_WIRE_CHUNK_LEN)
        bytes = mend(bytes, n);
    if (kvw_wire_batch_chunk_decode(&h, bytes, n) != KVW_OK)
        return;
    CHECK(kvw_wire_is_batch_chunk(bytes, n) && h.bytes == n - KVW_WIRE_CHUNK_LEN);
    kvw_wire_batch_chunk_encode(again, &h);
    same(bytes, KVW_WIRE_CHUNK_LEN, KVW_WIRE_CHUNK_LEN);
}

static void chunk(const uint8_t *bytes, uint32_t n)
{
    struct kvw_wire_chunk h;

    if (kvw_wire_chunk_decode(&h, bytes, n) != KVW_OK && n >= KVW_WIRE_CHUNK_LEN)
        bytes = mend(bytes, n);
    if (kvw_wire_chunk_decode(&h, bytes, n) != KVW_OK)
        return;
    kvw_wire_chunk_encode(again, &h);
    same(bytes, KVW_WIRE_CHUNK_LEN, KVW_WIRE_CHUNK_LEN);
    CHECK(h.stream_bytes == n - KVW_WIRE_CHUNK_LEN);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    const uint32_t n = (uint32_t)(size < KVW_MSG_BYTES_MAX ? size : KVW_MSG_BYTES_MAX);

    hello(bytes, n);
    ends(bytes, n);
    offer(bytes, n);
    slots(bytes, n);
    small(bytes, n);
    pool(bytes, n);
    chunk(bytes, n);
    batch(bytes, n);
    batches(bytes, n);
    batch_chunk(bytes, n);
    return 0;
}
