/* SPDX-License-Identifier: Apache-2.0 */
/* node_trace.c - the file behind kvw_node_config.kv_trace. */
#include "node_trace.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct kvw_trace_file {
    FILE *file;
    uint64_t lost;
};

static long long ns_of(clockid_t clock)
{
    struct timespec t;

    clock_gettime(clock, &t);
    return (long long)t.tv_sec * 1000000000 + t.tv_nsec;
}

kvw_err kvw_trace_file_open(struct kvw_trace_file **out, const char *path, const char *name,
                            uint64_t instance, char *why)
{
    struct kvw_trace_file *f = calloc(1, sizeof(*f));
    char safe[64];
    size_t n = 0;

    if (f == NULL) {
        snprintf(why, 256, "no memory for kv_trace");
        return KVW_E_NOMEM;
    }
    for (; name != NULL && name[n] != '\0' && n < sizeof(safe) - 1; ++n)
        safe[n] =
            name[n] < 0x20 || name[n] > 0x7e || name[n] == '"' || name[n] == '\\' ? '\'' : name[n];
    safe[n] = '\0';
    if ((f->file = fopen(path, "we")) == NULL ||
        fprintf(f->file,
                "{\"kvwire_trace\":1,\"node\":\"%s\",\"instance\":\"%016llx\",\"wall_ns\":%lld}\n",
                safe, (unsigned long long)instance,
                ns_of(CLOCK_REALTIME) - ns_of(CLOCK_MONOTONIC)) < 0 ||
        fflush(f->file) != 0) {
        snprintf(why, 256, "kv_trace '%.150s': %s", path, strerror(errno));
        kvw_trace_file_close(f);
        return KVW_E_IO;
    }
    *out = f;
    return KVW_OK;
}

/* What a transfer wrote is in the file when it has ended. */
void kvw_trace_file_event(void *arg, const struct kvw_trace_event *ev)
{
    struct kvw_trace_file *f = arg;
    char line[KVW_TRACE_LINE_BYTES];
    const uint32_t n = kvw_trace_json(line, sizeof(line), ev);

    if (fwrite(line, 1, n, f->file) != n || (ev->kind == KVW_TRACE_END && fflush(f->file) != 0)) {
        clearerr(f->file);
        ++f->lost;
    }
}

uint64_t kvw_trace_file_lost(const struct kvw_trace_file *f)
{
    return f != NULL ? f->lost : 0;
}

void kvw_trace_file_close(struct kvw_trace_file *f)
{
    if (f == NULL)
        return;
    if (f->file != NULL)
        (void)fclose(f->file); /* what matters was flushed at each END */
    free(f);
}
