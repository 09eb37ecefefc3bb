/* SPDX-License-Identifier: Apache-2.0 */
/*
 * node_state.h - a node's state and its lock: node.c has the thread and the descriptors, and
 * node_calls.c what a caller asks of the core under the lock.
 *
 * threads  any      memory  the node's      time  none
 */
#ifndef KVW_NODE_STATE_H
#define KVW_NODE_STATE_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/types.h>

#include "node.h"
#include "node_sleep.h"
#include "peer/core_state.h"

#define KVW_NODE_LEFT 512u /* pushes */

struct kvw_node_push_left {
    kvw_xfer_ref xfer;
    uint32_t layer, tokens;
};

struct kvw_node {
    pid_t pid;
    pthread_t thread;
    bool app_driven; /* there is no thread */
    bool busy_poll;
    pthread_mutex_t turn, core_lock;
    struct kvw_core *core;                        /* under core_lock */
    struct kvw_node_way ways[KVW_CORE_PATHS_MAX]; /* in the order of the core's paths */
    uint32_t way_count;
    struct kvw_node_sleep sleep;
    bool stop;                    /* under core_lock */
    bool signalled;               /* event_fd is readable; under core_lock */
    pthread_cond_t ended;         /* a batch's post has ended; with core_lock */
    uint64_t ended_seen;          /* how many had when it was last signalled */
    struct kvw_trace_file *trace; /* NULL: none; under core_lock */
    pthread_mutex_t left_lock;    /* of the two below; taken after core_lock, held briefly */
    struct kvw_node_push_left left[KVW_NODE_LEFT];
    uint32_t left_head, left_tail;
    _Atomic bool woken; /* wake_fd is readable, or about to be */
    int wake_fd;        /* a caller -> the thread */
    int event_fd;       /* the thread -> the application */
    uint64_t instance;
};

/* Take the core, in turn; pushes that were left behind go to it first. */
void kvw_node_lock(struct kvw_node *n);
/* False: somebody else has it. */
bool kvw_node_try_lock(struct kvw_node *n);
void kvw_node_unlock(struct kvw_node *n);
/* After a call: the thread has work, unless the core sees none. */
void kvw_node_unlock_and_wake(struct kvw_node *n);
/* The descriptor says whether events wait; who waits for a batch looks again. Under the lock. */
void kvw_node_tell_events(struct kvw_node *n);
/* The thread has something to look at. */
void kvw_node_wake(struct kvw_node *n);

#endif
