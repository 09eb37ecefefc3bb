/* SPDX-License-Identifier: Apache-2.0 */
/* stop.c - waiting that Ctrl-C ends. */
#include "stop.h"

#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <kvwire/node.h>

static volatile sig_atomic_t stopped;

static void on_signal(int number)
{
    if (stopped) {
        signal(number, SIG_DFL);
        raise(number);
    }
    stopped = 1;
}

void kvp_stop_catch(void)
{
    struct sigaction act = {.sa_handler = on_signal};

    sigaction(SIGINT, &act, NULL);
    sigaction(SIGTERM, &act, NULL);
    signal(SIGPIPE, SIG_IGN);
}

bool kvp_stopped(void)
{
    return stopped != 0;
}

uint32_t kvp_wait_fds(const int *fds, uint32_t count, uint64_t until_ns)
{
    struct pollfd p[16];
    uint32_t ready = 0;

    for (uint32_t i = 0; i < count && i < 16; ++i)
        p[i] = (struct pollfd){.fd = fds[i], .events = POLLIN};
    while (!kvp_stopped()) {
        const uint64_t now = kvw_now_ns(), left = until_ns > now ? until_ns - now : 0;
        const uint64_t slice = left < KVP_SLICE_NS ? left : KVP_SLICE_NS;
        const struct timespec wait = {.tv_nsec = (long)slice};
        const int got = ppoll(p, count, &wait, NULL);

        for (uint32_t i = 0; got > 0 && i < count; ++i)
            ready |= p[i].revents != 0 ? 1u << i : 0;
        if (ready != 0 || left == 0)
            return ready;
    }
    return 0;
}

/* As the kernel has it; glibc's header declares it from 2.41 on. */
struct slices {
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime_ns, deadline_ns, period_ns;
};

void kvp_wake_soon(void)
{
    struct slices a = {.size = sizeof(a)};

    if (syscall(SYS_sched_getattr, 0, &a, sizeof(a), 0) != 0 || a.policy != SCHED_OTHER)
        return;
    a.runtime_ns = KVP_WAKE_NS;
    (void)syscall(SYS_sched_setattr, 0, &a, 0);
}

uint64_t kvp_cpu_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}
