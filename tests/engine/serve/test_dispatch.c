/* SPDX-License-Identifier: Apache-2.0 */
/* A front hears of a request's life through its listener alone: text and progress in order, an end
 * when it has had enough, and nothing on standard output. One dispatch serves many requests. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <signal.h>

#include "../../../engine/serve/dispatch.h"
#include "fakes.h"
#include "serve_model.h"

static struct {
    char text[256];
    size_t bytes, full;    /* full: from so many bytes on, text is refused; 0: never */
    uint32_t steps, leave; /* leave: the step that says so; 0: none */
} heard;

static kvw_err on_text(void *arg, const char *at, size_t n)
{
    cr_expect_eq(arg, &heard);
    cr_assert_lt(heard.bytes + n, sizeof(heard.text));
    memcpy(heard.text + heard.bytes, at, n);
    heard.bytes += n;
    heard.text[heard.bytes] = '\0';
    return heard.full != 0 && heard.bytes >= heard.full ? KVW_E_NOMEM : KVW_OK;
}

static bool on_step(void *arg, char why[KVE_WHY_BYTES])
{
    (void)arg;
    if (++heard.steps < heard.leave || heard.leave == 0)
        return true;
    snprintf(why, KVE_WHY_BYTES, "nobody listens");
    return false;
}

static char model[32];
static struct kve_gguf *gguf;
static struct kve_tok *tok;
static _Atomic int stop;
static struct kve_dispatch_config config;
static struct kve_dispatch dispatch;
static uint32_t prompt[3] = {260, 261, 262};
static int out, file;

static struct kve_request request(void)
{
    return (struct kve_request){.tokens = prompt,
                                .count = 3,
                                .max_tokens = 4,
                                .timeout_ns = 20 * KVE_S,
                                .sample = {.top_p = 1}};
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
        .spawn = {.worker = {.net = "udp", .open_timeout_ns = 5 * KVE_S},
                  .prefill_at = fakes_at[0],
                  .decode_at = fakes_at[1]},
        .tok = tok,
        .listener = {.arg = &heard, .text = on_text, .step = on_step},
        .stop = &stop,
    };
    fakes_start();
    file = open(fakes_dir, O_TMPFILE | O_RDWR, 0600);
    cr_assert_geq(file, 0);
    fflush(stdout);
    out = dup(STDOUT_FILENO);
    dup2(file, STDOUT_FILENO);
    cr_assert_eq(kve_dispatch_start(&dispatch, &config), KVW_OK, "%s", dispatch.why);
    cr_assert(kve_dispatch_wait_ready(&dispatch), "%s", dispatch.why);
}

static void tear_down(void)
{
    kve_dispatch_stop(&dispatch);
    fakes_join();
    dup2(out, STDOUT_FILENO);
    close(file);
    close(out);
    fakes_close();
    kve_tok_close(tok);
    kve_gguf_close(gguf);
    unlink(model);
}

static void nothing_is_printed(void)
{
    fflush(stdout);
    cr_expect_eq(lseek(file, 0, SEEK_END), 0);
}

TestSuite(dispatch, .init = set_up, .fini = tear_down, .timeout = 60);

Test(dispatch, requests_follow_each_other)
{
    for (int i = 1; i <= 3; ++i) {
        struct kve_request q = request();
        struct kve_report rep = {0};

        heard.bytes = 0;
        cr_expect(kve_dispatch_serve(&dispatch, &q, &rep), "%s", dispatch.why);
        cr_expect_str_eq(heard.text, "abcd");
        cr_expect_str_eq(rep.text, "abcd");
        cr_expect_eq(rep.id_count, 4);
        cr_expect_eq(rep.prompt_tokens, 3);
        kve_report_free(&rep);
    }
    cr_expect(fakes[0].requests == 3 && fakes[1].requests == 3);
    cr_expect(kve_dispatch_goes_on(&dispatch));
    nothing_is_printed();
}

/* Serve one that must fail with that reason, and be canceled in both. */
static void fails(const char *why)
{
    struct kve_request q = request();
    struct kve_report rep = {0};

    cr_expect_not(kve_dispatch_serve(&dispatch, &q, &rep));
    cr_expect_str_eq(dispatch.why, why);
    kve_report_free(&rep);
    cr_expect(fakes[0].cancels == 1 && fakes[1].cancels == 1);
}

Test(dispatch, a_listener_that_leaves_ends_the_request)
{
    heard.leave = heard.steps + 3;
    fakes[0].script = fakes[1].script = WAITS;
    fails("router: nobody listens");
    cr_expect(kve_dispatch_goes_on(&dispatch));
    nothing_is_printed();
}

Test(dispatch, a_listener_that_takes_no_more_text_ends_the_request)
{
    heard.full = 2;
    fakes[0].script = WAITS;
    fakes[1].script = BABBLES;
    fails("router: out of memory");
    nothing_is_printed();
}

Test(dispatch, a_stop_ends_the_request_and_what_follows)
{
    struct kve_request q = request();
    struct kve_report rep = {0};

    stop = SIGTERM;
    cr_expect_not(kve_dispatch_serve(&dispatch, &q, &rep));
    cr_expect_str_eq(dispatch.why, "interrupted");
    cr_expect_not(kve_dispatch_goes_on(&dispatch));
    kve_report_free(&rep);
    nothing_is_printed();
}

Test(dispatch, a_request_that_one_refuses_leaves_the_pair_usable)
{
    struct kve_request q = request();
    struct kve_report rep = {0};

    fakes[1].script = REFUSES_FIRST;
    cr_expect_not(kve_dispatch_serve(&dispatch, &q, &rep));
    cr_expect_str_eq(dispatch.why, "decode: no free KV blocks here");
    cr_expect(kve_dispatch_goes_on(&dispatch));
    kve_report_free(&rep);
    rep = (struct kve_report){0};
    heard.bytes = 0;
    cr_expect(kve_dispatch_serve(&dispatch, &q, &rep), "%s", dispatch.why);
    cr_expect_str_eq(heard.text, "abcd");
    kve_report_free(&rep);
    nothing_is_printed();
}
