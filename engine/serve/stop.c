/* SPDX-License-Identifier: Apache-2.0 */
/* stop.c - finds stop strings in a text that comes in pieces. */
#include "stop.h"

#include <stdlib.h>
#include <string.h>

kvw_err kve_stop_open(struct kve_stop *s, const char *const *texts, uint32_t count)
{
    *s = (struct kve_stop){.texts = texts, .count = count, .room = 64};
    s->held = malloc(s->room);
    return s->held != NULL ? KVW_OK : KVW_E_NOMEM;
}

void kve_stop_close(struct kve_stop *s)
{
    free(s->held);
    *s = (struct kve_stop){0};
}

/* The longest stop string that ends with the newest byte. 0: none. */
static size_t ends_here(const struct kve_stop *s)
{
    size_t longest = 0;

    for (uint32_t i = 0; i < s->count; ++i) {
        const size_t n = strlen(s->texts[i]);

        if (n > longest && n <= s->used && memcmp(s->held + s->used - n, s->texts[i], n) == 0)
            longest = n;
    }
    return longest;
}

/* How many bytes at the end may be the beginning of a stop string. */
static size_t may_begin(const struct kve_stop *s)
{
    size_t longest = 0;

    for (uint32_t i = 0; i < s->count; ++i) {
        size_t n = strlen(s->texts[i]) - 1;

        for (n = n < s->used ? n : s->used; n > longest; --n)
            if (memcmp(s->held + s->used - n, s->texts[i], n) == 0)
                longest = n;
    }
    return longest;
}

/* Byte by byte, so that the first one that is whole wins however the text was cut into pieces. */
kvw_err kve_stop_push(struct kve_stop *s, const char *at, size_t n, size_t *ready)
{
    *ready = 0;
    if (s->hit)
        return KVW_OK;
    if (s->room - s->used < n) {
        const size_t room = 2 * (s->used + n);
        char *held = realloc(s->held, room);

        if (held == NULL)
            return KVW_E_NOMEM;
        s->held = held;
        s->room = room;
    }
    for (size_t i = 0; i < n && !s->hit; ++i) {
        s->held[s->used++] = at[i];
        const size_t stop = ends_here(s);
        s->used -= stop;
        s->hit = stop > 0;
    }
    *ready = s->hit ? s->used : s->used - may_begin(s);
    return KVW_OK;
}

void kve_stop_shown(struct kve_stop *s, size_t n)
{
    s->used -= n;
    memmove(s->held, s->held + n, s->used);
}

size_t kve_stop_rest(const struct kve_stop *s)
{
    return s->used;
}
