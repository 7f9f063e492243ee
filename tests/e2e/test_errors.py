"""Bad requests: each gets one clear error that names the thing, what was given
and what is allowed, and changes nothing."""

import grpc

from kvpool_e2e import (CALL_SECONDS, Failure, ServerTest, common, generate,
                        generate_request, inference, ledger_end, main, pool,
                        session_target, stats)

SAMPLING = inference.SamplingParameters
NAN, INFINITY = float("nan"), float("inf")


def biases(*tokens, bias=1):
    return [inference.LogitBias(token_id=t, bias=bias) for t in tokens]


class ErrorTest(ServerTest):
    flags = ("--kv-cache-size-mb=8", "--enable-receipts",
             "--snapshot-interval-ms=0", "--no-receipts-log",
             "--max-request-bytes=1048576")

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        generate(cls.server, text="What is a dog?", session="witness",
                 max_tokens=4)

    def setUp(self):
        self.before = self.state()

    def tearDown(self):
        self.assertEqual(self.state(), self.before, "the state was changed")

    def state(self):
        snapshot = self.snapshot()
        listed = self.server.pool.ListSessions(
            pool.ListSessionsRequest(), timeout=CALL_SECONDS)
        return (snapshot.statistics, snapshot.blocks,
                ledger_end(self.server),
                sorted((s.key.tenant, s.key.session_id, s.tokens)
                       for s in listed.sessions))

    def invalid(self, call, request, field, given=None, allowed=None):
        failure = self.fails(
            "INVALID_ARGUMENT", "INVALID_FIELD",
            lambda: call(request, timeout=CALL_SECONDS), field=field,
            given=given)
        if allowed is not None:
            self.assertIn(allowed, failure.fields[field], repr(failure))

    def too_long_by_one(self, limit):
        """So many tokens, and no more, leave room for an answer."""
        self.assertIn(limit, (511, 512))
        failure = self.generate_fails("INVALID_ARGUMENT", "PROMPT_TOO_LONG",
                                      ids=[5] * (limit + 1))
        self.assertEqual(failure.metadata["tokens"], str(limit + 1))

    # --- values that are not allowed ---

    def test_parameters_out_of_range_are_named_with_what_is_allowed(self):
        context = 512
        for field, given, fields in (
                ("max_tokens", "513", dict(max_tokens=context + 1)),
                ("max_tokens", "4294967295", dict(max_tokens=2 ** 32 - 1)),
                ("sampling.temperature", "-",
                 dict(sampling=SAMPLING(temperature=-0.5))),
                ("sampling.temperature", "2.5",
                 dict(sampling=SAMPLING(temperature=2.5))),
                ("sampling.temperature", "nan",
                 dict(sampling=SAMPLING(temperature=NAN))),
                ("sampling.temperature", "inf",
                 dict(sampling=SAMPLING(temperature=INFINITY))),
                ("sampling.top_p", "1.5",
                 dict(sampling=SAMPLING(temperature=1, top_p=1.5))),
                ("sampling.top_p", "-",
                 dict(sampling=SAMPLING(temperature=1, top_p=-1))),
                ("sampling.top_p", "nan",
                 dict(sampling=SAMPLING(temperature=1, top_p=NAN))),
                ("sampling.top_k", "3073",
                 dict(sampling=SAMPLING(temperature=1, top_k=3073))),
                ("sampling.min_p", "1.5", dict(sampling=SAMPLING(min_p=1.5))),
                ("sampling.min_p", "nan", dict(sampling=SAMPLING(min_p=NAN))),
                ("sampling.repetition_penalty", "2.5",
                 dict(sampling=SAMPLING(repetition_penalty=2.5))),
                ("sampling.repetition_penalty", "-1",
                 dict(sampling=SAMPLING(repetition_penalty=-1))),
                ("sampling.repetition_penalty", "nan",
                 dict(sampling=SAMPLING(repetition_penalty=NAN))),
                ("sampling.frequency_penalty", "-2.5",
                 dict(sampling=SAMPLING(frequency_penalty=-2.5))),
                ("sampling.frequency_penalty", "inf",
                 dict(sampling=SAMPLING(frequency_penalty=INFINITY))),
                ("sampling.presence_penalty", "3",
                 dict(sampling=SAMPLING(presence_penalty=3))),
                ("sampling.penalty_window", "513",
                 dict(sampling=SAMPLING(penalty_window=context + 1))),
                ("sampling.logit_bias[1].token_id", "3072",
                 dict(sampling=SAMPLING(logit_bias=biases(5, 3072)))),
                ("sampling.logit_bias[0].bias", "101",
                 dict(sampling=SAMPLING(logit_bias=biases(5, bias=101)))),
                ("sampling.logit_bias[0].bias", "nan",
                 dict(sampling=SAMPLING(logit_bias=biases(5, bias=NAN)))),
                ("sampling.logit_bias", "5",
                 dict(sampling=SAMPLING(logit_bias=biases(5, 6, 5)))),
                ("sampling.logit_bias", "1025",
                 dict(sampling=SAMPLING(logit_bias=biases(*range(1025))))),
                ("top_logprobs", "21", dict(logprobs=True, top_logprobs=21)),
                ("top_logprobs", "3", dict(top_logprobs=3)),
                ("stop[0]", None, dict(stop=[""])),
                ("stop[1]", None, dict(stop=["a", "b" * 257])),
                ("stop", "17", dict(stop=["s"] * 17)),
                ("retention.idle_ttl.duration_ns", "-5",
                 dict(session="x", retention=common.RetentionSettings(
                     idle_ttl=common.DurationSetting(duration_ns=-5)))),
                ("session_id", None, dict(session="i" * 129)),
                ("session_id", None, dict(session="a\nb")),
                ("session_id", None, dict(session="a\u0085b")),
                ("tenant", None, dict(tenant="t" * 129)),
                ("tenant", None, dict(tenant="\x7f"))):
            with self.subTest(field, given=given):
                self.generate_fails("INVALID_ARGUMENT", "INVALID_FIELD",
                                    field=field, given=given, text="a",
                                    **fields)

    def test_nul_is_refused_in_every_text(self):
        self.generate_fails("INVALID_ARGUMENT", "INVALID_FIELD",
                            field="text", text="a\0b")
        self.generate_fails("INVALID_ARGUMENT", "INVALID_FIELD",
                            field="stop[0]", text="a", stop=["\0"])
        self.generate_fails("INVALID_ARGUMENT", "INVALID_FIELD",
                            field="model", text="a", model="\0")
        self.generate_fails("INVALID_ARGUMENT", "INVALID_FIELD",
                            field="session_id", text="a", session="s\0")
        self.invalid(self.server.inference.Tokenize,
                     inference.TokenizeRequest(text="\0"), "text")
        self.invalid(self.server.inference.GetModel,
                     inference.GetModelRequest(name="\0"), "name")

    def test_tokens_outside_the_vocabulary_are_named(self):
        self.generate_fails("INVALID_ARGUMENT", "INVALID_FIELD",
                            field="tokens.ids[2]", given="3072",
                            ids=[1, 2, 3072])
        self.invalid(self.server.inference.Detokenize,
                     inference.DetokenizeRequest(
                         token_ids=[5, 2 ** 32 - 1]), "token_ids[1]",
                     given="4294967295")

    def test_a_conversation_without_any_token_is_refused(self):
        for fields in (dict(), dict(session="new"), dict(ids=[]),
                       dict(session="new", ids=[])):
            with self.subTest(**fields):
                self.generate_fails("INVALID_ARGUMENT", "INVALID_FIELD",
                                    **fields)

    def test_retention_needs_a_session(self):
        failure = self.generate_fails(
            "INVALID_ARGUMENT", "INVALID_FIELD", text="a",
            retention=common.RetentionSettings(
                idle_ttl=common.DurationSetting(duration_ns=10 ** 9)))
        self.assertTrue(any(f.startswith("retention")
                            for f in failure.fields))

    def test_a_prompt_longer_than_the_context_says_by_how_much(self):
        failure = self.generate_fails("INVALID_ARGUMENT", "PROMPT_TOO_LONG",
                                      ids=[5] * 600, session="too-long")
        self.assertEqual((failure.metadata["tokens"],
                          failure.metadata["limit"]), ("600", "context"))
        self.too_long_by_one(int(failure.metadata["limit_tokens"]))

    def test_a_model_of_another_name_is_not_found(self):
        name = self.server.inference.GetModel(
            inference.GetModelRequest(), timeout=CALL_SECONDS).model.name
        stub = self.server.inference
        for call in (
                lambda: stub.Generate(generate_request(text="a", model="x"),
                                      timeout=CALL_SECONDS),
                lambda: stub.Tokenize(inference.TokenizeRequest(
                    text="a", model="x"), timeout=CALL_SECONDS),
                lambda: stub.Detokenize(inference.DetokenizeRequest(
                    token_ids=[5], model="x"), timeout=CALL_SECONDS),
                lambda: stub.GetModel(inference.GetModelRequest(name="x"),
                                      timeout=CALL_SECONDS)):
            failure = self.fails("NOT_FOUND", "MODEL_NOT_FOUND", call)
            self.assertEqual(failure.metadata, {"model": name})

    def test_targets_are_checked_one_by_one(self):
        target, evict = session_target("witness"), pool.EvictRequest
        call = self.server.pool.Evict
        self.invalid(call, evict(), "targets", allowed="256")
        self.invalid(call, evict(targets=[target] * 257), "targets",
                     given="257", allowed="256")
        self.invalid(call, evict(targets=[target, pool.EvictTarget()]),
                     "targets[1].target")
        self.invalid(call, evict(targets=[session_target("")]),
                     "targets[0].session.session_id")
        self.invalid(call, evict(targets=[target, session_target("a\tb")]),
                     "targets[1].session.session_id")
        self.invalid(call, evict(targets=[session_target("a", "\0")]),
                     "targets[0].session.tenant")
        self.invalid(call, evict(targets=[pool.EvictTarget(
            tenant="t" * 129)]), "targets[0].tenant")
        self.invalid(call, evict(targets=[target], max_sessions=10001),
                     "max_sessions", given="10001", allowed="10000")
        self.invalid(call, evict(targets=[target], page_size=1001),
                     "page_size", given="1001", allowed="1000")
        self.invalid(call, evict(targets=[target], wait=7), "wait",
                     given="7")

    def test_questions_about_the_pool_are_checked(self):
        server, query = self.server.pool, pool.SessionQuery
        self.invalid(server.Snapshot, pool.SnapshotRequest(sections=[0]),
                     "sections[0]")
        self.invalid(server.Snapshot, pool.SnapshotRequest(sections=[99]),
                     "sections[0]", given="99")
        self.invalid(server.Snapshot, pool.SnapshotRequest(
            sections=[pool.SNAPSHOT_SECTION_SESSIONS],
            sessions=query(page_size=1001)), "sessions.page_size",
            given="1001")
        listing = pool.ListSessionsRequest
        self.invalid(server.ListSessions, listing(page_size=1001),
                     "page_size", given="1001", allowed="1000")
        self.invalid(server.ListSessions, listing(order=77), "order",
                     given="77")
        self.invalid(server.ListSessions, listing(filter=pool.SessionFilter(
            tenants=["a"] * 65)), "filter.tenants", given="65")
        self.invalid(server.ListSessions, listing(filter=pool.SessionFilter(
            tenants=["a", "\n"])), "filter.tenants[1]")

    def test_a_stream_is_checked_before_it_begins(self):
        for field, request in {
                "max_batch": dict(max_batch=1025),
                "slow_reader_policy": dict(slow_reader_policy=9)}.items():
            with self.subTest(field):
                failure = self.fails(
                    "INVALID_ARGUMENT", "INVALID_FIELD",
                    lambda r=request: self.server.pool.StreamReceipts(
                        pool.StreamReceiptsRequest(**r),
                        timeout=CALL_SECONDS))
                self.assertIn(field, failure.fields)

    # --- requests that are no messages ---

    def raw(self, method, body, stream=False):
        kind = (self.server.channel.unary_stream if stream
                else self.server.channel.unary_unary)
        return kind(method, request_serializer=lambda b: b,
                    response_deserializer=lambda b: b)(
                        body, timeout=CALL_SECONDS)

    def test_bytes_that_are_not_utf8_are_refused_by_field(self):
        generate_method = "/kvpool.v1.InferenceService/Generate"
        evict_method = "/kvpool.v1.KvPoolService/Evict"
        for bad in (b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"a\xe2\x82"):
            def field(number, payload=bad):
                return bytes([number << 3 | 2, len(payload)]) + payload

            text = b"\x1a\x01a"
            for name, body in {"session_id": field(1) + text,
                               "tenant": field(2) + text,
                               "text": field(3),
                               "stop[0]": text + field(7),
                               "model": text + field(14)}.items():
                with self.subTest(name, bad=bad):
                    self.fails("INVALID_ARGUMENT", "INVALID_FIELD",
                               lambda b=body: self.raw(generate_method, b,
                                                       True), field=name)
            session_key = field(2)
            target = b"\x0a" + bytes([len(session_key)]) + session_key
            body = b"\x0a" + bytes([len(target)]) + target
            with self.subTest("targets", bad=bad):
                self.fails("INVALID_ARGUMENT", "INVALID_FIELD",
                           lambda b=body: self.raw(evict_method, b),
                           field="targets[0].session.session_id")

    def test_bytes_that_are_no_message_are_refused(self):
        bodies = (b"\xff" * 40, b"\x0a", b"\x0a\xff\xff\xff\xff\x0f",
                  b"\x0b" * 1000, b"\x00", b"\x0a\x05ab")
        for service, method, stream in (
                ("KvPoolService", "Evict", False),
                ("KvPoolService", "Snapshot", False),
                ("KvPoolService", "ListSessions", False),
                ("KvPoolService", "StreamReceipts", True),
                ("InferenceService", "Generate", True),
                ("InferenceService", "Tokenize", False),
                ("InferenceService", "GetModel", False)):
            path = "/kvpool.v1.%s/%s" % (service, method)
            for body in bodies:
                with self.subTest(path, body=body[:8]):
                    with self.assertRaises(grpc.RpcError) as caught:
                        list(self.raw(path, body, True))
                    self.assertEqual(caught.exception.code(),
                                     grpc.StatusCode.INVALID_ARGUMENT)

    def test_a_method_or_service_that_is_not_there_is_unimplemented(self):
        for path in ("/kvpool.v1.KvPoolService/Nothing", "/no.Service/Get",
                     "/", "/x", "/kvpool.v1.KvPoolService/"):
            with self.subTest(path):
                with self.assertRaises(grpc.RpcError) as caught:
                    self.raw(path, b"")
                failure = Failure(caught.exception)
                self.assertEqual((failure.code, failure.reason,
                                  failure.metadata),
                                 ("UNIMPLEMENTED", "RPC_NOT_SUPPORTED",
                                  {"rpc": path}))

    def test_a_request_that_is_too_large_is_refused_and_the_next_served(self):
        with self.assertRaises(grpc.RpcError) as caught:
            self.server.inference.Tokenize(
                inference.TokenizeRequest(text="a" * (2 << 20)),
                timeout=CALL_SECONDS)
        failure = Failure(caught.exception)  # gRPC's own: it has no details
        self.assertEqual((failure.code, failure.n_infos),
                         ("RESOURCE_EXHAUSTED", 0))
        self.server.inference.Tokenize(
            inference.TokenizeRequest(text="a " * 100000),
            timeout=CALL_SECONDS)


class ConflictTest(ServerTest):
    flags = ("--kv-cache-size-mb=1", "--max-batch-size=1",
             "--max-waiting-requests=1", "--kv-type=f32")

    LONG = dict(text="For God so loved the world", max_tokens=150,
                sampling=SAMPLING(temperature=2, seed=3))

    def begin(self, **fields):
        """A call in generation, and the rest of its messages."""
        call = self.server.inference.Generate(
            generate_request(**dict(self.LONG, **fields)),
            timeout=CALL_SECONDS)
        for message in call:
            if message.token_ids:
                return call
        raise self.failureException("no token came")

    def test_a_session_takes_one_call_at_a_time(self):
        call = self.begin(session="busy", tenant="t")
        failure = self.generate_fails("ABORTED", "SESSION_BUSY",
                                      text="a", session="busy", tenant="t")
        self.assertEqual(failure.metadata,
                         {"tenant": "t", "session_id": "busy"})
        list(call)

    def test_a_full_queue_is_refused_with_its_limit(self):
        call = self.begin()
        waiting = self.server.inference.Generate(
            generate_request(text="a", max_tokens=1), timeout=CALL_SECONDS)
        while self.snapshot().load.waiting_requests == 0:
            pass
        failure = self.generate_fails("RESOURCE_EXHAUSTED", "QUEUE_FULL",
                                      text="a", max_tokens=1)
        self.assertEqual(failure.metadata["limit"], "1")
        call.cancel()
        list(waiting)

    def test_a_prompt_longer_than_the_whole_pool_says_so(self):
        model = self.server.inference.GetModel(
            inference.GetModelRequest(), timeout=CALL_SECONDS).model
        room = model.limits.pool_tokens
        self.assertLess(room, model.context_length)
        failure = self.generate_fails("INVALID_ARGUMENT", "PROMPT_TOO_LONG",
                                      ids=[5] * (room + 1))
        self.assertEqual((failure.metadata["tokens"],
                          failure.metadata["limit"]),
                         (str(room + 1), "pool"))
        limit = int(failure.metadata["limit_tokens"])
        self.assertIn(limit, (room - 1, room))
        out = generate(self.server, ids=[5] * limit, max_tokens=5)
        self.assertIn(out.reason, ("CONTEXT_FULL", "END_OF_TEXT"))


if __name__ == "__main__":
    main()
