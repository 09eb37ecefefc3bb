/* SPDX-License-Identifier: Apache-2.0 */
/*
 * newer.c - a program of one day: built against grown.py's headers it uses fields that today's
 * library doesn't know. Each call says so; none goes on as if the field weren't there.
 */
#include "llama.h"

static void expect(const char *what, kvw_err got, kvw_err wanted, const char *why)
{
    printf("%s: %s (%s)\n", what, kvw_strerror(got), why);
    if (got != wanted)
        die(what, "the wrong outcome");
}

int main(void)
{
    struct kvw_node_config cfg = {.size = sizeof(cfg), .transport = "udp", .local = "127.0.0.1:0"};
    uint32_t block = 0;
    struct kvw_group_blocks blocks = {.block_count = 1, .blocks = &block};
    struct kvw_stream_args args = {.size = sizeof(args),
                                   .tokens = 1,
                                   .group_count = 1,
                                   .groups = &blocks,
                                   .group_bytes = sizeof(blocks)};
    struct kvw_node *node;
    struct llama model;
    kvw_xfer_ref xfer;
    char why[200] = "";

    cfg.later[0] = 1;
    expect("node_open", kvw_node_open(&node, &cfg, why, sizeof(why)), KVW_E_INVALID, why);
    cfg.later[0] = 0;
    expect("node_open without it", kvw_node_open(&node, &cfg, why, sizeof(why)), KVW_OK, why);
    args.pool = llama_pool(&model, 1, node);
    args.later[2] = 1;
    expect("stream", kvw_node_stream(node, &args, &xfer, why, sizeof(why)), KVW_E_INVALID, why);
    args.later[2] = 0;
    blocks.later[1] = 1;
    expect("blocks", kvw_node_stream(node, &args, &xfer, why, sizeof(why)), KVW_E_INVALID, why);
    blocks.later[1] = 0;
    expect("stream without it", kvw_node_stream(node, &args, &xfer, why, sizeof(why)), KVW_OK, why);
    kvw_node_close(node);
    return 0;
}
