# SPDX-License-Identifier: Apache-2.0
"""Workers of a cache controller, as many as a test wants, with nothing but Python itself: as much of
ZMTP 3.0 and msgpack as it takes. What LMCache's own workers do is tested in their environment."""

import os
import socket
import struct

PATIENCE_S = float(os.environ.get("KVL_PATIENCE", "20"))


def pack(value):
    """msgpack of None, bool, int, float, str, list and dict."""
    if value is None:
        return b"\xc0"
    if isinstance(value, bool):
        return b"\xc3" if value else b"\xc2"
    if isinstance(value, int):
        if 0 <= value < 128:
            return bytes([value])
        return b"\xd3" + struct.pack(">q", value) if value < 0 else b"\xcf" + struct.pack(">Q", value)
    if isinstance(value, float):
        return b"\xcb" + struct.pack(">d", value)
    if isinstance(value, str):
        data = value.encode()
        return b"\xdb" + struct.pack(">I", len(data)) + data
    if isinstance(value, list):
        return b"\xdd" + struct.pack(">I", len(value)) + b"".join(map(pack, value))
    pairs = b"".join(pack(k) + pack(v) for k, v in value.items())
    return b"\xdf" + struct.pack(">I", len(value)) + pairs


def unpack(data):
    """The first value of a msgpack text, and what is behind it."""
    first, rest = data[0], data[1:]
    if first < 0x80:
        return first, rest
    if first >= 0xE0:
        return first - 256, rest
    if first < 0x90:
        return _members(first & 15, rest, True)
    if first < 0xA0:
        return _members(first & 15, rest, False)
    if first < 0xC0:
        return rest[: first & 31].decode(), rest[first & 31 :]
    plain = {0xC0: None, 0xC2: False, 0xC3: True}
    if first in plain:
        return plain[first], rest
    numbers = {0xCA: ">f", 0xCB: ">d", 0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q",
               0xD0: ">b", 0xD1: ">h", 0xD2: ">i", 0xD3: ">q"}  # fmt: skip
    if first in numbers:
        size = struct.calcsize(numbers[first])
        return struct.unpack(numbers[first], rest[:size])[0], rest[size:]
    lengths = {0xD9: ">B", 0xDA: ">H", 0xDB: ">I", 0xDC: ">H", 0xDD: ">I", 0xDE: ">H", 0xDF: ">I"}
    size = struct.calcsize(lengths[first])
    length, rest = struct.unpack(lengths[first], rest[:size])[0], rest[size:]
    if first <= 0xDB:
        return rest[:length].decode(), rest[length:]
    return _members(length, rest, first >= 0xDE)


def _members(count, rest, is_map):
    items = []
    for _ in range(count * 2 if is_map else count):
        item, rest = unpack(rest)
        items.append(item)
    return (dict(zip(items[::2], items[1::2])), rest) if is_map else (items, rest)


class Zmtp:
    """One ZMTP connection with NULL security."""

    def __init__(self, connection, kind):
        connection.settimeout(PATIENCE_S)
        self.socket = connection
        self.file = connection.makefile("rb")
        greeting = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
        connection.sendall(greeting)
        self._read(64)
        name = b"Socket-Type"
        body = (b"\x05READY" + bytes([len(name)]) + name + struct.pack(">I", len(kind)) + kind)  # fmt: skip
        connection.sendall(b"\x04" + bytes([len(body)]) + body)
        self._frame()

    def _read(self, size):
        data = self.file.read(size)
        if len(data) != size:
            raise ConnectionError("the other side has closed")
        return data

    def _frame(self):
        flags = self._read(1)[0]
        size = struct.unpack(">Q", self._read(8))[0] if flags & 2 else self._read(1)[0]
        return flags, self._read(size)

    def send(self, *frames):
        data = b""
        for i, frame in enumerate(frames):
            more = 1 if i + 1 < len(frames) else 0
            data += struct.pack(">BQ", 2 | more, len(frame)) + frame
        self.socket.sendall(data)

    def receive(self):
        """The frames of one message; commands (pings) are passed over."""
        frames = []
        while True:
            flags, data = self._frame()
            if flags & 4:
                continue
            frames.append(data)
            if not flags & 1:
                return frames

    def close(self):
        self.file.close()
        self.socket.close()


def connect(port, kind, host="127.0.0.1"):
    return Zmtp(socket.create_connection((host, port), PATIENCE_S), kind)


class Fleet:
    """Connections to the ports of a controller, for workers with any name."""

    def __init__(self, pull, reply, host="127.0.0.1"):
        self.push = connect(pull, b"PUSH", host)
        self.dealer = connect(reply, b"DEALER", host)

    def close(self):
        self.push.close()
        self.dealer.close()

    def ask(self, message):
        self.dealer.send(b"", pack(message))
        return unpack(self.dealer.receive()[-1])[0]

    def tell(self, *messages):
        self.push.send(*map(pack, messages))

    def register(self, instance, worker=0, ip="127.0.0.1", port=1, url="127.0.0.1:7600", kind="Register"):
        return self.ask({"type": kind + "Msg", "instance_id": instance, "worker_id": worker,
                         "ip": ip, "port": port, "peer_init_url": url})  # fmt: skip

    def heartbeat(self, instance, worker=0, **more):
        return self.register(instance, worker, kind="Heartbeat", **more)

    def admit(self, instance, worker, keys, first_seq=0, location="LocalCPUBackend", kind="admit"):
        operations = [{"op_type": kind, "key": key, "seq_num": first_seq + i}
                      for i, key in enumerate(keys)]  # fmt: skip
        self.tell({"type": "BatchedKVOperationMsg", "instance_id": instance, "worker_id": worker,
                   "location": location, "operations": operations})  # fmt: skip

    def sync_start(self, instance, worker, batches, keys=100, sync="s1"):
        return self.ask({"type": "FullSyncStartMsg", "instance_id": instance, "worker_id": worker,
                         "location": "LocalCPUBackend", "sync_id": sync, "total_keys": keys,
                         "batch_count": batches})  # fmt: skip

    def sync_batch(self, instance, worker, batch, keys, sync="s1"):
        self.tell({"type": "FullSyncBatchMsg", "instance_id": instance, "worker_id": worker,
                   "location": "LocalCPUBackend", "sync_id": sync, "batch_id": batch,
                   "keys": keys})  # fmt: skip

    def sync_end(self, instance, worker, keys, sync="s1"):
        self.tell({"type": "FullSyncEndMsg", "instance_id": instance, "worker_id": worker,
                   "location": "LocalCPUBackend", "sync_id": sync,
                   "actual_total_keys": keys})  # fmt: skip

    def deregister(self, instance, worker=0):
        self.tell({"type": "DeRegisterMsg", "instance_id": instance, "worker_id": worker,
                   "ip": "127.0.0.1", "port": 1})  # fmt: skip

    def lookup(self, instance, worker, hashes):
        answer = self.ask({"type": "BatchedP2PLookupMsg", "hashes": hashes,
                           "instance_id": instance, "worker_id": worker})  # fmt: skip
        return answer["layout_info"]
