/* SPDX-License-Identifier: Apache-2.0 */
#include "fit.h"

/* What is tried below the limit: MTUs of 9000, 4000 and 1500 with IPv6 and UDP taken off. */
static const uint32_t steps[] = {8952, 3952, 1452};

void kvn_fit_begin(struct kvn_fit *f, uint32_t payload)
{
    *f = (struct kvn_fit){
        .payload = payload, .search_at_ns = UINT64_MAX, .wait_ns = KVN_SEARCH_FIRST_NS};
}

void kvn_fit_lost(struct kvn_fit *f, uint64_t sent_ns)
{
    if (sent_ns <= f->arrived_ns)
        return; /* a younger one came through: that was an ordinary loss */
    if (f->lost++ == 0) {
        f->since_ns = UINT64_MAX;
        f->again = false;
    }
    f->again |= sent_ns >= f->since_ns;
}

bool kvn_fit_hole(struct kvn_fit *f, uint64_t acked_ns, uint64_t now_ns)
{
    if (f->lost > 0 && f->since_ns == UINT64_MAX)
        f->since_ns = now_ns;
    return f->lost >= KVN_HOLE_PACKETS && f->again && acked_ns > f->since_ns &&
           f->payload > KVN_PAYLOAD_MIN;
}

void kvn_fit_fall(struct kvn_fit *f, uint32_t payload, uint64_t now_ns)
{
    f->payload = payload;
    f->lost = 0;
    f->trying = 0;
    f->search_at_ns = now_ns + KVN_SEARCH_FIRST_NS;
    f->wait_ns = KVN_SEARCH_NS;
}

void kvn_fit_probe_arrived(struct kvn_fit *f, uint32_t bytes)
{
    f->proved |= bytes == f->trying;
}

void kvn_fit_probe_lost(struct kvn_fit *f, uint32_t bytes, bool heard)
{
    if (bytes != f->trying)
        return;
    f->failed = true;
    f->unheard = !heard;
}

static bool attempt(struct kvn_fit *f, uint32_t bytes)
{
    f->tries = bytes == f->trying ? f->tries : 0;
    f->trying = bytes;
    f->search_at_ns = UINT64_MAX;
    f->proved = f->failed = f->unheard = false;
    return true;
}

static bool later(struct kvn_fit *f, uint64_t now_ns)
{
    f->trying = 0;
    f->search_at_ns = now_ns + f->wait_ns;
    f->wait_ns = f->wait_ns < KVN_SEARCH_NS ? KVN_SEARCH_NS : 2 * f->wait_ns;
    if (f->wait_ns > KVN_SEARCH_MAX_NS)
        f->wait_ns = KVN_SEARCH_MAX_NS;
    return false;
}

void kvn_fit_search_now(struct kvn_fit *f, uint64_t now_ns)
{
    if (f->search_at_ns == UINT64_MAX && f->trying == 0)
        f->search_at_ns = now_ns;
}

bool kvn_fit_search(struct kvn_fit *f, uint32_t limit, uint64_t now_ns)
{
    if (f->trying != 0 && f->proved && f->trying > f->payload)
        f->payload = f->trying;
    if (f->payload >= limit) {
        f->trying = 0;
        f->search_at_ns = UINT64_MAX;
        return false;
    }
    if (f->trying == 0)
        return f->search_at_ns <= now_ns && attempt(f, limit);
    if (f->proved)
        return later(f, now_ns);
    if (!f->failed)
        return false;
    f->tries += !f->unheard;
    if (f->tries < KVN_SEARCH_TRIES && f->trying <= limit)
        return attempt(f, f->trying);
    for (uint32_t i = 0; i < sizeof(steps) / sizeof(steps[0]); ++i)
        if (steps[i] < f->trying && steps[i] > f->payload && steps[i] < limit)
            return attempt(f, steps[i]);
    return later(f, now_ns);
}
