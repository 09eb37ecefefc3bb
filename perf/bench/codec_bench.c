/* SPDX-License-Identifier: Apache-2.0 */
/*
 * codec_bench - ratio and speed of every codec that was built, on real K and V, one core.
 *
 *   codec_bench KV_DIR [--codec NAME[,NAME..]] [--size 64K,512K,2M,64M] [--cpu LEVEL] [--runs N]
 *               [--cold]
 *
 * One line of JSON for each codec and size. The values are those of the .kv files in KV_DIR, layer
 * after layer. A size is worked off in calls of at most 1,024 tokens (384 KiB of this model), the
 * way a core would. Each is measured twice, in turns:
 *
 *   core   the values in one run, in canonical order, and no digest: the codec alone, what other
 *          codecs' figures are
 *   whole  what a core pays: laid out as the engine's pool has them, blocks of 16 tokens,
 *          [K|V][head][token][dim]; encoding gathers and digests, decoding digests and scatters
 *
 * Both write the same streams, and both calibrate in the call. Warm: the same bytes again and
 * again; cold: caches flushed of all of them before each run. Every run is followed by one of
 * memcpy over the same bytes, and the medians are taken over the same runs.
 *
 * No codec can do without a digest, so this program is linked with a kvw_digest_update of its own
 * before the real one (ld --wrap), which takes no note of core's bytes.
 */
#include <dirent.h>
#include <immintrin.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../../compress/compress.h"
#include "../../compress/kernels.h"
#include "../../kvwire/kv/dense.h"
#include "kv_file.h"

#define BLOCK_TOKENS 16u
#define FILES_MAX    32u
#define RUNS_MAX     201u
#define SIZES_MAX    8u
#define PIECES_MAX   2048u

enum part { CORE, WHOLE, PARTS };

static const char *const part_names[PARTS] = {"core", "whole"};

/* A part of one layer's K or V that goes through the codec in one call. */
struct piece {
    struct kvw_view from[PARTS], to[PARTS];
    uint32_t kv;
    uint64_t raw;
    unsigned char *stream[PARTS]; /* stream_room bytes, at least bound(raw) */
    uint64_t stream_room, stream_bytes[PARTS];
};

struct bench {
    struct kvp_kv files[FILES_MAX];
    uint32_t file_count;
    uint32_t *blocks;           /* 0, 1, 2 .. shuffled */
    unsigned char *pool[PARTS]; /* one after another, the tensors of the files */
    unsigned char *copy[PARTS]; /* what is decoded; same shape */
    uint64_t tensor_bytes;      /* of one layer's K or V */
    uint32_t tensors;
    void *scratch;
    struct piece pieces[PIECES_MAX];
    uint32_t piece_count;
};

enum way { ENCODE, DECODE, WAYS };

static const char *const way_names[WAYS] = {"encode", "decode"};

struct times {
    double of[PARTS][WAYS][RUNS_MAX], memcpy[RUNS_MAX];
};

/* Named by the linker: callers of kvw_digest_update get the first, the second is the real one. */
void __wrap_kvw_digest_update(struct kvw_digest *d, const void *bytes, size_t n);
void __real_kvw_digest_update(struct kvw_digest *d, const void *bytes, size_t n);

static bool digesting;

void __wrap_kvw_digest_update(struct kvw_digest *d, const void *bytes, size_t n)
{
    if (digesting)
        __real_kvw_digest_update(d, bytes, n);
}

static double seconds(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int fail(const char *what)
{
    fprintf(stderr, "codec_bench: %s\n", what);
    exit(1);
}

static struct kvw_view view_of(const struct bench *b, enum part part, unsigned char *pool,
                               uint32_t tensor, uint32_t tokens)
{
    static const uint32_t first = 0;
    const struct kvp_kv_head *h = &b->files[0].head;
    const uint32_t row = h->head_dim * 2;

    pool += tensor * b->tensor_bytes;
    if (part == CORE)
        return (struct kvw_view){.base = pool,
                                 .blocks = &first,
                                 .block_tokens = h->tokens,
                                 .tokens = tokens,
                                 .heads = h->kv_heads,
                                 .head_bytes = row,
                                 .dtype = KVW_DTYPE_BF16,
                                 .block_stride = b->tensor_bytes,
                                 .token_stride = (uint64_t)h->kv_heads * row,
                                 .head_stride = row};
    return (struct kvw_view){.base = pool,
                             .blocks = b->blocks,
                             .block_tokens = BLOCK_TOKENS,
                             .tokens = tokens,
                             .heads = h->kv_heads,
                             .head_bytes = row,
                             .dtype = KVW_DTYPE_BF16,
                             .block_stride = (uint64_t)h->kv_heads * BLOCK_TOKENS * row,
                             .token_stride = row,
                             .head_stride = (uint64_t)BLOCK_TOKENS * row};
}

static void fill(struct bench *b, enum part part)
{
    const struct kvp_kv_head *h = &b->files[0].head;

    b->pool[part] = aligned_alloc(4096, b->tensors * b->tensor_bytes);
    b->copy[part] = aligned_alloc(4096, b->tensors * b->tensor_bytes);
    if (b->pool[part] == NULL || b->copy[part] == NULL)
        fail("no memory");
    for (uint32_t t = 0; t < b->tensors; ++t) {
        const uint32_t in_file = t % (h->layers * 2);
        const uint16_t *from = kvp_kv_at(&b->files[t / (h->layers * 2)], in_file / 2, in_file % 2);
        const struct kvw_view v = view_of(b, part, b->pool[part], t, h->tokens);

        for (uint32_t i = 0; i < h->tokens * h->kv_heads; ++i)
            memcpy(kvw_view_at(&v, i / h->kv_heads, i % h->kv_heads), from + i * h->head_dim,
                   h->head_dim * 2);
    }
    memset(b->copy[part], 1, b->tensors * b->tensor_bytes);
}

static void load(struct bench *b, const char *dir)
{
    struct dirent **names;
    const int n = scandir(dir, &names, NULL, alphasort);

    for (int i = 0; i < n; ++i) {
        char path[4096];
        const char *end = strrchr(names[i]->d_name, '.');

        if (end == NULL || strcmp(end, ".kv") != 0 || b->file_count == FILES_MAX)
            continue;
        snprintf(path, sizeof(path), "%s/%s", dir, names[i]->d_name);
        if (!kvp_kv_open(&b->files[b->file_count], path) ||
            memcmp(&b->files[b->file_count].head, &b->files[0].head, sizeof(b->files[0].head)) != 0)
            fail("a .kv file is damaged or of another shape than the first");
        ++b->file_count;
    }
    if (b->file_count == 0)
        fail("no .kv file in that folder (perf/bench/kv_dump.sh makes them)");

    const struct kvp_kv_head *h = &b->files[0].head;
    const uint32_t blocks = h->tokens / BLOCK_TOKENS;

    if (h->tokens % BLOCK_TOKENS != 0)
        fail("the files' tokens aren't a multiple of 16");
    b->tensor_bytes = (uint64_t)h->tokens * b->files[0].channels * 2;
    b->tensors = b->file_count * h->layers * 2;
    b->blocks = malloc(blocks * sizeof(*b->blocks));
    if (b->blocks == NULL)
        fail("no memory");
    for (uint32_t i = 0; i < blocks; ++i)
        b->blocks[i] = (i * 7 + 3) % blocks; /* 7 and a power of two: all of them, out of order */
    for (enum part part = 0; part < PARTS; ++part)
        fill(b, part);
}

/* Cut size bytes into calls. */
static uint64_t cut(struct bench *b, const struct kvw_codec_ops *codec, uint64_t size)
{
    const uint32_t token_bytes = b->files[0].channels * 2;
    uint64_t total = 0, scratch = 64;

    for (uint32_t t = 0; t < b->tensors && total < size; ++t) {
        struct piece *p = &b->pieces[t];
        uint64_t raw = size - total < b->tensor_bytes ? size - total : b->tensor_bytes;

        raw = raw / token_bytes * token_bytes;
        if (raw == 0 || t == PIECES_MAX)
            break;
        p->kv = t % 2;
        p->raw = raw;
        for (enum part part = 0; part < PARTS; ++part) {
            p->from[part] = view_of(b, part, b->pool[part], t, (uint32_t)(raw / token_bytes));
            p->to[part] = view_of(b, part, b->copy[part], t, (uint32_t)(raw / token_bytes));
            if (p->stream_room >= codec->bound(raw))
                continue;
            free(p->stream[part]);
            p->stream[part] = aligned_alloc(64, (codec->bound(raw) + 63) / 64 * 64);
            if (p->stream[part] == NULL)
                fail("no memory");
            memset(p->stream[part], 1, codec->bound(raw));
        }
        if (p->stream_room < codec->bound(raw))
            p->stream_room = codec->bound(raw);
        scratch = codec->scratch_bytes(raw) > scratch ? codec->scratch_bytes(raw) : scratch;
        b->piece_count = t + 1;
        total += raw;
    }
    free(b->scratch);
    b->scratch = aligned_alloc(64, (scratch + 63) / 64 * 64);
    memset(b->scratch, 0, scratch);
    return total;
}

static void flush(const void *at, uint64_t bytes)
{
    for (uint64_t i = 0; i < bytes; i += 64)
        _mm_clflush((const char *)at + i);
}

static void flush_all(const struct bench *b, enum part part)
{
    for (uint32_t i = 0; i < b->piece_count; ++i) {
        flush(b->pool[part] + i * b->tensor_bytes, b->pieces[i].raw);
        flush(b->copy[part] + i * b->tensor_bytes, b->pieces[i].raw);
        flush(b->pieces[i].stream[part], b->pieces[i].stream_room);
    }
    _mm_mfence();
}

static uint64_t digests[PARTS][WAYS];

/* Which digest matters to whole only; that it isn't the one in lanes keeps core's kernels
 * off it. */
static void begin(struct kvw_digest *d, enum part part, const struct kvw_view *v)
{
    const kvw_digest_id id = part == WHOLE ? KVW_DIGEST_LANES : KVW_DIGEST_XXH3_64;

    digesting = part == WHOLE;
    if (kvw_digest_begin_chunk(d, id, v) != KVW_OK)
        fail("digest");
}

static void run_encode(struct bench *b, const struct kvw_codec_ops *codec, enum part part)
{
    digests[part][ENCODE] = 0;
    for (uint32_t i = 0; i < b->piece_count; ++i) {
        struct piece *p = &b->pieces[i];
        const struct kvw_codec_args args = {.kv = (uint8_t)p->kv};
        struct kvw_digest d;

        begin(&d, part, &p->from[part]);
        if (codec->encode(&p->from[part], &args, p->stream[part], p->stream_room,
                          &p->stream_bytes[part], &d, b->scratch) != KVW_OK)
            fail("encode");
        digests[part][ENCODE] += part == WHOLE ? kvw_digest_value(&d) : 0;
    }
}

static void run_decode(struct bench *b, const struct kvw_codec_ops *codec, enum part part)
{
    digests[part][DECODE] = 0;
    for (uint32_t i = 0; i < b->piece_count; ++i) {
        struct piece *p = &b->pieces[i];
        struct kvw_digest d;

        begin(&d, part, &p->to[part]);
        if (codec->decode(p->stream[part], p->stream_bytes[part], NULL, &p->to[part], &d,
                          b->scratch) != KVW_OK)
            fail("decode");
        digests[part][DECODE] += part == WHOLE ? kvw_digest_value(&d) : 0;
    }
    if (digests[part][ENCODE] != digests[part][DECODE])
        fail("what was decoded has another digest than what was encoded");
}

static void run(struct bench *b, const struct kvw_codec_ops *codec, enum part part, enum way way)
{
    if (way == ENCODE)
        run_encode(b, codec, part);
    else
        run_decode(b, codec, part);
}

static void run_memcpy(struct bench *b)
{
    for (uint32_t i = 0; i < b->piece_count; ++i)
        memcpy(b->copy[CORE] + i * b->tensor_bytes, b->pool[CORE] + i * b->tensor_bytes,
               b->pieces[i].raw);
}

/* Core has the same streams and values as whole. */
static void compare_parts(const struct bench *b)
{
    for (uint32_t i = 0; i < b->piece_count; ++i) {
        const struct piece *p = &b->pieces[i];
        const struct kvw_view *core = &p->to[CORE], *whole = &p->to[WHOLE];

        if (p->stream_bytes[CORE] != p->stream_bytes[WHOLE] ||
            memcmp(p->stream[CORE], p->stream[WHOLE], p->stream_bytes[CORE]) != 0)
            fail("core's stream is another than whole's");
        for (uint32_t at = 0; at < core->tokens * core->heads; ++at)
            if (memcmp(kvw_view_at(core, at / core->heads, at % core->heads),
                       kvw_view_at(whole, at / core->heads, at % core->heads),
                       core->head_bytes) != 0)
                fail("core's values are others than whole's");
    }
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;

    return x < y ? -1 : x > y;
}

static double median(double *of, uint32_t n)
{
    qsort(of, n, sizeof(*of), by_value);
    return of[n / 2];
}

static void print(const struct bench *b, const struct kvw_codec_ops *codec, struct times *t,
                  uint64_t total, bool cold, uint32_t runs)
{
    const double gb = (double)total * 1e-9;
    uint64_t coded = 0;

    for (uint32_t i = 0; i < b->piece_count; ++i)
        coded += b->pieces[i].stream_bytes[WHOLE];
    printf("{\"codec\":\"%s\",\"cpu\":\"%s\",\"bytes\":%lu,\"calls\":%u,\"cache\":\"%s\","
           "\"ratio\":%.4f",
           codec->name, kvc_kernels()->name, total, b->piece_count, cold ? "cold" : "warm",
           (double)total / (double)coded);
    for (enum part part = 0; part < PARTS; ++part)
        for (enum way way = 0; way < WAYS; ++way) {
            double *of = t->of[part][way];
            const double half = median(of, runs);

            printf(",\"%s_%s_GB_s\":%.2f,\"%s_%s_spread\":[%.2f,%.2f]", part_names[part],
                   way_names[way], gb / half, part_names[part], way_names[way],
                   gb / of[runs * 9 / 10], gb / of[runs / 10]);
        }
    printf(",\"memcpy_GB_s\":%.2f,\"runs\":%u}\n", gb / median(t->memcpy, runs), runs);
    fflush(stdout);
}

static void measure(struct bench *b, const struct kvw_codec_ops *codec, uint64_t size, bool cold,
                    uint32_t runs)
{
    static struct times t;
    const uint64_t total = cut(b, codec, size);
    const uint32_t again =
        cold ? 1 : (uint32_t)(1 + (8u << 20) / total); /* past the clock's grain */
    double start;

    for (enum part part = 0; part < PARTS; ++part) {
        run_encode(b, codec, part);
        run_decode(b, codec, part);
    }
    compare_parts(b);
    run_memcpy(b);
    for (uint32_t r = 0; r < runs; ++r) {
        for (enum way way = 0; way < WAYS; ++way)
            for (enum part part = 0; part < PARTS; ++part) {
                if (cold)
                    flush_all(b, part);
                start = seconds();
                for (uint32_t i = 0; i < again; ++i)
                    run(b, codec, part, way);
                t.of[part][way][r] = (seconds() - start) / again;
            }
        if (cold)
            flush_all(b, CORE);
        start = seconds();
        for (uint32_t i = 0; i < again; ++i)
            run_memcpy(b);
        t.memcpy[r] = (seconds() - start) / again;
    }
    print(b, codec, &t, total, cold, runs);
}

static bool in_list(const char *list, const char *name)
{
    const size_t n = strlen(name);

    for (const char *p = list; p != NULL && *p != '\0'; p += strcspn(p, ",")) {
        p += *p == ',';
        if (strncmp(p, name, n) == 0 && (p[n] == ',' || p[n] == '\0'))
            return true;
    }
    return false;
}

static uint32_t read_sizes(const char *list, uint64_t sizes[SIZES_MAX])
{
    uint32_t n = 0;

    while (*list != '\0' && n < SIZES_MAX) {
        char *end;

        sizes[n] = strtoull(list, &end, 10);
        sizes[n] <<= *end == 'K' ? 10 : *end == 'M' ? 20 : 0;
        if (sizes[n++] == 0)
            fail("a size is a number with K or M after it");
        end += *end == 'K' || *end == 'M';
        list = end + (*end == ',');
    }
    return n;
}

int main(int argc, char **argv)
{
    static struct bench b;
    const char *codecs = NULL, *size_list = "64K,512K,2M,64M", *level = NULL;
    uint64_t sizes[SIZES_MAX];
    uint32_t runs = 21, size_count;
    bool cold = false;

    if (argc < 2)
        fail("usage: codec_bench KV_DIR [--codec NAME,..] [--size 64K,..] [--cpu LEVEL] "
             "[--runs N] [--cold]");
    for (int i = 2; i < argc; ++i) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";

        if (strcmp(argv[i], "--cold") == 0) {
            cold = true;
            continue;
        }
        if (strcmp(argv[i], "--codec") == 0)
            codecs = value;
        else if (strcmp(argv[i], "--size") == 0)
            size_list = value;
        else if (strcmp(argv[i], "--cpu") == 0)
            level = value;
        else if (strcmp(argv[i], "--runs") == 0)
            runs = (uint32_t)strtoul(value, NULL, 10);
        else
            fail("no such option");
        ++i;
    }
    if (runs == 0 || runs > RUNS_MAX)
        fail("--runs is 1 .. 201");
    if (level != NULL) {
        if (kvc_kernels_named(level) == NULL)
            fail("--cpu: this machine has no such level");
        kvc_kernels_force(kvc_kernels_named(level));
    }
    size_count = read_sizes(size_list, sizes);
    load(&b, argv[1]);
    for (uint32_t c = 0; kvc_codecs[c] != NULL; ++c) {
        if ((kvc_codecs[c]->dtypes >> KVW_DTYPE_BF16 & 1) == 0 ||
            (codecs != NULL && !in_list(codecs, kvc_codecs[c]->name)))
            continue;
        for (uint32_t s = 0; s < size_count; ++s)
            measure(&b, kvc_codecs[c], sizes[s], cold, runs);
    }
    return 0;
}
