/* SPDX-License-Identifier: Apache-2.0 */
/* kvperf's control connection: no wait is without an end, half a line is the last, and what a
 * stranger says can't reach a terminal or a file as it is. */
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../../perf/kvperf/line.h"
#include "../../perf/kvperf/text.h"
#include <kvwire/node.h>

#define MS 1000000ull

static int listener, far; /* far: the other side, a bare socket */
static struct kvp_line line;

static int dial(uint16_t port, int receive_bytes)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    const int fd = socket(AF_INET, SOCK_STREAM, 0);

    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (receive_bytes > 0)
        (void)setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &receive_bytes, sizeof(receive_bytes));
    cr_assert_eq(connect(fd, (struct sockaddr *)&to, sizeof(to)), 0);
    return fd;
}

static void join(void)
{
    char why[KVP_WHY] = "";
    uint16_t port = 0;

    cr_assert_geq(listener = kvp_line_listen("127.0.0.1", &port, why), 0, "%s", why);
    far = dial(port, 4096);
    cr_assert(kvp_line_accept(&line, listener, why), "%s", why);
}

static void say(const char *bytes, size_t n)
{
    cr_assert_eq(send(far, bytes, n, MSG_NOSIGNAL), (ssize_t)n);
}

Test(line, a_reader_that_stalls_ends_a_send_and_nothing_follows_half_a_line)
{
    const int few = 4096;
    char *text = malloc((3 << 20) + 1), got[65536], why[KVP_WHY] = "";
    cJSON *msg = kvp_msg("landed");
    size_t ends = 0;
    ssize_t n;

    join();
    (void)setsockopt(line.fd, SOL_SOCKET, SO_SNDBUF, &few, sizeof(few));
    line.send_ns = 200 * MS;
    memset(text, 'x', 3 << 20);
    text[3 << 20] = '\0';
    cJSON_AddStringToObject(msg, "text", text);
    free(text);
    cr_expect_not(kvp_line_send(&line, msg, why), "nobody has read it");
    cr_expect_str_eq(why, "the other side reads nothing, or too slowly");
    cr_expect_not(kvp_line_send(&line, kvp_msg("error"), why), "behind half a line");
    while ((n = recv(far, got, sizeof(got), 0)) > 0)
        for (ssize_t i = 0; i < n; ++i)
            ends += got[i] == '\n';
    cr_expect_eq(ends, 0, "a line's end came, of which line?");
    kvp_line_close(&line);
}

/* One who reads, if slowly, gets all of it: the control of the above. */
Test(line, a_reader_that_reads_gets_the_whole_line)
{
    char why[KVP_WHY] = "", got[64] = "";

    join();
    cr_expect(kvp_line_send(&line, kvp_msg("offered"), why), "%s", why);
    cr_expect_gt(recv(far, got, sizeof(got) - 1, 0), 0);
    cr_expect_str_eq(got, "{\"type\":\"offered\"}\n");
    kvp_line_close(&line);
}

/* The kernel takes a time-out of 0 for none, and a second address has what the first one left. */
Test(line, a_connect_that_has_no_time_left_has_an_end)
{
    struct kvp_line to;
    char why[KVP_WHY] = "";
    struct sockaddr_in at;
    socklen_t bytes = sizeof(at);
    int full[8];

    listener = socket(AF_INET, SOCK_STREAM, 0);
    at = (struct sockaddr_in){.sin_family = AF_INET};
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    cr_assert_eq(bind(listener, (struct sockaddr *)&at, sizeof(at)), 0);
    cr_assert_eq(listen(listener, 0), 0);
    cr_assert_eq(getsockname(listener, (struct sockaddr *)&at, &bytes), 0);
    for (int i = 0; i < 8; ++i) { /* nobody accepts: further ones get no answer */
        full[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        (void)!connect(full[i], (struct sockaddr *)&at, sizeof(at));
    }
    cr_expect_not(
        kvp_line_connect(&to, "127.0.0.1", ntohs(at.sin_port), kvw_now_ns() - 5 * MS, why));
    cr_expect_not_null(strstr(why, "timed out"), "%s", why);
    kvp_line_close(&to);
}

Test(line, what_a_stranger_says_is_clean)
{
    static const char text[] =
        "{\"type\":\"hello\",\"a\x1b[2J\":\"b\\u001b]0;\xc2\x9b\xed\xa0\x80z\xc3\xa9\"}\n";
    char why[KVP_WHY] = "";
    cJSON *msg;

    join();
    say(text, sizeof(text) - 1);
    cr_assert_not_null(msg = kvp_line_recv(&line, kvw_now_ns() + 5000 * MS, why), "%s", why);
    cr_expect_str_eq(kvp_msg_text(msg, "a?[2J", "no such field"), "b?]0;????z\xc3\xa9");
    cJSON_Delete(msg);
    kvp_line_close(&line);
}

/* What stands behind an object, or behind a NUL, would be read by nobody. */
Test(line, nothing_is_left_unread)
{
    static const struct {
        const char *bytes;
        size_t n;
    } wrong[] = {{"{\"type\":\"bye\"} {}\n", 18}, {"{\"type\":\"bye\"}\0{}\n", 18}, {"[1]\n", 4}};

    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); ++i) {
        char why[KVP_WHY] = "";

        join();
        say(wrong[i].bytes, wrong[i].n);
        cr_expect_null(kvp_line_recv(&line, kvw_now_ns() + 5000 * MS, why), "%zu", i);
        cr_expect_str_eq(why, "the other side doesn't speak kvperf's protocol");
        kvp_line_close(&line);
        close(far);
        close(listener);
    }
}

Test(text, only_well_formed_utf8_is_left)
{
    static const char *const texts[][2] = {
        {"plain", "plain"},
        {"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80", "\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80"},
        {"\xf4\x8f\xbf\xbf\xed\x9f\xbf\xee\x80\x80", "\xf4\x8f\xbf\xbf\xed\x9f\xbf\xee\x80\x80"},
        {"a\xed\xa0\x80z", "a???z"},      /* a surrogate */
        {"a\xf4\x90\x80\x80z", "a????z"}, /* behind the last */
        {"a\xc0\x80\xc1\xbfz", "a????z"}, /* longer than need be */
        {"a\xe0\x9f\xbfz", "a???z"},
        {"a\xf0\x8f\xbf\xbfz", "a????z"},
        {"a\x80\xbf\xf5\xffz", "a????z"},
        {"a\xe2\x82", "a??"},                 /* cut off */
        {"a\xe2\x82\xc3\xa9", "a??\xc3\xa9"}, /* and the next one stays */
        {"\x1b[0m\x7f\xc2\x85", "\x1b[0m\x7f\xc2\x85"},
    };

    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); ++i) {
        char text[32];

        snprintf(text, sizeof(text), "%s", texts[i][0]);
        kvp_text_clean(text, false);
        cr_expect_str_eq(text, texts[i][1], "%zu", i);
    }
    char text[] = "\x1b[0m\t\x7f\xc2\x85\xc2\xa0";

    kvp_text_clean(text, true);
    cr_expect_str_eq(text, "?[0m???\xc2\xa0");
}
