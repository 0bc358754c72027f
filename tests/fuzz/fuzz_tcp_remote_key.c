/* SPDX-License-Identifier: Apache-2.0 */
/* The key parser; what it prints again must parse to the same and print to the same. */
#include <stdlib.h>
#include <string.h>

#include "tcp_remote_key.h"
#include "tcp_remote_wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(int ok)
{
    if (!ok) {
        abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct tcp_remote_key key;
    struct tcp_remote_key again;
    char text[TCP_REMOTE_KEY_BYTES];
    char twice[TCP_REMOTE_KEY_BYTES];
    uint64_t hash = 0;
    int n;

    if (tcp_remote_key_parse((const char *)data, size, &key) < 0) {
        return 0;
    }
    (void)tcp_remote_key_hash(&key, 16, &hash);
    (void)tcp_remote_key_hash(&key, 10, &hash);
    n = tcp_remote_key_print(&key, text, sizeof(text));
    check(n > 0 && (size_t)n <= size);
    check(tcp_remote_key_parse(text, (size_t)n, &again) == 0);
    check(again.form == key.form && again.tag_count == key.tag_count);
    check(again.layer == key.layer && again.worker_id == key.worker_id);
    check(tcp_remote_key_print(&again, twice, sizeof(twice)) == n);
    check(memcmp(text, twice, (size_t)n) == 0);
    return 0;
}
