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

/* Twins for the landing slots, which peers may map: each HELLO says so. Where that can't be, this
 * way alone is lost, and share_why has the reason. */
static void share_twins(struct kvw_core *c)
{
    struct kvw_device *d = &c->device;
    const struct kvw_mem *twins = NULL;
    uint8_t token[KVW_GPU_TOKEN];

    if (d->no_twins) {
        snprintf(d->share_why, sizeof(d->share_why), "the caller wants none");
        return;
    }
    if (d->plugin->pool_open(d->gpu, slot_bytes(c), &twins, d->share_why) != KVW_OK)
        return;
    if (d->plugin->share(d->gpu, twins, token, d->share_why) != KVW_OK) {
        d->plugin->mem_close(d->gpu, twins);
        return;
    }
    d->twins = twins;
    for (uint32_t i = 0; i < c->way_count; ++i) {
        struct kvw_wire_hello *h = &c->ways[i].hello;

        h->features |= KVW_FEATURE_SHARE;
        h->share_bytes = slot_bytes(c);
        memcpy(h->share, token, sizeof(h->share));
    }
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
    share_twins(c);
    return KVW_OK;
}

void kvw_device_close(struct kvw_core *c)
{
    struct kvw_device *d = &c->device;

    if (d->jobs == NULL)
        return;
    d->jobs->ops->close(d->jobs);
    if (d->twins != NULL)
        d->plugin->mem_close(d->gpu, d->twins);
    d->twins = NULL;
    d->plugin->mem_close(d->gpu, d->mem);
    d->jobs = NULL;
}

void kvw_device_reach(struct kvw_core *c, struct kvw_peer *p)
{
    const struct kvw_device *d = &c->device;
    char why[KVW_GPU_TEXT] = "";

    p->twins = NULL;
    if (d->jobs == NULL)
        snprintf(why, sizeof(why), "this side has no GPU");
    else if (d->no_twins)
        snprintf(why, sizeof(why), "%s", d->share_why);
    else if ((p->hello.features & KVW_FEATURE_SHARE) == 0)
        snprintf(why, sizeof(why), "the peer shares no GPU memory");
    else if (d->plugin->reach(d->gpu, p->hello.share, p->hello.share_bytes, &p->twins, why) !=
             KVW_OK)
        p->twins = NULL;
    if (p->twins != NULL)
        snprintf(p->twins_text, sizeof(p->twins_text),
                 "twins: kernels write into the peer's GPU memory");
    else
        snprintf(p->twins_text, sizeof(p->twins_text), "no twins: %.140s", why);
    if (d->jobs != NULL && d->twins == NULL && !d->no_twins)
        snprintf(p->twins_text + strlen(p->twins_text),
                 sizeof(p->twins_text) - strlen(p->twins_text), "; none of ours: %s", d->share_why);
}

void kvw_device_leave(struct kvw_core *c, struct kvw_peer *p)
{
    if (p->twins != NULL)
        c->device.plugin->mem_close(c->device.gpu, p->twins);
    p->twins = NULL;
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
