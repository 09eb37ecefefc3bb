/* SPDX-License-Identifier: Apache-2.0 */
/*
 * worker.h - a serving process's inside: a model, its KV blocks, the link to the peer, and one
 * control channel over which requests come one after the other. A worker prefills, decodes, or
 * (local) does both.
 *
 * threads  kve_worker_main runs on the calling thread, which is the compute thread; the link has
 * its own. Several workers may live in one process (--net loop) memory   everything is given back
 * before it returns time     waits only in poll(), on the control channel and the link
 */
#ifndef KVE_WORKER_H
#define KVE_WORKER_H

#include "control.h"
#include "kvcache.h"
#include "link.h"
#include "model.h"
#include "request.h"
#include "sample.h"
#include "tok.h"

typedef enum kve_worker_role {
    KVE_WORKER_PREFILL = 1,
    KVE_WORKER_DECODE,
    KVE_WORKER_LOCAL, /* both, no link */
} kve_worker_role;

#define KVE_ENCODERS_MAX 16u

struct kve_worker_config {
    kve_worker_role role;
    const char *model_path;
    const char *net;   /* ignored by LOCAL */
    const char *local; /* as kvn_config.local */
    const char *peer;
    const char *fault;
    const char *cpus;         /* of the thread that moves packets (cpus.h); NULL: any */
    bool busy_poll;           /* that thread never sleeps */
    const char *control_path; /* listen here; NULL: control_fd is a connected channel */
    int control_fd;
    uint32_t threads;
    uint32_t kv_tokens;      /* capacity of the KV pool, 0: the model's context */
    uint32_t block_tokens;   /* 0: 16 */
    uint32_t prefill_tokens; /* per chunk, 0: the engine's default */
    uint64_t open_timeout_ns;
    uint64_t lease_ns; /* 0: default */
    uint8_t codec;     /* prefill: kvw_codec_id, 0: chosen by what is fastest */
    uint32_t encoders; /* prefill: threads that encode, 0: the link's own */
    bool quiet;        /* no lines on stderr but errors */
};

/*
 * Serve until the control channel ends (control_fd) or for ever (control_path; SIGTERM and SIGINT
 * end it). Returns the process's exit status: 0, or 1 after one sentence on stderr.
 */
int kve_worker_main(const struct kve_worker_config *cfg);
/* Ask every worker of this process to end; async-signal-safe. */
void kve_worker_stop_all(void);

/* What follows is shared by worker.c, prefill.c and decode.c. */

struct kve_worker {
    const struct kve_worker_config *cfg;
    struct kve_gguf *gguf;
    struct kve_model *model;
    struct kve_tok *tok;
    const struct kve_model_config *mc;
    struct kve_kvcache kv;
    struct kve_run *run;
    struct kve_link *link; /* NULL: LOCAL */
    struct kve_channel channel;
    kve_link_state seen_state; /* last one told to the router */
    uint32_t seen_peers;
    float *logits;       /* vocab */
    bool canceled;       /* the router took the current request back */
    uint64_t request_id; /* of the current one, 0: none */
};

const char *kve_worker_name(const struct kve_worker *w);

/* Look for a cancel or a hang-up without blocking; sets and returns w->canceled. */
bool kve_worker_canceled(struct kve_worker *w);
/* Tell the router about a change of the link's state, if there was one. */
void kve_worker_tell_link(struct kve_worker *w);
/* Wait until x is done; a cancel, a hang-up or until_ns aborts it. Returns once x->done. */
void kve_worker_wait_xfer(struct kve_worker *w, struct kve_xfer *x, uint64_t until_ns);
/* Blocks for tokens tokens: a malloc'ed table in *seq. KVW_E_NOBLOCKS with a sentence, KVW_E_NOMEM.
 */
KVW_NODISCARD kvw_err kve_worker_seq_open(struct kve_worker *w, struct kve_seq *seq,
                                          uint32_t tokens, char *why);
void kve_worker_seq_close(struct kve_worker *w, struct kve_seq *seq);
/* The link's state as an error with a sentence, KVW_OK when the peer is there. */
kvw_err kve_worker_link_ready(struct kve_worker *w, char *why);
/* {"ev":name,"id":..} */
cJSON *kve_worker_event(const struct kve_worker *w, const char *name);
void kve_worker_say(struct kve_worker *w, cJSON *obj);

/* The three kinds of work; each ends by saying "prefilled" or "finished", with err and text. */
void kve_serve_prefill(struct kve_worker *w, const struct kve_request *r);
void kve_serve_decode(struct kve_worker *w, const struct kve_request *r);
void kve_serve_local(struct kve_worker *w, const struct kve_request *r);

/* prefill.c, for kve_serve_local too: run the prompt, fill computed_ns per layer, sample the first
 * token. x: NULL without a link. */
struct kve_prefilled {
    uint64_t start_ns, end_ns;
    uint64_t computed_ns[KVW_LAYERS_MAX];
    uint32_t first_token;
};
kvw_err kve_prefill_run(struct kve_worker *w, const struct kve_request *r, struct kve_seq *seq,
                        struct kve_xfer *x, struct kve_prefilled *p);
/* Says "prefilled". err, text: how it ended. */
void kve_prefill_say(struct kve_worker *w, const struct kve_request *r,
                     const struct kve_prefilled *p, const struct kve_xfer *x, kvw_err err,
                     const char *text);

#endif
