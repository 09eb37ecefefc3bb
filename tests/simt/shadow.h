/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shadow.h - inside the race checker: what is remembered of each 8 bytes of memory, and what a
 * thread knows to have happened before.
 */
#ifndef SIMT_SHADOW_H
#define SIMT_SHADOW_H

#include <stdint.h>

#include <map>
#include <memory>
#include <unordered_map>
#include <vector>

/* One access to some of a granule's 8 bytes. */
struct race_access {
    uint32_t block, epoch, time;
    int32_t pc; /* from race_code() */
    uint16_t thread;
    uint8_t bytes; /* bit i: byte i */
    bool writes : 1, atomic : 1;
};

/* An access that others replace in turn when there are more: a racing pair may then go unseen. */
#define RACE_ACCESSES 10u
struct race_granule {
    uint32_t launch; /* of what follows; of another one: nothing */
    uint32_t count, next;
    race_access of[RACE_ACCESSES];
};

/* A granule by its address; pages of them are made on demand. */
class race_shadow
{
  public:
    race_granule *at(uintptr_t address)
    {
        const uintptr_t page = address >> 12;

        if (page != last_page || last == nullptr) {
            std::unique_ptr<race_page> &p = pages[page];

            if (p == nullptr)
                p.reset(new race_page());
            last_page = page;
            last = p.get();
        }
        return &last->of[address >> 3 & 511];
    }

  private:
    struct race_page {
        race_granule of[512];
    };
    std::unordered_map<uintptr_t, std::unique_ptr<race_page>> pages;
    uintptr_t last_page = 0;
    race_page *last = nullptr;
};

/* Of one block: all that its threads did before `epoch`, and of some threads all up to a time. */
struct race_fact {
    uint32_t epoch = 0;
    std::map<uint32_t, uint32_t> until; /* thread: time */
};
typedef std::map<uint32_t, race_fact> race_facts; /* block: fact */

static inline void race_learn(race_facts *to, const race_facts &from)
{
    for (const auto &f : from) {
        race_fact &k = (*to)[f.first];

        k.epoch = f.second.epoch > k.epoch ? f.second.epoch : k.epoch;
        for (const auto &u : f.second.until) {
            uint32_t &time = k.until[u.first];

            time = u.second > time ? u.second : time;
        }
    }
}

static inline bool race_knows(const race_facts &facts, const race_access &a)
{
    const auto f = facts.find(a.block);

    if (f == facts.end())
        return false;
    if (a.epoch < f->second.epoch)
        return true;

    const auto u = f->second.until.find(a.thread);

    return u != f->second.until.end() && a.time <= u->second;
}
#endif
