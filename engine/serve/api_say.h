/* SPDX-License-Identifier: Apache-2.0 */
/*
 * api_say.h - what OpenAI's interface answers: objects as JSON. Pure.
 *
 * threads  plain data
 * memory   every text is malloc'ed by cJSON and the caller's: cJSON_free(). NULL: out of memory
 * time     linear in the text
 */
#ifndef KVE_API_SAY_H
#define KVE_API_SAY_H

#include "api.h"

/* Tokens first .. first+count-1 of an answer. */
struct kve_api_logprobs {
    const struct kve_tok *tok;
    const uint32_t *ids;
    const struct kve_logprob *logprobs; /* [each] a token, its own first; all of the answer's */
    uint32_t each, first, count;
    uint32_t *offset; /* of token first in the answer, in characters; brought along to the end */
};

struct kve_api_choice {
    const char *text; /* bytes of it */
    size_t bytes;
    const char *finish;                      /* NULL: it goes on */
    const struct kve_api_logprobs *logprobs; /* NULL: none */
};

/* Who answers; the same for every piece of an answer. */
struct kve_api_head {
    bool chat;
    const char *id, *model;
    uint64_t created; /* seconds since 1970 */
};

struct kve_api_usage {
    uint32_t prompt, completion, cached; /* cached: of the prompts' */
};

/* The whole answer. */
char *kve_api_say(const struct kve_api_head *h, const struct kve_api_choice *choices,
                  uint32_t count, const struct kve_api_usage *usage);
/* A piece of the answer number index. first: it carries the role (chat). usage: NULL, or said as
 * null, as OpenAI does when include_usage was asked for, if null_usage. */
char *kve_api_say_piece(const struct kve_api_head *h, uint32_t index,
                        const struct kve_api_choice *c, bool first, bool null_usage);
/* The last piece of a stream with include_usage: no choices. */
char *kve_api_say_usage(const struct kve_api_head *h, const struct kve_api_usage *usage);
/* api_logprobs.c: the field logprobs of a choice, or null. False: out of memory. A token's text is
 * UTF-8, U+FFFD where its bytes are none; text_offset of a completion counts characters. */
bool kve_api_add_logprobs(cJSON *choice, bool chat, const struct kve_api_logprobs *l);
char *kve_api_say_error(const struct kve_api_error *e);
char *kve_api_say_models(const char *model, uint64_t created, uint32_t context);
char *kve_api_say_tokens(const uint32_t *tokens, size_t count, uint32_t context);

#endif
