/* SPDX-License-Identifier: Apache-2.0 */
/* Reads straight into the engine's memory. */
#include "mock.h"

const struct mock_fault mock_fault = {0};

MOCK_DIRECT_BACKEND("mock_direct")
