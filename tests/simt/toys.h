/* SPDX-License-Identifier: Apache-2.0 */
/*
 * toys.h - small kernels for the test of the harness: each planted mistake, and its twin that is
 * right.
 */
#ifndef SIMT_TOYS_H
#define SIMT_TOYS_H

#include "launch.h"

enum {
    SIMT_PLAIN = 1,
    SIMT_RACE = 2,
    SIMT_ASAN = 4,
    SIMT_ANY = 7,
    SIMT_SOME_SEEDS = 8, /* depends on the order of blocks: in turns, and under some seeds */
};

struct toy {
    const char *name;
    int in; /* the builds that it is run in */
    const char
        *says; /* what is printed where the build finds the mistake; NULL: nothing is wrong */
    unsigned blocks, threads, shared_bytes;
    void (*kernel)(uint32_t *global);      /* 1,024 zero words, of which some toys leave the end */
    bool (*holds)(const uint32_t *global); /* of a toy that is right, afterwards; NULL: nothing */
};
extern const toy toys_wrong[], toys_right[]; /* until a name that is NULL */
#define TOY_WORDS 1024u
#endif
