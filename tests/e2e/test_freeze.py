"""A disk that does not answer: a server that is to stop says what it waits for,
goes on when the disk does, and ends at a second signal all the same. And a loop
that stands still: who cannot ask the server finds its totals in the log."""
import os
import signal

from kvpool_e2e import Kvpoold, generate, main, read_receipts, wait_until
from test_admin import metrics
from test_journal import FLAGS, JournalTest, evict, is_caught_up, snapshot

SHIM = os.environ["KVPOOL_FREEZE_SHIM"]
STALL = "the loop stands still; nothing is answered"


class FreezeTest(JournalTest):
    def setUp(self):
        super().setUp()
        self.frozen = os.path.join(self.root, "frozen")
        self.frozen_loop = os.path.join(self.root, "frozen-loop")

    def start(self, *flags):
        server = Kvpoold(
            *FLAGS, "--drain-limit-ms=300", "--signing-key=" +
            os.path.join(self.root, "key"), *flags,
            environment={"LD_PRELOAD": SHIM, "FREEZE_SHIM": self.frozen,
                         "FREEZE_SHIM_LOOP": self.frozen_loop})
        self.addCleanup(server.kill)
        return server

    def kept(self):
        return self.start("--data-dir=" + self.data)

    def freeze(self):
        with open(self.frozen, "w"):
            pass

    @staticmethod
    def waits(server, what=""):
        return [line for line in server.log(level="warn")
                if line["msg"].startswith("stopping waits for " + what)]

    def stops_and_waits(self, server, what):
        """The one line that says for what."""
        server.signal(signal.SIGTERM)
        told = wait_until(
            lambda: self.waits(server, what), "told what it waits for")
        self.assertEqual(len(told), 1)
        self.assertIn("second signal", told[0]["msg"])
        return told[0]

    def gives_up(self, server):
        server.signal(signal.SIGTERM)
        self.assertEqual(server.wait(), 1)
        self.assertIn("second signal", server.lines[-1])
        server.check_lines()

    def test_it_waits_for_the_disk_and_says_so(self):
        server = self.kept()
        before = read_receipts(server)
        self.freeze()
        line = self.stops_and_waits(server, "the disk")
        self.assertEqual(line["data_dir"], self.data)
        self.assertEqual(line["receipts"], "2")  # of the drain, of the end
        self.assertGreaterEqual(int(line["silent_ms"]), 250)
        os.unlink(self.frozen)
        self.assertEqual(server.wait(), 0, server.tail())
        self.assertEqual(len(self.waits(server)), 1, server.tail())
        with self.kept() as server:
            receipts = read_receipts(server)
            boot = receipts[len(before) + 2].lifecycle.boot
            self.assertEqual(boot.previous_sequence, len(before) + 2)
            self.assertTrue(boot.clean)

    def test_a_second_signal_gives_up_what_is_not_durable(self):
        server = self.kept()
        before = read_receipts(server)
        self.freeze()
        self.stops_and_waits(server, "the disk")
        self.gives_up(server)
        os.unlink(self.frozen)
        with self.kept() as server:
            receipts = read_receipts(server)
            self.assertEqual([r.SerializeToString()
                              for r in receipts[:len(before)]],
                             [r.SerializeToString() for r in before])
            self.assertFalse(self.boots(receipts)[-1].lifecycle.boot.clean)

    def test_a_sink_whose_disk_does_not_answer_is_named(self):
        config = os.path.join(self.root, "kvpool.yaml")
        with open(config, "w") as file:
            file.write("sinks: [{name: audit, kind: file, path: %s}]\n" %
                       os.path.join(self.root, "receipts.jsonl"))
        server = self.start("--config=" + config)
        self.freeze()
        generate(server, text="A dog", session="a", max_tokens=4)
        line = self.stops_and_waits(server, "sinks")
        self.assertEqual(line["sink"], "audit")
        self.gives_up(server)

    def test_a_loop_that_stands_still_is_told_with_its_last_totals(self):
        server = self.start("--data-dir=" + self.data, "--loop-stall-ms=100",
                            "--admin-listen=127.0.0.1:0")
        generate(server, text="A dog", session="a", max_tokens=4)
        generate(server, text="A cat", session="b", max_tokens=4)
        evict(server, "b")
        wait_until(lambda: is_caught_up(server), "all is durable")
        s = snapshot(server)
        n_before = len(server.log(msg=STALL))
        with open(self.frozen_loop, "w"):
            pass
        line = wait_until(lambda: server.log(msg=STALL)[n_before:], STALL)[-1]
        os.unlink(self.frozen_loop)
        for field, value in (
                ("used_bytes", s.statistics.used_memory_bytes),
                ("total_bytes", s.statistics.total_memory_bytes),
                ("sessions", 1), ("evictions", 1), ("running_sequences", 0),
                ("applied_sequence", s.stamp.applied_sequence),
                ("durable_sequence", s.stamp.durable_sequence)):
            self.assertEqual(int(line[field]), value, field)
        self.assertGreater(int(line["used_bytes"]), 0)
        wait_until(lambda: server.log(msg="the loop goes on")[n_before:],
                   "it goes on")
        self.assertGreater(metrics(server)["kvpool_loop_stalls_total"],
                           n_before)
        server.stop()


if __name__ == "__main__":
    main()
