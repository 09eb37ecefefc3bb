/* SPDX-License-Identifier: Apache-2.0 */
/* core_gpu.c - the two calls of core.h that put a layer's work and a caller's stream in order. */
#include "kv/transfer.h"
#include "peer/core_state.h"

/* The queue of the transfer's pool, NULL: it isn't in a GPU's memory. */
static struct kvw_jobs *queue_of(const struct kvw_core *c, const struct kvw_transfer *t)
{
    return t->state == KVW_TRANSFER_OPEN && c->pools[t->pool].place->kind == KVW_MEM_CUDA
               ? c->device.jobs
               : NULL;
}

kvw_err kvw_core_push_after(struct kvw_core *c, kvw_xfer_ref xfer, uint32_t layer, uint32_t tokens,
                            void *stream)
{
    const struct kvw_transfer *t = kvw_transfer_of_ref(c, xfer);
    struct kvw_jobs *q;
    kvw_err err;

    if (t == NULL || t->state != KVW_TRANSFER_OPEN)
        return KVW_E_NOTFOUND;
    if ((q = queue_of(c, t)) == NULL)
        return KVW_E_UNSUPPORTED;
    if (!t->receiver && (err = q->ops->after(q, stream)) != KVW_OK)
        return err;
    return kvw_core_push(c, xfer, layer, tokens, NULL);
}

kvw_err kvw_core_layer_wait(struct kvw_core *c, kvw_xfer_ref xfer, uint32_t layer, void *stream)
{
    const struct kvw_transfer *t = kvw_transfer_of_ref(c, xfer);
    struct kvw_jobs *q;

    if (t == NULL || !t->receiver)
        return KVW_E_NOTFOUND;
    if (layer >= t->model_layers)
        return KVW_E_INVALID;
    if (t->state != KVW_TRANSFER_OPEN) /* its jobs are done */
        return t->err == KVW_OK ? KVW_OK : KVW_E_NOTFOUND;
    if ((q = queue_of(c, t)) == NULL)
        return KVW_E_UNSUPPORTED;
    if (!kvw_list_empty(&t->pending) || t->layer_coming[layer] > 0)
        return KVW_E_AGAIN;
    q->ops->flush(q);
    return q->ops->before(q, stream);
}
