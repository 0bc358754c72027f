# SPDX-License-Identifier: Apache-2.0
"""kvlane demo and replay: which paths engine processes share chunks by, and that bytes are right."""

import json
import os
import re
import shutil
import subprocess
import tempfile
import unittest

import ops

PATIENCE_S = 120
SMALL = ("--prompts", "1", "--tokens", "600", "--decode", "2")
NO_GPU = ("--gpu", "no")  # also where there is one
WORDS = ("own", "engine", "remote")


def kvlane(*arguments):
    environment = {k: v for k, v in os.environ.items() if k != "KVLANE_CONFIG"}
    return subprocess.run(
        [os.environ["KVLANE"], *arguments], capture_output=True, text=True, check=False,
        timeout=PATIENCE_S, env=environment)


class Engines(unittest.TestCase):
    def setUp(self):
        self.with_peers = ops.built("py_socket")

    def run_well(self, *arguments, code=0):
        done = kvlane(*arguments)
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        return done.stdout

    def without_py_socket(self):
        """--set for a folder of modules that lacks it."""
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        shutil.copy(os.environ["KVL_TCP_REMOTE"], folder.name)
        if "KVL_CUDA_IPC" in os.environ:
            shutil.copy(os.environ["KVL_CUDA_IPC"], folder.name)
        return "--set", "kvlane.module_path=" + folder.name


class Demo(Engines):
    def test_every_path(self):
        if not self.with_peers:
            self.skipTest("py_socket is not built")
        out = self.run_well("demo", *SMALL, *NO_GPU)
        self.assertRegex(out, r"(?m)^demo: ok paths=local,py_socket,tcp_remote identical=yes ")
        self.assertRegex(out, r" B +py_socket +2/2 ")
        self.assertRegex(out, r" C +tcp_remote +2/2 ")
        self.assertIn("in the memory of A: replaced by a good copy", out)
        self.assertEqual(len(re.findall(r"(?m)^one bit flipped .* bit-identical: yes$", out)), 3)

    def test_without_a_server_the_chunk_is_computed(self):
        if not self.with_peers:
            self.skipTest("py_socket is not built")
        out = self.run_well("demo", *SMALL, *NO_GPU, "--no-server")
        self.assertIn("in the memory of A: refused", out)
        self.assertRegex(out, r"(?m)^demo: ok paths=local,py_socket identical=yes ")

    def test_a_bit_is_seen_by_the_checksum(self):
        if not self.with_peers:
            self.skipTest("py_socket is not built")
        out = self.run_well("demo", *SMALL, *NO_GPU, "--set", "store.checksum=no", code=1)
        self.assertIn("in the memory of A: NOT SEEN", out)

    def test_without_py_socket(self):
        out = self.run_well("demo", *SMALL, *NO_GPU, *self.without_py_socket())
        self.assertRegex(out, r"(?m)^py_socket: not there")
        self.assertRegex(out, r"(?m)^demo: ok paths=local,tcp_remote identical=yes ")

    def test_with_a_file_of_the_users(self):
        path = os.path.join(os.environ["KVL_SOURCE"], "config/examples/demo-engine.ini")
        out = self.run_well("demo", *SMALL, *NO_GPU, "--config", path)
        self.assertRegex(out, r"(?m)^demo: ok paths=local,tcp_remote identical=yes ")


class Gpu(Engines):
    """On the fake driver: the memory of the engines is then that of a device, which the CPU cannot
    read, and streams run late."""

    def setUp(self):
        super().setUp()
        if not ops.built("cuda_ipc"):
            self.skipTest("cuda_ipc is not built")
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        os.environ["KVLANE_FAKE_CUDA_STATE"] = os.path.join(folder.name, "state")
        self.addCleanup(os.environ.pop, "KVLANE_FAKE_CUDA_STATE")
        self.fake = ("--gpu", "yes", "--cuda-driver", os.environ["KVL_FAKE_CUDA"])

    def test_demo(self):
        out = self.run_well("demo", *SMALL, *self.fake)
        paths = "local,cuda_ipc,py_socket,tcp_remote" if self.with_peers else (
            "local,cuda_ipc,tcp_remote")
        self.assertRegex(out, r"(?m)^demo: ok paths=%s identical=yes .* ttft_cuda_ipc_ms=" % paths)
        self.assertRegex(out, r" G +cuda_ipc +2/2 ")

    def test_demo_without_py_socket(self):
        out = self.run_well("demo", *SMALL, *self.fake, *self.without_py_socket())
        self.assertRegex(out, r"(?m)^demo: ok paths=local,cuda_ipc,tcp_remote identical=yes ")

    def test_demo_with_another_word(self):
        done = kvlane("demo", *SMALL, "--gpu", "perhaps")
        self.assertEqual(done.returncode, 2)
        self.assertIn("--gpu wants", done.stderr)

    def test_demo_without_a_driver(self):
        done = kvlane("demo", *SMALL, "--gpu", "yes", "--cuda-driver", "/nowhere/libcuda.so.1")
        self.assertEqual(done.returncode, 4)
        self.assertIn("no CUDA driver", done.stderr)
        out = self.run_well("demo", *SMALL, "--cuda-driver", "/nowhere/libcuda.so.1")
        self.assertNotIn("cuda_ipc", out)


class Replay(Engines):
    """A trace in which request n + 1 begins with all of request n, so that each engine finds what the
    one before it has computed, and nothing of its own that is as long."""

    def setUp(self):
        super().setUp()
        self.trace = tempfile.NamedTemporaryFile("w", suffix=".jsonl")
        self.addCleanup(self.trace.close)
        for n in range(1, 41):
            line = {"timestamp": n, "input_length": 512 * n, "output_length": 1,
                    "hash_ids": list(range(n))}
            self.trace.write(json.dumps(line) + "\n")
        self.trace.flush()

    def replay(self, *arguments, engines=4):
        out = self.run_well("replay", "--trace", self.trace.name, "--engines", str(engines),
                            *arguments)
        last = out.splitlines()[-1]
        self.assertTrue(last.startswith("replay: ok requests=40 blocks=820 hits=780 "), out)
        self.assertTrue(last.endswith(" recompute=40 lost=0 errors=0"), out)
        found = dict(re.findall(r"([a-z]+)=([0-9]+)", last))
        return out, tuple(int(found[word]) for word in WORDS)

    def test_each_way_finds_the_same(self):
        elsewhere = 3 * 36 + 1 + 2 + 3  # what up to three others have added since its last turn
        own = 780 - elsewhere
        self.assertEqual(self.replay("--share", "tcp_remote")[1], (own, 0, elsewhere))
        if self.with_peers:
            self.assertEqual(self.replay("--share", "py_socket")[1], (own, elsewhere, 0))
            out, counts = self.replay()
            self.assertEqual(counts, (own, elsewhere, 0))
            share = 100 * elsewhere / 780
            self.assertRegex(out, r"(?m)^  in another engine +%d +%.2f %%$" % (elsewhere, share))
            self.assertRegex(out, r"maps [0-9.]+ [KM]iB of others")

    def test_metadata_only(self):
        if self.with_peers:
            _, counts = self.replay("--metadata-only", "--share", "py_socket", engines=2)
            self.assertEqual(counts, (741, 39, 0))

    def test_one_engine(self):
        self.assertEqual(self.replay(engines=1)[1], (780, 0, 0))

    def test_without_py_socket(self):
        out, counts = self.replay(*self.without_py_socket(), engines=2)
        self.assertEqual(counts, (741, 0, 39))
        self.assertRegex(out, r"(?m)^py_socket: not there")
        done = kvlane("replay", "--trace", self.trace.name, "--engines", "2", "--share", "py_socket",
                      *self.without_py_socket())
        self.assertEqual(done.returncode, 3)
        self.assertIn("kvl-py_socket.so", done.stderr)

    def test_on_a_gpu(self):
        if not ops.built("cuda_ipc"):
            self.skipTest("cuda_ipc is not built")
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        os.environ["KVLANE_FAKE_CUDA_STATE"] = os.path.join(folder.name, "state")
        self.addCleanup(os.environ.pop, "KVLANE_FAKE_CUDA_STATE")
        fake = ("--gpu", "--cuda-driver", os.environ["KVL_FAKE_CUDA"])
        self.assertEqual(self.replay(*fake, engines=1)[1], (780, 0, 0))
        if self.with_peers:
            out, counts = self.replay(*fake, engines=2)
            self.assertEqual(counts, (741, 39, 0))
            self.assertRegex(out, r"(?m)^  from a GPU's memory +[1-9]")

    def test_wrong_share(self):
        done = kvlane("replay", "--trace", self.trace.name, "--share", "all")
        self.assertEqual(done.returncode, 2)
        self.assertIn("--share wants", done.stderr)


if __name__ == "__main__":
    unittest.main()
