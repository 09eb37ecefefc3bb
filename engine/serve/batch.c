/* SPDX-License-Identifier: Apache-2.0 */
/* batch.c - a batch file, line by line, and a line's fields over the options' request. */
#include "batch.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "control.h"
#include "../gguf/gguf.h"

#define ROOM_MIN 4096u

kvw_err kve_batch_open(struct kve_batch *b, const char *path, char *why)
{
    *b = (struct kve_batch){.file = strcmp(path, "-") == 0 ? stdin : fopen(path, "r")};
    if (b->file != NULL)
        return KVW_OK;
    snprintf(why, KVE_WHY_BYTES, "%s", strerror(errno));
    return KVW_E_IO;
}

void kve_batch_close(struct kve_batch *b)
{
    if (b->file != NULL && b->file != stdin)
        fclose(b->file);
    free(b->line);
    *b = (struct kve_batch){0};
}

static bool grow(struct kve_batch *b)
{
    const size_t room = b->room != 0 ? 2 * b->room : ROOM_MIN;
    char *line = realloc(b->line, room);

    if (line == NULL)
        return false;
    b->line = line;
    b->room = room;
    return true;
}

/* One line, blank or not. */
static kvw_err read_line(struct kve_batch *b, char *why)
{
    size_t n = 0;
    int c;

    b->bytes = 0;
    errno = 0;
    while ((c = getc(b->file)) != EOF && c != '\n') {
        if (b->bytes + 1 >= b->room && n < KVE_BATCH_LINE_MAX && !grow(b))
            return KVW_E_NOMEM;
        if (n++ < KVE_BATCH_LINE_MAX)
            b->line[b->bytes++] = (char)c;
    }
    if (c == EOF && ferror(b->file)) {
        snprintf(why, KVE_WHY_BYTES, "%s", strerror(errno));
        return KVW_E_IO;
    }
    if (c == EOF && n == 0)
        return KVW_E_NOTFOUND;
    if (b->line == NULL && !grow(b))
        return KVW_E_NOMEM;
    b->line[b->bytes] = '\0';
    b->number++;
    return n > KVE_BATCH_LINE_MAX ? KVW_E_FORMAT : KVW_OK;
}

kvw_err kve_batch_next(struct kve_batch *b, char *why)
{
    kvw_err err;

    do
        err = read_line(b, why);
    while (err == KVW_OK && strspn(b->line, " \t\r") == b->bytes);
    if (err == KVW_E_FORMAT)
        snprintf(why, KVE_WHY_BYTES, "longer than %u bytes", KVE_BATCH_LINE_MAX);
    return err;
}

/* A string, or NULL where it isn't there. */
static kvw_err take_text(const cJSON *obj, const char *key, const char **text, char *why)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(obj, key);

    *text = cJSON_GetStringValue(item);
    if (item == NULL || *text != NULL)
        return KVW_OK;
    snprintf(why, KVE_WHY_BYTES, "%s: it is no string", key);
    return KVW_E_INVALID;
}

kvw_err kve_batch_parse(struct kve_batch_item *item, struct kve_request *q, const char *text,
                        size_t n, uint32_t vocab, char *why)
{
    static const char *const others[] = {"prompt", "system", NULL};
    const char *bad = NULL;

    *item = (struct kve_batch_item){.obj = kve_json_object(text, n, why)};
    if (item->obj == NULL)
        return KVW_E_INVALID;
    if (cJSON_GetObjectItemCaseSensitive(item->obj, "id") != NULL) {
        snprintf(why, KVE_WHY_BYTES, "id: the router chooses it");
        return KVW_E_INVALID;
    }
    kvw_err err = kve_request_merge(q, item->obj, others, vocab, why);
    if (err == KVW_OK)
        err = take_text(item->obj, "prompt", &item->prompt, why);
    if (err == KVW_OK)
        err = take_text(item->obj, "system", &item->system, why);
    if (err != KVW_OK)
        return err;
    if (item->prompt != NULL && q->tokens != NULL)
        bad = "prompt: \"tokens\" is there, too";
    else if (item->prompt == NULL && q->tokens == NULL)
        bad = "prompt: missing, and so is \"tokens\"";
    else if (item->system != NULL && q->tokens != NULL)
        bad = "system: \"tokens\" are the whole prompt";
    if (bad == NULL)
        return KVW_OK;
    snprintf(why, KVE_WHY_BYTES, "%s", bad);
    return KVW_E_INVALID;
}

void kve_batch_item_free(struct kve_batch_item *item)
{
    cJSON_Delete(item->obj);
    *item = (struct kve_batch_item){0};
}
