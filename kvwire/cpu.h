/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cpu.h - vector code for each kind of CPU from the same plain lines: the compiler makes a version
 * for each, and which one is called is settled when the program is loaded. For loops that need no
 * more than that; what is written by hand lies in folders of its own.
 *
 * threads  any      memory  none      time  none
 */
#ifndef KVW_CPU_H
#define KVW_CPU_H

/* Not with sanitizers: they aren't ready yet when the choice is made. */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) &&                             \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define KVW_FOR_EACH_CPU                                                                           \
    __attribute__((target_clones("default", "avx2", "arch=x86-64-v4"), optimize("O3")))
#else
#define KVW_FOR_EACH_CPU
#endif

#endif
