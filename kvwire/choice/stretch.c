/* SPDX-License-Identifier: Apache-2.0 */
#include "stretch.h"

static void begin(struct kvw_stretch *t, uint64_t now_ns)
{
    *t = (struct kvw_stretch){.open = true,
                              .begun = t->open && t->begun,
                              .codec = t->codec,
                              .begin_ns = now_ns,
                              .last_ns = now_ns,
                              .end_ns = now_ns};
}

void kvw_stretch_cut(struct kvw_stretch *t, uint64_t now_ns)
{
    if (!t->open)
        begin(t, now_ns);
}

void kvw_stretch_stop(struct kvw_stretch *t)
{
    t->open = false;
}

static bool sample(const struct kvw_stretch *t, uint32_t least, uint32_t *of, double *ps)
{
    if (t->chunks < least || t->end_ns == t->begin_ns)
        return false;
    *of = t->codec;
    *ps = (double)(t->end_ns - t->begin_ns) * 1000 / (double)t->raw_bytes;
    return true;
}

/* What was told at last_ns counts. */
static void settle(struct kvw_stretch *t)
{
    t->chunks += t->told_chunks;
    t->raw_bytes += t->told_bytes;
    t->end_ns = t->last_ns;
    t->told_chunks = 0;
    t->told_bytes = 0;
}

/* A later time than the last: the stretch may end there. */
static bool step(struct kvw_stretch *t, double enough_ps, uint64_t now_ns, uint32_t *of, double *ps)
{
    bool said;

    settle(t);
    said = sample(t, KVW_STRETCH, of, ps) ||
           (enough_ps > 0 && sample(t, KVW_STRETCH / 2, of, ps) && *ps > enough_ps);
    if (said)
        begin(t, t->end_ns);
    t->last_ns = now_ns;
    return said;
}

bool kvw_stretch_delivered(struct kvw_stretch *t, uint32_t codec, uint32_t raw_bytes, bool drained,
                           double enough_ps, uint64_t now_ns, uint32_t *of, double *ps)
{
    bool said = false;

    if (!t->open)
        return false;
    if (now_ns > t->last_ns)
        said = step(t, enough_ps, now_ns, of, ps);
    if (t->begun && codec != t->codec) {
        said = said || sample(t, KVW_STRETCH / 2, of, ps);
        begin(t, now_ns); /* without what else is told now */
    }
    t->begun = true;
    t->codec = codec;
    if (now_ns > t->begin_ns) {
        ++t->told_chunks;
        t->told_bytes += raw_bytes;
    }
    if (drained) {
        settle(t);
        t->open = false;
        said = said || sample(t, KVW_STRETCH_MIN, of, ps);
    }
    return said;
}
