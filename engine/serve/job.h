/* SPDX-License-Identifier: Apache-2.0 */
/*
 * job.h - a worker as its kinds of work see it: its state, and what all of them ask of it. For
 * worker.c, prefill.c and decode.c.
 *
 * threads  the worker's own (the compute thread) only
 * memory   a struct kve_worker is worker.c's; a sequence's block table is malloc'ed
 * time     kve_worker_wait_xfer() waits; no other call does, but for a router that doesn't read
 *          (until channel.write_by_ns)
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
    struct kve_decodes *decodes; /* decode.c's; NULL: this is no DECODE */
    /* worker.c's, for decode.c: takes what the router says; a channel that ends sets canceled */
    void (*listen)(struct kve_worker *w);
    float *logits;              /* [vocab], of a decode worker [KVE_SEQUENCES_MAX][vocab] */
    bool canceled;              /* the router took the current request back */
    uint64_t request_id;        /* of the current one, 0: none */
    char with[KVE_WORKER_NAME]; /* the peer that takes part in it */
};

const char *kve_worker_name(const struct kve_worker *w);

/* Look for a cancel or a hang-up without blocking; sets and returns w->canceled. Another request is
 * refused to the router, which hears that the worker is busy, and declined to the other worker. */
bool kve_worker_canceled(struct kve_worker *w);
/* Tell the router, and the terminal, about the link if its state, its peers, its error or the
 * reason has changed since the last call. */
void kve_worker_tell_link(struct kve_worker *w);
/* Wait until x is done; a cancel, a hang-up or until_ns aborts it. Returns once x->done. */
void kve_worker_wait_xfer(struct kve_worker *w, struct kve_xfer *x, uint64_t until_ns);
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

/* ---- prefill.c, decode.c ---- */

/* The kinds of work; each request ends by a "prefilled" or "finished", with err and text. */
void kve_serve_prefill(struct kve_worker *w, const struct kve_request *r);
void kve_serve_local(struct kve_worker *w, const struct kve_request *r);

/* A decode worker has many requests at once: w->decodes. KVW_E_NOMEM. */
KVW_NODISCARD kvw_err kve_decodes_open(struct kve_worker *w);
void kve_decodes_close(struct kve_worker *w);
/* Lend its blocks and return; *r is taken. False: there are too many, or one with its id: *r stays
 * the caller's. */
bool kve_decodes_begin(struct kve_worker *w, struct kve_request *r);
void kve_decodes_cancel(struct kve_worker *w, uint64_t id);
/* Look at the transfers, write the next token of every answer in one pass. False: there is none to
 * write now. */
bool kve_decodes_turn(struct kve_worker *w);
/* The router is gone: all requests end, all blocks come back. Waits for the transfers. */
void kve_decodes_end(struct kve_worker *w);

/* Of prefill.c, for kve_serve_local: run the prompt, fill computed_ns per layer, sample the first
 * token. x: NULL without a link. */
struct kve_prefilled {
    uint64_t start_ns, end_ns;
    uint64_t computed_ns[KVW_LAYERS_MAX];
    struct kve_first first;
    uint32_t cached; /* tokens of the prompt that weren't computed */
};
kvw_err kve_prefill_run(struct kve_worker *w, const struct kve_request *r, struct kve_seq *seq,
                        struct kve_xfer *x, struct kve_prefilled *p);
/* Says "prefilled". err, text: how it ended. */
void kve_prefill_say(struct kve_worker *w, const struct kve_request *r,
                     const struct kve_prefilled *p, const struct kve_xfer *x, kvw_err err,
                     const char *text);

#endif
