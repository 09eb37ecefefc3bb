/* SPDX-License-Identifier: Apache-2.0 */
/* Threads by the table of job.h: a chunk encoded and decoded by them is what it was; a damaged
 * stream is its job's error; a full queue takes no more; drop() gives back what hasn't begun. */
#include <criterion/criterion.h>
#include <string.h>
#include <time.h>

#include "../../../compress/compress.h"
#include "../../../kvwire/kv/encode.h"

enum { TOKENS = 600, HEADS = 4, HEAD_BYTES = 128, RAW = TOKENS * HEADS * HEAD_BYTES, JOBS = 6 };

static unsigned char from[RAW] __attribute__((aligned(64))), back[RAW] __attribute__((aligned(64))),
    streams[JOBS][RAW + 4096] __attribute__((aligned(64)));
static const uint32_t blocks[1] = {0};

static struct kvw_view view_of(void *base)
{
    return (struct kvw_view){.base = base,
                             .blocks = blocks,
                             .block_tokens = TOKENS,
                             .tokens = TOKENS,
                             .heads = HEADS,
                             .head_bytes = HEAD_BYTES,
                             .dtype = KVW_DTYPE_BF16,
                             .token_stride = HEADS * HEAD_BYTES,
                             .head_stride = HEAD_BYTES};
}

static struct kvw_job encode_job(const struct kvw_codec_ops *codec, void *to)
{
    return (struct kvw_job){.codec = codec,
                            .view = view_of(from),
                            .to = to,
                            .to_bytes = sizeof(streams[0]),
                            .digest = KVW_DIGEST_LANES};
}

static struct kvw_jobs *begin(uint32_t threads, uint32_t queue)
{
    static const struct kvw_clock none;
    struct kvw_encoders *e = NULL;

    for (uint32_t i = 0; i < RAW; ++i)
        from[i] = (unsigned char)(i % 2 == 1 ? 0x3f : i * 2654435761u >> 24);
    cr_assert_eq(
        kvw_encoders_open(&e, threads, queue, kvc_codec_l0.scratch_bytes(RAW), &none, NULL, NULL),
        KVW_OK);
    return kvw_encoders_jobs(e);
}

static void wait_for(struct kvw_jobs *q, struct kvw_job *j)
{
    const struct timespec pause = {.tv_nsec = 1000000};

    for (unsigned n = 0; !q->ops->done(q, j); ++n) {
        cr_assert_lt(n, 30000, "a job isn't done after 30 s");
        nanosleep(&pause, NULL);
    }
}

Test(jobs, there_and_back)
{
    struct kvw_jobs *q = begin(2, JOBS);
    struct kvw_job jobs[JOBS], decode;

    for (uint32_t i = 0; i < JOBS; ++i) {
        jobs[i] = encode_job(i % 2 == 0 ? &kvc_codec_l0 : &kvc_codec_raw, streams[i]);
        cr_assert_eq(q->ops->submit(q, &jobs[i]), KVW_OK);
    }
    q->ops->flush(q);
    for (uint32_t i = 0; i < JOBS; ++i) {
        wait_for(q, &jobs[i]);
        cr_expect_eq(jobs[i].err, KVW_OK);
        cr_expect(i % 2 == 0 ? jobs[i].stream_bytes < RAW : jobs[i].stream_bytes == RAW);
        memset(back, 0, sizeof(back));
        decode = (struct kvw_job){.codec = jobs[i].codec,
                                  .view = view_of(back),
                                  .kind = KVW_JOB_DECODE,
                                  .from = streams[i],
                                  .stream_bytes = jobs[i].stream_bytes,
                                  .digest = KVW_DIGEST_LANES};
        cr_assert_eq(q->ops->submit(q, &decode), KVW_OK);
        q->ops->flush(q);
        wait_for(q, &decode);
        cr_expect_eq(decode.err, KVW_OK);
        cr_expect_eq(decode.digest_value, jobs[i].digest_value);
        cr_expect_eq(memcmp(from, back, RAW), 0);
    }
    decode.stream_bytes -= 1;
    cr_assert_eq(q->ops->submit(q, &decode), KVW_OK);
    wait_for(q, &decode);
    cr_expect_eq(decode.err, KVW_E_CODEC, "a stream that is cut");
    cr_expect_null(q->ops->after, "threads have no streams");
    q->ops->close(q);
}

/* A codec that waits until it is told to go on. */
static _Atomic bool go;

static kvw_err wait_decode(const void *src, uint64_t src_bytes, const struct kvw_codec_book *book,
                           const struct kvw_view *dst, struct kvw_digest *digest, void *scratch)
{
    const struct timespec pause = {.tv_nsec = 1000000};

    while (!go)
        nanosleep(&pause, NULL);
    return kvc_codec_raw.decode(src, src_bytes, book, dst, digest, scratch);
}

Test(jobs, full_and_dropped)
{
    const struct timespec pause = {.tv_nsec = 1000000};
    struct kvw_codec_ops waits = kvc_codec_raw;
    struct kvw_jobs *q = begin(1, 2);
    struct kvw_job jobs[4];

    waits.decode = wait_decode;
    for (uint32_t i = 0; i < 4; ++i)
        jobs[i] = (struct kvw_job){.codec = &waits,
                                   .view = view_of(streams[i]),
                                   .kind = KVW_JOB_DECODE,
                                   .from = from,
                                   .stream_bytes = RAW,
                                   .digest = KVW_DIGEST_LANES};
    cr_assert_eq(q->ops->submit(q, &jobs[0]), KVW_OK);
    while (kvw_job_state_of(&jobs[0]) != KVW_JOB_RUNNING)
        nanosleep(&pause, NULL);
    cr_assert_eq(q->ops->submit(q, &jobs[1]), KVW_OK);
    cr_assert_eq(q->ops->submit(q, &jobs[2]), KVW_OK);
    cr_expect_eq(q->ops->submit(q, &jobs[3]), KVW_E_AGAIN);
    cr_expect(!q->ops->done(q, &jobs[0]));
    q->ops->drop(q, &jobs[1]);
    cr_expect_eq(kvw_job_state_of(&jobs[1]), KVW_JOB_IDLE);
    go = true;
    wait_for(q, &jobs[2]);
    cr_expect(q->ops->done(q, &jobs[0]), "jobs begin in order");
    cr_expect_eq(memcmp(streams[2], from, RAW), 0);
    cr_expect_neq(memcmp(streams[1], from, RAW), 0, "what was dropped wrote nothing");
    q->ops->close(q);
}
