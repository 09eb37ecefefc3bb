/* SPDX-License-Identifier: Apache-2.0 */
/* Opening a transport of several queues, and what addresses say of queues. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../port/fault.h"
#include "queues.h"
#include "impl.h"
#include "../packet/trace_file.h"

static void wake_queue(void *arg, uint32_t queue)
{
    struct kvn_queues *g = arg;

    kvn_queue_wake(&g->queue[queue]);
}

/* All but the endpoints and the threads. NULL: no memory, or no descriptor (errno). */
static struct kvn_queues *new_group(uint32_t queues, uint32_t payload_max)
{
    struct kvn_queues *g = aligned_alloc(KVN_QUEUE_LINE, sizeof(*g));

    if (g == NULL)
        return NULL;
    memset(g, 0, sizeof(*g));
    g->base.ops = &kvn_queues_ops;
    g->queues = queues;
    g->pid = getpid();
    g->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    g->orphan = calloc(KVN_ORPHANS, sizeof(g->orphan[0]));
    /* Zeros that cost nothing until they are touched. */
    g->queue = mmap(NULL, queues * sizeof(g->queue[0]), PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (g->queue == MAP_FAILED)
        g->queue = NULL;
    for (uint32_t i = 0; i < queues && g->queue != NULL; ++i) {
        g->queue[i].g = g;
        g->queue[i].index = i;
        g->queue[i].fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
        sem_init(&g->queue[i].answered, 0, 0);
    }
    if (g->fd >= 0 && g->orphan != NULL && g->queue != NULL && g->queue[queues - 1].fd >= 0 &&
        kvn_steer_open(&g->steer, queues, payload_max, wake_queue, g) == KVW_OK)
        return g;
    kvn_queues_close(&g->base);
    return NULL;
}

static bool start(struct kvn_queue *q)
{
    sigset_t all, before;

    sigfillset(&all); /* signals are the application's */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    q->running = pthread_create(&q->thread, NULL, kvn_queue_main, q) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return q->running;
}

/* The ports and traces of queues that have no endpoint, which would close them. */
static void close_rest(struct kvn_port *const *ports, const struct kvn_packet_config *packet,
                       uint32_t from, uint32_t queues)
{
    for (uint32_t i = from; i < queues; ++i) {
        ports[i]->ops->close(ports[i]);
        if (packet[i].trace != NULL && packet[i].trace->close != NULL)
            packet[i].trace->close(packet[i].trace);
    }
}

kvw_err kvn_queues_open(struct kvw_transport **t, struct kvn_port *const *ports,
                        const struct kvn_packet_config *packet, uint32_t queues, bool busy_poll,
                        char why[KVN_WHY_BYTES])
{
    struct kvn_queues *g = NULL;
    uint32_t payload_max = 0;
    kvw_err err;

    for (uint32_t i = 0; i < queues; ++i)
        payload_max = ports[i]->payload_max > payload_max ? ports[i]->payload_max : payload_max;
    if (queues < 2 || queues > KVN_QUEUES_MAX) {
        snprintf(why, KVN_WHY_BYTES, "queues %u is not within 2 .. %u", queues, KVN_QUEUES_MAX);
        close_rest(ports, packet, 0, queues);
        return KVW_E_INVALID;
    }
    if ((g = new_group(queues, payload_max)) == NULL) {
        snprintf(why, KVN_WHY_BYTES, "no memory for %u queues", queues);
        close_rest(ports, packet, 0, queues);
        return KVW_E_NOMEM;
    }
    g->busy_poll = busy_poll;
    g->base.one_host = ports[0]->one_host;
    for (uint32_t i = 0; i < queues; ++i) {
        struct kvn_packet_config c = packet[i];

        c.queue = (uint8_t)i;
        c.queues = (uint8_t)queues;
        c.conns_max = KVN_CONNS_STRIDE / queues;
        err =
            kvn_packet_open(&g->queue[i].endpoint, kvn_steer_port(g->steer, i, ports[i]), &c, why);
        if (err != KVW_OK) {
            close_rest(ports, packet, i, queues);
            kvn_queues_close(&g->base);
            return err;
        }
    }
    for (uint32_t i = 0; i < queues; ++i)
        if (!start(&g->queue[i])) {
            snprintf(why, KVN_WHY_BYTES, "no thread for queue %u of %u: %s", i, queues,
                     strerror(errno));
            kvn_queues_close(&g->base);
            return KVW_E_NOMEM;
        }
    *t = &g->base;
    return KVW_OK;
}

static kvw_err open_trace(struct kvn_packet_config *packet, const struct kvn_config *cfg,
                          uint32_t queue, uint32_t queues, const char *name,
                          char why[KVN_WHY_BYTES])
{
    struct kvn_config one = *cfg;
    char path[512];

    packet->trace = NULL;
    if (cfg->trace == NULL)
        return KVW_OK;
    if (queues > 1) {
        if ((size_t)snprintf(path, sizeof(path), "%s.%u", cfg->trace, queue) >= sizeof(path)) {
            snprintf(why, KVN_WHY_BYTES, "trace file's name is over %zu bytes", sizeof(path) - 3);
            return KVW_E_IO;
        }
        one.trace = path;
    }
    return kvn_trace_config(&packet->trace, &one, name, why);
}

kvw_err kvn_queues_finish(struct kvw_transport **t, const struct kvn_config *cfg,
                          struct kvn_port **ports, const struct kvn_packet_config *packet,
                          uint32_t queues, const char *name, char why[KVN_WHY_BYTES])
{
    struct kvn_packet_config each[KVN_QUEUES_MAX] = {0};
    kvw_err err = KVW_OK;

    for (uint32_t i = 0; i < queues && err == KVW_OK; ++i) {
        each[i] = *packet;
        each[i].trace = NULL;
        if (cfg->fault == NULL || (err = kvn_fault_wrap(&ports[i], cfg->fault, why)) == KVW_OK)
            err = open_trace(&each[i], cfg, i, queues, name, why);
    }
    if (err == KVW_OK && queues > 1)
        return kvn_queues_open(t, ports, each, queues, cfg->busy_poll, why);
    if (err == KVW_OK)
        err = kvn_packet_open(t, ports[0], &each[0], why);
    if (err != KVW_OK)
        close_rest(ports, each, 0, queues);
    return err;
}

kvw_err kvn_queues_number(const char *text, const char *where, uint32_t *queues,
                          char why[KVN_WHY_BYTES])
{
    char *end;
    const unsigned long n = strtoul(text, &end, 10);

    if (text[0] >= '0' && text[0] <= '9' && *end == '\0' && n >= 1 && n <= KVN_QUEUES_MAX) {
        *queues = (uint32_t)n;
        return KVW_OK;
    }
    snprintf(why, KVN_WHY_BYTES, "%.40s: queues=%.40s can't be; there can be 1 to %u", where, text,
             KVN_QUEUES_MAX);
    return KVW_E_INVALID;
}

kvw_err kvn_queues_parse(const char *local, char *address, size_t bytes, uint32_t *queues,
                         char why[KVN_WHY_BYTES])
{
    const char *comma = strstr(local, ",queues=");
    const size_t n = comma != NULL ? (size_t)(comma - local) : strlen(local);

    *queues = 1;
    if (n >= bytes) {
        snprintf(why, KVN_WHY_BYTES, "local '%.100s...' is longer than any address", local);
        return KVW_E_INVALID;
    }
    memcpy(address, local, n);
    address[n] = '\0';
    return comma == NULL ? KVW_OK
                         : kvn_queues_number(comma + strlen(",queues="), address, queues, why);
}
