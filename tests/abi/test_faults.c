/* SPDX-License-Identifier: Apache-2.0 */
/* Backends that misbehave while they work, and the good one beside them. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "engine.h"
#include "mock.h"

#define BYTES 4096u
/* What a call may take beyond its deadline on a busy machine, sanitizers included. */
#define SLACK_MS 3000u
#define ROUNDS 200

static struct engine engine;
static uint8_t data[BYTES];
static uint8_t other[BYTES];

static void open_start(const char *ini)
{
    if (engine_open(&engine, ini) != 0 || engine.plugin->start(engine.instance, &engine.err) != 0) {
        fail_msg("%s: %s", ini, engine.err.text);
    }
}

static void close_clean(void)
{
    assert_int_equal(engine_close(&engine, 5000), 0);
}

/* Loads one chunk of BYTES into `data`. @return the status of the item. */
static int load(const char *key, uint64_t within_ms, uint8_t *location_out)
{
    struct engine_batch load;
    int r;

    memset(data, 0, sizeof(data));
    engine_batch_init(&load, within_ms);
    (void)engine_batch_add(&load, key, data, sizeof(data));
    r = engine.plugin->load(engine.instance, &load.batch, &load.result, NULL);
    assert_true(r == 0 || r == -ETIMEDOUT);
    if (location_out != NULL) {
        *location_out = load.location[0];
    }
    if (load.status[0] == 0) {
        assert_int_equal(r, 0);
        assert_int_equal(load.result.matched, 1);
        assert_int_equal(load.result.bytes, BYTES);
    }
    return load.status[0];
}

static int save(const char *key, const uint8_t *from, uint32_t flags)
{
    struct engine_batch save;

    memcpy(other, from, sizeof(other));
    engine_batch_init(&save, 5000);
    (void)engine_batch_add(&save, key, other, sizeof(other));
    save.batch.flags = flags;
    assert_int_equal(engine.plugin->save(engine.instance, &save.batch, &save.result, NULL), 0);
    /* the memory is the caller's again */
    memset(other, 0xee, sizeof(other));
    return save.status[0];
}

static int lookup(const char *key, uint8_t *location_out)
{
    struct engine_batch look;

    engine_batch_init(&look, 5000);
    (void)engine_batch_add(&look, key, NULL, 0);
    assert_int_equal(engine.plugin->lookup(engine.instance, &look.batch, &look.result, NULL), 0);
    *location_out = look.location[0];
    assert_int_equal(look.result.matched, look.status[0] == 0);
    return look.status[0];
}

static int count_key(void *ctx, const struct kvl_key *key, uint64_t bytes)
{
    (void)bytes;
    assert_in_range(key->length, 1, KVL_KEY_MAX);
    ++*(int *)ctx;
    return 0;
}

/* ---- the good one ---- */

static void test_good_serves_what_another_instance_saved(void **state)
{
    struct kvl_health health = {.size = sizeof(health)};
    uint8_t location = 9;
    int keys = 0;
    uint32_t i;

    (void)state;
    for (i = 0; i < BYTES; i++) {
        data[i] = (uint8_t)(i * 7);
    }
    open_start("[mock_good]\nshelf = one\nput_to = yes\n");
    assert_int_equal(save("k", data, 0), 0);
    assert_int_equal(save("private", data, KVL_BATCH_LOCAL_ONLY), 0);
    assert_int_equal(lookup("k", &location), 0);
    assert_int_equal(location, KVL_LOCATION_LOCAL);
    close_clean();

    open_start("[mock_good]\nshelf = one\n");
    assert_int_equal(lookup("k", &location), 0);
    assert_int_equal(location, KVL_LOCATION_BACKEND);
    assert_int_equal(lookup("private", &location), -ENOENT);
    assert_int_equal(load("k", 5000, &location), 0);
    assert_int_equal(location, KVL_LOCATION_BACKEND);
    for (i = 0; i < BYTES; i++) {
        assert_int_equal(data[i], (uint8_t)(i * 7));
    }
    assert_int_equal(engine.plugin->list(engine.instance, KVL_LOCATION_BACKEND,
                                         engine_now_ms() + 5000, count_key, &keys),
                     0);
    assert_int_equal(keys, 1);
    assert_int_equal(
        engine.plugin->probe(engine.instance, KVL_LOCATION_BACKEND, engine_now_ms() + 5000), 0);
    assert_int_equal(engine.plugin->health(engine.instance, KVL_LOCATION_BACKEND, &health), 0);
    assert_int_equal(health.state, KVL_HEALTH_OK);
    assert_string_equal(health.name, "mock_good");
    assert_string_equal(health.address, "shelf:one");
    assert_int_equal(engine.plugin->health(engine.instance, KVL_LOCATION_BACKEND + 1, &health),
                     -EINVAL);
    assert_int_equal(engine_stat(&engine, "mock_good_read_items"), 1);
    close_clean();
}

static void test_remove_reaches_the_backend(void **state)
{
    struct engine_batch gone;
    uint8_t location;

    (void)state;
    open_start("[mock_good]\nshelf = two\npreload = a b\n");
    engine_batch_init(&gone, 5000);
    (void)engine_batch_add(&gone, "a", NULL, 0);
    (void)engine_batch_add(&gone, "never there", NULL, 0);
    assert_int_equal(engine.plugin->remove(engine.instance, &gone.batch, &gone.result, NULL), 0);
    assert_int_equal(gone.status[0], 0);
    assert_int_equal(gone.status[1], -ENOENT);
    assert_int_equal(lookup("a", &location), -ENOENT);
    assert_int_equal(lookup("b", &location), 0);
    close_clean();
}

static void test_load_without_sg_goes_to_the_own_store(void **state)
{
    struct engine_batch fetch;
    struct kvl_view view;

    (void)state;
    open_start("[mock_good]\nshelf = three\npreload = a\npreload_bytes = 5000\n");
    engine_batch_init(&fetch, 5000);
    (void)engine_batch_add(&fetch, "a", NULL, 0);
    assert_int_equal(engine.plugin->load(engine.instance, &fetch.batch, &fetch.result, NULL), 0);
    assert_int_equal(fetch.status[0], 0);
    assert_int_equal(engine.plugin->get(engine.instance, &fetch.chunks[0].key, &view), 0);
    assert_int_equal(view.length, 5000);
    assert_int_equal(view.attrs.fmt, KVL_FMT_BINARY);
    assert_int_equal(engine_preload_differs("a", view.data, view.length), 0);
    assert_int_equal(engine.plugin->release(engine.instance, view.lease), 0);
    assert_int_equal(engine.plugin->release(engine.instance, view.lease), -EINVAL);
    close_clean();
}

static void test_another_size_is_no_hit(void **state)
{
    (void)state;
    open_start("[mock_good]\nshelf = four\npreload = a\npreload_bytes = 100\n");
    assert_int_not_equal(load("a", 5000, NULL), 0);
    close_clean();
}

static void test_newer_minor_works(void **state)
{
    (void)state;
    open_start("[mock_newer_minor]\nfirst = 9\npreload = a\n");
    assert_int_equal(load("a", 5000, NULL), 0);
    assert_int_equal(engine_preload_differs("a", data, BYTES), 0);
    close_clean();
}

static void test_labels_are_instances_of_one_module(void **state)
{
    uint8_t location = 0;

    (void)state;
    open_start("[mock_good:left]\nshelf = left\npreload = a\n"
               "[mock_good:right]\nshelf = right\npreload = b\n");
    assert_int_equal(load("b", 5000, &location), 0);
    assert_int_equal(location, KVL_LOCATION_BACKEND + 1);
    assert_int_equal(engine_preload_differs("b", data, BYTES), 0);
    assert_int_equal(load("a", 5000, &location), 0);
    assert_int_equal(location, KVL_LOCATION_BACKEND);
    close_clean();
}

/* ---- holders that fail: the next one is asked ---- */

static void fails_over_from(const char *word, const char *more)
{
    uint8_t location = 0;
    char ini[512];

    (void)snprintf(ini, sizeof(ini),
                   "[%s]\nshelf = fail\npreload = a\n%s\n[mock_good]\nshelf = over\npreload = a\n",
                   word, more);
    open_start(ini);
    assert_int_equal(load("a", 5000, &location), 0);
    assert_int_equal(location, KVL_LOCATION_BACKEND + 1);
    assert_int_equal(engine_preload_differs("a", data, BYTES), 0);
    close_clean();
}

static void test_flaky_fails_over(void **state)
{
    (void)state;
    fails_over_from("mock_flaky", "");
}

static void test_stale_hint_goes_on_to_the_next_holder(void **state)
{
    (void)state;
    fails_over_from("mock_stale", "");
}

static void test_wrong_size_goes_on_to_the_next_holder(void **state)
{
    (void)state;
    fails_over_from("mock_good:small", "preload_bytes = 10");
}

static void test_alone_they_end_as_a_miss(void **state)
{
    (void)state;
    open_start("[mock_flaky]\npreload = a\n");
    assert_in_range(-load("a", 5000, NULL), 1, 4095);
    close_clean();
    open_start("[mock_stale]\npreload = a\n");
    assert_int_equal(load("a", 5000, NULL), -ENOENT);
    close_clean();
}

/* ---- bytes that are not what they should be ---- */

static int load_checked(const char *key, uint8_t *location_out)
{
    struct engine_batch load;
    struct kvl_chunk *chunk;
    uint32_t i;

    for (i = 0; i < BYTES; i++) {
        other[i] = mock_byte(key, i);
    }
    memset(data, 0, sizeof(data));
    engine_batch_init(&load, 5000);
    chunk = engine_batch_add(&load, key, data, sizeof(data));
    chunk->flags = KVL_CHUNK_HAS_CHECKSUM;
    chunk->checksum = XXH3_64bits(other, sizeof(other));
    assert_int_equal(engine.plugin->load(engine.instance, &load.batch, &load.result, NULL), 0);
    *location_out = load.location[0];
    return load.status[0];
}

static void test_wrong_bytes_are_seen(void **state)
{
    uint8_t location = 0;

    (void)state;
    open_start("[mock_wrong_bytes]\npreload = a\n");
    assert_int_equal(load_checked("a", &location), -EBADMSG);
    close_clean();

    open_start("[mock_wrong_bytes]\npreload = a\n[mock_good]\nshelf = right\npreload = a\n");
    assert_int_equal(load_checked("a", &location), 0);
    assert_int_equal(location, KVL_LOCATION_BACKEND + 1);
    assert_int_equal(engine_preload_differs("a", data, BYTES), 0);
    close_clean();
}

static void test_wrong_bytes_are_seen_by_the_checksum_sent_along(void **state)
{
    struct engine_batch fetch;

    (void)state;
    memset(data, 0x5a, sizeof(data));
    open_start("[mock_wrong_bytes]\nshelf = w\nput_to = yes\n");
    assert_int_equal(save("k", data, 0), 0);
    close_clean();

    /* the store computed a checksum when it saved, the backend gives it back with other bytes */
    open_start("[mock_wrong_bytes]\nshelf = w\n");
    engine_batch_init(&fetch, 5000);
    (void)engine_batch_add(&fetch, "k", NULL, 0);
    assert_int_equal(engine.plugin->load(engine.instance, &fetch.batch, &fetch.result, NULL), 0);
    assert_int_equal(fetch.status[0], -EBADMSG);
    close_clean();
}

/* ---- completions: never, twice, late ---- */

static void test_never_completes_ends_at_the_deadline(void **state)
{
    uint64_t before;

    (void)state;
    open_start("[mock_never_completes]\npreload = a\nput_to = yes\n");

    before = engine_now_ms();
    assert_int_not_equal(load("a", 100, NULL), 0);
    assert_in_range(engine_now_ms() - before, 100, 100 + SLACK_MS);

    /* a put that never ends holds nobody up longer than its deadline, and the own store has it */
    before = engine_now_ms();
    assert_int_equal(save("k", data, 0), 0);
    assert_in_range(engine_now_ms() - before, 0, 5000 + SLACK_MS);
    assert_int_equal(load("k", 5000, NULL), 0);

    before = engine_now_ms();
    assert_in_set(-engine_close(&engine, 200), ((const unsigned long[]){0, ETIMEDOUT}), 2);
    assert_in_range(engine_now_ms() - before, 0, 200 + SLACK_MS);
}

static void test_the_default_deadline_is_that_of_the_file(void **state)
{
    uint64_t before = engine_now_ms();

    (void)state;
    /* engine_open() begins the text with [kvlane], so this goes on there */
    assert_int_equal(
        engine_open(&engine, "deadline = 100ms\n[mock_never_completes]\npreload = a\n"), 0);
    assert_int_not_equal(load("a", 0, NULL), 0);
    assert_in_range(engine_now_ms() - before, 100, 100 + SLACK_MS);
    (void)engine_close(&engine, 200);
}

static void test_never_completes_can_be_waited_for_and_cancelled(void **state)
{
    struct engine_batch load;
    uint64_t op = 0;
    uint64_t before;

    (void)state;
    open_start("[mock_never_completes]\npreload = a\n");
    engine_batch_init(&load, 60000);
    (void)engine_batch_add(&load, "a", data, sizeof(data));
    assert_int_equal(engine.plugin->load(engine.instance, &load.batch, &load.result, &op),
                     -EINPROGRESS);
    assert_int_not_equal(op, 0);
    assert_int_equal(engine.plugin->wait(engine.instance, op, 0, &load.result), -EINPROGRESS);
    assert_int_equal(engine.plugin->wait(engine.instance, op, engine_now_ms() + 20, &load.result),
                     -EINPROGRESS);

    before = engine_now_ms();
    assert_int_equal(engine.plugin->cancel(engine.instance, op), 0);
    (void)engine.plugin->wait(engine.instance, op, engine_now_ms() + 10000, &load.result);
    assert_in_range(engine_now_ms() - before, 0, SLACK_MS);
    assert_int_equal(load.status[0], -ECANCELED);
    assert_int_equal(engine.plugin->wait(engine.instance, op, 0, &load.result), -EINVAL);

    before = engine_now_ms();
    (void)engine_close(&engine, 200);
    assert_in_range(engine_now_ms() - before, 0, 200 + SLACK_MS);
}

static void test_close_ends_what_nobody_waited_for(void **state)
{
    struct engine_batch load;
    uint64_t op = 0;
    uint64_t before;

    (void)state;
    open_start("[mock_never_completes]\npreload = a\n");
    engine_batch_init(&load, 60000);
    (void)engine_batch_add(&load, "a", data, sizeof(data));
    assert_int_equal(engine.plugin->load(engine.instance, &load.batch, &load.result, &op),
                     -EINPROGRESS);
    before = engine_now_ms();
    assert_int_equal(engine_close(&engine, 200), -ETIMEDOUT);
    assert_in_range(engine_now_ms() - before, 200, 200 + SLACK_MS);
}

static void test_close_drains_what_was_accepted(void **state)
{
    static const char *const keys[] = {"k0", "k1", "k2", "k3", "k4", "k5", "k6", "k7"};
    struct engine_batch save;
    uint8_t location;
    uint64_t op = 0;
    int i;
    int r;

    (void)state;
    memset(data, 0x42, sizeof(data));
    open_start("[mock_good]\nshelf = drain\nput_to = yes\n");
    for (i = 0; i < 8; i++) {
        engine_batch_init(&save, 5000);
        (void)engine_batch_add(&save, keys[i], data, sizeof(data));
        r = engine.plugin->save(engine.instance, &save.batch, &save.result, &op);
        assert_true(r == 0 || r == -EINPROGRESS);
    }
    assert_int_equal(engine_close(&engine, 5000), 0);

    open_start("[mock_good]\nshelf = drain\n");
    for (i = 0; i < 8; i++) {
        assert_int_equal(lookup(keys[i], &location), 0);
    }
    close_clean();
}

static void test_a_second_completion_is_ignored_and_counted(void **state)
{
    int i;

    (void)state;
    open_start("[mock_completes_twice]\nshelf = twice\npreload = a\nput_to = yes\n");
    for (i = 0; i < 20; i++) {
        assert_int_equal(load("a", 5000, NULL), 0);
        assert_int_equal(engine_preload_differs("a", data, BYTES), 0);
    }
    assert_int_equal(save("k", data, 0), 0);
    assert_true(engine_await_stat(&engine, "mock_completes_twice_bogus_completions", 1));
    close_clean();
}

static void test_a_late_completion_is_harmless(void **state)
{
    struct engine_batch load;
    uint8_t *memory = malloc(BYTES);

    (void)state;
    assert_non_null(memory);
    open_start("[mock_completes_late]\nshelf = late\npreload = a\n");
    engine_batch_init(&load, 50);
    (void)engine_batch_add(&load, "a", memory, BYTES);
    (void)engine.plugin->load(engine.instance, &load.batch, &load.result, NULL);
    assert_int_not_equal(load.status[0], 0);

    /* ours again: whoever still writes there is caught by a sanitizer, or by the pattern */
    memset(memory, 0x77, BYTES);
    assert_true(engine_await_stat(&engine, "mock_completes_late_late", 1));
    close_clean();
    assert_int_equal(memory[0], 0x77);
    assert_memory_equal(memory, memory + 1, BYTES - 1);
    free(memory);
}

/* ---- reads straight into the engine's memory ---- */

static void test_direct_reads_pass_the_store_by(void **state)
{
    uint8_t location = 9;
    uint32_t i;

    (void)state;
    open_start("[mock_direct]\nshelf = direct\npreload = a\n");
    assert_int_equal(load("a", 5000, &location), 0);
    assert_int_equal(location, KVL_LOCATION_BACKEND);
    for (i = 0; i < BYTES; i++) {
        assert_int_equal(data[i], mock_byte("a", i));
    }
    assert_int_equal(engine_stat(&engine, "store_chunks"), 0);
    close_clean();

    open_start("[mock_direct]\nshelf = direct\nkeep = yes\n");
    assert_int_equal(load("a", 5000, &location), 0);
    assert_int_equal(data[1], mock_byte("a", 1));
    assert_int_equal(engine_stat(&engine, "store_chunks"), 1);
    assert_int_equal(load("a", 5000, &location), 0);
    assert_int_equal(location, KVL_LOCATION_LOCAL);
    close_clean();
}

/* At the deadline the memory is the engine's again: the promise behind KVL_CAP_DIRECT. */
static void test_direct_reads_stop_at_the_deadline(void **state)
{
    static uint8_t canary[BYTES];

    (void)state;
    memset(canary, 0xee, sizeof(canary));
    open_start("[mock_direct_late]\nshelf = late\npreload = a\n");
    assert_int_equal(load("a", 50, NULL), -ETIMEDOUT);
    memset(data, 0xee, sizeof(data));
    assert_true(engine_await_stat(&engine, "mock_direct_late_completed", 1));
    assert_memory_equal(data, canary, sizeof(data));
    close_clean();
}

static void test_late_alone_does_not_hold_close_up(void **state)
{
    uint64_t before;

    (void)state;
    open_start("[mock_completes_late]\nshelf = late\npreload = a\n");
    (void)load("a", 20, NULL); /* on a busy machine the late bytes may be in before we look */
    before = engine_now_ms();
    (void)engine_close(&engine, 1000);
    assert_in_range(engine_now_ms() - before, 0, 1000 + SLACK_MS);
}

/* ---- instances, fork, threads ---- */

static void test_open_twice_and_close_null(void **state)
{
    struct engine second;
    struct engine first;

    (void)state;
    open_start("[mock_good]\nshelf = both\npreload = a\n");
    first = engine;
    open_start("[mock_good]\nshelf = both\n");
    second = engine;
    assert_ptr_not_equal(first.instance, second.instance);
    assert_int_equal(load("a", 5000, NULL), 0);
    assert_int_equal(engine_close(&first, 5000), 0);
    assert_int_equal(load("a", 5000, NULL), 0);
    close_clean();
    assert_int_equal(engine.plugin->close(NULL, 0), 0);
    assert_ptr_equal(engine_plugin(), engine.plugin);
}

static int child_sees(const char **what_out)
{
    const struct kvl_plugin *plugin = engine.plugin;
    struct kvl_health health = {.size = sizeof(health)};
    struct engine_batch batch;
    struct kvl_view view;
    uint64_t op;
    int keys = 0;
    int r;

    engine_batch_init(&batch, 1000);
    (void)engine_batch_add(&batch, "a", data, sizeof(data));
#define EXPECT_ECHILD(call)                                                                        \
    do {                                                                                           \
        r = (call);                                                                                \
        if (r != -ECHILD) {                                                                        \
            *what_out = #call;                                                                     \
            return r;                                                                              \
        }                                                                                          \
    } while (0)
    EXPECT_ECHILD(plugin->start(engine.instance, NULL));
    EXPECT_ECHILD(plugin->lookup(engine.instance, &batch.batch, &batch.result, NULL));
    EXPECT_ECHILD(plugin->load(engine.instance, &batch.batch, &batch.result, NULL));
    EXPECT_ECHILD(plugin->save(engine.instance, &batch.batch, &batch.result, &op));
    EXPECT_ECHILD(plugin->remove(engine.instance, &batch.batch, &batch.result, NULL));
    EXPECT_ECHILD(plugin->wait(engine.instance, 1, 0, &batch.result));
    EXPECT_ECHILD(plugin->cancel(engine.instance, 1));
    EXPECT_ECHILD(plugin->get(engine.instance, &batch.chunks[0].key, &view));
    EXPECT_ECHILD(plugin->release(engine.instance, 1));
    EXPECT_ECHILD(plugin->list(engine.instance, KVL_LOCATION_LOCAL, 0, count_key, &keys));
    EXPECT_ECHILD(plugin->probe(engine.instance, KVL_LOCATION_LOCAL, 0));
    EXPECT_ECHILD(plugin->health(engine.instance, KVL_LOCATION_LOCAL, &health));
    EXPECT_ECHILD(plugin->close(engine.instance, 0));
    return 0;
}

static void test_a_forked_child_gets_echild(void **state)
{
    uint8_t location;
    int status = 0;
    pid_t child;

    (void)state;
    open_start("[mock_good]\nshelf = fork\npreload = a\n");
    child = fork();
    assert_int_not_equal(child, -1);
    if (child == 0) {
        const char *what = "";
        int r = child_sees(&what);

        if (r != 0) {
            fprintf(stderr, "in the child %s returned %d\n", what, r);
        }
        _exit(r != 0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    /* and the parent noticed nothing */
    assert_int_equal(lookup("a", &location), 0);
    close_clean();
}

static void test_a_child_may_open_its_own(void **state)
{
    int status = 0;
    pid_t child;

    (void)state;
    /* opened, not started: as engines do that import first and fork their workers then */
    assert_int_equal(engine_open(&engine, "[mock_good]\nshelf = own\npreload = a\n"), 0);
    child = fork();
    assert_int_not_equal(child, -1);
    if (child == 0) {
        struct kvl_instance *ours = NULL;
        struct kvl_open_params params = {.size = sizeof(params)};
        int r = engine.plugin->open(&params, &ours, NULL);

        r = r == -EINVAL ? 0 : 1; /* no file was named */
        params.config_text = "[store]\nmax_bytes = 1MiB\n";
        r = r != 0 ? r : engine.plugin->open(&params, &ours, NULL);
        r = r != 0 ? r : engine.plugin->close(ours, engine_now_ms() + 1000);
        _exit(r != 0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    assert_int_equal(load("a", 5000, NULL), 0);
    close_clean();
}

struct worker {
    pthread_t thread;
    char key[8];
    char wrong[200]; /* "" while all is well */
};

static void worker_note(struct worker *worker, int round, const char *what, int r, int status)
{
    if (worker->wrong[0] == '\0') {
        (void)snprintf(worker->wrong, sizeof(worker->wrong), "%s, round %d: %s: %d, item %d",
                       worker->key, round, what, r, status);
    }
}

static void worker_round(struct worker *worker, int i)
{
    uint8_t bytes[BYTES];
    struct engine_batch batch;
    char shared[16];
    int r;

    memset(bytes, i, sizeof(bytes));
    engine_batch_init(&batch, 20000);
    (void)engine_batch_add(&batch, worker->key, bytes, sizeof(bytes));
    batch.batch.flags = KVL_BATCH_OVERWRITE;
    r = engine.plugin->save(engine.instance, &batch.batch, &batch.result, NULL);
    if (r != 0 || batch.status[0] != 0) {
        worker_note(worker, i, "save", r, batch.status[0]);
    }

    /* a chunk that nobody loaded before, or somebody loads just now: it fails over each time */
    (void)snprintf(shared, sizeof(shared), "s%d", i);
    memset(bytes, 0xff, sizeof(bytes));
    engine_batch_init(&batch, 20000);
    (void)engine_batch_add(&batch, shared, bytes, sizeof(bytes));
    r = engine.plugin->load(engine.instance, &batch.batch, &batch.result, NULL);
    if (r != 0 || batch.status[0] != 0) {
        worker_note(worker, i, "load of the shared chunk", r, batch.status[0]);
    } else if (engine_preload_differs(shared, bytes, sizeof(bytes)) != 0) {
        worker_note(worker, i, "bytes of the shared chunk", bytes[0], bytes[BYTES - 1]);
    }

    engine_batch_init(&batch, 20000);
    (void)engine_batch_add(&batch, worker->key, bytes, sizeof(bytes));
    r = engine.plugin->load(engine.instance, &batch.batch, &batch.result, NULL);
    if (r != 0 || batch.status[0] != 0) {
        worker_note(worker, i, "load of the own chunk", r, batch.status[0]);
    } else if (bytes[0] != i || bytes[BYTES - 1] != i) {
        worker_note(worker, i, "bytes of the own chunk", bytes[0], bytes[BYTES - 1]);
    }
}

static void *worker_run(void *arg)
{
    int i;

    for (i = 0; i < ROUNDS; i++) {
        worker_round(arg, i);
    }
    return NULL;
}

static void test_threads_at_once(void **state)
{
    static struct worker workers[4];
    char keys[ROUNDS * 8] = "";
    char ini[sizeof(keys) + 200];
    size_t used = 0;
    int i;

    (void)state;
    for (i = 0; i < ROUNDS; i++) {
        used += (size_t)snprintf(keys + used, sizeof(keys) - used, "s%d ", i);
    }
    (void)snprintf(ini, sizeof(ini),
                   "[mock_flaky]\n[mock_good]\nshelf = t2\nput_to = yes\npreload = %s\n", keys);
    open_start(ini);
    for (i = 0; i < 4; i++) {
        (void)snprintf(workers[i].key, sizeof(workers[i].key), "own %d", i);
        assert_int_equal(pthread_create(&workers[i].thread, NULL, worker_run, &workers[i]), 0);
    }
    for (i = 0; i < 4; i++) {
        assert_int_equal(pthread_join(workers[i].thread, NULL), 0);
    }
    for (i = 0; i < 4; i++) {
        if (workers[i].wrong[0] != '\0') {
            fail_msg("%s", workers[i].wrong);
        }
    }
    close_clean();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good_serves_what_another_instance_saved),
        cmocka_unit_test(test_remove_reaches_the_backend),
        cmocka_unit_test(test_load_without_sg_goes_to_the_own_store),
        cmocka_unit_test(test_another_size_is_no_hit),
        cmocka_unit_test(test_newer_minor_works),
        cmocka_unit_test(test_labels_are_instances_of_one_module),
        cmocka_unit_test(test_flaky_fails_over),
        cmocka_unit_test(test_stale_hint_goes_on_to_the_next_holder),
        cmocka_unit_test(test_wrong_size_goes_on_to_the_next_holder),
        cmocka_unit_test(test_alone_they_end_as_a_miss),
        cmocka_unit_test(test_wrong_bytes_are_seen),
        cmocka_unit_test(test_wrong_bytes_are_seen_by_the_checksum_sent_along),
        cmocka_unit_test(test_never_completes_ends_at_the_deadline),
        cmocka_unit_test(test_the_default_deadline_is_that_of_the_file),
        cmocka_unit_test(test_never_completes_can_be_waited_for_and_cancelled),
        cmocka_unit_test(test_close_ends_what_nobody_waited_for),
        cmocka_unit_test(test_close_drains_what_was_accepted),
        cmocka_unit_test(test_a_second_completion_is_ignored_and_counted),
        cmocka_unit_test(test_a_late_completion_is_harmless),
        cmocka_unit_test(test_late_alone_does_not_hold_close_up),
        cmocka_unit_test(test_direct_reads_pass_the_store_by),
        cmocka_unit_test(test_direct_reads_stop_at_the_deadline),
        cmocka_unit_test(test_open_twice_and_close_null),
        cmocka_unit_test(test_a_forked_child_gets_echild),
        cmocka_unit_test(test_a_child_may_open_its_own),
        cmocka_unit_test(test_threads_at_once),
    };

    (void)unsetenv("KVLANE_CONFIG");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
