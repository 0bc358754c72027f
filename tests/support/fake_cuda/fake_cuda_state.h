/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file fake_cuda_state.h
 * The state file that the processes of one fake machine share: who there is, what memory and which
 * interprocess events they have. Every change is made under a lock on the file, which the system
 * takes from a process that is killed.
 *
 * All functions are called with fake.lock held, but for fake_state_event_wait().
 */
#ifndef KVL_FAKE_CUDA_STATE_H
#define KVL_FAKE_CUDA_STATE_H

#include "fake_cuda_core.h"

/** Memory that this process owns and others may open. */
struct fake_state_memory {
    struct fake_who owner;
    int32_t fd; /* a memfd of the owner */
    int32_t physical;
    uint64_t bytes;
    uint64_t base; /* address in the owner */
};

/** Opens the file and enters this process. @return 0 or a negative errno. */
int fake_state_open(void);
/** Takes everything of this process out; removes the file when it is nobody's any more. */
void fake_state_close(void);

/**
 * Enters memory of a device, unless `limit` would be passed.
 * @return 0, and the slot and its never reused id; -ENOMEM; -ENFILE no slot.
 */
int fake_state_memory_add(const struct fake_state_memory *memory, uint64_t limit,
                          uint32_t *slot_out, uint64_t *id_out);
void fake_state_memory_remove(uint32_t slot, uint64_t id);
/** @return 0; -ENOENT when the slot has other memory by now. */
int fake_state_memory_get(uint32_t slot, uint64_t id, struct fake_state_memory *memory_out);
/** 1 when the slot still has that memory. */
int fake_state_memory_is(uint32_t slot, uint64_t id);
/** A descriptor of another process's memory. @return it, or -ENOENT. */
int fake_state_memory_open(uint32_t slot, uint64_t id);
/** Bytes in use on a device by living processes. */
uint64_t fake_state_memory_used(int physical);

/** Makes an interprocess event. @return 0; -ENFILE. */
int fake_state_event_add(uint32_t *slot_out, uint64_t *id_out);
void fake_state_event_remove(uint32_t slot, uint64_t id);
/** Who made it. @return 0; -ENOENT when it is gone. */
int fake_state_event_owner(uint32_t slot, uint64_t id, struct fake_who *owner_out);
/** Notes a record submitted; returns its number, 0 when the event is gone. */
uint64_t fake_state_event_record(uint32_t slot, uint64_t id);
/** Notes that record `number` was reached, and wakes all processes. */
void fake_state_event_reach(uint32_t slot, uint64_t id, uint64_t number);
/** Number of the last record submitted. */
uint64_t fake_state_event_recorded(uint32_t slot, uint64_t id);
/** 1 when record `number` was reached, or will never be: the event or its recorder is gone. */
int fake_state_event_done(uint32_t slot, uint64_t id, uint64_t number);
/** Waits a moment for a change of any interprocess event. Without fake.lock. */
void fake_state_event_wait(uint32_t tick);
/** Counts changes; read it before asking fake_state_event_done(). */
uint32_t fake_state_tick(void);

#endif /* KVL_FAKE_CUDA_STATE_H */
