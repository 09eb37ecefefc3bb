/* SPDX-License-Identifier: Apache-2.0 */
/* The golden bytes of SPEC.md decode to the fields that it lists, encode to themselves, and the
 * bad ones are refused for the right reason. They come from tests/golden/kv_v2.py, which knows the
 * tables of SPEC.md and nothing of this code. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../../kvwire/wire/chunks.h"
#include "../../../kvwire/wire/credit.h"
#include "../../../kvwire/wire/hello.h"
#include "../../../kvwire/wire/layout.h"
#include "../../../kvwire/wire/le.h"
#include "../../../kvwire/wire/xfers.h"
#include "golden_batch.h"

#define GOLDEN_MAX 16384u

static uint8_t again[KVW_MSG_BYTES_MAX];

struct row {
    const char *name;
    const uint8_t *bytes; /* of a block of just n bytes */
    uint32_t n;
};

static bool is(const struct row *r, const char *what)
{
    return strcmp(r->name, what) == 0;
}

static bool begins(const struct row *r, const char *what)
{
    return strncmp(r->name, what, strlen(what)) == 0;
}

/* Unused bytes are not kept; everything else is. */
static void same(const struct row *r, uint32_t encoded)
{
    if (strstr(r->name, "_unused") != NULL || strstr(r->name, "_with_more") != NULL)
        return;
    cr_expect_eq(r->n, encoded, "%s: %u bytes, encodes to %u", r->name, r->n, encoded);
    cr_expect_eq(memcmp(r->bytes, again, r->n < encoded ? r->n : encoded), 0, "%s", r->name);
}

static bool about_is(const struct kvw_wire_about *a, uint32_t epoch)
{
    for (uint32_t i = 0; i < sizeof(a->key.bytes); ++i)
        if (a->key.bytes[i] != 0xa0 + i)
            return false;
    return a->epoch == epoch;
}

static kvw_err hello(const struct row *r)
{
    struct kvw_wire_hello h;
    const kvw_err err = kvw_wire_hello_decode(&h, r->bytes, r->n);

    if (err != KVW_OK)
        return err;
    if (is(r, "hello") || is(r, "hello_unused") || is(r, "hello_with_more")) {
        cr_expect(h.versions == (1ull << 62 | 4) && h.instance == 0x1122334455667788 &&
                  h.codecs == 0x0e && h.digests == 6 && h.features == 3 && h.slot_bytes == 262208 &&
                  h.offers == 256 && h.dead_ms == 1000);
        cr_expect(h.region.bytes[0] == 0x80 && h.region.bytes[31] == 0x9f);
        cr_expect_str_eq(h.name, "decode 3");
    }
    if (is(r, "hello_share"))
        cr_expect(h.features == 11 && h.share[0] == 0x50 && h.share[15] == 0x5f &&
                  h.share_bytes == 64ull * 262208);
    same(r, kvw_wire_hello_encode(again, &h));
    return KVW_OK;
}

static kvw_err reject(const struct row *r)
{
    struct kvw_wire_reject m;
    const kvw_err err = kvw_wire_reject_decode(&m, r->bytes, r->n);

    if (err != KVW_OK)
        return err;
    cr_expect(m.err == KVW_E_VERSION && m.layout == 2);
    if (is(r, "reject"))
        cr_expect_str_eq(m.text, "protocol version differs: here 2, peer 7");
    same(r, kvw_wire_reject_encode(again, &m));
    return KVW_OK;
}

static kvw_err offer(const struct row *r)
{
    struct kvw_wire_span spans[KVW_WIRE_SPANS_MAX];
    struct kvw_wire_offer o;
    const kvw_err err = kvw_wire_offer_decode(&o, r->bytes, r->n);

    if (err != KVW_OK)
        return err;
    for (uint32_t i = 0; i < o.span_count; ++i)
        spans[i] = kvw_wire_offer_span(&o, i);
    if (is(r, "offer")) {
        cr_expect(about_is(&o.about, 5) && o.budget == KVW_BUDGET_E8 && o.pool == 7 &&
                  o.lease_ns == 2000000000 && o.take_by_ns == 10000000000 && o.tokens == 320 &&
                  o.exact_first == 4 && o.exact_last == 128 && o.stage == 0 && o.span_count == 2);
        cr_expect(spans[0].group == 1 && spans[0].part == 2 && spans[0].layer_first == 3 &&
                  spans[0].layers == 4 && spans[0].token_first == 256 &&
                  spans[0].token_end == 320 && spans[0].row_first == 4 && spans[0].rows == 2 &&
                  spans[1].part == 0);
    }
    cr_expect_eq(o.stage, is(r, "offer_pull") ? 77 : 0);
    same(r, kvw_wire_offer_encode(again, &o, spans));
    return KVW_OK;
}

static kvw_err grant(const struct row *r)
{
    struct kvw_wire_grant g;
    const kvw_err err = kvw_wire_grant_decode(&g, r->bytes, r->n);

    if (err != KVW_OK)
        return err;
    if (is(r, "grant"))
        cr_expect(g.from == 1ull << 33 && g.count == 3 && g.codec == 4 && g.decode_ps == 70 &&
                  kvw_wire_grant_slot(&g, 0) == 9 && kvw_wire_grant_slot(&g, 2) == 4095);
    memcpy(again + KVW_WIRE_GRANT_LEN, g.slots, 2 * (size_t)g.count);
    same(r, kvw_wire_grant_encode(again, &g));
    return KVW_OK;
}

static kvw_err recall(const struct row *r)
{
    const kvw_err err = kvw_wire_recall_decode(r->bytes, r->n);

    if (err == KVW_OK)
        same(r, kvw_wire_recall_encode(again));
    return err;
}

static kvw_err give_back(const struct row *r)
{
    uint64_t next;
    const kvw_err err = kvw_wire_return_decode(&next, r->bytes, r->n);

    if (err != KVW_OK)
        return err;
    cr_expect_eq(next, 1ull << 33);
    same(r, kvw_wire_return_encode(again, next));
    return KVW_OK;
}

static kvw_err alive(const struct row *r)
{
    const uint8_t *epochs;
    uint32_t n;
    const kvw_err err = kvw_wire_alive_decode(&epochs, &n, r->bytes, r->n);

    if (err != KVW_OK)
        return err;
    if (is(r, "alive"))
        cr_expect(n == 3 && kvw_load_le32(epochs) == 5 && kvw_load_le32(epochs + 4) == 6);
    memcpy(again + KVW_WIRE_ALIVE_LEN, epochs, 4 * (size_t)n);
    same(r, kvw_wire_alive_encode(again, n));
    return KVW_OK;
}

static kvw_err commit(const struct row *r)
{
    struct kvw_wire_commit m;
    const kvw_err err = kvw_wire_commit_decode(&m, r->bytes, r->n);

    if (err != KVW_OK)
        return err;
    cr_expect(about_is(&m.about, 5) && m.chunks == 60 && m.raw_bytes == 1ull << 34);
    if (is(r, "commit"))
        cr_expect(m.note_bytes == 4 && memcmp(m.note, "note", 4) == 0);
    same(r, kvw_wire_commit_encode(again, &m));
    return KVW_OK;
}

static kvw_err done(const struct row *r)
{
    struct kvw_wire_done m;
    const kvw_err err = kvw_wire_done_decode(&m, r->bytes, r->n);

    if (err != KVW_OK)
        return err;
    cr_expect(about_is(&m.about, 5) && m.chunks == 60 && m.raw_bytes == 1ull << 34);
    same(r, kvw_wire_done_encode(again, &m));
    return KVW_OK;
}

static kvw_err end(const struct row *r)
{
    const uint8_t type = begins(r, "refuse") ? KVW_WIRE_REFUSE : KVW_WIRE_ABORT;
    struct kvw_wire_abort m;
    const kvw_err err = kvw_wire_abort_decode(&m, type, r->bytes, r->n);

    if (err != KVW_OK)
        return err;
    cr_expect(about_is(&m.about, is(r, "refuse_epoch_0") ? 0 : 5) && m.err == KVW_E_CANCELED);
    cr_expect_str_eq(m.text, is(r, "abort_no_text") ? "" : "client went away");
    same(r, kvw_wire_abort_encode(again, type, &m));
    return KVW_OK;
}

static void pool_fields(const struct kvw_layout *l)
{
    const struct kvw_layout_group *g = l->groups;

    cr_expect(l->model_layers == 10 && l->group_count == 3 && l->fingerprint[15] == 0x1f);
    cr_expect_str_eq(l->name, "a model");
    cr_expect(g[0].kind == KVW_GROUP_PAGED && g[0].blocks == 1000 && g[0].block_entries == 16 &&
              g[0].entry_tokens == 1 && g[0].window_tokens == 0 && g[0].layer_count == 5 &&
              g[0].layers[2] == 2 && g[0].layers[3] == 8 && g[0].layers[4] == 9);
    cr_expect(g[0].part_count == 2 && g[0].parts[1].dtype == KVW_DTYPE_F16 &&
              g[0].parts[1].row_bytes == 256 && g[0].parts[1].rows == 4 &&
              g[0].parts[1].row_first == 4 && g[0].parts[1].rows_model == 8);
    cr_expect_str_eq(g[0].parts[1].name, "v");
    cr_expect(g[1].kind == KVW_GROUP_WINDOW && g[1].window_tokens == 1024 &&
              g[1].entry_tokens == 4 && g[1].layer_count == 2 && g[1].layers[1] == 5);
    cr_expect(g[2].kind == KVW_GROUP_ROW && g[2].entry_tokens == 0 && g[2].layers[0] == 4 &&
              g[2].layers[2] == 7 && g[2].parts[1].dtype == KVW_DTYPE_BYTES);
}

static kvw_err pool(const struct row *r)
{
    struct kvw_layout *l;
    char why[160] = "";
    uint16_t number;
    kvw_err err;

    if (begins(r, "pool_gone")) {
        cr_expect(kvw_pool_msg_gone(r->bytes, r->n));
        if ((err = kvw_pool_gone_decode(&number, r->bytes, r->n)) == KVW_OK) {
            cr_expect_eq(number, 7);
            same(r, kvw_pool_gone_encode(again, number));
        }
        return err;
    }
    if ((err = kvw_layout_decode(&l, &number, r->bytes, r->n, why, sizeof(why))) != KVW_OK) {
        cr_expect_neq(why[0], '\0', "%s: no reason", r->name);
        return err;
    }
    cr_expect_eq(number, 7);
    if (is(r, "pool"))
        pool_fields(l);
    same(r, kvw_layout_encode(again, number, l));
    kvw_layout_free(l);
    return KVW_OK;
}

static kvw_err chunk(const struct row *r)
{
    struct kvw_wire_chunk h;
    const kvw_err err = kvw_wire_chunk_decode(&h, r->bytes, r->n);

    if (err != KVW_OK)
        return err;
    cr_expect(h.key_front == 0xa7a6a5a4a3a2a1a0 && h.epoch == 5 && h.seq == 17 && h.group == 1 &&
              h.part == 2 && h.codec == 1 && h.digest == 1 && h.row_first == 4 && h.rows == 2 &&
              h.entry_first == 96 && h.entries == 4 && h.stream_bytes == 16);
    if (is(r, "chunk"))
        cr_expect(h.layer == 31 && h.raw_bytes == 16);
    kvw_wire_chunk_encode(again, &h);
    cr_expect_eq(h.where, is(r, "chunk_shared")    ? KVW_CHUNK_SHARED
                          : is(r, "chunk_nowhere") ? KVW_CHUNK_NOWHERE
                                                   : KVW_CHUNK_HERE);
    if (h.where != KVW_CHUNK_HERE)
        h.stream_bytes = 0;
    memcpy(again + KVW_WIRE_CHUNK_LEN, r->bytes + KVW_WIRE_CHUNK_LEN, h.stream_bytes);
    same(r, KVW_WIRE_CHUNK_LEN + h.stream_bytes);
    return KVW_OK;
}

static kvw_err batches(const struct row *r)
{
    uint32_t encoded = 0;
    const kvw_err err = t_golden_batch(r->name, r->bytes, r->n, again, &encoded);

    if (err == KVW_OK)
        same(r, encoded);
    return err;
}

static kvw_err decode(const struct row *r)
{
    static const struct {
        const char *prefix;
        kvw_err (*decode)(const struct row *r);
    } kinds[] = {{"hello", hello},   {"reject", reject},    {"offer", offer},  {"grant", grant},
                 {"recall", recall}, {"return", give_back}, {"alive", alive},  {"commit", commit},
                 {"done", done},     {"abort", end},        {"refuse", end},   {"pool", pool},
                 {"chunk", chunk},   {"region", batches},   {"gone", batches}, {"batch", batches},
                 {"notify", batches}};

    for (size_t k = 0; k < sizeof(kinds) / sizeof(kinds[0]); ++k)
        if (begins(r, kinds[k].prefix))
            return kinds[k].decode(r);
    cr_assert_fail("%s is no message", r->name);
    return KVW_E_INVALID;
}

static kvw_err verdict_of(const char *word)
{
    return strcmp(word, "ok") == 0          ? KVW_OK
           : strcmp(word, "truncated") == 0 ? KVW_E_TRUNCATED
           : strcmp(word, "protocol") == 0  ? KVW_E_PROTOCOL
           : strcmp(word, "version") == 0   ? KVW_E_VERSION
                                            : KVW_E_CHECKSUM;
}

Test(golden2, kv_v2)
{
    static char line[2 * GOLDEN_MAX + 100];
    char name[64], word[16];
    uint32_t rows = 0;
    FILE *f = fopen(GOLDEN_DIR "/kv_v2.txt", "r");

    cr_assert_not_null(f);
    while (fgets(line, sizeof(line), f) != NULL) {
        const size_t most = strlen(line) / 2;
        uint8_t *bytes, *exact;
        struct row r = {.name = name};
        unsigned byte;
        int at = 0;

        if (line[0] == '#')
            continue;
        cr_assert_eq(sscanf(line, "%63s %15s %n", name, word, &at), 2);
        bytes = malloc(most);
        for (const char *hex = line + at; sscanf(hex, "%2x", &byte) == 1; hex += 2)
            bytes[r.n++] = (uint8_t)byte;
        exact = malloc(r.n > 0 ? r.n : 1); /* so that a sanitizer sees what is read beyond */
        memcpy(exact, bytes, r.n);
        r.bytes = exact;
        cr_expect_eq(decode(&r), verdict_of(word), "%s is not %s", name, word);
        free(exact);
        free(bytes);
        ++rows;
    }
    fclose(f);
    cr_expect_eq(rows, 293, "a row came or went: %u", rows);
}

Test(golden2, versions_that_both_speak)
{
    cr_expect_eq(kvw_wire_agree(4, 4), 2);
    cr_expect_eq(kvw_wire_agree(4 | 8 | 32, 8 | 4), 3);
    cr_expect_eq(kvw_wire_agree(4, 8), 0);
    cr_expect_eq(kvw_wire_agree(3ull << 62 | 4, 3ull << 62 | 8), 0, "grease is no version");
    cr_expect_eq(kvw_wire_agree(3, 3), 0, "versions 0 and 1 have another HELLO");
}
