/* SPDX-License-Identifier: Apache-2.0 */
/* options.c - the command line: each option's range is checked here, and a refusal names the
 * option, its value and what it may be. */
#include "options.h"

#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "option_value.h"

enum {
    OPT_MODEL = 256,
    OPT_GEOMETRY,
    OPT_DTYPE,
    OPT_TOKENS,
    OPT_RATE,
    OPT_CHUNK,
    OPT_BLOCK,
    OPT_ORDER,
    OPT_LAYOUT,
    OPT_PAYLOAD,
    OPT_SEED,
    OPT_CODEC,
    OPT_BUDGET,
    OPT_ENCODERS,
    OPT_NET,
    OPT_LINK,
    OPT_PEER,
    OPT_BUSY,
    OPT_FAULT,
    OPT_TIMEOUT,
    OPT_NO_VERIFY,
    OPT_FLIP,
    OPT_NO_GANTT,
    OPT_MAX_EXPOSED,
    OPT_MIN_FLOOR,
    OPT_MEMORY,
    OPT_PIECE,
    OPT_PIECES,
    OPT_DEPTH,
    OPT_POSTS,
    OPT_OP,
    OPT_TRACE,
    OPT_SPEED,
    OPT_SCALE,
    OPT_DURATION,
    OPT_SPREAD,
    OPT_MAX_LAG,
    OPT_STREAM,
    OPT_CSV,
    OPT_BESIDE,
    OPT_TP,
};

static const struct option known[] = {
    {"model", required_argument, NULL, OPT_MODEL},
    {"geometry", required_argument, NULL, OPT_GEOMETRY},
    {"dtype", required_argument, NULL, OPT_DTYPE},
    {"tokens", required_argument, NULL, OPT_TOKENS},
    {"parallel", required_argument, NULL, 'P'},
    {"prefill-rate", required_argument, NULL, OPT_RATE},
    {"prefill-chunk", required_argument, NULL, OPT_CHUNK},
    {"block-tokens", required_argument, NULL, OPT_BLOCK},
    {"order", required_argument, NULL, OPT_ORDER},
    {"layout", required_argument, NULL, OPT_LAYOUT},
    {"payload", required_argument, NULL, OPT_PAYLOAD},
    {"seed", required_argument, NULL, OPT_SEED},
    {"codec", required_argument, NULL, OPT_CODEC},
    {"budget", required_argument, NULL, OPT_BUDGET},
    {"encoders", required_argument, NULL, OPT_ENCODERS},
    {"net", required_argument, NULL, OPT_NET},
    {"link", required_argument, NULL, OPT_LINK},
    {"peer", required_argument, NULL, OPT_PEER},
    {"port", required_argument, NULL, 'p'},
    {"bind", required_argument, NULL, 'B'},
    {"one-off", no_argument, NULL, '1'},
    {"busy-poll", no_argument, NULL, OPT_BUSY},
    {"fault", required_argument, NULL, OPT_FAULT},
    {"reps", required_argument, NULL, 'n'},
    {"omit", required_argument, NULL, 'O'},
    {"timeout", required_argument, NULL, OPT_TIMEOUT},
    {"no-verify", no_argument, NULL, OPT_NO_VERIFY},
    {"flip-byte", no_argument, NULL, OPT_FLIP},
    {"json", no_argument, NULL, 'J'},
    {"output", required_argument, NULL, 'o'},
    {"title", required_argument, NULL, 'T'},
    {"no-gantt", no_argument, NULL, OPT_NO_GANTT},
    {"max-exposed-ms", required_argument, NULL, OPT_MAX_EXPOSED},
    {"min-percent-of-floor", required_argument, NULL, OPT_MIN_FLOOR},
    {"max-memory", required_argument, NULL, OPT_MEMORY},
    {"piece", required_argument, NULL, OPT_PIECE},
    {"pieces", required_argument, NULL, OPT_PIECES},
    {"depth", required_argument, NULL, OPT_DEPTH},
    {"posts", required_argument, NULL, OPT_POSTS},
    {"op", required_argument, NULL, OPT_OP},
    {"trace", required_argument, NULL, OPT_TRACE},
    {"speed", required_argument, NULL, OPT_SPEED},
    {"scale", required_argument, NULL, OPT_SCALE},
    {"duration", required_argument, NULL, OPT_DURATION},
    {"spread", no_argument, NULL, OPT_SPREAD},
    {"max-lag-ms", required_argument, NULL, OPT_MAX_LAG},
    {"interval", required_argument, NULL, 'i'},
    {"json-stream", no_argument, NULL, OPT_STREAM},
    {"csv", required_argument, NULL, OPT_CSV},
    {"beside", required_argument, NULL, OPT_BESIDE},
    {"tp", required_argument, NULL, OPT_TP},
    {"help", no_argument, NULL, 'h'},
    {"version", no_argument, NULL, 'v'},
    {NULL, 0, NULL, 0},
};

/* Options that a server takes; it refuses the others, which the client says. */
static const int of_server[] = {'p', 'B', '1', 'h', 'v', OPT_NET, OPT_LINK};

/* Options that only some modes know. */
static const struct {
    int opt;
    enum kvp_command modes[3];
    const char *names;
} only[] = {
    {OPT_MEMORY, {KVP_SWEEP, KVP_FIND, KVP_REPLAY}, "sweep, find and replay"},
    {OPT_BESIDE, {KVP_KV, KVP_BW}, "kv and bw"},
    {OPT_TP, {KVP_KV, KVP_BW, KVP_LAT}, "kv, bw and lat"},
    {OPT_PIECE, {KVP_BATCH}, "batch"},
    {OPT_PIECES, {KVP_BATCH}, "batch"},
    {OPT_DEPTH, {KVP_BATCH}, "batch"},
    {OPT_POSTS, {KVP_BATCH}, "batch"},
    {OPT_OP, {KVP_BATCH}, "batch"},
    {OPT_TRACE, {KVP_REPLAY}, "replay"},
    {OPT_SPEED, {KVP_REPLAY}, "replay"},
    {OPT_SCALE, {KVP_REPLAY}, "replay"},
    {OPT_DURATION, {KVP_REPLAY}, "replay"},
    {OPT_SPREAD, {KVP_REPLAY}, "replay"},
    {OPT_MAX_LAG, {KVP_REPLAY}, "replay"},
};

/* While reading: what is kept until all of it is known. */
struct reading {
    struct kvp_options *o;
    const char *name, *model, *geometry, *dtype, *codecs;
    double rate; /* < 0: the preset's */
};

static const char *const budgets[] = {"exact", "e8", "e4", NULL}; /* by kvw_budget */
static const char *const orders[] = {"contiguous", "random", NULL};
static const char *const layouts[] = {"layer", "head", "block", NULL}; /* by kvp_layout */
static const char *const nets[] = {"udp", "dpdk", "verbs", NULL};
static const char *const yardsticks[] = {"memcpy", "iperf3", "memcpy,iperf3", NULL};
static const char *const ops[] = {"write", "read", "both", NULL};

/* Whole numbers with commas between them; more than one only for a sweep, or pieces. */
static bool list(const struct reading *r, const char *text, double max, uint32_t *to,
                 uint32_t *count)
{
    const bool more = r->o->command == KVP_SWEEP || to == r->o->piece_list;
    char words[160], *save = NULL;

    if (strlen(text) >= sizeof(words))
        return kvp_refuse(r->name, text, "a shorter list");
    if (kvp_has_gap(text))
        return kvp_refuse(r->name, text, "a comma stands between two of them");
    snprintf(words, sizeof(words), "%s", text);
    *count = 0;
    for (const char *word = strtok_r(words, ",", &save); word != NULL;
         word = strtok_r(NULL, ",", &save)) {
        if (*count == (more ? KVP_LIST_MAX : 1))
            return kvp_refuse(r->name, text,
                              more ? "more than 12 of them" : "one number; a list is for sweep");
        if (!kvp_whole(r->name, word, 1, max, &to[(*count)++]))
            return false;
    }
    return *count > 0 || kvp_refuse(r->name, text, "it names no number");
}

/* P or P:D. */
static bool shards(const struct reading *r, const char *text)
{
    const char *colon = strchr(text, ':');
    char first[16];

    snprintf(first, sizeof(first), "%.*s",
             (int)(colon != NULL ? (size_t)(colon - text) : strlen(text)), text);
    if (!kvp_whole(r->name, first, 1, KVP_TP_MAX, &r->o->tp))
        return false;
    r->o->tp_there = r->o->tp;
    return colon == NULL || kvp_whole(r->name, colon + 1, 1, KVP_TP_MAX, &r->o->tp_there);
}

static bool block_tokens(const struct reading *r, const char *text)
{
    const char *comma = strchr(text, ',');
    char first[16];

    if (comma != NULL && (size_t)(comma - text) >= sizeof(first))
        return kvp_refuse(r->name, text, "N, or N,M for this side and the other");
    snprintf(first, sizeof(first), "%.*s", comma != NULL ? (int)(comma - text) : 15, text);
    if (!kvp_whole(r->name, first, 1, KVW_BLOCK_TOKENS_MAX, &r->o->block_tokens))
        return false;
    r->o->block_tokens_there = r->o->block_tokens;
    return comma == NULL ||
           kvp_whole(r->name, comma + 1, 1, KVW_BLOCK_TOKENS_MAX, &r->o->block_tokens_there);
}

static bool payload(const struct reading *r, const char *text)
{
    struct kvp_options *o = r->o;

    if (strncmp(text, "file:", 5) == 0 && text[5] != '\0') {
        o->payload = KVP_PAYLOAD_FILE;
        o->payload_path = text + 5;
        return true;
    }
    if (strcmp(text, "recorded") != 0 && strcmp(text, "random") != 0)
        return kvp_refuse(r->name, text, "it is recorded, random or file:PATH");
    o->payload = strcmp(text, "random") == 0 ? KVP_PAYLOAD_RANDOM : KVP_PAYLOAD_RECORDED;
    return true;
}

/* --- codecs ----------------------------------------------------------------------------------- */

static bool take_codecs(const struct reading *r)
{
    struct kvp_options *o = r->o;
    char text[128], *save = NULL;

    if (kvp_has_gap(r->codecs)) {
        fprintf(stderr, "kvperf: --codec %s: a comma stands between two of them\n", r->codecs);
        return false;
    }
    snprintf(text, sizeof(text), "%s", r->codecs);
    for (const char *word = strtok_r(text, ",", &save); word != NULL;
         word = strtok_r(NULL, ",", &save)) {
        if (o->codec_count == KVP_CODECS_MAX) {
            fprintf(stderr, "kvperf: --codec %s: more than %u\n", r->codecs, KVP_CODECS_MAX);
            return false;
        }
        if (!kvp_codec_by_name(&o->codecs[o->codec_count], word)) {
            fprintf(stderr, "kvperf: --codec %s: this library has auto, and %s\n", word,
                    kvw_features());
            return false;
        }
        if (o->codecs[o->codec_count].id == 0)
            o->codecs[o->codec_count].budget = o->budget;
        ++o->codec_count;
    }
    if (o->codec_count > 0)
        return true;
    fprintf(stderr, "kvperf: --codec %s: it names no codec\n", r->codecs);
    return false;
}

/* --- options ---------------------------------------------------------------------------------- */

/* Numbers of batch, replay and intervals; *known false: it is none of them. */
static bool take_mode_number(struct reading *r, int opt, const char *text, bool *known_here)
{
    struct kvp_options *o = r->o;

    *known_here = true;
    switch (opt) {
    case OPT_PIECE:
        return list(r, text, 1 << 30, o->piece_list, &o->piece_count);
    case OPT_PIECES:
        return kvp_whole(r->name, text, 1, KVW_PIECES_MAX, &o->pieces);
    case OPT_DEPTH:
        return kvp_whole(r->name, text, 1, 64, &o->depth);
    case OPT_POSTS:
        return kvp_whole(r->name, text, 1, 1000000, &o->posts);
    case OPT_SPEED:
        return kvp_number(r->name, text, 1e-3, 1e6, &o->speed);
    case OPT_SCALE:
        return kvp_number(r->name, text, 1e-6, 1e3, &o->scale);
    case OPT_DURATION:
        return kvp_number(r->name, text, 0.001, 1e7, &o->duration_s);
    case OPT_MAX_LAG:
        return kvp_number(r->name, text, 0, 1e9, &o->max_lag_ms);
    case 'i':
        return kvp_number(r->name, text, 0.01, 86400, &o->interval_s);
    default:
        *known_here = false;
        return false;
    }
}

static bool take_number(struct reading *r, int opt, const char *text)
{
    struct kvp_options *o = r->o;
    uint32_t n = 0;
    double d = 0;
    bool ok, known_here;

    ok = take_mode_number(r, opt, text, &known_here);
    if (known_here)
        return ok;
    switch (opt) {
    case OPT_TOKENS:
        return list(r, text, KVW_XFER_TOKENS_MAX, o->token_list, &o->token_count);
    case 'P':
        return list(r, text, 64, o->parallel_list, &o->parallel_count);
    case OPT_MEMORY:
        ok = kvp_number(r->name, text, 0.001, 100000, &d);
        o->memory_max = ok ? d * 1e9 : 0;
        return ok;
    case OPT_RATE:
        return kvp_number(r->name, text, 0, 1e9, &r->rate);
    case OPT_CHUNK:
        return kvp_whole(r->name, text, 0, KVW_XFER_TOKENS_MAX, &o->chunk_tokens);
    case OPT_BLOCK:
        return block_tokens(r, text);
    case OPT_TP:
        return shards(r, text);
    case OPT_SEED:
        ok = kvp_number(r->name, text, 0, 9007199254740992.0, &d) &&
             (d == floor(d) || kvp_refuse(r->name, text, "not a whole number"));
        o->seed = ok ? (uint64_t)d : 0;
        return ok;
    case OPT_ENCODERS:
        return kvp_whole(r->name, text, 0, 16, &o->encoders);
    case 'p':
        ok = kvp_whole(r->name, text, 1, 65000, &n);
        o->port = (uint16_t)n;
        return ok;
    case 'n':
        return kvp_whole(r->name, text, 1, 100000, &o->reps);
    case 'O':
        return kvp_whole(r->name, text, 0, 1000, &o->omit);
    case OPT_TIMEOUT:
        ok = kvp_number(r->name, text, 0.1, 86400, &d);
        o->timeout_ns = ok ? (uint64_t)llround(d * 1e9) : 0;
        return ok;
    case OPT_MAX_EXPOSED:
        return kvp_number(r->name, text, 0, 1e9, &o->max_exposed_ms);
    default:
        return kvp_number(r->name, text, 0, 1000, &o->min_percent_of_floor);
    }
}

static bool take_word(struct reading *r, int opt, const char *text)
{
    struct kvp_options *o = r->o;
    int i = -1;

    switch (opt) {
    case OPT_ORDER:
        i = kvp_one_of(r->name, text, orders);
        o->shuffled = i == 1;
        break;
    case OPT_LAYOUT:
        i = kvp_one_of(r->name, text, layouts);
        o->layout = i < 0 ? 0 : (enum kvp_layout)i;
        break;
    case OPT_BUDGET:
        i = kvp_one_of(r->name, text, budgets);
        o->budget = i < 0 ? 0 : (uint32_t)i;
        break;
    case OPT_NET:
        i = kvp_one_of(r->name, text, nets);
        o->net = i < 0 ? NULL : nets[i];
        break;
    case OPT_BESIDE:
        i = kvp_one_of(r->name, text, yardsticks);
        o->beside_count = i == 2 ? 2 : 1;
        o->beside[0] = yardsticks[i == 1];
        o->beside[1] = yardsticks[1];
        break;
    case OPT_OP:
        i = kvp_one_of(r->name, text, ops);
        o->write = i != 1;
        o->read = i != 0;
        break;
    default:
        return payload(r, text);
    }
    return i >= 0;
}

static void take_flag(struct kvp_options *o, int opt)
{
    o->one_off |= opt == '1';
    o->busy_poll |= opt == OPT_BUSY;
    o->flip |= opt == OPT_FLIP;
    o->json |= opt == 'J';
    o->json_stream |= opt == OPT_STREAM;
    o->spread |= opt == OPT_SPREAD;
    o->verify &= opt != OPT_NO_VERIFY;
    o->gantt &= opt != OPT_NO_GANTT;
}

static bool take(struct reading *r, int opt, const char *text)
{
    struct kvp_options *o = r->o;
    const struct {
        int opt;
        const char **to;
    } texts[] = {{OPT_MODEL, &r->model}, {OPT_GEOMETRY, &r->geometry},
                 {OPT_DTYPE, &r->dtype}, {OPT_CODEC, &r->codecs},
                 {OPT_LINK, &o->link},   {OPT_PEER, &o->peer},
                 {OPT_FAULT, &o->fault}, {'B', &o->bind},
                 {'o', &o->output},      {'T', &o->title},
                 {OPT_TRACE, &o->trace}, {OPT_CSV, &o->csv}};

    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); ++i)
        if (texts[i].opt == opt) {
            *texts[i].to = text;
            return text[0] != '\0' || kvp_refuse(r->name, "''", "it is empty");
        }
    if (text == NULL)
        take_flag(o, opt);
    if (text == NULL)
        return true;
    if (opt == OPT_ORDER || opt == OPT_LAYOUT || opt == OPT_BUDGET || opt == OPT_NET ||
        opt == OPT_PAYLOAD || opt == OPT_OP || opt == OPT_BESIDE)
        return take_word(r, opt, text);
    return take_number(r, opt, text);
}

static bool server_takes(int opt)
{
    for (size_t i = 0; i < sizeof(of_server) / sizeof(of_server[0]); ++i)
        if (of_server[i] == opt)
            return true;
    return false;
}

/* False, and it says so: this mode doesn't know the option. */
static bool mode_takes(const struct reading *r, int opt)
{
    for (size_t i = 0; i < sizeof(only) / sizeof(only[0]); ++i)
        if (only[i].opt == opt && only[i].modes[0] != r->o->command &&
            only[i].modes[1] != r->o->command && only[i].modes[2] != r->o->command) {
            fprintf(stderr, "kvperf: --%s is an option of %s\n", r->name, only[i].names);
            return false;
        }
    return true;
}

static const char *name_of(int opt)
{
    for (size_t i = 0; known[i].name != NULL; ++i)
        if (known[i].val == opt)
            return known[i].name;
    return "?";
}

/* --- the whole -------------------------------------------------------------------------------- */

static int list_models(void)
{
    char why[KVP_WHY];

    for (uint32_t i = 0; kvp_geometry_preset_name(i) != NULL; ++i) {
        struct kvp_geometry g;

        if (!kvp_geometry_preset(&g, kvp_geometry_preset_name(i), why))
            continue;
        printf("%-18s %3u layers  %9llu bytes for the first token, %9.0f a token of 8192, "
               "%7g tokens/s (%s)\n",
               g.name, g.layers, (unsigned long long)kvp_geometry_bytes(&g, 1),
               (double)kvp_geometry_bytes(&g, 8192) / 8192, g.prefill_tok_s, g.clock);
    }
    return KVP_EXIT_OK;
}

static bool take_geometry(const struct reading *r, int *status)
{
    struct kvp_options *o = r->o;
    char why[KVP_WHY];
    bool ok;

    if (r->model != NULL && strcmp(r->model, "list") == 0) {
        *status = list_models();
        return false;
    }
    if (r->model != NULL && r->geometry != NULL) {
        fprintf(stderr, "kvperf: --model and --geometry: one of them\n");
        return false;
    }
    ok = r->geometry != NULL
             ? kvp_geometry_from_file(&o->geometry, r->geometry, why)
             : kvp_geometry_preset(&o->geometry, r->model != NULL ? r->model : "llama-3.1-8b", why);
    ok = ok && (r->dtype == NULL || kvp_geometry_retype(&o->geometry, r->dtype, why));
    if (!ok) {
        fprintf(stderr, "kvperf: %s\n", why);
        return false;
    }
    if (r->rate >= 0) {
        o->geometry.prefill_tok_s = r->rate > 0 ? r->rate : 1e12;
        snprintf(o->geometry.clock, sizeof(o->geometry.clock), "%s",
                 r->rate > 0 ? "as stated" : "no prefill");
    }
    return true;
}

static const struct {
    const char *name;
    enum kvp_command command;
} modes[] = {{"kv", KVP_KV},       {"bw", KVP_BW},         {"lat", KVP_LAT},
             {"find", KVP_FIND},   {"codec", KVP_CODEC},   {"plan", KVP_PLAN},
             {"batch", KVP_BATCH}, {"replay", KVP_REPLAY}, {"sweep", KVP_SWEEP}};

static enum kvp_command mode_of(const char *word)
{
    for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); ++i)
        if (strcmp(modes[i].name, word) == 0)
            return modes[i].command;
    return KVP_NONE;
}

/* The command and its host; where the options begin, or 0. */
static int take_command(struct kvp_options *o, int argc, char **argv)
{
    const char *word = argc > 1 ? argv[1] : "";
    int at = 2;

    if (strcmp(word, "server") == 0 || strcmp(word, "-s") == 0) {
        o->command = KVP_SERVER;
    } else if (strcmp(word, "client") == 0 || strcmp(word, "-c") == 0) {
        o->command = KVP_KV;
        if (argc <= at || argv[at][0] == '-') {
            fprintf(stderr, "kvperf: client needs the server's host; see kvperf --help\n");
            return 0;
        }
        o->host = argv[at++];
        if (argc > at && mode_of(argv[at]) != KVP_NONE)
            o->command = mode_of(argv[at++]);
    } else if (mode_of(word) != KVP_NONE) {
        o->command = mode_of(word);
        if (o->command != KVP_CODEC && o->command != KVP_PLAN && argc > at && argv[at][0] != '-')
            o->host = argv[at++];
    } else {
        fprintf(stderr, "kvperf: no command %s; see kvperf --help\n", word);
        return 0;
    }
    return at;
}

/* Each shard has a node of its own, and so a UDP port. */
static bool tp_fits(const struct kvp_options *o)
{
    const uint32_t most = o->tp > o->tp_there ? o->tp : o->tp_there;
    char why[KVP_WHY];

    if (most == 1)
        return true;
    if (strcmp(o->net, "udp") != 0) {
        fprintf(stderr, "kvperf: --tp needs --net udp, where each shard has a port of its own\n");
        return false;
    }
    if (o->parallel * most > 64) {
        fprintf(stderr,
                "kvperf: --tp %u:%u with --parallel %u: shards times prompts are 64 at most\n",
                o->tp, o->tp_there, o->parallel);
        return false;
    }
    if (kvp_geometry_shares(&o->geometry, o->tp, why) &&
        kvp_geometry_shares(&o->geometry, o->tp_there, why))
        return true;
    fprintf(stderr, "kvperf: %s\n", why);
    return false;
}

static bool fits_together(struct kvp_options *o)
{
    if (!tp_fits(o))
        return false;
    if (o->command == KVP_FIND && (o->max_exposed_ms < 0 || o->codec_count > 1)) {
        fprintf(stderr, "kvperf: find needs --max-exposed-ms X, what may show, and one --codec\n");
        return false;
    }
    if (o->command == KVP_FIND) {
        o->find_ms = o->max_exposed_ms;
        o->max_exposed_ms = -1;
    }
    if (o->command == KVP_REPLAY && (o->trace == NULL || o->codec_count > 1)) {
        fprintf(stderr, "kvperf: replay needs --trace FILE, requests as JSON lines, and one "
                        "--codec\n");
        return false;
    }
    if (o->host == NULL && (o->link != NULL || o->peer != NULL) && o->command != KVP_SERVER) {
        fprintf(stderr, "kvperf: --link and --peer are for a HOST; without one both ends are "
                        "joined here\n");
        return false;
    }
    if (strcmp(o->net, "udp") != 0 && o->link == NULL &&
        (o->host != NULL || o->command == KVP_SERVER)) {
        fprintf(stderr, "kvperf: --net %s between hosts needs --link, this side's device\n",
                o->net);
        return false;
    }
    if (o->host == NULL && o->command != KVP_SERVER && strcmp(o->net, "verbs") == 0) {
        fprintf(stderr, "kvperf: --net verbs needs a HOST: run kvperf server beside it\n");
        return false;
    }
    return true;
}

static bool parse_rest(struct reading *r, int argc, char **argv, int *status)
{
    struct kvp_options *o = r->o;
    int opt, which = 0;

    opterr = 0;
    while ((opt = getopt_long(argc, argv, "+:p:B:1P:n:O:Ji:o:T:hv", known, &which)) != -1) {
        if (opt == 'h' || opt == 'v') {
            if (opt == 'h')
                fputs(kvp_help(o->command), stdout);
            else
                printf("kvperf %s\n", kvw_version());
            *status = KVP_EXIT_OK;
            return false;
        }
        if (opt == '?' || opt == ':') {
            fprintf(stderr, "kvperf: %s %s; see kvperf %s --help\n", argv[optind - 1],
                    opt == '?' ? "is not an option, or not with this value" : "needs a value",
                    o->command == KVP_SERVER ? "server" : "kv");
            return false;
        }
        r->name = name_of(opt);
        if (o->command != KVP_SERVER && !mode_takes(r, opt))
            return false;
        if (o->command == KVP_SERVER ? !server_takes(opt) : opt == '1') {
            fprintf(stderr, "kvperf: --%s is an option of the %s\n", r->name,
                    o->command == KVP_SERVER ? "client" : "server");
            return false;
        }
        if (!take(r, opt, optarg))
            return false;
    }
    if (optind < argc) {
        fprintf(stderr, "kvperf: %s: one word too many\n", argv[optind]);
        return false;
    }
    return true;
}

/* What wasn't said depends on the mode. */
static void take_lists(struct kvp_options *o)
{
    static const uint32_t tokens[] = {128, 256, 1024, 4096, 8192, 32768, 131072};
    static const uint32_t parallel[] = {1, 8, 64};
    const bool sweep = o->command == KVP_SWEEP;

    if (o->token_count == 0 && sweep) {
        memcpy(o->token_list, tokens, sizeof(tokens));
        o->token_count = sizeof(tokens) / sizeof(tokens[0]);
    }
    if (o->parallel_count == 0 && sweep) {
        memcpy(o->parallel_list, parallel, sizeof(parallel));
        o->parallel_count = sizeof(parallel) / sizeof(parallel[0]);
    }
    if (o->piece_count == 0)
        o->piece_list[o->piece_count++] = 4096;
    if (o->command == KVP_REPLAY && o->parallel_count == 0)
        o->parallel = 16;
    if (o->command == KVP_REPLAY && o->token_count == 0)
        o->tokens = 0; /* as long as the trace's longest */
    if (o->command == KVP_LAT && o->token_count == 0)
        o->tokens = o->block_tokens;
    if (o->token_count > 0)
        o->tokens = o->token_list[0];
    if (o->parallel_count > 0)
        o->parallel = o->parallel_list[0];
    if (o->reps == 0)
        o->reps = o->command == KVP_LAT ? 200 : sweep ? 3 : o->command == KVP_FIND ? 100 : 5;
}

bool kvp_options_parse(struct kvp_options *o, int argc, char **argv, int *status)
{
    struct reading r = {.o = o, .codecs = "auto", .rate = -1};
    const char *word = argc > 1 ? argv[1] : "";
    int at;

    *o = (struct kvp_options){.argc = argc,
                              .argv = argv,
                              .port = KVP_PORT,
                              .net = "udp",
                              .tokens = 2048,
                              .parallel = 1,
                              .tp = 1,
                              .tp_there = 1,
                              .block_tokens = 16,
                              .block_tokens_there = 16,
                              .shuffled = true,
                              .seed = 1,
                              .verify = true,
                              .pieces = 1024,
                              .depth = 1,
                              .posts = 8,
                              .read = true,
                              .write = true,
                              .speed = 1,
                              .scale = 1,
                              .max_lag_ms = 20,
                              .reps = 0, /* by mode */
                              .omit = 1,
                              .timeout_ns = 120000000000ull,
                              .gantt = true,
                              .max_exposed_ms = -1,
                              .min_percent_of_floor = -1,
                              .memory_max = 1e9};
    *status = KVP_EXIT_USAGE;
    if (argc < 2) {
        fputs(kvp_help(KVP_NONE), stderr);
        return false;
    }
    if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0 || strcmp(word, "--version") == 0) {
        if (word[2] == 'v')
            printf("kvperf %s\n", kvw_version());
        else
            fputs(kvp_help(KVP_NONE), stdout);
        *status = KVP_EXIT_OK;
        return false;
    }
    if ((at = take_command(o, argc, argv)) == 0)
        return false;
    optind = at;
    if (!parse_rest(&r, argc, argv, status) || !take_codecs(&r))
        return false;
    take_lists(o);
    return take_geometry(&r, status) && fits_together(o);
}
