"""Evict: who loses blocks, what is answered, what is recorded."""
import threading
import time

from kvpool_e2e import (CALL_SECONDS, Generated, ServerTest, common,
                        generate_request, inference, ledger_end, main,
                        pool, read_receipts, session_target)

EVICTED, NOT_FOUND, PINNED, BUSY, NOTHING_TO_FREE = 1, 2, 3, 4, 5
ALL = pool.EvictTarget(all=pool.EvictAll())
LONG = dict(text="For God so loved the world", max_tokens=300,
            sampling=inference.SamplingParameters(temperature=1.5, seed=11))


class Running:
    """A long Generate call that is known to be in generation."""

    def __init__(self, test, session, **fields):
        fields = dict(LONG, session=session, **fields)
        self._call = test.server.inference.Generate(
            generate_request(**fields), timeout=CALL_SECONDS)
        self._messages = []
        self._first = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        if not self._first.wait(CALL_SECONDS):
            raise AssertionError("no token came")

    def _read(self):
        try:
            for message in self._call:
                self._messages.append(message)
                if message.token_ids:
                    self._first.set()
        finally:
            self._first.set()

    def result(self):
        self._thread.join(CALL_SECONDS)
        return Generated(self._messages)

    def cancel(self):
        self._call.cancel()
        self._thread.join(CALL_SECONDS)


class EvictCase(ServerTest):
    flags = ("--kv-cache-size-mb=24", "--enable-receipts",
             "--snapshot-interval-ms=0")

    def tearDown(self):
        self.evict(ALL, preempt=True)

    def pin(self, session, seconds):
        self.server.pool.SetRetention(
            pool.SetRetentionRequest(changes=[pool.RetentionChange(
                session=common.SessionKey(session_id=session),
                settings=common.RetentionSettings(pin=common.DurationSetting(
                    duration_ns=seconds * 10 ** 9)))]),
            timeout=CALL_SECONDS)

    def make(self, *sessions, tenant=""):
        for session in sessions:
            self.generate(text="What is a dog?", session=session,
                          tenant=tenant, max_tokens=3)

    def receipts_of(self, answer):
        first, last = (answer.receipts.first_sequence,
                       answer.receipts.last_sequence)
        found = [r for r in read_receipts(self.server, first)
                 if r.sequence <= last]
        self.assertEqual([r.sequence for r in found],
                         list(range(first, last + 1)))
        return found


class EvictTest(EvictCase):
    def test_a_session_loses_its_blocks_and_keeps_its_tokens(self):
        self.make("victim")
        before = self.snapshot()
        answer = self.evict(session_target("victim"))
        outcome, = answer.outcomes
        self.assertEqual((outcome.target, outcome.session.session_id,
                          outcome.result), (0, "victim", EVICTED))
        self.assertEqual(outcome.blocks_freed, 1)
        self.assertEqual(outcome.bytes_freed, before.blocks.block_bytes)
        self.assertGreater(outcome.tokens_kept, 0)
        self.assertFalse(outcome.preempted)
        self.assertEqual((answer.sessions_evicted, answer.bytes_freed,
                          answer.more, answer.dry_run, answer.replayed),
                         (1, outcome.bytes_freed, False, False, False))
        after = self.snapshot()
        self.assertEqual(
            before.statistics.used_memory_bytes -
            after.statistics.used_memory_bytes, answer.bytes_freed)
        self.assertEqual(
            after.statistics.evictions - before.statistics.evictions, 1)

    def test_who_is_not_there_or_holds_nothing_is_an_outcome(self):
        self.make("once")
        self.evict(session_target("once"))
        before = self.snapshot().statistics
        answer = self.evict(session_target("once"), session_target("nobody"),
                            session_target("once", tenant="other"))
        self.assertEqual([o.result for o in answer.outcomes],
                         [NOTHING_TO_FREE, NOT_FOUND, NOT_FOUND])
        self.assertEqual([o.target for o in answer.outcomes], [0, 1, 2])
        self.assertEqual([o.sequence for o in answer.outcomes], [0, 0, 0])
        self.assertEqual((answer.sessions_evicted, answer.bytes_freed),
                         (0, 0))
        self.assertEqual(self.snapshot().statistics, before)

    def test_a_call_without_a_victim_leaves_its_batch_receipt(self):
        answer = self.evict(session_target("nobody"))
        self.assertEqual(answer.receipts.first_sequence,
                         answer.receipts.last_sequence)
        batch, = self.receipts_of(answer)
        self.assertEqual(batch.WhichOneof("kind"), "eviction_batch")
        batch = batch.eviction_batch
        self.assertEqual((batch.count, batch.total_bytes_freed,
                          batch.first_sequence, batch.last_sequence),
                         (0, 0, 0, 0))
        self.assertEqual(batch.reason, common.EVICTION_REASON_MANUAL)
        self.assertTrue(batch.HasField("call"))
        self.assertEqual((batch.call.number, batch.call.final), (1, True))
        self.assertEqual(batch.call.requested_by, "anonymous")

    def test_a_call_names_its_receipts_and_they_name_it(self):
        self.make("a", "b")
        answer = self.evict(session_target("b"), session_target("a"))
        found = self.receipts_of(answer)
        self.assertEqual([r.WhichOneof("kind") for r in found],
                         ["eviction", "eviction", "eviction_batch"])
        self.assertEqual([r.eviction.session_id for r in found[:2]],
                         ["b", "a"])
        self.assertEqual([o.sequence for o in answer.outcomes],
                         [r.sequence for r in found[:2]])
        for receipt, outcome in zip(found, answer.outcomes):
            eviction = receipt.eviction
            self.assertEqual(eviction.reason, common.EVICTION_REASON_MANUAL)
            self.assertEqual(eviction.requested_by, "anonymous")
            self.assertEqual(eviction.block_size_bytes, outcome.bytes_freed)
            self.assertEqual(eviction.blocks_freed, outcome.blocks_freed)
            self.assertEqual(eviction.tokens_kept, outcome.tokens_kept)
            self.assertTrue(eviction.zeroed)
        self.assertEqual(list(found[2].eviction_batch.call.outcomes),
                         list(answer.outcomes))
        self.assertFalse(answer.receipts.durable)  # they are in memory
        self.assertEqual(answer.receipts.pool_id, found[0].pool_id)
        self.assertEqual(answer.receipts.epoch, found[0].epoch)
        self.assertGreaterEqual(ledger_end(self.server),
                                answer.receipts.last_sequence)

    def test_the_first_target_that_names_a_session_decides(self):
        self.make("twice")
        answer = self.evict(session_target("twice"), session_target("twice"),
                            pool.EvictTarget(tenant=""))
        self.assertEqual([(o.target, o.result) for o in answer.outcomes
                          if o.session.session_id == "twice"],
                         [(0, EVICTED)])
        self.assertEqual(answer.sessions_evicted, 1)

    def test_a_tenant_is_all_its_sessions_and_no_others(self):
        self.make("x", "y", tenant="t1")
        self.make("x", "z", tenant="t2")
        answer = self.evict(pool.EvictTarget(tenant="t1"))
        self.assertEqual(
            sorted((o.session.tenant, o.session.session_id, o.result)
                   for o in answer.outcomes),
            [("t1", "x", EVICTED), ("t1", "y", EVICTED)])
        self.assertEqual(self.evict(session_target("x", "t2")
                                    ).sessions_evicted, 1)
        answer = self.evict(pool.EvictTarget(tenant="no such tenant"))
        outcome, = answer.outcomes
        self.assertEqual(outcome.result, NOT_FOUND)
        self.assertFalse(outcome.HasField("session"))

    def test_all_is_everybody_and_the_pool_is_empty_then(self):
        self.make("p", "q")
        self.make("r", tenant="t")
        answer = self.evict(ALL)
        self.assertEqual(answer.sessions_evicted, 3)
        self.assertEqual({o.result for o in answer.outcomes}, {EVICTED})
        blocks = self.snapshot().blocks
        self.assertEqual((blocks.pinned, blocks.cached), (0, 0))

    def test_max_sessions_stops_and_says_that_there_is_more(self):
        self.make("m1", "m2", "m3")
        answer = self.evict(ALL, max_sessions=2)
        self.assertEqual((answer.sessions_evicted, answer.more), (2, True))
        answer = self.evict(ALL, max_sessions=2)
        self.assertEqual((answer.sessions_evicted, answer.more), (1, False))

    def test_a_running_session_is_busy_and_keeps_its_blocks(self):
        running = Running(self, "busy")
        answer = self.evict(session_target("busy"))
        outcome, = answer.outcomes
        self.assertEqual(outcome.result, BUSY)
        self.assertEqual((answer.sessions_evicted, answer.sessions_busy),
                         (0, 1))
        answer = self.evict(ALL)
        self.assertEqual((answer.sessions_evicted, answer.sessions_busy),
                         (0, 1))
        self.assertEqual(running.result().usage.preemptions, 0)

    def test_preempting_costs_a_pause_and_no_token(self):
        undisturbed = self.generate(**LONG)
        running = Running(self, "preempted")
        answer = self.evict(session_target("preempted"), preempt=True)
        outcome, = answer.outcomes
        self.assertEqual((outcome.result, outcome.preempted),
                         (EVICTED, True))
        receipt = self.receipts_of(answer)[0].eviction
        self.assertTrue(receipt.preempted)
        self.assertEqual(receipt.idle_ns, 0)
        out = running.result()
        self.assertEqual(out.ids, undisturbed.ids)
        self.assertEqual(out.text, undisturbed.text)
        self.assertGreaterEqual(out.usage.preemptions, 1)
        self.assertGreater(out.usage.recomputed_tokens, 0)

    def test_an_answer_that_waits_for_less_says_what_it_waited_for(self):
        self.make("wait")
        answer = self.evict(session_target("wait"),
                            wait=pool.EVICT_WAIT_APPLIED)
        self.assertEqual(answer.sessions_evicted, 1)
        self.assertGreater(answer.receipts.last_sequence, 0)
        self.make("wait")
        answer = self.evict(session_target("wait"),
                            wait=pool.EVICT_WAIT_DURABLE)
        self.assertGreaterEqual(ledger_end(self.server),
                                answer.receipts.last_sequence)

    def test_the_trace_of_the_caller_is_in_the_receipts(self):
        self.make("traced")
        answer = self.server.pool.Evict(
            pool.EvictRequest(targets=[session_target("traced")]),
            timeout=CALL_SECONDS,
            metadata=[("traceparent", "00-0af7651916cd43dd8448eb211c80319c-"
                       "b7ad6b7169203331-01")])
        for receipt in self.receipts_of(answer):
            self.assertEqual(receipt.trace_id.hex(),
                             "0af7651916cd43dd8448eb211c80319c")
        self.make("untraced")
        for receipt in self.receipts_of(self.evict(
                session_target("untraced"))):
            self.assertEqual(receipt.trace_id, b"")


def prefix_target(ids, tenant=""):
    return pool.EvictTarget(
        prefix=pool.EvictPrefix(tenant=tenant, token_ids=ids))


def idle_target(seconds, *tenants):
    return pool.EvictTarget(idle=pool.EvictIdle(
        longer_than_ns=int(seconds * 10 ** 9), tenants=tenants))


def bytes_target(n, *tenants):
    return pool.EvictTarget(bytes=pool.EvictBytes(
        at_least_bytes=n, tenants=tenants))


class PlaceTest(EvictCase):
    flags = EvictCase.flags + ("--max-sessions=2",)

    def test_who_goes_for_a_new_session_is_forced_by_it_and_its_trace(self):
        self.make("first", "second")
        before = ledger_end(self.server)
        list(self.server.inference.Generate(
            generate_request(text="What is a cat?", session="third",
                             max_tokens=3), timeout=CALL_SECONDS,
            metadata=[("traceparent", "00-0af7651916cd43dd8448eb211c80319c-"
                       "b7ad6b7169203331-01")]))
        eviction, batch = [
            receipt for receipt in read_receipts(self.server, before + 1)
            if receipt.WhichOneof("kind").startswith("eviction")]
        self.assertEqual((eviction.eviction.session_id,
                          eviction.eviction.forced_by.session_id),
                         ("first", "third"))
        for receipt in (eviction, batch):
            self.assertEqual(receipt.trace_id.hex(),
                             "0af7651916cd43dd8448eb211c80319c")


class TargetTest(EvictCase):
    """Whom the targets name that are about more than a name."""

    def names(self, answer):
        return [(o.session.tenant, o.session.session_id)
                for o in answer.outcomes if o.result == EVICTED]

    def make_tokens(self, session, ids, tenant=""):
        self.generate(ids=ids, session=session, tenant=tenant, max_tokens=2)

    def test_a_prefix_is_who_begins_so_and_nobody_of_another_tenant(self):
        common_ids = [1] + list(range(100, 120))
        self.make_tokens("a", common_ids + [200])
        self.make_tokens("b", common_ids + [201])
        self.make_tokens("c", [1] + list(range(101, 122)))
        self.make_tokens("a", common_ids + [200], tenant="t")
        self.assertEqual(self.names(self.evict(prefix_target(
            common_ids + [201]))), [("", "b")])
        self.assertEqual(self.names(self.evict(prefix_target(common_ids))),
                         [("", "a")])
        self.assertEqual(self.names(self.evict(prefix_target(
            common_ids, "t"))), [("t", "a")])
        outcome, = self.evict(prefix_target(
            common_ids + list(range(300, 900)))).outcomes
        self.assertEqual(outcome.result, NOT_FOUND)
        self.assertFalse(outcome.HasField("session"))

    def test_idle_is_who_rests_for_longer(self):
        # A machine that pauses makes everybody idle: then once more, for longer.
        for seconds in (0.4, 4, 40):
            self.make("old")
            self.make("old", tenant="t")
            time.sleep(seconds)
            began = time.monotonic()
            self.make("new")
            running = Running(self, "busy")
            outcome, = self.evict(idle_target(3600)).outcomes
            self.assertEqual(outcome.result, NOT_FOUND)
            answer = self.evict(idle_target(seconds, "t", "t", "nobody"))
            self.assertEqual(self.names(answer), [("t", "old")])
            answer = self.evict(idle_target(seconds), preempt=True)
            running.cancel()
            if time.monotonic() - began < seconds:
                break
        self.assertEqual(self.names(answer), [("", "old")])
        self.assertEqual(answer.sessions_busy, 0)

    def test_bytes_are_taken_from_the_least_recently_used(self):
        self.make("z", "y")
        self.make("x", tenant="t")
        self.make("w")
        self.make("z")
        block = self.snapshot().blocks.block_bytes
        answer = self.evict(bytes_target(block + 1))
        self.assertEqual(self.names(answer), [("", "y"), ("t", "x")])
        self.assertEqual(answer.bytes_freed, 2 * block)
        self.make("x", tenant="t")
        answer = self.evict(bytes_target(1, "t", "u"))
        self.assertEqual(self.names(answer), [("t", "x")])
        answer = self.evict(bytes_target(2 ** 63))
        self.assertEqual(self.names(answer), [("", "w"), ("", "z")])
        outcome, = self.evict(bytes_target(1)).outcomes
        self.assertEqual(outcome.result, NOT_FOUND)

    def test_bytes_that_several_share_go_with_the_last_of_them(self):
        ids = [1] + list(range(100, 147))
        for session in ("s1", "s2"):
            self.generate(ids=ids, session=session, max_tokens=1)
        self.evict(session_target("nobody"))
        before = self.snapshot().statistics.used_memory_bytes
        answer = self.evict(bytes_target(before))
        self.assertEqual(answer.bytes_freed, before)
        self.assertEqual(sorted(self.names(answer)),
                         [("", "s1"), ("", "s2")])

    def test_a_dry_run_of_each_target_says_what_is_done_then(self):
        ids = [7]
        for target in (prefix_target(ids), idle_target(1e-9),
                       bytes_target(1), bytes_target(2 ** 40), ALL):
            for i in range(3):
                self.make_tokens("d%d" % i, [ids[0], 200 + i] * 20)
            before = self.snapshot().statistics
            dry = self.evict(target, bytes_target(1), dry_run=True)
            self.assertEqual(self.snapshot().statistics, before)
            wet = self.evict(target, bytes_target(1))
            self.assertGreater(wet.sessions_evicted, 0)
            for outcome in wet.outcomes:
                outcome.sequence = 0
            self.assertEqual(list(dry.outcomes), list(wet.outcomes))
            self.assertEqual((dry.sessions_evicted, dry.bytes_freed),
                             (wet.sessions_evicted, wet.bytes_freed))
            self.evict(ALL)

    def test_what_bytes_took_is_no_later_target_s(self):
        self.make("one")
        answer = self.evict(bytes_target(1), session_target("one"),
                            pool.EvictTarget(tenant=""))
        self.assertEqual([(o.target, o.session.session_id)
                          for o in answer.outcomes if o.result == EVICTED],
                         [(0, "one")])

    def test_forgetting_takes_the_tokens_too(self):
        self.make("f1", "f2", "f3", "f4")
        answer = self.evict(session_target("f1"), forget=True)
        outcome, = answer.outcomes
        self.assertEqual((outcome.result, outcome.tokens_kept), (EVICTED, 0))
        receipt = self.receipts_of(answer)[0].eviction
        self.assertEqual(receipt.tokens_kept, 0)
        outcome, = self.evict(session_target("f1")).outcomes
        self.assertEqual(outcome.result, NOT_FOUND)

        outcome, = self.evict(session_target("f2")).outcomes
        self.assertGreater(outcome.tokens_kept, 0)
        dry, = self.evict(session_target("f2"), forget=True,
                          dry_run=True).outcomes
        outcome, = self.evict(session_target("f2"), forget=True).outcomes
        self.assertEqual(dry, outcome)
        self.assertEqual((outcome.result, outcome.tokens_kept),
                         (NOTHING_TO_FREE, 0))
        outcome, = self.evict(session_target("f2")).outcomes
        self.assertEqual(outcome.result, NOT_FOUND)

        self.evict(session_target("f3"))
        answer = self.evict(pool.EvictTarget(tenant=""), forget=True)
        self.assertEqual(self.names(answer), [("", "f4")])
        self.assertFalse(self.server.pool.ListSessions(
            pool.ListSessionsRequest(
                filter=pool.SessionFilter(tenants=[""])),
            timeout=CALL_SECONDS).sessions)

    def test_who_had_tokens_only_is_counted_as_forgotten_and_once(self):
        self.evict(ALL, forget=True)
        self.make("g1", "g2", "g3", "held")
        self.evict(pool.EvictTarget(tenant=""))
        self.pin("held", 60)
        targets = (session_target("g1"), session_target("g1"), ALL,
                   pool.EvictTarget(tenant=""))
        idle = self.evict(*targets)
        self.assertEqual((idle.sessions_evicted, idle.sessions_forgotten),
                         (0, 0))
        dry = self.evict(*targets, forget=True, dry_run=True)
        answer = self.evict(*targets, forget=True, request_id="forget")
        for found in (dry, answer):
            self.assertEqual((found.sessions_evicted,
                              found.sessions_forgotten, found.sessions_held),
                             (0, 3, 1))
            self.assertEqual([o.result for o in found.outcomes],
                             [NOTHING_TO_FREE])
        batch = self.receipts_of(answer)[-1].eviction_batch
        self.assertEqual(batch.call.sessions_forgotten, 3)
        again = self.evict(*targets, forget=True, request_id="forget")
        self.assertTrue(again.replayed)
        self.assertEqual(again.sessions_forgotten, 3)
        self.assertEqual(self.evict(ALL, forget=True).sessions_forgotten, 0)
        self.pin("held", 0)
        self.assertEqual(self.evict(ALL, forget=True).sessions_forgotten, 1)

    def test_a_running_session_keeps_its_tokens_even_then(self):
        undisturbed = self.generate(**LONG)
        running = Running(self, "kept")
        answer = self.evict(session_target("kept"), preempt=True, forget=True)
        outcome, = answer.outcomes
        self.assertTrue(outcome.preempted)
        self.assertGreater(outcome.tokens_kept, 0)
        self.assertEqual(running.result().ids, undisturbed.ids)

    def test_targets_that_say_nothing_are_named(self):
        many = ["t%d" % i for i in range(65)]
        for field, given, target in (
                ("targets[0].target", "none", pool.EvictTarget()),
                ("targets[0].prefix.token_ids", "0", prefix_target([])),
                ("targets[0].prefix.tenant", "129",
                 prefix_target([1], "t" * 129)),
                ("targets[0].idle.longer_than_ns", "0", idle_target(0)),
                ("targets[0].idle.longer_than_ns", "-1",
                 idle_target(-1e-9)),
                ("targets[0].idle.tenants", "65", idle_target(1, *many)),
                ("targets[0].idle.tenants[1]", "control",
                 idle_target(1, "a", "\n")),
                ("targets[0].bytes.at_least_bytes", "0", bytes_target(0)),
                ("targets[0].bytes.tenants", "65", bytes_target(1, *many))):
            with self.subTest(field, given=given):
                self.fails("INVALID_ARGUMENT", "INVALID_FIELD",
                           lambda t=target: self.evict(t), field=field,
                           given=given)


class ManyTest(EvictCase):
    """More sessions than one turn has time for."""

    def test_turns_leave_no_receipt_out_and_count_none_twice(self):
        names = ["many-%04d" % i for i in range(400)]
        self.make(*names, tenant="many")
        answer = self.evict(pool.EvictTarget(tenant="many"),
                            request_id="many")
        self.assertEqual(answer.sessions_evicted, 400)
        self.assertEqual([o.session.session_id for o in answer.outcomes],
                         names)
        found = self.receipts_of(answer)
        calls = [r.eviction_batch for r in found
                 if r.WhichOneof("kind") == "eviction_batch" and
                 r.eviction_batch.call.request_id == "many"]
        self.assertEqual([b.call.number for b in calls],
                         list(range(1, len(calls) + 1)))
        self.assertEqual([b.call.final for b in calls],
                         (len(calls) - 1) * [False] + [True])
        self.assertEqual([o for b in calls for o in b.call.outcomes],
                         list(answer.outcomes))
        self.assertEqual(sum(b.count for b in calls), 400)
        self.assertEqual(sum(b.total_bytes_freed for b in calls),
                         answer.bytes_freed)


class RepeatTest(EvictCase):
    """The same request again, by its request_id."""

    def sequence(self):
        return self.snapshot().stamp.applied_sequence

    def repeated(self, *targets, **fields):
        """The answer of a repeat: nothing was done for it."""
        before = self.snapshot()
        answer = self.evict(*targets, **fields)
        self.assertTrue(answer.replayed)
        after = self.snapshot()
        self.assertEqual(after.statistics, before.statistics)
        self.assertEqual(after.stamp.applied_sequence,
                         before.stamp.applied_sequence)
        answer.replayed = False
        return answer

    def refused(self, reason, field, **fields):
        self.fails("INVALID_ARGUMENT", reason,
                   lambda: self.evict(**fields) if "targets" not in fields
                   else self.evict(*fields.pop("targets"), **fields),
                   field=field)

    def test_a_repeat_gets_the_first_answer_and_evicts_nothing(self):
        self.make("a", "b", "c")
        self.evict(session_target("c"))
        targets = [session_target(s) for s in ("b", "nobody", "c", "a")]
        first = self.evict(*targets, request_id="first")
        self.assertFalse(first.replayed)
        self.assertEqual([o.result for o in first.outcomes],
                         [EVICTED, NOT_FOUND, NOTHING_TO_FREE, EVICTED])
        self.make("a")
        self.assertEqual(self.repeated(*targets, request_id="first"), first)
        self.assertEqual(self.repeated(*targets, request_id="first"), first)
        other = self.evict(*targets, request_id="other")
        self.assertFalse(other.replayed)
        self.assertEqual([o.result for o in other.outcomes],
                         [NOTHING_TO_FREE, NOT_FOUND, NOTHING_TO_FREE,
                          EVICTED])

    def test_the_batch_receipts_carry_the_id_and_all_of_the_answer(self):
        self.make("carried")
        running = Running(self, "busy")
        answer = self.evict(ALL, request_id="carried", max_sessions=1)
        running.cancel()
        # One batch, unless the call took more than a turn of the server.
        calls = [receipt.eviction_batch.call
                 for receipt in self.receipts_of(answer)
                 if receipt.HasField("eviction_batch")]
        last = calls[-1]
        self.assertEqual({call.request_id for call in calls}, {"carried"})
        self.assertEqual([call.number for call in calls],
                         list(range(1, len(calls) + 1)))
        self.assertEqual([call.final for call in calls],
                         [False] * (len(calls) - 1) + [True])
        self.assertEqual([o for call in calls for o in call.outcomes],
                         list(answer.outcomes))
        self.assertEqual((last.more, last.sessions_held, last.sessions_busy),
                         (answer.more, answer.sessions_held,
                          answer.sessions_busy))

    def test_the_same_id_with_another_request_is_refused(self):
        self.make("once")
        self.evict(session_target("nobody"), request_id="used")
        for fields in (dict(targets=[session_target("once")]),
                       dict(targets=[session_target("nobody")],
                            preempt=True),
                       dict(targets=[session_target("nobody")],
                            max_sessions=7)):
            self.refused("REQUEST_ID_REUSED", "request_id",
                         request_id="used", **fields)
        self.assertEqual(self.evict(session_target("once")).sessions_evicted,
                         1)

    def test_an_id_is_visible_ascii_of_at_most_64_bytes(self):
        for request_id in ("x" * 65, "a b", "caf\u00e9", "a\x7f"):
            self.refused("INVALID_FIELD", "request_id",
                         targets=[session_target("nobody")],
                         request_id=request_id)
        self.evict(session_target("nobody"), request_id="~" * 64)

    def test_more_than_a_page_is_read_page_by_page(self):
        names = ["paged-%03d" % i for i in range(250)]
        self.make(*names, tenant="paged")
        target = pool.EvictTarget(tenant="paged")
        fields = dict(request_id="paged", max_sessions=1000)
        first = self.evict(target, page_size=100, **fields)
        self.assertEqual((first.sessions_evicted, len(first.outcomes)),
                         (250, 100))
        found, token = list(first.outcomes), first.next_page_token
        sizes = iter((1, 60, 1000))
        while token:
            page = self.evict(target, page_size=next(sizes),
                              page_token=token, **fields)
            self.assertTrue(page.replayed)
            self.assertEqual(page.receipts, first.receipts)
            self.assertEqual(page.sessions_evicted, 250)
            found += page.outcomes
            token = page.next_page_token
        self.assertEqual([o.session.session_id for o in found], names)
        self.assertEqual(len({o.sequence for o in found}), 250)
        batches = [r for r in self.receipts_of(first)
                   if r.WhichOneof("kind") == "eviction_batch"]
        # One for each turn of the loop that it took, and at most so long.
        self.assertGreaterEqual(len(batches), 2)
        self.assertEqual(
            [(b.eviction_batch.call.number, b.eviction_batch.call.final)
             for b in batches],
            [(n, n == len(batches)) for n in range(1, len(batches) + 1)])

    def test_a_page_token_is_good_for_its_own_request_only(self):
        self.make("p", "q", tenant="tokens")
        target = pool.EvictTarget(tenant="tokens")
        token = self.evict(target, request_id="tokens",
                           page_size=1).next_page_token
        self.evict(target, request_id="another", page_size=1)
        for fields in (dict(request_id="tokens", page_token=token[::-1]),
                       dict(request_id="tokens", page_token=token + "0"),
                       dict(request_id="tokens", page_token="x"),
                       dict(request_id="another", page_token=token),
                       dict(request_id="new", page_token=token)):
            self.refused("PAGE_TOKEN_INVALID", "page_token",
                         targets=[target], **fields)
        self.refused("INVALID_FIELD", "page_token", targets=[target],
                     page_token=token)

    def test_a_repeat_waits_for_the_first_that_is_still_undecided(self):
        running = Running(self, "slow")
        fields = dict(preempt=True, request_id="concurrent")
        calls = [self.server.pool.Evict.future(
            pool.EvictRequest(targets=[session_target("slow")], **fields),
            timeout=CALL_SECONDS) for _ in range(8)]
        answers = [call.result() for call in calls]
        self.assertEqual(sorted(a.replayed for a in answers),
                         [False] + 7 * [True])
        for answer in answers:
            answer.replayed = False
            self.assertEqual(answer, answers[0])
        self.assertEqual(answers[0].outcomes[0].result, EVICTED)
        running.result()

    def test_a_dry_run_decides_and_changes_nothing(self):
        self.make("dry", "wet")
        self.evict(session_target("wet"))
        targets = [session_target("dry"), session_target("wet"),
                   session_target("nobody")]
        before = self.snapshot()
        dry = self.evict(*targets, dry_run=True, request_id="dry")
        again = self.evict(*targets, dry_run=True, request_id="dry")
        after = self.snapshot()
        self.assertEqual(dry, again)
        self.assertEqual(after.statistics, before.statistics)
        self.assertEqual(after.stamp.applied_sequence,
                         before.stamp.applied_sequence)
        self.assertTrue(dry.dry_run)
        self.assertIsNone(dry.WhichOneof("issued"))
        wet = self.evict(*targets, request_id="dry")
        self.assertFalse(wet.replayed)
        for a, b in zip(dry.outcomes, wet.outcomes):
            b.sequence = 0
            self.assertEqual(a, b)
        self.assertEqual((dry.sessions_evicted, dry.bytes_freed),
                         (wet.sessions_evicted, wet.bytes_freed))


class ForgottenTest(ServerTest):
    flags = ("--kv-cache-size-mb=8", "--enable-receipts",
             "--max-request-ids=2")

    def test_beyond_the_configured_number_the_oldest_is_new_again(self):
        def replayed(request_id):
            return self.evict(session_target("nobody"),
                              request_id=request_id).replayed
        self.assertEqual([replayed(r) for r in "abbacba"],
                         [False, False, True, True, False, True, False])


class EvictWithoutReceiptsTest(ServerTest):
    flags = ("--kv-cache-size-mb=8",)

    def test_a_repeat_is_known_in_memory_too(self):
        self.generate(text="What is a dog?", session="r", max_tokens=2)
        first = self.evict(session_target("r"), request_id="r")
        self.generate(text="What is a dog?", session="r", max_tokens=2)
        again = self.evict(session_target("r"), request_id="r")
        self.assertEqual((first.replayed, again.replayed), (False, True))
        again.replayed = False
        self.assertEqual(again, first)
        self.assertEqual(again.WhichOneof("issued"), "receipts_off")

    def test_it_is_done_and_said_not_to_be_recorded(self):
        self.generate(text="What is a dog?", session="s", max_tokens=2)
        answer = self.evict(session_target("s"))
        self.assertEqual(answer.sessions_evicted, 1)
        self.assertEqual(answer.WhichOneof("issued"), "receipts_off")
        self.assertEqual(answer.receipts_off.option, "enable_receipts")
        self.assertEqual(answer.outcomes[0].sequence, 0)
        self.assertFalse(self.snapshot().HasField("stamp"))
        self.assertEqual(self.server.log(target="kvpool::kv::receipts"), [])


if __name__ == "__main__":
    main()
