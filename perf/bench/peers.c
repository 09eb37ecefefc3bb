/* SPDX-License-Identifier: Apache-2.0 */
/*
 * peers WHAT [COUNT] [SECONDS] - what COUNT (1,000) idle peers cost a node, over udp on this host.
 *
 *     up    seconds from the first dial until all are up
 *     cpu   % of a core that the node takes while nobody says anything, over SECONDS (5)
 *     rss   KiB that became resident, a peer          vsz   MiB of address space, a peer
 *
 * The peers are cores of their own in a second process, a socket each, which looks at those that
 * have input or whose time has come; the node's process alone is measured. Prints all four, then
 * RESULT.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <signal.h>
#include <unistd.h>

#include "../../kvwire/node.h"
#include "../../kvwire/wire.h"

#define S         1000000000ull
#define ADDRESS   64u
#define COUNT_MAX 4000u

struct peer {
    struct kvw_transport *t;
    struct kvw_core *core;
    int fd;
    uint64_t due_ns;
};

static void die(const char *what, const char *why)
{
    fprintf(stderr, "peers: %s: %s\n", what, why);
    exit(1);
}

/* --- the peers' process ----------------------------------------------------------------------- */

static void open_peer(struct peer *p, uint32_t at, char address[ADDRESS])
{
    const struct kvw_open_args args = {.transport = "udp", .local = "127.0.0.1:0", .listen = true};
    struct kvw_core_path path = {.name = "udp", .listen = 1};
    struct kvw_core_config cfg = {.size = sizeof(cfg),
                                  .path_count = 1,
                                  .paths = &path,
                                  .instance = ((uint64_t)getpid() << 32) + at + 1,
                                  .name = "a peer",
                                  .codecs = kvw_parts.codecs,
                                  .chunk_raw_bytes = KVW_CHUNK_RAW_MIN,
                                  .slots = 1,
                                  .stages = 1,
                                  .peers_max = 2,
                                  .xfers_max = 2};
    const char *field = "core";
    char why[256] = "";

    /* The transport doesn't tell its socket: it is the next descriptor to be opened. */
    p->fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    close(p->fd);
    if (kvw_parts.open(&p->t, &args, why) != KVW_OK)
        die("a peer's socket", why);
    path.transport = p->t;
    if (kvw_core_open(&p->core, &cfg, kvw_now_ns(), &field) != KVW_OK)
        die("a peer's core", field);
    if (!p->t->ops->local(p->t, address, ADDRESS))
        die("a peer's address", "it isn't known");
}

static void poll_peer(struct peer *p)
{
    struct kvw_core_event ev = {.size = sizeof(ev)};

    while (kvw_core_poll(p->core, kvw_now_ns()))
        ;
    while (kvw_core_next_event(p->core, &ev))
        ;
    p->due_ns = kvw_core_deadline_ns(p->core);
}

static void be_peers(uint32_t count, int to)
{
    struct peer *peers = calloc(count, sizeof(*peers));
    const int ep = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event ready[256];

    if (peers == NULL || ep < 0)
        die("peers", "no memory");
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (uint32_t i = 0; i < count; ++i) {
        struct epoll_event want = {.events = EPOLLIN, .data = {.u32 = i}};
        char address[ADDRESS] = "";

        open_peer(&peers[i], i, address);
        poll_peer(&peers[i]);
        if (epoll_ctl(ep, EPOLL_CTL_ADD, peers[i].fd, &want) != 0)
            die("epoll", strerror(errno));
        if (write(to, address, ADDRESS) != (ssize_t)ADDRESS)
            die("pipe", strerror(errno));
    }
    for (;;) {
        uint64_t next = UINT64_MAX, now = kvw_now_ns();

        for (uint32_t i = 0; i < count; ++i) {
            if (peers[i].due_ns <= now)
                poll_peer(&peers[i]);
            next = peers[i].due_ns < next ? peers[i].due_ns : next;
        }
        now = kvw_now_ns();
        const int n = epoll_wait(ep, ready, 256,
                                 next <= now           ? 0
                                 : next - now >= 5 * S ? 5000
                                                       : (int)((next - now + 999999) / 1000000));

        for (int i = 0; i < n; ++i)
            poll_peer(&peers[ready[i].data.u32]);
    }
}

/* --- the node's ------------------------------------------------------------------------------- */

static void memory_kib(long *resident, long *all)
{
    FILE *f = fopen("/proc/self/statm", "r");
    long size = 0, rss = 0;

    if (f == NULL || fscanf(f, "%ld %ld", &size, &rss) != 2)
        die("/proc/self/statm", "can't be read");
    fclose(f);
    *resident = rss * (sysconf(_SC_PAGESIZE) / 1024);
    *all = size * (sysconf(_SC_PAGESIZE) / 1024);
}

static double cpu_s(void)
{
    struct rusage u;

    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
           (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1e-6;
}

static void sleep_s(double seconds)
{
    usleep((useconds_t)(seconds * 1e6));
}

static uint32_t take(struct kvw_node *node, uint32_t up)
{
    struct kvw_core_event ev = {.size = sizeof(ev)};

    while (kvw_node_next_event(node, &ev)) {
        up += ev.kind == KVW_CEV_PEER_UP;
        if (ev.kind == KVW_CEV_PEER_LOST)
            fprintf(stderr, "peers: lost one: %s\n", ev.text);
        up -= ev.kind == KVW_CEV_PEER_LOST && up > 0;
    }
    return up;
}

static struct kvw_node *open_node(uint32_t count)
{
    const struct kvw_node_config cfg = {.size = sizeof(cfg),
                                        .name = "the node",
                                        .transport = "udp",
                                        .local = "127.0.0.1:0",
                                        .peers_max = count};
    struct kvw_node *node;
    char why[257] = "";

    if (kvw_node_open(&node, &cfg, why, sizeof(why)) != KVW_OK)
        die("the node", why);
    return node;
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";
    const long count = argc > 2 ? atol(argv[2]) : 1000;
    const double seconds = argc > 3 ? atof(argv[3]) : 5;
    struct rlimit files;
    long rss, vsz, rss_then, vsz_then;
    uint32_t up = 0;
    int pipe_fd[2];
    pid_t child = -1;

    if (count < 1 || count > (long)COUNT_MAX || seconds <= 0 ||
        (strcmp(what, "up") != 0 && strcmp(what, "cpu") != 0 && strcmp(what, "rss") != 0 &&
         strcmp(what, "vsz") != 0))
        die("usage", "peers up|cpu|rss|vsz [COUNT, 1 .. 4000] [SECONDS]");
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    if (pipe(pipe_fd) != 0 || (child = fork()) < 0)
        die("fork", strerror(errno));
    if (child == 0)
        be_peers((uint32_t)count, pipe_fd[1]);
    close(pipe_fd[1]);

    char(*addresses)[ADDRESS] = calloc((size_t)count, ADDRESS);
    if (addresses == NULL)
        die("addresses", "no memory");
    for (long i = 0; i < count; ++i)
        for (size_t got = 0; got < ADDRESS;) {
            const ssize_t n = read(pipe_fd[0], addresses[i] + got, ADDRESS - got);

            if (n <= 0)
                die("the peers", "they have gone");
            got += (size_t)n;
        }
    struct kvw_node *node = open_node((uint32_t)count);
    memory_kib(&rss, &vsz);
    const uint64_t began = kvw_now_ns();

    for (long i = 0; i < count; ++i) {
        kvw_peer_id id;

        if (kvw_node_peer_add(node, addresses[i], &id) != KVW_OK)
            die(addresses[i], "can't be added");
    }
    while (up < (uint32_t)count && kvw_now_ns() < began + 60 * S) {
        (void)kvw_node_wait(node, kvw_now_ns() + S);
        up = take(node, up);
    }
    const double up_s = (double)(kvw_now_ns() - began) * 1e-9;

    sleep_s(10); /* after 8 s without a word they count as idle */
    up = take(node, up);
    memory_kib(&rss_then, &vsz_then);
    const double cpu = cpu_s();
    const uint64_t from = kvw_now_ns();

    sleep_s(seconds);
    const double share = (cpu_s() - cpu) / ((double)(kvw_now_ns() - from) * 1e-9) * 100;
    const double rss_each = (double)(rss_then - rss) / (double)count;
    const double vsz_each = (double)(vsz_then - vsz) / 1024 / (double)count;

    up = take(node, up);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    if (up != (uint32_t)count)
        die("the peers", "they aren't all up");
    printf("%ld peers: up in %.3f s; idle %.3f %% of a core; %.1f KiB resident and %.2f MiB of "
           "address space each\n",
           count, up_s, share, rss_each, vsz_each);
    printf("RESULT %.4f\n", what[0] == 'u'   ? up_s
                            : what[0] == 'c' ? share
                            : what[0] == 'r' ? rss_each
                                             : vsz_each);
    kvw_node_close(node);
    free(addresses);
    return 0;
}
