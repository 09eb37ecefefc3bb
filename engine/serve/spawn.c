/* SPDX-License-Identifier: Apache-2.0 */
/* spawn.c - starts the workers (processes, threads, or found running) and ends them. */
#include "spawn.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../../compress/compress.h"
#include "../gguf/gguf.h"
#include "clock.h"
#include "compute.h"

#define STOP_WAIT_NS (5 * KVE_S)

static void arg(struct kve_spawn_args *a, const char *key, const char *value)
{
    if (value == NULL)
        return;
    a->at[a->n++] = (char *)(uintptr_t)key; /* execv's signature predates const */
    a->at[a->n++] = (char *)(uintptr_t)value;
}

static void arg_number(struct kve_spawn_args *a, const char *key, uint64_t value)
{
    if (value == 0)
        return;
    snprintf(a->text[a->n], sizeof(a->text[0]), "%llu", (unsigned long long)value);
    arg(a, key, a->text[a->n]);
}

/* In units of unit nanoseconds, with the fraction; 0: the default. */
static void arg_time(struct kve_spawn_args *a, const char *key, uint64_t ns, uint64_t unit)
{
    const int digits = unit == KVE_S ? 9 : 6;

    if (ns == 0)
        return;
    snprintf(a->text[a->n], sizeof(a->text[0]), "%llu.%0*llu", (unsigned long long)(ns / unit),
             digits, (unsigned long long)(ns % unit));
    arg(a, key, a->text[a->n]);
}

/* NULL: let it choose. */
static const char *codec_name(uint8_t id)
{
    for (uint32_t i = 0; kvc_codecs[i] != NULL; ++i)
        if (kvc_codecs[i]->id == id)
            return kvc_codecs[i]->name;
    return NULL;
}

void kve_spawn_args(struct kve_spawn_args *a, const struct kve_worker_config *c, const char *name,
                    int fd)
{
    a->n = 2;
    a->at[0] = (char *)(uintptr_t) "kvserve";
    a->at[1] = (char *)(uintptr_t)name;
    snprintf(a->control, sizeof(a->control), "fd:%d", fd);
    arg(a, "--control", a->control);
    arg(a, "--name", c->name);
    arg(a, "--model", c->model_path);
    arg(a, "--net", c->net);
    arg(a, "--link", c->local);
    arg(a, "--peer", c->peer);
    arg(a, "--fault", c->fault);
    arg(a, "--trace", c->trace);
    arg(a, "--cpu", c->cpus);
    if (c->busy_poll)
        a->at[a->n++] = (char *)(uintptr_t) "--busy-poll";
    arg(a, "--device", c->device);
    arg(a, "--kv-dtype", kve_compute_kv_name(c->kv_dtype));
    arg(a, "--prefix-cache-dir", c->cache_dir);
    if (c->cache_dir != NULL)
        arg_time(a, "--prefix-cache-disk-gb", c->cache_bytes, KVE_S); /* 1e9, too */
    arg_number(a, "--threads", c->threads);
    arg_number(a, "--kv-tokens", c->kv_tokens);
    arg_number(a, "--block-tokens", c->block_tokens);
    arg_number(a, "--prefill-tokens", c->prefill_tokens);
    arg_number(a, "--encoders", c->encoders);
    arg(a, "--codec", codec_name(c->codec));
    arg_time(a, "--wait-peer", c->open_timeout_ns, KVE_S);
    arg_time(a, "--lease", c->lease_ns, KVE_MS);
    if (c->quiet)
        a->at[a->n++] = (char *)(uintptr_t) "--quiet";
    a->at[a->n] = NULL;
}

/* In the child: async-signal-safe calls only. */
static void exec_worker(const struct kve_spawn_args *a, int fd, bool own_group)
{
    if (own_group)
        setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL);   /* no orphans, whatever happens to the router */
    fcntl(fd, F_SETFD, 0);              /* the worker's control channel */
    dup2(STDERR_FILENO, STDOUT_FILENO); /* standard output is the router's: the answer alone */
    execv("/proc/self/exe", a->at);
    _exit(127);
}

static void *thread_main(void *arg_)
{
    struct kve_spawned *w = arg_;

    kve_worker_main(&w->cfg);
    return NULL;
}

static const char *role_name(kve_worker_role role)
{
    return role == KVE_WORKER_PREFILL ? "prefill" : role == KVE_WORKER_DECODE ? "decode" : "local";
}

/* The next of *s. index: among those of its role; several: they have numbers. */
static struct kve_spawned *add(struct kve_spawn *s, kve_worker_role role, uint32_t index,
                               bool several)
{
    struct kve_spawned *w = &s->at[s->count];

    w->role = role;
    w->index = s->count++;
    w->channel.fd = -1;
    if (several)
        snprintf(w->name, sizeof(w->name), "%s-%u", role_name(role), index);
    else
        snprintf(w->name, sizeof(w->name), "%s", role_name(role));
    s->prefills += role == KVE_WORKER_PREFILL;
    return w;
}

/* Start it: base is its config but for the role, the name and the control channel. */
static kvw_err start_one(struct kve_spawned *w, const struct kve_worker_config *base,
                         bool as_process, char *why)
{
    int fds[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0) {
        snprintf(why, KVE_WHY_BYTES, "socketpair: %s", strerror(errno));
        return KVW_E_IO;
    }
    w->cfg = *base;
    w->cfg.role = w->role;
    w->cfg.control_path = NULL;
    w->cfg.control_fd = fds[1];
    w->cfg.quiet = true;
    if (as_process) {
        struct kve_spawn_args args;

        kve_spawn_args(&args, &w->cfg, role_name(w->role), fds[1]);
        w->pid = fork();
        if (w->pid == 0)
            exec_worker(&args, fds[1], w->cfg.own_group);
        close(fds[1]);
    } else {
        w->threaded = pthread_create(&w->thread, NULL, thread_main, w) == 0;
        if (!w->threaded)
            close(fds[1]);
    }
    if (w->pid < 0 || (!as_process && !w->threaded)) {
        snprintf(why, KVE_WHY_BYTES, "can't start the %s worker: %s", w->name, strerror(errno));
        w->pid = 0;
        close(fds[0]);
        return KVW_E_NOMEM;
    }
    kve_channel_init(&w->channel, fds[0]);
    return KVW_OK;
}

static kvw_err connect_one(struct kve_spawned *w, const char *path, char *why)
{
    int fd;
    const kvw_err err = kve_control_connect(&fd, path, why);

    if (err != KVW_OK)
        return err;
    kve_channel_init(&w->channel, fd);
    return KVW_OK;
}

/* Whose directory is there; one at a time. */
static struct kve_spawn *volatile left_behind;

void kve_spawn_clean_up(void)
{
    const struct kve_spawn *s = left_behind;

    if (s == NULL)
        return;
    unlink(s->local);
    unlink(s->lock); /* a worker that was killed leaves it */
    rmdir(s->dir.path);
}

/* A private directory for the link's socket: it joins one trust domain. */
static kvw_err make_dir(struct kve_spawn *s, char *why)
{
    const kvw_err err = kve_tempdir_open(&s->dir, NULL, why);

    if (err != KVW_OK)
        return err;
    snprintf(s->local, sizeof(s->local), "%s/" KVE_TEMPDIR_SOCKET, s->dir.path);
    snprintf(s->lock, sizeof(s->lock), "%s/" KVE_TEMPDIR_LOCK, s->dir.path);
    left_behind = s;
    return KVW_OK;
}

/* A free UDP port of the loopback. Somebody may grab it before decode does: that ends in decode's
 * own sentence. */
static kvw_err pick_udp(char local[128], char *why)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(a);
    const int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    if (fd < 0 || bind(fd, (struct sockaddr *)&a, len) != 0 ||
        getsockname(fd, (struct sockaddr *)&a, &len) != 0) {
        snprintf(why, KVE_WHY_BYTES, "no free UDP port on 127.0.0.1: %s", strerror(errno));
        if (fd >= 0)
            close(fd);
        return KVW_E_ADDRESS;
    }
    close(fd);
    snprintf(local, 128, "127.0.0.1:%u", ntohs(a.sin_port));
    return KVW_OK;
}

static kvw_err need_link(char *why)
{
    snprintf(why, KVE_WHY_BYTES,
             "--net verbs needs --link ADDR:PORT, the address of an RDMA device's interface");
    return KVW_E_ADDRESS;
}

static kvw_err start_pair(struct kve_spawn *s, const struct kve_spawn_config *cfg, char *why)
{
    struct kve_worker_config wc = cfg->worker;
    const bool loop = strcmp(wc.net, "loop") == 0;
    const bool verbs = strcmp(wc.net, "verbs") == 0;
    struct kve_spawned *prefill = add(s, KVE_WORKER_PREFILL, 0, false);
    struct kve_spawned *decode = add(s, KVE_WORKER_DECODE, 0, false);
    char side[64];
    kvw_err err = KVW_OK;

    if (wc.local == NULL) {
        if (loop)
            snprintf(s->local, sizeof(s->local), "kvserve-%d", (int)getpid());
        else if (strcmp(wc.net, "udp") == 0)
            err = pick_udp(s->local, why);
        else if (verbs)
            err = need_link(why);
        else
            err = make_dir(s, why);
        wc.local = s->local;
    }
    if (err != KVW_OK)
        return err;
    const char *link = wc.local;
    if (cfg->decode_model != NULL)
        wc.model_path = cfg->decode_model;
    err = start_one(decode, &wc, !loop, why);
    wc.model_path = cfg->worker.model_path;
    if (strcmp(wc.net, "udp") == 0) {
        wc.peer = link;
        wc.local = "0.0.0.0:0"; /* any port */
    }
    if (verbs) { /* the same devices; the peer is the address alone, without their options */
        snprintf(side, sizeof(side), "%.*s", (int)strcspn(link, ",+"), link);
        wc.peer = side;
    }
    if (err == KVW_OK)
        err = start_one(prefill, &wc, !loop, why);
    return err;
}

/* ---- several ---- */

/* Whom it dials. A list that ends with a comma: it also listens. */
static const char *list_peers(struct kve_spawn *s, const struct kve_spawned *w)
{
    const bool prefill = w->role == KVE_WORKER_PREFILL;
    size_t at = 0;

    for (uint32_t i = 0; i < s->count && at < sizeof(s->peers); ++i) {
        const bool same = prefill == (i < s->prefills);

        if (same ? s->cfg->mesh && i < w->index : prefill)
            at += (size_t)snprintf(s->peers + at, sizeof(s->peers) - at, "%s,", s->at[i].local);
    }
    if (at > 0 && !s->cfg->mesh)
        s->peers[at - 1] = '\0';
    return at > 0 ? s->peers : NULL;
}

static kvw_err start_of_several(struct kve_spawn *s, struct kve_spawned *w, char *why)
{
    struct kve_worker_config wc = s->cfg->worker;

    wc.name = w->name;
    wc.local = w->local;
    wc.peer = list_peers(s, w);
    if (w->role == KVE_WORKER_DECODE && s->cfg->decode_model != NULL)
        wc.model_path = s->cfg->decode_model;
    return start_one(w, &wc, true, why);
}

static kvw_err start_several(struct kve_spawn *s, char *why)
{
    const uint32_t prefills = s->cfg->prefills > 0 ? s->cfg->prefills : 1;
    const uint32_t decodes = s->cfg->decodes > 0 ? s->cfg->decodes : 1;
    kvw_err err = KVW_OK;

    for (uint32_t i = 0; i < prefills && err == KVW_OK; ++i) {
        struct kve_spawned *w = add(s, KVE_WORKER_PREFILL, i, true);

        snprintf(w->local, sizeof(w->local), "127.0.0.1:0");
        if (s->cfg->mesh)
            err = pick_udp(w->local, why);
    }
    for (uint32_t i = 0; i < decodes && err == KVW_OK; ++i)
        err = pick_udp(add(s, KVE_WORKER_DECODE, i, true)->local, why);
    for (uint32_t i = s->count; i-- > 0 && err == KVW_OK;) /* those who listen first */
        err = start_of_several(s, &s->at[i], why);
    return err;
}

static void forget(struct kve_spawned *w)
{
    w->loaded = w->up = w->stuck = false;
    w->linked = w->kv_blocks = w->kv_free = 0;
}

kvw_err kve_spawn_again(struct kve_spawn *s, struct kve_spawned *w, char *why)
{
    forget(w);
    return start_of_several(s, w, why);
}

/* ---- all ---- */

kvw_err kve_spawn_start(struct kve_spawn *s, const struct kve_spawn_config *cfg, char *why)
{
    kvw_err err;

    memset(s, 0, sizeof(*s));
    s->cfg = cfg;
    if (cfg->prefill_at != NULL) {
        err = connect_one(add(s, KVE_WORKER_PREFILL, 0, false), cfg->prefill_at, why);
        if (err == KVW_OK)
            err = connect_one(add(s, KVE_WORKER_DECODE, 0, false), cfg->decode_at, why);
    } else if (strcmp(cfg->worker.net, "none") == 0) {
        err = start_one(add(s, KVE_WORKER_LOCAL, 0, false), &cfg->worker, false, why);
    } else if (cfg->prefills > 1 || cfg->decodes > 1) {
        err = start_several(s, why);
    } else {
        err = start_pair(s, cfg, why);
    }
    if (err != KVW_OK)
        kve_spawn_stop(s);
    return err;
}

static void reap(struct kve_spawned *w, uint64_t until_ns)
{
    while (w->pid > 0) {
        const pid_t pid = waitpid(w->pid, NULL, WNOHANG);

        if (pid == w->pid || (pid < 0 && errno != EINTR)) {
            w->pid = 0;
        } else if (kve_now_ns() > until_ns) {
            kill(w->pid, SIGKILL);
            waitpid(w->pid, NULL, 0);
            w->pid = 0;
        } else {
            usleep(2000);
        }
    }
    if (w->threaded) {
        pthread_join(w->thread, NULL); /* ends at the hang-up: its waits are bounded */
        w->threaded = false;
    }
}

void kve_spawn_stop(struct kve_spawn *s)
{
    const uint64_t until_ns = kve_now_ns() + STOP_WAIT_NS;

    for (uint32_t i = 0; i < s->count; ++i)
        kve_channel_close(&s->at[i].channel);
    for (uint32_t i = 0; i < s->count; ++i)
        reap(&s->at[i], until_ns);
    kve_tempdir_close(&s->dir);
    left_behind = NULL;
}

void kve_spawn_end(struct kve_spawned *w)
{
    kve_channel_close(&w->channel);
    reap(w, kve_now_ns());
    forget(w);
}

bool kve_spawn_ended(struct kve_spawned *w, char *why)
{
    int status;

    if (w->pid <= 0)
        return false;
    for (int i = 0; i < 100; ++i) { /* it has hung up: its end is at most a moment away */
        const pid_t pid = waitpid(w->pid, &status, WNOHANG);

        if (pid == w->pid) {
            w->pid = 0;
            if (WIFSIGNALED(status))
                snprintf(why, KVE_WHY_BYTES, "the %s process was killed by signal %d", w->name,
                         WTERMSIG(status));
            else
                snprintf(why, KVE_WHY_BYTES, "the %s process ended with status %d", w->name,
                         WEXITSTATUS(status));
            return true;
        }
        usleep(10000);
    }
    return false;
}
