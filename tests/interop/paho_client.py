"""Scenes played by paho-mqtt against a FluxMQ broker: paho_client.py HOST PORT SCENE.

Ends with 0 when everything was as MQTT says, else with an exception. Every wait is bounded.
"""

import sys
import threading
import time

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

HOST, PORT, SCENE = sys.argv[1], int(sys.argv[2]), sys.argv[3]
PATIENCE_S = 60
VERSIONS = {"31": mqtt.MQTTv31, "311": mqtt.MQTTv311, "5": mqtt.MQTTv5}


class Peer:
    """One client whose network loop runs in a thread of its own."""

    def __init__(self, name, version, clean=True, will=None):
        arguments = {} if version == mqtt.MQTTv5 else {"clean_session": clean}
        self.client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2, name, protocol=version, **arguments
        )
        self.news = threading.Condition()
        self.messages = []
        self.granted = []
        self.finished = set()
        self.reasons = {}
        self.connect_count = 0
        self.reasons_of_disconnect = []
        self.client.on_connect = self._on_connect
        self.client.on_disconnect = self._on_disconnect
        self.client.on_message = self._on_message
        self.client.on_subscribe = self._on_subscribe
        self.client.on_publish = self._on_publish
        self.client.reconnect_delay_set(min_delay=1, max_delay=1)
        if will is not None:
            self.client.will_set(*will)
        connect = {}
        if version == mqtt.MQTTv5:
            connect["clean_start"] = clean
            if not clean:
                connect["properties"] = Properties(PacketTypes.CONNECT)
                connect["properties"].SessionExpiryInterval = 3600
        self.client.connect(HOST, PORT, keepalive=30, **connect)
        self.client.loop_start()
        self.wait(lambda: self.connect_count > 0, "is connected")

    def wait(self, condition, what):
        with self.news:
            if not self.news.wait_for(condition, PATIENCE_S):
                raise AssertionError(f"waited in vain until {what}: {self.summary()}")

    def summary(self):
        return f"{len(self.messages)} messages, {len(self.finished)} finished, {self.connect_count} connections"

    def subscribe(self, topic, qos, properties=None):
        result, mid = self.client.subscribe(topic, qos, properties=properties)
        assert result == mqtt.MQTT_ERR_SUCCESS, result
        self.wait(lambda: any(it[0] == mid for it in self.granted), "is subscribed")
        codes = next(it[1] for it in self.granted if it[0] == mid)
        assert codes == [qos], (topic, codes)

    def publish(self, topic, payload, qos, **options):
        return self.client.publish(topic, payload, qos, **options)

    def leave(self):
        self.client.disconnect()
        self.client.loop_stop()

    def _told(self, change):
        with self.news:
            change()
            self.news.notify_all()

    def _on_connect(self, client, data, flags, reason, properties):
        assert not reason.is_failure, reason
        self._told(lambda: setattr(self, "connect_count", self.connect_count + 1))

    def _on_disconnect(self, client, data, flags, reason, properties):
        self._told(lambda: self.reasons_of_disconnect.append(reason))

    def _on_message(self, client, data, message):
        self._told(lambda: self.messages.append(message))

    def _on_subscribe(self, client, data, mid, reasons, properties):
        self._told(lambda: self.granted.append((mid, [it.value for it in reasons])))

    def _on_publish(self, client, data, mid, reason, properties):
        self._told(lambda: (self.finished.add(mid), self.reasons.update({mid: reason.value})))


def round_trips():
    for name, version in VERSIONS.items():
        for qos in (0, 1, 2):
            topic = f"paho/{name}/{qos}"
            listener = Peer(f"hears-{name}-{qos}", version)
            speaker = Peer(f"speaks-{name}-{qos}", version)
            listener.subscribe(f"{topic}/#", qos)
            for number in range(100):
                speaker.publish(f"{topic}/x", str(number), qos)
            listener.wait(lambda: len(listener.messages) == 100, "everything came")
            assert [int(it.payload) for it in listener.messages] == list(range(100))
            assert all(it.qos == qos and not it.retain for it in listener.messages)
            speaker.wait(lambda: len(speaker.finished) == 100, "everything is confirmed")
            listener.leave()
            speaker.leave()


def properties():
    speaker, listener = Peer("speaks", mqtt.MQTTv5), Peer("hears", mqtt.MQTTv5)
    options = Properties(PacketTypes.SUBSCRIBE)
    options.SubscriptionIdentifier = 77
    listener.subscribe("paho/properties", 1, options)
    sent = Properties(PacketTypes.PUBLISH)
    sent.UserProperty = [("b", "1"), ("a", "2"), ("b", "3")]
    sent.ContentType = "text/plain"
    sent.ResponseTopic = "paho/answers"
    sent.CorrelationData = b"\x00\x01"
    sent.MessageExpiryInterval = 600
    sent.PayloadFormatIndicator = 1
    speaker.publish("paho/properties", "x", 1, properties=sent)
    listener.wait(lambda: listener.messages, "it came")
    got = listener.messages[0].properties
    assert got.UserProperty == [("b", "1"), ("a", "2"), ("b", "3")], got
    assert got.ContentType == "text/plain" and got.ResponseTopic == "paho/answers", got
    assert got.CorrelationData == b"\x00\x01" and got.PayloadFormatIndicator == 1, got
    assert 590 <= got.MessageExpiryInterval <= 600, got
    assert got.SubscriptionIdentifier == [77], got
    speaker.leave()
    listener.leave()


def will():
    for name, version in VERSIONS.items():
        listener = Peer(f"hears-{name}", version)
        listener.subscribe(f"paho/will/{name}", 2)
        dying = Peer(f"dies-{name}", version, will=(f"paho/will/{name}", "dead", 2, False))
        dying.client.reconnect_delay_set(min_delay=PATIENCE_S, max_delay=PATIENCE_S)
        dying.client.socket().shutdown(2)
        listener.wait(lambda: listener.messages, "the will came")
        assert [it.payload for it in listener.messages] == [b"dead"]
        listener.leave()


def goodbye():
    """A client that takes the name of another ends its connection."""
    first = Peer("same-name", mqtt.MQTTv5)
    first.client.reconnect_delay_set(min_delay=PATIENCE_S, max_delay=PATIENCE_S)
    second = Peer("same-name", mqtt.MQTTv5)
    first.wait(lambda: first.reasons_of_disconnect, "the first one is disconnected")
    assert first.reasons_of_disconnect[0].value == 0x8E, first.reasons_of_disconnect
    second.leave()


QUEUE_COUNT = 500


def queue_publish():
    speaker = Peer("speaks", mqtt.MQTTv5)
    for number in range(QUEUE_COUNT):
        speaker.publish("$queue/paho/x", str(number), 1)
    speaker.wait(lambda: len(speaker.finished) == QUEUE_COUNT, "everything is confirmed")
    speaker.leave()


def queue_consume():
    consumer = Peer("consumer", mqtt.MQTTv5)
    options = Properties(PacketTypes.SUBSCRIBE)
    options.UserProperty = ("cursor", "earliest")
    consumer.subscribe("$queue/paho/#", 1, options)
    consumer.wait(lambda: len(consumer.messages) == QUEUE_COUNT, "everything came")
    assert [int(it.payload) for it in consumer.messages] == list(range(QUEUE_COUNT))
    for number, message in enumerate(consumer.messages):
        named = dict(message.properties.UserProperty)
        assert named["message-id"] == f"paho:{number}", named
        assert named["offset"] == str(number) and named["group-id"] == "consumer", named
    consumer.leave()


WORK_COUNT, WORK_DONE = 40, 25


def worker(name):
    peer = Peer(name, mqtt.MQTTv5)
    options = Properties(PacketTypes.SUBSCRIBE)
    options.UserProperty = [("consumer-group", "workers"), ("settle", "explicit")]
    peer.subscribe("$queue/work/#", 1, options)
    return peer


def settle(peer, message_id):
    """Says that an entry is done and returns the reason code of PUBACK."""
    options = Properties(PacketTypes.PUBLISH)
    options.UserProperty = [("message-id", message_id), ("group-id", "workers")]
    mid = peer.publish("$queue/work/$ack", b"", 1, properties=options).mid
    peer.wait(lambda: mid in peer.finished, "it is settled")
    return peer.reasons[mid]


def entries(peer):
    return [dict(it.properties.UserProperty)["message-id"] for it in peer.messages]


def work():
    """Two workers share a queue, and finish most of it by $ack; the broker is killed next."""
    workers = [worker("one"), worker("two")]
    speaker = Peer("speaks", mqtt.MQTTv5)
    for number in range(WORK_COUNT):
        speaker.publish("$queue/work/x", str(number), 1)
    deadline = time.monotonic() + PATIENCE_S
    while sum(len(it.messages) for it in workers) < WORK_COUNT:
        assert time.monotonic() < deadline, [it.summary() for it in workers]
        time.sleep(0.01)
    assert all(it.messages for it in workers), "each has some"
    shared = sorted(entries(workers[0]) + entries(workers[1]))
    assert shared == sorted(f"work:{number}" for number in range(WORK_COUNT)), shared
    for number in range(WORK_DONE):
        assert settle(workers[number % 2], f"work:{number}") == 0, number
    assert settle(workers[0], "work:0") == 0x10, "it was pending once"


def rest_of_work():
    """What was settled before the kill does not come again, what was not does."""
    peer = worker("three")
    left = [f"work:{number}" for number in range(WORK_DONE, WORK_COUNT)]
    peer.wait(lambda: len(peer.messages) >= len(left), "the rest came")
    assert entries(peer) == left, entries(peer)
    for message_id in left:
        assert settle(peer, message_id) == 0, message_id
    assert entries(peer) == left, "nothing else came"
    peer.leave()


EXACTLY_ONCE_BATCH, EXACTLY_ONCE_BATCHES = 40, 20


def exactly_once():
    listener = Peer("listener", mqtt.MQTTv311, clean=False)
    listener.subscribe("paho/once/#", 2)
    speaker = Peer("speaker", mqtt.MQTTv311, clean=False)
    number = 0
    for batch in range(EXACTLY_ONCE_BATCHES):
        for _ in range(EXACTLY_ONCE_BATCH):
            speaker.publish(f"paho/once/{number % 4}", str(number), 2)
            number += 1
        speaker.wait(lambda: len(speaker.finished) >= number - EXACTLY_ONCE_BATCH, "it is confirmed")
        print("published", flush=True)
    speaker.wait(lambda: len(speaker.finished) == number, "everything is confirmed")
    listener.wait(lambda: len(listener.messages) >= number, "everything came")
    speaker.publish("paho/once/last", str(number), 2)
    listener.wait(lambda: any(it.topic == "paho/once/last" for it in listener.messages), "the last came")
    heard = [int(it.payload) for it in listener.messages]
    assert sorted(heard) == list(range(number + 1)), [it for it in heard if heard.count(it) > 1][:10]
    for topic in range(4):
        mine = [it for it in heard if it % 4 == topic and it < number]
        assert mine == sorted(mine), f"topic {topic} is out of order"
    print("exactly once", flush=True)


SCENES = {
    "round-trips": round_trips,
    "properties": properties,
    "will": will,
    "goodbye": goodbye,
    "queue-publish": queue_publish,
    "queue-consume": queue_consume,
    "work": work,
    "rest-of-work": rest_of_work,
    "exactly-once": exactly_once,
}

started = time.monotonic()
SCENES[SCENE]()
print(f"{SCENE}: {time.monotonic() - started:.1f} s", flush=True)
