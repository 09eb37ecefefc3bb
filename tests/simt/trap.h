/* SPDX-License-Identifier: Apache-2.0 */
/*
 * trap.h - how the harness says that a kernel is wrong: one sentence on stderr that begins with
 * "simt:", names file, line, block and thread, and then abort().
 */
#ifndef SIMT_TRAP_H
#define SIMT_TRAP_H

struct simt_place {
    const char *file;
    int line;
};
#define SIMT_PLACE                                                                                 \
    simt_place                                                                                     \
    {                                                                                              \
        __FILE__, __LINE__                                                                         \
    }

[[noreturn]] void simt_trap(simt_place at, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* A fiber lets others run: always, or once in four times, drawn. */
void simt_give_way(bool always);
#endif
