/* SPDX-License-Identifier: Apache-2.0 */
/* trace.c - a trace's lines, read and bent to the options. */
#include "trace.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define REQUESTS_MAX (1u << 22)

struct reading {
    const struct kvp_options *o;
    struct kvp_trace *t;
    double first_ms;
    uint32_t line, room;
};

static bool add(struct reading *r, double at_ms, double tokens)
{
    struct kvp_trace *t = r->t;

    if (t->count == r->room) {
        struct kvp_arrival *more = realloc(t->each, (2 * (size_t)r->room + 1024) * sizeof(*more));

        if (more == NULL)
            return false;
        t->each = more;
        r->room = 2 * r->room + 1024;
    }
    const double most = r->o->tokens > 0 ? r->o->tokens : KVW_XFER_TOKENS_MAX;
    const double scaled = fmax(1, round(tokens * r->o->scale));

    t->cut += scaled > most;
    t->each[t->count].at_ms = at_ms;
    t->each[t->count].tokens = (uint32_t)fmin(scaled, most);
    t->tokens += t->each[t->count].tokens;
    if (t->each[t->count].tokens > t->longest)
        t->longest = t->each[t->count].tokens;
    ++t->count;
    return true;
}

/* 1: taken; 0: beyond the duration; -1: why. */
static int take_line(struct reading *r, const char *text, char *why)
{
    cJSON *o = cJSON_Parse(text);
    const cJSON *at = cJSON_GetObjectItemCaseSensitive(o, "timestamp");
    const cJSON *length = cJSON_GetObjectItemCaseSensitive(o, "input_length");
    const double stamp = cJSON_IsNumber(at) ? at->valuedouble : NAN;
    const double tokens = cJSON_IsNumber(length) ? length->valuedouble : NAN;
    int taken = -1;

    cJSON_Delete(o);
    if (r->t->count == 0)
        r->first_ms = stamp;
    const double at_ms = (stamp - r->first_ms) / r->o->speed;

    if (!(tokens >= 1 && tokens <= 1e9) || !(fabs(stamp) <= 1e15))
        snprintf(why, KVP_WHY,
                 "--trace %.100s: line %u: no \"timestamp\" in ms and \"input_length\" in tokens",
                 r->o->trace, r->line);
    else if (at_ms < 0 || (r->t->count > 0 && at_ms < r->t->each[r->t->count - 1].at_ms))
        snprintf(why, KVP_WHY, "--trace %.100s: line %u: timestamp %g is before the line above it",
                 r->o->trace, r->line, stamp);
    else if (r->o->duration_s > 0 && at_ms >= 1000 * r->o->duration_s)
        taken = 0;
    else if (r->t->count == REQUESTS_MAX || !add(r, at_ms, tokens))
        snprintf(why, KVP_WHY, "--trace %.100s: no memory for more than %u requests", r->o->trace,
                 r->t->count);
    else
        taken = 1;
    return taken;
}

/* Published times lie on a grid of seconds: those of one time are spread until the next. */
static void spread(struct kvp_trace *t)
{
    for (uint32_t i = 0, end; i < t->count; i = end) {
        for (end = i; end < t->count && t->each[end].at_ms == t->each[i].at_ms; ++end)
            ;
        const double gap = end < t->count ? t->each[end].at_ms - t->each[i].at_ms : 0;
        const double from = t->each[i].at_ms;

        for (uint32_t k = i; k < end; ++k)
            t->each[k].at_ms = from + gap * (k - i) / (end - i);
    }
}

bool kvp_trace_load(struct kvp_trace *t, const struct kvp_options *o, char why[KVP_WHY])
{
    struct reading r = {.o = o, .t = t};
    FILE *f = fopen(o->trace, "r");
    char *text = NULL;
    size_t room = 0;
    int taken = 1;

    memset(t, 0, sizeof(*t));
    if (f == NULL) {
        snprintf(why, KVP_WHY, "--trace %.150s: %s", o->trace, strerror(errno));
        return false;
    }
    while (taken == 1 && getline(&text, &room, f) > 0) {
        ++r.line;
        if (text[strspn(text, " \t\r\n")] != '\0')
            taken = take_line(&r, text, why);
    }
    free(text);
    fclose(f);
    if (taken >= 0 && t->count == 0) {
        snprintf(why, KVP_WHY, "--trace %.150s: no request in it", o->trace);
        taken = -1;
    }
    if (taken < 0)
        kvp_trace_free(t);
    else if (o->spread)
        spread(t);
    return taken >= 0;
}

void kvp_trace_free(struct kvp_trace *t)
{
    free(t->each);
    memset(t, 0, sizeof(*t));
}
