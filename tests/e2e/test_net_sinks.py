"""Sinks to the network, end to end: an HTTP receiver that misbehaves and a
nats-server that is killed and restarted get everything that was streamed."""
import base64
import gzip
import http.server
import itertools
import json
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import unittest

from kvpool_e2e import (CALL_SECONDS, Kvpoold, generate, ledger_end, main,
                        pool, read_receipts, session_target)

SPARE_SECONDS = 10


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


class NatsServer:
    """nats-server with JetStream, on one port however often it is started."""

    def __init__(self, folder):
        self.folder = folder
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
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

    def read_stream(self, stream):
        """What the stream has: (Nats-Msg-Id, subject, data) of each message,
        asked for in the server's own protocol."""
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


class NetSinksTest(unittest.TestCase):
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

    def until(self, condition, what):
        end = time.monotonic() + CALL_SECONDS
        while not condition():
            if time.monotonic() > end:
                raise AssertionError("no " + what)
            time.sleep(0.02)

    def wait_for(self, server, name, sequence):
        self.until(lambda: self.status(server, name).acknowledged_sequence >=
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
            server = self.start(self.http_sink(receiver),
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
                dict(name="web", kind="http", close_ms=100,
                     url="http://127.0.0.1:%d/" % port),
                dict(name="broker", kind="nats", close_ms=100,
                     url="nats://127.0.0.1:%d" % port),
                dict(name="lost", kind="http", close_ms=100,
                     url="http://nowhere.invalid/"))
            self.storm(server, 5)
            self.until(lambda: self.status(server, "lost").last_error,
                       "failure")
            self.assertIn("nowhere.invalid",
                          self.status(server, "lost").last_error)
            begin = time.monotonic()
            server.stop()
            self.assertLess(time.monotonic() - begin, SPARE_SECONDS)

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


if __name__ == "__main__":
    main()
