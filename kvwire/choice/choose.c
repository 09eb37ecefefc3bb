/* SPDX-License-Identifier: Apache-2.0 */
#include "choose.h"

#include <assert.h>
#include <string.h>

/* The numbers behind the five rules of choose.h. Rule 5, a switch must bring the time down to: */
#define BETTER   0.9  /* 0.9 x, if either codec's end-to-end time is an estimate */
#define MEASURED 0.96 /* 0.96 x, if both were measured (back to raw: anything below 1 x) */
#define PRODUCED 0.95 /* 0.95 x, while the request's own production is what is waited for */

/* Rule 2 */
#define SMALL 0.1 /* a codec that costs less than this part of its wire time is used unmeasured */

/* Rule 3 */
#define TRIAL    0.93       /* a trial must promise 0.93 x the time of the codec in use */
#define HOPELESS 1.2        /* a trial slower than 1.2 x the codec in use ends early */
#define NOT_YET  UINT64_MAX /* try_at of a codec whose first trial has no date */

/* Rule 4 */
#define TRIAL_COST 0.005 /* lost trials cost this part of the time spent sending */
#define DOUBLINGS  5u    /* the pause between lost trials doubles so often at most */
#define LOSS_MIN   0.05  /* a smaller loss counts as one of 5 %, so that there is some pause */
#define CHANGED    1.6   /* the codec in use got so many times faster or slower: forget the rest */

/* Rule 1 */
#define PROBES     2u   /* chunks that a codec gets before its first estimate */
#define RETRY_EACH 128u /* every 128th chunk may go to the codec unused longest */
#define RETRY_WITH 1.3  /* ... if its time is at most 1.3 x the best codec's */

/* Smoothing of samples */
#define GAIN      0.25    /* weight of a new sample */
#define OUTLIER   4.0     /* a sample above 4 x the estimate counts as 4 x: a lost time slice */
#define COLD      4u      /* of the first 4 samples the smallest counts: caches are still cold */
#define RATIO_ONE 32768.0 /* a ratio of 1 in chooser.ratios */

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
        c->codecs[i].try_at = NOT_YET;
        if (codecs[i]->id == KVW_CODEC_RAW) {
            c->raw = i;
            c->codecs[i].ratio = 1;
        }
    }
    for (uint32_t b = 0; b < KVW_BUDGETS; ++b)
        c->current[b] = c->raw;
    c->in_use = c->raw;
    assert(c->raw < count);
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

/* The codec in use by this budget, if it was measured; or NULL. */
static const struct kvw_choice *beside(const struct kvw_chooser *c, kvw_budget budget)
{
    const uint32_t i = c->current[budget];

    return c->codecs[i].end_ps > 0 ? &c->codecs[i] : NULL;
}

/* Upper bound on the wire time of a stream byte, in ps: the smallest end-to-end time per stream
 * byte of any measured codec; the wire's rate where none is measured. */
static double send_at_most(const struct kvw_chooser *c, const struct kvw_rate *wire)
{
    double least = 0;

    for (uint32_t i = 0; i < c->count; ++i) {
        const struct kvw_choice *k = &c->codecs[i];

        if (k->end_ps > 0 && (least <= 0 || k->end_ps / k->ratio < least))
            least = k->end_ps / k->ratio;
    }
    return least > 0 ? least : kvw_rate_ns(wire, 1) * 1000;
}

/* Lower bound on the wire time of a stream byte for codec `of`, in ps: the largest that any
 * measured codec needed, without its encoding and decoding where those cost more than `of`'s. */
static double send_at_least(const struct kvw_chooser *c, const struct kvw_choice *of)
{
    double most = 0;

    for (uint32_t i = 0; i < c->count; ++i) {
        const struct kvw_choice *k = &c->codecs[i];

        if (k->end_ps > 0)
            most = max(most, (k->end_ps -
                              (of->encode_ps < k->encode_ps ? k->encode_ps + k->decode_ps : 0)) /
                                 k->ratio);
    }
    return most;
}

/* End-to-end time of a raw byte with codec i, in ns (s of choose.h): measured, or estimated as if
 * both ends and the wire shared one core. */
static double end_ns(const struct kvw_chooser *c, const struct kvw_rate *wire, uint32_t i)
{
    const struct kvw_choice *k = &c->codecs[i];

    if (k->end_ps > 0)
        return k->end_ps / 1000;
    return (k->encode_ps + send_at_most(c, wire) * k->ratio + k->decode_ps) / 1000;
}

/* The same, estimated for a sender and a receiver with a core each. */
static double apart_ns(const struct kvw_chooser *c, const struct kvw_rate *wire, uint32_t i,
                       const struct kvw_choose_ask *ask)
{
    const struct kvw_choice *k = &c->codecs[i];
    const double e = k->encode_ps, send = send_at_most(c, wire) * k->ratio;

    return max(ask->encoders > 0 ? max(e / ask->encoders, send) : e + send, k->decode_ps) / 1000;
}

/* The same, estimated for encoders, wire and decoder that share nothing. */
static double at_best_ns(const struct kvw_chooser *c, uint32_t i, const struct kvw_choose_ask *ask)
{
    const struct kvw_choice *k = &c->codecs[i];

    return max(k->encode_ps / (ask->encoders > 0 ? ask->encoders : 1),
               send_at_least(c, k) * k->ratio) /
           1000;
}

/* T - due of choose.h, in ns. */
static double shown_ns(const struct kvw_chooser *c, const struct kvw_rate *wire, uint32_t i,
                       const struct kvw_choose_ask *ask)
{
    const double r = ratio_of(c, i, ask->layer, ask->kv);
    const double e = c->codecs[i].encode_ps / 1000, d = c->codecs[i].decode_ps / 1000;
    const double left = (double)ask->left;
    const double sending = kvw_rate_ns(wire, (double)ask->queued_wire);
    const double encoding = (double)ask->queued_raw * e;
    const double queue =
        ask->encoders > 0 ? max(encoding / ask->encoders, sending) : encoding + sending;
    double t = max(ask->due_ns, left * d);

    t = max(t, queue + left * end_ns(c, wire, i));
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

/* The one to be probed instead of the best: one of which little is known, or that was unused
 * longest; count: none. */
static uint32_t to_be_probed(struct kvw_chooser *c, const struct kvw_rate *wire, uint64_t allowed,
                             const struct kvw_choose_ask *ask, double best_ns)
{
    const bool retry = c->picks % RETRY_EACH == 0;
    uint32_t oldest = c->count;

    if (wire->bytes_per_ns <= 0)
        return c->count;
    for (uint32_t i = 0; i < c->count; ++i) {
        if (!may_use(c, i, allowed, ask->budget))
            continue;
        if (i != c->raw && c->codecs[i].probes < PROBES) {
            ++c->codecs[i].probes;
            return i;
        }
        if (retry && shown_ns(c, wire, i, ask) < RETRY_WITH * best_ns &&
            (oldest == c->count || c->codecs[i].last_used < c->codecs[oldest].last_used))
            oldest = i;
    }
    return oldest;
}

/* Enough is left for a stretch. */
static bool enough_left(const struct kvw_choose_ask *ask)
{
    return ask->left >= (uint64_t)KVW_STRETCH_MIN * ask->raw_bytes;
}

/* With codec i it is the wire that is waited for, not what is still produced. */
static bool wire_bound(const struct kvw_chooser *c, const struct kvw_rate *wire, uint32_t i,
                       const struct kvw_choose_ask *ask)
{
    return ask->due_ns <= (double)ask->left * end_ns(c, wire, i);
}

/* Picks after which a loss, in times of the one in use, is TRIAL_COST of what was sent. */
static uint64_t pause_of(double loss)
{
    return (uint64_t)(KVW_STRETCH * max(loss, LOSS_MIN) / TRIAL_COST);
}

/* May it go on trial now? Where it could lose more than it could win, only when that is little
 * beside what was sent. */
static bool its_turn(struct kvw_chooser *c, const struct kvw_rate *wire, uint32_t i,
                     const struct kvw_choose_ask *ask, double best_ns, double now_ns)
{
    struct kvw_choice *k = &c->codecs[i];
    const double worst_ns = end_ns(c, wire, i);

    if (k->try_at == NOT_YET)
        k->try_at =
            worst_ns - now_ns < now_ns - best_ns || apart_ns(c, wire, i, ask) < BETTER * now_ns
                ? c->picks
                : c->picks + pause_of(worst_ns / now_ns - 1);
    return c->picks >= k->try_at;
}

/* Begin the most promising trial, if there is one. */
static void begin_trial(struct kvw_chooser *c, const struct kvw_rate *wire, uint64_t allowed,
                        const struct kvw_choose_ask *ask, double now_ns)
{
    double best = TRIAL * now_ns;

    for (uint32_t i = 0; i < c->count; ++i) {
        const double ns = at_best_ns(c, i, ask);

        if (i == c->current[ask->budget] || !may_use(c, i, allowed, ask->budget) ||
            c->codecs[i].ratio <= 0 || ns >= best || !its_turn(c, wire, i, ask, ns, now_ns))
            continue;
        best = ns;
        c->trial = i;
        c->trial_left = c->stretch.open ? 2 * KVW_STRETCH : KVW_STRETCH;
    }
}

/* The one that is on trial; count: none. */
static uint32_t on_trial(struct kvw_chooser *c, const struct kvw_rate *wire, uint64_t allowed,
                         const struct kvw_choose_ask *ask)
{
    const struct kvw_choice *now = beside(c, ask->budget);

    /* It must be the wire that is waited for, and long enough. */
    if (now == NULL || !enough_left(ask) || !wire_bound(c, wire, c->current[ask->budget], ask))
        return c->count;
    if (c->trial_left == 0)
        begin_trial(c, wire, allowed, ask, now->end_ps / 1000);
    if (c->trial_left == 0 || !may_use(c, c->trial, allowed, ask->budget))
        return c->count;
    --c->trial_left;
    return c->trial;
}

/* i is in use from now on, and what was measured beside another counts as beside it. */
static void take_up(struct kvw_chooser *c, uint32_t i)
{
    const struct kvw_choice *old = &c->codecs[c->in_use], *new = &c->codecs[i];

    if (i == c->in_use)
        return;
    if (old->end_ps > 0 && new->end_ps > 0) {
        const double times = new->end_ps / old->end_ps;

        for (uint32_t j = 0; j < c->count; ++j)
            c->codecs[j].beside_ps *= times;
        c->codecs[c->in_use].beside_ps = new->end_ps;
    }
    c->in_use = i;
}

/* Where the wire is so fast that what a codec costs counts, raw is measured before another is
 * used: first samples of a codec's cost are of cold code and untouched memory. */
static bool raw_comes_first(const struct kvw_chooser *c, const struct kvw_rate *wire, uint32_t i,
                            const struct kvw_choose_ask *ask)
{
    const struct kvw_choice *k = &c->codecs[i];

    return i != c->raw && c->codecs[c->raw].end_ps <= 0 && enough_left(ask) &&
           wire_bound(c, wire, c->raw, ask) &&
           k->encode_ps + k->decode_ps > SMALL * k->ratio * send_at_most(c, wire);
}

/* What part of from's time to's must be less than. */
static double margin(const struct kvw_chooser *c, const struct kvw_rate *wire,
                     const struct kvw_choose_ask *ask, uint32_t from, uint32_t to)
{
    if (!wire_bound(c, wire, from, ask))
        return PRODUCED;
    if (c->codecs[from].end_ps <= 0 || c->codecs[to].end_ps <= 0)
        return BETTER;
    return to == c->raw ? 1 : MEASURED;
}

/* The best by what is known, the one in use where others aren't clearly better. */
static uint32_t best_of(const struct kvw_chooser *c, const struct kvw_rate *wire, uint64_t allowed,
                        const struct kvw_choose_ask *ask, double *best_ns)
{
    const uint32_t current = c->current[ask->budget];
    uint32_t best = c->raw;
    double current_ns;

    *best_ns = shown_ns(c, wire, best, ask);
    for (uint32_t i = 0; wire->bytes_per_ns > 0 && i < c->count; ++i) {
        double ns;

        if (!may_use(c, i, allowed, ask->budget) || c->codecs[i].ratio <= 0 ||
            raw_comes_first(c, wire, i, ask))
            continue;
        ns = shown_ns(c, wire, i, ask);
        if (ns < *best_ns) {
            best = i;
            *best_ns = ns;
        }
    }
    if (may_use(c, current, allowed, ask->budget) && !raw_comes_first(c, wire, current, ask)) {
        current_ns = shown_ns(c, wire, current, ask);
        if (*best_ns > margin(c, wire, ask, current, best) * current_ns) {
            best = current;
            *best_ns = current_ns;
        }
    }
    return best;
}

uint32_t kvw_choose(struct kvw_chooser *c, const struct kvw_rate *wire, uint64_t allowed,
                    const struct kvw_choose_ask *ask)
{
    double best_ns;
    uint32_t best, pick;

    assert((allowed >> c->raw & 1) != 0);
    ++c->picks;
    best = best_of(c, wire, allowed, ask, &best_ns);
    c->current[ask->budget] = best;
    take_up(c, best);
    pick = to_be_probed(c, wire, allowed, ask, best_ns);
    if (pick == c->count)
        pick = on_trial(c, wire, allowed, ask);
    if (pick == c->count)
        pick = best;
    c->codecs[pick].last_used = c->picks;
    kvw_stretch_cut(&c->stretch, ask->now_ns);
    return pick;
}

/* The codec in use was measured: what was measured beside it long ago may hold no more. */
static void forget_changed(struct kvw_chooser *c, double level)
{
    for (uint32_t j = 0; j < c->count; ++j) {
        struct kvw_choice *k = &c->codecs[j];

        if (j == c->in_use || k->end_ps <= 0)
            continue;
        if (k->beside_ps <= 0)
            k->beside_ps = level;
        if (level > k->beside_ps * CHANGED || level < k->beside_ps / CHANGED) {
            k->end_ps = 0;
            k->end_samples = k->losses = 0;
            k->try_at = c->picks;
        }
    }
}

/* Beside the one in use. */
static void judge_trial(struct kvw_chooser *c, struct kvw_choice *k, double level)
{
    k->beside_ps = level;
    if (k->end_ps < MEASURED * level) {
        k->losses = 0;
        return;
    }
    k->try_at = c->picks + (pause_of(k->end_ps / level - 1) << k->losses);
    if (k->losses < DOUBLINGS)
        ++k->losses;
}

/* One slow stretch may be an accident; a second one, or a fast one, isn't. */
static void learn_end(struct kvw_choice *k, double ps)
{
    const bool slow = k->end_samples > 0 && ps > OUTLIER * k->end_ps;

    if ((slow && k->end_slow) || ps < k->end_ps / OUTLIER)
        k->end_samples = 0;
    else if (slow)
        ps = OUTLIER * k->end_ps;
    k->end_slow = slow;
    if (k->end_samples < COLD)
        ++k->end_samples;
    k->end_ps += (ps - k->end_ps) / k->end_samples;
}

void kvw_choose_delivered(struct kvw_chooser *c, uint32_t i, uint32_t raw_bytes, bool drained,
                          uint64_t now_ns)
{
    struct kvw_choice *k;
    double level = c->codecs[c->in_use].end_ps, ps;
    uint32_t of;

    if (!kvw_stretch_delivered(&c->stretch, i, raw_bytes, drained,
                               c->trial_left > 0 ? HOPELESS * level : 0, now_ns, &of, &ps))
        return;
    k = &c->codecs[of];
    learn_end(k, ps);
    level = c->codecs[c->in_use].end_ps;
    if (of == c->in_use)
        forget_changed(c, level);
    else if (level > 0)
        judge_trial(c, k, level);
    if (of == c->trial)
        c->trial_left = 0;
}

void kvw_choose_stop(struct kvw_chooser *c)
{
    kvw_stretch_stop(&c->stretch);
    c->trial_left = 0;
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
