"""Official clients in Python against an edge: EDGE, TOKEN and DESCRIPTORS (a FileDescriptorSet) say which."""

import os
import sys
import traceback

import grpc
from connectrpc.client import ConnectClientSync
from connectrpc.code import Code
from connectrpc.compat import google_protobuf_binary_codec, google_protobuf_json_codec
from connectrpc.errors import ConnectError
from connectrpc.method import IdempotencyLevel, MethodInfo, StreamType
from connectrpc.protocol import ProtocolType
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

EDGE, TOKEN = os.environ["EDGE"], os.environ["TOKEN"]
SERVICE = "tenon.workflow.v1.RunService"
LONG = "echo " * 4_000

files = descriptor_pb2.FileDescriptorSet()
with open(os.environ["DESCRIPTORS"], "rb") as descriptors:
    files.ParseFromString(descriptors.read())
pool = descriptor_pool.DescriptorPool()
for file in files.file:
    pool.Add(file)
service = pool.FindServiceByName(SERVICE)
done: list[str] = []


def types(method: str):
    described = service.methods_by_name[method]
    return message_factory.GetMessageClass(described.input_type), message_factory.GetMessageClass(described.output_type)


def create(**fields):
    return types("CreateRun")[0](**fields)


def peer(name: str, check) -> None:
    try:
        check()
        done.append(name)
        print(f"ok    {name}", flush=True)
    except BaseException:
        print(f"WRONG {name}: {traceback.format_exc()}", flush=True)


class Grpc:
    """Calls by grpcio."""

    def __init__(self, compression):
        self.channel = grpc.insecure_channel(EDGE.removeprefix("http://"), compression=compression)

    def metadata(self, token, headers):
        return [("authorization", f"Bearer {token}")] * bool(token) + list(headers.items())

    def unary(self, method, request, token=TOKEN, headers={}, timeout=None):
        kinds = types(method)
        call = self.channel.unary_unary(f"/{SERVICE}/{method}", kinds[0].SerializeToString, kinds[1].FromString)
        return call(request, metadata=self.metadata(token, headers), timeout=timeout)

    def stream(self, method, request, token=TOKEN, timeout=None):
        kinds = types(method)
        call = self.channel.unary_stream(f"/{SERVICE}/{method}", kinds[0].SerializeToString, kinds[1].FromString)
        return list(call(request, metadata=self.metadata(token, {}), timeout=timeout))

    def code(self, error):
        return error.code().name

    def details(self, error):
        return dict(error.trailing_metadata())["grpc-status-details-bin"]

    errors = grpc.RpcError


class Connect:
    """Calls by connectrpc, in one of its protocols."""

    def __init__(self, protocol, codec, use_get=False, **more):
        self.client = ConnectClientSync(EDGE, protocol=protocol, codec=codec, **more)
        self.use_get = use_get

    def info(self, method):
        described = service.methods_by_name[method]
        level = described.GetOptions().idempotency_level
        levels = [IdempotencyLevel.UNKNOWN, IdempotencyLevel.NO_SIDE_EFFECTS, IdempotencyLevel.IDEMPOTENT]
        kind = StreamType.SERVER_STREAM if described.server_streaming else StreamType.UNARY
        request, response = types(method)
        return MethodInfo(
            name=method, service_name=SERVICE, input=request, output=response, idempotency_level=levels[level], stream_type=kind
        )

    def headers(self, token, headers):
        return {**({"authorization": f"Bearer {token}"} if token else {}), **headers}

    def unary(self, method, request, token=TOKEN, headers={}, timeout=None):
        use_get = self.use_get and method == "GetRun"
        sent, info = self.headers(token, headers), self.info(method)
        wait = timeout and int(timeout * 1_000)
        return self.client.execute_unary(request=request, method=info, headers=sent, timeout_ms=wait, use_get=use_get)

    def stream(self, method, request, token=TOKEN, timeout=None):
        sent, info = self.headers(token, {}), self.info(method)
        wait = timeout and int(timeout * 1_000)
        return list(self.client.execute_server_stream(request=request, method=info, headers=sent, timeout_ms=wait))

    def code(self, error):
        return error.code.name

    def details(self, error):
        return b"".join(detail.type_name.encode() + detail.message_bytes for detail in error.details)

    errors = ConnectError


def refused(client, code: str, call, inside: bytes = b"") -> None:
    try:
        call()
    except client.errors as error:
        assert client.code(error) == code, error
        if inside:
            assert inside in client.details(error), client.details(error)
        return
    raise AssertionError(f"it must be refused with {code}")


def check(client) -> None:
    key = {"idempotency-key": f"python-{os.getpid()}-{len(done)}"}
    request = create(workflow="peers")
    request.input.string_value = LONG
    run = client.unary("CreateRun", request, headers=key)
    assert run.input.string_value == LONG
    assert client.unary("CreateRun", request, headers=key) == run, "the same answer under the same key"
    named = types("GetRun")[0](name=run.name)
    watch = types("WatchRun")[0]
    assert client.stream("WatchRun", watch(name=run.name))
    got = client.unary("GetRun", named)
    assert got.state == 2 and got.output.string_value == LONG, got.state
    refused(client, "NOT_FOUND", lambda: client.unary("CreateRun", create(workflow="nope")), b"WORKFLOW_NOT_FOUND")
    refused(client, "INVALID_ARGUMENT", lambda: client.unary("CreateRun", create(workflow="peers", entity_id=LONG)), b"google.rpc.BadRequest")
    refused(client, "UNAUTHENTICATED", lambda: client.unary("GetRun", named, token=None), b"google.rpc.ErrorInfo")
    waits = client.unary("CreateRun", create(workflow="peers-wait"))
    refused(client, "DEADLINE_EXCEEDED", lambda: client.stream("WatchRun", watch(name=waits.name), timeout=0.7))
    client.unary("TerminateRun", types("TerminateRun")[0](name=waits.name))


assert Code.NOT_FOUND.name == "NOT_FOUND"
expected = 0
for name, make in {
    "grpcio": lambda: Grpc(grpc.Compression.NoCompression),
    "grpcio gzip": lambda: Grpc(grpc.Compression.Gzip),
    "connectrpc Connect proto": lambda: Connect(ProtocolType.CONNECT, google_protobuf_binary_codec()),
    "connectrpc Connect json": lambda: Connect(ProtocolType.CONNECT, google_protobuf_json_codec()),
    "connectrpc Connect GET": lambda: Connect(ProtocolType.CONNECT, google_protobuf_binary_codec(), use_get=True),
    "connectrpc Connect plain": lambda: Connect(
        ProtocolType.CONNECT, google_protobuf_binary_codec(), send_compression=None, accept_compression=()
    ),
    "connectrpc gRPC-Web": lambda: Connect(ProtocolType.GRPC_WEB, google_protobuf_binary_codec()),
}.items():
    expected += 1
    peer(name, lambda: check(make()))

print(f"{len(done)} clients in Python agree")
sys.exit(len(done) != expected)
