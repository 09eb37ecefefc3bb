/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rail.h - what a verbs transport sits on: its configuration, the devices in use, the memory that
 * they know; and every limit of the folder. Connections: impl.h.
 *
 * threads  the transport's one
 * memory   taken in open and in region_add() and source_add()
 * time     end->now_ns
 */
#ifndef KVN_VERBS_RAIL_H
#define KVN_VERBS_RAIL_H

#include <infiniband/verbs.h>
#include "../../kvwire/wire.h"
#include "../net.h"
#include "../port/port.h"
#include "verbs.h"
#include "wire.h"

#define VERBS_CONNS      16u
#define VERBS_PUTS       256u /* puts of one connection, accepted and not yet handed back */
#define VERBS_MSG_CELLS  64u  /* message pieces of one connection on their way */
#define VERBS_SQ         128u /* work requests of one queue pair */
#define VERBS_SQ_EXTRA   2u   /* beside them: the one that marks the end */
#define VERBS_CTL_BYTES  32u  /* one control SEND */
#define VERBS_CHAIN      16u  /* work requests per doorbell */
#define VERBS_SIGNAL     16u  /* at least one work request of so many asks for a completion */
#define VERBS_WC         32u  /* completions taken at a time */
#define VERBS_SOURCES    64u  /* announced ranges to put from */
#define VERBS_COPY_BLOCK 16384u
#define VERBS_COPY_COUNT 1024u /* blocks: 16 MiB for puts from unannounced memory */
#define VERBS_SIDE_BYTES 2048u /* side channel, each way, of one connection */
/* Bytes of one queue pair on their way before another put waits: some 10 us at 400 Gb/s each. More
 * gains nothing, and a slow device (rxe) that is given seconds of work answers nobody meanwhile. */
#define VERBS_FLIGHT     (512u << 10)
#define VERBS_PORT       18516u
#define VERBS_TEXT       192u
#define VERBS_LOOK_NS    1000000ull /* descriptors are looked at so often while completions flow */
#define VERBS_PRESENT_NS 100000000ull  /* and whether the device is still there, so often */
#define VERBS_SETTLE_NS  20000000ull   /* a dead queue pair's last completions have come by then */
#define VERBS_CM_NS      2000000000ull /* rdma_cm has joined a queue pair by then, or it is dead */

struct end;
struct conn;

/* --- what the configuration says: config.c ---------------------------------------------------- */

struct rail_choice {
    char device[64];    /* empty: by address */
    struct kvn_addr ip; /* family 0: by device */
    uint8_t port;       /* 0: the first that is up */
    int gid_index;      /* -1: by rule */
    struct kvn_addr cm; /* rdma_cm's address; family 0: the GID's */
};

struct verbs_config {
    struct rail_choice rails[VERBS_RAILS];
    uint32_t rail_count;
    struct kvn_addr side; /* where the side channel listens; family 0: the first rail's address */
    uint16_t side_port;
    uint32_t qps;
    uint32_t mtu; /* bytes; 0: the port's */
    bool cm;      /* queue pairs are joined by rdma_cm */
    bool no_mw;   /* no memory windows, whatever the devices have */
};

/* "RAIL[+RAIL...]", a RAIL "ADDR[:PORT]" or "DEVICE[/PORT][:TCPPORT]", each followed by
 * ",key=value". */
kvw_err kvn_verbs_config(struct verbs_config *out, const char *local, char why[KVN_WHY_BYTES]);

/* --- a device in use: device.c, rail.c -------------------------------------------------------- */

/* A completion queue. Sends and receives have one each, because they wake for different reasons:
 * the first for every completion (only what ends a doorbell has one), the second for what the peer
 * marked as solicited, the last of each of its doorbells. */
struct rail_cq {
    struct ibv_cq *cq;
    struct ibv_wc wc[VERBS_WC]; /* taken, not yet looked at */
    uint32_t at, count;
    uint32_t events_unacked;
    bool armed;
};

struct rail {
    struct ibv_context *ctx; /* NULL: not opened */
    struct ibv_device_attr attr;
    struct ibv_port_attr port_attr;
    struct ibv_gid_entry gid;
    uint8_t port;
    uint32_t mtu; /* enum ibv_mtu */
    bool alive;   /* false: removed or failed; its queue pairs are lost */
    bool port_up;
    char path[IBV_SYSFS_PATH_MAX];
    struct kvn_addr cm;       /* where it is for rdma_cm; family 0: nowhere */
    struct rdma_cm_id *cm_id; /* bound there; a listener listens by it */
    struct ibv_pd *pd;
    struct ibv_comp_channel *channel;
    struct rail_cq sent, received;
    struct ibv_srq *srq;
    struct ibv_mr *mr; /* of end->map */
    uint32_t inline_max;
    uint8_t *recv; /* recv_count buffers in end->map */
    uint32_t recv_count;
    uint32_t *give; /* receive buffers to post again */
    uint32_t give_count;
    struct ibv_recv_wr *give_wr; /* scratch for posting them in one call */
    struct ibv_sge *give_sge;
};

/* Open the device of choice, find port and GID, and say why in about (appended at *at). */
kvw_err kvn_verbs_device_open(struct rail *r, const struct rail_choice *choice, char *about,
                              size_t about_bytes, char why[KVN_WHY_BYTES]);
/* "10.0.0.1" or "fe80::1"; returns buf. */
const char *kvn_verbs_gid_text(const union ibv_gid *gid, char buf[64]);

kvw_err kvn_verbs_rail_open(struct end *e, struct rail *r, char why[KVN_WHY_BYTES]);
void kvn_verbs_rail_close(struct rail *r);
/* Post the given-back receive buffers. */
void kvn_verbs_rail_give(struct rail *r);
/* Ask for an event when there is something to do; true: there is already (in wc). */
bool kvn_verbs_rail_arm(struct rail *r);
/* Whether q has completions that were not looked at; takes some from the device if need be. */
bool kvn_verbs_rail_take(struct rail_cq *q);
/* Take waiting events off the descriptors. */
void kvn_verbs_rail_events(struct end *e, struct rail *r);
/* The device left, or failed for good. */
void kvn_verbs_rail_dead(struct end *e, struct rail *r, const char *text);

/* --- registered memory: memory.c -------------------------------------------------------------- */

struct verbs_mem {
    bool used;
    bool copied;   /* no device knows it: puts from it are copied by its owner's function */
    bool region;   /* peers write there; else puts come from there */
    bool windowed; /* and that through memory windows alone: its own rkeys are for nothing */
    uint32_t users;
    uint32_t serial;
    struct kvw_mem mem;
    uint8_t *shadow; /* host copy that the device writes instead; NULL: the memory itself */
    struct ibv_mr *mr[VERBS_RAILS];
};

kvw_err kvn_verbs_region_add(struct kvw_transport *t, const struct kvw_mem *mem, kvw_put_gate gate,
                             void *gate_arg, struct kvw_region_key *key);
/* A region goes; its windows first (window.c). */
void kvn_verbs_mem_remove(struct verbs_mem *m);
kvw_err kvn_verbs_source_add(struct kvw_transport *t, const struct kvw_mem *mem);
void kvn_verbs_source_remove(struct kvw_transport *t, const struct kvw_mem *mem);
/* The announced memory that holds all of [base, base + bytes), or NULL. */
struct verbs_mem *kvn_verbs_mem_find(struct end *e, const void *base, uint64_t bytes);
/* The region that an address lies in, by its serial; or NULL. */
struct verbs_mem *kvn_verbs_mem_region(struct end *e, uint64_t address);
uint64_t kvn_verbs_mem_address(const struct verbs_mem *m);
/* Bytes landed at that address of a region: bring them to where they are seen, if the device alone
 * doesn't, and say where in the region. False: no region has it any more, or its owner failed. */
bool kvn_verbs_mem_landed(struct end *e, uint64_t address, uint32_t bytes, uint64_t *offset);
void kvn_verbs_mem_close(struct end *e);

#endif
