/* SPDX-License-Identifier: Apache-2.0 */
/* Layouts of KV tensors against the address of each element as torch computes it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cuda_ipc_tensor.h"
#include "ipc.h"

#define ITEM 2u /* bytes of a float16 */

static struct kvl_err err = {.size = sizeof(err)};

static struct kvl_ipc_wrapper tensor_of(uint32_t dims, const int64_t *shape)
{
    struct kvl_ipc_wrapper wrapper = {
        .form = KVL_IPC_FORM_A, .dtype = KVL_IPC_DTYPE_FLOAT16, .dims = dims};
    uint64_t elements = 1;

    for (uint32_t i = dims; i-- > 0;) {
        wrapper.shape[i] = shape[i];
        wrapper.stride[i] = (int64_t)elements;
        elements *= (uint64_t)shape[i];
    }
    wrapper.storage_bytes = elements * ITEM;
    return wrapper;
}

static int read_tensor(const struct kvl_ipc_wrapper *wrapper, struct cuda_ipc_tensor *tensor_out)
{
    err.text[0] = '\0';
    return cuda_ipc_tensor_read(&kvl_ipc_table, wrapper, tensor_out, &err);
}

/* ---- the plain forms ---- */

static void test_pair(void **state)
{
    struct kvl_ipc_wrapper wrapper = tensor_of(5, (int64_t[]){2, 10, 16, 8, 128});
    struct cuda_ipc_tensor tensor;

    (void)state;
    assert_int_equal(read_tensor(&wrapper, &tensor), 0);
    assert_int_equal(tensor.planes, 2);
    assert_int_equal(tensor.block_count, 10);
    assert_int_equal(tensor.block_tokens, 16);
    assert_int_equal(tensor.token_bytes, 2048);
    assert_int_equal(tensor.token_stride, 2048);
    assert_int_equal(tensor.block_stride, 16 * 2048);
    assert_int_equal(tensor.plane_stride, 10 * 16 * 2048);
    assert_int_equal(tensor.offset, 0);
    assert_int_equal(tensor.extent, wrapper.storage_bytes);
}

static void test_one(void **state)
{
    struct kvl_ipc_wrapper wrapper = tensor_of(3, (int64_t[]){7, 64, 576});
    struct cuda_ipc_tensor tensor;

    (void)state;
    assert_int_equal(read_tensor(&wrapper, &tensor), 0);
    assert_int_equal(tensor.planes, 1);
    assert_int_equal(tensor.block_count, 7);
    assert_int_equal(tensor.block_tokens, 64);
    assert_int_equal(tensor.token_bytes, 1152);
    assert_int_equal(tensor.block_stride, 64 * 1152);
    assert_int_equal(tensor.plane_stride, 0);
}

/* ---- strides: each token at its place, all of them inside the storage ---- */

static uint64_t place_of(const struct kvl_ipc_wrapper *wrapper, const uint64_t *index)
{
    uint64_t at = (uint64_t)wrapper->storage_offset;

    for (uint32_t i = 0; i < wrapper->dims; i++) {
        at += index[i] * (uint64_t)wrapper->stride[i];
    }
    return at * ITEM;
}

static void compare(const struct kvl_ipc_wrapper *wrapper, const struct cuda_ipc_tensor *tensor)
{
    uint32_t at = wrapper->dims == 5 ? 1 : 0;
    uint64_t index[5] = {0};

    for (uint32_t p = 0; p < tensor->planes; p++) {
        for (uint32_t b = 0; b < tensor->block_count; b++) {
            for (uint32_t t = 0; t < tensor->block_tokens; t++) {
                uint64_t place = tensor->offset + p * tensor->plane_stride +
                                 b * tensor->block_stride + t * tensor->token_stride;

                index[0] = p;
                index[at] = b;
                index[at + 1] = t;
                assert_true(place_of(wrapper, index) == place);
                assert_true(place + tensor->token_bytes <= wrapper->storage_bytes);
            }
        }
    }
}

/* A tensor of any order of its outer dimensions, with gaps. */
static struct kvl_ipc_wrapper random_tensor(uint32_t *seed)
{
    uint32_t outer = 2 + (rand_r(seed) & 1);
    uint32_t order[3] = {0, 1, 2};
    int64_t shape[5];
    struct kvl_ipc_wrapper wrapper;
    int64_t next;

    for (uint32_t i = 0; i < outer; i++) {
        shape[i] = 1 + rand_r(seed) % 5;
    }
    if (outer == 3) {
        shape[0] = 2;
        shape[3] = 1 + rand_r(seed) % 3;
        shape[4] = 4 * (1 + rand_r(seed) % 3);
    } else {
        shape[2] = 4 * (1 + rand_r(seed) % 3);
    }
    wrapper = tensor_of(outer == 3 ? 5 : 3, shape);
    wrapper.form = KVL_IPC_FORM_C;
    next = wrapper.stride[outer - 1];
    for (uint32_t i = outer; i-- > 0;) {
        uint32_t swap = (uint32_t)rand_r(seed) % (i + 1);
        uint32_t dim = order[swap];

        order[swap] = order[i];
        wrapper.stride[dim] = next + rand_r(seed) % 3;
        next = wrapper.stride[dim] * shape[dim];
    }
    wrapper.storage_offset = rand_r(seed) % 9;
    wrapper.storage_bytes = ((uint64_t)wrapper.storage_offset + (uint64_t)next) * ITEM;
    return wrapper;
}

static void test_any_strides(void **state)
{
    uint32_t seed = 1;

    (void)state;
    for (int i = 0; i < 5000; i++) {
        struct kvl_ipc_wrapper wrapper = random_tensor(&seed);
        struct cuda_ipc_tensor tensor;

        assert_int_equal(kvl_ipc_table.dtype_bytes(wrapper.dtype), ITEM);
        assert_int_equal(read_tensor(&wrapper, &tensor), 0);
        compare(&wrapper, &tensor);

        /* one byte less than it needs */
        wrapper.storage_bytes = tensor.offset + tensor.extent - 1;
        assert_int_equal(read_tensor(&wrapper, &tensor), -EBADMSG);
    }
}

/* What is never stepped over may have any stride. */
static void test_dimension_of_one(void **state)
{
    struct kvl_ipc_wrapper wrapper = tensor_of(5, (int64_t[]){2, 1, 1, 1, 64});
    struct cuda_ipc_tensor tensor;

    (void)state;
    wrapper.form = KVL_IPC_FORM_C;
    wrapper.stride[1] = INT64_MAX;
    wrapper.stride[2] = 0;
    wrapper.stride[3] = 1;
    assert_int_equal(read_tensor(&wrapper, &tensor), 0);
    assert_int_equal(tensor.token_bytes, 128);
    assert_int_equal(tensor.block_stride, 128);
    assert_int_equal(tensor.token_stride, 128);
}

/* ---- refused ---- */

static void refuse(const struct kvl_ipc_wrapper *wrapper, int code, const char *says)
{
    struct cuda_ipc_tensor tensor = {.planes = 77};

    assert_int_equal(read_tensor(wrapper, &tensor), code);
    assert_non_null(strstr(err.text, says));
    assert_int_equal(tensor.planes, 77);
}

static void test_shapes_that_are_no_kv_cache(void **state)
{
    struct kvl_ipc_wrapper wrapper = tensor_of(4, (int64_t[]){2, 4, 16, 64});

    (void)state;
    refuse(&wrapper, -ENOTSUP, "dimensions");
    wrapper = tensor_of(5, (int64_t[]){4, 2, 16, 8, 64});
    refuse(&wrapper, -ENOTSUP, "first dimension");
    wrapper = tensor_of(3, (int64_t[]){4, 0, 64});
    refuse(&wrapper, -EBADMSG, "empty");
    wrapper = tensor_of(3, (int64_t[]){4, 16, 3});
    refuse(&wrapper, -ENOTSUP, "multiples of 8");
    wrapper = tensor_of(3, (int64_t[]){0xffffffff, 1, 64});
    refuse(&wrapper, -EMSGSIZE, "blocks");
    wrapper = tensor_of(3, (int64_t[]){1, 0x100000000, 64});
    refuse(&wrapper, -EMSGSIZE, "tokens");
    wrapper = tensor_of(3, (int64_t[]){4, 16, 64});
    wrapper.dtype = 99;
    refuse(&wrapper, -EBADMSG, "type");
}

static void test_heads_before_tokens(void **state)
{
    struct kvl_ipc_wrapper wrapper = tensor_of(5, (int64_t[]){2, 4, 16, 8, 64});

    (void)state;
    wrapper.form = KVL_IPC_FORM_C;
    wrapper.stride[2] = 64;
    wrapper.stride[3] = 16 * 64;
    refuse(&wrapper, -ENOTSUP, "heads before tokens");
}

static void test_numbers_that_overflow(void **state)
{
    struct kvl_ipc_wrapper wrapper = tensor_of(3, (int64_t[]){4, 16, 64});
    struct kvl_ipc_wrapper huge;

    (void)state;
    huge = wrapper;
    huge.form = KVL_IPC_FORM_C;
    huge.stride[0] = INT64_MAX;
    refuse(&huge, -EBADMSG, "storage");
    huge.stride[0] = INT64_MAX / 4;
    refuse(&huge, -EBADMSG, "storage");
    huge = wrapper;
    huge.form = KVL_IPC_FORM_C;
    huge.storage_offset = INT64_MAX;
    refuse(&huge, -EBADMSG, "storage");
    huge.storage_offset = -1;
    refuse(&huge, -EBADMSG, "storage");
    huge = wrapper;
    huge.shape[0] = INT64_MAX;
    huge.shape[1] = INT64_MAX;
    refuse(&huge, -EBADMSG, "storage");
}

static void test_alike_but_for_the_place(void **state)
{
    struct kvl_ipc_wrapper wrapper = tensor_of(3, (int64_t[]){4, 16, 64});
    struct cuda_ipc_tensor a;
    struct cuda_ipc_tensor b;

    (void)state;
    assert_int_equal(read_tensor(&wrapper, &a), 0);
    b = a;
    b.offset += 512;
    assert_int_equal(cuda_ipc_tensor_alike(&a, &b), 1);
    b.block_count++;
    assert_int_equal(cuda_ipc_tensor_alike(&a, &b), 0);
    b = a;
    b.plane_stride = 1;
    assert_int_equal(cuda_ipc_tensor_alike(&a, &b), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pair),
        cmocka_unit_test(test_one),
        cmocka_unit_test(test_any_strides),
        cmocka_unit_test(test_dimension_of_one),
        cmocka_unit_test(test_shapes_that_are_no_kv_cache),
        cmocka_unit_test(test_heads_before_tokens),
        cmocka_unit_test(test_numbers_that_overflow),
        cmocka_unit_test(test_alike_but_for_the_place),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
