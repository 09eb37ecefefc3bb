/* SPDX-License-Identifier: Apache-2.0 */
#include "link.h"

#include "cpus.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "clock.h"

/* A command from the engine's thread. Pushes dominate: layers x prefill chunks of one request. */
enum cmd_kind { CMD_OFFER = 1, CMD_STREAM, CMD_PUSH, CMD_COMMIT, CMD_ABORT };

struct cmd {
    enum cmd_kind kind;
    struct kve_xfer *x;
    kvw_xfer_id id;
    const struct kvw_blocks *blocks; /* OFFER, STREAM: the caller waits, so borrowing is safe */
    struct kvw_terms terms;          /* OFFER */
    uint64_t offer_by_ns;            /* STREAM */
    uint64_t deadline_ns;
    uint32_t layer, tokens;
    uint32_t note_bytes;
    uint8_t note[KVW_COMMIT_NOTE_MAX]; /* COMMIT: the note; ABORT: the reason */
    kvw_err *answer; /* OFFER, STREAM: guarded by mutex, set together with answered */
};

#define CMDS         256u /* a full ring makes push wait, never lose */
#define CALL_WAIT_NS (2 * KVE_S)
#define CLOSE_WAIT_S 3

struct kve_link {
    struct kve_link_config cfg;
    char *net, *local, *peer, *fault;
    cpu_set_t cpus;
    bool pinned;   /* to cpus */
    int wake_fd;   /* engine -> link thread */
    int notify_fd; /* link thread -> engine */
    pthread_t thread;

    pthread_mutex_t mutex; /* guards everything below, and the contents of live kve_xfers */
    pthread_cond_t changed;
    bool stop;
    kve_link_state state;
    uint32_t peers; /* PEER_UPs so far */
    kvw_err err;
    char text[KVW_TEXT_BYTES_MAX + 1];
    struct cmd cmds[CMDS];
    uint32_t cmd_head, cmd_tail; /* tail - head commands wait */
    uint64_t answered;           /* calls answered so far */
    struct kve_xfer *live[KVW_XFERS_MAX];

    /* the link thread's own */
    struct kvw_transport *transport;
    struct kvw_session *session;
};

static void notify(struct kve_link *l)
{
    const uint64_t one = 1;
    ssize_t n = write(l->notify_fd, &one, sizeof(one));

    (void)n; /* EAGAIN: it is readable already */
    pthread_cond_broadcast(&l->changed);
}

static void wake(struct kve_link *l)
{
    const uint64_t one = 1;
    ssize_t n = write(l->wake_fd, &one, sizeof(one));

    (void)n;
}

static void wake_link(void *arg)
{
    wake(arg);
}

static uint64_t link_clock(void *arg)
{
    (void)arg;
    return kve_now_ns();
}

static void set_state(struct kve_link *l, kve_link_state state, kvw_err err, const char *text)
{
    pthread_mutex_lock(&l->mutex);
    l->state = state;
    if (err != KVW_OK) {
        l->err = err;
        snprintf(l->text, sizeof(l->text), "%s", text);
    }
    notify(l);
    pthread_mutex_unlock(&l->mutex);
}

/* Caller holds the mutex. */
static struct kve_xfer **live_slot(struct kve_link *l, kvw_xfer_id id)
{
    for (uint32_t i = 0; i < KVW_XFERS_MAX; ++i)
        if (l->live[i] != NULL && l->live[i]->id.value == id.value)
            return &l->live[i];
    return NULL;
}

/* Caller holds the mutex. */
static void finish(struct kve_xfer **slot, kvw_err err, const char *text)
{
    struct kve_xfer *x = *slot;

    *slot = NULL;
    x->err = err;
    snprintf(x->text, sizeof(x->text), "%s", text);
    x->done_ns = kve_now_ns();
    x->done = true;
}

static void take_xfer_done(struct kve_link *l, const struct kvw_event *ev)
{
    struct kve_xfer **slot = live_slot(l, ev->xfer);

    if (slot == NULL)
        return;
    struct kve_xfer *x = *slot;
    x->raw_bytes = ev->raw_bytes;
    x->wire_bytes = ev->wire_bytes;
    x->chunks = ev->chunks;
    memcpy(x->codec_chunks, ev->codec_chunks, sizeof(x->codec_chunks));
    x->note_bytes = ev->note_bytes <= sizeof(x->note) ? ev->note_bytes : 0;
    if (x->note_bytes > 0)
        memcpy(x->note, ev->note, x->note_bytes);
    finish(slot, ev->err, ev->text);
}

/* A receiver outlives a peer that doesn't fit: another one may come. A sender has only this one. */
static bool refused_for_good(const struct kve_link *l, kvw_err err)
{
    return l->cfg.session.role == KVW_ROLE_SENDER &&
           (err == KVW_E_VERSION || err == KVW_E_MISMATCH);
}

static void take_event(struct kve_link *l, const struct kvw_event *ev)
{
    struct kve_xfer **slot;

    pthread_mutex_lock(&l->mutex);
    switch (ev->kind) {
    case KVW_EV_PEER_UP:
        l->state = KVE_LINK_UP;
        l->peers++;
        l->err = KVW_OK;
        break;
    case KVW_EV_PEER_LOST:
        l->state = refused_for_good(l, ev->err) ? KVE_LINK_FAILED : KVE_LINK_WAITING;
        l->err = ev->err;
        snprintf(l->text, sizeof(l->text), "%s", ev->text);
        break;
    case KVW_EV_LAYER_SENT:
    case KVW_EV_LAYER_READY:
        slot = live_slot(l, ev->xfer);
        if (slot != NULL && ev->layer < KVW_LAYERS_MAX)
            (*slot)->layer_ns[ev->layer] = kve_now_ns();
        break;
    case KVW_EV_XFER_DONE:
        take_xfer_done(l, ev);
        break;
    case KVW_EV_OFFERED:
        break;
    }
    notify(l);
    pthread_mutex_unlock(&l->mutex);
}

static kvw_err run_open(struct kve_link *l, const struct cmd *c, uint64_t now_ns)
{
    struct kve_xfer **slot = NULL;
    kvw_err err;

    /* The session would wait for the next peer; but who has this request is gone with the last. */
    if (l->state != KVE_LINK_UP) /* written by this thread alone */
        return KVW_E_PEER_LOST;
    /* Registered before the call: its events may come in the same poll. */
    pthread_mutex_lock(&l->mutex);
    for (uint32_t i = 0; i < KVW_XFERS_MAX && slot == NULL; ++i)
        if (l->live[i] == NULL)
            slot = &l->live[i];
    if (slot != NULL)
        *slot = c->x;
    pthread_mutex_unlock(&l->mutex);
    if (slot == NULL)
        return KVW_E_AGAIN;

    if (c->kind == CMD_OFFER)
        err = kvw_offer(l->session, c->id, c->blocks, &c->terms, now_ns);
    else
        err = kvw_stream_open(l->session, c->id, c->blocks, c->offer_by_ns, c->deadline_ns, now_ns);
    if (err != KVW_OK) {
        pthread_mutex_lock(&l->mutex);
        *slot = NULL;
        pthread_mutex_unlock(&l->mutex);
    }
    return err;
}

/* NOTFOUND is no failure here: the transfer has ended and its XFER_DONE says why. */
static void run_cmd(struct kve_link *l, const struct cmd *c, uint64_t now_ns)
{
    kvw_err err = KVW_OK;

    switch (c->kind) {
    case CMD_OFFER:
    case CMD_STREAM:
        err = run_open(l, c, now_ns);
        pthread_mutex_lock(&l->mutex);
        *c->answer = err;
        l->answered++;
        pthread_cond_broadcast(&l->changed);
        pthread_mutex_unlock(&l->mutex);
        return;
    case CMD_PUSH:
        err = kvw_push_layer(l->session, c->id, c->layer, c->tokens, NULL);
        break;
    case CMD_COMMIT:
        err = kvw_commit(l->session, c->id, c->note, c->note_bytes);
        break;
    case CMD_ABORT:
        err = kvw_abort(l->session, c->id, (const char *)c->note);
        break;
    }
    if (err != KVW_OK && err != KVW_E_NOTFOUND && c->kind != CMD_ABORT) {
        char reason[96];

        snprintf(reason, sizeof(reason), "the engine's %s failed: %s",
                 c->kind == CMD_PUSH ? "push" : "commit", kvw_strerror(err));
        if (kvw_abort(l->session, c->id, reason) != KVW_OK)
            return; /* it ended meanwhile */
    }
}

/* Returns false when the link shall stop. */
static bool run_cmds(struct kve_link *l, uint64_t now_ns)
{
    for (;;) {
        pthread_mutex_lock(&l->mutex);
        const bool stop = l->stop;
        const bool empty = l->cmd_head == l->cmd_tail;
        struct cmd c;
        if (!empty) {
            c = l->cmds[l->cmd_head++ % CMDS];
            pthread_cond_broadcast(&l->changed); /* a push may wait for room */
        }
        pthread_mutex_unlock(&l->mutex);
        if (stop)
            return false;
        if (empty)
            return true;
        run_cmd(l, &c, now_ns);
    }
}

static void drain(int fd)
{
    uint64_t n;

    while (read(fd, &n, sizeof(n)) == (ssize_t)sizeof(n))
        ;
}

static bool open_session(struct kve_link *l)
{
    const bool listener = l->cfg.session.role == KVW_ROLE_RECEIVER;
    const struct kvn_config nc = {
        .local = l->local,
        .peer = l->peer,
        .listener = listener,
        .fault = l->fault,
        .busy_poll = l->cfg.busy_poll,
        .open_by_ns = kve_now_ns() + l->cfg.open_timeout_ns,
    };
    char why[KVN_WHY_BYTES] = "";
    const char *field = NULL;
    kvw_err err = kvn_open(&l->transport, l->net, &nc, why);

    if (err != KVW_OK) {
        set_state(l, KVE_LINK_FAILED, err, why[0] != '\0' ? why : kvw_strerror(err));
        return false;
    }
    l->cfg.session.size = sizeof(l->cfg.session);
    l->cfg.session.transport = l->transport;
    l->cfg.session.peer = l->peer;
    l->cfg.session.clock = (struct kvw_clock){.now_ns = link_clock};
    l->cfg.session.wake = wake_link;
    l->cfg.session.wake_arg = l;
    err = kvw_session_open(&l->session, &l->cfg.session, kve_now_ns(), &field);
    if (err != KVW_OK) {
        snprintf(why, sizeof(why), "session: %s%s%s", kvw_strerror(err),
                 field != NULL ? ", field " : "", field != NULL ? field : "");
        l->transport->ops->close(l->transport);
        l->transport = NULL;
        set_state(l, KVE_LINK_FAILED, err, why);
        return false;
    }
    set_state(l, KVE_LINK_WAITING, KVW_OK, "");
    return true;
}

/* Nobody may wait for ever on a link that is gone. */
static void end_all(struct kve_link *l, const char *text)
{
    pthread_mutex_lock(&l->mutex);
    for (uint32_t i = 0; i < KVW_XFERS_MAX; ++i)
        if (l->live[i] != NULL)
            finish(&l->live[i], KVW_E_PEER_LOST, text);
    l->stop = true;
    notify(l);
    pthread_mutex_unlock(&l->mutex);
}

/* After the session was opened, as what it starts (encoders, DPDK's threads) belongs elsewhere. */
static void settle(const struct kve_link *l)
{
    if (l->pinned)
        (void)pthread_setaffinity_np(pthread_self(), sizeof(l->cpus), &l->cpus);
}

static void *link_main(void *arg)
{
    struct kve_link *l = arg;

    if (!open_session(l)) {
        end_all(l, "the link never came up");
        return NULL;
    }
    settle(l);
    for (;;) {
        drain(l->wake_fd);
        if (!run_cmds(l, kve_now_ns()))
            break;
        const bool more = kvw_session_poll(l->session, kve_now_ns());
        struct kvw_event ev;
        while (kvw_session_next_event(l->session, &ev))
            take_event(l, &ev);
        if (more)
            continue;
        l->transport->ops->wait(l->transport, kvw_session_deadline_ns(l->session), l->wake_fd);
    }
    end_all(l, "the link was closed");
    kvw_session_close(l->session, kve_now_ns());
    l->transport->ops->close(l->transport);
    return NULL;
}

static void link_free(struct kve_link *l)
{
    if (l->wake_fd >= 0)
        close(l->wake_fd);
    if (l->notify_fd >= 0)
        close(l->notify_fd);
    free(l->net);
    free(l->local);
    free(l->peer);
    free(l->fault);
    free(l);
}

static char *copy(const char *s)
{
    return s != NULL ? strdup(s) : NULL;
}

kvw_err kve_link_open(struct kve_link **link, const struct kve_link_config *cfg)
{
    struct kve_link *l = calloc(1, sizeof(*l));
    pthread_condattr_t attr;

    if (l == NULL)
        return KVW_E_NOMEM;
    l->cfg = *cfg;
    l->net = copy(cfg->net);
    l->local = copy(cfg->local);
    l->peer = copy(cfg->peer);
    l->fault = copy(cfg->fault);
    l->pinned = cfg->cpus != NULL && kve_cpus_parse(&l->cpus, cfg->cpus);
    l->state = KVE_LINK_STARTING;
    l->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    l->notify_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (l->net == NULL || (cfg->local != NULL && l->local == NULL) ||
        (cfg->peer != NULL && l->peer == NULL) || (cfg->fault != NULL && l->fault == NULL) ||
        l->wake_fd < 0 || l->notify_fd < 0) {
        link_free(l);
        return KVW_E_NOMEM;
    }
    pthread_mutex_init(&l->mutex, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&l->changed, &attr);
    pthread_condattr_destroy(&attr);
    if (pthread_create(&l->thread, NULL, link_main, l) != 0) {
        link_free(l);
        return KVW_E_IO;
    }
    *link = l;
    return KVW_OK;
}

bool kve_link_close(struct kve_link *l)
{
    struct timespec by;

    if (l == NULL)
        return true;
    pthread_mutex_lock(&l->mutex);
    l->stop = true;
    pthread_mutex_unlock(&l->mutex);
    wake(l);
    clock_gettime(CLOCK_REALTIME, &by); /* pthread_timedjoin_np's clock */
    by.tv_sec += CLOSE_WAIT_S;
    if (pthread_timedjoin_np(l->thread, NULL, &by) != 0)
        return false; /* the thread still uses *l: leaked on purpose */
    pthread_cond_destroy(&l->changed);
    pthread_mutex_destroy(&l->mutex);
    link_free(l);
    return true;
}

kve_link_state kve_link_state_now(struct kve_link *l, char *text)
{
    pthread_mutex_lock(&l->mutex);
    const kve_link_state state = l->state;
    if (text != NULL)
        memcpy(text, l->text, sizeof(l->text));
    pthread_mutex_unlock(&l->mutex);
    return state;
}

uint32_t kve_link_peers(struct kve_link *l)
{
    pthread_mutex_lock(&l->mutex);
    const uint32_t peers = l->peers;
    pthread_mutex_unlock(&l->mutex);
    return peers;
}

kvw_err kve_link_error(struct kve_link *l)
{
    pthread_mutex_lock(&l->mutex);
    const kvw_err err = l->err;
    pthread_mutex_unlock(&l->mutex);
    return err;
}

int kve_link_notify_fd(const struct kve_link *l)
{
    return l->notify_fd;
}

static struct timespec abstime(uint64_t ns)
{
    return (struct timespec){.tv_sec = (time_t)(ns / KVE_S), .tv_nsec = (long)(ns % KVE_S)};
}

/* Caller holds the mutex. False: the link has stopped, or the ring stayed full. */
static bool post(struct kve_link *l, const struct cmd *c)
{
    const struct timespec by = abstime(kve_now_ns() + CALL_WAIT_NS);

    while (!l->stop && l->cmd_tail - l->cmd_head == CMDS)
        if (pthread_cond_timedwait(&l->changed, &l->mutex, &by) == ETIMEDOUT)
            return false;
    if (l->stop)
        return false;
    l->cmds[l->cmd_tail++ % CMDS] = *c;
    wake(l);
    return true;
}

static kvw_err call_open(struct kve_link *l, struct cmd *c)
{
    kvw_err answer = KVW_E_AGAIN;
    const uint64_t id = c->x->id.value;

    memset(c->x, 0, sizeof(*c->x));
    c->x->id.value = id;
    c->id = c->x->id;
    c->answer = &answer;
    pthread_mutex_lock(&l->mutex);
    const uint64_t before = l->answered;
    if (l->state == KVE_LINK_STARTING || !post(l, c))
        answer = KVW_E_PEER_LOST;
    else
        while (l->answered == before && !(l->stop && l->cmd_head != l->cmd_tail))
            pthread_cond_wait(&l->changed,
                              &l->mutex); /* the thread answers or stops: bounded by it */
    if (answer == KVW_E_AGAIN && l->stop)
        answer = KVW_E_PEER_LOST;
    pthread_mutex_unlock(&l->mutex);
    return answer;
}

kvw_err kve_link_offer(struct kve_link *l, struct kve_xfer *x, const struct kvw_blocks *blocks,
                       const struct kvw_terms *terms)
{
    struct cmd c = {.kind = CMD_OFFER, .x = x, .blocks = blocks, .terms = *terms};

    return call_open(l, &c);
}

kvw_err kve_link_stream(struct kve_link *l, struct kve_xfer *x, const struct kvw_blocks *blocks,
                        uint64_t offer_by_ns, uint64_t deadline_ns)
{
    struct cmd c = {.kind = CMD_STREAM,
                    .x = x,
                    .blocks = blocks,
                    .offer_by_ns = offer_by_ns,
                    .deadline_ns = deadline_ns};

    return call_open(l, &c);
}

/* A mark for a transfer that has ended is dropped here already: its id may be in use again. */
static void post_live(struct kve_link *l, struct kve_xfer *x, struct cmd *c)
{
    pthread_mutex_lock(&l->mutex);
    c->x = x;
    c->id = x->id;
    if (!x->done && !post(l, c)) {
        struct kve_xfer **slot = live_slot(l, x->id);

        if (slot != NULL && !x->done)
            finish(slot, KVW_E_PEER_LOST, "the link's thread does not answer");
    }
    pthread_mutex_unlock(&l->mutex);
}

void kve_link_push(struct kve_link *l, struct kve_xfer *x, uint32_t layer, uint32_t tokens)
{
    struct cmd c = {.kind = CMD_PUSH, .layer = layer, .tokens = tokens};

    post_live(l, x, &c);
}

void kve_link_commit(struct kve_link *l, struct kve_xfer *x, const void *note, uint32_t note_bytes)
{
    struct cmd c = {.kind = CMD_COMMIT, .note_bytes = note_bytes};

    if (note_bytes > sizeof(c.note))
        return;
    memcpy(c.note, note, note_bytes);
    post_live(l, x, &c);
}

void kve_link_abort(struct kve_link *l, struct kve_xfer *x, const char *reason)
{
    struct cmd c = {.kind = CMD_ABORT};

    snprintf((char *)c.note, sizeof(c.note), "%s", reason);
    post_live(l, x, &c);
}

bool kve_link_done(struct kve_link *l, const struct kve_xfer *x)
{
    pthread_mutex_lock(&l->mutex);
    const bool done = x->done;
    pthread_mutex_unlock(&l->mutex);
    return done;
}

bool kve_link_wait(struct kve_link *l, const struct kve_xfer *x, uint64_t until_ns)
{
    const struct timespec by = abstime(until_ns);

    pthread_mutex_lock(&l->mutex);
    while (!x->done && pthread_cond_timedwait(&l->changed, &l->mutex, &by) != ETIMEDOUT)
        ;
    const bool done = x->done;
    pthread_mutex_unlock(&l->mutex);
    return done;
}
