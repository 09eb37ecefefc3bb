/* SPDX-License-Identifier: Apache-2.0 */
/* race_calls.h - what race_calls.cpp tells race.cpp of the code that runs; from host
 * code: nothing. */
#ifndef SIMT_RACE_CALLS_H
#define SIMT_RACE_CALLS_H

#include <stddef.h>

struct race_how {
    bool writes, atomic;
};
void race_see(const void *at, size_t bytes, race_how how, const void *pc);
void race_acquire(const void *at);
void race_release(const void *at, bool keep);
void race_forget_release(const void *at); /* a relaxed store */
#endif
