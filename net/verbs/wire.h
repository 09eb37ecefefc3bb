/* SPDX-License-Identifier: Apache-2.0 */
/*
 * wire.h - every number that two verbs ends must agree on, on one page. SPEC.md is the text that
 * goes with it.
 */
#ifndef KVN_VERBS_WIRE_H
#define KVN_VERBS_WIRE_H

#include <stdint.h>

/* SPEC.md 2: frames on the side channel (TCP): magic, version, type, body bytes; then the body. */
#define VERBS_MAGIC          0x5657564bu /* "KVWV", little-endian */
#define VERBS_VERSION        3u
#define VERBS_FRAME_HDR      12u
#define VERBS_FRAME_BODY_MAX 512u

enum verbs_frame_type {
    VERBS_F_HELLO = 1,    /* connector: its rails */
    VERBS_F_WELCOME = 2,  /* listener: its rails, lanes, its queue pairs */
    VERBS_F_READY = 3,    /* connector: its queue pairs; they can receive */
    VERBS_F_GO = 4,       /* listener: its queue pairs can receive too */
    VERBS_F_PING = 5,     /* both ways: I live */
    VERBS_F_BYE = 6,      /* both ways, last: disconnect */
    VERBS_F_END = 7,      /* both ways, last: an error code and a sentence */
    VERBS_F_PATH = 8,     /* both ways: this queue pair is over, and so many I had received on it */
    VERBS_F_KEY = 9,      /* owner: a rail's key to a region */
    VERBS_F_SHUT = 10,    /* owner: let go of the region's keys */
    VERBS_F_SHUT_OK = 11, /* writer: nothing of mine is on its way there */
    VERBS_F_ASK = 12,     /* writer: a put waits for the region's keys */
    VERBS_F_GONE = 13,    /* owner: there is no such region (any more) */
};

/* SPEC.md 3: what a SEND carries in front: type, flags, granted, sequence. */
#define VERBS_SEND_HDR 16u

enum verbs_send_type {
    VERBS_S_PROBE = 1,  /* first on every queue pair */
    VERBS_S_CREDIT = 2, /* nothing but the header's granted */
    VERBS_S_MSG = 3,    /* a piece of a message */
    VERBS_S_PLACE = 4,  /* where the next put goes: offset u64, imm u32, index u16 */
};
#define VERBS_PLACE_BYTES (VERBS_SEND_HDR + 16u)
#define VERBS_MORE        1u /* flag of VERBS_S_MSG: the message goes on in the next piece */

/* SPEC.md 4: the immediate of a put: index into the queue pair's table of offsets, low bits
 * of imm. */
#define VERBS_INDEX_BITS 10u
#define VERBS_OFFSETS    (1u << VERBS_INDEX_BITS)
#define VERBS_IMM_BITS   (32u - VERBS_INDEX_BITS)

/* SPEC.md 6: what an rdma_cm request brings along: magic, version, path, 0, ticket. */
#define VERBS_CM_MAGIC 0x4357564bu /* "KVWC", little-endian */
#define VERBS_CM_BYTES 16u

/* Limits. */
#define VERBS_RAILS      4u    /* devices of a process; a region key has room for 4 rkeys */
#define VERBS_QPS_MAX    4u    /* queue pairs of a lane */
#define VERBS_PATHS      8u    /* queue pairs of a connection: lanes x qps */
#define VERBS_RECV_BYTES 4096u /* of one receive buffer; one packet at the largest MTU */
#define VERBS_CREDIT     64u   /* receives that a peer may use up before it is told more */

#endif
