# SPDX-License-Identifier: Apache-2.0
"""A fleet as people set it up: a controller, and engines that find each other through it."""

import json
import os
import re
import subprocess
import tempfile
import time
import unittest
import urllib.request

from ops import built

PATIENCE_S = 30
KEY = "model@1@0@{:x}@half"


class Process:
    """A kvlane process with an INI file; its lines `ready: SECTION ...` by section."""

    def __init__(self, test, command, ini, sections):
        file = tempfile.NamedTemporaryFile("w", suffix=".ini")
        file.write(ini)
        file.flush()
        test.addCleanup(file.close)
        self.process = subprocess.Popen(
            [os.environ["KVLANE"], command, "--config", file.name, "--parent-death"],
            stdout=subprocess.PIPE, text=True)
        test.addCleanup(self.process.stdout.close)
        test.addCleanup(self.process.wait)
        test.addCleanup(self.process.kill)
        self.ready = {}
        for _ in range(sections):
            line = self.process.stdout.readline()
            assert line.startswith("ready: "), line
            _, section, rest = line.rstrip("\n").split(" ", 2)
            self.ready[section] = rest


class Fleet(unittest.TestCase):
    def setUp(self):
        for word in ("controller", "py_socket", "tcp_remote"):
            if not built(word):
                self.skipTest(f"the backend {word} is not built")
        controller = Process(self, "controller", "[controller]\npull_port = 0\nreply_port = 0\n"
                             "http_port = 0\n", 1)
        found = re.search(r"pull (\S+) reply (\d+).*http (http://\S+)", controller.ready["controller"])
        if not found:
            self.skipTest("the controller is built without HTTP")
        self.pull, self.reply, self.http = found[1], "127.0.0.1:" + found[2], found[3]
        self.a = self.engine("a")
        self.b = self.engine("b")
        self.until(lambda: len(self.ask("/controller/workers")["workers"]) == 2)

    def engine(self, name):
        return Process(self, "serve", f"""
[store]
max_bytes = 64MiB
[tcp_remote]
role = server
listen = 127.0.0.1:0
[py_socket]
bind = 127.0.0.1:0
lookup_bind = 127.0.0.1:0
[controller]
role = worker
instance_id = {name}
controller_pull_url = {self.pull}
controller_reply_url = {self.reply}
""", 2)

    def ask(self, path, body=None):
        request = urllib.request.Request(
            self.http + path, data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            return json.load(answer)

    def until(self, condition):
        end = time.monotonic() + PATIENCE_S
        while not condition():
            self.assertLess(time.monotonic(), end)
            time.sleep(0.01)

    def keys(self, instance):
        return {i["instance_id"]: i["key_count"]
                for i in self.ask("/controller/key-stats")["instances"]}.get(instance, 0)

    def kvlane(self, *args, data=None):
        done = subprocess.run([os.environ["KVLANE"], *args], input=data, capture_output=True,
                              timeout=PATIENCE_S, check=False)
        return done.returncode, done.stdout, done.stderr.decode()

    def put(self, engine, number, data):
        code, _, err = self.kvlane("put", "--server", engine.ready["tcp_remote"],
                                   KEY.format(number), "-", data=data)
        self.assertEqual(code, 0, err)

    def test_workers_name_their_channel(self):
        urls = {w["instance_id"]: w["peer_init_url"]
                for w in self.ask("/controller/workers")["workers"]}
        self.assertEqual(urls, {"a": self.a.ready["py_socket"], "b": self.b.ready["py_socket"]})

    def test_a_third_engine_finds_a_chunk_through_the_controller(self):
        data = os.urandom(1 << 20)
        self.put(self.a, 0x51, data)
        self.until(lambda: self.keys("a") == 1)
        ini = tempfile.NamedTemporaryFile("w", suffix=".ini")
        self.addCleanup(ini.close)
        ini.write(f"""
[py_socket]
bind = 127.0.0.1:0
[controller]
role = worker
instance_id = c
controller_pull_url = {self.pull}
controller_reply_url = {self.reply}
""")
        ini.flush()
        code, out, err = self.kvlane("get", "--config", ini.name, KEY.format(0x51), "-")
        self.assertEqual(code, 0, err)
        self.assertEqual(out, data)

    def test_move(self):
        for number in range(1, 4):
            self.put(self.a, number, os.urandom(100_000 * number))
        self.until(lambda: self.keys("a") == 3)
        place = "LocalCPUBackend"
        answer = self.ask("/move", {"old_position": ["a", place], "new_position": ["b", place],
                                    "tokens": None, "should_copy": True})
        self.assertEqual(answer["num_tokens"], 0)  # opaque bytes: no shape says how many
        self.until(lambda: self.keys("b") == 3)
        self.assertEqual(self.keys("a"), 3)
        for number in range(1, 4):
            _, one, _ = self.kvlane("get", "--server", self.a.ready["tcp_remote"],
                                    KEY.format(number), "-")
            code, two, err = self.kvlane("get", "--server", self.b.ready["tcp_remote"],
                                         KEY.format(number), "-")
            self.assertEqual(code, 0, err)
            self.assertEqual(one, two)

        self.put(self.b, 9, b"only here")
        self.until(lambda: self.keys("b") == 4)
        self.ask("/move", {"old_position": ["b", place], "new_position": ["a", place],
                           "tokens": None, "should_copy": True})
        self.until(lambda: self.keys("a") == 4)


if __name__ == "__main__":
    unittest.main()
