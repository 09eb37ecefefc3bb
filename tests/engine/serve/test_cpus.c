/* SPDX-License-Identifier: Apache-2.0 */
/* A list of CPUs is read as people write it, and nothing else is. */
#include <criterion/criterion.h>

#include "../../../engine/serve/cpus.h"

Test(cpus, lists)
{
    cpu_set_t set;

    cr_assert(kve_cpus_parse(&set, "3"));
    cr_expect(CPU_COUNT(&set) == 1 && CPU_ISSET(3, &set));
    cr_assert(kve_cpus_parse(&set, "0,2,4-6"));
    cr_expect(CPU_COUNT(&set) == 5 && CPU_ISSET(0, &set) && CPU_ISSET(5, &set));
    cr_expect(!CPU_ISSET(3, &set));
    cr_assert(kve_cpus_parse(&set, "1023"));
    cr_assert(kve_cpus_parse(&set, "7-7"));
}

Test(cpus, nonsense)
{
    static const char *const bad[] = {
        "",    ",", "1,", "-1", "1-", "2-1", "a", "1 ", "1024", "1-99999", "99999999999999999999",
        "1,,2"};
    cpu_set_t set;

    CPU_ZERO(&set);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); ++i)
        cr_expect(!kve_cpus_parse(&set, bad[i]), "'%s'", bad[i]);
    cr_expect_eq(CPU_COUNT(&set), 0);
}
