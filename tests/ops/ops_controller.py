# SPDX-License-Identifier: Apache-2.0
"""kvlane controller as people start it: flags, variables and the INI file, and who goes over whom."""

import json
import os
import re
import signal
import socket
import subprocess
import tempfile
import unittest

from ops import built

PATIENCE_S = 30
KERNEL = "[controller]\npull_port = 0\nreply_port = 0\nhttp = no\n"


def free_ports(count):
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in held]
    for s in held:
        s.close()
    return ports


class Controller(unittest.TestCase):
    def setUp(self):
        if not built("controller"):
            self.skipTest("the controller is not built")
        self.ini = tempfile.NamedTemporaryFile("w", suffix=".ini")
        self.addCleanup(self.ini.close)

    def start(self, *flags, ini=KERNEL, environment=None):
        self.ini.seek(0)
        self.ini.truncate()
        self.ini.write(ini)
        self.ini.flush()
        process = subprocess.Popen(
            [os.environ["KVLANE"], "controller", "--config", self.ini.name, "--parent-death", *flags],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=dict(os.environ, **(environment or {})))
        self.addCleanup(process.kill)
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.stderr.close)
        return process

    def ports(self, *flags, **more):
        """pull, reply and heartbeat (None) of a controller that starts and ends well."""
        process = self.start(*flags, **more)
        line = process.stdout.readline()
        found = re.match(r"ready: controller pull 127\.0\.0\.1:(\d+) reply (\d+)(?: heartbeat (\d+))?",
                         line)
        self.assertTrue(found, line or process.stderr.read())
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(PATIENCE_S), 0)
        return tuple(int(port) if port else None for port in found.groups())

    def refused(self, code, text, *flags, **more):
        process = self.start(*flags, **more)
        out, err = process.communicate(timeout=PATIENCE_S)
        self.assertEqual(process.returncode, code, err)
        self.assertIn(text, err)
        self.assertEqual(out, "")

    def test_file_alone(self):
        pull, reply, heartbeat = self.ports()
        self.assertNotEqual(pull, reply)
        self.assertIsNone(heartbeat)
        self.assertIsNotNone(self.ports(ini=KERNEL + "heartbeat_port = -1\n")[2])

    def test_flag_over_variable_over_file(self):
        low = free_ports(3)
        high = free_ports(2)
        variable = {"LMCACHE_CONTROLLER_CONTROLLER_MONITOR_PORTS": json.dumps(
            dict(zip(("pull", "reply", "heartbeat"), low)))}
        self.assertEqual(self.ports(environment=variable), tuple(low))
        flag = json.dumps({"reply": high[1], "pull": high[0]})
        self.assertEqual(self.ports("--monitor-ports", flag, environment=variable,
                                    ini=KERNEL + "heartbeat_port = -1\n"), (*high, None))

    def test_without_a_file(self):
        ports = free_ports(2)
        process = subprocess.Popen(
            [os.environ["KVLANE"], "controller", "--monitor-ports",
             '{"pull":%d,"reply":%d}' % tuple(ports), "--port", "0", "--parent-death"],
            stdout=subprocess.PIPE, text=True,
            env={k: v for k, v in os.environ.items() if k != "KVLANE_CONFIG"})
        line = process.stdout.readline()
        process.stdout.close()
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(PATIENCE_S), 0)
        self.assertIn(f"pull 127.0.0.1:{ports[0]} reply {ports[1]}", line)

    def test_seconds(self):
        for value in ("-1", "0", "1", "30"):
            self.ports("--health-check-interval", value)
        self.ports("--lmcache-worker-timeout", "300")
        self.refused(2, "--health-check-interval", "--health-check-interval", "0.5")
        self.refused(2, "LMCACHE_CONTROLLER_LMCACHE_WORKER_TIMEOUT",
                     environment={"LMCACHE_CONTROLLER_LMCACHE_WORKER_TIMEOUT": "soon"})

    def test_bad_port_maps(self):
        for text in ("", "{", "{}", "[]", '{"pull": 1}', '{"pull": 1, "reply": 2, "x": 3}',
                     '{"pull": "1", "reply": 2}', '{"pull": 1, "reply": 2} 3', '{"pull": 1 "reply": 2}'):
            self.refused(2, "--monitor-ports", "--monitor-ports", text)
        self.refused(3, "pull_port", "--monitor-ports", '{"pull": 65536, "reply": 2}')

    def test_off_loopback_wants_consent(self):
        self.refused(3, "allow_remote = yes", "--host", "0.0.0.0")
        self.refused(3, "allow_remote = yes", environment={"LMCACHE_CONTROLLER_CONTROLLER_HOST": "*"})

    def test_port_in_use(self):
        with socket.create_server(("127.0.0.1", 0)) as s:
            port = s.getsockname()[1]
            self.refused(4, f"cannot listen on '127.0.0.1:{port}'", "--set",
                         f"controller.pull_port={port}")


if __name__ == "__main__":
    unittest.main()
