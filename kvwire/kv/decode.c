/* SPDX-License-Identifier: Apache-2.0 */
/* Chunks that are with a queue of jobs between landing slot and blocks. */
#include "decode.h"

#include "../peer/slots.h"
#include "device.h"

struct kvw_jobs *kvw_decode_queue(const struct kvw_core *c, uint32_t pool)
{
    return c->pools[pool].place->kind == KVW_MEM_CUDA ? c->device.jobs : c->jobs;
}

const unsigned char *kvw_decode_stream(const struct kvw_core *c, const struct kvw_landing *slot,
                                       const struct kvw_wire_chunk *header, bool on_device)
{
    unsigned char *here = kvw_slots_mem(&c->slots, slot) + KVW_WIRE_CHUNK_LEN, *twin;
    const struct kvw_mem_device *help;

    if (header->where == KVW_CHUNK_HERE)
        return here;
    twin = kvw_device_twin(c->device.twins, c->slots.slot_bytes, (uint32_t)(slot - c->slots.slots));
    if (on_device)
        return twin;
    help = c->device.twins->device;
    return help->copy_out(help->arg, here, twin, header->stream_bytes) == KVW_OK ? here : NULL;
}

kvw_err kvw_decode_begin(struct kvw_core *c, struct kvw_jobs *q, const struct kvw_landing *slot,
                         struct kvw_decode *d, const struct kvw_view *view)
{
    kvw_err err;

    d->job = (struct kvw_job){
        .codec = c->codecs[d->codec],
        .view = *view,
        .digest = (kvw_digest_id)d->header.digest,
        .kind = KVW_JOB_DECODE,
        .from = kvw_decode_stream(c, slot, &d->header, q == c->device.jobs),
        .stream_bytes = d->header.stream_bytes,
    };
    err = d->job.from != NULL ? q->ops->submit(q, &d->job) : KVW_E_DEVICE;
    if (err == KVW_OK)
        d->jobs = q;
    else if (err != KVW_E_AGAIN)
        d->refused = err;
    return err;
}

bool kvw_decode_overlaps(const struct kvw_core *c, const struct kvw_landing *slot,
                         const struct kvw_decode *d)
{
    const struct kvw_landing *l = kvw_slots_first(&c->slots);

    for (; l != NULL && l != slot; l = kvw_slots_after(&c->slots, l)) {
        const struct kvw_decode *other = kvw_decode_of(c, l);

        if (other->jobs != NULL && other->flow == d->flow && other->span == d->span &&
            other->layer_at == d->layer_at && other->first < d->end && d->first < other->end)
            return true;
    }
    return false;
}

/* First what hasn't begun, so that none of it begins while the next pass waits. */
static void drop(struct kvw_core *c, const struct kvw_flow *f, bool all)
{
    for (uint32_t i = 0; i < c->slots.count; ++i) {
        struct kvw_decode *d = &c->decodes[i];

        if (d->jobs == NULL || d->flow != f || kvw_job_done(&d->job) ||
            (kvw_job_state_of(&d->job) == KVW_JOB_RUNNING && !all))
            continue;
        d->jobs->ops->drop(d->jobs, &d->job);
    }
}

void kvw_decode_take_back(struct kvw_core *c, const struct kvw_flow *f)
{
    if (c->jobs == NULL && c->device.jobs == NULL)
        return;
    drop(c, f, false);
    drop(c, f, true);
    for (uint32_t i = 0; i < c->slots.count; ++i)
        if (c->decodes[i].flow == f)
            c->decodes[i].flow = NULL;
}
