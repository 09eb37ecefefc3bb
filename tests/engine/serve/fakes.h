/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fakes.h - two workers, prefill and decode, for tests of what drives them: threads of the test
 * that read and write a control socket as the script of each says.
 */
#ifndef TESTS_FAKES_H
#define TESTS_FAKES_H

#include <criterion/criterion.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../../../engine/serve/clock.h"
#include "../../../engine/serve/control.h"
#include "../../../engine/serve/request.h"
#include "../../../engine/gguf/gguf.h"
#include "../text/tok_build.h"

static char fakes_dir[32], fakes_at[2][64]; /* the control sockets */

/* What a fake worker does with requests; one that is called off answers canceled by itself. */
enum script {
    SERVES,         /* tokens until max_tokens, or its prefill, at once */
    REFUSES,        /* its last word is an error */
    REFUSES_FIRST,  /* the first request only */
    WAITS,          /* says nothing until it is canceled */
    BABBLES,        /* tokens for ever, until it is canceled */
    HANGS_UP,       /* closes the channel on the first request */
    DEAF,           /* says nothing, also when it is canceled */
    BUSY_ELSEWHERE, /* says busy for another request, then serves */
    CUTS_OFF,       /* the answer's last token is the first byte of a character of two */
};

struct fake {
    bool decode;
    int fd;
    enum script script;
    uint32_t requests, cancels;
    uint64_t told_ns;     /* when it refused */
    uint64_t canceled_ns; /* when the cancel came */
    struct kve_channel c;
    struct kve_request last; /* seed and max_tokens of what came last */
};

static struct fake fakes[2]; /* prefill, decode */
static pthread_t threads[2];

static cJSON *say(const char *name, uint64_t id)
{
    cJSON *obj = cJSON_CreateObject();

    cJSON_AddStringToObject(obj, "ev", name);
    if (id != 0)
        cJSON_AddNumberToObject(obj, "id", (double)id);
    return obj;
}

static void say_end(struct fake *f, uint64_t id, int err, const char *text)
{
    cJSON *obj = say(f->decode ? "finished" : "prefilled", id);

    cJSON_AddNumberToObject(obj, "err", err);
    cJSON_AddStringToObject(obj, "text", text);
    cJSON_AddStringToObject(obj, "reason", "length");
    if (err != 0)
        f->told_ns = kve_now_ns();
    kve_channel_write(&f->c, obj);
}

static void say_token(struct fake *f, uint64_t id, uint32_t token)
{
    cJSON *obj = say("token", id);

    cJSON_AddNumberToObject(obj, "token", token);
    kve_channel_write(&f->c, obj);
}

static void serve_request(struct fake *f, uint64_t id)
{
    enum script script = f->script;

    if (script == BUSY_ELSEWHERE) {
        cJSON *obj = say("error", id ^ 1);
        cJSON_AddStringToObject(obj, "text", "busy with another request");
        kve_channel_write(&f->c, obj);
        script = SERVES;
    }
    if (script == REFUSES_FIRST)
        script = f->requests == 1 ? REFUSES : SERVES;
    if (script == REFUSES)
        say_end(f, id, KVW_E_NOBLOCKS, "no free KV blocks here");
    if (script == HANGS_UP)
        shutdown(f->c.fd, SHUT_RDWR);
    if (script == SERVES || script == CUTS_OFF) {
        for (uint32_t i = 0; f->decode && i < f->last.max_tokens; ++i)
            say_token(f, id, TB_BYTE + 'a' + i % 26);
        if (script == CUTS_OFF && f->decode)
            say_token(f, id, TB_BYTE + 0xc3);
        say_end(f, id, 0, "");
    }
}

static void take_op(struct fake *f, const cJSON *obj, uint64_t *open)
{
    uint64_t id = 0, seed = 0, max_tokens = 0;

    kve_json_u64(obj, "id", 1, 1ull << 52, &id);
    if (strcmp(kve_json_str(obj, "op"), "cancel") == 0) {
        ++f->cancels;
        f->canceled_ns = kve_now_ns();
        if ((id == *open && f->script != DEAF) || f->script == WAITS)
            say_end(f, id, KVW_E_CANCELED, "the request was canceled");
        *open = id == *open ? 0 : *open;
        return;
    }
    kve_json_u64(obj, "seed", 0, 1ull << 52, &seed);
    kve_json_u64(obj, "max_tokens", 0, 1u << 24, &max_tokens);
    f->last.sample.seed = seed;
    f->last.max_tokens = (uint32_t)max_tokens;
    ++f->requests;
    *open = f->script == WAITS || f->script == BABBLES ? id : 0;
    serve_request(f, id);
}

static void *fake_main(void *arg)
{
    struct fake *f = arg;
    uint64_t open = 0;
    kvw_err err = KVW_E_AGAIN;
    cJSON *obj;

    kve_channel_init(&f->c, accept(f->fd, NULL, NULL));
    kve_channel_write(&f->c, say("loaded", 0));
    obj = say("link", 0);
    cJSON_AddStringToObject(obj, "state", "up");
    kve_channel_write(&f->c, obj);
    while (err == KVW_E_AGAIN) {
        while ((obj = kve_channel_read(&f->c, &err)) != NULL) {
            take_op(f, obj, &open);
            cJSON_Delete(obj);
        }
        if (open != 0 && f->script == BABBLES)
            say_token(f, open, TB_BYTE + 'x');
        poll(&(struct pollfd){.fd = f->c.fd, .events = POLLIN}, 1,
             open != 0 && f->script == BABBLES ? 1 : 200);
    }
    kve_channel_close(&f->c);
    return NULL;
}

/* Listen; each begins as SERVES. */
static void fakes_open(void)
{
    static const char *const names[] = {"prefill", "decode"};
    char why[KVE_WHY_BYTES];

    strcpy(fakes_dir, "/tmp/kve-fakes-XXXXXX");
    cr_assert_not_null(mkdtemp(fakes_dir));
    for (int i = 0; i < 2; ++i) {
        snprintf(fakes_at[i], sizeof(fakes_at[i]), "%s/%s", fakes_dir, names[i]);
        fakes[i] = (struct fake){.decode = i == 1};
        cr_assert_eq(kve_control_listen(&fakes[i].fd, fakes_at[i], why), KVW_OK);
    }
}

static void fakes_start(void)
{
    for (int i = 0; i < 2; ++i)
        cr_assert_eq(pthread_create(&threads[i], NULL, fake_main, &fakes[i]), 0);
}

/* They end with the channel. */
static void fakes_join(void)
{
    for (int i = 0; i < 2; ++i)
        pthread_join(threads[i], NULL);
}

static void fakes_close(void)
{
    for (int i = 0; i < 2; ++i)
        unlink(fakes_at[i]);
    rmdir(fakes_dir);
}

#endif
