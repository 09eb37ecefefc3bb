/* SPDX-License-Identifier: Apache-2.0 */
/*
 * work.h - a request as a worker has it, from its begin to its last word. For decode.c, which turns
 * all of them, and prefill.c, which computes prompts.
 *
 * A worker has any number of answers (KVE_SEQUENCES_MAX), and one prompt at a time, which is
 * computed in pieces: between two of them each answer gets its next token.
 *
 * threads  the compute thread only
 * memory   a request's is its own; freed by its end
 * time     no call waits for the link
 */
#ifndef KVE_WORK_H
#define KVE_WORK_H

#include "job.h"

enum kve_work_state {
    KVE_WORK_FREE = 0,
    KVE_WORK_COMPUTING, /* its prompt -> SENDING, WRITING (both parts are done here), or its end */
    KVE_WORK_SENDING,   /* the prompt's K and V, to their last byte -> its end */
    KVE_WORK_RECEIVING, /* blocks are lent -> WRITING, AHEAD, or its end */
    KVE_WORK_AHEAD,     /* on a GPU: the KV has come, and the first step is behind it on the stream;
                           the transfer's end will say whether it is right -> WRITING, or its end */
    KVE_WORK_WRITING,   /* the KV is there */
};

struct kve_answer {
    uint32_t tokens; /* said so far, the first included */
    uint64_t first_ns, end_ns;
    uint64_t ahead_ns;  /* the step after the first token began, ahead of the transfer's end */
    const char *reason; /* "stop" or "length" */
};

/* Of a prompt that is computed here. */
struct kve_prefilled {
    uint64_t start_ns, end_ns;
    uint64_t computed_ns[KVW_LAYERS_MAX];
    uint32_t cached; /* tokens of the prompt that weren't computed */
};

struct kve_work {
    enum kve_work_state state;
    enum kve_request_part part;
    struct kve_request r;
    struct kve_seq seq;
    struct kve_xfer x; /* of BOTH: none */
    struct kve_prefilled p;
    struct kve_answer a;
    struct kve_sampler *sampler;
    struct kve_first first; /* the prefill's token */
    struct kve_first last;  /* the token whose next one is wanted */
    uint64_t start_ns, until_ns;
    bool canceled, aborted;
    kvw_err failed; /* the step that was ahead; the prompt */
    char why[KVE_WHY_BYTES];
};

/* What is said from here on is of this request; NULL: of none. */
void kve_work_speak(struct kve_worker *w, const struct kve_work *j);
/* The token after these logits, with its logprobs if the request wants them. */
void kve_work_draw(const struct kve_worker *w, struct kve_work *j, const float *logits,
                   uint32_t position, struct kve_first *t);

/* ---- prefill.c: PREFILL and BOTH ---- */

/* Blocks, and of PREFILL the stream to who decodes. On an error a sentence is in j->why, and no
 * transfer is open. */
KVW_NODISCARD kvw_err kve_prompt_begin(struct kve_worker *w, struct kve_work *j);
/* The next piece of the prompt; beside: others get their tokens here. KVW_OK: it was the last one,
 * j->first is known, and committed where it is sent. KVW_E_AGAIN: there are more. */
KVW_NODISCARD kvw_err kve_prompt_piece(struct kve_worker *w, struct kve_work *j, bool beside);
/* Says "prefilled". err, text: how it ended. */
void kve_prompt_say(struct kve_worker *w, const struct kve_work *j, kvw_err err, const char *text);
/* PREFILL: its transfer is over. How it ended, and *text says it. */
kvw_err kve_prompt_outcome(const struct kve_worker *w, const struct kve_work *j, const char **text);

#endif
