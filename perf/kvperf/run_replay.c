/* SPDX-License-Identifier: Apache-2.0 */
/*
 * run_replay.c - mode replay, open loop: a request begins at the trace's time, however many others
 * are under way, and all its times count from then. Its prefill is a clock, as in kv; layers are
 * pushed when they are computed. --parallel requests have blocks; one more waits for some, which is
 * part of its latency, and what a closed loop would hide.
 */
#include "run_replay.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "stop.h"

#define REPLY_NS 30000000000ull
#define RETRY_NS 100000ull /* after a push that found no room */

#define NOBODY UINT32_MAX

/* Blocks on both sides, and the request that has them. */
struct place {
    uint32_t request; /* NOBODY: free */
    kvw_xfer_ref xfer;
    uint32_t layer;  /* the next to push */
    bool sent, back; /* the stream is over here; the server has the blocks back */
};

struct replay {
    struct kvp_replay_result *r;
    struct kvp_lane *lane;
    struct place places[64];
    uint32_t next; /* of the trace */
    uint64_t begun_ns;
    double freed_ms; /* when blocks last became free */
    bool blocked;    /* the next request is due and finds no blocks */
    bool again;      /* a push found no room */
};

static double now_ms(const struct replay *x)
{
    return (double)(int64_t)(kvw_now_ns() - x->begun_ns) / 1e6;
}

/* When a layer of a request is to be pushed. */
static double due_ms(const struct replay *x, const struct place *p)
{
    return x->r->trace.each[p->request].at_ms +
           kvp_replay_prefill_ms(x->r, p->request) * (p->layer + 1) / x->r->o.geometry.layers;
}

/* --- beginning -------------------------------------------------------------------------------- */

static bool stream(struct replay *x, uint32_t at, const char *key)
{
    struct kvp_replay_result *r = x->r;
    struct kvw_group_blocks rows[KVP_GROUPS_MAX];
    struct kvw_stream_args args = {.size = sizeof(args),
                                   .pool = x->lane->pool,
                                   .key = kvw_key_of(key),
                                   .tokens = r->trace.each[x->next].tokens,
                                   .groups = rows,
                                   .group_bytes = sizeof(rows[0]),
                                   .deadline_ns = kvw_now_ns() + r->o.timeout_ns,
                                   .codec = kvp_client_codec(&r->o, 1)};
    char said[KVP_WHY] = "";

    args.group_count = kvp_cache_blocks(r->c.cache, at, args.tokens, r->o.shuffled, false, rows);
    const kvw_err err =
        kvw_node_stream(x->lane->node, &args, &x->places[at].xfer, said, sizeof(said));

    if (err != KVW_OK)
        snprintf(r->why, sizeof(r->why), "a stream can't be opened: %.200s",
                 said[0] != '\0' ? said : kvw_strerror(err));
    return err == KVW_OK;
}

static bool begin(struct replay *x, uint32_t at)
{
    struct kvp_replay_result *r = x->r;
    const struct kvp_arrival *a = &r->trace.each[x->next];
    cJSON *msg = kvp_msg("want");
    const double now = now_ms(x);
    char key[80];

    snprintf(key, sizeof(key), "kvperf %llx replay %u", (unsigned long long)r->c.session, x->next);
    cJSON_AddNumberToObject(msg, "request", x->next);
    cJSON_AddNumberToObject(msg, "slot", at);
    cJSON_AddNumberToObject(msg, "tokens", a->tokens);
    cJSON_AddStringToObject(msg, "key", key);
    if (!kvp_line_send(&r->c.line, msg, r->why)) {
        r->status = KVP_EXIT_SERVER;
        return false;
    }
    x->places[at] = (struct place){.request = x->next};
    if (!stream(x, at, key)) {
        r->status = KVP_EXIT_FAILED;
        return false;
    }
    r->each[x->next].begun = true;
    const double could_ms = x->blocked ? fmax(a->at_ms, x->freed_ms) : a->at_ms;

    r->each[x->next].wait_ms = could_ms - a->at_ms;
    r->each[x->next].lag_ms = fmax(0, now - could_ms);
    x->blocked = false;
    ++r->begun;
    ++x->next;
    return true;
}

static uint32_t free_place(const struct replay *x)
{
    for (uint32_t i = 0; i < x->r->o.parallel; ++i)
        if (x->places[i].request == NOBODY)
            return i;
    return NOBODY;
}

static bool begin_due(struct replay *x)
{
    while (x->next < x->r->trace.count && x->r->trace.each[x->next].at_ms <= now_ms(x)) {
        const uint32_t at = free_place(x);

        if (at == NOBODY) {
            x->blocked = true;
            break;
        }
        if (!begin(x, at))
            return false;
    }
    return true;
}

/* --- pushing ---------------------------------------------------------------------------------- */

static void push_due(struct replay *x)
{
    struct kvp_replay_result *r = x->r;
    const uint32_t layers = r->o.geometry.layers;

    x->again = false;
    for (uint32_t i = 0; i < r->o.parallel; ++i) {
        struct place *p = &x->places[i];

        while (p->request != NOBODY && !p->sent && p->layer < layers && due_ms(x, p) <= now_ms(x)) {
            if (kvw_node_push(x->lane->node, p->xfer, p->layer, r->trace.each[p->request].tokens,
                              NULL) == KVW_E_AGAIN) {
                x->again = true;
                break;
            }
            r->push_lag_ms = fmax(r->push_lag_ms, now_ms(x) - due_ms(x, p));
            if (++p->layer == layers)
                (void)!kvw_node_commit(x->lane->node, p->xfer, "kvperf", 6);
        }
    }
}

/* --- what comes back -------------------------------------------------------------------------- */

static void let_go(struct replay *x, struct place *p)
{
    if (!p->sent || !p->back)
        return;
    p->request = NOBODY;
    x->freed_ms = now_ms(x);
}

static void note_failure(struct replay *x, uint32_t request, int32_t err, const char *text)
{
    struct kvp_replay_result *r = x->r;

    if (r->each[request].err != KVW_OK)
        return; /* the other side said so, too */
    r->each[request].err = err;
    ++r->failed;
    r->timed_out += err == KVW_E_DEADLINE;
    kvp_intervals_add(&r->intervals, -1, 0);
    if (r->first_failure[0] == '\0')
        snprintf(r->first_failure, sizeof(r->first_failure), "request %u: %s%s%.150s", request,
                 kvw_strerror((kvw_err)err), text[0] != '\0' ? ": " : "", text);
}

static void take_events(struct replay *x)
{
    struct kvw_core_event ev;

    while (kvp_lane_event(x->lane, &ev))
        for (uint32_t i = 0; i < x->r->o.parallel && ev.kind == KVW_CEV_XFER_DONE; ++i) {
            struct place *p = &x->places[i];

            if (p->request == NOBODY || p->sent || p->xfer.value != ev.xfer.value)
                continue;
            p->sent = true;
            if (ev.err != KVW_OK)
                note_failure(x, p->request, ev.err, ev.text);
            let_go(x, p);
        }
}

static void take_got(struct replay *x, const cJSON *msg, uint32_t request)
{
    struct kvp_replay_result *r = x->r;
    struct kvp_replayed *e = &r->each[request];
    const int32_t err = (int32_t)kvp_msg_number(msg, "err", -1000, 0, KVW_E_PROTOCOL);
    const int64_t at = (int64_t)kvp_msg_ns(msg, "ns") + r->c.offset_ns;

    if (e->over)
        return;
    e->over = true;
    if (err != KVW_OK) {
        note_failure(x, request, err, kvp_msg_text(msg, "text", ""));
        return;
    }
    const double ready = r->trace.each[request].at_ms + kvp_replay_prefill_ms(r, request);
    const double raw = kvp_msg_number(msg, "raw_bytes", 0, 1e15, 0);

    e->landed_ms = (double)(at - (int64_t)x->begun_ns) / 1e6;
    ++r->done;
    r->raw_bytes += (uint64_t)raw;
    r->wire_bytes += (uint64_t)kvp_msg_number(msg, "wire_bytes", 0, 1e15, 0);
    kvp_intervals_add(&r->intervals, fmax(0, e->landed_ms - ready), raw);
}

static void take_free(struct replay *x, const cJSON *msg, struct place *p)
{
    static const double noise_max[] = {0, 0.04, 0.18}; /* result.c has the same, by kvw_budget */
    struct kvp_replay_result *r = x->r;
    const uint32_t budget = r->o.codecs[0].budget;
    const double wrong = kvp_msg_number(msg, "wrong", 0, 1e15, 0);
    const double noise = kvp_msg_number(msg, "noise", 0, 1e300, 1e300);
    const double signal = kvp_msg_number(msg, "signal", 0, 1e300, 0);

    r->check.bytes += (uint64_t)kvp_msg_number(msg, "compared", 0, 1e15, 0);
    r->check.wrong += (uint64_t)wrong;
    r->data_wrong |=
        budget == 0 ? wrong > 0 : noise > signal * noise_max[budget] * noise_max[budget];
    p->back = true;
    let_go(x, p);
}

/* All that the server has said by now; false: it is gone, or said something else. */
static bool take_messages(struct replay *x)
{
    struct kvp_replay_result *r = x->r;
    cJSON *msg;

    while ((msg = kvp_line_poll(&r->c.line, r->why)) != NULL) {
        const char *type = kvp_msg_type(msg);
        const uint32_t at = (uint32_t)kvp_msg_number(msg, "slot", 0, r->o.parallel - 1, NOBODY);
        struct place *p = at != NOBODY ? &x->places[at] : NULL;

        if (strcmp(type, "got") == 0 && p != NULL && p->request != NOBODY)
            take_got(x, msg, p->request);
        else if (strcmp(type, "free") == 0 && p != NULL && p->request != NOBODY)
            take_free(x, msg, p);
        else
            snprintf(r->why, sizeof(r->why), "%.200s",
                     strcmp(type, "error") == 0 ? kvp_msg_text(msg, "text", "an error")
                                                : "the server said what a replay has no place for");
        cJSON_Delete(msg);
        if (r->why[0] != '\0')
            break;
    }
    if (r->why[0] != '\0')
        r->status = KVP_EXIT_SERVER;
    return r->why[0] == '\0';
}

/* --- the loop --------------------------------------------------------------------------------- */

static bool all_free(const struct replay *x)
{
    for (uint32_t i = 0; i < x->r->o.parallel; ++i)
        if (x->places[i].request != NOBODY)
            return false;
    return true;
}

/* When there is something to do, whatever happens. */
static uint64_t wake_ns(const struct replay *x)
{
    const struct kvp_replay_result *r = x->r;
    double ms = 1e15;

    if (x->next < r->trace.count && free_place(x) != NOBODY)
        ms = r->trace.each[x->next].at_ms;
    for (uint32_t i = 0; i < r->o.parallel; ++i)
        if (x->places[i].request != NOBODY && !x->places[i].sent &&
            x->places[i].layer < r->o.geometry.layers)
            ms = fmin(ms, due_ms(x, &x->places[i]));
    if (ms > now_ms(x) + 50)
        ms = now_ms(x) + 50; /* intervals */
    const uint64_t at = x->begun_ns + (uint64_t)(fmax(0, ms) * 1e6), soon = kvw_now_ns() + RETRY_NS;

    return x->again && at < soon ? soon : at;
}

static void run_loop(struct replay *x)
{
    struct kvp_replay_result *r = x->r;
    const int fds[] = {r->c.line.fd, kvw_node_fd(x->lane->node)};
    /* The last to begin may wait for all before it. */
    const double most_ms = r->trace.each[r->trace.count - 1].at_ms + 1e-6 * (double)REPLY_NS +
                           2e-6 * (double)r->o.timeout_ns * (1 + r->trace.count / r->o.parallel);

    while ((x->next < r->trace.count || !all_free(x)) && !kvp_stopped() && now_ms(x) < most_ms) {
        take_events(x);
        if (!take_messages(x) || !begin_due(x))
            return;
        push_due(x);
        kvp_intervals_look(&r->intervals);
        (void)kvp_wait_fds(fds, 2, wake_ns(x));
    }
}

static bool say(struct kvp_replay_result *r, cJSON *msg, const char *reply, cJSON **got)
{
    *got = kvp_line_send(&r->c.line, msg, r->why)
               ? kvp_line_expect(&r->c.line, reply, kvw_now_ns() + REPLY_NS, r->why)
               : NULL;
    if (*got == NULL)
        r->status = KVP_EXIT_SERVER;
    return *got != NULL;
}

static cJSON *announcement(struct kvp_replay_result *r)
{
    const struct kvp_options *o = &r->o;
    cJSON *msg = kvp_msg("replay");

    cJSON_AddNumberToObject(msg, "lane", (double)(kvp_client_lane(&r->c, 1) - r->c.lanes));
    cJSON_AddNumberToObject(msg, "shuffled", o->shuffled);
    cJSON_AddNumberToObject(msg, "budget", o->codecs[0].budget);
    cJSON_AddNumberToObject(msg, "verify", o->verify);
    cJSON_AddNumberToObject(msg, "flip", o->flip);
    cJSON_AddNumberToObject(msg, "timeout_s", (double)o->timeout_ns / 1e9);
    return msg;
}

static void measure(struct kvp_replay_result *r)
{
    struct replay *x = calloc(1, sizeof(*x));
    cJSON *got = NULL;

    if (x == NULL) {
        r->status = KVP_EXIT_FAILED;
        snprintf(r->why, sizeof(r->why), "no memory for a replay");
        return;
    }
    x->r = r;
    x->lane = kvp_client_lane(&r->c, 1);
    for (uint32_t i = 0; i < r->o.parallel; ++i)
        x->places[i].request = NOBODY;
    if (say(r, announcement(r), "ready", &got)) {
        cJSON_Delete(got);
        kvp_intervals_begin(&r->intervals, &r->o);
        x->begun_ns = kvw_now_ns();
        const uint64_t cpu_ns = kvp_cpu_ns();

        run_loop(x);
        r->took_ms = now_ms(x);
        r->send_cpu_s = (double)(kvp_cpu_ns() - cpu_ns) / 1e9;
        kvp_intervals_end(&r->intervals);
        if (r->status == KVP_EXIT_OK && !kvp_stopped() &&
            say(r, kvp_msg("end"), "replayed", &got)) {
            r->recv_cpu_s = (double)kvp_msg_ns(got, "cpu_ns") / 1e9;
            cJSON_Delete(got);
        }
    }
    if (kvp_stopped())
        r->status = KVP_EXIT_INTERRUPTED;
    free(x);
}

/* --- figures ---------------------------------------------------------------------------------- */

static struct kvp_spread spread_of(const struct kvp_replay_result *r, double *values, int which)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < r->trace.count; ++i) {
        const struct kvp_replayed *e = &r->each[i];
        const double at = r->trace.each[i].at_ms, took = e->landed_ms - at;
        const bool landed = e->over && e->err == KVW_OK;

        if (which < 2 ? landed : e->begun)
            values[n++] = which == 0   ? took
                          : which == 1 ? fmax(0, took - kvp_replay_prefill_ms(r, i))
                          : which == 2 ? e->wait_ms
                                       : e->lag_ms;
    }
    return kvp_spread_of(values, n);
}

static void make_rates(struct kvp_replay_result *r)
{
    double last_ms = 0, bytes = 0;

    for (uint32_t i = 0; i < r->trace.count; ++i) {
        bytes += (double)kvp_geometry_bytes(&r->o.geometry, r->trace.each[i].tokens);
        if (r->each[i].over && r->each[i].err == KVW_OK)
            last_ms = fmax(last_ms, r->each[i].landed_ms);
    }
    /* Offered: what would land if every hand-over ended with its prefill. */
    double span_ms = 0;

    for (uint32_t i = 0; i < r->trace.count; ++i)
        span_ms = fmax(span_ms, r->trace.each[i].at_ms + kvp_replay_prefill_ms(r, i));
    r->offered_per_s = span_ms > 0 ? 1000.0 * r->trace.count / span_ms : 0;
    r->offered_bytes_per_s = span_ms > 0 ? 1000 * bytes / span_ms : 0;
    r->achieved_per_s = last_ms > 0 ? 1000.0 * r->done / last_ms : 0;
    r->achieved_bytes_per_s = last_ms > 0 ? 1000 * (double)r->raw_bytes / last_ms : 0;
}

static void judge(struct kvp_replay_result *r)
{
    if (r->status != KVP_EXIT_OK)
        return;
    if (r->data_wrong) {
        r->status = KVP_EXIT_DATA;
        snprintf(r->why, sizeof(r->why), "%llu of %llu bytes that arrived differ",
                 (unsigned long long)r->check.wrong, (unsigned long long)r->check.bytes);
    } else if (r->done < r->trace.count) {
        r->status = KVP_EXIT_FAILED;
        snprintf(r->why, sizeof(r->why), "%u of %u requests failed, %u of them timed out; %.150s",
                 r->trace.count - r->done, r->trace.count, r->timed_out, r->first_failure);
    } else if (r->o.max_lag_ms > 0 && r->lag.p99 > r->o.max_lag_ms) {
        r->status = KVP_EXIT_THRESHOLD;
        snprintf(r->why, sizeof(r->why),
                 "this program began requests %.3f ms late (p99), --max-lag-ms is %g: the figures "
                 "are its own",
                 r->lag.p99, r->o.max_lag_ms);
    } else if (r->o.max_exposed_ms >= 0 && r->exposed.p50 > r->o.max_exposed_ms) {
        r->status = KVP_EXIT_THRESHOLD;
        snprintf(r->why, sizeof(r->why),
                 "the median of the exposed time is %.3f ms, --max-exposed-ms is %g",
                 r->exposed.p50, r->o.max_exposed_ms);
    }
}

static void finish(struct kvp_replay_result *r)
{
    double *values = malloc(r->trace.count * sizeof(*values));
    struct kvp_spread *const to[] = {&r->latency, &r->exposed, &r->wait, &r->lag};
    char why[KVP_WHY];

    for (int i = 0; values != NULL && i < 4; ++i)
        *to[i] = spread_of(r, values, i);
    free(values);
    make_rates(r);
    judge(r);
    if (r->status == KVP_EXIT_INTERRUPTED)
        snprintf(r->why, sizeof(r->why), "stopped; the figures are those until then");
    if (r->status == KVP_EXIT_SERVER && r->o.host != NULL) {
        snprintf(why, sizeof(why), "%s", r->why);
        snprintf(r->why, sizeof(r->why), "server %.60s: %.180s", r->o.host, why);
    }
}

/* --- the whole -------------------------------------------------------------------------------- */

/* What of the options only the trace can tell. */
static bool fits(struct kvp_replay_result *r)
{
    const struct kvp_geometry *g = &r->o.geometry;
    const double needs = (double)kvp_geometry_bytes(g, r->trace.longest) * r->o.parallel;

    if (needs > r->o.memory_max) {
        fprintf(stderr,
                "kvperf: --max-memory %g: %u prompts of %u tokens are %.2f GB on each side; a "
                "smaller --scale, --tokens or --parallel needs less\n",
                r->o.memory_max / 1e9, r->o.parallel, r->trace.longest, needs / 1e9);
        return false;
    }
    for (uint32_t i = 0; i < g->group_count; ++i)
        if (g->groups[i].kind == KVW_GROUP_WINDOW && r->o.verify) {
            fprintf(stderr, "kvperf: replay can't compare a model with windows, as its blocks hold "
                            "other tokens in each request: --no-verify\n");
            return false;
        }
    return true;
}

static int run(struct kvp_replay_result *r)
{
    char why[KVP_WHY];

    if (!kvp_trace_load(&r->trace, &r->o, why)) {
        fprintf(stderr, "kvperf: %s\n", why);
        return KVP_EXIT_FAILED;
    }
    if (!fits(r))
        return KVP_EXIT_USAGE;
    r->o.tokens = r->trace.longest;
    r->each = calloc(r->trace.count, sizeof(r->each[0]));
    if (r->each == NULL) {
        fprintf(stderr, "kvperf: no memory for %u requests\n", r->trace.count);
        return KVP_EXIT_FAILED;
    }
    r->status = kvp_client_open(&r->c, &r->o, r->o.tokens, r->why);
    if (r->status == KVP_EXIT_OK)
        measure(r);
    finish(r);
    const struct kvp_out out = {.o = &r->o,
                                .status = r->status,
                                .why = r->why,
                                .of = r,
                                .print = kvp_replay_print,
                                .json = kvp_replay_json,
                                .csv = kvp_replay_csv};

    return kvp_out(&out);
}

int kvp_run_replay(const struct kvp_options *o)
{
    struct kvp_replay_result *r = calloc(1, sizeof(*r));
    int status;

    if (r == NULL) {
        fprintf(stderr, "kvperf: no memory\n");
        return KVP_EXIT_FAILED;
    }
    r->o = *o;
    r->c.line.fd = -1;
    status = run(r);
    kvp_client_close(&r->c);
    kvp_trace_free(&r->trace);
    free(r->each);
    free(r);
    return status;
}
