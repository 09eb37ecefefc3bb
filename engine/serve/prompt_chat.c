/* SPDX-License-Identifier: Apache-2.0 */
/*
 * prompt_chat.c - messages into tokens: control tokens come from the model's template alone.
 *
 * The template is filled twice: with what the messages say, and with a mark in place of each, which
 * shows where the template's own text ends. Only there are texts of control tokens taken for those;
 * between two of them, template and content are encoded together as plain text, as they would be
 * if the content had none.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "prompt.h"

#define MARK_BYTES 40

struct ids {
    uint32_t *at;
    size_t count, room;
};

struct run { /* plain text since the last control token */
    char *at;
    size_t used;
};

static kvw_err add_ids(struct ids *to, const uint32_t *at, size_t count)
{
    if (to->room - to->count < count) {
        const size_t room = 2 * (to->count + count) + 64;
        uint32_t *more = realloc(to->at, room * sizeof(*more));

        if (more == NULL)
            return KVW_E_NOMEM;
        to->at = more;
        to->room = room;
    }
    if (count > 0)
        memcpy(to->at + to->count, at, count * sizeof(*at));
    to->count += count;
    return KVW_OK;
}

/* Encode the run and begin another. */
static kvw_err end_run(const struct kve_tok *t, struct run *r, struct ids *to)
{
    uint32_t *ids = NULL;
    size_t count = 0;
    kvw_err err = KVW_OK;

    if (r->used > 0)
        err = kve_tok_encode(t, r->at, r->used, false, false, &ids, &count);
    if (err == KVW_OK)
        err = add_ids(to, ids, count);
    free(ids);
    r->used = 0;
    return err;
}

static void add_text(struct run *r, const char *at, size_t n)
{
    memcpy(r->at + r->used, at, n);
    r->used += n;
}

/* A stretch of the template's own: its control tokens end runs. */
static kvw_err add_template(const struct kve_tok *t, const char *at, size_t n, struct run *r,
                            struct ids *to)
{
    const char *const end = at + n;
    uint32_t *ids = NULL;
    size_t count = 0;
    kvw_err err = n > 0 ? kve_tok_encode(t, at, n, true, false, &ids, &count) : KVW_OK;

    for (size_t i = 0; err == KVW_OK && i < count; ++i) {
        if (!kve_tok_is_control(t, ids[i]))
            continue;
        const struct kve_str name = kve_tok_piece(t, ids[i]);
        const char *found = memmem(at, (size_t)(end - at), name.at, name.bytes);

        if (found == NULL)
            continue;
        add_text(r, at, (size_t)(found - at));
        err = end_run(t, r, to);
        if (err == KVW_OK)
            err = add_ids(to, &ids[i], 1);
        at = found + name.bytes;
    }
    add_text(r, at, (size_t)(end - at));
    free(ids);
    return err;
}

/* BOS before and EOS behind, where encoding the whole puts them. */
static kvw_err add_edges(const struct kve_tok *t, const char *text, struct ids *to)
{
    uint32_t *edges = NULL, *with = NULL, *without = NULL;
    size_t edge_count = 0, n = 0, m = 0;
    kvw_err err = kve_tok_encode(t, "", 0, false, true, &edges, &edge_count);

    if (err == KVW_OK && edge_count > 0)
        err = kve_tok_encode(t, text, strlen(text), true, true, &with, &n);
    if (err == KVW_OK && edge_count > 0)
        err = kve_tok_encode(t, text, strlen(text), true, false, &without, &m);
    if (err == KVW_OK && n > m) {
        const bool front = memcmp(with + 1, without, m * sizeof(*with)) == 0;

        err = add_ids(to, with + n - 1, 1); /* behind, or room for the one before */
        if (err == KVW_OK && front) {
            memmove(to->at + 1, to->at, (to->count - 1) * sizeof(*to->at));
            to->at[0] = with[0];
            if (n - m > 1)
                err = add_ids(to, with + n - 1, 1);
        }
    }
    free(edges);
    free(with);
    free(without);
    return err;
}

struct filled {
    char mark[MARK_BYTES];
    char *marked, *text; /* the template with marks, and with the contents */
};

static kvw_err encode(const struct kve_tok *t, const struct kve_chat_message *m, size_t count,
                      const struct filled *f, struct ids *to)
{
    struct run r = {.at = malloc(strlen(f->text) + strlen(f->marked) + 1)};
    const char *at = f->marked, *whole = f->text, *next;
    kvw_err err = r.at != NULL ? KVW_OK : KVW_E_NOMEM;

    for (size_t i = 0; err == KVW_OK && i <= count; ++i) {
        next = i < count ? strstr(at, f->mark) : at + strlen(at);
        const size_t n = next != NULL ? (size_t)(next - at) : 0;
        const size_t said = i < count ? strlen(m[i].content) : 0;

        /* the template must have used each content as it is, in order */
        if (next == NULL || strncmp(whole, at, n) != 0 ||
            (i < count && strncmp(whole + n, m[i].content, said) != 0)) {
            err = KVW_E_UNSUPPORTED;
            break;
        }
        err = add_template(t, at, n, &r, to);
        if (i < count)
            add_text(&r, m[i].content, said);
        whole += n + said;
        at = next + (i < count ? strlen(f->mark) : 0);
    }
    if (err == KVW_OK && *whole != '\0')
        err = KVW_E_UNSUPPORTED;
    if (err == KVW_OK)
        err = end_run(t, &r, to);
    free(r.at);
    return err;
}

kvw_err kve_prompt_chat(const struct kve_prompts *p, const struct kve_chat_message *messages,
                        size_t count, struct kve_request *q, char why[KVE_WHY_BYTES])
{
    struct kve_chat_message *marks = calloc(count + 1, sizeof(*marks));
    struct filled f = {.marked = NULL, .text = NULL};
    uint64_t random[2] = {0, 0};
    struct ids ids = {0};
    kvw_err err = marks != NULL ? KVW_OK : KVW_E_NOMEM;

    if (getrandom(random, sizeof(random), 0) < 0)
        random[0] = (uintptr_t)marks;
    snprintf(f.mark, sizeof(f.mark), "m%016llx%016llxm", (unsigned long long)random[0],
             (unsigned long long)random[1]);
    for (size_t i = 0; err == KVW_OK && i < count; ++i)
        marks[i] = (struct kve_chat_message){.role = messages[i].role, .content = f.mark};
    if (err == KVW_OK)
        err = kve_tok_chat(p->tok, messages, count, &f.text, why);
    if (err == KVW_OK)
        err = kve_tok_chat(p->tok, marks, count, &f.marked, why);
    if (err == KVW_OK) {
        err = encode(p->tok, messages, count, &f, &ids);
        if (err == KVW_E_UNSUPPORTED)
            snprintf(why, KVE_WHY_BYTES, "the model's chat format changes what these messages say");
    }
    if (err == KVW_OK)
        err = add_edges(p->tok, f.text, &ids);
    free(f.marked);
    free(f.text);
    free(marks);
    if (err != KVW_OK) {
        free(ids.at);
        return err;
    }
    q->tokens = ids.at;
    q->count = (uint32_t)ids.count;
    return KVW_OK;
}
