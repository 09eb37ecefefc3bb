/* SPDX-License-Identifier: Apache-2.0 */
/* Whichever allocation, mapping or thread can't be had, opening a model, a cache or a run says
 * KVW_E_NOMEM and gives back what it took. The functions are --wrap'ed (mmap by its name with
 * 64-bit offsets, which meson asks for). */
#include <criterion/criterion.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>

#include "../../engine/model/model.h"
#include "../engine/model/tiny.h"

void *__real_malloc(size_t n);
void *__real_calloc(size_t count, size_t n);
void *__real_aligned_alloc(size_t alignment, size_t n);
void __real_free(void *p);
void *__real_mmap64(void *at, size_t n, int prot, int flags, int fd, off_t offset);
int __real_munmap(void *at, size_t n);
int __real_pthread_create(pthread_t *t, const pthread_attr_t *a, void *(*f)(void *), void *arg);
int __real_pthread_join(pthread_t t, void **value);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t count, size_t n);
void *__wrap_aligned_alloc(size_t alignment, size_t n);
void __wrap_free(void *p);
void *__wrap_mmap64(void *at, size_t n, int prot, int flags, int fd, off_t offset);
int __wrap_munmap(void *at, size_t n);
int __wrap_pthread_create(pthread_t *t, const pthread_attr_t *a, void *(*f)(void *), void *arg);
int __wrap_pthread_join(pthread_t t, void **value);

static int step, fail_at; /* fail_at 0: count only */
static atomic_long live;  /* whatever is held now */

static bool fails(void)
{
    return ++step == fail_at;
}

static void *held(void *p)
{
    if (p != NULL)
        atomic_fetch_add(&live, 1);
    return p;
}

void *__wrap_malloc(size_t n)
{
    return held(fails() ? NULL : __real_malloc(n));
}

void *__wrap_calloc(size_t count, size_t n)
{
    return held(fails() ? NULL : __real_calloc(count, n));
}

void *__wrap_aligned_alloc(size_t alignment, size_t n)
{
    return held(fails() ? NULL : __real_aligned_alloc(alignment, n));
}

void __wrap_free(void *p)
{
    if (p != NULL)
        atomic_fetch_sub(&live, 1);
    __real_free(p);
}

void *__wrap_mmap64(void *at, size_t n, int prot, int flags, int fd, off_t offset)
{
    void *p = fails() ? MAP_FAILED : __real_mmap64(at, n, prot, flags, fd, offset);

    if (p != MAP_FAILED)
        atomic_fetch_add(&live, 1);
    return p;
}

int __wrap_munmap(void *at, size_t n)
{
    atomic_fetch_sub(&live, 1);
    return __real_munmap(at, n);
}

int __wrap_pthread_create(pthread_t *t, const pthread_attr_t *a, void *(*f)(void *), void *arg)
{
    const int err = fails() ? 11 : __real_pthread_create(t, a, f, arg);

    if (err == 0)
        atomic_fetch_add(&live, 1);
    return err;
}

int __wrap_pthread_join(pthread_t t, void **value)
{
    atomic_fetch_sub(&live, 1);
    return __real_pthread_join(t, value);
}

static kvw_err run_all(const struct kve_gguf *g)
{
    char why[KVE_WHY_BYTES] = "";
    struct kve_kvcache kv = {0};
    struct kve_model *m = NULL;
    struct kve_run *r = NULL;
    kvw_err err;

    if ((err = kve_model_open(&m, g, why)) != KVW_OK)
        cr_expect(strstr(why, "memory") != NULL, "\"%s\"", why);
    if (err == KVW_OK)
        err = kve_kvcache_open(&kv, 3, 2, 10, 4, 8);
    if (err == KVW_OK)
        err = kve_run_open(&r, m, 4, 0, 30);
    else
        cr_expect_null(kv.taken);
    if (err != KVW_OK)
        cr_expect_null(r);
    kve_run_close(r);
    if (kv.taken != NULL)
        kve_kvcache_close(&kv);
    kve_model_close(m);
    return err;
}

Test(engine_unwind, every_failure_is_reported_and_nothing_leaks)
{
    char why[KVE_WHY_BYTES];
    struct kve_gguf *g = NULL;
    struct gb b = {0};
    int steps;

    tiny_build(&b, &tiny_odd);
    cr_assert_eq(kve_gguf_open_bytes(&g, b.file.at, b.file.bytes, why), KVW_OK);
    step = 0;
    atomic_store(&live, 0);
    cr_assert_eq(run_all(g), KVW_OK);
    steps = step;
    cr_assert_eq(atomic_load(&live), 0, "%ld held without any failure", atomic_load(&live));
    cr_assert_geq(steps, 4 + 3 + 3 + 2 + 3, "only %d steps seen", steps);
    for (fail_at = 1; fail_at <= steps; ++fail_at) {
        step = 0;
        const kvw_err err = run_all(g);
        const long leaked = atomic_exchange(&live, 0);
        cr_expect_eq(err, KVW_E_NOMEM, "step %d of %d: %d", fail_at, steps, err);
        cr_expect_eq(leaked, 0, "step %d of %d: %ld leaked", fail_at, steps, leaked);
    }
    fail_at = 0;
    kve_gguf_close(g);
    gb_free(&b);
}
