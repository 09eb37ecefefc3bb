/* SPDX-License-Identifier: Apache-2.0 */
/*
 * link.c - a node for a worker. The node's own thread moves the bytes; a thread of the link's opens
 * the node, which may take as long as the other process does to start, and closes it. Events are
 * taken where the worker looks: what its compute thread calls between two layers never waits.
 */
#include "link.h"

#include "cpus.h"

#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "../../kvwire/kv/dense.h"
#include "clock.h"

#define SLOTS        32u /* for landing, and for staging */
#define CLOSE_WAIT_S 3

enum { OPENING = 0, OPENED, NOT_OPENED };

struct kve_link {
    struct kve_link_config cfg;
    char *name, *net, *local, *peer, *fault, *trace, *model_name;
    cpu_set_t cpus;
    bool many;     /* peer is a list */
    bool listens;  /* others dial this side */
    int notify_fd; /* an epoll of: opened_fd, then the node's and timer_fd */
    int opened_fd; /* the link's thread -> the worker */
    int timer_fd;  /* the time for the first peer is over */
    int stop_fd;   /* the worker -> the link's thread */
    pthread_t thread;

    /* the link's thread's until `opened` says that it has done its part */
    _Atomic int opened;
    struct kvw_node *node;
    kvw_pool_id pool;
    kvw_err open_err;
    char open_text[KVW_TEXT_BYTES_MAX + 1];

    /* the worker's */
    kve_link_state state;
    uint32_t came;       /* peers that came up so far */
    uint64_t peer_by_ns; /* when the first one must be up */
    struct peer {
        kvw_peer_id id;
        char name[KVE_WORKER_NAME];
    } peers[KVE_PEERS_MAX]; /* up and fitting, the oldest first */
    uint32_t peer_count;
    uint32_t turns; /* comings and goings */
    kvw_err err;
    char text[KVW_TEXT_BYTES_MAX + 1];
    struct kve_xfer *live;
};

/* --- the thread that opens and closes --------------------------------------------------------- */

static kvw_err add_pool(struct kve_link *l)
{
    struct kvw_dense *d = malloc(sizeof(*d));
    kvw_err err;

    if (d == NULL)
        return KVW_E_NOMEM;
    kvw_dense_make(d, &l->cfg.pool, l->model_name);
    memcpy(d->desc.fingerprint, l->cfg.fingerprint, sizeof(d->desc.fingerprint));
    err = kvw_node_pool_add(l->node, &d->desc, &l->pool, l->open_text, sizeof(l->open_text));
    free(d);
    return err;
}

/* NULL: no traces are wanted. A path that is too long is one that can't be opened. */
static const char *trace_path(const struct kve_link *l, char *path, size_t size, const char *role,
                              const char *kind)
{
    if (l->trace == NULL)
        return NULL;
    snprintf(path, size, "%s/%s%s.jsonl", l->trace, role, kind);
    return path;
}

/* loop has no packets, and refuses to trace them. */
static bool has_packets(const struct kve_link *l)
{
    return strcmp(l->net, "udp") == 0 || strcmp(l->net, "dpdk") == 0;
}

/* Dial whom the list names; NULL: the link's only peer. */
static kvw_err dial(struct kve_link *l)
{
    char one[256];
    kvw_peer_id peer;
    kvw_err err = KVW_OK;

    if (!l->many)
        return kvw_node_peer_add(l->node, l->peer, &peer);
    for (const char *at = l->peer; *at != '\0' && err == KVW_OK;) {
        const size_t n = strcspn(at, ",");

        snprintf(one, sizeof(one), "%.*s", (int)n, at);
        err = kvw_node_peer_add(l->node, one, &peer);
        at += n + (at[n] == ',');
    }
    return err;
}

static kvw_err open_node(struct kve_link *l)
{
    const char *role = l->name;
    char chunks[4096], packets[4096];
    const struct kvw_node_config nc = {
        .size = sizeof(nc),
        .listen = l->listens,
        .name = role,
        .transport = l->net,
        .local = l->local,
        .peer = l->many ? NULL : l->peer,
        .fault = l->fault,
        .kv_trace = trace_path(l, chunks, sizeof(chunks), role, ""),
        .trace = has_packets(l) ? trace_path(l, packets, sizeof(packets), role, ".packets") : NULL,
        .open_by_ns = kve_now_ns() + l->cfg.open_timeout_ns,
        .busy_poll = l->cfg.busy_poll,
        .codec = l->cfg.codec,
        .encoders = l->cfg.encoders,
        .slots = SLOTS,
        .stages = SLOTS,
        .gpu_plugin = l->cfg.gpu_plugin,
        .gpu = l->cfg.gpu,
        .cpus = l->cfg.cpus != NULL ? &l->cpus : NULL,
        .cpus_bytes = l->cfg.cpus != NULL ? sizeof(l->cpus) : 0,
    };
    struct kvw_node *node;
    kvw_err err = kvw_node_open(&node, &nc, l->open_text, sizeof(l->open_text));

    if (err != KVW_OK)
        return err;
    l->node = node;
    err = add_pool(l);
    if (err == KVW_OK && (l->cfg.sender || l->many))
        err = dial(l);
    return err;
}

static void *link_main(void *arg)
{
    const uint64_t one = 1;
    struct kve_link *l = arg;
    uint64_t n;

    l->open_err = open_node(l);
    if (l->open_err != KVW_OK && l->open_text[0] == '\0')
        snprintf(l->open_text, sizeof(l->open_text), "%s", kvw_strerror(l->open_err));
    atomic_store(&l->opened, l->open_err == KVW_OK ? OPENED : NOT_OPENED);
    (void)!write(l->opened_fd, &one, sizeof(one));
    (void)!read(l->stop_fd, &n, sizeof(n));
    kvw_node_close(l->node);
    return NULL;
}

/* --- what the node tells ---------------------------------------------------------------------- */

static void set_state(struct kve_link *l, kve_link_state state, kvw_err err, const char *text)
{
    if (l->state == KVE_LINK_FAILED)
        return; /* for good, and the first reason counts */
    l->state = state;
    l->err = err;
    if (err != KVW_OK)
        snprintf(l->text, sizeof(l->text), "%s", text);
}

static void finish(struct kve_link *l, struct kve_xfer *x, kvw_err err, const char *text,
                   uint64_t at_ns)
{
    struct kve_xfer **at = &l->live;

    while (*at != x)
        at = &(*at)->next;
    *at = x->next;
    x->err = err;
    snprintf(x->text, sizeof(x->text), "%s", text);
    x->done_ns = at_ns;
    x->done = true;
}

static struct kve_xfer *live_one(const struct kve_link *l, kvw_xfer_ref ref)
{
    struct kve_xfer *x = l->live;

    while (x != NULL && x->ref.value != ref.value)
        x = x->next;
    return x;
}

static void take_note(struct kve_xfer *x, const struct kvw_core_event *ev)
{
    x->committed = true;
    x->note_bytes = ev->note_bytes;
    memcpy(x->note, ev->note, ev->note_bytes);
}

static void take_done(struct kve_link *l, struct kve_xfer *x, const struct kvw_core_event *ev)
{
    x->raw_bytes = ev->raw_bytes;
    x->wire_bytes = ev->wire_bytes;
    x->chunks = ev->chunks;
    memcpy(x->codec_chunks, ev->codec_chunks, sizeof(x->codec_chunks));
    take_note(x, ev);
    finish(l, x, x->lost && ev->err == KVW_E_CANCELED ? KVW_E_PEER_LOST : (kvw_err)ev->err,
           ev->text, ev->at_ns);
}

/* What is open with a peer that is lost: the node would wait for the next one, but who has this
 * request is gone with the last. */
static void abort_with(struct kve_link *l, kvw_peer_id peer)
{
    for (struct kve_xfer *x = l->live; x != NULL; x = x->next) {
        if (x->peer.value != peer.value)
            continue;
        x->lost = true;
        (void)!kvw_node_abort(l->node, x->ref, l->text); /* NOTFOUND: its end is on its way */
    }
}

/* A receiver outlives a peer that doesn't fit: another one may come. A sender of one peer has only
 * this one. */
static void refused(struct kve_link *l, kvw_err err, const char *text)
{
    const bool for_good =
        l->cfg.sender && !l->many && (err == KVW_E_VERSION || err == KVW_E_MISMATCH);

    set_state(l,
              for_good            ? KVE_LINK_FAILED
              : l->peer_count > 0 ? KVE_LINK_UP
                                  : KVE_LINK_WAITING,
              err, text);
}

/* A peer has told what its pool looks like. */
static void take_pool(struct kve_link *l, kvw_peer_id peer)
{
    char why[KVW_TEXT_BYTES_MAX + 1] = "";
    const kvw_err err = kvw_node_peer_fits(l->node, peer, l->pool, why, sizeof(why));

    for (uint32_t i = 0; i < l->peer_count; ++i)
        if (l->peers[i].id.value == peer.value)
            return;
    if (err == KVW_E_MISMATCH)
        refused(l, err, why);
    struct kvw_peer_info info = {.size = sizeof(info)};
    if (err != KVW_OK || l->peer_count == KVE_PEERS_MAX || /* it may have gone meanwhile */
        kvw_node_peer_info(l->node, peer, &info) != KVW_OK)
        return;
    struct peer *p = &l->peers[l->peer_count++];
    p->id = peer;
    snprintf(p->name, sizeof(p->name), "%.*s", (int)sizeof(p->name) - 1, info.name);
    l->came++;
    l->turns++;
    set_state(l, KVE_LINK_UP, KVW_OK, "");
}

static void take_loss(struct kve_link *l, const struct kvw_core_event *ev)
{
    uint32_t kept = 0;

    for (uint32_t i = 0; i < l->peer_count; ++i)
        if (l->peers[i].id.value != ev->peer.value)
            l->peers[kept++] = l->peers[i];
    const bool was_up = kept < l->peer_count;
    l->peer_count = kept;
    l->turns += was_up;
    if (!was_up && !l->cfg.sender)
        return; /* one that never fitted: what there was to say has been said */
    refused(l, ev->err, ev->text);
    abort_with(l, ev->peer);
}

static void take_event(struct kve_link *l, const struct kvw_core_event *ev)
{
    struct kve_xfer *x = live_one(l, ev->xfer);

    switch (ev->kind) {
    case KVW_CEV_PEER_POOL:
        take_pool(l, ev->peer);
        break;
    case KVW_CEV_PEER_LOST:
        take_loss(l, ev);
        break;
    case KVW_CEV_LAYER_SENT:
    case KVW_CEV_LAYER_READY:
        if (x != NULL)
            x->layer_ns[ev->layer] = ev->at_ns;
        break;
    case KVW_CEV_LAYER_CAME:
        if (x != NULL)
            x->layers_came++;
        break;
    case KVW_CEV_COMMITTED:
        if (x != NULL)
            take_note(x, ev);
        break;
    case KVW_CEV_XFER_DONE:
        if (x != NULL)
            take_done(l, x, ev);
        break;
    default: /* PEER_UP: its pool follows. OFFERED: the worker has the request, or will */
        break;
    }
}

/* --- the worker looks ------------------------------------------------------------------------- */

static bool watch(const struct kve_link *l, int fd)
{
    struct epoll_event ev = {.events = EPOLLIN};

    return epoll_ctl(l->notify_fd, EPOLL_CTL_ADD, fd, &ev) == 0;
}

static void unwatch(const struct kve_link *l, int fd)
{
    (void)epoll_ctl(l->notify_fd, EPOLL_CTL_DEL, fd, NULL);
}

/* The link's thread has done its part. */
static void take_node(struct kve_link *l)
{
    struct itimerspec by = {0};

    unwatch(l, l->opened_fd);
    if (atomic_load(&l->opened) == NOT_OPENED) {
        set_state(l, KVE_LINK_FAILED, l->open_err, l->open_text);
        return;
    }
    l->peer_by_ns = kve_now_ns() + l->cfg.open_timeout_ns;
    by.it_value.tv_sec = (time_t)(l->peer_by_ns / KVE_S);
    by.it_value.tv_nsec = (long)(l->peer_by_ns % KVE_S);
    set_state(l, KVE_LINK_WAITING, KVW_OK, "");
    if (timerfd_settime(l->timer_fd, TFD_TIMER_ABSTIME, &by, NULL) != 0 || !watch(l, l->timer_fd) ||
        !watch(l, kvw_node_fd(l->node)))
        set_state(l, KVE_LINK_FAILED, KVW_E_NOMEM, "no descriptors to watch are left");
}

/* The time for the first peer is over. dpdk's links say so themselves, when they are opened. */
static void look_at_time(struct kve_link *l)
{
    char why[KVW_TEXT_BYTES_MAX + 1];

    if (l->peer_by_ns == 0 || (l->came == 0 && kve_now_ns() < l->peer_by_ns))
        return;
    unwatch(l, l->timer_fd);
    l->peer_by_ns = 0;
    if (l->came > 0)
        return;
    snprintf(why, sizeof(why), "%s %s%s%s: no peer came within %.3g s%s%.120s", l->net,
             l->local != NULL ? l->local : "", l->peer != NULL ? " to " : "",
             l->peer != NULL ? l->peer : "", (double)l->cfg.open_timeout_ns / 1e9,
             l->text[0] != '\0' ? ": " : "", l->text);
    set_state(l, KVE_LINK_FAILED, l->err != KVW_OK ? l->err : KVW_E_DEADLINE, why);
}

/* Take what is there; patient: even if the node's thread is at work. */
static void look(struct kve_link *l, bool patient)
{
    struct kvw_core_event ev = {.size = sizeof(ev)};

    if (l->state == KVE_LINK_STARTING && atomic_load(&l->opened) != OPENING)
        take_node(l);
    if (atomic_load(&l->opened) != OPENED || l->state == KVE_LINK_STARTING)
        return;
    while (patient ? kvw_node_next_event(l->node, &ev) : kvw_node_try_event(l->node, &ev))
        take_event(l, &ev);
    look_at_time(l);
}

kve_link_state kve_link_state_now(struct kve_link *l, char *text)
{
    look(l, true);
    if (text != NULL)
        memcpy(text, l->text, sizeof(l->text));
    return l->state;
}

uint32_t kve_link_peers(struct kve_link *l)
{
    return l->came;
}

const char *kve_link_peer(struct kve_link *l, uint32_t i)
{
    return i < l->peer_count ? l->peers[i].name : NULL;
}

uint32_t kve_link_turns(struct kve_link *l)
{
    return l->turns;
}

uint32_t kve_link_mbps(struct kve_link *l, const struct kve_xfer *x)
{
    struct kvw_peer_info info = {.size = sizeof(info)};

    if (x->peer.value == 0 || kvw_node_peer_info(l->node, x->peer, &info) != KVW_OK)
        return 0;
    return (uint32_t)(info.rate_bytes_per_s / 1000000);
}

kvw_err kve_link_error(struct kve_link *l)
{
    return l->err;
}

int kve_link_notify_fd(const struct kve_link *l)
{
    return l->notify_fd;
}

/* --- transfers -------------------------------------------------------------------------------- */

static kvw_key key_of(uint64_t id)
{
    kvw_key key = {{0}};

    for (uint32_t i = 0; i < 8; ++i)
        key.bytes[i] = (uint8_t)(id >> 8 * i);
    return key;
}

/* The peer of that name that came last, "": of any name; NULL: there is none. */
static const struct peer *peer_of(const struct kve_link *l, const char *name)
{
    for (uint32_t i = l->peer_count; i-- > 0;)
        if (name[0] == '\0' || strcmp(l->peers[i].name, name) == 0)
            return &l->peers[i];
    return NULL;
}

/* *x anew, with the peer; false: there is none. */
static bool begin(struct kve_link *l, struct kve_xfer *x)
{
    struct kve_xfer anew = {.id = x->id};

    look(l, true);
    const struct peer *p = peer_of(l, x->with);
    if (l->state != KVE_LINK_UP || p == NULL)
        return false;
    memcpy(anew.with, x->with, sizeof(anew.with));
    anew.peer = p->id;
    *x = anew;
    return true;
}

static kvw_err begun(struct kve_link *l, struct kve_xfer *x, kvw_err err)
{
    if (err == KVW_OK) { /* its events are taken later, by this thread */
        x->next = l->live;
        l->live = x;
    }
    return err;
}

kvw_err kve_link_offer(struct kve_link *l, struct kve_xfer *x, const struct kve_blocks *blocks,
                       const struct kvw_offer_terms *terms)
{
    const struct kvw_group_blocks group = {.block_count = blocks->count,
                                           .blocks = blocks->ids,
                                           .want_first = blocks->there,
                                           .want_end = blocks->tokens};
    struct kvw_offer_args args = {
        .size = sizeof(args),
        .key = key_of(x->id),
        .tokens = blocks->tokens,
        .group_count = 1,
        .groups = &group,
        .sources = &x->peer,
        .source_count = 1,
        .group_bytes = sizeof(group),
        .terms = terms,
    };

    if (!begin(l, x))
        return KVW_E_PEER_LOST;
    args.pool = l->pool;
    return begun(l, x, kvw_node_offer(l->node, &args, &x->ref, NULL, 0));
}

kvw_err kve_link_stream(struct kve_link *l, struct kve_xfer *x, const struct kve_blocks *blocks,
                        uint64_t offer_by_ns, uint64_t deadline_ns)
{
    const struct kvw_group_blocks group = {.block_count = blocks->count, .blocks = blocks->ids};
    struct kvw_stream_args args = {
        .size = sizeof(args),
        .key = key_of(x->id),
        .tokens = blocks->tokens,
        .group_count = 1,
        .groups = &group,
        .group_bytes = sizeof(group),
        .offer_by_ns = offer_by_ns,
        .deadline_ns = deadline_ns,
    };

    if (!begin(l, x))
        return KVW_E_PEER_LOST;
    args.pool = l->pool;
    return begun(l, x, kvw_node_stream(l->node, &args, &x->ref, NULL, 0));
}

/* What a call on a live transfer said. NOTFOUND is no failure: its end says why. */
static void must(struct kve_link *l, struct kve_xfer *x, kvw_err err, const char *what)
{
    char reason[96];

    if (err == KVW_OK || err == KVW_E_NOTFOUND)
        return;
    snprintf(reason, sizeof(reason), "the engine's %s failed: %s", what, kvw_strerror(err));
    (void)!kvw_node_abort(l->node, x->ref, reason);
}

void kve_link_push(struct kve_link *l, struct kve_xfer *x, uint32_t layer, uint32_t tokens)
{
    if (x->done)
        return;
    must(l, x,
         l->cfg.stream != NULL ? kvw_node_push_after(l->node, x->ref, layer, tokens, l->cfg.stream)
                               : kvw_node_push(l->node, x->ref, layer, tokens, NULL),
         "push");
}

kvw_err kve_link_layer_wait(struct kve_link *l, struct kve_xfer *x, uint32_t layer)
{
    return x->done ? x->err : kvw_node_layer_wait(l->node, x->ref, layer, l->cfg.stream);
}

void kve_link_commit(struct kve_link *l, struct kve_xfer *x, const void *note, uint32_t note_bytes)
{
    if (!x->done)
        must(l, x, kvw_node_commit(l->node, x->ref, note, note_bytes), "commit");
}

void kve_link_abort(struct kve_link *l, struct kve_xfer *x, const char *reason)
{
    if (!x->done)
        (void)!kvw_node_abort(l->node, x->ref, reason); /* NOTFOUND: it has ended */
}

void kve_link_decline(struct kve_link *l, const char *with, uint64_t id, kvw_err err,
                      const char *reason)
{
    look(l, true);
    const struct peer *p = peer_of(l, with);
    if (p != NULL) /* without room for it the other side waits out its patience */
        (void)!kvw_node_refuse(l->node, p->id, key_of(id),
                               err == KVW_E_NOBLOCKS ? err : KVW_E_CANCELED, reason);
}

bool kve_link_done(struct kve_link *l, const struct kve_xfer *x)
{
    if (!x->done)
        look(l, false);
    return x->done;
}

bool kve_link_wait(struct kve_link *l, const struct kve_xfer *x, uint64_t until_ns)
{
    for (;;) {
        struct pollfd p = {.fd = l->notify_fd, .events = POLLIN};
        uint64_t now;

        look(l, true);
        now = kve_now_ns();
        if (x->done || now >= until_ns)
            return x->done;
        poll(&p, 1, until_ns - now < 500 * KVE_MS ? (int)((until_ns - now) / KVE_MS) + 1 : 500);
    }
}

/* --- open and close --------------------------------------------------------------------------- */

static void close_fd(int fd)
{
    if (fd >= 0)
        close(fd);
}

static void link_free(struct kve_link *l)
{
    close_fd(l->notify_fd);
    close_fd(l->opened_fd);
    close_fd(l->timer_fd);
    close_fd(l->stop_fd);
    free(l->name);
    free(l->net);
    free(l->local);
    free(l->peer);
    free(l->fault);
    free(l->trace);
    free(l->model_name);
    free(l);
}

/* False: no memory. */
static bool copy(char **to, const char *s)
{
    if (s != NULL)
        *to = strdup(s);
    return s == NULL || *to != NULL;
}

kvw_err kve_link_open(struct kve_link **link, const struct kve_link_config *cfg)
{
    struct kve_link *l = calloc(1, sizeof(*l));

    if (l == NULL)
        return KVW_E_NOMEM;
    l->cfg = *cfg;
    l->state = KVE_LINK_STARTING;
    l->notify_fd = epoll_create1(EPOLL_CLOEXEC);
    l->opened_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    l->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    l->stop_fd = eventfd(0, EFD_CLOEXEC);
    if (cfg->cpus != NULL && !kve_cpus_parse(&l->cpus, cfg->cpus)) {
        link_free(l);
        return KVW_E_INVALID;
    }
    const char *role = cfg->sender ? "prefill" : "decode";
    l->many = cfg->peer != NULL && strchr(cfg->peer, ',') != NULL && strcmp(cfg->net, "udp") == 0;
    l->listens = !cfg->sender || (l->many && cfg->peer[strlen(cfg->peer) - 1] == ',');
    if (!copy(&l->name, cfg->name != NULL ? cfg->name : role) || !copy(&l->net, cfg->net) ||
        !copy(&l->local, cfg->local) || !copy(&l->peer, cfg->peer) ||
        !copy(&l->fault, cfg->fault) || !copy(&l->trace, cfg->trace) ||
        !copy(&l->model_name, cfg->model_name) || l->notify_fd < 0 || l->opened_fd < 0 ||
        l->timer_fd < 0 || l->stop_fd < 0 || !watch(l, l->opened_fd)) {
        link_free(l);
        return KVW_E_NOMEM;
    }
    if (pthread_create(&l->thread, NULL, link_main, l) != 0) {
        link_free(l);
        return KVW_E_IO;
    }
    *link = l;
    return KVW_OK;
}

bool kve_link_close(struct kve_link *l)
{
    const uint64_t one = 1;
    struct timespec by;

    if (l == NULL)
        return true;
    (void)!write(l->stop_fd, &one, sizeof(one));
    clock_gettime(CLOCK_REALTIME, &by); /* pthread_timedjoin_np's clock */
    by.tv_sec += CLOSE_WAIT_S;
    if (pthread_timedjoin_np(l->thread, NULL, &by) != 0)
        return false; /* the thread still uses *l: leaked on purpose */
    while (l->live != NULL)
        finish(l, l->live, KVW_E_PEER_LOST, "the link was closed", kve_now_ns());
    link_free(l);
    return true;
}
