#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A server with a disk below its memory, seen from an unmodified client's wire.

What no longer fits into memory comes back from disk, after SIGTERM and after SIGKILL too, and every
reply is either a miss or the right bytes. KVL_PROGRAM names the kvlane executable.
"""
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time

CHUNK = 256 << 10
CHUNKS = 400  # 100 MiB through 24 MiB of memory
HEADER, REPLY = struct.Struct('<9i'), struct.Struct('<9i')


def start(folder):
    ini = (f'[kvlane]\nlog_level = warn\n[store]\nmax_bytes = 24MiB\n'
           f'[tcp_remote]\nrole = server\nlisten = lm://127.0.0.1:0\n'
           f'[disk]\npath = {folder}\nbudget = 256MiB\nput_to = evicted\n')
    server = subprocess.Popen([os.environ['KVL_PROGRAM'], 'serve', '--parent-death', '--ini', ini],
                              stdout=subprocess.PIPE, text=True)
    for line in server.stdout:
        if line.startswith('ready: tcp_remote'):
            return server, socket.create_connection(('127.0.0.1', int(line.rsplit(':', 1)[1])))
    sys.exit('the server did not start')


def request(command, length, i):
    key = f'model@1@0@{i:x}@half'.encode().ljust(150)
    return HEADER.pack(command, length, 1, 2, 0, 2, 1, 1, length // 4) + key


def receive(sock, size):
    data = bytearray()
    while len(data) < size:
        part = sock.recv(size - len(data))
        assert part, 'the server closed the connection'
        data += part
    return bytes(data)


def payload(i, version):
    return (struct.pack('<QQ', i, version) * (CHUNK // 16))


def put(sock, i, version):
    sock.sendall(request(1, CHUNK, i) + payload(i, version))


def get(sock, i):
    sock.sendall(request(2, 0, i))
    code, length, *_ = REPLY.unpack(receive(sock, 36))
    return receive(sock, length) if code == 200 else None


def exists(sock, i):
    sock.sendall(request(3, 0, i))
    return REPLY.unpack(receive(sock, 36))[0] == 200


def check_all(sock, versions, least, what):
    hits = 0
    for i, version in versions.items():
        there = exists(sock, i)
        data = get(sock, i)
        if data is not None:
            assert data == payload(i, version), f'{what}: chunk {i} has bytes of another'
            assert there, f'{what}: chunk {i} came, but EXIST said no'
            hits += 1
    print(f'{what}: {hits} of {len(versions)}')
    assert hits >= least, f'{what}: at least {least} wanted'


def await_disk(folder, put_bytes):
    """Until what no longer fits into memory is on disk: a machine that is busy with other things
    writes slower than we put, and the server does not wait for the disk."""
    until = time.monotonic() + 20
    wanted = put_bytes - (24 << 20) - (4 << 20)
    while sum(e.stat().st_size for e in os.scandir(folder)) < wanted and time.monotonic() < until:
        time.sleep(0.001)


def main():
    folder = tempfile.mkdtemp(prefix='kvl-tier-')
    try:
        server, sock = start(folder)
        versions = {}
        for i in range(CHUNKS):
            put(sock, i, 1)
            versions[i] = 1
            assert exists(sock, i)  # in step with the server
            await_disk(folder, (i + 1) * CHUNK)
        check_all(sock, versions, CHUNKS * 3 // 4, 'while running')
        for i in range(0, CHUNKS, 7):  # newer bytes replace those on disk
            put(sock, i, 2)
            versions[i] = 2
            assert exists(sock, i)
        check_all(sock, versions, CHUNKS // 2, 'after overwriting')
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0, 'SIGTERM ends with 0'

        server, sock = start(folder)
        check_all(sock, versions, CHUNKS // 2, 'after SIGTERM')
        server.kill()
        server.wait()
        server, sock = start(folder)
        check_all(sock, versions, CHUNKS // 2, 'after SIGKILL')
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0
    finally:
        shutil.rmtree(folder)


main()
