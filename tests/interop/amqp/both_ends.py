"""The two ends of a scene: pika at AMQP 0.9.1 and paho-mqtt at MQTT 5, for scripts that are run with HOST AMQP_PORT MQTT_PORT SCENE.

Every wait is bounded.
"""

import sys
import threading

import paho.mqtt.client as mqtt
import pika
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

HOST, AMQP_PORT, MQTT_PORT, SCENE = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
PATIENCE_S = 60


def connect(user="guest", password="guest", vhost="/", heartbeat=None):
    credentials = pika.PlainCredentials(user, password)
    return pika.BlockingConnection(
        pika.ConnectionParameters(HOST, AMQP_PORT, vhost, credentials, heartbeat=heartbeat)
    )


class Mqtt:
    """An MQTT client that keeps what it is sent."""

    def __init__(self, name, stored=False, manual_ack=False):
        version = mqtt.CallbackAPIVersion.VERSION2
        self.client = mqtt.Client(version, name, protocol=mqtt.MQTTv5, manual_ack=manual_ack)
        self.news = threading.Condition()
        self.messages, self.is_ready, self.is_subscribed = [], False, False
        self.client.on_connect = lambda *_: self._note("is_ready")
        self.client.on_subscribe = lambda *_: self._note("is_subscribed")
        self.client.on_message = self._on_message
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = 3600 if stored else 0
        self.client.connect(HOST, MQTT_PORT, clean_start=not stored, properties=properties)
        self.client.loop_start()
        self.wait(lambda: self.is_ready, "is connected")

    def subscribe(self, topic, **user):
        properties = Properties(PacketTypes.SUBSCRIBE)
        if user:
            properties.UserProperty = [(key.replace("_", "-"), value) for key, value in user.items()]
        self.client.subscribe(topic, options=SubscribeOptions(qos=1), properties=properties)
        self.wait(lambda: self.is_subscribed, "is subscribed")
        return self

    def publish(self, topic, payload, **fields):
        properties = Properties(PacketTypes.PUBLISH)
        for field, value in fields.items():
            setattr(properties, field, value)
        self.client.publish(topic, payload, 1, properties=properties).wait_for_publish(PATIENCE_S)

    def ack(self, message):
        self.client.ack(message.mid, message.qos)

    def _note(self, what):
        with self.news:
            setattr(self, what, True)
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
