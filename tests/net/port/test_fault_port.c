/* SPDX-License-Identifier: Apache-2.0 */
/* The fault port hurts packets at the rates asked for, the same ones for the same seed, and hands
 * out every other packet once, whole and unchanged. */
#include <criterion/criterion.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../../net/port/fault.h"

#define PACKETS 20000u
#define LEN     48u

/* A port that has packets 0, 1, 2 ... to give, as many as it is told; and takes everything. */
struct source {
    struct kvn_port port;
    uint32_t next, end;
    uint8_t bytes[KVN_BURST][LEN];
    uint32_t sent, waits, closes;
    uint64_t waited_until;
};

static void fill(uint8_t *bytes, uint32_t n)
{
    for (uint32_t i = 0; i < LEN; ++i)
        bytes[i] = (uint8_t)(n * 7 + i);
    memcpy(bytes, &n, sizeof(n));
}

static uint32_t source_rx(struct kvn_port *port, uint64_t now_ns, struct kvn_rx_packet *packets,
                          uint32_t max)
{
    struct source *s = (struct source *)port;
    uint32_t n = 0;

    (void)now_ns;
    memset(s->bytes, 0xdd, sizeof(s->bytes)); /* what was lent before is gone */
    for (; n < max && n < 5 && s->next < s->end; ++n, ++s->next) {
        fill(s->bytes[n], s->next);
        packets[n] = (struct kvn_rx_packet){
            .bytes = s->bytes[n], .len = LEN, .from = {.family = 4, .port = (uint16_t)s->next}};
    }
    return n;
}

static uint32_t source_tx(struct kvn_port *port, uint64_t now_ns,
                          const struct kvn_tx_packet *packets, uint32_t count)
{
    struct source *s = (struct source *)port;

    (void)now_ns;
    (void)packets;
    s->sent += count;
    ++s->port.tx_errors;
    return count;
}

static void source_wait(struct kvn_port *port, uint64_t until_ns, int wake_fd)
{
    struct source *s = (struct source *)port;

    (void)wake_fd;
    ++s->waits;
    s->waited_until = until_ns;
}

static uint64_t source_deadline(const struct kvn_port *port)
{
    (void)port;
    return UINT64_MAX;
}

static void source_close(struct kvn_port *port)
{
    ++((struct source *)port)->closes;
}

static const struct kvn_port_ops source_ops = {
    .name = "source",
    .rx = source_rx,
    .tx = source_tx,
    .wait = source_wait,
    .deadline_ns = source_deadline,
    .close = source_close,
};

static struct source source;
static uint8_t seen[PACKETS]; /* how often each came whole */
static uint32_t order[2 * PACKETS];
static uint32_t came, hurt, backwards;
static char why[KVN_WHY_BYTES];

static struct kvn_port *wrap(const char *spec)
{
    struct kvn_port *port = &source.port;

    source = (struct source){.port = {.ops = &source_ops, .payload_max = 1200}, .end = PACKETS};
    memset(seen, 0, sizeof(seen));
    came = hurt = backwards = 0;
    cr_assert_eq(kvn_fault_wrap(&port, spec, why), KVW_OK, "%s: %s", spec, why);
    cr_assert_neq(port, &source.port);
    return port;
}

static void take(const struct kvn_rx_packet *p)
{
    static uint32_t newest;
    uint8_t whole[LEN];
    uint32_t n, bits = 0;

    cr_assert_eq(p->len, LEN);
    memcpy(&n, p->bytes, sizeof(n));
    if (came == 0)
        newest = 0;
    if (n < PACKETS && (uint16_t)n == p->from.port)
        fill(whole, n);
    else
        fill(whole, n = p->from.port); /* the number itself was hit; PACKETS fit 16 bits */
    for (uint32_t i = 0; i < LEN; ++i)
        bits += (uint32_t)__builtin_popcount(whole[i] ^ p->bytes[i]);
    cr_assert_leq(bits, 1, "packet %u has %u wrong bits", n, bits);
    hurt += bits;
    ++seen[n];
    backwards += n < newest;
    newest = n > newest ? n : newest;
    order[came++] = n;
}

/* Everything the port gives, up to max at a time; time stands still until the source is dry. */
static void drain(struct kvn_port *port, uint32_t max)
{
    struct kvn_rx_packet in[KVN_BURST];
    uint64_t now_ns = 1000;

    for (int dry = 0; dry < 20;) {
        const uint32_t n = port->ops->rx(port, now_ns, in, max);

        cr_assert_leq(n, max);
        for (uint32_t i = 0; i < n; ++i)
            take(&in[i]);
        dry = n == 0 ? dry + 1 : 0;
        if (source.next == source.end)
            now_ns += 100000;
    }
    cr_assert_eq(port->ops->deadline_ns(port), UINT64_MAX, "something is still held");
    port->ops->close(port);
    cr_expect_eq(source.closes, 1);
}

static uint32_t count(uint32_t times)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < PACKETS; ++i)
        n += seen[i] == times;
    return n;
}

static void expect_share(uint32_t n, double share, const char *what)
{
    cr_expect_geq(n, PACKETS * share * 0.85, "%s: %u of %u", what, n, PACKETS);
    cr_expect_leq(n, PACKETS * share * 1.15, "%s: %u of %u", what, n, PACKETS);
}

Test(fault_port, nothing_asked_nothing_hurt)
{
    drain(wrap(""), KVN_BURST);
    cr_expect_eq(count(1), PACKETS);
    cr_expect_eq(hurt + backwards, 0);
}

Test(fault_port, loses)
{
    drain(wrap("loss=0.05"), KVN_BURST);
    expect_share(count(0), 0.05, "lost");
    cr_expect_eq(count(0) + count(1), PACKETS);
    cr_expect_eq(hurt + backwards, 0);
}

Test(fault_port, repeats)
{
    drain(wrap("dup=0.05"), KVN_BURST);
    expect_share(count(2), 0.05, "twice");
    cr_expect_eq(count(2) + count(1), PACKETS);
    cr_expect_eq(hurt, 0);
}

Test(fault_port, corrupts_one_bit)
{
    drain(wrap("corrupt=0.05"), KVN_BURST);
    expect_share(hurt, 0.05, "hurt");
    cr_expect_eq(count(1), PACKETS);
    cr_expect_eq(backwards, 0);
}

Test(fault_port, reorders)
{
    drain(wrap("reorder=0.05"), KVN_BURST);
    expect_share(backwards, 0.05, "late");
    cr_expect_eq(count(1), PACKETS);
    cr_expect_eq(hurt, 0);
    for (uint32_t i = 0; i < PACKETS; ++i) /* late by a few packets and a burst, no more */
        cr_assert(order[i] + KVN_FAULT_HOLD_PACKETS + KVN_BURST > i, "packet %u came %u-th",
                  order[i], i);
}

/* All at once, handed out one by one or in bursts: bounded, and nothing else goes wrong. */
Test(fault_port, everything_at_once)
{
    const uint32_t max[] = {1, 3, KVN_BURST};

    for (size_t i = 0; i < 3; ++i) {
        drain(wrap("loss=0.1,reorder=0.3,dup=0.3,corrupt=0.1,seed=9"), max[i]);
        expect_share(count(0), 0.1, "lost");
        cr_expect_gt(hurt, PACKETS / 20);
        cr_expect_eq(count(0) + count(1) + count(2), PACKETS);
    }
}

Test(fault_port, all_of_it)
{
    drain(wrap("loss=1"), KVN_BURST);
    cr_expect_eq(count(0), PACKETS);
    drain(wrap("reorder=1"), KVN_BURST); /* more than there are slots: let through, never lost */
    cr_expect_eq(count(1), PACKETS);
    drain(wrap("dup=1"), KVN_BURST);
    cr_expect_eq(count(1) + count(2), PACKETS);
}

static uint64_t fingerprint(const char *spec)
{
    uint64_t sum = 0;

    drain(wrap(spec), KVN_BURST);
    for (uint32_t i = 0; i < came; ++i)
        sum = sum * 1099511628211ull + order[i];
    return sum;
}

Test(fault_port, same_seed_same_fate)
{
    const uint64_t one = fingerprint("loss=0.05,reorder=0.05,dup=0.01,seed=7");

    cr_expect_eq(fingerprint("seed=7,dup=0.01,reorder=0.05,loss=0.05"), one);
    cr_expect_neq(fingerprint("loss=0.05,reorder=0.05,dup=0.01,seed=8"), one);
}

/* A packet held back when no other follows comes after KVN_FAULT_HOLD_NS, and deadline_ns and
 * wait() know. */
Test(fault_port, held_packets_come_by_themselves)
{
    struct kvn_port *port = wrap("reorder=1");
    struct kvn_rx_packet in[KVN_BURST];

    source.end = 1;
    cr_expect_eq(port->ops->deadline_ns(port), UINT64_MAX);
    cr_expect_eq(port->ops->rx(port, 1000, in, KVN_BURST), 0);
    cr_expect_eq(port->ops->deadline_ns(port), 1000 + KVN_FAULT_HOLD_NS);
    port->ops->wait(port, UINT64_MAX, -1);
    cr_expect_eq(source.waited_until, 1000 + KVN_FAULT_HOLD_NS);
    port->ops->wait(port, 5000, -1);
    cr_expect_eq(source.waited_until, 5000);
    cr_expect_eq(port->ops->rx(port, 1000 + KVN_FAULT_HOLD_NS - 1, in, KVN_BURST), 0);
    cr_expect_eq(port->ops->rx(port, 1000 + KVN_FAULT_HOLD_NS, in, KVN_BURST), 1);
    take(&in[0]);
    cr_expect_eq(hurt, 0);
    port->ops->close(port);
}

/* A repeated packet's copy is due at once: nobody may sleep on it. */
Test(fault_port, does_not_sleep_on_what_is_due)
{
    struct kvn_port *port = wrap("dup=1");
    struct kvn_rx_packet in[KVN_BURST];

    source.end = 2;
    cr_expect_eq(port->ops->rx(port, 1000, in, KVN_BURST), 2);
    cr_expect_leq(port->ops->deadline_ns(port), 1000);
    port->ops->wait(port, UINT64_MAX, -1);
    cr_expect(source.waits == 0 || source.waited_until <= 1000);
    cr_expect_eq(port->ops->rx(port, 1000, in, KVN_BURST), 2);
    port->ops->close(port);
}

Test(fault_port, sending_goes_straight_through)
{
    struct kvn_port *port = wrap("loss=1");
    const struct kvn_tx_packet packets[3] = {0};

    cr_expect_eq(port->ops->tx(port, 1000, packets, 3), 3);
    cr_expect_eq(source.sent, 3);
    cr_expect_eq(port->tx_errors, 1, "the wrapped port's counter shows");
    cr_expect_eq(port->payload_max, 1200);
    port->ops->close(port);
}

Test(fault_port, wrong_specs_name_the_key)
{
    const char *bad[][2] = {
        {"loss=2", "loss=2"},
        {"loss=-0.1", "loss=-0.1"},
        {"los=0.1", "los=0.1"},
        {"loss", "loss"},
        {"loss=", "loss="},
        {"dup=0.1x", "dup=0.1x"},
        {"seed=0x7", "seed=0x7"},
        {"seed=-1", "seed=-1"},
        {"loss=0.1,loss=0.2", "twice"},
        {"corrupt=nan", "corrupt"},
        {"loss=0.1;dup=1", "loss"},
        {"=1", "=1"},
        {"loss=0.1,,dup=0.1", "is none of"},
        {"reorder= 0.5", "reorder"},
        {"loss=0.00000000000000000000000000000000000001", "loss"},
    };
    struct kvn_port *port = &source.port;

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); ++i) {
        why[0] = '\0';
        cr_expect_eq(kvn_fault_wrap(&port, bad[i][0], why), KVW_E_INVALID, "%s", bad[i][0]);
        cr_expect_not_null(strstr(why, bad[i][1]), "\"%s\" for %s", why, bad[i][0]);
        cr_expect_eq(port, &source.port, "the port is as before");
    }
}
