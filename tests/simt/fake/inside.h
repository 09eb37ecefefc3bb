/* SPDX-License-Identifier: Apache-2.0 */
/* inside.h - what the files of the stand-in share. One lock is held through every driver call. */
#ifndef FAKE_INSIDE_H
#define FAKE_INSIDE_H

#include <functional>
#include <mutex>

#include "fake.h"

#define FAKE_GRANULE (2u << 20)

struct fake_config {
    bool none, dmabuf, plain, pcie, rdma, flush, c2c, managed, elsewhere;
    int version, arch, ordering;
    size_t bytes;
    uint64_t seed;
    int first; /* of the streams that can go on: -1 the newest, 1 the oldest, 0 a drawn one */
    uint64_t late_ns;
};
extern fake_config fake_cfg;
extern std::recursive_mutex fake_lock;

/* SUCCESS, or what the call must return at once: not initialised, no context, an
 * injected failure. */
enum fake_needs { FAKE_NOTHING, FAKE_INIT, FAKE_CONTEXT };
kvg_result fake_enter(fake_needs needs);
#define FAKE_ENTER(needs)                                                                          \
    const std::lock_guard<std::recursive_mutex> fake_guard(fake_lock);                             \
    if (const kvg_result fake_r = fake_enter(needs))                                               \
        return fake_r;

/* memory.cpp: device work may touch VRAM while this is open; calls nest. */
void fake_open_vram(bool open);
/* Whether [at, at + bytes) is memory that device work may touch: mapped VRAM, or none of VRAM. */
bool fake_may_touch(kvg_devptr at, size_t bytes);
void fake_count_memory(fakecuda_live *live);
/* stream.cpp */
void fake_count_streams(fakecuda_live *live);
uint64_t fake_draw(void);
/* Late work begins with the first context and ends with the last. */
void fake_start_work(void);
void fake_stop_work(void);

/* Every function of the table, with the types of driver.h: another type doesn't compile. */
extern "C" {
#define FAKE_DECLARE(name, symbol, params)                                                         \
    __attribute__((visibility("default"))) kvg_result symbol params;
KVG_DRIVER_CALLS(FAKE_DECLARE)
#undef FAKE_DECLARE
}
#endif
