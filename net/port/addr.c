/* SPDX-License-Identifier: Apache-2.0 */
/* Addresses as text and back; port.h has the contract. */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "port.h"

static size_t ip_bytes(const struct kvn_addr *a)
{
    return a->family == 4 ? 4 : a->family == 6 ? 16 : 0;
}

bool kvn_addr_equal(const struct kvn_addr *a, const struct kvn_addr *b)
{
    return a->family == b->family && a->port == b->port && memcmp(a->ip, b->ip, ip_bytes(a)) == 0;
}

const char *kvn_addr_format(const struct kvn_addr *a, char buf[KVN_ADDR_TEXT_BYTES])
{
    char ip[INET6_ADDRSTRLEN];

    if (a->family == 4 && inet_ntop(AF_INET, a->ip, ip, sizeof(ip)) != NULL)
        snprintf(buf, KVN_ADDR_TEXT_BYTES, "%s:%u", ip, a->port);
    else if (a->family == 6 && inet_ntop(AF_INET6, a->ip, ip, sizeof(ip)) != NULL)
        snprintf(buf, KVN_ADDR_TEXT_BYTES, "[%s]:%u", ip, a->port);
    else
        snprintf(buf, KVN_ADDR_TEXT_BYTES, "no address");
    return buf;
}

/* 0 .. 65535 in plain digits, to the end of the text. */
static bool parse_port(uint16_t *port, const char *text)
{
    unsigned long v;
    char *end;

    if (text[0] < '0' || text[0] > '9' || strlen(text) > 5)
        return false;
    v = strtoul(text, &end, 10);
    if (*end != '\0' || v > 65535)
        return false;
    *port = (uint16_t)v;
    return true;
}

kvw_err kvn_addr_parse(struct kvn_addr *a, const char *text)
{
    struct kvn_addr out = {.family = 4};
    const bool six = text[0] == '[';
    const char *ip = six ? text + 1 : text;
    const char *end = strchr(ip, six ? ']' : ':');
    const char *port = end == NULL ? NULL : six ? end + 2 : end + 1;
    char copy[INET6_ADDRSTRLEN];

    if (end == NULL || (size_t)(end - ip) >= sizeof(copy) || (six && end[1] != ':'))
        return KVW_E_ADDRESS;
    memcpy(copy, ip, (size_t)(end - ip));
    copy[end - ip] = '\0';
    if (six)
        out.family = 6;
    if (inet_pton(six ? AF_INET6 : AF_INET, copy, out.ip) != 1 || !parse_port(&out.port, port))
        return KVW_E_ADDRESS;
    *a = out;
    return KVW_OK;
}
