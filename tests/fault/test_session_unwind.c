/* SPDX-License-Identifier: Apache-2.0 */
/* Whichever step of kvw_session_open() fails, everything taken before it is given back, and *s is
 * untouched. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "../kvwire/duo.h"

static struct duo d;

/* aligned_alloc is --wrap'ed: the arena is the only thing that a session allocates. */
void *__real_aligned_alloc(size_t align, size_t bytes);
void *__wrap_aligned_alloc(size_t align, size_t bytes);
void __real_free(void *p);
void __wrap_free(void *p);

static bool fail_alloc;
static void *arena;
static uint32_t allocs, frees;

void *__wrap_aligned_alloc(size_t align, size_t bytes)
{
    ++allocs;
    if (fail_alloc)
        return NULL;
    return arena = __real_aligned_alloc(align, bytes);
}

void __wrap_free(void *p)
{
    if (p != NULL && p == arena) {
        ++frees;
        arena = NULL;
    }
    __real_free(p);
}

static kvw_err open_one(const struct kvw_session_config *cfg)
{
    struct kvw_session *const untouched = (struct kvw_session *)(void *)&d;
    struct kvw_session *s = untouched;
    const char *field = "";
    const kvw_err err = kvw_session_open(&s, cfg, 1, &field);

    if (err != KVW_OK)
        cr_expect_eq(s, untouched, "written on failure");
    else
        kvw_session_close(s, 2);
    cr_expect_null(arena, "the arena leaked");
    cr_expect_eq(d.rf.regions, 0, "a region stayed registered");
    return err;
}

Test(session_unwind, every_step)
{
    duo_init(&d);

    fail_alloc = true;
    cr_expect_eq(open_one(&d.r_cfg), KVW_E_NOMEM);
    cr_expect_eq(open_one(&d.s_cfg), KVW_E_NOMEM);
    fail_alloc = false;

    d.rf.fail_region_add = KVW_E_NOMEM;
    cr_expect_eq(open_one(&d.r_cfg), KVW_E_NOMEM);
    cr_expect_eq(d.rf.listens, 0);
    d.rf.fail_region_add = KVW_OK;

    d.rf.fail_listen = KVW_E_ADDRESS;
    cr_expect_eq(open_one(&d.r_cfg), KVW_E_ADDRESS);
    cr_expect_eq(d.rf.listens, 1);
    d.rf.fail_listen = KVW_OK;

    d.sf.fail_connect = KVW_E_ADDRESS;
    cr_expect_eq(open_one(&d.s_cfg), KVW_E_ADDRESS);
    d.sf.fail_connect = KVW_E_AGAIN; /* tried again later: no failure */
    cr_expect_eq(open_one(&d.s_cfg), KVW_OK);
    d.sf.fail_connect = KVW_OK;

    cr_expect_eq(open_one(&d.s_cfg), KVW_OK);
    cr_expect_eq(open_one(&d.r_cfg), KVW_OK);
    cr_expect_eq(d.sf.disconnects, d.sf.connects);
    cr_expect_eq(allocs, 8, "an open allocates once");
    cr_expect_eq(frees, 6);
}

#define EXPECT_FIELD(config, change, name)                                                         \
    do {                                                                                           \
        struct kvw_session_config bad = (config);                                                  \
        struct kvw_session *s = NULL;                                                              \
        const char *field = "";                                                                    \
        change;                                                                                    \
        cr_expect_eq(kvw_session_open(&s, &bad, 1, &field), KVW_E_INVALID, #change);               \
        cr_expect_str_eq(field, name);                                                             \
        cr_expect_null(s);                                                                         \
        cr_expect_eq(allocs, 0);                                                                   \
    } while (0)

Test(session_unwind, bad_fields_are_named)
{
    static const struct kvw_codec_ops *const no_codecs[] = {NULL};
    static char long_peer[300];

    duo_init(&d);
    memset(long_peer, 'a', sizeof(long_peer) - 1);
    EXPECT_FIELD(d.r_cfg, bad.size = 8, "size");
    EXPECT_FIELD(d.r_cfg, bad.role = (kvw_role)0, "role");
    EXPECT_FIELD(d.r_cfg, bad.transport = NULL, "transport");
    EXPECT_FIELD(d.s_cfg, bad.peer = long_peer, "peer");
    EXPECT_FIELD(d.r_cfg, bad.pool.layers = 0, "pool.layers");
    EXPECT_FIELD(d.r_cfg, bad.codecs = NULL, "codecs");
    EXPECT_FIELD(d.r_cfg, bad.codecs = no_codecs, "codecs");
    EXPECT_FIELD(d.r_cfg, bad.pool.mem.kind = KVW_MEM_CUDA, "codecs"); /* raw reads host memory */
    EXPECT_FIELD(d.s_cfg, bad.chunk_raw_bytes = 1, "chunk_raw_bytes");
    EXPECT_FIELD(d.s_cfg, bad.chunk_raw_bytes = KVW_CHUNK_RAW_MAX + 1, "chunk_raw_bytes");
    EXPECT_FIELD(d.s_cfg, bad.slots = KVW_SLOTS_MAX + 1, "slots");
    EXPECT_FIELD(d.s_cfg, bad.xfers_max = KVW_XFERS_MAX + 1, "xfers_max");
    EXPECT_FIELD(d.s_cfg, bad.xfer_tokens_max = 20 * 8 + 1, "xfer_tokens_max");
}
