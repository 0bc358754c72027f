# SPDX-License-Identifier: Apache-2.0
"""A serving process under test, and the few bytes of lm:// that it takes to see it work."""

import os
import shutil
import signal
import socket
import struct
import subprocess
import tempfile

PATIENCE_S = 30
PUT, GET, EXIST = 1, 2, 3


def built(word):
    return word in os.environ["KVL_BACKENDS"].split()


class Server:
    """`kvlane serve` with one lm:// section, a stats socket and, where it is built, metrics."""

    def __init__(self, serve="", extra="", environment=None):
        self.folder = tempfile.mkdtemp(prefix="kvl-ops-")
        self.file = os.path.join(self.folder, "kvlane.ini")
        self.stats = os.path.join(self.folder, "stats.sock")
        self.extra = extra
        self.write(serve)
        self.process = subprocess.Popen(
            [os.environ["KVLANE"], "serve", "--config", self.file, "--parent-death"],
            stdout=subprocess.PIPE,
            env=dict(os.environ, **(environment or {})),
        )
        try:
            word, section, address = self.line().split()
        except AssertionError:
            self.__exit__()
            raise
        assert (word, section) == ("ready:", "tcp_remote:serve"), (word, section)
        self.port = int(address.rsplit(":", 1)[1])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        shutil.rmtree(self.folder)

    def write(self, serve, listen="127.0.0.1:0"):
        with open(self.file, "w", encoding="utf-8") as file:
            file.write(
                f"[kvlane]\nstats_socket = {self.stats}\n[store]\nmax_bytes = 64MiB\n"
                f"[tcp_remote:serve]\nrole = server\nlisten = {listen}\n{serve}\n{self.extra}\n"
            )

    def line(self):
        """The next line of its stdout; the test's own time limit ends a wait for ever."""
        text = self.process.stdout.readline().decode().rstrip("\n")
        assert text, "the server has ended"
        return text

    def reload(self):
        self.process.send_signal(signal.SIGHUP)
        return self.line()

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_S)

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.port), PATIENCE_S)

    def ask(self):
        """What the stats socket says: counters and health lines."""
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(PATIENCE_S)
            s.connect(self.stats)
            text = b"".join(iter(lambda: s.recv(65536), b"")).decode()
        counters = {}
        health = {}
        for text_line in text.splitlines():
            words = text_line.split(" ", 4)
            if words[0] == "health":
                health[words[1]] = words[2:]
            else:
                counters[words[0]] = int(words[1])
        return counters, health


def request(command, key, length=0):
    return struct.pack("<iiiii4i", command, length, 1, 2, 0, 0, 0, 0, 0) + key.ljust(150).encode()


def receive(s, size):
    data = b""
    while len(data) < size:
        more = s.recv(size - len(data))
        if not more:
            return None
        data += more
    return data


def exists(s, key):
    """True or False; None when the server closed the connection."""
    try:
        s.sendall(request(EXIST, key))
        reply = receive(s, 36)
    except (ConnectionResetError, BrokenPipeError):
        return None
    return None if reply is None else struct.unpack_from("<i", reply)[0] == 200


def put(s, key, data):
    s.sendall(request(PUT, key, len(data)))
    s.sendall(data)
