/* SPDX-License-Identifier: Apache-2.0 */
/*
 * spawn.h - the workers of a service: started as processes (dpdk, udp), as threads (loop, none), or
 * found running already. One of each kind, or several of each over udp: each prefill then dials
 * each decode, and in a mesh each worker those of its own side that come before it.
 *
 * threads  one; memory: everything goes back in kve_spawn_stop; time: stop waits 5 s, then kills
 */
#ifndef KVE_SPAWN_H
#define KVE_SPAWN_H

#include <pthread.h>
#include <sys/types.h>

#include "../gguf/gguf.h"
#include "control.h"
#include "request.h"
#include "tempdir.h"
#include "worker.h"

#define KVE_WORKERS_MAX 64u /* of a service; a bit of a mask each */

struct kve_spawned {
    char name[KVE_WORKER_NAME]; /* "prefill", "decode", "local"; of several "prefill-0" .. */
    kve_worker_role role;
    uint32_t index; /* in struct kve_spawn */
    struct kve_channel channel;
    pid_t pid;     /* 0: no process of ours */
    bool threaded; /* thread and cfg are live */
    pthread_t thread;
    struct kve_worker_config cfg;
    char local[128]; /* the address of its link */
    bool loaded, up;
    bool stuck;      /* it doesn't end what it should, or won't ever fit */
    uint64_t linked; /* with whom, as it says: a bit for each worker */
    uint64_t kv_blocks, kv_free, block_tokens; /* as it says; 0: not yet */
    /* of its model, as it says; 0: it didn't */
    uint64_t layers, token_bytes, pair_flops, weight_bytes;
    uint32_t lost;           /* how often it was */
    char why[KVE_WHY_BYTES]; /* the last time: a sentence that begins with its name */
};

struct kve_spawn_config {
    struct kve_worker_config worker; /* what all share; role and control are filled here */
    const char *decode_model;        /* NULL: the same */
    uint32_t prefills, decodes;      /* how many; 0: one */
    bool mesh; /* of several: those of one side are linked, too, so that any can do any part */
    const char *prefill_at; /* control sockets of running workers; both or none */
    const char *decode_at;
};

struct kve_spawn {
    const struct kve_spawn_config *cfg;
    struct kve_spawned at[KVE_WORKERS_MAX]; /* prefills, then decodes */
    uint32_t count, prefills;               /* LOCAL: one and 0; it does both */
    struct kve_tempdir dir;                 /* private, of the link's socket; path "": none */
    char local[128];                        /* the link's address */
    char lock[136];                         /* what dpdk's listener puts beside it */
    char peers[KVE_WORKERS_MAX * 24];       /* of several: whom the one dials that is started */
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

/* Start or connect; *cfg must outlive *s. On an error everything is undone and why says what
 * failed. */
KVW_NODISCARD kvw_err kve_spawn_start(struct kve_spawn *s, const struct kve_spawn_config *cfg,
                                      char *why);
/* End them: hang up, wait, kill. */
void kve_spawn_stop(struct kve_spawn *s);
/* One of several, once more in its place, under the same name and address. On an error nothing is
 * there. */
KVW_NODISCARD kvw_err kve_spawn_again(struct kve_spawn *s, struct kve_spawned *w, char *why);
/* End one of them at once. */
void kve_spawn_end(struct kve_spawned *w);
/* A sentence on how the process behind w ended; false while it lives or isn't ours. */
bool kve_spawn_ended(struct kve_spawned *w, char *why);

#endif
