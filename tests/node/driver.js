// Drives the official Node client of the gRPC protocol by lines, with the verbs of tests/java/grpc/GrpcDriver.java.
'use strict';

const readline = require('node:readline');
const {
  ConsumeResult, FilterExpression, LitePushConsumerBuilder, Producer, PushConsumer, SimpleConsumer,
} = require('rocketmq-client-nodejs');
const { FilterType, TransactionResolution } = require('rocketmq-client-nodejs/proto/apache/rocketmq/v2/definition_pb');

const clients = new Map();
// What simple consumers hold, by message id.
const held = new Map();
const silent = { debug() {}, info() {}, warn() {}, error(...text) { console.error(...text); }, close() {} };

const line = text => process.stdout.write(`${text}\n`);

const query = row => new URLSearchParams(row).toString();

function rowOf(message) {
  if (message.corrupted) throw new Error(`the body of ${message.messageId} is not what its digest says`);
  const row = {
    topic: message.topic,
    id: message.messageId,
    attempt: message.deliveryAttempt,
    len: message.body.length,
    body: message.body.toString(),
    keys: [ ...message.keys ].sort().join(' '),
    at: Date.now(),
    tags: message.tag ?? '',
    group: message.messageGroup ?? '',
  };
  if (message.liteTopic) row.lite = message.liteTopic;
  if (message.deliveryTimestamp) row.delivery = message.deliveryTimestamp.getTime();
  if (message.priority !== undefined) row.priority = message.priority;
  for (const [ key, value ] of message.properties) row[`p.${key}`] = value;
  return row;
}

function options(args) {
  return { endpoints: args.endpoints, namespace: args.namespace ?? '', sslEnabled: args.tls === 'true', logger: silent };
}

function subscriptions(args) {
  const filter = args.sql === undefined
    ? new FilterExpression(args.expression ?? '*')
    : new FilterExpression(args.sql, FilterType.SQL);
  return new Map([[ args.topic, filter ]]);
}

function build(spec) {
  const given = Object.fromEntries(new URLSearchParams(spec));
  const message = { topic: given.topic, body: Buffer.from(given.body), properties: new Map() };
  for (const [ key, value ] of Object.entries(given)) {
    if (key === 'tags') message.tag = value;
    else if (key === 'keys') message.keys = value.split(' ');
    else if (key === 'group') message.messageGroup = value;
    else if (key === 'lite') message.liteTopic = value;
    else if (key === 'priority') message.priority = Number(value);
    else if (key === 'delay') message.deliveryTimestamp = new Date(Date.now() + Number(value));
    else if (key.startsWith('p.')) message.properties.set(key.slice(2), value);
  }
  return message;
}

async function open(verb, args) {
  const tell = message => line(`event ${args.name} ${query(rowOf(message))}`);
  let client;
  if (verb === 'producer') {
    const checker = {
      async check(message) {
        tell(message);
        return TransactionResolution.COMMIT;
      },
    };
    client = new Producer({ ...options(args), topic: args.topic, ...(args.check && { checker }) });
  } else {
    const consumer = { ...options(args), consumerGroup: args.group, subscriptions: subscriptions(args) };
    const messageListener = {
      async consume(message) {
        tell(message);
        return message.deliveryAttempt <= Number(args.fail ?? 0) ? ConsumeResult.FAILURE : ConsumeResult.SUCCESS;
      },
    };
    if (verb === 'lite') {
      // It is started when it is there.
      const lite = new LitePushConsumerBuilder().setClientConfiguration(options(args)).bindTopic(args.topic);
      clients.set(args.name, await lite.setConsumerGroup(args.group).setMessageListener(messageListener).build());
      return;
    }
    client = verb === 'simple'
      ? new SimpleConsumer({ ...consumer, awaitDuration: 5000 })
      : new PushConsumer({ ...consumer, messageListener });
  }
  clients.set(args.name, client);
  await client.startup();
}

const result = receipt => ({ id: receipt.messageId, recall: receipt.recallHandle ?? '' });

async function transact(producer, message, end) {
  const transaction = producer.beginTransaction();
  const receipt = await producer.send(message, transaction);
  if (end === 'commit') await transaction.commit();
  if (end === 'rollback') await transaction.rollback();
  return result(receipt);
}

async function run(verb, args, messages, answer) {
  if ([ 'producer', 'consumer', 'lite', 'simple' ].includes(verb)) return open(verb, args);
  const client = clients.get(args.name);
  if (verb === 'stop') {
    clients.delete(args.name);
    return client?.shutdown();
  }
  switch (verb) {
    case 'send':
      for (const message of messages) answer(result(await client.send(build(message))));
      break;
    case 'transact':
      for (const message of messages) answer(await transact(client, build(message), args.end));
      break;
    case 'recall':
      answer({ id: (await client.recallMessage(args.topic, args.handle)).messageId });
      break;
    case 'subscribe':
      await client.subscribeLite(args.lite);
      break;
    case 'unsubscribe':
      await client.unsubscribeLite(args.lite);
      break;
    case 'receive':
      for (const message of await client.receive(Number(args.max ?? 16), Number(args.invisible))) {
        held.set(message.messageId, message);
        answer(rowOf(message));
      }
      break;
    case 'ack':
      await client.ack(held.get(args.id));
      break;
    case 'invisible':
      await client.changeInvisibleDuration(held.get(args.id), Number(args.invisible));
      break;
    default:
      throw new Error(`unknown verb ${verb}`);
  }
}

async function serve(request) {
  const [ , number, verb, text ] = /^(\S+) (\S+) ?(.*)$/.exec(request);
  try {
    const given = new URLSearchParams(text);
    const messages = given.getAll('m');
    given.delete('m');
    await run(verb, Object.fromEntries(given), messages, row => line(`${number} row ${query(row)}`));
    line(`${number} done`);
  } catch (error) {
    line(`${number} fail ${query({ error: String(error), code: error.code ?? '' })}`);
  }
}

// A client that stops takes the listeners off its telemetry stream before that has ended. When the server dies just then, the
// stream's error is one that only the process can catch, and it must not end the clients of other cases.
for (const uncaught of [ 'uncaughtException', 'unhandledRejection' ]) {
  process.on(uncaught, error => console.error(`${uncaught} in a client:`, error));
}

const lines = readline.createInterface({ input: process.stdin, crlfDelay: Infinity });
lines.on('line', serve);
lines.on('close', () => process.exit(0));
line('ready');
