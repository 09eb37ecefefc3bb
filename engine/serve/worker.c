/* SPDX-License-Identifier: Apache-2.0 */
/*
 * worker.c - a worker's life: it opens the model and the link, takes requests from its channel,
 * hands them to decode.c, turns that, and closes everything.
 */
#include "worker.h"

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "clock.h"
#include "compute.h"
#include "job.h"
#include "session.h"

#define BLOCK_TOKENS 16u

static _Atomic int stop_all; /* set by a signal handler or another thread */

void kve_worker_stop_all(void)
{
    stop_all = 1;
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

static void refuse(struct kve_worker *w, enum kve_request_part said, const char *text)
{
    const bool prefill = kve_worker_part(w, said) == KVE_PART_PREFILL;
    cJSON *obj = kve_worker_event(w, prefill ? "prefilled" : "finished");

    cJSON_AddNumberToObject(obj, "err", KVW_E_INVALID);
    cJSON_AddStringToObject(obj, "text", text);
    kve_worker_say(w, obj);
    if (w->request_id != 0)
        kve_worker_decline(w, KVW_E_INVALID, text);
}

/* False: it is no op of a session. */
static bool serve_session(struct kve_worker *w, const cJSON *obj)
{
    const char *op = kve_json_str(obj, "op");
    const bool saves = strcmp(op, "save") == 0;

    if (!saves && strcmp(op, "restore") != 0)
        return false;
    const uint64_t speaks_of = w->request_id; /* of a token that is being written */
    w->request_id = 0;
    if (saves)
        kve_session_save(w, obj);
    else
        kve_session_restore(w, obj);
    w->request_id = speaks_of;
    return true;
}

static void serve(struct kve_worker *w, const cJSON *obj)
{
    char why[KVE_WHY_BYTES] = "";
    struct kve_request r;
    uint64_t id;

    if (strcmp(kve_json_str(obj, "op"), "cancel") == 0) {
        if (kve_json_u64(obj, "id", 1, 1ull << 52, &id))
            kve_decodes_cancel(w, id);
        return; /* one that isn't there has ended */
    }
    if (serve_session(w, obj))
        return;
    if (strcmp(kve_json_str(obj, "op"), "generate") != 0) {
        kve_worker_say_error(w, obj, KVW_E_INVALID, "op: it is generate, cancel, save or restore");
        return;
    }
    w->canceled = false;
    const uint64_t speaks_of = w->request_id; /* of a token that is being written */
    w->request_id = kve_json_u64(obj, "id", 1, 1ull << 52, &id) ? id : 0;
    snprintf(w->with, sizeof(w->with), "%.31s", kve_json_str(obj, "with"));
    const kvw_err err = kve_request_parse(&r, obj, w->mc->vocab, w->mc->context, why);
    if (err != KVW_OK) {
        refuse(w, kve_request_part_of(obj), why[0] != '\0' ? why : kvw_strerror(err));
    } else {
        if (!kve_decodes_begin(w, &r))
            kve_worker_busy(w, obj, !kve_decodes_has(w, r.id));
        kve_request_free(&r);
    }
    w->request_id = speaks_of;
}

static void listen_meanwhile(struct kve_worker *w)
{
    kvw_err err;
    cJSON *obj;

    while ((obj = kve_channel_read(&w->channel, &err)) != NULL) {
        serve(w, obj);
        cJSON_Delete(obj);
    }
    if (err != KVW_E_AGAIN) {
        kve_worker_channel_ends(w, err);
        w->canceled = true;
    }
}

static bool link_failed(struct kve_worker *w)
{
    char text[KVW_TEXT_BYTES_MAX + 1];

    if (w->link == NULL || kve_link_state_now(w->link, text) != KVE_LINK_FAILED)
        return false;
    fatal(w, text);
    return true;
}

/* What a router estimates times with. */
static void add_model(const struct kve_worker *w, cJSON *hello)
{
    const struct kve_model_config *mc = w->mc;
    struct stat st;

    cJSON_AddNumberToObject(hello, "layers", mc->layers);
    cJSON_AddNumberToObject(hello, "token_bytes",
                            (double)mc->layers * mc->kv_heads * mc->head_dim * 2 *
                                kvw_dtype_bytes(w->kv.pool.dtype));
    cJSON_AddNumberToObject(hello, "pair_flops", (double)mc->layers * mc->heads * mc->head_dim * 4);
    if (stat(w->cfg->model_path, &st) == 0)
        cJSON_AddNumberToObject(hello, "weight_bytes", (double)st.st_size);
}

/* Requests of one channel until it ends. */
static void serve_messages(struct kve_worker *w)
{
    w->seen_state = 0; /* this router hears the state in any case */
    w->canceled = false;
    cJSON *hello = kve_worker_event(w, "loaded");
    cJSON_AddStringToObject(hello, "role", kve_worker_name(w));
    cJSON_AddStringToObject(hello, "model", kve_model_name(w->model));
    cJSON_AddNumberToObject(hello, "kv_blocks", w->kv.pool.blocks);
    cJSON_AddNumberToObject(hello, "block_tokens", w->kv.pool.block_tokens);
    add_model(w, hello);
    cJSON_AddStringToObject(hello, "kv_dtype", kve_compute_kv_name(w->kv.pool.dtype));
    cJSON_AddStringToObject(hello, "device", w->device.gpu != NULL ? w->device.text : "cpu");
    kve_worker_say(w, hello);
    while (!stop_all) {
        kvw_err err;
        cJSON *obj = kve_channel_read(&w->channel, &err);

        if (obj != NULL) {
            serve(w, obj);
            cJSON_Delete(obj);
            continue;
        }
        if (err != KVW_E_AGAIN) {
            kve_worker_channel_ends(w, err);
            return;
        }
        kve_worker_tell_link(w);
        if (link_failed(w))
            return;
        if (kve_decodes_turn(w))
            continue;
        struct pollfd p[2] = {
            {.fd = w->channel.fd, .events = POLLIN},
            {.fd = w->link != NULL ? kve_link_notify_fd(w->link) : -1, .events = POLLIN}};
        poll(p, 2, KVE_IDLE_POLL_MS);
    }
}

static void serve_channel(struct kve_worker *w)
{
    serve_messages(w);
    kve_decodes_end(w);
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

        poll(p, 2, KVE_IDLE_POLL_MS);
        kve_worker_tell_link(w);
        if ((p[0].revents & POLLIN) == 0)
            continue;
        const int c = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
        if (c < 0)
            continue;
        kve_channel_init(&w->channel, c);
        w->channel.stop = &stop_all;
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
        .name = w->cfg->name,
        .net = w->cfg->net,
        .local = w->cfg->local,
        .peer = w->cfg->peer,
        .fault = w->cfg->fault,
        .trace = w->cfg->trace,
        .cpus = w->cfg->cpus,
        .busy_poll = w->cfg->busy_poll,
        .open_timeout_ns = w->cfg->open_timeout_ns,
        .sender = w->cfg->role == KVE_WORKER_PREFILL,
        .model_name = kve_model_name(w->model),
        .pool = w->kv.pool,
        .gpu_plugin = w->device.gpu != NULL ? w->device.plugin : NULL,
        .gpu = w->device.gpu,
        .stream = kve_run_stream(w->run),
        .codec = w->cfg->codec,
        .encoders = w->cfg->encoders,
    };

    kve_model_fingerprint(w->model, lc.fingerprint);
    return kve_link_open(&w->link, &lc);
}

/* The run and the cache on the GPU that the worker was given, or nothing of it and a sentence. */
static kvw_err open_on_gpu(struct kve_worker *w, const struct kvw_pool *shape, char *why)
{
    const char *number = strchr(w->cfg->device, ':');
    kvw_err err = kve_device_open(&w->device, number != NULL ? atoi(number + 1) : 0, why);

    if (err != KVW_OK)
        return err;
    err = kve_device_run(&w->device, &w->run, w->model, w->cfg->prefill_tokens, shape->block_tokens,
                         why);
    if (err == KVW_OK)
        err = kve_device_kvcache(&w->device, &w->kv, shape, why);
    if (err == KVW_OK)
        return KVW_OK;
    kve_run_close(w->run);
    w->run = NULL;
    kve_device_close(&w->device);
    return err;
}

/* Where a GPU is wanted and can't be had, there is a sentence, and the CPU does it, if it can. */
static kvw_err open_run(struct kve_worker *w, const struct kvw_pool *shape, char *text)
{
    const struct kve_worker_config *cfg = w->cfg;
    char why[KVE_WHY_BYTES] = "";
    kvw_err err;

    if (kve_compute_on_gpu(cfg)) {
        if (open_on_gpu(w, shape, why) == KVW_OK)
            return KVW_OK;
        if (cfg->kv_dtype == KVW_DTYPE_F8_E4M3) { /* its peer wouldn't take bf16 for it */
            snprintf(text, KVE_WHY_BYTES, "--kv-dtype fp8 needs the GPU: %.280s", why);
            return KVW_E_UNSUPPORTED;
        }
        fprintf(stderr, "kvserve %s: --device %s: %s; the CPU computes\n", kve_worker_name(w),
                cfg->device, why);
    }
    err = kve_kvcache_open(&w->kv, shape->layers, shape->kv_heads, shape->head_dim,
                           shape->block_tokens, shape->blocks);
    return err != KVW_OK
               ? err
               : kve_run_open(&w->run, w->model, cfg->threads, cfg->prefill_tokens, w->mc->context);
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
    const struct kvw_pool shape = {
        .layers = w->mc->layers,
        .kv_heads = w->mc->kv_heads,
        .head_dim = w->mc->head_dim,
        .dtype = cfg->kv_dtype,
        .block_tokens = block_tokens,
        .blocks = (kv_tokens + block_tokens - 1) / block_tokens,
    };
    err = open_run(w, &shape, why);
    const size_t values = (size_t)KVE_SEQUENCES_MAX * w->mc->vocab; /* untouched: no memory */
    if (err == KVW_OK && (w->logits = malloc(values * sizeof(*w->logits))) == NULL)
        err = KVW_E_NOMEM;
    if (err == KVW_OK)
        err = kve_decodes_open(w);
    w->listen = listen_meanwhile;
    if (err == KVW_OK)
        kve_session_open_store(w);
    if (err == KVW_OK && cfg->role != KVE_WORKER_LOCAL)
        err = open_link(w);
    return err;
}

int kve_worker_main(const struct kve_worker_config *cfg)
{
    struct kve_worker w = {.cfg = cfg};
    char why[KVE_WHY_BYTES] = "", name[16];
    int status = 1;

    snprintf(name, sizeof(name), "kvserve-%s", kve_worker_name(&w));
    prctl(PR_SET_NAME, name); /* what ps and top show: spawn.c starts us as /proc/self/exe */
    kve_channel_init(&w.channel, cfg->control_path == NULL ? cfg->control_fd : -1);
    w.channel.stop = &stop_all;
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
    kve_decodes_close(&w);
    kve_store_close(w.store);
    kve_run_close(w.run);
    kve_kvcache_close(&w.kv);
    kve_device_close(&w.device);
    kve_tok_close(w.tok);
    kve_model_close(w.model);
    kve_gguf_close(w.gguf);
    return status;
}
