/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fault.h - a port that hurts what another port receives: loses, reorders, repeats and corrupts.
 *
 * Faults act on rx() only; tx() goes straight through. To hurt both directions, wrap both ends (as
 * kvn_config.fault on both sides does): each direction then suffers the given rates once.
 *
 * threads  as the wrapped port
 * memory   KVN_FAULT_SLOTS buffers of the wrapped port's payload_max, taken by kvn_fault_wrap()
 * time     a reordered packet comes late by 1 to KVN_FAULT_HOLD_PACKETS packets, or by
 *          KVN_FAULT_HOLD_NS if no more packets come
 *
 * The n-th packet received meets the same fate for the same seed, whatever the clock says.
 */
#ifndef KVN_FAULT_H
#define KVN_FAULT_H

#include "../net.h"
#include "port.h"

#define KVN_FAULT_SLOTS        64u
#define KVN_FAULT_HOLD_PACKETS 8u
#define KVN_FAULT_HOLD_NS      500000u

/* Shares of packets, 0 .. 1. */
struct kvn_fault_spec {
    double loss, reorder, dup, corrupt;
    uint64_t seed;
};

/*
 * "loss=0.05,reorder=0.05,dup=0.01,corrupt=0.001,seed=7": any of the keys, in any order, at most
 * once each. KVW_E_INVALID: a sentence in why names the key; *spec is untouched.
 */
KVW_NODISCARD kvw_err kvn_fault_parse(struct kvn_fault_spec *spec, const char *text,
                                      char why[KVN_WHY_BYTES]);

/*
 * Replace *port by a port that owns it: close() of the wrapper closes both. On an error *port and
 * its ownership are as before. KVW_E_INVALID (spec can't be parsed), KVW_E_NOMEM.
 */
KVW_NODISCARD kvw_err kvn_fault_wrap(struct kvn_port **port, const char *spec,
                                     char why[KVN_WHY_BYTES]);

#endif
