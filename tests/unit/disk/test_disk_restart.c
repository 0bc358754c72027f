/* SPDX-License-Identifier: Apache-2.0 */
/* What comes back after a restart, after a kill, and from damaged files. */
#include "rig.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIB (1024u * 1024u)

static const char *const small[] = {"budget", "64M", "segment", "1M", NULL};

static int setup(void **state)
{
    struct rig *rig = malloc(sizeof(*rig));

    rig_init(rig, small);
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

/* ---- a clean end ---- */

static void put_many(struct rig *rig, uint32_t first, uint32_t end, size_t length)
{
    uint8_t *bytes = malloc(length);
    char key[32];

    for (uint32_t i = first; i < end; i++) {
        (void)snprintf(key, sizeof(key), "chunk-%u", i);
        rig_fill(bytes, length, i);
        assert_int_equal(rig_put(rig, key, bytes, length), 0);
    }
    free(bytes);
}

static void check_many(struct rig *rig, uint32_t first, uint32_t end, size_t length, int status)
{
    uint8_t *bytes = malloc(length);
    char key[32];

    for (uint32_t i = first; i < end; i++) {
        (void)snprintf(key, sizeof(key), "chunk-%u", i);
        rig_fill(bytes, length, i);
        assert_int_equal(rig_get(rig, key, bytes, length), status);
    }
    free(bytes);
}

static void test_all_is_back_after_a_restart(void **state)
{
    struct rig *rig = *state;

    put_many(rig, 0, 50, 100000); /* over several segments */
    assert_true(rig_stat(rig, "segments") > 3);
    rig_restart(rig);
    assert_int_equal(rig_stat(rig, "chunks"), 50);
    assert_int_equal(rig_stat(rig, "live_bytes"), 50 * 100000);
    check_many(rig, 0, 50, 100000, 0);
    assert_int_equal(rig->warnings, 0);
}

static void test_restarts_do_not_multiply_files(void **state)
{
    struct rig *rig = *state;

    for (uint32_t i = 0; i < 20; i++) {
        put_many(rig, i, i + 1, 1000);
        rig_restart(rig);
    }
    assert_int_equal(rig_files(rig, ".seg", NULL), 1);
    check_many(rig, 0, 20, 1000, 0);
    assert_int_equal(rig->warnings, 0);
}

static void test_the_newest_of_a_key_comes_back(void **state)
{
    struct rig *rig = *state;

    assert_int_equal(rig_put(rig, "k", "old", 3), 0);
    put_many(rig, 0, 30, 100000);
    assert_int_equal(rig_put(rig, "k", "newer", 5), 0);
    rig_restart(rig);
    assert_int_equal(rig_get(rig, "k", "newer", 5), 0);
    assert_int_equal(rig_stat(rig, "chunks"), 31);
    assert_int_equal(rig_stat(rig, "live_bytes"), 3000005);
}

static void test_what_was_removed_stays_away(void **state)
{
    struct rig *rig = *state;

    assert_int_equal(rig_put(rig, "k", "old", 3), 0);
    put_many(rig, 0, 30, 100000);
    assert_int_equal(rig_remove(rig, "k"), 0);
    rig_restart(rig);
    assert_int_equal(rig_has(rig, "k"), -ENOENT);
    assert_int_equal(rig_stat(rig, "chunks"), 30);
    assert_int_equal(rig_remove(rig, "chunk-7"), 0);
    rig_crash(rig);
    rig_start(rig);
    assert_int_equal(rig_has(rig, "k"), -ENOENT);
    assert_int_equal(rig_has(rig, "chunk-7"), -ENOENT);
    assert_int_equal(rig->warnings, 0);
}

static void test_other_files_are_left_alone(void **state)
{
    struct rig *rig = *state;
    const char *names[] = {"README", "1.seg", "00000000.seg", "00000007.seg.old", "x00000007.seg"};
    char path[600];

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        (void)snprintf(path, sizeof(path), "%s/%s", rig->folder, names[i]);
        (void)close(open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
    }
    rig_restart(rig);
    put_many(rig, 0, 20, 100000);
    rig_restart(rig);
    check_many(rig, 0, 20, 100000, 0);
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        (void)snprintf(path, sizeof(path), "%s/%s", rig->folder, names[i]);
        assert_int_equal(access(path, F_OK), 0);
    }
    assert_int_equal(rig->warnings, 0);
}

/* ---- a crash ---- */

static void test_all_that_was_written_survives_a_kill(void **state)
{
    struct rig *rig = *state;

    put_many(rig, 0, 25, 100000);
    rig_crash(rig);
    rig_start(rig);
    check_many(rig, 0, 25, 100000, 0);
    put_many(rig, 25, 30, 100000);
    rig_crash(rig);
    rig_start(rig);
    check_many(rig, 0, 30, 100000, 0);
    assert_int_equal(rig->warnings, 0);
    assert_int_equal(rig_stat(rig, "torn_bytes"), 0);
}

/* The last record is cut at `length` or has a bit flipped at `flip`: it goes, the others stay. */
static void check_torn(struct rig *rig, const char *path, const char *intact, uint64_t size,
                       uint64_t length, uint64_t flip)
{
    rig_copy(intact, path, length);
    if (flip < length) {
        rig_flip(path, flip);
    }
    atomic_store(&rig->warnings, 0);
    rig_start(rig);
    check_many(rig, 0, 3, 777, 0);
    if (length == size && flip >= length) {
        assert_int_equal(rig_has(rig, "last"), 0);
        assert_int_equal(rig->warnings, 0);
    } else {
        assert_int_equal(rig_has(rig, "last"), -ENOENT);
        assert_true(rig->warnings <= 1);
    }
    /* and goes on as if nothing had been */
    assert_int_equal(rig_put(rig, "last", "again", 5), 0);
    rig_crash(rig);
    rig_start(rig);
    assert_int_equal(rig_get(rig, "last", "again", 5), 0);
    check_many(rig, 0, 3, 777, 0);
    rig_crash(rig);
}

static void test_a_torn_record_is_dropped_wherever_it_is_torn(void **state)
{
    struct rig *rig = *state;
    uint8_t bytes[300];
    char intact[300];
    char path[600];
    uint64_t start;
    uint64_t size;

    (void)snprintf(intact, sizeof(intact), "%s/intact", rig->folder);
    put_many(rig, 0, 3, 777);
    start = rig_stat(rig, "disk_bytes");
    rig_fill(bytes, sizeof(bytes), 99);
    assert_int_equal(rig_put(rig, "last", bytes, sizeof(bytes)), 0);
    rig_crash(rig);
    size = rig_newest(rig, path, sizeof(path));
    assert_int_equal(size, start + 128 + 300);
    rig_copy(path, intact, size);
    check_torn(rig, path, intact, size, size, UINT64_MAX);
    for (uint64_t at = start; at < size; at += at < start + 72 ? 1 : 17) {
        check_torn(rig, path, intact, size, at, UINT64_MAX);
        if (at < start + 68 || at >= start + 128) { /* between them are zeros that say nothing */
            check_torn(rig, path, intact, size, size, at);
        }
    }
    rig_start(rig);
}

static void test_zeros_behind_the_end_are_cut_off(void **state)
{
    struct rig *rig = *state;
    char path[600];
    uint64_t size;

    put_many(rig, 0, 3, 777);
    rig_crash(rig);
    size = rig_newest(rig, path, sizeof(path));
    assert_int_equal(truncate(path, (off_t)size + 100000), 0);
    rig_start(rig);
    check_many(rig, 0, 3, 777, 0);
    assert_true(rig_stat(rig, "torn_bytes") >= 99900);
    assert_int_equal(rig->warnings, 1);
    assert_true(rig_newest(rig, path, sizeof(path)) <= size + 64);
}

/* A payload that looks like a record of the file must not be taken for one after a crash. */
static void test_a_payload_is_no_record(void **state)
{
    struct rig *rig = *state;
    const struct disk_record trap = {
        .kind = DISK_CHUNK, .key = kvl_key_from_text("trap"), .sequence = 1000, .bytes = 0};
    uint8_t bytes[4096];
    char path[600];
    uint64_t size;

    memset(bytes, 0, sizeof(bytes));
    for (size_t at = 0; at + DISK_HEAD_MAX <= sizeof(bytes); at += 64) {
        (void)disk_record_encode(&trap, 12345, bytes + at);
    }
    assert_int_equal(rig_put(rig, "k", bytes, sizeof(bytes)), 0);
    rig_crash(rig);
    size = rig_newest(rig, path, sizeof(path));
    assert_int_equal(truncate(path, (off_t)size - 64), 0);
    rig_start(rig);
    assert_int_equal(rig_has(rig, "k"), -ENOENT);
    assert_int_equal(rig_has(rig, "trap"), -ENOENT);
}

static void child_writes(const struct rig *rig, int fd)
{
    struct rig *own = malloc(sizeof(*own));
    static uint8_t bytes[3 * MIB];
    char key[32];

    memcpy(own, rig, sizeof(*own));
    rig_start(own);
    for (uint32_t i = 0;; i++) {
        (void)snprintf(key, sizeof(key), "chunk-%u", i);
        rig_fill(bytes, sizeof(bytes), i);
        if (rig_put(own, key, bytes, sizeof(bytes)) != 0 ||
            write(fd, &i, sizeof(i)) != (ssize_t)sizeof(i)) {
            _exit(1);
        }
    }
}

static void test_a_killed_process_loses_nothing_it_had_written(void **state)
{
    struct rig *rig = *state;
    uint32_t last = 0;
    int pipes[2];
    int status;
    pid_t pid;

    for (int round = 0; round < 3; round++) {
        rig_stop(rig);
        assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
        pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
            child_writes(rig, pipes[1]);
        }
        (void)close(pipes[1]);
        for (int i = 0; i < 4 + round; i++) {
            assert_int_equal(read(pipes[0], &last, sizeof(last)), (ssize_t)sizeof(last));
        }
        (void)usleep(1000 * (unsigned)round);
        assert_int_equal(kill(pid, SIGKILL), 0);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFSIGNALED(status));
        (void)close(pipes[0]);
        rig_start(rig);
        check_many(rig, 0, last + 1, 3 * MIB, 0);
    }
}

/* ---- damage ---- */

static void test_a_flipped_bit_is_seen_and_the_chunk_dropped(void **state)
{
    struct rig *rig = *state;
    char path[600];
    uint64_t size;

    put_many(rig, 0, 3, 777);
    size = rig_newest(rig, path, sizeof(path));
    rig_flip(path, size - 400);
    check_many(rig, 2, 3, 777, -EBADMSG);
    check_many(rig, 2, 3, 777, -ENOENT);
    check_many(rig, 0, 2, 777, 0);
    assert_int_equal(rig_stat(rig, "corrupt"), 1);
    assert_int_equal(rig_stat(rig, "chunks"), 2);
    rig_flip(path, 64 + 8); /* in the head of the first record */
    check_many(rig, 0, 1, 777, -EBADMSG);
    check_many(rig, 0, 1, 777, -ENOENT);
    assert_int_equal(rig_stat(rig, "corrupt"), 2);
    assert_int_equal(rig->warnings, 1); /* one for all of them */
    put_many(rig, 2, 3, 777);
    check_many(rig, 2, 3, 777, 0);
}

static void test_damage_in_a_closed_file_costs_what_follows(void **state)
{
    struct rig *rig = *state;
    char path[600];
    uint64_t size;

    put_many(rig, 0, 3, 777);
    rig_stop(rig);
    size = rig_newest(rig, path, sizeof(path));
    rig_flip(path, 64 + 128 + 832 + 8); /* head of the second record */
    rig_start(rig);
    check_many(rig, 0, 1, 777, 0);
    check_many(rig, 1, 3, 777, -ENOENT);
    assert_int_equal(rig->warnings, 1);
    assert_int_equal(rig_newest(rig, path, sizeof(path)), size); /* nothing cut off */
    put_many(rig, 3, 5, 777); /* into another file */
    assert_int_equal(rig_files(rig, ".seg", NULL), 2);
    rig_restart(rig);
    check_many(rig, 3, 5, 777, 0);
}

static void test_a_file_cut_while_it_is_used(void **state)
{
    struct rig *rig = *state;
    char path[600];

    put_many(rig, 0, 3, 777);
    (void)rig_newest(rig, path, sizeof(path));
    assert_int_equal(truncate(path, 64 + 128 + 100), 0);
    check_many(rig, 0, 3, 777, -EBADMSG);
    check_many(rig, 0, 3, 777, -ENOENT);
}

static void test_a_bad_file_head_sets_the_file_aside(void **state)
{
    struct rig *rig = *state;
    char path[600];

    put_many(rig, 0, 12, 100000);
    rig_stop(rig);
    assert_int_equal(rig_files(rig, ".seg", NULL), 2);
    (void)snprintf(path, sizeof(path), "%s/00000001.seg", rig->folder);
    rig_flip(path, 20);
    rig_start(rig);
    assert_int_equal(rig->warnings, 1);
    assert_non_null(strstr(rig->last_warning, "00000001.seg.bad"));
    assert_int_equal(rig_stat(rig, "bad_segments"), 1);
    assert_int_equal(rig_files(rig, ".seg.bad", NULL), 1);
    check_many(rig, 0, 1, 100000, -ENOENT);
    check_many(rig, 11, 12, 100000, 0);
    rig_restart(rig); /* not told again */
    assert_int_equal(rig->warnings, 1);
}

/* Somebody mends what was set aside, when newer files are there already. */
static void test_a_file_that_was_set_aside_can_come_back(void **state)
{
    struct rig *rig = *state;
    char path[600];
    char bad[610];

    put_many(rig, 0, 5, 777);
    rig_stop(rig);
    (void)rig_newest(rig, path, sizeof(path));
    (void)snprintf(bad, sizeof(bad), "%s.bad", path);
    rig_flip(path, 20);
    rig_start(rig);
    put_many(rig, 5, 8, 777);
    rig_crash(rig);
    rig_flip(bad, 20);
    assert_int_equal(rename(bad, path), 0);
    rig_start(rig);
    check_many(rig, 0, 8, 777, 0);
    assert_int_equal(rig_stat(rig, "torn_bytes"), 0);
}

static void test_a_file_of_another_version_is_set_aside(void **state)
{
    struct rig *rig = *state;
    char path[600];

    put_many(rig, 0, 1, 777);
    rig_stop(rig);
    (void)rig_newest(rig, path, sizeof(path));
    rig_flip(path, 4);
    rig_start(rig);
    assert_int_equal(rig->warnings, 1);
    assert_non_null(strstr(rig->last_warning, "another version"));
    put_many(rig, 0, 1, 777);
    (void)rig_newest(rig, path, sizeof(path));
    assert_non_null(strstr(path, "00000002.seg")); /* no number twice */
}

static void test_a_copy_under_another_name_is_set_aside(void **state)
{
    struct rig *rig = *state;
    char path[600];
    char copy[600];
    uint64_t size;

    put_many(rig, 0, 2, 777);
    assert_int_equal(rig_remove(rig, "chunk-0"), 0);
    size = rig_newest(rig, path, sizeof(path));
    (void)snprintf(copy, sizeof(copy), "%s/00000005.seg", rig->folder);
    rig_copy(path, copy, size);
    rig_restart(rig);
    assert_int_equal(rig_stat(rig, "bad_segments"), 1);
    check_many(rig, 0, 1, 777, -ENOENT);
    check_many(rig, 1, 2, 777, 0);
}

static void test_an_empty_file_is_no_news(void **state)
{
    struct rig *rig = *state;
    char path[600];

    (void)snprintf(path, sizeof(path), "%s/00000003.seg", rig->folder);
    (void)close(open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
    rig_restart(rig);
    assert_int_equal(access(path, F_OK), -1);
    assert_int_equal(rig->warnings, 0);
}

static void test_what_is_no_file_is_set_aside(void **state)
{
    struct rig *rig = *state;
    char path[600];

    (void)snprintf(path, sizeof(path), "%s/00000003.seg", rig->folder);
    assert_int_equal(symlink("/etc/passwd", path), 0);
    (void)snprintf(path, sizeof(path), "%s/00000004.seg", rig->folder);
    assert_int_equal(mkfifo(path, 0600), 0);
    rig_restart(rig);
    assert_int_equal(rig_stat(rig, "bad_segments"), 2);
    put_many(rig, 0, 1, 777);
    check_many(rig, 0, 1, 777, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_all_is_back_after_a_restart, setup, teardown),
        cmocka_unit_test_setup_teardown(test_restarts_do_not_multiply_files, setup, teardown),
        cmocka_unit_test_setup_teardown(test_the_newest_of_a_key_comes_back, setup, teardown),
        cmocka_unit_test_setup_teardown(test_what_was_removed_stays_away, setup, teardown),
        cmocka_unit_test_setup_teardown(test_other_files_are_left_alone, setup, teardown),
        cmocka_unit_test_setup_teardown(test_all_that_was_written_survives_a_kill, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_torn_record_is_dropped_wherever_it_is_torn, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_zeros_behind_the_end_are_cut_off, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_payload_is_no_record, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_killed_process_loses_nothing_it_had_written, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_a_flipped_bit_is_seen_and_the_chunk_dropped, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_damage_in_a_closed_file_costs_what_follows, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_a_file_cut_while_it_is_used, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_bad_file_head_sets_the_file_aside, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_file_that_was_set_aside_can_come_back, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_a_file_of_another_version_is_set_aside, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_a_copy_under_another_name_is_set_aside, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_an_empty_file_is_no_news, setup, teardown),
        cmocka_unit_test_setup_teardown(test_what_is_no_file_is_set_aside, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
