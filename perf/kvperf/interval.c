/* SPDX-License-Identifier: Apache-2.0 */
/* interval.c - figures while a run goes on. */
#include "interval.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "out.h"
#include "stats.h"

#define GIB 1073741824.0

void kvp_intervals_begin(struct kvp_intervals *t, const struct kvp_options *o)
{
    if (t->o != NULL || o->interval_s <= 0)
        return;
    t->o = o;
    t->begun_ns = t->from_ns = kvw_now_ns();
    if (!o->json && !o->json_stream)
        printf("%19s %7s %7s %9s %9s %9s %9s %9s\n", "interval, s", "done", "failed", "GB/s",
               "GiB/s", "p50 ms", "p99 ms", "max ms");
}

static void tell_json(const struct kvp_intervals *t, double from_s, double to_s,
                      const struct kvp_spread *s)
{
    cJSON *o = cJSON_CreateObject();
    char *text;

    cJSON_AddStringToObject(o, "event", "interval");
    cJSON_AddNumberToObject(o, "from_s", from_s);
    cJSON_AddNumberToObject(o, "to_s", to_s);
    cJSON_AddNumberToObject(o, "done", t->count);
    cJSON_AddNumberToObject(o, "failed", t->failed);
    cJSON_AddNumberToObject(o, "bytes_raw", t->bytes);
    cJSON_AddNumberToObject(o, "gb_per_s", t->bytes / (to_s - from_s) / 1e9);
    cJSON_AddNumberToObject(o, "gib_per_s", t->bytes / (to_s - from_s) / GIB);
    if (s->n > 0)
        cJSON_AddItemToObject(o, "ms", kvp_json_spread(s));
    text = cJSON_PrintUnformatted(o);
    if (text != NULL)
        printf("%s\n", text);
    cJSON_free(text);
    cJSON_Delete(o);
}

static void tell(struct kvp_intervals *t, uint64_t to_ns)
{
    const double from_s = (double)(t->from_ns - t->begun_ns) / 1e9;
    const double to_s = (double)(to_ns - t->begun_ns) / 1e9;
    const struct kvp_spread s = kvp_spread_of(t->ms, t->count);

    if (t->o->json_stream)
        tell_json(t, from_s, to_s, &s);
    else if (!t->o->json)
        printf("%8.2f - %8.2f %7u %7u %9.3f %9.3f %9.3f %9.3f %9.3f\n", from_s, to_s, t->count,
               t->failed, t->bytes / (to_s - from_s) / 1e9, t->bytes / (to_s - from_s) / GIB, s.p50,
               s.p99, s.max);
    (void)fflush(stdout); /* what is wrong with it is said at the end */
    t->count = t->failed = 0;
    t->bytes = 0;
    t->from_ns = to_ns;
}

/* An interval ends where it was to end, however late somebody looks. */
void kvp_intervals_look(struct kvp_intervals *t)
{
    const uint64_t each_ns = t->o != NULL ? (uint64_t)(t->o->interval_s * 1e9) : 0;

    while (t->o != NULL && kvw_now_ns() >= t->from_ns + each_ns)
        tell(t, t->from_ns + each_ns);
}

void kvp_intervals_add(struct kvp_intervals *t, double ms, double bytes)
{
    if (t->o == NULL)
        return;
    kvp_intervals_look(t);
    if (ms >= 0 && t->count == t->room) {
        double *more = realloc(t->ms, (2 * (size_t)t->room + 64) * sizeof(*more));

        if (more == NULL)
            return;
        t->ms = more;
        t->room = 2 * t->room + 64;
    }
    if (ms >= 0)
        t->ms[t->count++] = ms;
    else
        ++t->failed;
    t->bytes += bytes;
}

void kvp_intervals_end(struct kvp_intervals *t)
{
    kvp_intervals_look(t);
    if (t->o != NULL && t->count + t->failed > 0 && kvw_now_ns() > t->from_ns)
        tell(t, kvw_now_ns());
    if (t->o != NULL && !t->o->json && !t->o->json_stream)
        printf("\n");
    free(t->ms);
    memset(t, 0, sizeof(*t));
}
