/* SPDX-License-Identifier: Apache-2.0 */
/*
 * key.c - the writer's side of memory windows: which keys to a peer's regions are good now, and the
 * puts that wait for one.
 *
 * Keys and their ends come over the side channel. It doesn't fail with a queue pair, so nothing of
 * this needs to be sent again; a put that is ahead of its key waits here.
 */
#include <string.h>

#include "../../kvwire/wire/le.h"
#include "impl.h"

static struct peer_region *known(struct conn *c, uint64_t address)
{
    for (uint32_t i = 0; i < VERBS_KEYS; ++i)
        if (c->keys[i].address == address)
            return &c->keys[i];
    return NULL;
}

static bool has_keys(const struct peer_region *r)
{
    for (uint32_t i = 0; i < VERBS_RAILS; ++i)
        if (r->rkey[i] != 0)
            return true;
    return false;
}

bool kvn_verbs_key_find(struct conn *c, uint64_t address, uint8_t *index)
{
    struct peer_region *r = known(c, address);

    for (uint32_t i = 0; i < VERBS_KEYS && r == NULL; ++i) {
        struct peer_region *old = &c->keys[i];

        if (old->users > 0 || has_keys(old) || old->shutting)
            continue;
        r = old;
        *r = (struct peer_region){.address = address};
    }
    if (r == NULL)
        return false;
    *index = (uint8_t)(r - c->keys);
    return true;
}

/* The peer needn't wait any more to take its keys back. */
static void let_go(struct end *e, struct conn *c, uint64_t address, uint32_t generation)
{
    uint8_t body[12];

    kvw_store_le64(body, address);
    kvw_store_le32(body + 8, generation);
    kvn_verbs_side_send(e, c, VERBS_F_SHUT_OK, body, sizeof(body));
}

void kvn_verbs_key_unposted(struct conn *c, const struct put *put)
{
    struct peer_region *r;

    if (put->region == VERBS_PLAIN)
        return;
    r = &c->keys[put->region];
    c->let_go_due |= --r->posted == 0 && r->shutting;
}

void kvn_verbs_key_let_go(struct end *e, struct conn *c)
{
    c->let_go_due = false;
    for (uint32_t i = 0; i < VERBS_KEYS && c->state == CONN_LIVE; ++i) {
        struct peer_region *r = &c->keys[i];

        if (!r->shutting || r->posted > 0)
            continue;
        r->shutting = false;
        let_go(e, c, r->address, r->generation);
    }
}

bool kvn_verbs_key_has_way(const struct conn *c, const struct put *put)
{
    if (put->region == VERBS_PLAIN)
        return true;
    for (uint32_t i = 0; i < c->path_count; ++i)
        if (c->paths[i].state == PATH_LIVE && c->keys[put->region].rkey[c->paths[i].peer_rail] != 0)
            return true;
    return false;
}

bool kvn_verbs_key_park(struct end *e, struct conn *c)
{
    struct peer_region *r;
    uint8_t body[8];
    uint16_t at;

    if (kvn_verbs_key_has_way(c, &c->puts[c->waiting.head]))
        return false;
    at = kvn_verbs_list_pop(c, &c->waiting);
    kvn_verbs_list_push(c, &c->parked, at);
    ++e->counters.parked;
    r = &c->keys[c->puts[at].region];
    if (r->asked)
        return true;
    r->asked = true;
    kvw_store_le64(body, r->address);
    kvn_verbs_side_send(e, c, VERBS_F_ASK, body, sizeof(body));
    return true;
}

/* Something changed: each of them has another look. */
static void unpark(struct conn *c)
{
    while (c->parked.count > 0)
        kvn_verbs_list_push(c, &c->waiting, kvn_verbs_list_pop(c, &c->parked));
}

bool kvn_verbs_key_told(const struct kvw_transport *t, kvw_conn_id conn,
                        const struct kvw_region_key *key, struct kvw_region_key *with)
{
    struct conn *c = kvn_verbs_conn_find(kvn_verbs_end(t), conn);
    const struct peer_region *r = c != NULL ? known(c, kvw_load_le64(key->bytes)) : NULL;

    if (r == NULL || !has_keys(r))
        return false;
    *with = *key;
    for (uint32_t i = 0; i < VERBS_RAILS; ++i)
        kvw_store_le32(with->bytes + 16 + 4 * i, r->rkey[i]);
    return true;
}

static bool on_key(struct conn *c, uint64_t address, const uint8_t *body)
{
    const uint32_t generation = kvw_load_le32(body), rail = kvw_load_le32(body + 4);
    const uint32_t rkey = kvw_load_le32(body + 8);
    struct peer_region *r;
    uint8_t index;

    if (address == 0 || rail >= VERBS_RAILS || rkey == 0)
        return false;
    if (!kvn_verbs_key_find(c, address, &index))
        return false;
    r = &c->keys[index];
    if (r->shutting) /* its owner waits for our word, or has given it up: then this says so */
        r->shutting = false;
    if (r->generation != generation)
        memset(r->rkey, 0, sizeof(r->rkey));
    r->generation = generation;
    r->rkey[rail] = rkey;
    r->asked = false;
    unpark(c);
    return true;
}

static void on_shut(struct end *e, struct conn *c, uint64_t address, uint32_t generation)
{
    struct peer_region *r = known(c, address);

    if (r != NULL) {
        memset(r->rkey, 0, sizeof(r->rkey));
        r->generation = generation;
        r->shutting = r->posted > 0;
        if (r->shutting)
            return;
    }
    let_go(e, c, address, generation);
}

static void on_gone(struct conn *c, uint64_t address)
{
    const struct peer_region *r = known(c, address);

    if (r == NULL)
        return;
    memset(c->keys[r - c->keys].rkey, 0, sizeof(r->rkey));
    c->keys[r - c->keys].shutting = false;
    for (uint16_t i = 0; i < VERBS_PUTS && c->breach == NULL; ++i)
        if (c->puts[i].state == PUT_WAITING && c->puts[i].region == r - c->keys) {
            c->breach = "a put is to a region that the peer has not registered (any more)";
            c->breach_put = i;
        }
}

bool kvn_verbs_key_frame(struct end *e, struct conn *c, enum verbs_frame_type type,
                         const uint8_t *body, uint32_t bytes)
{
    const uint64_t address = bytes >= 8 ? kvw_load_le64(body) : 0;

    if (type == VERBS_F_KEY)
        return bytes == VERBS_KEY_BODY && on_key(c, address, body + 8);
    if (type == VERBS_F_SHUT && bytes == 12)
        on_shut(e, c, address, kvw_load_le32(body + 8));
    else if (type == VERBS_F_GONE && bytes == 8)
        on_gone(c, address);
    else
        return false;
    return true;
}
