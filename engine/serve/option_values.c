/* SPDX-License-Identifier: Apache-2.0 */
/* option_values.c - which words an option's value may be, and the sentence for another one. */
#include "option_values.h"

#include <stdio.h>
#include <string.h>

#include "../../compress/compress.h"
#include "../../net/net.h"
#include "cpus.h"

bool kve_option_codec(uint8_t *id, const char *text)
{
    const struct kvw_codec_ops *ops = kvc_codec_by_name(text);

    if (ops == NULL && strcmp(text, "auto") != 0) {
        fprintf(stderr, "kvserve: --codec %s: this build has auto", text);
        for (uint32_t i = 0; kvc_codecs[i] != NULL; ++i)
            fprintf(stderr, ", %s", kvc_codecs[i]->name);
        fprintf(stderr, "\n");
        return false;
    }
    *id = ops != NULL ? ops->id : 0;
    return true;
}

const char *const kve_option_budgets[] = {"exact", "e8", "e4"};

bool kve_option_budget(kvw_budget *to, const char *text)
{
    for (uint32_t i = 0; i < 3; ++i)
        if (strcmp(text, kve_option_budgets[i]) == 0) {
            *to = (kvw_budget)i;
            return true;
        }
    fprintf(stderr, "kvserve: --budget %s: it is exact, e8 or e4\n", text);
    return false;
}

bool kve_option_cpus(const char *text)
{
    cpu_set_t set;

    if (kve_cpus_parse(&set, text))
        return true;
    fprintf(stderr, "kvserve: --cpu %s: a list of CPUs looks like 2,4-5\n", text);
    return false;
}

bool kve_option_net(const char *net)
{
    char names[128] = "none";

    if (strcmp(net, "none") == 0)
        return true;
    for (const struct kvn_transport_entry *t = kvn_transports; t->name != NULL; ++t) {
        if (strcmp(t->name, net) == 0)
            return true;
        snprintf(names + strlen(names), sizeof(names) - strlen(names), ", %s", t->name);
    }
    fprintf(stderr, "kvserve: --net %s: this build has %s\n", net, names);
    return false;
}
