/* SPDX-License-Identifier: Apache-2.0 */
/*
 * verbs_crash [--must error|recover] [--repair COMMAND] SENDER LISTENER:PORT COMMAND: puts at a
 * steady pace from one process to another, then COMMAND, which breaks something ($LISTENER is the
 * other process). Exit status 0 if, by the monotonic clock,
 *
 *   1. within 2 s of COMMAND's start the sender had an error, or a put posted after COMMAND's end
 *      was done ("recovered");
 *   2. every put that was taken was done exactly once;
 *   3. within 2 s of the listener's end the sender's device has exactly the objects that it had
 *      before there was a connection ("rdma resource");
 *   4. after COMMAND (REPAIR, if given) the same sender joins a new listener, which gets its puts.
 *
 * It prints the milliseconds of each. The load is light, so that an emulated CPU isn't the limit.
 */
#include <getopt.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench_side.h"

#define PUT_BYTES 16384u
#define WARM      40u /* puts before the fault */
#define FLIGHT    8u  /* puts on their way at most */
#define LIMIT_NS  2000000000ull
#define PACE_NS   5000000ull
#define PUTS_MAX  65536u

static uint8_t times_done[PUTS_MAX]; /* by cookie */
static uint64_t posted, next_put_ns;
static const char *must = "", *repair;

static double ms_since(uint64_t t)
{
    return (double)(now_ns() - t) / 1e6;
}

static _Noreturn void fail(const char *what, const char *detail)
{
    fprintf(stderr, "verbs_crash: %s: %s\n", what, detail);
    if (repair != NULL)
        (void)!system(repair);
    exit(1); /* the listeners end with us */
}

/* What all devices have, by device, as the kernel counts it. */
static void objects(char to[512])
{
    FILE *f = popen("rdma resource show | sed 's/^[0-9]*: //' | sort | tr '\\n' "
                    "';'",
                    "r");

    if (f == NULL || fgets(to, 512, f) == NULL || pclose(f) != 0)
        fail("rdma resource show", "no answer");
}

static pid_t start(const char *command, pid_t listener_pid)
{
    char *argv[] = {"sh", "-c", (char *)(uintptr_t)command, NULL};
    extern char **environ;
    char number[16];
    pid_t pid;

    snprintf(number, sizeof(number), "%d", (int)listener_pid);
    setenv("LISTENER", number, 1);
    if (posix_spawn(&pid, "/bin/sh", NULL, NULL, argv, environ) != 0)
        fail("can't run", command);
    return pid;
}

/* One step of the load. */
static void load(void)
{
    const uint64_t now = now_ns();

    if (now >= next_put_ns) {
        const uint64_t at = posted % 64 * PUT_BYTES;

        next_put_ns = now + PACE_NS;
        if (!me.down && posted - me.done < FLIGHT && posted < PUTS_MAX &&
            put(at, me.source + at, PUT_BYTES, (uint32_t)posted) == KVW_OK)
            ++posted;
    }
    step_until(next_put_ns);
}

static void load_until_done(uint64_t count, const char *what)
{
    const uint64_t begin = now_ns();

    while (me.done < count && !me.down)
        load();
    if (me.down || me.failed != 0)
        fail(what, me.why);
    printf("%s: %llu puts in %.0f ms\n", what, (unsigned long long)count, ms_since(begin));
}

/* The clock starts before COMMAND does, and stops with an error or with a put that began
 * after it. */
static void crash(const char *command, pid_t listener_pid)
{
    const uint64_t begin = now_ns();
    uint64_t after = UINT64_MAX;
    const pid_t pid = start(command, listener_pid);
    bool running = true, recovered = false;
    int status = 0;

    while (!me.down && !recovered && now_ns() < begin + 5 * LIMIT_NS) {
        load();
        if (running && waitpid(pid, &status, WNOHANG) == pid) {
            running = false;
            after = posted;
            if (status != 0)
                fail("the command failed", command);
        }
        /* What has been killed may still answer: its queue pairs go when the kernel gets to it. */
        recovered =
            strcmp(must, "error") != 0 && !running && posted > after && me.times_done[after] > 0;
    }
    const uint64_t took = now_ns() - begin;

    printf("%s after %.0f ms%s%s\n",
           me.down     ? "error"
           : recovered ? "recovered"
                       : "nothing",
           (double)took / 1e6, me.down ? ": " : "", me.down ? me.why : "");
    if (took > LIMIT_NS)
        fail("later than 2 s", "see above");
    if (strcmp(must, "error") == 0 ? !me.down : strcmp(must, "recover") == 0 ? me.down : false)
        fail("it must end in", must);
    if (running && (waitpid(pid, &status, 0) != pid || status != 0)) /* rxe's end waits for ours */
        fail("the command failed", command);
}

static void each_done_once(void)
{
    while (!me.down && me.done < posted)
        load();
    for (uint64_t i = 0; i < posted; ++i)
        if (me.times_done[i] != 1)
            fail("a put was not done exactly once", me.times_done[i] == 0 ? "never" : "twice");
    printf("%llu puts, each done once, %llu of them with an error\n", (unsigned long long)posted,
           (unsigned long long)me.failed);
}

static void nothing_left(const char *before, pid_t listener_pid)
{
    const uint64_t begin = now_ns();
    char now[512];

    if (!me.down)
        me.t->ops->disconnect(me.t, me.conn, begin);
    (void)kill(listener_pid, SIGKILL);
    (void)waitpid(listener_pid, NULL, 0);
    do {
        step_until(now_ns() + 20000000);
        objects(now);
    } while (strcmp(before, now) != 0 && now_ns() < begin + LIMIT_NS);
    printf("objects as before after %.0f ms: %s\n", ms_since(begin), now);
    if (strcmp(before, now) != 0)
        fail("objects before it all", before);
}

int main(int argc, char **argv)
{
    static const struct option options[] = {{"must", required_argument, NULL, 'm'},
                                            {"repair", required_argument, NULL, 'r'},
                                            {NULL, 0, NULL, 0}};
    int opt, first[2], second[2];
    char before[512];
    pid_t one, two;

    while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (opt == 'm')
            must = optarg;
        else if (opt == 'r')
            repair = optarg;
        else
            return 2;
    }
    if (argc - optind != 3 || pipe(first) != 0 || pipe(second) != 0)
        fail("usage", "verbs_crash [--must error|recover] [--repair COMMAND] SENDER LISTENER CMD");
    setvbuf(stdout, NULL, _IOLBF, 0);
    me.times_done = times_done;
    me.sleeps = true;
    me.bytes = 64 * PUT_BYTES;
    one = listener(argv[optind + 1], false, first[0]);
    two = listener(argv[optind + 1], false, second[0]);
    open_side(argv[optind], false);
    objects(before);
    if (write(first[1], "x", 1) != 1)
        fail("pipe", "the first listener");
    join(argv[optind + 1]);
    load_until_done(WARM, "before it");
    crash(argv[optind + 2], one);
    each_done_once();
    if (repair != NULL && system(repair) != 0)
        fail("the command failed", repair);
    repair = NULL;
    nothing_left(before, one);
    if (write(second[1], "x", 1) != 1)
        fail("pipe", "the second listener");
    join(argv[optind + 1]);
    posted = me.done = me.failed = 0;
    load_until_done(WARM, "the next request");
    me.t->ops->close(me.t);
    return waitpid(two, NULL, 0) == two ? 0 : 1;
}
