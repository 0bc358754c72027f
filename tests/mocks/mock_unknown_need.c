/* SPDX-License-Identifier: Apache-2.0 */
/* Demands something of the core that it has never heard of. */
#include "mock.h"

const struct mock_fault mock_fault = {0};

static const struct kvl_backend_ops mock_ops = {.size = sizeof(mock_ops), MOCK_SLOTS};

static const struct kvl_backend_desc mock_desc = {
    MOCK_FIELDS,
    .needs = 1ull << 62,
    .name = "mock_unknown_need",
    .ops = &mock_ops,
};

MOCK_ENTRY(&mock_desc)
