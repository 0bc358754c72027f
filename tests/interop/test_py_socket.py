#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""py_socket against LMCache's own PySocketChannel, its P2P messages, and plain pyzmq peers.

Both directions, sync and async, with and without a side message; and the golden bytes against
LMCache's structs.
"""
import asyncio
import glob
import os
import subprocess
import sys
import threading
import traceback

import interop
import lmcache_peer
from interop import check

lmcache_peer.prepare()
try:
    import msgspec
    import zmq
    import zmq.asyncio
    from lmcache.v1.storage_backend import p2p_backend as p2p
    from lmcache.v1.transfer_channel import py_socket_channel as channel
    from lmcache.v1.transfer_channel import transfer_utils as side
except ImportError as error:
    lmcache_peer.skip(f"lmcache's channels cannot be imported: {error}")

PEER = os.environ["KVL_PEER"]
VECTORS = os.environ["KVL_VECTORS"]
PATIENCE_MS = 20000


class Channel(channel.PySocketChannel):
    """The real one, with the data plane that LMCache leaves to subclasses left out."""

    def remote_xfer_handler_exists(self, receiver_or_sender_id):
        return receiver_or_sender_id in self.remote_connections

    def _none(self, *args, **kwargs):
        raise NotImplementedError

    get_local_mem_indices = _none
    batched_send = batched_recv = batched_write = batched_read = _none
    async_batched_send = async_batched_recv = async_batched_write = async_batched_read = _none


class Kvlane:
    """Our peer, in a process of its own."""

    def __init__(self, mode, bind="127.0.0.1:0"):
        self.process = subprocess.Popen([PEER, bind, "127.0.0.1:0", mode], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        check(line.startswith("ready "), f"the ready line, not '{line}'")
        self.url, self.lookup = line.split("'")[1::2]

    def ask(self, order):
        self.process.stdin.write(order + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().rstrip("\n")

    def expect(self, order, wanted):
        answer = self.ask(order)
        check(answer == wanted, f"'{order}' -> '{wanted}', not '{answer}'")

    def stop(self):
        self.process.stdin.close()
        check(self.process.wait(20) == 0, "our peer ends well")


def free_port():
    with zmq.Context() as context, context.socket(zmq.REP) as probe:
        probe.setsockopt(zmq.LINGER, 0)
        return probe.bind_to_random_port("tcp://127.0.0.1")


def make_channel(url, **more):
    return Channel(role="both", buffer_ptr=0, buffer_size=4096, align_bytes=4096, tp_rank=0,
                   peer_init_url=url, **more)


def load(name):
    with open(os.path.join(VECTORS, name + ".hex"), encoding="ascii") as file:
        return bytes.fromhex(" ".join(line.split("#")[0] for line in file))


def vectors():
    """The golden bytes are what msgspec writes from LMCache's structs."""
    url = "127.0.0.1:5555"
    written = {
        "init_request": channel.PySocketInitRequest(peer_init_url=url),
        "init_response": channel.PySocketInitResponse(status="ok"),
        "side": side.P2PInitSideMsg(),
        "side_ret": side.P2PInitSideRetMsg(peer_lookup_url="127.0.0.1:7777"),
        "side_ret_none": side.P2PInitSideRetMsg(peer_lookup_url=""),
        "side_ret_nil": side.P2PInitSideRetMsg(peer_lookup_url=None),
        "lookup_get": p2p.BatchedLookupAndGetMsg(lookup_id="id-1", receiver_id=url,
                                                 keys=["m@1@0@-2a", "k" * 32],
                                                 mem_indexes=[7, 65536]),
        "lookup_get_ret": p2p.BatchedLookupAndGetRetMsg(num_hit_chunks=2),
        "lookup_put": p2p.BatchedLookupAndPutMsg(sender_id=url, keys=["m@1@0@-2a"], offsets=[256],
                                                 mem_indexes=[200]),
        "lookup_put_ret": p2p.BatchedLookupAndPutRetMsg(num_read_chunks=0),
        "p2p_error": p2p.P2PErrorMsg(
            error_code=p2p.P2PErrorCode.REMOTE_XFER_HANDLER_NOT_INITIALIZED),
    }
    for name, message in written.items():
        check(msgspec.msgpack.encode(message) == load(name), f"{name} is what Python writes")
    read = {
        "init_request_kvlane": channel.PySocketInitRequest(peer_init_url=url),
        "init_response_kvlane": channel.PySocketInitResponse(status="ok"),
        "init_request_notes": channel.PySocketInitRequest(peer_init_url=url),
        "init_response_notes": channel.PySocketInitResponse(status="ok"),
    }
    for name, message in read.items():
        check(msgspec.msgpack.decode(load(name), type=channel.PySocketMsg) == message,
              f"Python reads {name}")
    check(len(glob.glob(os.path.join(VECTORS, "*.hex"))) == len(written) + len(read),
          "every golden file was looked at")


async def python_to_kvlane(kvlane, url, with_side):
    """Python initiates."""
    python = make_channel(url, async_mode=True, event_loop=asyncio.get_running_loop(),
                          peer_lookup_url="127.0.0.1:1")
    reply = await asyncio.wait_for(python.async_lazy_init_peer_connection(
        local_id=url, peer_id=kvlane.url, peer_init_url=kvlane.url,
        init_side_msg=side.P2PInitSideMsg() if with_side else None), 20)
    check(python.remote_xfer_handler_exists(kvlane.url), "Python knows us")
    if with_side:
        check(reply.peer_lookup_url == kvlane.lookup, f"our side reply, not {reply}")
    else:
        check(reply is None, "no side reply unless asked for")
    kvlane.expect(f"known {url}", "known python")
    return python


async def kvlane_to_python(kvlane, python, url, lookup):
    """We initiate, at the listening side of the same channel."""
    loop = asyncio.get_running_loop()
    for order, wanted in ((f"side {url}", f"side 0 '{lookup}'"),
                          (f"shake+side {url}", f"shake+side 0 '{lookup}'")):
        answer = await loop.run_in_executor(None, kvlane.ask, order)
        check(answer == wanted, f"'{order}' -> '{wanted}', not '{answer}'")
    check(python.remote_xfer_handler_exists(kvlane.url), "Python was told who we are")


def handshakes(mode):
    """Python in async mode, which is the only one that initiates."""
    kvlane = Kvlane(mode)

    async def run():
        url = f"127.0.0.1:{free_port()}"
        python = await python_to_kvlane(kvlane, url, with_side=True)
        await python_to_kvlane(kvlane, "127.0.0.1:%d" % free_port(), with_side=False)
        other = Kvlane(mode)
        await kvlane_to_python(other, python, url, "127.0.0.1:1")
        other.expect("offered", "offered 0")
        other.stop()

    asyncio.run(run())
    kvlane.expect("offered", "offered 0")
    kvlane.stop()


def handshake_with_thread(mode):
    """Python in sync mode: it only listens, by a thread. It has no peer_lookup_url and sends nil."""
    url = f"127.0.0.1:{free_port()}"
    python = make_channel(url, async_mode=False)
    kvlane = Kvlane(mode)
    kvlane.expect(f"shake {url}", "shake 0")
    kvlane.expect(f"known {url}", "known python")
    check(python.remote_xfer_handler_exists(kvlane.url), "Python was told who we are")
    kvlane.expect(f"shake+side {url}", "shake+side 0 ''")
    kvlane.stop()
    initiator = Kvlane(mode, bind="-")  # Python has to get a text in any case
    initiator.expect(f"shake {url}", "shake 0")
    initiator.stop()


def requester(context, url):
    socket = context.socket(zmq.REQ)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.RCVTIMEO, PATIENCE_MS)
    socket.connect("tcp://" + url)
    return socket


def exchange(socket, message, types):
    socket.send(message if isinstance(message, bytes) else msgspec.msgpack.encode(message))
    return msgspec.msgpack.decode(socket.recv(), type=types)


def lookups_at_kvlane():
    """A plain peer asks us, as P2PBackend does."""
    kvlane = Kvlane("sync")
    with zmq.Context() as context, requester(context, kvlane.lookup) as asker:
        get = p2p.BatchedLookupAndGetMsg(lookup_id="l", receiver_id="10.0.0.1:5",
                                         keys=["have-1", "have-2", "not", "have-3"],
                                         mem_indexes=[0, 1, 2, 3])
        put = p2p.BatchedLookupAndPutMsg(sender_id="10.0.0.1:5", keys=["have-1", "new"],
                                         offsets=[256, 256], mem_indexes=[0, 1])
        answer = exchange(asker, get, p2p.P2PMsg)
        check(answer == p2p.P2PErrorMsg(
            error_code=p2p.P2PErrorCode.REMOTE_XFER_HANDLER_NOT_INITIALIZED), f"code 3: {answer}")
        with requester(context, kvlane.url) as shaker:
            answer = exchange(shaker, channel.PySocketInitRequest(peer_init_url="10.0.0.1:5"),
                              channel.PySocketMsg)
            check(answer.status == "ok", f"the handshake: {answer}")
            answer = exchange(shaker, b"\xc1", channel.PySocketMsg)
            check(answer.status != "ok", f"garbage is refused: {answer}")
        answer = exchange(asker, get, p2p.P2PMsg)
        check(answer == p2p.BatchedLookupAndGetRetMsg(num_hit_chunks=2), f"hits: {answer}")
        answer = exchange(asker, put, p2p.P2PMsg)
        check(answer == p2p.BatchedLookupAndPutRetMsg(num_read_chunks=1), f"read: {answer}")
        answer = exchange(asker, b"\x81\xa4type\xa1X", p2p.P2PMsg)
        check(answer == p2p.P2PErrorMsg(error_code=p2p.P2PErrorCode.UNKNOWN_MSG_TYPE),
              f"code 2: {answer}")
    kvlane.stop()


def lookups_at_python():
    """We ask a plain peer that answers with LMCache's structs."""
    asked = []
    with zmq.Context() as context, context.socket(zmq.REP) as rep:
        rep.setsockopt(zmq.LINGER, 0)
        rep.setsockopt(zmq.RCVTIMEO, PATIENCE_MS)
        url = "127.0.0.1:%d" % rep.bind_to_random_port("tcp://127.0.0.1")
        answers = [p2p.BatchedLookupAndGetRetMsg(num_hit_chunks=1),
                   p2p.BatchedLookupAndPutRetMsg(num_read_chunks=2),
                   p2p.P2PErrorMsg(
                       error_code=p2p.P2PErrorCode.REMOTE_XFER_HANDLER_NOT_INITIALIZED)]

        def answer():
            for message in answers:
                asked.append(msgspec.msgpack.decode(rep.recv(), type=p2p.P2PMsg))
                rep.send(msgspec.msgpack.encode(message))

        thread = threading.Thread(target=answer)
        thread.start()
        kvlane = Kvlane("sync")
        kvlane.expect(f"get {url} {kvlane.url} a b", "get 0 1")
        kvlane.expect(f"put {url} {kvlane.url} a b", "put 0 2")
        kvlane.expect(f"get {url} {kvlane.url} a", "get -107 0")
        thread.join()
        kvlane.stop()
    check(asked[0] == p2p.BatchedLookupAndGetMsg(lookup_id="of-kvlane", receiver_id=kvlane.url,
                                                 keys=["a", "b"], mem_indexes=[256, 257]),
          f"what was asked: {asked[0]}")
    check(asked[1] == p2p.BatchedLookupAndPutMsg(sender_id=kvlane.url, keys=["a", "b"],
                                                 offsets=[256, 257], mem_indexes=[256, 257]),
          f"what was asked: {asked[1]}")


def main():
    vectors()
    for mode in ("sync", "async"):
        handshakes(mode)
        handshake_with_thread(mode)
    lookups_at_kvlane()
    lookups_at_python()
    print(f"{interop.checks} checks")


if __name__ == "__main__":
    status = 1
    try:
        main()
        status = 0
    except SystemExit as error:
        print(error)
    except Exception:  # pylint: disable=broad-except
        traceback.print_exc()
    sys.stdout.flush()
    os._exit(status)  # LMCache's listening threads never end
