# SPDX-License-Identifier: Apache-2.0
"""The controller's sockets, message by message, against msgspec and pyzmq: dispatch and errors
(registration, heartbeats, events, lookups, full sync) as specified for LMCache 0.3.13."""
import json
import os

import msgspec
import zmq
from lmcache.v1.cache_controller import message as lm

from controller_rig import (CLASS, MISS, Asker, Controller, Pusher, deregister, heartbeat, layout,
                            lookup, ops, pack, register, sync, until)
from interop import check

VECTORS = os.environ.get("KVL_CONTROLLER_VECTORS", "")
OK_REGISTER = "RegisterRetMsg"


def holds(asker, key, who):
    """True once the lookup of a key names that instance, or nobody for None."""
    return layout(asker.ask(lookup([key])))[0] == (who or "")


def test_register_and_heartbeat_url(c, b, a):
    answer = b.ask(register("inst_a"))
    check(answer == {"type": OK_REGISTER,
                     "extra_config": {"heartbeat_url": f"127.0.0.1:{c.heartbeat}"}},
          f"the answer to a registration, not {answer}")
    b.ask(register("inst_a"))  # known: the same answer
    typed = msgspec.msgpack.decode(pack(answer), type=lm.Msg)
    check(isinstance(typed, lm.RegisterRetMsg), "LMCache reads it")


def test_golden_requests(c, b, a):
    if not VECTORS:
        return
    with open(os.path.join(VECTORS, "messages.json")) as f:
        vectors = {v["name"]: v for v in json.load(f)}
    raw = {name: bytes.fromhex(v["hex"]) for name, v in vectors.items()}

    def exact(socket, name):
        socket.send(raw[name], raw=True)
        return socket.socket.recv_multipart()[-1]

    beats = Asker(c, c.heartbeat)
    before = c.count("pull_frames")
    answer = msgspec.msgpack.decode(exact(b, "register_p2p"))
    check(answer["type"] == OK_REGISTER, "golden RegisterMsg")
    exact(beats, "heartbeat")  # a fresh controller asks for a sync, once
    check(exact(b, "batched_p2p_lookup") == raw["batched_p2p_lookup_ret_miss"],
          "golden BatchedP2PLookupMsg, before anybody has it")
    a.push(raw["batched_kv_operation"], raw["kv_admit_legacy"])
    c.counted("pull_frames", before + 2)
    check(layout(msgspec.msgpack.decode(exact(b, "batched_p2p_lookup"))) ==
          ["inst_a", "LocalCPUBackend", 1, "10.0.0.1:8200"], "golden BatchedKVOperationMsg")
    check(exact(b, "full_sync_start") == raw["full_sync_start_ret_accepted"],
          "golden FullSyncStartMsg")
    a.push(raw["full_sync_batch"])
    c.counted("pull_frames", before + 3)
    status = msgspec.msgpack.decode(exact(b, "full_sync_status"))
    check(status["type"] == "FullSyncStatusRetMsg", "golden FullSyncStatusMsg")
    check(exact(beats, "heartbeat") == raw["heartbeat_ret_empty"], "golden HeartbeatMsg")
    a.push(raw["deregister"])
    c.counted("pull_frames", before + 4)
    beats.close()


def test_first_heartbeats(c, b, a):
    beats = Asker(c, c.heartbeat)
    b.ask(register("hb"))
    answer = beats.ask(heartbeat("hb"))
    check(answer == {"type": "HeartbeatRetMsg", "commands": [
        {"command_type": "full_sync", "reason": "controller_restart", "args": None}]},
        f"a fresh controller asks for one sync, not {answer}")
    answer = beats.ask(heartbeat("hb_new"))
    check(answer["commands"][0]["reason"] == "worker_re_registered", "an unknown worker")
    check(b.ask(heartbeat("hb"))["type"] == "HeartbeatRetMsg", "socket B takes heartbeats too")
    for message, name in ((register("hb"), "RegisterMsg"), (lookup([1]), "BatchedP2PLookupMsg")):
        check(beats.ask(message) == {"type": "ErrorMsg",
                                     "error": "Expected HeartbeatMsg, got " + CLASS % name},
              "what socket C refuses")
    beats.close()


def test_unknown_requests(c, b, a):
    cases = {
        "LookupMsg": {"type": "LookupMsg", "event_id": "e", "tokens": [1]},
        "ClearMsg": {"type": "ClearMsg", "event_id": "e", "instance_id": "i", "location": "l"},
        "DeRegisterMsg": deregister("x"),
        "ErrorMsg": {"type": "ErrorMsg", "error": "x"},
        "BatchedKVOperationMsg": ops("x", 0, [1]),
    }
    for name, message in cases.items():
        check(b.ask(message) == {"type": "ErrorMsg",
                                 "error": "Unknown message type: " + CLASS % name}, name)


def test_bad_frames(c, b, a):
    cases = [b"", b"\xc1", b"\x93\x01\x02\x03", pack({"type": "Foo"}), pack({"a": 1}),
             pack(dict(register("x"), port="y")), pack(register("x"))[:-3], pack(register("x"))
             + b"\x00", b"{not json", b'{"type":"RegisterMsg"}', pack(lookup(["x"])),
             pack(dict(lookup([1]), hashes=[2.0])), pack({"type": 5})]
    beats = Asker(c, c.heartbeat)
    for frame in cases:
        try:
            if frame[:1] == b"{":
                msgspec.convert(json.loads(frame), type=lm.Msg)
            else:
                msgspec.msgpack.decode(frame, type=lm.Msg)
            raise SystemExit(f"FAILED: {frame} is no bad frame")
        except (msgspec.DecodeError, json.JSONDecodeError) as e:
            text = str(e)
        for socket in (b, beats):
            answer = socket.ask(frame, raw=True)
            check(answer["type"] == "ErrorMsg", f"{frame} answered by {answer}")
            if frame[:1] != b"{":
                check(answer["error"] == text, f"{frame}: '{text}', not '{answer['error']}'")
    bad = c.count("bad_frames")
    frames = [pack(register("x"))[:-3], b"\xff\xff", b"", pack(ops("gap", 0, [1], location=5))]
    b.ask(register("multi"))
    a.push(pack(ops("multi", 0, [71])), *frames, pack(ops("multi", 0, [72], seq=1)))
    until(lambda: holds(b, 72, "multi"), "frames behind bad ones count")
    check(holds(b, 71, "multi"), "frames before bad ones count")
    c.counted("bad_frames", bad + 4)
    utf = pack(register("abc")).replace(b"abc", b"\xff\xfe\xfd")
    check(b.ask(utf, raw=True)["type"] == "ErrorMsg", "a name that is not UTF-8 is answered")
    beats.close()


def test_short_and_odd_envelopes(c, b, a):
    d = plain_dealer(c)
    short = c.count("short_messages")
    d.send_multipart([pack(register("short"))])  # no empty frame: two parts at the ROUTER
    c.counted("short_messages", short + 1)
    d.send_multipart([b"not empty", pack(lookup([])), b"left", b"over"])
    check(msgspec.msgpack.decode(d.recv_multipart()[-1])["layout_info"] == [MISS],
          "frame 1 and frames behind the payload are not looked at")
    d.close()


def plain_dealer(c):
    d = zmq.Context.instance().socket(zmq.DEALER)
    d.setsockopt(zmq.LINGER, 0)
    d.setsockopt(zmq.RCVTIMEO, 20000)
    d.connect(f"tcp://{c.host}:{c.reply}")
    return d


def test_json(c, b, a):
    text = json.dumps(register("from_json", url=None)).encode()
    check(b.ask(text, raw=True)["type"] == OK_REGISTER, "JSON requests")
    b.ask(register("json_peer"))
    a.push(json.dumps(ops("json_peer", 0, [2**64 - 1, -1])).encode())
    until(lambda: holds(b, 2**64 - 1, "json_peer"), "JSON events")
    check(holds(b, -1, "json_peer"), "-1 and 2**64-1 are different keys")
    a.push(json.dumps(deregister("json_peer")).encode())
    until(lambda: holds(b, -1, None), "JSON goodbyes")


def test_req_clients_and_order(c, b, a):
    old = Asker(c, kind=zmq.REQ)
    check(old.ask(register("req"))["type"] == OK_REGISTER, "a REQ client")
    check(layout(old.ask(lookup([]))) == MISS, "a second request of it")
    old.close()
    b.ask(register("fifo"))
    a.push(ops("fifo", 0, list(range(1000, 1300))))
    until(lambda: holds(b, 1299, "fifo"), "300 keys")
    sizes = [1 + (i * 37) % 290 for i in range(600)]
    for n in sizes:
        b.send(lookup(list(range(1000, 1000 + n))))
    for n in sizes:
        check(layout(b.receive())[2] == n, "answers come in the order of the requests")


def test_events(c, b, a):
    for key in (5, -5, -2**63, 2**63, 2**64 - 1):
        b.ask(register("ev"))  # known: all keys go
        a.push(ops("ev", 0, [key]))
        until(lambda: holds(b, key, "ev"), f"key {key}")
        a.push(ops("ev", 0, [("evict", key)], seq=1))
        until(lambda: holds(b, key, None), f"key {key} evicted")
    before = c.counters()
    a.push(ops("nobody", 0, [6]), ops("ev", 0, []), ops("ev", 0, [7], seq=2))
    until(lambda: holds(b, 7, "ev"), "goes on")
    after = c.counters()
    check(holds(b, 6, None), "an unknown worker's events are dropped")
    check(after["controller_dropped_unknown_worker"] ==
          before["controller_dropped_unknown_worker"] + 1, "and counted")
    unknown = after["controller_unknown_messages"]
    a.push(register("late"), heartbeat("late"), {"type": "LookupMsg", "event_id": "e",
                                                 "tokens": [1]},
           {"type": "ClearMsg", "event_id": "e", "instance_id": "ev", "location": "l"},
           {"type": "KVAdmitMsg", "instance_id": "ev", "worker_id": 0, "key": 9, "location": "l"},
           ops("ev", 0, [8], seq=3))
    until(lambda: holds(b, 8, "ev"), "goes on")
    check(c.count("unknown_messages") == unknown + 5, "what does not belong on socket A")
    check(holds(b, 9, None), "a legacy admit is dropped")
    check("Unknown worker message type: " + CLASS % "KVAdmitMsg" in c.logged(), "and told")


def test_gaps(c, b, a):
    gaps = c.counters()
    b.ask(register("gap"))
    a.push(ops("gap", 0, [1, 2], seq=40))  # the first op of a location is no gap
    a.push(ops("gap", 0, [3], seq=43))
    a.push(ops("gap", 0, [("evict", 1)], seq=44))
    until(lambda: holds(b, 1, None) and holds(b, 3, "gap"), "ops are applied whatever the gap")
    grown = {k: v - gaps[k] for k, v in c.counters().items() if "gap" in k and k in gaps}
    check(1 in grown.values(), f"one gap is counted, not {grown}")
    check("sent seq 43 where 42 was next, gap 1" in c.logged(), "and told")


def test_lookup_rules(c, b, a):
    check(layout(b.ask(lookup([]))) == MISS, "no hashes")
    check(layout(b.ask(lookup([404]))) == MISS, "nobody")
    b.ask(register("lk_a", 0, port=1))
    b.ask(register("lk_a", 1, port=2))
    b.ask(register("lk_b", 0, port=3))
    b.ask(register("lk_b", 1, port=4))
    b.ask(register("lk_n", 0, url=None))
    a.push(ops("lk_n", 0, [501, 502, 503, 504, 505]), ops("lk_a", 0, [501]),
           ops("lk_a", 1, [501, 502]), ops("lk_b", 0, [501, 502, 503], location="LocalDiskBackend"),
           ops("lk_b", 1, [501, 503]))
    until(lambda: layout(b.ask(lookup([503])))[0] == "lk_b", "the events are in")
    keys = [501, 502, 503, 504]
    check(layout(b.ask(lookup(keys, worker=0))) ==
          ["lk_b", "LocalDiskBackend", 3, "10.0.0.1:3"], "same worker_id, longest run")
    check(layout(b.ask(lookup(keys, worker=1))) ==
          ["lk_a", "LocalCPUBackend", 2, "10.0.0.1:2"], "worker 1 of another instance")
    check(layout(b.ask(lookup(keys, instance="lk_b", worker=0))) ==
          ["lk_a", "LocalCPUBackend", 1, "10.0.0.1:1"], "not the asker's own instance")
    check(layout(b.ask(lookup(keys, worker=7)))[2] == 3, "no such worker: the longest of all")
    check(layout(b.ask(lookup([504]))) == MISS, "who has no URL is skipped")
    check(layout(b.ask(lookup([502, 501], worker=1)))[2] == 2, "the order is that of the request")
    a.push(ops("lk_n", 0, [("evict", 501)], seq=5))
    b.ask(register("lk_b", 0, ip="10.0.0.9", port=9))  # anew, elsewhere: its keys go
    check(layout(b.ask(lookup(keys, worker=0))) ==
          ["lk_a", "LocalCPUBackend", 1, "10.0.0.1:1"], "a worker that registers anew has no keys")
    a.push(ops("lk_b", 0, [501, 502]))
    until(lambda: layout(b.ask(lookup(keys, worker=0))) ==
          ["lk_b", "LocalCPUBackend", 2, "10.0.0.9:9"], "and its new address counts")
    a.push(deregister("lk_b", 0), deregister("lk_b", 0))
    until(lambda: layout(b.ask(lookup(keys, worker=0)))[0] == "lk_a", "deregistered")


def start(instance, sync_id, keys, batches, worker=0):
    return sync("Start", instance, worker, sync_id, total_keys=keys, batch_count=batches)


def batch(instance, sync_id, number, keys, worker=0):
    return sync("Batch", instance, worker, sync_id, batch_id=number, keys=keys)


def test_full_sync(c, b, a):
    refused = ("Failed to start sync: worker already syncing with different sync_id or worker not "
               "found")
    check(b.ask(start("nobody_there", "s", 1, 1)) ==
          {"type": "FullSyncStartRetMsg", "sync_id": "s", "accepted": False,
           "error_msg": refused}, "an unknown worker")
    b.ask(register("fs"))
    a.push(ops("fs", 0, [601, 602]), ops("fs", 0, [603], location="LocalDiskBackend"))
    until(lambda: holds(b, 603, "fs"), "keys before the sync")
    check(b.ask(start("fs", "s1", 3, 2)) == {"type": "FullSyncStartRetMsg", "sync_id": "s1",
                                             "accepted": True, "error_msg": None}, "accepted")
    check(holds(b, 601, None) and holds(b, 603, "fs"), "only that location is emptied")
    check(b.ask(start("fs", "s2", 3, 2))["error_msg"] == refused, "another sync meanwhile")
    status = b.ask(sync("Status", "fs", 0, "s1"))
    check(list(status) == ["type", "sync_id", "is_complete", "global_progress", "can_exit_freeze",
                           "missing_batches"] and status["missing_batches"] == [0, 1] and
          not status["is_complete"], f"all is missing, not {status}")
    busy = c.count("dropped_syncing")
    a.push(ops("fs", 0, [699], seq=2))
    c.counted("dropped_syncing", busy + 1)
    dropped = c.count("dropped_sync")
    a.push(batch("fs", "s1", 2, [604]), batch("fs", "s1", -1, [604]), batch("fs", "other", 0, [604]),
           sync("End", "fs", 0, "other", actual_total_keys=3))
    c.counted("dropped_sync", dropped + 4)
    a.push(batch("fs", "s1", 1, [607]), sync("End", "fs", 0, "s1", actual_total_keys=3))
    until(lambda: holds(b, 607, "fs"), "the second batch")
    check(b.ask(sync("Status", "fs", 0, "s1"))["missing_batches"] == [0],
          "an end with a batch missing ends nothing")
    a.push(batch("fs", "s1", 1, [607]), batch("fs", "s1", 0, [605, 606]),
           sync("End", "fs", 0, "s1", actual_total_keys=3))
    until(lambda: b.ask(sync("Status", "fs", 0, "s1"))["is_complete"], "complete when all came")
    check(holds(b, 699, None) and holds(b, 605, "fs"), "the keys of the sync and no others")
    status = b.ask(sync("Status", "fs", 0, "unknown"))
    check(not status["is_complete"] and status["missing_batches"] == [], "an unknown sync")
    a.push(ops("fs", 0, [608], seq=500))
    until(lambda: holds(b, 608, "fs"), "events count again")
    check("3 keys" in c.logged(), "resent keys count once")
    check(b.ask(start("fs", "big", 1, 10**6))["accepted"] is False, "too many batches")
    check(b.ask(start("fs", "s3", 0, 1))["accepted"], "the next sync")
    b.ask(register("fs"))
    check(b.ask(start("fs", "s4", 0, 1))["accepted"], "registering anew drops a sync")
    a.push(sync("End", "fs", 0, "s4", actual_total_keys=0), batch("fs", "s4", 0, []),
           sync("End", "fs", 0, "s4", actual_total_keys=0))
    until(lambda: b.ask(sync("Status", "fs", 0, "s4"))["is_complete"], "an empty sync")


def test_need_all_ends():
    """The freeze of all ends with 80 % of the workers, live, and then nobody is asked any more."""
    with Controller() as c:
        b, a, beats = Asker(c), Pusher(c), Asker(c, c.heartbeat)
        for worker in range(5):
            b.ask(register("all", worker))
        for worker in range(4):
            check(beats.ask(heartbeat("all", worker))["commands"], "asked")
            check(b.ask(start("all", f"s{worker}", 0, 1, worker))["accepted"], "accepted")
            check(not beats.ask(heartbeat("all", worker))["commands"], "not while it syncs")
            a.push(sync("Batch", "all", worker, f"s{worker}", batch_id=0, keys=[]),
                   sync("End", "all", worker, f"s{worker}", actual_total_keys=0))
            status = until(lambda w=worker: (lambda s: s["is_complete"] and s)(
                b.ask(sync("Status", "all", w, f"s{w}"))), "complete")
            check(abs(status["global_progress"] - (worker + 1) / 5) < 1e-9, "progress")
            check(status["can_exit_freeze"] == (worker >= 3), "80 % are enough")
        check(not beats.ask(heartbeat("all", 4))["commands"], "need_all is over")
        for s in (a, b, beats):
            s.close()


def test_stuck_sync():
    """A worker that dies while it syncs: the sync fails, and it is asked for another one."""
    with Controller(registry="sync_timeout = 1s") as c:
        b, a, beats = Asker(c), Pusher(c), Asker(c, c.heartbeat)
        b.ask(register("stuck"))
        check(b.ask(start("stuck", "dead", 10, 10))["accepted"], "accepted")
        check(not b.ask(start("stuck", "new", 10, 10))["accepted"], "refused while it runs")
        until(lambda: beats.ask(heartbeat("stuck"))["commands"], "asked again after the timeout")
        check(b.ask(start("stuck", "new", 1, 1))["accepted"], "accepted once it failed")
        a.push(batch("stuck", "new", 0, [1]), sync("End", "stuck", 0, "new", actual_total_keys=1))
        until(lambda: holds(b, 1, "stuck"), "and it works")
        for s in (a, b, beats):
            s.close()


def test_health_check():
    """Silent workers are reaped, but only those that ever sent a heartbeat."""
    with Controller(extra="health_check_interval = 1s\nlmcache_worker_timeout = 1s") as c:
        b, a, beats = Asker(c), Pusher(c), Asker(c, c.heartbeat)
        b.ask(register("quiet"))
        b.ask(register("beats"))
        b.ask(register("gone"))
        beats.ask(heartbeat("gone"))
        a.push(ops("gone", 0, [81]), ops("quiet", 0, [82]), ops("beats", 0, [83]))
        until(lambda: holds(b, 83, "beats"), "all there")
        def alive():
            beats.ask(heartbeat("beats"))
            return c.count("reaped") >= 1
        until(alive, "one is reaped")
        check(holds(b, 81, None) and holds(b, 82, "quiet") and holds(b, 83, "beats"), "the right one")
        until(lambda: "it stays, because it never sent a heartbeat" in c.logged(), "the other is told")
        check(c.count("reaped") == 1, "and only that")
        for s in (a, b, beats):
            s.close()


def test_big_frame_is_cut_off():
    with Controller(extra="max_frame = 4096") as c:
        b, a = Asker(c), Pusher(c)
        b.ask(register("big"))
        a.push(b"x" * 5000)

        def again():
            a.push(ops("big", 0, [1]))  # what was under way dies with the connection
            return holds(b, 1, "big")
        until(again, "the next connection of that peer works")
        for s in (a, b):
            s.close()


def main():
    with Controller() as c:
        b, a = Asker(c), Pusher(c)
        for name, test in list(globals().items()):
            if name.startswith("test_") and test.__code__.co_argcount == 3:
                test(c, b, a)
                print(f"ok {name}", flush=True)
        b.close()
        a.close()
    for name, test in list(globals().items()):
        if name.startswith("test_") and test.__code__.co_argcount == 0:
            test()
            print(f"ok {name}", flush=True)


if __name__ == "__main__":
    main()
