/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <string.h>

#include "cuda_ipc_export.h"
#include "cuda_ipc_map_core.h"
#include "setting.h"

static void wish_name(struct cuda_ipc_wish *wish, uint64_t kind)
{
    /* the name is compared as bytes */
    memset(&wish->name, 0, sizeof(wish->name));
    wish->name.kind = kind;
    wish->name.context = (uint64_t)(uintptr_t)wish->place->context;
}

/* Memory of our own must be in the list of exports: nobody outside gives us addresses to use. */
static int wish_own(struct cuda_ipc_map *map, const struct cuda_ipc_place *place,
                    const struct cuda_ipc_share *share, struct cuda_ipc_ref *ref_out,
                    struct kvl_err *err)
{
    struct cuda_ipc_export *export;
    int r = cuda_ipc_map_check_process(map, err);

    if (r < 0) {
        return r;
    }
    if (cuda_ipc_export_borrow(share, &export) < 0) {
        return kvl_fail(err, -ESTALE, "cuda_ipc: this process does not export that memory now");
    }
    if (memcmp(&share->uuid, &place->uuid, sizeof(share->uuid)) != 0) {
        cuda_ipc_export_return(export);
        return kvl_fail(err, -ENOTSUP, "cuda_ipc: that memory is on another device than %d",
                        place->ordinal);
    }
    *ref_out = (struct cuda_ipc_ref){.base = cuda_ipc_export_base(export),
                                     .bytes = cuda_ipc_export_bytes(export),
                                     .own = export};
    cuda_ipc_map_count_own();
    return 0;
}

int cuda_ipc_map_acquire(struct cuda_ipc_map *map, const struct cuda_ipc_place *place,
                         const struct cuda_ipc_share *share, int fd, struct cuda_ipc_ref *ref_out,
                         struct kvl_err *err)
{
    struct cuda_ipc_wish wish = {.place = place, .share = share, .fd = fd};

    if (cuda_ipc_who_equal(&share->who, &map->self)) {
        return wish_own(map, place, share, ref_out, err);
    }
    if ((share->type != CUDA_IPC_SHARE_LEGACY && share->type != CUDA_IPC_SHARE_FD) ||
        share->length == 0 || share->who.pid == 0) {
        return kvl_fail(err, -EBADMSG, "cuda_ipc: a share of type %u, process %llu, %llu bytes",
                        share->type, (unsigned long long)share->who.pid,
                        (unsigned long long)share->length);
    }
    wish_name(&wish, CUDA_IPC_MAPPING_SHARE);
    wish.name.who = share->who;
    wish.name.uuid = share->uuid;
    wish.name.base = share->base;
    return cuda_ipc_map_take(map, &wish, ref_out, err);
}

int cuda_ipc_map_acquire_bare(struct cuda_ipc_map *map, const struct cuda_ipc_place *place,
                              const struct cuda_ipc_who *who, const uint8_t *handle,
                              struct cuda_ipc_ref *ref_out, struct kvl_err *err)
{
    struct cuda_ipc_wish wish = {.place = place, .exporter = who, .fd = -1};

    wish_name(&wish, CUDA_IPC_MAPPING_BARE);
    memcpy(wish.name.handle, handle, sizeof(wish.name.handle));
    return cuda_ipc_map_take(map, &wish, ref_out, err);
}

int cuda_ipc_map_acquire_segments(struct cuda_ipc_map *map, const struct cuda_ipc_place *place,
                                  const struct cuda_ipc_segments *segments,
                                  cuda_ipc_segment_fn fetch, void *ctx,
                                  struct cuda_ipc_ref *ref_out, struct kvl_err *err)
{
    struct cuda_ipc_wish wish = {
        .place = place, .segments = segments, .fd = -1, .fetch = fetch, .ctx = ctx};
    uint64_t bytes;

    if (segments->count == 0 || segments->count > CUDA_IPC_SEGMENTS_MAX ||
        segments->segment_bytes == 0 ||
        __builtin_mul_overflow(segments->segment_bytes, segments->count, &bytes)) {
        return kvl_fail(
            err, -EMSGSIZE, "cuda_ipc: %u segments of %llu bytes: at most %u can be mapped",
            segments->count, (unsigned long long)segments->segment_bytes, CUDA_IPC_SEGMENTS_MAX);
    }
    wish_name(&wish, CUDA_IPC_MAPPING_SEGMENTS);
    wish.name.who = segments->who;
    wish.name.base = segments->segment_bytes;
    wish.name.count = (uint64_t)segments->count * segments->name_bytes;
    return cuda_ipc_map_take(map, &wish, ref_out, err);
}
