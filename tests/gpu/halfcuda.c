/* SPDX-License-Identifier: Apache-2.0 */
/* halfcuda.c - a driver that says it is new enough, and has hardly a function. */
__attribute__((visibility("default"))) int cuDriverGetVersion(int *version);

int cuDriverGetVersion(int *version)
{
    *version = 12020;
    return 0;
}
