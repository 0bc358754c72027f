/* SPDX-License-Identifier: Apache-2.0 */
/* The entry is there and returns nothing. */
#include "mock.h"

const struct mock_fault mock_fault = {0};

MOCK_ENTRY(NULL)
