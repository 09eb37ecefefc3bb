/* SPDX-License-Identifier: Apache-2.0 */
/* Every message survives the wire, no prefix of one is taken for it, and every field is held to its
 * range. The bytes themselves: test_golden.c. */
#include <criterion/criterion.h>
#include <string.h>

#include "../../kvwire/le.h"
#include "../../kvwire/msg.h"

static uint8_t wire[KVW_MSG_BYTES_MAX + 8];

static struct kvw_hello hello(void)
{
    struct kvw_hello h = {.role = KVW_ROLE_RECEIVER,
                          .shape = {30, 3, 64, 16, KVW_DTYPE_BF16},
                          .codecs = 0x0e,
                          .digests = 0x02,
                          .slots = 32,
                          .slot_bytes = 262208,
                          .xfers_max = 16,
                          .name = "SmolLM2-135M-Instruct Q4_1"};

    for (int i = 0; i < 16; ++i)
        h.fingerprint[i] = (uint8_t)(0x10 + i);
    for (int i = 0; i < 32; ++i)
        h.region.bytes[i] = (uint8_t)(0x80 + i);
    return h;
}

Test(msg, hello)
{
    const struct kvw_hello in = hello();
    const uint32_t n = kvw_hello_encode(wire, &in);
    struct kvw_hello out = {.slots = 77};
    uint32_t version = 0;

    for (uint32_t i = 0; i < n; ++i)
        cr_expect_eq(kvw_hello_decode(&out, wire, i), KVW_E_TRUNCATED, "%u", i);
    cr_expect_eq(out.slots, 77, "written on failure");
    cr_assert_eq(kvw_hello_decode(&out, wire, n), KVW_OK);
    cr_expect_eq(memcmp(&in, &out, sizeof(in)), 0);
    cr_expect_eq(kvw_hello_decode(&out, wire, n + 8), KVW_OK, "what follows the name is ignored");
    kvw_store_le32(wire + 8, 2);
    cr_expect_eq(kvw_hello_decode(&out, wire, n), KVW_E_VERSION);
    cr_expect_eq(kvw_hello_front(wire, KVW_HELLO_FRONT, &version), KVW_OK);
    cr_expect_eq(version, 2);
    wire[4] ^= 1;
    cr_expect_eq(kvw_hello_front(wire, n, &version), KVW_E_PROTOCOL);
}

Test(msg, hello_cleans_the_name)
{
    struct kvw_hello in = hello(), out;
    uint32_t n;

    strcpy(in.name, "a\x1b[31m\xc3\xa9");
    n = kvw_hello_encode(wire, &in);
    cr_assert_eq(kvw_hello_decode(&out, wire, n), KVW_OK);
    cr_expect_str_eq(out.name, "a?[31m??");
}

/* One byte of a HELLO set to a value; what the decoder says. */
struct poke {
    uint32_t at, value;
    uint32_t width;
};

Test(msg, hello_out_of_range)
{
    static const struct poke bad[] = {
        {12, 0, 1},  {12, 3, 1},    {13, 0, 1},  {13, 6, 1},      {14, 0, 2},       {14, 513, 2},
        {16, 0, 2},  {16, 1025, 2}, {18, 0, 2},  {18, 1025, 2},   {20, 0, 4},       {20, 1025, 4},
        {40, 0, 4},  {40, 257, 4},  {44, 64, 4}, {44, 262209, 4}, {44, 1 << 21, 4}, {48, 0, 4},
        {48, 65, 4}, {52, 1, 1},    {105, 1, 1}, {104, 64, 1},
    };
    const struct kvw_hello in = hello();
    struct kvw_hello out;

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); ++i) {
        const uint32_t n = kvw_hello_encode(wire, &in);

        for (uint32_t b = 0; b < bad[i].width; ++b)
            wire[bad[i].at + b] = (uint8_t)(bad[i].value >> 8 * b);
        cr_expect_eq(kvw_hello_decode(&out, wire, n + 64), KVW_E_PROTOCOL, "at %u value %u",
                     bad[i].at, bad[i].value);
    }
}

Test(msg, reject)
{
    struct kvw_reject in = {KVW_E_MISMATCH, 1, "head dimension differs: here 64, peer 128"}, out;
    const uint32_t n = kvw_reject_encode(wire, &in);

    for (uint32_t i = 0; i < n; ++i)
        cr_expect_eq(kvw_reject_decode(&out, wire, i), KVW_E_TRUNCATED);
    cr_assert_eq(kvw_reject_decode(&out, wire, n + 5), KVW_OK); /* a later version may say more */
    cr_expect_eq(out.err, in.err);
    cr_expect_eq(out.version, 1);
    cr_expect_str_eq(out.text, in.text);
    kvw_store_le32(wire + 4, 0);
    cr_expect_eq(kvw_reject_decode(&out, wire, n), KVW_E_PROTOCOL, "KVW_OK refuses nothing");
}

Test(msg, offer)
{
    const struct kvw_offer_msg in = {.xfer = 42,
                                     .epoch = 5,
                                     .tokens = KVW_XFER_TOKENS_MAX,
                                     .lease_ns = KVW_LEASE_NS_DEFAULT,
                                     .budget = KVW_BUDGET_E4,
                                     .exact_first = 255,
                                     .exact_last = 65535};
    const uint32_t n = kvw_offer_encode(wire, &in);
    struct kvw_offer_msg out;

    for (uint32_t i = 0; i < n; ++i)
        cr_expect_eq(kvw_offer_decode(&out, wire, i), KVW_E_TRUNCATED);
    cr_expect_eq(kvw_offer_decode(&out, wire, n + 1), KVW_E_PROTOCOL);
    cr_assert_eq(kvw_offer_decode(&out, wire, n), KVW_OK);
    cr_expect_eq(out.xfer, 42);
    cr_expect_eq(out.epoch, 5);
    cr_expect_eq(out.tokens, in.tokens);
    cr_expect_eq(out.lease_ns, in.lease_ns);
    cr_expect_eq(out.budget, KVW_BUDGET_E4);
    cr_expect_eq(out.exact_first, 255);
    cr_expect_eq(out.exact_last, 65535);
}

Test(msg, offer_out_of_range)
{
    static const struct poke bad[] = {
        {1, 1, 1},           {2, 1, 1},     {3, 1, 1},    {4, 0, 4},
        {16, 9999999, 4},    {20, 1000, 4}, {24, 0, 4},   {24, (1 << 22) + 1, 4},
        {24, 0xffffffff, 4}, {28, 3, 1},    {28, 255, 1},
    };
    const struct kvw_offer_msg in = {
        .xfer = 1, .epoch = 1, .tokens = 112, .lease_ns = KVW_LEASE_NS_MIN};
    struct kvw_offer_msg out;

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); ++i) {
        const uint32_t n = kvw_offer_encode(wire, &in);

        cr_assert_eq(kvw_offer_decode(&out, wire, n), KVW_OK);
        for (uint32_t b = 0; b < bad[i].width; ++b)
            wire[bad[i].at + b] = (uint8_t)(bad[i].value >> 8 * b);
        cr_expect_eq(kvw_offer_decode(&out, wire, n), KVW_E_PROTOCOL, "at %u value %u", bad[i].at,
                     bad[i].value);
    }
}

Test(msg, grant_renew_done)
{
    const struct kvw_xfer_msg x = {0x0102030405060708, 0x11121314};
    const struct kvw_done_msg d = {x, 1234, 1ull << 40};
    struct kvw_xfer_msg x_out;
    struct kvw_done_msg d_out;
    const struct kvw_grant g = {.limit = 1ull << 50, .codec = 4, .decode_ps = 70};
    struct kvw_grant g_out;
    uint32_t n = kvw_grant_encode(wire, &g);

    for (uint32_t i = 0; i < n; ++i)
        cr_expect_eq(kvw_grant_decode(&g_out, wire, i), KVW_E_TRUNCATED);
    cr_expect_eq(kvw_grant_decode(&g_out, wire, n + 1), KVW_E_PROTOCOL);
    cr_assert_eq(kvw_grant_decode(&g_out, wire, n), KVW_OK);
    cr_expect(g_out.limit == g.limit && g_out.codec == 4 && g_out.decode_ps == 70);

    n = kvw_renew_encode(wire, &x);
    for (uint32_t i = 0; i < n; ++i)
        cr_expect_eq(kvw_renew_decode(&x_out, wire, i), KVW_E_TRUNCATED);
    cr_assert_eq(kvw_renew_decode(&x_out, wire, n), KVW_OK);
    cr_expect(x_out.xfer == x.xfer && x_out.epoch == x.epoch);
    kvw_store_le32(wire + 4, 0);
    cr_expect_eq(kvw_renew_decode(&x_out, wire, n), KVW_E_PROTOCOL, "epoch 0");

    n = kvw_done_encode(wire, &d);
    for (uint32_t i = 0; i < n; ++i)
        cr_expect_eq(kvw_done_decode(&d_out, wire, i), KVW_E_TRUNCATED);
    cr_assert_eq(kvw_done_decode(&d_out, wire, n), KVW_OK);
    cr_expect(d_out.x.xfer == x.xfer && d_out.x.epoch == x.epoch && d_out.chunks == 1234 &&
              d_out.raw_bytes == 1ull << 40);
}

Test(msg, commit_and_abort)
{
    static uint8_t note[KVW_COMMIT_NOTE_MAX] = "first token";
    const struct kvw_commit_msg c = {{9, 8}, 77, 1ull << 33, note, sizeof(note)};
    struct kvw_abort_msg a = {{9, 0}, KVW_E_NOBLOCKS, "no blocks\n"}, a_out;
    struct kvw_commit_msg c_out;
    uint32_t n = kvw_commit_encode(wire, &c);

    for (uint32_t i = 0; i < n; ++i)
        cr_expect_eq(kvw_commit_decode(&c_out, wire, i), KVW_E_TRUNCATED);
    cr_assert_eq(kvw_commit_decode(&c_out, wire, n), KVW_OK);
    cr_expect(c_out.x.xfer == 9 && c_out.x.epoch == 8 && c_out.chunks == 77 &&
              c_out.raw_bytes == 1ull << 33 && c_out.note_bytes == sizeof(note));
    cr_expect_eq(memcmp(c_out.note, note, sizeof(note)), 0);
    kvw_store_le32(wire + 20, KVW_COMMIT_NOTE_MAX + 1);
    cr_expect_eq(kvw_commit_decode(&c_out, wire, n + 1), KVW_E_PROTOCOL);

    n = kvw_abort_encode(wire, &a);
    for (uint32_t i = 0; i < n; ++i)
        cr_expect_eq(kvw_abort_decode(&a_out, wire, i), KVW_E_TRUNCATED);
    cr_assert_eq(kvw_abort_decode(&a_out, wire, n), KVW_OK);
    cr_expect_eq(a_out.err, KVW_E_NOBLOCKS);
    cr_expect_eq(a_out.x.epoch, 0);
    cr_expect_str_eq(a_out.text, "no blocks?", "control characters of a peer reach no terminal");
    kvw_store_le32(wire + 16, 5);
    cr_expect_eq(kvw_abort_decode(&a_out, wire, n), KVW_E_PROTOCOL);
}
