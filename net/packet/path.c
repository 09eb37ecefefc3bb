/* SPDX-License-Identifier: Apache-2.0 */
#include "path.h"

#include <string.h>

void kvn_path_begin(struct kvn_path *p, struct kvn_conn *conn, uint8_t id, struct kvn_sent *ring)
{
    memset(p, 0, sizeof(*p));
    p->conn = conn;
    p->id = id;
    p->challenge_at_ns = UINT64_MAX;
    kvn_seen_begin(&p->seen);
    kvn_inflight_begin(&p->out, ring);
    kvn_loss_begin(&p->loss);
    kvn_fit_begin(&p->fit, KVN_PAYLOAD_MIN);
}

void kvn_path_challenge(struct kvn_path *p, uint64_t token, uint64_t now_ns)
{
    p->challenge = token;
    p->challenges = 0;
    p->challenge_at_ns = now_ns;
    p->due |= KVN_DUE_CHALLENGE;
}

void kvn_path_challenged(struct kvn_path *p, uint64_t now_ns)
{
    const uint64_t wait = KVN_CHALLENGE_FIRST_NS << (p->challenges < 8 ? p->challenges : 8);

    ++p->challenges;
    p->due &= (uint8_t)~KVN_DUE_CHALLENGE;
    p->challenge_at_ns = now_ns + (wait < KVN_CHALLENGE_MAX_NS ? wait : KVN_CHALLENGE_MAX_NS);
}

bool kvn_path_response(struct kvn_path *p, uint64_t token, uint64_t now_ns)
{
    if (p->challenge_at_ns == UINT64_MAX || token != p->challenge)
        return false;
    p->challenge_at_ns = UINT64_MAX;
    p->due &= (uint8_t)~KVN_DUE_CHALLENGE;
    if (p->state == KVN_PATH_LIVE)
        return false;
    p->state = KVN_PATH_LIVE;
    p->progress_ns = now_ns;
    p->loss.probes = 0;
    return true;
}

void kvn_path_suspect(struct kvn_path *p, const struct kvn_addr *from, uint8_t source,
                      uint64_t token, uint64_t now_ns)
{
    struct kvn_path_move *m = &p->move;

    /* One question at a time, so that it can be answered, and few, as its source may be forged. */
    if (m->to.family != 0 && now_ns - m->asked_ns < KVN_CHALLENGE_FIRST_NS)
        return;
    if (!kvn_addr_equal(&m->to, from))
        m->token = token;
    m->to = *from;
    m->source = source;
    m->asked_ns = now_ns;
    p->due |= KVN_DUE_WHO;
}

bool kvn_path_proved(const struct kvn_path *p, const struct kvn_addr *from, uint64_t token)
{
    return p->move.to.family != 0 && token == p->move.token && kvn_addr_equal(&p->move.to, from);
}

void kvn_path_moved(struct kvn_path *p, uint64_t now_ns)
{
    kvn_inflight_trim(&p->out, UINT64_MAX); /* what may still come in late went another way */
    p->peer = p->move.to;
    p->source = p->move.source;
    p->move.to.family = 0;
    p->state = KVN_PATH_LIVE;
    p->due &= KVN_DUE_RESPONSE;
    p->challenge_at_ns = UINT64_MAX;
    p->probe_credit = p->since_asked = p->nack_doubt = 0;
    p->ping_due = true;
    p->progress_ns = now_ns;
    p->seen.due = p->seen.largest > 0; /* the peer has waited for an answer long enough */
    kvn_loss_begin(&p->loss);
    kvn_fit_begin(&p->fit, KVN_PAYLOAD_MIN);
    kvn_fit_search_now(&p->fit, now_ns);
    ++p->count.moves;
}

void kvn_path_ask_every(struct kvn_path *p)
{
    const uint64_t quarter = p->cc.window / p->cc.slice / 4;

    p->ask_every = quarter > 16 ? 16 : quarter < 1 ? 1 : (uint32_t)quarter;
}

uint64_t kvn_path_record(struct kvn_path *p, const struct kvn_sent *sent)
{
    if (p->out.packets == 0)
        p->progress_ns = sent->sent_ns;
    return kvn_inflight_add(&p->out, sent);
}
