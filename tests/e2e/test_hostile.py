"""What clients do that nobody should: damaged requests, calls given up at any
moment, readers that never read, floods. The server answers each with a clear
error or none at all, stays up for the others, forgets nothing, and stops in
order."""
import random
import re
import resource
import threading
import time
import unittest

import grpc

from kvpool_e2e import (
    CALL_SECONDS, Failure, Generated, Kvpoold, ServerTest, Subscriber, common,
    generate, generate_request, inference, key, main, pool, session_target,
    wait_until)

SEED = 20240611

POOL = "/kvpool.v1.KvPoolService/"
INFERENCE = "/kvpool.v1.InferenceService/"

ALLOWED = {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "OUT_OF_RANGE",
           "FAILED_PRECONDITION", "RESOURCE_EXHAUSTED", "ABORTED",
           "UNIMPLEMENTED", "CANCELLED", "DEADLINE_EXCEEDED"}
WITHOUT_DETAILS = {"CANCELLED", "DEADLINE_EXCEEDED"}


def raw_call(channel, path, body, stream=False, timeout=CALL_SECONDS):
    """The call's end: "OK" or a Failure. A stream is left after a message."""
    make = channel.unary_stream if stream else channel.unary_unary
    method = make(path, request_serializer=None, response_deserializer=None)
    try:
        result = method(body, timeout=timeout)
        if stream:
            next(iter(result), None)
            result.cancel()
        return "OK"
    except grpc.RpcError as error:
        return Failure(error)


def valid_requests():
    """Path, whether it streams, and a request that uses every kind of field."""
    tokens = inference.TokenIds(ids=[1, 5, 9, 300])
    return [
        (POOL + "Evict", False, pool.EvictRequest(
            targets=[session_target("a", "t"), pool.EvictTarget(tenant="b"),
                     pool.EvictTarget(all=pool.EvictAll())],
            preempt=True, wait=1, max_sessions=7, page_size=9)),
        (POOL + "Snapshot", False, pool.SnapshotRequest(
            sections=[2], sessions=pool.SessionQuery(
                filter=pool.SessionFilter(tenants=["a", "b"]), order=1,
                page_size=3))),
        (POOL + "ListSessions", False, pool.ListSessionsRequest(
            page_size=3, filter=pool.SessionFilter(tenants=["a"]), order=1)),
        (POOL + "SetRetention", False, pool.SetRetentionRequest(changes=[
            pool.RetentionChange(
                session=common.SessionKey(session_id="none"),
                settings=common.RetentionSettings(
                    idle_ttl=common.DurationSetting(duration_ns=10 ** 12),
                    priority=common.PrioritySetting(priority=7),
                    lease=common.LeaseSetting(lease_id="r",
                                              duration_ns=5)))])),
        (POOL + "StreamReceipts", True, pool.StreamReceiptsRequest(
            after=common.LedgerPosition(sequence=1, epoch=1), max_batch=4)),
        (INFERENCE + "Generate", True, inference.GenerateRequest(
            session_id="m", tenant="t", text="What is a dog?", max_tokens=3,
            sampling=inference.SamplingParameters(
                temperature=0.7, top_k=5, top_p=0.9, seed=3), stop=["x"],
            retention=common.RetentionSettings(
                idle_ttl=common.DurationSetting(duration_ns=10 ** 12)))),
        (INFERENCE + "Generate", True, inference.GenerateRequest(
            tokens=tokens, max_tokens=2)),
        (INFERENCE + "Generate", True, inference.GenerateRequest(
            session_id="m", tenant="t", text="a", prefill_only=True,
            continue_from=inference.ContinueFrom(tokens=2))),
        (INFERENCE + "Tokenize", False, inference.TokenizeRequest(
            text="<s>A dog \u00e9\u4f60", add_special=True, with_pieces=True,
            parse_special=True)),
        (INFERENCE + "Detokenize", False, inference.DetokenizeRequest(
            token_ids=[1, 5, 9, 300], with_special=True)),
        (INFERENCE + "GetModel", False, inference.GetModelRequest(name="x")),
    ]


def mutate(chance, body):
    body = bytearray(body)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(body) + 1)
        kind = chance.randrange(6)
        if kind == 0 and body:
            body[at % len(body)] = chance.randrange(256)
        elif kind == 1 and body:
            body[at % len(body)] ^= 1 << chance.randrange(8)
        elif kind == 2:
            body[at:at] = bytes(chance.randrange(256)
                                for _ in range(chance.randint(1, 9)))
        elif kind == 3:
            del body[at:at + chance.randint(1, 5)]
        elif kind == 4:
            body[at:at] = body[:chance.randint(0, len(body))]
        else:
            body[at:at] = chance.choice([
                b"\xff" * 9 + b"\x01", b"\x0a\x80\x80\x80\x80\x08", b"\x00",
                b"\x0b", b"\x0a\x00" * 300, b"\x0a\x03a\x00b"])
    return bytes(body)


def is_quiet(server):
    load = server.pool.Snapshot(
        pool.SnapshotRequest(), timeout=CALL_SECONDS).snapshot.load
    return (load.running_sequences + load.waiting_requests +
            load.preempted_sequences) == 0


class DamageTest(ServerTest):
    flags = ["--enable-receipts", "--no-receipts-log", "--kv-cache-size-mb=8",
             "--kept-tokens-ttl-s=1"]

    def test_a_damaged_request_gets_an_answer_that_names_what_is_wrong(self):
        chance = random.Random(SEED)
        for path, stream, request in valid_requests():
            body = request.SerializeToString()
            for _ in range(150):
                damaged = mutate(chance, body)
                with self.subTest(path=path, body=damaged.hex()):
                    end = raw_call(self.server.channel, path, damaged, stream)
                    if end == "OK":
                        continue
                    self.assertIn(end.code, ALLOWED, repr(end))
                    if end.code not in WITHOUT_DETAILS:
                        self.assertEqual(end.n_infos, 1, repr(end))
                    if end.code == "INVALID_ARGUMENT":
                        self.assertTrue(end.fields, repr(end))
        wait_until(lambda: is_quiet(self.server), "quiet")

    def test_every_beginning_of_a_request_is_answered(self):
        for path, stream, request in valid_requests():
            body = request.SerializeToString()
            for n in range(len(body)):
                end = raw_call(self.server.channel, path, body[:n], stream)
                self.assertTrue(end == "OK" or end.code in ALLOWED, repr(end))

    def test_a_bad_argument_of_any_reason_names_its_field(self):
        stub = self.server
        failure = self.generate_fails("INVALID_ARGUMENT", "PROMPT_TOO_LONG",
                                      text="a" * 20000)
        self.assertEqual(list(failure.fields), ["text"])
        failure = self.generate_fails("INVALID_ARGUMENT", "PROMPT_TOO_LONG",
                                      ids=[5] * 5000)
        self.assertEqual(list(failure.fields), ["tokens.ids"])
        failure = self.fails(
            "INVALID_ARGUMENT", "PAGE_TOKEN_INVALID", lambda:
            stub.pool.ListSessions(pool.ListSessionsRequest(page_token="00")))
        self.assertEqual(list(failure.fields), ["page_token"])

    def test_many_things_in_one_request_hold_nobody_up(self):
        everything = pool.EvictTarget(all=pool.EvictAll())
        self.evict(*[everything] * 256)
        floods = [
            (POOL + "Evict", b"\x0a\x00" * 500000),
            (POOL + "Snapshot", b"\x0a\x80\x80\x40" + b"\x02" * (1 << 20)),
            (POOL + "Snapshot", b"\x0a\x80\x80\x40" + b"\x63" * (1 << 20)),
            (POOL + "ListSessions", b"\x1a\x80\x80\x40" + b"\x0a\x00" * 524288),
            (POOL + "ListSessions", b"\xa2\x06\x00" * 500000),
            (INFERENCE + "Generate", b"\x3a\x01x" * 500000),
        ]
        for path, body in floods:
            with self.subTest(path=path):
                end = raw_call(self.server.channel, path, body,
                               path.endswith("Generate"))
                self.assertTrue(end == "OK" or end.code == "INVALID_ARGUMENT",
                                repr(end))

    def test_a_long_text_is_made_tokens_beside_everything_else(self):
        text = "ab cd " * 60000
        for _ in range(5):  # we may be the ones who are slow
            slow = self.server.inference.Tokenize.future(
                inference.TokenizeRequest(text=text), timeout=CALL_SECONDS)
            self.snapshot()
            if not slow.done():
                break
        else:
            self.fail("Snapshot waits for Tokenize")
        short = self.server.inference.Tokenize(inference.TokenizeRequest(
            text="ab cd " * 300)).token_ids
        ids = slow.result().token_ids
        self.assertEqual(ids[:500], short[:500])
        back = self.server.inference.Detokenize(
            inference.DetokenizeRequest(token_ids=ids), timeout=CALL_SECONDS)
        self.assertEqual(back.text, text)
        self.assertEqual(back.raw, text.encode())

    def test_a_long_tokenize_may_be_given_up(self):
        calls = [self.server.inference.Tokenize.future(
            inference.TokenizeRequest(text="ab cd " * 60000),
            timeout=CALL_SECONDS) for _ in range(12)]
        for call in calls:
            call.cancel()
        self.assertEqual(self.generate(ids=[1, 5], max_tokens=2).reason,
                         "MAX_TOKENS")

    def test_the_numbers_of_a_call(self):
        first = self.generate(text="What is a dog?", session="numbers",
                              max_tokens=5,
                              sampling=inference.SamplingParameters(
                                  temperature=1))
        self.assertTrue(0 < first.started.seed < 2 ** 53)
        self.assertTrue(first.started.created)
        self.assertEqual(first.usage.session_tokens,
                         first.usage.prompt_tokens +
                         first.usage.generated_tokens)
        again = self.generate(session="numbers", max_tokens=1)
        self.assertEqual(again.started.cached_tokens,
                         first.usage.session_tokens - 1)
        self.assertEqual(again.usage.recomputed_tokens, 0)
        listed = self.server.pool.ListSessions(pool.ListSessionsRequest(
            page_size=1000), timeout=CALL_SECONDS).sessions
        found = [s for s in listed if s.key == key("numbers")]
        self.assertEqual(len(found), 1)
        self.assertLessEqual(found[0].idle_ns, found[0].age_ns)
        self.assertEqual(found[0].last_access_unix_ns + found[0].idle_ns,
                         found[0].created_unix_ns + found[0].age_ns)


def peak_kib(pid):
    with open("/proc/%d/status" % pid) as file:
        return int(re.search(r"VmHWM:\s+(\d+) kB", file.read()).group(1))


class BombTest(unittest.TestCase):
    def test_a_compressed_request_is_inflated_no_further_than_is_allowed(self):
        path = POOL + "Evict"
        with Kvpoold("--kv-cache-size-mb=1") as server:
            call = server.connect().unary_unary(path, request_serializer=None,
                response_deserializer=None)
            request = pool.EvictRequest(targets=[session_target("x" * 64)])
            call(request.SerializeToString(), timeout=CALL_SECONDS,
                 compression=grpc.Compression.Gzip)
            before = peak_kib(server.pid)
            for compression in (grpc.Compression.Gzip,
                                grpc.Compression.Deflate):
                with self.assertRaises(grpc.RpcError) as raised:
                    call(bytes(128 << 20), timeout=CALL_SECONDS,
                         compression=compression)
                failure = Failure(raised.exception)
                self.assertEqual((failure.code, failure.reason),
                                 ("RESOURCE_EXHAUSTED", "REQUEST_TOO_LARGE"))
            self.assertLess(peak_kib(server.pid) - before, 64 << 10)


class GivingUpTest(unittest.TestCase):
    def test_calls_given_up_at_any_moment_leave_nothing_behind(self):
        chance = random.Random(SEED)
        with Kvpoold("--enable-receipts", "--no-receipts-log",
                     "--kv-cache-size-mb=1", "--max-batch-size=4") as server:
            for round_ in range(6):
                calls = [server.inference.Generate(generate_request(
                    text="Once upon a time there was", max_tokens=200,
                    session="s%d" % i), timeout=chance.choice(
                        [0.02, 0.1, CALL_SECONDS])) for i in range(16)]
                for call in calls:
                    time.sleep(chance.random() * 0.02)
                    if chance.random() < 0.8:
                        call.cancel()
                for call in calls:
                    call.cancel()
                wait_until(lambda: is_quiet(server), "quiet")
            out = generate(server, text="What is a dog?", max_tokens=4)
            self.assertEqual(out.usage.generated_tokens, 4)

    def test_clients_that_vanish_leave_nothing_behind(self):
        with Kvpoold("--enable-receipts", "--no-receipts-log",
                     "--kv-cache-size-mb=2") as server:
            for _ in range(4):
                channels = [server.connect() for _ in range(10)]
                for channel in channels:
                    call = channel.unary_stream(
                        INFERENCE + "Generate",
                        request_serializer=
                        inference.GenerateRequest.SerializeToString)
                    call(generate_request(text="Once", max_tokens=300))
                time.sleep(0.1)
                for channel in channels:
                    channel.close()
            wait_until(lambda: is_quiet(server), "quiet")

    def test_readers_that_never_read_cost_the_others_nothing(self):
        window = {"grpc.http2.lookahead_bytes": 65535,
                  "grpc.http2.bdp_probe": 0}
        with Kvpoold("--enable-receipts", "--no-receipts-log",
                     "--kv-cache-size-mb=4",
                     "--drain-limit-ms=1000") as server:
            channel = server.connect(**window)
            stuck = [pool_stream(channel) for _ in range(20)]
            stuck += [channel.unary_stream(
                INFERENCE + "Generate",
                request_serializer=inference.GenerateRequest.SerializeToString,
            )(generate_request(text="Once", max_tokens=200))
                for _ in range(20)]
            subscriber = Subscriber(server, earliest=pool.StartEarliest())
            last = 0
            for i in range(300):
                answer = server.pool.Evict(pool.EvictRequest(
                    targets=[session_target("x%d" % j) for j in range(100)]),
                    timeout=CALL_SECONDS)
                last = answer.receipts.last_sequence
            subscriber.wait_sequence(last)
            self.assertEqual([r.sequence for r in subscriber.receipts][:last],
                             list(range(1, last + 1)))
            subscriber.cancel()
            self.assertEqual(generate(server, ids=[1, 5],
                                      max_tokens=3).reason, "MAX_TOKENS")
            del stuck


def pool_stream(channel):
    return channel.unary_stream(
        POOL + "StreamReceipts",
        request_serializer=pool.StreamReceiptsRequest.SerializeToString)(
            pool.StreamReceiptsRequest(earliest=pool.StartEarliest()))


class FloodTest(unittest.TestCase):
    def test_evicting_everything_all_the_time_changes_no_text(self):
        prompts = ["Once upon a time", "What is a dog?", "The sun", "A cat"]
        with Kvpoold("--enable-receipts", "--no-receipts-log",
                     "--kv-cache-size-mb=1", "--max-batch-size=4") as server:
            plain = [generate(server, text=p, max_tokens=40).ids
                     for p in prompts]
            stop, done, outs = threading.Event(), [], {}

            def evict_all():
                # Not for ever: what is evicted at every step gets nowhere.
                while not stop.is_set() and len(done) < 100:
                    answer = server.pool.Evict(pool.EvictRequest(
                        targets=[pool.EvictTarget(all=pool.EvictAll())],
                        preempt=True), timeout=CALL_SECONDS)
                    done.append(sum(o.preempted for o in answer.outcomes))
                    time.sleep(0.01)

            def run(i):
                outs[i] = generate(server, text=prompts[i % 4], max_tokens=40,
                                   session="e%d" % i).ids

            evictor = threading.Thread(target=evict_all)
            runners = [threading.Thread(target=run, args=(i,))
                       for i in range(16)]
            for thread in [evictor] + runners:
                thread.start()
            for thread in runners:
                thread.join()
            while sum(done) == 0 and len(done) < 100:  # it came too late
                run(0)
            stop.set()
            evictor.join()
            self.assertGreater(sum(done), 0)
            for i, ids in outs.items():
                self.assertEqual(ids, plain[i % 4], i)

    def test_sessions_that_expire_at_once(self):
        ttl = common.RetentionSettings(
            idle_ttl=common.DurationSetting(duration_ns=1000000))
        with Kvpoold("--enable-receipts", "--no-receipts-log",
                     "--kv-cache-size-mb=1") as server:
            plain = generate(server, text="A dog", max_tokens=6).ids
            for i in range(30):
                out = generate(server, text="A dog", max_tokens=6,
                               session="t%d" % i, retention=ttl)
                self.assertEqual(out.ids, plain)
            wait_until(lambda: server.pool.Snapshot(pool.SnapshotRequest())
                       .snapshot.statistics.total_sessions == 0, "expired")

    def test_without_descriptors_the_server_waits_and_goes_on(self):
        with Kvpoold() as server:
            resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (64, 64))
            channels = [server.connect() for _ in range(80)]
            futures = [grpc.channel_ready_future(c) for c in channels]
            ready = 0
            for future in futures:
                try:
                    future.result(timeout=0.2 if ready else 10)
                    ready += 1
                except grpc.FutureTimeoutError:
                    pass
            self.assertGreater(ready, 10)
            self.assertLess(ready, 80)
            for channel in channels:
                channel.close()
            self.assertEqual(generate(server, ids=[1, 5], max_tokens=2).reason,
                             "MAX_TOKENS")

    def test_pages_of_many_sessions_hold_each_once(self):
        n = 300
        with Kvpoold("--kv-cache-size-mb=16") as server:
            calls = [server.inference.Generate(generate_request(
                ids=[1], max_tokens=1, session="p%03d" % i,
                tenant="even" if i % 2 == 0 else "odd"),
                timeout=CALL_SECONDS) for i in range(n)]
            for call in calls:
                list(call)
            for tenants in ([], ["even"], ["odd", "even"]):
                names, token = [], ""
                while True:
                    page = server.pool.ListSessions(pool.ListSessionsRequest(
                        page_size=7, page_token=token,
                        filter=pool.SessionFilter(tenants=tenants)))
                    names += [(s.key.tenant, s.key.session_id)
                              for s in page.sessions]
                    token = page.next_page_token
                    if not token:
                        break
                self.assertEqual(len(names), n // 2 if len(tenants) == 1 else n)
                self.assertEqual(names, sorted(set(names)))


class StoppingTest(unittest.TestCase):
    """SIGTERM at any moment: exit code 0, nothing for a sanitizer to say."""

    def load(self, server, n=12):
        calls = [server.inference.Generate(generate_request(
            text="Once upon a time", max_tokens=300, session="s%d" % i))
            for i in range(n)]
        texts = [server.inference.Tokenize.future(
            inference.TokenizeRequest(text="ab cd " * 50000))
            for _ in range(2)]
        return calls, texts

    def ends(self, calls, texts):
        found = []
        for call in calls:
            try:
                found.append(Generated(call).reason)
            except grpc.RpcError as error:
                found.append(error.code().name)
        for text in texts:
            text.exception(timeout=CALL_SECONDS)
        return found

    def test_what_runs_is_handed_back_within_the_limit(self):
        for delay in (0.0, 0.05, 0.3):
            with self.subTest(delay=delay), Kvpoold(
                    "--enable-receipts", "--no-receipts-log",
                    "--kv-cache-size-mb=1", "--max-batch-size=4",
                    "--drain-limit-ms=8000") as server:
                subscriber = Subscriber(server, earliest=pool.StartEarliest())
                subscriber.wait_sequence(1)
                calls, texts = self.load(server)
                time.sleep(delay)
                server.signal(15)
                ends = self.ends(calls, texts)
                self.assertEqual(server.wait(), 0, server.tail())
                server.check_lines()
                self.assertTrue(
                    set(ends) <= {"DRAINED", "MAX_TOKENS", "END_OF_TEXT",
                                  "CONTEXT_FULL", "UNAVAILABLE"}, ends)
                subscriber.wait_end()
                self.assertIsNone(subscriber.error)
                self.assertTrue(subscriber.messages[-1].HasField("closing"))
                last = subscriber.receipts[-1]
                self.assertEqual(last.WhichOneof("kind"), "pool_snapshot")
                self.assertEqual(
                    subscriber.messages[-1].closing.position.sequence,
                    last.sequence)

    def test_no_limit_and_a_second_signal_stop_at_once(self):
        for flags, n_signals in ((["--drain-limit-ms=0"], 1),
                                 (["--drain-limit-ms=3600000"], 2)):
            with self.subTest(flags=flags), Kvpoold(
                    "--enable-receipts", "--no-receipts-log",
                    "--kv-cache-size-mb=1", *flags) as server:
                loads = [self.load(server)]
                while is_quiet(server):  # not yet, or over already
                    loads.append(self.load(server))
                for _ in range(n_signals):
                    server.signal(15)
                    time.sleep(0.2)
                self.assertEqual(server.wait(), 0, server.tail())
                server.check_lines()
                for calls, texts in loads:
                    self.ends(calls, texts)


class ExtremesTest(unittest.TestCase):
    """The same text whatever the options, one kvpoold after the other."""

    def test_every_option_at_its_end(self):
        expected = {}
        for flags in (
                [], ["--block-tokens=1"], ["--block-tokens=1024"],
                ["--max-batch-size=1", "--max-batch-tokens=1"],
                ["--threads=1", "--max-batch-tokens=8"],
                ["--kernels=scalar"], ["--max-sessions=1"],
                ["--max-kept-tokens=0"],
                ["--kept-tokens-ttl-s=1", "--batch-timeout-ms=20"],
                ["--receipts-ring-mb=1", "--snapshot-interval-ms=1"],
                ["--max-step-ms=1", "--max-waiting-requests=1"]):
            with self.subTest(flags=flags), Kvpoold(
                    "--enable-receipts", "--no-receipts-log",
                    "--kv-type=f32", "--kv-cache-size-mb=8",
                    *flags) as server:
                for prompt in ("Once upon a time", "What is a dog?"):
                    out = generate(server, text=prompt, max_tokens=12,
                                   session="" if "=1" in flags[-1:] else "s" +
                                   prompt[:4])
                    self.assertEqual(expected.setdefault(prompt, out.text),
                                     out.text)


if __name__ == "__main__":
    main()
