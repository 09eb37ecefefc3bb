/* SPDX-License-Identifier: Apache-2.0 */
/* The link moves marks to its session and outcomes back: a transfer's end is told once, a refusal
 * goes to the peer, and a peer that never comes ends the link with a sentence. */
#include <criterion/criterion.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "../../../engine/serve/clock.h"
#include "../../../engine/model/kvcache.h"
#include "../../../engine/serve/link.h"

enum {
    LAYERS = 3,
    TOKENS = 40,
    BLOCKS = 3, /* of 16 */
};

static struct kve_kvcache caches[2];
static struct kve_link *decode, *prefill;
static uint32_t ids[2][BLOCKS];
static uint8_t prefill_model = 1;

static kvw_err open_one(struct kve_link **link, const char *net, const char *local,
                        uint64_t timeout_ns)
{
    const bool sender = link == &prefill;
    struct kve_kvcache *kv = &caches[sender];
    const struct kve_link_config cfg = {
        .net = net,
        .local = local,
        .open_timeout_ns = timeout_ns,
        .sender = sender,
        .fingerprint = {sender ? prefill_model : 1},
        .model_name = sender && prefill_model != 1 ? "another toy" : "toy",
        .pool = kv->pool,
    };

    return kve_link_open(link, &cfg);
}

static void open_caches(void)
{
    for (int i = 0; i < 2; ++i) {
        cr_assert_eq(kve_kvcache_open(&caches[i], LAYERS, 2, 8, 16, 8), KVW_OK);
        cr_assert_eq(kve_kvcache_alloc(&caches[i], BLOCKS, ids[i]), KVW_OK);
        memset(caches[i].pool.mem.base, i != 0 ? 0x3c : 0, caches[i].pool.mem.bytes);
    }
}

static void close_all(void)
{
    cr_expect(kve_link_close(prefill));
    cr_expect(kve_link_close(decode));
    kve_kvcache_close(&caches[0]);
    kve_kvcache_close(&caches[1]);
}

TestSuite(link, .init = open_caches, .fini = close_all, .timeout = 60);

static void wait_state(struct kve_link *l, kve_link_state want, char *text)
{
    const uint64_t until = kve_now_ns() + 20 * KVE_S;

    while (kve_link_state_now(l, text) != want) {
        cr_assert_lt(kve_now_ns(), until, "state %d", kve_link_state_now(l, NULL));
        poll(&(struct pollfd){.fd = kve_link_notify_fd(l), .events = POLLIN}, 1, 500);
    }
}

static void open_pair(void)
{
    cr_assert_eq(open_one(&decode, "loop", "test_link", 20 * KVE_S), KVW_OK);
    cr_assert_eq(open_one(&prefill, "loop", "test_link", 20 * KVE_S), KVW_OK);
    wait_state(decode, KVE_LINK_UP, NULL);
    wait_state(prefill, KVE_LINK_UP, NULL);
    cr_expect_eq(kve_link_peers(decode), 1);
}

static kvw_err offer(struct kve_xfer *x, uint64_t id)
{
    const struct kve_blocks blocks = {.ids = ids[0], .count = BLOCKS, .tokens = TOKENS};
    const struct kvw_offer_terms terms = {.size = sizeof(terms), .lease_ns = 20 * KVE_S};

    *x = (struct kve_xfer){.id = id};
    return kve_link_offer(decode, x, &blocks, &terms);
}

static kvw_err stream(struct kve_xfer *x, uint64_t id)
{
    const struct kve_blocks blocks = {.ids = ids[1], .count = BLOCKS, .tokens = TOKENS};
    const uint64_t by = kve_now_ns() + 20 * KVE_S;

    *x = (struct kve_xfer){.id = id};
    return kve_link_stream(prefill, x, &blocks, by, by);
}

static void wait_done(struct kve_link *l, const struct kve_xfer *x)
{
    cr_assert(kve_link_wait(l, x, kve_now_ns() + 10 * KVE_S), "it never ended");
    cr_expect(kve_link_done(l, x));
}

static void transfer(struct kve_xfer *in, struct kve_xfer *out)
{
    for (uint32_t l = 0; l < LAYERS; ++l)
        kve_link_push(prefill, out, l, TOKENS);
    kve_link_commit(prefill, out, "note", 4);
    wait_done(prefill, out);
    wait_done(decode, in);
    cr_expect_eq(out->err, KVW_OK, "%s", out->text);
    cr_expect_eq(in->err, KVW_OK, "%s", in->text);
}

Test(link, a_transfer_arrives_with_its_note_and_its_numbers)
{
    struct kve_xfer in, out;

    open_pair();
    cr_assert_eq(offer(&in, 5), KVW_OK);
    cr_assert_eq(stream(&out, 5), KVW_OK);
    transfer(&in, &out);
    cr_expect(in.note_bytes == 4 && memcmp(in.note, "note", 4) == 0);
    cr_expect_eq(in.raw_bytes, (uint64_t)LAYERS * TOKENS * 2 * 2 * 8 * 2);
    cr_expect_geq(in.chunks, LAYERS);
    for (uint32_t l = 0; l < LAYERS; ++l)
        cr_expect(in.layer_ns[l] != 0 && out.layer_ns[l] != 0);
}

Test(link, a_mark_for_what_has_ended_does_not_touch_the_next_of_its_id)
{
    struct kve_xfer in, old, out;

    open_pair();
    cr_assert_eq(offer(&in, 5), KVW_OK);
    cr_assert_eq(stream(&old, 5), KVW_OK);
    transfer(&in, &old);
    cr_assert_eq(stream(&out, 5), KVW_OK, "the id is free again");
    kve_link_abort(prefill, &old, "late");
    kve_link_push(prefill, &old, LAYERS, TOKENS);
    cr_assert_eq(offer(&in, 5), KVW_OK);
    transfer(&in, &out);
}

Test(link, an_abort_is_told_to_the_peer_with_its_reason)
{
    struct kve_xfer in, out;

    open_pair();
    cr_assert_eq(offer(&in, 5), KVW_OK);
    cr_assert_eq(stream(&out, 5), KVW_OK);
    kve_link_push(prefill, &out, 0, TOKENS);
    kve_link_abort(prefill, &out, "the cook left");
    wait_done(prefill, &out);
    wait_done(decode, &in);
    cr_expect_neq(in.err, KVW_OK);
    cr_expect(strstr(in.text, "the cook left") != NULL, "%s", in.text);
}

Test(link, a_refusal_ends_the_peers_offer)
{
    struct kve_xfer in;

    open_pair();
    cr_assert_eq(offer(&in, 7), KVW_OK);
    usleep(200 * 1000); /* it is there */
    kve_link_decline(prefill, "", 7, KVW_E_NOBLOCKS, "no room here");
    wait_done(decode, &in);
    cr_expect_eq(in.err, KVW_E_NOBLOCKS);
    cr_expect(strstr(in.text, "no room here") != NULL, "%s", in.text);
    kve_link_decline(prefill, "", 8, KVW_E_NOBLOCKS, "nobody asked"); /* and nothing happens */
    cr_expect_eq(kve_link_state_now(prefill, NULL), KVE_LINK_UP);
}

Test(link, a_mark_that_is_out_of_range_ends_the_transfer)
{
    struct kve_xfer in, out;

    open_pair();
    cr_assert_eq(offer(&in, 5), KVW_OK);
    cr_assert_eq(stream(&out, 5), KVW_OK);
    kve_link_push(prefill, &out, LAYERS, TOKENS);
    wait_done(prefill, &out);
    cr_expect_neq(out.err, KVW_OK);
    cr_expect(strstr(out.text, "push") != NULL, "%s", out.text);
    wait_done(decode, &in);
}

Test(link, nothing_is_opened_without_a_peer)
{
    struct kve_xfer in;

    cr_assert_eq(open_one(&decode, "loop", "test_link", 20 * KVE_S), KVW_OK);
    wait_state(decode, KVE_LINK_WAITING, NULL);
    cr_expect_eq(offer(&in, 5), KVW_E_PEER_LOST);
    kve_link_decline(decode, "", 5, KVW_E_NOBLOCKS, "nobody hears it");
}

Test(link, a_peer_that_never_comes_ends_it_in_time)
{
    static const char *const nets[][2] = {{"loop", "test_link"}, {"udp", "127.0.0.1:0"}};

    for (int i = 0; i < 2; ++i) {
        const uint64_t start = kve_now_ns();
        char text[KVW_TEXT_BYTES_MAX + 1];

        cr_assert_eq(open_one(&decode, nets[i][0], nets[i][1], 400 * KVE_MS), KVW_OK);
        wait_state(decode, KVE_LINK_FAILED, text);
        cr_expect_geq(kve_now_ns() - start, 400 * KVE_MS);
        cr_expect_lt(kve_now_ns() - start, 10 * KVE_S);
        cr_expect_eq(kve_link_error(decode), KVW_E_DEADLINE);
        cr_expect(strstr(text, "no peer came within 0.4 s") != NULL &&
                      strstr(text, nets[i][1]) != NULL,
                  "%s", text);
        cr_expect(kve_link_close(decode));
        decode = NULL;
    }
}

Test(link, a_peer_that_came_once_may_stay_away)
{
    open_pair();
    cr_expect(kve_link_close(prefill));
    prefill = NULL;
    wait_state(decode, KVE_LINK_WAITING, NULL);
    cr_assert_eq(open_one(&prefill, "loop", "test_link", 20 * KVE_S), KVW_OK);
    wait_state(decode, KVE_LINK_UP, NULL);
    cr_expect_eq(kve_link_peers(decode), 2);
}

Test(link, an_offer_ends_with_the_peer_that_it_was_made_to)
{
    struct kve_xfer in;

    for (uint64_t i = 0; i < 40; ++i) { /* whether it had gone out or not; the lease is 20 s */
        open_pair();
        kvw_err err = offer(&in, 5 + i);
        cr_assert_eq(err, KVW_OK, "%d", err);
        cr_expect(kve_link_close(prefill));
        prefill = NULL;
        wait_done(decode, &in);
        cr_expect(in.err == KVW_E_PEER_LOST || in.err == KVW_E_CANCELED, "%d", in.err);
        cr_expect_neq(in.text[0], '\0');
        cr_expect(kve_link_close(decode));
        decode = NULL;
    }
}

/* The node would keep it for the next peer. */
Test(link, a_stream_without_an_offer_ends_with_the_peer)
{
    struct kve_xfer out;

    open_pair();
    cr_assert_eq(stream(&out, 5), KVW_OK);
    cr_expect(kve_link_close(decode));
    decode = NULL;
    wait_done(prefill, &out);
    cr_expect_eq(out.err, KVW_E_PEER_LOST, "%d: %s", out.err, out.text);
}

/* A prefill of another model has no other peer to hope for; a decode may get another one. */
Test(link, another_model_is_refused_by_name)
{
    char text[KVW_TEXT_BYTES_MAX + 1];
    struct kve_xfer in;

    prefill_model = 2;
    cr_assert_eq(open_one(&decode, "loop", "test_link", 20 * KVE_S), KVW_OK);
    cr_assert_eq(open_one(&prefill, "loop", "test_link", 20 * KVE_S), KVW_OK);
    wait_state(prefill, KVE_LINK_FAILED, text);
    cr_expect_str_eq(text, "fingerprint differs: here another toy, peer toy");
    cr_expect_eq(kve_link_error(prefill), KVW_E_MISMATCH);
    cr_expect(kve_link_close(prefill));
    prefill = NULL;
    wait_state(decode, KVE_LINK_WAITING, text);
    cr_expect_eq(kve_link_peers(decode), 0);
    cr_expect_eq(offer(&in, 5), KVW_E_PEER_LOST);
    prefill_model = 1;
    cr_assert_eq(open_one(&prefill, "loop", "test_link", 20 * KVE_S), KVW_OK);
    wait_state(decode, KVE_LINK_UP, NULL);
    cr_expect_eq(kve_link_peers(decode), 1);
}

Test(link, a_transport_that_cant_be_opened_says_why)
{
    char text[KVW_TEXT_BYTES_MAX + 1];

    cr_assert_eq(open_one(&decode, "udp", "nowhere", KVE_S), KVW_OK);
    wait_state(decode, KVE_LINK_FAILED, text);
    cr_expect(strstr(text, "nowhere") != NULL, "%s", text);
}
