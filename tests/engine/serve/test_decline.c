/* SPDX-License-Identifier: Apache-2.0 */
/* A worker that refuses, or has no blocks, ends the other worker's part at once, and not when that
 * one's patience (5 s) or lease (2 s) is over. */
#include <criterion/criterion.h>
#include <unistd.h>

#include "../../../engine/serve/clock.h"
#include "../../../engine/serve/link.h"
#include "../../kvwire/kv.h"

static struct kve_link *decode, *prefill;
static struct kvw_pool pool;
static const uint32_t ids[2] = {0, 1};
static const struct kve_blocks blocks = {.ids = ids, .count = 2, .tokens = 20};

static void up(void)
{
    static const struct t_kv_shape shape = {2, 4, 16, 1, 16, KVW_DTYPE_F16, T_KV_NHD_SPLIT};
    struct kve_link_config cfg = {.net = "loop", .local = "link", .open_timeout_ns = KVE_S};

    pool = t_kv_pool(&shape);
    cfg.pool = pool;
    cfg.model_name = "toy";
    cr_assert_eq(kve_link_open(&decode, &cfg), KVW_OK);
    cfg.sender = true;
    cr_assert_eq(kve_link_open(&prefill, &cfg), KVW_OK);
    for (int i = 0; i < 20000; ++i) {
        if (kve_link_state_now(decode, NULL) == KVE_LINK_UP &&
            kve_link_state_now(prefill, NULL) == KVE_LINK_UP)
            return;
        usleep(1000);
    }
    cr_assert_fail("the links don't come up");
}

static void down(void)
{
    kve_link_close(prefill);
    kve_link_close(decode);
    t_kv_free(&pool);
}

TestSuite(decline, .init = up, .fini = down);

static void ends(struct kve_link *l, const struct kve_xfer *x, kvw_err err, const char *text)
{
    /* Its patience is 5 s. */
    cr_assert(kve_link_wait(l, x, kve_now_ns() + 4 * KVE_S), "after 4 s it still waits");
    cr_expect_eq(x->err, err, "%s", kvw_strerror(x->err));
    cr_expect_str_eq(x->text, text);
}

Test(decline, a_decode_without_blocks)
{
    struct kve_xfer early = {.id = 1}, late = {.id = 2};

    cr_assert_eq(kve_link_stream(prefill, &early, &blocks, kve_now_ns() + 5 * KVE_S, 0), KVW_OK);
    kve_link_decline(decode, "", early.id, KVW_E_NOBLOCKS, "no free blocks");
    ends(prefill, &early, KVW_E_NOBLOCKS, "no free blocks");
    kve_link_decline(decode, "", late.id, KVW_E_NOBLOCKS, "no free blocks");
    usleep(20000);
    cr_assert_eq(kve_link_stream(prefill, &late, &blocks, kve_now_ns() + 5 * KVE_S, 0), KVW_OK);
    ends(prefill, &late, KVW_E_NOBLOCKS, "no free blocks");
}

Test(decline, a_prefill_that_refuses)
{
    const struct kvw_offer_terms terms = {.size = sizeof(terms)};
    struct kve_xfer early = {.id = 1}, late = {.id = 2};

    cr_assert_eq(kve_link_offer(decode, &early, &blocks, &terms), KVW_OK);
    kve_link_decline(prefill, "", early.id, KVW_E_INVALID, "the prompt is too long");
    ends(decode, &early, KVW_E_CANCELED, "the prompt is too long");
    kve_link_decline(prefill, "", late.id, KVW_E_INVALID, "the prompt is too long");
    usleep(20000);
    cr_assert_eq(kve_link_offer(decode, &late, &blocks, &terms), KVW_OK);
    ends(decode, &late, KVW_E_CANCELED, "the prompt is too long");
}
