"""A long prompt beside those who generate, and beside another tenant's: what a
step may hold is shared as promised. No clock: steps and receipts tell."""
import threading
import unittest

from kvpool_e2e import (CALL_SECONDS, ServerTest, common, generate_request,
                        main, pool)

BUDGET = 16  # tokens of a step
PROMPT = 256
TRIES = 20  # what is to overlap may have ended before


def prompt(first):
    """Tokens that no other prompt begins with."""
    return [5 + (first * 37 + i * 11) % 200 for i in range(PROMPT)]


class BudgetTest(ServerTest):
    flags = ("--max-batch-tokens=%d" % BUDGET, "--max-batch-size=8",
             "--no-prefix-cache", "--max-step-ms=60000", "--enable-receipts",
             "--receipts-allocations", "--no-receipts-log",
             "--snapshot-interval-ms=0", "--block-tokens=16")

    def setUp(self):
        super().setUp()
        self.evict(pool.EvictTarget(all=pool.EvictAll()), forget=True)

    def begin(self, **fields):
        call = self.server.inference.Generate(
            generate_request(**fields), timeout=CALL_SECONDS)
        self.addCleanup(call.cancel)
        return call

    def beside_a_generating(self):
        """What was done while a long prompt came and got its token, and whether
        another sequence generated throughout."""
        running = self.begin(text="The cat", max_tokens=490, ignore_eos=True)
        ids = []
        while not ids:
            ids.extend(next(running).token_ids)
        before = self.snapshot().load
        long = self.generate(ids=prompt(1), max_tokens=1, ignore_eos=True)
        after = self.snapshot().load
        running.cancel()
        self.assertEqual(len(long.ids), 1)
        return before, after, (before.running_sequences == 1 and
                               after.running_sequences == 1)

    def test_who_generates_gets_a_token_of_each_step_of_a_long_prompt(self):
        for _ in range(TRIES):
            before, after, overlap = self.beside_a_generating()
            if overlap:
                break
        self.assertTrue(overlap)
        steps = after.steps_total - before.steps_total
        tokens = after.generated_tokens_total - before.generated_tokens_total
        self.assertEqual(tokens, steps + 1)  # and the long prompt's own
        self.assertGreaterEqual(steps, PROMPT / (BUDGET - 1))

    def allocations_after(self, sequence):
        """(tenant, session, bytes) in the order of the receipts."""
        last = self.snapshot().stamp.applied_sequence
        stream = self.server.pool.StreamReceipts(pool.StreamReceiptsRequest(
            after=common.LedgerPosition(sequence=sequence)),
            timeout=CALL_SECONDS)
        seen, found = sequence, []
        while seen < last:
            for receipt in next(stream).receipts:
                seen = receipt.sequence
                if receipt.HasField("allocation"):
                    entry = receipt.allocation
                    found.append((entry.tenant, entry.session_id,
                                  sum(e.size for e in entry.extents)))
        stream.cancel()
        return found

    def two_tenants(self):
        """One with three long prompts, and one with another."""
        sequence = self.snapshot().stamp.applied_sequence
        calls = [self.begin(ids=prompt(i), tenant=tenant, session=session,
                            max_tokens=1, ignore_eos=True)
                 for i, (tenant, session) in enumerate((
                     ("many", "1"), ("many", "2"), ("many", "3"),
                     ("one", "1")))]
        readers = [threading.Thread(target=list, args=(c,)) for c in calls]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join(CALL_SECONDS)
        return self.allocations_after(sequence)

    def test_a_tenant_with_one_prompt_has_half_of_what_prompts_take(self):
        for _ in range(TRIES):
            self.setUp()
            found = self.two_tenants()
            mine = [i for i, (tenant, _, _) in enumerate(found)
                    if tenant == "one"]
            if any(t == "many" for t, _, _ in found[mine[-1]:]):
                break  # the other had something to compute throughout
        self.assertGreaterEqual(len(mine), PROMPT // BUDGET)
        meanwhile = found[mine[0]:mine[-1] + 1]
        ours = sum(n for tenant, _, n in meanwhile if tenant == "one")
        theirs = sum(n for tenant, _, n in meanwhile if tenant == "many")
        now = self.snapshot()
        block = now.statistics.total_memory_bytes // now.blocks.total
        self.assertGreater(theirs, 0)
        self.assertLessEqual(theirs, ours + block)
        # A tenant's own go by age.
        order = [session for tenant, session, _ in found if tenant == "many"]
        self.assertEqual(order, sorted(order))


if __name__ == "__main__":
    main()
