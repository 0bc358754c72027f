/* SPDX-License-Identifier: Apache-2.0 */
/* A file that was renamed: the description has another word than the file. */
#include "mock.h"

const struct mock_fault mock_fault = {0};

MOCK_BACKEND("mock_other")
