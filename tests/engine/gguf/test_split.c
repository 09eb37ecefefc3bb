/* SPDX-License-Identifier: Apache-2.0 */
/* A model in three files is the model in one: the same keys, tensors and bytes. Parts that are
 * missing, exchanged or named otherwise are refused, with the file and what is wrong with it. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../../../engine/gguf/gguf.h"

enum { PARTS = 3 };

static const char *path_of(const char *folder, const char *name, char path[512])
{
    snprintf(path, 512, "%s/%s", folder, name);
    return path;
}

Test(split, joined_it_is_the_whole)
{
    char path[512], why[KVE_WHY_BYTES] = "";
    struct kve_gguf *whole = NULL, *parts = NULL;
    uint64_t bytes, more;

    cr_assert_eq(kve_gguf_open(&whole, path_of(FAMILIES, "qwen3.gguf", path), why), KVW_OK, "%s",
                 why);
    cr_assert_eq(kve_gguf_open(&parts, path_of(FAMILIES, "qwen3-00001-of-00003.gguf", path), why),
                 KVW_OK, "%s", why);
    cr_expect_eq(kve_gguf_files(whole), 1);
    cr_expect_eq(kve_gguf_files(parts), PARTS);
    cr_assert_eq(kve_gguf_tensor_count(whole), kve_gguf_tensor_count(parts));
    cr_expect_eq(kve_gguf_key_count(parts), kve_gguf_key_count(whole) + 3);
    for (uint64_t i = 0; i < kve_gguf_tensor_count(whole); ++i) {
        const struct kve_tensor *a = kve_gguf_tensor(whole, i);
        char name[80];

        snprintf(name, sizeof(name), "%.*s", (int)a->name.bytes, a->name.at);
        const struct kve_tensor *b = kve_gguf_tensor_by_name(parts, name);
        cr_assert_not_null(b, "%s", name);
        cr_expect(a->bytes == b->bytes && memcmp(a->at, b->at, a->bytes) == 0, "%s", name);
    }
    (void)kve_gguf_bytes(parts, 0, &bytes);
    (void)kve_gguf_bytes(parts, PARTS - 1, &more);
    cr_expect_gt(bytes, 100000);
    cr_expect_gt(more, 100000);
    kve_gguf_close(parts);
    kve_gguf_close(whole);
}

/* A folder with links to parts under other names; entries: name, part. */
struct entry {
    const char *name;
    int part;
};

static const struct {
    struct entry links[PARTS];
    const char *open;
    kvw_err err;
    const char *words;
} rows[] = {
    {{{"m-00001-of-00003.gguf", 1}, {"m-00002-of-00003.gguf", 2}, {"m-00003-of-00003.gguf", 3}},
     "m-00001-of-00003.gguf",
     KVW_OK,
     ""},
    {{{"m-00001-of-00003.gguf", 1}, {"m-00002-of-00003.gguf", 2}, {NULL, 0}},
     "m-00001-of-00003.gguf",
     KVW_E_IO,
     "m-00003-of-00003.gguf: can't open it"},
    {{{"m-00001-of-00003.gguf", 1}, {"m-00002-of-00003.gguf", 3}, {"m-00003-of-00003.gguf", 2}},
     "m-00001-of-00003.gguf",
     KVW_E_FORMAT,
     "m-00002-of-00003.gguf: split.no is 2, not 1"},
    {{{"m-00001-of-00003.gguf", 1}, {"m-00002-of-00003.gguf", 2}, {"m-00003-of-00003.gguf", 2}},
     "m-00001-of-00003.gguf",
     KVW_E_FORMAT,
     "m-00003-of-00003.gguf: split.no is 1, not 2"},
    {{{"m-00001-of-00003.gguf", 2}, {NULL, 0}, {NULL, 0}},
     "m-00001-of-00003.gguf",
     KVW_E_FORMAT,
     "m-00001-of-00003.gguf: split.no is 1, not 0"},
    {{{"m.gguf", 1}, {NULL, 0}, {NULL, 0}},
     "m.gguf",
     KVW_E_FORMAT,
     "must end in \"-00001-of-00003.gguf\""},
    {{{"m-00001-of-00004.gguf", 1}, {NULL, 0}, {NULL, 0}},
     "m-00001-of-00004.gguf",
     KVW_E_FORMAT,
     "split.count is 3"},
    {{{"m-00002-of-00003.gguf", 2}, {NULL, 0}, {NULL, 0}},
     "m-00002-of-00003.gguf",
     KVW_E_FORMAT,
     "must end in \"-00001-of-00003.gguf\""},
};

Test(split, parts_that_do_not_belong_together)
{
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); ++i) {
        char folder[] = "/tmp/kve-split-XXXXXX", path[512], from[512], why[KVE_WHY_BYTES] = "";
        struct kve_gguf *g = NULL;

        cr_assert_not_null(mkdtemp(folder));
        for (int l = 0; l < PARTS && rows[i].links[l].name != NULL; ++l) {
            char part[40];

            snprintf(part, sizeof(part), "qwen3-%05d-of-00003.gguf", rows[i].links[l].part);
            cr_assert_eq(symlink(path_of(FAMILIES, part, from),
                                 path_of(folder, rows[i].links[l].name, path)),
                         0);
        }
        cr_expect_eq(kve_gguf_open(&g, path_of(folder, rows[i].open, path), why), rows[i].err,
                     "row %zu: %s", i, why);
        cr_expect(strstr(why, rows[i].words) != NULL, "row %zu: %s", i, why);
        kve_gguf_close(g);
        for (int l = 0; l < PARTS && rows[i].links[l].name != NULL; ++l)
            (void)unlink(path_of(folder, rows[i].links[l].name, path));
        (void)rmdir(folder);
    }
}

/* Part `part` into the folder; where patched, the first `bytes` bytes that are `old` are `new`. */
static void copy_part(const char *folder, int part, bool patched, const char *old, const char *new,
                      size_t bytes)
{
    char name[40], path[512];
    static char file[1 << 20];
    FILE *f;
    size_t n;

    snprintf(name, sizeof(name), "qwen3-%05d-of-00003.gguf", part);
    f = fopen(path_of(FAMILIES, name, path), "rb");
    cr_assert_not_null(f, "%s", path);
    n = fread(file, 1, sizeof(file), f);
    fclose(f);
    cr_assert(n > 0 && n < sizeof(file));
    if (patched) {
        char *at = memmem(file, n, old, bytes);

        cr_assert_not_null(at, "%s isn't in part %d", old, part);
        memcpy(at, new, bytes);
    }
    f = fopen(path_of(folder, name, path), "wb");
    cr_assert_not_null(f, "%s", path);
    cr_assert_eq(fwrite(file, 1, n, f), n);
    cr_assert_eq(fclose(f), 0);
}

/* What the parts say together: as many tensors as the first one counts, none of them twice. */
Test(split, tensors_that_lack_or_are_there_twice)
{
#define COUNT "split.tensors.count\5\0\0\0"
    static const struct {
        int part; /* that is patched; 0: none */
        const char *old, *new;
        size_t bytes;
        kvw_err err;
        const char *words;
    } patches[] = {
        {0, "", "", 0, KVW_OK, ""}, /* a control */
        {1, COUNT "\x23", COUNT "\x24", sizeof(COUNT), KVW_E_FORMAT,
         "split.tensors.count is 36, the parts have 35"},
        {1, COUNT "\x23", COUNT "\x22", sizeof(COUNT), KVW_E_FORMAT,
         "split.tensors.count is 34, the parts have 35"},
        {2, "blk.1.attn_q.weight", "blk.0.attn_q.weight", 19, KVW_E_FORMAT,
         "tensor \"blk.0.attn_q.weight\" is in two parts"},
    };

    for (size_t i = 0; i < sizeof(patches) / sizeof(patches[0]); ++i) {
        char folder[] = "/tmp/kve-split-XXXXXX", path[512], name[40], why[KVE_WHY_BYTES] = "";
        struct kve_gguf *g = NULL;

        cr_assert_not_null(mkdtemp(folder));
        for (int part = 1; part <= PARTS; ++part)
            copy_part(folder, part, part == patches[i].part, patches[i].old, patches[i].new,
                      patches[i].bytes);
        cr_expect_eq(kve_gguf_open(&g, path_of(folder, "qwen3-00001-of-00003.gguf", path), why),
                     patches[i].err, "row %zu: %s", i, why);
        cr_expect(strstr(why, patches[i].words) != NULL, "row %zu: %s", i, why);
        kve_gguf_close(g);
        for (int part = 1; part <= PARTS; ++part) {
            snprintf(name, sizeof(name), "qwen3-%05d-of-00003.gguf", part);
            (void)unlink(path_of(folder, name, path));
        }
        (void)rmdir(folder);
    }
}
