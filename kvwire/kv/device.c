/* SPDX-License-Identifier: Apache-2.0 */
/* A core's GPU, behind the plugin's table. */
#include "device.h"

#include <stdio.h>

#define COLUMNS_MAX 16384u /* values of an entry; a queue keeps a table of each, for each job */
#define BLOCKS_MAX  4096u  /* of a chunk: entries of the block table that a job needs */

static uint64_t slot_bytes(const struct kvw_core *c)
{
    return (uint64_t)c->slots.count * c->slots.slot_bytes;
}

kvw_err kvw_device_open(struct kvw_core *c, char *why)
{
    struct kvw_device *d = &c->device;
    const struct kvw_gpu_jobs cfg = {
        .jobs_max = c->slots.count + c->stages.count,
        .chunk_bytes = c->slots.slot_bytes - KVW_WIRE_CHUNK_LEN,
        .columns = COLUMNS_MAX,
        .table_blocks = BLOCKS_MAX,
    };
    const uint64_t stages = (uint64_t)c->stages.count * c->stages.slot_bytes;
    kvw_err err;

    if (d->plugin == NULL)
        return KVW_OK;
    err = d->plugin->pinned_open(d->gpu, slot_bytes(c) + stages, &d->mem, why);
    if (err != KVW_OK)
        return err;
    if ((err = d->plugin->jobs_open(d->gpu, &cfg, &d->jobs, why)) != KVW_OK) {
        d->plugin->mem_close(d->gpu, d->mem);
        return err;
    }
    c->slots.mem = d->mem->base;
    c->stages.mem = c->slots.mem + slot_bytes(c);
    return KVW_OK;
}

void kvw_device_close(struct kvw_core *c)
{
    struct kvw_device *d = &c->device;

    if (d->jobs == NULL)
        return;
    d->jobs->ops->close(d->jobs);
    d->plugin->mem_close(d->gpu, d->mem);
    d->jobs = NULL;
}

/* What is wrong with a part for a queue, or NULL. */
static const char *fault_of(const struct kvw_core *c, const struct kvw_layout_group *g,
                            const struct kvw_layout_part *part)
{
    const uint32_t bytes = kvw_dtype_bytes((kvw_dtype)part->dtype);
    const uint64_t entries = c->slots.slot_bytes / part->row_bytes + 1; /* of a chunk, at most */

    if (bytes == 0)
        return "dtype: kernels take none but float types";
    if ((uint64_t)part->rows * part->row_bytes / bytes > COLUMNS_MAX)
        return "rows * row_bytes: more than 16384 values of an entry";
    if (entries / g->block_entries + 2 > BLOCKS_MAX)
        return "row_bytes: a chunk of so small rows would lie in more than 4096 blocks";
    return NULL;
}

bool kvw_device_takes(const struct kvw_core *c, const struct kvw_place *place, char *why,
                      size_t size)
{
    if (c->device.jobs == NULL) {
        snprintf(why, size, "mems[0].kind: memory of a GPU, and this node was given none");
        return false;
    }
    for (uint32_t g = 0; g < place->layout->group_count; ++g)
        for (uint32_t p = 0; p < place->layout->groups[g].part_count; ++p) {
            const struct kvw_layout_group *group = &place->layout->groups[g];
            const char *fault = fault_of(c, group, &group->parts[p]);

            if (fault == NULL)
                continue;
            snprintf(why, size, "groups[%u].parts[%u].%s", g, p, fault);
            return false;
        }
    return true;
}
