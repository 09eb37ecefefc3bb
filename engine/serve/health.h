/* SPDX-License-Identifier: Apache-2.0 */
/*
 * health.h - how each worker is: for /health, /metrics and the page.
 *
 * threads  one    memory  the JSON is the caller's; names are the workers'    time  none
 */
#ifndef KVE_HEALTH_H
#define KVE_HEALTH_H

#include <cjson/cJSON.h>

#include "front.h"
#include "metrics.h"

/* Into to[KVE_WORKERS_MAX], prefills first; how many there are. */
uint32_t kve_health_workers(const struct kve_front *f, struct kve_metrics_worker *to);
/* {"status":"ok","policy":..,"state":..,"workers":[{"name":..,"role":..,"up":..} ..]}, to be given
 * to cJSON_free(); NULL: out of memory */
char *kve_health_say(const struct kve_front *f);

#endif
