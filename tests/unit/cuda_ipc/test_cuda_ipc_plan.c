/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "sides.h"

#define ARENA (1u << 18)
#define ROUNDS 400

static const enum cuda_ipc_side_kind kinds[] = {CUDA_IPC_SIDE_PAGED, CUDA_IPC_SIDE_RUNS,
                                                CUDA_IPC_SIDE_DEVICE, CUDA_IPC_SIDE_HOST};
#define KINDS 4u

/* Two arenas in memory of this process, and what the target should look like. */
struct scene {
    uint8_t src[ARENA];
    uint8_t dst[ARENA];
    uint8_t expected[ARENA];
    struct sides_shape shape;
    struct sides from;
    struct sides to;
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
    assert_int_equal(
        cuda_ipc_side_check(&scene->from.side, scene->shape.bytes, scene->shape.count, false), 0);
    assert_int_equal(
        cuda_ipc_side_check(&scene->to.side, scene->shape.bytes, scene->shape.count, true), 0);
}

static void run_piece(const struct cuda_ipc_piece *piece)
{
    for (uint64_t row = 0; row < piece->rows; row++) {
        memcpy((uint8_t *)(uintptr_t)piece->dst + row * piece->dst_pitch,
               (const uint8_t *)(uintptr_t)piece->src + row * piece->src_pitch, piece->bytes);
    }
}

static void run_span(struct cuda_ipc_plan *plan, struct cuda_ipc_span span, uint32_t room)
{
    struct cuda_ipc_piece pieces[64];
    const uint64_t end = span.offset + span.bytes;
    uint32_t n;

    while (span.bytes > 0) {
        const uint64_t before = span.bytes;

        n = cuda_ipc_plan_next(plan, &span, pieces, room);
        assert_true(n <= room && span.bytes < before && span.offset + span.bytes == end);
        for (uint32_t i = 0; i < n; i++) {
            assert_true(pieces[i].rows > 0 && pieces[i].bytes > 0);
            run_piece(&pieces[i]);
        }
    }
}

/* Any two sides, in any order of spans, cut anywhere, with any room. */
static void test_every_pair_of_sides_matches_the_reference(void **state)
{
    struct scene *scene = *state;
    uint64_t seed = 1;

    for (uint32_t round = 0; round < ROUNDS * KINDS * KINDS / 4; round++) {
        const uint32_t pair = round % (KINDS * KINDS);
        const uint32_t align = 1u << sides_random(&seed, 5);
        const uint32_t room = 1 + sides_random(&seed, 64);
        const uint64_t limit = 1 + sides_random(&seed, 4000);
        struct cuda_ipc_plan plan;
        struct cuda_ipc_walk walk;
        struct cuda_ipc_span span;
        const struct cuda_ipc_layout *layout;

        scene_make(scene, kinds[pair / KINDS], kinds[pair % KINDS], align, &seed);
        layout = scene->to.side.layout != NULL ? scene->to.side.layout : scene->from.side.layout;
        cuda_ipc_plan_init(&plan, &scene->to.side, &scene->from.side, scene->shape.bytes);
        cuda_ipc_walk_init(&walk, layout, sides_random(&seed, 4), scene->shape.bytes,
                           scene->shape.count);
        while (cuda_ipc_walk_next(&walk, limit, &span)) {
            run_span(&plan, span, room);
        }
        assert_memory_equal(scene->dst, scene->expected, ARENA);
    }
}

/* Each byte is in one span; after a span that says so, layers are complete, and not before. */
static void test_a_walk_covers_layers_in_order(void **state)
{
    struct scene *scene = *state;
    uint64_t seed = 2;

    for (uint32_t round = 0; round < ROUNDS; round++) {
        const uint32_t group = sides_random(&seed, 6);
        const uint64_t limit = 1 + sides_random(&seed, 3000);
        struct cuda_ipc_walk walk;
        struct cuda_ipc_span span;
        struct sides_shape *shape = &scene->shape;
        uint64_t left[SIDES_BASES / 2] = {0};
        uint32_t layers_done = 0;

        scene_make(scene, CUDA_IPC_SIDE_PAGED, CUDA_IPC_SIDE_HOST, 1, &seed);
        memset(scene->dst, 0, ARENA);
        for (uint32_t i = 0; i < shape->count; i++) {
            for (uint32_t layer = 0; layer < shape->layers; layer++) {
                left[layer] += shape->bytes[i] / shape->layers;
            }
        }
        cuda_ipc_walk_init(&walk, &scene->to.layout, group, shape->bytes, shape->count);
        while (cuda_ipc_walk_next(&walk, limit, &span)) {
            const uint64_t slab = shape->bytes[span.chunk] / (shape->planes * shape->layers);

            assert_true(span.bytes > 0 && span.bytes <= limit);
            for (uint64_t i = span.offset; i < span.offset + span.bytes; i++) {
                uint8_t *seen = &scene->dst[span.chunk * (ARENA / SIDES_CHUNKS) + i];

                assert_int_equal(*seen, 0);
                *seen = 1;
                left[i / slab % shape->layers]--;
            }
            if (span.layers_done > 0) {
                assert_true(span.layers_done > layers_done);
                layers_done = span.layers_done;
                for (uint32_t layer = 0; layer < layers_done; layer++) {
                    assert_true(left[layer] == 0);
                }
            }
        }
        assert_int_equal(layers_done, shape->layers);
        assert_false(cuda_ipc_walk_next(&walk, limit, &span));
    }
}

static void test_a_cut_falls_between_slabs_or_tokens(void **state)
{
    const struct cuda_ipc_layout layout = {
        .layers = 3, .planes = 2, .block_tokens = 4, .block_count = 9, .token_bytes = 10};
    const uint64_t bytes[] = {6 * 80};
    struct cuda_ipc_walk walk;
    struct cuda_ipc_span span;

    (void)state;
    cuda_ipc_walk_init(&walk, &layout, 0, bytes, 1);
    assert_true(cuda_ipc_walk_next(&walk, 175, &span));
    assert_true(span.offset == 0 && span.bytes == 160);
    assert_true(cuda_ipc_walk_next(&walk, 79, &span));
    assert_true(span.offset == 160 && span.bytes == 70);
    assert_true(cuda_ipc_walk_next(&walk, 9, &span));
    assert_true(span.offset == 230 && span.bytes == 9);
    assert_true(cuda_ipc_walk_next(&walk, 300, &span));
    assert_true(span.offset == 239 && span.bytes == 241 && span.layers_done == 3);
}

static void test_neighbours_become_one_piece(void **state)
{
    const uint64_t bases[] = {0x1000, 0x9000};
    const struct cuda_ipc_layout layout = {.layers = 1,
                                           .planes = 2,
                                           .block_tokens = 4,
                                           .block_count = 32,
                                           .token_bytes = 16,
                                           .token_stride = 16,
                                           .block_stride = 64,
                                           .bases = bases};
    const uint32_t blocks[] = {3, 4, 5, 9};
    const uint32_t block_first[] = {0, 4};
    const uint64_t bytes[] = {2 * 16 * 16};
    const struct cuda_ipc_side paged = {.kind = CUDA_IPC_SIDE_PAGED,
                                        .layout = &layout,
                                        .blocks = blocks,
                                        .block_first = block_first};
    const uint64_t addr = 0x100000;
    const struct cuda_ipc_side whole = {.kind = CUDA_IPC_SIDE_DEVICE, .addrs = &addr};
    struct cuda_ipc_span span = {.bytes = bytes[0]};
    struct cuda_ipc_plan plan;
    struct cuda_ipc_piece pieces[8];

    (void)state;
    cuda_ipc_plan_init(&plan, &whole, &paged, bytes);
    assert_int_equal(cuda_ipc_plan_next(&plan, &span, pieces, 8), 4);
    assert_true(pieces[0].src == 0x1000 + 3 * 64 && pieces[0].bytes == 192);
    assert_true(pieces[1].src == 0x1000 + 9 * 64 && pieces[1].bytes == 64);
    assert_true(pieces[2].src == 0x9000 + 3 * 64 && pieces[2].dst == addr + 256);
    assert_int_equal(cuda_ipc_side_fragment(&paged, bytes, 1), 64);
}

static void test_strided_tokens_are_rows_of_one_piece(void **state)
{
    const uint64_t base = 0x1000;
    const struct cuda_ipc_layout layout = {.layers = 1,
                                           .planes = 1,
                                           .block_tokens = 8,
                                           .block_count = 4,
                                           .token_bytes = 16,
                                           .token_stride = 48,
                                           .block_stride = 400,
                                           .bases = &base};
    const uint32_t blocks[] = {2};
    const uint32_t block_first[] = {0, 1};
    const uint64_t bytes[] = {7 * 16};
    const uint64_t addr = 0x100000;
    const struct cuda_ipc_side paged = {.kind = CUDA_IPC_SIDE_PAGED,
                                        .layout = &layout,
                                        .blocks = blocks,
                                        .block_first = block_first};
    const struct cuda_ipc_side whole = {.kind = CUDA_IPC_SIDE_HOST, .addrs = &addr};
    struct cuda_ipc_span span = {.bytes = bytes[0]};
    struct cuda_ipc_plan plan;
    struct cuda_ipc_piece pieces[2];

    (void)state;
    cuda_ipc_plan_init(&plan, &paged, &whole, bytes);
    assert_int_equal(cuda_ipc_plan_next(&plan, &span, pieces, 2), 1);
    assert_true(pieces[0].dst == 0x1000 + 2 * 400 && pieces[0].dst_pitch == 48);
    assert_true(pieces[0].src == addr && pieces[0].src_pitch == 16);
    assert_true(pieces[0].rows == 7 && pieces[0].bytes == 16);
}

/* ---- what is refused ---- */

static void expect_layout(struct cuda_ipc_layout layout, int code)
{
    struct kvl_err err = {.size = sizeof(err)};

    assert_int_equal(cuda_ipc_layout_check(&layout, &err), code);
    assert_true(code == 0 || strlen(err.text) > 20);
}

static void test_bad_layouts_are_refused(void **state)
{
    const uint64_t bases[] = {4096, 8192};
    const struct cuda_ipc_layout good = {.layers = 2,
                                         .planes = 1,
                                         .block_tokens = 4,
                                         .block_count = 8,
                                         .token_bytes = 16,
                                         .token_stride = 16,
                                         .block_stride = 64,
                                         .bases = bases};
    const uint64_t high[] = {4096, UINT64_MAX - 511};
    const uint64_t none[] = {4096, 0};
    struct cuda_ipc_layout bad;

    (void)state;
#define CASE(code, ...)                                                                            \
    do {                                                                                           \
        bad = good;                                                                                \
        __VA_ARGS__;                                                                               \
        expect_layout(bad, code);                                                                  \
    } while (0)
    CASE(0, (void)0);
    CASE(-EINVAL, bad.layers = 0);
    CASE(-EINVAL, bad.planes = 0);
    CASE(-EINVAL, bad.planes = 3);
    CASE(-EINVAL, bad.block_tokens = 0);
    CASE(-EINVAL, bad.block_count = 0);
    CASE(-EINVAL, bad.block_count = UINT32_MAX);
    CASE(-EINVAL, bad.token_bytes = 0);
    CASE(-EINVAL, bad.token_stride = 15);
    CASE(-EINVAL, bad.block_stride = 63);
    CASE(-EINVAL, bad.block_stride = 0);
    CASE(0, bad.block_stride = 0; bad.block_count = 1);
    CASE(0, bad.block_stride = 16; bad.token_stride = 128);
    CASE(-EINVAL, bad.block_stride = 16; bad.token_stride = 127);
    CASE(-EINVAL, bad.block_stride = 15; bad.token_stride = 128);
    CASE(-EINVAL, bad.block_stride = UINT64_MAX / 4);
    CASE(-EINVAL, bad.block_stride = INT64_MAX / 8; bad.block_count = 10);
    CASE(-EINVAL, bad.token_stride = UINT64_MAX / 2);
    CASE(-EINVAL, bad.token_bytes = bad.token_stride = UINT64_MAX / 2 + 1; bad.block_tokens = 1;
         bad.block_count = 1);
    CASE(-EINVAL, bad.bases = high);
    CASE(-EINVAL, bad.bases = none);
#undef CASE
}

static void test_bad_block_tables_are_refused(void **state)
{
    const uint64_t base = 4096;
    const struct cuda_ipc_layout layout = {.layers = 1,
                                           .planes = 1,
                                           .block_tokens = 4,
                                           .block_count = 8,
                                           .token_bytes = 16,
                                           .token_stride = 16,
                                           .block_stride = 64,
                                           .bases = &base};
    uint32_t blocks[] = {7, KVL_BLOCK_SKIP, 0};
    uint32_t first[] = {0, 2, 3};
    uint64_t bytes[] = {128, 16};
    const struct cuda_ipc_side side = {
        .kind = CUDA_IPC_SIDE_PAGED, .layout = &layout, .blocks = blocks, .block_first = first};

    (void)state;
    assert_int_equal(cuda_ipc_side_check(&side, bytes, 2, true), 0);
    assert_true(cuda_ipc_side_skips(&side, 2));
#define CASE(field, value)                                                                         \
    do {                                                                                           \
        __typeof__(field) keep = (field);                                                          \
        (field) = (value);                                                                         \
        assert_int_equal(cuda_ipc_side_check(&side, bytes, 2, true), -EINVAL);                     \
        (field) = keep;                                                                            \
    } while (0)
    CASE(blocks[0], 8);
    CASE(blocks[2], KVL_BLOCK_SKIP - 1);
    CASE(bytes[0], 64); /* a block too many */
    CASE(bytes[0], 129);
    CASE(bytes[0], 144); /* a block too few */
    CASE(bytes[1], 0);
    CASE(bytes[1], 8);
    CASE(first[1], 3);
    CASE(first[1], 0);
    CASE(first[0], 1);
#undef CASE
    blocks[1] = 3;
    assert_false(cuda_ipc_side_skips(&side, 2));
}

static void test_bad_runs_are_refused(void **state)
{
    struct kvl_sg sg[] = {{.addr = 4096, .length = 16, .stride = 20, .count = 4},
                          {.addr = 9000, .length = 3, .count = 1}};
    uint32_t first[] = {0, 2};
    uint64_t bytes[] = {67};
    const struct cuda_ipc_side side = {.kind = CUDA_IPC_SIDE_RUNS, .sg = sg, .sg_first = first};

    (void)state;
    assert_int_equal(cuda_ipc_side_check(&side, bytes, 1, true), 0);
    assert_int_equal(cuda_ipc_side_fragment(&side, bytes, 1), 67 / 5);
#define CASE(field, value)                                                                         \
    do {                                                                                           \
        __typeof__(field) keep = (field);                                                          \
        (field) = (value);                                                                         \
        assert_int_equal(cuda_ipc_side_check(&side, bytes, 1, true), -EINVAL);                     \
        (field) = keep;                                                                            \
    } while (0)
    CASE(bytes[0], 66);
    CASE(bytes[0], 68);
    CASE(first[1], 1);
    CASE(sg[0].count, 0);
    CASE(sg[0].stride, 15);
    CASE(sg[0].addr, 0);
    CASE(sg[0].addr, UINT64_MAX - 20);
    CASE(sg[0].stride, UINT64_MAX / 2);
    CASE(sg[0].length, UINT64_MAX / 2);
#undef CASE
    sg[0].stride = 0; /* the same bytes again and again: may be read */
    assert_int_equal(cuda_ipc_side_check(&side, bytes, 1, false), 0);
    assert_int_equal(cuda_ipc_side_check(&side, bytes, 1, true), -EINVAL);
}

static int scene_create(void **state)
{
    uint64_t seed = 7;
    struct scene *scene = malloc(sizeof(*scene));

    if (scene == NULL) {
        return -1;
    }
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
        cmocka_unit_test(test_every_pair_of_sides_matches_the_reference),
        cmocka_unit_test(test_a_walk_covers_layers_in_order),
        cmocka_unit_test(test_a_cut_falls_between_slabs_or_tokens),
        cmocka_unit_test(test_neighbours_become_one_piece),
        cmocka_unit_test(test_strided_tokens_are_rows_of_one_piece),
        cmocka_unit_test(test_bad_layouts_are_refused),
        cmocka_unit_test(test_bad_block_tables_are_refused),
        cmocka_unit_test(test_bad_runs_are_refused),
    };

    return cmocka_run_group_tests(tests, scene_create, scene_destroy);
}
