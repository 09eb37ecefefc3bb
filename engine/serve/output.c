/* SPDX-License-Identifier: Apache-2.0 */
/* output.c - standard output: a buffer, writes that never wait, and what went wrong. */
#include "output.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "clock.h"
#include "../gguf/gguf.h"

/* PIPE_BUF: a pipe that poll() calls writable takes so much without waiting. */
#define STEP_BYTES 4096u
#define POLL_MS    200 /* a stop is seen so soon */

void kve_output_open(struct kve_output *o, int fd)
{
    const int flags = fcntl(fd, F_GETFL);

    *o = (struct kve_output){.fd = fd};
    if (flags < 0 || (flags & O_ACCMODE) == O_RDONLY)
        o->error = EBADF;
}

void kve_output_close(struct kve_output *o)
{
    free(o->at);
    *o = (struct kve_output){.fd = -1, .error = EBADF};
}

kvw_err kve_output_add(struct kve_output *o, const void *text, size_t n)
{
    if (o->sent == o->used)
        o->sent = o->used = 0;
    if (n > o->room - o->used) {
        const size_t room = o->used + n + (o->room > STEP_BYTES ? o->room : STEP_BYTES);
        char *at = realloc(o->at, room);

        if (at == NULL)
            return KVW_E_NOMEM;
        o->at = at;
        o->room = room;
    }
    if (n > 0)
        memcpy(o->at + o->used, text, n);
    o->used += n;
    return KVW_OK;
}

bool kve_output_waiting(const struct kve_output *o)
{
    return o->sent < o->used;
}

/* The descriptor's state after at most ms; 0: nothing to say. */
static short look(const struct kve_output *o, int ms)
{
    struct pollfd p = {.fd = o->fd, .events = kve_output_waiting(o) ? POLLOUT : 0};

    return poll(&p, 1, ms) > 0 ? p.revents : 0;
}

bool kve_output_step(struct kve_output *o)
{
    while (o->error == 0) {
        const short state = look(o, 0);

        if ((state & POLLOUT) == 0) {
            if ((state & (POLLERR | POLLHUP | POLLNVAL)) != 0)
                o->error = EPIPE;
            break;
        }
        const size_t left = o->used - o->sent;
        const ssize_t n = write(o->fd, o->at + o->sent, left < STEP_BYTES ? left : STEP_BYTES);
        if (n >= 0)
            o->sent += (size_t)n;
        else if (errno == EAGAIN || errno == EINTR)
            break;
        else
            o->error = errno;
    }
    return o->error == 0 && !o->late;
}

bool kve_output_finish(struct kve_output *o, uint64_t until_ns, const _Atomic int *stop)
{
    while (kve_output_step(o) && kve_output_waiting(o)) {
        const uint64_t now = kve_now_ns();

        o->late = now >= until_ns;
        if (o->late || (stop != NULL && *stop != 0))
            return false;
        look(o, POLL_MS);
    }
    return o->error == 0 && !o->late;
}

void kve_output_why(const struct kve_output *o, char *why)
{
    if (o->error == EPIPE)
        snprintf(why, KVE_WHY_BYTES, "standard output: its reader has left");
    else if (o->error == EBADF)
        snprintf(why, KVE_WHY_BYTES, "standard output: it is not open for writing");
    else if (o->error != 0)
        snprintf(why, KVE_WHY_BYTES, "standard output: %s", strerror(o->error));
    else
        snprintf(why, KVE_WHY_BYTES, "standard output: %zu bytes were not read in time",
                 o->used - o->sent);
}
