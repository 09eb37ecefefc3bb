/* SPDX-License-Identifier: Apache-2.0 */
/* fiber.cpp - stacks, the switch between them, and the draw of who runs next. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include <vector>

#include "fiber.h"

extern "C" {
/* Of the address sanitizer, where it is linked. */
__attribute__((weak)) void __sanitizer_start_switch_fiber(void **, const void *, size_t);
__attribute__((weak)) void __sanitizer_finish_switch_fiber(void *, const void **, size_t *);
/* Save the registers that a callee must keep on this stack, go on with those of another. */
void simt_switch(void **save_sp, void *load_sp);
}
asm(".text\n.globl simt_switch\n.type simt_switch,@function\nsimt_switch:\n"
    "push %rbp\npush %rbx\npush %r12\npush %r13\npush %r14\npush %r15\n"
    "mov %rsp,(%rdi)\nmov %rsi,%rsp\n"
    "pop %r15\npop %r14\npop %r13\npop %r12\npop %rbx\npop %rbp\nret\n"
    ".size simt_switch,.-simt_switch\n");

thread_local simt_here *simt_now;
simt_counts simt_count;

static struct {
    std::vector<simt_fiber> fibers;
    std::vector<unsigned char *> stacks;
    std::vector<simt_fiber *> ready;
    simt_fiber *self;
    unsigned threads;   /* of a block */
    size_t next, spins; /* spins: turns given away by waiting threads, in a row */
    uint64_t random;
    bool drawn;
    const std::function<void()> *body;
    void *main_sp, *main_asan;
    const void *main_stack;
    size_t main_stack_bytes;
} s;

void simt_trap(simt_place at, const char *format, ...)
{
    va_list args;

    fprintf(stderr, "simt: %s:%d: ", at.file, at.line);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    if (simt_now != NULL)
        fprintf(stderr, "; block %u, thread %u", simt_now->block_index, simt_now->index);
    fputc('\n', stderr);
    abort();
}

__attribute__((noinline)) bool simt_is_aligned(const void *p, unsigned bytes)
{
    asm("" : "+r"(p));
    return ((uintptr_t)p & (bytes - 1)) == 0;
}

uint64_t simt_draw(void)
{
    s.random ^= s.random << 13;
    s.random ^= s.random >> 7;
    s.random ^= s.random << 17;
    return s.random >> 8;
}

bool simt_is_drawn(void)
{
    return s.drawn;
}

simt_fiber *simt_self(void)
{
    return s.self;
}

simt_fiber *simt_fiber_of(unsigned slot, unsigned index)
{
    return &s.fibers[slot * s.threads + index];
}

bool simt_any_ready(void)
{
    return !s.ready.empty();
}

static void to_main(bool ends)
{
    simt_fiber *f = s.self;

    if (__sanitizer_start_switch_fiber)
        __sanitizer_start_switch_fiber(ends ? NULL : &f->asan, s.main_stack, s.main_stack_bytes);
    simt_switch(&f->sp, s.main_sp);
    if (__sanitizer_finish_switch_fiber)
        __sanitizer_finish_switch_fiber(f->asan, &s.main_stack, &s.main_stack_bytes);
}

/* The first function on a fiber's stack. */
static void begin(void)
{
    if (__sanitizer_finish_switch_fiber)
        __sanitizer_finish_switch_fiber(NULL, &s.main_stack, &s.main_stack_bytes);
    (*s.body)();

    simt_fiber *f = s.self;
    simt_block *b = f->in;

    f->in = NULL;
    s.spins = 0;
    --b->alive;
    if (b->alive > 0 && b->waiting == b->alive) /* it was the last one that others waited for */
        simt_release_barrier(b, f->here.slot, s.threads);
    to_main(true);
}

simt_fiber *simt_run_one(void)
{
    const size_t pick = (s.drawn ? simt_draw() : s.next++) % s.ready.size();
    simt_fiber *f = s.ready[pick];

    s.ready[pick] = s.ready.back();
    s.ready.pop_back();
    s.self = f;
    simt_now = &f->here;
    ++simt_count.switches;
    if (__sanitizer_start_switch_fiber)
        __sanitizer_start_switch_fiber(&s.main_asan, f->here.stack, SIMT_STACK_BYTES);
    simt_switch(&s.main_sp, f->sp);
    if (__sanitizer_finish_switch_fiber)
        __sanitizer_finish_switch_fiber(s.main_asan, NULL, NULL);
    simt_now = NULL;
    return f;
}

void simt_wait(void)
{
    s.self->waits = true;
    to_main(false);
}

void simt_wake(simt_fiber *f)
{
    f->waits = false;
    s.spins = 0;
    s.ready.push_back(f);
}

void simt_give_way(bool always)
{
    if (simt_now == NULL || (!always && (!s.drawn || simt_draw() % 4 != 0)))
        return;
    if (always)
        ++s.spins;
    else
        s.spins = 0;
    if (s.spins > SIMT_SPINS_MAX)
        simt_trap(SIMT_PLACE, "no progress: threads only wait for a flag that nobody sets");
    s.ready.push_back(s.self);
    to_main(false);
}

void simt_fibers_begin(unsigned slots, unsigned threads, uint64_t seed,
                       const std::function<void()> *body)
{
    s.body = body;
    s.threads = threads;
    s.random = seed * 0x9e3779b97f4a7c15ull + 1;
    s.drawn = seed != 0;
    s.next = s.spins = 0;
    s.ready.clear();
    s.fibers.assign((size_t)slots * threads, simt_fiber());
    while (s.stacks.size() < s.fibers.size()) {
        void *stack = mmap(NULL, SIMT_STACK_BYTES, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

        if (stack == MAP_FAILED)
            simt_trap(SIMT_PLACE, "no memory for %zu stacks of %u bytes", s.fibers.size(),
                      SIMT_STACK_BYTES);
        s.stacks.push_back((unsigned char *)stack);
    }
}

void simt_fiber_start(simt_fiber *f, simt_block *in, const simt_here &here)
{
    unsigned char *stack = s.stacks[(size_t)(f - s.fibers.data())];
    void **top = (void **)(stack + SIMT_STACK_BYTES) - 8; /* six registers, where to, and a stop */

    for (int i = 0; i < 8; ++i)
        top[i] = NULL;
    top[6] = (void *)begin;
    *f = simt_fiber();
    f->sp = top;
    f->in = in;
    f->here = here;
    f->here.stack = stack;
    f->here.stack_end = stack + SIMT_STACK_BYTES;
    s.ready.push_back(f);
}
