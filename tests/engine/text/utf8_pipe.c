/* SPDX-License-Identifier: Apache-2.0 */
/* utf8_pipe.c - standard input through kve_utf8_push() to standard output, for utf8.py. A zero byte
 * ends a sequence: what is held then is shown by kve_utf8_flush(). */
#include <stdio.h>

#include "../../../engine/text/utf8.h"

int main(void)
{
    struct kve_utf8_hold hold;
    char out[KVE_UTF8_HOLD_BYTES];
    int c;

    kve_utf8_reset(&hold);
    while ((c = getchar_unlocked()) != EOF) {
        if (c == 0) {
            fwrite(out, 1, kve_utf8_flush(&hold, out), stdout);
            putchar_unlocked(0);
            continue;
        }
        fwrite(out, 1, kve_utf8_push(&hold, (unsigned char)c, out), stdout);
    }
    return fflush(stdout) == 0 ? 0 : 1;
}
