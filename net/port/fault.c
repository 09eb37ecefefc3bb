/* SPDX-License-Identifier: Apache-2.0 */
#include "fault.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A slot is FREE; HELD until it is due; OUT from the rx() that hands it out to the next rx(). */
enum slot_state { SLOT_FREE = 0, SLOT_HELD, SLOT_OUT };

struct slot {
    enum slot_state state;
    uint32_t len;
    struct kvn_addr from;
    uint64_t order;      /* of being held: older first */
    uint64_t due_packet; /* due once this many packets have come */
    uint64_t due_ns;     /* or at this time */
};

struct fault_port {
    struct kvn_port port;
    struct kvn_port *inner;
    struct kvn_fault_spec spec;
    uint64_t random;  /* splitmix64 state */
    uint64_t packets; /* received from inner so far */
    uint64_t holds;
    uint32_t held; /* slots in SLOT_HELD */
    uint32_t slot_bytes;
    uint8_t *memory; /* KVN_FAULT_SLOTS * slot_bytes */
    struct slot slots[KVN_FAULT_SLOTS];
};

/* All decisions about one packet, drawn before any is acted on. */
struct fate {
    bool lose, hold, repeat, corrupt;
    uint32_t hold_packets;
    uint64_t bit;
};

static uint64_t next_random(struct fault_port *f)
{
    uint64_t z = f->random += 0x9e3779b97f4a7c15ull;

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

static bool happens(struct fault_port *f, double share)
{
    return (double)(next_random(f) >> 11) * 0x1p-53 < share;
}

/* Always the same number of draws, so that packet n's fate doesn't depend on packet n-1's. */
static struct fate draw_fate(struct fault_port *f)
{
    struct fate fate;

    fate.lose = happens(f, f->spec.loss);
    fate.hold = happens(f, f->spec.reorder);
    fate.repeat = happens(f, f->spec.dup);
    fate.corrupt = happens(f, f->spec.corrupt);
    fate.hold_packets = 1 + (uint32_t)(next_random(f) % KVN_FAULT_HOLD_PACKETS);
    fate.bit = next_random(f);
    return fate;
}

static uint8_t *slot_bytes(const struct fault_port *f, const struct slot *s)
{
    return f->memory + (size_t)(s - f->slots) * f->slot_bytes;
}

/* Copy a packet into a free slot; NULL when there is none, or the packet is longer than one. */
static struct slot *slot_take(struct fault_port *f, const struct kvn_rx_packet *p)
{
    if (p->len > f->slot_bytes)
        return NULL;
    for (uint32_t i = 0; i < KVN_FAULT_SLOTS; ++i) {
        struct slot *s = &f->slots[i];

        if (s->state != SLOT_FREE)
            continue;
        memcpy(slot_bytes(f, s), p->bytes, p->len);
        s->len = p->len;
        s->from = p->from;
        return s;
    }
    return NULL;
}

static void slot_hold(struct fault_port *f, struct slot *s, uint64_t due_packet, uint64_t due_ns)
{
    s->state = SLOT_HELD;
    s->order = f->holds++;
    s->due_packet = due_packet;
    s->due_ns = due_ns;
    ++f->held;
}

static struct kvn_rx_packet slot_hand_out(struct fault_port *f, struct slot *s)
{
    if (s->state == SLOT_HELD)
        --f->held;
    s->state = SLOT_OUT;
    return (struct kvn_rx_packet){.bytes = slot_bytes(f, s), .len = s->len, .from = s->from};
}

/* The oldest slot that is due, or NULL. */
static struct slot *slot_due(struct fault_port *f, uint64_t now_ns)
{
    struct slot *best = NULL;

    for (uint32_t i = 0; i < KVN_FAULT_SLOTS && f->held != 0; ++i) {
        struct slot *s = &f->slots[i];

        if (s->state == SLOT_HELD && (s->due_packet <= f->packets || s->due_ns <= now_ns) &&
            (best == NULL || s->order < best->order))
            best = s;
    }
    return best;
}

/* Act on one packet of inner; 1 if *p is to be handed out (perhaps changed), 0 if not now. */
static uint32_t meet_fate(struct fault_port *f, uint64_t now_ns, struct kvn_rx_packet *p)
{
    const struct fate fate = draw_fate(f);
    struct slot *s;

    ++f->packets;
    if (fate.lose)
        return 0;
    if (fate.repeat && (s = slot_take(f, p)) != NULL) /* the copy comes a packet later, unhurt */
        slot_hold(f, s, f->packets + 1, now_ns);
    if (!fate.hold && !fate.corrupt)
        return 1;
    if ((s = slot_take(f, p)) == NULL) /* full: let it through unhurt rather than lose it */
        return 1;
    if (fate.corrupt && s->len != 0)
        slot_bytes(f, s)[fate.bit / 8 % s->len] ^= (uint8_t)(1u << fate.bit % 8);
    if (fate.hold) {
        slot_hold(f, s, f->packets + fate.hold_packets, now_ns + KVN_FAULT_HOLD_NS);
        return 0;
    }
    *p = slot_hand_out(f, s);
    return 1;
}

static uint32_t fault_rx(struct kvn_port *port, uint64_t now_ns, struct kvn_rx_packet *packets,
                         uint32_t max)
{
    struct fault_port *f = (struct fault_port *)port;
    uint32_t n = 0, got;
    struct slot *s;

    for (uint32_t i = 0; i < KVN_FAULT_SLOTS; ++i)
        if (f->slots[i].state == SLOT_OUT)
            f->slots[i].state = SLOT_FREE;
    while (n < max && (s = slot_due(f, now_ns)) != NULL)
        packets[n++] = slot_hand_out(f, s);
    /*
     * What inner gave is its own until its next rx(), so inner is asked again only while nothing of
     * what it gave is handed out. The loop ends when inner has nothing more.
     */
    for (bool lent = false; n < max && !lent;) {
        struct kvn_rx_packet in[KVN_BURST];

        got = f->inner->ops->rx(f->inner, now_ns, in, max - n);
        if (got == 0)
            break;
        for (uint32_t i = 0; i < got; ++i)
            if (meet_fate(f, now_ns, &in[i]) != 0) {
                packets[n++] = in[i];
                lent = true;
            }
    }
    return n;
}

static uint32_t fault_tx(struct kvn_port *port, uint64_t now_ns,
                         const struct kvn_tx_packet *packets, uint32_t count)
{
    struct fault_port *f = (struct fault_port *)port;
    const uint32_t taken = f->inner->ops->tx(f->inner, now_ns, packets, count);

    f->port.tx_errors = f->inner->tx_errors;
    return taken;
}

static uint64_t fault_deadline_ns(const struct kvn_port *port)
{
    const struct fault_port *f = (const struct fault_port *)port;
    uint64_t due = f->inner->ops->deadline_ns(f->inner);

    for (uint32_t i = 0; i < KVN_FAULT_SLOTS && f->held != 0; ++i) {
        const struct slot *s = &f->slots[i];

        if (s->state != SLOT_HELD)
            continue;
        if (s->due_packet <= f->packets)
            return 0;
        if (s->due_ns < due)
            due = s->due_ns;
    }
    return due;
}

static void fault_wait(struct kvn_port *port, uint64_t until_ns, int wake_fd)
{
    struct fault_port *f = (struct fault_port *)port;
    const uint64_t due = fault_deadline_ns(port);

    if (due != 0)
        f->inner->ops->wait(f->inner, due < until_ns ? due : until_ns, wake_fd);
}

static int fault_fd(struct kvn_port *port)
{
    struct fault_port *f = (struct fault_port *)port;

    return f->inner->ops->fd != NULL ? f->inner->ops->fd(f->inner) : -1;
}

static bool fault_arm(struct kvn_port *port, uint64_t *until_ns)
{
    struct fault_port *f = (struct fault_port *)port;
    const uint64_t due = fault_deadline_ns(port);

    if (due < *until_ns)
        *until_ns = due;
    return due != 0 && f->inner->ops->arm(f->inner, until_ns);
}

static void fault_disarm(struct kvn_port *port)
{
    struct fault_port *f = (struct fault_port *)port;

    f->inner->ops->disarm(f->inner);
}

static void fault_close(struct kvn_port *port)
{
    struct fault_port *f = (struct fault_port *)port;

    if (f == NULL)
        return;
    f->inner->ops->close(f->inner);
    free(f->memory);
    free(f);
}

static bool fault_reaches(struct kvn_port *port, const struct kvn_addr *to,
                          char why[KVN_REACH_WHY_BYTES])
{
    struct kvn_port *inner = ((struct fault_port *)port)->inner;

    return inner->ops->reaches == NULL || inner->ops->reaches(inner, to, why);
}

static const struct kvn_port_ops fault_ops = {
    .name = "fault",
    .rx = fault_rx,
    .tx = fault_tx,
    .wait = fault_wait,
    .fd = fault_fd,
    .arm = fault_arm,
    .disarm = fault_disarm,
    .deadline_ns = fault_deadline_ns,
    .close = fault_close,
    .reaches = fault_reaches,
};

kvw_err kvn_fault_wrap(struct kvn_port **port, const char *spec, char why[KVN_WHY_BYTES])
{
    struct fault_port *f = calloc(1, sizeof(*f));
    kvw_err err;

    if (f == NULL)
        goto nomem;
    if ((err = kvn_fault_parse(&f->spec, spec, why)) != KVW_OK) {
        free(f);
        return err;
    }
    f->inner = *port;
    f->port = **port;
    f->port.ops = &fault_ops;
    f->random = f->spec.seed;
    f->slot_bytes = (f->port.payload_max + 63u) & ~63u;
    f->memory = malloc((size_t)KVN_FAULT_SLOTS * f->slot_bytes);
    if (f->memory == NULL)
        goto nomem;
    *port = &f->port;
    return KVW_OK;

nomem:
    free(f);
    snprintf(why, KVN_WHY_BYTES, "fault: no memory for %u packets of %u bytes", KVN_FAULT_SLOTS,
             (*port)->payload_max);
    return KVW_E_NOMEM;
}
