/* SPDX-License-Identifier: Apache-2.0 */
/*
 * open.h - how a transport puts itself into the table of net.h: its meson.build says
 *
 *     transports += [['udp', 'kernel UDP sockets, any network']]
 *
 * and one of its files defines kvn_open_udp() with this signature. meson writes the table from the
 * list (transports.c.in), so what isn't built isn't there, without an #ifdef.
 *
 * threads  as net.h      memory  as net.h      time  as net.h
 */
#ifndef KVN_OPEN_H
#define KVN_OPEN_H

#include "net.h"

/* The contract of kvn_transport_entry.open. Use: KVN_OPEN_DECLARE(udp); */
#define KVN_OPEN_DECLARE(name)                                                                     \
    KVW_NODISCARD kvw_err kvn_open_##name(struct kvw_transport **t, const struct kvn_config *cfg,  \
                                          char why[KVN_WHY_BYTES])

#endif
