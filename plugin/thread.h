/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KVL_PLUGIN_THREAD_H
#define KVL_PLUGIN_THREAD_H

#include <pthread.h>

/**
 * Starts a thread with every signal blocked: signals belong to the engine's own threads. A name of
 * more than 15 bytes leaves it unnamed. @return 0; -EAGAIN, -ENOMEM.
 */
int kvl_thread_create(const char *name, void *(*fn)(void *), void *arg, pthread_t *thread_out);

#endif /* KVL_PLUGIN_THREAD_H */
