/* SPDX-License-Identifier: Apache-2.0 */
#include "conn.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "../port/steer.h"

uint64_t kvn_env_random64(struct kvn_env *env)
{
    uint64_t x = env->random += 0x9e3779b97f4a7c15ull; /* splitmix64 */

    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ x >> 27) * 0x94d049bb133111ebull;
    return x ^ x >> 31;
}

uint32_t kvn_env_random(struct kvn_env *env)
{
    uint32_t x;

    do
        x = (uint32_t)kvn_env_random64(env);
    while (x == 0);
    return x;
}

uint32_t kvn_env_local_id(struct kvn_env *env)
{
    uint32_t id;

    do
        id = kvn_env_random(env);
    while (kvn_steer_queue(id, env->cfg.queues) != env->cfg.queue);
    return id;
}

void kvn_env_share(struct kvn_env *env, uint32_t busy)
{
    const uint64_t least = (uint64_t)KVN_CREDIT_PACKETS * env->payload_max;
    uint64_t share = env->cfg.inflight_bytes / (busy > 1 ? busy : 1);

    if (share < least)
        share = least;
    env->window = share < env->cfg.inflight_bytes ? share : env->cfg.inflight_bytes;
}

uint64_t kvn_conn_window(const struct kvn_conn *c, const struct kvn_env *env)
{
    const struct kvn_loss *l = &c->path[0].loss;
    const uint64_t rtt = l->base_ns != UINT64_MAX ? l->base_ns : l->sampled ? l->srtt_ns : 0;

    return kvn_cc_reach(env->window, rtt, env->slack_ns);
}

/* The fields that every connection starts with; mem survives. */
static void begin(struct kvn_conn *c, struct kvn_env *env, const struct kvn_addr *peer)
{
    struct kvn_conn_memory *mem = c->mem;

    assert(c->state == KVN_CONN_FREE);
    memset(c, 0, sizeof(*c));
    c->mem = mem;
    c->env = env;
    for (uint32_t i = 0; i < KVN_PATHS_MAX; ++i)
        kvn_path_begin(&c->path[i], c, (uint8_t)i, mem->sent[i]);
    c->path[0].peer = *peer;
    c->local_id = kvn_env_local_id(env);
    c->began_ns = c->last_use_ns = env->now_ns;
    c->paths = 1;
    kvn_stream_out_begin(&c->stream_out, mem->stream_out, 0);
    kvn_stream_in_begin(&c->stream_in, mem->stream_in, mem->wrap);
    kvn_puts_out_begin(&c->puts_out, mem->puts_out);
    kvn_puts_in_begin(&c->puts_in, mem->puts_in, env->window);
}

void kvn_conn_connect(struct kvn_conn *c, struct kvn_env *env, const struct kvn_addr *peer,
                      uint32_t api_id)
{
    begin(c, env, peer);
    c->state = KVN_CONN_CONNECTING;
    c->api_id = api_id;
    c->version = kvn_versions_choose(env->cfg.versions, UINT16_MAX, 0);
    c->tried = (uint16_t)(1u << c->version);
    c->hello_bytes = env->payload_max;
    c->hello_due = true;
    kvn_timers_began(&c->timers, env->now_ns, env->cfg.connect_ns);
}

static uint32_t least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

static uint32_t slice_for(uint32_t wish, uint32_t payload)
{
    const uint32_t fits = (payload - KVN_DATA_BYTES) / KVN_SLICE_ALIGN * KVN_SLICE_ALIGN;

    wish = wish / KVN_SLICE_ALIGN * KVN_SLICE_ALIGN;
    return wish < fits ? wish : fits;
}

/* Longest packet that the ends have room for now, whatever the path carries. */
static uint32_t payload_limit(const struct kvn_conn *c)
{
    return least(c->payload, c->env->payload_max);
}

void kvn_conn_agree(struct kvn_conn *c, struct kvn_env *env, const struct kvn_hello *peer,
                    uint32_t proved)
{
    c->peer_id = peer->source;
    c->payload = least(env->takes, peer->payload);
    c->fits = least(proved, payload_limit(c));
    c->slice = slice_for(env->cfg.slice_bytes, c->fits);
    c->head_only = env->head_only && (peer->options & KVN_OPTION_HEAD_ONLY) != 0;
    c->stream_out.limit = peer->stream;
    kvn_puts_out_agreed(&c->puts_out, c->slice, peer->puts, peer->credit);
    c->paths = c->incoming ? peer->paths : env->sources;
    if (c->paths > peer->paths)
        c->paths = peer->paths;
    for (uint32_t i = 0; i < c->paths; ++i) {
        kvn_fit_begin(&c->path[i].fit, c->fits);
        kvn_path_agreed(&c->path[i], env, c->slice);
    }
}

void kvn_conn_accept(struct kvn_conn *c, struct kvn_env *env, const struct kvn_frame *hello,
                     const struct kvn_rx_packet *rx, uint32_t api_id)
{
    begin(c, env, &rx->from);
    c->state = KVN_CONN_ACCEPTING;
    c->api_id = api_id;
    c->incoming = true;
    c->version = hello->version;
    c->path[0].source = rx->source;
    c->hello_bytes = c->hello_least = least(rx->len, env->payload_max);
    kvn_conn_agree(c, env, &hello->hello, rx->len);
    c->hello_due = true;
    kvn_timers_began(&c->timers, env->now_ns, KVN_HALF_OPEN_NS);
}

/* What the handshake has proved is used, and more is asked for at once: it may have been a short
 * HELLO that was answered, at the end of a long dial. */
static void begin_to_search(struct kvn_conn *c)
{
    for (uint32_t i = 0; i < c->paths; ++i) {
        struct kvn_fit *fit = &c->path[i].fit;

        if (c->incoming)
            fit->payload = least(fit->payload, c->hello_least);
        if (fit->payload < payload_limit(c))
            kvn_fit_search_now(fit, c->env->now_ns);
    }
    kvn_conn_refit(c, c->env);
    kvn_timers_search(&c->timers, 0);
}

void kvn_conn_up(struct kvn_conn *c, struct kvn_env *env)
{
    c->state = KVN_CONN_UP;
    c->up_due = true;
    c->path[0].state = KVN_PATH_LIVE;
    c->path[0].progress_ns = env->now_ns;
    if (c->hellos == 1) {
        kvn_loss_guess(&c->path[0].loss, env->now_ns - c->hello_ns, env->now_ns);
        kvn_cc_guess(&c->path[0].cc, c->path[0].loss.srtt_ns);
    }
    /* The client asks for its other paths; the listener answers each as it comes. */
    for (uint32_t i = 1; i < c->paths && !c->incoming; ++i) {
        c->path[i].state = KVN_PATH_UNSURE;
        c->path[i].source = (uint8_t)i;
        c->path[i].peer = c->path[0].peer;
        kvn_path_challenge(&c->path[i], kvn_env_random64(env), env->now_ns);
    }
    kvn_timers_up(&c->timers);
    kvn_timers_heard(&c->timers, env->now_ns, env->cfg.dead_ns);
    kvn_note_conn(c, "up");
    begin_to_search(c);
}

void kvn_conn_end_memory(struct kvn_conn *c)
{
    if (c->env == NULL)
        return; /* it never began */
    kvn_puts_in_end(&c->puts_in);
    kvn_puts_out_end(&c->puts_out);
    for (uint32_t i = 0; i < KVN_PATHS_MAX; ++i)
        kvn_inflight_end(&c->path[i].out);
}

void kvn_conn_free(struct kvn_conn *c)
{
    kvn_conn_end_memory(c);
    kvn_timers_stop(&c->timers);
    c->state = KVN_CONN_FREE;
    c->hello_due = c->goodbye_due = false;
    c->local_id = 0;
    c->api_id = 0;
}

void kvn_conn_end(struct kvn_conn *c, struct kvn_env *env, kvw_err err, bool tell, const char *text)
{
    if (c->state == KVN_CONN_ACCEPTING) { /* nobody has heard of it */
        kvn_conn_free(c);
        return;
    }
    if (c->state != KVN_CONN_CONNECTING && c->state != KVN_CONN_UP)
        return;
    c->state = KVN_CONN_ENDED;
    c->err = err;
    c->farewell = err;
    c->down_due = true;
    c->hello_due = false;
    c->repeats_goodbye = tell;
    c->goodbye_due = tell && c->peer_id != 0;
    snprintf(c->text, sizeof(c->text), "%s", text);
    kvn_puts_out_fail(&c->puts_out, KVW_E_PEER_LOST);
    kvn_timers_ended(&c->timers, env->now_ns, true);
    kvn_note_conn(c, c->text);
}

void kvn_conn_disconnect(struct kvn_conn *c, struct kvn_env *env)
{
    kvn_conn_end(c, env, KVW_OK, true, "this side disconnected");
    c->down_due = c->up_due = false;
}

void kvn_conn_ack_soon(struct kvn_conn *c)
{
    for (uint32_t i = 0; i < c->paths; ++i)
        if (c->path[i].state == KVN_PATH_LIVE && c->path[i].seen.largest > 0) {
            c->path[i].seen.due = true;
            return;
        }
}

void kvn_conn_release(struct kvn_conn *c)
{
    if (c->state == KVN_CONN_UP) {
        if (kvn_stream_in_reopened(&c->stream_in))
            kvn_conn_ack_soon(c);
        kvn_stream_in_release(&c->stream_in);
    }
}

/* What becomes of something that was sent. */
static void arrived(void *arg, const struct kvn_sent *s, uint64_t pn, bool late)
{
    struct kvn_path *p = arg;
    struct kvn_conn *c = p->conn;

    if (late) {
        kvn_loss_was_late(&p->loss, p->out.largest_acked - pn);
        kvn_cc_late(&p->cc, s->bytes);
        ++p->late;
        p->nack_doubt += s->nacked && p->nack_doubt < KVN_NACK_DOUBT_MAX;
    }
    if (s->bytes > KVN_PAYLOAD_MIN)
        kvn_fit_arrived(&p->fit, s->sent_ns);
    if (s->kind == KVN_SENT_DATA)
        kvn_puts_out_arrived(&c->puts_out, (uint32_t)s->what, s->part, s->cut);
    else if (s->kind == KVN_SENT_MSG)
        kvn_stream_out_arrived(&c->stream_out, s->what, s->part);
    else if (s->part != 0) {
        kvn_fit_probe_arrived(&p->fit, s->part);
        kvn_timers_search(&c->timers, 0);
    }
}

static void lost(void *arg, const struct kvn_sent *s)
{
    struct kvn_path *p = arg;
    struct kvn_conn *c = p->conn;

    kvn_note_lost(arg, s);
    if (s->bytes > KVN_PAYLOAD_MIN)
        kvn_fit_lost(&p->fit, s->sent_ns);
    if (s->kind == KVN_SENT_DATA)
        kvn_puts_out_lost(&c->puts_out, (uint32_t)s->what, s->part, s->cut);
    else if (s->kind == KVN_SENT_MSG)
        kvn_stream_out_lost(&c->stream_out, s->what, s->part);
    else if (s->part != 0) {
        kvn_fit_probe_lost(&p->fit, s->part, p->acked_ns > s->sent_ns);
        kvn_timers_search(&c->timers, 0);
    }
}

const struct kvn_inflight_events kvn_conn_inflight_events = {.arrived = arrived, .lost = lost};

/* Something is held back by what the peer said last, and that may have been lost. */
static bool blocked(const struct kvn_conn *c)
{
    return kvn_stream_out_blocked(&c->stream_out) || kvn_puts_out_blocked(&c->puts_out);
}

static uint64_t probe_at(const struct kvn_path *p)
{
    if (p->state != KVN_PATH_LIVE || (p->out.packets == 0 && !blocked(p->conn)))
        return UINT64_MAX;
    return kvn_loss_probe_at(&p->loss, p->out.last_asking_ns);
}

/* When the peer is told what is missing: a put has begun and doesn't go on. The sender would notice
 * by itself, but later: to it, silence may be a peer that isn't on its core. */
static uint64_t stall_at(const struct kvn_conn *c)
{
    const uint64_t least = c->env->slack_ns > 0 ? KVN_STALL_SHARED_NS : KVN_STALL_NS;

    if (c->puts_in.open == 0 || c->nacks >= KVN_STALL_NACKS)
        return UINT64_MAX;
    for (uint32_t i = 0; i < c->paths; ++i)
        if (c->path[i].state == KVN_PATH_LIVE) {
            const uint64_t turn = 2 * c->path[i].loss.srtt_ns;

            return c->last_data_ns + ((turn > least ? turn : least) << c->nacks);
        }
    return UINT64_MAX;
}

static void stalled(struct kvn_conn *c)
{
    uint32_t i = 0;

    if (stall_at(c) > c->env->now_ns)
        return; /* a slice has come since the timer was set */
    while (c->path[i].state != KVN_PATH_LIVE)
        ++i;
    c->path[i].due |= KVN_DUE_NACK;
    ++c->nacks;
}

void kvn_conn_rearm(struct kvn_conn *c)
{
    uint64_t loss = UINT64_MAX, probe = UINT64_MAX, challenge = UINT64_MAX;

    for (uint32_t i = 0; i < c->paths; ++i) {
        const struct kvn_path *p = &c->path[i];
        const uint64_t at = probe_at(p);

        loss = p->loss.loss_at_ns < loss ? p->loss.loss_at_ns : loss;
        probe = at < probe ? at : probe;
        challenge = p->challenge_at_ns < challenge ? p->challenge_at_ns : challenge;
    }
    kvn_timers_flight(&c->timers, loss, probe, challenge);
    kvn_timers_stall(&c->timers, stall_at(c));
}

void kvn_path_agreed(struct kvn_path *p, const struct kvn_env *env, uint32_t slice)
{
    kvn_cc_begin(&p->cc, slice + KVN_DATA_BYTES, env->slack_ns, env->cfg.inflight_bytes);
    kvn_path_ask_every(p);
}

void kvn_conn_refit(struct kvn_conn *c, struct kvn_env *env)
{
    uint32_t fits = payload_limit(c);

    for (uint32_t i = 0; i < c->paths; ++i)
        if (c->path[i].state == KVN_PATH_LIVE)
            fits = least(fits, c->path[i].fit.payload);
    if (fits == c->fits)
        return;
    for (uint32_t i = 0; i < c->paths && fits > c->fits; ++i)
        kvn_loss_longer(&c->path[i].loss);
    c->fits = fits;
    c->slice = slice_for(env->cfg.slice_bytes, fits);
    kvn_note_payload(c);
    kvn_puts_out_recut(&c->puts_out, c->slice);
    for (uint32_t i = 0; i < c->paths; ++i) {
        kvn_cc_slice(&c->path[i].cc, c->slice + KVN_DATA_BYTES);
        kvn_path_ask_every(&c->path[i]);
    }
}

/* The path carries no longer packets than these; what is out and longer won't arrive. */
static void path_shrinks(struct kvn_path *p, struct kvn_env *env, uint32_t payload)
{
    for (uint64_t pn = kvn_inflight_low(&p->out); pn < p->out.next; ++pn) {
        const struct kvn_sent *s = kvn_inflight_at(&p->out, pn);

        if (s->state == KVN_SENT_FLYING &&
            (s->kind == KVN_SENT_PING ? s->part : s->bytes) > payload) {
            ++env->stats.packets_lost;
            kvn_inflight_lose(&p->out, pn, &kvn_conn_inflight_events, p);
        }
    }
    p->due &= (uint8_t)~KVN_DUE_PROBE;
    kvn_fit_fall(&p->fit, payload, env->now_ns);
    kvn_timers_search(&p->conn->timers, 0);
}

/* Long packets were lost, perhaps because they are long. */
static void mind_the_hole(struct kvn_path *p, struct kvn_env *env)
{
    if (kvn_fit_hole(&p->fit, p->acked_ns, env->now_ns)) {
        path_shrinks(p, env, KVN_PAYLOAD_MIN);
        kvn_conn_refit(p->conn, env);
    }
}

void kvn_conn_payload_max(struct kvn_conn *c, struct kvn_env *env)
{
    if (c->state != KVN_CONN_UP)
        return;
    for (uint32_t i = 0; i < c->paths; ++i) {
        if (c->path[i].fit.payload > env->payload_max)
            path_shrinks(&c->path[i], env, env->payload_max);
        else
            kvn_fit_search_now(&c->path[i].fit, env->now_ns);
    }
    kvn_conn_refit(c, env);
    kvn_timers_search(&c->timers, 0);
}

/* Longer packets are tried on the paths that carry less than both ends can take. */
static void search(struct kvn_conn *c, struct kvn_env *env)
{
    uint64_t at = UINT64_MAX;

    for (uint32_t i = 0; i < c->paths; ++i) {
        struct kvn_path *p = &c->path[i];

        if (p->state == KVN_PATH_LIVE && kvn_fit_search(&p->fit, payload_limit(c), env->now_ns))
            p->due |= KVN_DUE_PROBE;
        else if (p->fit.trying == 0)
            p->due &= (uint8_t)~KVN_DUE_PROBE; /* one that was late has answered in its stead */
        if (p->state == KVN_PATH_LIVE && p->fit.search_at_ns < at)
            at = p->fit.search_at_ns;
    }
    kvn_timers_search(&c->timers, at);
    kvn_conn_refit(c, env);
}

/* Late arrivals are not worth a record when records run short. What is in flight is: a path that
 * holds more than three quarters of them can make use of as many again. */
__attribute__((cold, noinline)) static void short_of_records(struct kvn_path *p,
                                                             const struct kvn_env *env)
{
    kvn_inflight_trim(&p->out, UINT64_MAX);
    if (p->out.next - p->out.base > p->out.half + p->out.half / 2)
        (void)kvn_inflight_grow(&p->out, env->cfg.sent_max);
}

void kvn_path_detect(struct kvn_path *p, struct kvn_env *env)
{
    const uint32_t before = p->out.packets;
    const uint64_t bytes =
        kvn_loss_detect(&p->loss, &p->out, env->now_ns, &kvn_conn_inflight_events, p);

    if (p->out.next - p->out.base > p->out.half)
        short_of_records(p, env);
    env->stats.packets_lost += before - p->out.packets;
    if (bytes == 0)
        return; /* nothing, or probes of a length, which weigh nothing */
    kvn_cc_lost(&p->cc, bytes);
    mind_the_hole(p, env);
}

/* Whether it is this path that doesn't answer, and not the peer: another one did since, or wasn't
 * asked. */
static bool others_work(const struct kvn_conn *c, const struct kvn_path *but)
{
    for (uint32_t i = 0; i < c->paths; ++i) {
        const struct kvn_path *p = &c->path[i];

        if (p != but && p->state == KVN_PATH_LIVE &&
            (p->out.packets == 0 || p->acked_ns > but->out.last_asking_ns))
            return true;
    }
    return false;
}

/* Nothing of what is out arrives any more. */
static void lose_all(struct kvn_path *p, struct kvn_env *env)
{
    uint64_t pn;

    while ((pn = kvn_inflight_oldest(&p->out)) != 0) {
        ++env->stats.packets_lost;
        kvn_inflight_lose(&p->out, pn, &kvn_conn_inflight_events, p);
    }
}

/* A listener has one address for all paths of a connection. Those that don't work, which are asked
 * before they carry anything, look for it where one that works has it. */
static void share_address(struct kvn_conn *c)
{
    const struct kvn_path *live = NULL;

    for (uint32_t i = 0; i < c->paths && !c->incoming && live == NULL; ++i)
        live = c->path[i].state == KVN_PATH_LIVE ? &c->path[i] : NULL;
    for (uint32_t i = 0; i < c->paths && live != NULL; ++i)
        if (c->path[i].state != KVN_PATH_LIVE)
            c->path[i].peer = live->peer;
}

void kvn_conn_path_moved(struct kvn_path *p, struct kvn_env *env)
{
    struct kvn_conn *c = p->conn;

    lose_all(p, env);
    kvn_path_moved(p, env->now_ns);
    kvn_path_agreed(p, env, c->slice);
    kvn_note_path(p, "moved");
    share_address(c);
    kvn_conn_refit(c, env);
    kvn_timers_search(&c->timers, 0); /* what the new way carries has to be found out */
}

/* This path is silent and others aren't: what is on it goes to them, until it answers again. */
static void path_down(struct kvn_path *p, struct kvn_env *env)
{
    lose_all(p, env);
    p->state = KVN_PATH_DOWN;
    kvn_note_path(p, "down");
    share_address(p->conn);
    p->due &= (uint8_t) ~(KVN_DUE_PING | KVN_DUE_PROBE | KVN_DUE_NACK);
    kvn_fit_fall(&p->fit, p->fit.payload, env->now_ns);
    kvn_conn_refit(p->conn, env);
    p->loss.loss_at_ns = UINT64_MAX;
    p->ping_due = false;
    p->probe_credit = 0;
    kvn_path_challenge(p, kvn_env_random64(env), env->now_ns);
}

/* Nothing came back for too long: send the two oldest again, whatever the window says. */
static void probe(struct kvn_path *p, struct kvn_env *env)
{
    /* Time alone proves nothing: this side may have been stopped. */
    if (p->out.packets > 0 && p->loss.probes >= KVN_STUCK_PROBES &&
        env->now_ns - p->progress_ns > 4 * env->cfg.dead_ns) {
        kvn_conn_end(p->conn, env, KVW_E_PEER_LOST, true,
                     "the peer is alive, but nothing this side sends arrives (path MTU?)");
        return;
    }
    ++p->count.probes;
    if (++p->loss.probes > KVN_PATH_PROBES && others_work(p->conn, p)) {
        path_down(p, env);
        return;
    }
    for (int i = 0; i < 2; ++i) {
        const uint64_t pn = kvn_inflight_oldest(&p->out);
        if (pn == 0)
            break;
        kvn_inflight_lose(&p->out, pn, &kvn_conn_inflight_events, p);
    }
    if (p->fit.lost > 0 && p->fit.payload > KVN_PAYLOAD_MIN)
        p->due |= KVN_DUE_PING; /* tells a path that carries no long packets from a dead one */
    mind_the_hole(p, env);
    p->probe_credit = 2;
    p->ping_due = true; /* in case what was lost needs no second copy */
}

static bool names(const struct kvn_nack *nack, const struct kvn_sent *s)
{
    for (uint32_t i = 0; i < nack->count; ++i)
        if (nack->missing[i].put == (uint32_t)s->what &&
            s->part - nack->missing[i].first < nack->missing[i].count)
            return true;
    return false;
}

/* What left a round trip ago had arrived when the NACK was sent, or never will; each time that
 * proves wrong it must be twice as old. */
static void path_nacked(struct kvn_path *p, struct kvn_env *env, const struct kvn_nack *nack)
{
    const uint64_t delay = kvn_loss_delay(&p->loss) << p->nack_doubt;
    const uint64_t bytes = p->out.bytes;
    const uint32_t packets = p->out.packets;

    for (uint64_t pn = kvn_inflight_low(&p->out); pn < p->out.next; ++pn) {
        struct kvn_sent *s = kvn_inflight_at(&p->out, pn);

        if (s->sent_ns + delay > env->now_ns)
            break; /* nor are those after it old enough */
        if (s->state == KVN_SENT_FLYING && s->kind == KVN_SENT_DATA && names(nack, s)) {
            s->nacked = true;
            kvn_inflight_lose(&p->out, pn, &kvn_conn_inflight_events, p);
        }
    }
    if (packets == p->out.packets)
        return;
    env->stats.packets_lost += packets - p->out.packets;
    kvn_cc_lost(&p->cc, bytes - p->out.bytes);
    mind_the_hole(p, env);
    /* As much as a probe without an answer, which what goes by this path now would put off. */
    if (++p->loss.probes > KVN_PATH_PROBES && others_work(p->conn, p))
        path_down(p, env);
}

void kvn_conn_nacked(struct kvn_conn *c, struct kvn_env *env, const struct kvn_nack *nack)
{
    if (env->now_ns - c->nacked_ns < KVN_STALL_NS)
        return; /* each is a walk over all that is out */
    c->nacked_ns = env->now_ns;
    for (uint32_t i = 0; i < c->paths; ++i)
        path_nacked(&c->path[i], env, nack);
}

static void hello_timer(struct kvn_conn *c, struct kvn_env *env)
{
    const uint64_t waited = env->now_ns - c->began_ns;
    uint32_t size = env->payload_max;

    /* Perhaps the path carries no packets of this size: what is left of the time goes to smaller
     * ones, and whatever is answered, longer packets are tried afterwards. */
    if (waited > env->cfg.connect_ns * 3 / 4)
        size = KVN_PAYLOAD_MIN;
    else if (waited > env->cfg.connect_ns / 2 && size > 1452)
        size = 1452;
    c->hello_bytes = size;
    c->hello_due = true;
}

static void down_by_silence(struct kvn_conn *c, struct kvn_env *env)
{
    char text[192], addr[KVN_ADDR_TEXT_BYTES];

    if (c->state == KVN_CONN_CONNECTING)
        snprintf(text, sizeof(text), "no answer from %s within %llu ms",
                 kvn_addr_format(&c->path[0].peer, addr),
                 (unsigned long long)(env->cfg.connect_ns / 1000000));
    else
        snprintf(text, sizeof(text), "nothing heard from %s for %llu ms",
                 kvn_addr_format(&c->path[0].peer, addr),
                 (unsigned long long)(env->cfg.dead_ns / 1000000));
    kvn_conn_end(c, env, KVW_E_PEER_LOST, true, text);
}

static void run_path_timers(struct kvn_path *p, struct kvn_env *env)
{
    if (p->loss.loss_at_ns <= env->now_ns)
        kvn_path_detect(p, env);
    if (probe_at(p) <= env->now_ns)
        probe(p, env);
    if (p->challenge_at_ns <= env->now_ns)
        p->due |= KVN_DUE_CHALLENGE;
}

static void run_up_timers(struct kvn_conn *c, struct kvn_env *env)
{
    const uint64_t now = env->now_ns;

    if (kvn_timers_due(&c->timers, KVN_TIMER_DEAD, now)) {
        down_by_silence(c, env);
        return;
    }
    for (uint32_t i = 0; i < c->paths && c->state == KVN_CONN_UP; ++i)
        run_path_timers(&c->path[i], env);
    if (c->state != KVN_CONN_UP)
        return;
    if (kvn_timers_due(&c->timers, KVN_TIMER_SEARCH, now))
        search(c, env);
    if (kvn_timers_due(&c->timers, KVN_TIMER_STALL, now))
        stalled(c);
    if (kvn_timers_due(&c->timers, KVN_TIMER_ACK, now)) {
        kvn_timers_ack_sent(&c->timers);
        for (uint32_t i = 0; i < c->paths; ++i)
            c->path[i].seen.due |= c->path[i].seen.unacked > 0;
    }
    if (kvn_timers_due(&c->timers, KVN_TIMER_PING, now)) {
        kvn_timers_pinged(&c->timers, now, env->cfg.dead_ns);
        for (uint32_t i = 0; i < c->paths; ++i)
            c->path[i].ping_due |= c->path[i].state == KVN_PATH_LIVE;
    }
}

void kvn_conn_run_timers(struct kvn_conn *c, struct kvn_env *env)
{
    switch (c->state) {
    case KVN_CONN_CONNECTING:
        if (kvn_timers_due(&c->timers, KVN_TIMER_CONNECT, env->now_ns))
            down_by_silence(c, env);
        else if (kvn_timers_due(&c->timers, KVN_TIMER_HELLO, env->now_ns))
            hello_timer(c, env);
        break;
    case KVN_CONN_ACCEPTING:
        if (kvn_timers_due(&c->timers, KVN_TIMER_CONNECT, env->now_ns))
            kvn_conn_free(c);
        break;
    case KVN_CONN_UP:
        run_up_timers(c, env);
        break;
    case KVN_CONN_ENDED:
        if (kvn_timers_due(&c->timers, KVN_TIMER_LINGER, env->now_ns) && !kvn_conn_has_event(c))
            kvn_conn_free(c);
        break;
    case KVN_CONN_FREE:
        break;
    }
}

/* Whether messages and PUT_LANDED are still of interest: until this side disconnects. */
static bool hears(const struct kvn_conn *c)
{
    return c->state == KVN_CONN_UP || (c->state == KVN_CONN_ENDED && c->down_due);
}

bool kvn_conn_has_event(const struct kvn_conn *c)
{
    return c->up_due || c->down_due || c->puts_out.done_head != UINT32_MAX ||
           (hears(c) &&
            (c->puts_in.landed_head != UINT32_MAX || kvn_stream_in_ready(&c->stream_in)));
}

bool kvn_conn_next_event(struct kvn_conn *c, struct kvn_env *env, struct kvw_transport_event *ev)
{
    const struct kvn_data *landed;
    kvw_err err;

    *ev = (struct kvw_transport_event){.conn = {c->api_id}, .incoming = c->incoming};
    if (c->up_due) {
        c->up_due = false;
        ev->kind = KVW_TEV_CONN_UP;
        return true;
    }
    if (hears(c)) {
        err = kvn_stream_in_next(&c->stream_in, &ev->msg, &ev->bytes);
        if (err == KVW_OK) {
            ev->kind = KVW_TEV_MESSAGE;
            return true;
        }
        if (err == KVW_E_PROTOCOL)
            kvn_conn_end(c, env, KVW_E_PROTOCOL, true, "the peer sent a message of a wrong length");
        landed = kvn_puts_in_next_landed(&c->puts_in);
        if (landed != NULL) {
            ev->kind = KVW_TEV_PUT_LANDED;
            ev->offset = landed->offset;
            ev->bytes = landed->bytes;
            ev->imm = landed->imm;
            return true;
        }
    }
    if (kvn_puts_out_next_done(&c->puts_out, &ev->cookie, &ev->err)) {
        ev->kind = KVW_TEV_PUT_DONE;
        return true;
    }
    if (c->down_due) {
        c->down_due = false;
        ev->kind = KVW_TEV_CONN_DOWN;
        ev->err = c->err;
        ev->text = c->text;
        return true;
    }
    return false;
}
