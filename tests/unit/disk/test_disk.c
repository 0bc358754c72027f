/* SPDX-License-Identifier: Apache-2.0 */
/* One instance and its operations. */
#include "rig.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
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

/* ---- one chunk ---- */

static void test_gives_back_what_it_got(void **state)
{
    struct rig *rig = *state;
    const size_t sizes[] = {1, 63, 64, 65, 4096, 100000, MIB, MIB + 1, 5 * MIB + 7};
    uint8_t *bytes = malloc(6 * MIB);
    char key[64];

    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        (void)snprintf(key, sizeof(key), "model@1@0@%zx@half", sizes[i]);
        rig_fill(bytes, sizes[i], i);
        assert_int_equal(rig_put(rig, key, bytes, sizes[i]), 0);
    }
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        (void)snprintf(key, sizeof(key), "model@1@0@%zx@half", sizes[i]);
        rig_fill(bytes, sizes[i], i);
        assert_int_equal(rig_get(rig, key, bytes, sizes[i]), 0);
    }
    free(bytes);
}

static void test_an_empty_chunk_is_a_chunk(void **state)
{
    struct rig *rig = *state;

    assert_int_equal(rig_put(rig, "empty", NULL, 0), 0);
    assert_int_equal(rig_has(rig, "empty"), 0);
    assert_int_equal(rig_get(rig, "empty", NULL, 0), 0);
}

static void test_a_miss_is_a_miss(void **state)
{
    struct rig *rig = *state;

    assert_int_equal(rig_has(rig, "nothing"), -ENOENT);
    assert_int_equal(rig_get(rig, "nothing", NULL, 0), -ENOENT);
    assert_int_equal(rig_remove(rig, "nothing"), -ENOENT);
    assert_int_equal(rig_stat(rig, "misses"), 1);
}

static void test_overwriting_replaces(void **state)
{
    struct rig *rig = *state;

    assert_int_equal(rig_put(rig, "k", "first", 5), 0);
    assert_int_equal(rig_put(rig, "k", "other", 5), 0);
    assert_int_equal(rig_get(rig, "k", "other", 5), 0);
    assert_int_equal(rig_put(rig, "k", "longer", 6), 0);
    assert_int_equal(rig_get(rig, "k", "longer", 6), 0);
    assert_int_equal(rig_stat(rig, "chunks"), 1);
    assert_int_equal(rig_stat(rig, "live_bytes"), 6);
    assert_int_equal(rig_stat(rig, "written"), 3);
}

static void test_what_is_there_is_not_written_again(void **state)
{
    struct rig *rig = *state;
    uint64_t before;

    assert_int_equal(rig_put(rig, "k", "bytes", 5), 0);
    before = rig_stat(rig, "disk_bytes");
    assert_int_equal(rig_put(rig, "k", "bytes", 5), 0);
    assert_int_equal(rig_stat(rig, "disk_bytes"), before);
    assert_int_equal(rig_stat(rig, "unchanged"), 1);
}

static void test_removing_removes(void **state)
{
    struct rig *rig = *state;

    assert_int_equal(rig_put(rig, "k", "bytes", 5), 0);
    assert_int_equal(rig_remove(rig, "k"), 0);
    assert_int_equal(rig_has(rig, "k"), -ENOENT);
    assert_int_equal(rig_get(rig, "k", "bytes", 5), -ENOENT);
    assert_int_equal(rig_remove(rig, "k"), -ENOENT);
    assert_int_equal(rig_put(rig, "k", "again", 5), 0);
    assert_int_equal(rig_get(rig, "k", "again", 5), 0);
}

static void test_lists_all_keys(void **state)
{
    struct rig *rig = *state;
    char key[32];

    for (int i = 0; i < 150; i++) {
        (void)snprintf(key, sizeof(key), "key-%d", i);
        assert_int_equal(rig_put(rig, key, key, 6), 0);
    }
    assert_int_equal(rig_remove(rig, "key-77"), 0);
    assert_int_equal(rig->ops->list(rig->store, 999999, KVL_NEVER), 0);
    assert_int_equal(fake_host_wait(rig->fake, 999999, NULL), 0);
    assert_int_equal(fake_host_listed_count(rig->fake), 149);
    assert_true(fake_host_listed(rig->fake, "key-0"));
    assert_true(fake_host_listed(rig->fake, "key-149"));
    assert_false(fake_host_listed(rig->fake, "key-77"));
}

/* ---- batches ---- */

struct strided {
    uint8_t memory[4][8192]; /* rows of which a part belongs to the chunk */
    struct kvl_sg sg[2];
};

static void strided_init(struct strided *strided, uint64_t seed)
{
    rig_fill(strided->memory, sizeof(strided->memory), seed);
    strided->sg[0] = (struct kvl_sg){.addr = (uint64_t)(uintptr_t)&strided->memory[0][100],
                                     .length = 1000,
                                     .stride = 8192,
                                     .count = 4,
                                     .device = -1};
    strided->sg[1] = (struct kvl_sg){.addr = (uint64_t)(uintptr_t)&strided->memory[1][4000],
                                     .length = 333,
                                     .count = 1,
                                     .device = -1};
}

static void test_strided_memory_both_ways(void **state)
{
    struct rig *rig = *state;
    struct strided *from = calloc(1, sizeof(*from));
    struct strided *to = calloc(1, sizeof(*to));
    struct strided *untouched = calloc(1, sizeof(*untouched));
    struct fake_result *result = malloc(sizeof(*result));
    struct kvl_chunk chunk = {.key = kvl_key_from_text("strided"), .bytes = 4333};
    struct kvl_batch batch = {.count = 1, .chunks = &chunk, .sg_first = (const uint32_t[]){0, 2}};

    strided_init(from, 1);
    strided_init(to, 2);
    strided_init(untouched, 2);
    batch.sg = from->sg;
    assert_int_equal(rig_batch(rig, rig->ops->write, &batch, result), 0);
    assert_int_equal(result->status, 0);
    assert_int_equal(result->bytes, 4333);
    batch.sg = to->sg;
    assert_int_equal(rig_batch(rig, rig->ops->read, &batch, result), 0);
    assert_int_equal(result->status, 0);
    assert_int_equal(result->bytes, 4333);
    for (int row = 0; row < 4; row++) {
        assert_memory_equal(&to->memory[row][100], &from->memory[row][100], 1000);
        assert_memory_equal(to->memory[row], untouched->memory[row], 100);
        assert_memory_equal(&to->memory[row][4333], &untouched->memory[row][4333], 3000);
    }
    assert_memory_equal(&to->memory[1][4000], &from->memory[1][4000], 333);
    free(from);
    free(to);
    free(untouched);
    free(result);
}

/* More runs than fit in one system call, more bytes than one slice. */
static void test_many_runs(void **state)
{
    struct rig *rig = *state;
    const size_t rows = 3000;
    uint8_t *from = malloc(rows * 1024);
    uint8_t *to = calloc(rows, 1024);
    struct kvl_sg sg = {.addr = (uint64_t)(uintptr_t)from,
                        .length = 700,
                        .stride = 1024,
                        .count = (uint32_t)rows,
                        .device = -1};
    struct fake_result *result = malloc(sizeof(*result));
    struct kvl_chunk chunk = {.key = kvl_key_from_text("rows"), .bytes = 700 * rows};
    struct kvl_batch batch = {
        .count = 1, .chunks = &chunk, .sg = &sg, .sg_first = (const uint32_t[]){0, 1}};

    rig_fill(from, rows * 1024, 3);
    assert_int_equal(rig_batch(rig, rig->ops->write, &batch, result), 0);
    assert_int_equal(result->status, 0);
    sg.addr = (uint64_t)(uintptr_t)to;
    assert_int_equal(rig_batch(rig, rig->ops->read, &batch, result), 0);
    assert_int_equal(result->status, 0);
    for (size_t row = 0; row < rows; row++) {
        assert_memory_equal(to + row * 1024, from + row * 1024, 700);
        assert_int_equal(to[row * 1024 + 700], 0);
    }
    free(from);
    free(to);
    free(result);
}

#define ITEMS 40u

static void test_items_of_a_batch_have_their_own_status(void **state)
{
    struct rig *rig = *state;
    struct fake_result *result = malloc(sizeof(*result));
    struct kvl_chunk chunks[ITEMS];
    struct kvl_sg sg[ITEMS];
    uint32_t first[ITEMS + 1];
    char keys[ITEMS][16];
    uint8_t bytes[ITEMS][512];
    uint8_t got[ITEMS][512];
    struct kvl_batch batch = {.count = ITEMS, .chunks = chunks, .sg = sg, .sg_first = first};

    for (uint32_t i = 0; i < ITEMS; i++) {
        (void)snprintf(keys[i], sizeof(keys[i]), "item-%u", i);
        rig_fill(bytes[i], 512, i);
        chunks[i] = (struct kvl_chunk){.key = kvl_key_from_text(keys[i]), .bytes = 512};
        sg[i] = (struct kvl_sg){
            .addr = (uint64_t)(uintptr_t)bytes[i], .length = 512, .count = 1, .device = -1};
        first[i] = i;
    }
    first[ITEMS] = ITEMS;
    assert_int_equal(rig_batch(rig, rig->ops->write, &batch, result), 0);
    assert_int_equal(result->status, 0);
    assert_int_equal(result->bytes, 512 * ITEMS);
    for (uint32_t i = 0; i < ITEMS; i++) {
        sg[i].addr = (uint64_t)(uintptr_t)got[i];
        if (i % 3 == 1) {
            assert_int_equal(rig_remove(rig, keys[i]), 0);
        }
    }
    assert_int_equal(rig_batch(rig, rig->ops->read, &batch, result), 0);
    assert_int_equal(result->status, -ENOENT);
    for (uint32_t i = 0; i < ITEMS; i++) {
        assert_int_equal(result->items[i], i % 3 == 1 ? -ENOENT : 0);
        if (i % 3 != 1) {
            assert_memory_equal(got[i], bytes[i], 512);
        }
    }
    batch.sg = NULL;
    batch.sg_first = NULL;
    assert_int_equal(rig_batch(rig, rig->ops->lookup, &batch, result), 0);
    for (uint32_t i = 0; i < ITEMS; i++) {
        assert_int_equal(result->items[i], i % 3 == 1 ? -ENOENT : 0);
    }
    free(result);
}

static void test_expectations_are_held(void **state)
{
    struct rig *rig = *state;
    struct fake_result *result = malloc(sizeof(*result));
    struct kvl_chunk chunk = {.key = kvl_key_from_text("k")};
    struct kvl_batch batch = {.count = 1, .chunks = &chunk};

    assert_int_equal(rig_put(rig, "k", "bytes", 5), 0);
    chunk.bytes = 6;
    assert_int_equal(rig_batch(rig, rig->ops->read, &batch, result), 0);
    assert_int_equal(result->items[0], -EBADMSG);
    chunk.bytes = 5;
    chunk.flags = KVL_CHUNK_EXPECT_ATTRS;
    assert_int_equal(rig_batch(rig, rig->ops->read, &batch, result), 0);
    assert_int_equal(result->items[0], -EBADMSG);
    chunk.attrs.shape[0] = 5; /* as rig_put says */
    assert_int_equal(rig_batch(rig, rig->ops->read, &batch, result), 0);
    assert_int_equal(result->items[0], 0);
    chunk.flags = KVL_CHUNK_HAS_CHECKSUM;
    chunk.checksum = 1;
    assert_int_equal(rig_batch(rig, rig->ops->read, &batch, result), 0);
    assert_int_equal(result->items[0], -EBADMSG);
    assert_int_equal(rig_get(rig, "k", "bytes", 5), 0); /* it was never damaged */
    assert_int_equal(rig_stat(rig, "corrupt"), 0);
    free(result);
}

static void test_what_read_target_says_is_the_status(void **state)
{
    struct rig *rig = *state;

    assert_int_equal(rig_put(rig, "k", "bytes", 5), 0);
    fake_host_set_target_code(rig->fake, -ENOMEM);
    assert_int_equal(rig_get(rig, "k", "bytes", 5), -ENOMEM);
    fake_host_set_target_code(rig->fake, 0);
    assert_int_equal(rig_get(rig, "k", "bytes", 5), 0);
}

static void test_wrong_batches_are_refused(void **state)
{
    struct rig *rig = *state;
    struct fake_result *result = malloc(sizeof(*result));
    struct kvl_sg sg = {.addr = 4096, .length = 5, .count = 1, .device = -1};
    struct kvl_chunk chunk = {.key = kvl_key_from_text("k"), .bytes = 5};
    struct kvl_batch batch = {
        .count = 1, .chunks = &chunk, .sg = &sg, .sg_first = (const uint32_t[]){0, 1}};

    chunk.bytes = 6; /* not what the runs are */
    assert_int_equal(rig_batch(rig, rig->ops->write, &batch, result), -EINVAL);
    assert_int_equal(rig_batch(rig, rig->ops->read, &batch, result), -EINVAL);
    chunk.bytes = 64ull * MIB;
    assert_int_equal(rig_batch(rig, rig->ops->write, &batch, result), -EMSGSIZE);
    chunk.bytes = 5;
    sg.mem = 3;
    assert_int_equal(rig_batch(rig, rig->ops->write, &batch, result), -ENOTSUP);
    sg.mem = 0;
    chunk.key.length = 0;
    assert_int_equal(rig_batch(rig, rig->ops->lookup, &batch, result), -EINVAL);
    chunk.key.length = KVL_KEY_MAX + 1;
    assert_int_equal(rig_batch(rig, rig->ops->lookup, &batch, result), -EINVAL);
    batch.count = 0;
    assert_int_equal(rig_batch(rig, rig->ops->lookup, &batch, result), -EINVAL);
    free(result);
}

/* ---- time ---- */

static void test_a_deadline_in_the_past(void **state)
{
    struct rig *rig = *state;
    struct fake_result *result = malloc(sizeof(*result));
    struct kvl_chunk chunk = {.key = kvl_key_from_text("k")};
    struct kvl_batch batch = {.count = 1, .chunks = &chunk, .deadline_ms = 1};

    assert_int_equal(rig_batch(rig, rig->ops->lookup, &batch, result), 0);
    assert_int_equal(result->status, -ETIMEDOUT);
    assert_int_equal(rig_batch(rig, rig->ops->read, &batch, result), 0);
    assert_int_equal(result->status, -ETIMEDOUT);
    free(result);
}

/* A disk that waits until it is told to go on. */
static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int closed;
    int waiting;
} gate = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, 0};

static void gate_set(int closed)
{
    pthread_mutex_lock(&gate.lock);
    gate.closed = closed;
    pthread_cond_broadcast(&gate.changed);
    pthread_mutex_unlock(&gate.lock);
}

static void gate_wait_for_waiter(void)
{
    pthread_mutex_lock(&gate.lock);
    while (gate.waiting == 0) {
        pthread_cond_wait(&gate.changed, &gate.lock);
    }
    pthread_mutex_unlock(&gate.lock);
}

static ssize_t gate_write(int fd, const struct iovec *iov, int count, off_t offset)
{
    pthread_mutex_lock(&gate.lock);
    gate.waiting++;
    pthread_cond_broadcast(&gate.changed);
    while (gate.closed) {
        pthread_cond_wait(&gate.changed, &gate.lock);
    }
    gate.waiting--;
    pthread_mutex_unlock(&gate.lock);
    return pwritev(fd, iov, count, offset);
}

static int gated_setup(void **state)
{
    struct rig *rig = malloc(sizeof(*rig));

    rig_init(rig, (const char *const[]){"budget", "64M", "max_in_flight", "10", NULL});
    rig->io.write = gate_write;
    rig_start(rig);
    gate_set(1);
    *state = rig;
    return 0;
}

static uint8_t gated_bytes[3 * MIB];

static int gated_put(struct rig *rig, const char *key, uint64_t cookie)
{
    const struct kvl_sg sg = {.addr = (uint64_t)(uintptr_t)gated_bytes,
                              .length = sizeof(gated_bytes),
                              .count = 1,
                              .device = -1};
    const struct kvl_chunk chunk = {.key = kvl_key_from_text(key),
                                    .attrs.shape[0] = sizeof(gated_bytes),
                                    .bytes = sizeof(gated_bytes)};
    const struct kvl_batch batch = {.size = sizeof(batch),
                                    .count = 1,
                                    .cookie = cookie,
                                    .chunks = &chunk,
                                    .sg = &sg,
                                    .sg_first = (const uint32_t[]){0, 1}};

    return rig->ops->write(rig->store, &batch);
}

static void test_cancel_ends_what_waits_and_what_runs(void **state)
{
    struct rig *rig = *state;
    struct fake_result *result = malloc(sizeof(*result));

    assert_int_equal(gated_put(rig, "runs", 101), 0);
    gate_wait_for_waiter();
    assert_int_equal(gated_put(rig, "waits", 102), 0);
    assert_int_equal(gated_put(rig, "goes on", 103), 0);
    rig->ops->cancel(rig->store, 101);
    rig->ops->cancel(rig->store, 102);
    rig->ops->cancel(rig->store, 4711);
    gate_set(0);
    assert_int_equal(fake_host_wait(rig->fake, 101, result), 0);
    assert_int_equal(result->items[0], -ECANCELED);
    assert_int_equal(fake_host_wait(rig->fake, 102, result), 0);
    assert_int_equal(result->items[0], -ECANCELED);
    assert_int_equal(fake_host_wait(rig->fake, 103, result), 0);
    assert_int_equal(result->items[0], 0);
    assert_int_equal(rig_has(rig, "runs"), -ENOENT);
    assert_int_equal(rig_get(rig, "goes on", gated_bytes, sizeof(gated_bytes)), 0);
    free(result);
}

static void test_lookups_and_reads_do_not_wait_for_writes(void **state)
{
    struct rig *rig = *state;

    gate_set(0);
    assert_int_equal(rig_put(rig, "k", "bytes", 5), 0);
    gate_set(1);
    assert_int_equal(gated_put(rig, "slow", 101), 0);
    gate_wait_for_waiter();
    assert_int_equal(rig_has(rig, "k"), 0);
    assert_int_equal(rig_get(rig, "k", "bytes", 5), 0);
    gate_set(0);
    assert_int_equal(fake_host_wait(rig->fake, 101, NULL), 0);
}

static void test_takes_no_more_than_it_may(void **state)
{
    struct rig *rig = *state;
    char key[16];

    for (uint32_t i = 0; i < 10; i++) {
        (void)snprintf(key, sizeof(key), "k%u", i);
        assert_int_equal(gated_put(rig, key, 101 + i), 0);
    }
    assert_int_equal(gated_put(rig, "more", 111), -EAGAIN);
    assert_int_equal(rig_stat(rig, "in_flight"), 10);
    gate_set(0);
    assert_int_equal(rig->ops->drain(rig->store, KVL_NEVER), 0);
    assert_int_equal(fake_host_completions_all(rig->fake), 10);
    assert_int_equal(gated_put(rig, "more", 111), 0);
    assert_int_equal(fake_host_wait(rig->fake, 111, NULL), 0);
}

static void *open_gate(void *arg)
{
    (void)arg;
    (void)usleep(50000);
    gate_set(0);
    return NULL;
}

static void test_stop_completes_everything_once(void **state)
{
    struct rig *rig = *state;
    struct fake_result *result = malloc(sizeof(*result));
    pthread_t thread;
    char key[16];

    for (uint32_t i = 0; i < 8; i++) {
        (void)snprintf(key, sizeof(key), "k%u", i);
        assert_int_equal(gated_put(rig, key, 101 + i), 0);
    }
    gate_wait_for_waiter();
    rig->ops->quiesce(rig->store);
    assert_int_equal(gated_put(rig, "late", 200), -ECANCELED);
    assert_int_equal(rig->ops->drain(rig->store, 1), -ETIMEDOUT);
    assert_int_equal(pthread_create(&thread, NULL, open_gate, NULL), 0);
    rig->ops->stop(rig->store);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(fake_host_completions_all(rig->fake), 8);
    for (uint32_t i = 0; i < 8; i++) {
        assert_int_equal(fake_host_completions(rig->fake, 101 + i), 1);
        assert_int_equal(fake_host_wait(rig->fake, 101 + i, result), 0);
        assert_int_equal(result->items[0], -ECANCELED);
    }
    assert_int_equal(rig_health(rig).state, KVL_HEALTH_DOWN);
    free(result);
}

/* ---- life ---- */

static void check_refused(const char *const *pairs, const char *words)
{
    struct fake_host *fake = fake_host_create(kvlane_backend_v1(), pairs);
    const struct kvl_backend_ops *ops = kvlane_backend_v1()->ops;
    struct kvl_err err = {.size = sizeof(err)};
    void *self = NULL;

    assert_int_equal(ops->check(fake_host_table(fake), &err), -EINVAL);
    if (strstr(err.text, words) == NULL) {
        fail_msg("'%s' does not say '%s'", err.text, words);
    }
    assert_int_equal(ops->create(fake_host_table(fake), &self, &err), -EINVAL);
    assert_null(self);
    fake_host_destroy(fake);
}

static void test_wrong_settings_are_explained(void **state)
{
    (void)state;
    check_refused((const char *const[]){"path", "chunks", NULL}, "absolute");
    check_refused((const char *const[]){"path", "", NULL}, "absolute");
    check_refused((const char *const[]){"path", "/x", "segment", "1000", NULL}, "1 MiB");
    check_refused((const char *const[]){"path", "/x", "budget", "64M", "segment", "17M", NULL},
                  "a quarter of the budget (16777216)");
    check_refused((const char *const[]){"path", "/x", "budget", "1T", "segment", "1M", NULL},
                  "open files");
}

static void test_destroy_may_follow_create(void **state)
{
    struct fake_host *fake =
        fake_host_create(kvlane_backend_v1(), (const char *const[]){"path", "/nowhere", NULL});
    const struct kvl_backend_ops *ops = kvlane_backend_v1()->ops;
    struct kvl_health health = {.size = sizeof(health)};
    struct kvl_limits limits = {.size = sizeof(limits)};
    struct kvl_err err = {.size = sizeof(err)};
    void *self;

    (void)state;
    assert_int_equal(ops->create(fake_host_table(fake), &self, &err), 0);
    ops->get_health(self, &health);
    assert_int_equal(health.state, KVL_HEALTH_DOWN);
    assert_string_equal(health.address, "/nowhere");
    ops->get_limits(self, &limits);
    assert_true(limits.max_bytes == INT32_MAX); /* of 10 GiB */
    ops->destroy(self);
    ops->destroy(NULL);
    fake_host_destroy(fake);
}

static void test_two_on_one_folder_are_refused(void **state)
{
    struct rig *rig = *state;
    struct rig *second = malloc(sizeof(*second));
    struct kvl_err err = {.size = sizeof(err)};

    memcpy(second, rig, sizeof(*second));
    assert_int_equal(rig_try_start(second, &err), -EBUSY);
    assert_non_null(strstr(err.text, rig->folder));
    assert_non_null(strstr(err.text, "in use"));
    free(second);
    assert_int_equal(rig_put(rig, "k", "bytes", 5), 0);
}

static void test_a_folder_that_cannot_be_is_explained(void **state)
{
    struct rig *rig = malloc(sizeof(*rig));
    struct kvl_err err = {.size = sizeof(err)};

    (void)state;
    rig_init(rig, NULL);
    rig->pairs[1] = "/dev/null/chunks";
    assert_int_equal(rig_try_start(rig, &err), -ENOTDIR);
    assert_non_null(strstr(err.text, "/dev/null"));
    rig_fini(rig);
    free(rig);
}

static void test_health_tells_what_there_is(void **state)
{
    struct rig *rig = *state;
    struct kvl_health health;

    assert_int_equal(rig_put(rig, "k", "bytes", 5), 0);
    health = rig_health(rig);
    assert_int_equal(health.state, KVL_HEALTH_OK);
    assert_string_equal(health.address, rig->folder);
    assert_non_null(strstr(health.text, "1 chunks"));
}

/* All keys have one hash: the newest is found, the others are misses. */
static struct disk_name weak_hash(const void *key, size_t length, uint64_t seed)
{
    (void)key;
    (void)length;
    (void)seed;
    return (struct disk_name){.hash = 1, .check = 1};
}

static void test_a_collision_is_a_miss(void **state)
{
    struct rig *rig = malloc(sizeof(*rig));

    (void)state;
    rig_init(rig, small);
    rig->hash = weak_hash;
    rig_start(rig);
    assert_int_equal(rig_put(rig, "a", "bytes of a", 10), 0);
    assert_int_equal(rig_get(rig, "b", "bytes of b", 10), -ENOENT);
    assert_int_equal(rig_remove(rig, "b"), -ENOENT);
    assert_int_equal(rig_get(rig, "a", "bytes of a", 10), 0);
    assert_int_equal(rig_put(rig, "b", "bytes of a", 10), 0); /* not taken for 'unchanged' */
    assert_int_equal(rig_get(rig, "b", "bytes of a", 10), 0);
    assert_int_equal(rig_get(rig, "a", "bytes of a", 10), -ENOENT);
    assert_true(rig_stat(rig, "collisions") >= 3);
    assert_int_equal(rig_stat(rig, "corrupt"), 0);
    rig_stop(rig);
    rig_fini(rig);
    free(rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_gives_back_what_it_got, setup, teardown),
        cmocka_unit_test_setup_teardown(test_an_empty_chunk_is_a_chunk, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_miss_is_a_miss, setup, teardown),
        cmocka_unit_test_setup_teardown(test_overwriting_replaces, setup, teardown),
        cmocka_unit_test_setup_teardown(test_what_is_there_is_not_written_again, setup, teardown),
        cmocka_unit_test_setup_teardown(test_removing_removes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_lists_all_keys, setup, teardown),
        cmocka_unit_test_setup_teardown(test_strided_memory_both_ways, setup, teardown),
        cmocka_unit_test_setup_teardown(test_many_runs, setup, teardown),
        cmocka_unit_test_setup_teardown(test_items_of_a_batch_have_their_own_status, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_expectations_are_held, setup, teardown),
        cmocka_unit_test_setup_teardown(test_what_read_target_says_is_the_status, setup, teardown),
        cmocka_unit_test_setup_teardown(test_wrong_batches_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_deadline_in_the_past, setup, teardown),
        cmocka_unit_test_setup_teardown(test_cancel_ends_what_waits_and_what_runs, gated_setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_lookups_and_reads_do_not_wait_for_writes, gated_setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_takes_no_more_than_it_may, gated_setup, teardown),
        cmocka_unit_test_setup_teardown(test_stop_completes_everything_once, gated_setup, teardown),
        cmocka_unit_test(test_wrong_settings_are_explained),
        cmocka_unit_test(test_destroy_may_follow_create),
        cmocka_unit_test_setup_teardown(test_two_on_one_folder_are_refused, setup, teardown),
        cmocka_unit_test(test_a_folder_that_cannot_be_is_explained),
        cmocka_unit_test_setup_teardown(test_health_tells_what_there_is, setup, teardown),
        cmocka_unit_test(test_a_collision_is_a_miss),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
