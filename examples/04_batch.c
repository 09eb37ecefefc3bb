/* SPDX-License-Identifier: Apache-2.0 */
/*
 * 04_batch.c - one process, two nodes, no KV: 1,000 pieces of 4 KiB written to scattered addresses
 * of the other node with a notification, and read back.
 *
 * The owner registers memory and tells its addresses, here by a variable, elsewhere by whatever the
 * two have in common. The poster names pieces by those addresses; every one is checked on both
 * sides.
 */
#include <kvwire/node.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PIECE = 4096, PIECES = 1000, BYTES = 2 * PIECE * PIECES };

static void die(const char *what, const char *why)
{
    fprintf(stderr, "%s: %s\n", what, why);
    exit(1);
}

static struct kvw_node *open_node(const char *name, uint32_t listen, const char *local)
{
    const struct kvw_node_config cfg = {
        .size = sizeof(cfg), .listen = listen, .name = name, .transport = "udp", .local = local};
    struct kvw_node *node;
    char why[257] = "";

    if (kvw_node_open(&node, &cfg, why, sizeof(why)) != KVW_OK)
        die(name, why);
    return node;
}

static unsigned char *open_region(struct kvw_node *node, uint32_t rights)
{
    unsigned char *base = calloc(1, BYTES);
    const struct kvw_mem mem = {
        .base = base, .bytes = BYTES, .kind = KVW_MEM_HOST, .dmabuf_fd = -1};
    const struct kvw_region_args args = {
        .size = sizeof(args), .rights = rights, .mem = &mem, .mem_bytes = sizeof(mem)};
    kvw_region_id region;
    char why[257] = "no memory";

    if (base == NULL || kvw_node_region_add(node, &args, &region, why, sizeof(why)) != KVW_OK)
        die("region", why);
    return base;
}

static struct kvw_core_event await(struct kvw_node *node, const char *who, uint32_t kind)
{
    struct kvw_core_event ev = {.size = sizeof(ev)};

    while (kvw_node_wait(node, kvw_now_ns() + 5000000000ull))
        while (kvw_node_next_event(node, &ev))
            if (ev.kind == kind)
                return ev;
    die(who, "nothing happened for five seconds");
    return ev;
}

/* Make a batch, post it once with a note, wait for its end. */
static void move(struct kvw_node *node, const struct kvw_batch_args *args, const char *note)
{
    const struct kvw_post_args post = {
        .size = sizeof(post), .note = note, .note_bytes = (uint32_t)strlen(note)};
    struct kvw_core_event done;
    kvw_batch_id batch;
    char why[257] = "";

    if (kvw_node_batch_make(node, args, &batch, why, sizeof(why)) != KVW_OK ||
        kvw_node_batch_post(node, batch, &post, why, sizeof(why)) != KVW_OK)
        die(note, why);
    done = await(node, "poster", KVW_CEV_BATCH_DONE);
    if (done.err != KVW_OK)
        die(note, done.text);
    printf("poster  %s: %llu bytes, %s\n", note, (unsigned long long)done.raw_bytes,
           kvw_strerror((kvw_err)done.err));
    if (kvw_node_batch_release(node, batch) != KVW_OK)
        die(note, "it can't be released");
}

int main(void)
{
    static struct kvw_batch_piece pieces[PIECES];
    struct kvw_node *owner = open_node("owner", 1, "127.0.0.1:7405");
    struct kvw_node *poster = open_node("poster", 0, "127.0.0.1:0");
    unsigned char *there = open_region(owner, KVW_REGION_READ | KVW_REGION_WRITE);
    unsigned char *here = open_region(poster, 0); /* peers have no business in it */
    struct kvw_batch_args batch = {.size = sizeof(batch),
                                   .op = KVW_BATCH_WRITE,
                                   .piece_count = PIECES,
                                   .pieces = pieces,
                                   .piece_bytes = sizeof(pieces[0])};
    struct kvw_core_event note;

    if (kvw_node_peer_add(poster, "127.0.0.1:7405", &batch.peer) != KVW_OK)
        die("peer", "its address can't be read");
    (void)await(poster, "poster", KVW_CEV_REGIONS); /* it knows the owner's regions now */

    for (uint32_t i = 0; i < PIECES;
         ++i) { /* first half of `here`, scattered over all of `there` */
        pieces[i].local = (uintptr_t)(here + (size_t)i * PIECE);
        pieces[i].remote = (uintptr_t)(there + (size_t)(i * 777u % PIECES) * 2 * PIECE);
        pieces[i].bytes = PIECE;
        memset(here + (size_t)i * PIECE, (int)(i % 251 + 1), PIECE);
    }
    move(poster, &batch, "written");
    note = await(owner, "owner", KVW_CEV_NOTIFY);
    printf("owner   \"%.*s\" from peer %u\n", (int)note.note_bytes, (const char *)note.note,
           note.peer.value);

    for (uint32_t i = 0; i < PIECES; ++i) /* back, to the second half */
        pieces[i].local = (uintptr_t)(here + (size_t)(PIECES + i) * PIECE);
    batch.op = KVW_BATCH_READ;
    move(poster, &batch, "read back");
    (void)await(owner, "owner", KVW_CEV_NOTIFY);
    if (memcmp(here, here + (size_t)PIECES * PIECE, (size_t)PIECES * PIECE) != 0)
        die("bytes", "what was read isn't what was written");
    for (uint32_t i = 0; i < PIECES; ++i) /* and nothing else was touched */
        for (uint32_t k = 0; k < PIECE; ++k)
            if (there[(2 * (size_t)i + 1) * PIECE + k] != 0)
                die("bytes", "a byte between the pieces was written");
    printf("equal\n");
    kvw_node_close(poster);
    kvw_node_close(owner);
    free(here);
    free(there);
    return 0;
}
