/* SPDX-License-Identifier: Apache-2.0 */
/* probe.c - path MTU by trying. */
#include "probe.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "stop.h"

#define MAGIC    0x6b767072u /* "kvpr" */
#define LONGEST  65507u      /* payload of UDP over IPv4 */
#define SHORTEST 128u        /* an IP packet that every path carries */
#define TRIES    3
#define PAUSE_NS 30000000ull

/* What a datagram begins with; both sides are of one protocol version. */
struct head {
    uint32_t magic, number;
    uint32_t answer; /* bytes of the answer */
};

/* Packets as long as the interface has them, whatever the kernel has heard of the path. */
static void never_cut(int fd, int family)
{
    const int probe = family == AF_INET6 ? IPV6_PMTUDISC_PROBE : IP_PMTUDISC_PROBE;

    if (family == AF_INET6)
        (void)setsockopt(fd, IPPROTO_IPV6, IPV6_MTU_DISCOVER, &probe, sizeof(probe));
    else
        (void)setsockopt(fd, IPPROTO_IP, IP_MTU_DISCOVER, &probe, sizeof(probe));
}

static struct addrinfo *address_of(const char *address, uint16_t port, char *why)
{
    const struct addrinfo hints = {.ai_socktype = SOCK_DGRAM, .ai_flags = AI_NUMERICHOST};
    struct addrinfo *found = NULL;
    char service[8];
    int got;

    snprintf(service, sizeof(service), "%u", port);
    if ((got = getaddrinfo(address, service, &hints, &found)) != 0) {
        snprintf(why, KVP_WHY, "address %.60s: %s", address, gai_strerror(got));
        return NULL;
    }
    return found;
}

int kvp_probe_socket(const char *address, uint16_t *port, char why[KVP_WHY])
{
    struct addrinfo *at = address_of(address, 0, why);
    struct sockaddr_storage bound;
    socklen_t bytes = sizeof(bound);

    if (at == NULL)
        return -1;
    int fd = socket(at->ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    if (fd < 0 || bind(fd, at->ai_addr, at->ai_addrlen) != 0 ||
        getsockname(fd, (struct sockaddr *)&bound, &bytes) != 0) {
        snprintf(why, KVP_WHY, "a UDP socket at %.60s: %s", address, strerror(errno));
        if (fd >= 0)
            close(fd);
        fd = -1;
    } else {
        *port = ntohs(bound.ss_family == AF_INET ? ((struct sockaddr_in *)&bound)->sin_port
                                                 : ((struct sockaddr_in6 *)&bound)->sin6_port);
        never_cut(fd, at->ai_family);
    }
    freeaddrinfo(at);
    return fd;
}

void kvp_probe_answer(int fd, const char *from)
{
    static unsigned char text[LONGEST];
    struct sockaddr_storage who;
    socklen_t bytes = sizeof(who);
    char name[64];
    struct head h;
    const ssize_t n =
        recvfrom(fd, text, sizeof(text), MSG_DONTWAIT, (struct sockaddr *)&who, &bytes);

    if (n < (ssize_t)sizeof(h) || getnameinfo((struct sockaddr *)&who, bytes, name, sizeof(name),
                                              NULL, 0, NI_NUMERICHOST) != 0)
        return;
    memcpy(&h, text, sizeof(h));
    if (h.magic != MAGIC || strcmp(name, from) != 0 || h.answer < sizeof(h) || h.answer > LONGEST)
        return;
    memset(text, 0, h.answer);
    memcpy(text, &h, sizeof(h));
    (void)sendto(fd, text, h.answer, MSG_DONTWAIT, (struct sockaddr *)&who, bytes);
}

bool kvp_probe_open(struct kvp_probe *p, const char *address, uint16_t port, char why[KVP_WHY])
{
    struct addrinfo *at = address_of(address, port, why);

    *p = (struct kvp_probe){.fd = -1, .wait_ns = 10 * PAUSE_NS, .rtt_ns = UINT64_MAX};
    if (at == NULL)
        return false;
    p->headers = at->ai_family == AF_INET6 ? 48 : 28;
    p->fd = socket(at->ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (p->fd < 0 || connect(p->fd, at->ai_addr, at->ai_addrlen) != 0) {
        snprintf(why, KVP_WHY, "UDP to %.60s port %u: %s", address, port, strerror(errno));
        kvp_probe_close(p);
    } else {
        never_cut(p->fd, at->ai_family);
    }
    freeaddrinfo(at);
    return p->fd >= 0;
}

void kvp_probe_close(struct kvp_probe *p)
{
    if (p->fd >= 0)
        close(p->fd);
    p->fd = -1;
}

/* Wait for the answer to probe number; false: it didn't come. */
static bool answered(struct kvp_probe *p, uint32_t number, uint64_t sent_ns)
{
    unsigned char text[sizeof(struct head)];
    struct head h = {0};

    while (kvp_wait_fds(&p->fd, 1, sent_ns + p->wait_ns) != 0) {
        const ssize_t n = recv(p->fd, text, sizeof(text), MSG_DONTWAIT | MSG_TRUNC);

        if (n < (ssize_t)sizeof(h))
            return false; /* nobody listens */
        memcpy(&h, text, sizeof(h));
        if (h.magic == MAGIC && h.number == number) {
            const uint64_t took_ns = kvw_now_ns() - sent_ns;

            p->rtt_ns = took_ns < p->rtt_ns ? took_ns : p->rtt_ns;
            p->wait_ns = 3 * took_ns + PAUSE_NS;
            return true;
        }
    }
    return false;
}

static bool passes(struct kvp_probe *p, uint32_t packet, bool back)
{
    static unsigned char text[LONGEST];
    const uint32_t payload = packet - p->headers;
    const uint32_t sent = back ? sizeof(struct head) : payload;

    for (int i = 0; i < TRIES && !kvp_stopped(); ++i) {
        const struct head h = {MAGIC, ++p->asked, back ? payload : sizeof(struct head)};
        const uint64_t now_ns = kvw_now_ns();

        memset(text, 0, sent);
        memcpy(text, &h, sizeof(h));
        if (send(p->fd, text, sent, 0) < 0) {
            if (errno == EMSGSIZE)
                return false; /* this side's interface */
        } else if (answered(p, h.number, now_ns)) {
            return true;
        }
    }
    return false;
}

uint32_t kvp_probe_longest(struct kvp_probe *p, uint32_t most, bool back)
{
    uint32_t good = SHORTEST, bad = most + 1;

    if (bad > LONGEST + p->headers + 1)
        bad = LONGEST + p->headers + 1;
    if (!passes(p, good, back))
        return 0;
    if (passes(p, bad - 1, back))
        return bad - 1;
    --bad;
    while (bad - good > 1 && !kvp_stopped()) {
        const uint32_t mid = good + (bad - good) / 2;

        if (passes(p, mid, back))
            good = mid;
        else
            bad = mid;
    }
    return good;
}
