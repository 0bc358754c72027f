/* SPDX-License-Identifier: Apache-2.0 */
/* Writes the bytes of a read and completes it when its deadline is long over. */
#include "mock.h"

const struct mock_fault mock_fault = {.late_ms = 400};

MOCK_BACKEND("mock_completes_late")
