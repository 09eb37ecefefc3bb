/* SPDX-License-Identifier: Apache-2.0 */
/*
 * up.c - `kvserve up`: starts the workers and HTTP, turns the loop that both live in, starts a lost
 * pair, or a lost one of several, again, and ends: first by letting what runs come to its end, then
 * at once.
 */
#include "up.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "clock.h"
#include "http.h"

#define KEY_BYTES_MAX  512
#define IDLE_S         60
#define LOOK_NS        (500 * KVE_MS)
#define READY_EXTRA_NS (30 * KVE_S) /* loading a model, beside the wait for the peer */
#define LAST_BYTES_NS  (2 * KVE_S)  /* replies may still be read so long */
#define END_STEPS      200          /* of 20 ms: past what a dispatch waits for last words */
#define RESTART_GAP_NS (2 * KVE_S)

const bool kve_up_built = true;

static _Atomic int signals, last_signal, at_once;
static _Atomic int wake_fd = -1;

void kve_up_interrupt(int sig)
{
    const int saved = errno, fd = wake_fd;
    const uint64_t one = 1;

    last_signal = sig;
    if (++signals > 1)
        at_once = sig;
    if (fd >= 0 && write(fd, &one, sizeof(one)) < 0)
        errno = saved; /* it is full: awake already */
    errno = saved;
}

struct up {
    const struct kve_up_config *cfg;
    struct event_base *base;
    struct event *worker[KVE_WORKERS_MAX], *turn, *signaled;
    uint64_t again_ns[KVE_WORKERS_MAX]; /* when a lost one of several starts again. 0: it isn't */
    int fd;                             /* of signals */
    struct kve_prompts prompts;
    struct kve_dispatch_config dispatch_cfg;
    struct kve_dispatch dispatch;
    struct kve_front front;
    struct kve_metrics metrics;
    struct kve_http_config http_cfg;
    struct kve_http *http;
    char model[128], key[KEY_BYTES_MAX + 1];
    bool workers;         /* they are started */
    bool ready, told;     /* they were, once; the URL was printed */
    uint64_t ready_by_ns; /* or all is given up */
    uint64_t start_at_ns; /* of a lost pair, again. 0: it isn't lost */
    uint64_t end_by_ns;   /* a drain's last replies. 0: not yet */
    bool failed;
    char why[KVE_WHY_BYTES];
};

/* ---- workers ---- */

static void on_worker(evutil_socket_t fd, short what, void *arg)
{
    struct up *u = arg;

    (void)fd, (void)what;
    event_active(u->turn, EV_TIMEOUT, 0);
}

static void forget_worker(struct up *u, uint32_t i)
{
    if (u->worker[i] != NULL)
        event_free(u->worker[i]);
    u->worker[i] = NULL;
}

static void forget_workers(struct up *u)
{
    for (uint32_t i = 0; i < KVE_WORKERS_MAX; ++i)
        forget_worker(u, i);
}

static bool watch_worker(struct up *u, uint32_t i)
{
    const int fd = u->dispatch.spawn.at[i].channel.fd;

    u->worker[i] = event_new(u->base, fd, EV_READ | EV_PERSIST, on_worker, u);
    if (u->worker[i] != NULL && event_add(u->worker[i], NULL) == 0)
        return true;
    snprintf(u->why, sizeof(u->why), "out of memory");
    return false;
}

static bool start_workers(struct up *u)
{
    bool ok = true;

    u->start_at_ns = 0;
    if (kve_dispatch_start(&u->dispatch, &u->dispatch_cfg) != KVW_OK) {
        memcpy(u->why, u->dispatch.why, sizeof(u->why));
        return false;
    }
    u->workers = true;
    u->ready_by_ns = kve_now_ns() + u->cfg->spawn.worker.open_timeout_ns + READY_EXTRA_NS;
    for (uint32_t i = 0; i < u->dispatch.spawn.count && ok; ++i)
        ok = watch_worker(u, i);
    return ok;
}

static void give_up(struct up *u, const char *why)
{
    if (!u->failed && why != u->why)
        snprintf(u->why, sizeof(u->why), "%.300s", why);
    u->failed = true;
    event_base_loopbreak(u->base);
}

/* One of the pair is gone, or doesn't end what it should: both are started again. */
static void replace_workers(struct up *u)
{
    const char *why = u->dispatch.failed ? u->dispatch.why : "router: a worker doesn't answer";

    if (!u->ready || u->cfg->spawn.prefill_at != NULL) {
        give_up(u, why);
        return;
    }
    fprintf(stderr, "kvserve: %s; starting the workers again\n", why);
    forget_workers(u);
    kve_dispatch_fail_all(&u->dispatch, why);
    for (int i = 0; i < END_STEPS && u->dispatch.tickets != NULL; ++i) {
        kve_dispatch_step(&u->dispatch);
        usleep(20000);
    }
    kve_dispatch_stop(&u->dispatch);
    u->workers = false;
    u->ready = false;
    u->metrics.restarts++;
    u->start_at_ns = kve_now_ns() + RESTART_GAP_NS;
}

/* One of several is gone, or doesn't end what it should: it alone is started again. */
static void replace_one(struct up *u, struct kve_spawned *w)
{
    const uint64_t now = kve_now_ns();
    const uint32_t i = w->index;

    if (u->again_ns[i] == 0) {
        if (w->channel.fd < 0)
            fprintf(stderr, "kvserve: %s; starting it again\n", w->why);
        else
            fprintf(stderr, "kvserve: %s doesn't do what it should; starting it again\n", w->name);
        forget_worker(u, i);
        kve_dispatch_end_worker(&u->dispatch, w, "it didn't do what it should");
        u->dispatch.failed = false; /* the others go on, and the next one has its own reason */
        u->metrics.restarts++;
        u->again_ns[i] = now + RESTART_GAP_NS;
    } else if (now >= u->again_ns[i]) {
        u->again_ns[i] = 0;
        if (kve_spawn_again(&u->dispatch.spawn, w, u->why) == KVW_OK && watch_worker(u, i))
            return;
        fprintf(stderr, "kvserve: %s: %s\n", w->name, u->why);
        kve_spawn_end(w);
        u->again_ns[i] = now + RESTART_GAP_NS;
    }
}

static void look_at_several(struct up *u)
{
    struct kve_spawn *s = &u->dispatch.spawn;

    for (uint32_t i = 0; i < s->count; ++i)
        if (!kve_dispatch_alive(&s->at[i]))
            replace_one(u, &s->at[i]);
}

/* ---- the turn ---- */

static void tell(struct up *u)
{
    u->ready = true;
    if (u->told)
        return;
    u->told = true;
    printf("%s\n", kve_http_url(u->http));
    fflush(stdout);
    fprintf(stderr, "kvserve: %s answers; POST /v1/chat/completions, or open the page\n", u->model);
}

static void arm(struct up *u)
{
    const uint64_t now = kve_now_ns(), due = kve_front_due_ns(&u->front);
    uint64_t left = due > now ? due - now : 0;

    if (left > LOOK_NS)
        left = LOOK_NS;
    const struct timeval t = {.tv_sec = (time_t)(left / KVE_S),
                              .tv_usec = (suseconds_t)(left % KVE_S / 1000 + 1)};
    event_add(u->turn, &t);
}

/* True: all is over. */
static bool drained(struct up *u)
{
    const uint64_t now = kve_now_ns();

    if (at_once != 0)
        return true;
    if (signals == 0 || u->front.queued > 0 || u->front.active > 0)
        return false;
    if (u->end_by_ns == 0)
        u->end_by_ns = now + LAST_BYTES_NS;
    return !kve_http_busy(u->http) || now > u->end_by_ns;
}

/* A channel that has closed isn't watched any more, before its number is another one's. */
static void look_at_channels(struct up *u)
{
    for (uint32_t i = 0; i < u->dispatch.spawn.count; ++i)
        if (u->worker[i] != NULL && u->dispatch.spawn.at[i].channel.fd < 0)
            forget_worker(u, i);
}

static void turn_workers(struct up *u)
{
    const bool was = u->dispatch.failed;

    kve_front_step(&u->front);
    look_at_channels(u);
    if (!was && u->dispatch.failed && !u->ready)
        give_up(u, u->dispatch.why);
    else if (u->ready && u->dispatch.spawn.count > 2)
        look_at_several(u);
    else if (!kve_dispatch_goes_on(&u->dispatch))
        replace_workers(u);
    else if (!u->ready && kve_dispatch_all_ready(&u->dispatch))
        tell(u);
    else if (!u->ready && kve_now_ns() > u->ready_by_ns)
        give_up(u, "router: the workers did not find each other in time");
}

static void on_turn(evutil_socket_t fd, short what, void *arg)
{
    struct up *u = arg;

    (void)fd, (void)what;
    if (u->workers) {
        turn_workers(u);
    } else if (signals != 0) { /* a drain without workers */
        kve_front_fail_all(&u->front, "router: the workers are gone");
    } else if (u->start_at_ns != 0 && kve_now_ns() >= u->start_at_ns) {
        if (!start_workers(u))
            give_up(u, u->why);
    }
    if (drained(u))
        event_base_loopbreak(u->base);
    else
        arm(u);
}

static void wake(void *arg)
{
    struct up *u = arg;

    event_active(u->turn, EV_TIMEOUT, 0);
}

static void on_signal(evutil_socket_t fd, short what, void *arg)
{
    struct up *u = arg;
    uint64_t n;

    (void)what;
    if (read(fd, &n, sizeof(n)) < 0)
        return;
    if (at_once == 0 && u->front.active + u->front.queued > 0)
        fprintf(stderr, "kvserve: ending after %u requests; once more ends at once\n",
                u->front.active + u->front.queued);
    kve_http_drain(u->http);
    event_active(u->turn, EV_TIMEOUT, 0);
}

/* ---- begin and end ---- */

static bool read_key(struct up *u)
{
    FILE *f;
    bool ok;

    if (u->cfg->key_file == NULL)
        return true;
    f = fopen(u->cfg->key_file, "r");
    ok = f != NULL && fgets(u->key, sizeof(u->key), f) != NULL;
    if (f != NULL)
        fclose(f);
    u->key[strcspn(u->key, "\r\n")] = '\0';
    for (const char *c = u->key; *c != '\0'; ++c)
        ok = ok && *c > ' ' && *c <= '~';
    if (ok && u->key[0] != '\0')
        return true;
    snprintf(u->why, sizeof(u->why),
             "--api-key-file %.200s: it has no first line of printable characters",
             u->cfg->key_file);
    return false;
}

static void name_model(struct up *u)
{
    const char *path = u->cfg->spawn.worker.model_path;
    const char *slash = strrchr(path, '/');

    snprintf(u->model, sizeof(u->model), "%s", slash != NULL ? slash + 1 : path);
    char *dot = strrchr(u->model, '.');
    if (dot != NULL && dot != u->model && strcmp(dot, ".gguf") == 0)
        *dot = '\0';
}

static bool open_http(struct up *u)
{
    const struct kve_up_config *cfg = u->cfg;

    u->http_cfg = (struct kve_http_config){
        .listen = cfg->listen,
        .key = cfg->key_file != NULL ? u->key : NULL,
        .body_bytes = cfg->body_bytes,
        .connections = cfg->connections,
        .idle_s = IDLE_S,
        .terms = {.model = u->model,
                  .vocab = kve_tok_vocab(u->prompts.tok),
                  .chat_tokens = cfg->chat_tokens,
                  .base = {.timeout_ns = cfg->timeout_ns,
                           .reuse = !cfg->no_reuse,
                           .budget = cfg->budget,
                           .exact_first = cfg->exact_first,
                           .exact_last = cfg->exact_last}},
        .prompts = &u->prompts,
        .front = &u->front,
        .metrics = &u->metrics,
        .wake = wake,
        .arg = u,
    };
    return kve_http_open(&u->http, u->base, &u->http_cfg, u->why) == KVW_OK;
}

static bool open_loop(struct up *u)
{
    u->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    u->base = event_base_new();
    if (u->base != NULL && u->fd >= 0) {
        u->turn = evtimer_new(u->base, on_turn, u);
        u->signaled = event_new(u->base, u->fd, EV_READ | EV_PERSIST, on_signal, u);
    }
    if (u->turn != NULL && u->signaled != NULL && event_add(u->signaled, NULL) == 0)
        return true;
    snprintf(u->why, sizeof(u->why), "no event loop: %s", strerror(errno));
    return false;
}

static bool open_up(struct up *u)
{
    u->dispatch_cfg = (struct kve_dispatch_config){.spawn = u->cfg->spawn, .stop = &at_once};
    kve_front_open(&u->front, &(struct kve_front_config){.d = &u->dispatch,
                                                         .slots = u->cfg->sequences,
                                                         .queue_max = u->cfg->queue,
                                                         .place = u->cfg->place});
    kve_metrics_open(&u->metrics);
    name_model(u);
    if (!read_key(u) ||
        kve_prompts_open(&u->prompts, u->cfg->spawn.worker.model_path, u->why) != KVW_OK ||
        !open_loop(u) || !open_http(u))
        return false;
    u->dispatch_cfg.tok = u->prompts.tok;
    wake_fd = u->fd;
    return start_workers(u);
}

static void close_up(struct up *u)
{
    if (u->workers) {
        kve_front_fail_all(&u->front, u->failed ? u->why : "interrupted");
        for (int i = 0; i < END_STEPS && u->dispatch.tickets != NULL; ++i) {
            kve_dispatch_step(&u->dispatch);
            usleep(20000);
        }
        if (u->http != NULL)
            event_base_loop(u->base, EVLOOP_NONBLOCK); /* what was said goes out */
        forget_workers(u);
        kve_dispatch_stop(&u->dispatch);
    }
    kve_http_close(u->http);
    if (u->turn != NULL)
        event_free(u->turn);
    if (u->signaled != NULL)
        event_free(u->signaled);
    if (u->base != NULL)
        event_base_free(u->base);
    wake_fd = -1;
    if (u->fd >= 0)
        close(u->fd);
    kve_prompts_close(&u->prompts);
    kve_front_close(&u->front);
}

int kve_up_main(const struct kve_up_config *cfg)
{
    static struct up u; /* some kilobytes */
    bool ok;

    u = (struct up){.cfg = cfg, .fd = -1};
    ok = open_up(&u);
    if (ok) {
        event_active(u.turn, EV_TIMEOUT, 0);
        event_base_dispatch(u.base);
        ok = !u.failed;
    }
    if (!ok)
        fprintf(stderr, "kvserve up: %s\n", u.why);
    u.failed = !ok;
    close_up(&u);
    return !ok ? 1 : at_once != 0 ? 128 + at_once : 0;
}
