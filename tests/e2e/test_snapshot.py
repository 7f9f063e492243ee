"""Snapshot and ListSessions: sums that hold, pages that miss nobody."""
import threading

from kvpool_e2e import (CALL_SECONDS, ServerTest, ledger_end, main, pool,
                        session_target, stats)


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
        self.assertFalse(after.histograms.HasField("age_at_eviction"))

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

    def test_the_stamp_of_a_page_is_of_this_ledger(self):
        stamp = self.list(page_size=1).stamp
        self.assertEqual(stamp.pool_id, self.snapshot().stamp.pool_id)
        self.assertLessEqual(stamp.applied_sequence, ledger_end(self.server))


if __name__ == "__main__":
    main()
