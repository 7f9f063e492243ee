#!/usr/bin/python3
"""Measures the forward pass beside llama.cpp, and prints a table in Markdown.

    build/release/bench/synth_model --preset llama-1.1b --type q4_0 MODEL.gguf
    bench/engine.py --llama FOLDER... [--threads N] [--rounds N] MODEL.gguf ROW...

A FOLDER holds llama-bench and llama-batched-bench, built beside the repository
by whoever measures; of several builds, --llama before each, the better one of a
row is the peer. A row is ppN, a prompt of N tokens; tgN, N sequences that each
take one token after the other; @D behind it: after D tokens; +busy behind it:
while another process keeps the last of the processors busy, which is compared
with the same row on an idle machine, for ours and for the peer; +loose: while
such a process runs where the system puts it.

Ours and the peers take turns, row by row, in every round; ours packs its weights
once and waits for its turn asleep. A figure is the median of the rounds, a ratio
that of the medians, and in brackets stand the least and the greatest ratio of
one round. Where others took more than a tenth of the processors meanwhile, the
hypervisor's other guests among them, a row does not count and is measured again
in the next round, until there are --rounds of all rows or --seconds are over.
--keep FILE adds to what earlier runs have left in it. "Memory allows" is what reading the weights, keys
and values of a step takes where all threads do nothing else: the bound of one
sequence; prompts and batches are bound by arithmetic long before.
"""
import argparse
import json
import os
import pathlib
import re
import resource
import statistics
import subprocess
import sys
import time

ROW = re.compile(r"(pp|tg)(\d+)(?:@(\d+))?(?:\+(busy|loose))?$")
N_STEPS = 32  # of ours
N_FEW_STEPS = 12  # of the peer, where one takes long
FEW_SEQUENCES = 4
CALM = 0.1  # of the processors, at most, for others
TICKS = os.sysconf("SC_CLK_TCK")


class Ours:
    """bench_engine, which measures a row when it is told to."""

    def __init__(self, args, rows):
        self.rows = list(dict.fromkeys(row.split("+")[0] for row in rows))
        self.process = subprocess.Popen(
            [f"{args.build}/bench/bench_engine", "-t", str(args.threads),
             "-r", "1", "-i", args.model, *self.rows],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.about = self.process.stdout.readline().strip()
        self.line_with("|---|")

    def line_with(self, start):
        for line in self.process.stdout:
            if line.startswith(start):
                return line
        raise SystemExit("bench_engine ended early")

    def measure(self, row):
        """Tokens a second, and what memory allows."""
        plain = row.split("+")[0]
        print(self.rows.index(plain), file=self.process.stdin, flush=True)
        cells = self.line_with(f"| {plain} |").split("|")
        return float(cells[2]), float(cells[3])

    def seconds(self):
        """Processor time so far."""
        stat = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text()
        return sum(map(int, stat.rpartition(")")[2].split()[11:13])) / TICKS

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def output(command):
    return subprocess.run(
        command, check=True, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True).stdout


def peer(args, llama, row):
    kind, n, depth, neighbour = ROW.match(row).groups()
    is_slow = neighbour or int(n) > FEW_SEQUENCES
    n_steps = str(N_FEW_STEPS if is_slow else N_STEPS)
    common = ["-m", args.model, "-t", str(args.threads)]
    if kind == "tg" and int(n) > 1:
        out = output([f"{llama}/llama-batched-bench", *common, "-npp",
                      depth or "1", "-ntg", n_steps, "-npl", n, "-c",
                      str(int(n) * (int(depth or 1) + N_STEPS + 32)),
                      "--output-format", "jsonl"])
        return next(json.loads(line)["speed_tg"] for line in out.splitlines()
                    if line.startswith("{"))
    sizes = ["-p", n, "-n", "0"] if kind == "pp" else ["-p", "0", "-n", n_steps]
    out = output([f"{llama}/llama-bench", *common, *sizes, "-d",
                  depth or "0", "-r", "1", "-o", "json"])
    return json.loads(out)[0]["avg_ts"]


class Neighbour:
    """A process that keeps a processor busy, the last one or any."""

    def __init__(self, kind):
        self.process = None
        if kind is None:
            return
        self.process = subprocess.Popen([sys.executable, "-c",
                                         "while True: pass"])
        if kind == "busy":
            os.sched_setaffinity(
                self.process.pid, {max(os.sched_getaffinity(0))})

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process is not None:
            self.process.kill()
            self.process.wait()


def times(ours):
    """Seconds: of the clock, of all that ran, of what we started."""
    user, nice, system, _, _, *rest = map(
        int, pathlib.Path("/proc/stat").read_text().split(maxsplit=9)[1:9])
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (time.monotonic(), (user + nice + system + sum(rest)) / TICKS,
            children.ru_utime + children.ru_stime + ours.seconds())


def measure(args, ours, row):
    """The bound, all rates, and the others' share of the processors."""
    before = times(ours)
    with Neighbour(ROW.match(row)[4]):
        rate, bound = ours.measure(row)
        measured = bound, rate, *(peer(args, l, row) for l in args.llama)
    elapsed, ran, own = (b - a for a, b in zip(before, times(ours)))
    return measured, (ran - own) / elapsed / os.cpu_count()


def run(args, ours, rounds):
    """Adds to the rounds of each row until there are enough, or time is up."""
    end = time.monotonic() + args.seconds
    while any(len(r) < args.rounds for r in rounds.values()):
        for row, done in rounds.items():
            if time.monotonic() > end:
                return
            if len(done) >= args.rounds:
                continue
            measured, others = measure(args, ours, row)
            rates = " ".join(f"{rate:.1f}" for rate in measured[1:])
            print(f"{row}: {rates}, others took {others:.0%}", file=sys.stderr)
            if others < CALM:
                done.append(measured)


def better(rounds):
    """Which column is the peer with the greater median."""
    medians = [statistics.median(column) for column in zip(*rounds)]
    return max(range(2, len(medians)), key=medians.__getitem__)


def print_row(row, rounds):
    bound, mine, *theirs = (statistics.median(x) for x in zip(*rounds))
    ratios = [r[1] / r[better(rounds)] for r in rounds]
    rates = " | ".join(f"{rate:.1f}" for rate in (mine, *theirs))
    print(f"| {row} | {rates} | {mine / max(theirs):.2f} "
          f"({min(ratios):.2f}-{max(ratios):.2f}) | {bound:.0f} |")


def print_busy(row, quiet, busy):
    for who, i in ("kvpool", 1), ("llama.cpp", better(quiet)):
        share = (statistics.median(r[i] for r in busy) /
                 statistics.median(r[i] for r in quiet))
        print(f"{row}: {who} keeps {share:.0%} of its speed")


def print_table(args, ours, rounds):
    print(ours.about)
    for i, llama in enumerate(args.llama, 1):
        print(f"llama.cpp {i}: {llama}")
    print(f"{os.path.basename(args.model)}, {args.threads} threads, medians of "
          f"{min(map(len, rounds.values()))} to "
          f"{max(map(len, rounds.values()))} rounds\n")
    builds = " | ".join(f"llama.cpp {i + 1}" for i in range(len(args.llama)))
    print(f"| tokens a second | kvpool | {builds} | ratio | memory allows |")
    print("|---" * (4 + len(args.llama)) + "|")
    for row, measured in rounds.items():
        if measured:
            print_row(row, measured)
    print()
    for row, measured in rounds.items():
        if "+" in row and measured and rounds[row.split("+")[0]]:
            print_busy(row, rounds[row.split("+")[0]], measured)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("rows", nargs="+", metavar="ROW")
    parser.add_argument("--llama", required=True, action="append")
    parser.add_argument("--build", default="build/release")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3600)
    parser.add_argument("--keep", metavar="FILE")
    args = parser.parse_args()
    for row in args.rows:
        if not ROW.match(row):
            parser.error(f"'{row}' is no row: ppN or tgN, then @D, then +busy "
                         "or +loose")
    rounds = {row: [] for asked in args.rows
              for row in (asked.split("+")[0], asked)}
    asked = list(rounds)
    kept = pathlib.Path(args.keep) if args.keep else None
    if kept and kept.exists():
        for row, measured in json.loads(kept.read_text()).items():
            rounds[row] = [tuple(m) for m in measured]
    ours = Ours(args, asked)
    run(args, ours, {row: rounds[row] for row in asked})
    ours.close()
    if kept:
        kept.write_text(json.dumps(rounds))
    print_table(args, ours, rounds)


if __name__ == "__main__":
    main()
