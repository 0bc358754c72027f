/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file scatter.h
 * Copies between the runs of a chunk in an engine's memory and its contiguous form, and the checks
 * that every run must pass before anything is done.
 */
#ifndef KVL_PLUGIN_SCATTER_H
#define KVL_PLUGIN_SCATTER_H

#include <kvlane/io.h>

/**
 * @return 0 and the sum of all runs; -EINVAL empty, overflowing, or not all of one kind and device;
 *         -ENOTSUP host memory of a device.
 */
int kvl_sg_check(const struct kvl_sg *sg, uint32_t count, uint64_t *bytes_out);

/** Runs in host memory -> contiguous bytes. */
void kvl_sg_gather(const struct kvl_sg *sg, uint32_t count, void *to);

/** Contiguous bytes -> runs in host memory. */
void kvl_sg_scatter(const struct kvl_sg *sg, uint32_t count, const void *from);

#endif /* KVL_PLUGIN_SCATTER_H */
