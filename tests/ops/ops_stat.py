# SPDX-License-Identifier: Apache-2.0
"""kvlane stat: a list, lines, a screen, JSON, and what it says of somebody else's socket."""

import json
import os
import pty
import socket
import subprocess
import tempfile
import time
import unittest

import ops


def stat(server, *arguments, **options):
    command = [os.environ["KVLANE"], "stat", "--socket", server.stats, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, **options)


class Stat(unittest.TestCase):
    def once(self, server, *arguments):
        process = stat(server, *arguments)
        out = process.communicate(timeout=ops.PATIENCE_S)[0].decode()
        return process.returncode, out

    def test_list(self):
        with ops.Server() as server, server.connect() as s:
            ops.put(s, "k", b"x" * 100)
            self.assertIs(ops.exists(s, "k"), True)
            code, out = self.once(server)
            self.assertEqual(code, 0)
            self.assertRegex(out, r"(?m)^store_chunks +1$")
            self.assertRegex(out, r"(?m)^tcp_remote_serve_requests_put +1$")
            self.assertRegex(out, r"(?m)^health tcp_remote:serve ok lm://127.0.0.1:[0-9]+ ")

    def test_json(self):
        with ops.Server() as server:
            code, out = self.once(server, "--json")
            self.assertEqual(code, 0)
            answer = json.loads(out)
            self.assertIs(answer["healthy"], True)
            self.assertIsNone(answer["hit_ratio"])
            self.assertEqual(answer["counters"]["store_chunks"], 0)
            self.assertEqual(answer["locations"][1]["name"], "tcp_remote:serve")

    def test_json_again_and_again(self):
        with ops.Server() as server, server.connect() as s:
            process = stat(server, "--json", "--watch", "1")
            first = json.loads(process.stdout.readline())
            self.assertEqual(first["rates"], {})
            ops.put(s, "k", b"x" * 100)
            self.assertIs(ops.exists(s, "k"), True)
            second = json.loads(process.stdout.readline())
            self.assertGreater(second["interval_s"], 0)
            self.assertGreater(second["rates"]["tcp_remote_serve_requests_put"], 0)
            self.assertEqual(second["hit_ratio"], 1)
            server.end()
            process.communicate(timeout=ops.PATIENCE_S)
            self.assertEqual(process.returncode, 4)  # nobody answers any more

    def test_lines(self):
        with ops.Server() as server, server.connect() as s:
            # The kernel completes a connection before the server has taken it.
            end = time.monotonic() + ops.PATIENCE_S
            while server.ask()[0]["tcp_remote_serve_connections"] == 0:
                self.assertLess(time.monotonic(), end)
            process = stat(server, "--watch", "1")
            self.assertIn(b"1 connections", process.stdout.readline())
            ops.put(s, "k", b"x" * 4096)
            self.assertIs(ops.exists(s, "k"), True)
            line = process.stdout.readline().decode()
            self.assertIn("1 chunks", line)
            self.assertIn("hits 100.0 %", line)
            self.assertNotIn("\033", line)
            process.kill()
            process.communicate()

    def test_screen(self):
        with ops.Server() as server:
            master, slave = pty.openpty()
            process = subprocess.Popen(
                [os.environ["KVLANE"], "stat", "--socket", server.stats, "--watch", "1"],
                stdout=slave,
            )
            os.close(slave)
            text = ""
            while text.count("\033[J") < 2:
                text += os.read(master, 65536).decode()
            process.kill()
            process.wait()
            os.close(master)
            self.assertEqual(text.count("\033[2J"), 1)
            self.assertRegex(text, r"store +\[\.+\] +0 %")
            self.assertRegex(text, r"tcp_remote:serve +ok +0 ")

    def test_hostile_answers(self):
        answers = (
            b"",
            b"\n\n\n",
            b"health\nhealth a\nhealth b down\nhealth c ok \x1b[2J \x00 x\n",
            b"a 1\na_b_c 2\nhealth a ok - t\nhealth a:b ok - t\nno_number x\n" * 500,
            b"store_hits 18446744073709551615\nstore_misses 1\nstore_used_bytes 9999\n",
        )
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "s")
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(path)
                listener.listen()
                for answer in answers:
                    for form in ((), ("--json",)):
                        process = subprocess.Popen(
                            [os.environ["KVLANE"], "stat", "--socket", path, *form],
                            stdout=subprocess.PIPE,
                        )
                        with listener.accept()[0] as s:
                            s.sendall(answer)
                        out = process.communicate(timeout=ops.PATIENCE_S)[0]
                        self.assertIn(process.returncode, (0, 1))
                        self.assertNotIn(b"\033", out)
                        if form:
                            json.loads(out)


if __name__ == "__main__":
    unittest.main()
