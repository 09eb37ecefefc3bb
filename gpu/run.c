/* SPDX-License-Identifier: Apache-2.0 */
/* run.c - launches a pass's steps, enqueues its products, records and awaits its events. */
#include "run.h"

#include <stdio.h>
#include <string.h>

static kvw_err code_of(kvg_result r)
{
    return r == KVG_CU_SUCCESS ? KVW_OK : kvg_driver_code(r);
}

static kvw_err launch(void *arg, enum kvg_step step, uint32_t grid, const void *params)
{
    const struct kvg_run *r = arg;
    const struct kvg_launch config = {
        .grid_x = grid,
        .grid_y = 1,
        .grid_z = 1,
        .block_x = KVG_STEP_THREADS,
        .block_y = 1,
        .block_z = 1,
        .shared_bytes = kvg_step_kernels[step].shared_bytes,
        .stream = r->stream,
    };
    void *values[] = {(void *)(uintptr_t)params}; /* the driver copies what is there */

    return code_of(r->dev->driver->launch(&config, r->kernel[step], values, NULL));
}

static kvw_err multiply(void *arg, const struct kvg_product *p)
{
    const struct kvg_run *r = arg;

    return kvg_blas_multiply(r->blas, p, r->stream);
}

static kvw_err written(void *arg, uint32_t layer)
{
    const struct kvg_run *r = arg;

    if (r->ready == NULL)
        return KVW_OK;
    return code_of(r->dev->driver->event_record(r->ready[layer], r->stream, 0));
}

static kvw_err await(void *arg, uint32_t layer)
{
    const struct kvg_run *r = arg;

    if (r->arrived == NULL)
        return KVW_OK;
    return code_of(r->dev->driver->stream_wait_event(r->stream, r->arrived[layer], 0));
}

static kvg_result find_all(struct kvg_run *r, const char **missing)
{
    kvg_result e = KVG_CU_SUCCESS;

    for (uint32_t i = 0; i < KVG_STEPS && e == KVG_CU_SUCCESS; ++i) {
        *missing = kvg_step_kernels[i].name;
        e = r->dev->driver->library_kernel(&r->kernel[i], r->library, *missing);
    }
    return e;
}

static bool is_of_image(kvg_result r)
{
    return r == KVG_CU_NO_BINARY_FOR_GPU || r == KVG_CU_INVALID_IMAGE || r == KVG_CU_NOT_FOUND;
}

kvw_err kvg_run_open(struct kvg_run *r, const struct kvg_device *dev, const void *image, char *text,
                     size_t text_bytes)
{
    const char *missing = "";
    kvg_result e;

    memset(r, 0, sizeof(*r));
    r->dev = dev;
    r->runner = (struct kvg_runner){
        .arg = r, .launch = launch, .multiply = multiply, .written = written, .wait = await};
    e = dev->driver->library_load(&r->library, image, NULL, NULL, 0, NULL, NULL, 0);
    if (e == KVG_CU_SUCCESS)
        e = find_all(r, &missing);
    if (e == KVG_CU_SUCCESS)
        return KVW_OK;
    snprintf(text, text_bytes, "CUDA: GPU %d (%s, sm_%d) takes no kernels %s of this build: %s",
             dev->ordinal, dev->name, dev->arch, missing, kvg_driver_error(dev->driver, e));
    kvg_run_close(r);
    return is_of_image(e) ? KVW_E_UNSUPPORTED : kvg_driver_code(e);
}

void kvg_run_close(struct kvg_run *r)
{
    if (r->library != NULL)
        (void)r->dev->driver->library_unload(r->library);
    memset(r, 0, sizeof(*r));
}
