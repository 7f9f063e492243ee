"""The auditor finds what is wrong: every number of a real ledger that it vouches
for, changed by one, and every receipt left out, moved or told twice."""
import copy

from auditor import Auditor, Discrepancy
from kvpool_e2e import (ServerTest, generate, main, pool, read_receipts,
                        session_target)

STATISTICS = ("used_memory_bytes", "allocated_bytes_total",
              "freed_bytes_total", "evictions", "total_memory_bytes",
              "total_sessions", "cache_hits", "cache_misses")
EVICTION = ("block_offset", "block_size_bytes", "blocks_freed")
BATCH = ("count", "total_bytes_freed", "pool_used_before", "pool_used_after",
         "first_sequence", "last_sequence", "reason")
SNAPSHOT = ("pool_used", "pool_total", "total_evictions",
            "allocated_bytes_total", "freed_bytes_total")


class AuditorTest(ServerTest):
    flags = ("--kv-cache-size-mb=1", "--enable-receipts",
             "--snapshot-interval-ms=20", "--no-receipts-log")

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        for i in range(12):
            generate(cls.server, text="What is a dog?", session="s%d" % i,
                     max_tokens=40)
        cls.evict(cls, session_target("s10"), session_target("s11"))
        cls.evict(cls, pool.EvictTarget(all=pool.EvictAll()))
        cls.receipts = read_receipts(cls.server)

    def found(self, receipts):
        try:
            Auditor().add_all(receipts)
        except Discrepancy:
            return True
        return False

    def with_change(self, i, change):
        receipts = list(self.receipts)
        receipts[i] = copy.deepcopy(receipts[i])
        change(receipts[i])
        return receipts

    def all_of(self, kind):
        found = [i for i, r in enumerate(self.receipts)
                 if r.WhichOneof("kind") == kind]
        self.assertTrue(found, kind)
        return found

    def check_fields(self, indices, part, names):
        def change(name):
            def apply(receipt):
                message = part(receipt)
                setattr(message, name, getattr(message, name) + 1)
            return apply

        for i in indices:
            for name in names:
                self.assertTrue(self.found(self.with_change(i, change(name))),
                                "receipt %d, %s" % (i + 1, name))

    def test_what_was_not_touched_adds_up(self):
        auditor = Auditor().add_all(self.receipts)
        self.assertGreater(auditor.evictions_by_reason[1], 0)
        self.assertGreater(auditor.evictions_by_reason[2], 0)

    def test_a_changed_number_of_an_eviction_is_found(self):
        evictions = self.all_of("eviction")
        self.check_fields(evictions, lambda r: r.eviction, EVICTION)
        self.check_fields(evictions, lambda r: r.eviction.before, STATISTICS)
        self.check_fields(evictions, lambda r: r.eviction.after, STATISTICS)
        self.check_fields(evictions, lambda r: r.eviction.extents[0],
                          ("offset", "size"))

    def test_a_changed_number_of_a_batch_is_found(self):
        indices = [i for i in self.all_of("eviction_batch")
                   if self.receipts[i].eviction_batch.count]
        self.check_fields(indices, lambda r: r.eviction_batch, BATCH)

    def test_a_changed_number_of_a_snapshot_is_found(self):
        for i in self.all_of("pool_snapshot"):
            self.check_fields([i], lambda r: r.pool_snapshot, SNAPSHOT)

    def test_a_receipt_left_out_moved_or_told_twice_is_found(self):
        for i in range(1, len(self.receipts) - 1):
            left_out = self.receipts[:i] + self.receipts[i + 1:]
            twice = self.receipts[:i] + self.receipts[i - 1:]
            moved = list(self.receipts)
            moved[i - 1], moved[i] = moved[i], moved[i - 1]
            for receipts in (left_out, twice, moved):
                self.assertTrue(self.found(receipts), "receipt %d" % (i + 1))

    def test_a_receipt_left_out_is_found_even_if_the_rest_is_renumbered(self):
        for i in self.all_of("eviction"):
            receipts = [copy.deepcopy(r) for r in
                        self.receipts[:i] + self.receipts[i + 1:]]
            for n, receipt in enumerate(receipts):
                receipt.sequence = n + 1
            self.assertTrue(self.found(receipts), "receipt %d" % (i + 1))


if __name__ == "__main__":
    main()
