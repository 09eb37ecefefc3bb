/* SPDX-License-Identifier: Apache-2.0 */
#include "dpdk_bench_protocol.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../../../net/packet/endpoint.h"

#define OUTSTANDING 16u
#define EVENTS      64u

static uint64_t now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static struct kvw_transport *over(struct kvn_port *port, const struct t_protocol *p)
{
    const struct kvn_packet_config cfg = {.slice_bytes = p->slice};
    struct kvw_transport *t;
    char why[KVN_WHY_BYTES];

    if (kvn_packet_open(&t, port, &cfg, why) != KVW_OK) {
        fprintf(stderr, "%s\n", why);
        _Exit(1);
    }
    return t;
}

static uint32_t turn(struct kvw_transport *t, const struct t_protocol *p,
                     struct kvw_transport_event *ev)
{
    const uint32_t n = t->ops->poll(t, now_ns(), ev, EVENTS);

    if (n == 0 && p->one_cpu)
        sched_yield();
    return n;
}

void t_protocol_receive(struct kvn_port *port, const struct t_protocol *p)
{
    const struct kvw_mem mem = {.base = p->pool, .bytes = p->pool_bytes, .kind = KVW_MEM_HOST};
    struct kvw_transport_event ev[EVENTS];
    struct kvw_transport *t = over(port, p);
    struct kvw_region_key key;
    struct kvw_transport_stats s;
    uint64_t bytes = 0, begin_ns = 0, end_ns = 0;

    if (t->ops->region_add(t, &mem, NULL, NULL, &key) != KVW_OK || t->ops->listen(t) != KVW_OK)
        _Exit(1);
    for (bool done = false; !done;) {
        const uint32_t n = turn(t, p, ev);

        for (uint32_t i = 0; i < n; ++i) {
            if (ev[i].kind == KVW_TEV_CONN_UP &&
                t->ops->send(t, ev[i].conn, &key, sizeof(key)) != KVW_OK)
                _Exit(1);
            if (ev[i].kind == KVW_TEV_PUT_LANDED) {
                end_ns = now_ns();
                if (begin_ns == 0)
                    begin_ns = end_ns; /* this one isn't counted */
                else
                    bytes += ev[i].bytes;
            }
            done |= ev[i].kind == KVW_TEV_CONN_DOWN;
        }
    }
    t->ops->stats(t, &s);
    printf("  received %lu packets, sent %lu, %lu twice: %.1f Gb/s\n",
           (unsigned long)s.packets_received, (unsigned long)s.packets_sent,
           (unsigned long)s.packets_duplicate, (double)bytes * 8 / (double)(end_ns - begin_ns));
    fflush(stdout);
    t->ops->close(t);
}

static kvw_conn_id meet(struct kvw_transport *t, const struct t_protocol *p,
                        struct kvw_region_key *key)
{
    struct kvw_transport_event ev[EVENTS];
    kvw_conn_id conn;

    if (t->ops->connect(t, NULL, now_ns(), &conn) != KVW_OK)
        _Exit(1);
    for (;;) {
        const uint32_t n = turn(t, p, ev);

        for (uint32_t i = 0; i < n; ++i) {
            if (ev[i].kind == KVW_TEV_CONN_DOWN)
                _Exit(1);
            if (ev[i].kind == KVW_TEV_MESSAGE) {
                memcpy(key, ev[i].msg, sizeof(*key));
                return conn;
            }
        }
    }
}

void t_protocol_send(struct kvn_port *port, const struct t_protocol *p)
{
    struct kvw_transport *t = over(port, p);
    struct kvw_transport_event ev[EVENTS];
    struct kvw_transport_stats s;
    struct kvw_put put = {.iov_count = 1};
    const kvw_conn_id conn = meet(t, p, &put.key);
    const uint64_t end_ns = now_ns() + (uint64_t)(p->seconds * 1e9);
    uint64_t queued = 0, done = 0;

    for (uint64_t now = now_ns(); now < end_ns || done < queued; now = now_ns()) {
        uint32_t n;

        while (queued - done < OUTSTANDING && now < end_ns) {
            put.offset = queued * p->put_bytes % (p->pool_bytes - p->put_bytes);
            put.iov[0] = (struct kvw_iov){p->pool + put.offset, p->put_bytes};
            if (t->ops->put(t, conn, &put) != KVW_OK)
                break;
            ++queued;
        }
        n = turn(t, p, ev);
        for (uint32_t i = 0; i < n; ++i) {
            if (ev[i].kind == KVW_TEV_PUT_DONE && ev[i].err == KVW_OK) {
                ++done;
            } else if (ev[i].kind != KVW_TEV_MESSAGE) {
                fprintf(stderr, "the connection broke\n");
                _Exit(1);
            }
        }
    }
    t->ops->stats(t, &s);
    printf("  sent %lu packets, %lu again, received %lu, found the ring full %lu times\n",
           (unsigned long)s.packets_sent, (unsigned long)s.packets_retransmitted,
           (unsigned long)s.packets_received, (unsigned long)s.tx_full);
    fflush(stdout);
    t->ops->close(t);
}
