/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fit.h - how long the packets of one path may be. The handshake has shown what it carried then; a
 * path that swallows long packets later is found by what arrives and what doesn't, and what it
 * carries now is asked for with PINGs of that length. SPEC.md 8.1.
 *
 * threads  one      memory  the caller's struct      time  as given
 */
#ifndef KVN_PACKET_FIT_H
#define KVN_PACKET_FIT_H

#include <stdbool.h>
#include <stdint.h>

#include "wire.h"

struct kvn_fit {
    uint32_t payload;      /* longest packet */
    bool again;            /* a packet sent after the first loss was noticed is lost too */
    bool proved, failed;   /* what became of the probe of `trying` bytes */
    bool unheard;          /* it failed, but nothing that was sent since has arrived either */
    uint32_t lost;         /* long packets in a row */
    uint64_t since_ns;     /* when the first of them was missed; UINT64_MAX: just now */
    uint64_t arrived_ns;   /* when the youngest long packet that arrived had left */
    uint64_t search_at_ns; /* when longer packets are tried; UINT64_MAX: not, or being tried */
    uint64_t wait_ns;      /* from that try to the next */
    uint32_t trying;       /* bytes; 0: nothing */
    uint32_t tries;        /* of this length, that failed */
};

void kvn_fit_begin(struct kvn_fit *f, uint32_t payload);

/* A packet longer than KVN_PAYLOAD_MIN that left at sent_ns has arrived. */
static inline void kvn_fit_arrived(struct kvn_fit *f, uint64_t sent_ns)
{
    if (sent_ns > f->arrived_ns) {
        f->arrived_ns = sent_ns;
        f->lost = 0;
    }
}

/* A packet longer than KVN_PAYLOAD_MIN that left at sent_ns was lost. */
void kvn_fit_lost(struct kvn_fit *f, uint64_t sent_ns);
/* After losses: whether long packets vanish while short ones, the last at acked_ns, arrive. */
bool kvn_fit_hole(struct kvn_fit *f, uint64_t acked_ns, uint64_t now_ns);
/* Packets are at most payload bytes from now on; longer ones are tried after a while. */
void kvn_fit_fall(struct kvn_fit *f, uint32_t payload, uint64_t now_ns);

/* The fate of a probe of so many bytes. heard: of the path, since it was sent; otherwise its loss
 * says nothing about lengths. */
void kvn_fit_probe_arrived(struct kvn_fit *f, uint32_t bytes);
void kvn_fit_probe_lost(struct kvn_fit *f, uint32_t bytes, bool heard);
/* The ends can take more or less than before: if nothing is tried or planned, try. */
void kvn_fit_search_now(struct kvn_fit *f, uint64_t now_ns);
/* Time has come, or a probe's fate is known. limit: what the ends can take. Returns whether a probe
 * of `trying` bytes is to be sent. */
bool kvn_fit_search(struct kvn_fit *f, uint32_t limit, uint64_t now_ns);

#endif
