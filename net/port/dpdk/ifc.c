/* SPDX-License-Identifier: Apache-2.0 */
#include "ifc.h"

#include <errno.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

/* Whether the kernel has this address, on any interface of this network namespace. */
static bool kernel_has(const struct kvn_netif_ip *own, int family, char name[IF_NAMESIZE])
{
    struct ifaddrs *all, *i;
    bool found = false;

    if (!own->set || getifaddrs(&all) != 0)
        return false;
    for (i = all; i != NULL && !found; i = i->ifa_next) {
        const struct sockaddr *a = i->ifa_addr;

        if (a == NULL || a->sa_family != family)
            continue;
        if (family == AF_INET)
            found =
                memcmp(&((const struct sockaddr_in *)(const void *)a)->sin_addr, own->ip, 4) == 0;
        else
            found = memcmp(&((const struct sockaddr_in6 *)(const void *)a)->sin6_addr, own->ip,
                           16) == 0;
        if (found)
            snprintf(name, IF_NAMESIZE, "%s", i->ifa_name);
    }
    freeifaddrs(all);
    return found;
}

/* Index, flags, MTU, MAC. False: errno says why. */
static bool ask(struct kvn_dpdk_ifc *ifc, const char *name, short *flags)
{
    struct ifreq r = {0};
    const int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    bool ok = false;

    if (fd < 0)
        return false;
    snprintf(r.ifr_name, sizeof(r.ifr_name), "%.15s", name);
    if (ioctl(fd, SIOCGIFINDEX, &r) == 0) {
        ifc->index = r.ifr_ifindex;
        if (ioctl(fd, SIOCGIFMTU, &r) == 0) {
            ifc->mtu = ifc->kernel_mtu = (uint32_t)r.ifr_mtu;
            if (ioctl(fd, SIOCGIFHWADDR, &r) == 0) {
                memcpy(ifc->mac, r.ifr_hwaddr.sa_data, 6);
                ok = ioctl(fd, SIOCGIFFLAGS, &r) == 0;
                *flags = r.ifr_flags;
            }
        }
    }
    close(fd);
    return ok;
}

kvw_err kvn_dpdk_ifc_check(struct kvn_dpdk_ifc *ifc, const char *kind,
                           const struct kvn_dpdk_spec *spec, char why[KVN_WHY_BYTES])
{
    static const uint8_t none[6];
    char other[IF_NAMESIZE];
    short flags = 0;

    memset(ifc, 0, sizeof(*ifc));
    if (strlen(spec->what) >= IF_NAMESIZE || !ask(ifc, spec->what, &flags)) {
        snprintf(why, KVN_WHY_BYTES, "dpdk: %s: there is no interface %.40s here (ip link)", kind,
                 spec->what);
        return KVW_E_ADDRESS;
    }
    if (!(flags & IFF_UP)) {
        snprintf(why, KVN_WHY_BYTES, "dpdk: %s: interface %.15s is down: ip link set %.15s up",
                 kind, spec->what, spec->what); /* shorter than IF_NAMESIZE: checked above */
        return KVW_E_DEVICE;
    }
    if (spec->mtu > ifc->mtu) {
        snprintf(why, KVN_WHY_BYTES,
                 "dpdk: %s: mtu=%u, but interface %.15s has %u: ip link set %.15s mtu %u", kind,
                 spec->mtu, spec->what, ifc->mtu, spec->what, spec->mtu);
        return KVW_E_DEVICE;
    }
    if (spec->mtu != 0)
        ifc->mtu = spec->mtu;
    if (kernel_has(&spec->net.four, AF_INET, other) ||
        kernel_has(&spec->net.six, AF_INET6, other)) {
        snprintf(why, KVN_WHY_BYTES,
                 "dpdk: %s: the kernel has the port's address itself, on %s, and would answer in "
                 "its place: give the port one of its own",
                 kind, other);
        return KVW_E_ADDRESS;
    }
    ifc->other_mac = memcmp(spec->net.mac, none, 6) != 0 && memcmp(spec->net.mac, ifc->mac, 6) != 0;
    return KVW_OK;
}

static bool is_socket_of(int fd, int family)
{
    int domain = -1;
    socklen_t bytes = sizeof(domain);

    return getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &bytes) == 0 && domain == family;
}

void kvn_dpdk_ifc_sockets_before(struct kvn_dpdk_ifc *ifc, int family)
{
    ifc->family = family;
    for (int fd = 0; fd < KVN_DPDK_IFC_FDS; ++fd)
        ifc->before[fd] = is_socket_of(fd, family);
}

int kvn_dpdk_ifc_socket(const struct kvn_dpdk_ifc *ifc, uint32_t n)
{
    char byte;

    for (int fd = 0; fd < KVN_DPDK_IFC_FDS; ++fd)
        if (!ifc->before[fd] && is_socket_of(fd, ifc->family) && n-- == 0) {
            /* What came before the driver had made its ring waits where it never looks, and would
             * make the socket readable for ever. */
            while (recv(fd, &byte, 1, MSG_DONTWAIT) > 0)
                ;
            return fd;
        }
    return -1;
}

void kvn_dpdk_ifc_close_left(int fd)
{
    if (is_socket_of(fd, AF_XDP))
        close(fd);
}
