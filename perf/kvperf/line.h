/* SPDX-License-Identifier: Apache-2.0 */
/*
 * line.h - the control connection: TCP, a JSON object a line. README.md lists the messages.
 *
 * threads  one      memory  open takes LINE bytes, close gives them back
 * time     every wait has a deadline (CLOCK_MONOTONIC) and ends when the user stops the program
 */
#ifndef KVP_LINE_H
#define KVP_LINE_H

#include <cjson/cJSON.h>

#include "geometry.h"

#define KVP_PROTOCOL 1 /* of the messages; another one is refused */

struct kvp_line {
    int fd;
    char *text; /* read, and not yet taken */
    size_t used;
    uint64_t send_ns; /* how long a message may take to leave */
};

/* Listen on address (NULL: any) and *port (0: any; what it became is written back). Returns a
 * descriptor, or -1 and why. */
int kvp_line_listen(const char *address, uint16_t *port, char why[KVP_WHY]);
/* false: why. *line is closed by kvp_line_close(), which may be called on one that is all zero but
 * for fd -1. */
bool kvp_line_connect(struct kvp_line *line, const char *host, uint16_t port, uint64_t until_ns,
                      char why[KVP_WHY]);
/* Wait for a client; false: stopped, or why. */
bool kvp_line_accept(struct kvp_line *line, int listener, char why[KVP_WHY]);
void kvp_line_close(struct kvp_line *line);

/* The numeric addresses of both ends; an IPv6 one without brackets. */
bool kvp_line_ends(const struct kvp_line *line, char here[64], char there[64]);

/* Send msg and delete it, in any case. msg NULL: no memory. What was cut short is the last that the
 * other side gets: the connection is over. */
bool kvp_line_send(struct kvp_line *line, cJSON *msg, char why[KVP_WHY]);
/* The next message; the caller deletes it. NULL: why. A stranger's texts have no byte left that
 * isn't well-formed UTF-8 or that a terminal would obey. */
cJSON *kvp_line_recv(struct kvp_line *line, uint64_t until_ns, char why[KVP_WHY]);
/* The next message if it is there already; NULL with why empty: none is. */
cJSON *kvp_line_poll(struct kvp_line *line, char why[KVP_WHY]);
/* The next message, which must be of that type; one of type "error" becomes why. */
cJSON *kvp_line_expect(struct kvp_line *line, const char *type, uint64_t until_ns,
                       char why[KVP_WHY]);

/* A message of that type; NULL: no memory. */
cJSON *kvp_msg(const char *type);
const char *kvp_msg_type(const cJSON *msg);
/* A number of a message, within its range; absent or another: fallback. */
double kvp_msg_number(const cJSON *msg, const char *field, double min, double max, double fallback);
const char *kvp_msg_text(const cJSON *msg, const char *field, const char *fallback);
/* ns are sent as text: a double has no room for all of them. */
void kvp_msg_put_ns(cJSON *msg, const char *field, uint64_t ns);
uint64_t kvp_msg_ns(const cJSON *msg, const char *field);

#endif
