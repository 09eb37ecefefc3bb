/* SPDX-License-Identifier: Apache-2.0 */
/* up_none.c - `kvserve up` of a build without libevent. */
#include <stdio.h>

#include "up.h"

const bool kve_up_built = false;

int kve_up_main(const struct kve_up_config *cfg)
{
    (void)cfg;
    fprintf(stderr, "kvserve up: this build has no HTTP (it was built without libevent-dev)\n");
    return 1;
}

void kve_up_interrupt(int sig)
{
    (void)sig;
}
