# SPDX-License-Identifier: Apache-2.0
"""kvlane's worker against kvlane's controller, with LMCache's words in between: what the controller
knows is what the store holds, whatever happens to the controller."""
import signal
import subprocess

import msgspec
import zmq
from lmcache.v1.cache_controller import message

import interop
from interop import check
from worker_rig import NAME, Store, eventually, free_ports, same


class Controller:
    """`kvlane controller`, on the same ports through all its lives."""

    def __init__(self, context, heartbeat):
        self.context = context
        self.ports = free_ports(3 if heartbeat else 2)
        self.child = None
        self.dealer = None

    def start(self):
        pull, reply, *heartbeat = self.ports
        self.child = subprocess.Popen(
            [interop.KVLANE, "controller", "--parent-death", "--log", "warn", "--set",
             f"controller.pull_port={pull}", "--set", f"controller.reply_port={reply}", "--set",
             f"controller.heartbeat_port={heartbeat[0] if heartbeat else 0}", "--set",
             "controller.http=no"], stdout=subprocess.PIPE, text=True)
        line = self.child.stdout.readline()
        check(line.startswith("ready: controller"), f"kvlane controller starts, not '{line}'")
        self.dealer = self.context.socket(zmq.DEALER)
        self.dealer.setsockopt(zmq.LINGER, 0)
        self.dealer.setsockopt(zmq.RCVTIMEO, 20000)
        self.dealer.connect(f"tcp://127.0.0.1:{reply}")

    def kill(self):
        self.child.kill()
        self.child.wait()
        self.dealer.close()

    def ask(self, msg):
        self.dealer.send_multipart([b"", msgspec.msgpack.encode(msg)])
        return msgspec.msgpack.decode(self.dealer.recv_multipart()[-1], type=message.Msg)

    def holder(self, hashes):
        answer = self.ask(message.BatchedP2PLookupMsg(
            hashes=hashes, instance_id="somebody else", worker_id=NAME[1]))
        return tuple(answer.layout_info[0])

    def keys(self, numbers):
        return [n for n in numbers if self.holder([n])[2] == 1]


def knows(controller, store, numbers):
    return same(type("View", (), {"keys": lambda self: controller.keys(numbers)})(), store, numbers)


def lives(context, heartbeat):
    controller = Controller(context, heartbeat)
    store = Store(controller)
    for number in range(40):  # before there is a controller
        store.put(number)
    check(store.exists(39), "the last chunk is there")
    controller.start()
    eventually("what was there before is announced", knows(controller, store, range(40)))
    for number in range(40, 200):
        store.put(number)
    eventually("what comes is announced", knows(controller, store, range(200)))
    check(controller.holder([5, 6, 7, 9999])[2:] == (3, "127.0.0.1:7777"), "a run of three")
    controller.kill()
    for number in range(200, 250):
        store.put(number)
    controller.start()
    eventually("a new controller is told everything", knows(controller, store, range(250)))
    store.put(250)
    eventually("and what comes then", knows(controller, store, range(251)))
    check(store.stop() == 0, "SIGTERM ends with 0")
    eventually("it says farewell", lambda: controller.keys(range(251)) == [])
    controller.kill()


def kills_in_a_sync(context):
    controller = Controller(context, True)
    store = Store(controller, extra="sync_batch_size = 5", store="32MiB")
    for number in range(300):
        store.put(number)
    check(store.exists(299), "the last chunk is there")
    for number in range(300, 306):
        controller.start()
        eventually("a sync begins", lambda: len(controller.keys(range(300))) > 5)
        controller.kill()
        store.put(number)
    controller.start()
    eventually("all is announced in the end", knows(controller, store, range(306)))
    for number in range(306, 900):
        store.put(number)
    eventually("evictions are announced", knows(controller, store, range(900)))
    check(0 < len(controller.keys(range(900))) < 600, "not all fit")
    store.stop()
    controller.kill()


def main():
    signal.alarm(170)
    context = zmq.Context()
    lives(context, True)
    lives(context, False)  # heartbeats through the reply port
    kills_in_a_sync(context)
    context.term()
    interop.done("kvlane's controller with kvlane's worker")


main()
