/* SPDX-License-Identifier: Apache-2.0 */
#include "chunk_jobs.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>

extern "C" {
#include "compress/compress.h"
#include "kvwire/digest.h"
}

static uint64_t random_state;
static uint32_t patterns[8]; /* of each dtype */

uint32_t t_patterns(kvw_dtype dtype)
{
    return patterns[dtype];
}

void t_seed(uint64_t seed)
{
    random_state = seed * 0x9e3779b97f4a7c15ull + 77;
    for (int i = 0; i < 5; ++i)
        t_draw();
}

uint32_t t_draw(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)(random_state >> 16);
}

uint32_t t_below(uint32_t n)
{
    return t_draw() % n;
}

static float gauss(void)
{
    float s = 0;

    for (int i = 0; i < 6; ++i)
        s += (float)(t_draw() & 0xffff) / 65536.0f - 0.5f;
    return s * 1.4f;
}

/* layout: bit 0: token before head in memory; bit 2: gaps; bit 3: of any size. */
void t_pool::make(uint32_t tokens, uint32_t heads, uint32_t head_dim, kvw_dtype dtype,
                  unsigned layout)
{
    const uint32_t head_bytes = head_dim * kvw_dtype_bytes(dtype);
    const uint32_t bt = 1 + t_below(20), first = t_below(40);
    const uint32_t need = (first + tokens + bt - 1) / bt, total = need + 3;
    const uint32_t gap = (layout & 4 ? t_below(20) : 0) * (layout & 8 ? 1 : kvw_dtype_bytes(dtype));

    v = kvw_view();
    v.block_tokens = bt;
    v.first_token = first;
    v.tokens = tokens;
    v.heads = heads;
    v.head_bytes = head_bytes;
    v.dtype = dtype;
    if (layout & 1) {
        v.head_stride = head_bytes + gap;
        v.token_stride = heads * v.head_stride;
        v.block_stride = bt * v.token_stride + gap;
    } else {
        v.token_stride = head_bytes + gap;
        v.head_stride = bt * v.token_stride;
        v.block_stride = heads * v.head_stride + gap;
    }
    bytes.assign(total * v.block_stride + 64, 0xcc);
    v.base = (unsigned char *)(((uintptr_t)bytes.data() + 15) & ~(uintptr_t)15);
    v.base += layout & 8 ? t_below(16) : 0;
    blocks.resize(total);
    for (uint32_t i = 0; i < total; ++i)
        blocks[i] = i;
    for (uint32_t i = total; i > 1; --i)
        std::swap(blocks[i - 1], blocks[t_below(i)]);
    v.blocks = blocks.data();
}

/* A float cut to the dtype's bits: too small ones to 0, too large ones to its largest. */
static uint32_t cut(float f, kvw_dtype dtype)
{
    static const struct {
        uint32_t exponent, mantissa;
    } bits[] = {{0, 0}, {8, 23}, {5, 10}, {8, 7}, {4, 3}, {5, 2}};
    const uint32_t e = bits[dtype].exponent, m = bits[dtype].mantissa;
    uint32_t u;

    memcpy(&u, &f, 4);

    const int exponent = (int)(u >> 23 & 0xff) - 127 + (1 << (e - 1)) - 1;
    const uint32_t sign = (u >> 31) << (e + m), part = (u & 0x7fffff) >> (23 - m);

    if (exponent <= 0)
        return sign;
    return exponent >= 1 << e ? sign | ((1u << (e + m)) - 1)
                              : sign | (uint32_t)exponent << m | part;
}

static uint32_t value_of(enum t_kind kind, float f, kvw_dtype dtype)
{
    static const uint32_t infinity[] = {0, 0x7f800000, 0x7c00, 0x7f80, 0x7e, 0x7c};
    static const unsigned exponent_at[] = {0, 23, 10, 7, 3, 2};
    const uint32_t b = cut(f, dtype);

    switch (kind) {
    case T_ONE_VALUE:
        return cut(1.0f, dtype);
    case T_ALL_PATTERNS: /* each in turn, among others, so that the chunk is coded */
        return t_below(16) == 0 ? patterns[dtype]++ : b;
    case T_WILD:
        return t_below(300) == 0 ? b ^ t_below(64) << exponent_at[dtype] : b;
    case T_SPECIAL: /* infinities and NaNs, zeros, any bits */
        if (t_below(200) == 0)
            return infinity[dtype] | t_below(2) << (8 * kvw_dtype_bytes(dtype) - 1) | t_below(3);
        return t_below(100) == 0 ? 0 : t_below(900) == 0 ? t_draw() : b;
    default:
        return b;
    }
}

void t_pool::fill(enum t_kind kind)
{
    const uint32_t bytes_each = kvw_dtype_bytes(v.dtype),
                   columns = v.heads * v.head_bytes / bytes_each;
    const uint32_t any_bits = kind != T_ANY_BITS ? 0 : t_below(2) == 0 ? v.tokens : v.tokens / 4;
    static const int least[] = {0, -8, -2, -8, 2, -2};                     /* of a scale, in bits */
    const uint32_t spread = kind == T_WILD ? 24 : t_below(3) == 0 ? 5 : 1; /* of scales, in bits */
    const uint32_t burst = v.tokens / 2, past = kind == T_BURST ? burst + v.tokens / 7 + 1 : 0;
    std::vector<float> scale(columns), was(columns);

    for (auto &s : scale)
        s = spread > 1 && t_below(50) == 0 ? 0.0f
                                           : ldexpf(1.0f, (int)t_below(spread) + least[v.dtype]);
    for (uint32_t t = 0; t < v.tokens; ++t)
        for (uint32_t c = 0; c < columns; ++c) {
            const uint32_t at = c * bytes_each;
            uint32_t b = t_draw();

            was[c] = gauss() * scale[c] + (kind == T_FOLLOWS ? 0.9f * was[c] : 0);
            if (t >= burst && t < past) /* infinite, NaN, or not far from that */
                b |= v.dtype == KVW_DTYPE_BF16 ? 0x6000u : 0x7800u;
            else if (t >= any_bits)
                b = value_of(kind, was[c], v.dtype);

            memcpy(kvw_view_at(&v, t, at / v.head_bytes) + at % v.head_bytes, &b, bytes_each);
        }
}

bool t_equal(const struct t_pool &p, const struct t_pool &q)
{
    std::vector<unsigned char> rest = q.bytes;
    const size_t base = (size_t)(q.v.base - q.bytes.data());

    for (uint32_t t = 0; t < p.v.tokens; ++t)
        for (uint32_t h = 0; h < p.v.heads; ++h) {
            const size_t at = base + (size_t)(kvw_view_at(&q.v, t, h) - q.v.base);

            if (memcmp(kvw_view_at(&p.v, t, h), &q.bytes[at], p.v.head_bytes) != 0)
                return false;
            memset(&rest[at], 0xcc, p.v.head_bytes);
        }
    return std::all_of(rest.begin(), rest.end(), [](unsigned char b) { return b == 0xcc; });
}

t_job::t_job()
    : codec(NULL), want_digest(0), stream(NULL), room(0), table(NULL), spread(NULL), state(NULL)
{
    chunk = kvg_chunk();
    done = kvg_done();
    args = kvw_codec_args();
}

t_job::~t_job()
{
    drop();
    free(stream);
}

void t_job::drop(void)
{
    free(table);
    free(spread);
    free(state);
}

/* Columns of powers of two and not, few and very many; tokens around the sample's 32. */
void t_job::make(const struct kvw_codec_ops *with, kvw_dtype dtype, uint32_t values)
{
    const bool raw_codec = with == &kvc_codec_raw;
    static const uint32_t dims[] = {1, 4, 8, 32, 40, 64, 127, 128};
    uint32_t head_dim = dims[t_below(8)], heads = 1 + t_below(9);

    if (t_below(12) == 0) { /* a token about as long as a block, or longer */
        head_dim = 200;
        heads = 39 + t_below(5);
    }

    const uint32_t most = values / (head_dim * heads) + 1;
    const uint32_t tokens =
        t_below(5) == 0 && most > 40 ? 1 + t_below(40) : 1 + t_below(std::min(most, 400u));
    const enum t_kind kind = (enum t_kind)t_below(T_KINDS);

    codec = with;
    from.make(tokens, heads, head_dim, dtype, t_below(raw_codec ? 16 : 8));
    to.make(tokens, heads, head_dim, dtype, t_below(raw_codec ? 16 : 8));
    from.fill(kind);

    if (is_lossy())
        draw_args(tokens);
    else if (!raw_codec && t_below(4) == 0 && heads * head_dim <= 8192)
        draw_book(dtype);
    encode_plain();
}

void t_job::draw_book(kvw_dtype dtype)
{
    const uint32_t columns = from.v.heads * from.v.head_bytes / kvw_dtype_bytes(dtype);

    book.resize(1 + columns);
    /* Starts of 105 to 119 suit most kinds of bf16, those around 0 to 3 all others. */
    book[0] = (uint8_t)(t_below(4) + (dtype == KVW_DTYPE_BF16      ? 58
                                      : dtype == KVW_DTYPE_F8_E4M3 ? 202
                                                                   : 207));
    for (uint32_t i = 0; i < columns; ++i) {
        const uint32_t place = 47 + t_below(dtype == KVW_DTYPE_BF16 ? 12 : 5);

        book[1 + i] = /* not all zero: no such book with an origin (SPEC.md 3.2) */
            i > 0 && t_below(dtype == KVW_DTYPE_BF16 ? 20 : 500) == 0
                ? (uint8_t)0
                : (uint8_t)(t_below(2) << 6 | place);
    }
}

/* K or V; none, few, or any number of exact tokens. */
void t_job::draw_args(uint32_t tokens)
{
    args.kv = (uint8_t)t_below(2);
    switch (t_below(4)) {
    case 0:
        args.exact_first = t_below(6);
        args.exact_last = t_below(6);
        break;
    case 1:
        args.exact_first = t_below(tokens + 3);
        args.exact_last = t_below(2) == 0 ? t_below(tokens + 3) : 0;
        break;
    default:
        break;
    }
}

void t_job::encode_plain(void)
{
    const uint64_t raw = kvw_view_bytes(&from.v), bound = codec->bound(raw);
    const struct kvw_codec_book named = {77, book.data(), (uint32_t)book.size()};
    std::vector<unsigned char> scratch(codec->scratch_bytes(raw) + 64);
    void *aligned = (void *)(((uintptr_t)scratch.data() + 63) & ~(uintptr_t)63);
    struct kvw_codec_args with = args;
    struct kvw_digest d;
    uint64_t bytes = 0;

    with.book = book.empty() ? NULL : &named;
    want.assign(bound, 0);
    if (kvw_digest_begin_chunk(&d, KVW_DIGEST_LANES, &from.v) != KVW_OK ||
        codec->encode(&from.v, &with, want.data(), bound, &bytes, &d, aligned) != KVW_OK)
        abort();
    want.resize(bytes);
    want_digest = kvw_digest_value(&d);
    room = (uint32_t)bound;
    stream = (unsigned char *)aligned_alloc(16, (bound + 15) / 16 * 16);
    memset(stream, 0xee, bound);
}

kvw_err t_job::shape(const struct kvw_view &v)
{
    if (codec == &kvc_codec_raw)
        return kvg_chunk_shape(&chunk, &v);
    return is_lossy() ? kvg_e_shape(&chunk, &v, (kvw_codec_id)codec->id, &args)
                      : kvg_l0_shape(&chunk, &v);
}

void t_job::prepare(const struct kvw_view &v, uint32_t stream_bytes, uint32_t epoch)
{
    drop();
    if (shape(v) != KVW_OK)
        abort();

    const size_t entries = chunk.period + KVG_TABLE_PAST;
    const size_t state_bytes = sizeof(struct kvg_state) + 4 * chunk.blocks;

    table = aligned_alloc(16, (2 * entries + 15) / 16 * 16);
    memset(table, 0xaa, 2 * entries);
    spread = malloc((is_lossy() ? 12 : 4) * chunk.columns);
    state = calloc(1, state_bytes);
    done = kvg_done();
    chunk.stream = stream;
    chunk.stream_bytes = stream_bytes;
    chunk.book = book.empty() ? NULL : book.data();
    chunk.book_id = book.empty() ? 0 : 77;
    chunk.table = (uint16_t *)table;
    chunk.spread = (uint32_t *)spread;
    chunk.state = (struct kvg_state *)state;
    chunk.done = &done;
    chunk.epoch = epoch;
}

bool t_job::decode_plain(std::vector<unsigned char> damaged, uint64_t *digest)
{
    std::vector<unsigned char> scratch(codec->scratch_bytes(kvw_view_bytes(&to.v)) + 64);
    void *aligned = (void *)(((uintptr_t)scratch.data() + 63) & ~(uintptr_t)63);
    const struct kvw_codec_book named = {77, book.data(), (uint32_t)book.size()};
    const size_t n = damaged.size();
    struct kvw_digest d;

    damaged.resize(n + 64);
    if (kvw_digest_begin_chunk(&d, KVW_DIGEST_LANES, &to.v) != KVW_OK)
        abort();
    if (codec->decode(damaged.data(), n, book.empty() ? NULL : &named, &to.v, &d, aligned) !=
        KVW_OK)
        return false;
    *digest = kvw_digest_value(&d);
    return true;
}
