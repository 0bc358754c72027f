/* SPDX-License-Identifier: Apache-2.0 */
/* start fails with a code and a sentence; after it only destroy may follow. */
#include "mock.h"

#include <errno.h>

const struct mock_fault mock_fault = {.start_code = -EADDRINUSE};

MOCK_BACKEND("mock_start_fails")
