/* SPDX-License-Identifier: Apache-2.0 */
/* kvfile.c - reads and writes files of K and V, chunk by chunk through the codecs. */
#include "kvfile.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../../compress/compress.h"
#include "../../kvwire/kv/dense.h"

#define CHUNK_BYTES (256u << 10) /* raw, about */
#define PATH_SAID   140          /* bytes of a path that a sentence repeats, at most */

struct kve_kvfile {
    int fd;
    const char *path; /* a copy */
    struct kve_head head;
    uint8_t *all; /* kve_head_bytes() */
};

/* Puts the path in front of the sentence that is there, or makes one of errno's. */
static kvw_err said(const char *path, kvw_err err, char *why)
{
    char text[KVE_WHY_BYTES];

    snprintf(text, sizeof(text), "%.*s: %.160s", PATH_SAID, path,
             why[0] != '\0' ? why : kvw_strerror(err));
    memcpy(why, text, sizeof(text));
    return err;
}

static kvw_err failed(const char *what, char *why)
{
    const int number = errno;

    snprintf(why, KVE_WHY_BYTES, "%s: %s", what, strerror(number));
    return number == ENOENT ? KVW_E_NOTFOUND : KVW_E_IO;
}

/* Room for one chunk on its way. */
struct room {
    uint8_t *stream, *scratch;
    uint64_t stream_bytes;
};

static void *aligned(uint64_t bytes)
{
    return aligned_alloc(64, (bytes / 64 + 1) * 64);
}

static void free_room(struct room *r)
{
    free(r->stream);
    free(r->scratch);
}

static kvw_err make_room(struct room *r, uint64_t stream_bytes, uint64_t scratch_bytes)
{
    *r = (struct room){.stream = aligned(stream_bytes),
                       .scratch = aligned(scratch_bytes),
                       .stream_bytes = stream_bytes};
    if (r->stream != NULL && r->scratch != NULL)
        return KVW_OK;
    free_room(r);
    return KVW_E_NOMEM;
}

static struct kvw_view view_of(const struct kvw_pool *pool, const uint32_t *blocks,
                               const struct kve_head_place *p)
{
    return kvw_pool_view(pool, blocks, p->layer, p->kv, p->first, p->tokens);
}

static bool takes(const struct kvw_codec_ops *c, kvw_dtype dtype)
{
    return (c->mem_kinds & 1u << KVW_MEM_HOST) != 0 && (c->dtypes & 1u << dtype) != 0;
}

/* ---- to a file ---- */

/* Of those that may do it, one that may do the most; of these the best. */
static const struct kvw_codec_ops *codec_for(const struct kve_kvpart *part)
{
    const struct kvw_codec_ops *best = &kvc_codec_raw;

    for (uint32_t i = 0; kvc_codecs[i] != NULL; ++i) {
        const struct kvw_codec_ops *c = kvc_codecs[i];

        if (!c->by_name_only && takes(c, part->pool->dtype) && c->budget <= part->budget &&
            (best == &kvc_codec_raw || c->budget > best->budget))
            best = c;
    }
    return best;
}

static kvw_err write_at(int fd, const uint8_t *bytes, uint64_t n, uint64_t at, char *why)
{
    while (n > 0) {
        const ssize_t wrote = pwrite(fd, bytes, n, (off_t)at);

        if (wrote < 0 && errno == EINTR)
            continue;
        if (wrote <= 0)
            return failed("write", why);
        bytes += wrote;
        at += (uint64_t)wrote;
        n -= (uint64_t)wrote;
    }
    return KVW_OK;
}

static struct kve_head head_of(const struct kve_kvpart *part)
{
    const struct kvw_pool *p = part->pool;
    const uint64_t token = (uint64_t)p->kv_heads * p->head_dim * kvw_dtype_bytes(p->dtype);
    struct kve_head h = {
        .owner = *part->owner,
        .layers = p->layers,
        .kv_heads = p->kv_heads,
        .head_dim = p->head_dim,
        .dtype = (uint32_t)p->dtype,
        .tokens = part->count,
        .first = part->first,
        .chunk_tokens = (uint32_t)(token < CHUNK_BYTES ? CHUNK_BYTES / token : 1),
        .budget = (uint32_t)part->budget,
    };

    h.chunks = 2 * h.layers * kve_head_layer_chunks(&h);
    return h;
}

/* How many of a place's tokens are among the first n, and among the last n, of the sequence. */
static struct kvw_codec_args args_of(const struct kve_kvpart *part, const struct kve_head_place *p)
{
    const uint32_t end = p->first + p->tokens;
    const uint32_t last_from = part->count > part->exact_last ? part->count - part->exact_last : 0;
    const uint32_t firsts = part->exact_first < end ? part->exact_first : end;
    const uint32_t lasts = last_from > p->first ? last_from : p->first;

    return (struct kvw_codec_args){
        .kv = (uint8_t)p->kv,
        .exact_first = firsts > p->first ? firsts - p->first : 0,
        .exact_last = end > lasts ? end - lasts : 0,
    };
}

/* Chunk by chunk behind the head; *at is where the file ends. */
static kvw_err write_chunks(int fd, const struct kve_kvpart *part, const struct kve_head *h,
                            struct kve_head_chunk *chunks, uint64_t *at, char *why)
{
    const struct kvw_codec_ops *codec = codec_for(part);
    struct kve_head_place place = kve_head_place(h, 0);
    struct kvw_view v = view_of(part->pool, part->blocks, &place);
    struct room room;
    const uint64_t most = codec->bound(kvw_view_bytes(&v));
    kvw_err err = make_room(&room, kve_head_padded(most), codec->scratch_bytes(kvw_view_bytes(&v)));

    if (err != KVW_OK)
        return err;
    *at = kve_head_bytes(h);
    for (uint32_t i = 0; i < h->chunks && err == KVW_OK; ++i) {
        struct kvw_digest digest;
        uint64_t bytes = 0;

        place = kve_head_place(h, i);
        v = view_of(part->pool, part->blocks, &place);
        const struct kvw_codec_args args = args_of(part, &place);
        err = kvw_digest_begin_chunk(&digest, KVW_DIGEST_LANES, &v);
        if (err == KVW_OK)
            err = codec->encode(&v, &args, room.stream, most, &bytes, &digest, room.scratch);
        if (err != KVW_OK)
            break;
        memset(room.stream + bytes, 0, kve_head_padded(bytes) - bytes);
        chunks[i] = (struct kve_head_chunk){
            .digest = kvw_digest_value(&digest), .bytes = (uint32_t)bytes, .codec = codec->id};
        err = write_at(fd, room.stream, kve_head_padded(bytes), *at, why);
        *at += kve_head_padded(bytes);
    }
    free_room(&room);
    return err;
}

static kvw_err write_all(int fd, const struct kve_kvpart *part, struct kve_kvsaved *saved,
                         char *why)
{
    struct kve_head h = head_of(part);
    struct kve_head_chunk *chunks = calloc(h.chunks, sizeof(*chunks));
    uint8_t *head = malloc(kve_head_bytes(&h));
    kvw_err err = chunks != NULL && head != NULL ? KVW_OK : KVW_E_NOMEM;

    if (err == KVW_OK)
        err = write_chunks(fd, part, &h, chunks, &h.file_bytes, why);
    if (err == KVW_OK) {
        kve_head_put(&h, part->tokens, chunks, head);
        err = write_at(fd, head, kve_head_bytes(&h), 0, why);
    }
    if (err == KVW_OK && part->durable && fsync(fd) != 0)
        err = failed("fsync", why);
    saved->file_bytes = h.file_bytes;
    saved->raw_bytes = 2ull * h.layers * (h.tokens - h.first) * h.kv_heads * h.head_dim *
                       kvw_dtype_bytes(part->pool->dtype);
    free(chunks);
    free(head);
    return err;
}

/* That the name is in the folder is on the disk, too. */
static kvw_err sync_folder(const char *path, char *why)
{
    const char *slash = strrchr(path, '/');
    char *folder = slash != NULL ? strndup(path, (size_t)(slash - path) + 1) : strdup(".");
    const int fd = folder != NULL ? open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    kvw_err err = KVW_OK;

    if (fd < 0 || fsync(fd) != 0)
        err = failed("fsync of the folder", why);
    if (fd >= 0)
        close(fd);
    free(folder);
    return err;
}

kvw_err kve_kvfile_save(const char *path, const struct kve_kvpart *part, struct kve_kvsaved *saved,
                        char why[KVE_WHY_BYTES])
{
    const size_t bytes = strlen(path) + 8;
    char *temp = malloc(bytes);
    kvw_err err;
    int fd;

    why[0] = '\0';
    if (temp == NULL)
        return said(path, KVW_E_NOMEM, why);
    if (part->pool->mem.kind != KVW_MEM_HOST) {
        free(temp);
        snprintf(why, KVE_WHY_BYTES, "K and V lie in a GPU's memory; only a CPU's are saved");
        return said(path, KVW_E_UNSUPPORTED, why);
    }
    snprintf(temp, bytes, "%s.XXXXXX", path);
    fd = mkostemp(temp, O_CLOEXEC);
    err = fd >= 0 ? write_all(fd, part, saved, why) : failed("create", why);
    if (fd >= 0 && close(fd) != 0 && err == KVW_OK)
        err = failed("close", why);
    if (err == KVW_OK && rename(temp, path) != 0)
        err = failed("rename", why);
    if (err != KVW_OK && fd >= 0)
        unlink(temp);
    free(temp);
    if (err == KVW_OK && part->durable)
        err = sync_folder(path, why);
    return err == KVW_OK ? KVW_OK : said(path, err, why);
}

/* ---- and back ---- */

static kvw_err read_at(int fd, uint8_t *bytes, uint64_t n, uint64_t at, char *why)
{
    while (n > 0) {
        const ssize_t got = pread(fd, bytes, n, (off_t)at);

        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return failed("read", why);
        if (got == 0) {
            snprintf(why, KVE_WHY_BYTES, "it ends at byte %" PRIu64 ", in the middle", at);
            return KVW_E_FORMAT;
        }
        bytes += got;
        at += (uint64_t)got;
        n -= (uint64_t)got;
    }
    return KVW_OK;
}

static kvw_err open_head(struct kve_kvfile *f, char *why)
{
    uint8_t fixed[KVE_HEAD_BYTES] = {0};
    struct stat st;
    kvw_err err;

    f->fd = open(f->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO would hold us up */
    if (f->fd < 0 || fstat(f->fd, &st) != 0)
        return failed("open", why);
    if (!S_ISREG(st.st_mode)) {
        snprintf(why, KVE_WHY_BYTES, "it is no regular file");
        return KVW_E_FORMAT;
    }
    const uint64_t bytes = (uint64_t)st.st_size;
    err = read_at(f->fd, fixed, bytes < sizeof(fixed) ? bytes : sizeof(fixed), 0, why);
    if (err == KVW_OK)
        err = kve_head_get(&f->head, fixed, bytes, why);
    if (err == KVW_OK && (f->all = malloc(kve_head_bytes(&f->head))) == NULL)
        err = KVW_E_NOMEM;
    if (err == KVW_OK)
        err = read_at(f->fd, f->all, kve_head_bytes(&f->head), 0, why);
    if (err == KVW_OK && memcmp(f->all, fixed, sizeof(fixed)) != 0) {
        snprintf(why, KVE_WHY_BYTES, "it changed while it was read");
        err = KVW_E_FORMAT;
    }
    return err == KVW_OK ? kve_head_check(&f->head, f->all, why) : err;
}

kvw_err kve_kvfile_open(struct kve_kvfile **to, const char *path, char why[KVE_WHY_BYTES])
{
    struct kve_kvfile *f = calloc(1, sizeof(*f));
    kvw_err err = KVW_E_NOMEM;

    why[0] = '\0';
    if (f != NULL) {
        f->fd = -1;
        f->path = strdup(path);
    }
    if (f != NULL && f->path != NULL)
        err = open_head(f, why);
    if (err != KVW_OK) {
        kve_kvfile_close(f);
        return said(path, err, why);
    }
    *to = f;
    return KVW_OK;
}

void kve_kvfile_close(struct kve_kvfile *f)
{
    if (f == NULL)
        return;
    if (f->fd >= 0)
        close(f->fd);
    free((void *)(uintptr_t)f->path);
    free(f->all);
    free(f);
}

const struct kve_head *kve_kvfile_head(const struct kve_kvfile *f)
{
    return &f->head;
}

uint32_t kve_kvfile_common(const struct kve_kvfile *f, const uint32_t *tokens, uint32_t count)
{
    uint32_t n = 0;

    while (n < count && n < f->head.tokens && kve_head_token(f->all, n) == tokens[n])
        ++n;
    return n;
}

void kve_kvfile_tokens(const struct kve_kvfile *f, uint32_t *to)
{
    for (uint32_t i = 0; i < f->head.tokens; ++i)
        to[i] = kve_head_token(f->all, i);
}

static const struct kvw_codec_ops *codec_of(uint8_t id)
{
    for (uint32_t i = 0; kvc_codecs[i] != NULL; ++i)
        if (kvc_codecs[i]->id == id)
            return kvc_codecs[i];
    return NULL;
}

/* Can chunk i be read with this codec? */
static kvw_err check_chunk(const struct kve_kvfile *f, uint32_t i, const struct kvw_view *v,
                           char *why)
{
    const struct kve_head_chunk c = kve_head_chunk(&f->head, f->all, i);
    const struct kvw_codec_ops *ops = codec_of(c.codec);

    if (ops == NULL || !takes(ops, v->dtype)) {
        snprintf(why, KVE_WHY_BYTES, "chunk %" PRIu32 ", codec: %u is none of this program's", i,
                 c.codec);
        return KVW_E_CODEC;
    }
    if (ops->budget > f->head.budget) {
        snprintf(why, KVE_WHY_BYTES,
                 "chunk %" PRIu32 ", codec: %s changes values, the file's budget is %" PRIu32, i,
                 ops->name, f->head.budget);
        return KVW_E_CODEC;
    }
    if (c.bytes > ops->bound(kvw_view_bytes(v))) {
        snprintf(why, KVE_WHY_BYTES,
                 "chunk %" PRIu32 ", bytes: %" PRIu32 " is more than %s makes of %" PRIu64, i,
                 c.bytes, ops->name, kvw_view_bytes(v));
        return KVW_E_CODEC;
    }
    return KVW_OK;
}

/* Chunk i, whose padded stream is in the room, to the blocks. */
static kvw_err decode_chunk(const struct kve_kvfile *f, uint32_t i, const struct kvw_view *v,
                            const struct room *room, char *why)
{
    const struct kve_head_chunk c = kve_head_chunk(&f->head, f->all, i);
    struct kvw_digest digest;
    kvw_err err = kvw_digest_begin_chunk(&digest, KVW_DIGEST_LANES, v);

    for (uint64_t at = c.bytes; at < kve_head_padded(c.bytes); ++at)
        if (room->stream[at] != 0)
            err = KVW_E_CODEC;
    if (err == KVW_OK)
        err = codec_of(c.codec)->decode(room->stream, c.bytes, NULL, v, &digest, room->scratch);
    if (err != KVW_OK) {
        snprintf(why, KVE_WHY_BYTES, "chunk %" PRIu32 " of %" PRIu32 ": its stream is damaged", i,
                 f->head.chunks);
        return KVW_E_CODEC;
    }
    if (kvw_digest_value(&digest) == c.digest)
        return KVW_OK;
    snprintf(why, KVE_WHY_BYTES,
             "chunk %" PRIu32 " of %" PRIu32 ", digest: %016" PRIx64 ", and its values make "
             "%016" PRIx64,
             i, f->head.chunks, c.digest, kvw_digest_value(&digest));
    return KVW_E_CHECKSUM;
}

static kvw_err read_chunk(const struct kve_kvfile *f, uint32_t i, const struct kvw_view *v,
                          uint64_t at, char *why)
{
    const struct kve_head_chunk c = kve_head_chunk(&f->head, f->all, i);
    struct room room;
    kvw_err err = check_chunk(f, i, v, why);

    if (err == KVW_OK)
        err = make_room(&room, kve_head_padded(c.bytes),
                        codec_of(c.codec)->scratch_bytes(kvw_view_bytes(v)));
    if (err != KVW_OK)
        return err;
    err = read_at(f->fd, room.stream, kve_head_padded(c.bytes), at, why);
    if (err == KVW_OK)
        err = decode_chunk(f, i, v, &room, why);
    free_room(&room);
    return err;
}

kvw_err kve_kvfile_read(struct kve_kvfile *f, const struct kve_owner *owner,
                        const struct kvw_pool *pool, const uint32_t *blocks,
                        char why[KVE_WHY_BYTES])
{
    uint64_t at = kve_head_bytes(&f->head);
    kvw_err err;

    why[0] = '\0';
    err = kve_head_fits(&f->head, owner, pool, why);
    if (err == KVW_OK && pool->mem.kind != KVW_MEM_HOST) {
        snprintf(why, KVE_WHY_BYTES, "K and V lie in a GPU's memory; only a CPU's are restored");
        err = KVW_E_UNSUPPORTED;
    }
    for (uint32_t i = 0; i < f->head.chunks && err == KVW_OK; ++i) {
        const struct kve_head_place place = kve_head_place(&f->head, i);
        const struct kvw_view v = view_of(pool, blocks, &place);

        err = read_chunk(f, i, &v, at, why);
        at += kve_head_padded(kve_head_chunk(&f->head, f->all, i).bytes);
    }
    return err == KVW_OK ? KVW_OK : said(f->path, err, why);
}
