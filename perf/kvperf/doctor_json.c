/* SPDX-License-Identifier: Apache-2.0 */
/* doctor_json.c - findings as JSON, for those who print them and for the other side. */
#include "doctor.h"

const char *kvp_health_name(enum kvp_health health)
{
    static const char *const names[] = {"ok", "costs", "lacks"};

    return names[health];
}

cJSON *kvp_findings_json(const struct kvp_findings *f)
{
    cJSON *list = cJSON_CreateArray();

    for (uint32_t i = 0; i < f->count; ++i) {
        const struct kvp_finding *x = &f->each[i];
        cJSON *to = cJSON_CreateObject();

        cJSON_AddStringToObject(to, "health", kvp_health_name(x->health));
        cJSON_AddStringToObject(to, "what", x->what);
        cJSON_AddStringToObject(to, "found", x->found);
        if (x->costs != NULL) {
            cJSON_AddStringToObject(to, "costs", x->costs);
            cJSON_AddStringToObject(to, "do", x->fix);
        }
        cJSON_AddItemToArray(list, to);
    }
    return list;
}
