/* SPDX-License-Identifier: Apache-2.0 */
/*
 * path.h - one queue pair of a connection: its life (path.c), and what becomes of its work when it
 * fails (failover.c).
 *
 * threads  the transport's one
 * memory   in struct conn
 * time     end->now_ns
 */
#ifndef KVN_VERBS_PATH_H
#define KVN_VERBS_PATH_H

#include "rail.h"

#define VERBS_MARKER 0xffffffffu /* in a wr_id, instead of the count: the end's */

struct rdma_cm_id;

/* --- a queue pair of a connection: path.c ----------------------------------------------------- */

enum path_state {
    PATH_NONE = 0,
    PATH_MADE,    /* INIT; the peer's half isn't known */
    PATH_UNMADE,  /* lost before it was live; goes when life.c acts on that */
    PATH_LIVE,    /* RTS */
    PATH_FAILED,  /* in ERROR, or soon; its last completions are awaited */
    PATH_SETTLED, /* they have come, and the peer was told; its word is awaited */
    PATH_DEAD,    /* no queue pair any more; its work is done or moved */
};

enum work_kind { WORK_CTL = 1, WORK_MSG, WORK_PUT };

struct work {
    uint8_t kind; /* enum work_kind */
    uint16_t put; /* WORK_PUT: index */
};

struct path {
    enum path_state state;
    uint8_t index; /* in its connection */
    uint8_t rail, peer_rail;
    uint32_t generation; /* of this slot: stale completions have another */
    struct conn *conn;
    struct ibv_qp *qp;
    uint32_t psn, peer_qpn, peer_psn;
    struct rdma_cm_id *cm_id; /* NULL: not joined by rdma_cm */
    uint8_t cm_stage;         /* cm.c */
    bool cm_joined;           /* in RTS, while the state is PATH_MADE: others aren't yet */
    bool probed;              /* the peer's device answered */
    bool lost;                /* reported, and not yet acted on */
    bool errored;             /* its first failed completion was seen */
    bool marked;              /* the marker of the end is posted */
    bool marker_seen;         /* and came back */
    bool binding;             /* it carries the bind of this lease's window */
    uint8_t lease;
    bool peer_settled; /* the peer's VERBS_F_PATH came */
    uint32_t peer_received;
    uint64_t settle_ns; /* not later than this */
    /* Work posted, by count; ring[n % VERBS_SQ]. Each uses up one receive of the peer. */
    uint32_t posted, completed, limit;
    uint32_t since_signal, bytes_since_signal;
    struct work ring[VERBS_SQ];
    uint32_t bytes_in_flight;
    bool draining; /* was full: takes no put until half of it is done */
    /* The peer's, counted here. */
    uint32_t received, recycled, granted;
    /* SPEC.md 4: both ends of a queue pair keep the same two tables, one per direction. */
    uint64_t tx_offset[VERBS_OFFSETS], rx_offset[VERBS_OFFSETS];
    uint32_t tx_imm, rx_imm;
    uint8_t tx_turn[VERBS_OFFSETS / 4];
    /* What goes out at the next doorbell. */
    struct ibv_send_wr wr[VERBS_CHAIN];
    struct ibv_sge sge[VERBS_CHAIN][KVW_PUT_IOV_MAX];
    uint32_t chain;
};

bool kvn_verbs_path_make(struct end *e, struct path *p, uint8_t rail);
/* What rdma_cm and the side channel leave to us: how often, and after how long, a packet is sent
 * again. */
void kvn_verbs_path_timers(struct ibv_qp_attr *attr);
/* It is in RTS. */
void kvn_verbs_path_live(struct path *p);
/* INIT to RTS. 0 or errno. */
int kvn_verbs_path_join(struct end *e, struct path *p, const union ibv_gid *gid, uint16_t lid,
                        uint32_t mtu);
/* To ERROR: what it has in hand comes back as completions. */
void kvn_verbs_path_error(struct path *p);
void kvn_verbs_path_destroy(struct path *p);
uint64_t kvn_verbs_path_wr_id(const struct path *p, uint32_t n);

/* --- failover.c ------------------------------------------------------------------------------- */

/* Its queue pair goes, with all that hangs on it: completions are taken, a bind on it is void, and
 * rdma_cm forgets it. */
void kvn_verbs_path_drop(struct end *e, struct path *p);
/* Act on kvn_verbs_path_lost(). */
void kvn_verbs_path_stop(struct end *e, struct path *p);
void kvn_verbs_path_peer(struct end *e, struct conn *c, uint32_t path, uint32_t received);
void kvn_verbs_path_tick(struct end *e, struct path *p);

#endif
