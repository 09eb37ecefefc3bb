/* SPDX-License-Identifier: Apache-2.0 */
/*
 * probe.h - the longest packet between two hosts, found by sending UDP datagrams that nobody may
 * cut: one side asks for an answer of so many bytes, the other gives it.
 *
 * threads  one      memory  none kept
 * time     an answer is waited for three times, each for three round trips and 30 ms
 */
#ifndef KVP_PROBE_H
#define KVP_PROBE_H

#include "geometry.h"

struct kvp_probe {
    int fd;
    uint32_t headers; /* IP and UDP, of this family */
    uint32_t asked;   /* probes so far */
    uint64_t wait_ns; /* for an answer */
    uint64_t rtt_ns;  /* the least seen; UINT64_MAX: none */
};

/* A socket at a numeric address, whose datagrams aren't cut. Returns it, or -1 and why. */
int kvp_probe_socket(const char *address, uint16_t *port, char why[KVP_WHY]);
/* Answer what came, if it is from that address. */
void kvp_probe_answer(int fd, const char *from);

/* Send to address and port from here on. False: why. */
bool kvp_probe_open(struct kvp_probe *p, const char *address, uint16_t port, char why[KVP_WHY]);
/* The longest IP packet up to most that gets there, or back; 0: not even a short one. */
uint32_t kvp_probe_longest(struct kvp_probe *p, uint32_t most, bool back);
void kvp_probe_close(struct kvp_probe *p);

#endif
