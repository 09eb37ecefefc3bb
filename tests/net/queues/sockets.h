/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sockets.h - the sockets of this process by the UDP port they are bound to, for tests that hurt a
 * transport from below.
 *
 * threads  any      memory  the caller's      time  none
 */
#ifndef T_SOCKETS_H
#define T_SOCKETS_H

#include <stdint.h>

/* Up to max descriptors of UDP sockets bound to port on 127.0.0.1, in the order they were opened.
 * Returns how many. */
int t_sockets(uint16_t port, int *fds, int max);

#endif
