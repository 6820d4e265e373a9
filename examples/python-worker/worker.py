"""A worker for Tenon: takes tasks of `activity:QUEUE` states by stream, works on them in threads, and answers each once."""

import os
import pathlib
import queue
import random
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

HERE = pathlib.Path(__file__).resolve().parent
PROTO = pathlib.Path(os.environ.get("TENON_PROTO", HERE.parents[1] / "proto"))
GENERATED = pathlib.Path(os.environ.get("TENON_GENERATED", HERE / "generated"))
FILES = ["tenon/workflow/v1/activities.proto", "tenon/options/v1/policy.proto"]


def generate():
    if not (GENERATED / "tenon/workflow/v1/activities_pb2_grpc.py").exists():
        GENERATED.mkdir(parents=True, exist_ok=True)
        out = [f"--python_out={GENERATED}", f"--grpc_python_out={GENERATED}"]
        subprocess.run([sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTO}", *out, *FILES], check=True)
    sys.path.insert(0, str(GENERATED))


generate()

import grpc  # noqa: E402
from google.protobuf import json_format, struct_pb2  # noqa: E402
from tenon.workflow.v1 import activities_pb2 as pb, activities_pb2_grpc as rpc  # noqa: E402


def work(task, value):
    """What a task does: its Arguments in, its result out. An exception fails it under the exception's name.

    A task whose worker dies is done again by another one: hand task.idempotency_key on to what it changes.
    """
    if "takesMs" in value:
        time.sleep(value["takesMs"] / 1000)
    return {"width": value["width"] / 2, "by": "python", "attempt": task.attempt}


class Worker:
    def __init__(self, address, queues, concurrency=8):
        self.address, self.queues, self.concurrency = address, queues, concurrency
        self.pool = ThreadPoolExecutor(concurrency)
        self.open = {}  # token -> [lease in seconds, when the next heartbeat is due, the answer or None]
        self.lock = threading.Lock()
        self.out = None  # of the stream that stands

    def say(self, **message):
        out = self.out
        if out is not None:
            out.put(pb.PollActivitiesRequest(**message))

    def token(self):
        path = os.environ.get("TENON_TOKEN_FILE")
        return pathlib.Path(path).read_text().strip() if path else os.environ["TENON_TOKEN"]

    def run(self):
        threading.Thread(target=self.heartbeats, daemon=True).start()
        pause = 0.1
        while True:
            started = time.monotonic()
            try:
                self.session()
            except grpc.RpcError as error:
                print(f"the stream ended: {error.code().name} {error.details()}", file=sys.stderr, flush=True)
                if error.code() in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.INVALID_ARGUMENT):
                    raise
            # One that stood is made again at once, one that did not later and later.
            pause = 0.1 if time.monotonic() - started > 5 else min(pause * 2, 30)
            time.sleep(pause * random.uniform(0.5, 1))

    def session(self):
        self.out = queue.SimpleQueue()
        self.say(subscribe={"queues": self.queues, "worker": f"python-{os.getpid()}"})
        with self.lock:
            # What was answered on a stream that broke is answered again: twice is harmless.
            for entry in self.open.values():
                if entry[2] is not None:
                    self.say(**entry[2])
            self.say(credits=max(1, self.concurrency - len(self.open)))
        keepalive = [("grpc.keepalive_time_ms", 20_000), ("grpc.keepalive_timeout_ms", 10_000)]
        with grpc.insecure_channel(self.address, options=keepalive) as channel:
            metadata = [("authorization", f"Bearer {self.token()}")]
            for told in rpc.ActivityServiceStub(channel).PollActivities(iter(self.out.get, None), metadata=metadata):
                if told.HasField("task"):
                    self.take(told.task)
                elif told.outcome.reason in ("", "ATTEMPT_OVER", "INVALID_FIELD"):
                    with self.lock:
                        known = self.open.pop(told.outcome.task_token, None)
                    if known:
                        self.say(credits=1)

    def take(self, task):
        with self.lock:
            self.open[task.task_token] = [task.lease_seconds, time.monotonic() + task.lease_seconds / 3, None]
        self.pool.submit(self.do, task)

    def do(self, task):
        try:
            output = json_format.ParseDict(work(task, json_format.MessageToDict(task.input)), struct_pb2.Value())
            answer = {"complete": pb.CompleteActivityRequest(task_token=task.task_token, output=output)}
        except Exception as error:
            failure = {"task_token": task.task_token, "error": type(error).__name__, "cause": str(error)[:8000]}
            answer = {"fail": pb.FailActivityRequest(**failure)}
        with self.lock:
            if task.task_token in self.open:
                self.open[task.task_token][2] = answer
                self.say(**answer)

    def heartbeats(self):
        while True:
            time.sleep(0.5)
            with self.lock:
                for token, entry in self.open.items():
                    if entry[2] is None and entry[1] <= time.monotonic():
                        entry[1] = time.monotonic() + entry[0] / 3
                        self.say(heartbeat=pb.HeartbeatActivityRequest(task_token=token))


if __name__ == "__main__":
    Worker(sys.argv[1], sys.argv[2:]).run()
