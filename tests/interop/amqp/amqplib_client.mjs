// Scenes played by amqplib: amqplib_client.mjs HOST PORT SCENE. FLUXMQ_NODE_MODULES is the folder that has the package.
//
// Ends with 0 when everything was as AMQP 0.9.1 says and RabbitMQ does. Every wait is bounded.
import assert from "node:assert/strict";
import { once } from "node:events";
import { createRequire } from "node:module";

const amqp = createRequire(`${process.env.FLUXMQ_NODE_MODULES}/`)("amqplib");
const [HOST, PORT, SCENE] = process.argv.slice(2);
const URL = `amqp://guest:guest@${HOST}:${PORT}`;
const PATIENCE_MS = 60_000;
const COUNT = 200;

/** What comes to a consumer, and to whoever waits for it. */
class Inbox {
  messages = [];
  #wake = () => {};
  take = (message) => {
    this.messages.push(message);
    this.#wake();
  };
  async next() {
    while (this.messages.length === 0) await new Promise((wake) => (this.#wake = wake));
    return this.messages.shift();
  }
}

/** Waits until a function returns something true. */
async function eventually(find) {
  for (;;) {
    const found = await find();
    if (found) return found;
    await new Promise((wake) => setTimeout(wake, 20));
  }
}

const text = (message) => message.content.toString();

/** Declared, bound, published with confirms, consumed with a prefetch, settled in every way, got, returned. */
async function everyday() {
  const connection = await amqp.connect(URL);
  const channel = await connection.createConfirmChannel();
  await channel.assertExchange("node.work", "direct", { durable: true });
  await channel.assertQueue("node.jobs", { durable: true });
  await channel.bindQueue("node.jobs", "node.work", "job");
  for (let number = 0; number < COUNT; number += 1) {
    channel.publish("node.work", "job", Buffer.from(String(number)), { persistent: true });
  }
  await channel.waitForConfirms();
  assert.equal((await channel.checkQueue("node.jobs")).messageCount, COUNT);

  const settled = [];
  const again = new Set();
  const held = [];
  let most = 0;
  await channel.prefetch(10);
  await new Promise((done, failed) => {
    const settle = (message) => {
      const number = Number(text(message));
      if (number % 3 === 0 && !again.has(number)) {
        again.add(number);
        channel.nack(message, false, true);
        return;
      }
      settled.push(number);
      if (number % 7 === 0) channel.reject(message, false);
      else channel.ack(message);
    };
    const onMessage = (message) => {
      try {
        assert.equal(message.fields.redelivered, again.has(Number(text(message))));
      } catch (error) {
        failed(error);
      }
      held.push(message);
      most = Math.max(most, held.length);
      if (held.length === 10 || settled.length + held.length === COUNT) held.splice(0).forEach(settle);
      if (settled.length === COUNT) done();
    };
    channel.consume("node.jobs", onMessage, { consumerTag: "worker" }).catch(failed);
  });
  await channel.cancel("worker");
  assert.deepEqual(settled.sort((a, b) => a - b), [...Array(COUNT).keys()]);
  assert.equal(most, 10);

  // Several at once; one by one; nothing.
  for (const body of ["a", "b", "c"]) channel.sendToQueue("node.jobs", Buffer.from(body));
  await channel.waitForConfirms();
  await channel.get("node.jobs");
  channel.ack(await channel.get("node.jobs"), true);
  const last = await channel.get("node.jobs", { noAck: true });
  assert.deepEqual([text(last), last.fields.messageCount, last.fields.exchange], ["c", 0, ""]);
  assert.equal(await channel.get("node.jobs"), false);

  const returned = once(channel, "return");
  channel.publish("node.work", "nobody", Buffer.from("back"), { mandatory: true });
  await channel.waitForConfirms();
  const [message] = await returned;
  assert.deepEqual([message.fields.replyCode, message.fields.replyText, text(message)], [312, "NO_ROUTE", "back"]);
  await channel.unbindQueue("node.jobs", "node.work", "job");
  assert.equal((await channel.purgeQueue("node.jobs")).messageCount, 0);
  await channel.deleteQueue("node.jobs");
  await channel.deleteExchange("node.work");
  await connection.close();
}

/** Headers of all types and every property come back as they were. */
async function properties() {
  const connection = await amqp.connect(URL);
  const channel = await connection.createChannel();
  const { queue } = await channel.assertQueue("", { exclusive: true });
  const sent = {
    headers: {
      text: "value",
      bytes: Buffer.from([0, 255]),
      yes: true,
      small: -7,
      large: 2 ** 40,
      double: 2.5,
      float: { "!": "float", value: 0.25 },
      decimal: { "!": "decimal", value: { digits: 314, places: 2 } },
      time: { "!": "timestamp", value: 1_700_000_000 },
      nothing: null,
      list: [1, "two", null, [true]],
      table: { a: { b: "c" } },
      "unsigned octet": { "!": "uint8", value: 200 },
      "unsigned short": { "!": "uint16", value: 60_000 },
      "unsigned long": { "!": "uint32", value: 4_000_000_000 },
    },
    contentType: "application/json",
    contentEncoding: "gzip",
    deliveryMode: 2,
    priority: 5,
    correlationId: "c-1",
    replyTo: "answers",
    expiration: "120000",
    messageId: "m-1",
    timestamp: 1_700_000_000,
    type: "kind",
    userId: "guest",
    appId: "app",
  };
  channel.sendToQueue(queue, Buffer.from("body"), sent);
  const received = await eventually(() => channel.get(queue, { noAck: true }));
  const numbers = { float: 0.25, "unsigned octet": 200, "unsigned short": 60_000, "unsigned long": 4_000_000_000 };
  const expected = { ...sent, headers: { ...sent.headers, ...numbers }, clusterId: undefined };
  assert.deepEqual(received.properties, expected);
  await connection.close();
}

/** What was rejected, and what lived too long, is a dead letter. */
async function death() {
  const connection = await amqp.connect(URL);
  const channel = await connection.createConfirmChannel();
  await channel.assertQueue("node.letters", { durable: true });
  const dead = { deadLetterExchange: "", deadLetterRoutingKey: "node.letters" };
  await channel.assertQueue("node.short", { durable: true, messageTtl: 100, ...dead });
  await channel.assertQueue("node.few", { durable: true, maxLength: 1, ...dead });
  channel.sendToQueue("node.short", Buffer.from("late"), { headers: { a: 1 } });
  const late = await eventually(() => channel.get("node.letters", { noAck: true }));
  const [died] = late.properties.headers["x-death"];
  assert.deepEqual([text(late), died.reason, died.queue, died.count], ["late", "expired", "node.short", 1]);
  assert.equal(late.properties.headers.a, 1);
  for (const body of ["old", "new"]) channel.sendToQueue("node.few", Buffer.from(body));
  const old = await eventually(() => channel.get("node.letters", { noAck: true }));
  assert.deepEqual([text(old), old.properties.headers["x-death"][0].reason], ["old", "maxlen"]);
  for (const queue of ["node.letters", "node.short", "node.few"]) await channel.deleteQueue(queue);
  await connection.close();
}

/** A channel that is refused something is closed, and the connection goes on; a consumer hears that its queue is gone. */
async function refusals() {
  const connection = await amqp.connect(URL);
  const channel = await connection.createChannel();
  const other = await connection.createChannel();
  const closed = once(other, "error");
  await assert.rejects(other.checkQueue("node.missing"), /404 \(NOT-FOUND\).*no queue 'node.missing'/);
  assert.equal((await closed)[0].code, 404);
  await channel.assertQueue("node.gone", { durable: true });
  const inbox = new Inbox();
  await channel.consume("node.gone", inbox.take);
  await (await connection.createChannel()).deleteQueue("node.gone");
  assert.equal(await inbox.next(), null);
  await assert.rejects(amqp.connect(`amqp://guest:wrong@${HOST}:${PORT}`), /ACCESS_REFUSED|403/);
  await connection.close();
}

/** A stream is read from wherever its reader says, as often as one likes. */
async function stream() {
  const connection = await amqp.connect(URL);
  const channel = await connection.createConfirmChannel();
  await channel.assertQueue("node.stream", { durable: true, arguments: { "x-queue-type": "stream" } });
  for (let number = 0; number < COUNT; number += 1) {
    channel.sendToQueue("node.stream", Buffer.from(String(number)));
  }
  await channel.waitForConfirms();
  await channel.prefetch(50);
  for (const [offset, first] of [["first", 0], [120, 120], ["first", 0]]) {
    const inbox = new Inbox();
    const consumer = await channel.consume("node.stream", inbox.take, { arguments: { "x-stream-offset": offset } });
    for (let expected = first; expected < COUNT; ) {
      const message = await inbox.next();
      channel.ack(message);
      if (Number(text(message)) < first) continue;
      assert.equal(Number(text(message)), expected);
      assert.equal(message.properties.headers["x-stream-offset"], expected);
      expected += 1;
    }
    await channel.cancel(consumer.consumerTag);
  }
  await channel.deleteQueue("node.stream");
  await connection.close();
}

/** Questions and answers: by a queue of the client's own, and by none. */
async function rpc() {
  const connection = await amqp.connect(URL);
  const service = await connection.createChannel();
  await service.assertQueue("node.rpc", { autoDelete: true });
  await service.consume("node.rpc", (question) => {
    const { replyTo, correlationId } = question.properties;
    service.sendToQueue(replyTo, Buffer.from(text(question).toUpperCase()), { correlationId });
    service.ack(question);
  });
  for (const none of [false, true]) {
    const client = await connection.createChannel();
    const replyTo = none ? "amq.rabbitmq.reply-to" : (await client.assertQueue("", { exclusive: true })).queue;
    const inbox = new Inbox();
    await client.consume(replyTo, inbox.take, { noAck: true });
    for (let number = 0; number < COUNT; number += 1) {
      client.sendToQueue("node.rpc", Buffer.from(`q${number}`), { replyTo, correlationId: String(number) });
    }
    for (let number = 0; number < COUNT; number += 1) {
      const answer = await inbox.next();
      assert.deepEqual([text(answer), answer.properties.correlationId], [`Q${number}`, String(number)]);
    }
    await client.close();
  }
  await connection.close();
}

/** A connection with recovery comes back when its broker does; its set-up consumes again. */
async function recover() {
  const inbox = new Inbox();
  let channel;
  const setup = async (connection) => {
    channel = await connection.createConfirmChannel();
    channel.on("error", () => {});
    await channel.assertQueue("node.durable", { durable: true });
    await channel.consume("node.durable", (message) => {
      if (message === null) return;
      channel.ack(message);
      inbox.take(text(message));
    });
  };
  const connection = await amqp.connect(URL, { recovery: { initialDelay: 50, maxDelay: 500, setup } });
  connection.on("error", () => {});
  channel.sendToQueue("node.durable", Buffer.from("before"), { persistent: true });
  assert.equal(await inbox.next(), "before");
  const before = channel;
  console.log("ready");
  await eventually(() => channel !== before);
  await eventually(async () => {
    try {
      channel.sendToQueue("node.durable", Buffer.from("after"), { persistent: true });
      await channel.waitForConfirms();
      return true;
    } catch {
      return false;
    }
  });
  // The acknowledgement of the first may not have arrived when the broker was killed.
  while ((await inbox.next()) !== "after");
  // A connection that closes does not send what its channels have yet to say.
  await channel.close();
  await connection.close();
}

const late = setTimeout(() => {
  console.error("waited in vain");
  process.exit(1);
}, PATIENCE_MS);
late.unref();
const scenes = { everyday, properties, death, refusals, stream, rpc, recover };
scenes[SCENE]().then(
  () => process.exit(0),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
