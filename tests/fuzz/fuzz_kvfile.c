/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes taken for a file of K and V: it is refused with a sentence, or all of it is inside of
 * the file and of the pool. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../../engine/model/kvcache.h"
#include "../../engine/session/kvfile.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

#define PREFIX KVE_HEAD_BYTES

/* The digest of the head is made right, so that what lies behind it is reached, too. */
static void mend(uint8_t *copy, size_t n)
{
    char why[KVE_WHY_BYTES];
    struct kvw_digest d;
    struct kve_head h;

    if (n < PREFIX || kve_head_get(&h, copy, n, why) != KVW_OK ||
        kvw_digest_begin(&d, KVW_DIGEST_XXH3_64) != KVW_OK)
        return;
    kvw_digest_update(&d, copy, PREFIX - 8);
    kvw_digest_update(&d, copy + PREFIX, kve_head_bytes(&h) - PREFIX);
    const uint64_t value = kvw_digest_value(&d);
    for (int i = 0; i < 8; ++i)
        copy[PREFIX - 8 + i] = (uint8_t)(value >> 8 * i);
}

static void play(const char *path)
{
    static uint32_t tokens[4096];
    char why[KVE_WHY_BYTES];
    struct kve_kvfile *f;

    if (kve_kvfile_open(&f, path, why) != KVW_OK) {
        if (memchr(why, '\0', sizeof(why)) == NULL || why[0] == '\0')
            abort(); /* refused without a sentence */
        return;
    }
    const struct kve_head *h = kve_kvfile_head(f);
    struct kve_kvcache kv;
    uint32_t ids[64];
    if (h->tokens <= 4096)
        kve_kvfile_tokens(f, tokens);
    /* A pool of its own shape, if that is small: else of another one, and it is refused. */
    const bool small = h->layers <= 4 && h->kv_heads <= 4 && h->head_dim <= 64 && h->tokens <= 256;
    if (kve_kvcache_open(&kv, small ? h->layers : 1, small ? h->kv_heads : 1,
                         small ? h->head_dim : 1, 4, 64) != KVW_OK)
        abort();
    for (uint32_t i = 0; i < 64; ++i)
        ids[i] = i;
    const kvw_err err =
        h->tokens <= 256 ? kve_kvfile_read(f, &h->owner, &kv.pool, ids, why) : KVW_E_MISMATCH;
    if (err != KVW_OK && h->tokens <= 256 && why[0] == '\0')
        abort();
    kve_kvcache_close(&kv);
    kve_kvfile_close(f);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    static int fd = -1;
    static char path[64];
    uint8_t *copy = malloc(n == 0 ? 1 : n);

    if (copy == NULL)
        return 0;
    if (fd < 0) {
        fd = memfd_create("kvfile", 0);
        snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    }
    memcpy(copy, bytes, n);
    for (int round = 0; round < 2; ++round, mend(copy, n)) {
        if (ftruncate(fd, 0) != 0 || pwrite(fd, copy, n, 0) != (ssize_t)n)
            abort();
        play(path);
    }
    free(copy);
    return 0;
}
