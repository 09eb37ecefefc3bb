/* SPDX-License-Identifier: Apache-2.0 */
/* Only a granted slot that hasn't landed may be written, inside its bounds, and the limit follows
 * the lowest put that isn't processed. */
#include <criterion/criterion.h>

#include "../../kvwire/window.h"
#include "../../kvwire/wire.h"
#include "kv.h"

#define SLOTS      5u
#define SLOT_BYTES 4160u

static uint8_t state[SLOTS];
static uint16_t queue[SLOTS];
static uint32_t bytes[SLOTS];

static struct kvw_window window(void)
{
    struct kvw_window w = {
        .state = state, .queue = queue, .bytes = bytes, .slots = SLOTS, .slot_bytes = SLOT_BYTES};

    kvw_window_reset(&w);
    return w;
}

Test(window, bounds)
{
    struct kvw_window w = window();

    cr_expect_not(kvw_window_allows(&w, 0, 100, 0), "nothing was granted yet");
    w.told = kvw_window_limit(&w);
    cr_expect_eq(w.told, SLOTS);
    cr_expect(kvw_window_allows(&w, 0, 100, 0));
    cr_expect(kvw_window_allows(&w, 4 * SLOT_BYTES, SLOT_BYTES, 4));
    cr_expect(kvw_window_allows(&w, 0, KVW_CHUNK_HDR_BYTES, 0));
    cr_expect_not(kvw_window_allows(&w, 0, KVW_CHUNK_HDR_BYTES - 1, 0), "shorter than a header");
    cr_expect_not(kvw_window_allows(&w, 0, SLOT_BYTES + 1, 0), "longer than a slot");
    cr_expect_not(kvw_window_allows(&w, 64, 100, 0), "not at the slot's start");
    cr_expect_not(kvw_window_allows(&w, SLOT_BYTES, 100, 0), "another slot");
    cr_expect_not(kvw_window_allows(&w, 0, 100, SLOTS), "beyond the limit");
    cr_expect_not(kvw_window_allows(&w, 0, 100, UINT32_MAX), "before the first");
    cr_assert_eq(kvw_window_land(&w, 0, 100, 0), KVW_OK);
    cr_expect_not(kvw_window_allows(&w, 0, 100, 0), "landed already");
    cr_expect_eq(kvw_window_land(&w, 0, 100, 0), KVW_E_PROTOCOL);
}

/* Puts land in any order; imm wraps at 2^32 and the window doesn't notice. */
Test(window, any_order_across_the_wrap)
{
    struct kvw_window w = window();
    uint64_t random = 7, landed = 0, processed = 0;
    bool in[SLOTS] = {false};

    w.lowest = w.told = (1ull << 32) - 40;
    w.lowest -= w.lowest % SLOTS;
    w.told = w.lowest;
    for (uint32_t i = 0; i < 2000; ++i) {
        const uint64_t seq = w.lowest + t_below(&random, SLOTS);
        uint32_t slot;

        w.told = kvw_window_limit(&w);
        if (t_below(&random, 2) == 0) {
            if (kvw_window_land(&w, seq % SLOTS * SLOT_BYTES, 64 + i, (uint32_t)seq) == KVW_OK) {
                cr_assert_not(in[seq % SLOTS]);
                in[seq % SLOTS] = true;
                ++landed;
            }
        } else if (kvw_window_peek(&w, &slot)) {
            const uint64_t of = kvw_window_seq(&w, slot);

            cr_assert_eq(of % SLOTS, slot);
            cr_assert(of >= w.lowest && of < w.told);
            kvw_window_pop(&w);
            ++processed;
            for (uint32_t k = 0; k < SLOTS; ++k) /* what is granted again may land again */
                in[k] = state[k] != KVW_SLOT_GRANTED;
        }
    }
    cr_expect_gt(w.lowest, 1ull << 32);
    cr_expect_eq(landed, processed + w.queue_count);
}
