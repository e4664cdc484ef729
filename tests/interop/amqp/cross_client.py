"""pika and paho-mqtt at one log: cross_client.py HOST AMQP_PORT MQTT_PORT SCENE.

What the one publishes the other reads, as one stored message with one offset; what the one settles is settled for the other. Ends with 0
when that was so, else with an exception. Every wait is bounded.
"""

import time
from functools import partial

import both_ends
import pika
from both_ends import PATIENCE_S, SCENE, connect

COUNT = 20
TEXT = [("unit", "celsius"), ("site", "north")]

# Scenes acknowledge themselves.
Mqtt = partial(both_ends.Mqtt, manual_ack=True)


def users(message):
    return message.properties.UserProperty


def named(message, name):
    return dict(users(message)).get(name)


def telemetry():
    """A stream of what both publish: both read the same offsets, payloads and properties."""
    connection = connect()
    channel = connection.channel()
    channel.confirm_delivery()
    channel.queue_declare("telemetry", durable=True, arguments={"x-queue-type": "stream"})
    channel.queue_bind("telemetry", "amq.topic", "site.*.temp")
    publisher = Mqtt("telemetry-publisher")
    properties = pika.BasicProperties(
        content_type="text/plain", correlation_id="c-1", delivery_mode=2, reply_to="answers", headers=dict(TEXT)
    )
    for number in range(COUNT):
        if number % 2:
            channel.basic_publish("amq.topic", f"site.{number}.temp", f"{number}", properties)
        else:
            publisher.publish(
                f"site/{number}/temp", f"{number}", ContentType="text/plain", CorrelationData=b"c-1",
                ResponseTopic="$queue/answers", UserProperty=TEXT,
            )

    reader = Mqtt("telemetry-reader").subscribe("$queue/telemetry/#", consumer_group="mqtt", cursor="earliest")
    by_mqtt = []
    for at in range(COUNT):
        message = reader.wait_for(at + 1)[at]
        reader.ack(message)
        said = message.properties
        others = [(key, value) for key, value in users(message) if (key, value) in TEXT]
        by_mqtt.append((
            int(named(message, "x-stream-offset")), message.payload, named(message, "x-source-topic"),
            said.ContentType, said.CorrelationData, said.ResponseTopic, sorted(others),
        ))
    channel.basic_qos(prefetch_count=COUNT)
    by_amqp = []
    for method, said, body in channel.consume("telemetry", arguments={"x-stream-offset": "first"}):
        channel.basic_ack(method.delivery_tag)
        assert method.exchange == "amq.topic" and said.delivery_mode == 2, (method, said)
        others = [(key, value) for key, value in said.headers.items() if (key, value) in TEXT]
        by_amqp.append((
            said.headers["x-stream-offset"], body, method.routing_key.replace(".", "/"),
            said.content_type, said.correlation_id.encode(), f"$queue/{said.reply_to}", sorted(others),
        ))
        if len(by_amqp) == COUNT:
            break
    assert by_mqtt == by_amqp, (by_mqtt, by_amqp)
    assert [entry[0] for entry in by_mqtt] == list(range(COUNT)), by_mqtt
    assert by_mqtt[3][1:] == (
        b"3", "site/3/temp", "text/plain", b"c-1", "$queue/answers", sorted(TEXT)
    ), by_mqtt[3]
    for client in (publisher, reader):
        client.leave()
    connection.close()


def sessions():
    """What AMQP publishes reaches who subscribes now, and who comes back: the same."""
    Mqtt("away", stored=True).subscribe("plant/#").leave()
    live = Mqtt("live").subscribe("plant/#")
    connection = connect()
    channel = connection.channel()
    channel.confirm_delivery()
    properties = pika.BasicProperties(
        content_type="text/plain", delivery_mode=2, expiration="3600000", headers={"number": 7, **dict(TEXT)}
    )
    for number in range(COUNT):
        channel.basic_publish("amq.topic", f"plant.{number}", str(number), properties)
    back = Mqtt("away", stored=True)
    seen = []
    for client in (live, back):
        client.wait_for(COUNT)
        for message in client.messages:
            client.ack(message)
        # Topics live in several partitions, and order is each one's own.
        messages = sorted(client.messages, key=lambda message: int(message.payload))
        seen.append([(it.topic, it.payload, it.qos, it.properties.ContentType, users(it)) for it in messages])
        assert all(3590 < it.properties.MessageExpiryInterval <= 3600 for it in client.messages)
    expected = [
        (f"plant/{number}", str(number).encode(), 1, "text/plain", [("number", "7"), *TEXT])
        for number in range(COUNT)
    ]
    assert seen == [expected, expected], seen
    for client in (live, back):
        client.leave()
    connection.close()


def group():
    """Members of one group on both protocols: each entry to one of them, and what one settles the other does not get."""
    connection = connect()
    channel = connection.channel()
    channel.confirm_delivery()
    channel.queue_declare("jobs", durable=True)
    member = Mqtt("member").subscribe("$share/default/$queue/jobs/#")
    channel.basic_qos(prefetch_count=COUNT)
    taken = {}

    def on_message(_channel, method, properties, body):
        taken[body] = (method, properties)

    tag = channel.basic_consume("jobs", on_message)
    for number in range(COUNT):
        if number % 2:
            channel.basic_publish("", "jobs", str(number))
        else:
            member.publish("$queue/jobs", str(number))
    until = time.monotonic() + PATIENCE_S
    while len(taken) + len(member.messages) < COUNT and time.monotonic() < until:
        connection.process_data_events(0.05)
    theirs = {message.payload: message for message in member.messages}
    assert len(taken) >= 5 and len(theirs) >= 5, (taken, theirs)
    assert sorted([*taken, *theirs], key=int) == [str(number).encode() for number in range(COUNT)]

    # AMQP gives one back: MQTT gets it, as one that came before, under the offset that it has.
    body, (method, _) = next(iter(taken.items()))
    channel.basic_nack(method.delivery_tag, requeue=True)
    del taken[body]
    while len(taken) + len(member.messages) < COUNT and time.monotonic() < until:
        connection.process_data_events(0.05)
    if body in taken:
        method, properties = taken.pop(body)
        assert method.redelivered and properties.headers["x-delivery-count"] == 1, (method, properties)
        channel.basic_ack(method.delivery_tag)
    else:
        again = member.messages[-1]
        assert again.payload == body and named(again, "delivery-count") == "1", users(again)

    # Each acknowledges what it has. Neither has anything again when the other goes.
    for method, _ in taken.values():
        channel.basic_ack(method.delivery_tag)
    for message in member.messages:
        member.ack(message)
    channel.basic_cancel(tag)
    while channel.queue_declare("jobs", passive=True).method.message_count and time.monotonic() < until:
        time.sleep(0.02)
    count = len(member.messages)
    other = connect()
    channel.close()
    assert other.channel().basic_get("jobs") == (None, None, None)
    member.publish("$queue/jobs", "last")
    member.wait_for(count + 1)
    assert member.messages[-1].payload == b"last", "nothing of the other's comes before it"
    # Not acknowledged: when its member goes, AMQP has it, at the offset that MQTT saw.
    offset = int(named(member.messages[-1], "offset"))
    assert offset == COUNT, offset
    member.leave()
    received = []
    channel = other.channel()
    channel.basic_consume("jobs", lambda _channel, method, properties, body: received.append((method, properties, body)))
    while not received and time.monotonic() < until:
        other.process_data_events(0.05)
    [(method, properties, body)] = received
    assert (body, method.redelivered, properties.headers["offset"]) == (b"last", True, offset), (method, properties)
    channel.basic_ack(method.delivery_tag)
    channel.queue_delete("jobs")
    other.close()
    connection.close()


def settle():
    """An MQTT client settles by `$ack` what an AMQP consumer of the group would get next; both groups of a queue read for themselves."""
    connection = connect()
    channel = connection.channel()
    channel.confirm_delivery()
    channel.queue_declare("tasks", durable=True)
    for number in range(3):
        channel.basic_publish("", "tasks", str(number), pika.BasicProperties(message_id=f"m-{number}"))
    member = Mqtt("settler").subscribe("$share/default/$queue/tasks/#", settle="explicit")
    for message in member.wait_for(3):
        member.ack(message)
    # PUBACK settles nothing here: $ack of the second does.
    second = member.messages[1]
    member.publish("$queue/tasks/$ack", "", UserProperty=[
        ("message-id", named(second, "message-id")), ("group-id", named(second, "group-id")),
    ])
    member.leave()
    bodies = []
    for method, properties, body in channel.consume("tasks", inactivity_timeout=PATIENCE_S):
        assert method.redelivered and properties.message_id == f"m-{body.decode()}", (method, properties)
        channel.basic_ack(method.delivery_tag)
        bodies.append(body)
        if len(bodies) == 2:
            break
    assert bodies == [b"0", b"2"], bodies
    channel.cancel()
    assert channel.basic_get("tasks") == (None, None, None)
    # Another group has all of them still.
    other = Mqtt("other").subscribe("$queue/tasks/#", consumer_group="others", cursor="earliest")
    assert [message.payload for message in other.wait_for(3)] == [b"0", b"1", b"2"]
    other.leave()
    channel.queue_delete("tasks")
    connection.close()


SCENES = [telemetry, sessions, group, settle]
{scene.__name__: scene for scene in SCENES}[SCENE]()
