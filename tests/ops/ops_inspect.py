# SPDX-License-Identifier: Apache-2.0
"""kvlane inspect: keys, wrappers and KV caches as text, and why others are refused."""

import json
import os
import subprocess
import tempfile
import unittest

import ops

VECTORS = os.path.join(os.environ["KVL_SOURCE"], "tests/vectors/ipc")
CONFIG = f"[kvlane]\nmodule_path = {os.environ['KVL_MOCKS']}\n[mock_codecs]\n"


def vector(path):
    with open(os.path.join(VECTORS, path), "rb") as file:
        return file.read()


class Inspect(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="kvl-ops-")
        self.addCleanup(folder.cleanup)
        self.config = os.path.join(folder.name, "kvlane.ini")
        with open(self.config, "w", encoding="utf-8") as file:
            file.write(CONFIG)

    def inspect(self, data, *arguments):
        """Exit code, stdout, stderr."""
        done = subprocess.run(
            [os.environ["KVLANE"], "inspect", "--config", self.config, *arguments],
            input=data, capture_output=True, timeout=ops.PATIENCE_S, check=False)
        return done.returncode, done.stdout.decode(), done.stderr.decode()

    def test_key(self):
        code, out, _ = self.inspect(vector("msgpack/k01_worker0.bin"))
        self.assertEqual(code, 0)
        self.assertRegex(out, r"(?m)^key$")
        self.assertRegex(out, r"(?m)^  model_name +meta-llama/Llama-3.1-8B-Instruct$")
        self.assertRegex(out, r"(?m)^  worker_id +0$")
        self.assertRegex(out, r"(?m)^  chunk_hash +70c1c5eb.* \(32 bytes\)$")
        code, out, _ = self.inspect(vector("msgpack/k02_lookup_none.bin"), "-", "--as", "key")
        self.assertEqual(code, 0)
        self.assertRegex(out, r"(?m)^  worker_id +none")

    def test_keys_of_generations(self):
        code, out, _ = self.inspect(vector("msgpack/k11_list3.bin"), "--as", "key")
        self.assertEqual(code, 0)
        self.assertEqual(out.count("world_size"), 3)
        code, out, _ = self.inspect(vector("msgpack/k30_token.bin"), "--generation", "C")
        self.assertEqual(code, 0)
        self.assertRegex(out, r"(?m)^  token_ids +4 tokens$")
        self.assertEqual(self.inspect(vector("msgpack/k30_token.bin"))[0], 3)
        self.assertEqual(self.inspect(b"", "--generation", "AB")[0], 2)

    def test_every_good_pickle(self):
        with open(os.path.join(VECTORS, "pickle/index.json"), encoding="utf-8") as file:
            rows = json.load(file)["vectors"]
        for name, row in rows.items():
            code, out, err = self.inspect(vector("pickle/" + row["file"]), "--as", "wrapper")
            if row["check"] == "accept" or name == "p11_pre_uuid":
                self.assertEqual(code, 0, name)
                dtype = row["attributes"]["dtype"]["dtype"].partition(".")[2]
                self.assertRegex(out, rf"(?m)^  dtype +{dtype}$")
            else:
                self.assertEqual(code, 3, name)
                self.assertRegex(err, r"refused: .* at byte [0-9]+")
                self.assertEqual(out, "")

    def test_handles(self):
        code, out, _ = self.inspect(vector("pickle/p05_expandable_posix.bin"))
        self.assertEqual(code, 0)
        self.assertRegex(out, r"(?m)^  handle +expandable .* 54321: 3 descriptors of 20.0 MiB")
        code, out, _ = self.inspect(vector("pickle/p10_shape_none_handle_empty_storage.bin"))
        self.assertEqual(code, 0)
        self.assertRegex(out, r"(?m)^  handle +none")

    def test_kv_caches(self):
        code, out, _ = self.inspect(vector("msgpack/x03_kvcache_2.bin"))
        self.assertEqual(code, 0)
        self.assertRegex(out, r"(?m)^KV cache, layers of 2$")
        self.assertEqual(out.count("device_uuid"), 2)
        self.assertEqual(self.inspect(vector("msgpack/x01_ext_single.bin"))[0], 0)
        self.assertEqual(self.inspect(b"\x90", "--as", "kvcache")[0], 0)
        code, _, err = self.inspect(vector("msgpack/x07_kvcache_stride.bin"))
        self.assertEqual(code, 3)
        self.assertIn("highest element", err)

    def test_refusals(self):
        code, out, err = self.inspect(vector("hostile/h01_os_system.bin"))
        self.assertEqual((code, out), (3, ""))
        self.assertIn("'posix.system'", err)
        for data in (b"", b"\xc1", b"\x80", b"\x80\x04", b"\xdd\xff\xff\xff\xff", b"\x93\xc0"):
            self.assertEqual(self.inspect(data)[0], 3, data)
        self.assertEqual(self.inspect(b"", "--as", "list")[0], 2)
        self.assertEqual(self.inspect(b"", "/nonexistent")[0], 3)

    def test_text_of_a_peer_is_harmless(self):
        name = b"m\x1b[2J\xc2\x9b\n\xc3\xa4"
        key = vector("msgpack/k04_empty_hash.bin").replace(
            b"\xa1m", bytes([0xa0 + len(name)]) + name)
        code, out, _ = self.inspect(key)
        self.assertEqual(code, 0)
        self.assertIn("  model_name      m\\x1b[2J\\xc2\\x9b\\x0a\u00e4\n", out)

    @unittest.skipUnless(ops.built("cuda_ipc"), "cuda_ipc is not built")
    def test_without_a_file(self):
        done = subprocess.run([os.environ["KVLANE"], "inspect"], capture_output=True, check=False,
                              input=vector("pickle/p01_mha_fp16_v1.bin"), timeout=ops.PATIENCE_S)
        self.assertEqual(done.returncode, 0, done.stderr)


if __name__ == "__main__":
    unittest.main()
