"""256 subscribers over a million deliveries: some take nothing for long, some go
away and come back, some want a part only. And what one that takes nothing
costs."""
import os
import re
import subprocess
import tempfile
import unittest

from kvpool_e2e import (CALL_SECONDS, Kvpoold, ServerTest, generate, main,
                        pool, pool_grpc, session_target)

PROGRAM = os.environ.get("E2E_SUBSCRIBERS")
MIB = 1 << 20


class SubscribersTest(unittest.TestCase):
    flags = ("--kv-cache-size-mb=8", "--enable-receipts",
             "--no-receipts-log", "--snapshot-interval-ms=50")

    def run_all(self, n_subscribers, n_receipts, *flags):
        """Deliveries, and how often somebody came back."""
        if not PROGRAM:
            self.skipTest("E2E_SUBSCRIBERS does not say where the program is")
        with Kvpoold(*self.flags, *flags) as server:
            for i in range(100):
                generate(server, text="A", session="s%d" % i, tenant="acme",
                         max_tokens=1)
            done = subprocess.run(
                [PROGRAM, server.address, str(n_subscribers), str(n_receipts)],
                timeout=500, capture_output=True, text=True, check=False)
            self.assertEqual(done.returncode, 0, done.stderr)
            return map(int, re.fullmatch(
                r"(\d+) deliveries, (\d+) resumed\n", done.stdout).groups())

    def test_everybody_gets_what_was_asked_for_once_and_in_order(self):
        # Over a journal with the smallest ring: who stalls reads from disk.
        with tempfile.TemporaryDirectory() as root:
            deliveries, resumed = self.run_all(
                256, 7000, "--receipts-ring-mb=1",
                "--data-dir=" + os.path.join(root, "data"))
        self.assertGreaterEqual(deliveries, 10 ** 6)
        self.assertGreaterEqual(resumed, 100)

    def test_a_ledger_in_memory_serves_the_same(self):
        deliveries, _ = self.run_all(64, 1500)
        self.assertGreater(deliveries, 40000)


def resident_bytes(pid):
    with open("/proc/%d/status" % pid, encoding="ascii") as file:
        return int(re.search(r"VmRSS:\s+(\d+) kB", file.read()).group(1)) << 10


class StalledTest(ServerTest):
    """A ring of 4 MiB, and 8 times as much."""

    flags = ("--kv-cache-size-mb=8", "--enable-receipts",
             "--receipts-ring-mb=4", "--snapshot-interval-ms=0",
             "--no-receipts-log", "--subscriber-stall-ms=86400000")
    n_readers = 32

    def issue(self, n_mib):
        targets = [session_target("nobody-%03d" % i + "x" * 100)
                   for i in range(256)]
        for _ in range(n_mib * 30):  # each call: some 36 KiB
            self.evict(*targets)

    def test_who_takes_nothing_costs_a_mebibyte_at_most(self):
        if self.server.is_sanitized():
            self.skipTest("a sanitizer has memory of its own")
        self.issue(8)  # the ring is full, the heap is warm
        before = resident_bytes(self.server.pid)
        calls, channels = [], []
        for _ in range(self.n_readers):
            channels.append(self.server.connect(**{
                "grpc.http2.lookahead_bytes": 1024,
                "grpc.http2.bdp_probe": 0}))
            calls.append(pool_grpc.KvPoolServiceStub(
                channels[-1]).StreamReceipts(pool.StreamReceiptsRequest(
                    earliest=pool.StartEarliest()), timeout=CALL_SECONDS))
            next(calls[-1])
        self.issue(32)
        rows = self.snapshot(pool.SNAPSHOT_SECTION_SUBSCRIBERS).subscribers
        self.assertEqual(len(rows), self.n_readers)
        for row in rows:
            self.assertGreater(row.lag_receipts, 100)
            self.assertGreater(row.stalled_ns, 0)
        each = (resident_bytes(self.server.pid) - before) / self.n_readers
        print("%.0f KiB for each reader" % (each / 1024))
        self.assertLess(each, MIB)
        for call, channel in zip(calls, channels):
            call.cancel()
            channel.close()


if __name__ == "__main__":
    main()
