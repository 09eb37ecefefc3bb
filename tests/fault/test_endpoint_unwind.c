/* SPDX-License-Identifier: Apache-2.0 */
/* Whichever step of opening the udp transport fails, everything taken before it is given back, and
 * the caller gets a reason. (The calls below are --wrap'ed by tests/fault/meson.build.) */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/types.h>

#include "../../net/net.h"
#include "../../net/open.h"

KVN_OPEN_DECLARE(udp);

static bool counting;
static int step, fail_at, live;

/* Whether the call that is being made is the one to fail. */
static bool fails(void)
{
    return counting && ++step == fail_at;
}

void *__real_calloc(size_t n, size_t bytes);
void *__real_malloc(size_t bytes);
void __real_free(void *p);
void *__real_mmap64(void *at, size_t n, int prot, int flags, int fd, off_t offset);
int __real_munmap(void *at, size_t n);
int __real_socket(int domain, int type, int protocol);
int __real_bind(int fd, const struct sockaddr *addr, socklen_t len);
int __real_close(int fd);
ssize_t __real_getrandom(void *buf, size_t bytes, unsigned flags);
void *__wrap_calloc(size_t n, size_t bytes);
void *__wrap_malloc(size_t bytes);
void __wrap_free(void *p);
void *__wrap_mmap64(void *at, size_t n, int prot, int flags, int fd, off_t offset);
int __wrap_munmap(void *at, size_t n);
int __wrap_socket(int domain, int type, int protocol);
int __wrap_bind(int fd, const struct sockaddr *addr, socklen_t len);
int __wrap_close(int fd);
ssize_t __wrap_getrandom(void *buf, size_t bytes, unsigned flags);

static void *taken(void *p)
{
    live += counting && p != NULL;
    return p;
}

void *__wrap_calloc(size_t n, size_t bytes)
{
    return fails() ? NULL : taken(__real_calloc(n, bytes));
}

void *__wrap_malloc(size_t bytes)
{
    return fails() ? NULL : taken(__real_malloc(bytes));
}

void __wrap_free(void *p)
{
    live -= counting && p != NULL;
    __real_free(p);
}

void *__wrap_mmap64(void *at, size_t n, int prot, int flags, int fd, off_t offset)
{
    void *p;

    if (fails()) {
        errno = ENOMEM;
        return MAP_FAILED;
    }
    p = __real_mmap64(at, n, prot, flags, fd, offset);
    live += counting && p != MAP_FAILED;
    return p;
}

int __wrap_munmap(void *at, size_t n)
{
    live -= counting;
    return __real_munmap(at, n);
}

int __wrap_socket(int domain, int type, int protocol)
{
    int fd;

    if (fails()) {
        errno = EMFILE;
        return -1;
    }
    fd = __real_socket(domain, type, protocol);
    live += counting && fd >= 0;
    return fd;
}

int __wrap_bind(int fd, const struct sockaddr *addr, socklen_t len)
{
    if (fails()) {
        errno = EADDRINUSE;
        return -1;
    }
    return __real_bind(fd, addr, len);
}

int __wrap_close(int fd)
{
    live -= counting;
    return __real_close(fd);
}

ssize_t __wrap_getrandom(void *buf, size_t bytes, unsigned flags)
{
    return fails() ? -1 : __real_getrandom(buf, bytes, flags);
}

static kvw_err open_once(struct kvw_transport **t, int n, char *why)
{
    const struct kvn_config cfg = {.local = "127.0.0.1:0", .fault = "loss=0.1"};
    kvw_err err;

    step = live = 0;
    fail_at = n;
    counting = true;
    err = kvn_open_udp(t, &cfg, why);
    counting = false;
    return err;
}

Test(endpoint, unwinds_from_every_step)
{
    char why[KVN_WHY_BYTES] = "";
    struct kvw_transport *t = NULL;
    int steps;

    cr_assert_eq(open_once(&t, 0, why), KVW_OK, "%s", why);
    steps = step;
    cr_expect_geq(steps, 7, "only %d steps were seen: is everything wrapped?", steps);
    counting = true;
    t->ops->close(t);
    counting = false;
    cr_expect_eq(live, 0, "close() leaves %d", live);
    for (int n = 1; n <= steps; ++n) {
        t = NULL;
        why[0] = '\0';
        cr_expect_neq(open_once(&t, n, why), KVW_OK, "step %d failed, but open() didn't", n);
        cr_expect_null(t);
        cr_expect_eq(live, 0, "%d left when step %d fails", live, n);
        cr_expect(strlen(why) > 0, "no reason when step %d fails", n);
    }
}
