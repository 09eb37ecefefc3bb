/* SPDX-License-Identifier: Apache-2.0 */
#include "trace_file.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct trace_file {
    struct kvn_trace base;
    FILE *file;
};

/* A full disk shows as a file that ends early; the transfer matters more. */
static void write_event(struct kvn_trace *trace, const struct kvn_trace_event *ev)
{
    struct trace_file *f = (struct trace_file *)trace;
    char line[KVN_TRACE_LINE_BYTES];

    (void)fwrite(line, 1, kvn_trace_json(line, ev), f->file);
}

void kvn_trace_file_close(struct kvn_trace *trace)
{
    struct trace_file *f = (struct trace_file *)trace;

    if (f == NULL)
        return;
    fclose(f->file);
    free(f);
}

kvw_err kvn_trace_file_open(struct kvn_trace **trace, const char *path, const char *name,
                            char why[KVN_WHY_BYTES])
{
    struct trace_file *f = malloc(sizeof(*f));

    if (f == NULL) {
        snprintf(why, KVN_WHY_BYTES, "no memory for a trace");
        return KVW_E_NOMEM;
    }
    f->base = (struct kvn_trace){.event = write_event, .close = kvn_trace_file_close};
    f->file = fopen(path, "we");
    if (f->file == NULL) {
        snprintf(why, KVN_WHY_BYTES, "trace file '%.150s': %s", path, strerror(errno));
        free(f);
        return KVW_E_IO;
    }
    fprintf(f->file,
            "{\"qlog_format\":\"NDJSON\",\"title\":\"kvwire %s\",\"time_format\":\"ms\"}\n", name);
    *trace = &f->base;
    return KVW_OK;
}

kvw_err kvn_trace_config(struct kvn_trace **trace, const struct kvn_config *cfg, const char *name,
                         char why[KVN_WHY_BYTES])
{
    *trace = NULL;
    return cfg->trace == NULL ? KVW_OK : kvn_trace_file_open(trace, cfg->trace, name, why);
}
