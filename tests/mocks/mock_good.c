/* SPDX-License-Identifier: Apache-2.0 */
/* The good one: what router and failover tests use beside the broken ones. */
#include "mock.h"

const struct mock_fault mock_fault = {0};

MOCK_BACKEND("mock_good")
