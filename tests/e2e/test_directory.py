"""kvpoolctl on the directory of a real server's receipts: beside the server that
writes it, after its end, and after somebody's hand was in it."""
import json
import os
import shutil

from kvpool_e2e import CALL_SECONDS, generate, main, pool
from test_journal import JournalTest, evict
from test_kvpoolctl import DAMAGED, FAILED, OK, run

class DirectoryTest(JournalTest):
    def ctl(self, *arguments, server=None, code=OK, word=""):
        done = run("receipts", *arguments,
                   server=server.address if server else "127.0.0.1:1")
        self.assertEqual(done.returncode, code,
                         (arguments, done.stdout, done.stderr))
        self.assertIn(word, done.stdout + done.stderr)
        return done.stdout

    def start(self, *flags):
        server = super().start(
            "--signing-key=" + os.path.join(self.root, "key"), *flags)
        self.key = server.log(msg="checkpoints are signed")[0]["key"]
        return server

    def fill(self, server, n=20):
        """Evictions, and a checkpoint that covers them."""
        generate(server, text="What is a dog?", session="a", max_tokens=4)
        for _ in range(n):
            last = evict(server, "a").receipts.last_sequence
        server.pool.GetCheckpoint(
            pool.GetCheckpointRequest(covering_sequence=last),
            timeout=CALL_SECONDS)
        return last

    def lives(self, n=2):
        for _ in range(n):
            with self.start() as server:
                self.fill(server)

    def test_it_is_verified_beside_its_server_and_after_it(self):
        with self.start() as server:
            for _ in range(3):
                self.fill(server)
                self.ctl("verify", self.data, "--key", self.key,
                         word="receipts 1 to ")
        self.ctl("verify", self.data, "--key", self.key, word="signed by: ")
        with self.start() as server:
            self.fill(server)
        shown = json.loads(self.ctl("verify", self.data, "--key", self.key,
                                    "-o", "json"))
        self.assertEqual(shown["tree_size"], shown["last_sequence"])

    def test_an_export_is_what_a_tail_prints(self):
        self.lives(1)
        with self.start() as server:
            last = self.fill(server)
            printed = self.ctl("tail", "--from=earliest", "-o", "jsonl",
                               "--limit", str(last), server=server)
            exported = self.ctl("export", self.data, "--to", str(last))
            self.assertEqual(
                [json.loads(line) for line in exported.splitlines()],
                [json.loads(line) for line in printed.splitlines()])
            self.assertEqual(
                exported, self.ctl("export", "--to", str(last), server=server))

    def test_an_audit_reads_every_life(self):
        self.lives(3)
        self.assertIn("add up", self.ctl("audit", self.data))

    def test_a_flipped_bit_is_found_and_named(self):
        self.lives()
        for path in self.segments():
            with open(path, "r+b") as file:
                file.seek(300)
                byte = file.read(1)
                file.seek(300)
                file.write(bytes([byte[0] ^ 1]))
                file.flush()
                self.ctl("verify", self.data, code=DAMAGED,
                         word=os.path.basename(path))
                self.ctl("export", self.data, code=DAMAGED)
                file.seek(300)
                file.write(byte)
        self.ctl("verify", self.data, "--key", self.key)

    def test_only_who_kept_a_checkpoint_sees_a_ledger_set_back(self):
        self.lives(1)
        before = os.path.join(self.root, "before")
        shutil.copytree(self.data, before)
        old, witnessed = (os.path.join(self.root, n) for n in ("old", "w"))
        witness = ("witness", "--state", os.path.join(self.root, "state"),
                   "--signing-key", os.path.join(self.root, "witness-key"),
                   "--key", self.key, "--out", witnessed)
        with self.start() as server:
            self.fill(server)
            with open(old, "w", encoding="utf-8") as file:
                file.write(self.ctl("checkpoint", server=server))
            self.ctl(*witness, server=server)
        self.ctl("verify", self.data, "--key", self.key, "--old", old,
                 word="nothing was changed")
        self.ctl("verify", self.data, "--key", self.key, "--old", old,
                 "--new", witnessed, word="nothing was changed between")
        shutil.rmtree(self.data)
        shutil.copytree(before, self.data)
        self.ctl("verify", self.data, "--key", self.key)
        self.ctl("verify", self.data, "--key", self.key, "--old", old,
                 code=DAMAGED, word="was set back")
        with self.start() as server:  # which knows nothing of it
            self.ctl(*witness, server=server, code=DAMAGED,
                     word="NOT COSIGNED")
            self.fill(server, 60)
            self.ctl(*witness, server=server, code=DAMAGED,
                     word="was rewritten")

    def test_a_folder_of_something_else_is_no_ledger(self):
        os.mkdir(self.data)
        self.ctl("verify", self.data, code=FAILED, word=self.data)
        self.assertEqual(os.listdir(self.data), [])

if __name__ == "__main__":
    main()
