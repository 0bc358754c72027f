/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "ipc.h"
#include "ipc_rig.h"

#define ALL_FORMS                                                                                  \
    (KVL_IPC_FORM_BIT(KVL_IPC_FORM_PRE_UUID) | KVL_IPC_FORM_BIT(KVL_IPC_FORM_A) |                  \
     KVL_IPC_FORM_BIT(KVL_IPC_FORM_C))

static const struct kvl_ipc_options all_forms = {.size = sizeof(all_forms), .forms = ALL_FORMS};

static int check(const struct kvl_ipc_wrapper *wrapper, const char *why)
{
    struct kvl_err err = ipc_rig_err();
    int r = kvl_ipc_table.wrapper_check(NULL, wrapper, &err);

    if (r < 0 && why != NULL && strstr(err.text, why) == NULL) {
        fail_msg("'%s' says nothing of '%s'", err.text, why);
    }
    return r;
}

#define REFUSED(why, change)                                                                       \
    do {                                                                                           \
        struct kvl_ipc_wrapper w = ipc_rig_wrapper();                                              \
        change;                                                                                    \
        assert_int_equal(check(&w, why), -EBADMSG);                                                \
    } while (0)

#define TAKEN(change)                                                                              \
    do {                                                                                           \
        struct kvl_ipc_wrapper w = ipc_rig_wrapper();                                              \
        change;                                                                                    \
        assert_int_equal(check(&w, NULL), 0);                                                      \
    } while (0)

#define NAMED(text)                                                                                \
    w.counter_name = (struct kvl_ipc_bytes)                                                        \
    {                                                                                              \
        text, sizeof(text) - 1                                                                     \
    }

static void test_values_of_the_handle(void **state)
{
    (void)state;
    TAKEN((void)w);
    TAKEN(w.counter_slot = 9999);
    REFUSED("slot", w.counter_slot = 10000);
    REFUSED("event", w.event.length = 63);
    REFUSED("2^64", w.base_offset = UINT64_MAX - 47);
    TAKEN(w.base_offset = UINT64_MAX - 48);
    TAKEN(NAMED("/torch_1_2_3"));
    REFUSED("counter name", NAMED("/torch_1_2"));
    REFUSED("counter name", NAMED("/torch_1_2_3_4"));
    REFUSED("counter name", NAMED("/torch_1__3"));
    REFUSED("counter name", NAMED("/torch_1_2_"));
    REFUSED("counter name", NAMED("/torch__1_2"));
    REFUSED("counter name", NAMED("/torch1_2_3"));
    REFUSED("counter name", NAMED("torch_1_2_3"));
    REFUSED("counter name", NAMED("/torch_1_2_../x"));
    REFUSED("counter name", NAMED("/torch_1_2_3/"));
    REFUSED("counter name", NAMED("/torch_1_2_3\0"));
    REFUSED("counter name", NAMED("/torch_1_2_a"));
    REFUSED("counter name", NAMED(""));
}

static void test_a_storage_without_memory(void **state)
{
    struct kvl_ipc_wrapper null = ipc_rig_wrapper();
    struct kvl_ipc_handle handle;
    struct kvl_ipc_wrapper w;

    (void)state;
    null.flags = KVL_IPC_NULL_STORAGE;
    null.handle = null.counter_name = null.event = (struct kvl_ipc_bytes){NULL, 0};
    null.storage_bytes = null.counter_slot = 0;
    null.shape[1] = 0;
    assert_int_equal(check(&null, NULL), 0);
    assert_int_equal(kvl_ipc_table.handle_parse(&null, &handle, NULL), -ENODATA);
    w = null;
    w.storage_bytes = 48;
    assert_int_equal(check(&w, "without memory"), -EBADMSG);
    w = null;
    w.flags |= KVL_IPC_EVENT_SYNC;
    assert_int_equal(check(&w, "without memory"), -EBADMSG);
    w = null;
    w.shape[1] = 1;
    assert_int_equal(check(&w, "larger"), -EBADMSG);
}

static void test_the_tensor_lies_in_its_storage(void **state)
{
    (void)state;
    REFUSED("larger", w.storage_bytes = 47);
    TAKEN(w.storage_bytes = 1000);
    REFUSED("negative dimension", w.shape[2] = -1);
    REFUSED("larger", w.shape[0] = INT64_MAX; w.shape[1] = INT64_MAX);
    TAKEN(w.shape[0] = INT64_MAX; w.shape[1] = INT64_MAX; w.shape[2] = 0);
    TAKEN(w.dims = 0);
    REFUSED("dimensions", w.dims = KVL_IPC_DIMS_MAX + 1);
    REFUSED("dtype", w.dtype = 0);
    REFUSED("dtype", w.dtype = KVL_IPC_DTYPE_BOOL + 1);
    REFUSED("form", w.form = 0);
    REFUSED("form", w.form = 4);
    REFUSED("form", w.form = KVL_IPC_FORM_PRE_UUID);
}

/* [2, 3, 4] of fp16 in 48 bytes, with a stride. */
static struct kvl_ipc_wrapper strided(void)
{
    struct kvl_ipc_wrapper w = ipc_rig_wrapper();

    w.form = KVL_IPC_FORM_C;
    w.flags |= KVL_IPC_SHAPE_TUPLE;
    w.stride[0] = 12;
    w.stride[1] = 4;
    w.stride[2] = 1;
    return w;
}

static void test_the_highest_element_lies_in_the_storage(void **state)
{
    struct kvl_ipc_wrapper w = strided();

    (void)state;
    assert_int_equal(check(&w, NULL), 0);
    w.storage_offset = 1;
    assert_int_equal(check(&w, "highest"), -EBADMSG);
    w.storage_bytes += 2;
    assert_int_equal(check(&w, NULL), 0);
    w.stride[0] = 0; /* expanded */
    assert_int_equal(check(&w, NULL), 0);
    w.shape[0] = INT64_MAX; /* which may then be anything that can be counted */
    assert_int_equal(check(&w, "larger"), -EBADMSG);
    w.shape[0] = 1 << 20;
    assert_int_equal(check(&w, NULL), 0);
    w = strided();
    w.stride[1] = -1;
    assert_int_equal(check(&w, "negative stride"), -EBADMSG);
    w = strided();
    w.storage_offset = -1;
    assert_int_equal(check(&w, "negative storage offset"), -EBADMSG);
    w = strided();
    w.stride[2] = INT64_MAX;
    assert_int_equal(check(&w, "highest"), -EBADMSG);
    w = strided();
    w.shape[0] = 0; /* no element at all */
    w.stride[1] = INT64_MAX;
    w.storage_offset = 24;
    assert_int_equal(check(&w, NULL), 0);
    w.storage_offset = 25;
    assert_int_equal(check(&w, "highest"), -EBADMSG);
}

static void test_any_text_is_a_uuid(void **state)
{
    char text[KVL_IPC_UUID_MAX + 1];

    (void)state;
    memset(text, 'A', sizeof(text));
    TAKEN(w.device_uuid = ((struct kvl_ipc_bytes){"GPU-x", 5}));
    TAKEN(w.device_uuid = ((struct kvl_ipc_bytes){text, KVL_IPC_UUID_MAX}));
    REFUSED("device_uuid", w.device_uuid = ((struct kvl_ipc_bytes){text, sizeof(text)}));
    REFUSED("UTF-8", w.device_uuid = ((struct kvl_ipc_bytes){"\xff", 1}));
}

static void test_the_text_of_a_uuid(void **state)
{
    static const uint8_t uuid[16] = {0xd3, 0xb0, 0x73, 0x84, 0xd1, 0x13, 0xed, 0xec,
                                     0x49, 0xea, 0xa6, 0x23, 0x8a, 0xd5, 0xff, 0x00};
    char text[37];

    (void)state;
    kvl_ipc_table.uuid_text(uuid, text);
    assert_string_equal(text, "d3b07384-d113-edec-49ea-a6238ad5ff00");
}

/* ---- handle bytes ---- */

static int parse(const void *bytes, size_t length, struct kvl_ipc_handle *handle)
{
    struct kvl_ipc_wrapper wrapper = {.handle = {bytes, length}};

    return kvl_ipc_table.handle_parse(&wrapper, handle, NULL);
}

static void test_handles_of_whole_blocks(void **state)
{
    const uint8_t raw[64] = {1, 'c'};
    uint8_t block[67] = {2, 'c', 5};
    struct kvl_ipc_handle handle;

    (void)state;
    assert_int_equal(parse(raw, sizeof(raw), &handle), 0);
    assert_int_equal(handle.kind, KVL_IPC_HANDLE_RAW);
    assert_ptr_equal(handle.items.at, raw);
    assert_int_equal(handle.items.length, 64);
    assert_int_equal(parse(block, 66, &handle), 0);
    assert_int_equal(handle.kind, KVL_IPC_HANDLE_MALLOC);
    assert_int_equal(handle.version, 2);
    assert_ptr_equal(handle.items.at, block + 2);
    assert_int_equal(handle.items.length, 64);
    assert_int_equal(kvl_ipc_table.handle_fd(&handle, 0), -1);
    assert_int_equal(parse(block, 65, &handle), -EBADMSG);
    assert_int_equal(parse(block, 67, &handle), -EBADMSG);
    assert_int_equal(parse(block, 1, &handle), -EBADMSG);
    assert_int_equal(parse(NULL, 0, &handle), -EBADMSG);
    block[0] = 3;
    assert_int_equal(parse(block, 66, &handle), -EBADMSG);
    block[0] = 0;
    assert_int_equal(parse(block, 66, &handle), -EBADMSG);
    block[0] = 1;
    block[1] = 'd';
    assert_int_equal(parse(block, 66, &handle), -EBADMSG);
}

static size_t make_segments(uint8_t *bytes, uint64_t segment, uint64_t count, size_t each)
{
    const int32_t pid = 54321;

    memset(bytes, 0xaa, 26 + (size_t)count * each);
    bytes[0] = 1;
    bytes[1] = 'e';
    memcpy(bytes + 2, &pid, sizeof(pid));
    memcpy(bytes + 10, &segment, sizeof(segment));
    memcpy(bytes + 18, &count, sizeof(count));
    for (uint64_t i = 0; i < count && each == 4; i++) {
        const int32_t fd = (int32_t)(70 + i);

        memcpy(bytes + 26 + i * 4, &fd, sizeof(fd));
    }
    return 26 + (size_t)count * each;
}

static void test_handles_of_expandable_segments(void **state)
{
    uint8_t bytes[26 + 640];
    struct kvl_ipc_handle handle;
    size_t length = make_segments(bytes, 2097152, 10, 4);

    (void)state;
    assert_int_equal(length, 66); /* as many as of the other kind */
    assert_int_equal(parse(bytes, length, &handle), 0);
    assert_int_equal(handle.kind, KVL_IPC_HANDLE_FDS);
    assert_int_equal(handle.pid, 54321);
    assert_int_equal(handle.count, 10);
    assert_int_equal(handle.segment_bytes, 2097152);
    assert_int_equal(kvl_ipc_table.handle_fd(&handle, 9), 79);
    assert_int_equal(kvl_ipc_table.handle_fd(&handle, 10), -1);
    length = make_segments(bytes, 2097152, 10, 64);
    assert_int_equal(parse(bytes, length, &handle), 0);
    assert_int_equal(handle.kind, KVL_IPC_HANDLE_FABRIC);
    assert_int_equal(handle.item_bytes, 64);
    assert_int_equal(parse(bytes, length - 1, &handle), -EBADMSG);
    assert_int_equal(parse(bytes, 25, &handle), -EBADMSG);
    assert_int_equal(parse(bytes, 26, &handle), -EBADMSG);
    length = make_segments(bytes, 0, 10, 4);
    assert_int_equal(parse(bytes, length, &handle), -EBADMSG);
    length = make_segments(bytes, 1, 0, 4);
    assert_int_equal(parse(bytes, length, &handle), -EBADMSG);
    length = make_segments(bytes, 1, 2, 5);
    assert_int_equal(parse(bytes, length, &handle), -EBADMSG);
}

static void test_a_storage_lies_in_its_segments(void **state)
{
    uint8_t bytes[26 + 8];
    const size_t length = make_segments(bytes, 64, 2, 4);
    const uint64_t huge = UINT64_MAX / 2 + 1;

    (void)state;
    TAKEN(w.handle = ((struct kvl_ipc_bytes){bytes, length}); w.base_offset = 80);
    REFUSED("segments", w.handle = ((struct kvl_ipc_bytes){bytes, length}); w.base_offset = 81);
    memcpy(bytes + 10, &huge, sizeof(huge)); /* twice that is 0 */
    REFUSED("segments", w.handle = ((struct kvl_ipc_bytes){bytes, length}));
}

/* ---- both ways ---- */

static uint8_t *pickle(const struct kvl_ipc_options *options, const struct kvl_ipc_wrapper *wrapper,
                       size_t *length_out)
{
    uint8_t *bytes;

    assert_int_equal(kvl_ipc_table.wrapper_pickle(options, wrapper, NULL, 0, length_out, NULL),
                     -ENOSPC);
    bytes = malloc(*length_out);
    assert_non_null(bytes);
    assert_int_equal(
        kvl_ipc_table.wrapper_pickle(options, wrapper, bytes, *length_out, length_out, NULL), 0);
    return bytes;
}

static void expect_back(const struct kvl_ipc_options *options,
                        const struct kvl_ipc_wrapper *wrapper)
{
    struct kvl_err err = ipc_rig_err();
    struct kvl_ipc_wrapper again;
    size_t length;
    uint8_t *bytes = pickle(options, wrapper, &length);
    char *text = ipc_rig_wrapper_text(wrapper);
    char *text_again;

    if (kvl_ipc_table.wrapper_unpickle(options, bytes, length, &again, &err) < 0) {
        fail_msg("%s", err.text);
    }
    text_again = ipc_rig_wrapper_text(&again);
    assert_string_equal(text, text_again);
    assert_int_equal(kvl_ipc_table.wrapper_equal(wrapper, &again), 1);
    free(text);
    free(text_again);
    free(bytes);
}

static void test_a_writer_covers_the_storage(void **state)
{
    struct kvl_ipc_wrapper wrapper = ipc_rig_wrapper();
    size_t length = 5;

    (void)state;
    expect_back(NULL, &wrapper);
    wrapper.storage_bytes = 50; /* a reader takes it */
    assert_int_equal(check(&wrapper, NULL), 0);
    assert_int_equal(kvl_ipc_table.wrapper_pickle(NULL, &wrapper, NULL, 0, &length, NULL),
                     -EBADMSG);
    wrapper = strided();
    wrapper.storage_bytes = 50;
    expect_back(NULL, &wrapper);
    wrapper.counter_slot = 10000;
    assert_int_equal(kvl_ipc_table.wrapper_pickle(NULL, &wrapper, NULL, 0, &length, NULL),
                     -EBADMSG);
}

static void test_forms_are_taken_where_they_are_wanted(void **state)
{
    const struct kvl_ipc_options only_c = {.size = sizeof(only_c),
                                           .forms = KVL_IPC_FORM_BIT(KVL_IPC_FORM_C)};
    struct kvl_ipc_wrapper wrapper = ipc_rig_wrapper();
    struct kvl_ipc_wrapper again;
    struct kvl_err err = ipc_rig_err();
    size_t length;
    uint8_t *bytes = pickle(NULL, &wrapper, &length);

    (void)state;
    assert_int_equal(kvl_ipc_table.wrapper_unpickle(&only_c, bytes, length, &again, &err),
                     -EBADMSG);
    ipc_rig_told(-EBADMSG, &err);
    free(bytes);
    wrapper.form = KVL_IPC_FORM_PRE_UUID;
    wrapper.device_uuid = (struct kvl_ipc_bytes){NULL, 0};
    bytes = pickle(&all_forms, &wrapper, &length);
    assert_int_equal(kvl_ipc_table.wrapper_unpickle(NULL, bytes, length, &again, &err), -EBADMSG);
    assert_non_null(strstr(err.text, "device_uuid"));
    free(bytes);
    expect_back(&all_forms, &wrapper);
}

static void test_options_of_an_older_caller(void **state)
{
    struct kvl_ipc_options options = {.size = 8, .protocol = 77}; /* its fields end before */
    struct kvl_ipc_wrapper wrapper = ipc_rig_wrapper();

    (void)state;
    expect_back(&options, &wrapper);
}

static void test_what_tells_wrappers_apart(void **state)
{
    const struct kvl_ipc_wrapper a = strided();
    struct kvl_ipc_wrapper b[12];
    size_t i;

    (void)state;
    for (i = 0; i < 12; i++) {
        b[i] = a;
    }
    b[0].device++;
    b[1].handle.length--;
    b[2].storage_bytes++;
    b[3].base_offset++;
    b[4].counter_name.length--;
    b[5].counter_slot++;
    b[6].event.length--;
    b[7].flags ^= KVL_IPC_EVENT_SYNC;
    b[8].dtype++;
    b[9].shape[2]++;
    b[10].stride[0]++;
    b[11].device_uuid.length--;
    for (i = 0; i < 12; i++) {
        assert_int_equal(kvl_ipc_table.wrapper_equal(&a, &b[i]), 0);
    }
    b[0] = a;
    b[0].flags ^= KVL_IPC_SHAPE_TUPLE; /* a torch.Size equals a tuple */
    assert_int_equal(kvl_ipc_table.wrapper_equal(&a, &b[0]), 1);
    b[0].storage_offset++;
    assert_int_equal(kvl_ipc_table.wrapper_equal(&a, &b[0]), 0);
}

/* A shape of random dimensions and the storage for it. */
static void random_shape(uint64_t *seed, struct kvl_ipc_wrapper *wrapper)
{
    uint64_t elements = 1;

    wrapper->dims = (uint32_t)(ipc_rig_random(seed) % 8);
    for (uint32_t i = 0; i < wrapper->dims; i++) {
        wrapper->shape[i] = (int64_t)(1 + ipc_rig_random(seed) % 200);
        elements *= (uint64_t)wrapper->shape[i];
    }
    for (uint32_t i = wrapper->dims, step = 1; i-- > 0;) {
        wrapper->stride[i] = step;
        step *= (uint32_t)(wrapper->shape[i] % 4 + 1);
    }
    wrapper->storage_bytes = elements * kvl_ipc_table.dtype_bytes(wrapper->dtype);
    if (wrapper->form == KVL_IPC_FORM_C) {
        wrapper->storage_offset = (int64_t)(ipc_rig_random(seed) % 100000);
        wrapper->storage_bytes = UINT64_C(1) << 62;
    }
}

static void test_random_wrappers_come_back(void **state)
{
    uint64_t seed = 20260128;
    uint8_t *segments = malloc(26 + 20000 * 4);
    const size_t length = make_segments(segments, UINT64_C(1) << 49, 20000, 4);

    (void)state;
    for (uint32_t run = 0; run < 600; run++) {
        const struct kvl_ipc_options options = {
            .size = sizeof(options), .protocol = 4 + run % 2, .forms = ALL_FORMS};
        struct kvl_ipc_wrapper wrapper = ipc_rig_wrapper();

        wrapper.form = KVL_IPC_FORM_PRE_UUID + run % 3;
        wrapper.flags = (ipc_rig_random(&seed) % 2 ? KVL_IPC_EVENT_SYNC : 0) |
                        (ipc_rig_random(&seed) % 2 ? KVL_IPC_SHAPE_TUPLE : 0);
        wrapper.device = (int32_t)ipc_rig_random(&seed);
        wrapper.dtype = 1 + (uint32_t)(ipc_rig_random(&seed) % KVL_IPC_DTYPE_BOOL);
        wrapper.base_offset = ipc_rig_random(&seed) >> (2 + ipc_rig_random(&seed) % 62);
        wrapper.counter_slot = ipc_rig_random(&seed) % 10000;
        random_shape(&seed, &wrapper);
        if (run % 50 == 0) { /* beyond a frame of 64 KiB */
            wrapper.handle = (struct kvl_ipc_bytes){segments, length};
            wrapper.base_offset %= 1 << 20;
        }
        expect_back(&options, &wrapper);
    }
    free(segments);
}

static void test_names_and_widths_of_dtypes(void **state)
{
    (void)state;
    assert_string_equal(kvl_ipc_table.dtype_name(KVL_IPC_DTYPE_BFLOAT16), "bfloat16");
    assert_int_equal(kvl_ipc_table.dtype_bytes(KVL_IPC_DTYPE_FLOAT64), 8);
    assert_int_equal(kvl_ipc_table.dtype_bytes(KVL_IPC_DTYPE_INT32), 4);
    assert_int_equal(kvl_ipc_table.dtype_bytes(KVL_IPC_DTYPE_INT16), 2);
    assert_int_equal(kvl_ipc_table.dtype_bytes(KVL_IPC_DTYPE_FLOAT8_E8M0FNU), 1);
    assert_null(kvl_ipc_table.dtype_name(0));
    assert_null(kvl_ipc_table.dtype_name(KVL_IPC_DTYPE_BOOL + 1));
    assert_int_equal(kvl_ipc_table.dtype_bytes(99), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values_of_the_handle),
        cmocka_unit_test(test_a_storage_without_memory),
        cmocka_unit_test(test_the_tensor_lies_in_its_storage),
        cmocka_unit_test(test_the_highest_element_lies_in_the_storage),
        cmocka_unit_test(test_any_text_is_a_uuid),
        cmocka_unit_test(test_the_text_of_a_uuid),
        cmocka_unit_test(test_handles_of_whole_blocks),
        cmocka_unit_test(test_handles_of_expandable_segments),
        cmocka_unit_test(test_a_storage_lies_in_its_segments),
        cmocka_unit_test(test_a_writer_covers_the_storage),
        cmocka_unit_test(test_forms_are_taken_where_they_are_wanted),
        cmocka_unit_test(test_options_of_an_older_caller),
        cmocka_unit_test(test_what_tells_wrappers_apart),
        cmocka_unit_test(test_random_wrappers_come_back),
        cmocka_unit_test(test_names_and_widths_of_dtypes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
