/* SPDX-License-Identifier: Apache-2.0 */
/* The thread that saves the registry for a standby that begins. */
#include "controller_base.h"
#include "controller_replica_state.h"

void *controller_replica_save(void *arg)
{
    struct controller_replica *replica = arg;
    struct controller_saver *saver = &replica->saver;

    pthread_mutex_lock(&saver->lock);
    while (!saver->stopping) {
        uint64_t bytes = 0;
        int fd = -1;
        int r;

        if (!saver->is_wanted || saver->is_done) {
            pthread_cond_wait(&saver->wake, &saver->lock);
            continue;
        }
        pthread_mutex_unlock(&saver->lock);
        r = controller_base_save(replica->host, replica->options->replica_dir, &fd, &bytes);
        pthread_mutex_lock(&saver->lock);
        saver->exact = controller_ring_next(&replica->ring);
        saver->code = r;
        saver->fd = fd;
        saver->bytes = bytes;
        saver->is_done = 1;
    }
    pthread_mutex_unlock(&saver->lock);
    return NULL;
}

void controller_saver_ask(struct controller_saver *saver)
{
    pthread_mutex_lock(&saver->lock);
    saver->is_wanted = 1;
    pthread_cond_signal(&saver->wake);
    pthread_mutex_unlock(&saver->lock);
}

int controller_saver_take(struct controller_saver *saver, struct controller_saver *answer_out)
{
    int is_done;

    pthread_mutex_lock(&saver->lock);
    is_done = saver->is_done;
    if (is_done) {
        answer_out->code = saver->code;
        answer_out->fd = saver->fd;
        answer_out->bytes = saver->bytes;
        answer_out->exact = saver->exact;
        saver->is_wanted = 0;
        saver->is_done = 0;
        saver->fd = -1;
    }
    pthread_mutex_unlock(&saver->lock);
    return is_done;
}
