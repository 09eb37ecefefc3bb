/* SPDX-License-Identifier: Apache-2.0 */
/* control.c - JSON lines over a Unix socket: listening, connecting, reading and writing. */
#include "control.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "clock.h"
#include "../gguf/gguf.h"

#define WRITE_WAIT_NS (2 * KVE_S)
#define POLL_MS       200 /* a stop is seen so soon */
#define READ_STEP     16384u

void kve_channel_init(struct kve_channel *c, int fd)
{
    *c = (struct kve_channel){.fd = fd};
}

void kve_channel_close(struct kve_channel *c)
{
    if (c->fd >= 0)
        close(c->fd);
    free(c->buf);
    *c = (struct kve_channel){.fd = -1};
}

/* Cut the first line off the buffer and parse it. */
static cJSON *take_line(struct kve_channel *c, kvw_err *err)
{
    char *end = c->used > 0 ? memchr(c->buf, '\n', c->used) : NULL;

    if (end == NULL) {
        *err = c->used >= KVE_LINE_MAX ? KVW_E_PROTOCOL : KVW_E_AGAIN;
        return NULL;
    }
    const size_t len = (size_t)(end - c->buf);
    char why[KVE_WHY_BYTES];
    cJSON *obj = kve_json_object(c->buf, len, why);
    memmove(c->buf, end + 1, c->used - len - 1);
    c->used -= len + 1;
    *err = obj != NULL ? KVW_OK : KVW_E_PROTOCOL;
    return obj;
}

cJSON *kve_channel_read(struct kve_channel *c, kvw_err *err)
{
    for (;;) {
        cJSON *obj = take_line(c, err);

        if (obj != NULL || *err != KVW_E_AGAIN)
            return obj;
        if (c->room - c->used < READ_STEP) {
            const size_t room = c->room + (c->room > READ_STEP ? c->room : READ_STEP);
            char *buf = realloc(c->buf, room);

            if (buf == NULL) {
                *err = KVW_E_NOMEM;
                return NULL;
            }
            c->buf = buf;
            c->room = room;
        }
        const ssize_t n = recv(c->fd, c->buf + c->used, c->room - c->used, MSG_DONTWAIT);
        if (n > 0) {
            c->used += (size_t)n;
        } else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
            *err = KVW_E_PEER_LOST;
            return NULL;
        } else if (errno == EAGAIN) {
            return NULL;
        }
    }
}

bool kve_channel_hung_up(const struct kve_channel *c)
{
    struct pollfd p = {.fd = c->fd, .events = POLLRDHUP};

    return c->fd < 0 || (poll(&p, 1, 0) > 0 && (p.revents & (POLLRDHUP | POLLHUP | POLLERR)) != 0);
}

/* Wait until the socket takes more. False: the time is over, or a stop was asked for. */
static bool wait_writable(const struct kve_channel *c, uint64_t until_ns)
{
    for (;;) {
        const uint64_t now = kve_now_ns();
        const uint64_t left_ms = until_ns > now ? (until_ns - now) / KVE_MS + 1 : 0;
        struct pollfd p = {.fd = c->fd, .events = POLLOUT};

        if (left_ms == 0 || (c->stop != NULL && *c->stop != 0))
            return false;
        if (poll(&p, 1, left_ms < POLL_MS ? (int)left_ms : POLL_MS) > 0)
            return true;
    }
}

static bool write_all(const struct kve_channel *c, const char *at, size_t n)
{
    const uint64_t until_ns = c->write_by_ns != 0 ? c->write_by_ns : kve_now_ns() + WRITE_WAIT_NS;

    while (n > 0) {
        const ssize_t sent = send(c->fd, at, n, MSG_NOSIGNAL | MSG_DONTWAIT);

        if (sent >= 0) {
            at += sent;
            n -= (size_t)sent;
        } else if (errno == EAGAIN) {
            if (!wait_writable(c, until_ns))
                return false;
        } else if (errno != EINTR) {
            return false;
        }
    }
    return true;
}

kvw_err kve_channel_write(struct kve_channel *c, cJSON *obj)
{
    char *line = obj != NULL ? cJSON_PrintUnformatted(obj) : NULL;
    kvw_err err = KVW_E_NOMEM;

    cJSON_Delete(obj);
    if (line == NULL)
        return err;
    const size_t len = strlen(line);
    line[len] = '\n'; /* over the NUL: one write, one line */
    if (len >= KVE_LINE_MAX) {
        err = KVW_E_INVALID;
    } else if (c->fd < 0 || c->failed) {
        err = KVW_E_PEER_LOST;
    } else if (write_all(c, line, len + 1)) {
        err = KVW_OK;
    } else {
        c->failed = true;
        shutdown(c->fd, SHUT_RDWR); /* what has come already can still be read */
        err = KVW_E_PEER_LOST;
    }
    cJSON_free(line);
    return err;
}

static kvw_err fill_address(struct sockaddr_un *a, const char *path, char *why)
{
    memset(a, 0, sizeof(*a));
    a->sun_family = AF_UNIX;
    if (strlen(path) >= sizeof(a->sun_path)) {
        snprintf(why, KVE_WHY_BYTES, "control socket %s: the path is longer than %zu bytes", path,
                 sizeof(a->sun_path) - 1);
        return KVW_E_ADDRESS;
    }
    memcpy(a->sun_path, path, strlen(path) + 1);
    return KVW_OK;
}

kvw_err kve_control_connect(int *fd, const char *path, char *why)
{
    struct sockaddr_un a;
    kvw_err err = fill_address(&a, path, why);

    if (err != KVW_OK)
        return err;
    const int s = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (s < 0 || connect(s, (struct sockaddr *)&a, sizeof(a)) != 0) {
        snprintf(why, KVE_WHY_BYTES, "control socket %s: %s", path, strerror(errno));
        if (s >= 0)
            close(s);
        return KVW_E_ADDRESS;
    }
    *fd = s;
    return KVW_OK;
}

kvw_err kve_control_listen(int *fd, const char *path, char *why)
{
    struct sockaddr_un a;
    char ignored[KVE_WHY_BYTES];
    int probe;
    kvw_err err = fill_address(&a, path, why);

    if (err != KVW_OK)
        return err;
    if (kve_control_connect(&probe, path, ignored) == KVW_OK) {
        close(probe);
        snprintf(why, KVE_WHY_BYTES, "control socket %s: in use by a running process", path);
        return KVW_E_ADDRESS;
    }
    struct stat st;
    if (lstat(path, &st) == 0 && !S_ISSOCK(st.st_mode)) {
        snprintf(why, KVE_WHY_BYTES, "control socket %s: exists and is no socket", path);
        return KVW_E_ADDRESS;
    }
    unlink(path); /* left behind by a process that is gone */
    const int s = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (s < 0 || bind(s, (struct sockaddr *)&a, sizeof(a)) != 0 || listen(s, 4) != 0) {
        snprintf(why, KVE_WHY_BYTES, "control socket %s: %s", path, strerror(errno));
        if (s >= 0)
            close(s);
        return KVW_E_ADDRESS;
    }
    *fd = s;
    return KVW_OK;
}

/* The first NUL, as a byte or as an escape; NULL: none. */
static const char *find_nul(const char *text, size_t n)
{
    for (size_t i = 0; i < n; ++i) {
        if (text[i] == '\0')
            return text + i;
        if (text[i] != '\\')
            continue;
        if (n - i >= 6 && memcmp(text + i + 1, "u0000", 5) == 0)
            return text + i;
        ++i; /* the escaped character, which may be a backslash */
    }
    return NULL;
}

cJSON *kve_json_object(const char *text, size_t n, char *why)
{
    const char *nul = find_nul(text, n), *end = text;

    if (nul != NULL) {
        snprintf(why, KVE_WHY_BYTES, "byte %zu: a NUL can't be part of a text",
                 (size_t)(nul - text) + 1);
        return NULL;
    }
    cJSON *obj = cJSON_ParseWithLengthOpts(text, n, &end, false);
    const bool parsed = obj != NULL;
    while (parsed && end < text + n && strchr(" \t\r\n", *end) != NULL)
        ++end;
    if (cJSON_IsObject(obj) && end == text + n)
        return obj;
    snprintf(why, KVE_WHY_BYTES,
             !parsed               ? "byte %zu: no JSON"
             : cJSON_IsObject(obj) ? "byte %zu: something behind the JSON object"
                                   : "byte %zu: a JSON value, but no object",
             cJSON_IsObject(obj) || !parsed ? (size_t)(end - text) + 1 : (size_t)1);
    cJSON_Delete(obj);
    return NULL;
}

bool kve_json_f64(const cJSON *obj, const char *key, double min, double max, double *v)
{
    const cJSON *n = cJSON_GetObjectItemCaseSensitive(obj, key);

    if (!cJSON_IsNumber(n) || !(n->valuedouble >= min && n->valuedouble <= max))
        return false;
    *v = n->valuedouble;
    return true;
}

bool kve_json_u64(const cJSON *obj, const char *key, uint64_t min, uint64_t max, uint64_t *v)
{
    double d;

    /* Exact in a double below 2^53; bounds above it aren't used. */
    if (!kve_json_f64(obj, key, (double)min, (double)max, &d) || d != (double)(uint64_t)d)
        return false;
    *v = (uint64_t)d;
    return true;
}

const char *kve_json_str(const cJSON *obj, const char *key)
{
    const char *s = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(obj, key));

    return s != NULL ? s : "";
}
