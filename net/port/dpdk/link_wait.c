/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sleeping on a DPDK port. The receive interrupt of either device is an eventfd that the peer
 * writes to, if it sees the interrupt armed after it has put a packet into the ring. So: arm, full
 * fence, look once more, sleep, disarm. No wake-up gets lost between a packet and a sleep.
 *
 * What may be missed is an interrupt of a peer that comes up while we sleep, since the driver
 * disarms it on a new connection, and a look that finds the driver's lock taken. The first wakes us
 * by link_fd; for the second, no sleep is longer than NAP_NS.
 */
#include <errno.h>
#include <poll.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#include <rte_ethdev.h>

#include "link_impl.h"
#include "job.h"
#include "look.h"

#define NAP_NS 20000000ull

kvw_err kvn_dpdk_wait_setup(struct kvn_dpdk_port *p)
{
    /* Edge-triggered: nobody reads the interrupt's counter. */
    struct epoll_event event = {.events = EPOLLIN | EPOLLET};
    const int rx_fd = rte_eth_dev_rx_intr_ctl_q_get_fd(p->id, 0);

    if (rx_fd < 0 || epoll_ctl(p->epoll_fd, EPOLL_CTL_ADD, rx_fd, &event) != 0 ||
        epoll_ctl(p->epoll_fd, EPOLL_CTL_ADD, p->link_fd, &event) != 0)
        return KVW_E_DEVICE;
    return KVW_OK;
}

/* One-shot, so that a descriptor of an earlier wait() can wake a later one at most once. */
static void watch(struct kvn_dpdk_port *p, int wake_fd)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLONESHOT};

    if (wake_fd >= 0 && epoll_ctl(p->epoll_fd, EPOLL_CTL_MOD, wake_fd, &event) != 0 &&
        errno == ENOENT)
        (void)epoll_ctl(p->epoll_fd, EPOLL_CTL_ADD, wake_fd, &event);
}

static void arm(struct kvn_dpdk_port *p, bool on)
{
    pthread_mutex_lock(&p->arming);
    if (on)
        (void)rte_eth_dev_rx_intr_enable(p->id, 0);
    else
        (void)rte_eth_dev_rx_intr_disable(p->id, 0);
    pthread_mutex_unlock(&p->arming);
}

/* epoll_wait() counts in milliseconds; ppoll() on its descriptor in nanoseconds. True: woken by
 * something. */
static bool nap(struct kvn_dpdk_port *p, uint64_t ns)
{
    struct pollfd fd = {.fd = p->epoll_fd, .events = POLLIN};
    const struct timespec ts = {.tv_sec = (time_t)(ns / 1000000000u),
                                .tv_nsec = (long)(ns % 1000000000u)};
    struct epoll_event events[4];

    if (ppoll(&fd, 1, &ts, NULL) <= 0)
        return false;
    (void)epoll_wait(p->epoll_fd, events, 4, 0); /* takes the edges */
    return true;
}

int kvn_dpdk_fd(struct kvn_port *port)
{
    return ((struct kvn_dpdk_port *)port)->epoll_fd;
}

bool kvn_dpdk_arm(struct kvn_port *port, uint64_t *until_ns)
{
    struct kvn_dpdk_port *p = (struct kvn_dpdk_port *)port;
    const uint64_t nap_ns = kvn_dpdk_now_ns() + NAP_NS;

    if (p->early_count != 0)
        return false;
    p->early_at = 0;
    arm(p, true);
    atomic_thread_fence(memory_order_seq_cst);
    p->early_count = rte_eth_rx_burst(p->id, 0, p->early, KVN_BURST);
    if (p->early_count != 0) {
        arm(p, false);
        return false;
    }
    ++p->sleeps;
    if (nap_ns < *until_ns)
        *until_ns = nap_ns;
    if (p->late_count != 0 && p->late_ns < *until_ns)
        *until_ns = p->late_ns;
    return true;
}

void kvn_dpdk_disarm(struct kvn_port *port)
{
    struct kvn_dpdk_port *p = (struct kvn_dpdk_port *)port;
    struct epoll_event events[4];

    (void)epoll_wait(p->epoll_fd, events, 4, 0); /* takes the edges */
    arm(p, false);
}

void kvn_dpdk_wait(struct kvn_port *port, uint64_t until_ns, int wake_fd)
{
    struct kvn_dpdk_port *p = (struct kvn_dpdk_port *)port;
    uint64_t now_ns, napped_ns;
    bool woken;

    if (p->early_count != 0)
        return;
    if (p->late_count != 0 && p->late_ns < until_ns)
        until_ns = p->late_ns;
    p->early_at = 0;
    if (kvn_dpdk_look(&p->spin, p->id, 0, p->early, &p->early_count, until_ns, wake_fd))
        return;
    watch(p, wake_fd);
    arm(p, true);
    atomic_thread_fence(memory_order_seq_cst);
    p->early_count = rte_eth_rx_burst(p->id, 0, p->early, KVN_BURST);
    now_ns = kvn_dpdk_now_ns();
    if (p->early_count == 0 && now_ns < until_ns) {
        ++p->sleeps;
        woken = nap(p, until_ns - now_ns < NAP_NS ? until_ns - now_ns : NAP_NS);
        napped_ns = kvn_dpdk_now_ns() - now_ns;
        kvn_spin_slept(&p->spin, napped_ns, woken);
    }
    arm(p, false);
}
