#!/usr/bin/python3
"""Follows the receipts of a kvpoold, one JSON line each.

    deploy/examples/subscribe.py --server 127.0.0.1:7440
    deploy/examples/subscribe.py --from latest --until-evicted chat-7

Shows what a subscriber needs: the proto files, a stream, and the position to
come back with after a cut, so that no receipt is missed and none is printed
twice. Needs grpcio, grpcio-tools and protobuf (Debian: python3-grpcio,
python3-grpc-tools, python3-protobuf); the stubs are generated at start.

Exits 0 when the receipt waited for has arrived, 1 when the server refuses, 2
when --timeout seconds pass first.
"""
import argparse
import importlib
import json
import pathlib
import sys
import tempfile
import time

import grpc
import grpc_tools.protoc
from google.protobuf import json_format

PROTO = pathlib.Path(__file__).resolve().parent.parent.parent / "proto"


def load_stubs(proto_dir):
    """Generates the Python modules of kvpool.v1 and imports them."""
    out = tempfile.TemporaryDirectory()
    files = [str(path) for path in proto_dir.glob("kvpool/v1/*.proto")]
    status = grpc_tools.protoc.main(
        ["protoc", f"-I{proto_dir}", f"--python_out={out.name}",
         f"--grpc_python_out={out.name}", *files])
    if status != 0:
        sys.exit(f"no usable proto files in {proto_dir}")
    sys.path.insert(0, out.name)
    with out:
        return (importlib.import_module("kvpool.v1.pool_service_pb2"),
                importlib.import_module("kvpool.v1.pool_service_pb2_grpc"))


def start_request(messages, start, position):
    """Where to begin: after what we have, or where the user said."""
    request = messages.StreamReceiptsRequest()
    if position is not None:
        request.after.CopyFrom(position)
    else:
        getattr(request, start).SetInParent()
    return request


def advance(position, message):
    """The position to resume with after this message."""
    if message.HasField("bookmark"):
        position.CopyFrom(message.bookmark.position)
    elif message.through_sequence:
        position.sequence = message.through_sequence
        position.epoch = message.through_epoch
        position.root = b""
    elif message.receipts:
        position.sequence = message.receipts[-1].sequence
        position.epoch = message.receipts[-1].epoch
        position.root = b""
    if message.receipts:
        position.pool_id = message.receipts[-1].pool_id


def print_receipt(receipt):
    fields = json_format.MessageToDict(receipt, preserving_proto_field_name=True)
    print(json.dumps(fields), flush=True)


def follow(messages, stub, args):
    """Prints receipts until the one waited for; True when it came."""
    position = None
    last_sequence = 0
    deadline = time.monotonic() + args.timeout
    while time.monotonic() < deadline:
        request = start_request(messages, args.start, position)
        try:
            for message in stub.StreamReceipts(
                    request, timeout=deadline - time.monotonic(),
                    wait_for_ready=True):
                for receipt in message.receipts:
                    if receipt.sequence <= last_sequence:
                        continue
                    last_sequence = receipt.sequence
                    print_receipt(receipt)
                    if args.session and receipt.eviction.session_id == args.session:
                        return True
                if position is None:
                    position = messages.Bookmark().position
                advance(position, message)
        except grpc.RpcError as error:
            if error.code() not in (grpc.StatusCode.UNAVAILABLE,
                                    grpc.StatusCode.DEADLINE_EXCEEDED):
                raise
            print(f"{error.code().name}: {error.details()}", file=sys.stderr)
        time.sleep(0.2)
    return False


def main():
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog="Exits 0 when the receipt waited for has arrived, 1 when the "
               "server refuses, 2 when the time is over.")
    parser.add_argument("--server", default="127.0.0.1:7440", metavar="HOST:PORT")
    parser.add_argument("--from", dest="start", default="earliest",
                        choices=("earliest", "latest"))
    parser.add_argument("--until-evicted", dest="session", metavar="SESSION",
                        help="stop at the receipt of this session's eviction")
    parser.add_argument("--timeout", type=float, default=365 * 86400.0,
                        metavar="SECONDS")
    parser.add_argument("--proto", type=pathlib.Path, default=PROTO, metavar="DIR")
    args = parser.parse_args()
    messages, services = load_stubs(args.proto)
    with grpc.insecure_channel(args.server) as channel:
        stub = services.KvPoolServiceStub(channel)
        try:
            return 0 if follow(messages, stub, args) else 2
        except grpc.RpcError as error:
            print(f"{error.code().name}: {error.details()}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            return 0


if __name__ == "__main__":
    sys.exit(main())
