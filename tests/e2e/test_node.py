"""A Node client that knows nothing but the address: by reflection."""
import json
import os
import shutil
import subprocess
import unittest

from kvpool_e2e import SOURCE, ServerTest, ledger_end, main

CLIENT = os.path.join(os.path.dirname(os.path.abspath(__file__)),
                      "node_client.js")


def node_path():
    """Where the packages of package.json are: tests/run.sh installs them."""
    for folder in (os.environ.get("NODE_PATH", ""),
                   os.path.join(SOURCE, "build", "node", "node_modules")):
        if os.path.isdir(os.path.join(folder, "@grpc", "grpc-js")):
            return folder
    return None


class NodeTest(ServerTest):
    flags = ("--kv-cache-size-mb=8", "--enable-receipts")

    @classmethod
    def setUpClass(cls):
        if shutil.which("node") is None or node_path() is None:
            print("SKIPPED: node, or @grpc/grpc-js in NODE_PATH, is not "
                  "there; tests/run.sh installs it", flush=True)
            raise unittest.SkipTest("no Node client")
        super().setUpClass()

    def test_a_client_made_of_reflection_generates_evicts_and_follows(self):
        expected = self.generate(text="What is a dog?", max_tokens=12)
        for version in ("v1", "v1alpha"):
            done = subprocess.run(
                ["node", CLIENT, self.server.address, version],
                env=dict(os.environ, NODE_PATH=node_path()), timeout=120,
                capture_output=True, text=True, check=False)
            self.assertEqual(done.returncode, 0, done.stderr)
            seen = json.loads(done.stdout)
            self.assertIn("kvpool.v1.KvPoolService", seen["services"])
            self.assertEqual((seen["ids"], seen["text"]),
                             (expected.ids, expected.text))
            self.assertLessEqual(seen["last"], ledger_end(self.server))


if __name__ == "__main__":
    main()
