"""Sinks of the configuration file: what is in them, that a reload loses nothing
and doubles nothing, and that a bad file changes nothing."""
import json
import os
import shutil
import signal
import subprocess
import tempfile
import unittest

from kvpool_e2e import (CALL_SECONDS, KVPOOLCTL, Kvpoold, StartFailed,
                        generate, ledger_end, main, pool, read_receipts,
                        session_target, wait_until)

RUNNING, RETRYING = 1, 2


class SinksTest(unittest.TestCase):
    maxDiff = 4000

    def setUp(self):
        self.folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.folder, True)
        self.config = os.path.join(self.folder, "kvpool.yaml")

    def path(self, name):
        return os.path.join(self.folder, name)

    def write(self, *sinks, **options):
        """The file; each sink is a dictionary."""
        values = dict(kv_cache_size_mb=8, enable_receipts=True,
                      receipts_log=False, snapshot_interval_ms=0,
                      sinks=list(sinks), **options)
        with open(self.config, "w", encoding="utf-8") as file:
            json.dump(values, file)  # which is YAML

    def file_sink(self, name, **settings):
        return dict(name=name, kind="file", path=self.path(name + ".jsonl"),
                    **settings)

    def start(self, *sinks, **options):
        self.write(*sinks, **options)
        server = Kvpoold("--config=" + self.config)
        self.addCleanup(server.kill)
        return server

    def issue(self, server, n=1):
        for _ in range(n):
            server.pool.Evict(pool.EvictRequest(
                targets=[session_target("nobody")]), timeout=CALL_SECONDS)

    def lines(self, name):
        try:
            with open(self.path(name + ".jsonl"), encoding="utf-8") as file:
                return file.read().splitlines()
        except FileNotFoundError:
            return []

    def sequences(self, name):
        return [json.loads(line)["sequence"] for line in self.lines(name)]

    def status(self, server, name):
        sinks = server.pool.Snapshot(
            pool.SnapshotRequest(sections=[pool.SNAPSHOT_SECTION_SINKS]),
            timeout=CALL_SECONDS).snapshot.sinks
        found = [s for s in sinks if s.name == name]
        return found[0] if found else None

    def wait_for(self, server, name, sequence=None):
        """Until the sink has everything, or all up to the sequence."""
        sequence = sequence or ledger_end(server)
        wait_until(lambda: (s := self.status(server, name)) is not None and
                   s.acknowledged_sequence >= sequence,
                   "sink %s at %d: %s" % (name, sequence, server.tail()))

    def reload(self, server):
        """Sends SIGHUP, and waits for what the server says to it."""
        said = [dict(msg="configuration reloaded"),
                dict(msg="the configuration stays as it was")]

        def answers():
            return [line for fields in said for line in server.log(**fields)]

        n = len(answers())
        server.signal(signal.SIGHUP)
        wait_until(lambda: len(answers()) > n, "answer to SIGHUP")
        return server

    def changes(self, server):
        return [r.lifecycle.configuration_change
                for r in read_receipts(server)
                if r.lifecycle.WhichOneof("change") == "configuration_change"]

    # --- files

    def test_a_file_has_each_receipt_as_a_stream_has_it(self):
        server = self.start(self.file_sink("a"))
        for i in range(3):
            generate(server, text="What is a dog?", session="s%d" % i,
                     max_tokens=8)
        server.pool.Evict(pool.EvictRequest(
            targets=[session_target("s1")]), timeout=CALL_SECONDS)
        self.issue(server, 20)
        self.wait_for(server, "a")
        end = ledger_end(server)
        tail = subprocess.run(
            [KVPOOLCTL, "--server", server.address, "-o", "jsonl", "receipts",
             "tail", "--from", "earliest", "--limit", str(end)],
            capture_output=True, text=True, timeout=CALL_SECONDS, check=True)
        self.assertEqual(self.lines("a"), tail.stdout.splitlines())
        status = self.status(server, "a")
        self.assertEqual(
            (status.kind, status.state, status.guaranteed,
             status.acknowledged_sequence, status.delivered_total,
             status.lag_receipts, status.lag_ns, status.lost_total,
             status.retries_total, status.last_error),
            ("file", RUNNING, True, end, end, 0, 0, 0, 0, ""))
        server.stop()
        self.assertEqual(self.sequences("a")[:end], list(range(1, end + 1)))
        self.assertIn('"drain"', self.lines("a")[end])

    def test_a_lost_directory_is_tried_again_and_costs_nothing(self):
        os.mkdir(self.path("gone"))
        lost = dict(name="lost", kind="file", path=self.path("gone/x.jsonl"))
        server = self.start(lost, self.file_sink("well"))
        self.wait_for(server, "lost")
        shutil.rmtree(self.path("gone"))
        before = ledger_end(server)
        self.issue(server, 50)
        self.wait_for(server, "well")
        wait_until(lambda: self.status(server, "lost").state == RETRYING,
                   "retry")
        status = self.status(server, "lost")
        self.assertEqual(status.acknowledged_sequence, before)
        self.assertEqual(status.lag_receipts, ledger_end(server) - before)
        self.assertIn("No such file or directory", status.last_error)
        self.assertGreater(status.last_error_unix_ns, 0)
        wait_until(lambda: self.status(server, "lost").lag_ns > 0, "lag")
        self.assertGreater(self.status(server, "lost").retries_total, 0)
        os.mkdir(self.path("gone"))
        self.wait_for(server, "lost")
        with open(self.path("gone/x.jsonl"), encoding="utf-8") as file:
            found = [json.loads(line)["sequence"] for line in file]
        self.assertEqual(found, list(range(before + 1, ledger_end(server) + 1)))
        self.assertEqual(self.status(server, "lost").state, RUNNING)
        self.assertEqual(self.status(server, "lost").lost_total, 0)
        server.stop()

    def test_a_directory_that_is_not_there_stops_the_start(self):
        with self.assertRaises(StartFailed) as failed:
            self.start(dict(name="a", kind="file",
                            path=self.path("none/x.jsonl")))
        self.assertEqual(failed.exception.code, 1)
        self.assertIn("sink a: %s: No such file" % self.path("none"),
                      failed.exception.lines[-1])

    def test_two_ledgers_do_not_mix_in_one_file(self):
        for _ in range(2):
            server = self.start(self.file_sink("a", compress="none"))
            self.issue(server, 3)
            self.wait_for(server, "a")
            server.stop()
        closed = [name for name in os.listdir(self.folder)
                  if name.startswith("a-")]
        self.assertEqual(len(closed), 1, closed)
        for name in closed[0][:-len(".jsonl")], "a":
            found = [json.loads(line) for line in self.lines(name)]
            self.assertEqual([r["sequence"] for r in found],
                             list(range(1, len(found) + 1)))
            self.assertEqual(len({r["pool_id"] for r in found}), 1)

    # --- over a journal

    def issue_large(self, server, n):
        """n receipts of some kilobytes each."""
        for _ in range(n):
            server.pool.Evict(pool.EvictRequest(targets=[
                session_target("nobody-%d-%s" % (i, "x" * 90))
                for i in range(190)]), timeout=CALL_SECONDS)

    def test_each_receipt_stands_once_however_the_server_ends(self):
        for i in range(6):
            server = self.start(self.file_sink("a", rotate_mb=1),
                                data_dir=self.path("data"))
            self.issue_large(server, 10)
            self.issue(server, 10)
            if i == 3:
                self.wait_for(server, "a")
            if i % 2 == 0:
                server.kill()
            else:
                server.stop()
        server = self.start(self.file_sink("a", rotate_mb=1),
                            data_dir=self.path("data"))
        self.wait_for(server, "a")
        end = ledger_end(server)
        self.assertEqual(self.status(server, "a").lost_total, 0)
        self.assertLess(self.status(server, "a").delivered_total, end)
        server.stop()
        found = []
        for name in sorted(os.listdir(self.folder)):
            if name.startswith("a-"):
                path = self.path(name)
                text = (subprocess.run(["zstd", "-dcq", path], check=True,
                                       capture_output=True).stdout.decode()
                        if name.endswith(".zst") else open(path).read())
                found += [json.loads(x)["sequence"] for x in text.splitlines()]
        found += self.sequences("a")
        self.assertEqual(found, list(range(1, len(found) + 1)))
        self.assertGreaterEqual(len(found), end)

    def test_what_left_memory_is_delivered_from_disk(self):
        os.mkdir(self.path("gone"))
        lost = dict(name="lost", kind="file", path=self.path("gone/x.jsonl"))
        server = self.start(lost, self.file_sink("well"), receipts_ring_mb=1,
                            data_dir=self.path("data"))
        self.wait_for(server, "lost")
        shutil.rmtree(self.path("gone"))
        before = ledger_end(server)
        self.issue_large(server, 120)
        self.wait_for(server, "well")
        self.issue_large(server, 120)
        self.wait_for(server, "well")
        wait_until(lambda: self.status(server, "lost").lag_ns > 0, "lag")
        os.mkdir(self.path("gone"))
        self.wait_for(server, "lost")
        with open(self.path("gone/x.jsonl"), encoding="utf-8") as file:
            found = [json.loads(line)["sequence"] for line in file]
        self.assertEqual(found, list(range(before + 1, ledger_end(server) + 1)))
        self.assertEqual(self.status(server, "lost").lost_total, 0)
        server.stop()

    def test_a_new_sink_begins_with_the_oldest_receipt(self):
        for sinks in (), (self.file_sink("late"),):
            server = self.start(*sinks, data_dir=self.path("data"))
            self.issue(server, 5)
            if sinks:
                self.wait_for(server, "late")
            server.stop()
        found = self.sequences("late")
        self.assertEqual(found, list(range(1, len(found) + 1)))
        self.assertEqual(len({json.loads(x)["epoch"]
                              for x in self.lines("late")}), 2)

    # --- SIGHUP

    def test_sinks_come_and_go_and_nothing_is_lost_or_doubled(self):
        keeper = self.file_sink("keeper")
        server = self.start(keeper, self.file_sink("first"))
        self.issue(server, 20)
        for i in range(6):
            self.issue(server, 5)
            self.write(keeper, self.file_sink("second" if i % 2 else "first"),
                       self.file_sink("changed", rotate_s=1000 + i))
            self.reload(server)
            self.issue(server, 5)
        wait_until(lambda: self.status(server, "first") is None,
                   "end of the first")
        for name in ("keeper", "second", "changed"):
            self.wait_for(server, name)
            self.assertEqual(self.sequences(name),
                             list(range(1, ledger_end(server) + 1)), name)
            self.assertEqual(self.status(server, name).lost_total, 0)
        first = self.sequences("first")
        self.assertEqual(first, list(range(1, len(first) + 1)))
        changes = self.changes(server)
        self.assertEqual(len(changes), 6)
        self.assertEqual(list(changes[0].options), ["sinks.changed"])
        self.assertEqual(sorted(changes[1].options),
                         ["sinks.changed", "sinks.first", "sinks.second"])
        for change in changes:
            self.assertEqual(change.requested_by, "SIGHUP")
            self.assertEqual(len(change.previous_digest), 32)
        server.stop()
        self.assertEqual(self.sequences("keeper"),
                         list(range(1, len(self.sequences("keeper")) + 1)))

    def test_a_configuration_in_a_pipe_is_read_once(self):
        fifo = self.path("fifo")
        os.mkfifo(fifo)
        self.write(self.file_sink("keeper"))
        with subprocess.Popen(["cp", self.config, fifo]):
            server = Kvpoold("--config=" + fifo)
        self.addCleanup(server.kill)
        self.reload(server)
        said = server.log(msg="the configuration stays as it was")
        self.assertIn(fifo, said[0]["error"])
        self.issue(server, 5)
        self.wait_for(server, "keeper")
        server.stop()

    def test_digests_of_changes_are_a_chain(self):
        server = self.start()
        for level in ("warn", "debug"):
            self.write(log_level="info" if level == "warn" else level)
            self.reload(server)
        self.write(self.file_sink("a"), log_level="debug")
        self.reload(server)
        digest = None
        for receipt in read_receipts(server):
            change = receipt.lifecycle.WhichOneof("change")
            if change == "configuration_change":
                self.assertEqual(
                    receipt.lifecycle.configuration_change.previous_digest,
                    digest)
                self.assertNotEqual(receipt.lifecycle.config_digest, digest)
            if change is not None:
                digest = receipt.lifecycle.config_digest
        self.assertEqual([list(c.options) for c in self.changes(server)],
                         [["log_level"], ["sinks.a"]])
        server.stop()

    def test_a_bad_file_changes_nothing_and_says_why(self):
        server = self.start(self.file_sink("a"))
        end = None
        for text, why in (
                ("sinks:\n  - name: b\n    kind: fiel\n",
                 "%s:3:11: kind: given \"fiel\", allowed is " % self.config),
                ("threads: x\n", "%s:1:10: threads: given" % self.config),
                ("sinks:\n  - {name: b, kind: file, path: %s}\n"
                 % self.path("none/x"), "sink b: %s: No such file"
                 % self.path("none"))):
            with open(self.config, "w", encoding="utf-8") as file:
                file.write(text)
            n = len(server.log(msg="the configuration stays as it was"))
            self.reload(server)
            said = server.log(msg="the configuration stays as it was")
            self.assertEqual(len(said), n + 1)
            self.assertIn(why, said[-1]["error"])
            self.assertEqual(end or ledger_end(server), ledger_end(server))
            end = ledger_end(server)
        os.unlink(self.config)
        self.reload(server)
        self.issue(server, 3)
        self.wait_for(server, "a")
        self.assertEqual(self.sequences("a"),
                         list(range(1, ledger_end(server) + 1)))
        self.assertEqual(self.changes(server), [])
        server.stop()

    def test_what_needs_a_restart_is_said_and_left_alone(self):
        server = self.start(threads=1)
        self.write(threads=2, max_calls=7, log_level="debug")
        self.reload(server)
        self.assertEqual(
            [line["option"] for line in server.log(
                msg="an option that changed needs a restart")],
            ["threads", "max_calls"])
        self.assertEqual([list(c.options) for c in self.changes(server)],
                         [["log_level"]])
        server.stop()

    def test_the_log_sink_comes_and_goes(self):
        server = self.start()
        self.assertIsNone(self.status(server, "log"))
        self.write(dict(name="console", kind="log"))
        self.reload(server)
        self.issue(server)
        self.assertTrue(server.log(target="kvpool::kv::receipts"))
        status = self.status(server, "console")
        self.assertEqual((status.kind, status.guaranteed), ("log", False))
        self.write()
        self.reload(server)
        self.assertIsNone(self.status(server, "console"))
        server.stop()

    def test_kvpoolctl_shows_how_far_each_is(self):
        server = self.start(self.file_sink("a"))
        self.wait_for(server, "a")
        done = subprocess.run(
            [KVPOOLCTL, "--server", server.address, "snapshot", "--sinks"],
            capture_output=True, text=True, timeout=CALL_SECONDS, check=True)
        self.assertRegex(done.stdout, r"\na +file +RUNNING +yes +%d +0 "
                         % ledger_end(server))
        done = subprocess.run(
            [KVPOOLCTL, "--server", server.address, "-o", "json", "snapshot",
             "--sinks"],
            capture_output=True, text=True, timeout=CALL_SECONDS, check=True)
        self.assertEqual(json.loads(done.stdout)["sinks"][0]["name"], "a")
        server.stop()


if __name__ == "__main__":
    main()
