/* SPDX-License-Identifier: Apache-2.0 */
/*
 * up.h - `kvserve up`: workers that stay, one of each kind or several, and HTTP before them.
 *
 * threads  one
 * memory   all given back before kve_up_main() returns
 * time     until a signal; a worker that is lost is replaced
 */
#ifndef KVE_UP_H
#define KVE_UP_H

#include "front.h"
#include "request.h"
#include "spawn.h"

struct kve_up_config {
    struct kve_spawn_config spawn;
    const char *listen;   /* ADDR:PORT */
    const char *key_file; /* its first line is what clients must say; NULL: nothing */
    uint32_t sequences;   /* answers that each decode writes at once */
    uint32_t queue;       /* requests that may wait */
    uint32_t body_bytes;
    uint32_t connections;
    uint32_t chat_tokens;          /* of a chat's answer that names no limit */
    struct kve_place_config place; /* the policy, the promises */
    uint64_t timeout_ns;           /* of one request, the queue included */
    bool no_reuse;                 /* no prompt shares another's K and V */
    kvw_budget budget;
    uint32_t exact_first, exact_last;
};

/* Whether this build has it; kve_up_main() of one that hasn't says so. */
extern const bool kve_up_built;

/* The exit status: 0 after SIGTERM or SIGINT and a drain; 1 after a sentence on stderr; 128 + the
 * signal when a second one ended it. */
int kve_up_main(const struct kve_up_config *cfg);
/* A signal. The first drains, the second ends at once. Async-signal-safe. */
void kve_up_interrupt(int sig);

#endif
