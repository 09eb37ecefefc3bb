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
    p->says |= KVN_SAYS_CHALLENGE;
}

void kvn_path_challenged(struct kvn_path *p, uint64_t now_ns)
{
    const uint64_t wait = KVN_CHALLENGE_FIRST_NS << (p->challenges < 8 ? p->challenges : 8);

    ++p->challenges;
    p->says &= (uint8_t)~KVN_SAYS_CHALLENGE;
    p->challenge_at_ns = now_ns + (wait < KVN_CHALLENGE_MAX_NS ? wait : KVN_CHALLENGE_MAX_NS);
}

bool kvn_path_response(struct kvn_path *p, uint64_t token, uint64_t now_ns)
{
    if (p->challenge_at_ns == UINT64_MAX || token != p->challenge)
        return false;
    p->challenge_at_ns = UINT64_MAX;
    p->says &= (uint8_t)~KVN_SAYS_CHALLENGE;
    if (p->state == KVN_PATH_LIVE)
        return false;
    p->state = KVN_PATH_LIVE;
    p->progress_ns = now_ns;
    p->loss.probes = 0;
    return true;
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
