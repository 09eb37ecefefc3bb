/* SPDX-License-Identifier: Apache-2.0 */
/* line.c - JSON lines over TCP. */
#include "line.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "stop.h"
#include "text.h"

#define LINE_MAX_BYTES (4u << 20) /* 512 layers of 64 requests in 20 digits, and then some */
#define SEND_NS        10000000000ull
#define CONNECT_US     100000 /* the least that a connect() is given */

/* --- opening ---------------------------------------------------------------------------------- */

static bool adopt(struct kvp_line *line, int fd, char *why)
{
    const struct timeval slice = {0, KVP_SLICE_NS / 1000};
    const int on = 1;

    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    (void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &slice, sizeof(slice));
    *line = (struct kvp_line){.fd = fd, .text = malloc(LINE_MAX_BYTES), .send_ns = SEND_NS};
    if (line->text != NULL)
        return true;
    snprintf(why, KVP_WHY, "no memory for the control connection");
    close(fd);
    line->fd = -1;
    return false;
}

int kvp_line_listen(const char *address, uint16_t *port, char why[KVP_WHY])
{
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
                                   .ai_family = address == NULL ? AF_INET6 : AF_UNSPEC,
                                   .ai_flags = AI_PASSIVE | AI_NUMERICHOST};
    struct sockaddr_storage bound;
    socklen_t bytes = sizeof(bound);
    struct addrinfo *found = NULL;
    char service[8];
    const int on = 1, off = 0;
    int fd = -1, got;

    snprintf(service, sizeof(service), "%u", *port);
    if ((got = getaddrinfo(address, service, &hints, &found)) != 0) {
        snprintf(why, KVP_WHY, "--bind %s: %s", address != NULL ? address : "", gai_strerror(got));
        return -1;
    }
    fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0) {
        (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
        if (address == NULL)
            (void)setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
    }
    if (fd < 0 || bind(fd, found->ai_addr, found->ai_addrlen) != 0 || listen(fd, 16) != 0 ||
        getsockname(fd, (struct sockaddr *)&bound, &bytes) != 0) {
        snprintf(why, KVP_WHY, "TCP port %u of %s: %s", *port,
                 address != NULL ? address : "any address", strerror(errno));
        if (fd >= 0)
            close(fd);
        fd = -1;
    } else {
        *port = ntohs(bound.ss_family == AF_INET ? ((struct sockaddr_in *)&bound)->sin_port
                                                 : ((struct sockaddr_in6 *)&bound)->sin6_port);
    }
    freeaddrinfo(found);
    return fd;
}

/* -1: errno says why. */
static int connect_one(const struct addrinfo *to, uint64_t until_ns)
{
    const int fd = socket(to->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const uint64_t now_ns = kvw_now_ns(), left = until_ns > now_ns ? until_ns - now_ns : 0;
    struct timeval limit = {(time_t)(left / 1000000000), (suseconds_t)(left / 1000 % 1000000)};

    if (fd < 0)
        return -1;
    if (left < CONNECT_US * 1000) /* 0 would mean no limit */
        limit = (struct timeval){0, CONNECT_US};
    /* On Linux the send timeout is connect()'s, too. */
    (void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
    if (connect(fd, to->ai_addr, to->ai_addrlen) == 0)
        return fd;
    if (errno == EINPROGRESS)
        errno = ETIMEDOUT;
    const int kept = errno;

    close(fd);
    errno = kept;
    return -1;
}

bool kvp_line_connect(struct kvp_line *line, const char *host, uint16_t port, uint64_t until_ns,
                      char why[KVP_WHY])
{
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    struct addrinfo *found = NULL;
    char service[8];
    int fd = -1, got;

    *line = (struct kvp_line){.fd = -1};
    snprintf(service, sizeof(service), "%u", port);
    if ((got = getaddrinfo(host, service, &hints, &found)) != 0) {
        snprintf(why, KVP_WHY, "no server at %.100s: %s", host, gai_strerror(got));
        return false;
    }
    for (const struct addrinfo *a = found; a != NULL && fd < 0 && !kvp_stopped(); a = a->ai_next)
        fd = connect_one(a, until_ns);
    if (fd < 0)
        snprintf(why, KVP_WHY,
                 "no server at %.100s port %u: %s (start one there: kvperf server -p %u)", host,
                 port, strerror(errno), port);
    freeaddrinfo(found);
    return fd >= 0 && adopt(line, fd, why);
}

bool kvp_line_accept(struct kvp_line *line, int listener, char why[KVP_WHY])
{
    int fd = -1;

    *line = (struct kvp_line){.fd = -1};
    why[0] = '\0';
    while (fd < 0 && !kvp_stopped()) {
        if (kvp_wait_fds(&listener, 1, UINT64_MAX) == 0)
            continue;
        fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (fd < 0 && errno != EINTR && errno != ECONNABORTED) {
            snprintf(why, KVP_WHY, "accept: %s", strerror(errno));
            return false;
        }
    }
    return fd >= 0 && adopt(line, fd, why);
}

void kvp_line_close(struct kvp_line *line)
{
    if (line->fd >= 0)
        close(line->fd);
    free(line->text);
    *line = (struct kvp_line){.fd = -1};
}

bool kvp_line_ends(const struct kvp_line *line, char here[64], char there[64])
{
    struct sockaddr_storage at[2];

    for (int i = 0; i < 2; ++i) {
        socklen_t bytes = sizeof(at[i]);
        char *to = i == 0 ? here : there;
        int (*const name)(int, struct sockaddr *, socklen_t *) = i == 0 ? getsockname : getpeername;

        if (name(line->fd, (struct sockaddr *)&at[i], &bytes) != 0 ||
            getnameinfo((struct sockaddr *)&at[i], bytes, to, 64, NULL, 0, NI_NUMERICHOST) != 0)
            return false;
        if (strncmp(to, "::ffff:", 7) == 0 && strchr(to, '.') != NULL)
            memmove(to, to + 7, 64 - 7);
    }
    return true;
}

/* --- messages --------------------------------------------------------------------------------- */

bool kvp_line_send(struct kvp_line *line, cJSON *msg, char why[KVP_WHY])
{
    char *text = msg != NULL ? cJSON_PrintUnformatted(msg) : NULL;
    const uint64_t until_ns = kvw_now_ns() + line->send_ns;
    size_t done = 0, bytes = text != NULL ? strlen(text) : 0;

    cJSON_Delete(msg);
    if (text == NULL) {
        snprintf(why, KVP_WHY, "no memory for a message");
        return false;
    }
    text[bytes++] = '\n'; /* in the place of the 0, which isn't sent */
    while (done < bytes) {
        const ssize_t n = send(line->fd, text + done, bytes - done, MSG_NOSIGNAL);

        if (n > 0)
            done += (size_t)n;
        if (n < 0 && errno != EINTR && errno != EAGAIN) {
            snprintf(why, KVP_WHY, "the other side went away: %s", strerror(errno));
            break;
        }
        if (done < bytes && (kvp_stopped() || kvw_now_ns() > until_ns)) {
            snprintf(why, KVP_WHY,
                     kvp_stopped() ? "stopped" : "the other side reads nothing, or too slowly");
            break;
        }
    }
    if (done < bytes)
        (void)shutdown(line->fd, SHUT_RDWR); /* nothing may follow half a line */
    cJSON_free(text);
    return done == bytes;
}

/* A whole line, if there is one: taken out of the buffer. */
static cJSON *take_line(struct kvp_line *line, char *why)
{
    char *end = memchr(line->text, '\n', line->used);
    cJSON *msg;

    if (end == NULL)
        return NULL;
    *end = '\0';
    msg = cJSON_ParseWithOpts(line->text, NULL, true);
    kvp_json_clean(msg, true);
    if (!cJSON_IsObject(msg) || strlen(line->text) != (size_t)(end - line->text)) {
        cJSON_Delete(msg);
        msg = NULL;
        snprintf(why, KVP_WHY, "the other side doesn't speak kvperf's protocol");
    }
    line->used -= (size_t)(end + 1 - line->text);
    memmove(line->text, end + 1, line->used);
    return msg;
}

/* Read what is there; false: why. */
static bool read_more(struct kvp_line *line, int flags, char *why)
{
    ssize_t n;

    if (line->used == LINE_MAX_BYTES) {
        snprintf(why, KVP_WHY, "a message is longer than %u bytes", LINE_MAX_BYTES);
        return false;
    }
    n = recv(line->fd, line->text + line->used, LINE_MAX_BYTES - line->used, flags);
    if (n > 0) {
        line->used += (size_t)n;
    } else if (n == 0 || (errno != EINTR && errno != EAGAIN)) {
        snprintf(why, KVP_WHY, "the other side went away%s%s", n < 0 ? ": " : "",
                 n < 0 ? strerror(errno) : "");
        return false;
    }
    return true;
}

cJSON *kvp_line_recv(struct kvp_line *line, uint64_t until_ns, char why[KVP_WHY])
{
    why[0] = '\0';
    for (;;) {
        cJSON *msg = take_line(line, why);

        if (msg != NULL || why[0] != '\0')
            return msg;
        if (line->used < LINE_MAX_BYTES && kvp_wait_fds(&line->fd, 1, until_ns) == 0) {
            snprintf(why, KVP_WHY,
                     kvp_stopped() ? "stopped" : "the other side said nothing for too long");
            return NULL;
        }
        if (!read_more(line, 0, why))
            return NULL;
    }
}

cJSON *kvp_line_poll(struct kvp_line *line, char why[KVP_WHY])
{
    why[0] = '\0';
    cJSON *msg = take_line(line, why);

    if (msg != NULL || why[0] != '\0' || !read_more(line, MSG_DONTWAIT, why))
        return msg;
    return take_line(line, why);
}

cJSON *kvp_line_expect(struct kvp_line *line, const char *type, uint64_t until_ns,
                       char why[KVP_WHY])
{
    cJSON *msg = kvp_line_recv(line, until_ns, why);

    if (msg == NULL || strcmp(kvp_msg_type(msg), type) == 0)
        return msg;
    if (strcmp(kvp_msg_type(msg), "error") == 0)
        snprintf(why, KVP_WHY, "%.250s", kvp_msg_text(msg, "text", "an error without a reason"));
    else
        snprintf(why, KVP_WHY, "the other side said %.40s, not %s", kvp_msg_type(msg), type);
    cJSON_Delete(msg);
    return NULL;
}

cJSON *kvp_msg(const char *type)
{
    cJSON *msg = cJSON_CreateObject();

    if (msg != NULL)
        cJSON_AddStringToObject(msg, "type", type);
    return msg;
}

const char *kvp_msg_type(const cJSON *msg)
{
    return kvp_msg_text(msg, "type", "nothing");
}

double kvp_msg_number(const cJSON *msg, const char *field, double min, double max, double fallback)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(msg, field);

    return cJSON_IsNumber(v) && v->valuedouble >= min && v->valuedouble <= max ? v->valuedouble
                                                                               : fallback;
}

const char *kvp_msg_text(const cJSON *msg, const char *field, const char *fallback)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(msg, field);

    return cJSON_IsString(v) ? v->valuestring : fallback;
}

void kvp_msg_put_ns(cJSON *msg, const char *field, uint64_t ns)
{
    char text[24];

    snprintf(text, sizeof(text), "%llu", (unsigned long long)ns);
    cJSON_AddStringToObject(msg, field, text);
}

uint64_t kvp_msg_ns(const cJSON *msg, const char *field)
{
    return strtoull(kvp_msg_text(msg, field, "0"), NULL, 10);
}
