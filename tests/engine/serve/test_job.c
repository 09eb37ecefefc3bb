/* SPDX-License-Identifier: Apache-2.0 */
/* What a worker tells its router about its link, and what it tells the other worker about a request
 * that it has no time for. The link is --wrap'ed: each test says what it answers. */
#include <criterion/criterion.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../../../engine/serve/job.h"

kve_link_state __wrap_kve_link_state_now(struct kve_link *link, char *text);
uint32_t __wrap_kve_link_peers(struct kve_link *link);
uint32_t __wrap_kve_link_turns(struct kve_link *link);
const char *__wrap_kve_link_peer(struct kve_link *link, uint32_t i);
kvw_err __wrap_kve_link_error(struct kve_link *link);
int __wrap_kve_link_notify_fd(const struct kve_link *link);
void __wrap_kve_link_decline(struct kve_link *link, const char *with, uint64_t id, kvw_err err,
                             const char *text);

static struct {
    kve_link_state state;
    uint32_t peers;
    kvw_err err;
    const char *text;
    int notify;
    /* of kve_link_decline */
    uint32_t declines;
    uint64_t declined;
    char reason[KVW_TEXT_BYTES_MAX + 1];
} fake;

kve_link_state __wrap_kve_link_state_now(struct kve_link *link, char *text)
{
    (void)link;
    if (text != NULL)
        strcpy(text, fake.text);
    return fake.state;
}

uint32_t __wrap_kve_link_peers(struct kve_link *link)
{
    (void)link;
    return fake.peers;
}

uint32_t __wrap_kve_link_turns(struct kve_link *link)
{
    (void)link;
    return fake.peers;
}

/* Those that came are there. */
const char *__wrap_kve_link_peer(struct kve_link *link, uint32_t i)
{
    (void)link;
    return i < fake.peers ? "prefill" : NULL;
}

kvw_err __wrap_kve_link_error(struct kve_link *link)
{
    (void)link;
    return fake.err;
}

int __wrap_kve_link_notify_fd(const struct kve_link *link)
{
    (void)link;
    return fake.notify;
}

void __wrap_kve_link_decline(struct kve_link *link, const char *with, uint64_t id, kvw_err err,
                             const char *text)
{
    (void)link, (void)with, (void)err;
    ++fake.declines;
    fake.declined = id;
    snprintf(fake.reason, sizeof(fake.reason), "%s", text);
}

static _Atomic int stop;
static const struct kve_worker_config config = {.role = KVE_WORKER_DECODE, .quiet = true};
static struct kve_worker worker;
static struct kve_channel router;

static void set_up(void)
{
    int fds[2];

    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    fake.state = KVE_LINK_WAITING;
    fake.text = "";
    fake.notify = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    worker = (struct kve_worker){.cfg = &config, .link = (struct kve_link *)&fake};
    kve_channel_init(&worker.channel, fds[0]);
    worker.channel.stop = &stop;
    kve_channel_init(&router, fds[1]);
}

static void tear_down(void)
{
    kve_channel_close(&worker.channel);
    kve_channel_close(&router);
    close(fake.notify);
}

TestSuite(job, .init = set_up, .fini = tear_down, .timeout = 20);

/* The next event, if one is there; the caller's. */
static cJSON *event(void)
{
    kvw_err err;

    return kve_channel_read(&router, &err);
}

/* The router hears of the link exactly once, with err and text. */
static void told(kvw_err err, const char *text)
{
    kve_worker_tell_link(&worker);
    cJSON *obj = event();
    cr_assert_not_null(obj, "nothing is said of \"%s\"", text);
    cr_expect_str_eq(kve_json_str(obj, "ev"), "link");
    cr_expect_str_eq(kve_json_str(obj, "text"), text);
    cr_expect_eq(cJSON_GetObjectItemCaseSensitive(obj, "err")->valueint, (int)err);
    cJSON_Delete(obj);
    kve_worker_tell_link(&worker);
    cr_expect_null(event(), "\"%s\" is said twice", text);
}

Test(job, each_change_of_the_link_is_told_once)
{
    told(KVW_OK, "");
    fake.err = KVW_E_ADDRESS; /* the state stays: the peer can't be reached, and that is why */
    fake.text = "127.0.0.1:7001: Connection refused";
    told(KVW_E_ADDRESS, fake.text);
    fake.text = "127.0.0.1:7001: No route to host";
    told(KVW_E_ADDRESS, fake.text);
    fake.err = KVW_E_IO;
    told(KVW_E_IO, fake.text);
    fake.state = KVE_LINK_UP;
    told(KVW_E_IO, fake.text);
    fake.peers = 1;
    told(KVW_E_IO, fake.text);
}

Test(job, the_next_router_hears_what_the_last_one_was_told)
{
    fake.text = "127.0.0.1:7001: Connection refused";
    told(KVW_OK, fake.text);
    worker.seen_state = 0;
    told(KVW_OK, fake.text);
}

static cJSON *request(uint64_t id)
{
    cJSON *obj = cJSON_CreateObject();

    cJSON_AddStringToObject(obj, "op", "generate");
    if (id != 0)
        cJSON_AddNumberToObject(obj, "id", (double)id);
    return obj;
}

static void busy(uint64_t id, bool decline)
{
    cJSON *obj = request(id);

    kve_worker_busy(&worker, obj, decline);
    cJSON_Delete(obj);
    obj = event();
    cr_expect_str_eq(kve_json_str(obj, "ev"), "error");
    cr_expect_str_eq(kve_json_str(obj, "text"), "busy with another request");
    cJSON_Delete(obj);
}

/* Both workers get a request: the other one would wait for this one's part until its patience
 * ends. */
Test(job, a_request_that_finds_the_worker_busy_is_declined_to_the_peer)
{
    busy(22, true);
    cr_expect_eq(fake.declines, 1);
    cr_expect_eq(fake.declined, 22);
    cr_expect_str_eq(fake.reason, "busy with another request");
}

/* One without an id, and the request under way itself have no transfer that could be declined. */
Test(job, nothing_else_is_declined)
{
    busy(0, true);
    busy(11, false);
    cr_expect_eq(fake.declines, 0);
}

Test(job, a_part_is_what_the_request_says_or_the_role)
{
    struct kve_worker_config cfg = {.role = KVE_WORKER_DECODE};

    worker.cfg = &cfg;
    cr_expect_eq(kve_worker_part(&worker, KVE_PART_ROLE), KVE_PART_DECODE);
    cr_expect_eq(kve_worker_part(&worker, KVE_PART_PREFILL), KVE_PART_PREFILL);
    cfg.role = KVE_WORKER_PREFILL;
    cr_expect_eq(kve_worker_part(&worker, KVE_PART_ROLE), KVE_PART_PREFILL);
    cfg.role = KVE_WORKER_LOCAL;
    cr_expect_eq(kve_worker_part(&worker, KVE_PART_ROLE), KVE_PART_BOTH);
}
