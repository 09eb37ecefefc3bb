/* SPDX-License-Identifier: Apache-2.0 */
/* vhost_turn.c - a vhost socket of our own, and a question that is asked there. */
#include "vhost_turn.h"

#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <rte_vhost.h>

#include "job.h"

/* vhost-user's header: request, flags, bytes that follow. */
struct question {
    uint32_t request, flags, bytes;
};
struct answer {
    struct question head;
    uint32_t features[2]; /* as on the wire: 20 bytes in all */
};
#define GET_FEATURES 1u
#define VERSION      1u

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static int asking = -1; /* our end of the socket */

static int dial(const char *path)
{
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_un addr = {.sun_family = AF_UNIX};

    snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", path);
    if (fd >= 0 && connect(fd, (const struct sockaddr *)&addr, sizeof(addr)) != 0) {
        close(fd);
        return -1;
    }
    return fd;
}

void kvn_dpdk_vhost_turn_open(void)
{
    static const struct rte_vhost_device_ops none;
    char folder[] = "/tmp/kvwire-vhost-XXXXXX", path[sizeof(folder) + 2];

    pthread_mutex_lock(&mutex);
    if (asking < 0 && mkdtemp(folder) != NULL) {
        snprintf(path, sizeof(path), "%s/s", folder);
        if (rte_vhost_driver_register(path, 0) == 0) {
            if (rte_vhost_driver_callback_register(path, &none) == 0 &&
                rte_vhost_driver_start(path) == 0)
                asking = dial(path); /* whoever holds an end of it doesn't need its name */
            if (asking < 0)
                (void)rte_vhost_driver_unregister(path);
        }
        (void)unlink(path);
        (void)rmdir(folder);
    }
    pthread_mutex_unlock(&mutex);
}

/* An answer in whole, or false at until_ns. */
static bool answered(uint64_t until_ns)
{
    struct pollfd p = {.fd = asking, .events = POLLIN};
    struct answer a;
    size_t got = 0;

    while (got < sizeof(a)) {
        const uint64_t now_ns = kvn_dpdk_now_ns();

        if (now_ns >= until_ns)
            return false;
        if (poll(&p, 1, (int)((until_ns - now_ns) / 1000000 + 1)) <= 0)
            continue;
        const ssize_t n = recv(asking, (char *)&a + got, sizeof(a) - got, MSG_DONTWAIT);

        if (n <= 0)
            return false;
        got += (size_t)n;
    }
    return a.head.request == GET_FEATURES;
}

bool kvn_dpdk_vhost_turn(uint64_t until_ns)
{
    const struct question q = {.request = GET_FEATURES, .flags = VERSION};
    bool was;

    pthread_mutex_lock(&mutex);
    was = asking >= 0 && send(asking, &q, sizeof(q), MSG_NOSIGNAL) == (ssize_t)sizeof(q) &&
          answered(until_ns);
    if (!was && asking >= 0) { /* a late answer must not be the next one's */
        close(asking);
        asking = -1;
    }
    pthread_mutex_unlock(&mutex);
    return was;
}
