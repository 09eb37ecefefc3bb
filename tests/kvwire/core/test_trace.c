/* SPDX-License-Identifier: Apache-2.0 */
/* kv_trace: each step of a transfer is one line, in an order that makes sense, on both sides. */
#include <criterion/criterion.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../../../kvwire/node.h"
#include "../../../kvwire/wire.h"
#include "state.h"

#define S      1000000000ull
#define LAYERS 3u
#define TOKENS 64u

static char to_path[64], from_path[64];
static unsigned port = 27461; /* cases run beside each other */
static bool limited;          /* the files have no room for a transfer's lines */

static void open_node(struct kvw_node **n, const char *trace, const char *local, uint32_t listen)
{
    char why[257] = "";
    const struct kvw_node_config cfg = {.size = sizeof(cfg),
                                        .name = listen != 0 ? "de\"code" : "prefill",
                                        .transport = "udp",
                                        .local = local,
                                        .listen = listen,
                                        .kv_trace = trace};

    cr_assert_eq(kvw_node_open(n, &cfg, why, sizeof(why)), KVW_OK, "%s", why);
}

static kvw_err await(struct kvw_node *n, uint32_t kind, kvw_peer_id *peer)
{
    struct kvw_core_event ev = {.size = sizeof(ev)};
    const uint64_t until = kvw_now_ns() + 10 * S;

    while (kvw_node_wait(n, until))
        while (kvw_node_next_event(n, &ev))
            if (ev.kind == kind) {
                *peer = ev.peer;
                return (kvw_err)ev.err;
            }
    return KVW_E_DEADLINE;
}

/* Whether the file has a line of that event in which `what` is said, as it lies there now. */
static bool says(const char *path, const char *ev, const char *what)
{
    char line[1024];
    FILE *f = fopen(path, "r");
    bool found = false;

    cr_assert_not_null(f);
    while (fgets(line, sizeof(line), f) != NULL)
        found = found || (strstr(line, ev) != NULL && strstr(line, what) != NULL);
    fclose(f);
    return found;
}

/* A child of fork() closes its copies, in whose buffers lines lie that the parent will write. */
static void close_in_a_child(struct kvw_node *a, struct kvw_node *b)
{
    int status = -1;
    const pid_t child = fork();

    if (child == 0) {
        kvw_node_close(a);
        kvw_node_close(b);
        _exit(7);
    }
    cr_assert_eq(waitpid(child, &status, 0), child);
    cr_expect(WIFEXITED(status) && WEXITSTATUS(status) == 7);
}

/* One transfer between two nodes that trace; the key's last byte is in every line about it. */
static void hand_over(bool forks)
{
    const uint32_t ids[] = {3, 1, 0, 2};
    char where[32];
    struct kvw_node *to, *from;
    struct t_state have, want;
    kvw_pool_id to_pool, from_pool;
    kvw_peer_id peer, other;
    kvw_xfer_ref r, s;

    snprintf(where, sizeof(where), "127.0.0.1:%u", port);
    open_node(&to, to_path, where, 1);
    open_node(&from, from_path, "127.0.0.1:0", 0);
    if (limited) {
        const struct rlimit few = {200, 200};

        signal(SIGXFSZ, SIG_IGN);
        cr_assert_eq(setrlimit(RLIMIT_FSIZE, &few), 0);
    }
    t_state_dense(&want, LAYERS, 2, 128, KVW_DTYPE_BF16, 16, 4);
    t_state_dense(&have, LAYERS, 2, 128, KVW_DTYPE_BF16, 16, 4);
    t_state_make(&want);
    t_state_make(&have);
    t_state_fill(&have, 0, ids, 0, 0, TOKENS, 7);
    cr_assert_eq(kvw_node_pool_add(to, &want.desc, &to_pool, NULL, 0), KVW_OK);
    cr_assert_eq(kvw_node_pool_add(from, &have.desc, &from_pool, NULL, 0), KVW_OK);
    cr_assert_eq(kvw_node_peer_add(from, where, &other), KVW_OK);
    cr_assert_eq(await(to, KVW_CEV_PEER_UP, &peer), KVW_OK);
    const struct kvw_group_blocks wanted = {0, 4, ids, 0, 0, TOKENS}, held = {0, 4, ids, 0, 0, 0};
    const struct kvw_offer_args offer = {.size = sizeof(offer),
                                         .pool = to_pool,
                                         .key = kvw_key_of("a request"),
                                         .tokens = TOKENS,
                                         .group_count = 1,
                                         .groups = &wanted,
                                         .sources = &peer,
                                         .source_count = 1};
    const struct kvw_stream_args stream = {.size = sizeof(stream),
                                           .pool = from_pool,
                                           .key = kvw_key_of("a request"),
                                           .tokens = TOKENS,
                                           .group_count = 1,
                                           .groups = &held};

    cr_assert_eq(kvw_node_offer(to, &offer, &r, NULL, 0), KVW_OK);
    cr_assert_eq(kvw_node_stream(from, &stream, &s, NULL, 0), KVW_OK);
    for (uint32_t l = 0; l < LAYERS; ++l) {
        cr_assert_eq(kvw_node_push(from, s, l, TOKENS, NULL), KVW_OK);
        if (forks && l == 0)
            close_in_a_child(from, to);
    }
    cr_assert_eq(kvw_node_commit(from, s, NULL, 0), KVW_OK);
    cr_assert_eq(await(from, KVW_CEV_XFER_DONE, &other), KVW_OK);
    cr_assert_eq(await(to, KVW_CEV_XFER_DONE, &peer), KVW_OK);
    cr_expect(t_state_is(&want, 0, ids, 0, 0, TOKENS, 7));
    if (limited) { /* not one line had room */
        char metrics[16384];

        cr_assert_lt(kvw_node_metrics(from, metrics, sizeof(metrics)), sizeof(metrics));
        cr_expect_null(strstr(metrics, "trace_lines_lost_total 0\n"), "they are missed by nobody");
    } else {
        cr_expect(says(from_path, "\"end\"", "\"err\":0"), "what ended is in the file");
        cr_expect(says(to_path, "\"end\"", "\"err\":0"), "what ended is in the file");
    }
    kvw_node_close(from);
    kvw_node_close(to);
    t_state_free(&have);
    t_state_free(&want);
}

/* How many lines say `what`, and that those about a chunk name the transfer; where the first
 * is. */
static uint32_t lines(const char *path, const char *what, uint64_t *first_ns)
{
    char line[1024], ev[32];
    FILE *f = fopen(path, "r");
    unsigned long long t, before = 0;
    uint32_t n = 0;

    cr_assert_not_null(f);
    cr_assert_not_null(fgets(line, sizeof(line), f));
    cr_assert_not_null(strstr(line, "\"kvwire_trace\":1"));
    while (fgets(line, sizeof(line), f) != NULL) {
        cr_assert_eq(sscanf(line, "{\"t\":%llu,\"ev\":\"%31[a-z]\"", &t, ev), 2, "%s", line);
        cr_assert_eq(line[strlen(line) - 2], '}', "%s", line);
        cr_expect_geq(t, before, "time goes back: %s", line);
        before = t;
        if (strcmp(ev, what) != 0)
            continue;
        /* A chunk's DONE may come when the transfer's own has ended the flow. */
        if (strcmp(ev, "grant") != 0 && strcmp(ev, "landed") != 0 && strcmp(ev, "done") != 0)
            cr_expect_not_null(strstr(line, "\"key\":\""), "%s", line);
        if (n++ == 0 && first_ns != NULL)
            *first_ns = t;
    }
    fclose(f);
    return n;
}

static void make_paths(void)
{
    snprintf(to_path, sizeof(to_path), "/tmp/kvw-trace-to-%d", (int)getpid());
    snprintf(from_path, sizeof(from_path), "/tmp/kvw-trace-from-%d", (int)getpid());
}

static void drop_paths(void)
{
    unlink(to_path);
    unlink(from_path);
}

Test(trace, every_step_is_a_line, .timeout = 30, .init = make_paths, .fini = drop_paths)
{
    const uint32_t chunks = 2 * LAYERS; /* K and V of a layer fit one each */
    uint64_t cut, put, done, landed, decoded, pushed;

    hand_over(false);
    cr_expect_eq(lines(from_path, "offer", NULL), 1);
    cr_expect_geq(lines(from_path, "grant", NULL), 1);
    cr_expect_eq(lines(from_path, "pushed", &pushed), LAYERS);
    cr_expect_eq(lines(from_path, "cut", &cut), chunks);
    cr_expect_eq(lines(from_path, "put", &put), chunks);
    cr_expect_leq(lines(from_path, "done", &done), chunks); /* DONE of the transfer may be first */
    cr_expect_eq(lines(from_path, "sent", NULL), LAYERS);
    cr_expect_eq(lines(from_path, "commit", NULL), 1);
    cr_expect_eq(lines(from_path, "end", NULL), 1);
    cr_expect_eq(lines(to_path, "offer", NULL), 1);
    cr_expect_geq(lines(to_path, "grant", NULL), 1);
    cr_expect_eq(lines(to_path, "landed", &landed), chunks);
    cr_expect_eq(lines(to_path, "decoded", &decoded), chunks);
    cr_expect_eq(lines(to_path, "ready", NULL), LAYERS);
    cr_expect_eq(lines(to_path, "commit", NULL), 1);
    cr_expect_eq(lines(to_path, "end", NULL), 1);
    cr_expect(says(from_path, "\"commit\"", "\"chunks\":6}"));
    cr_expect(says(to_path, "\"commit\"", "\"chunks\":6}"));
    cr_expect_eq(lines(to_path, "cut", NULL) + lines(from_path, "decoded", NULL), 0);
    cr_expect(pushed <= cut && cut <= put && put <= landed && landed <= decoded,
              "%llu %llu %llu %llu %llu", (unsigned long long)pushed, (unsigned long long)cut,
              (unsigned long long)put, (unsigned long long)landed, (unsigned long long)decoded);
}

/* A disk that fills up later costs lines, which are counted, and no transfer. */
Test(trace, lines_that_are_lost_are_counted, .timeout = 30, .init = make_paths, .fini = drop_paths)
{
    limited = true;
    port = 27462;
    hand_over(false);
}

Test(trace, a_child_that_closes_writes_nothing, .timeout = 30, .init = make_paths,
     .fini = drop_paths)
{
    port = 27463;
    hand_over(true);
    cr_expect_eq(lines(from_path, "pushed", NULL), LAYERS);
    cr_expect_eq(lines(from_path, "offer", NULL), 1);
    cr_expect_eq(lines(to_path, "offer", NULL), 1);
    cr_expect_eq(lines(to_path, "end", NULL), 1);
}

Test(trace, a_file_that_cannot_be_is_said_at_once)
{
    const char *paths[] = {"/nowhere/trace", "/dev/full"};

    for (int i = 0; i < 2; ++i) {
        char why[257] = "";
        struct kvw_node *n = NULL;
        const struct kvw_node_config cfg = {
            .size = sizeof(cfg), .transport = "udp", .local = "127.0.0.1:0", .kv_trace = paths[i]};

        cr_expect_eq(kvw_node_open(&n, &cfg, why, sizeof(why)), KVW_E_IO);
        cr_expect_not_null(strstr(why, paths[i]), "%s", why);
    }
}

Test(trace, a_long_text_is_cut_and_stays_json)
{
    char line[KVW_TRACE_LINE_BYTES], text[1000];
    struct kvw_trace_event ev = {.kind = KVW_TRACE_END, .err = -5, .text = text};
    uint32_t n;

    memset(text, 'x', sizeof(text));
    text[3] = '"';
    text[4] = '\n';
    text[sizeof(text) - 1] = '\0';
    memset(&ev.key, 0xff, sizeof(ev.key));
    ev.now_ns = ev.peer = UINT64_MAX;
    n = kvw_trace_json(line, sizeof(line), &ev);
    cr_expect_eq(n, strlen(line));
    cr_expect_str_eq(line + n - 4, "x\"}\n");
    cr_expect_eq(strncmp(strstr(line, "xxx"), "xxx''xxx", 8), 0, "%s", line);
    cr_expect_null(strchr(strstr(line, "xxx") + 3, '\\'));
    cr_expect_eq(kvw_trace_json(line, KVW_TRACE_LINE_BYTES - 1, &ev), 0);
}

/* With each number at its largest and the longest text no kind of line is cut. */
Test(trace, the_longest_lines_are_whole)
{
    char line[KVW_TRACE_LINE_BYTES], text[KVW_TEXT_BYTES_MAX + 1];
    struct kvw_trace_event ev;

    memset(&ev, 0xff, sizeof(ev));
    memset(text, 'x', sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    for (ev.kind = KVW_TRACE_OFFER; ev.kind <= KVW_TRACE_END; ++ev.kind) {
        ev.text = ev.kind == KVW_TRACE_END ? text : NULL;
        const uint32_t n = kvw_trace_json(line, sizeof(line), &ev);

        cr_expect_gt(n, 100);
        cr_expect_str_eq(line + n - 2, "}\n", "kind %u: %s", ev.kind, line);
    }
}
