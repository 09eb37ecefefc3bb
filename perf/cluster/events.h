/* SPDX-License-Identifier: Apache-2.0 */
/*
 * events.h - what happens next: a heap by time; what was put in first is first among equals.
 *
 * threads  one      memory  grows; free gives it back      time  O(log n)
 */
#ifndef KCL_EVENTS_H
#define KCL_EVENTS_H

#include <stdbool.h>
#include <stdint.h>

enum kcl_event_kind { KCL_STEP, KCL_LANDED, KCL_TICK };

struct kcl_event {
    uint64_t at_ns, number;
    enum kcl_event_kind kind;
    uint32_t who; /* a node, a request */
};

struct kcl_events {
    struct kcl_event *heap;
    uint32_t count, room;
    uint64_t number;
};

/* False: no memory. */
bool kcl_events_put(struct kcl_events *e, uint64_t at_ns, enum kcl_event_kind kind, uint32_t who);
/* Of one that isn't empty. */
struct kcl_event kcl_events_take(struct kcl_events *e);
void kcl_events_free(struct kcl_events *e);

#endif
