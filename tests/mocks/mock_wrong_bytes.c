/* SPDX-License-Identifier: Apache-2.0 */
/* Delivers bytes with one bit changed. */
#include "mock.h"

const struct mock_fault mock_fault = {.flip = 1};

MOCK_BACKEND("mock_wrong_bytes")
