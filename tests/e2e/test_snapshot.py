"""Snapshot and ListSessions: sums that hold, pages that miss nobody."""
import threading

from kvpool_e2e import (CALL_SECONDS, ServerTest, common, ledger_end, main,
                        pool, session_target, stats)


def stats_section(name):
    return pool.SnapshotSection.Value("SNAPSHOT_SECTION_" + name)


class SnapshotTest(ServerTest):
    flags = ("--kv-cache-size-mb=6", "--enable-receipts",
             "--max-batch-size=4")

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        for tenant, n in (("", 3), ("a", 5), ("b", 2)):
            for i in range(n):
                cls.generate(cls, text="What is a dog?", tenant=tenant,
                             session="s%d" % i, max_tokens=2)

    def test_histograms_count_every_request_and_token(self):
        before = self.snapshot(stats_section("HISTOGRAMS"))
        self.assertFalse(self.snapshot().HasField("histograms"))
        out = self.generate(text="What is a cat?", max_tokens=6,
                            ignore_eos=True)
        after = self.snapshot(stats_section("HISTOGRAMS"))
        for name, n, total in (
                ("queue_wait", 1, out.usage.queue_ns),
                ("time_to_first_token", 1, out.usage.ttft_ns),
                ("time_per_output_token", 5, out.usage.decode_ns)):
            old = getattr(before.histograms, name)
            new = getattr(after.histograms, name)
            self.assertEqual(new.count - old.count, n, name)
            self.assertEqual(new.sum_ns - old.sum_ns, total, name)
            self.assertEqual(sum(new.counts), new.count)
            self.assertEqual(len(new.counts), len(new.bounds_ns) + 1)
            self.assertEqual(list(new.bounds_ns), sorted(new.bounds_ns))
        self.assertEqual(after.histograms.time_to_first_token.count +
                         after.histograms.time_per_output_token.count,
                         after.load.generated_tokens_total)

    def check_sums(self, s):
        b, t, r = s.blocks, s.statistics, s.ratios
        self.assertEqual(b.total, b.pinned + b.cached + b.scrubbing + b.free)
        self.assertEqual((b.pinned + b.cached) * b.block_bytes,
                         t.used_memory_bytes)
        self.assertEqual(t.used_memory_bytes,
                         t.allocated_bytes_total - t.freed_bytes_total)
        self.assertEqual(b.total * b.block_bytes, t.total_memory_bytes)
        self.assertEqual(b.free_runs, t.free_runs)
        self.assertAlmostEqual(
            r.utilization, t.used_memory_bytes / t.total_memory_bytes)
        found = t.cache_hits + t.cache_misses
        self.assertAlmostEqual(r.hit_rate,
                               t.cache_hits / found if found else 0)
        self.assertAlmostEqual(
            r.average_session_length,
            t.session_tokens / t.total_sessions if t.total_sessions else 0)
        self.assertAlmostEqual(
            r.fragmentation,
            1 - 1 / t.free_runs if t.free_runs > 1 else 0)
        self.assertAlmostEqual(r.memory_pool_efficiency, 1 - r.fragmentation)
        self.assertEqual(t.evictions,
                         sum(e.count for e in s.evictions_by_reason))
        self.assertEqual([x.used_bytes for x in s.tiers
                          if x.tier == "memory"], [t.used_memory_bytes])
        self.assertGreaterEqual(s.total_sessions_created, t.total_sessions)

    def list(self, **fields):
        return self.server.pool.ListSessions(
            pool.ListSessionsRequest(**fields), timeout=CALL_SECONDS)

    def pages(self, page_size, **fields):
        token, out = "", []
        while True:
            page = self.list(page_size=page_size, page_token=token, **fields)
            self.assertLessEqual(len(page.sessions), page_size)
            out.extend((s.key.tenant, s.key.session_id)
                       for s in page.sessions)
            token = page.next_page_token
            if not token:
                return out

    def test_the_sums_hold_at_rest(self):
        s = self.snapshot()
        self.check_sums(s)
        self.assertEqual(s.blocks.block_tokens, 16)
        self.assertEqual(s.blocks.block_bytes, 16 * 3072)
        self.assertEqual(s.policy, "lru")
        self.assertEqual(s.ledger.mode, stats.LEDGER_MODE_MEMORY)
        self.assertGreater(s.ledger.limit_bytes, 0)
        self.assertLessEqual(s.ledger.stored_bytes, s.ledger.limit_bytes)
        self.assertEqual(s.ledger.oldest_sequence, 1)
        self.assertLess(s.started_unix_ns, s.time_unix_ns)

    def test_the_sums_hold_while_the_pool_works(self):
        done = threading.Event()

        def work():
            try:
                for i in range(12):
                    self.generate(text="To walk is to", session="w%d" % i,
                                  max_tokens=24)
            finally:
                done.set()

        thread = threading.Thread(target=work)
        thread.start()
        n, sequence = 0, 0
        while not done.is_set() or n < 20:
            s = self.snapshot()
            self.check_sums(s)
            self.assertGreaterEqual(s.stamp.applied_sequence, sequence)
            self.assertLessEqual(s.stamp.durable_sequence,
                                 s.stamp.applied_sequence)
            sequence = s.stamp.applied_sequence
            n += 1
        thread.join()
        self.evict(*(session_target("w%d" % i) for i in range(12)))

    def test_the_stamp_reaches_what_an_evict_call_did(self):
        self.generate(text="What is a dog?", session="stamped", max_tokens=2)
        answer = self.evict(session_target("stamped"))
        stamp = self.snapshot().stamp
        self.assertGreaterEqual(stamp.applied_sequence,
                                answer.receipts.last_sequence)
        self.assertEqual((stamp.epoch, stamp.pool_id),
                         (answer.receipts.epoch, answer.receipts.pool_id))

    def test_the_section_sessions_is_the_first_page(self):
        s = self.server.pool.Snapshot(pool.SnapshotRequest(
            sections=[pool.SNAPSHOT_SECTION_SESSIONS],
            sessions=pool.SessionQuery(page_size=4)),
            timeout=CALL_SECONDS).snapshot
        self.assertEqual(len(s.sessions), 4)
        rest = self.list(page_size=1000,
                         page_token=s.sessions_next_page_token)
        names = [(x.key.tenant, x.key.session_id)
                 for x in list(s.sessions) + list(rest.sessions)]
        self.assertEqual(names, self.pages(1000))
        self.assertFalse(self.snapshot().sessions)

    def test_pages_of_any_size_list_everybody_once_in_order(self):
        whole = self.pages(1000)
        self.assertEqual(whole, sorted(
            whole, key=lambda k: (k[0].encode(), k[1].encode())))
        self.assertLessEqual(
            {("", "s0"), ("a", "s4"), ("b", "s1")}, set(whole))
        for n in (1, 2, 3, 7):
            self.assertEqual(self.pages(n), whole)

    def test_tenants_filter(self):
        filter_a = pool.SessionFilter(tenants=["a"])
        self.assertEqual(self.pages(2, filter=filter_a),
                         [("a", "s%d" % i) for i in range(5)])
        both = pool.SessionFilter(tenants=["b", ""])
        self.assertEqual({t for t, _ in self.pages(2, filter=both)},
                         {"", "b"})
        nobody = pool.SessionFilter(tenants=["nobody"])
        self.assertEqual(self.pages(10, filter=nobody), [])

    def sessions(self, **fields):
        return self.list(page_size=1000, **fields).sessions

    def names(self, **condition):
        return [(s.key.tenant, s.key.session_id) for s in
                self.sessions(filter=pool.SessionFilter(**condition))]

    def test_filters_let_through_what_meets_all_conditions(self):
        everybody = self.pages(1000)
        self.assertEqual(self.names(session_id_prefix="s"),
                         [k for k in everybody if k[1].startswith("s")])
        self.assertEqual(self.names(session_id_prefix="s1", tenants=["a"]),
                         [("a", "s1")])
        self.assertEqual(self.names(session_id_prefix="s1x"), [])
        self.generate(text="What is a dog?", session="gone", max_tokens=2)
        self.evict(session_target("gone"))
        evicted = self.names(states=[stats.SESSION_STATE_EVICTED])
        cached = self.names(states=[stats.SESSION_STATE_CACHED])
        self.assertIn(("", "gone"), evicted)
        self.assertNotIn(("", "gone"), cached)
        self.assertEqual(sorted(evicted + cached), sorted(self.names(
            states=[stats.SESSION_STATE_EVICTED,
                    stats.SESSION_STATE_CACHED])))
        self.assertEqual(self.names(min_used_bytes=1), cached)
        self.assertEqual(self.names(min_used_bytes=2 ** 63), [])
        self.assertEqual(self.names(min_idle_ns=3600 * 10 ** 9), [])
        self.assertEqual(self.names(min_age_ns=3600 * 10 ** 9), [])
        self.assertEqual(set(self.names(min_idle_ns=1, min_age_ns=1)),
                         set(self.pages(1000)))

    def test_conditions_that_are_not_allowed_are_named(self):
        for field, given, condition in (
                ("filter.session_id_prefix", "129",
                 dict(session_id_prefix="p" * 129)),
                ("filter.states[1]", "0", dict(
                    states=[stats.SESSION_STATE_CACHED, 0])),
                ("filter.states[0]", "6", dict(states=[6])),
                ("filter.min_idle_ns", "-1", dict(min_idle_ns=-1)),
                ("filter.min_age_ns", "-2", dict(min_age_ns=-2))):
            with self.subTest(field):
                self.fails("INVALID_ARGUMENT", "INVALID_FIELD",
                           lambda c=condition: self.list(
                               filter=pool.SessionFilter(**c)),
                           field=field, given=given)
        self.fails("INVALID_ARGUMENT", "INVALID_FIELD",
                   lambda: self.list(order=6), field="order", given="6")

    RANKS = {
        pool.SESSION_ORDER_AGE: lambda s: -s.age_ns,
        pool.SESSION_ORDER_SIZE: lambda s: -s.used_bytes,
        pool.SESSION_ORDER_IDLE: lambda s: -s.idle_ns,
        pool.SESSION_ORDER_HITS: lambda s: -s.hits,
    }

    def test_every_order_lists_everybody_once_on_pages_of_any_size(self):
        self.generate(text="What is a dog? " * 8, session="large",
                      max_tokens=2)
        for _ in range(2):
            self.generate(session="large", max_tokens=2)
        everybody = self.sessions()
        for order, rank in self.RANKS.items():
            wanted = [(s.key.tenant, s.key.session_id)
                      for s in sorted(everybody, key=rank)]
            for n in (1, 3, 1000):
                with self.subTest(order=order, page_size=n):
                    self.assertEqual(self.pages(n, order=order), wanted)

    def test_an_order_keeps_its_filter(self):
        self.assertEqual(
            sorted(self.pages(2, order=pool.SESSION_ORDER_IDLE,
                              filter=pool.SessionFilter(tenants=["a"]))),
            [("a", "s%d" % i) for i in range(5)])

    def test_the_section_sessions_has_orders_too(self):
        s = self.server.pool.Snapshot(pool.SnapshotRequest(
            sections=[pool.SNAPSHOT_SECTION_SESSIONS],
            sessions=pool.SessionQuery(
                page_size=4, order=pool.SESSION_ORDER_AGE)),
            timeout=CALL_SECONDS).snapshot
        rest = self.list(page_size=1000, order=pool.SESSION_ORDER_AGE,
                         page_token=s.sessions_next_page_token)
        self.assertEqual([(x.key.tenant, x.key.session_id)
                          for x in list(s.sessions) + list(rest.sessions)],
                         self.pages(1000, order=pool.SESSION_ORDER_AGE))

    def test_a_page_token_is_good_for_its_own_request_only(self):
        token = self.list(page_size=2).next_page_token
        self.assertNotEqual(token, "")

        def refused(**fields):
            self.fails("INVALID_ARGUMENT", "PAGE_TOKEN_INVALID",
                       lambda: self.list(**fields))

        refused(page_size=2, page_token="nonsense")
        refused(page_size=2, page_token=token[:-1])
        refused(page_size=2, page_token=token + "A")
        refused(page_size=2, page_token=token[::-1])
        refused(page_size=2, page_token=token,
                filter=pool.SessionFilter(tenants=["a"]))
        refused(page_size=2, page_token="x" * 5000)
        refused(page_size=2, page_token=token,
                order=pool.SESSION_ORDER_AGE)
        refused(page_size=2, page_token=token,
                filter=pool.SessionFilter(min_age_ns=1))
        self.list(page_size=3, page_token=token,
                  order=pool.SESSION_ORDER_KEY)

    def test_a_session_tells_of_itself(self):
        self.generate(text="What is a dog?", session="told", max_tokens=2)
        session, = [s for s in self.list(page_size=1000).sessions
                    if s.key.session_id == "told"]
        self.assertEqual(session.state, stats.SESSION_STATE_CACHED)
        self.assertEqual(session.blocks, 1)
        self.assertEqual(session.used_bytes, 16 * 3072)
        self.assertEqual(session.tokens, 8)
        self.assertIn(session.cached_tokens, (7, 8))
        self.assertGreaterEqual(session.age_ns, session.idle_ns)
        self.evict(session_target("told"))
        session, = [s for s in self.list(page_size=1000).sessions
                    if s.key.session_id == "told"]
        self.assertEqual(session.state, stats.SESSION_STATE_EVICTED)
        self.assertEqual((session.blocks, session.cached_tokens,
                          session.tokens, session.evictions), (0, 0, 8, 1))

    def block_map(self, **fields):
        return self.server.pool.Snapshot(pool.SnapshotRequest(
            sections=[pool.SNAPSHOT_SECTION_BLOCK_MAP],
            block_map=pool.BlockMapQuery(**fields) if fields else None),
            timeout=CALL_SECONDS).snapshot

    def test_the_block_map_has_every_block_once_and_agrees_with_the_counts(
            self):
        s = self.block_map()
        n = {state: 0 for state in range(1, 5)}
        for run in s.block_map.runs:
            self.assertGreater(run.blocks, 0)
            self.assertEqual(run.holders > 0, run.state in (
                common.BLOCK_STATE_PINNED, common.BLOCK_STATE_CACHED))
            n[run.state] += run.blocks
        b = s.blocks
        self.assertEqual([n[i] for i in range(1, 5)],
                         [b.free, b.pinned, b.cached, b.scrubbing])
        self.assertEqual((s.block_map.first_block, s.block_map.next_block),
                         (0, 0))
        for one, next_one in zip(s.block_map.runs, s.block_map.runs[1:]):
            self.assertNotEqual((one.state, one.owner),
                                (next_one.state, next_one.owner))
        self.assertFalse(self.snapshot().HasField("block_map"))

    def test_the_block_map_is_read_part_by_part(self):
        def cells(runs):
            return [r.state for r in runs for _ in range(r.blocks)]
        whole = cells(self.block_map().block_map.runs)
        found, at = [], 0
        while True:
            part = self.block_map(first_block=at, max_runs=1).block_map
            self.assertEqual(len(part.runs), 1)
            self.assertEqual(part.first_block, at)
            found += cells(part.runs)
            at = part.next_block
            if at == 0:
                break
        self.assertEqual(found, whole)
        self.assertEqual(cells(self.block_map(first_block=1).block_map.runs),
                         whole[1:])

    def test_queries_of_the_block_map_that_are_not_allowed_are_named(self):
        total = self.snapshot().blocks.total
        for field, given, query in (
                ("block_map.first_block", str(total),
                 dict(first_block=total)),
                ("block_map.max_runs", "65537", dict(max_runs=65537))):
            self.fails("INVALID_ARGUMENT", "INVALID_FIELD",
                       lambda q=query: self.block_map(**q),
                       field=field, given=given)
        self.fails("INVALID_ARGUMENT", "INVALID_FIELD",
                   lambda: self.server.pool.Snapshot(pool.SnapshotRequest(
                       block_map=pool.BlockMapQuery(max_runs=1)),
                       timeout=CALL_SECONDS), field="block_map")

    def histograms(self):
        found = self.snapshot(pool.SNAPSHOT_SECTION_HISTOGRAMS).histograms
        for h in (found.age_at_eviction, found.idle_at_eviction,
                  found.reuse_gap, found.return_gap):
            self.assertEqual(len(h.counts), len(h.bounds_ns) + 1)
            self.assertEqual(list(h.bounds_ns), sorted(set(h.bounds_ns)))
            self.assertEqual(sum(h.counts), h.count)
            self.assertGreaterEqual(h.sum_ns, 0)
        return found

    def test_histograms_count_evictions_and_uses_and_returns(self):
        before = self.histograms()
        self.generate(text="What is a dog?", session="h", max_tokens=2)
        self.generate(session="h", max_tokens=2)
        self.evict(session_target("h"))
        self.generate(session="h", max_tokens=2)
        after = self.histograms()
        for name in ("age_at_eviction", "idle_at_eviction", "reuse_gap",
                     "return_gap"):
            with self.subTest(name):
                self.assertEqual(getattr(after, name).count -
                                 getattr(before, name).count, 1)
                self.assertGreater(getattr(after, name).sum_ns,
                                   getattr(before, name).sum_ns)
        self.assertEqual(after.age_at_eviction.count,
                         self.snapshot().statistics.evictions)
        self.assertFalse(self.snapshot().HasField("histograms"))

    def test_the_stamp_of_a_page_is_of_this_ledger(self):
        stamp = self.list(page_size=1).stamp
        self.assertEqual(stamp.pool_id, self.snapshot().stamp.pool_id)
        self.assertLessEqual(stamp.applied_sequence, ledger_end(self.server))


if __name__ == "__main__":
    main()
