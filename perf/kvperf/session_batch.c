/* SPDX-License-Identifier: Apache-2.0 */
/* session_batch.c - the owner's part of batches: a region, what is written into it, and whether
 * what the client wrote is where it belongs. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <kvwire/mem.h>

#include "scatter.h"
#include "server.h"
#include "stop.h"

bool kvp_session_region(struct kvp_session *s, uint64_t bytes, char why[KVP_WHY])
{
    const uint64_t whole = (bytes + 4095) / 4096 * 4096;

    s->region_bytes = bytes;
    s->region = bytes > 0 ? aligned_alloc(4096, whole) : NULL;
    if (s->region != NULL)
        memset(s->region, 0, whole); /* faulted in */
    else
        snprintf(why, KVP_WHY, "the server has no memory for a region of %llu bytes",
                 (unsigned long long)bytes);
    return s->region != NULL;
}

bool kvp_session_add_region(struct kvp_session *s, char why[KVP_WHY])
{
    const struct kvw_mem mem = {
        .base = s->region, .bytes = s->region_bytes, .kind = KVW_MEM_HOST, .dmabuf_fd = -1};
    const struct kvw_region_args args = {.size = sizeof(args),
                                         .rights = KVW_REGION_READ | KVW_REGION_WRITE,
                                         .mem = &mem,
                                         .mem_bytes = sizeof(mem)};
    kvw_region_id region;
    char said[KVP_WHY] = "";

    if (kvw_node_region_add(s->lanes[0].node, &args, &region, said, sizeof(said)) == KVW_OK)
        return true;
    snprintf(why, KVP_WHY, "the server can't lend its region: %.200s", said);
    return false;
}

/* What a message says of pieces; false: it doesn't fit the region. */
static bool take_scatter(const struct kvp_session *s, const cJSON *msg, struct kvp_scatter *to,
                         char *why)
{
    *to = (struct kvp_scatter){
        .piece_bytes = (uint64_t)kvp_msg_number(msg, "piece_bytes", 1, 1e12, 0),
        .pieces = (uint32_t)kvp_msg_number(msg, "pieces", 1, KVW_PIECES_MAX, 0),
        .slots = (uint32_t)kvp_msg_number(msg, "slots", 1, KVW_BATCHES_MAX, 0)};
    if (s->region == NULL || to->piece_bytes == 0 || to->pieces == 0 || to->slots == 0 ||
        to->piece_bytes > s->region_bytes || kvp_scatter_bytes(to) > s->region_bytes) {
        snprintf(why, KVP_WHY, "piece_bytes, pieces or slots is missing, or beyond the region");
        return false;
    }
    if (kvp_scatter_make(to, kvp_msg_number(msg, "scattered", 0, 1, 0) > 0,
                         kvp_msg_ns(msg, "seed")))
        return true;
    snprintf(why, KVP_WHY, "no memory for the order of pieces");
    return false;
}

static cJSON *figures(const struct kvp_session *s, const char *type, uint64_t cpu_ns)
{
    struct kvw_core_stats now = {.size = sizeof(now)};
    cJSON *msg = kvp_msg(type);

    kvw_node_stats(s->lanes[0].node, &now);
    kvp_msg_put_ns(msg, "cpu_ns", cpu_ns);
    cJSON_AddNumberToObject(msg, "message_bytes", (double)now.batch_message_bytes);
    cJSON_AddNumberToObject(msg, "chunks_rejected", (double)now.chunks_rejected);
    return msg;
}

bool kvp_session_fill(struct kvp_session *s, const cJSON *msg, char why[KVP_WHY])
{
    struct kvp_scatter pieces;

    if (!take_scatter(s, msg, &pieces, why))
        return false;
    kvp_scatter_fill(&pieces, s->region, kvp_msg_ns(msg, "values"));
    kvp_scatter_free(&pieces);
    return kvp_line_send(&s->line, figures(s, "filled", kvp_cpu_ns()), why);
}

bool kvp_session_compare(struct kvp_session *s, const cJSON *msg, char why[KVP_WHY])
{
    const uint64_t cpu_ns = kvp_cpu_ns(), values = kvp_msg_ns(msg, "values");
    struct kvp_check found = {0};
    struct kvp_scatter pieces;
    cJSON *reply;

    if (!take_scatter(s, msg, &pieces, why))
        return false;
    if (kvp_msg_number(msg, "flip", 0, 1, 0) > 0)
        s->region[kvp_scatter_at(&pieces, 0, 0)] ^= 0x10;
    if (values != 0)
        found = kvp_scatter_check(&pieces, s->region, values);
    kvp_scatter_free(&pieces);
    reply = figures(s, "compared", cpu_ns);
    cJSON_AddNumberToObject(reply, "bytes", (double)found.bytes);
    cJSON_AddNumberToObject(reply, "wrong", (double)found.wrong);
    return kvp_line_send(&s->line, reply, why);
}
