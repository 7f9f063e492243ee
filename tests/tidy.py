#!/usr/bin/python3
"""Runs clang-tidy over our sources, one process per core.

    tests/tidy.py BUILD_DIR

BUILD_DIR has been built, by Ninja, and holds compile_commands.json. A file that
was found clean is not looked at again until it, a header of it, its command, the
configuration or clang-tidy itself changes: the cache keeps one empty file per
such state.
"""
import concurrent.futures
import functools
import hashlib
import json
import os
import pathlib
import shlex
import subprocess
import sys

TIDY = "clang-tidy-14"
TOP = pathlib.Path(__file__).resolve().parent.parent
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or
                     pathlib.Path.home() / ".cache") / "kvpool-tidy"


def sources(build_dir):
    """Every C file of ours that the build compiles, with its arguments: the first
    ones, where a test compiles it once more."""
    with open(build_dir / "compile_commands.json", encoding="utf-8") as file:
        commands = json.load(file)
    found = {}
    for entry in commands:
        path = pathlib.Path(entry["directory"], entry["file"]).resolve()
        ours = path.is_relative_to(TOP) and not path.is_relative_to(TOP / "build")
        if ours and path.suffix == ".c":
            found.setdefault(
                path, (entry["directory"], shlex.split(entry["command"])))
    return found


def headers(build_dir):
    """What each object was last compiled from, the C file first; relative paths
    begin at the build."""
    listed = subprocess.run(["ninja", "-C", str(build_dir), "-t", "deps"],
                            check=True, capture_output=True, text=True).stdout
    found = {}
    for paragraph in listed.split("\n\n"):
        target, _, paths = paragraph.partition(": ")
        found[target.split("\n")[-1]] = paths.split("\n    ")[1:]
    return found


def flags_of(command):
    """What stands between the compiler and CMake's closing `-o OUT -c IN`."""
    first = next(i for i, arg in enumerate(command) if arg.startswith("-"))
    return command[first:command.index("-o")]


def object_of(command):
    return command[command.index("-o") + 1]


@functools.cache
def digest_of(path):
    return hashlib.sha256(path.read_bytes()).digest()


def state_of(path, directory, command, includes, salt):
    """Names all that clang-tidy's answer depends on. Where the machine keeps the
    repository is not among it."""
    state = hashlib.sha256(salt)
    state.update("\0".join(flags_of(command)).replace(str(TOP), "").encode())
    state.update(str(path.relative_to(TOP)).encode())
    for include in includes:
        state.update(digest_of(pathlib.Path(directory, include)))
    return state.hexdigest()


def check(path, build_dir, mark):
    """None where the file is clean, else what clang-tidy says."""
    if mark.exists():
        return None
    # The flags are gcc's; how it is to optimise may be news to clang.
    run = subprocess.run(
        [TIDY, "--quiet", "-p", str(build_dir),
         "--extra-arg=-Wno-ignored-optimization-argument", str(path)],
        capture_output=True, text=True, check=False)
    if run.returncode == 0:
        mark.touch()
        return None
    return run.stdout + run.stderr


def main():
    build_dir = pathlib.Path(sys.argv[1]).resolve()
    version = subprocess.run([TIDY, "--version"], check=True, capture_output=True)
    salt = version.stdout + (TOP / ".clang-tidy").read_bytes()
    CACHE.mkdir(parents=True, exist_ok=True)
    files = sources(build_dir)
    included = headers(build_dir)
    marks = {path: CACHE / state_of(path, directory, command,
                                    included[object_of(command)], salt)
             for path, (directory, command) in files.items()}
    n_bad = 0
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = {path: pool.submit(check, path, build_dir, marks[path])
                for path in sorted(files)}
        for path, job in jobs.items():
            findings = job.result()
            if findings is not None:
                n_bad += 1
                print(f"{path.relative_to(TOP)}:\n{findings}")
    print(f"{len(files)} files, {n_bad} with findings")
    return 1 if n_bad or not files else 0


if __name__ == "__main__":
    sys.exit(main())
