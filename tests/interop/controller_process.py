# SPDX-License-Identifier: Apache-2.0
"""A `kvlane controller` under test and plain HTTP to it."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from controller_fleet import PATIENCE_S, Fleet  # noqa: E402

KVLANE = os.environ.get("KVL_PROGRAM", "kvlane")


def until(true, what):
    end = time.monotonic() + PATIENCE_S
    while not true():
        if time.monotonic() > end:
            raise AssertionError(f"never: {what}")
        time.sleep(0.01)


class Controller:
    """On ports that the kernel picks. `settings` are keys of the section [controller]."""

    def __init__(self, **settings):
        settings = {"pull_port": 0, "reply_port": 0, "heartbeat_port": -1, "http_port": 0, **settings}
        sets = [word for k, v in settings.items() for word in ("--set", f"controller.{k}={v}")]
        self.process = subprocess.Popen(
            [KVLANE, "controller", "--parent-death", *sets], stdout=subprocess.PIPE, text=True)  # fmt: skip
        line = self.process.stdout.readline().split()
        if line[:2] != ["ready:", "controller"]:
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()
            raise AssertionError(f"the ready line, not {line}")
        words = dict(zip(line[2::2], line[3::2]))
        self.host, pull = words["pull"].rsplit(":", 1)
        self.pull = int(pull)
        self.replica = int(words.get("replica", 0))
        self.reply = int(words["reply"])
        self.http = int(words["http"].rsplit(":", 1)[1]) if "http" in words else None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        """Ends it, which must go well: that is where sanitizers tell of leaks."""
        try:
            code = self.stop()
        finally:
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()
        if code != 0:
            raise AssertionError(f"the controller ends with {code}")

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_S)

    def fleet(self):
        return Fleet(self.pull, self.reply, self.host)

    def ask(self, method, path, body=None, headers=None):
        """Status, headers and text of an answer. A body that is no text is sent as JSON."""
        connection = http.client.HTTPConnection(self.host, self.http, timeout=PATIENCE_S)
        headers = dict(headers or {})
        if body is not None and not isinstance(body, (str, bytes)):
            body = json.dumps(body)
            headers.setdefault("Content-Type", "application/json")
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, response.headers, response.read().decode()
        finally:
            connection.close()

    def get(self, path):
        status, _, text = self.ask("GET", path)
        assert status == 200, (path, status, text)
        return json.loads(text)

    def post(self, path, body):
        """Status and the JSON of the answer."""
        status, _, text = self.ask("POST", path, body)
        return status, json.loads(text)

    def socket(self):
        return socket.create_connection((self.host, self.http), PATIENCE_S)
