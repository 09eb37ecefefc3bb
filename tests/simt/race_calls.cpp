/* SPDX-License-Identifier: Apache-2.0 */
/*
 * race_calls.cpp - the functions that g++ and clang++ call from code compiled with
 * -fsanitize=thread, in place of libtsan's. A call that is missing here is a link error.
 */
#include <stdint.h>
#include <string.h>

#include "race_calls.h"

#define PC         __builtin_return_address(0)
#define READ       (race_how{false, false})
#define WRITE      (race_how{true, false})
#define ATOMIC_GET (race_how{false, true})
#define ATOMIC_PUT (race_how{true, true})

static bool acquires(int order)
{
    return order == __ATOMIC_ACQUIRE || order == __ATOMIC_CONSUME || order == __ATOMIC_ACQ_REL ||
           order == __ATOMIC_SEQ_CST;
}

static bool releases(int order)
{
    return order == __ATOMIC_RELEASE || order == __ATOMIC_ACQ_REL || order == __ATOMIC_SEQ_CST;
}

static void atomic_load(const volatile void *at, size_t bytes, int order, const void *pc)
{
    race_see((const void *)at, bytes, ATOMIC_GET, pc);
    if (acquires(order))
        race_acquire((const void *)at);
}

static void atomic_store(volatile void *at, size_t bytes, int order, const void *pc)
{
    race_see((const void *)at, bytes, ATOMIC_PUT, pc);
    if (releases(order))
        race_release((const void *)at, false);
    else
        race_forget_release((const void *)at);
}

static void atomic_change(volatile void *at, size_t bytes, int order, const void *pc)
{
    race_see((const void *)at, bytes, ATOMIC_PUT, pc);
    if (acquires(order))
        race_acquire((const void *)at);
    if (releases(order))
        race_release((const void *)at, true);
}

/* The names are the compilers', the warning is ours. */
#pragma GCC diagnostic ignored "-Wmissing-declarations"

extern "C" {
void __tsan_init(void)
{
}
void __tsan_func_entry(void *)
{
}
void __tsan_func_exit(void)
{
}
void __tsan_vptr_update(void **, void *)
{
}
void __tsan_vptr_read(void **)
{
}
void __tsan_read_range(void *p, size_t n)
{
    race_see(p, n, READ, PC);
}
void __tsan_write_range(void *p, size_t n)
{
    race_see(p, n, WRITE, PC);
}
void *__tsan_memcpy(void *to, const void *from, size_t n)
{
    race_see(from, n, READ, PC);
    race_see(to, n, WRITE, PC);
    return memcpy(to, from, n);
}
void *__tsan_memset(void *to, int c, size_t n)
{
    race_see(to, n, WRITE, PC);
    return memset(to, c, n);
}

#define PLAIN(n)                                                                                   \
    void __tsan_read##n(void *p)                                                                   \
    {                                                                                              \
        race_see(p, n, READ, PC);                                                                  \
    }                                                                                              \
    void __tsan_write##n(void *p)                                                                  \
    {                                                                                              \
        race_see(p, n, WRITE, PC);                                                                 \
    }                                                                                              \
    void __tsan_unaligned_read##n(void *p)                                                         \
    {                                                                                              \
        race_see(p, n, READ, PC);                                                                  \
    }                                                                                              \
    void __tsan_unaligned_write##n(void *p)                                                        \
    {                                                                                              \
        race_see(p, n, WRITE, PC);                                                                 \
    }
PLAIN(1)
PLAIN(2)
PLAIN(4)
PLAIN(8)
PLAIN(16)

#define CHANGE(bits, T, name, becomes)                                                             \
    T __tsan_atomic##bits##_##name(volatile T *p, T v, int order)                                  \
    {                                                                                              \
        const T was = *p;                                                                          \
        atomic_change(p, sizeof(T), order, PC);                                                    \
        *p = (T)(becomes);                                                                         \
        return was;                                                                                \
    }
#define SWAP(bits, T, name)                                                                        \
    int __tsan_atomic##bits##_##name(volatile T *p, T *expected, T v, int order, int)              \
    {                                                                                              \
        const T was = *p;                                                                          \
        if (was != *expected) {                                                                    \
            atomic_load(p, sizeof(T), order, PC);                                                  \
            *expected = was;                                                                       \
            return 0;                                                                              \
        }                                                                                          \
        atomic_change(p, sizeof(T), order, PC);                                                    \
        *p = v;                                                                                    \
        return 1;                                                                                  \
    }
#define SWAP_VALUE(bits, T)                                                                        \
    T __tsan_atomic##bits##_compare_exchange_val(volatile T *p, T expected, T v, int order,        \
                                                 int otherwise)                                    \
    {                                                                                              \
        __tsan_atomic##bits##_compare_exchange_strong(p, &expected, v, order, otherwise);          \
        return expected;                                                                           \
    }
#define ATOMIC(bits, T)                                                                            \
    T __tsan_atomic##bits##_load(const volatile T *p, int order)                                   \
    {                                                                                              \
        atomic_load(p, sizeof(T), order, PC);                                                      \
        return *p;                                                                                 \
    }                                                                                              \
    void __tsan_atomic##bits##_store(volatile T *p, T v, int order)                                \
    {                                                                                              \
        atomic_store(p, sizeof(T), order, PC);                                                     \
        *p = v;                                                                                    \
    }                                                                                              \
    CHANGE(bits, T, exchange, v)                                                                   \
    CHANGE(bits, T, fetch_add, was + v)                                                            \
    CHANGE(bits, T, fetch_or, was | v)                                                             \
    SWAP(bits, T, compare_exchange_strong)                                                         \
    SWAP(bits, T, compare_exchange_weak)                                                           \
    SWAP_VALUE(bits, T)
ATOMIC(8, uint8_t)
ATOMIC(16, uint16_t)
ATOMIC(32, uint32_t)
ATOMIC(64, uint64_t)
}
