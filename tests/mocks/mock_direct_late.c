/* SPDX-License-Identifier: Apache-2.0 */
/* Reads straight into the engine's memory, long after the deadline unless it is cancelled. */
#include "mock.h"

const struct mock_fault mock_fault = {.late_ms = 400};

static const struct kvl_backend_ops mock_ops = {
    .size = sizeof(mock_ops),
    MOCK_SLOTS,
    .cancel = mock_cancel,
};

static const struct kvl_backend_desc mock_desc = {
    .magic = KVL_BACKEND_MAGIC,
    .size = sizeof(mock_desc),
    .abi_major = KVL_BACKEND_ABI_MAJOR,
    .abi_minor = KVL_BACKEND_ABI_MINOR,
    .caps = MOCK_CAPS | KVL_CAP_CANCEL | KVL_CAP_DIRECT,
    .needs = KVL_NEED_EXPORT,
    .name = "mock_direct_late",
    .version = "0",
    .build_id = "mock",
    .options = mock_options,
    .option_count = MOCK_OPTION_COUNT,
    .option_size = sizeof(struct kvl_option),
    .ops = &mock_ops,
};

MOCK_ENTRY(&mock_desc)
