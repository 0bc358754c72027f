/* SPDX-License-Identifier: Apache-2.0 */
/* Completes every batch two times. */
#include "mock.h"

const struct mock_fault mock_fault = {.twice = 1};

MOCK_BACKEND("mock_completes_twice")
