/* SPDX-License-Identifier: Apache-2.0 */
/*
 * trace.h - requests with arrival times and the blocks of their prompts: read from JSON lines as
 * Mooncake published them, or made from a seed with the same statistics.
 *
 * threads  plain data      memory  load, make and bend take it, free gives it back
 */
#ifndef KCL_TRACE_H
#define KCL_TRACE_H

#include <stdbool.h>
#include <stdint.h>

#define KCL_WHY          256
#define KCL_BLOCK_TOKENS 512u /* of the published traces */

struct kcl_trace {
    struct kcl_arrival {
        uint64_t at_ns;
        uint32_t tokens, answer; /* of the prompt, of the answer */
        uint32_t hash, hashes;   /* the prompt's blocks begin there; the last may be in part */
    } * each;
    uint64_t *hash;
    uint32_t count, room, hash_count, hash_room;
};

/* Those of one time are spread until the next one: published times lie on a grid of seconds. False:
 * why names the line. */
bool kcl_trace_load(struct kcl_trace *t, const char *path, char why[KCL_WHY]);
/* Like the published trace of conversations: 3.4 requests a second, lengths by its quantiles, 39 of
 * 100 go on with an earlier prompt, and all share their first block. */
bool kcl_trace_make(struct kcl_trace *t, uint32_t count, uint64_t seed);

struct kcl_bend {
    double speed;         /* times are divided by it */
    double input, answer; /* lengths are multiplied by them */
    uint32_t copies;      /* of every request, with prompts of their own, between it and the next */
    bool even;            /* all alike: mean lengths, equal gaps, nothing in common */
};
/* from, bent; an empty trace: no memory. */
struct kcl_trace kcl_trace_bend(const struct kcl_trace *from, const struct kcl_bend *b);
void kcl_trace_free(struct kcl_trace *t);

#endif
