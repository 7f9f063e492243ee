"""StreamReceipts beyond a plain tail: filters, a start with the state, readers
that may miss receipts, hostile positions, and who is listed as a reader."""
import threading

import grpc

from kvpool_e2e import (CALL_SECONDS, ServerTest, Subscriber, common, generate,
                        key, ledger_end, main, pool, pool_grpc, read_receipts,
                        receipts, session_target, wait_until)

EARLIEST = dict(earliest=pool.StartEarliest())
MANUAL, LRU = 1, 2
STALLED = "subscriber stalled, disconnected"
SESSIONS = pool.SNAPSHOT_SECTION_SESSIONS
SUBSCRIBERS = pool.SNAPSHOT_SECTION_SUBSCRIBERS
KINDS = ("eviction", "eviction_batch", "pool_snapshot", "lifecycle",
         "allocation", "recomputation", "release")
HAS_REASON = ("eviction", "eviction_batch", "recomputation")
HAS_SESSION = ("eviction", "allocation", "recomputation", "release")


def after(sequence, **fields):
    return dict(after=common.LedgerPosition(sequence=sequence, **fields))


def matches(receipt, filter):
    """What the contract says of filters, on unpacked receipts."""
    kind = receipt.WhichOneof("kind")
    body = getattr(receipt, kind)
    if filter.kinds and KINDS.index(kind) + 1 not in filter.kinds:
        return False
    if filter.reasons and (kind not in HAS_REASON or
                           body.reason not in filter.reasons):
        return False
    if filter.sessions and (kind not in HAS_SESSION or not any(
            (s.tenant, s.session_id) == (body.tenant, body.session_id)
            for s in filter.sessions)):
        return False
    return not filter.tenants or (kind in HAS_SESSION and
                                  body.tenant in filter.tenants)


def through(message, before=0):
    """How far the reader is after this message."""
    if message.HasField("gap"):
        return message.gap.last_sequence
    if message.through_sequence:
        return message.through_sequence
    return message.receipts[-1].sequence if message.receipts else before


class FilterTest(ServerTest):
    flags = ("--kv-cache-size-mb=1", "--enable-receipts",
             "--snapshot-interval-ms=20", "--no-receipts-log")

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        for i in range(12):
            for tenant in ("", "acme", "other"):
                generate(cls.server, text="A lantern is", max_tokens=30,
                         session="s%d" % i, tenant=tenant)
        cls.server.pool.Evict(pool.EvictRequest(targets=[
            session_target("s11", "acme"), session_target("s11"),
            session_target("nobody")]), timeout=CALL_SECONDS)
        cls.reference = read_receipts(cls.server)
        cls.end = cls.reference[-1].sequence

    def begin(self, filter, **fields):
        return Subscriber(self.server, filter=filter, **EARLIEST, **fields)

    def finish(self, reader):
        """Once it has what there was at the start."""
        reader.wait_sequence(self.end)
        reader.cancel()
        place = 0
        for message in reader.messages:
            self.assertGreaterEqual(through(message, place), place)
            place = through(message, place)
            if message.through_sequence:
                self.assertEqual(message.through_epoch, 1)
            self.assertFalse(message.HasField("gap"))
        return [r for r in reader.receipts if r.sequence <= self.end]

    def test_each_filter_lets_through_what_the_contract_says(self):
        nothing = [
            pool.ReceiptFilter(tenants=["acme"], sessions=[key("s1")]),
            pool.ReceiptFilter(tenants=["nobody"])]
        filters = [pool.ReceiptFilter(kinds=[i + 1]) for i in range(7)] + [
            pool.ReceiptFilter(kinds=[1, 2, 4]),
            pool.ReceiptFilter(reasons=[MANUAL]),
            pool.ReceiptFilter(reasons=[LRU], kinds=[2]),
            pool.ReceiptFilter(sessions=[key("s1"), key("s11", "acme")]),
            pool.ReceiptFilter(tenants=["acme"]),
            pool.ReceiptFilter(tenants=[""]),
            pool.ReceiptFilter(tenants=["", "other"], reasons=[LRU]),
            *nothing, pool.ReceiptFilter()]
        # What is sampled depends on the clock; who was evicted, and for what
        # reason, does not.
        for filter in filters[7:-1]:
            n = sum(matches(r, filter) for r in self.reference)
            self.assertEqual(n > 0, filter not in nothing, str(filter))
            self.assertLess(n, len(self.reference), str(filter))
        readers = [(filter, max_batch, self.begin(filter, max_batch=max_batch))
                   for filter in filters for max_batch in (1, 3, 0)]
        for filter, max_batch, reader in readers:
            expected = [r for r in self.reference if matches(r, filter)]
            with self.subTest(str(filter), max_batch=max_batch):
                self.assertEqual(self.finish(reader), expected)

    def test_who_sees_nothing_is_told_how_far_it_is(self):
        reader = self.begin(pool.ReceiptFilter(kinds=[
            receipts.RECEIPT_KIND_RELEASE]))
        self.finish(reader)
        bookmark = reader.messages[0].bookmark
        self.assertEqual(reader.receipts, [])
        self.assertGreaterEqual(bookmark.position.sequence, self.end)
        self.assertEqual(bookmark.position.epoch, 1)
        again = Subscriber(self.server, after=bookmark.position)
        again.wait_for(lambda s: s.receipts, "receipt")
        again.cancel()
        self.assertEqual(again.receipts[0].sequence,
                         bookmark.position.sequence + 1)

    def test_conditions_that_are_none_are_named(self):
        names = ["x%d" % i for i in range(65)]
        for field, given, filter in (
                ("filter.kinds[1]", "0 was given", dict(kinds=[1, 0])),
                ("filter.kinds[0]", "8 was given", dict(kinds=[8])),
                ("filter.reasons[0]", "0 was given", dict(reasons=[0])),
                ("filter.reasons[1]", "7 was given", dict(reasons=[6, 7])),
                ("filter.sessions", "65 were given",
                 dict(sessions=[key(n) for n in names])),
                ("filter.sessions[0].session_id", "0 bytes",
                 dict(sessions=[key("")])),
                ("filter.tenants", "65 were given", dict(tenants=names)),
                ("filter.tenants[1]", "129 bytes",
                 dict(tenants=["", "x" * 129]))):
            with self.subTest(field):
                self.fails(
                    "INVALID_ARGUMENT", "INVALID_FIELD",
                    lambda f=filter: self.server.pool.StreamReceipts(
                        pool.StreamReceiptsRequest(
                            filter=pool.ReceiptFilter(**f)),
                        timeout=CALL_SECONDS), field=field, given=given)

    def test_a_busy_stream_gets_bookmarks_too(self):
        reader = Subscriber(self.server, max_batch=1, **EARLIEST)
        reader.wait_for(
            lambda s: any(m.HasField("bookmark") for m in s.messages[:-1]),
            "bookmark", seconds=30)
        reader.cancel()
        place = 0
        for message in reader.messages:
            if message.HasField("bookmark"):
                self.assertEqual(message.bookmark.position.sequence, place)
            place = through(message, place)


class HostilePositionTest(ServerTest):
    flags = ("--kv-cache-size-mb=8", "--enable-receipts",
             "--snapshot-interval-ms=0", "--no-receipts-log")

    def test_a_position_that_never_was_is_refused(self):
        self.evict(session_target("nobody"))
        stamp = self.snapshot().stamp
        last, epoch, ledger = (stamp.applied_sequence, stamp.epoch,
                               stamp.pool_id)
        forked, mismatch, field = (("FAILED_PRECONDITION", "LEDGER_FORKED"),
                                   ("FAILED_PRECONDITION", "LEDGER_MISMATCH"),
                                   ("INVALID_ARGUMENT", "INVALID_FIELD"))
        for expected, position in (
                (forked, dict(sequence=last + 1)),
                (forked, dict(sequence=2 ** 63)),
                (forked, dict(sequence=2 ** 64 - 1)),
                (forked, dict(sequence=2 ** 64 - 1, epoch=epoch,
                              pool_id=ledger)),
                (forked, dict(sequence=last, epoch=epoch + 1)),
                (forked, dict(sequence=last, epoch=2 ** 32 - 1)),
                (forked, dict(sequence=1, root=b"\0" * 32)),
                (forked, dict(sequence=0, root=b"\xff" * 32)),
                (forked, dict(sequence=2 ** 64 - 1, root=b"\0" * 32)),
                (mismatch, dict(sequence=1, pool_id=b"\0" * 16)),
                (mismatch, dict(sequence=2 ** 64 - 1, pool_id=b"x" * 16)),
                (field, dict(sequence=0, epoch=1)),
                (field, dict(sequence=1, pool_id=b"x")),
                (field, dict(sequence=1, pool_id=b"x" * 17)),
                (field, dict(sequence=1, root=b"x" * 31)),
                (field, dict(sequence=1, root=b"x" * 33))):
            with self.subTest(str(position)):
                self.fails(*expected, lambda p=position:
                           self.server.pool.StreamReceipts(
                               pool.StreamReceiptsRequest(**{
                                   "after": common.LedgerPosition(**p)}),
                               timeout=CALL_SECONDS))

    def test_each_position_that_was_told_is_taken(self):
        reader = Subscriber(self.server)
        reader.wait_for(lambda s: s.messages, "bookmark")
        last = self.evict(session_target("nobody")).receipts.last_sequence
        reader.wait_sequence(last)
        reader.cancel()
        position = reader.messages[0].bookmark.position
        self.assertEqual(len(position.root), 32)
        again = Subscriber(self.server, after=position)
        again.wait_sequence(last)
        again.cancel()
        self.assertEqual([r.sequence for r in again.receipts][:1],
                         [position.sequence + 1])


class StateTest(ServerTest):
    """A start with the state of the pool."""

    flags = ("--kv-cache-size-mb=8", "--enable-receipts",
             "--snapshot-interval-ms=0", "--no-receipts-log")

    def start(self, *sections, **fields):
        return Subscriber(self.server, snapshot=pool.StartSnapshot(
            sections=sections), **fields)

    def chunks(self, reader):
        reader.wait_for(
            lambda s: any(m.snapshot.last for m in s.messages), "last part")
        found = [m.snapshot for m in list(reader.messages)
                 if m.HasField("snapshot")]
        self.assertEqual([c.index for c in found], list(range(len(found))))
        self.assertEqual([c.last for c in found],
                         [False] * (len(found) - 1) + [True])
        return found

    def test_totals_come_first_and_receipts_follow_the_stamp(self):
        generate(self.server, text="A", session="totals", max_tokens=2)
        reader = self.start()
        chunk, = self.chunks(reader)
        stamp = chunk.snapshot.stamp
        last = self.evict(session_target("totals")).receipts.last_sequence
        reader.wait_sequence(last)
        reader.cancel()
        now = self.snapshot()
        self.assertEqual(stamp.pool_id, now.stamp.pool_id)
        self.assertGreater(chunk.snapshot.statistics.used_memory_bytes, 0)
        self.assertEqual(chunk.snapshot.policy, "lru")
        self.assertEqual(len(chunk.snapshot.sessions), 0)
        self.assertEqual([r.sequence for r in reader.receipts],
                         list(range(stamp.applied_sequence + 1, last + 1)))
        first = reader.messages[0]
        self.assertEqual((first.through_sequence, first.through_epoch),
                         (stamp.applied_sequence, stamp.epoch))

    def test_sections_that_are_not_there_are_refused(self):
        for section in ("BLOCK_MAP",):
            self.fails(
                "INVALID_ARGUMENT", "FIELD_NOT_SUPPORTED",
                lambda s=section: self.server.pool.StreamReceipts(
                    pool.StreamReceiptsRequest(snapshot=pool.StartSnapshot(
                        sections=[SESSIONS, pool.SnapshotSection.Value(
                            "SNAPSHOT_SECTION_" + s)])),
                    timeout=CALL_SECONDS), field="snapshot.sections[1]")
        self.fails("INVALID_ARGUMENT", "INVALID_FIELD",
                   lambda: self.server.pool.StreamReceipts(
                       pool.StreamReceiptsRequest(
                           snapshot=pool.StartSnapshot(sections=[99])),
                       timeout=CALL_SECONDS), field="snapshot.sections[0]")

    def test_under_load_the_state_is_the_one_that_receipts_lead_to(self):
        names = ["load-%03d" % i for i in range(300)]
        for name in names:
            generate(self.server, text="A", session=name, max_tokens=1)
        reference = Subscriber(self.server, **EARLIEST)
        over = threading.Event()

        def load():
            for name in names:
                self.evict(session_target(name))
            over.set()

        thread = threading.Thread(target=load)
        thread.start()
        readers = []
        while not over.is_set():
            readers.append(self.start(SESSIONS, max_batch=7))
            self.chunks(readers[-1])
        thread.join()
        end = ledger_end(self.server)
        for reader in [reference] + readers:
            reader.wait_sequence(end)
            reader.cancel()
        evictions = {r.sequence: r.eviction for r in reference.receipts
                     if r.WhichOneof("kind") == "eviction"}
        evicted_at = {e.session_id: s for s, e in evictions.items()}
        self.assertGreater(len(readers), 1)
        for reader in readers:
            self.check_against(evictions, evicted_at, end, reader)

    def check_against(self, evictions, evicted_at, end, reader):
        chunks = self.chunks(reader)
        first = chunks[0].snapshot
        begun = first.stamp.applied_sequence
        self.assertEqual(
            (first.statistics.evictions, first.statistics.freed_bytes_total),
            (sum(s <= begun for s in evictions),
             sum(e.block_size_bytes for s, e in evictions.items()
                 if s <= begun)))
        listed = []
        for chunk in chunks:
            stamp = chunk.snapshot.stamp.applied_sequence
            self.assertGreaterEqual(stamp, begun)
            for session in chunk.snapshot.sessions:
                name = session.key.session_id
                listed.append(name)
                if name in evicted_at:
                    self.assertEqual(session.blocks == 0,
                                     evicted_at[name] <= stamp, name)
        self.assertEqual(sorted(set(listed)), listed)
        self.assertGreaterEqual(set(listed), set(evicted_at))
        self.assertEqual([r.sequence for r in reader.receipts],
                         list(range(begun + 1, end + 1)))


class StalledTest(ServerTest):
    flags = ("--kv-cache-size-mb=8", "--enable-receipts",
             "--snapshot-interval-ms=0", "--no-receipts-log",
             "--subscriber-stall-ms=100")

    def test_who_stalls_is_told_of_no_receipt_that_did_not_arrive(self):
        many = [session_target("nobody-%03d" % i + "x" * 100)
                for i in range(256)]
        for _ in range(300):  # 8 MiB, which no window holds
            self.evict(*many)
        for max_batch in (0, 1, 7):
            told = len(self.server.log(msg=STALLED))
            channel = self.server.connect(**{
                "grpc.http2.lookahead_bytes": 1024,
                "grpc.http2.bdp_probe": 0})
            call = pool_grpc.KvPoolServiceStub(channel).StreamReceipts(
                pool.StreamReceiptsRequest(max_batch=max_batch, **EARLIEST),
                timeout=CALL_SECONDS)
            last = next(call).receipts[-1].sequence
            line = wait_until(lambda: self.server.log(msg=STALLED)[told:],
                              STALLED)[0]
            with self.assertRaises(grpc.RpcError) as caught:
                for message in call:
                    last = message.receipts[-1].sequence
            self.assertEqual(caught.exception.code(),
                             grpc.StatusCode.RESOURCE_EXHAUSTED)
            self.assertLessEqual(int(line["sequence"]), last)
            self.assertIn("resume after %s," % line["sequence"],
                          caught.exception.details())
            channel.close()


class LossyTest(ServerTest):
    flags = ("--kv-cache-size-mb=8", "--enable-receipts",
             "--snapshot-interval-ms=0", "--no-receipts-log",
             "--lossy-lag-receipts=1024", "--subscriber-stall-ms=100",
             "--receipts-ring-mb=1")

    def subscribers(self):
        return self.snapshot(SUBSCRIBERS).subscribers

    def test_a_reader_that_may_miss_receipts_is_told_which(self):
        channel = self.server.connect(**{
            "grpc.http2.lookahead_bytes": 1024, "grpc.http2.bdp_probe": 0})
        call = pool_grpc.KvPoolServiceStub(channel).StreamReceipts(
            pool.StreamReceiptsRequest(
                slow_reader_policy=pool.SLOW_READER_POLICY_LOSSY,
                max_batch=10, **EARLIEST), timeout=CALL_SECONDS)
        taken = next(call).receipts[-1].sequence
        many = [session_target("nobody-%03d" % i + "x" * 100)
                for i in range(256)]
        place = taken
        # 8 MiB, which no window holds and no ring of 1 MiB keeps; then many.
        for targets in [many] * 300 + [[session_target("nobody")]] * 1500:
            last = self.evict(*targets).receipts.last_sequence
        row, = self.subscribers()
        self.assertGreater(row.lag_receipts, 1024)
        self.assertGreater(row.stalled_ns, 0)
        n_gaps = n_lost = 0
        while place < last:
            message = next(call)
            if message.HasField("gap"):
                gap = message.gap
                self.assertFalse(message.receipts)
                self.assertEqual(gap.first_sequence, place + 1)
                self.assertEqual(gap.matching,
                                 gap.last_sequence - gap.first_sequence + 1)
                n_gaps += 1
                n_lost += gap.matching
                place = gap.last_sequence
            for receipt in message.receipts:
                self.assertEqual(receipt.sequence, place + 1)
                place = receipt.sequence
        self.assertGreater(n_gaps, 0)
        row, = self.subscribers()
        self.assertEqual(row.lost_total, n_lost)
        self.assertEqual(row.sent_total + row.lost_total, place)
        self.assertEqual((row.sent_sequence, row.lag_receipts), (place, 0))
        call.cancel()
        channel.close()

    def test_a_policy_that_is_none_is_refused(self):
        self.fails("INVALID_ARGUMENT", "INVALID_FIELD",
                   lambda: self.server.pool.StreamReceipts(
                       pool.StreamReceiptsRequest(slow_reader_policy=3),
                       timeout=CALL_SECONDS), field="slow_reader_policy")


class LossyFilterTest(ServerTest):
    flags = LossyTest.flags

    def test_a_gap_tells_how_many_its_filter_would_have_let_through(self):
        begun = self.evict(session_target("nobody")).receipts.last_sequence
        for i in range(1500):
            if i % 400 == 0:
                self.generate(text="A", session="some", max_tokens=1)
                self.evict(session_target("some"))
            last = self.evict(
                session_target("nobody")).receipts.last_sequence
        evictions = [r.sequence for r in read_receipts(self.server, begun + 1)
                     if r.HasField("eviction")]
        self.assertEqual(len(evictions), 4)
        call = self.server.pool.StreamReceipts(
            pool.StreamReceiptsRequest(
                slow_reader_policy=pool.SLOW_READER_POLICY_LOSSY, max_batch=10,
                after=common.LedgerPosition(sequence=begun),
                filter=pool.ReceiptFilter(kinds=[
                    receipts.RECEIPT_KIND_EVICTION])), timeout=CALL_SECONDS)
        gap = next(call).gap
        self.assertEqual((gap.first_sequence, gap.last_sequence),
                         (begun + 1, last - 10))
        self.assertEqual(gap.matching, 4)
        call.cancel()


class ListedTest(ServerTest):
    flags = ("--kv-cache-size-mb=8", "--enable-receipts",
             "--snapshot-interval-ms=0", "--no-receipts-log")

    def rows(self):
        return self.snapshot(SUBSCRIBERS).subscribers

    def test_every_reader_is_listed_as_long_as_it_reads(self):
        self.assertEqual(list(self.rows()), [])
        readers = [Subscriber(self.server, **EARLIEST) for _ in range(3)]
        end = ledger_end(self.server)
        for reader in readers:
            reader.wait_sequence(end)
        rows = self.rows()
        self.assertEqual([r.subscriber_id for r in rows], [1, 2, 3])
        for row in rows:
            self.assertEqual((row.sent_sequence, row.sent_total,
                              row.lag_receipts, row.lost_total,
                              row.stalled_ns), (end, end, 0, 0, 0))
            self.assertRegex(row.peer, r"^127\.0\.0\.1:\d+$")
            self.assertGreater(row.connected_unix_ns, 0)
        self.assertEqual(list(self.snapshot().subscribers), [])
        for reader in readers:
            reader.cancel()
        for _ in range(1000):
            if not self.rows():
                return
        raise self.failureException("they are listed still")


if __name__ == "__main__":
    main()
