/* SPDX-License-Identifier: Apache-2.0 */
/* The golden bytes of SPEC.md decode to the fields that it lists, encode to themselves, and the bad
 * ones are refused for the right reason. They come from tests/golden/kv_v1.py, which knows the
 * tables of SPEC.md and nothing of this code. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../kvwire/chunk.h"
#include "../../kvwire/msg.h"

#define GOLDEN_MAX 2048u

static uint8_t bytes[GOLDEN_MAX], again[KVW_MSG_BYTES_MAX];

static void same(const char *name, uint32_t n, uint32_t encoded)
{
    cr_expect_eq(n, encoded, "%s: %u bytes, encodes to %u", name, n, encoded);
    cr_expect_eq(memcmp(bytes, again, n < encoded ? n : encoded), 0, "%s", name);
}

static bool is(const char *name, const char *what)
{
    return strncmp(name, what, strlen(what)) == 0;
}

static kvw_err hello(const char *name, uint32_t n)
{
    struct kvw_hello h;
    const kvw_err err = kvw_hello_decode(&h, bytes, n);

    if (err != KVW_OK)
        return err;
    cr_expect_eq(h.role, is(name, "hello_sender") ? KVW_ROLE_SENDER : KVW_ROLE_RECEIVER);
    cr_expect_eq(h.shape.layers, 30);
    cr_expect_eq(h.shape.kv_heads, 3);
    cr_expect_eq(h.shape.head_dim, 64);
    cr_expect_eq(h.shape.block_tokens, 16);
    cr_expect_eq(h.shape.dtype, KVW_DTYPE_BF16);
    cr_expect_eq(h.codecs, 0x0e);
    cr_expect_eq(h.digests, 0x02);
    cr_expect_eq(h.slots, 32);
    cr_expect_eq(h.slot_bytes, 262208);
    cr_expect_eq(h.xfers_max, 16);
    cr_expect_eq(h.fingerprint[15], 0x1f);
    cr_expect_eq(h.region.bytes[31], 0x9f);
    cr_expect_str_eq(h.name, is(name, "hello_no_name") ? "" : "SmolLM2-135M-Instruct Q4_1");
    if (!is(name, "hello_with_more"))
        same(name, n, kvw_hello_encode(again, &h));
    return KVW_OK;
}

static kvw_err offer(const char *name, uint32_t n)
{
    struct kvw_offer_msg o;
    const kvw_err err = kvw_offer_decode(&o, bytes, n);

    if (err != KVW_OK)
        return err;
    cr_expect(o.xfer == 42 && o.epoch == 5 && o.tokens == 100 && o.lease_ns == 2000000000 &&
              o.budget == KVW_BUDGET_E8 && o.exact_first == 4 && o.exact_last == 128);
    same(name, n, kvw_offer_encode(again, &o));
    return KVW_OK;
}

static kvw_err commit(const char *name, uint32_t n)
{
    struct kvw_commit_msg m;
    const kvw_err err = kvw_commit_decode(&m, bytes, n);

    if (err != KVW_OK)
        return err;
    cr_expect(m.x.xfer == 42 && m.x.epoch == 5 && m.chunks == 60 && m.raw_bytes == 1ull << 34);
    cr_expect(m.note_bytes == 4 && memcmp(m.note, "note", 4) == 0);
    same(name, n, kvw_commit_encode(again, &m));
    return KVW_OK;
}

static kvw_err texts(const char *name, uint32_t n)
{
    struct kvw_reject r;
    struct kvw_abort_msg a;
    kvw_err err;

    if (is(name, "reject")) {
        if ((err = kvw_reject_decode(&r, bytes, n)) != KVW_OK)
            return err;
        cr_expect(r.err == KVW_E_VERSION && r.version == 1);
        cr_expect_str_eq(r.text, "protocol version differs: here 1, peer 7");
        same(name, n, kvw_reject_encode(again, &r));
        return KVW_OK;
    }
    if ((err = kvw_abort_decode(&a, bytes, n)) != KVW_OK)
        return err;
    cr_expect_eq(a.x.xfer, 42);
    cr_expect_eq(a.x.epoch, is(name, "abort_epoch_0") ? 0 : 5);
    cr_expect_eq(a.err, is(name, "abort_epoch_0") ? KVW_E_LEASE : KVW_E_CANCELED);
    cr_expect_str_eq(a.text, is(name, "abort_epoch_0") ? "" : "client went away");
    same(name, n, kvw_abort_encode(again, &a));
    return KVW_OK;
}

static kvw_err small(const char *name, uint32_t n)
{
    struct kvw_xfer_msg x;
    struct kvw_done_msg d;
    struct kvw_grant g;
    kvw_err err;

    if (is(name, "grant")) {
        if ((err = kvw_grant_decode(&g, bytes, n)) == KVW_OK) {
            cr_expect(g.limit == 1ull << 33 && g.codec == 4 && g.decode_ps == 70);
            same(name, n, kvw_grant_encode(again, &g));
        }
    } else if (is(name, "renew")) {
        if ((err = kvw_renew_decode(&x, bytes, n)) == KVW_OK) {
            cr_expect(x.xfer == 42 && x.epoch == 5);
            same(name, n, kvw_renew_encode(again, &x));
        }
    } else if ((err = kvw_done_decode(&d, bytes, n)) == KVW_OK) {
        cr_expect(d.x.xfer == 42 && d.x.epoch == 5 && d.chunks == 60 && d.raw_bytes == 1ull << 34);
        same(name, n, kvw_done_encode(again, &d));
    }
    return err;
}

static kvw_err chunk(const char *name, uint32_t n)
{
    struct kvw_chunk_hdr h;
    const kvw_err err = kvw_chunk_hdr_decode(&h, bytes, n);

    if (err != KVW_OK)
        return err;
    cr_expect(h.xfer == 42 && h.epoch == 5 && h.seq == 17 && h.layer == 31 && h.kv == 1 &&
              h.codec == KVW_CODEC_RAW && h.digest == KVW_DIGEST_XXH3_64 && h.head_first == 0 &&
              h.head_count == 1 && h.token_first == 96 && h.token_count == 4 && h.raw_bytes == 16 &&
              h.stream_bytes == 16);
    kvw_chunk_hdr_encode(again, &h);
    same(name, KVW_CHUNK_HDR_BYTES, KVW_CHUNK_HDR_BYTES);
    return KVW_OK;
}

static kvw_err decode(const char *name, uint32_t n)
{
    static const struct {
        const char *prefix;
        kvw_err (*decode)(const char *name, uint32_t n);
    } kinds[] = {{"hello", hello}, {"offer", offer}, {"commit", commit}, {"reject", texts},
                 {"abort", texts}, {"chunk", chunk}, {"", small}};
    size_t k = 0;

    while (!is(name, kinds[k].prefix))
        ++k;
    return kinds[k].decode(name, n);
}

static kvw_err verdict_of(const char *word)
{
    return strcmp(word, "ok") == 0          ? KVW_OK
           : strcmp(word, "truncated") == 0 ? KVW_E_TRUNCATED
           : strcmp(word, "protocol") == 0  ? KVW_E_PROTOCOL
           : strcmp(word, "version") == 0   ? KVW_E_VERSION
                                            : KVW_E_CHECKSUM;
}

Test(golden, kv_v1)
{
    char line[2 * GOLDEN_MAX + 100], name[64], word[16];
    uint32_t rows = 0;
    FILE *f = fopen(GOLDEN_DIR "/kv_v1.txt", "r");

    cr_assert_not_null(f);
    while (fgets(line, sizeof(line), f) != NULL) {
        int at = 0;
        uint32_t n = 0;
        unsigned byte;

        if (line[0] == '#')
            continue;
        cr_assert_eq(sscanf(line, "%63s %15s %n", name, word, &at), 2);
        for (const char *hex = line + at; sscanf(hex, "%2x", &byte) == 1; hex += 2)
            bytes[n++] = (uint8_t)byte;
        cr_expect_eq(decode(name, n), verdict_of(word), "%s is not %s", name, word);
        ++rows;
    }
    fclose(f);
    cr_expect_eq(rows, 46, "a row came or went: %u", rows);
}
