/* SPDX-License-Identifier: Apache-2.0 */
/*
 * path.h - one way through the network between two peers, by the UDP port of this side that it
 * leaves from: its own packet numbers, acknowledgements, round trip, losses and window. A
 * connection has 1 .. KVN_PATHS_MAX of them. SPEC.md 4.
 *
 * threads  one
 * memory   the caller's struct; records of what was sent are the connection's memory
 * time     as given
 */
#ifndef KVN_PACKET_PATH_H
#define KVN_PACKET_PATH_H

#include "../port/port.h"
#include "cc.h"
#include "fit.h"
#include "inflight.h"
#include "loss.h"
#include "seen.h"
#include "stats.h"

enum kvn_path_state {
    KVN_PATH_NONE,   /* nothing was sent or came on it */
    KVN_PATH_UNSURE, /* CHALLENGE is out; RESPONSE leads to LIVE */
    KVN_PATH_LIVE,   /* carries anything; two probes without an answer may lead to DOWN */
    KVN_PATH_DOWN,   /* as UNSURE, but what was on it went to others */
};

/* Packets that a path owes. */
enum kvn_path_due {
    KVN_DUE_RESPONSE = 1,
    KVN_DUE_CHALLENGE = 2,
    KVN_DUE_PING = 4,  /* does the path carry anything? */
    KVN_DUE_PROBE = 8, /* a PING of fit.trying bytes */
    KVN_DUE_NACK = 16, /* which slices the connection waits for */
    KVN_DUE_WHO = 32,  /* CHALLENGE, to where the peer may have moved */
};

struct kvn_conn;

/* What stats.h tells, as far as nothing else here says it. */
struct kvn_path_count {
    uint64_t bytes_sent, packets_received, bytes_received;
    uint64_t packets_lost, packets_retransmitted, probes, moves;
};

/* Where the peer may have moved: a packet with a new number came from there. Nothing but CHALLENGE
 * goes there, and nothing that comes from there is acted on, before its token comes back. */
struct kvn_path_move {
    struct kvn_addr to; /* family 0: nowhere */
    uint8_t source;     /* the port's own UDP port to answer from */
    uint64_t token;
    uint64_t asked_ns; /* the last CHALLENGE */
};

struct kvn_path {
    struct kvn_conn *conn; /* whose it is, for the callbacks of inflight.h */
    uint8_t id;            /* in the header */
    uint8_t source;        /* the port's own UDP port it leaves from */
    enum kvn_path_state state;
    struct kvn_addr peer;
    uint8_t due; /* enum kvn_path_due: packets to leave before anything else */
    bool ping_due;
    uint32_t challenges;      /* since the last RESPONSE */
    uint64_t challenge_at_ns; /* when the next CHALLENGE leaves; UINT64_MAX: none */
    uint64_t challenge;       /* its token */
    uint64_t response;        /* the token to send back */
    uint32_t ask_every;       /* packets; by the window */
    uint32_t since_asked;     /* packets since one asked for an ACK at once */
    uint32_t probe_credit;    /* packets that may leave although the window is full */
    uint32_t nack_doubt;      /* times that a NACK made something be sent again in vain */
    uint64_t late;            /* packets that were taken for lost and came */
    uint32_t ce;              /* what the peer's last ACK said */
    uint64_t acked_ns;        /* when it last proved to work; 0: never */
    uint64_t progress_ns;     /* when something last proved to have arrived, or nothing was out */
    struct kvn_seen seen;
    struct kvn_inflight out;
    struct kvn_loss loss;
    struct kvn_cc cc;
    struct kvn_path_count count;
    struct kvn_fit fit;
    struct kvn_path_move move;
};

/* ring: KVN_SENT_FIRST records. */
void kvn_path_begin(struct kvn_path *p, struct kvn_conn *conn, uint8_t id, struct kvn_sent *ring);

/* Ask whether the peer is there; the answer must bring token back. */
void kvn_path_challenge(struct kvn_path *p, uint64_t token, uint64_t now_ns);
/* The CHALLENGE left: the next one, if need be, is a while away. */
void kvn_path_challenged(struct kvn_path *p, uint64_t now_ns);
/* A RESPONSE came. Returns whether the path has become LIVE by it. */
bool kvn_path_response(struct kvn_path *p, uint64_t token, uint64_t now_ns);

/* A packet that is new came from another address: the peer is asked there, now or when the next one
 * comes. */
void kvn_path_suspect(struct kvn_path *p, const struct kvn_addr *from, uint8_t source,
                      uint64_t token, uint64_t now_ns);
/* A RESPONSE came from there. Returns whether it proves that the peer is. */
bool kvn_path_proved(const struct kvn_path *p, const struct kvn_addr *from, uint64_t token);
/* From now on that is the path's address, and nothing is known of the way there. Nothing is out. */
void kvn_path_moved(struct kvn_path *p, uint64_t now_ns);

/* Whether DATA and MSG may leave as far as the window goes; kvn_cc_send_at() says when. */
static inline bool kvn_path_open(const struct kvn_path *p)
{
    /* The last eighth of the records is kept for ACKs and PINGs: without those nothing would
     * settle. */
    return p->state == KVN_PATH_LIVE && (p->out.bytes < p->cc.window || p->probe_credit > 0) &&
           p->out.next - p->out.base < p->out.asking_max;
}

/* The window may have changed: four times in each, and every 16 packets at least, an ACK is asked
 * for, so that a small window never waits for the peer's timer. */
void kvn_path_ask_every(struct kvn_path *p);

/* Number a packet that has been decided on. */
uint64_t kvn_path_record(struct kvn_path *p, const struct kvn_sent *sent);

#endif
