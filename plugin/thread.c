/* SPDX-License-Identifier: Apache-2.0 */
#include "thread.h"

#include <signal.h>

int kvl_thread_create(const char *name, void *(*fn)(void *), void *arg, pthread_t *thread_out)
{
    pthread_t thread;
    sigset_t all;
    sigset_t before;
    int r;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    r = pthread_create(&thread, NULL, fn, arg);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (r != 0) {
        return -r;
    }
    (void)pthread_setname_np(thread, name);
    *thread_out = thread;
    return 0;
}
