"""The storm: 64 conversations at once on a pool too small for them, sessions
evicted at random while they generate, 64 subscribers.

Every output equals that of an undisturbed run, token for token; at least 200
evictions hit a sequence in generation; every subscriber gets every receipt
once, in order; and an auditor that shares no code with the server finds that
every difference, counter and batch sum adds up.

STORM_SEED repeats a run's choices (the schedule of threads is not ours).
"""
import os
import queue
import random
import threading
import time
import unittest

from auditor import Auditor
from kvpool_e2e import (CALL_SECONDS, Generated, Kvpoold, Subscriber, common,
                        generate_request, inference, inference_grpc,
                        ledger_end, main, pool, pool_grpc, session_target)

CONVERSATIONS = 64
TURNS = 3
SUBSCRIBERS = 64
# At least, of sequences in generation.
EVICTIONS = int(os.environ.get("STORM_EVICTIONS", "200"))
TARGET = EVICTIONS + 60
MAX_ROUNDS = 5 * max(1, EVICTIONS // 200)
CHANNELS = 8
SEED = int(os.environ.get("STORM_SEED", "0")) or random.SystemRandom(
    ).randrange(1, 1 << 32)

BEGINNINGS = ("What is a dog?", "What is a river?", "A lantern is",
              "Question: What is a planet?\nAnswer:", "To walk is to",
              "What does happy mean?", "O LORD,", "In the beginning",
              "For God so loved the world", "The opposite of dark is")


def turn_fields(i, turn, n_tokens):
    """What conversation i asks in this turn, behind its n_tokens or some of
    them; the same in both runs."""
    draw = random.Random(1000 * i + turn)
    fields = dict(text=draw.choice(BEGINNINGS),
                  max_tokens=draw.randint(8, 20))
    if draw.random() < 0.7:
        fields["sampling"] = inference.SamplingParameters(
            temperature=draw.choice((0.7, 1.0, 1.5)), top_k=100,
            top_p=0.95, seed=draw.randrange(1, 1 << 62))
    if n_tokens > 0 and draw.random() < 0.3:
        fields["continue_from"] = inference.ContinueFrom(
            tokens=draw.randint(0, n_tokens))
    return fields


def converse(stub, i, session, on_token=None):
    """All turns of conversation i: tokens, texts and usages."""
    out, n_tokens = [], 0
    for turn in range(TURNS):
        messages = []
        for message in stub.Generate(
                generate_request(session=session, tenant="t%d" % (i % 3),
                                 **turn_fields(i, turn, n_tokens)),
                timeout=10 * CALL_SECONDS):
            messages.append(message)
            if on_token and message.token_ids:
                on_token(session, message.HasField("finished"))
        if on_token:
            on_token(session, True)
        out.append(Generated(messages))
        n_tokens = out[-1].usage.session_tokens
    return out


def in_threads(work, n):
    """work(0) to work(n - 1) at once; raises what one of them raised."""
    results, failures = [None] * n, []

    def run(i):
        try:
            results[i] = work(i)
        except Exception as error:  # told by the caller's thread
            failures.append(error)

    threads = [threading.Thread(target=run, args=(i,), daemon=True)
               for i in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return results


class Evictor:
    """Evicts sessions that are in generation, at random: one for every few
    tokens that come out, so that the storm keeps pace with the server."""

    def __init__(self, server):
        self._stub = pool_grpc.KvPoolServiceStub(server.connect())
        self._draw = random.Random(SEED)
        self._lock = threading.Lock()
        self._active = {}
        self._due = queue.Queue()
        self.hits = 0        # sequences in generation that lost their blocks
        self.calls = 0
        self.failure = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def on_token(self, session, finished):
        with self._lock:
            if finished:
                self._active.pop(session, None)
                return
            self._active[session] = True
            often = 0.15 if self.hits < TARGET else 0.005
            if self._draw.random() < often:
                self._due.put(True)

    def _targets(self):
        with self._lock:
            names = sorted(self._active)
            n = min(len(names), self._draw.choice((1, 1, 1, 2, 3)))
            return self._draw.sample(names, n)

    def _run(self):
        try:
            while self._due.get():
                names = self._targets()
                if names:
                    self._evict(names)
        except Exception as error:  # told by the test's thread
            self.failure = error

    def _evict(self, names):
        answer = self._stub.Evict(pool.EvictRequest(
            targets=[session_target(name, "t%d" % (int(
                name.rsplit("-", 1)[1]) % 3)) for name in names],
            preempt=True, wait=self._draw.choice((0, 1, 2))),
            timeout=CALL_SECONDS)
        self.calls += 1
        self.hits += sum(o.preempted for o in answer.outcomes)

    def stop(self):
        self._due.put(False)
        self._thread.join(CALL_SECONDS)
        if self.failure:
            raise self.failure


class StormTest(unittest.TestCase):
    maxDiff = 2000

    def undisturbed(self):
        with Kvpoold("--kv-cache-size-mb=64", "--max-batch-size=16") as server:
            outputs = in_threads(
                lambda i: converse(server.inference, i, "quiet-%d" % i),
                CONVERSATIONS)
            self.assertEqual(self.evictions(server), 0)
        return outputs

    def evictions(self, server):
        return server.pool.Snapshot(
            pool.SnapshotRequest(),
            timeout=CALL_SECONDS).snapshot.statistics.evictions

    def check_outputs(self, expected, outputs):
        for i, (quiet, stormy) in enumerate(zip(expected, outputs)):
            for turn, (a, b) in enumerate(zip(quiet, stormy)):
                where = "conversation %d, turn %d" % (i, turn)
                self.assertEqual(a.ids, b.ids, where)
                self.assertEqual(a.text, b.text, where)
                self.assertEqual(a.reason, b.reason, where)
                self.assertEqual(a.usage.session_tokens,
                                 b.usage.session_tokens, where)

    def check_subscribers(self, subscribers, last):
        first = None
        for n, subscriber in enumerate(subscribers):
            self.assertIsNone(subscriber.error)
            found = subscriber.receipts
            self.assertEqual([r.sequence for r in found],
                             list(range(1, len(found) + 1)),
                             "subscriber %d" % n)
            self.assertGreaterEqual(len(found), last)
            copy = [r.SerializeToString(deterministic=True)
                    for r in found[:last]]
            first = first or copy
            self.assertEqual(copy == first, True, "subscriber %d" % n)
        return subscribers[0].receipts[:last]

    def test_evicting_at_random_changes_no_output_and_every_receipt_adds_up(
            self):
        start = time.monotonic()
        expected = self.undisturbed()
        quiet_seconds = time.monotonic() - start
        with Kvpoold("--kv-cache-size-mb=3", "--max-batch-size=16",
                     "--enable-receipts", "--no-receipts-log",
                     "--loop-stall-ms=1", "--snapshot-interval-ms=100"
                     ) as server:
            channels = [server.connect() for _ in range(CHANNELS)]
            stubs = [inference_grpc.InferenceServiceStub(c)
                     for c in channels]
            subscribers = [
                Subscriber(server, channels[n % CHANNELS],
                           earliest=pool.StartEarliest(),
                           max_batch=(1, 7, 256, 1024)[n % 4])
                for n in range(SUBSCRIBERS)]
            evictor = Evictor(server)
            rounds = 0
            while rounds == 0 or (evictor.hits < EVICTIONS and
                                  rounds < MAX_ROUNDS):
                name = "storm-%d-%%d" % rounds
                outputs = in_threads(
                    lambda i: converse(stubs[i % CHANNELS], i, name % i,
                                       evictor.on_token), CONVERSATIONS)
                self.check_outputs(expected, outputs)
                rounds += 1
            evictor.stop()
            last = ledger_end(server)
            for subscriber in subscribers:
                subscriber.wait_sequence(last)
            for subscriber in subscribers:
                subscriber.cancel()
            found = self.check_subscribers(subscribers, last)
            auditor = Auditor().add_all(found)
            recorded = sum(r.eviction.preempted for r in found
                           if r.WhichOneof("kind") == "eviction" and
                           r.eviction.reason ==
                           common.EVICTION_REASON_MANUAL)
            total = self.evictions(server)
            for channel in channels:
                channel.close()
        print("storm: seed %d, %d rounds of %d conversations, %d Evict calls;"
              " %d evictions hit sequences in generation, %d evictions in all"
              " %s; %d receipts to each of %d subscribers; %.1f s (%.1f s "
              "undisturbed)" % (
                  SEED, rounds, CONVERSATIONS, evictor.calls, evictor.hits,
                  total, dict(auditor.evictions_by_reason), last,
                  SUBSCRIBERS, time.monotonic() - start, quiet_seconds),
              flush=True)
        self.assertGreaterEqual(evictor.hits, EVICTIONS)
        self.assertEqual(recorded, evictor.hits)
        self.assertEqual(total, sum(auditor.evictions_by_reason.values()))


if __name__ == "__main__":
    main()
