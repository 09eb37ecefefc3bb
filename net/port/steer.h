/* SPDX-License-Identifier: Apache-2.0 */
/*
 * steer.h - several ports that are the queues of one address, and packets that came to the wrong
 * one. Every packet of a connection names the connection by an id which its receiver chose, and a
 * receiver of several queues chooses ids whose low byte, modulo the number of queues, is the queue
 * (kvn_steer_queue). So a look at eight bytes tells whose a packet is, whatever the kernel's or the
 * device's hash did: what isn't this queue's goes to its owner through a ring, is copied once and
 * counted. A HELLO, which names nothing of ours yet, goes by the id that its sender chose: the same
 * one twice then comes to one queue, and HELLOs that a kernel steers as one burst spread. A RESET
 * names nothing of ours: all get it.
 *
 * threads  kvn_steer_open, _port and _close: the one that sets the queues up and takes them down.
 *          A wrapped port belongs to its queue's thread alone; between each two of them is a ring
 *          of KVN_STEER_SLOTS with one writer and one reader. kvn_steer_waiting(): the queue's
 *          thread. kvn_steer_stats(): any thread
 * memory   all at open; nothing between open and close
 * time     none of its own
 */
#ifndef KVN_STEER_H
#define KVN_STEER_H

#include "../net.h"
#include "port.h"

#define KVN_QUEUES_MAX  8u
#define KVN_STEER_SLOTS 64u /* packets on their way from one queue to another; more are dropped */

struct kvn_steer; /* opaque */

/* Counters of one queue; they only grow. */
struct kvn_steer_stats {
    uint64_t forwarded; /* packets of other queues that came here */
    uint64_t received;  /* packets of this queue that others sent on */
    uint64_t dropped;   /* packets of others whose ring was full, or that were longer than any */
};

/* The queue, of so many, of a connection that its receiver calls id. */
static inline uint32_t kvn_steer_queue(uint32_t id, uint32_t queues)
{
    return (id & 0xffu) % queues;
}

/*
 * Rings between so many queues, 2 .. KVN_QUEUES_MAX, for packets of payload_max bytes at most.
 * wake(arg, queue) is called by another queue's thread when something lies in the rings to queue.
 *   KVW_E_NOMEM
 */
KVW_NODISCARD kvw_err kvn_steer_open(struct kvn_steer **s, uint32_t queues, uint32_t payload_max,
                                     void (*wake)(void *arg, uint32_t queue), void *arg);

/* The port of a queue, over inner, which it owns from now on: its close() closes inner. It is part
 * of s, and may be closed before s is. */
struct kvn_port *kvn_steer_port(struct kvn_steer *s, uint32_t queue, struct kvn_port *inner);

/* Whether packets lie in the rings to queue. */
bool kvn_steer_waiting(const struct kvn_steer *s, uint32_t queue);

void kvn_steer_stats(const struct kvn_steer *s, uint32_t queue, struct kvn_steer_stats *stats);

/* Once no queue's thread runs any more. Takes NULL. */
void kvn_steer_close(struct kvn_steer *s);

#endif
