/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hold.h - staging memory and what is in it: a *hold* is one request's state on its way in
 * (FILLING), waiting to be pulled (READY), or gone while its event waits to be taken (GONE).
 *
 * Holds lie side by side in one stretch of memory, in a list by address; what lies between two of
 * them is free. Each has a number that is given once in a core's life: it is what an OFFER names.
 *
 * threads  one      memory  a hold, its place and its progress: one allocation and one place
 * time     the core's now_ns
 */
#ifndef KVW_KV_HOLD_H
#define KVW_KV_HOLD_H

#include "../peer/core_state.h"

enum kvw_hold_state {
    KVW_HOLD_FILLING = 1, /* all copied and commit -> READY; its transfer fails -> freed */
    KVW_HOLD_READY,       /* pulled, until, dropped -> GONE */
    KVW_HOLD_GONE,        /* its event was taken -> freed */
};

struct kvw_hold_entries { /* of one group */
    uint32_t first, count;
};

struct kvw_hold {
    struct kvw_list all; /* core.holds.all; .gone once GONE */
    struct kvw_list filling;
    struct kvw_timer timer;  /* until */
    struct kvw_core_rec rec; /* STAGE_GONE: its place in the queue of events */
    enum kvw_hold_state state;
    uint32_t number, pool;
    kvw_key key;
    uint64_t ref; /* of the transfer that filled it */
    uint32_t tokens, pulls, pulling, pulled;
    uint64_t until_ns;
    uint64_t at, bytes;        /* in core.holds.mem */
    struct kvw_transfer *from; /* FILLING */
    struct kvw_place *place;
    struct kvw_hold_entries entries[KVW_GROUPS_MAX];
    uint32_t low;                   /* FILLING: every layer below it is copied in full */
    uint64_t *done[KVW_GROUPS_MAX]; /* rows copied, by plane as in kvw_place.planes */
    uint8_t note[KVW_COMMIT_NOTE_MAX];
    uint32_t note_bytes;
    uint64_t raw_bytes, wire_bytes; /* that pulls moved */
    uint32_t chunks;
};

/* Take the memory, if any is wanted. KVW_E_NOMEM. */
KVW_NODISCARD kvw_err kvw_holds_open(struct kvw_core *c, uint64_t bytes);
void kvw_holds_close(struct kvw_core *c);

/*
 * A hold for these entries, FILLING, with a number, in no transfer yet.
 *   KVW_E_AGAIN  no stretch is long enough now, or KVW_STAGES_MAX are there; why says how much is
 *   KVW_E_NOMEM  longer than all of the memory; or no memory for what goes with it
 */
KVW_NODISCARD kvw_err kvw_hold_new(struct kvw_core *c, struct kvw_hold **out,
                                   const struct kvw_place *like,
                                   const struct kvw_hold_entries *entries, char *why, size_t size);
/* Its staging memory is free from now on. READY: STAGE_GONE is queued; else it is freed. No
 * transfer fills or serves it. What came of it is remembered. */
void kvw_hold_end(struct kvw_core *c, struct kvw_hold *h, kvw_err err, const char *text);
/* A transfer that filled or served it has ended, once no job reads its blocks any more. */
void kvw_hold_transfer_ended(struct kvw_core *c, struct kvw_transfer *t);
/* GONE, and its event was taken. */
void kvw_hold_free(struct kvw_hold *h);

/* The one of that number that isn't GONE, NULL: none. */
struct kvw_hold *kvw_hold_find(const struct kvw_core *c, uint32_t number);
/* Why there is none; *text is static, or the core's until the next end. */
kvw_err kvw_hold_why(const struct kvw_core *c, uint32_t number, const char **text);

/* There may be something to copy. */
static inline void kvw_hold_wants(struct kvw_core *c, struct kvw_hold *h)
{
    kvw_list_want(&c->holds.filling, &h->filling);
    c->more = true;
}

/* --- references ------------------------------------------------------------------------------- */

struct kvw_hold_name {
    uint64_t instance;
    uint32_t number; /* never 0 */
    kvw_key key;
};

void kvw_hold_ref_encode(struct kvw_stage_ref *to, const struct kvw_hold_name *name);
/* KVW_E_FORMAT */
KVW_NODISCARD kvw_err kvw_hold_ref_decode(struct kvw_hold_name *out,
                                          const struct kvw_stage_ref *ref);

#endif
