/* SPDX-License-Identifier: Apache-2.0 */
/*
 * node_sleep.h - how a node sleeps: on its only transport, on the descriptors of several, or in an
 * application's loop, by one descriptor that stands for all of them and a timer.
 *
 * threads  the node's own or kvw_node_poll()'s      memory  descriptors      time  CLOCK_MONOTONIC
 */
#ifndef KVW_NODE_SLEEP_H
#define KVW_NODE_SLEEP_H

#include <poll.h>

#include "core.h"

/* A transport of a node. */
struct kvw_node_way {
    struct kvw_transport *transport; /* the thread's, under core_lock while it polls */
    char name[16];
    char address[256]; /* how peers reach it */
    bool armed;
};

struct kvw_node_sleep {
    struct pollfd fds[KVW_CORE_PATHS_MAX + 2]; /* wake_fd, the transports', timer_fd */
    uint32_t fd_count;                         /* 1: the only transport's wait() */
    int timer_fd, epoll_fd;                    /* app-driven; else -1 */
};

/* wake_fd wakes who sleeps; event_fd (app-driven; else -1) makes the application's descriptor
 * readable, too. why: a sentence (256 bytes). KVW_E_UNSUPPORTED: a transport has no descriptor.
 * KVW_E_IO. */
KVW_NODISCARD kvw_err kvw_node_sleep_open(struct kvw_node_sleep *s, const struct kvw_node_way *ways,
                                          uint32_t way_count, const int fds[2], char *why);
void kvw_node_sleep_close(struct kvw_node_sleep *s);

/* What the node's thread asks the scheduler for: it works briefly and often. From Linux 6.12 on a
 * thread of short slices runs soon after it wakes, on a CPU that others use, too; before, nothing
 * changes. The share of the CPU stays what it was. */
#define KVW_SLICE_NS 100000u
void kvw_node_sleep_soon(void);

/* The node's thread sleeps until until_ns, for input or for wake_fd. */
void kvw_node_sleep_until(struct kvw_node_sleep *s, struct kvw_node_way *ways, uint32_t way_count,
                          uint64_t until_ns);

/* App-driven. The caller is about to go: the descriptor becomes readable at until_ns, at input, or
 * at once if there is work. And it is here again. */
void kvw_node_sleep_leave(struct kvw_node_sleep *s, struct kvw_node_way *ways, uint32_t way_count,
                          uint64_t until_ns);
void kvw_node_sleep_back(struct kvw_node_way *ways, uint32_t way_count);
/* Sleep between the two, until until_ns or there is work; events don't count. */
void kvw_node_sleep_here(struct kvw_node_sleep *s, uint64_t until_ns);

#endif
