/* SPDX-License-Identifier: Apache-2.0 */
#include "fake_host.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "fake_host_parts.h"

struct fake_done {
    struct fake_done *next;
    uint64_t cookie;
    uint32_t times;
    struct fake_result result;
};

struct fake_target {
    struct fake_target *next;
    uint64_t cookie;
    uint32_t item;
    struct kvl_chunk found;
    void *data;
};

struct fake_name {
    struct fake_name *next;
    char text[KVL_KEY_MAX + 1];
};

/* ---- what a backend tells ---- */

static struct fake_done *fake_done_of(struct fake_host *fake, uint64_t cookie)
{
    struct fake_done *record = fake->done;

    while (record != NULL && record->cookie != cookie) {
        record = record->next;
    }
    return record;
}

static void fake_complete(const struct kvl_host *host, const struct kvl_completion *done)
{
    struct fake_host *fake = fake_of(host);
    struct fake_done *record;

    pthread_mutex_lock(&fake->lock);
    for (record = fake->done; record != NULL; record = record->next) {
        if (record->cookie == done->cookie) {
            break;
        }
    }
    if (record == NULL) {
        record = calloc(1, sizeof(*record));
        record->cookie = done->cookie;
        record->next = fake->done;
        fake->done = record;
    }
    record->times++;
    record->result.status = done->status;
    record->result.bytes = done->bytes;
    record->result.item_count = done->item_count;
    for (uint32_t i = 0; i < done->item_count && i < FAKE_ITEMS_MAX; i++) {
        record->result.items[i] = done->item_status[i];
    }
    pthread_cond_broadcast(&fake->changed);
    pthread_mutex_unlock(&fake->lock);
}

static int fake_read_target(const struct kvl_host *host, uint64_t cookie, uint32_t item,
                            const struct kvl_chunk *found, void **addr_out)
{
    struct fake_host *fake = fake_of(host);
    struct fake_target *target;
    int r;

    pthread_mutex_lock(&fake->lock);
    r = fake->target_code;
    if (r == 0) {
        target = calloc(1, sizeof(*target));
        target->cookie = cookie;
        target->item = item;
        target->found = *found;
        target->data = found->bytes == 0 ? NULL : aligned_alloc(64, (found->bytes + 63) / 64 * 64);
        target->next = fake->targets;
        fake->targets = target;
        *addr_out = target->data;
    }
    pthread_mutex_unlock(&fake->lock);
    return r;
}

static int fake_list_add(const struct kvl_host *host, uint64_t cookie, const struct kvl_key *keys,
                         uint32_t count)
{
    struct fake_host *fake = fake_of(host);

    (void)cookie;
    pthread_mutex_lock(&fake->lock);
    for (uint32_t i = 0; i < count; i++) {
        struct fake_name *name = calloc(1, sizeof(*name));

        memcpy(name->text, keys[i].text, keys[i].length);
        name->next = fake->names;
        fake->names = name;
    }
    pthread_mutex_unlock(&fake->lock);
    return 0;
}

static void fake_progress(const struct kvl_host *host, uint64_t cookie, uint32_t layers)
{
    struct fake_host *fake = fake_of(host);

    pthread_mutex_lock(&fake->lock);
    if (cookie == fake->progress_cookie && layers <= fake->progress_layers) {
        fake_die("progress that does not grow", "");
    }
    fake->progress_cookie = cookie;
    fake->progress_layers = layers;
    fake->progress_calls++;
    pthread_cond_broadcast(&fake->changed);
    pthread_mutex_unlock(&fake->lock);
}

void fake_batch_fill(struct kvl_host *table)
{
    table->complete = fake_complete;
    table->read_target = fake_read_target;
    table->list_add = fake_list_add;
    table->progress = fake_progress;
}

void fake_batch_fini(struct fake_host *fake)
{
    while (fake->done != NULL) {
        struct fake_done *next = fake->done->next;

        free(fake->done);
        fake->done = next;
    }
    while (fake->targets != NULL) {
        struct fake_target *next = fake->targets->next;

        free(fake->targets->data);
        free(fake->targets);
        fake->targets = next;
    }
    while (fake->names != NULL) {
        struct fake_name *next = fake->names->next;

        free(fake->names);
        fake->names = next;
    }
}

/* ---- what a test asks ---- */

int fake_host_wait(struct fake_host *fake, uint64_t cookie, struct fake_result *result_out)
{
    const struct timespec until = fake_until();
    struct fake_done *record;
    int r = 0;

    pthread_mutex_lock(&fake->lock);
    while ((record = fake_done_of(fake, cookie)) == NULL && r == 0) {
        r = pthread_cond_timedwait(&fake->changed, &fake->lock, &until);
    }
    if (record != NULL && result_out != NULL) {
        *result_out = record->result;
    }
    pthread_mutex_unlock(&fake->lock);
    return record == NULL ? -ETIMEDOUT : 0;
}

uint32_t fake_host_completions(struct fake_host *fake, uint64_t cookie)
{
    const struct fake_done *record;
    uint32_t times;

    pthread_mutex_lock(&fake->lock);
    record = fake_done_of(fake, cookie);
    times = record == NULL ? 0 : record->times;
    pthread_mutex_unlock(&fake->lock);
    return times;
}

uint32_t fake_host_completions_all(struct fake_host *fake)
{
    uint32_t times = 0;

    pthread_mutex_lock(&fake->lock);
    for (const struct fake_done *record = fake->done; record != NULL; record = record->next) {
        times += record->times;
    }
    pthread_mutex_unlock(&fake->lock);
    return times;
}

const void *fake_host_target(struct fake_host *fake, uint64_t cookie, uint32_t item,
                             struct kvl_chunk *found_out)
{
    const struct fake_target *target;
    const void *data = NULL;

    pthread_mutex_lock(&fake->lock);
    for (target = fake->targets; target != NULL; target = target->next) {
        if (target->cookie == cookie && target->item == item) {
            data = target->data;
            if (found_out != NULL) {
                *found_out = target->found;
            }
        }
    }
    pthread_mutex_unlock(&fake->lock);
    return data;
}

void fake_host_set_target_code(struct fake_host *fake, int code)
{
    pthread_mutex_lock(&fake->lock);
    fake->target_code = code;
    pthread_mutex_unlock(&fake->lock);
}

int fake_host_listed(struct fake_host *fake, const char *key)
{
    int found = 0;

    pthread_mutex_lock(&fake->lock);
    for (const struct fake_name *name = fake->names; name != NULL; name = name->next) {
        found = found || strcmp(name->text, key) == 0;
    }
    pthread_mutex_unlock(&fake->lock);
    return found;
}

uint32_t fake_host_listed_count(struct fake_host *fake)
{
    uint32_t count = 0;

    pthread_mutex_lock(&fake->lock);
    for (const struct fake_name *name = fake->names; name != NULL; name = name->next) {
        count++;
    }
    pthread_mutex_unlock(&fake->lock);
    return count;
}

uint32_t fake_host_progress(struct fake_host *fake, uint64_t *cookie_out, uint32_t *layers_out)
{
    uint32_t calls;

    pthread_mutex_lock(&fake->lock);
    calls = fake->progress_calls;
    *cookie_out = fake->progress_cookie;
    *layers_out = fake->progress_layers;
    pthread_mutex_unlock(&fake->lock);
    return calls;
}
