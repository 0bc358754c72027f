/* SPDX-License-Identifier: Apache-2.0 */
/* Says that it has the chunks, and loses the connection whenever they are read. */
#include "mock.h"

#include <errno.h>

const struct mock_fault mock_fault = {.read_code = -ECONNRESET};

MOCK_BACKEND("mock_flaky")
