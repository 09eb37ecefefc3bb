/* SPDX-License-Identifier: Apache-2.0 */
/* beside.c - a copy in memory, and iperf3 from this host to the server's. */
#include "beside.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "stop.h"

#define REPLY_NS   10000000000ull
#define OUTPUT_MAX (1u << 20)
#define TRIES      40 /* until the server's iperf3 listens */
#define TRY_NS     50000000ull

static const char *const names[KVP_BESIDE_MAX] = {"memcpy", "iperf3"};

bool kvp_beside_named(struct kvp_beside *b, const char *name)
{
    memset(b, 0, sizeof(*b));
    for (uint32_t i = 0; i < KVP_BESIDE_MAX; ++i)
        if (strcmp(names[i], name) == 0)
            b->name = names[i];
    return b->name != NULL;
}

/* Bytes a second; 0: b->why. */
static double copy(struct kvp_beside *b, struct kvp_client *c, uint64_t bytes)
{
    const uint64_t n = bytes < c->cache[0].bytes ? bytes : c->cache[0].bytes;
    unsigned char *to = malloc(n);

    if (to == NULL || n == 0) {
        snprintf(b->why, sizeof(b->why), "no memory for a copy of %llu bytes",
                 (unsigned long long)n);
        free(to);
        return 0;
    }
    memset(to, 1, n); /* faulted in */
    const uint64_t began_ns = kvw_now_ns();

    memcpy(to, c->cache[0].memory, n);
    __asm__ volatile("" : : "r"(to) : "memory"); /* somebody might look at it */
    const double took_s = (double)(kvw_now_ns() - began_ns) / 1e9;

    free(to);
    return (double)n / took_s;
}

/* What iperf3 -J printed; the caller deletes it. NULL: nothing that can be read. */
static cJSON *run_iperf3(const char *host, uint32_t port, uint64_t bytes)
{
    char line[256], *text = malloc(OUTPUT_MAX);
    cJSON *got = NULL;
    FILE *f;

    snprintf(line, sizeof(line), "exec timeout 60 iperf3 -c %.64s -p %u -n %llu -J 2>/dev/null",
             host, port, (unsigned long long)bytes);
    f = text != NULL ? popen(line, "re") : NULL;
    if (f != NULL) {
        text[fread(text, 1, OUTPUT_MAX - 1, f)] = '\0';
        got = cJSON_Parse(text);
        (void)pclose(f);
    }
    free(text);
    return got;
}

/* The server's iperf3 is on its way up: try until it listens. */
static double tcp(struct kvp_beside *b, struct kvp_client *c, uint64_t bytes)
{
    char said[KVP_WHY] = "";
    cJSON *msg = kvp_line_send(&c->line, kvp_msg("iperf3"), said)
                     ? kvp_line_expect(&c->line, "iperf3", kvw_now_ns() + REPLY_NS, said)
                     : NULL;
    const uint32_t port = (uint32_t)kvp_msg_number(msg, "port", 1, 65535, 0);
    double rate = 0;

    snprintf(b->why, sizeof(b->why), "%.250s", msg != NULL ? kvp_msg_text(msg, "text", "") : said);
    cJSON_Delete(msg);
    for (int i = 0; i < TRIES && port != 0 && rate <= 0 && !kvp_stopped(); ++i) {
        cJSON *got = run_iperf3(c->there, port, bytes);
        const cJSON *sum = cJSON_GetObjectItemCaseSensitive(
            cJSON_GetObjectItemCaseSensitive(got, "end"), "sum_received");

        rate = kvp_msg_number(sum, "bits_per_second", 1, 1e15, 0) / 8;
        if (rate <= 0)
            snprintf(b->why, sizeof(b->why), "iperf3: %.200s",
                     got != NULL ? kvp_msg_text(got, "error", "it failed")
                                 : "it isn't installed here, or said nothing");
        cJSON_Delete(got);
        if (rate <= 0)
            (void)kvp_wait_fds(NULL, 0, kvw_now_ns() + TRY_NS);
    }
    if (rate > 0)
        b->why[0] = '\0';
    return rate;
}

void kvp_beside_measure(struct kvp_beside *b, struct kvp_client *c, uint64_t bytes)
{
    if (b->why[0] != '\0')
        return;
    const double rate = b->name == names[0] ? copy(b, c, bytes) : tcp(b, c, bytes);

    if (b->count == b->room) {
        double *more = realloc(b->rates, (2 * (size_t)b->room + 16) * sizeof(*more));

        if (more == NULL)
            return;
        b->rates = more;
        b->room = 2 * b->room + 16;
    }
    if (rate > 0)
        b->rates[b->count++] = rate;
}

void kvp_beside_finish(struct kvp_beside *b)
{
    b->spread = kvp_spread_of(b->rates, b->count);
}

void kvp_beside_free(struct kvp_beside *b)
{
    free(b->rates);
    memset(b, 0, sizeof(*b));
}
