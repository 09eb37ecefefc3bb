/* SPDX-License-Identifier: Apache-2.0 */
/* core_open.c - a core's configuration, its one arena, what it starts and what it gives back. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "arena.h"
#include "batch/batch.h"
#include "kv/depart.h"
#include "kv/device.h"
#include "kv/hold.h"
#include "kv/staging.h"
#include "peer/events.h"
#include "peer/link.h"
#include "peer/slots.h"
#include "wire/fields.h"

/* --- configuration ---------------------------------------------------------------------------- */

static bool take_codecs(struct kvw_core *c, const struct kvw_core_config *cfg, uint64_t *bits)
{
    *bits = 0;
    c->raw = KVW_CODECS_MAX;
    c->fixed_codec = KVW_CODECS_MAX;
    if (cfg->codecs == NULL)
        return false;
    for (uint32_t i = 0; cfg->codecs[i] != NULL; ++i) {
        const struct kvw_codec_ops *o = cfg->codecs[i];

        if (i == KVW_CODECS_MAX || o->id == 0 || o->id > 63 || (*bits >> o->id & 1) != 0)
            return false;
        if (cfg->gpu_plugin != NULL && !cfg->gpu_plugin->takes(cfg->gpu, o->id))
            continue; /* a peer doesn't know in whose memory a chunk will be decoded */
        if (o->id == KVW_CODEC_RAW)
            c->raw = c->codec_count;
        if (o->id == cfg->codec)
            c->fixed_codec = c->codec_count;
        c->codecs[c->codec_count++] = o;
        *bits |= 1ull << o->id;
    }
    if (cfg->codec == 0)
        c->fixed_codec = c->codec_count;
    return c->raw < KVW_CODECS_MAX;
}

static uint64_t most(const struct kvw_core *c, bool scratch, uint64_t raw_bytes)
{
    uint64_t bytes = 0;

    for (uint32_t i = 0; i < c->codec_count; ++i) {
        const uint64_t b =
            scratch ? c->codecs[i]->scratch_bytes(raw_bytes) : c->codecs[i]->bound(raw_bytes);

        bytes = b > bytes ? b : bytes;
    }
    return bytes;
}

static bool take_paths(struct kvw_core *c, const struct kvw_core_config *cfg)
{
    if (cfg->path_count < 1 || cfg->path_count > KVW_CORE_PATHS_MAX || cfg->paths == NULL)
        return false;
    for (uint32_t i = 0; i < cfg->path_count; ++i) {
        struct kvw_core_way *way = &c->ways[i];

        if (cfg->paths[i].transport == NULL || cfg->paths[i].reserved != 0 ||
            cfg->paths[i].listen > 1)
            return false;
        way->transport = cfg->paths[i].transport;
        way->listen = cfg->paths[i].listen != 0;
        snprintf(way->name, sizeof(way->name), "%s",
                 cfg->paths[i].name != NULL ? cfg->paths[i].name : way->transport->ops->name);
    }
    c->way_count = cfg->path_count;
    return true;
}

static uint32_t or_else(uint32_t value, uint32_t otherwise)
{
    return value != 0 ? value : otherwise;
}

/* Our HELLO, but for the region of each path. */
static bool make_hello(struct kvw_core *c, const struct kvw_core_config *cfg, uint64_t codecs)
{
    struct kvw_wire_hello h = {
        .versions = KVW_WIRE_VERSIONS | ((cfg->instance << 62) & KVW_WIRE_GREASE),
        .instance = cfg->instance,
        .codecs = codecs,
        .digests = c->device.plugin != NULL ? 1u << KVW_DIGEST_LANES : KVW_DIGESTS,
        .features = KVW_FEATURE_BATCH | KVW_FEATURE_STAGE | KVW_FEATURE_CREDIT,
        .slot_bytes = c->slots.slot_bytes,
        .offers = c->xfers_max < KVW_WIRE_OFFERS_MAX ? c->xfers_max : KVW_WIRE_OFFERS_MAX,
        .dead_ms = or_else(cfg->dead_ms, KVW_PEER_DEAD_NS / 1000000),
    };

    if (h.dead_ms > KVW_WIRE_DEAD_MS_MAX)
        return false;
    if (cfg->name != NULL)
        kvw_field_text(h.name, (const uint8_t *)cfg->name,
                       (uint32_t)strnlen(cfg->name, KVW_WIRE_NAME_MAX));
    for (uint32_t i = 0; i < c->way_count; ++i)
        c->ways[i].hello = h;
    return true;
}

/* Everything that can be wrong with *cfg; fills what the core keeps of it. */
static kvw_err take_config(struct kvw_core *c, const struct kvw_core_config *cfg,
                           const char **field)
{
    uint64_t codecs, slot_bytes;

    *field = "paths";
    if (!take_paths(c, cfg))
        return KVW_E_INVALID;
    *field = "instance";
    if (cfg->instance == 0)
        return KVW_E_INVALID;
    *field = "gpu"; /* both or none */
    if ((cfg->gpu_plugin == NULL) != (cfg->gpu == NULL))
        return KVW_E_INVALID;
    c->device.plugin = cfg->gpu_plugin;
    c->device.gpu = cfg->gpu;
    *field = "no_twins";
    if (cfg->no_twins > 1 || cfg->unused != 0)
        return KVW_E_INVALID;
    c->device.no_twins = cfg->no_twins != 0;
    *field = "codecs";
    if (!take_codecs(c, cfg, &codecs))
        return KVW_E_INVALID;
    *field = "codec"; /* none of codecs */
    if (c->fixed_codec > c->codec_count)
        return KVW_E_INVALID;
    *field = "encoders";
    if (cfg->encoders > KVW_ENCODERS_MAX)
        return KVW_E_INVALID;
    *field = "chunk_raw_bytes";
    c->chunk_raw_bytes = or_else(cfg->chunk_raw_bytes, KVW_CHUNK_RAW_AIM);
    if (c->chunk_raw_bytes < KVW_CHUNK_RAW_MIN || c->chunk_raw_bytes > KVW_CHUNK_RAW_MAX)
        return KVW_E_INVALID;
    *field = "slots";
    c->slots.count = or_else(cfg->slots, 64);
    if (c->slots.count > KVW_WIRE_LANDING_SLOTS_MAX)
        return KVW_E_INVALID;
    *field = "stages";
    c->stages.count = or_else(cfg->stages, 64);
    if (c->stages.count > KVW_WIRE_LANDING_SLOTS_MAX)
        return KVW_E_INVALID;
    *field = "peers_max";
    c->peers_max = or_else(cfg->peers_max, 1024);
    if (c->peers_max > 65536)
        return KVW_E_INVALID;
    *field = "xfers_max";
    c->xfers_max = or_else(cfg->xfers_max, 256);
    if (c->xfers_max > 65536)
        return KVW_E_INVALID;
    c->encoder_count = cfg->encoders;
    c->clock = (struct kvw_clock){cfg->clock, cfg->arg};
    c->instance = cfg->instance;
    c->trace = cfg->trace;
    c->trace_arg = cfg->trace_arg;
    slot_bytes = (KVW_WIRE_CHUNK_LEN + most(c, false, c->chunk_raw_bytes) + 63) / 64 * 64;
    *field = "codecs"; /* one whose bound is beyond what codec.h allows */
    if (slot_bytes > KVW_PUT_BYTES_MAX)
        return KVW_E_INVALID;
    c->slots.slot_bytes = c->stages.slot_bytes = (uint32_t)slot_bytes;
    *field = "reserved";
    if (cfg->reserved != 0)
        return KVW_E_INVALID;
    *field = "dead_ms";
    return make_hello(c, cfg, codecs) ? KVW_OK : KVW_E_INVALID;
}

/* --- memory ----------------------------------------------------------------------------------- */

static uint32_t power_of_two(uint32_t at_least)
{
    uint32_t n = 16;

    while (n < at_least)
        n *= 2;
    return n;
}

static void take_index(struct kvw_arena *a, struct kvw_index *x, uint32_t members)
{
    const uint32_t n = power_of_two(members);

    x->mask = n - 1;
    x->buckets = kvw_arena_take(a, n, sizeof(x->buckets[0]), 8);
    if (x->buckets != NULL)
        memset(x->buckets, 0, n * sizeof(x->buckets[0]));
}

static uint32_t link_count(const struct kvw_core *c)
{
    return c->peers_max + KVW_NEWCOMERS(c->peers_max) + 1;
}

/* Hang the tables into *c: all NULL while the arena only counts (arena.h). Returns the links. */
static struct kvw_link *lay_out(struct kvw_arena *a, struct kvw_core *c)
{
    const uint32_t flows = 4 * c->xfers_max, recs = c->xfers_max + KVW_OTHER_EVENTS;
    struct kvw_link *links;

    take_index(a, &c->instances, c->peers_max);
    take_index(a, &c->conns, link_count(c));
    take_index(a, &c->keys, c->xfers_max);
    take_index(a, &c->refs, c->xfers_max);
    take_index(a, &c->epochs, flows);
    take_index(a, &c->offers, flows);
    take_index(a, &c->peer_ids, c->peers_max);
    links = kvw_arena_take(a, link_count(c), sizeof(*links), 64);
    c->recs = kvw_arena_take(a, recs, sizeof(c->recs[0]), 64);
    c->slots.slots = kvw_arena_take(a, c->slots.count, sizeof(c->slots.slots[0]), 64);
    c->slots.open = kvw_arena_take(a, (size_t)KVW_CORE_PATHS_MAX * c->slots.count,
                                   sizeof(c->slots.open[0]), 64);
    c->stages.stages = kvw_arena_take(a, c->stages.count, sizeof(c->stages.stages[0]), 64);
    c->span_pool.spans = kvw_arena_take(a, c->slots.count, sizeof(c->span_pool.spans[0]), 8);
    c->msg = kvw_arena_take(a, 1, KVW_WIRE_SHORT_MAX, 64);
    c->scratch = kvw_arena_take(a, 1, most(c, true, c->slots.slot_bytes), 64);
    c->decodes = kvw_arena_take(a, c->slots.count, sizeof(c->decodes[0]), 64);
    if (c->device.plugin != NULL)
        return links; /* slots lie in memory that the GPU reaches */
    c->slots.mem = kvw_arena_take(a, c->slots.count, c->slots.slot_bytes, KVW_ARENA_ALIGN);
    c->stages.mem = kvw_arena_take(a, c->stages.count, c->stages.slot_bytes, KVW_ARENA_ALIGN);
    return links;
}

/* Timers: of each link, two of each peer, of each transfer, of each flow, and of each stage. */
static kvw_err take_timers(struct kvw_core *c, const struct kvw_core_config *cfg)
{
    c->timers.capacity = link_count(c) + 2 * c->peers_max + c->xfers_max * (2 + KVW_SOURCES_MAX) +
                         1 + (cfg->stage_bytes > 0 ? KVW_STAGES_MAX : 0);
    c->timers.timers = malloc(c->timers.capacity * sizeof(c->timers.timers[0]));
    return c->timers.timers != NULL ? KVW_OK : KVW_E_NOMEM;
}

static void start_tables(struct kvw_core *c, struct kvw_link *links)
{
    struct kvw_list *const heads[] = {
        &c->peers,     &c->busy,      &c->due,        &c->receiving, &c->starved,
        &c->newcomers, &c->links_due, &c->free_links, &c->transfers, &c->marked,
        &c->pending,   &c->waiting,   &c->events,     &c->free_recs,
    };

    for (size_t i = 0; i < sizeof(heads) / sizeof(heads[0]); ++i)
        kvw_list_init(heads[i]);
    for (uint32_t i = 0; i < link_count(c); ++i) {
        memset(&links[i], 0, sizeof(links[i]));
        kvw_list_init(&links[i].in);
        kvw_list_init(&links[i].due);
        kvw_timer_init(&links[i].timer, KVW_TIMER_LINK);
        kvw_list_add(&c->free_links, &links[i].in);
    }
    for (uint32_t i = 0; i < c->xfers_max + KVW_OTHER_EVENTS; ++i)
        kvw_list_add(&c->free_recs, &c->recs[i].in);
    c->other_room = KVW_OTHER_EVENTS;
    memset(c->decodes, 0, c->slots.count * sizeof(c->decodes[0]));
    kvw_slots_init(&c->slots);
    kvw_staging_init(&c->stages);
    kvw_span_pool_init(&c->span_pool, c->span_pool.spans, (uint16_t)c->slots.count);
    c->retry_ns = c->put_retry_ns = UINT64_MAX;
    c->next_epoch = (uint32_t)(c->instance >> 16) | 1;
    for (uint32_t i = 0; i < c->way_count; ++i)
        c->ways[i].core = c;
}

/* --- open and close --------------------------------------------------------------------------- */

bool kvw_core_gate(void *arg, kvw_conn_id conn, uint64_t offset, uint32_t bytes, uint32_t imm)
{
    const struct kvw_core_way *way = arg;
    const struct kvw_core *c = way->core;

    return kvw_slots_allow(&c->slots, (uint32_t)(way - c->ways), conn, offset, bytes, imm);
}

static struct kvw_mem host_mem(void *base, uint64_t bytes)
{
    return (struct kvw_mem){.base = base, .bytes = bytes, .kind = KVW_MEM_HOST, .dmabuf_fd = -1};
}

static void end_way(struct kvw_core *c, struct kvw_core_way *way)
{
    const struct kvw_transport_ops *ops = way->transport->ops;
    const struct kvw_mem staging =
        host_mem(c->stages.mem, (uint64_t)c->stages.count * c->stages.slot_bytes);

    if (way->region_added && ops->region_remove(way->transport, &way->hello.region) != KVW_OK)
        assert(!"a region that was added can be removed");
    if (way->source_added)
        ops->source_remove(way->transport, &staging);
    way->region_added = way->source_added = false;
}

/* The landing slots are registered with each transport, which is told where puts will come from. */
static kvw_err begin_way(struct kvw_core *c, struct kvw_core_way *way)
{
    const struct kvw_transport_ops *ops = way->transport->ops;
    const struct kvw_mem landing =
        host_mem(c->slots.mem, (uint64_t)c->slots.count * c->slots.slot_bytes);
    const struct kvw_mem staging =
        host_mem(c->stages.mem, (uint64_t)c->stages.count * c->stages.slot_bytes);
    kvw_err err = ops->region_add(way->transport, &landing, kvw_core_gate, way, &way->hello.region);

    if (err != KVW_OK)
        return err;
    way->region_added = true;
    way->source_added =
        ops->source_add != NULL && ops->source_add(way->transport, &staging) == KVW_OK;
    return way->listen ? ops->listen(way->transport) : KVW_OK;
}

static kvw_err begin_jobs(struct kvw_core *c, const struct kvw_core_config *cfg)
{
    struct kvw_encoders *threads = NULL;
    char why[KVW_GPU_TEXT] = "";
    kvw_err err = kvw_device_open(c, why);

    if (err != KVW_OK) {
        if (cfg->gpu_why != NULL)
            memcpy(cfg->gpu_why, why, sizeof(why));
        return err;
    }
    if (cfg->encoders > 0)
        err = kvw_encoders_open(&threads, cfg->encoders, c->stages.count + c->slots.count,
                                most(c, true, c->slots.slot_bytes), &c->clock, cfg->wake, cfg->arg);
    if (threads != NULL)
        c->jobs = kvw_encoders_jobs(threads);
    if (err != KVW_OK)
        kvw_device_close(c);
    return err;
}

static void end_jobs(struct kvw_core *c)
{
    if (c->jobs != NULL)
        c->jobs->ops->close(c->jobs);
    c->jobs = NULL;
    kvw_device_close(c);
}

static kvw_err begin(struct kvw_core *c, const struct kvw_core_config *cfg)
{
    kvw_err err = begin_jobs(c, cfg);

    if (err != KVW_OK)
        return err;
    for (uint32_t i = 0; i < c->way_count; ++i)
        if ((err = begin_way(c, &c->ways[i])) != KVW_OK)
            goto end_ways;
    return KVW_OK;

end_ways:
    for (uint32_t i = 0; i < c->way_count; ++i)
        end_way(c, &c->ways[i]);
    end_jobs(c);
    return err;
}

kvw_err kvw_core_open(struct kvw_core **out, const struct kvw_core_config *caller, uint64_t now_ns,
                      const char **field)
{
    struct kvw_arena arena = {.base = NULL};
    struct kvw_core_config cfg;
    struct kvw_core *fixed, *c;
    const char *name = "size";
    kvw_err err = KVW_E_INVALID;

    if ((fixed = calloc(1, sizeof(*fixed))) == NULL) /* too large for a stack */
        return KVW_E_NOMEM;
    fixed->now_ns = now_ns;
    if (kvw_core_copy_in(&cfg, sizeof(cfg), caller, caller->size))
        err = take_config(fixed, &cfg, &name);
    if (err != KVW_OK) {
        if (field != NULL)
            *field = name;
        goto free_fixed;
    }
    (void)kvw_arena_take(&arena, 1, sizeof(*c), 64);
    (void)lay_out(&arena, fixed);
    arena.bytes = (arena.used + KVW_ARENA_ALIGN - 1) / KVW_ARENA_ALIGN * KVW_ARENA_ALIGN;
    arena.used = 0;
    err = KVW_E_NOMEM;
    if ((arena.base = aligned_alloc(KVW_ARENA_ALIGN, arena.bytes)) == NULL)
        goto free_fixed;
    c = kvw_arena_take(&arena, 1, sizeof(*c), 64);
    *c = *fixed;
    c->arena_base = arena.base;
    start_tables(c, lay_out(&arena, c));
    if ((err = take_timers(c, &cfg)) != KVW_OK)
        goto free_arena;
    if ((err = kvw_holds_open(c, cfg.stage_bytes)) != KVW_OK)
        goto free_timers;
    if ((err = kvw_batch_open(c)) != KVW_OK)
        goto close_holds;
    if ((err = begin(c, &cfg)) != KVW_OK)
        goto close_batches;
    *out = c;
    free(fixed);
    return KVW_OK;

close_batches:
    kvw_batch_close(c);
close_holds:
    kvw_holds_close(c);
free_timers:
    free(c->timers.timers);
free_arena:
    free(arena.base);
free_fixed:
    free(fixed);
    return err;
}

void kvw_core_close(struct kvw_core *c, uint64_t now_ns)
{
    if (c == NULL)
        return;
    c->now_ns = now_ns;
    kvw_core_forget_last(c);
    /* After disconnect() a transport reads nothing that our puts lent it, and after region_remove()
     * it writes nothing of ours. */
    kvw_list_each(it, after, &c->peers) kvw_core_end_peer(c, kvw_list_of(it, struct kvw_peer, all));
    while (!kvw_list_empty(&c->newcomers))
        kvw_link_drop(c, kvw_list_of(c->newcomers.next, struct kvw_link, in));
    kvw_list_each(it, after, &c->transfers)
    {
        struct kvw_transfer *t = kvw_list_of(it, struct kvw_transfer, all);

        if (t->state == KVW_TRANSFER_OPEN)
            kvw_transfer_finish(c, t, KVW_E_CANCELED, KVW_TELL_NONE, "closed");
        t->event_due = false;
        kvw_transfer_release(c, t);
    }
    kvw_batch_close(c);
    for (uint32_t i = 0; i < c->way_count; ++i)
        end_way(c, &c->ways[i]);
    end_jobs(c);
    for (uint32_t i = 0; i < KVW_POOLS_MAX; ++i) {
        kvw_place_free(c->pools[i].place);
        free(c->pools[i].message);
    }
    kvw_holds_close(c);
    free(c->timers.timers);
    free(c->arena_base);
}
