/* SPDX-License-Identifier: Apache-2.0 */
/* node_sleep.c - descriptors that are slept on, and the timer of an app-driven node. */
#include "node_sleep.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define S       1000000000ull
#define HOUR_NS (3600 * S)

static uint64_t clock_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * S + (uint64_t)t.tv_nsec;
}

/* --- being woken soon ------------------------------------------------------------------------- */

/* As the kernel has it; glibc's header declares it from 2.41 on. */
struct slices {
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime_ns, deadline_ns, period_ns;
};

void kvw_node_sleep_soon(void)
{
    struct slices a = {.size = sizeof(a)};

    if (syscall(SYS_sched_getattr, 0, &a, sizeof(a), 0) != 0 || a.policy != SCHED_OTHER)
        return;
    a.runtime_ns = KVW_SLICE_NS;
    (void)syscall(SYS_sched_setattr, 0, &a, 0);
}

/* --- open and close --------------------------------------------------------------------------- */

static void add(struct kvw_node_sleep *s, int fd)
{
    s->fds[s->fd_count++] = (struct pollfd){.fd = fd, .events = POLLIN};
}

/* One descriptor for all that is in fds, and for event_fd. */
static kvw_err open_epoll(struct kvw_node_sleep *s, int event_fd, char *why)
{
    s->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    s->epoll_fd = s->timer_fd >= 0 ? epoll_create1(EPOLL_CLOEXEC) : -1;
    if (s->epoll_fd >= 0) {
        struct epoll_event event = {.events = EPOLLIN};
        bool all;

        add(s, s->timer_fd);
        all = epoll_ctl(s->epoll_fd, EPOLL_CTL_ADD, event_fd, &event) == 0;
        for (uint32_t i = 0; i < s->fd_count; ++i)
            all = all && epoll_ctl(s->epoll_fd, EPOLL_CTL_ADD, s->fds[i].fd, &event) == 0;
        if (all)
            return KVW_OK;
    }
    snprintf(why, 256, "a descriptor for the application's loop: %s", strerror(errno));
    kvw_node_sleep_close(s);
    return KVW_E_IO;
}

kvw_err kvw_node_sleep_open(struct kvw_node_sleep *s, const struct kvw_node_way *ways,
                            uint32_t way_count, const int fds[2], char *why)
{
    const int event_fd = fds[1];

    *s = (struct kvw_node_sleep){.timer_fd = -1, .epoll_fd = -1};
    add(s, fds[0]);
    if (way_count == 1 && event_fd < 0)
        return KVW_OK;
    for (uint32_t i = 0; i < way_count; ++i) {
        struct kvw_transport *t = ways[i].transport;
        const int fd = t->ops->fd != NULL ? t->ops->fd(t) : -1;

        if (fd < 0) {
            snprintf(why, 256,
                     "%s has no descriptor, so it can be a node's only transport alone, "
                     "with a thread of the node's",
                     ways[i].name);
            return KVW_E_UNSUPPORTED;
        }
        add(s, fd);
    }
    return event_fd >= 0 ? open_epoll(s, event_fd, why) : KVW_OK;
}

void kvw_node_sleep_close(struct kvw_node_sleep *s)
{
    if (s->epoll_fd >= 0)
        close(s->epoll_fd);
    if (s->timer_fd >= 0)
        close(s->timer_fd);
    s->epoll_fd = s->timer_fd = -1;
}

/* --- sleep ------------------------------------------------------------------------------------ */

static void disarm(struct kvw_node_way *ways, uint32_t way_count)
{
    for (uint32_t i = 0; i < way_count; ++i) {
        if (ways[i].armed)
            ways[i].transport->ops->disarm(ways[i].transport);
        ways[i].armed = false;
    }
}

/* False: there is work. */
static bool arm(struct kvw_node_way *ways, uint32_t way_count, uint64_t *until_ns)
{
    for (uint32_t i = 0; i < way_count; ++i) {
        ways[i].armed = ways[i].transport->ops->arm(ways[i].transport, until_ns);
        if (!ways[i].armed) {
            disarm(ways, way_count);
            return false;
        }
    }
    return true;
}

static void sleep_on(struct kvw_node_sleep *s, uint64_t until_ns)
{
    const uint64_t now_ns = clock_ns();
    uint64_t left_ns = until_ns > now_ns ? until_ns - now_ns : 0;
    struct timespec left;

    left_ns = left_ns < HOUR_NS ? left_ns : HOUR_NS;
    left = (struct timespec){.tv_sec = (time_t)(left_ns / S), .tv_nsec = (long)(left_ns % S)};
    (void)ppoll(s->fds, s->fd_count, &left, NULL); /* who returns early looks and sleeps again */
}

void kvw_node_sleep_until(struct kvw_node_sleep *s, struct kvw_node_way *ways, uint32_t way_count,
                          uint64_t until_ns)
{
    if (s->fd_count == 1) {
        ways[0].transport->ops->wait(ways[0].transport, until_ns, s->fds[0].fd);
        return;
    }
    if (!arm(ways, way_count, &until_ns))
        return;
    sleep_on(s, until_ns);
    disarm(ways, way_count);
}

void kvw_node_sleep_leave(struct kvw_node_sleep *s, struct kvw_node_way *ways, uint32_t way_count,
                          uint64_t until_ns)
{
    struct itimerspec at = {0};

    if (until_ns <= clock_ns() || !arm(ways, way_count, &until_ns))
        until_ns = 1;
    if (until_ns != UINT64_MAX) /* all 0 stops it; the past is at once */
        at.it_value =
            (struct timespec){.tv_sec = (time_t)(until_ns / S), .tv_nsec = (long)(until_ns % S)};
    (void)timerfd_settime(s->timer_fd, TFD_TIMER_ABSTIME, &at, NULL);
}

void kvw_node_sleep_back(struct kvw_node_way *ways, uint32_t way_count)
{
    disarm(ways, way_count); /* and that the timer is set anew makes it unreadable */
}

void kvw_node_sleep_here(struct kvw_node_sleep *s, uint64_t until_ns)
{
    sleep_on(s, until_ns);
}
