/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_kernels.cpp - the kernels write the plain C codecs' streams and digests, bring every value
 * back where it belongs and nothing else, and refuse the damaged streams that those refuse. Random
 * chunks, several to a launch, blocks in drawn orders. Prints TAP, a line for each codec and dtype.
 *
 *   test_kernels [FIRST SEED [LAUNCHES [CODEC [VALUES]]]]      as "l0 bf16"; LAUNCHES of each, of chunks of up to
 *                                                              VALUES values and a token
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <memory>
#include <string>

#include "gpu/dev.h"
#include "chunk_jobs.h"
#include "gpu/raw.h"
#include "kernels.h"
#include "launch.h"

extern "C" {
#include "compress/compress.h"
}

#ifndef T_LAUNCHES
#define T_LAUNCHES 100
#endif
#ifndef T_VALUES
#define T_VALUES 45000
#endif

typedef void (*kernel)(const struct kvg_batch b);

/* The kernels of one way and the shared memory of each; codec raw has one, which comes last. */
struct t_way {
    kernel by_chunk;
    size_t by_chunk_shared;
    kernel by_block;
    size_t by_block_shared;
};

/* A codec of a dtype. */
static const struct t_case {
    const char *name;
    const struct kvw_codec_ops *codec;
    kvw_dtype dtype;
    struct t_way encode, decode;
} cases[] = {
#define T_RAW(text, dtype, bytes)                                                                  \
    {                                                                                              \
        text, &kvc_codec_raw, dtype, {NULL, 0, kvg_raw_encode, KVG_RAW_SHARED(bytes)},             \
        {                                                                                          \
            NULL, 0, kvg_raw_decode, KVG_RAW_SHARED(bytes)                                         \
        }                                                                                          \
    }
    T_RAW("raw f32", KVW_DTYPE_F32, 4),
    T_RAW("raw bf16", KVW_DTYPE_BF16, 2),
    T_RAW("raw e4m3", KVW_DTYPE_F8_E4M3, 1),
#define T_EXACT(text, codec, dtype, name)                                                          \
    {                                                                                              \
        text, codec, dtype,                                                                        \
            {kvg_l0_plan_##name, KVG_L0_PLAN_SHARED, kvg_l0_encode_##name, KVG_L0_ENCODE_SHARED},  \
        {                                                                                          \
            kvg_l0_open, KVG_L0_OPEN_SHARED, kvg_l0_decode_##name, KVG_L0_DECODE_SHARED            \
        }                                                                                          \
    }
    T_EXACT("l0 bf16", &kvc_codec_l0, KVW_DTYPE_BF16, bf16),
    T_EXACT("l0 f16", &kvc_codec_l0, KVW_DTYPE_F16, f16),
    T_EXACT("l8 e4m3", &kvc_codec_l8, KVW_DTYPE_F8_E4M3, e4m3),
    T_EXACT("l8 e5m2", &kvc_codec_l8, KVW_DTYPE_F8_E5M2, e5m2),
#define T_BOUNDED(text, codec, dtype, name)                                                        \
    {                                                                                              \
        text, codec, dtype,                                                                        \
            {kvg_e_plan_##name, KVG_E_PLAN_SHARED, kvg_e_encode_##name, KVG_E_ENCODE_SHARED},      \
        {                                                                                          \
            kvg_e_open, KVG_E_OPEN_SHARED, kvg_e_decode_##name, KVG_E_DECODE_SHARED                \
        }                                                                                          \
    }
    T_BOUNDED("e8 bf16", &kvc_codec_e8, KVW_DTYPE_BF16, bf16),
    T_BOUNDED("e8 f16", &kvc_codec_e8, KVW_DTYPE_F16, f16),
    T_BOUNDED("e4 bf16", &kvc_codec_e4, KVW_DTYPE_BF16, bf16),
    T_BOUNDED("e4 f16", &kvc_codec_e4, KVW_DTYPE_F16, f16),
};

/* Of the case that runs. */
static struct {
    uint64_t chunks, launches, bytes, modes[4], damaged, refused;
    uint64_t foretell, wide, exact; /* chunks of E8 and E4; values in their blocks */
} told;
static const struct t_case *now;

static volatile uint64_t watched;

typedef std::vector<std::unique_ptr<t_job>> jobs;

static std::vector<kvg_chunk> chunks_of(const jobs &all, uint32_t *blocks)
{
    std::vector<kvg_chunk> chunks;

    *blocks = 0;
    for (const auto &j : all) {
        chunks.push_back(j->chunk);
        chunks.back().first_block = *blocks;
        *blocks += j->chunk.blocks;
    }
    return chunks;
}

/* As the host does while kernels run: whoever sees the epoch may read the rest of the record. */
static void watch(const std::vector<kvg_chunk> &chunks)
{
    uint64_t sum = 0;

    if (threadIdx.x != 0)
        return;
    for (const kvg_chunk &c : chunks) {
        while (kvg_load_acquire(&c.done->epoch) == 0) {
        }
        sum += c.done->digest + c.done->bytes + c.done->fault;
        for (uint32_t i = 0; i < c.done->bytes; i += 509)
            sum += c.stream[i];
    }
    watched = sum;
}

/* The first kernel of two has a CTA for each chunk, or fewer; the last one for each block. */
static void launch(const jobs &all, simt_options o, const struct t_way &way)
{
    uint32_t blocks, ticket = 0;
    const std::vector<kvg_chunk> c = chunks_of(all, &blocks);
    const kvg_batch b = {c.data(), &ticket, (uint32_t)c.size(), blocks};
    const uint32_t ctas = t_below(3) == 0 ? 1 + t_below(blocks) : blocks;

    if (way.by_chunk != NULL)
        simt_launch(1 + t_below(b.count), KVG_THREADS, way.by_chunk_shared, o,
                    [&] { way.by_chunk(b); });
    simt_launch(ctas + 1, KVG_THREADS, way.by_block_shared, o, [&] {
        if (blockIdx.x == ctas) {
            watch(c);
        } else {
            simt_now->grid_dim = dim3(ctas);
            way.by_block(b);
        }
    });
}

#define EXPECT(x)                                                                                  \
    if (!(x))                                                                                      \
    return #x

/* The parts of a coded stream of E8 or E4. */
struct t_e_parts {
    uint32_t channels, tokens, before, behind, blocks; /* before, behind: exact tokens */
    uint32_t bits, entries, exact, first;
};

static struct t_e_parts e_parts_of(const t_job *j)
{
    uint32_t head[8];
    struct t_e_parts p;

    memcpy(head, j->want.data(), sizeof(head));
    p.channels = head[1];
    p.tokens = head[2];
    p.before = head[3];
    p.behind = head[4];
    p.blocks = head[5];
    p.bits = 32 + (2 * p.channels + 15) / 16 * 16;
    p.entries = p.bits + (p.channels + 15) / 16 * 16;
    p.exact = p.entries + (8 * p.blocks + 15) / 16 * 16;
    p.first = p.exact + ((p.before + p.behind) * 2 * p.channels + 15) / 16 * 16;
    return p;
}

static void tell_of(const t_job *j)
{
    const struct t_e_parts p = e_parts_of(j);
    bool foretells = false;

    for (uint32_t i = 0; i < p.channels; ++i)
        foretells = foretells || j->want[p.bits + i] >= 16;
    told.foretell += foretells;
    for (uint32_t i = 0; i < p.blocks; ++i) {
        uint16_t counts[2];

        memcpy(counts, &j->want[p.entries + 8 * i + 4], 4);
        told.wide += counts[0];
        told.exact += counts[1];
    }
}

/* What went wrong, or NULL. */
static const char *encode_all(const jobs &all, simt_options o)
{
    for (const auto &j : all)
        j->prepare(j->from.v, j->room, 7);
    launch(all, o, now->encode);
    for (const auto &j : all) {
        EXPECT(j->done.epoch == 7);
        EXPECT(j->done.bytes == j->want.size());
        EXPECT(memcmp(j->stream, j->want.data(), j->want.size()) == 0);
        EXPECT(j->done.digest == j->want_digest);
        ++told.modes[now->codec == &kvc_codec_raw ? 0 : j->want[0] & 3];
        if (j->is_lossy() && j->want[0] != 0)
            tell_of(j.get());
    }
    return NULL;
}

/* What the plain C code makes of the whole pool's bytes. */
static std::vector<unsigned char> decoded_plain(t_job *j)
{
    const std::vector<unsigned char> clean = j->to.bytes;
    std::vector<unsigned char> decoded;
    uint64_t digest = 0;

    if (!j->decode_plain(j->want, &digest) || digest != j->want_digest)
        abort();
    decoded = j->to.bytes;
    std::copy(clean.begin(), clean.end(), j->to.bytes.begin()); /* which don't move */
    return decoded;
}

static const char *decode_all(const jobs &all, simt_options o)
{
    std::vector<std::vector<unsigned char>> plain;

    for (const auto &j : all) {
        plain.push_back(decoded_plain(j.get()));
        j->prepare(j->to.v, (uint32_t)j->want.size(), 8);
    }
    launch(all, o, now->decode);
    for (const auto &j : all) {
        EXPECT(j->done.epoch == 8);
        EXPECT(j->done.fault == 0);
        EXPECT(j->done.digest == j->want_digest);
        EXPECT(j->to.bytes == plain[(size_t)(&j - &all[0])]);
        EXPECT(j->is_lossy() || t_equal(j->from, j->to));
    }
    return NULL;
}

/* Where the last block begins, of how many values, and how long it is. */
static uint32_t last_block(const t_job *j, uint32_t *n, uint32_t *bytes)
{
    const kvg_chunk &c = j->chunk;
    const uint32_t columns = j->want[0] == 2 ? (c.columns + 15) / 16 * 16 : 0;
    const uint32_t first = 16 + columns + (4 * c.blocks + 15) / 16 * 16;
    uint32_t ends[2] = {0, 0};

    for (uint32_t i = c.blocks < 2 ? 1 : 0; i < 2; ++i)
        memcpy(&ends[i], j->stream + 16 + columns + 4 * (c.blocks - 2 + i), 4);
    *n = c.values - (c.blocks - 1) * c.unit;
    *bytes = ends[1] - (ends[0] + 15) / 16 * 16;
    return first + (ends[0] + 15) / 16 * 16;
}

/* All that pads the low bytes and group 0 of the last block becomes ones. */
static void damage_padding(t_job *j)
{
    const kvg_chunk &c = j->chunk;
    const uint32_t kept = now->dtype == KVW_DTYPE_BF16      ? 0
                          : now->dtype == KVW_DTYPE_F8_E4M3 ? 4
                                                            : 3;
    uint32_t n, bytes;
    const uint32_t at = last_block(j, &n, &bytes),
                   low = c.value_bytes == 2 ? (n + 15) / 16 * 16 : 0;
    const uint32_t plane = (n + 127) / 128 * 16;

    if (bytes >= c.value_bytes * n)
        return;
    if (c.value_bytes == 2)
        memset(j->stream + at + n, 0xff, low - n);
    for (uint32_t p = 0; p < 2 + kept; ++p)
        memset(j->stream + at + low + p * plane + (n + 7) / 8, 0xff, plane - (n + 7) / 8);
}

/* A byte of what pads the last block, if anything does. */
static void damage_behind(t_job *j)
{
    uint32_t n, bytes;
    const uint32_t at = last_block(j, &n, &bytes), pad = (bytes + 15) / 16 * 16 - bytes;

    if (pad > 0)
        j->stream[at + bytes + t_below(pad)] = 1;
}

/* A block's entry, or what pads one of the parts or a block, gets another value. */
static void damage_e(t_job *j)
{
    const struct t_e_parts p = e_parts_of(j);
    const uint32_t i = t_below(p.blocks);
    const uint32_t at[] = {p.entries + 8 * i + 4 + t_below(4),
                           p.entries + 8 * i + t_below(2),
                           p.bits - 1,
                           p.entries - 1,
                           p.exact - 1,
                           p.first - 1,
                           (uint32_t)j->want.size() - 1,
                           p.bits + t_below(p.channels)};

    j->stream[at[t_below(8)]] ^= (unsigned char)(1u << t_below(t_below(2) == 0 ? 8 : 1));
}

/* The block with the most wide symbols, of which many threads have some then. */
static uint32_t widest_block(const t_job *j, const struct t_e_parts &p)
{
    uint32_t widest = 0, most = 0;

    for (uint32_t i = 0; i < p.blocks; ++i) {
        const uint32_t wide = j->want[p.entries + 8 * i + 4] | j->want[p.entries + 8 * i + 5] << 8;

        widest = wide > most ? i : widest;
        most = std::max(most, wide);
    }
    return widest;
}

/* Of that block the lows become ones, or the wide symbols, or what pads lows and group 0. */
static void damage_e_block(t_job *j)
{
    const struct t_e_parts p = e_parts_of(j);
    const uint32_t of_unit = 8192 / p.channels, i = widest_block(j, p);
    const uint32_t unit = (p.before / of_unit + i) * of_unit;
    const uint32_t from = std::max(unit, p.before),
                   to = std::min(unit + of_unit, p.tokens - p.behind);
    const uint32_t n = (to - from) * p.channels, plane = (n + 127) / 128 * 16;
    uint32_t begin = 0, end, low_bits = 0;
    uint16_t counts[2];

    if (i > 0)
        memcpy(&begin, j->stream + p.entries + 8 * (i - 1), 4);
    memcpy(&end, j->stream + p.entries + 8 * i, 4);
    memcpy(counts, j->stream + p.entries + 8 * i + 4, 4);
    for (uint32_t c = 0; c < p.channels; ++c)
        low_bits += (to - from) * (j->stream[p.bits + c] & 15u);

    unsigned char *block = j->stream + p.first + (begin + 15) / 16 * 16;
    const uint32_t lows = (low_bits + 7) / 8, planes = (lows + 15) / 16 * 16;

    switch (t_below(3)) {
    case 0:
        memset(j->stream + p.first + end - 2 * counts[1] - counts[0], 0xff, counts[0]);
        break;
    case 1:
        memset(block, 0xff, low_bits / 8);
        break;
    default:
        memset(block + lows, 0xff, planes - lows);
        for (uint32_t g = 0; g < 2; ++g)
            memset(block + planes + g * plane + (n + 7) / 8, 0xff, plane - (n + 7) / 8);
    }
}

/* A few bits turned; or cut, or longer by a few bytes; or a field with any value. */
static uint32_t damage(t_job *j)
{
    uint32_t n = (uint32_t)j->want.size();

    memcpy(j->stream, j->want.data(), n);
    if (j->is_lossy() && j->want[0] != 0 && t_below(2) == 0) {
        t_below(3) == 0 ? damage_e(j) : damage_e_block(j);
        return n;
    }
    switch (t_below(5)) {
    case 0:
        n = t_below(3) == 0 ? t_below(n) : n - std::min(n, t_below(40));
        break;
    case 1: /* the head, or what follows it */
        j->stream[t_below(std::min(n, 600u))] = (unsigned char)t_draw();
        break;
    case 2:
        if (now->codec != &kvc_codec_raw && !j->is_lossy() && j->want[0] != 0)
            t_below(2) == 0 ? damage_padding(j) : damage_behind(j);
        break;
    default:
        for (uint32_t k = 1 + t_below(3); k > 0; --k)
            j->stream[t_below(n)] ^= (unsigned char)(1u << t_below(8));
    }
    return n;
}

static const char *decode_damaged(const jobs &all, simt_options o)
{
    std::vector<bool> sound;

    for (const auto &j : all) {
        const uint32_t n = damage(j.get());
        const std::vector<unsigned char> copy(j->stream, j->stream + n);

        sound.push_back(j->decode_plain(copy, &j->want_digest));
        j->prepare(j->to.v, n, 9);
        ++told.damaged;
        told.refused += !sound.back();
    }
    launch(all, o, now->decode);
    for (size_t i = 0; i < all.size(); ++i) {
        EXPECT(all[i]->done.epoch == 9);
        EXPECT((all[i]->done.fault == 0) == sound[i]);
        EXPECT(!sound[i] || all[i]->done.digest == all[i]->want_digest);
    }
    return NULL;
}

static uint32_t values_max = T_VALUES;

static const char *run(uint64_t seed)
{
    const char *why;
    jobs all;

    t_seed(seed);
    for (uint32_t n = 1 + t_below(4); n > 0; --n) {
        all.emplace_back(new t_job());
        all.back()->make(now->codec, now->dtype, values_max);
        told.bytes += kvw_view_bytes(&all.back()->from.v);
        ++told.chunks;
    }

    const simt_options o = {seed % 3 == 0 ? 0 : seed, 2 + t_below(3)}; /* one may be watch() */

    ++told.launches;
    why = encode_all(all, o);
    if (why == NULL)
        why = decode_all(all, o);
    return why == NULL ? decode_damaged(all, o) : why;
}

static bool run_case(const struct t_case *c, size_t index, uint64_t first, uint64_t count)
{
    bool ok = true;

    now = c;
    told = {};
    for (uint64_t seed = first; seed < first + count && ok; ++seed) {
        const char *why = run(seed * 16 + index);

        ok = why == NULL && simt_races() == 0;
        if (why != NULL)
            printf("# seed %llu: not %s\n", (unsigned long long)seed, why);
        else if (!ok)
            printf("# seed %llu: %u races\n", (unsigned long long)seed, simt_races());
    }
    printf("%sok %zu - %s: streams, digests, values and verdicts are those of the plain C code\n",
           ok ? "" : "not ", index + 1, c->name);
    printf("# %llu chunks (%.1f MB) in %llu launches; stored %llu, one window %llu, columns %llu, "
           "book %llu; %llu damaged, %llu refused; %u patterns\n",
           (unsigned long long)told.chunks, (double)told.bytes / 1e6,
           (unsigned long long)told.launches, (unsigned long long)told.modes[0],
           (unsigned long long)told.modes[1], (unsigned long long)told.modes[2],
           (unsigned long long)told.modes[3], (unsigned long long)told.damaged,
           (unsigned long long)told.refused, t_patterns(c->dtype));
    if (c->codec->budget != KVW_BUDGET_EXACT)
        printf("# mode 1 is coded: %llu foretell; %llu wide symbols, %llu exact values\n",
               (unsigned long long)told.foretell, (unsigned long long)told.wide,
               (unsigned long long)told.exact);
    return ok;
}

int main(int argc, char **argv)
{
    const size_t count = sizeof(cases) / sizeof(cases[0]);
    const uint64_t first = argc > 1 ? strtoull(argv[1], NULL, 0) : 1;
    const uint64_t launches = argc > 2 ? strtoull(argv[2], NULL, 0) : T_LAUNCHES;
    bool ok = true;

    if (argc > 4)
        values_max = (uint32_t)strtoul(argv[4], NULL, 0);
    setenv("KVC_CPU", "scalar", 1);
    printf("1..%zu\n", count);
    for (size_t i = 0; i < count; ++i)
        if (argc <= 3 || strcmp(argv[3], cases[i].name) == 0)
            ok = run_case(&cases[i], i, first, launches) && ok;
        else
            printf("ok %zu # SKIP not asked for\n", i + 1);
    return !ok;
}
