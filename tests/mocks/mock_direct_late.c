/* SPDX-License-Identifier: Apache-2.0 */
/* Reads straight into the engine's memory, long after the deadline unless it is cancelled. */
#include "mock.h"

const struct mock_fault mock_fault = {.late_ms = 400};

MOCK_DIRECT_BACKEND("mock_direct_late")
