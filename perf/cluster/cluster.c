/* SPDX-License-Identifier: Apache-2.0 */
/* cluster.c - kvcluster: a simulated cluster from the command line; prints rows of a table. */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "search.h"

struct options {
    const char *trace, *policy;
    uint32_t make;
    uint64_t seed;
    struct kcl_bend bend;
    struct kcl_setup base; /* but for policy and trace */
    bool find, head;
    uint32_t place;
    double ttft_s, itl_ms;
    bool admit, no_admit, no_local, no_lend;
};

static const char help[] =
    "usage: kvcluster [options]\n"
    "A cluster of prefill and decode workers on a virtual clock, with the router of engine/route.\n"
    "Prints a row of a table for each policy.\n"
    "\n"
    "  --trace FILE        JSON lines as Mooncake published them; or:\n"
    "  --make N            N requests like those, from --seed (default: 3000 from 1)\n"
    "  --speed X, --copies N, --input X, --answer X\n"
    "                      faster, each request N times, longer prompts, longer answers\n"
    "  --even              all requests alike, at equal gaps, with nothing in common\n"
    "  --model NAME        qwen3-0.6b, llama-3.1-8b, llama-3.1-70b (the default)\n"
    "  --machine NAME      h100, 4xh100 (the default), l20\n"
    "  --workers P:D       prefill and decode workers (4:2); N: N workers that do both\n"
    "  --blocks N          of 512 tokens, of each worker (10000)\n"
    "  --max-tokens N      that requests ask for, at least (2048)\n"
    "  --link MBPS         megabytes a second between two workers (25000)\n"
    "  --racks N --cross X  workers in N racks; links between two racks have this part of the "
    "rate\n"
    "  --policy NAME|all   finish (ours), prefix, least-loaded, power-of-two, round-robin, random\n"
    "  --ttft S, --itl MS  what is promised (30 s, 100 ms)\n"
    "  --piece N           tokens of prompts in a step beside decoding (512)\n"
    "  --no-admit, --no-local, --no-lend\n"
    "                      ours without early refusals, prefill on decode workers, changes of "
    "sides\n"
    "  --guard X, --guard-s S\n"
    "                      a worker may have X parts and S seconds more work than the least "
    "worked\n"
    "  --admit             the other policies with early refusals, too\n"
    "  --find              the highest speed with 90 % of the requests within both promises\n"
    "  --place N           the same for each way to split N workers\n"
    "  --head              the table's head first\n";

static int wrong(const char *what, const char *value)
{
    fprintf(stderr, "kvcluster: %s: %s\n", what, value);
    return 2;
}

static const struct kcl_model *model_of(const char *name)
{
    const struct kcl_model *m = kcl_models;

    while (m->name != NULL && strcmp(m->name, name) != 0)
        ++m;
    return m->name != NULL ? m : NULL;
}

static const struct kcl_machine *machine_of(const char *name)
{
    const struct kcl_machine *m = kcl_machines;

    while (m->name != NULL && strcmp(m->name, name) != 0)
        ++m;
    return m->name != NULL ? m : NULL;
}

static bool number(const char *text, double low, double high, double *v)
{
    char *end;

    *v = strtod(text, &end);
    return end != text && *end == '\0' && *v >= low && *v <= high;
}

static bool whole(const char *text, uint32_t *v)
{
    double d;

    if (!number(text, 0, 1e9, &d) || d != (uint32_t)d)
        return false;
    *v = (uint32_t)d;
    return true;
}

static bool workers(struct options *o, const char *text)
{
    char left[16];
    const char *colon = strchr(text, ':');

    o->base.route.together = colon == NULL;
    o->base.prefills = 0;
    if (colon == NULL)
        return whole(text, &o->base.decodes) && o->base.decodes > 0;
    snprintf(left, sizeof(left), "%.*s", (int)(colon - text < 15 ? colon - text : 15), text);
    return whole(left, &o->base.prefills) && whole(colon + 1, &o->base.decodes) &&
           o->base.prefills > 0 && o->base.decodes > 0;
}

enum {
    TRACE = 1,
    MAKE,
    SEED,
    SPEED,
    COPIES,
    INPUT,
    ANSWER,
    MODEL,
    MACHINE,
    WORKERS,
    BLOCKS,
    MAX_TOKENS,
    LINK,
    RACKS,
    CROSS,
    POLICY,
    TTFT,
    ITL,
    PIECE,
    ADMIT,
    NO_ADMIT,
    NO_LOCAL,
    NO_LEND,
    EVEN,
    FIND,
    PLACE,
    HEAD,
    HELP,
};

static const struct option names[] = {
    {"trace", 1, NULL, TRACE},
    {"make", 1, NULL, MAKE},
    {"seed", 1, NULL, SEED},
    {"speed", 1, NULL, SPEED},
    {"copies", 1, NULL, COPIES},
    {"input", 1, NULL, INPUT},
    {"answer", 1, NULL, ANSWER},
    {"model", 1, NULL, MODEL},
    {"machine", 1, NULL, MACHINE},
    {"workers", 1, NULL, WORKERS},
    {"blocks", 1, NULL, BLOCKS},
    {"max-tokens", 1, NULL, MAX_TOKENS},
    {"link", 1, NULL, LINK},
    {"racks", 1, NULL, RACKS},
    {"cross", 1, NULL, CROSS},
    {"policy", 1, NULL, POLICY},
    {"ttft", 1, NULL, TTFT},
    {"itl", 1, NULL, ITL},
    {"piece", 1, NULL, PIECE},
    {"admit", 0, NULL, ADMIT},
    {"no-admit", 0, NULL, NO_ADMIT},
    {"no-local", 0, NULL, NO_LOCAL},
    {"no-lend", 0, NULL, NO_LEND},
    {"even", 0, NULL, EVEN},
    {"find", 0, NULL, FIND},
    {"place", 1, NULL, PLACE},
    {"head", 0, NULL, HEAD},
    {"help", 0, NULL, HELP},
    {0},
};

/* Words and switches. */
static bool take_word(struct options *o, int which, const char *v)
{
    switch (which) {
    case TRACE:
        o->trace = v;
        return true;
    case POLICY:
        o->policy = v;
        return strcmp(v, "all") == 0 || kve_route_policy_of(v) != NULL;
    case MODEL:
        return (o->base.model = model_of(v)) != NULL;
    case MACHINE:
        return (o->base.machine = machine_of(v)) != NULL;
    case WORKERS:
        return workers(o, v);
    case ADMIT:
        return o->admit = true;
    case NO_ADMIT:
        return o->no_admit = true;
    case NO_LOCAL:
        return o->no_local = true;
    case NO_LEND:
        return o->no_lend = true;
    case EVEN:
        return o->bend.even = true;
    case FIND:
        return o->find = true;
    case HEAD:
        return o->head = true;
    }
    return false;
}

static bool take_number(struct options *o, int which, const char *v)
{
    double seed;

    switch (which) {
    case MAKE:
        return whole(v, &o->make) && o->make > 1;
    case SEED:
        if (!number(v, 0, 9e15, &seed))
            return false;
        o->seed = (uint64_t)seed;
        return true;
    case SPEED:
        return number(v, 1e-3, 1e5, &o->bend.speed);
    case INPUT:
        return number(v, 1e-3, 1e3, &o->bend.input);
    case ANSWER:
        return number(v, 1e-3, 1e3, &o->bend.answer);
    case COPIES:
        return whole(v, &o->bend.copies) && o->bend.copies > 0 && o->bend.copies <= 4096;
    case BLOCKS:
        return whole(v, &o->base.blocks) && o->base.blocks > 0;
    case MAX_TOKENS:
        return whole(v, &o->base.max_tokens);
    case LINK:
        return number(v, 1, 1e9, &o->base.route.link_mbps);
    case RACKS:
        return whole(v, &o->base.racks);
    case CROSS:
        return number(v, 1e-6, 1, &o->base.cross);
    case TTFT:
        return number(v, 1e-3, 1e6, &o->ttft_s);
    case ITL:
        return number(v, 1e-3, 1e6, &o->itl_ms);
    case PIECE:
        return whole(v, &o->base.route.piece) && o->base.route.piece > 0;
    case PLACE:
        return whole(v, &o->place) && o->place > 1 && o->place <= 64;
    }
    return false;
}

/* 0: go on; else the exit status + 1. */
static int read_options(struct options *o, int argc, char **argv)
{
    int c, at = 0;

    while ((c = getopt_long_only(argc, argv, "", names, &at)) != -1) {
        if (c == HELP) {
            fputs(help, stdout);
            return 1;
        }
        if (c == '?')
            return 3;
        if (!take_word(o, c, optarg) && !take_number(o, c, optarg))
            return 1 + wrong(names[at].name, optarg);
    }
    if (optind < argc)
        return 1 + wrong("what is that", argv[optind]);
    return 0;
}

static struct kcl_setup setup_of(const struct options *o, const struct kve_route_policy *p)
{
    struct kcl_setup s = o->base;
    struct kve_route_config *c = &s.route;
    const bool together = c->together;
    const double mbps = c->link_mbps;
    const uint32_t piece = c->piece;

    kve_route_config_of(c, p);
    c->together = together;
    c->link_mbps = mbps;
    c->piece = piece;
    c->ttft_ns = (uint64_t)(o->ttft_s * 1e9);
    c->itl_ns = (uint64_t)(o->itl_ms * 1e6);
    c->admit = (c->admit || o->admit) && !o->no_admit;
    c->local = c->local && !o->no_local;
    c->lend = c->lend && !o->no_lend;
    return s;
}

static void print_head(const struct options *o)
{
    printf("| policy | %sgoodput/s | good | of tokens | late | slow | rejected | TTFT s p50 / p90 "
           "/ p99 | "
           "ITL ms p50 / p90 / p99 | hit | imbalance | local | turns |\n",
           o->find ? "speed | " : "");
    printf("|---|%s---|---|---|---|---|---|---|---|---|---|---|---|\n", o->find ? "---|" : "");
}

static void print_row(const struct kcl_result *r)
{
    const double n = r->requests / 100.0;

    printf("%.2f | %.1f %% | %.1f %% | %.1f %% | %.1f %% | %.1f %% | %.2f / %.2f / %.2f | "
           "%.0f / %.0f / %.0f | %.3f | %.3f | %.1f %% | %u |\n",
           r->goodput, r->good / n, 100 * r->good_tokens, r->late / n, r->slow / n, r->rejected / n,
           r->ttft_ms[0] / 1e3, r->ttft_ms[1] / 1e3, r->ttft_ms[2] / 1e3, r->itl_ms[0],
           r->itl_ms[1], r->itl_ms[2], r->hit, r->imbalance, r->local / n, r->turns);
}

static int run_policy(const struct options *o, const struct kcl_trace *t,
                      const struct kve_route_policy *p)
{
    struct kcl_setup s = setup_of(o, p);
    struct kcl_result r;

    printf("| %s | ", p->name);
    if (o->find) {
        printf("%.2f | ", kcl_find_speed(&s, t, &o->bend, &r));
    } else {
        struct kcl_trace bent = kcl_trace_bend(t, &o->bend);

        s.trace = &bent;
        r = kcl_run(&s);
        kcl_trace_free(&bent);
    }
    print_row(&r);
    fflush(stdout);
    return r.ok ? 0 : 1;
}

static int place(const struct options *o, const struct kcl_trace *t,
                 const struct kve_route_policy *p)
{
    const struct kcl_setup s = setup_of(o, p);
    double each[64];
    const struct kcl_place best = kcl_find_place(&s, t, &o->bend, o->place, each);

    for (uint32_t i = 1; i < o->place; ++i)
        printf("| %s | %u:%u | %.2f |%s\n", p->name, i, o->place - i, each[i],
               best.prefills == i ? " best |" : " |");
    printf("| %s | %u together | %.2f |%s\n", p->name, o->place, each[0],
           best.prefills == o->place ? " best |" : " |");
    return 0;
}

static int run_all(const struct options *o, const struct kcl_trace *t)
{
    int status = 0;

    if (o->head && o->place > 0)
        printf("| policy | workers | speed | |\n|---|---|---|---|\n");
    else if (o->head)
        print_head(o);
    for (uint32_t i = 0; kve_route_policies[i] != NULL && status == 0; ++i) {
        const struct kve_route_policy *p = kve_route_policies[i];

        if (strcmp(o->policy, "all") == 0 || strcmp(o->policy, p->name) == 0)
            status = o->place > 0 ? place(o, t, p) : run_policy(o, t, p);
    }
    return status;
}

int main(int argc, char **argv)
{
    struct options o = {.policy = "finish",
                        .make = 3000,
                        .seed = 1,
                        .bend = {.speed = 1, .input = 1, .answer = 1, .copies = 1},
                        .ttft_s = 30,
                        .itl_ms = 100};
    struct kcl_trace t;
    char why[KCL_WHY] = "no memory";
    int status;

    kcl_setup_of(&o.base, kve_route_policies[0]);
    o.base.model = model_of("llama-3.1-70b");
    o.base.machine = machine_of("4xh100");
    o.base.prefills = 4;
    o.base.decodes = 2;
    if ((status = read_options(&o, argc, argv)) != 0)
        return status - 1;
    if (!(o.trace != NULL ? kcl_trace_load(&t, o.trace, why)
                          : kcl_trace_make(&t, o.make, o.seed))) {
        fprintf(stderr, "kvcluster: %s\n", why);
        return 1;
    }
    status = run_all(&o, &t);
    kcl_trace_free(&t);
    return status;
}
