/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tempdir.h - the private directory kvserve-XXXXXX of the link's socket. Its maker holds an flock
 * on it until the process ends, however it ends; a directory without that lock is stale, and the
 * next maker removes it.
 *
 * threads  one
 * memory   none; an open directory is one descriptor
 * time     none but the file system's
 */
#ifndef KVE_TEMPDIR_H
#define KVE_TEMPDIR_H

#include "../../kvwire/err.h"

#define KVE_TEMPDIR_BYTES  96
#define KVE_TEMPDIR_SOCKET "link.sock"
#define KVE_TEMPDIR_LOCK   "link.sock.lock" /* what dpdk's listener puts beside it */

struct kve_tempdir {
    char path[KVE_TEMPDIR_BYTES]; /* "": none */
    int fd;                       /* holds the lock */
};

/* Remove what killed processes left in base: directories of that name, ours, not locked, with
 * nothing in them but the two files above. Everything else stays as it is. */
void kve_tempdir_sweep(const char *base);
/* A new one in base (NULL: XDG_RUNTIME_DIR, or /tmp), after a sweep of base. KVW_E_IO with a
 * sentence in why (KVE_WHY_BYTES). */
KVW_NODISCARD kvw_err kve_tempdir_open(struct kve_tempdir *d, const char *base, char *why);
/* Remove it with its two files. Takes one that isn't open (path ""). */
void kve_tempdir_close(struct kve_tempdir *d);

#endif
