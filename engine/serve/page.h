/* SPDX-License-Identifier: Apache-2.0 */
/* page.h - page.html as it stands in the program: a NUL-terminated text. embed.py makes it. */
#ifndef KVE_PAGE_H
#define KVE_PAGE_H

extern const char kve_page[];

#endif
