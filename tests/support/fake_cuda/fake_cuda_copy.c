/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Copies, one by one. Unpinned memory is treated as a driver does: its bytes are taken at
 * submission, and a copy into it returns when it is done.
 */
#include "fake_cuda_copy.h"

#include <stdlib.h>
#include <string.h>

/* ---- in a stream ---- */

static void copy_rows(uint8_t *dst, size_t dst_pitch, const uint8_t *src, size_t src_pitch,
                      size_t bytes, size_t rows)
{
    for (size_t row = 0; row < rows; row++) {
        memcpy(dst + row * dst_pitch, src + row * src_pitch, bytes);
    }
}

/* What was pinned at submission and is not any more was given back: it may be gone altogether. */
static cuda_result copy_pin_side(cuda_context context, cuda_ptr ptr, size_t span, int write,
                                 enum fake_place place, struct fake_pin *pin_out)
{
    cuda_result code = fake_range_pin(context, ptr, span, write, pin_out);

    if (code == CUDA_OK && pin_out->place != place) {
        fake_range_unpin(pin_out);
        code = CUDA_E_ILLEGAL_ADDRESS;
    }
    return code;
}

/* Lock held. A staged source needs no pin. */
static cuda_result copy_pin(const struct fake_copy *copy, cuda_context context,
                            struct fake_pin *dst_out, struct fake_pin *src_out)
{
    size_t dst_span = fake_copy_span(copy->bytes, copy->rows, copy->dst_pitch);
    size_t src_span = fake_copy_span(copy->bytes, copy->rows, copy->src_pitch);
    cuda_result code = copy_pin_side(context, copy->dst, dst_span, 1, copy->dst_place, dst_out);

    if (code != CUDA_OK || copy->staged != NULL) {
        return code;
    }
    code = copy_pin_side(context, copy->src, src_span, 0, copy->src_place, src_out);
    if (code != CUDA_OK) {
        fake_range_unpin(dst_out);
    }
    return code;
}

/* Memory that was good at submission and is gone now breaks the context, as on a device. */
static cuda_result copy_do(const struct fake_copy *copy, cuda_context context)
{
    struct fake_pin dst;
    struct fake_pin src = {.host = copy->staged, .place = FAKE_PAGEABLE};
    cuda_result code;

    fake_lock();
    code = copy_pin(copy, context, &dst, &src);
    fake_unlock();
    if (code != CUDA_OK) {
        return CUDA_E_ILLEGAL_ADDRESS;
    }
    copy_rows(dst.host, copy->dst_pitch, src.host,
              copy->staged == NULL ? copy->src_pitch : copy->bytes, copy->bytes, copy->rows);
    fake_lock();
    fake_range_unpin(&dst);
    fake_range_unpin(&src);
    fake_unlock();
    return CUDA_OK;
}

static void copies_shuffle(struct fake_copies *copies)
{
    fake_lock();
    for (uint32_t left = copies->count; left > 1; left--) {
        uint32_t other = (uint32_t)(fake_random() % left);
        struct fake_copy last = copies->items[left - 1];

        copies->items[left - 1] = copies->items[other];
        copies->items[other] = last;
    }
    fake_unlock();
}

static cuda_result copies_run(struct fake_op *op)
{
    struct fake_copies *copies = (struct fake_copies *)op;
    cuda_result code = CUDA_OK;

    if (copies->shuffle) {
        copies_shuffle(copies);
    }
    for (uint32_t i = 0; i < copies->count && code == CUDA_OK; i++) {
        code = copy_do(&copies->items[i], op->stream->context);
    }
    return code;
}

static void copies_drop(struct fake_op *op)
{
    fake_copies_destroy((struct fake_copies *)op);
}

/* ---- submission ---- */

struct fake_copies *fake_copies_create(uint32_t count)
{
    struct fake_copies *copies =
        calloc(1, sizeof(*copies) + (size_t)count * sizeof(copies->items[0]));

    if (copies != NULL) {
        copies->op.run = copies_run;
        copies->op.drop = copies_drop;
        copies->count = count;
    }
    return copies;
}

void fake_copies_destroy(struct fake_copies *copies)
{
    if (copies == NULL) {
        return;
    }
    for (uint32_t i = 0; i < copies->count; i++) {
        free(copies->items[i].staged);
    }
    free(copies);
}

static cuda_result copy_stage(struct fake_copy *copy, cuda_context context)
{
    size_t span = fake_copy_span(copy->bytes, copy->rows, copy->src_pitch);
    struct fake_pin src;
    cuda_result code;

    copy->staged = malloc(copy->bytes * copy->rows);
    if (copy->staged == NULL) {
        return CUDA_E_OUT_OF_MEMORY;
    }
    code = fake_range_pin(context, copy->src, span, 0, &src);
    if (code == CUDA_OK) {
        fake_unlock();
        copy_rows(copy->staged, copy->bytes, src.host, copy->src_pitch, copy->bytes, copy->rows);
        fake_lock();
        fake_range_unpin(&src);
    }
    return code;
}

static unsigned int copy_on(enum fake_place place)
{
    return place == FAKE_DEVICE ? FAKE_ON_DEVICE : FAKE_ON_HOST;
}

cuda_result fake_copy_prepare(struct fake_copies *copies, uint32_t item, unsigned int dst_on,
                              unsigned int src_on, int stage)
{
    struct fake_copy *copy = &copies->items[item];
    cuda_context context = fake_current();
    cuda_result code;

    if (copy->rows == 0 || copy->bytes == 0 ||
        (copy->rows > 1 && (copy->dst_pitch < copy->bytes || copy->src_pitch < copy->bytes))) {
        return CUDA_E_INVALID_VALUE;
    }
    code = fake_range_check(context, copy->dst,
                            fake_copy_span(copy->bytes, copy->rows, copy->dst_pitch), 1,
                            &copy->dst_place);
    if (code == CUDA_OK) {
        code = fake_range_check(context, copy->src,
                                fake_copy_span(copy->bytes, copy->rows, copy->src_pitch), 0,
                                &copy->src_place);
    }
    if (code != CUDA_OK || (dst_on & copy_on(copy->dst_place)) == 0 ||
        (src_on & copy_on(copy->src_place)) == 0) {
        return CUDA_E_INVALID_VALUE;
    }
    copies->waits |= copy->dst_place == FAKE_PAGEABLE;
    if (stage || (copy->src_place == FAKE_PAGEABLE && !copies->shuffle)) {
        return copy_stage(copy, context);
    }
    return CUDA_OK;
}

cuda_result fake_copies_submit(struct fake_copies *copies, cuda_stream handle)
{
    struct fake_stream *stream = fake_stream_find(handle);
    cuda_context context;

    if (stream == NULL) {
        fake_copies_destroy(copies);
        return CUDA_E_INVALID_HANDLE;
    }
    context = stream->context;
    if (copies->waits) {
        fake_stream_push(stream, &copies->op);
        fake_stream_finish(stream);
        return context->error;
    }
    fake_stream_push(stream, &copies->op);
    return CUDA_OK;
}

/* One copy through a function of the driver. */
static cuda_result copy_one(const struct fake_copy *copy, unsigned int dst_on, unsigned int src_on,
                            cuda_stream stream)
{
    struct fake_copies *copies = fake_copies_create(1);
    cuda_result code;

    if (copies == NULL) {
        return CUDA_E_OUT_OF_MEMORY;
    }
    copies->items[0] = *copy;
    fake_lock();
    code = fake_copy_prepare(copies, 0, dst_on, src_on, 0);
    if (code == CUDA_OK) {
        code = fake_copies_submit(copies, stream);
        copies = NULL;
    }
    fake_unlock();
    fake_copies_destroy(copies);
    return code;
}

static cuda_result copy_linear(const char *name, cuda_ptr dst, cuda_ptr src, size_t bytes,
                               unsigned int dst_on, unsigned int src_on, cuda_stream stream)
{
    struct fake_copy copy = {.dst = dst, .src = src, .bytes = bytes, .rows = 1};
    cuda_result code = fake_enter(name, FAKE_CONTEXT);

    if (code != CUDA_OK || bytes == 0) {
        return code;
    }
    return copy_one(&copy, dst_on, src_on, stream);
}

/* ---- the driver's functions ---- */

cuda_result cuMemcpyAsync(cuda_ptr dst, cuda_ptr src, size_t bytes, cuda_stream stream)
{
    return copy_linear(__func__, dst, src, bytes, FAKE_ON_DEVICE | FAKE_ON_HOST,
                       FAKE_ON_DEVICE | FAKE_ON_HOST, stream);
}

cuda_result cuMemcpyDtoDAsync_v2(cuda_ptr dst, cuda_ptr src, size_t bytes, cuda_stream stream)
{
    return copy_linear(__func__, dst, src, bytes, FAKE_ON_DEVICE, FAKE_ON_DEVICE, stream);
}

cuda_result cuMemcpyDtoHAsync_v2(void *dst, cuda_ptr src, size_t bytes, cuda_stream stream)
{
    return copy_linear(__func__, (cuda_ptr)(uintptr_t)dst, src, bytes, FAKE_ON_HOST, FAKE_ON_DEVICE,
                       stream);
}

cuda_result cuMemcpyHtoDAsync_v2(cuda_ptr dst, const void *src, size_t bytes, cuda_stream stream)
{
    return copy_linear(__func__, dst, (cuda_ptr)(uintptr_t)src, bytes, FAKE_ON_DEVICE, FAKE_ON_HOST,
                       stream);
}

/* The address that a side begins at, and what it may be; 0 for a bad kind of memory. */
static unsigned int copy_side(unsigned int type, const void *host, cuda_ptr device, size_t x,
                              size_t y, size_t pitch, cuda_ptr *ptr_out)
{
    *ptr_out = (type == CUDA_MEMORY_HOST ? (cuda_ptr)(uintptr_t)host : device) + y * pitch + x;
    switch (type) {
    case CUDA_MEMORY_HOST:
        return FAKE_ON_HOST;
    case CUDA_MEMORY_DEVICE:
        return FAKE_ON_DEVICE;
    case CUDA_MEMORY_UNIFIED:
        return FAKE_ON_DEVICE | FAKE_ON_HOST;
    default:
        return 0;
    }
}

cuda_result cuMemcpy2DAsync_v2(const struct cuda_copy_2d *from, cuda_stream stream)
{
    cuda_result code = fake_enter(__func__, FAKE_CONTEXT);
    struct fake_copy copy = {.bytes = from->width,
                             .rows = from->height,
                             .dst_pitch = from->dst_pitch,
                             .src_pitch = from->src_pitch};
    unsigned int dst_on;
    unsigned int src_on;

    if (code != CUDA_OK) {
        return code;
    }
    dst_on = copy_side(from->dst_type, from->dst_host, from->dst_device, from->dst_x, from->dst_y,
                       from->dst_pitch, &copy.dst);
    src_on = copy_side(from->src_type, from->src_host, from->src_device, from->src_x, from->src_y,
                       from->src_pitch, &copy.src);
    if (dst_on == 0 || src_on == 0) {
        return CUDA_E_INVALID_VALUE;
    }
    return copy_one(&copy, dst_on, src_on, stream);
}
