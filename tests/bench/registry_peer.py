#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""usage: registry_peer.py HOLDERS KEYS

Fills LMCache's RegistryTree with HOLDERS workers of KEYS keys each and prints what its calls cost,
as lines `name value`. Without LMCache a stand-in of the same shape is measured: dictionaries of
dictionaries of sets, looked up by asking one worker after the other; it takes no locks and logs
nothing, so it is rather faster. The line `peer` says which of the two it was.
"""

import random
import sys
import threading
import time

EVENTS = 100  # per message, and ids per prompt


class StandInWorker:
    def __init__(self):
        self.lock = threading.Lock()
        self.stores = {}
        self.last = {}

    def apply(self, location, operations):
        with self.lock:
            store = self.stores.setdefault(location, set())
            for is_admit, key, seq in operations:
                if is_admit:
                    store.add(key)
                else:
                    store.discard(key)
                self.last[location] = seq

    def find(self, key):
        with self.lock:
            for location, keys in self.stores.items():
                if key in keys:
                    return location, keys
        return None


class StandIn:
    name = "stand-in"

    def __init__(self, holders):
        self.workers = {f"engine-{i}": StandInWorker() for i in range(holders)}

    def message(self, holder, keys, seq):
        return holder, [(True, key, seq + i) for i, key in enumerate(keys)]

    def apply(self, message):
        self.workers[f"engine-{message[0]}"].apply("LocalCPUBackend", message[1])

    def find(self, key):
        for instance, worker in list(self.workers.items()):
            found = worker.find(key)
            if found is not None:
                return instance, "", found[1]
        return None

    def remove(self, holder):
        self.workers.pop(f"engine-{holder}")


class Tree:
    name = "RegistryTree"

    def __init__(self, holders):
        from lmcache.v1.cache_controller.message import BatchedKVOperationMsg, KVOpEvent, OpType
        from lmcache.v1.cache_controller.utils import RegistryTree

        self.message_type, self.event_type, self.admit = BatchedKVOperationMsg, KVOpEvent, OpType.ADMIT
        self.tree = RegistryTree()
        for i in range(holders):
            self.tree.register_worker(f"engine-{i}", 0, "127.0.0.1", 9000, "127.0.0.1:9001", None, 0.0)

    def message(self, holder, keys, seq):
        return self.message_type(
            instance_id=f"engine-{holder}",
            worker_id=0,
            location="LocalCPUBackend",
            operations=[
                self.event_type(op_type=self.admit, key=key, seq_num=seq + i)
                for i, key in enumerate(keys)
            ],
        )

    def apply(self, message):
        self.tree.handle_batched_kv_operations(message)

    def find(self, key):
        return self.tree.find_kv_with_worker_info(key)

    def remove(self, holder):
        self.tree.deregister_worker(f"engine-{holder}", 0)


def make(holders):
    try:
        return Tree(holders)
    except ImportError:
        return StandIn(holders)


def key_of(number):
    """The same for the same number, anywhere in 64 bits."""
    x = (number + 1) * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
    return x ^ x >> 27


def fill(peer, holders, keys):
    spent = 0.0
    for start in range(0, keys, EVENTS):
        for holder in range(holders):
            numbers = range(holder * keys + start, holder * keys + min(start + EVENTS, keys))
            message = peer.message(holder, [key_of(n) for n in numbers], start)
            before = time.perf_counter()
            peer.apply(message)
            spent += time.perf_counter() - before
    return holders * keys / spent


def hits(peer, prompt):
    """What LMCache's batched_p2p_lookup does with the registry."""
    found = peer.find(prompt[0])
    if found is None or found[1] is None:
        return 0
    count = 0
    for key in prompt:
        if key not in found[2]:
            break
        count += 1
    return count


def timed(fn, arguments):
    before = time.perf_counter()
    for argument in arguments:
        fn(argument)
    return (time.perf_counter() - before) / len(arguments) * 1e9


def prompts(holders, keys, count):
    for _ in range(count):
        first = random.randrange(holders) * keys + random.randrange(keys - EVENTS + 1)
        yield [key_of(n) for n in range(first, first + EVENTS)]


def main():
    holders, keys = int(sys.argv[1]), int(sys.argv[2])
    peer = make(holders)
    print("peer", peer.name)
    print("admit_ops_s", fill(peer, holders, keys))
    some = [key_of(random.randrange(holders * keys)) for _ in range(2000)]
    none = [key_of(holders * keys + i) for i in range(2000)]
    many = list(prompts(holders, keys, 2000))
    assert hits(peer, many[0]) == EVENTS and hits(peer, none) == 0
    print("find_1_ns", timed(peer.find, some))
    print("miss_1_ns", timed(peer.find, none))
    print("find_100_ns", timed(lambda prompt: hits(peer, prompt), many))
    print("remove_ns", timed(peer.remove, range(1)))


if __name__ == "__main__":
    main()
