/* SPDX-License-Identifier: Apache-2.0 */
/*
 * doctor.h - mode doctor: what of this machine makes a hand-over slow, one finding a line, with
 * what it costs and what to do.
 *
 * Everything is read from files below a root, "/" for this machine: a test shows it another one.
 *
 * threads  one      memory  none kept      time  none
 */
#ifndef KVP_DOCTOR_H
#define KVP_DOCTOR_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stdint.h>

enum kvp_health { KVP_OK, KVP_COSTS, KVP_LACKS };

struct kvp_finding {
    enum kvp_health health; /* OK; COSTS: it works, and slower; LACKS: this way is closed */
    char what[24];
    char found[128];
    const char *costs, *fix; /* NULL if OK */
};

#define KVP_FINDINGS_MAX 48u

struct kvp_findings {
    struct kvp_finding each[KVP_FINDINGS_MAX];
    uint32_t count;
    bool may_verbs, may_dpdk; /* could this machine use them, were the other side like it */
    const char *takes, *why;  /* the transport that it would take, and why */
};

/* What this process may do. */
struct kvp_limits {
    uint64_t memlock_bytes; /* UINT64_MAX: none */
    bool may_lock;          /* CAP_IPC_LOCK: the limit above isn't held against it */
    bool root;
};

/* As /proc/self below root tells, but for being root. */
void kvp_doctor_limits(struct kvp_limits *l, const char *root);

/* Look at a machine. features: kvw_features() of the library. */
void kvp_doctor_look(struct kvp_findings *f, const char *root, const struct kvp_limits *limits,
                     const char *features);

/* "ok", "costs", "lacks". */
const char *kvp_health_name(enum kvp_health health);
/* A list of findings; the caller deletes it. */
cJSON *kvp_findings_json(const struct kvp_findings *f);

/* kvperf doctor [HOST [-p PORT]] [--json] [--root DIR]. Returns the exit status. */
int kvp_doctor_main(int argc, char **argv);

#endif
