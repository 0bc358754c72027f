# SPDX-License-Identifier: Apache-2.0
"""The HTTP API of `kvlane controller`, over real sockets, with workers that are a few lines of
Python. What LMCache's own controller answers was recorded: tests/vectors/controller/http.json."""

import concurrent.futures
import json
import os
import re
import socket
import subprocess
import tempfile
import threading
import time
import unittest

from controller_fleet import PATIENCE_S, Zmtp, pack, unpack
from controller_process import KVLANE, Controller, until

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
RECORDED = os.path.join(os.environ["KVL_SOURCE"], "tests/vectors/controller/http.json")
# Tokens 0 .. 521 in chunks of 256, workers without vLLM: tests of the hash have them from Python.
CHAIN = [3131758554629441992, 8783757053568497755, -2187750341664164242]
SEEDED = 6847123751949154252  # the first of them with PYTHONHASHSEED=0
LOCATION = "LocalCPUBackend"


class Worker(threading.Thread):
    """Control socket of a worker. `answer` makes the reply of a message; None = it hangs."""

    def __init__(self, answer):
        super().__init__(daemon=True)
        self.answer = answer
        self.seen = []
        self.open = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.start()

    def run(self):
        while True:
            try:
                connection = self.listener.accept()[0]
            except OSError:
                return
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection):
        try:
            peer = Zmtp(connection, b"REP")
            self.open.append(peer)
            while True:
                message = unpack(peer.receive()[-1])[0]
                self.seen.append(message)
                reply = self.answer(message)
                if reply is not None:
                    peer.send(b"", pack(reply))
        except (OSError, ValueError):  # closed, by either side
            connection.close()

    def close(self):
        self.listener.close()
        for peer in self.open:
            peer.close()


class Http(unittest.TestCase):
    settings = {"control_timeout": "2s"}

    def setUp(self):
        self.controller = Controller(**self.settings)
        self.addCleanup(self.controller.__exit__)
        self.get = self.controller.get
        self.post = self.controller.post
        self.fleet = self.controller.fleet()
        self.addCleanup(self.fleet.close)

    def worker(self, answer, instance="a", worker=0):
        worker_thread = Worker(answer)
        self.addCleanup(worker_thread.close)
        self.fleet.register(instance, worker, port=worker_thread.port)
        return worker_thread

    def admit(self, instance, worker, keys, first_seq=0):
        before = self.get("/controller/overview")["counts"]["key_ops"]
        self.fleet.admit(instance, worker, keys, first_seq)
        until(lambda: self.get("/controller/overview")["counts"]["key_ops"] == before + len(keys),
              "the events arrive")  # fmt: skip


class Recorded(Http):
    def test_answers_as_lmcache_does(self):
        with open(RECORDED, encoding="utf-8") as file:
            cases = json.load(file)["cases"]
        self.assertGreater(len(cases), 70)
        for case in cases:
            headers = {}
            if case.get("content_type"):
                headers["Content-Type"] = case["content_type"]
            body = case["body"].encode() if "body" in case else None
            status, got, text = self.controller.ask(case["method"], case["path"], body, headers)
            with self.subTest(case=case):
                self.assertEqual(status, case["status"])
                self.assertEqual(got["Content-Type"], "application/json")
                self.assertEqual(got["Allow"], case.get("allow"))
                self.assertEqual(json.loads(UUID.sub("UUID", text)), case["answer"])


class Routes(Http):
    def test_lookup(self):
        for instance in ("first", "second", "third"):
            self.fleet.register(instance)
        self.admit("first", 0, CHAIN[:1])
        self.admit("second", 0, CHAIN)
        self.admit("third", 0, CHAIN[1:])
        status, answer = self.post("/lookup", {"tokens": list(range(522)), "unknown": [1, {}]})
        self.assertEqual(status, 200)
        self.assertRegex(answer["event_id"], "^Lookup" + UUID.pattern + "$")
        self.assertEqual(list(answer["layout_info"].items()),
                         [("second", [LOCATION, 522]), ("first", [LOCATION, 256])])  # fmt: skip
        self.assertEqual(self.post("/lookup", {"tokens": ["0", 1.0]})[1]["layout_info"], {})
        counts = self.get("/controller/overview")["counts"]
        self.assertEqual((counts["http_lookups"], counts["http_lookup_hits"]), (2, 1))

    def test_without_content_type(self):
        status, _, text = self.controller.ask("POST", "/lookup", '{"tokens": [1]}')
        self.assertEqual((status, json.loads(text)["layout_info"]), (200, {}))

    def test_odd_names(self):
        name = 'é"\\\x01\u4e2d\U0001f600'
        self.fleet.register(name)
        self.admit(name, 0, CHAIN)
        answer = self.post("/lookup", {"tokens": list(range(522))})[1]
        self.assertEqual(answer["layout_info"], {name: [LOCATION, 522]})
        self.assertEqual(self.get("/controller/workers")["workers"][0]["instance_id"], name)
        self.assertEqual(self.get("/controller/key-stats")["instances"][0]["instance_id"], name)
        self.assertEqual(self.post("/query_worker_info", {"instance_id": name})[1]["worker_infos"]
                         [0]["instance_id"], name)  # fmt: skip

    def test_workers(self):
        begin = time.time()
        self.fleet.register("a", 1, ip="10.0.0.1", port=8500, url=None)
        self.fleet.register("a", 0, ip="10.0.0.2", port=8501, url="10.0.0.2:7600")
        self.fleet.register("b", -3)
        self.admit("a", 0, [1, 2, 3])
        one = self.get("/controller/workers?instance_id=a&worker_id=0")
        self.assertEqual(list(one), ["instance_id", "worker_id", "ip", "port", "peer_init_url",
                                     "registration_time", "last_heartbeat_time", "key_count"])  # fmt: skip
        self.assertTrue(begin - 1 < one["registration_time"] < time.time() + 1)
        self.assertIsInstance(one["last_heartbeat_time"], float)
        del one["registration_time"], one["last_heartbeat_time"]
        self.assertEqual(one, {"instance_id": "a", "worker_id": 0, "ip": "10.0.0.2", "port": 8501,
                               "peer_init_url": "10.0.0.2:7600", "key_count": 3})  # fmt: skip
        self.assertEqual(self.get("/controller/workers?instance_id=b&worker_id=-3")["port"], 1)
        listed = self.get("/controller/workers?instance_id=a")
        self.assertEqual(listed["total_count"], 2)
        self.assertEqual({w["worker_id"]: w["peer_init_url"] for w in listed["workers"]},
                         {1: None, 0: "10.0.0.2:7600"})  # fmt: skip
        self.assertEqual(self.get("/controller/workers")["total_count"], 3)
        for path, detail in (
            ("instance_id=a&worker_id=9", "Worker (a, 9) not found"),
            ("instance_id=a&worker_id=18446744073709551613", None),
            ("instance_id=zzz", "No workers found for instance zzz"),
            ("instance_id=" + "x" * 5000, None),
        ):
            status, _, text = self.controller.ask("GET", "/controller/workers?" + path)
            self.assertEqual(status, 404)
            if detail:
                self.assertEqual(json.loads(text), {"detail": detail})
        self.assertEqual(self.get("/controller/key-stats"), {
            "total_key_count": 3, "total_instance_count": 2, "total_worker_count": 3,
            "instances": [{"instance_id": "a", "key_count": 3, "worker_count": 2},
                          {"instance_id": "b", "key_count": 0, "worker_count": 1}]})  # fmt: skip

    def test_queries(self):
        self.fleet.register("a", 0, ip="10.0.0.1")
        self.fleet.register("a", 1, ip="10.0.0.2", url=None)
        status, answer = self.post("/query_instance", {"event_id": "x", "ip": "10.0.0.2"})
        self.assertEqual((status, answer["res"]), (200, "a"))
        self.assertTrue(answer["event_id"].startswith("QueryInst"))
        self.assertEqual(self.post("/query_instance", {"event_id": "x", "ip": "10.9.9.9"})[0], 500)
        status, answer = self.post("/query_worker_info", {"instance_id": "all", "worker_ids": [1]})
        self.assertEqual(status, 200)
        self.assertEqual([(w["ip"], w["peer_init_url"]) for w in answer["worker_infos"]],
                         [("10.0.0.2", None)])  # fmt: skip
        self.assertEqual(len(answer["worker_infos"][0]), 7)

    def test_orders(self):
        a0 = self.worker(lambda m: {"type": m["type"][:-3] + "RetMsg", "num_tokens": 512, "error_code": 0})  # fmt: skip
        a1 = self.worker(lambda m: {"type": m["type"][:-3] + "RetMsg", "num_tokens": 512, "error_code": 0}, "a", 1)  # fmt: skip
        status, answer = self.post("/clear", {"instance_id": "a", "location": LOCATION})
        self.assertEqual((status, answer["num_tokens"]), (200, 512))
        event_id = answer["event_id"]
        self.assertRegex(event_id, "^Clear" + UUID.pattern + "$")
        self.assertEqual(a0.seen[-1], {"type": "ClearWorkerMsg", "location": LOCATION,
                                       "worker_event_id": "Worker0" + event_id})  # fmt: skip
        self.assertEqual(a1.seen[-1]["worker_event_id"], "Worker1" + event_id)
        body = {"instance_id": "a", "location": LOCATION, "tokens": [1, -2, 2**64 - 1]}
        self.assertEqual(self.post("/pin", body)[0], 200)
        self.assertEqual(a0.seen[-1]["tokens"], body["tokens"])
        for route in ("compress", "decompress"):
            body = {"instance_id": "a", "location": LOCATION, "method": "cachegen"}
            self.assertEqual(self.post("/" + route, body)[0], 200)
            self.assertEqual(a0.seen[-1]["tokens"], [])
            self.assertEqual(self.post("/" + route, {**body, "tokens": None})[0], 200)
            self.assertIsNone(a0.seen[-1]["tokens"])
            self.assertEqual(a0.seen[-1]["method"], "cachegen")
        status, answer = self.post("/health", {"instance_id": "a"})
        self.assertEqual((status, answer["error_codes"]), (200, {"0": 0, "1": 0}))
        self.fleet.register("b", 0, url="10.0.0.9:7600")
        self.fleet.register("b", 1, url="10.0.0.9:7601")
        body = {"old_position": ["a", LOCATION], "new_position": ["b", LOCATION], "copy": True}
        self.assertEqual(self.post("/move", body)[0], 200)
        self.assertEqual(a1.seen[-1]["new_position"], ["10.0.0.9:7601", LOCATION])
        self.assertEqual((a1.seen[-1]["copy"], a1.seen[-1]["tokens"]), (False, []))
        self.assertEqual(self.post("/move", {**body, "should_copy": True})[0], 200)
        self.assertIs(a1.seen[-1]["copy"], True)

    def test_orders_that_fail(self):
        self.worker(lambda m: {"type": "ErrorMsg", "error": 'Worker error: no "room"'})
        status, answer = self.post("/clear", {"instance_id": "a", "location": "x"})
        self.assertEqual(status, 500)
        self.assertIn('no "room"', answer["detail"])
        self.assertIn("nobody", self.post("/clear", {"instance_id": "nobody", "location": "x"})[1]["detail"])
        self.assertEqual(self.post("/health", {"instance_id": "a"})[1]["error_codes"], {"0": -1001})
        self.assertEqual(self.post("/health", {"instance_id": "nobody"})[1]["error_codes"], {})

    def test_metrics(self):
        self.fleet.register("a")
        self.admit("a", 0, [1, 2, 3])
        self.fleet.push.send(b"\xc1")
        until(lambda: self.get("/controller/overview")["counts"]["bad_frames"] == 1, "a bad frame")
        status, headers, text = self.controller.ask("GET", "/metrics")
        self.assertEqual((status, headers["Content-Type"]), (200, "text/plain; charset=utf-8"))
        values, types = {}, {}
        for line in text.splitlines():
            kind = re.fullmatch(r"# (HELP|TYPE) ([a-z_:]+) (.+)", line)
            if kind:
                if kind[1] == "TYPE":
                    types[kind[2]] = kind[3]
                continue
            name, labels, value = re.fullmatch(r'([a-z_:]+)(\{role="controller"\})? ([0-9.]+)', line).groups()  # fmt: skip
            self.assertNotIn(name, values)
            self.assertEqual(labels is not None, name.startswith("lmcache:"))
            values[name] = float(value)
        self.assertEqual(set(types), set(values))
        lmcache = "lmcache:cache_controller_"
        self.assertEqual({n for n in values if n.startswith(lmcache)}, {lmcache + n for n in (
            "kv_pool_keys_count registered_workers_count pull_socket_message_count "
            "reply_socket_message_count pull_socket_has_pending reply_socket_has_pending "
            "pull_socket_active_requests reply_socket_active_requests "
            "kv_op_seq_discontinuity_count full_sync_workers_syncing full_sync_workers_completed "
            "full_sync_global_progress full_sync_missing_batches_total").split()})  # fmt: skip
        self.assertTrue(all(t == "gauge" for n, t in types.items() if n.startswith(lmcache)))
        self.assertEqual(values[lmcache + "kv_pool_keys_count"], 3)
        self.assertEqual(values[lmcache + "registered_workers_count"], 1)
        self.assertEqual(values["kvlane_controller_bad_frames_total"], 1)
        self.assertEqual(types["kvlane_controller_bad_frames_total"], "counter")

    def test_overview(self):
        for i in range(120):
            self.fleet.heartbeat(f"engine-{i:03}", 0, url=None if i == 7 else "10.0.0.1:7600")
        self.fleet.register("engine-000", 1)
        self.admit("engine-007", 0, [1, 2])
        self.admit("engine-009", 0, range(5))
        self.assertTrue(self.fleet.sync_start("engine-005", 0, 4)["accepted"])
        got = self.get("/controller/overview")
        self.assertEqual((got["workers"], got["instances"], got["keys"]), (121, 120, 7))
        self.assertEqual((got["matching"], got["pages"], len(got["rows"])), (121, 5, 25))
        self.assertEqual(got["rows"][0]["instance_id"], "engine-005")
        self.assertEqual(got["rows"][0]["reason"].split(";")[0], "full sync, 0 of 4 batches")
        self.assertEqual(got["states"], {"silent": 0, "sync failed": 0, "stale": 0, "syncing": 1, "no keys": 118,
                                         "no peer URL": 1, "no heartbeat": 0, "ok": 1})  # fmt: skip
        last = self.get("/controller/overview?page=99&size=50")
        self.assertEqual((last["page"], len(last["rows"])), (2, 21))
        self.assertEqual([w["instance_id"] for w in
                          self.get("/controller/overview?sort=keys&size=2")["rows"]],
                         ["engine-009", "engine-007"])  # fmt: skip
        named = self.get("/controller/overview?sort=name&q=ENGINE-00&size=500")
        self.assertEqual(named["matching"], 11)
        self.assertEqual([(w["instance_id"], w["worker_id"]) for w in named["rows"]][:3],
                         [("engine-000", 0), ("engine-000", 1), ("engine-001", 0)])  # fmt: skip
        self.assertEqual(self.get("/controller/overview?state=no%20peer%20URL")["matching"], 1)
        self.assertEqual(self.get("/controller/overview?state=trouble")["matching"], 120)
        self.assertEqual(self.get("/controller/overview?q=nowhere")["rows"], [])
        for odd in ("page=-1&size=0", "page=x&size=99999999999999999999", "sort=&state=%ff&q=%00"):
            self.assertEqual(self.get("/controller/overview?" + odd)["workers"], 121)

    def test_threads_and_absent_routes(self):
        status, headers, text = self.controller.ask("GET", "/threads")
        self.assertEqual((status, headers["Content-Type"]), (200, "text/plain; charset=utf-8"))
        self.assertIn("kvl-ctl-http", text)
        self.assertRegex(text, r"Total threads: \d+\n$")
        for method, path in (("POST", "/run_script"), ("GET", "/run_script"), ("GET", "/env")):
            self.assertEqual(self.controller.ask(method, path)[0], 404)
        self.assertEqual(self.controller.ask("HEAD", "/metrics")[0], 200)

    def test_page_stands_alone(self):
        status, headers, text = self.controller.ask("GET", "/")
        self.assertEqual((status, headers["Content-Type"]), (200, "text/html; charset=utf-8"))
        self.assertIn("default-src 'none'", headers["Content-Security-Policy"])
        self.assertNotIn("unsafe", headers["Content-Security-Policy"])
        self.assertIsNone(headers["Access-Control-Allow-Origin"])
        self.assertEqual(re.findall(r"""(?:src|href)=(?!"data:,")\S+""", text), [])
        self.assertEqual([u for u in re.findall(r"https?://[^\s\"']+", text) if "w3.org" not in u], [])


class Explain(Http):
    def explain(self, **body):
        status, answer = self.post("/explain", body)
        self.assertEqual(status, 200, answer)
        return answer

    def program(self, *args):
        return subprocess.run([KVLANE, "controller", "--url", f"127.0.0.1:{self.controller.http}", *args],
                              capture_output=True, text=True, timeout=PATIENCE_S)  # fmt: skip

    def test_why(self):
        tokens = list(range(522))
        self.assertEqual(self.explain(tokens=tokens)["verdict"], "no_workers")
        self.assertEqual(self.explain()["verdict"], "nothing_asked")
        self.fleet.heartbeat("a")
        self.assertEqual(self.explain(tokens=tokens)["verdict"], "nothing_announced")
        self.assertEqual(self.explain(tokens=tokens[:9])["verdict"], "prompt_too_short")
        self.admit("a", 0, [SEEDED])
        other = self.explain(tokens=tokens)
        self.assertEqual(other["verdict"], "other_hashing")
        self.assertIn("hash_seed = 0, hash_sip = 13", other["findings"][0]["next"])
        self.admit("a", 0, CHAIN[:2], 1)
        part = self.explain(tokens=tokens)
        self.assertEqual((part["verdict"], part["found"], part["asked"]), ("partly_held", 2, 3))
        self.assertIn("10 of 256", part["findings"][0]["next"])
        self.assertEqual(part["first_ids"], [str(i) for i in CHAIN])
        self.assertEqual(part["holders"][0]["instance_id"], "a")
        own = self.explain(ids=CHAIN[:2], instance_id="a")
        self.assertEqual((own["verdict"], own["found"]), ("only_the_requester", 0))
        strange = self.explain(ids=[5], instance_id="stranger")
        self.assertEqual([f["code"] for f in strange["findings"]],
                         ["no_such_chunk", "unknown_instance"])  # fmt: skip
        self.fleet.heartbeat("b", url=None)
        self.admit("b", 0, [77])
        self.assertEqual(self.explain(ids=[77], instance_id="a")["verdict"], "no_peer_url")
        self.assertEqual(self.explain(ids=[77])["verdict"], "found")
        self.fleet.sync_start("b", 0, 5)
        self.fleet.register("c")
        codes = [f["code"] for f in self.explain(ids=[5])["findings"]]
        self.assertEqual(codes, ["no_such_chunk", "syncing", "no_heartbeats"])
        self.admit("c", 0, [CHAIN[2]])
        self.assertEqual(self.explain(tokens=tokens)["verdict"], "split_over_holders")

    def test_other_chunk_size(self):
        # chunks of 16 of 7, 7, 7, .., hashed as Python does it without vLLM
        self.fleet.heartbeat("a")
        tokens = [7] * 40
        self.admit("a", 0, [chain_of(tokens[:16])])
        answer = self.explain(tokens=tokens)
        self.assertEqual(answer["verdict"], "other_hashing")
        self.assertIn("chunk_size = 16 ", answer["findings"][0]["text"])

    def test_url_form(self):
        self.fleet.heartbeat("a")
        self.admit("a", 0, [2**64 - 1, -1, 255])
        answer = self.get("/explain?ids=18446744073709551615,-1,0xFF&instance_id=")
        self.assertEqual((answer["verdict"], answer["found"]), ("found", 3))
        status, headers, text = self.controller.ask("GET", "/explain?ids=1&format=text")
        self.assertEqual((status, headers["Content-Type"]), (200, "text/plain; charset=utf-8"))
        self.assertTrue(text.startswith("0 of 1 chunk found.\n"))
        for odd in ("ids=,", "ids=0x", "ids=0x-1", "ids=1;2", "ids=" + "1," * 1030, "ids=1e3"):
            self.assertEqual(self.controller.ask("GET", "/explain?" + odd)[0], 422, odd)
        self.assertEqual(self.post("/explain", {"ids": [1], "tokens": [1]})[0], 400)
        self.assertEqual(self.post("/explain", {"ids": [1], "instance_id": "x" * 300})[0], 400)

    def test_program(self):
        self.fleet.heartbeat("a")
        self.admit("a", 0, CHAIN[:2] + [255])
        said = self.program("--explain", ",".join(map(str, CHAIN)))
        self.assertEqual((said.returncode, said.stderr), (0, ""))
        self.assertTrue(said.stdout.startswith("2 of 3 chunks found.\n"), said.stdout)
        self.assertEqual(self.program("--explain=0xff", "--instance", 'b"\\\n').returncode, 0)
        self.assertTrue(self.program("--explain=-2,0xff").stdout.startswith("0 of 2"))
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump(list(range(522)), file)
            file.flush()
            said = self.program("--explain", file.name, "--instance", "a")
            self.assertIn("Only 'a' itself", said.stdout)
            file.seek(0)
            file.write("{not a list")
            file.truncate()
            file.flush()
            self.assertEqual(self.program("--explain", file.name).returncode, 3)
        self.assertEqual(self.program("--explain", "12x").returncode, 2)
        self.assertEqual(self.program("--explain", "1", "--url", "nowhere").returncode, 2)
        self.assertEqual(self.program("--explain", "1", "--url", "127.0.0.1:1").returncode, 4)


def chain_of(tokens):
    """hash((0, tuple(tokens), ())) of CPython 3.8 and later: of ints, the same in every process."""
    return hash((0, tuple(tokens), ()))


class Load(Http):
    def test_a_hanging_order_holds_up_nobody(self):
        release = threading.Event()
        self.worker(lambda m: release.wait(PATIENCE_S) and None)
        self.fleet.register("b")
        with concurrent.futures.ThreadPoolExecutor(100) as pool:
            begin = time.monotonic()
            clear = pool.submit(self.post, "/clear", {"instance_id": "a", "location": "x"})
            until(lambda: self.get("/controller/overview")["counts"]["control_calls"] >= 1, "an order")
            lookups = [pool.submit(self.post, "/lookup", {"tokens": list(range(300))})
                       for _ in range(200)]  # fmt: skip
            for lookup in lookups:
                self.assertEqual(lookup.result()[0], 200)
            self.assertFalse(clear.done(), "200 lookups took as long as the order")
            status, answer = clear.result()
            took = time.monotonic() - begin
        release.set()
        self.assertEqual(status, 500)
        self.assertIn("0", answer["detail"])
        self.assertTrue(1.5 < took < PATIENCE_S, took)

    def test_too_many_orders(self):
        release = threading.Event()
        self.worker(lambda m: release.wait(PATIENCE_S) and None)
        with concurrent.futures.ThreadPoolExecutor(130) as pool:
            orders = [pool.submit(self.post, "/clear", {"instance_id": "a", "location": "x"})
                      for _ in range(130)]  # fmt: skip
            statuses = sorted(order.result()[0] for order in orders)
        release.set()
        self.assertEqual(set(statuses), {500, 503})
        self.assertEqual(self.get("/controller/workers")["total_count"], 1)

    def test_stops_while_an_order_hangs(self):
        release = threading.Event()
        worker = self.worker(lambda m: release.wait(PATIENCE_S) and None)
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            clear = pool.submit(self.post, "/clear", {"instance_id": "a", "location": "x"})
            until(lambda: worker.seen, "the order arrives")
            begin = time.monotonic()
            self.assertEqual(self.controller.stop(), 0)
            self.assertLess(time.monotonic() - begin, 10)
            try:
                self.assertIn(clear.result()[0], (500, 503))
            except OSError:
                pass  # the connection went with the process
        release.set()

    def test_keeps_connections(self):
        with self.controller.socket() as connection:
            file = connection.makefile("rb")
            for i in range(50):
                body = b'{"tokens": [1]}'
                connection.sendall(b"POST /lookup HTTP/1.1\r\nHost: localhost\r\nContent-Type: "
                                   b"application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))  # fmt: skip
                self.assertIn(b"200", file.readline())
                length = 0
                while (line := file.readline().strip()) != b"":
                    if line.lower().startswith(b"content-length:"):
                        length = int(line.split(b":")[1])
                self.assertIn(b"layout_info", file.read(length))
            file.close()


class Hostile(Http):
    def say(self, data):
        """All that comes back until the server closes."""
        with self.controller.socket() as connection:
            got = b""
            try:
                connection.sendall(data)
                while more := connection.recv(65536):
                    got += more
            except TimeoutError:
                raise
            except OSError:
                pass  # it has closed already
            return got

    def alive(self):
        self.assertEqual(self.get("/controller/workers")["total_count"], 0)

    def test_large_bodies(self):
        head = b"POST /lookup HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        for length in (b"16777217", b"99999999999", b"18446744073709551615"):
            got = self.say(head + b"Content-Length: " + length + b"\r\n\r\n" + b"[")
            self.assertIn(b" 413 ", got.split(b"\r\n")[0])
        chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
        with self.controller.socket() as connection:
            connection.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n")
            try:
                for _ in range(300):
                    connection.sendall(chunk)
                connection.sendall(b"0\r\n\r\n")
                self.assertIn(b" 413 ", connection.recv(4096).split(b"\r\n")[0])
            except (ConnectionResetError, BrokenPipeError):
                pass
        until(lambda: self.get("/controller/overview")["counts"]["http_body_bytes"] == 0, "freed")
        tokens = list(range(100000, 1100000))
        status, answer = self.post("/lookup", {"tokens": tokens})
        self.assertEqual((status, answer["layout_info"]), (200, {}))

    def test_many_large_bodies(self):
        """More than may be in memory at once: some are refused, nobody is hurt."""
        body = b'{"tokens": [' + b"1," * 6000000 + b"1]}"
        head = (b"POST /lookup HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                b"Content-Length: %d\r\n\r\n" % len(body))  # fmt: skip
        open_ones = []
        for _ in range(12):
            connection = self.controller.socket()
            self.addCleanup(connection.close)
            try:
                connection.sendall(head + body[:-10])
            except (ConnectionResetError, BrokenPipeError):
                continue
            open_ones.append(connection)
        self.assertLessEqual(self.get("/controller/overview")["counts"]["http_body_bytes"], 128 << 20)
        self.alive()

    def test_garbage(self):
        for data in (b"\xff\xfe\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n",
                     b"GET / HTTP/1.1\r\n\r\n", b"POST /lookup HTTP/1.1\r\nHost: localhost\r\n"
                     b"Content-Length: -5\r\n\r\n{}", b"GET /" + b"a" * 100000 + b" HTTP/1.1\r\n\r\n",
                     b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"a: b\r\n" * 50000 + b"\r\n",
                     b"GET /controller/workers?instance_id=%00&worker_id=%zz HTTP/1.1\r\nHost: localhost\r\n"
                     b"Connection: close\r\n\r\n",
                     b"GET /../../etc/passwd HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
                     b"POST /lookup HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n"
                     b"Transfer-Encoding: chunked\r\n\r\nzzzz\r\n"):  # fmt: skip
            got = self.say(data)
            self.assertNotIn(b" 200 ", got.split(b"\r\n")[0], data[:60])
            self.alive()
        for data in (b"", b"\x00" * 100, b"G", b"POST /lookup HTTP/1.1\r\nHost: localhost\r\n"
                     b"Content-Length: 100\r\n\r\n{"):  # fmt: skip
            for _ in range(20):  # comes, says half of it, and goes
                with self.controller.socket() as connection:
                    connection.sendall(data)
            self.alive()

    def test_bad_json(self):
        for body in (b'"\xff"', b'{"tokens": ["\xc3\x28"]}', b'"\xed\xa0\x80"'):
            status, _, text = self.controller.ask("POST", "/lookup", body,
                                                  {"Content-Type": "application/json"})  # fmt: skip
            self.assertEqual((status, json.loads(text)["detail"]),
                             (400, "There was an error parsing the body"))  # fmt: skip
        for body in (b"[" * 1000000, b'{"a":' * 100000, b'{"tokens":[' + b"[" * 65 + b"]" * 65 + b"]}",
                     b"\x00", b'{"tokens":[1e99999999999999999999]}', b'{"tokens":[-1e400]}',
                     b'{"a":"\\ud800"}', b'{"a":"\\ud800\\u0041"}', b'{"tokens":[NaN]}',
                     b'{"tokens":[99999999999999999999999]}', b'{"tokens":[-9223372036854775809]}',
                     b"1" * 1000000, b'{"tokens":[' + b'"x",' * 100000 + b'"x"]}'):  # fmt: skip
            status, _, text = self.controller.ask("POST", "/lookup", body,
                                                  {"Content-Type": "application/json"})  # fmt: skip
            self.assertEqual(status, 422, body[:60])
            self.assertTrue(json.loads(text)["detail"][0]["msg"])
            self.assertLess(len(text), 1 << 20)
        ends = {"tokens": [2**64 - 1, -(2**63), "18446744073709551615", 1.8e19]}
        self.assertEqual(self.post("/lookup", ends)[0], 200)

    def test_foreign_pages(self):
        """What a browser sends for a page of somebody else is refused."""
        for headers, status in (
            ({"Host": "evil.example"}, 403),
            ({"Host": "127.0.0.1.evil.example"}, 403),
            ({"Host": "localhost.evil.example:9000"}, 403),
            ({"Host": "LOCALHOST:80"}, 200),
            ({"Host": "[::1]:9000"}, 200),
            ({"Host": "127.0.0.2"}, 200),
            ({"Host": "localhost", "Origin": "http://evil.example"}, 403),
            ({"Host": "localhost", "Origin": "null"}, 403),
            ({"Host": "localhost:9000", "Origin": "http://localhost:9000"}, 200),
        ):
            got = self.controller.ask("POST", "/lookup", {"tokens": []}, headers)
            self.assertEqual(got[0], status, headers)
            self.assertIsNone(got[1]["Access-Control-Allow-Origin"])
        form = {"Content-Type": "text/plain"}
        self.assertEqual(self.controller.ask("POST", "/clear", '{"instance_id":"a","location":"b"}', form)[0], 422)

    def test_slow_ones_are_cut(self):
        slow = [self.controller.socket() for _ in range(60)]
        begin = time.monotonic()
        for i, connection in enumerate(slow):
            self.addCleanup(connection.close)
            connection.sendall(b"" if i % 2 else b"POST /lookup HT")
        self.alive()
        for connection in slow:
            while True:
                try:
                    if not connection.recv(4096):
                        break
                except ConnectionResetError:
                    break
        self.assertGreater(time.monotonic() - begin, 5)
        self.assertGreaterEqual(self.get("/controller/overview")["counts"]["http_cut"], 60)


class Off(unittest.TestCase):
    def test_without_http(self):
        with Controller(http="no") as controller:
            self.assertIsNone(controller.http)
            fleet = controller.fleet()
            self.assertEqual(fleet.register("a")["type"], "RegisterRetMsg")
            fleet.close()


if __name__ == "__main__":
    unittest.main()
