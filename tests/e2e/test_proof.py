"""Checkpoints and proofs, verified by a second implementation: RFC 6962 and
RFC 9162 from their text, Ed25519 by Debian's python3-cryptography."""
import base64
import hashlib
import os
import re
import stat
import tempfile
import unittest
from concurrent import futures

import grpc

from kvpool_e2e import (CALL_SECONDS, Kvpoold, ServerTest, StartFailed,
                        Subscriber, common, main, pool, pool_grpc,
                        read_receipts, receipts, session_target)
from test_kvpoolctl import DAMAGED, FAILED, OK, UNREACHABLE, USAGE, run

try:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PublicKey)
except ImportError:
    Ed25519PublicKey = None

EARLIEST = dict(earliest=pool.StartEarliest())


# --- RFC 6962, as its text says ----------------------------------------------

def leaf_hash(leaf):
    return hashlib.sha256(b"\x00" + leaf).digest()


def node_hash(left, right):
    return hashlib.sha256(b"\x01" + left + right).digest()


def tree_hash(hashes):
    if not hashes:
        return hashlib.sha256(b"").digest()
    if len(hashes) == 1:
        return hashes[0]
    k = 1
    while 2 * k < len(hashes):
        k *= 2
    return node_hash(tree_hash(hashes[:k]), tree_hash(hashes[k:]))


def verify_inclusion(leaf, index, size, path, root):
    """RFC 9162, 2.1.3.2."""
    if index >= size:
        return False
    fn, sn, r = index, size - 1, leaf
    for p in path:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            r = node_hash(p, r)
            while fn and not fn & 1:
                fn, sn = fn >> 1, sn >> 1
        else:
            r = node_hash(r, p)
        fn, sn = fn >> 1, sn >> 1
    return sn == 0 and r == root


def verify_consistency(first, second, path, first_root, second_root):
    """RFC 9162, 2.1.4.2."""
    if first == second:
        return not path and first_root == second_root
    path = list(path)
    if first & (first - 1) == 0:
        path.insert(0, first_root)
    if not path:
        return False
    fn, sn = first - 1, second - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    fr = sr = path[0]
    for c in path[1:]:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            fr, sr = node_hash(c, fr), node_hash(c, sr)
            while fn and not fn & 1:
                fn, sn = fn >> 1, sn >> 1
        else:
            sr = node_hash(sr, c)
        fn, sn = fn >> 1, sn >> 1
    return sn == 0 and (fr, sr) == (first_root, second_root)


# --- C2SP --------------------------------------------------------------------

class Key:
    """A verifier key: name+id+base64(0x01 | public key)."""

    def __init__(self, text):
        self.name, self.id, encoded = text.split("+", 2)
        typed = base64.b64decode(encoded, validate=True)
        assert typed[0] == 1 and len(typed) == 33, text
        self.public = typed[1:]
        expected = hashlib.sha256(
            self.name.encode() + b"\n" + typed).digest()[:4]
        assert self.id == expected.hex(), text


class Note:
    """A signed checkpoint, taken apart."""

    def __init__(self, raw):
        self.text, self.lines = raw.decode().rsplit("\n\n", 1)
        self.text += "\n"
        self.origin, size, root, rest = self.text.split("\n")
        assert rest == "" and str(int(size)) == size, raw
        self.size, self.root = int(size), base64.b64decode(root, validate=True)
        assert len(self.root) == 32, raw
        match = re.fullmatch("\u2014 (\\S+) (\\S+)\n", self.lines)
        self.name = match.group(1)
        signature = base64.b64decode(match.group(2), validate=True)
        self.id, self.signature = signature[:4].hex(), signature[4:]
        assert len(self.signature) == 64, raw

    def is_signed_by(self, key):
        if (key.name, key.id) != (self.name, self.id):
            return False
        if Ed25519PublicKey is None:
            return True
        try:
            Ed25519PublicKey.from_public_bytes(key.public).verify(
                self.signature, self.text.encode())
        except InvalidSignature:
            return False
        return True


def logged_key(server):
    return Key(server.log(msg="checkpoints are signed")[0]["key"])


class ProofCase(ServerTest):
    def issue(self, n=1):
        for _ in range(n):
            answer = self.evict(session_target("nobody"))
        return answer.receipts.last_sequence

    def checkpoint(self, covering=0):
        return self.server.pool.GetCheckpoint(
            pool.GetCheckpointRequest(covering_sequence=covering),
            timeout=CALL_SECONDS).checkpoint

    def inclusion(self, sequence, tree_size=0):
        return self.server.pool.GetInclusionProof(
            pool.GetInclusionProofRequest(
                sequence=sequence, tree_size=tree_size), timeout=CALL_SECONDS)

    def consistency(self, first, second=0):
        return self.server.pool.GetConsistencyProof(
            pool.GetConsistencyProofRequest(
                first_tree_size=first, second_tree_size=second),
            timeout=CALL_SECONDS)

    def ctl(self, *arguments, code=OK):
        done = run(*arguments, server=self.server.address)
        self.assertEqual(done.returncode, code,
                         (arguments, done.stdout, done.stderr))
        return done


class ProofTest(ProofCase):
    flags = ("--kv-cache-size-mb=8", "--enable-receipts",
             "--snapshot-interval-ms=0", "--no-receipts-log")

    def leaves(self, n):
        """The bytes of receipts 1 to n, as their proofs bring them."""
        return [self.inclusion(i, n).leaf for i in range(1, n + 1)]

    def test_the_root_is_that_of_the_leaves(self):
        last = self.issue(40)
        note = Note(self.checkpoint(last).signed_note)
        self.assertGreaterEqual(note.size, last)
        leaves = self.leaves(note.size)
        self.assertEqual(tree_hash([leaf_hash(l) for l in leaves]), note.root)
        self.assertEqual(
            [receipts.Receipt.FromString(l) for l in leaves],
            read_receipts(self.server)[:note.size])

    def test_a_checkpoint_is_signed_by_the_key_of_the_log(self):
        checkpoint = self.checkpoint(self.issue())
        note, key = Note(checkpoint.signed_note), logged_key(self.server)
        self.assertTrue(note.is_signed_by(key))
        stamp = self.snapshot().stamp
        self.assertEqual(note.origin, "kvpool/" + stamp.pool_id.hex())
        self.assertEqual(
            (note.size, note.root, note.origin),
            (checkpoint.tree_size, checkpoint.root, checkpoint.origin))
        self.assertEqual(Key(checkpoint.key).public, key.public)
        self.assertGreater(checkpoint.time_unix_ns, 1500000000 * 10 ** 9)

    @unittest.skipIf(Ed25519PublicKey is None,
                     "python3-cryptography is missing: NO signature is checked")
    def test_a_changed_checkpoint_is_not_signed(self):
        note, key = Note(self.checkpoint().signed_note), logged_key(self.server)
        note.text = note.text.replace("\n", "1\n", 2)
        self.assertFalse(note.is_signed_by(key))

    def test_every_receipt_is_proven_in_every_tree(self):
        last = self.issue(20)
        hashes = [leaf_hash(l) for l in self.leaves(last)]
        for size in sorted({1, 2, 3, 8, 9, last - 1, last}):
            for sequence in range(1, size + 1):
                proof = self.inclusion(sequence, size)
                self.assertEqual((proof.leaf_index, proof.tree_size),
                                 (sequence - 1, size))
                self.assertEqual(proof.root, tree_hash(hashes[:size]))
                self.assertTrue(verify_inclusion(
                    leaf_hash(proof.leaf), proof.leaf_index, size,
                    proof.hashes, proof.root), (sequence, size))

    def test_every_tree_is_proven_a_prefix_of_every_later_one(self):
        last = self.issue(20)
        hashes = [leaf_hash(l) for l in self.leaves(last)]
        for second in sorted({1, 2, 5, 8, 13, last - 1, last}):
            for first in range(1, second + 1):
                proof = self.consistency(first, second)
                self.assertEqual((proof.first_root, proof.second_root),
                                 (tree_hash(hashes[:first]),
                                  tree_hash(hashes[:second])))
                self.assertTrue(verify_consistency(
                    first, second, proof.hashes, proof.first_root,
                    proof.second_root), (first, second))

    def test_size_0_means_the_newest_checkpoint(self):
        checkpoint = self.checkpoint(self.issue())
        proof = self.inclusion(1)
        self.assertGreaterEqual(proof.tree_size, checkpoint.tree_size)
        self.assertEqual(proof.root, Note(proof.checkpoint.signed_note).root)
        proof = self.consistency(1)
        self.assertEqual(proof.second_root,
                         Note(proof.checkpoint.signed_note).root)
        self.assertEqual(self.consistency(1, 1).hashes, [])

    def test_a_tree_beyond_the_checkpoint_has_none_with_it(self):
        for _ in range(20):  # until no tick fell between
            last = self.issue(3)
            proof = self.inclusion(1, last)
            self.assertEqual(proof.tree_size, last)
            if not proof.HasField("checkpoint"):
                return
            self.assertGreaterEqual(proof.checkpoint.tree_size, last)
        self.fail("a checkpoint was there each time")

    def test_snapshot_says_how_far_the_checkpoint_goes(self):
        checkpoint = self.checkpoint(self.issue())
        self.assertGreaterEqual(
            self.snapshot().ledger.checkpoint_tree_size, checkpoint.tree_size)

    def test_what_is_not_there_yet_is_ahead(self):
        last = self.issue()
        for call in (lambda: self.checkpoint(last + 100),
                     lambda: self.inclusion(last + 100),
                     lambda: self.inclusion(last + 100, last + 100),
                     lambda: self.inclusion(1, last + 100),
                     lambda: self.consistency(last + 100),
                     lambda: self.consistency(1, last + 100)):
            failure = self.fails("OUT_OF_RANGE", "SEQUENCE_AHEAD", call)
            self.assertEqual(failure.metadata["sequence"], str(last + 100))
            self.assertEqual(failure.metadata["durable_sequence"], str(last))

    def test_sizes_that_cannot_be_are_named(self):
        last = self.issue(3)
        for field, call in (
                ("sequence", lambda: self.inclusion(0)),
                ("tree_size", lambda: self.inclusion(last, last - 1)),
                ("first_tree_size", lambda: self.consistency(0, 1)),
                ("second_tree_size", lambda: self.consistency(2, 1))):
            self.fails("INVALID_ARGUMENT", "INVALID_FIELD", call, field=field)

    def test_a_caller_that_leaves_while_waiting_does_no_harm(self):
        calls = []
        for _ in range(20):
            last = self.issue()
            calls.append(self.server.pool.GetCheckpoint.future(
                pool.GetCheckpointRequest(covering_sequence=last)))
        for call in calls[::2]:
            call.cancel()
        for call in calls[1::2]:
            self.assertTrue(call.result(CALL_SECONDS).checkpoint.tree_size)

    # --- positions ---

    def test_a_bookmark_has_the_root_of_its_place(self):
        self.issue()
        subscriber = Subscriber(self.server)
        subscriber.wait_for(lambda s: s.messages, "bookmark")
        subscriber.cancel()
        position = subscriber.messages[0].bookmark.position
        self.assertEqual(position.root, tree_hash(
            [leaf_hash(l) for l in self.leaves(position.sequence)]))

    def test_a_stream_goes_on_from_its_root_and_from_no_other(self):
        last = self.issue(3)
        root = self.consistency(last - 1, last).first_root
        after = dict(sequence=last - 1, root=root)
        subscriber = Subscriber(
            self.server, after=common.LedgerPosition(**after))
        subscriber.wait_sequence(last)
        subscriber.cancel()
        after["root"] = bytes(32)
        self.fails(
            "FAILED_PRECONDITION", "LEDGER_FORKED",
            lambda: self.server.pool.StreamReceipts(pool.StreamReceiptsRequest(
                after=common.LedgerPosition(**after)), timeout=CALL_SECONDS))
        after["root"] = bytes(31)
        self.fails(
            "INVALID_ARGUMENT", "INVALID_FIELD",
            lambda: self.server.pool.StreamReceipts(pool.StreamReceiptsRequest(
                after=common.LedgerPosition(**after)), timeout=CALL_SECONDS),
            field="after.root")

    # --- kvpoolctl ---

    def test_kvpoolctl_verifies_and_says_whose_key_it_was(self):
        self.issue(5)
        done = self.ctl("receipts", "verify")
        self.assertIn("receipts 1 to ", done.stdout)
        self.assertIn("unverified key", done.stdout)
        key = self.server.log(msg="checkpoints are signed")[0]["key"]
        done = self.ctl("receipts", "verify", "--key", key)
        self.assertNotIn("unverified", done.stdout)
        other = "PeterNeumann+c74f20a3+" \
            "ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
        done = self.ctl("receipts", "verify", "--key", other, code=DAMAGED)
        self.assertIn("not signed", done.stderr)
        self.ctl("receipts", "verify", "--key", "none", code=USAGE)

    def test_kvpoolctl_compares_with_an_older_checkpoint(self):
        saved = self.ctl("receipts", "checkpoint").stdout.encode()
        self.assertTrue(Note(saved).is_signed_by(logged_key(self.server)))
        self.issue(5)
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "old")
            for note, code, word in (
                    (saved, OK, "nothing was changed"),
                    (saved.replace(b"kvpool/", b"kvpool/0", 1), DAMAGED,
                     "another ledger"),
                    (saved.replace(b"=", b"A=", 1), DAMAGED, "the base64"),
                    (b"", DAMAGED, "not a text")):
                with open(path, "wb") as file:
                    file.write(note)
                done = self.ctl("receipts", "verify", "--old", path, code=code)
                self.assertIn(word, done.stdout + done.stderr)
            self.ctl("receipts", "verify", "--old", path + "-", code=FAILED)


# --- a server that lies -------------------------------------------------------

class Liar(pool_grpc.KvPoolServiceServicer):
    """Passes calls on to an honest server, and changes what it answers."""

    def __init__(self, server):
        self.server = server
        self.checkpoint = self.inclusion = self.consistency = lambda a: a
        self.stream = lambda found: found
        self._grpc = grpc.server(futures.ThreadPoolExecutor(4))
        pool_grpc.add_KvPoolServiceServicer_to_server(self, self._grpc)
        self.address = "127.0.0.1:%d" % self._grpc.add_insecure_port(
            "127.0.0.1:0")
        self._grpc.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._grpc.stop(0).wait()

    def Snapshot(self, request, context):
        return self.server.pool.Snapshot(request, timeout=CALL_SECONDS)

    def GetCheckpoint(self, request, context):
        answer = self.server.pool.GetCheckpoint(request, timeout=CALL_SECONDS)
        return pool.GetCheckpointResponse(
            checkpoint=self.checkpoint(answer.checkpoint))

    def GetInclusionProof(self, request, context):
        return self.inclusion(self.server.pool.GetInclusionProof(
            request, timeout=CALL_SECONDS))

    def GetConsistencyProof(self, request, context):
        return self.consistency(self.server.pool.GetConsistencyProof(
            request, timeout=CALL_SECONDS))

    def StreamReceipts(self, request, context):
        yield pool.StreamReceiptsResponse(
            receipts=self.stream(read_receipts(self.server)))


def change_note(old, new):
    def change(checkpoint):
        checkpoint.signed_note = checkpoint.signed_note.replace(old, new, 1)
        return checkpoint
    return change


def flip(hashes):
    hashes[0] = bytes([hashes[0][0] ^ 1]) + hashes[0][1:]


class LiarTest(ProofCase):
    flags = ("--kv-cache-size-mb=8", "--enable-receipts",
             "--snapshot-interval-ms=0", "--no-receipts-log")

    def verify(self, liar, *arguments, code=DAMAGED, word=""):
        done = run("receipts", "verify", *arguments, server=liar.address)
        self.assertEqual(done.returncode, code, (done.stdout, done.stderr))
        self.assertIn(word, done.stdout + done.stderr)

    def test_who_passes_everything_on_is_believed(self):
        self.issue(10)
        with Liar(self.server) as liar:
            self.verify(liar, code=OK, word="receipts 1 to ")

    def test_who_has_only_the_later_receipts_is_believed(self):
        last = self.issue(20)
        for first in (2, 3, 8, 9, last - 1, last):
            with Liar(self.server) as liar:
                liar.stream = lambda found, n=first: found[n - 1:]
                self.verify(liar, code=OK,
                            word="receipts %d to %d are" % (first, last))

    def test_a_changed_receipt_is_found(self):
        last = self.issue(10)
        for sequence in (1, 5, last):
            def change(found, n=sequence):
                found[n - 1].time_unix_ns += 1
                return found
            for skip in (0, sequence - 1):
                with Liar(self.server) as liar:
                    liar.stream = lambda found, c=change, k=skip: c(found)[k:]
                    self.verify(liar, word="not those of the signed")

    def test_a_missing_receipt_is_found(self):
        self.issue(10)
        with Liar(self.server) as liar:
            liar.stream = lambda found: found[:3] + found[4:]
            self.verify(liar, code=FAILED, word="came after")
            liar.stream = lambda found: found[:-1]
            self.verify(liar, code=FAILED, word="closed the stream")
            liar.stream = lambda found: found[:4] + found[3:]
            self.verify(liar, code=FAILED, word="came after")

    def test_receipts_of_another_ledger_are_found(self):
        self.issue()

        def change(found):
            found[0].pool_id = bytes(16)
            return found
        with Liar(self.server) as liar:
            liar.stream = change
            self.verify(liar, word="is of ledger")

    def test_a_changed_past_is_found(self):
        self.issue(10)

        def change(proof):
            flip(proof.hashes)
            return proof

        def shorten(proof):
            del proof.hashes[0]
            return proof

        def swell(proof):
            proof.hashes.extend([bytes(32)] * 100)
            return proof
        for lie, code, word in (
                (change, DAMAGED, "not those of the signed"),
                (shorten, FAILED, "is none"), (swell, FAILED, "is none")):
            with Liar(self.server) as liar:
                liar.stream = lambda found: found[5:]
                liar.inclusion = lie
                self.verify(liar, code=code, word=word)

    def test_a_changed_checkpoint_is_found(self):
        self.issue()
        with Liar(self.server) as liar:
            for old, new in ((b"\n", b"1\n"), (b"=\n\n", b"A=\n\n"),
                             (b"kvpool/", b"kvpool0/"), (b"kvpool", b"\x1b")):
                liar.checkpoint = change_note(old, new)
                self.verify(liar, word="the server's checkpoint")
            liar.checkpoint = lambda c: pool.Checkpoint(
                signed_note=c.signed_note, key="none")
            self.verify(liar, code=FAILED, word="the server's key")
            liar.checkpoint = lambda c: pool.Checkpoint()
            self.verify(liar, code=FAILED)

    def test_a_rewritten_ledger_is_found(self):
        saved = self.checkpoint(self.issue(5)).signed_note
        self.issue(5)
        with tempfile.TemporaryDirectory() as folder, \
                Liar(self.server) as liar:
            path = os.path.join(folder, "old")
            with open(path, "wb") as file:
                file.write(saved)
            self.verify(liar, "--old", path, code=OK)

            def change(proof):
                flip(proof.hashes)
                return proof
            liar.consistency = change
            self.verify(liar, "--old", path, word="was rewritten")
            liar.consistency = lambda proof: (
                pool.GetConsistencyProofResponse(hashes=[b"short"]))
            self.verify(liar, "--old", path, word="was rewritten")


class SmallRingTest(ProofCase):
    """A ring of 1 MiB that has dropped the first receipts."""

    flags = ("--kv-cache-size-mb=8", "--enable-receipts",
             "--receipts-ring-mb=1", "--snapshot-interval-ms=0",
             "--no-receipts-log")

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        target = [session_target("n" * 100 + str(i)) for i in range(64)]
        for _ in range(200):
            cls.server.pool.Evict(pool.EvictRequest(targets=target),
                                  timeout=CALL_SECONDS)

    def test_proofs_outlive_the_receipts(self):
        last = self.issue()
        failure = self.fails("OUT_OF_RANGE", "SEQUENCE_EXPIRED",
                             lambda: self.inclusion(1, last))
        self.assertEqual(failure.metadata["sequence"], "1")
        oldest = int(failure.metadata["oldest_sequence"])
        self.assertGreater(oldest, 1)
        self.assertEqual(failure.metadata["durable_sequence"], str(last))
        self.assertEqual(failure.metadata["epoch"], "1")
        proof = self.consistency(1, last)
        self.assertTrue(verify_consistency(
            1, last, proof.hashes, proof.first_root, proof.second_root))
        proof = self.inclusion(oldest, last)
        self.assertTrue(verify_inclusion(
            leaf_hash(proof.leaf), oldest - 1, last, proof.hashes, proof.root))

    def test_kvpoolctl_verifies_what_is_left(self):
        self.issue()
        done = self.ctl("receipts", "verify")
        self.assertIn("are those of the signed checkpoint", done.stdout)
        self.assertIn("no longer there", done.stdout)


class ManyReceiptsTest(ProofCase):
    flags = ("--kv-cache-size-mb=8", "--enable-receipts",
             "--snapshot-interval-ms=0", "--no-receipts-log")

    def test_kvpoolctl_verifies_thousands(self):
        last = self.issue(1100)
        self.assertGreaterEqual(self.checkpoint(last).tree_size, 1100)
        done = self.ctl("receipts", "verify")
        self.assertIn("receipts 1 to 11", done.stdout)


class OffTest(ProofCase):
    flags = ("--kv-cache-size-mb=8",)

    def test_proofs_are_refused_where_receipts_are_off(self):
        for call in (self.checkpoint, lambda: self.inclusion(1),
                     lambda: self.consistency(1)):
            failure = self.fails("FAILED_PRECONDITION", "RECEIPTS_OFF", call)
            self.assertEqual(failure.metadata["option"], "enable_receipts")
        self.assertIn("enable_receipts",
                      self.ctl("receipts", "verify", code=FAILED).stderr)
        self.ctl("receipts", "checkpoint", code=FAILED)


class KeyFileTest(unittest.TestCase):
    flags = ("--kv-cache-size-mb=8", "--enable-receipts", "--no-receipts-log")

    def start(self, path):
        return Kvpoold(*self.flags, "--signing-key=" + path)

    def test_a_key_is_made_once_and_kept(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "key")
            found = []
            for _ in range(2):
                with self.start(path) as server:
                    checkpoint = server.pool.GetCheckpoint(
                        pool.GetCheckpointRequest(),
                        timeout=CALL_SECONDS).checkpoint
                    self.assertTrue(Note(checkpoint.signed_note).is_signed_by(
                        logged_key(server)))
                    found.append((checkpoint.key, checkpoint.origin))
                    self.assertEqual(
                        len(server.log(msg="signing key made")),
                        1 if len(found) == 1 else 0)
            self.assertEqual(found[0][0], found[1][0])
            self.assertNotEqual(found[0][1], found[1][1])
            self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o600)
            with open(path, encoding="ascii") as file:
                secret = file.read().split("+", 4)[4].strip()  # PRIVATE+KEY+name+id+
            self.assertFalse([l for l in server.lines if secret in l])

    def test_a_file_that_is_no_key_stops_the_start(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "key")
            for content in (b"", b"secret", b"\0" * 10, b"x" * 1000):
                with open(path, "wb") as file:
                    file.write(content)
                with self.assertRaises(StartFailed) as caught:
                    self.start(path)
                lines = "\n".join(caught.exception.lines)
                self.assertIn(path, lines)
                self.assertNotIn("secret", lines)
            for bad in (folder, os.path.join(folder, "no", "key")):
                with self.assertRaises(StartFailed) as caught:
                    self.start(bad)
                self.assertIn(bad, "\n".join(caught.exception.lines))


if __name__ == "__main__":
    main()
