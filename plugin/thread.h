/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KVL_PLUGIN_THREAD_H
#define KVL_PLUGIN_THREAD_H

#include <pthread.h>
#include <stdint.h>

/**
 * Starts a thread with every signal blocked: signals belong to the engine's own threads. A name of
 * more than 15 bytes leaves it unnamed. @return 0; -EAGAIN, -ENOMEM.
 */
int kvl_thread_create(const char *name, void *(*fn)(void *), void *arg, pthread_t *thread_out);

/** A condition that waits by CLOCK_MONOTONIC. */
void kvl_cond_init(pthread_cond_t *cond);

/** Waits once, the lock is held. @return 0, also for nothing; ETIMEDOUT. */
int kvl_cond_wait(pthread_cond_t *cond, pthread_mutex_t *lock, uint64_t deadline_ms);

/** Now, in ms of CLOCK_MONOTONIC. */
uint64_t kvl_now_ms(void);

#endif /* KVL_PLUGIN_THREAD_H */
