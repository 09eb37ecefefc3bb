/* SPDX-License-Identifier: Apache-2.0 */
/*
 * run.c - `kvserve run` and `kvserve tokenize`: prompts from options or a batch file, answers and
 * reports to standard output. dispatch.c has the requests' life.
 */
#include "run.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "batch.h"
#include "clock.h"
#include "dispatch.h"
#include "output.h"
#include "prompt.h"
#include "report.h"
#include "run_session.h"

static _Atomic int interrupted; /* by this signal; its handler may run on any thread */

void kve_run_interrupt(int sig)
{
    interrupted = sig;
}

struct run {
    const struct kve_run_config *cfg;
    struct kve_prompts prompts;
    struct kve_dispatch_config dispatch_cfg;
    struct kve_dispatch dispatch;
    struct kve_output out;
    bool printing;       /* the answer goes to stdout as it comes */
    bool progress_shown; /* on the terminal's last line */
    uint32_t unit;       /* what was restored is shared in pieces of so many tokens */
    char why[KVE_WHY_BYTES];
};

/* ---- what a request's listener does ---- */

static kvw_err on_text(void *arg, const char *at, size_t n)
{
    struct run *r = arg;

    return r->printing ? kve_output_add(&r->out, at, n) : KVW_OK;
}

static void on_progress(void *arg, uint32_t tokens, uint32_t prompt_tokens)
{
    struct run *r = arg;
    const bool last = tokens >= prompt_tokens;

    if (!r->printing || !isatty(STDERR_FILENO))
        return;
    fprintf(stderr, "\rprefill: %u of %u tokens%s", tokens, prompt_tokens, last ? "\n" : "");
    r->progress_shown = !last;
}

static void wait_for_reader(void *arg, struct pollfd *p)
{
    const struct run *r = arg;

    p->fd = r->out.error == 0 ? r->out.fd : -1;
    p->events = kve_output_waiting(&r->out) ? POLLOUT : 0;
}

/* Write what the reader of the answer takes. One that has left ends the work. */
static bool step_output(void *arg, char why[KVE_WHY_BYTES])
{
    struct run *r = arg;

    if (kve_output_step(&r->out))
        return true;
    kve_output_why(&r->out, why);
    return false;
}

/* ---- answers and reports ---- */

/* A request that failed: the dispatch's reason, which names who gave it, is the run's. */
static bool serve(struct run *r, struct kve_request *q, struct kve_report *rep, bool printing)
{
    r->printing = printing;
    const bool ok = kve_dispatch_serve(&r->dispatch, q, rep);

    if (r->progress_shown)
        fputc('\n', stderr);
    r->progress_shown = false;
    if (!ok)
        memcpy(r->why, r->dispatch.why, sizeof(r->why));
    return ok;
}

static bool wait_ready(struct run *r)
{
    const bool ok = kve_dispatch_wait_ready(&r->dispatch);

    if (!ok)
        memcpy(r->why, r->dispatch.why, sizeof(r->why));
    return ok;
}

static int columns(void)
{
    struct winsize ws;

    return ioctl(STDOUT_FILENO, TIOCGWINSZ, &ws) == 0 && ws.ws_col >= 60 ? ws.ws_col : 100;
}

/* obj as one line, and delete it. */
static kvw_err add_json(struct run *r, cJSON *obj)
{
    char *line = obj != NULL ? cJSON_PrintUnformatted(obj) : NULL;
    kvw_err err = line != NULL ? kve_output_add(&r->out, line, strlen(line)) : KVW_E_NOMEM;

    if (err == KVW_OK)
        err = kve_output_add(&r->out, "\n", 1);
    cJSON_free(line);
    cJSON_Delete(obj);
    return err;
}

static kvw_err add_report(struct run *r, const struct kve_report *rep)
{
    char *text = NULL;
    size_t bytes = 0;
    FILE *f = open_memstream(&text, &bytes);
    kvw_err err = KVW_E_NOMEM;

    if (f == NULL)
        return err;
    fputc('\n', f);
    kve_report_print(f, rep, columns());
    if (fclose(f) == 0)
        err = kve_output_add(&r->out, text, bytes);
    free(text);
    return err;
}

/* All that was added is written; err: of adding it. False: why, if there is no reason yet. */
static bool finish_output(struct run *r, kvw_err err, bool failed)
{
    char why[KVE_WHY_BYTES];

    if (err == KVW_OK &&
        kve_output_finish(&r->out, kve_now_ns() + r->cfg->timeout_ns, &interrupted))
        return true;
    if (interrupted)
        snprintf(r->why, sizeof(r->why), "interrupted");
    else if (!failed && err != KVW_OK)
        snprintf(r->why, sizeof(r->why), "router: %s", kvw_strerror(err));
    else if (!failed && !step_output(r, why))
        snprintf(r->why, sizeof(r->why), "router: %.290s", why);
    return false;
}

/* The request, then the same one sent after prefill, then what there is to say. */
static bool run_request(struct run *r, struct kve_request *q, uint64_t line)
{
    const char *path = r->cfg->spawn.worker.model_path;
    const char *slash = strrchr(path, '/');
    struct kve_report rep = {.line = line}, after = {0};
    bool ok = serve(r, q, &rep, !r->cfg->json);
    kvw_err err = KVW_OK;

    if (!r->cfg->json && (ok || rep.text_bytes > 0))
        err = kve_output_add(&r->out, "\n", 1);
    snprintf(rep.model, sizeof(rep.model), "%s", slash != NULL ? slash + 1 : path);
    if (ok && r->cfg->compare && rep.transferred) {
        if (!r->cfg->json && isatty(STDERR_FILENO))
            fprintf(stderr, "once more, sending after prefill, to compare ...\n");
        q->after_prefill = true;
        q->max_tokens = 1;
        ok = serve(r, q, &after, false);
        rep.exposed_after_ms = kve_report_exposed_ms(&after);
        kve_report_free(&after);
    }
    if (ok && err == KVW_OK)
        err = r->cfg->json ? add_json(r, kve_report_json(&rep)) : add_report(r, &rep);
    kve_report_free(&rep);
    return finish_output(r, err, !ok) && ok;
}

static struct kve_request new_request(const struct kve_run_config *cfg)
{
    return (struct kve_request){
        .id = 1, /* the real one comes when it is served */
        .max_tokens = cfg->max_tokens,
        .budget = cfg->budget,
        .exact_first = cfg->exact_first,
        .exact_last = cfg->exact_last,
        .timeout_ns = cfg->timeout_ns,
        .sample = cfg->sample,
        .ignore_end = cfg->ignore_end,
        .reuse = cfg->save != NULL || cfg->restore != NULL || cfg->spawn.worker.cache_dir != NULL,
    };
}

/* ---- sessions ---- */

static bool restore(struct run *r)
{
    struct kve_session_said said;
    const char *path = r->cfg->restore;

    if (path == NULL)
        return true;
    if (!kve_session_ask_restore(&r->dispatch, path, r->cfg->budget, &said, r->why))
        return false;
    r->unit = said.unit;
    if (!r->cfg->json)
        fprintf(stderr, "restored %u tokens from %s\n", said.tokens, path);
    return true;
}

/* Would anything of it be of use? Another prompt's session is a mistake. */
static bool continues(struct run *r, const struct kve_request *q)
{
    return r->cfg->restore == NULL || kve_session_begins(r->cfg->restore, q, r->unit, r->why);
}

static bool save(struct run *r, const struct kve_request *q)
{
    struct kve_session_said said;
    const char *path = r->cfg->save;

    if (path == NULL)
        return true;
    if (!kve_session_ask_save(&r->dispatch, path, q, &said, r->why))
        return false;
    if (!r->cfg->json)
        fprintf(stderr, "saved %u of %u tokens to %s: %.1f MB, %.1f in the file\n", said.tokens,
                q->count, path, (double)said.kv_bytes / 1e6, (double)said.file_bytes / 1e6);
    return true;
}

/* ---- prompts and batches ---- */

static bool encode(struct run *r, const char *system, const char *text, struct kve_request *q)
{
    return kve_prompt_encode(&r->prompts, system, text, r->cfg->raw, q, r->why) == KVW_OK;
}

/* Fields of a line over the options' request. */
static bool parse_line(struct run *r, const struct kve_batch *b, struct kve_request *q)
{
    struct kve_batch_item item;
    const uint32_t vocab = kve_tok_vocab(r->prompts.tok);
    kvw_err err = kve_batch_parse(&item, q, b->line, b->bytes, vocab, r->why);
    bool ok = err == KVW_OK;

    if (!ok && r->why[0] == '\0')
        snprintf(r->why, sizeof(r->why), "%s", kvw_strerror(err));
    if (ok && item.prompt != NULL)
        ok = encode(r, item.system != NULL ? item.system : r->cfg->system, item.prompt, q);
    else if (ok)
        ok = kve_prompt_fits(&r->prompts, q->count, r->why) == KVW_OK;
    kve_batch_item_free(&item);
    return ok;
}

/* In the place of the answer to a line: what was wrong with it. */
static bool say_bad_line(struct run *r, uint64_t number)
{
    char place[64];

    snprintf(place, sizeof(place), "line %llu", (unsigned long long)number);
    if (!r->cfg->json) {
        fprintf(stderr, "kvserve: %s, %s: %s\n", r->cfg->batch_path, place, r->why);
        return true;
    }
    cJSON *obj = cJSON_CreateObject();
    cJSON_AddNumberToObject(obj, "schema", 1);
    cJSON_AddNumberToObject(obj, "line", (double)number);
    cJSON_AddStringToObject(obj, "error", r->why);
    return finish_output(r, add_json(r, obj), false);
}

/* Can another line be run after one that failed? */
static bool goes_on(const struct run *r)
{
    return kve_dispatch_goes_on(&r->dispatch) && r->out.error == 0 && !r->out.late;
}

static bool run_line(struct run *r, const struct kve_batch *b)
{
    struct kve_request q = new_request(r->cfg);
    bool ok = parse_line(r, b, &q);

    if (ok) {
        kve_prompt_clip(&r->prompts, &q);
        ok = continues(r, &q) && wait_ready(r) && run_request(r, &q, b->number);
    }
    kve_request_free(&q);
    return ok;
}

/* Every line has its answer, or its reason, in its place. */
static bool run_batch(struct run *r, const char *path)
{
    char first[KVE_WHY_BYTES] = "", why[KVE_WHY_BYTES];
    struct kve_batch b;
    uint64_t lines = 0, bad = 0;
    bool stopped = false;
    kvw_err err = kve_batch_open(&b, path, r->why);

    while (err == KVW_OK && !stopped) {
        r->why[0] = '\0';
        err = kve_batch_next(&b, r->why);
        if (err != KVW_OK && err != KVW_E_FORMAT)
            break;
        ++lines;
        if (err == KVW_OK && run_line(r, &b))
            continue;
        err = KVW_OK;
        if (bad++ == 0)
            snprintf(first, sizeof(first), "line %llu: %.280s", (unsigned long long)b.number,
                     r->why);
        stopped = !goes_on(r) || !say_bad_line(r, b.number);
    }
    kve_batch_close(&b);
    if (!stopped && err != KVW_E_NOTFOUND)
        snprintf(why, sizeof(why), "%.100s: %.200s", path,
                 interrupted         ? "interrupted"
                 : r->why[0] != '\0' ? r->why
                                     : kvw_strerror(err));
    else if (!stopped)
        snprintf(why, sizeof(why), "%.100s: %llu of %llu lines failed; %.160s", path,
                 (unsigned long long)bad, (unsigned long long)lines, first);
    if (!stopped) /* else a worker, the output or a signal ended it, and said so */
        memcpy(r->why, why, sizeof(why));
    return !stopped && bad == 0 && err == KVW_E_NOTFOUND;
}

static bool open_run(struct run *r)
{
    kve_output_open(&r->out, STDOUT_FILENO);
    return step_output(r, r->why) &&
           kve_prompts_open(&r->prompts, r->cfg->spawn.worker.model_path, r->why) == KVW_OK;
}

static void close_run(struct run *r, bool ok)
{
    if (!ok)
        fprintf(stderr, "kvserve: %s\n", r->why);
    kve_output_close(&r->out);
    kve_prompts_close(&r->prompts);
}

static bool start_workers(struct run *r)
{
    r->dispatch_cfg = (struct kve_dispatch_config){
        .spawn = r->cfg->spawn,
        .tok = r->prompts.tok,
        .listener = {.arg = r,
                     .text = on_text,
                     .progress = on_progress,
                     .wait_for = wait_for_reader,
                     .step = step_output},
        .stop = &interrupted,
    };
    if (!r->cfg->json && isatty(STDERR_FILENO))
        fprintf(stderr, "starting the workers, loading %s\n", r->cfg->spawn.worker.model_path);
    if (kve_dispatch_start(&r->dispatch, &r->dispatch_cfg) == KVW_OK)
        return true;
    memcpy(r->why, r->dispatch.why, sizeof(r->why));
    return false;
}

int kve_run_main(const struct kve_run_config *cfg)
{
    struct run r = {.cfg = cfg};
    struct kve_request q = new_request(cfg);
    bool ok = open_run(&r);

    /* Whatever can be refused without starting anything is. */
    if (ok && cfg->prompt != NULL)
        ok = encode(&r, cfg->system, cfg->prompt, &q);
    kve_prompt_clip(&r.prompts, &q);
    if (ok && (ok = start_workers(&r))) {
        ok = wait_ready(&r) && restore(&r);
        if (ok && cfg->prompt != NULL)
            ok = continues(&r, &q) && run_request(&r, &q, 0) && save(&r, &q);
        else if (ok)
            ok = run_batch(&r, cfg->batch_path);
        kve_dispatch_stop(&r.dispatch);
    }
    kve_request_free(&q);
    close_run(&r, ok);
    return ok ? 0 : interrupted ? 128 + interrupted : 1;
}

int kve_run_tokenize(const struct kve_run_config *cfg)
{
    struct run r = {.cfg = cfg};
    struct kve_request q = new_request(cfg);
    bool ok = open_run(&r) && encode(&r, cfg->system, cfg->prompt, &q);
    kvw_err err = KVW_OK;
    char text[16];

    for (uint32_t i = 0; ok && i < q.count && err == KVW_OK; ++i) {
        const int n = snprintf(text, sizeof(text), "%s%u", i == 0 ? "[" : ", ", q.tokens[i]);

        err = kve_output_add(&r.out, text, (size_t)n);
    }
    if (ok && err == KVW_OK)
        err = kve_output_add(&r.out, "]\n", 2);
    ok = ok && finish_output(&r, err, false);
    kve_request_free(&q);
    close_run(&r, ok);
    return ok ? 0 : interrupted ? 128 + interrupted : 1;
}
