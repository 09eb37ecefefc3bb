/* SPDX-License-Identifier: Apache-2.0 */
#include "router.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <unistd.h>

#include "clock.h"
#include "report.h"
#include "utf8.h"

#define LINE_BYTES_MAX (8u << 20)   /* of a batch file */
#define END_WAIT_NS    (3 * KVE_S)  /* for the other worker after one has failed */
#define READY_EXTRA_NS (30 * KVE_S) /* loading a model, beside waiting for the peer */

static volatile sig_atomic_t interrupted;

void kve_run_interrupt(void)
{
    interrupted = 1;
}

struct router {
    const struct kve_run_config *cfg;
    struct kve_gguf *gguf; /* for its vocabulary; the workers map the weights */
    struct kve_tok *tok;
    uint32_t context;
    struct kve_spawn spawn;
    bool progress_shown;
    char why[KVE_WHY_BYTES];

    /* the request under way */
    struct kve_report *report; /* NULL: none */
    bool printing;             /* the answer goes to stdout as it comes */
    uint64_t id;
    bool prefilled, finished; /* what prefill and decode say last */
    bool failed;
    struct kve_utf8_hold hold;
};

/* The first reason is the one that explains; what follows from it is dropped. */
static void fail(struct router *r, const char *who, const char *text)
{
    if (!r->failed)
        snprintf(r->why, sizeof(r->why), "%.16s: %.290s", who, text);
    r->failed = true;
}

static void show_progress(struct router *r, uint64_t tokens)
{
    if (!r->printing || !isatty(STDERR_FILENO))
        return;
    const bool last = tokens >= r->report->prompt_tokens;

    fprintf(stderr, "\rprefill: %llu of %u tokens%s", (unsigned long long)tokens,
            r->report->prompt_tokens, last ? "\n" : "");
    r->progress_shown = !last;
}

static bool append_text(struct kve_report *rep, const char *at, size_t n)
{
    const size_t used = rep->text != NULL ? strlen(rep->text) : 0;
    char *text = realloc(rep->text, used + n + 1);

    if (text == NULL)
        return false;
    memcpy(text + used, at, n);
    text[used + n] = '\0';
    rep->text = text;
    return true;
}

static bool append_id(struct kve_report *rep, uint32_t id)
{
    if (rep->id_count == rep->id_room) {
        const uint32_t room = rep->id_room != 0 ? 2 * rep->id_room : 256;
        uint32_t *ids = realloc(rep->ids, room * sizeof(*ids));

        if (ids == NULL)
            return false;
        rep->ids = ids;
        rep->id_room = room;
    }
    rep->ids[rep->id_count++] = id;
    return true;
}

static void take_token(struct router *r, const cJSON *obj)
{
    char whole[KVE_UTF8_HOLD_BYTES];
    uint64_t token;

    if (!kve_json_u64(obj, "token", 0, UINT32_MAX, &token)) {
        fail(r, "decode", "a token event without a token");
        return;
    }
    if (!append_id(r->report, (uint32_t)token))
        fail(r, "router", kvw_strerror(KVW_E_NOMEM));
    if (kve_tok_is_control(r->tok, (uint32_t)token))
        return;
    const struct kve_str piece = kve_tok_piece(r->tok, (uint32_t)token);
    for (uint64_t i = 0; i < piece.bytes; ++i) {
        const size_t n = kve_utf8_push(&r->hold, (unsigned char)piece.at[i], whole);

        if (n > 0 && !append_text(r->report, whole, n))
            fail(r, "router", kvw_strerror(KVW_E_NOMEM));
        if (r->printing)
            fwrite(whole, 1, n, stdout);
    }
    if (r->printing)
        fflush(stdout);
}

static uint64_t get_number(const cJSON *obj, const char *key)
{
    uint64_t v = 0;

    return kve_json_u64(obj, key, 0, 1ull << 53, &v) ? v : 0;
}

static void get_layers(const cJSON *obj, const char *key, uint64_t *at, uint32_t *layers)
{
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(obj, key);
    const cJSON *item;
    uint32_t n = 0;

    cJSON_ArrayForEach(item, list)
    {
        if (n == KVW_LAYERS_MAX)
            break;
        at[n++] = cJSON_IsNumber(item) && item->valuedouble > 0 ? (uint64_t)item->valuedouble : 0;
    }
    if (n > *layers)
        *layers = n;
}

/* "l0 54, raw 6"; cut where it doesn't fit. */
static void get_codecs(const cJSON *obj, char *text, size_t bytes)
{
    const cJSON *item;
    size_t at = 0;

    text[0] = '\0';
    cJSON_ArrayForEach(item, cJSON_GetObjectItemCaseSensitive(obj, "codecs"))
    {
        const int n = snprintf(text + at, bytes - at, "%s%s %.0f", at > 0 ? ", " : "", item->string,
                               item->valuedouble);

        if (n < 0 || (size_t)n >= bytes - at)
            return;
        at += (size_t)n;
    }
}

static void take_prefilled(struct router *r, const cJSON *obj)
{
    struct kve_report *rep = r->report;

    rep->start_us = get_number(obj, "start_us");
    rep->prefill_end_us = get_number(obj, "end_us");
    get_layers(obj, "computed_us", rep->computed_us, &rep->layers);
    rep->transferred = cJSON_HasObjectItem(obj, "sent_us");
    get_layers(obj, "sent_us", rep->sent_us, &rep->layers);
    rep->wire_bytes = get_number(obj, "wire_bytes");
    rep->chunks = (uint32_t)get_number(obj, "chunks");
    get_codecs(obj, rep->codecs, sizeof(rep->codecs));
    r->prefilled = true;
}

static void take_finished(struct router *r, const cJSON *obj)
{
    struct kve_report *rep = r->report;

    rep->first_us = get_number(obj, "first_us");
    rep->end_us = get_number(obj, "end_us");
    rep->kv_bytes = get_number(obj, "kv_bytes");
    get_layers(obj, "landed_us", rep->landed_us, &rep->layers);
    snprintf(rep->finish_reason, sizeof(rep->finish_reason), "%s", kve_json_str(obj, "reason"));
    r->finished = true;
}

static void take_link(struct router *r, struct kve_spawned *w, const cJSON *obj)
{
    const cJSON *err = cJSON_GetObjectItemCaseSensitive(obj, "err");

    w->up = strcmp(kve_json_str(obj, "state"), "up") == 0;
    if (!w->up && cJSON_IsNumber(err) &&
        (err->valueint == KVW_E_VERSION || err->valueint == KVW_E_MISMATCH))
        fail(r, w->name, kve_json_str(obj, "text")); /* waiting would not mend it */
}

/* An event of the request under way. */
static void take_progress(struct router *r, struct kve_spawned *w, const char *ev, const cJSON *obj)
{
    const cJSON *err = cJSON_GetObjectItemCaseSensitive(obj, "err");

    if (strcmp(ev, "progress") == 0)
        show_progress(r, get_number(obj, "tokens"));
    else if (strcmp(ev, "token") == 0)
        take_token(r, obj);
    else if (strcmp(ev, "prefilled") == 0)
        take_prefilled(r, obj);
    else if (strcmp(ev, "finished") == 0)
        take_finished(r, obj);
    if (cJSON_IsNumber(err) && err->valueint != KVW_OK)
        fail(r, w->name, kve_json_str(obj, "text"));
}

static void take(struct router *r, struct kve_spawned *w, const cJSON *obj)
{
    const char *ev = kve_json_str(obj, "ev");

    if (strcmp(ev, "loaded") == 0)
        w->loaded = true;
    else if (strcmp(ev, "link") == 0)
        take_link(r, w, obj);
    else if (strcmp(ev, "fatal") == 0 || strcmp(ev, "error") == 0)
        fail(r, w->name, kve_json_str(obj, "text"));
    else if (r->report != NULL && get_number(obj, "id") == r->id)
        take_progress(r, w, ev, obj);
}

static void read_worker(struct router *r, struct kve_spawned *w)
{
    char why[KVE_WHY_BYTES];
    kvw_err err;
    cJSON *obj;

    if (w->name == NULL || w->channel.fd < 0)
        return;
    while ((obj = kve_channel_read(&w->channel, &err)) != NULL) {
        take(r, w, obj);
        cJSON_Delete(obj);
    }
    if (err == KVW_E_AGAIN)
        return;
    if (!kve_spawn_ended(w, why))
        snprintf(why, sizeof(why), "the worker hung up");
    fail(r, w->name, why);
    kve_channel_close(&w->channel);
}

/* Wait for input from either worker, at most until until_ns. */
static void pump(struct router *r, uint64_t until_ns)
{
    struct pollfd p[2] = {{.fd = r->spawn.prefill.channel.fd, .events = POLLIN},
                          {.fd = r->spawn.decode.channel.fd, .events = POLLIN}};
    const uint64_t now = kve_now_ns();
    const uint64_t left_ms = until_ns > now ? (until_ns - now) / KVE_MS + 1 : 0;

    poll(p, 2, left_ms < 200 ? (int)left_ms : 200); /* a signal must not wait long */
    read_worker(r, &r->spawn.prefill);
    read_worker(r, &r->spawn.decode);
    if (interrupted)
        fail(r, "router", "interrupted");
}

static bool wait_ready(struct router *r)
{
    const uint64_t until = kve_now_ns() + r->cfg->spawn.worker.open_timeout_ns + READY_EXTRA_NS;
    const struct kve_spawned *p = &r->spawn.prefill, *d = &r->spawn.decode;

    while (!r->failed && kve_now_ns() < until) {
        if (d->loaded && (p->name == NULL || (d->up && p->loaded && p->up)))
            return true;
        pump(r, until);
    }
    if (!r->failed)
        fail(r, "router", "the workers did not find each other in time");
    return false;
}

static bool hand_out(struct router *r, struct kve_spawned *w, const struct kve_request *q)
{
    if (w->name == NULL)
        return true;
    if (kve_channel_write(&w->channel, kve_request_print(q)) == KVW_OK)
        return true;
    fail(r, w->name, "it took no request");
    return false;
}

static void cancel(struct kve_spawned *w, uint64_t id)
{
    cJSON *obj;

    if (w->name == NULL || w->channel.fd < 0)
        return;
    obj = cJSON_CreateObject();
    cJSON_AddStringToObject(obj, "op", "cancel");
    cJSON_AddNumberToObject(obj, "id", (double)id);
    if (kve_channel_write(&w->channel, obj) != KVW_OK)
        kve_channel_close(&w->channel);
}

/* One worker has failed the request: take it back from both and let them say their last. */
static void call_off(struct router *r)
{
    const uint64_t end = kve_now_ns() + END_WAIT_NS;

    cancel(&r->spawn.prefill, r->id);
    cancel(&r->spawn.decode, r->id);
    while (kve_now_ns() < end && !interrupted &&
           ((r->spawn.prefill.channel.fd >= 0 && !r->prefilled) ||
            (r->spawn.decode.channel.fd >= 0 && !r->finished)))
        pump(r, end);
}

/* One request to its end on both workers. */
static bool serve(struct router *r, struct kve_request *q, struct kve_report *rep, bool printing)
{
    const uint64_t until = kve_now_ns() + q->timeout_ns;
    uint64_t id = 0;

    if (getrandom(&id, sizeof(id), 0) != (ssize_t)sizeof(id))
        id = kve_now_ns();
    q->id.value = (id & ((1ull << 52) - 1)) | 1;
    r->report = rep;
    r->id = q->id.value;
    r->printing = printing;
    r->prefilled = r->finished = r->failed = false;
    kve_utf8_reset(&r->hold);
    rep->net = r->cfg->spawn.prefill_at != NULL ? "the workers' link" : r->cfg->spawn.worker.net;
    rep->prompt_tokens = q->count;
    rep->exposed_after_ms = -1;
    rep->sent_at_us = kve_now_ns() / 1000;
    /* Decode first: its offer is then there when the first layer is. */
    if (hand_out(r, &r->spawn.decode, q) && hand_out(r, &r->spawn.prefill, q))
        while (!r->failed && !(r->prefilled && r->finished)) {
            pump(r, until);
            if (kve_now_ns() > until)
                fail(r, "router", "the request's time ran out");
        }
    if (r->progress_shown)
        fputc('\n', stderr);
    r->progress_shown = false;
    if (r->failed)
        call_off(r);
    r->report = NULL;
    return !r->failed;
}

static int columns(void)
{
    struct winsize ws;

    return ioctl(STDOUT_FILENO, TIOCGWINSZ, &ws) == 0 && ws.ws_col >= 60 ? ws.ws_col : 100;
}

static bool print_json(const struct kve_report *rep)
{
    cJSON *obj = kve_report_json(rep);
    char *line = obj != NULL ? cJSON_PrintUnformatted(obj) : NULL;

    if (line != NULL)
        printf("%s\n", line);
    cJSON_free(line);
    cJSON_Delete(obj);
    return line != NULL;
}

/* The request, then the same one sent after prefill, then what there is to say. */
static bool run_request(struct router *r, struct kve_request *q)
{
    const char *path = r->cfg->spawn.worker.model_path;
    const char *slash = strrchr(path, '/');
    struct kve_report rep = {0}, after = {0};
    bool ok = serve(r, q, &rep, !r->cfg->json);

    if (ok && !r->cfg->json)
        fputc('\n', stdout);
    snprintf(rep.model, sizeof(rep.model), "%s", slash != NULL ? slash + 1 : path);
    if (ok && r->cfg->compare && rep.transferred) {
        if (r->printing && isatty(STDERR_FILENO))
            fprintf(stderr, "once more, sending after prefill, to compare ...\n");
        q->after_prefill = true;
        q->max_tokens = 1;
        ok = serve(r, q, &after, false);
        rep.exposed_after_ms = kve_report_exposed_ms(&after);
        kve_report_free(&after);
    }
    if (ok && r->cfg->json) {
        if (!(ok = print_json(&rep)))
            fail(r, "router", kvw_strerror(KVW_E_NOMEM));
    } else if (ok) {
        printf("\n");
        kve_report_print(stdout, &rep, columns());
    }
    fflush(stdout);
    kve_report_free(&rep);
    return ok;
}

static struct kve_request new_request(const struct kve_run_config *cfg)
{
    return (struct kve_request){
        .id = {1}, /* the real one comes when it is served */
        .max_tokens = cfg->max_tokens,
        .budget = cfg->budget,
        .exact_first = cfg->exact_first,
        .exact_last = cfg->exact_last,
        .timeout_ns = cfg->timeout_ns,
        .sample = cfg->sample,
        .ignore_end = cfg->ignore_end,
    };
}

static bool encode_prompt(struct router *r, const char *prompt, struct kve_request *q)
{
    const struct kve_chat_message messages[2] = {
        {.role = "system", .content = r->cfg->system},
        {.role = "user", .content = prompt},
    };
    const bool system = r->cfg->system != NULL;
    char *text = NULL;
    size_t count = 0;
    kvw_err err = KVW_OK;

    if (!r->cfg->raw)
        err = kve_tok_chat(r->tok, messages + (system ? 0 : 1), system ? 2 : 1, &text, r->why);
    if (err == KVW_OK)
        err = kve_tok_encode(r->tok, text != NULL ? text : prompt,
                             strlen(text != NULL ? text : prompt), !r->cfg->raw, true, &q->tokens,
                             &count);
    free(text);
    q->count = (uint32_t)count;
    if (err == KVW_OK && count == 0) {
        snprintf(r->why, sizeof(r->why), "the prompt is empty");
        err = KVW_E_INVALID;
    }
    if (err == KVW_OK && count >= r->context) {
        snprintf(r->why, sizeof(r->why), "the prompt has %zu tokens, the model's context is %u",
                 count, r->context);
        err = KVW_E_INVALID;
    }
    if (err != KVW_OK && r->why[0] == '\0')
        snprintf(r->why, sizeof(r->why), "the prompt: %s", kvw_strerror(err));
    return err == KVW_OK;
}

/* What is left of the context bounds the answer; asking for more is no error. */
static void clip(const struct router *r, struct kve_request *q)
{
    if (q->count < r->context && q->max_tokens > r->context - q->count)
        q->max_tokens = r->context - q->count;
}

/* {"tokens": [...]}: the defaults with the line's own tokens in them, checked as a worker would. */
static bool take_ids(struct router *r, cJSON *obj, struct kve_request *q)
{
    cJSON *full = kve_request_print(q);
    cJSON *tokens = cJSON_DetachItemFromObjectCaseSensitive(obj, "tokens");
    uint64_t left = r->context - 1;

    if (cJSON_GetArraySize(tokens) < (int)r->context)
        left = r->context - (uint64_t)cJSON_GetArraySize(tokens);
    if (q->max_tokens > left)
        cJSON_ReplaceItemInObjectCaseSensitive(full, "max_tokens",
                                               cJSON_CreateNumber((double)left));
    cJSON_ReplaceItemInObjectCaseSensitive(full, "tokens", tokens);
    const kvw_err err = kve_request_parse(q, full, kve_tok_vocab(r->tok), r->context, r->why);
    cJSON_Delete(full);
    return err == KVW_OK;
}

static bool run_line(struct router *r, const char *line)
{
    struct kve_request q = new_request(r->cfg);
    cJSON *obj = cJSON_Parse(line);
    uint64_t max_tokens;
    bool ok = false;

    if (kve_json_u64(obj, "max_tokens", 1, 1u << 24, &max_tokens))
        q.max_tokens = (uint32_t)max_tokens;
    if (cJSON_IsArray(cJSON_GetObjectItemCaseSensitive(obj, "tokens")))
        ok = take_ids(r, obj, &q);
    else if (kve_json_str(obj, "prompt")[0] != '\0')
        ok = encode_prompt(r, kve_json_str(obj, "prompt"), &q);
    else
        snprintf(r->why, sizeof(r->why), "batch: a line without \"prompt\" or \"tokens\"");
    cJSON_Delete(obj);
    if (ok) {
        clip(r, &q);
        ok = run_request(r, &q);
    }
    kve_request_free(&q);
    return ok;
}

static bool run_batch(struct router *r, const char *path)
{
    FILE *f = strcmp(path, "-") == 0 ? stdin : fopen(path, "r");
    char *line = NULL;
    size_t room = 0;
    ssize_t n;
    bool ok = true;

    if (f == NULL) {
        snprintf(r->why, sizeof(r->why), "%s: %s", path, strerror(errno));
        return false;
    }
    while (ok && (n = getline(&line, &room, f)) > 0) {
        if (n > (ssize_t)LINE_BYTES_MAX) {
            snprintf(r->why, sizeof(r->why), "%s: a line of %zd bytes", path, n);
            ok = false;
        } else if (line[strspn(line, " \t\r\n")] != '\0') {
            ok = run_line(r, line);
        }
    }
    free(line);
    if (f != stdin)
        fclose(f);
    return ok;
}

static bool open_router(struct router *r)
{
    const char *path = r->cfg->spawn.worker.model_path;
    uint64_t context;

    if (kve_gguf_open(&r->gguf, path, r->why) != KVW_OK ||
        kve_tok_open(&r->tok, r->gguf, r->why) != KVW_OK)
        return false;
    if (kve_gguf_u64(r->gguf, "llama.context_length", &context) != KVW_OK || context < 2 ||
        context > 1u << 24) {
        snprintf(r->why, sizeof(r->why), "%s: llama.context_length is missing or absurd", path);
        return false;
    }
    r->context = (uint32_t)context;
    return true;
}

static void close_router(struct router *r, bool ok)
{
    if (!ok)
        fprintf(stderr, "kvserve: %s\n", r->why);
    kve_tok_close(r->tok);
    kve_gguf_close(r->gguf);
}

int kve_run_main(const struct kve_run_config *cfg)
{
    struct router r = {.cfg = cfg};
    struct kve_request q = new_request(cfg);
    bool ok = open_router(&r);

    /* Whatever can be refused without starting anything is. */
    if (ok && cfg->prompt != NULL)
        ok = encode_prompt(&r, cfg->prompt, &q);
    clip(&r, &q);
    if (ok && !cfg->json && isatty(STDERR_FILENO))
        fprintf(stderr, "starting the workers, loading %s\n", cfg->spawn.worker.model_path);
    if (ok && (ok = kve_spawn_start(&r.spawn, &cfg->spawn, r.why) == KVW_OK)) {
        ok = wait_ready(&r);
        if (ok && cfg->prompt != NULL)
            ok = run_request(&r, &q);
        else if (ok)
            ok = run_batch(&r, cfg->batch_path);
        kve_spawn_stop(&r.spawn);
    }
    kve_request_free(&q);
    close_router(&r, ok);
    return ok ? 0 : interrupted ? 130 : 1;
}

int kve_run_tokenize(const struct kve_run_config *cfg)
{
    struct router r = {.cfg = cfg};
    struct kve_request q = new_request(cfg);
    const bool ok = open_router(&r) && encode_prompt(&r, cfg->prompt, &q);

    for (uint32_t i = 0; ok && i < q.count; ++i)
        printf("%s%u", i == 0 ? "[" : ", ", q.tokens[i]);
    if (ok)
        printf("]\n");
    kve_request_free(&q);
    close_router(&r, ok);
    return ok ? 0 : 1;
}
