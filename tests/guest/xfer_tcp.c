/* SPDX-License-Identifier: Apache-2.0 */
/* The same chunks over a kernel TCP connection, checked the same way: what the others
 * stand beside. */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "xfer.h"

static struct sockaddr_in address(const char *text)
{
    struct sockaddr_in a = {.sin_family = AF_INET};
    const char *colon = text != NULL ? strrchr(text, ':') : NULL;
    char host[64];

    if (colon == NULL || (size_t)(colon - text) >= sizeof(host))
        xfer_die("tcp", "an address is IPV4:PORT");
    memcpy(host, text, (size_t)(colon - text));
    host[colon - text] = 0;
    a.sin_port = htons((uint16_t)atoi(colon + 1));
    if (inet_pton(AF_INET, host, &a.sin_addr) != 1)
        xfer_die(text, "an address is IPV4:PORT");
    return a;
}

/* False: the peer has closed before the first byte. */
static bool take(int fd, void *to, size_t bytes)
{
    size_t got = 0;

    while (got < bytes) {
        const ssize_t n = recv(fd, (char *)to + got, bytes - got, 0);

        if (n == 0 && got == 0)
            return false;
        if (n <= 0)
            xfer_die("tcp", "the connection broke");
        got += (size_t)n;
    }
    return true;
}

static void give(int fd, const void *from, size_t bytes)
{
    for (size_t sent = 0; sent < bytes;) {
        const ssize_t n = send(fd, (const char *)from + sent, bytes - sent, MSG_NOSIGNAL);

        if (n <= 0)
            xfer_die("tcp", "the connection broke");
        sent += (size_t)n;
    }
}

static void receive(const struct xfer *x, uint8_t *chunk)
{
    const struct sockaddr_in a = address(x->local);
    const int on = 1, listening = socket(AF_INET, SOCK_STREAM, 0);
    uint64_t n = 0, wrong = 0;
    int fd;

    setsockopt(listening, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (bind(listening, (const struct sockaddr *)&a, sizeof(a)) != 0 || listen(listening, 1) != 0)
        xfer_die(x->local, "can't listen");
    fd = accept(listening, NULL, NULL);
    for (; take(fd, chunk, x->chunk); ++n)
        wrong += xfer_wrong(chunk, x->chunk, n);
    give(fd, &n, sizeof(n));
    xfer_received(x, n, wrong, 0);
    close(fd);
    close(listening);
}

static void transmit(const struct xfer *x)
{
    const struct sockaddr_in a = address(x->peer);
    const int fd = socket(AF_INET, SOCK_STREAM, 0);
    uint64_t n = 0, arrived = 0, begin, end;

    while (connect(fd, (const struct sockaddr *)&a, sizeof(a)) != 0)
        usleep(100000); /* the alarm ends it */
    begin = xfer_now_ns();
    end = begin + (uint64_t)(x->seconds * 1e9);
    for (; xfer_now_ns() < end; ++n) {
        give(fd, xfer_chunk(x->chunk, n), x->chunk);
    }
    shutdown(fd, SHUT_WR);
    if (!take(fd, &arrived, sizeof(arrived)) || arrived != n)
        xfer_die("tcp", "the receiver counted another number of chunks");
    xfer_sent(x, n, xfer_now_ns() - begin);
    close(fd);
}

void xfer_tcp(const struct xfer *x, bool listener)
{
    uint8_t *chunk;

    if (!listener) {
        transmit(x);
        return;
    }
    chunk = malloc(x->chunk);
    if (chunk == NULL)
        xfer_die("tcp", "no memory");
    receive(x, chunk);
    free(chunk);
}
