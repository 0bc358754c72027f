/* SPDX-License-Identifier: Apache-2.0 */
/* The table ends before `destroy`, which is mandatory. */
#include "mock.h"

const struct mock_fault mock_fault = {0};

static const struct kvl_backend_ops mock_ops = {
    .size = (uint32_t)offsetof(struct kvl_backend_ops, destroy),
    MOCK_SLOTS,
};

static const struct kvl_backend_desc mock_desc = {
    MOCK_FIELDS,
    .name = "mock_short_table",
    .ops = &mock_ops,
};

MOCK_ENTRY(&mock_desc)
