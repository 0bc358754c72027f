# SPDX-License-Identifier: Apache-2.0
"""kvlane's worker against LMCache's own cache controller: it registers, the keys the controller
knows are those of the store, whatever happens to the controller, and control calls work."""
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time

import msgspec
import zmq
from lmcache.v1.cache_controller import message

import interop
from interop import check

HEADER, REPLY = struct.Struct("<9i"), struct.Struct("<9i")
PUT, GET, EXIST, LIST = 1, 2, 3, 4
CHUNK = 64 << 10
NAME = ("engine", 1)
LOCATION = "LocalCPUBackend"
# hash chain of the tokens 0 .. 521, NONE_HASH 0
CHAIN = [3131758554629441992, 8783757053568497755, -2187750341664164242]


def free_ports(count):
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def eventually(what, fn, seconds=40):
    until = time.monotonic() + seconds
    while True:
        last = fn()
        if last is True:
            return
        check(time.monotonic() < until, f"{what}; the last look gave {last}")
        time.sleep(0.02)


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

    def keys(self):
        return self.ask("keys", *NAME, LOCATION)


class Store:
    """`kvlane serve` with a worker, and a connection to put chunks through."""

    def __init__(self, controller, extra="", store="256MiB"):
        pull, reply = controller.ports[:2]
        ini = (f"[kvlane]\nlog_level = warn\n[store]\nmax_bytes = {store}\n"
               "[tcp_remote]\nrole = server\nlisten = 127.0.0.1:0\n"
               f"[controller]\nrole = worker\ninstance_id = {NAME[0]}\nworker_id = {NAME[1]}\n"
               f"controller_pull_url = 127.0.0.1:{pull}\n"
               f"controller_reply_url = 127.0.0.1:{reply}\npeer_init_url = 127.0.0.1:7777\n"
               "heartbeat_delay = 100ms\nheartbeat_time = 200ms\nrecv_timeout = 2s\n"
               f"sync_startup_delay = 0\n{extra}\n")
        self.child = subprocess.Popen([interop.KVLANE, "serve", "--parent-death", "--ini", ini],
                                      stdout=subprocess.PIPE, text=True)
        line = self.child.stdout.readline()
        while not line.startswith("ready: tcp_remote"):
            check(line != "", "kvlane serve starts")
            line = self.child.stdout.readline()
        self.sock = socket.create_connection(("127.0.0.1", int(line.rsplit(":", 1)[1])))

    def key(self, number):
        return f"model@1@{NAME[1]}@{number:x}@half"

    def receive(self, size):
        data = bytearray()
        while len(data) < size:
            part = self.sock.recv(size - len(data))
            check(part, "kvlane's server keeps the connection")
            data += part
        return bytes(data)

    def put(self, number):
        # [2, layers, tokens, hidden] of 16 tokens
        head = HEADER.pack(PUT, CHUNK, 1, 2, 0, 2, 1, 16, CHUNK // 64)
        self.sock.sendall(head + self.key(number).encode().ljust(150) + bytes(CHUNK))

    def exists(self, number):
        self.sock.sendall(HEADER.pack(EXIST, 0, 1, 2, 0, 2, 1, 1, 1) +
                          self.key(number).encode().ljust(150))
        return REPLY.unpack(self.receive(36))[0] == 200

    def keys(self, numbers):
        return sorted(n for n in numbers if self.exists(n))

    def stop(self):
        self.sock.close()
        return interop.stop(self.child)


def same(controller, store, numbers):
    def look():
        there = store.keys(numbers)
        known = controller.keys()
        return True if known == there else f"{len(known)} known, {len(there)} there"
    return look


def ask_reply_port(context, controller, msg):
    dealer = context.socket(zmq.DEALER)
    dealer.setsockopt(zmq.LINGER, 0)
    dealer.setsockopt(zmq.RCVTIMEO, 20000)
    dealer.connect(f"tcp://127.0.0.1:{controller.ports[1]}")
    dealer.send_multipart([b"", msgspec.msgpack.encode(msg)])
    answer = msgspec.msgpack.decode(dealer.recv_multipart()[-1], type=message.Msg)
    dealer.close()
    return answer


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


def main():
    signal.alarm(280)
    context = zmq.Context()
    first_life(context, True)
    first_life(context, False)  # heartbeats through the reply port
    evictions(context)
    kills_in_a_sync(context)
    a_dead_predecessor(context)
    context.term()
    interop.done("LMCache's controller")


main()
