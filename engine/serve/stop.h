/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stop.h - stop strings in a text that comes piece by piece: what may be the beginning of one is
 * held back until it is one, or can't be one any more. A piece ends anywhere, so a stop string may
 * lie across as many tokens as it has bytes.
 *
 * threads  one per struct
 * memory   borrowed strings; a text held back, as long as the longest of them; kve_stop_close()
 * time     per byte as much as the stop strings have together, at worst
 */
#ifndef KVE_STOP_H
#define KVE_STOP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../../kvwire/err.h"

struct kve_stop {
    const char *const *texts; /* borrowed, none is empty */
    uint32_t count;
    char *held; /* used bytes of the answer that aren't shown yet */
    size_t used, room;
    bool hit; /* one came; nothing follows */
};

/* KVW_E_NOMEM. Without texts everything passes through. */
KVW_NODISCARD kvw_err kve_stop_open(struct kve_stop *s, const char *const *texts, uint32_t count);
void kve_stop_close(struct kve_stop *s);
/*
 * n more bytes. The first *ready bytes of s->held are to be shown; kve_stop_shown() takes them off.
 * KVW_E_NOMEM
 */
KVW_NODISCARD kvw_err kve_stop_push(struct kve_stop *s, const char *at, size_t n, size_t *ready);
void kve_stop_shown(struct kve_stop *s, size_t n);
/* No more comes: what was held back is to be shown, too. */
size_t kve_stop_rest(const struct kve_stop *s);

#endif
