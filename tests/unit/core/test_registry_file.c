/* SPDX-License-Identifier: Apache-2.0 */
/* Saving and loading, and files that are not what was saved. */
#include "registry_help.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "registry_file.h"

static char folder[] = "/tmp/kvlane-test-registry-XXXXXX";
static char path[64];

static int make_folder(void **state)
{
    (void)state;
    if (mkdtemp(folder) == NULL) {
        return -1;
    }
    snprintf(path, sizeof(path), "%s/file", folder);
    return 0;
}

static int drop_folder(void **state)
{
    (void)state;
    unlink(path);
    return rmdir(folder); /* fails when a temporary file was left behind */
}

static struct kvl_registry *of(void **state)
{
    return ((struct fixture *)*state)->registry;
}

struct bytes {
    uint8_t *data;
    size_t length;
};

static struct bytes read_file(void)
{
    struct bytes bytes = {.data = malloc(1 << 22)};
    FILE *file = fopen(path, "rb");

    assert_non_null(bytes.data);
    assert_non_null(file);
    bytes.length = fread(bytes.data, 1, 1 << 22, file);
    assert_true(bytes.length < 1 << 22);
    assert_int_equal(fclose(file), 0);
    return bytes;
}

static void write_file(const uint8_t *data, size_t length)
{
    FILE *file = fopen(path, "wb");

    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, length, file), length);
    assert_int_equal(fclose(file), 0);
}

/* Loads into a fresh registry and leaves it to the caller. */
static int load(struct fixture *fixture, uint64_t max_bytes)
{
    *fixture = (struct fixture){.now_ms = 5000000, .unix_time = 1.9e9};
    fixture->registry = make_registry(fixture, max_bytes);
    return kvl_registry_load(fixture->registry, path);
}

/* A bit of everything. */
static void fill(struct fixture *fixture)
{
    struct kvl_registry *registry = fixture->registry;
    struct kvl_worker_desc desc = desc_of("b", 1, "b:1");

    desc.incarnation = 0xfedcba9876543210ull;
    assert_int_equal(kvl_registry_register(registry, &desc, NULL), 0);
    add(registry, "a", -5, NULL);
    add(registry, "b", 0, "");
    fixture->unix_time += 10;
    beat(registry, "a", -5);
    assert_int_equal(admit(registry, "b", 1, DISK, -3, 4), 0);
    assert_int_equal(admit(registry, "b", 1, CPU, 0, 6), 0);
    assert_int_equal(admit(registry, "a", -5, CPU, 0, 6), 0);
    assert_int_equal(tell(registry, "a", -5, CPU, KVL_KEY_EVICT, 5, 50, NULL), 0); /* a gap */
    assert_int_equal(tell(registry, "a", -5, DISK, KVL_KEY_EVICT, 1, 8, NULL), 0);
    assert_int_equal(start(registry, "b", 0, CPU, "s", 1), 0);
    assert_int_equal(batch(registry, "b", 0, CPU, "s", 0, 0, 2), 0);
    assert_int_equal(end(registry, "b", 0, "s", NULL), 0);
    add(registry, "c", 0, "c:1");
    assert_int_equal(start(registry, "c", 0, CPU, "s", 2), 0);
    assert_int_equal(batch(registry, "c", 0, CPU, "s", 0, 0, 3), 0);
}

struct infos {
    struct kvl_worker_info infos[8];
    int count;
};

static int collect(void *ctx, const struct kvl_worker_info *info)
{
    struct infos *infos = ctx;

    infos->infos[infos->count++] = *info;
    return 0;
}

static void assert_same_workers(struct kvl_registry *left, struct kvl_registry *right)
{
    static struct infos a;
    static struct infos b;

    a.count = b.count = 0;
    assert_int_equal(kvl_registry_list_workers(left, text(""), collect, &a), 0);
    assert_int_equal(kvl_registry_list_workers(right, text(""), collect, &b), 0);
    assert_int_equal(a.count, b.count);
    for (int i = 0; i < a.count; i++) {
        a.infos[i].silent_ms = 0; /* heard of now */
        if (a.infos[i].sync_state == KVL_SYNC_SYNCING) { /* what was under way has failed */
            a.infos[i].sync_state = KVL_SYNC_FAILED;
            a.infos[i].sync_received = a.infos[i].sync_expected = 0;
        }
        assert_memory_equal(&a.infos[i], &b.infos[i], sizeof(a.infos[i]));
    }
}

static void assert_same_lookups(struct kvl_registry *left, struct kvl_registry *right)
{
    static struct kvl_run a[8];
    static struct kvl_run b[8];

    for (int64_t from = -4; from < 8; from++) {
        int n;

        memset(a, 0, sizeof(a));
        memset(b, 0, sizeof(b));
        n = find(left, 0, "", 0, from, 8, a, 8);
        assert_int_equal(find(right, 0, "", 0, from, 8, b, 8), n);
        for (int i = 0; i < n; i++) {
            assert_string_equal(a[i].instance, b[i].instance);
            assert_string_equal(a[i].location, b[i].location);
            assert_string_equal(a[i].peer_url, b[i].peer_url);
            assert_int_equal(a[i].worker_id, b[i].worker_id);
            assert_int_equal(a[i].incarnation, b[i].incarnation);
            assert_int_equal(a[i].length, b[i].length);
        }
    }
}

static void test_all_comes_back(void **state)
{
    struct fixture *fixture = *state;
    struct fixture copy;
    struct kvl_seq_gap gap = {.found = 1};

    fill(fixture);
    assert_int_equal(kvl_registry_save(fixture->registry, path), 0);
    assert_int_equal(load(&copy, 0), 0);
    assert_same_workers(fixture->registry, copy.registry);
    assert_same_lookups(fixture->registry, copy.registry);
    assert_int_equal(stats_of(copy.registry).keys, stats_of(fixture->registry).keys);
    assert_int_equal(stats_of(copy.registry).completed, 1);
    assert_true(info_of(copy.registry, "a", -5).last_heartbeat_time == 1700000010.0);
    /* a restart is no reason to send everything again; what was cut off is */
    assert_int_equal(beat(copy.registry, "a", -5), 0);
    assert_int_equal(beat(copy.registry, "b", 0), 0);
    assert_int_equal(beat(copy.registry, "c", 0), KVL_SYNC_BECAUSE_FAILED);
    assert_int_equal(beat(copy.registry, "d", 0), KVL_SYNC_BECAUSE_UNKNOWN);
    /* sequences go on */
    assert_int_equal(tell(copy.registry, "a", -5, CPU, KVL_KEY_ADMIT, 9, 51, &gap), 0);
    assert_int_equal(gap.found, 0);
    assert_int_equal(tell(copy.registry, "a", -5, DISK, KVL_KEY_ADMIT, 9, 10, &gap), 0);
    assert_int_equal(gap.found, 1);
    assert_int_equal(gap.expected, 9);
    kvl_registry_destroy(copy.registry);
}

static void test_an_empty_one_too(void **state)
{
    struct fixture copy;

    assert_int_equal(kvl_registry_save(of(state), path), 0);
    assert_int_equal(load(&copy, 0), 0);
    assert_int_equal(stats_of(copy.registry).workers, 0);
    assert_int_equal(beat(copy.registry, "a", 0), KVL_SYNC_BECAUSE_UNKNOWN);
    kvl_registry_destroy(copy.registry);
}

static int count_ids(void *ctx, const struct kvl_chunk_id *ids, uint32_t count)
{
    (void)ids;
    *(uint64_t *)ctx += count;
    return 0;
}

#define MANY 200000

static void admit_many(struct kvl_registry *registry, const char *instance, uint64_t salt)
{
    const struct kvl_worker_name name = name_of(instance, 0);
    static struct kvl_key_op ops[1000];

    for (uint64_t i = 0; i < MANY; i += 1000) {
        for (uint64_t k = 0; k < 1000; k++) {
            ops[k] = (struct kvl_key_op){
                .id = {.bits = (i + k + salt) * 0x9e3779b97f4a7c15ull},
                .seq = (int64_t)(i + k),
                .kind = KVL_KEY_ADMIT,
            };
        }
        assert_int_equal(kvl_registry_apply(registry, &name, text(CPU), ops, 1000, NULL), 0);
    }
}

static void test_many_keys_in_many_blocks(void **state)
{
    struct kvl_registry *registry = of(state);
    const struct kvl_worker_name name = name_of("b", 0);
    struct fixture copy;
    struct stat st;
    uint64_t count = 0;

    add(registry, "a", 0, NULL);
    add(registry, "b", 0, NULL);
    admit_many(registry, "a", 0);
    admit_many(registry, "b", MANY / 2); /* half of them are also those of a */
    assert_int_equal(kvl_registry_save(registry, path), 0);
    assert_int_equal(stat(path, &st), 0);
    assert_true((uint64_t)st.st_size < MANY * 3 / 2 * 9 + MANY / 2 + 10000); /* compact */
    assert_int_equal(load(&copy, 0), 0);
    assert_same_workers(registry, copy.registry);
    assert_int_equal(stats_of(copy.registry).chunks, MANY * 3 / 2);
    assert_int_equal(kvl_registry_list_keys(copy.registry, &name, text(CPU), count_ids, &count), 0);
    assert_int_equal(count, MANY);
    kvl_registry_destroy(copy.registry);

    /* and into less memory: what fits */
    assert_int_equal(load(&copy, 4 << 20), -ENOMEM);
    assert_int_equal(stats_of(copy.registry).workers, 2);
    assert_true(stats_of(copy.registry).keys > 0);
    assert_int_equal(stats_of(copy.registry).keys + stats_of(copy.registry).dropped, 2 * MANY);
    kvl_registry_destroy(copy.registry);
}

static void test_files_that_cannot_be_had(void **state)
{
    struct kvl_registry *registry = of(state);
    char none[80];

    snprintf(none, sizeof(none), "%s/none/file", folder);
    assert_int_equal(kvl_registry_load(registry, none), -ENOENT);
    assert_int_equal(kvl_registry_load(registry, folder), -EISDIR);
    assert_int_equal(kvl_registry_load(registry, "/dev/null"), -EINVAL);
    assert_int_equal(kvl_registry_save(registry, none), -ENOENT);
    add(registry, "a", 0, NULL);
    assert_int_equal(kvl_registry_save(registry, path), 0);
    assert_int_equal(kvl_registry_load(registry, path), -EBUSY);
}

static uint32_t files_in_folder(void)
{
    DIR *dir = opendir(folder);
    uint32_t count = 0;

    assert_non_null(dir);
    while (readdir(dir) != NULL) {
        count++;
    }
    closedir(dir);
    return count;
}

static void test_a_save_that_fails_leaves_nothing(void **state)
{
    struct kvl_registry *registry = of(state);
    char taken[80];
    uint32_t before;

    snprintf(taken, sizeof(taken), "%s/taken", folder);
    assert_int_equal(mkdir(taken, 0700), 0);
    before = files_in_folder();
    assert_int_equal(kvl_registry_save(registry, taken), -EISDIR);
    assert_int_equal(files_in_folder(), before);
    assert_int_equal(rmdir(taken), 0);
}

/* ---- events that are told again ---- */

static void test_events_of_the_file_again_are_no_gap(void **state)
{
    struct kvl_registry *registry = of(state);
    struct fixture copy;

    add(registry, "a", 0, "a:1");
    assert_int_equal(admit(registry, "a", 0, CPU, 0, 10), 0); /* the last one is 9 */
    assert_int_equal(kvl_registry_save(registry, path), 0);

    assert_int_equal(load(&copy, 0), 0);
    for (int64_t seq = 4; seq < 15; seq++) {
        assert_int_equal(tell(copy.registry, "a", 0, CPU, KVL_KEY_ADMIT, seq, seq, NULL), 0);
    }
    assert_int_equal(stats_of(copy.registry).gaps, 0);
    assert_int_equal(stats_of(copy.registry).keys, 15);
    assert_int_equal(tell(copy.registry, "a", 0, CPU, KVL_KEY_ADMIT, 3, 3, NULL), 0);
    assert_int_equal(stats_of(copy.registry).gaps, 1); /* only the first may step back */
    kvl_registry_destroy(copy.registry);

    assert_int_equal(load(&copy, 0), 0);
    assert_int_equal(tell(copy.registry, "a", 0, CPU, KVL_KEY_ADMIT, 11, 11, NULL), 0);
    assert_int_equal(stats_of(copy.registry).gaps, 1); /* 10 is missing */
    kvl_registry_destroy(copy.registry);
}

/* ---- damage ---- */

static void assert_refused(void)
{
    struct fixture copy;
    struct kvl_registry_stats stats;

    assert_int_equal(load(&copy, 0), -EBADMSG);
    stats = stats_of(copy.registry);
    assert_int_equal(stats.workers, 0);
    assert_int_equal(stats.instances, 0);
    assert_int_equal(stats.keys, 0);
    assert_int_equal(stats.completed, 0);
    /* as if nothing had been */
    assert_int_equal(beat(copy.registry, "b", 0), KVL_SYNC_BECAUSE_UNKNOWN);
    assert_int_equal(beat(copy.registry, "b", 0), KVL_SYNC_BECAUSE_RESTART);
    kvl_registry_destroy(copy.registry);
}

static void test_a_file_that_ends_early(void **state)
{
    struct bytes bytes;

    fill(*state);
    assert_int_equal(kvl_registry_save(of(state), path), 0);
    bytes = read_file();
    for (size_t length = 0; length < bytes.length; length++) {
        write_file(bytes.data, length);
        assert_refused();
    }
    bytes.data[bytes.length] = 0;
    write_file(bytes.data, bytes.length + 1);
    assert_refused();
    free(bytes.data);
}

static void test_a_byte_that_is_not_right(void **state)
{
    struct bytes bytes;

    fill(*state);
    assert_int_equal(kvl_registry_save(of(state), path), 0);
    bytes = read_file();
    for (size_t i = 0; i < bytes.length; i++) {
        bytes.data[i] ^= (uint8_t)(1 << i % 8);
        write_file(bytes.data, bytes.length);
        assert_refused();
        bytes.data[i] ^= (uint8_t)(1 << i % 8);
    }
    free(bytes.data);
}

/* ---- files whose checksums are right ---- */

struct builder {
    uint8_t file[4096];
    size_t length;
    uint64_t checksum;
};

static void build(struct builder *builder)
{
    kvl_regfile_head_encode(1.7e9, builder->file);
    assert_int_equal(kvl_regfile_head_decode(builder->file, &builder->checksum), 0);
    builder->length = KVL_REGFILE_HEAD_BYTES;
}

static void build_block(struct builder *builder, uint32_t kind, const uint8_t *payload,
                        uint32_t length)
{
    const struct kvl_regfile_block block = {
        .kind = kind,
        .length = length,
        .checksum = kvl_regfile_checksum(builder->checksum, kind, payload, length),
    };

    kvl_regfile_block_encode(&block, builder->file + builder->length);
    memcpy(builder->file + builder->length + KVL_REGFILE_BLOCK_HEAD_BYTES, payload, length);
    builder->length += KVL_REGFILE_BLOCK_HEAD_BYTES + length;
    builder->checksum = block.checksum;
}

static void build_worker(struct builder *builder, const char *instance, uint32_t locations)
{
    const struct kvl_regfile_worker worker = {
        .desc = {.name = name_of(instance, 0)},
        .location_count = locations,
    };
    const struct kvl_regfile_location location = {.name = text(CPU), .has_keys = 1};
    uint8_t payload[2048];
    uint32_t used = kvl_regfile_worker_encode(&worker, payload);

    for (uint32_t i = 0; i < locations; i++) {
        used += kvl_regfile_location_encode(&location, payload + used);
    }
    build_block(builder, KVL_REGFILE_WORKERS, payload, used);
}

static void build_keys(struct builder *builder, uint32_t location, uint32_t count)
{
    struct kvl_chunk_id before = {0};
    uint8_t payload[2048];
    uint32_t used = 0;

    for (uint32_t i = 0; i < count; i++) {
        const struct kvl_regfile_key key = {.id = {.bits = i + 1}, .location = location};

        used += kvl_regfile_key_encode(&key, i > 0 ? &before : NULL, payload + used);
        before = key.id;
    }
    build_block(builder, KVL_REGFILE_KEYS, payload, used);
}

static void build_end(struct builder *builder, uint64_t workers, uint64_t locations, uint64_t keys)
{
    const struct kvl_regfile_end end = {workers, locations, keys};
    uint8_t payload[KVL_REGFILE_END_BYTES];

    kvl_regfile_end_encode(&end, payload);
    build_block(builder, KVL_REGFILE_END, payload, sizeof(payload));
    write_file(builder->file, builder->length);
}

static void test_what_contradicts_itself_is_refused(void **state)
{
    static struct builder builder;
    struct fixture copy;

    (void)state;
    build(&builder); /* to begin with: a good one */
    build_worker(&builder, "a", 1);
    build_keys(&builder, 0, 5);
    build_end(&builder, 1, 1, 5);
    assert_int_equal(load(&copy, 0), 0);
    assert_int_equal(keys_of(copy.registry, "a", 0), 5);
    kvl_registry_destroy(copy.registry);

    build(&builder); /* counts */
    build_worker(&builder, "a", 1);
    build_keys(&builder, 0, 5);
    build_end(&builder, 1, 1, 4);
    assert_refused();

    build(&builder); /* keys of a location that is not there */
    build_worker(&builder, "a", 1);
    build_keys(&builder, 1, 5);
    build_end(&builder, 1, 1, 5);
    assert_refused();

    build(&builder); /* keys before their worker */
    build_worker(&builder, "a", 1);
    build_keys(&builder, 0, 5);
    build_worker(&builder, "b", 1);
    build_end(&builder, 2, 2, 5);
    assert_refused();

    build(&builder); /* no block may be empty */
    build_block(&builder, KVL_REGFILE_KEYS, (const uint8_t *)"", 0);
    build_end(&builder, 0, 0, 0);
    assert_refused();

    build(&builder); /* of another kind */
    build_block(&builder, 4, (const uint8_t *)"x", 1);
    build_end(&builder, 0, 0, 0);
    assert_refused();

    build(&builder); /* a block that was left out */
    build_worker(&builder, "a", 1);
    builder.length = KVL_REGFILE_HEAD_BYTES;
    build_end(&builder, 0, 0, 0);
    assert_refused();
}

static void test_the_same_worker_twice_is_one(void **state)
{
    static struct builder builder;
    struct fixture copy;

    (void)state;
    build(&builder);
    build_worker(&builder, "a", 1);
    build_worker(&builder, "a", 2); /* twice the same location */
    build_worker(&builder, "b", 2);
    build_keys(&builder, 1, 3); /* nobody's: the second record of a is not believed */
    build_keys(&builder, 3, 3);
    build_keys(&builder, 4, 5);
    build_end(&builder, 3, 5, 11);
    assert_int_equal(load(&copy, 0), 0);
    assert_int_equal(keys_of(copy.registry, "a", 0), 0);
    assert_int_equal(keys_of(copy.registry, "b", 0), 5);
    kvl_registry_destroy(copy.registry);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        REGISTRY_TEST(test_all_comes_back),
        REGISTRY_TEST(test_an_empty_one_too),
        REGISTRY_TEST(test_many_keys_in_many_blocks),
        REGISTRY_TEST(test_files_that_cannot_be_had),
        REGISTRY_TEST(test_a_save_that_fails_leaves_nothing),
        REGISTRY_TEST(test_events_of_the_file_again_are_no_gap),
        REGISTRY_TEST(test_a_file_that_ends_early),
        REGISTRY_TEST(test_a_byte_that_is_not_right),
        cmocka_unit_test(test_what_contradicts_itself_is_refused),
        cmocka_unit_test(test_the_same_worker_twice_is_one),
    };

    return cmocka_run_group_tests(tests, make_folder, drop_folder);
}
