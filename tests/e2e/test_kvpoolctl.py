"""kvpoolctl against the real server: what people and scripts read, and the exit
codes that scripts go by."""
import json
import os
import signal
import subprocess
import unittest

from kvpool_e2e import (KVPOOLCTL, SANITIZER, Kvpoold, ServerTest, Subscriber,
                        ledger_end, main, pool)

OK, FAILED, USAGE, UNREACHABLE, NOTHING, DAMAGED = 0, 1, 2, 3, 4, 5
RUNNABLE = {"ping", "describe", "generate", "tokenize", "detokenize",
            "sessions", "snapshot", "evict", "retain"}


def run(*arguments, server=None, stdin=""):
    if not KVPOOLCTL:
        raise unittest.SkipTest("KVPOOLCTL does not say where kvpoolctl is")
    clean = {k: v for k, v in os.environ.items()
             if not k.startswith("KVPOOL_")}
    if server:
        clean["KVPOOL_SERVER"] = server
    done = subprocess.run([KVPOOLCTL, *arguments], env=clean, timeout=120,
                          input=stdin, capture_output=True, text=True,
                          check=False)
    assert not SANITIZER.search(done.stderr), done.stderr
    return done


class KvpoolctlTest(ServerTest):
    flags = ("--kv-cache-size-mb=8", "--enable-receipts",
             "--snapshot-interval-ms=0")

    def ctl(self, *arguments, code=OK, stdin=""):
        done = run(*arguments, server=self.server.address, stdin=stdin)
        self.assertEqual(done.returncode, code,
                         (arguments, done.stdout, done.stderr))
        if code in (USAGE, FAILED, UNREACHABLE, DAMAGED):
            self.assertNotEqual(done.stderr, "")
        return done

    def json(self, *arguments, code=OK):
        return json.loads(self.ctl(*arguments, "-o", "json",
                                   code=code).stdout)

    def jsonl(self, *arguments, code=OK):
        return [json.loads(line) for line in
                self.ctl(*arguments, "-o", "jsonl",
                         code=code).stdout.splitlines()]

    def test_ping_says_that_it_serves(self):
        self.assertIn("SERVING", self.ctl("ping").stdout)
        self.assertEqual(self.json("ping")["status"], "SERVING")

    def test_ping_of_nobody_is_unreachable(self):
        done = run("ping", "--timeout", "2s", server="127.0.0.1:1")
        self.assertEqual(done.returncode, UNREACHABLE)
        self.assertIn("127.0.0.1:1", done.stderr)

    def test_who_gets_no_answer_in_time_is_told_so(self):
        self.server.signal(signal.SIGSTOP)
        try:
            done = self.ctl("ping", "--timeout", "300ms", code=UNREACHABLE)
        finally:
            self.server.signal(signal.SIGCONT)
        self.assertIn("DEADLINE_EXCEEDED: no answer within --timeout",
                      done.stderr)

    def test_generate_prints_the_text_and_no_more(self):
        expected = self.generate(text="What is a river?", max_tokens=64)
        done = self.ctl("generate", "What is a river?", "--max-tokens=64")
        self.assertEqual(done.stdout.strip(), expected.text.strip())
        done = self.ctl("generate", "-", "--max-tokens=64",
                        stdin="What is a river?")
        self.assertEqual(done.stdout.strip(), expected.text.strip())

    def test_a_conversation_is_made_seen_evicted_and_gone_on_with(self):
        generate = ("generate", "--session", "chat", "--max-tokens=8")
        self.ctl(*generate, "What is a dog?")
        self.assertIn("chat", self.ctl("sessions").stdout)
        listed = {s["key"]["session_id"]: s
                  for s in self.json("sessions")}
        self.assertGreater(listed["chat"]["blocks"], 0)
        answer = self.json("evict", "--session", "chat")
        self.assertEqual(answer["sessions_evicted"], 1)
        self.ctl("evict", "--session", "chat", code=NOTHING)
        listed = {s["key"]["session_id"]: s
                  for s in self.jsonl("sessions")}
        self.assertEqual(listed["chat"].get("blocks", 0), 0)
        self.ctl(*generate, "What is a river?")

    def test_who_is_to_go_is_said_in_many_ways(self):
        def evicted(*options):
            return self.json("evict", *options)["sessions_evicted"]

        for session in ("w1", "w2", "w3"):
            self.ctl("generate", "--session", session, "--tenant", "ways",
                     "--max-tokens", "2", "--tokens", "7,8,9")
        tenant = ("--tenant", "ways")
        dry = self.json("evict", "--prefix-tokens", "7,8", *tenant,
                        "--dry-run")
        self.assertEqual((dry["sessions_evicted"], dry["dry_run"]), (3, True))
        self.ctl("evict", "--prefix-tokens", "8", *tenant, code=NOTHING)
        self.ctl("evict", "--idle", "1h", *tenant, code=NOTHING)
        self.assertEqual(evicted("--bytes", "1", *tenant), 1)
        listed = self.json("sessions", *tenant, "--state", "cached",
                           "--order", "age", "--prefix", "w",
                           "--min-bytes", "1")
        self.assertEqual([s["key"]["session_id"] for s in listed],
                         ["w2", "w3"])
        again = ("--session", "w2", *tenant, "--forget", "--request-id", "r")
        self.assertEqual(evicted(*again), 1)
        self.assertTrue(self.json("evict", *again)["replayed"])
        self.assertEqual(evicted("--idle", "1ms", *tenant), 1)

    def test_who_has_tokens_only_is_forgotten_which_is_something(self):
        tenant = ("--tenant", "kept")
        for session in ("k1", "k2"):
            self.ctl("generate", "A", "--session", session, *tenant,
                     "--max-tokens", "2")
        self.assertIn("2 sessions evicted", self.ctl("evict", *tenant).stdout)
        self.ctl("evict", *tenant, code=NOTHING)
        dry = self.json("evict", *tenant, "--forget", "--dry-run")
        self.assertEqual((dry["sessions_evicted"], dry["sessions_forgotten"]),
                         (0, 2))
        done = self.ctl("evict", "--session", "k1", *tenant, "--forget")
        self.assertIn("1 without blocks forgotten", done.stdout)
        self.assertEqual(
            self.json("evict", *tenant, "--forget")["sessions_forgotten"], 1)
        self.ctl("evict", *tenant, "--forget", code=NOTHING)

    def test_how_long_a_session_stays_is_set_and_shown(self):
        def retain(*options, code=OK):
            return self.json("retain", *options, code=code)["outcomes"]

        chat = ("--session", "kept", "--tenant", "stays")
        self.ctl("generate", *chat, "--max-tokens=2", "A")
        found = retain(*chat)[0]
        self.assertEqual(found["result"], "ACCEPTED")
        self.assertEqual(found["retention"], {
            "idle_ttl_ns": 0, "absolute_ttl_ns": 0, "priority": 50,
            "pin_expires_unix_ns": 0, "leases": []})
        found = retain(*chat, "--idle-ttl=5m", "--ttl=2h", "--priority=0",
                       "--lease=reader=30s")[0]["retention"]
        self.assertEqual((found["idle_ttl_ns"], found["absolute_ttl_ns"],
                          found["priority"]),
                         (300 * 10 ** 9, 7200 * 10 ** 9, 0))
        self.assertEqual([l["lease_id"] for l in found["leases"]], ["reader"])
        held = self.ctl("evict", *chat, code=NOTHING)
        self.assertIn("PINNED", held.stdout)
        found = retain(*chat, "--lease=reader=0", "--pin=9999h")[0]
        self.assertEqual(found["result"], "CLIPPED")
        self.assertIn("pin: at most ", found["detail"])
        self.assertEqual(found["retention"]["leases"], [])
        self.assertEqual(found["retention"]["priority"], 0)
        text = self.ctl("retain", *chat, "--session=nobody", "--pin=0",
                        code=NOTHING).stdout
        self.assertIn("ACCEPTED", text)
        self.assertIn("MISSING", text)
        self.ctl("evict", *chat)
        self.ctl("retain", *chat, *chat, code=FAILED)

    def test_parts_of_a_snapshot_are_for_people_and_programs(self):
        parts = ("--block-map", "--histograms")
        found = self.json("snapshot", *parts)
        self.assertEqual(sum(r["blocks"] for r in found["block_map"]["runs"]),
                         found["blocks"]["total"])
        self.assertIn("age_at_eviction", found["histograms"])
        text = self.ctl("snapshot", *parts).stdout
        self.assertIn("FIRST BLOCK", text)
        self.assertIn("age evicted", text)

    def test_snapshot_and_describe_parse(self):
        snapshot = self.json("snapshot")
        self.assertEqual(snapshot["blocks"]["block_tokens"], 16)
        described = self.json("describe")
        self.assertEqual(described["model"]["architecture"], "bitnet")
        self.assertGreater(
            int(described["model"]["memory"]["tokenizer_bytes"]), 10000)
        self.assertRegex(self.ctl("describe").stdout, r"\n  tokenizer +\d.*iB")
        self.assertEqual(described["snapshot"]["policy"], "lru")
        for command in ("snapshot", "describe"):
            self.assertNotEqual(self.ctl(command).stdout, "")
        self.ctl("generate", "A", "--session", "listed", "--max-tokens=1")
        with_sessions = self.json("snapshot", "--sessions")
        self.assertIn("listed", [s["key"]["session_id"]
                                 for s in with_sessions["sessions"]])

    def test_receipts_are_followed_from_the_first_to_the_limit(self):
        self.ctl("generate", "A", "--session", "tailed", "--max-tokens=1")
        self.ctl("evict", "--session", "tailed")
        last = ledger_end(self.server)
        tail = ("receipts", "tail", "--from=earliest", "--limit", str(last))
        found = self.jsonl(*tail)
        self.assertEqual([r["sequence"] for r in found],
                         list(range(1, last + 1)))
        self.assertEqual(found[0]["event"], "kv_lifecycle")
        eviction = [r for r in found if r["event"] == "kv_eviction" and
                    r["session_id"] == "tailed"][-1]
        self.assertEqual(eviction["reason"], "Manual")
        self.assertEqual(
            eviction["before"]["used_memory_bytes"] -
            eviction["after"]["used_memory_bytes"],
            eviction["block_size_bytes"])
        self.assertIn("memory_utilization", eviction["after"])
        self.assertEqual(self.json(*tail), found)
        text = self.ctl(*tail).stdout.splitlines()
        self.assertEqual(len(text), last)
        after = self.jsonl("receipts", "tail", "--from=after:%d" % (last - 1),
                           "--limit=1")
        self.assertEqual([r["sequence"] for r in after], [last])

    def test_receipts_are_followed_by_filter_and_from_the_state(self):
        for session in ("f1", "f2"):
            self.ctl("generate", "A", "--session", session, "--max-tokens=1")
            self.ctl("evict", "--session", session)
        last = ledger_end(self.server)
        tail = ("receipts", "tail", "--from=1")
        found = self.jsonl(*tail, "--kind=EVICTION", "--reason=manual",
                           "--session=f1", "--session=f2", "--limit=2")
        self.assertEqual([r["session_id"] for r in found], ["f1", "f2"])
        found = self.jsonl(*tail, "--tenant=", "--session=f2", "--limit=1")
        self.assertEqual([r["session_id"] for r in found], ["f2"])
        found = self.jsonl("receipts", "tail", "--from=%d" % last, "--lossy",
                           "--limit=1")
        self.assertEqual([r["sequence"] for r in found], [last])
        with subprocess.Popen(
                [KVPOOLCTL, "-s", self.server.address, "receipts", "tail",
                 "--from=snapshot", "--limit=1", "-o", "jsonl"],
                stdout=subprocess.PIPE) as child:
            state = json.loads(child.stdout.readline())
            self.ctl("evict", "--session", "f1", code=NOTHING)
            receipt = json.loads(child.stdout.readline())
        self.assertEqual((state["event"], state["index"], state["last"]),
                         ("state", 0, True))
        self.assertLessEqual({"f1", "f2"}, {
            s["key"]["session_id"] for s in state["snapshot"]["sessions"]})
        self.assertEqual(state["snapshot"]["stamp"]["applied_sequence"] + 1,
                         receipt["sequence"])
        for wrong in ("--kind=nonsense", "--reason=0", "--session="):
            self.ctl(*tail, wrong, code=USAGE)
        self.ctl(*tail, "--session=a", "--tenant=b", "--tenant=c", code=USAGE)

    def test_who_follows_is_in_the_snapshot(self):
        reader = Subscriber(self.server)
        reader.wait_for(lambda s: s.messages, "bookmark")
        found = self.json("snapshot", "--subscribers")["subscribers"]
        self.assertEqual([s["lost_total"] for s in found], [0])
        self.assertIn(found[0]["peer"],
                      self.ctl("snapshot", "--subscribers").stdout)
        reader.cancel()

    def test_the_audit_finds_that_everything_adds_up(self):
        self.ctl("generate", "A", "--session", "audited", "--max-tokens=1")
        self.ctl("evict", "--all")
        self.ctl("receipts", "audit")

    def test_the_audit_follows_the_blocks_where_it_can(self):
        flags = ("--kv-cache-size-mb=8", "--enable-receipts",
                 "--receipts-allocations")
        with Kvpoold(*flags) as server:
            def ctl(*arguments):
                done = run(*arguments, server=server.address)
                self.assertEqual(done.returncode, OK, done.stderr)
                return done.stdout
            for session in "abc":
                ctl("generate", "A dog", "--session", session,
                    "--max-tokens=20")
            ctl("evict", "--session", "b")
            ctl("generate", "again", "--session", "b", "--max-tokens=1")
            ctl("generate", "over", "--session", "c", "--continue-from=2",
                "--max-tokens=40")
            blocks = server.pool.Snapshot(
                pool.SnapshotRequest()).snapshot.blocks
            self.assertIn("; %d blocks in use" % (
                blocks.pinned + blocks.cached), ctl("receipts", "audit"))
            verdict = json.loads(ctl("receipts", "audit", "-o", "json"))
            self.assertTrue(verdict["adds_up"])
            self.assertEqual(verdict["recomputations"], 1)
            self.assertGreaterEqual(verdict["allocations"], 4)
            text = ctl("receipts", "tail", "--from=earliest", "--limit=%d" %
                       verdict["last_sequence"])
            for words in ("allocation: a got", "recomputation: b came back"):
                self.assertIn(words, text)

    def test_flags_of_sampling_reach_the_server(self):
        def ids(*flags):
            return self.json("generate", "What is a river?",
                             "--max-tokens=12", *flags)["token_ids"]

        plain = ids()
        self.assertEqual(ids("--logit-bias=77=100"), [77] * 12)
        self.assertNotIn(plain[0], ids("--logit-bias",
                                       "%d=-100,77=-1.5" % plain[0]))
        self.assertEqual(
            ids("--temperature=2", "--min-p=1"), plain)
        banned = ids("--logit-bias=77=100,78=99", "--presence-penalty=2",
                     "--penalty-window=1")
        self.assertEqual(banned, [77, 78] * 6)
        self.assertEqual(banned, ids("--logit-bias=77=100,78=99",
                                     "--frequency-penalty=2",
                                     "--penalty-window=1"))
        self.assertEqual(ids("--logit-bias=77=-100,78=-99",
                             "--repetition-penalty=1"), plain)
        self.assertEqual(len(self.json(
            "generate", "What is a river?", "--ignore-eos",
            "--max-tokens=90")["token_ids"]), 90)

    def test_a_turn_is_taken_again_and_a_prompt_computed_ahead(self):
        def turn(*arguments):
            done = self.json("generate", "-n", "8", "--session", "turn",
                             *arguments)
            return done["text"], done["finished"]["usage"]
        _, first = turn("A dog")
        text, then = turn("And then")
        self.assertEqual(
            turn("--continue-from", str(first["session_tokens"]),
                 "And then")[0], text)
        self.ctl("evict", "--session", "turn")
        self.assertEqual(self.ctl("generate", "--session", "turn",
                                  "--prefill-only").stdout.strip(), "")
        _, after = turn()
        self.assertEqual(after["cached_tokens"], then["session_tokens"] - 1)
        self.ctl("generate", "--continue-from", "1", "A", code=USAGE)

    def test_special_tokens_have_names_for_those_who_ask(self):
        ids = self.ctl("tokenize", "--parse-special",
                       "<s>A dog</s>").stdout.split()
        self.assertEqual((ids[0], ids[-1]), ("1", "2"))
        self.assertEqual(self.ctl("detokenize", "--with-special",
                                  *ids).stdout, "<s>A dog</s>")

    def test_log_probabilities_are_in_the_json(self):
        flags = ("generate", "A", "--max-tokens=9", "--logprobs")
        plain = self.json(*flags)
        self.assertEqual([p["token_id"] for p in plain["logprobs"]],
                         plain["token_ids"])
        self.assertEqual([p["top"] for p in plain["logprobs"]],
                         [[]] * len(plain["token_ids"]))
        for token in self.json(*flags, "--top-logprobs=4")["logprobs"]:
            self.assertEqual(len(token["top"]), 4)
            self.assertEqual(token["top"][0]["token_id"], token["token_id"])
            self.assertLessEqual(token["logprob"], 0)
            bytes.fromhex(token["piece"])
        lines = self.jsonl(*flags)
        self.assertEqual([p for line in lines for p in line["logprobs"]],
                         plain["logprobs"])
        self.assertNotIn("logprobs", self.json("generate", "A"))

    def test_a_snapshot_shows_how_long_tokens_took(self):
        self.ctl("generate", "A dog", "--max-tokens=5", "--ignore-eos")
        kept = self.json("snapshot", "--histograms")["histograms"]
        self.assertGreaterEqual(kept["time_per_output_token"]["count"], 4)
        text = self.ctl("snapshot", "--histograms").stdout
        for words in ("  first token", "  next token", "mean", "99%"):
            self.assertIn(words, text)
        self.assertNotIn("next token", self.ctl("snapshot").stdout)

    def test_errors_of_the_server_name_the_field_and_fail(self):
        done = self.ctl("generate", "a", "--max-tokens=100000", code=FAILED)
        self.assertIn("max_tokens", done.stderr)
        self.assertIn("INVALID_FIELD", done.stderr)
        self.assertEqual(done.stdout, "")

    def test_a_wrong_command_line_is_a_usage_error_before_any_call(self):
        for arguments in ((), ("nonsense",), ("evict",),
                          ("evict", "--all", "--session=a"),
                          ("generate", "a", "--temperature=3"),
                          ("ping", "--output=xml"), ("sessions", "stray"),
                          ("receipts", "tail", "--from=yesterday"),
                          ("generate", "a", "--session="),
                          ("ping", "--no-such-option")):
            with self.subTest(arguments):
                done = run(*arguments, server="127.0.0.1:1")
                self.assertEqual(done.returncode, USAGE, done.stderr)
                self.assertIn("kvpoolctl", done.stderr)

    def test_every_command_has_help(self):
        overview = self.ctl("--help").stdout
        for command in RUNNABLE:
            self.assertIn(command, overview)
            self.assertIn(command, self.ctl(command, "--help").stdout)
        self.assertIn("--limit", self.ctl("receipts", "tail",
                                          "--help").stdout)


if __name__ == "__main__":
    main()
