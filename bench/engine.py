#!/usr/bin/python3
"""Measures the forward pass beside llama.cpp, and prints a table in Markdown.

    build/release/bench/synth_model --preset llama-110m --type q8_0 MODEL.gguf
    bench/engine.py MODEL.gguf --llama-bench PATH [--threads N] [--rounds N]

llama.cpp is built beside the repository by whoever measures. The two take turns;
a figure is the median of the rounds, a ratio that of the medians, and in brackets
stand the least and the greatest ratio of one round.
"""
import argparse
import json
import os
import re
import statistics
import subprocess

ROWS = {"prefill 128": "pp128", "decode, sequences: 1": "tg64"}


def ours(build, model, threads):
    out = subprocess.run(
        [f"{build}/bench/bench_engine", model, str(threads), "1"],
        check=True, capture_output=True, text=True).stdout
    rows = re.findall(r"^\| ([^|]+) \| ([0-9.]+) \|", out, re.M)
    return {what.strip(): float(rate) for what, rate in rows}


def peers(program, model, threads):
    out = subprocess.run(
        [program, "-m", model, "-t", str(threads), "-p", "128", "-n", "64",
         "-r", "1", "-o", "json"],
        check=True, capture_output=True, text=True).stdout
    return {("pp128" if run["n_prompt"] else "tg64"): run["avg_ts"]
            for run in json.loads(out)}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--llama-bench", required=True)
    parser.add_argument("--build", default="build/release")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    rounds = [(ours(args.build, args.model, args.threads),
               peers(args.llama_bench, args.model, args.threads))
              for _ in range(args.rounds)]

    print(f"{os.path.basename(args.model)}, {args.threads} threads, "
          f"medians of {args.rounds}\n")
    print("| tokens a second | kvpool | llama.cpp | ratio |\n|---|---|---|---|")
    for what in rounds[0][0]:
        mine = [a[what] for a, _ in rounds]
        if what not in ROWS:
            print(f"| {what} | {statistics.median(mine):.0f} | | |")
            continue
        theirs = [b[ROWS[what]] for _, b in rounds]
        ratios = [a / b for a, b in zip(mine, theirs)]
        print(f"| {what} | {statistics.median(mine):.0f} "
              f"| {statistics.median(theirs):.0f} "
              f"| {statistics.median(mine) / statistics.median(theirs):.2f} "
              f"({min(ratios):.2f}-{max(ratios):.2f}) |")


if __name__ == "__main__":
    main()
