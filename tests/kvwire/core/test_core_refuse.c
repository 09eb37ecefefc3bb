/* SPDX-License-Identifier: Apache-2.0 */
/* What doesn't fit is refused on both sides, and the reason names the field. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "cores.h"

#define TOKENS 40u

static struct t_cores c;
static const uint32_t blocks[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9};

/* Node 0 receives, nodes 1 .. send; all have the same dense pool until a test changes it. */
static void begin(uint32_t nodes)
{
    t_cores_init(&c, nodes, 1);
    for (uint32_t i = 0; i < nodes; ++i)
        t_state_dense(&c.node[i].state, 3, 4, 64, KVW_DTYPE_BF16, 16, 10);
}

static void go_with(uint32_t stranger)
{
    for (uint32_t i = 0; i < c.count; ++i) {
        t_state_make(&c.node[i].state);
        c.node[i].state.desc.fingerprint[3] ^= i == stranger;
        t_core_open(&c, i, NULL);
        t_core_add_pool(&c, i);
    }
    for (uint32_t i = 1; i < c.count; ++i)
        t_core_join(&c, i, 0);
}

static void go(void)
{
    go_with(T_CORES_MAX);
}

static kvw_err try_offer(uint32_t tokens, uint32_t group, kvw_xfer_ref *xfer, char why[257])
{
    const struct t_group *g = &c.node[0].state.groups[group];
    const bool row = g->kind == KVW_GROUP_ROW;
    const struct kvw_group_blocks b = {group, row ? 1 : 10, blocks, 0, 0, row ? 0 : tokens};
    kvw_peer_id sources[T_CORES_MAX];
    const struct kvw_offer_args args = {.size = sizeof(args),
                                        .pool = c.node[0].pool,
                                        .key = kvw_key_of("x"),
                                        .tokens = tokens,
                                        .group_count = 1,
                                        .groups = &b,
                                        .sources = sources,
                                        .source_count = c.count - 1};

    for (uint32_t i = 1; i < c.count; ++i)
        sources[i - 1] = t_core_peer(&c, 0, i);
    why[0] = '\0';
    return kvw_core_offer(c.node[0].core, &args, t_cores_now(&c), xfer, why, 257);
}

static void stream(uint32_t at, uint32_t tokens, uint32_t token_first, kvw_xfer_ref *xfer)
{
    const struct kvw_group_blocks b = {0, 5, blocks, token_first, 0, 0};
    const struct kvw_stream_args args = {.size = sizeof(args),
                                         .pool = c.node[at].pool,
                                         .key = kvw_key_of("x"),
                                         .tokens = tokens,
                                         .group_count = 1,
                                         .groups = &b};
    char why[257] = "";

    cr_assert_eq(kvw_core_stream(c.node[at].core, &args, t_cores_now(&c), xfer, why, 257), KVW_OK,
                 "%s", why);
}

/* The offer is refused here at once, with a sentence that has these words. */
static void expect_mismatch(uint32_t group, const char *word, const char *another)
{
    kvw_xfer_ref xfer;
    char why[257];
    const kvw_err err = try_offer(TOKENS, group, &xfer, why);

    cr_expect_eq(err, KVW_E_MISMATCH, "%d: %s", err, why);
    cr_expect(strstr(why, word) != NULL && strstr(why, another) != NULL, "%s in \"%s\"", word, why);
    cr_expect_eq(c.node[0].pools, c.count - 1);
    t_cores_run(&c, 10 * T_MS);
    cr_expect_eq(c.node[0].dones, 0);
    cr_expect_eq(c.node[1].offered, 0, "the peer has heard of it");
    t_cores_end(&c);
}

/* What an offer would be refused for is known once the peer has told its pool. */
static kvw_err fits(uint32_t at, uint32_t of, char why[257])
{
    why[0] = '\0';
    return kvw_core_peer_fits(c.node[at].core, t_core_peer(&c, at, of), c.node[at].pool, why, 257);
}

Test(core_refuse, whether_a_peer_fits)
{
    char why[257];

    begin(4);
    c.node[2].state.groups[0].parts[1].dtype = KVW_DTYPE_F16;
    c.node[3].state.groups[0].layer_count = 2; /* another shard has the last */
    go_with(1);
    t_cores_run(&c, T_MS);
    cr_expect_eq(c.node[0].pools, 3);
    cr_expect_eq(c.node[1].pools, 1);
    cr_expect_eq(c.node[1].last_pool_of.value, t_core_peer(&c, 1, 0).value);
    cr_expect_eq(fits(0, 1, why), KVW_E_MISMATCH);
    cr_expect_not_null(strstr(why, "fingerprint"), "%s", why);
    cr_expect_eq(fits(0, 2, why), KVW_E_MISMATCH);
    cr_expect(strstr(why, "dtype") != NULL && strstr(why, "\"v\"") != NULL, "%s", why);
    cr_expect_eq(fits(2, 0, why), KVW_E_MISMATCH);
    cr_expect_eq(fits(0, 3, why), KVW_OK, "%s", why);
    cr_expect_eq(fits(3, 0, why), KVW_OK, "%s", why);
    cr_expect_eq(kvw_core_peer_fits(c.node[0].core, (kvw_peer_id){999}, c.node[0].pool, NULL, 0),
                 KVW_E_NOTFOUND);
    cr_expect_eq(kvw_core_peer_fits(c.node[0].core, t_core_peer(&c, 0, 1), (kvw_pool_id){99}, why,
                                    sizeof(why)),
                 KVW_E_NOTFOUND);
    cr_assert_eq(kvw_core_pool_remove(c.node[3].core, c.node[3].pool, t_cores_now(&c)), KVW_OK);
    t_cores_run(&c, T_MS);
    cr_expect_eq(fits(0, 3, why), KVW_E_AGAIN);
    cr_expect_str_eq(why, "it has told no pool yet");
    t_cores_end(&c);
}

Test(core_refuse, fields_of_a_part)
{
    static const struct {
        const char *field;
        uint32_t dtype, row_bytes, rows;
    } rows[] = {{"dtype", KVW_DTYPE_F16, 64, 4},
                {"row_bytes", KVW_DTYPE_BF16, 128, 4},
                {"rows_model", KVW_DTYPE_BF16, 64, 8}};

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); ++i) {
        struct t_part *p;

        begin(2);
        p = &c.node[1].state.groups[0].parts[1];
        *p = (struct t_part){"v", rows[i].dtype, rows[i].row_bytes, rows[i].rows, 0, 4};
        go();
        expect_mismatch(0, rows[i].field, "\"v\"");
    }
}

Test(core_refuse, fields_of_a_group)
{
    begin(2);
    c.node[1].state.groups[0].entry_tokens = 4;
    go();
    expect_mismatch(0, "entry_tokens", "here 1, peer 4");

    begin(2);
    for (uint32_t i = 0; i < 2; ++i) {
        c.node[i].state.groups[0].kind = KVW_GROUP_WINDOW;
        c.node[i].state.groups[0].window_tokens = 32 + 32 * i;
    }
    go();
    expect_mismatch(0, "window_tokens", "here 32, peer 64");

    begin(2);
    c.node[1].state.groups[0].kind = KVW_GROUP_WINDOW;
    c.node[1].state.groups[0].window_tokens = 64;
    go();
    expect_mismatch(0, "kind", "here 1, peer 2");
}

Test(core_refuse, what_no_source_holds)
{
    begin(2);
    c.node[1].state.groups[0].layer_count = 2; /* layer 2 is another shard's */
    go();
    expect_mismatch(0, "no source holds", "layer 2");

    begin(2);
    c.node[1].state.groups[0].parts[0].rows_here = 3;
    go();
    expect_mismatch(0, "rows 3 to 3", "\"k\"");

    begin(2);
    c.node[1].state.groups[0].parts[1].name = "w";
    go();
    expect_mismatch(0, "no source holds", "\"v\"");

    begin(3); /* two ranks, and a row between them that neither holds */
    c.node[1].state.groups[0].parts[0].rows_here = 1;
    c.node[2].state.groups[0].parts[0].rows_here = 2;
    c.node[2].state.groups[0].parts[0].row_first = 2;
    go();
    expect_mismatch(0, "rows 1 to 1", "\"k\"");
}

/* A peer that has told no pool of the same weights may still tell one: the offer waits for it, and
 * ends when its time to be taken up has passed. */
Test(core_refuse, fingerprint)
{
    kvw_xfer_ref xfer;
    char why[257];

    begin(2);
    t_state_make(&c.node[0].state);
    t_state_make(&c.node[1].state);
    c.node[1].state.desc.fingerprint[3] ^= 1;
    for (uint32_t i = 0; i < 2; ++i) {
        t_core_open(&c, i, NULL);
        t_core_add_pool(&c, i);
    }
    t_core_join(&c, 1, 0);
    cr_assert_eq(try_offer(TOKENS, 0, &xfer, why), KVW_OK);
    t_cores_run(&c, 9 * T_S);
    cr_assert_null(t_core_done(&c.node[0], xfer));
    t_cores_run(&c, 2 * T_S);
    t_core_expect_done(&c.node[0], xfer, KVW_E_DEADLINE);
    cr_expect(strstr(t_core_done(&c.node[0], xfer)->text, "fingerprint") != NULL, "%s",
              t_core_done(&c.node[0], xfer)->text);
    t_cores_end(&c);
}

/* Both sides end with the same sentence, within a round trip. */
static void expect_end(kvw_xfer_ref r, kvw_xfer_ref s, kvw_err err, const char *words)
{
    t_cores_run(&c, T_MS);
    t_core_expect_done(&c.node[0], r, err);
    t_core_expect_done(&c.node[1], s, err);
    cr_expect(strstr(t_core_done(&c.node[0], r)->text, words) != NULL, "%s",
              t_core_done(&c.node[0], r)->text);
    cr_expect_str_eq(t_core_done(&c.node[0], r)->text, t_core_done(&c.node[1], s)->text);
    t_cores_end(&c);
}

Test(core_refuse, tokens_differ)
{
    kvw_xfer_ref r, s;
    char why[257];

    begin(2);
    go();
    cr_assert_eq(try_offer(TOKENS, 0, &r, why), KVW_OK);
    stream(1, TOKENS + 1, 0, &s);
    expect_end(r, s, KVW_E_MISMATCH, "40 tokens, the stream has 41");
}

Test(core_refuse, the_streams_blocks_begin_too_late)
{
    kvw_xfer_ref r, s;
    char why[257];

    begin(2);
    go();
    cr_assert_eq(try_offer(TOKENS, 0, &r, why), KVW_OK);
    stream(1, TOKENS, 16, &s);
    expect_end(r, s, KVW_E_MISMATCH, "don't hold tokens 0 to 39");
}

Test(core_refuse, arguments_of_an_offer)
{
    struct t_group *g;
    kvw_xfer_ref x, y;
    char why[257];

    begin(2);
    g = &c.node[0].state.groups[0];
    go();
    cr_expect_eq(try_offer(0, 0, &x, why), KVW_E_INVALID);
    cr_expect(strstr(why, "tokens is 0") != NULL, "%s", why);
    cr_expect_eq(try_offer(161, 0, &x, why), KVW_E_INVALID);
    cr_expect(strstr(why, "the blocks don't hold them") != NULL, "%s", why);
    g->kind = KVW_GROUP_PAGED;
    cr_expect_eq(try_offer(10, 1, &x, why), KVW_E_INVALID);
    cr_expect(strstr(why, "groups[0].group is 1") != NULL, "%s", why);
    cr_assert_eq(try_offer(160, 0, &x, why), KVW_OK);
    cr_expect_eq(try_offer(160, 0, &y, why), KVW_E_INVALID);
    cr_expect(strstr(why, "this key is open") != NULL, "%s", why);
    t_cores_end(&c);
}
