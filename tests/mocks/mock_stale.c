/* SPDX-License-Identifier: Apache-2.0 */
/* Says that it has the chunks, and misses whenever they are read. */
#include "mock.h"

#include <errno.h>

const struct mock_fault mock_fault = {.read_code = -ENOENT};

MOCK_BACKEND("mock_stale")
