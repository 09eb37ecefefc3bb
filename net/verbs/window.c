/* SPDX-License-Identifier: Apache-2.0 */
/*
 * window.c - the owner's side of memory windows: a region is open to a connection as long as
 * windows for that connection are bound to it.
 *
 * A window is made, bound and deallocated once per opening, and never bound again: deallocating is
 * a call that returns when the key is dead, whatever became of the queue pair and of work requests
 * on it; a bind whose outcome is unknown leaves nothing behind that could still be valid. The peer
 * is told a key when its bind has succeeded, so what it knows is good.
 *
 * Type 1 windows belong to the protection domain, not to the queue pair that bound them: a key
 * outlives that one, and serves every queue pair of its rail.
 *
 * Timers:  bind_from_ns  a bind goes to a queue pair without other work for so long (rxe of Linux
 *                        6.1 carries out a second time what follows a packet that it sends again,
 *                        and a bind fails then); after that to any
 *          shut_by_ns    the peer's SHUT_OK
 */
#include <string.h>
#include <unistd.h>

#include "../../kvwire/wire/le.h"
#include "impl.h"

static void tell(struct end *e, struct conn *c, enum verbs_frame_type type, const struct lease *l)
{
    uint8_t body[12];

    kvw_store_le64(body, l->address);
    kvw_store_le32(body + 8, l->generation);
    kvn_verbs_side_send(e, c, type, body, sizeof(body));
}

static void tell_gone(struct end *e, struct conn *c, uint64_t address)
{
    uint8_t body[8];

    kvw_store_le64(body, address);
    kvn_verbs_side_send(e, c, VERBS_F_GONE, body, sizeof(body));
}

/* --- windows ---------------------------------------------------------------------------------- */

static void drop_window(struct lease *l, uint32_t rail)
{
    if (l->rail[rail].mw != NULL)
        (void)ibv_dealloc_mw(l->rail[rail].mw);
    l->rail[rail].mw = NULL;
    l->rail[rail].state = WINDOW_NONE;
}

/* All but those that a queue pair has in hand: deallocating one fails the bind and so the queue
 * pair. Nobody knows their keys. */
static void drop_windows(struct lease *l)
{
    for (uint32_t i = 0; i < VERBS_RAILS; ++i) {
        if (l->rail[i].state == WINDOW_BINDING)
            l->rail[i].state = WINDOW_CANCELED;
        if (l->rail[i].state != WINDOW_CANCELED)
            drop_window(l, i);
    }
}

static void bind_soon(const struct end *e, struct conn *c)
{
    c->bind_due = true;
    c->bind_from_ns = e->now_ns;
}

static bool live_on(const struct conn *c, uint32_t rail)
{
    for (uint32_t i = 0; i < c->path_count; ++i)
        if (c->paths[i].state == PATH_LIVE && c->paths[i].rail == rail)
            return true;
    return false;
}

/* The queue pair for a bind: without work, or, when that is late, any. */
static struct path *path_for(struct conn *c, uint32_t rail, bool late)
{
    struct path *any = NULL;

    for (uint32_t i = 0; i < c->path_count; ++i) {
        struct path *p = &c->paths[i];

        if (p->state != PATH_LIVE || p->rail != rail || p->binding)
            continue;
        if (p->posted == p->completed)
            return p;
        any = p;
    }
    return late ? any : NULL;
}

static void bind_window(struct end *e, struct path *p, struct lease *l, const struct verbs_mem *m)
{
    struct ibv_mw_bind bind = {.wr_id = kvn_verbs_path_wr_id(p, VERBS_BIND),
                               .send_flags = IBV_SEND_SIGNALED,
                               .bind_info = {.mr = m->mr[p->rail],
                                             .addr = l->address,
                                             .length = m->mem.bytes,
                                             .mw_access_flags = IBV_ACCESS_REMOTE_WRITE}};
    struct ibv_mw *mw = ibv_alloc_mw(e->rails[p->rail].pd, IBV_MW_TYPE_1);

    l->rail[p->rail].mw = mw;
    if (mw == NULL || ibv_bind_mw(p->qp, mw, &bind) != 0) {
        drop_window(l, p->rail);
        l->rail[p->rail].state = WINDOW_REFUSED;
        return;
    }
    l->rail[p->rail].state = WINDOW_BINDING;
    p->binding = true;
    p->lease = (uint8_t)(l - p->conn->leases);
    ++e->counters.binds;
}

/* False: the peer can never get a key. */
static bool bind_lease(struct end *e, struct conn *c, struct lease *l, bool late)
{
    const struct verbs_mem *m = kvn_verbs_mem_region(e, l->address);
    bool hope = false;

    for (uint32_t i = 0; m != NULL && i < e->rail_count; ++i) {
        struct path *p;

        if (m->mr[i] == NULL || !live_on(c, i))
            continue;
        if (l->rail[i].state == WINDOW_NONE) {
            if ((p = path_for(c, i, late)) != NULL)
                bind_window(e, p, l, m);
            else
                c->bind_due = true;
        }
        hope |= l->rail[i].state != WINDOW_REFUSED;
    }
    return hope;
}

static void bind_due(struct end *e, struct conn *c)
{
    const bool late = e->now_ns - c->bind_from_ns >= VERBS_BIND_NS;

    if (!c->bind_due || c->state != CONN_LIVE)
        return;
    c->bind_due = false;
    if (late)
        c->bind_from_ns = e->now_ns;
    for (uint32_t i = 0; i < VERBS_LEASES; ++i)
        if (c->leases[i].state == LEASE_OPEN && !bind_lease(e, c, &c->leases[i], late)) {
            kvn_verbs_conn_end(e, c, true, KVW_E_DEVICE,
                               "no device binds a memory window: say mw=0 after its address");
            return;
        }
}

void kvn_verbs_window_bound(struct end *e, struct path *p, bool ok)
{
    struct conn *c = p->conn;
    struct lease *l = &c->leases[p->lease];
    const uint32_t rail = p->rail;
    uint8_t body[VERBS_KEY_BODY];

    p->binding = false;
    if (l->rail[rail].state == WINDOW_BINDING && ok) {
        l->rail[rail].state = WINDOW_BOUND;
        kvw_store_le64(body, l->address);
        kvw_store_le32(body + 8, l->generation);
        kvw_store_le32(body + 12, rail);
        kvw_store_le32(body + 16, l->rail[rail].mw->rkey);
        kvn_verbs_side_send(e, c, VERBS_F_KEY, body, sizeof(body));
        return;
    }
    if (l->rail[rail].state == WINDOW_BINDING || l->rail[rail].state == WINDOW_CANCELED) {
        drop_window(l, rail);
        bind_soon(e, c);
    }
    if (!ok)
        kvn_verbs_path_lost(e, p, "the device didn't bind a memory window");
}

void kvn_verbs_window_path_gone(struct end *e, struct path *p)
{
    struct lease *l = &p->conn->leases[p->lease];

    if (!p->binding)
        return;
    p->binding = false;
    if (l->rail[p->rail].state != WINDOW_BINDING && l->rail[p->rail].state != WINDOW_CANCELED)
        return;
    drop_window(l, p->rail);
    bind_soon(e, p->conn);
}

/* --- opening and shutting --------------------------------------------------------------------- */

static struct lease *lease_of(struct conn *c, uint64_t address)
{
    for (uint32_t i = 0; i < VERBS_LEASES; ++i)
        if (c->leases[i].state != LEASE_FREE && c->leases[i].address == address)
            return &c->leases[i];
    return NULL;
}

/* A bind of an earlier opening may still be on its way. */
static bool in_hand(const struct conn *c, uint32_t lease)
{
    for (uint32_t i = 0; i < c->path_count; ++i)
        if (c->paths[i].binding && c->paths[i].lease == lease)
            return true;
    return false;
}

static void open_lease(struct end *e, struct conn *c, struct lease *l)
{
    l->state = LEASE_OPEN;
    l->again = false;
    l->generation = ++c->next_generation;
    bind_soon(e, c);
}

/* The keys are dead when this returns. */
static void end_shutting(struct end *e, struct conn *c, struct lease *l)
{
    --c->shutting;
    drop_windows(l);
    l->state = LEASE_FREE;
    if (l->again)
        open_lease(e, c, l);
}

kvw_err kvn_verbs_region_open(struct kvw_transport *t, kvw_conn_id id,
                              const struct kvw_region_key *key)
{
    struct end *e = kvn_verbs_end(t);
    const uint64_t address = kvw_load_le64(key->bytes);
    const struct verbs_mem *m = kvn_verbs_mem_region(e, address);
    struct conn *c = kvn_verbs_conn_find(e, id);
    struct lease *l;

    if (m == NULL || address != kvn_verbs_mem_address(m) || c == NULL || c->state != CONN_LIVE)
        return KVW_E_NOTFOUND;
    if (!m->windowed)
        return KVW_OK;
    if ((l = lease_of(c, address)) != NULL) {
        l->again = l->state == LEASE_SHUTTING;
        return KVW_OK;
    }
    for (uint32_t i = 0; i < VERBS_LEASES && l == NULL; ++i)
        if (c->leases[i].state == LEASE_FREE && !in_hand(c, i))
            l = &c->leases[i];
    if (l == NULL)
        return KVW_E_AGAIN;
    memset(l, 0, sizeof(*l));
    l->address = address;
    open_lease(e, c, l);
    bind_due(e, c);
    return KVW_OK;
}

void kvn_verbs_region_shut(struct kvw_transport *t, kvw_conn_id id,
                           const struct kvw_region_key *key)
{
    struct end *e = kvn_verbs_end(t);
    struct conn *c = kvn_verbs_conn_find(e, id);
    struct lease *l = c != NULL ? lease_of(c, kvw_load_le64(key->bytes)) : NULL;
    bool told = false;

    if (l == NULL || e->pid != getpid())
        return;
    if (l->state == LEASE_SHUTTING) {
        l->again = false;
        return;
    }
    for (uint32_t i = 0; i < VERBS_RAILS; ++i)
        told |= l->rail[i].state == WINDOW_BOUND;
    l->state = LEASE_SHUTTING;
    l->again = false;
    l->shut_by_ns = e->now_ns + VERBS_SHUT_NS;
    ++c->shutting;
    if (told)
        tell(e, c, VERBS_F_SHUT, l);
    else
        end_shutting(e, c, l);
}

bool kvn_verbs_window_frame(struct end *e, struct conn *c, enum verbs_frame_type type,
                            const uint8_t *body, uint32_t bytes)
{
    const uint64_t address = bytes >= 8 ? kvw_load_le64(body) : 0;
    const struct verbs_mem *m;
    struct lease *l;

    if (type == VERBS_F_SHUT_OK && bytes == 12) {
        l = lease_of(c, address);
        if (l != NULL && l->state == LEASE_SHUTTING && l->generation == kvw_load_le32(body + 8))
            end_shutting(e, c, l);
        return true;
    }
    if (type != VERBS_F_ASK || bytes != 8)
        return false;
    m = kvn_verbs_mem_region(e, address);
    if (m == NULL || !m->windowed || kvn_verbs_mem_address(m) != address)
        tell_gone(e, c, address);
    return true;
}

/* --- time and ends ---------------------------------------------------------------------------- */

void kvn_verbs_window_tick(struct end *e, struct conn *c)
{
    for (uint32_t i = 0; i < VERBS_LEASES && c->shutting > 0; ++i)
        if (c->leases[i].state == LEASE_SHUTTING && e->now_ns >= c->leases[i].shut_by_ns) {
            ++e->counters.keys_taken;
            end_shutting(e, c, &c->leases[i]);
        }
    bind_due(e, c);
}

uint64_t kvn_verbs_window_deadline(const struct conn *c)
{
    uint64_t at = c->bind_due ? c->bind_from_ns + VERBS_BIND_NS : UINT64_MAX;

    for (uint32_t i = 0; i < VERBS_LEASES && c->shutting > 0; ++i)
        if (c->leases[i].state == LEASE_SHUTTING && c->leases[i].shut_by_ns < at)
            at = c->leases[i].shut_by_ns;
    return at;
}

static void drop_lease(struct conn *c, struct lease *l)
{
    c->shutting -= l->state == LEASE_SHUTTING;
    l->state = LEASE_FREE;
    for (uint32_t i = 0; i < VERBS_RAILS; ++i)
        drop_window(l, i);
}

void kvn_verbs_window_end(struct conn *c)
{
    for (uint32_t i = 0; i < VERBS_LEASES; ++i)
        drop_lease(c, &c->leases[i]);
    c->bind_due = false;
}

/* A device keeps what windows are bound to, so they go first. */
static void drop_region(struct end *e, const struct verbs_mem *m)
{
    const uint64_t address = kvn_verbs_mem_address(m);

    for (uint32_t i = 0; i < VERBS_CONNS && m->windowed; ++i) {
        struct conn *c = &e->conns[i];

        for (uint32_t k = 0; k < VERBS_LEASES; ++k)
            if (c->leases[k].address == address)
                drop_lease(c, &c->leases[k]);
        if (c->state == CONN_LIVE) /* open or shut: puts may wait for it */
            tell_gone(e, c, address);
    }
}

kvw_err kvn_verbs_region_remove(struct kvw_transport *t, const struct kvw_region_key *key)
{
    struct end *e = kvn_verbs_end(t);
    struct verbs_mem *m = kvn_verbs_mem_region(e, kvw_load_le64(key->bytes));

    if (e->pid != getpid())
        return KVW_OK;
    if (m == NULL || kvw_load_le64(key->bytes) != kvn_verbs_mem_address(m))
        return KVW_E_NOTFOUND;
    drop_region(e, m);
    kvn_verbs_mem_remove(m);
    return KVW_OK;
}
