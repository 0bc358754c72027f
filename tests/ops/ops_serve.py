# SPDX-License-Identifier: Apache-2.0
"""kvlane serve: SIGHUP, SIGTERM, the service manager's socket, metrics of a real process."""

import os
import socket
import tempfile
import unittest

import ops


class Reload(unittest.TestCase):
    def test_limits_change_under_load(self):
        with ops.Server() as server, server.connect() as first:
            self.assertIs(ops.exists(first, "k"), False)
            server.write("max_connections = 1")
            self.assertEqual(server.reload(), "reloaded: 0 differences need a restart")
            with server.connect() as second:
                self.assertIsNone(ops.exists(second, "k"))
            self.assertIs(ops.exists(first, "k"), False)

            server.write("max_connections = 7")
            self.assertEqual(server.reload(), "reloaded: 0 differences need a restart")
            with server.connect() as second:
                self.assertIs(ops.exists(second, "k"), False)

    def test_max_value(self):
        with ops.Server() as server, server.connect() as s:
            ops.put(s, "k", b"x" * 5000)
            self.assertIs(ops.exists(s, "k"), True)
            server.write("max_value = 4096")
            self.assertEqual(server.reload(), "reloaded: 0 differences need a restart")
            ops.put(s, "l", b"x" * 5000)
            self.assertIs(ops.exists(s, "l"), False)
            ops.put(s, "l", b"x" * 4096)
            self.assertIs(ops.exists(s, "l"), True)

    def test_times(self):
        with ops.Server() as server, server.connect() as idle, server.connect() as stalled:
            self.assertIs(ops.exists(idle, "k"), False)
            stalled.sendall(ops.request(ops.PUT, "k", 100) + b"x")
            server.write("idle_timeout = 100ms\nstall_timeout = 200ms")
            self.assertEqual(server.reload(), "reloaded: 0 differences need a restart")
            self.assertEqual(idle.recv(1), b"")
            self.assertEqual(stalled.recv(1), b"")
            counters, _ = server.ask()
            self.assertEqual(counters["tcp_remote_serve_idle_closed"], 1)
            self.assertEqual(counters["tcp_remote_serve_stalled_closed"], 1)
            self.assertEqual(counters["store_reserved"], 0)

    def test_a_bad_file_changes_nothing(self):
        with ops.Server("max_connections = 1") as server, server.connect() as first:
            self.assertIs(ops.exists(first, "k"), False)
            for bad in ("max_connections = 9\nnonsense = 1", "max_connections = 0"):
                server.write(bad)
                self.assertEqual(server.reload(), "not reloaded: the old settings stay")
                with server.connect() as second:
                    self.assertIsNone(ops.exists(second, "k"))
            # what only the backend can judge, found before anything is taken over
            server.write("max_connections = 9", listen="127.0.0.1:none")
            self.assertEqual(server.reload(), "not reloaded: the old settings stay")
            with server.connect() as second:
                self.assertIsNone(ops.exists(second, "k"))
            os.unlink(server.file)
            self.assertEqual(server.reload(), "not reloaded: the old settings stay")
            self.assertIs(ops.exists(first, "k"), False)

    def test_says_what_needs_a_restart(self):
        with ops.Server() as server, server.connect() as s:
            server.write("io_threads = 5", listen="127.0.0.1:1")
            self.assertEqual(server.reload(), "reloaded: 2 differences need a restart")
            self.assertIs(ops.exists(s, "k"), False)


class End(unittest.TestCase):
    def test_sigterm_drains(self):
        with ops.Server() as server, server.connect() as idle, server.connect() as busy:
            self.assertIs(ops.exists(idle, "k"), False)
            busy.sendall(ops.request(ops.PUT, "k", 100) + b"x" * 50)
            while server.ask()[0]["store_reserved"] != 1:
                pass  # its first bytes are on the way
            server.process.terminate()
            self.assertEqual(idle.recv(1), b"")  # at its request boundary, at once
            busy.sendall(b"x" * 50)
            self.assertEqual(busy.recv(1), b"")
            self.assertEqual(server.process.wait(ops.PATIENCE_S), 0)


class Manager(unittest.TestCase):
    def follow(self, address, variable):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
            s.settimeout(ops.PATIENCE_S)
            s.bind(address)
            with ops.Server(environment={"NOTIFY_SOCKET": variable}) as server:
                self.assertEqual(s.recv(4096), b"READY=1")
                server.reload()
                lines = s.recv(4096).decode().splitlines()
                self.assertEqual(lines[0], "RELOADING=1")
                self.assertRegex(lines[1], "^MONOTONIC_USEC=[0-9]+$")
                self.assertEqual(s.recv(4096), b"READY=1")
                self.assertEqual(server.end(), 0)
                self.assertEqual(s.recv(4096), b"STOPPING=1")

    def test_path(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "notify")
            self.follow(path, path)

    def test_abstract(self):
        name = f"kvl-ops-{os.getpid()}"
        self.follow("\0" + name, "@" + name)

    def test_nobody_there(self):
        with ops.Server(environment={"NOTIFY_SOCKET": "/nowhere/at/all"}) as server:
            self.assertEqual(server.end(), 0)


@unittest.skipUnless(ops.built("metrics"), "kvl-metrics.so is not built")
class Metrics(unittest.TestCase):
    def get(self, address, path):
        with socket.create_connection(address, ops.PATIENCE_S) as s:
            s.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
            answer = b"".join(iter(lambda: s.recv(65536), b"")).decode()
        head, _, body = answer.partition("\r\n\r\n")
        return int(head.split()[1]), body

    def test_real_counters(self):
        with ops.Server(extra="[metrics]\nlisten = 127.0.0.1:0") as server:
            url = server.ask()[1]["metrics"][1]
            address = ("127.0.0.1", int(url.rsplit(":", 1)[1]))
            with server.connect() as s:
                ops.put(s, "k", b"x" * 1000)
                self.assertIs(ops.exists(s, "k"), True)
                status, body = self.get(address, "/metrics")
                self.assertEqual(status, 200)
                self.assertIn("\nkvlane_store_chunks 1\n", body)
                self.assertIn(
                    '\nkvlane_tcp_remote_requests_put_total{section="tcp_remote:serve"} 1\n', body
                )
                self.assertIn('\nkvlane_backend_in_flight{section="metrics"} 0\n', body)
            status, body = self.get(address, "/health")
            self.assertEqual(status, 200)
            self.assertIn('"status": "ok"', body)
            self.assertEqual(server.end(), 0)

    def test_needs_a_section_that_exists(self):
        with self.assertRaises(AssertionError):  # no ready line
            with ops.Server(extra="[metrics]\nlisten = 127.0.0.1:0\nneeds = nobody"):
                pass


if __name__ == "__main__":
    unittest.main()
