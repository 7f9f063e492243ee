"""How long sessions stay: TTLs, priorities, pins and leases, by SetRetention
and with a request."""

import time

from kvpool_e2e import (CALL_SECONDS, ServerTest, common, generate, inference,
                        key, main, pool, session_target, stats, wait_until)

SECOND = 10 ** 9
SETTINGS = common.RetentionSettings
DURATION = common.DurationSetting
PRIORITY = common.PrioritySetting
ACCEPTED, CLIPPED = pool.RETENTION_RESULT_ACCEPTED, pool.RETENTION_RESULT_CLIPPED
REJECTED, MISSING = pool.RETENTION_RESULT_REJECTED, pool.RETENTION_RESULT_MISSING


def lease(name, seconds=60):
    return common.LeaseSetting(lease_id=name, duration_ns=seconds * SECOND)


class RetentionTest(ServerTest):
    flags = ("--kv-cache-size-mb=8", "--enable-receipts",
             "--snapshot-interval-ms=0", "--no-receipts-log",
             "--eviction-policy=priority", "--retention-max-pin-s=100",
             "--retention-max-lease-s=200", "--retention-max-ttl-s=300")

    def make(self, session, **fields):
        generate(self.server, text="What is a dog?", session=session,
                 max_tokens=2, **fields)

    def set(self, session, **settings):
        response = self.server.pool.SetRetention(
            pool.SetRetentionRequest(changes=[pool.RetentionChange(
                session=key(session), settings=SETTINGS(**settings))]),
            timeout=CALL_SECONDS)
        self.assertEqual(len(response.outcomes), 1)
        self.assertEqual(response.outcomes[0].session, key(session))
        return response.outcomes[0]

    def session(self, name):
        listed = self.server.pool.ListSessions(
            pool.ListSessionsRequest(page_size=1000), timeout=CALL_SECONDS)
        for session in listed.sessions:
            if session.key.session_id == name:
                return session
        return None

    def evicted(self, name):
        outcome = self.evict(session_target(name)).outcomes[0]
        return outcome.result

    def test_what_is_set_is_in_force_and_shown(self):
        self.make("shown")
        before = time.time_ns()
        outcome = self.set("shown", idle_ttl=DURATION(duration_ns=250 * SECOND),
                           absolute_ttl=DURATION(duration_ns=260 * SECOND),
                           priority=PRIORITY(priority=7),
                           pin=DURATION(duration_ns=90 * SECOND),
                           lease=lease("reader"))
        self.assertEqual(outcome.result, ACCEPTED)
        self.assertEqual(outcome.detail, "")
        session = self.session("shown")
        retention = session.retention
        self.assertEqual(session.state, stats.SESSION_STATE_HELD)
        self.assertEqual(retention.idle_ttl_ns, 250 * SECOND)
        self.assertEqual(retention.absolute_ttl_ns, 260 * SECOND)
        self.assertEqual(retention.priority, 7)
        self.assertEqual([l.lease_id for l in retention.leases], ["reader"])
        after = time.time_ns()
        for expires, seconds in ((retention.pin_expires_unix_ns, 90),
                                 (retention.leases[0].expires_unix_ns, 60)):
            began = expires - seconds * SECOND
            self.assertTrue(before - SECOND < began < after + SECOND)

    def test_a_held_session_answers_pinned_until_the_last_hold_goes(self):
        self.make("held")
        self.set("held", pin=DURATION(duration_ns=50 * SECOND),
                 lease=lease("a"))
        self.set("held", lease=lease("b"))
        self.assertEqual(self.evicted("held"), 3)
        self.set("held", pin=DURATION(duration_ns=0), lease=lease("a", 0))
        self.assertEqual(self.evicted("held"), 3)
        outcome = self.set("held", lease=lease("b", 0))
        self.assertEqual(len(outcome.retention.leases), 0)
        self.assertEqual(self.session("held").state,
                         stats.SESSION_STATE_CACHED)
        self.assertEqual(self.evicted("held"), 1)

    def test_a_pin_ends_by_itself(self):
        self.make("brief")
        outcome = self.set("brief", pin=DURATION(duration_ns=SECOND // 5))
        self.assertGreater(outcome.retention.pin_expires_unix_ns, 0)
        wait_until(lambda: self.session("brief").state ==
                   stats.SESSION_STATE_CACHED, "cached")

    def test_an_absolute_ttl_evicts_a_session_that_is_used(self):
        self.make("old")
        self.set("old", absolute_ttl=DURATION(duration_ns=1))
        wait_until(lambda: self.session("old").state ==
                   stats.SESSION_STATE_EVICTED, "evicted")

    def test_more_than_the_maximum_is_clipped_and_said(self):
        self.make("long")
        outcome = self.set("long", idle_ttl=DURATION(duration_ns=2 ** 63 - 1),
                           absolute_ttl=DURATION(duration_ns=0),
                           pin=DURATION(duration_ns=101 * SECOND),
                           lease=lease("x", 201))
        self.assertEqual(outcome.result, CLIPPED)
        self.assertEqual(
            outcome.detail,
            "idle_ttl: at most 300 s; absolute_ttl: at most 300 s; "
            "pin: at most 100 s; lease: at most 200 s")
        self.assertEqual(outcome.retention.idle_ttl_ns, 300 * SECOND)
        self.assertEqual(outcome.retention.absolute_ttl_ns, 300 * SECOND)

    def test_one_lease_too_many_is_rejected_and_nothing_applied(self):
        self.make("leased")
        for i in range(16):
            self.assertEqual(self.set("leased", lease=lease("r%d" % i)).result,
                             ACCEPTED)
        outcome = self.set("leased", priority=PRIORITY(priority=1),
                           lease=lease("r16"))
        self.assertEqual(outcome.result, REJECTED)
        self.assertIn("at most 16", outcome.detail)
        self.assertEqual(outcome.retention.priority, 50)
        self.assertEqual(len(outcome.retention.leases), 16)
        self.assertEqual(self.set("leased", lease=lease("r3")).result, ACCEPTED)
        self.generate_fails("INVALID_ARGUMENT", "INVALID_FIELD",
                            field="retention.lease", text="a",
                            session="leased",
                            retention=SETTINGS(lease=lease("r17")))

    def test_a_session_that_is_not_there_is_missing(self):
        outcome = self.set("nobody", priority=PRIORITY(priority=1))
        self.assertEqual(outcome.result, MISSING)
        self.assertFalse(outcome.HasField("retention"))

    def test_a_request_sets_retention_too(self):
        self.make("asked", retention=SETTINGS(
            priority=PRIORITY(priority=90), lease=lease("me"),
            pin=DURATION(duration_ns=5000 * SECOND)))
        session = self.session("asked")
        self.assertEqual(session.state, stats.SESSION_STATE_HELD)
        self.assertEqual(session.retention.priority, 90)
        self.assertEqual(session.retention.leases[0].lease_id, "me")
        generate(self.server, text="a", max_tokens=1,
                 retention=SETTINGS(priority=PRIORITY(priority=3)))

    def test_what_no_server_could_set_is_refused(self):
        change = pool.RetentionChange
        bad = {
            "changes": [],
            "changes[0].session": [change(settings=SETTINGS())],
            "changes[0].session.session_id": [change(session=key(""))],
            "changes[1].session": [change(session=key("a")),
                                   change(session=key("a"))],
            "changes[0].settings.priority.priority": [change(
                session=key("a"),
                settings=SETTINGS(priority=PRIORITY(priority=101)))],
            "changes[0].settings.pin.duration_ns": [change(
                session=key("a"),
                settings=SETTINGS(pin=DURATION(duration_ns=-1)))],
            "changes[0].settings.lease.lease_id": [change(
                session=key("a"), settings=SETTINGS(lease=lease("a b")))],
        }
        for field, changes in bad.items():
            with self.subTest(field):
                self.fails("INVALID_ARGUMENT", "INVALID_FIELD",
                           lambda c=changes: self.server.pool.SetRetention(
                               pool.SetRetentionRequest(changes=c),
                               timeout=CALL_SECONDS), field=field)

    def test_the_policy_is_named(self):
        self.assertEqual(self.snapshot().policy, "priority")


class HeldPoolTest(ServerTest):
    """Pins and leases hold more than a request can do without; who waited
    without hope would not be answered in time."""
    flags = ("--kv-cache-size-mb=1", "--hold-wait-ms=600000",
             "--max-beginnings=0")
    LONG = dict(text="Once upon a time there was a dog and a ship. " * 6,
                max_tokens=24)

    def hold(self, seconds):
        """Holds all of the pool but for less than a long request needs."""
        wait_until(lambda: self.snapshot().blocks.pinned == 0,
                   "the end of what an earlier test holds")
        self.evict(pool.EvictTarget(all=pool.EvictAll()), forget=True)
        names = []
        while True:
            blocks = self.snapshot().blocks
            if blocks.total - blocks.pinned < 6:  # its prompt takes
                break
            names.append("held-%d" % len(names))
            self.generate(text="%d. What is a river? " % len(names) * 8,
                          session=names[-1], max_tokens=2,
                          retention=SETTINGS(pin=DURATION(
                              duration_ns=int(seconds * SECOND))))
        self.assertGreater(len(names), 0)
        return names

    def let_go(self, names):
        for name in names:
            self.server.pool.SetRetention(
                pool.SetRetentionRequest(changes=[pool.RetentionChange(
                    session=key(name), settings=SETTINGS(
                        pin=DURATION(duration_ns=0)))]),
                timeout=CALL_SECONDS)
        self.evict(pool.EvictTarget(all=pool.EvictAll()))

    def test_where_no_hold_ends_in_time_the_request_says_who_holds_what(self):
        names = self.hold(1000)
        failure = self.generate_fails(
            "RESOURCE_EXHAUSTED", "POOL_EXHAUSTED", session="wants",
            **self.LONG)
        blocks = self.snapshot().blocks
        given = failure.metadata
        self.assertEqual(int(given["total_blocks"]), blocks.total)
        self.assertEqual(int(given["held_sessions"]), len(names))
        self.assertGreater(int(given["needed_blocks"]) +
                           int(given["held_blocks"]), blocks.total)
        left = int(given["held_until_unix_ns"]) / SECOND - time.time()
        self.assertTrue(900 < left < 1001, left)
        self.assertIn("%d sessions under pins and leases" % len(names),
                      failure.message)

        # Who needs less is served meanwhile, and all are once they let go.
        self.assertEqual(self.generate(text="What?", max_tokens=1).reason,
                         "MAX_TOKENS")
        self.let_go(names)
        self.assertGreater(len(self.generate(**self.LONG).ids), 0)
        self.evict(pool.EvictTarget(all=pool.EvictAll()))

    def sessions(self):
        """What is set of them, and how long they are."""
        listed = self.server.pool.ListSessions(
            pool.ListSessionsRequest(page_size=1000), timeout=CALL_SECONDS)
        return {s.key.session_id: (s.tokens, s.state, s.retention)
                for s in listed.sessions}

    def test_a_request_that_is_refused_has_changed_nothing(self):
        names = self.hold(1000)
        self.generate(text="What is a dog?", session="old", max_tokens=2)
        self.evict(session_target("old"))
        before = self.sessions()
        for session, fields in (
                ("new", {}),
                ("old", dict(continue_from=inference.ContinueFrom(tokens=3)))):
            self.generate_fails(
                "RESOURCE_EXHAUSTED", "POOL_EXHAUSTED", session=session,
                retention=SETTINGS(
                    idle_ttl=DURATION(duration_ns=SECOND),
                    priority=PRIORITY(priority=9),
                    pin=DURATION(duration_ns=900 * SECOND),
                    lease=lease("reader")),
                **self.LONG, **fields)
            self.assertEqual(self.sessions().keys(), before.keys())
            self.assertEqual(self.sessions()["old"], before["old"])
        self.let_go(names)

    def test_where_a_hold_ends_in_time_the_request_waits_for_it(self):
        names = self.hold(1000)
        for name in names:
            self.server.pool.SetRetention(
                pool.SetRetentionRequest(changes=[pool.RetentionChange(
                    session=key(name), settings=SETTINGS(
                        pin=DURATION(duration_ns=SECOND)))]),
                timeout=CALL_SECONDS)
        out = self.generate(**self.LONG)
        self.assertGreater(len(out.ids), 0)
        self.evict(pool.EvictTarget(all=pool.EvictAll()))


if __name__ == "__main__":
    main()
