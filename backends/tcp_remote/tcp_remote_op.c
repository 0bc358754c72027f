/* SPDX-License-Identifier: Apache-2.0 */
#include "tcp_remote_op.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "tcp_remote_wire.h"

static int op_check_key(const struct kvl_key *key)
{
    const char *text = key->text;
    uint32_t length = key->length;

    if (text == NULL || length == 0 || length > KVL_KEY_MAX) {
        return -EINVAL;
    }
    tcp_remote_key_trim(&text, &length);
    /* on the wire the outer blanks would be gone: another key */
    return length == key->length ? 0 : -EINVAL;
}

static int op_check_sg(const struct kvl_batch *batch, uint32_t i, uint64_t *bytes_out)
{
    uint32_t first = batch->sg_first[i];
    uint32_t end = batch->sg_first[i + 1];

    if (end < first || (end > first && batch->sg == NULL)) {
        return -EINVAL;
    }
    *bytes_out = 0;
    return end == first ? 0 : tcp_remote_sg_total(batch->sg + first, end - first, bytes_out);
}

static int op_check_chunk(enum tcp_remote_kind kind, const struct kvl_batch *batch, uint32_t i,
                          uint64_t max_bytes)
{
    const struct kvl_chunk *chunk = &batch->chunks[i];
    uint64_t bytes = 0;
    int r = op_check_key(&chunk->key);

    if (r < 0 || kind == TCP_REMOTE_LOOKUP) {
        return r;
    }
    if (chunk->bytes > max_bytes) {
        return -EMSGSIZE;
    }
    if (batch->sg_first == NULL) {
        return kind == TCP_REMOTE_WRITE && chunk->bytes > 0 ? -EINVAL : 0;
    }
    r = op_check_sg(batch, i, &bytes);
    if (r == 0 && bytes != chunk->bytes && (kind == TCP_REMOTE_WRITE || chunk->bytes != 0)) {
        return -EINVAL;
    }
    return r == 0 && bytes > max_bytes ? -EMSGSIZE : r;
}

static int op_check(enum tcp_remote_kind kind, const struct kvl_batch *batch,
                    const struct tcp_remote_options *options)
{
    uint64_t max = (uint64_t)INT32_MAX - (options->checksum ? TCP_REMOTE_SEAL_BYTES : 0);

    if (batch->count == 0 || batch->count > KVL_BATCH_MAX || batch->chunks == NULL) {
        return -EINVAL;
    }
    for (uint32_t i = 0; i < batch->count; i++) {
        int r = op_check_chunk(kind, batch, i, max);

        if (r < 0) {
            return r;
        }
    }
    return 0;
}

/* One allocation: the record, its requests, runs, status words and key text. */
static struct tcp_remote_op *op_alloc(uint32_t count, size_t sg_count, size_t key_bytes,
                                      char **keys_out)
{
    size_t reqs = sizeof(struct tcp_remote_op);
    size_t sg = reqs + count * sizeof(struct tcp_remote_req);
    size_t status = sg + sg_count * sizeof(struct kvl_sg);
    size_t keys = status + count * sizeof(int32_t);
    uint8_t *memory = calloc(1, keys + key_bytes);
    struct tcp_remote_op *op = (struct tcp_remote_op *)(void *)memory;

    if (op == NULL) {
        return NULL;
    }
    op->memory = keys + key_bytes;
    op->count = count;
    op->open = count;
    op->reqs = (struct tcp_remote_req *)(void *)(memory + reqs);
    op->sg = (struct kvl_sg *)(void *)(memory + sg);
    op->status = (int32_t *)(void *)(memory + status);
    *keys_out = (char *)memory + keys;
    for (uint32_t i = 0; i < count; i++) {
        op->reqs[i].op = op;
        op->reqs[i].index = i;
    }
    return op;
}

static void op_end_early(struct tcp_remote_req *req, int32_t status)
{
    req->ended = true;
    req->op->status[req->index] = status;
    req->op->open--;
}

static char *op_take_key(struct tcp_remote_req *req, const struct kvl_key *key, bool sealed,
                         char *at)
{
    const struct kvl_key tag = kvl_key_from_text(TCP_REMOTE_SEAL_TAG);

    memcpy(at, key->text, key->length);
    req->key = at;
    req->key_length = key->length;
    at += key->length;
    if (sealed) {
        if (key->length > KVL_KEY_MAX - TCP_REMOTE_SEAL_TAG_BYTES) {
            op_end_early(req, -EMSGSIZE);
        }
        memcpy(at, tag.text, tag.length);
        req->key_length += tag.length;
        at += tag.length;
    }
    return at;
}

static void op_take_chunks(struct tcp_remote_op *op, const struct kvl_batch *batch, bool sealed,
                           char *keys)
{
    for (uint32_t i = 0; i < op->count; i++) {
        const struct kvl_chunk *chunk = &batch->chunks[i];
        struct tcp_remote_req *req = &op->reqs[i];

        keys = op_take_key(req, &chunk->key, sealed, keys);
        req->flags = chunk->flags;
        req->attrs = chunk->attrs;
        req->bytes = chunk->bytes;
        req->checksum = chunk->checksum;
        if (op->has_sg) {
            req->sg_first = batch->sg_first[i];
            req->sg_end = batch->sg_first[i + 1];
            /* checked before; with runs their sum is what a read expects */
            (void)op_check_sg(batch, i, &req->bytes);
        }
    }
}

int tcp_remote_op_create(enum tcp_remote_kind kind, const struct kvl_batch *batch,
                         const struct tcp_remote_options *options, uint64_t now_ms,
                         struct tcp_remote_op **op_out)
{
    struct tcp_remote_op *op;
    size_t key_bytes = 0;
    size_t sg_count = 0;
    char *keys;
    int r = op_check(kind, batch, options);

    if (r < 0) {
        return r;
    }
    for (uint32_t i = 0; i < batch->count; i++) {
        key_bytes += batch->chunks[i].key.length;
        key_bytes += options->checksum ? TCP_REMOTE_SEAL_TAG_BYTES : 0;
    }
    if (kind != TCP_REMOTE_LOOKUP && batch->sg_first != NULL) {
        sg_count = batch->sg_first[batch->count];
    }
    op = op_alloc(batch->count, sg_count, key_bytes, &keys);
    if (op == NULL) {
        return -ENOMEM;
    }
    op->kind = kind;
    op->cookie = batch->cookie;
    op->deadline_ms =
        batch->deadline_ms == 0 ? now_ms + options->request_timeout_ms : batch->deadline_ms;
    op->has_sg = kind != TCP_REMOTE_LOOKUP && batch->sg_first != NULL;
    if (sg_count > 0) {
        memcpy(op->sg, batch->sg, sg_count * sizeof(*op->sg));
    }
    op_take_chunks(op, batch, options->checksum, keys);
    for (size_t i = 0; i < sg_count; i++) {
        tcp_remote_sg_merge(&op->sg[i]);
    }
    *op_out = op;
    return 0;
}

int tcp_remote_op_create_single(enum tcp_remote_kind kind, uint64_t cookie, uint64_t deadline_ms,
                                const char *key, struct tcp_remote_op **op_out)
{
    const struct kvl_key text = kvl_key_from_text(key);
    char *keys;
    struct tcp_remote_op *op = op_alloc(1, 0, text.length, &keys);

    if (op == NULL) {
        return -ENOMEM;
    }
    memcpy(keys, text.text, text.length);
    op->kind = kind;
    op->cookie = cookie;
    op->deadline_ms = deadline_ms;
    op->reqs[0].key = keys;
    op->reqs[0].key_length = text.length;
    *op_out = op;
    return 0;
}

void tcp_remote_op_destroy(struct tcp_remote_op *op)
{
    free(op);
}

void tcp_remote_queue_push(struct tcp_remote_queue *queue, struct tcp_remote_req *req)
{
    req->next = NULL;
    req->prev = queue->tail;
    if (queue->tail != NULL) {
        queue->tail->next = req;
    } else {
        queue->head = req;
    }
    queue->tail = req;
    queue->count++;
    req->op->linked++;
}

void tcp_remote_queue_push_front(struct tcp_remote_queue *queue, struct tcp_remote_req *req)
{
    req->prev = NULL;
    req->next = queue->head;
    if (queue->head != NULL) {
        queue->head->prev = req;
    } else {
        queue->tail = req;
    }
    queue->head = req;
    queue->count++;
    req->op->linked++;
}

void tcp_remote_queue_remove(struct tcp_remote_queue *queue, struct tcp_remote_req *req)
{
    if (req->prev != NULL) {
        req->prev->next = req->next;
    } else {
        queue->head = req->next;
    }
    if (req->next != NULL) {
        req->next->prev = req->prev;
    } else {
        queue->tail = req->prev;
    }
    req->next = NULL;
    req->prev = NULL;
    queue->count--;
    req->op->linked--;
}
