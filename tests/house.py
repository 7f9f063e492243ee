#!/usr/bin/python3
"""Checks the rules of the house over every file of the repository.

    tests/house.py           prints one line per finding, exits 1 if there is any

What a compiler cannot see: includes that run up the arrows of
docs/architecture.md, a foreign library met outside its folder, generated or huge
files, paths of somebody's machine, and marks of unfinished work. Long files are
named too, as places to look at; they fail nothing.
"""
import os
import re
import subprocess
import sys

# A folder, and the folders that it may include. `kvpool`, `grpc` and `google`
# are generated from the contract.
CONTRACT = {"kvpool", "grpc", "google"}
ARROWS = {
    "base": set(),
    "pool": {"base"},
    "receipts": {"pool", "base"} | CONTRACT,
    "sinks": {"receipts", "pool", "base"} | CONTRACT,
    "engine": {"pool", "base"},
    "rpc": {"base"} | CONTRACT,
    "server/admin": {"base"},
    "server": {"server/admin", "rpc", "engine", "sinks", "receipts", "pool",
               "base"} | CONTRACT,
    "cli": {"rpc", "receipts", "base"} | CONTRACT,
}

# The start of a system header's name, and the folders that may include it.
# Tests and benchmarks may include anything.
FOREIGN = {
    "uv.h": {"server", "rpc", "sinks", "cli"},
    "grpc/": {"rpc"},
    "protobuf-c": {"receipts", "sinks", "rpc", "server", "cli"},
    "jansson.h": {"receipts", "sinks", "server", "cli"},
    "yaml.h": {"server"},
    "microhttpd.h": {"server/admin"},
    "curl/": {"sinks"},
    "nats": {"sinks"},
}

# Written so that this file does not find itself.
MARKS = re.compile(r"\b(TO" r"DO|FIX" r"ME|XX" r"X|HA" r"CK)\b")
MACHINE = re.compile(r"(?<![\w.$}/])/(work|farm|root|home)/\w")
GENERATED = re.compile(
    r"\.pb-c\.[ch]$|_pb2(_grpc)?\.py$|(^|/)(node_modules|build)/|\.(o|a|so)$")
INCLUDE = re.compile(r'\s*#\s*include\s+(["<])([^">]+)[">]')

LONG_LINES = 700
LONG_TEST_LINES = 1200
MAX_BYTES = 4 << 20


def repository_files():
    out = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        check=True, capture_output=True).stdout
    names = out.decode().split("\0")
    return sorted(name for name in names if os.path.isfile(name))


def folder_of(path):
    """The folder of ours that a path lies in; None outside of them."""
    for folder in sorted(ARROWS, key=len, reverse=True):
        if path.startswith(folder + "/"):
            return folder
    return None


def check_include(folder, line):
    match = INCLUDE.match(line)
    if match is None:
        return None
    quote, header = match.groups()
    if quote == '"':
        target = folder_of(header) or header.split("/")[0]
        if "/" not in header:
            return f'"{header}": name it from the top of the repository'
        if target != folder and target not in ARROWS[folder]:
            return f'"{header}": {folder} may not include {target}'
        return None
    for start, folders in FOREIGN.items():
        if header.startswith(start) and folder not in folders:
            return f"<{header}>: only {', '.join(sorted(folders))} may"
    return None


def check_text(path, lines):
    c_source = path.endswith((".c", ".h"))
    folder = folder_of(path) if c_source else None
    for number, line in enumerate(lines, 1):
        if MARKS.search(line):
            yield number, f"mark of unfinished work: {line.strip()[:80]}"
        if MACHINE.search(line):
            yield number, f"path of a machine: {line.strip()[:80]}"
        finding = check_include(folder, line) if folder else None
        if finding:
            yield number, finding


def is_long(path):
    if not path.endswith((".c", ".h")):
        return False
    with open(path, "rb") as file:
        n_lines = sum(1 for _ in file)
    return n_lines > (LONG_TEST_LINES if path.startswith("tests/") else LONG_LINES)


def check_file(path):
    if GENERATED.search(path):
        yield 0, "generated file in the repository"
    if os.path.getsize(path) > MAX_BYTES:
        yield 0, f"{os.path.getsize(path)} bytes, at most {MAX_BYTES}"
        return
    with open(path, "rb") as file:
        data = file.read()
    try:
        yield from check_text(path, data.decode("utf-8").splitlines())
    except UnicodeDecodeError:
        pass  # not text: nothing of ours to read in it


def main():
    n_findings = 0
    files = repository_files()
    for path in files:
        for number, text in check_file(path):
            print(f"{path}:{number}: {text}")
            n_findings += 1
        if is_long(path):
            print(f"{path}: long; look whether it is one thing")
    print(f"{len(files)} files, {n_findings} findings")
    return 1 if n_findings else 0


if __name__ == "__main__":
    sys.exit(main())
