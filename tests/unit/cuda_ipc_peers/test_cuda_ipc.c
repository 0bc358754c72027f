/* SPDX-License-Identifier: Apache-2.0 */
/* The backend by its table, in one process, on the fake driver. */
#include "cm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cuda_engine_rig.h"

static struct cuda_rig cuda;

static void test_save_and_load_by_blocks(void **state)
{
    struct fake_result *result = malloc(sizeof(*result));
    struct cuda_engine_rig rig;

    (void)state;
    cuda_engine_init(&rig, &cuda, NULL);
    cuda_engine_start(&rig);
    cuda_engine_save(&rig, "k", 5, 100);
    assert_int_equal(cuda_engine_has(&rig, "k4"), 1);
    assert_int_equal(cuda_engine_has(&rig, "k5"), 0);
    assert_int_equal(cuda_engine_load(&rig, "k", 5, 100), 0);
    assert_int_equal(fake_host_holds(rig.fake, "k3"), 1);
    assert_int_equal(rig.ops->list(rig.self, ++rig.cookie, KVL_NEVER), 0);
    assert_int_equal(fake_host_wait(rig.fake, rig.cookie, result), 0);
    assert_int_equal(result->status, 0);
    assert_int_equal(fake_host_listed_count(rig.fake), 5);
    assert_int_equal(fake_host_listed(rig.fake, "k4"), 1);
    free(result);
    assert_int_equal(cuda_engine_stat(&rig, "writes"), 5);
    assert_int_equal(cuda_engine_stat(&rig, "read_own"), 5);
    assert_int_equal(cuda_engine_stat(&rig, "read_bytes"), 5 * ENGINE_CHUNK_BYTES);
    assert_int_equal(cuda_engine_stat(&rig, "pool_chunks"), 5);
    assert_int_equal(cuda_engine_health(&rig).state, KVL_HEALTH_OK);
    assert_string_equal(rig.errors, "");
    assert_string_equal(rig.warnings, "");
    cuda_engine_fini(&rig);
}

static void test_a_batch_with_holes(void **state)
{
    struct fake_result *result = malloc(sizeof(*result));
    struct cuda_engine_rig rig;

    (void)state;
    cuda_engine_init(&rig, &cuda, NULL);
    cuda_engine_start(&rig);
    cuda_engine_save(&rig, "k", 5, 100);
    assert_int_equal(cuda_engine_batch(&rig, rig.ops->remove, "k", 2, 0, result), 0);
    assert_int_equal(cuda_engine_batch(&rig, rig.ops->remove, "k", 2, 0, result), -ENOENT);
    assert_int_equal(fake_host_holds(rig.fake, "k1"), 0);
    assert_int_equal(cuda_engine_batch(&rig, rig.ops->read, "k", 5, 40, result), -ENOENT);
    for (uint32_t i = 0; i < 5; i++) {
        assert_int_equal(result->items[i], i < 2 ? -ENOENT : 0);
        assert_int_equal(cuda_engine_holds(&rig, 40 + i * ENGINE_CHUNK_BLOCKS, 100 + i), i >= 2);
    }
    assert_int_equal(result->bytes, 3 * ENGINE_CHUNK_BYTES);
    free(result);
    cuda_engine_fini(&rig);
}

static void test_gather_and_scatter(void **state)
{
    uint8_t *memory = aligned_alloc(4096, 3 * 16384);
    struct kvl_chunk chunks[3];
    uint32_t blocks[12];
    const uint32_t first[4] = {0, 4, 8, 12};
    void *to[3];
    const void *from[3];
    struct kvl_batch batch = {
        .size = sizeof(batch),
        .count = 3,
        .deadline_ms = KVL_NEVER,
        .chunks = chunks,
        .blocks = blocks,
        .block_first = first,
    };
    struct fake_result *result = malloc(sizeof(*result));
    struct cuda_engine_rig rig;
    uint64_t cookie;
    uint32_t layers;

    (void)state;
    cuda_engine_init(&rig, &cuda, NULL);
    fake_host_set_range(rig.fake, memory, 3 * 16384);
    cuda_engine_start(&rig);
    batch.kv = rig.kv;
    memset(chunks, 0, sizeof(chunks));
    for (uint32_t i = 0; i < 3; i++) {
        chunks[i] = (struct kvl_chunk){.key = kvl_key_from_text("x"), .bytes = ENGINE_CHUNK_BYTES};
        to[i] = memory + (size_t)i * 16384;
        from[i] = to[i];
        cuda_engine_fill(&rig, i * ENGINE_CHUNK_BLOCKS, 7 + i);
    }
    for (uint32_t i = 0; i < 12; i++) {
        blocks[i] = i;
    }
    batch.cookie = ++rig.cookie;
    assert_int_equal(rig.ops->gather(rig.self, &batch, to), 0);
    assert_int_equal(fake_host_wait(rig.fake, batch.cookie, result), 0);
    assert_int_equal(result->status, 0);
    assert_int_equal(result->bytes, 3 * ENGINE_CHUNK_BYTES);
    for (uint64_t i = 0; i < 3 * ENGINE_CHUNK_BYTES; i++) {
        const uint64_t chunk = i / ENGINE_CHUNK_BYTES;

        assert_int_equal(memory[chunk * 16384 + i % ENGINE_CHUNK_BYTES],
                         cuda_engine_byte((uint32_t)(7 + chunk), i % ENGINE_CHUNK_BYTES));
    }
    for (uint32_t i = 0; i < 12; i++) {
        blocks[i] = 63 - i / 4 * 4 - (3 - i % 4);
    }
    batch.cookie = ++rig.cookie;
    assert_int_equal(rig.ops->scatter(rig.self, &batch, from), 0);
    assert_int_equal(fake_host_wait(rig.fake, batch.cookie, result), 0);
    assert_int_equal(result->status, 0);
    for (uint32_t i = 0; i < 3; i++) {
        assert_true(cuda_engine_holds(&rig, 60 - i * 4, 7 + i));
    }
    if (fake_host_progress(rig.fake, &cookie, &layers) > 0) {
        assert_int_equal(cookie, batch.cookie);
        assert_true(layers <= ENGINE_LAYERS);
    }
    assert_int_equal(cuda_engine_stat(&rig, "gathers"), 3);
    assert_int_equal(cuda_engine_stat(&rig, "store_pinned"), 1);
    assert_int_equal(cuda_engine_stat(&rig, "scatter_bytes"), 3 * ENGINE_CHUNK_BYTES);

    batch.cookie = ++rig.cookie;
    blocks[5] = ENGINE_BLOCKS; /* one too far: nothing is queued */
    assert_int_equal(rig.ops->scatter(rig.self, &batch, from), -EINVAL);
    batch.kv = rig.kv + 1;
    assert_int_equal(rig.ops->gather(rig.self, &batch, to), -EINVAL);
    assert_int_equal(fake_host_completions(rig.fake, batch.cookie), 0);
    cuda_engine_fini(&rig);
    free(result);
    free(memory);
}

/* Runs of host memory with gaps on one side, the pool on the other. */
static void test_host_memory(void **state)
{
    static uint8_t from[3000];
    static uint8_t to[5000];
    const struct kvl_sg out[2] = {
        {.addr = (uint64_t)(uintptr_t)from, .length = 100, .stride = 150, .count = 10},
        {.addr = (uint64_t)(uintptr_t)from + 2000, .length = 50, .stride = 50, .count = 4},
    };
    const struct kvl_sg in[1] = {
        {.addr = (uint64_t)(uintptr_t)to, .length = 300, .stride = 1000, .count = 4}};
    const uint32_t out_first[2] = {0, 2};
    const uint32_t in_first[2] = {0, 1};
    struct kvl_chunk chunk = {.key = kvl_key_from_text("h"), .bytes = 1200};
    struct kvl_batch batch = {
        .size = sizeof(batch), .count = 1, .deadline_ms = KVL_NEVER, .chunks = &chunk};
    struct fake_result *result = malloc(sizeof(*result));
    const uint8_t *target;
    struct kvl_chunk found;
    struct cuda_engine_rig rig;

    (void)state;
    for (size_t i = 0; i < sizeof(from); i++) {
        from[i] = cuda_engine_byte(1, i);
    }
    cuda_engine_init(&rig, &cuda, NULL);
    cuda_engine_start(&rig);
    chunk.flags = KVL_CHUNK_HAS_CHECKSUM;
    chunk.checksum = 77;
    batch.cookie = ++rig.cookie;
    batch.sg = out;
    batch.sg_first = out_first;
    assert_int_equal(rig.ops->write(rig.self, &batch), 0);
    assert_int_equal(fake_host_wait(rig.fake, batch.cookie, result), 0);
    assert_int_equal(result->status, 0);

    batch.cookie = ++rig.cookie; /* where the host says */
    batch.sg = NULL;
    batch.sg_first = NULL;
    chunk.bytes = 0;
    chunk.flags = 0;
    assert_int_equal(rig.ops->read(rig.self, &batch), 0);
    assert_int_equal(fake_host_wait(rig.fake, batch.cookie, result), 0);
    assert_int_equal(result->status, 0);
    target = fake_host_target(rig.fake, batch.cookie, 0, &found);
    assert_int_equal(found.bytes, 1200);
    assert_int_equal(found.checksum, 77);
    for (uint32_t i = 0; i < 1200; i++) {
        assert_int_equal(target[i],
                         i < 1000 ? from[i / 100 * 150 + i % 100] : from[2000 + i - 1000]);
    }

    batch.cookie = ++rig.cookie; /* and into runs */
    batch.sg = in;
    batch.sg_first = in_first;
    assert_int_equal(rig.ops->read(rig.self, &batch), 0);
    assert_int_equal(fake_host_wait(rig.fake, batch.cookie, result), 0);
    assert_int_equal(result->status, 0);
    for (uint32_t i = 0; i < 1200; i++) {
        assert_int_equal(to[i / 300 * 1000 + i % 300], target[i]);
    }
    assert_int_equal(to[300], 0);

    batch.cookie = ++rig.cookie; /* another sum, another size, other attributes */
    chunk.flags = KVL_CHUNK_HAS_CHECKSUM;
    chunk.checksum = 78;
    assert_int_equal(rig.ops->read(rig.self, &batch), 0);
    assert_int_equal(fake_host_wait(rig.fake, batch.cookie, result), 0);
    assert_int_equal(result->status, -EBADMSG);
    batch.cookie = ++rig.cookie;
    chunk.flags = KVL_CHUNK_EXPECT_ATTRS;
    chunk.attrs.fmt = 1;
    assert_int_equal(rig.ops->read(rig.self, &batch), 0);
    assert_int_equal(fake_host_wait(rig.fake, batch.cookie, result), 0);
    assert_int_equal(result->status, -EBADMSG);
    batch.cookie = ++rig.cookie;
    chunk.flags = 0;
    chunk.bytes = 1199;
    assert_int_equal(rig.ops->read(rig.self, &batch), 0);
    assert_int_equal(fake_host_wait(rig.fake, batch.cookie, result), 0);
    assert_int_equal(result->status, -EBADMSG);
    cuda_engine_fini(&rig);
    free(result);
}

static void test_runs_of_device_memory(void **state)
{
    struct kvl_sg sg = {.mem = KVL_MEM_CUDA, .length = 64, .stride = 128, .count = 16};
    const uint32_t first[2] = {0, 1};
    const struct kvl_chunk chunk = {.key = kvl_key_from_text("d"), .bytes = 1024};
    struct kvl_batch batch = {.size = sizeof(batch),
                              .count = 1,
                              .deadline_ms = KVL_NEVER,
                              .chunks = &chunk,
                              .sg = &sg,
                              .sg_first = first};
    struct fake_result *result = malloc(sizeof(*result));
    uint8_t bytes[2048];
    struct cuda_engine_rig rig;

    (void)state;
    cuda_engine_init(&rig, &cuda, NULL);
    cuda_engine_start(&rig);
    for (size_t i = 0; i < sizeof(bytes); i++) {
        bytes[i] = cuda_engine_byte(3, i);
    }
    assert_int_equal(cuda.control->poke(rig.cache, bytes, sizeof(bytes)), 0);
    sg.addr = rig.cache;
    batch.cookie = ++rig.cookie;
    assert_int_equal(rig.ops->write(rig.self, &batch), 0);
    assert_int_equal(fake_host_wait(rig.fake, batch.cookie, result), 0);
    assert_int_equal(result->status, 0);
    sg.addr = rig.cache + 4096;
    sg.length = 1024;
    sg.count = 1;
    batch.cookie = ++rig.cookie;
    assert_int_equal(rig.ops->read(rig.self, &batch), 0);
    assert_int_equal(fake_host_wait(rig.fake, batch.cookie, result), 0);
    assert_int_equal(result->status, 0);
    assert_int_equal(cuda.control->peek(bytes, rig.cache + 4096, 1024), 0);
    for (uint32_t i = 0; i < 1024; i++) {
        assert_int_equal(bytes[i], cuda_engine_byte(3, i / 64 * 128 + i % 64));
    }
    sg.device = 7;
    batch.cookie = ++rig.cookie;
    assert_int_equal(rig.ops->read(rig.self, &batch), -ENODEV);
    sg.device = 0;
    sg.mem = 9;
    assert_int_equal(rig.ops->read(rig.self, &batch), -ENOTSUP);
    cuda_engine_fini(&rig);
    free(result);
}

static void test_the_oldest_goes_when_the_pool_is_full(void **state)
{
    static const char *const pairs[] = {"pool", "2097152", NULL};
    struct cuda_engine_rig rig;
    uint32_t seed = 0;

    (void)state;
    cuda_engine_init(&rig, &cuda, pairs);
    cuda_engine_start(&rig);
    while (cuda_engine_stat(&rig, "pool_evicted") == 0) {
        char prefix[16];

        (void)snprintf(prefix, sizeof(prefix), "r%u-", seed);
        cuda_engine_save(&rig, prefix, 8, seed * 8);
        seed++;
    }
    assert_int_equal(cuda_engine_has(&rig, "r0-7"), 0); /* last to first: the head goes last */
    assert_int_equal(fake_host_holds(rig.fake, "r0-7"), 0);
    assert_int_equal(cuda_engine_load(&rig, "r5-", 8, 40), 0);
    cuda_engine_fini(&rig);
}

static void test_two_instances_in_one_process(void **state)
{
    struct cuda_engine_rig a;
    struct cuda_engine_rig b;

    (void)state;
    cuda_engine_init(&a, &cuda, NULL);
    cuda_engine_init(&b, &cuda, NULL);
    cuda_engine_start(&a);
    cuda_engine_start(&b);
    cuda_engine_meet(&b, &a);
    cuda_engine_await_links(&b, 1);
    cuda_engine_save(&a, "k", 6, 50);
    assert_int_equal(cuda_engine_has(&b, "k5"), 1);
    assert_int_equal(cuda_engine_load(&b, "k", 6, 50), 0);
    assert_int_equal(cuda_engine_stat(&b, "read_peer"), 6);
    assert_int_equal(cuda_engine_stat(&b, "lookup_peer"), 1);
    assert_int_equal(cuda_engine_stat(&b, "import_failures"), 0);
    b.flags = KVL_BATCH_HELD; /* who asks on behalf of a peer does not ask others */
    assert_int_equal(cuda_engine_load(&b, "k", 6, 50), -ENOENT);
    b.flags = 0;
    assert_int_equal(cuda_engine_load(&b, "nobody", 2, 0), -ENOENT);
    cuda_engine_fini(&b);
    assert_string_equal(a.errors, "");
    cuda_engine_fini(&a);
}

static void test_who_is_no_peer(void **state)
{
    uint8_t bytes[KVL_OFFER_MAX];
    struct kvl_offer offer = {.size = sizeof(offer), .bytes = bytes};
    struct cuda_engine_rig rig;

    (void)state;
    cuda_engine_init(&rig, &cuda, NULL);
    cuda_engine_start(&rig);
    cuda_engine_meet(&rig, &rig); /* ourselves */
    offer.length = fake_host_offer(rig.fake, bytes);
    assert_true(offer.length > 0);
    bytes[8] ^= 1; /* another machine */
    bytes[50] ^= 1; /* and another instance */
    rig.ops->connect(rig.self, &offer);
    offer.length--;
    rig.ops->connect(rig.self, &offer);
    offer.length = 0;
    rig.ops->connect(rig.self, &offer);
    assert_int_equal(cuda_engine_load(&rig, "k", 1, 0), -ENOENT);
    assert_int_equal(cuda_engine_stat(&rig, "peer_links"), 0);
    rig.ops->quiesce(rig.self);
    assert_int_equal(fake_host_offer(rig.fake, bytes), 0);
    assert_int_equal(cuda_engine_batch(&rig, rig.ops->read, "k", 1, 0, NULL), -ECANCELED);
    cuda_engine_fini(&rig);
}

/* The engine's stream is not where it will be: nothing of the batch is queued yet. */
static void test_cancel_before_the_stream_is_there(void **state)
{
    struct fake_result *result = malloc(sizeof(*result));
    struct cuda_engine_rig rig;
    cuda_stream stream;

    (void)state;
    cuda_engine_init(&rig, &cuda, NULL);
    cuda_engine_start(&rig);
    cuda_engine_save(&rig, "k", 2, 9);
    assert_int_equal(cuda.api.stream_create_with_priority(&stream, CUDA_STREAM_NON_BLOCKING, 0),
                     CUDA_OK);
    cuda.control->hold(stream);
    assert_int_equal(cuda.api.memcpy_dtod_async(rig.cache, rig.cache + 4096, 64, stream), CUDA_OK);
    cuda_engine_fill(&rig, 40, 1);
    cuda_engine_fill(&rig, 44, 2);
    assert_int_equal(
        cuda_engine_submit(&rig, rig.ops->read, "k", 2, 40, (uint64_t)(uintptr_t)stream), 0);
    assert_int_equal(rig.ops->kv_unregister(rig.self, rig.kv), -EBUSY);
    rig.ops->cancel(rig.self, rig.cookie + 1); /* unknown */
    rig.ops->cancel(rig.self, rig.cookie);
    assert_int_equal(fake_host_wait(rig.fake, rig.cookie, result), 0);
    assert_int_equal(result->items[0], -ECANCELED);
    cuda.control->release(stream);
    assert_int_equal(cuda.api.stream_synchronize(stream), CUDA_OK);
    assert_true(cuda_engine_holds(&rig, 40, 1));
    assert_true(cuda_engine_holds(&rig, 44, 2));
    assert_int_equal(cuda_engine_load(&rig, "k", 2, 9), 0);
    assert_int_equal(cuda.api.stream_destroy(stream), CUDA_OK);
    cuda_engine_fini(&rig);
    free(result);
}

static void test_bytes_are_read_behind_the_engines_stream(void **state)
{
    struct fake_result *result = malloc(sizeof(*result));
    struct cuda_engine_rig rig;
    cuda_stream stream;

    (void)state;
    cuda_engine_init(&rig, &cuda, NULL);
    cuda_engine_start(&rig);
    cuda_engine_fill(&rig, 0, 1);
    cuda_engine_fill(&rig, 4, 2);
    assert_int_equal(cuda.api.stream_create_with_priority(&stream, CUDA_STREAM_NON_BLOCKING, 0),
                     CUDA_OK);
    cuda.control->hold(stream);
    for (uint32_t base = 0; base < ENGINE_PLANES * ENGINE_LAYERS; base++) {
        const cuda_ptr at = rig.cache + base * ENGINE_BASE_BYTES;

        assert_int_equal(cuda.api.memcpy_dtod_async(at, at + 4 * ENGINE_BLOCK_BYTES,
                                                    4 * ENGINE_BLOCK_BYTES, stream),
                         CUDA_OK);
    }
    assert_int_equal(
        cuda_engine_submit(&rig, rig.ops->write, "k", 1, 0, (uint64_t)(uintptr_t)stream), 0);
    assert_int_equal(cuda_engine_has(&rig, "k0"), 0); /* not before its bytes are there */
    cuda.control->release(stream);
    assert_int_equal(fake_host_wait(rig.fake, rig.cookie - 1, result), 0);
    assert_int_equal(result->status, 0);
    assert_int_equal(cuda_engine_load(&rig, "k", 1, 2), 0);
    assert_int_equal(cuda.api.stream_synchronize(stream), CUDA_OK);
    assert_int_equal(cuda.api.stream_destroy(stream), CUDA_OK);
    cuda_engine_fini(&rig);
    free(result);
}

static void test_so_many_batches_and_no_more(void **state)
{
    static const char *const pairs[] = {"max_in_flight", "3", NULL};
    struct fake_result *result = malloc(sizeof(*result));
    struct cuda_engine_rig rig;
    cuda_stream stream;

    (void)state;
    cuda_engine_init(&rig, &cuda, pairs);
    cuda_engine_start(&rig);
    assert_int_equal(cuda.api.stream_create_with_priority(&stream, CUDA_STREAM_NON_BLOCKING, 0),
                     CUDA_OK);
    cuda.control->hold(stream);
    assert_int_equal(cuda.api.memcpy_dtod_async(rig.cache, rig.cache + 4096, 64, stream), CUDA_OK);
    for (uint32_t i = 0; i < 3; i++) {
        assert_int_equal(
            cuda_engine_submit(&rig, rig.ops->write, "k", 1, 0, (uint64_t)(uintptr_t)stream), 0);
    }
    assert_int_equal(cuda_engine_submit(&rig, rig.ops->write, "k", 1, 0, 0), -EAGAIN);
    assert_int_equal(rig.ops->drain(rig.self, rig.table.now_ms(&rig.table) + 20), -ETIMEDOUT);
    cuda.control->release(stream);
    assert_int_equal(rig.ops->drain(rig.self, rig.table.now_ms(&rig.table) + 20000), 0);
    for (uint64_t cookie = rig.cookie - 3; cookie < rig.cookie; cookie++) {
        assert_int_equal(fake_host_wait(rig.fake, cookie, result), 0);
        assert_int_equal(result->status, 0);
    }
    assert_int_equal(cuda_engine_stat(&rig, "pool_chunks"), 1);
    assert_int_equal(cuda.api.stream_synchronize(stream), CUDA_OK);
    assert_int_equal(cuda.api.stream_destroy(stream), CUDA_OK);
    cuda_engine_fini(&rig);
    free(result);
}

static void test_stop_ends_what_is_under_way(void **state)
{
    struct fake_result *result = malloc(sizeof(*result));
    struct cuda_engine_rig rig;
    cuda_stream stream;
    uint64_t kv;

    (void)state;
    cuda_engine_init(&rig, &cuda, NULL);
    cuda_engine_start(&rig);
    assert_int_equal(cuda.api.stream_create_with_priority(&stream, CUDA_STREAM_NON_BLOCKING, 0),
                     CUDA_OK);
    cuda.control->hold(stream);
    assert_int_equal(cuda.api.memcpy_dtod_async(rig.cache, rig.cache + 4096, 64, stream), CUDA_OK);
    assert_int_equal(
        cuda_engine_submit(&rig, rig.ops->write, "k", 2, 0, (uint64_t)(uintptr_t)stream), 0);
    kv = rig.kv;
    rig.kv = 0; /* it goes with the instance */
    assert_int_equal(rig.ops->kv_unregister(rig.self, kv), -EBUSY);
    rig.ops->quiesce(rig.self);
    rig.ops->stop(rig.self);
    assert_int_equal(fake_host_completions(rig.fake, rig.cookie), 1);
    assert_int_equal(fake_host_wait(rig.fake, rig.cookie, result), 0);
    assert_int_equal(result->status, -ECANCELED);
    cuda.control->release(stream);
    assert_int_equal(cuda.api.stream_synchronize(stream), CUDA_OK);
    assert_int_equal(cuda.api.stream_destroy(stream), CUDA_OK);
    cuda_engine_fini(&rig);
    free(result);
}

static void test_a_pool_without_memory_is_small(void **state)
{
    static const char *const pairs[] = {"pool", "8G", "segment", "1G", NULL};
    struct cuda_engine_rig rig;

    (void)state;
    cuda_engine_init(&rig, &cuda, pairs);
    cuda_engine_start(&rig); /* the device has 4 GiB */
    assert_non_null(strstr(rig.warnings, "in place of"));
    assert_true(cuda_engine_stat(&rig, "pool_room_bytes") >= 1ull << 30);
    assert_true(cuda_engine_stat(&rig, "pool_room_bytes") < 4ull << 30);
    cuda_engine_save(&rig, "k", 1, 3);
    assert_int_equal(cuda_engine_load(&rig, "k", 1, 3), 0);
    assert_int_equal(cuda_engine_health(&rig).state, KVL_HEALTH_DEGRADED);
    cuda_engine_fini(&rig);
}

static void test_no_pool(void **state)
{
    static const char *const pairs[] = {"pool", "0", "listen", "no", NULL};
    struct fake_result *result = malloc(sizeof(*result));
    struct kvl_limits limits = {.size = sizeof(limits)};
    struct cuda_engine_rig rig;

    (void)state;
    cuda_engine_init(&rig, &cuda, pairs);
    cuda_engine_start(&rig);
    rig.ops->get_limits(rig.self, &limits);
    assert_int_equal(limits.caps & (KVL_CAP_WRITE | KVL_CAP_HELD), 0);
    assert_true((limits.caps & KVL_CAP_READ) != 0); /* of peers */
    assert_int_equal(cuda_engine_batch(&rig, rig.ops->write, "k", 2, 0, result), -EMSGSIZE);
    assert_int_equal(cuda_engine_load(&rig, "k", 2, 0), -ENOENT);
    assert_int_equal(cuda_engine_health(&rig).state, KVL_HEALTH_OK);
    assert_string_equal(cuda_engine_health(&rig).address, "");
    cuda_engine_fini(&rig);
    free(result);
}

static void check_no_start(const char *const *pairs, int code, const char *text)
{
    struct kvl_err err = {.size = sizeof(err)};
    struct cuda_engine_rig rig;

    cuda_engine_init(&rig, &cuda, pairs);
    assert_int_equal(cuda_engine_try_start(&rig, &err), code);
    if (strstr(err.text, text) == NULL) {
        print_message("%s\n", err.text);
    }
    assert_non_null(strstr(err.text, text));
    assert_string_equal(rig.errors, "");
    rig.ops->destroy(rig.self);
    rig.self = NULL;
    cuda_engine_fini(&rig);
}

static void test_what_start_refuses(void **state)
{
    static const char *const no_driver[] = {"driver", "libnowhere.so.1", NULL};
    static const char *const no_device[] = {"devices", "0,3", NULL};
    static const char *const bad_uuid[] = {"devices", "GPU-0123", NULL};
    static const char *const bad_path[] = {"listen", "/nowhere/at/all.sock", NULL};

    (void)state;
    check_no_start(no_driver, -ENODEV, "no CUDA driver");
    check_no_start(no_device, -ENODEV, "0,3");
    check_no_start(bad_uuid, -ENODEV, "GPU-0123");
    check_no_start(bad_path, -ENOENT, "/nowhere/at/all.sock");
    assert_int_equal(setenv("KVLANE_FAKE_CUDA_STUB", "1", 1), 0);
    check_no_start(NULL, -ENODEV, "34");
    assert_int_equal(unsetenv("KVLANE_FAKE_CUDA_STUB"), 0);
}

static void check_refused(const char *name, const char *value, const char *text)
{
    const char *const pairs[] = {name, value, NULL};
    struct kvl_err err = {.size = sizeof(err)};
    struct cuda_engine_rig rig;
    void *self = NULL;

    cuda_engine_init(&rig, &cuda, pairs);
    assert_int_equal(rig.ops->check(&rig.table, &err), -EINVAL);
    assert_non_null(strstr(err.text, text));
    assert_int_equal(rig.ops->create(&rig.table, &self, &err), -EINVAL);
    assert_null(self);
    cuda_engine_fini(&rig);
}

static void test_what_check_refuses(void **state)
{
    (void)state;
    check_refused("listen", "localhost", "listen");
    check_refused("peers", "/a,b", "peers");
    check_refused("pool", "1000000", "segment");
    check_refused("pool", "8T", "segments");
}

/* A copy to memory that is gone: every later call fails with 700, and nothing that waits is
 * done. */
static void break_the_context(void)
{
    const cuda_stream stream = cuda_rig_stream(&cuda);
    const cuda_ptr from = cuda_rig_memory(&cuda, 64);
    const cuda_ptr to = cuda_rig_memory(&cuda, 64);

    cuda.control->hold(stream);
    assert_int_equal(cuda.api.memcpy_dtod_async(to, from, 64, stream), CUDA_OK);
    assert_int_equal(cuda.api.mem_free(to), CUDA_OK);
    cuda.control->release(stream);
    assert_int_equal(cuda.api.stream_synchronize(stream), CUDA_E_ILLEGAL_ADDRESS);
}

static void test_a_device_that_is_lost(void **state)
{
    struct cuda_engine_rig rig;
    struct fake_cuda_live live;

    (void)state;
    cuda_engine_init(&rig, &cuda, NULL);
    cuda_engine_start(&rig);
    cuda_engine_save(&rig, "k", 2, 9);
    break_the_context();
    assert_int_equal(cuda_engine_batch(&rig, rig.ops->write, "n", 2, 0, NULL), -EIO);
    assert_int_equal(cuda_engine_has(&rig, "n0"), 0);
    assert_int_equal(cuda_engine_has(&rig, "k0"), 0); /* whatever it holds now */
    assert_int_equal(fake_host_holds(rig.fake, "k0"), 0);
    assert_int_equal(cuda_engine_batch(&rig, rig.ops->read, "k", 1, 40, NULL), -ENOENT);
    assert_int_equal(cuda_engine_health(&rig).state, KVL_HEALTH_DEGRADED);
    rig.cache = 0; /* cannot be freed: it goes with the context */
    cuda_engine_fini(&rig);
    cuda.control->live(&live);
    assert_int_equal(live.contexts, 1);
    assert_int_equal(cuda.api.device_primary_ctx_release(0), CUDA_OK);
    cuda_rig_open(&cuda);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_save_and_load_by_blocks),
        cmocka_unit_test(test_a_batch_with_holes),
        cmocka_unit_test(test_gather_and_scatter),
        cmocka_unit_test(test_host_memory),
        cmocka_unit_test(test_runs_of_device_memory),
        cmocka_unit_test(test_the_oldest_goes_when_the_pool_is_full),
        cmocka_unit_test(test_two_instances_in_one_process),
        cmocka_unit_test(test_who_is_no_peer),
        cmocka_unit_test(test_cancel_before_the_stream_is_there),
        cmocka_unit_test(test_bytes_are_read_behind_the_engines_stream),
        cmocka_unit_test(test_so_many_batches_and_no_more),
        cmocka_unit_test(test_stop_ends_what_is_under_way),
        cmocka_unit_test(test_a_pool_without_memory_is_small),
        cmocka_unit_test(test_no_pool),
        cmocka_unit_test(test_what_start_refuses),
        cmocka_unit_test(test_what_check_refuses),
        cmocka_unit_test(test_a_device_that_is_lost),
    };
    int failures;

    cuda_rig_main(argc, argv, NULL, 0);
    cuda_rig_machine();
    cuda_rig_open(&cuda);
    failures = cmocka_run_group_tests(tests, NULL, NULL);
    if (failures == 0) {
        cuda_rig_close(&cuda); /* nothing is left of the driver's */
    }
    return failures;
}
