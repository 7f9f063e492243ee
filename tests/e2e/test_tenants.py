"""Tenants: what each holds and may hold, and whose sequence gives way."""
import os
import signal
import tempfile
import threading
import time

from kvpool_e2e import (CALL_SECONDS, Kvpoold, ServerTest, common,
                        generate_request, inference, key, main, pool, receipts,
                        session_target, wait_until)

TENANTS = pool.SNAPSHOT_SECTION_TENANTS
FILE = """\
tenants:
  - name: small
    hard_blocks: 3
  - name: modest
    soft_blocks: 4
"""


def usages(snapshot):
    return {t.tenant: t for t in snapshot.tenants}


def words(n, first=5):
    return list(range(first, first + n))


class TenantTest(ServerTest):
    @classmethod
    def setUpClass(cls):
        cls.directory = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.directory.cleanup)
        cls.file = os.path.join(cls.directory.name, "kvpool.yaml")
        with open(cls.file, "w") as file:
            file.write(FILE)
        cls.flags = ("--config=" + cls.file, "--kv-cache-size-mb=2",
                     "--enable-receipts", "--receipts-allocations",
                     "--no-receipts-log", "--snapshot-interval-ms=0",
                     "--tenant-hard-blocks=1000")
        super().setUpClass()

    def setUp(self):
        super().setUp()
        self.evict(pool.EvictTarget(all=pool.EvictAll()), forget=True)

    def usage(self, tenant):
        return usages(self.snapshot(TENANTS))[tenant]

    def receipts_after(self, sequence):
        """Those of now, all of them."""
        last = self.snapshot().stamp.applied_sequence
        stream = self.server.pool.StreamReceipts(pool.StreamReceiptsRequest(
            after=common.LedgerPosition(sequence=sequence)),
            timeout=CALL_SECONDS)
        found = []
        while last > sequence and (not found or found[-1].sequence < last):
            found += next(stream).receipts
        stream.cancel()
        return found

    def test_usage_adds_up_and_quotas_are_shown(self):
        for tenant in ("", "modest", "other"):
            self.generate(ids=words(40), tenant=tenant, session="a",
                          max_tokens=1)
        self.generate(ids=words(40), tenant="other", session="b", max_tokens=1)
        for name in ("a", "b"):
            self.generate(ids=words(40), tenant="twice", session=name,
                          max_tokens=1)
        snapshot = self.snapshot(TENANTS)
        tenants = usages(snapshot)
        self.assertEqual([t.tenant for t in snapshot.tenants],
                         sorted(tenants))
        self.assertEqual(sum(t.used_bytes for t in snapshot.tenants),
                         snapshot.statistics.used_memory_bytes)
        self.assertEqual(sum(t.total_sessions for t in snapshot.tenants),
                         snapshot.statistics.total_sessions)
        for name, quota in (("small", (0, 3)), ("modest", (4, 0)),
                            ("other", (0, 1000)), ("", (0, 1000))):
            self.assertEqual((tenants[name].soft_quota_blocks,
                              tenants[name].hard_quota_blocks), quota)
        # Two conversations that begin alike hold their full blocks once.
        other = tenants["other"]
        self.assertEqual((other.used_blocks, other.total_sessions), (4, 2))
        self.assertEqual((tenants["twice"].cache_hits,
                          tenants["twice"].cache_misses), (2, 2))
        self.assertEqual(tenants["modest"].cache_hits, 0)
        self.assertFalse(self.snapshot().tenants)

    def test_pages_of_tenants_name_everybody_once(self):
        for i in range(7):
            self.generate(ids=words(3), tenant="page%d" % i, session="s",
                          max_tokens=1)
        whole = [t.tenant for t in self.snapshot(TENANTS).tenants]
        self.assertGreaterEqual(len(whole), 9)
        found, token = [], ""
        while True:
            page = self.server.pool.Snapshot(pool.SnapshotRequest(
                sections=[TENANTS], tenants=pool.TenantQuery(
                    page_size=2, page_token=token)),
                timeout=CALL_SECONDS).snapshot
            self.assertLessEqual(len(page.tenants), 2)
            found += [t.tenant for t in page.tenants]
            token = page.tenants_next_page_token
            if not token:
                break
        self.assertEqual(found, whole)
        for reason, fields in (
                ("PAGE_TOKEN_INVALID", dict(page_token="ab")),
                ("INVALID_FIELD", dict(page_size=1001))):
            self.fails("INVALID_ARGUMENT", reason,
                       lambda f=fields: self.server.pool.Snapshot(
                           pool.SnapshotRequest(
                               sections=[TENANTS],
                               tenants=pool.TenantQuery(**f)),
                           timeout=CALL_SECONDS))
        self.fails("INVALID_ARGUMENT", "INVALID_FIELD",
                   lambda: self.server.pool.Snapshot(pool.SnapshotRequest(
                       tenants=pool.TenantQuery()), timeout=CALL_SECONDS),
                   field="tenants")

    def test_a_stream_may_begin_with_tenants(self):
        stream = self.server.pool.StreamReceipts(pool.StreamReceiptsRequest(
            snapshot=pool.StartSnapshot(sections=[TENANTS])),
            timeout=CALL_SECONDS)
        found = []
        for message in stream:
            found += [t.tenant for t in message.snapshot.snapshot.tenants]
            if message.snapshot.last:
                break
        stream.cancel()
        self.assertEqual(found,
                         [t.tenant for t in self.snapshot(TENANTS).tenants])

    def test_beyond_the_hard_quota_is_refused_with_the_numbers(self):
        failure = self.generate_fails(
            "RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED", ids=words(60),
            tenant="small", session="large")
        self.assertEqual(failure.metadata, {
            "tenant": "small", "used_blocks": "0", "needed_blocks": "4",
            "quota_blocks": "3"})
        self.assertEqual(self.usage("small").used_blocks, 0)
        # It is not there: nothing was changed.
        self.assertEqual(self.evict(session_target("large", "small"))
                         .outcomes[0].result, receipts.EVICT_RESULT_NOT_FOUND)
        self.generate(ids=words(60), tenant="other", max_tokens=1)

    def test_own_sessions_go_first_and_say_why(self):
        self.generate(ids=words(40), tenant="other", session="old",
                      max_tokens=1)
        self.generate(ids=words(20), tenant="small", session="a", max_tokens=1)
        before = self.snapshot().stamp.applied_sequence
        evictions = self.usage("small").evictions
        self.generate(ids=words(20, 50), tenant="small", session="b",
                      max_tokens=1)
        gone = [r.eviction for r in self.receipts_after(before)
                if r.HasField("eviction")]
        self.assertEqual([(e.tenant, e.session_id, e.reason,
                           e.forced_by.session_id) for e in gone],
                         [("small", "a", common.EVICTION_REASON_QUOTA, "b")])
        batch, = [r.eviction_batch for r in self.receipts_after(before)
                  if r.HasField("eviction_batch")]
        self.assertEqual((batch.reason, batch.policy, batch.count),
                         (common.EVICTION_REASON_QUOTA, "lru", 1))
        self.assertEqual(self.usage("small").evictions, evictions + 1)

    def test_a_run_that_outgrows_its_quota_ends_and_keeps_what_it_has(self):
        ids = []
        call = self.server.inference.Generate(generate_request(
            ids=words(20), tenant="small", session="grows", max_tokens=200,
            ignore_eos=True), timeout=CALL_SECONDS)

        def read():
            for message in call:
                ids.extend(message.token_ids)

        failure = self.fails("RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED", read)
        self.assertEqual((failure.metadata["used_blocks"],
                          failure.metadata["needed_blocks"],
                          failure.metadata["quota_blocks"]), ("3", "1", "3"))
        listed = self.server.pool.ListSessions(pool.ListSessionsRequest(
            filter=pool.SessionFilter(tenants=["small"])),
            timeout=CALL_SECONDS).sessions
        self.assertEqual([(s.tokens, s.cached_tokens) for s in listed],
                         [(49, 48)])
        self.assertEqual(len(ids), 29)

    def test_a_reload_changes_quotas(self):
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, "kvpool.yaml")
            with open(path, "w") as file:
                file.write(FILE)
            server = Kvpoold("--config=" + path, "--kv-cache-size-mb=2")
            try:
                with open(path, "w") as file:
                    file.write("tenant_soft_blocks: 2\n"
                               "tenants: [{name: new, hard_blocks: 7}]\n")
                server.signal(signal.SIGHUP)

                def reloaded():
                    tenants = usages(server.pool.Snapshot(
                        pool.SnapshotRequest(sections=[TENANTS]),
                        timeout=CALL_SECONDS).snapshot)
                    return tenants if "new" in tenants else None

                tenants = wait_until(reloaded, "a tenant of the new file")
                self.assertEqual(tenants["new"].hard_quota_blocks, 7)
                self.assertEqual(tenants["new"].soft_quota_blocks, 0)
                self.assertEqual(tenants["small"].soft_quota_blocks, 2)
                self.assertEqual(tenants["small"].hard_quota_blocks, 0)
            finally:
                server.stop()

    def test_the_map_names_a_holder_of_each_block(self):
        for name in ("m1", "m2"):
            self.generate(ids=words(40), tenant="mapped", session=name,
                          max_tokens=1)
        block_map = self.snapshot(pool.SNAPSHOT_SECTION_BLOCK_MAP).block_map
        owned = {}
        for run in block_map.runs:
            if run.holders == 0:
                self.assertEqual(run.owner, 0)
                continue
            owner = block_map.owners[run.owner - 1]
            self.assertEqual(owner.tenant, "mapped")
            owned[owner.session_id] = owned.get(owner.session_id, 0) + run.blocks
        # The second took over the two full ones.
        self.assertEqual(owned, {"m1": 3, "m2": 1})
        self.assertEqual(len(block_map.owners), 2)
        self.evict(pool.EvictTarget(session=key("m1", "mapped")))
        block_map = self.snapshot(pool.SNAPSHOT_SECTION_BLOCK_MAP).block_map
        self.assertEqual([(o.tenant, o.session_id) for o in block_map.owners],
                         [("mapped", "m2")])

    def test_allocations_tell_the_keys_of_full_blocks(self):
        before = self.snapshot().stamp.applied_sequence
        for _ in range(2):
            self.generate(ids=words(40), tenant="keys", session="k",
                          max_tokens=20, ignore_eos=True)
        self.generate(ids=words(60), tenant="keys", session="l", max_tokens=1)
        allocations = [r.allocation for r in self.receipts_after(before)
                       if r.HasField("allocation")]
        keys, table = {}, {"k": [], "l": []}
        size = self.snapshot().blocks.block_bytes
        for a in allocations:
            for run in a.reused_extents:
                table[a.session_id] += range(run.offset, run.offset + run.size,
                                             size)
            for sealed in a.sealed_blocks:
                self.assertIn(sealed.offset, table[a.session_id])
                self.assertEqual(len(sealed.key), 32)
                self.assertEqual(keys.setdefault(sealed.offset, sealed.key),
                                 sealed.key)
            if a.parent_key:
                self.assertEqual(a.parent_key,
                                 keys[table[a.session_id][-1]])
            for run in a.extents:
                table[a.session_id] += range(run.offset, run.offset + run.size,
                                             size)
        self.assertTrue(any(a.parent_key for a in allocations))
        self.assertGreater(len(keys), 4)
        self.assertEqual(len(set(keys.values())), len(keys))
        self.assertEqual(table["k"][:2], table["l"][:2])


class PriorityTest(ServerTest):
    flags = ("--kv-cache-size-mb=1", "--enable-receipts", "--no-receipts-log",
             "--snapshot-interval-ms=0", "--max-batch-size=8",
             "--block-tokens=64")

    def start(self, session, priority, n_tokens, results):
        request = generate_request(
            ids=words(30, 5 + priority), session=session,
            max_tokens=n_tokens, ignore_eos=True,
            retention=common.RetentionSettings(
                priority=common.PrioritySetting(priority=priority)))

        def run():
            for message in self.server.inference.Generate(
                    request, timeout=CALL_SECONDS):
                if message.HasField("finished"):
                    results[session] = message.finished.usage

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    def test_the_lowest_priority_gives_way_and_never_the_highest(self):
        blocks = self.snapshot().blocks.total
        model = self.server.inference.GetModel(
            inference.GetModelRequest(), timeout=CALL_SECONDS).model
        # Four of them have more blocks than there are.
        n_tokens = min(blocks * 64 // 2, model.context_length) - 40
        results, threads = {}, []
        for i, priority in enumerate((20, 10, 40, 30)):
            threads.append(self.start("p%d" % priority, priority, n_tokens,
                                      results))
            while self.snapshot().load.running_sequences <= min(i, 1):
                time.sleep(0.01)
                if "p%d" % priority in results:
                    break
        for thread in threads:
            thread.join()
        self.assertEqual(len(results), 4)
        self.assertEqual(results["p40"].preemptions, 0)
        last = self.snapshot().stamp.applied_sequence
        stream = self.server.pool.StreamReceipts(pool.StreamReceiptsRequest(
            earliest=pool.StartEarliest()), timeout=CALL_SECONDS)
        found = []
        while not found or found[-1].sequence < last:
            found += next(stream).receipts
        stream.cancel()
        aside = [(int(r.eviction.session_id[1:]),
                  int(r.eviction.forced_by.session_id[1:])) for r in found
                 if r.HasField("eviction") and
                 r.eviction.reason == common.EVICTION_REASON_PRESSURE]
        self.assertTrue(aside)
        for victim, by in aside:
            self.assertLessEqual(victim, by)


if __name__ == "__main__":
    main()
