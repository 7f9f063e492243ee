"""Can an attacker tell by the clock which prompt somebody else has sent?

A victim sends a prompt, or another one of the same length; then the attacker
sends that prompt, and takes the time to the first token. How well this time
tells the two cases apart is the area under the ROC curve (AUC): 0.5 is a coin,
1 is certainty. Within one tenant it has to be at least 0.9, for there prefixes
are shared, and the experiment would be worthless if it could not see that;
between tenants at most 0.55, and at least 0.45.

TIMING_TRIALS of each case between tenants, 1,000 unless told otherwise: chance
alone strays by 0.013 then. TIMING_SEED repeats the prompts.
"""
import bisect
import os
import random
import time

from kvpool_e2e import (CALL_SECONDS, ServerTest, generate_request,
                        main, pool)

TRIALS = int(os.environ.get("TIMING_TRIALS", "1000"))
SHARED_TRIALS = max(50, TRIALS // 10)
SEED = int(os.environ.get("TIMING_SEED", "0")) or random.SystemRandom(
    ).randrange(1, 1 << 32)
PROMPT_TOKENS = 128
EVICT_EVERY = 50


def auc(fast, slow):
    """How often a value of the second is the greater one."""
    ordered = sorted(fast)
    wins = sum(bisect.bisect_left(ordered, value) +
               bisect.bisect_right(ordered, value) for value in slow)
    return wins / (2 * len(fast) * len(slow))


class TimingTest(ServerTest):
    flags = ["--max-step-ms=2000", "--threads=1"]

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.rng = random.Random(SEED)
        cls.n_sessions = 0
        print("TIMING_SEED=%d" % SEED)

    def send(self, tenant, ids):
        """Seconds to the first token, in a session of its own."""
        type(self).n_sessions += 1
        request = generate_request(
            ids=ids, tenant=tenant, session="s%d" % self.n_sessions,
            max_tokens=1)
        begin = time.perf_counter()
        taken = None
        for message in self.server.inference.Generate(
                request, timeout=CALL_SECONDS):
            if message.token_ids and taken is None:
                taken = time.perf_counter() - begin
        return taken

    def prompt(self):
        return [self.rng.randint(300, 900) for _ in range(PROMPT_TOKENS)]

    def trial(self, attacker, is_sent):
        prompt, other = self.prompt(), self.prompt()
        self.send("victim", prompt if is_sent else other)
        return self.send(attacker, prompt)

    def experiment(self, attacker, n_trials):
        times = {True: [], False: []}
        cases = [True, False] * n_trials
        self.rng.shuffle(cases)
        for i, is_sent in enumerate(cases):
            if i % EVICT_EVERY == 0:
                self.evict(pool.EvictTarget(all=pool.EvictAll()), forget=True)
            times[is_sent].append(self.trial(attacker, is_sent))
        area = auc(times[True], times[False])
        print("attacker in tenant %r: AUC %.3f over 2 x %d; medians %.2f and "
              "%.2f ms" % (attacker, area, n_trials,
                           *(sorted(times[case])[n_trials // 2] * 1e3
                             for case in (True, False))))
        return area

    def test_the_clock_tells_of_prompts_in_ones_own_tenant(self):
        self.experiment("victim", 10)  # to warm up
        self.assertGreaterEqual(
            self.experiment("victim", SHARED_TRIALS), 0.9)

    def test_the_clock_tells_nothing_of_another_tenants_prompts(self):
        self.experiment("attacker", 10)
        area = self.experiment("attacker", TRIALS)
        self.assertLessEqual(area, 0.55)
        self.assertGreaterEqual(area, 0.45)


if __name__ == "__main__":
    main()
