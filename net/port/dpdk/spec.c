/* SPDX-License-Identifier: Apache-2.0 */
#include "spec.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../steer.h"

#define VALUE_BYTES 160

/* Digits only, min .. max. */
static bool number(uint32_t *v, const char *text, uint32_t min, uint32_t max)
{
    unsigned long n;
    char *end;

    if (text[0] < '0' || text[0] > '9' || strlen(text) > 7)
        return false;
    n = strtoul(text, &end, 10);
    if (*end != '\0' || n < min || n > max)
        return false;
    *v = (uint32_t)n;
    return true;
}

static bool parse_mac(uint8_t mac[6], const char *text)
{
    unsigned b[6];
    int at = -1;

    if (sscanf(text, "%2x:%2x:%2x:%2x:%2x:%2x%n", &b[0], &b[1], &b[2], &b[3], &b[4], &b[5], &at) !=
            6 ||
        at < 0 || text[at] != '\0' || (b[0] & 1u) != 0)
        return false; /* a group's address isn't an interface's */
    for (int i = 0; i < 6; ++i)
        mac[i] = (uint8_t)b[i];
    return true;
}

static bool parse_ip(struct kvn_addr *a, const char *text)
{
    *a = (struct kvn_addr){.family = strchr(text, ':') != NULL ? 6 : 4};
    return inet_pton(a->family == 4 ? AF_INET : AF_INET6, text, a->ip) == 1;
}

/* ADDRESS[/PREFIX] */
static bool set_ip(struct kvn_dpdk_spec *s, char *text)
{
    char *slash = strchr(text, '/');
    struct kvn_netif_ip *own;
    struct kvn_addr a;
    uint32_t prefix = 0;

    if (slash != NULL)
        *slash++ = '\0';
    if (!parse_ip(&a, text))
        return false;
    own = a.family == 4 ? &s->net.four : &s->net.six;
    if (own->set || (slash != NULL && !number(&prefix, slash, 1, a.family == 4 ? 32 : 128)))
        return false;
    own->set = true;
    own->prefix = (uint8_t)prefix;
    memcpy(own->ip, a.ip, sizeof(own->ip));
    return true;
}

static bool set_gateway(struct kvn_dpdk_spec *s, char *text)
{
    struct kvn_netif_ip *own;
    struct kvn_addr a;

    if (!parse_ip(&a, text))
        return false;
    own = a.family == 4 ? &s->net.four : &s->net.six;
    own->has_gateway = true;
    memcpy(own->gateway, a.ip, sizeof(own->gateway));
    return true;
}

/* ADDRESS@MAC */
static bool set_neighbour(struct kvn_dpdk_spec *s, char *text)
{
    struct kvn_netif_static *n = &s->net.neighbours[s->net.neighbour_count];
    char *at = strchr(text, '@');

    if (s->net.neighbour_count == KVN_STATIC_MAX || at == NULL)
        return false;
    *at = '\0';
    if (!parse_ip(&n->ip, text) || !parse_mac(n->mac, at + 1))
        return false;
    ++s->net.neighbour_count;
    return true;
}

static bool set_args(struct kvn_dpdk_spec *s, char *text)
{
    for (char *p = text; *p != '\0'; ++p)
        if (*p == ';')
            *p = ',';
    snprintf(s->args, sizeof(s->args), "%s", text);
    return true;
}

static bool set(struct kvn_dpdk_spec *s, const char *key, char *value)
{
    uint32_t v = 0;

    if (strcmp(key, "mtu") == 0)
        return number(&s->mtu, value, 1280, 65535);
    if (strcmp(key, "ring") == 0)
        return number(&s->ring, value, 64, 4096) && (s->ring & (s->ring - 1)) == 0;
    if (strcmp(key, "args") == 0)
        return set_args(s, value);
    s->net_set = true;
    if (strcmp(key, "ip") == 0)
        return set_ip(s, value);
    if (strcmp(key, "gw") == 0)
        return set_gateway(s, value);
    if (strcmp(key, "neigh") == 0)
        return set_neighbour(s, value);
    if (strcmp(key, "mac") == 0)
        return parse_mac(s->net.mac, value);
    if (strcmp(key, "csum") == 0)
        return (s->checksum = strcmp(value, "on") == 0) || strcmp(value, "off") == 0;
    if (strcmp(key, "vlan") == 0 && number(&v, value, 1, 4094)) {
        s->net.vlan = (uint16_t)v;
        return true;
    }
    if (strcmp(key, "port") == 0 && number(&v, value, 1, 65535 - KVN_PORT_SOURCES_MAX)) {
        s->net.port = (uint16_t)v;
        return true;
    }
    if (strcmp(key, "sources") == 0 && number(&v, value, 1, KVN_PORT_SOURCES_MAX)) {
        s->net.source_count = (uint8_t)v;
        return true;
    }
    return false;
}

kvw_err kvn_dpdk_spec_parse(struct kvn_dpdk_spec *spec, const char *kind, const char *text,
                            char why[KVN_WHY_BYTES])
{
    struct kvn_dpdk_spec s = {.net = {.port = 7400, .source_count = 1}};
    size_t n = strcspn(text, ",");

    if (n == 0 || n >= sizeof(s.what)) {
        snprintf(why, KVN_WHY_BYTES, "dpdk: '%s:%.80s' names no device, or one of over %zu bytes",
                 kind, text, sizeof(s.what) - 1);
        return KVW_E_ADDRESS;
    }
    memcpy(s.what, text, n);
    for (text += n; *text == ','; text += n) {
        char key[16] = "", value[VALUE_BYTES] = "";
        int at = 0;

        ++text;
        n = strcspn(text, ",");
        if (n >= sizeof(value) || sscanf(text, "%15[^=,]=%n", key, &at) != 1 || at == 0) {
            snprintf(why, KVN_WHY_BYTES, "dpdk: '%.*s' is not KEY=VALUE", n > 80 ? 80 : (int)n,
                     text);
            return KVW_E_ADDRESS;
        }
        memcpy(value, text + at, n - (size_t)at);
        if (strcmp(key, "queues") == 0) {
            if (strcmp(value, "1") == 0)
                continue;
            snprintf(
                why, KVN_WHY_BYTES,
                "dpdk: %s: queues=%.20s: a DPDK port has one queue; leave it out, or take udp, "
                "which has up to %u",
                kind, value, KVN_QUEUES_MAX);
            return KVW_E_INVALID;
        }
        if (!set(&s, key, value)) {
            snprintf(why, KVN_WHY_BYTES,
                     "dpdk: %s: '%.*s' can't be used; keys are ip gw port sources mac vlan neigh "
                     "mtu csum ring args",
                     kind, n > 80 ? 80 : (int)n, text);
            return KVW_E_ADDRESS;
        }
    }
    *spec = s;
    return KVW_OK;
}
