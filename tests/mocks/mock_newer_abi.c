/* SPDX-License-Identifier: Apache-2.0 */
/* Built for a major version that this core does not know. Only the frozen head may be read. */
#include "mock.h"

const struct mock_fault mock_fault = {0};

static const struct kvl_backend_desc mock_desc = {
    .magic = KVL_BACKEND_MAGIC,
    .size = sizeof(struct kvl_backend_desc),
    .abi_major = KVL_BACKEND_ABI_MAJOR + 1,
    .abi_minor = 3,
    .caps = ~0ull,
    .name = (const char *)8, /* crashes a loader that looks beyond the head */
    .ops = (const struct kvl_backend_ops *)8,
};

MOCK_ENTRY(&mock_desc)
