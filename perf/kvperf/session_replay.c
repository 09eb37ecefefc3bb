/* SPDX-License-Identifier: Apache-2.0 */
/*
 * session_replay.c - the receiver's part of a replay: an offer for each request that the client
 * wants, at any time, until it says end. What landed is compared and overwritten by a thread of its
 * own, which no request waits for but the next in the same blocks.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "server.h"
#include "stop.h"

#define SLOTS   64u
#define IDLE_NS 600000000000ull

enum step { FREE, OFFERED, TO_CHECK, CHECKED };

struct slot {
    enum step step; /* the main thread's, but TO_CHECK -> CHECKED, which is the checker's */
    kvw_xfer_ref xfer;
    uint32_t request, tokens;
    bool good; /* it landed well: compare */
    struct kvp_check found;
};

struct replaying {
    struct kvp_session *s;
    struct kvp_round_plan plan;
    struct slot slots[SLOTS];
    pthread_t checker;
    pthread_mutex_t lock; /* over steps and found while the checker runs */
    pthread_cond_t work;
    bool end;
    int told; /* an eventfd: something is CHECKED */
    uint64_t cpu_ns;
};

/* --- comparing -------------------------------------------------------------------------------- */

static struct slot *next_job(struct replaying *r)
{
    for (uint32_t i = 0; i < SLOTS; ++i)
        if (r->slots[i].step == TO_CHECK)
            return &r->slots[i];
    return NULL;
}

static void *check_all(void *arg)
{
    struct replaying *r = arg;
    const uint64_t one = 1;
    struct slot *job;

    pthread_mutex_lock(&r->lock);
    for (;;) {
        while ((job = next_job(r)) == NULL && !r->end)
            pthread_cond_wait(&r->work, &r->lock);
        if (job == NULL)
            break;
        const uint32_t at = (uint32_t)(job - r->slots);
        struct kvp_check found = {0};

        pthread_mutex_unlock(&r->lock);
        if (job->good && r->plan.flip)
            kvp_cache_flip(r->s->cache, at, job->tokens, r->plan.shuffled);
        if (job->good)
            found = kvp_cache_check(r->s->cache, &r->s->payload, at, job->tokens, r->plan.shuffled);
        kvp_cache_spoil(r->s->cache, at, job->tokens, r->plan.shuffled);
        pthread_mutex_lock(&r->lock);
        job->found = found;
        job->step = CHECKED;
        (void)!write(r->told, &one, sizeof(one));
    }
    pthread_mutex_unlock(&r->lock);
    return NULL;
}

static enum step step_of(struct replaying *r, uint32_t at)
{
    pthread_mutex_lock(&r->lock);
    const enum step step = r->slots[at].step;

    pthread_mutex_unlock(&r->lock);
    return step;
}

/* --- what the client says --------------------------------------------------------------------- */

static bool want(struct replaying *r, const cJSON *msg, char *why)
{
    const struct kvp_cache_config *cfg = &r->s->cache[0].cfg;
    const uint32_t at = (uint32_t)kvp_msg_number(msg, "slot", 0, cfg->requests - 1, UINT32_MAX);
    char said[KVP_WHY] = "";

    r->plan.tokens = (uint32_t)kvp_msg_number(msg, "tokens", 1, cfg->tokens, 0);
    if (at >= SLOTS || r->plan.tokens == 0 || step_of(r, at) != FREE) {
        snprintf(why, KVP_WHY, "a request's slot or tokens is missing, out of range, or taken");
        return false;
    }
    struct slot *slot = &r->slots[at];

    pthread_mutex_lock(&r->lock);
    *slot = (struct slot){.step = OFFERED,
                          .tokens = r->plan.tokens,
                          .request = (uint32_t)kvp_msg_number(msg, "request", 0, 4e9, 0)};
    pthread_mutex_unlock(&r->lock);
    const kvw_err err =
        kvp_session_offer(r->s, &r->plan, at, kvp_msg_text(msg, "key", "?"), &slot->xfer, said);

    if (err != KVW_OK)
        snprintf(why, KVP_WHY, "the server can't offer its blocks: %.200s",
                 said[0] != '\0' ? said : kvw_strerror(err));
    return err == KVW_OK;
}

/* All that the client has said by now. False: end, or why. */
static bool hear(struct replaying *r, char *why)
{
    for (;;) {
        cJSON *msg = kvp_line_poll(&r->s->line, why);
        const bool wants = msg != NULL && strcmp(kvp_msg_type(msg), "want") == 0;
        const bool ends = msg != NULL && strcmp(kvp_msg_type(msg), "end") == 0;
        const bool more = msg == NULL ? why[0] == '\0' : wants && want(r, msg, why);

        if (msg != NULL && !wants && !ends)
            snprintf(why, KVP_WHY, "%.40s in the middle of a replay", kvp_msg_type(msg));
        const bool none = msg == NULL;

        cJSON_Delete(msg);
        if (none || !more)
            return more;
    }
}

/* --- what it is told -------------------------------------------------------------------------- */

static bool landed(struct replaying *r, struct slot *slot, const struct kvw_core_event *ev,
                   char *why)
{
    cJSON *msg = kvp_msg("got");

    cJSON_AddNumberToObject(msg, "request", slot->request);
    cJSON_AddNumberToObject(msg, "slot", (double)(slot - r->slots));
    kvp_msg_put_ns(msg, "ns", kvw_now_ns());
    cJSON_AddNumberToObject(msg, "err", ev->err);
    cJSON_AddStringToObject(msg, "text", ev->text);
    cJSON_AddNumberToObject(msg, "raw_bytes", (double)ev->raw_bytes);
    cJSON_AddNumberToObject(msg, "wire_bytes", (double)ev->wire_bytes);
    pthread_mutex_lock(&r->lock);
    slot->good = ev->err == KVW_OK;
    slot->step = r->plan.verify ? TO_CHECK : CHECKED;
    pthread_cond_signal(&r->work);
    pthread_mutex_unlock(&r->lock);
    return kvp_line_send(&r->s->line, msg, why);
}

static bool take_events(struct replaying *r, char *why)
{
    struct kvw_core_event ev;

    while (kvp_lane_event(&r->s->lanes[r->plan.lane], &ev))
        for (uint32_t i = 0; i < SLOTS && ev.kind == KVW_CEV_XFER_DONE; ++i)
            if (step_of(r, i) == OFFERED && r->slots[i].xfer.value == ev.xfer.value &&
                !landed(r, &r->slots[i], &ev, why))
                return false;
    return true;
}

static bool tell_checked(struct replaying *r, char *why)
{
    for (uint32_t i = 0; i < SLOTS; ++i) {
        pthread_mutex_lock(&r->lock);
        const struct slot slot = r->slots[i];

        if (slot.step == CHECKED)
            r->slots[i].step = FREE;
        pthread_mutex_unlock(&r->lock);
        if (slot.step != CHECKED)
            continue;
        cJSON *msg = kvp_msg("free");

        cJSON_AddNumberToObject(msg, "request", slot.request);
        cJSON_AddNumberToObject(msg, "slot", i);
        cJSON_AddNumberToObject(msg, "compared", (double)slot.found.bytes);
        cJSON_AddNumberToObject(msg, "wrong", (double)slot.found.wrong);
        cJSON_AddNumberToObject(msg, "noise", slot.found.noise);
        cJSON_AddNumberToObject(msg, "signal", slot.found.signal);
        if (!kvp_line_send(&r->s->line, msg, why))
            return false;
    }
    return true;
}

/* --- the loop --------------------------------------------------------------------------------- */

static bool serve(struct replaying *r, char *why)
{
    const int fds[] = {r->s->line.fd, kvw_node_fd(r->s->lanes[r->plan.lane].node), r->told};
    uint64_t heard_ns = kvw_now_ns(), count;
    bool more = kvp_line_send(&r->s->line, kvp_msg("ready"), why);

    while (more && !kvp_stopped()) {
        const uint32_t ready = kvp_wait_fds(fds, 3, heard_ns + IDLE_NS);

        if ((ready & 4) != 0)
            (void)!read(r->told, &count, sizeof(count));
        if (ready == 0 && kvw_now_ns() >= heard_ns + IDLE_NS)
            return false;
        if ((ready & 1) != 0)
            heard_ns = kvw_now_ns();
        more = take_events(r, why) && tell_checked(r, why) && ((ready & 1) == 0 || hear(r, why));
    }
    return why[0] == '\0' && !kvp_stopped();
}

/* The end: what the run cost, after offers that nobody takes any more. */
static bool finish(struct replaying *r, char *why)
{
    cJSON *msg = kvp_msg("replayed");

    kvp_msg_put_ns(msg, "cpu_ns", kvp_cpu_ns() - r->cpu_ns);
    return kvp_line_send(&r->s->line, msg, why);
}

static bool run(struct replaying *r, char *why)
{
    if (!kvp_lane_wait_up(&r->s->lanes[r->plan.lane], why))
        return false;
    for (uint32_t i = 0; r->plan.verify && i < r->s->cache[0].cfg.requests; ++i)
        kvp_cache_spoil(r->s->cache, i, r->s->cache[0].cfg.tokens, r->plan.shuffled);
    if (pthread_create(&r->checker, NULL, check_all, r) != 0) {
        snprintf(why, KVP_WHY, "no thread to compare in");
        return false;
    }
    r->cpu_ns = kvp_cpu_ns();
    const bool ok = serve(r, why);

    for (uint32_t i = 0; i < SLOTS; ++i)
        if (step_of(r, i) == OFFERED)
            (void)!kvw_node_abort(r->s->lanes[r->plan.lane].node, r->slots[i].xfer,
                                  "the replay is over");
    pthread_mutex_lock(&r->lock);
    r->end = true;
    pthread_cond_signal(&r->work);
    pthread_mutex_unlock(&r->lock);
    pthread_join(r->checker, NULL);
    return ok && finish(r, why);
}

bool kvp_session_replay(struct kvp_session *s, const cJSON *msg, char why[KVP_WHY])
{
    struct replaying *r = calloc(1, sizeof(*r));
    bool ok = false;

    why[0] = '\0';
    if (r == NULL || s->lane_count == 0 || s->region != NULL || s->tp > 1) {
        snprintf(why, KVP_WHY, r == NULL ? "no memory for a replay" : "a replay before open");
        free(r);
        return false;
    }
    r->s = s;
    r->plan = (struct kvp_round_plan){
        .lane = (uint32_t)kvp_msg_number(msg, "lane", 0, s->lane_count - 1, 0),
        .shuffled = kvp_msg_number(msg, "shuffled", 0, 1, 0) > 0,
        .budget = (uint32_t)kvp_msg_number(msg, "budget", 0, 2, 0),
        .verify = kvp_msg_number(msg, "verify", 0, 1, 1) > 0,
        .flip = kvp_msg_number(msg, "flip", 0, 1, 0) > 0,
        .timeout_ns = (uint64_t)(kvp_msg_number(msg, "timeout_s", 0.1, 86400, 120) * 1e9),
    };
    pthread_mutex_init(&r->lock, NULL);
    pthread_cond_init(&r->work, NULL);
    r->told = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (r->told < 0)
        snprintf(why, KVP_WHY, "no eventfd");
    else
        ok = run(r, why);
    if (r->told >= 0)
        close(r->told);
    pthread_cond_destroy(&r->work);
    pthread_mutex_destroy(&r->lock);
    free(r);
    return ok;
}
