"""kvpoolctl receipts witness and export against a real server. Cosignatures are
checked by a second implementation: C2SP's tlog-cosignature from its text,
Ed25519 by Debian's python3-cryptography."""
import base64
import hashlib
import json
import os
import signal
import stat
import subprocess
import tempfile
import time
import unittest

from kvpool_e2e import KVPOOLCTL, main, pool, wait_until
from test_kvpoolctl import DAMAGED, FAILED, OK, UNREACHABLE, USAGE, run
from test_proof import Liar, Note, ProofCase, logged_key

try:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PrivateKey, Ed25519PublicKey)
except ImportError:
    Ed25519PrivateKey = None


class Witness:
    """A verifier key of kind 0x04."""

    def __init__(self, text):
        self.text = text
        self.name, self.id, encoded = text.split("+", 2)
        typed = base64.b64decode(encoded, validate=True)
        assert typed[0] == 4 and len(typed) == 33, text
        self.public = Ed25519PublicKey.from_public_bytes(typed[1:])
        expected = hashlib.sha256(
            self.name.encode() + b"\n" + typed).digest()[:4]
        assert self.id == expected.hex(), text

    def times(self, note):
        """When it has cosigned the note."""
        text, lines = note.rsplit("\n\n", 1)
        found = []
        for line in lines.splitlines():
            dash, name, encoded = line.split(" ")
            raw = base64.b64decode(encoded, validate=True)
            if name != self.name or raw[:4].hex() != self.id:
                continue
            assert dash == "\u2014" and len(raw) == 4 + 8 + 64, line
            seconds = int.from_bytes(raw[4:12], "big")
            try:
                self.public.verify(
                    raw[12:], b"cosignature/v1\ntime %d\n%s\n"
                    % (seconds, text.encode()))
            except InvalidSignature:
                continue
            found.append(seconds)
        return found


@unittest.skipIf(Ed25519PrivateKey is None, "python3-cryptography is missing")
class WitnessTest(ProofCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.key_file = os.path.join(cls.folder.name, "ledger-key")
        cls.flags = ("--kv-cache-size-mb=8", "--enable-receipts",
                     "--snapshot-interval-ms=0", "--no-receipts-log",
                     "--signing-key=" + cls.key_file)
        super().setUpClass()

    @classmethod
    def tearDownClass(cls):
        super().tearDownClass()
        cls.folder.cleanup()

    def setUp(self):
        super().setUp()
        self.own = tempfile.TemporaryDirectory()
        self.addCleanup(self.own.cleanup)
        self.state = os.path.join(self.own.name, "state")
        self.arguments = (
            "receipts", "witness", "--state", self.state, "--signing-key",
            os.path.join(self.own.name, "key"), "--name", "w.example/1")

    def witness(self, *arguments, server=None, code=OK, word=""):
        done = run(*self.arguments, *arguments,
                   server=(server or self.server).address)
        self.assertEqual(done.returncode, code, (done.stdout, done.stderr))
        self.assertIn(word, done.stderr)
        for line in done.stderr.splitlines():
            if "this witness: " in line:
                self.key = Witness(line.split("this witness: ")[1])
        return done.stdout

    def forge(self, size, root):
        """A checkpoint that the ledger's key has signed, whatever it says."""
        with open(self.key_file, encoding="ascii") as file:
            _, _, name, number, encoded = file.read().strip().split("+", 4)
        seed = base64.b64decode(encoded)[1:]
        text = "%s\n%d\n%s\n" % (
            self.checkpoint().origin, size, base64.b64encode(root).decode())
        raw = bytes.fromhex(number) + Ed25519PrivateKey.from_private_bytes(
            seed).sign(text.encode())
        note = "%s\n\u2014 %s %s\n" % (
            text, name, base64.b64encode(raw).decode())
        return pool.Checkpoint(signed_note=note.encode(),
                               key=self.checkpoint().key)

    def test_a_checkpoint_is_cosigned_as_the_specification_says(self):
        self.issue(3)
        began = int(time.time())
        shown = self.witness(word="seen for the first time")
        times = self.key.times(shown)
        self.assertEqual(len(times), 1)
        self.assertTrue(began <= times[0] <= time.time())
        note = shown[:shown.rindex("\u2014")]
        self.assertTrue(Note(note.encode()).is_signed_by(
            logged_key(self.server)))
        for path in (self.state, self.arguments[5]):
            self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o600)
        with open(self.state, encoding="utf-8") as file:
            kept = json.load(file)["ledgers"]
        self.assertEqual(kept[Note(note.encode()).origin]["note"], shown)

    def test_a_ledger_that_grew_is_cosigned_again_with_the_same_key(self):
        first = self.witness()
        key = self.key.text
        self.checkpoint(self.issue(5))
        second = self.witness()
        self.assertEqual(self.key.text, key)
        self.assertGreater(int(second.split("\n")[1]),
                           int(first.split("\n")[1]))
        self.assertTrue(self.key.times(second))

    def test_a_cosigned_checkpoint_is_what_verify_demands(self):
        self.issue(3)
        path = os.path.join(self.own.name, "cosigned")
        self.witness("--out", path)
        plain = os.path.join(self.own.name, "plain")
        with open(plain, "w", encoding="utf-8") as file:
            file.write(self.ctl("receipts", "checkpoint").stdout)
        last = self.issue(3)
        verify = ("receipts", "verify", "--witness-key", self.key.text)
        done = self.ctl(*verify, "--old", path)
        self.assertIn("cosigned by: w.example/1", done.stdout)
        done = self.ctl(*verify, "--old", plain, code=DAMAGED)
        self.assertIn("not cosigned", done.stderr)
        self.ctl(*verify, code=USAGE)
        self.ctl(*verify[:-1], "none", "--old", path, code=USAGE)
        self.checkpoint(last)
        newer = os.path.join(self.own.name, "newer")
        self.witness("--out", newer)
        done = self.ctl(*verify, "--old", path, "--new", newer)
        self.assertIn("nothing was changed between", done.stdout)
        self.ctl("receipts", "verify", "--new", newer, code=USAGE)
        done = self.ctl("receipts", "verify", "--old", newer, "--new", path,
                        code=DAMAGED)
        self.assertIn("set back", done.stderr)

    def test_a_fork_and_a_rollback_are_refused_and_told(self):
        self.checkpoint(self.issue(5))
        kept = self.witness()
        size = int(kept.split("\n")[1])
        root = base64.b64decode(kept.split("\n")[2])
        for forged, word in (
                (self.forge(size, bytes(32)), "was rewritten"),
                (self.forge(size - 1, bytes(32)), "was set back"),
                (self.forge(0, hashlib.sha256(b"").digest()), "was set back"),
                (self.forge(size + 1, bytes(32)), "was rewritten")):
            self.issue(2)
            with Liar(self.server) as liar:
                liar.checkpoint = lambda _, f=forged: f
                shown = self.witness(server=liar, code=DAMAGED, word=word)
                self.assertEqual(shown, "")
                self.witness(server=liar, code=DAMAGED, word="NOT COSIGNED")
        with Liar(self.server) as liar:
            liar.checkpoint = lambda _: self.forge(size, root)
            self.assertTrue(self.key.times(self.witness(server=liar)))
        self.witness()

    def test_only_what_the_ledgers_key_signed_is_cosigned(self):
        other = "PeterNeumann+c74f20a3+" \
            "ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
        self.witness("--key", other, code=DAMAGED, word="not signed by")
        self.assertFalse(os.path.exists(self.state))
        self.witness("--key", self.checkpoint().key)
        with Liar(self.server) as liar:  # the key that signed at first is kept
            liar.checkpoint = lambda c: pool.Checkpoint(
                signed_note=c.signed_note, key=other)
            self.witness(server=liar)

    def test_a_state_that_somebody_edited_is_not_believed(self):
        self.witness()
        with open(self.state, encoding="utf-8") as file:
            state = file.read()
        origin = self.checkpoint().origin
        for old, new, word in (("\\n", "\\n1", "is not right"),
                               ('"note"', '"notes"', "not the state"),
                               ("{", "", "not the state"),
                               (origin + "\":", "kvpool/other\":", "")):
            with open(self.state, "w", encoding="utf-8") as file:
                file.write(state.replace(old, new, 1))
            self.witness(code=FAILED if word else OK, word=word)

    def test_what_is_missing_is_named(self):
        done = self.ctl("receipts", "witness", code=USAGE)
        self.assertIn("--signing-key is missing", done.stderr)
        done = self.ctl("receipts", "witness", "--signing-key=x", code=USAGE)
        self.assertIn("--state is missing", done.stderr)
        self.witness("--state", "/nowhere/state", code=FAILED,
                     word="/nowhere/state")
        self.witness("--signing-key", self.key_file, code=FAILED,
                     word="a witness's Ed25519 key is of kind 4")
        done = run(*self.arguments, "--timeout=1s", server="127.0.0.1:1")
        self.assertEqual(done.returncode, UNREACHABLE)

    def seen(self, path):
        """The size of the tree that the note in the file is about."""
        if not os.path.exists(path):
            return 0
        with open(path, encoding="utf-8") as file:
            return int(file.read().split("\n")[1])

    def test_a_watch_follows_and_keeps_others_away(self):
        path = os.path.join(self.own.name, "note")
        watch = subprocess.Popen(
            [KVPOOLCTL, "-s", self.server.address, *self.arguments, "--watch",
             "--interval", "50ms", "--out", path],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            for _ in range(3):
                last = self.checkpoint(self.issue()).tree_size
                wait_until(lambda n=last: self.seen(path) >= n, "cosigned")
            self.witness(code=FAILED, word="another witness has it")
        finally:
            watch.send_signal(signal.SIGTERM)
            said = watch.communicate(timeout=60)[1]
        self.assertEqual(watch.returncode, 130, said)


class ExportTest(ProofCase):
    flags = ("--kv-cache-size-mb=8", "--enable-receipts",
             "--snapshot-interval-ms=0", "--no-receipts-log")

    def export(self, *arguments, code=OK):
        done = self.ctl("receipts", "export", *arguments, code=code)
        return [json.loads(line) for line in done.stdout.splitlines()]

    def test_receipts_are_those_that_tail_prints(self):
        last = self.issue(20)
        found = self.export("--to", str(last))
        self.assertEqual([r["sequence"] for r in found],
                         list(range(1, last + 1)))
        tail = self.ctl("receipts", "tail", "--from=earliest", "-o", "jsonl",
                        "--limit", str(last))
        self.assertEqual(
            found, [json.loads(line) for line in tail.stdout.splitlines()])

    def test_a_range_is_what_was_asked_for(self):
        last = self.issue(10)
        for first, end in ((1, 1), (3, 7), (last, last), (2, last)):
            self.assertEqual(
                [r["sequence"] for r in self.export(
                    "--from", str(first), "--to", str(end))],
                list(range(first, end + 1)))
        self.assertEqual(self.export("--from", str(last + 1)), [])
        self.export("--from", "5", "--to", "4", code=USAGE)
        self.export("--from", "0", code=USAGE)
        self.export("--to", str(last + 1000), code=FAILED)

    def test_a_file_is_there_whole_or_not_at_all(self):
        last = self.issue(5)
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "receipts.jsonl")
            done = self.ctl("receipts", "export", "--out", path)
            self.assertEqual(done.stdout, "")
            self.assertIn("%d receipts" % last, done.stderr)
            with open(path, encoding="utf-8") as file:
                self.assertEqual(len(file.readlines()), last)
            self.assertIn("add up",
                          self.ctl("receipts", "audit", "-f", path).stdout)
            self.export("--out", path, "--to", str(last + 9), code=FAILED)
            self.assertEqual(os.listdir(folder), ["receipts.jsonl"])
            self.export("--out", os.path.join(folder, "no", "x"), code=FAILED)

    def test_a_directory_without_a_ledger_is_named(self):
        for command in ("export", "audit", "verify"):
            done = self.ctl("receipts", command, "/nowhere", code=FAILED)
            self.assertIn("/nowhere", done.stderr)


if __name__ == "__main__":
    main()
