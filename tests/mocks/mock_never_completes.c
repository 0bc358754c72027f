/* SPDX-License-Identifier: Apache-2.0 */
/* Accepts reads and writes and forgets them, also in stop. */
#include "mock.h"

const struct mock_fault mock_fault = {.never = 1};

MOCK_BACKEND("mock_never_completes")
