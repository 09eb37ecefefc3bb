/* SPDX-License-Identifier: Apache-2.0 */
/*
 * transport_suite.h - the judge of kvwire/transport.h: link transport_suite.c with a file that says
 * how two joined transports are made, and every rule of the contract is tried on them.
 *
 * A user defines t_world_open(). Nothing else of the suite knows what is below; what a transport
 * can't do (vanish without a word, refuse an address, sleep in real time) it says by NULL or false.
 */
#ifndef T_TRANSPORT_SUITE_H
#define T_TRANSPORT_SUITE_H

#include <poll.h>
#include <time.h>

#include "../../kvwire/transport.h"
#include "../../kvwire/wire.h"

/* For regions and put sources: shared with children forked in t_world_open(), zeros at first. */
#define T_MEMORY_BYTES (32u << 20)

struct t_world {
    /* For t_world_open() to fill in. */
    struct kvw_transport *a; /* connects */
    struct kvw_transport *b; /* the suite calls listen() */
    const char *peer;        /* for a's connect(); NULL: the link's only peer */
    const char *bad_peer;    /* connect() must refuse it; NULL: every text will do */
    bool real_time;          /* wait() sleeps on CLOCK_MONOTONIC */
    bool gates;              /* the gate is asked (not so with rkeys) */
    uint64_t dead_ns;        /* rule 8 */
    uint64_t (*now_ns)(struct t_world *w);
    /* Nothing is to be done before until_ns, unless something arrives: let time pass. */
    void (*idle)(struct t_world *w, uint64_t until_ns);
    /* b stops, without a word to a; the suite won't touch it again. NULL: can't be done. */
    void (*vanish_b)(struct t_world *w);
    /* After the suite closed a and b (but not a vanished b). May be NULL. */
    void (*over)(struct t_world *w);
    void *arg;
    /* The suite's, mapped before t_world_open(). */
    uint8_t *memory;
};

void t_world_open(struct t_world *w);

/* For worlds in real time. */
uint64_t t_clock_ns(struct t_world *w);
/* As wait(), and every other time by what stands for it: arm, sleep on the descriptor, disarm. */
static inline void t_rest(struct kvw_transport *t, uint64_t until_ns, int wake_fd)
{
    static uint32_t turn;
    const int fd = t->ops->fd != NULL ? t->ops->fd(t) : -1;
    struct pollfd fds[2] = {{.fd = fd, .events = POLLIN}, {.fd = wake_fd, .events = POLLIN}};
    struct timespec now, left;
    uint64_t now_ns, left_ns;

    if (fd < 0 || ++turn % 2 == 0) {
        t->ops->wait(t, until_ns, wake_fd);
        return;
    }
    if (!t->ops->arm(t, &until_ns))
        return;
    clock_gettime(CLOCK_MONOTONIC, &now);
    now_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    left_ns = until_ns > now_ns ? until_ns - now_ns : 0;
    left_ns = left_ns < 60000000000u ? left_ns : 60000000000u;
    left = (struct timespec){(time_t)(left_ns / 1000000000u), (long)(left_ns % 1000000000u)};
    (void)ppoll(fds, wake_fd >= 0 ? 2 : 1, &left, NULL);
    t->ops->disarm(t);
}

/* t_rest() of a, in slices so short that b isn't kept waiting. */
void t_idle_briefly(struct t_world *w, uint64_t until_ns);

#endif
