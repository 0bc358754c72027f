/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file layers.h
 * How far a load has come, layer by layer.
 */
#ifndef KVL_PLUGIN_LAYERS_H
#define KVL_PLUGIN_LAYERS_H

#include "core.h"

/** As kvl_plugin.wait_layers. While nobody waits for the op, it is moved on from here. */
int kvl_layers_wait(struct kvl_instance *instance, uint64_t handle, uint32_t layers,
                    uint64_t deadline_ms);

#endif /* KVL_PLUGIN_LAYERS_H */
