/* SPDX-License-Identifier: Apache-2.0 */
/* close.c - calls that a queue's thread carries out, and the last of them: closing a transport of
 * several queues, whole or half open. */
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "impl.h"

kvw_err kvn_queues_call(struct kvn_queue *q, struct kvn_call *c)
{
    if (q->g->pid != getpid())
        return c->err = c->kind == KVN_CALL_DISCONNECT || c->kind == KVN_CALL_REGION_REMOVE
                            ? KVW_OK
                            : KVW_E_UNSUPPORTED;
    atomic_store(&q->call, c);
    kvn_queue_wake(q);
    while (sem_wait(&q->answered) != 0)
        ; /* EINTR */
    return c->err;
}

/* Each thread closes its endpoint, and so its port, itself: devices are closed where they ran. */
static void stop_queue(struct kvn_queue *q)
{
    struct kvn_call c = {.kind = KVN_CALL_CLOSE};

    if (!q->running || q->g->pid != getpid())
        return;
    (void)kvn_queues_call(q, &c);
    pthread_join(q->thread, NULL);
    q->running = false;
}

static void free_group(struct kvn_queues *g)
{
    for (uint32_t i = 0; i < g->queues && g->queue != NULL; ++i) {
        struct kvn_queue *q = &g->queue[i];

        stop_queue(q);
        if (q->endpoint != NULL)
            q->endpoint->ops->close(q->endpoint);
        if (q->fd >= 0)
            close(q->fd);
        sem_destroy(&q->answered);
    }
    kvn_steer_close(g->steer);
    if (g->fd >= 0)
        close(g->fd);
    if (g->queue != NULL)
        munmap(g->queue, g->queues * sizeof(g->queue[0]));
    free(g->orphan);
    free(g);
}

void kvn_queues_close(struct kvw_transport *t)
{
    if (t != NULL)
        free_group((struct kvn_queues *)t);
}
