/* SPDX-License-Identifier: Apache-2.0 */
/* front.c - a queue before a pair of workers: turns, places, blocks. */
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

static void end(struct kve_front *f, struct kve_job *j)
{
    if (j->state == KVE_JOB_QUEUED) {
        take_out(&f->queue, j);
        --f->queued;
    } else {
        take_out(&f->running, j);
        --f->active;
        f->blocks -= j->blocks;
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

static void on_ended(void *arg)
{
    struct kve_job *j = arg;

    j->failed = j->ticket.failed;
    if (j->rep.first_us == 0 && j->first_us != 0) { /* decode says it of whole answers only */
        j->rep.first_us = j->first_us;
        j->rep.end_us = kve_now_ns() / 1000;
    }
    end(j->front, j);
}

kvw_err kve_front_submit(struct kve_front *f, struct kve_job *j, char *why)
{
    const struct kve_spawned *decode = &f->d->spawn.decode, *prefill = &f->d->spawn.prefill;
    const uint64_t need = blocks_of(decode, (uint64_t)j->q.count + j->q.max_tokens);
    struct kve_job **at = &f->queue;

    if (need > decode->kv_blocks ||
        (prefill->name != NULL && blocks_of(prefill, j->q.count) > prefill->kv_blocks)) {
        snprintf(why, KVE_WHY_BYTES,
                 "the prompt's %u tokens and an answer of %u need %llu KV blocks of %llu tokens, "
                 "the workers have %llu",
                 j->q.count, j->q.max_tokens, (unsigned long long)need,
                 (unsigned long long)decode->block_tokens, (unsigned long long)decode->kv_blocks);
        return KVW_E_NOBLOCKS;
    }
    if (f->queued >= f->queue_max)
        return KVW_E_AGAIN;
    while (*at != NULL)
        at = &(*at)->next;
    *at = j;
    j->next = NULL;
    j->front = f;
    j->blocks = (uint32_t)need;
    j->state = KVE_JOB_QUEUED;
    j->queued_ns = kve_now_ns();
    j->until_ns = j->queued_ns + j->q.timeout_ns;
    ++f->queued;
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

struct kve_job *kve_front_next(const struct kve_front *f)
{
    struct kve_job *next = NULL;
    uint64_t least = UINT64_MAX;

    for (struct kve_job *j = f->queue; j != NULL; j = j->next) {
        const uint64_t turn = turn_of(f, j->client);

        if (turn < least) {
            least = turn;
            next = j;
        }
    }
    return next;
}

/* One prompt at a time on the prefill side. Alone, a worker does one request at a time. */
static bool has_room(const struct kve_front *f, const struct kve_job *j)
{
    const struct kve_dispatch *d = f->d;

    if (!kve_dispatch_ready(d) || !kve_dispatch_goes_on(d) || f->active >= f->slots)
        return false;
    if (d->spawn.prefill.name == NULL && f->active > 0)
        return false;
    for (const struct kve_job *r = f->running; r != NULL; r = r->next)
        if (!r->ticket.prefilled)
            return false;
    return f->blocks + j->blocks <= d->spawn.decode.kv_blocks;
}

static void start(struct kve_front *f, struct kve_job *j)
{
    const uint64_t now = kve_now_ns();

    take_out(&f->queue, j);
    --f->queued;
    note_turn(f, j->client);
    j->next = f->running;
    f->running = j;
    ++f->active;
    f->blocks += j->blocks;
    j->state = KVE_JOB_RUNNING;
    j->hook = (struct kve_listener){.arg = j, .text = on_text, .ended = on_ended};
    j->q.timeout_ns = j->until_ns > now + KVE_MS ? j->until_ns - now : KVE_MS;
    kve_dispatch_begin(f->d, &j->ticket, &j->q, &j->rep, &j->hook);
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

void kve_front_step(struct kve_front *f)
{
    struct kve_job *j;

    kve_dispatch_step(f->d);
    expire(f);
    while ((j = kve_front_next(f)) != NULL && has_room(f, j))
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
