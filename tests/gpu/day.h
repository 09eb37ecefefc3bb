/* SPDX-License-Identifier: Apache-2.0 */
/*
 * day.h - what the files of gpu_day share: the GPU, and a way out when something fails.
 *
 * threads  one
 */
#ifndef T_DAY_H
#define T_DAY_H

#include "gpu/device.h"
#include "gpu/mem.h"

enum { DAY_REPEATS = 7 };

struct day {
    struct kvg_driver d;
    struct kvg_device dev;
    void *image;
    bool small; /* for the stand-in */
    char text[256];
};

/* Ends the program with the sentence. */
void day_give_up(const char *what, const char *why);
void day_must(struct day *y, kvw_err err, const char *what);
void day_must_cuda(struct day *y, kvg_result r, const char *what);
double day_now_s(void);
/* Sorts t. */
double day_median(double *t, int n);
/* The median of the seconds that a copy takes, least and most in t[0] and the last. */
double day_copy(struct day *y, void *to, void *from, uint64_t bytes, double t[DAY_REPEATS]);

/* The step `model`: a forward pass of Llama-3-8B's shape with random weights (day_model.c). */
int day_model(struct day *y);

#endif
