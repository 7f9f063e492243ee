"""A model's file that is cut short while the server runs: nothing dies of it,
nobody gets a token that it spoilt, and what needs no model is served on."""
import os
import shutil
import signal
import tempfile
import threading
import unittest

from kvpool_e2e import (CALL_SECONDS, SOURCE, Kvpoold, ServerTest, generate,
                        generate_request, health, inference, main,
                        session_target)

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

    def start(self, *flags):
        self.server = Kvpoold("--model=" + self.path, *flags)
        return self.server

    def cut(self):
        os.truncate(self.path, 4096)

    def check_lost(self):
        """Says so to everybody, and serves what needs no model."""
        server = self.server
        self.generate_fails("UNAVAILABLE", "MODEL_UNAVAILABLE",
                            text="More", session="next")
        failure = self.fails(
            "UNAVAILABLE", "MODEL_UNAVAILABLE", server.inference.Tokenize,
            inference.TokenizeRequest(text="Once upon a time"))
        self.assertIn("model.gguf", failure.message)
        self.assertEqual(health(server, ""), NOT_SERVING)
        self.assertEqual(
            health(server, "kvpool.v1.InferenceService"), NOT_SERVING)
        self.assertEqual(health(server, "kvpool.v1.KvPoolService"), SERVING)
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

    def read_until_it_fails(self, session, first, ended):
        call = self.server.inference.Generate(
            generate_request(text="The cat", session=session, max_tokens=480,
                             ignore_eos=True), timeout=CALL_SECONDS)

        def read():
            next(call)
            first.release()
            ended.append(self.fails(
                "UNAVAILABLE", "MODEL_UNAVAILABLE", lambda: call))

        thread = threading.Thread(target=read)
        thread.start()
        return thread

    def run_in_mid_sentence(self, *flags):
        first, ended = threading.Semaphore(0), []
        with self.start("--max-batch-size=2", *flags) as server:
            kept = generate(server, text="A dog is", session="kept",
                            max_tokens=8)
            readers = [self.read_until_it_fails(session, first, ended)
                       for session in ("a", "b")]
            for _ in readers:
                self.assertTrue(first.acquire(timeout=CALL_SECONDS))
            self.cut()
            for reader in readers:
                reader.join(CALL_SECONDS)
            self.assertEqual(len(ended), 2)
            self.check_lost()
            # What was computed before is still there, to be given up.
            outcomes = self.evict(session_target("kept")).outcomes
            self.assertEqual(len(outcomes), 1)
            self.assertGreater(outcomes[0].blocks_freed, 0)
            self.assertGreater(len(kept.ids), 0)
            self.check_stop()

    def test_in_mid_sentence_requests_end_with_a_clear_error(self):
        self.run_in_mid_sentence()

    def test_so_with_kernels_that_read_the_file_throughout(self):
        self.run_in_mid_sentence("--kernels=scalar")

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


if __name__ == "__main__":
    main()
