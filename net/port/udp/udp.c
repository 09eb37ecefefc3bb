/* SPDX-License-Identifier: Apache-2.0 */
#include "udp.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#include "../../open.h"
#include "../../queues/queues.h"
#include "../../packet/endpoint.h"
#include "../../packet/wire.h"
#include "impl.h"

#define PAYLOAD_DEFAULT (KVN_SLICE_DEFAULT + KVN_DATA_BYTES)
/* With GSO and GRO a longer packet is no cheaper, and MTU 9000 carries these; without them, inside
 * one host, a packet costs the same whatever its length. The README has the figures. */
#define PAYLOAD_GSO   (8896u + KVN_DATA_BYTES)
#define SLICE_LOCAL   (32u * 1024)
#define PAYLOAD_LOCAL (SLICE_LOCAL + KVN_DATA_BYTES)
#define QUEUE_DEFAULT (4u * 1024 * 1024)
/* Processes that share cores look this late, on a busy machine often: what the path holds beyond a
 * round trip keeps a link of 1 Gb/s at work meanwhile. */
#define SLACK_NS 8000000u

static uint64_t clock_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Look again and again, as long as the waits before suggest. True: there is input. */
static bool look(struct kvn_udp_port *u, nfds_t fds, uint64_t *now_ns, uint64_t until_ns)
{
    const uint64_t stop_ns = kvn_spin_until(&u->spin, *now_ns, until_ns);

    if (stop_ns == *now_ns)
        return false;
    do {
        if (poll(u->polled, fds, 0) != 0) {
            kvn_spin_looked(&u->spin, true);
            return true;
        }
        *now_ns = clock_ns();
    } while (*now_ns < stop_ns);
    if (stop_ns != until_ns)
        kvn_spin_looked(&u->spin, false);
    return false;
}

static void udp_wait(struct kvn_port *port, uint64_t until_ns, int wake_fd)
{
    struct kvn_udp_port *u = (struct kvn_udp_port *)port;
    const nfds_t fds = port->source_count + (wake_fd >= 0 ? 1u : 0u);
    uint64_t now_ns = clock_ns(), left_ns;
    struct timespec left;
    int woken;

    u->empty = false;
    if (u->rx_at < u->rx_count || until_ns <= now_ns)
        return;
    u->polled[port->source_count] = (struct pollfd){.fd = wake_fd, .events = POLLIN};
    if (look(u, fds, &now_ns, until_ns) || until_ns <= now_ns)
        return;
    left_ns = until_ns - now_ns;
    left.tv_sec = (time_t)(left_ns / 1000000000u);
    left.tv_nsec = (long)(left_ns % 1000000000u);
    woken = ppoll(u->polled, fds, until_ns == UINT64_MAX ? NULL : &left, NULL);
    kvn_spin_slept(&u->spin, clock_ns() - now_ns, woken > 0);
}

/* The socket, or what watches all of them. */
static int udp_fd(struct kvn_port *port)
{
    struct kvn_udp_port *u = (struct kvn_udp_port *)port;

    if (port->source_count == 1)
        return u->fd[0];
    if (u->epoll_fd >= 0 || (u->epoll_fd = epoll_create1(EPOLL_CLOEXEC)) < 0)
        return u->epoll_fd;
    for (uint32_t i = 0; i < port->source_count; ++i) {
        struct epoll_event event = {.events = EPOLLIN};

        if (epoll_ctl(u->epoll_fd, EPOLL_CTL_ADD, u->fd[i], &event) == 0)
            continue;
        close(u->epoll_fd);
        u->epoll_fd = -1;
        break;
    }
    return u->epoll_fd;
}

static bool udp_arm(struct kvn_port *port, uint64_t *until_ns)
{
    const struct kvn_udp_port *u = (const struct kvn_udp_port *)port;

    (void)until_ns;
    return u->rx_at == u->rx_count;
}

static void udp_disarm(struct kvn_port *port)
{
    ((struct kvn_udp_port *)port)->empty = false;
}

static uint64_t udp_deadline_ns(const struct kvn_port *port)
{
    const struct kvn_udp_port *u = (const struct kvn_udp_port *)port;

    return u->rx_at < u->rx_count ? 0 : UINT64_MAX;
}

static void udp_close(struct kvn_port *port)
{
    struct kvn_udp_port *u = (struct kvn_udp_port *)port;

    for (uint32_t i = 0; i < port->source_count; ++i)
        close(u->fd[i]);
    if (u->epoll_fd >= 0)
        close(u->epoll_fd);
    free(u->buffers);
    free(u);
}

static const struct kvn_port_ops udp_ops = {
    .name = "udp",
    .rx = kvn_udp_rx,
    .tx = kvn_udp_tx,
    .wait = udp_wait,
    .fd = udp_fd,
    .arm = udp_arm,
    .disarm = udp_disarm,
    .deadline_ns = udp_deadline_ns,
    .close = udp_close,
    .reaches = kvn_udp_reaches,
};

/* Both addresses, and that there is a UDP port for every source. */
static kvw_err read_config(const struct kvn_udp_config *cfg, struct kvn_addr *local,
                           struct kvn_addr *peer, char why[KVN_WHY_BYTES])
{
    const uint32_t sources = cfg->sources != 0 ? cfg->sources : 1;

    if (cfg->local == NULL || kvn_addr_parse(local, cfg->local) != KVW_OK) {
        snprintf(why, KVN_WHY_BYTES,
                 "local '%.100s' is not IPV4:PORT or [IPV6]:PORT, nor [IPV6%%IFACE]:PORT of an "
                 "interface here",
                 cfg->local != NULL ? cfg->local : "");
        return KVW_E_ADDRESS;
    }
    peer->family = 0;
    if (cfg->peer != NULL && kvn_addr_parse(peer, cfg->peer) != KVW_OK) {
        snprintf(why, KVN_WHY_BYTES,
                 "peer '%.100s' is not IPV4:PORT or [IPV6]:PORT, nor [IPV6%%IFACE]:PORT of an "
                 "interface here",
                 cfg->peer);
        return KVW_E_ADDRESS;
    }
    if (sources > KVN_PORT_SOURCES_MAX ||
        (local->port != 0 && local->port + sources - 1 > UINT16_MAX)) {
        snprintf(why, KVN_WHY_BYTES, "udp %.100s: %u UDP ports; there can be %u, up to port 65535",
                 cfg->local, sources, KVN_PORT_SOURCES_MAX);
        return KVW_E_INVALID;
    }
    return KVW_OK;
}

/* Where another queue's socket is, which takes company from now on. It was bound without: so a
 * stranger's port would have been in use. */
static bool address_of(int fd, struct kvn_addr *at)
{
    union kvn_sockaddr a;
    socklen_t len = sizeof(a);

    if (!kvn_udp_share(fd) || getsockname(fd, &a.any, &len) != 0)
        return false;
    kvn_sockaddr_to(at, &a);
    return true;
}

/* One socket for each source, on ports that follow each other; or on any, where local says any. */
static kvw_err open_sockets(struct kvn_udp_port *u, const struct kvn_addr *local, uint32_t sources,
                            const struct kvn_udp_port *group, char why[KVN_WHY_BYTES])
{
    for (uint32_t i = 0; i < sources; ++i) {
        struct kvn_addr at = *local;
        char text[KVN_ADDR_TEXT_BYTES];
        int error;

        if (at.port != 0)
            at.port = (uint16_t)(at.port + i);
        u->fd[i] = group == NULL                   ? kvn_udp_socket(&at, false)
                   : address_of(group->fd[i], &at) ? kvn_udp_socket(&at, true)
                                                   : -1;
        if (u->fd[i] >= 0) {
            u->polled[i] = (struct pollfd){.fd = u->fd[i], .events = POLLIN};
            if (i == 0)
                u->port.local = at;
            ++u->port.source_count;
            continue;
        }
        error = errno;
        snprintf(why, KVN_WHY_BYTES, "udp %s: %s", kvn_addr_format(&at, text), strerror(error));
        return error == EADDRINUSE || error == EADDRNOTAVAIL || error == EACCES ? KVW_E_ADDRESS
                                                                                : KVW_E_DEVICE;
    }
    return KVW_OK;
}

/* Buffers, GSO and GRO; and the line that says what came of it. */
static void set_up(struct kvn_udp_port *u, const struct kvn_udp_config *cfg, uint32_t *queued_max,
                   char why[KVN_WHY_BYTES])
{
    const uint32_t want = cfg->queue_bytes != 0 ? cfg->queue_bytes : QUEUE_DEFAULT;
    uint32_t in = UINT32_MAX, out = UINT32_MAX;
    char local[KVN_ADDR_TEXT_BYTES], small[112] = "";

    u->gso = !cfg->plain && kvn_udp_can_gso(u->fd[0]);
    u->gro = !cfg->plain;
    for (uint32_t i = 0; i < u->port.source_count; ++i) {
        const uint32_t o = kvn_udp_buffer(u->fd[i], false, want);
        const uint32_t r = kvn_udp_buffer(u->fd[i], true, want);

        out = o < out ? o : out;
        in = r < in ? r : in;
        u->gro = u->gro && kvn_udp_turn_gro_on(u->fd[i]);
    }
    /* The kernel charges a packet's buffers, not its bytes: about twice as much, and it doubles
     * what is asked for because of that. */
    *queued_max = in;
    if (in < want || out < want)
        snprintf(small, sizeof(small),
                 "; short of the %u KiB asked for: raise net.core.rmem_max and wmem_max",
                 want / 1024);
    snprintf(why, KVN_WHY_BYTES, "udp %s: %u socket%s, GSO %s, GRO %s, buffers in %u out %u KiB%s",
             kvn_addr_format(&u->port.local, local), u->port.source_count,
             u->port.source_count > 1 ? "s" : "", u->gso ? "yes" : "no", u->gro ? "yes" : "no",
             in / 1024, out / 1024, small);
}

kvw_err kvn_udp_port_open(struct kvn_port **port, const struct kvn_udp_config *cfg,
                          uint32_t *queued_max, char why[KVN_WHY_BYTES])
{
    struct kvn_addr local, peer;
    struct kvn_udp_port *u;
    kvw_err err = read_config(cfg, &local, &peer, why);

    if (err != KVW_OK)
        return err;
    u = calloc(1, sizeof(*u));
    if (u == NULL)
        goto nomem;
    u->epoll_fd = -1;
    u->port.ops = &udp_ops;
    u->port.slack_ns = SLACK_NS;
    u->port.payload_max = cfg->payload_max != 0 ? cfg->payload_max : PAYLOAD_DEFAULT;
    u->port.default_peer = peer;
    kvn_spin_begin(&u->spin, cfg->busy_poll);
    /* Buffers a page multiple apart would all compete for the same cache sets. */
    u->stride = KVN_UDP_RX_BYTES + 64;
    u->buffers = malloc((size_t)KVN_BURST * u->stride);
    if (u->buffers == NULL)
        goto free_port;
    err = open_sockets(u, &local, cfg->sources != 0 ? cfg->sources : 1,
                       (const struct kvn_udp_port *)cfg->group, why);
    if (err != KVW_OK) {
        udp_close(&u->port);
        return err;
    }
    set_up(u, cfg, queued_max, why);
    kvn_udp_rx_prepare(u);
    *port = &u->port;
    return KVW_OK;

free_port:
    free(u);
nomem:
    snprintf(why, KVN_WHY_BYTES, "udp %.100s: no memory", cfg->local);
    return KVW_E_NOMEM;
}

/*
 * The longest packet to start with. The client proposes a size and the handshake proves it, so a
 * listener takes any. The client proposes what its own interface carries.
 */
static uint32_t first_payload(const struct kvn_config *cfg)
{
    struct kvn_addr peer;
    uint32_t fits;

    if (cfg->listener)
        return PAYLOAD_LOCAL;
    if (cfg->peer == NULL || kvn_addr_parse(&peer, cfg->peer) != KVW_OK)
        return PAYLOAD_DEFAULT;
    fits = kvn_udp_route_payload(&peer);
    if (fits == 0)
        return PAYLOAD_DEFAULT;
    if (fits < KVN_PAYLOAD_MIN)
        return KVN_PAYLOAD_MIN;
    return fits < PAYLOAD_LOCAL ? fits : PAYLOAD_LOCAL;
}

bool kvn_udp_steer(struct kvn_port *first, uint32_t queues)
{
    const struct kvn_udp_port *u = (const struct kvn_udp_port *)first;
    bool all = true;

    for (uint32_t i = 0; i < first->source_count; ++i)
        all = kvn_udp_share_by_id(u->fd[i], queues) && all;
    return all;
}

/* A sender's queues have UDP ports of their own, those of queue 0 first: so the network's and the
 * listener's hashes tell them apart. */
static kvw_err own_ports(const char *local, uint32_t queue, uint32_t sources, char *text,
                         char why[KVN_WHY_BYTES])
{
    struct kvn_addr a;

    if (kvn_addr_parse(&a, local) != KVW_OK || a.port == 0) {
        snprintf(text, KVN_ADDR_TEXT_BYTES, "%.79s", local); /* any port; or open complains */
        return KVW_OK;
    }
    if (a.port + queue * sources > UINT16_MAX) {
        snprintf(why, KVN_WHY_BYTES, "udp %.100s: queue %u's UDP ports are beyond 65535", local,
                 queue);
        return KVW_E_INVALID;
    }
    a.port = (uint16_t)(a.port + queue * sources);
    kvn_addr_format(&a, text);
    return KVW_OK;
}

/* A port for each queue. An error leaves none. */
static kvw_err open_queues(struct kvn_port **ports, uint32_t queues, const char *local,
                           const struct kvn_config *cfg, uint32_t *queued_max,
                           char why[KVN_WHY_BYTES])
{
    struct kvn_udp_config udp = {.local = local,
                                 .peer = cfg->peer,
                                 .payload_max = first_payload(cfg),
                                 .sources = cfg->paths,
                                 .plain = getenv("KVWIRE_UDP_PLAIN") != NULL,
                                 .busy_poll = cfg->busy_poll};
    char line[KVN_WHY_BYTES], own[KVN_ADDR_TEXT_BYTES];
    kvw_err err = KVW_OK;

    for (uint32_t i = 0; i < queues; ++i) {
        uint32_t queued = 0;

        if (i > 0 && cfg->listener)
            udp.group = ports[0];
        if (i > 0 && !cfg->listener &&
            (err = own_ports(local, i, cfg->paths != 0 ? cfg->paths : 1, own, line)) == KVW_OK)
            udp.local = own;
        if (err == KVW_OK)
            err = kvn_udp_port_open(&ports[i], &udp, &queued, i == 0 ? why : line);
        if (err != KVW_OK) {
            if (i > 0)
                memcpy(why, line, sizeof(line));
            while (i > 0) {
                --i;
                ports[i]->ops->close(ports[i]);
            }
            return err;
        }
        *queued_max = i == 0 || queued < *queued_max ? queued : *queued_max;
        if (!cfg->listener && ((struct kvn_udp_port *)ports[i])->gso &&
            ports[i]->payload_max > PAYLOAD_GSO)
            ports[i]->payload_max = PAYLOAD_GSO;
    }
    return KVW_OK;
}

KVN_OPEN_DECLARE(udp);
KVN_OPEN_DECLARE(udp)
{
    struct kvn_packet_config packet = {.slice_bytes =
                                           cfg->slice_bytes != 0 ? cfg->slice_bytes : SLICE_LOCAL,
                                       .dead_ns = (uint64_t)cfg->dead_ms * 1000000u,
                                       .conns_max = cfg->conns_max};
    char local[KVN_WHY_BYTES / 2], bad[KVN_WHY_BYTES]; /* why keeps the port's line otherwise */
    struct kvn_port *ports[KVN_QUEUES_MAX];
    uint32_t queued_max = 0, queues;
    kvw_err err;

    err =
        kvn_queues_parse(cfg->local != NULL ? cfg->local : "", local, sizeof(local), &queues, why);
    if (err == KVW_OK)
        err = open_queues(ports, queues, local, cfg, &queued_max, why);
    if (err != KVW_OK)
        return err;
    if (queues > 1) {
        const size_t at = strlen(why);
        const bool by_id = cfg->listener && kvn_udp_steer(ports[0], queues);

        snprintf(why + at, KVN_WHY_BYTES - at, "; %u queues%s", queues,
                 !cfg->listener ? ""
                 : by_id        ? ", steered by connection"
                                : ", steered by hash");
    }
    packet.inflight_bytes = queued_max < KVN_INFLIGHT_BYTES ? queued_max : KVN_INFLIGHT_BYTES;
    if (packet.inflight_bytes < 2 * ports[0]->payload_max)
        packet.inflight_bytes = 2 * ports[0]->payload_max;
    err = kvn_queues_finish(t, cfg, ports, &packet, queues, "udp", bad);
    if (err != KVW_OK)
        memcpy(why, bad, sizeof(bad));
    return err;
}
