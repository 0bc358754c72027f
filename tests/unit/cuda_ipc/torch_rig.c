/* SPDX-License-Identifier: Apache-2.0 */
#include "torch_rig.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cuda_ipc_counter.h"
#include "ipc.h"
#include "ring_rig.h"

#define HANDLE_MAX (26u + 64u * TORCH_SEGMENTS)
#define FIRST_SLOT 7u
#define PAGE 4096u

/** The producer, in its process. */
struct producer {
    struct torch_order order;
    struct cuda_rig rig;
    struct cuda_ipc_place place;
    struct ring_rig *ring;
    cuda_stream stream;
    cuda_ptr base;
    int fds[TORCH_SEGMENTS];
    void *filled[TORCH_LAYERS_MAX]; /* pinned */
    uint8_t handles[TORCH_LAYERS_MAX][HANDLE_MAX];
    char names[TORCH_LAYERS_MAX][64];
    char uuid[64];
    struct cuda_ipc_event_handle events[TORCH_LAYERS_MAX];
    struct kvl_ipc_wrapper wrappers[TORCH_LAYERS_MAX];
};

uint8_t torch_peer_fill(uint32_t layer)
{
    return (uint8_t)(0x80u + layer);
}

/* Layers of expandable segments lie across their borders. */
static uint64_t producer_offset(const struct producer *p, uint32_t layer)
{
    return p->order.kind == TORCH_EXPANDABLE
               ? TORCH_SEGMENT - PAGE + (uint64_t)layer * TORCH_LAYER_BYTES
               : 512 + (uint64_t)layer * TORCH_LAYER_BYTES;
}

static uint64_t producer_bytes(const struct producer *p)
{
    return producer_offset(p, p->order.layers);
}

/* ---- memory ---- */

static void producer_expand(struct producer *p)
{
    const struct cuda_mem_prop prop = {
        .type = CUDA_MEM_PINNED,
        .handle_types = CUDA_HANDLE_FD,
        .location = {.type = CUDA_LOCATION_DEVICE, .id = p->place.device},
    };
    const struct cuda_access access = {
        .location = {.type = CUDA_LOCATION_DEVICE, .id = p->place.device},
        .flags = CUDA_ACCESS_READ_WRITE,
    };
    const struct cuda_ipc_api *api = &p->rig.api;
    const size_t bytes = (size_t)TORCH_SEGMENTS * TORCH_SEGMENT;

    CUDA_RIG_CHECK(api->mem_address_reserve(&p->base, bytes, 0, 0, 0) == CUDA_OK);
    for (uint32_t i = 0; i < TORCH_SEGMENTS; i++) {
        cuda_mem mem = 0;

        CUDA_RIG_CHECK(api->mem_create(&mem, TORCH_SEGMENT, &prop, 0) == CUDA_OK);
        CUDA_RIG_CHECK(api->mem_map(p->base + i * TORCH_SEGMENT, TORCH_SEGMENT, 0, mem, 0) ==
                       CUDA_OK);
        CUDA_RIG_CHECK(api->mem_export_to_shareable_handle(&p->fds[i], mem, CUDA_HANDLE_FD, 0) ==
                       CUDA_OK);
        CUDA_RIG_CHECK(api->mem_release(mem) == CUDA_OK);
    }
    CUDA_RIG_CHECK(api->mem_set_access(p->base, bytes, &access, 1) == CUDA_OK);
}

static void producer_shrink(struct producer *p)
{
    const struct cuda_ipc_api *api = &p->rig.api;

    for (uint32_t i = 0; i < TORCH_SEGMENTS; i++) {
        CUDA_RIG_CHECK(api->mem_unmap(p->base + i * TORCH_SEGMENT, TORCH_SEGMENT) == CUDA_OK);
        close(p->fds[i]);
    }
    CUDA_RIG_CHECK(api->mem_address_free(p->base, (size_t)TORCH_SEGMENTS * TORCH_SEGMENT) ==
                   CUDA_OK);
}

static void producer_alloc(struct producer *p)
{
    if (p->order.kind == TORCH_EXPANDABLE) {
        producer_expand(p);
    } else {
        CUDA_RIG_CHECK(p->rig.api.mem_alloc(&p->base, producer_bytes(p)) == CUDA_OK);
    }
}

/* Page by page: a write stays within a segment. The event of each layer is behind its writes. */
static void producer_write(struct producer *p)
{
    const struct cuda_ipc_api *api = &p->rig.api;

    for (uint32_t i = 0; i < p->order.layers; i++) {
        CUDA_RIG_CHECK(api->mem_host_alloc(&p->filled[i], TORCH_LAYER_BYTES, 0) == CUDA_OK);
        memset(p->filled[i], torch_peer_fill(i), TORCH_LAYER_BYTES);
        for (uint32_t at = 0; at < TORCH_LAYER_BYTES; at += PAGE) {
            CUDA_RIG_CHECK(api->memcpy_htod_async(p->base + producer_offset(p, i) + at,
                                                  (char *)p->filled[i] + at, PAGE,
                                                  p->stream) == CUDA_OK);
        }
        CUDA_RIG_CHECK(ring_rig_record(p->ring, p->stream, &p->events[i], NULL) == 0);
    }
}

/* ---- wrappers ---- */

static uint32_t put_expandable(const struct producer *p, uint32_t layer, uint8_t *out)
{
    int is_last = layer + 1 == p->order.layers;
    int is_fabric = is_last && p->order.fault == TORCH_FABRIC;
    int32_t pid = getpid() + (is_last && p->order.fault == TORCH_OTHER_PID);
    uint64_t segment = TORCH_SEGMENT;
    uint64_t count = TORCH_SEGMENTS;
    uint32_t length = 26;

    out[0] = 1;
    out[1] = 'e';
    memcpy(out + 2, &pid, sizeof(pid));
    memset(out + 6, (int)(0xa0u + layer), 4); /* padding: whatever was there */
    memcpy(out + 10, &segment, sizeof(segment));
    memcpy(out + 18, &count, sizeof(count));
    for (uint32_t i = 0; i < TORCH_SEGMENTS; i++) {
        int32_t fd = is_last && p->order.fault == TORCH_BAD_FD ? 9999 : p->fds[i];

        memcpy(out + length, &fd, sizeof(fd));
        length += is_fabric ? 64u : 4u;
    }
    return length;
}

static uint32_t put_handle(const struct producer *p, uint32_t layer, uint8_t *out)
{
    struct cuda_ipc_mem_handle handle;
    uint32_t head = p->order.kind == TORCH_RAW ? 0 : 2;

    if (p->order.kind == TORCH_EXPANDABLE) {
        return put_expandable(p, layer, out);
    }
    CUDA_RIG_CHECK(p->rig.api.ipc_get_mem_handle(&handle, p->base) == CUDA_OK);
    out[0] = 2;
    out[1] = 'c';
    memcpy(out + head, handle.bytes, sizeof(handle.bytes));
    return head + (uint32_t)sizeof(handle.bytes);
}

static void spoil(struct producer *p, uint32_t layer, struct kvl_ipc_wrapper *wrapper)
{
    if (layer + 1 < p->order.layers) {
        return;
    }
    switch (p->order.fault) {
    case TORCH_OTHER_LAYOUT:
        wrapper->shape[1] /= 2;
        wrapper->shape[2] *= 2;
        break;
    case TORCH_OTHER_PROCESS:
        snprintf(p->names[layer], sizeof(p->names[layer]), "/torch_%d_1_0", getpid() + 1);
        wrapper->counter_name.length = strlen(p->names[layer]);
        break;
    case TORCH_TOO_LONG:
        wrapper->base_offset += 4096;
        break;
    case TORCH_BAD_EVENT:
        memset(&p->events[layer], 0x5a, sizeof(p->events[layer]));
        break;
    default:
        break;
    }
}

static void producer_wrap(struct producer *p, uint32_t layer)
{
    static const int64_t shape[5] = {2, 4, 16, 2, 16};
    struct kvl_ipc_wrapper *wrapper = &p->wrappers[layer];

    snprintf(p->names[layer], sizeof(p->names[layer]), "/torch_%d_17_0", getpid());
    *wrapper = (struct kvl_ipc_wrapper){
        .form = KVL_IPC_FORM_A,
        .flags = KVL_IPC_EVENT_SYNC,
        .dtype = KVL_IPC_DTYPE_FLOAT16,
        .handle = {p->handles[layer], put_handle(p, layer, p->handles[layer])},
        .storage_bytes = TORCH_LAYER_BYTES,
        .base_offset = producer_offset(p, layer),
        .counter_name = {p->names[layer], strlen(p->names[layer])},
        .counter_slot = FIRST_SLOT + layer,
        .event = {&p->events[layer], sizeof(p->events[layer])},
        .device_uuid = {p->uuid, strlen(p->uuid)},
        .dims = 5,
    };
    memcpy(wrapper->shape, shape, sizeof(shape));
    spoil(p, layer, wrapper);
}

static void producer_send(struct producer *p, int fd)
{
    static uint8_t bytes[TORCH_MESSAGE_MAX];
    struct kvl_err err = {.size = sizeof(err)};
    struct kvl_ipc_value value = {
        .size = sizeof(value),
        .kind = KVL_IPC_KV_CACHE,
        .count = p->order.layers,
        .wrappers = p->wrappers,
    };
    size_t length = 0;
    uint64_t sent;

    if (kvl_ipc_table.encode(NULL, &value, bytes, sizeof(bytes), &length, &err) < 0) {
        cuda_rig_die(__FILE__, __LINE__, err.text);
    }
    sent = length;
    cuda_rig_send(fd, &sent, sizeof(sent));
    cuda_rig_send(fd, bytes, length);
    cuda_rig_send(fd, p->names[0], sizeof(p->names[0]));
}

static void producer_count(const struct producer *p)
{
    const int32_t users = 1;
    uint8_t *file;
    int fd;

    if (p->order.fault == TORCH_NO_COUNTERS) {
        return;
    }
    fd = shm_open(p->names[0], O_RDWR | O_CREAT | O_EXCL, 0600);
    CUDA_RIG_CHECK(fd >= 0);
    CUDA_RIG_CHECK(ftruncate(fd, CUDA_IPC_COUNTER_BYTES) == 0);
    file = mmap(NULL, CUDA_IPC_COUNTER_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CUDA_RIG_CHECK(file != MAP_FAILED);
    close(fd);
    memcpy(file, &users, sizeof(users));
    for (uint32_t i = 0; i < p->order.layers && p->order.fault != TORCH_COUNTED; i++) {
        const int64_t value = p->order.fault == TORCH_TWO_USERS ? 2 : 1;

        memcpy(file + 64 + 8 * (FIRST_SLOT + i), &value, sizeof(value));
    }
    munmap(file, CUDA_IPC_COUNTER_BYTES);
}

static void producer_name_device(struct producer *p)
{
    int head = p->order.fault == TORCH_ODD_UUID ? 4 : 0;

    memcpy(p->uuid, "GPU-", 4);
    kvl_ipc_table.uuid_text((const uint8_t *)p->place.uuid.bytes, p->uuid + head);
    if (p->order.fault == TORCH_OTHER_UUID) {
        p->uuid[0] = p->uuid[0] == '0' ? '1' : '0';
    }
}

/* ---- its life ---- */

static void producer_open(struct producer *p)
{
    cuda_rig_open(&p->rig);
    share_place_init(&p->rig, 0, &p->place);
    producer_name_device(p);
    CUDA_RIG_CHECK(
        p->rig.api.stream_create_with_priority(&p->stream, CUDA_STREAM_NON_BLOCKING, 0) == CUDA_OK);
    CUDA_RIG_CHECK(ring_rig_create(&p->place, &p->ring, NULL) == 0);
    producer_alloc(p);
    if (p->order.is_held) {
        p->rig.control->hold(p->stream);
    }
    producer_write(p);
    for (uint32_t i = 0; i < p->order.layers; i++) {
        producer_wrap(p, i);
    }
    producer_count(p);
}

static void producer_close(struct producer *p)
{
    const struct cuda_ipc_api *api = &p->rig.api;

    CUDA_RIG_CHECK(api->stream_synchronize(p->stream) == CUDA_OK);
    ring_rig_destroy(p->ring);
    CUDA_RIG_CHECK(api->stream_destroy(p->stream) == CUDA_OK);
    for (uint32_t i = 0; i < p->order.layers; i++) {
        CUDA_RIG_CHECK(api->mem_free_host(p->filled[i]) == CUDA_OK);
    }
    if (p->order.kind == TORCH_EXPANDABLE) {
        producer_shrink(p);
    } else {
        CUDA_RIG_CHECK(api->mem_free(p->base) == CUDA_OK);
    }
    (void)shm_unlink(p->names[0]);
    share_place_fini(&p->place);
    cuda_rig_close(&p->rig);
}

int torch_peer_run(int fd)
{
    static struct producer p;

    cuda_rig_recv(fd, &p.order, sizeof(p.order));
    producer_open(&p);
    producer_send(&p, fd);
    if (p.order.is_held) {
        cuda_rig_await(fd);
        p.rig.control->release(p.stream);
    }
    cuda_rig_await(fd);
    producer_close(&p);
    return 0;
}

/* ---- from outside ---- */

void torch_peer_start(struct torch_peer *peer, const struct torch_order *order)
{
    cuda_rig_start(&peer->peer, TORCH_PEER);
    cuda_rig_send(peer->peer.fd, order, sizeof(*order));
    cuda_rig_recv(peer->peer.fd, &peer->length, sizeof(peer->length));
    CUDA_RIG_CHECK(peer->length <= sizeof(peer->message));
    cuda_rig_recv(peer->peer.fd, peer->message, peer->length);
    cuda_rig_recv(peer->peer.fd, peer->counters, sizeof(peer->counters));
}

void torch_peer_go(struct torch_peer *peer)
{
    cuda_rig_step(peer->peer.fd);
}

void torch_peer_end(struct torch_peer *peer)
{
    cuda_rig_step(peer->peer.fd);
    cuda_rig_end(&peer->peer);
}

void torch_peer_unlink(const struct torch_peer *peer)
{
    (void)shm_unlink(peer->counters);
}

int64_t torch_peer_counter(const struct torch_peer *peer, uint32_t layer)
{
    int64_t value = INT64_MIN;
    int fd = shm_open(peer->counters, O_RDONLY, 0);

    if (fd >= 0) {
        CUDA_RIG_CHECK(pread(fd, &value, sizeof(value), 64 + 8 * (off_t)(FIRST_SLOT + layer)) ==
                       (ssize_t)sizeof(value));
        close(fd);
    }
    return value;
}
