/* SPDX-License-Identifier: Apache-2.0 */
/*
 * control.h - how the router and a worker talk: JSON objects, one a line, over a Unix stream
 * socket. Small and slow by design; KV never goes this way. The messages are listed in README.md,
 * "Control".
 *
 * threads  a channel belongs to one thread
 * memory   one line buffer per channel, growing to KVE_LINE_MAX; cJSON objects are the receiver's
 * time     reads never block; waiting is the caller's poll(). A write waits for a reader that
 * stands still until write_by_ns: that is the back-pressure of an answer
 */
#ifndef KVE_CONTROL_H
#define KVE_CONTROL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cjson/cJSON.h>

#include "../../kvwire/err.h"

#define KVE_LINE_MAX (4u << 20) /* a prompt of half a million token ids */

struct kve_channel {
    int fd; /* -1: closed */
    char *buf;
    size_t used, room;
    bool failed;             /* a write did not get through: shut down, reads give what is there */
    uint64_t write_by_ns;    /* how long a write may wait; 0: 2 s from its call */
    const _Atomic int *stop; /* not 0: a write that waits gives up. NULL: none */
};

void kve_channel_init(struct kve_channel *c, int fd);
void kve_channel_close(struct kve_channel *c);

/*
 * The next whole object, or NULL with
 *   KVW_E_AGAIN      none yet
 *   KVW_E_PEER_LOST  the other end closed, or a write has failed and all that came was read
 *   KVW_E_PROTOCOL   a line that kve_json_object() refuses, or is longer than KVE_LINE_MAX: close
 *   KVW_E_NOMEM
 * The object is the caller's (cJSON_Delete).
 */
cJSON *kve_channel_read(struct kve_channel *c, kvw_err *err);

/* Has the other end hung up? Doesn't block, reads nothing. */
bool kve_channel_hung_up(const struct kve_channel *c);

/*
 * Write obj as one line and delete it, also on failure.
 *   KVW_E_PEER_LOST  the other end is gone, or did not read in time. The channel is shut down: the
 *                    other end reads what came before and then the end, never more after half a
 *                    line
 *   KVW_E_INVALID    the line would be longer than KVE_LINE_MAX; the channel is as before
 *   KVW_E_NOMEM      the channel is as before
 */
kvw_err kve_channel_write(struct kve_channel *c, cJSON *obj);

/*
 * A listening socket at path: a stale one is replaced, a live one is KVW_E_ADDRESS. why:
 * KVE_WHY_BYTES.
 */
KVW_NODISCARD kvw_err kve_control_listen(int *fd, const char *path, char *why);
KVW_NODISCARD kvw_err kve_control_connect(int *fd, const char *path, char *why);

/*
 * The JSON object in text[0 .. n), the caller's. NULL with a sentence in why (KVE_WHY_BYTES) naming
 * the byte, from 1 on: no JSON, no object, something behind it, or a NUL, which a C string would
 * cut silently (as a byte or as \u0000).
 */
cJSON *kve_json_object(const char *text, size_t n, char *why);

/* Fields of an object, checked. False: absent, or not a whole number in [min, max]. */
bool kve_json_u64(const cJSON *obj, const char *key, uint64_t min, uint64_t max, uint64_t *v);
bool kve_json_f64(const cJSON *obj, const char *key, double min, double max, double *v);
/* "" if absent or no string; lives as long as obj. */
const char *kve_json_str(const cJSON *obj, const char *key);

#endif
