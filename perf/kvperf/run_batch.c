/* SPDX-License-Identifier: Apache-2.0 */
/*
 * run_batch.c - mode batch. Rows take turns; a round of one is --posts posts, --depth of them in
 * flight, each of --pieces pieces in memory of its own. Before a round the receiving memory is
 * overwritten, and after it every byte is compared.
 */
#include "run_batch.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <kvwire/mem.h>

#include "stop.h"

#define REPLY_NS 300000000000ull

struct round {
    struct kvp_batch_result *r;
    struct kvp_batch_row *row;
    struct kvp_scatter here, there;
    unsigned char *memory; /* this side's */
    kvw_batch_id batches[64];
    uint64_t post_ns[64];
    uint32_t posted, over;
    uint64_t first_ns, last_ns;
    uint64_t values;
    char *why;
};

/* --- the other side --------------------------------------------------------------------------- */

/* Ask the server to fill or to compare. NULL: r->why. */
static cJSON *ask(struct round *x, const char *type, const char *reply, uint64_t values)
{
    const struct kvp_options *o = x->r->o;
    cJSON *msg = kvp_msg(type);

    cJSON_AddNumberToObject(msg, "piece_bytes", (double)x->there.piece_bytes);
    cJSON_AddNumberToObject(msg, "pieces", x->there.pieces);
    cJSON_AddNumberToObject(msg, "slots", x->there.slots);
    cJSON_AddNumberToObject(msg, "scattered", x->row->scattered);
    cJSON_AddNumberToObject(msg, "flip", o->flip && !x->row->read && reply[0] == 'c');
    kvp_msg_put_ns(msg, "seed", ~o->seed);
    kvp_msg_put_ns(msg, "values", values);
    if (!kvp_line_send(&x->r->c.line, msg, x->why))
        return NULL;
    return kvp_line_expect(&x->r->c.line, reply, kvw_now_ns() + REPLY_NS, x->why);
}

/* Values where they are read from, nothing right where they are written. Returns the server's
 * figures before the round. */
static cJSON *prepare(struct round *x)
{
    if (x->r->o->verify || x->row->rounds == 0)
        kvp_scatter_fill(&x->here, x->memory, x->row->read ? 0 : x->values);
    return ask(x, "fill", "filled", x->row->read ? x->values : 0);
}

static void take_figures(struct round *x, const cJSON *before, const cJSON *after)
{
    struct kvp_batch_row *row = x->row;
    const double was = kvp_msg_number(before, "message_bytes", 0, 1e18, 0);

    row->recv_cpu_s += (double)(kvp_msg_ns(after, "cpu_ns") - kvp_msg_ns(before, "cpu_ns")) / 1e9;
    row->message_bytes += (uint64_t)(kvp_msg_number(after, "message_bytes", was, 1e18, was) - was);
    row->chunks_rejected += (uint64_t)(kvp_msg_number(after, "chunks_rejected", 0, 1e18, 0) -
                                       kvp_msg_number(before, "chunks_rejected", 0, 1e18, 0));
}

static void compare(struct round *x, const cJSON *after)
{
    struct kvp_check found = {.bytes = (uint64_t)kvp_msg_number(after, "bytes", 0, 1e15, 0),
                              .wrong = (uint64_t)kvp_msg_number(after, "wrong", 0, 1e15, 0)};

    if (x->row->read && x->r->o->verify) {
        if (x->r->o->flip)
            x->memory[kvp_scatter_at(&x->here, 0, 0)] ^= 0x10;
        found = kvp_scatter_check(&x->here, x->memory, x->values);
    }
    x->row->check.bytes += found.bytes;
    x->row->check.wrong += found.wrong;
}

/* --- posting ---------------------------------------------------------------------------------- */

static bool make_batch(struct round *x, uint32_t slot, struct kvw_batch_piece *pieces)
{
    const uint64_t here = (uintptr_t)x->memory, there = x->r->c.region;
    const uint32_t count = x->row->scattered ? x->here.pieces : 1;
    struct kvw_batch_args args = {.size = sizeof(args),
                                  .op = x->row->read ? KVW_BATCH_READ : KVW_BATCH_WRITE,
                                  .peer = x->r->c.lanes[0].peer,
                                  .piece_count = count,
                                  .pieces = pieces,
                                  .piece_bytes = sizeof(*pieces)};
    char said[KVP_WHY] = "";

    for (uint32_t i = 0; i < count; ++i)
        pieces[i] = (struct kvw_batch_piece){here + kvp_scatter_at(&x->here, slot, i),
                                             there + kvp_scatter_at(&x->there, slot, i),
                                             x->here.piece_bytes};
    if (!x->row->scattered)
        pieces[0].bytes = x->here.piece_bytes * x->here.pieces;
    const uint64_t began_ns = kvw_now_ns();
    const kvw_err err =
        kvw_node_batch_make(x->r->c.lanes[0].node, &args, &x->batches[slot], said, sizeof(said));
    const double us = (double)(kvw_now_ns() - began_ns) / 1e3;

    if (us > x->row->make_us)
        x->row->make_us = us;
    if (err != KVW_OK)
        snprintf(x->why, KVP_WHY, "a batch can't be made: %.200s",
                 said[0] != '\0' ? said : kvw_strerror(err));
    return err == KVW_OK;
}

static bool post(struct round *x, uint32_t slot)
{
    const struct kvw_post_args args = {.size = sizeof(args),
                                       .deadline_ns = kvw_now_ns() + x->r->o->timeout_ns};
    char said[KVP_WHY] = "";

    x->post_ns[slot] = kvw_now_ns();
    const kvw_err err =
        kvw_node_batch_post(x->r->c.lanes[0].node, x->batches[slot], &args, said, sizeof(said));

    x->row->post_us[x->row->posts + x->posted] = (double)(kvw_now_ns() - x->post_ns[slot]) / 1e3;
    if (x->posted++ == 0)
        x->first_ns = x->post_ns[slot];
    if (err != KVW_OK)
        snprintf(x->why, KVP_WHY, "a post was refused: %.200s",
                 said[0] != '\0' ? said : kvw_strerror(err));
    return err == KVW_OK;
}

/* A post ended: note it, and post again while there are more to post. */
static bool one_over(struct round *x, const struct kvw_core_event *ev)
{
    struct kvp_batch_row *row = x->row;
    uint32_t slot = 0;

    while (slot < x->here.slots && x->batches[slot].value != ev->batch.value)
        ++slot;
    if (slot == x->here.slots)
        return true;
    if (ev->err != KVW_OK) {
        ++x->r->failed;
        kvp_intervals_add(&x->r->intervals, -1, 0);
        snprintf(x->why, KVP_WHY, "a post failed: %s%s%.180s", kvw_strerror((kvw_err)ev->err),
                 ev->text[0] != '\0' ? ": " : "", ev->text);
        return false;
    }
    x->last_ns = kvw_now_ns();
    row->ms[row->posts + x->over++] = (double)(x->last_ns - x->post_ns[slot]) / 1e6;
    kvp_intervals_add(&x->r->intervals, row->ms[row->posts + x->over - 1],
                      (double)(x->here.piece_bytes * x->here.pieces));
    return x->posted >= x->r->o->posts || post(x, slot);
}

static enum kvp_exit stopped_or(enum kvp_exit other)
{
    return kvp_stopped() ? KVP_EXIT_INTERRUPTED : other;
}

static enum kvp_exit run_posts(struct round *x)
{
    struct kvp_lane *lane = &x->r->c.lanes[0];
    const int fd = kvw_node_fd(lane->node);
    const uint64_t until_ns = kvw_now_ns() + x->r->o->timeout_ns + REPLY_NS;
    struct kvw_core_event ev;

    for (uint32_t slot = 0; slot < x->here.slots && x->posted < x->r->o->posts; ++slot)
        if (!post(x, slot))
            return KVP_EXIT_FAILED;
    while (x->over < x->r->o->posts && !kvp_stopped()) {
        (void)kvp_wait_fds(&fd, 1, until_ns);
        while (x->over < x->r->o->posts && kvp_lane_event(lane, &ev))
            if (ev.kind == KVW_CEV_BATCH_DONE && !one_over(x, &ev))
                return ev.err == KVW_E_PEER_LOST ? KVP_EXIT_SERVER : KVP_EXIT_FAILED;
        kvp_intervals_look(&x->r->intervals);
        if (kvw_now_ns() > until_ns) {
            snprintf(x->why, KVP_WHY, "a post didn't end in its time");
            return KVP_EXIT_FAILED;
        }
    }
    return stopped_or(KVP_EXIT_OK);
}

/* --- rounds ----------------------------------------------------------------------------------- */

/* The batches are made, and the memory is prepared: measure, and compare. */
static enum kvp_exit measured(struct round *x, bool counts)
{
    cJSON *before = prepare(x), *after = NULL;
    struct kvp_batch_row *row = x->row;
    struct kvw_batch_status s = {.size = sizeof(s)};
    enum kvp_exit status;

    if (before == NULL)
        return stopped_or(KVP_EXIT_SERVER);
    const uint64_t cpu_ns = kvp_cpu_ns();

    status = run_posts(x);
    if (status == KVP_EXIT_OK) {
        const double cpu_s = (double)(kvp_cpu_ns() - cpu_ns) / 1e9;

        after = ask(x, "compare", "compared", x->r->o->verify && !row->read ? x->values : 0);
        status = after == NULL ? stopped_or(KVP_EXIT_SERVER) : KVP_EXIT_OK;
        if (after != NULL && counts) {
            if (kvw_node_batch_status(x->r->c.lanes[0].node, x->batches[0], &s) == KVW_OK)
                row->runs = s.runs;
            row->send_cpu_s += cpu_s;
            take_figures(x, before, after);
            compare(x, after);
            row->bytes += x->here.piece_bytes * x->here.pieces * x->over;
            row->rates[row->rounds++] = (double)(x->here.piece_bytes * x->here.pieces) * x->over /
                                        ((double)(x->last_ns - x->first_ns) / 1e9);
            row->posts += x->over;
        }
    }
    cJSON_Delete(before);
    cJSON_Delete(after);
    return status;
}

static enum kvp_exit one_round(struct kvp_batch_result *r, struct kvp_batch_row *row,
                               unsigned char *memory, bool counts)
{
    const struct kvp_options *o = r->o;
    const struct kvp_scatter shape = {
        .piece_bytes = row->piece_bytes, .pieces = o->pieces, .slots = o->depth};
    struct round x = {
        .r = r, .row = row, .here = shape, .there = shape, .memory = memory, .why = r->why};
    struct kvw_batch_piece *pieces = calloc(o->pieces, sizeof(*pieces));
    enum kvp_exit status = KVP_EXIT_FAILED;
    uint32_t made = 0;

    x.values = kvp_mix(o->seed + row->rounds) | 1;
    if (pieces == NULL || !kvp_scatter_make(&x.here, row->scattered, o->seed) ||
        !kvp_scatter_make(&x.there, row->scattered, ~o->seed)) {
        snprintf(r->why, sizeof(r->why), "no memory for the order of pieces");
    } else {
        while (made < o->depth && make_batch(&x, made, pieces))
            ++made;
        if (made == o->depth)
            status = measured(&x, counts);
    }
    for (uint32_t i = 0; i < made; ++i)
        (void)!kvw_node_batch_release(r->c.lanes[0].node, x.batches[i]);
    kvp_scatter_free(&x.here);
    kvp_scatter_free(&x.there);
    free(pieces);
    return status;
}

/* --- the whole -------------------------------------------------------------------------------- */

static bool make_rows(struct kvp_batch_result *r)
{
    const struct kvp_options *o = r->o;
    const size_t posts = (size_t)o->posts * (o->reps + 1);

    for (uint32_t i = 0; i < o->piece_count; ++i)
        for (int kind = 0; kind < 4; ++kind) {
            const bool read = kind >= 2;
            struct kvp_batch_row *row = &r->rows[r->row_count];

            if (read ? !o->read : !o->write)
                continue;
            *row = (struct kvp_batch_row){
                .read = read, .scattered = kind % 2 == 1, .piece_bytes = o->piece_list[i]};
            row->ms = malloc(posts * sizeof(double));
            row->post_us = malloc(posts * sizeof(double));
            row->rates = malloc(o->reps * sizeof(double));
            ++r->row_count;
            if (row->ms == NULL || row->post_us == NULL || row->rates == NULL) {
                snprintf(r->why, sizeof(r->why), "no memory for %zu posts", posts);
                return false;
            }
        }
    return true;
}

/* This side's region. */
static bool lend(struct kvp_batch_result *r, unsigned char *memory, uint64_t bytes)
{
    const struct kvw_mem mem = {
        .base = memory, .bytes = bytes, .kind = KVW_MEM_HOST, .dmabuf_fd = -1};
    const struct kvw_region_args args = {
        .size = sizeof(args), .mem = &mem, .mem_bytes = sizeof(mem)};
    struct kvp_lane *lane = &r->c.lanes[0];
    const uint64_t until_ns = kvw_now_ns() + KVP_UP_NS;
    const int fd = kvw_node_fd(lane->node);
    struct kvw_region_info info = {.size = sizeof(info)};
    struct kvw_core_event ev;
    kvw_region_id region;

    if (kvw_node_region_add(lane->node, &args, &region, r->why, sizeof(r->why)) != KVW_OK)
        return false;
    r->why[0] = '\0';
    while (kvw_node_peer_region(lane->node, lane->peer, 0, &info) != KVW_OK) {
        (void)kvp_wait_fds(&fd, 1, kvw_now_ns() + KVP_SLICE_NS);
        while (kvp_lane_event(lane, &ev))
            ;
        if (kvp_stopped() || kvw_now_ns() > until_ns) {
            snprintf(r->why, sizeof(r->why), "the server's node told of no region");
            return false;
        }
    }
    return true;
}

static enum kvp_exit measure(struct kvp_batch_result *r, unsigned char *memory)
{
    const struct kvp_options *o = r->o;
    enum kvp_exit status = KVP_EXIT_OK;

    kvp_intervals_begin(&r->intervals, o);
    for (uint32_t rep = 0; rep < o->reps + o->omit; ++rep)
        for (uint32_t i = 0; i < r->row_count && status == KVP_EXIT_OK; ++i)
            status = one_round(r, &r->rows[i], memory, rep >= o->omit);
    kvp_intervals_end(&r->intervals);
    return status;
}

/* After which row->rates is in order, too. */
static void finish(struct kvp_batch_result *r)
{
    double contiguous = 0; /* of the row before */

    for (uint32_t i = 0; i < r->row_count; ++i) {
        struct kvp_batch_row *row = &r->rows[i];

        if (row->rounds == 0)
            continue;
        row->took = kvp_spread_of(row->ms, row->posts);
        row->post = kvp_spread_of(row->post_us, row->posts);
        row->rate = kvp_spread_of(row->rates, row->rounds).p50;
        if (!row->scattered)
            contiguous = row->rate;
        row->percent_of_contiguous = contiguous > 0 ? 100 * row->rate / contiguous : 0;
    }
    for (uint32_t i = 0; i < r->row_count && r->status == KVP_EXIT_OK; ++i)
        if (r->rows[i].check.wrong > 0) {
            r->status = KVP_EXIT_DATA;
            snprintf(r->why, sizeof(r->why),
                     "%s of pieces of %llu bytes: %llu of %llu bytes that arrived differ",
                     r->rows[i].read ? "READ" : "WRITE", (unsigned long long)r->rows[i].piece_bytes,
                     (unsigned long long)r->rows[i].check.wrong,
                     (unsigned long long)r->rows[i].check.bytes);
        }
}

static uint64_t bytes_needed(const struct kvp_options *o)
{
    uint64_t most = 0;

    for (uint32_t i = 0; i < o->piece_count; ++i)
        if (o->piece_list[i] > most)
            most = o->piece_list[i];
    return most * o->pieces * o->depth;
}

static void run(struct kvp_batch_result *r)
{
    const uint64_t bytes = bytes_needed(r->o);
    unsigned char *memory = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
    char why[KVP_WHY];

    if (memory == NULL) {
        fprintf(stderr, "kvperf: no memory for %llu bytes: fewer --pieces or --depth\n",
                (unsigned long long)bytes);
        r->status = KVP_EXIT_FAILED;
        return;
    }
    memset(memory, 0, bytes); /* faulted in */
    r->status = make_rows(r) ? kvp_client_join(&r->c, r->o, r->why) : KVP_EXIT_FAILED;
    if (r->status == KVP_EXIT_OK)
        r->status = kvp_client_region(&r->c, bytes, r->why);
    if (r->status == KVP_EXIT_OK && !lend(r, memory, bytes))
        r->status = stopped_or(KVP_EXIT_FAILED);
    if (r->status == KVP_EXIT_OK)
        r->status = measure(r, memory);
    if (r->status == KVP_EXIT_INTERRUPTED)
        snprintf(r->why, sizeof(r->why), "stopped; the figures are those until then");
    if (r->status == KVP_EXIT_SERVER && r->o->host != NULL) {
        snprintf(why, sizeof(why), "%s", r->why);
        snprintf(r->why, sizeof(r->why), "server %.60s: %.180s", r->o->host, why);
    }
    finish(r);
    const struct kvp_out out = {.o = r->o,
                                .status = r->status,
                                .why = r->why,
                                .of = r,
                                .print = kvp_batch_print,
                                .json = kvp_batch_json,
                                .csv = kvp_batch_csv};

    r->status = kvp_out(&out);
    kvp_client_close(&r->c); /* the node before its memory */
    free(memory);
}

int kvp_run_batch(const struct kvp_options *o)
{
    struct kvp_batch_result *r = calloc(1, sizeof(*r));
    int status;

    if (r == NULL) {
        fprintf(stderr, "kvperf: no memory\n");
        return KVP_EXIT_FAILED;
    }
    r->o = o;
    r->c.line.fd = -1;
    run(r);
    status = r->status;
    for (uint32_t i = 0; i < r->row_count; ++i) {
        free(r->rows[i].ms);
        free(r->rows[i].post_us);
        free(r->rows[i].rates);
    }
    free(r);
    return status;
}
