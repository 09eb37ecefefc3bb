/* SPDX-License-Identifier: Apache-2.0 */
#include "fault.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The longest value anyone writes: a 64-bit seed or a share with many digits. */
#define VALUE_BYTES 32

static const char *const keys[] = {"loss", "reorder", "dup", "corrupt", "seed"};
#define KEYS (sizeof(keys) / sizeof(keys[0]))
#define SEED (KEYS - 1)

/* strtod and strtoull skip blanks and take signs; a value starts with a digit or a point. */
static bool parse_value(struct kvn_fault_spec *spec, size_t key, const char *value)
{
    double *const shares[SEED] = {&spec->loss, &spec->reorder, &spec->dup, &spec->corrupt};
    char *end;

    if (!isdigit((unsigned char)value[0]) && value[0] != '.')
        return false;
    if (key == SEED) {
        spec->seed = strtoull(value, &end, 10);
        return *end == '\0';
    }
    *shares[key] = strtod(value, &end);
    return *end == '\0' && *shares[key] >= 0 && *shares[key] <= 1;
}

kvw_err kvn_fault_parse(struct kvn_fault_spec *spec, const char *text, char why[KVN_WHY_BYTES])
{
    struct kvn_fault_spec out = {.seed = 1};
    unsigned seen = 0;

    for (const char *p = text; *p != '\0';) {
        const size_t item = strcspn(p, ",");
        const size_t name = strcspn(p, "=,");
        const size_t bytes = item - name;
        char value[VALUE_BYTES] = "";
        size_t key = 0;

        while (key < KEYS && (strlen(keys[key]) != name || memcmp(keys[key], p, name) != 0))
            ++key;
        if (bytes > 1 && bytes <= sizeof(value))
            memcpy(value, p + name + 1, bytes - 1);
        if (key == KEYS || (seen & 1u << key) != 0) {
            snprintf(why, KVN_WHY_BYTES, "fault: \"%.*s\" %s", (int)(item < 64 ? item : 64), p,
                     key == KEYS ? "is none of loss, reorder, dup, corrupt, seed"
                                 : "is given twice");
            return KVW_E_INVALID;
        }
        if (!parse_value(&out, key, value)) {
            snprintf(why, KVN_WHY_BYTES, "fault: \"%.*s\" must be %s", (int)(item < 64 ? item : 64),
                     p, key == SEED ? "a whole number" : "a share from 0 to 1");
            return KVW_E_INVALID;
        }
        seen |= 1u << key;
        p += item;
        if (*p == ',')
            ++p;
    }
    *spec = out;
    return KVW_OK;
}
