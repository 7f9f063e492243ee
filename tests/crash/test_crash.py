"""Power cuts and broken disks: what was acknowledged is there afterwards.

    KVPOOL_HAMMER=... KVPOOL_CRASH_SHIM=... test_crash.py

CRASH_CYCLES         power cuts in all (100)
CRASH_SEED           of everything that is random; printed
KVPOOL_PRELOAD_FIRST a library that is to come before the shim, as a sanitizer's
"""
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import unittest

from disk_image import FAULT, Disk, read_trace

HAMMER = os.environ["KVPOOL_HAMMER"]
SHIM = os.environ["KVPOOL_CRASH_SHIM"]
CYCLES = int(os.environ.get("CRASH_CYCLES", "100"))
SEED = int(os.environ.get("CRASH_SEED", random.SystemRandom().randrange(1 << 30)))
CUTS_IN_A_ROW = 12
RECEIPTS = 150
SEGMENT_BYTES, RETAIN_BYTES = 1 << 20, 2 << 20
REFUSED, FAILED, FULL, KILLED = 2, 3, 4, -9
SECONDS = 120

# What can go wrong with which call, each early and late in the life of a
# ledger, so that its start and its running are met.
FAULTS = [(call, error) for call, errors in (
    ("open", ("EIO", "ENOSPC")),
    ("pread", ("EIO", "SHORT")),
    ("pwrite", ("EIO", "ENOSPC", "SHORT")),
    ("fdatasync", ("EIO", "ENOSPC")),
    ("fsync", ("EIO", "ENOSPC")),
    ("ftruncate", ("EIO",)),
    ("rename", ("EIO", "ENOSPC")),
    ("unlink", ("EIO",)),
    ("mkdir", ("EIO", "ENOSPC"))) for error in errors]
FAULT_POINTS = [(call, error, late) for call, error in FAULTS
                for late in (False, True) if not (late and call == "mkdir")]
MODES = ("once", "forever", "kill")


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
        self.cursors, self.sets, self.checkpoint = {}, [], 0
        self.start = self.end = None
        self.n_after_state = 0
        # What is behind the last newline was not said.
        for line in done.stdout.split("\n")[:-1]:
            word, *rest = line.split(" ")
            if word == "r":
                self.receipts[int(rest[0])] = rest[1]
                self.n_after_state += bool(self.states)
                if self.seeks:
                    self.seeks[-1].append((int(rest[0]), rest[1]))
            elif word == "seek":
                self.seeks.append([])
            elif word == "start":
                self.start = rest
            elif word == "cursor":
                self.cursors[rest[0]] = int(rest[1])
            elif word == "set":
                self.sets.append((rest[0], int(rest[1])))
            elif word == "checkpoint":
                self.checkpoint = int(rest[0])
            elif word == "state":
                self.states.append(" ".join(rest))
            elif word == "end":
                self.end = int(rest[0])


class CrashTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="kvpool-crash-")
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.disk = os.path.join(self.folder, "disk")
        self.dir = os.path.join(self.disk, "receipts")
        os.mkdir(self.disk)
        self.renew()

    def path(self, name):
        return os.path.join(self.folder, name)

    def renew(self):
        """An empty disk, on which nobody has been promised anything."""
        shutil.rmtree(self.disk)
        os.mkdir(self.disk)
        self.promised = {}  # sequence: leaf
        self.last_epoch = self.last_checkpoint = 0
        self.cursors_set, self.sink = {("sink", 0), ("other", 0)}, 0
        self.begin_trace()

    def begin_trace(self):
        """What the disk has now, it has for good."""
        shutil.rmtree(self.path("before"), ignore_errors=True)
        shutil.copytree(self.disk, self.path("before"))
        with open(self.path("trace"), "wb"):
            pass

    def cut_power(self, seed):
        """The disk is now what the trace may have left of it."""
        Disk(self.disk, self.path("before")).replay(
            read_trace(self.path("trace"))).after_cut(seed, self.path("image"))
        shutil.rmtree(self.disk)
        os.rename(self.path("image"), self.disk)
        self.begin_trace()

    def n_faults(self):
        return sum(op == FAULT for op, *_ in read_trace(self.path("trace")))

    def read(self, what):
        """What lies in the directory, and that it is what it has to be."""
        run = Run("read", self.dir)
        if run.code == REFUSED and not self.promised:
            self.assertRegex(run.errors, "No such file|no ledger", what)
            return {}
        self.assertEqual(run.code, 0, f"{what}: {run.errors}")
        found = run.receipts
        if found:
            first = min(found)
            self.assertEqual(list(found),
                             list(range(first, first + len(found))), what)
        self.assertEqual(
            [s for s, leaf in self.promised.items()
             if found.get(s) != leaf and s >= min(found, default=0)], [], what)
        return found

    def write(self, what, seed, n=RECEIPTS, retain=False, **shim):
        """Runs the hammer under the shim, on what may have been left behind by
        others before, and learns what it promises."""
        found = self.read(what)
        run = Run("write", self.dir, seed, n, *["retain"] * retain, shim={
            "CRASH_DIR": self.disk, "CRASH_TRACE": self.path("trace"), **shim})
        self.cursors_set.update(run.sets)
        if run.start is None:
            return run
        epoch, last, _, _, oldest = (
            int(field) if field.isdigit() else field for field in run.start)
        self.assertGreater(epoch, self.last_epoch, what)
        self.assertEqual(last, max(found, default=0), what)
        self.assertEqual(oldest, min(found, default=0), what)
        for cursor in run.cursors.items():
            self.assertIn(cursor, self.cursors_set, what)
            self.assertLessEqual(cursor[1], last, what)
            self.assertLessEqual(oldest, cursor[1] + 1, what)
        self.assertGreaterEqual(run.cursors.get("sink", 0), self.sink, what)
        self.assertLessEqual(self.last_checkpoint, run.checkpoint, what)
        self.assertLessEqual(run.checkpoint, last, what)
        self.last_epoch, self.last_checkpoint = epoch, run.checkpoint
        self.sink = run.cursors.get("sink", 0)
        self.promised.update(found)
        self.promised.update(run.receipts)
        return run

    def assert_holds(self, what):
        """The ledger starts, and has all that was promised."""
        run = self.write(what, 0, n=0)
        self.assertEqual(run.code, 0, f"{what}: {run.errors}")
        return self.read(what)


class PowerCutTest(CrashTest):
    def n_changes(self):
        run = self.write("counting", SEED, CRASH_COUNTS=self.path("counts"))
        self.assertEqual(run.code, 0, run.errors)
        return counts(self.path("counts"))["CHANGES"]

    def test_no_promised_receipt_is_lost_by_a_power_cut(self):
        rng = random.Random(SEED)
        n_changes = self.n_changes()
        for cycle in range(CYCLES):
            if cycle % CUTS_IN_A_ROW == 0:
                self.renew()
                retain = rng.random() < 0.5
            what = f"CRASH_SEED={SEED}, cycle {cycle}"
            # One that is killed leaves what is not on the disk yet, for the
            # next one to build upon.
            for _ in range(rng.choice((1, 1, 2, 3))):
                at = rng.randint(1, rng.choice((40, n_changes)))
                what += f", change {at}"
                run = self.write(what, rng.randrange(1 << 30), retain=retain,
                                 CRASH_KILL=str(at))
                self.assertIn(run.code, (KILLED, 0), f"{what}: {run.errors}")
            self.cut_power(rng.randrange(1 << 30))
            self.read(what)
            if rng.random() < 0.5:
                self.assert_holds(what)
            if rng.random() < 0.5:
                self.cut_power(rng.randrange(1 << 30))
        self.assert_holds(what)

    def test_a_clean_end_is_told_from_a_cut(self):
        run = self.write("first", 1)
        self.assertEqual((run.code, run.end), (0, max(run.receipts)))
        self.cut_power(1)
        again = self.write("second", 2, n=0)
        self.assertEqual(again.start[:4], ["2", str(run.end), "clean", "0"])

    def test_retention_keeps_what_it_says(self):
        for seed in range(3):
            run = self.write(f"seed {seed}", seed, n=600, retain=True)
            self.assertEqual(run.code, 0, run.errors)
        self.cut_power(SEED)
        found = self.assert_holds("after retention")
        self.assertGreater(min(found), 1)
        stored = sum(os.path.getsize(os.path.join(self.dir, name))
                     for name in os.listdir(self.dir) if name.endswith(".log"))
        self.assertGreaterEqual(stored, RETAIN_BYTES - SEGMENT_BYTES)


def counts(path):
    with open(path, encoding="ascii") as file:
        return {call: int(n) for call, n in map(str.split, file)}


class FaultTest(CrashTest):
    def n_calls(self):
        """How often a run on a new and on an old ledger makes each call."""
        self.renew()
        n = []
        for seed in (SEED, SEED + 1):
            run = self.write("counting", seed, CRASH_COUNTS=self.path("counts"))
            self.assertEqual(run.code, 0, run.errors)
            n.append(counts(self.path("counts")))
        return n

    def fault(self, call, error, late, mode, n_calls, rng):
        self.renew()
        what = f"CRASH_SEED={SEED}, {call}, {error}, {mode}"
        is_old = rng.random() < 0.5
        if is_old:
            # It ended in order, or was killed before its end.
            kill = {} if rng.random() < 0.5 else {
                "CRASH_KILL": str(rng.randint(30, 60))}
            self.write(what, rng.randrange(1 << 30), n=60, **kill)
            if rng.random() < 0.5:
                self.cut_power(rng.randrange(1 << 30))
        n = max(1, n_calls[is_old][call])
        at = rng.randint((n + 3) // 4, n) if late else rng.randint(1, (n + 3) // 4)
        what += f", call {at} of {n}, {'old' if is_old else 'new'}"
        run = self.write(what, rng.randrange(1 << 30),
                         CRASH_FAULT=f"{call},{at},{error},{mode}")
        self.assertIn(run.code, (0, REFUSED, FAILED, FULL, KILLED),
                      f"{what}: {run.errors}")
        if run.code == KILLED:
            self.assertEqual(mode, "kill", what)
        if run.code == REFUSED:
            self.assertNotEqual(run.errors, "", what)
        if run.code == FULL:
            self.assertEqual((error, mode), ("ENOSPC", "forever"), what)
        n_hits = self.n_faults() > 0
        # At once, or after another life that saw what the first one left.
        if rng.random() < 0.5:
            self.assert_holds(what)
        self.cut_power(rng.randrange(1 << 30))
        self.assert_holds(what)
        return n_hits

    def test_no_promised_receipt_is_lost_by_a_fault(self):
        rng = random.Random(SEED)
        n_calls = self.n_calls()
        self.assertGreaterEqual(len(FAULT_POINTS), 24)
        n_hits = {}
        for call, error, late in FAULT_POINTS:
            for mode in MODES:
                n_hits[call] = n_hits.get(call, 0) + self.fault(
                    call, error, late, mode, n_calls, rng)
        self.assertEqual([c for c, n in n_hits.items() if n == 0], [])
        # How often a call is made depends on how the threads take turns.
        self.assertGreater(sum(n_hits.values()),
                           0.7 * len(FAULT_POINTS) * len(MODES), n_hits)

    def test_after_a_failed_sync_nothing_is_acknowledged_any_more(self):
        n_syncs = self.n_calls()[0]["fdatasync"]
        for mode in ("once", "forever"):
            self.renew()
            at = n_syncs // 2
            run = self.write(mode, SEED, CRASH_FAULT=f"fdatasync,{at},EIO,{mode}")
            self.assertEqual(run.code, FAILED, run.errors)
            self.assertEqual(len(run.states), 1)
            self.assertIn("Input/output error", run.states[0])
            self.assertEqual(run.n_after_state, 0)
            self.cut_power(SEED)
            self.assert_holds(mode)

    def test_a_full_disk_is_waited_for(self):
        rng = random.Random(SEED)
        n_calls = self.n_calls()[0]
        for call in ("open", "pwrite", "pwrite", "rename"):
            self.renew()
            at = rng.randint(n_calls[call] // 2, n_calls[call] * 3 // 4)
            what = f"CRASH_SEED={SEED}, {call}, {at}"
            run = self.write(what, SEED, CRASH_FAULT=f"{call},{at},ENOSPC,once")
            self.assertEqual(run.code, 0, f"{what}: {run.errors}")
            self.assertEqual(run.end, max(run.receipts), what)
            self.assert_holds(what)

    def test_a_full_disk_loses_nothing_that_was_promised(self):
        rng = random.Random(SEED)
        n_writes = self.n_calls()[0]["pwrite"]
        self.renew()
        at = rng.randint(n_writes // 3, n_writes // 2)
        what = f"CRASH_SEED={SEED}, {at}"
        run = self.write(what, SEED, CRASH_FAULT=f"pwrite,{at},ENOSPC,forever")
        self.assertEqual(run.code, FULL, f"{what}: {run.errors}")
        self.assertIn("No space left on device", " ".join(run.states))
        self.cut_power(rng.randrange(1 << 30))
        self.assert_holds(what)

    def contents(self):
        """Of all files but the tree's, which a start brings up to date."""
        found = {}
        for name in set(os.listdir(self.dir)) - {"tree"}:
            with open(os.path.join(self.dir, name), "rb") as file:
                found[name] = file.read()
        return found

    def test_what_cannot_be_read_is_no_damage_and_changes_nothing(self):
        self.write("old", SEED, CRASH_KILL="120")
        before = self.contents()
        for at in range(1, 1000):
            run = self.write(f"read {at}", SEED, n=0,
                             CRASH_FAULT=f"pread,{at},EIO,once")
            if run.start is not None:
                break
            self.assertEqual(run.code, REFUSED)
            self.assertIn("Input/output error", run.errors)
            self.assertNotIn("accept-loss", run.errors)
            self.assertEqual(self.contents(), before, f"read {at}")
        self.assertGreater(at, 4)
        self.assert_holds("in the end")


class OracleTest(CrashTest):
    def test_every_reading_is_what_sqlite_answers(self):
        rng = random.Random(SEED)
        oracle = sqlite3.connect(":memory:")
        oracle.execute(
            "create table receipt (sequence integer primary key, leaf text)")
        for epoch in range(1, 7):
            run = Run("write", self.dir, rng.randrange(1 << 30),
                      rng.choice((0, 10, 300, 1000)))
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
