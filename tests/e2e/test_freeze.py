"""A disk that does not answer: a server that is to stop says what it waits for,
goes on when the disk does, and ends at a second signal all the same."""
import os
import signal

from kvpool_e2e import Kvpoold, generate, main, read_receipts, wait_until
from test_journal import FLAGS, JournalTest

SHIM = os.environ["KVPOOL_FREEZE_SHIM"]


class FreezeTest(JournalTest):
    def setUp(self):
        super().setUp()
        self.frozen = os.path.join(self.root, "frozen")

    def start(self, *flags):
        server = Kvpoold(
            *FLAGS, "--drain-limit-ms=300", "--signing-key=" +
            os.path.join(self.root, "key"), *flags,
            environment={"LD_PRELOAD": SHIM, "FREEZE_SHIM": self.frozen})
        self.addCleanup(server.kill)
        return server

    def kept(self):
        return self.start("--data-dir=" + self.data)

    def freeze(self):
        with open(self.frozen, "w"):
            pass

    def stops_and_waits(self, server, what):
        """The one line that says for what."""
        server.signal(signal.SIGTERM)
        told = wait_until(
            lambda: [line for line in server.log(level="warn")
                     if line["msg"].startswith("stopping waits for " + what)],
            "told what it waits for")
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
        self.assertEqual(len(server.log(level="warn")), 1, server.tail())
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


if __name__ == "__main__":
    main()
