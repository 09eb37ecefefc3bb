/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nd.h - what ask.c writes and heard.c reads: sizes and types of ARP (RFC 826) and of neighbour
 * discovery (RFC 4861).
 *
 * threads  any      memory  none      time  none
 */
#ifndef KVN_ND_H
#define KVN_ND_H

#include "netif.h"

#define ARP_BYTES  28u
#define IPV6_BYTES 40u
#define ND_BYTES   32u /* message 24, one link-layer address option 8 */

enum { ARP_REQUEST = 1, ARP_REPLY = 2 };
enum { ND_SOLICIT = 135, ND_ADVERTISE = 136 };
enum { ND_OPTION_SOURCE = 1, ND_OPTION_TARGET = 2 };

/* The checksum of an ICMPv6 message of even length, over its pseudo header; 0 if it holds. */
uint16_t kvn_netif_icmp6_checksum(const uint8_t *ip, uint32_t bytes);

#endif
