/* SPDX-License-Identifier: Apache-2.0 */
/* front.c - a queue before the workers: turns, places, second tries. */
#include "front.h"

#include <stdio.h>
#include <string.h>

#include "clock.h"

static uint64_t blocks_of(const struct kve_spawned *w, uint64_t tokens)
{
    return w->block_tokens != 0 ? (tokens + w->block_tokens - 1) / w->block_tokens : 0;
}

/* Take it out of its list. */
static void take_out(struct kve_job **list, struct kve_job *j)
{
    while (*list != j)
        list = &(*list)->next;
    *list = j->next;
    j->next = NULL;
}

/* What route hears of a job's end, or of its way back into the queue. */
static void give_back(struct kve_front *f, struct kve_job *j)
{
    const bool whole = j->state == KVE_JOB_RUNNING && !j->failed;

    if (j->state == KVE_JOB_RUNNING && j->rep.prefill_end_us != 0)
        kve_place_prefilled(&f->place, &j->placed, &j->rep);
    kve_place_ended(&f->place, &j->placed, whole ? &j->rep : NULL);
}

static void end(struct kve_front *f, struct kve_job *j)
{
    give_back(f, j);
    kve_place_forget(&j->placed);
    if (j->state == KVE_JOB_QUEUED) {
        take_out(&f->queue, j);
        --f->queued;
    } else {
        take_out(&f->running, j);
        --f->active;
    }
    j->state = KVE_JOB_ENDED;
    j->ended(j);
}

static void end_queued(struct kve_front *f, struct kve_job *j, const char *why)
{
    j->failed = true;
    snprintf(j->ticket.why, sizeof(j->ticket.why), "%s", why);
    end(f, j);
}

static kvw_err on_text(void *arg, const char *at, size_t n)
{
    struct kve_job *j = arg;

    if (j->first_us == 0)
        j->first_us = kve_now_ns() / 1000;
    return j->text(j, at, n);
}

static void on_progress(void *arg, uint32_t tokens, uint32_t prompt_tokens)
{
    struct kve_job *j = arg;

    (void)prompt_tokens;
    kve_place_progress(&j->front->place, &j->placed, tokens);
}

/* A worker that had it was lost, and nobody has seen any of the answer: it waits once more, before
 * all others. */
static bool wait_again(struct kve_front *f, struct kve_job *j)
{
    if (!j->ticket.lost || j->again || j->first_us != 0 || kve_now_ns() >= j->until_ns)
        return false;
    give_back(f, j);
    take_out(&f->running, j);
    --f->active;
    kve_report_free(&j->rep);
    j->rep = (struct kve_report){0};
    j->failed = false;
    j->again = true;
    j->state = KVE_JOB_QUEUED;
    j->next = f->queue;
    f->queue = j;
    ++f->queued;
    ++f->restarted;
    return true;
}

static void on_ended(void *arg)
{
    struct kve_job *j = arg;

    j->failed = j->ticket.failed;
    if (wait_again(j->front, j))
        return;
    if (j->rep.first_us == 0 && j->first_us != 0) { /* decode says it of whole answers only */
        j->rep.first_us = j->first_us;
        j->rep.end_us = kve_now_ns() / 1000;
    }
    end(j->front, j);
}

void kve_front_open(struct kve_front *f, const struct kve_front_config *cfg)
{
    struct kve_place_config place = cfg->place;

    *f = (struct kve_front){.d = cfg->d, .slots = cfg->slots, .queue_max = cfg->queue_max};
    place.queue_max = cfg->queue_max;
    kve_place_open(&f->place, cfg->d, &place);
}

void kve_front_close(struct kve_front *f)
{
    kve_place_close(&f->place);
}

/* Could a worker of each kind hold it if it had nothing else? Those that aren't loaded have nothing
 * to say. */
static bool fits(const struct kve_front *f, const struct kve_job *j, char *why)
{
    const struct kve_spawn *s = &f->d->spawn;
    const struct kve_spawned *most[2] = {NULL, NULL}; /* prefill, decode */
    const uint64_t tokens[2] = {j->q.count, (uint64_t)j->q.count + j->q.max_tokens};

    for (uint32_t i = 0; i < s->count; ++i) {
        const int side = i >= s->prefills;

        if (s->at[i].loaded && (most[side] == NULL || s->at[i].kv_blocks > most[side]->kv_blocks))
            most[side] = &s->at[i];
    }
    for (int side = 0; side < 2; ++side) {
        if (most[side] == NULL || blocks_of(most[side], tokens[side]) <= most[side]->kv_blocks)
            continue;
        snprintf(why, KVE_WHY_BYTES,
                 "the prompt's %u tokens and an answer of %u need %llu KV blocks of %llu tokens, "
                 "the workers have %llu",
                 j->q.count, j->q.max_tokens, (unsigned long long)blocks_of(most[side], tokens[1]),
                 (unsigned long long)most[side]->block_tokens,
                 (unsigned long long)most[side]->kv_blocks);
        return false;
    }
    return true;
}

/* True: it goes back, and when it may come again. */
static bool refused(struct kve_front *f, struct kve_job *j, enum kve_route_verdict verdict)
{
    if (verdict != KVE_ROUTE_SHED)
        return false;
    j->retry_s = (uint32_t)((j->placed.d.retry_ns + KVE_S - 1) / KVE_S);
    j->retry_s += j->retry_s == 0;
    ++f->refused;
    return true;
}

kvw_err kve_front_submit(struct kve_front *f, struct kve_job *j, char *why)
{
    const uint64_t now = kve_now_ns();
    struct kve_job **at = &f->queue;

    why[0] = '\0';
    if (!fits(f, j, why))
        return KVW_E_NOBLOCKS;
    if (f->queued >= f->queue_max)
        return KVW_E_AGAIN;
    kve_place_look(&f->place, now);
    if (kve_place_ask(&f->place, &j->placed, &j->q, now) != KVW_OK)
        return KVW_E_NOMEM;
    if (kve_place_any(&f->place) &&
        refused(f, j, kve_place_decide(&f->place, &j->placed, false, now))) {
        snprintf(why, KVE_WHY_BYTES, "%s", j->placed.d.why);
        kve_place_forget(&j->placed);
        return KVW_E_AGAIN;
    }
    while (*at != NULL)
        at = &(*at)->next;
    *at = j;
    j->next = NULL;
    j->front = f;
    j->state = KVE_JOB_QUEUED;
    j->queued_ns = now;
    j->until_ns = now + j->q.timeout_ns;
    ++f->queued;
    f->place.route.waiting += !j->placed.given;
    return KVW_OK;
}

/* The turn in which the client was served last; 0: not lately. */
static uint64_t turn_of(const struct kve_front *f, uint64_t client)
{
    for (uint32_t i = 0; i < KVE_FRONT_CLIENTS; ++i)
        if (f->turns[i].turn != 0 && f->turns[i].client == client)
            return f->turns[i].turn;
    return 0;
}

/* In its own place, or in that of who was served longest ago. */
static void note_turn(struct kve_front *f, uint64_t client)
{
    uint32_t at = 0;

    for (uint32_t i = 0; i < KVE_FRONT_CLIENTS; ++i) {
        if (f->turns[i].turn != 0 && f->turns[i].client == client) {
            at = i;
            break;
        }
        if (f->turns[i].turn < f->turns[at].turn)
            at = i;
    }
    f->turns[at].client = client;
    f->turns[at].turn = ++f->turn;
}

/* Who of the queue is next, of those that are given to workers or of those that aren't; NULL: there
 * is none. */
static struct kve_job *next(const struct kve_front *f, bool given,
                            bool (*may)(const struct kve_front *f, const struct kve_job *j))
{
    struct kve_job *best = NULL;
    uint64_t least = UINT64_MAX;

    for (struct kve_job *j = f->queue; j != NULL; j = j->next) {
        const uint64_t turn = turn_of(f, j->client);

        if (j->placed.given == given && turn < least && (may == NULL || may(f, j))) {
            least = turn;
            best = j;
        }
    }
    return best;
}

/* One prompt at a time on a worker, so many answers on one that decodes. */
static bool has_room(const struct kve_front *f, const struct kve_job *j)
{
    const struct kve_route_decision *d = &j->placed.d;
    uint32_t answers = 0;

    for (const struct kve_job *r = f->running; r != NULL; r = r->next) {
        answers += r->placed.d.decode == d->decode;
        if (r->placed.d.prefill == d->prefill && !r->ticket.prefilled)
            return false;
    }
    return answers < f->slots && (d->prefill == d->decode || kve_place_room(&f->place, &j->placed));
}

static void start(struct kve_front *f, struct kve_job *j)
{
    struct kve_spawned *const at = f->d->spawn.at;
    const struct kve_route_decision *d = &j->placed.d;
    const uint64_t now = kve_now_ns();

    take_out(&f->queue, j);
    --f->queued;
    note_turn(f, j->client);
    j->next = f->running;
    f->running = j;
    ++f->active;
    j->state = KVE_JOB_RUNNING;
    kve_place_started(&f->place, &j->placed);
    j->hook = (struct kve_listener){
        .arg = j, .text = on_text, .progress = on_progress, .ended = on_ended};
    j->q.timeout_ns = j->until_ns > now + KVE_MS ? j->until_ns - now : KVE_MS;
    j->ticket.prefill = d->prefill != d->decode ? &at[d->prefill] : NULL;
    j->ticket.decode = &at[d->decode];
    kve_dispatch_begin_on(f->d, &j->ticket, &j->q, &j->rep, &j->hook);
}

/* Those that have waited for too long. */
static void expire(struct kve_front *f)
{
    const uint64_t now = kve_now_ns();
    struct kve_job *j = f->queue;

    while (j != NULL) {
        if (now <= j->until_ns) {
            j = j->next;
            continue;
        }
        end_queued(f, j, "router: the request's time ran out while it waited for its turn");
        j = f->queue; /* its end may have been that of others */
    }
}

/* What waits for a worker that doesn't take part any more waits for any other. */
static void take_back(struct kve_front *f)
{
    for (struct kve_job *j = f->queue; j != NULL; j = j->next)
        if (j->placed.given && (!kve_place_takes(&f->place, j->placed.d.prefill) ||
                                !kve_place_takes(&f->place, j->placed.d.decode)))
            give_back(f, j);
}

/* Give those that wait to workers, as long as there are blocks. */
static void place_queue(struct kve_front *f)
{
    struct kve_job *j;

    f->place.route.waiting = 0;
    while (kve_place_any(&f->place) && (j = next(f, false, NULL)) != NULL) {
        const enum kve_route_verdict verdict =
            kve_place_decide(&f->place, &j->placed, true, kve_now_ns());

        if (verdict == KVE_ROUTE_WAIT)
            break;
        if (refused(f, j, verdict))
            end_queued(f, j, j->placed.d.why);
    }
    for (j = f->queue; j != NULL; j = j->next)
        f->place.route.waiting += !j->placed.given;
}

/* Prefills that have ended. */
static void tell_prefilled(struct kve_front *f)
{
    for (struct kve_job *j = f->running; j != NULL; j = j->next)
        if (j->ticket.prefilled && j->rep.prefill_end_us != 0)
            kve_place_prefilled(&f->place, &j->placed, &j->rep);
}

void kve_front_step(struct kve_front *f)
{
    struct kve_job *j;

    kve_dispatch_step(f->d);
    tell_prefilled(f);
    expire(f);
    kve_place_look(&f->place, kve_now_ns());
    take_back(f);
    place_queue(f);
    while (kve_dispatch_goes_on(f->d) && (j = next(f, true, has_room)) != NULL)
        start(f, j);
}

void kve_front_cancel(struct kve_front *f, struct kve_job *j)
{
    if (j->state == KVE_JOB_QUEUED)
        end_queued(f, j, "router: canceled");
    else if (j->state == KVE_JOB_RUNNING)
        kve_dispatch_cancel(f->d, &j->ticket);
}

void kve_front_fail_all(struct kve_front *f, const char *why)
{
    kve_dispatch_fail_all(f->d, why);
    while (f->queue != NULL)
        end_queued(f, f->queue, why);
}

uint64_t kve_front_due_ns(const struct kve_front *f)
{
    uint64_t due = kve_dispatch_due_ns(f->d);

    for (const struct kve_job *j = f->queue; j != NULL; j = j->next)
        due = j->until_ns < due ? j->until_ns : due;
    return due;
}
