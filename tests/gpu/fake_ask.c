/* SPDX-License-Identifier: Apache-2.0 */
/* What a test asks of the fake driver: how much is held, which call fails next. */
#include "fake_ask.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

static void find(const struct kvg_driver *d, const char *name, void *function)
{
    void *symbol = dlsym(d->library, name);

    cr_assert_not_null(symbol, "%s", name);
    memcpy(function, &symbol, sizeof(symbol));
}

void t_driver_open(struct kvg_driver *d)
{
    char text[256] = "";

    setenv("KVW_LIBCUDA", FAKECUDA, 1);
    cr_assert_eq(kvg_driver_open(d, text, sizeof(text)), KVW_OK, "%s", text);
}

void t_gpu_open(struct t_gpu *g)
{
    char text[256] = "";

    t_driver_open(&g->driver);
    cr_assert_eq(kvg_device_open(&g->dev, &g->driver, 0, text, sizeof(text)), KVW_OK, "%s", text);
}

void t_gpu_close(struct t_gpu *g)
{
    kvg_device_close(&g->dev);
    cr_expect_eq(t_live_total(&g->driver), 0);
    kvg_driver_close(&g->driver);
}

void t_fail(const struct kvg_driver *d, unsigned nth, kvg_result code)
{
    void (*function)(unsigned, kvg_result);

    find(d, "fakecuda_fail", &function);
    function(nth, code);
}

struct fakecuda_live t_live(const struct kvg_driver *d)
{
    void (*function)(struct fakecuda_live *);
    struct fakecuda_live live;

    find(d, "fakecuda_count", &function);
    function(&live);
    return live;
}

int t_live_total(const struct kvg_driver *d)
{
    const struct fakecuda_live l = t_live(d);

    return (int)(l.contexts + l.handles + l.reservations + l.mappings + l.hosts + l.streams +
                 l.events + l.libraries);
}

int t_open_fds(void)
{
    DIR *dir = opendir("/proc/self/fd");
    int n = 0;

    cr_assert_not_null(dir);
    while (readdir(dir) != NULL)
        ++n;
    closedir(dir);
    return n;
}
