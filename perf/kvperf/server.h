/* SPDX-License-Identifier: Apache-2.0 */
/*
 * server.h - the receiving end: clients one after another, each with all that its test is made of.
 *
 * threads  the calling one; nodes have their own      memory  a client's is given back with it
 * time     a client that says nothing for ten minutes is dropped
 */
#ifndef KVP_SERVER_H
#define KVP_SERVER_H

#include <sys/types.h>

#include "lane.h"
#include "line.h"
#include "options.h"
#include "round.h"

#define KVP_LEASE_NS  5000000000ull /* how long a transfer may be silent */
#define KVP_LANES_MAX (KVP_CODECS_MAX + 1)

struct kvp_server {
    const char *net;  /* what clients may ask for; NULL: anything, as both ends are one user's */
    const char *link; /* this side's device; NULL: udp */
    bool one_off;
    bool quiet; /* the end that kvperf kv without a host starts */
};

/* One client. */
struct kvp_session {
    const struct kvp_server *server;
    struct kvp_line line;
    char here[64], there[64]; /* addresses of the control connection */
    struct kvp_geometry geometry;
    uint32_t tp, tp_there;              /* shards of this side, and of the client's; 0: not open */
    struct kvp_cache cache[KVP_TP_MAX]; /* a shard each */
    struct kvp_payload payload;
    struct kvp_lane lanes[KVP_LANES_MAX * KVP_TP_MAX]; /* [lane * tp + shard] */
    uint32_t lane_count;                               /* nodes that are open */
    unsigned char *region; /* batch: what the client reads and writes; NULL: none */
    uint64_t region_bytes;
    pid_t iperf3; /* a yardstick of this client's; 0: none */
};

/* Serve until stopped, or one client with one_off. Returns the exit status. */
int kvp_serve(const struct kvp_server *s, int listener);
/* kvperf server. */
int kvp_server_main(const struct kvp_options *o);

/* One client, from its hello to its end; closes what it opened. */
void kvp_session_run(struct kvp_session *s);
/* The receiver's part of a round that the client announced by msg. False: the client is gone. */
bool kvp_session_round(struct kvp_session *s, const cJSON *msg, char why[KVP_WHY]);

/* Offer a request's blocks of plan->shard under a name; said: a sentence, on an error. */
kvw_err kvp_session_offer(struct kvp_session *s, const struct kvp_round_plan *plan,
                          uint32_t request, const char *name, kvw_xfer_ref *xfer,
                          char said[KVP_WHY]);
/* The receiver's part of a replay that the client announced by msg (session_replay.c). False: the
 * client is gone, or why. */
bool kvp_session_replay(struct kvp_session *s, const cJSON *msg, char why[KVP_WHY]);

/* --beside iperf3 (session_beside.c): start one, and tell its port; end it. */
bool kvp_session_iperf3(struct kvp_session *s, char why[KVP_WHY]);
void kvp_session_end_iperf3(struct kvp_session *s);
/* doctor (session_doctor.c): what is found here, and answers to probes until the next message. */
bool kvp_session_doctor(struct kvp_session *s, char why[KVP_WHY]);
/* batch (session_batch.c): memory for the region; tell the lane's node of it; fill or spoil it;
 * compare what is there. False: why. */
bool kvp_session_region(struct kvp_session *s, uint64_t bytes, char why[KVP_WHY]);
bool kvp_session_add_region(struct kvp_session *s, char why[KVP_WHY]);
bool kvp_session_fill(struct kvp_session *s, const cJSON *msg, char why[KVP_WHY]);
bool kvp_session_compare(struct kvp_session *s, const cJSON *msg, char why[KVP_WHY]);

/* Tell a peer what is wrong. */
void kvp_say_error(struct kvp_line *line, const char *why);

#endif
