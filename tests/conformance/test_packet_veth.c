/* SPDX-License-Identifier: Apache-2.0 */
/* The packet protocol over UDP sockets of two hosts (network namespaces joined by a veth pair)
 * keeps the contract. KVW_LAB_FAMILY=6: over IPv6. Skips outside of a lab (tests/lab/lab.py). */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../../net/net.h"
#include "transport_suite.h"

static void enter(const char *netns)
{
    char path[128];
    int fd;

    snprintf(path, sizeof(path), "/run/netns/%s", netns);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    cr_assert_geq(fd, 0, "no %s", path);
    cr_assert_eq(setns(fd, CLONE_NEWNET), 0, "can't enter %s", path);
    close(fd);
}

/* A peer that vanishes is one that isn't polled any more. */
static void forget(struct t_world *w)
{
    w->arg = w->b;
}

static void over(struct t_world *w)
{
    struct kvw_transport *const b = w->arg;

    if (b != NULL)
        b->ops->close(b);
}

/* Sockets stay in the namespace they were made in, so one thread can own both ends. */
void t_world_open(struct t_world *w)
{
    const char *const a = getenv("KVW_LAB_A"), *const b = getenv("KVW_LAB_B");
    const char *const family = getenv("KVW_LAB_FAMILY");
    const bool six = family != NULL && strcmp(family, "6") == 0;
    static char local[2][80];
    struct kvn_config listener = {.local = local[1], .listener = true},
                      sender = {.local = local[0], .peer = local[1]};
    char why[KVN_WHY_BYTES] = "";

    if (a == NULL || b == NULL)
        cr_skip_test("not in a lab; tests/run.sh veth makes one");
    /* Tests run beside each other. */
    for (int i = 0; i < 2; ++i)
        snprintf(local[i], sizeof(local[i]), six ? "[%s]:%d" : "%s:%d",
                 getenv(six ? (i == 0 ? "KVW_LAB_IP6_A" : "KVW_LAB_IP6_B")
                            : (i == 0 ? "KVW_LAB_IP_A" : "KVW_LAB_IP_B")),
                 i == 0 ? 0 : 20000 + getpid() % 40000);
    enter(b);
    cr_assert_eq(kvn_open(&w->b, "udp", &listener, why), KVW_OK, "%s", why);
    enter(a);
    cr_assert_eq(kvn_open(&w->a, "udp", &sender, why), KVW_OK, "%s", why);
    w->peer = local[1];
    w->bad_peer = "nowhere";
    w->real_time = true;
    w->gates = true;
    w->dead_ns = KVW_PEER_DEAD_NS;
    w->now_ns = t_clock_ns;
    w->idle = t_idle_briefly;
    w->vanish_b = forget;
    w->over = over;
}
