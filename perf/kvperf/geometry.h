/* SPDX-License-Identifier: Apache-2.0 */
/*
 * geometry.h - the shape of a model's state: which layers hold which parts for which tokens. Small
 * enough to travel to the server as JSON, so a geometry from a file works like a preset.
 *
 * threads  plain data      memory  no pointers inside      time  none
 */
#ifndef KVP_GEOMETRY_H
#define KVP_GEOMETRY_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <kvwire/node.h>
#include <kvwire/wire.h>

#define KVP_PARTS_MAX   8u
#define KVP_GROUPS_MAX  6u
#define KVP_PATTERN_MAX 127u
#define KVP_TP_MAX      8u  /* shards of one side */
#define KVP_WHY         256 /* bytes of a sentence that says what is wrong */

struct kvp_part {
    char name[24];
    uint32_t dtype; /* kvw_dtype, KVW_DTYPE_BYTES or KVW_DTYPE_U4X2 */
    uint32_t row_bytes, rows;
};

/* Layers that share a block table. A layer may be in several groups. */
struct kvp_group {
    uint32_t kind;                     /* enum kvw_group_kind */
    char pattern[KVP_PATTERN_MAX + 1]; /* of 0 and 1, repeated over the layers: "1", "000001" */
    uint32_t entry_tokens;             /* 1, 4, 128 ...; 0 for ROW */
    uint32_t window_tokens;            /* WINDOW only */
    uint32_t part_count;
    struct kvp_part parts[KVP_PARTS_MAX];
};

struct kvp_geometry {
    char name[KVW_NAME_MAX + 1];
    char clock[64]; /* where prefill_tok_s comes from: "H100, 50 % MFU" */
    double prefill_tok_s;
    uint32_t layers;
    uint32_t group_count;
    struct kvp_group groups[KVP_GROUPS_MAX];
};

bool kvp_group_has(const struct kvp_group *g, uint32_t layer);
/* Entries of a group that a sequence of so many tokens has: [*first, *end). */
void kvp_group_entries(const struct kvp_group *g, uint32_t tokens, uint32_t *first, uint32_t *end);
uint64_t kvp_part_entry_bytes(const struct kvp_part *p);

/* What shard `of` of so many holds of a part: rows (KV heads) side by side, or, where there are
 * fewer rows than shards, one that others hold too. */
struct kvp_share {
    uint32_t first, rows;
};
struct kvp_share kvp_part_share(const struct kvp_part *p, uint32_t of, uint32_t shards);
/* false: why names a part that so many can't share. */
bool kvp_geometry_shares(const struct kvp_geometry *g, uint32_t shards, char why[KVP_WHY]);
/* Whether shard a of `as` and shard b of `bs` have rows of any part in common. */
bool kvp_geometry_meet(const struct kvp_geometry *g, uint32_t a, uint32_t as, uint32_t b,
                       uint32_t bs);

/* Bytes of one layer, and of all layers, for a sequence. */
uint64_t kvp_geometry_layer_bytes(const struct kvp_geometry *g, uint32_t layer, uint32_t tokens);
uint64_t kvp_geometry_bytes(const struct kvp_geometry *g, uint32_t tokens);

/* false: *why names the field and its value. */
bool kvp_geometry_check(const struct kvp_geometry *g, char why[KVP_WHY]);

/* Of a preset by name; false: no such one, and why lists those there are. */
bool kvp_geometry_preset(struct kvp_geometry *g, const char *name, char why[KVP_WHY]);
/* The name of preset i; NULL: there are no more. */
const char *kvp_geometry_preset_name(uint32_t i);
/* Make 16-bit parts "bf16" (as they are), "fp8" or "nvfp4"; false: no such dtype. */
bool kvp_geometry_retype(struct kvp_geometry *g, const char *dtype, char why[KVP_WHY]);

/* As JSON and back. The caller deletes what to_json returns; NULL: no memory. */
cJSON *kvp_geometry_to_json(const struct kvp_geometry *g);
bool kvp_geometry_from_json(struct kvp_geometry *g, const cJSON *json, char why[KVP_WHY]);
bool kvp_geometry_from_file(struct kvp_geometry *g, const char *path, char why[KVP_WHY]);

const char *kvp_dtype_name(uint32_t dtype);

#endif
