#!/usr/bin/python3
"""Measures the forward pass beside llama.cpp, and prints a table in Markdown.

    build/release/bench/synth_model --preset llama-1.1b --type q4_0 MODEL.gguf
    bench/engine.py --llama FOLDER [--threads N] [--rounds N] MODEL.gguf ROW...

FOLDER holds llama-bench and llama-batched-bench, built beside the repository by
whoever measures. A row is ppN, a prompt of N tokens; tgN, N sequences that each
take one token after the other; @D behind it: after D tokens; +busy behind it:
while another process keeps the last of the processors busy, which is compared
with the same row on an idle machine, for ours and for the peer.

Ours and the peer take turns in every round; a figure is the median of the
rounds, a ratio that of the medians, and in brackets stand the least and the
greatest ratio of one round. "Memory allows" is what reading the weights, keys
and values of a step takes where all threads do nothing else: the bound of one
sequence; prompts and batches are bound by arithmetic long before.
"""
import argparse
import json
import os
import re
import statistics
import subprocess
import sys

ROW = re.compile(r"(pp|tg)(\d+)(?:@(\d+))?(\+busy)?$")
N_STEPS = 32


def output(command):
    return subprocess.run(
        command, check=True, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True).stdout


def ours(args, row):
    """Tokens a second, and what memory allows."""
    plain = row.removesuffix("+busy")
    out = output([f"{args.build}/bench/bench_engine", "-t", str(args.threads),
                  "-r", "1", args.model, plain])
    rate, bound = re.search(
        rf"^\| {re.escape(plain)} \| ([0-9.]+) \| ([0-9.]+) \|", out,
        re.M).groups()
    return float(rate), float(bound)


def peers(args, row):
    kind, n, depth, _ = ROW.match(row).groups()
    common = ["-m", args.model, "-t", str(args.threads)]
    if kind == "tg" and int(n) > 1:
        out = output([f"{args.llama}/llama-batched-bench", *common, "-npp",
                      depth or "1", "-ntg", str(N_STEPS), "-npl", n, "-c",
                      str(int(n) * (int(depth or 1) + N_STEPS + 32)),
                      "--output-format", "jsonl"])
        return next(json.loads(line)["speed_tg"] for line in out.splitlines()
                    if line.startswith("{"))
    sizes = ["-p", n, "-n", "0"] if kind == "pp" else ["-p", "0", "-n",
                                                       str(N_STEPS)]
    out = output([f"{args.llama}/llama-bench", *common, *sizes, "-d",
                  depth or "0", "-r", "1", "-o", "json"])
    return json.loads(out)[0]["avg_ts"]


class Neighbour:
    """A process that keeps the last processor busy, if there is to be one."""

    def __init__(self, wanted):
        self.process = None
        if wanted:
            self.process = subprocess.Popen(
                [sys.executable, "-c", "while True: pass"])
            os.sched_setaffinity(
                self.process.pid, {max(os.sched_getaffinity(0))})

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process is not None:
            self.process.kill()
            self.process.wait()


def measure(args, row):
    with Neighbour(row.endswith("+busy")):
        rate, bound = ours(args, row)
        return rate, peers(args, row), bound


def print_row(row, rounds):
    mine, theirs, bounds = (statistics.median(x) for x in zip(*rounds))
    ratios = [a / b for a, b, _ in rounds]
    print(f"| {row} | {mine:.1f} | {theirs:.1f} | {mine / theirs:.2f} "
          f"({min(ratios):.2f}-{max(ratios):.2f}) | {bounds:.0f} |")


def print_busy(row, quiet, busy):
    for who, i in ("kvpool", 0), ("llama.cpp", 1):
        share = (statistics.median(r[i] for r in busy) /
                 statistics.median(r[i] for r in quiet))
        print(f"{row}: {who} keeps {share:.0%} of its speed")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("rows", nargs="+", metavar="ROW")
    parser.add_argument("--llama", required=True)
    parser.add_argument("--build", default="build/release")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    for row in args.rows:
        if not ROW.match(row):
            parser.error(f"'{row}' is no row: ppN or tgN, then @D, then +busy")
    rows = list(dict.fromkeys(
        plain for row in args.rows
        for plain in (row.removesuffix("+busy"), row)))
    rounds = {row: [] for row in rows}
    for _ in range(args.rounds):
        for row in rows:
            rounds[row].append(measure(args, row))

    print(f"{os.path.basename(args.model)}, {args.threads} threads, "
          f"medians of {args.rounds}\n")
    print("| tokens a second | kvpool | llama.cpp | ratio | memory allows |")
    print("|---|---|---|---|---|")
    for row in rows:
        print_row(row, rounds[row])
    print()
    for row in rows:
        if row.endswith("+busy"):
            print_busy(row, rounds[row.removesuffix("+busy")], rounds[row])


if __name__ == "__main__":
    main()
