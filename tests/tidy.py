#!/usr/bin/python3
"""Runs clang-tidy over our sources, one process per core.

    tests/tidy.py BUILD_DIR

BUILD_DIR holds compile_commands.json. A file that was found clean is not looked
at again until its text with all its headers, its command, the configuration or
clang-tidy itself changes: the cache keeps one empty file per such state.
"""
import concurrent.futures
import hashlib
import json
import os
import pathlib
import shlex
import subprocess
import sys

CLANG = "clang-14"
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


def flags_of(command):
    """What stands between the compiler and CMake's closing `-o OUT -c IN`."""
    first = next(i for i, arg in enumerate(command) if arg.startswith("-"))
    return command[first:command.index("-o")]


def state_of(path, directory, command, salt):
    """Names all that clang-tidy's answer depends on. Comments count (-C): a
    NOLINT is one."""
    flags = flags_of(command)
    text = subprocess.run(
        [CLANG, *flags, "-E", "-C", "-P", str(path)],
        cwd=directory, check=True, capture_output=True).stdout
    state = hashlib.sha256(salt)
    state.update("\0".join(flags).replace(str(TOP), "").encode())
    state.update(str(path.relative_to(TOP)).encode())
    state.update(path.read_bytes())
    state.update(text)
    return state.hexdigest()


def check(path, directory, command, build_dir, salt):
    """None where the file is clean, else what clang-tidy says."""
    try:
        mark = CACHE / state_of(path, directory, command, salt)
    except subprocess.CalledProcessError as error:
        return error.stderr.decode(errors="replace")
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
    n_bad = 0
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = {path: pool.submit(check, path, *files[path], build_dir, salt)
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
