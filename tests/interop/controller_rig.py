# SPDX-License-Identifier: Apache-2.0
"""A kvlane controller as a child, and raw sockets to it, for the controller tests."""
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time

import msgspec
import zmq

from interop import KVLANE, check

PATIENCE_MS = 20000
CONTEXT = zmq.Context.instance()
CLASS = "<class 'lmcache.v1.cache_controller.message.%s'>"


def until(condition, what, seconds=20):
    """Waits for a condition; the result that made it true."""
    end = time.monotonic() + seconds
    while True:
        result = condition()
        if result:
            return result
        check(time.monotonic() < end, what)
        time.sleep(0.005)


def pack(message):
    return msgspec.msgpack.encode(message)


class Controller:
    """`kvlane controller` on ports of the kernel's choice."""

    def __init__(self, extra="", registry="", folder=None, ports=(0, 0, -1)):
        self.owns = folder is None
        self.folder = folder or tempfile.mkdtemp(prefix="kvl-ctl-")
        self.stats_path = os.path.join(self.folder, "stats.sock")
        self.ini = os.path.join(self.folder, "controller.ini")
        with open(self.ini, "w") as f:
            f.write(f"[kvlane]\nstats_socket = {self.stats_path}\n\n[registry]\n{registry}\n\n"
                    f"[controller]\npull_port = {ports[0]}\nreply_port = {ports[1]}\n"
                    f"heartbeat_port = {ports[2]}\nhttp_port = 0\n{extra}\n")
        self.log = open(os.path.join(self.folder, "log"), "ab")
        self.process = subprocess.Popen([KVLANE, "controller", "--config", self.ini,
                                         "--parent-death"],
                                        stdout=subprocess.PIPE, stderr=self.log, text=True)
        line = self.process.stdout.readline()
        found = re.search(r"ready: controller pull ([\d.]+):(\d+) reply (\d+)(?: heartbeat (\d+))?",
                          line)
        check(found, f"the ready line, not '{line}': {self.logged()}")
        self.host = found[1]
        self.pull, self.reply = int(found[2]), int(found[3])
        self.heartbeat = int(found[4] or 0)
        http = re.search(r"http\S* (?:http://)?[\d.]*:?(\d+)", line)
        self.http = int(http[1]) if http else 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()
        if self.owns:
            shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def ports(self):
        return self.pull, self.reply, self.heartbeat

    def logged(self):
        with open(os.path.join(self.folder, "log")) as f:
            return f.read()

    def stop(self, how=signal.SIGTERM):
        if self.process.poll() is None:
            self.process.send_signal(how)
        code = self.process.wait(30)
        self.process.stdout.close()
        check(how != signal.SIGTERM or code == 0, f"the controller ends well, not with {code}")

    def counters(self):
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(20)
            s.connect(self.stats_path)
            text = b"".join(iter(lambda: s.recv(65536), b"")).decode()
        found = {}
        for line in text.splitlines():
            words = line.split(" ", 4)
            if words[0] != "health":
                found[words[0]] = int(words[1])
        return found

    def count(self, name):
        return self.counters()[f"controller_{name}"]

    def counted(self, name, least, what=None):
        until(lambda: self.count(name) >= least, what or f"{name} reaches {least}")


class Asker:
    """A client of socket B or C: DEALER by default, REQ as older workers."""

    def __init__(self, controller, port=None, kind=zmq.DEALER):
        self.kind = kind
        self.socket = CONTEXT.socket(kind)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.RCVTIMEO, PATIENCE_MS)
        self.socket.connect(f"tcp://{controller.host}:{port or controller.reply}")

    def send(self, message, raw=False):
        data = message if raw else pack(message)
        self.socket.send_multipart([data] if self.kind == zmq.REQ else [b"", data])

    def receive(self):
        frames = self.socket.recv_multipart()
        check(len(frames) == (1 if self.kind == zmq.REQ else 2), "the frames of an answer")
        return msgspec.msgpack.decode(frames[-1])

    def ask(self, message, raw=False):
        self.send(message, raw)
        return self.receive()

    def close(self):
        self.socket.close()


class Pusher:
    """A client of socket A."""

    def __init__(self, controller):
        self.socket = CONTEXT.socket(zmq.PUSH)
        self.socket.setsockopt(zmq.LINGER, 2000)
        self.socket.connect(f"tcp://{controller.host}:{controller.pull}")

    def push(self, *messages):
        self.socket.send_multipart([m if isinstance(m, bytes) else pack(m) for m in messages])

    def close(self):
        self.socket.close()


# ---- messages as maps, in wire order ----

def register(instance, worker=0, ip="10.0.0.1", port=8500, url="", kind="RegisterMsg"):
    return {"type": kind, "instance_id": instance, "worker_id": worker, "ip": ip, "port": port,
            "peer_init_url": f"{ip}:{port}" if url == "" else url}


def heartbeat(*args, **kwargs):
    return register(*args, **kwargs, kind="HeartbeatMsg")


def deregister(instance, worker=0):
    return {"type": "DeRegisterMsg", "instance_id": instance, "worker_id": worker,
            "ip": "x", "port": 1}


def ops(instance, worker, operations, location="LocalCPUBackend", seq=0):
    """operations: +key admits; a pair ('evict', key) evicts."""
    found = []
    for i, op in enumerate(operations):
        kind, key = op if isinstance(op, tuple) else ("admit", op)
        found.append({"op_type": kind, "key": key, "seq_num": seq + i})
    return {"type": "BatchedKVOperationMsg", "instance_id": instance, "worker_id": worker,
            "location": location, "operations": found}


def lookup(hashes, instance="asker", worker=0):
    return {"type": "BatchedP2PLookupMsg", "hashes": hashes, "instance_id": instance,
            "worker_id": worker}


def sync(kind, instance, worker, sync_id, location="LocalCPUBackend", **fields):
    head = {"type": f"FullSync{kind}Msg", "instance_id": instance, "worker_id": worker}
    if kind != "Status":
        head["location"] = location
    return {**head, "sync_id": sync_id, **fields}


MISS = ["", "", 0, ""]


def layout(answer):
    check(answer["type"] == "BatchedP2PLookupRetMsg" and len(answer["layout_info"]) == 1,
          f"an answer with exactly one entry, not {answer}")
    return answer["layout_info"][0]
