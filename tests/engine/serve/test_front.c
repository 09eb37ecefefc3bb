/* SPDX-License-Identifier: Apache-2.0 */
/* A queue before the workers: clients take turns, a full queue refuses, who leaves while it waits
 * never reaches a worker, and nobody waits past its time. */
#include <criterion/criterion.h>
#include <signal.h>

#include "../../../engine/serve/front.h"
#include "fakes.h"
#include "serve_model.h"

enum {
    JOBS = 6,
};

static char model[32];
static struct kve_gguf *gguf;
static struct kve_tok *tok;
static _Atomic int stop;
static struct kve_dispatch_config config;
static struct kve_dispatch dispatch;
static struct kve_front front;
static struct kve_job jobs[JOBS];
static uint32_t prompt[3] = {260, 261, 262};
static uint32_t order[JOBS], ended;

static kvw_err on_text(struct kve_job *j, const char *at, size_t n)
{
    (void)j, (void)at, (void)n;
    return KVW_OK;
}

static void on_ended(struct kve_job *j)
{
    order[ended++] = (uint32_t)(j - jobs);
}

static void set_up(void)
{
    char why[KVE_WHY_BYTES];

    signal(SIGPIPE, SIG_IGN);
    serve_model_write(model);
    cr_assert_eq(kve_gguf_open(&gguf, model, why), KVW_OK);
    cr_assert_eq(kve_tok_open(&tok, gguf, why), KVW_OK);
    fakes_open();
    config = (struct kve_dispatch_config){
        .spawn = {.worker = {.net = "udp", .open_timeout_ns = 20 * KVE_S},
                  .prefill_at = fakes_at[0],
                  .decode_at = fakes_at[1]},
        .tok = tok,
        .stop = &stop,
    };
    kve_front_open(&front,
                   &(struct kve_front_config){.d = &dispatch, .slots = 1, .queue_max = JOBS - 1});
}

static void begin_two(enum script prefill, enum script decode)
{
    fakes[0].script = prefill;
    fakes[1].script = decode;
    fakes_start();
    cr_assert_eq(kve_dispatch_start(&dispatch, &config), KVW_OK, "%s", dispatch.why);
    cr_assert(kve_dispatch_wait_ready(&dispatch), "%s", dispatch.why);
}

static void begin(enum script script)
{
    begin_two(script, script);
}

/* Both workers have so many blocks of one token. */
static void have_blocks(uint64_t blocks)
{
    struct kve_spawned *const w = dispatch.spawn.at;

    for (int i = 0; i < 2; ++i) {
        w[i].block_tokens = 1;
        w[i].kv_blocks = blocks;
    }
}

static void tear_down(void)
{
    kve_dispatch_stop(&dispatch);
    kve_front_close(&front);
    fakes_join();
    fakes_close();
    kve_tok_close(tok);
    kve_gguf_close(gguf);
    unlink(model);
}

TestSuite(front, .init = set_up, .fini = tear_down, .timeout = 60);

static kvw_err submit(uint32_t number, uint64_t client, uint64_t timeout_ns)
{
    char why[KVE_WHY_BYTES];

    jobs[number] = (struct kve_job){.client = client,
                                    .q = {.tokens = prompt,
                                          .count = 3,
                                          .max_tokens = 2,
                                          .timeout_ns = timeout_ns,
                                          .sample = {.top_p = 1}},
                                    .text = on_text,
                                    .ended = on_ended};
    return kve_front_submit(&front, &jobs[number], why);
}

static void step(void)
{
    struct pollfd p[2] = {{.fd = dispatch.spawn.at[0].channel.fd, .events = POLLIN},
                          {.fd = dispatch.spawn.at[1].channel.fd, .events = POLLIN}};

    kve_front_step(&front);
    poll(p, 2, 5);
}

/* Steps until so many have ended. */
static void until(uint32_t count)
{
    while (ended < count)
        step();
}

Test(front, clients_take_turns_and_a_client_keeps_its_order)
{
    static const uint32_t expected[] = {0, 3, 4, 1, 2};

    begin(SERVES);
    for (uint32_t i = 0; i < 3; ++i)
        cr_assert_eq(submit(i, 1, 60 * KVE_S), KVW_OK);
    cr_assert_eq(submit(3, 2, 60 * KVE_S), KVW_OK);
    cr_assert_eq(submit(4, 3, 60 * KVE_S), KVW_OK);
    until(5);
    for (uint32_t i = 0; i < 5; ++i) {
        cr_expect_eq(order[i], expected[i], "place %u: job %u", i, order[i]);
        cr_expect_not(jobs[i].failed, "%s", jobs[i].ticket.why);
        kve_report_free(&jobs[i].rep);
    }
    cr_expect_eq(fakes[1].requests, 5);
}

Test(front, a_full_queue_refuses)
{
    begin(SERVES);
    for (uint32_t i = 0; i < JOBS - 1; ++i)
        cr_assert_eq(submit(i, i, 60 * KVE_S), KVW_OK);
    cr_expect_eq(submit(JOBS - 1, 9, 60 * KVE_S), KVW_E_AGAIN);
    until(JOBS - 1);
    cr_expect_eq(submit(JOBS - 1, 9, 60 * KVE_S), KVW_OK);
    until(JOBS);
    for (uint32_t i = 0; i < JOBS; ++i)
        kve_report_free(&jobs[i].rep);
}

Test(front, who_leaves_while_it_waits_reaches_no_worker)
{
    begin(WAITS);
    cr_assert_eq(submit(0, 1, 60 * KVE_S), KVW_OK);
    kve_front_step(&front);
    cr_assert_eq(jobs[0].state, KVE_JOB_RUNNING);
    cr_assert_eq(submit(1, 2, 60 * KVE_S), KVW_OK);
    kve_front_step(&front);
    cr_assert_eq(jobs[1].state, KVE_JOB_QUEUED);
    kve_front_cancel(&front, &jobs[1]);
    cr_expect_eq(ended, 1);
    cr_expect(jobs[1].failed);
    kve_front_cancel(&front, &jobs[0]); /* a worker has this one: it is told */
    until(2);
    cr_expect(jobs[0].failed);
    cr_expect_eq(front.active, 0);
    cr_expect_eq(front.queued, 0);
    kve_dispatch_stop(&dispatch);
    fakes_join();
    cr_expect_eq(fakes[1].requests, 1);
    cr_expect_eq(fakes[1].cancels, 1);
    cr_expect_eq(fakes[0].cancels, 1);
    fakes_start(); /* for tear_down */
    cr_assert_eq(kve_dispatch_start(&dispatch, &config), KVW_OK, "%s", dispatch.why);
}

Test(front, nobody_waits_past_its_time)
{
    begin(WAITS);
    cr_assert_eq(submit(0, 1, 60 * KVE_S), KVW_OK);
    kve_front_step(&front);
    cr_assert_eq(submit(1, 2, 20 * KVE_MS), KVW_OK);
    until(1);
    cr_expect_eq(order[0], 1);
    cr_expect(strstr(jobs[1].ticket.why, "waited for its turn") != NULL, "%s", jobs[1].ticket.why);
    kve_front_cancel(&front, &jobs[0]);
    until(2);
}

/* The prompt of one is still computed: the next one waits, though places and blocks are free. */
Test(front, one_prompt_at_a_time)
{
    begin_two(WAITS, WAITS);
    have_blocks(100);
    front.slots = JOBS;
    cr_assert_eq(submit(0, 1, 60 * KVE_S), KVW_OK);
    cr_assert_eq(submit(1, 2, 60 * KVE_S), KVW_OK);
    for (int i = 0; i < 5; ++i)
        step();
    cr_expect_eq(jobs[0].state, KVE_JOB_RUNNING);
    cr_expect_eq(jobs[1].state, KVE_JOB_QUEUED);
    kve_front_cancel(&front, &jobs[0]);
    until(1);
    step();
    cr_expect_eq(jobs[1].state, KVE_JOB_RUNNING);
    kve_front_cancel(&front, &jobs[1]);
    until(2);
}

/* Two answers that fit run side by side, a third one's blocks are not promised before they are
 * given back: no worker has to refuse it. */
Test(front, blocks_are_promised_once)
{
    begin_two(SERVES, WAITS);
    have_blocks(14); /* each needs 3 + 2 */
    front.slots = JOBS;
    for (uint32_t i = 0; i < 3; ++i)
        cr_assert_eq(submit(i, i, 60 * KVE_S), KVW_OK);
    while (jobs[1].state != KVE_JOB_RUNNING || !jobs[1].ticket.prefilled)
        step();
    cr_expect_eq(jobs[0].state, KVE_JOB_RUNNING);
    cr_expect_eq(front.place.nodes[1].blocks_used, 10);
    for (int i = 0; i < 5; ++i)
        step();
    cr_expect_eq(jobs[2].state, KVE_JOB_QUEUED);
    kve_front_cancel(&front, &jobs[0]);
    while (jobs[2].state != KVE_JOB_RUNNING)
        step();
    cr_expect_eq(front.place.nodes[1].blocks_used, 10);
    for (uint32_t i = 1; i < 3; ++i)
        kve_front_cancel(&front, &jobs[i]);
    until(3);
    cr_expect_eq(front.place.nodes[1].blocks_used, 0);
}

Test(front, what_no_worker_has_the_blocks_for_is_refused)
{
    begin(SERVES);
    have_blocks(4);
    cr_expect_eq(submit(0, 1, 60 * KVE_S), KVW_E_NOBLOCKS);
    cr_expect_eq(front.queued, 0);
    have_blocks(5);
    cr_expect_eq(submit(0, 1, 60 * KVE_S), KVW_OK);
    until(1);
    cr_expect_not(jobs[0].failed, "%s", jobs[0].ticket.why);
    kve_report_free(&jobs[0].rep);
    dispatch.spawn.at[0].kv_blocks = 2; /* the prompt alone has 3 */
    cr_expect_eq(submit(1, 1, 60 * KVE_S), KVW_E_NOBLOCKS);
    dispatch.spawn.at[0].kv_blocks = 3;
    cr_expect_eq(submit(1, 1, 60 * KVE_S), KVW_OK);
    until(2);
    kve_report_free(&jobs[1].rep);
}
