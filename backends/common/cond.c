/* SPDX-License-Identifier: Apache-2.0 */
#include "cond.h"

#include <time.h>

int kvl_monotonic_cond_init(pthread_cond_t *cond)
{
    pthread_condattr_t attr;
    int r;

    (void)pthread_condattr_init(&attr);
    (void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    r = pthread_cond_init(cond, &attr);
    (void)pthread_condattr_destroy(&attr);
    return r;
}
