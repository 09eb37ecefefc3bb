/* SPDX-License-Identifier: Apache-2.0 */
/*
 * conn.c - the table of connections, below all that works on them: finding and taking an entry, the
 * lists of its puts, and what is reported of it. A report changes the state and calls nobody;
 * life.c acts on it when the batch of completions, the frame or the event that showed it is done.
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "impl.h"

struct conn *kvn_verbs_conn_find(struct end *e, kvw_conn_id id)
{
    for (uint32_t i = 0; i < VERBS_CONNS; ++i) {
        struct conn *c = &e->conns[i];

        if (c->state != CONN_FREE && c->state < CONN_OVER && c->id.value == id.value)
            return c;
    }
    return NULL;
}

void kvn_verbs_list_push(struct conn *c, struct put_list *l, uint16_t put)
{
    c->puts[put].next = VERBS_NIL;
    if (l->count++ == 0)
        l->head = put;
    else
        c->puts[l->tail].next = put;
    l->tail = put;
}

uint16_t kvn_verbs_list_pop(struct conn *c, struct put_list *l)
{
    const uint16_t put = l->head;

    if (l->count == 0)
        return VERBS_NIL;
    l->head = c->puts[put].next;
    --l->count;
    return put;
}

struct conn *kvn_verbs_conn_take(struct end *e)
{
    for (uint32_t i = 0; i < VERBS_CONNS; ++i) {
        struct conn *c = &e->conns[i];
        uint8_t *assembly;

        if (c->state != CONN_FREE)
            continue;
        assembly = c->assembly;
        memset(c, 0, sizeof(*c));
        c->assembly = assembly;
        c->index = i;
        c->fd = -1;
        if (++e->next_id == 0)
            ++e->next_id;
        c->id.value = e->next_id;
        c->begun_ns = c->heard_ns = c->ping_ns = e->now_ns;
        for (uint16_t p = 0; p < VERBS_PUTS; ++p)
            kvn_verbs_list_push(c, &c->free, p);
        for (uint8_t p = 0; p < VERBS_PATHS; ++p) {
            c->paths[p].conn = c;
            c->paths[p].index = p;
        }
        return c;
    }
    return NULL;
}

void kvn_verbs_put_copy_release(struct end *e, struct put *p)
{
    memset(e->copy_used + p->copy_at, 0, p->copy_blocks);
    p->copy_blocks = 0;
}

void kvn_verbs_put_done(struct end *e, struct conn *c, uint16_t put, kvw_err err)
{
    struct put *p = &c->puts[put];

    kvn_verbs_put_copy_release(e, p);
    if (p->region != VERBS_PLAIN)
        --c->keys[p->region].users;
    p->state = PUT_DONE;
    p->err = err;
    kvn_verbs_list_push(c, &c->done, put);
}

void kvn_verbs_conn_end(struct end *e, struct conn *c, bool tell, kvw_err err, const char *fmt, ...)
{
    va_list args;

    if (c->state == CONN_FREE || c->state >= CONN_OVER)
        return;
    va_start(args, fmt);
    vsnprintf(c->text, sizeof(c->text), fmt, args);
    va_end(args);
    c->down_err = err;
    c->tell = tell;
    c->state = CONN_OVER;
    e->reported = true;
}

void kvn_verbs_path_lost(struct end *e, struct path *p, const char *text)
{
    struct conn *c = p->conn;

    if (c->state >= CONN_OVER || (p->state != PATH_MADE && p->state != PATH_LIVE))
        return;
    e->reported = p->lost = true;
    if (p->state == PATH_MADE) {
        p->state = PATH_UNMADE;
        return;
    }
    p->state = PATH_FAILED;
    p->settle_ns = e->now_ns + VERBS_SETTLE_NS;
    p->chain = 0;
    c->lost_text = text;
    ++e->counters.paths_lost;
}
