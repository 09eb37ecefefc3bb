/* SPDX-License-Identifier: Apache-2.0 */
/*
 * side.c - the side channel: one TCP connection beside the queue pairs. It carries the exchange
 * that joins them, says at once when the peer's process ends, and settles what a dead queue pair
 * had delivered. No payload.
 */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../../kvwire/wire/le.h"
#include "impl.h"

union any_addr {
    struct sockaddr any;
    struct sockaddr_in four;
    struct sockaddr_in6 six;
};

static socklen_t to_sockaddr(union any_addr *out, const struct kvn_addr *a)
{
    memset(out, 0, sizeof(*out));
    if (a->family == 4) {
        out->four.sin_family = AF_INET;
        out->four.sin_port = htons(a->port);
        memcpy(&out->four.sin_addr, a->ip, 4);
        return sizeof(out->four);
    }
    out->six.sin6_family = AF_INET6;
    out->six.sin6_port = htons(a->port);
    out->six.sin6_scope_id = a->scope;
    memcpy(&out->six.sin6_addr, a->ip, 16);
    return sizeof(out->six);
}

static void watch(struct end *e, const struct conn *c, int op)
{
    struct epoll_event ev = {.events = EPOLLIN, .data = {.u32 = 1000 + c->index}};

    if (c->connecting || c->out_bytes > 0)
        ev.events |= EPOLLOUT;
    (void)epoll_ctl(e->epoll_fd, op, c->fd, &ev);
}

static void no_delay(int fd)
{
    const int one = 1;

    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
}

kvw_err kvn_verbs_side_listen(struct end *e, const struct kvn_addr *at, char why[KVN_WHY_BYTES])
{
    char text[KVN_ADDR_TEXT_BYTES];
    union any_addr a;
    socklen_t len = to_sockaddr(&a, at);
    const int one = 1;
    const int fd = socket(a.any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    if (fd < 0)
        goto failed;
    (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (bind(fd, &a.any, len) != 0 || listen(fd, VERBS_CONNS) != 0 ||
        getsockname(fd, &a.any, &len) != 0)
        goto failed;
    e->listen_fd = fd;
    e->port = ntohs(a.any.sa_family == AF_INET ? a.four.sin_port : a.six.sin6_port);
    return KVW_OK;

failed:
    snprintf(why, KVN_WHY_BYTES, "verbs: can't listen on TCP %s: %s", kvn_addr_format(at, text),
             strerror(errno));
    if (fd >= 0)
        close(fd);
    return errno == EADDRINUSE || errno == EADDRNOTAVAIL || errno == EACCES ? KVW_E_ADDRESS
                                                                            : KVW_E_IO;
}

void kvn_verbs_side_accept(struct end *e)
{
    for (;;) {
        const int fd = accept4(e->listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        struct conn *c;

        if (fd < 0)
            return;
        /* Full: closing it is the answer, and the peer may come again. */
        if ((c = kvn_verbs_conn_take(e)) == NULL) {
            close(fd);
            continue;
        }
        no_delay(fd);
        c->fd = fd;
        c->incoming = true;
        c->state = CONN_ACCEPTED;
        watch(e, c, EPOLL_CTL_ADD);
    }
}

bool kvn_verbs_side_dial(struct end *e, struct conn *c, const struct kvn_addr *to)
{
    union any_addr a;
    const socklen_t len = to_sockaddr(&a, to);
    const int fd = socket(a.any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    if (fd < 0)
        return false;
    no_delay(fd);
    c->fd = fd;
    c->connecting = true;
    c->state = CONN_DIALING;
    watch(e, c, EPOLL_CTL_ADD);
    if (connect(fd, &a.any, len) != 0 && errno != EINPROGRESS)
        kvn_verbs_conn_end(e, c, false, KVW_E_PEER_LOST, "can't reach the peer's TCP port: %s",
                           strerror(errno));
    return true;
}

void kvn_verbs_side_close(struct end *e, struct conn *c)
{
    (void)e;
    if (c->fd >= 0)
        close(c->fd); /* epoll forgets it by itself */
    c->fd = -1;
    c->in_bytes = c->out_bytes = 0;
}

void kvn_verbs_side_send(struct end *e, struct conn *c, enum verbs_frame_type type,
                         const uint8_t *body, uint32_t bytes)
{
    uint8_t *out = c->out + c->out_bytes;

    if (c->fd < 0)
        return;
    if (VERBS_FRAME_HDR + bytes > sizeof(c->out) - c->out_bytes) {
        kvn_verbs_conn_end(e, c, false, KVW_E_PEER_LOST, "the peer doesn't read its side channel");
        return;
    }
    kvw_store_le32(out, VERBS_MAGIC);
    kvw_store_le16(out + 4, VERBS_VERSION);
    kvw_store_le16(out + 6, (uint16_t)type);
    kvw_store_le32(out + 8, bytes);
    if (bytes > 0)
        memcpy(out + VERBS_FRAME_HDR, body, bytes);
    c->out_bytes += VERBS_FRAME_HDR + bytes;
    if (!c->connecting && c->state < CONN_OVER)
        kvn_verbs_side_write(e, c);
}

bool kvn_verbs_side_connected(struct end *e, struct conn *c)
{
    int error = 0;
    socklen_t len = sizeof(error);

    if (getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &len) != 0 || error != 0) {
        kvn_verbs_conn_end(e, c, false, KVW_E_PEER_LOST, "can't reach the peer's TCP port: %s",
                           strerror(error));
        return false;
    }
    c->connecting = false;
    return true;
}

/* Never ends the connection: a peer that is gone shows when it is read. */
void kvn_verbs_side_write(struct end *e, struct conn *c)
{
    const bool wanted = c->out_bytes > 0;
    ssize_t n;

    if (c->fd < 0)
        return;
    if (wanted) {
        n = send(c->fd, c->out, c->out_bytes, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n > 0) {
            memmove(c->out, c->out + n, c->out_bytes - (size_t)n);
            c->out_bytes -= (uint32_t)n;
        }
    }
    if (wanted)
        watch(e, c, EPOLL_CTL_MOD);
}

/* The first frame in c->in is whole and ours; false: not yet, or the connection is over. */
static bool is_whole(struct end *e, struct conn *c)
{
    uint32_t bytes;

    if (c->in_bytes < VERBS_FRAME_HDR)
        return false;
    if (kvw_load_le32(c->in) != VERBS_MAGIC) {
        kvn_verbs_conn_end(e, c, false, KVW_E_PROTOCOL,
                           "what answers at the peer's TCP port is not a kvwire verbs transport");
        return false;
    }
    if (kvw_load_le16(c->in + 4) != VERBS_VERSION) {
        kvn_verbs_conn_end(e, c, false, KVW_E_VERSION,
                           "the peer's side channel has version %u, not %u",
                           kvw_load_le16(c->in + 4), VERBS_VERSION);
        return false;
    }
    bytes = kvw_load_le32(c->in + 8);
    if (bytes > VERBS_FRAME_BODY_MAX) {
        kvn_verbs_conn_end(e, c, false, KVW_E_PROTOCOL, "a frame of %u bytes on the side channel",
                           bytes);
        return false;
    }
    return c->in_bytes >= VERBS_FRAME_HDR + bytes;
}

/* False: nothing more has come, or the connection is over. */
static bool receive(struct end *e, struct conn *c)
{
    const ssize_t n = recv(c->fd, c->in + c->in_bytes, sizeof(c->in) - c->in_bytes, MSG_DONTWAIT);

    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR))
        return false;
    if (n <= 0) {
        kvn_verbs_conn_end(e, c, false, KVW_E_PEER_LOST, "the peer's process ended: %s",
                           n == 0 ? "it closed its side channel" : strerror(errno));
        return false;
    }
    c->in_bytes += (uint32_t)n;
    return true;
}

bool kvn_verbs_side_next(struct end *e, struct conn *c, struct side_frame *f)
{
    while (c->fd >= 0 && !c->connecting && c->state < CONN_OVER) {
        if (is_whole(e, c)) {
            f->type = (enum verbs_frame_type)kvw_load_le16(c->in + 6);
            f->bytes = kvw_load_le32(c->in + 8);
            memcpy(f->body, c->in + VERBS_FRAME_HDR, f->bytes);
            c->in_bytes -= VERBS_FRAME_HDR + f->bytes;
            memmove(c->in, c->in + VERBS_FRAME_HDR + f->bytes, c->in_bytes);
            c->heard_ns = e->now_ns;
            return true;
        }
        if (c->state < CONN_OVER && !receive(e, c))
            return false;
    }
    return false;
}
