"""Scenes played by aio-pika: aio_pika_client.py HOST PORT SCENE.

Ends with 0 when everything was as AMQP 0.9.1 says and RabbitMQ does, else with an exception. Every wait is bounded.
"""

import asyncio
import datetime
import decimal
import sys

import aio_pika
from aio_pika import DeliveryMode, ExchangeType, Message
from aio_pika.exceptions import ChannelPreconditionFailed, DeliveryError, QueueEmpty

HOST, PORT, SCENE = sys.argv[1], int(sys.argv[2]), sys.argv[3]
PATIENCE_S = 60
COUNT = 200
HEADERS = {
    "text": "value",
    "bytes": bytearray(b"\x00\xff"),
    "yes": True,
    "small": -7,
    "large": 1 << 40,
    "double": 2.5,
    "decimal": decimal.Decimal("3.14"),
    "time": datetime.datetime(2024, 2, 29, 12, 0, tzinfo=datetime.timezone.utc),
    "nothing": None,
    "list": [1, "two", None, [True]],
    "table": {"a": {"b": "c"}},
}


async def connect():
    return await aio_pika.connect_robust(host=HOST, port=PORT, login="guest", password="guest")


async def eventually(condition, what):
    """Waits until a coroutine function returns something true."""
    async with asyncio.timeout(PATIENCE_S):
        while not (found := await condition()):
            await asyncio.sleep(0.02)
    return found


async def everyday():
    """Declared, bound, published with confirms, consumed with a prefetch, settled in every way, got, returned."""
    connection = await connect()
    channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
    await channel.set_qos(prefetch_count=10)
    exchange = await channel.declare_exchange("aio.work", ExchangeType.TOPIC, durable=True)
    queue = await channel.declare_queue("aio.jobs", durable=True)
    await queue.bind(exchange, "job.*.new")
    for number in range(COUNT):
        message = Message(str(number).encode(), delivery_mode=DeliveryMode.PERSISTENT)
        await exchange.publish(message, f"job.{number}.new")
    assert (await queue.declare()).message_count == COUNT

    # Every third comes back once, every seventh is rejected for good.
    settled, again, most = [], set(), 0
    held = []
    async with queue.iterator(timeout=PATIENCE_S) as deliveries:
        async for message in deliveries:
            held.append(message)
            most = max(most, len(held))
            if len(held) < 10 and len(settled) + len(held) < COUNT:
                continue
            for message in held:
                number = int(message.body)
                assert message.redelivered == (number in again), (number, message)
                if number % 3 == 0 and number not in again:
                    again.add(number)
                    await message.nack(requeue=True)
                elif number % 7 == 0:
                    settled.append(number)
                    await message.reject(requeue=False)
                else:
                    settled.append(number)
                    await message.ack()
            held = []
            if len(settled) == COUNT:
                break
    assert sorted(settled) == list(range(COUNT)), settled
    assert most == 10, most

    # One by one, and nothing left.
    await channel.default_exchange.publish(Message(b"got"), "aio.jobs")
    message = await queue.get(timeout=PATIENCE_S)
    assert (message.body, message.routing_key, message.exchange) == (b"got", "aio.jobs", ""), message
    await message.ack()
    try:
        await queue.get(timeout=PATIENCE_S)
        raise AssertionError("nothing was left")
    except QueueEmpty:
        pass

    # What reaches nobody is returned.
    try:
        await exchange.publish(Message(b"nobody"), "other", mandatory=True)
        raise AssertionError("it was due to come back")
    except DeliveryError as error:
        assert error.message.delivery.reply_text == "NO_ROUTE", error
    await queue.unbind(exchange, "job.*.new")
    await queue.delete()
    await exchange.delete()
    await connection.close()


async def properties():
    """Headers of all types and every property come back as they were."""
    connection = await connect()
    channel = await connection.channel()
    queue = await channel.declare_queue(exclusive=True)
    sent = Message(
        b"body",
        headers=HEADERS,
        content_type="application/json",
        content_encoding="gzip",
        delivery_mode=DeliveryMode.PERSISTENT,
        priority=5,
        correlation_id="c-1",
        reply_to="answers",
        expiration=120,
        message_id="m-1",
        timestamp=datetime.datetime(2024, 2, 29, tzinfo=datetime.timezone.utc),
        type="kind",
        user_id="guest",
        app_id="app",
    )
    await channel.default_exchange.publish(sent, queue.name)
    received = await queue.get(timeout=PATIENCE_S)
    await received.ack()
    assert received.headers == HEADERS, received.headers
    assert received.properties == sent.properties, (received.properties, sent.properties)
    await connection.close()


async def death():
    """What was rejected, and what lived too long, is a dead letter; a full queue refuses, or drops its oldest."""
    connection = await connect()
    channel = await connection.channel(publisher_confirms=True)
    letters = await channel.declare_queue("aio.letters", durable=True)
    exchange = await channel.declare_exchange("aio.dead", ExchangeType.TOPIC, durable=True)
    await letters.bind(exchange, "aio.#")
    dead = {"x-dead-letter-exchange": exchange.name}
    short = await channel.declare_queue("aio.short", durable=True, arguments={**dead, "x-message-ttl": 100})
    await channel.default_exchange.publish(Message(b"late", headers={"a": 1}), short.name)

    async def letter():
        return await letters.get(fail=False, timeout=PATIENCE_S)

    late = await eventually(letter, "the message dies")
    await late.ack()
    death = late.headers["x-death"][0]
    assert (late.body, death["reason"], death["queue"]) == (b"late", "expired", short.name), late.headers
    assert (late.exchange, late.routing_key, late.headers["a"]) == (exchange.name, short.name, 1), late
    picky = await channel.declare_queue("aio.picky", durable=True, arguments=dead)
    await channel.default_exchange.publish(Message(b"bad"), picky.name)
    bad = await picky.get(timeout=PATIENCE_S)
    await bad.reject(requeue=False)
    bad = await eventually(letter, "what was rejected dies")
    await bad.ack()
    death = bad.headers["x-death"][0]
    assert (bad.body, death["reason"], death["count"]) == (b"bad", "rejected", 1), bad.headers
    assert (death["exchange"], death["routing-keys"]) == ("", [picky.name]), death
    full = await channel.declare_queue(
        "aio.full", durable=True, arguments={"x-max-length": 2, "x-overflow": "reject-publish"}
    )
    for number in range(2):
        await channel.default_exchange.publish(Message(b"in"), full.name)
    try:
        await channel.default_exchange.publish(Message(b"out"), full.name)
        raise AssertionError("it was due to be refused")
    except DeliveryError:
        pass
    for queue in (letters, short, picky, full):
        await queue.delete(if_empty=False, if_unused=False)
    await exchange.delete()
    await connection.close()


async def refusals():
    """A channel that is refused something is closed, and the connection goes on."""
    connection = await connect()
    channel = await connection.channel()
    await channel.declare_queue("aio.other", auto_delete=True)
    other = await connection.channel()
    try:
        await other.declare_queue("aio.other", durable=True, auto_delete=True)
        raise AssertionError("it is there otherwise")
    except ChannelPreconditionFailed as error:
        assert "inequivalent arg 'durable'" in str(error), error
    assert (await channel.declare_queue("aio.other", passive=True)).name == "aio.other"
    await connection.close()


async def stream():
    """A stream is read from wherever its reader says, as often as one likes."""
    connection = await connect()
    channel = await connection.channel(publisher_confirms=True)
    await channel.set_qos(prefetch_count=50)
    queue = await channel.declare_queue("aio.stream", durable=True, arguments={"x-queue-type": "stream"})
    for number in range(COUNT):
        await channel.default_exchange.publish(Message(str(number).encode()), queue.name)
    for offset, first in [("first", 0), (120, 120), ("first", 0)]:
        async with asyncio.timeout(PATIENCE_S):
            async with queue.iterator(arguments={"x-stream-offset": offset}) as deliveries:
                expected = first
                async for message in deliveries:
                    if (number := int(message.body)) < first:
                        continue
                    assert number == expected, (offset, number, expected)
                    assert message.headers["x-stream-offset"] == number, message.headers
                    expected += 1
                    await message.ack()
                    if expected == COUNT:
                        break
    await queue.delete(if_empty=False, if_unused=False)
    await connection.close()


async def rpc():
    """Questions and answers: by a queue of the client's own, and by none."""
    connection = await connect()
    service = await connection.channel()
    questions = await service.declare_queue("aio.rpc", auto_delete=True)

    async def answer(question):
        async with question.process():
            reply = Message(question.body.upper(), correlation_id=question.correlation_id)
            await service.default_exchange.publish(reply, question.reply_to)

    await questions.consume(answer)
    for name, no_ack in [("", False), ("amq.rabbitmq.reply-to", True)]:
        channel = await connection.channel()
        if name:
            answers = await channel.get_queue(name, ensure=False)
        else:
            answers = await channel.declare_queue(exclusive=True)
        received = {}
        done = asyncio.Event()

        async def on_answer(message):
            received[message.correlation_id] = message.body
            if len(received) == COUNT:
                done.set()

        await answers.consume(on_answer, no_ack=no_ack)
        for number in range(COUNT):
            question = Message(f"q{number}".encode(), correlation_id=str(number), reply_to=answers.name)
            await channel.default_exchange.publish(question, questions.name)
        await asyncio.wait_for(done.wait(), PATIENCE_S)
        assert received == {str(number): f"Q{number}".encode() for number in range(COUNT)}
        await channel.close()
    await connection.close()


async def cancelled():
    """A consumer hears that its queue is gone."""
    connection = await connect()
    channel = await connection.channel()
    queue = await channel.declare_queue("aio.gone", durable=True)
    heard = asyncio.get_running_loop().create_future()
    underlay = await channel.get_underlay_channel()
    underlay.on_consumer_cancel_callbacks.add(lambda frame: heard.set_result(frame.consumer_tag))
    tag = await queue.consume(lambda _: None)
    deleter = await connection.channel()
    await (await deleter.get_queue("aio.gone")).delete(if_empty=False, if_unused=False)
    assert await asyncio.wait_for(heard, PATIENCE_S) == tag
    await connection.close()


async def recover():
    """A robust connection comes back, with its queues and consumers, when its broker does."""
    connection = await connect()
    channel = await connection.channel(publisher_confirms=True)
    await channel.set_qos(prefetch_count=5)
    durable = await channel.declare_queue("aio.durable", durable=True)
    own = await channel.declare_queue("aio.own", exclusive=True)
    exchange = await channel.declare_exchange("aio.transient", ExchangeType.FANOUT)
    await own.bind(exchange)
    received = asyncio.Queue()

    async def on_message(message):
        await message.ack()
        await received.put(message.body)

    await durable.consume(on_message)
    await own.consume(on_message)
    await channel.default_exchange.publish(Message(b"before"), durable.name)
    assert await asyncio.wait_for(received.get(), PATIENCE_S) == b"before"
    print("ready", flush=True)
    reconnected = asyncio.Event()
    connection.reconnect_callbacks.add(lambda *_: reconnected.set())
    await asyncio.wait_for(reconnected.wait(), PATIENCE_S)
    await channel.default_exchange.publish(Message(b"after"), durable.name)
    # The acknowledgement of the first may not have arrived when the broker was killed.
    while await asyncio.wait_for(received.get(), PATIENCE_S) != b"after":
        pass
    await exchange.publish(Message(b"by the exchange"), "")
    assert await asyncio.wait_for(received.get(), PATIENCE_S) == b"by the exchange"
    await connection.close()


SCENES = [everyday, properties, death, refusals, stream, rpc, cancelled, recover]
asyncio.run({scene.__name__: scene for scene in SCENES}[SCENE]())
