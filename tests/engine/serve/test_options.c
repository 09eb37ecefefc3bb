/* SPDX-License-Identifier: Apache-2.0 */
/* Every option of `kvserve run` that means a worker reaches the worker that run starts: its command
 * line, read by the same program, gives the same configuration. kve_run_main and its like are
 * --wrap'ed; kvserve.c's main is kvserve_main here. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../../../engine/serve/run.h"
#include "../../../engine/serve/up.h"

int kvserve_main(int argc, char **argv);
int __wrap_kve_run_main(const struct kve_run_config *cfg);
int __wrap_kve_run_tokenize(const struct kve_run_config *cfg);
int __wrap_kve_worker_main(const struct kve_worker_config *cfg);
int __wrap_kve_up_main(const struct kve_up_config *cfg);

static struct kve_run_config ran;
static struct kve_worker_config worked;
static struct kve_up_config upped;
static int runs, works, ups;

int __wrap_kve_up_main(const struct kve_up_config *cfg)
{
    upped = *cfg;
    ++ups;
    return 0;
}

static unsigned closed; /* bit n: descriptor n wasn't there when it started */

/* 0: in their places are descriptors that fail when they are used; what is opened comes behind. */
static int standard_descriptors(void)
{
    char byte = 'x';

    for (int fd = 0; fd <= STDERR_FILENO; ++fd)
        if (fcntl(fd, F_GETFD) < 0)
            return 10 + fd;
    if (open("/dev/null", O_RDWR) <= STDERR_FILENO)
        return 20;
    if ((closed >> STDIN_FILENO & 1) != 0 && read(STDIN_FILENO, &byte, 1) >= 0)
        return 30;
    if ((closed >> STDOUT_FILENO & 1) != 0 && write(STDOUT_FILENO, &byte, 1) >= 0)
        return 31;
    return write(STDERR_FILENO, "", 0) < 0 ? 32 : 0;
}

int __wrap_kve_run_main(const struct kve_run_config *cfg)
{
    ran = *cfg;
    ++runs;
    return closed != 0 ? standard_descriptors() : 0;
}

int __wrap_kve_run_tokenize(const struct kve_run_config *cfg)
{
    (void)cfg;
    return 0;
}

int __wrap_kve_worker_main(const struct kve_worker_config *cfg)
{
    worked = *cfg;
    ++works;
    return 0;
}

/* to the worker; to the router; to HTTP; read elsewhere */
enum reach { WORKER, RUN, HTTP, OTHER };

static const struct {
    const char *name, *value; /* NULL: a flag */
    enum reach reach;
} table[] = {
    {"model", "m.gguf", WORKER},
    {"net", "udp", WORKER},
    {"link", "127.0.0.1:7000", WORKER},
    {"peer", "127.0.0.1:7001", WORKER}, /* over dpdk, the default */
    {"wait-peer", "0.25", WORKER},
    {"wait-peer", "1.5", WORKER},
    {"wait-peer", "86399.000000001", WORKER},
    {"codec", "raw", WORKER},
    {"codec", "auto", WORKER},
    {"codec", "l0", WORKER},
    {"encoders", "3", WORKER},
    {"lease", "10.5", WORKER},
    {"lease", "600000", WORKER},
    {"fault", "loss=0.05,seed=7", WORKER},
    {"trace", "/tmp/traces", WORKER},
    {"cpu", "2,4-5", WORKER},
    {"busy-poll", NULL, WORKER},
    {"device", "cuda:1", WORKER},
    {"kv-dtype", "bf16", WORKER},
    {"threads", "5", WORKER},
    {"kv-tokens", "320", WORKER},
    {"block-tokens", "8", WORKER},
    {"prefill-tokens", "64", WORKER},
    {"prefix-cache-dir", "/tmp/c", WORKER},
    {"quiet", NULL, WORKER},
    {"decode-model", "d.gguf", RUN},
    {"system", "s", RUN},
    {"raw", NULL, RUN},
    {"max-tokens", "3", RUN},
    {"temperature", "0.5", RUN},
    {"top-p", "0.5", RUN},
    {"seed", "7", RUN},
    {"ignore-end", NULL, RUN},
    {"timeout", "0.5", RUN},
    {"budget", "e8", RUN},
    {"exact", "5,129", RUN},
    {"save", "s.kv", RUN},
    {"restore", "s.kv", RUN},
    {"json", NULL, RUN},
    {"no-compare", NULL, RUN},
    {"listen", "127.0.0.1:0", HTTP},
    {"api-key-file", "k", HTTP},
    {"sequences", "3", HTTP},
    {"queue", "5", HTTP},
    {"max-body", "4096", HTTP},
    {"connections", "7", HTTP},
    {"no-reuse", NULL, HTTP},
    {"policy", "random", HTTP},
    {"ttft", "2", HTTP},
    {"itl", "0.1", HTTP},
    {"local", "64", HTTP},
    {"max-tokens", "9", HTTP},
    {"timeout", "3", HTTP},
    {"budget", "e8", HTTP},
    {"exact", "5,129", HTTP},
    /* what takes more than itself */
    {"lend", NULL, OTHER},
    {"prompt", NULL, OTHER},
    {"prompt-file", NULL, OTHER},
    {"batch", NULL, OTHER},
    {"control", NULL, OTHER},
    {"prefill-at", NULL, OTHER},
    {"decode-at", NULL, OTHER},
    {"prefill", NULL, OTHER},
    {"decode", NULL, OTHER},
    {"prefix-cache-disk-gb", NULL, OTHER},
    {"name", NULL, OTHER},
    {"help", NULL, OTHER},
    {"version", NULL, OTHER},
};

enum {
    ROWS = sizeof(table) / sizeof(table[0]),
};

static int call(int argc, char **argv)
{
    optind = 0; /* glibc: begin anew */
    return kvserve_main(argc, argv);
}

/* `kvserve run --model m --prompt p` and one row's option. */
static void run_with(size_t row)
{
    static char option[32], value[64]; /* what was read points there */
    char *argv[] = {"kvserve", "run", "--prompt", "p", "--model", "m.gguf", option, value};

    snprintf(option, sizeof(option), "--%s", row < ROWS ? table[row].name : "threads");
    snprintf(value, sizeof(value), "%s",
             row < ROWS ? table[row].value != NULL ? table[row].value : "" : "1");
    const int argc = row < ROWS && table[row].value == NULL ? 7 : 8;
    runs = 0;
    cr_assert_eq(call(argc, argv), 0, "%s %s", option, value);
    cr_assert_eq(runs, 1);
}

static bool same_text(const char *a, const char *b)
{
    return a == NULL || b == NULL ? a == b : strcmp(a, b) == 0;
}

static bool same(const struct kve_worker_config *a, const struct kve_worker_config *b)
{
    return same_text(a->model_path, b->model_path) && same_text(a->net, b->net) &&
           same_text(a->local, b->local) && same_text(a->peer, b->peer) &&
           same_text(a->fault, b->fault) && same_text(a->trace, b->trace) &&
           same_text(a->cpus, b->cpus) && a->busy_poll == b->busy_poll &&
           a->threads == b->threads && a->kv_tokens == b->kv_tokens &&
           a->block_tokens == b->block_tokens && a->prefill_tokens == b->prefill_tokens &&
           a->open_timeout_ns == b->open_timeout_ns && a->lease_ns == b->lease_ns &&
           same_text(a->device, b->device) && a->kv_dtype == b->kv_dtype && a->codec == b->codec &&
           a->encoders == b->encoders && a->quiet == b->quiet &&
           same_text(a->cache_dir, b->cache_dir) && a->cache_bytes == b->cache_bytes;
}

static void restart_with(const struct kve_worker_config *cfg, const char *name,
                         kve_worker_role role)
{
    struct kve_spawn_args args;

    kve_spawn_args(&args, cfg, name, 42);
    works = 0;
    cr_assert_eq(call(args.n, args.at), 0);
    cr_assert_eq(works, 1);
    cr_expect_eq(worked.role, role);
    cr_expect_eq(worked.control_fd, 42);
    cr_expect_null(worked.control_path);
}

Test(options, what_run_is_told_reaches_its_workers)
{
    struct kve_run_config plain;

    run_with(ROWS);
    plain = ran;
    plain.spawn.worker.threads = 0;
    for (size_t i = 0; i < ROWS; ++i) {
        if (table[i].reach == OTHER || table[i].reach == HTTP)
            continue;
        run_with(i);
        if (table[i].reach == RUN) {
            ran.spawn.worker.threads = 0;
            cr_expect_neq(memcmp(&ran, &plain, sizeof(ran)), 0, "--%s changes nothing",
                          table[i].name);
            continue;
        }
        struct kve_worker_config told = ran.spawn.worker;
        if (told.local == NULL)
            told.local = "a link"; /* start_pair() chooses one */
        restart_with(&told, "decode", KVE_WORKER_DECODE);
        cr_expect(same(&worked, &told), "row %zu: --%s %s does not reach decode", i, table[i].name,
                  table[i].value);
        restart_with(&told, "prefill", KVE_WORKER_PREFILL);
        cr_expect(same(&worked, &told), "row %zu: --%s %s does not reach prefill", i, table[i].name,
                  table[i].value);
    }
}

static void up_with(size_t row)
{
    char option[32], value[64], *argv[] = {"kvserve", "up", "--model", "m.gguf", option, value};

    snprintf(option, sizeof(option), "--%s", row < ROWS ? table[row].name : "threads");
    const char *said = row < ROWS ? table[row].value : "1";
    snprintf(value, sizeof(value), "%s", said != NULL ? said : "");
    ups = 0;
    cr_assert_eq(call(said != NULL ? 6 : 5, argv), 0, "%s %s", option, value);
    cr_assert_eq(ups, 1);
    upped.spawn.worker.threads = 0;
}

Test(options, what_up_is_told_reaches_it)
{
    struct kve_up_config plain;

    up_with(ROWS);
    plain = upped;
    cr_expect(plain.spawn.worker.own_group, "a terminal's ^C must not end the workers of a drain");
    for (size_t i = 0; i < ROWS; ++i) {
        if (table[i].reach != HTTP)
            continue;
        up_with(i);
        cr_expect_neq(memcmp(&upped, &plain, sizeof(upped)), 0, "--%s changes nothing",
                      table[i].name);
    }
}

Test(options, numbers_arrive_as_they_were_said)
{
    static const struct {
        const char *name, *value;
        uint64_t ns;
    } times[] = {{"wait-peer", "0.25", 250000000},
                 {"wait-peer", "2", 2000000000},
                 {"lease", "10.5", 10500000},
                 {"lease", "2500", 2500000000}};

    for (size_t t = 0; t < sizeof(times) / sizeof(times[0]); ++t) {
        char option[32], value[16],
            *argv[] = {"kvserve", "run", "--prompt", "p", "--model", "m.gguf", option, value};

        snprintf(option, sizeof(option), "--%s", times[t].name);
        snprintf(value, sizeof(value), "%s", times[t].value);
        cr_assert_eq(call(8, argv), 0);
        ran.spawn.worker.local = "a link";
        restart_with(&ran.spawn.worker, "decode", KVE_WORKER_DECODE);
        cr_expect_eq(t < 2 ? worked.open_timeout_ns : worked.lease_ns, times[t].ns, "row %zu", t);
    }
}

/* What the child prints on descriptor fd. */
static void output_of(int fd, char *text, size_t bytes, int argc, char **argv, int *status)
{
    int ends[2];
    size_t n = 0;
    ssize_t got;

    cr_assert_eq(pipe(ends), 0);
    const pid_t pid = fork();
    if (pid == 0) {
        dup2(ends[1], fd);
        close(ends[0]);
        close(ends[1]);
        _exit(call(argc, argv));
    }
    close(ends[1]);
    while (n + 1 < bytes && (got = read(ends[0], text + n, bytes - 1 - n)) > 0)
        n += (size_t)got;
    text[n] = '\0';
    close(ends[0]);
    cr_assert_eq(waitpid(pid, status, 0), pid);
    *status = WIFEXITED(*status) ? WEXITSTATUS(*status) : -1;
}

/* Started without some of them, it gives their numbers to nothing else. */
Test(options, standard_descriptors_that_are_not_there)
{
    char *argv[] = {"kvserve", "run", "--prompt", "p", "--model", "m.gguf"};

    for (unsigned mask = 1; mask < 8; ++mask) {
        int status;
        const pid_t pid = fork();

        if (pid == 0) {
            closed = mask;
            for (int fd = 0; fd <= STDERR_FILENO; ++fd)
                if ((mask >> fd & 1) != 0)
                    close(fd);
            _exit(call(6, argv));
        }
        cr_assert_eq(waitpid(pid, &status, 0), pid);
        cr_expect(WIFEXITED(status) && WEXITSTATUS(status) == 0, "without %u: status %x", mask,
                  (unsigned)status);
    }
}

Test(options, the_table_has_every_option_of_the_help)
{
    char help[16384], *argv[] = {"kvserve", "--help"};
    int status, seen = 0;

    output_of(STDOUT_FILENO, help, sizeof(help), 2, argv, &status);
    cr_assert_eq(status, 0);
    for (char *at = help; (at = strstr(at, "--")) != NULL; ++at) {
        const size_t n = strspn(at + 2, "abcdefghijklmnopqrstuvwxyz-");
        bool known = n == 0;

        for (size_t i = 0; i < ROWS; ++i)
            known |= strlen(table[i].name) == n && memcmp(at + 2, table[i].name, n) == 0;
        cr_expect(known, "%.*s", (int)n + 2, at);
        ++seen;
        at += n + 1;
    }
    cr_expect_gt(seen, 35);
}

static const struct {
    char *args[5]; /* beside --model m */
    const char *why;
} wrong[] = {
    {{"--prompt", "p", "--seed", "1.5"}, "--seed 1.5: not a whole number"},
    {{"--prompt", "p", "--batch", "b"}, "exactly one of"},
    {{"--prompt", "p", "--prompt-file", "/dev/null"}, "exactly one of"},
    {{"--threads", "4"}, "exactly one of"},
    {{"--prompt", "p", "--threads", "0"}, "--threads 0: not a number from 1"},
    {{"--prompt", "p", "--lease", "9"}, "--lease 9: not a number from 10"},
    {{"--prompt", "p", "--wait-peer", "0"}, "--wait-peer 0: not a number from 0.001"},
    {{"--prompt", "p", "--exact", "4,65536"}, "--exact 65536: not a number"},
    {{"--prompt", "p", "--exact", "4"}, "two numbers with a comma"},
    {{"--prompt", "p", "--codec", "e8"}, "--budget e8"},
    {{"--prompt", "p", "--net", "pigeon"}, "pigeon"},
    {{"--prompt", "p", "--cpu", "x"}, "--cpu x"},
    {{"--prompt", "p", "--prefill-at", "s"}, "both or neither"},
    {{"--prompt", "p", "--control", "s"}, "--control means nothing here"},
    {{"--prompt-file", "/nonexistent"}, "No such file"},
};

Test(options, wrong_ones_are_usage_errors_in_one_sentence)
{
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); ++i) {
        char text[1024], *argv[8] = {"kvserve", "run", "--model", "m"};
        int status, argc = 4;

        for (int k = 0; wrong[i].args[k] != NULL; ++k)
            argv[argc++] = wrong[i].args[k];
        output_of(STDERR_FILENO, text, sizeof(text), argc, argv, &status);
        cr_expect_eq(status, 2, "row %zu: %d", i, status);
        cr_expect(strstr(text, wrong[i].why) != NULL, "row %zu: %s", i, text);
        cr_expect_eq(strchr(text, '\n'), strrchr(text, '\n'), "row %zu: %s", i, text);
    }
}

Test(options, a_nul_in_a_prompt_file_is_named)
{
    char path[] = "/tmp/kve-prompt-XXXXXX", text[1024];
    char *argv[] = {"kvserve", "tokenize", "--model", "m", "--prompt-file", path};
    const int fd = mkstemp(path);
    int status;

    cr_assert(fd >= 0 && write(fd, "ab\0cd", 5) == 5);
    close(fd);
    output_of(STDERR_FILENO, text, sizeof(text), 6, argv, &status);
    unlink(path);
    cr_expect_eq(status, 2);
    cr_expect(strstr(text, "byte 3: a NUL") != NULL, "%s", text);
}

/* Command lines that are complete but for the option: it would be taken and do nothing. */
static const struct {
    const char *command;      /* words */
    const char *meaningless;  /* options, each refused by its name */
    const char *one_that_has; /* a control: an option that is taken */
} idle[] = {
    {"run --model m --prompt p --net udp", "peer control", "link"},
    {"run --model m --prompt p --net verbs", "peer", "link"},
    {"run --model m --prompt p --net loop", "peer control", "lease"},
    {"run --model m --prompt p --net none",
     "decode-model link peer wait-peer codec budget exact encoders lease fault trace cpu busy-poll "
     "compare listen queue",
     "kv-tokens"},
    {"up --model m", "control prompt batch raw system json no-compare compare seed prefill-at",
     "queue"},
    {"router --model m --prefill-at a --decode-at b", "net link threads prompt codec", "budget"},
    {"run --model m --prompt p --prefill-at a --decode-at b",
     "decode-model net link peer codec encoders lease fault trace cpu busy-poll control threads "
     "kv-tokens block-tokens prefill-tokens quiet",
     "budget"},
    {"tokenize --model m --prompt p",
     "decode-model batch max-tokens temperature top-p seed ignore-end timeout net link peer "
     "wait-peer codec budget exact encoders lease fault trace cpu busy-poll control prefill-at "
     "decode-at "
     "threads kv-tokens block-tokens prefill-tokens json no-compare compare quiet",
     "system"},
    {"decode --model m --net udp --control s --link a",
     "decode-model prompt prompt-file system raw batch max-tokens temperature top-p seed "
     "ignore-end "
     "timeout budget exact prefill-at decode-at json no-compare compare",
     "lease"},
    {"prefill --model m --net udp --control s --link a",
     "decode-model prompt prompt-file system raw batch max-tokens temperature top-p seed "
     "ignore-end "
     "timeout budget exact prefill-at decode-at json no-compare compare",
     "peer"},
};

/* The command with an option added, its value from the table; what it says on stderr. */
static int with_option(const char *command, const char *name, char *text, size_t bytes)
{
    char words[256], option[32], value[64] = "x", *argv[24] = {"kvserve"}, *save = NULL;
    bool flag = strcmp(name, "compare") == 0;
    int argc = 1, status;

    snprintf(words, sizeof(words), "%s", command);
    for (char *w = strtok_r(words, " ", &save); w != NULL; w = strtok_r(NULL, " ", &save))
        argv[argc++] = w;
    snprintf(option, sizeof(option), "--%s", name);
    argv[argc++] = option;
    for (size_t i = 0; i < ROWS; ++i)
        if (strcmp(table[i].name, name) == 0 && table[i].reach != OTHER) {
            flag = table[i].value == NULL;
            snprintf(value, sizeof(value), "%s", flag ? "" : table[i].value);
        }
    if (!flag)
        argv[argc++] = value;
    output_of(STDERR_FILENO, text, bytes, argc, argv, &status);
    return status;
}

Test(options, one_that_would_do_nothing_is_refused_by_its_name)
{
    char text[1024], want[64], names[512];

    for (size_t i = 0; i < sizeof(idle) / sizeof(idle[0]); ++i) {
        char *save = NULL;

        snprintf(names, sizeof(names), "%s", idle[i].meaningless);
        for (char *n = strtok_r(names, " ", &save); n != NULL; n = strtok_r(NULL, " ", &save)) {
            snprintf(want, sizeof(want), "--%s means nothing here", n);
            cr_expect_eq(with_option(idle[i].command, n, text, sizeof(text)), 2, "%s --%s",
                         idle[i].command, n);
            cr_expect(strstr(text, want) != NULL, "%s --%s: %s", idle[i].command, n, text);
        }
        cr_expect_eq(with_option(idle[i].command, idle[i].one_that_has, text, sizeof(text)), 0,
                     "%s --%s: %s", idle[i].command, idle[i].one_that_has, text);
    }
}
