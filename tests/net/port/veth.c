/* SPDX-License-Identifier: Apache-2.0 */
#include "veth.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int before = -1, ns[2] = {-1, -1}, now = -1;

static int here(void)
{
    return open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
}

void t_veth_enter(int side)
{
    if (setns(side < 0 ? before : ns[side], CLONE_NEWNET) != 0)
        abort();
    now = side;
}

int t_veth_run(int side, const char *format, ...)
{
    const int back = now;
    char command[512];
    va_list args;
    int status;

    va_start(args, format);
    vsnprintf(command, sizeof(command), format, args);
    va_end(args);
    t_veth_enter(side);
    status = system(command);
    t_veth_enter(back);
    return status;
}

/* gso_max_segs: a veth hands on what the kernel's UDP sender left unsegmented, which no packet
 * socket can take (net/port/README.md). */
static bool addresses(int side)
{
    return t_veth_run(side, "ip link set lo up") == 0 &&
           t_veth_run(side, "ip link set %s gso_max_segs 1", T_VETH_DEV(side)) == 0 &&
           t_veth_run(side, "ip addr add 10.77.0.%d/24 dev %s", 100 + side, T_VETH_DEV(side)) ==
               0 &&
           t_veth_run(side, "ip addr add fd77::%d/64 dev %s nodad", 100 + side, T_VETH_DEV(side)) ==
               0 &&
           t_veth_run(side, "ip link set %s up", T_VETH_DEV(side)) == 0;
}

const char *t_veth_make(unsigned mtu)
{
    static char why[128];

    if (geteuid() != 0)
        return "namespaces and raw sockets need root";
    before = here();
    for (int side = 0; side < 2; ++side) {
        if (unshare(CLONE_NEWNET) != 0 || (ns[side] = here()) < 0) {
            snprintf(why, sizeof(why), "this kernel or container allows no network namespace: %s",
                     strerror(errno));
            return why;
        }
    }
    t_veth_enter(0);
    if (t_veth_run(0, "ip link add kvt0 mtu %u type veth peer name kvt1 mtu %u", mtu, mtu) != 0 ||
        t_veth_run(0, "ip link set kvt1 netns /proc/%d/fd/%d", (int)getpid(), ns[1]) != 0 ||
        !addresses(0) || !addresses(1))
        return "ip can't make a veth pair here";
    return NULL;
}
