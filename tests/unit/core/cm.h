/* SPDX-License-Identifier: Apache-2.0 */
/* cmocka.h wants these before itself. */
#ifndef KVL_TEST_CM_H
#define KVL_TEST_CM_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#endif /* KVL_TEST_CM_H */
