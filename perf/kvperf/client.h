/* SPDX-License-Identifier: Apache-2.0 */
/*
 * client.h - the sending end: a connection to a server with a lane for each codec, and rounds over
 * it.
 *
 * threads  the calling one; nodes have their own
 * memory   open takes it, close gives it back, also after an open that failed
 * time     every wait has a deadline, and ends when the user stops the program
 */
#ifndef KVP_CLIENT_H
#define KVP_CLIENT_H

#include <sys/types.h>

#include "lane.h"
#include "line.h"
#include "options.h"
#include "round.h"
#include "server.h"

/* The other end, when it is a child of ours. */
struct kvp_local {
    pid_t pid; /* 0: none */
    uint16_t port;
    char folder[64]; /* of Unix sockets; empty: none */
};

struct kvp_client {
    const struct kvp_options *o;
    struct kvp_local local;
    struct kvp_line line;
    char here[64], there[64];
    cJSON *server; /* its hello; NULL: none came */
    char server_path[KVP_WHY];
    struct kvp_cache cache[KVP_TP_MAX]; /* a shard each */
    struct kvp_payload payload;
    struct kvp_lane lanes[KVP_LANES_MAX * KVP_TP_MAX]; /* [lane * tp + shard] */
    uint32_t lane_count; /* nodes that are open. The first lane is raw, then one for each of the
                            options' codecs; on a device, which has one node, there is the first
                            alone, and each stream names its codec */
    uint32_t tokens;     /* room for so many in a request */
    int64_t offset_ns;   /* this clock = the server's + offset */
    uint64_t offset_error_ns;
    uint64_t session, rounds;
    uint64_t region; /* batch: the address of the server's region */
};

/* Connect, and compare clocks. On an error why is a sentence; call kvp_client_close() all the
 * same. */
enum kvp_exit kvp_client_join(struct kvp_client *c, const struct kvp_options *o, char why[KVP_WHY]);
/* After join: a lane [0] without a pool, and a region of so many bytes at the server. */
enum kvp_exit kvp_client_region(struct kvp_client *c, uint64_t bytes, char why[KVP_WHY]);

/* Join, open a lane for each codec, fill the cache. tokens: of the longest request. On an error
 * why is a sentence; call kvp_client_close() all the same. */
enum kvp_exit kvp_client_open(struct kvp_client *c, const struct kvp_options *o, uint32_t tokens,
                              char why[KVP_WHY]);
void kvp_client_close(struct kvp_client *c);

/* The first of the nodes, one a shard, that a row of a plan's lane goes over, and the codec that it
 * names; 0: to be chosen. */
struct kvp_lane *kvp_client_lane(struct kvp_client *c, uint32_t lane);
uint32_t kvp_client_codec(const struct kvp_options *o, uint32_t lane);

/* Write a request's bytes where the blocks of all shards lie. */
void kvp_client_fill(struct kvp_client *c, uint32_t request, uint32_t tokens, bool shuffled);

/* One round into r, which the caller frees. KVP_EXIT_FAILED: this round alone (r says which
 * transfer and why); KVP_EXIT_SERVER: the server is lost; KVP_EXIT_INTERRUPTED. */
enum kvp_exit kvp_client_round(struct kvp_client *c, const struct kvp_round_plan *plan,
                               struct kvp_round *r, char why[KVP_WHY]);

/* Start a server in a child of this process. Before any thread. */
bool kvp_local_start(struct kvp_local *l, bool needs_folder, char why[KVP_WHY]);
void kvp_local_stop(struct kvp_local *l);

/* The command line as typed, in one text. */
void kvp_command_text(const struct kvp_options *o, char *to, size_t bytes);

#endif
