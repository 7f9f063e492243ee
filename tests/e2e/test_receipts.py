"""StreamReceipts and the ledger: every receipt, once, in order, and it adds
up."""
import signal
import unittest

import grpc

from auditor import Auditor
from kvpool_e2e import (CALL_SECONDS, Failure, Kvpoold, ServerTest, Subscriber,
                        common, generate, generate_request, inference,
                        ledger_end, main, pool, pool_grpc, read_receipts,
                        session_target, wait_until)

EARLIEST = dict(earliest=pool.StartEarliest())
LATEST = dict(latest=pool.StartLatest())
MANUAL, LRU, TTL, PRESSURE = 1, 2, 3, 5


def after(sequence, **fields):
    return dict(after=common.LedgerPosition(sequence=sequence, **fields))


class StreamTest(ServerTest):
    flags = ("--kv-cache-size-mb=8", "--enable-receipts",
             "--snapshot-interval-ms=0", "--no-receipts-log")

    def issue(self, n=1):
        """At least n more receipts; the last sequence there is then."""
        for _ in range(n):
            answer = self.evict(session_target("nobody"))
        return answer.receipts.last_sequence

    def position(self):
        stamp = self.snapshot().stamp
        return dict(epoch=stamp.epoch, pool_id=stamp.pool_id)

    def stream_fails(self, code, reason, **fields):
        return self.fails(
            code, reason,
            lambda: self.server.pool.StreamReceipts(
                pool.StreamReceiptsRequest(**fields), timeout=CALL_SECONDS))

    def test_earliest_begins_with_the_boot_of_this_epoch(self):
        self.issue()
        found = read_receipts(self.server)
        self.assertEqual([r.sequence for r in found],
                         list(range(1, len(found) + 1)))
        self.assertEqual(found[0].lifecycle.WhichOneof("change"), "boot")
        boot = found[0].lifecycle.boot
        blocks = self.snapshot().blocks
        self.assertEqual((boot.total_blocks, boot.block_bytes,
                          boot.block_tokens, boot.policy),
                         (blocks.total, blocks.block_bytes, 16, "lru"))
        self.assertNotEqual(boot.model, "")
        self.assertEqual(len(found[0].lifecycle.config_digest), 32)
        self.assertIn("pool_snapshot",
                      [r.WhichOneof("kind") for r in found])
        Auditor().add_all(found)

    def test_latest_begins_with_a_bookmark_and_then_what_is_new(self):
        last = self.issue()
        for start in (LATEST, {}):
            subscriber = Subscriber(self.server, **start)
            subscriber.wait_for(lambda s: s.messages, "bookmark")
            bookmark = subscriber.messages[0].bookmark
            self.assertEqual(bookmark.position.sequence, last)
            self.assertEqual(bookmark.position.pool_id,
                             self.position()["pool_id"])
            self.assertEqual(bookmark.position.epoch, 1)
            self.assertEqual(bookmark.oldest_sequence, 1)
            self.assertFalse(subscriber.messages[0].receipts)
            new = self.issue()
            subscriber.wait_sequence(new)
            subscriber.cancel()
            self.assertEqual([r.sequence for r in subscriber.receipts],
                             list(range(last + 1, new + 1)))
            last = new

    def test_after_goes_on_behind_the_position(self):
        last = self.issue(5)
        for start in (after(last - 3), after(last - 3, **self.position())):
            subscriber = Subscriber(self.server, **start)
            subscriber.wait_sequence(last)
            subscriber.cancel()
            self.assertEqual([r.sequence for r in subscriber.receipts],
                             [last - 2, last - 1, last])

    def test_after_zero_is_the_beginning(self):
        subscriber = Subscriber(self.server, **after(0))
        subscriber.wait_sequence(1)
        subscriber.cancel()
        self.assertEqual(subscriber.receipts[0].sequence, 1)

    def test_after_the_end_waits_for_what_comes(self):
        last = ledger_end(self.server)
        subscriber = Subscriber(self.server, **after(last,
                                                     **self.position()))
        new = self.issue()
        subscriber.wait_sequence(new)
        subscriber.cancel()
        self.assertEqual(subscriber.receipts[0].sequence, last + 1)

    def test_the_place_of_another_ledger_is_refused(self):
        failure = self.stream_fails(
            "FAILED_PRECONDITION", "LEDGER_MISMATCH",
            **after(1, epoch=1, pool_id=b"0123456789abcdef"))
        self.assertEqual(failure.metadata["pool_id"],
                         self.position()["pool_id"].hex())
        self.assertEqual(failure.metadata["epoch"], "1")

    def test_a_history_that_never_was_is_refused(self):
        last = ledger_end(self.server)
        for start in (after(1, epoch=2), after(last + 1000),
                      after(last + 1000, **self.position()),
                      after(2 ** 64 - 1)):
            failure = self.stream_fails("FAILED_PRECONDITION",
                                        "LEDGER_FORKED", **start)
            self.assertIn("sequence", failure.metadata)
            self.assertIn("durable_sequence", failure.metadata)

    def test_a_malformed_place_is_an_invalid_field(self):
        self.fails("INVALID_ARGUMENT", "INVALID_FIELD",
                   lambda: self.server.pool.StreamReceipts(
                       pool.StreamReceiptsRequest(
                           **after(1, pool_id=b"short")),
                       timeout=CALL_SECONDS), field="after.pool_id")

    def test_max_batch_bounds_every_message(self):
        last = self.issue(10)
        for n in (1, 3, 1024):
            subscriber = Subscriber(self.server, max_batch=n, **EARLIEST)
            subscriber.wait_sequence(last)
            subscriber.cancel()
            sizes = [len(m.receipts) for m in subscriber.messages]
            self.assertLessEqual(max(sizes), n)
            self.assertEqual(
                [r.sequence for r in subscriber.receipts][:last],
                list(range(1, last + 1)))

    def test_every_reader_gets_the_same_bytes(self):
        last = self.issue(3)
        channels = [self.server.connect() for _ in range(8)]
        readers = [Subscriber(self.server, channel, **EARLIEST)
                   for channel in channels]
        copies = set()
        for reader in readers:
            reader.wait_sequence(last)
            reader.cancel()
            copies.add(tuple(r.SerializeToString(deterministic=True)
                             for r in reader.receipts[:last]))
        for channel in channels:
            channel.close()
        self.assertEqual(len(copies), 1)

    def test_an_idle_stream_is_told_where_it_is(self):
        last = self.issue()
        subscriber = Subscriber(self.server, **after(last))
        subscriber.wait_for(
            lambda s: any(m.HasField("bookmark") for m in s.messages),
            "bookmark", seconds=30)
        subscriber.cancel()
        bookmark = next(m.bookmark for m in subscriber.messages
                        if m.HasField("bookmark"))
        self.assertEqual(bookmark.position.sequence, last)

    def test_manual_evictions_reconcile(self):
        for i in range(6):
            generate(self.server, text="A lantern is", session="m%d" % i,
                     max_tokens=20)
        self.evict(*(session_target("m%d" % i) for i in range(4)))
        self.evict(pool.EvictTarget(all=pool.EvictAll()))
        auditor = Auditor().add_all(read_receipts(self.server))
        self.assertGreaterEqual(auditor.evictions_by_reason[MANUAL], 6)
        self.assertEqual(auditor.statistics.used_memory_bytes, 0)


class PressureTest(ServerTest):
    """A pool of 42 blocks, for far more."""

    flags = ("--kv-cache-size-mb=2", "--enable-receipts",
             "--snapshot-interval-ms=50", "--no-receipts-log",
             "--max-batch-size=4")

    def test_room_is_made_by_the_least_recently_used_and_told(self):
        def name(i):
            return "lru-%02d" % i

        for i in range(30):
            generate(self.server, text="What is a dog?", session=name(i),
                     max_tokens=25)
            if i == 10:
                for j in range(3):  # used again: no longer the oldest
                    generate(self.server, text="A", session=name(j),
                             max_tokens=1)
        found = read_receipts(self.server)
        auditor = Auditor().add_all(found)
        self.assertGreater(auditor.evictions_by_reason[LRU], 0)
        self.assertGreater(auditor.counts["pool_snapshot"], 1)
        victims = []
        for receipt in found:
            if receipt.WhichOneof("kind") != "eviction":
                continue
            eviction = receipt.eviction
            if eviction.reason != LRU:
                continue
            victims.append(eviction.session_id)
            self.assertTrue(
                eviction.forced_by.session_id.startswith("lru-"))
            self.assertNotEqual(eviction.forced_by.session_id,
                                eviction.session_id)
        self.assertEqual(victims[:3], [name(3), name(4), name(5)])
        batches = [r.eviction_batch for r in found
                   if r.WhichOneof("kind") == "eviction_batch"]
        self.assertEqual({b.policy for b in batches if b.reason == LRU},
                         {"lru"})

    def test_without_a_cached_block_the_youngest_is_set_aside(self):
        request = dict(text="For God so loved the world", max_tokens=220)

        def fields(i):
            return dict(request, session="big-%d" % i,
                        sampling=inference.SamplingParameters(
                            temperature=1.5, seed=20 + i))

        alone = []
        for i in range(4):
            alone.append(generate(self.server, **fields(i)).ids)
            self.evict(pool.EvictTarget(all=pool.EvictAll()))
        calls = [self.server.inference.Generate(
            generate_request(**dict(fields(i), session="together-%d" % i)),
            timeout=CALL_SECONDS) for i in range(4)]
        together = [[t for m in call for t in m.token_ids] for call in calls]
        self.assertEqual(together, alone)
        if sum(map(len, alone)) > 42 * 16:
            auditor = Auditor().add_all(read_receipts(self.server))
            self.assertGreater(auditor.evictions_by_reason.get(PRESSURE, 0),
                               0)
            self.assertGreater(self.snapshot().load.preemptions_total, 0)


class ReturnTest(ServerTest):
    flags = ("--kv-cache-size-mb=8", "--enable-receipts",
             "--snapshot-interval-ms=0")

    def last(self, kind):
        found = [r for r in read_receipts(self.server)
                 if r.WhichOneof("kind") == kind]
        return found[-1] if found else None

    def test_what_an_eviction_cost_is_told_when_its_session_comes_back(self):
        self.generate(text="What is a dog?", session="back", tenant="t",
                      max_tokens=20)
        eviction = self.evict(session_target("back", tenant="t")).outcomes[0]
        self.assertIsNone(self.last("recomputation"))
        usage = self.generate(text=" And a cat?", session="back", tenant="t",
                              max_tokens=2).usage
        told = self.last("recomputation").recomputation
        self.assertEqual((told.session_id, told.tenant), ("back", "t"))
        self.assertEqual(told.eviction_sequence, eviction.sequence)
        self.assertEqual(told.reason, MANUAL)
        self.assertEqual(told.tokens_recomputed, usage.recomputed_tokens)
        self.assertEqual(told.blocks_recomputed, eviction.blocks_freed)
        self.assertGreater(told.gap_ns, 0)
        self.assertGreater(told.duration_ns, 0)
        # It is told once, and not where nothing was lost.
        self.generate(text=" And?", session="back", tenant="t", max_tokens=2)
        self.assertEqual(self.last("recomputation").recomputation, told)
        Auditor().add_all(read_receipts(self.server))

    def test_who_is_set_aside_comes_back_too(self):
        call = self.server.inference.Generate(
            generate_request(text="For God so loved", session="aside",
                             max_tokens=200), timeout=CALL_SECONDS)
        for message in call:
            if message.token_ids:
                break
        answer = self.evict(session_target("aside"), preempt=True)
        list(call)
        told = self.last("recomputation").recomputation
        self.assertEqual(told.eviction_sequence, answer.outcomes[0].sequence)
        self.assertEqual(told.session_id, "aside")


class AllocationTest(ServerTest):
    flags = ("--kv-cache-size-mb=8", "--enable-receipts",
             "--receipts-allocations", "--snapshot-interval-ms=0")

    def test_every_block_that_comes_or_goes_has_a_receipt(self):
        for session in ("", "a", "", "b", "a"):
            self.generate(text="What is a dog? " * 4, session=session,
                          max_tokens=30)
        self.evict(session_target("a"))
        self.generate(text="Again", session="a", max_tokens=3)
        found = read_receipts(self.server)
        Auditor().add_all(found)
        held = {}
        for receipt in found:
            kind = receipt.WhichOneof("kind")
            body = getattr(receipt, kind)
            if kind not in ("allocation", "release", "eviction"):
                continue
            self.assertEqual(body.before.used_memory_bytes,
                             sum(held.values()))
            for extent in body.extents:
                for offset in range(extent.offset,
                                    extent.offset + extent.size, 64):
                    if kind == "allocation":
                        self.assertNotIn(offset, held)
                        held[offset] = 64
                    else:
                        del held[offset]
            self.assertEqual(body.after.used_memory_bytes,
                             sum(held.values()))
        kinds = [r.WhichOneof("kind") for r in found]
        self.assertGreaterEqual(kinds.count("release"), 2)
        self.assertEqual(kinds.count("recomputation"), 1)
        self.assertGreater(kinds.count("allocation"), 8)


class TtlTest(ServerTest):
    flags = ("--kv-cache-size-mb=8", "--enable-receipts",
             "--snapshot-interval-ms=0")

    def wait_evicted(self, session):
        return wait_until(
            lambda: next((r.eviction for r in read_receipts(self.server)
                          if r.WhichOneof("kind") == "eviction" and
                          r.eviction.session_id == session), None),
            "an eviction of " + session)

    def test_an_idle_session_goes_when_its_time_is_over_and_no_other(self):
        second = 10 ** 9
        generate(self.server, text="A", session="stays", max_tokens=2)
        out = generate(
            self.server, text="What is a dog?", session="goes", max_tokens=2,
            retention=common.RetentionSettings(
                idle_ttl=common.DurationSetting(duration_ns=second // 2)))
        self.assertEqual(out.reason, "MAX_TOKENS")
        eviction = self.wait_evicted("goes")
        self.assertEqual(eviction.reason, TTL)
        self.assertIsNone(eviction.WhichOneof("cause"))
        # The time counts from the last access, which is a call's beginning.
        self.assertGreaterEqual(eviction.idle_ns + out.usage.total_ns,
                                second // 2)
        self.assertFalse(eviction.preempted)
        auditor = Auditor().add_all(read_receipts(self.server))
        self.assertEqual(auditor.evictions_by_reason, {TTL: 1})
        again = generate(self.server, text="A", session="goes", max_tokens=2)
        self.assertFalse(again.started.created)
        self.assertGreater(again.usage.recomputed_tokens, 0)


class DefaultTtlTest(ServerTest):
    flags = ("--kv-cache-size-mb=8", "--enable-receipts",
             "--session-idle-ttl-s=1")

    def test_sessions_start_with_the_configured_time_to_live(self):
        generate(self.server, text="What is a dog?", session="s",
                 max_tokens=2)
        subscriber = Subscriber(self.server, **EARLIEST)
        subscriber.wait_for(lambda s: "eviction" in s.kinds(), "eviction")
        subscriber.cancel()
        eviction, = [r.eviction for r in subscriber.receipts
                     if r.WhichOneof("kind") == "eviction"]
        self.assertEqual((eviction.session_id, eviction.reason), ("s", TTL))


class OffTest(ServerTest):
    flags = ("--kv-cache-size-mb=8",)

    def test_a_stream_of_nothing_is_refused_and_the_switch_named(self):
        failure = self.fails(
            "FAILED_PRECONDITION", "RECEIPTS_OFF",
            lambda: self.server.pool.StreamReceipts(
                pool.StreamReceiptsRequest(), timeout=CALL_SECONDS))
        self.assertEqual(failure.metadata, {"option": "enable_receipts"})


class LimitTest(ServerTest):
    flags = ("--kv-cache-size-mb=8", "--enable-receipts",
             "--max-subscribers=2")

    def test_one_subscriber_too_many_is_refused_with_the_limit(self):
        first, second = (Subscriber(self.server) for _ in range(2))
        for subscriber in (first, second):
            subscriber.wait_for(lambda s: s.messages, "bookmark")
        failure = self.fails(
            "RESOURCE_EXHAUSTED", "TOO_MANY_SUBSCRIBERS",
            lambda: self.server.pool.StreamReceipts(
                pool.StreamReceiptsRequest(), timeout=CALL_SECONDS))
        self.assertEqual(failure.metadata, {"limit": "2"})
        first.cancel()

        def let_in():
            third = Subscriber(self.server)
            try:
                third.wait_for(lambda s: s.messages, "bookmark")
                return third
            except AssertionError:
                self.assertEqual(third.error.reason, "TOO_MANY_SUBSCRIBERS")
                return None

        third = wait_until(let_in, "let in")
        second.cancel()
        third.cancel()


class CallsTest(ServerTest):
    flags = ("--kv-cache-size-mb=8", "--enable-receipts", "--max-calls=4")

    def test_one_call_too_many_is_refused_with_the_limit(self):
        open_streams = [Subscriber(self.server) for _ in range(4)]
        for subscriber in open_streams:
            subscriber.wait_for(lambda s: s.messages, "bookmark")
        failure = self.fails("RESOURCE_EXHAUSTED", "TOO_MANY_CALLS",
                             self.snapshot)
        self.assertEqual(failure.metadata, {"limit": "4"})
        for subscriber in open_streams:
            subscriber.cancel()

        def let_in():
            try:
                return self.snapshot()
            except grpc.RpcError as error:
                self.assertEqual(Failure(error).reason, "TOO_MANY_CALLS")
                return None

        wait_until(let_in, "calls given back")


class StallTest(ServerTest):
    flags = ("--kv-cache-size-mb=8", "--enable-receipts",
             "--no-receipts-log", "--subscriber-stall-ms=500",
             "--snapshot-interval-ms=0")

    def test_who_takes_nothing_is_cut_off_and_resumes_without_a_loss(self):
        channel = self.server.connect(**{
            "grpc.http2.lookahead_bytes": 1024, "grpc.http2.bdp_probe": 0})
        call = pool_grpc.KvPoolServiceStub(channel).StreamReceipts(
            pool.StreamReceiptsRequest(max_batch=1, **EARLIEST),
            timeout=CALL_SECONDS)
        seen = next(call).receipts[0].sequence
        targets = [session_target("nobody-%03d" % i + "x" * 100)
                   for i in range(256)]
        for _ in range(200):
            self.evict(*targets)
        wait_until(lambda: self.server.log(
            msg="subscriber stalled, disconnected"), "cut off")
        with self.assertRaises(grpc.RpcError) as caught:
            for message in call:
                for receipt in message.receipts:
                    self.assertEqual(receipt.sequence, seen + 1)
                    seen = receipt.sequence
        self.assertEqual(caught.exception.code(),
                         grpc.StatusCode.RESOURCE_EXHAUSTED)
        channel.close()
        last = ledger_end(self.server)
        self.assertLess(seen, last)
        self.assertEqual(
            [r.sequence for r in read_receipts(self.server, seen + 1)],
            list(range(seen + 1, last + 1)))


class RingTest(ServerTest):
    """A ring of 1 MiB, overrun."""

    flags = ("--kv-cache-size-mb=8", "--enable-receipts",
             "--receipts-ring-mb=1", "--snapshot-interval-ms=0",
             "--no-receipts-log", "--subscriber-stall-ms=86400000")

    # Each call leaves a batch receipt with 200 outcomes: some 10 KiB.
    def overrun(self):
        targets = [session_target("nobody-%03d" % i + "x" * 100)
                   for i in range(200)]
        while self.snapshot().ledger.oldest_sequence < 5:
            self.evict(*targets)

    def test_what_left_the_ring_is_missed_with_words_not_silently(self):
        stalled = self.server.pool.StreamReceipts(
            pool.StreamReceiptsRequest(max_batch=1, **EARLIEST),
            timeout=CALL_SECONDS)
        next(stalled)
        self.overrun()
        oldest = self.snapshot().ledger.oldest_sequence
        failure = self.fails(
            "OUT_OF_RANGE", "SEQUENCE_EXPIRED",
            lambda: self.server.pool.StreamReceipts(
                pool.StreamReceiptsRequest(**after(1)),
                timeout=CALL_SECONDS))
        self.assertEqual(failure.metadata["oldest_sequence"], str(oldest))
        self.assertEqual(set(failure.metadata),
                         {"sequence", "oldest_sequence", "durable_sequence",
                          "epoch"})
        subscriber = Subscriber(self.server, **EARLIEST)
        subscriber.wait_sequence(ledger_end(self.server))
        subscriber.cancel()
        self.assertEqual(subscriber.receipts[0].sequence, oldest)
        stalled.cancel()

    def test_a_reader_that_fell_behind_is_told_how_far_it_came(self):
        channel = self.server.connect(**{
            "grpc.http2.lookahead_bytes": 1024, "grpc.http2.bdp_probe": 0})
        call = pool_grpc.KvPoolServiceStub(channel).StreamReceipts(
            pool.StreamReceiptsRequest(
                max_batch=1,
                **after(self.snapshot().ledger.oldest_sequence)),
            timeout=CALL_SECONDS)
        first = next(call).receipts[0].sequence
        targets = [session_target("nobody-%03d" % i + "x" * 100)
                   for i in range(256)]
        for _ in range(400):  # some 12 MiB: more than windows and ring hold
            self.evict(*targets)
        seen = first
        with self.assertRaises(grpc.RpcError) as caught:
            for message in call:
                for receipt in message.receipts:
                    self.assertEqual(receipt.sequence, seen + 1)
                    seen = receipt.sequence
        failure = Failure(caught.exception)
        self.assertEqual((failure.code, failure.reason),
                         ("DATA_LOSS", "FELL_BEHIND"), repr(failure))
        self.assertEqual(failure.metadata["sequence"], str(seen))
        self.assertGreater(int(failure.metadata["oldest_sequence"]), seen + 1)
        channel.close()


class EndTest(unittest.TestCase):
    """What the last receipts and messages of an epoch are."""

    flags = ("--kv-cache-size-mb=8", "--enable-receipts",
             "--snapshot-interval-ms=0")

    def test_stopping_is_told_in_a_receipt_and_closes_every_stream(self):
        with Kvpoold(*self.flags) as server:
            generate(server, text="What is a dog?", session="s",
                     max_tokens=2)
            last = ledger_end(server)
            earliest = Subscriber(server, **EARLIEST)
            latest = Subscriber(server, **LATEST)
            earliest.wait_sequence(last)
            latest.wait_for(lambda s: s.messages, "bookmark")
            server.signal(signal.SIGTERM)
            for subscriber in (earliest, latest):
                subscriber.wait_end()
                self.assertIsNone(subscriber.error)
                closing = subscriber.messages[-1].closing
                self.assertEqual(closing.reason,
                                 pool.CLOSING_REASON_SHUTDOWN)
                self.assertEqual(closing.position.sequence,
                                 subscriber.receipts[-1].sequence)
            found = earliest.receipts
            changes = [r.lifecycle.WhichOneof("change") for r in found
                       if r.WhichOneof("kind") == "lifecycle"]
            self.assertEqual(changes, ["boot", "drain"])
            drain = [r.lifecycle.drain for r in found
                     if r.lifecycle.WhichOneof("change") == "drain"][0]
            self.assertEqual(drain.cause, "SIGTERM")
            self.assertEqual(drain.limit_ns, 10 ** 10)
            self.assertEqual(found[-1].WhichOneof("kind"), "pool_snapshot")
            Auditor().add_all(found)
            self.assertEqual(server.wait(), 0)
            server.check_lines()

    def test_a_restart_without_a_journal_is_another_ledger(self):
        with Kvpoold(*self.flags) as server:
            first = server.pool.Snapshot(
                pool.SnapshotRequest(), timeout=CALL_SECONDS).snapshot.stamp
        with Kvpoold(*self.flags) as server:
            second = server.pool.Snapshot(
                pool.SnapshotRequest(), timeout=CALL_SECONDS).snapshot.stamp
        self.assertNotEqual(first.pool_id, second.pool_id)

    def test_a_request_that_runs_when_the_server_stops_gets_an_end(self):
        with Kvpoold("--kv-cache-size-mb=8",
                     "--drain-limit-ms=30000") as server:
            call = server.inference.Generate(generate_request(
                text="What is a dog?", max_tokens=20), timeout=CALL_SECONDS)
            messages = [next(call)]
            server.signal(signal.SIGTERM)
            messages.extend(call)
            self.assertTrue(messages[-1].HasField("finished"))
            self.assertEqual(server.wait(), 0)
            server.check_lines()

    def test_every_receipt_is_in_the_log_if_asked_for(self):
        with Kvpoold("--receipts-log", *self.flags) as server:
            generate(server, text="What is a dog?", session="logged",
                     max_tokens=2)
            server.pool.Evict(pool.EvictRequest(
                targets=[session_target("logged")]), timeout=CALL_SECONDS)
        lines = server.log(target="kvpool::kv::receipts",
                           kv_event="eviction")
        self.assertEqual(len(lines), 1, server.tail())
        line, = lines
        self.assertEqual((line["session_id"], line["reason"]),
                         ("logged", "Manual"))
        self.assertLessEqual(
            {"block_offset", "block_size_bytes", "before_sessions",
             "after_sessions", "before_mem_mb", "after_mem_mb", "has_perf",
             "sequence"}, set(line))


if __name__ == "__main__":
    main()
