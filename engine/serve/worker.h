/* SPDX-License-Identifier: Apache-2.0 */
/*
 * worker.h - a serving process's inside: a model, its KV blocks, the link to the peer, and one
 * control channel over which requests come one after the other. A worker prefills, decodes, or
 * (local) does both.
 *
 * threads  kve_worker_main runs on the calling thread, which is the compute thread; the link has
 *          its own. Several workers may live in one process (--net loop)
 * memory   everything is given back before it returns
 * time     waits only in poll(), on the control channel and the link
 */
#ifndef KVE_WORKER_H
#define KVE_WORKER_H

#include <stdbool.h>
#include <stdint.h>

#include "../../kvwire/mem.h"

typedef enum kve_worker_role {
    KVE_WORKER_PREFILL = 1,
    KVE_WORKER_DECODE,
    KVE_WORKER_LOCAL, /* both, no link */
} kve_worker_role;

#define KVE_ENCODERS_MAX  16u
#define KVE_SEQUENCES_MAX 64u /* answers that a decode worker writes at once */

#define KVE_PIECE_TOKENS 128u /* of a prompt, at most, while answers are written beside it */

#define KVE_WORKER_NAME 32u /* of a worker's name, the NUL included */

struct kve_worker_config {
    kve_worker_role role;
    const char *name; /* for its peers and its router; NULL: the role's */
    const char *model_path;
    const char *net;   /* ignored by LOCAL */
    const char *local; /* as kvn_config.local */
    const char *peer;
    const char *fault;
    const char *trace;        /* NULL, or a folder for traces (link.h) */
    const char *cpus;         /* of the thread that moves packets (cpus.h); NULL: any */
    bool busy_poll;           /* that thread never sleeps */
    const char *control_path; /* listen here; NULL: control_fd is a connected channel */
    int control_fd;
    const char *device; /* who computes: NULL or "cpu"; "cuda", "cuda:N" where that can be */
    kvw_dtype kv_dtype; /* of K and V: 0 is bf16; fp8 e4m3 is a GPU's alone */
    uint32_t threads;
    uint32_t kv_tokens;      /* capacity of the KV pool, 0: the model's context */
    uint32_t block_tokens;   /* 0: 16 */
    uint32_t prefill_tokens; /* per chunk, 0: the engine's default */
    const char *cache_dir;   /* the prefix cache on disk; NULL: none */
    uint64_t cache_bytes;    /* and its size */
    uint64_t open_timeout_ns;
    uint64_t lease_ns; /* 0: default */
    uint8_t codec;     /* prefill: kvw_codec_id, 0: chosen by what is fastest */
    uint32_t encoders; /* prefill: threads that encode, 0: the link's own */
    bool quiet;        /* no lines on stderr but errors */
    bool own_group;    /* of a process that spawn.c starts: a terminal's ^C isn't for it */
};

/*
 * Serve until the control channel ends (control_fd) or for ever (control_path; SIGTERM and SIGINT
 * end it). Returns the process's exit status: 0, or 1 after one sentence on stderr.
 */
int kve_worker_main(const struct kve_worker_config *cfg);
/* Ask every worker of this process to end; async-signal-safe. */
void kve_worker_stop_all(void);

#endif
