/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dpdk_traffic.h - payloads that prove themselves, and the other end of a link as a process of its
 * own. Shared by the dpdk tests and by dpdk_peer, the program that is that other end.
 *
 * threads  one      memory  static buffers      time  see each function
 */
#ifndef T_DPDK_TRAFFIC_H
#define T_DPDK_TRAFFIC_H

#include <sys/types.h>

#include "../../../net/port/dpdk/link.h"

/* Length, sequence number, digest: the shortest payload that proves itself. */
#define T_PAYLOAD_MIN 24u

uint64_t t_now_ns(void);
void t_sleep_ms(unsigned ms);

/* Fill bytes (>= T_PAYLOAD_MIN) from the number alone. */
void t_payload_make(uint8_t *bytes, uint32_t len, uint64_t number);
/* Whether these are bytes that t_payload_make made; *number tells which. */
bool t_payload_check(const uint8_t *bytes, uint32_t len, uint64_t *number);

/* A length for packet number n: all kinds, the shortest and the longest among them. */
uint32_t t_payload_len(uint64_t n, uint32_t payload_max);

/* Open one end with a deadline so many ms from now. Prints why and returns NULL on an error. */
struct kvn_port *t_open(const char *path, bool listener, unsigned ms);

/*
 * Send the payload of this number until a peer's echo of it is back: both sides are up then. The
 * first packets after LINK UP may vanish, so it may come back more than once.
 */
bool t_greet(struct kvn_port *port, uint64_t number, unsigned ms);

/* Before this process becomes another user, who may not be able to walk to the build's folder (a
 * clone under /root): t_peer_start() then runs the program that was opened here. */
void t_peer_hold(void);

/*
 * Start the peer program: role "listener" or "sender", mode "echo" (send back what proves itself),
 * "blast" (send numbered packets as fast as the port takes them, and echo too) or "leave" (echo
 * once, then exit() without closing the port).
 */
pid_t t_peer_start(const char *path, const char *role, const char *mode);
/* Whether it hasn't ended by itself. t_peer_end() still reaps it. */
bool t_peer_runs(pid_t pid);
/* kill, reap; the wait status. */
int t_peer_end(pid_t pid, int signal);

/* A fresh 0700 directory's "link", in path (>= KVN_DPDK_PATH_BYTES); and its removal. */
void t_link_path(char *path);
void t_link_remove(const char *path);

#endif
