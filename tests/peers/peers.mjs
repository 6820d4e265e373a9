// Official clients in JavaScript against an edge: EDGE, TOKEN and DESCRIPTORS (a FileDescriptorSet) say which.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { createFileRegistry, create, equals, fromBinary, toBinary } from "@bufbuild/protobuf";
import { FileDescriptorSetSchema } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { compressionGzip, createConnectTransport, createGrpcTransport, createGrpcWebTransport } from "@connectrpc/connect-node";
import * as web from "@connectrpc/connect-web";
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";

const require = createRequire(import.meta.url);
const { EDGE, TOKEN, DESCRIPTORS } = process.env;
const set = readFileSync(DESCRIPTORS);
const registry = createFileRegistry(fromBinary(FileDescriptorSetSchema, set));
const runs = registry.getService("tenon.workflow.v1.RunService");
const Run = registry.getMessage("tenon.workflow.v1.Run");
const bearer = { authorization: `Bearer ${TOKEN}` };
// More than any threshold of compression, and easily compressed.
const long = "echo ".repeat(4_000);
let key = 0;
const fresh = () => `peers-${process.pid}-${++key}`;
const done = [];

async function peer(name, check) {
  try {
    await check();
    done.push(name);
    console.log(`ok    ${name}`);
  } catch (error) {
    console.log(`WRONG ${name}: ${error.stack ?? error}`);
    process.exitCode = 1;
  }
}

const fails = async (call, code, what) => {
  const error = await call.then(() => assert.fail(`${what}: it must be refused`), (error) => error);
  assert.ok(error instanceof ConnectError, `${what}: ${error.stack ?? error}`);
  assert.equal(Code[error.code], Code[code], `${what}: ${error.message}`);
  return error;
};
const drained = async (stream) => {
  const all = [];
  for await (const message of stream) all.push(message);
  return all;
};
const detail = (error, type) => {
  const found = error.details.find((detail) => detail.type === type);
  assert.ok(found, `${type} is missing among ${error.details.map((detail) => detail.type)}`);
  return Buffer.from(found.value).toString("latin1");
};

/** Everything that a client of Connect's packages can do, over one transport. */
async function connect(transport) {
  const client = createClient(runs, transport);
  const idempotencyKey = fresh();
  const seen = [];
  const options = () => ({ headers: { ...bearer, "idempotency-key": idempotencyKey }, onHeader: (headers) => seen.push(headers) });
  const request = { workflow: "peers", input: { kind: { case: "stringValue", value: long } } };
  const run = await client.createRun(request, options());
  assert.equal(run.input.kind.value, long);
  assert.match(seen[0].get("x-request-id"), /^[0-9a-f]{32}$/);
  const again = await client.createRun(request, options());
  assert.ok(equals(Run, run, again), "the same answer under the same key");
  assert.equal(seen[1].get("idempotency-replayed"), "true");

  const watched = await drained(client.watchRun({ name: run.name }, { headers: bearer }));
  assert.ok(watched.length > 0, "a stream of messages");
  const got = await client.getRun({ name: run.name }, { headers: bearer });
  assert.equal(got.state, 2, "SUCCEEDED");
  assert.equal(got.output.kind.value, long);

  const unknown = await fails(client.createRun({ workflow: "nope" }, { headers: bearer }), Code.NotFound, "unknown workflow");
  assert.match(detail(unknown, "google.rpc.ErrorInfo"), /WORKFLOW_NOT_FOUND.*tenon\.dev/s);
  const invalid = await fails(client.createRun({ workflow: "peers", entityId: long }, { headers: bearer }), Code.InvalidArgument, "a long id");
  assert.match(detail(invalid, "google.rpc.BadRequest"), /entity_id/);
  await fails(client.getRun({ name: run.name }), Code.Unauthenticated, "no token");
  await fails(drained(client.watchRun({ name: run.name })), Code.Unauthenticated, "a stream without a token");

  const waits = await client.createRun({ workflow: "peers-wait" }, { headers: bearer });
  const late = drained(client.watchRun({ name: waits.name }, { headers: bearer, timeoutMs: 700 }));
  await fails(late, Code.DeadlineExceeded, "a deadline");
  const going = new AbortController();
  const cut = (async () => {
    for await (const _ of client.watchRun({ name: waits.name }, { headers: bearer, signal: going.signal })) going.abort();
  })();
  await fails(cut, Code.Canceled, "who goes away");
  await client.terminateRun({ name: waits.name }, { headers: bearer });
}

const gzip = { sendCompression: compressionGzip, acceptCompression: [compressionGzip], compressMinBytes: 0 };
const plain = { sendCompression: null, acceptCompression: [] };
for (const [how, squeezed] of [["plain", plain], ["gzip", gzip]]) {
  for (const httpVersion of ["1.1", "2"]) {
    for (const useBinaryFormat of [true, false]) {
      const format = useBinaryFormat ? "proto" : "json";
      for (const useHttpGet of [true, false]) {
        await peer(`connect-node ${format} http/${httpVersion} ${useHttpGet ? "GET" : "POST"} ${how}`, () =>
          connect(createConnectTransport({ baseUrl: EDGE, httpVersion, useBinaryFormat, useHttpGet, ...squeezed })));
      }
    }
    await peer(`connect-node gRPC-Web http/${httpVersion} ${how}`, () =>
      connect(createGrpcWebTransport({ baseUrl: EDGE, httpVersion, ...squeezed })));
  }
  await peer(`connect-node gRPC ${how}`, () => connect(createGrpcTransport({ baseUrl: EDGE, ...squeezed })));
}
// gRPC with messages in JSON is served to nobody, and says so in its own words.
await peer("connect-node gRPC and gRPC-Web in JSON", async () => {
  for (const make of [createGrpcTransport, createGrpcWebTransport]) {
    const client = createClient(runs, make({ baseUrl: EDGE, httpVersion: "2", useBinaryFormat: false }));
    await fails(client.listRuns({}, { headers: bearer }), Code.Unimplemented, "JSON in gRPC");
  }
});
// What browsers run, over fetch.
await peer("connect-web Connect GET", () => connect(web.createConnectTransport({ baseUrl: EDGE, useHttpGet: true })));
await peer("connect-web Connect proto", () => connect(web.createConnectTransport({ baseUrl: EDGE, useBinaryFormat: true })));
await peer("connect-web gRPC-Web", () => connect(web.createGrpcWebTransport({ baseUrl: EDGE })));

/** A call of grpc-js: its message, headers and status, or its error. */
const unary = (client, method, request, metadata, options = {}) =>
  new Promise((resolve, reject) => {
    let headers;
    const call = client[method](request, metadata, options, (error, message) =>
      error ? reject(error) : resolve({ message, headers }));
    call.on("metadata", (received) => (headers = received));
  });

async function native(channel) {
  const packages = grpc.loadPackageDefinition(loader.loadFileDescriptorSetFromBuffer(set, { enums: String, keepCase: true, oneofs: true }));
  const client = new packages.tenon.workflow.v1.RunService(new URL(EDGE).host, grpc.credentials.createInsecure(), channel);
  const metadata = () => {
    const metadata = new grpc.Metadata();
    metadata.set("authorization", bearer.authorization);
    return metadata;
  };
  const keyed = metadata();
  keyed.set("idempotency-key", fresh());
  const request = { workflow: "peers", input: { string_value: long } };
  const first = await unary(client, "CreateRun", request, keyed);
  assert.match(first.headers.get("x-request-id")[0], /^[0-9a-f]{32}$/);
  const again = await unary(client, "CreateRun", request, keyed);
  assert.deepEqual(again.message, first.message);
  assert.deepEqual(again.headers.get("idempotency-replayed"), ["true"]);
  const { name } = first.message;
  const stream = client.WatchRun({ name }, metadata());
  assert.ok((await drained(stream)).length > 0);
  const got = await unary(client, "GetRun", { name }, metadata());
  assert.equal(got.message.state, "SUCCEEDED");
  assert.equal(got.message.output.string_value, long);
  const fails = async (call, code, details) => {
    const error = await call.then(() => assert.fail("it must be refused"), (error) => error);
    assert.equal(grpc.status[error.code], code, error.stack);
    if (details) assert.match(error.metadata.get("grpc-status-details-bin")[0].toString("latin1"), details);
  };
  await fails(unary(client, "CreateRun", { workflow: "nope" }, metadata()), "NOT_FOUND", /WORKFLOW_NOT_FOUND/);
  await fails(unary(client, "CreateRun", { workflow: "peers", entity_id: long }, metadata()), "INVALID_ARGUMENT", /BadRequest/);
  await fails(unary(client, "GetRun", { name }, new grpc.Metadata()), "UNAUTHENTICATED", /ErrorInfo/);
  const waits = (await unary(client, "CreateRun", { workflow: "peers-wait" }, metadata())).message;
  await fails(drained(client.WatchRun({ name: waits.name }, metadata(), { deadline: Date.now() + 700 })), "DEADLINE_EXCEEDED");
  const going = client.WatchRun({ name: waits.name }, metadata());
  going.once("data", () => going.cancel());
  await fails(drained(going), "CANCELLED");
  await unary(client, "TerminateRun", { name: waits.name }, metadata());
  client.close();
}
await peer("grpc-js", () => native({}));
await peer("grpc-js gzip, keep-alive pings", () => native({
  "grpc.default_compression_algorithm": 2, "grpc.keepalive_time_ms": 200, "grpc.keepalive_permit_without_calls": 1,
}));

/** grpc-web's own client, made for browsers. */
async function browser(format) {
  globalThis.XMLHttpRequest = require("xhr2");
  const { GrpcWebClientBase, MethodDescriptor, MethodType, StatusCode } = require("grpc-web");
  const client = new GrpcWebClientBase({ format });
  const described = (method, type) => {
    const { input, output } = runs.method[method];
    const path = `/${runs.typeName}/${runs.method[method].name}`;
    const write = (message) => toBinary(input, create(input, message));
    return [path, new MethodDescriptor(path, type, Object, Object, write, (bytes) => fromBinary(output, bytes))];
  };
  const unary = (method, request, metadata = bearer) => {
    const [path, described_] = described(method, MethodType.UNARY);
    return new Promise((resolve, reject) =>
      client.rpcCall(EDGE + path, request, { ...metadata }, described_, (error, message) => (error ? reject(error) : resolve(message))));
  };
  const run = await unary("createRun", { workflow: "peers", input: { kind: { case: "stringValue", value: long } } });
  assert.equal(run.input.kind.value, long);
  const [path, watch] = described("watchRun", MethodType.SERVER_STREAMING);
  const watched = await new Promise((resolve, reject) => {
    const all = [];
    const stream = client.serverStreaming(EDGE + path, { name: run.name }, bearer, watch);
    stream.on("data", (message) => all.push(message));
    stream.on("error", reject);
    stream.on("end", () => resolve(all));
  });
  assert.ok(watched.length > 0);
  const fails = async (call, code) => {
    const error = await call.then(() => assert.fail("it must be refused"), (error) => error);
    assert.equal(error.code, code, `${error.stack}`);
    return error;
  };
  const unknown = await fails(unary("createRun", { workflow: "nope" }), StatusCode.NOT_FOUND);
  const details = Buffer.from(unknown.metadata["grpc-status-details-bin"], "base64").toString("latin1");
  assert.match(details, /WORKFLOW_NOT_FOUND/);
  await fails(unary("getRun", { name: run.name }, {}), StatusCode.UNAUTHENTICATED);
  const waits = await unary("createRun", { workflow: "peers-wait" });
  const late = new Promise((resolve, reject) => {
    const headers = { ...bearer, deadline: String(Date.now() + 700) };
    const stream = client.serverStreaming(EDGE + path, { name: waits.name }, headers, watch);
    stream.on("data", () => {});
    stream.on("error", reject);
    stream.on("end", resolve);
  });
  await fails(late, StatusCode.DEADLINE_EXCEEDED);
  await unary("terminateRun", { name: waits.name });
}
await peer("grpc-web binary", () => browser("binary"));
await peer("grpc-web text", () => browser("text"));

console.log(`${done.length} clients in JavaScript agree`);
process.exit();
