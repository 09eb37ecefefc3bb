/* SPDX-License-Identifier: Apache-2.0 */
/* text.c - well-formed UTF-8, and output that is there. */
#include "text.h"

#include <errno.h>
#include <stdint.h>
#include <string.h>

#include "options.h"

/* Bytes of the well-formed sequence at s; 0: none begins there. Unicode 15, table 3-7. */
static uint32_t sequence(const unsigned char *s)
{
    const uint32_t more = s[0] < 0x80 ? 0 : s[0] < 0xe0 ? 1 : s[0] < 0xf0 ? 2 : 3;
    unsigned char low = 0x80, high = 0xbf; /* of the second byte */

    if (more == 0)
        return 1;
    if (s[0] < 0xc2 || s[0] > 0xf4)
        return 0;
    if (s[0] == 0xe0)
        low = 0xa0;
    if (s[0] == 0xed)
        high = 0x9f;
    if (s[0] == 0xf0)
        low = 0x90;
    if (s[0] == 0xf4)
        high = 0x8f;
    for (uint32_t i = 1; i <= more; ++i) {
        if (s[i] < low || s[i] > high)
            return 0;
        low = 0x80;
        high = 0xbf;
    }
    return more + 1;
}

/* C0, DEL, and C1, which UTF-8 writes as C2 80 to C2 9F. */
static bool is_control(const unsigned char *s)
{
    return s[0] < 0x20 || s[0] == 0x7f || (s[0] == 0xc2 && s[1] < 0xa0);
}

void kvp_text_clean(char *text, bool controls)
{
    const unsigned char *from = (const unsigned char *)text;
    char *to = text;

    while (*from != '\0') {
        const uint32_t n = sequence(from);

        if (n == 0 || (controls && is_control(from))) {
            from += n > 0 ? n : 1;
            *to++ = '?';
            continue;
        }
        memmove(to, from, n);
        from += n;
        to += n;
    }
    *to = '\0';
}

void kvp_json_clean(cJSON *o, bool controls)
{
    for (cJSON *at = o; at != NULL; at = at->next) {
        if (at->string != NULL)
            kvp_text_clean(at->string, controls);
        if (at->valuestring != NULL)
            kvp_text_clean(at->valuestring, controls);
        kvp_json_clean(at->child, controls); /* no deeper than the parser lets it be */
    }
}

bool kvp_json_write(FILE *f, cJSON *o, bool pretty)
{
    char *text;
    bool ok;

    kvp_json_clean(o, false);
    text = o == NULL ? NULL : pretty ? cJSON_Print(o) : cJSON_PrintUnformatted(o);
    cJSON_Delete(o);
    if (text == NULL)
        errno = ENOMEM;
    ok = text != NULL && fprintf(f, "%s\n", text) > 0 && fflush(f) == 0;
    cJSON_free(text);
    return ok;
}

int kvp_out_status(int status)
{
    static bool said;

    if (fflush(stdout) == 0 && !ferror(stdout))
        return status;
    if (!said)
        fprintf(stderr, "kvperf: standard output: %s\n", strerror(errno));
    said = true;
    return status != KVP_EXIT_OK ? status : KVP_EXIT_FAILED;
}
