/* SPDX-License-Identifier: Apache-2.0 */
/* api_logprobs.c - the field logprobs of a choice, in the forms that chats and completions have. */
#include <stdlib.h>

#include "../text/utf8.h"
#include "api_say.h"

/* A token's text as UTF-8 and a NUL, malloc'ed; *characters grows by its length. A NUL in it is
 * U+FFFD, too: cJSON's strings end there. NULL: out of memory. */
static char *text_of(const struct kve_tok *tok, uint32_t id, uint32_t *characters)
{
    const struct kve_str piece = kve_tok_piece(tok, id);
    char *text = malloc(3 * piece.bytes + 2 * KVE_UTF8_HOLD_BYTES);
    struct kve_utf8_hold hold = {0};
    size_t n = 0;

    if (text == NULL)
        return NULL;
    for (uint64_t i = 0; i < piece.bytes; ++i) {
        const unsigned char b = (unsigned char)piece.at[i];

        n += kve_utf8_push(&hold, b != 0 ? b : 0xff, text + n);
    }
    n += kve_utf8_flush(&hold, text + n);
    text[n] = '\0';
    for (size_t i = 0; i < n; ++i)
        *characters += ((unsigned char)text[i] & 0xc0) != 0x80;
    return text;
}

static bool add_item(cJSON *list, cJSON *item)
{
    if (item != NULL && cJSON_AddItemToArray(list, item))
        return true;
    cJSON_Delete(item);
    return false;
}

/* {"token", "logprob", "bytes"} */
static cJSON *chat_token(const struct kve_tok *tok, const struct kve_logprob *p)
{
    const struct kve_str piece = kve_tok_piece(tok, p->id);
    cJSON *obj = cJSON_CreateObject();
    uint32_t characters = 0;
    char *text = text_of(tok, p->id, &characters);
    bool ok = text != NULL && cJSON_AddStringToObject(obj, "token", text) != NULL &&
              cJSON_AddNumberToObject(obj, "logprob", (double)p->logprob) != NULL;
    cJSON *bytes = ok ? cJSON_AddArrayToObject(obj, "bytes") : NULL;

    ok = bytes != NULL;
    for (uint64_t i = 0; ok && i < piece.bytes; ++i)
        ok = add_item(bytes, cJSON_CreateNumber((unsigned char)piece.at[i]));
    free(text);
    if (ok)
        return obj;
    cJSON_Delete(obj);
    return NULL;
}

static bool add_chat(cJSON *obj, const struct kve_api_logprobs *l)
{
    cJSON *list = cJSON_AddArrayToObject(obj, "content");
    bool ok = list != NULL;

    for (uint32_t i = l->first; ok && i < l->first + l->count; ++i) {
        const struct kve_logprob *p = l->logprobs + (size_t)i * l->each;
        cJSON *one = chat_token(l->tok, &(struct kve_logprob){l->ids[i], p->logprob});
        cJSON *top = cJSON_AddArrayToObject(one, "top_logprobs");

        ok = add_item(list, one) && top != NULL;
        for (uint32_t k = 1; ok && k < l->each; ++k) {
            if (p[k].id != KVE_LOGPROB_NO_ID)
                ok = add_item(top, chat_token(l->tok, &p[k]));
        }
    }
    return ok && cJSON_AddNullToObject(obj, "refusal") != NULL;
}

/* {TEXT: logprob, ..} of a token and the most probable ones. */
static cJSON *completion_top(const struct kve_api_logprobs *l, uint32_t i)
{
    const struct kve_logprob *p = l->logprobs + (size_t)i * l->each;
    cJSON *obj = cJSON_CreateObject();
    bool ok = obj != NULL;

    for (uint32_t k = 1; ok && k <= l->each; ++k) { /* its own last: it may be among the others */
        const struct kve_logprob *one = &p[k % l->each];
        const uint32_t id = k == l->each ? l->ids[i] : one->id;
        uint32_t characters = 0;
        char *text;

        if (id == KVE_LOGPROB_NO_ID)
            continue;
        text = text_of(l->tok, id, &characters);
        ok = text != NULL && (cJSON_HasObjectItem(obj, text) ||
                              cJSON_AddNumberToObject(obj, text, (double)one->logprob) != NULL);
        free(text);
    }
    if (ok)
        return obj;
    cJSON_Delete(obj);
    return NULL;
}

static bool add_completion(cJSON *obj, const struct kve_api_logprobs *l)
{
    cJSON *tokens = cJSON_AddArrayToObject(obj, "tokens");
    cJSON *own = cJSON_AddArrayToObject(obj, "token_logprobs");
    cJSON *top = cJSON_AddArrayToObject(obj, "top_logprobs");
    cJSON *offsets = cJSON_AddArrayToObject(obj, "text_offset");
    bool ok = tokens != NULL && own != NULL && top != NULL && offsets != NULL;

    for (uint32_t i = l->first; ok && i < l->first + l->count; ++i) {
        const struct kve_logprob *p = l->logprobs + (size_t)i * l->each;

        ok = add_item(offsets, cJSON_CreateNumber(*l->offset));
        char *text = text_of(l->tok, l->ids[i], l->offset);
        ok = ok && text != NULL && add_item(tokens, cJSON_CreateString(text)) &&
             add_item(own, cJSON_CreateNumber((double)p->logprob)) &&
             add_item(top, completion_top(l, i));
        free(text);
    }
    return ok;
}

bool kve_api_add_logprobs(cJSON *choice, bool chat, const struct kve_api_logprobs *l)
{
    if (l == NULL)
        return cJSON_AddNullToObject(choice, "logprobs") != NULL;
    cJSON *obj = cJSON_AddObjectToObject(choice, "logprobs");
    return obj != NULL && (chat ? add_chat(obj, l) : add_completion(obj, l));
}
