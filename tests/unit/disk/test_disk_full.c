/* SPDX-License-Identifier: Apache-2.0 */
/* The budget, and disks that are full or fail. */
#include "rig.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIB (1024u * 1024u)
#define BUDGET (16u * MIB)
#define CHUNK 100000u

static const char *const small[] = {"budget", "16M", "segment", "1M", NULL};

/* A disk that answers with a code, or has room for so many bytes. */
static atomic_int fail_code;
static atomic_llong fail_room;
static atomic_int fail_read_code;
static atomic_llong fail_read_after; /* offset */

static ssize_t fail_write(int fd, const struct iovec *iov, int count, off_t offset)
{
    long long bytes = 0;

    if (atomic_load(&fail_code) != 0) {
        errno = atomic_load(&fail_code);
        return -1;
    }
    for (int i = 0; i < count; i++) {
        bytes += (long long)iov[i].iov_len;
    }
    if (bytes > atomic_load(&fail_room)) {
        errno = ENOSPC;
        return -1;
    }
    atomic_fetch_sub(&fail_room, bytes);
    return pwritev(fd, iov, count, offset);
}

static ssize_t fail_read(int fd, const struct iovec *iov, int count, off_t offset)
{
    if (atomic_load(&fail_read_code) != 0) {
        errno = atomic_load(&fail_read_code);
        return -1;
    }
    if (offset >= atomic_load(&fail_read_after)) {
        errno = EIO;
        return -1;
    }
    return preadv(fd, iov, count, offset);
}

/* Moves a byte per call, as a signal or a quota may make it. */
static ssize_t tiny_write(int fd, const struct iovec *iov, int count, off_t offset)
{
    (void)count;
    return pwrite(fd, iov->iov_base, iov->iov_len > 50 ? 50 : iov->iov_len, offset);
}

static ssize_t tiny_read(int fd, const struct iovec *iov, int count, off_t offset)
{
    (void)count;
    return pread(fd, iov->iov_base, iov->iov_len > 50 ? 50 : iov->iov_len, offset);
}

static int setup(void **state)
{
    struct rig *rig = malloc(sizeof(*rig));

    atomic_store(&fail_code, 0);
    atomic_store(&fail_read_code, 0);
    atomic_store(&fail_room, INT64_MAX);
    atomic_store(&fail_read_after, INT64_MAX);
    rig_init(rig, small);
    rig->io = (struct disk_io){.write = fail_write, .read = fail_read};
    rig_start(rig);
    *state = rig;
    return 0;
}

static int teardown(void **state)
{
    struct rig *rig = *state;

    rig_stop(rig);
    rig_fini(rig);
    free(rig);
    return 0;
}

static int put(struct rig *rig, uint32_t i, size_t length)
{
    uint8_t *bytes = malloc(length);
    char key[32];
    int r;

    (void)snprintf(key, sizeof(key), "chunk-%u", i);
    rig_fill(bytes, length, i);
    r = rig_put(rig, key, bytes, length);
    free(bytes);
    return r;
}

static int get(struct rig *rig, uint32_t i, size_t length)
{
    uint8_t *bytes = malloc(length);
    char key[32];
    int r;

    (void)snprintf(key, sizeof(key), "chunk-%u", i);
    rig_fill(bytes, length, i);
    r = rig_get(rig, key, bytes, length);
    free(bytes);
    return r;
}

/* ---- the budget ---- */

static void test_the_budget_is_kept_and_the_oldest_goes(void **state)
{
    struct rig *rig = *state;
    uint32_t there = 0;
    uint64_t bytes;

    for (uint32_t i = 0; i < 500; i++) {
        assert_int_equal(put(rig, i, CHUNK), 0);
        (void)rig_files(rig, ".seg", &bytes);
        assert_true(bytes <= BUDGET);
    }
    assert_true(bytes > BUDGET - 3 * MIB);
    for (uint32_t i = 0; i < 500; i++) {
        const int r = get(rig, i, CHUNK);

        assert_true(r == 0 || r == -ENOENT);
        assert_true(r == 0 || there == 0); /* what is left is the newest */
        there += r == 0;
    }
    assert_true(there > 120);
    assert_int_equal(rig_stat(rig, "chunks"), there);
    assert_int_equal(rig_stat(rig, "expired"), 500 - there);
    rig_restart(rig);
    assert_int_equal(rig_stat(rig, "chunks"), there);
    assert_int_equal(rig->warnings, 0);
}

static void test_a_smaller_budget_after_a_restart(void **state)
{
    struct rig *rig = *state;
    uint64_t bytes;

    rig_stop(rig);
    rig->pairs[3] = "32M";
    rig_start(rig);
    for (uint32_t i = 0; i < 300; i++) {
        assert_int_equal(put(rig, i, CHUNK), 0);
    }
    rig_stop(rig);
    rig->pairs[3] = "16M";
    rig_start(rig);
    (void)rig_files(rig, ".seg", &bytes);
    assert_true(bytes <= BUDGET);
    assert_int_equal(get(rig, 299, CHUNK), 0);
    assert_int_equal(get(rig, 0, CHUNK), -ENOENT);
}

static void test_a_chunk_beyond_a_segment_gets_its_own(void **state)
{
    struct rig *rig = *state;

    assert_int_equal(put(rig, 1, CHUNK), 0);
    assert_int_equal(put(rig, 2, 5 * MIB), 0);
    assert_int_equal(put(rig, 3, CHUNK), 0);
    assert_int_equal(rig_files(rig, ".seg", NULL), 3);
    assert_int_equal(get(rig, 1, CHUNK), 0);
    assert_int_equal(get(rig, 2, 5 * MIB), 0);
    assert_int_equal(get(rig, 3, CHUNK), 0);
    assert_int_equal(put(rig, 4, 15 * MIB), 0); /* all that the budget has */
    assert_int_equal(get(rig, 4, 15 * MIB), 0);
    assert_int_equal(get(rig, 2, 5 * MIB), -ENOENT);
    assert_int_equal(put(rig, 5, 15 * MIB + 1), -EMSGSIZE);
    rig_restart(rig);
    assert_int_equal(get(rig, 4, 15 * MIB), 0);
}

static void test_files_of_nothing_but_garbage_go(void **state)
{
    struct rig *rig = *state;

    for (uint32_t i = 0; i < 100; i++) {
        assert_int_equal(put(rig, i % 5, CHUNK + i), 0);
    }
    assert_int_equal(rig_stat(rig, "chunks"), 5);
    assert_true(rig_files(rig, ".seg", NULL) <= 3);
    assert_int_equal(rig_stat(rig, "expired"), 0);
}

static void test_what_is_used_stays(void **state)
{
    struct rig *rig = *state;
    uint64_t bytes;

    assert_int_equal(put(rig, 1, CHUNK), 0);
    assert_int_equal(put(rig, 2, CHUNK), 0);
    assert_int_equal(put(rig, 3, CHUNK), 0);
    for (uint32_t i = 10; i < 600; i++) {
        assert_int_equal(put(rig, i, CHUNK), 0);
        if (i % 20 == 0) { /* read; or given back by memory, which had got it from here */
            assert_int_equal(get(rig, 1, CHUNK), 0);
            assert_int_equal(put(rig, 2, CHUNK), 0);
        }
    }
    assert_int_equal(get(rig, 1, CHUNK), 0);
    assert_int_equal(get(rig, 2, CHUNK), 0);
    assert_int_equal(get(rig, 3, CHUNK), -ENOENT);
    assert_int_equal(rig_stat(rig, "written"), 3 + 590);
    assert_int_equal(rig_stat(rig, "unchanged"), 29);
    (void)rig_files(rig, ".seg", &bytes);
    assert_true(bytes <= BUDGET + MIB);
    rig_restart(rig);
    assert_int_equal(get(rig, 1, CHUNK), 0);
    assert_int_equal(get(rig, 2, CHUNK), 0);
}

static void test_when_all_is_used_half_of_it_goes(void **state)
{
    struct rig *rig = *state;
    uint64_t bytes;
    uint32_t there = 0;

    for (uint32_t i = 0; i < 400; i++) {
        assert_int_equal(put(rig, i, CHUNK), 0);
        assert_int_equal(get(rig, i, CHUNK), 0);
        (void)rig_files(rig, ".seg", &bytes);
        assert_true(bytes <= BUDGET + MIB);
    }
    for (uint32_t i = 0; i < 400; i++) {
        there += get(rig, i, CHUNK) == 0;
    }
    assert_int_equal(rig_stat(rig, "chunks"), there);
    assert_true(there > 120);
    assert_true(rig_stat(rig, "kept") > 20);
    assert_int_equal(get(rig, 399, CHUNK), 0);
    rig_crash(rig);
    rig_start(rig);
    assert_int_equal(rig_stat(rig, "chunks"), there);
}

/* The index must not grow beyond what the budget stands for. */
static void test_tiny_chunks_are_bounded_by_their_number(void **state)
{
    struct rig *rig = *state;

    for (uint32_t i = 0; i < 5000; i++) {
        assert_int_equal(put(rig, i, 200), 0);
    }
    assert_true(rig_stat(rig, "chunks") <= BUDGET / 4096);
    assert_int_equal(get(rig, 4999, 200), 0);
}

/* ---- full ---- */

static void test_a_full_disk_is_told_once_and_read_from(void **state)
{
    struct rig *rig = *state;

    assert_int_equal(put(rig, 1, CHUNK), 0);
    atomic_store(&fail_room, 0);
    for (uint32_t i = 2; i < 10; i++) {
        assert_int_equal(put(rig, i, CHUNK), -ENOSPC);
        assert_int_equal(get(rig, 1, CHUNK), 0);
    }
    assert_int_equal(rig->warnings, 1);
    assert_non_null(strstr(rig->last_warning, "No space left"));
    assert_int_equal(rig_health(rig).state, KVL_HEALTH_DEGRADED);
    assert_non_null(strstr(rig_health(rig).text, "No space left"));
    assert_int_equal(rig_stat(rig, "write_errors"), 8);
    atomic_store(&rig->infos, 0);
    atomic_store(&fail_room, INT64_MAX);
    for (uint32_t i = 2; i < 10; i++) {
        assert_int_equal(put(rig, i, CHUNK), 0);
    }
    assert_int_equal(rig->infos, 1);
    assert_int_equal(rig->warnings, 1);
    assert_int_equal(rig_health(rig).state, KVL_HEALTH_OK);
    for (uint32_t i = 1; i < 10; i++) {
        assert_int_equal(get(rig, i, CHUNK), 0);
    }
}

static void test_a_disk_that_others_fill_gets_room_from_the_oldest(void **state)
{
    struct rig *rig = *state;

    for (uint32_t i = 0; i < 30; i++) {
        assert_int_equal(put(rig, i, CHUNK), 0);
    }
    atomic_store(&fail_room, 50000); /* and the oldest segment, as fail_write cannot know */
    assert_int_equal(put(rig, 30, CHUNK), -ENOSPC);
    assert_int_equal(rig_stat(rig, "expired_segments"), 1);
    assert_int_equal(put(rig, 31, CHUNK), -ENOSPC); /* not one segment per write */
    assert_int_equal(rig_stat(rig, "expired_segments"), 1);
    assert_int_equal(get(rig, 0, CHUNK), -ENOENT);
    assert_int_equal(get(rig, 29, CHUNK), 0);
    assert_int_equal(rig->warnings, 1);
}

static void test_a_failing_disk_is_told_once(void **state)
{
    struct rig *rig = *state;

    assert_int_equal(put(rig, 1, CHUNK), 0);
    atomic_store(&fail_code, EIO);
    assert_int_equal(put(rig, 2, CHUNK), -EIO);
    assert_int_equal(put(rig, 3, 3 * MIB), -EIO);
    assert_int_equal(rig_remove(rig, "chunk-1"), -EIO);
    assert_int_equal(get(rig, 1, CHUNK), -ENOENT);
    assert_int_equal(rig->warnings, 1);
    atomic_store(&fail_code, 0);
    assert_int_equal(put(rig, 2, CHUNK), 0);
    rig_restart(rig);
    assert_int_equal(get(rig, 2, CHUNK), 0);
}

static void test_what_could_not_be_replaced_is_a_miss(void **state)
{
    struct rig *rig = *state;

    assert_int_equal(rig_put(rig, "k", "older", 5), 0);
    atomic_store(&fail_code, EIO);
    assert_int_equal(rig_put(rig, "k", "newer", 5), -EIO);
    assert_int_equal(rig_get(rig, "k", "older", 5), -ENOENT);
    atomic_store(&fail_code, 0);
    assert_int_equal(rig_put(rig, "k", "newer", 5), 0);
    assert_int_equal(rig_get(rig, "k", "newer", 5), 0);
}

static void test_a_sector_that_cannot_be_read_is_a_miss_from_then_on(void **state)
{
    struct rig *rig = *state;

    assert_int_equal(put(rig, 1, CHUNK), 0);
    assert_int_equal(put(rig, 2, CHUNK), 0);
    atomic_store(&fail_read_code, EIO);
    assert_int_equal(get(rig, 1, CHUNK), -EIO);
    assert_int_equal(get(rig, 1, CHUNK), -ENOENT);
    atomic_store(&fail_read_code, 0);
    assert_int_equal(get(rig, 2, CHUNK), 0);
    assert_int_equal(rig->warnings, 1);
    assert_int_equal(rig_stat(rig, "read_errors"), 1);
}

/* A disk that fails while its files are read at start must not make them shorter. */
static void test_nothing_is_cut_off_a_file_that_cannot_be_read(void **state)
{
    struct rig *rig = *state;
    char path[600];
    uint64_t size;

    assert_int_equal(put(rig, 1, CHUNK), 0);
    assert_int_equal(put(rig, 2, CHUNK), 0);
    rig_crash(rig);
    size = rig_newest(rig, path, sizeof(path));
    atomic_store(&fail_read_after, 64 + 128 + CHUNK + 100);
    rig_start(rig);
    assert_int_equal(rig_stat(rig, "chunks"), 1);
    assert_int_equal(rig->warnings, 1);
    assert_int_equal(rig_newest(rig, path, sizeof(path)), size);
    assert_int_equal(put(rig, 3, CHUNK), 0); /* elsewhere */
    rig_crash(rig);
    atomic_store(&fail_read_after, INT64_MAX);
    rig_start(rig);
    assert_int_equal(rig_stat(rig, "chunks"), 3);
    assert_int_equal(get(rig, 2, CHUNK), 0);
}

static void test_what_was_half_written_is_not_there_after_a_restart(void **state)
{
    struct rig *rig = *state;

    for (uint32_t i = 10; i < 25; i++) {
        assert_int_equal(put(rig, i, CHUNK), 0);
    }
    atomic_store(&fail_room, 2 * MIB + 1000); /* two slices of four */
    assert_int_equal(put(rig, 2, 4 * MIB), -ENOSPC);
    rig_crash(rig);
    atomic_store(&fail_room, INT64_MAX);
    rig_start(rig);
    assert_int_equal(get(rig, 24, CHUNK), 0);
    assert_int_equal(get(rig, 2, 4 * MIB), -ENOENT);
    assert_int_equal(put(rig, 2, 4 * MIB), 0);
    assert_int_equal(get(rig, 2, 4 * MIB), 0);
}

static void test_short_reads_and_writes_are_finished(void **state)
{
    struct rig *rig = *state;

    rig_stop(rig);
    rig->io = (struct disk_io){.write = tiny_write, .read = tiny_read};
    rig_start(rig);
    assert_int_equal(put(rig, 1, CHUNK), 0);
    assert_int_equal(get(rig, 1, CHUNK), 0);
    rig_restart(rig);
    assert_int_equal(get(rig, 1, CHUNK), 0);
}

/* The kernel itself says no. In a child, as the limit is the process's. */
static void limited_child(struct rig *rig)
{
    const struct rlimit limit = {300000, 300000};
    int ok;

    (void)signal(SIGXFSZ, SIG_IGN);
    rig->io = disk_io_kernel;
    rig_start(rig);
    ok = put(rig, 1, CHUNK) == 0 && setrlimit(RLIMIT_FSIZE, &limit) == 0;
    ok = ok && put(rig, 2, CHUNK) == 0 && put(rig, 3, 2 * CHUNK) == -EIO;
    ok = ok && put(rig, 4, 3 * MIB) == -EIO && get(rig, 1, CHUNK) == 0 && get(rig, 2, CHUNK) == 0;
    ok = ok && rig->warnings == 1;
    rig_crash(rig);
    rig_start(rig);
    ok = ok && get(rig, 1, CHUNK) == 0 && get(rig, 2, CHUNK) == 0 && get(rig, 3, CHUNK) == -ENOENT;
    _exit(ok ? 0 : 1);
}

static void test_a_limit_on_file_size(void **state)
{
    struct rig *rig = *state;
    int status;
    pid_t pid;

    rig_stop(rig);
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        limited_child(rig);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    rig_start(rig);
    assert_int_equal(get(rig, 1, CHUNK), 0);
}

/* ---- settings that change how it writes, not what ---- */

static void test_all_ways_to_sync(void **state)
{
    struct rig *rig = *state;
    const char *const ways[] = {"segment", "write"};

    for (int i = 0; i < 2; i++) {
        rig_stop(rig);
        rig->pairs[6] = "sync";
        rig->pairs[7] = ways[i];
        rig->pairs[8] = "page_cache";
        rig->pairs[9] = "no";
        rig->pairs[10] = NULL;
        rig_start(rig);
        for (uint32_t k = 0; k < 25; k++) {
            assert_int_equal(put(rig, k, CHUNK + (size_t)i), 0);
        }
        for (uint32_t k = 0; k < 25; k++) {
            assert_int_equal(get(rig, k, CHUNK + (size_t)i), 0);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_the_budget_is_kept_and_the_oldest_goes, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_a_smaller_budget_after_a_restart, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_chunk_beyond_a_segment_gets_its_own, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_files_of_nothing_but_garbage_go, setup, teardown),
        cmocka_unit_test_setup_teardown(test_what_is_used_stays, setup, teardown),
        cmocka_unit_test_setup_teardown(test_when_all_is_used_half_of_it_goes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_tiny_chunks_are_bounded_by_their_number, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_a_full_disk_is_told_once_and_read_from, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_a_disk_that_others_fill_gets_room_from_the_oldest,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_failing_disk_is_told_once, setup, teardown),
        cmocka_unit_test_setup_teardown(test_what_could_not_be_replaced_is_a_miss, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_sector_that_cannot_be_read_is_a_miss_from_then_on,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(test_nothing_is_cut_off_a_file_that_cannot_be_read, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_what_was_half_written_is_not_there_after_a_restart,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(test_short_reads_and_writes_are_finished, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_limit_on_file_size, setup, teardown),
        cmocka_unit_test_setup_teardown(test_all_ways_to_sync, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
