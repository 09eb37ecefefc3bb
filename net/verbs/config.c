/* SPDX-License-Identifier: Apache-2.0 */
/* What the user wrote as the local address, read into struct verbs_config; net.h has
 * the grammar. */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "impl.h"

/* A number of plain digits in [low, high]. */
static bool number(const char *text, unsigned long low, unsigned long high, unsigned long *out)
{
    char *end;

    if (text[0] < '0' || text[0] > '9' || strlen(text) > 6)
        return false;
    *out = strtoul(text, &end, 10);
    return *end == '\0' && *out >= low && *out <= high;
}

/* "10.0.0.1", "10.0.0.1:7000", "[fd00::1]:7000"; false: not an address, so a device's name. */
static bool address(struct kvn_addr *a, const char *text)
{
    char with_port[KVN_ADDR_TEXT_BYTES];

    if (kvn_addr_parse(a, text) == KVW_OK)
        return true;
    if (snprintf(with_port, sizeof(with_port), "%s:0", text) >= (int)sizeof(with_port))
        return false;
    return kvn_addr_parse(a, with_port) == KVW_OK;
}

static bool rail_name(struct verbs_config *out, struct rail_choice *r, char *text)
{
    unsigned long n;
    char *colon, *slash;

    *r = (struct rail_choice){.gid_index = -1};
    if (address(&r->ip, text)) {
        if (out->side_port == 0)
            out->side_port = r->ip.port;
        return true;
    }
    r->ip = (struct kvn_addr){.family = 0};
    if ((colon = strchr(text, ':')) != NULL) {
        *colon = '\0';
        if (!number(colon + 1, 0, 65535, &n)) {
            *colon = ':';
            return false;
        }
        if (out->side_port == 0)
            out->side_port = (uint16_t)n;
    } else if (out->side_port == 0 && out->rail_count == 0) {
        out->side_port = VERBS_PORT;
    }
    if ((slash = strchr(text, '/')) != NULL) {
        *slash = '\0';
        if (!number(slash + 1, 1, 255, &n)) {
            *slash = '/'; /* the sentence shows it whole */
            return false;
        }
        r->port = (uint8_t)n;
    }
    if (text[0] == '\0' || strlen(text) >= sizeof(r->device))
        return false;
    for (const char *s = text; *s != '\0'; ++s)
        if (strchr("/.: \t\n", *s) != NULL)
            return false;
    memcpy(r->device, text, strlen(text) + 1);
    return true;
}

static bool option(struct verbs_config *out, struct rail_choice *r, const char *key,
                   const char *value)
{
    unsigned long n;

    if (strcmp(key, "gid") == 0 && number(value, 0, 255, &n)) {
        r->gid_index = (int)n;
        return true;
    }
    if (strcmp(key, "qps") == 0 && number(value, 1, VERBS_QPS_MAX, &n)) {
        out->qps = (uint32_t)n;
        return true;
    }
    if (strcmp(key, "mtu") == 0 && number(value, 256, 4096, &n) && (n & (n - 1)) == 0) {
        out->mtu = (uint32_t)n;
        return true;
    }
    if (strcmp(key, "cm") == 0 && (strcmp(value, "1") == 0 || address(&r->cm, value))) {
        out->cm = true;
        return true;
    }
    if (strcmp(key, "mw") == 0 && strcmp(value, "0") == 0) {
        out->no_mw = true;
        return true;
    }
    if (strcmp(key, "tcp") == 0 && kvn_addr_parse(&out->side, value) == KVW_OK) {
        out->side_port = out->side.port;
        return true;
    }
    return false;
}

/* One rail with its options; text is cut up. */
static bool rail(struct verbs_config *out, char *text, const char **bad)
{
    struct rail_choice *r = &out->rails[out->rail_count];
    char *save = NULL, *part = strtok_r(text, ",", &save);

    *bad = part != NULL ? part : "";
    if (part == NULL || !rail_name(out, r, part))
        return false;
    while ((part = strtok_r(NULL, ",", &save)) != NULL) {
        char *eq = strchr(part, '=');

        *bad = part;
        if (eq == NULL)
            return false;
        *eq = '\0';
        if (!option(out, r, part, eq + 1)) {
            *eq = '=';
            return false;
        }
    }
    ++out->rail_count;
    return true;
}

kvw_err kvn_verbs_config(struct verbs_config *out, const char *local, char why[KVN_WHY_BYTES])
{
    struct verbs_config c = {.qps = 2};
    char copy[256], *save = NULL;
    const char *bad;

    if (local == NULL || local[0] == '\0' || strlen(local) >= sizeof(copy)) {
        snprintf(why, KVN_WHY_BYTES,
                 "verbs: say which device: an address of its interface (10.0.0.1:7000) or its name "
                 "(mlx5_0, rxe0/1,gid=3); 'rdma link' lists them");
        return KVW_E_ADDRESS;
    }
    memcpy(copy, local, strlen(local) + 1);
    for (char *part = strtok_r(copy, "+", &save); part != NULL; part = strtok_r(NULL, "+", &save)) {
        if (c.rail_count == VERBS_RAILS) {
            snprintf(why, KVN_WHY_BYTES, "verbs: '%.80s' names more than %u devices", local,
                     VERBS_RAILS);
            return KVW_E_ADDRESS;
        }
        if (!rail(&c, part, &bad)) {
            snprintf(why, KVN_WHY_BYTES,
                     "verbs: can't read '%.50s' in '%.60s'; it is ADDR[:PORT] or DEVICE[/PORT]"
                     "[:TCPPORT], then ,gid=N ,qps=1..%u ,mtu=256..4096 ,tcp=ADDR:PORT ,cm=1 "
                     ",mw=0",
                     bad, local, VERBS_QPS_MAX);
            return KVW_E_ADDRESS;
        }
    }
    *out = c;
    return KVW_OK;
}
