/* SPDX-License-Identifier: Apache-2.0 */
/*
 * choose.h - which codec a chunk gets: the one with which the request's last chunk lands soonest,
 * of those that its budget allows.
 *
 * With B the wire's rate, and for a codec r = stream / raw (by layer and K|V) and e, d the time
 * that a raw byte costs to encode and to decode, all smoothed; for a request with `left` raw bytes
 * to go, of which the last is produced in `due`; and s the time that a raw byte takes from end to
 * end while there is always a next one: all ends after
 *
 *   T = max(due, queue + left s, left d) + chunk (e + r / B + d)
 *
 * and what is compared is T - due, the time that the hand-over shows. s is what was measured
 * (stretch.h), which holds what no model knows: ends that share cores, a wire that is a copy.
 * Until it is, it is foretold as e + r / B + d, which is no less than the truth, as if everything
 * shared one core; 1 / B is then the least that a measured codec took for a byte of its stream.
 *
 * Raw goes first; when the wire's rate is known, each codec is probed by two chunks, and later the
 * one unused longest by one chunk now and then, if it is not far off. Where e + d is little beside
 * r / B the best is used at once, elsewhere raw is measured before any other is used. One that
 * could win if nothing were shared is measured in a trial, a stretch long. One that loses it isn't
 * tried again before the loss is 0.5 % of what was sent meanwhile, and half as often after each
 * further loss. What was measured is forgotten when the codec in use has become much faster or
 * slower since. The codec in use is left only for one that is 4 % better, 10 % where that is
 * foretold; for raw, if it was measured, as soon as that is better. What was measured of a codec
 * not in use ages: a raw that was slow by accident may be passed over for long.
 *
 * threads  one      memory  the caller's      time  none: durations are handed in
 */
#ifndef KVW_CHOOSE_H
#define KVW_CHOOSE_H

#include "codec.h"
#include "rate.h"
#include "stretch.h"
#include "wire.h"

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

/* Index of the codec, or c->count. */
uint32_t kvw_choose_find(const struct kvw_chooser *c, uint8_t codec_id);

#endif
