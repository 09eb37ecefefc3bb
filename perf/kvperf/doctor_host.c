/* SPDX-License-Identifier: Apache-2.0 */
/* doctor_host.c - two hosts: what the other one says of itself, what the path carries, and which
 * transport both could use. */
#include "doctor_host.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client.h"
#include "host.h"
#include "probe.h"

#define REPLY_NS 10000000000ull

static bool has(const char *features, const char *word)
{
    return strstr(features, word) != NULL;
}

static void decide(struct kvp_pair *p, const struct kvp_findings *here, const cJSON *hello)
{
    const char *theirs = kvp_msg_text(hello, "features", "");
    const bool verbs = kvp_msg_number(p->server, "may_verbs", 0, 1, 0) > 0;
    const bool dpdk = kvp_msg_number(p->server, "may_dpdk", 0, 1, 0) > 0;

    if (p->same_host && has(kvw_features(), "dpdk") && has(theirs, "dpdk")) {
        p->takes = "dpdk (PATH)";
        snprintf(p->why, sizeof(p->why),
                 "both ends are on one host: a link between two processes that see one folder, "
                 "without the kernel; else udp");
    } else if (here->may_verbs && verbs) {
        p->takes = "verbs";
        snprintf(p->why, sizeof(p->why),
                 "an RDMA device is active on both: the NICs move the bytes, no CPU does");
    } else if (here->may_dpdk && dpdk) {
        p->takes = "dpdk (pci:ADDRESS)";
        snprintf(p->why, sizeof(p->why),
                 "a NIC is bound to it on both, with hugepages: no kernel on the way");
    } else {
        p->takes = "udp";
        snprintf(p->why, sizeof(p->why), "%s could use verbs, %s a NIC of DPDK's",
                 here->may_verbs ? "only this host"
                 : verbs         ? "only the server"
                                 : "neither host",
                 here->may_dpdk ? "only this host"
                 : dpdk         ? "only the server"
                                : "neither");
    }
}

/* One direction of the path. */
static void judge_way(struct kvp_pair *p, const char *what, uint32_t mtu)
{
    struct kvp_finding *f = &p->way.each[p->way.count++];

    snprintf(f->what, sizeof(f->what), "%s", what);
    if (mtu == 0) {
        f->health = KVP_LACKS;
        snprintf(f->found, sizeof(f->found), "no UDP packet of 128 bytes comes through");
        f->costs = "udp can't be used";
        f->fix = "let UDP through on every firewall between the two";
    } else if (mtu < p->mtu_here) {
        f->health = KVP_COSTS;
        snprintf(f->found, sizeof(f->found),
                 "packets of %u bytes come through, no longer ones; the interface here has %u", mtu,
                 p->mtu_here);
        f->costs = "shorter packets, so more of them and more headers; what sends longer ones "
                   "without asking loses them";
        f->fix = "the same MTU on every link and switch between the two";
    } else {
        f->health = mtu < 4000 ? KVP_COSTS : KVP_OK;
        snprintf(f->found, sizeof(f->found),
                 "packets of %u bytes come through, as the interface "
                 "here has them",
                 mtu);
        f->costs = mtu < 4000 ? "5 % of the link to headers, and more packets to handle" : NULL;
        f->fix = mtu < 4000 ? "ip link set IFACE mtu 9000, on both hosts and all switches between"
                            : NULL;
    }
}

static bool probe_way(struct kvp_pair *p, const struct kvp_client *c, char *why)
{
    const uint16_t port = (uint16_t)kvp_msg_number(p->server, "port", 1, 65535, 0);
    struct kvp_probe probe;
    char name[64];

    p->mtu_here = (uint32_t)kvp_host_mtu(c->here, name, sizeof(name));
    if (p->mtu_here == 0)
        p->mtu_here = 1500;
    if (p->mtu_here > 65535)
        p->mtu_here = 65535; /* of loopback: no IP packet is longer */
    if (!kvp_probe_open(&probe, c->there, port, why))
        return false;
    p->mtu_there = kvp_probe_longest(&probe, p->mtu_here, false);
    p->mtu_back = kvp_probe_longest(&probe, p->mtu_here, true);
    p->rtt_ms = probe.rtt_ns == UINT64_MAX ? 0 : (double)probe.rtt_ns / 1e6;
    kvp_probe_close(&probe);
    judge_way(p, "MTU there", p->mtu_there);
    judge_way(p, "MTU back", p->mtu_back);
    return true;
}

static enum kvp_exit look(struct kvp_pair *p, const struct kvp_findings *here, struct kvp_client *c,
                          char *why)
{
    char boot_id[40];

    if (!kvp_line_send(&c->line, kvp_msg("doctor"), why) ||
        (p->server = kvp_line_expect(&c->line, "doctor", kvw_now_ns() + REPLY_NS, why)) == NULL)
        return KVP_EXIT_SERVER;
    kvp_host_boot_id(boot_id);
    p->same_host = boot_id[0] != '\0' &&
                   strcmp(boot_id, kvp_msg_text(cJSON_GetObjectItemCaseSensitive(c->server, "host"),
                                                "boot_id", "")) == 0;
    if (!probe_way(p, c, why))
        return KVP_EXIT_FAILED;
    decide(p, here, c->server);
    return KVP_EXIT_OK;
}

enum kvp_exit kvp_pair_look(struct kvp_pair *p, const struct kvp_findings *here, const char *host,
                            uint16_t port, char why[KVP_WHY])
{
    char *words[] = {"kvperf", "doctor", NULL};
    struct kvp_options *o = calloc(1, sizeof(*o));
    struct kvp_client *c = calloc(1, sizeof(*c));
    enum kvp_exit status = KVP_EXIT_FAILED;

    memset(p, 0, sizeof(*p));
    snprintf(why, KVP_WHY, "no memory");
    if (o != NULL && c != NULL) {
        o->argc = 2;
        o->argv = words;
        o->host = host;
        o->port = port;
        o->net = "udp";
        status = kvp_client_join(c, o, why);
        if (status == KVP_EXIT_OK)
            status = look(p, here, c, why);
        kvp_client_close(c);
    }
    free(o);
    free(c);
    return status;
}
