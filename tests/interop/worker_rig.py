# SPDX-License-Identifier: Apache-2.0
"""`kvlane serve` as a worker of a cache controller, and ways to look at both sides."""
import os
import shutil
import socket
import struct
import subprocess
import tempfile
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
GPU_LOCATION = "LocalGPUBackend"


def gather(words):
    """A folder with the modules of these backends and mocks, which lie in two."""
    folder = tempfile.TemporaryDirectory(prefix="kvl-modules-")
    for word in words:
        for place in ("KVL_BACKENDS", "KVL_MOCKS"):
            path = os.path.join(os.environ[place], f"kvl-{word}.so")
            if os.path.exists(path):
                shutil.copy(path, folder.name)
    return folder


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


class Store:
    """`kvlane serve` with a worker, and a connection to put chunks through."""

    def __init__(self, controller, extra="", store="256MiB", modules=""):
        pull, reply = controller.ports[:2]
        modules = f"module_path = {modules}\n" if modules else ""
        ini = (f"[kvlane]\nlog_level = warn\n{modules}[store]\nmax_bytes = {store}\n"
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
