/* SPDX-License-Identifier: Apache-2.0 */
/*
 * out.h - what a run leaves: a table or JSON on standard output, JSON and CSV in files, a sentence
 * on standard error, an exit status. The same for every mode that measures.
 *
 * threads  one      memory  none kept      time  none
 */
#ifndef KVP_OUT_H
#define KVP_OUT_H

#include <cjson/cJSON.h>
#include <stdio.h>

#include "client.h"
#include "stats.h"

#define KVP_SCHEMA 1 /* of the JSON; schema.json */

struct kvp_out {
    const struct kvp_options *o;
    enum kvp_exit status;
    const char *why; /* a sentence; empty: none */
    const void *of;  /* what was measured */
    void (*print)(FILE *f, const void *of);
    cJSON *(*json)(const void *of); /* the caller deletes what it returns; NULL: no memory */
    void (*csv)(FILE *f, const void *of);
};

/* Print and write all that the options ask for. Returns the exit status. */
int kvp_out(const struct kvp_out *out);

/* Fields that every mode's object has: schema, tool, version, mode, start, path. c NULL: nobody was
 * reached. */
cJSON *kvp_json_head(const char *mode, const struct kvp_options *o, const struct kvp_client *c);
void kvp_json_end(cJSON *to, enum kvp_exit status, const char *why);
cJSON *kvp_json_spread(const struct kvp_spread *s);

#endif
