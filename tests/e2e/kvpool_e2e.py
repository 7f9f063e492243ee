"""Starts the real kvpoold and drives it as a Python client would.

    class EvictTest(ServerTest):
        flags = ["--enable-receipts"]

        def test_a_law_in_words(self):
            self.generate(text="What is a dog?", session="a")

The environment says where things are (tests/e2e/CMakeLists.txt sets it):
KVPOOLD and KVPOOLCTL, the programs; E2E_SOURCE, the root of the repository;
E2E_STUBS, where the contract's Python stubs are, made there by
`kvpool_e2e.py --make-stubs`.
"""
import atexit
import importlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
import unittest

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

SOURCE = os.environ.get(
    "E2E_SOURCE", os.path.dirname(os.path.dirname(os.path.dirname(
        os.path.abspath(__file__)))))
STUBS = os.environ.get("E2E_STUBS", os.path.join(SOURCE, "build", "e2e_stubs"))
GRPC_PROTO = os.environ.get("E2E_GRPC_PROTO", "/usr/share/grpc-proto")
KVPOOLD = os.environ.get("KVPOOLD")
KVPOOLCTL = os.environ.get("KVPOOLCTL")

# Generous: a sanitized server on a busy machine is slow, a hang is for ever.
START_SECONDS = 120
STOP_SECONDS = 60
CALL_SECONDS = 120

SANITIZER = re.compile(
    r"ERROR: (Address|Leak)Sanitizer|WARNING: ThreadSanitizer|runtime error:")


# --- the contract in Python --------------------------------------------------

def make_stubs():
    """Generates the stubs, and descriptors of the services of gRPC's own."""
    from grpc_tools import protoc

    os.makedirs(STUBS, exist_ok=True)
    root = os.path.join(SOURCE, "proto")
    ours = sorted(
        os.path.relpath(os.path.join(folder, name), root)
        for folder, _, names in os.walk(os.path.join(root, "kvpool"))
        for name in names if name.endswith(".proto"))
    foreign = ["grpc/health/v1/health.proto",
               "grpc/reflection/v1/reflection.proto",
               "grpc/reflection/v1alpha/reflection.proto"]
    jobs = [["", "-I" + root, "--python_out=" + STUBS,
             "--grpc_python_out=" + STUBS] + ours,
            ["", "-I" + GRPC_PROTO, "--descriptor_set_out=" +
             os.path.join(STUBS, "grpc.binpb")] + foreign]
    for job in jobs:
        if protoc.main(job) != 0:
            sys.exit("protoc failed: " + shlex.join(job))


if __name__ != "__main__":
    sys.path.insert(0, STUBS)
    common = importlib.import_module("kvpool.v1.common_pb2")
    errors = importlib.import_module("kvpool.v1.errors_pb2")
    stats = importlib.import_module("kvpool.v1.stats_pb2")
    receipts = importlib.import_module("kvpool.v1.receipts_pb2")
    pool = importlib.import_module("kvpool.v1.pool_service_pb2")
    inference = importlib.import_module("kvpool.v1.inference_service_pb2")
    pool_grpc = importlib.import_module("kvpool.v1.pool_service_pb2_grpc")
    inference_grpc = importlib.import_module(
        "kvpool.v1.inference_service_pb2_grpc")
    details = importlib.import_module("kvpool.rpc.v1.error_details_pb2")


def grpc_message(name):
    """A message class of grpc.health.v1 or grpc.reflection. Their stubs would
    be a package named grpc, which there is already."""
    descriptors = descriptor_pool.Default()
    try:
        found = descriptors.FindMessageTypeByName(name)
    except KeyError:
        files = descriptor_pb2.FileDescriptorSet()
        with open(os.path.join(STUBS, "grpc.binpb"), "rb") as file:
            files.ParseFromString(file.read())
        for file in files.file:
            descriptors.Add(file)
        found = descriptors.FindMessageTypeByName(name)
    return message_factory.MessageFactory(descriptors).GetPrototype(found)


# --- the server --------------------------------------------------------------

def parse_logfmt(line):
    """The fields of a line of kvpoold's log, or {} if it is none."""
    fields = {}
    for match in re.finditer(r'(\w+)=("(?:[^"\\]|\\.)*"|\S*)', line):
        value = match.group(2)
        fields[match.group(1)] = (
            json.loads(value) if value.startswith('"') else value)
    return fields


class StartFailed(Exception):
    """kvpoold ended before it was ready."""

    def __init__(self, code, lines):
        super().__init__("exit code %d: %s" % (code, " | ".join(lines[-5:])))
        self.code = code
        self.lines = lines


class Kvpoold:
    """A running kvpoold: on a port of its own, gone when the test is. `before`
    is what a shell does first: "ulimit -n 64"."""

    def __init__(self, *flags, listen="127.0.0.1:0", environment=None,
                 before=None):
        if not KVPOOLD:
            raise unittest.SkipTest("KVPOOLD does not say where kvpoold is")
        clean = {k: v for k, v in os.environ.items()
                 if not k.startswith("KVPOOL_")}
        clean.update(environment or {})
        shell = [] if before is None else [
            "/bin/sh", "-c", before + ' && exec "$0" "$@"']
        self.lines = []
        self.address = None
        self.stopped = False
        self._ready = threading.Event()
        self._process = subprocess.Popen(
            [*shell, KVPOOLD, "--listen=" + listen, *flags], env=clean,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE)
        atexit.register(self.kill)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if not self._ready.wait(START_SECONDS) or self.address is None:
            self.kill()
            raise StartFailed(self._process.returncode, self.lines)
        self.channel = self.connect()
        self.pool = pool_grpc.KvPoolServiceStub(self.channel)
        self.inference = inference_grpc.InferenceServiceStub(self.channel)

    def _read(self):
        for raw in self._process.stderr:
            line = raw.decode("utf-8", "replace").rstrip("\n")
            self.lines.append(line)
            if self._ready.is_set():
                continue
            fields = parse_logfmt(line)
            if fields.get("msg") == "listening" and self.address is None:
                self.address = fields.get("address")
            if fields.get("msg") == "ready":
                self._ready.set()
        self._process.wait()
        self._ready.set()

    @property
    def pid(self):
        return self._process.pid

    def is_sanitized(self):
        with open("/proc/%d/maps" % self.pid, encoding="utf-8") as file:
            return re.search(r"lib[at]san|\[shadow", file.read()) is not None

    def connect(self, **options):
        """A channel that shares no connection with any other."""
        target = self.address
        defaults = {"grpc.use_local_subchannel_pool": 1,
                    "grpc.max_receive_message_length": -1,
                    "grpc.max_send_message_length": -1}
        defaults.update(options)
        return grpc.insecure_channel(target, options=list(defaults.items()))

    def log(self, **fields):
        """The lines of the log that have all these fields, as dictionaries."""
        return [parsed for parsed in map(parse_logfmt, list(self.lines))
                if all(parsed.get(k) == v for k, v in fields.items())]

    def signal(self, number):
        self._process.send_signal(number)

    def wait(self, seconds=STOP_SECONDS):
        """Its exit code; everything it said is in lines afterwards."""
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError("kvpoold did not stop within %d s:\n%s" % (
                seconds, self.tail())) from None
        self._reader.join(10)
        self.stopped = True
        return code

    def tail(self):
        return "\n".join(self.lines[-40:])

    def stop(self):
        """In order, and with nothing that a sanitizer has to say."""
        if self.stopped:
            return
        self.channel.close()
        self.signal(signal.SIGTERM)
        code = self.wait()
        self.check_lines()
        assert code == 0, "exit code %d:\n%s" % (code, self.tail())

    def check_lines(self):
        for line in self.lines:
            assert not SANITIZER.search(line), "\n".join(self.lines[-200:])

    def kill(self):
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._reader.join(10)
        self.stopped = True

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        if kind is None:
            self.stop()
        else:
            self.kill()
            self.check_lines()


# --- calls -------------------------------------------------------------------

class Generated:
    """What a Generate call said, put together."""

    def __init__(self, messages):
        self.messages = list(messages)
        self.ids = [i for m in self.messages for i in m.token_ids]
        self.text = "".join(m.text for m in self.messages)
        self.started = self.messages[0].started
        self.finished = self.messages[-1].finished
        self.usage = self.finished.usage
        self.reason = inference.FinishReason.Name(
            self.finished.reason).replace("FINISH_REASON_", "")


def generate_request(text=None, ids=None, session="", **fields):
    request = inference.GenerateRequest(session_id=session, **fields)
    if text is not None:
        request.text = text
    if ids is not None:
        request.tokens.ids.extend(ids)
        request.tokens.SetInParent()
    return request


def generate(server, **fields):
    return Generated(server.inference.Generate(
        generate_request(**fields), timeout=CALL_SECONDS))


def key(session, tenant=""):
    return common.SessionKey(session_id=session, tenant=tenant)


def session_target(session, tenant=""):
    return pool.EvictTarget(session=key(session, tenant))


class Failure:
    """An error of gRPC's with its details: one ErrorInfo, maybe a BadRequest."""

    def __init__(self, error):
        self.code = error.code().name
        self.message = error.details()
        self.reason, self.domain, self.metadata, self.fields = "", "", {}, {}
        self.n_infos = 0
        packed = dict(error.trailing_metadata() or ()).get(
            "grpc-status-details-bin")
        if packed is None:
            return
        status = details.Status.FromString(packed)
        self.status_code = status.code
        for detail in status.details:
            if detail.type_url.endswith("google.rpc.ErrorInfo"):
                info = details.ErrorInfo.FromString(detail.value)
                self.n_infos += 1
                self.reason, self.domain = info.reason, info.domain
                self.metadata = {m.key: m.value for m in info.metadata}
            elif detail.type_url.endswith("google.rpc.BadRequest"):
                bad = details.BadRequest.FromString(detail.value)
                self.fields = {v.field: v.description
                               for v in bad.field_violations}

    def __repr__(self):
        return "%s(%s) %r fields=%r metadata=%r" % (
            self.code, self.reason, self.message, self.fields, self.metadata)


def wait_until(condition, what):
    """Until condition() is true, which it then returns."""
    end = time.monotonic() + CALL_SECONDS
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > end:
            raise AssertionError("never: " + what)
        time.sleep(0.02)


class Subscriber:
    """A StreamReceipts call, read on a thread of its own."""

    def __init__(self, server, channel=None, **fields):
        stub = (pool_grpc.KvPoolServiceStub(channel) if channel
                else server.pool)
        self.messages = []
        self.error = None
        self._changed = threading.Condition()
        self._over = self._cancelled = False
        self._call = stub.StreamReceipts(pool.StreamReceiptsRequest(**fields))
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self):
        try:
            for message in self._call:
                with self._changed:
                    self.messages.append(message)
                    self._changed.notify_all()
        except grpc.RpcError as error:
            if not self._cancelled:
                self.error = Failure(error)
        with self._changed:
            self._over = True
            self._changed.notify_all()

    @property
    def receipts(self):
        return [r for m in list(self.messages) for r in m.receipts]

    def kinds(self):
        return [r.WhichOneof("kind") for r in self.receipts]

    def wait_for(self, condition, what, seconds=CALL_SECONDS):
        """Until condition(self) is true; fails when the stream ends first."""
        end = time.monotonic() + seconds
        with self._changed:
            while not condition(self):
                left = end - time.monotonic()
                if left <= 0 or self._over:
                    raise AssertionError("no %s; %d receipts, error %r" % (
                        what, len(self.receipts), self.error))
                self._changed.wait(left)

    def wait_sequence(self, sequence):
        self.wait_for(
            lambda s: any(m.through_sequence >= sequence or
                          any(r.sequence >= sequence for r in m.receipts)
                          for m in s.messages),
            "receipt %d" % sequence)

    def wait_end(self, seconds=CALL_SECONDS):
        self._thread.join(seconds)
        if self._thread.is_alive():
            raise AssertionError("the stream goes on")

    def cancel(self):
        self._cancelled = True
        self._call.cancel()
        self._thread.join(CALL_SECONDS)


def health(server, service=""):
    check = server.channel.unary_unary(
        "/grpc.health.v1.Health/Check",
        request_serializer=lambda m: m.SerializeToString(),
        response_deserializer=grpc_message(
            "grpc.health.v1.HealthCheckResponse").FromString)
    return check(grpc_message("grpc.health.v1.HealthCheckRequest")(
        service=service), timeout=CALL_SECONDS).status


def ledger_end(server):
    """The last sequence that has been issued."""
    return server.pool.Snapshot(
        pool.SnapshotRequest(), timeout=CALL_SECONDS
    ).snapshot.stamp.applied_sequence


def read_receipts(server, first=1):
    """All receipts from `first` to the present end of the ledger."""
    end = ledger_end(server)
    start = dict(earliest=pool.StartEarliest()) if first == 1 else dict(
        after=common.LedgerPosition(sequence=first - 1))
    subscriber = Subscriber(server, **start)
    if end >= first:
        subscriber.wait_sequence(end)
    subscriber.cancel()
    return [r for r in subscriber.receipts if r.sequence <= end]


class ServerTest(unittest.TestCase):
    """Tests that share one kvpoold, started with `flags`."""

    flags = ()
    longMessage = True
    maxDiff = 4000

    @classmethod
    def setUpClass(cls):
        cls.server = Kvpoold(*cls.flags)

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()

    def generate(self, **fields):
        return generate(self.server, **fields)

    def evict(self, *targets, **fields):
        return self.server.pool.Evict(
            pool.EvictRequest(targets=targets, **fields),
            timeout=CALL_SECONDS)

    def snapshot(self, *sections):
        return self.server.pool.Snapshot(
            pool.SnapshotRequest(sections=sections),
            timeout=CALL_SECONDS).snapshot

    def fails(self, code, reason, call, *arguments, field=None, given=None):
        """The call ends with this status and reason, naming this field."""
        with self.assertRaises(grpc.RpcError) as caught:
            result = call(*arguments)
            if hasattr(result, "__iter__"):
                list(result)
        failure = Failure(caught.exception)
        self.assertEqual((failure.code, failure.reason), (code, reason),
                         repr(failure))
        if reason:
            self.assertEqual(failure.domain, "kvpool", repr(failure))
            self.assertEqual(failure.n_infos, 1, repr(failure))
            self.assertEqual(failure.status_code,
                             getattr(grpc.StatusCode, code).value[0])
        if field is not None:
            self.assertIn(field, failure.fields, repr(failure))
        if given is not None:
            self.assertIn(given, failure.fields[field], repr(failure))
        return failure

    def generate_fails(self, code, reason, field=None, given=None, **fields):
        return self.fails(
            code, reason,
            lambda: self.server.inference.Generate(
                generate_request(**fields), timeout=CALL_SECONDS),
            field=field, given=given)


SKIPPED = 77


def main():
    """Runs the tests of the script; 77 where all of them were skipped."""
    result = unittest.main(module="__main__", verbosity=2,
                           exit=False).result
    if result.wasSuccessful() and result.skipped and (
            len(result.skipped) >= result.testsRun):
        sys.exit(SKIPPED)
    sys.exit(0 if result.wasSuccessful() else 1)


if __name__ == "__main__":
    if sys.argv[1:] == ["--make-stubs"]:
        make_stubs()
    else:
        sys.exit("usage: kvpool_e2e.py --make-stubs")
