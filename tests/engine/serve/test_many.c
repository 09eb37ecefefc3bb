/* SPDX-License-Identifier: Apache-2.0 */
/* Several prefills and decodes behind one router: who isn't linked with all of the other side gets
 * nothing, each of a pair hears the other's name, a lost worker fails what it had and nothing else,
 * what nobody has seen any of begins again elsewhere, once, and route's counters come back to
 * nothing. */
#include <criterion/criterion.h>
#include <signal.h>
#include <sys/socket.h>

#include "../../../engine/serve/clock.h"
#include "../../../engine/serve/front.h"

enum {
    PREFILLS = 2,
    COUNT = 4, /* prefills, then decodes */
    JOBS = 6,
};

static _Atomic int stop;
static struct kve_dispatch_config config = {.stop = &stop};
static struct kve_dispatch dispatch;
static struct kve_front front;
static struct kve_channel far[COUNT]; /* the workers' ends */
static struct kve_job jobs[JOBS];
static uint32_t prompt[100];
static uint32_t ended;

static kvw_err on_text(struct kve_job *j, const char *at, size_t n)
{
    (void)j, (void)at, (void)n;
    return KVW_OK;
}

static void on_ended(struct kve_job *j)
{
    (void)j;
    ++ended;
}

/* A worker as it is when it has loaded and is linked with all. */
static void put(uint32_t i)
{
    struct kve_spawned *w = &dispatch.spawn.at[i];
    int fds[2];

    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    kve_channel_init(&w->channel, fds[0]);
    kve_channel_init(&far[i], fds[1]);
    w->role = i < PREFILLS ? KVE_WORKER_PREFILL : KVE_WORKER_DECODE;
    w->index = i;
    snprintf(w->name, sizeof(w->name), "%s-%u", i < PREFILLS ? "prefill" : "decode", i % PREFILLS);
    w->loaded = w->up = true;
    w->linked = UINT64_MAX;
    w->kv_blocks = w->kv_free = 64;
    w->block_tokens = 16;
    w->weight_bytes = 1000000000; /* 20 ms a token, as guessed */
    w->token_bytes = 1000000;
}

static uint32_t local_tokens;
static uint64_t lend_ns;

static void begin(const char *policy, uint64_t ttft_ns)
{
    const struct kve_front_config fc = {
        .d = &dispatch,
        .slots = 4,
        .queue_max = JOBS,
        .place = {.policy = kve_route_policy_of(policy),
                  .ttft_ns = ttft_ns,
                  .local_tokens = local_tokens,
                  .lend_ns = lend_ns},
    };

    signal(SIGPIPE, SIG_IGN);
    dispatch = (struct kve_dispatch){.cfg = &config};
    config.spawn.mesh = lend_ns > 0;
    dispatch.spawn.count = COUNT;
    dispatch.spawn.prefills = PREFILLS;
    for (uint32_t i = 0; i < COUNT; ++i)
        put(i);
    for (uint32_t i = 0; i < 100; ++i)
        prompt[i] = i;
    kve_front_open(&front, &fc);
    kve_front_step(&front);
}

static void tear_down(void)
{
    kve_front_close(&front);
    for (uint32_t i = 0; i < COUNT; ++i) {
        kve_channel_close(&dispatch.spawn.at[i].channel);
        kve_channel_close(&far[i]);
    }
}

TestSuite(many, .fini = tear_down, .timeout = 60);

static kvw_err submit(uint32_t number, char why[KVE_WHY_BYTES])
{
    jobs[number] = (struct kve_job){.client = number,
                                    .q = {.tokens = prompt,
                                          .count = 100,
                                          .max_tokens = 8,
                                          .reuse = true,
                                          .timeout_ns = 60 * KVE_S,
                                          .sample = {.top_p = 1}},
                                    .text = on_text,
                                    .ended = on_ended};
    return kve_front_submit(&front, &jobs[number], why);
}

static void ask(uint32_t count)
{
    char why[KVE_WHY_BYTES];

    for (uint32_t i = 0; i < count; ++i)
        cr_assert_eq(submit(i, why), KVW_OK, "%s", why);
    kve_front_step(&front);
}

/* What the router told the worker to do of the next request: its "part"; "-": no request. */
static void heard_part(uint32_t worker, char part[32])
{
    kvw_err err;
    cJSON *obj = kve_channel_read(&far[worker], &err);

    snprintf(part, 32, "%.31s", obj != NULL ? kve_json_str(obj, "part") : "-");
    cJSON_Delete(obj);
}

/* What the router told the worker next; its "op" and "with". */
static bool heard(uint32_t worker, const char *op, char with[32])
{
    kvw_err err;
    cJSON *obj = kve_channel_read(&far[worker], &err);
    const bool ok = obj != NULL && strcmp(kve_json_str(obj, "op"), op) == 0;

    snprintf(with, 32, "%.31s", obj != NULL ? kve_json_str(obj, "with") : "");
    cJSON_Delete(obj);
    return ok;
}

static void say(uint32_t worker, const char *ev, uint64_t id, int err)
{
    cJSON *obj = cJSON_CreateObject();

    cJSON_AddStringToObject(obj, "ev", ev);
    cJSON_AddNumberToObject(obj, "id", (double)id);
    cJSON_AddNumberToObject(obj, "err", err);
    cJSON_AddStringToObject(obj, "text", err != 0 ? "canceled" : "");
    cJSON_AddNumberToObject(obj, "start_us", 1000);
    cJSON_AddNumberToObject(obj, "end_us", 3000);
    cr_assert_eq(kve_channel_write(&far[worker], obj), KVW_OK);
}

/* Both workers of a running job say their last. */
static void serve(struct kve_job *j, int err)
{
    say(j->ticket.prefill->index, "prefilled", j->ticket.id, err);
    say(j->ticket.decode->index, "finished", j->ticket.id, err);
}

/* kill -9, as the router sees it. */
static void kill_worker(uint32_t i)
{
    kve_channel_close(&far[i]);
}

static void is_idle(void)
{
    for (uint32_t i = 0; i < COUNT; ++i) {
        const struct kve_route_node *n = &front.place.nodes[i];

        cr_expect(n->prefills == 0 && n->sequences == 0 && n->blocks_used == 0 &&
                      n->sequence_tokens == 0 && n->backlog_ns < 1 && n->wire_ns < 1,
                  "worker %u: %u prefills, %u sequences, %u blocks", i, n->prefills, n->sequences,
                  n->blocks_used);
    }
    cr_expect(front.active == 0 && front.queued == 0);
}

Test(many, each_of_a_pair_hears_the_others_name)
{
    char with[2][32];

    begin("round-robin", 0);
    ask(2);
    for (uint32_t i = 0; i < 2; ++i) {
        cr_assert_eq(jobs[i].state, KVE_JOB_RUNNING);
        const struct kve_spawned *p = jobs[i].ticket.prefill, *d = jobs[i].ticket.decode;

        cr_expect(heard(p->index, "generate", with[0]) && heard(d->index, "generate", with[1]));
        cr_expect_str_eq(with[0], d->name);
        cr_expect_str_eq(with[1], p->name);
    }
    cr_expect_neq(jobs[0].ticket.prefill, jobs[1].ticket.prefill, "each has its turn");
    serve(&jobs[0], 0);
    serve(&jobs[1], 0);
    kve_front_step(&front);
    cr_expect_eq(ended, 2);
    cr_expect(!jobs[0].failed && !jobs[1].failed, "%s", jobs[0].ticket.why);
    is_idle();
}

/* One prompt at a time on each prefill: of three the third waits for the one that it was given
 * to. */
Test(many, a_prefill_has_one_prompt_at_a_time)
{
    begin("round-robin", 0);
    ask(3);
    cr_expect_eq(front.active, 2);
    cr_expect(jobs[2].placed.given);
    const uint32_t for_whom = jobs[2].placed.d.prefill;
    const uint32_t other = jobs[0].ticket.prefill->index == for_whom;
    say(jobs[other].ticket.prefill->index, "prefilled", jobs[other].ticket.id, 0);
    kve_front_step(&front);
    cr_expect_eq(jobs[2].state, KVE_JOB_QUEUED, "it waits for another one");
    say(for_whom, "prefilled", jobs[1 - other].ticket.id, 0);
    kve_front_step(&front);
    cr_expect_eq(jobs[2].state, KVE_JOB_RUNNING);
    kve_front_fail_all(&front, "the end");
    for (uint32_t i = 0; i < 3; ++i)
        serve(&jobs[i], KVW_E_CANCELED);
    kve_front_step(&front);
    is_idle();
}

Test(many, what_a_lost_worker_had_fails_alone)
{
    begin("round-robin", 0);
    ask(2);
    const uint32_t lost = jobs[0].ticket.decode->index;

    jobs[0].first_us = 1; /* some of it was told */
    kill_worker(lost);
    kve_front_step(&front);
    cr_expect(jobs[0].ticket.failed && jobs[0].ticket.finished && !jobs[1].ticket.failed);
    cr_expect_not(jobs[0].ticket.ended, "its prefill has not had its last word");
    say(jobs[0].ticket.prefill->index, "prefilled", jobs[0].ticket.id, KVW_E_CANCELED);
    kve_front_step(&front);
    cr_expect_eq(ended, 1);
    cr_expect(jobs[0].failed && strstr(jobs[0].ticket.why, dispatch.spawn.at[lost].name) != NULL,
              "%s", jobs[0].ticket.why);
    cr_expect(kve_dispatch_goes_on(&dispatch) && kve_dispatch_ready(&dispatch));
    cr_expect_eq(dispatch.spawn.at[lost].lost, 1);
    serve(&jobs[1], 0);
    kve_front_step(&front);
    cr_expect(ended == 2 && !jobs[1].failed);
    char why[KVE_WHY_BYTES];
    for (uint32_t i = 2; i < 6; ++i) {
        cr_assert_eq(submit(i, why), KVW_OK);
        cr_expect_neq(jobs[i].placed.d.decode, lost, "who is gone gets nothing");
    }
    for (uint32_t i = 2; i < 6; ++i)
        kve_front_cancel(&front, &jobs[i]);
    kve_channel_init(&far[lost], -1);
}

Test(many, what_nobody_has_seen_begins_again_elsewhere_once)
{
    begin("round-robin", 0);
    ask(1);
    const uint32_t first = jobs[0].ticket.prefill->index, other = 1 - first;
    const uint64_t id = jobs[0].ticket.id;

    kill_worker(first);
    say(jobs[0].ticket.decode->index, "finished", id, KVW_E_CANCELED);
    kve_front_step(&front);
    cr_expect_eq(ended, 0, "%s", jobs[0].ticket.why);
    cr_assert_eq(jobs[0].state, KVE_JOB_RUNNING);
    cr_expect(jobs[0].ticket.prefill->index == other && jobs[0].ticket.id != id);
    cr_expect_eq(front.restarted, 1);
    kill_worker(other);
    say(jobs[0].ticket.decode->index, "finished", jobs[0].ticket.id, KVW_E_CANCELED);
    kve_front_step(&front);
    cr_expect(ended == 1 && jobs[0].failed, "a second time it fails");
    cr_expect_not(kve_dispatch_goes_on(&dispatch), "no prefill is left");
    kve_channel_init(&far[0], -1);
    kve_channel_init(&far[1], -1);
    for (uint32_t i = PREFILLS; i < COUNT; ++i)
        cr_expect_eq(front.place.nodes[i].blocks_used, 0);
}

/* What waits for a worker that is lost waits for another one. */
Test(many, what_waited_for_a_lost_worker_goes_elsewhere)
{
    begin("round-robin", 0);
    ask(3);
    const uint32_t lost = jobs[2].placed.d.prefill;

    cr_assert_eq(jobs[2].state, KVE_JOB_QUEUED);
    kill_worker(lost);
    kve_front_step(&front);
    cr_expect(!jobs[2].placed.given || jobs[2].placed.d.prefill != lost);
    kve_front_fail_all(&front, "the end");
    kve_channel_init(&far[lost], -1);
}

Test(many, who_is_not_linked_with_all_takes_no_part)
{
    struct kve_spawned *const at = dispatch.spawn.at;

    begin("round-robin", 0);
    cr_expect(kve_place_takes(&front.place, 0) && kve_place_takes(&front.place, 3));
    at[3].linked = 1ull << 0; /* decode-1 has lost prefill-1 */
    kve_front_step(&front);
    cr_expect_not(kve_place_takes(&front.place, 3));
    for (uint32_t i = 0; i < 3; ++i)
        cr_expect(kve_place_takes(&front.place, i), "worker %u", i);
    cr_expect(kve_dispatch_ready(&dispatch) && !kve_dispatch_all_ready(&dispatch));
    ask(4);
    for (uint32_t i = 0; i < 4; ++i)
        cr_expect_eq(jobs[i].placed.d.decode, 2);
    at[3].linked = UINT64_MAX;
    kve_front_step(&front);
    cr_expect(kve_place_takes(&front.place, 3));
    at[2].linked = at[3].linked = 1ull << 1; /* both have lost prefill-0 */
    kve_front_step(&front);
    cr_expect(kve_place_any(&front.place), "a pair is left");
    cr_expect(front.place.nodes[2].up + front.place.nodes[3].up >= 1);
    cr_expect_not(kve_place_takes(&front.place, 0) && kve_place_takes(&front.place, 2));
    cr_expect_geq(front.place.nodes[2].sequences, 1, "what it has goes on");
    kve_front_fail_all(&front, "the end");
}

/* 100 tokens are two seconds, as guessed; one was promised. */
Test(many, what_would_be_late_is_refused_at_once)
{
    char why[KVE_WHY_BYTES];

    begin("finish", KVE_S);
    cr_expect_eq(submit(0, why), KVW_E_AGAIN);
    cr_expect_str_eq(why, "its first token would be late");
    cr_expect_geq(jobs[0].retry_s, 1);
    cr_expect(front.queued == 0 && front.refused == 1);
    tear_down();
    begin("finish", 3 * KVE_S);
    cr_expect_eq(submit(0, why), KVW_OK);
    ++prompt[0]; /* nobody holds it */
    cr_expect_eq(submit(1, why), KVW_OK);
    cr_expect_neq(jobs[0].placed.d.prefill, jobs[1].placed.d.prefill);
    ++prompt[0];
    cr_expect_eq(submit(2, why), KVW_E_AGAIN, "each prefill has two seconds' work");
    kve_front_cancel(&front, &jobs[0]);
    cr_expect_eq(submit(2, why), KVW_OK, "and now one of them hasn't");
    kve_front_cancel(&front, &jobs[1]);
    kve_front_cancel(&front, &jobs[2]);
    is_idle();
}

/* Who holds the prompt gets it again, while it hasn't worked more than the others. */
Test(many, a_prompt_goes_where_it_is_held)
{
    char why[KVE_WHY_BYTES];

    begin("finish", 0);
    ask(1);
    const uint32_t first = jobs[0].placed.d.prefill;
    serve(&jobs[0], 0);
    kve_front_step(&front);
    cr_assert(ended == 1 && !jobs[0].failed);
    cr_assert_eq(submit(1, why), KVW_OK);
    cr_expect_eq(jobs[1].placed.d.prefill, first);
    cr_expect_eq(jobs[1].placed.d.cached, 96);
    kve_front_cancel(&front, &jobs[1]);
    ++prompt[0];
    cr_assert_eq(submit(2, why), KVW_OK);
    cr_expect_eq(jobs[2].placed.d.cached, 0, "control: another prompt isn't held");
    kve_front_cancel(&front, &jobs[2]);
}

/* 100 tokens may be computed at home; no decode has anything else. One worker hears of it, and says
 * both last words. */
Test(many, a_short_prompt_is_computed_where_it_is_decoded)
{
    char part[32];

    local_tokens = 100;
    begin("finish", 0);
    ask(1);
    const uint32_t home = jobs[0].placed.d.decode;
    cr_expect_eq(jobs[0].placed.d.prefill, home);
    cr_assert_eq(jobs[0].state, KVE_JOB_RUNNING);
    cr_expect_null(jobs[0].ticket.prefill);
    for (uint32_t i = 0; i < COUNT; ++i) {
        heard_part(i, part);
        cr_expect_str_eq(part, i == home ? "both" : "-", "worker %u", i);
    }
    say(home, "prefilled", jobs[0].ticket.id, 0);
    kve_front_step(&front);
    cr_expect(jobs[0].placed.prefilled && ended == 0);
    say(home, "finished", jobs[0].ticket.id, 0);
    kve_front_step(&front);
    cr_expect(ended == 1 && !jobs[0].failed, "%s", jobs[0].ticket.why);
    is_idle();
    cr_expect_eq(front.place.requests[home * KVE_WORKERS_MAX + home], 1);
    tear_down();
    local_tokens = 99; /* the control */
    begin("finish", 0);
    ask(1);
    cr_expect_neq(jobs[0].placed.d.prefill, jobs[0].placed.d.decode);
    heard_part(jobs[0].placed.d.decode, part);
    cr_expect_str_eq(part, "", "what it was started for");
    kve_front_fail_all(&front, "the end");
}

/* Who did both parts is lost: the request begins again on another worker. */
Test(many, what_was_computed_at_home_begins_again_elsewhere)
{
    local_tokens = 100;
    begin("finish", 0);
    ask(1);
    const uint32_t home = jobs[0].placed.d.decode;

    cr_assert_eq(jobs[0].placed.d.prefill, home);
    kill_worker(home);
    kve_front_step(&front);
    cr_expect_eq(ended, 0, "%s", jobs[0].ticket.why);
    cr_expect(jobs[0].state == KVE_JOB_RUNNING && jobs[0].ticket.decode->index != home);
    kve_front_fail_all(&front, "the end");
    kve_channel_init(&far[home], -1);
}

static uint32_t lent(void)
{
    uint32_t at = COUNT;

    for (uint32_t i = 0; i < COUNT; ++i)
        if (front.place.nodes[i].lent) {
            cr_expect_eq(at, COUNT, "one at a time");
            at = i;
        }
    return at;
}

/* Route is asked once a second: now. */
static void ask_who_lends(void)
{
    front.place.lend_ns = 0;
    kve_front_step(&front);
}

/* Each prefill has two prompts, four seconds' work; the decodes have nothing: one of them takes the
 * next prompt, for the other one, and goes home when all is done. */
Test(many, an_idle_decode_lends_itself_to_prefill)
{
    char part[32], why[KVE_WHY_BYTES];

    lend_ns = KVE_S;
    begin("finish", 0);
    for (uint32_t i = 0; i < 4; ++i, ++prompt[0])
        cr_assert_eq(submit(i, why), KVW_OK);
    kve_front_step(&front);
    ask_who_lends();
    const uint32_t guest = lent();
    cr_assert(guest >= PREFILLS && guest < COUNT && front.place.turns == 1);
    cr_assert_eq(submit(4, why), KVW_OK);
    kve_front_step(&front);
    cr_expect_eq(jobs[4].placed.d.prefill, guest);
    cr_assert_eq(jobs[4].state, KVE_JOB_RUNNING);
    cr_expect_eq(front.place.nodes[guest].blocks_used,
                 7 * (jobs[0].placed.d.decode == guest) + 7 * (jobs[1].placed.d.decode == guest) +
                     7 * (jobs[2].placed.d.decode == guest) +
                     7 * (jobs[3].placed.d.decode == guest) + 7,
                 "the prompt's blocks are counted");
    const uint32_t other = jobs[4].placed.d.decode;
    cr_expect(other != guest && other >= PREFILLS);
    do
        heard_part(guest, part);
    while (strcmp(part, "") == 0); /* its own role's, before it */
    cr_expect_str_eq(part, "prefill");
    for (uint32_t i = 0; i < 5; ++i) {
        serve(&jobs[i], 0);
        kve_front_step(&front);
        kve_front_step(&front);
    }
    cr_expect_eq(front.active + front.queued, 0);
    is_idle();
    front.place.nodes[guest].turned_ns = 1; /* long ago */
    ask_who_lends();
    cr_expect(lent() == COUNT && front.place.turns == 2, "it goes home");
}

/* Only a mesh can lend: who isn't linked with its own side takes no part in one. */
Test(many, in_a_mesh_all_are_linked_with_all)
{
    lend_ns = KVE_S;
    begin("finish", 0);
    cr_expect(kve_place_takes(&front.place, 2) && kve_place_takes(&front.place, 3));
    dispatch.spawn.at[3].linked = 3; /* decode-1 has lost decode-0 */
    kve_front_step(&front);
    cr_expect(kve_place_takes(&front.place, 2) && !kve_place_takes(&front.place, 3));
    tear_down();
    lend_ns = 0; /* the control */
    begin("finish", 0);
    dispatch.spawn.at[3].linked = 3;
    kve_front_step(&front);
    cr_expect(kve_place_takes(&front.place, 2) && kve_place_takes(&front.place, 3));
}
