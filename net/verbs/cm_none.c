/* SPDX-License-Identifier: Apache-2.0 */
/* In place of cm.c where librdmacm was not found when this was built. */
#include <stdio.h>

#include "cm.h"

kvw_err kvn_verbs_cm_open(struct end *e, bool listener, char why[KVN_WHY_BYTES])
{
    (void)e;
    (void)listener;
    snprintf(why, KVN_WHY_BYTES,
             "verbs: cm: this build has no librdmacm; install librdmacm-dev and build again, or "
             "leave cm out: the side channel joins queue pairs, too");
    return KVW_E_UNSUPPORTED;
}

void kvn_verbs_cm_close(struct end *e)
{
    (void)e;
}

int kvn_verbs_cm_fd(const struct end *e)
{
    (void)e;
    return -1;
}

void kvn_verbs_cm_dial(struct end *e, struct conn *c)
{
    (void)e;
    (void)c;
}

void kvn_verbs_cm_events(struct end *e)
{
    (void)e;
}

void kvn_verbs_cm_tick(struct end *e, struct conn *c)
{
    (void)e;
    (void)c;
}

uint64_t kvn_verbs_cm_deadline(const struct conn *c)
{
    (void)c;
    return UINT64_MAX;
}

void kvn_verbs_cm_drop(struct path *p)
{
    (void)p;
}
