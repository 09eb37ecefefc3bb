/* SPDX-License-Identifier: Apache-2.0 */
#include "xdp.h"

#include <errno.h>
#include <linux/if_link.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* The nested attribute of that type, or NULL. */
static const struct rtattr *find(const struct rtattr *a, int bytes, int type)
{
    for (; RTA_OK(a, bytes); a = RTA_NEXT(a, bytes))
        if ((a->rta_type & NLA_TYPE_MASK) == type)
            return a;
    return NULL;
}

static uint32_t read_id(const struct nlmsghdr *h)
{
    const struct ifinfomsg *link = NLMSG_DATA(h);
    const struct rtattr *a = find(IFLA_RTA(link), (int)IFLA_PAYLOAD(h), IFLA_XDP);
    uint32_t id = 0;

    if (a != NULL)
        a = find(RTA_DATA(a), (int)RTA_PAYLOAD(a), IFLA_XDP_PROG_ID);
    if (a != NULL && RTA_PAYLOAD(a) >= sizeof(id))
        memcpy(&id, RTA_DATA(a), sizeof(id));
    return id;
}

bool kvn_dpdk_xdp_attached(int index, uint32_t *id)
{
    struct {
        struct nlmsghdr h;
        struct ifinfomsg link;
    } ask = {
        .h = {.nlmsg_len = sizeof(ask), .nlmsg_type = RTM_GETLINK, .nlmsg_flags = NLM_F_REQUEST},
        .link = {.ifi_family = AF_UNSPEC, .ifi_index = index}};
    _Alignas(8) char answer[16384];
    const struct nlmsghdr *h = (const struct nlmsghdr *)(const void *)answer;
    const int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    ssize_t n = -1;

    if (fd < 0)
        return false;
    if (send(fd, &ask, sizeof(ask), 0) == (ssize_t)sizeof(ask))
        n = recv(fd, answer, sizeof(answer), 0);
    close(fd);
    if (n < (ssize_t)sizeof(*h) || !NLMSG_OK(h, (size_t)n) || h->nlmsg_type != RTM_NEWLINK) {
        errno = EPROTO;
        return false;
    }
    *id = read_id(h);
    return true;
}
