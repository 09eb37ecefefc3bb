/* SPDX-License-Identifier: Apache-2.0 */
/* Standard output: a reader that stands still holds up nobody, and what can't be written
 * is said. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../../../engine/serve/clock.h"
#include "../../../engine/gguf/gguf.h"
#include "../../../engine/serve/output.h"

enum {
    MUCH = 1 << 20, /* more than a pipe holds */
};

static int ends[2];
static struct kve_output out;
static char *text;

static void open_pipe(void)
{
    signal(SIGPIPE, SIG_IGN);
    cr_assert_eq(pipe(ends), 0);
    kve_output_open(&out, ends[1]);
    text = malloc(MUCH);
    for (size_t i = 0; i < MUCH; ++i)
        text[i] = (char)(i * 7 + i / 251);
}

static void close_pipe(void)
{
    kve_output_close(&out);
    free(text);
}

TestSuite(output, .init = open_pipe, .fini = close_pipe, .timeout = 60);

static void *read_all(void *arg)
{
    size_t at = 0;
    ssize_t n;
    char buf[5000];

    usleep(300 * 1000);
    while ((n = read(ends[0], buf, sizeof(buf))) > 0) {
        if (at + (size_t)n > MUCH || memcmp(buf, text + at, (size_t)n) != 0)
            return NULL;
        at += (size_t)n;
    }
    *(size_t *)arg = at;
    return NULL;
}

Test(output, all_of_it_arrives_and_no_step_waits)
{
    const uint64_t start = kve_now_ns();
    pthread_t thread;
    size_t got = 0;

    for (size_t i = 0; i < MUCH; i += 1024) {
        cr_assert_eq(kve_output_add(&out, text + i, 1024), KVW_OK);
        cr_assert(kve_output_step(&out));
    }
    cr_expect(kve_output_waiting(&out), "a pipe of 1 MB: no test");
    cr_expect_lt(kve_now_ns() - start, 20 * KVE_S);
    cr_assert_eq(pthread_create(&thread, NULL, read_all, &got), 0);
    cr_expect(kve_output_finish(&out, kve_now_ns() + 30 * KVE_S, NULL));
    cr_expect_not(kve_output_waiting(&out));
    close(ends[1]);
    pthread_join(thread, NULL);
    cr_expect_eq(got, MUCH, "%zu bytes came, in order", got);
}

Test(output, a_reader_that_has_left_is_seen_without_writing)
{
    char why[KVE_WHY_BYTES];

    cr_expect(kve_output_step(&out));
    close(ends[0]);
    cr_expect_not(kve_output_step(&out));
    kve_output_why(&out, why);
    cr_expect(strstr(why, "its reader has left") != NULL, "%s", why);
    cr_expect_not(kve_output_finish(&out, kve_now_ns() + KVE_S, NULL));
}

Test(output, a_reader_that_leaves_a_full_pipe_is_seen)
{
    char why[KVE_WHY_BYTES];

    cr_assert_eq(kve_output_add(&out, text, MUCH), KVW_OK);
    cr_expect(kve_output_step(&out));
    close(ends[0]);
    cr_expect_not(kve_output_finish(&out, kve_now_ns() + 10 * KVE_S, NULL));
    kve_output_why(&out, why);
    cr_expect(strstr(why, "its reader has left") != NULL, "%s", why);
}

Test(output, a_full_disk_is_said_once_and_for_all)
{
    char why[KVE_WHY_BYTES];
    const int fd = open("/dev/full", O_WRONLY);

    cr_assert_geq(fd, 0);
    kve_output_open(&out, fd);
    cr_expect(kve_output_step(&out), "nothing to write yet");
    cr_assert_eq(kve_output_add(&out, text, 10), KVW_OK);
    cr_expect_not(kve_output_step(&out));
    kve_output_why(&out, why);
    cr_expect(strstr(why, "No space left") != NULL, "%s", why);
    cr_expect_not(kve_output_step(&out));
    close(fd);
}

Test(output, a_descriptor_that_cant_be_written_has_failed_at_once)
{
    const int fds[] = {open("/dev/null", O_RDONLY), 999};
    char why[KVE_WHY_BYTES];

    for (int i = 0; i < 2; ++i) {
        kve_output_open(&out, fds[i]);
        cr_expect_not(kve_output_step(&out));
        kve_output_why(&out, why);
        cr_expect(strstr(why, "not open for writing") != NULL, "%s", why);
    }
}

Test(output, finishing_ends_with_its_time)
{
    const uint64_t start = kve_now_ns();
    char why[KVE_WHY_BYTES];

    cr_assert_eq(kve_output_add(&out, text, MUCH), KVW_OK);
    cr_expect_not(kve_output_finish(&out, start + 300 * KVE_MS, NULL));
    cr_expect_geq(kve_now_ns() - start, 300 * KVE_MS);
    kve_output_why(&out, why);
    cr_expect(strstr(why, "not read in time") != NULL, "%s", why);
    cr_expect_not(kve_output_step(&out), "for good");
}

static _Atomic int stop;

static void *stop_soon(void *arg)
{
    (void)arg;
    usleep(200 * 1000);
    stop = 1;
    return NULL;
}

Test(output, finishing_ends_with_a_stop)
{
    const uint64_t start = kve_now_ns();
    pthread_t thread;

    cr_assert_eq(kve_output_add(&out, text, MUCH), KVW_OK);
    cr_assert_eq(pthread_create(&thread, NULL, stop_soon, NULL), 0);
    cr_expect_not(kve_output_finish(&out, start + 600 * KVE_S, &stop));
    cr_expect_lt(kve_now_ns() - start, 20 * KVE_S);
    pthread_join(thread, NULL);
}
