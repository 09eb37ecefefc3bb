/* SPDX-License-Identifier: Apache-2.0 */
/*
 * job.h - a worker as its work sees it: its state, and what both parts of a request ask of it. For
 * worker.c, prefill.c and decode.c.
 *
 * threads  the worker's own (the compute thread) only
 * memory   a struct kve_worker is worker.c's; a sequence's block table is malloc'ed
 * time     no call waits, but kve_decodes_end(), and for a router that doesn't read (until
 *          channel.write_by_ns)
 */
#ifndef KVE_JOB_H
#define KVE_JOB_H

#include "../gguf/gguf.h"
#include "../model/device.h"
#include "../model/kvcache.h"
#include "../model/model.h"
#include "../model/sample.h"
#include "../session/store.h"
#include "../text/tok.h"
#include "control.h"
#include "first.h"
#include "link.h"
#include "request.h"
#include "worker.h"

#define KVE_IDLE_POLL_MS 500 /* a lost wake-up would cost no more than this */

struct kve_worker {
    const struct kve_worker_config *cfg;
    struct kve_gguf *gguf;
    struct kve_model *model;
    struct kve_tok *tok;
    const struct kve_model_config *mc;
    struct kve_kvcache kv;
    struct kve_run *run;
    struct kve_device device; /* of the run and the cache; gpu NULL: the CPU's */
    struct kve_link *link;    /* NULL: LOCAL */
    struct kve_store *store;  /* the prefix cache on disk; NULL: none */
    struct kve_channel channel;
    /* The link as the router was told of it last; seen_state 0: not at all */
    kve_link_state seen_state;
    uint32_t seen_peers, seen_turns;
    kvw_err seen_err;
    char seen_text[KVW_TEXT_BYTES_MAX + 1];
    struct kve_decodes *decodes; /* decode.c's */
    /* worker.c's, for a pass: takes what the router says; a channel that ends sets canceled */
    void (*listen)(struct kve_worker *w);
    float *logits;              /* [KVE_SEQUENCES_MAX][vocab] */
    bool canceled;              /* nobody is there to hear an answer */
    uint64_t request_id;        /* of the current one, 0: none */
    char with[KVE_WORKER_NAME]; /* the peer that takes part in it */
};

const char *kve_worker_name(const struct kve_worker *w);

/* What the worker does of a request that says so or doesn't. */
enum kve_request_part kve_worker_part(const struct kve_worker *w, enum kve_request_part said);
/* A request that can't be taken now: the router hears it, and so does the other worker, which has
 * it, too, and would wait for our part. decline: there is none of that id under way here. */
void kve_worker_busy(struct kve_worker *w, const cJSON *obj, bool decline);
/* Tell the router, and the terminal, about the link if its state, its peers, its error or the
 * reason has changed since the last call. */
void kve_worker_tell_link(struct kve_worker *w);
/* Blocks for r's prompt and more tokens behind it: a malloc'ed table in *seq, whose tokens say how
 * many of the prompt's are there already, where r wants that. KVW_E_NOBLOCKS with a sentence,
 * KVW_E_NOMEM. */
KVW_NODISCARD kvw_err kve_worker_seq_open(struct kve_worker *w, struct kve_seq *seq,
                                          const struct kve_request *r, uint32_t more, char *why);
/* The prompt's K and V are there, exact: later requests may have them, if r wants it. */
void kve_worker_seq_keep(struct kve_worker *w, const struct kve_seq *seq,
                         const struct kve_request *r);
/* What prompts share comes in so many blocks at a time. */
uint32_t kve_worker_unit_blocks(const struct kve_worker *w);
void kve_worker_seq_close(struct kve_worker *w, struct kve_seq *seq);
/* The current request is refused before its transfer is open: the other worker, which has the same
 * request, hears it from the peer, too, and not only from the router. */
void kve_worker_decline(struct kve_worker *w, kvw_err err, const char *text);
/* The link's state as an error with a sentence, KVW_OK when the peer is there. */
kvw_err kve_worker_link_ready(struct kve_worker *w, char *why);
/* {"ev":name,"id":..} */
cJSON *kve_worker_event(const struct kve_worker *w, const char *name);
void kve_worker_say(struct kve_worker *w, cJSON *obj);

/* A request or message that isn't the one under way: {"ev":"error"} with the id of about, if about
 * has one, err and text. */
void kve_worker_say_error(struct kve_worker *w, const cJSON *about, kvw_err err, const char *text);
/* The channel has ended, or carries what is no message (KVW_E_PROTOCOL): the rest of it can't be
 * trusted either, and the channel is closed. */
void kve_worker_channel_ends(struct kve_worker *w, kvw_err err);

/* ---- decode.c ---- */

/* KVW_E_NOMEM. */
KVW_NODISCARD kvw_err kve_decodes_open(struct kve_worker *w);
void kve_decodes_close(struct kve_worker *w);
/* Begin and return; *r is taken. It ends by a "prefilled", a "finished" or both, with err and text.
 * False: there are too many, another prompt, or one with its id: *r stays the caller's. */
bool kve_decodes_begin(struct kve_worker *w, struct kve_request *r);
/* Is one of that id under way? */
bool kve_decodes_has(const struct kve_worker *w, uint64_t id);
void kve_decodes_cancel(struct kve_worker *w, uint64_t id);
/* Look at the transfers, write the next token of every answer in one pass, compute a piece of the
 * prompt. False: there is nothing to do now. */
bool kve_decodes_turn(struct kve_worker *w);
/* The router is gone: all requests end, all blocks come back. Waits for the transfers. */
void kve_decodes_end(struct kve_worker *w);

#endif
