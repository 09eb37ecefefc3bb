/* SPDX-License-Identifier: Apache-2.0 */
/* The calls of core_batch.h: regions, batches, notifications. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "../core.h"
#include "batch.h"
#include "flight.h"

#define PIECE_BYTES  24u   /* of a piece as the first callers knew it */
#define GONE_LOG_MAX 1024u /* entries that are kept for peers that have still to be told */

struct reason {
    char *text;
    size_t size;
};

static kvw_err refuse(const struct reason *why, kvw_err err, const char *format, ...)
    KVW_PRINTF(3, 4);
static kvw_err refuse(const struct reason *why, kvw_err err, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    if (why->text != NULL && why->size > 0)
        vsnprintf(why->text, why->size, format, args);
    va_end(args);
    return err;
}

static void owe_all(struct kvw_core *c)
{
    kvw_list_each(it, after, &c->peers)
    {
        struct kvw_peer *p = kvw_list_of(it, struct kvw_peer, all);

        if (kvw_batch_knows(p))
            kvw_peer_owes(c, p);
    }
}

/* --- regions ---------------------------------------------------------------------------------- */

kvw_err kvw_core_region_add(struct kvw_core *c, const struct kvw_region_args *caller,
                            kvw_region_id *out, char *text, size_t text_bytes)
{
    const struct reason why = {text, text_bytes};
    struct kvw_batch_core *b = c->batches;
    struct kvw_region_args args;
    struct kvw_region r;
    struct kvw_mem mem;

    if (!kvw_core_copy_in(&args, sizeof(args), caller, caller->size))
        return refuse(&why, KVW_E_INVALID, "size, or a field that this library doesn't know");
    if (args.rights > (KVW_REGION_READ | KVW_REGION_WRITE))
        return refuse(&why, KVW_E_INVALID, "rights: %#x", args.rights);
    if (args.reserved != 0)
        return refuse(&why, KVW_E_INVALID, "reserved: %u", args.reserved);
    if (args.mem == NULL || !kvw_core_copy_in(&mem, sizeof(mem), args.mem, args.mem_bytes))
        return refuse(&why, KVW_E_INVALID, "mem, or mem_bytes: %u", args.mem_bytes);
    r = (struct kvw_region){.base = (uintptr_t)mem.base, .bytes = mem.bytes, .rights = args.rights};
    if (mem.base == NULL || mem.bytes == 0 || r.base > UINT64_MAX - r.bytes)
        return refuse(&why, KVW_E_INVALID, "mem: %llu bytes at %p", (unsigned long long)mem.bytes,
                      mem.base);
    if (mem.kind != KVW_MEM_HOST)
        return refuse(&why, KVW_E_UNSUPPORTED,
                      "mem.kind: memory of a device is not read or written by this version");
    if (b->regions.count == KVW_NODE_REGIONS_MAX || b->next_region == UINT32_MAX)
        return refuse(&why, KVW_E_AGAIN, "%u regions are known", b->regions.count);
    r.id = b->next_region + 1;
    if (kvw_regions_add(&b->regions, &r) != KVW_OK)
        return refuse(&why, KVW_E_NOMEM, "no memory for one more region");
    b->next_region = r.id;
    *out = (kvw_region_id){r.id};
    owe_all(c);
    return KVW_OK;
}

/* Drop what all peers that are up have been told of the log; false: no memory for one more. */
static bool log_room(struct kvw_core *c)
{
    struct kvw_batch_core *b = c->batches;
    uint64_t told = b->gone_base + b->gone_count;
    uint32_t *log;

    kvw_list_each(it, after, &c->peers)
    {
        const struct kvw_peer *p = kvw_list_of(it, struct kvw_peer, all);

        if (kvw_batch_knows(p) && p->batches->gone_told < told)
            told = p->batches->gone_told;
    }
    b->gone_count -= (uint32_t)(told - b->gone_base);
    if (b->gone_count > 0) /* the log may not have been made yet */
        memmove(b->gone, b->gone + (told - b->gone_base), b->gone_count * sizeof(b->gone[0]));
    b->gone_base = told;
    if (b->gone_count < b->gone_room)
        return true;
    if ((log = realloc(b->gone, (b->gone_room + GONE_LOG_MAX) * sizeof(log[0]))) == NULL)
        return false;
    b->gone = log;
    b->gone_room += GONE_LOG_MAX;
    return true;
}

/* Flights of a list that use the region end. */
static void end_users(struct kvw_core *c, struct kvw_list *flights, uint32_t id, const char *text)
{
    kvw_list_each(it, after, flights)
    {
        struct kvw_flight *f = kvw_list_of(it, struct kvw_flight, in);

        if (f->state != KVW_FLIGHT_OVER && kvw_runs_use(&f->runs, id))
            kvw_flight_end(c, f, KVW_E_CANCELED, true, text);
    }
}

kvw_err kvw_core_region_remove(struct kvw_core *c, kvw_region_id region, uint64_t now_ns)
{
    struct kvw_batch_core *b = c->batches;
    char text[64];

    c->now_ns = now_ns;
    if (kvw_regions_of_id(&b->regions, region.value) == NULL)
        return KVW_E_NOTFOUND;
    snprintf(text, sizeof(text), "region %u was removed", region.value);
    kvw_list_each(it, after, &c->peers)
    {
        struct kvw_peer *p = kvw_list_of(it, struct kvw_peer, all);

        if (!kvw_batch_knows(p))
            continue;
        end_users(c, &p->batches->ours, region.value, text);
        end_users(c, &p->batches->theirs, region.value, text);
    }
    (void)kvw_regions_remove(&b->regions, region.value);
    ++b->changes;
    if (log_room(c)) /* else peers learn it from the error of what they try */
        b->gone[b->gone_count++] = region.value;
    owe_all(c);
    return KVW_OK;
}

kvw_err kvw_core_peer_region(const struct kvw_core *c, kvw_peer_id peer, uint32_t at,
                             struct kvw_region_info *out)
{
    const struct kvw_peer *p = kvw_core_peer(c, peer);
    const struct kvw_region *r;
    struct kvw_region_info info;

    if (p == NULL || !kvw_batch_knows(p))
        return KVW_E_NOTFOUND;
    if (!p->batches->told)
        return KVW_E_AGAIN;
    if (at >= p->batches->regions.count)
        return KVW_E_NOTFOUND;
    r = &p->batches->regions.list[at];
    memset(&info, 0, sizeof(info));
    info.rights = r->rights;
    info.base = r->base;
    info.bytes = r->bytes;
    info.id = r->id;
    return kvw_core_copy_out(out, out->size, &info, sizeof(info)) ? KVW_OK : KVW_E_INVALID;
}

/* --- make ------------------------------------------------------------------------------------- */

/* Bytes of a batch's chunks with that peer, 0: its slots are too small. */
static uint32_t chunk_bytes_with(const struct kvw_core *c, const struct kvw_peer *p)
{
    uint32_t bytes =
        p->hello.slot_bytes < c->slots.slot_bytes ? p->hello.slot_bytes : c->slots.slot_bytes;

    bytes = (bytes - KVW_WIRE_CHUNK_LEN) / KVW_CHUNK_RAW_MIN * KVW_CHUNK_RAW_MIN;
    return bytes > KVW_CHUNK_RAW_MAX ? KVW_CHUNK_RAW_MAX : bytes;
}

static kvw_err usable_peer(const struct kvw_core *c, kvw_peer_id id, struct kvw_peer **out,
                           const struct reason *why)
{
    struct kvw_peer *p = kvw_core_peer(c, id);

    if (p == NULL)
        return refuse(why, KVW_E_NOTFOUND, "peer: there is no %u", id.value);
    if (p->link == NULL)
        return refuse(why, KVW_E_PEER_LOST, "peer: %u isn't up: %s", id.value, p->why);
    if (p->batches == NULL)
        return refuse(why, KVW_E_UNSUPPORTED, "peer: \"%s\" doesn't know batches", p->hello.name);
    *out = p;
    return KVW_OK;
}

static bool take_piece(struct kvw_batch_piece *to, const struct kvw_batch_args *args, uint32_t i)
{
    const uint8_t *at = (const uint8_t *)args->pieces + (size_t)i * args->piece_bytes;

    memset(to, 0, sizeof(*to));
    memcpy(to, at, args->piece_bytes < sizeof(*to) ? args->piece_bytes : sizeof(*to));
    for (uint32_t more = sizeof(*to); more < args->piece_bytes; ++more)
        if (at[more] != 0)
            return false;
    return true;
}

/* One side of a piece: which region, and is the right given? */
static kvw_err region_of(const struct kvw_regions *g, uint64_t base, uint64_t bytes,
                         uint32_t rights, uint32_t *hint, uint32_t *id)
{
    const struct kvw_region *r = kvw_regions_at(g, base, bytes, rights, hint);

    if (r == NULL)
        return KVW_E_NOTFOUND;
    *id = r->id;
    return (r->rights & rights) == rights ? KVW_OK : KVW_E_MISMATCH;
}

/* A batch that is being made. */
struct making {
    struct kvw_core *core;
    struct kvw_peer *peer;
    struct kvw_batch *batch;
    uint32_t here, there; /* hints: regions of the piece before */
    const struct reason *why;
};

static kvw_err add_piece(struct making *m, const struct kvw_batch_piece *piece, uint32_t i)
{
    const struct reason *why = m->why;
    struct kvw_batch *x = m->batch;
    const uint32_t rights = x->op == KVW_BATCH_WRITE ? KVW_REGION_WRITE : KVW_REGION_READ;
    const unsigned long long bytes = piece->bytes;
    uint32_t here, there;
    kvw_err err;

    if (bytes == 0 || piece->local > UINT64_MAX - bytes || piece->remote > UINT64_MAX - bytes)
        return refuse(why, KVW_E_INVALID, "pieces[%u]: %llu bytes at %#llx, remote %#llx", i, bytes,
                      (unsigned long long)piece->local, (unsigned long long)piece->remote);
    if (bytes > KVW_WIRE_BATCH_BYTES_MAX - x->local.bytes)
        return refuse(why, KVW_E_INVALID, "pieces[%u].bytes: with %llu it is more than %llu in all",
                      i, bytes, KVW_WIRE_BATCH_BYTES_MAX);
    if (region_of(&m->core->batches->regions, piece->local, bytes, 0, &m->here, &here) != KVW_OK)
        return refuse(why, KVW_E_NOTFOUND,
                      "pieces[%u].local: no region of this node holds %llu bytes at %#llx", i,
                      bytes, (unsigned long long)piece->local);
    err = region_of(&m->peer->batches->regions, piece->remote, bytes, rights, &m->there, &there);
    if (err == KVW_E_NOTFOUND)
        return refuse(why, err,
                      "pieces[%u].remote: no region that the peer has told yet holds %llu bytes "
                      "at %#llx",
                      i, bytes, (unsigned long long)piece->remote);
    if (err != KVW_OK)
        return refuse(why, err, "pieces[%u].remote: the peer's region %u may not be %s", i, there,
                      x->op == KVW_BATCH_WRITE ? "written" : "read");
    if (kvw_runs_add(&x->local, here, piece->local, bytes) != KVW_OK ||
        kvw_runs_add(&x->remote, there, piece->remote, bytes) != KVW_OK)
        return refuse(why, KVW_E_NOMEM, "no memory for pieces[%u]", i);
    return KVW_OK;
}

static kvw_err fill(struct kvw_core *c, struct kvw_peer *p, struct kvw_batch *x,
                    const struct kvw_batch_args *args, const struct reason *why)
{
    struct making m = {.core = c, .peer = p, .batch = x, .why = why};

    for (uint32_t i = 0; i < args->piece_count; ++i) {
        struct kvw_batch_piece piece;
        kvw_err err;

        if (!take_piece(&piece, args, i))
            return refuse(why, KVW_E_INVALID, "pieces[%u]: a field this library doesn't know", i);
        if ((err = add_piece(&m, &piece, i)) != KVW_OK)
            return err;
    }
    if (x->remote.count > KVW_WIRE_BATCH_RUNS_MAX)
        return refuse(why, KVW_E_INVALID, "pieces: they are %u runs for the peer, more than %u",
                      x->remote.count, KVW_WIRE_BATCH_RUNS_MAX);
    if (x->local.bytes > (uint64_t)KVW_WIRE_CHUNKS_OPEN_MAX * x->chunk_bytes)
        return refuse(why, KVW_E_INVALID, "pieces: %llu bytes are more than %u chunks of %u",
                      (unsigned long long)x->local.bytes, KVW_WIRE_CHUNKS_OPEN_MAX, x->chunk_bytes);
    return KVW_OK;
}

static kvw_err check_args(const struct kvw_batch_args *a, const struct reason *why)
{
    if (a->op != KVW_BATCH_READ && a->op != KVW_BATCH_WRITE)
        return refuse(why, KVW_E_INVALID, "op: %u", a->op);
    if (a->piece_count < 1 || a->piece_count > KVW_PIECES_MAX)
        return refuse(why, KVW_E_INVALID, "piece_count: %u, 1 to %u may be", a->piece_count,
                      KVW_PIECES_MAX);
    if (a->pieces == NULL)
        return refuse(why, KVW_E_INVALID, "pieces: NULL");
    if (a->piece_bytes < PIECE_BYTES || a->piece_bytes > 4096)
        return refuse(why, KVW_E_INVALID, "piece_bytes: %u", a->piece_bytes);
    if (a->reserved != 0)
        return refuse(why, KVW_E_INVALID, "reserved: %u", a->reserved);
    return KVW_OK;
}

kvw_err kvw_core_batch_make(struct kvw_core *c, const struct kvw_batch_args *caller,
                            kvw_batch_id *out, char *text, size_t text_bytes)
{
    const struct reason why = {text, text_bytes};
    struct kvw_batch_args args;
    struct kvw_batch *x;
    struct kvw_peer *p = NULL;
    kvw_err err;

    if (!kvw_core_copy_in(&args, sizeof(args), caller, caller->size))
        return refuse(&why, KVW_E_INVALID, "size, or a field that this library doesn't know");
    if (args.piece_bytes == 0)
        args.piece_bytes = PIECE_BYTES;
    if ((err = check_args(&args, &why)) != KVW_OK)
        return err;
    if ((err = usable_peer(c, args.peer, &p, &why)) != KVW_OK)
        return err;
    if (!p->batches->told)
        return refuse(&why, KVW_E_AGAIN, "the peer hasn't told its regions yet");
    if (chunk_bytes_with(c, p) == 0)
        return refuse(&why, KVW_E_UNSUPPORTED, "peer: its landing slots have only %u bytes",
                      p->hello.slot_bytes);
    if (c->batches->count == KVW_BATCHES_MAX)
        return refuse(&why, KVW_E_AGAIN, "%u batches are made", KVW_BATCHES_MAX);
    if ((x = kvw_batch_new(c)) == NULL)
        return refuse(&why, KVW_E_NOMEM, "no memory for one more batch");
    x->peer = args.peer.value;
    x->op = (uint8_t)args.op;
    x->chunk_bytes = chunk_bytes_with(c, p);
    x->checked = c->batches->changes;
    if ((err = fill(c, p, x, &args, &why)) != KVW_OK) {
        kvw_batch_free(c, x);
        return err;
    }
    *out = (kvw_batch_id){x->id};
    return KVW_OK;
}

/* --- post ------------------------------------------------------------------------------------- */

static kvw_err check_post(const struct kvw_post_args *a, const struct reason *why)
{
    if (a->quiet > 1)
        return refuse(why, KVW_E_INVALID, "quiet: %u", a->quiet);
    if (a->note_bytes > KVW_NOTE_MAX || (a->note == NULL && a->note_bytes > 0))
        return refuse(why, KVW_E_INVALID, "note_bytes: %u, at most %u may be", a->note_bytes,
                      KVW_NOTE_MAX);
    if (a->reserved != 0)
        return refuse(why, KVW_E_INVALID, "reserved: %u", a->reserved);
    return KVW_OK;
}

/* Regions have come or gone since the batch's were looked at: are its still there? */
static kvw_err check_regions(struct kvw_core *c, const struct kvw_peer *p, struct kvw_batch *x,
                             const struct reason *why)
{
    const uint32_t rights = x->op == KVW_BATCH_WRITE ? KVW_REGION_WRITE : KVW_REGION_READ;
    char text[160];
    kvw_err err;

    if (x->checked == c->batches->changes)
        return KVW_OK;
    if (!p->batches->told)
        return refuse(why, KVW_E_AGAIN, "the peer hasn't told its regions yet");
    err = kvw_runs_check(&x->local, &c->batches->regions, 0, text, sizeof(text));
    if (err != KVW_OK)
        return refuse(why, err, "here: %s", text);
    err = kvw_runs_check(&x->remote, &p->batches->regions, rights, text, sizeof(text));
    if (err != KVW_OK)
        return refuse(why, err, "at the peer: %s", text);
    if (x->chunk_bytes > chunk_bytes_with(c, p)) /* it came back as another node */
        return refuse(why, KVW_E_NOTFOUND, "the peer's slots have become smaller: make it anew");
    x->checked = c->batches->changes;
    return KVW_OK;
}

/* The note, kept until its time; false: no memory. */
static bool keep_note(struct kvw_batch *x, const struct kvw_post_args *args)
{
    x->note_bytes = args->note_bytes;
    if (args->note_bytes == 0)
        return true;
    if (x->op == KVW_BATCH_WRITE) {
        if ((x->note = malloc(args->note_bytes)) != NULL)
            memcpy(x->note, args->note, args->note_bytes);
        return x->note != NULL;
    }
    x->note_bytes = 0; /* of a READ it is a message of its own */
    if ((x->after = malloc(sizeof(*x->after))) == NULL)
        return false;
    kvw_list_init(&x->after->in);
    x->after->bytes = args->note_bytes;
    memcpy(x->after->note, args->note, args->note_bytes);
    return true;
}

static kvw_err begin_post(struct kvw_core *c, struct kvw_peer *p, struct kvw_batch *x,
                          const struct kvw_post_args *args, const struct reason *why)
{
    struct kvw_flight *f = kvw_flight_new(p, true, x->op, x->local.bytes, x->chunk_bytes);

    if (f == NULL)
        return refuse(why, KVW_E_NOMEM, "no memory for the post");
    if (!keep_note(x, args)) {
        kvw_flight_free(c, f);
        return refuse(why, KVW_E_NOMEM, "no memory for the note");
    }
    f->batch = x;
    f->runs = x->local;
    f->wire_runs = x->remote.count;
    x->flight = f;
    x->state = KVW_BATCH_POSTED;
    x->quiet = args->quiet != 0;
    x->err = KVW_OK;
    x->text[0] = '\0';
    x->deadline_ns = args->deadline_ns;
    if (x->deadline_ns != 0 && x->deadline_ns < c->batches->deadline_ns)
        c->batches->deadline_ns = x->deadline_ns;
    ++x->posts;
    x->post_ns = c->now_ns;
    x->moved = x->first_ns = x->end_ns = 0;
    kvw_peer_owes(c, p);
    return KVW_OK;
}

kvw_err kvw_core_batch_post(struct kvw_core *c, kvw_batch_id id, const struct kvw_post_args *caller,
                            uint64_t now_ns, char *text, size_t text_bytes)
{
    static const struct kvw_post_args none;
    const struct reason why = {text, text_bytes};
    struct kvw_batch *x = kvw_batch_of_id(c, id);
    struct kvw_post_args args = none;
    struct kvw_peer *p = NULL;
    kvw_err err;

    c->now_ns = now_ns;
    if (x == NULL)
        return refuse(&why, KVW_E_NOTFOUND, "there is no batch %llu", (unsigned long long)id.value);
    if (caller != NULL && !kvw_core_copy_in(&args, sizeof(args), caller, caller->size))
        return refuse(&why, KVW_E_INVALID, "size, or a field that this library doesn't know");
    if ((err = check_post(&args, &why)) != KVW_OK)
        return err;
    if (x->flight != NULL)
        return refuse(&why, KVW_E_AGAIN, "its latest post hasn't ended");
    if (!kvw_list_empty(&x->rec.in))
        return refuse(&why, KVW_E_AGAIN, "the BATCH_DONE of its latest post hasn't been taken");
    if ((err = usable_peer(c, (kvw_peer_id){x->peer}, &p, &why)) != KVW_OK ||
        (err = check_regions(c, p, x, &why)) != KVW_OK)
        return err;
    return begin_post(c, p, x, &args, &why);
}

/* --- status, release, notify ------------------------------------------------------------------ */

kvw_err kvw_core_batch_status(const struct kvw_core *c, kvw_batch_id id,
                              struct kvw_batch_status *out)
{
    const struct kvw_batch *x = kvw_batch_of_id(c, id);
    struct kvw_batch_status s;

    if (x == NULL)
        return KVW_E_NOTFOUND;
    memset(&s, 0, sizeof(s));
    s.state = x->state;
    s.err = x->err;
    s.runs = x->remote.count;
    s.bytes = x->local.bytes;
    s.moved = x->flight != NULL ? kvw_flight_moved(x->flight) : x->moved;
    s.posts = x->posts;
    s.post_ns = x->post_ns;
    s.first_ns = x->first_ns;
    s.end_ns = x->end_ns;
    snprintf(s.text, sizeof(s.text), "%s", x->text);
    return kvw_core_copy_out(out, out->size, &s, sizeof(s)) ? KVW_OK : KVW_E_INVALID;
}

kvw_err kvw_core_batch_release(struct kvw_core *c, kvw_batch_id id, uint64_t now_ns)
{
    struct kvw_batch *x = kvw_batch_of_id(c, id);

    c->now_ns = now_ns;
    if (x == NULL)
        return KVW_E_NOTFOUND;
    if (x->flight != NULL) {
        x->quiet = true;
        kvw_flight_end(c, x->flight, KVW_E_CANCELED, true, "the batch was released");
    }
    kvw_batch_free(c, x);
    return KVW_OK;
}

kvw_err kvw_core_notify(struct kvw_core *c, kvw_peer_id peer, const void *note, uint32_t note_bytes)
{
    const struct reason silent = {NULL, 0};
    struct kvw_batch_note *n;
    struct kvw_peer *p = NULL;
    kvw_err err;

    if (note == NULL || note_bytes < 1 || note_bytes > KVW_NOTE_MAX)
        return KVW_E_INVALID;
    if ((err = usable_peer(c, peer, &p, &silent)) != KVW_OK)
        return err;
    if (p->batches->note_count >= KVW_NOTES_QUEUED_MAX)
        return KVW_E_AGAIN;
    if ((n = malloc(sizeof(*n))) == NULL)
        return KVW_E_NOMEM;
    kvw_list_init(&n->in);
    n->bytes = note_bytes;
    memcpy(n->note, note, note_bytes);
    kvw_list_add(&p->batches->notes, &n->in);
    ++p->batches->note_count;
    kvw_peer_owes(c, p);
    return KVW_OK;
}
