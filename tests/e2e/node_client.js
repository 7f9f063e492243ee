// Drives kvpoold as a Node program would that has no .proto file: it asks the
// server for its descriptors, builds a client from them, and generates, evicts,
// and follows the receipts.
//
//     node node_client.js ADDRESS v1|v1alpha
//
// Prints one JSON line of what it saw; exits 1 where something is amiss.
'use strict';
const assert = require('assert');
const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');
const protobuf = require('protobufjs');
const descriptor = require('protobufjs/ext/descriptor');

const LOAD = {longs: Number, enums: String, bytes: Buffer, oneofs: true,
    defaults: true, keepCase: true};
const CREDENTIALS = grpc.credentials.createInsecure();

// --- reflection, of which only these fields are needed -----------------------

const reflection = protobuf.parse(`
syntax = "proto3";
message Request {
  oneof message_request {
    string file_containing_symbol = 4;
    string list_services = 7;
  }
}
message Files { repeated bytes file_descriptor_proto = 1; }
message Service { string name = 1; }
message Services { repeated Service service = 1; }
message Failure { int32 error_code = 1; string error_message = 2; }
message Response {
  oneof message_response {
    Files file_descriptor_response = 4;
    Services list_services_response = 6;
    Failure error_response = 7;
  }
}`, {keepCase: true}).root;

function reflect(address, version, requests) {
  const kind = (name) => reflection.lookupType(name);
  const Client = grpc.makeGenericClientConstructor({info: {
    path: `/grpc.reflection.${version}.ServerReflection/ServerReflectionInfo`,
    requestStream: true, responseStream: true,
    requestSerialize: (m) =>
      Buffer.from(kind('Request').encode(m).finish()),
    requestDeserialize: (b) => kind('Request').decode(b),
    responseSerialize: (m) =>
      Buffer.from(kind('Response').encode(m).finish()),
    responseDeserialize: (b) => kind('Response').decode(b),
  }});
  const client = new Client(address, CREDENTIALS);
  return new Promise((resolve, reject) => {
    const answers = [];
    const call = client.info();
    call.on('data', (m) => answers.push(m));
    call.on('error', reject);
    call.on('end', () => { client.close(); resolve(answers); });
    requests.forEach((r) => call.write(r));
    call.end();
  });
}

async function contract(address, version) {
  const [listed] = await reflect(address, version, [{list_services: ''}]);
  const services = listed.list_services_response.service.map((s) => s.name);
  const answers = await reflect(address, version,
    services.filter((s) => s.startsWith('kvpool.'))
      .map((s) => ({file_containing_symbol: s})));
  const files = new Map();
  for (const answer of answers) {
    for (const bytes of answer.file_descriptor_response
      .file_descriptor_proto) {
      const file = descriptor.FileDescriptorProto.decode(bytes);
      files.set(file.name, file);
    }
  }
  const set = descriptor.FileDescriptorSet.encode(
    {file: [...files.values()]}).finish();
  const definition = loader.loadFileDescriptorSetFromBuffer(
    Buffer.from(set), LOAD);
  return {services, v1: grpc.loadPackageDefinition(definition).kvpool.v1};
}

// --- calls -------------------------------------------------------------------

const unary = (client, method, request) => new Promise((resolve, reject) =>
  client[method](request, {deadline: Date.now() + 60000},
    (error, answer) => error ? reject(error) : resolve(answer)));

const all = (call) => new Promise((resolve, reject) => {
  const messages = [];
  call.on('data', (m) => messages.push(m));
  call.on('error', reject);
  call.on('end', () => resolve(messages));
});

// Receipts from the beginning until `last` has come.
const receiptsThrough = (client, last) => new Promise((resolve, reject) => {
  const found = [];
  const call = client.StreamReceipts({earliest: {}},
    {deadline: Date.now() + 60000});
  call.on('data', (m) => {
    found.push(...m.receipts);
    if (found.length && found[found.length - 1].sequence >= last) {
      call.cancel();
      resolve(found.filter((r) => r.sequence <= last));
    }
  });
  call.on('error', (e) => e.code === grpc.status.CANCELLED || reject(e));
});

async function main(address, version) {
  const {services, v1} = await contract(address, version);
  const pool = new v1.KvPoolService(address, CREDENTIALS);
  const inference = new v1.InferenceService(address, CREDENTIALS);
  const session = `node-${version}`;

  const messages = await all(inference.Generate(
    {session_id: session, text: 'What is a dog?', max_tokens: 12}));
  assert(messages[0].started);
  const usage = messages[messages.length - 1].finished.usage;
  assert.strictEqual(usage.generated_tokens, 12);

  const evicted = await unary(pool, 'Evict',
    {targets: [{session: {session_id: session}}]});
  assert.strictEqual(evicted.outcomes[0].result, 'EVICT_RESULT_EVICTED');
  assert.strictEqual(evicted.issued, 'receipts');

  const last = evicted.receipts.last_sequence;
  const receipts = await receiptsThrough(pool, last);
  assert.deepStrictEqual(receipts.map((r) => r.sequence),
    receipts.map((_, i) => i + 1));
  const mine = receipts.filter((r) => r.sequence ===
    evicted.outcomes[0].sequence)[0];
  assert.strictEqual(mine.eviction.session_id, session);
  assert.strictEqual(mine.eviction.reason, 'EVICTION_REASON_MANUAL');
  assert.strictEqual(
    mine.eviction.before.used_memory_bytes -
      mine.eviction.after.used_memory_bytes,
    mine.eviction.block_size_bytes);

  const refused = await unary(pool, 'Evict', {}).catch((e) => e);
  assert.strictEqual(refused.code, grpc.status.INVALID_ARGUMENT);
  assert.strictEqual(
    refused.metadata.get('grpc-status-details-bin').length, 1);

  console.log(JSON.stringify({
    services, last,
    ids: messages.flatMap((m) => m.token_ids),
    text: messages.map((m) => m.text).join(''),
  }));
  pool.close();
  inference.close();
}

main(...process.argv.slice(2)).catch((error) => {
  console.error(error);
  process.exit(1);
});
