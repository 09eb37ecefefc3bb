/* SPDX-License-Identifier: Apache-2.0 */
/*
 * device.c - which RDMA device, which of its ports, and which GID: by what the user said, else by
 * one rule, which is explained in the sentence that kvn_verbs_about() gives.
 *
 * The rule for GIDs, best first: RoCE v2 over an IPv4 address, RoCE v2 over a routable IPv6
 * address, InfiniBand, RoCE v2 over a link-local address, RoCE v1. Link-local GIDs reach no other
 * subnet and are the ones that silently don't work; RoCE v1 isn't IP at all.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "impl.h"

static bool is_mapped(const union ibv_gid *gid)
{
    static const uint8_t prefix[12] = {[10] = 0xff, [11] = 0xff};

    return memcmp(gid->raw, prefix, sizeof(prefix)) == 0;
}

static bool is_link_local(const union ibv_gid *gid)
{
    return gid->raw[0] == 0xfe && (gid->raw[1] & 0xc0) == 0x80;
}

const char *kvn_verbs_gid_text(const union ibv_gid *gid, char buf[64])
{
    if (is_mapped(gid))
        return inet_ntop(AF_INET, gid->raw + 12, buf, 64);
    return inet_ntop(AF_INET6, gid->raw, buf, 64);
}

static uint32_t rank(const struct ibv_gid_entry *g)
{
    if (g->gid_type == IBV_GID_TYPE_ROCE_V2)
        return is_mapped(&g->gid) ? 5 : is_link_local(&g->gid) ? 2 : 4;
    return g->gid_type == IBV_GID_TYPE_IB ? 3 : 1;
}

static const char *rank_text(const struct ibv_gid_entry *g)
{
    static const char *const text[] = {"",
                                       "RoCE v1, as it has no other",
                                       ("RoCE v2 over a link-local address, as it has no other: "
                                        "peers must be on the same subnet"),
                                       "InfiniBand",
                                       "RoCE v2 over routable IPv6",
                                       "RoCE v2 over IPv4"};

    return text[rank(g)];
}

static bool gid_is_ip(const union ibv_gid *gid, const struct kvn_addr *ip)
{
    if (ip->family == 4)
        return is_mapped(gid) && memcmp(gid->raw + 12, ip->ip, 4) == 0;
    return memcmp(gid->raw, ip->ip, 16) == 0;
}

/* The GID to use of those in table, or NULL. */
static const struct ibv_gid_entry *choose_gid(const struct ibv_gid_entry *table, size_t count,
                                              const struct rail_choice *want)
{
    const struct ibv_gid_entry *best = NULL;

    for (size_t i = 0; i < count; ++i) {
        const struct ibv_gid_entry *g = &table[i];

        if (want->port != 0 && g->port_num != want->port)
            continue;
        if (want->gid_index >= 0 && g->gid_index != (uint32_t)want->gid_index)
            continue;
        if (want->ip.family != 0 && !gid_is_ip(&g->gid, &want->ip))
            continue;
        if (best == NULL || rank(g) > rank(best))
            best = g;
    }
    return best;
}

static void add_about(char *about, size_t bytes, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
static void add_about(char *about, size_t bytes, const char *fmt, ...)
{
    const size_t at = strlen(about);
    va_list args;

    va_start(args, fmt);
    vsnprintf(about + at, bytes - at, fmt, args);
    va_end(args);
}

/* One device: does it have what is wanted? KVW_E_NOTFOUND: another may. */
static kvw_err try_device(struct rail *r, struct ibv_device *device, const struct rail_choice *want,
                          char why[KVN_WHY_BYTES])
{
    struct ibv_gid_entry table[64];
    const struct ibv_gid_entry *g;
    const char *name = device->name;
    ssize_t count;

    if ((r->ctx = ibv_open_device(device)) == NULL) {
        snprintf(why, KVN_WHY_BYTES,
                 "verbs: can't open %.60s: %s (are /dev/infiniband/uverbs* there and readable?)",
                 name, strerror(errno));
        return KVW_E_DEVICE;
    }
    count = ibv_query_gid_table(r->ctx, table, sizeof(table) / sizeof(table[0]), 0);
    g = count > 0 ? choose_gid(table, (size_t)count, want) : NULL;
    if (g == NULL) {
        snprintf(why, KVN_WHY_BYTES,
                 want->gid_index >= 0
                     ? "verbs: %.60s has no GID %d; 'rdma link' and "
                       "/sys/class/infiniband/%.60s/ports/*/gids list those there are"
                     : "verbs: %.60s has no usable GID (asked for: %d); give its interface an "
                       "address (ip addr add), or see /sys/class/infiniband/%.60s/ports/*/gids",
                 name, want->gid_index, name);
        goto close;
    }
    r->gid = *g;
    r->port = (uint8_t)g->port_num;
    if (ibv_query_device(r->ctx, &r->attr) != 0 ||
        ibv_query_port(r->ctx, r->port, &r->port_attr) != 0) {
        snprintf(why, KVN_WHY_BYTES, "verbs: %.60s port %u can't be queried: %s", name, r->port,
                 strerror(errno));
        (void)ibv_close_device(r->ctx);
        r->ctx = NULL;
        return KVW_E_DEVICE;
    }
    return KVW_OK;

close:
    (void)ibv_close_device(r->ctx);
    r->ctx = NULL;
    return KVW_E_NOTFOUND;
}

static void nothing_found(const struct rail_choice *want, int count, char why[KVN_WHY_BYTES])
{
    struct kvn_addr ip = want->ip;
    char text[KVN_ADDR_TEXT_BYTES];

    if (count == 0) {
        snprintf(why, KVN_WHY_BYTES,
                 "verbs: this machine has no RDMA device; load its driver, or make a software one: "
                 "rdma link add rxe0 type rxe netdev eth0");
    } else if (want->ip.family != 0) {
        snprintf(why, KVN_WHY_BYTES,
                 "verbs: none of the %d RDMA devices has the address %s; 'rdma link' says which "
                 "interfaces they sit on",
                 count, kvn_addr_format(&ip, text));
    } else if (why[0] == '\0') {
        snprintf(why, KVN_WHY_BYTES,
                 "verbs: there is no RDMA device %.60s; 'rdma link' lists the %d", want->device,
                 count);
    }
}

/* The port is usable; say what was chosen. */
static kvw_err check_port(struct rail *r, const struct rail_choice *want, char *about, size_t bytes,
                          char why[KVN_WHY_BYTES])
{
    const char *name = r->ctx->device->name;
    char text[64];

    if (r->port_attr.state != IBV_PORT_ACTIVE) {
        snprintf(
            why, KVN_WHY_BYTES,
            "verbs: %.60s port %u is down; bring its interface up (ip link set ... up) and see "
            "that its cable or peer is there",
            name, r->port);
        (void)ibv_close_device(r->ctx);
        r->ctx = NULL;
        return KVW_E_DEVICE;
    }
    r->mtu = r->port_attr.active_mtu;
    r->alive = r->port_up = true;
    /* Of the two directories this one goes first, before the driver waits for its users. */
    snprintf(r->path, sizeof(r->path), "%s", r->ctx->device->dev_path);
    if (access(r->path, F_OK) != 0)
        r->path[0] = '\0';
    add_about(about, bytes, "%s%s port %u, GID %u (%s): %s%s; MTU %u", about[0] != '\0' ? ". " : "",
              name, r->port, r->gid.gid_index, kvn_verbs_gid_text(&r->gid.gid, text),
              want->gid_index >= 0   ? "told to take this GID, "
              : want->ip.family != 0 ? "it has the address asked for, "
                                     : "the best of its GIDs, ",
              rank_text(&r->gid), 128u << r->mtu);
    return KVW_OK;
}

kvw_err kvn_verbs_device_open(struct rail *r, const struct rail_choice *choice, char *about,
                              size_t about_bytes, char why[KVN_WHY_BYTES])
{
    struct ibv_device **list;
    kvw_err err = KVW_E_NOTFOUND;
    int count = 0;

    why[0] = '\0';
    list = ibv_get_device_list(&count);
    for (int i = 0; list != NULL && i < count && err == KVW_E_NOTFOUND; ++i)
        if (choice->device[0] == '\0' || strcmp(choice->device, list[i]->name) == 0)
            err = try_device(r, list[i], choice, why);
    if (list != NULL)
        ibv_free_device_list(list);
    if (err == KVW_E_NOTFOUND) {
        nothing_found(choice, count, why);
        return KVW_E_DEVICE;
    }
    return err == KVW_OK ? check_port(r, choice, about, about_bytes, why) : err;
}
