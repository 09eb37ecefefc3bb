/* SPDX-License-Identifier: Apache-2.0 */
/* A machine without a driver, with a wrong one, or without a GPU gets one sentence that says so. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "fake_ask.h"

/* Open fails with that code and those words, and leaves nothing. */
static void expect_driver(kvw_err err, const char *words)
{
    struct kvg_driver d;
    char text[256] = "";

    cr_expect_eq(kvg_driver_open(&d, text, sizeof(text)), err, "%s", text);
    cr_expect_not_null(strstr(text, words), "\"%s\" has no \"%s\"", text, words);
    cr_expect_eq(strncmp(text, "CUDA: ", 6), 0);
    cr_expect_null(d.library);
    cr_expect_null(d.init);
}

Test(gpu_driver, no_library)
{
    setenv("KVW_LIBCUDA", "/nowhere/libcuda.so.1", 1);
    expect_driver(KVW_E_NOTFOUND, "no driver here: /nowhere/libcuda.so.1: cannot open");
}

Test(gpu_driver, another_library)
{
    setenv("KVW_LIBCUDA", "libm.so.6", 1);
    expect_driver(KVW_E_UNSUPPORTED, "libm.so.6 is no CUDA driver");
}

Test(gpu_driver, too_old)
{
    setenv("KVW_LIBCUDA", FAKECUDA, 1);
    setenv("FAKECUDA_VERSION", "11040", 1);
    expect_driver(KVW_E_UNSUPPORTED, "the driver is for CUDA 11.4, but 12.0 is needed");
}

Test(gpu_driver, lacks_a_function)
{
    setenv("KVW_LIBCUDA", HALFCUDA, 1);
    expect_driver(KVW_E_UNSUPPORTED, "the driver (CUDA 12.2) has no cuInit");
}

Test(gpu_driver, no_gpu)
{
    setenv("KVW_LIBCUDA", FAKECUDA, 1);
    setenv("FAKECUDA_NONE", "1", 1);
    expect_driver(KVW_E_DEVICE, "the driver finds no GPU");
}

Test(gpu_driver, opens_and_names_errors)
{
    struct kvg_driver d;

    t_driver_open(&d);
    cr_expect_eq(d.version, 13000);
    cr_expect_str_eq(kvg_driver_error(&d, KVG_CU_NO_DEVICE), "CUDA_ERROR_NO_DEVICE");
    cr_expect_str_eq(kvg_driver_error(&d, 12345), "an unknown CUDA error");
    cr_expect_eq(kvg_driver_code(KVG_CU_OUT_OF_MEMORY), KVW_E_NOMEM);
    kvg_driver_close(&d);
    cr_expect_null(d.library);
}

static void expect_device(int ordinal, kvw_err err, const char *words)
{
    struct kvg_driver d;
    struct kvg_device dev;
    char text[256] = "";

    t_driver_open(&d);
    cr_expect_eq(kvg_device_open(&dev, &d, ordinal, text, sizeof(text)), err, "%s", text);
    cr_expect_not_null(strstr(text, words), "\"%s\" has no \"%s\"", text, words);
    cr_expect_null(dev.driver);
    kvg_device_close(&dev); /* of one that isn't open: nothing */
    cr_expect_eq(t_live_total(&d), 0);
    kvg_driver_close(&d);
}

Test(gpu_device, no_such_gpu)
{
    expect_device(1, KVW_E_NOTFOUND, "there is no GPU 1");
}

Test(gpu_device, wrong_arch)
{
    setenv("FAKECUDA_ARCH", "75", 1);
    expect_device(0, KVW_E_UNSUPPORTED,
                  "GPU 0 (Stand-in 75) is sm_75, and the kernels are for sm_80 on");
}

Test(gpu_device, facts)
{
    struct t_gpu g;

    setenv("FAKECUDA_ARCH", "100", 1);
    t_gpu_open(&g);
    cr_expect_eq(g.dev.arch, 100);
    cr_expect_eq(g.dev.multiprocessors, 4);
    cr_expect_str_eq(g.dev.name, "Stand-in 100");
    cr_expect(g.dev.has_dmabuf && g.dev.has_rdma && g.dev.can_flush && !g.dev.needs_flush);
    t_gpu_close(&g);
}

/* Each driver call in turn fails: an error with a sentence, or the device opens; nothing leaks. */
Test(gpu_device, unwinds_from_every_call)
{
    struct kvg_driver d;
    unsigned failures = 0;

    t_driver_open(&d);
    for (unsigned nth = 1; nth <= 20; ++nth) {
        struct kvg_device dev;
        char text[256] = "";

        t_fail(&d, nth, KVG_CU_OUT_OF_MEMORY);
        const kvw_err err = kvg_device_open(&dev, &d, 0, text, sizeof(text));

        t_fail(&d, 0, 0);
        if (err == KVW_OK) {
            kvg_device_close(&dev);
        } else {
            ++failures;
            cr_expect_gt(strlen(text), 10, "call %u", nth);
            cr_expect_null(dev.driver);
        }
        cr_expect_eq(t_live_total(&d), 0, "call %u", nth);
    }
    cr_expect_geq(failures, 4);
    kvg_driver_close(&d);
}
