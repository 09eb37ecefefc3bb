/* SPDX-License-Identifier: Apache-2.0 */
/*
 * llama.h - for the examples: the KV cache of a Llama-3-8B as an engine keeps it (32 layers, 8 KV
 * heads of 128 bf16 values, blocks of 16 tokens, a tensor for each layer's K and V), described to
 * kvwire, filled and compared.
 */
#ifndef LLAMA_H
#define LLAMA_H

#include <kvwire/node.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LAYERS = 32, HEADS = 8, HEAD_BYTES = 256, BLOCK = 16 };
enum { TOKEN_BYTES = HEADS * HEAD_BYTES, BLOCK_BYTES = BLOCK * TOKEN_BYTES };

struct llama {
    uint32_t blocks;
    unsigned char *tensor[2][LAYERS]; /* K and V: [block][token][head][value] */
};

static void die(const char *what, const char *why)
{
    fprintf(stderr, "%s: %s\n", what, why);
    exit(1);
}

/* Memory for so many blocks, and its description as a pool of the node. */
static kvw_pool_id llama_pool(struct llama *m, uint32_t blocks, struct kvw_node *node)
{
    static const char *const names[2] = {"k", "v"};
    static struct kvw_plane planes[2][LAYERS];
    static struct kvw_mem mems[2 * LAYERS];
    static uint32_t layers[LAYERS];
    struct kvw_part_desc parts[2];
    char why[200] = "";
    kvw_pool_id pool;

    m->blocks = blocks;
    for (uint32_t kv = 0; kv < 2; ++kv) {
        for (uint32_t l = 0; l < LAYERS; ++l) {
            if ((m->tensor[kv][l] = calloc(blocks, BLOCK_BYTES)) == NULL)
                die("pool", "no memory");
            layers[l] = l;
            planes[kv][l] = (struct kvw_plane){.base = m->tensor[kv][l],
                                               .block_stride = BLOCK_BYTES,
                                               .entry_stride = TOKEN_BYTES,
                                               .row_stride = HEAD_BYTES};
            mems[kv * LAYERS + l] = (struct kvw_mem){.base = m->tensor[kv][l],
                                                     .bytes = (uint64_t)blocks * BLOCK_BYTES,
                                                     .kind = KVW_MEM_HOST,
                                                     .dmabuf_fd = -1};
        }
        parts[kv] = (struct kvw_part_desc){.name = names[kv],
                                           .dtype = KVW_DTYPE_BF16,
                                           .row_bytes = HEAD_BYTES,
                                           .rows = HEADS,
                                           .rows_model = HEADS,
                                           .plane_bytes = sizeof(struct kvw_plane),
                                           .planes = planes[kv]};
    }
    const struct kvw_group_desc group = {.kind = KVW_GROUP_PAGED,
                                         .blocks = blocks,
                                         .block_entries = BLOCK,
                                         .entry_tokens = 1,
                                         .layer_count = LAYERS,
                                         .layers = layers,
                                         .part_count = 2,
                                         .part_bytes = sizeof(parts[0]),
                                         .parts = parts};
    const struct kvw_pool_desc desc = {.size = sizeof(desc),
                                       .model_layers = LAYERS,
                                       .fingerprint = "Llama-3-8B demo",
                                       .name = "Llama-3-8B",
                                       .mem_count = 2 * LAYERS,
                                       .mem_bytes = sizeof(mems[0]),
                                       .mems = mems,
                                       .group_count = 1,
                                       .group_bytes = sizeof(group),
                                       .groups = &group};

    if (kvw_node_pool_add(node, &desc, &pool, why, sizeof(why)) != KVW_OK)
        die("pool", why);
    return pool;
}

/* 8 bytes of layer l, K or V, of a token of a request; bf16 values like those of real KV. */
static uint64_t llama_word(uint32_t request, uint32_t kv, uint32_t l, uint32_t token, uint32_t word)
{
    uint64_t x =
        ((uint64_t)request << 48 ^ (uint64_t)(2 * l + kv) << 40 ^ (uint64_t)token << 16 ^ word) *
        0x9e3779b97f4a7c15ull;

    x ^= x >> 29;
    return (x & 0x80ff80ff80ff80ffull) | 0x3f003f003f003f00ull; /* exponents near 1 */
}

/* Write (check false) or compare one layer of a request's tokens; returns how many words differ. */
static uint64_t llama_layer(const struct llama *m, const uint32_t *blocks, uint32_t request,
                            uint32_t l, uint32_t tokens, int check)
{
    uint64_t wrong = 0;

    for (uint32_t kv = 0; kv < 2; ++kv)
        for (uint32_t t = 0; t < tokens; ++t) {
            unsigned char *at = m->tensor[kv][l] + (uint64_t)blocks[t / BLOCK] * BLOCK_BYTES +
                                t % BLOCK * TOKEN_BYTES;

            for (uint32_t w = 0; w < TOKEN_BYTES / 8; ++w) {
                const uint64_t word = llama_word(request, kv, l, t, w);

                if (check)
                    wrong += memcmp(at + (uint64_t)8 * w, &word, 8) != 0;
                else
                    memcpy(at + (uint64_t)8 * w, &word, 8);
            }
        }
    return wrong;
}

#endif
