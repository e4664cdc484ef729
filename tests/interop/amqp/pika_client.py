"""Scenes played by pika, with paho-mqtt at the other end: pika_client.py HOST AMQP_PORT MQTT_PORT SCENE.

Ends with 0 when everything was as AMQP 0.9.1 and MQTT say, else with an exception. Every wait is bounded.
"""

from decimal import Decimal
from functools import partial

import both_ends
import pika
from both_ends import AMQP_PORT, HOST, PATIENCE_S, SCENE, Mqtt

COUNT = 500
EXCHANGE = "amq.topic"

# Short, so that heartbeats are due in a scene.
connect = partial(both_ends.connect, heartbeat=4)


def expect(error, what):
    try:
        what()
    except error as raised:
        return raised
    raise AssertionError(f"{error} was due")


def publish():
    """Everything a publisher does every day; an MQTT client has each message once, in order."""
    subscriber = Mqtt("everyday").subscribe("site/#")
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
        pika.exceptions.ConnectionClosedByBroker,
        lambda: channel.basic_recover(requeue=False),
    )
    assert error.reply_code == 540, error
    expect(pika.exceptions.ProbableAuthenticationError, lambda: connect(password="wrong"))
    expect(pika.exceptions.AMQPConnectionError, lambda: connect(vhost="elsewhere"))
    quiet.confirm_delivery()
    quiet.basic_publish(EXCHANGE, "fine", b"")
    bystander.close()


def work():
    """A work queue as its users know it: declared, filled, consumed, acknowledged, given back, dead-lettered, deleted."""
    connection = connect()
    channel = connection.channel()
    channel.confirm_delivery()
    channel.queue_declare("letters", durable=True)
    arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "letters"}
    declared = channel.queue_declare("jobs", durable=True, arguments=arguments)
    assert (declared.method.queue, declared.method.message_count) == ("jobs", 0)
    properties = pika.BasicProperties(
        content_type="application/json",
        message_id="m-1",
        headers={"nested": {"a": [1, None]}, "text": "value"},
    )
    for number in range(COUNT):
        channel.basic_publish("", "jobs", str(number), properties, mandatory=True)
    expect(
        pika.exceptions.UnroutableError,
        lambda: channel.basic_publish("", "nowhere", b"", mandatory=True),
    )
    assert channel.queue_declare("jobs", passive=True).method.message_count == COUNT

    # One by one.
    method, received, body = channel.basic_get("jobs")
    assert (method.message_count, body, received) == (COUNT - 1, b"0", properties), received
    channel.basic_nack(method.delivery_tag, requeue=True)
    method, received, body = channel.basic_get("jobs")
    assert method.redelivered and body == b"0", (method, body)
    assert received.headers["x-delivery-count"] == 1, received.headers
    channel.basic_ack(method.delivery_tag)

    # A consumer with a prefetch; every tenth is bad.
    channel.basic_qos(prefetch_count=20)
    worked = []
    for method, _, body in channel.consume("jobs", inactivity_timeout=PATIENCE_S):
        worked.append(int(body))
        if worked[-1] % 10 == 9:
            channel.basic_reject(method.delivery_tag, requeue=False)
        else:
            channel.basic_ack(method.delivery_tag)
        if len(worked) == COUNT - 1:
            break
    channel.cancel()
    assert worked == list(range(1, COUNT)), worked
    other = connection.channel()
    other.basic_qos(prefetch_count=100)
    bad = []
    for method, received, body in other.consume("letters", inactivity_timeout=PATIENCE_S):
        bad.append(int(body))
        death = received.headers["x-death"][0]
        assert (death["queue"], death["reason"], death["count"]) == ("jobs", "rejected", 1), death
        assert received.message_id == "m-1" and received.headers["text"] == "value"
        other.basic_ack(method.delivery_tag)
        if len(bad) == COUNT // 10:
            break
    other.cancel()
    assert bad == list(range(9, COUNT, 10)), bad
    assert channel.queue_purge("jobs").method.message_count == 0
    assert channel.queue_delete("letters").method.message_count == 0
    channel.queue_delete("jobs", if_unused=True, if_empty=True)
    connection.close()


def die():
    """Work that is tried again after a while, by exchanges and a queue that nobody reads; and messages that are delayed so."""
    connection = connect()
    channel = connection.channel()
    channel.confirm_delivery()
    for exchange in ["try.later", "try.again", "given.up"]:
        channel.exchange_declare(exchange, "topic", durable=True)
    later = {"x-dead-letter-exchange": "try.later"}
    again = {"x-dead-letter-exchange": "try.again", "x-message-ttl": 300}
    for queue, exchange, arguments in [
        ("tries", "try.again", later),
        ("waiting", "try.later", again),
        ("failed", "given.up", None),
    ]:
        channel.queue_declare(queue, durable=True, arguments=arguments)
        channel.queue_bind(queue, exchange, "task.#")
    expect(
        pika.exceptions.ChannelClosedByBroker,
        lambda: connection.channel().queue_declare("tries", durable=True, arguments=again),
    )
    for number in range(COUNT):
        channel.basic_publish("try.again", f"task.{number}", str(number))
    channel.basic_qos(prefetch_count=50)
    tries = {}
    for method, properties, body in channel.consume("tries", inactivity_timeout=PATIENCE_S):
        assert method.routing_key == f"task.{int(body)}", method
        deaths = (properties.headers or {}).get("x-death", [])
        assert [(it["queue"], it["reason"]) for it in deaths] in [
            [],
            [("waiting", "expired"), ("tries", "rejected")],
        ], deaths
        assert [it["count"] for it in deaths] == [tries.get(body, 0)] * len(deaths), deaths
        tries[body] = tries.get(body, 0) + 1
        if tries[body] == 3:
            channel.basic_publish("given.up", method.routing_key, body, properties)
            channel.basic_ack(method.delivery_tag)
        else:
            channel.basic_reject(method.delivery_tag, requeue=False)
        if len(tries) == COUNT and all(count == 3 for count in tries.values()):
            break
    channel.cancel()
    assert len(tries) == COUNT, tries
    for queue, count in [("tries", 0), ("waiting", 0), ("failed", COUNT)]:
        assert channel.queue_declare(queue, passive=True).method.message_count == count, queue

    delay = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "failed"}
    channel.queue_declare("delay", durable=True, arguments=delay)
    channel.queue_purge("failed")
    channel.basic_publish("", "delay", b"late", pika.BasicProperties(expiration="1000"))
    for method, properties, body in channel.consume("failed", inactivity_timeout=PATIENCE_S):
        death = properties.headers["x-death"][0]
        assert (body, properties.expiration) == (b"late", None), properties
        assert (death["reason"], death["original-expiration"]) == ("expired", "1000"), death
        channel.basic_ack(method.delivery_tag)
        break
    channel.cancel()
    for queue in ["tries", "waiting", "failed", "delay"]:
        channel.queue_delete(queue)
    connection.close()


def share():
    """What MQTT publishes to a queue AMQP consumes, and the other way round."""
    connection = connect()
    channel = connection.channel()
    subscriber = Mqtt("other-side").subscribe("$share/default/$queue/both/#")
    channel.basic_publish("", "both", b"from amqp", pika.BasicProperties(content_type="text/plain"))
    message = subscriber.wait_for(1)[0]
    assert (message.payload, message.properties.ContentType) == (b"from amqp", "text/plain")
    subscriber.client.publish("$queue/both", b"one", 1)
    subscriber.wait_for(2)
    subscriber.leave()
    publisher = Mqtt("publisher")
    publisher.client.publish("$queue/both", b"two", 1).wait_for_publish(PATIENCE_S)
    for method, properties, body in channel.consume("both", inactivity_timeout=PATIENCE_S):
        assert body == b"two", body
        assert (method.exchange, method.routing_key) == ("", "both"), method
        assert properties.headers["queue"] == "both" and properties.delivery_mode == 2
        channel.basic_ack(method.delivery_tag)
        break
    publisher.leave()
    connection.close()


def hold():
    """Confirmed and acknowledged in part when the broker is killed."""
    connection = connect()
    channel = connection.channel()
    channel.confirm_delivery()
    channel.queue_declare("held", durable=True)
    for number in range(COUNT):
        channel.basic_publish("", "held", str(number))
    channel.basic_qos(prefetch_count=150)
    for method, _, body in channel.consume("held", inactivity_timeout=PATIENCE_S):
        if int(body) == 99:
            channel.basic_ack(method.delivery_tag, multiple=True)
            break
    # Answered after the acknowledgements before it.
    channel.queue_declare("held", passive=True)
    connection.sleep(1)
    print("acknowledged", flush=True)


def go_on():
    """What was not acknowledged is there after a kill, in its order."""
    connection = connect()
    channel = connection.channel()
    bodies = []
    for method, _, body in channel.consume("held", inactivity_timeout=PATIENCE_S):
        bodies.append(int(body))
        channel.basic_ack(method.delivery_tag)
        if len(bodies) == COUNT - 100:
            break
    assert bodies == list(range(100, COUNT)), bodies
    connection.close()


def store():
    """Confirmed while the session is away."""
    Mqtt("away", stored=True).subscribe("kept/#").leave()
    connection = connect()
    channel = connection.channel()
    channel.confirm_delivery()
    for number in range(COUNT):
        channel.basic_publish(EXCHANGE, "kept.one", str(number))
    print("confirmed", flush=True)


def fetch():
    """What was confirmed is there after a kill."""
    subscriber = Mqtt("away", stored=True).subscribe("kept/#")
    messages = subscriber.wait_for(COUNT)
    assert [message.payload for message in messages] == [
        str(number).encode() for number in range(COUNT)
    ]
    subscriber.leave()


def topology():
    """Queues, exchanges and bindings of every kind, for others to look at."""
    connection = connect()
    channel = connection.channel()
    channel.exchange_declare("unrouted", "fanout", durable=True)
    channel.exchange_declare(
        "events", "topic", durable=True, arguments={"alternate-exchange": "unrouted"}
    )
    channel.exchange_declare("attributes", "headers", durable=True)
    channel.exchange_declare("brief", "direct", auto_delete=True)
    channel.queue_declare("jobs", durable=True, arguments={"x-message-ttl": 1500, "x-max-length": 10})
    channel.queue_declare("votes", durable=True, arguments={"x-queue-type": "quorum"})
    channel.queue_bind("jobs", "events", "job.#")
    channel.queue_bind("jobs", "amq.topic", "iot.*")
    channel.queue_bind(
        "votes",
        "attributes",
        "k",
        {"x-match": "any", "size": 42, "deep": {"list": [1, "two", None, Decimal("2.5")]}, "flag": True},
    )
    channel.exchange_bind("brief", "events", "now")
    channel.queue_bind("jobs", "brief", "now")
    connection.close()


def hold_open():
    """A connection with a name, two channels, a consumer, and something out at it; until somebody ends it."""
    parameters = pika.ConnectionParameters(
        HOST, AMQP_PORT, client_properties={"connection_name": "the worker"}
    )
    connection = pika.BlockingConnection(parameters)
    first, second = connection.channel(), connection.channel()
    first.confirm_delivery()
    first.queue_declare("held", durable=True)
    for _ in range(3):
        first.basic_publish("", "held", b"x")
    second.basic_qos(prefetch_count=2)
    arrived = []
    second.basic_consume("held", lambda _channel, _method, _properties, body: arrived.append(body))
    while len(arrived) < 2:
        connection.process_data_events(1)
    own = first.queue_declare("", exclusive=True).method.queue
    print(f"open {own}", flush=True)
    closed = expect(
        pika.exceptions.ConnectionClosedByBroker,
        lambda: [connection.process_data_events(1) for _ in range(PATIENCE_S)],
    )
    assert closed.reply_code == 320, closed
    assert "closed by an administrator: maintenance" in closed.reply_text, closed


def match_imported():
    """Headers match a binding that was imported from JSON, which knows one kind of integers."""
    connection = connect()
    channel = connection.channel()
    channel.confirm_delivery()
    found = {"colour": "red", "size": 42, "sale": True, "note": "any"}
    for headers, expected in [(found, 1), ({**found, "size": 43}, 1), ({**found, "more": 1}, 2)]:
        properties = pika.BasicProperties(headers=headers)
        channel.basic_publish("shop.attributes", "", b"x", properties)
        count = channel.queue_declare("all.orders", passive=True).method.message_count
        assert count == expected, (headers, count)
    connection.close()


SCENES = [
    publish,
    refusals,
    work,
    die,
    share,
    hold,
    go_on,
    store,
    fetch,
    topology,
    hold_open,
    match_imported,
]
{scene.__name__: scene for scene in SCENES}[SCENE]()
