/* SPDX-License-Identifier: Apache-2.0 */
/*
 * run_plan.c - what can be said without a network: how many bytes a prompt has, from which rate on
 * a link hides them, and what each codec, at the pace that it has on this machine, would bring.
 */
#include "run_plan.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "codec_speed.h"
#include "stats.h"
#include "text.h"

#define SPEND_MS   60.0
#define CODECS_ALL 9u

static const char *const all[CODECS_ALL] = {"raw", "l0",   "l8",     "e8",   "e4",
                                            "lz4", "zstd", "zstd_x", "lz4_x"};

/* Gigabits a second of links that people have. */
static const double links[] = {1, 10, 25, 100, 200, 400};

#define LINKS (sizeof(links) / sizeof(links[0]))

/* Measure what the options name, or all that there are; returns how many, 0: said why not. */
static uint32_t measure_all(const struct kvp_options *o, struct kvp_codec *codecs,
                            struct kvp_codec_speed *speeds)
{
    const bool named = o->codec_count > 1 || o->codecs[0].id != 0;
    char why[KVP_WHY];
    uint32_t n = 0;

    if (named) {
        for (uint32_t i = 0; i < o->codec_count; ++i)
            if (o->codecs[i].id != 0)
                codecs[n++] = o->codecs[i];
    } else {
        for (uint32_t i = 0; i < CODECS_ALL; ++i)
            n += kvp_codec_by_name(&codecs[n], all[i]);
    }
    for (uint32_t i = 0; i < n; ++i)
        if (!kvp_codec_speed(&speeds[i], o, &codecs[i], SPEND_MS, why)) {
            fprintf(stderr, "kvperf: %s\n", why);
            return 0;
        }
    return n;
}

static cJSON *speed_json(const struct kvp_codec *c, const struct kvp_codec_speed *s)
{
    cJSON *row = cJSON_CreateObject();

    cJSON_AddStringToObject(row, "codec", c->name);
    cJSON_AddBoolToObject(row, "fits", s->fits);
    if (!s->fits)
        return row;
    cJSON_AddNumberToObject(row, "ratio", s->ratio);
    cJSON_AddNumberToObject(row, "noise", s->noise);
    cJSON_AddNumberToObject(row, "encode_gb_per_s", s->encode_bytes_per_s / 1e9);
    cJSON_AddNumberToObject(row, "decode_gb_per_s", s->decode_bytes_per_s / 1e9);
    cJSON_AddNumberToObject(row, "break_even_gbit_per_s", 8e-9 * kvp_break_even(s, true));
    cJSON_AddNumberToObject(row, "break_even_unpiped_gbit_per_s", 8e-9 * kvp_break_even(s, false));
    return row;
}

/* The same outer fields as a result of kv has: schema, tool, version, mode. */
static cJSON *head_json(const struct kvp_options *o, const char *mode)
{
    cJSON *to = cJSON_CreateObject();

    cJSON_AddNumberToObject(to, "schema", 1);
    cJSON_AddStringToObject(to, "tool", "kvperf");
    cJSON_AddStringToObject(to, "version", kvw_version());
    cJSON_AddStringToObject(to, "mode", mode);
    cJSON_AddItemToObject(to, "geometry", kvp_geometry_to_json(&o->geometry));
    return to;
}

static int print_json(cJSON *json)
{
    return kvp_json_write(stdout, json, true) ? KVP_EXIT_OK : kvp_out_status(KVP_EXIT_FAILED);
}

static void print_speeds(const struct kvp_codec *codecs, const struct kvp_codec_speed *s,
                         uint32_t n)
{
    printf("%-7s %6s %9s %10s %10s   %-24s %s\n", "codec", "ratio", "noise %", "encode", "decode",
           "saves time on links below", "(unless piped)");
    printf("%-7s %6s %9s %10s %10s\n", "", "", "", "GB/s", "GB/s");
    for (uint32_t i = 0; i < n; ++i) {
        if (!s[i].fits) {
            printf("%-7s can't take this element type\n", codecs[i].name);
            continue;
        }
        printf("%-7s %6.3f %9.3f %10.2f %10.2f", codecs[i].name, s[i].ratio, 100 * s[i].noise,
               s[i].encode_bytes_per_s / 1e9, s[i].decode_bytes_per_s / 1e9);
        if (kvp_break_even(&s[i], true) > 0)
            printf("   %8.1f Gb/s %23.1f Gb/s\n", 8e-9 * kvp_break_even(&s[i], true),
                   8e-9 * kvp_break_even(&s[i], false));
        else
            printf("   %8s\n", codecs[i].id == KVW_CODEC_RAW ? "-" : "none");
    }
}

int kvp_run_codec(const struct kvp_options *o)
{
    struct kvp_codec codecs[CODECS_ALL];
    struct kvp_codec_speed speeds[CODECS_ALL];
    const uint32_t n = measure_all(o, codecs, speeds);
    const double copy = kvp_memcpy_bytes_per_s();

    if (n == 0)
        return KVP_EXIT_FAILED;
    if (o->json) {
        cJSON *json = head_json(o, "codec"), *rows = cJSON_AddArrayToObject(json, "codecs");

        cJSON_AddNumberToObject(json, "memcpy_gb_per_s", copy / 1e9);
        for (uint32_t i = 0; i < n; ++i)
            cJSON_AddItemToArray(rows, speed_json(&codecs[i], &speeds[i]));
        return print_json(json);
    }
    printf("One core of this machine, values of %s, part %s, chunks of 256 KiB with gather, digest "
           "and scatter;\nmemcpy from memory %.1f GB/s\n\n",
           o->geometry.name, o->geometry.groups[0].parts[0].name, copy / 1e9);
    print_speeds(codecs, speeds, n);
    return KVP_EXIT_OK;
}

/* --- plan ------------------------------------------------------------------------------------- */

/* Exposed ms over a link of so many bytes a ms, streamed or after the prefill. A piped codec that
 * is slower than the link stands in for it. */
static double exposed_ms(const struct kvp_options *o, const struct kvp_codec_speed *s,
                         double bytes_per_ms, bool streamed)
{
    const struct kvp_geometry *g = &o->geometry;
    const double raw_per_ms =
        fmin(bytes_per_ms * s->ratio, fmin(s->encode_bytes_per_s, s->decode_bytes_per_s) / 1000);
    double computed[KVW_LAYERS_MAX], bytes[KVW_LAYERS_MAX];

    for (uint32_t l = 0; l < g->layers; ++l) {
        computed[l] = streamed ? 1000.0 * o->tokens / g->prefill_tok_s * (l + 1) / g->layers : 0;
        bytes[l] = (double)kvp_geometry_layer_bytes(g, l, o->tokens);
    }
    return kvp_floor_ms(computed, bytes, g->layers, raw_per_ms);
}

static cJSON *plan_json(const struct kvp_options *o, const struct kvp_codec *codecs,
                        const struct kvp_codec_speed *speeds, uint32_t n)
{
    const double bytes = (double)kvp_geometry_bytes(&o->geometry, o->tokens);
    cJSON *json = head_json(o, "plan"), *rows = cJSON_AddArrayToObject(json, "codecs");

    cJSON_AddNumberToObject(json, "tokens", o->tokens);
    cJSON_AddNumberToObject(json, "bytes", bytes);
    cJSON_AddNumberToObject(json, "prefill_ms", 1000.0 * o->tokens / o->geometry.prefill_tok_s);
    cJSON_AddNumberToObject(json, "full_overlap_gbit_per_s",
                            8e-9 * bytes / o->tokens * o->geometry.prefill_tok_s);
    for (uint32_t i = 0; i < n; ++i) {
        cJSON *row = speed_json(&codecs[i], &speeds[i]), *list;

        cJSON_AddItemToArray(rows, row);
        list = cJSON_AddArrayToObject(row, "links");
        for (size_t k = 0; k < LINKS && speeds[i].fits; ++k) {
            cJSON *link = cJSON_CreateObject();

            cJSON_AddNumberToObject(link, "gbit_per_s", links[k]);
            cJSON_AddNumberToObject(link, "streamed_ms",
                                    exposed_ms(o, &speeds[i], links[k] * 125e3, true));
            cJSON_AddNumberToObject(link, "after_ms",
                                    exposed_ms(o, &speeds[i], links[k] * 125e3, false));
            cJSON_AddItemToArray(list, link);
        }
    }
    return json;
}

static void print_links(const struct kvp_options *o, const struct kvp_codec *codecs,
                        const struct kvp_codec_speed *s, uint32_t n)
{
    printf("\nExposed ms, streamed (sent after the prefill), one core encoding and one decoding:\n"
           "%-7s",
           "Gb/s");
    for (size_t k = 0; k < LINKS; ++k)
        printf(" %18g", links[k]);
    printf("\n");
    for (uint32_t i = 0; i < n; ++i) {
        if (!s[i].fits)
            continue;
        printf("%-7s", codecs[i].name);
        for (size_t k = 0; k < LINKS; ++k)
            printf(" %9.2f (%6.0f)", exposed_ms(o, &s[i], links[k] * 125e3, true),
                   exposed_ms(o, &s[i], links[k] * 125e3, false));
        printf("\n");
    }
}

int kvp_run_plan(const struct kvp_options *o)
{
    const struct kvp_geometry *g = &o->geometry;
    const double bytes = (double)kvp_geometry_bytes(g, o->tokens), each = bytes / o->tokens;
    struct kvp_codec codecs[CODECS_ALL];
    struct kvp_codec_speed speeds[CODECS_ALL];
    const uint32_t n = measure_all(o, codecs, speeds);

    if (n == 0)
        return KVP_EXIT_FAILED;
    if (o->json)
        return print_json(plan_json(o, codecs, speeds, n));
    printf("%s, %u tokens: %.0f bytes a token, %.4g MB (%.4g MiB) in all, %.4g MB a layer\n",
           g->name, o->tokens, each, bytes / 1e6, bytes / 1048576, bytes / 1e6 / g->layers);
    printf("prefill: %g tokens/s (%s), %.1f ms\n", g->prefill_tok_s, g->clock,
           1000.0 * o->tokens / g->prefill_tok_s);
    printf(
        "full overlap from %.3g GB/s = %.3g Gb/s on: above it a faster link or a codec saves but "
        "the last layer;\nthe same rate decides whether a cached prefix is worth moving rather "
        "than computing again\n\n",
        each * g->prefill_tok_s / 1e9, 8e-9 * each * g->prefill_tok_s);
    print_speeds(codecs, speeds, n);
    print_links(o, codecs, speeds, n);
    return KVP_EXIT_OK;
}
