/* SPDX-License-Identifier: Apache-2.0 */
/*
 * batch TRANSPORT OWNER POSTER PEER [PIECES] [ROUNDS] - what scattered pieces of 4 KiB cost beside
 * one piece of the same bytes. Two processes, a node each: the owner listens at OWNER, the poster
 * is at POSTER and reaches the owner at PEER ("-": the link's only peer).
 *
 *     batch udp 127.0.0.1:7409 127.0.0.1:0 127.0.0.1:7409 100000
 *     batch dpdk /tmp/batch.sock /tmp/batch.sock -
 *
 * The pieces lie in random order on both sides. Contiguous and scattered posts take turns, WRITE
 * and READ; the last READ goes to memory of its own and must bring back what was written, and what
 * the scattered WRITE has placed must be where the pieces say. Prints GB/s, median (least .. most),
 * the scattered ones' goodput over the contiguous ones', RESULT for the WRITE, and what batches'
 * messages and chunk headers of both ends are of the pieces' bytes.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../../kvwire/node.h"

#define PIECE      4096ull
#define ROUNDS_MAX 51u
#define S          1000000000ull

enum kind { WRITE_ONE = 0, WRITE_MANY, READ_ONE, READ_MANY, KINDS };

static const char *const names[KINDS] = {"WRITE contiguous", "WRITE scattered", "READ contiguous",
                                         "READ scattered"};

static uint64_t pieces = 20000, bytes;
static uint32_t rounds = 7, *here_of, *there_of;

static void die(const char *what, const char *why)
{
    fprintf(stderr, "batch: %s: %s\n", what, why);
    exit(1);
}

static void *memory(uint64_t n)
{
    void *p = aligned_alloc(4096, n);

    if (p == NULL)
        die("memory", "there isn't enough");
    memset(p, 0, n); /* faulted in */
    return p;
}

static struct kvw_node *open_node(const char *transport, const char *local, bool listen)
{
    char why[257] = "";
    const struct kvw_node_config cfg = {.size = sizeof(cfg),
                                        .listen = listen,
                                        .name = listen ? "owner" : "poster",
                                        .transport = transport,
                                        .local = local,
                                        .open_by_ns = kvw_now_ns() + 60 * S};
    struct kvw_node *node;

    if (kvw_node_open(&node, &cfg, why, sizeof(why)) != KVW_OK)
        die(cfg.name, why);
    return node;
}

static void add_region(struct kvw_node *node, void *base, uint32_t rights)
{
    const struct kvw_mem mem = {
        .base = base, .bytes = bytes, .kind = KVW_MEM_HOST, .dmabuf_fd = -1};
    const struct kvw_region_args args = {
        .size = sizeof(args), .rights = rights, .mem = &mem, .mem_bytes = sizeof(mem)};
    kvw_region_id region;
    char why[257] = "";

    if (kvw_node_region_add(node, &args, &region, why, sizeof(why)) != KVW_OK)
        die("region", why);
}

static struct kvw_core_event await(struct kvw_node *node, uint32_t kind)
{
    const uint64_t until = kvw_now_ns() + 120 * S;
    struct kvw_core_event ev = {.size = sizeof(ev)};

    while (kvw_node_wait(node, until))
        while (kvw_node_next_event(node, &ev))
            if (ev.kind == kind)
                return ev;
    die("event", "nothing came for two minutes");
    return ev;
}

/* splitmix64 */
static uint64_t draw(uint64_t *state)
{
    uint64_t x = *state += 0x9e3779b97f4a7c15ull;

    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ x >> 27) * 0x94d049bb133111ebull;
    return x ^ x >> 31;
}

static uint32_t *shuffled(uint64_t seed)
{
    uint32_t *order = memory((pieces * sizeof(order[0]) + 4095) / 4096 * 4096);

    for (uint32_t i = 0; i < pieces; ++i)
        order[i] = i;
    for (uint32_t i = (uint32_t)pieces - 1; i > 0; --i) {
        const uint32_t k = (uint32_t)(draw(&seed) % (i + 1)), was = order[i];

        order[i] = order[k];
        order[k] = was;
    }
    return order;
}

static uint64_t word_at(uint64_t piece, uint64_t at)
{
    uint64_t seed = piece * 512 + at;

    return draw(&seed);
}

static void fill(unsigned char *base)
{
    for (uint64_t i = 0; i < pieces; ++i)
        for (uint64_t k = 0; k < PIECE / 8; ++k)
            memcpy(base + here_of[i] * PIECE + 8 * k, &(uint64_t){word_at(i, k)}, 8);
}

static bool in_place(const unsigned char *base, const uint32_t *order)
{
    for (uint64_t i = 0; i < pieces; ++i)
        for (uint64_t k = 0; k < PIECE / 8; ++k)
            if (memcmp(base + order[i] * PIECE + 8 * k, &(uint64_t){word_at(i, k)}, 8) != 0)
                return false;
    return true;
}

/* --- the owner -------------------------------------------------------------------------------- */

static int own(char **argv, int to_poster)
{
    struct kvw_node *node = open_node(argv[1], argv[2], true);
    struct kvw_core_stats s = {.size = sizeof(s)};
    unsigned char *base = memory(bytes);
    const uint64_t address = (uintptr_t)base;
    char note[64];

    add_region(node, base, KVW_REGION_READ | KVW_REGION_WRITE);
    if (write(to_poster, &address, sizeof(address)) != sizeof(address))
        return 1;
    (void)await(node, KVW_CEV_NOTIFY); /* that the last WRITE was a scattered one */
    const bool right = in_place(base, there_of);
    struct kvw_core_event ev;

    kvw_node_stats(node, &s);
    ev = await(node, KVW_CEV_NOTIFY);
    snprintf(note, sizeof(note), "%d %llu", right, (unsigned long long)s.batch_message_bytes);
    if (kvw_node_notify(node, ev.peer, note, (uint32_t)strlen(note)) != KVW_OK)
        return 1;
    (void)await(node, KVW_CEV_PEER_LOST);
    kvw_node_close(node);
    return 0;
}

/* --- the poster ------------------------------------------------------------------------------- */

static kvw_batch_id make(struct kvw_node *node, kvw_peer_id peer, enum kind kind,
                         const unsigned char *here, uint64_t there)
{
    const bool many = kind == WRITE_MANY || kind == READ_MANY;
    struct kvw_batch_piece *p = memory((pieces * sizeof(*p) + 4095) / 4096 * 4096);
    struct kvw_batch_args args = {.size = sizeof(args),
                                  .op = kind <= WRITE_MANY ? KVW_BATCH_WRITE : KVW_BATCH_READ,
                                  .peer = peer,
                                  .piece_count = many ? (uint32_t)pieces : 1,
                                  .pieces = p,
                                  .piece_bytes = sizeof(*p)};
    kvw_batch_id batch;
    char why[257] = "";

    p[0] = (struct kvw_batch_piece){(uintptr_t)here, there, bytes};
    for (uint64_t i = 0; i < pieces && many; ++i)
        p[i] = (struct kvw_batch_piece){(uintptr_t)here + here_of[i] * PIECE,
                                        there + there_of[i] * PIECE, PIECE};
    if (kvw_node_batch_make(node, &args, &batch, why, sizeof(why)) != KVW_OK)
        die(names[kind], why);
    free(p);
    return batch;
}

/* GB/s of one post. */
static double post(struct kvw_node *node, kvw_batch_id batch, const char *note)
{
    const struct kvw_post_args args = {.size = sizeof(args),
                                       .quiet = 1,
                                       .note = note,
                                       .note_bytes = note != NULL ? (uint32_t)strlen(note) : 0};
    struct kvw_batch_status s = {.size = sizeof(s)};
    char why[257] = "";

    if (kvw_node_batch_post(node, batch, &args, why, sizeof(why)) != KVW_OK)
        die("post", why);
    if (kvw_node_batch_wait(node, batch, kvw_now_ns() + 120 * S, &s) != KVW_OK)
        die("post", s.text);
    return (double)s.bytes / (double)(s.end_ns - s.post_ns);
}

static int compare(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static double report(const char *name, double *of, const char *unit)
{
    qsort(of, rounds, sizeof(of[0]), compare);
    printf("%-18s %.3f (%.3f .. %.3f) %s\n", name, of[rounds / 2], of[0], of[rounds - 1], unit);
    return of[rounds / 2];
}

static int run(char **argv, int from_owner)
{
    static double rate[KINDS][ROUNDS_MAX], ratio[2][ROUNDS_MAX];
    struct kvw_node *node = open_node(argv[1], argv[3], false);
    struct kvw_core_stats s = {.size = sizeof(s)};
    unsigned char *here = memory(bytes), *back = memory(bytes);
    unsigned long long owners;
    struct kvw_core_event ev;
    kvw_batch_id batch[KINDS];
    kvw_peer_id peer;
    uint64_t there;
    int right;

    if (read(from_owner, &there, sizeof(there)) != sizeof(there))
        die("owner", "it said nothing");
    add_region(node, here, 0);
    add_region(node, back, 0);
    if (kvw_node_peer_add(node, strcmp(argv[4], "-") == 0 ? NULL : argv[4], &peer) != KVW_OK)
        die("peer", argv[4]);
    (void)await(node, KVW_CEV_REGIONS);
    fill(here);
    for (uint32_t k = 0; k < KINDS; ++k)
        batch[k] = make(node, peer, (enum kind)k, k <= WRITE_MANY ? here : back, there);
    for (uint32_t k = 0; k < KINDS; ++k)
        (void)post(node, batch[k], NULL); /* warm */
    for (uint32_t r = 0; r < rounds; ++r) {
        for (uint32_t k = 0; k < KINDS; ++k)
            rate[k][r] = post(node, batch[k], NULL);
        ratio[0][r] = rate[WRITE_MANY][r] / rate[WRITE_ONE][r];
        ratio[1][r] = rate[READ_MANY][r] / rate[READ_ONE][r];
    }
    kvw_node_stats(node, &s);
    (void)post(node, batch[WRITE_MANY], "look");
    (void)post(node, batch[READ_MANY], "and say");
    ev = await(node, KVW_CEV_NOTIFY);
    if (sscanf((const char *)ev.note, "%d %llu", &right, &owners) != 2 || !right)
        die("owner", "the pieces aren't where they belong");
    if (!in_place(back, here_of))
        die("READ", "not what was written");
    for (uint32_t k = 0; k < KINDS; ++k)
        (void)report(names[k], rate[k], "GB/s");
    (void)report("READ ratio", ratio[1], "scattered / contiguous");
    const double result = report("WRITE ratio", ratio[0], "scattered / contiguous");

    printf("INFO metadata %.4f %% of %llu pieces' bytes, half of the posts contiguous\n",
           100.0 * (double)(s.batch_message_bytes + owners) /
               ((double)bytes * KINDS * (rounds + 1)),
           (unsigned long long)pieces);
    printf("RESULT %.3f\n", result);
    kvw_node_close(node);
    free(here);
    free(back);
    return 0;
}

int main(int argc, char **argv)
{
    int ends[2], status = 1, mine;
    pid_t child = -1;

    if (argc < 5 || argc > 7) {
        fprintf(stderr, "usage: batch TRANSPORT OWNER POSTER PEER|- [PIECES] [ROUNDS]\n");
        return 2;
    }
    pieces = argc > 5 ? strtoull(argv[5], NULL, 10) : pieces;
    rounds = argc > 6 ? (uint32_t)strtoul(argv[6], NULL, 10) : rounds;
    if (pieces < 1 || pieces > KVW_PIECES_MAX || rounds < 1 || rounds > ROUNDS_MAX)
        die("PIECES or ROUNDS", "1 to 100000, 1 to 51");
    bytes = pieces * PIECE;
    here_of = shuffled(1);
    there_of = shuffled(2);
    if (pipe(ends) != 0 || (child = fork()) < 0)
        die("fork", "it failed");
    if (child == 0)
        _exit(own(argv, ends[1]));
    close(ends[1]);
    mine = run(argv, ends[0]);
    if (waitpid(child, &status, 0) != child || status != 0)
        die("owner", "it failed");
    return mine;
}
