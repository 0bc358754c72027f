/* SPDX-License-Identifier: Apache-2.0 */
/* No fault: a backend of a later minor version. Everything is longer, and must still work. */
#include "mock.h"

const struct mock_fault mock_fault = {0};

struct newer_option {
    struct kvl_option option;
    uint64_t added;
};

struct newer_ops {
    struct kvl_backend_ops ops;
    void (*added)(void);
};

struct newer_desc {
    struct kvl_backend_desc desc;
    uint64_t added;
};

static void mock_added(void)
{
}

static const struct newer_option newer_options[] = {
    {.option = {.name = "first", .type = KVL_OPTION_INT, .value = "1", .max = 9}, .added = ~0ull},
    {.option = {.name = "preload", .type = KVL_OPTION_STRING, .value = ""}, .added = ~0ull},
    {.option = {.name = "preload_bytes", .type = KVL_OPTION_SIZE, .value = "4096"}, .added = ~0ull},
    {.option = {.name = "shelf", .type = KVL_OPTION_STRING, .value = ""}, .added = ~0ull},
    {.option = {.name = "secret", .type = KVL_OPTION_SECRET, .value = ""}, .added = ~0ull},
};

static const struct newer_ops newer_ops = {
    .ops = {.size = sizeof(struct newer_ops), MOCK_SLOTS},
    .added = mock_added,
};

static const struct newer_desc newer_desc = {
    .desc =
        {
            .magic = KVL_BACKEND_MAGIC,
            .size = sizeof(struct newer_desc),
            .abi_major = KVL_BACKEND_ABI_MAJOR,
            .abi_minor = KVL_BACKEND_ABI_MINOR + 7,
            .caps = MOCK_CAPS | 1ull << 63, /* unknown to this core, which must ignore it */
            .name = "mock_newer_minor",
            .version = "9",
            .build_id = "mock",
            .options = &newer_options[0].option,
            .option_count = sizeof(newer_options) / sizeof(newer_options[0]),
            .option_size = sizeof(struct newer_option),
            .ops = &newer_ops.ops,
        },
    .added = ~0ull,
};

MOCK_ENTRY(&newer_desc.desc)
