/* SPDX-License-Identifier: Apache-2.0 */
/*
 * race.cpp - the race checker: race.h says what a race is, race_calls.cpp passes on each access.
 *
 * A thread has an epoch, the barriers of its block that it has passed, and a time that grows with
 * each release and each __syncwarp. A block's barrier orders by epochs, a warp's meeting by the
 * lanes' times (peer), everything else by facts that a release leaves at its address and an acquire
 * takes.
 */
#include "race.h"

#include <dlfcn.h>
#include <stdio.h>

#include <string>

#include "race_calls.h"
#include "shadow.h"
#include "simt.h"

namespace
{
struct thread {
    uint32_t epoch, time;
    uint32_t peer[32]; /* of each lane of the warp: all before that time is before now */
    race_facts knows;
};
struct block {
    uint32_t index;
    race_facts knows; /* what its barriers have spread */
    std::vector<thread> threads;
};
std::vector<block> blocks;
race_shadow shadow;
std::unordered_map<uintptr_t, race_facts> released;
std::unordered_map<const uint32_t *, race_facts> met; /* what the lanes of a meeting brought */
uint32_t launches;
unsigned found;
const unsigned told_at_most = 20;

block &my_block(void)
{
    return blocks[simt_now->slot];
}

thread &me(void)
{
    return my_block().threads[simt_now->index];
}

bool is_before_now(const race_access &a, const block &b, const thread &t)
{
    if (a.block == b.index) {
        if (a.thread == simt_now->index || a.epoch < t.epoch)
            return true;
        if (a.thread / 32 == simt_now->index / 32 && a.time < t.peer[a.thread % 32])
            return true;
    }
    return race_knows(t.knows, a) || race_knows(b.knows, a);
}

/* file:line of an access, from the debug information; its address where there is none. */
std::string find_place(int32_t code)
{
    const uintptr_t pc =
        (uintptr_t)((intptr_t)&race_see + code) - 1; /* in the call, not behind it */
    char text[256] = "";
    Dl_info in;

    snprintf(text, sizeof(text), "code %#zx", (size_t)pc);
    if (dladdr((void *)pc, &in) == 0)
        return text;

    char command[512];

    snprintf(command, sizeof(command), "addr2line -s -e '%s' %#zx 2>/dev/null", in.dli_fname,
             (size_t)(pc - (uintptr_t)in.dli_fbase));
    if (FILE *f = popen(command, "r")) {
        if (fgets(text, sizeof(text), f) != NULL)
            text[strcspn(text, " \n")] = '\0';
        pclose(f);
    }
    return text;
}

const std::string &place_of(int32_t code)
{
    static std::unordered_map<int32_t, std::string> places;
    std::string &place = places[code];

    if (place.empty())
        place = find_place(code);
    return place;
}

void tell(const race_access &was, const race_access &now, uintptr_t at)
{
    static const char *const word[2][2] = {{"reads", "reads atomically"},
                                           {"writes", "writes atomically"}};

    if (++found > told_at_most)
        return;

    const unsigned char *p = (const unsigned char *)at;
    const bool is_shared = p >= simt_now->shared && p < simt_now->shared + simt_now->shared_bytes;

    fprintf(stderr, "race: %s memory %#zx: ", is_shared ? "shared" : "global",
            is_shared ? (size_t)(p - simt_now->shared) : (size_t)at);
    for (const race_access *a : {&was, &now})
        fprintf(stderr, "block %u thread %u %s at %s%s", a->block, a->thread,
                word[a->writes][a->atomic], place_of(a->pc).c_str(), a == &was ? "; " : "");
    fprintf(stderr, "; nothing orders the two\n");
}

/* Bytes of earlier accesses that this one makes needless: it is later and conflicts with as much.
 */
void put(race_granule *g, const race_access &now, const block &b, const thread &t)
{
    uint32_t kept = 0;

    for (uint32_t i = 0; i < g->count; ++i) {
        race_access &a = g->of[i];

        if ((now.writes || !a.writes) && (!now.atomic || a.atomic) && is_before_now(a, b, t))
            a.bytes = (uint8_t)(a.bytes & ~now.bytes);
        if (a.bytes != 0)
            g->of[kept++] = a;
    }
    g->count = kept;
    g->of[kept < RACE_ACCESSES ? g->count++ : g->next++ % RACE_ACCESSES] = now;
}

void see_granule(uintptr_t at, race_access now)
{
    race_granule *g = shadow.at(at);
    const block &b = my_block();
    const thread &t = me();
    bool told = false;

    if (g->launch != launches)
        *g = {launches, 0, 0, {}};
    for (uint32_t i = 0; i < g->count; ++i) {
        race_access &a = g->of[i];

        if (a.thread == now.thread && a.block == now.block && a.writes == now.writes &&
            a.atomic == now.atomic && a.epoch == now.epoch && a.time == now.time &&
            (now.bytes & ~a.bytes) == 0 && !now.writes)
            return; /* read again: nothing new */
        if ((a.bytes & now.bytes) == 0 || (!a.writes && !now.writes) || (a.atomic && now.atomic) ||
            is_before_now(a, b, t))
            continue;
        if (!told)
            tell(a, now, at);
        told = true;
        a.bytes = (uint8_t)(a.bytes & ~now.bytes);
    }
    put(g, now, b, t);
}
} // namespace

void race_see(const void *at, size_t bytes, race_how how, const void *pc)
{
    const unsigned char *p = (const unsigned char *)at;

    if (simt_now == NULL || (p >= simt_now->stack && p < simt_now->stack_end) ||
        (p >= (unsigned char *)simt_now && p < (unsigned char *)(simt_now + 1)))
        return;

    const thread &t = me();
    race_access now = {simt_now->block_index,
                       t.epoch,
                       t.time,
                       (int32_t)((intptr_t)pc - (intptr_t)&race_see),
                       (uint16_t)simt_now->index,
                       0,
                       how.writes,
                       how.atomic};

    for (uintptr_t i = (uintptr_t)at, end = i + bytes; i < end;) {
        const uintptr_t next = std::min((i | 7) + 1, end);

        now.bytes = (uint8_t)(((1u << (next - i)) - 1) << (i & 7));
        see_granule(i & ~(uintptr_t)7, now);
        i = next;
    }
}

void race_acquire(const void *at)
{
    if (simt_now == NULL)
        return;

    const auto r = released.find((uintptr_t)at);

    if (r != released.end())
        race_learn(&me().knows, r->second);
}

/* keep: a read-modify-write, behind which earlier releases still count. */
void race_release(const void *at, bool keep)
{
    if (simt_now == NULL)
        return;

    thread &t = me();
    race_facts f = my_block().knows;
    race_fact &mine = f[my_block().index];
    const unsigned first = simt_now->index / 32 * 32;

    race_learn(&f, t.knows);
    mine.epoch = std::max(mine.epoch, t.epoch);
    mine.until[simt_now->index] = t.time;
    for (unsigned l = 0; l < 32; ++l)
        if (first + l != simt_now->index && t.peer[l] > 0) {
            uint32_t &time = mine.until[first + l];

            time = std::max(time, t.peer[l] - 1);
        }
    ++t.time; /* what it does from here on isn't part of it */
    if (!keep)
        released[(uintptr_t)at].clear();
    race_learn(&released[(uintptr_t)at], f);
}

void race_forget_release(const void *at)
{
    released.erase((uintptr_t)at);
}

void race_launch(void)
{
    ++launches;
    released.clear();
    met.clear();
}

void race_block(unsigned slot, unsigned index, unsigned threads, const void *shared, size_t bytes)
{
    if (blocks.size() <= slot)
        blocks.resize(slot + 1);
    blocks[slot] = {index, {}, {}};
    blocks[slot].threads.assign(threads, thread{1, 1, {}, {}});
    for (size_t i = 0; i < bytes; i += 8) { /* the memory was another block's */
        shadow.at((uintptr_t)shared + i)->count = 0;
        released.erase((uintptr_t)shared + i);
    }
}

void race_barrier_arrive(void)
{
    thread &t = me();

    if (t.knows.empty())
        return;
    race_learn(&my_block().knows, t.knows); /* what one knows, all know behind the barrier */
    t.knows.clear();
}

void race_barrier_leave(void)
{
    ++me().epoch;
}

void race_warp_arrive(uint32_t *clock)
{
    thread &t = me();
    race_facts &facts = met[clock];

    if (std::all_of(clock, clock + 32, [](uint32_t time) { return time == 0; }))
        facts.clear(); /* the first lane */
    race_learn(&facts, t.knows);
    ++t.time;
    t.peer[simt_now->index % 32] = t.time;
    for (unsigned l = 0; l < 32; ++l)
        clock[l] = std::max(clock[l], t.peer[l]);
}

void race_warp_leave(const uint32_t *clock)
{
    for (unsigned l = 0; l < 32; ++l)
        me().peer[l] = std::max(me().peer[l], clock[l]);
    race_learn(&me().knows, met[clock]);
}

unsigned race_found(void)
{
    return found;
}
