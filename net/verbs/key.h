/* SPDX-License-Identifier: Apache-2.0 */
/*
 * key.h - a put and the key it goes by; where the device has memory windows, the keys of a region
 * that is open to a connection (SPEC.md 7).
 *
 * The region's owner (window.c) has a lease per open region and connection: one window of each
 * rail, made and bound when the region is opened, deallocated when it is shut. The writer (key.c)
 * has the keys it was told, and parks the puts that have none.
 *
 * threads  the transport's one
 * memory   in struct conn
 * time     end->now_ns
 */
#ifndef KVN_VERBS_KEY_H
#define KVN_VERBS_KEY_H

#include "rail.h"

#define VERBS_LEASES   8u            /* regions open to one connection at a time */
#define VERBS_KEYS     16u           /* regions of a peer that puts go to */
#define VERBS_PLAIN    0xffu         /* a put whose key has its rkeys in it */
#define VERBS_SHUT_NS  2000000000ull /* a peer that hasn't let go of a key by then loses it */
#define VERBS_BIND_NS  20000000ull   /* a bind waits so long for a queue pair without work */
#define VERBS_BIND     0xfffffffeu   /* in a wr_id, instead of the count */
#define VERBS_KEY_BODY 20u           /* of VERBS_F_KEY */

struct conn;
struct path;

enum put_state { PUT_FREE = 0, PUT_WAITING, PUT_POSTED, PUT_DONE };

struct put {
    enum put_state state;
    uint8_t iov_count;
    uint8_t region; /* index in conn.keys, or VERBS_PLAIN */
    uint16_t next;  /* in the list it is in */
    kvw_err err;
    uint32_t bytes, imm;
    uint64_t cookie, address;
    uint32_t rkey[VERBS_RAILS]; /* VERBS_PLAIN: the key's */
    struct kvw_iov iov[KVW_PUT_IOV_MAX];
    struct verbs_mem *mem[KVW_PUT_IOV_MAX]; /* NULL: in end->map */
    uint16_t copy_at, copy_blocks;
};

#define VERBS_NIL 0xffffu
struct put_list {
    uint16_t head, tail, count;
};

/* --- the writer: key.c ------------------------------------------------------------------------ */

struct peer_region {
    uint64_t address;    /* of its key; 0: free */
    uint32_t generation; /* of the keys */
    uint32_t rkey[VERBS_RAILS];
    uint32_t users;  /* puts that are not done */
    uint32_t posted; /* of those, on a queue pair */
    bool asked;      /* the owner heard that puts wait */
    bool shutting;   /* it waits for posted to be 0 */
};

/* The entry of a region; false: all are in use. */
bool kvn_verbs_key_find(struct conn *c, uint64_t address, uint8_t *index);
/* Its put is done, or waits again. */
void kvn_verbs_key_unposted(struct conn *c, const struct put *put);
/* Tell the owners whose keys are not used any more. */
void kvn_verbs_key_let_go(struct end *e, struct conn *c);
/* Whether a live queue pair has a key for the put. */
bool kvn_verbs_key_has_way(const struct conn *c, const struct put *put);
/* The first waiting put has no key for a live queue pair: it steps aside until one comes. False: it
 * has. */
bool kvn_verbs_key_park(struct end *e, struct conn *c);
/* VERBS_F_KEY, SHUT and GONE. False: malformed. */
bool kvn_verbs_key_frame(struct end *e, struct conn *c, enum verbs_frame_type type,
                         const uint8_t *body, uint32_t bytes);

/* --- the owner: window.c ---------------------------------------------------------------------- */

enum window_state {
    WINDOW_NONE = 0,
    WINDOW_BINDING,  /* its completion is awaited */
    WINDOW_BOUND,    /* and the peer knows the key */
    WINDOW_CANCELED, /* shut meanwhile: goes with its completion */
    WINDOW_REFUSED,  /* the device has none left */
};

enum lease_state { LEASE_FREE = 0, LEASE_OPEN, LEASE_SHUTTING };

struct lease {
    enum lease_state state;
    bool again; /* opened anew while it was shutting */
    uint32_t generation;
    uint64_t address; /* of the region's key */
    uint64_t shut_by_ns;
    struct {
        struct ibv_mw *mw;
        enum window_state state;
    } rail[VERBS_RAILS];
};

kvw_err kvn_verbs_region_open(struct kvw_transport *t, kvw_conn_id conn,
                              const struct kvw_region_key *key);
void kvn_verbs_region_shut(struct kvw_transport *t, kvw_conn_id conn,
                           const struct kvw_region_key *key);
/* VERBS_F_SHUT_OK and ASK. False: malformed. */
bool kvn_verbs_window_frame(struct end *e, struct conn *c, enum verbs_frame_type type,
                            const uint8_t *body, uint32_t bytes);
/* The bind that p carries was carried out, or not. */
void kvn_verbs_window_bound(struct end *e, struct path *p, bool ok);
/* p's queue pair is gone. */
void kvn_verbs_window_path_gone(struct end *e, struct path *p);
void kvn_verbs_window_tick(struct end *e, struct conn *c);
uint64_t kvn_verbs_window_deadline(const struct conn *c);
/* The connection is over: every window goes. */
void kvn_verbs_window_end(struct conn *c);
/* The region goes, and before it its windows, whoever has their keys. */
kvw_err kvn_verbs_region_remove(struct kvw_transport *t, const struct kvw_region_key *key);

#endif
