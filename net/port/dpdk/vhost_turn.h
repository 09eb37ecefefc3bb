/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vhost_turn.h - until DPDK's thread for vhost's sockets has done what it was about to do.
 *
 * That thread serves all sockets of the process, one message after another. A socket of our own is
 * among them: once a question there is answered, all that had come in before has been dealt with,
 * such as the end of a peer.
 *
 * threads  any
 * memory   one vhost device without queues and three descriptors, from the first open to the last
 *          close
 * time     open, close: none. turn: below a millisecond; up to a second where no device was
 *          connected since open, as that thread looks for new sockets so often; until_ns
 *          (CLOCK_MONOTONIC) at the latest
 */
#ifndef KVN_DPDK_VHOST_TURN_H
#define KVN_DPDK_VHOST_TURN_H

#include <stdbool.h>
#include <stdint.h>

/* The socket is there from the first open to the last close. Without one (no folder for temporary
 * files, no descriptor) turn() says false. EAL runs. */
void kvn_dpdk_vhost_turn_open(void);
void kvn_dpdk_vhost_turn_close(void);

/* False: there is no socket, or no answer in time. After the latter none is asked any more until
 * the last link is closed: a late answer would be taken for the next one's. */
bool kvn_dpdk_vhost_turn(uint64_t until_ns);

#endif
