/* SPDX-License-Identifier: Apache-2.0 */
/*
 * loss.h - round-trip time, when a packet counts as lost, and when to probe. The ideas are those of
 * RFC 9002: a packet is lost when one sent later has arrived and it is reorder_packets behind, or
 * has been out for longer than a round trip and an eighth; when nothing comes back at all, probes
 * are sent at growing distances.
 *
 * threads  one      memory  the caller's struct      time  as given
 */
#ifndef KVN_PACKET_LOSS_H
#define KVN_PACKET_LOSS_H

#include "inflight.h"

struct kvn_loss {
    uint64_t srtt_ns;
    uint64_t rttvar_ns;
    bool sampled;
    uint64_t base_ns; /* least of the last KVN_BASE_NS or two, of full packets; UINT64_MAX: none */
    uint64_t base_now_ns;   /* of the present span */
    uint64_t base_since_ns; /* when it began */
    uint64_t latest_rtt_ns;
    uint64_t loss_at_ns;      /* when the next packet is lost by time; UINT64_MAX: none */
    uint32_t reorder_packets; /* KVN_REORDER_MIN .. KVN_REORDER_MAX */
    uint32_t reorder_eighths; /* of a round trip, on top of one: 1 .. 8 */
    bool late;                /* a packet was late in the present span */
    uint32_t probes;          /* sent since something last came back */
};

void kvn_loss_begin(struct kvn_loss *l);

/* An ACK gave a sample; delay_ns: what the peer says it waited. */
void kvn_loss_rtt(struct kvn_loss *l, uint64_t rtt_ns, uint64_t delay_ns);
/* The packet of the last sample was of full length. Returns whether a span of KVN_BASE_NS is over:
 * what was learnt about late packets longer ago is forgotten by halves. */
bool kvn_loss_base(struct kvn_loss *l, uint64_t now_ns);
/* Packets have become longer: the least round trip of the shorter ones isn't theirs. */
void kvn_loss_longer(struct kvn_loss *l);
/* The handshake took so long, with packets of full length: better than nothing until there are
 * samples. */
void kvn_loss_guess(struct kvn_loss *l, uint64_t rtt_ns, uint64_t now_ns);

/* A packet taken for lost came in when distance later ones had: wait longer from now on. */
void kvn_loss_was_late(struct kvn_loss *l, uint64_t distance);

/* Take for lost what is; sets loss_at_ns. Returns how many bytes. */
uint64_t kvn_loss_detect(struct kvn_loss *l, struct kvn_inflight *f, uint64_t now_ns,
                         const struct kvn_inflight_events *ev, void *arg);

/* How long a packet may be out while news of younger ones comes back. */
uint64_t kvn_loss_delay(const struct kvn_loss *l);

/* When to probe, given when something was last sent that asks for an ACK. */
uint64_t kvn_loss_probe_at(const struct kvn_loss *l, uint64_t last_asking_ns);

#endif
