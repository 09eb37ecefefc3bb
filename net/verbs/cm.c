/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cm.c - queue pairs joined by rdma_cm (SPEC.md 6): the kernel finds address, route and, on
 * InfiniBand, the path record, and carries the numbers of both halves through QP 1.
 *
 *   connector                              listener
 *   resolves address, then route
 *   request {ticket, path}         ->      finds the queue pair that WELCOME named; RTR, RTS
 *                                  <-      accepts
 *   RTR, RTS; establishes          ->
 *
 * librdmacm opens devices for itself, and objects of two openings don't mix. So an identifier is
 * given no queue pair: ours, made on our own opening, gets the attributes that rdma_init_qp_attr()
 * tells, and the identifier its number. What the kernel would guess of timeouts (seconds on RoCE)
 * is replaced by path.c's.
 *
 * An identifier ends when its connection is up: a queue pair doesn't need it, and the end of one is
 * a message to the peer's kernel. By its source rxe of Linux 6.1 ends QP 1 of its device with the
 * first message that has no way out, sent by us or by the kernel for a process that dies; then
 * nobody joins by rdma_cm on that device until it is made anew.
 *
 * Every wait is an event on one descriptor in the transport's poll set. An event is given back
 * before it is acted upon, since destroying an identifier waits for its events.
 */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <rdma/rdma_cma.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "../../kvwire/wire/le.h"
#include "impl.h"

enum { STAGE_NONE = 0, STAGE_ADDRESS, STAGE_ROUTE, STAGE_CONNECT };

/* Half of the time is the request's. */
#define RESOLVE_MS ((int)(VERBS_CM_NS / 4 / 1000000))

/* Reasons that a listener of ours gives as the one byte of its reject. */
enum { NO_SUCH_TICKET = 1, NO_SUCH_PATH, WRONG_DEVICE, NOT_JOINED };

/* Of the standard (IBTA 12.6.7.2); the kernel's header with them is not for programs. */
enum { REJ_STALE = 10, REJ_NO_SERVICE = 8, REJ_CONSUMER = 28 };

union cm_addr {
    struct sockaddr any;
    struct sockaddr_in four;
    struct sockaddr_in6 six;
};

/* Link-local addresses need the interface that they are on: the device's own. */
static void to_sockaddr(union cm_addr *out, const struct kvn_addr *a, const struct rail *r)
{
    memset(out, 0, sizeof(*out));
    if (a->family == 4) {
        out->four.sin_family = AF_INET;
        out->four.sin_port = htons(a->port);
        memcpy(&out->four.sin_addr, a->ip, 4);
        return;
    }
    out->six.sin6_family = AF_INET6;
    out->six.sin6_port = htons(a->port);
    memcpy(&out->six.sin6_addr, a->ip, 16);
    if (IN6_IS_ADDR_LINKLOCAL(&out->six.sin6_addr))
        out->six.sin6_scope_id = r->gid.ndev_ifindex;
}

/* The identifier sits on the device and port of r. */
static bool is_on(const struct rdma_cm_id *id, const struct rail *r)
{
    return id->verbs != NULL && id->port_num == r->port &&
           strcmp(id->verbs->device->name, r->ctx->device->name) == 0;
}

/* --- opening ---------------------------------------------------------------------------------- */

static void address_of(struct rail *r, const struct rail_choice *choice)
{
    const uint8_t *gid = r->gid.gid.raw;

    if (choice->cm.family != 0) {
        r->cm = choice->cm;
        return;
    }
    r->cm = (struct kvn_addr){.family = 0};
    if (r->port_attr.link_layer != IBV_LINK_LAYER_ETHERNET)
        return;
    r->cm.family = gid[10] == 0xff && gid[11] == 0xff ? 4 : 6;
    memcpy(r->cm.ip, r->cm.family == 4 ? gid + 12 : gid, r->cm.family == 4 ? 4 : 16);
}

static kvw_err open_rail(struct end *e, struct rail *r, bool listener, char why[KVN_WHY_BYTES])
{
    const char *name = r->ctx->device->name;
    char text[KVN_ADDR_TEXT_BYTES];
    union cm_addr at;

    if (r->cm.family == 0) {
        snprintf(why, KVN_WHY_BYTES,
                 "verbs: cm: the GID of %.40s is no IP address; give its interface's (IPoIB) as "
                 "cm=ADDR",
                 name);
        return KVW_E_ADDRESS;
    }
    to_sockaddr(&at, &r->cm, r);
    if (rdma_create_id(e->cm, &r->cm_id, NULL, RDMA_PS_TCP) != 0) {
        snprintf(why, KVN_WHY_BYTES, "verbs: rdma_cm gives no identifier: %s", strerror(errno));
        r->cm_id = NULL;
        return KVW_E_DEVICE;
    }
    if (rdma_bind_addr(r->cm_id, &at.any) != 0 || !is_on(r->cm_id, r)) {
        snprintf(why, KVN_WHY_BYTES,
                 "verbs: cm: rdma_cm doesn't find %.40s by the address %s%s%s; it takes one of its "
                 "interface's (ip addr, rdma link)",
                 name, kvn_addr_format(&r->cm, text), r->cm_id->verbs == NULL ? ": " : "",
                 r->cm_id->verbs == NULL ? strerror(errno) : "");
        return KVW_E_ADDRESS;
    }
    if (listener && rdma_listen(r->cm_id, VERBS_CONNS * VERBS_QPS_MAX) != 0) {
        snprintf(why, KVN_WHY_BYTES, "verbs: rdma_cm can't listen at %s: %s",
                 kvn_addr_format(&r->cm, text), strerror(errno));
        return KVW_E_ADDRESS;
    }
    /* A connector's stays, too: it is told when the device goes. */
    r->cm.port = listener ? ntohs(rdma_get_src_port(r->cm_id)) : 0;
    return KVW_OK;
}

kvw_err kvn_verbs_cm_open(struct end *e, bool listener, char why[KVN_WHY_BYTES])
{
    kvw_err err = KVW_OK;
    int flags;

    if ((e->cm = rdma_create_event_channel()) == NULL) {
        snprintf(why, KVN_WHY_BYTES,
                 "verbs: cm: no rdma_cm: %s (modprobe rdma_ucm; is /dev/infiniband/rdma_cm there "
                 "and writable?)",
                 strerror(errno));
        return KVW_E_DEVICE;
    }
    flags = fcntl(e->cm->fd, F_GETFL);
    if (flags < 0 || fcntl(e->cm->fd, F_SETFL, flags | O_NONBLOCK) != 0) {
        snprintf(why, KVN_WHY_BYTES, "verbs: cm: %s", strerror(errno));
        return KVW_E_IO;
    }
    for (uint32_t i = 0; i < e->rail_count && err == KVW_OK; ++i) {
        address_of(&e->rails[i], &e->cfg.rails[i]);
        err = open_rail(e, &e->rails[i], listener, why);
    }
    return err;
}

void kvn_verbs_cm_close(struct end *e)
{
    for (uint32_t i = 0; i < e->rail_count; ++i) {
        if (e->rails[i].cm_id != NULL)
            (void)rdma_destroy_id(e->rails[i].cm_id);
        e->rails[i].cm_id = NULL;
    }
    if (e->cm != NULL)
        rdma_destroy_event_channel(e->cm);
    e->cm = NULL;
}

int kvn_verbs_cm_fd(const struct end *e)
{
    return e->cm->fd;
}

/* --- one queue pair --------------------------------------------------------------------------- */

void kvn_verbs_cm_drop(struct path *p)
{
    /* Tells the peer's kernel, and doesn't wait for its answer. */
    if (p->cm_id != NULL)
        (void)rdma_destroy_id(p->cm_id);
    p->cm_id = NULL;
    p->cm_stage = STAGE_NONE;
}

static bool joining(const struct path *p)
{
    return p->state == PATH_MADE && !p->cm_joined;
}

static void fail(struct end *e, struct path *p, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
static void fail(struct end *e, struct path *p, const char *fmt, ...)
{
    struct conn *c = p->conn;
    va_list args;

    va_start(args, fmt);
    vsnprintf(c->cm_text, sizeof(c->cm_text), fmt, args);
    va_end(args);
    kvn_verbs_path_lost(e, p, "rdma_cm didn't join it");
}

static const char *there(const struct path *p, char text[KVN_ADDR_TEXT_BYTES])
{
    return kvn_addr_format(&p->conn->peer_rails[p->peer_rail].cm, text);
}

/* The address could not be resolved, by the reason that the kernel gave. */
static void no_address(struct end *e, struct path *p, int error)
{
    char from[KVN_ADDR_TEXT_BYTES], to[KVN_ADDR_TEXT_BYTES];

    kvn_addr_format(&e->rails[p->rail].cm, from);
    (void)there(p, to);
    if (error == ETIMEDOUT)
        fail(e, p,
             "rdma_cm: nobody answers for the address %s (ARP or neighbour discovery): is the "
             "peer's interface up and on this network?",
             to);
    else if (error == ENODEV || error == EADDRNOTAVAIL)
        fail(e, p, "rdma_cm: no RDMA device for %s from %s: see 'rdma link' and 'ip route get'", to,
             from);
    else
        fail(e, p, "rdma_cm: no route from %s to %s: %s (ip route)", from, to, strerror(error));
}

static void rejected(struct end *e, struct path *p, int status, int reason)
{
    static const char *const ours[] = {
        [NO_SUCH_TICKET] = "it knows no such connection (any more)",
        [NO_SUCH_PATH] = "it has no queue pair for this request",
        [WRONG_DEVICE] = "the request came to another device than the one it offered: see routes "
                         "and rp_filter there",
        [NOT_JOINED] = "its device refused the queue pair's attributes"};
    char text[KVN_ADDR_TEXT_BYTES];

    (void)there(p, text);
    if (status == REJ_CONSUMER && reason >= NO_SUCH_TICKET && reason <= NOT_JOINED)
        fail(e, p, "rdma_cm: %s rejected the request: %s", text, ours[reason]);
    else if (status == REJ_CONSUMER)
        fail(e, p,
             "rdma_cm: %s's kernel rejected the request: it found no way back to us by the "
             "interface it came by (routes, rp_filter)",
             text);
    else if (status == REJ_NO_SERVICE)
        fail(e, p, "rdma_cm: %s rejected the request: nobody listens there", text);
    else if (status == REJ_STALE)
        fail(e, p, "rdma_cm: %s takes the queue pair for one that has just ended: connect again",
             text);
    else
        fail(e, p, "rdma_cm: %s rejected the request (reason %d of the standard)", text, status);
}

static int modify(struct path *p, struct rail *r, enum ibv_qp_state state, uint8_t peer_mtu)
{
    struct ibv_qp_attr attr = {.qp_state = state};
    int mask = 0;

    if (rdma_init_qp_attr(p->cm_id, &attr, &mask) != 0)
        return errno;
    if (state == IBV_QPS_INIT)
        attr.qp_access_flags = IBV_ACCESS_REMOTE_WRITE;
    if (state == IBV_QPS_RTR) {
        p->peer_qpn = attr.dest_qp_num;
        if (attr.path_mtu > r->mtu)
            attr.path_mtu = (enum ibv_mtu)r->mtu;
        if (attr.path_mtu > peer_mtu)
            attr.path_mtu = (enum ibv_mtu)peer_mtu;
    }
    kvn_verbs_path_timers(&attr);
    return ibv_modify_qp(p->qp, &attr, mask);
}

static struct rdma_conn_param conn_param(const struct path *p)
{
    struct rdma_conn_param param = {
        .responder_resources = 1, .initiator_depth = 1, .srq = 1, .qp_num = p->qp->qp_num};
    struct ibv_qp_attr timers;

    kvn_verbs_path_timers(&timers);
    param.retry_count = timers.retry_cnt;
    param.rnr_retry_count = timers.rnr_retry;
    return param;
}

/* --- the connector ---------------------------------------------------------------------------- */

static void dial(struct end *e, struct path *p)
{
    struct rail *r = &e->rails[p->rail];
    const struct kvn_addr *to = &p->conn->peer_rails[p->peer_rail].cm;
    union cm_addr from_sa, to_sa;
    struct kvn_addr from = r->cm;

    if (to->family != from.family) {
        fail(e, p, "rdma_cm: one side's address is IPv4 and the other's IPv6; give both alike");
        return;
    }
    from.port = 0;
    to_sockaddr(&from_sa, &from, r);
    to_sockaddr(&to_sa, to, r);
    if (rdma_create_id(e->cm, &p->cm_id, p, RDMA_PS_TCP) != 0) {
        p->cm_id = NULL;
        fail(e, p, "rdma_cm gives no identifier: %s", strerror(errno));
        return;
    }
    p->cm_stage = STAGE_ADDRESS;
    if (rdma_resolve_addr(p->cm_id, &from_sa.any, &to_sa.any, RESOLVE_MS) != 0)
        no_address(e, p, errno);
}

void kvn_verbs_cm_dial(struct end *e, struct conn *c)
{
    c->cm_from_ns = e->now_ns;
    for (uint32_t i = 0; i < c->path_count && c->state == CONN_DIALING; ++i)
        if (joining(&c->paths[i]))
            dial(e, &c->paths[i]);
}

static void on_address(struct end *e, struct path *p)
{
    struct rail *r = &e->rails[p->rail];
    char text[KVN_ADDR_TEXT_BYTES];

    p->cm_stage = STAGE_ROUTE;
    if (!is_on(p->cm_id, r))
        fail(e, p, "rdma_cm: the route to %s is over another device than %.40s", there(p, text),
             r->ctx->device->name);
    else if (rdma_resolve_route(p->cm_id, RESOLVE_MS) != 0)
        fail(e, p, "rdma_cm: no path to %s: %s", there(p, text), strerror(errno));
}

static void on_route(struct end *e, struct path *p)
{
    struct rdma_conn_param param = conn_param(p);
    uint8_t data[VERBS_CM_BYTES] = {0};
    char text[KVN_ADDR_TEXT_BYTES];
    int error;

    p->cm_stage = STAGE_CONNECT;
    kvw_store_le32(data, VERBS_CM_MAGIC);
    kvw_store_le16(data + 4, VERBS_VERSION);
    data[6] = p->index;
    kvw_store_le64(data + 8, p->conn->ticket);
    param.private_data = data;
    param.private_data_len = sizeof(data);
    error = modify(p, &e->rails[p->rail], IBV_QPS_INIT, IBV_MTU_4096);
    if (error == 0 && rdma_connect(p->cm_id, &param) != 0)
        error = errno;
    if (error != 0)
        fail(e, p, "rdma_cm: no request could be sent to %s: %s", there(p, text), strerror(error));
}

static void on_response(struct end *e, struct path *p)
{
    const uint8_t mtu = p->conn->peer_rails[p->peer_rail].mtu;
    struct rail *r = &e->rails[p->rail];
    int error = modify(p, r, IBV_QPS_RTR, mtu);

    if (error == 0)
        error = modify(p, r, IBV_QPS_RTS, mtu);
    if (error == 0 && rdma_establish(p->cm_id) != 0)
        error = errno;
    if (error != 0) {
        fail(e, p, "the device refused the attributes that rdma_cm gave: %s", strerror(error));
        return;
    }
    e->reported = p->cm_joined = true;
}

/* --- the listener ----------------------------------------------------------------------------- */

/* The queue pair that a request is for; else the reason of the reject. */
static struct path *wanted(struct end *e, const struct rdma_cm_id *id, const uint8_t *data,
                           uint8_t *reason)
{
    *reason = NO_SUCH_TICKET;
    if (kvw_load_le32(data) != VERBS_CM_MAGIC || kvw_load_le16(data + 4) != VERBS_VERSION)
        return NULL;
    for (uint32_t i = 0; i < VERBS_CONNS; ++i) {
        struct conn *c = &e->conns[i];
        struct path *p;

        if (c->state != CONN_ACCEPTED || !c->by_cm || c->ticket != kvw_load_le64(data + 8))
            continue;
        *reason = NO_SUCH_PATH;
        if (data[6] >= c->path_count)
            return NULL;
        p = &c->paths[data[6]];
        if (!joining(p) || p->cm_id != NULL)
            return NULL;
        *reason = WRONG_DEVICE;
        return is_on(id, &e->rails[p->rail]) ? p : NULL;
    }
    return NULL;
}

static void on_request(struct end *e, struct rdma_cm_id *id, const uint8_t *data)
{
    uint8_t reason;
    struct path *p = wanted(e, id, data, &reason);
    struct rdma_conn_param param;
    struct rail *r;
    uint8_t mtu;

    if (p == NULL) {
        (void)rdma_reject(id, &reason, sizeof(reason));
        (void)rdma_destroy_id(id);
        return;
    }
    r = &e->rails[p->rail];
    mtu = p->conn->peer_rails[p->peer_rail].mtu;
    p->cm_id = id;
    id->context = p;
    param = conn_param(p);
    if (modify(p, r, IBV_QPS_INIT, mtu) == 0 && modify(p, r, IBV_QPS_RTR, mtu) == 0 &&
        modify(p, r, IBV_QPS_RTS, mtu) == 0 && rdma_accept(id, &param) == 0) {
        p->cm_joined = true; /* and READY is the word that the other half is */
        return;
    }
    reason = NOT_JOINED;
    (void)rdma_reject(id, &reason, sizeof(reason));
    kvn_verbs_path_lost(e, p, "its device refused the attributes that rdma_cm gave");
}

/* --- events ----------------------------------------------------------------------------------- */

struct event {
    enum rdma_cm_event_type type;
    struct rdma_cm_id *id;
    int status;
    uint8_t data[VERBS_CM_BYTES]; /* zero where there was none */
};

static bool take(struct end *e, struct event *out)
{
    struct rdma_cm_event *ev;

    if (rdma_get_cm_event(e->cm, &ev) != 0)
        return false;
    *out = (struct event){.type = ev->event, .id = ev->id, .status = ev->status};
    if (ev->param.conn.private_data != NULL &&
        (ev->event == RDMA_CM_EVENT_CONNECT_REQUEST || ev->event == RDMA_CM_EVENT_REJECTED))
        memcpy(out->data, ev->param.conn.private_data,
               ev->param.conn.private_data_len < sizeof(out->data) ? ev->param.conn.private_data_len
                                                                   : sizeof(out->data));
    (void)rdma_ack_cm_event(ev);
    return true;
}

static void device_removed(struct end *e, const struct rdma_cm_id *id)
{
    for (uint32_t i = 0; i < e->rail_count; ++i) {
        struct rail *r = &e->rails[i];

        if (r->ctx == NULL || !is_on(id, r))
            continue;
        if (r->cm_id != NULL)
            (void)rdma_destroy_id(r->cm_id);
        r->cm_id = NULL;
        kvn_verbs_rail_dead(e, r, "the device is being removed");
        return;
    }
}

/* What else may come (a disconnect, the end of timewait) the side channel tells better. */
static void on_event(struct end *e, const struct event *ev)
{
    struct path *p = ev->id->context;
    char text[KVN_ADDR_TEXT_BYTES];

    if (ev->type == RDMA_CM_EVENT_DEVICE_REMOVAL) {
        device_removed(e, ev->id);
        return;
    }
    if (ev->type == RDMA_CM_EVENT_CONNECT_REQUEST) {
        on_request(e, ev->id, ev->data);
        return;
    }
    if (p == NULL || p->cm_id != ev->id || !joining(p))
        return;
    switch (ev->type) {
    case RDMA_CM_EVENT_ADDR_RESOLVED:
        on_address(e, p);
        break;
    case RDMA_CM_EVENT_ADDR_ERROR:
        no_address(e, p, ev->status < 0 ? -ev->status : ev->status);
        break;
    case RDMA_CM_EVENT_ROUTE_RESOLVED:
        on_route(e, p);
        break;
    case RDMA_CM_EVENT_ROUTE_ERROR:
        fail(e, p, "rdma_cm: no path to %s: %s (does the subnet manager know it?)", there(p, text),
             strerror(ev->status < 0 ? -ev->status : ev->status));
        break;
    case RDMA_CM_EVENT_CONNECT_RESPONSE:
        on_response(e, p);
        break;
    case RDMA_CM_EVENT_REJECTED:
        rejected(e, p, ev->status, ev->data[0]);
        break;
    case RDMA_CM_EVENT_UNREACHABLE:
    case RDMA_CM_EVENT_CONNECT_ERROR:
        fail(e, p, "rdma_cm: %s doesn't answer: is its device up, and UDP port 4791 open?",
             there(p, text));
        break;
    default:
        break;
    }
}

void kvn_verbs_cm_events(struct end *e)
{
    struct event ev;

    for (uint32_t i = 0; i < 64 && e->cm != NULL && take(e, &ev); ++i)
        on_event(e, &ev);
}

/* --- deadlines -------------------------------------------------------------------------------- */

void kvn_verbs_cm_tick(struct end *e, struct conn *c)
{
    static const char *const what[] = {[STAGE_NONE] = "nothing was begun",
                                       [STAGE_ADDRESS] = "the address was not resolved",
                                       [STAGE_ROUTE] = "no path was found",
                                       [STAGE_CONNECT] = "no answer to the request; is the "
                                                         "peer's device up, and UDP port 4791 "
                                                         "open?"};
    char text[KVN_ADDR_TEXT_BYTES];

    if (c->cm_from_ns == 0 || c->state != CONN_DIALING || e->now_ns < c->cm_from_ns + VERBS_CM_NS)
        return;
    for (uint32_t i = 0; i < c->path_count && c->state == CONN_DIALING; ++i)
        if (joining(&c->paths[i]))
            fail(e, &c->paths[i], "rdma_cm: %s within %u ms: %s", there(&c->paths[i], text),
                 (unsigned)(VERBS_CM_NS / 1000000), what[c->paths[i].cm_stage]);
}

uint64_t kvn_verbs_cm_deadline(const struct conn *c)
{
    return c->cm_from_ns != 0 && c->state == CONN_DIALING ? c->cm_from_ns + VERBS_CM_NS
                                                          : UINT64_MAX;
}
