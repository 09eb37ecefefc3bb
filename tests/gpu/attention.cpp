/* SPDX-License-Identifier: Apache-2.0 */
/* attention.cpp - attention's kernels against its definition in double, of pages in bf16 and fp8;
 * and fp8 as kvg_turn_e4m3 makes it. */
#include "attention.h"

#include <math.h>

#include <vector>

#include "e4m3.h"
#include "gpu/dev.h"
#include "gpu/step_parts.h"
#include "kernels.h"

static double wide(uint16_t bits)
{
    return __uint_as_float((uint32_t)bits << 16);
}
static double wide(uint8_t bits)
{
    return t_e4m3_value(bits);
}

static void narrow(uint16_t &to, float v)
{
    to = kvg_to_bf16(v);
}
static void narrow(uint8_t &to, float v)
{
    to = t_e4m3_nearest(v);
}

/* Any values of up to +-2. */
template <typename T> static void fill(std::vector<T> &values, uint32_t &random)
{
    for (T &bits : values) {
        random = random * 1664525 + 1013904223;
        narrow(bits, (float)(int32_t)random / 0x1p30f);
    }
}

/* Of K and V: bf16 has none. */
template <typename KV> static float scale_of(uint32_t kv)
{
    return sizeof(KV) == 2 ? 1.0f : kv == 0 ? 0.75f : 1.375f;
}

/* One query at the end of so many keys, all of them random, in pages in any order. */
template <typename KV> struct attention {
    static const uint32_t heads = 4, kv_heads = 2, dim = 40, keys = 150, block = 8, blocks = 19;
    std::vector<KV> pages; /* [block][K|V][token][head][dim] */
    std::vector<uint16_t> q, out;
    std::vector<float> part_max, part_sum, part_out;
    uint32_t table[blocks];
    struct kvg_attend p;

    explicit attention(uint32_t window)
        : pages(blocks * 2 * block * kv_heads * dim), q(heads * dim), out(heads * dim),
          part_max(heads * blocks), part_sum(heads * blocks), part_out(heads * blocks * dim), p()
    {
        uint32_t random = 1;

        fill(pages, random);
        fill(q, random);
        for (uint32_t i = 0; i < blocks; ++i)
            table[i] = i * 7 % blocks;
        p.q = q.data();
        p.out = out.data();
        p.kv = {(unsigned char *)pages.data(),
                (unsigned char *)(pages.data() + block * kv_heads * dim),
                table,
                2 * sizeof(KV) * block * kv_heads * dim,
                sizeof(KV) * kv_heads * dim,
                sizeof(KV) * dim,
                block};
        p.tokens = 1;
        p.first = keys - 1;
        p.heads = heads;
        p.group = heads / kv_heads;
        p.dim = dim;
        p.window = window;
        p.scale = 0.2f * scale_of<KV>(0);
        p.out_scale = scale_of<KV>(1);
        p.part_max = part_max.data();
        p.part_sum = part_sum.data();
        p.part_out = part_out.data();
    }

    /* K (0) or V (1) of a key. */
    const KV *row(uint32_t kv, uint32_t key, uint32_t head) const
    {
        return &pages[(((table[key / block] * 2 + kv) * block + key % block) * kv_heads +
                       head / (heads / kv_heads)) *
                      dim];
    }

    /* Whether out is what the definition gives in double, but for its rounding to bf16. The scales
     * are in p.scale and p.out_scale, as the kernels have it: where they come from is a pass's. */
    bool is_right(void) const
    {
        const uint32_t from = p.window == 0 ? 0 : keys - p.window;
        bool ok = true;

        for (uint32_t h = 0; h < heads; ++h) {
            std::vector<double> sums(dim);
            double all = 0;

            for (uint32_t key = from; key < keys; ++key) {
                double score = 0;

                for (uint32_t d = 0; d < dim; ++d)
                    score += wide(q[h * dim + d]) * wide(row(0, key, h)[d]) * p.scale;
                all += exp(score);
                for (uint32_t d = 0; d < dim; ++d)
                    sums[d] += exp(score) * wide(row(1, key, h)[d]);
            }
            for (uint32_t d = 0; d < dim; ++d)
                ok = ok && fabs(wide(out[h * dim + d]) - sums[d] / all * p.out_scale) < 0.004;
        }
        return ok;
    }
};

/* By one warp a head, and in segments, of which there are three without a window. */
template <typename KV> static bool attends(uint32_t window)
{
    attention<KV> whole(window), parts(window);
    const uint32_t keys = window == 0 ? whole.keys : window, heads = whole.heads;
    const uint32_t segments = (keys + KVG_KEY_SEGMENT - 1) / KVG_KEY_SEGMENT;
    const bool fp8 = sizeof(KV) == 1;

    simt_launch(kvg_warps_grid(heads), KVG_STEP_THREADS, KVG_ATTEND_SHARED, t_options(),
                [&] { fp8 ? kvg_attend_e4m3(whole.p) : kvg_attend(whole.p); });
    simt_launch(kvg_warps_grid(segments * heads), KVG_STEP_THREADS, KVG_ATTEND_SHARED, t_options(),
                [&] { fp8 ? kvg_attend_part_e4m3(parts.p) : kvg_attend_part(parts.p); });
    simt_launch(kvg_warps_grid(heads), KVG_STEP_THREADS, 0, t_options(),
                [&] { kvg_attend_join(parts.p); });
    return whole.is_right() && parts.is_right();
}

bool t_attends(bool fp8, uint32_t window)
{
    return fp8 ? attends<uint8_t>(window) : attends<uint16_t>(window);
}

/* Many queries by tensor cores, against the definition in double: causal, with a window or none,
 * heads of a width that the tile is wider than, and rows that end in the middle of a CTA's. */
template <typename KV> struct prompt {
    static const uint32_t heads = 6, kv_heads = 2, group = 3, tokens = 37, before = 21, block = 8,
                          blocks = 8;
    uint32_t dim;
    std::vector<KV> pages;
    std::vector<uint16_t> q, out;
    uint32_t table[blocks];
    struct kvg_attend p;

    prompt(uint32_t dim, uint32_t window)
        : dim(dim), pages(blocks * 2 * block * kv_heads * dim), q(tokens * heads * dim),
          out(q.size(), 0xffff), p()
    {
        uint32_t random = dim;

        fill(pages, random);
        fill(q, random);
        for (uint32_t i = 0; i < blocks; ++i)
            table[i] = i * 3 % blocks;
        p.q = q.data();
        p.out = out.data();
        p.kv = {(unsigned char *)pages.data(),
                (unsigned char *)(pages.data() + block * kv_heads * dim),
                table,
                2 * sizeof(KV) * block * kv_heads * dim,
                sizeof(KV) * kv_heads * dim,
                sizeof(KV) * dim,
                block};
        p.tokens = tokens;
        p.first = before;
        p.heads = heads;
        p.group = group;
        p.dim = dim;
        p.window = window;
        p.scale = 0.2f * scale_of<KV>(0);
        p.out_scale = scale_of<KV>(1);
    }

    const KV *row(uint32_t kv, uint32_t key, uint32_t head) const
    {
        return &pages[(((table[key / block] * 2 + kv) * block + key % block) * kv_heads +
                       head / group) *
                      dim];
    }

    /* How far out is from the definition, at most. */
    double worst(void) const
    {
        double most = 0;

        for (uint32_t i = 0; i < tokens * heads; ++i) {
            const uint32_t at = before + i / heads, head = i % heads;
            const uint32_t from = p.window == 0 || at < p.window ? 0 : at + 1 - p.window;
            std::vector<double> sums(dim);
            double all = 0;

            for (uint32_t key = from; key <= at; ++key) {
                double score = 0;

                for (uint32_t d = 0; d < dim; ++d)
                    score += wide(q[i * dim + d]) * wide(row(0, key, head)[d]) * p.scale;
                all += exp(score);
                for (uint32_t d = 0; d < dim; ++d)
                    sums[d] += exp(score) * wide(row(1, key, head)[d]);
            }
            for (uint32_t d = 0; d < dim; ++d)
                most = fmax(most, fabs(wide(out[i * dim + d]) - sums[d] / all * p.out_scale));
        }
        return most;
    }
};

/* 1 where something isn't a number. */
template <typename KV> static double attends_many(const struct t_many &m)
{
    prompt<KV> r(m.dim, m.window);
    const uint32_t grid = kvg_tiles_grid(r.tokens, r.heads, r.group);
    const bool fp8 = sizeof(KV) == 1;

    if (m.dim <= 64)
        simt_launch(grid, KVG_STEP_THREADS, KVG_TILE_SHARED(64), t_options(),
                    [&] { fp8 ? kvg_attend_64_e4m3(r.p) : kvg_attend_64(r.p); });
    else
        simt_launch(grid, KVG_STEP_THREADS, KVG_TILE_SHARED(128), t_options(),
                    [&] { fp8 ? kvg_attend_128_e4m3(r.p) : kvg_attend_128(r.p); });
    r.p.window = m.claimed_window;
    r.p.out_scale *= m.claimed_scale;

    const double d = r.worst();

    return d < 1 ? d : 1;
}

double t_attends_many(bool fp8, const struct t_many &m)
{
    return fp8 ? attends_many<uint8_t>(m) : attends_many<uint16_t>(m);
}

/* ---- rounding -------------------------------------------------------------------------------- */

/* One head of V, of such values, to a page. A bias is added, so there is no -0. */
static bool narrows(const std::vector<float> &v, float scale)
{
    const uint32_t dim = 8, tokens = (uint32_t)v.size() / dim, block = 16;
    std::vector<float> qkv(tokens * 3 * dim);
    std::vector<uint16_t> q(tokens * dim);
    std::vector<uint8_t> pages((tokens + block) * 2 * dim, 0xff);
    std::vector<uint32_t> table(tokens / block + 1);
    struct kvg_turn p = {};
    bool ok = true;

    for (uint32_t i = 0; i < table.size(); ++i)
        table[i] = i;
    for (uint32_t i = 0; i < v.size(); ++i)
        qkv[i / dim * 3 * dim + 2 * dim + i % dim] = v[i];
    p.qkv = qkv.data();
    p.q = q.data();
    p.kv = {pages.data(), pages.data() + dim, table.data(), 2 * dim * block, 2 * dim, dim, block};
    p.tokens = tokens;
    p.heads = p.kv_heads = 1;
    p.dim = dim;
    p.k_scale = 1;
    p.v_scale = scale;
    simt_launch(kvg_warps_grid(3 * tokens), KVG_STEP_THREADS, KVG_TURN_SHARED, t_options(),
                [=] { kvg_turn_e4m3(p); });
    for (uint32_t i = 0; i < v.size(); ++i)
        ok =
            ok && pages[i / dim * 2 * dim + dim + i % dim] == t_e4m3_nearest((v[i] + 0.0f) / scale);
    return ok;
}

bool t_narrows(void)
{
    bool ok = true;
    std::vector<float> v = {0.0f, -0.0f, INFINITY, -INFINITY, NAN, 1e-30f, -1e30f, 0x1p-10f};

    for (uint32_t i = 0; i <= T_E4M3_LARGEST; ++i) { /* it, and where it goes over to the next */
        const float at = (float)t_e4m3_value(i), next = (float)t_e4m3_value(i + 1);
        const float middle = i < T_E4M3_LARGEST ? (at + next) / 2 : 464.0f;

        for (float f : {at, middle})
            for (float sign : {1.0f, -1.0f})
                for (float to : {f, nextafterf(f, 0), nextafterf(f, INFINITY), 1.07f * f})
                    v.push_back(sign * to);
    }
    for (uint32_t i = 0; i < 256; ++i) {
        const double want = t_e4m3_value((uint8_t)i), got = kvg_wide((uint8_t)i);

        ok = ok && (isnan(want) ? isnan(got) : want == got);
    }
    return ok && narrows(v, 1) && narrows(v, 0.3f);
}
