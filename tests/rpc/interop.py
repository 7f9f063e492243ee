"""Python's grpcio against our server: python3 interop.py SERVER_PROGRAM"""
import subprocess
import sys

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool


def raw(channel, kind, path):
    return getattr(channel, kind)(path, request_serializer=None,
                                  response_deserializer=None)


def varint(n):
    out = b""
    while n > 127:
        out += bytes([n & 127 | 128])
        n >>= 7
    return out + bytes([n])


def field(number, value):
    return varint(number << 3 | 2) + varint(len(value)) + value


def fields(data):
    """(number, value) of each length-delimited field."""
    i = 0
    while i < len(data):
        numbers = []
        for _ in range(2):
            n = shift = 0
            while True:
                n |= (data[i] & 127) << shift
                shift += 7
                i += 1
                if data[i - 1] < 128:
                    break
            numbers.append(n)
        if numbers[0] & 7 == 2:
            yield numbers[0] >> 3, data[i:i + numbers[1]]
            i += numbers[1]


def check_unary(channel):
    echo = raw(channel, "unary_unary", "/test.v1.Test/Echo")
    assert echo(b"hello") == b"hello"
    assert echo(b"") == b""
    for compression in (grpc.Compression.Gzip, grpc.Compression.Deflate):
        text = b"abc" * 10000
        assert echo(text, compression=compression) == text
        try:  # small on the wire, too large for the server
            echo(b"a" * 1000000, compression=compression)
            assert False
        except grpc.RpcError as e:
            assert e.code() == grpc.StatusCode.RESOURCE_EXHAUSTED, e
            assert e.details() == (
                "the compressed request inflates to more than 65536 bytes")


def check_errors(channel):
    try:
        raw(channel, "unary_unary", "/test.v1.Test/Fail")(b"abc")
        assert False
    except grpc.RpcError as e:
        assert e.code() == grpc.StatusCode.FAILED_PRECONDITION
        assert e.details() == "100 % caf\u00e9,\nsecond line, 3 bytes"
        details = dict(e.trailing_metadata())["grpc-status-details-bin"]
        status = list(fields(details[2:]))
        assert status[0] == (2, e.details().encode())
        url, info = [v for _, v in fields(status[1][1])]
        assert url == b"type.googleapis.com/google.rpc.ErrorInfo"
        assert list(fields(info)) == [
            (1, b"RECEIPTS_OFF"), (2, b"kvpool"),
            (3, field(1, b"option") + field(2, b"enable_receipts"))]
    # No message at all, and several where one belongs.
    for requests in ([], [b"a", b"b"]):
        call = raw(channel, "stream_unary", "/test.v1.Test/Echo")
        try:
            call(iter(requests))
            assert requests
        except grpc.RpcError as e:
            assert e.code() == grpc.StatusCode.INVALID_ARGUMENT, e


def add_with_imports(pool, files, name):
    file = files.pop(name, None)
    if file is not None:
        for imported in file.dependency:
            add_with_imports(pool, files, imported)
        pool.Add(file)


def check_reflection(channel, version):
    """Several questions on one stream; an answer describes the service."""
    call = raw(channel, "stream_stream",
               f"/grpc.reflection.{version}.ServerReflection"
               "/ServerReflectionInfo")
    answers = list(call(iter([
        field(7, b""), field(4, b"kvpool.v1.KvPoolService.Snapshot"),
        field(4, b"no.Such"), field(4, b"kvpool.v1.Receipt")])))
    assert len(answers) == 4
    listed = dict(fields(answers[0]))[6]
    names = [dict(fields(v))[1] for _, v in fields(listed)]
    assert b"kvpool.v1.KvPoolService" in names
    assert b"grpc.reflection.v1alpha.ServerReflection" in names
    assert 7 in dict(fields(answers[2]))
    pool = descriptor_pool.DescriptorPool()
    files = {}
    for _, v in fields(dict(fields(answers[1]))[4]):
        file = descriptor_pb2.FileDescriptorProto.FromString(v)
        files[file.name] = file
    add_with_imports(pool, files, "kvpool/v1/pool_service.proto")
    service = pool.FindServiceByName("kvpool.v1.KvPoolService")
    assert "StreamReceipts" in [m.name for m in service.methods]


def check_health(channel):
    check = raw(channel, "unary_unary", "/grpc.health.v1.Health/Check")
    assert check(b"") == b"\x08\x01"
    watch = raw(channel, "unary_stream", "/grpc.health.v1.Health/Watch")(b"")
    assert next(watch) == b"\x08\x01"
    watch.cancel()


def check_streams(channel):
    count = raw(channel, "unary_stream", "/test.v1.Test/Count")
    assert list(count(b"100")) == [b"%d" % i for i in range(100)]
    stay = raw(channel, "unary_stream", "/test.v1.Test/Stay")(
        b"", timeout=0.05)
    try:
        next(stay)
        assert False
    except grpc.RpcError as e:
        assert e.code() == grpc.StatusCode.DEADLINE_EXCEEDED


def main():
    server = subprocess.Popen(sys.argv[1], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, text=True)
    with grpc.insecure_channel(server.stdout.readline().strip()) as channel:
        check_unary(channel)
        check_errors(channel)
        check_streams(channel)
        check_health(channel)
        for version in ("v1", "v1alpha"):
            check_reflection(channel, version)
    server.stdin.close()
    assert server.wait(60) == 0
    print("interop: ok")


main()
