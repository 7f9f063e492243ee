"""Generate, Tokenize, Detokenize, GetModel: what comes out is what the model
says, whatever the cache, the batch and the evictions do."""
import json
import os
import threading

import grpc

from kvpool_e2e import (CALL_SECONDS, SOURCE, Failure, ServerTest,
                        generate_request, inference, main, pool,
                        session_target, wait_until)

with open(os.path.join(SOURCE, "engine", "demo", "expected.json"),
          encoding="utf-8") as file:
    EXPECTED = next(m["cases"] for m in json.load(file)["models"]
                    if m["file"] == "demo.gguf")
STRICT = [case for case in EXPECTED if case["strict"]]
EOS = 2


def sampling(**fields):
    return inference.SamplingParameters(**fields)


class ConversationTest(ServerTest):
    flags = ("--kv-cache-size-mb=24", "--max-batch-size=8")

    def tokenize(self, text, **fields):
        return self.server.inference.Tokenize(
            inference.TokenizeRequest(text=text, **fields),
            timeout=CALL_SECONDS)

    def detokenize(self, ids, **fields):
        return self.server.inference.Detokenize(
            inference.DetokenizeRequest(token_ids=ids, **fields),
            timeout=CALL_SECONDS)

    def sessions(self):
        return {s.key.session_id: s for s in
                self.server.pool.ListSessions(
                    pool.ListSessionsRequest(page_size=1000),
                    timeout=CALL_SECONDS).sessions}

    # --- what the model says ---

    def test_greedy_tokens_are_those_of_the_reference(self):
        for case in STRICT:
            out = self.generate(text=case["prompt"], max_tokens=64)
            ids = case["ids"][:case["eos_at"]]
            self.assertEqual(out.ids[:len(ids)], ids, case["prompt"])
            self.assertIn(out.ids[len(ids):], ([], [EOS]), case["prompt"])
            self.assertEqual(out.text.strip(), case["text"].strip())
            self.assertEqual(out.reason, "END_OF_TEXT")
            self.assertEqual(out.usage.prompt_tokens, len(case["prompt_ids"]))
            self.assertEqual(out.usage.generated_tokens, len(ids) + 1)

    def test_the_prompt_becomes_the_tokens_of_the_reference(self):
        for case in EXPECTED:
            answer = self.tokenize(case["prompt"], add_special=True,
                                   with_pieces=True)
            self.assertEqual(list(answer.token_ids), case["prompt_ids"])
            self.assertEqual(len(answer.pieces), len(answer.token_ids))

    def test_text_survives_tokens_and_back(self):
        for text in ("a", "a river", "Grüße, 世界 🌍!", "a\n\tb  c",
                     "\u00a0\u2028", "é" * 300, "🏳️‍🌈"):
            ids = self.tokenize(text).token_ids
            back = self.detokenize(ids)
            self.assertEqual(back.text, text)
            self.assertEqual(back.raw, text.encode())
        self.assertEqual(list(self.tokenize("").token_ids), [])
        self.assertEqual(self.detokenize([]).raw, b"")

    def test_bytes_that_are_no_character_show_as_replacement_and_stay_in_raw(
            self):
        ids = list(self.tokenize("🌍").token_ids)
        cut = self.detokenize(ids[:-1])
        self.assertIn("\ufffd", cut.text)
        self.assertTrue("🌍".encode().startswith(cut.raw.lstrip()))

    def test_names_of_special_tokens_are_shown_and_parsed_if_asked_for(self):
        text = "<s>A dog</s> A ship<unk>"
        ids = list(self.tokenize(text, parse_special=True).token_ids)
        self.assertEqual((ids[0], ids[-1], ids.count(EOS)), (1, 0, 1))
        self.assertEqual(self.detokenize(ids, with_special=True).text, text)
        self.assertEqual(self.detokenize(ids).text, "A dog  A ship")
        plain = list(self.tokenize(text).token_ids)
        self.assertFalse({0, 1, EOS} & set(plain))
        self.assertEqual(self.detokenize(plain, with_special=True).text, text)
        named = self.tokenize("A dog", parse_special=True, add_special=True)
        self.assertEqual(list(named.token_ids), ids[:ids.index(EOS)])

    def test_tokens_in_are_as_text_in(self):
        for case in STRICT[:3]:
            by_text = self.generate(text=case["prompt"], max_tokens=12)
            by_ids = self.generate(ids=case["prompt_ids"], max_tokens=12)
            self.assertEqual(by_text.ids, by_ids.ids)

    # --- the shape of an answer ---

    def test_started_comes_first_and_finished_last_and_each_once(self):
        out = self.generate(text="What is a river?", session="shape",
                            max_tokens=6)
        self.assertTrue(out.messages[0].HasField("started"))
        self.assertTrue(out.messages[-1].HasField("finished"))
        self.assertEqual(
            sum(m.HasField("started") for m in out.messages), 1)
        self.assertEqual(
            sum(m.HasField("finished") for m in out.messages), 1)
        self.assertTrue(out.started.created)
        self.assertNotEqual(out.started.model, "")
        usage = out.usage
        self.assertEqual(usage.generated_tokens, 6)
        self.assertEqual(usage.session_tokens,
                         usage.prompt_tokens + usage.generated_tokens)
        self.assertGreater(usage.ttft_ns, 0)
        self.assertGreaterEqual(usage.total_ns,
                                usage.ttft_ns + usage.decode_ns)
        self.assertGreaterEqual(usage.ttft_ns, usage.queue_ns)

    def test_the_stream_says_what_detokenize_says_of_its_tokens(self):
        prompt = "Question: What is a planet?\nAnswer:"
        head = list(self.tokenize(prompt, add_special=True).token_ids)
        for seed in range(1, 9):
            out = self.generate(
                text=prompt, max_tokens=40,
                sampling=sampling(temperature=2, seed=seed))
            whole = self.detokenize(head + out.ids).text
            self.assertEqual(whole, prompt + out.text)

    def test_max_tokens_cuts_and_changes_nothing_before(self):
        whole = self.generate(text="A lantern is", max_tokens=12).ids
        for n in (1, 2, 7):
            out = self.generate(text="A lantern is", max_tokens=n)
            self.assertEqual(out.ids, whole[:n])
            self.assertEqual(out.reason, "MAX_TOKENS")
            self.assertEqual(out.usage.generated_tokens, n)

    def test_a_stop_string_ends_the_text_before_it_wherever_tokens_are_cut(
            self):
        prompt = "What is a dog?"
        text = self.generate(text=prompt, max_tokens=64).text
        for stop in ("genus", "f the ge", ".", " member of", text[:1]):
            out = self.generate(text=prompt, max_tokens=64, stop=[stop])
            self.assertEqual(out.reason, "STOP_STRING", stop)
            self.assertEqual(out.finished.stop, stop)
            self.assertEqual(out.text, text[:text.index(stop)])
        out = self.generate(text=prompt, max_tokens=64,
                            stop=["nowhere in it", "genus", "member"])
        self.assertEqual(out.finished.stop, "member")
        self.assertEqual(out.text, text[:text.index("member")])
        out = self.generate(text=prompt, max_tokens=64, stop=["prehistoric x"])
        self.assertEqual((out.reason, out.text), ("END_OF_TEXT", text))

    def test_a_full_context_ends_the_generation(self):
        context = self.server.inference.GetModel(
            inference.GetModelRequest(),
            timeout=CALL_SECONDS).model.context_length
        reasons = set()
        for word in (318, 283, 260, 265, 290, 2217):
            out = self.generate(ids=[1] + [word] * (context - 5),
                                max_tokens=context)
            self.assertLessEqual(
                out.usage.prompt_tokens + out.usage.generated_tokens,
                context + 1)
            reasons.add(out.reason)
            if "CONTEXT_FULL" in reasons:
                break
        self.assertIn("CONTEXT_FULL", reasons)
        self.assertLessEqual(reasons, {"CONTEXT_FULL", "END_OF_TEXT"})

    # --- sessions ---

    def turns(self, name, evict_between=False):
        """As a tenant of its own, with whom nobody shares a beginning."""
        first = self.generate(text="What is a dog?", session=name,
                              tenant=name, max_tokens=20)
        if evict_between:
            answer = self.evict(session_target(name, name))
            self.assertEqual(answer.sessions_evicted, 1)
        second = self.generate(text="What is a river?", session=name,
                               tenant=name, max_tokens=20)
        return first, second

    def test_a_session_goes_on_from_its_cached_tokens(self):
        first, second = self.turns("goes-on")
        self.assertTrue(first.started.created)
        self.assertFalse(second.started.created)
        held = first.usage.session_tokens
        self.assertEqual(first.usage.cached_tokens, 0)
        self.assertGreaterEqual(second.usage.cached_tokens, held - 16)
        self.assertLess(second.usage.cached_tokens,
                        held + second.usage.prompt_tokens)
        self.assertEqual(second.usage.recomputed_tokens, 0)
        self.assertEqual(second.started.cached_tokens,
                         second.usage.cached_tokens)
        self.assertEqual(
            second.usage.session_tokens,
            held + second.usage.prompt_tokens + second.usage.generated_tokens)
        self.assertEqual(self.sessions()["goes-on"].tokens,
                         second.usage.session_tokens)

    def test_an_evicted_session_recomputes_to_the_same_tokens(self):
        _, plain = self.turns("plain")
        _, evicted = self.turns("evicted", evict_between=True)
        self.assertEqual(evicted.ids, plain.ids)
        self.assertEqual(evicted.usage.cached_tokens, 0)
        self.assertGreater(evicted.usage.recomputed_tokens, 0)
        self.assertFalse(evicted.started.created)

    def test_sessions_that_begin_alike_hold_the_same_blocks(self):
        prompt = "What is a dog? " * 8
        held = self.snapshot().blocks
        fields = dict(text=prompt, tenant="alike", max_tokens=12)
        outs = [self.generate(session=name, **fields) for name in "abc"]
        full = outs[0].usage.prompt_tokens // 16 * 16
        self.assertEqual(outs[0].usage.cached_tokens, 0)
        for out in outs[1:]:
            self.assertEqual(out.ids, outs[0].ids)
            self.assertGreaterEqual(out.usage.cached_tokens, full - 16)
        blocks = self.snapshot().blocks
        self.assertGreaterEqual(blocks.shared - held.shared, full // 16 - 1)
        other = self.generate(session="a", text=prompt, tenant="other",
                              max_tokens=12)
        self.assertEqual((other.ids, other.usage.cached_tokens),
                         (outs[0].ids, 0))
        outcome, = self.evict(session_target("a", "alike")).outcomes
        self.assertGreater(outcome.shared_blocks_kept, 0)
        again = self.generate(session="d", **fields)
        self.assertEqual(again.ids, outs[0].ids)
        self.assertGreaterEqual(again.usage.cached_tokens, full - 16)

    def test_two_turns_are_as_one_call_with_all_their_tokens(self):
        first, second = self.turns("two-turns")
        head = list(self.tokenize("What is a dog?",
                                  add_special=True).token_ids)
        tail = list(self.tokenize("What is a river?").token_ids)
        self.assertEqual(len(first.ids), 20)
        one = self.generate(ids=head + first.ids + tail, max_tokens=20)
        self.assertEqual(one.ids, second.ids)

    def test_tenants_may_use_one_id_for_different_sessions(self):
        a = self.generate(text="What is a dog?", session="same", tenant="a",
                          max_tokens=4)
        b = self.generate(text="What is a river?", session="same", tenant="b",
                          max_tokens=4)
        self.assertTrue(a.started.created and b.started.created)
        self.assertEqual(
            b.ids, self.generate(text="What is a river?", max_tokens=4).ids)

    def test_without_a_session_full_blocks_stay_for_the_next(self):
        prompt = "Once upon a time there was a dog who saw a ship. " * 2
        before = self.snapshot()
        out = self.generate(text=prompt, tenant="router", max_tokens=8)
        self.assertEqual(out.usage.session_tokens, 0)
        self.assertEqual(out.usage.cached_tokens, 0)
        self.assertNotIn("", self.sessions())
        after = self.snapshot()
        self.assertEqual(after.statistics.total_sessions,
                         before.statistics.total_sessions + 1)

        # Without a session again, with more of the conversation, and with one.
        ids = list(self.tokenize(prompt, add_special=True).token_ids)
        full = len(ids) // 16 * 16
        again = self.generate(text=prompt, tenant="router", max_tokens=8)
        self.assertGreaterEqual(again.usage.cached_tokens, full - 16)
        self.assertEqual(again.ids, out.ids)
        longer = self.generate(tokens=inference.TokenIds(ids=ids + out.ids[:1]),
                               tenant="router", session="named", max_tokens=7)
        self.assertEqual(longer.usage.cached_tokens, full)
        self.assertEqual(longer.ids, out.ids[1:])
        other = self.generate(text=prompt, tenant="another", max_tokens=8)
        self.assertEqual(other.usage.cached_tokens, 0)

        # A tenant's are evicted with its sessions, by prefix too.
        answer = self.evict(pool.EvictTarget(prefix=pool.EvictPrefix(
            tenant="router", token_ids=ids[:16])))
        names = [o.session.session_id for o in answer.outcomes]
        self.assertIn("named", names)
        self.assertIn("", names)
        self.assertEqual({o.session.tenant for o in answer.outcomes},
                         {"router"})
        fresh = self.generate(text=prompt, tenant="router", max_tokens=8)
        self.assertEqual((fresh.usage.cached_tokens, fresh.ids),
                         (0, out.ids))

    def test_an_empty_input_continues_where_the_session_ended(self):
        whole = self.generate(text="What is a dog?", max_tokens=16).ids
        self.generate(text="What is a dog?", session="empty", max_tokens=6)
        rest = self.generate(session="empty", max_tokens=10)
        self.assertEqual(rest.usage.prompt_tokens, 0)
        self.assertEqual(rest.ids, whole[6:])

    # --- where a conversation goes on ---

    def goes_on(self, session, n_tokens, **fields):
        return self.generate(
            session=session, tenant=session, max_tokens=20,
            continue_from=inference.ContinueFrom(tokens=n_tokens), **fields)

    def test_a_session_continues_from_any_of_its_tokens(self):
        _, river = self.turns("river")
        first, _ = self.turns("turned")
        held = first.usage.session_tokens
        self.goes_on("turned", held, text="What is a ship?")
        again = self.goes_on("turned", held, text="What is a river?")
        self.assertEqual(again.ids, river.ids)
        self.assertEqual(again.usage.session_tokens,
                         river.usage.session_tokens)
        self.assertEqual(again.usage.prompt_tokens, river.usage.prompt_tokens)
        # In the middle of a block, and of what was generated.
        cut = held - 7
        rest = self.goes_on("turned", cut)
        self.assertEqual(rest.ids[:7], first.ids[13:])
        self.assertEqual(rest.usage.cached_tokens, cut - 1)
        self.assertEqual(self.sessions()["turned"].tokens,
                         cut + len(rest.ids))

    def test_a_repeated_turn_uses_what_is_there_of_it(self):
        first, second = self.turns("repeated")
        held, said = first.usage.session_tokens, second.usage.prompt_tokens
        again = self.goes_on("repeated", held, text="What is a river?")
        self.assertEqual(again.ids, second.ids)
        self.assertEqual(again.usage.cached_tokens, held + said - 1)
        self.assertEqual(again.usage.recomputed_tokens, 0)
        # The whole conversation, as those send it who know of no sessions.
        head = list(self.tokenize("What is a dog?",
                                  add_special=True).token_ids)
        tail = list(self.tokenize("What is a river?").token_ids)
        whole = self.goes_on("repeated", 0, ids=head + first.ids + tail)
        self.assertEqual(whole.ids, second.ids)
        self.assertEqual(whole.usage.cached_tokens, held + said - 1)
        # Another one: the text has a beginning again.
        other = self.goes_on("repeated", 0, text="What is a river?")
        self.assertEqual(other.ids, self.generate(text="What is a river?",
                                                  max_tokens=20).ids)
        self.assertEqual(other.usage.session_tokens,
                         other.usage.prompt_tokens + len(other.ids))

    def test_an_evicted_session_continues_from_any_of_its_tokens(self):
        first, second = self.turns("forked")
        self.evict(session_target("forked", "forked"))
        again = self.goes_on("forked", first.usage.session_tokens,
                             text="What is a river?")
        self.assertEqual(again.ids, second.ids)

    def test_a_session_does_not_continue_from_tokens_that_it_has_not(self):
        first, _ = self.turns("short")
        held = self.sessions()["short"].tokens
        for session, tokens in ("short", held), ("nobody", 0):
            failure = self.fails(
                "FAILED_PRECONDITION", "SESSION_TOO_SHORT",
                lambda: self.goes_on(session, tokens + 1, text="a"))
            self.assertEqual(failure.metadata["tokens"], str(tokens))
        self.assertEqual(self.sessions()["short"].tokens, held)
        self.assertNotIn("nobody", self.sessions())
        self.fails("INVALID_ARGUMENT", "INVALID_FIELD",
                   lambda: self.goes_on("short", 0), field="input")
        self.fails("INVALID_ARGUMENT", "INVALID_FIELD",
                   lambda: self.goes_on("", 0, text="a"),
                   field="continue_from")
        # What is dropped makes room for what comes.
        room = self.goes_on("short", 1, ids=[5] * 490)
        self.assertEqual(room.usage.prompt_tokens, 490)

    # --- fetched ahead ---

    def test_a_prefill_computes_the_input_and_generates_nothing(self):
        prompt = "Once upon a time there was a dog who saw a ship. " * 2
        fields = dict(text=prompt, session="ahead", tenant="ahead",
                      max_tokens=8)
        ahead = self.generate(prefill_only=True, logprobs=True, **fields)
        n = ahead.usage.prompt_tokens
        self.assertEqual((ahead.reason, ahead.ids, ahead.text),
                         ("MAX_TOKENS", [], ""))
        self.assertEqual((ahead.usage.generated_tokens, ahead.usage.ttft_ns,
                          ahead.usage.session_tokens), (0, 0, n))
        out = self.generate(session="ahead", tenant="ahead", max_tokens=8)
        self.assertEqual(out.usage.cached_tokens, n - 1)
        plain = self.generate(text=prompt, max_tokens=8)
        self.assertEqual(out.ids, plain.ids)
        # Of an evicted session, without a word more.
        self.evict(session_target("ahead", "ahead"))
        again = self.generate(session="ahead", tenant="ahead",
                              prefill_only=True)
        self.assertEqual(again.usage.recomputed_tokens, n + 7)
        out = self.generate(session="ahead", tenant="ahead", max_tokens=8)
        self.assertEqual(out.usage.recomputed_tokens, 0)

    def test_a_prefill_without_a_session_leaves_a_beginning(self):
        prompt = "Once upon a time there was a ship who saw a dog. " * 2
        ahead = self.generate(text=prompt, tenant="system", prefill_only=True)
        out = self.generate(text=prompt, tenant="system", max_tokens=8)
        self.assertEqual(out.usage.cached_tokens,
                         (ahead.usage.prompt_tokens - 1) // 16 * 16)

    # --- sampling ---

    def sample(self, seed, **fields):
        return self.generate(
            text="In the beginning", max_tokens=24,
            sampling=sampling(temperature=1, seed=seed, **fields))

    def test_a_seed_repeats_and_another_differs(self):
        self.assertEqual(self.sample(7).ids, self.sample(7).ids)
        self.assertGreater(
            len({tuple(self.sample(seed).ids) for seed in range(1, 6)}), 1)

    def test_the_server_reports_the_seed_that_it_chose(self):
        first = self.sample(0)
        self.assertNotEqual(first.started.seed, 0)
        self.assertEqual(self.sample(first.started.seed).ids, first.ids)
        self.assertEqual(self.sample(9).started.seed, 9)

    def test_the_only_candidate_is_the_greedy_one(self):
        greedy = self.generate(text="In the beginning", max_tokens=24).ids
        self.assertEqual(self.sample(5, top_k=1).ids, greedy)
        self.assertEqual(self.sample(5, top_p=1e-6).ids, greedy)

    def test_the_rest_of_the_batch_changes_no_tokens(self):
        def work(i):
            request = dict(text=EXPECTED[i % len(EXPECTED)]["prompt"],
                           max_tokens=24)
            if i % 2:
                request["sampling"] = sampling(temperature=1, seed=i + 1,
                                               top_p=0.9, top_k=50)
            return self.generate(**request).ids

        alone = [work(i) for i in range(16)]
        together = [None] * 16

        def run(i):
            together[i] = work(i)
        threads = [threading.Thread(target=run, args=(i,)) for i in range(16)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        self.assertEqual(together, alone)

    # --- callers that go away ---

    def retry_while_busy(self, **fields):
        def answer():
            try:
                return self.generate(**fields)
            except grpc.RpcError as error:
                failure = Failure(error)
                self.assertEqual(failure.reason, "SESSION_BUSY",
                                 repr(failure))
                return None

        return wait_until(answer, "a free session")

    def test_a_cancelled_call_leaves_its_session_usable(self):
        call = self.server.inference.Generate(generate_request(
            text="For God so loved the world", session="cancelled",
            max_tokens=400, sampling=sampling(temperature=2, seed=3)))
        for message in call:
            if message.token_ids:
                break
        call.cancel()
        again = self.retry_while_busy(text="What is a dog?",
                                      session="cancelled", max_tokens=4)
        self.assertFalse(again.started.created)
        self.assertEqual(again.usage.generated_tokens, 4)

    def test_a_deadline_ends_the_call_and_nothing_else(self):
        request = generate_request(text="For God so loved the world",
                                   session="late", max_tokens=400,
                                   sampling=sampling(temperature=2, seed=3))
        with self.assertRaises(grpc.RpcError) as caught:
            list(self.server.inference.Generate(request, timeout=0.001))
        self.assertEqual(caught.exception.code(),
                         grpc.StatusCode.DEADLINE_EXCEEDED)
        self.retry_while_busy(text="What is a dog?", session="late",
                              max_tokens=4)

    # --- the model ---

    def test_the_model_says_what_it_is_and_costs(self):
        model = self.server.inference.GetModel(
            inference.GetModelRequest(), timeout=CALL_SECONDS).model
        self.assertEqual(model.architecture, "bitnet")
        self.assertEqual((model.vocab_size, model.context_length),
                         (3072, 512))
        self.assertEqual((model.bos_token_id, list(model.eos_token_ids),
                          model.adds_bos), (1, [EOS], True))
        self.assertEqual((model.kv_type, model.kv_bytes_per_token),
                         ("f16", 3072))
        shape = model.shape
        self.assertEqual(
            (shape.layers, shape.embedding_length, shape.feed_forward_length,
             shape.heads, shape.kv_heads, shape.head_length),
            (6, 256, 512, 8, 4, 32))
        self.assertIn("TQ2_0", [t.type for t in model.tensor_types])
        sizes = [t.bytes for t in model.tensor_types]
        self.assertEqual(sizes, sorted(sizes, reverse=True))
        self.assertEqual(model.limits.max_batch_size, 8)
        self.assertEqual(model.memory.kv_bytes, 24 << 20)
        self.assertGreater(model.threads, 0)
        named = self.server.inference.GetModel(
            inference.GetModelRequest(name=model.name), timeout=CALL_SECONDS)
        self.assertEqual(named.model.name, model.name)


class NothingStaysTest(ServerTest):
    flags = ("--kv-cache-size-mb=8", "--max-beginnings=0")

    def test_without_a_session_nothing_stays_if_that_is_wanted(self):
        for _ in range(2):
            out = self.generate(text="What is a dog?" * 4, max_tokens=8)
            self.assertEqual(out.usage.cached_tokens, 0)
        after = self.snapshot()
        self.assertEqual(after.statistics.total_sessions, 0)
        self.assertEqual(after.statistics.used_memory_bytes, 0)


class SweepTest(ServerTest):
    flags = ("--kv-cache-size-mb=8", "--high-watermark-percent=50",
             "--low-watermark-percent=20", "--sweep-blocks=2",
             "--max-beginnings=0")

    def test_a_sweep_keeps_use_between_the_watermarks(self):
        for i in range(300):
            self.generate(text="%d: once upon a time there was a dog" % i,
                          session="s%d" % i, max_tokens=2)
            snapshot = self.snapshot()
            blocks = snapshot.blocks
            self.assertLessEqual(blocks.cached, blocks.total // 2 + 4)
            if snapshot.evictions_by_reason:
                break
        else:
            self.fail("nobody was evicted")

        def is_swept():
            blocks = self.snapshot().blocks
            return blocks.cached * 5 <= blocks.total + 4

        wait_until(is_swept, "below the low watermark")
        reasons = self.snapshot().evictions_by_reason
        self.assertEqual([r.reason for r in reasons], [2])  # LRU


if __name__ == "__main__":
    main()
