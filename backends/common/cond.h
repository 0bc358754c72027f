/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KVL_COND_H
#define KVL_COND_H

#include <pthread.h>

/** A condition whose timed waits go by CLOCK_MONOTONIC, as all deadlines. @return as
 *  pthread_cond_init. */
int kvl_monotonic_cond_init(pthread_cond_t *cond);

#endif /* KVL_COND_H */
