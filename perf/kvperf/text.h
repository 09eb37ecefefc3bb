/* SPDX-License-Identifier: Apache-2.0 */
/*
 * text.h - what leaves the program: JSON that is well-formed UTF-8 whatever it was made of, and
 * standard output of which a failure isn't taken for success.
 *
 * threads  one      memory  none      time  none
 */
#ifndef KVP_TEXT_H
#define KVP_TEXT_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stdio.h>

/* Each byte that is no part of well-formed UTF-8 becomes a question mark; with controls also each
 * control character, which a terminal would obey. Never longer than before. */
void kvp_text_clean(char *text, bool controls);

/* The same of all names and texts in o. */
void kvp_json_clean(cJSON *o, bool controls);

/* Write o and a line's end, flush, and delete o in any case. False: errno says why not all of it is
 * there; ENOMEM for o NULL. */
bool kvp_json_write(FILE *f, cJSON *o, bool pretty);

/* A program's exit status after all its output: if that could not be written, the first call says
 * so on standard error, and a status of 0 becomes KVP_EXIT_FAILED. */
int kvp_out_status(int status);

#endif
