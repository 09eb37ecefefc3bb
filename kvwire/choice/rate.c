/* SPDX-License-Identifier: Apache-2.0 */
#include "rate.h"

#define GAIN       0.25 /* of a sample that can be believed either way */
#define EXTRA_GAIN 0.125

void kvw_rate_sent(struct kvw_rate *r, struct kvw_rate_mark *m, uint32_t bytes, uint64_t now_ns)
{
    if (r->in_flight == 0)
        r->delivered_ns = now_ns; /* an idle wire delivers nothing; that isn't its rate */
    *m = (struct kvw_rate_mark){
        .delivered = r->delivered,
        .delivered_ns = r->delivered_ns,
        .sent_ns = now_ns,
        .ahead = r->in_flight,
        .bytes = bytes,
    };
    r->in_flight += bytes;
}

void kvw_rate_done(struct kvw_rate *r, const struct kvw_rate_mark *m, uint64_t now_ns)
{
    uint64_t took = now_ns > m->delivered_ns ? now_ns - m->delivered_ns : 1;
    double sample, extra;

    r->in_flight -= m->bytes < r->in_flight ? m->bytes : r->in_flight;
    r->delivered += m->bytes;
    r->delivered_ns = now_ns;
    if (m->delivered_ns ==
        m->sent_ns) /* began idle; what is left of it is never taken for nothing */
        took -= r->rtt_ns < took - took / 8 ? r->rtt_ns : took - took / 8;
    sample = (double)(r->delivered - m->delivered) / (double)took;
    if (r->bytes_per_ns <= 0)
        r->bytes_per_ns = sample;
    else if (sample > r->bytes_per_ns || m->ahead > 0)
        r->bytes_per_ns += (sample - r->bytes_per_ns) * GAIN;
    extra = (double)(now_ns - m->sent_ns) - (double)(m->ahead + m->bytes) / r->bytes_per_ns;
    if (extra < 0)
        extra = 0;
    r->extra_ns += (extra - r->extra_ns) * EXTRA_GAIN;
}

void kvw_rate_stop(struct kvw_rate *r)
{
    r->in_flight = 0;
}

double kvw_rate_ns(const struct kvw_rate *r, double bytes)
{
    return bytes / (r->bytes_per_ns > 0 ? r->bytes_per_ns : KVW_RATE_GUESS);
}
