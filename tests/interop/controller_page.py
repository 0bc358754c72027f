# SPDX-License-Identifier: Apache-2.0
"""The dashboard of `kvlane controller` in a real browser: no errors, and the numbers appear.
Skipped (77) where there is no chromium."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

from controller_process import Controller, until

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
BROWSER_S = 90


class Page(unittest.TestCase):
    def setUp(self):
        self.controller = Controller()
        self.addCleanup(self.controller.__exit__)
        self.fleet = self.controller.fleet()
        self.addCleanup(self.fleet.close)
        self.folder = tempfile.mkdtemp(prefix="kvl-page-")
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    def look(self, where="", picture=None):
        """Markup of the page once it has polled a few times; what the console said must be nothing."""
        command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
                   "--disable-dev-shm-usage", "--disable-background-networking",
                   f"--user-data-dir={self.folder}/{len(os.listdir(self.folder))}",
                   "--enable-logging=stderr", "--v=0", "--virtual-time-budget=8000",
                   "--window-size=1320,1000"]  # fmt: skip
        command.append(f"--screenshot={picture}" if picture else "--dump-dom")
        done = subprocess.run([*command, f"http://127.0.0.1:{self.controller.http}/{where}"],
                              capture_output=True, text=True, timeout=BROWSER_S)  # fmt: skip
        said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
        self.assertEqual(said, [])
        self.assertEqual(done.returncode, 0, done.stderr[-2000:])
        return re.sub(r"<(script|style)>.*?</\1>", "", done.stdout, flags=re.S)

    def value(self, page, name):
        return re.search(rf'id="v-{name}">([^<]*)<', page)[1]

    def test_empty(self):
        page = self.look()
        self.assertIn("No worker has registered yet", page)
        self.assertEqual(self.value(page, "workers"), "0")
        self.assertRegex(page, 'class="live on"')

    def test_small_fleet(self):
        self.fleet.heartbeat('odd <b>"name"</b> é')
        self.fleet.heartbeat("engine-b", url=None)
        self.fleet.admit("engine-b", 0, range(1234))
        self.fleet.register("engine-c")
        self.assertTrue(self.fleet.sync_start("engine-c", 0, 8)["accepted"])
        self.fleet.sync_batch("engine-c", 0, 0, [1, 2])
        until(lambda: self.controller.get("/controller/overview")["keys"] == 1236, "the keys arrive")
        self.assertEqual(self.fleet.lookup("x", 0, [1]), [["engine-c", "LocalCPUBackend", 1,
                                                          "127.0.0.1:7600"]])  # fmt: skip
        page = self.look()
        self.assertEqual(self.value(page, "workers"), "3")
        self.assertEqual(self.value(page, "keys"), "1,236")
        self.assertEqual(self.value(page, "hits"), "100 %")
        self.assertIn('>odd &lt;b&gt;"name"&lt;/b&gt; é<', page)
        self.assertIn("full sync, 1 of 8 batches", page)
        self.assertIn("peers cannot fetch from it", page)

    def test_large_fleet(self):
        for i in range(2500):
            for worker in range(4):
                self.fleet.register(f"engine-{i:04}", worker)
        self.fleet.admit("engine-1111", 2, [1])
        page = self.look()
        self.assertEqual(self.value(page, "workers"), "10.0 k")
        self.assertIn("1 – 25 of 10,000", page)
        self.assertEqual(len(re.findall("<tr>", page)), 26)
        page = self.look("#q=engine-111&sort=keys")
        self.assertIn("40 of 10,000", page)
        self.assertLess(page.index("engine-1111"), page.index("engine-1110"))
        picture = os.path.join(self.folder, "page.png")
        self.look(picture=picture)
        self.assertGreater(os.path.getsize(picture), 20000)


if __name__ == "__main__":
    if BROWSER is None:
        print("no chromium")
        sys.exit(77)
    unittest.main()
