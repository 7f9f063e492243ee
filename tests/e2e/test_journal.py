"""Receipts on disk: what one life of the server wrote is there in the next,
whatever ended it, or the server says what is missing and does not start."""
import os
import resource
import shutil
import signal
import stat
import subprocess
import tempfile
import unittest

import grpc

import kvpool_e2e
from auditor import Auditor
from kvpool_e2e import (CALL_SECONDS, Failure, Kvpoold, StartFailed,
                        Subscriber, common, generate, health, main, pool,
                        read_receipts, session_target, stats, wait_until)
from test_proof import verify_consistency, verify_inclusion, leaf_hash

EARLIEST = dict(earliest=pool.StartEarliest())
FLAGS = ("--enable-receipts", "--no-receipts-log", "--kv-cache-size-mb=8",
         "--snapshot-interval-ms=0", "--receipts-segment-mb=1")


def evict(server, session="nobody", targets=None, **fields):
    return server.pool.Evict(
        pool.EvictRequest(targets=targets or [session_target(session)],
                          **fields),
        timeout=CALL_SECONDS)


def evicts(server, session="nobody"):
    """Whether evicting it was not refused for want of room."""
    try:
        evict(server, session)
    except grpc.RpcError as error:
        assert Failure(error).reason == "JOURNAL_FULL", Failure(error)
        return False
    return True


def snapshot(server):
    return server.pool.Snapshot(
        pool.SnapshotRequest(), timeout=CALL_SECONDS).snapshot


def is_caught_up(server):
    """Whether no receipt waits for the disk."""
    stamp = snapshot(server).stamp
    return stamp.durable_sequence == stamp.applied_sequence


def inclusion(server, sequence, size=0):
    return server.pool.GetInclusionProof(
        pool.GetInclusionProofRequest(sequence=sequence, tree_size=size),
        timeout=CALL_SECONDS)


class JournalTest(unittest.TestCase):
    longMessage = True

    def setUp(self):
        self.root = tempfile.mkdtemp(prefix="kvpool-journal-")
        self.addCleanup(shutil.rmtree, self.root, ignore_errors=True)
        self.data = os.path.join(self.root, "data")

    def start(self, *flags, **how):
        given = {flag.split("=")[0] for flag in flags}
        server = Kvpoold(
            *(flag for flag in FLAGS if flag.split("=")[0] not in given),
            "--data-dir=" + self.data, *flags, **how)
        self.addCleanup(server.kill)
        return server

    def refused(self, *flags):
        with self.assertRaises(StartFailed) as caught:
            self.start(*flags)
        self.assertEqual(caught.exception.code, 1)
        return caught.exception.lines[-1]

    def failing(self, call):
        with self.assertRaises(grpc.RpcError) as caught:
            call()
        return Failure(caught.exception)

    def boots(self, receipts):
        return [r for r in receipts
                if r.WhichOneof("kind") == "lifecycle" and
                r.lifecycle.WhichOneof("change") == "boot"]

    def segments(self):
        where = os.path.join(self.data, "receipts")
        return sorted(os.path.join(where, name) for name in os.listdir(where)
                      if name.endswith(".log"))


class LivesTest(JournalTest):
    def test_an_orderly_stop_and_a_start_go_on_where_it_was(self):
        with self.start() as server:
            generate(server, text="What is a dog?", session="a", max_tokens=4)
            answer = evict(server, "a")
            self.assertTrue(answer.receipts.durable)
            self.assertEqual(answer.receipts.epoch, 1)
            ledger = snapshot(server).ledger
            self.assertEqual(ledger.mode, stats.LEDGER_MODE_JOURNAL)
            self.assertEqual(ledger.oldest_sequence, 1)
            self.assertGreater(ledger.stored_bytes, 0)
            self.assertEqual(ledger.error, "")
            before = read_receipts(server)
            self.assertEqual(self.boots(before)[0].lifecycle.boot.clean, False)
            stream = Subscriber(server, **EARLIEST)
            stream.wait_sequence(before[-1].sequence)
            server.signal(signal.SIGTERM)
            stream.wait_end()
            self.assertEqual(server.wait(), 0, server.tail())
        # The stop's own receipts were durable before the stream was closed.
        last = stream.receipts[-1]
        self.assertEqual(last.WhichOneof("kind"), "pool_snapshot")
        self.assertTrue(stream.messages[-1].HasField("closing"))

        with self.start() as server:
            receipts = read_receipts(server)
            self.assertEqual([r.sequence for r in receipts],
                             list(range(1, len(receipts) + 1)))
            old = [r for r in receipts if r.epoch == 1]
            self.assertEqual([r.SerializeToString() for r in old],
                             [r.SerializeToString() for r in stream.receipts])
            boot = receipts[len(old)]
            self.assertEqual(boot.epoch, 2)
            self.assertEqual(boot.lifecycle.boot.previous_sequence,
                             old[-1].sequence)
            self.assertTrue(boot.lifecycle.boot.clean)
            self.assertEqual(boot.pool_id, old[0].pool_id)
            stamp = snapshot(server).stamp
            self.assertEqual((stamp.epoch, stamp.applied_sequence),
                             (2, receipts[-1].sequence))
            answer = evict(server)
            self.assertEqual(answer.receipts.epoch, 2)
            self.assertEqual(answer.receipts.first_sequence,
                             receipts[-1].sequence + 1)

    def test_a_kill_loses_nothing_that_anybody_saw(self):
        seen = {}
        for life in range(1, 4):
            server = self.start()
            stream = Subscriber(server, **EARLIEST)
            for i in range(20):
                answer = evict(server)
            stream.wait_sequence(answer.receipts.last_sequence)
            answers = [evict(server, wait=pool.EVICT_WAIT_APPLIED)
                       for i in range(20)]
            server.signal(signal.SIGKILL)
            server.wait()
            stream.wait_end()
            for receipt in stream.receipts:
                raw = receipt.SerializeToString()
                self.assertEqual(seen.setdefault(receipt.sequence, raw), raw)
            self.assertEqual(answers[-1].receipts.epoch, 2 * life - 1)
            with self.start() as server:
                receipts = read_receipts(server)
                boot = self.boots(receipts)[-1]
                self.assertEqual(boot.epoch, 2 * life)
                self.assertFalse(boot.lifecycle.boot.clean)
                there = {r.sequence: r.SerializeToString() for r in receipts}
                for sequence, raw in seen.items():
                    self.assertEqual(there.get(sequence), raw, sequence)
                self.assertEqual(sorted(there), list(range(1, len(there) + 1)))

    def test_proofs_hold_over_a_start(self):
        with self.start() as server:
            evict(server)
            end = evict(server).receipts.last_sequence
            first = server.pool.GetCheckpoint(
                pool.GetCheckpointRequest(covering_sequence=end),
                timeout=CALL_SECONDS).checkpoint
            key = first.key
        with self.start() as server:
            end = evict(server).receipts.last_sequence
            second = server.pool.GetCheckpoint(
                pool.GetCheckpointRequest(covering_sequence=end),
                timeout=CALL_SECONDS).checkpoint
            self.assertEqual(second.key, key)
            self.assertEqual(second.origin, first.origin)
            self.assertGreater(second.tree_size, first.tree_size)
            proof = server.pool.GetConsistencyProof(
                pool.GetConsistencyProofRequest(
                    first_tree_size=first.tree_size,
                    second_tree_size=second.tree_size),
                timeout=CALL_SECONDS)
            self.assertTrue(verify_consistency(
                first.tree_size, second.tree_size, list(proof.hashes),
                first.root, second.root))
            # A receipt of the first life comes from disk.
            leaf = inclusion(server, 1, second.tree_size)
            self.assertTrue(verify_inclusion(
                leaf_hash(leaf.leaf), 0, second.tree_size, list(leaf.hashes),
                second.root))
        path = os.path.join(self.data, "signing.key")
        self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o600)
        self.assertEqual(stat.S_IMODE(os.stat(self.data).st_mode), 0o700)

    def test_many_readers_far_behind_get_everything_from_disk(self):
        with self.start("--receipts-ring-mb=1") as server:
            targets = [session_target("x" * 120 + str(i)) for i in range(192)]
            for i in range(150):
                server.pool.Evict(pool.EvictRequest(targets=targets),
                                  timeout=CALL_SECONDS)
            end = snapshot(server).stamp.applied_sequence
            # A ring of 1 MiB could not have it.
            self.assertEqual(snapshot(server).ledger.oldest_sequence, 1)
            self.assertGreater(len(self.segments()), 2)
            streams = [Subscriber(server, **EARLIEST) for _ in range(8)]
            for stream in streams:
                stream.wait_sequence(end)
                self.assertEqual(
                    [r.sequence for r in stream.receipts[:end]],
                    list(range(1, end + 1)))
            leaf = inclusion(server, 2, end)
            self.assertEqual(leaf.leaf,
                             streams[0].receipts[1].SerializeToString())
            for stream in streams:
                stream.cancel()

    def test_retention_drops_whole_files_and_says_so(self):
        with self.start("--receipts-ring-mb=1", "--receipts-retain-mb=2"
                        ) as server:
            targets = [session_target("x" * 120 + str(i)) for i in range(192)]
            while snapshot(server).ledger.oldest_sequence < 5:
                server.pool.Evict(pool.EvictRequest(targets=targets),
                                  timeout=CALL_SECONDS)
            ledger = snapshot(server).ledger
            self.assertEqual(ledger.limit_bytes, 2 << 20)
            stream = Subscriber(
                server, after=common.LedgerPosition(sequence=2))
            stream.wait_end()
            self.assertEqual(
                (stream.error.code, stream.error.reason),
                ("OUT_OF_RANGE", "SEQUENCE_EXPIRED"))
            end = snapshot(server).stamp.durable_sequence
            failure = self.failing(lambda: inclusion(server, 2, end))
            self.assertEqual(failure.reason, "SEQUENCE_EXPIRED")


class RememberedTest(JournalTest):
    def call(self, server, *sessions, **fields):
        return server.pool.Evict(pool.EvictRequest(
            targets=[session_target(s) for s in sessions], **fields),
            timeout=CALL_SECONDS)

    def restart(self, server, kill):
        read_receipts(server)  # what nobody has seen may be lost by a kill
        if kill:
            server.kill()
        else:
            server.stop()
        return self.start("--receipts-allocations")

    def test_a_repeat_gets_the_first_answer_after_a_restart_too(self):
        server = self.start("--receipts-allocations")
        for session in ("a", "b", "c"):
            generate(server, text="What is a dog?", session=session,
                     max_tokens=4)
        fields = dict(request_id="kept", page_size=2, max_sessions=10)
        first = self.call(server, "a", "nobody", "b", "c", **fields)
        self.assertEqual(len(first.outcomes), 2)
        for kill in (True, False, True):
            server = self.restart(server, kill)
            again = self.call(server, "a", "nobody", "b", "c", **fields)
            self.assertTrue(again.replayed)
            again.replayed = False
            self.assertEqual(again, first)
            rest = self.call(server, "a", "nobody", "b", "c",
                             page_token=first.next_page_token, **fields)
            self.assertEqual([o.session.session_id for o in rest.outcomes],
                             ["b", "c"])
            failure = self.failing(
                lambda s=server: self.call(s, "a", request_id="kept"))
            self.assertEqual(failure.reason, "REQUEST_ID_REUSED")
        self.assertEqual(first.receipts.epoch, 1)
        found = read_receipts(server)
        Auditor().add_all(found)
        self.assertEqual(len(self.boots(found)), 4)


    def test_how_many_were_forgotten_is_remembered_over_a_restart(self):
        server = self.start("--receipts-allocations")
        for session in ("a", "b"):
            generate(server, text="What is a dog?", session=session,
                     max_tokens=4)
        everyone = [pool.EvictTarget(tenant="")]
        evict(server, targets=everyone)
        fields = dict(targets=everyone, request_id="forget", forget=True)
        first = evict(server, **fields)
        self.assertEqual((first.sessions_evicted, first.sessions_forgotten),
                         (0, 2))
        server = self.restart(server, True)
        again = evict(server, **fields)
        self.assertTrue(again.replayed)
        again.replayed = False
        self.assertEqual(again, first)


class RefusedTest(JournalTest):
    def test_a_second_server_is_refused(self):
        with self.start() as server:
            message = self.refused()
            self.assertIn(self.data, message)
            evict(server)

    def test_a_parent_that_is_not_there_is_not_made(self):
        self.data = os.path.join(self.root, "no", "data")
        message = self.refused()
        self.assertIn("data-dir: " + self.data, message)
        self.assertFalse(os.path.exists(os.path.dirname(self.data)))

    def test_a_file_in_its_place_is_refused(self):
        with open(self.data, "w") as file:
            file.write("mine")
        self.assertIn("is no directory", self.refused())

    def damage(self):
        """A byte of the first segment, well before its end, turned over."""
        path = self.segments()[0]
        with open(path, "r+b") as file:
            file.seek(600)
            byte = file.read(1)[0]
            file.seek(600)
            file.write(bytes([byte ^ 0x10]))
        return path

    def test_damage_is_named_and_not_started_upon_unless_accepted(self):
        with self.start() as server:
            for i in range(30):
                evict(server)
            pool_id = snapshot(server).stamp.pool_id
        path = self.damage()
        message = self.refused()
        self.assertIn(os.path.basename(path), message)
        self.assertIn("--accept-loss", message)
        self.assertEqual(self.refused(), message)  # nothing was touched

        with self.start("--accept-loss") as server:
            receipts = read_receipts(server)
            self.assertNotEqual(receipts[0].pool_id, pool_id)
            self.assertEqual([r.sequence for r in receipts],
                             list(range(1, len(receipts) + 1)))
            self.assertEqual(receipts[0].lifecycle.WhichOneof("change"),
                             "boot")
            loss = receipts[1].lifecycle.loss_accepted
            self.assertEqual(loss.previous_pool_id, pool_id)
            self.assertIn(os.path.basename(path), loss.detail)
            self.assertTrue(server.log(level="warn"))
        with self.start("--accept-loss") as server:  # and never again
            self.assertEqual(
                len([r for r in read_receipts(server)
                     if r.WhichOneof("kind") == "lifecycle" and
                     r.lifecycle.WhichOneof("change") == "loss_accepted"]), 1)


# Runs a program as somebody else, and where its folder cannot be written.
AS_NOBODY = """#!/bin/sh
exec setpriv --reuid 65534 --regid 65534 --clear-groups "%s" "$@"
"""
READ_ONLY = """#!/bin/sh
exec unshare --user --map-root-user --mount sh -c '
    mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"
    ' "%s" "%s" "$@"
"""


class NotOursTest(JournalTest):
    def wrapped(self, script):
        """Servers are started by this script from now on."""
        path = os.path.join(self.root, "wrapper")
        with open(path, "w") as file:
            file.write(script)
        os.chmod(path, 0o755)
        if subprocess.run([path, "--version"], check=False,
                          stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL).returncode != 0:
            self.skipTest("not allowed here")
        self.addCleanup(setattr, kvpool_e2e, "KVPOOLD", kvpool_e2e.KVPOOLD)
        kvpool_e2e.KVPOOLD = path

    def test_a_ledger_of_another_user_is_refused_and_named(self):
        os.chmod(self.root, 0o755)
        os.mkdir(self.data)
        with self.start():
            pass
        before = self.segments()
        self.wrapped(AS_NOBODY % kvpool_e2e.KVPOOLD)
        self.assertRegex(self.refused(),
                         "data/receipts: .*: Permission denied$")
        self.assertEqual(self.segments(), before)

    def test_a_folder_that_cannot_be_written_is_refused_and_named(self):
        os.mkdir(self.data)
        self.wrapped(READ_ONLY % (self.data, kvpool_e2e.KVPOOLD))
        self.assertRegex(self.refused(),
                         "data/receipts: .*: Read-only file system$")

    def test_a_ledger_that_cannot_be_written_is_refused_and_named(self):
        with self.start():
            pass
        before = self.segments()
        self.wrapped(READ_ONLY % (self.data, kvpool_e2e.KVPOOLD))
        self.assertRegex(self.refused(), ": Read-only file system$")
        self.assertEqual(self.segments(), before)


class FailedTest(JournalTest):
    def test_a_journal_that_fails_ends_what_waits_and_refuses_what_comes(self):
        server = self.start("--receipts-ring-mb=1", "--kv-cache-size-mb=2")
        generate(server, text="A dog", session="a", max_tokens=4)
        where = os.path.join(self.data, "receipts")
        wait_until(lambda: os.path.exists(os.path.join(where, "next.tmp")),
                   "the next file")
        shutil.rmtree(where)  # the next file cannot be given its name
        targets = [session_target("x" * 120 + str(i)) for i in range(192)]
        with self.assertRaises(grpc.RpcError) as caught:
            for _ in range(1000):
                server.pool.Evict(pool.EvictRequest(targets=targets),
                                  timeout=CALL_SECONDS)
        failure = Failure(caught.exception)
        self.assertEqual((failure.code, failure.reason, failure.metadata),
                         ("UNAVAILABLE", "JOURNAL_FAILED",
                          {"evicted": "true"}), repr(failure))
        told = wait_until(lambda: server.log(msg="the ledger has failed"),
                          "told")
        self.assertEqual([line["dir"] for line in told], [where])
        before = snapshot(server)
        self.assertEqual(before.ledger.mode, stats.LEDGER_MODE_FAILED)
        self.assertNotEqual(before.ledger.error, "")
        self.assertIn(before.ledger.error, failure.message)
        self.assertLess(before.stamp.durable_sequence,
                        before.stamp.applied_sequence)
        failure = self.failing(lambda: evict(server, "a"))
        self.assertEqual((failure.code, failure.reason, failure.metadata),
                         ("UNAVAILABLE", "JOURNAL_FAILED", {}))
        self.assertEqual(snapshot(server).blocks.cached, before.blocks.cached)
        self.assertEqual(snapshot(server).stamp, before.stamp)
        for service in ("", "kvpool.v1.KvPoolService",
                        "kvpool.v1.InferenceService"):
            self.assertEqual(health(server, service), 2)
        # On free blocks generation goes on.
        generate(server, text="A cat", session="b", max_tokens=4)
        server.signal(signal.SIGTERM)
        self.assertEqual(server.wait(), 1)
        self.assertIn("receipts could not be kept", server.lines[-1])
        server.check_lines()


class FilesTest(JournalTest):
    def test_connections_that_take_all_files_do_not_fail_the_journal(self):
        targets = [session_target("x" * 120 + str(i)) for i in range(192)]
        with self.start() as server:
            evict(server)
            before = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
            resource.prlimit(server.pid, resource.RLIMIT_NOFILE,
                             (3, before[1]))
            failure = None
            for _ in range(1000):
                try:
                    evict(server, targets=targets)
                except grpc.RpcError as error:
                    failure = Failure(error)
                    break
            self.assertEqual((failure.code, failure.reason, failure.metadata),
                             ("RESOURCE_EXHAUSTED", "JOURNAL_FULL", {}))
            for words in ("Too many open files", "max_connections",
                          "limit of open files"):
                self.assertIn(words, failure.message)
            self.assertIn("Too many open files", snapshot(server).ledger.error)
            resource.prlimit(server.pid, resource.RLIMIT_NOFILE, before)
            wait_until(lambda: evicts(server), "evicted")
            receipts = read_receipts(server)
            self.assertEqual([r.sequence for r in receipts],
                             list(range(1, len(receipts) + 1)))

    def test_the_limit_of_files_is_raised_to_what_connections_need(self):
        with self.start("--max-connections=500",
                        before="ulimit -S -n 300") as server:
            soft, hard = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
            self.assertGreaterEqual(soft, min(hard, 500 + 100))

    def test_with_as_few_files_as_may_be_nobody_ends_the_server(self):
        with self.start("--admin-listen=127.0.0.1:0",
                        before="ulimit -n 51") as server:
            evict(server)
            channels = [server.connect() for _ in range(60)]
            asked = [grpc.channel_ready_future(c) for c in channels]
            wait_until(lambda: server.log(msg="accepting pauses"), "full")
            for i in range(20):
                generate(server, text="A dog", session="s%d" % i, max_tokens=4)
                evicts(server, "s%d" % i)
            for future, channel in zip(asked, channels):
                future.cancel()
                channel.close()
            with server.connect() as late:
                grpc.channel_ready_future(late).result(CALL_SECONDS)
            wait_until(lambda: evicts(server), "evicted")
            receipts = read_receipts(server)
            self.assertEqual([r.sequence for r in receipts],
                             list(range(1, len(receipts) + 1)))


class BehindTest(JournalTest):
    """With one receipt ahead of the disk, the next eviction of a turn is one too
    many, unless the disk was quicker: of many evictions that is one in the end.
    """

    def test_evictions_beyond_the_bound_wait_for_the_disk(self):
        n_sessions, n_calls = 40, 0
        with self.start("--receipts-max-ahead=1") as server:
            for i in range(n_sessions):
                generate(server, text="A dog", session="s%d" % i, max_tokens=4)
            everything = pool.EvictRequest(targets=[
                pool.EvictTarget(all=pool.EvictAll())])
            while n_sessions > 0:
                wait_until(lambda: is_caught_up(server), "caught up")
                answer = server.pool.Evict(everything, timeout=CALL_SECONDS)
                self.assertGreater(answer.sessions_evicted, 0)
                n_sessions -= answer.sessions_evicted
                self.assertEqual(answer.more, n_sessions > 0)
                n_calls += 1
            self.assertEqual(snapshot(server).blocks.cached, 0)
            self.assertGreater(n_calls, 1)

    def test_a_request_that_needs_more_evictions_than_may_be_is_told(self):
        with self.start("--receipts-max-ahead=1", "--kv-cache-size-mb=1",
                        "--block-tokens=4", "--no-prefix-cache") as server:
            total = snapshot(server).blocks.total
            n = 0
            while snapshot(server).blocks.free > 1:  # a session takes two
                try:
                    generate(server, ids=[5] * 5, session="s%d" % n,
                             max_tokens=1)
                except grpc.RpcError:
                    break  # its second block would take a second victim
                n += 1
            failure = None
            try:
                generate(server, ids=[5] * 4 * 40, session="long",
                         max_tokens=1)
            except grpc.RpcError as error:
                failure = Failure(error)
            self.assertEqual((failure.code, failure.reason),
                             ("UNAVAILABLE", "JOURNAL_BEHIND"))
            self.assertEqual(set(failure.metadata),
                             {"waiting_receipts", "limit"})
            self.assertEqual(failure.metadata["limit"], "1")
            self.assertEqual(snapshot(server).blocks.total, total)
            # Trying again gets there in the end: each try frees a little.
            for _ in range(1000):
                try:
                    generate(server, ids=[5] * 4 * 40, session="long",
                             max_tokens=1)
                    return
                except grpc.RpcError as error:
                    self.assertEqual(Failure(error).reason, "JOURNAL_BEHIND")
            self.fail("never let in")


# Runs a program with a small file system of its own, which nobody else sees.
ON_TMPFS = """#!/bin/sh
exec unshare --user --map-root-user --mount sh -c '
    mount -t tmpfs -o size=12m tmpfs "$0" && exec "$@"' %s "%s" "$@"
"""


class FullDiskTest(JournalTest):
    def setUp(self):
        super().setUp()
        self.small = os.path.join(self.root, "small")
        os.mkdir(self.small)
        self.data = os.path.join(self.small, "data")
        if subprocess.run(["sh", self.wrapper("true")], check=False,
                          stderr=subprocess.DEVNULL).returncode != 0:
            self.skipTest("no mount namespaces here")
        wrapper = self.wrapper(kvpool_e2e.KVPOOLD)
        self.addCleanup(setattr, kvpool_e2e, "KVPOOLD", kvpool_e2e.KVPOOLD)
        kvpool_e2e.KVPOOLD = wrapper

    def wrapper(self, program):
        path = os.path.join(self.root, "on-tmpfs")
        with open(path, "w") as file:
            file.write(ON_TMPFS % (self.small, program))
        os.chmod(path, 0o700)
        return path

    def fill(self, server):
        """Fills its disk. Who removes the file that is answered makes room."""
        filler = "/proc/%d/root%s/filler" % (server.pid, self.small)
        with open(filler, "wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(65536))
            except OSError:
                return filler

    def test_room_for_what_is_kept_beside_segments_is_enough_to_go_on(self):
        with self.start() as server:
            where = "/proc/%d/root%s/receipts" % (server.pid, self.data)
            wait_until(lambda: os.path.exists(os.path.join(where, "next.tmp")),
                       "the next segment")
            evict(server, "a")
            filler = self.fill(server)
            n_before = len(os.listdir(where))
            wait_until(lambda: not evicts(server, "a"), "full")
            self.assertEqual(len(os.listdir(where)), n_before)
            ledger = snapshot(server).ledger
            self.assertEqual(ledger.mode, stats.LEDGER_MODE_JOURNAL)
            self.assertIn("No space left", ledger.error)
            os.unlink(filler)
            wait_until(lambda: evicts(server, "a"), "room again")
            self.assertEqual(snapshot(server).ledger.error, "")

    def test_a_full_disk_refuses_evictions_and_nothing_else(self):
        targets = [session_target("x" * 120 + str(i)) for i in range(192)]
        with self.start("--kv-cache-size-mb=2") as server:
            generate(server, text="A dog", session="a", max_tokens=4)
            filler = self.fill(server)
            failure = None
            for i in range(1000):
                try:
                    server.pool.Evict(pool.EvictRequest(targets=targets),
                                      timeout=CALL_SECONDS)
                except grpc.RpcError as error:
                    failure = Failure(error)
                    break
            self.assertEqual((failure.code, failure.reason),
                             ("RESOURCE_EXHAUSTED", "JOURNAL_FULL"))
            self.assertEqual(set(failure.metadata),
                             {"free_bytes", "needed_bytes"})
            told = wait_until(lambda: server.log(
                msg="no room for receipts, nothing is evicted"), "told")
            self.assertEqual(told[0]["dir"],
                             os.path.join(self.data, "receipts"))
            before = snapshot(server)
            failure = self.failing(lambda: evict(server, "a"))
            self.assertEqual(failure.reason, "JOURNAL_FULL")
            after = snapshot(server)
            self.assertEqual(after.stamp.applied_sequence,
                             before.stamp.applied_sequence)
            self.assertEqual(after.blocks.cached, before.blocks.cached)
            self.assertEqual(after.ledger.mode, stats.LEDGER_MODE_JOURNAL)
            self.assertEqual(health(server), 1)
            # On free blocks everything goes on; who needs an eviction is told.
            generate(server, text="A cat", session="b", max_tokens=4)
            failure = None
            for i in range(200):
                try:
                    generate(server, text="A cat sat on a mat " * 8,
                             session="s%d" % i, max_tokens=4)
                except grpc.RpcError as error:
                    failure = Failure(error)
                    break
            self.assertEqual((failure.code, failure.reason),
                             ("RESOURCE_EXHAUSTED", "JOURNAL_FULL"))
            os.unlink(filler)
            wait_until(lambda: evicts(server, "a"), "room again")
            generate(server, text="A cat sat", session="c", max_tokens=4)
            receipts = read_receipts(server)
            self.assertEqual([r.sequence for r in receipts],
                             list(range(1, len(receipts) + 1)))


if __name__ == "__main__":
    main()
