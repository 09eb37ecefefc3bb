/* SPDX-License-Identifier: Apache-2.0 */
/* Addresses as text and back; port.h has the contract. */
#include <arpa/inet.h>
#include <net/if.h>
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
    return a->family == b->family && a->port == b->port && a->scope == b->scope &&
           memcmp(a->ip, b->ip, ip_bytes(a)) == 0;
}

const char *kvn_addr_format(const struct kvn_addr *a, char buf[KVN_ADDR_TEXT_BYTES])
{
    char ip[INET6_ADDRSTRLEN], name[IF_NAMESIZE];

    if (a->family == 4 && inet_ntop(AF_INET, a->ip, ip, sizeof(ip)) != NULL)
        snprintf(buf, KVN_ADDR_TEXT_BYTES, "%s:%u", ip, a->port);
    else if (a->family != 6 || inet_ntop(AF_INET6, a->ip, ip, sizeof(ip)) == NULL)
        snprintf(buf, KVN_ADDR_TEXT_BYTES, "no address");
    else if (a->scope == 0)
        snprintf(buf, KVN_ADDR_TEXT_BYTES, "[%s]:%u", ip, a->port);
    else if (if_indextoname(a->scope, name) != NULL)
        snprintf(buf, KVN_ADDR_TEXT_BYTES, "[%s%%%s]:%u", ip, name, a->port);
    else
        snprintf(buf, KVN_ADDR_TEXT_BYTES, "[%s%%%u]:%u", ip, a->scope, a->port);
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

/* "%eth0" at the end of a link-local address, cut off there: the interface's index, 0 without it.
 * False: there is no such interface here, or the address isn't one that has any. */
static bool take_scope(char *ip, uint32_t *scope)
{
    char *percent = strchr(ip, '%');
    uint8_t six[16];

    *scope = 0;
    if (percent == NULL)
        return true;
    *percent = '\0';
    *scope = if_nametoindex(percent + 1);
    return *scope != 0 && inet_pton(AF_INET6, ip, six) == 1 && six[0] == 0xfe &&
           (six[1] & 0xc0) == 0x80;
}

kvw_err kvn_addr_parse(struct kvn_addr *a, const char *text)
{
    struct kvn_addr out = {.family = 4};
    const bool six = text[0] == '[';
    const char *ip = six ? text + 1 : text;
    const char *end = strchr(ip, six ? ']' : ':');
    const char *port = end == NULL ? NULL : six ? end + 2 : end + 1;
    char copy[INET6_ADDRSTRLEN + IF_NAMESIZE];

    if (end == NULL || (size_t)(end - ip) >= sizeof(copy) || (six && end[1] != ':'))
        return KVW_E_ADDRESS;
    memcpy(copy, ip, (size_t)(end - ip));
    copy[end - ip] = '\0';
    if (six)
        out.family = 6;
    if (six && !take_scope(copy, &out.scope))
        return KVW_E_ADDRESS;
    if (inet_pton(six ? AF_INET6 : AF_INET, copy, out.ip) != 1 || !parse_port(&out.port, port))
        return KVW_E_ADDRESS;
    *a = out;
    return KVW_OK;
}
