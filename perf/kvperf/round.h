/* SPDX-License-Identifier: Apache-2.0 */
/*
 * round.h - one round: some requests handed over at the same time, and when each layer was
 * computed, pushed and in place.
 *
 * threads  plain data      memory  kvp_round_free() gives back what make took
 * time     ms since the round began, on the sender's clock
 */
#ifndef KVP_ROUND_H
#define KVP_ROUND_H

#include "cache.h"

/* What is to be done. */
struct kvp_round_plan {
    uint32_t lane;
    uint32_t shard; /* of an offer, at the server */
    uint32_t tokens, requests;
    bool shuffled, streamed; /* streamed false: all layers are ready when it begins */
    double prefill_ms;       /* streamed only */
    uint32_t chunk_tokens;   /* 0: the prefill goes through the layers once */
    uint32_t budget;
    bool verify, flip;
    uint64_t timeout_ns;
};

/* What became of one request. */
struct kvp_transfer {
    int32_t err; /* kvw_err */
    char text[KVP_WHY];
    uint64_t raw_bytes, wire_bytes;
    uint32_t chunks, codec;
    double first_ms, last_ms;        /* first and last chunk landed */
    double *computed_ms, *landed_ms; /* by layer; landed < 0: it didn't */
    struct kvp_check check;
    struct kvp_shard {
        uint64_t raw_bytes, wire_bytes;
        double last_ms;   /* its last layer landed */
    } shards[KVP_TP_MAX]; /* of the receiver */
};

struct kvp_round {
    uint32_t requests, layers;
    struct kvp_transfer *transfers;
    double begun_ms, lag_ms; /* lag: the latest push behind its planned time */
    double send_cpu_s, recv_cpu_s;
    uint64_t credit_stalls, encoder_stalls, chunks_rejected;
    uint64_t packets, packets_again; /* of the sender */
    char why_codec[160];             /* the library's sentence on its choice */
};

/* false: no memory. */
bool kvp_round_make(struct kvp_round *r, uint32_t requests, uint32_t layers);
void kvp_round_free(struct kvp_round *r);

/* When layer l of chunk c is computed, ms after the prefill began, and how many tokens are then. */
double kvp_clock_ms(const struct kvp_round_plan *p, uint32_t layers, uint32_t chunk, uint32_t layer,
                    uint32_t *tokens);
uint32_t kvp_clock_chunks(const struct kvp_round_plan *p);

#endif
