/* SPDX-License-Identifier: Apache-2.0 */
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

#include "gguf.h"

#define WRITE_WAIT_MS 2000
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
    cJSON *obj = cJSON_ParseWithLength(c->buf, len);
    memmove(c->buf, end + 1, c->used - len - 1);
    c->used -= len + 1;
    if (!cJSON_IsObject(obj)) {
        cJSON_Delete(obj);
        *err = KVW_E_PROTOCOL;
        return NULL;
    }
    *err = KVW_OK;
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

static kvw_err write_all(int fd, const char *at, size_t n)
{
    while (n > 0) {
        const ssize_t sent = send(fd, at, n, MSG_NOSIGNAL | MSG_DONTWAIT);

        if (sent >= 0) {
            at += sent;
            n -= (size_t)sent;
            continue;
        }
        if (errno == EAGAIN) {
            struct pollfd p = {.fd = fd, .events = POLLOUT};

            if (poll(&p, 1, WRITE_WAIT_MS) <= 0)
                return KVW_E_PEER_LOST; /* doesn't read: as good as gone */
        } else if (errno != EINTR) {
            return KVW_E_PEER_LOST;
        }
    }
    return KVW_OK;
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
    err = c->fd >= 0 ? write_all(c->fd, line, len + 1) : KVW_E_PEER_LOST;
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
