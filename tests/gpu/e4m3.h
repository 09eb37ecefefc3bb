/* SPDX-License-Identifier: Apache-2.0 */
/* e4m3.h - fp8 e4m3 by its definition, for tests: what a byte means, and which byte is nearest. */
#ifndef T_E4M3_H
#define T_E4M3_H

#include <math.h>
#include <stdint.h>

#define T_E4M3_LARGEST 126u /* of 0 .. 126, the finite ones that aren't negative */

static inline double t_e4m3_value(uint8_t bits)
{
    const int exponent = bits >> 3 & 15, mantissa = bits & 7;
    const double v = exponent == 0 ? ldexp(mantissa, -9) : ldexp(8 + mantissa, exponent - 10);

    if ((bits & 0x7f) > T_E4M3_LARGEST)
        return NAN;
    return bits >> 7 != 0 ? -v : v;
}

/* Of two that are as near the even one; beyond the largest there is nothing. */
static inline uint8_t t_e4m3_nearest(double v)
{
    const double a = fabs(v);
    uint8_t low = 0, high = T_E4M3_LARGEST; /* value(low) <= a, or low is 0 */

    if (isnan(v))
        return 0x7f;
    while (low < high) {
        const uint8_t middle = (uint8_t)((low + high + 1) / 2);

        if (t_e4m3_value(middle) <= a)
            low = middle;
        else
            high = (uint8_t)(middle - 1);
    }
    if (low < T_E4M3_LARGEST) {
        const double up = t_e4m3_value((uint8_t)(low + 1)) - a, down = a - t_e4m3_value(low);

        low = (uint8_t)(low + (up < down || (up == down && low % 2 != 0)));
    }
    return (uint8_t)(low | (signbit(v) ? 0x80 : 0));
}
#endif
