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

#include "eal.h"
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

#define PATH_BYTES 40u

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static uint32_t users;
static char path[PATH_BYTES]; /* as DPDK knows the socket; "": there is none */
static int asking = -1;       /* our end of it */

static int dial(void)
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

static void hang_up(void)
{
    if (asking >= 0)
        close(asking);
    asking = -1;
}

/* The socket, without a name as soon as we have an end of it. */
static void begin(void)
{
    static const struct rte_vhost_device_ops none;
    char folder[] = "/tmp/kvwire-vhost-XXXXXX";

    if (mkdtemp(folder) == NULL)
        return;
    snprintf(path, sizeof(path), "%s/s", folder);
    if (rte_vhost_driver_register(path, 0) != 0) {
        path[0] = '\0';
    } else {
        if (rte_vhost_driver_callback_register(path, &none) == 0 &&
            rte_vhost_driver_start(path) == 0)
            asking = dial();
        (void)unlink(path);
    }
    (void)rmdir(folder);
}

void kvn_dpdk_vhost_turn_open(void)
{
    sigset_t before;

    kvn_dpdk_signals_block(&before); /* DPDK starts that thread here, if it is the first */
    pthread_mutex_lock(&mutex);
    if (users++ == 0)
        begin();
    pthread_mutex_unlock(&mutex);
    kvn_dpdk_signals_restore(&before);
}

void kvn_dpdk_vhost_turn_close(void)
{
    pthread_mutex_lock(&mutex);
    if (--users == 0) {
        if (path[0] != '\0')
            (void)rte_vhost_driver_unregister(path);
        path[0] = '\0';
        hang_up();
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
    if (!was) /* a late answer must not be the next one's */
        hang_up();
    pthread_mutex_unlock(&mutex);
    return was;
}
