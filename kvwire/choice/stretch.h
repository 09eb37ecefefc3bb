/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stretch.h - how long a raw byte takes from end to end, by codec, while there is always a next
 * one.
 *
 * A stretch begins when a chunk is cut while nothing is under way, or when another codec's chunks
 * begin to be delivered, and ends when all that was cut is delivered and nothing waits, when the
 * codec changes, or after KVW_STRETCH chunks, when the next one begins at once. What it took over
 * the raw bytes delivered in it is a sample of its codec. So whatever a codec costs where nobody
 * looks - the peer's core, caches, a memory bus, a lock - is in it, which a model of encoder, wire
 * and decoder can't foresee. Deliveries are often told several at a time, so only times at which
 * all that was told is of one codec count. Short stretches say nothing: the first chunk's latency
 * is in them.
 *
 * threads  one      memory  the caller's      time  handed in, never backwards
 */
#ifndef KVW_STRETCH_H
#define KVW_STRETCH_H

#include <stdbool.h>
#include <stdint.h>

#define KVW_STRETCH     64u /* chunks; twice what is usually under way (KVW_SLOTS_DEFAULT) */
#define KVW_STRETCH_MIN 16u

struct kvw_stretch {
    bool open;
    bool begun; /* codec is known */
    uint32_t codec;
    uint64_t begin_ns;
    uint64_t last_ns; /* the latest delivery's time, begin_ns if there is none yet */
    uint64_t end_ns;  /* deliveries up to here are in chunks and raw_bytes */
    uint32_t chunks;
    uint64_t raw_bytes;
    uint32_t told_chunks; /* deliveries after end_ns, all of them told at last_ns */
    uint64_t told_bytes;
};

/* A chunk is cut. */
void kvw_stretch_cut(struct kvw_stretch *t, uint64_t now_ns);
/*
 * A chunk was delivered; drained: nothing is under way any more and nothing waits to be cut. True:
 * a stretch has ended in which codec *of took *ps picoseconds for a raw byte. One that takes more
 * than enough_ps (0: no matter) ends after half the chunks.
 */
bool kvw_stretch_delivered(struct kvw_stretch *t, uint32_t codec, uint32_t raw_bytes, bool drained,
                           double enough_ps, uint64_t now_ns, uint32_t *of, double *ps);
/* The connection is gone: the stretch says nothing. */
void kvw_stretch_stop(struct kvw_stretch *t);

#endif
