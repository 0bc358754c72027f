/* SPDX-License-Identifier: Apache-2.0 */
/* Has the bit for cancel and no such slot. */
#include "mock.h"

const struct mock_fault mock_fault = {0};

static const struct kvl_backend_ops mock_ops = {.size = sizeof(mock_ops), MOCK_SLOTS};

static const struct kvl_backend_desc mock_desc = {
    .magic = KVL_BACKEND_MAGIC,
    .size = sizeof(struct kvl_backend_desc),
    .abi_major = KVL_BACKEND_ABI_MAJOR,
    .abi_minor = KVL_BACKEND_ABI_MINOR,
    .caps = MOCK_CAPS | KVL_CAP_CANCEL,
    .name = "mock_cap_without_op",
    .version = "0",
    .build_id = "mock",
    .ops = &mock_ops,
};

MOCK_ENTRY(&mock_desc)
