/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gobackn.h - the contrast: a sender that goes back to the first packet not acknowledged when a
 * timer of 5 ms runs out, and a receiver that drops what is out of order; as eRPC works. Test only.
 */
#ifndef T_GOBACKN_H
#define T_GOBACKN_H

#include "../../net/port/sim/sim.h"

/* Bytes of packets that arrived in order at node 0 from node 1 within for_ns; window: packets in
 * flight, payload: bytes of each. Opens and closes its ports. */
uint64_t t_gobackn(struct kvn_sim *sim, uint32_t payload, uint32_t window, uint64_t for_ns);

#endif
