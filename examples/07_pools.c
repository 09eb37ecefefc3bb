/* SPDX-License-Identifier: Apache-2.0 */
/*
 * 07_pools.c - how state that isn't a Llama's is described: as vLLM lays it out, as MLA has it, and
 * of a hybrid with recurrent layers. Each is described twice, in two layouts that mean the same,
 * and goes from a prefill node to a decode node; every value must be where decode's layout has it.
 */
#include <kvwire/node.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LAYERS = 4, BLOCKS = 8, TOKENS = 50, PARTS_MAX = 2, GROUPS_MAX = 2 };
enum { MEMORY = 4 << 20 };

/* Where a part's values lie: base + layer*l + block*b + entry*e + row*r, in bytes. */
struct where {
    uint64_t first, layer, block, entry, row;
};

struct part {
    const char *name;
    uint32_t dtype, row_bytes, rows;
    struct where at;
};

struct group {
    uint32_t kind, block_entries, layer_first, layer_count, part_count;
    struct part parts[PARTS_MAX];
};

struct model {
    const char *name;
    uint32_t group_count;
    struct group groups[GROUPS_MAX];
};

static void die(const char *what, const char *why)
{
    fprintf(stderr, "%s: %s\n", what, why);
    exit(1);
}

/* vLLM, FlashAttention: a tensor a layer, [2][block][token][head][dim]; and HND beside it. */
static const struct model vllm[2] = {
    {"vLLM",
     1,
     {{KVW_GROUP_PAGED,
       16,
       0,
       LAYERS,
       2,
       {{"k", KVW_DTYPE_BF16, 128, 4, {0, 131072, 8192, 512, 128}},
        {"v", KVW_DTYPE_BF16, 128, 4, {65536, 131072, 8192, 512, 128}}}}}},
    {"vLLM",
     1,
     {{KVW_GROUP_PAGED,
       8,
       0,
       LAYERS,
       2, /* other blocks, [block][2][head][token][dim] */
       {{"k", KVW_DTYPE_BF16, 128, 4, {0, 65536, 8192, 128, 1024}},
        {"v", KVW_DTYPE_BF16, 128, 4, {4096, 65536, 8192, 128, 1024}}}}}},
};
/* DeepSeek: one row of 512 + 64 a token, whole on every rank; and with blocks of 64 tokens. */
static const struct model mla[2] = {
    {"MLA",
     1,
     {{KVW_GROUP_PAGED,
       16,
       0,
       LAYERS,
       1,
       {{"latent", KVW_DTYPE_BF16, 1152, 1, {0, 147456, 18432, 1152, 1152}}}}}},
    {"MLA",
     1,
     {{KVW_GROUP_PAGED,
       64,
       0,
       LAYERS,
       1,
       {{"latent", KVW_DTYPE_BF16, 1152, 1, {4096, 655360, 81920, 1280, 1280}}}}}},
};
/* A hybrid: two attention layers, two with a state of constant size for each request. */
static const struct model hybrid[2] = {
    {"hybrid",
     2,
     {{KVW_GROUP_PAGED,
       16,
       0,
       2,
       2,
       {{"k", KVW_DTYPE_BF16, 128, 2, {0, 65536, 4096, 256, 128}},
        {"v", KVW_DTYPE_BF16, 128, 2, {32768, 65536, 4096, 256, 128}}}},
      {KVW_GROUP_ROW,
       1,
       2,
       2,
       2,
       {{"state", KVW_DTYPE_F32, 512, 16, {1 << 20, 131072, 8192, 0, 512}},
        {"conv", KVW_DTYPE_BYTES, 96, 3, {2 << 20, 4096, 512, 0, 96}}}}}},
    {"hybrid",
     2,
     {{KVW_GROUP_PAGED,
       32,
       0,
       2,
       2,
       {{"k", KVW_DTYPE_BF16, 128, 2, {0, 131072, 16384, 512, 128}},
        {"v", KVW_DTYPE_BF16, 128, 2, {256, 131072, 16384, 512, 128}}}},
      {KVW_GROUP_ROW,
       1,
       2,
       2,
       2, /* state and convolution of a request side by side */
       {{"state", KVW_DTYPE_F32, 512, 16, {1 << 20, 131072, 16384, 0, 512}},
        {"conv", KVW_DTYPE_BYTES, 96, 3, {(1 << 20) + 8192, 131072, 16384, 0, 96}}}}}},
};

/* --- a model's description, from the tables --------------------------------------------------- */

static kvw_pool_id add_pool(struct kvw_node *node, const struct model *m, unsigned char *memory)
{
    struct kvw_plane planes[GROUPS_MAX][PARTS_MAX][LAYERS];
    struct kvw_part_desc parts[GROUPS_MAX][PARTS_MAX] = {0};
    struct kvw_group_desc groups[GROUPS_MAX] = {0};
    uint32_t layers[GROUPS_MAX][LAYERS];
    const struct kvw_mem mem = {
        .base = memory, .bytes = MEMORY, .kind = KVW_MEM_HOST, .dmabuf_fd = -1};
    const struct kvw_pool_desc desc = {.size = sizeof(desc),
                                       .model_layers = LAYERS,
                                       .fingerprint = "the same weights",
                                       .name = m->name,
                                       .mem_count = 1,
                                       .mem_bytes = sizeof(mem),
                                       .mems = &mem,
                                       .group_count = m->group_count,
                                       .group_bytes = sizeof(groups[0]),
                                       .groups = groups};
    char why[257] = "";
    kvw_pool_id pool;

    for (uint32_t g = 0; g < m->group_count; ++g) {
        const struct group *from = &m->groups[g];

        groups[g] = (struct kvw_group_desc){.kind = from->kind,
                                            .blocks = BLOCKS,
                                            .block_entries = from->block_entries,
                                            .entry_tokens = from->kind == KVW_GROUP_PAGED,
                                            .layer_count = from->layer_count,
                                            .layers = layers[g],
                                            .part_count = from->part_count,
                                            .part_bytes = sizeof(parts[0][0]),
                                            .parts = parts[g]};
        for (uint32_t l = 0; l < from->layer_count; ++l)
            layers[g][l] = from->layer_first + l;
        for (uint32_t p = 0; p < from->part_count; ++p) {
            const struct part *part = &from->parts[p];

            parts[g][p] = (struct kvw_part_desc){.name = part->name,
                                                 .dtype = part->dtype,
                                                 .row_bytes = part->row_bytes,
                                                 .rows = part->rows,
                                                 .rows_model = part->rows,
                                                 .plane_bytes = sizeof(planes[0][0][0]),
                                                 .planes = planes[g][p]};
            for (uint32_t l = 0; l < from->layer_count; ++l)
                planes[g][p][l] =
                    (struct kvw_plane){.base = memory + part->at.first + l * part->at.layer,
                                       .block_stride = part->at.block,
                                       .entry_stride = part->at.entry,
                                       .row_stride = part->at.row};
        }
    }
    if (kvw_node_pool_add(node, &desc, &pool, why, sizeof(why)) != KVW_OK)
        die(m->name, why);
    return pool;
}

/* Write (check 0) or compare all that a request has; blocks 7, 6, 5 ... hold it. */
static uint64_t touch(const struct model *m, unsigned char *memory, int check)
{
    uint64_t wrong = 0;

    for (uint32_t g = 0; g < m->group_count; ++g)
        for (uint32_t p = 0; p < m->groups[g].part_count; ++p) {
            const struct group *group = &m->groups[g];
            const struct part *part = &group->parts[p];
            const uint32_t entries = group->kind == KVW_GROUP_ROW ? 1 : TOKENS;

            for (uint64_t i = 0; i < (uint64_t)group->layer_count * entries * part->rows; ++i) {
                const uint64_t r = i % part->rows, e = i / part->rows % entries,
                               l = i / part->rows / entries;
                unsigned char *at = memory + part->at.first + l * part->at.layer +
                                    (BLOCKS - 1 - e / group->block_entries) * part->at.block +
                                    e % group->block_entries * part->at.entry + r * part->at.row;

                for (uint32_t k = 0; k < part->row_bytes; ++k) {
                    const unsigned char byte = (unsigned char)((i * 131 + k * 7 + g * 3 + p) >> 1);

                    wrong += check && at[k] != byte;
                    at[k] = check ? at[k] : byte;
                }
            }
        }
    return wrong;
}

static uint32_t blocks_of(const struct model *m, uint32_t g)
{
    const struct group *group = &m->groups[g];

    return group->kind == KVW_GROUP_ROW
               ? 1
               : (TOKENS + group->block_entries - 1) / group->block_entries;
}

/* --- one model from here to there ------------------------------------------------------------- */

static struct kvw_node *decode, *prefill;
static kvw_peer_id source;

static struct kvw_core_event await(struct kvw_node *node, uint32_t kind)
{
    struct kvw_core_event ev = {.size = sizeof(ev)};

    while (kvw_node_wait(node, kvw_now_ns() + 20000000000ull))
        while (kvw_node_next_event(node, &ev))
            if (ev.kind == kind)
                return ev;
    die("event", "nothing came for twenty seconds");
    return ev;
}

static int move(const struct model m[2])
{
    static const uint32_t ids[BLOCKS] = {7, 6, 5, 4, 3, 2, 1, 0};
    unsigned char *from = calloc(1, MEMORY), *to = calloc(1, MEMORY);
    struct kvw_group_blocks want[GROUPS_MAX] = {0}, have[GROUPS_MAX] = {0};
    char why[257] = "";
    kvw_xfer_ref r, s;

    if (from == NULL || to == NULL)
        die("memory", "there isn't enough");
    const kvw_pool_id source_pool = add_pool(prefill, &m[0], from);
    const kvw_pool_id pool = add_pool(decode, &m[1], to);
    const struct kvw_offer_args offer = {.size = sizeof(offer),
                                         .pool = pool,
                                         .key = kvw_key_of(m->name),
                                         .tokens = TOKENS,
                                         .group_count = m->group_count,
                                         .groups = want,
                                         .sources = &source,
                                         .source_count = 1};
    const struct kvw_stream_args stream = {.size = sizeof(stream),
                                           .pool = source_pool,
                                           .key = offer.key,
                                           .tokens = TOKENS,
                                           .group_count = m->group_count,
                                           .groups = have};

    for (uint32_t g = 0; g < m->group_count; ++g) {
        const int paged = m->groups[g].kind == KVW_GROUP_PAGED;

        want[g] = (struct kvw_group_blocks){.group = g,
                                            .block_count = blocks_of(&m[1], g),
                                            .blocks = ids,
                                            .want_end = paged ? TOKENS : 0};
        have[g] = (struct kvw_group_blocks){
            .group = g, .block_count = blocks_of(&m[0], g), .blocks = ids};
    }
    (void)touch(&m[0], from, 0); /* the model computes */
    while (kvw_node_peer_fits(decode, source, pool, why, sizeof(why)) != KVW_OK)
        (void)await(decode, KVW_CEV_PEER_POOL);
    if (kvw_node_offer(decode, &offer, &r, why, sizeof(why)) != KVW_OK ||
        kvw_node_stream(prefill, &stream, &s, why, sizeof(why)) != KVW_OK)
        die(m->name, why);
    for (uint32_t l = 0; l < LAYERS; ++l)
        if (kvw_node_push(prefill, s, l, TOKENS, NULL) != KVW_OK)
            die("push", "refused");
    if (kvw_node_commit(prefill, s, NULL, 0) != KVW_OK)
        die("commit", "refused");

    const struct kvw_core_event done = await(decode, KVW_CEV_XFER_DONE);
    const uint64_t wrong = touch(&m[1], to, 1);

    (void)await(prefill, KVW_CEV_XFER_DONE);
    printf("%-7s %s: %llu bytes, %llu of them wrong\n", m->name,
           done.err == KVW_OK ? "ok" : done.text, (unsigned long long)done.raw_bytes,
           (unsigned long long)wrong);
    if (kvw_node_pool_remove(prefill, source_pool) != KVW_OK ||
        kvw_node_pool_remove(decode, pool) != KVW_OK)
        die("pool", "it can't be removed");
    free(from);
    free(to);
    return done.err == KVW_OK && wrong == 0 && done.raw_bytes > 0;
}

int main(void)
{
    struct kvw_node_config cfg = {.size = sizeof(cfg),
                                  .listen = 1,
                                  .name = "decode",
                                  .transport = "udp",
                                  .local = "127.0.0.1:0"};
    uint8_t blob[512];
    uint32_t bytes = sizeof(blob);
    kvw_peer_id peer;
    char why[257] = "";
    int right;

    if (kvw_node_open(&decode, &cfg, why, sizeof(why)) != KVW_OK)
        die("decode", why);
    cfg.name = "prefill";
    cfg.listen = 0;
    if (kvw_node_open(&prefill, &cfg, why, sizeof(why)) != KVW_OK)
        die("prefill", why);
    if (kvw_node_blob(decode, blob, &bytes) != KVW_OK ||
        kvw_node_peer_blob(prefill, blob, bytes, &peer) != KVW_OK)
        die("blob", "it can't be made or read");
    source = await(decode, KVW_CEV_PEER_UP).peer;
    right = move(vllm) + move(mla) + move(hybrid);
    kvw_node_close(prefill);
    kvw_node_close(decode);
    return right == 3 ? 0 : 1;
}
