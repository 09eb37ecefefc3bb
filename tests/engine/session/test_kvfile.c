/* SPDX-License-Identifier: Apache-2.0 */
/* K and V come back from a file bit for bit, or within their budget; a file that is cut off, has
 * another bit, or is another model's, gives nothing but a sentence; one that can't be written
 * leaves the old one. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <glob.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../../../engine/kernels/half.h"
#include "../../../engine/model/kvcache.h"
#include "../../../engine/session/kvfile.h"

enum {
    LAYERS = 2,
    HEADS = 2,
    DIM = 16,
    BLOCK = 4,
    BLOCKS = 40,
    TOKENS = 70, /* no whole number of blocks */
};

static const struct kve_owner owner = {
    .fingerprint = {1, 2, 3}, .model = "Tiny", .kernels = "scalar", .cut = 8};
static struct kve_kvcache from, to;
static uint32_t ids[BLOCKS], back[BLOCKS], tokens[TOKENS];
static char folder[32], path[64], why[KVE_WHY_BYTES];

static void set_up(void)
{
    uint32_t state = 7;

    strcpy(folder, "/tmp/kve-kvfile-XXXXXX");
    cr_assert_not_null(mkdtemp(folder));
    snprintf(path, sizeof(path), "%s/a.kv", folder);
    cr_assert_eq(kve_kvcache_open(&from, LAYERS, HEADS, DIM, BLOCK, BLOCKS), KVW_OK);
    cr_assert_eq(kve_kvcache_open(&to, LAYERS, HEADS, DIM, BLOCK, BLOCKS), KVW_OK);
    for (uint32_t i = 0; i < BLOCKS; ++i) /* other blocks than the reader's, backwards */
        ids[i] = BLOCKS - 1 - i, back[i] = i;
    for (uint64_t i = 0; i < from.pool.mem.bytes / 2; ++i) {
        state = state * 1664525u + 1013904223u;
        ((uint16_t *)from.pool.mem.base)[i] =
            kve_f32_to_bf16((float)(int32_t)state / 2147483648.0f * (float)(1 + i % 7));
    }
    for (uint32_t i = 0; i < TOKENS; ++i)
        tokens[i] = 5 * i + 1;
}

static void tear_down(void)
{
    char command[64];

    kve_kvcache_close(&from);
    kve_kvcache_close(&to);
    snprintf(command, sizeof(command), "rm -rf %s", folder);
    cr_assert_eq(system(command), 0);
}

TestSuite(kvfile, .init = set_up, .fini = tear_down, .timeout = 60);

static struct kve_kvpart part(uint32_t count, uint32_t first, kvw_budget budget)
{
    return (struct kve_kvpart){.owner = &owner,
                               .pool = &from.pool,
                               .blocks = ids,
                               .tokens = tokens,
                               .count = count,
                               .first = first,
                               .budget = budget,
                               .exact_first = 4,
                               .exact_last = 8};
}

static void save(uint32_t count, uint32_t first, kvw_budget budget)
{
    const struct kve_kvpart p = part(count, first, budget);
    struct kve_kvsaved saved;

    cr_assert_eq(kve_kvfile_save(path, &p, &saved, why), KVW_OK, "%s", why);
    struct stat st;
    cr_assert_eq(stat(path, &st), 0);
    cr_expect_eq((uint64_t)st.st_size, saved.file_bytes);
    cr_expect_eq(st.st_mode & 077, 0, "what was asked is nobody else's to read");
    cr_expect_eq(saved.raw_bytes, 2ull * LAYERS * (count - first) * HEADS * DIM * 2);
}

/* All of the file to the other pool. */
static kvw_err load_as(const struct kve_owner *who)
{
    struct kve_kvfile *f;
    kvw_err err = kve_kvfile_open(&f, path, why);

    if (err != KVW_OK)
        return err;
    err = kve_kvfile_read(f, who, &to.pool, back, why);
    kve_kvfile_close(f);
    return err;
}

static const uint16_t *row(const struct kve_kvcache *kv, const uint32_t *blocks, uint32_t layer,
                           uint32_t k, uint32_t t)
{
    const struct kvw_pool *p = &kv->pool;

    return (const uint16_t *)((const unsigned char *)p->mem.base + layer * p->layer_stride +
                              k * p->kv_stride + blocks[t / BLOCK] * p->block_stride +
                              t % BLOCK * p->token_stride);
}

/* Rows of tokens that are the same in both pools. */
static uint32_t same_rows(uint32_t first, uint32_t end)
{
    uint32_t n = 0;

    for (uint32_t l = 0; l < LAYERS; ++l)
        for (uint32_t k = 0; k < 2; ++k)
            for (uint32_t t = first; t < end; ++t)
                n +=
                    memcmp(row(&from, ids, l, k, t), row(&to, back, l, k, t), 2 * HEADS * DIM) == 0;
    return n;
}

Test(kvfile, a_session_comes_back_bit_for_bit)
{
    struct kve_kvfile *f;
    uint32_t got[TOKENS];

    save(TOKENS, 0, KVW_BUDGET_EXACT);
    cr_expect_eq(same_rows(0, TOKENS), 0, "control: the other pool has nothing yet");
    cr_assert_eq(load_as(&owner), KVW_OK, "%s", why);
    cr_expect_eq(same_rows(0, TOKENS), 2 * LAYERS * TOKENS);
    cr_assert_eq(kve_kvfile_open(&f, path, why), KVW_OK);
    kve_kvfile_tokens(f, got);
    cr_expect_arr_eq(got, tokens, sizeof(tokens));
    cr_expect_eq(kve_kvfile_common(f, tokens, TOKENS), TOKENS);
    got[40] ^= 1;
    cr_expect_eq(kve_kvfile_common(f, got, TOKENS), 40);
    kve_kvfile_close(f);
}

/* What lies before the first token isn't touched. */
Test(kvfile, a_piece_fills_its_own_tokens_only)
{
    save(48, 32, KVW_BUDGET_EXACT);
    cr_assert_eq(load_as(&owner), KVW_OK, "%s", why);
    cr_expect_eq(same_rows(32, 48), 2 * LAYERS * 16);
    cr_expect_eq(same_rows(0, 32), 0);
    cr_expect_eq(same_rows(48, TOKENS), 0);
}

/* e8 and e4: smaller, not equal but where that is asked for, and near. */
Test(kvfile, lossy_ones_keep_their_budget)
{
    const kvw_budget budgets[] = {KVW_BUDGET_E8, KVW_BUDGET_E4};
    struct stat st;
    int64_t last = INT64_MAX;

    for (int i = 0; i < 2; ++i) {
        double noise = 0, power = 0;

        save(TOKENS, 0, budgets[i]);
        cr_assert_eq(load_as(&owner), KVW_OK, "%s", why);
        cr_expect_eq(same_rows(0, 4), 2 * LAYERS * 4, "the first four are exact");
        cr_expect_eq(same_rows(TOKENS - 8, TOKENS), 2 * LAYERS * 8, "the last eight are, too");
        cr_expect_lt(same_rows(4, TOKENS - 8), 2 * LAYERS * (TOKENS - 12));
        for (uint32_t t = 0; t < TOKENS; ++t)
            for (uint32_t d = 0; d < HEADS * DIM; ++d) {
                const double a = (double)kve_bf16_to_f32(row(&from, ids, 1, 1, t)[d]);
                const double b = (double)kve_bf16_to_f32(row(&to, back, 1, 1, t)[d]);

                power += a * a;
                noise += (a - b) * (a - b);
            }
        cr_expect_gt(10 * log10(power / noise), i == 0 ? 31 : 21);
        cr_assert_eq(stat(path, &st), 0);
        cr_expect_lt(st.st_size, last);
        last = st.st_size;
    }
}

static uint8_t file[1 << 14];
static size_t file_bytes;

static void take_file(void)
{
    FILE *f = fopen(path, "rb");

    cr_assert_not_null(f);
    file_bytes = fread(file, 1, sizeof(file), f);
    cr_assert_lt(file_bytes, sizeof(file));
    fclose(f);
}

static void put_file(size_t bytes)
{
    FILE *f = fopen(path, "wb");

    cr_assert_not_null(f);
    cr_assert_eq(fwrite(file, 1, bytes, f), bytes);
    fclose(f);
}

/* Nothing but a sentence, which begins with the path. */
static void refused(const char *what, size_t at)
{
    why[0] = '\0';
    cr_expect_neq(load_as(&owner), KVW_OK, "%s %zu went unseen", what, at);
    cr_expect_eq(strncmp(why, path, strlen(path)), 0, "%s %zu: \"%s\"", what, at, why);
    cr_expect_gt(strlen(why), strlen(path) + 4, "%s %zu: \"%s\"", what, at, why);
}

/* A bit of every byte, another one of each. */
Test(kvfile, no_bit_flips_unseen)
{
    save(9, 0, KVW_BUDGET_EXACT);
    take_file();
    const int fd = open(path, O_WRONLY);
    cr_assert_geq(fd, 0);
    for (size_t i = 0; i < file_bytes; ++i) {
        const uint8_t other = file[i] ^ (uint8_t)(1 << i % 8);

        cr_assert_eq(pwrite(fd, &other, 1, (off_t)i), 1);
        refused("a bit of byte", i);
        cr_assert_eq(pwrite(fd, &file[i], 1, (off_t)i), 1);
    }
    close(fd);
    cr_expect_eq(load_as(&owner), KVW_OK, "control: %s", why);
}

Test(kvfile, no_length_but_its_own)
{
    save(9, 0, KVW_BUDGET_EXACT);
    take_file();
    cr_assert_eq(truncate(path, (off_t)file_bytes + 1), 0);
    refused("length", file_bytes + 1);
    for (size_t n = file_bytes - 1; n<file_bytes; n = n> 200 ? n - 13 : n - 1) {
        cr_assert_eq(truncate(path, (off_t)n), 0);
        refused("length", n);
    }
}

static void says(const char *words)
{
    cr_expect_not_null(strstr(why, words), "\"%s\" doesn't say \"%s\"", why, words);
}

Test(kvfile, another_model_is_refused_by_what_differs)
{
    struct kve_owner other = owner;

    save(TOKENS, 0, KVW_BUDGET_EXACT);
    other.fingerprint[15] = 1;
    strcpy(other.model, "Other");
    cr_expect_eq(load_as(&other), KVW_E_MISMATCH);
    says("the file is of Tiny, this is another file's (Other)");
    other = owner;
    strcpy(other.kernels, "avx2");
    cr_expect_eq(load_as(&other), KVW_E_MISMATCH);
    says("computed by scalar, this process takes avx2");
    other = owner;
    other.cut = 64;
    cr_expect_eq(load_as(&other), KVW_E_MISMATCH);
    says("cut: the file's is 8, it is 64 here");
    to.pool.head_dim = 8;
    cr_expect_eq(load_as(&owner), KVW_E_MISMATCH);
    says("head_dim: the file's is 16, it is 8 here");
    cr_expect_eq(same_rows(0, TOKENS), 0, "nothing of it was read");
}

Test(kvfile, another_version_is_refused_by_its_number)
{
    save(9, 0, KVW_BUDGET_EXACT);
    take_file();
    file[8] = 2;
    put_file(file_bytes);
    cr_expect_eq(load_as(&owner), KVW_E_VERSION);
    says("version: the file's is 2, this program's 1");
}

static size_t files(void)
{
    char pattern[64];
    glob_t g;

    snprintf(pattern, sizeof(pattern), "%s/*", folder);
    const size_t n = glob(pattern, 0, NULL, &g) == 0 ? g.gl_pathc : 0;
    globfree(&g);
    return n;
}

/* A disk that is full in the middle: as here a limit on a file's length is. */
Test(kvfile, a_failed_save_leaves_the_old_file_and_no_other)
{
    const struct kve_kvpart p = part(TOKENS, 0, KVW_BUDGET_EXACT);
    const struct rlimit small = {4096, RLIM_INFINITY}, all = {RLIM_INFINITY, RLIM_INFINITY};
    struct kve_kvsaved saved;

    save(9, 0, KVW_BUDGET_EXACT);
    signal(SIGXFSZ, SIG_IGN);
    cr_assert_eq(setrlimit(RLIMIT_FSIZE, &small), 0);
    cr_expect_eq(kve_kvfile_save(path, &p, &saved, why), KVW_E_IO);
    cr_assert_eq(setrlimit(RLIMIT_FSIZE, &all), 0);
    says("write: File too large");
    cr_expect_eq(files(), 1, "no half of a file is left");
    cr_expect_eq(load_as(&owner), KVW_OK, "the old one is whole: %s", why);
    cr_expect_eq(kve_kvfile_save("/nowhere/at/all", &p, &saved, why), KVW_E_NOTFOUND);
    says("/nowhere/at/all: create: No such file or directory");
}

Test(kvfile, what_is_no_regular_file_is_refused)
{
    cr_assert_eq(mkfifo(path, 0600), 0);
    cr_expect_eq(load_as(&owner), KVW_E_FORMAT);
    says("no regular file");
}
