/* SPDX-License-Identifier: Apache-2.0 */
/*
 * option_value.h - the value of an option: read, or refused with a sentence on stderr that names
 * the option, its value and what it may be.
 *
 * threads  one      memory  none      time  none
 */
#ifndef KVP_OPTION_VALUE_H
#define KVP_OPTION_VALUE_H

#include <stdbool.h>
#include <stdint.h>

/* name: the option's, without its dashes. Always false. */
bool kvp_refuse(const char *name, const char *text, const char *must);
/* False: it was refused, and *to is as before. */
bool kvp_number(const char *name, const char *text, double min, double max, double *to);
/* The same of a whole number; k and m stand for 1,024 and its square. */
bool kvp_whole(const char *name, const char *text, double min, double max, uint32_t *to);
/* Which of the words (NULL ends them) text is; -1: none, and it was refused. */
int kvp_one_of(const char *name, const char *text, const char *const *words);
/* A list with a comma too many, which strtok_r() would pass over. */
bool kvp_has_gap(const char *text);

#endif
