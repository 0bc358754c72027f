# SPDX-License-Identifier: Apache-2.0
"""The files in config/ are right: kvlane takes the INI files, systemd takes the unit."""

import os
import re
import shutil
import subprocess
import tempfile
import unittest

import ops

CONFIG = os.path.join(os.environ["KVL_SOURCE"], "config")


def sections_of(path):
    with open(path, encoding="utf-8") as file:
        return re.findall(r"(?m)^\[([a-z_]+)", file.read())


class Files(unittest.TestCase):
    def check(self, name):
        path = os.path.join(CONFIG, name)
        missing = set(sections_of(path)) - {"kvlane", "store", "registry"}
        missing -= set(os.environ["KVL_BACKENDS"].split())
        if missing:
            self.skipTest(f"not built: {missing}")
        done = subprocess.run(
            [os.environ["KVLANE"], "check", path], capture_output=True, text=True, check=False
        )
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_every_key(self):
        self.check("kvlane.ini")

    def test_example_for_production(self):
        self.check("kvlane-serve.ini")

    @unittest.skipUnless(shutil.which("systemd-analyze"), "no systemd-analyze")
    def test_unit(self):
        with open(os.path.join(CONFIG, "kvlane.service"), encoding="utf-8") as file:
            text = file.read()
        # Verified as it will be, but for the executable, which is not installed here.
        text = text.replace("/usr/bin/kvlane", os.environ["KVLANE"])
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "kvlane.service")
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
            done = subprocess.run(
                ["systemd-analyze", "verify", "--man=no", path],
                capture_output=True,
                text=True,
                check=False,
            )
        ours = [line for line in done.stderr.splitlines() if "kvlane" in line]
        self.assertEqual(ours, [])


if __name__ == "__main__":
    unittest.main()
