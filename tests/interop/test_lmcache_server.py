#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Our client, through the kvlane executable and with it the plugin's ABI, against LMCache's own
server, unmodified."""
import signal
import socket
import struct

import lmcache_peer

lmcache_peer.prepare()

import interop  # noqa: E402
from interop import check, kvlane, payload  # noqa: E402

KEYS = [
    "Qwen/Qwen3-4B@1@0@1f@half",
    "Qwen/Qwen3-4B@1@0@-5d1b8de6da1b6d09@bfloat16",  # hash() is signed
    "m@8@7@" + "ab" * 32 + "@half",  # sha256
    "m@1@0@5@half@user%u1",  # tagged
]
SIZES = [0, 1, 4096, 64 << 10, 1 << 20, (5 << 20) + 3]


def header(command, key, length):
    return struct.pack("<9i150s", command, length, 4, 6, 0, length, 0, 0, 0,
                       key.encode().ljust(150))


def round_trips(url, more):
    for i, key in enumerate(KEYS):
        check(kvlane("exists", "--server", url, *more, key)[0] == 1, f"{key} is not there yet")
        for size in SIZES:
            data = payload(size, i * 100 + size)
            check(kvlane("put", "--server", url, *more, key, "-", data=data)[0] == 0,
                  f"put of {size} bytes under {key}")
            code, got = kvlane("get", "--server", url, "--quiet", *more, key)
            check(code == 0 and got == data, f"get of {size} bytes under {key}")
        check(kvlane("exists", "--server", url, *more, key)[0] == 0, f"{key} is there")


def sealed_is_apart(url):
    """A sealed chunk has a key of its own, so that LMCache does not read its trailer as KV."""
    key = "m@1@0@77@half"
    sealed = ("--set", "tcp_remote.checksum=yes")
    check(kvlane("put", "--server", url, *sealed, key, "-", data=b"x" * 999)[0] == 0, "sealed put")
    check(kvlane("exists", "--server", url, key)[0] == 1, "the plain key is not there")
    check(kvlane("exists", "--server", url, *sealed, key)[0] == 0, "the sealed one is")


def list_is_not_answered(url):
    """LMCache's server stays silent on LIST; that must not be waited for."""
    code, _ = kvlane("list", "--server", url, "--location", "tcp_remote", "--timeout", "5s")
    check(code in (1, 4), f"list ends with a code that says so, not {code}")
    check(kvlane("exists", "--server", url, KEYS[0])[0] == 0, "and the server goes on")


def truncated_put(url, port):
    """A PUT cut short makes LMCache's server store None: EXIST says yes, GET dies half-way."""
    key = "m@1@0@dead@half"
    with socket.create_connection(("127.0.0.1", port)) as raw:
        raw.sendall(header(1, key, 100000) + b"y" * 1000)
    with socket.create_connection(("127.0.0.1", port)) as raw:
        for _ in range(1000):  # until the other thread of the server has seen the end
            raw.sendall(header(3, key, 0))
            if struct.unpack("<i", raw.recv(36, socket.MSG_WAITALL)[:4])[0] == 200:
                break
        else:
            check(False, "the trap is set")
    check(kvlane("get", "--server", url, "--quiet", key)[0] == 1, "a truncated chunk is a miss")
    check(kvlane("exists", "--server", url, KEYS[0])[0] == 0, "and the server goes on")
    check(kvlane("put", "--server", url, key, "-", data=b"z" * 500)[0] == 0, "another put")
    check(kvlane("get", "--server", url, "--quiet", key) == (0, b"z" * 500), "heals it")


server, server_port = interop.serve_python()
server_url = f"lm://127.0.0.1:{server_port}"
round_trips(server_url, ())
round_trips(server_url, ("--set", "tcp_remote.checksum=yes"))
sealed_is_apart(server_url)
list_is_not_answered(server_url)
truncated_put(server_url, server_port)
interop.stop(server, signal.SIGKILL)
interop.done("our client against LMCache's server")
