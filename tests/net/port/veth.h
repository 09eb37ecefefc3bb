/* SPDX-License-Identifier: Apache-2.0 */
/*
 * veth.h - two network namespaces joined by a veth pair, for tests of ports on real interfaces. The
 * namespaces have no name and no process but the test's: they, and all in them, go when it ends,
 * however it ends.
 *
 * threads  one; entering a namespace concerns the calling thread, and what it opens there stays
 *          there
 * memory   none      time  runs ip(8), some 10 ms a call
 */
#ifndef T_VETH_H
#define T_VETH_H

#include <stdbool.h>

/* The interface in side 0 is kvt0, in side 1 kvt1. The kernel has 10.77.0.100 + side and
 * fd77::100 + side there. */
#define T_VETH_DEV(side) ((side) ? "kvt1" : "kvt0")

/* NULL: it is there, and this thread is in side 0. Else why it can't be; a reason to skip. */
const char *t_veth_make(unsigned mtu);
/* Be in side 0 or 1; in -1, where the process began. */
void t_veth_enter(int side);
/* Run a command there; its exit status. The thread is afterwards where it was before. */
int t_veth_run(int side, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
