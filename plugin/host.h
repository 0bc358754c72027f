/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KVL_PLUGIN_HOST_H
#define KVL_PLUGIN_HOST_H

struct kvl_backend;

/** Fills backend->host with thin entries to store, flights and settings of that backend. */
void kvl_host_init(struct kvl_backend *backend);

#endif /* KVL_PLUGIN_HOST_H */
