/* SPDX-License-Identifier: Apache-2.0 */
/* doctor_print.c - the command line of mode doctor, and its findings as lines or JSON. */
#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "doctor_host.h"
#include "text.h"

static void print_lines(const struct kvp_findings *f)
{
    for (uint32_t i = 0; i < f->count; ++i) {
        const struct kvp_finding *x = &f->each[i];

        printf("%-6s %-15s %s\n", kvp_health_name(x->health), x->what, x->found);
        if (x->costs != NULL)
            printf("%23scosts: %s\n%23sdo:    %s\n", "", x->costs, "", x->fix);
    }
}

/* A server's findings came as JSON, and are printed as they came. */
static void print_theirs(const cJSON *list)
{
    const cJSON *x;

    cJSON_ArrayForEach(x, list)
    {
        printf("%-6.6s %-15.24s %.128s\n", kvp_msg_text(x, "health", "?"),
               kvp_msg_text(x, "what", "?"), kvp_msg_text(x, "found", ""));
        if (kvp_msg_text(x, "costs", NULL) != NULL)
            printf("%23scosts: %.200s\n%23sdo:    %.200s\n", "", kvp_msg_text(x, "costs", ""), "",
                   kvp_msg_text(x, "do", ""));
    }
}

static void print_pair(const struct kvp_pair *p, const char *host)
{
    printf("\nOn %s:\n\n", host);
    print_theirs(cJSON_GetObjectItemCaseSensitive(p->server, "findings"));
    printf("\nBetween the two:\n\n");
    print_lines(&p->way);
}

static cJSON *pair_json(const struct kvp_pair *p)
{
    cJSON *o = cJSON_CreateObject();

    cJSON_AddItemToObject(
        o, "findings",
        cJSON_Duplicate(cJSON_GetObjectItemCaseSensitive(p->server, "findings"), true));
    cJSON_AddItemToObject(o, "between", kvp_findings_json(&p->way));
    cJSON_AddBoolToObject(o, "same_host", p->same_host);
    cJSON_AddNumberToObject(o, "mtu_there", p->mtu_there);
    cJSON_AddNumberToObject(o, "mtu_back", p->mtu_back);
    cJSON_AddNumberToObject(o, "rtt_ms", p->rtt_ms);
    return o;
}

static bool print_json(const struct kvp_findings *f, const struct kvp_pair *pair)
{
    cJSON *o = cJSON_CreateObject();

    cJSON_AddNumberToObject(o, "schema", 1);
    cJSON_AddStringToObject(o, "tool", "kvperf");
    cJSON_AddStringToObject(o, "version", kvw_version());
    cJSON_AddStringToObject(o, "mode", "doctor");
    cJSON_AddItemToObject(o, "findings", kvp_findings_json(f));
    if (pair != NULL)
        cJSON_AddItemToObject(o, "server", pair_json(pair));
    cJSON_AddStringToObject(o, "takes", pair != NULL ? pair->takes : f->takes);
    cJSON_AddStringToObject(o, "why", pair != NULL ? pair->why : f->why);
    return kvp_json_write(stdout, o, true);
}

struct asked {
    const char *host, *root;
    uint16_t port;
    bool json;
};

static bool take_words(struct asked *a, int argc, char **argv)
{
    for (int i = 2; i < argc; ++i) {
        const bool more = i + 1 < argc;
        char *end = NULL;
        unsigned long n;

        if (strcmp(argv[i], "--json") == 0 || strcmp(argv[i], "-J") == 0) {
            a->json = true;
        } else if (strcmp(argv[i], "--root") == 0 && more) {
            a->root = argv[++i];
        } else if ((strcmp(argv[i], "-p") == 0 || strcmp(argv[i], "--port") == 0) && more) {
            n = strtoul(argv[++i], &end, 10);
            if (*end != '\0' || n < 1 || n > 65000) {
                fprintf(stderr, "kvperf: --port %s: not a whole number from 1 to 65000\n", argv[i]);
                return false;
            }
            a->port = (uint16_t)n;
        } else if (argv[i][0] != '-' && a->host == NULL) {
            a->host = argv[i];
        } else {
            fprintf(stderr, "kvperf: it is: kvperf doctor [HOST] [-p PORT] [--json] [--root DIR]; "
                            "HOST runs kvperf server, DIR holds another machine's /sys, /proc and "
                            "/dev\n");
            return false;
        }
    }
    return true;
}

int kvp_doctor_main(int argc, char **argv)
{
    struct asked a = {.root = "", .port = KVP_PORT};
    struct kvp_limits limits;
    static struct kvp_findings f;
    static struct kvp_pair pair;
    enum kvp_exit status = KVP_EXIT_OK;
    char why[KVP_WHY];

    if (!take_words(&a, argc, argv))
        return KVP_EXIT_USAGE;
    kvp_doctor_limits(&limits, a.root);
    kvp_doctor_look(&f, a.root, &limits, kvw_features());
    if (a.host != NULL)
        status = kvp_pair_look(&pair, &f, a.host, a.port, why);
    const struct kvp_pair *between = a.host != NULL && status == KVP_EXIT_OK ? &pair : NULL;
    bool ok = true;

    if (a.json) {
        ok = print_json(&f, between);
    } else {
        print_lines(&f);
        if (between != NULL)
            print_pair(&pair, a.host);
        printf("\nIt would take %s: %s.\n", between != NULL ? pair.takes : f.takes,
               between != NULL ? pair.why : f.why);
        ok = fflush(stdout) == 0;
    }
    cJSON_Delete(pair.server);
    if (status != KVP_EXIT_OK)
        fprintf(stderr, "kvperf: %s\n", why);
    return status != KVP_EXIT_OK ? (int)status : ok ? KVP_EXIT_OK : KVP_EXIT_FAILED;
}
