/* SPDX-License-Identifier: Apache-2.0 */
/*
 * codec.h - what a codec is. compress/ implements it for host memory, gpu/ for VRAM.
 *
 * A codec turns one chunk, read through a view of the paged pool, into a self-contained stream, and
 * back: gather + encode is one pass over memory, decode + scatter is the other. It feeds the raw
 * bytes, in the view's canonical order [token][head][dim], to the digest on the way.
 *
 * threads  ops are const and shared; a codec keeps no state between calls, so any number of threads
 *          may call it at the same time, each on its own view and buffer
 * memory   nothing is allocated; scratch is the caller's, scratch_bytes() long, 64-byte aligned
 * time     no clock is read
 */
#ifndef KVW_CODEC_H
#define KVW_CODEC_H

#include <stdbool.h>

#include "digest.h"
#include "mem.h"

#ifdef __cplusplus
extern "C" {
#endif

/* On the wire in every chunk. 0 is never a codec. Numbers are pinned in SPEC.md. */
typedef enum kvw_codec_id {
    KVW_CODEC_RAW = 1,
    KVW_CODEC_LZ4 = 2,
    KVW_CODEC_ZSTD = 3,
    KVW_CODEC_L0 = 4,     /* lossless bf16/fp16 */
    KVW_CODEC_L8 = 5,     /* lossless fp8 */
    KVW_CODEC_E8 = 6,     /* error-bounded, noise of fp8 e4m3 */
    KVW_CODEC_E4 = 7,     /* error-bounded, noise of a good int4 */
    KVW_CODEC_LZ4_X = 8,  /* lz4 on the exponent plane only */
    KVW_CODEC_ZSTD_X = 9, /* zstd on the exponent plane only */
} kvw_codec_id;

#define KVW_CODEC_IDS 64u /* ids are 1 .. 63 */

/*
 * Calibration that both sides hold already (per model, layer, K|V and head range), so that a stream
 * names it instead of carrying its own. bytes are the codec's, opaque to everybody else; id names
 * them and is never 0.
 */
struct kvw_codec_book {
    uint64_t id;
    const void *bytes; /* borrowed during the call */
    uint32_t byte_count;
};

/*
 * What a codec may want to know about a chunk beside its values. encode writes into the stream
 * whatever decode needs of it, so that decode is given the book alone. NULL means all zero.
 */
struct kvw_codec_args {
    uint8_t kv;           /* 0: K, 1: V */
    uint32_t exact_first; /* lossy codecs keep the view's first exact_first tokens exact, */
    uint32_t exact_last;  /* and its last exact_last */
    const struct kvw_codec_book *book; /* NULL: calibrate in the call */
};

/*
 * What a request lets a codec do to its values, least first. A codec states the least budget that
 * allows it; a request's budget travels in OFFER.
 */
typedef enum kvw_budget {
    KVW_BUDGET_EXACT = 0, /* every bit comes back */
    KVW_BUDGET_E8 = 1,    /* bounded error, at most the noise of fp8 e4m3 */
    KVW_BUDGET_E4 = 2,    /* bounded error, at most the noise of a Hadamard-rotated int4 */
} kvw_budget;

struct kvw_codec_ops {
    const char *name;   /* as on the command line: "raw" */
    uint8_t id;         /* kvw_codec_id */
    uint8_t budget;     /* kvw_budget: the least that allows it; EXACT: lossless */
    bool by_name_only;  /* a yardstick: used where it is asked for, never chosen */
    uint16_t mem_kinds; /* bit (1 << kvw_mem_kind) for each kind of memory a view may lie in */
    uint32_t dtypes;    /* bit (1 << kvw_dtype) for each element type it takes */

    /* The longest stream that encode can make of raw_bytes. Never more than raw + 0.2 % + 64. */
    uint64_t (*bound)(uint64_t raw_bytes);

    /* Scratch that encode and decode want for raw_bytes; may be 0. */
    uint64_t (*scratch_bytes)(uint64_t raw_bytes);

    /*
     * Read the view, write its stream to dst, feed the raw bytes to *digest, which was begun with
     * kvw_digest_begin_chunk() of the same view, here as in decode.
     * KVW_OK           *bytes is the stream's length, <= bound(raw)
     * KVW_E_INVALID    dst_bytes < bound(raw), or a dtype that this codec can't take
     * On any error *bytes is untouched and dst holds rubbish. The view is never written.
     */
    KVW_NODISCARD kvw_err (*encode)(const struct kvw_view *src, const struct kvw_codec_args *args,
                                    void *dst, uint64_t dst_bytes, uint64_t *bytes,
                                    struct kvw_digest *digest, void *scratch);

    /*
     * The way back. src is from the wire: every length in it is checked before use.
     * For a lossless codec *digest has then seen the raw bytes; the caller compares. For a lossy
     * one it has seen the bytes as decoded, and the sender's digest is of the same (SPEC.md 5).
     *
     * KVW_OK           the view holds the chunk
     * KVW_E_CODEC      the stream is damaged, is not exactly as long as the view's chunk, is of
     *                  another dtype, or names another book than the given one (book NULL: none)
     *
     * On an error the view may be partly written, but only inside its own token and head range.
     */
    KVW_NODISCARD kvw_err (*decode)(const void *src, uint64_t src_bytes,
                                    const struct kvw_codec_book *book, const struct kvw_view *dst,
                                    struct kvw_digest *digest, void *scratch);
};

#ifdef __cplusplus
}
#endif
#endif
