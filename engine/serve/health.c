/* SPDX-License-Identifier: Apache-2.0 */
/* health.c - how each worker is, counted and as JSON. */
#include "health.h"

static bool has(const struct kve_job *j, uint32_t worker)
{
    return j->placed.given && (j->placed.d.prefill == worker || j->placed.d.decode == worker);
}

/* Who has done its part of it has it no more. */
static bool works(const struct kve_job *j, const struct kve_spawned *w)
{
    return has(j, w->index) && (j->placed.d.decode == w->index || !j->ticket.prefilled);
}

uint32_t kve_health_workers(const struct kve_front *f, struct kve_metrics_worker *to)
{
    const struct kve_spawn *s = &f->d->spawn;

    for (uint32_t i = 0; i < s->count; ++i) {
        const struct kve_spawned *w = &s->at[i];

        to[i] = (struct kve_metrics_worker){
            .name = w->name,
            .role = w->role == KVE_WORKER_PREFILL ? "prefill" : "decode",
            .up = kve_place_takes(&f->place, i),
            .lent = f->place.nodes[i].lent,
            .kv_free = w->kv_free,
            .kv_blocks = w->kv_blocks,
            .lost = w->lost,
        };
        for (const struct kve_job *j = f->running; j != NULL; j = j->next)
            to[i].running += works(j, w);
        for (const struct kve_job *j = f->queue; j != NULL; j = j->next)
            to[i].waiting += has(j, i);
    }
    return s->count;
}

char *kve_health_say(const struct kve_front *f)
{
    static const char *const states[] = {"normal", "imbalanced", "overloaded"};
    const struct kve_route *r = &f->place.route;
    struct kve_metrics_worker w[KVE_WORKERS_MAX];
    const uint32_t n = kve_health_workers(f, w);
    cJSON *obj = cJSON_CreateObject(), *list;

    cJSON_AddStringToObject(obj, "status", "ok");
    cJSON_AddStringToObject(obj, "policy", r->cfg.policy != NULL ? r->cfg.policy->name : "");
    cJSON_AddStringToObject(obj, "state", states[r->state]);
    list = cJSON_AddArrayToObject(obj, "workers");
    for (uint32_t i = 0; list != NULL && i < n; ++i) {
        cJSON *one = cJSON_CreateObject();

        cJSON_AddStringToObject(one, "name", w[i].name);
        cJSON_AddStringToObject(one, "role", w[i].role);
        cJSON_AddBoolToObject(one, "up", w[i].up);
        cJSON_AddBoolToObject(one, "lent", w[i].lent);
        cJSON_AddNumberToObject(one, "running", w[i].running);
        cJSON_AddNumberToObject(one, "waiting", w[i].waiting);
        cJSON_AddNumberToObject(one, "kv_blocks", (double)w[i].kv_blocks);
        cJSON_AddNumberToObject(one, "kv_free", (double)w[i].kv_free);
        cJSON_AddNumberToObject(one, "lost", (double)w[i].lost);
        cJSON_AddItemToArray(list, one);
    }
    char *text = list != NULL ? cJSON_PrintUnformatted(obj) : NULL;
    cJSON_Delete(obj);
    return text;
}
