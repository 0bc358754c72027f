/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file cuda_ipc_report.h
 * How people and machines look at an instance.
 */
#ifndef KVL_CUDA_IPC_REPORT_H
#define KVL_CUDA_IPC_REPORT_H

#include "cuda_ipc_core.h"

/** As get_health and get_stats of the backend. */
void cuda_ipc_report_health(struct cuda_ipc *self, struct kvl_health *health_out);
void cuda_ipc_report_stats(struct cuda_ipc *self, kvl_stat_fn fn, void *ctx);

#endif /* KVL_CUDA_IPC_REPORT_H */
