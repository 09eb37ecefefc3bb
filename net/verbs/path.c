/* SPDX-License-Identifier: Apache-2.0 */
/* The life of one queue pair: made (INIT), joined (RTS), in error, gone. */
#include <errno.h>
#include <string.h>

#include "impl.h"

/*
 * A lost packet is sent again after 2^14 x 4.096 us = 67 ms, at most six times: a dead path shows
 * after half a second, within KVW_PEER_DEAD_NS. rxe takes seven for "for ever", as the standard
 * does for "receiver not ready". Credits keep receives posted, so that is the peer's fault and ends
 * after six tries.
 */
enum { TIMEOUT = 14, RETRIES = 6, RNR_RETRIES = 6, RNR_TIMER = 12, HOPS = 64 };

uint64_t kvn_verbs_path_wr_id(const struct path *p, uint32_t n)
{
    /* 8 bits of connection and path, 24 of generation, 32 of count. */
    return (uint64_t)(p->conn->index << 4 | p->index) << 56 |
           (uint64_t)(p->generation & 0xffffff) << 32 | n;
}

_Static_assert(VERBS_CONNS <= 16 && VERBS_PATHS <= 16, "a wr_id has 4 bits for each");

bool kvn_verbs_path_make(struct end *e, struct path *p, uint8_t rail)
{
    struct rail *r = &e->rails[rail];
    struct ibv_qp_init_attr init = {.send_cq = r->sent.cq,
                                    .recv_cq = r->received.cq,
                                    .srq = r->srq,
                                    .cap = {.max_send_wr = VERBS_SQ + VERBS_SQ_EXTRA,
                                            .max_send_sge = KVW_PUT_IOV_MAX,
                                            .max_inline_data = VERBS_CTL_BYTES},
                                    .qp_type = IBV_QPT_RC};
    struct ibv_qp_attr attr = {
        .qp_state = IBV_QPS_INIT, .port_num = r->port, .qp_access_flags = IBV_ACCESS_REMOTE_WRITE};

    p->rail = rail;
    if (!r->alive)
        return false;
    p->qp = ibv_create_qp(r->pd, &init);
    if (p->qp == NULL) { /* perhaps only for the inline data */
        init.cap.max_inline_data = 0;
        p->qp = ibv_create_qp(r->pd, &init);
    }
    if (p->qp == NULL)
        return false;
    r->inline_max = init.cap.max_inline_data;
    if (ibv_modify_qp(p->qp, &attr,
                      IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS) != 0) {
        (void)ibv_destroy_qp(p->qp);
        p->qp = NULL;
        return false;
    }
    e->random = e->random * 6364136223846793005ull + 1442695040888963407ull;
    p->psn = (uint32_t)(e->random >> 40);
    if ((++e->next_generation & 0xffffff) == 0) /* 0 marks receives */
        ++e->next_generation;
    p->generation = e->next_generation & 0xffffff;
    p->state = PATH_MADE;
    return true;
}

/* Each queue pair has a flow label of its own, of which RoCE v2 makes the UDP source port: so the
 * network's hashing spreads them. Never 0, which leaves the choice to the driver. */
static uint32_t flow_label(const struct path *p)
{
    return ((p->qp->qp_num ^ p->peer_qpn) * 2654435761u >> 12 | 1u) & 0xfffff;
}

void kvn_verbs_path_timers(struct ibv_qp_attr *attr)
{
    attr->timeout = TIMEOUT;
    attr->retry_cnt = RETRIES;
    attr->rnr_retry = RNR_RETRIES;
    attr->min_rnr_timer = RNR_TIMER;
}

void kvn_verbs_path_live(struct path *p)
{
    p->limit = VERBS_CREDIT;
    p->granted = VERBS_CREDIT;
    p->state = PATH_LIVE;
}

int kvn_verbs_path_join(struct end *e, struct path *p, const union ibv_gid *gid, uint16_t lid,
                        uint32_t mtu)
{
    const struct rail *r = &e->rails[p->rail];
    struct ibv_qp_attr attr = {
        .qp_state = IBV_QPS_RTR,
        .path_mtu = mtu < r->mtu ? mtu : r->mtu,
        .dest_qp_num = p->peer_qpn,
        .rq_psn = p->peer_psn,
        .max_dest_rd_atomic = 1,
        .ah_attr = {.is_global = r->port_attr.link_layer == IBV_LINK_LAYER_ETHERNET || lid == 0 ||
                                 gid->global.subnet_prefix != r->gid.gid.global.subnet_prefix,
                    .dlid = lid,
                    .port_num = r->port,
                    .grh = {.dgid = *gid,
                            .sgid_index = (uint8_t)r->gid.gid_index,
                            .flow_label = flow_label(p),
                            .hop_limit = HOPS}}};
    int error;

    kvn_verbs_path_timers(&attr);
    error = ibv_modify_qp(p->qp, &attr,
                          IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN |
                              IBV_QP_RQ_PSN | IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER);
    if (error != 0)
        return error;
    attr = (struct ibv_qp_attr){.qp_state = IBV_QPS_RTS, .sq_psn = p->psn, .max_rd_atomic = 1};
    kvn_verbs_path_timers(&attr);
    error = ibv_modify_qp(p->qp, &attr,
                          IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY |
                              IBV_QP_SQ_PSN | IBV_QP_MAX_QP_RD_ATOMIC);
    if (error != 0)
        return error;
    kvn_verbs_path_live(p);
    return 0;
}

void kvn_verbs_path_error(struct path *p)
{
    struct ibv_qp_attr attr = {.qp_state = IBV_QPS_ERR};

    if (p->qp != NULL)
        (void)ibv_modify_qp(p->qp, &attr, IBV_QP_STATE);
}

void kvn_verbs_path_destroy(struct path *p)
{
    if (p->qp != NULL)
        (void)ibv_destroy_qp(p->qp);
    p->qp = NULL;
    if (p->state != PATH_NONE)
        p->state = PATH_DEAD;
    p->lost = false;
    p->chain = 0;
}
