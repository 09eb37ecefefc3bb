/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stream.cpp - streams, events and launches of the stand-in. A stream is a queue, and nothing moves
 * but when somebody asks: each question (event_query, stream_synchronize) lets zero to three steps
 * happen, each on a stream drawn from the seed. So work is late, and out of order between streams,
 * in every way that CUDA allows; a forgotten stream_wait_event shows. What two processes may get
 * wrong between them shows if the work is late and one stream is always first (fake.h).
 */
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <deque>
#include <memory>
#include <thread>
#include <vector>

#include "inside.h"
#include "launch.h"

struct event_state {
    uint64_t recorded = 0, done = 0;
};
struct kvg_cu_event {
    std::shared_ptr<event_state> state;
};
struct queued {
    std::function<bool()> work; /* false: it can't go on yet */
    uint64_t from_ns;           /* nor before this */
};
struct kvg_cu_stream {
    std::deque<queued> queue;
    bool destroyed = false;

    void push(std::function<bool()> work);
};
struct kvg_cu_kernel {
    const fake_kernel *kernel;
    unsigned shared_max;
};
struct kvg_cu_library {
    std::vector<std::unique_ptr<kvg_cu_kernel>> kernels;
};

static std::vector<std::unique_ptr<kvg_cu_stream>> streams;
static std::vector<std::unique_ptr<kvg_cu_event>> events;
static std::vector<std::unique_ptr<kvg_cu_library>> libraries;
static bool working;      /* late work, by a thread of its own */
static kvg_result broken; /* of device work; then every call about streams says so, as in CUDA */

static uint64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Whether it is the one that goes before all others. */
static bool is_first(const kvg_cu_stream *s)
{
    return fake_cfg.first != 0 &&
           (fake_cfg.first > 0 ? streams.front() : streams.back()).get() == s;
}

void kvg_cu_stream::push(std::function<bool()> work)
{
    const bool late = fake_cfg.late_ns != 0 && !is_first(this);

    queue.push_back({std::move(work), late ? now_ns() + fake_cfg.late_ns : 0});
}

uint64_t fake_draw(void)
{
    fake_cfg.seed ^= fake_cfg.seed << 13;
    fake_cfg.seed ^= fake_cfg.seed >> 7;
    fake_cfg.seed ^= fake_cfg.seed << 17;
    return fake_cfg.seed >> 11;
}

void fake_count_streams(fakecuda_live *live)
{
    for (const auto &s : streams)
        live->streams += !s->destroyed;
    live->events = (unsigned)events.size();
    live->libraries = (unsigned)libraries.size();
}

template <typename T> static auto find(std::vector<std::unique_ptr<T>> &all, T *one)
{
    return std::find_if(all.begin(), all.end(), [&](const auto &p) { return p.get() == one; });
}

static bool is_stream(kvg_stream s)
{
    const auto i = find(streams, s);

    return i != streams.end() && !s->destroyed;
}

/* False: it hasn't gone on. */
static bool step(size_t i)
{
    kvg_cu_stream *s = streams[i].get();
    bool done = false;

    if (!s->queue.empty() &&
        (s->queue.front().from_ns == 0 || now_ns() >= s->queue.front().from_ns)) {
        fake_open_vram(true);
        done = s->queue.front().work();
        fake_open_vram(false);
        if (done)
            s->queue.pop_front();
    }
    if (s->destroyed && s->queue.empty())
        streams.erase(find(streams, s));
    return done;
}

/* One step of the first stream that can go on. */
static bool step_first(void)
{
    for (size_t n = streams.size(), i = 0; i < n; ++i)
        if (step(fake_cfg.first < 0 ? n - 1 - i : i) || streams.size() != n)
            return true;
    return false;
}

static bool held;

void fakecuda_hold(int hold)
{
    const std::lock_guard<std::recursive_mutex> guard(fake_lock);

    held = hold != 0;
}

static void pump(void)
{
    if (held || fake_cfg.late_ns != 0)
        return;
    for (uint64_t n = fake_draw() % 4; n > 0 && !streams.empty(); --n) {
        if (fake_cfg.first != 0)
            step_first();
        else
            step(fake_draw() % streams.size());
    }
}

/* Late work is done by a thread of its own, as a GPU does it: who asks doesn't move it, and isn't
 * held up by it. */
static std::thread worker;

static void give_way(void)
{
    fake_lock.unlock();
    usleep(200);
    fake_lock.lock();
}

static void work_apart(void)
{
    const std::lock_guard<std::recursive_mutex> guard(fake_lock);

    while (working)
        if (held || !step_first())
            give_way();
}

void fake_start_work(void)
{
    if (fake_cfg.late_ns == 0 || working)
        return;
    working = true;
    worker = std::thread(work_apart);
}

void fake_stop_work(void)
{
    if (!working)
        return;
    working = false;
    fake_lock.unlock();
    worker.join();
    fake_lock.lock();
}

static bool touch(kvg_devptr at, size_t bytes)
{
    if (!fake_may_touch(at, bytes))
        broken = 700; /* CUDA_ERROR_ILLEGAL_ADDRESS */
    return broken == KVG_CU_SUCCESS;
}

extern "C" {

kvg_result cuStreamCreateWithPriority(kvg_stream *stream, unsigned flags, int priority)
{
    FAKE_ENTER(FAKE_CONTEXT);
    if (flags != KVG_CU_STREAM_NON_BLOCKING) /* the legacy stream's rules aren't played here */
        return KVG_CU_NOT_SUPPORTED;
    (void)priority;
    streams.emplace_back(new kvg_cu_stream());
    *stream = streams.back().get();
    return KVG_CU_SUCCESS;
}

/* What is queued still runs, as in CUDA. */
kvg_result cuStreamDestroy_v2(kvg_stream stream)
{
    FAKE_ENTER(FAKE_CONTEXT);
    if (!is_stream(stream))
        return KVG_CU_INVALID_HANDLE;
    stream->destroyed = true;
    if (stream->queue.empty())
        streams.erase(find(streams, stream));
    return KVG_CU_SUCCESS;
}

kvg_result cuStreamSynchronize(kvg_stream stream)
{
    FAKE_ENTER(FAKE_CONTEXT);
    if (!is_stream(stream))
        return KVG_CU_INVALID_HANDLE;
    for (uint64_t turns = 0; !stream->queue.empty(); ++turns) {
        if (broken != KVG_CU_SUCCESS)
            return broken;
        if (turns > 1000000)
            abort(); /* it waits for an event that nobody will record: CUDA would hang */
        if (working)
            give_way();
        else
            pump();
    }
    return broken;
}

kvg_result cuStreamWaitEvent(kvg_stream stream, kvg_event event, unsigned flags)
{
    FAKE_ENTER(FAKE_CONTEXT);
    if (!is_stream(stream) || find(events, event) == events.end() || flags != 0)
        return KVG_CU_INVALID_HANDLE;

    const auto state = event->state;
    const uint64_t n = state->recorded;

    stream->push([=] { return state->done >= n; });
    return KVG_CU_SUCCESS;
}

kvg_result cuEventCreate(kvg_event *event, unsigned flags)
{
    FAKE_ENTER(FAKE_CONTEXT);
    if (flags != KVG_CU_EVENT_DISABLE_TIMING)
        return KVG_CU_NOT_SUPPORTED;
    events.emplace_back(new kvg_cu_event());
    events.back()->state = std::make_shared<event_state>();
    *event = events.back().get();
    return KVG_CU_SUCCESS;
}

kvg_result cuEventDestroy_v2(kvg_event event)
{
    FAKE_ENTER(FAKE_CONTEXT);
    const auto i = find(events, event);

    if (i == events.end())
        return KVG_CU_INVALID_HANDLE;
    events.erase(i);
    return KVG_CU_SUCCESS;
}

kvg_result cuEventRecordWithFlags(kvg_event event, kvg_stream stream, unsigned flags)
{
    FAKE_ENTER(FAKE_CONTEXT);
    if (!is_stream(stream) || find(events, event) == events.end() || flags != 0)
        return KVG_CU_INVALID_HANDLE;

    const auto state = event->state;
    const uint64_t n = ++state->recorded;

    stream->push([=] {
        state->done = std::max(state->done, n);
        return true;
    });
    return KVG_CU_SUCCESS;
}

kvg_result cuEventQuery(kvg_event event)
{
    FAKE_ENTER(FAKE_CONTEXT);
    if (find(events, event) == events.end())
        return KVG_CU_INVALID_HANDLE;
    pump();
    if (broken != KVG_CU_SUCCESS)
        return broken;
    return event->state->done >= event->state->recorded ? KVG_CU_SUCCESS : KVG_CU_NOT_READY;
}

kvg_result cuMemcpyAsync(kvg_devptr to, kvg_devptr from, size_t bytes, kvg_stream stream)
{
    FAKE_ENTER(FAKE_CONTEXT);
    if (!is_stream(stream))
        return KVG_CU_INVALID_HANDLE;
    stream->push([=] {
        if (touch(to, bytes) && touch(from, bytes))
            memcpy((void *)to, (const void *)from, bytes);
        return true;
    });
    return KVG_CU_SUCCESS;
}

kvg_result cuMemsetD8Async(kvg_devptr to, unsigned char v, size_t bytes, kvg_stream stream)
{
    FAKE_ENTER(FAKE_CONTEXT);
    if (!is_stream(stream))
        return KVG_CU_INVALID_HANDLE;
    stream->push([=] {
        if (touch(to, bytes))
            memset((void *)to, v, bytes);
        return true;
    });
    return KVG_CU_SUCCESS;
}

kvg_result cuLibraryLoadData(kvg_library *library, const void *image, int *, void **, unsigned,
                             int *, void **, unsigned)
{
    FAKE_ENTER(FAKE_CONTEXT);
    if (image == NULL || strncmp((const char *)image, FAKECUDA_IMAGE, sizeof(FAKECUDA_IMAGE)) != 0)
        return KVG_CU_INVALID_IMAGE;
    if (fake_cfg.arch < 80)
        return KVG_CU_NO_BINARY_FOR_GPU;
    libraries.emplace_back(new kvg_cu_library());
    *library = libraries.back().get();
    return KVG_CU_SUCCESS;
}

kvg_result cuLibraryUnload(kvg_library library)
{
    FAKE_ENTER(FAKE_CONTEXT);
    const auto i = find(libraries, library);

    if (i == libraries.end())
        return KVG_CU_INVALID_HANDLE;
    libraries.erase(i);
    return KVG_CU_SUCCESS;
}

kvg_result cuLibraryGetKernel(kvg_kernel *kernel, kvg_library library, const char *name)
{
    FAKE_ENTER(FAKE_CONTEXT);
    if (find(libraries, library) == libraries.end())
        return KVG_CU_INVALID_HANDLE;
    for (const fake_kernel *k = fake_kernels; k->name != NULL; ++k)
        if (strcmp(k->name, name) == 0) {
            library->kernels.emplace_back(new kvg_cu_kernel{k, 48u << 10});
            *kernel = library->kernels.back().get();
            return KVG_CU_SUCCESS;
        }
    return KVG_CU_NOT_FOUND;
}

kvg_result cuKernelSetAttribute(int attribute, int value, kvg_kernel kernel, kvg_device_id device)
{
    FAKE_ENTER(FAKE_CONTEXT);
    if (attribute != KVG_CU_KERNEL_MAX_DYNAMIC_SHARED || value < 0 || value > 227 << 10 ||
        device != 0)
        return KVG_CU_INVALID_VALUE;
    kernel->shared_max = (unsigned)value;
    return KVG_CU_SUCCESS;
}

/* Arguments are copied now, the work runs later: both as in CUDA. */
kvg_result cuLaunchKernelEx(const kvg_launch *c, kvg_kernel kernel, void **params, void **extra)
{
    FAKE_ENTER(FAKE_CONTEXT);
    const uint64_t threads = (uint64_t)c->block_x * c->block_y * c->block_z;
    const dim3 grid(c->grid_x, c->grid_y, c->grid_z), block(c->block_x, c->block_y, c->block_z);
    const unsigned shared_bytes = c->shared_bytes;

    if (!is_stream(c->stream))
        return KVG_CU_INVALID_HANDLE;
    if (threads == 0 || threads > 1024 || (uint64_t)c->grid_x * c->grid_y * c->grid_z == 0 ||
        shared_bytes > kernel->shared_max || extra != NULL || c->attribute_count != 0)
        return KVG_CU_INVALID_VALUE;

    const std::function<void()> bound = kernel->kernel->bind(params);

    c->stream->push([=] {
        const uint64_t seed = fake_draw() | 1;

        const bool apart = working;

        if (apart) /* others call meanwhile */
            fake_lock.unlock();
        simt_launch(grid, block, shared_bytes, {seed, 3}, bound);
        if (apart)
            fake_lock.lock();
        return true;
    });
    return KVG_CU_SUCCESS;
}
}
