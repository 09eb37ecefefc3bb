/* SPDX-License-Identifier: Apache-2.0 */
/*
 * report.h - what a request did, for people and for programs.
 *
 * Definitions (all times on one CLOCK_MONOTONIC, so both workers on one host):
 *   prefill start   the forward pass begins
 *   computed[l]     K and V of layer l of the whole prompt are written
 *   landed[l]       the same, digest checked, in the decode side's blocks
 *   exposed         max(landed) - max(computed), not below 0: the hand-over that the prefill didn't
 *                   hide
 *
 * threads  plain data    memory  the lists are malloc'ed; kve_report_free    time  none
 */
#ifndef KVE_REPORT_H
#define KVE_REPORT_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include <cjson/cJSON.h>

#include "../../kvwire/err.h"
#include "../../kvwire/wire.h"
#include "../model/logprob.h"

struct kve_report {
    const char *net;
    char model[64];
    uint32_t prompt_tokens, cached_tokens; /* cached: prefill had their K and V already */
    uint32_t *ids;                         /* the answer */
    uint32_t id_count, id_room;
    struct kve_logprob *logprobs; /* [id_count][logprobs_each], as kve_logprobs() has them */
    uint32_t logprobs_each;       /* 0: none were asked for */
    char *text; /* text_bytes of it, UTF-8, and a NUL; NUL characters may be inside. NULL: none */
    size_t text_bytes, text_room;
    uint64_t line; /* of the batch file, 0: none */
    char finish_reason[16];
    uint32_t layers;
    uint64_t sent_at_us; /* the router handed the request out */
    uint64_t start_us, prefill_end_us;
    uint64_t first_us, end_us; /* of the answer */
    uint64_t computed_us[KVW_LAYERS_MAX], sent_us[KVW_LAYERS_MAX], landed_us[KVW_LAYERS_MAX];
    uint32_t link_mbps; /* what the wire is taken for; 0: not known */
    uint64_t kv_bytes, wire_bytes;
    uint32_t chunks;
    char codecs[96];         /* "l0 54, raw 6"; chunks of each */
    double exposed_after_ms; /* of the variant that sends after prefill; < 0: not run */
    bool transferred;        /* there was a link */
};

void kve_report_free(struct kve_report *r);
/* A token more of the answer; its logprobs, if there are any, are those of no id until they are
 * filled in. KVW_E_NOMEM. */
kvw_err kve_report_id(struct kve_report *r, uint32_t id);
/* Add to the answer's text; KVW_E_NOMEM. */
kvw_err kve_report_text(struct kve_report *r, const char *at, size_t n);

double kve_report_exposed_ms(const struct kve_report *r);
double kve_report_prefill_tok_s(const struct kve_report *r);
/* Tokens after the first per second; 0 if there was only one. */
double kve_report_decode_tok_s(const struct kve_report *r);

/* One JSON object; the caller's. NULL: out of memory. */
cJSON *kve_report_json(const struct kve_report *r);
/* The same for a terminal of width columns. */
void kve_report_print(FILE *out, const struct kve_report *r, int width);

#endif
