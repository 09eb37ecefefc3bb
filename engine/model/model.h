/* SPDX-License-Identifier: Apache-2.0 */
/*
 * model.h - a model: its numbers, its weights, and the two ways through it.
 *
 * threads  a struct kve_model is read-only after open. A struct kve_run is one thread's at a time
 *          and owns its workers, which sleep between steps (threads.h)
 * memory   weights stay in the map of the GGUF; a kve_run takes its scratch in open
 * time     none
 */
#ifndef KVE_MODEL_H
#define KVE_MODEL_H

#include "../gguf/gguf.h"
#include "kvcache.h"

struct kve_model_config {
    uint32_t layers, hidden, heads, kv_heads, head_dim, ffn, vocab;
    uint32_t context;   /* longest sequence the model was trained for */
    uint32_t rope_dims; /* of a head, turned in pairs */
    float rope_base;
    float rms_eps;
    bool rope_halves;       /* a pair is (i, i + rope_dims/2), qwen's way; or neighbours, llama's */
    bool gelu;              /* the gate's activation, by tanh; or SiLU */
    float embd_scale;       /* a token's embedding is multiplied by it */
    float attn_scale;       /* and a score by this */
    float softcap;          /* logits are softcap * tanh(logit / softcap); 0: as they are */
    uint32_t window;        /* positions that windowed layers see; 0: no layer has a window */
    uint32_t window_layers; /* how many have one */
};

struct kve_model; /* opaque */

/* Checks every tensor's presence, shape and type; keeps pointers into g, which must outlive *m.
 *   KVW_E_FORMAT, KVW_E_UNSUPPORTED (another architecture), KVW_E_NOMEM; a sentence in why */
KVW_NODISCARD kvw_err kve_model_open(struct kve_model **m, const struct kve_gguf *g,
                                     char why[KVE_WHY_BYTES]);
void kve_model_close(struct kve_model *m); /* takes NULL */
const struct kve_model_config *kve_model_config(const struct kve_model *m);
/* How many positions layer l sees, its own included; 0: all. */
uint32_t kve_model_window(const struct kve_model *m, uint32_t l);
/* "SmolLM2 135M ..." from general.name, NUL-terminated; "" if absent. */
const char *kve_model_name(const struct kve_model *m);
/* XXH3-128 of the file, or made of its parts': what both sides of a transfer must agree on. */
void kve_model_fingerprint(const struct kve_model *m, uint8_t out[16]);

struct kve_run; /* opaque: scratch and worker threads of one forward pass */

/* threads: 1 .. 256 compute threads, the caller's own included. prefill_tokens: the most tokens
 * that one prefill chunk takes (0: the default). seq_tokens_max: the longest sequence (scratch for
 * attention). */
KVW_NODISCARD kvw_err kve_run_open(struct kve_run **r, const struct kve_model *m, uint32_t threads,
                                   uint32_t prefill_tokens, uint32_t seq_tokens_max);
void kve_run_close(struct kve_run *r); /* takes NULL */
/* The CUstream on which a run on a GPU (device.h) computes, NULL: the CPU does. What is put there
 * behind layer_written comes after that layer's K and V; what is put there by layer_wait, before
 * they are read. */
void *kve_run_stream(const struct kve_run *r);
/*
 * Where a prompt may be cut so that its rest, prefilled behind K and V that are there already, has
 * the bits of the whole in one call: before positions that are multiples of this number, with
 * KVE_REST_MIN tokens or more behind the cut: one token alone is multiplied in another way.
 */
#define KVE_REST_MIN 2u
uint32_t kve_run_cut(const struct kve_run *r);

/* Called from the thread that called kve_prefill / kve_decode, between steps. Any may be NULL. */
struct kve_hooks {
    void *arg;
    /* K and V of positions 0 .. tokens-1 of this layer are in the cache and won't change. Comes as
     * soon as they are written: before the layer's attention and feed-forward run. */
    void (*layer_written)(void *arg, uint32_t layer, uint32_t tokens);
    /* Before a layer's K and V of earlier positions are read: wait until they are there (decode
     * side). Other than KVW_OK ends the pass with that error. */
    kvw_err (*layer_wait)(void *arg, uint32_t layer);
    /* Asked before every layer: true ends the pass with KVW_E_CANCELED. */
    bool (*cancel)(void *arg);
};

/*
 * Run the model over tokens[0 .. count-1] at positions seq->tokens .. ; append their K and V to the
 * sequence's blocks; on KVW_OK seq->tokens has grown by count and logits[vocab] (may be NULL) are
 * those after the last token. The last layer computes attention and feed-forward for the last token
 * only. For the same tokens and the same cut into calls the result is the same bit for bit,
 * whatever the number of threads.
 *   KVW_E_INVALID   a token id >= vocab, the block table too short, longer than seq_tokens_max
 *   KVW_E_CANCELED  hooks->cancel said so
 *   others          what layer_wait returned
 * On an error seq->tokens is unchanged; the blocks past it may be partly written.
 */
KVW_NODISCARD kvw_err kve_prefill(struct kve_run *r, struct kve_kvcache *kv, struct kve_seq *seq,
                                  const uint32_t *tokens, uint32_t count,
                                  const struct kve_hooks *hooks, float *logits);

/* As kve_prefill, but logits[count][vocab] are those after every token: what a text's likelihood is
 * made of. */
KVW_NODISCARD kvw_err kve_score(struct kve_run *r, struct kve_kvcache *kv, struct kve_seq *seq,
                                const uint32_t *tokens, uint32_t count, float *logits);

/* kve_prefill for one token, with the decode kernels. */
KVW_NODISCARD kvw_err kve_decode(struct kve_run *r, struct kve_kvcache *kv, struct kve_seq *seq,
                                 uint32_t token, const struct kve_hooks *hooks, float *logits);

#define KVE_BATCH_MAX 64u

struct kve_batch {
    struct kve_seq *const *seqs; /* [count], each another one with blocks of its own */
    const uint32_t *tokens;      /* [count] */
    uint32_t count;              /* 1 .. KVE_BATCH_MAX */
    float *logits;               /* [count][vocab] */
};

/*
 * kve_decode of each sequence in one pass that reads the weights once: the same bits as one after
 * the other, whoever is beside it. Of hooks layer_written isn't called. On an error no sequence has
 * grown. KVW_E_INVALID also for a count out of its range.
 */
KVW_NODISCARD kvw_err kve_decode_batch(struct kve_run *r, struct kve_kvcache *kv,
                                       const struct kve_batch *batch,
                                       const struct kve_hooks *hooks);

#endif
