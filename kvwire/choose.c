/* SPDX-License-Identifier: Apache-2.0 */
#include "choose.h"

#include <assert.h>
#include <string.h>

#define BETTER     0.9 /* a switch must gain 10 % */
#define RETRY_EACH 128u
#define RETRY_WITH 2.0 /* times the best's time, at most */
#define GAIN       0.25
#define OUTLIER    4.0 /* a sample counts as at most so many times the estimate: a lost time slice */
#define COLD       4u  /* first samples: the least of them, as tables and buffers are still cold */
#define RATIO_ONE  32768.0

void kvw_chooser_init(struct kvw_chooser *c, const struct kvw_codec_ops *const *codecs,
                      uint32_t count, uint32_t layers, uint16_t *ratios)
{
    memset(c, 0, sizeof(*c));
    c->count = count;
    c->raw = count;
    c->layers = layers;
    c->ratios = ratios;
    memset(ratios, 0, kvw_chooser_ratios(count, layers) * sizeof(ratios[0]));
    for (uint32_t i = 0; i < count; ++i) {
        c->codecs[i].ops = codecs[i];
        if (codecs[i]->id == KVW_CODEC_RAW) {
            c->raw = i;
            c->codecs[i].ratio = 1;
        }
    }
    for (uint32_t b = 0; b < KVW_BUDGETS; ++b)
        c->current[b] = count;
    assert(c->raw < count);
}

uint32_t kvw_choose_find(const struct kvw_chooser *c, uint8_t codec_id)
{
    uint32_t i = 0;

    while (i < c->count && c->codecs[i].ops->id != codec_id)
        ++i;
    return i;
}

static uint16_t *ratio_at(const struct kvw_chooser *c, uint32_t i, uint32_t layer, uint32_t kv)
{
    return &c->ratios[(i * c->layers + layer) * 2 + kv];
}

static double ratio_of(const struct kvw_chooser *c, uint32_t i, uint32_t layer, uint32_t kv)
{
    const uint16_t r = *ratio_at(c, i, layer, kv);

    return r != 0 ? r / RATIO_ONE : c->codecs[i].ratio;
}

static double max(double a, double b)
{
    return a > b ? a : b;
}

/* T - due of choose.h, in ns. */
static double shown_ns(const struct kvw_chooser *c, const struct kvw_rate *wire, uint32_t i,
                       const struct kvw_choose_ask *ask)
{
    const double r = ratio_of(c, i, ask->layer, ask->kv);
    const double e = c->codecs[i].encode_ps / 1000, d = c->codecs[i].decode_ps / 1000;
    const double left = (double)ask->left;
    /* What is left over all layers is better told by the codec's ratio over all layers. */
    const double send = kvw_rate_ns(wire, (double)ask->queued_wire + left * c->codecs[i].ratio);
    const double encode = ((double)ask->queued_raw + left) * e;
    double t = max(ask->due_ns, left * d);

    t = max(t, ask->encoders > 0 ? max(encode / ask->encoders, send) : encode + send);
    return t - ask->due_ns + ask->raw_bytes * (e + d) + kvw_rate_ns(wire, ask->raw_bytes * r);
}

double kvw_choose_predict_ns(const struct kvw_chooser *c, const struct kvw_rate *wire, uint32_t i,
                             const struct kvw_choose_ask *ask)
{
    const double e = c->codecs[i].encode_ps / 1000;
    const double r = ratio_of(c, i, ask->layer, ask->kv);

    return ((double)ask->queued_raw / (ask->encoders > 0 ? ask->encoders : 1) + ask->raw_bytes) *
               e +
           wire->extra_ns +
           kvw_rate_ns(wire, (double)ask->queued_wire + ask->raw_bytes * (r > 0 ? r : 1));
}

static bool may_use(const struct kvw_chooser *c, uint32_t i, uint64_t allowed, kvw_budget budget)
{
    const struct kvw_codec_ops *ops = c->codecs[i].ops;

    return (allowed >> i & 1) != 0 && ops->budget <= budget && !ops->by_name_only;
}

/* The one to be tried instead of the best: never used so far, or unused longest; count: none. */
static uint32_t to_be_tried(const struct kvw_chooser *c, const struct kvw_rate *wire,
                            uint64_t allowed, const struct kvw_choose_ask *ask, double best_ns)
{
    const bool retry = c->picks % RETRY_EACH == 0;
    uint32_t oldest = c->count;

    for (uint32_t i = 0; i < c->count; ++i) {
        if (!may_use(c, i, allowed, ask->budget))
            continue;
        if (c->codecs[i].ratio <= 0)
            return i;
        if (retry && shown_ns(c, wire, i, ask) < RETRY_WITH * best_ns &&
            (oldest == c->count || c->codecs[i].last_used < c->codecs[oldest].last_used))
            oldest = i;
    }
    return oldest;
}

uint32_t kvw_choose(struct kvw_chooser *c, const struct kvw_rate *wire, uint64_t allowed,
                    const struct kvw_choose_ask *ask)
{
    uint32_t *current = &c->current[ask->budget];
    uint32_t best = c->raw, pick;
    double best_ns, current_ns;

    assert((allowed >> c->raw & 1) != 0);
    ++c->picks;
    best_ns = shown_ns(c, wire, best, ask);
    for (uint32_t i = 0; i < c->count; ++i) {
        const double ns = may_use(c, i, allowed, ask->budget) && c->codecs[i].ratio > 0
                              ? shown_ns(c, wire, i, ask)
                              : best_ns;

        if (ns < best_ns) {
            best = i;
            best_ns = ns;
        }
    }
    if (*current < c->count && may_use(c, *current, allowed, ask->budget)) {
        current_ns = shown_ns(c, wire, *current, ask);
        if (best_ns > BETTER * current_ns) {
            best = *current;
            best_ns = current_ns;
        }
    }
    *current = best;
    pick = to_be_tried(c, wire, allowed, ask, best_ns);
    if (pick == c->count)
        pick = best;
    c->codecs[pick].last_used = c->picks;
    return pick;
}

/* Smoothed picoseconds a byte. */
static void learn(double *ps, uint32_t *samples, uint32_t raw_bytes, uint64_t ns)
{
    double sample = (double)ns * 1000 / raw_bytes;

    if (ns == 0)
        return;
    if ((*samples)++ < COLD) {
        if (*samples == 1 || sample < *ps)
            *ps = sample;
        return;
    }
    if (sample > OUTLIER * *ps)
        sample = OUTLIER * *ps;
    *ps += (sample - *ps) * GAIN;
}

void kvw_choose_encoded(struct kvw_chooser *c, uint32_t i, uint32_t layer, uint32_t kv,
                        uint32_t raw_bytes, uint32_t stream_bytes, uint64_t ns)
{
    struct kvw_choice *k = &c->codecs[i];
    uint16_t *at = ratio_at(c, i, layer, kv);
    const double sample = (double)stream_bytes / raw_bytes;
    double r = *at != 0 ? *at / RATIO_ONE : sample;

    ++k->chunks;
    k->raw_bytes += raw_bytes;
    k->stream_bytes += stream_bytes;
    learn(&k->encode_ps, &k->encode_samples, raw_bytes, ns);
    r += (sample - r) * GAIN;
    *at = (uint16_t)(r * RATIO_ONE < 1 ? 1 : r * RATIO_ONE > 65535 ? 65535 : r * RATIO_ONE);
    k->ratio += (sample - k->ratio) * (k->ratio > 0 ? GAIN / 4 : 1);
}

void kvw_choose_decoded(struct kvw_chooser *c, uint32_t i, uint32_t raw_bytes,
                        uint32_t stream_bytes, uint64_t ns)
{
    struct kvw_choice *k = &c->codecs[i];

    ++k->chunks;
    k->raw_bytes += raw_bytes;
    k->stream_bytes += stream_bytes;
    learn(&k->decode_ps, &k->decode_samples, raw_bytes, ns);
}

void kvw_choose_told(struct kvw_chooser *c, uint32_t i, uint32_t decode_ps)
{
    c->codecs[i].decode_ps = decode_ps;
}
