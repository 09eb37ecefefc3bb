/* SPDX-License-Identifier: Apache-2.0 */
/* The counters say what happened, cause by cause and path by path, and the trace tells the same
 * story, a line of JSON an event. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../net/packet/stats.h"
#include "../../net/packet/trace_file.h"
#include "pair.h"

#define MS 1000000ull
#define S  1000000000ull

static struct t_pair pair;
static struct kvn_packet_stats all[2];
static struct kvn_conn_stats conn[2];
static struct kvn_sim_stats sim;

static void begin(const struct kvn_packet_config *cfg)
{
    const struct kvn_sim_link clean = {.delay_ns = 20000};

    t_pair_open(&pair, 1, 8240, cfg);
    kvn_sim_links(pair.sim, &clean);
    t_pair_run(&pair, kvn_sim_now(pair.sim) + 10 * MS);
    cr_assert(pair.side[0].up && pair.side[1].up);
}

/* Puts from side 0 until n of them have landed. */
static void run_puts(uint32_t n, const struct kvn_sim_link *l)
{
    const uint64_t give_up = kvn_sim_now(pair.sim) + 5 * S;

    kvn_sim_link(pair.sim, 0, 1, l);
    while (pair.side[1].puts_landed < n && kvn_sim_now(pair.sim) < give_up) {
        while (pair.side[0].puts_sent < n && t_pair_put(&pair, 0, 100000))
            ;
        t_pair_step(&pair, give_up);
    }
    t_pair_run(&pair, kvn_sim_now(pair.sim) + 20 * MS);
    cr_assert_str_empty(pair.failed, "%s", pair.failed);
    cr_assert(t_pair_settled(&pair));
}

static void snap(void)
{
    for (uint32_t i = 0; i < 2; ++i) {
        struct kvw_transport *t = pair.side[i].t;

        kvn_packet_stats(t, &all[i]);
        cr_assert_eq(kvn_packet_conn_stats(t, pair.side[i].conn, &conn[i]), KVW_OK);
    }
    kvn_sim_stats(pair.sim, &sim);
}

Test(stats, what_is_sent_arrives)
{
    const struct kvn_packet_config cfg = {.seed = 0};
    const struct kvn_sim_link l = {.delay_ns = 20000};

    begin(&cfg);
    run_puts(20, &l);
    snap();
    cr_expect_eq(all[0].all.packets_sent + all[1].all.packets_sent, sim.sent);
    cr_expect_eq(all[0].all.packets_sent, all[1].all.packets_received);
    cr_expect_eq(all[0].all.bytes_sent, all[1].all.bytes_received);
    cr_expect_eq(all[0].all.put_bytes_sent, 20u * 100000);
    cr_expect_eq(all[1].all.put_bytes_received, 20u * 100000);
    /* HELLO belongs to no path yet. */
    cr_expect_eq(conn[0].path[0].packets_sent + 1, all[0].all.packets_sent);
    cr_expect_eq(conn[1].path[0].packets_received + 1, all[1].all.packets_received);
    for (uint32_t i = 0; i < KVN_DROPS; ++i)
        cr_expect_eq(all[1].dropped[i], 0, "%s", kvn_drop_name[i]);
    cr_expect_eq(conn[0].path[0].packets_lost, 0);
    cr_expect(conn[0].path[0].rtt_min_ns >= 40000 && conn[0].path[0].rtt_min_ns < 45000, "%llu",
              (unsigned long long)conn[0].path[0].rtt_min_ns);
    cr_expect_geq(conn[0].path[0].srtt_ns, conn[0].path[0].rtt_min_ns);
    cr_expect_gt(conn[0].path[0].cwnd_bytes, 0);
    cr_expect_eq(conn[0].path[0].inflight_bytes, 0);
    t_pair_close(&pair);
}

/* Packets 20, 22 and 23 of the link, all of them slices, vanish. */
Test(stats, losses_are_counted_exactly)
{
    const struct kvn_packet_config cfg = {.seed = 0};
    const struct kvn_sim_link l = {.delay_ns = 20000, .drop_first = 20, .drop_mask = 0xd};

    begin(&cfg);
    run_puts(20, &l);
    snap();
    cr_assert_eq(sim.lost, 3);
    cr_expect_eq(conn[0].path[0].packets_lost, 3);
    cr_expect_eq(conn[0].path[0].packets_retransmitted, 3);
    cr_expect_eq(conn[0].path[0].packets_spurious, 0);
    cr_expect_eq(all[0].all.packets_lost, 3);
    cr_expect_eq(all[0].all.packets_retransmitted, 3);
    t_pair_close(&pair);
}

Test(stats, drops_have_their_causes)
{
    const struct kvn_packet_config cfg = {.seed = 0};
    const struct kvn_sim_link bad = {.delay_ns = 20000, .corrupt = 0.05, .dup = 0.05};
    uint64_t copies;

    begin(&cfg);
    run_puts(100, &bad);
    snap();
    copies = all[1].dropped[KVN_DROP_DUPLICATE];
    cr_expect_gt(sim.corrupted, 20);
    cr_expect_gt(copies, 20);
    cr_expect_eq(all[1].dropped[KVN_DROP_CHECKSUM] + all[1].dropped[KVN_DROP_VERSION] +
                     all[1].dropped[KVN_DROP_MALFORMED],
                 sim.corrupted);
    cr_expect_leq(copies, sim.duplicated + conn[0].path[0].packets_spurious);
    cr_expect_eq(all[1].all.packets_rejected, sim.corrupted);
    t_pair_close(&pair);
}

/* A packet held up longer than the peer waits for it was not lost after all. */
Test(stats, late_is_not_lost)
{
    const struct kvn_packet_config cfg = {.seed = 0};
    const struct kvn_sim_link l = {.delay_ns = 20000, .reorder = 0.01, .reorder_ns = 3 * MS};

    begin(&cfg);
    run_puts(100, &l);
    snap();
    cr_expect_gt(conn[0].path[0].packets_spurious, 0);
    cr_expect_eq(conn[0].path[0].packets_spurious, all[0].all.packets_spurious);
    cr_expect_leq(conn[0].path[0].packets_spurious, conn[0].path[0].packets_lost);
    t_pair_close(&pair);
}

static bool no_acks(void *arg, const struct kvn_sim_sight *s)
{
    (void)arg;
    return !(s->from == 1 && (s->packet->head[0] & 15) == KVN_PACKET_ACK);
}

Test(stats, waiting_for_credit_is_counted)
{
    const struct kvn_packet_config cfg = {.seed = 0, .inflight_bytes = 20000};
    const struct kvn_sim_link l = {.delay_ns = 20000};

    begin(&cfg);
    kvn_sim_tap(pair.sim, no_acks, NULL);
    for (int i = 0; i < 3; ++i)
        t_pair_put(&pair, 0, 100000);
    t_pair_run(&pair, kvn_sim_now(pair.sim) + 20 * MS);
    snap();
    cr_expect_eq(conn[0].credit_stalls, 1);
    cr_expect_lt(conn[0].credit_bytes, 8192);
    kvn_sim_tap(pair.sim, NULL, NULL);
    run_puts(10, &l);
    t_pair_close(&pair);
}

Test(stats, paths_have_their_own)
{
    const struct kvn_packet_config cfg = {.seed = 0};
    const struct kvn_sim_link l = {.delay_ns = 20000}, slow = {.delay_ns = 50000};
    uint64_t sent = 0;

    memset(&pair, 0, sizeof(pair));
    t_pair_open_paths(&pair, 1, 8240, &cfg, 3);
    kvn_sim_links(pair.sim, &l);
    t_pair_run(&pair, kvn_sim_now(pair.sim) + 30 * MS);
    kvn_sim_path(pair.sim, 0, 1, 2, &slow);
    run_puts(60, &l);
    kvn_sim_path(pair.sim, 0, 1, 2, &slow);
    run_puts(120, &l);
    snap();
    cr_assert_eq(conn[0].paths, 3);
    for (uint32_t i = 0; i < 3; ++i) {
        cr_expect_gt(conn[0].path[i].packets_sent, 50, "path %u", i);
        cr_expect_gt(conn[0].path[i].srtt_ns, 0);
        sent += conn[0].path[i].packets_sent;
    }
    cr_expect_eq(sent + 1, all[0].all.packets_sent);
    t_pair_close(&pair);
}

/* --- the trace --- */

struct counter {
    struct kvn_trace base;
    uint32_t seen[KVN_TRACE_KINDS];
    uint32_t wrong; /* lines that aren't JSON of our kind */
    bool closed;
};

/* Braces and quotes match, and it is one line. */
static bool sound(const char *line, uint32_t n)
{
    int depth = 0;
    bool text = false;

    for (uint32_t i = 0; i + 1 < n; ++i) {
        if (line[i] == '"')
            text = !text;
        if (line[i] < ' ' || line[i] == '\\')
            return false;
        if (!text)
            depth += (line[i] == '{') - (line[i] == '}');
    }
    return depth == 0 && !text && line[n - 1] == '\n' && line[0] == '{' && strlen(line) == n;
}

static void count(struct kvn_trace *t, const struct kvn_trace_event *ev)
{
    struct counter *c = (struct counter *)t;
    char line[KVN_TRACE_LINE_BYTES];

    ++c->seen[ev->kind];
    c->wrong += !sound(line, kvn_trace_json(line, ev));
}

static void closed(struct kvn_trace *t)
{
    ((struct counter *)t)->closed = true;
}

Test(trace, tells_what_the_counters_count)
{
    static struct counter c = {.base = {.event = count, .close = closed}};
    const struct kvn_packet_config both = {.seed = 0};
    const struct kvn_sim_link bad = {.delay_ns = 20000, .corrupt = 0.02, .dup = 0.02, .loss = 0.02};
    uint64_t dropped = 0;

    t_pair_trace(0, &c.base);
    begin(&both);
    kvn_sim_link(pair.sim, 1, 0, &bad);
    run_puts(50, &bad);
    snap();
    cr_expect_eq(c.seen[KVN_TRACE_PACKET_SENT], all[0].all.packets_sent);
    for (uint32_t i = 0; i < KVN_DROPS; ++i)
        dropped += all[0].dropped[i];
    cr_expect_gt(dropped, 0);
    cr_expect_eq(c.seen[KVN_TRACE_PACKET_DROPPED], dropped);
    cr_expect_eq(c.seen[KVN_TRACE_PACKET_LOST], all[0].all.packets_lost);
    cr_expect_gt(c.seen[KVN_TRACE_METRICS], 10);
    cr_expect_eq(c.seen[KVN_TRACE_CONN_STATE], 1);
    cr_expect_eq(c.wrong, 0);
    t_pair_close(&pair);
    cr_expect(c.closed);
    t_pair_trace(0, NULL);
}

Test(trace, texts_cannot_break_a_line)
{
    char line[KVN_TRACE_LINE_BYTES], text[2000];
    struct kvn_trace_event ev = {.kind = KVN_TRACE_CONN_STATE, .text = "a \"b\" \\ \n \xff c"};

    cr_expect(sound(line, kvn_trace_json(line, &ev)), "%s", line);
    memset(text, 'x', sizeof(text));
    text[sizeof(text) - 1] = '\0';
    ev.text = text;
    cr_expect(sound(line, kvn_trace_json(line, &ev)), "%s", line);
}

Test(trace, a_file_holds_it)
{
    char path[] = "/tmp/kvn_trace_XXXXXX", why[KVN_WHY_BYTES] = "", line[2000];
    const struct kvn_packet_config both = {.seed = 0};
    struct kvn_trace *trace;
    uint32_t lines = 0;
    FILE *f;

    cr_assert_eq(kvn_trace_file_open(&trace, "/nowhere/at/all", "x", why), KVW_E_IO);
    cr_expect(strstr(why, "/nowhere/at/all") != NULL, "%s", why);
    cr_assert_geq(mkstemp(path), 0);
    cr_assert_eq(kvn_trace_file_open(&trace, path, "sim", why), KVW_OK, "%s", why);
    t_pair_trace(0, trace);
    begin(&both);
    t_pair_close(&pair); /* closes the file */
    f = fopen(path, "re");
    while (fgets(line, sizeof(line), f) != NULL) {
        cr_expect(sound(line, (uint32_t)strlen(line)), "%s", line);
        cr_expect(strstr(line, lines == 0 ? "qlog_format" : "\"name\":\"") != NULL, "%s", line);
        ++lines;
    }
    cr_expect_gt(lines, 4);
    fclose(f);
    remove(path);
}
