/* SPDX-License-Identifier: Apache-2.0 */
/* Regions, batches and notifications through node.h, over udp and over loop: bytes at the right
 * place, a note after its data, an error for each thing that can't be. KVW_BATCH_OVER="TRANSPORT
 * OWNER POSTER" puts another transport and its addresses in the place of udp (tests/guest). */
#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <malloc.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../../kvwire/node.h"

#define MS     1000000ull
#define S      1000000000ull
#define PIECE  4096u
#define PIECES 2000u
#define BYTES  (PIECE * PIECES * 2u) /* of a region: every other piece of it stays as it is */

struct end {
    struct kvw_node *n;
    unsigned char *mem;
    kvw_region_id region;
    kvw_peer_id peer;
    uint32_t regions, notes, dones;
    struct kvw_core_event last_note, last_done;
};

static struct end a, b; /* a posts, b owns */

static void take(struct end *e)
{
    struct kvw_core_event ev = {.size = sizeof(ev)};

    while (kvw_node_next_event(e->n, &ev)) {
        if (ev.kind == KVW_CEV_PEER_UP)
            e->peer = ev.peer;
        if (ev.kind == KVW_CEV_REGIONS)
            ++e->regions;
        if (ev.kind == KVW_CEV_NOTIFY) {
            ++e->notes;
            e->last_note = ev;
        }
        if (ev.kind == KVW_CEV_BATCH_DONE) {
            ++e->dones;
            e->last_done = ev;
        }
    }
}

/* Until *count is at least want; false: it took too long. */
static bool until(struct end *e, const uint32_t *count, uint32_t want)
{
    const uint64_t late = kvw_now_ns() + 20 * S;

    while (*count < want && kvw_now_ns() < late) {
        (void)kvw_node_wait(e->n, kvw_now_ns() + 20 * MS);
        take(e);
    }
    return *count >= want;
}

static kvw_region_id add_region(struct end *e, void *base, uint64_t bytes, uint32_t rights)
{
    const struct kvw_mem mem = {
        .base = base, .bytes = bytes, .kind = KVW_MEM_HOST, .dmabuf_fd = -1};
    const struct kvw_region_args args = {
        .size = sizeof(args), .rights = rights, .mem = &mem, .mem_bytes = sizeof(mem)};
    kvw_region_id id = {0};
    char why[257] = "";

    cr_assert_eq(kvw_node_region_add(e->n, &args, &id, why, sizeof(why)), KVW_OK, "%s", why);
    return id;
}

static void open_end(struct end *e, const char *transport, const char *local, bool listen)
{
    char why[257] = "";
    const struct kvw_node_config cfg = {.size = sizeof(cfg),
                                        .name = listen ? "owner" : "poster",
                                        .transport = transport,
                                        .local = local,
                                        .listen = listen};

    memset(e, 0, sizeof(*e));
    cr_assert_eq(kvw_node_open(&e->n, &cfg, why, sizeof(why)), KVW_OK, "%s", why);
    cr_assert_not_null(e->mem = malloc(BYTES));
}

static void pair(const char *transport, uint32_t port)
{
    const bool udp = strcmp(transport, "udp") == 0;
    char net[16] = "udp", owner[24] = "127.0.0.1", poster[24] = "127.0.0.1", there[32], here[32];
    const char *over = getenv("KVW_BATCH_OVER");
    uint32_t up = 0;

    cr_assert(over == NULL || sscanf(over, "%15s %23s %23s", net, owner, poster) == 3, "%s", over);
    snprintf(there, sizeof(there), udp ? "%s:%u" : "%.5s%u", udp ? owner : "batch", port);
    snprintf(here, sizeof(here), udp ? "%s:%u" : "%.5s%u", udp ? poster : "batch", udp ? 0 : port);
    transport = udp ? net : transport;
    open_end(&b, transport, there, true);
    b.region = add_region(&b, b.mem, BYTES, KVW_REGION_READ | KVW_REGION_WRITE);
    open_end(&a, transport, here, false);
    a.region = add_region(&a, a.mem, BYTES, 0);
    cr_assert_eq(kvw_node_peer_add(a.n, udp ? there : NULL, &a.peer), KVW_OK);
    cr_assert(until(&a, &a.regions, 1), "the regions of the peer were never told");
    while (b.peer.value == 0 && up++ < 1000) {
        (void)kvw_node_wait(b.n, kvw_now_ns() + 20 * MS);
        take(&b);
    }
    cr_assert_neq(b.peer.value, 0);
}

static void end_pair(void)
{
    kvw_node_close(a.n);
    kvw_node_close(b.n);
    free(a.mem);
    free(b.mem);
}

static void fill(struct end *e, uint32_t seed)
{
    for (uint32_t i = 0; i < BYTES; i += 4)
        memcpy(e->mem + i, &(uint32_t){(i / 4 + seed) * 2654435761u}, 4);
}

/* Piece i: here in order, there scattered over every other place. */
static uint64_t here_of(uint32_t i)
{
    return (uintptr_t)a.mem + (uint64_t)i * PIECE;
}

static uint64_t there_of(uint32_t i)
{
    return (uintptr_t)b.mem + (uint64_t)(i * 777u % PIECES) * 2 * PIECE;
}

static kvw_err try_make(uint32_t op, const struct kvw_batch_piece *pieces, uint32_t count,
                        kvw_batch_id *batch, char *why)
{
    const struct kvw_batch_args args = {.size = sizeof(args),
                                        .op = op,
                                        .peer = a.peer,
                                        .piece_count = count,
                                        .pieces = pieces,
                                        .piece_bytes = sizeof(pieces[0])};

    return kvw_node_batch_make(a.n, &args, batch, why, 257);
}

static kvw_batch_id make(uint32_t op)
{
    static struct kvw_batch_piece pieces[PIECES];
    kvw_batch_id batch = {0};
    char why[257] = "";

    for (uint32_t i = 0; i < PIECES; ++i)
        pieces[i] = (struct kvw_batch_piece){here_of(i), there_of(i), PIECE};
    cr_assert_eq(try_make(op, pieces, PIECES, &batch, why), KVW_OK, "%s", why);
    return batch;
}

static void post(kvw_batch_id batch, const char *note)
{
    const struct kvw_post_args args = {.size = sizeof(args),
                                       .note = note,
                                       .note_bytes = note != NULL ? (uint32_t)strlen(note) : 0};
    char why[257] = "";

    cr_assert_eq(kvw_node_batch_post(a.n, batch, &args, why, sizeof(why)), KVW_OK, "%s", why);
}

static bool pieces_equal(void)
{
    for (uint32_t i = 0; i < PIECES; ++i)
        if (memcmp((void *)(uintptr_t)here_of(i), (void *)(uintptr_t)there_of(i), PIECE) != 0)
            return false;
    return true;
}

static bool gaps_are(unsigned char value)
{
    for (uint32_t i = 0; i < PIECES; ++i)
        for (uint32_t k = 0; k < PIECE; ++k)
            if (b.mem[(uint64_t)(2 * i + 1) * PIECE + k] != value)
                return false;
    return true;
}

struct over {
    char transport[8];
    uint32_t port;
};

ParameterizedTestParameters(batch_node, writes_and_reads)
{
    static struct over over[] = {{"udp", 27431}, {"loop", 0}};

    return cr_make_param_array(struct over, over, 2);
}

ParameterizedTest(struct over *over, batch_node, writes_and_reads, .timeout = 60)
{
    struct kvw_batch_status s = {.size = sizeof(s)};
    kvw_batch_id w, r;

    pair(over->transport, over->port);
    memset(b.mem, 0x5a, BYTES);
    fill(&a, 1);
    w = make(KVW_BATCH_WRITE);
    cr_assert_not(pieces_equal(), "equal before anything was written");
    post(w, "the first");
    cr_assert(until(&a, &a.dones, 1));
    cr_expect_eq(a.last_done.err, KVW_OK, "%s", a.last_done.text);
    cr_expect_eq(a.last_done.batch.value, w.value);
    cr_expect_eq(a.last_done.raw_bytes, (uint64_t)PIECES * PIECE);
    cr_expect(pieces_equal());
    cr_expect(gaps_are(0x5a), "a byte elsewhere");
    cr_assert(until(&b, &b.notes, 1));
    cr_expect_eq(b.last_note.note_bytes, 9);
    cr_expect_eq(memcmp(b.last_note.note, "the first", 9), 0);
    cr_expect_eq(b.last_note.peer.value, b.peer.value);

    fill(&b, 99);
    r = make(KVW_BATCH_READ);
    cr_assert_not(pieces_equal());
    post(r, "read");
    cr_assert(until(&a, &a.dones, 2));
    cr_expect_eq(a.last_done.err, KVW_OK, "%s", a.last_done.text);
    cr_expect(pieces_equal());
    cr_assert(until(&b, &b.notes, 2));
    cr_expect_eq(b.last_note.note_bytes, 4);

    cr_assert_eq(kvw_node_batch_status(a.n, r, &s), KVW_OK);
    cr_expect_eq(s.state, KVW_BATCH_DONE);
    cr_expect_eq(s.posts, 1);
    cr_expect_eq(s.moved, (uint64_t)PIECES * PIECE);
    cr_expect_eq(kvw_node_batch_release(a.n, r), KVW_OK);
    cr_expect_eq(kvw_node_batch_release(a.n, r), KVW_E_NOTFOUND);
    cr_expect_eq(kvw_node_batch_status(a.n, r, &s), KVW_E_NOTFOUND);
    cr_assert_eq(kvw_node_notify(b.n, b.peer, "hello", 5), KVW_OK);
    cr_assert(until(&a, &a.notes, 1));
    cr_expect_eq(memcmp(a.last_note.note, "hello", 5), 0);
    end_pair();
}

/* And nothing grows by it. */
Test(batch_node, a_batch_is_posted_a_thousand_times, .timeout = 60)
{
    const struct kvw_post_args quiet = {.size = sizeof(quiet), .quiet = 1};
    struct kvw_batch_status s = {.size = sizeof(s)};
    struct kvw_batch_piece piece;
    size_t before = 0;
    kvw_batch_id w = {0};
    char why[257] = "";

    pair("udp", 27433);
    piece = (struct kvw_batch_piece){here_of(0), there_of(1), 3 * PIECE};
    cr_assert_eq(try_make(KVW_BATCH_WRITE, &piece, 1, &w, why), KVW_OK, "%s", why);
    cr_expect_eq(kvw_node_batch_wait(a.n, w, 0, NULL), KVW_E_INVALID, "it was never posted");
    for (uint32_t i = 0; i < 1000; ++i) {
        memset(a.mem, (int)i, 3 * PIECE);
        cr_assert_eq(kvw_node_batch_post(a.n, w, &quiet, why, sizeof(why)), KVW_OK, "%s", why);
        cr_assert_eq(kvw_node_batch_wait(a.n, w, kvw_now_ns() + 10 * S, &s), KVW_OK, "%s", s.text);
        cr_assert_eq(memcmp((void *)(uintptr_t)there_of(1), a.mem, 3 * PIECE), 0);
        if (i == 100)
            before = mallinfo2().uordblks;
    }
    cr_expect_leq(mallinfo2().uordblks, before + 4096, "it grew");
    take(&a);
    cr_expect_eq(a.dones, 0, "quiet posts make no events");
    end_pair();
}

struct waiter {
    uint32_t at;
    kvw_err err;
};

/* A thread's own pages, written and waited for twenty times. */
static void *write_and_wait(void *arg)
{
    const struct kvw_post_args quiet = {.size = sizeof(quiet), .quiet = 1};
    struct waiter *w = arg;
    char why[257];

    for (uint32_t i = 0; i < 20 && w->err == KVW_OK; ++i) {
        const struct kvw_batch_piece piece = {here_of(w->at * 20 + i), there_of(w->at * 20 + i),
                                              PIECE};
        kvw_batch_id batch;

        if ((w->err = try_make(KVW_BATCH_WRITE, &piece, 1, &batch, why)) != KVW_OK ||
            (w->err = kvw_node_batch_post(a.n, batch, &quiet, why, sizeof(why))) != KVW_OK)
            break;
        w->err = kvw_node_batch_wait(a.n, batch, kvw_now_ns() + 10 * S, NULL);
        if (kvw_node_batch_release(a.n, batch) != KVW_OK)
            w->err = KVW_E_INVALID;
    }
    return NULL;
}

Test(batch_node, ten_threads_write_and_wait, .timeout = 60)
{
    struct waiter w[10];
    pthread_t threads[10];

    pair("udp", 27434);
    fill(&a, 7);
    for (uint32_t i = 0; i < 10; ++i) {
        w[i] = (struct waiter){i, KVW_OK};
        cr_assert_eq(pthread_create(&threads[i], NULL, write_and_wait, &w[i]), 0);
    }
    for (uint32_t i = 0; i < 10; ++i) {
        pthread_join(threads[i], NULL);
        cr_expect_eq(w[i].err, KVW_OK, "thread %u: %s", i, kvw_strerror(w[i].err));
    }
    for (uint32_t i = 0; i < 200; ++i)
        cr_expect_eq(memcmp((void *)(uintptr_t)here_of(i), (void *)(uintptr_t)there_of(i), PIECE),
                     0);
    end_pair();
}

/* --- errors, one each ------------------------------------------------------------------------- */

static void refused(const struct kvw_batch_piece *piece, uint32_t op, kvw_err err,
                    const char *names)
{
    kvw_batch_id batch = {77};
    char why[257] = "";

    cr_expect_eq(try_make(op, piece, 1, &batch, why), err, "%s: %s", names, why);
    cr_expect(strstr(why, names) != NULL, "\"%s\" doesn't name %s", why, names);
    cr_expect_eq(batch.value, 77);
}

Test(batch_node, what_cannot_be_is_refused, .timeout = 60)
{
    const uint64_t here = (uintptr_t)(pair("udp", 27435), a.mem), there = (uintptr_t)b.mem;
    static unsigned char other[PIECE], closed[PIECE];
    kvw_region_id read_only = add_region(&b, other, PIECE, KVW_REGION_READ);
    struct kvw_region_info info = {.size = sizeof(info)};
    struct kvw_batch_piece p = {here, there + BYTES - 10, 11};
    kvw_batch_id batch;
    char why[257] = "";
    uint32_t at = 0;

    (void)add_region(&b, closed, PIECE, 0);
    cr_assert(until(&a, &a.regions, 2));
    refused(&p, KVW_BATCH_WRITE, KVW_E_NOTFOUND, "pieces[0].remote");
    p = (struct kvw_batch_piece){here + BYTES, there, 1};
    refused(&p, KVW_BATCH_READ, KVW_E_NOTFOUND, "pieces[0].local");
    p = (struct kvw_batch_piece){here, (uintptr_t)closed, 1}; /* rights 0: nobody is told */
    refused(&p, KVW_BATCH_READ, KVW_E_NOTFOUND, "pieces[0].remote");
    p = (struct kvw_batch_piece){here, (uintptr_t)other, PIECE};
    refused(&p, KVW_BATCH_WRITE, KVW_E_MISMATCH, "may not be written");
    cr_expect_eq(try_make(KVW_BATCH_READ, &p, 1, &batch, why), KVW_OK, "%s", why);
    p = (struct kvw_batch_piece){here, UINT64_MAX - 10, 12};
    refused(&p, KVW_BATCH_READ, KVW_E_INVALID, "pieces[0]");
    p = (struct kvw_batch_piece){UINT64_MAX - 10, there, 12};
    refused(&p, KVW_BATCH_READ, KVW_E_INVALID, "pieces[0]");
    p = (struct kvw_batch_piece){here, there, UINT64_MAX};
    refused(&p, KVW_BATCH_READ, KVW_E_INVALID, "pieces[0]");
    p = (struct kvw_batch_piece){here, there, 0};
    refused(&p, KVW_BATCH_READ, KVW_E_INVALID, "pieces[0]");
    p.bytes = 1;
    refused(&p, 3, KVW_E_INVALID, "op: 3");
    cr_expect_eq(try_make(KVW_BATCH_READ, &p, KVW_PIECES_MAX + 1, &batch, why), KVW_E_INVALID);
    cr_expect(strstr(why, "piece_count: 100001") != NULL, "%s", why);

    while (kvw_node_peer_region(a.n, a.peer, at, &info) == KVW_OK && info.id != read_only.value)
        ++at;
    cr_expect_eq(info.rights, KVW_REGION_READ);
    cr_expect_eq(info.base, (uintptr_t)other);
    cr_expect_eq(info.bytes, PIECE);
    cr_expect_eq(kvw_node_peer_region(a.n, a.peer, 2, &info), KVW_E_NOTFOUND);
    cr_expect_eq(kvw_node_notify(a.n, a.peer, "", 0), KVW_E_INVALID);
    cr_expect_eq(kvw_node_notify(a.n, a.peer, b.mem, KVW_NOTE_MAX + 1), KVW_E_INVALID);
    cr_expect_eq(kvw_node_notify(a.n, (kvw_peer_id){99}, "x", 1), KVW_E_NOTFOUND);
    end_pair();
}

Test(batch_node, a_removed_region_is_not_touched, .timeout = 60)
{
    kvw_batch_id w, r;
    char why[257] = "";

    pair("udp", 27436);
    fill(&a, 5);
    memset(b.mem, 0, BYTES);
    w = make(KVW_BATCH_WRITE);
    r = make(KVW_BATCH_READ);
    post(w, "never");
    post(r, NULL);
    while (b.notes == 0 && a.dones == 0 && b.mem[there_of(0) - (uintptr_t)b.mem] == 0)
        take(&b); /* the WRITE is under way, or has ended */
    cr_assert_eq(kvw_node_region_remove(b.n, b.region), KVW_OK);
    cr_expect_eq(kvw_node_region_remove(b.n, b.region), KVW_E_NOTFOUND);
    memset(b.mem, 0x77, BYTES); /* it is ours again */
    cr_assert(until(&a, &a.dones, 2));
    for (uint32_t i = 0; i < BYTES; ++i)
        cr_assert_eq(b.mem[i], 0x77, "byte %u was written after remove", i);
    cr_assert(until(&a, &a.regions, 2), "nobody told that the region is gone");
    cr_expect_eq(kvw_node_batch_post(a.n, w, NULL, why, sizeof(why)), KVW_E_NOTFOUND);
    cr_expect(strstr(why, "at the peer") != NULL, "%s", why);
    cr_expect_eq(kvw_node_region_remove(a.n, a.region), KVW_OK);
    cr_expect_eq(kvw_node_batch_post(a.n, w, NULL, why, sizeof(why)), KVW_E_NOTFOUND);
    cr_expect(strstr(why, "here") != NULL, "%s", why);
    end_pair();
}

/* A WRITE and a READ, released under way: what is put into memory afterwards goes nowhere, and
 * stays. A last READ, into the other half, comes behind all of them. */
Test(batch_node, a_released_batch_touches_nothing, .timeout = 60)
{
    static struct kvw_batch_piece pieces[PIECES];
    unsigned char *half;
    kvw_batch_id w, r, last = {0};
    char why[257] = "";

    pair("udp", 47438);
    half = a.mem + BYTES / 2;
    memset(a.mem, 1, BYTES);
    memset(b.mem, 0, BYTES);
    w = make(KVW_BATCH_WRITE);
    r = make(KVW_BATCH_READ);
    post(w, NULL);
    while (a.dones == 0 && b.mem[there_of(0) - (uintptr_t)b.mem] == 0)
        take(&a); /* the WRITE is under way, or has ended */
    cr_assert_eq(kvw_node_batch_release(a.n, w), KVW_OK);
    memset(a.mem, 0x77, BYTES);
    post(r, NULL);
    cr_assert_eq(kvw_node_batch_release(a.n, r), KVW_OK);
    memset(a.mem, 0x77, BYTES);
    a.dones = 0;
    for (uint32_t i = 0; i < PIECES; ++i)
        pieces[i] = (struct kvw_batch_piece){(uintptr_t)half + i * PIECE, there_of(i), PIECE};
    cr_assert_eq(try_make(KVW_BATCH_READ, pieces, PIECES, &last, why), KVW_OK, "%s", why);
    post(last, NULL);
    while (a.dones == 0 || a.last_done.batch.value != last.value)
        cr_assert(until(&a, &a.dones, a.dones + 1));
    cr_expect_eq(a.last_done.err, KVW_OK, "%s", a.last_done.text);
    for (uint32_t i = 0; i < BYTES; ++i)
        cr_assert_leq(b.mem[i], 1, "byte %u was read here after the release", i);
    for (uint32_t i = 0; i < BYTES / 2; ++i)
        cr_assert_eq(a.mem[i], 0x77, "byte %u was written after the release", i);
    for (uint32_t i = 0; i < PIECES; ++i)
        cr_assert_eq(memcmp(half + i * PIECE, (void *)(uintptr_t)there_of(i), PIECE), 0);
    end_pair();
}

Test(batch_node, a_dead_peer_ends_posts, .timeout = 60)
{
    const struct kvw_post_args late = {
        .size = sizeof(late), .quiet = 1, .deadline_ns = kvw_now_ns()};
    struct kvw_batch_status s = {.size = sizeof(s)};
    kvw_batch_id w, r;
    char why[257] = "";

    pair("udp", 27437);
    w = make(KVW_BATCH_WRITE);
    r = make(KVW_BATCH_READ);
    cr_assert_eq(kvw_node_batch_post(a.n, r, &late, why, sizeof(why)), KVW_OK, "%s", why);
    cr_expect_eq(kvw_node_batch_wait(a.n, r, kvw_now_ns() + 5 * S, &s), KVW_E_DEADLINE, "%s",
                 s.text);
    post(w, NULL);
    kvw_node_close(b.n);
    memset(b.mem, 0x77, BYTES); /* it is ours again */
    cr_assert(until(&a, &a.dones, 1));
    cr_expect(a.last_done.err == KVW_E_PEER_LOST || a.last_done.err == KVW_OK, "%s",
              a.last_done.text);
    for (uint32_t i = 0; i < BYTES; ++i)
        cr_assert_eq(b.mem[i], 0x77, "byte %u was written after close", i);
    cr_expect_eq(kvw_node_batch_post(a.n, w, NULL, why, sizeof(why)), KVW_E_PEER_LOST, "%s", why);
    cr_expect_eq(kvw_node_notify(a.n, a.peer, "x", 1), KVW_E_PEER_LOST);
    kvw_node_close(a.n);
    free(a.mem);
    free(b.mem);
}
