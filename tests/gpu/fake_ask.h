/* SPDX-License-Identifier: Apache-2.0 */
/* fake_ask.h - for tests: the stand-in loaded as the driver, and what it says of itself. */
#ifndef FAKE_ASK_H
#define FAKE_ASK_H

#include "fake/fake.h"
#include "gpu/mem.h"

/* The driver and its one GPU; the test fails where that doesn't open. */
struct t_gpu {
    struct kvg_driver driver;
    struct kvg_device dev;
};
void t_gpu_open(struct t_gpu *g);
void t_gpu_close(struct t_gpu *g);

/* Only load it: KVW_LIBCUDA is set to the stand-in. */
void t_driver_open(struct kvg_driver *d);

void t_fail(const struct kvg_driver *d, unsigned nth, kvg_result code);
struct fakecuda_live t_live(const struct kvg_driver *d);
int t_live_total(const struct kvg_driver *d);
int t_open_fds(void);
#endif
