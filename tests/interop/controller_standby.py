# SPDX-License-Identifier: Apache-2.0
"""A warm standby of a controller: it has what the primary was told, and goes on when that dies."""

import os
import random
import signal
import socket
import sys
import threading
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from controller_fleet import connect  # noqa: E402
from controller_process import Controller, until  # noqa: E402

WORKERS = 40
BATCH = 20
STANDBY_HOST = "127.0.0.2"  # so that it may have the ports of the primary


def name(worker):
    return f"engine-{worker}"


def key(worker, n):
    return worker * 1_000_000 + n + 1


def counters(controller):
    status, _, text = controller.ask("GET", "/metrics")
    assert status == 200, status
    found = {}
    for line in text.splitlines():
        if line.startswith("kvlane_controller_"):
            word, value = line.split(" ")
            found[word[len("kvlane_controller_"):].removesuffix("_total")] = int(value)
    return found


def keys(controller):
    stats = controller.get("/controller/key-stats")
    return {i["instance_id"]: i["key_count"] for i in stats["instances"]}


def standby_of(primary, **settings):
    return Controller(host=STANDBY_HOST, pull_port=primary.pull, reply_port=primary.reply,
                      standby_of=f"127.0.0.1:{primary.replica}", standby_takeover="2s",
                      **settings)  # fmt: skip


def follows(standby):
    until(lambda: counters(standby)["standby_follows"] == 1, "the standby follows")


def alike(primary, standby):
    until(lambda: keys(primary) == keys(standby), "the standby has the keys of the primary")


class Load(threading.Thread):
    """Workers that admit one key after the other, and evict every tenth again."""

    def __init__(self, controller):
        super().__init__()
        self.fleet = controller.fleet()
        self.told = [0] * WORKERS
        self.seq = [0] * WORKERS
        self.ending = threading.Event()
        for worker in range(WORKERS):
            self.fleet.register(name(worker))

    def step(self, worker, kind="admit", numbers=None):
        numbers = numbers or range(self.told[worker], self.told[worker] + BATCH)
        self.fleet.admit(name(worker), 0, [key(worker, n) for n in numbers], self.seq[worker],
                         kind=kind)  # fmt: skip
        self.seq[worker] += len(numbers)

    def run(self):
        try:
            while not self.ending.is_set():
                for worker in range(WORKERS):
                    self.step(worker)
                    self.told[worker] += BATCH
        except OSError:
            pass  # the primary was killed

    def stop(self):
        self.ending.set()
        self.join()


def kill(controller):
    controller.process.send_signal(signal.SIGKILL)
    controller.process.wait()
    controller.process.stdout.close()


class Standby(unittest.TestCase):
    def setUp(self):
        self.started = []

    def tearDown(self):
        for controller in self.started:
            if controller.process.poll() is None:
                controller.__exit__()

    def primary(self, **settings):
        self.started.append(Controller(replica_port=-1, **settings))
        return self.started[-1]

    def standby(self, primary, **settings):
        self.started.append(standby_of(primary, **settings))
        return self.started[-1]

    def prefix(self, standby, fleet, worker, most):
        """How many keys of a worker the standby has; they must be the first ones."""
        count = keys(standby).get(name(worker), 0)
        self.assertLessEqual(count, most)
        if count > 0:
            found = fleet.lookup("asker", 0, [key(worker, n) for n in range(count + 1)])
            self.assertEqual(found[0][:3], [name(worker), "LocalCPUBackend", count])
        return count

    def test_killed_under_load(self):
        for _ in range(3):
            primary = self.primary()
            load = Load(primary)
            load.start()
            standby = self.standby(primary)
            follows(standby)
            before = keys(standby)
            time.sleep(random.random() / 2)  # the moment is what is tried out
            kill(primary)
            load.stop()
            until(lambda s=standby: counters(s)["standby_takeovers"] == 1, "takes over")
            fleet = standby.fleet()
            for worker in range(WORKERS):
                count = self.prefix(standby, fleet, worker, load.told[worker] + BATCH)
                self.assertGreaterEqual(count, before.get(name(worker), 0))
                self.assertGreater(count, 0)
            self.takes_over(standby, fleet)
            fleet.close()
            standby.__exit__()

    def takes_over(self, standby, fleet):
        """Workers come to the ports that they know, and nobody is asked for a full sync."""
        for worker in range(WORKERS):
            answer = fleet.heartbeat(name(worker))
            self.assertEqual(answer, {"type": "HeartbeatRetMsg", "commands": []})
        before = keys(standby)
        fleet.admit(name(0), 0, [key(0, 900_000)], 10_000_000)
        until(lambda: keys(standby)[name(0)] == before[name(0)] + 1, "events go on")
        found = counters(standby)
        self.assertEqual((found["sync_requests"], found["sync_starts"]), (0, 0))
        self.assertEqual(found["standby_takeovers"], 1)

    def test_announced_is_there(self):
        primary = self.primary()
        load = Load(primary)
        load.start()
        until(lambda: keys(primary).get(name(WORKERS - 1), 0) > 500, "some load")
        standby = self.standby(primary)
        follows(standby)
        load.stop()
        for worker in range(0, WORKERS, 2):
            load.step(worker, "evict", range(0, load.told[worker], 10))
        told = {name(w): load.told[w] - (load.told[w] // 10 if w % 2 == 0 else 0)
                for w in range(WORKERS)}  # fmt: skip
        # Events and registrations go by different sockets: what is still on its way would come
        # after the registration.
        until(lambda: keys(primary) == told, "all events at the primary")
        load.fleet.deregister(name(3))
        load.fleet.register(name(5))  # anew: its keys go
        until(lambda: name(3) not in keys(primary) and keys(primary)[name(5)] == 0, "the primary")
        expected = {worker: count for worker, count in told.items() if worker != name(3)}
        expected[name(5)] = 0
        until(lambda: keys(primary) == expected, "the primary has it all")
        alike(primary, standby)
        found = counters(standby)
        self.assertEqual(found["standby_restarts"], 0)
        self.assertEqual(found["standby_bases"], 1)
        gaps = standby.ask("GET", "/metrics")[2]
        self.assertIn('kv_op_seq_discontinuity_count{role="controller"} 0', gaps)
        kill(primary)
        until(lambda: counters(standby)["standby_takeovers"] == 1, "takes over")
        self.assertEqual(keys(standby), expected)
        fleet = standby.fleet()
        self.assertEqual(fleet.lookup("asker", 0, [key(7, 0), key(7, 1)])[0][2], 2)
        self.takes_over_all_but_gone(fleet)
        load.fleet.close()
        fleet.close()

    def takes_over_all_but_gone(self, fleet):
        for worker in range(WORKERS):
            commands = fleet.heartbeat(name(worker))["commands"]
            self.assertEqual(len(commands), worker == 3)  # nobody knows it any more

    def test_sync_under_way(self):
        """One that began before the base is completed by what comes after it."""
        primary = self.primary()
        fleet = primary.fleet()
        for worker in range(3):
            fleet.register(name(worker))
            fleet.admit(name(worker), 0, [99], 0)
            until(lambda w=worker: keys(primary)[name(w)] == 1, "an old key")
            self.assertTrue(fleet.sync_start(name(worker), 0, 200, sync=f"s{worker}")["accepted"])
        for batch in range(0, 100):
            fleet.sync_batch(name(0), 0, batch, [key(0, batch)], "s0")
        until(lambda: keys(primary)[name(0)] == 100, "half of a sync")
        standby = self.standby(primary)
        follows(standby)
        for batch in range(100, 200):
            fleet.sync_batch(name(0), 0, batch, [key(0, batch)], "s0")
        for batch in reversed(range(200)):
            fleet.sync_batch(name(1), 0, batch, [key(1, batch)], "s1")
        for worker in range(2):
            fleet.sync_end(name(worker), 0, 200, f"s{worker}")
        fleet.admit(name(0), 0, [key(0, 500)], 1)
        until(lambda: keys(primary)[name(0)] == 201, "the sync of the primary")
        alike(primary, standby)
        self.assertEqual(counters(standby)["standby_restarts"], 0)
        kill(primary)
        until(lambda: counters(standby)["standby_takeovers"] == 1, "takes over")
        after = standby.fleet()
        self.assertEqual(after.heartbeat(name(0))["commands"], [])
        self.assertEqual(after.heartbeat(name(1))["commands"], [])
        # This one never ended: it is told to begin anew.
        self.assertEqual(after.heartbeat(name(2))["commands"][0]["reason"], "sync_failed_retry")
        self.assertEqual(after.lookup("asker", 0, [key(0, n) for n in range(200)])[0][2], 200)
        fleet.close()
        after.close()

    def test_taken_out(self):
        primary = self.primary(health_check_interval="1s", lmcache_worker_timeout="1s")
        fleet = primary.fleet()
        fleet.register(name(0))
        fleet.heartbeat(name(0))
        fleet.register(name(1))
        fleet.admit(name(0), 0, [1, 2, 3], 0)
        standby = self.standby(primary, health_check_interval="1s", lmcache_worker_timeout="300s")
        follows(standby)
        until(lambda: keys(primary) == {name(1): 0}, "the primary takes the silent one out")
        alike(primary, standby)
        self.assertEqual(counters(standby)["reaped"], 0)
        fleet.close()

    def test_slow_standby(self):
        primary = self.primary(replica_buffer="64KiB")
        load = Load(primary)
        standby = self.standby(primary)
        follows(standby)
        standby.process.send_signal(signal.SIGSTOP)
        # More than the connection and all its buffers take.
        end = time.monotonic() + 60
        longest = 0
        while counters(primary)["replica_overruns"] == 0:
            self.assertLess(time.monotonic(), end)
            for worker in range(WORKERS):
                load.step(worker)
                load.told[worker] += BATCH
            begin = time.monotonic()
            load.fleet.heartbeat(name(0))
            longest = max(longest, time.monotonic() - begin)
        self.assertLess(longest, 2)
        standby.process.send_signal(signal.SIGCONT)
        until(lambda: keys(primary)[name(0)] == load.told[0], "all of the load")
        until(lambda: counters(standby)["standby_bases"] >= 2, "another base")
        alike(primary, standby)
        load.step(0, "evict", [0])
        load.fleet.admit("late", 0, [1])  # not registered: not told
        alike(primary, standby)
        self.assertEqual(counters(standby)["standby_takeovers"], 0)
        load.fleet.close()

    def test_garbage(self):
        primary = self.primary()
        standby = self.standby(primary)
        follows(standby)
        for data in (b"", b"KVR", b"KVR\x02" + bytes(20), b"KVR\x01" + bytes(20),
                     b"KVR\x01\x03\0\0\0" + bytes(16), os.urandom(24)):  # fmt: skip
            bad = counters(primary)["replica_bad"]
            dealer = connect(primary.replica, b"DEALER")
            dealer.send(data)
            until(lambda b=bad: counters(primary)["replica_bad"] > b, "it is counted")
            dealer.close()
        dealer = connect(primary.replica, b"DEALER")
        dealer.send(b"KVR\x01\x02\0\0\0" + bytes(16))  # CREDIT of nobody
        self.assertEqual(dealer.receive()[0][4], 8)  # RESET
        dealer.send(bytes(4096))  # longer than anything that a standby says
        with self.assertRaises((ConnectionError, OSError)):
            dealer.receive()
        dealer.close()
        with socket.create_connection(("127.0.0.1", primary.replica)) as s:
            s.sendall(os.urandom(4096))
        self.many_hellos(primary)
        fleet = primary.fleet()
        fleet.register(name(0))
        fleet.admit(name(0), 0, [1, 2])
        until(lambda: keys(standby).get(name(0)) == 2, "the standby goes on")
        self.assertEqual(counters(standby)["standby_restarts"], 0)
        fleet.close()

    def many_hellos(self, primary):
        """More standbys than there may be; they never give credit back."""
        dealers = [connect(primary.replica, b"DEALER") for _ in range(12)]
        for n, dealer in enumerate(dealers):
            dealer.send(b"KVR\x01\x01\0\0\0" + (n + 1).to_bytes(8, "little") + b"\xff" * 8)
        first = [dealer.receive()[0][4] for dealer in dealers]
        self.assertEqual(first.count(8), 5)  # RESET: seven found a place beside the standby
        for dealer in dealers:
            dealer.close()

    def test_comes_back(self):
        """A primary that was only away for a while is followed again, unless workers have come."""
        primary = self.primary()
        fleet = primary.fleet()
        fleet.register(name(0))
        fleet.admit(name(0), 0, [1, 2, 3])
        standby = self.standby(primary)
        follows(standby)
        primary.process.send_signal(signal.SIGSTOP)
        until(lambda: counters(standby)["standby_takeovers"] == 1, "takes over")
        primary.process.send_signal(signal.SIGCONT)
        follows(standby)
        alike(primary, standby)
        primary.process.send_signal(signal.SIGSTOP)
        until(lambda: counters(standby)["standby_takeovers"] == 2, "takes over again")
        after = standby.fleet()
        self.assertEqual(after.heartbeat(name(0))["commands"], [])
        primary.process.send_signal(signal.SIGCONT)
        after.admit(name(0), 0, [4, 5], 3)
        until(lambda: keys(standby)[name(0)] == 5, "workers are with the standby")
        fleet.register(name(1))
        self.assertEqual(counters(standby)["standby_follows"], 0)
        self.assertEqual(keys(standby), {name(0): 5})
        fleet.close()
        after.close()


if __name__ == "__main__":
    unittest.main()
