/* SPDX-License-Identifier: Apache-2.0 */
/* cmocka, with the headers that it wants before its own. */
#ifndef KVL_CUDA_IPC_PEERS_CM_H
#define KVL_CUDA_IPC_PEERS_CM_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#endif /* KVL_CUDA_IPC_PEERS_CM_H */
