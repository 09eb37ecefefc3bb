/* SPDX-License-Identifier: Apache-2.0 */
/* core_api.c - what a caller adds and asks: events, peers, pools, ends, figures. */
#include <stdio.h>
#include <stdlib.h>

#include "batch/batch.h"
#include "kv/depart.h"
#include "kv/device.h"
#include "kv/hold.h"
#include "kv/lend.h"
#include "peer/events.h"
#include "peer/link.h"

_Static_assert(sizeof(((struct kvw_core_event *)0)->codec_chunks) == 4 * KVW_CODEC_IDS,
               "one count for each codec id");

#define XXH_INLINE_ALL
#include <xxhash.h>

kvw_key kvw_key_of(const char *text)
{
    const XXH128_hash_t h = XXH3_128bits(text, strlen(text));
    kvw_key key;

    for (uint32_t i = 0; i < 8; ++i) {
        key.bytes[i] = (uint8_t)(h.low64 >> 8 * i);
        key.bytes[8 + i] = (uint8_t)(h.high64 >> 8 * i);
    }
    return key;
}

/* --- events ----------------------------------------------------------------------------------- */

void kvw_core_forget_last(struct kvw_core *c)
{
    struct kvw_transfer *t = c->last_done;

    c->last_done = NULL;
    if (t == NULL)
        return;
    t->event_due = false;
    kvw_transfer_release(c, t);
}

static uint32_t main_codec(const struct kvw_transfer *t)
{
    uint32_t most = 0;

    for (uint32_t i = 1; i < KVW_CODEC_IDS; ++i)
        if (t->codec_chunks[i] > t->codec_chunks[most])
            most = i;
    return most;
}

/* NULL: it has ended meanwhile. */
static void fill_note(struct kvw_core_event *ev, const struct kvw_transfer *t)
{
    if (t == NULL || !t->receiver)
        return;
    ev->note_bytes = t->note_bytes;
    memcpy(ev->note, t->note, t->note_bytes);
}

static void fill_done(struct kvw_core_event *ev, const struct kvw_transfer *t)
{
    ev->chunks = t->chunks;
    ev->raw_bytes = t->raw_bytes;
    ev->wire_bytes = t->wire_bytes;
    ev->first_ns = t->first_ns;
    ev->last_ns = t->last_ns;
    ev->codec = main_codec(t);
    memcpy(ev->codec_chunks, t->codec_chunks, sizeof(ev->codec_chunks));
    snprintf(ev->text, sizeof(ev->text), "%s", t->text);
    fill_note(ev, t);
}

/* What pulls moved; the hold goes. */
static void fill_gone(struct kvw_core_event *ev, struct kvw_hold *h)
{
    ev->raw_bytes = h->raw_bytes;
    ev->wire_bytes = h->wire_bytes;
    ev->chunks = h->chunks;
    kvw_hold_free(h);
}

bool kvw_core_next_event(struct kvw_core *c, struct kvw_core_event *out)
{
    struct kvw_core_event ev;
    struct kvw_core_rec *rec;
    struct kvw_hold *hold;

    if (out->size < 8) /* what was taken would be lost */
        return false;
    kvw_core_forget_last(c);
    if ((rec = kvw_core_rec_take(c)) == NULL)
        return false;
    memset(&ev, 0, sizeof(ev));
    ev.kind = rec->kind;
    ev.err = rec->err;
    ev.peer.value = rec->peer;
    ev.xfer.value = rec->xfer;
    ev.key = rec->key;
    ev.layer = rec->layer;
    ev.at_ns = rec->at_ns;
    snprintf(ev.text, sizeof(ev.text), "%s", rec->text);
    if (rec->done != NULL) {
        fill_done(&ev, rec->done);
        c->last_done = rec->done; /* its bad blocks may still be asked for */
    }
    if (rec->kind == KVW_CEV_COMMITTED)
        fill_note(&ev, kvw_transfer_of_ref(c, ev.xfer));
    if (rec->note != NULL) {
        ev.note_bytes = rec->note_bytes;
        memcpy(ev.note, rec->note, rec->note_bytes);
    }
    if (rec->batch != NULL)
        kvw_batch_fill_event(&ev, rec->batch);
    hold = rec->hold;
    kvw_core_rec_free(c, rec);
    if (hold != NULL)
        fill_gone(&ev, hold);
    if (c->held_up && c->other_room >= KVW_STEP_EVENTS)
        c->more = true;
    return kvw_core_copy_out(out, out->size, &ev, sizeof(ev));
}

/* --- peers ------------------------------------------------------------------------------------ */

kvw_err kvw_core_peer_add(struct kvw_core *c, uint32_t path, const char *address, uint64_t now_ns,
                          kvw_peer_id *peer)
{
    struct kvw_peer *p, *idle;

    c->now_ns = now_ns;
    if (path >= c->way_count || (address != NULL && strlen(address) > KVW_ADDRESS_MAX))
        return KVW_E_INVALID;
    if (c->peer_count == c->peers_max && (idle = kvw_peer_oldest_idle(c)) != NULL)
        kvw_peer_free(c, idle);
    if (c->peer_count == c->peers_max)
        return KVW_E_AGAIN;
    if ((p = kvw_peer_new(c, path)) == NULL)
        return KVW_E_NOMEM;
    p->added = true;
    p->has_address = address != NULL;
    snprintf(p->address, sizeof(p->address), "%s", address != NULL ? address : "");
    p->dial_at_ns = now_ns;
    kvw_heap_set(&c->timers, &p->timer, now_ns);
    *peer = (kvw_peer_id){p->id};
    return KVW_OK;
}

/* End all that is with a peer, and its connections; no event of the peer itself. */
void kvw_core_end_peer(struct kvw_core *c, struct kvw_peer *p)
{
    kvw_list_each(it, after, &c->pending)
    {
        struct kvw_transfer *t = kvw_list_of(it, struct kvw_transfer, pending);

        for (uint32_t s = 0; s < t->flows_wanted && t->state == KVW_TRANSFER_OPEN; ++s)
            if (t->sources[s] == p)
                kvw_transfer_finish(c, t, KVW_E_CANCELED, KVW_TELL_ABORT, "the peer was dropped");
    }
    p->added = false;
    if (p->link != NULL)
        kvw_core_hang_up(c, p, KVW_E_CANCELED, "the peer was dropped");
    if (p->dialing != NULL)
        kvw_link_drop(c, p->dialing);
    /* Complete flows of transfers that are open with other peers, too. */
    kvw_list_each(at, next, &p->flows)
    {
        struct kvw_flow *f = kvw_list_of(at, struct kvw_flow, of_peer);

        if (f->transfer != NULL && f->transfer->state == KVW_TRANSFER_OPEN)
            kvw_transfer_finish(c, f->transfer, KVW_E_CANCELED, KVW_TELL_ABORT,
                                "the peer was dropped");
    }
    kvw_peer_free(c, p);
}

kvw_err kvw_core_peer_drop(struct kvw_core *c, kvw_peer_id peer, uint64_t now_ns)
{
    struct kvw_peer *p = kvw_core_peer(c, peer);

    c->now_ns = now_ns;
    if (p == NULL)
        return KVW_E_NOTFOUND;
    kvw_core_end_peer(c, p);
    c->more = true;
    return KVW_OK;
}

static void say_codec(const struct kvw_core *c, const struct kvw_peer *p, char *why, size_t size)
{
    const char *name = "none yet";

    for (uint32_t i = 0; i < c->codec_count; ++i)
        if (c->codecs[i]->id == p->last_codec)
            name = c->codecs[i]->name;
    if (p->last_codec == 0)
        snprintf(why, size, "nothing was sent yet");
    else if (p->last_named)
        snprintf(why, size, "%s: named by the caller, where peer, type and budget allow it", name);
    else if (c->ways[p->path].transport->one_host)
        snprintf(why, size, "%s: nothing leaves this host", name);
    else if (p->twins != NULL)
        snprintf(why, size, "%s: written into the peer's GPU memory", name);
    else
        snprintf(why, size, "%s: chosen, at %.0f MB/s of wire", name, p->rate.bytes_per_ns * 1e3);
}

kvw_err kvw_core_peer_info(const struct kvw_core *c, kvw_peer_id peer, struct kvw_peer_info *out)
{
    const struct kvw_peer *p = kvw_core_peer(c, peer);
    struct kvw_peer_info info;

    if (p == NULL)
        return KVW_E_NOTFOUND;
    memset(&info, 0, sizeof(info));
    info.state = p->link != NULL                                     ? KVW_PEER_UP
                 : p->dialing != NULL || p->dial_at_ns != UINT64_MAX ? KVW_PEER_CONNECTING
                                                                     : KVW_PEER_DOWN;
    info.instance = p->instance;
    snprintf(info.name, sizeof(info.name), "%s", p->hello.name);
    snprintf(info.path, sizeof(info.path), "%s", c->ways[p->path].name);
    snprintf(info.address, sizeof(info.address), "%s", p->address);
    for (uint32_t i = 0; i < KVW_POOLS_MAX; ++i)
        info.pools += p->pools[i].layout != NULL;
    info.xfers = p->receiver_flows + p->sender_flows;
    info.chunks_sent = p->chunks_sent;
    info.chunks_landed = p->chunks_landed;
    info.raw_bytes_sent = p->raw_sent;
    info.raw_bytes_landed = p->raw_landed;
    info.rate_bytes_per_s = (uint64_t)(p->rate.bytes_per_ns * 1e9);
    info.rtt_ns = c->ways[p->path].rtt_ns;
    info.codec = p->last_codec;
    snprintf(info.twins, sizeof(info.twins), "%s", p->twins_text);
    if (p->link != NULL)
        say_codec(c, p, info.why, sizeof(info.why));
    else
        snprintf(info.why, sizeof(info.why), "%s", p->why);
    return kvw_core_copy_out(out, out->size, &info, sizeof(info)) ? KVW_OK : KVW_E_INVALID;
}

/*
 * Whether all that two pools have under one name is the same thing, and there is any. A part or
 * layer that only one side holds is no matter here: another peer may have it.
 */
static kvw_err pools_fit(const struct kvw_layout *here, const struct kvw_layout *peer, char *why,
                         size_t size)
{
    kvw_err any = KVW_E_MISMATCH;

    for (uint32_t g = 0; g < here->group_count; ++g)
        for (uint32_t p = 0; p < here->groups[g].part_count; ++p)
            for (uint32_t l = 0; l < here->groups[g].layer_count; ++l) {
                struct kvw_place_at at;
                const kvw_err err =
                    kvw_map_find(&at, here, g, p, here->groups[g].layers[l], peer, why, size);

                if (err != KVW_OK && err != KVW_E_NOTFOUND)
                    return err;
                any = err == KVW_OK ? KVW_OK : any;
            }
    return any;
}

kvw_err kvw_core_peer_fits(const struct kvw_core *c, kvw_peer_id peer, kvw_pool_id pool, char *why,
                           size_t why_bytes)
{
    const struct kvw_local_pool *here = kvw_core_pool(c, pool);
    const struct kvw_peer *p = kvw_core_peer(c, peer);
    char text[KVW_TEXT_BYTES_MAX + 1] = "";
    kvw_err err = KVW_E_AGAIN;

    if (p == NULL || here == NULL)
        return KVW_E_NOTFOUND;
    for (uint32_t i = 0; i < KVW_POOLS_MAX && err != KVW_OK; ++i)
        if (p->pools[i].layout != NULL)
            err = pools_fit(here->place->layout, p->pools[i].layout, text, sizeof(text));
    if (err != KVW_OK && why != NULL && why_bytes > 0)
        snprintf(why, why_bytes, "%s", err == KVW_E_AGAIN ? "it has told no pool yet" : text);
    return err;
}

/* --- pools ------------------------------------------------------------------------------------ */

static void owe_all(struct kvw_core *c)
{
    kvw_list_each(it, after, &c->peers)
    {
        struct kvw_peer *p = kvw_list_of(it, struct kvw_peer, all);

        if (p->link != NULL)
            kvw_peer_owes(c, p);
    }
}

static kvw_err add_pool(struct kvw_core *c, struct kvw_local_pool *pool,
                        const struct kvw_pool_desc *desc, char *why, size_t size)
{
    uint8_t *message;
    kvw_err err = kvw_place_make(&pool->place, desc, why, size);

    if (err != KVW_OK)
        return err;
    err = KVW_E_NOMEM;
    snprintf(why, size, "no memory for the pool's message");
    if (pool->place->kind != KVW_MEM_HOST && !kvw_device_takes(c, pool->place, why, size)) {
        err = KVW_E_UNSUPPORTED;
    } else if ((message = malloc(KVW_MSG_BYTES_MAX)) != NULL) {
        pool->message = message;
        pool->message_bytes =
            kvw_layout_encode(message, (uint16_t)(c->next_pool + 1), pool->place->layout);
        if (pool->message_bytes != 0) {
            pool->id = ++c->next_pool;
            return KVW_OK;
        }
        snprintf(why, size, "the description doesn't fit a message of %u bytes", KVW_MSG_BYTES_MAX);
        err = KVW_E_UNSUPPORTED;
        free(message);
        pool->message = NULL;
    }
    kvw_place_free(pool->place);
    pool->place = NULL;
    return err;
}

kvw_err kvw_core_pool_add(struct kvw_core *c, const struct kvw_pool_desc *desc, kvw_pool_id *out,
                          char *why, size_t why_bytes)
{
    char text[KVW_TEXT_BYTES_MAX + 1] = "";
    kvw_err err = KVW_E_AGAIN;

    snprintf(text, sizeof(text), "%u pools are known", KVW_POOLS_MAX);
    for (uint32_t i = 0; i < KVW_POOLS_MAX; ++i) {
        if (c->pools[i].place != NULL || c->next_pool == UINT16_MAX)
            continue;
        err = add_pool(c, &c->pools[i], desc, text, sizeof(text));
        if (err == KVW_OK) {
            *out = (kvw_pool_id){c->pools[i].id};
            owe_all(c);
            return KVW_OK;
        }
        break;
    }
    if (why != NULL && why_bytes > 0)
        snprintf(why, why_bytes, "%s", text);
    return err;
}

kvw_err kvw_core_pool_remove(struct kvw_core *c, kvw_pool_id id, uint64_t now_ns)
{
    struct kvw_local_pool *pool = kvw_core_pool(c, id);

    c->now_ns = now_ns;
    if (pool == NULL)
        return KVW_E_NOTFOUND;
    kvw_core_forget_last(c);
    kvw_list_each(it, after, &c->transfers)
    {
        struct kvw_transfer *t = kvw_list_of(it, struct kvw_transfer, all);

        if (t->state == KVW_TRANSFER_OPEN && t->pool == (uint32_t)(pool - c->pools))
            kvw_transfer_finish(c, t, KVW_E_CANCELED, KVW_TELL_ABORT, "the pool was removed");
    }
    kvw_list_each(h, other, &c->holds.all)
    {
        struct kvw_hold *hold = kvw_list_of(h, struct kvw_hold, all);

        if (hold->pool == (uint32_t)(pool - c->pools))
            kvw_hold_end(c, hold, KVW_E_CANCELED, "the pool of what was staged was removed");
    }
    kvw_list_each(at, next, &c->peers)
    {
        struct kvw_peer *p = kvw_list_of(at, struct kvw_peer, all);

        p->pools_gone |= p->pools_told & 1u << (pool - c->pools);
    }
    kvw_place_free(pool->place);
    free(pool->message);
    *pool = (struct kvw_local_pool){.place = NULL};
    owe_all(c);
    return KVW_OK;
}

/* --- transfers -------------------------------------------------------------------------------- */

kvw_err kvw_core_abort(struct kvw_core *c, kvw_xfer_ref xfer, const char *reason)
{
    struct kvw_transfer *t = kvw_transfer_of_ref(c, xfer);

    if (t == NULL || t->state != KVW_TRANSFER_OPEN)
        return KVW_E_NOTFOUND;
    kvw_transfer_finish(c, t, KVW_E_CANCELED, KVW_TELL_ABORT, reason != NULL ? reason : "");
    return KVW_OK;
}

kvw_err kvw_core_refuse(struct kvw_core *c, kvw_peer_id peer, kvw_key key, kvw_err err,
                        const char *reason)
{
    struct kvw_peer *p = kvw_core_peer(c, peer);
    struct kvw_flow *f;

    if (p == NULL)
        return KVW_E_NOTFOUND;
    if (err >= 0)
        return KVW_E_INVALID;
    /* An offer of the peer's that waits for a stream is refused by its epoch. */
    f = kvw_flow_of_key(p, &key, false);
    if (f != NULL && f->transfer == NULL) {
        if (!kvw_core_owe_refusal(c, p, &key, f->epoch, err, reason != NULL ? reason : ""))
            return KVW_E_AGAIN;
        kvw_list_remove(&f->of_transfer); /* from core.waiting */
        kvw_flow_end(c, f, KVW_TELL_NONE, err, NULL);
        kvw_flow_release(c, f);
        return KVW_OK;
    }
    if (!kvw_core_owe_refusal(c, p, &key, 0, err, reason != NULL ? reason : ""))
        return KVW_E_AGAIN;
    if (kvw_transfer_of_key(c, &key, false) == NULL) /* an OFFER on its way here is refused, too */
        kvw_recent_add(c, &key, KVW_RECENT_STREAM, err, reason != NULL ? reason : "");
    return KVW_OK;
}

bool kvw_core_layer_ready(const struct kvw_core *c, kvw_xfer_ref xfer, uint32_t layer)
{
    const struct kvw_transfer *t = kvw_transfer_of_ref(c, xfer);

    if (t == NULL || !t->receiver || layer >= t->model_layers)
        return false;
    if (t->state != KVW_TRANSFER_OPEN)
        return t->err == KVW_OK;
    return kvw_list_empty(&t->pending) && t->layer_left[layer] == 0;
}

uint32_t kvw_core_bad_blocks(const struct kvw_core *c, kvw_xfer_ref xfer, uint32_t group,
                             uint32_t *ids, uint32_t max)
{
    const struct kvw_transfer *t = c->last_done;
    const struct kvw_table *table;
    uint32_t n = 0;

    if (t == NULL || t->ref != xfer.value || !t->receiver || t->err == KVW_OK ||
        group >= t->group_count)
        return 0;
    table = &t->tables[group];
    for (uint32_t b = 0; b < table->block_count; ++b) {
        if ((table->bad[b / 8] >> b % 8 & 1) == 0)
            continue;
        if (n < max)
            ids[n] = table->blocks[b];
        ++n;
    }
    return n;
}

/* --- figures ---------------------------------------------------------------------------------- */

static void add_packets(const struct kvw_core *c, struct kvw_core_stats *s)
{
    for (uint32_t i = 0; i < c->way_count; ++i) {
        const struct kvw_transport_stats *t = &c->ways[i].stats;

        s->packets_sent += t->packets_sent;
        s->packets_received += t->packets_received;
        s->packets_retransmitted += t->packets_retransmitted;
        s->packets_lost += t->packets_lost;
        s->packets_spurious += t->packets_spurious;
    }
}

void kvw_core_stats(const struct kvw_core *c, struct kvw_core_stats *out)
{
    struct kvw_core_stats s = c->stats;

    s.peers_up = c->peers_up;
    s.peers_known = c->peer_count;
    s.slots_free = c->slots.free_count;
    s.stages_free = c->stages.free_count;
    s.staged = c->holds.count;
    s.staged_bytes = c->holds.used;
    kvw_batch_stats(c, &s);
    add_packets(c, &s);
    s.xfers_open = 0;
    kvw_list_each(it, after, &c->transfers) s.xfers_open +=
        kvw_list_of(it, struct kvw_transfer, all)->state == KVW_TRANSFER_OPEN;
    (void)kvw_core_copy_out(out, out->size, &s, sizeof(s));
}
