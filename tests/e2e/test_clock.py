"""A wall clock that jumps, ahead and back: receipts tell the time that it shows,
and nothing else depends on it."""
import os
import struct
import subprocess
import time

from auditor import Auditor
from kvpool_e2e import Kvpoold, generate, main, pool, read_receipts
from test_journal import FLAGS, JournalTest, evict, health

SHIM = os.environ["KVPOOL_CLOCK_SHIM"]
DAY_NS = 86400 * 10 ** 9
JUMPS = (3650 * DAY_NS, -3650 * DAY_NS, DAY_NS // 24, -1, 0)


class ClockTest(JournalTest):
    def setUp(self):
        super().setUp()
        self.offset = os.path.join(self.root, "offset")
        self.jump(0)

    def jump(self, offset_ns):
        mode = "r+b" if os.path.exists(self.offset) else "wb"
        with open(self.offset, mode) as file:
            file.write(struct.pack("<q", offset_ns))

    def start(self, *flags):
        server = Kvpoold(
            *FLAGS, "--data-dir=" + self.data, "--signing-key=" +
            os.path.join(self.root, "key"), *flags,
            environment={"LD_PRELOAD": SHIM, "CLOCK_SHIM": self.offset})
        self.addCleanup(server.kill)
        return server

    def live_through_jumps(self, server):
        for i, offset_ns in enumerate(JUMPS):
            name = "s%d" % i
            generate(server, text="A dog", session=name, max_tokens=4)
            self.jump(offset_ns)
            answer = evict(server, name)
            self.assertEqual(answer.sessions_evicted, 1)
            shown_ns = read_receipts(server)[-1].time_unix_ns
            self.assertLess(
                abs(shown_ns - time.time_ns() - offset_ns), 60 * 10 ** 9)
        self.assertEqual(health(server), 1)

    def test_a_clock_that_jumps_shows_in_times_and_nowhere_else(self):
        for offset_ns in (0, -3650 * DAY_NS, 3650 * DAY_NS):
            self.jump(offset_ns)
            with self.start() as server:
                self.live_through_jumps(server)
                receipts = read_receipts(server)
                self.assertEqual([r.sequence for r in receipts],
                                 list(range(1, len(receipts) + 1)))
                Auditor().add_all(receipts)
        times = [r.time_unix_ns for r in receipts]
        self.assertNotEqual(times, sorted(times))
        done = subprocess.run(
            [os.environ["KVPOOLCTL"], "receipts", "verify", self.data],
            stdout=subprocess.PIPE, text=True, check=False)
        self.assertEqual(done.returncode, 0, done.stdout)

    def test_who_has_waited_is_evicted_by_the_clock_that_never_jumps(self):
        with self.start("--session-idle-ttl-s=3600") as server:
            generate(server, text="A dog", session="a", max_tokens=4)
            self.jump(3650 * DAY_NS)
            generate(server, text="A cat", session="b", max_tokens=4)
            time.sleep(1.5)  # a sweep would be by now
            listed = server.pool.ListSessions(pool.ListSessionsRequest())
            self.assertEqual(len(listed.sessions), 2)


if __name__ == "__main__":
    main()
