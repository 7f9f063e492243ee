"""/metrics, /livez and /readyz: what a scraper and a probe see."""
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import unittest
import urllib.request

from kvpool_e2e import (CALL_SECONDS, Kvpoold, ServerTest, StartFailed,
                        generate_request, main, parse_logfmt, pool,
                        session_target, wait_until)

HTTP = "--admin-listen=127.0.0.1:0"
SAMPLE = re.compile(r"([a-z_]+)(?:\{(.*)\})? (-?[0-9.]+)$")


def http_address(server):
    return server.log(msg="listening for HTTP")[0]["address"]


def ask(server, path, method="GET", body=None):
    """Status, type and text."""
    connection = http.client.HTTPConnection(
        http_address(server), timeout=CALL_SECONDS)
    connection.request(method, path, body)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, answer.getheader("Content-Type"), text


def metrics(server):
    """{"name{labels}": value} of all samples."""
    _, _, text = ask(server, "/metrics")
    found = {}
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        name, labels, value = SAMPLE.match(line).groups()
        sample = name + ("{%s}" % labels if labels else "")
        assert sample not in found, sample
        found[sample] = float(value)
    return found


class MetricsTest(ServerTest):
    flags = (HTTP, "--admin-idle-s=2", "--enable-receipts",
             "--kv-cache-size-mb=6", "--snapshot-interval-ms=0")

    def test_the_numbers_are_those_of_snapshot(self):
        self.generate(text="What is a dog?", session="a", tenant="t \"1\"")
        self.generate(text="What is a dog?", session="b")
        self.evict(session_target("b"))
        found = metrics(self.server)
        s = self.snapshot(pool.SNAPSHOT_SECTION_HISTOGRAMS)
        for name, value in (
                ("capacity_bytes", s.statistics.total_memory_bytes),
                ("used_bytes", s.statistics.used_memory_bytes),
                ("allocated_bytes_total", s.statistics.allocated_bytes_total),
                ("freed_bytes_total", s.statistics.freed_bytes_total),
                ("sessions", s.statistics.total_sessions),
                ("sessions_created_total", s.total_sessions_created),
                ("session_tokens", s.statistics.session_tokens),
                ("prefix_cache_misses_total", s.statistics.cache_misses),
                ("blocks{state=\"cached\"}", s.blocks.cached),
                ("blocks{state=\"free\"}", s.blocks.free),
                ("evictions_total{reason=\"Manual\"}", 1),
                ("evictions_total{reason=\"Ttl\"}", 0),
                ("steps_total", s.load.steps_total),
                ("generated_tokens_total", s.load.generated_tokens_total),
                ("prompt_tokens_total", s.load.prompt_tokens_total),
                ("receipts_total", s.stamp.applied_sequence),
                ("durable_receipts_total", s.stamp.durable_sequence),
                ("ledger_failed", 0),
                ("ledger_full", 0),
                ("subscribers", 0),
                ("tenant_sessions{tenant=\"t \\\"1\\\"\"}", 1)):
            self.assertEqual(found["kvpool_" + name], value, name)
        for name in ("time_to_first_token", "time_per_output_token",
                     "queue_wait", "age_at_eviction"):
            histogram = getattr(s.histograms, name)
            self.assertGreater(histogram.count, 0)
            self.assertEqual(found["kvpool_%s_seconds_count" % name],
                             histogram.count)
            self.assertAlmostEqual(found["kvpool_%s_seconds_sum" % name],
                                   histogram.sum_ns / 1e9)
            self.assertEqual(
                found["kvpool_%s_seconds_bucket{le=\"+Inf\"}" % name],
                histogram.count)

    def test_promtool_finds_nothing_to_say(self):
        if shutil.which("promtool") is None:
            self.skipTest("there is no promtool")
        self.generate(text="What is a dog?", session="lint", tenant="t")
        _, kind, text = ask(self.server, "/metrics")
        self.assertEqual(kind, "text/plain; version=0.0.4; charset=utf-8")
        checked = subprocess.run(
            ["promtool", "check", "metrics"], input=text, text=True,
            capture_output=True, check=False)
        self.assertEqual((checked.returncode, checked.stdout, checked.stderr),
                         (0, "", ""))

    def test_probes_say_ok(self):
        self.assertEqual(ask(self.server, "/livez")[::2], (200, "ok\n"))
        self.assertEqual(ask(self.server, "/readyz?verbose")[::2],
                         (200, "ok\n"))

    def test_what_is_not_there_is_refused_by_name(self):
        status, _, text = ask(self.server, "/metric")
        self.assertEqual(status, 404)
        self.assertIn("/metrics", text)
        for method, body in (("POST", "x" * 100000), ("DELETE", None)):
            self.assertEqual(
                ask(self.server, "/metrics", method, body)[0], 405)
        self.assertEqual(ask(self.server, "/metrics", "HEAD")[::2], (200, ""))

    def test_nonsense_harms_nobody(self):
        host, port = http_address(self.server).split(":")
        for sent in (b"\0" * 1000, b"GET /\r\n\r\n", b"GET " + b"a" * 100000,
                     b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
                     b"GET /metrics HTTP/1.1\r\nA: " + b"b" * 200000,
                     b"POST / HTTP/1.1\r\nContent-Length: -5\r\n\r\n"):
            with socket.create_connection((host, int(port))) as peer:
                try:
                    peer.sendall(sent)
                    peer.shutdown(socket.SHUT_WR)
                    peer.recv(1000)
                except OSError:
                    pass  # cut off, as it should be
        self.assertEqual(ask(self.server, "/livez")[0], 200)
        self.assertTrue(self.generate(text="What is a cat?").text)

    def test_a_real_prometheus_scrapes_it(self):
        if shutil.which("prometheus") is None:
            self.skipTest("there is no prometheus")
        self.generate(text="What is a dog?", session="scraped")
        with tempfile.TemporaryDirectory() as folder, \
                Prometheus(folder, http_address(self.server)) as prometheus:
            capacity = str(self.snapshot().statistics.total_memory_bytes)
            wait_until(lambda: prometheus.value(
                "kvpool_capacity_bytes") == capacity, "scrape")
            wait_until(lambda: prometheus.value("up") == "1", "scrape")


class Prometheus:
    """One that scrapes one target each second."""

    def __init__(self, folder, target):
        config = os.path.join(folder, "prometheus.yml")
        with open(config, "w", encoding="utf-8") as file:
            json.dump({"scrape_configs": [{
                "job_name": "kvpool", "scrape_interval": "1s",
                "scrape_timeout": "1s",
                "static_configs": [{"targets": [target]}]}]}, file)
        said = os.path.join(folder, "said")
        with open(said, "wb") as file:
            self.process = subprocess.Popen(
                ["prometheus", "--config.file=" + config,
                 "--storage.tsdb.path=" + os.path.join(folder, "data"),
                 "--web.listen-address=127.0.0.1:0"],
                stdout=subprocess.DEVNULL, stderr=file)
        try:
            self.address = wait_until(
                lambda: self.listens_at(said), "Prometheus listens")
        except AssertionError:
            self.__exit__()
            raise

    @staticmethod
    def listens_at(said):
        """The port that it drew, or None as long as it says of none."""
        with open(said, encoding="utf-8") as file:
            for line in map(parse_logfmt, file):
                if line.get("msg") == "Listening on":
                    return line["address"]
        return None

    def value(self, query):
        url = "http://%s/api/v1/query?query=%s" % (self.address, query)
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                found = json.load(answer)["data"]["result"]
        except OSError:
            return None  # not up yet
        return found[0]["value"][1] if found else None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


class LimitsTest(unittest.TestCase):
    def test_silent_connections_make_room_after_a_while(self):
        with Kvpoold(HTTP, "--admin-max-connections=2",
                     "--admin-idle-s=1") as server:
            host, port = http_address(server).split(":")
            silent = [socket.create_connection((host, int(port)))
                      for _ in range(10)]

            def answers():
                try:
                    return ask(server, "/livez")[0] == 200
                except (OSError, http.client.HTTPException):
                    return False  # no room yet

            wait_until(answers, "room")
            for each in silent:
                self.assertIn(each.recv(10), (b"",))
                each.close()

    def test_no_http_unless_it_is_asked_for(self):
        with Kvpoold() as server:
            self.assertEqual(server.log(msg="listening for HTTP"), [])

    def test_an_address_that_is_taken_is_named(self):
        with Kvpoold(HTTP) as server:
            address = http_address(server)
            with self.assertRaises(StartFailed) as caught:
                Kvpoold("--admin-listen=" + address)
            self.assertEqual(caught.exception.code, 1)
            self.assertIn("admin-listen: " + address +
                          ": address already in use",
                          caught.exception.lines[-1])
        with self.assertRaises(StartFailed) as caught:
            Kvpoold("--admin-listen=nonsense")
        self.assertEqual(caught.exception.code, 78)
        self.assertIn('admin-listen: "nonsense"', caught.exception.lines[-1])

    def test_a_server_that_stops_is_alive_and_not_ready(self):
        server = Kvpoold(HTTP, "--drain-limit-ms=60000")
        running = server.inference.Generate(generate_request(
            text="What is a dog?", max_tokens=400, ignore_eos=True))
        next(running)
        server.signal(signal.SIGTERM)
        wait_until(lambda: ask(server, "/readyz")[0] == 503, "draining")
        self.assertEqual(ask(server, "/livez")[0], 200)
        self.assertIn("stopping", ask(server, "/readyz")[2])
        running.cancel()
        server.stop()

    def test_without_receipts_there_are_metrics_all_the_same(self):
        with Kvpoold(HTTP, "--metrics-max-tenants=0") as server:
            found = metrics(server)
            self.assertEqual(found["kvpool_ledger_failed"], 0)
            self.assertNotIn("kvpool_receipts_total", found)
            self.assertEqual([name for name in found if "tenant" in name], [])


if __name__ == "__main__":
    main()
