/* SPDX-License-Identifier: Apache-2.0 */
/* A prompt's K and V saved by one worker and restored by another are not computed again, and the
 * answer is the one that a fresh worker gives; what isn't this prompt's, or is damaged, isn't used.
 * So it is with the prefix cache on disk, after a restart. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <glob.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "../../../engine/serve/clock.h"
#include "../../../engine/serve/control.h"
#include "../../../engine/serve/request.h"
#include "../../../engine/serve/worker.h"
#include "serve_model.h"

enum { PROMPT = 300, MORE = 320, ANSWER = 8 };

static char model[32], path[48], cache[48];
static uint64_t cache_bytes = 1ull << 30;
static struct kve_worker_config configs[3];
static pthread_t threads[3];
static struct kve_channel channels[3];
static uint32_t workers;

static void *worker_main(void *cfg)
{
    return (void *)(intptr_t)kve_worker_main(cfg);
}

static struct kve_channel *start(kve_worker_role role)
{
    int fds[2];

    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    configs[workers] = (struct kve_worker_config){.role = role,
                                                  .model_path = model,
                                                  .net = "loop",
                                                  .local = "test_session",
                                                  .control_fd = fds[1],
                                                  .threads = 1,
                                                  .open_timeout_ns = 20 * KVE_S,
                                                  .lease_ns = 20 * KVE_S,
                                                  .cache_dir = cache[0] != '\0' ? cache : NULL,
                                                  .cache_bytes = cache_bytes,
                                                  .quiet = true};
    kve_channel_init(&channels[workers], fds[0]);
    cr_assert_eq(pthread_create(&threads[workers], NULL, worker_main, &configs[workers]), 0);
    return &channels[workers++];
}

static void set_up(void)
{
    serve_model_write(model);
    snprintf(path, sizeof(path), "%s.kv", model);
}

static void tear_down(void)
{
    for (uint32_t i = 0; i < workers; ++i)
        kve_channel_close(&channels[i]);
    for (uint32_t i = 0; i < workers; ++i)
        pthread_join(threads[i], NULL);
    unlink(model);
    unlink(path);
    if (cache[0] != '\0') {
        char command[64];

        snprintf(command, sizeof(command), "rm -rf %s", cache);
        cr_assert_eq(system(command), 0);
    }
}

TestSuite(session, .init = set_up, .fini = tear_down, .timeout = 120);

/* The next event of that name; the caller's. */
static cJSON *event(struct kve_channel *c, const char *name)
{
    const uint64_t until = kve_now_ns() + 60 * KVE_S;

    for (;;) {
        kvw_err err;
        cJSON *obj = kve_channel_read(c, &err);

        if (obj != NULL && strcmp(kve_json_str(obj, "ev"), name) == 0)
            return obj;
        cJSON_Delete(obj);
        cr_assert(obj != NULL || err == KVW_E_AGAIN, "no %s comes any more", name);
        cr_assert_lt(kve_now_ns(), until, "no %s came", name);
        if (obj == NULL)
            poll(&(struct pollfd){.fd = c->fd, .events = POLLIN}, 1, 50);
    }
}

static uint64_t number(const cJSON *obj, const char *key)
{
    uint64_t v = UINT64_MAX;

    kve_json_u64(obj, key, 0, 1ull << 53, &v);
    return v;
}

/* Token i of a prompt; other ones from `until` on. */
static uint32_t token(uint32_t i, uint32_t until)
{
    return 4 + (i * 7 + i / 11 + (i >= until ? 3 : 0)) % 250;
}

static void send_tokens(struct kve_channel *c, const char *op, uint32_t count, uint32_t until)
{
    uint32_t ids[TINY_CONTEXT];
    const struct kve_request r = {.id = 7,
                                  .tokens = ids,
                                  .count = count,
                                  .max_tokens = ANSWER,
                                  .ignore_end = true,
                                  .reuse = true,
                                  .timeout_ns = 60 * KVE_S,
                                  .sample = {.top_p = 1}};

    for (uint32_t i = 0; i < count; ++i)
        ids[i] = token(i, until);
    cJSON *obj = kve_request_print(&r);
    if (strcmp(op, "generate") != 0) {
        cJSON_ReplaceItemInObject(obj, "op", cJSON_CreateString(op));
        cJSON_AddStringToObject(obj, "path", path);
    }
    cr_assert_eq(kve_channel_write(c, obj), KVW_OK);
}

/* The answer's ids; of the prompt, how many tokens weren't computed. */
static uint64_t answer(struct kve_channel *prefill, struct kve_channel *decode, uint32_t until,
                       uint32_t ids[ANSWER])
{
    if (decode != prefill)
        send_tokens(decode, "generate", MORE, until);
    send_tokens(prefill, "generate", MORE, until);
    cJSON *obj = event(prefill, "prefilled");
    const uint64_t cached = number(obj, "cached");
    cr_expect_str_eq(kve_json_str(obj, "text"), "");
    cJSON_Delete(obj);
    for (uint32_t i = 0; i < ANSWER; ++i) {
        obj = event(decode, "token");
        ids[i] = (uint32_t)number(obj, "token");
        cJSON_Delete(obj);
    }
    cJSON_Delete(event(decode, "finished"));
    return cached;
}

/* err of what is said about an op; its text to why, its tokens to *tokens. */
static int said(struct kve_channel *c, const char *name, char why[512], uint64_t *tokens)
{
    cJSON *obj = event(c, name);
    const int err = cJSON_GetObjectItemCaseSensitive(obj, "err")->valueint;

    snprintf(why, 512, "%s", kve_json_str(obj, "text"));
    *tokens = number(obj, "tokens");
    cJSON_Delete(obj);
    return err;
}

static int restore(struct kve_channel *c, char why[512], uint64_t *tokens)
{
    cJSON *obj = cJSON_CreateObject();

    cJSON_AddStringToObject(obj, "op", "restore");
    cJSON_AddStringToObject(obj, "path", path);
    cr_assert_eq(kve_channel_write(c, obj), KVW_OK);
    return said(c, "restored", why, tokens);
}

/* One worker answers a prompt of PROMPT tokens and saves it; it goes on to MORE. */
static uint64_t save_one(uint32_t ids[ANSWER], uint64_t *cached)
{
    struct kve_channel *c = start(KVE_WORKER_LOCAL);
    uint64_t tokens = 0;
    char why[512];

    send_tokens(c, "generate", PROMPT, TINY_CONTEXT);
    cJSON_Delete(event(c, "finished"));
    send_tokens(c, "save", PROMPT, TINY_CONTEXT);
    cr_assert_eq(said(c, "saved", why, &tokens), KVW_OK, "%s", why);
    *cached = answer(c, c, TINY_CONTEXT, ids);
    return tokens;
}

Test(session, fresh_cached_and_restored_answers_are_equal)
{
    uint32_t cached[ANSWER], fresh[ANSWER], restored[ANSWER], other[ANSWER];
    uint64_t tokens = 0, there;
    char why[512];
    const uint64_t saved = save_one(cached, &there);

    cr_expect(saved > PROMPT / 2 && saved <= PROMPT, "%llu tokens", (unsigned long long)saved);
    cr_expect_eq(there, saved, "what is in the file is what its worker had");
    struct kve_channel *c = start(KVE_WORKER_LOCAL);
    cr_expect_eq(answer(c, c, TINY_CONTEXT, fresh), 0, "a fresh worker computes all");
    cr_expect_eq(answer(c, c, 0, other), 0);
    c = start(KVE_WORKER_LOCAL);
    cr_assert_eq(restore(c, why, &tokens), KVW_OK, "%s", why);
    cr_expect_eq(tokens, saved);
    cr_expect_eq(answer(c, c, TINY_CONTEXT, restored), saved, "only new tokens are computed");
    cr_expect_arr_eq(cached, fresh, sizeof(fresh));
    cr_expect_arr_eq(restored, fresh, sizeof(fresh));
    cr_expect_arr_neq(other, fresh, sizeof(fresh), "control: another prompt, another answer");
}

/* Prefill computes the new tokens, and decode offers for them alone. */
Test(session, both_workers_of_a_pair_restore)
{
    uint32_t cached[ANSWER], restored[ANSWER];
    uint64_t tokens = 0, there;
    char why[512];
    const uint64_t saved = save_one(cached, &there);
    struct kve_channel *decode = start(KVE_WORKER_DECODE), *prefill = start(KVE_WORKER_PREFILL);

    for (bool up = false; !up;) {
        cJSON *obj = event(prefill, "link");

        up = strcmp(kve_json_str(obj, "state"), "up") == 0;
        cJSON_Delete(obj);
    }
    cr_assert_eq(restore(prefill, why, &tokens), KVW_OK, "%s", why);
    cr_assert_eq(restore(decode, why, &tokens), KVW_OK, "%s", why);
    cr_expect_eq(answer(prefill, decode, TINY_CONTEXT, restored), saved);
    cr_expect_arr_eq(restored, cached, sizeof(cached));
}

static void flip(off_t at)
{
    const int fd = open(path, O_RDWR);
    char byte;

    cr_assert_eq(pread(fd, &byte, 1, at), 1);
    byte ^= 4;
    cr_assert_eq(pwrite(fd, &byte, 1, at), 1);
    close(fd);
}

Test(session, of_a_damaged_file_and_for_another_prompt_nothing_is_used)
{
    uint32_t cached[ANSWER], ids[ANSWER];
    uint64_t tokens = 0, there;
    char why[512];

    save_one(cached, &there);
    struct kve_channel *c = start(KVE_WORKER_LOCAL);
    flip(9000); /* in the middle of the streams */
    cr_expect_neq(restore(c, why, &tokens), KVW_OK);
    cr_expect_eq(strncmp(why, path, strlen(path)), 0, "\"%s\"", why);
    cr_expect_eq(tokens, 0);
    cr_expect_eq(answer(c, c, TINY_CONTEXT, ids), 0, "all is computed");
    cr_expect_arr_eq(ids, cached, sizeof(ids), "and right");
    flip(9000);
    c = start(KVE_WORKER_LOCAL);
    cr_assert_eq(restore(c, why, &tokens), KVW_OK, "control: %s", why);
    cr_expect_eq(answer(c, c, 0, ids), 0, "another prompt");
    cr_expect_arr_neq(ids, cached, sizeof(ids));
}

/* What an op lacks, or has too much, is named, and the worker serves on. */
Test(session, a_bad_op_is_refused_by_its_field)
{
    static const struct {
        const char *op, *says;
    } ops[] = {
        {"{\"op\":\"save\",\"tokens\":[5]}", "path: missing"},
        {"{\"op\":\"save\",\"path\":\"/tmp/x\"}", "tokens: missing"},
        {"{\"op\":\"save\",\"path\":\"/tmp/x\",\"tokens\":[5]}",
         "nothing of the prompt's 1 tokens"},
        {"{\"op\":\"restore\",\"path\":\"/tmp/x\",\"to\":1}", "to: there is no such field"},
        {"{\"op\":\"restore\",\"path\":\"/nowhere\"}", "/nowhere: open: No such file"},
    };
    struct kve_channel *c = start(KVE_WORKER_LOCAL);
    uint64_t tokens;
    char why[512];

    for (size_t i = 0; i < sizeof(ops) / sizeof(ops[0]); ++i) {
        cJSON *obj = cJSON_Parse(ops[i].op);
        const char *name = strcmp(kve_json_str(obj, "op"), "save") == 0 ? "saved" : "restored";

        cr_assert_eq(kve_channel_write(c, obj), KVW_OK);
        cr_expect_neq(said(c, name, why, &tokens), KVW_OK);
        cr_expect_eq(strncmp(why, ops[i].says, strlen(ops[i].says)), 0, "\"%s\"", why);
    }
}

static glob_t pieces(void)
{
    char pattern[64];
    glob_t g;

    snprintf(pattern, sizeof(pattern), "%s/*", cache);
    if (glob(pattern, 0, NULL, &g) != 0)
        g = (glob_t){.gl_pathc = 0};
    return g;
}

/* A worker that has answered the prompt and ended, with a prefix cache on disk; returns how many
 * tokens of it the next request found in memory. */
static uint64_t before_restart(uint32_t ids[ANSWER])
{
    snprintf(cache, sizeof(cache), "%s.cache", model);
    struct kve_channel *c = start(KVE_WORKER_LOCAL);

    cr_expect_eq(answer(c, c, TINY_CONTEXT, ids), 0, "nothing is there");
    const uint64_t there = answer(c, c, TINY_CONTEXT, ids);
    kve_channel_close(c);
    pthread_join(threads[--workers], NULL);
    return there;
}

Test(session, after_a_restart_the_disk_has_what_memory_had)
{
    uint32_t before[ANSWER], after[ANSWER], other[ANSWER];
    const uint64_t there = before_restart(before);
    struct kve_channel *c = start(KVE_WORKER_LOCAL);

    cr_expect(there > MORE / 2, "%llu tokens", (unsigned long long)there);
    cr_expect_eq(answer(c, c, 0, other), 0, "control: not of another prompt");
    cr_expect_eq(answer(c, c, TINY_CONTEXT, after), there, "only the rest is computed");
    cr_expect_arr_eq(after, before, sizeof(after));
    cr_expect_arr_neq(other, before, sizeof(other));
}

/* A damaged piece is computed again, and what lies behind it isn't looked for. */
Test(session, a_damaged_piece_on_disk_is_computed)
{
    uint32_t before[ANSWER], after[ANSWER];
    glob_t g;

    before_restart(before);
    g = pieces();

    cr_assert_gt(g.gl_pathc, 1);
    for (size_t i = 0; i < g.gl_pathc; ++i) {
        const int fd = open(g.gl_pathv[i], O_WRONLY);

        cr_assert_eq(pwrite(fd, "damage", 6, 6000), 6);
        close(fd);
    }
    globfree(&g);
    struct kve_channel *c = start(KVE_WORKER_LOCAL);
    cr_expect_eq(answer(c, c, TINY_CONTEXT, after), 0);
    cr_expect_arr_eq(after, before, sizeof(after));
    kve_channel_close(c);
    pthread_join(threads[--workers], NULL);
    c = start(KVE_WORKER_LOCAL);
    cr_expect_gt(answer(c, c, TINY_CONTEXT, after), 0, "the first was written anew");
    cr_expect_arr_eq(after, before, sizeof(after));
}

Test(session, the_folder_stays_within_its_size)
{
    uint32_t ids[ANSWER];
    uint64_t bytes = 0;

    before_restart(ids);
    glob_t g = pieces();
    const size_t all = g.gl_pathc;
    globfree(&g);
    cache_bytes = 50000;
    struct kve_channel *c = start(KVE_WORKER_LOCAL);
    answer(c, c, 0, ids);
    kve_channel_close(c);
    pthread_join(threads[--workers], NULL);
    g = pieces();
    for (size_t i = 0; i < g.gl_pathc; ++i) {
        struct stat st;

        cr_assert_eq(stat(g.gl_pathv[i], &st), 0);
        bytes += (uint64_t)st.st_size;
    }
    cr_expect(g.gl_pathc > 0 && g.gl_pathc < 2 * all, "%zu of %zu pieces", g.gl_pathc, 2 * all);
    cr_expect_leq(bytes, cache_bytes);
    globfree(&g);
}

/* No folder can be there: a sentence, and it serves. */
Test(session, without_its_folder_a_worker_serves)
{
    uint32_t ids[ANSWER];

    snprintf(cache, sizeof(cache), "/proc/nowhere");
    struct kve_channel *c = start(KVE_WORKER_LOCAL);
    cr_expect_eq(answer(c, c, TINY_CONTEXT, ids), 0);
    cache[0] = '\0';
}
