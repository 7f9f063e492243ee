"""The configuration: a YAML file under the environment under the flags; asking
for it to be checked or printed; and that docs/configuration.md tells the truth.

    KVPOOLD=build/debug/server/kvpoold tests/e2e/test_config.py --table

prints the table of options for that page, and --sinks those of the sinks.
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


def sink_tables():
    """The settings of each kind of sink as kvpoold --help has them, as
    Markdown."""
    text = run("--help").stdout
    text = text[text.index("  kind: "):text.index("\nExit code")]
    entry = re.compile(
        r"^    (?P<name>\w+): (?P<value>\S+)\s+(?P<help>\S.*(?:\n {32}.*)*?)\n"
        r" {32}(?:(?P<range>\d+ to .*?), )?(?:default (?P<default>.+)|needed)$",
        re.M)
    tables = []
    for kind in re.split(r"^  kind: ", text, flags=re.M)[1:]:
        name, _, settings = kind.partition("\n")
        rows = ["### %s\n" % name]
        for match in entry.finditer(settings):
            if len(rows) == 1:
                rows += ["| setting | values | default | |", "|---|---|---|---|"]
            value = match["range"] or "`%s`" % match["value"].replace(
                "|", "`, `")
            default = ("needed" if match["default"] is None else
                       "empty" if match["default"] == "empty" else
                       "`%s`" % match["default"])
            rows.append("| `%s` | %s | %s | %s |" % (
                match["name"], value, default,
                " ".join(match["help"].split())))
        tables.append("\n".join(rows) + "\n")
    return tables


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
        table = page[page.index("| option | values"):].partition("\n\n")[0]
        self.assertEqual(table.rstrip("\n") + "\n", option_table())
        self.assertEqual(
            re.findall(r"^\| `(\w+)`", table, re.M) + ["sinks", "tenants"],
            list(self.printed()))

    def test_the_page_has_every_kind_of_sink_as_help_has_it(self):
        with open(PAGE, encoding="utf-8") as file:
            page = file.read()
        tables = sink_tables()
        for table in tables:
            heading, _, rows = table.partition("\n\n")
            self.assertIn(heading + "\n", page)
            section = page.split(heading + "\n")[1].split("\n#")[0]
            self.assertEqual(
                re.findall(r"^\|.*\n", section, re.M),
                re.findall(r"^\|.*\n", rows, re.M), heading)
        self.assertEqual(len(tables), len(re.findall(r"^### ", page, re.M)))

    def refused_at(self, place, message, text):
        """The file is refused at place, line:column, with exactly the message.
        """
        self.write(text)
        self.refused("kvpool.yaml:%s: %s" % (place, message),
                     "--config=kvpool.yaml", "--check-config")

    def test_sinks_are_checked_as_strictly_as_options(self):
        kinds = "|".join(re.findall(r"^  kind: (\w+)$",
                                    run("--help").stdout, re.M))
        good = "sinks:\n  - name: a\n    kind: file\n    path: x.jsonl\n"
        allowed = ("a list of sinks, each `- name: NAME` with a kind and its "
                   "settings")
        names = "1 to 64 of a-z, A-Z, 0-9, '-', '_' and '.'"
        for place, message, text in (
                ("1:8", "sinks: given a single value, allowed is " + allowed,
                 "sinks: file\n"),
                ("1:7", "sinks: given nothing, allowed is " + allowed,
                 "sinks:\n"),
                ("2:3", "sinks: given a mapping, allowed is " + allowed,
                 "sinks:\n  name: a\n"),
                ("2:5", "sinks: given a single value, allowed is " + allowed,
                 "sinks:\n  - file\n"),
                ("2:5", "no name given, needed is one of its own",
                 "sinks:\n  - kind: file\n"),
                ("2:11", 'name: given "a b", allowed is ' + names,
                 "sinks:\n  - name: a b\n    kind: log\n"),
                ("2:11", 'name: given "", allowed is ' + names,
                 "sinks:\n  - name: \"\"\n    kind: log\n"),
                ("5:11", "name: given a a second time, allowed is a name of "
                 "its own; the first is on line 2",
                 good + "  - name: a\n    kind: log\n"),
                ("2:5", "no kind given, needed " + kinds,
                 "sinks:\n  - name: a\n"),
                ("3:11", 'kind: given "fiel", allowed is ' + kinds,
                 "sinks:\n  - name: a\n    kind: fiel\n"),
                ("5:5", 'unknown setting "rotate_m" of a, a sink of kind file; '
                 "did you mean rotate_mb? allowed are path, rotate_mb, "
                 "rotate_s, compress, keep_files", good + "    rotate_m: 1\n"),
                ("4:5", 'unknown setting "path" of a, a sink of kind log; it '
                 "has none",
                 "sinks:\n  - name: a\n    kind: log\n    path: x\n"),
                ("2:5", "no a.path given, needed FILE: the file being "
                 "written; its directory must be there",
                 "sinks:\n  - name: a\n    kind: file\n"),
                ("4:11", "a.path: given \"/x/..\", allowed is a file",
                 "sinks:\n  - name: a\n    kind: file\n    path: /x/..\n"),
                ("5:5", '"path": given a second time, allowed is once; the '
                 "first is on line 4", good + "    path: y\n"),
                ("5:16", 'a.rotate_mb: given "1048577", allowed is a decimal '
                 "number from 0 to 1048576", good + "    rotate_mb: 1048577\n"),
                ("5:16", "a.rotate_mb: given a text in quotes, allowed is a "
                 "decimal number from 0 to 1048576",
                 good + '    rotate_mb: "1"\n'),
                ("5:15", 'a.compress: given "gzip", allowed is zstd|none',
                 good + "    compress: gzip\n"),
                ("5:15", '"compress": given a list, allowed is a single value',
                 good + "    compress: [zstd]\n"),
                ("5:1", "sinks: given a second time, allowed is once; the "
                 "first is on line 1", good + "sinks: []\n"),
        ):
            with self.subTest(text):
                self.refused_at(place, message, text)

    def test_tenants_are_checked_as_strictly_as_options(self):
        good = "tenants:\n  - name: a\n    soft_blocks: 7\n"
        allowed = ("a list of tenants, each `- name: NAME` with soft_blocks "
                   "and hard_blocks")
        names = 'a tenant of at most 128 bytes; the default tenant is ""'
        number = "a decimal number from 0 to 2147483647"
        for place, message, text in (
                ("1:10", "tenants: given a single value, allowed is " + allowed,
                 "tenants: a\n"),
                ("2:3", "tenants: given a mapping, allowed is " + allowed,
                 "tenants:\n  a: 1\n"),
                ("2:5", "no name given, needed is a tenant",
                 "tenants:\n  - hard_blocks: 1\n"),
                ("2:10", 'name: given nothing; empty is "", allowed is ' +
                 names, "tenants:\n  - name:\n"),
                ("2:11", 'name: given "%s...", allowed is %s' %
                 ("x" * 84, names), "tenants:\n  - name: %s\n" % ("x" * 129)),
                ("4:11", 'name: given "a" a second time, allowed is once; the '
                 "first is on line 2", good + "  - name: a\n"),
                ("4:18", 'hard_blocks: given "x", allowed is ' + number,
                 good + "    hard_blocks: x\n"),
                ("3:18", "soft_blocks: given a text in quotes, allowed is " +
                 number, 'tenants:\n  - name: a\n    soft_blocks: "7"\n'),
                ("4:5", 'unknown setting "blocks" of a tenant; allowed are '
                 "name, soft_blocks, hard_blocks", good + "    blocks: 1\n"),
                ("2:5", "hard_blocks: given 6, allowed are 0 and at least the "
                 "soft quota, which is 7", good + "    hard_blocks: 6\n"),
                ("4:1", "tenants: given a second time, allowed is once; the "
                 "first is on line 1", good + "tenants: []\n"),
        ):
            with self.subTest(text):
                self.refused_at(place, message, text)
        self.write(good + '  - {name: "", hard_blocks: 7}\n')
        self.assertEqual(self.run_here(
            "--config=kvpool.yaml", "--check-config").returncode, 0)
        self.refused("tenant-hard-blocks: given 3, allowed are 0 and at least "
                     "the soft quota, which is 4", "--tenant-soft-blocks=4",
                     "--tenant-hard-blocks=3", "--check-config")

    def test_printed_sinks_are_a_file_that_says_the_same(self):
        self.write("sinks:\n  - {name: b, kind: log}\n"
                   "  - kind: file\n    path: \"a \\\"b\\\" # c\"\n"
                   "    name: a\n    rotate_s: 7\n"
                   "tenants:\n  - {name: \"\", soft_blocks: 3}\n"
                   "  - {hard_blocks: 9, name: a b}\n")
        first = self.run_here("--config=kvpool.yaml", "--print-config").stdout
        self.assertIn('    path: "a \\"b\\" # c"  # file kvpool.yaml:4\n', first)
        self.assertIn("    rotate_s: 7  # file kvpool.yaml:6\n", first)
        self.assertIn("    rotate_mb: 256  # default\n", first)
        self.assertIn('  - name: "a b"  # file kvpool.yaml:9\n', first)
        self.write(first)
        again = self.run_here("--config=kvpool.yaml", "--print-config")
        self.assertEqual(again.returncode, 0, again.stderr)
        self.assertEqual(re.sub("  # .*", "", first),
                         re.sub("  # .*", "", again.stdout))

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
    elif sys.argv[1:] == ["--sinks"]:
        sys.stdout.write("\n".join(sink_tables()))
    else:
        main()
