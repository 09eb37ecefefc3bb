/* SPDX-License-Identifier: Apache-2.0 */
/*
 * batch.h - the lines of a batch file: one request each, a JSON object with "prompt" (and "system")
 * or "tokens", and any of the request's own fields (request.h). Every field is taken, or refused by
 * its name.
 *
 * threads  one
 * memory   one line of at most KVE_BATCH_LINE_MAX bytes; what kve_batch_parse fills is the caller's
 * time     reading waits for the file (a terminal, a pipe) until a signal comes
 */
#ifndef KVE_BATCH_H
#define KVE_BATCH_H

#include <stdio.h>

#include "request.h"

#define KVE_BATCH_LINE_MAX (8u << 20)

struct kve_batch {
    FILE *file;
    uint64_t number; /* of the line read last, from 1 on */
    char *line;      /* without its newline; NUL-terminated, and may contain NULs */
    size_t bytes, room;
};

/* path "-": standard input. KVW_E_IO with a sentence in why (KVE_WHY_BYTES). */
KVW_NODISCARD kvw_err kve_batch_open(struct kve_batch *b, const char *path, char *why);
void kve_batch_close(struct kve_batch *b);
/*
 * The next line that isn't blank.
 *   KVW_E_NOTFOUND  there is none
 *   KVW_E_FORMAT    it is longer than KVE_BATCH_LINE_MAX; it was skipped
 *   KVW_E_IO        the file can't be read; why says so
 *   KVW_E_NOMEM
 */
KVW_NODISCARD kvw_err kve_batch_next(struct kve_batch *b, char *why);

struct kve_batch_item {
    cJSON *obj;                  /* owns the strings */
    const char *prompt, *system; /* NULL: not said */
};

/*
 * Line text[0 .. n) as fields over the defaults in *q. With "tokens" q->tokens is set, else
 * item->prompt. kve_request_free and kve_batch_item_free are due in any case.
 *   KVW_E_INVALID  with a sentence in why (KVE_WHY_BYTES)
 *   KVW_E_NOMEM
 */
KVW_NODISCARD kvw_err kve_batch_parse(struct kve_batch_item *item, struct kve_request *q,
                                      const char *text, size_t n, uint32_t vocab, char *why);
void kve_batch_item_free(struct kve_batch_item *item);

#endif
