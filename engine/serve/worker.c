/* SPDX-License-Identifier: Apache-2.0 */
#include "worker.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../compress/compress.h"
#include "clock.h"

#define BLOCK_TOKENS 16u
#define IDLE_POLL_MS 500 /* a lost wake-up would cost no more than this */

static volatile sig_atomic_t stop_all;

void kve_worker_stop_all(void)
{
    stop_all = 1;
}

const char *kve_worker_name(const struct kve_worker *w)
{
    static const char *const names[] = {"?", "prefill", "decode", "local"};

    return names[w->cfg->role];
}

cJSON *kve_worker_event(const struct kve_worker *w, const char *name)
{
    cJSON *obj = cJSON_CreateObject();

    cJSON_AddStringToObject(obj, "ev", name);
    if (w->request_id != 0)
        cJSON_AddNumberToObject(obj, "id", (double)w->request_id);
    return obj;
}

void kve_worker_say(struct kve_worker *w, cJSON *obj)
{
    if (kve_channel_write(&w->channel, obj) != KVW_OK)
        w->canceled = true; /* nobody is there to hear the answer */
}

void kve_worker_tell_link(struct kve_worker *w)
{
    static const char *const names[] = {"?", "starting", "waiting", "up", "failed"};
    char text[KVW_TEXT_BYTES_MAX + 1];
    uint64_t n;

    if (w->link == NULL)
        return;
    while (read(kve_link_notify_fd(w->link), &n, sizeof(n)) == (ssize_t)sizeof(n))
        ;
    const kve_link_state state = kve_link_state_now(w->link, text);
    const uint32_t peers = kve_link_peers(w->link);
    if (state == w->seen_state && peers == w->seen_peers)
        return;
    w->seen_state = state;
    w->seen_peers = peers;
    if (!w->cfg->quiet)
        fprintf(stderr, "kvserve %s: link %s%s%s\n", kve_worker_name(w), names[state],
                text[0] != '\0' && state != KVE_LINK_UP ? ": " : "",
                state != KVE_LINK_UP ? text : "");
    if (w->channel.fd < 0)
        return;
    cJSON *obj = kve_worker_event(w, "link");
    cJSON_AddStringToObject(obj, "state", names[state]);
    cJSON_AddNumberToObject(obj, "peers", peers);
    cJSON_AddNumberToObject(obj, "err", kve_link_error(w->link));
    cJSON_AddStringToObject(obj, "text", text);
    kve_worker_say(w, obj);
}

bool kve_worker_canceled(struct kve_worker *w)
{
    kvw_err err;
    cJSON *obj;

    while (!w->canceled && (obj = kve_channel_read(&w->channel, &err)) != NULL) {
        uint64_t id = 0;

        /* One request at a time: anything but a cancel of this one is a router's mistake. */
        if (strcmp(kve_json_str(obj, "op"), "cancel") == 0 &&
            kve_json_u64(obj, "id", 1, 1ull << 53, &id) && id == w->request_id) {
            w->canceled = true;
        } else if (strcmp(kve_json_str(obj, "op"), "cancel") != 0) {
            cJSON *busy = kve_worker_event(w, "error");
            cJSON_AddStringToObject(busy, "text", "busy with another request");
            kve_worker_say(w, busy);
        }
        cJSON_Delete(obj);
    }
    if (!w->canceled && err != KVW_E_AGAIN)
        w->canceled = true; /* hung up, or talks nonsense */
    return w->canceled || stop_all;
}

void kve_worker_wait_xfer(struct kve_worker *w, struct kve_xfer *x, uint64_t until_ns)
{
    bool aborted = false;

    while (!kve_link_done(w->link, x)) {
        const uint64_t now = kve_now_ns();

        if (!aborted && (kve_worker_canceled(w) || now >= until_ns)) {
            kve_link_abort(w->link, x,
                           now >= until_ns ? "the request's time ran out"
                                           : "the request was canceled");
            aborted = true;
        }
        if (aborted) { /* the channel may be closed: it would only wake us for nothing */
            kve_link_wait(w->link, x, now + 100 * KVE_MS);
            continue;
        }
        struct pollfd p[2] = {{.fd = w->channel.fd, .events = POLLIN},
                              {.fd = kve_link_notify_fd(w->link), .events = POLLIN}};
        poll(p, 2, IDLE_POLL_MS);
        kve_worker_tell_link(w);
    }
}

kvw_err kve_worker_seq_open(struct kve_worker *w, struct kve_seq *seq, uint32_t tokens, char *why)
{
    const uint32_t block_tokens = w->kv.pool.block_tokens;
    const uint32_t count = (tokens + block_tokens - 1) / block_tokens;
    uint32_t *blocks = malloc(count * sizeof(*blocks));

    if (blocks == NULL)
        return KVW_E_NOMEM;
    const kvw_err err = kve_kvcache_alloc(&w->kv, count, blocks);
    if (err != KVW_OK) {
        snprintf(why, KVE_WHY_BYTES, "no free KV blocks: %u tokens need %u, %u of %u are free",
                 tokens, count, w->kv.free_count, w->kv.pool.blocks);
        free(blocks);
        return err;
    }
    *seq = (struct kve_seq){.blocks = blocks, .block_count = count};
    return KVW_OK;
}

void kve_worker_seq_close(struct kve_worker *w, struct kve_seq *seq)
{
    kve_kvcache_free(&w->kv, seq->blocks, seq->block_count);
    free(seq->blocks);
    *seq = (struct kve_seq){0};
}

kvw_err kve_worker_link_ready(struct kve_worker *w, char *why)
{
    char text[KVW_TEXT_BYTES_MAX + 1];
    const kve_link_state state = kve_link_state_now(w->link, text);

    if (state == KVE_LINK_UP)
        return KVW_OK;
    snprintf(why, KVE_WHY_BYTES, "no peer on the %s link%s%s", w->cfg->net,
             text[0] != '\0' ? ": " : "", text);
    return KVW_E_PEER_LOST;
}

/* The last words: to the router that started us, or to the terminal. */
static void fatal(struct kve_worker *w, const char *text)
{
    if (w->channel.fd < 0) {
        fprintf(stderr, "kvserve %s: %s\n", kve_worker_name(w), text);
        return;
    }
    cJSON *obj = kve_worker_event(w, "fatal");
    cJSON_AddStringToObject(obj, "text", text);
    kve_worker_say(w, obj);
}

static void refuse(struct kve_worker *w, const char *text)
{
    cJSON *obj = kve_worker_event(w, w->cfg->role == KVE_WORKER_PREFILL ? "prefilled" : "finished");

    cJSON_AddNumberToObject(obj, "err", KVW_E_INVALID);
    cJSON_AddStringToObject(obj, "text", text);
    kve_worker_say(w, obj);
}

static void serve(struct kve_worker *w, const cJSON *obj)
{
    char why[KVE_WHY_BYTES] = "";
    struct kve_request r;
    uint64_t id;

    if (strcmp(kve_json_str(obj, "op"), "generate") != 0)
        return; /* a late cancel, or something newer than us */
    w->canceled = false;
    w->request_id = kve_json_u64(obj, "id", 1, 1ull << 52, &id) ? id : 0;
    const kvw_err err = kve_request_parse(&r, obj, w->mc->vocab, w->mc->context, why);
    if (err != KVW_OK) {
        refuse(w, why[0] != '\0' ? why : kvw_strerror(err));
    } else {
        if (w->cfg->role == KVE_WORKER_PREFILL)
            kve_serve_prefill(w, &r);
        else if (w->cfg->role == KVE_WORKER_DECODE)
            kve_serve_decode(w, &r);
        else
            kve_serve_local(w, &r);
        kve_request_free(&r);
    }
    w->request_id = 0;
}

static bool link_failed(struct kve_worker *w)
{
    char text[KVW_TEXT_BYTES_MAX + 1];

    if (w->link == NULL || kve_link_state_now(w->link, text) != KVE_LINK_FAILED)
        return false;
    fatal(w, text);
    return true;
}

/* Requests of one channel until it ends. */
static void serve_channel(struct kve_worker *w)
{
    w->seen_state = 0; /* this router hears the state in any case */
    cJSON *hello = kve_worker_event(w, "loaded");
    cJSON_AddStringToObject(hello, "role", kve_worker_name(w));
    cJSON_AddStringToObject(hello, "model", kve_model_name(w->model));
    cJSON_AddNumberToObject(hello, "kv_blocks", w->kv.pool.blocks);
    kve_worker_say(w, hello);
    while (!stop_all) {
        kvw_err err;
        cJSON *obj = kve_channel_read(&w->channel, &err);

        if (obj != NULL) {
            serve(w, obj);
            cJSON_Delete(obj);
            continue;
        }
        if (err != KVW_E_AGAIN)
            return;
        kve_worker_tell_link(w);
        if (link_failed(w))
            return;
        struct pollfd p[2] = {
            {.fd = w->channel.fd, .events = POLLIN},
            {.fd = w->link != NULL ? kve_link_notify_fd(w->link) : -1, .events = POLLIN}};
        poll(p, 2, IDLE_POLL_MS);
    }
}

static int serve_listener(struct kve_worker *w)
{
    char why[KVE_WHY_BYTES];
    int fd;

    if (kve_control_listen(&fd, w->cfg->control_path, why) != KVW_OK) {
        fatal(w, why);
        return 1;
    }
    for (bool failed = false; !stop_all && !failed; failed = link_failed(w)) {
        struct pollfd p[2] = {
            {.fd = fd, .events = POLLIN},
            {.fd = w->link != NULL ? kve_link_notify_fd(w->link) : -1, .events = POLLIN}};

        poll(p, 2, IDLE_POLL_MS);
        kve_worker_tell_link(w);
        if ((p[0].revents & POLLIN) == 0)
            continue;
        const int c = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
        if (c < 0)
            continue;
        kve_channel_init(&w->channel, c);
        serve_channel(w);
        kve_channel_close(&w->channel);
    }
    close(fd);
    unlink(w->cfg->control_path);
    return stop_all ? 0 : 1;
}

static kvw_err open_link(struct kve_worker *w)
{
    struct kve_link_config lc = {
        .net = w->cfg->net,
        .local = w->cfg->local,
        .peer = w->cfg->peer,
        .fault = w->cfg->fault,
        .cpus = w->cfg->cpus,
        .busy_poll = w->cfg->busy_poll,
        .open_timeout_ns = w->cfg->open_timeout_ns,
        .session =
            {
                .role = w->cfg->role == KVE_WORKER_PREFILL ? KVW_ROLE_SENDER : KVW_ROLE_RECEIVER,
                .model_name = kve_model_name(w->model),
                .pool = w->kv.pool,
                .codecs = kvc_codecs,
                .codec = w->cfg->codec,
                .encoders = w->cfg->encoders,
            },
    };

    kve_model_fingerprint(w->model, lc.session.fingerprint);
    return kve_link_open(&w->link, &lc);
}

static kvw_err open_all(struct kve_worker *w, char *why)
{
    const struct kve_worker_config *cfg = w->cfg;
    const uint32_t block_tokens = cfg->block_tokens != 0 ? cfg->block_tokens : BLOCK_TOKENS;
    kvw_err err = kve_gguf_open(&w->gguf, cfg->model_path, why);

    if (err == KVW_OK)
        err = kve_model_open(&w->model, w->gguf, why);
    if (err == KVW_OK)
        err = kve_tok_open(&w->tok, w->gguf, why);
    if (err != KVW_OK)
        return err;
    w->mc = kve_model_config(w->model);
    const uint32_t kv_tokens = cfg->kv_tokens != 0 ? cfg->kv_tokens : w->mc->context;
    snprintf(why, KVE_WHY_BYTES, "%u threads, %u KV tokens in blocks of %u", cfg->threads,
             kv_tokens, block_tokens);
    err = kve_kvcache_open(&w->kv, w->mc->layers, w->mc->kv_heads, w->mc->head_dim, block_tokens,
                           (kv_tokens + block_tokens - 1) / block_tokens);
    if (err == KVW_OK)
        err = kve_run_open(&w->run, w->model, cfg->threads, cfg->prefill_tokens, w->mc->context);
    if (err == KVW_OK && (w->logits = malloc(w->mc->vocab * sizeof(*w->logits))) == NULL)
        err = KVW_E_NOMEM;
    if (err == KVW_OK && cfg->role != KVE_WORKER_LOCAL)
        err = open_link(w);
    return err;
}

int kve_worker_main(const struct kve_worker_config *cfg)
{
    struct kve_worker w = {.cfg = cfg};
    char why[KVE_WHY_BYTES] = "";
    int status = 1;

    kve_channel_init(&w.channel, cfg->control_path == NULL ? cfg->control_fd : -1);
    const kvw_err err = open_all(&w, why);

    if (err != KVW_OK) {
        if (why[0] == '\0' || err == KVW_E_NOMEM)
            snprintf(why + strlen(why), sizeof(why) - strlen(why), ": %s", kvw_strerror(err));
        fatal(&w, why);
    } else if (cfg->control_path != NULL) {
        status = serve_listener(&w);
    } else {
        serve_channel(&w);
        status = w.link != NULL && kve_link_state_now(w.link, NULL) == KVE_LINK_FAILED;
    }
    kve_channel_close(&w.channel);
    const bool closed = kve_link_close(w.link);
    if (!closed)
        _exit(status); /* a device that won't close: its thread still uses what we'd free */
    free(w.logits);
    kve_run_close(w.run);
    kve_kvcache_close(&w.kv);
    kve_tok_close(w.tok);
    kve_model_close(w.model);
    kve_gguf_close(w.gguf);
    return status;
}
