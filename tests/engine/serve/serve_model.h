/* SPDX-License-Identifier: Apache-2.0 */
/*
 * serve_model.h - a model file for tests of workers and routers: tiny.h's random llama with
 * tok_build.h's vocabulary, its context TINY_CONTEXT tokens.
 */
#ifndef TESTS_SERVE_MODEL_H
#define TESTS_SERVE_MODEL_H

#include <unistd.h>

#include "../model/tiny.h"
#include "../text/tok_build.h"

static const struct tiny_shape serve_shape = {.layers = 3,
                                              .hidden = 64,
                                              .heads = 4,
                                              .kv_heads = 2,
                                              .head_dim = 16,
                                              .ffn = 96,
                                              .vocab = TB_VOCAB,
                                              .rope_dims = 16,
                                              .tied = true};

/* A new file; unlink() it. path: at least 32 bytes. */
static inline void serve_model_write(char *path)
{
    struct gb b = {0};
    int fd;

    strcpy(path, "/tmp/kve-model-XXXXXX");
    if ((fd = mkstemp(path)) < 0)
        abort();
    close(fd);
    tb_vocabulary(&b, "smollm");
    tiny_build(&b, &serve_shape);
    gb_save(&b, path);
    gb_free(&b);
}

#endif
