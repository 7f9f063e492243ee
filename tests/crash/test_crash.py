"""Power cuts and broken disks: what was acknowledged is there afterwards.

    KVPOOL_HAMMER=... KVPOOL_CRASH_SHIM=... test_crash.py

CRASH_CYCLES   power cuts in all (100)
CRASH_SEED     of everything that is random; printed
"""
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import unittest

from disk_image import Disk, read_trace

HAMMER = os.environ["KVPOOL_HAMMER"]
SHIM = os.environ["KVPOOL_CRASH_SHIM"]
CYCLES = int(os.environ.get("CRASH_CYCLES", "100"))
SEED = int(os.environ.get("CRASH_SEED", random.SystemRandom().randrange(1 << 30)))
CUTS_IN_A_ROW = 12
RECEIPTS = 300
REFUSED, FAILED, KILLED = 2, 3, -9
SECONDS = 120

# What can go wrong with which call, and when that is in the life of a ledger.
FAULTS = [(call, error) for call, errors in (
    ("open", ("EIO", "ENOSPC")),
    ("pread", ("EIO", "SHORT")),
    ("pwrite", ("EIO", "ENOSPC", "SHORT")),
    ("fdatasync", ("EIO", "ENOSPC")),
    ("fsync", ("EIO", "ENOSPC")),
    ("ftruncate", ("EIO",)),
    ("fallocate", ("EIO", "ENOSPC")),
    ("rename", ("EIO", "ENOSPC")),
    ("unlink", ("EIO",)),
    ("mkdir", ("EIO", "ENOSPC"))) for error in errors]
# Each early and late, so that the start and the running of a ledger are met.
FAULT_POINTS = [(call, error, late) for call, error in FAULTS
                for late in (False, True)
                if not (late and call in ("mkdir", "rename", "unlink"))]


class Run:
    """One run of the hammer: what it said, and how it ended."""

    def __init__(self, *args, shim=None):
        environment = dict(os.environ)
        if shim is not None:
            environment.update(shim, LD_PRELOAD=" ".join(
                filter(None, [os.environ.get("KVPOOL_PRELOAD_FIRST"), SHIM])))
        done = subprocess.run(
            [HAMMER, *map(str, args)], env=environment, timeout=SECONDS,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.code, self.errors = done.returncode, done.stderr
        self.receipts, self.states, self.seeks = {}, [], []
        self.start = self.end = None
        # What is behind the last newline was not said.
        for line in done.stdout.split("\n")[:-1]:
            word, *rest = line.split(" ")
            if word == "r":
                self.receipts[int(rest[0])] = rest[1]
                if self.seeks:
                    self.seeks[-1].append((int(rest[0]), rest[1]))
            elif word == "seek":
                self.seeks.append([])
            elif word == "start":
                self.start = rest
            elif word == "state":
                self.states.append(rest)
            elif word == "end":
                self.end = int(rest[0])


class CrashTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="kvpool-crash-")
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.disk = os.path.join(self.folder, "disk")
        self.dir = os.path.join(self.disk, "receipts")
        os.mkdir(self.disk)

    def path(self, name):
        return os.path.join(self.folder, name)

    def write(self, seed, n=RECEIPTS, **shim):
        """Runs the hammer under the shim; the trace is self.path("trace")."""
        for name in ("trace", "before"):
            shutil.rmtree(self.path(name), ignore_errors=True)
            if os.path.isfile(self.path(name)):
                os.remove(self.path(name))
        shutil.copytree(self.disk, self.path("before"))
        return Run("write", self.dir, seed, n, shim={
            "CRASH_DIR": self.disk, "CRASH_TRACE": self.path("trace"), **shim})

    def cut_power(self, seed):
        """The disk is now what the trace may have left of it."""
        Disk(self.disk, self.path("before")).replay(
            read_trace(self.path("trace"))).after_cut(seed, self.path("image"))
        shutil.rmtree(self.disk)
        os.rename(self.path("image"), self.disk)

    def assert_holds(self, acknowledged, what):
        """The ledger starts, and has all that was acknowledged."""
        again = Run("write", self.dir, 0, 0)
        self.assertEqual(again.code, 0, f"{what}: {again.errors}")
        found = Run("read", self.dir)
        self.assertEqual(found.code, 0, f"{what}: {found.errors}")
        self.assertEqual(list(found.receipts),
                         list(range(1, len(found.receipts) + 1)), what)
        lost = [s for s, leaf in acknowledged.items()
                if found.receipts.get(s) != leaf]
        self.assertEqual(lost, [], what)
        # Beyond that only what had been numbered before, and the next boot.
        self.assertEqual(int(again.start[1]) + 1, len(found.receipts), what)
        return found.receipts


class PowerCutTest(CrashTest):
    def test_no_acknowledged_receipt_is_lost_by_a_power_cut(self):
        rng = random.Random(SEED)
        acknowledged, n_changes = {}, 0
        for cycle in range(CYCLES):
            if cycle % CUTS_IN_A_ROW == 0:
                shutil.rmtree(self.disk)
                os.mkdir(self.disk)
                acknowledged, n_changes = {}, 0
            seed = rng.randrange(1 << 30)
            kill_at = rng.randint(1, 400) if n_changes else rng.randint(1, 40)
            n_changes += 1
            run = self.write(seed, CRASH_KILL=str(kill_at))
            what = f"CRASH_SEED={SEED}, cycle {cycle}, change {kill_at}"
            self.assertIn(run.code, (KILLED, 0), f"{what}: {run.errors}")
            acknowledged.update(run.receipts)
            self.cut_power(seed)
            acknowledged = dict(self.assert_holds(acknowledged, what))

    def test_a_clean_end_is_told_from_a_cut(self):
        run = self.write(1)
        self.assertEqual((run.code, run.end), (0, max(run.receipts)))
        self.cut_power(1)
        again = self.write(2, n=0)
        self.assertEqual(again.start[:4],
                         ["2", str(run.end), "clean", "0"])


class FaultTest(CrashTest):
    def fault(self, call, error, late, mode, rng):
        at = rng.randint(8, 60) if late else rng.randint(1, 4)
        what = f"CRASH_SEED={SEED}, {call},{at},{error},{mode}"
        acknowledged = {}
        if rng.random() < 0.5:  # an old ledger, else a new one
            first = self.write(rng.randrange(1 << 30))
            self.assertEqual(first.code, 0, what)
            acknowledged.update(first.receipts)
        run = self.write(rng.randrange(1 << 30),
                         CRASH_FAULT=f"{call},{at},{error},{mode}")
        self.assertIn(run.code, (0, REFUSED, FAILED, KILLED),
                      f"{what}: {run.errors}")
        if run.code == KILLED:
            self.assertEqual(mode, "kill", what)
        if run.code == REFUSED:
            self.assertNotEqual(run.errors, "", what)
        acknowledged.update(run.receipts)
        self.cut_power(rng.randrange(1 << 30))
        self.assert_holds(acknowledged, what)

    def test_no_acknowledged_receipt_is_lost_by_a_fault(self):
        rng = random.Random(SEED)
        self.assertGreaterEqual(len(FAULT_POINTS), 24)
        for call, error, late in FAULT_POINTS:
            for mode in ("once", "forever", "kill"):
                shutil.rmtree(self.disk)
                os.mkdir(self.disk)
                self.fault(call, error, late, mode, rng)

    def test_after_a_failed_sync_nothing_is_acknowledged_any_more(self):
        for mode in ("once", "forever"):
            shutil.rmtree(self.disk)
            os.mkdir(self.disk)
            run = self.write(3, CRASH_FAULT=f"fdatasync,20,EIO,{mode}")
            self.assertEqual(run.code, FAILED, run.errors)
            self.assertEqual(len(run.states), 1)
            self.assertIn("Input/output error", " ".join(run.states[0]))

    def test_a_full_disk_is_met_before_it_is_needed_and_waited_for(self):
        run = self.write(4, n=4000, CRASH_FAULT="fallocate,2,ENOSPC,once")
        self.assertEqual(run.code, 0, run.errors)
        self.assertEqual(run.end, max(run.receipts))

class OracleTest(CrashTest):
    def test_every_reading_is_what_sqlite_answers(self):
        rng = random.Random(SEED)
        oracle = sqlite3.connect(":memory:")
        oracle.execute(
            "create table receipt (sequence integer primary key, leaf text)")
        for epoch in range(1, 7):
            run = Run("write", self.dir, rng.randrange(1 << 30),
                      rng.choice((0, 10, 2000, 8000)))
            self.assertEqual((run.code, run.start[0]), (0, str(epoch)))
            oracle.executemany("insert into receipt values (?, ?)",
                               run.receipts.items())
            self.assertEqual(
                list(Run("read", self.dir).receipts.items()),
                oracle.execute("select * from receipt order by 1").fetchall())
        last, = oracle.execute("select max(sequence) from receipt").fetchone()
        places = [(rng.randint(0, last), rng.choice((1, 7, 300, 5000)))
                  for _ in range(200)]
        run = Run("seek", self.dir, *(f"{after}:{n}" for after, n in places))
        self.assertEqual(run.code, 0, run.errors)
        for (after, n), found in zip(places, run.seeks, strict=True):
            self.assertEqual(found, oracle.execute(
                "select * from receipt where sequence > ? order by 1 limit ?",
                (after, n)).fetchall(), f"CRASH_SEED={SEED}, after {after}")


if __name__ == "__main__":
    print(f"CRASH_SEED={SEED} CRASH_CYCLES={CYCLES}", file=sys.stderr)
    unittest.main(verbosity=2)
