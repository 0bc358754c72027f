/* SPDX-License-Identifier: Apache-2.0 */
/* create says that this machine lacks the device: quiet under `required = auto`. */
#include "mock.h"

#include <errno.h>

const struct mock_fault mock_fault = {.create_code = -ENODEV};

MOCK_BACKEND("mock_no_device")
