/* SPDX-License-Identifier: Apache-2.0 */
/*
 * node.c - a core, its transport, and the thread that drives them.
 *
 * Two mutexes make the lock fair: who wants the core takes `turn` first and gives it up once it has
 * `core_lock`. So the node's thread, which would take core_lock again at once, stands behind a
 * caller that waits for it.
 *
 * A push comes from a thread that computes, which must not wait for chunks to be copied, still less
 * for a thread that holds the lock and isn't running. So one that finds the lock taken goes into
 * `left`, and whoever takes the lock next hands it to the core first: pushes stay in order, and a
 * commit finds them all.
 */
#include "node.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "batch/batch.h"
#include "gpu.h"
#include "node_state.h"
#include "node_trace.h"
#include "wire/le.h"

#define PATH_BYTES_MIN 40u /* of a struct kvw_node_path, as it was at first */
#define ROUNDS         64u /* polls of a core in one of an app-driven node */

uint64_t kvw_now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t clock_ns(void *arg)
{
    (void)arg;
    return kvw_now_ns();
}

/* --- the lock --------------------------------------------------------------------------------- */

static bool take_left(struct kvw_node *n, struct kvw_node_push_left *p)
{
    bool any;

    pthread_mutex_lock(&n->left_lock);
    any = n->left_head != n->left_tail;
    if (any)
        *p = n->left[n->left_head++ % KVW_NODE_LEFT];
    pthread_mutex_unlock(&n->left_lock);
    return any;
}

/* Under core_lock. NOTFOUND: it has ended, and its XFER_DONE says why. */
static void push_left(struct kvw_node *n)
{
    struct kvw_node_push_left p;

    while (take_left(n, &p)) {
        const kvw_err err = kvw_core_push(n->core, p.xfer, p.layer, p.tokens, NULL);
        char text[96];

        if (err == KVW_OK || err == KVW_E_NOTFOUND)
            continue;
        snprintf(text, sizeof(text), "a push of layer %u up to token %u: %s", p.layer, p.tokens,
                 kvw_strerror(err));
        (void)!kvw_core_abort(n->core, p.xfer, text); /* NOTFOUND: as above */
    }
}

void kvw_node_lock(struct kvw_node *n)
{
    pthread_mutex_lock(&n->turn);
    pthread_mutex_lock(&n->core_lock);
    pthread_mutex_unlock(&n->turn);
    push_left(n);
}

/* False: somebody else has it. */
bool kvw_node_try_lock(struct kvw_node *n)
{
    bool got;

    if (pthread_mutex_trylock(&n->turn) != 0)
        return false;
    got = pthread_mutex_trylock(&n->core_lock) == 0;
    pthread_mutex_unlock(&n->turn);
    if (got)
        push_left(n);
    return got;
}

void kvw_node_unlock(struct kvw_node *n)
{
    pthread_mutex_unlock(&n->core_lock);
}

/* An eventfd can't fill up in a life; interrupted writes are done again. */
static void signal_fd(int fd)
{
    const uint64_t one = 1;

    while (write(fd, &one, sizeof(one)) < 0 && errno == EINTR)
        ;
}

static void drain_fd(int fd)
{
    uint64_t count;

    while (read(fd, &count, sizeof(count)) < 0 && errno == EINTR)
        ;
}

/* Many calls, one write: until the thread has read it the next ones find `woken` set. */
void kvw_node_wake(struct kvw_node *n)
{
    if (!atomic_exchange(&n->woken, true))
        signal_fd(n->wake_fd);
}

static void wake(void *arg)
{
    kvw_node_wake(arg);
}

/* Before what callers have left is looked at. One that is about to write, but hasn't, is met next
 * time. */
static void take_wake(struct kvw_node *n)
{
    uint64_t count;

    if (atomic_load(&n->woken) && read(n->wake_fd, &count, sizeof(count)) == (ssize_t)sizeof(count))
        (void)atomic_exchange(&n->woken, false);
}

/* After a call: the thread has work, unless the core sees none. */
void kvw_node_unlock_and_wake(struct kvw_node *n)
{
    const bool due = kvw_core_deadline_ns(n->core) <= kvw_now_ns();

    kvw_node_unlock(n);
    if (due)
        kvw_node_wake(n);
}

/* The descriptor says whether events wait; who waits for a batch looks again. Under core_lock. */
void kvw_node_tell_events(struct kvw_node *n)
{
    const bool waiting = !kvw_list_empty(&n->core->events);

    if (n->ended_seen != kvw_batch_ended(n->core)) {
        n->ended_seen = kvw_batch_ended(n->core);
        pthread_cond_broadcast(&n->ended);
    }
    if (waiting == n->signalled)
        return;
    if (waiting)
        signal_fd(n->event_fd);
    else
        drain_fd(n->event_fd);
    n->signalled = waiting;
}

/* --- the thread ------------------------------------------------------------------------------- */

/* What a poll has seen is done when it returns, and not when it began. Under core_lock. */
static void stamp_events(struct kvw_node *n, uint64_t began_ns)
{
    const uint64_t now_ns = kvw_now_ns();

    for (struct kvw_list *it = n->core->events.prev; it != &n->core->events; it = it->prev) {
        struct kvw_core_rec *rec = kvw_list_of(it, struct kvw_core_rec, in);

        if (rec->at_ns != began_ns)
            return;
        rec->at_ns = now_ns;
    }
}

/* Under core_lock. True: more could be done at once. */
static bool poll_core(struct kvw_node *n)
{
    const uint64_t began_ns = kvw_now_ns();
    const bool more = kvw_core_poll(n->core, began_ns);

    stamp_events(n, began_ns);
    return more;
}

static void *run(void *arg)
{
    struct kvw_node *n = arg;
    bool more = false;

    kvw_node_sleep_soon();
    for (;;) {
        uint64_t until_ns;
        bool stop;

        kvw_node_lock(n);
        if (!more)
            take_wake(n);
        push_left(n); /* what came before that wake was drained */
        stop = n->stop;
        more = !stop && poll_core(n);
        until_ns = kvw_core_deadline_ns(n->core);
        kvw_node_tell_events(n);
        kvw_node_unlock(n);
        if (stop)
            return NULL;
        if (more || until_ns <= kvw_now_ns())
            continue;
        if (!n->busy_poll || n->way_count == 1) /* a transport that is told so doesn't sleep */
            kvw_node_sleep_until(&n->sleep, n->ways, n->way_count, until_ns);
    }
}

bool kvw_node_poll(struct kvw_node *n)
{
    bool more = true, waiting;

    kvw_node_lock(n);
    if (n->app_driven) {
        kvw_node_sleep_back(n->ways, n->way_count);
        take_wake(n);
        push_left(n);
        for (uint32_t i = 0; i < ROUNDS && more; ++i)
            more = poll_core(n);
        kvw_node_tell_events(n);
        kvw_node_sleep_leave(&n->sleep, n->ways, n->way_count,
                             more ? 0 : kvw_core_deadline_ns(n->core));
    }
    waiting = n->signalled;
    kvw_node_unlock(n);
    return waiting;
}

/* --- open and close --------------------------------------------------------------------------- */

static void say(char *why, size_t size, const char *text)
{
    if (why != NULL && size > 0)
        snprintf(why, size, "%s", text);
}

static kvw_err open_way(struct kvw_node *n, const struct kvw_node_config *cfg,
                        const struct kvw_node_path *path, char *text)
{
    struct kvw_node_way *w = &n->ways[n->way_count];
    const struct kvw_open_args args = {
        .transport = path->transport,
        .local = path->local,
        .peer = path->peer,
        .fault = cfg->fault,
        .trace = n->way_count == 0 ? cfg->trace : NULL,
        .listen = path->listen != 0,
        .busy_poll = cfg->busy_poll != 0,
        .open_by_ns = cfg->open_by_ns,
        .dead_ms = cfg->dead_ms,
        .conns_max = cfg->peers_max != 0 ? cfg->peers_max + KVW_NEWCOMERS(cfg->peers_max) : 0,
    };
    const kvw_err err = kvw_parts.open(&w->transport, &args, text);

    if (err != KVW_OK)
        return err;
    ++n->way_count;
    snprintf(w->name, sizeof(w->name), "%s", path->transport);
    snprintf(w->address, sizeof(w->address), "%s",
             path->advertise != NULL ? path->advertise : path->local);
    if (path->advertise == NULL && w->transport->ops->local != NULL)
        (void)w->transport->ops->local(w->transport, w->address, sizeof(w->address));
    return KVW_OK;
}

static void close_ways(struct kvw_node *n)
{
    kvw_node_sleep_close(&n->sleep);
    while (n->way_count > 0) {
        struct kvw_transport *t = n->ways[--n->way_count].transport;

        t->ops->close(t);
    }
}

/* Path i of a config: the first one's fields are the config's own. False: a field that this library
 * doesn't know. */
static bool path_of(struct kvw_node_path *path, const struct kvw_node_config *cfg, uint32_t i)
{
    *path = (struct kvw_node_path){.transport = cfg->transport,
                                   .local = cfg->local,
                                   .advertise = cfg->advertise,
                                   .peer = cfg->peer,
                                   .listen = cfg->listen};
    return i == 0 || kvw_core_copy_in(path, sizeof(*path),
                                      (const char *)cfg->more + (size_t)(i - 1) * cfg->more_bytes,
                                      cfg->more_bytes);
}

static kvw_err open_ways(struct kvw_node *n, const struct kvw_node_config *cfg, char *why,
                         size_t size)
{
    const int fds[2] = {n->wake_fd, n->app_driven ? n->event_fd : -1};
    char text[256] = "";
    kvw_err err = KVW_OK;

    n->sleep = (struct kvw_node_sleep){.timer_fd = -1, .epoll_fd = -1};
    for (uint32_t i = 0; i <= cfg->more_count && err == KVW_OK; ++i) {
        struct kvw_node_path path;

        (void)path_of(&path, cfg, i);
        err = open_way(n, cfg, &path, text);
        if (i == 0 || err != KVW_OK)
            say(why, size, text);
    }
    if (err == KVW_OK) {
        err = kvw_node_sleep_open(&n->sleep, n->ways, n->way_count, fds, text);
        if (err != KVW_OK)
            say(why, size, text);
    }
    if (err != KVW_OK)
        close_ways(n);
    return err;
}

static kvw_err open_core(struct kvw_node *n, const struct kvw_node_config *cfg, char *why,
                         size_t size)
{
    struct kvw_core_path paths[KVW_CORE_PATHS_MAX] = {{0}};
    char gpu_why[KVW_GPU_TEXT] = "";
    const struct kvw_core_config core = {
        .size = sizeof(core),
        .path_count = n->way_count,
        .paths = paths,
        .instance = n->instance,
        .name = cfg->name,
        .codecs = kvw_parts.codecs,
        .codec = cfg->codec,
        .encoders = cfg->encoders,
        .clock = clock_ns,
        .wake = wake,
        .arg = n,
        .chunk_raw_bytes = cfg->chunk_raw_bytes,
        .slots = cfg->slots,
        .stages = cfg->stages,
        .peers_max = cfg->peers_max,
        .xfers_max = cfg->xfers_max,
        .dead_ms = cfg->dead_ms,
        .trace = n->trace != NULL ? kvw_trace_file_event : NULL,
        .trace_arg = n->trace,
        .gpu_plugin = cfg->gpu_plugin,
        .gpu = cfg->gpu,
        .gpu_why = gpu_why,
        .stage_bytes = cfg->stage_bytes,
        .no_twins = cfg->no_twins,
        .unused = cfg->unused,
    };
    const char *field = NULL;
    char text[96];
    kvw_err err;

    for (uint32_t i = 0; i < n->way_count; ++i) {
        struct kvw_node_path path;

        (void)path_of(&path, cfg, i);
        paths[i] = (struct kvw_core_path){
            .name = n->ways[i].name, .transport = n->ways[i].transport, .listen = path.listen};
    }
    err = kvw_core_open(&n->core, &core, kvw_now_ns(), &field);
    if (err != KVW_OK) {
        snprintf(text, sizeof(text), "%s%s%s", kvw_strerror(err), field != NULL ? ": " : "",
                 field != NULL ? field : "");
        say(why, size, gpu_why[0] != '\0' ? gpu_why : text);
    }
    return err;
}

/* The field that is wrong; NULL: none. */
static const char *check_path(const struct kvw_node_path *path)
{
    const char *address = path->advertise != NULL ? path->advertise : path->local;

    if (path->transport == NULL ||
        strlen(path->transport) >= sizeof(((struct kvw_node_way *)0)->name))
        return "transport";
    if (path->local == NULL || strlen(path->local) > KVW_ADDRESS_MAX)
        return "local";
    if (strlen(address) > KVW_ADDRESS_MAX)
        return "advertise";
    if (path->listen > 1)
        return "listen";
    return path->reserved != 0 ? "reserved" : NULL;
}

static const char *check_config(const struct kvw_node_config *cfg)
{
    if (cfg->busy_poll > 1)
        return "busy_poll";
    if ((cfg->cpus == NULL) != (cfg->cpus_bytes == 0))
        return "cpus_bytes";
    if (cfg->app_driven > 1 || (cfg->app_driven != 0 && cfg->busy_poll != 0))
        return "app_driven";
    if (cfg->more_count > KVW_CORE_PATHS_MAX - 1 || (cfg->more_count != 0 && cfg->more == NULL))
        return "more_count";
    if (cfg->more_count != 0 && cfg->more_bytes < PATH_BYTES_MIN)
        return "more_bytes";
    return cfg->reserved != 0 ? "reserved" : NULL;
}

static kvw_err take_config(struct kvw_node *n, const struct kvw_node_config *cfg, char *why,
                           size_t size)
{
    const char *field = check_config(cfg);
    char text[32];

    for (uint32_t i = 0; field == NULL && i <= cfg->more_count; ++i) {
        struct kvw_node_path path;

        field = path_of(&path, cfg, i) ? check_path(&path) : "size";
        if (field == NULL || i == 0)
            continue;
        snprintf(text, sizeof(text), "more[%u].%s", i - 1, field);
        field = text;
    }
    if (field != NULL) {
        say(why, size, field);
        return KVW_E_INVALID;
    }
    n->app_driven = cfg->app_driven != 0;
    n->busy_poll = cfg->busy_poll != 0;
    n->instance = cfg->instance;
    while (n->instance == 0)
        if (getrandom(&n->instance, sizeof(n->instance), 0) != (ssize_t)sizeof(n->instance))
            n->instance = kvw_now_ns() << 16 ^ (uint64_t)getpid();
    return KVW_OK;
}

static kvw_err open_fds(struct kvw_node *n, char *why, size_t size)
{
    n->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    n->event_fd = n->wake_fd >= 0 ? eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC) : -1;
    if (n->event_fd >= 0)
        return KVW_OK;
    say(why, size, strerror(errno));
    if (n->wake_fd >= 0)
        close(n->wake_fd);
    return KVW_E_IO;
}

static kvw_err open_trace(struct kvw_node *n, const struct kvw_node_config *cfg, char *why,
                          size_t size)
{
    char text[256] = "";
    kvw_err err;

    if (cfg->kv_trace == NULL)
        return KVW_OK;
    err = kvw_trace_file_open(&n->trace, cfg->kv_trace, cfg->name, n->instance, text);
    if (err != KVW_OK)
        say(why, size, text);
    return err;
}

static void open_locks(struct kvw_node *n)
{
    pthread_condattr_t attr;

    pthread_mutex_init(&n->turn, NULL);
    pthread_mutex_init(&n->core_lock, NULL);
    pthread_mutex_init(&n->left_lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&n->ended, &attr);
    pthread_condattr_destroy(&attr);
}

static kvw_err start_thread(struct kvw_node *n, const struct kvw_node_config *cfg, char *why,
                            size_t size)
{
    pthread_attr_t attr;
    int failed = pthread_attr_init(&attr);

    if (failed == 0 && cfg->cpus != NULL)
        failed = pthread_attr_setaffinity_np(&attr, cfg->cpus_bytes, cfg->cpus);
    if (failed == 0)
        failed = pthread_create(&n->thread, &attr, run, n);
    pthread_attr_destroy(&attr);
    if (failed == 0)
        return KVW_OK;
    if (failed == EINVAL && cfg->cpus != NULL) {
        say(why, size, "cpus: none that this process may use");
        return KVW_E_INVALID;
    }
    say(why, size, "no thread could be started");
    return KVW_E_NOMEM;
}

kvw_err kvw_node_open(struct kvw_node **out, const struct kvw_node_config *caller, char *why,
                      size_t why_bytes)
{
    struct kvw_node_config cfg;
    struct kvw_node *n;
    kvw_err err = KVW_E_INVALID;

    if (!kvw_core_copy_in(&cfg, sizeof(cfg), caller, caller->size)) {
        say(why, why_bytes, "size, or a field that this library doesn't know");
        return KVW_E_INVALID;
    }
    if ((n = calloc(1, sizeof(*n))) == NULL)
        return KVW_E_NOMEM;
    n->pid = getpid();
    if ((err = take_config(n, &cfg, why, why_bytes)) != KVW_OK)
        goto free_node;
    if ((err = open_fds(n, why, why_bytes)) != KVW_OK)
        goto free_node;
    if ((err = open_trace(n, &cfg, why, why_bytes)) != KVW_OK)
        goto close_fds;
    if ((err = open_ways(n, &cfg, why, why_bytes)) != KVW_OK)
        goto close_trace;
    if ((err = open_core(n, &cfg, why, why_bytes)) != KVW_OK)
        goto close_ways;
    open_locks(n);
    if (n->app_driven)
        kvw_node_wake(n); /* the first poll is due */
    else if ((err = start_thread(n, &cfg, why, why_bytes)) != KVW_OK)
        goto close_core;
    *out = n;
    return KVW_OK;

close_core:
    kvw_core_close(n->core, kvw_now_ns());
close_ways:
    close_ways(n);
close_trace:
    kvw_trace_file_close(n->trace);
close_fds:
    close(n->wake_fd);
    close(n->event_fd);
free_node:
    free(n);
    return err;
}

void kvw_node_close(struct kvw_node *n)
{
    if (n == NULL || n->pid != getpid()) /* a child's copy: the parent says what is to be said */
        return;
    kvw_node_lock(n);
    n->stop = true;
    kvw_node_unlock(n);
    kvw_node_wake(n);
    if (n->app_driven)
        kvw_node_sleep_back(n->ways, n->way_count);
    else
        pthread_join(n->thread, NULL);
    kvw_core_close(n->core, kvw_now_ns());
    close_ways(n);
    kvw_trace_file_close(n->trace);
    close(n->wake_fd);
    close(n->event_fd);
    pthread_mutex_destroy(&n->turn);
    pthread_mutex_destroy(&n->core_lock);
    pthread_cond_destroy(&n->ended);
    pthread_mutex_destroy(&n->left_lock);
    free(n);
}

/* --- events ----------------------------------------------------------------------------------- */

int kvw_node_fd(const struct kvw_node *n)
{
    return n->app_driven ? n->sleep.epoll_fd : n->event_fd;
}

bool kvw_node_next_event(struct kvw_node *n, struct kvw_core_event *ev)
{
    bool any;

    kvw_node_lock(n);
    any = kvw_core_next_event(n->core, ev);
    kvw_node_tell_events(n);
    kvw_node_unlock_and_wake(n); /* a full queue may have held the core up */
    return any;
}

bool kvw_node_try_event(struct kvw_node *n, struct kvw_core_event *ev)
{
    struct pollfd p = {.fd = n->event_fd, .events = POLLIN};
    bool any;

    if (poll(&p, 1, 0) <= 0 || !kvw_node_try_lock(n))
        return false;
    any = kvw_core_next_event(n->core, ev);
    kvw_node_tell_events(n);
    kvw_node_unlock_and_wake(n);
    return any;
}

/* App-driven: the caller's loop for as long. */
static bool poll_until(struct kvw_node *n, uint64_t until_ns)
{
    for (;;) {
        if (kvw_node_poll(n))
            return true;
        if (until_ns <= kvw_now_ns())
            return false;
        kvw_node_sleep_here(&n->sleep, until_ns);
    }
}

bool kvw_node_wait(struct kvw_node *n, uint64_t until_ns)
{
    struct pollfd p = {.fd = n->event_fd, .events = POLLIN};

    if (n->app_driven)
        return poll_until(n, until_ns);
    for (;;) {
        const uint64_t now = kvw_now_ns();
        const uint64_t left_ms = until_ns > now ? (until_ns - now + 999999) / 1000000 : 0;
        const int got = poll(&p, 1, left_ms > 1000 ? 1000 : (int)left_ms);

        if (got > 0)
            return true;
        if (got < 0 && errno != EINTR)
            return false;
        if (got == 0 && left_ms <= 1000)
            return false;
    }
}
