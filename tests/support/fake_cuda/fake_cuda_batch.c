/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Batched copies in both ABIs.
 */
#include <stdlib.h>

#include "fake_cuda_copy.h"

/** What both ABIs pass. */
struct batch {
    const cuda_ptr *dsts;
    const cuda_ptr *srcs;
    const size_t *sizes;
    size_t count;
    const struct cuda_copy_attrs *attrs;
    const size_t *idxs;
    size_t num_attrs;
    cuda_stream stream;
};

static cuda_result batch_check_attrs(const struct batch *batch)
{
    if (batch->count == 0 || batch->count > UINT32_MAX || batch->num_attrs == 0 ||
        batch->num_attrs > batch->count || batch->attrs == NULL || batch->idxs == NULL ||
        batch->dsts == NULL || batch->srcs == NULL || batch->sizes == NULL || batch->idxs[0] != 0 ||
        batch->idxs[batch->num_attrs - 1] >= batch->count) {
        return CUDA_E_INVALID_VALUE;
    }
    if (batch->stream == NULL || batch->stream == CUDA_STREAM_LEGACY) {
        return CUDA_E_INVALID_VALUE;
    }
    for (size_t i = 0; i < batch->num_attrs; i++) {
        if ((i > 0 && batch->idxs[i] <= batch->idxs[i - 1]) ||
            batch->attrs[i].src_access_order < CUDA_ORDER_STREAM ||
            batch->attrs[i].src_access_order > CUDA_ORDER_ANY ||
            batch->attrs[i].flags > CUDA_COPY_PREFER_OVERLAP) {
            return CUDA_E_INVALID_VALUE;
        }
    }
    return CUDA_OK;
}

/* ---- overlaps ---- */

struct batch_range {
    cuda_ptr start;
    cuda_ptr end;
    size_t item;
};

static int batch_compare(const void *a, const void *b)
{
    const struct batch_range *left = a;
    const struct batch_range *right = b;

    return (left->start > right->start) - (left->start < right->start);
}

/* The first of the sorted ranges that ends behind `ptr`. */
static size_t batch_first_behind(const struct batch_range *ranges, size_t count, cuda_ptr ptr)
{
    size_t low = 0;
    size_t high = count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (ranges[middle].end <= ptr) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

/* Copies have no order, so none may write what another one reads or writes. */
static cuda_result batch_check_overlap(const struct batch *batch, size_t *fail_out)
{
    struct batch_range *writes = calloc(batch->count, sizeof(*writes));
    cuda_result code = CUDA_OK;

    if (writes == NULL) {
        return CUDA_E_OUT_OF_MEMORY;
    }
    for (size_t i = 0; i < batch->count; i++) {
        writes[i] = (struct batch_range){batch->dsts[i], batch->dsts[i] + batch->sizes[i], i};
    }
    qsort(writes, batch->count, sizeof(*writes), batch_compare);
    for (size_t i = 1; i < batch->count && code == CUDA_OK; i++) {
        if (writes[i].start < writes[i - 1].end) {
            *fail_out = writes[i].item;
            code = CUDA_E_INVALID_VALUE;
        }
    }
    for (size_t i = 0; i < batch->count && code == CUDA_OK; i++) {
        size_t at = batch_first_behind(writes, batch->count, batch->srcs[i]);

        if (at < batch->count && writes[at].start < batch->srcs[i] + batch->sizes[i]) {
            *fail_out = i;
            code = CUDA_E_INVALID_VALUE;
        }
    }
    free(writes);
    return code;
}

/* ---- submission ---- */

/* Out of stream order means that it may be read early or late: either is tried. */
static int batch_reads_now(unsigned int order)
{
    return order == CUDA_ORDER_DURING_CALL || (order == CUDA_ORDER_ANY && (fake_random() & 1));
}

static cuda_result batch_prepare(const struct batch *batch, struct fake_copies *copies,
                                 size_t *fail_out)
{
    cuda_result code = CUDA_OK;
    size_t attr = 0;

    copies->shuffle = 1;
    for (size_t i = 0; i < batch->count && code == CUDA_OK; i++) {
        while (attr + 1 < batch->num_attrs && batch->idxs[attr + 1] <= i) {
            attr++;
        }
        copies->items[i] = (struct fake_copy){
            .dst = batch->dsts[i], .src = batch->srcs[i], .bytes = batch->sizes[i], .rows = 1};
        code = fake_copy_prepare(copies, (uint32_t)i, FAKE_ON_DEVICE | FAKE_ON_HOST,
                                 FAKE_ON_DEVICE | FAKE_ON_HOST,
                                 batch_reads_now(batch->attrs[attr].src_access_order));
        if (code != CUDA_OK) {
            *fail_out = i;
        }
    }
    return code;
}

static cuda_result batch_submit(const char *name, const struct batch *batch, size_t *fail_out)
{
    cuda_result code = fake_enter(name, FAKE_CONTEXT);
    struct fake_copies *copies;

    if (code == CUDA_OK) {
        code = batch_check_attrs(batch);
    }
    if (code == CUDA_OK) {
        code = batch_check_overlap(batch, fail_out);
    }
    if (code != CUDA_OK) {
        return code;
    }
    copies = fake_copies_create((uint32_t)batch->count);
    if (copies == NULL) {
        return CUDA_E_OUT_OF_MEMORY;
    }
    fake_lock();
    code = batch_prepare(batch, copies, fail_out);
    if (code == CUDA_OK) {
        code = fake_copies_submit(copies, batch->stream);
        copies = NULL;
    }
    fake_unlock();
    fake_copies_destroy(copies);
    return code;
}

cuda_result cuMemcpyBatchAsync_v2(cuda_ptr *dsts, cuda_ptr *srcs, size_t *sizes, size_t count,
                                  struct cuda_copy_attrs *attrs, size_t *attrs_idxs,
                                  size_t num_attrs, cuda_stream stream)
{
    const struct batch batch = {dsts, srcs, sizes, count, attrs, attrs_idxs, num_attrs, stream};
    size_t fail;

    return batch_submit(__func__, &batch, &fail);
}

cuda_result cuMemcpyBatchAsync(cuda_ptr *dsts, cuda_ptr *srcs, size_t *sizes, size_t count,
                               struct cuda_copy_attrs *attrs, size_t *attrs_idxs, size_t num_attrs,
                               size_t *fail_idx_out, cuda_stream stream)
{
    const struct batch batch = {dsts, srcs, sizes, count, attrs, attrs_idxs, num_attrs, stream};
    size_t fail = SIZE_MAX; /* no single copy is at fault */
    cuda_result code = batch_submit(__func__, &batch, &fail);

    if (code != CUDA_OK && fail_idx_out != NULL) {
        *fail_idx_out = fail;
    }
    return code;
}
