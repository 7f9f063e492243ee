"""kvpoold through power cuts: what a client was told is there afterwards.

KVPOOL_CRASH_SHIM  tests/crash/crash_shim.c, built
CRASH_CYCLES       power cuts (100, of which this takes one in twenty)
CRASH_SEED         of everything that is random; printed
"""
import os
import random
import shutil
import sys
import tempfile
import unittest

import grpc

from kvpool_e2e import (CALL_SECONDS, SOURCE, Kvpoold, StartFailed, Subscriber,
                        generate, main, pool, read_receipts, session_target)

sys.path.insert(0, os.path.join(SOURCE, "tests", "crash"))
from disk_image import Disk, read_trace  # noqa: E402

SHIM = os.environ.get("KVPOOL_CRASH_SHIM")
CYCLES = max(1, int(os.environ.get("CRASH_CYCLES", "100")) // 20)
SEED = int(os.environ.get("CRASH_SEED", random.SystemRandom().randrange(1 << 30)))
FLAGS = ("--enable-receipts", "--no-receipts-log", "--kv-cache-size-mb=8",
         "--snapshot-interval-ms=0", "--receipts-segment-mb=1")
SESSIONS = ("a", "b", "c")
# A start makes some 30 changes of the disk, an Evict call 2.
MOST_CHANGES = 120


@unittest.skipUnless(SHIM, "KVPOOL_CRASH_SHIM does not say where the shim is")
class PowerCutTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="kvpool-power-cut-")
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.disk = self.path("disk")
        os.mkdir(self.disk)
        self.streamed = {}  # sequence: bytes
        self.answers = {}  # request_id: (session, answer)

    def path(self, name):
        return os.path.join(self.folder, name)

    def start(self, **shim):
        server = Kvpoold(*FLAGS, "--data-dir=" + os.path.join(self.disk, "data"),
                         environment=shim)
        self.addCleanup(server.kill)
        return server

    def evict(self, server, session, request_id):
        return server.pool.Evict(
            pool.EvictRequest(targets=[session_target(session)],
                              request_id=request_id), timeout=CALL_SECONDS)

    def drive(self, server, rng, cycle):
        """Evicts until the server is gone, and remembers what it was told."""
        stream = Subscriber(server, earliest=pool.StartEarliest())
        try:
            for i in range(1000):
                session, request_id = rng.choice(SESSIONS), f"{cycle}-{i}"
                if rng.random() < 0.3:
                    generate(server, text="What is a dog?", session=session,
                             max_tokens=2)
                answer = self.evict(server, session, request_id)
                self.answers[request_id] = (session, answer)
        except grpc.RpcError as error:
            self.assertEqual(error.code(), grpc.StatusCode.UNAVAILABLE)
        stream.wait_end()
        for receipt in stream.receipts:
            self.promise(receipt)

    def promise(self, receipt):
        got = receipt.SerializeToString()
        self.assertEqual(self.streamed.setdefault(receipt.sequence, got), got)

    def run_until_killed(self, rng, cycle, at):
        shutil.rmtree(self.path("before"), ignore_errors=True)
        shutil.copytree(self.disk, self.path("before"))
        try:
            server = self.start(
                LD_PRELOAD=SHIM, CRASH_DIR=self.disk, CRASH_KILL=str(at),
                CRASH_TRACE=self.path(f"trace-{cycle}"))
        except StartFailed as failed:
            self.assertEqual(failed.code, -9, failed)
            return
        self.drive(server, rng, cycle)
        self.assertEqual(server.wait(), -9, server.tail())

    def cut_power(self, rng, cycle):
        Disk(self.disk, self.path("before")).replay(
            read_trace(self.path(f"trace-{cycle}"))).after_cut(
                rng.randrange(1 << 30), self.path("image"))
        shutil.rmtree(self.disk)
        os.rename(self.path("image"), self.disk)

    def check(self, server, rng):
        found = {r.sequence: r for r in read_receipts(server)}
        self.assertEqual(list(found), list(range(1, len(found) + 1)))
        self.assertEqual(
            [s for s, receipt in self.streamed.items() if s not in found or
             found[s].SerializeToString() != receipt], [])
        for receipt in found.values():
            self.promise(receipt)
        ids = {r.eviction_batch.call.request_id: r.sequence
               for r in found.values()
               if r.WhichOneof("kind") == "eviction_batch"}
        for request_id, (_, answer) in self.answers.items():
            self.assertTrue(answer.receipts.durable)
            self.assertEqual(ids.get(request_id), answer.receipts.last_sequence)
        for request_id in rng.sample(sorted(self.answers),
                                     min(20, len(self.answers))):
            session, first = self.answers[request_id]
            again = self.evict(server, session, request_id)
            self.assertTrue(again.replayed)
            again.replayed = False
            self.assertEqual(again, first)

    def test_what_a_client_was_told_survives_a_power_cut(self):
        rng = random.Random(SEED)
        for cycle in range(CYCLES):
            at = rng.randint(*rng.choice(((1, 40), (41, MOST_CHANGES))))
            if cycle == 0:  # long enough for answers
                at = MOST_CHANGES
            with self.subTest(seed=SEED, cycle=cycle, change=at):
                self.run_until_killed(rng, cycle, at)
                self.cut_power(rng, cycle)
                with self.start() as server:
                    self.check(server, rng)
        self.assertGreater(len(self.answers), 0)


if __name__ == "__main__":
    print(f"CRASH_SEED={SEED} CRASH_CYCLES={CYCLES}", file=sys.stderr)
    main()
