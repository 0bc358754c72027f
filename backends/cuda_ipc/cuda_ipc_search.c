/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Chunks that peers have. All of it runs in the net's thread, but for the ends of copies.
 *
 * An op is asked for in rounds: first whom it may be had from, unless that is known; then leases.
 * Each round settles an item or rules a peer out, so there are as many as peers at most. What was
 * leased is mapped and copied, then the leases go back; an item counts only if the connection that
 * its lease came by was there all the time.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cuda_ipc_op.h"

static void search_go_on(struct cuda_ipc_op *op);

/* ---- hints ---- */

static struct cuda_ipc_hint *search_hint(struct cuda_ipc *self, const struct kvl_key *key,
                                         uint64_t *hash_out)
{
    *hash_out = cuda_ipc_pool_hash(key);
    return &self->hints[*hash_out % CUDA_IPC_HINTS];
}

static void search_note(struct cuda_ipc *self, const struct kvl_key *key, uint64_t epoch)
{
    uint64_t hash;
    struct cuda_ipc_hint *hint = search_hint(self, key, &hash);

    *hint = (struct cuda_ipc_hint){.hash = hash, .epoch = epoch};
}

static uint64_t search_bit(const struct cuda_ipc_link *link)
{
    return 1ull << cuda_ipc_link_index(link);
}

/* Whom to ask at once, without looking the chunk up. */
static uint64_t search_guess(struct cuda_ipc *self, const struct kvl_key *key,
                             struct cuda_ipc_link *const *links, uint32_t count)
{
    uint64_t hash;
    const struct cuda_ipc_hint *hint = search_hint(self, key, &hash);

    if (hint->hash != hash || hint->epoch == 0) {
        return 0;
    }
    for (uint32_t i = 0; i < count; i++) {
        if (cuda_ipc_link_epoch(links[i]) == hint->epoch) {
            return search_bit(links[i]);
        }
    }
    return 0;
}

/* ---- requests ---- */

static void search_unlink(struct cuda_ipc_query *query)
{
    struct cuda_ipc_query **at = &query->op->queries;

    while (*at != query) {
        at = &(*at)->next;
    }
    *at = query->next;
}

static void search_on_found(struct cuda_ipc_query *query, struct cuda_ipc_link *link,
                            const struct cuda_ipc_wire_message *answer)
{
    struct cuda_ipc_op *op = query->op;

    for (uint32_t i = 0; i < query->ask.count; i++) {
        struct cuda_ipc_item *item = &op->items[query->items[i]];

        if ((answer->bits[i / 8] >> i % 8 & 1) == 0) {
            continue;
        }
        item->candidates |= search_bit(link);
        search_note(op->self, &item->want.key, cuda_ipc_link_epoch(link));
    }
}

static void search_on_leased(struct cuda_ipc_query *query, struct cuda_ipc_link *link,
                             const struct cuda_ipc_wire_message *answer)
{
    struct cuda_ipc_wire_lease leases[CUDA_IPC_WIRE_KEYS_MAX];
    struct cuda_ipc_op *op = query->op;

    cuda_ipc_wire_get_leases(answer, leases);
    for (uint32_t i = 0; i < query->ask.count; i++) {
        const struct cuda_ipc_wire_lease *lease = &leases[i];
        struct cuda_ipc_item *item = &op->items[query->items[i]];

        item->candidates &= ~search_bit(link);
        if (lease->status != 0) {
            continue;
        }
        item->is_open = false;
        item->link = link;
        item->epoch = cuda_ipc_link_epoch(link);
        item->lease = lease->lease;
        item->segment = lease->segment;
        item->offset = lease->offset;
        op->status[query->items[i]] = cuda_ipc_move_fits(
            op, query->items[i], lease->bytes, &lease->attrs, lease->flags, lease->checksum);
    }
}

static void search_answered(struct cuda_ipc_ask *ask, int status, struct cuda_ipc_link *link,
                            const struct cuda_ipc_wire_message *answer)
{
    struct cuda_ipc_query *query = (struct cuda_ipc_query *)(void *)ask;
    struct cuda_ipc_op *op = query->op;

    search_unlink(query);
    if (status == 0 && ask->type == CUDA_IPC_LOOKUP) {
        search_on_found(query, link, answer);
    } else if (status == 0) {
        search_on_leased(query, link, answer);
    }
    for (uint32_t i = 0; status < 0 && i < ask->count; i++) {
        op->items[query->items[i]].candidates &= ~search_bit(link);
    }
    free(query);
    if (op->queries == NULL && !op->is_asking) {
        search_go_on(op);
    }
}

/* Sends what was gathered. A link that takes no more is ruled out for these items. */
static void search_send(struct cuda_ipc_query *query, struct cuda_ipc_link *link)
{
    struct cuda_ipc_op *op = query->op;
    struct kvl_key keys[CUDA_IPC_WIRE_KEYS_MAX];

    for (uint32_t i = 0; i < query->ask.count; i++) {
        keys[i] = op->items[query->items[i]].want.key;
    }
    query->ask.fn = search_answered;
    query->ask.deadline_ms = op->deadline_ms;
    query->next = op->queries;
    op->queries = query;
    if (cuda_ipc_link_ask(link, &query->ask, keys) == 0) {
        return;
    }
    search_unlink(query);
    for (uint32_t i = 0; i < query->ask.count; i++) {
        op->items[query->items[i]].candidates &= ~search_bit(link);
    }
    free(query);
}

/* Is the item to be asked for at this link in this round? */
static bool search_wants(const struct cuda_ipc_item *item, uint32_t type,
                         const struct cuda_ipc_link *link)
{
    if (!item->is_open) {
        return false;
    }
    if (type == CUDA_IPC_LOOKUP) {
        return item->candidates == 0 && !item->was_looked_up;
    }
    /* the lowest of those that are left */
    return (item->candidates & search_bit(link)) != 0 &&
           (item->candidates & (search_bit(link) - 1)) == 0;
}

static void search_ask(struct cuda_ipc_op *op, uint32_t type, struct cuda_ipc_link *link)
{
    struct cuda_ipc_query *query = NULL;

    for (uint32_t i = 0; i < op->count; i++) {
        if (!search_wants(&op->items[i], type, link)) {
            continue;
        }
        if (query == NULL) {
            query = calloc(1, sizeof(*query));
            if (query == NULL) {
                op->items[i].candidates &= ~search_bit(link);
                continue;
            }
            query->op = op;
            query->ask.type = type;
        }
        query->items[query->ask.count++] = i;
        if (query->ask.count == CUDA_IPC_WIRE_KEYS_MAX) {
            search_send(query, link);
            query = NULL;
        }
    }
    if (query != NULL) {
        search_send(query, link);
    }
}

/* One round. @return whether answers are to come. */
static bool search_round(struct cuda_ipc_op *op, uint32_t type)
{
    struct cuda_ipc_link *links[CUDA_IPC_PEERS_MAX];
    const uint32_t count = cuda_ipc_net_links(op->self->net, links);
    uint64_t reachable = 0;

    op->is_asking = true;
    for (uint32_t i = 0; i < count; i++) {
        reachable |= search_bit(links[i]);
    }
    for (uint32_t i = 0; type == CUDA_IPC_LEASE && i < op->count; i++) {
        op->items[i].candidates &= reachable;
    }
    for (uint32_t i = 0; i < count; i++) {
        search_ask(op, type, links[i]);
    }
    for (uint32_t i = 0; type == CUDA_IPC_LOOKUP && i < op->count; i++) {
        op->items[i].was_looked_up |= op->items[i].is_open && op->items[i].candidates == 0;
    }
    op->is_asking = false;
    return op->queries != NULL;
}

/* ---- copies ---- */

static void search_release(struct cuda_ipc_op *op, uint32_t index)
{
    struct cuda_ipc_item *item = &op->items[index];

    if (item->link != NULL) {
        cuda_ipc_link_release(item->link, item->epoch, item->lease);
        item->link = NULL;
    }
}

/* Back in the net's thread, the copy has ended. */
static void search_copied(struct cuda_ipc_work *work)
{
    struct cuda_ipc_haul *part =
        (struct cuda_ipc_haul *)(void *)((char *)work - offsetof(struct cuda_ipc_haul, work));
    struct cuda_ipc_op *op = part->op;
    uint32_t good = 0;
    uint32_t stale = 0;

    for (uint32_t i = 0; i < part->count; i++) {
        const uint32_t index = part->items[i];
        const struct cuda_ipc_item *item = &op->items[index];

        if (op->status[index] == 0 && cuda_ipc_link_epoch(item->link) != item->epoch) {
            op->status[index] = -ENOTCONN; /* its memory may have been another's meanwhile */
            stale++;
        }
        good += op->status[index] == 0;
        search_release(op, index);
    }
    cuda_ipc_count(op->self, CUDA_IPC_COUNT_READ_PEER, good);
    cuda_ipc_count(op->self, CUDA_IPC_COUNT_STALE, stale);
    cuda_ipc_haul_destroy(part);
    cuda_ipc_op_close(op);
}

static void search_over(struct cuda_ipc_haul *part)
{
    for (uint32_t i = 0; i < part->ref_count; i++) {
        cuda_ipc_map_release(&part->refs[i]);
    }
    part->ref_count = 0;
    part->work.fn = search_copied;
    (void)cuda_ipc_net_post(part->op->self->net, &part->work); /* the net ends after all copies */
}

/** Memory of a peer that one part needs, while it is put together. */
struct search_memory {
    struct cuda_ipc_link *link;
    int device; /* that copies */
    uint32_t numbers[CUDA_IPC_WIRE_KEYS_MAX]; /* of the segments in `refs` */
    struct cuda_ipc_ref refs[CUDA_IPC_WIRE_KEYS_MAX];
    uint32_t count;
};

/* The peer's memory cannot be used at all: said once, loudly. */
static void search_tell_useless(struct cuda_ipc *self, const struct cuda_ipc_link *link,
                                const char *cause)
{
    cuda_ipc_count(self, CUDA_IPC_COUNT_IMPORT_FAILURES, 1);
    atomic_fetch_add(&self->useless, 1);
    pthread_mutex_lock(&self->ops_lock);
    (void)snprintf(self->useless_text, sizeof(self->useless_text), "%.*s",
                   (int)sizeof(self->useless_text) - 1, cause);
    pthread_mutex_unlock(&self->ops_lock);
    kvl_error(self->host->log,
              "cuda_ipc: memory of peer '%s' cannot be used from here, its chunks will come over "
              "host memory: %s",
              cuda_ipc_link_name(link), cause);
}

static int search_give_up(struct cuda_ipc *self, struct cuda_ipc_link *link, const char *cause)
{
    cuda_ipc_link_give_up(link);
    search_tell_useless(self, link, cause);
    return -ENOTCONN;
}

static int search_map(struct cuda_ipc *self, struct search_memory *memory, uint32_t number)
{
    struct kvl_err err = {.size = sizeof(err)};
    const struct cuda_ipc_share *share;
    struct cuda_ipc_place place;
    int fd;
    int r;

    if (cuda_ipc_link_is_useless(memory->link)) {
        return -ENOTCONN;
    }
    share = cuda_ipc_link_segment(memory->link, number, &fd);
    if (share == NULL) {
        return -EPROTO;
    }
    if (memory->device == KVL_DEVICE_HOST) {
        memory->device = cuda_ipc_devices_find(&self->devices, &share->uuid);
        memory->device = memory->device < 0 ? cuda_ipc_gpu_home(self) : memory->device;
    }
    r = cuda_ipc_gpu_ready(self, memory->device, &err);
    if (r == 0) {
        place = cuda_ipc_gpu_place(self, memory->device);
        r = cuda_ipc_map_acquire(self->map, &place, share, fd, &memory->refs[memory->count], &err);
    }
    if (r < 0) {
        /* a full cache, or memory that has just been freed, says nothing about the next time */
        return r == -ENOMEM || r == -ESTALE || r == -ECHILD
                   ? r
                   : search_give_up(self, memory->link, err.text);
    }
    memory->numbers[memory->count++] = number;
    return 0;
}

/* Address of a leased chunk here. */
static int search_address(struct cuda_ipc *self, struct search_memory *memory,
                          const struct cuda_ipc_item *item, cuda_ptr *addr_out)
{
    uint32_t i = 0;
    int r;

    while (i < memory->count && memory->numbers[i] != item->segment) {
        i++;
    }
    if (i == memory->count) {
        r = i < CUDA_IPC_WIRE_KEYS_MAX ? search_map(self, memory, item->segment) : -EMSGSIZE;
        if (r < 0) {
            return r;
        }
    }
    if (item->offset > memory->refs[i].bytes ||
        item->bytes > memory->refs[i].bytes - item->offset) {
        return -EPROTO;
    }
    *addr_out = memory->refs[i].base + item->offset;
    return 0;
}

static int search_submit(struct cuda_ipc_op *op, struct search_memory *memory,
                         const uint32_t *items, const cuda_ptr *addrs, const uint64_t *bytes,
                         uint32_t count)
{
    const struct cuda_ipc_far far = {.device = memory->device, .addrs = addrs};
    struct cuda_ipc_haul *part = cuda_ipc_haul_create(op, items, count);
    int r = -ENOMEM;

    if (part != NULL) {
        part->refs = calloc(memory->count, sizeof(*part->refs));
    }
    if (part != NULL && part->refs != NULL) {
        memcpy(part->refs, memory->refs, memory->count * sizeof(*part->refs));
        part->ref_count = memory->count;
        r = cuda_ipc_haul_submit(part, bytes, &far, 0, search_over);
    }
    if (r < 0 && part != NULL) {
        cuda_ipc_haul_destroy(part);
    }
    return r;
}

/* To host memory each device of the peer copies by itself: segments of one device go together. */
static bool search_is_near(const struct cuda_ipc_op *op, const struct cuda_ipc_link *link,
                           uint32_t first, uint32_t second)
{
    const struct cuda_ipc_share *one;
    const struct cuda_ipc_share *other;
    int fd;

    if (op->engine.device != KVL_DEVICE_HOST || first == second) {
        return true;
    }
    one = cuda_ipc_link_segment(link, first, &fd);
    other = cuda_ipc_link_segment(link, second, &fd);
    return one != NULL && other != NULL && memcmp(&one->uuid, &other->uuid, sizeof(one->uuid)) == 0;
}

/* Copies up to CUDA_IPC_WIRE_KEYS_MAX chunks that one link has leased, from item `from` on, which
 * is one of them. */
static void search_copy_some(struct cuda_ipc_op *op, struct cuda_ipc_link *link, uint32_t from)
{
    uint32_t items[CUDA_IPC_WIRE_KEYS_MAX];
    uint64_t bytes[CUDA_IPC_WIRE_KEYS_MAX];
    cuda_ptr addrs[CUDA_IPC_WIRE_KEYS_MAX];
    struct search_memory memory = {.link = link, .device = op->engine.device};
    uint32_t count = 0;
    int r = 0;

    for (uint32_t i = from; i < op->count && count < CUDA_IPC_WIRE_KEYS_MAX; i++) {
        struct cuda_ipc_item *item = &op->items[i];

        if (item->link != link || op->status[i] != 0 || item->is_copied ||
            !search_is_near(op, link, op->items[from].segment, item->segment)) {
            continue;
        }
        op->status[i] = search_address(op->self, &memory, item, &addrs[count]);
        if (op->status[i] == 0) {
            item->is_copied = true;
            bytes[count] = item->bytes;
            items[count++] = i;
        }
    }
    if (count > 0) {
        r = search_submit(op, &memory, items, addrs, bytes, count);
    }
    if (r < 0 || count == 0) {
        for (uint32_t k = 0; k < memory.count; k++) {
            cuda_ipc_map_release(&memory.refs[k]);
        }
    }
    for (uint32_t k = 0; r < 0 && k < count; k++) {
        op->status[items[k]] = r;
        op->items[items[k]].is_copied = false;
    }
}

static void search_copy(struct cuda_ipc_op *op)
{
    for (uint32_t i = 0; i < op->count; i++) {
        const struct cuda_ipc_item *item = &op->items[i];

        if (item->link != NULL && op->status[i] == 0 && !item->is_copied) {
            search_copy_some(op, item->link, i);
        }
    }
}

/* ---- the whole of it ---- */

/* No more is asked: what is leased is copied, the rest is settled. */
static void search_end(struct cuda_ipc_op *op, int code)
{
    uint32_t found = 0;

    for (uint32_t i = 0; i < op->count; i++) {
        struct cuda_ipc_item *item = &op->items[i];

        if (item->is_open) {
            item->is_open = false;
            op->status[i] = op->kind == CUDA_IPC_OP_LOOKUP && item->candidates != 0 ? 0
                            : code != 0                                             ? code
                                                                                    : -ENOENT;
            found += op->status[i] == 0;
        } else if (item->link != NULL && code != 0) {
            op->status[i] = code;
        }
    }
    cuda_ipc_count(op->self, CUDA_IPC_COUNT_LOOKUP_PEER, found);
    pthread_mutex_lock(&op->self->ops_lock);
    op->is_searching = false;
    pthread_mutex_unlock(&op->self->ops_lock);
    if (op->kind == CUDA_IPC_OP_READ) {
        search_copy(op);
    }
    for (uint32_t i = 0; i < op->count; i++) {
        if (!op->items[i].is_copied) {
            search_release(op, i);
        }
    }
    cuda_ipc_op_spread(op);
    cuda_ipc_op_close(op);
}

static bool search_has(const struct cuda_ipc_op *op, bool with_candidates)
{
    for (uint32_t i = 0; i < op->count; i++) {
        const struct cuda_ipc_item *item = &op->items[i];

        if (item->is_open && (with_candidates ? item->candidates != 0
                                              : item->candidates == 0 && !item->was_looked_up)) {
            return true;
        }
    }
    return false;
}

/* A round that nobody took has ruled something out all the same, so the loop ends. */
static void search_go_on(struct cuda_ipc_op *op)
{
    int code;

    while ((code = cuda_ipc_op_code(op)) == 0) {
        if (search_has(op, false)) {
            if (search_round(op, CUDA_IPC_LOOKUP)) {
                return;
            }
        } else if (op->kind == CUDA_IPC_OP_READ && search_has(op, true)) {
            if (search_round(op, CUDA_IPC_LEASE)) {
                return;
            }
        } else {
            break;
        }
    }
    search_end(op, code);
}

void cuda_ipc_search_begin(struct cuda_ipc_op *op)
{
    struct cuda_ipc *self = op->self;
    struct cuda_ipc_link *links[CUDA_IPC_PEERS_MAX];
    const uint32_t count = cuda_ipc_net_links(self->net, links);

    for (uint32_t i = 0; op->kind == CUDA_IPC_OP_READ && i < op->count; i++) {
        struct cuda_ipc_item *item = &op->items[i];

        if (item->is_open) {
            item->candidates = search_guess(self, &item->want.key, links, count);
        }
        if (item->is_open && count == 1) { /* who else */
            item->candidates = search_bit(links[0]);
            item->was_looked_up = true;
        }
    }
    pthread_mutex_lock(&self->ops_lock);
    op->is_searching = true;
    pthread_mutex_unlock(&self->ops_lock);
    search_go_on(op);
}

void cuda_ipc_search_stop(struct cuda_ipc_op *op)
{
    while (op->queries != NULL) {
        struct cuda_ipc_query *query = op->queries;

        op->queries = query->next;
        cuda_ipc_link_forget(&query->ask);
        free(query);
    }
    search_end(op, -ECANCELED);
}

void cuda_ipc_search_link(void *ctx, struct cuda_ipc_link *link, int is_up)
{
    struct cuda_ipc *self = ctx;

    if (is_up) {
        atomic_fetch_add(&self->links, 1);
        if (cuda_ipc_link_is_useless(link)) {
            search_tell_useless(self, link,
                                "none of its devices is visible here, see "
                                "CUDA_VISIBLE_DEVICES");
        }
        return;
    }
    atomic_fetch_sub(&self->links, 1);
    if (cuda_ipc_link_is_useless(link)) {
        atomic_fetch_sub(&self->useless, 1);
    }
    cuda_ipc_map_drop(&cuda_ipc_link_peer(link)->who);
}
