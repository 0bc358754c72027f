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
    def check(self, name, *arguments):
        path = os.path.join(CONFIG, name)
        missing = set(sections_of(path)) - {"kvlane", "store", "registry"}
        missing -= set(os.environ["KVL_BACKENDS"].split())
        if missing:
            self.skipTest(f"not built: {missing}")
        done = subprocess.run(
            [os.environ["KVLANE"], "check", path, *arguments],
            capture_output=True, text=True, check=False,
        )
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_every_key(self):
        self.check("kvlane.ini")

    def test_example_for_production(self):
        self.check("kvlane-serve.ini")

    def test_peers(self):
        """One engine of the example serves a chunk to another one, which has it from nobody else."""
        example = "examples/peer-engines.ini"
        self.check(example)
        other = os.path.join(CONFIG, example)
        with open(other, encoding="utf-8") as file:
            text = file.read()
        # The kernel picks the ports, and what serves the chunk gets it by lm://.
        text = re.sub(r"(?m)^(bind) = .*$", r"\1 = 127.0.0.1:0", text)
        text = re.sub(r"(?m)^peers = .*\n", "", text)
        server = "[tcp_remote:in]\nrole = server\nlisten = 127.0.0.1:0\n"
        with tempfile.NamedTemporaryFile("w", suffix=".ini") as file:
            file.write(text + server)
            file.flush()
            process = subprocess.Popen(
                [os.environ["KVLANE"], "serve", "--config", file.name, "--parent-death"],
                stdout=subprocess.PIPE, text=True,
            )
            try:
                peer, lm = (process.stdout.readline().split()[2] for _ in range(2))
                key = ("peer@1@0@1f@half",)
                put = ["put", "--server", lm, *key, other]
                get = ["get", "--quiet", "--config", other, "--set", "py_socket.bind=127.0.0.1:0",
                       "--set", "py_socket.peers=" + peer, *key]
                for arguments in put, get:
                    done = subprocess.run([os.environ["KVLANE"], *arguments],
                                          capture_output=True, text=True, check=False,
                                          timeout=ops.PATIENCE_S)
                    self.assertEqual(done.returncode, 0, done.stderr)
                with open(other, encoding="utf-8") as sent:
                    self.assertEqual(done.stdout, sent.read())
            finally:
                process.kill()
                process.wait()
                process.stdout.close()

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
