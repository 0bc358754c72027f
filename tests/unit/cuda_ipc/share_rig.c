/* SPDX-License-Identifier: Apache-2.0 */
#include "share_rig.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define EXPORTS_MAX 64u

enum share_order_kind { SHARE_MAKE, SHARE_UNMAKE, SHARE_END };

struct share_order {
    uint32_t kind;
    uint32_t way;
    int32_t ordinal;
    uint32_t index;
    uint64_t bytes;
    uint64_t fill;
};

struct share_record {
    struct cuda_ipc_share share;
    uint64_t has_fd;
};

void share_place_init(const struct cuda_rig *rig, int ordinal, struct cuda_ipc_place *place_out)
{
    place_out->api = &rig->api;
    place_out->ordinal = ordinal;
    CUDA_RIG_CHECK(rig->api.device_get(&place_out->device, ordinal) == CUDA_OK);
    CUDA_RIG_CHECK(rig->api.device_get_uuid(&place_out->uuid, place_out->device) == CUDA_OK);
    CUDA_RIG_CHECK(rig->api.device_primary_ctx_retain(&place_out->context, place_out->device) ==
                   CUDA_OK);
}

void share_place_fini(const struct cuda_ipc_place *place)
{
    CUDA_RIG_CHECK(place->api->device_primary_ctx_release(place->device) == CUDA_OK);
}

void share_send(int fd, const struct cuda_ipc_share *share, int passed)
{
    const struct share_record record = {.share = *share, .has_fd = passed >= 0};

    cuda_rig_send(fd, &record, sizeof(record));
    if (passed >= 0) {
        cuda_rig_send_fd(fd, passed);
    }
}

void share_recv(int fd, struct share_made *made_out)
{
    struct share_record record;

    cuda_rig_recv(fd, &record, sizeof(record));
    made_out->share = record.share;
    made_out->fd = record.has_fd ? cuda_rig_recv_fd(fd) : -1;
}

int share_is_filled(const struct cuda_rig *rig, cuda_ptr at, uint64_t bytes, uint8_t fill)
{
    uint8_t *copy = malloc(bytes);
    uint64_t same = 0;

    CUDA_RIG_CHECK(copy != NULL);
    if (rig->control->peek(copy, at, bytes) == 0) {
        while (same < bytes && copy[same] == fill) {
            same++;
        }
    }
    free(copy);
    return same == bytes;
}

/* ---- the exporter ---- */

static struct cuda_ipc_export *exporter_make(const struct cuda_rig *rig,
                                             const struct share_order *order)
{
    struct kvl_err err = {.size = sizeof(err)};
    struct cuda_ipc_export *export = NULL;
    struct cuda_ipc_place place;
    uint8_t *bytes = malloc(order->bytes);

    CUDA_RIG_CHECK(bytes != NULL);
    memset(bytes, (int)order->fill, order->bytes);
    share_place_init(rig, order->ordinal, &place);
    if (cuda_ipc_export_create(&place, order->bytes, order->way, &export, &err) < 0) {
        cuda_rig_die(__FILE__, __LINE__, err.text);
    }
    CUDA_RIG_CHECK(rig->control->poke(cuda_ipc_export_base(export), bytes, order->bytes) == 0);
    share_place_fini(&place);
    free(bytes);
    return export;
}

int share_exporter_run(int fd)
{
    struct cuda_ipc_export *exports[EXPORTS_MAX] = {NULL};
    struct cuda_rig rig;
    struct share_order order;
    uint32_t count = 0;

    cuda_rig_open(&rig);
    for (;;) {
        cuda_rig_recv(fd, &order, sizeof(order));
        if (order.kind == SHARE_END) {
            break;
        }
        if (order.kind == SHARE_UNMAKE) {
            cuda_ipc_export_destroy(exports[order.index]);
            exports[order.index] = NULL;
            cuda_rig_step(fd);
            continue;
        }
        CUDA_RIG_CHECK(count < EXPORTS_MAX);
        exports[count] = exporter_make(&rig, &order);
        share_send(fd, cuda_ipc_export_share(exports[count]), cuda_ipc_export_fd(exports[count]));
        count++;
    }
    for (uint32_t i = 0; i < count; i++) {
        cuda_ipc_export_destroy(exports[i]);
    }
    cuda_rig_close(&rig);
    return 0;
}

void share_start(struct share_peer *peer)
{
    peer->made = 0;
    cuda_rig_start(&peer->peer, SHARE_EXPORTER);
}

void share_make(struct share_peer *peer, uint32_t way, int ordinal, uint64_t bytes, uint8_t fill,
                struct share_made *made_out)
{
    const struct share_order order = {
        .kind = SHARE_MAKE, .way = way, .ordinal = ordinal, .bytes = bytes, .fill = fill};

    cuda_rig_send(peer->peer.fd, &order, sizeof(order));
    share_recv(peer->peer.fd, made_out);
    made_out->index = peer->made++;
}

void share_unmake(struct share_peer *peer, struct share_made *made)
{
    const struct share_order order = {.kind = SHARE_UNMAKE, .index = made->index};

    cuda_rig_send(peer->peer.fd, &order, sizeof(order));
    cuda_rig_await(peer->peer.fd);
    if (made->fd >= 0) {
        close(made->fd);
        made->fd = -1;
    }
}

void share_end(struct share_peer *peer)
{
    const struct share_order order = {.kind = SHARE_END};

    cuda_rig_send(peer->peer.fd, &order, sizeof(order));
    cuda_rig_end(&peer->peer);
}
