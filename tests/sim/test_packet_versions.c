/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two ends of different releases use the highest version that both speak, and nothing that either
 * doesn't know, or that a stranger says, keeps them from it (SPEC.md 4.3).
 */
#include <criterion/criterion.h>
#include <string.h>

#include "../../net/packet/frame.h"
#include "../../net/packet/versions.h"
#include "pair.h"

#define MS   1000000ull
#define V(n) (1u << (n))

static struct t_pair pair;
static const struct kvn_sim_link clean = {.delay_ns = 20000};
/* An endpoint maps its connections' memory, 118 MiB of it by default, which ASan shadows; here are
 * some thousand endpoints, and four connections each are enough. */
static const struct kvn_packet_config defaults = {.conns_max = 4};

/* What was seen on the wire. */
static uint16_t versions_used; /* of packets that aren't greetings */
static uint16_t hellos, grease, sets_without_own;
static uint32_t resets, source_id; /* of the last HELLO */
static bool tap(void *arg, const struct kvn_sim_sight *sight)
{
    const uint8_t *head = sight->packet->head;
    const uint8_t type = head[0] & 15, version = head[0] >> 4;
    const uint16_t set = (uint16_t)(head[KVN_VERSIONS_AT] | head[KVN_VERSIONS_AT + 1] << 8);

    (void)arg;
    if (type != KVN_PACKET_HELLO && type != KVN_PACKET_HELLO_ACK && type != KVN_PACKET_RESET) {
        versions_used |= (uint16_t)V(version);
        return true;
    }
    if (type == KVN_PACKET_HELLO) {
        hellos |= (uint16_t)V(version);
        memcpy(&source_id, head + KVN_GREETING_BYTES, 4);
    }
    resets += type == KVN_PACKET_RESET;
    grease |= set & KVN_VERSIONS_GREASE;
    sets_without_own += (set >> version & 1) == 0 || (set & KVN_VERSIONS_GREASE) == 0;
    return true;
}

static void meet(uint64_t seed, uint16_t client, uint16_t listener)
{
    versions_used = hellos = 0;
    resets = 0;
    t_pair_versions(0, client);
    t_pair_versions(1, listener);
    t_pair_open(&pair, seed, 8240, &defaults);
    kvn_sim_links(pair.sim, &clean);
    kvn_sim_tap(pair.sim, tap, NULL);
    t_pair_run(&pair, kvn_sim_now(pair.sim) + 5 * MS);
}

static void expect_use(uint8_t version)
{
    cr_assert(pair.side[0].up && pair.side[1].up, "%u", version);
    cr_expect(t_pair_put(&pair, 0, 100000));
    cr_expect(t_pair_message(&pair, 1, 1000));
    t_pair_run(&pair, kvn_sim_now(pair.sim) + 20 * MS);
    cr_expect(t_pair_settled(&pair));
    cr_expect_str_empty(pair.failed, "%s", pair.failed);
    cr_expect_eq(versions_used, V(version), "0x%x", versions_used);
}

/* Every pair of sets out of five versions: the highest common one, after one RESET at most. */
Test(versions, highest_that_both_speak)
{
    static const uint8_t known[] = {1, 2, 7, 11, 15};
    uint64_t seed = 1;

    for (uint32_t a = 1; a < 32; ++a)
        for (uint32_t b = 1; b < 32; ++b) {
            uint16_t ours = 0, theirs = 0;
            uint8_t best = 0;

            for (uint32_t i = 0; i < 5; ++i) {
                ours |= (uint16_t)((a >> i & 1) << known[i]);
                theirs |= (uint16_t)((b >> i & 1) << known[i]);
                if (a & b & V(i))
                    best = known[i];
            }
            meet(seed++, ours, theirs);
            if (best != 0) {
                expect_use(best);
                cr_expect_eq(resets, (uint32_t)(hellos != V(best)), "0x%x 0x%x", ours, theirs);
            } else {
                cr_expect_eq(pair.side[0].downs, 1);
                cr_expect_eq(pair.side[0].down_err, KVW_E_VERSION);
                cr_expect_eq(pair.side[1].ups, 0);
            }
            t_pair_close(&pair);
        }
}

/* Numbers that are no version are in every greeting, both of them in time, and never used. */
Test(versions, what_is_no_version_is_named_and_not_used)
{
    grease = sets_without_own = 0;
    for (uint64_t seed = 1; seed <= 20; ++seed) {
        meet(seed, 0, 0);
        expect_use(KVN_WIRE_VERSION);
        t_pair_close(&pair);
    }
    cr_expect_eq(grease, KVN_VERSIONS_GREASE);
    cr_expect_eq(sets_without_own, 0);
    cr_expect_eq(kvn_versions_choose(UINT16_MAX, KVN_VERSIONS_GREASE, 0), 0);
    cr_expect_eq(kvn_versions_choose(UINT16_MAX, UINT16_MAX, 0), 15);
    cr_expect_eq(kvn_versions_choose(V(1) | V(2), V(1) | V(2), V(2)), 1);
}

/* A port cannot be opened for a number that is no version. */
Test(versions, only_versions_are_spoken)
{
    static const uint16_t wrong[] = {V(0), V(5), V(1) | V(10)};
    struct kvn_sim *const sim = kvn_sim_open(1, 8240);
    char why[KVN_WHY_BYTES];

    for (uint32_t i = 0; i < 3; ++i) {
        const struct kvn_packet_config cfg = {.seed = 1, .versions = wrong[i]};
        struct kvw_transport *t;
        struct kvn_port *port;

        cr_assert_eq(kvn_sim_port_open(&port, sim, 0), KVW_OK);
        cr_expect_eq(kvn_packet_open(&t, port, &cfg, why), KVW_E_INVALID);
        cr_expect_not_null(strstr(why, "versions 0x"), "%s", why);
        port->ops->close(port);
    }
    kvn_sim_close(sim);
}

Test(versions, sets_in_words)
{
    char text[48];

    kvn_versions_format(V(2) | V(5), text, sizeof(text));
    cr_expect_str_eq(text, "2");
    kvn_versions_format(V(1) | V(2) | V(11), text, sizeof(text));
    cr_expect_str_eq(text, "1, 2 and 11");
    kvn_versions_format(KVN_VERSIONS_GREASE, text, sizeof(text));
    cr_expect_str_eq(text, "none");
    kvn_versions_format(UINT16_MAX, text, 10);
    cr_expect_str_eq(text, "1, 2, 3, ");
}

/* --- a stranger who knows the source id and the address --- */

static bool hear(void *arg, const struct kvn_sim_sight *sight)
{
    (void)arg;
    if ((sight->packet->head[0] & 15) == KVN_PACKET_HELLO)
        memcpy(&source_id, sight->packet->head + KVN_GREETING_BYTES, 4);
    return false; /* nothing reaches the listener, so that what it says is ours to make up */
}

/* A packet that comes from the listener's address. What the client's user hears of it
 * is returned. */
static struct kvw_transport_event say(const struct kvn_frame *f, uint32_t padding)
{
    static const uint8_t zeros[2000];
    uint8_t head[KVN_HEAD_BYTES_MAX];
    struct kvn_tx_packet p = {.to = kvn_sim_addr(pair.sim, 0),
                              .head = head,
                              .body = {{zeros, padding}},
                              .body_count = padding > 0};
    struct kvw_transport *const client = pair.side[0].t;
    struct kvw_transport_event ev = {.kind = 0};
    struct kvn_port *port;

    kvn_sim_tap(pair.sim, hear, NULL); /* nor its farewell */
    if (pair.side[1].t != NULL)
        pair.side[1].t->ops->close(pair.side[1].t);
    pair.side[1].t = NULL;
    cr_assert_eq(kvn_sim_port_open(&port, pair.sim, 1), KVW_OK);
    p.head_bytes = kvn_frame_encode(head, f);
    kvn_frame_seal(head, p.head_bytes, p.body, p.body_count, &(struct kvw_iov){0});
    kvn_sim_tap(pair.sim, NULL, NULL);
    cr_assert_eq(port->ops->tx(port, kvn_sim_now(pair.sim), &p, 1), 1);
    kvn_sim_tap(pair.sim, hear, NULL);
    kvn_sim_advance(pair.sim, kvn_sim_now(pair.sim) + MS);
    (void)client->ops->poll(client, kvn_sim_now(pair.sim), &ev, 1);
    port->ops->close(port);
    return ev;
}

static void dial(uint16_t client)
{
    t_pair_versions(0, client);
    t_pair_open(&pair, 1, 8240, &defaults);
    kvn_sim_links(pair.sim, &clean);
    kvn_sim_tap(pair.sim, hear, NULL);
    t_pair_poll(&pair, 0);
    cr_assert_neq(source_id, 0);
}

static struct kvn_frame reset_with(uint16_t set)
{
    return (struct kvn_frame){.version = 1,
                              .type = KVN_PACKET_RESET,
                              .versions = set,
                              .reset = {source_id, KVN_RESET_VERSION}};
}

/* A RESET that names the very version it refuses is no answer of a listener's. */
Test(versions, a_reset_that_contradicts_itself_is_ignored)
{
    struct kvn_frame f;

    dial(V(1));
    f = reset_with(V(1) | V(2));
    cr_expect_eq(say(&f, 0).kind, 0);
    f = reset_with(V(2));
    cr_expect_eq(say(&f, 0).kind, KVW_TEV_CONN_DOWN);
    t_pair_close(&pair);
}

Test(versions, none_in_common_is_told_with_both_sets)
{
    struct kvw_transport_event ev;
    struct kvn_frame f;

    dial(V(1));
    f = reset_with(V(2) | V(3) | V(5));
    ev = say(&f, 0);
    cr_expect(ev.kind == KVW_TEV_CONN_DOWN && ev.err == KVW_E_VERSION);
    cr_expect_not_null(strstr(ev.text, "speaks version 2 and 3 of the packet protocol, this side "
                                       "version 1"),
                       "%s", ev.text);
    t_pair_close(&pair);
}

/* Somebody talked the client down; the listener's own greeting shows it. */
Test(versions, a_downgrade_is_noticed)
{
    struct kvn_frame f, ack = {.version = 1,
                               .type = KVN_PACKET_HELLO_ACK,
                               .versions = V(1) | V(2),
                               .hello = {99, 1200, 1, KVN_STREAM_BYTES, 1 << 20, 512, 0}};
    struct kvw_transport_event ev;

    dial(V(1) | V(2));
    f = reset_with(V(1));
    cr_assert_eq(say(&f, 0).kind, 0);
    ack.conn = source_id;
    ev = say(&ack, 1200 - KVN_HELLO_BYTES);
    cr_expect(ev.kind == KVW_TEV_CONN_DOWN && ev.err == KVW_E_VERSION);
    cr_expect_not_null(strstr(ev.text, "both speak version 2"), "%s", ev.text);
    t_pair_close(&pair);
}

/* A connection has one version, also where its ends speak more. */
Test(versions, packets_of_another_version_are_dropped)
{
    struct kvn_frame bye = {.version = 1, .type = KVN_PACKET_GOODBYE, .pn = 1000};

    meet(1, V(1) | V(2), V(1) | V(2));
    expect_use(2);
    bye.conn = source_id;
    cr_expect_eq(say(&bye, 0).kind, 0);
    bye.version = 2;
    cr_expect_eq(say(&bye, 0).kind, KVW_TEV_CONN_DOWN);
    t_pair_close(&pair);
}
