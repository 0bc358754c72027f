/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file tcp_remote_list.h
 * The payload of a LIST reply: keys with newlines between them.
 */
#ifndef KVL_TCP_REMOTE_LIST_H
#define KVL_TCP_REMOTE_LIST_H

#include "tcp_remote_server.h"

/**
 * Lists the store. Keys with a newline are left out; the text ends at a key below 2^31 bytes.
 * @param text_out      to free(), NULL when empty
 * @param reserved_out  to tcp_remote_server_give_list() after freeing the text
 * @return 0; -ENOMEM, also when all such replies together hold too much.
 */
int tcp_remote_list_make(struct tcp_remote_server *server, char **text_out, size_t *bytes_out,
                         size_t *reserved_out);

#endif /* KVL_TCP_REMOTE_LIST_H */
