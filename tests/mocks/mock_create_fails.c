/* SPDX-License-Identifier: Apache-2.0 */
/* create fails with a code and a sentence. */
#include "mock.h"

#include <errno.h>

const struct mock_fault mock_fault = {.create_code = -EINVAL};

MOCK_BACKEND("mock_create_fails")
