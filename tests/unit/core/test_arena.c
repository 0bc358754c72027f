/* SPDX-License-Identifier: Apache-2.0 */
#include "cm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "arena.h"

#define MIB (1u << 20)

static void test_spans_are_aligned_and_apart(void **state)
{
    struct kvl_arena arena;
    uint32_t a;
    uint32_t b;
    unsigned char *pa;
    unsigned char *pb;

    (void)state;
    assert_int_equal(kvl_arena_init(&arena, NULL, MIB), 0);
    pa = kvl_arena_alloc(&arena, 100, &a);
    pb = kvl_arena_alloc(&arena, 1, &b);
    assert_non_null(pa);
    assert_non_null(pb);
    assert_int_equal((uintptr_t)pa % KVL_ARENA_GRAIN, 0);
    assert_int_equal((uintptr_t)pb % KVL_ARENA_GRAIN, 0);
    assert_true(pb >= pa + 100 || pb + 1 <= pa);
    assert_int_equal(arena.used, 128 + 64);
    assert_true(kvl_arena_is_sound(&arena));
    kvl_arena_fini(&arena);
}

static void test_whole_range_can_be_one_span(void **state)
{
    struct kvl_arena arena;
    uint32_t span;

    (void)state;
    /* Not a power of two: rounding a search up to a class must not lose it. */
    assert_int_equal(kvl_arena_init(&arena, NULL, 3 * MIB + 4096 + 64), 0);
    assert_non_null(kvl_arena_alloc(&arena, 3 * MIB + 4096 + 64, &span));
    assert_null(kvl_arena_alloc(&arena, 1, &(uint32_t){0}));
    kvl_arena_free(&arena, span);
    assert_non_null(kvl_arena_alloc(&arena, 3 * MIB + 4096 + 1, &span));
    kvl_arena_fini(&arena);
}

/* Another process would map the descriptor just like this. */
static void test_shared_memory_shows_what_is_written(void **state)
{
    struct kvl_arena arena;
    unsigned char *seen;
    unsigned char *mine;
    uint32_t span;
    uint32_t other;

    (void)state;
    assert_int_equal(kvl_arena_init(&arena, NULL, MIB), 0);
    assert_int_equal(kvl_arena_share(&arena, -1), 0);
    assert_int_equal(kvl_arena_share(&arena, -1), 0);
    seen = mmap(NULL, arena.range, PROT_READ, MAP_SHARED, arena.fd, 0);
    assert_true(seen != MAP_FAILED);
    assert_true(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, arena.fd, 0) == MAP_FAILED);

    mine = kvl_arena_alloc(&arena, MIB / 2, &span);
    memset(mine, 7, MIB / 2);
    assert_int_equal(seen[mine - arena.base + 1000], 7);
    /* Purging gives the pages back although they are shared. */
    kvl_arena_free(&arena, span);
    assert_non_null(kvl_arena_alloc(&arena, MIB - 64, &other));
    assert_true(arena.purges > 0);
    assert_true(kvl_arena_is_sound(&arena));
    assert_int_equal(munmap(seen, arena.range), 0);
    kvl_arena_fini(&arena);
}

static void test_memory_in_use_or_of_others_is_not_shared(void **state)
{
    void *base = aligned_alloc(4096, 4096);
    struct kvl_arena arena;
    uint32_t span;
    int fd;

    (void)state;
    assert_int_equal(kvl_arena_init(&arena, base, 4096), 0);
    assert_int_equal(kvl_arena_share(&arena, -1), -ENOTSUP);
    kvl_arena_fini(&arena);
    free(base);

    fd = memfd_create("engine", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    assert_int_equal(ftruncate(fd, MIB), 0);
    base = mmap(NULL, MIB, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    assert_int_equal(kvl_arena_init(&arena, base, MIB), 0);
    assert_int_equal(kvl_arena_share(&arena, fd), 0);
    assert_int_equal(ftruncate(fd, 4096), -1);
    kvl_arena_fini(&arena);
    munmap(base, MIB);
    close(fd);

    assert_int_equal(kvl_arena_init(&arena, NULL, MIB), 0);
    assert_non_null(kvl_arena_alloc(&arena, 64, &span));
    assert_int_equal(kvl_arena_share(&arena, -1), -EBUSY);
    kvl_arena_fini(&arena);
}

static void test_neighbours_merge(void **state)
{
    struct kvl_arena arena;
    uint32_t spans[4];
    void *base = aligned_alloc(4096, 4 * 4096);

    (void)state;
    /* memory of the engine: there are no more addresses than bytes */
    assert_int_equal(kvl_arena_init(&arena, base, 4 * 4096), 0);
    for (int i = 0; i < 4; i++) {
        assert_non_null(kvl_arena_alloc(&arena, 4096, &spans[i]));
    }
    kvl_arena_free(&arena, spans[0]);
    kvl_arena_free(&arena, spans[2]);
    assert_null(kvl_arena_alloc(&arena, 8192, &spans[0]));
    kvl_arena_free(&arena, spans[1]); /* joins both */
    assert_non_null(kvl_arena_alloc(&arena, 3 * 4096, &spans[0]));
    assert_true(kvl_arena_is_sound(&arena));
    kvl_arena_fini(&arena);
    free(base);
}

static uint64_t resident(const struct kvl_arena *arena)
{
    static unsigned char pages[8 * MIB / 4096];
    uint64_t count = 0;

    assert_true(arena->range <= 8 * MIB);
    assert_int_equal(mincore(arena->base, arena->range, pages), 0);
    for (uint64_t i = 0; i < arena->range / 4096; i++) {
        count += pages[i] & 1;
    }
    return count * 4096;
}

/* Every other page is free: one long span needs other addresses, and the pages behind the holes. */
static void test_pieces_are_given_back_for_a_long_span(void **state)
{
    enum { PIECES = 2 * MIB / 8192 };
    struct kvl_arena arena;
    static uint32_t spans[PIECES];
    uint32_t span;
    unsigned char *at;

    (void)state;
    assert_int_equal(kvl_arena_init(&arena, NULL, 2 * MIB), 0);
    for (int i = 0; i < PIECES; i++) {
        memset(kvl_arena_alloc(&arena, 8192, &spans[i]), i, 8192);
    }
    assert_null(kvl_arena_alloc(&arena, 1, &span)); /* the budget, not the addresses */
    for (int i = 0; i < PIECES; i += 2) {
        kvl_arena_free(&arena, spans[i]);
    }
    at = kvl_arena_alloc(&arena, MIB, &span);
    assert_non_null(at);
    memset(at, 1, MIB);
    assert_true(resident(&arena) <= 2 * MIB + 65536);
    assert_true(arena.used + arena.stale <= 2 * MIB);
    assert_true(kvl_arena_is_sound(&arena));
    kvl_arena_fini(&arena);
}

static void test_engine_memory_is_used_and_kept(void **state)
{
    struct kvl_arena arena;
    uint32_t span;
    unsigned char *base = aligned_alloc(4096, 16384);
    unsigned char *at;

    (void)state;
    assert_int_equal(kvl_arena_init(&arena, base, 16384), 0);
    at = kvl_arena_alloc(&arena, 1000, &span);
    assert_true(at >= base && at + 1000 <= base + 16384);
    memset(at, 7, 1000);
    kvl_arena_fini(&arena);
    assert_int_equal(at[999], 7);
    free(base);
}

static void test_bad_ranges_are_refused(void **state)
{
    struct kvl_arena arena;

    (void)state;
    assert_int_equal(kvl_arena_init(&arena, NULL, 100), -EINVAL);
    assert_int_equal(kvl_arena_init(&arena, (void *)64, 8192), -EINVAL);
    assert_int_equal(kvl_arena_init(&arena, NULL, (256ull << 30) + 64), -EINVAL);
}

/* Random spans of all sizes, each filled with its own byte, checked when freed. */
static void test_random_spans_never_overlap(void **state)
{
    enum { SLOTS = 300 };
    struct kvl_arena arena;
    struct {
        unsigned char *at;
        size_t bytes;
        uint32_t span;
    } held[SLOTS] = {{0}};
    uint64_t x = 88172645463325252ull;

    (void)state;
    assert_int_equal(kvl_arena_init(&arena, NULL, 4 * MIB), 0);
    for (int round = 0; round < 40000; round++) {
        size_t i;

        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        i = x % SLOTS;
        if (held[i].at != NULL) {
            for (size_t b = 0; b < held[i].bytes; b += 61) {
                assert_int_equal(held[i].at[b], (unsigned char)i);
            }
            kvl_arena_free(&arena, held[i].span);
            held[i].at = NULL;
        } else {
            held[i].bytes = 1 + (size_t)(x >> 20) % (1u << (4 + (x >> 50) % 14));
            held[i].at = kvl_arena_alloc(&arena, held[i].bytes, &held[i].span);
            if (held[i].at != NULL) {
                memset(held[i].at, (unsigned char)i, held[i].bytes);
            }
        }
        if (round % 1000 == 0) {
            assert_true(kvl_arena_is_sound(&arena));
        }
    }
    for (size_t i = 0; i < SLOTS; i++) {
        if (held[i].at != NULL) {
            kvl_arena_free(&arena, held[i].span);
        }
    }
    assert_int_equal(arena.used, 0);
    assert_true(kvl_arena_is_sound(&arena));
    kvl_arena_fini(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_spans_are_aligned_and_apart),
        cmocka_unit_test(test_whole_range_can_be_one_span),
        cmocka_unit_test(test_shared_memory_shows_what_is_written),
        cmocka_unit_test(test_memory_in_use_or_of_others_is_not_shared),
        cmocka_unit_test(test_neighbours_merge),
        cmocka_unit_test(test_pieces_are_given_back_for_a_long_span),
        cmocka_unit_test(test_engine_memory_is_used_and_kept),
        cmocka_unit_test(test_bad_ranges_are_refused),
        cmocka_unit_test(test_random_spans_never_overlap),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
