/* SPDX-License-Identifier: Apache-2.0 */
/*
 * doctor_host.h - mode doctor between this host and one that runs kvperf server: its findings, the
 * longest packet each way, and the transport that both could use.
 *
 * threads  one      memory  look keeps pair->server, which the caller deletes
 * time     some seconds at most, a probe that isn't answered costs three round trips and a pause
 */
#ifndef KVP_DOCTOR_HOST_H
#define KVP_DOCTOR_HOST_H

#include "doctor.h"
#include "line.h"
#include "options.h"

struct kvp_pair {
    cJSON *server; /* its message "doctor" */
    struct kvp_findings way;
    bool same_host;
    uint32_t mtu_here;            /* of the interface on the way */
    uint32_t mtu_there, mtu_back; /* the longest IP packet that came through; 0: none did */
    double rtt_ms;
    const char *takes;
    char why[KVP_WHY];
};

/* here: what was found on this host. On an error why is a sentence. */
enum kvp_exit kvp_pair_look(struct kvp_pair *p, const struct kvp_findings *here, const char *host,
                            uint16_t port, char why[KVP_WHY]);

#endif
