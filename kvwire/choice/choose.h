/* SPDX-License-Identifier: Apache-2.0 */
/*
 * choose.h - which codec a chunk gets: the one with which the request's last chunk lands soonest,
 * of those that its budget allows.
 *
 * For each codec the chooser estimates when the request's last chunk will have landed:
 *
 *   T = max(due, queue + left s, left d) + chunk (e + r / B + d)
 *
 *   due    time until the last raw byte of the request is produced
 *   left   raw bytes of the request that aren't cut yet
 *   queue  time for what is cut and waits for encoders and wire
 *   chunk  raw bytes of this chunk
 *   B      the wire's rate                             measured: rate.h
 *   r      stream bytes / raw bytes of the codec       measured, by layer and K|V
 *   e, d   time to encode, to decode a raw byte        measured here; told by the receiver
 *   s      time a raw byte takes from end to end while there is always a next one
 *
 * It compares T - due, the part of the hand-over that isn't hidden behind prefill. A *stretch* is a
 * run of about 16 to 64 chunks of one codec, from which s is measured (stretch.h). A *trial* is a
 * stretch of a codec that is not the one in use. A formula can't know that both ends run on one
 * core, or that the "wire" is a memory copy, so a measured s overrules it. A codec without a
 * measured s is estimated as if everything shared one core: s = e + r / B + d.
 *
 * Five rules; names in capitals are constants of choose.c:
 *  1. Probe. Raw goes first. Once the wire's rate is known each codec gets PROBES chunks. Later one
 *     chunk in RETRY_EACH goes to the codec that was unused longest, if its T is at most RETRY_WITH
 *     times the best codec's.
 *  2. Raw first. A codec whose e + d is more than SMALL of its time on the wire isn't used before
 *     raw has a measured s. A cheaper codec is used as soon as its estimate wins.
 *  3. Trial. A codec that would beat the one in use by more than TRIAL allows if nothing were
 *     shared gets a trial. A trial whose time passes HOPELESS times that of the codec in use ends
 *     at half its length.
 *  4. Pause. A codec that loses a trial isn't tried again before the loss is TRIAL_COST of what was
 *     sent meanwhile. Each further loss doubles the pause, DOUBLINGS times at most. All that was
 *     measured of a codec is forgotten when the codec in use has become CHANGED times faster or
 *     slower since then.
 *  5. Switch. The codec in use is left for one that is better by MEASURED if both have a measured
 *     s, by BETTER if not, and by PRODUCED while production is what is waited for. Raw with a
 *     measured s is taken as soon as it is better at all.
 *
 * A known weakness: measurements of a codec that isn't in use grow old, so a raw that was slow once
 * by accident may be passed over for long.
 *
 * threads  one      memory  the caller's      time  none: durations are handed in
 */
#ifndef KVW_CHOOSE_H
#define KVW_CHOOSE_H

#include "../codec.h"
#include "rate.h"
#include "stretch.h"
#include "../wire.h"

#define KVW_BUDGETS 3u

struct kvw_choice {
    const struct kvw_codec_ops *ops;
    double encode_ps, decode_ps; /* a raw byte; 0: not yet known, counts as nothing */
    uint32_t encode_samples, decode_samples;
    double ratio; /* over all layers; 0: not known */
    uint64_t last_used;
    uint64_t chunks, raw_bytes, stream_bytes;
    uint64_t predicted_ns, actual_ns; /* sums, from the choice to PUT_DONE */
    uint32_t probes;
    /* a raw byte from end to end, measured; 0: not known */
    double end_ps;
    uint32_t end_samples;
    bool end_slow;    /* the last one was far slower than the others */
    double beside_ps; /* what the codec in use took when this was measured */
    uint64_t try_at;  /* pick before which there is no trial */
    uint32_t losses;  /* trials lost in a row */
};

struct kvw_chooser {
    struct kvw_choice codecs[KVW_CODECS_MAX];
    uint32_t count;
    uint32_t raw;     /* index of raw */
    uint16_t *ratios; /* [codec][layer][kv], 1/32768; 0: not known */
    uint32_t layers;
    uint64_t picks;
    uint32_t current[KVW_BUDGETS]; /* by budget */
    uint32_t in_use;               /* the latest of them */
    uint32_t trial, trial_left;    /* codec, chunks */
    struct kvw_stretch stretch;
};

struct kvw_choose_ask {
    uint32_t layer, kv;
    uint32_t raw_bytes;   /* this chunk */
    uint64_t left;        /* raw bytes of the request that aren't cut yet, this chunk's included */
    double due_ns;        /* until the request's last byte is produced, as far as can be told */
    uint64_t queued_wire; /* bytes */
    uint64_t queued_raw;  /* bytes waiting for encoders */
    uint32_t encoders;    /* threads; 0: the one that also moves the packets */
    kvw_budget budget;
    uint64_t now_ns;
};

/* Entries of c->ratios. */
static inline uint32_t kvw_chooser_ratios(uint32_t codecs, uint32_t layers)
{
    return codecs * layers * 2;
}

/* ratios: kvw_chooser_ratios() entries, any content. codecs must contain raw. */
void kvw_chooser_init(struct kvw_chooser *c, const struct kvw_codec_ops *const *codecs,
                      uint32_t count, uint32_t layers, uint16_t *ratios);

/* A chunk is being cut. allowed: bit i for codec i. Raw's bit must be set. Returns the index. */
uint32_t kvw_choose(struct kvw_chooser *c, const struct kvw_rate *wire, uint64_t allowed,
                    const struct kvw_choose_ask *ask);

/* When this chunk's PUT_DONE should come, from now, with codec i. */
double kvw_choose_predict_ns(const struct kvw_chooser *c, const struct kvw_rate *wire, uint32_t i,
                             const struct kvw_choose_ask *ask);

/* What encoding cost and brought. ns 0: nobody had a clock. */
void kvw_choose_encoded(struct kvw_chooser *c, uint32_t i, uint32_t layer, uint32_t kv,
                        uint32_t raw_bytes, uint32_t stream_bytes, uint64_t ns);
/* The same for a chunk that was decoded here. */
void kvw_choose_decoded(struct kvw_chooser *c, uint32_t i, uint32_t raw_bytes,
                        uint32_t stream_bytes, uint64_t ns);
/* A chunk's PUT_DONE; drained: none is under way any more, and nothing waits to be cut. */
void kvw_choose_delivered(struct kvw_chooser *c, uint32_t i, uint32_t raw_bytes, bool drained,
                          uint64_t now_ns);
/* The connection is gone. What was learnt stays. */
void kvw_choose_stop(struct kvw_chooser *c);
/* The receiver says what decoding costs it. */
void kvw_choose_told(struct kvw_chooser *c, uint32_t i, uint32_t decode_ps);

#endif
