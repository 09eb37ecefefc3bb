/* SPDX-License-Identifier: Apache-2.0 */
/* kvserve.c - the program: options only; worker.c and run.c do the work. */
#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../../compress/compress.h"
#include "../../kvwire/wire.h"
#include "../gguf/gguf.h"
#include "clock.h"
#include "compute.h"
#include "help.h"
#include "option_values.h"
#include "prompt.h"
#include "run.h"
#include "signals.h"
#include "up.h"

#define EXACT_FIRST 4   /* attention sinks */
#define EXACT_LAST  128 /* the newest tokens weigh most */

#define EXIT_USAGE 2

#define SIDE_MAX (KVE_WORKERS_MAX / 2) /* prefills, and decodes */

#define CACHE_GB 10 /* of a prefix cache on disk whose size isn't said */

#define LOCAL_TOKENS 512 /* of a prompt, of several workers: engine/route's own */

#define LEND_NS (10 * KVE_S) /* that a worker does the other side's work, at least */

#define CHAT_TOKENS 1024 /* of an answer over HTTP that names no limit */

enum {
    OPT_MODEL = 256,
    OPT_DECODE_MODEL,
    OPT_PROMPT,
    OPT_PROMPT_FILE,
    OPT_SYSTEM,
    OPT_RAW,
    OPT_BATCH,
    OPT_MAX_TOKENS,
    OPT_TEMPERATURE,
    OPT_TOP_P,
    OPT_SEED,
    OPT_IGNORE_END,
    OPT_TIMEOUT,
    OPT_NET,
    OPT_LINK,
    OPT_PEER,
    OPT_WAIT_PEER,
    OPT_CODEC,
    OPT_BUDGET,
    OPT_EXACT,
    OPT_ENCODERS,
    OPT_LEASE,
    OPT_FAULT,
    OPT_TRACE,
    OPT_CPU,
    OPT_BUSY_POLL,
    OPT_CONTROL,
    OPT_PREFILL_AT,
    OPT_DECODE_AT,
    OPT_DEVICE,
    OPT_KV_DTYPE,
    OPT_THREADS,
    OPT_KV_TOKENS,
    OPT_BLOCK_TOKENS,
    OPT_PREFILL_TOKENS,
    OPT_LISTEN,
    OPT_API_KEY_FILE,
    OPT_SEQUENCES,
    OPT_QUEUE,
    OPT_MAX_BODY,
    OPT_NO_REUSE,
    OPT_CONNECTIONS,
    OPT_PREFILL,
    OPT_DECODE,
    OPT_POLICY,
    OPT_TTFT,
    OPT_ITL,
    OPT_LOCAL,
    OPT_LEND,
    OPT_NAME,
    OPT_SAVE,
    OPT_RESTORE,
    OPT_CACHE_DIR,
    OPT_CACHE_GB,
    OPT_JSON,
    OPT_NO_COMPARE,
    OPT_COMPARE,
    OPT_QUIET,
    OPT_HELP,
    OPT_VERSION,
    OPT_END,
};

static const struct option options[] = {
    {"model", required_argument, NULL, OPT_MODEL},
    {"decode-model", required_argument, NULL, OPT_DECODE_MODEL},
    {"prompt", required_argument, NULL, OPT_PROMPT},
    {"prompt-file", required_argument, NULL, OPT_PROMPT_FILE},
    {"system", required_argument, NULL, OPT_SYSTEM},
    {"raw", no_argument, NULL, OPT_RAW},
    {"batch", required_argument, NULL, OPT_BATCH},
    {"max-tokens", required_argument, NULL, OPT_MAX_TOKENS},
    {"temperature", required_argument, NULL, OPT_TEMPERATURE},
    {"top-p", required_argument, NULL, OPT_TOP_P},
    {"seed", required_argument, NULL, OPT_SEED},
    {"ignore-end", no_argument, NULL, OPT_IGNORE_END},
    {"timeout", required_argument, NULL, OPT_TIMEOUT},
    {"net", required_argument, NULL, OPT_NET},
    {"link", required_argument, NULL, OPT_LINK},
    {"peer", required_argument, NULL, OPT_PEER},
    {"wait-peer", required_argument, NULL, OPT_WAIT_PEER},
    {"codec", required_argument, NULL, OPT_CODEC},
    {"budget", required_argument, NULL, OPT_BUDGET},
    {"exact", required_argument, NULL, OPT_EXACT},
    {"encoders", required_argument, NULL, OPT_ENCODERS},
    {"lease", required_argument, NULL, OPT_LEASE},
    {"fault", required_argument, NULL, OPT_FAULT},
    {"trace", required_argument, NULL, OPT_TRACE},
    {"cpu", required_argument, NULL, OPT_CPU},
    {"busy-poll", no_argument, NULL, OPT_BUSY_POLL},
    {"control", required_argument, NULL, OPT_CONTROL},
    {"prefill-at", required_argument, NULL, OPT_PREFILL_AT},
    {"decode-at", required_argument, NULL, OPT_DECODE_AT},
    {"device", required_argument, NULL, OPT_DEVICE},
    {"kv-dtype", required_argument, NULL, OPT_KV_DTYPE},
    {"threads", required_argument, NULL, OPT_THREADS},
    {"kv-tokens", required_argument, NULL, OPT_KV_TOKENS},
    {"block-tokens", required_argument, NULL, OPT_BLOCK_TOKENS},
    {"prefill-tokens", required_argument, NULL, OPT_PREFILL_TOKENS},
    {"listen", required_argument, NULL, OPT_LISTEN},
    {"api-key-file", required_argument, NULL, OPT_API_KEY_FILE},
    {"sequences", required_argument, NULL, OPT_SEQUENCES},
    {"queue", required_argument, NULL, OPT_QUEUE},
    {"max-body", required_argument, NULL, OPT_MAX_BODY},
    {"connections", required_argument, NULL, OPT_CONNECTIONS},
    {"no-reuse", no_argument, NULL, OPT_NO_REUSE},
    {"prefill", required_argument, NULL, OPT_PREFILL},
    {"decode", required_argument, NULL, OPT_DECODE},
    {"policy", required_argument, NULL, OPT_POLICY},
    {"ttft", required_argument, NULL, OPT_TTFT},
    {"itl", required_argument, NULL, OPT_ITL},
    {"local", required_argument, NULL, OPT_LOCAL},
    {"lend", required_argument, NULL, OPT_LEND},
    {"name", required_argument, NULL, OPT_NAME},
    {"save", required_argument, NULL, OPT_SAVE},
    {"restore", required_argument, NULL, OPT_RESTORE},
    {"prefix-cache-dir", required_argument, NULL, OPT_CACHE_DIR},
    {"prefix-cache-disk-gb", required_argument, NULL, OPT_CACHE_GB},
    {"json", no_argument, NULL, OPT_JSON},
    {"no-compare", no_argument, NULL, OPT_NO_COMPARE},
    {"compare", no_argument, NULL, OPT_COMPARE},
    {"quiet", no_argument, NULL, OPT_QUIET},
    {"help", no_argument, NULL, OPT_HELP},
    {"version", no_argument, NULL, OPT_VERSION},
    {NULL, 0, NULL, 0},
};

/* What the program is asked to be: an option means something in some of these. */
enum use {
    RUN_PAIR = 1,  /* run, over a link between two workers that it starts */
    RUN_ALONE = 2, /* run --net none */
    RUN_FOUND = 4, /* run --prefill-at --decode-at */
    WORKER = 8,    /* prefill, decode */
    TOKENIZE = 16, /* tokenize */
    UP_PAIR = 32,  /* up */
    UP_ALONE = 64, /* up --net none */
    ROUTER = 128,  /* router */
    RUN = RUN_PAIR | RUN_ALONE | RUN_FOUND,
    HTTP = UP_PAIR | UP_ALONE | ROUTER,
    PAIR = RUN_PAIR | UP_PAIR,
    ALONE = RUN_ALONE | UP_ALONE,
    FOUND = RUN_FOUND | ROUTER,
};

/* Where each option means something. What isn't listed does everywhere. */
static const struct {
    int opt;
    unsigned uses;
} meanings[] = {
    {OPT_DECODE_MODEL, PAIR},
    {OPT_PROMPT, RUN | TOKENIZE},
    {OPT_PROMPT_FILE, RUN | TOKENIZE},
    {OPT_SYSTEM, RUN | TOKENIZE},
    {OPT_RAW, RUN | TOKENIZE},
    {OPT_BATCH, RUN},
    {OPT_MAX_TOKENS, RUN | HTTP},
    {OPT_TEMPERATURE, RUN},
    {OPT_TOP_P, RUN},
    {OPT_SEED, RUN},
    {OPT_IGNORE_END, RUN},
    {OPT_TIMEOUT, RUN | HTTP},
    {OPT_NET, PAIR | ALONE | WORKER},
    {OPT_LINK, PAIR | WORKER},
    {OPT_PEER, PAIR | WORKER}, /* of a pair over dpdk only: see means_nothing() */
    {OPT_WAIT_PEER, PAIR | FOUND | WORKER},
    {OPT_CODEC, PAIR | WORKER},
    {OPT_BUDGET, PAIR | FOUND},
    {OPT_EXACT, PAIR | FOUND},
    {OPT_ENCODERS, PAIR | WORKER},
    {OPT_LEASE, PAIR | WORKER},
    {OPT_FAULT, PAIR | WORKER},
    {OPT_TRACE, PAIR | WORKER},
    {OPT_CPU, PAIR | WORKER},
    {OPT_BUSY_POLL, PAIR | WORKER},
    {OPT_CONTROL, WORKER},
    {OPT_PREFILL_AT, FOUND},
    {OPT_DECODE_AT, FOUND},
    {OPT_DEVICE, PAIR | ALONE | WORKER},
    {OPT_KV_DTYPE, PAIR | ALONE | WORKER},
    {OPT_THREADS, PAIR | ALONE | WORKER},
    {OPT_KV_TOKENS, PAIR | ALONE | WORKER},
    {OPT_BLOCK_TOKENS, PAIR | ALONE | WORKER},
    {OPT_PREFILL_TOKENS, PAIR | ALONE | WORKER},
    {OPT_LISTEN, HTTP},
    {OPT_API_KEY_FILE, HTTP},
    {OPT_SEQUENCES, HTTP},
    {OPT_QUEUE, HTTP},
    {OPT_MAX_BODY, HTTP},
    {OPT_CONNECTIONS, HTTP},
    {OPT_NO_REUSE, HTTP},
    {OPT_PREFILL, UP_PAIR},
    {OPT_DECODE, UP_PAIR},
    {OPT_POLICY, UP_PAIR},
    {OPT_TTFT, HTTP},
    {OPT_ITL, HTTP},
    {OPT_LOCAL, UP_PAIR | ROUTER},
    {OPT_LEND, UP_PAIR},
    {OPT_NAME, WORKER},
    {OPT_SAVE, RUN_PAIR | RUN_ALONE},
    {OPT_RESTORE, RUN_PAIR | RUN_ALONE},
    {OPT_CACHE_DIR, PAIR | ALONE | WORKER},
    {OPT_CACHE_GB, PAIR | ALONE | WORKER},
    {OPT_JSON, RUN},
    {OPT_NO_COMPARE, RUN},
    {OPT_COMPARE, RUN_PAIR | RUN_FOUND},
    {OPT_QUIET, PAIR | ALONE | WORKER},
};

struct cli {
    bool said[OPT_END - OPT_MODEL]; /* by option */
    struct kve_run_config run;
    struct kve_up_config up;
    const char *prompt_file;
    char *prompt_text; /* read from prompt_file */
    int compare;       /* -1: not said */
    const char *name;  /* of the option at hand, for messages */
};

static bool number(const struct cli *c, const char *text, double min, double max, double *v)
{
    char *end;

    errno = 0;
    const double d = strtod(text, &end);
    if (errno != 0 || end == text || *end != '\0' || !(d >= min && d <= max)) {
        fprintf(stderr, "kvserve: --%s %s: not a number from %g to %g\n", c->name, text, min, max);
        return false;
    }
    *v = d;
    return true;
}

static bool is_whole(const struct cli *c, const char *text, double d)
{
    if (d == floor(d))
        return true;
    fprintf(stderr, "kvserve: --%s %s: not a whole number\n", c->name, text);
    return false;
}

static bool whole(const struct cli *c, const char *text, double min, double max, uint32_t *v)
{
    double d;

    if (!number(c, text, min, max, &d) || !is_whole(c, text, d))
        return false;
    *v = (uint32_t)d;
    return true;
}

/* From a millisecond to a day. */
static bool seconds(const struct cli *c, const char *text, uint64_t *ns)
{
    double d;

    if (!number(c, text, 0.001, 86400, &d))
        return false;
    *ns = (uint64_t)llround(d * KVE_S);
    return true;
}

/* "fd:N" is a connected channel that the router left us; anything else a path to listen on. */
static bool control(struct kve_worker_config *w, const struct cli *c, const char *text)
{
    uint32_t fd;

    if (strncmp(text, "fd:", 3) != 0) {
        w->control_path = text;
        return true;
    }
    if (!whole(c, text + 3, 3, 1 << 20, &fd))
        return false;
    w->control_fd = (int)fd;
    return true;
}

static bool exact(struct cli *c, const char *text)
{
    const char *comma = strchr(text, ',');
    char first[16];

    if (comma == NULL || (size_t)(comma - text) >= sizeof(first)) {
        fprintf(stderr, "kvserve: --exact %s: two numbers with a comma, as 4,128\n", text);
        return false;
    }
    snprintf(first, sizeof(first), "%.*s", (int)(comma - text), text);
    return whole(c, first, 0, UINT8_MAX, &c->run.exact_first) &&
           whole(c, comma + 1, 0, UINT16_MAX, &c->run.exact_last);
}

static bool request_option(struct cli *c, int opt, const char *text)
{
    struct kve_run_config *r = &c->run;
    double d;
    bool ok = true;

    switch (opt) {
    case OPT_MAX_TOKENS:
        return whole(c, text, 1, 1 << 24, &r->max_tokens);
    case OPT_TEMPERATURE:
        ok = number(c, text, 0, 100, &d);
        r->sample.temperature = ok ? (float)d : 0;
        return ok;
    case OPT_TOP_P:
        ok = number(c, text, 1e-6, 1, &d);
        r->sample.top_p = ok ? (float)d : 1;
        return ok;
    case OPT_SEED:
        ok = number(c, text, 0, 0x1p52, &d) && is_whole(c, text, d);
        r->sample.seed = ok ? (uint64_t)d : 0;
        return ok;
    case OPT_BUDGET:
        return kve_option_budget(&r->budget, text);
    case OPT_EXACT:
        return exact(c, text);
    case OPT_TIMEOUT:
        return seconds(c, text, &r->timeout_ns);
    default:
        return false;
    }
}

/* A name of route's table, or a sentence with all of them. */
static bool policy(struct cli *c, const char *text)
{
    c->up.place.policy = kve_route_policy_of(text);
    if (c->up.place.policy != NULL)
        return true;
    fprintf(stderr, "kvserve: --policy %s: it is", text);
    for (uint32_t i = 0; kve_route_policies[i] != NULL; ++i)
        fprintf(stderr, "%s %s", i > 0 ? "," : "", kve_route_policies[i]->name);
    fprintf(stderr, "\n");
    return false;
}

/* Of the service: how many, who is picked, what is promised. */
static bool service_option(struct cli *c, int opt, const char *text)
{
    switch (opt) {
    case OPT_PREFILL:
        return whole(c, text, 1, SIDE_MAX, &c->run.spawn.prefills);
    case OPT_DECODE:
        return whole(c, text, 1, SIDE_MAX, &c->run.spawn.decodes);
    case OPT_POLICY:
        return policy(c, text);
    case OPT_TTFT:
        return seconds(c, text, &c->up.place.ttft_ns);
    case OPT_ITL:
        return seconds(c, text, &c->up.place.itl_ns);
    case OPT_LEND:
        return strcmp(text, "0") == 0 || seconds(c, text, &c->up.place.lend_ns);
    case OPT_LOCAL:
        return whole(c, text, 0, 1 << 24, &c->up.place.local_tokens);
    default:
        return request_option(c, opt, text);
    }
}

static bool worker_option(struct cli *c, int opt, const char *text)
{
    struct kve_worker_config *w = &c->run.spawn.worker;
    double d;
    bool ok;

    switch (opt) {
    case OPT_CONTROL:
        return control(w, c, text);
    case OPT_WAIT_PEER:
        return seconds(c, text, &w->open_timeout_ns);
    case OPT_LEASE:
        ok = number(c, text, 10, 600000, &d);
        w->lease_ns = ok ? (uint64_t)llround(d * KVE_MS) : 0;
        return ok;
    case OPT_CACHE_GB:
        ok = number(c, text, 1e-6, 1e6, &d);
        w->cache_bytes = ok ? (uint64_t)llround(d * 1e9) : 0;
        return ok;
    case OPT_CODEC:
        return kve_option_codec(&w->codec, text);
    case OPT_CPU:
        w->cpus = text;
        return kve_option_cpus(text);
    case OPT_DEVICE:
        return kve_compute_device(w, text);
    case OPT_KV_DTYPE:
        return kve_compute_kv_dtype(w, text);
    case OPT_ENCODERS:
        return whole(c, text, 0, KVE_ENCODERS_MAX, &w->encoders);
    case OPT_THREADS:
        return whole(c, text, 1, 256, &w->threads);
    case OPT_KV_TOKENS:
        return whole(c, text, 1, 1 << 24, &w->kv_tokens);
    case OPT_BLOCK_TOKENS:
        return whole(c, text, 1, KVW_BLOCK_TOKENS_MAX, &w->block_tokens);
    case OPT_PREFILL_TOKENS:
        return whole(c, text, 1, 65536, &w->prefill_tokens);
    case OPT_SEQUENCES:
        return whole(c, text, 1, KVE_SEQUENCES_MAX, &c->up.sequences);
    case OPT_QUEUE:
        return whole(c, text, 1, 65536, &c->up.queue);
    case OPT_MAX_BODY:
        return whole(c, text, 1024, 1u << 30, &c->up.body_bytes);
    case OPT_CONNECTIONS:
        return whole(c, text, 1, 65536, &c->up.connections);
    default:
        return service_option(c, opt, text);
    }
}

static bool take_option(struct cli *c, int opt, const char *text)
{
    struct kve_run_config *r = &c->run;
    struct kve_worker_config *w = &r->spawn.worker;
    const struct {
        int opt;
        const char **to;
    } texts[] = {
        {OPT_MODEL, &w->model_path},
        {OPT_DECODE_MODEL, &r->spawn.decode_model},
        {OPT_PROMPT, &r->prompt},
        {OPT_PROMPT_FILE, &c->prompt_file},
        {OPT_SYSTEM, &r->system},
        {OPT_BATCH, &r->batch_path},
        {OPT_NET, &w->net},
        {OPT_LINK, &w->local},
        {OPT_PEER, &w->peer},
        {OPT_FAULT, &w->fault},
        {OPT_TRACE, &w->trace},
        {OPT_LISTEN, &c->up.listen},
        {OPT_NAME, &w->name},
        {OPT_SAVE, &r->save},
        {OPT_RESTORE, &r->restore},
        {OPT_CACHE_DIR, &w->cache_dir},
        {OPT_API_KEY_FILE, &c->up.key_file},
        {OPT_PREFILL_AT, &r->spawn.prefill_at},
        {OPT_DECODE_AT, &r->spawn.decode_at},
    };
    const struct {
        int opt;
        bool *to;
    } flags[] = {
        {OPT_RAW, &r->raw},     {OPT_JSON, &r->json},           {OPT_IGNORE_END, &r->ignore_end},
        {OPT_QUIET, &w->quiet}, {OPT_BUSY_POLL, &w->busy_poll}, {OPT_NO_REUSE, &c->up.no_reuse},
    };

    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); ++i)
        if (texts[i].opt == opt) {
            *texts[i].to = text;
            return true;
        }
    for (size_t i = 0; i < sizeof(flags) / sizeof(flags[0]); ++i)
        if (flags[i].opt == opt) {
            *flags[i].to = true;
            return true;
        }
    if (opt == OPT_COMPARE || opt == OPT_NO_COMPARE) {
        c->compare = opt == OPT_COMPARE;
        return true;
    }
    return worker_option(c, opt, text);
}

static enum use use_of(const struct cli *c, const char *what)
{
    const bool alone = strcmp(c->run.spawn.worker.net, "none") == 0;

    if (strcmp(what, "tokenize") == 0)
        return TOKENIZE;
    if (strcmp(what, "router") == 0)
        return ROUTER;
    if (strcmp(what, "up") == 0)
        return alone ? UP_ALONE : UP_PAIR;
    if (strcmp(what, "run") != 0)
        return WORKER;
    if (c->run.spawn.prefill_at != NULL || c->run.spawn.decode_at != NULL)
        return RUN_FOUND;
    return alone ? RUN_ALONE : RUN_PAIR;
}

static const char *option_name(int opt)
{
    for (const struct option *o = options; o->name != NULL; ++o)
        if (o->val == opt)
            return o->name;
    return "?";
}

/* An option that would be taken and do nothing is refused by its name. */
static bool means_nothing(const struct cli *c, const char *what)
{
    const char *net = c->run.spawn.worker.net;
    const enum use use = use_of(c, what);
    const char *with = use == RUN_FOUND ? " with --prefill-at and --decode-at" : "";

    for (size_t i = 0; i < sizeof(meanings) / sizeof(meanings[0]); ++i) {
        const int opt = meanings[i].opt;
        const bool chosen = (use & PAIR) != 0 && opt == OPT_PEER && strcmp(net, "dpdk") != 0;

        if (!c->said[opt - OPT_MODEL] || ((meanings[i].uses & use) != 0 && !chosen))
            continue;
        if ((use & (PAIR | ALONE)) != 0)
            fprintf(stderr, "kvserve %s --net %s: --%s means nothing here\n", what, net,
                    option_name(opt));
        else
            fprintf(stderr, "kvserve %s%s: --%s means nothing here\n", what, with,
                    option_name(opt));
        return true;
    }
    return false;
}

/* What the command can't do without and wasn't given; NULL: nothing. */
static const char *missing(const struct cli *c, enum use use, int prompts)
{
    const struct kve_run_config *r = &c->run;
    const struct kve_worker_config *w = &r->spawn.worker;

    if (w->model_path == NULL)
        return "--model";
    if ((use & (RUN | TOKENIZE)) != 0 && prompts != 1)
        return "exactly one of --prompt, --prompt-file and --batch";
    if ((use == TOKENIZE || r->save != NULL) && r->prompt == NULL)
        return use == TOKENIZE ? "--prompt or --prompt-file"
                               : "--prompt or --prompt-file for --save";
    if ((use & FOUND) != 0 && (r->spawn.prefill_at == NULL || r->spawn.decode_at == NULL))
        return use == ROUTER ? "--prefill-at and --decode-at"
                             : "--prefill-at and --decode-at, both or neither";
    if (use == WORKER && w->control_path == NULL && w->control_fd < 0)
        return "--control";
    if (use == WORKER && w->local == NULL)
        return "--link";
    if (use == WORKER && strcmp(w->net, "none") == 0)
        return "a --net other than none";
    return NULL;
}

/* What HTTP's config has in common with run's. */
static void fill_up(struct cli *c, enum use use)
{
    const struct kve_run_config *r = &c->run;

    c->up.spawn = r->spawn;
    c->up.spawn.worker.own_group = true;
    c->up.budget = r->budget;
    c->up.exact_first = r->exact_first;
    c->up.exact_last = r->exact_last;
    c->up.timeout_ns = r->timeout_ns;
    c->up.chat_tokens = c->said[OPT_MAX_TOKENS - OPT_MODEL] ? r->max_tokens : CHAT_TOKENS;
    if (use == UP_ALONE)
        c->up.sequences = 1;
}

static long workers_of(const struct cli *c)
{
    const struct kve_spawn_config *s = &c->run.spawn;

    return (long)(s->prefills > 0 ? s->prefills : 1) + (long)(s->decodes > 0 ? s->decodes : 1);
}

/* Several workers find each other over udp, on this machine; a dpdk link joins two. */
static bool several(struct cli *c)
{
    struct kve_worker_config *w = &c->run.spawn.worker;

    if (workers_of(c) <= 2)
        return true;
    if (!c->said[OPT_NET - OPT_MODEL])
        w->net = "udp";
    if (strcmp(w->net, "udp") == 0 && w->local == NULL)
        return true;
    fprintf(stderr, "kvserve up: --prefill and --decode past 1 need --net udp, without --link\n");
    return false;
}

/* What belongs to our policy alone, and its defaults: a pair is there for the hand-over. */
static bool policy_fits(struct cli *c)
{
    const struct kve_route_policy *p = c->up.place.policy;
    const bool local = c->said[OPT_LOCAL - OPT_MODEL], lend = c->said[OPT_LEND - OPT_MODEL];
    const bool ours = p == NULL || p->whole, many = workers_of(c) > 2;
    if (!local && many)
        c->up.place.local_tokens = LOCAL_TOKENS;
    if (!lend && many)
        c->up.place.lend_ns = LEND_NS;
    c->run.spawn.mesh = ours && many && c->up.place.lend_ns > 0;
    if ((ours || !(local || lend)) && (many || !lend))
        return true;
    fprintf(stderr, "kvserve up: --%s means nothing with %s%s\n", lend ? "lend" : "local",
            ours ? "a pair" : "--policy ", ours ? "" : p->name);
    return false;
}

static bool complete(struct cli *c, const char *what)
{
    struct kve_run_config *r = &c->run;
    struct kve_worker_config *w = &r->spawn.worker;
    const enum use use = use_of(c, what);

    if (means_nothing(c, what) || !kve_compute_fits(w, what) || !several(c) || !policy_fits(c))
        return false;

    const int prompts = (r->prompt != NULL) + (c->prompt_file != NULL) + (r->batch_path != NULL);

    if (prompts == 1 && c->prompt_file != NULL) {
        if ((c->prompt_text = kve_prompt_read_file(c->prompt_file)) == NULL)
            return false;
        r->prompt = c->prompt_text;
    }
    const char *lacks = missing(c, use, prompts);
    if (lacks != NULL) {
        fprintf(stderr, "kvserve %s needs %s; see kvserve --help\n", what, lacks);
        return false;
    }
    for (uint32_t i = 0; use != WORKER && kvc_codecs[i] != NULL; ++i)
        if (kvc_codecs[i]->id == w->codec && kvc_codecs[i]->budget > r->budget) {
            fprintf(stderr, "kvserve %s: --codec %s changes values; say so with --budget %s\n",
                    what, kvc_codecs[i]->name, kve_option_budgets[kvc_codecs[i]->budget]);
            return false;
        }
    const bool session = r->save != NULL || r->restore != NULL || w->cache_dir != NULL;
    if (session && c->compare > 0) {
        fprintf(stderr, "kvserve run: --compare computes a prompt twice, which --save and "
                        "--restore are against\n");
        return false;
    }
    if (w->cache_dir != NULL && w->cache_bytes == 0)
        w->cache_bytes = CACHE_GB * 1000000000ull;
    r->compare = c->compare >= 0 ? c->compare != 0 : r->batch_path == NULL && !session;
    if (w->threads == 0) {
        const long cores = sysconf(_SC_NPROCESSORS_ONLN);
        const long workers = strcmp(w->net, "none") == 0 ? 1 : workers_of(c);

        w->threads = cores > workers ? (uint32_t)(cores / workers) : 1;
    }
    fill_up(c, use);
    return use == TOKENIZE || kve_option_net(w->net);
}

static bool known_command(const char *what)
{
    static const char *const names[] = {"run", "up", "router", "prefill", "decode", "tokenize"};

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); ++i)
        if (strcmp(what, names[i]) == 0)
            return true;
    return false;
}

/* The options behind the command. False: *status says how it ends. */
static bool take_options(struct cli *c, int argc, char **argv, int *status)
{
    int opt, index = 0;

    *status = EXIT_USAGE;
    optind = 2;
    while ((opt = getopt_long(argc, argv, "h", options, &index)) != -1) {
        if (opt == OPT_HELP || opt == 'h') {
            *status = kve_help_print(kve_help);
            return false;
        }
        if (opt == '?')
            return false;
        c->name = options[index].name;
        c->said[opt - OPT_MODEL] = true;
        if (!take_option(c, opt, optarg))
            return false;
    }
    if (optind < argc) {
        fprintf(stderr, "kvserve %s: unexpected %s\n", argv[1], argv[optind]);
        return false;
    }
    return complete(c, argv[1]);
}

static int run_command(struct cli *c, const char *what)
{
    if (strcmp(what, "run") == 0)
        return kve_run_main(&c->run);
    if (strcmp(what, "tokenize") == 0)
        return kve_run_tokenize(&c->run);
    if ((use_of(c, what) & HTTP) != 0)
        return kve_up_main(&c->up);
    c->run.spawn.worker.role =
        strcmp(what, "prefill") == 0 ? KVE_WORKER_PREFILL : KVE_WORKER_DECODE;
    return kve_worker_main(&c->run.spawn.worker);
}

int main(int argc, char **argv)
{
    struct cli c = {
        .compare = -1,
        .up = {.listen = "127.0.0.1:8080",
               .sequences = 8,
               .queue = 64,
               .body_bytes = 2u << 20,
               .connections = 256},
        .run =
            {
                .max_tokens = 256,
                .timeout_ns = 600 * KVE_S,
                .exact_first = EXACT_FIRST,
                .exact_last = EXACT_LAST,
                .sample = {.temperature = 0, .top_p = 1},
                .spawn.worker = {.net = "dpdk", .control_fd = -1, .open_timeout_ns = 60 * KVE_S},
            },
    };
    const char *what = argc > 1 ? argv[1] : "--help";
    int status = 1;

    if (!kve_signals_keep_standard())
        return 1;
    if (argc <= 1) {
        for (const char *const *text = kve_help; *text != NULL; ++text)
            fputs(*text, stderr);
        return EXIT_USAGE;
    }
    if (strcmp(what, "--help") == 0 || strcmp(what, "-h") == 0 || strcmp(what, "help") == 0)
        return kve_help_print(kve_help);
    if (strcmp(what, "--version") == 0)
        return kve_help_print((const char *const[]){"kvserve " KVE_VERSION "\n", NULL});
    if (!known_command(what)) {
        fprintf(stderr, "kvserve: no command %s; see kvserve --help\n", what);
        return EXIT_USAGE;
    }
    if (take_options(&c, argc, argv, &status)) {
        kve_signals_handle((use_of(&c, what) & HTTP) != 0);
        status = run_command(&c, what);
    }
    free(c.prompt_text);
    return status;
}
