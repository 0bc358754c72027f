/* SPDX-License-Identifier: Apache-2.0 */
/* torch's reference counters: names, files that are not what they should be, counting down. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cuda_ipc_counter.h"

#define FIRST_SLOT 64u

struct fixture {
    char name[64];
    uint8_t *file; /* the counters as their producer sees them */
};

static int64_t *slot_of(const struct fixture *f, uint64_t slot)
{
    return (int64_t *)(void *)(f->file + FIRST_SLOT) + slot;
}

static int32_t users_of(const struct fixture *f)
{
    int32_t users;

    memcpy(&users, f->file, sizeof(users));
    return users;
}

/* The image of the vectors, with which a producer would have begun. */
static void fill_from_vector(uint8_t *file)
{
    FILE *in = fopen(KVL_VECTORS "/torch_refcounter/refcounter_9slots.img", "rb");

    assert_non_null(in);
    assert_int_equal(fread(file, 1, CUDA_IPC_COUNTER_BYTES, in), CUDA_IPC_COUNTER_BYTES);
    assert_int_equal(fgetc(in), EOF);
    fclose(in);
}

static int set_up(void **state)
{
    static struct fixture f;
    int fd;

    snprintf(f.name, sizeof(f.name), "/torch_%d_4294967295_0", getpid());
    fd = shm_open(f.name, O_RDWR | O_CREAT | O_EXCL, 0600);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, CUDA_IPC_COUNTER_BYTES), 0);
    f.file = mmap(NULL, CUDA_IPC_COUNTER_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    assert_ptr_not_equal(f.file, MAP_FAILED);
    close(fd);
    fill_from_vector(f.file);
    *state = &f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    munmap(f->file, CUDA_IPC_COUNTER_BYTES);
    (void)shm_unlink(f->name);
    return 0;
}

/* ---- names ---- */

static int check(const char *name, uint64_t *pid_out)
{
    return cuda_ipc_counter_check(name, strlen(name), pid_out);
}

static void test_names(void **state)
{
    static const char *const bad[] = {
        "",
        "/torch_",
        "torch_1_2_3",
        "/torch_1_2",
        "/torch_1_2_",
        "/torch_1_2_3_4",
        "/torch_1_2_3 ",
        "/torch__2_3",
        "/torch_1_2_3/",
        "/torch_1_2_3/../x",
        "/torch_../2_3",
        "/../torch_1_2_3",
        "//torch_1_2_3",
        "/Torch_1_2_3",
        "/torch_-1_2_3",
        "/torch_+1_2_3",
        "/torch_0x1_2_3",
        "/torch_99999999999999999999_2_3",
        "/sem.torch_1_2_3",
    };
    char longest[300];
    uint64_t pid = 0;

    (void)state;
    assert_int_equal(check("/torch_4711_3735928559_0", &pid), 0);
    assert_int_equal(pid, 4711);
    assert_int_equal(check("/torch_0_0_0", &pid), 0);
    assert_int_equal(pid, 0);
    pid = 7;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        assert_int_equal(check(bad[i], &pid), -EBADMSG);
    }
    assert_int_equal(cuda_ipc_counter_check("/torch_1_2_3\0", 13, &pid), -EBADMSG);
    assert_int_equal(pid, 7);

    snprintf(longest, sizeof(longest), "/torch_1_2_%0280d", 0);
    assert_int_equal(cuda_ipc_counter_check(longest, CUDA_IPC_COUNTER_NAME_MAX, &pid), 0);
    assert_int_equal(cuda_ipc_counter_check(longest, CUDA_IPC_COUNTER_NAME_MAX + 1, &pid),
                     -EBADMSG);
}

/* ---- counting ---- */

static void test_each_slot_once(void **state)
{
    struct fixture *f = *state;

    for (uint64_t slot = 0; slot < 9; slot++) {
        assert_int_equal(cuda_ipc_counter_probe(f->name, slot), 0);
        assert_int_equal(*slot_of(f, slot), 1);
        assert_int_equal(cuda_ipc_counter_drop(f->name, slot), 0);
        assert_int_equal(*slot_of(f, slot), 0);
        assert_int_equal(cuda_ipc_counter_probe(f->name, slot), -ERANGE);
        assert_int_equal(cuda_ipc_counter_drop(f->name, slot), -ERANGE);
        assert_int_equal(*slot_of(f, slot), 0);
    }
    assert_int_equal(users_of(f), 1);
}

static void test_slots_at_the_edge(void **state)
{
    struct fixture *f = *state;

    *slot_of(f, CUDA_IPC_COUNTER_SLOTS - 1) = 3;
    assert_int_equal(cuda_ipc_counter_drop(f->name, CUDA_IPC_COUNTER_SLOTS - 1), 0);
    assert_int_equal(*slot_of(f, CUDA_IPC_COUNTER_SLOTS - 1), 2);
    assert_int_equal(cuda_ipc_counter_drop(f->name, CUDA_IPC_COUNTER_SLOTS), -EBADMSG);
    assert_int_equal(cuda_ipc_counter_probe(f->name, UINT64_MAX), -EBADMSG);
    *slot_of(f, 5) = INT64_MIN;
    assert_int_equal(cuda_ipc_counter_drop(f->name, 5), -ERANGE);
    assert_true(*slot_of(f, 5) == INT64_MIN);
}

static void test_missing_file_is_not_made(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(shm_unlink(f->name), 0);
    assert_int_equal(cuda_ipc_counter_probe(f->name, 0), -ENOENT);
    assert_int_equal(cuda_ipc_counter_drop(f->name, 0), -ENOENT);
    assert_int_equal(shm_open(f->name, O_RDWR, 0), -1);
    assert_int_equal(errno, ENOENT);
}

static void test_short_file_is_not_touched(void **state)
{
    struct fixture *f = *state;
    int fd = shm_open(f->name, O_RDWR, 0);

    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, CUDA_IPC_COUNTER_BYTES - 1), 0);
    assert_int_equal(cuda_ipc_counter_drop(f->name, 0), -EBADMSG);
    assert_int_equal(ftruncate(fd, 0), 0);
    assert_int_equal(cuda_ipc_counter_drop(f->name, 0), -EBADMSG);
    close(fd);
}

/* The producer has let go of the file: whoever comes last takes the name away, as in torch. */
static void test_last_user_unlinks(void **state)
{
    struct fixture *f = *state;
    const int32_t nobody = 0;

    memcpy(f->file, &nobody, sizeof(nobody));
    assert_int_equal(cuda_ipc_counter_drop(f->name, 0), 0);
    assert_int_equal(*slot_of(f, 0), 0);
    assert_int_equal(shm_open(f->name, O_RDWR, 0), -1);
    assert_int_equal(errno, ENOENT);
}

/* ---- threads ---- */

#define THREADS 4
#define EACH 500

static void *drop_many(void *arg)
{
    const struct fixture *f = arg;
    uint64_t done = 0;

    for (int i = 0; i < EACH; i++) {
        done += cuda_ipc_counter_drop(f->name, 1) == 0;
    }
    return (void *)(uintptr_t)done;
}

static void test_none_is_lost_among_threads(void **state)
{
    struct fixture *f = *state;
    pthread_t threads[THREADS];
    uint64_t done = 0;

    *slot_of(f, 1) = THREADS * EACH - 7;
    for (int i = 0; i < THREADS; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, drop_many, f), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        void *result = NULL;

        assert_int_equal(pthread_join(threads[i], &result), 0);
        done += (uintptr_t)result;
    }
    assert_int_equal(done, THREADS * EACH - 7);
    assert_int_equal(*slot_of(f, 1), 0);
    assert_int_equal(users_of(f), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),
        cmocka_unit_test_setup_teardown(test_each_slot_once, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_slots_at_the_edge, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_missing_file_is_not_made, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_short_file_is_not_touched, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_last_user_unlinks, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_none_is_lost_among_threads, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
