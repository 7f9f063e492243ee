"""An auditor of receipts, written from the contract alone.

It holds a ledger to its own word: sequences are dense, every difference is what
the receipt says, counters go on where the last receipt left them, and a batch
is the sum of its members. It shares no code with the server.
"""

EPSILON = 1e-9


class Discrepancy(Exception):
    """A receipt that does not add up."""


class Auditor:
    def __init__(self):
        self.sequence = 0
        self.epoch = 0
        self.pool_id = None
        self.mono_ns = None
        self.statistics = None  # of the epoch, as the last receipt left them
        self.boot = None
        self.members = []       # evictions since the last batch
        self.evictions_by_reason = {}
        self.counts = {}
        self.pending_parts = None

    def add_all(self, receipts):
        for receipt in receipts:
            self.add(receipt)
        return self

    def add(self, receipt):
        kind = receipt.WhichOneof("kind")
        self._receipt = receipt
        self._envelope(receipt)
        if self.members and kind not in ("eviction", "eviction_batch"):
            self._wrong("members are followed by %s, not their batch" % kind)
        self.counts[kind] = self.counts.get(kind, 0) + 1
        check = getattr(self, "_" + kind, None) if kind else None
        if check:
            check(getattr(receipt, kind))

    def _wrong(self, text, *values):
        raise Discrepancy("receipt %d: " % self._receipt.sequence +
                          text % values)

    def _equal(self, what, stated, found):
        if stated != found:
            self._wrong("%s is stated as %r and comes out as %r",
                        what, stated, found)

    def _envelope(self, receipt):
        if self.sequence and receipt.sequence != self.sequence + 1:
            self._wrong("follows %d", self.sequence)
        self.sequence = receipt.sequence
        if len(receipt.pool_id) != 16:
            self._wrong("pool_id has %d bytes", len(receipt.pool_id))
        if self.pool_id not in (None, receipt.pool_id):
            self._wrong("pool_id changed")
        self.pool_id = receipt.pool_id
        if receipt.epoch != self.epoch:
            if receipt.epoch < self.epoch:
                self._wrong("epoch fell")
            self.epoch = receipt.epoch
            self.mono_ns = None
            self.statistics = None
            self.evictions_by_reason = {}
        if self.mono_ns is not None and receipt.mono_ns < self.mono_ns:
            self._wrong("monotonic time went back")
        self.mono_ns = receipt.mono_ns
        if receipt.time_unix_ns <= 0:
            self._wrong("no wall clock")

    def _lifecycle(self, lifecycle):
        if len(lifecycle.config_digest) != 32:
            self._wrong("config_digest has %d bytes",
                        len(lifecycle.config_digest))
        if lifecycle.WhichOneof("change") == "boot":
            self.boot = lifecycle.boot
            self.statistics = None
            self.evictions_by_reason = {}
            self.used = 0

    # --- statistics ---

    def _statistics(self, s):
        self._equal("used memory", s.used_memory_bytes,
                    s.allocated_bytes_total - s.freed_bytes_total)
        if s.used_memory_bytes > s.total_memory_bytes:
            self._wrong("more used than there is")
        if (s.total_sessions == 0) != (s.used_memory_bytes == 0) and \
                s.total_sessions == 0 and s.session_tokens:
            self._wrong("tokens without sessions")
        if self.boot:
            block = self.boot.block_bytes
            self._equal("total memory", s.total_memory_bytes,
                        self.boot.total_blocks * block)
            if s.used_memory_bytes % block:
                self._wrong("used memory is no whole number of blocks")
            # A shared block counts once for each session that holds it.
            if s.session_tokens > (s.used_memory_bytes // block *
                                   self.boot.block_tokens * s.total_sessions):
                self._wrong("more tokens than the used blocks have room for")

    def _goes_on(self, s):
        """From the last receipt to this one: what may have happened between."""
        last = self.statistics
        self._statistics(s)
        if last is None:
            return
        for name in ("allocated_bytes_total", "cache_hits", "cache_misses"):
            if getattr(s, name) < getattr(last, name):
                self._wrong("%s fell from %d to %d", name,
                            getattr(last, name), getattr(s, name))
        if s.freed_bytes_total < last.freed_bytes_total:
            self._wrong("freed bytes fell")
        self._equal("evictions before", s.evictions, last.evictions)
        self._equal("arena", s.total_memory_bytes, last.total_memory_bytes)

    # --- evictions ---

    def _eviction(self, e):
        before, after = e.before, e.after
        extents = sum(x.size for x in e.extents)

        self._goes_on(before)
        self._statistics(after)
        self._equal("block_size_bytes", e.block_size_bytes, extents)
        self._equal("used before - after",
                    before.used_memory_bytes - after.used_memory_bytes,
                    e.block_size_bytes)
        self._equal("freed after - before",
                    after.freed_bytes_total - before.freed_bytes_total,
                    e.block_size_bytes)
        for name in ("allocated_bytes_total", "cache_hits", "cache_misses",
                     "total_memory_bytes"):
            self._equal(name + " after", getattr(after, name),
                        getattr(before, name))
        self._extents(e)
        self._parts(e)
        self._cause(e)
        if e.block_size_bytes and not e.zeroed:
            self._wrong("its bytes were not zeroed")
        if e.preempted and e.idle_ns:
            self._wrong("was running and idle")
        if e.age_ns < e.idle_ns or e.idle_ns < 0:
            self._wrong("age %d, idle %d", e.age_ns, e.idle_ns)
        if self.members and self.members[-1].after != before:
            self._wrong("the pool changed between members of one batch")
        self.members.append(e)
        self.first_member = self.first_member if len(self.members) > 1 \
            else self.sequence
        self.statistics = after

    def _extents(self, e):
        end = None
        block = self.boot.block_bytes if self.boot else 1

        if e.extents:
            self._equal("block_offset", e.block_offset, e.extents[0].offset)
        for x in e.extents:
            if end is not None and x.offset <= end:
                self._wrong("extents touch, overlap or descend")
            if x.size == 0 or x.size % block or x.offset % block:
                self._wrong("extent %d+%d is no run of blocks",
                            x.offset, x.size)
            end = x.offset + x.size
        if end is not None and end > e.before.total_memory_bytes:
            self._wrong("an extent lies beyond the arena")
        if self.boot:
            self._equal("blocks_freed", e.blocks_freed * block,
                        e.block_size_bytes)
        if e.tokens_freed > e.before.session_tokens:
            self._wrong("more tokens freed than there were")

    def _parts(self, e):
        last = not e.HasField("part") or e.part.number == e.part.count
        gone = e.before.total_sessions - e.after.total_sessions

        if e.HasField("part"):
            if e.part.count < 2 or not 1 <= e.part.number <= e.part.count:
                self._wrong("part %d of %d", e.part.number, e.part.count)
            expected = (self.pending_parts or 0) + 1
            self._equal("part", e.part.number, expected)
        elif self.pending_parts:
            self._wrong("parts of the eviction before are missing")
        self.pending_parts = None if last else e.part.number
        self._equal("evictions after - before",
                    e.after.evictions - e.before.evictions, int(last))
        self._equal("sessions that lost their blocks", gone, int(last))
        if last:
            self.evictions_by_reason[e.reason] = (
                self.evictions_by_reason.get(e.reason, 0) + 1)

    def _cause(self, e):
        manual, lru, ttl, quota, pressure = 1, 2, 3, 4, 5
        cause = e.WhichOneof("cause")

        if e.reason == manual and (cause != "requested_by" or
                                   not e.requested_by):
            self._wrong("manual, and nobody asked for it")
        if e.reason in (lru, quota, pressure) and cause != "forced_by":
            self._wrong("nobody forced it")
        if e.reason == ttl and cause is not None:
            self._wrong("a TTL has no cause")

    def _eviction_batch(self, b):
        members = self.members
        whole = [m for m in members
                 if not m.HasField("part") or m.part.number == m.part.count]

        self._equal("count", b.count, len(whole))
        self._equal("total_bytes_freed", b.total_bytes_freed,
                    sum(m.block_size_bytes for m in members))
        self._equal("pool_used_before - pool_used_after",
                    b.pool_used_before - b.pool_used_after,
                    b.total_bytes_freed)
        self._equal("first_sequence", b.first_sequence,
                    self.first_member if members else 0)
        self._equal("last_sequence", b.last_sequence,
                    self.sequence - 1 if members else 0)
        if members:
            first, last = members[0].before, members[-1].after
            self._equal("pool_used_before", b.pool_used_before,
                        first.used_memory_bytes)
            self._equal("pool_used_after", b.pool_used_after,
                        last.used_memory_bytes)
            self._fragmentation("before", b.fragmentation_before, first)
            self._fragmentation("after", b.fragmentation_after, last)
        for m in members:
            self._equal("reason of a member", m.reason, b.reason)
        if b.duration_ns < 0:
            self._wrong("negative duration")
        if b.HasField("call"):
            self._call(b, whole)
        self.members = []

    def _call(self, b, whole):
        evicted = [o for o in b.call.outcomes if o.result == 1]

        self._equal("outcomes EVICTED", len(evicted), len(whole))
        self._equal("bytes of the outcomes",
                    sum(o.bytes_freed for o in b.call.outcomes),
                    b.total_bytes_freed)
        if len(b.call.request_digest) != 32:
            self._wrong("request_digest has %d bytes",
                        len(b.call.request_digest))
        for outcome in evicted:
            if not b.first_sequence <= outcome.sequence <= b.last_sequence:
                self._wrong("outcome %d is not in this batch",
                            outcome.sequence)

    def _fragmentation(self, when, stated, s):
        computed = 1 - 1 / s.free_runs if s.free_runs > 1 else 0.0
        if abs(stated - computed) > EPSILON:
            self._wrong("fragmentation_%s is %r, of %d runs", when, stated,
                        s.free_runs)

    # --- snapshots ---

    def _pool_snapshot(self, p):
        self._equal("pool_used", p.pool_used,
                    p.allocated_bytes_total - p.freed_bytes_total)
        if p.pool_total and abs(p.utilization -
                                p.pool_used / p.pool_total) > EPSILON:
            self._wrong("utilization %r", p.utilization)
        if self.statistics is not None:
            self._equal("total_evictions", p.total_evictions,
                        self.statistics.evictions)
            for ours, theirs in (
                    ("allocated_bytes_total", "allocated_bytes_total"),
                    ("freed_bytes_total", "freed_bytes_total"),
                    ("cache_hits", "cache_hits"),
                    ("cache_misses", "cache_misses")):
                if getattr(p, theirs) < getattr(self.statistics, ours):
                    self._wrong("%s fell", theirs)
        if self.boot:
            self._equal("pool_total", p.pool_total,
                        self.boot.total_blocks * self.boot.block_bytes)
            self._equal("evictions by reason",
                        {c.reason: c.count for c in p.evictions_by_reason},
                        self.evictions_by_reason)
            self._equal("total_evictions", p.total_evictions,
                        sum(self.evictions_by_reason.values()))
        if p.active_sessions > p.total_sessions_created:
            self._wrong("more sessions active than were ever created")
