/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sock.h - the Unix socket that joins two ports: may it be used, is it in use, and how to get
 * a driver off it that would wait on it for ever.
 *
 * threads  any
 * memory   none
 * time     never blocks, but for the file system
 *
 * Whether someone listens on a path can't be asked by connecting: virtio-user's driver takes the
 * first connection for its peer. So a listener holds a lock file, PATH.lock, for as long as it
 * lives; and what listens without one is looked up in /proc/net/unix.
 */
#ifndef KVN_DPDK_SOCK_H
#define KVN_DPDK_SOCK_H

#include "../../net.h"

/* sun_path's room, with its zero. */
#define KVN_DPDK_PATH_BYTES 108

/*
 * KVW_E_ADDRESS with a sentence: empty, too long, a character that DPDK's option parser would take
 * for its own, no such directory, or no permission there.
 */
KVW_NODISCARD kvw_err kvn_dpdk_sock_check(const char *path, bool listener, char why[KVN_WHY_BYTES]);

/*
 * Become the path's only listener: take its lock and remove a socket that a dead one left. *lock_fd
 * is the lock; give it to kvn_dpdk_sock_release().
 *   KVW_E_ADDRESS  a living process listens there, or the path is something else than a socket
 *   KVW_E_IO       the lock file can't be made
 */
KVW_NODISCARD kvw_err kvn_dpdk_sock_claim(const char *path, int *lock_fd, char why[KVN_WHY_BYTES]);
/* Remove the socket and the lock file. */
void kvn_dpdk_sock_release(const char *path, int lock_fd);

/* Whether the path is there and a socket. */
bool kvn_dpdk_sock_exists(const char *path);

/*
 * Shut down every socket of this process that is bound to path: an accept() or recv() on one in
 * another thread returns at once with an error. Only for a driver call that must be ended.
 */
void kvn_dpdk_sock_break(const char *path);

#endif
