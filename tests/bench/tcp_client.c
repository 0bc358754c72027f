/* SPDX-License-Identifier: Apache-2.0 */
#include "tcp_client.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fake_host.h"

#define SLOTS_MAX 32u
#define CHUNKS_MAX 64u
#define KEY_ROOM 64u

/* One batch that is under way, and all it needs. */
struct client_slot {
    struct kvl_batch batch;
    struct kvl_chunk chunks[CHUNKS_MAX];
    struct kvl_sg sg[CHUNKS_MAX];
    uint32_t sg_first[CHUNKS_MAX + 1];
    char keys[CHUNKS_MAX][KEY_ROOM];
    bool busy;
};

struct tcp_client {
    struct kvl_host host; /* first: complete() gets this address; the rest is the fake's */
    struct fake_host *fake;
    const struct kvl_backend_ops *ops;
    void *self;
    char connections[12];
    const char *pairs[12];
    struct client_slot *slots; /* slot_count of them */
    uint32_t slot_count;
    uint32_t slots_used; /* in this run: all of them need their memory */
    pthread_mutex_t lock; /* guards `busy` of the slots and what follows */
    pthread_cond_t changed;
    uint64_t done;
    uint64_t failed;
};

static void client_complete(const struct kvl_host *host, const struct kvl_completion *done)
{
    struct tcp_client *client = (struct tcp_client *)(uintptr_t)host;

    pthread_mutex_lock(&client->lock);
    client->slots[done->cookie].busy = false;
    client->done += client->slots[done->cookie].batch.count;
    client->failed += done->status != 0;
    pthread_cond_signal(&client->changed);
    pthread_mutex_unlock(&client->lock);
}

static int client_start(struct tcp_client *client, const char *module)
{
    struct kvl_err err = {.size = sizeof(err)};
    kvl_backend_entry_fn entry = NULL;
    void *dl = dlopen(module, RTLD_NOW | RTLD_LOCAL);

    if (dl != NULL) {
        *(void **)&entry = dlsym(dl, KVL_BACKEND_ENTRY);
    }
    if (entry == NULL) {
        fprintf(stderr, "%s\n", dlerror());
        return -1;
    }
    client->ops = entry()->ops;
    client->fake = fake_host_create(entry(), client->pairs);
    client->host = *fake_host_table(client->fake);
    client->host.complete = client_complete;
    if (client->ops->create(&client->host, &client->self, &err) < 0 ||
        client->ops->start(client->self, &err) < 0) {
        fprintf(stderr, "%s\n", err.text);
        return -1;
    }
    return 0;
}

struct tcp_client *tcp_client_open(const char *module, const char *url, uint32_t connections)
{
    struct tcp_client *client = calloc(1, sizeof(*client));

    if (client == NULL) {
        return NULL;
    }
    snprintf(client->connections, sizeof(client->connections), "%u", (unsigned)connections);
    memcpy(client->pairs,
           (const char *[]){"role", "client", "url", url, "connections", client->connections,
                            "client_threads", connections < 4 ? client->connections : "4", NULL},
           9 * sizeof(char *));
    pthread_mutex_init(&client->lock, NULL);
    pthread_cond_init(&client->changed, NULL);
    client->slot_count = connections * 2 < SLOTS_MAX ? connections * 2 : SLOTS_MAX;
    client->slots = calloc(client->slot_count, sizeof(*client->slots));
    if (client->slots == NULL || client_start(client, module) < 0) {
        tcp_client_close(client);
        return NULL;
    }
    return client;
}

void tcp_client_close(struct tcp_client *client)
{
    if (client == NULL) {
        return;
    }
    if (client->self != NULL) {
        client->ops->stop(client->self);
        client->ops->destroy(client->self);
    }
    if (client->fake != NULL) {
        fake_host_destroy(client->fake);
    }
    free(client->slots);
    free(client);
}

/* ---- a run ---- */

static uint32_t chunks_per_batch(const struct tcp_client *client, const struct tcp_load *load)
{
    size_t fit = TCP_LOAD_MEMORY / client->slots_used / load->size;
    size_t most = load->kind == TCP_LOAD_EXIST ? CHUNKS_MAX : 16;

    fit = fit > most || load->kind == TCP_LOAD_EXIST ? most : fit;
    return fit < load->keys ? (uint32_t)fit : load->keys;
}

static void slot_init(struct tcp_client *client, uint32_t index, const struct tcp_load *load)
{
    struct client_slot *slot = &client->slots[index];
    uint8_t *memory = tcp_load_memory() + TCP_LOAD_MEMORY / client->slots_used * index;
    uint32_t count = chunks_per_batch(client, load);
    bool moves = load->kind != TCP_LOAD_EXIST;

    slot->batch = (struct kvl_batch){.size = sizeof(slot->batch),
                                     .count = count,
                                     .cookie = index,
                                     .deadline_ms = KVL_NEVER,
                                     .chunks = slot->chunks,
                                     .sg = moves ? slot->sg : NULL,
                                     .sg_first = moves ? slot->sg_first : NULL};
    for (uint32_t i = 0; i < count; i++) {
        slot->chunks[i] = (struct kvl_chunk){.bytes = moves ? load->size : 0};
        slot->chunks[i].attrs = (struct kvl_attrs){4, 6, {(int32_t)load->size, 0, 0, 0}};
        slot->sg_first[i] = i;
        slot->sg_first[i + 1] = i + 1;
        slot->sg[i] = (struct kvl_sg){.addr = (uint64_t)(uintptr_t)memory + i * load->size,
                                      .length = load->size,
                                      .count = 1,
                                      .device = KVL_DEVICE_HOST};
    }
}

static int slot_submit(struct tcp_client *client, struct client_slot *slot,
                       const struct tcp_load *load, uint64_t *next)
{
    for (uint32_t i = 0; i < slot->batch.count; i++) {
        uint32_t number = load->first_key + (uint32_t)(*next % load->keys);

        slot->chunks[i].key.text = slot->keys[i];
        slot->chunks[i].key.length = (uint32_t)tcp_load_key(slot->keys[i], KEY_ROOM, number);
        (*next)++;
    }
    switch (load->kind) {
    case TCP_LOAD_PUT:
        return client->ops->write(client->self, &slot->batch);
    case TCP_LOAD_GET:
        return client->ops->read(client->self, &slot->batch);
    default:
        return client->ops->lookup(client->self, &slot->batch);
    }
}

/* Waits until a slot is free. The lock is held. */
static struct client_slot *slot_take(struct tcp_client *client)
{
    for (;;) {
        for (uint32_t i = 0; i < client->slots_used; i++) {
            if (!client->slots[i].busy) {
                client->slots[i].busy = true;
                return &client->slots[i];
            }
        }
        pthread_cond_wait(&client->changed, &client->lock);
    }
}

static void client_settle(struct tcp_client *client)
{
    for (uint32_t i = 0; i < client->slot_count; i++) {
        while (client->slots[i].busy) {
            pthread_cond_wait(&client->changed, &client->lock);
        }
    }
}

/* Keeps all slots busy for so long. @return chunks moved. */
static uint64_t client_drive(struct tcp_client *client, const struct tcp_load *load, double seconds)
{
    double until = tcp_load_now() + seconds;
    uint64_t next = 0;
    uint64_t before;

    pthread_mutex_lock(&client->lock);
    before = client->done;
    while (client->failed == 0 && tcp_load_now() < until) {
        struct client_slot *slot = slot_take(client);
        int r;

        pthread_mutex_unlock(&client->lock);
        r = slot_submit(client, slot, load, &next);
        pthread_mutex_lock(&client->lock);
        if (r < 0) {
            slot->busy = false;
            client->failed++;
        }
    }
    client_settle(client);
    before = client->done - before;
    pthread_mutex_unlock(&client->lock);
    return before;
}

int tcp_client_run(struct tcp_client *client, const struct tcp_load *load,
                   struct tcp_load_result *result_out)
{
    size_t fit = TCP_LOAD_MEMORY / load->size;
    double started;

    client->slots_used = client->slot_count < fit ? client->slot_count : (uint32_t)fit;
    for (uint32_t i = 0; i < client->slots_used; i++) {
        slot_init(client, i, load);
    }
    (void)client_drive(client, load, load->run_ms / 5000.0);
    started = tcp_load_now();
    *result_out = (struct tcp_load_result){
        .ops = client_drive(client, load, load->run_ms / 1000.0),
    };
    result_out->seconds = tcp_load_now() - started;
    result_out->ops_per_s = (double)result_out->ops / result_out->seconds;
    result_out->gb_per_s = result_out->ops_per_s * (double)load->size / 1e9;
    if (client->failed > 0) {
        fprintf(stderr, "our client: a batch failed\n");
        return -1;
    }
    return 0;
}
