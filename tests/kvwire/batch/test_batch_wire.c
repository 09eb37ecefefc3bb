/* SPDX-License-Identifier: Apache-2.0 */
/* One core on the fake transport, and a peer that the test plays: batches as SPEC.md 4.5 has them,
 * and what is done about a peer that breaks its rules. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../../compress/compress.h"
#include "../../../kvwire/core.h"
#include "../../../kvwire/digest.h"
#include "../../../kvwire/wire/batches.h"
#include "../../../kvwire/wire/credit.h"
#include "../../../kvwire/wire/hello.h"
#include "../../../kvwire/wire/le.h"
#include "../fake.h"

#define MS    1000000ull
#define CHUNK 4096u
#define BYTES (4 * CHUNK)
#define THERE 0x10000ull /* where the peer says that its region is */

static struct fake f;
static struct kvw_core *core;
static kvw_conn_id conn;
static kvw_peer_id peer;
static kvw_region_id region;
static uint64_t now;
static uint32_t slot_bytes, slots[16], granted, used;
static uint8_t msg[KVW_MSG_BYTES_MAX];
static uint8_t mem[BYTES];
static struct kvw_core_event last_lost, last_done, last_note;
static uint32_t losts, dones, notes, told;

static void take_events(void)
{
    struct kvw_core_event ev = {.size = sizeof(ev)};

    while (kvw_core_next_event(core, &ev)) {
        if (ev.kind == KVW_CEV_PEER_UP)
            peer = ev.peer;
        told += ev.kind == KVW_CEV_REGIONS;
        losts += ev.kind == KVW_CEV_PEER_LOST;
        dones += ev.kind == KVW_CEV_BATCH_DONE;
        notes += ev.kind == KVW_CEV_NOTIFY;
        if (ev.kind == KVW_CEV_PEER_LOST)
            last_lost = ev;
        if (ev.kind == KVW_CEV_BATCH_DONE)
            last_done = ev;
        if (ev.kind == KVW_CEV_NOTIFY)
            last_note = ev;
    }
}

static void settle(void)
{
    struct fake_msg m;

    for (uint32_t i = 0; f.event_count > 0 || kvw_core_deadline_ns(core) <= now; ++i) {
        cr_assert_lt(i, 1000, "it spins");
        (void)kvw_core_poll(core, now);
        take_events();
    }
    while (fake_take(&f, KVW_WIRE_GRANT, &m)) {
        struct kvw_wire_grant g;

        cr_assert_eq(kvw_wire_grant_decode(&g, m.msg, m.bytes), KVW_OK);
        for (uint32_t i = 0; i < g.count; ++i)
            slots[granted++ % 16] = kvw_wire_grant_slot(&g, i);
        free(m.msg);
    }
}

static void say(uint32_t bytes)
{
    fake_message(&f, conn, msg, bytes);
    settle();
}

static void begin(uint64_t features)
{
    struct kvw_core_path path = {.name = "fake", .transport = &f.transport, .listen = 1};
    const struct kvw_core_config cfg = {.size = sizeof(cfg),
                                        .path_count = 1,
                                        .paths = &path,
                                        .instance = 50,
                                        .codecs = kvc_codecs,
                                        .chunk_raw_bytes = CHUNK,
                                        .slots = 8,
                                        .stages = 4};
    const struct kvw_mem m = {.base = mem, .bytes = BYTES, .kind = KVW_MEM_HOST, .dmabuf_fd = -1};
    const struct kvw_region_args args = {
        .size = sizeof(args), .rights = KVW_REGION_WRITE, .mem = &m, .mem_bytes = sizeof(m)};
    const struct kvw_wire_hello h = {.versions = 4,
                                     .instance = 60,
                                     .codecs = 2,
                                     .digests = 2,
                                     .features = features,
                                     .slot_bytes = 8192,
                                     .offers = 8,
                                     .dead_ms = 1000,
                                     .name = "old friend"};
    const struct kvw_wire_region theirs = {.base = THERE, .bytes = BYTES, .id = 9, .rights = 3};
    const struct kvw_wire_region all = {.id = 0};
    char why[200] = "";

    fake_init(&f);
    now = 1000 * MS;
    losts = dones = notes = told = granted = used = 0;
    memset(mem, 0, sizeof(mem));
    cr_assert_eq(kvw_core_open(&core, &cfg, now, NULL), KVW_OK);
    cr_assert_eq(kvw_core_region_add(core, &args, &region, why, sizeof(why)), KVW_OK, "%s", why);
    conn = fake_incoming(&f);
    settle();
    slot_bytes = (uint32_t)f.region.bytes / 8;
    say(kvw_wire_hello_encode(msg, &h));
    if ((features & KVW_FEATURE_BATCH) == 0)
        return;
    say(kvw_wire_region_encode(msg, &theirs));
    say(kvw_wire_region_encode(msg, &all));
    cr_assert_eq(told, 1);
}

static void end(void)
{
    kvw_core_close(core, now);
    cr_expect_eq(f.regions + f.put_count, 0);
    fake_free(&f);
}

static uint32_t claimed; /* bytes that a BATCH says it has beyond those of its runs */

/* A BATCH of the peer's: count pieces of n bytes from `at` of our region on. */
static void say_batch(uint64_t epoch, uint8_t op, uint64_t at, uint32_t n, uint32_t count)
{
    const struct kvw_wire_batch b = {.epoch = epoch,
                                     .bytes = (uint64_t)n * count + claimed,
                                     .chunk_bytes = CHUNK,
                                     .runs = 1,
                                     .count = 1,
                                     .note_bytes = op == KVW_BATCH_WRITE ? 4 : 0,
                                     .op = op,
                                     .note = (const uint8_t *)"note"};
    const struct kvw_wire_run r = {.base = (uintptr_t)mem + at,
                                   .stride = (int64_t)n,
                                   .bytes = n,
                                   .count = count,
                                   .region = region.value};

    kvw_wire_run_encode(msg + kvw_wire_batch_run_at(&b, 0), &r);
    say(kvw_wire_batch_encode(msg, &b));
}

static uint8_t land_op = KVW_BATCH_WRITE; /* of what lands */

static bool land_at(uint64_t epoch, uint64_t offset, uint32_t n, uint64_t flip)
{
    static uint8_t put[KVW_WIRE_CHUNK_LEN + CHUNK];
    struct kvw_wire_batch_chunk h = {.epoch = epoch,
                                     .offset = offset,
                                     .seq = used,
                                     .bytes = n,
                                     .op = land_op,
                                     .digest = KVW_DIGEST_XXH3_64};
    struct kvw_digest d;
    bool landed;

    memset(put, (int)(offset / CHUNK + 1), sizeof(put));
    cr_assert_eq(kvw_digest_begin(&d, KVW_DIGEST_XXH3_64), KVW_OK);
    kvw_digest_update(&d, put + KVW_WIRE_CHUNK_LEN, n);
    h.digest_value = kvw_digest_value(&d) ^ flip;
    kvw_wire_batch_chunk_encode(put, &h);
    landed = fake_land(&f, conn, (uint64_t)slots[used % 16] * slot_bytes, put,
                       KVW_WIRE_CHUNK_LEN + n, used);
    ++used;
    settle();
    return landed;
}

/* The BATCH_DONE that was sent, if one was. */
static bool done_said(struct kvw_wire_batch_done *d)
{
    struct fake_msg m;

    if (!fake_take(&f, KVW_WIRE_BATCH_DONE, &m))
        return false;
    cr_assert_eq(kvw_wire_batch_done_decode(d, m.msg, m.bytes), KVW_OK);
    free(m.msg);
    return true;
}

static bool untouched(void)
{
    for (uint32_t i = 0; i < BYTES; ++i)
        if (mem[i] != 0)
            return false;
    return true;
}

static void expect_breach(const char *why)
{
    cr_expect_eq(losts, 1, "%s: nobody hung up", why);
    cr_expect_eq(last_lost.err, KVW_E_PROTOCOL, "%s: %s", why, last_lost.text);
    end();
}

Test(batch_wire, a_write_is_placed_and_its_note_comes_last)
{
    struct kvw_wire_batch_done d;
    struct fake_msg m;

    begin(1);
    cr_assert(fake_take(&f, KVW_WIRE_REGION, &m));
    free(m.msg);
    say_batch(1, KVW_BATCH_WRITE, 0, CHUNK, 3);
    cr_assert_geq(granted, 3, "a poster is granted slots");
    cr_expect(land_at(1, 2 * CHUNK, CHUNK, 0));
    cr_expect(land_at(1, 0, CHUNK, 0));
    cr_expect_eq(notes, 0, "the note came before its data");
    cr_expect_not(done_said(&d));
    cr_expect(land_at(1, CHUNK, CHUNK, 0));
    cr_assert(done_said(&d));
    cr_expect(d.of_reader && d.err == KVW_OK && d.epoch == 1 && d.bytes == 3 * CHUNK);
    cr_expect_eq(notes, 1);
    cr_expect_eq(last_note.note_bytes, 4);
    for (uint32_t i = 0; i < 3 * CHUNK; ++i)
        cr_assert_eq(mem[i], i / CHUNK + 1);
    for (uint32_t i = 3 * CHUNK; i < BYTES; ++i)
        cr_assert_eq(mem[i], 0);
    end();
}

/* SPEC.md 4.5: puts overtake messages. */
Test(batch_wire, a_chunk_before_its_batch_waits)
{
    struct kvw_core_stats s = {.size = sizeof(s)};
    struct kvw_wire_batch_done d;

    begin(1);
    say_batch(1, KVW_BATCH_WRITE, 0, CHUNK, 1);
    cr_expect(land_at(1, 0, CHUNK, 0));
    cr_assert(done_said(&d));
    memset(mem, 0, sizeof(mem));
    cr_expect(land_at(3, 0, CHUNK, 0)); /* of the second next */
    cr_expect(land_at(2, CHUNK, CHUNK, 0));
    cr_expect(untouched());
    say_batch(2, KVW_BATCH_WRITE, 0, CHUNK, 2);
    cr_expect_eq(mem[CHUNK], 2, "the early chunk was lost");
    cr_expect_not(done_said(&d));
    cr_expect(land_at(2, 0, CHUNK, 0));
    cr_assert(done_said(&d));
    cr_expect_eq(d.epoch, 2);
    say_batch(3, KVW_BATCH_WRITE, 3 * CHUNK, CHUNK, 1);
    cr_assert(done_said(&d));
    cr_expect_eq(d.epoch, 3);
    cr_expect_eq(mem[3 * CHUNK], 1);
    cr_expect_eq(notes, 3);
    kvw_core_stats(core, &s);
    cr_expect_eq(s.chunks_stale, 0);
    end();
}

Test(batch_wire, a_late_chunk_dies)
{
    const struct kvw_wire_batch_done cancel = {.epoch = 1, .err = KVW_E_CANCELED};
    struct kvw_core_stats s = {.size = sizeof(s)};

    begin(1);
    say_batch(1, KVW_BATCH_WRITE, 0, CHUNK, 3);
    say(kvw_wire_batch_done_encode(msg, &cancel));
    cr_expect(land_at(1, 0, CHUNK, 0));
    cr_expect(untouched(), "a byte of a batch that had ended");
    kvw_core_stats(core, &s);
    cr_expect_eq(s.chunks_stale, 1);
    cr_expect_eq(notes + losts, 0);
    end();
}

Test(batch_wire, what_the_owner_refuses)
{
    struct kvw_wire_batch_done d;

    begin(1);
    say_batch(1, KVW_BATCH_WRITE, 1, CHUNK, 4); /* ends one byte beyond */
    cr_assert(done_said(&d));
    cr_expect_eq(d.err, KVW_E_NOTFOUND, "%s", d.text);
    say_batch(2, KVW_BATCH_READ, 0, CHUNK, 1);
    cr_assert(done_said(&d));
    cr_expect_eq(d.err, KVW_E_MISMATCH, "%s", d.text);
    cr_expect_str_eq(d.text, "region 1 may not be read");
    ++region.value;
    say_batch(3, KVW_BATCH_WRITE, 0, CHUNK, 1);
    cr_assert(done_said(&d));
    cr_expect_eq(d.err, KVW_E_NOTFOUND, "%s", d.text);
    --region.value;
    say_batch(4, KVW_BATCH_WRITE, 0, CHUNK, 2);
    cr_expect(land_at(4, 0, CHUNK, 1));
    cr_assert(done_said(&d));
    cr_expect_eq(d.err, KVW_E_CHECKSUM, "%s", d.text);
    cr_expect(untouched());
    cr_expect_eq(losts + notes, 0);
    end();
}

Test(batch_wire, a_removed_region_ends_the_peers_batch)
{
    struct kvw_wire_batch_done d;
    struct fake_msg m;

    begin(1);
    say_batch(1, KVW_BATCH_WRITE, 0, CHUNK, 2);
    cr_assert_eq(kvw_core_region_remove(core, region, now), KVW_OK);
    settle();
    cr_assert(done_said(&d));
    cr_expect(d.err == KVW_E_CANCELED && d.of_reader);
    cr_expect_str_eq(d.text, "region 1 was removed");
    cr_assert(fake_take(&f, KVW_WIRE_GONE, &m));
    free(m.msg);
    cr_expect(land_at(1, 0, CHUNK, 0));
    cr_expect(untouched());
    end();
}

Test(batch_wire, breaches)
{
    const struct kvw_wire_region again = {.base = THERE, .bytes = BYTES, .id = 9, .rights = 3};

    begin(1);
    say_batch(2, KVW_BATCH_WRITE, 0, CHUNK, 1);
    expect_breach("an epoch that doesn't follow");
    begin(1);
    say_batch(1, KVW_BATCH_WRITE, 0, CHUNK, 2);
    (void)land_at(1, 0, CHUNK, 0);
    (void)land_at(1, 0, CHUNK, 0);
    expect_breach("a chunk twice");
    begin(1);
    say_batch(1, KVW_BATCH_WRITE, 0, CHUNK, 2);
    (void)land_at(1, 2 * CHUNK, CHUNK, 0);
    expect_breach("a chunk outside its batch");
    begin(1);
    say_batch(1, KVW_BATCH_WRITE, 0, CHUNK, 2);
    (void)land_at(1, CHUNK, CHUNK - 1, 0);
    expect_breach("a chunk that is too short");
    begin(1);
    say_batch(1, KVW_BATCH_WRITE, 0, CHUNK, 2);
    (void)land_at(66, 0, CHUNK, 0);
    expect_breach("a chunk of a batch that can't be open");
    begin(1);
    for (uint32_t i = 1; i <= 65; ++i)
        say_batch(i, KVW_BATCH_WRITE, 0, CHUNK, 1);
    expect_breach("more batches than may be open");
    begin(1);
    fake_message(&f, conn, msg, kvw_wire_gone_encode(msg, 8));
    settle();
    expect_breach("GONE of a region that was never told");
    begin(1);
    claimed = 1;
    say_batch(1, KVW_BATCH_WRITE, 0, CHUNK, 1);
    claimed = 0;
    expect_breach("a BATCH whose runs are less than it says");
    begin(1);
    say(kvw_wire_region_encode(msg, &again));
    expect_breach("a region that is told twice");
    begin(1);
    land_op = KVW_BATCH_READ;
    say_batch(1, KVW_BATCH_WRITE, 0, CHUNK, 1); /* for its slots */
    (void)land_at(1, 0, CHUNK, 0);
    land_op = KVW_BATCH_WRITE;
    expect_breach("a chunk of a READ that nobody asked for");
}

/* --- ours ------------------------------------------------------------------------------------- */

static kvw_err make(uint32_t op, uint64_t remote, uint64_t bytes, kvw_batch_id *batch, char *why)
{
    const struct kvw_batch_piece piece = {(uintptr_t)mem, remote, bytes};
    const struct kvw_batch_args args = {
        .size = sizeof(args), .op = op, .peer = peer, .piece_count = 1, .pieces = &piece};

    return kvw_core_batch_make(core, &args, batch, why, 257);
}

Test(batch_wire, an_older_peer_is_named_and_told_nothing)
{
    struct fake_msg m;
    kvw_batch_id batch;
    char why[257] = "";

    begin(0);
    cr_expect_eq(make(KVW_BATCH_READ, THERE, 1, &batch, why), KVW_E_UNSUPPORTED);
    cr_expect_str_eq(why, "peer: \"old friend\" doesn't know batches");
    cr_expect_eq(kvw_core_notify(core, peer, "x", 1), KVW_E_UNSUPPORTED);
    cr_expect_not(fake_take(&f, KVW_WIRE_REGION, &m), "it would not know what that is");
    say_batch(1, KVW_BATCH_WRITE, 0, CHUNK, 1);
    expect_breach("a BATCH without the feature");
}

Test(batch_wire, a_released_post_is_called_off)
{
    struct kvw_wire_batch_done d;
    kvw_batch_id batch;
    char why[257] = "";
    struct fake_msg m;

    begin(1);
    cr_assert_eq(make(KVW_BATCH_READ, THERE, BYTES, &batch, why), KVW_OK, "%s", why);
    cr_assert_eq(kvw_core_batch_post(core, batch, NULL, now, why, sizeof(why)), KVW_OK, "%s", why);
    cr_expect_eq(kvw_core_batch_post(core, batch, NULL, now, why, sizeof(why)), KVW_E_AGAIN);
    settle();
    cr_assert(fake_take(&f, KVW_WIRE_BATCH, &m));
    free(m.msg);
    cr_assert_eq(kvw_core_batch_release(core, batch, now), KVW_OK);
    settle();
    cr_assert(done_said(&d));
    cr_expect(!d.of_reader && d.epoch == 1 && d.err == KVW_E_CANCELED);
    cr_expect_eq(dones, 0, "a released batch has no event");
    end();
}

Test(batch_wire, the_owners_error_and_its_loss_end_a_post_once)
{
    struct kvw_wire_batch_done d = {.epoch = 1, .err = KVW_E_MISMATCH, .of_reader = true};
    kvw_batch_id batch;
    char why[257] = "";

    begin(1);
    cr_assert_eq(make(KVW_BATCH_WRITE, THERE, BYTES, &batch, why), KVW_OK, "%s", why);
    cr_assert_eq(kvw_core_batch_post(core, batch, NULL, now, why, sizeof(why)), KVW_OK, "%s", why);
    settle();
    snprintf(d.text, sizeof(d.text), "no");
    say(kvw_wire_batch_done_encode(msg, &d));
    cr_expect_eq(dones, 1);
    cr_expect_eq(last_done.err, KVW_E_MISMATCH);
    cr_expect_str_eq(last_done.text, "no");
    cr_assert_eq(kvw_core_batch_post(core, batch, NULL, now, why, sizeof(why)), KVW_OK, "%s", why);
    settle();
    fake_down(&f, conn, KVW_E_PEER_LOST);
    settle();
    cr_expect_eq(dones, 2);
    cr_expect_eq(last_done.err, KVW_E_PEER_LOST);
    cr_expect_eq(kvw_core_batch_post(core, batch, NULL, now, why, sizeof(why)), KVW_E_PEER_LOST);
    end();
}

/* A READ of the first chunk of the peer's region, posted with a note. */
static kvw_batch_id read_with_a_note(void)
{
    const struct kvw_post_args args = {
        .size = sizeof(args), .note = "it was read", .note_bytes = 11};
    kvw_batch_id batch;
    char why[257] = "";

    begin(1);
    cr_assert_eq(make(KVW_BATCH_READ, THERE, CHUNK, &batch, why), KVW_OK, "%s", why);
    cr_assert_eq(kvw_core_batch_post(core, batch, &args, now, why, sizeof(why)), KVW_OK, "%s", why);
    settle();
    return batch;
}

Test(batch_wire, the_note_of_a_read_goes_when_all_of_it_is_here)
{
    const struct kvw_wire_batch_done no = {.epoch = 1, .err = KVW_E_MISMATCH, .of_reader = true};
    struct kvw_wire_notify n;
    struct fake_msg m;

    (void)read_with_a_note();
    cr_expect_not(fake_take(&f, KVW_WIRE_NOTIFY, &m), "nothing is here yet");
    land_op = KVW_BATCH_READ;
    cr_expect(land_at(1, 0, CHUNK, 0));
    land_op = KVW_BATCH_WRITE;
    cr_expect(dones == 1 && last_done.err == KVW_OK && mem[0] == 1);
    cr_assert(fake_take(&f, KVW_WIRE_NOTIFY, &m));
    cr_assert_eq(kvw_wire_notify_decode(&n, m.msg, m.bytes), KVW_OK);
    cr_expect(n.bytes == 11 && memcmp(n.note, "it was read", 11) == 0);
    free(m.msg);
    end();
    (void)read_with_a_note();
    say(kvw_wire_batch_done_encode(msg, &no));
    cr_expect(dones == 1 && last_done.err == KVW_E_MISMATCH);
    cr_expect_not(fake_take(&f, KVW_WIRE_NOTIFY, &m), "it wasn't read");
    end();
}

Test(batch_wire, a_post_ends_with_its_deadline_and_a_quiet_one_without_a_word)
{
    struct kvw_post_args args = {.size = sizeof(args)};
    struct kvw_wire_batch_done d = {.epoch = 2, .of_reader = true, .bytes = CHUNK};
    kvw_batch_id batch;
    char why[257] = "";

    begin(1);
    cr_assert_eq(make(KVW_BATCH_WRITE, THERE, CHUNK, &batch, why), KVW_OK, "%s", why);
    args.deadline_ns = now + 5 * MS;
    cr_assert_eq(kvw_core_batch_post(core, batch, &args, now, why, sizeof(why)), KVW_OK, "%s", why);
    settle();
    now += 5 * MS - 1;
    settle();
    cr_expect_eq(dones, 0, "too early");
    ++now;
    settle(); /* as a loop does that sleeps until the deadline */
    cr_expect(dones == 1 && last_done.err == KVW_E_DEADLINE, "%s", last_done.text);
    args = (struct kvw_post_args){.size = sizeof(args), .quiet = 1};
    cr_assert_eq(kvw_core_batch_post(core, batch, &args, now, why, sizeof(why)), KVW_OK, "%s", why);
    settle();
    say(kvw_wire_batch_done_encode(msg, &d));
    cr_expect_eq(dones, 1, "it was to be quiet");
    cr_expect_eq(losts, 0, "%s", last_lost.text);
    end();
}

Test(batch_wire, a_region_that_its_owner_removed_is_looked_up_again)
{
    kvw_batch_id batch;
    char why[257] = "";

    begin(1);
    cr_assert_eq(make(KVW_BATCH_WRITE, THERE, CHUNK, &batch, why), KVW_OK, "%s", why);
    say(kvw_wire_gone_encode(msg, 9));
    say(kvw_wire_region_encode(msg, &(struct kvw_wire_region){.id = 0}));
    cr_expect_eq(kvw_core_batch_post(core, batch, NULL, now, why, sizeof(why)), KVW_E_NOTFOUND);
    cr_expect_str_eq(why, "at the peer: there is no region 9");
    end();
}

/* Pieces of one length at one distance are a run, and one at another distance begins the next. */
Test(batch_wire, pieces_join_where_their_distance_is_the_same)
{
    static const uint64_t at[] = {0, 100, 150, 200, 250}; /* 0 100 | 150 200 250 */
    struct kvw_batch_status s = {.size = sizeof(s)};
    struct kvw_batch_piece pieces[5];
    kvw_batch_id batch;
    char why[257] = "";

    begin(1);
    for (uint32_t i = 0; i < 5; ++i)
        pieces[i] = (struct kvw_batch_piece){(uintptr_t)mem + at[i], THERE + at[i], 10};
    const struct kvw_batch_args args = {.size = sizeof(args),
                                        .op = KVW_BATCH_WRITE,
                                        .peer = peer,
                                        .piece_count = 5,
                                        .pieces = pieces};

    cr_assert_eq(kvw_core_batch_make(core, &args, &batch, why, sizeof(why)), KVW_OK, "%s", why);
    cr_assert_eq(kvw_core_batch_status(core, batch, &s), KVW_OK);
    cr_expect_eq(s.runs, 2);
    cr_expect_eq(s.bytes, 50);
    end();
}
