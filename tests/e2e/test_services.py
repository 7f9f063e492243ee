"""Health and reflection: what ordinary tools expect of a gRPC server."""
import os
import resource
import signal
import socket
import subprocess
import unittest

import grpc
from google.protobuf import descriptor_pb2

from kvpool_e2e import (CALL_SECONDS, SOURCE, Kvpoold, ServerTest, generate,
                        generate_request, grpc_message, main)

SERVICES = ("kvpool.v1.KvPoolService", "kvpool.v1.InferenceService")


def health_stub(channel, method):
    kind = channel.unary_stream if method == "Watch" else channel.unary_unary
    return kind(
        "/grpc.health.v1.Health/" + method,
        request_serializer=lambda m: m.SerializeToString(),
        response_deserializer=grpc_message(
            "grpc.health.v1.HealthCheckResponse").FromString)


def health_request(service):
    return grpc_message("grpc.health.v1.HealthCheckRequest")(service=service)


SERVING, NOT_SERVING, SERVICE_UNKNOWN = 1, 2, 3


class HealthTest(ServerTest):
    flags = ("--kv-cache-size-mb=4",)

    def check(self, service):
        return health_stub(self.server.channel, "Check")(
            health_request(service), timeout=CALL_SECONDS).status

    def test_the_server_and_each_service_are_serving(self):
        for service in ("",) + SERVICES:
            self.assertEqual(self.check(service), SERVING, service)

    def test_a_service_that_is_not_there_is_not_found(self):
        with self.assertRaises(grpc.RpcError) as caught:
            self.check("no.Service")
        self.assertEqual(caught.exception.code(), grpc.StatusCode.NOT_FOUND)

    def test_a_watcher_of_the_unknown_is_told_so_and_kept(self):
        call = health_stub(self.server.channel, "Watch")(
            health_request("no.Service"), timeout=CALL_SECONDS)
        self.assertEqual(next(call).status, SERVICE_UNKNOWN)
        call.cancel()


class DrainTest(unittest.TestCase):
    def test_watchers_hear_of_the_end_and_new_work_is_refused(self):
        with Kvpoold("--kv-cache-size-mb=8",
                     "--drain-limit-ms=60000") as server:
            running = server.inference.Generate(generate_request(
                text="What is a dog?", max_tokens=20), timeout=CALL_SECONDS)
            first = next(running)
            watch = health_stub(server.channel, "Watch")(
                health_request(""), timeout=CALL_SECONDS)
            self.assertEqual(next(watch).status, SERVING)
            server.signal(signal.SIGTERM)
            self.assertEqual(next(watch).status, NOT_SERVING)
            watch.cancel()
            messages = [first] + list(running)
            self.assertTrue(messages[-1].HasField("finished"))
            self.assertEqual(server.wait(), 0)
            server.check_lines()

    def test_a_second_signal_stops_at_once(self):
        with Kvpoold("--kv-cache-size-mb=8",
                     "--drain-limit-ms=3600000") as server:
            watch = health_stub(server.channel, "Watch")(
                health_request(""), timeout=CALL_SECONDS)
            self.assertEqual(next(watch).status, SERVING)
            server.signal(signal.SIGTERM)
            self.assertEqual(next(watch).status, NOT_SERVING)
            server.signal(signal.SIGTERM)
            server.wait()
            server.check_lines()
            server.channel.close()


class ReflectionTest(ServerTest):
    flags = ("--kv-cache-size-mb=4",)

    def ask(self, version, *requests):
        package = "grpc.reflection." + version
        kind = grpc_message(package + ".ServerReflectionRequest")
        answer = grpc_message(package + ".ServerReflectionResponse")
        call = self.server.channel.stream_stream(
            "/%s.ServerReflection/ServerReflectionInfo" % package,
            request_serializer=lambda m: m.SerializeToString(),
            response_deserializer=answer.FromString)
        return list(call(iter([kind(**r) for r in requests]),
                         timeout=CALL_SECONDS))

    def files(self, response):
        return [descriptor_pb2.FileDescriptorProto.FromString(b)
                for b in response.file_descriptor_response
                .file_descriptor_proto]

    def test_services_are_listed(self):
        for version in ("v1", "v1alpha"):
            answer, = self.ask(version, dict(list_services=""))
            names = {s.name for s in answer.list_services_response.service}
            self.assertLessEqual(set(SERVICES), names)
            self.assertIn("grpc.health.v1.Health", names)

    def test_a_symbol_comes_with_the_file_that_declares_it(self):
        for version in ("v1", "v1alpha"):
            for symbol, declares in (
                    ("kvpool.v1.KvPoolService", "pool_service.proto"),
                    ("kvpool.v1.InferenceService.Generate",
                     "inference_service.proto"),
                    ("kvpool.v1.Receipt", "receipts.proto"),
                    ("kvpool.v1.EvictionReason", "common.proto"),
                    ("grpc.health.v1.Health", "health.proto")):
                answer, = self.ask(version,
                                   dict(file_containing_symbol=symbol))
                names = [f.name for f in self.files(answer)]
                self.assertTrue(any(n.endswith(declares) for n in names),
                                (symbol, names))

    def test_the_files_are_those_of_the_contract(self):
        proto = os.path.join(SOURCE, "proto")
        name = "kvpool/v1/receipts.proto"
        answer, = self.ask("v1", dict(file_by_filename=name))
        found = {f.name: f for f in self.files(answer)}
        compiled = subprocess.run(
            ["protoc", "-I" + proto, "--descriptor_set_out=/dev/stdout",
             name], check=True, capture_output=True).stdout
        expected = descriptor_pb2.FileDescriptorSet.FromString(compiled)
        self.assertEqual(found[name], expected.file[0])

    def test_what_is_not_there_is_answered_and_the_stream_goes_on(self):
        answers = self.ask("v1", dict(file_containing_symbol="no.Such"),
                           dict(file_by_filename="no.proto"),
                           dict(list_services="*"))
        self.assertEqual(
            [a.WhichOneof("message_response") for a in answers],
            ["error_response", "error_response", "list_services_response"])
        self.assertEqual({a.error_response.error_code for a in answers[:2]},
                         {grpc.StatusCode.NOT_FOUND.value[0]})


class ConnectionTest(ServerTest):
    flags = ("--kv-cache-size-mb=4",)

    def test_many_connections_are_served(self):
        channels = [self.server.connect() for _ in range(64)]
        for channel in channels:
            self.assertEqual(
                health_stub(channel, "Check")(
                    health_request(""), timeout=CALL_SECONDS).status,
                SERVING)
        for channel in channels:
            channel.close()

    def test_running_out_of_descriptors_is_a_pause_and_not_the_end(self):
        host, port = self.server.address.rsplit(":", 1)
        health_stub(self.server.channel, "Check")(
            health_request(""), timeout=CALL_SECONDS)
        in_use = len(os.listdir("/proc/%d/fd" % self.server.pid))
        before = resource.prlimit(self.server.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(self.server.pid, resource.RLIMIT_NOFILE,
                         (in_use + 20, before[1]))
        peers = [socket.create_connection((host, int(port)), 10)
                 for _ in range(64)]
        # Who was there before is served while nobody else can come.
        for _ in range(20):
            health_stub(self.server.channel, "Check")(
                health_request(""), timeout=CALL_SECONDS)
        for peer in peers:
            peer.close()
        with self.server.connect() as channel:
            self.assertEqual(
                health_stub(channel, "Check")(
                    health_request(""), timeout=CALL_SECONDS,
                    wait_for_ready=True).status, SERVING)
        resource.prlimit(self.server.pid, resource.RLIMIT_NOFILE, before)

    def test_garbage_on_the_port_ends_that_connection_only(self):
        host, port = self.server.address.rsplit(":", 1)
        for garbage in (b"GET / HTTP/1.1\r\n\r\n", b"\0" * 1000,
                        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 500,
                        b""):
            with socket.create_connection((host, int(port)), 10) as peer:
                peer.sendall(garbage)
                peer.shutdown(socket.SHUT_WR)
                peer.settimeout(20)
                try:
                    while peer.recv(4096):
                        pass
                except OSError:
                    pass
        self.assertEqual(generate(self.server, text="a",
                                  max_tokens=1).usage.generated_tokens, 1)


if __name__ == "__main__":
    main()
