/* SPDX-License-Identifier: Apache-2.0 */
/*
 * api.h - what a client of OpenAI's interface asks for, out of the bytes of a body: each field is
 * honoured, or refused by its name; one whose value changes nothing is taken as if it weren't
 * there. Pure: no socket, no model.
 *
 * threads  plain data
 * memory   a struct kve_api_request owns its JSON, its lists and its biases; kve_api_free()
 * time     linear in the body
 */
#ifndef KVE_API_H
#define KVE_API_H

#include <cjson/cJSON.h>

#include "../gguf/gguf.h"
#include "../text/tok.h"
#include "request.h"

#define KVE_API_STOPS_MAX   16u
#define KVE_API_CHOICES_MAX 16u /* of one request: prompts x n */

enum kve_api_kind { KVE_API_COMPLETIONS, KVE_API_CHAT, KVE_API_TOKENIZE };

/* An answer that is none: OpenAI's error object and the HTTP status. */
struct kve_api_error {
    int status;
    const char *type, *code; /* code: NULL: none */
    char param[48];          /* the field, "": none */
    char message[KVE_WHY_BYTES];
};

/* What the server is: limits and defaults of requests. */
struct kve_api_terms {
    const char *model;       /* its name; another one asked for is 404 */
    uint32_t vocab;          /* ids that a prompt may have */
    uint32_t chat_tokens;    /* of a chat's answer that names no limit */
    uint64_t seed;           /* of a request that names none; the caller draws it */
    struct kve_request base; /* budget, exact_first, exact_last, timeout_ns */
};

struct kve_api_request {
    enum kve_api_kind kind;
    cJSON *body; /* owns the strings */
    bool stream, usage;
    bool logprobs;        /* q.logprobs is at least 1 then */
    bool max_said;        /* max_tokens is the client's, not a default */
    uint32_t n;           /* answers to each prompt */
    struct kve_request q; /* all but its tokens; its biases are shared by all answers */
    const char *stops[KVE_API_STOPS_MAX];
    uint32_t stop_count;
    /* completions and tokenize: each a string, or a list of ids in range */
    const cJSON *prompts[KVE_API_CHOICES_MAX];
    uint32_t prompt_count;
    /* chat, and tokenize instead of a prompt */
    struct kve_chat_message *messages;
    char **contents; /* NULL or malloc'ed: of those put together from parts */
    uint32_t message_count;
};

/*
 * Body text[0 .. n). KVW_E_INVALID with *e (status 400 or 404), KVW_E_NOMEM with *e (500).
 * kve_api_free is due in any case.
 */
KVW_NODISCARD kvw_err kve_api_parse(struct kve_api_request *r, enum kve_api_kind kind,
                                    const char *text, size_t n, const struct kve_api_terms *terms,
                                    struct kve_api_error *e);
void kve_api_free(struct kve_api_request *r);

/* Fill *e: status and type go together. param "": none. Returns KVW_E_INVALID. */
kvw_err kve_api_refuse(struct kve_api_error *e, int status, const char *param, const char *format,
                       ...) __attribute__((format(printf, 4, 5)));

/* The text as UTF-8: the offset of the first byte that is none, or n. */
size_t kve_api_utf8_end(const char *text, size_t n);

#endif
