/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cuda_ipc_args.h"
#include "sides.h"

__attribute__((noinline)) static void *host_kernel_address(uint64_t addr, size_t bytes,
                                                           int is_write)
{
    (void)bytes;
    (void)is_write;
    return (void *)(uintptr_t)addr;
}

#include "host_kernel.h"

#define ARENA (1u << 18)
#define ROUNDS 300u

struct scene {
    _Alignas(16) uint8_t src[ARENA];
    _Alignas(16) uint8_t dst[ARENA];
    uint8_t expected[ARENA];
    struct sides_shape shape;
    struct sides from;
    struct sides to;
    struct cuda_ipc_paged_args paged;
    uint32_t launches;
};

static void scene_make(struct scene *scene, enum cuda_ipc_side_kind to,
                       enum cuda_ipc_side_kind from, uint32_t align, uint64_t *seed)
{
    struct sides_arena src = {.base = (uint64_t)(uintptr_t)scene->src, .size = ARENA};
    struct sides_arena dst = {.base = (uint64_t)(uintptr_t)scene->dst, .size = ARENA};

    sides_shape_make(&scene->shape, align, seed);
    sides_make(&scene->from, from, &scene->shape, &src, sides_random(seed, 3) == 0, seed);
    sides_make(&scene->to, to, &scene->shape, &dst, sides_random(seed, 3) == 0, seed);
    memset(scene->dst, 0xaa, ARENA);
    memcpy(scene->expected, scene->dst, ARENA);
    sides_copy(&scene->shape, &scene->to, scene->expected, dst.base, &scene->from, scene->src,
               src.base);
}

/* ---- launches, of any number of blocks ---- */

static void gather(uint32_t width, const struct cuda_ipc_paged_args *args, uint32_t blocks)
{
    switch (width) {
    case 16:
        host_kernel_gather_16(args, blocks);
        return;
    case 8:
        host_kernel_gather_8(args, blocks);
        return;
    case 4:
        host_kernel_gather_4(args, blocks);
        return;
    default:
        host_kernel_gather_1(args, blocks);
    }
}

static void scatter(uint32_t width, const struct cuda_ipc_paged_args *args, uint32_t blocks)
{
    switch (width) {
    case 16:
        host_kernel_scatter_16(args, blocks);
        return;
    case 8:
        host_kernel_scatter_8(args, blocks);
        return;
    case 4:
        host_kernel_scatter_4(args, blocks);
        return;
    default:
        host_kernel_scatter_1(args, blocks);
    }
}

static void runs(uint32_t width, const struct cuda_ipc_runs_args *args, uint32_t blocks)
{
    switch (width) {
    case 16:
        host_kernel_runs_16(args, blocks);
        return;
    case 8:
        host_kernel_runs_8(args, blocks);
        return;
    case 4:
        host_kernel_runs_4(args, blocks);
        return;
    default:
        host_kernel_runs_1(args, blocks);
    }
}

/* ---- paged ---- */

static void launch_paged(struct scene *scene, uint32_t width, bool is_scatter, uint64_t *seed)
{
    if (scene->paged.span_count > 0) {
        (is_scatter ? scatter : gather)(width, &scene->paged, 1 + sides_random(seed, 9));
        scene->launches++;
    }
}

static void run_paged(struct scene *scene, bool is_scatter, uint32_t width, uint64_t *seed)
{
    const struct sides *paged = is_scatter ? &scene->to : &scene->from;
    const struct sides *whole = is_scatter ? &scene->from : &scene->to;
    const struct cuda_ipc_layout *layout = &paged->layout;
    const uint64_t limit = width * (16u + sides_random(seed, 2) * sides_random(seed, 4000));
    const uint64_t bases = (uint64_t)(uintptr_t)layout->bases;
    const uint64_t ids = (uint64_t)(uintptr_t)paged->blocks;
    struct cuda_ipc_walk walk;
    struct cuda_ipc_span span;

    cuda_ipc_paged_init(&scene->paged, layout, width, bases, ids);
    cuda_ipc_walk_init(&walk, layout, sides_random(seed, 4), scene->shape.bytes,
                       scene->shape.count);
    while (cuda_ipc_walk_next(&walk, limit, &span)) {
        const struct cuda_ipc_paged_chunk chunk = {
            .slab = scene->shape.bytes[span.chunk] / (layout->planes * layout->layers),
            .id_first = paged->block_first[span.chunk],
        };

        while (!cuda_ipc_paged_add(&scene->paged, width, &chunk, whole->addrs[span.chunk], &span)) {
            launch_paged(scene, width, is_scatter, seed);
            cuda_ipc_paged_init(&scene->paged, layout, width, bases, ids);
        }
    }
    launch_paged(scene, width, is_scatter, seed);
}

static void test_paged_kernels_match_the_reference(void **state)
{
    static const uint32_t widths[] = {16, 8, 4, 1};
    struct scene *scene = *state;
    uint64_t seed = 3;

    for (uint32_t round = 0; round < ROUNDS * 2; round++) {
        const uint32_t width = widths[round / 2 % 4];
        const bool is_scatter = round % 2 == 1;

        scene_make(scene, is_scatter ? CUDA_IPC_SIDE_PAGED : CUDA_IPC_SIDE_DEVICE,
                   is_scatter ? CUDA_IPC_SIDE_DEVICE : CUDA_IPC_SIDE_PAGED, width, &seed);
        assert_true(cuda_ipc_layout_alignment(is_scatter ? &scene->to.layout
                                                         : &scene->from.layout) >= width);
        run_paged(scene, is_scatter, width, &seed);
        assert_memory_equal(scene->dst, scene->expected, ARENA);
    }
    assert_true(scene->launches > ROUNDS * 2); /* some did not fit into one */
}

static void test_tiles_larger_than_a_run_and_smaller(void **state)
{
    /* runs of 1 KiB against tiles of 4 KiB, and runs of 16 KiB, with ends that fill no tile */
    static const uint32_t block_tokens[] = {2, 32};
    struct scene *scene = *state;

    for (int i = 0; i < 2; i++) {
        const uint64_t base = (uint64_t)(uintptr_t)scene->src;
        const struct cuda_ipc_layout layout = {.layers = 1,
                                               .planes = 1,
                                               .block_tokens = block_tokens[i],
                                               .block_count = 128 / block_tokens[i],
                                               .token_bytes = 512,
                                               .token_stride = 512,
                                               .block_stride = 512ull * block_tokens[i],
                                               .bases = &base};
        const struct cuda_ipc_paged_chunk chunk = {.slab = 75 * 512};
        uint32_t ids[64];
        struct cuda_ipc_span span = {.bytes = chunk.slab};

        for (uint32_t j = 0; j < layout.block_count; j++) {
            ids[j] = layout.block_count - 1 - j;
        }
        memset(scene->dst, 0, ARENA);
        cuda_ipc_paged_init(&scene->paged, &layout, 16, (uint64_t)(uintptr_t)&base,
                            (uint64_t)(uintptr_t)ids);
        assert_true(
            cuda_ipc_paged_add(&scene->paged, 16, &chunk, (uint64_t)(uintptr_t)scene->dst, &span));
        assert_int_equal(cuda_ipc_paged_tiles(&scene->paged), 10);
        gather(16, &scene->paged, 3);
        for (uint32_t token = 0; token < 75; token++) {
            const uint32_t block = ids[token / layout.block_tokens];

            assert_memory_equal(
                scene->dst + token * 512,
                scene->src + block * layout.block_stride + token % layout.block_tokens * 512, 512);
        }
        assert_int_equal(scene->dst[75 * 512], 0);
    }
}

/* ---- runs ---- */

static void run_pieces(struct cuda_ipc_piece *pieces, uint32_t count, uint32_t width,
                       uint64_t *seed)
{
    struct cuda_ipc_kernel_run table[64];
    struct cuda_ipc_runs_args args = {.runs = (uint64_t)(uintptr_t)table};
    uint32_t vecs_max = 0;

    for (uint32_t i = 0; i < count; i++) {
        cuda_ipc_run_take(&pieces[i], width, &table[args.count]);
        assert_true(pieces[i].rows == 0);
        vecs_max = table[args.count].vecs > vecs_max ? table[args.count].vecs : vecs_max;
        args.count++;
    }
    if (args.count > 0) {
        args.split = cuda_ipc_runs_split(args.count, vecs_max);
        runs(width, &args, 1 + sides_random(seed, 9));
    }
}

static void test_runs_kernels_match_the_reference(void **state)
{
    static const enum cuda_ipc_side_kind kinds[] = {CUDA_IPC_SIDE_PAGED, CUDA_IPC_SIDE_RUNS,
                                                    CUDA_IPC_SIDE_DEVICE};
    struct scene *scene = *state;
    uint64_t seed = 5;

    for (uint32_t round = 0; round < ROUNDS * 2; round++) {
        struct cuda_ipc_piece pieces[64];
        uint32_t to;
        uint32_t from;
        uint32_t width;
        struct cuda_ipc_plan plan;
        struct cuda_ipc_walk walk;
        struct cuda_ipc_span span;

        scene_make(scene, kinds[round % 3], kinds[round / 3 % 3], 1u << sides_random(&seed, 5),
                   &seed);
        to = cuda_ipc_side_alignment(&scene->to.side, scene->shape.bytes, scene->shape.count);
        from = cuda_ipc_side_alignment(&scene->from.side, scene->shape.bytes, scene->shape.count);
        width = cuda_ipc_width(to < from ? to : from);
        cuda_ipc_plan_init(&plan, &scene->to.side, &scene->from.side, scene->shape.bytes);
        cuda_ipc_walk_init(&walk, NULL, 0, scene->shape.bytes, scene->shape.count);
        while (cuda_ipc_walk_next(&walk, UINT64_MAX, &span)) {
            while (span.bytes > 0) {
                run_pieces(pieces, cuda_ipc_plan_next(&plan, &span, pieces, 64), width, &seed);
            }
        }
        assert_memory_equal(scene->dst, scene->expected, ARENA);
    }
}

static void test_long_runs_are_taken_in_parts(void **state)
{
    struct cuda_ipc_piece piece = {
        .dst = 1ull << 40, .src = 1ull << 41, .bytes = 5ull << 30, .rows = 1};
    struct cuda_ipc_kernel_run run;
    uint64_t sum = 0;

    (void)state;
    while (piece.rows > 0) {
        assert_true(piece.dst == (1ull << 40) + sum && piece.src == (1ull << 41) + sum);
        cuda_ipc_run_take(&piece, 1, &run);
        assert_true(run.vecs > 0 && run.vecs <= CUDA_IPC_VECS_MAX - CUDA_IPC_TILE);
        sum += run.vecs;
    }
    assert_true(sum == 5ull << 30);

    piece = (struct cuda_ipc_piece){.dst = 64,
                                    .src = 64,
                                    .bytes = 1 << 20,
                                    .dst_pitch = 1 << 21,
                                    .src_pitch = 1 << 20,
                                    .rows = 1 << 12};
    cuda_ipc_run_take(&piece, 1, &run);
    assert_int_equal(run.vecs / (1 << 20), 2047);
    assert_true(piece.rows == (1 << 12) - 2047 && piece.dst == 64 + 2047ull * (1 << 21));
}

static void test_divisors_divide(void **state)
{
    static const uint32_t edges[] = {0, 1, 2, 3, 31, 32, 33, (1u << 31) - 1, (1u << 31) - 2};
    uint64_t seed = 6;

    (void)state;
    for (uint32_t round = 0; round < 4000; round++) {
        const uint32_t value =
            round < 70 ? round + 1 : 1 + (sides_random(&seed, 1u << 31) >> sides_random(&seed, 31));
        const struct cuda_ipc_divisor by = cuda_ipc_divisor_make(value);

        for (uint32_t i = 0; i < 20; i++) {
            const uint32_t n = i < 9 ? edges[i] : sides_random(&seed, 1u << 31);

            assert_int_equal(cuda_ipc_kernel_divide(n, &by), n / value);
        }
        for (uint64_t n = value; n < 1u << 31 && n < 5ull * value; n += value) {
            assert_int_equal(cuda_ipc_kernel_divide((uint32_t)n, &by), n / value);
            assert_int_equal(cuda_ipc_kernel_divide((uint32_t)n - 1, &by), n / value - 1);
        }
    }
    assert_int_equal(cuda_ipc_kernel_divide((1u << 31) - 1,
                                            &(struct cuda_ipc_divisor){
                                                .value = 1u << 31,
                                                .mul = 1,
                                                .shift = 31,
                                            }),
                     0);
    assert_int_equal(cuda_ipc_divisor_make(1u << 31).mul, 1);
}

static void test_what_the_kernel_cannot_count_is_said(void **state)
{
    const struct cuda_ipc_layout layout = {.layers = 1, .planes = 1, .block_tokens = 16};
    const uint64_t fits = (1ull << 35) - (1 << 13);
    const uint64_t beyond = 1ull << 35;

    (void)state;
    assert_true(cuda_ipc_paged_fits(&layout, 16, &fits, 1));
    assert_false(cuda_ipc_paged_fits(&layout, 16, &beyond, 1));
    assert_false(cuda_ipc_paged_fits(&layout, 8, &fits, 1));
    assert_int_equal(cuda_ipc_width(2), 1);
    assert_int_equal(cuda_ipc_runs_split(5000, 10 << 20), (1 << 20) / 5000);
    assert_int_equal(cuda_ipc_runs_split(1024, 2048), 8);
}

static int scene_create(void **state)
{
    uint64_t seed = 7;
    struct scene *scene = aligned_alloc(64, (sizeof(*scene) + 63) / 64 * 64);

    if (scene == NULL) {
        return -1;
    }
    scene->launches = 0;
    sides_fill(&seed, scene->src, ARENA);
    *state = scene;
    return 0;
}

static int scene_destroy(void **state)
{
    free(*state);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_divisors_divide),
        cmocka_unit_test(test_paged_kernels_match_the_reference),
        cmocka_unit_test(test_tiles_larger_than_a_run_and_smaller),
        cmocka_unit_test(test_runs_kernels_match_the_reference),
        cmocka_unit_test(test_long_runs_are_taken_in_parts),
        cmocka_unit_test(test_what_the_kernel_cannot_count_is_said),
    };

    return cmocka_run_group_tests(tests, scene_create, scene_destroy);
}
