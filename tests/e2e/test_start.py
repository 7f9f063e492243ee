"""Starting: every failure is one clear line and the right exit code; 78 for a
configuration, 1 otherwise."""
import os
import pty
import random
import re
import socket
import struct
import subprocess
import tempfile
import unittest

from kvpool_e2e import (CALL_SECONDS, KVPOOLD, SANITIZER, SOURCE, Kvpoold,
                        StartFailed, generate, inference, inference_grpc, main,
                        parse_logfmt)

DEMO = os.path.join(SOURCE, "engine", "demo", "demo.gguf")
CONFIGURATION, OTHER = 78, 1


def run(*arguments, environment=None):
    clean = {k: v for k, v in os.environ.items()
             if not k.startswith("KVPOOL_")}
    clean.update(environment or {})
    return subprocess.run([KVPOOLD, *arguments], env=clean, timeout=120,
                          stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, errors="replace")


class StartTest(unittest.TestCase):
    def refused(self, code, *words, flags=(), listen="127.0.0.1:0", **how):
        """Ends with code; one line of level error, with all these words."""
        try:
            with Kvpoold(*flags, listen=listen, **how):
                pass
        except StartFailed as failed:
            lines = failed.lines
            self.assertEqual(failed.code, code, failed)
        else:
            self.fail("it started")
        self.assertFalse([s for s in lines if SANITIZER.search(s)], lines)
        errors = [line for line in lines
                  if parse_logfmt(line).get("level") in (None, "error")]
        self.assertEqual(len(errors), 1, lines)
        for word in words:
            self.assertIn(word, errors[0])

    # --- options ---

    def test_a_bad_option_names_itself_what_was_given_and_what_is_allowed(
            self):
        self.refused(CONFIGURATION, "--threads", "many", "1024",
                     flags=["--threads=many"])
        self.refused(CONFIGURATION, "--kv-type", "f64", "f32|f16",
                     flags=["--kv-type=f64"])
        self.refused(CONFIGURATION, "--kv-cache-size", "--kv-cache-size-mb",
                     flags=["--kv-cache-size=5"])
        self.refused(CONFIGURATION, "stray", flags=["stray"])

    def test_a_bad_variable_names_itself(self):
        self.refused(CONFIGURATION, "KVPOOL_THREADS", "-1",
                     environment={"KVPOOL_THREADS": "-1"})
        self.refused(CONFIGURATION, "KVPOOL_THRAEDS", "KVPOOL_THREADS",
                     environment={"KVPOOL_THRAEDS": "1"})

    def test_help_and_version_go_to_stdout_and_succeed(self):
        done = run("--help")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertIn("--enable-receipts", done.stdout)
        done = run("--version")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertRegex(done.stdout, r"^kvpoold \d+\.\d+\.\d+")

    def test_a_variable_is_as_good_as_a_flag(self):
        with Kvpoold(environment={"KVPOOL_KV_CACHE_SIZE_MB": "5",
                                  "KVPOOL_SERVER": "x"}) as server:
            model = server.inference.GetModel(
                inference.GetModelRequest(), timeout=CALL_SECONDS).model
            self.assertEqual(model.memory.kv_bytes >> 20, 4)

    def test_a_pool_smaller_than_one_sequence_is_refused(self):
        self.refused(CONFIGURATION, "kv-cache-size-mb", "1",
                     flags=["--kv-cache-size-mb=1", "--block-tokens=1024"])

    def test_it_runs_without_standard_streams(self):
        for closed in ("<&-", ">&-", "<&- >&-"):
            with self.subTest(closed), Kvpoold(
                    "--kv-cache-size-mb=4", before="exec " + closed) as server:
                generate(server, text="A dog", max_tokens=2)

    def test_too_few_files_that_may_be_open_are_refused(self):
        for limit in (8, 12, 30, 48):
            self.refused(OTHER, "open files", "RLIMIT_NOFILE) is %d," % limit,
                         "48 are needed", before="ulimit -n %d" % limit)

    # --- addresses ---

    def test_a_port_in_use_is_named(self):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            address = "127.0.0.1:%d" % taken.getsockname()[1]
            self.refused(OTHER, "listen: " + address, "in use", listen=address)

    def test_a_path_that_cannot_be_written_is_named(self):
        self.refused(OTHER, "/nonexistent/x", "o such file",
                     listen="unix:/nonexistent/x")

    def test_that_receipts_are_off_is_told_to_who_says_where_they_go(self):
        with tempfile.TemporaryDirectory() as root:
            data = os.path.join(root, "data")
            with Kvpoold("--data-dir=" + data) as server:
                lines = server.log(level="warn", data_dir=data, sinks="0")
                self.assertEqual(len(lines), 1, server.tail())
                self.assertIn("receipts are off", lines[0]["msg"])
            self.assertFalse(os.path.exists(data))

    def test_what_is_no_address_is_a_bad_option(self):
        for address in ("nonsense", "127.0.0.1:99999", "127.0.0.1:", ":-1",
                        "[::1:0", "unix:", "127.0.0.1:0,", ","):
            with self.subTest(address):
                self.refused(CONFIGURATION, "listen: ", "host:port",
                             listen=address)

    def test_it_listens_on_several_addresses_of_all_kinds(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "s")
            with Kvpoold("--kv-cache-size-mb=4",
                         listen="127.0.0.1:0,unix:" + path) as server:
                lines = server.log(msg="listening")
                self.assertEqual(len(lines), 2)
                server.address = "unix:" + path
                channel = server.connect()
                inference_grpc.InferenceServiceStub(channel).GetModel(
                    inference.GetModelRequest(), timeout=CALL_SECONDS)
                channel.close()
            self.assertFalse(os.path.exists(path))

    # --- models ---

    def model_refused(self, code, data, *words):
        with tempfile.NamedTemporaryFile(suffix=".gguf") as file:
            file.write(data)
            file.flush()
            self.refused(code, "kvpoold: model: " + file.name, *words,
                         flags=["--model=" + file.name])

    def test_a_second_model_is_refused_and_not_half_supported(self):
        for flags in (["--model=" + DEMO, "--model=" + DEMO],
                      ["--model", "a", "--threads=1", "--model=b"],
                      ["--model=a", "--model", "b", "--model=c"]):
            self.refused(CONFIGURATION, "--model", "given %d models" %
                         sum(flag.startswith("--model") for flag in flags),
                         "a server of its own", flags=flags)
        for text, words in (("model: a\nmodel: b\n", "a second time"),
                            ("model: [a, b]\n", "a list"),
                            ("models: [a]\n", "model")):
            with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
                file.write(text)
                file.flush()
                self.refused(CONFIGURATION, file.name, "model", words,
                             flags=["--config=" + file.name])

    def test_a_model_of_a_stronger_place_is_the_one(self):
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            file.write("model: /nonexistent/of-the-file\n")
            file.flush()
            with Kvpoold("--config=" + file.name, "--model=" + DEMO,
                         environment={"KVPOOL_MODEL": "/nonexistent/x"}
                         ) as server:
                model = server.inference.GetModel(
                    inference.GetModelRequest(), timeout=CALL_SECONDS).model
                self.assertGreater(model.memory.mapped_bytes, 0)

    def test_what_takes_memory_adds_up(self):
        with Kvpoold("--kv-cache-size-mb=8", "--model=" + DEMO) as server:
            model = server.inference.GetModel(
                inference.GetModelRequest(), timeout=CALL_SECONDS).model
            memory, kib = model.memory, {}
            with open("/proc/%d/status" % server.pid) as status:
                for line in status:
                    words = line.split()
                    if words[-1] == "kB":
                        kib[words[0]] = int(words[1])
        in_file = sum(usage.bytes for usage in model.tensor_types)
        self.assertEqual(memory.mapped_bytes, os.path.getsize(DEMO))
        self.assertTrue(0 < in_file < memory.mapped_bytes, (in_file, memory))
        self.assertGreaterEqual(
            memory.kv_bytes,
            model.limits.pool_tokens * model.kv_bytes_per_token)
        self.assertLessEqual(memory.kv_bytes, 8 << 20)
        self.assertTrue(0 < memory.copied_bytes < in_file, memory)
        self.assertGreater(memory.scratch_bytes, 0)
        self.assertGreater(memory.tokenizer_bytes, 40 * model.vocab_size)
        self.assertEqual(memory.locked_bytes, 0)
        ours = (memory.copied_bytes + memory.repacked_bytes +
                memory.kv_bytes + memory.kv_metadata_bytes +
                memory.scratch_bytes + memory.tokenizer_bytes)
        self.assertLess(ours >> 10, kib["VmData:"])
        self.assertLess((ours + memory.mapped_bytes) >> 10, kib["VmSize:"])
        self.assertLess(memory.repacked_bytes >> 10, kib["RssAnon:"])

    def test_what_is_locked_is_what_the_system_says(self):
        try:
            with Kvpoold("--kv-cache-size-mb=8", "--model=" + DEMO,
                         "--model-lock=true") as server:
                if server.is_sanitized():
                    self.skipTest("a sanitizer locks nothing")
                memory = server.inference.GetModel(
                    inference.GetModelRequest(),
                    timeout=CALL_SECONDS).model.memory
                with open("/proc/%d/status" % server.pid) as status:
                    locked = [int(line.split()[1]) for line in status
                              if line.startswith("VmLck:")]
        except StartFailed as failed:
            self.assertIn("RLIMIT_MEMLOCK", failed.lines[-1])
            self.skipTest("it may not lock that much")
        self.assertGreater(memory.locked_bytes, memory.repacked_bytes)
        # What is repacked is no whole number of pages.
        self.assertAlmostEqual(locked[0], memory.locked_bytes >> 10, delta=16)

    def test_a_terminal_sees_how_far_loading_is_and_others_do_not(self):
        flags = ["--model-prefetch=wait", "--kv-cache-size-mb=4"]
        master, slave = pty.openpty()
        server = subprocess.Popen(
            [KVPOOLD, "--listen=127.0.0.1:0", *flags], stderr=slave,
            stdin=subprocess.DEVNULL)
        os.close(slave)
        seen = b""
        try:
            while b"msg=ready" not in seen:
                seen += os.read(master, 4096)
        finally:
            server.terminate()
            server.wait(60)
            os.close(master)
        lines = re.findall(rb"\r\x1b\[K(kvpoold: [a-z ]+ +\d+%)?", seen)
        self.assertEqual(lines[0], b"kvpoold: reading   0%")
        self.assertIn(b"kvpoold: reading 100%", lines)
        self.assertEqual(lines[-1], b"", "the line is still there")
        with Kvpoold(*flags) as server:
            self.assertFalse([s for s in server.lines if "%" in s])

    def test_weights_are_locked_or_it_says_which_limit_forbids_it(self):
        flags = ["--model-lock", "--kv-cache-size-mb=4"]
        try:
            with Kvpoold(*flags) as server:
                line = server.log(msg="model loaded")[0]
            self.assertGreater(int(line["locked_bytes"]), 0)
        except StartFailed as failed:
            self.assertEqual(failed.code, OTHER)
            self.assertIn("RLIMIT_MEMLOCK", failed.lines[-1])

    def test_a_second_model_is_refused(self):
        self.refused(CONFIGURATION, "--model", "2 models", "allowed is one",
                     flags=["--model=a.gguf", "--model=b.gguf"])

    def test_a_model_that_is_not_there_is_named(self):
        self.refused(OTHER, "/nonexistent/m.gguf",
                     flags=["--model=/nonexistent/m.gguf"])
        self.refused(OTHER, "/dev", flags=["--model=/dev"])

    def test_a_file_that_is_no_model_is_refused(self):
        for data in (b"", b"GGUF", b"not a model at all" * 100,
                     b"GGUF" + struct.pack("<IQQ", 3, 2 ** 63, 2 ** 63),
                     b"GGUF" + struct.pack("<IQQ", 99, 0, 0)):
            with self.subTest(data[:10]):
                self.model_refused(OTHER, data)

    def test_a_truncated_model_is_refused_wherever_it_was_cut(self):
        with open(DEMO, "rb") as file:
            data = file.read()
        for cut in (1, 100, 5000, 50000, 100000, len(data) // 2,
                    len(data) - 64):
            with self.subTest(cut):
                self.model_refused(OTHER, data[:cut])

    def test_a_damaged_model_starts_or_is_refused_and_never_crashes(self):
        with open(DEMO, "rb") as file:
            data = bytearray(file.read())
        draw = random.Random(20)
        with tempfile.NamedTemporaryFile(suffix=".gguf") as file:
            for _ in range(12):
                damaged = bytearray(data)
                for _ in range(draw.choice([1, 8, 64])):
                    damaged[draw.randrange(120000)] = draw.randrange(256)
                file.seek(0)
                file.write(damaged)
                file.flush()
                try:
                    with Kvpoold("--kv-cache-size-mb=8",
                                 "--model=" + file.name) as server:
                        generate(server, ids=[1, 5], max_tokens=2)
                except StartFailed as failed:
                    self.assertIn(failed.code, (CONFIGURATION, OTHER),
                                  failed)

    def test_a_model_from_a_file_is_as_the_one_inside(self):
        with Kvpoold("--kv-cache-size-mb=8", "--model=" + DEMO) as server:
            by_file = generate(server, text="What is a dog?", max_tokens=10)
        with Kvpoold("--kv-cache-size-mb=8") as server:
            inside = generate(server, text="What is a dog?", max_tokens=10)
        self.assertEqual(by_file.ids, inside.ids)


if __name__ == "__main__":
    main()
