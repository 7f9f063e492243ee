"""Streams over a journal: from disk at a reader's own pace, over starts of the
server, past retention, and to the end of a journal that breaks."""
import json
import os
import resource
import shutil
import subprocess
import tempfile
import threading
import unittest

import grpc

from kvpool_e2e import (CALL_SECONDS, KVPOOLCTL, Failure, Kvpoold, Subscriber,
                        common, generate, ledger_end, main, pool, pool_grpc,
                        read_receipts, session_target, wait_until)

EARLIEST = dict(earliest=pool.StartEarliest())
FLAGS = ("--enable-receipts", "--no-receipts-log", "--kv-cache-size-mb=8",
         "--snapshot-interval-ms=0", "--receipts-segment-mb=1",
         "--receipts-ring-mb=1", "--lossy-lag-receipts=1024",
         "--subscriber-stall-ms=600000")  # a busy machine may take its time
SLOW = {"grpc.http2.lookahead_bytes": 1024, "grpc.http2.bdp_probe": 0}
MANY = [session_target("nobody-%03d" % i + "x" * 100) for i in range(256)]


def evict(server, *targets):
    return server.pool.Evict(
        pool.EvictRequest(targets=targets or [session_target("nobody")]),
        timeout=CALL_SECONDS).receipts.last_sequence


class JournalStreamTest(unittest.TestCase):
    longMessage = True

    def setUp(self):
        self.root = tempfile.mkdtemp(prefix="kvpool-streams-")
        self.addCleanup(shutil.rmtree, self.root, ignore_errors=True)
        self.data = os.path.join(self.root, "data")

    def start(self, *flags, **fields):
        server = Kvpoold(*FLAGS, "--data-dir=" + self.data, *flags, **fields)
        self.addCleanup(server.kill)
        return server

    def slow_reader(self, server, **fields):
        channel = server.connect(**SLOW)
        self.addCleanup(channel.close)
        return pool_grpc.KvPoolServiceStub(channel).StreamReceipts(
            pool.StreamReceiptsRequest(max_batch=16, **EARLIEST, **fields),
            timeout=CALL_SECONDS)

    def ends(self, call, place):
        """The failure that ends a stream which had come to `place`."""
        with self.assertRaises(grpc.RpcError) as caught:
            for message in call:
                for receipt in message.receipts:
                    self.assertEqual(receipt.sequence, place + 1)
                    place = receipt.sequence
        return Failure(caught.exception), place


class DiskTest(JournalStreamTest):
    def test_who_stalls_gets_everything_later_and_from_disk(self):
        with self.start() as server:
            calls = [self.slow_reader(server) for _ in range(4)]
            places = [next(call).receipts[-1].sequence for call in calls]
            for _ in range(300):  # 8 times the ring
                end = evict(server, *MANY)
            for call, place in zip(calls, places):
                while place < end:
                    for receipt in next(call).receipts:
                        self.assertEqual(receipt.sequence, place + 1)
                        place = receipt.sequence
                call.cancel()

    def test_filters_hold_for_what_comes_from_disk(self):
        with self.start() as server:
            for i in range(20):
                generate(server, text="A", session="s%d" % i, max_tokens=1)
            for i in range(200):
                evict(server, *MANY)
                if i % 10 == 0:
                    end = evict(server, session_target("s%d" % (i // 10)))
            reader = Subscriber(server, **EARLIEST, filter=pool.ReceiptFilter(
                sessions=[common.SessionKey(session_id="s%d" % i)
                          for i in range(20)]))
            reader.wait_for(lambda s: len(s.receipts) >= 20, "20 evictions")
            reader.wait_sequence(end)
            reader.cancel()
            self.assertEqual([r.eviction.session_id for r in reader.receipts],
                             ["s%d" % i for i in range(20)])

    def test_who_may_miss_receipts_is_moved_ahead(self):
        with self.start() as server:
            call = self.slow_reader(
                server, slow_reader_policy=pool.SLOW_READER_POLICY_LOSSY)
            place = next(call).receipts[-1].sequence
            for targets in [MANY] * 100 + [[session_target("nobody")]] * 1500:
                end = evict(server, *targets)
            n_gaps = 0
            while place < end:
                message = next(call)
                if message.HasField("gap"):
                    self.assertEqual(message.gap.first_sequence, place + 1)
                    place = message.gap.last_sequence
                    n_gaps += 1
                for receipt in message.receipts:
                    self.assertEqual(receipt.sequence, place + 1)
                    place = receipt.sequence
            self.assertGreater(n_gaps, 0)
            call.cancel()

    def test_retention_that_overtakes_a_reader_says_so(self):
        with self.start("--receipts-retain-mb=2") as server:
            call = self.slow_reader(server)
            place = next(call).receipts[-1].sequence
            while (server.pool.Snapshot(
                    pool.SnapshotRequest(), timeout=CALL_SECONDS
                    ).snapshot.ledger.oldest_sequence < 200):
                evict(server, *MANY)
            failure, place = self.ends(call, place)
            self.assertEqual((failure.code, failure.reason),
                             ("OUT_OF_RANGE", "SEQUENCE_EXPIRED"))
            self.assertEqual(failure.metadata["sequence"], str(place))
            self.assertGreater(int(failure.metadata["oldest_sequence"]), place)

    def test_the_state_is_sent_once_it_is_durable(self):
        with self.start() as server:
            for i in range(300):
                generate(server, text="A", session="s%03d" % i, max_tokens=1)
            over = threading.Event()

            def load():
                while not over.is_set():
                    evict(server, pool.EvictTarget(tenant="nobody"))

            thread = threading.Thread(target=load)
            thread.start()
            for _ in range(20):
                call = server.pool.StreamReceipts(pool.StreamReceiptsRequest(
                    snapshot=pool.StartSnapshot(
                        sections=[pool.SNAPSHOT_SECTION_SESSIONS])),
                    timeout=CALL_SECONDS)
                chunks = []
                while not chunks or not chunks[-1].last:
                    chunks.append(next(call).snapshot)
                    now = server.pool.Snapshot(
                        pool.SnapshotRequest(), timeout=CALL_SECONDS)
                    self.assertLessEqual(
                        chunks[-1].snapshot.stamp.applied_sequence,
                        now.snapshot.stamp.durable_sequence)
                self.assertEqual(len(chunks), 3)
                message = next(m for m in call if m.receipts)
                self.assertEqual(
                    message.receipts[0].sequence,
                    chunks[0].snapshot.stamp.applied_sequence + 1)
                call.cancel()
            over.set()
            thread.join()


class LivesTest(JournalStreamTest):
    def test_a_place_of_an_earlier_life_is_taken_and_a_false_one_refused(self):
        with self.start() as server:
            evict(server)
            reader = Subscriber(server)
            reader.wait_for(lambda s: s.messages, "bookmark")
            reader.cancel()
            old = reader.messages[0].bookmark.position
            first_end = ledger_end(server)
        with self.start() as server:
            end = evict(server)
            receipts = read_receipts(server)
            epochs = {r.sequence: r.epoch for r in receipts}
            self.assertEqual((old.epoch, epochs[end]), (1, 2))
            self.assertEqual(len(old.root), 32)
            for position in [old] + [
                    common.LedgerPosition(sequence=s, epoch=epochs[s],
                                          pool_id=old.pool_id)
                    for s in epochs if s < end]:
                reader = Subscriber(server, after=position)
                reader.wait_sequence(end)
                reader.cancel()
                self.assertEqual([r.sequence for r in reader.receipts],
                                 list(range(position.sequence + 1, end + 1)))
            for position in (dict(sequence=first_end, epoch=2),
                             dict(sequence=end, epoch=1),
                             dict(sequence=end, epoch=3),
                             dict(sequence=end + 1, epoch=2)):
                reader = Subscriber(
                    server, after=common.LedgerPosition(**position))
                reader.wait_end()
                self.assertEqual(reader.error.reason, "LEDGER_FORKED",
                                 position)

    def test_a_filtered_reader_resumes_in_the_next_life(self):
        batches = pool.ReceiptFilter(kinds=[2])
        with self.start() as server:
            end = evict(server)
            reader = Subscriber(server, filter=batches, **EARLIEST)
            reader.wait_sequence(end)
            reader.cancel()
            last = reader.messages[-1]
            place = common.LedgerPosition(
                sequence=last.through_sequence or
                last.receipts[-1].sequence,
                epoch=last.through_epoch or 1)
        with self.start() as server:
            end = evict(server)
            reader = Subscriber(server, filter=batches, after=place)
            reader.wait_sequence(end)
            reader.cancel()
            self.assertEqual([r.sequence for r in reader.receipts], [end])

    def tail(self, address, *arguments):
        return subprocess.Popen(
            [KVPOOLCTL, "-s", address, "receipts", "tail",
             "--from=1", "-o", "jsonl", *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    def test_a_tail_goes_on_over_starts_and_kills_without_hole_or_double(self):
        # No port: between two lives somebody else could get it.
        listen = "unix:" + os.path.join(self.root, "socket")
        tail = filtered = None
        for life in range(4):
            server = self.start(listen=listen)
            if tail is None:
                tail = self.tail(listen)
                filtered = self.tail(listen, "--kind=eviction_batch")
                self.addCleanup(tail.kill)
                self.addCleanup(filtered.kill)
            for _ in range(20):
                end = evict(server)
            if life == 0:  # it has begun, so it comes back
                first = tail.stdout.readline() + tail.stdout.readline()
                begun = filtered.stdout.readline()
            if life == 3:
                break
            if life % 2 == 0:
                server.kill()
            else:
                server.stop()
        found = [json.loads(line) for line in first.splitlines()]
        while found[-1]["sequence"] < end:
            found.append(json.loads(tail.stdout.readline()))
        self.assertEqual([r["sequence"] for r in found],
                         list(range(1, end + 1)))
        self.assertEqual(found[-1]["epoch"], 4)
        expected = [r["sequence"] for r in found
                    if r["event"] == "kv_eviction_batch"]
        batches = [json.loads(begun)["sequence"]]
        while batches[-1] < end:
            batches.append(json.loads(filtered.stdout.readline())["sequence"])
        self.assertEqual(batches, expected)
        for child in (tail, filtered):
            child.kill()
            child.wait()
            child.stdout.close()
        server.stop()


class BrokenTest(JournalStreamTest):
    """A file that cannot grow is a journal that has failed."""

    def test_streams_end_once_they_have_what_is_durable(self):
        server = self.start()
        evict(server)
        readers = [Subscriber(server, **EARLIEST) for _ in range(3)]
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (4096, 4096))
        durable = 0
        with self.assertRaises(grpc.RpcError) as caught:
            for _ in range(1000):
                durable = evict(server, *MANY)
        self.assertEqual(Failure(caught.exception).reason, "JOURNAL_FAILED")
        readers.append(Subscriber(server, **EARLIEST))
        readers.append(Subscriber(server, snapshot=pool.StartSnapshot()))
        for reader in readers:
            reader.wait_end()
            self.assertEqual((reader.error.code, reader.error.reason),
                             ("UNAVAILABLE", "JOURNAL_FAILED"))
        for reader in readers[:4]:
            sequences = [r.sequence for r in reader.receipts]
            self.assertEqual(sequences, list(range(1, len(sequences) + 1)))
            self.assertGreaterEqual(sequences[-1], durable)
        told = wait_until(lambda: server.log(msg="the ledger has failed"),
                          "told")[0]["reason"]
        self.assertRegex(told, r"^(\d{20}\.log|next\.tmp): .*File too large$")
        server.kill()


if __name__ == "__main__":
    main()
