/* SPDX-License-Identifier: Apache-2.0 */
/* Every decoder of the KV protocol survives any bytes, and what it accepts encodes to them again.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "../../kvwire/chunk.h"
#include "../../kvwire/layout.h"
#include "../../kvwire/msg.h"

#define CHECK(cond)                                                                                \
    do {                                                                                           \
        if (!(cond))                                                                               \
            abort();                                                                               \
    } while (0)

static uint8_t again[KVW_MSG_BYTES_MAX];

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

static void same(const uint8_t *bytes, uint32_t n, uint32_t encoded)
{
    CHECK(encoded == n);
    CHECK(memcmp(bytes, again, n) == 0);
}

static void offer(const uint8_t *bytes, uint32_t n)
{
    struct kvw_offer_msg o;

    if (kvw_offer_decode(&o, bytes, n) != KVW_OK)
        return;
    CHECK(o.tokens >= 1 && o.tokens <= KVW_XFER_TOKENS_MAX);
    same(bytes, n, kvw_offer_encode(again, &o));
}

static void hello(const uint8_t *bytes, uint32_t n)
{
    char text[KVW_TEXT_BYTES_MAX + 1];
    struct kvw_hello h, twice;
    uint32_t encoded, version;

    if (kvw_hello_front(bytes, n, &version) != KVW_OK || kvw_hello_decode(&h, bytes, n) != KVW_OK)
        return;
    /* Not the same bytes: names are cleaned and what follows them is dropped. Once more is. */
    encoded = kvw_hello_encode(again, &h);
    CHECK(encoded <= n);
    CHECK(kvw_hello_decode(&twice, again, encoded) == KVW_OK);
    CHECK(memcmp(&h, &twice, sizeof(h)) == 0);
    CHECK(kvw_hello_match(&h, &twice, text) == KVW_E_MISMATCH); /* of the same role, at least */
}

static void texts(const uint8_t *bytes, uint32_t n)
{
    struct kvw_reject r;
    struct kvw_abort_msg a;

    if (kvw_reject_decode(&r, bytes, n) == KVW_OK)
        CHECK(r.err < 0 && kvw_reject_encode(again, &r) <= n);
    if (kvw_abort_decode(&a, bytes, n) == KVW_OK)
        CHECK(a.err < 0 && kvw_abort_encode(again, &a) == n);
}

static void chunk(const uint8_t *bytes, uint32_t n)
{
    static uint8_t mended[KVW_MSG_BYTES_MAX];
    struct kvw_digest d;
    struct kvw_chunk_hdr h;
    uint64_t check;

    if (kvw_chunk_hdr_decode(&h, bytes, n) != KVW_OK && n >= KVW_CHUNK_HDR_BYTES) {
        /* No fuzzer guesses a digest: give it the right one, so that the fields are reached. */
        memcpy(mended, bytes, n);
        CHECK(kvw_digest_begin(&d, KVW_DIGEST_XXH3_64) == KVW_OK);
        kvw_digest_update(&d, mended, 56);
        check = kvw_digest_value(&d);
        for (int i = 0; i < 4; ++i)
            mended[56 + i] = (uint8_t)(check >> 8 * i);
        bytes = mended;
    }
    if (kvw_chunk_hdr_decode(&h, bytes, n) != KVW_OK)
        return;
    kvw_chunk_hdr_encode(again, &h);
    same(bytes, KVW_CHUNK_HDR_BYTES, KVW_CHUNK_HDR_BYTES);
    CHECK(h.stream_bytes == n - KVW_CHUNK_HDR_BYTES);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    const uint32_t n = (uint32_t)(size < KVW_MSG_BYTES_MAX ? size : KVW_MSG_BYTES_MAX);
    struct kvw_commit_msg commit;
    struct kvw_xfer_msg renew;
    struct kvw_done_msg done;
    struct kvw_grant grant;

    hello(bytes, n);
    texts(bytes, n);
    offer(bytes, n);
    if (kvw_grant_decode(&grant, bytes, n) == KVW_OK)
        same(bytes, n, kvw_grant_encode(again, &grant));
    if (kvw_renew_decode(&renew, bytes, n) == KVW_OK)
        same(bytes, n, kvw_renew_encode(again, &renew));
    if (kvw_commit_decode(&commit, bytes, n) == KVW_OK)
        same(bytes, n, kvw_commit_encode(again, &commit));
    if (kvw_done_decode(&done, bytes, n) == KVW_OK)
        same(bytes, n, kvw_done_encode(again, &done));
    chunk(bytes, n);
    return 0;
}
