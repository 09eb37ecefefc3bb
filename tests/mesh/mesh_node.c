/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mesh_node.c - one node of the mesh, a process: it does what lines on stdin say and tells on
 * stdout what happened. mesh.py starts many of them, kills some and compares.
 *
 *     mesh_node NUMBER LIFE PORT DEAD_MS [lie]     lie: every transfer it sends has a wrong byte
 *
 * Lines that it obeys:                             What it tells:
 *     peer N PORT         know and dial node N         ready FDS        it is open
 *     drop N              forget it                    up N LIFE        node N, in that life
 *     offer ID N TOKENS   lend blocks; N sends         lost N TEXT      node N is lost
 *     stream ID TOKENS    send, a layer a turn         end ID ERR TEXT  offer or stream ID ended
 *     abort ID                                         bad TEXT         a promise was broken
 *     look                what is in use?              used XFERS BLOCKS SLOTS STAGES FDS KIB
 *     quit                close and exit               closed FDS
 *
 * Every end is checked here: an offer that ended well holds the bytes that its ID stands for; a
 * block that nobody is lent holds what was written into it when it came back.
 */
#include <errno.h>
#include <dirent.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../../kvwire/node.h"
#include "../kvwire/core/state.h"

#define NODES   256u
#define XFERS   64u
#define BLOCKS  256u
#define ENTRIES 16u
#define LAYERS  3u
#define FREED   0xdeadull /* what blocks hold that nobody was lent */
#define LINE    256u

struct xfer {
    bool used, receiver, committed;
    uint32_t id, tokens, layer; /* layer: the next to be pushed */
    kvw_xfer_ref ref;
    uint32_t blocks[BLOCKS], block_count;
};

struct mesh {
    struct kvw_node *node;
    struct t_state state;
    kvw_pool_id pool;
    bool taken[BLOCKS];
    kvw_peer_id added[NODES], up[NODES]; /* 0: not */
    struct xfer xfers[XFERS];
    char line[LINE];
    uint32_t line_bytes;
    bool quit, lies;
};

static uint32_t open_fds(void)
{
    DIR *d = opendir("/proc/self/fd");
    uint32_t n = 0;

    while (d != NULL && readdir(d) != NULL)
        ++n;
    if (d != NULL)
        closedir(d);
    return n - 3; /* "." and "..", and the directory itself */
}

static uint32_t resident_kb(void)
{
    FILE *f = fopen("/proc/self/statm", "r");
    unsigned long size = 0, resident = 0;

    if (f != NULL && fscanf(f, "%lu %lu", &size, &resident) != 2)
        resident = 0;
    if (f != NULL)
        fclose(f);
    return (uint32_t)(resident * (unsigned long)sysconf(_SC_PAGESIZE) / 1024);
}

static kvw_key key_of(uint32_t id)
{
    char text[32];

    snprintf(text, sizeof(text), "transfer %u", id);
    return kvw_key_of(text);
}

/* --- blocks ----------------------------------------------------------------------------------- */

static void mark_freed(struct mesh *m, uint32_t block)
{
    t_state_fill(&m->state, 0, &block, 0, 0, ENTRIES, FREED);
}

static bool is_freed(const struct mesh *m, uint32_t block)
{
    return t_state_is(&m->state, 0, &block, 0, 0, ENTRIES, FREED);
}

static bool take_blocks(struct mesh *m, struct xfer *x)
{
    const uint32_t want = (x->tokens + ENTRIES - 1) / ENTRIES;

    x->block_count = 0;
    for (uint32_t b = (x->id * 7u) % BLOCKS, i = 0; i < BLOCKS && x->block_count < want;
         ++i, b = (b + 1) % BLOCKS)
        if (!m->taken[b])
            x->blocks[x->block_count++] = b;
    if (x->block_count < want)
        return false;
    for (uint32_t i = 0; i < want; ++i) {
        if (!is_freed(m, x->blocks[i]))
            printf("bad block %u changed while nobody was lent it\n", x->blocks[i]);
        m->taken[x->blocks[i]] = true;
    }
    return true;
}

static void give_back(struct mesh *m, struct xfer *x)
{
    for (uint32_t i = 0; i < x->block_count; ++i) {
        m->taken[x->blocks[i]] = false;
        mark_freed(m, x->blocks[i]);
    }
    x->used = false;
}

/* --- transfers -------------------------------------------------------------------------------- */

static struct xfer *xfer_new(struct mesh *m, uint32_t id, uint32_t tokens, bool receiver)
{
    for (uint32_t i = 0; i < XFERS; ++i) {
        struct xfer *x = &m->xfers[i];

        if (x->used)
            continue;
        memset(x, 0, sizeof(*x));
        x->id = id;
        x->tokens = tokens;
        x->receiver = receiver;
        if (!take_blocks(m, x))
            return NULL;
        x->used = true;
        return x;
    }
    return NULL;
}

/* What couldn't be opened ends here. */
static void refused(struct mesh *m, uint32_t id, struct xfer *x, kvw_err err, const char *why)
{
    if (x != NULL)
        give_back(m, x);
    printf("end %u %d not opened: %s\n", id, err, why);
}

static void offer(struct mesh *m, uint32_t id, uint32_t from, uint32_t tokens)
{
    struct xfer *x = xfer_new(m, id, tokens, true);
    const struct kvw_offer_terms terms = {.size = sizeof(terms), .take_by_ns = 20000000000ull};
    struct kvw_group_blocks blocks = {.want_end = tokens};
    struct kvw_offer_args args = {.size = sizeof(args),
                                  .pool = m->pool,
                                  .key = key_of(id),
                                  .tokens = tokens,
                                  .group_count = 1,
                                  .groups = &blocks,
                                  .sources = &m->up[from % NODES],
                                  .source_count = 1,
                                  .terms = &terms};
    char why[257] = "no blocks, or no place in the table";
    kvw_err err = KVW_E_AGAIN;

    if (x != NULL) {
        blocks.block_count = x->block_count;
        blocks.blocks = x->blocks;
        err = kvw_node_offer(m->node, &args, &x->ref, why, sizeof(why));
    }
    if (err != KVW_OK)
        refused(m, id, x, err, why);
}

static void stream(struct mesh *m, uint32_t id, uint32_t tokens)
{
    struct xfer *x = xfer_new(m, id, tokens, false);
    struct kvw_group_blocks blocks = {.group = 0};
    struct kvw_stream_args args = {.size = sizeof(args),
                                   .pool = m->pool,
                                   .key = key_of(id),
                                   .tokens = tokens,
                                   .group_count = 1,
                                   .groups = &blocks,
                                   .offer_by_ns = kvw_now_ns() + 20000000000ull};
    char why[257] = "no blocks, or no place in the table";
    kvw_err err = KVW_E_AGAIN;

    if (x != NULL) {
        blocks.block_count = x->block_count;
        blocks.blocks = x->blocks;
        t_state_fill(&m->state, 0, x->blocks, 0, 0, tokens, id);
        if (m->lies)
            t_state_fill(&m->state, 0, x->blocks, 0, tokens - 1, tokens, id + 1);
        err = kvw_node_stream(m->node, &args, &x->ref, why, sizeof(why));
    }
    if (err != KVW_OK)
        refused(m, id, x, err, why);
}

/* A layer of each stream; true: there are more. An error: it has ended, and its event comes. */
static bool push_some(struct mesh *m)
{
    bool more = false;

    for (uint32_t i = 0; i < XFERS; ++i) {
        struct xfer *x = &m->xfers[i];

        if (!x->used || x->receiver || x->committed)
            continue;
        if (x->layer < LAYERS &&
            kvw_node_push(m->node, x->ref, x->layer, x->tokens, NULL) == KVW_OK)
            ++x->layer;
        if (x->layer == LAYERS) {
            x->committed = true;
            (void)!kvw_node_commit(m->node, x->ref, "note", 4);
        }
        more = more || !x->committed;
    }
    return more;
}

/* --- events ----------------------------------------------------------------------------------- */

static void take_done(struct mesh *m, const struct kvw_core_event *ev)
{
    for (uint32_t i = 0; i < XFERS; ++i) {
        struct xfer *x = &m->xfers[i];

        if (!x->used || x->ref.value != ev->xfer.value)
            continue;
        if (ev->err == KVW_OK && x->receiver &&
            !t_state_is(&m->state, 0, x->blocks, 0, 0, x->tokens, x->id))
            printf("bad transfer %u ended well with other bytes\n", x->id);
        if (ev->err == KVW_OK && x->receiver &&
            (ev->note_bytes != 4 || memcmp(ev->note, "note", 4)))
            printf("bad transfer %u ended well without its note\n", x->id);
        printf("end %u %d %s\n", x->id, ev->err, ev->text);
        give_back(m, x);
        return;
    }
    printf("bad the end of a transfer that isn't open\n");
}

static void take_event(struct mesh *m, const struct kvw_core_event *ev)
{
    struct kvw_peer_info info = {.size = sizeof(info)};
    unsigned at, life;

    switch (ev->kind) {
    case KVW_CEV_XFER_DONE:
        take_done(m, ev);
        break;
    case KVW_CEV_PEER_UP:
        if (kvw_node_peer_info(m->node, ev->peer, &info) == KVW_OK &&
            sscanf(info.name, "node %u life %u", &at, &life) == 2 && at < NODES) {
            m->up[at] = ev->peer;
            printf("up %u %u\n", at, life);
        }
        break;
    case KVW_CEV_PEER_LOST:
        for (uint32_t i = 0; i < NODES; ++i)
            if (m->up[i].value == ev->peer.value && ev->peer.value != 0) {
                m->up[i].value = 0;
                printf("lost %u %s\n", i, ev->text);
            }
        break;
    default:
        break;
    }
}

static void take_events(struct mesh *m)
{
    struct kvw_core_event ev = {.size = sizeof(ev)};

    while (kvw_node_next_event(m->node, &ev))
        take_event(m, &ev);
}

/* --- lines ------------------------------------------------------------------------------------ */

static void look(struct mesh *m)
{
    struct kvw_core_stats s = {.size = sizeof(s)};
    uint32_t taken = 0;

    kvw_node_stats(m->node, &s);
    for (uint32_t b = 0; b < BLOCKS; ++b) {
        taken += m->taken[b];
        if (!m->taken[b] && !is_freed(m, b))
            printf("bad block %u changed while nobody was lent it\n", b);
    }
    printf("used %u %u %u %u %u %u\n", s.xfers_open, taken, s.slots_free, s.stages_free, open_fds(),
           resident_kb());
}

static void add_peer(struct mesh *m, uint32_t at, uint32_t port)
{
    char address[32];

    snprintf(address, sizeof(address), "127.0.0.1:%u", port);
    if (kvw_node_peer_add(m->node, address, &m->added[at]) != KVW_OK)
        printf("bad node %u can't be added\n", at);
}

static void abort_xfer(struct mesh *m, uint32_t id)
{
    for (uint32_t i = 0; i < XFERS; ++i)
        if (m->xfers[i].used && m->xfers[i].id == id)
            (void)!kvw_node_abort(m->node, m->xfers[i].ref, "its user went away");
}

static void obey(struct mesh *m, const char *line)
{
    unsigned a, b, c;

    if (sscanf(line, "peer %u %u", &a, &b) == 2 && a < NODES)
        add_peer(m, a, b);
    else if (sscanf(line, "drop %u", &a) == 1 && a < NODES)
        (void)!kvw_node_peer_drop(m->node, m->added[a]);
    else if (sscanf(line, "offer %u %u %u", &a, &b, &c) == 3)
        offer(m, a, b, c);
    else if (sscanf(line, "stream %u %u", &a, &b) == 2)
        stream(m, a, b);
    else if (sscanf(line, "abort %u", &a) == 1)
        abort_xfer(m, a);
    else if (strcmp(line, "look") == 0)
        look(m);
    else if (strcmp(line, "quit") == 0)
        m->quit = true;
    else
        printf("bad line: %s\n", line);
}

static void read_lines(struct mesh *m)
{
    const ssize_t got = read(0, m->line + m->line_bytes, LINE - 1 - m->line_bytes);
    char *end;

    if (got <= 0) { /* whoever started it has gone */
        m->quit = got == 0 || errno != EINTR;
        return;
    }
    m->line_bytes += (uint32_t)got;
    m->line[m->line_bytes] = '\0';
    while ((end = strchr(m->line, '\n')) != NULL) {
        *end = '\0';
        obey(m, m->line);
        m->line_bytes -= (uint32_t)(end + 1 - m->line);
        memmove(m->line, end + 1, m->line_bytes + 1);
    }
}

/* --- a life ----------------------------------------------------------------------------------- */

static int open_node(struct mesh *m, char **argv)
{
    char name[32], local[32], why[257] = "";
    const struct kvw_node_config cfg = {
        .size = sizeof(cfg),
        .listen = 1,
        .name = name,
        .transport = "udp",
        .local = local,
        .dead_ms = (uint32_t)atoi(argv[4]),
        .xfers_max = 2 * XFERS,
        .chunk_raw_bytes = 16384,
    };

    snprintf(name, sizeof(name), "node %s life %s", argv[1], argv[2]);
    snprintf(local, sizeof(local), "127.0.0.1:%s", argv[3]);
    t_state_dense(&m->state, LAYERS, 2, 64, KVW_DTYPE_BF16, ENTRIES, BLOCKS);
    m->state.groups[0].rows_first =
        atoi(argv[1]) % 2 != 0; /* the two ends lay it out differently */
    t_state_make(&m->state);
    for (uint32_t b = 0; b < BLOCKS; ++b)
        mark_freed(m, b);
    if (kvw_node_open(&m->node, &cfg, why, sizeof(why)) == KVW_OK &&
        kvw_node_pool_add(m->node, &m->state.desc, &m->pool, why, sizeof(why)) == KVW_OK)
        return 0;
    printf("bad node %s can't open: %s\n", argv[1], why);
    return 1;
}

int main(int argc, char **argv)
{
    static struct mesh m;
    bool more = false;

    if (argc != 5 && argc != 6) {
        fprintf(stderr, "usage: mesh_node NUMBER LIFE PORT DEAD_MS [lie]\n");
        return 2;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    const uint32_t before = open_fds();
    if (open_node(&m, argv) != 0)
        return 1;
    m.lies = argc == 6;
    printf("ready %u\n", open_fds());
    while (!m.quit) {
        struct pollfd p[] = {{.fd = 0, .events = POLLIN},
                             {.fd = kvw_node_fd(m.node), .events = POLLIN}};

        if (poll(p, 2, more ? 1 : -1) < 0 && errno != EINTR)
            break;
        if (p[1].revents != 0)
            take_events(&m);
        if (p[0].revents != 0)
            read_lines(&m);
        more = push_some(&m);
    }
    kvw_node_close(m.node);
    t_state_free(&m.state);
    if (open_fds() != before)
        printf("bad %u descriptors were left open\n", open_fds() - before);
    printf("closed %u\n", open_fds());
    return 0;
}
