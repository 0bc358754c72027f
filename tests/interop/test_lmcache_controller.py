# SPDX-License-Identifier: Apache-2.0
"""kvlane's worker against LMCache's own cache controller: it registers, the keys the controller
knows are those of the store, whatever happens to the controller, and control calls work."""
import json
import os
import signal
import subprocess
import sys

import zmq
from lmcache.v1.cache_controller import message

import interop
from interop import check
from worker_rig import (GPU_LOCATION, LOCATION, NAME, Store, ask_reply_port, eventually, free_ports,
                        gather, same)

# hash chain of the tokens 0 .. 521, NONE_HASH 0
CHAIN = [3131758554629441992, 8783757053568497755, -2187750341664164242]


class Controller:
    """LMCache's controller, on the same ports through all its lives."""

    def __init__(self, heartbeat):
        self.ports = free_ports(3 if heartbeat else 2)
        self.child = None

    def start(self):
        script = os.path.join(interop.HERE, "lmcache_controller.py")
        self.child = subprocess.Popen([sys.executable, script, *map(str, self.ports)], text=True,
                                      stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                      stderr=subprocess.DEVNULL)
        while (line := self.child.stdout.readline()) != '"ready"\n':
            check(line != "", "LMCache's controller starts")

    def kill(self):
        self.child.kill()
        self.child.wait()

    def ask(self, *what):
        self.child.stdin.write(json.dumps(what) + "\n")
        self.child.stdin.flush()
        while (line := self.child.stdout.readline()) != "":
            if line[0] in "{[\"0123456789n":  # its log lines begin otherwise
                return json.loads(line)
        raise SystemExit("FAILED: LMCache's controller has died")

    def keys(self, location=LOCATION):
        return self.ask("keys", *NAME, location)


def lookups(context, controller):
    hashes = [1, 2, 3, 424242, 4]
    answer = ask_reply_port(context, controller, message.BatchedP2PLookupMsg(
        hashes=hashes, instance_id="somebody else", worker_id=1))
    check(tuple(answer.layout_info[0]) == (NAME[0], LOCATION, 3, "127.0.0.1:7777"),
          f"a peer finds our chunks, not {answer.layout_info}")


def control(controller, store):
    for number in CHAIN:
        store.put(number)
    eventually("the chain is announced", lambda: set(CHAIN) <= set(controller.keys()))
    place = {"instance_id": NAME[0], "location": LOCATION}
    check(controller.ask("health", {"instance_id": NAME[0]})["error_codes"] == {str(NAME[1]): 0},
          "health")
    pinned = controller.ask("pin", {**place, "tokens": list(range(522))})
    check(pinned.get("num_tokens") == 522, f"pin: {pinned}")
    before = len(controller.keys())
    cleared = controller.ask("clear", place)
    check(cleared.get("num_tokens") == 16 * (before - 3), f"clear: {cleared} of {before}")
    eventually("what was cleared is no longer announced, what is pinned is",
               lambda: controller.keys() == sorted(CHAIN))
    refused = controller.ask("compress", {**place, "method": "cachegen", "tokens": [1]})
    check("error" in refused, f"compress is refused: {refused}")


def first_life(context, heartbeat):
    controller = Controller(heartbeat)
    store = Store(controller)
    for number in range(50):  # before there is a controller
        store.put(number)
    check(store.exists(49), "the last chunk is there")
    controller.start()
    eventually("it registers when the controller comes",
               lambda: [w[:2] for w in controller.ask("workers")] == [list(NAME)])
    eventually("what was there before is announced", same(controller, store, range(50)))
    for number in range(50, 300):
        store.put(number)
    eventually("what comes is announced", same(controller, store, range(300)))
    lookups(context, controller)

    controller.kill()
    for number in range(300, 350):
        store.put(number)
    controller.start()
    eventually("a new controller is told everything", same(controller, store, range(350)))
    store.put(350)
    eventually("and what comes then", same(controller, store, range(351)))
    check(controller.ask("gaps") == 0, "no gap in the sequence")
    control(controller, store)
    check(store.stop() == 0, "SIGTERM ends with 0")
    eventually("it says farewell", lambda: controller.ask("workers") == [])
    controller.kill()


def evictions(context):
    controller = Controller(True)
    controller.start()
    store = Store(controller, store="8MiB")
    for number in range(1000):
        store.put(number)
    eventually("evictions are announced", same(controller, store, range(1000)))
    check(0 < len(controller.keys()) < 500, "not all fit")
    store.stop()
    controller.kill()


def kills_in_a_sync(context):
    controller = Controller(True)
    store = Store(controller, extra="sync_batch_size = 5")  # 60 batches, 5 ms apart
    for number in range(300):
        store.put(number)
    check(store.exists(299), "the last chunk is there")
    for number in range(300, 305):
        controller.start()
        eventually("a sync begins", lambda: controller.ask("sync", *NAME) == "SYNCING" or None)
        controller.kill()
        store.put(number)
    controller.start()
    eventually("all is announced in the end", same(controller, store, range(305)))
    store.put(305)
    eventually("and what comes then", same(controller, store, range(306)))
    store.stop()
    controller.kill()


def a_dead_predecessor(context):
    """It died in a sync, which LMCache's controller keeps and refuses every other one for."""
    controller = Controller(True)
    controller.start()
    names = {"instance_id": NAME[0], "worker_id": NAME[1]}
    ask_reply_port(context, controller, message.RegisterMsg(
        **names, ip="127.0.0.1", port=1, peer_init_url=None))
    started = ask_reply_port(context, controller, message.FullSyncStartMsg(
        **names, location=LOCATION, sync_id="ghost", total_keys=1, batch_count=1))
    check(started.accepted, "the predecessor's sync")
    store = Store(controller)
    for number in range(20):
        store.put(number)
    eventually("its successor is heard", same(controller, store, range(20)))
    store.stop()
    controller.kill()


def gpu_memory():
    """A backend that keeps chunks itself, in what stands for the memory of a GPU: what is evicted goes
    there, and two were there before."""
    controller = Controller(True)
    controller.start()
    before = [0x7d01, 0x7d02]
    with gather(["tcp_remote", "controller", "mock_kept"]) as modules:
        store = Store(controller, store="8MiB", modules=modules, extra=(
            "[mock_kept]\nput_to = evicted\npreload = " +
            " ".join(f"model@1@{NAME[1]}@{n:x}@half" for n in before)))
        eventually("both locations are synced",
                   lambda: controller.keys(GPU_LOCATION) == before and controller.keys() == [])
        for number in range(300):
            store.put(number)

        def announced():
            host, gpu = set(controller.keys()), set(controller.keys(GPU_LOCATION))
            there = set(store.keys(range(300)))  # the server looks beside the store too
            if host | gpu == there | set(before) and len(host) < 200 and len(gpu) > 50:
                return True
            return f"{len(there)} there, {len(host)} in the store, {len(gpu)} beside it"

        eventually("what leaves the store is announced beside it", announced)
        check(controller.ask("gaps") == 0, "no gap in either sequence")
        controller.kill()
        controller.start()
        eventually("a new controller is told of both", announced)
        check(store.stop() == 0, "SIGTERM ends with 0")
    eventually("nothing is left of it", lambda: controller.ask("workers") == [])
    controller.kill()


def main():
    signal.alarm(280)
    context = zmq.Context()
    first_life(context, True)
    first_life(context, False)  # heartbeats through the reply port
    evictions(context)
    kills_in_a_sync(context)
    a_dead_predecessor(context)
    gpu_memory()
    context.term()
    interop.done("LMCache's controller")


main()
