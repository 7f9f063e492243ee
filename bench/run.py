#!/usr/bin/python3
"""Measures the service beside its peers, and prints tables in Markdown.

    deploy/packages.sh build bench
    cmake --preset release -DKVPOOL_BENCH=ON && cmake --build build/release
    bench/run.py [--build DIR] [--rounds N] [--seconds S] [--model FILE] [PART ...]

Parts are unary, fanout, latency, stalled, cost; without any, all of them. Everything
runs on loopback and on free ports, and is ended when this ends. Ours and the peer
take turns, N rounds of S seconds; a ratio is that of the medians, and in brackets
stand the least and the greatest ratio of one round. docs/performance.md says what
each figure means.
"""
import argparse
import contextlib
import datetime
import json
import os
import pathlib
import platform
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

IN_FLIGHT = 32
SUBSCRIBERS = (1, 10, 100)
BACKLOG = 100000  # receipts in the ledger for fan-out
PER_MESSAGE = 256  # receipts in a message of kvpoold at most, by default
SESSIONS = 4000  # evicted in a round
SAMPLES = 300  # of latency, in a round
PAUSE_S = 0.004  # between two of them, about
GENERATOR = ("20", "16")  # requests a second, tokens of each
AT_ONCE = ("1000000", "16")  # one request behind the other
GENERATORS = 4  # of those, side by side
READERS = 10  # subscribers beside inference
STALLED = 50
STALLED_RING_MB = 8
SERVICE = "/kvpool.v1.KvPoolService/"
ECHO = "/bench.v1.Bench/Echo"
FROM_EARLIEST = "0a00"  # StreamReceiptsRequest{earliest{}}
FROM_LATEST = "1200"  # StreamReceiptsRequest{latest{}}


def field(number, content):
    """A length-delimited field of fewer than 128 bytes, in hexadecimal."""
    return bytes([number << 3 | 2, len(content)]).hex() + content.hex()


def evict_nobody(n_targets):
    """An EvictRequest for sessions that do not exist."""
    request = ""
    for i in range(n_targets):
        key = bytes.fromhex(field(2, b"no-such-session-%d" % i))
        target = bytes.fromhex(field(1, key))
        request += field(1, target)
    return request


def values(line):
    """What a line of name=value says."""
    pairs = (word.split("=") for word in line.split())
    return {name: float(value) for name, value in pairs}


# ---- processes


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(port):
    for _ in range(200):
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        time.sleep(0.05)
    sys.exit(f"nothing listens on port {port}")


class Process:
    """A server for as long as a with statement lasts."""

    def __init__(self, command, port):
        self.port, self.address = port, f"127.0.0.1:{port}"
        self.process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.pid = str(self.process.pid)

    def __enter__(self):
        wait_for(self.port)
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def rss(self):
        for line in open(f"/proc/{self.pid}/status"):
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) << 10
        return 0


class Bench:
    def __init__(self, arguments):
        self.build = pathlib.Path(arguments.build)
        self.disk = tempfile.TemporaryDirectory(dir=self.build)
        self.n_journals = 0
        self.given_model = arguments.model
        self.rounds, self.seconds = arguments.rounds, str(arguments.seconds)

    def tool(self, name):
        return str(self.build / "bench" / name)

    def measure(self, program, *arguments):
        """Runs a program of ours; its line of name=value as a dictionary."""
        done = subprocess.run([self.tool(program), *map(str, arguments)],
                              stdout=subprocess.PIPE, text=True, timeout=600)
        if done.returncode != 0:
            sys.exit(f"{program} {arguments} failed")
        return values(done.stdout)

    def kvpoold(self, *options):
        port = free_port()
        flags = dict(flag.split("=", 1) for flag in (
            f"--listen=127.0.0.1:{port}", "--threads=1",
            "--kv-cache-size-mb=64", "--enable-receipts=true",
            "--receipts-log=false", "--snapshot-interval-ms=0", *options))
        return Process([str(self.build / "server/kvpoold"),
                        *map("=".join, flags.items())], port)

    def journal(self):
        """The option that keeps receipts on disk, in a folder of their own."""
        self.n_journals += 1
        return f"--data-dir={self.disk.name}/{self.n_journals}"

    def model(self):
        """The one that was given, or one of 110 million random weights."""
        if self.given_model:
            return self.given_model
        path = f"{self.disk.name}/llama-110m-q8_0.gguf"
        if not os.path.exists(path):
            subprocess.run([self.tool("synth_model"), "--preset", "llama-110m",
                            "--type", "q8_0", path], check=True,
                           stdout=subprocess.DEVNULL)
        return path

    def sync_us(self, pause=0):
        """How long a write of 4 KiB over what is there takes to be synced, each
        after a pause: a disk that nobody has used for a moment is slower."""
        times = []
        with tempfile.TemporaryFile(dir=self.disk.name, buffering=0) as file:
            file.write(bytes(4096 * SAMPLES))
            os.fsync(file.fileno())
            for i in range(SAMPLES):
                time.sleep(pause)
                os.pwrite(file.fileno(), os.urandom(4096), i * 4096)
                begin = time.monotonic()
                os.fdatasync(file.fileno())
                times.append((time.monotonic() - begin) * 1e6)
        return {"p50_us": statistics.median(times),
                "p99_us": sorted(times)[len(times) * 99 // 100]}

    def echo(self):
        port = free_port()
        return Process([self.tool("bench_peer_echo"), f"127.0.0.1:{port}"], port)

    def stream(self, n_bytes, per_message):
        """The C++ server that streams messages of so many receipts."""
        port = free_port()
        return Process([self.tool("bench_peer_stream"), f"127.0.0.1:{port}",
                        str(n_bytes), str(per_message)], port)

    def nats(self):
        port = free_port()
        return Process(["nats-server", "-a", "127.0.0.1", "-p", str(port)], port)

    def redis(self):
        port = free_port()
        return Process(["redis-server", "--bind", "127.0.0.1", "--port",
                        str(port), "--save", "", "--appendonly", "no"], port)

    def ledger(self, server):
        """The oldest and the last sequence of a server's ledger."""
        text = subprocess.run(
            [str(self.build / "cli/kvpoolctl"), "--server", server.address,
             "-o", "json", "snapshot"], check=True, stdout=subprocess.PIPE).stdout
        snapshot = json.loads(text)
        snapshot = snapshot.get("snapshot", snapshot)
        return (int(snapshot["ledger"]["oldest_sequence"]),
                int(snapshot["stamp"]["applied_sequence"]))

    def unary(self, server, method, in_flight, request="-"):
        return self.measure("bench_unary", server.address, method, in_flight,
                            self.seconds, request, server.pid)

    def fill(self, server, n_receipts):
        """Issues receipts of some 250 bytes until there are that many more."""
        until = self.ledger(server)[1] + n_receipts
        while self.ledger(server)[1] < until:
            self.measure("bench_unary", server.address, SERVICE + "Evict", 64,
                         2, evict_nobody(5))

    def take_turns(self, *measurements):
        """Each of them once a round; a list of results for each."""
        rounds = []
        for i in range(self.rounds):
            print(f"  round {i + 1} of {self.rounds}", file=sys.stderr)
            rounds.append([measurement() for measurement in measurements])
        return list(zip(*rounds))


# ---- tables


def number(value):
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def middle(results, name):
    return statistics.median(result[name] for result in results)


def ratio(ours, peer, name):
    """That of the medians, and the extremes of the rounds'."""
    each = [a[name] / b[name] for a, b in zip(ours, peer) if b[name] > 0]
    if not each:
        return "-"
    return (f"{middle(ours, name) / middle(peer, name):.2f} "
            f"({min(each):.2f}-{max(each):.2f})")


def table(title, head, rows):
    print(f"\n### {title}\n")
    print("| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    sys.stdout.flush()


def version(*command):
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        text = subprocess.run(command, stdout=subprocess.PIPE, text=True,
                              timeout=10, check=True).stdout
        return text.strip().split("\n")[0]
    return "unknown"


def print_machine(bench):
    model = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo")
                  if line.startswith("model name")), platform.machine())
    redis = version("redis-server", "--version").split(" sha")[0]
    print(f"""\
Measured {datetime.date.today()} on {model}, {os.cpu_count()} cores, \
Linux {platform.release()}, load {os.getloadavg()[0]:.1f} at the start; \
{bench.rounds} rounds of {bench.seconds} s.
{version(str(bench.build / "server/kvpoold"), "--version")}; \
gRPC {version("pkg-config", "--modversion", "grpc++")}; \
{version("nats-server", "--version")}; {redis}.""")


# ---- the parts


@contextlib.contextmanager
def generating(bench, server):
    """A generator beside whatever is measured meanwhile."""
    process = subprocess.Popen(
        [bench.tool("bench_generate"), server.address, *GENERATOR, "3600"])
    try:
        time.sleep(0.5)
        yield
    finally:
        process.terminate()
        process.wait()


def measure_unary(bench):
    rows = []
    with bench.kvpoold() as kvpoold, bench.echo() as echo:
        def compare(what, ours, cpu=True):
            print(what, file=sys.stderr)
            n_bytes = int(ours().get("answer_bytes", 0)) or evict_bytes
            mine, peer = bench.take_turns(ours, lambda: bench.unary(
                echo, ECHO, IN_FLIGHT, "ab" * n_bytes))
            cpu_name = "server_cpu_us_per_call"
            rows.append([
                what, str(n_bytes), number(middle(mine, "qps")),
                number(middle(peer, "qps")), ratio(mine, peer, "qps"),
                *([f"{middle(mine, cpu_name):.1f}",
                   f"{middle(peer, cpu_name):.1f}",
                   ratio(mine, peer, cpu_name)] if cpu else ["-"] * 3)])

        def snapshot():
            return bench.unary(kvpoold, SERVICE + "Snapshot", IN_FLIGHT)

        def evict():
            return bench.unary(kvpoold, SERVICE + "Evict", IN_FLIGHT,
                               evict_nobody(1))

        def evict_idle():
            return bench.measure("bench_evict", kvpoold.address, SESSIONS,
                                 IN_FLIGHT, kvpoold.pid)

        compare("Snapshot", snapshot)
        with generating(bench, kvpoold):
            compare("Snapshot while a generator changes the totals", snapshot,
                    cpu=False)
        evict_bytes = int(evict()["answer_bytes"])
        compare("Evict of an idle session", evict_idle)
        compare("Evict of a session that is not there", evict)
        cost = bench.measure("bench_generate", kvpoold.address, *GENERATOR,
                             bench.seconds, kvpoold.pid)
    table(f"Unary calls, {IN_FLIGHT} in flight",
          ["call", "bytes of the answer", "QPS", "C++ echo QPS", "ratio",
           "server CPU, us a call", "C++ echo", "ratio"], rows)
    print(f"\nThe generator: {cost['requests_per_s']:.0f} requests a second of "
          f"up to {GENERATOR[1]} tokens, each in a new session; alone it takes "
          f"{cost['server_cores']:.2f} of a core in the server.")


def measure_fanout(bench):
    rows = []
    with bench.kvpoold("--receipts-ring-mb=256", bench.journal()) as kvpoold, \
            bench.nats() as nats, bench.redis() as redis:
        print("filling the ledger", file=sys.stderr)
        bench.fill(kvpoold, BACKLOG)
        oldest, last = bench.ledger(kvpoold)
        replay = last - oldest + 1
        for n in SUBSCRIBERS:
            print(f"{n} subscribers", file=sys.stderr)

            def ours():
                return bench.measure(
                    "bench_fanout", kvpoold.address, n, bench.seconds,
                    FROM_EARLIEST, kvpoold.pid, replay)

            probe = ours()
            n_bytes = round(
                probe["mb_per_s"] * 1e6 / max(probe["receipts_per_s"], 1))

            def peer(name, server):
                return bench.measure(
                    "bench_peer_" + name, server.port, n, bench.seconds,
                    n_bytes, server.pid)

            def cpp(server):
                return bench.measure(
                    "bench_fanout", server.address, n, bench.seconds, "-",
                    server.pid)

            with bench.stream(n_bytes, PER_MESSAGE) as runs, \
                    bench.stream(n_bytes, 1) as singly:
                mine, *peers = bench.take_turns(
                    ours, lambda: cpp(runs), lambda: cpp(singly),
                    lambda: peer("nats", nats), lambda: peer("redis", redis))
            rate, cpu = "receipts_per_s", "server_cpu_us_per_receipt"
            rows.append([
                str(n), str(n_bytes), number(middle(mine, rate)),
                *(text for peer in peers for text in (
                    number(middle(peer, rate)), ratio(mine, peer, rate))),
                *(f"{middle(results, cpu):.2f}" for results in (mine, *peers))])
        live = measure_live(bench, kvpoold)
    table("Fan-out: receipts delivered a second, journal on",
          ["subscribers", "bytes", "kvpool", "C++, 256 a message", "ratio",
           "C++, one a message", "ratio", "NATS", "ratio", "Redis", "ratio",
           "server CPU, us a receipt", "C++, 256", "C++, one", "NATS", "Redis"],
          rows)
    table("Live: every receipt to every subscriber as it is issued, journal on",
          ["subscribers", "Evict calls a second, 32 in flight",
           "receipts delivered a second", "receipts a message"], live)
    measure_history(bench)


def measure_history(bench):
    """Receipts that have left the memory."""
    rows = []
    with bench.kvpoold("--receipts-ring-mb=1", bench.journal()) as kvpoold:
        bench.fill(kvpoold, BACKLOG)
        last = bench.ledger(kvpoold)[1]
        for n in SUBSCRIBERS:
            print(f"{n} subscribers of the history", file=sys.stderr)
            results, = bench.take_turns(lambda: bench.measure(
                "bench_fanout", kvpoold.address, n, bench.seconds,
                FROM_EARLIEST, kvpoold.pid, last))
            rows.append([str(n), *(number(middle(results, name)) for name in (
                "receipts_per_s", "server_cpu_us_per_receipt"))])
    table("History: the same from disk",
          ["subscribers", "receipts delivered a second",
           "server CPU, us a receipt"], rows)


def measure_live(bench, kvpoold):
    """A source of receipts, and its subscribers at the same time."""
    rows = []
    for n in SUBSCRIBERS:
        print(f"{n} live subscribers", file=sys.stderr)

        def live():
            source = subprocess.Popen(
                [bench.tool("bench_unary"), kvpoold.address, SERVICE + "Evict",
                 str(IN_FLIGHT), str(float(bench.seconds) + 1),
                 evict_nobody(1)], stdout=subprocess.PIPE, text=True)
            result = bench.measure("bench_fanout", kvpoold.address, n,
                                   bench.seconds, FROM_LATEST)
            line = source.communicate()[0].split()
            return result | {"qps": float(line[0].split("=")[1])}

        results, = bench.take_turns(live)
        rows.append([str(n), *(number(middle(results, name)) for name in (
            "qps", "receipts_per_s", "receipts_per_message"))])
    return rows


def measure_latency(bench):
    with bench.kvpoold() as memory, bench.kvpoold(bench.journal()) as disk, \
            bench.echo() as echo:
        ours, kept, rested, syncs = bench.take_turns(
            *(lambda server=server: bench.measure(
                "bench_latency", server.address, echo.address, SAMPLES)
              for server in (memory, disk)),
            lambda: bench.sync_us(PAUSE_S), bench.sync_us)
    beyond = [{"p50_us": a["p50_us"] - b["p50_us"]} for a, b in zip(kept, ours)]
    echoes = [{"p50_us": r["echo_p50_us"], "p99_us": r["echo_p99_us"]}
              for r in ours]

    def row(what, mine, other, peer):
        def times(results):
            return [number(middle(results, name)) if name in results[0]
                    else "-" for name in ("p50_us", "p99_us")]

        return [what, *times(mine), other, *times(peer),
                ratio(mine, peer, "p50_us")]

    after = f"one fdatasync of 4 KiB after a pause of {PAUSE_S * 1000:.0f} ms"
    table("From the decision to evict to the receipt in a subscriber's hands",
          ["ledger", "p50, us", "p99, us", "beside", "p50, us", "p99, us",
           "ratio of p50"],
          [row("in memory", ours, "round trip of the C++ echo", echoes),
           row("on disk", kept, after, rested),
           row("on disk", kept, "one fdatasync after the other", syncs),
           row("what the disk adds", beyond, after, rested)])


def stall_once(bench):
    """Bytes of resident memory for each of many subscribers that stop reading:
    at once, and after the ring has moved past all that they hold."""
    with bench.kvpoold(f"--receipts-ring-mb={STALLED_RING_MB}",
                       "--subscriber-stall-ms=600000") as kvpoold:
        bench.fill(kvpoold, (STALLED_RING_MB << 20) // 200)
        oldest, last = bench.ledger(kvpoold)
        before = kvpoold.rss()
        readers = subprocess.Popen(
            [bench.tool("bench_fanout"), kvpoold.address, str(STALLED), "3600",
             FROM_EARLIEST, "0", str(last - oldest + 1)])
        try:
            time.sleep(2)
            readers.send_signal(signal.SIGSTOP)
            time.sleep(2)
            stalled = kvpoold.rss()
            bench.fill(kvpoold, (STALLED_RING_MB << 20) // 200)
            passed = kvpoold.rss()
        finally:
            readers.kill()
            readers.wait()
    return {"stalled": (stalled - before) / STALLED,
            "passed": (passed - before) / STALLED}


def measure_stalled(bench):
    results, = bench.take_turns(lambda: stall_once(bench))
    table(f"Memory for a subscriber that stops reading ({STALLED} of them)",
          ["KiB of resident memory each", "after the ring has moved past them"],
          [[f"{middle(results, name) / 1024:.0f}"
            for name in ("stalled", "passed")]])


@contextlib.contextmanager
def reading(bench, server):
    """Subscribers that take every receipt meanwhile."""
    readers = subprocess.Popen(
        [bench.tool("bench_fanout"), server.address, str(READERS), "3600",
         FROM_LATEST])
    try:
        yield
    finally:
        readers.kill()
        readers.wait()


def generate_once(bench, server):
    return bench.measure("bench_generate", server.address, *GENERATOR,
                         bench.seconds, server.pid)


def generate_at_once(bench, server):
    """What several clients get that never pause, and what it costs."""
    clients = [subprocess.Popen(
        [bench.tool("bench_generate"), server.address, *AT_ONCE, bench.seconds,
         server.pid], stdout=subprocess.PIPE, text=True)
        for _ in range(GENERATORS)]
    results = [values(client.communicate()[0]) for client in clients]
    tokens = sum(result["tokens_per_s"] for result in results)
    cores = statistics.mean(result["server_cores"] for result in results)
    return {"tokens_per_s": tokens, "cpu_us_per_token": cores * 1e6 / tokens}


def measure_cost_with(bench, once, *options):
    """Without receipts; with them, the journal and subscribers; and with those
    of allocations too. The last is how many receipts a second there were."""
    with bench.kvpoold(*options, "--enable-receipts=false") as plain, \
            bench.kvpoold(*options, bench.journal()) as kept, \
            bench.kvpoold(*options, bench.journal(),
                          "--receipts-allocations=true") as full, \
            reading(bench, kept), reading(bench, full):
        def run(server):
            before = server is not plain and bench.ledger(server)[1]
            result = once(bench, server)
            after = server is not plain and bench.ledger(server)[1]
            return result | {"receipts": (after - before) / float(bench.seconds)}

        return bench.take_turns(*(lambda server=server: run(server)
                                  for server in (plain, kept, full)))


def cost_rows(results, name):
    plain = results[0]
    for what, mine in zip(("off", "receipts, journal and 10 subscribers",
                           "receipts of allocations too"), results):
        yield [what, number(middle(mine, "receipts")),
               number(middle(mine, name)),
               "1" if mine is plain else ratio(mine, plain, name)]


def measure_cost(bench):
    small = measure_cost_with(bench, generate_once, "--kv-cache-size-mb=8")
    table("What receipts cost the built-in model: the same requests",
          ["receipts", "a second", "server, cores", "ratio"],
          cost_rows(small, "server_cores"))
    model = bench.model()
    large = measure_cost_with(bench, generate_at_once, f"--model={model}",
                              "--kv-cache-size-mb=16")
    table(f"What receipts cost {os.path.basename(model)}: "
          f"{GENERATORS} clients at once",
          ["receipts", "a second", "tokens a second", "ratio"],
          cost_rows(large, "tokens_per_s"))
    table("The same: the server's processor time",
          ["receipts", "a second", "us a token", "ratio"],
          cost_rows(large, "cpu_us_per_token"))


PARTS = {"unary": measure_unary, "fanout": measure_fanout,
         "latency": measure_latency, "stalled": measure_stalled,
         "cost": measure_cost}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--build", default="build/release")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--model", help="for the part cost; otherwise one of "
                        "110 million parameters is made")
    parser.add_argument("parts", nargs="*", metavar="PART",
                        help=", ".join(PARTS))
    arguments = parser.parse_args()
    unknown = set(arguments.parts) - set(PARTS)
    if unknown:
        parser.error(f"{unknown.pop()!r} was given; parts are {', '.join(PARTS)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    bench = Bench(arguments)
    print_machine(bench)
    with bench.disk:
        for part in arguments.parts or PARTS:
            PARTS[part](bench)


main()
