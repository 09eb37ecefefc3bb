/* SPDX-License-Identifier: Apache-2.0 */
/* session_doctor.c - the server's part of mode doctor: what it finds at home, and answers to probes
 * of the path. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "doctor.h"
#include "probe.h"
#include "server.h"
#include "stop.h"

#define IDLE_NS 60000000000ull

static bool tell(struct kvp_session *s, uint16_t port, char *why)
{
    static struct kvp_findings f;
    struct kvp_limits limits;
    cJSON *msg = kvp_msg("doctor");

    kvp_doctor_limits(&limits, "");
    kvp_doctor_look(&f, "", &limits, kvw_features());
    cJSON_AddItemToObject(msg, "findings", kvp_findings_json(&f));
    cJSON_AddNumberToObject(msg, "may_verbs", f.may_verbs);
    cJSON_AddNumberToObject(msg, "may_dpdk", f.may_dpdk);
    cJSON_AddNumberToObject(msg, "port", port);
    return kvp_line_send(&s->line, msg, why);
}

bool kvp_session_doctor(struct kvp_session *s, char why[KVP_WHY])
{
    const uint64_t until_ns = kvw_now_ns() + IDLE_NS;
    uint16_t port = 0;
    const int fd = kvp_probe_socket(s->here, &port, why);
    bool ok = fd >= 0 && tell(s, port, why);

    /* Until the client says the next thing. */
    while (ok && !kvp_stopped() && kvw_now_ns() < until_ns) {
        const int fds[] = {s->line.fd, fd};
        const uint32_t ready = kvp_wait_fds(fds, 2, until_ns);

        if ((ready & 2) != 0)
            kvp_probe_answer(fd, s->there);
        if ((ready & 1) != 0)
            break;
    }
    if (fd >= 0)
        close(fd);
    return ok;
}
