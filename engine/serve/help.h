/* SPDX-License-Identifier: Apache-2.0 */
/* help.h - what kvserve --help says: texts to be put together, ended by NULL. */
#ifndef KVE_HELP_H
#define KVE_HELP_H

extern const char *const kve_help[];
/* Texts, ended by NULL, on standard output; the exit status. */
int kve_help_print(const char *const *texts);

#endif
