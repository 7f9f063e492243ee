"""Sinks to the network, end to end: an HTTP receiver that misbehaves and a
nats-server that is killed and restarted get everything that was streamed."""
import base64
import contextlib
import gzip
import http.server
import itertools
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import unittest

import grpc

from kvpool_e2e import (CALL_SECONDS, Failure, Kvpoold, generate, ledger_end,
                        main, pool, read_receipts, session_target, wait_until)

RUNNING, RETRYING, FAILED = 1, 2, 3


class Receiver:
    """Takes batches and answers as a list of moods says, over and over."""

    def __init__(self, *moods):
        self.moods = itertools.cycle(moods)
        self.events = []
        self.lock = threading.Lock()
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                receiver.handle(self)

            def log_message(self, *_):
                pass

        class Server(http.server.ThreadingHTTPServer):
            def handle_error(self, *_):
                pass  # connections that are cut are the point

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = "http://127.0.0.1:%d/events" % self.server.server_port
        threading.Thread(target=self.server.serve_forever, args=(0.05,),
                         daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def keep(self, handler):
        body = handler.rfile.read(int(handler.headers["Content-Length"]))
        if handler.headers["Content-Encoding"] == "gzip":
            body = gzip.decompress(body)
        batch = json.loads(body)
        assert batch[0]["sequence"].lstrip("0") == \
            handler.headers["X-Kvpool-First-Sequence"]
        with self.lock:
            self.events += batch

    def handle(self, handler):
        with self.lock:
            mood = next(self.moods)
        if mood == "stall":
            time.sleep(1)
        if mood in ("reset", "stall"):
            handler.connection.shutdown(socket.SHUT_RDWR)
            handler.close_connection = True
            return
        if mood == "slow":
            time.sleep(0.2)
        if mood in ("take", "slow", "forget"):
            self.keep(handler)
        if mood == "forget":
            handler.connection.shutdown(socket.SHUT_RDWR)
            handler.close_connection = True
            return
        if isinstance(mood, int):
            handler.rfile.read(int(handler.headers["Content-Length"]))
        handler.send_response(mood if isinstance(mood, int) else 204)
        if mood == 503:
            handler.send_header("Retry-After", "1")
        handler.send_header("Content-Length", "0")
        handler.end_headers()


def lasting_port():
    """A free one that nobody gets who asks for any: it is there again after a
    restart."""
    while True:
        port = random.randrange(10000, 32000)
        with contextlib.suppress(OSError), \
                socket.create_server(("127.0.0.1", port)):
            return port


class NatsServer:
    """nats-server with JetStream, on one port however often it is started."""

    def __init__(self, folder):
        self.folder = folder
        self.port = lasting_port()
        self.process = None
        self.start()

    def start(self):
        self.process = subprocess.Popen(
            ["nats-server", "-a", "127.0.0.1", "-p", str(self.port), "-js",
             "-sd", self.folder], stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def kill(self):
        self.process.kill()
        self.process.wait()

    @contextlib.contextmanager
    def requests(self):
        """A function that asks the server, in its own protocol."""
        with socket.create_connection(("127.0.0.1", self.port)) as peer:
            file = peer.makefile("rwb")

            def request(subject, body):
                body = json.dumps(body).encode() if body else b""
                file.write(b"PUB %s inbox %d\r\n%s\r\n" % (
                    subject.encode(), len(body), body))
                file.flush()
                while True:
                    words = file.readline().split()
                    if words[0] == b"PING":
                        file.write(b"PONG\r\n")
                    elif words[0] == b"MSG":
                        return json.loads(file.read(int(words[-1]) + 2))

            file.write(b'CONNECT {"verbose": false}\r\nSUB inbox 1\r\n')
            yield request

    def delete_stream(self, stream):
        with self.requests() as request:
            assert request("$JS.API.STREAM.DELETE." + stream, None)["success"]

    def read_stream(self, stream):
        """What the stream has: (Nats-Msg-Id, subject, data) of each message."""
        with self.requests() as request:
            info = request("$JS.API.STREAM.INFO." + stream, None)
            found = []
            for number in range(1, info["state"]["last_seq"] + 1):
                message = request("$JS.API.STREAM.MSG.GET." + stream,
                                  {"seq": number})["message"]
                headers = dict(
                    line.split(": ", 1) for line in base64.b64decode(
                        message["hdrs"]).decode().splitlines() if ": " in line)
                found.append((headers["Nats-Msg-Id"], message["subject"],
                              json.loads(base64.b64decode(message["data"]))))
            return found


class NetSinksCase(unittest.TestCase):
    maxDiff = 4000

    def setUp(self):
        self.folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.folder, True)

    def path(self, name):
        return os.path.join(self.folder, name)

    def start(self, *sinks, **options):
        with open(self.path("kvpool.yaml"), "w", encoding="utf-8") as file:
            json.dump(dict(kv_cache_size_mb=8, enable_receipts=True,
                           receipts_log=False, snapshot_interval_ms=50,
                           sinks=list(sinks), **options), file)
        server = Kvpoold("--config=" + self.path("kvpool.yaml"))
        self.addCleanup(server.kill)
        return server

    def receiver(self, *moods):
        receiver = Receiver(*moods)
        self.addCleanup(receiver.close)
        return receiver

    def nats(self):
        if shutil.which("nats-server") is None:
            self.skipTest("there is no nats-server")
        nats = NatsServer(self.path("nats"))
        self.addCleanup(nats.kill)
        return nats

    def http_sink(self, receiver, **settings):
        return dict(dict(
            name="web", kind="http", url=receiver.url, batch_receipts=20,
            linger_ms=5, timeout_ms=500, retry_least_ms=5, retry_most_ms=50),
            **settings)

    def nats_sink(self, nats, **settings):
        return dict(dict(
            name="broker", kind="nats", url="nats://127.0.0.1:%d" % nats.port,
            retry_least_ms=10, retry_most_ms=100), **settings)

    def status(self, server, name):
        sinks = server.pool.Snapshot(
            pool.SnapshotRequest(sections=[pool.SNAPSHOT_SECTION_SINKS]),
            timeout=CALL_SECONDS).snapshot.sinks
        return next(s for s in sinks if s.name == name)

    def wait_for(self, server, name, sequence):
        wait_until(lambda: self.status(server, name).acknowledged_sequence >=
                   sequence, "end of %s: %s" % (name, server.tail()))

    def storm(self, server, n, between=lambda i: None):
        """Sessions that are filled and evicted by hand."""
        for i in range(n):
            name = "s%d" % i
            generate(server, text="What is a dog?", session=name, max_tokens=4)
            server.pool.Evict(pool.EvictRequest(
                targets=[session_target(name)]), timeout=CALL_SECONDS)
            between(i)

    def check_ids(self, receipts, ids):
        """ids, in the order of arrival, are those of the receipts: all are
        there, and without repeats they are in order."""
        expected = ["%s/%d/%d" % (r.pool_id.hex(), r.epoch, r.sequence)
                    for r in receipts]
        firsts = [i for i in dict.fromkeys(ids) if i in set(expected)]
        self.assertEqual(sorted(firsts, key=expected.index), expected)
        return firsts == expected


class NetSinksTest(NetSinksCase):
    def test_flaky_targets_get_everything_that_was_streamed(self):
        receiver = self.receiver("take", "reset", 500, "forget", "slow", 429,
                                 "stall", 404, "take", 503, 301, "take")
        nats = self.nats()
        server = self.start(self.http_sink(receiver, gzip=True),
                            self.nats_sink(nats, max_pending=16),
                            data_dir=self.path("data"))

        def disturb(i):
            if i % 10 == 4:
                nats.kill()
            if i % 10 == 7:
                nats.start()

        self.storm(server, 40, disturb)
        end = ledger_end(server)
        self.wait_for(server, "web", end)
        self.wait_for(server, "broker", end)
        receipts = [r for r in read_receipts(server) if r.sequence <= end]
        self.assertEqual([r.sequence for r in receipts],
                         list(range(1, end + 1)))
        self.assertGreaterEqual(
            sum(r.WhichOneof("kind") == "eviction" for r in receipts), 40)

        events = {}
        for event in receiver.events:
            self.assertEqual(events.setdefault(event["id"], event), event)
        self.assertGreater(len(receiver.events), len(events))
        self.assertTrue(self.check_ids(
            receipts, [e["id"] for e in receiver.events]))
        for receipt in receipts:
            key = "%s/%d/%d" % (receipt.pool_id.hex(), receipt.epoch,
                                receipt.sequence)
            event = events[key]
            self.assertEqual(event["data"]["sequence"], receipt.sequence)
            if receipt.WhichOneof("kind") == "eviction":
                self.assertEqual(event["type"], "kvpool.v1.kv_eviction")
                self.assertEqual(event["subject"],
                                 receipt.eviction.session_id)
                self.assertEqual(event["data"]["block_size_bytes"],
                                 receipt.eviction.block_size_bytes)

        messages = nats.read_stream("KVPOOL")
        ids = [m[0] for m in messages]
        self.assertEqual(len(ids), len(set(ids)))
        self.check_ids(receipts, ids)
        for _, subject, data in messages:
            self.assertEqual(subject, "kvpool.receipts." + data["event"])
        for name in ("web", "broker"):
            status = self.status(server, name)
            self.assertEqual(status.lost_total, 0, name)
            self.assertGreater(status.retries_total, 0)
        server.stop()

    def test_a_restart_goes_on_behind_what_was_acknowledged(self):
        receiver = self.receiver("take")
        receipts = []
        for _ in range(3):
            server = self.start(self.http_sink(receiver, timeout_ms=60000),
                                data_dir=self.path("data"))
            self.storm(server, 5)
            end = ledger_end(server)
            self.wait_for(server, "web", end)
            receipts = read_receipts(server)
            server.stop()
        ids = [e["id"] for e in receiver.events]
        self.assertTrue(self.check_ids(receipts, ids))
        self.assertEqual({r.epoch for r in receipts}, {1, 2, 3})
        self.assertEqual(len(ids), len(set(ids)))

    def test_dead_targets_cost_the_server_nothing(self):
        with socket.create_server(("127.0.0.1", 0)) as silent:
            port = silent.getsockname()[1]
            server = self.start(
                dict(name="web", kind="http", close_ms=100, timeout_ms=600000,
                     url="http://127.0.0.1:%d/" % port),
                dict(name="broker", kind="nats", close_ms=100,
                     connect_timeout_ms=600000,
                     url="nats://127.0.0.1:%d" % port),
                dict(name="lost", kind="http", close_ms=100,
                     url="http://nowhere.invalid/"))
            self.storm(server, 5)
            wait_until(lambda: self.status(server, "lost").last_error,
                       "failure")
            # "Could not resolve host", or "Resolving timed out".
            self.assertIn("esolv", self.status(server, "lost").last_error)
            server.stop()

    def failed(self, server, name, why):
        wait_until(lambda: self.status(server, name).state ==
                   FAILED, "end of " + name)
        status = self.status(server, name)
        self.assertIn(why, status.last_error)
        return status

    def again_after_sighup(self, server, name):
        """It delivers all that there is, and nothing was skipped."""
        server.signal(signal.SIGHUP)
        self.wait_for(server, name, ledger_end(server))
        status = self.status(server, name)
        self.assertEqual((status.state, status.lost_total),
                         (RUNNING, 0))

    def test_who_refuses_for_ever_is_given_up_until_a_reload(self):
        receiver = self.receiver(404)
        server = self.start(self.http_sink(receiver, give_up_s=1))
        self.storm(server, 2)
        status = self.failed(server, "web", "refused for 1 s: answered 404")
        self.assertEqual(status.acknowledged_sequence, 0)
        time.sleep(0.1)
        self.assertEqual(self.status(server, "web").retries_total,
                         status.retries_total)
        receiver.moods = itertools.repeat("take")
        self.again_after_sighup(server, "web")
        server.stop()

    def test_a_stream_that_does_not_fit_is_given_up_until_a_reload(self):
        nats = self.nats()
        with self.start(self.nats_sink(nats, subject="others")) as server:
            self.wait_for(server, "broker", 1)
        server = self.start(self.nats_sink(nats))
        self.storm(server, 2)
        self.failed(server, "broker", "does not have the subject")
        nats.delete_stream("KVPOOL")
        self.again_after_sighup(server, "broker")
        server.stop()

    def test_a_path_that_becomes_a_directory_is_given_up_until_a_reload(self):
        path = self.path("r.jsonl")
        server = self.start(dict(name="disk", kind="file", path=path))
        self.storm(server, 1)
        self.wait_for(server, "disk", 1)
        os.rename(path, path + ".old")
        os.mkdir(path)
        self.storm(server, 2)
        self.failed(server, "disk", "r.jsonl is no file")
        os.rmdir(path)
        self.again_after_sighup(server, "disk")
        server.stop()
        lines = []
        for name in (path + ".old", path):
            with open(name, encoding="utf-8") as file:
                lines += [json.loads(line)["sequence"] for line in file]
        self.assertEqual(lines, list(range(1, len(lines) + 1)))

    def test_a_broker_that_is_silent_in_tls_is_left_and_tried_again(self):
        info = b'INFO {"server_id":"x","version":"2.9.10","proto":1,' \
            b'"headers":true,"max_payload":1048576,"tls_required":true}\r\n'
        calls = []
        with socket.create_server(("127.0.0.1", 0)) as silent:
            port = silent.getsockname()[1]

            def answer():
                with contextlib.suppress(OSError):
                    while True:
                        calls.append(silent.accept()[0])
                        calls[-1].sendall(info)

            threading.Thread(target=answer, daemon=True).start()
            server = self.start(
                dict(name="broker", kind="nats", connect_timeout_ms=200,
                     url="tls://127.0.0.1:%d" % port, close_ms=100,
                     retry_least_ms=10, retry_most_ms=50))
            self.storm(server, 2)
            wait_until(lambda: len(calls) >= 3, "third try")
            wait_until(lambda: "no TLS handshake within 200 ms" in
                       self.status(server, "broker").last_error, "told")
            self.assertEqual(self.status(server, "broker").state, RETRYING)
            with open(self.path("kvpool.yaml"), encoding="utf-8") as file:
                settings = json.load(file)
            settings["sinks"] = []
            with open(self.path("kvpool.yaml"), "w",
                      encoding="utf-8") as file:
                json.dump(settings, file)
            server.signal(signal.SIGHUP)
            wait_until(lambda: not server.pool.Snapshot(
                pool.SnapshotRequest(sections=[pool.SNAPSHOT_SECTION_SINKS]),
                timeout=CALL_SECONDS).snapshot.sinks, "removal")
            server.stop()
            for call in calls:
                call.close()

    def test_secrets_are_in_no_log(self):
        receiver = self.receiver("take", 401)
        with open(self.path("token"), "w", encoding="utf-8") as file:
            file.write("open-sesame\n")
        server = self.start(self.http_sink(
            receiver, token_file=self.path("token")), log_level="debug")
        self.storm(server, 5)
        self.wait_for(server, "web", ledger_end(server))
        server.stop()
        self.assertNotIn("open-sesame", "\n".join(server.lines))


class Attacker:
    """A receiver in sockets alone: reads a request, then does its worst with
    the connection, for ever or so many times."""

    def __init__(self, worst):
        self.worst, self.n_calls = worst, 0
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = "http://127.0.0.1:%d/" % self.socket.getsockname()[1]
        self.over = threading.Event()
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        with contextlib.suppress(OSError):
            while True:
                peer = self.socket.accept()[0]
                self.n_calls += 1
                with contextlib.suppress(OSError), peer:
                    peer.recv(1 << 20)
                    self.worst(peer, self.over)

    def close(self):
        self.over.set()
        self.socket.close()


def endless_headers(peer, over):
    peer.sendall(b"HTTP/1.1 200 OK\r\n")
    while not over.is_set():
        peer.sendall(b"".join(b"X-%d: %s\r\n" % (i, 1000 * b"x")
                              for i in range(100)))


def endless_interim(peer, over):
    while not over.is_set():
        peer.sendall(1000 * b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n")


def one_endless_header(peer, over):
    peer.sendall(b"HTTP/1.1 200 OK\r\nX: ")
    while not over.is_set():
        peer.sendall(100000 * b"x")


def large_body(peer, over):
    peer.sendall(b"HTTP/1.1 500 No\r\nContent-Length: 104857600\r\n\r\n")
    for _ in range(100):
        if not over.is_set():
            peer.sendall(1048576 * b"x")


def gzip_bomb(peer, over):
    bomb = gzip.compress(bytes(1 << 26))
    peer.sendall(b"HTTP/1.1 500 No\r\nContent-Encoding: gzip\r\n"
                 b"Content-Length: %d\r\n\r\n" % len(bomb) + bomb)


def drops(peer, over):
    for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n" * 100:
        if over.wait(0.05):
            return
        peer.sendall(bytes([byte]))


def elsewhere(peer, over):
    peer.sendall(b"HTTP/1.1 307 There\r\nLocation: http://127.0.0.1:1/\r\n"
                 b"Content-Length: 0\r\n\r\n")


def garbage(peer, over):
    peer.sendall(os.urandom(4096))


class HostileTest(NetSinksCase):
    def resident_bytes(self, server):
        with open("/proc/%d/statm" % server.pid, encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def is_sanitized(self, server):
        with open("/proc/%d/maps" % server.pid, encoding="utf-8") as file:
            return re.search(r"lib[at]san|\[shadow", file.read()) is not None

    def test_hostile_receivers_cost_bounded_memory_and_nobody_else(self):
        attacks = (endless_headers, endless_interim, one_endless_header,
                   large_body, gzip_bomb, drops, elsewhere, garbage)
        attackers = {}
        for worst in attacks:
            attackers[worst.__name__] = Attacker(worst)
            self.addCleanup(attackers[worst.__name__].close)
        good = self.receiver("take")
        server = self.start(self.http_sink(good), *(
            self.http_sink(attacker, name=name, timeout_ms=500,
                           retry_most_ms=50, close_ms=100)
            for name, attacker in attackers.items()))
        self.storm(server, 2)
        before = self.resident_bytes(server)
        for name, attacker in attackers.items():
            wait_until(lambda a=attacker: a.n_calls >= 4, name)
        self.storm(server, 5)
        self.wait_for(server, "web", ledger_end(server))
        for name in attackers:
            status = self.status(server, name)
            self.assertEqual((status.state, status.acknowledged_sequence),
                             (RETRYING, 0), name)
        if not self.is_sanitized(server):
            self.assertLess(self.resident_bytes(server) - before, 32 << 20)
        server.stop()

    def test_a_broker_that_lost_its_stream_gets_what_is_not_acknowledged(self):
        nats = self.nats()
        server = self.start(self.nats_sink(nats))
        self.storm(server, 3)
        self.wait_for(server, "broker", ledger_end(server))
        nats.kill()
        first = self.status(server, "broker").acknowledged_sequence + 1
        shutil.rmtree(nats.folder)
        self.storm(server, 3)
        nats.start()
        end = ledger_end(server)
        self.wait_for(server, "broker", end)
        nats.delete_stream("KVPOOL")
        gone = self.status(server, "broker").acknowledged_sequence
        self.storm(server, 3)
        last = ledger_end(server)
        self.wait_for(server, "broker", last)
        found = {m[2]["sequence"] for m in nats.read_stream("KVPOOL")}
        self.assertLessEqual(set(range(gone + 1, last + 1)), found)
        self.assertLess(first, end)
        self.assertEqual(self.status(server, "broker").lost_total, 0)
        server.stop()

    def test_kills_between_delivery_and_cursor_repeat_and_lose_nothing(self):
        receiver = self.receiver("take")
        end = 0
        for life in range(5):
            server = self.start(
                self.http_sink(receiver, batch_receipts=3, linger_ms=0),
                data_dir=self.path("data"))
            self.storm(server, 4)
            end = ledger_end(server)
            wait_until(lambda: len(receiver.events) > 5 * life, "delivery")
            if life < 4:
                server.kill()
        self.wait_for(server, "web", end)
        receipts = [r for r in read_receipts(server) if r.sequence <= end]
        self.assertEqual([r.sequence for r in receipts],
                         list(range(1, end + 1)))
        self.check_ids(receipts, [e["id"] for e in receiver.events])
        server.stop()

    def test_a_storm_of_reloads_loses_and_doubles_nothing(self):
        receiver = self.receiver("take")
        steady = dict(name="steady", kind="file", path=self.path("s.jsonl"))
        changing = dict(name="changing", kind="file",
                        path=self.path("c.jsonl"))
        server = self.start(steady, data_dir=self.path("data"))
        with open(self.path("kvpool.yaml"), encoding="utf-8") as file:
            settings = json.load(file)

        def reload(i):
            settings["sinks"] = [steady, dict(changing, rotate_mb=1 + i)]
            if i % 2 == 0:
                settings["sinks"].append(self.http_sink(receiver))
            if i % 3 == 0:
                settings["sinks"].append(dict(
                    name="dead-%d" % i, kind="http", close_ms=0,
                    url="http://127.0.0.1:1/"))
            fresh = self.path("fresh.yaml")
            with open(fresh, "w", encoding="utf-8") as file:
                json.dump(settings, file)
            os.rename(fresh, self.path("kvpool.yaml"))
            for _ in range(3):
                server.signal(signal.SIGHUP)

        self.storm(server, 40, reload)
        wait_until(lambda: len(server.log(msg="configuration reloaded")) > 0,
                   "reload")
        reload(38)
        server.pool.Evict(pool.EvictRequest(targets=[session_target("x")]),
                          timeout=CALL_SECONDS)
        wait_until(lambda: self.names(server) == {"steady", "changing", "web"},
                   "last configuration")
        end = ledger_end(server)
        for name in ("steady", "changing", "web"):
            self.wait_for(server, name, end)
            self.assertEqual(self.status(server, name).lost_total, 0)
        server.stop()
        for path in ("s.jsonl", "c.jsonl"):
            with open(self.path(path), encoding="utf-8") as file:
                lines = [json.loads(line)["sequence"] for line in file]
            self.assertEqual(lines, list(range(1, len(lines) + 1)), path)
            self.assertGreaterEqual(len(lines), end)

    def names(self, server):
        return {s.name for s in server.pool.Snapshot(
            pool.SnapshotRequest(sections=[pool.SNAPSHOT_SECTION_SINKS]),
            timeout=CALL_SECONDS).snapshot.sinks}

    def test_a_data_dir_that_is_removed_ends_in_order(self):
        server = self.start(data_dir=self.path("data"),
                            receipts_segment_mb=1)
        self.storm(server, 2)
        shutil.rmtree(self.path("data"))
        many = [session_target("nobody-%03d" % i + "x" * 100)
                for i in range(256)]
        with self.assertRaises(grpc.RpcError) as caught:
            for _ in range(200):  # 5 MiB
                server.pool.Evict(pool.EvictRequest(targets=many),
                                  timeout=CALL_SECONDS)
        self.assertEqual(Failure(caught.exception).reason, "JOURNAL_FAILED")
        generate(server, text="A", max_tokens=1)
        server.signal(signal.SIGTERM)
        self.assertEqual(server.wait(), 1)
        server.check_lines()


if __name__ == "__main__":
    main()
