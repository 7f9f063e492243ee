"""The configuration: a YAML file under the environment under the flags; asking
for it to be checked or printed; and that docs/configuration.md tells the truth.

    KVPOOLD=build/debug/server/kvpoold tests/e2e/test_config.py --table

prints the table of options for that page.
"""
import os
import re
import subprocess
import sys
import tempfile
import unittest

from kvpool_e2e import (CALL_SECONDS, KVPOOLD, SANITIZER, SOURCE, Kvpoold,
                        StartFailed, inference, main)

PAGE = os.path.join(SOURCE, "docs", "configuration.md")
CONFIGURATION = 78


def run(*arguments, environment=None, folder=None):
    clean = {k: v for k, v in os.environ.items()
             if not k.startswith("KVPOOL_")}
    clean.update(environment or {})
    done = subprocess.run([KVPOOLD, *arguments], env=clean, timeout=120,
                          stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, errors="replace", cwd=folder)
    assert not SANITIZER.search(done.stderr), done.stderr
    return done


def option_table():
    """The options as kvpoold --help has them, as rows of Markdown."""
    text = run("--help").stdout
    entry = re.compile(
        r"^  --(?P<name>[a-z-]+)(?:=(?P<value>\S+))?\s+(?P<help>\S.*)\n"
        r"\s+(?:(?P<range>\d+ to .*?), )?default (?P<default>.+?); "
        r"KVPOOL_", re.M)
    rows = ["| option | values | default | |", "|---|---|---|---|"]
    for match in entry.finditer(text):
        if match["name"] == "config":
            continue
        value = match["range"] or (
            "`%s`" % match["value"].replace("|", "`, `") if match["value"]
            else "`true`, `false`")
        rows.append("| `%s` | %s | `%s` | %s |" % (
            match["name"].replace("-", "_"), value, match["default"],
            match["help"]))
    return "\n".join(row.replace("`empty`", "empty") for row in rows) + "\n"


class ConfigTest(unittest.TestCase):
    maxDiff = None

    def setUp(self):
        if not KVPOOLD:
            self.skipTest("KVPOOLD does not say where kvpoold is")
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def write(self, text, name="kvpool.yaml"):
        path = os.path.join(self.folder, name)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        return path

    def run_here(self, *arguments, environment=None):
        return run(*arguments, environment=environment, folder=self.folder)

    def refused(self, message, *arguments, environment=None):
        done = self.run_here(*arguments, environment=environment)
        self.assertEqual((done.returncode, done.stdout, done.stderr),
                         (CONFIGURATION, "", "kvpoold: %s\n" % message))

    def printed(self, *arguments, environment=None):
        """The value and the source of each option, as --print-config has it."""
        done = self.run_here("--print-config", *arguments,
                             environment=environment)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return dict(re.fullmatch(r"(\w+): (.*  # .+)", line).groups()
                    for line in done.stdout.splitlines())

    def test_a_server_runs_on_its_file(self):
        path = self.write("kv_cache_size_mb: 5\nlog_level: debug\n")
        for start in ({"flags": ["--config=" + path]},
                      {"environment": {"KVPOOL_CONFIG": path}}):
            with Kvpoold(*start.get("flags", ()),
                         environment=start.get("environment")) as server:
                model = server.inference.GetModel(
                    inference.GetModelRequest(), timeout=CALL_SECONDS).model
                self.assertEqual(model.memory.kv_bytes >> 20, 4)

    def test_it_listens_where_the_file_says(self):
        folder = self.folder
        path = self.write("listen:\n  - 127.0.0.1:0\n  - unix:%s/s\n"
                          "kv_cache_size_mb: 4\n" % folder)
        process = subprocess.Popen(
            [KVPOOLD, "--config", path], stderr=subprocess.PIPE, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        self.addCleanup(process.kill)
        addresses = []
        for line in process.stderr:
            addresses += re.findall(r"msg=listening .*address=(\S+)", line)
            if "msg=ready" in line:
                break
        process.terminate()
        self.assertEqual(process.wait(CALL_SECONDS), 0)
        process.stderr.close()
        self.assertEqual(len(addresses), 2, addresses)
        self.assertEqual(addresses[1], "unix:%s/s" % folder)

    def test_a_server_does_not_start_on_a_bad_file(self):
        path = self.write("threads: 2\nkv_cache_size: 4\n")
        with self.assertRaises(StartFailed) as failed:
            Kvpoold("--config=" + path)
        self.assertEqual(failed.exception.code, CONFIGURATION)
        self.assertEqual(failed.exception.lines, [
            'kvpoold: %s:2:1: unknown option "kv_cache_size"; did you mean '
            "kv_cache_size_mb? --help lists what is allowed" % path])

    def test_checking_says_valid_and_opens_nothing(self):
        self.write("listen: unix:/nonexistent/s\nmodel: none.gguf\n"
                   "kv_cache_size_mb: 16777216\n")
        done = self.run_here("--config=kvpool.yaml", "--check-config")
        self.assertEqual((done.returncode, done.stdout, done.stderr),
                         (0, "configuration is valid\n", ""))
        self.assertEqual(os.listdir(self.folder), ["kvpool.yaml"])

    def test_checking_says_what_is_wrong_wherever_it_stands(self):
        self.write("threads: 2\nenable_receipts: maybe\n")
        self.refused('kvpool.yaml:2:18: enable_receipts: given "maybe", '
                     "allowed is true|false",
                     "--config=kvpool.yaml", "--check-config")
        self.refused('--threads: given "x", allowed is a decimal number from '
                     "0 to 1024", "--threads=x", "--check-config")
        self.refused('KVPOOL_THREADS: given "x", allowed is a decimal number '
                     "from 0 to 1024", "--check-config",
                     environment={"KVPOOL_THREADS": "x"})
        self.refused("none.yaml: the configuration file cannot be read: "
                     "No such file or directory",
                     "--config=none.yaml", "--check-config")

    def test_checking_knows_what_does_not_go_together(self):
        self.write("max_batch_tokens: 4\nmax_batch_size: 8\n")
        self.refused("max-batch-tokens: 4 was given; allowed are at least "
                     "max-batch-size, which is 8",
                     "--config=kvpool.yaml", "--check-config")
        done = self.run_here("--config=kvpool.yaml", "--check-config",
                             "--max-batch-size=4")
        self.assertEqual(done.returncode, 0, done.stderr)
        done = self.run_here("--check-config", "--listen=127.0.0.1:1,nonsense")
        self.assertEqual(done.returncode, CONFIGURATION)
        self.assertIn("host:port", done.stderr)

    def test_printing_names_each_source(self):
        self.write("# first\nkv_cache_size_mb: 64\nthreads: 2\n"
                   "max_calls: 7\n")
        printed = self.printed(
            "--config=kvpool.yaml", "--threads=4",
            environment={"KVPOOL_THREADS": "3", "KVPOOL_MAX_CALLS": "8"})
        self.assertEqual(printed["kv_cache_size_mb"],
                         "64  # file kvpool.yaml:2")
        self.assertEqual(printed["threads"], "4  # flag")
        self.assertEqual(printed["max_calls"], "8  # KVPOOL_MAX_CALLS")
        self.assertEqual(printed["max_batch_size"], "8  # default")

    def test_what_was_printed_is_a_file_that_says_the_same(self):
        def values(printed):
            return {k: v.partition("  # ")[0] for k, v in printed.items()}

        first = self.printed("--kv-type=f32", "--model=a \"b\" \u00fc: # c",
                             "--listen=[::1]:1,unix:/x y",
                             environment={"KVPOOL_ENABLE_RECEIPTS": "1"})
        self.write("".join("%s: %s\n" % item for item in first.items()))
        again = self.printed("--config=kvpool.yaml")
        self.assertEqual(values(first), values(again))
        self.assertEqual({v.partition("  # ")[2].partition(":")[0]
                          for v in again.values()}, {"file kvpool.yaml"})
        self.assertEqual(again["kv_type"].partition(" ")[0], "f32")

    def test_the_page_has_every_option_as_help_has_it(self):
        with open(PAGE, encoding="utf-8") as file:
            page = file.read()
        table = page[page.index("| option | values"):]
        self.assertEqual(table.partition("\n\n")[0].rstrip("\n") + "\n",
                         option_table())
        self.assertEqual(
            re.findall(r"^\| `(\w+)`", table, re.M),
            list(self.printed()))

    def test_the_examples_of_the_page_are_valid(self):
        with open(PAGE, encoding="utf-8") as file:
            examples = re.findall(r"```yaml\n(.*?)```", file.read(), re.S)
        self.assertGreaterEqual(len(examples), 1)
        for example in examples:
            self.write(example)
            done = self.run_here("--config=kvpool.yaml", "--check-config")
            self.assertEqual((done.returncode, done.stderr), (0, ""), example)


if __name__ == "__main__":
    if sys.argv[1:] == ["--table"]:
        sys.stdout.write(option_table())
    else:
        main()
