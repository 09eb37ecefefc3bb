/* SPDX-License-Identifier: Apache-2.0 */
/*
 * quality - what a codec does to a model's answers when KV crosses from prefill to decode.
 *
 *   quality MODEL THREADS WINDOWS CODEC[,CODEC...] NAME=FILE...
 *
 * Each window is 1,025 tokens of one of the files, taken in turn. 768 are prefilled; the whole
 * cache goes through the codec; the next 256 are forced, and the logits after each of them are
 * compared with those over the untouched cache. A CODEC is a peer of quality_codecs.h, or one of
 * ours: NAME[/FIRST/LAST], FIRST and LAST the exact tokens it is asked to keep. NAME! has the
 * lowest bit of one decoded value flipped, which a comparison of the logits must see.
 *
 * One line a codec on stdout, tab-separated: name, ratio, SNR of K and of V (dB, mean over layers
 * and windows), perplexity change (with its 95 % interval by a bootstrap over the windows, in %),
 * mean KL divergence (with interval), its 99.9 % point, top-1 agreement in %, windows whose logits
 * are not byte-equal; then beside the peer that the codec is held against (e8: fp8-e4m3, e4:
 * hadamard-int4, if they run too): the intervals of the differences in perplexity (%) and in mean
 * KL.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../compress/compress.h"
#include "../../engine/model/model.h"
#include "../../engine/text/tok.h"
#include "../../kvwire/kv/dense.h"
#include "quality_codecs.h"

#define BLOCK_TOKENS 16u
#define PREFILL      768u
#define FORCED       256u
#define WINDOW       (PREFILL + FORCED + 1)
#define BLOCKS       ((PREFILL + FORCED) / BLOCK_TOKENS)
#define WINDOWS_MAX  256u
#define CODECS_MAX   32u
#define FILES_MAX    16u
#define RESAMPLES    10000u

/* One codec's results over the windows. */
struct subject {
    char name[64];
    const struct t_peer *peer; /* or */
    const struct kvw_codec_ops *codec;
    struct kvw_codec_args args;
    bool flip; /* damage what comes back, by a bit */
    double bits, values;
    double snr[2]; /* sums of dB */
    uint32_t snr_count;
    double nll[WINDOWS_MAX], kl[WINDOWS_MAX]; /* means of a window */
    float *every_kl;                          /* [windows * FORCED] */
    uint64_t agree;
    uint32_t unequal; /* windows whose logits differ in a bit */
};

struct trial {
    struct kve_gguf *gguf;
    struct kve_model *model;
    struct kve_run *run;
    struct kve_tok *tok;
    struct kve_kvcache kv;
    struct kve_seq seq;
    uint32_t table[BLOCKS];
    uint32_t vocab, windows;
    uint32_t *tokens;           /* [windows][WINDOW] */
    float *want, *got, *chance; /* [FORCED][vocab]: logits, and want's softmax */
    double want_nll[WINDOWS_MAX];
    double want_sum[FORCED]; /* log of the sum of exponentials */
    unsigned char *exact;    /* the cache after prefill */
    unsigned char *stream, *scratch;
    float *x, *before;
    struct subject subjects[CODECS_MAX];
    uint32_t subject_count;
};

static void die(const char *what, const char *detail)
{
    fprintf(stderr, "quality: %s%s%s\n", what, detail[0] != '\0' ? ": " : "", detail);
    exit(1);
}

static void must(kvw_err err, const char *what)
{
    if (err != KVW_OK)
        die(what, kvw_strerror(err));
}

static void *room(size_t count, size_t each)
{
    void *p = aligned_alloc(64, (count * each + 127) / 64 * 64);

    if (p == NULL)
        die("no memory", "");
    memset(p, 0, count * each);
    return p;
}

static char *read_file(const char *path, size_t *bytes)
{
    FILE *f = fopen(path, "rb");
    char *text;
    long n;

    if (f == NULL || fseek(f, 0, SEEK_END) != 0)
        die("can't read", path);
    n = ftell(f);
    if (n < 0)
        die("can't read", path);
    rewind(f);
    text = room((size_t)n + 1, 1);
    *bytes = fread(text, 1, (size_t)n, f);
    fclose(f);
    return text;
}

/* Windows from the files in turn, until there are enough; each file's from its beginning on. */
static void cut_windows(struct trial *t, uint32_t windows, char **files, uint32_t file_count)
{
    uint32_t *ids[FILES_MAX], left = file_count;
    size_t count[FILES_MAX], at[FILES_MAX] = {0};

    for (uint32_t i = 0; i < file_count; ++i) {
        const char *path = strchr(files[i], '=');
        size_t bytes;
        char *text;

        if (path == NULL)
            die("a text is NAME=FILE, not", files[i]);
        text = read_file(path + 1, &bytes);
        must(kve_tok_encode(t->tok, text, bytes, false, true, &ids[i], &count[i]), "tokens");
        free(text);
    }
    t->tokens = room((size_t)windows * WINDOW, sizeof(*t->tokens));
    for (uint32_t i = 0; t->windows < windows && left > 0; i = (i + 1) % file_count) {
        if (at[i] == SIZE_MAX)
            continue;
        if (count[i] - at[i] < WINDOW) {
            at[i] = SIZE_MAX;
            --left;
            continue;
        }
        memcpy(t->tokens + (size_t)t->windows++ * WINDOW, ids[i] + at[i],
               WINDOW * sizeof(*t->tokens));
        at[i] += WINDOW;
    }
    for (uint32_t i = 0; i < file_count; ++i)
        free(ids[i]);
    if (t->windows < windows)
        die("the texts are too short for so many windows", "");
}

static void add_subject(struct trial *t, const char *name)
{
    struct subject *s = &t->subjects[t->subject_count++];
    char base[64];

    snprintf(s->name, sizeof(s->name), "%s", name);
    snprintf(base, sizeof(base), "%s", name);
    if (strchr(base, '/') != NULL) {
        sscanf(strchr(base, '/'), "/%u/%u", &s->args.exact_first, &s->args.exact_last);
        *strchr(base, '/') = '\0';
    }
    s->flip = strchr(base, '!') != NULL;
    if (s->flip)
        *strchr(base, '!') = '\0';
    s->codec = kvc_codec_by_name(base);
    for (s->peer = t_peers; s->codec == NULL && s->peer->name != NULL; ++s->peer) {
        if (strcmp(s->peer->name, base) == 0)
            break;
    }
    if (s->codec == NULL && s->peer->name == NULL)
        die("no such codec", name);
    s->every_kl = room((size_t)t->windows * FORCED, sizeof(*s->every_kl));
}

/* The view's values as floats, in canonical order. */
static void load(const struct kvw_view *v, float *x)
{
    for (uint32_t i = 0; i < v->tokens; ++i)
        for (uint32_t h = 0; h < v->heads; ++h)
            for (uint32_t d = 0; d < v->head_bytes / 2; ++d)
                *x++ = t_from_bf16(((const uint16_t *)(const void *)kvw_view_at(v, i, h))[d]);
}

static void store(const struct kvw_view *v, const float *x)
{
    for (uint32_t i = 0; i < v->tokens; ++i)
        for (uint32_t h = 0; h < v->heads; ++h)
            for (uint32_t d = 0; d < v->head_bytes / 2; ++d)
                ((uint16_t *)(void *)kvw_view_at(v, i, h))[d] = t_to_bf16(*x++);
}

static double snr_db(const float *x, const float *y, size_t n)
{
    double signal = 0, noise = 0;

    for (size_t i = 0; i < n; ++i) {
        signal += (double)x[i] * x[i];
        noise += ((double)x[i] - y[i]) * ((double)x[i] - y[i]);
    }
    return noise > 0 ? 10 * log10(signal / noise) : 200;
}

/* What isn't decoded must not pass for the values that were there. */
static void wipe(const struct kvw_view *v)
{
    for (uint32_t i = 0; i < v->tokens; ++i)
        for (uint32_t h = 0; h < v->heads; ++h)
            memset(kvw_view_at(v, i, h), 0xa5, v->head_bytes);
}

/* The lowest bit of one value in the middle. */
static void flip_bit(const struct kvw_view *v)
{
    *(uint16_t *)(void *)kvw_view_at(v, v->tokens / 2, v->heads / 2) ^= 1;
}

/* K or V of one layer through the codec, in place. */
static void through(struct trial *t, struct subject *s, uint32_t layer, uint32_t kv)
{
    const struct kvw_pool *p = &t->kv.pool;
    const struct kvw_view v = kvw_pool_view(p, t->table, layer, kv, 0, PREFILL);
    const size_t n = (size_t)PREFILL * p->kv_heads * p->head_dim;

    load(&v, t->before);
    s->args.kv = (uint8_t)kv;
    if (s->codec != NULL) {
        struct kvw_digest d;
        uint64_t sent, bytes = 0;

        must(kvw_digest_begin(&d, KVW_DIGEST_XXH3_64), "digest");
        must(s->codec->encode(&v, &s->args, t->stream, s->codec->bound(2 * n), &bytes, &d,
                              t->scratch),
             "encode");
        sent = kvw_digest_value(&d);
        wipe(&v);
        must(kvw_digest_begin(&d, KVW_DIGEST_XXH3_64), "digest");
        must(s->codec->decode(t->stream, bytes, NULL, &v, &d, t->scratch), "decode");
        if (kvw_digest_value(&d) != sent)
            die("the decoded chunk has another digest than its sender said", s->name);
        s->bits += 8.0 * (double)bytes;
    } else {
        const struct t_tensor tensor = {t->x, PREFILL, p->kv_heads, p->head_dim, kv == 1};

        memcpy(t->x, t->before, n * sizeof(*t->x));
        s->bits += s->peer->round_trip(&tensor);
        store(&v, t->x);
    }
    if (s->flip && kv == 1 && layer == p->layers / 2)
        flip_bit(&v);
    s->values += (double)n;
    load(&v, t->x);
    s->snr[kv] += snr_db(t->before, t->x, n);
    s->snr_count += kv;
}

/* log(sum(exp(x))) */
static double log_sum(const float *x, uint32_t n)
{
    float most = x[0];
    double sum = 0;

    for (uint32_t i = 1; i < n; ++i)
        most = x[i] > most ? x[i] : most;
    for (uint32_t i = 0; i < n; i += 1024) {
        const uint32_t end = n - i < 1024 ? n : i + 1024;
        float part = 0;

        for (uint32_t j = i; j < end; ++j)
            part += expf(x[j] - most);
        sum += (double)part;
    }
    return (double)most + log(sum);
}

static uint32_t top_of(const float *x, uint32_t n)
{
    uint32_t top = 0;

    for (uint32_t i = 1; i < n; ++i) {
        if (x[i] > x[top])
            top = i;
    }
    return top;
}

static void compare(struct trial *t, struct subject *s, uint32_t window)
{
    const uint32_t *next = t->tokens + (size_t)window * WINDOW + PREFILL + 1;
    double nll = 0, kl = 0;

    for (uint32_t i = 0; i < FORCED; ++i) {
        const float *want = t->want + (size_t)i * t->vocab, *got = t->got + (size_t)i * t->vocab;
        const float *chance = t->chance + (size_t)i * t->vocab;
        const double sum = log_sum(got, t->vocab);
        double off = 0;

        for (uint32_t j = 0; j < t->vocab; j += 1024) {
            const uint32_t end = t->vocab - j < 1024 ? t->vocab : j + 1024;
            float part = 0;

            for (uint32_t k = j; k < end; ++k)
                part += chance[k] * (want[k] - got[k]);
            off += (double)part;
        }
        off += sum - t->want_sum[i];
        s->every_kl[(size_t)window * FORCED + i] = (float)off;
        kl += off;
        nll += sum - (double)got[next[i]];
        s->agree += top_of(want, t->vocab) == top_of(got, t->vocab);
    }
    s->nll[window] = nll / FORCED;
    s->kl[window] = kl / FORCED;
    s->unequal += memcmp(t->want, t->got, (size_t)FORCED * t->vocab * sizeof(*t->got)) != 0;
}

static void run_window(struct trial *t, uint32_t window)
{
    const uint32_t *tokens = t->tokens + (size_t)window * WINDOW;
    const struct kvw_mem *mem = &t->kv.pool.mem;
    double nll = 0;

    t->seq.tokens = 0;
    must(kve_prefill(t->run, &t->kv, &t->seq, tokens, PREFILL, NULL, NULL), "prefill");
    memcpy(t->exact, mem->base, mem->bytes);
    must(kve_score(t->run, &t->kv, &t->seq, tokens + PREFILL, FORCED, t->want), "score");
    for (uint32_t i = 0; i < FORCED; ++i) {
        const float *want = t->want + (size_t)i * t->vocab;

        t->want_sum[i] = log_sum(want, t->vocab);
        nll += t->want_sum[i] - (double)want[tokens[PREFILL + 1 + i]];
        for (uint32_t j = 0; j < t->vocab; ++j)
            t->chance[(size_t)i * t->vocab + j] = expf(want[j] - (float)t->want_sum[i]);
    }
    t->want_nll[window] = nll / FORCED;
    for (uint32_t i = 0; i < t->subject_count; ++i) {
        memcpy(mem->base, t->exact, mem->bytes);
        for (uint32_t l = 0; l < t->kv.pool.layers; ++l) {
            through(t, &t->subjects[i], l, 0);
            through(t, &t->subjects[i], l, 1);
        }
        t->seq.tokens = PREFILL;
        must(kve_score(t->run, &t->kv, &t->seq, tokens + PREFILL, FORCED, t->got), "score");
        compare(t, &t->subjects[i], window);
    }
}

static int by_double(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static int by_float(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;

    return (x > y) - (x < y);
}

/* The same windows are drawn for every codec: xorshift from a fixed seed. */
static void interval(const double *window, const double *less, uint32_t n, double ends[2])
{
    double *means = room(RESAMPLES, sizeof(*means));
    uint64_t random = 88172645463325252u;

    for (uint32_t r = 0; r < RESAMPLES; ++r) {
        for (uint32_t i = 0; i < n; ++i) {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;

            const uint32_t w = (uint32_t)((random >> 32) * n >> 32);

            means[r] += (window[w] - (less != NULL ? less[w] : 0)) / n;
        }
    }
    qsort(means, RESAMPLES, sizeof(*means), by_double);
    ends[0] = means[RESAMPLES / 40];
    ends[1] = means[RESAMPLES - 1 - RESAMPLES / 40];
    free(means);
}

static double mean_of(const double *x, uint32_t n)
{
    double sum = 0;

    for (uint32_t i = 0; i < n; ++i)
        sum += x[i];
    return sum / n;
}

static double percent(double nll)
{
    return 100 * expm1(nll);
}

/* The fixed-width codec whose noise ours may not exceed, if it is in this run. */
static const struct subject *rival_of(const struct trial *t, const struct subject *s)
{
    const char *name = strncmp(s->name, "e8", 2) == 0   ? "fp8-e4m3"
                       : strncmp(s->name, "e4", 2) == 0 ? "hadamard-int4"
                                                        : "";

    for (uint32_t i = 0; i < t->subject_count; ++i) {
        if (strcmp(t->subjects[i].name, name) == 0)
            return &t->subjects[i];
    }
    return NULL;
}

static void report(struct trial *t, struct subject *s)
{
    const struct subject *rival = rival_of(t, s);
    const uint32_t n = t->windows, all = n * FORCED;
    double nll[2], kl[2];

    interval(s->nll, t->want_nll, n, nll);
    interval(s->kl, NULL, n, kl);
    qsort(s->every_kl, all, sizeof(*s->every_kl), by_float);
    printf("%s\t%.3f\t%.1f\t%.1f\t%+.3f\t%+.3f\t%+.3f\t%.3g\t%.3g\t%.3g\t%.3g\t%.2f\t%u", s->name,
           16 * s->values / s->bits, s->snr[0] / s->snr_count, s->snr[1] / s->snr_count,
           percent(mean_of(s->nll, n) - mean_of(t->want_nll, n)), percent(nll[0]), percent(nll[1]),
           mean_of(s->kl, n), kl[0], kl[1], (double)s->every_kl[(size_t)(0.999 * all)],
           100.0 * (double)s->agree / all, s->unequal);
    if (rival != NULL) {
        interval(s->nll, rival->nll, n, nll);
        interval(s->kl, rival->kl, n, kl);
        printf("\t%+.3f\t%+.3f\t%+.3g\t%+.3g", percent(nll[0]), percent(nll[1]), kl[0], kl[1]);
    }
    printf("\n");
}

static void open_trial(struct trial *t, const char *path, uint32_t threads)
{
    char why[KVE_WHY_BYTES] = "";

    if (kve_gguf_open(&t->gguf, path, why) != KVW_OK ||
        kve_model_open(&t->model, t->gguf, why) != KVW_OK ||
        kve_tok_open(&t->tok, t->gguf, why) != KVW_OK)
        die(path, why);

    const struct kve_model_config *c = kve_model_config(t->model);
    const size_t values = (size_t)PREFILL * c->kv_heads * c->head_dim;

    t->vocab = c->vocab;
    must(kve_run_open(&t->run, t->model, threads, 0, WINDOW), "run");
    must(kve_kvcache_open(&t->kv, c->layers, c->kv_heads, c->head_dim, BLOCK_TOKENS, BLOCKS),
         "cache");
    must(kve_kvcache_alloc(&t->kv, BLOCKS, t->table), "blocks");
    t->seq = (struct kve_seq){.blocks = t->table, .block_count = BLOCKS};
    t->want = room((size_t)FORCED * c->vocab, sizeof(*t->want));
    t->got = room((size_t)FORCED * c->vocab, sizeof(*t->got));
    t->chance = room((size_t)FORCED * c->vocab, sizeof(*t->chance));
    t->exact = room(t->kv.pool.mem.bytes, 1);
    t->stream = room(2 * values + values / 100 + 4096, 1);
    t->scratch = room(32 * values + (1u << 20), 1);
    t->x = room(values, sizeof(*t->x));
    t->before = room(values, sizeof(*t->before));
}

static void close_trial(struct trial *t)
{
    void *const rooms[] = {t->want,    t->got, t->chance, t->exact, t->stream,
                           t->scratch, t->x,   t->before, t->tokens};

    for (size_t i = 0; i < sizeof(rooms) / sizeof(rooms[0]); ++i)
        free(rooms[i]);
    for (uint32_t i = 0; i < t->subject_count; ++i)
        free(t->subjects[i].every_kl);
    kve_kvcache_close(&t->kv);
    kve_run_close(t->run);
    kve_tok_close(t->tok);
    kve_model_close(t->model);
    kve_gguf_close(t->gguf);
}

int main(int argc, char **argv)
{
    static struct trial t;
    uint32_t windows;

    if (argc < 6 || argc - 5 > (int)FILES_MAX)
        die("usage: quality MODEL THREADS WINDOWS CODEC[,CODEC...] NAME=FILE...", "");
    windows = (uint32_t)strtoul(argv[3], NULL, 10);
    if (windows == 0 || windows > WINDOWS_MAX)
        die("WINDOWS is 1 to 256, not", argv[3]);
    open_trial(&t, argv[1], (uint32_t)strtoul(argv[2], NULL, 10));
    cut_windows(&t, windows, argv + 5, (uint32_t)argc - 5);
    for (char *name = strtok(argv[4], ","); name != NULL && t.subject_count < CODECS_MAX;
         name = strtok(NULL, ","))
        add_subject(&t, name);
    for (uint32_t w = 0; w < windows; ++w) {
        run_window(&t, w);
        fprintf(stderr, "window %u of %u\n", w + 1, windows);
    }
    printf("perplexity\t%.4f\ttokens\t%u\n", exp(mean_of(t.want_nll, windows)), windows * FORCED);
    for (uint32_t i = 0; i < t.subject_count; ++i)
        report(&t, &t.subjects[i]);
    close_trial(&t);
    return 0;
}
