/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs Criterion's tests without libcriterion, for -Db_sanitize=thread: libcriterion maps an
 * arena at a random address that ThreadSanitizer's shadow doesn't cover, and aborts. The tests
 * include Criterion's headers as ever; this file defines what those call, finds the tests in
 * the section that Test() puts them in, and runs each in a forked child, one after the other,
 * with TAP on stdout. Fixtures, parameters, skips, timeouts, expected signals and exit codes
 * are as in Criterion; of its options there are --list and --filter PATTERN.
 */
#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <errno.h>
#include <fnmatch.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SLOWER    10  /* times a test's own timeout: what ThreadSanitizer costs */
#define TIMEOUT_S 300 /* of a test that gives none */

/* The linker names these after the sections of Criterion's macros. Without TestSuite() there is no
 * second one. */
extern struct criterion_test *__start_cr_tst[], *__stop_cr_tst[];
extern struct criterion_suite *__start_cr_sts[] __attribute__((weak));
extern struct criterion_suite *__stop_cr_sts[] __attribute__((weak));

struct criterion_options criterion_options;

/* What the child tells its parent, in memory that both map. */
static struct {
    bool failed, skipped, timed_out;
    char why[512];
} * verdict;

static struct {
    const struct criterion_test *test;
    const struct criterion_suite *suite; /* NULL without TestSuite() */
    void *param;                         /* of a parameterized test, one element of its array */
    pthread_t thread;
    jmp_buf out; /* of the test's body, into its fixtures' end */
} now;

static void say_why(bool *what, const char *format, va_list args)
{
    if (!*what)
        vsnprintf(verdict->why, sizeof(verdict->why), format, args);
    *what = true;
}

int cr_asprintf(char **text, const char *format, ...)
{
    va_list args;
    int n;

    va_start(args, format);
    n = vasprintf(text, format, args);
    va_end(args);
    return n;
}

void cr_asprintf_free(char *text)
{
    free(text);
}

/* Each kind of message has the condition's own text as its first argument. */
char *cr_translate_assert_msg(int kind, ...)
{
    va_list args;
    char *text;

    va_start(args, kind);
    text = strdup(va_arg(args, const char *));
    va_end(args);
    return text;
}

void cri_asserts_passed_incr(void)
{
}

void criterion_send_assert(struct criterion_assert_stats *s)
{
    if (!s->passed)
        fprintf(stderr, "%s:%u: not so: %s\n", s->file, s->line, s->message);
}

void cr_log(enum criterion_severity severity, const char *format, ...)
{
    va_list args;

    (void)severity;
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
}

void criterion_continue_test(void)
{
    verdict->failed = true;
}

/* Of the test's thread the rest is left out and the fixtures end; another thread ends the child. */
void criterion_abort_test(void)
{
    verdict->failed = true;
    if (!pthread_equal(pthread_self(), now.thread))
        _exit(1);
    longjmp(now.out, 1);
}

void criterion_skip_test(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    say_why(&verdict->skipped, format, args);
    va_end(args);
    longjmp(now.out, 1);
}

void criterion_internal_test_setup(void)
{
    if (now.suite && now.suite->data->init)
        now.suite->data->init();
    if (now.test->data->init)
        now.test->data->init();
}

/* A failed init() comes back here, too, by the second setjmp in run(). */
void criterion_internal_test_main(void (*body)(void))
{
    if (setjmp(now.out))
        return;
    if (now.test->data->kind_ == CR_TEST_PARAMETERIZED)
        ((void (*)(void *))body)(now.param);
    else
        body();
}

void criterion_internal_test_teardown(void)
{
    if (setjmp(now.out))
        return;
    if (now.test->data->fini)
        now.test->data->fini();
    if (now.suite && now.suite->data->fini)
        now.suite->data->fini();
}

static const struct criterion_suite *suite_of(const struct criterion_test *t)
{
    for (struct criterion_suite **s = __start_cr_sts; s && s < __stop_cr_sts; ++s)
        if (*s && strcmp((*s)->name, t->category) == 0)
            return *s;
    return NULL;
}

static void timed_out(pid_t child, const char *name, unsigned seconds)
{
    fprintf(stderr, "%s: still running after %u s\n", name, seconds);
    kill(child, SIGKILL);
    verdict->timed_out = true;
}

/* The wait for one child, at most SECONDS; returns waitpid()'s status. */
static int wait_for(pid_t child, const char *name, unsigned seconds)
{
    const struct timespec tick = {0, 100000000};
    unsigned ticks = seconds * 10;
    int status = 0;
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    while (waitpid(child, &status, WNOHANG) == 0) {
        if (sigtimedwait(&set, NULL, &tick) >= 0 || (errno != EAGAIN && errno != EINTR))
            continue;
        if (ticks > 0 && --ticks == 0)
            timed_out(child, name, seconds);
    }
    return status;
}

static void in_child(const sigset_t *before)
{
    sigprocmask(SIG_SETMASK, before, NULL);
    now.thread = pthread_self();
    if (setjmp(now.out) == 0)
        now.test->test();
    else
        criterion_internal_test_teardown(); /* init() failed or skipped */
    fflush(NULL);
    exit(0); /* ThreadSanitizer makes it 66 if it reported anything */
}

/* Whether the child's end is the expected one; WHY says what it was. */
static bool ended_well(int status, char *why, size_t size)
{
    const int sig = now.test->data->signal, code = now.test->data->exit_code;

    if (verdict->timed_out)
        snprintf(why, size, "timed out");
    else if (WIFSIGNALED(status) && WTERMSIG(status) != sig)
        snprintf(why, size, "killed by signal %d", WTERMSIG(status));
    else if (WIFEXITED(status) && sig != 0)
        snprintf(why, size, "ended without signal %d", sig);
    else if (WIFEXITED(status) && WEXITSTATUS(status) != code)
        snprintf(why, size, "exit status %d (66: a report of ThreadSanitizer)",
                 WEXITSTATUS(status));
    else if (verdict->failed)
        snprintf(why, size, "an assertion failed");
    else
        return true;
    return false;
}

static bool run(const char *name)
{
    double s = now.test->data->timeout;
    sigset_t set, before;
    char why[128];
    bool ok;
    pid_t child;

    memset(verdict, 0, sizeof(*verdict));
    if (s == 0 && now.suite)
        s = now.suite->data->timeout;
    fflush(NULL);
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigprocmask(SIG_BLOCK, &set, &before);
    child = fork();
    if (child == 0)
        in_child(&before);
    ok = child > 0 && ended_well(wait_for(child, name, s > 0 ? (unsigned)(s * SLOWER) : TIMEOUT_S),
                                 why, sizeof(why));
    sigprocmask(SIG_SETMASK, &before, NULL);
    if (child < 0)
        printf("not ok - %s: no child\n", name);
    else if (!ok)
        printf("not ok - %s: %s\n", name, why);
    else if (verdict->skipped)
        printf("ok - %s # SKIP %s\n", name, verdict->why);
    else
        printf("ok - %s\n", name);
    fflush(stdout);
    return ok;
}

/* One test, or as many as it has parameters; returns how many failed. */
static unsigned run_all_of(const struct criterion_test *t, const char *filter, bool list,
                           unsigned *count)
{
    struct criterion_test_params p = {.length = 1};
    unsigned failed = 0;
    char name[256];

    snprintf(name, sizeof(name), "%s/%s", t->category, t->name);
    if (t->data->disabled || (filter && fnmatch(filter, name, 0) != 0))
        return 0;
    if (list) {
        puts(name);
        return 0;
    }
    if (t->data->kind_ == CR_TEST_PARAMETERIZED)
        p = t->data->param_();
    now.test = t;
    now.suite = suite_of(t);
    for (size_t i = 0; i < p.length; ++i) {
        if (t->data->kind_ == CR_TEST_PARAMETERIZED)
            snprintf(name, sizeof(name), "%s::%s(%zu)", t->category, t->name, i);
        else
            snprintf(name, sizeof(name), "%s::%s", t->category, t->name);
        now.param = (char *)p.params + i * p.size;
        failed += !run(name);
        ++*count;
    }
    if (p.cleanup)
        p.cleanup(&p);
    return failed;
}

int main(int argc, char **argv)
{
    unsigned count = 0, failed = 0;
    const char *filter = NULL;
    bool list = false;

    for (int i = 1; i < argc; ++i) {
        if (strcmp(argv[i], "--filter") == 0 && i + 1 < argc)
            filter = argv[++i];
        else if (strcmp(argv[i], "--list") == 0)
            list = true;
    }
    verdict =
        mmap(NULL, sizeof(*verdict), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (verdict == MAP_FAILED) {
        perror("mmap");
        return 2;
    }
    for (struct criterion_test **t = __start_cr_tst; t < __stop_cr_tst; ++t)
        if (*t)
            failed += run_all_of(*t, filter, list, &count);
    if (!list)
        printf("1..%u\n", count);
    return failed > 0 || (count == 0 && !list);
}
