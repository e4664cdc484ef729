// What somebody does in the first hour with MQTT.js, in Node over TCP or WebSocket, and in a browser. Every wait is bounded.

const PATIENCE_MS = 20000;
let mqtt, url, count = 0;

function check(condition, what) {
  if (!condition) throw new Error(what);
}

function same(got, expected, what) {
  const [left, right] = [JSON.stringify(got), JSON.stringify(expected)];
  check(left === right, `${what}: ${left} instead of ${right}`);
}

// A client and everything that it has received.
class Peer {
  static async connect(version, options = {}) {
    const peer = new Peer();
    peer.messages = [];
    peer.version = version;
    const clientId = options.clientId ?? `js-${Math.random().toString(36).slice(2)}-${count++}`;
    const all = { protocolVersion: version, reconnectPeriod: 0, connectTimeout: PATIENCE_MS, ...options, clientId };
    peer.client = mqtt.connect(url, all);
    peer.client.on("message", (topic, payload, packet) => {
      peer.messages.push({ topic, text: payload.toString(), bytes: payload.length, packet });
    });
    const failed = new Promise((_, reject) => peer.client.once("error", reject));
    const connected = new Promise((resolve) => peer.client.once("connect", resolve));
    peer.connack = await peer.within(Promise.race([connected, failed]), "is connected");
    peer.client.on("error", () => {});
    return peer;
  }

  within(promise, what) {
    let timer;
    const late = new Promise((_, reject) => {
      timer = setTimeout(() => reject(new Error(`waited in vain until ${what}`)), PATIENCE_MS);
    });
    return Promise.race([promise, late]).finally(() => clearTimeout(timer));
  }

  async until(condition, what) {
    const end = Date.now() + PATIENCE_MS;
    while (!condition()) {
      check(Date.now() < end, `waited in vain until ${what}: ${this.messages.length} messages`);
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  }

  async subscribe(filter, options) {
    const granted = await this.within(this.client.subscribeAsync(filter, options), "is subscribed");
    same(granted[0].qos, options.qos, "granted");
  }

  publish(topic, payload, options = {}) {
    return this.within(this.client.publishAsync(topic, payload, options), "is published");
  }

  leave(force = false) {
    return this.within(this.client.endAsync(force), "is gone");
  }
}

async function everyQosBothWays(version) {
  const [speaker, listener] = [await Peer.connect(version), await Peer.connect(version)];
  for (const qos of [0, 1, 2]) {
    const topic = `js/${version}/${qos}`;
    listener.messages.length = 0;
    await listener.subscribe(`${topic}/#`, { qos });
    await Promise.all([...Array(50).keys()].map((n) => speaker.publish(`${topic}/x`, String(n), { qos })));
    await listener.until(() => listener.messages.length === 50, "everything came");
    same(listener.messages.map((it) => Number(it.text)), [...Array(50).keys()], "order");
    check(listener.messages.every((it) => it.packet.qos === qos), "their QoS");
  }
  await speaker.leave();
  await listener.leave();
}

async function retained(version) {
  const speaker = await Peer.connect(version);
  await speaker.publish(`js/kept/${version}`, "kept", { qos: 1, retain: true });
  const late = await Peer.connect(version);
  await late.subscribe(`js/kept/${version}`, { qos: 1 });
  await late.until(() => late.messages.length === 1, "it comes");
  check(late.messages[0].packet.retain && late.messages[0].text === "kept", "as it was");
  await speaker.publish(`js/kept/${version}`, "", { qos: 1, retain: true });
  await late.leave();
  const later = await Peer.connect(version);
  await later.subscribe(`js/kept/${version}`, { qos: 1 });
  await speaker.publish(`js/kept/${version}`, "live", { qos: 1 });
  await later.until(() => later.messages.length === 1, "the live one comes");
  same(later.messages[0].text, "live", "removed");
  await later.leave();
  await speaker.leave();
}

async function will(version) {
  const listener = await Peer.connect(version);
  await listener.subscribe(`js/will/${version}`, { qos: 2 });
  const options = { will: { topic: `js/will/${version}`, payload: "dead", qos: 2, retain: false } };
  const polite = await Peer.connect(version, options);
  await polite.leave();
  const mortal = await Peer.connect(version, options);
  mortal.client.stream.destroy();
  await listener.until(() => listener.messages.length > 0, "the will comes");
  same(listener.messages.map((it) => it.text), ["dead"], "one will");
  await listener.leave();
}

async function sessionAcrossReconnects(version) {
  const options = { clientId: `js-stays-${version}-${Date.now()}`, clean: false };
  if (version === 5) options.properties = { sessionExpiryInterval: 3600 };
  const first = await Peer.connect(version, options);
  same(first.connack.sessionPresent, false, "new");
  await first.subscribe(`js/away/${version}`, { qos: 1 });
  await first.leave();
  const speaker = await Peer.connect(version);
  for (let n = 0; n < 100; n++) await speaker.publish(`js/away/${version}`, String(n), { qos: 1 });
  const second = await Peer.connect(version, options);
  same(second.connack.sessionPresent, true, "kept");
  await second.until(() => second.messages.length === 100, "the backlog comes");
  same(second.messages.map((it) => Number(it.text)), [...Array(100).keys()], "order");
  await second.leave();
  await speaker.leave();
}

async function largePayload(version) {
  const [speaker, listener] = [await Peer.connect(version), await Peer.connect(version)];
  await listener.subscribe(`js/large/${version}`, { qos: 2 });
  const payload = "é".repeat(450 * 1024);
  await speaker.publish(`js/large/${version}`, payload, { qos: 2 });
  await listener.until(() => listener.messages.length === 1, "it comes");
  check(listener.messages[0].text === payload && listener.messages[0].bytes === 900 * 1024, "whole");
  await speaker.leave();
  await listener.leave();
}

async function unsubscribe(version) {
  const peer = await Peer.connect(version);
  await peer.subscribe(`js/un/${version}/a`, { qos: 1 });
  await peer.subscribe(`js/un/${version}/b`, { qos: 1 });
  await peer.within(peer.client.unsubscribeAsync(`js/un/${version}/a`), "is unsubscribed");
  await peer.publish(`js/un/${version}/a`, "a", { qos: 1 });
  await peer.publish(`js/un/${version}/b`, "b", { qos: 1 });
  await peer.until(() => peer.messages.length > 0, "the other comes");
  same(peer.messages.map((it) => it.text), ["b"], "nothing else");
  await peer.leave();
}

async function requestAndResponse() {
  const [asker, answerer] = [await Peer.connect(5), await Peer.connect(5)];
  await asker.subscribe("js/answers", { qos: 1 });
  await answerer.subscribe("js/questions", { qos: 1 });
  const question = {
    responseTopic: "js/answers",
    correlationData: new TextEncoder().encode("nr 7"),
    userProperties: { one: "1", more: ["2", "3"] },
    contentType: "text/plain",
    messageExpiryInterval: 600,
    payloadFormatIndicator: true,
  };
  question.correlationData = globalThis.Buffer ? Buffer.from("nr 7") : question.correlationData;
  await asker.publish("js/questions", "?", { qos: 1, properties: question });
  await answerer.until(() => answerer.messages.length === 1, "the question comes");
  const got = answerer.messages[0].packet.properties;
  same(got.contentType, "text/plain", "content type");
  same({ ...got.userProperties }, { one: "1", more: ["2", "3"] }, "user properties");
  check(got.payloadFormatIndicator && got.messageExpiryInterval > 590, "the rest");
  const { correlationData } = got;
  await answerer.publish(got.responseTopic, "!", { qos: 1, properties: { correlationData } });
  await asker.until(() => asker.messages.length === 1, "the answer comes");
  same(new TextDecoder().decode(asker.messages[0].packet.properties.correlationData), "nr 7", "correlation");
  await asker.leave();
  await answerer.leave();
}

async function sharedSubscription() {
  const members = [await Peer.connect(5), await Peer.connect(5)];
  for (const member of members) await member.subscribe("$share/js/js/work/#", { qos: 1 });
  const speaker = await Peer.connect(5);
  for (let n = 0; n < 100; n++) await speaker.publish(`js/work/${n % 5}`, String(n), { qos: 1 });
  const all = () => members.flatMap((member) => member.messages.map((it) => Number(it.text)));
  await speaker.until(() => all().length >= 100, "all is handed out");
  same(all().sort((a, b) => a - b), [...Array(100).keys()], "each once");
  check(members.every((member) => member.messages.length > 0), "both have a share");
  for (const peer of [...members, speaker]) await peer.leave();
}

async function identifiersAndReasons() {
  const peer = await Peer.connect(5);
  await peer.within(peer.client.subscribeAsync("js/id/#", { qos: 1, properties: { subscriptionIdentifier: 77 } }), "is subscribed");
  await peer.publish("js/id/x", "x", { qos: 1 });
  await peer.until(() => peer.messages.length === 1, "it comes");
  same([peer.messages[0].packet.properties.subscriptionIdentifier].flat(), [77], "identifier");
  const refused = await peer.client.publishAsync("$SYS/x", "x", { qos: 1 }).catch((error) => error);
  same(refused.code, 0x90, "reason code");
  await peer.leave();
}

export async function play(library, where, log) {
  [mqtt, url] = [library, where];
  for (const version of [4, 5]) {
    for (const scene of [everyQosBothWays, retained, will, sessionAcrossReconnects, largePayload, unsubscribe]) {
      await scene(version);
      log(`${scene.name} ${version}: good`);
    }
  }
  for (const scene of [requestAndResponse, sharedSubscription, identifiersAndReasons]) {
    await scene();
    log(`${scene.name}: good`);
  }
  log("all scenes: good");
}
