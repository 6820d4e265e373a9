"""Stock behind Tenon's edge: plain grpcio, nothing of Tenon's but the options in inventory.proto."""

import os
import pathlib
import subprocess
import sys
import threading
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor

HERE = pathlib.Path(__file__).resolve().parent
# In a repository of your own: what `tenon edge protos --out third_party` wrote.
PROTO = pathlib.Path(os.environ.get("TENON_PROTO", HERE.parents[1] / "proto"))
GENERATED = pathlib.Path(os.environ.get("TENON_GENERATED", HERE / "generated"))


def generate():
    if not (GENERATED / "inventory_pb2_grpc.py").exists():
        GENERATED.mkdir(parents=True, exist_ok=True)
        out = [f"--python_out={GENERATED}", f"--grpc_python_out={GENERATED}"]
        files = ["inventory.proto", "tenon/options/v1/policy.proto"]
        protoc = [sys.executable, "-m", "grpc_tools.protoc", f"-I{HERE}", f"-I{PROTO}", *out, *files]
        subprocess.run(protoc, check=True)
    sys.path.insert(0, str(GENERATED))


generate()

import grpc  # noqa: E402
import inventory_pb2 as pb  # noqa: E402
import inventory_pb2_grpc as rpc  # noqa: E402


class Stock(rpc.StockServiceServicer):
    """The stock of every tenant, in memory.

    The edge has checked the user's token and permission and sets x-tenant-id itself. That is believed here, so this port
    must be reachable by the edge alone; examples/crm shows how a service checks the token for itself.
    """

    def __init__(self):
        self.kept = defaultdict(int)  # (tenant, item) -> pieces
        self.lock = threading.Lock()

    @staticmethod
    def tenant(context):
        metadata = dict(context.invocation_metadata())
        print("tenant", metadata.get("x-tenant-id"), "traceparent", metadata.get("traceparent"), flush=True)
        if not metadata.get("x-tenant-id"):
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "the call names no tenant")
        return metadata["x-tenant-id"]

    def MoveStock(self, request, context):
        key = (self.tenant(context), request.name)
        with self.lock:
            if self.kept[key] + request.pieces < 0:
                context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"there are only {self.kept[key]} of {request.name}")
            self.kept[key] += request.pieces
            return pb.Stock(name=request.name, pieces=self.kept[key])

    def GetStock(self, request, context):
        key = (self.tenant(context), request.name)
        with self.lock:
            return pb.Stock(name=request.name, pieces=self.kept.get(key, 0))


def main():
    address = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:9202"
    server = grpc.server(ThreadPoolExecutor(8))
    rpc.add_StockServiceServicer_to_server(Stock(), server)
    if server.add_insecure_port(address) == 0:
        sys.exit(f"cannot listen on {address}")
    server.start()
    print(f"inventory listens on {address}", flush=True)
    server.wait_for_termination()


main()
