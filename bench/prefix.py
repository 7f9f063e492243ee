#!/usr/bin/python3
"""Measures the time to the first token where prompts begin alike, beside
llama-server, and prints a table in Markdown.

    deploy/packages.sh build bench python
    build/release/bench/synth_model --preset llama-110m --type q8_0 MODEL.gguf
    bench/prefix.py MODEL.gguf [known] [together] [--llama-server PATH]
        [--threads N] [--rounds N]

known: a prompt, and another that begins like it. together: several at once that
begin alike. Both, unless one is named.

llama-server is built beside the repository by whoever measures; without it ours
is measured alone. The two take turns; in each round the beginning is new. Times
are a client's: from the request to the first token, of two; the next request
comes when the second has come too. Of several requests at once the slowest
counts.
"""
import argparse
import concurrent.futures
import contextlib
import http.client
import importlib
import json
import os
import pathlib
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time

import grpc
from grpc_tools import protoc

TOP = pathlib.Path(__file__).resolve().parent.parent
PREFIX, AT_ONCE = 448, 4
VOCABULARY = (300, 20000)  # ids that are plain words in models of any kind


def make_stubs(folder):
    names = [str(p.relative_to(TOP / "proto"))
             for p in (TOP / "proto").glob("kvpool/v1/*.proto")]
    if protoc.main(["", f"-I{TOP / 'proto'}", f"--python_out={folder}",
                    f"--grpc_python_out={folder}", *names]) != 0:
        sys.exit("the protos do not compile")
    sys.path.insert(0, folder)
    return (importlib.import_module("kvpool.v1.inference_service_pb2"),
            importlib.import_module("kvpool.v1.inference_service_pb2_grpc"))


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A process for as long as a with statement lasts."""

    def __init__(self, command, port):
        self.port = port
        self.process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def __enter__(self):
        for _ in range(600):
            with contextlib.suppress(Exception):
                if self.is_ready():
                    return self
            time.sleep(0.1)
        sys.exit(f"{type(self).__name__} does not come up")

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()


class Kvpool(Server):
    def __init__(self, args, stubs):
        port = free_port()
        super().__init__(
            [f"{args.build}/server/kvpoold", f"--listen=127.0.0.1:{port}",
             f"--model={args.model}", f"--threads={args.threads}",
             "--kv-cache-size-mb=1024", "--max-step-ms=2000"], port)
        self.messages, services = stubs
        self.stub = services.InferenceServiceStub(
            grpc.insecure_channel(f"127.0.0.1:{port}"))
        self.n_sessions = 0

    def is_ready(self):
        self.stub.GetModel(self.messages.GetModelRequest(), timeout=1)
        return True

    def first_token(self, tokens):
        self.n_sessions += 1
        request = self.messages.GenerateRequest(
            session_id=f"s{self.n_sessions}", max_tokens=2)
        request.tokens.ids.extend(tokens)
        taken = None
        begin = time.monotonic()
        for message in self.stub.Generate(request, timeout=300):
            if message.token_ids and taken is None:
                taken = time.monotonic() - begin
        if taken is None:
            sys.exit("kvpoold gives no token")
        return taken


class Llama(Server):
    def __init__(self, args):
        port = free_port()
        super().__init__(
            [args.llama_server, "-m", args.model, "-t", str(args.threads),
             "--port", str(port), "-np", str(AT_ONCE), "-c",
             str(AT_ONCE * 1024), "--no-warmup", "-ub", "512", "-b", "2048"],
            port)

    def is_ready(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, 1)
        connection.request("GET", "/health")
        return connection.getresponse().status == 200

    def first_token(self, tokens):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, 300)
        body = json.dumps({"prompt": tokens, "n_predict": 2, "stream": True,
                           "cache_prompt": True, "ignore_eos": True})
        begin = time.monotonic()
        connection.request("POST", "/completion", body,
                           {"Content-Type": "application/json"})
        answer = connection.getresponse()
        for line in answer:
            if line.startswith(b"data: "):
                taken = time.monotonic() - begin
                answer.read()
                return taken
        sys.exit(f"llama-server gives no token: {answer.status}")


def at_once(server, prompts):
    with concurrent.futures.ThreadPoolExecutor(len(prompts)) as pool:
        return max(pool.map(server.first_token, prompts))


def words(rng, n):
    return [rng.randint(*VOCABULARY) for _ in range(n)]


def measure_known(server, rng):
    beginning = words(rng, PREFIX)
    return {
        "one prompt, nothing of it known":
            server.first_token(beginning + words(rng, 8)),
        f"the same beginning of {PREFIX} tokens again":
            server.first_token(beginning + words(rng, 8)),
    }


def measure_together(server, rng):
    beginning = words(rng, PREFIX)
    return {
        f"{AT_ONCE} at once, one new beginning of {PREFIX} tokens":
            at_once(server,
                    [beginning + words(rng, 8) for _ in range(AT_ONCE)]),
    }


MEASURES = {"known": measure_known, "together": measure_together}


def measure(server, rng, names):
    """Seconds, each by what they are of."""
    seconds = {}
    for name in names:
        seconds |= MEASURES[name](server, rng)
    return seconds


def row(what, rounds):
    mine, *peer = zip(*rounds)
    middle = statistics.median(mine)
    if not peer:
        return f"| {what} | {middle:.0f} | | |"
    each = [theirs / ours for ours, theirs in zip(mine, *peer)]
    theirs = statistics.median(*peer)
    return (f"| {what} | {middle:.0f} | {theirs:.0f} | {theirs / middle:.2f} "
            f"({min(each):.2f}-{max(each):.2f}) |")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("what", nargs="*", metavar="known|together")
    parser.add_argument("--llama-server")
    parser.add_argument("--build", default="build/release")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    names = args.what or list(MEASURES)
    if not MEASURES.keys() >= set(names):
        parser.error("known or together, or both")
    rng = random.Random(1)
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        servers = [stack.enter_context(Kvpool(args, make_stubs(folder)))]
        if args.llama_server:
            servers.append(stack.enter_context(Llama(args)))
        for server in servers:
            server.first_token(words(rng, 16))
        rounds = []
        for _ in range(args.rounds):
            rounds.append([measure(server, rng, names) for server in servers])
            print(rounds[-1], file=sys.stderr)

    print(f"{os.path.basename(args.model)}, {args.threads} threads, medians of "
          f"{args.rounds}\n")
    print("| time to the first token, ms | kvpool | llama-server | "
          "times as fast |\n|---|---|---|---|")
    for what in rounds[0][0]:
        print(row(what, [[server[what] * 1e3 for server in each]
                         for each in rounds]))


main()
