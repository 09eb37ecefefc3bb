/* SPDX-License-Identifier: Apache-2.0 */
#include "conn.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

uint32_t kvn_env_random(struct kvn_env *env)
{
    uint64_t x;

    do { /* splitmix64 */
        x = env->random += 0x9e3779b97f4a7c15ull;
        x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
        x = (x ^ x >> 27) * 0x94d049bb133111ebull;
        x ^= x >> 31;
    } while ((uint32_t)x == 0);
    return (uint32_t)x;
}

/* The fields that every connection starts with; mem survives. */
static void begin(struct kvn_conn *c, struct kvn_env *env, const struct kvn_addr *peer)
{
    struct kvn_conn_memory *mem = c->mem;

    assert(c->state == KVN_CONN_FREE);
    memset(c, 0, sizeof(*c));
    c->mem = mem;
    c->peer = *peer;
    c->local_id = kvn_env_random(env);
    c->began_ns = env->now_ns;
    c->progress_ns = env->now_ns;
    c->seen.floor = 1; /* numbers start at 1 */
    kvn_inflight_begin(&c->out, mem->sent);
    kvn_loss_begin(&c->loss);
    kvn_stream_out_begin(&c->stream_out, mem->stream_out, 0);
    kvn_stream_in_begin(&c->stream_in, mem->stream_in, mem->wrap);
    kvn_puts_out_begin(&c->puts_out, mem->puts_out);
    kvn_puts_in_begin(&c->puts_in, mem->puts_in, KVN_SLICE_MIN);
}

void kvn_conn_connect(struct kvn_conn *c, struct kvn_env *env, const struct kvn_addr *peer,
                      uint32_t api_id)
{
    begin(c, env, peer);
    c->state = KVN_CONN_CONNECTING;
    c->api_id = api_id;
    c->payload = env->payload_max;
    c->hello_due = true;
    kvn_timers_began(&c->timers, env->now_ns, env->cfg.connect_ns);
}

static uint32_t slice_for(uint32_t wish, uint32_t payload)
{
    const uint32_t fits = (payload - KVN_DATA_BYTES) / KVN_SLICE_ALIGN * KVN_SLICE_ALIGN;

    wish = wish / KVN_SLICE_ALIGN * KVN_SLICE_ALIGN;
    return wish < fits ? wish : fits;
}

/* Both sides compute both slices from what HELLO and HELLO_ACK said (SPEC.md 4). */
void kvn_conn_agree(struct kvn_conn *c, struct kvn_env *env, const struct kvn_hello *peer)
{
    const uint32_t ceiling =
        peer->inflight < env->cfg.inflight_bytes ? peer->inflight : env->cfg.inflight_bytes;

    c->peer_id = peer->source;
    if (peer->payload < c->payload)
        c->payload = peer->payload;
    c->slice = slice_for(env->cfg.slice_bytes, c->payload);
    c->puts_in.slice = slice_for(peer->slice, c->payload);
    c->stream_out.limit = peer->stream;
    kvn_puts_out_agreed(&c->puts_out, c->slice, peer->puts);
    kvn_cc_begin(&c->cc, c->slice, ceiling);
}

void kvn_conn_accept(struct kvn_conn *c, struct kvn_env *env, const struct kvn_hello *hello,
                     const struct kvn_addr *from, uint32_t api_id)
{
    begin(c, env, from);
    c->state = KVN_CONN_ACCEPTING;
    c->api_id = api_id;
    c->incoming = true;
    c->payload = env->payload_max;
    kvn_conn_agree(c, env, hello);
    c->hello_due = true;
    kvn_timers_began(&c->timers, env->now_ns, KVN_HALF_OPEN_NS);
}

void kvn_conn_up(struct kvn_conn *c, struct kvn_env *env)
{
    c->state = KVN_CONN_UP;
    c->up_due = true;
    c->progress_ns = env->now_ns;
    kvn_timers_up(&c->timers);
    kvn_timers_heard(&c->timers, env->now_ns, env->cfg.dead_ns);
}

void kvn_conn_free(struct kvn_conn *c)
{
    kvn_puts_in_end(&c->puts_in);
    kvn_timers_stop(&c->timers);
    c->state = KVN_CONN_FREE;
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
    c->hello_due = c->ping_due = false;
    c->seen.due = false;
    c->answers = tell;
    c->goodbye_due = tell && c->peer_id != 0;
    snprintf(c->text, sizeof(c->text), "%s", text);
    kvn_puts_out_fail(&c->puts_out, KVW_E_PEER_LOST);
    kvn_timers_ended(&c->timers, env->now_ns, true);
}

void kvn_conn_disconnect(struct kvn_conn *c, struct kvn_env *env)
{
    kvn_conn_end(c, env, KVW_OK, true, "this side disconnected");
    c->down_due = c->up_due = false;
}

void kvn_conn_release(struct kvn_conn *c)
{
    if (c->state == KVN_CONN_UP) {
        if (kvn_stream_in_reopened(&c->stream_in))
            c->seen.due = c->seen.largest > 0;
        kvn_stream_in_release(&c->stream_in);
    }
}

/* What becomes of something that was sent. */
static void arrived(void *arg, const struct kvn_sent *s, uint64_t pn, bool late)
{
    struct kvn_conn *c = arg;

    if (late)
        kvn_loss_was_late(&c->loss, c->out.largest_acked - pn);
    if (s->kind == KVN_SENT_DATA)
        (void)kvn_puts_out_arrived(&c->puts_out, (uint32_t)s->what, s->part);
    else if (s->kind == KVN_SENT_MSG)
        kvn_stream_out_arrived(&c->stream_out, s->what, s->part);
}

static void lost(void *arg, const struct kvn_sent *s)
{
    struct kvn_conn *c = arg;

    if (s->kind == KVN_SENT_DATA)
        kvn_puts_out_lost(&c->puts_out, (uint32_t)s->what, s->part);
    else if (s->kind == KVN_SENT_MSG)
        kvn_stream_out_lost(&c->stream_out, s->what, s->part);
}

const struct kvn_inflight_events kvn_conn_inflight_events = {.arrived = arrived, .lost = lost};

void kvn_conn_rearm(struct kvn_conn *c, struct kvn_env *env)
{
    uint64_t probe_at = UINT64_MAX;

    if (c->state != KVN_CONN_UP)
        return;
    if (c->out.packets == 0)
        c->progress_ns = env->now_ns;
    if (c->out.packets > 0 || kvn_stream_out_blocked(&c->stream_out))
        probe_at = kvn_loss_probe_at(&c->loss, c->out.last_asking_ns);
    kvn_timers_flight(&c->timers, c->loss.loss_at_ns, probe_at);
}

void kvn_conn_detect(struct kvn_conn *c, struct kvn_env *env)
{
    /* If any is lost, the oldest is. */
    const uint64_t oldest = kvn_inflight_oldest(&c->out);
    const uint32_t n =
        kvn_loss_detect(&c->loss, &c->out, env->now_ns, &kvn_conn_inflight_events, c);

    if (n == 0)
        return;
    env->stats.packets_lost += n;
    kvn_cc_lost(&c->cc, kvn_inflight_at(&c->out, oldest)->sent_ns, env->now_ns);
}

/* Nothing came back for too long: send the two oldest again, whatever the window says. */
static void probe(struct kvn_conn *c, struct kvn_env *env)
{
    if (c->out.packets > 0 && env->now_ns - c->progress_ns > 4 * env->cfg.dead_ns) {
        kvn_conn_end(c, env, KVW_E_PEER_LOST, true,
                     "the peer is alive, but nothing this side sends arrives (path MTU?)");
        return;
    }
    ++c->loss.probes;
    for (int i = 0; i < 2; ++i) {
        const uint64_t pn = kvn_inflight_oldest(&c->out);
        if (pn == 0)
            break;
        kvn_inflight_lose(&c->out, pn, &kvn_conn_inflight_events, c);
    }
    c->probe_credit = 2;
    c->ping_due = true; /* in case what was lost needs no second copy */
}

static void hello_timer(struct kvn_conn *c, struct kvn_env *env)
{
    const uint64_t waited = env->now_ns - c->began_ns;
    uint32_t size = env->payload_max;

    /* Perhaps the path carries no packets of this size: what is left of the time goes to smaller
     * ones. Another size is another attempt, so it has another id (SPEC.md 4). */
    if (waited > env->cfg.connect_ns * 3 / 4)
        size = KVN_PAYLOAD_MIN;
    else if (waited > env->cfg.connect_ns / 2 && size > 1452)
        size = 1452;
    if (size != c->payload) {
        c->payload = size;
        c->local_id = kvn_env_random(env);
    }
    c->hello_due = true;
}

static void down_by_silence(struct kvn_conn *c, struct kvn_env *env)
{
    char text[192], addr[KVN_ADDR_TEXT_BYTES];

    if (c->state == KVN_CONN_CONNECTING)
        snprintf(text, sizeof(text), "no answer from %s within %llu ms",
                 kvn_addr_format(&c->peer, addr),
                 (unsigned long long)(env->cfg.connect_ns / 1000000));
    else
        snprintf(text, sizeof(text), "nothing heard from %s for %llu ms",
                 kvn_addr_format(&c->peer, addr), (unsigned long long)(env->cfg.dead_ns / 1000000));
    kvn_conn_end(c, env, KVW_E_PEER_LOST, true, text);
}

static void run_up_timers(struct kvn_conn *c, struct kvn_env *env)
{
    const uint64_t now = env->now_ns;

    if (kvn_timers_due(&c->timers, KVN_TIMER_DEAD, now)) {
        down_by_silence(c, env);
        return;
    }
    if (kvn_timers_due(&c->timers, KVN_TIMER_LOSS, now))
        kvn_conn_detect(c, env);
    if (kvn_timers_due(&c->timers, KVN_TIMER_PROBE, now))
        probe(c, env);
    if (c->state != KVN_CONN_UP)
        return;
    if (kvn_timers_due(&c->timers, KVN_TIMER_ACK, now)) {
        kvn_timers_ack_sent(&c->timers);
        c->seen.due = true;
    }
    if (kvn_timers_due(&c->timers, KVN_TIMER_PING, now)) {
        kvn_timers_pinged(&c->timers, now, env->cfg.dead_ns);
        c->ping_due = true;
    }
    kvn_conn_rearm(c, env);
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
