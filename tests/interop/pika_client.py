"""Scenes played by pika, with paho-mqtt at the other end: pika_client.py HOST AMQP_PORT MQTT_PORT SCENE.

Ends with 0 when everything was as AMQP 0.9.1 and MQTT say, else with an exception. Every wait is bounded.
"""

import sys
import threading

import paho.mqtt.client as mqtt
import pika
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

HOST, AMQP_PORT, MQTT_PORT, SCENE = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
PATIENCE_S = 60
COUNT = 500
EXCHANGE = "amq.topic"


class Subscriber:
    """An MQTT client that keeps what it is sent."""

    def __init__(self, name, topic, stored=False):
        self.client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2, name, protocol=mqtt.MQTTv5
        )
        self.topic = topic
        self.news = threading.Condition()
        self.messages = []
        self.is_subscribed = False
        self.client.on_connect = lambda client, *_: client.subscribe(topic, 1)
        self.client.on_subscribe = self._on_subscribe
        self.client.on_message = self._on_message
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = 3600 if stored else 0
        self.client.connect(HOST, MQTT_PORT, clean_start=not stored, properties=properties)
        self.client.loop_start()
        self.wait(lambda: self.is_subscribed, "is subscribed")

    def _on_subscribe(self, *_):
        with self.news:
            self.is_subscribed = True
            self.news.notify_all()

    def _on_message(self, _client, _userdata, message):
        with self.news:
            self.messages.append(message)
            self.news.notify_all()

    def wait(self, condition, what):
        with self.news:
            if not self.news.wait_for(condition, PATIENCE_S):
                raise AssertionError(f"waited in vain until {what}: {len(self.messages)} messages")

    def wait_for(self, count):
        self.wait(lambda: len(self.messages) >= count, f"{count} messages came")
        return self.messages

    def leave(self):
        self.client.disconnect()
        self.client.loop_stop()


def connect(user="guest", password="guest", vhost="/"):
    return pika.BlockingConnection(
        pika.ConnectionParameters(
            HOST, AMQP_PORT, vhost, pika.PlainCredentials(user, password), heartbeat=4
        )
    )


def expect(error, what):
    try:
        what()
    except error as raised:
        return raised
    raise AssertionError(f"{error} was due")


def publish():
    """Everything a publisher does every day; an MQTT client has each message once, in order."""
    subscriber = Subscriber("everyday", "site/#")
    connection = connect()
    channel = connection.channel()
    channel.exchange_declare(EXCHANGE, passive=True)
    channel.exchange_declare(EXCHANGE, "topic", durable=True)
    channel.confirm_delivery()
    properties = pika.BasicProperties(
        content_type="text/plain",
        correlation_id="c-1",
        delivery_mode=2,
        headers={"text": "value", "number": 7, "flag": True, "nested": {"a": [1]}},
    )
    for number in range(COUNT):
        channel.basic_publish(EXCHANGE, f"site.{number % 7}.temp", str(number), properties, True)
    # A body of several frames, and one of none.
    large = bytes(range(256)) * 2000
    channel.basic_publish(EXCHANGE, "site.large", large)
    channel.basic_publish(EXCHANGE, "site.empty", b"")

    messages = subscriber.wait_for(COUNT + 2)
    assert [message.payload for message in messages[:COUNT]] == [
        str(number).encode() for number in range(COUNT)
    ]
    assert messages[3].topic == "site/3/temp", messages[3].topic
    assert messages[3].properties.ContentType == "text/plain"
    assert messages[3].properties.CorrelationData == b"c-1"
    assert messages[3].properties.UserProperty == [
        ("text", "value"),
        ("number", "7"),
        ("flag", "true"),
    ], messages[3].properties.UserProperty
    assert messages[COUNT].payload == large and messages[COUNT + 1].payload == b""

    # Without confirms, from a second channel.
    other = connection.channel()
    other.basic_publish(EXCHANGE, "site.unconfirmed", b"fire and forget")
    assert subscriber.wait_for(COUNT + 3)[-1].payload == b"fire and forget"
    # History has what nobody subscribes to: it is not returned.
    channel.basic_publish(EXCHANGE, "nobody.listens", b"kept", mandatory=True)
    # Long enough for heartbeats of both sides.
    connection.sleep(6)
    channel.basic_publish(EXCHANGE, "site.late", b"still here")
    assert subscriber.wait_for(COUNT + 4)[-1].payload == b"still here"
    connection.close()
    subscriber.leave()


def refusals():
    """What is refused is refused with its code, and harms nobody else."""
    bystander = connect()
    quiet = bystander.channel()
    connection = connect()
    channel, other = connection.channel(), connection.channel()
    error = expect(
        pika.exceptions.ChannelClosedByBroker,
        lambda: channel.exchange_declare("orders", passive=True),
    )
    assert error.reply_code == 404, error
    other.confirm_delivery()
    error = expect(
        pika.exceptions.ChannelClosedByBroker,
        lambda: other.basic_publish("orders", "key", b""),
    )
    assert error.reply_code == 404, error
    channel = connection.channel()
    error = expect(
        pika.exceptions.ConnectionClosedByBroker, lambda: channel.queue_declare("orders")
    )
    assert error.reply_code == 540, error
    expect(pika.exceptions.ProbableAuthenticationError, lambda: connect(password="wrong"))
    expect(pika.exceptions.AMQPConnectionError, lambda: connect(vhost="elsewhere"))
    quiet.confirm_delivery()
    quiet.basic_publish(EXCHANGE, "fine", b"")
    bystander.close()


def store():
    """Confirmed while the session is away."""
    Subscriber("away", "kept/#", stored=True).leave()
    connection = connect()
    channel = connection.channel()
    channel.confirm_delivery()
    for number in range(COUNT):
        channel.basic_publish(EXCHANGE, "kept.one", str(number))
    print("confirmed", flush=True)


def fetch():
    """What was confirmed is there after a kill."""
    subscriber = Subscriber("away", "kept/#", stored=True)
    messages = subscriber.wait_for(COUNT)
    assert [message.payload for message in messages] == [
        str(number).encode() for number in range(COUNT)
    ]
    subscriber.leave()


{"publish": publish, "refusals": refusals, "store": store, "fetch": fetch}[SCENE]()
