/* SPDX-License-Identifier: Apache-2.0 */
/* kvserve.c - the program: options only; worker.c and router.c do the work. */
#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../compress/compress.h"
#include "clock.h"
#include "cpus.h"
#include "router.h"

#define EXACT_FIRST 4   /* attention sinks */
#define EXACT_LAST  128 /* the newest tokens weigh most */

#define EXIT_USAGE 2

static const char usage_text[] =
    "kvserve - prefill and decode in two processes, the KV cache streamed between them layer by "
    "layer\n"
    "\n"
    "  kvserve run     --model FILE --prompt TEXT [options]   start both workers, answer, report\n"
    "  kvserve prefill --model FILE --control SOCK [options]  a worker that reads prompts\n"
    "  kvserve decode  --model FILE --control SOCK [options]  a worker that writes answers\n"
    "  kvserve tokenize --model FILE --prompt TEXT [--raw]    the prompt's token ids\n"
    "\n"
    "Try:\n"
    "  kvserve run --model SmolLM2.gguf --prompt 'Why is the sky blue?'\n"
    "  kvserve run --model SmolLM2.gguf --batch prompts.jsonl --net udp --json\n"
    "\n"
    "Model and request\n"
    "  --model FILE          GGUF, llama architecture\n"
    "  --decode-model FILE   run: another file for decode (the handshake refuses a different "
    "model)\n"
    "  --prompt TEXT         run: one user turn in the model's chat format\n"
    "  --prompt-file FILE    run: the same from a file\n"
    "  --system TEXT         run: the system turn\n"
    "  --raw                 run: the prompt as it is, without chat format\n"
    "  --batch FILE          run: a JSON object a line, {\"prompt\": ..} or {\"tokens\": [..]}; - "
    "for stdin\n"
    "  --max-tokens N        length of the answer, 256 by default\n"
    "  --temperature T       0 (default): greedy\n"
    "  --top-p P             1 (default): off\n"
    "  --seed N              of the sampling, 0 by default\n"
    "  --ignore-end          run: do not stop at end-of-generation tokens\n"
    "  --timeout SECONDS     of one request, 600 by default\n"
    "\n"
    "Between the workers\n"
    "  --net NAME            dpdk (default), udp, loop (threads of one process), none (no "
    "transfer)\n"
    "  --link ADDRESS        dpdk: path of the Unix socket; udp: ADDR:PORT to bind\n"
    "                        dpdk also KIND:WHAT,ip=ADDR/PREFIX,port=N,..., KIND one of pci, "
    "af_packet,\n"
    "                        af_xdp, memif; net/net.h has the keys\n"
    "  --peer ADDRESS        prefill, udp: where decode listens\n"
    "  --wait-peer SECONDS   how long a worker waits for its peer at start, 60 by default\n"
    "  --codec NAME          prefill: auto (default: what lands the last chunk soonest), or its "
    "name\n"
    "  --budget NAME         run: what codecs may do to the KV: exact (default), e8 (like fp8), e4 "
    "(int4)\n"
    "  --exact FIRST,LAST    run: tokens that a lossy codec leaves exact, 4,128 by default\n"
    "  --encoders N          prefill: threads that encode; by default the link's own does\n"
    "  --lease MS            decode: blocks come back after this much silence, 2000 by default\n"
    "  --fault SPEC          inject faults below the protocol: loss=0.05,reorder=0.05,seed=7\n"
    "  --control SOCK        worker: Unix socket for requests\n"
    "  --prefill-at SOCK, --decode-at SOCK   run: use running workers\n"
    "\n"
    "Resources\n"
    "  --cpu LIST            CPUs for the thread that moves packets, as 2,4-5; default: any\n"
    "  --busy-poll           that thread never sleeps: for a CPU that has nothing else to do\n"
    "  --threads N           compute threads of each worker; default: cores / workers\n"
    "  --kv-tokens N         KV pool; default: the model's context\n"
    "  --block-tokens N      tokens per KV block, 16 by default\n"
    "  --prefill-tokens N    tokens per prefill chunk\n"
    "\n"
    "Output\n"
    "  --json                run: one JSON object per request on stdout\n"
    "  --no-compare          run: skip the second pass that sends after prefill\n"
    "  --quiet               worker: errors only\n"
    "  --help, --version\n"
    "\n"
    "Exit: 0 done; 1 failed, with one sentence on stderr; 2 wrong usage; 130 interrupted.\n";

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
    OPT_CPU,
    OPT_BUSY_POLL,
    OPT_CONTROL,
    OPT_PREFILL_AT,
    OPT_DECODE_AT,
    OPT_THREADS,
    OPT_KV_TOKENS,
    OPT_BLOCK_TOKENS,
    OPT_PREFILL_TOKENS,
    OPT_JSON,
    OPT_NO_COMPARE,
    OPT_COMPARE,
    OPT_QUIET,
    OPT_HELP,
    OPT_VERSION,
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
    {"cpu", required_argument, NULL, OPT_CPU},
    {"busy-poll", no_argument, NULL, OPT_BUSY_POLL},
    {"control", required_argument, NULL, OPT_CONTROL},
    {"prefill-at", required_argument, NULL, OPT_PREFILL_AT},
    {"decode-at", required_argument, NULL, OPT_DECODE_AT},
    {"threads", required_argument, NULL, OPT_THREADS},
    {"kv-tokens", required_argument, NULL, OPT_KV_TOKENS},
    {"block-tokens", required_argument, NULL, OPT_BLOCK_TOKENS},
    {"prefill-tokens", required_argument, NULL, OPT_PREFILL_TOKENS},
    {"json", no_argument, NULL, OPT_JSON},
    {"no-compare", no_argument, NULL, OPT_NO_COMPARE},
    {"compare", no_argument, NULL, OPT_COMPARE},
    {"quiet", no_argument, NULL, OPT_QUIET},
    {"help", no_argument, NULL, OPT_HELP},
    {"version", no_argument, NULL, OPT_VERSION},
    {NULL, 0, NULL, 0},
};

struct cli {
    struct kve_run_config run;
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

static bool whole(const struct cli *c, const char *text, double min, double max, uint32_t *v)
{
    double d;

    if (!number(c, text, min, max, &d))
        return false;
    if (d != floor(d)) {
        fprintf(stderr, "kvserve: --%s %s: not a whole number\n", c->name, text);
        return false;
    }
    *v = (uint32_t)d;
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

static bool codec(struct kve_worker_config *w, const char *text)
{
    const struct kvw_codec_ops *ops = kvc_codec_by_name(text);

    if (ops == NULL && strcmp(text, "auto") != 0) {
        fprintf(stderr, "kvserve: --codec %s: this build has auto", text);
        for (uint32_t i = 0; kvc_codecs[i] != NULL; ++i)
            fprintf(stderr, ", %s", kvc_codecs[i]->name);
        fprintf(stderr, "\n");
        return false;
    }
    w->codec = ops != NULL ? ops->id : 0;
    return true;
}

static const char *const budgets[] = {"exact", "e8", "e4"}; /* by kvw_budget */

static bool budget(struct kve_run_config *r, const char *text)
{
    for (uint32_t i = 0; i < 3; ++i)
        if (strcmp(text, budgets[i]) == 0) {
            r->budget = (kvw_budget)i;
            return true;
        }
    fprintf(stderr, "kvserve: --budget %s: it is exact, e8 or e4\n", text);
    return false;
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
        ok = number(c, text, 0, 0x1p52, &d);
        r->sample.seed = ok ? (uint64_t)d : 0;
        return ok;
    case OPT_BUDGET:
        return budget(r, text);
    case OPT_EXACT:
        return exact(c, text);
    case OPT_TIMEOUT:
        ok = number(c, text, 0.001, 86400, &d);
        r->timeout_ns = ok ? (uint64_t)(d * KVE_S) : 0;
        return ok;
    default:
        return false;
    }
}

static bool cpus(struct kve_worker_config *w, const char *text)
{
    cpu_set_t set;

    w->cpus = text;
    if (kve_cpus_parse(&set, text))
        return true;
    fprintf(stderr, "kvserve: --cpu %s: a list of CPUs looks like 2,4-5\n", text);
    return false;
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
        ok = number(c, text, 0.001, 86400, &d);
        w->open_timeout_ns = ok ? (uint64_t)(d * KVE_S) : 0;
        return ok;
    case OPT_LEASE:
        ok = number(c, text, 10, 600000, &d);
        w->lease_ns = ok ? (uint64_t)(d * KVE_MS) : 0;
        return ok;
    case OPT_CODEC:
        return codec(w, text);
    case OPT_CPU:
        return cpus(w, text);
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
    default:
        return request_option(c, opt, text);
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
        {OPT_PREFILL_AT, &r->spawn.prefill_at},
        {OPT_DECODE_AT, &r->spawn.decode_at},
    };
    const struct {
        int opt;
        bool *to;
    } flags[] = {
        {OPT_RAW, &r->raw},     {OPT_JSON, &r->json},           {OPT_IGNORE_END, &r->ignore_end},
        {OPT_QUIET, &w->quiet}, {OPT_BUSY_POLL, &w->busy_poll},
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

static bool known_net(const char *net)
{
    char names[128] = "none";

    if (strcmp(net, "none") == 0)
        return true;
    for (const struct kvn_transport_entry *t = kvn_transports; t->name != NULL; ++t) {
        if (strcmp(t->name, net) == 0)
            return true;
        snprintf(names + strlen(names), sizeof(names) - strlen(names), ", %s", t->name);
    }
    fprintf(stderr, "kvserve: --net %s: this build has %s\n", net, names);
    return false;
}

static char *read_file(const char *path)
{
    const size_t max = 64u << 20;
    FILE *f = fopen(path, "rb");
    char *text = f != NULL ? malloc(max + 1) : NULL;
    size_t n = text != NULL ? fread(text, 1, max + 1, f) : 0;

    if (f == NULL || text == NULL || ferror(f) || n > max) {
        fprintf(stderr, "kvserve: --prompt-file %s: %s\n", path,
                n > max ? "longer than 64 MiB" : strerror(errno));
        free(text);
        text = NULL;
    } else {
        text[n] = '\0';
    }
    if (f != NULL)
        fclose(f);
    return text;
}

static bool complete(struct cli *c, const char *what)
{
    struct kve_run_config *r = &c->run;
    struct kve_worker_config *w = &r->spawn.worker;
    const bool tokenize = strcmp(what, "tokenize") == 0;
    const bool run = strcmp(what, "run") == 0 || tokenize;
    const char *missing = NULL;

    if (c->prompt_file != NULL) {
        if ((c->prompt_text = read_file(c->prompt_file)) == NULL)
            return false;
        r->prompt = c->prompt_text;
    }
    if (w->model_path == NULL)
        missing = "--model";
    else if (run && (r->prompt != NULL) == (r->batch_path != NULL))
        missing = "exactly one of --prompt, --prompt-file and --batch";
    else if (tokenize && r->prompt == NULL)
        missing = "--prompt or --prompt-file";
    else if (run && (r->spawn.prefill_at != NULL) != (r->spawn.decode_at != NULL))
        missing = "--prefill-at and --decode-at, both or neither";
    else if (!run && w->control_path == NULL && w->control_fd < 0)
        missing = "--control";
    else if (!run && w->local == NULL)
        missing = "--link";
    else if (!run && strcmp(w->net, "none") == 0)
        missing = "a --net other than none";
    if (missing != NULL) {
        fprintf(stderr, "kvserve %s needs %s; see kvserve --help\n", what, missing);
        return false;
    }
    for (uint32_t i = 0; run && kvc_codecs[i] != NULL; ++i)
        if (kvc_codecs[i]->id == w->codec && kvc_codecs[i]->budget > r->budget) {
            fprintf(stderr, "kvserve %s: --codec %s changes values; say so with --budget %s\n",
                    what, kvc_codecs[i]->name, budgets[kvc_codecs[i]->budget]);
            return false;
        }
    r->compare = c->compare >= 0 ? c->compare != 0 : r->batch_path == NULL;
    if (w->threads == 0) {
        const long cores = sysconf(_SC_NPROCESSORS_ONLN);
        const long workers = strcmp(w->net, "none") == 0 ? 1 : 2;

        w->threads = cores > workers ? (uint32_t)(cores / workers) : 1;
    }
    return tokenize || known_net(w->net);
}

static bool known_command(const char *what)
{
    static const char *const names[] = {"run", "prefill", "decode", "tokenize"};

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); ++i)
        if (strcmp(what, names[i]) == 0)
            return true;
    return false;
}

static void on_signal(int sig)
{
    (void)sig;
    kve_run_interrupt();
    kve_worker_stop_all();
}

int main(int argc, char **argv)
{
    struct cli c = {
        .compare = -1,
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
    const struct sigaction sa = {.sa_handler = on_signal};
    const char *what = argc > 1 ? argv[1] : "--help";
    int opt, index = 0;

    if (strcmp(what, "--help") == 0 || strcmp(what, "-h") == 0 || strcmp(what, "help") == 0) {
        fputs(usage_text, argc > 1 ? stdout : stderr);
        return argc > 1 ? 0 : EXIT_USAGE;
    }
    if (strcmp(what, "--version") == 0) {
        printf("kvserve %s\n", KVE_VERSION);
        return 0;
    }
    if (!known_command(what)) {
        fprintf(stderr, "kvserve: no command %s; see kvserve --help\n", what);
        return EXIT_USAGE;
    }
    optind = 2;
    while ((opt = getopt_long(argc, argv, "h", options, &index)) != -1) {
        if (opt == OPT_HELP || opt == 'h') {
            fputs(usage_text, stdout);
            return 0;
        }
        if (opt == '?')
            return EXIT_USAGE;
        c.name = options[index].name;
        if (!take_option(&c, opt, optarg))
            return EXIT_USAGE;
    }
    if (optind < argc) {
        fprintf(stderr, "kvserve %s: unexpected %s\n", what, argv[optind]);
        return EXIT_USAGE;
    }
    if (!complete(&c, what))
        return EXIT_USAGE;
    signal(SIGPIPE, SIG_IGN);
    sigaction(SIGINT, &sa, NULL);
    sigaction(SIGTERM, &sa, NULL);
    if (strcmp(what, "prefill") == 0 || strcmp(what, "decode") == 0) {
        c.run.spawn.worker.role =
            strcmp(what, "prefill") == 0 ? KVE_WORKER_PREFILL : KVE_WORKER_DECODE;
        return kve_worker_main(&c.run.spawn.worker);
    }
    const int status = strcmp(what, "run") == 0 ? kve_run_main(&c.run) : kve_run_tokenize(&c.run);
    free(c.prompt_text);
    return status;
}
