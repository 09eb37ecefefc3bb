/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sleeping on a device with addresses of its own. Three ways, best first: its receive interrupt
 * (armed, then looked once more, then slept, as link_wait.c tells); a socket that the kernel makes
 * readable (af_packet, af_xdp); naps that double up to KVN_DPDK_NAP_NS while nothing comes.
 */
#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <rte_ethdev.h>

#include "job.h"
#include "look.h"
#include "nic_impl.h"

/* An interrupt that was missed costs no more than this. */
#define SLEEP_MAX_NS 20000000ull
#define NAP_FIRST_NS 20000ull

kvw_err kvn_dpdk_nic_wait_setup(struct kvn_dpdk_nic *p, int wake_fd, bool interrupts)
{
    /* A socket stays readable until it was read; an interrupt's counter is read by nobody. */
    struct epoll_event event = {.events = interrupts ? EPOLLIN | EPOLLET : EPOLLIN};

    kvn_spin_begin(&p->spin, false);
    kvn_gather_begin(&p->gather);
    p->nap_ns = NAP_FIRST_NS;
    if (interrupts)
        wake_fd = rte_eth_dev_rx_intr_ctl_q_get_fd(p->id, p->queue);
    if (wake_fd < 0)
        return interrupts ? KVW_E_DEVICE : KVW_OK;
    event.data.fd = interrupts ? -1 : wake_fd;
    if (epoll_ctl(p->epoll_fd, EPOLL_CTL_ADD, wake_fd, &event) != 0)
        return KVW_E_DEVICE;
    p->wakes = true;
    p->interrupts = interrupts;
    p->gathers = !interrupts;
    return KVW_OK;
}

/* One-shot, so that a descriptor of an earlier wait() can wake a later one at most once. */
static void watch(struct kvn_dpdk_nic *p, int wake_fd)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLONESHOT, .data.fd = -1};

    if (wake_fd >= 0 && epoll_ctl(p->epoll_fd, EPOLL_CTL_MOD, wake_fd, &event) != 0 &&
        errno == ENOENT)
        (void)epoll_ctl(p->epoll_fd, EPOLL_CTL_ADD, wake_fd, &event);
}

static void take_edges(struct kvn_dpdk_nic *p)
{
    struct epoll_event events[4];
    int n, error;
    socklen_t bytes = sizeof(error);

    n = epoll_wait(p->epoll_fd, events, 4, 0);
    /* An interface that went down makes its socket readable until the error was read. */
    for (int i = 0; i < n; ++i)
        if ((events[i].events & EPOLLERR) != 0 && events[i].data.fd >= 0)
            (void)getsockopt(events[i].data.fd, SOL_SOCKET, SO_ERROR, &error, &bytes);
}

/* epoll_wait() counts in milliseconds; ppoll() on its descriptor in nanoseconds. True: woken by
 * something. */
static bool nap(struct kvn_dpdk_nic *p, uint64_t ns)
{
    struct pollfd fd = {.fd = p->epoll_fd, .events = POLLIN};
    const struct timespec ts = {.tv_sec = (time_t)(ns / 1000000000u),
                                .tv_nsec = (long)(ns % 1000000000u)};

    ++p->sleeps;
    if (ppoll(&fd, 1, &ts, NULL) <= 0)
        return false;
    take_edges(p);
    return true;
}

void kvn_dpdk_nic_busy_poll(struct kvn_port *port)
{
    struct kvn_dpdk_nic *p = (struct kvn_dpdk_nic *)port;

    kvn_spin_begin(&p->spin, true);
    p->gathers = false;
}

/* Let packets gather, deaf to the device. False: this isn't the time for it. */
static bool gather(struct kvn_dpdk_nic *p, uint64_t now_ns, uint64_t until_ns, int wake_fd)
{
    const struct timespec ts = {.tv_nsec = KVN_GATHER_NS};
    struct pollfd fd = {.fd = wake_fd, .events = POLLIN};

    if (!p->gather.on || until_ns < now_ns + KVN_GATHER_NS)
        return false;
    ++p->sleeps;
    if (ppoll(&fd, 1, &ts, NULL) != 0)
        return true; /* the caller has work: it teaches nothing */
    p->early_count = kvn_dpdk_nic_take(p, p->early, KVN_BURST);
    kvn_gather_napped(&p->gather, p->early_count);
    return true;
}

/* How long may be slept in one go. */
static uint64_t longest(struct kvn_dpdk_nic *p)
{
    uint64_t ns = SLEEP_MAX_NS;

    if (!p->wakes) {
        ns = p->nap_ns;
        p->nap_ns = ns * 2 < KVN_DPDK_NAP_NS ? ns * 2 : KVN_DPDK_NAP_NS;
    }
    return ns;
}

static void listen_to(struct kvn_dpdk_nic *p, bool on)
{
    if (!p->interrupts)
        return;
    if (!on) {
        (void)rte_eth_dev_rx_intr_disable(p->id, p->queue);
        return;
    }
    (void)rte_eth_dev_rx_intr_enable(p->id, p->queue);
    atomic_thread_fence(memory_order_seq_cst);
}

int kvn_dpdk_nic_fd(struct kvn_port *port)
{
    return ((struct kvn_dpdk_nic *)port)->epoll_fd;
}

bool kvn_dpdk_nic_arm(struct kvn_port *port, uint64_t *until_ns)
{
    struct kvn_dpdk_nic *p = (struct kvn_dpdk_nic *)port;
    const uint64_t deadline_ns = kvn_dpdk_nic_deadline_ns(port);
    uint64_t most_ns;

    if (p->early_count != 0)
        return false;
    p->early_at = 0;
    listen_to(p, true);
    p->early_count = kvn_dpdk_nic_take(p, p->early, KVN_BURST);
    if (p->early_count != 0) {
        listen_to(p, false);
        p->nap_ns = NAP_FIRST_NS;
        return false;
    }
    ++p->sleeps;
    most_ns = kvn_dpdk_now_ns() + longest(p);
    if (most_ns < *until_ns)
        *until_ns = most_ns;
    if (deadline_ns < *until_ns)
        *until_ns = deadline_ns;
    return true;
}

void kvn_dpdk_nic_disarm(struct kvn_port *port)
{
    struct kvn_dpdk_nic *p = (struct kvn_dpdk_nic *)port;

    take_edges(p);
    listen_to(p, false);
}

void kvn_dpdk_nic_wait(struct kvn_port *port, uint64_t until_ns, int wake_fd)
{
    struct kvn_dpdk_nic *p = (struct kvn_dpdk_nic *)port;
    const uint64_t deadline_ns = kvn_dpdk_nic_deadline_ns(port);
    uint64_t now_ns;

    if (p->early_count != 0)
        return;
    if (deadline_ns < until_ns)
        until_ns = deadline_ns;
    p->early_at = 0;
    if (p->gathers && gather(p, kvn_dpdk_now_ns(), until_ns, wake_fd))
        return;
    /* Behind a gate every look is a burst of its own. */
    if (p->gate == NULL &&
        kvn_dpdk_look(&p->spin, p->id, p->queue, p->early, &p->early_count, until_ns, wake_fd)) {
        p->nap_ns = NAP_FIRST_NS;
        return;
    }
    watch(p, wake_fd);
    listen_to(p, true);
    p->early_count = kvn_dpdk_nic_take(p, p->early, KVN_BURST);
    now_ns = kvn_dpdk_now_ns();
    if (p->early_count != 0) {
        p->nap_ns = NAP_FIRST_NS;
    } else if (now_ns < until_ns) {
        const uint64_t most = longest(p);

        const bool woken = nap(p, until_ns - now_ns < most ? until_ns - now_ns : most);
        const uint64_t slept_ns = kvn_dpdk_now_ns() - now_ns;

        kvn_spin_slept(&p->spin, slept_ns, woken);
        if (p->gathers) {
            p->early_count = kvn_dpdk_nic_take(p, p->early, KVN_BURST);
            kvn_gather_slept(&p->gather, slept_ns, woken, p->early_count);
        }
    }
    listen_to(p, false);
}
