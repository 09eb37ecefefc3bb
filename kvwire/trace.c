/* SPDX-License-Identifier: Apache-2.0 */
/* trace.c - an event of trace.h as a line of JSON. */
#include "trace.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "wire.h"

static const char *const names[] = {
    [KVW_TRACE_OFFER] = "offer",   [KVW_TRACE_GRANT] = "grant",     [KVW_TRACE_PUSHED] = "pushed",
    [KVW_TRACE_CUT] = "cut",       [KVW_TRACE_PUT] = "put",         [KVW_TRACE_DONE] = "done",
    [KVW_TRACE_LANDED] = "landed", [KVW_TRACE_DECODED] = "decoded", [KVW_TRACE_READY] = "ready",
    [KVW_TRACE_SENT] = "sent",     [KVW_TRACE_COMMIT] = "commit",   [KVW_TRACE_END] = "end",
    [KVW_TRACE_STAGED] = "staged", [KVW_TRACE_GONE] = "gone",
};

struct line {
    char *text;
    size_t used, size;
};

static void add(struct line *l, const char *format, ...)
{
    va_list args;
    int n;

    va_start(args, format);
    n = vsnprintf(l->text + l->used, l->size - l->used, format, args);
    va_end(args);
    if (n > 0)
        l->used += (size_t)n < l->size - l->used ? (size_t)n : l->size - l->used - 1;
}

/* Reasons are printable ASCII, made so when they came (wire/fields.h); what JSON escapes is
 * replaced all the same. */
static void add_text(struct line *l, const char *name, const char *text)
{
    char safe[KVW_TEXT_BYTES_MAX + 1];
    size_t n = 0;

    for (; text[n] != '\0' && n < KVW_TEXT_BYTES_MAX; ++n)
        safe[n] =
            text[n] < 0x20 || text[n] > 0x7e || text[n] == '"' || text[n] == '\\' ? '\'' : text[n];
    safe[n] = '\0';
    add(l, ",\"%s\":\"%s\"", name, safe);
}

static void add_key(struct line *l, const kvw_key *key)
{
    static const kvw_key none;

    if (memcmp(key, &none, sizeof(none)) == 0)
        return;
    add(l, ",\"key\":\"");
    for (size_t i = 0; i < sizeof(key->bytes); ++i)
        add(l, "%02x", key->bytes[i]);
    add(l, "\"");
}

static void add_chunk(struct line *l, const struct kvw_trace_event *ev)
{
    add(l, ",\"layer\":%u,\"group\":%u,\"part\":%u,\"row\":%u,\"rows\":%u,\"entry\":%u", ev->layer,
        ev->group, ev->part, ev->row_first, ev->rows, ev->entry_first);
    add(l, ",\"entries\":%u,\"raw\":%u,\"codec\":%u,\"ns\":%llu", ev->entries, ev->raw_bytes,
        ev->codec, (unsigned long long)ev->ns);
}

static void add_rest(struct line *l, const struct kvw_trace_event *ev)
{
    switch (ev->kind) {
    case KVW_TRACE_OFFER:
        add(l, ",\"spans\":%u,\"tokens\":%u", ev->count, ev->tokens);
        if (ev->seq != 0)
            add(l, ",\"stage\":%llu", (unsigned long long)ev->seq);
        break;
    case KVW_TRACE_GRANT:
        add(l, ",\"slots\":%u,\"seq\":%llu", ev->count, (unsigned long long)ev->seq);
        break;
    case KVW_TRACE_PUSHED:
        add(l, ",\"layer\":%u,\"tokens\":%u", ev->layer, ev->tokens);
        break;
    case KVW_TRACE_CUT:
        add_chunk(l, ev);
        break;
    case KVW_TRACE_DONE:
        add_chunk(l, ev);
        add(l, ",\"wire\":%u", ev->wire_bytes);
        break;
    case KVW_TRACE_PUT:
    case KVW_TRACE_DECODED:
        add_chunk(l, ev);
        add(l, ",\"wire\":%u,\"seq\":%llu", ev->wire_bytes, (unsigned long long)ev->seq);
        break;
    case KVW_TRACE_LANDED:
        add(l, ",\"wire\":%u,\"seq\":%llu", ev->wire_bytes, (unsigned long long)ev->seq);
        break;
    case KVW_TRACE_READY:
    case KVW_TRACE_SENT:
    case KVW_TRACE_STAGED:
        add(l, ",\"layer\":%u", ev->layer);
        break;
    case KVW_TRACE_COMMIT:
        add(l, ",\"chunks\":%u", ev->count);
        break;
    case KVW_TRACE_END:
        add(l, ",\"err\":%d", ev->err);
        break;
    case KVW_TRACE_GONE:
        add(l, ",\"err\":%d,\"stage\":%llu", ev->err, (unsigned long long)ev->seq);
        break;
    default:
        break;
    }
}

uint32_t kvw_trace_json(char *line, size_t bytes, const struct kvw_trace_event *ev)
{
    struct line l = {line, 0, bytes};
    const bool known = ev->kind < sizeof(names) / sizeof(names[0]) && names[ev->kind] != NULL;

    if (bytes < KVW_TRACE_LINE_BYTES)
        return 0;
    add(&l, "{\"t\":%llu,\"ev\":\"%s\"", (unsigned long long)ev->now_ns,
        known ? names[ev->kind] : "?");
    if (ev->peer != 0)
        add(&l, ",\"peer\":\"%016llx\"", (unsigned long long)ev->peer);
    add_key(&l, &ev->key);
    if (ev->epoch != 0)
        add(&l, ",\"epoch\":%u", ev->epoch);
    add_rest(&l, ev);
    if (ev->text != NULL && ev->text[0] != '\0')
        add_text(&l, "text", ev->text);
    add(&l, "}\n");
    return (uint32_t)l.used;
}
