/* SPDX-License-Identifier: Apache-2.0 */
/*
 * queues.h - one transport of several queues: each queue is a port, a packet endpoint over it with
 * a table of connections of its own, and a thread that runs it. A connection lives on one queue for
 * its life; its id says which, so a packet that the network's hash gives to another queue still
 * gets there (port/steer.h).
 *
 *     the application's thread                             a thread of each queue
 *     send(), put() --> a lane of each connection -->      endpoint --> port
 *     poll()        <-- a ring of events of each queue <-- endpoint <-- port <-> other queues
 *
 * threads  As transport.h promises, every call comes from the thread that opened the transport, and
 *          all events come out of its poll(). Queues' threads never call the application, but for a
 *          region's gate, once a put: each from its own thread, beside the application's own code
 *          (kvw_put_gate). Between open and close nothing takes a lock: lanes and rings have one
 *          writer and one reader.
 *          connect(), disconnect(), listen(), region_add(), region_remove() and stats() ask the
 *          queues' threads and wait for their answer, which is a matter of microseconds.
 * memory   all at open; nothing between open and close. About 300 KiB of address space for a
 *          connection in lanes and 1 MiB for a queue's events, touched as they are used
 * time     queues' threads read CLOCK_MONOTONIC, which must be the caller's; they sleep in their
 *          port's wait(). poll() needn't be called for a connection to stay up, nor for puts to
 *          land, until a queue's ring of events is full
 *
 * send() and put() see room that became free at the next poll(), not before. A transport has
 * KVN_CONNS_STRIDE connections, an equal share of them on each queue; connect() takes the queue
 * that has the fewest.
 */
#ifndef KVN_QUEUES_H
#define KVN_QUEUES_H

#include "../net.h"
#include "../packet/endpoint.h"
#include "../port/steer.h"

#ifdef __cplusplus
extern "C" {
#endif

/*
 * A transport of ports[0 .. queues), 2 .. KVN_QUEUES_MAX of them. packet: one for each, in which
 * queue, queues and conns_max are set here. The ports and traces are the transport's from here on:
 * on an error they have been closed.
 *   KVW_E_INVALID  a field of packet is out of range, or queues is
 *   KVW_E_NOMEM    also when no thread can be had
 *   KVW_E_IO       no entropy, no descriptor
 */
KVW_NODISCARD kvw_err kvn_queues_open(struct kvw_transport **t, struct kvn_port *const *ports,
                                      const struct kvn_packet_config *packet, uint32_t queues,
                                      bool busy_poll, char why[KVN_WHY_BYTES]);

/*
 * The rest of opening a transport of ports, of any number: cfg's faults below each, a trace of
 * each (of several, the queue's number is added to the file's name), and one endpoint or several.
 * Errors as kvn_open(); the ports have been closed then, and why is the last sentence.
 */
KVW_NODISCARD kvw_err kvn_queues_finish(struct kvw_transport **t, const struct kvn_config *cfg,
                                        struct kvn_port **ports,
                                        const struct kvn_packet_config *packet, uint32_t queues,
                                        const char *name, char why[KVN_WHY_BYTES]);

/*
 * Cut ",queues=N" from the end of an address, if it is there: *queues is N, else 1.
 *   KVW_E_INVALID  N isn't 1 .. KVN_QUEUES_MAX, or the address is longer than bytes - 1
 */
KVW_NODISCARD kvw_err kvn_queues_parse(const char *local, char *address, size_t bytes,
                                       uint32_t *queues, char why[KVN_WHY_BYTES]);

/* A number of queues in text: KVW_E_INVALID and a sentence if it isn't 1 .. KVN_QUEUES_MAX. */
KVW_NODISCARD kvw_err kvn_queues_number(const char *text, const char *where, uint32_t *queues,
                                        char why[KVN_WHY_BYTES]);

struct kvn_queue_stats {
    struct kvn_packet_stats packets; /* as of a transport of its own */
    struct kvn_steer_stats steer;
    uint32_t conns;  /* a gauge: connections that live here */
    uint64_t sleeps; /* of its thread */
};

struct kvn_queues_stats {
    uint32_t queues;
    struct kvn_queue_stats queue[KVN_QUEUES_MAX];
};

/* Of a transport that kvn_queues_open() made. KVW_E_UNSUPPORTED: it has one queue and no such
 * counters. */
KVW_NODISCARD kvw_err kvn_queues_stats(const struct kvw_transport *t,
                                       struct kvn_queues_stats *stats);

/* The queue a connection lives on; 0 too when t has one. */
uint32_t kvn_queues_of(const struct kvw_transport *t, kvw_conn_id conn);

#ifdef __cplusplus
}
#endif
#endif
