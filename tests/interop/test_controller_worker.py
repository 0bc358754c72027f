# SPDX-License-Identifier: Apache-2.0
"""LMCache's own worker class and its own benchmark against kvlane's controller, and a fleet: what
happens when the controller or a worker dies in the middle of things."""
import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import types

import msgspec
from lmcache.v1.cache_controller.message import (BatchedKVOperationMsg, BatchedP2PLookupMsg,
                                                 KVOpEvent, OpType)
from lmcache.v1.cache_controller.worker import LMCacheWorker

from controller_rig import (MISS, Asker, Controller, Pusher, heartbeat, layout, lookup, ops,
                            register, sync, until)
from interop import check

CPU = "LocalCPUBackend"
EXTRA = {"full_sync_startup_delay_s": 0.0, "full_sync_status_poll_interval_s": 0.05,
         "full_sync_batch_size": 100, "full_sync_retry_delay_s": 0.1}


class Engine:
    """What LMCache's worker asks of its engine: the keys it holds, and orders carried out."""

    def __init__(self, keys):
        self.keys = list(keys)
        self.freezes = []
        self.orders = []
        self.storage_manager = types.SimpleNamespace(local_cpu_backend=self)

    def __str__(self):
        return CPU

    def get_keys(self):
        return [types.SimpleNamespace(chunk_hash=key) for key in self.keys]

    def freeze(self, on):
        self.freezes.append(on)

    def clear(self, locations=None):
        self.orders.append(("clear", locations))
        return 768

    def health(self):
        return 0


class Config(types.SimpleNamespace):
    def get_extra_config_value(self, key, default=None):
        return EXTRA.get(key, default)

    def get_lmcache_worker_ids(self, use_mla, world_size):
        return []


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def real_worker(c, instance, keys=(), rank=0, beat=0.05):
    config = Config(lmcache_instance_id=instance, controller_pull_url=f"{c.host}:{c.pull}",
                    controller_reply_url=f"{c.host}:{c.reply}",
                    lmcache_worker_ports=[free_port() for _ in range(rank + 1)], enable_p2p=True,
                    p2p_host="127.0.0.1", p2p_init_ports=[8200 + i for i in range(rank + 1)],
                    lmcache_worker_heartbeat_time=beat, lmcache_worker_heartbeat_delay_time=0.01)
    metadata = types.SimpleNamespace(worker_id=rank, world_size=rank + 1, use_mla=False)
    return LMCacheWorker(config, metadata, Engine(keys))


def events(instance, keys, seq=0, kind=OpType.ADMIT):
    return BatchedKVOperationMsg(
        instance_id=instance, worker_id=0, location=CPU,
        operations=[KVOpEvent(op_type=kind, key=k, seq_num=seq + i) for i, k in enumerate(keys)])


def run_in(worker, coroutine):
    return asyncio.run_coroutine_threadsafe(coroutine, worker.loop).result(20)


def test_real_workers():
    """Register, heartbeat with a full sync, events and lookups, all by LMCache's own code."""
    with Controller() as c:
        one = real_worker(c, "one", keys=range(1000, 1450))
        two = real_worker(c, "two")
        b = Asker(c)
        until(lambda: c.count("sync_ends") >= 2, "each sends one full sync by itself")
        check(layout(b.ask(lookup([1000, 1449, 9]))) == ["one", CPU, 2, "127.0.0.1:8200"],
              "what the sync brought")
        check(one.lmcache_engine.freezes[0] is True, "it froze for the sync")
        until(lambda: one.lmcache_engine.freezes == [True, False], "and thawed after it")
        beats = c.count("heartbeats")
        c.counted("heartbeats", beats + 5, "heartbeats go on")
        one.put_msg(events("one", [2**64 - 1, -2**63, 7], seq=0))
        one.put_msg(events("one", [7], seq=3, kind=OpType.EVICT))
        until(lambda: layout(b.ask(lookup([-2**63])))[0] == "one" and
              layout(b.ask(lookup([7]))) == MISS, "events")
        reply = run_in(two, two.async_put_and_wait_msg(BatchedP2PLookupMsg(
            hashes=[2**64 - 1, -2**63, 7], instance_id="two", worker_id=0)))
        check(list(reply.layout_info[0]) == ["one", CPU, 2, "127.0.0.1:8200"],
              "a lookup by LMCache's worker")
        b.close()


def test_killed_in_mid_sync():
    """The controller dies while a worker syncs and comes back on the same ports: LMCache's worker
    reconnects by itself, is asked for a sync, and everything converges to what it holds."""
    first = Controller()
    worker = real_worker(first, "kept", keys=range(5000, 7500))
    until(lambda: first.count("sync_starts") >= 1, "the sync has begun")
    first.stop(signal.SIGKILL)
    with Controller(ports=first.ports, folder=first.folder) as c:
        b = Asker(c)
        until(lambda: c.count("sync_ends") >= 1 and
              layout(b.ask(lookup(list(range(5000, 7500)))))[2] == 2500, "all keys are back", 40)
        check(layout(b.ask(lookup([7500]))) == MISS, "and no others")
        b.close()


def test_snapshot_survives():
    """Stopped and started again with a snapshot: no worker is asked for anything."""
    first = Controller()
    path = os.path.join(first.folder, "snapshot")
    first.stop()
    extra = f"snapshot = {path}\nsnapshot_interval = 0"
    with Controller(folder=first.folder, extra=extra) as c:
        b, a, beats = Asker(c), Pusher(c), Asker(c, c.heartbeat)
        check("no snapshot" in c.logged(), "the first start has none")
        b.ask(register("snap", port=77))
        b.ask(sync("Start", "snap", 0, "s", total_keys=2, batch_count=1))
        a.push(sync("Batch", "snap", 0, "s", batch_id=0, keys=[1, -1]),
               sync("End", "snap", 0, "s", actual_total_keys=2), ops("snap", 0, [2], seq=10))
        until(lambda: layout(b.ask(lookup([2])))[0] == "snap", "events")
        for s in (a, b, beats):
            s.close()
    with Controller(folder=first.folder, extra=extra) as c:
        b, beats = Asker(c), Asker(c, c.heartbeat)
        check(layout(b.ask(lookup([1, -1, 2])))[2:] == [3, "10.0.0.1:77"], "all is there at once")
        check(beats.ask(heartbeat("snap", port=77))["commands"] == [], "and nobody is asked")
        b.close()
        beats.close()
    with open(path, "r+b") as f:
        f.seek(os.path.getsize(path) // 2)
        byte = f.read(1)
        f.seek(-1, os.SEEK_CUR)
        f.write(bytes([byte[0] ^ 0x55]))
    with Controller(folder=first.folder, extra=extra) as c:
        b = Asker(c)
        check(layout(b.ask(lookup([1]))) == MISS, "a damaged snapshot is not used")
        check("damaged, or of another version, we start empty" in c.logged(), "and told")
        b.close()


def test_thousand_register_at_once():
    """1,000 workers of 125 instances on connections of their own, all at the same moment."""
    with Controller() as c:
        ready = threading.Barrier(8)
        wrong = []

        def herd(part):
            askers = [Asker(c) for _ in range(125)]
            ready.wait()
            for i, asker in enumerate(askers):
                asker.send(register(f"herd{i}", part, port=1 + part))
            for i, asker in enumerate(askers):
                if asker.receive()["type"] != "RegisterRetMsg":
                    wrong.append((part, i))
            for asker in askers:
                asker.close()

        threads = [threading.Thread(target=herd, args=(part,)) for part in range(8)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        check(not wrong, f"all are answered, but {wrong[:5]}")
        check(c.count("registrations") == 1000, "and counted")
        a, b = Pusher(c), Asker(c)
        for i in range(125):
            a.push(*[ops(f"herd{i}", part, [i * 8 + part]) for part in range(8)])
        for i in range(125):
            until(lambda: layout(b.ask(lookup([i * 8 + 7])))[0] == f"herd{i}", "its keys")
        check(c.count("dropped_unknown_worker") == 0, "nothing is lost")
        a.close()
        b.close()


def test_heartbeats_beside_a_flood():
    """While events pour in, heartbeats and lookups are answered."""
    with Controller() as c:
        a, b, beats = Pusher(c), Asker(c), Asker(c, c.heartbeat)
        b.ask(register("flood"))
        frame = msgspec.msgpack.encode(ops("flood", 0, range(1000)))
        stop = threading.Event()

        def flood():
            pusher = Pusher(c)
            while not stop.is_set():
                pusher.push(*[frame] * 20)
            pusher.close()

        thread = threading.Thread(target=flood)
        thread.start()
        for _ in range(50):
            check(beats.ask(heartbeat("flood"))["type"] == "HeartbeatRetMsg", "a heartbeat")
            check(b.ask(lookup([1]))["type"] == "BatchedP2PLookupRetMsg", "a lookup")
        stop.set()
        thread.join()
        for s in (a, b, beats):
            s.close()


def test_lmcache_benchmark():
    """LMCache's own load generator: everything is answered and nothing is an error."""
    with Controller() as c:
        ports = '{"pull": %d, "reply": %d, "heartbeat": %d}' % c.ports
        done = subprocess.run(
            [sys.executable, "-m", "lmcache.tools.controller_benchmark", "--controller-host",
             c.host, "--monitor-ports", ports, "--duration", "2", "--batch-size", "50",
             "--operations", "admit:40,evict:20,heartbeat:20,p2p_lookup:20", "--num-instances",
             "5", "--num-keys", "5000"],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=90)
        check(done.returncode == 0, f"the benchmark ends well: {done.stdout[-3000:]}")
        check("Errors: 0" in done.stdout and
              all("Errors: 0" in line for line in done.stdout.splitlines() if "Errors:" in line),
              f"no errors: {done.stdout[-3000:]}")
        found = c.counters()
        for name in ("key_ops", "heartbeats", "lookups", "registrations"):
            check(found[f"controller_{name}"] > 0, f"it counts {name}")
        for name in ("bad_frames", "unknown_messages", "short_messages", "dropped_unknown_worker"):
            check(found[f"controller_{name}"] == 0, f"no {name}")


def main():
    """Each test in a process of its own: LMCache's worker cannot be closed without leaving tasks
    behind that spin, and dies with the process."""
    if len(sys.argv) > 1:
        globals()[sys.argv[1]]()
        sys.stdout.flush()
        os._exit(0)
    for name in [name for name in globals() if name.startswith("test_")]:
        code = subprocess.run([sys.executable, __file__, name], timeout=120,
                              env=dict(os.environ, LMCACHE_LOG_LEVEL="ERROR")).returncode
        check(code == 0, f"{name} ends with {code}")
        print(f"ok {name}", flush=True)


if __name__ == "__main__":
    main()
