/* SPDX-License-Identifier: Apache-2.0 */
/* A link that can't be opened ends in one sentence, in time, and leaves nothing behind. */
#include <criterion/criterion.h>

#include <dirent.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../../../net/port/dpdk/eal.h"
#include "../../../net/port/dpdk/log.h"
#include "dpdk_traffic.h"

#ifdef __SANITIZE_ADDRESS__
#define UNDER_ASAN
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define UNDER_ASAN
#endif
#endif

TestSuite(dpdk_open, .timeout = 60);

static char path[KVN_DPDK_PATH_BYTES];
static char why[KVN_WHY_BYTES];

static kvw_err open_end(struct kvn_port **port, const char *at, bool listener, unsigned ms)
{
    const struct kvn_dpdk_config cfg = {.path = at,
                                        .listener = listener,
                                        .wait_peer = true,
                                        .open_by_ns = t_now_ns() + ms * 1000000ull};

    memset(why, 0, sizeof(why));
    return kvn_dpdk_port_open(port, &cfg, why);
}

static unsigned count_fds(void)
{
    DIR *d = opendir("/proc/self/fd");
    unsigned n = 0;

    while (readdir(d) != NULL)
        ++n;
    closedir(d);
    return n;
}

/* One line, that names the path (or a part of it) and says this. */
static void expect_why(const char *says, const char *names)
{
    cr_expect_not_null(strstr(why, says), "\"%s\" doesn't say \"%s\"", why, says);
    cr_expect_not_null(strstr(why, names), "\"%s\" doesn't name %s", why, names);
    cr_expect_null(strchr(why, '\n'), "\"%s\" has more than one line", why);
}

/* Both sides are up and heard each other; then this one goes. */
static void expect_use(struct kvn_port *port)
{
    cr_expect(t_greet(port, 1, 20000), "no echo");
    port->ops->close(port);
}

Test(dpdk_open, paths_that_cannot_be)
{
    struct kvn_port *const none = (struct kvn_port *)&why;
    struct kvn_port *port = none;
    char longest[200];

    t_link_path(path);
    memset(longest, 'x', sizeof(longest));
    longest[0] = '/';
    longest[KVN_DPDK_PATH_BYTES] = '\0';
    cr_expect_eq(open_end(&port, longest, true, 100), KVW_E_ADDRESS);
    expect_why("108 bytes, 107 is the most", "/xxx");
    cr_expect_eq(open_end(&port, "", true, 100), KVW_E_ADDRESS);
    cr_expect_eq(open_end(&port, NULL, false, 100), KVW_E_ADDRESS);
    expect_why("needs the path", "socket");
    cr_expect_eq(open_end(&port, "./a,b", true, 100), KVW_E_ADDRESS);
    expect_why("holds ,", "./a,b");
    cr_expect_eq(open_end(&port, "/nowhere/at/all/link", true, 100), KVW_E_ADDRESS);
    expect_why("No such file or directory", "/nowhere/at/all");
    cr_expect_eq(open_end(&port, "/dev/null/link", true, 100), KVW_E_ADDRESS);
    expect_why("Not a directory", "/dev/null");

    FILE *f = fopen(path, "w"); /* a file of someone's, which stays */

    fclose(f);
    cr_expect_eq(open_end(&port, path, true, 100), KVW_E_ADDRESS);
    expect_why("is not a socket", path);
    cr_expect_eq(access(path, F_OK), 0);
    cr_expect_eq(port, none, "outputs are written on success only");
    t_link_remove(path);
}

#define LINKS 6

/* Both ends of several links in one process; a seventh, when there is no room for it, ends in a
 * sentence that says what is short and how to get more. */
static void expect_links(uint32_t want)
{
    struct kvn_port *ports[2 * 64];
    char paths[64][KVN_DPDK_PATH_BYTES];
    uint32_t links = 0, n = 0;
    kvw_err err = KVW_OK;

    for (; links < 64 && err == KVW_OK && links < want; ++links) {
        t_link_path(paths[links]);
        for (uint32_t end = 0; end < 2 && err == KVW_OK; ++end) {
            const struct kvn_dpdk_config cfg = {.path = paths[links],
                                                .listener = end == 1,
                                                .open_by_ns = t_now_ns() + 10000000000ull};

            err = kvn_dpdk_port_open(&ports[n], &cfg, why);
            n += err == KVW_OK;
        }
    }
    for (uint32_t i = 0; i < n; ++i)
        ports[i]->ops->close(ports[i]);
    for (uint32_t i = 0; i < links; ++i)
        t_link_remove(paths[i]);
    if (want == LINKS) {
        cr_expect_eq(err, KVW_OK, "link %u: %s", links, why);
        return;
    }
    cr_expect_eq(err, KVW_E_NOMEM, "%u links with 64 MiB: %s", links, why);
    expect_why("64 MiB", "KVWIRE_DPDK_MEMORY");
}

Test(dpdk_open, several_links_in_one_process)
{
    expect_links(LINKS);
}

Test(dpdk_open, as_many_links_as_its_memory_holds)
{
    setenv("KVWIRE_DPDK_MEMORY", "64", 1);
    expect_links(63);
}

Test(dpdk_open, memory_that_cannot_be)
{
    struct kvn_port *port = NULL;

    setenv("KVWIRE_DPDK_MEMORY", "64M", 1);
    t_link_path(path);
    cr_expect_eq(open_end(&port, path, true, 1000), KVW_E_DEVICE);
    expect_why("KVWIRE_DPDK_MEMORY", "64M");
    t_link_remove(path);
}

/* Each number of descriptors up to what it takes: a sentence, never DPDK's panic. */
Test(dpdk_open, few_descriptors, .timeout = 120)
{
    uint32_t refused = 0;

    t_link_path(path);
    for (rlim_t limit = count_fds() - 3, end = limit + 28; limit < end; ++limit) {
        const pid_t child = fork();
        int status = -1;

        cr_assert_geq(child, 0);
        if (child == 0) {
            const struct rlimit r = {limit, limit};
            struct kvn_port *port = NULL;
            kvw_err err;

            alarm(20);
            if (setrlimit(RLIMIT_NOFILE, &r) != 0)
                _exit(9);
            err = open_end(&port, path, true, 50);
            if (err == KVW_E_DEADLINE)
                _exit(0); /* there were enough, and nobody came */
            _exit(err == KVW_E_DEVICE && strstr(why, "escriptor") != NULL ? 1 : 2);
        }
        cr_assert_eq(waitpid(child, &status, 0), child);
        cr_expect(WIFEXITED(status) && WEXITSTATUS(status) < 2, "with %lu descriptors: 0x%x",
                  (unsigned long)limit, status);
        refused += status != 0;
        unlink(path);
    }
    cr_expect_gt(refused, 0);
    t_link_remove(path);
}

/* No permission in the directory. Root has every permission, so the test becomes someone else. */
Test(dpdk_open, directory_of_someone_else)
{
    struct kvn_port *port;

    if (getuid() == 0)
        cr_assert_eq(setresuid(65534, 65534, 65534), 0);
    cr_expect_eq(open_end(&port, "/usr/link", true, 100), KVW_E_ADDRESS);
    expect_why("Permission denied", "/usr");
}

/* An ordinary user, without a runtime directory, needs nothing but a place for the socket. */
Test(dpdk_open, works_for_an_ordinary_user)
{
    struct kvn_port *port = NULL;
    pid_t peer;

    unsetenv("XDG_RUNTIME_DIR");
    t_peer_hold();
    if (getuid() == 0)
        cr_assert_eq(setresuid(65534, 65534, 65534), 0);
    t_link_path(path);
    peer = t_peer_start(path, "listener", "echo");
    cr_expect_eq(open_end(&port, path, false, 20000), KVW_OK, "%s", why);
    if (port != NULL)
        expect_use(port);
    (void)t_peer_end(peer, SIGTERM);
    t_link_remove(path);
}

static void expect_no_peer(bool listener, const char *says)
{
    struct kvn_port *port;
    unsigned fds = 0;

    t_link_path(path);
    for (int i = 0; i < 3; ++i) {
        const uint64_t begin_ns = t_now_ns();

        cr_expect_eq(open_end(&port, path, listener, 300), KVW_E_DEADLINE);
        cr_expect_lt(t_now_ns() - begin_ns, 10000000000u, "%lu us",
                     (unsigned long)(t_now_ns() - begin_ns) / 1000);
        expect_why(says, path);
        cr_expect_neq(access(path, F_OK), 0, "the socket was left behind");
        if (i == 0)
            fds = count_fds(); /* EAL keeps its own */
        cr_expect_eq(count_fds(), fds, "%u descriptors, %u before", count_fds(), fds);
    }
    /* It can be tried again, and then works. */
    const pid_t peer = t_peer_start(path, listener ? "sender" : "listener", "echo");

    cr_assert_eq(open_end(&port, path, listener, 20000), KVW_OK, "%s", why);
    expect_use(port);
    (void)t_peer_end(peer, SIGTERM);
    t_link_remove(path);
}

Test(dpdk_open, listener_without_a_peer)
{
    expect_no_peer(true, "no peer connected to");
}

Test(dpdk_open, sender_without_a_listener)
{
    expect_no_peer(false, "nobody listened");
}

static void *start_peer_later(void *role)
{
    static pid_t peer;

    t_sleep_ms(700);
    peer = t_peer_start(path, role, "echo");
    return &peer;
}

/* Either side may come first, and is then waited for. */
static void expect_any_order(bool listener)
{
    char role[16];
    struct kvn_port *port;
    pthread_t thread;
    void *peer;
    uint64_t begin_ns;

    t_link_path(path);
    strcpy(role, listener ? "sender" : "listener");
    begin_ns = t_now_ns();
    cr_assert_eq(pthread_create(&thread, NULL, start_peer_later, role), 0);
    cr_assert_eq(open_end(&port, path, listener, 20000), KVW_OK, "%s", why);
    cr_expect_gt(t_now_ns() - begin_ns, 700000000u);
    cr_expect_lt(t_now_ns() - begin_ns, 10000000000u);
    expect_use(port);
    pthread_join(thread, &peer);
    (void)t_peer_end(*(pid_t *)peer, SIGTERM);

    *(pid_t *)peer = t_peer_start(path, role, "echo");
    t_sleep_ms(700);
    begin_ns = t_now_ns();
    cr_assert_eq(open_end(&port, path, listener, 20000), KVW_OK, "%s", why);
    cr_expect_lt(t_now_ns() - begin_ns, 10000000000u);
    expect_use(port);
    (void)t_peer_end(*(pid_t *)peer, SIGTERM);
    t_link_remove(path);
}

Test(dpdk_open, listener_first_or_second)
{
    expect_any_order(true);
}

Test(dpdk_open, sender_first_or_second)
{
    expect_any_order(false);
}

/* A second listener is refused while the first lives, and not when it was killed. */
Test(dpdk_open, path_in_use)
{
    struct kvn_port *port;
    struct stat st;
    char holder[32];
    pid_t first, sender;

    t_link_path(path);
    first = t_peer_start(path, "listener", "echo");
    while (stat(path, &st) != 0)
        t_sleep_ms(10);
    snprintf(holder, sizeof(holder), "process, %d", (int)first);
    cr_expect_eq(open_end(&port, path, true, 1000), KVW_E_ADDRESS);
    expect_why("already in use by a running process", path);
    expect_why(holder, path);
    /* And the first one wasn't disturbed by that. */
    cr_assert_eq(open_end(&port, path, false, 20000), KVW_OK, "%s", why);
    expect_use(port);

    (void)t_peer_end(first, SIGKILL);
    cr_expect_eq(stat(path, &st), 0, "a killed listener leaves its socket");
    sender = t_peer_start(path, "sender", "echo");
    cr_assert_eq(open_end(&port, path, true, 20000), KVW_OK, "%s", why);
    expect_use(port);
    (void)t_peer_end(sender, SIGTERM);
    t_link_remove(path);
}

/* Nor is the socket of a program that isn't ours taken away. */
Test(dpdk_open, path_of_a_foreign_listener)
{
    const int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    struct kvn_port *port;

    t_link_path(path);
    snprintf(un.sun_path, sizeof(un.sun_path), "%s", path);
    cr_assert_eq(bind(fd, (struct sockaddr *)&un, sizeof(un)), 0);
    cr_assert_eq(listen(fd, 1), 0);
    cr_expect_eq(open_end(&port, path, true, 1000), KVW_E_ADDRESS);
    expect_why("already in use", path);
    cr_expect_eq(access(path, F_OK), 0);
    close(fd);
    t_link_remove(path);
}

/* In a child: open with so little address space left; 0 if it works, or fails in a sentence. */
static int open_with_little_memory(uint64_t bytes)
{
    const struct rlimit little = {.rlim_cur = bytes, .rlim_max = bytes};
    struct kvn_port *port;
    char again[KVN_WHY_BYTES];
    kvw_err err;

    if (setrlimit(RLIMIT_AS, &little) != 0)
        return 1;
    err = open_end(&port, path, true, 100);
    if (err == KVW_E_DEADLINE)
        return 0; /* it was enough: no peer came */
    if (err != KVW_E_DEVICE && err != KVW_E_NOMEM)
        return 2;
    if (strncmp(why, "dpdk: ", 6) != 0 || strlen(why) < 20 || strchr(why, '\n') != NULL)
        return 3;
    printf("# %4u MiB: %s\n", (unsigned)(bytes >> 20), why);
    fflush(stdout);
    memcpy(again, why, sizeof(again));
    if (open_end(&port, path, true, 100) != err || strcmp(why, again) != 0)
        return 4;
    return access(path, F_OK) == 0 ? 5 : 0;
}

/* Wherever on the way up the memory ends: DPDK's own reason in a sentence, the second time too. */
Test(dpdk_open, memory_refused)
{
#ifdef UNDER_ASAN
    cr_skip_test("the sanitizer itself needs terabytes of address space");
#endif
    const unsigned mib[] = {48, 64, 80, 96, 112, 128, 144, 160, 192, 256, 320, 400, 600};
    int status;

    t_link_path(path);
    for (size_t i = 0; i < sizeof(mib) / sizeof(mib[0]); ++i) {
        const pid_t child = fork();

        if (child == 0)
            _exit(open_with_little_memory((uint64_t)mib[i] << 20));
        waitpid(child, &status, 0);
        cr_expect_eq(status, 0, "with %u MiB: status %x", mib[i], (unsigned)status);
    }
    t_link_remove(path);
}

/* EAL's threads don't cross a fork(). */
Test(dpdk_open, child_of_a_process_that_started_eal)
{
    int status;
    pid_t child;

    cr_assert_eq(kvn_dpdk_eal_start(NULL, why), KVW_OK, "%s", why);
    cr_assert_eq(kvn_dpdk_eal_start(NULL, why), KVW_OK, "a second start is none");
    if ((child = fork()) == 0)
        _exit(kvn_dpdk_eal_start(NULL, why) == KVW_E_INVALID ? 0 : 1);
    waitpid(child, &status, 0);
    cr_expect_eq(status, 0);
}

/* What EAL says on its way up is for our log, and what others write to stderr isn't lost. */
Test(dpdk_open, eal_is_silent)
{
    FILE *const before = stderr;
    int pipes[2], saved = dup(STDERR_FILENO);
    char text[512] = "";

    cr_assert_eq(pipe(pipes), 0);
    dup2(pipes[1], STDERR_FILENO);
    cr_assert_eq(kvn_dpdk_eal_start(NULL, why), KVW_OK, "%s", why);
    cr_expect_eq(stderr, before);
    fputs("still here", stderr);
    fflush(stderr);
    dup2(saved, STDERR_FILENO);
    cr_expect_gt(read(pipes[0], text, sizeof(text) - 1), 0);
    cr_expect_str_eq(text, "still here");
}

/* Opening and closing gives everything back: the memory would be gone after three rounds. */
Test(dpdk_open, again_and_again)
{
    struct kvn_port *port;
    unsigned fds = 0;
    pid_t peer;

    t_link_path(path);
    for (int i = 0; i < 6; ++i) {
        peer = t_peer_start(path, i % 2 ? "listener" : "sender", "echo");
        cr_assert_eq(open_end(&port, path, i % 2 == 0, 20000), KVW_OK, "round %d: %s", i, why);
        expect_use(port);
        cr_expect_eq(t_peer_end(peer, SIGTERM), 0);
        if (i == 1)
            fds = count_fds();
        if (i > 1)
            cr_expect_leq(count_fds(), fds, "round %d: %u descriptors, %u before", i, count_fds(),
                          fds);
    }
    t_link_remove(path);
}

/* A stopped peer can't be waited for by a driver that would wait for ever. */
static void expect_close_in_time(bool listener)
{
    struct kvn_port *port;
    uint64_t begin_ns;
    pid_t peer;

    t_link_path(path);
    peer = t_peer_start(path, listener ? "sender" : "listener", "echo");
    cr_assert_eq(open_end(&port, path, listener, 20000), KVW_OK, "%s", why);
    cr_assert(t_greet(port, 1ull << 40, 20000), "no echo");
    kill(peer, SIGSTOP);
    begin_ns = t_now_ns();
    port->ops->close(port);
    cr_expect_lt(t_now_ns() - begin_ns, 10000000000u, "close() took %lu ms",
                 (unsigned long)((t_now_ns() - begin_ns) / 1000000));
    (void)t_peer_end(peer, SIGKILL);
    /* And the next one can be opened. */
    peer = t_peer_start(path, listener ? "sender" : "listener", "echo");
    cr_assert_eq(open_end(&port, path, listener, 20000), KVW_OK, "%s", why);
    expect_use(port);
    (void)t_peer_end(peer, SIGTERM);
    t_link_remove(path);
}

Test(dpdk_open, listener_closes_beside_a_stopped_peer)
{
    expect_close_in_time(true);
}

Test(dpdk_open, sender_closes_beside_a_stopped_peer)
{
    expect_close_in_time(false);
}

/* A process that ends with its port open just ends; DPDK's threads don't hold or crash it. */
static void expect_exit(bool listener)
{
    struct kvn_port *port;
    siginfo_t info = {0};
    uint64_t end_ns;
    pid_t peer;

    t_link_path(path);
    for (int i = 0; i < 3; ++i) {
        peer = t_peer_start(path, listener ? "sender" : "listener", "leave");
        cr_assert_eq(open_end(&port, path, listener, 20000), KVW_OK, "%s", why);
        cr_expect(t_greet(port, 1, 20000), "no echo");
        end_ns = t_now_ns() + 20000000000u;
        while (waitid(P_PID, (id_t)peer, &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
               info.si_pid == 0 && t_now_ns() < end_ns)
            (void)t_greet(port, 2, 5); /* go now; whether that is answered is nobody's business */
        cr_expect_eq(info.si_pid, peer, "it hangs");
        cr_expect_eq(t_peer_end(peer, SIGKILL), 0, "it crashed");
        port->ops->close(port);
    }
    t_link_remove(path);
}

/* DPDK's thread is held where it is about to look for the next listener. */
static void dawdle(const char *line)
{
    if (strstr(line, "reconnecting") != NULL)
        t_sleep_ms(30);
}

/* A peer goes and the port is closed at that moment: nothing of it is left to be connected with the
 * next listener on the path. */
Test(dpdk_open, closed_while_its_listener_goes)
{
    struct kvn_port *port;
    pid_t peer;

    t_link_path(path);
    cr_assert_eq(kvn_dpdk_eal_start(NULL, why), KVW_OK, "%s", why);
    kvn_dpdk_log_hook(dawdle);
    static const uint32_t later_ms[] = {0, 5, 29, 31, 60};

    for (size_t i = 0; i < sizeof(later_ms) / sizeof(later_ms[0]); ++i) {
        peer = t_peer_start(path, "listener", "echo");
        cr_assert_eq(open_end(&port, path, false, 20000), KVW_OK, "%s", why);
        cr_expect(t_greet(port, 1, 20000), "no echo");
        (void)t_peer_end(peer, SIGKILL);
        t_sleep_ms(later_ms[i]);
        port->ops->close(port);
    }
    t_link_remove(path);
}

Test(dpdk_open, listener_may_just_exit)
{
    expect_exit(false);
}

Test(dpdk_open, sender_may_just_exit)
{
    expect_exit(true);
}
