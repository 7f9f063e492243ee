"""A model's file that is cut short or written over while the server runs:
nothing dies of it, nobody gets a token that it spoilt, and what needs no model
is served on."""
import os
import shutil
import signal
import tempfile
import threading
import unittest

from kvpool_e2e import (CALL_SECONDS, SOURCE, Kvpoold, ServerTest, generate,
                        generate_request, health, inference, main,
                        session_target, wait_until)
from test_admin import ask, metrics

DEMO = os.path.join(SOURCE, "engine", "demo", "demo.gguf")
SERVING, NOT_SERVING = 1, 2


class ModelFileTest(ServerTest):
    flags = None

    @classmethod
    def setUpClass(cls):
        pass  # each test has a server of its own

    @classmethod
    def tearDownClass(cls):
        pass

    def setUp(self):
        self.folder = tempfile.TemporaryDirectory(prefix="kvpool_model_")
        self.addCleanup(self.folder.cleanup)
        self.path = os.path.join(self.folder.name, "model.gguf")
        shutil.copy(DEMO, self.path)
        os.chmod(self.path, 0o600)
        os.utime(self.path, (0, 0))  # what is written is written later

    def start(self, *flags):
        self.server = Kvpoold("--model=" + self.path, *flags)
        return self.server

    def cut(self):
        os.truncate(self.path, 4096)

    def write_over(self):
        """In its place: the same file, of the same size."""
        with open(self.path, "r+b") as file:
            file.write(os.urandom(os.path.getsize(self.path)))

    def check_lost(self):
        """Says so to everybody, and serves what needs no model."""
        server = self.server
        self.generate_fails("UNAVAILABLE", "MODEL_UNAVAILABLE",
                            text="More", session="next")
        failure = self.fails(
            "UNAVAILABLE", "MODEL_UNAVAILABLE", server.inference.Tokenize,
            inference.TokenizeRequest(text="Once upon a time"))
        self.assertIn("model.gguf", failure.message)
        wait_until(lambda: health(server, "") == NOT_SERVING, "noticed")
        self.assertEqual(
            health(server, "kvpool.v1.InferenceService"), NOT_SERVING)
        self.assertEqual(health(server, "kvpool.v1.KvPoolService"), SERVING)
        wait_until(lambda: server.log(level="error"), "said")
        said = server.log(level="error")
        self.assertEqual(len(said), 1, said)
        self.assertIn("model.gguf", said[0]["cause"])

    def check_stop(self):
        """In order, but not as if nothing had been."""
        self.server.channel.close()
        self.server.signal(signal.SIGTERM)
        self.assertEqual(self.server.wait(), 1, self.server.tail())
        self.server.check_lines()
        self.assertIn("model.gguf", self.server.lines[-1])

    def read_until_it_fails(self, session, n_tokens, first, ended):
        """Appends the tokens that came before."""
        call = self.server.inference.Generate(
            generate_request(text="The cat", session=session,
                             max_tokens=n_tokens, ignore_eos=True), timeout=CALL_SECONDS)

        def read():
            ids = []
            while not ids:
                ids.extend(next(call).token_ids)
            first.release()

            def rest():
                for message in call:
                    ids.extend(message.token_ids)

            self.fails("UNAVAILABLE", "MODEL_UNAVAILABLE", rest)
            ended.append(ids)

        thread = threading.Thread(target=read)
        thread.start()
        return thread

    def run_in_mid_sentence(self, spoil, *flags, n_tokens=480):
        first, ended = threading.Semaphore(0), []
        with self.start("--max-batch-size=2", *flags) as server:
            plain = generate(server, text="The cat", max_tokens=n_tokens,
                             ignore_eos=True).ids
            kept = generate(server, text="A dog is", session="kept",
                            max_tokens=8)
            readers = [self.read_until_it_fails(session, n_tokens, first, ended)
                       for session in ("a", "b")]
            for _ in readers:
                self.assertTrue(first.acquire(timeout=CALL_SECONDS))
            spoil()
            for reader in readers:
                reader.join(CALL_SECONDS)
            self.assertEqual(len(ended), 2)
            for ids in ended:
                self.assertTrue(0 < len(ids) < len(plain), len(ids))
                self.assertEqual(ids, plain[:len(ids)])
            self.check_lost()
            # What was computed before is still there, to be given up.
            outcomes = self.evict(session_target("kept")).outcomes
            self.assertEqual(len(outcomes), 1)
            self.assertGreater(outcomes[0].blocks_freed, 0)
            self.assertGreater(len(kept.ids), 0)
            self.check_stop()

    def test_in_mid_sentence_requests_end_with_a_clear_error(self):
        self.run_in_mid_sentence(self.cut)

    def test_so_with_kernels_that_read_the_file_throughout(self):
        self.run_in_mid_sentence(self.cut, "--kernels=scalar", n_tokens=160)

    def test_so_where_it_is_written_over(self):
        self.run_in_mid_sentence(self.write_over)

    def test_so_where_it_is_written_over_and_read_throughout(self):
        self.run_in_mid_sentence(self.write_over, "--kernels=scalar",
                                 n_tokens=160)

    def test_a_server_without_requests_says_so_by_itself(self):
        with self.start("--admin-listen=127.0.0.1:0") as server:
            self.assertEqual(metrics(server)["kvpool_model_lost"], 0)
            self.write_over()
            wait_until(lambda: health(server, "") == NOT_SERVING, "noticed")
            self.assertEqual(metrics(server)["kvpool_model_lost"], 1)
            status, _, text = ask(server, "/readyz")
            self.assertEqual(status, 503)
            self.assertRegex(text, r"model\.gguf: the file was written to")
            failure = self.fails(
                "UNAVAILABLE", "MODEL_UNAVAILABLE", server.inference.GetModel,
                inference.GetModelRequest())
            self.assertIn("model.gguf: the file was written to",
                          failure.message)
            self.check_lost()
            self.check_stop()

    def test_so_while_nobody_asks_for_anything(self):
        with self.start():
            self.cut()
            self.generate_fails("UNAVAILABLE", "MODEL_UNAVAILABLE",
                                text="The cat")
            self.check_lost()
            self.check_stop()

    def test_so_while_another_thread_reads_the_vocabulary(self):
        with self.start() as server:
            self.cut()
            self.fails("UNAVAILABLE", "MODEL_UNAVAILABLE",
                       server.inference.Tokenize,
                       inference.TokenizeRequest(text="The cat " * 5000))
            self.check_lost()
            self.check_stop()

    def test_a_file_that_is_replaced_by_renaming_does_no_harm(self):
        with self.start() as server:
            before = generate(server, text="The cat", max_tokens=16)
            other = self.path + ".new"
            with open(other, "wb") as file:
                file.write(b"something else")
            os.rename(other, self.path)
            after = generate(server, text="The cat", max_tokens=16)
            self.assertEqual(before.ids, after.ids)
            self.assertEqual(health(server, ""), SERVING)


if __name__ == "__main__":
    main()
