/* SPDX-License-Identifier: Apache-2.0 */
/* The entry returns something that is no description. */
#include "mock.h"

const struct mock_fault mock_fault = {0};

static const struct kvl_backend_ops mock_ops = {.size = sizeof(mock_ops), MOCK_SLOTS};

static const struct kvl_backend_desc mock_desc = {
    .magic = 0x21212121,
    .size = sizeof(struct kvl_backend_desc),
    .abi_major = KVL_BACKEND_ABI_MAJOR,
    .name = "mock_bad_magic",
    .ops = &mock_ops,
};

MOCK_ENTRY(&mock_desc)
