"""How tokens are chosen: every field of SamplingParameters and the
log-probabilities, through Generate. What the model says at each step is known
from `top_logprobs`, so a choice can be computed again here."""
import math
import threading

from kvpool_e2e import (CALL_SECONDS, Generated, ServerTest, generate_request,
                        inference, main, session_target, wait_until)

PROMPT = "What is a river?"


def sampling(**fields):
    return inference.SamplingParameters(**fields)


def bias(**tokens):
    """bias(t5=1) adds 1 to the logit of token 5."""
    return [inference.LogitBias(token_id=int(t[1:]), bias=b)
            for t, b in tokens.items()]


def penalised(logprob, token, seen, frequency=0.0, presence=0.0):
    """Not for a repetition penalty, which needs the logit itself."""
    count = seen.count(token)
    return logprob - frequency * count - (presence if count else 0)


class SamplingTest(ServerTest):
    flags = ("--kv-cache-size-mb=24", "--max-batch-size=8")

    def tokenize(self, text):
        return self.server.inference.Tokenize(
            inference.TokenizeRequest(text=text, add_special=True,
                                      with_pieces=True),
            timeout=CALL_SECONDS)

    def run_with(self, logprobs=None, max_tokens=24, text=PROMPT, **fields):
        request = {"session": fields.pop("session", ""),
                   "ignore_eos": fields.pop("ignore_eos", False)}
        if logprobs is not None:
            request.update(logprobs=True, top_logprobs=logprobs)
        return self.generate(text=text, max_tokens=max_tokens,
                             sampling=sampling(**fields), **request)

    @staticmethod
    def logprobs(out):
        return [p for m in out.messages for p in m.logprobs]

    # --- neutral values, and those that leave no choice ---

    def test_neutral_values_change_nothing(self):
        for base in (dict(), dict(temperature=1, seed=5)):
            plain = self.run_with(**base).ids
            for fields in (dict(repetition_penalty=1),
                           dict(penalty_window=7),
                           dict(logit_bias=bias(t5=0))):
                self.assertEqual(self.run_with(**base, **fields).ids, plain,
                                 fields)

    def test_a_min_p_of_one_leaves_the_best(self):
        greedy = self.run_with().ids
        self.assertEqual(
            self.run_with(temperature=2, seed=3, min_p=1).ids, greedy)

    def test_a_biased_token_is_always_chosen_and_a_banned_one_never(self):
        for temperature in (0, 2):
            out = self.run_with(temperature=temperature, seed=3,
                                logit_bias=bias(t77=100))
            self.assertEqual(out.ids, [77] * 24)
            self.assertEqual(out.reason, "MAX_TOKENS")
        banned = self.run_with().ids[:4]
        out = self.run_with(logit_bias=bias(
            **{"t%d" % token: -100 for token in set(banned)}))
        self.assertFalse(set(banned) & set(out.ids))

    def test_a_repetition_penalty_makes_for_more_different_tokens(self):
        plain = self.run_with(max_tokens=60, ignore_eos=True).ids
        heavy = self.run_with(max_tokens=60, ignore_eos=True,
                              repetition_penalty=2, penalty_window=512).ids
        self.assertGreater(len(set(heavy)), len(set(plain)))

    def test_an_ignored_end_of_text_is_a_token_like_others(self):
        plain = self.run_with(max_tokens=90)
        self.assertEqual(plain.reason, "END_OF_TEXT")
        longer = self.run_with(max_tokens=90, ignore_eos=True)
        self.assertEqual(longer.reason, "MAX_TOKENS")
        self.assertEqual(len(longer.ids), 90)
        self.assertEqual(longer.ids[:len(plain.ids)], plain.ids)

    # --- against what the model says ---

    def test_penalties_are_as_computed_from_the_log_probabilities(self):
        """Greedy with penalties is the best penalised token. The client sees
        20 candidates; one that it does not see is no better than the last."""
        prompt = list(self.tokenize(PROMPT).token_ids)
        n_decided = 0
        for window in (1, 5, 20, 512):
            for fields in (dict(presence=1.5), dict(frequency=0.75),
                           dict(presence=-1, frequency=2),
                           dict(presence=2, frequency=-0.5)):
                out = self.run_with(
                    logprobs=20, penalty_window=window,
                    **{k + "_penalty": v for k, v in fields.items()})
                for i, said in enumerate(self.logprobs(out)):
                    seen = (prompt + out.ids[:i])[-window:]
                    scores = {t.token_id: penalised(
                        t.logprob, t.token_id, seen, **fields)
                        for t in said.top}
                    best = max(scores.values())
                    unseen = said.top[-1].logprob + 2 + max(
                        seen.count(t) for t in seen)
                    if best <= unseen or said.token_id not in scores:
                        continue
                    n_decided += 1
                    self.assertGreater(scores[said.token_id], best - 1e-3)
        self.assertGreater(n_decided, 150)

    def test_a_bias_is_as_computed_from_the_log_probabilities(self):
        said = self.logprobs(self.run_with(logprobs=20, max_tokens=1))[0]
        first, fifth = said.top[0], said.top[4]
        gap = first.logprob - fifth.logprob
        for extra, wins in ((-0.01, first), (0.01, fifth)):
            out = self.run_with(max_tokens=1, logit_bias=bias(
                **{"t%d" % fifth.token_id: gap + extra}))
            self.assertEqual(out.ids, [wins.token_id])

    def test_only_tokens_above_min_p_are_drawn(self):
        said = self.logprobs(self.run_with(logprobs=20, max_tokens=1))[0]
        least = math.exp(said.top[2].logprob - said.top[0].logprob) * 0.999
        drawn = {self.run_with(max_tokens=1, temperature=1, seed=seed,
                               min_p=least).ids[0] for seed in range(1, 60)}
        self.assertLessEqual(drawn, {t.token_id for t in said.top[:3]})
        self.assertIn(said.top[0].token_id, drawn)

    # --- log-probabilities ---

    def test_log_probabilities_go_with_their_tokens(self):
        out = self.run_with(logprobs=5, temperature=1, seed=11)
        said = self.logprobs(out)
        for message in out.messages:
            self.assertEqual([p.token_id for p in message.logprobs],
                             list(message.token_ids))
        self.assertEqual([p.token_id for p in said], out.ids)
        for token in said:
            tops = [t.logprob for t in token.top]
            self.assertEqual(len(tops), 5)
            self.assertEqual(tops, sorted(tops, reverse=True))
            self.assertLessEqual(token.logprob, tops[0])
            self.assertLessEqual(tops[0], 0)
            self.assertLess(sum(map(math.exp, tops)), 1 + 1e-5)
            for top in token.top:
                if top.token_id == token.token_id:
                    self.assertEqual((top.logprob, top.piece),
                                     (token.logprob, token.piece))
        self.assertIn(out.text.strip(),
                      b"".join(p.piece for p in said).decode())

    def test_log_probabilities_are_of_before_temperature_and_penalties(self):
        plain = self.logprobs(self.run_with(logprobs=3, max_tokens=1))[0]
        other = self.logprobs(self.run_with(
            logprobs=3, max_tokens=1, temperature=2, seed=4, top_k=2,
            presence_penalty=2, repetition_penalty=2,
            logit_bias=bias(t77=50)))[0]
        self.assertEqual(list(plain.top), list(other.top))

    def test_without_being_asked_for_there_are_none(self):
        self.assertEqual(self.logprobs(self.run_with()), [])
        for token in self.logprobs(self.run_with(logprobs=0)):
            self.assertEqual(list(token.top), [])

    def test_a_slow_reader_gets_all_of_them_in_messages_of_bounded_length(
            self):
        request = generate_request(
            text=PROMPT, max_tokens=400, ignore_eos=True, logprobs=True,
            top_logprobs=20)
        stream = self.server.inference.Generate(request, timeout=CALL_SECONDS)

        def is_over():
            load = self.snapshot().load
            return (load.running_sequences == 0 and
                    load.generated_tokens_total > 0)

        wait_until(is_over, "over")
        out = Generated(stream)
        self.assertEqual(len(out.ids), 400)
        self.assertEqual([p.token_id for p in self.logprobs(out)], out.ids)
        self.assertLessEqual(
            max(len(m.token_ids) for m in out.messages), 128)
        self.assertEqual(out.text, self.run_with(
            max_tokens=400, ignore_eos=True).text)

    # --- whatever else is in the batch ---

    FULL = dict(temperature=1.2, top_k=60, top_p=0.97, min_p=0.01,
                repetition_penalty=1.15, frequency_penalty=0.2,
                presence_penalty=0.3, penalty_window=30,
                logit_bias=bias(t77=2, t5=-100))

    def test_the_same_seed_gives_the_same_in_a_busy_batch(self):
        def work(i):
            out = self.run_with(logprobs=2, text="A dog %d" % (i % 5),
                                seed=i + 1, **self.FULL)
            return out.ids, [(p.logprob, [t.logprob for t in p.top])
                             for p in self.logprobs(out)]

        alone = [work(i) for i in range(12)]
        together = [None] * 12

        def run(i):
            together[i] = work(i)
        threads = [threading.Thread(target=run, args=(i,)) for i in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(together, alone)

    def test_penalties_look_back_on_earlier_turns_of_the_conversation(self):
        fields = dict(presence_penalty=2, frequency_penalty=1,
                      penalty_window=40)
        whole = self.run_with(max_tokens=16, ignore_eos=True, **fields).ids
        parts = self.run_with(max_tokens=8, ignore_eos=True, session="turns",
                              **fields).ids
        evicted = self.evict(session_target("turns"))
        self.assertEqual(evicted.sessions_evicted, 1)
        parts += self.generate(
            session="turns", max_tokens=8, ignore_eos=True,
            sampling=sampling(**fields)).ids
        self.assertEqual(parts, whole)


if __name__ == "__main__":
    main()
