/* SPDX-License-Identifier: Apache-2.0 */
/*
 * chunk_jobs.h - random chunks in random pools, by the plain C codecs and by the kernels.
 *
 * memory   a job owns all that its chunk points to
 */
#ifndef CHUNK_JOBS_H
#define CHUNK_JOBS_H

#include <vector>

#include "gpu/e.h"
#include "gpu/l0.h"
#include "kvwire/codec.h"

uint32_t t_draw(void);
uint32_t t_below(uint32_t n);
void t_seed(uint64_t seed);
/* Bit patterns that were put among other values of the dtype, each in turn. */
uint32_t t_patterns(kvw_dtype dtype);

/* What a pool is filled with. T_ANY_BITS: all of it, or the first quarter. T_FOLLOWS: tokens near
 * those before. T_BURST: some tokens far beyond the others. */
enum t_kind {
    T_KV,
    T_WILD,
    T_ANY_BITS,
    T_ONE_VALUE,
    T_SPECIAL,
    T_ALL_PATTERNS,
    T_FOLLOWS,
    T_BURST,
    T_KINDS
};

struct t_pool { /* a paged pool with one sequence in it */
    std::vector<unsigned char> bytes;
    std::vector<uint32_t> blocks;
    struct kvw_view v;
    void make(uint32_t tokens, uint32_t heads, uint32_t head_dim, kvw_dtype dtype, unsigned layout);
    void fill(enum t_kind kind);
};
/* Whether the two sequences are the same, and nothing else in `q` was written. */
bool t_equal(const struct t_pool &p, const struct t_pool &q);

struct t_job {
    const struct kvw_codec_ops *codec;
    struct t_pool from, to;
    std::vector<uint8_t> book;
    struct kvw_codec_args args;
    std::vector<unsigned char> want; /* the plain C code's stream */
    uint64_t want_digest;
    unsigned char *stream; /* the kernels', exactly as long as the room they are given */
    uint32_t room;
    struct kvg_chunk chunk;
    struct kvg_done done;
    t_job();
    ~t_job();
    t_job(const t_job &) = delete;
    /* Of at most that many values, and one token. */
    void make(const struct kvw_codec_ops *codec, kvw_dtype dtype, uint32_t values);
    /* The chunk for kernels, of from or of to, with all it needs zero. */
    void prepare(const struct kvw_view &v, uint32_t stream_bytes, uint32_t epoch);
    /* By the plain C code. */
    bool decode_plain(std::vector<unsigned char> stream, uint64_t *digest);
    bool is_lossy(void) const
    {
        return codec->budget != KVW_BUDGET_EXACT;
    }

  private:
    void draw_book(kvw_dtype dtype);
    void draw_args(uint32_t tokens);
    void encode_plain(void);
    kvw_err shape(const struct kvw_view &v);
    void *table, *spread, *state;
    void drop(void);
};
#endif
