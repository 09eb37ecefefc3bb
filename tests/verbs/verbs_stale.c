/* SPDX-License-Identifier: Apache-2.0 */
/*
 * verbs_stale A B: what a peer can do with the key of an ended offer on this device. B's region is
 * opened to A, and the key that A is told writes; it is shut, and the same key must write nothing:
 * both ends end the connection with KVW_E_PROTOCOL. Prints a sentence; status 0 if it was so.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "../../net/net.h"
#include "../../net/verbs/verbs.h"

#define BYTES    65536u
#define LIMIT_NS 10000000000ull

struct end {
    struct kvw_transport *t;
    kvw_conn_id conn;
    struct kvw_region_key key;
    uint32_t ups, landed, done;
    kvw_err put_err, down_err;
    char text[256];
};

static struct end a, b;
static uint8_t region[BYTES] __attribute__((aligned(4096)));
static uint8_t source[BYTES];

static uint64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static _Noreturn void fail(const char *what)
{
    printf("%s (%s / %s)\n", what, a.text, b.text);
    exit(1);
}

static void poll_end(struct end *e)
{
    struct kvw_transport_event ev[8];
    const uint32_t n = e->t->ops->poll(e->t, now_ns(), ev, 8);

    for (uint32_t i = 0; i < n; ++i) {
        if (ev[i].kind == KVW_TEV_CONN_UP) {
            e->conn = ev[i].conn;
            ++e->ups;
        } else if (ev[i].kind == KVW_TEV_PUT_DONE) {
            e->put_err = ev[i].err;
            ++e->done;
        } else if (ev[i].kind == KVW_TEV_PUT_LANDED) {
            ++e->landed;
        } else if (ev[i].kind == KVW_TEV_CONN_DOWN) {
            e->down_err = ev[i].err;
            snprintf(e->text, sizeof(e->text), "%s", ev[i].text);
        }
    }
}

/* Poll both until *what is count, or for ns. */
static bool until(const uint32_t *what, uint32_t count, uint64_t ns)
{
    const uint64_t begin = now_ns();

    while ((what == NULL || *what < count) && now_ns() - begin < ns) {
        poll_end(&a);
        poll_end(&b);
        usleep(200);
    }
    return what != NULL && *what >= count;
}

static void put(const struct kvw_region_key *key, uint8_t byte)
{
    const struct kvw_put p = {.key = *key, .iov = {{source, BYTES}}, .iov_count = 1};

    memset(source, byte, BYTES);
    if (a.t->ops->put(a.t, a.conn, &p) != KVW_OK)
        fail("a put wasn't taken");
}

static void join(const char *at_a, const char *at_b)
{
    const struct kvw_mem mem = {.base = region, .bytes = BYTES, .kind = KVW_MEM_HOST};
    char local[128], peer[160], why[KVN_WHY_BYTES];
    struct kvn_config listener = {.local = local, .listener = true}, sender = {.local = at_a};

    snprintf(local, sizeof(local), "%s:0", at_b);
    if (kvn_open(&b.t, "verbs", &listener, why) != KVW_OK ||
        kvn_open(&a.t, "verbs", &sender, why) != KVW_OK)
        fail(why);
    snprintf(peer, sizeof(peer), "%s:%u", at_b, kvn_verbs_port(b.t));
    if (b.t->ops->region_add(b.t, &mem, NULL, NULL, &b.key) != KVW_OK ||
        b.t->ops->listen(b.t) != KVW_OK ||
        a.t->ops->connect(a.t, peer, now_ns(), &a.conn) != KVW_OK || !until(&a.ups, 1, LIMIT_NS) ||
        !until(&b.ups, 1, LIMIT_NS))
        fail("the ends don't join");
}

int main(int argc, char **argv)
{
    static const uint8_t none[16];
    struct kvw_region_key kept, again;

    if (argc != 3)
        fail("usage: verbs_stale A B");
    join(argv[1], argv[2]);
    if (memcmp(b.key.bytes + 16, none, 16) != 0)
        fail(kvn_verbs_about(b.t));
    put(&b.key, 1); /* before it is open: waits */
    (void)until(NULL, 0, 200000000);
    if (a.done != 0 || region[0] != 0)
        fail("a put didn't wait for its offer");
    if (b.t->ops->region_open(b.t, b.conn, &b.key) != KVW_OK || !until(&b.landed, 1, LIMIT_NS) ||
        !until(&a.done, 1, LIMIT_NS))
        fail("an open region takes no put");
    if (!kvn_verbs_key_told(a.t, a.conn, &b.key, &kept))
        fail("no key was told");
    put(&kept, 2); /* as a peer would that keeps it */
    if (!until(&b.landed, 2, LIMIT_NS) || region[BYTES - 1] != 2)
        fail("the key writes nothing while it should");
    b.t->ops->region_shut(b.t, b.conn, &b.key);
    (void)until(NULL, 0, 500000000);
    if (kvn_verbs_key_told(a.t, a.conn, &b.key, &again))
        fail("the peer still has a key");
    put(&kept, 3);
    if (!until(&a.done, 3, LIMIT_NS))
        fail("the late put has no outcome");
    (void)until(NULL, 0, 500000000);
    for (uint32_t i = 0; i < BYTES; ++i)
        if (region[i] != 2)
            fail("a byte was written with a dead key");
    if (a.put_err != KVW_E_PROTOCOL || a.down_err != KVW_E_PROTOCOL || b.down_err != KVW_E_PROTOCOL)
        fail("the connection didn't end as one that broke the rules");
    printf("it wrote while the offer was open, and is refused after it: %s\n", a.text);
    a.t->ops->close(a.t);
    b.t->ops->close(b.t);
    return 0;
}
