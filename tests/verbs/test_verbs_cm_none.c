/* SPDX-License-Identifier: Apache-2.0 */
/* A build without librdmacm says so where an address asks for rdma_cm, leaves nothing behind, and
 * joins by its side channel as ever. cm_none.c is linked in cm.c's place, on the pretended fabric.
 */
#include <criterion/criterion.h>
#include <string.h>

#include "duo.h"

static char why[KVN_WHY_BYTES];

TestSuite(verbs_cm_none, .timeout = 60);

Test(verbs_cm_none, says_so)
{
    static const char *const addresses[][2] = {{"fake0,cm=1", NULL},
                                               {"fake0,cm=127.0.0.1", NULL},
                                               {"fake0+fake1,cm=1", NULL},
                                               {NULL, "127.0.0.1:0,cm=1"}};

    for (size_t i = 0; i < sizeof(addresses) / sizeof(*addresses); ++i) {
        vf_reset(31);
        why[0] = '\0';
        cr_expect_not(duo_open(addresses[i][0], addresses[i][1], why), "pair %zu", i);
        cr_expect(strstr(why, "this build has no librdmacm; install librdmacm-dev") != NULL,
                  "pair %zu: '%s'", i, why);
        duo_close();
        cr_expect_eq(vf.live, 0, "pair %zu: %d objects are left", i, vf.live);
    }
}

Test(verbs_cm_none, joins_without_it)
{
    vf_reset(32);
    cr_assert(duo_open("fake0+fake1", "127.0.0.1:0+fake1", why), "%s", why);
    cr_assert(duo_join(), "%s / %s", duo_a.down_text, duo_b.down_text);
    for (uint32_t n = 0; n < 50; ++n)
        while (duo_put(&duo_a, n, n * 2048, 2000) == KVW_E_AGAIN && duo_a.downs == 0)
            duo_step();
    duo_run(3000);
    for (uint32_t n = 0; n < 50; ++n)
        cr_assert(duo_a.done[n] == 1 && duo_b.landed[n] == 1 &&
                      memcmp(duo_b.region + n * 2048, duo_a.source + n * 2048, 2000) == 0,
                  "put %u: done %d, landed %d", n, duo_a.done[n], duo_b.landed[n]);
    cr_expect_eq(duo_a.downs + duo_b.downs, 0);
    duo_close();
    cr_expect_eq(vf.live, 0, "%d objects are left", vf.live);
}
