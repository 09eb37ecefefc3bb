/* SPDX-License-Identifier: Apache-2.0 */
/* A worker answers each request over its control channel, gives every block back however it ends,
 * says what it refuses and for whom, and holds still while its router doesn't read. */
#include <criterion/criterion.h>
#include <poll.h>
#include <pthread.h>
#include <sys/prctl.h>
#include <sys/socket.h>

#include "../../../engine/serve/clock.h"
#include "../../../engine/serve/control.h"
#include "../../../engine/serve/request.h"
#include "../../../engine/serve/worker.h"
#include "serve_model.h"

enum {
    BLOCKS = 38, /* of 16 tokens: the whole pool. An answer that fills it can't come to its end
                    before the test reads more than one event: a channel reads some 330 at once,
                    and the worker's socket holds a few */
    POOL_TOKENS = BLOCKS * 16,
};

static char model[32];
static struct kve_worker_config configs[2];
static pthread_t threads[2];
static struct kve_channel channels[2]; /* the router's ends */
static uint32_t workers;

static void *worker_main(void *cfg)
{
    return (void *)(intptr_t)kve_worker_main(cfg);
}

static void start(kve_worker_role role, uint32_t kv_tokens)
{
    int fds[2], small = 1;

    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    setsockopt(fds[1], SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
    configs[workers] = (struct kve_worker_config){.role = role,
                                                  .model_path = model,
                                                  .net = "loop",
                                                  .local = "test_worker",
                                                  .control_fd = fds[1],
                                                  .threads = 1,
                                                  .kv_tokens = kv_tokens,
                                                  .open_timeout_ns = 20 * KVE_S,
                                                  .lease_ns = 20 * KVE_S,
                                                  .quiet = true};
    kve_channel_init(&channels[workers], fds[0]);
    cr_assert_eq(pthread_create(&threads[workers], NULL, worker_main, &configs[workers]), 0);
    ++workers;
}

static void write_model(void)
{
    serve_model_write(model);
}

static void stop(void)
{
    for (uint32_t i = 0; i < workers; ++i)
        kve_channel_close(&channels[i]);
    for (uint32_t i = 0; i < workers; ++i)
        pthread_join(threads[i], NULL);
    unlink(model);
}

TestSuite(worker, .init = write_model, .fini = stop, .timeout = 120);

/* The next event of that name (NULL: any), within 20 s; the caller's. NULL: the channel ended. */
static cJSON *event(struct kve_channel *c, const char *name)
{
    const uint64_t until = kve_now_ns() + 20 * KVE_S;
    kvw_err err;

    for (;;) {
        cJSON *obj = kve_channel_read(c, &err);

        if (obj != NULL) {
            if (name == NULL || strcmp(kve_json_str(obj, "ev"), name) == 0)
                return obj;
            cJSON_Delete(obj);
            continue;
        }
        if (err != KVW_E_AGAIN)
            return NULL;
        cr_assert_lt(kve_now_ns(), until, "no %s came", name != NULL ? name : "event");
        poll(&(struct pollfd){.fd = c->fd, .events = POLLIN}, 1, 50);
    }
}

static int err_of(const cJSON *obj)
{
    const cJSON *err = cJSON_GetObjectItemCaseSensitive(obj, "err");

    return cJSON_IsNumber(err) ? err->valueint : 1;
}

static uint64_t id_of(const cJSON *obj)
{
    uint64_t id = 0;

    return kve_json_u64(obj, "id", 1, 1ull << 52, &id) ? id : 0;
}

static void wait_up(struct kve_channel *c)
{
    for (;;) {
        cJSON *obj = event(c, "link");

        cr_assert_not_null(obj);
        const bool up = strcmp(kve_json_str(obj, "state"), "up") == 0;
        cJSON_Delete(obj);
        if (up)
            return;
    }
}

static void generate_part(struct kve_channel *c, uint64_t id, enum kve_request_part part,
                          uint32_t tokens, uint32_t max_tokens, uint64_t timeout_ms)
{
    uint32_t ids[TINY_CONTEXT];
    const struct kve_request r = {.id = id,
                                  .part = part,
                                  .tokens = ids,
                                  .count = tokens,
                                  .max_tokens = max_tokens,
                                  .ignore_end = true,
                                  .timeout_ns = timeout_ms * KVE_MS,
                                  .sample = {.top_p = 1}};

    for (uint32_t i = 0; i < tokens; ++i)
        ids[i] = 4 + i % 256;
    cr_assert_eq(kve_channel_write(c, kve_request_print(&r)), KVW_OK);
}

static void generate(struct kve_channel *c, uint64_t id, uint32_t tokens, uint32_t max_tokens,
                     uint64_t timeout_ms)
{
    generate_part(c, id, KVE_PART_ROLE, tokens, max_tokens, timeout_ms);
}

/* tokens of which the first `common` are the same in every call. */
static void generate_reusing(struct kve_channel *c, uint64_t id, uint32_t tokens, uint32_t common,
                             bool reuse)
{
    uint32_t ids[TINY_CONTEXT];
    const struct kve_request r = {.id = id,
                                  .tokens = ids,
                                  .count = tokens,
                                  .max_tokens = 12,
                                  .ignore_end = true,
                                  .reuse = reuse,
                                  .timeout_ns = 60000 * KVE_MS,
                                  .sample = {.top_p = 1}};

    for (uint32_t i = 0; i < tokens; ++i)
        ids[i] = 4 + (i * 7 + (i >= common) * tokens) % 200;
    cr_assert_eq(kve_channel_write(c, kve_request_print(&r)), KVW_OK);
}

static void op(struct kve_channel *c, const char *name, uint64_t id)
{
    cJSON *obj = cJSON_CreateObject();

    cJSON_AddStringToObject(obj, "op", name);
    cJSON_AddNumberToObject(obj, "id", (double)id);
    cr_assert_eq(kve_channel_write(c, obj), KVW_OK);
}

/* The last word on a request; its err. */
static int ended(struct kve_channel *c, const char *name, uint64_t id, char *text)
{
    for (;;) {
        cJSON *obj = event(c, name);

        cr_assert_not_null(obj, "the worker hung up");
        const bool ours = id_of(obj) == id;
        const int err = err_of(obj);
        if (ours && text != NULL)
            snprintf(text, 200, "%s", kve_json_str(obj, "text"));
        cJSON_Delete(obj);
        if (ours)
            return err;
    }
}

Test(worker, one_process_answers_and_fills_the_context_exactly)
{
    start(KVE_WORKER_LOCAL, 0);
    struct kve_channel *c = &channels[0];

    generate(c, 5, TINY_CONTEXT - 40, 40, 60000);
    cr_expect_eq(ended(c, "prefilled", 5, NULL), 0);
    for (int i = 0; i < 40; ++i) {
        cJSON *obj = event(c, NULL);
        cr_expect_str_eq(kve_json_str(obj, "ev"), "token");
        cJSON_Delete(obj);
    }
    cr_expect_eq(ended(c, "finished", 5, NULL), 0);
}

/* Every end of a request leaves the pool whole: the next one that needs all of it is served. */
static void whole_pool_is_free(void)
{
    const uint32_t last = workers - 1;
    char text[200] = "";

    for (uint32_t i = 0; i < workers; ++i)
        generate(&channels[i], 99, POOL_TOKENS - 8, 8, 60000);
    cr_expect_eq(ended(&channels[0], "finished", 99, text), 0, "%s", text);
    if (last > 0)
        cr_expect_eq(ended(&channels[last], "prefilled", 99, text), 0, "%s", text);
}

Test(worker, a_local_request_that_is_canceled_gives_its_blocks_back)
{
    start(KVE_WORKER_LOCAL, POOL_TOKENS);
    for (uint64_t id = 1; id <= 3; ++id) {
        generate(&channels[0], id, 20, POOL_TOKENS - 20, 60000);
        cJSON_Delete(event(&channels[0], "token"));
        op(&channels[0], "cancel", id);
        cr_expect_eq(ended(&channels[0], "finished", id, NULL), KVW_E_CANCELED);
    }
    whole_pool_is_free();
}

static void start_pair(uint32_t decode_tokens, uint32_t prefill_tokens)
{
    start(KVE_WORKER_DECODE, decode_tokens);
    start(KVE_WORKER_PREFILL, prefill_tokens);
    wait_up(&channels[0]);
    wait_up(&channels[1]);
}

Test(worker, a_pair_gives_its_blocks_back_when_a_request_is_canceled)
{
    start_pair(POOL_TOKENS, POOL_TOKENS);
    for (uint64_t id = 1; id <= 3; ++id) { /* while it writes the answer */
        generate(&channels[0], id, 20, POOL_TOKENS - 20, 60000);
        generate(&channels[1], id, 20, POOL_TOKENS - 20, 60000);
        cJSON_Delete(event(&channels[0], "token"));
        op(&channels[0], "cancel", id);
        cr_expect_eq(ended(&channels[0], "finished", id, NULL), KVW_E_CANCELED);
        cr_expect_eq(ended(&channels[1], "prefilled", id, NULL), 0);
    }
    for (uint64_t id = 4; id <= 6; ++id) { /* while it waits for the KV */
        generate(&channels[0], id, 20, POOL_TOKENS - 20, 60000);
        op(&channels[0], "cancel", id);
        cr_expect_eq(ended(&channels[0], "finished", id, NULL), KVW_E_CANCELED);
    }
    for (uint64_t id = 7; id <= 9; ++id) { /* while it waits for an offer */
        generate(&channels[1], id, 20, POOL_TOKENS - 20, 60000);
        op(&channels[1], "cancel", id);
        cr_expect_eq(ended(&channels[1], "prefilled", id, NULL), KVW_E_CANCELED);
    }
    whole_pool_is_free();
}

/* Worker `refuser` has no room for 100 tokens; who of the two hears of the request first. */
static void one_refuses(int refuser, int first, uint64_t id)
{
    static const char *const last[] = {"finished", "prefilled"};
    const int other = 1 - refuser;
    char text[200] = "";

    generate(&channels[first], id, 100, 8, 60000);
    usleep(200 * 1000); /* its offer is there, or its stream, or its refusal */
    generate(&channels[1 - first], id, 100, 8, 60000);
    cr_expect_eq(ended(&channels[refuser], last[refuser], id, text), KVW_E_NOBLOCKS);
    cr_expect(strstr(text, "no free KV blocks") != NULL, "%s", text);
    const uint64_t refused = kve_now_ns();
    cr_expect_neq(ended(&channels[other], last[other], id, text), 0);
    cr_expect(strstr(text, "no free KV blocks") != NULL, "the other says: %s", text);
    cr_expect_lt(kve_now_ns() - refused, 2 * KVE_S, "its patience is 5 s, the lease 20 s");
}

Test(worker, a_prefill_that_refuses_ends_the_decode_at_once)
{
    start_pair(0, 32);
    one_refuses(1, 0, 1);
    one_refuses(1, 1, 2);
}

Test(worker, a_decode_that_refuses_ends_the_prefill_at_once)
{
    start_pair(32, 0);
    one_refuses(0, 0, 1);
    one_refuses(0, 1, 2);
}

enum {
    MANY = 4,
    MANY_TOKENS = 24,
};

/* Tokens of requests first + 1 .. first + MANY until so many have ended; how often a token was
 * another request's than the one before. */
static uint32_t collect(uint32_t said[MANY + 1][MANY_TOKENS], uint64_t first, uint32_t ends)
{
    uint32_t counts[MANY + 1] = {0}, changes = 0;
    uint64_t last = 0;

    while (ends > 0) {
        cJSON *obj = event(&channels[0], NULL);
        const uint64_t id = id_of(obj) - first;
        uint64_t token;

        cr_assert_not_null(obj);
        if (id > MANY) { /* another's, or no request's */
            cJSON_Delete(obj);
            continue;
        }
        if (strcmp(kve_json_str(obj, "ev"), "finished") == 0) {
            cr_expect_eq(err_of(obj), 0, "%s", kve_json_str(obj, "text"));
            --ends;
        } else if (kve_json_u64(obj, "token", 0, UINT32_MAX, &token)) {
            cr_assert_lt(counts[id], MANY_TOKENS);
            said[id][counts[id]++] = (uint32_t)token;
            changes += id != last;
            last = id;
        }
        cJSON_Delete(obj);
    }
    return changes;
}

/* Both parts of it, the prefill's to its end: that worker has one at a time. */
static void prefill_of(uint64_t id, uint32_t tokens, uint32_t max_tokens)
{
    generate(&channels[0], id, tokens, max_tokens, 60000);
    generate(&channels[1], id, tokens, max_tokens, 60000);
    cr_expect_eq(ended(&channels[1], "prefilled", id, NULL), 0);
}

Test(worker, answers_written_at_once_are_those_written_alone)
{
    static uint32_t alone[MANY + 1][MANY_TOKENS], together[MANY + 1][MANY_TOKENS];
    uint32_t changes = 0;

    start_pair(POOL_TOKENS, POOL_TOKENS);
    for (uint64_t id = 1; id <= MANY; ++id) {
        prefill_of(id, 4 + (uint32_t)id, MANY_TOKENS);
        changes += collect(alone, 0, 1);
    }
    cr_expect_eq(changes, MANY, "alone, tokens don't mix");
    /* nobody reads the first one's tokens before the KV of the last is there: it waits for it */
    for (uint64_t id = 1; id <= MANY; ++id)
        generate(&channels[0], 10 + id, 4 + (uint32_t)id, MANY_TOKENS, 60000);
    for (uint64_t id = 1; id <= MANY; ++id) {
        generate(&channels[1], 10 + id, 4 + (uint32_t)id, MANY_TOKENS, 60000);
        cr_expect_eq(ended(&channels[1], "prefilled", 10 + id, NULL), 0);
    }
    changes = collect(together, 10, MANY);
    cr_expect_arr_eq(together, alone, sizeof(alone));
    cr_expect_gt(changes, MANY, "they took turns");
    cr_expect_neq(memcmp(alone[1], alone[2], sizeof(alone[1])), 0, "a control: they differ");
    whole_pool_is_free();
}

struct shared {
    uint32_t tokens[12];
    uint64_t cached, raw; /* what prefill had, the bytes that landed */
};

/* A request on the pair; common: as generate_reusing(). */
static struct shared share(uint64_t id, uint32_t tokens, uint32_t common, bool reuse)
{
    struct shared s = {.cached = UINT64_MAX, .raw = UINT64_MAX};
    cJSON *obj;

    for (uint32_t i = 0; i < 2; ++i)
        generate_reusing(&channels[i], id, tokens, common, reuse);
    for (uint32_t i = 0; i < 12; ++i) {
        uint64_t token = 0;

        obj = event(&channels[0], "token");
        cr_assert(obj != NULL && kve_json_u64(obj, "token", 0, UINT32_MAX, &token));
        s.tokens[i] = (uint32_t)token;
        cJSON_Delete(obj);
    }
    obj = event(&channels[0], "finished");
    cr_assert(kve_json_u64(obj, "kv_bytes", 0, UINT64_MAX, &s.raw));
    cJSON_Delete(obj);
    obj = event(&channels[1], "prefilled");
    cr_assert_eq(err_of(obj), 0, "%s", kve_json_str(obj, "text"));
    cr_assert(kve_json_u64(obj, "cached", 0, UINT32_MAX, &s.cached));
    cJSON_Delete(obj);
    return s;
}

/* What one prompt has in common with an earlier one is neither computed nor sent, and its answer is
 * that of a pair that had nothing. Groups of 2: prompts are cut at multiples of 96. */
Test(worker, the_beginning_of_an_earlier_prompt_is_neither_computed_nor_sent)
{
    enum { PROMPT = 289, COMMON = 288, BYTES = 3 * 2 * 2 * 16 * 2 }; /* of a token */

    start_pair(640, 640);
    const struct shared fresh = share(1, PROMPT, COMMON, false);
    cr_expect(fresh.cached == 0 && fresh.raw == PROMPT * BYTES, "%lu %lu",
              (unsigned long)fresh.cached, (unsigned long)fresh.raw);
    const struct shared unkept = share(2, PROMPT, COMMON, true);
    cr_expect_eq(unkept.cached, 0, "one that isn't reused isn't kept");
    const struct shared again = share(3, PROMPT, COMMON, true);
    cr_expect_eq(again.cached, 192, "%lu: one token behind 288 would be too few",
                 (unsigned long)again.cached);
    cr_expect_eq(again.raw, (PROMPT - 288) * BYTES, "decode has more, as it computes nothing");
    cr_expect_arr_eq(again.tokens, fresh.tokens, sizeof(fresh.tokens));
    const struct shared longer = share(4, PROMPT + 20, COMMON, true);
    cr_expect(longer.cached == 288 && longer.raw == 21 * BYTES, "%lu %lu",
              (unsigned long)longer.cached, (unsigned long)longer.raw);
    const struct shared longer_fresh = share(5, PROMPT + 20, COMMON, false);
    cr_expect_eq(longer_fresh.cached, 0);
    cr_expect_arr_eq(longer.tokens, longer_fresh.tokens, sizeof(longer.tokens));
    cr_expect_arr_neq(longer.tokens, fresh.tokens, sizeof(longer.tokens), "control: all the same");
    const struct shared all = share(6, 288, COMMON, true); /* decode lacks nothing at all */
    const struct shared all_fresh = share(7, 288, COMMON, false);
    cr_expect(all.raw == 0 && all.cached == 192, "%lu %lu", (unsigned long)all.raw,
              (unsigned long)all.cached);
    cr_expect_arr_eq(all.tokens, all_fresh.tokens, sizeof(all.tokens));
}

Test(worker, one_of_many_is_canceled_and_the_others_go_on)
{
    start_pair(POOL_TOKENS, POOL_TOKENS);
    generate(&channels[0], 50, 8, 400, 60000);
    generate(&channels[0], 51, 8, 40, 60000); /* its KV never comes */
    prefill_of(1, 8, MANY_TOKENS);
    generate(&channels[1], 50, 8, 400, 60000);
    op(&channels[0], "cancel", 50);
    op(&channels[0], "cancel", 51);
    cr_expect_eq(ended(&channels[0], "finished", 50, NULL), KVW_E_CANCELED);
    ended(&channels[1], "prefilled", 50, NULL); /* its KV had landed, or it was told */
    /* The first one's tokens may still fill the channel, and a worker waits for who reads it. */
    generate(&channels[0], 2, 8, MANY_TOKENS, 60000);
    generate(&channels[1], 2, 8, MANY_TOKENS, 60000);
    cr_expect_eq(ended(&channels[0], "finished", 2, NULL), 0);
    cr_expect_eq(ended(&channels[1], "prefilled", 2, NULL), 0);
    whole_pool_is_free();
}

Test(worker, busy_names_the_request_that_is_refused)
{
    start(KVE_WORKER_LOCAL, 0);
    struct kve_channel *c = &channels[0];

    generate(c, 11, 20, 600, 60000);
    cJSON_Delete(event(c, "token"));
    generate(c, 22, 20, 4, 60000);
    cJSON *busy = event(c, "error");
    cr_expect_eq(id_of(busy), 22);
    cr_expect_eq(err_of(busy), KVW_E_AGAIN);
    cJSON_Delete(busy);
    op(c, "cancel", 22); /* not the one that runs */
    cr_expect_eq(ended(c, "finished", 11, NULL), 0);
    op(c, "pause", 33);
    busy = event(c, "error");
    cr_expect_eq(id_of(busy), 33);
    cr_expect_eq(err_of(busy), KVW_E_INVALID);
    cJSON_Delete(busy);
}

Test(worker, a_bad_request_is_refused_with_its_id_and_the_next_is_served)
{
    start(KVE_WORKER_LOCAL, 0);
    struct kve_channel *c = &channels[0];
    char text[200] = "";

    generate(c, 1, TINY_CONTEXT, 1, 60000);
    cr_expect_eq(ended(c, "finished", 1, text), KVW_E_INVALID);
    cr_expect(strstr(text, "context of 640") != NULL, "%s", text);
    generate(c, 2, 4, 2, 60000);
    cr_expect_eq(ended(c, "finished", 2, NULL), 0);
}

Test(worker, a_channel_that_carries_nonsense_is_closed_with_a_reason)
{
    start(KVE_WORKER_LOCAL, 0);
    struct kve_channel *c = &channels[0];

    generate(c, 1, 20, 600, 60000);
    cJSON_Delete(event(c, "token"));
    cr_assert_eq(send(c->fd, "nonsense\n", 9, MSG_NOSIGNAL), 9);
    cJSON *obj = event(c, "error");
    cr_expect_eq(err_of(obj), KVW_E_PROTOCOL);
    cJSON_Delete(obj);
    while ((obj = event(c, NULL)) != NULL) {
        cr_expect_str_neq(kve_json_str(obj, "ev"), "finished");
        cJSON_Delete(obj);
    }
}

Test(worker, an_answer_waits_for_a_router_that_does_not_read)
{
    uint32_t tokens = 0;
    cJSON *obj;

    start(KVE_WORKER_LOCAL, 0);
    struct kve_channel *c = &channels[0];
    cJSON_Delete(event(c, "loaded"));
    generate(c, 1, 20, 600, 60000);
    sleep(4); /* 600 events don't fit into a socket: 280 do */
    do {
        obj = event(c, NULL);
        cr_assert_not_null(obj, "the worker hung up after %u tokens", tokens);
        tokens += strcmp(kve_json_str(obj, "ev"), "token") == 0;
        const bool last = strcmp(kve_json_str(obj, "ev"), "finished") == 0;
        if (last)
            cr_expect_eq(err_of(obj), 0, "%s", kve_json_str(obj, "text"));
        cJSON_Delete(obj);
        if (last)
            break;
    } while (true);
    cr_expect_eq(tokens, 600);
}

Test(worker, a_router_that_never_reads_is_given_up_with_the_request)
{
    cJSON *obj;

    start(KVE_WORKER_LOCAL, 0);
    struct kve_channel *c = &channels[0];
    cJSON_Delete(event(c, "loaded"));
    generate(c, 1, 20, 600, 1500);
    sleep(3);
    while ((obj = event(c, NULL)) != NULL) { /* whole lines, then the end */
        cr_expect_str_neq(kve_json_str(obj, "ev"), "finished");
        cJSON_Delete(obj);
    }
}

static void *stop_workers(void *arg)
{
    (void)arg;
    usleep(500 * 1000);
    kve_worker_stop_all();
    return NULL;
}

Test(worker, a_signal_ends_one_that_waits_for_its_router)
{
    const uint64_t begin = kve_now_ns();
    pthread_t thread;
    void *status;

    start(KVE_WORKER_LOCAL, 0);
    cJSON_Delete(event(&channels[0], "loaded"));
    generate(&channels[0], 1, 20, 600, 600000);
    cr_assert_eq(pthread_create(&thread, NULL, stop_workers, NULL), 0);
    pthread_join(threads[0], &status);
    cr_expect_lt(kve_now_ns() - begin, 20 * KVE_S);
    pthread_join(thread, NULL);
    kve_channel_close(&channels[0]);
    workers = 0;
}

static void *named(void *name)
{
    configs[0] = (struct kve_worker_config){
        .role = KVE_WORKER_PREFILL, .model_path = "/nonexistent", .control_fd = -1};
    kve_worker_main(&configs[0]);
    prctl(PR_GET_NAME, name);
    return NULL;
}

Test(worker, its_name_is_seen_from_outside)
{
    char name[16] = "";
    pthread_t thread;

    cr_assert_eq(pthread_create(&thread, NULL, named, name), 0);
    pthread_join(thread, NULL);
    cr_expect_str_eq(name, "kvserve-prefill");
}

static uint64_t number_of(const cJSON *obj, const char *key)
{
    uint64_t v = 0;

    return kve_json_u64(obj, key, 0, 1ull << 52, &v) ? v : 0;
}

/* A decode worker that does both parts of two requests: while it computes the second one's prompt,
 * piece by piece, the first one's answer gets a token between any two pieces. */
Test(worker, a_prompt_is_computed_between_the_tokens_of_an_answer)
{
    enum { FIRST = 1, LONG = 2, TOKENS = 3 * KVE_PIECE_TOKENS - 20 };
    uint32_t pieces = 0, since = 0, least = UINT32_MAX, most = 0;
    struct kve_channel *c = &channels[0];
    char text[200] = "";

    start(KVE_WORKER_DECODE, POOL_TOKENS);
    generate_part(c, FIRST, KVE_PART_BOTH, 20, 160, 60000);
    cr_expect_eq(ended(c, "prefilled", FIRST, text), 0, "%s", text);
    cJSON_Delete(event(c, "token"));
    generate_part(c, LONG, KVE_PART_BOTH, TOKENS, 4, 60000);
    while (most < TOKENS) {
        cJSON *obj = event(c, NULL);
        const bool progress = strcmp(kve_json_str(obj, "ev"), "progress") == 0;

        since += id_of(obj) == FIRST && strcmp(kve_json_str(obj, "ev"), "token") == 0;
        if (progress && id_of(obj) == LONG) {
            const uint32_t tokens = (uint32_t)number_of(obj, "tokens");

            cr_expect_leq(tokens - most, KVE_PIECE_TOKENS);
            least = pieces > 0 && since < least ? since : least;
            most = tokens;
            since = 0;
            ++pieces;
        }
        cJSON_Delete(obj);
    }
    cr_expect_geq(pieces, 3);
    cr_expect(least >= 1 && least < UINT32_MAX, "%u tokens between two pieces", least);
    cr_expect_eq(ended(c, "finished", LONG, text), 0, "%s", text);
    cr_expect_eq(ended(c, "finished", FIRST, text), 0, "%s", text);
}

/* One prompt at a time: another one is refused by its id, also while only the first is there.
 * Who takes the first one back gets its blocks back, and the answer beside it goes on. */
Test(worker, a_decode_worker_computes_one_prompt_at_a_time)
{
    struct kve_channel *c = &channels[0];
    char text[200] = "";

    start(KVE_WORKER_DECODE, POOL_TOKENS);
    generate_part(c, 1, KVE_PART_BOTH, 20, 160, 60000);
    cJSON_Delete(event(c, "token"));
    generate_part(c, 2, KVE_PART_BOTH, 300, 8, 60000);
    generate_part(c, 3, KVE_PART_BOTH, 300, 8, 60000);
    cJSON *busy = event(c, "error");
    cr_expect(id_of(busy) == 3 && err_of(busy) == KVW_E_AGAIN);
    cJSON_Delete(busy);
    op(c, "cancel", 2);
    cr_expect_eq(ended(c, "finished", 2, text), KVW_E_CANCELED);
    cr_expect_str_eq(text, "the request was canceled");
    cr_expect_eq(ended(c, "finished", 1, text), 0, "%s", text);
    generate_part(c, 99, KVE_PART_BOTH, POOL_TOKENS - 8, 8, 60000);
    cr_expect_eq(ended(c, "finished", 99, text), 0, "%s", text);
}

/* The two ends of a pair change sides: what was started to decode sends, and vice versa. */
Test(worker, a_pair_serves_a_request_the_other_way_round)
{
    char text[200] = "";

    start_pair(POOL_TOKENS, POOL_TOKENS);
    for (uint64_t id = 1; id <= 2; ++id) {
        generate_part(&channels[1], id, KVE_PART_DECODE, 200, 8, 60000);
        generate_part(&channels[0], id, KVE_PART_PREFILL, 200, 8, 60000);
        cr_expect_eq(ended(&channels[1], "finished", id, text), 0, "%s", text);
        cr_expect_eq(ended(&channels[0], "prefilled", id, text), 0, "%s", text);
        generate(&channels[0], id + 10, 200, 8, 60000);
        generate(&channels[1], id + 10, 200, 8, 60000);
        cr_expect_eq(ended(&channels[0], "finished", id + 10, text), 0, "%s", text);
        cr_expect_eq(ended(&channels[1], "prefilled", id + 10, text), 0, "%s", text);
    }
    whole_pool_is_free();
}
