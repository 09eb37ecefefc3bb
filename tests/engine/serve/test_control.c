/* SPDX-License-Identifier: Apache-2.0 */
/* A control channel carries whole lines or ends: a reader that stands still holds the writer up, a
 * write that did not get through is followed by nothing, and what is no object is refused. */
#include <criterion/criterion.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../../../engine/serve/clock.h"
#include "../../../engine/serve/control.h"
#include "../../../engine/gguf/gguf.h"

static struct kve_channel a, b;

static void open_pair(void)
{
    int fds[2];

    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    kve_channel_init(&a, fds[0]);
    kve_channel_init(&b, fds[1]);
}

static void close_pair(void)
{
    kve_channel_close(&a);
    kve_channel_close(&b);
}

TestSuite(control, .init = open_pair, .fini = close_pair, .timeout = 60);

static cJSON *numbered(uint64_t n)
{
    cJSON *obj = cJSON_CreateObject();

    cJSON_AddStringToObject(obj, "ev", "token");
    cJSON_AddNumberToObject(obj, "n", (double)n);
    return obj;
}

static void send_raw(const char *text, size_t n)
{
    cr_assert_eq(send(b.fd, text, n, MSG_NOSIGNAL), (ssize_t)n);
}

/* Read numbered objects from the channel until it says *err; returns how many came, in order. */
static uint64_t read_numbered(struct kve_channel *c, uint64_t first, kvw_err *err)
{
    uint64_t n = first, got;
    cJSON *obj;

    while ((obj = kve_channel_read(c, err)) != NULL) {
        cr_assert(kve_json_u64(obj, "n", 0, 1u << 30, &got));
        cr_assert_eq(got, n, "%llu came in place of %llu", (unsigned long long)got,
                     (unsigned long long)n);
        ++n;
        cJSON_Delete(obj);
    }
    return n - first;
}

Test(control, lines_come_whole_and_in_order_however_they_are_cut)
{
    static const char text[] = "{\"n\":0}\n{\"n\":1}\r\n  {\"n\":2}\n{\"n\"";
    kvw_err err;

    cr_expect_null(kve_channel_read(&a, &err));
    cr_expect_eq(err, KVW_E_AGAIN);
    send_raw(text, sizeof(text) - 1);
    cr_expect_eq(read_numbered(&a, 0, &err), 3);
    cr_expect_eq(err, KVW_E_AGAIN);
    send_raw(":3}\n", 4);
    cr_expect_eq(read_numbered(&a, 3, &err), 1);
    cr_expect_not(kve_channel_hung_up(&a));
    kve_channel_close(&b);
    cr_expect(kve_channel_hung_up(&a));
    cr_expect_null(kve_channel_read(&a, &err));
    cr_expect_eq(err, KVW_E_PEER_LOST);
}

static const struct {
    const char *text;
    size_t bytes; /* 0: strlen */
    const char *why;
} objects[] = {
    {"{}", 0, NULL},
    {" {\"a\":[1,{\"b\":\"\\\\u0000\"}]} \r\n", 0, NULL},
    {"", 0, "byte 1: no JSON"},
    {"   ", 0, "no JSON"},
    {"{\"a\":1", 0, "no JSON"},
    {"[1]", 0, "no object"},
    {"\"text\"", 0, "no object"},
    {"{} {}", 0, "byte 4: something behind"},
    {"{\"a\":1}x", 0, "byte 8: something behind"},
    {"{\"a\":\"b\\u0000c\"}", 0, "byte 8: a NUL"},
    {"{\"a\":\"b\\\\\\u0000c\"}", 0, "byte 10: a NUL"},
    {"{\"a\":\"b\0c\"}", 11, "byte 8: a NUL"},
    {"{}\0", 3, "byte 3: a NUL"},
};

Test(control, an_object_is_all_of_its_text_without_a_nul)
{
    for (size_t i = 0; i < sizeof(objects) / sizeof(objects[0]); ++i) {
        const size_t n = objects[i].bytes != 0 ? objects[i].bytes : strlen(objects[i].text);
        char why[KVE_WHY_BYTES] = "", *exact = malloc(n + 1);
        memcpy(exact, objects[i].text, n); /* a heap block of its own: reading past it shows */
        cJSON *obj = kve_json_object(exact, n, why);

        cr_expect_eq(obj != NULL, objects[i].why == NULL, "row %zu: %s", i, why);
        if (objects[i].why != NULL)
            cr_expect(strstr(why, objects[i].why) != NULL, "row %zu: %s", i, why);
        cJSON_Delete(obj);
        free(exact);
    }
}

Test(control, what_is_no_object_is_a_broken_channel)
{
    static const char *const bad[] = {"nonsense\n", "[1]\n", "{} {}\n", "{\"op\":\"a\\u0000\"}\n"};
    kvw_err err;

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); ++i) {
        send_raw(bad[i], strlen(bad[i]));
        cr_expect_null(kve_channel_read(&a, &err));
        cr_expect_eq(err, KVW_E_PROTOCOL, "row %zu", i);
    }
}

static void *send_long(void *arg)
{
    char *text = malloc(1u << 16);
    (void)arg;

    memset(text, ' ', 1u << 16);
    for (size_t sent = 0; sent <= KVE_LINE_MAX + (1u << 20);) {
        const ssize_t n = send(b.fd, text, 1u << 16, MSG_NOSIGNAL);
        if (n < 0)
            break;
        sent += (size_t)n;
    }
    free(text);
    return NULL;
}

Test(control, a_line_too_long_is_refused_by_both_ends)
{
    char *text = malloc(KVE_LINE_MAX + 1);
    cJSON *obj = cJSON_CreateObject();
    pthread_t thread;
    kvw_err err;

    memset(text, 'x', KVE_LINE_MAX);
    text[KVE_LINE_MAX] = '\0';
    cJSON_AddStringToObject(obj, "t", text);
    free(text);
    cr_expect_eq(kve_channel_write(&a, obj), KVW_E_INVALID);
    cr_expect_eq(kve_channel_write(&a, numbered(0)), KVW_OK, "the channel is as before");
    cr_expect_eq(read_numbered(&b, 0, &err), 1);

    cr_assert_eq(pthread_create(&thread, NULL, send_long, NULL), 0);
    while (kve_channel_read(&a, &err) == NULL && err == KVW_E_AGAIN)
        usleep(1000);
    cr_expect_eq(err, KVW_E_PROTOCOL);
    kve_channel_close(&a);
    pthread_join(thread, NULL);
}

enum {
    MANY = 3000,
};

static void *read_late(void *arg)
{
    uint64_t n = 0;
    kvw_err err;

    (void)arg;
    usleep(2500 * 1000); /* more than a write waits without write_by_ns */
    do {
        n += read_numbered(&b, n, &err);
        usleep(500);
    } while (err == KVW_E_AGAIN && n < MANY);
    return (void *)(uintptr_t)n;
}

Test(control, a_reader_that_stands_still_holds_the_writer_up)
{
    const uint64_t start = kve_now_ns();
    pthread_t thread;
    void *n;

    a.write_by_ns = start + 30 * KVE_S;
    cr_assert_eq(pthread_create(&thread, NULL, read_late, NULL), 0);
    for (uint64_t i = 0; i < MANY; ++i)
        cr_assert_eq(kve_channel_write(&a, numbered(i)), KVW_OK, "line %llu",
                     (unsigned long long)i);
    pthread_join(thread, &n);
    cr_expect_eq((uintptr_t)n, (uintptr_t)MANY);
    cr_expect_geq(kve_now_ns() - start, 2 * KVE_S, "the writer never waited: no test");
}

/* Lines until one does not get through; how many did. */
static uint64_t write_until_lost(void)
{
    uint64_t n = 0;

    while (kve_channel_write(&a, numbered(n)) == KVW_OK && n < 1u << 20)
        ++n;
    return n;
}

Test(control, after_half_a_line_comes_the_end_and_nothing_else)
{
    const uint64_t start = kve_now_ns();
    kvw_err err;
    int small = 1;

    setsockopt(a.fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
    cr_assert_eq(kve_channel_write(&b, numbered(0)), KVW_OK);
    a.write_by_ns = start + 300 * KVE_MS;
    const uint64_t sent = write_until_lost();
    cr_expect_geq(kve_now_ns() - start, 300 * KVE_MS, "it gave up too early");
    cr_expect_lt(kve_now_ns() - start, 20 * KVE_S);
    cr_expect(a.failed);
    cr_expect_eq(read_numbered(&a, 0, &err), 1, "what had come can still be read");
    cr_expect_eq(err, KVW_E_PEER_LOST);
    /* The reader makes room: a line that went out now would stand behind half of another one. */
    cr_expect_eq(read_numbered(&b, 0, &err), sent);
    cr_expect_eq(err, KVW_E_PEER_LOST);
    a.write_by_ns = 0;
    cr_expect_eq(kve_channel_write(&a, numbered(sent + 1)), KVW_E_PEER_LOST);
    cr_expect_eq(read_numbered(&b, sent, &err), 0);
    cr_expect_eq(err, KVW_E_PEER_LOST);
}

static _Atomic int stop;

static void *stop_soon(void *arg)
{
    (void)arg;
    usleep(200 * 1000);
    stop = 1;
    return NULL;
}

Test(control, a_stop_ends_a_write_that_waits)
{
    const uint64_t start = kve_now_ns();
    pthread_t thread;

    a.stop = &stop;
    a.write_by_ns = start + 600 * KVE_S;
    cr_assert_eq(pthread_create(&thread, NULL, stop_soon, NULL), 0);
    (void)write_until_lost();
    cr_expect_lt(kve_now_ns() - start, 20 * KVE_S);
    pthread_join(thread, NULL);
}

Test(control, a_closed_channel_takes_and_gives_nothing)
{
    kvw_err err;

    kve_channel_close(&a);
    cr_expect_eq(kve_channel_write(&a, numbered(0)), KVW_E_PEER_LOST);
    cr_expect_null(kve_channel_read(&a, &err));
    cr_expect_eq(err, KVW_E_PEER_LOST);
    cr_expect(kve_channel_hung_up(&a));
    cr_expect_eq(kve_channel_write(&b, numbered(0)), KVW_E_PEER_LOST);
    cr_expect_eq(kve_channel_write(&b, NULL), KVW_E_NOMEM);
}

Test(control, numbers_are_whole_and_in_range)
{
    char why[KVE_WHY_BYTES];
    cJSON *obj = kve_json_object("{\"a\":3,\"b\":3.5,\"c\":\"3\",\"d\":-1,\"e\":1e300}", 40, why);
    uint64_t v = 77;
    double d;

    cr_assert_not_null(obj, "%s", why);
    cr_expect(kve_json_u64(obj, "a", 3, 3, &v) && v == 3);
    cr_expect_not(kve_json_u64(obj, "a", 4, 9, &v));
    cr_expect_not(kve_json_u64(obj, "a", 0, 2, &v));
    cr_expect_not(kve_json_u64(obj, "b", 0, 9, &v));
    cr_expect_not(kve_json_u64(obj, "c", 0, 9, &v));
    cr_expect_not(kve_json_u64(obj, "d", 0, 9, &v));
    cr_expect_not(kve_json_u64(obj, "e", 0, 1ull << 52, &v));
    cr_expect_not(kve_json_u64(obj, "A", 0, 9, &v), "keys are case-sensitive");
    cr_expect_eq(v, 3);
    cr_expect(kve_json_f64(obj, "b", 3.5, 3.5, &d) && d == 3.5);
    cr_expect_str_eq(kve_json_str(obj, "c"), "3");
    cr_expect_str_eq(kve_json_str(obj, "a"), "");
    cJSON_Delete(obj);
}

Test(control, a_stale_socket_is_replaced_and_nothing_else)
{
    char dir[] = "/tmp/kve-control-XXXXXX", path[64], file[64], long_path[200], why[KVE_WHY_BYTES];
    int first, second, fd;

    cr_assert_not_null(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/c", dir);
    snprintf(file, sizeof(file), "%s/f", dir);
    snprintf(long_path, sizeof(long_path), "%s/%0150d", dir, 1);
    cr_expect_eq(kve_control_connect(&fd, path, why), KVW_E_ADDRESS);
    cr_assert_eq(kve_control_listen(&first, path, why), KVW_OK, "%s", why);
    cr_assert_eq(kve_control_connect(&fd, path, why), KVW_OK, "%s", why);
    close(fd);
    cr_expect_eq(kve_control_listen(&second, path, why), KVW_E_ADDRESS);
    cr_expect(strstr(why, path) != NULL && strstr(why, "in use") != NULL, "%s", why);
    close(first);
    cr_assert_eq(kve_control_listen(&second, path, why), KVW_OK, "%s", why);
    close(second);
    FILE *f = fopen(file, "w");
    cr_assert_not_null(f);
    fclose(f);
    cr_expect_eq(kve_control_listen(&fd, file, why), KVW_E_ADDRESS);
    cr_expect_eq(access(file, F_OK), 0, "it was removed");
    cr_expect_eq(kve_control_listen(&fd, long_path, why), KVW_E_ADDRESS);
    cr_expect_eq(kve_control_connect(&fd, long_path, why), KVW_E_ADDRESS);
    unlink(path);
    unlink(file);
    rmdir(dir);
}
