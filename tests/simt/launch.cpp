/* SPDX-License-Identifier: Apache-2.0 */
/* launch.cpp - a grid: a few blocks resident at a time, begun in a drawn order, until all are done.
 */
#include <stdio.h>
#include <stdlib.h>

#include <numeric>
#include <vector>

#include "fiber.h"
#include "race.h"

struct grid {
    dim3 grid, dim;
    unsigned threads, warps;
    size_t shared_bytes;
    std::vector<unsigned> order;
    std::vector<simt_block> blocks; /* resident */
    size_t begun, ended;
};

simt_counts simt_counted(void)
{
    return simt_count;
}

unsigned simt_races(void)
{
    return race_found ? race_found() : 0;
}

/* Exactly so many bytes, so that the address sanitizer sees the first one too many. */
static unsigned char *exactly(size_t bytes)
{
    void *p = NULL;

    if (posix_memalign(&p, 128, bytes > 0 ? bytes : 1) != 0)
        simt_trap(SIMT_PLACE, "no memory for %zu shared bytes", bytes);
    memset(p, 0xa5, bytes); /* on a device it holds what another block left */
    return (unsigned char *)p;
}

static void begin_block(grid &g, unsigned slot)
{
    simt_block *b = &g.blocks[slot];
    const unsigned index = g.order[g.begun++];
    simt_here here = {};

    *b = simt_block();
    b->index = index;
    b->shared = exactly(g.shared_bytes);
    b->warps = new simt_warp[g.warps]();
    b->alive = g.threads;
    ++simt_count.blocks;
    here.block_dim = g.dim;
    here.grid_dim = g.grid;
    here.block_index = index;
    here.block = dim3(index % g.grid.x, index / g.grid.x % g.grid.y, index / g.grid.x / g.grid.y);
    here.slot = slot;
    here.shared = b->shared;
    here.shared_bytes = g.shared_bytes;
    if (race_block)
        race_block(slot, index, g.threads, b->shared, g.shared_bytes);
    for (unsigned t = 0; t < g.threads; ++t) {
        here.index = t;
        here.thread = dim3(t % g.dim.x, t / g.dim.x % g.dim.y, t / g.dim.x / g.dim.y);
        simt_fiber_start(simt_fiber_of(slot, t), b, here);
    }
}

static void end_block(grid &g, simt_block *b)
{
    free(b->shared);
    delete[] b->warps;
    b->shared = NULL;
    b->warps = NULL;
    ++g.ended;
}

[[noreturn]] static void deadlock(const grid &g)
{
    fprintf(stderr, "simt: deadlock: no thread can go on\n");
    for (const simt_block &b : g.blocks) {
        if (b.alive == 0)
            continue;
        fprintf(stderr, "  block %u: %u of %u threads have not returned", b.index, b.alive,
                g.threads);
        if (b.waiting > 0)
            fprintf(stderr, "; %u wait at the barrier of %s:%d", b.waiting, b.at.file, b.at.line);
        fputc('\n', stderr);
        for (unsigned w = 0; w < g.warps; ++w)
            for (const simt_meeting &m : b.warps[w].of)
                if (m.arrived != 0)
                    fprintf(stderr, "    warp %u: lanes %08x of mask %08x wait at %s:%d\n", w,
                            m.arrived, m.mask, m.at.file, m.at.line);
    }
    abort();
}

static void check_shape(dim3 grid, unsigned threads, size_t shared_bytes)
{
    if (threads == 0 || threads > SIMT_BLOCK_THREADS_MAX)
        simt_trap(SIMT_PLACE, "a block of %u threads; 1 to %u can be", threads,
                  SIMT_BLOCK_THREADS_MAX);
    if (grid.x == 0 || grid.y == 0 || grid.z == 0)
        simt_trap(SIMT_PLACE, "a grid of %u x %u x %u blocks", grid.x, grid.y, grid.z);
    if (shared_bytes > SIMT_SHARED_BYTES_MAX)
        simt_trap(SIMT_PLACE, "%zu bytes of shared memory; a block has at most %u", shared_bytes,
                  SIMT_SHARED_BYTES_MAX);
}

void simt_launch(dim3 grid_, dim3 dim, size_t shared_bytes, simt_options o,
                 const std::function<void()> &kernel)
{
    const unsigned total = grid_.x * grid_.y * grid_.z, threads = dim.x * dim.y * dim.z;
    const unsigned resident = min(o.resident > 0 ? o.resident : 4u, total);
    grid g = {grid_, dim, threads, (threads + 31) / 32, shared_bytes, {}, {}, 0, 0};

    if (simt_now != NULL)
        simt_trap(SIMT_PLACE, "a launch from within a kernel");
    check_shape(grid_, threads, shared_bytes);
    ++simt_count.launches;
    if (race_launch)
        race_launch();
    simt_fibers_begin(resident, threads, o.seed, &kernel);
    g.blocks.resize(resident);
    g.order.resize(total);
    std::iota(g.order.begin(), g.order.end(), 0u);
    for (unsigned i = total; simt_is_drawn() && i > 1; --i)
        std::swap(g.order[i - 1], g.order[simt_draw() % i]);
    while (g.ended < total) {
        for (unsigned slot = 0; slot < resident && g.begun < total; ++slot)
            if (g.blocks[slot].alive == 0)
                begin_block(g, slot);
        if (!simt_any_ready())
            deadlock(g);

        const simt_fiber *f = simt_run_one();
        simt_block *b = &g.blocks[f->here.slot];

        if (b->alive == 0)
            end_block(g, b);
    }
}
