/* SPDX-License-Identifier: Apache-2.0 */
/*
 * spawn.h - the workers that `kvserve run` uses: started as processes (dpdk, udp), as threads
 * (loop, none), or found running already.
 *
 * threads  one; memory: everything goes back in kve_spawn_stop; time: stop waits 5 s, then kills
 */
#ifndef KVE_SPAWN_H
#define KVE_SPAWN_H

#include <pthread.h>
#include <sys/types.h>

#include "control.h"
#include "request.h"
#include "tempdir.h"
#include "worker.h"

struct kve_spawned {
    const char *name; /* "prefill", "decode", "local"; NULL: not used */
    struct kve_channel channel;
    pid_t pid;     /* 0: no process of ours */
    bool threaded; /* thread and cfg are live */
    pthread_t thread;
    struct kve_worker_config cfg;
    bool loaded, up;
    uint64_t kv_blocks, kv_free, block_tokens; /* as it says; 0: not yet */
};

struct kve_spawn_config {
    struct kve_worker_config worker; /* what both share; role and control are filled here */
    const char *decode_model;        /* NULL: the same */
    const char *prefill_at;          /* control sockets of running workers; both or none */
    const char *decode_at;
};

struct kve_spawn {
    struct kve_spawned prefill, decode; /* LOCAL: only decode is used, and does both */
    struct kve_tempdir dir;             /* private, of the link's socket; path "": none */
    char local[128];                    /* the link's address */
    char lock[136];                     /* what dpdk's listener puts beside it */
};

/* Remove what kve_spawn_start put into the file system; for a signal that ends the process without
 * kve_spawn_stop. Async-signal-safe. */
void kve_spawn_clean_up(void);

/* The command line of a worker, name "prefill" or "decode", whose control channel is fd: everything
 * of *c that a worker's options can say. The strings of *c are borrowed. */
#define KVE_SPAWN_ARGS_MAX 48
struct kve_spawn_args {
    char *at[KVE_SPAWN_ARGS_MAX + 1]; /* n of them, then NULL */
    char text[KVE_SPAWN_ARGS_MAX][32];
    char control[32];
    int n;
};
void kve_spawn_args(struct kve_spawn_args *a, const struct kve_worker_config *c, const char *name,
                    int fd);

/* Start or connect. On an error everything is undone and why says what failed. */
KVW_NODISCARD kvw_err kve_spawn_start(struct kve_spawn *s, const struct kve_spawn_config *cfg,
                                      char *why);
/* End them: hang up, wait, kill. */
void kve_spawn_stop(struct kve_spawn *s);
/* A sentence on how the process behind w ended; false while it lives or isn't ours. */
bool kve_spawn_ended(struct kve_spawned *w, char *why);

#endif
