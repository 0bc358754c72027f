/* SPDX-License-Identifier: Apache-2.0 */
/* A good one with the real codecs of LMCache's IPC types. */
#include "mock.h"

#include "ipc.h"

const struct mock_fault mock_fault = {0};

static const struct kvl_backend_ops codecs_ops = {
    .size = sizeof(struct kvl_backend_ops),
    MOCK_SLOTS,
    .ipc = &kvl_ipc_table,
};

static const struct kvl_backend_desc codecs_desc = {
    .magic = KVL_BACKEND_MAGIC,
    .size = sizeof(struct kvl_backend_desc),
    .abi_major = KVL_BACKEND_ABI_MAJOR,
    .abi_minor = KVL_BACKEND_ABI_MINOR,
    .caps = MOCK_CAPS | KVL_CAP_IPC,
    .name = "mock_codecs",
    .version = "0",
    .build_id = "mock",
    .options = mock_options,
    .option_count = MOCK_OPTION_COUNT,
    .option_size = sizeof(struct kvl_option),
    .ops = &codecs_ops,
};

MOCK_ENTRY(&codecs_desc)
