"""Scenes played by kombu on py-amqp: kombu_client.py HOST PORT SCENE.

Ends with 0 when everything was as AMQP 0.9.1 says and RabbitMQ does, else with an exception. Every wait is bounded.
"""

import datetime
import decimal
import socket
import sys
import threading
import time

import amqp
from kombu import Connection, Consumer, Exchange, Producer, Queue
from kombu.mixins import ConsumerMixin
from kombu.pools import producers

HOST, PORT, SCENE = sys.argv[1], int(sys.argv[2]), sys.argv[3]
PATIENCE_S = 60
COUNT = 200
HEADERS = {
    "text": "value",
    "yes": True,
    "small": -7,
    "large": 1 << 40,
    "double": 2.5,
    "decimal": decimal.Decimal("3.14"),
    "time": datetime.datetime(2024, 2, 29, 12, 0),
    "nothing": None,
    "list": [1, "two", None, [True]],
    "table": {"a": {"b": "c"}},
}
JOBS = Exchange("kombu.jobs", "direct", durable=True)


def connect(**options):
    return Connection(f"amqp://guest:guest@{HOST}:{PORT}//", connect_timeout=PATIENCE_S, **options)


def confirmed():
    return connect(transport_options={"confirm_publish": True})


def drain(connection, condition, what):
    """Takes what comes until a condition holds."""
    until = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > until:
            raise AssertionError(f"waited in vain until {what}")
        try:
            connection.drain_events(timeout=1)
        except socket.timeout:
            pass


def everyday():
    """Declared, bound, published with confirms, consumed with a prefetch, settled in every way, got, returned."""
    with confirmed() as connection, connection.channel() as channel:
        queue = Queue("kombu.work", JOBS, routing_key="work", durable=True)(channel)
        queue.declare()
        producer = Producer(channel, JOBS, routing_key="work", serializer="json")
        for number in range(COUNT):
            producer.publish({"number": number}, delivery_mode="persistent", mandatory=True)
        assert queue.queue_declare(passive=True).message_count == COUNT
        settled, again, held, most = [], set(), [], []

        def settle(message, number):
            if number % 3 == 0 and number not in again:
                again.add(number)
                message.requeue()
            elif number % 7 == 0:
                settled.append(number)
                message.reject()
            else:
                settled.append(number)
                message.ack()

        def on_message(body, message):
            assert message.delivery_info["redelivered"] == (body["number"] in again), message
            held.append((message, body["number"]))
            most.append(len(held))
            if len(held) == 10 or len(settled) + len(held) == COUNT:
                while held:
                    settle(*held.pop())

        with Consumer(channel, [queue], callbacks=[on_message], prefetch_count=10, accept=["json"]):
            drain(connection, lambda: len(settled) == COUNT, "all jobs are done")
        assert sorted(settled) == list(range(COUNT)) and max(most) == 10, (settled, max(most))

        producer.publish({"number": -1})
        message = queue.get(accept=["json"])
        assert message.payload == {"number": -1}, message
        message.ack()
        assert queue.get() is None

        returned = []
        producer.on_return = lambda error, exchange, key, message: returned.append((error.reply_code, key))
        Producer(channel, JOBS, on_return=producer.on_return).publish("nobody", routing_key="other", mandatory=True)
        drain(connection, lambda: returned, "what reached nobody comes back")
        assert returned == [(312, "other")], returned
        queue.unbind_from(JOBS, "work")
        queue.purge()
        queue.delete()
        JOBS(channel).delete()


def properties():
    """Headers of all types and every property come back as they were."""
    with connect() as connection, connection.channel() as channel:
        queue = Queue(exclusive=True)(channel)
        queue.declare()
        said = {
            "content_type": "text/plain",
            "content_encoding": "utf-8",
            "delivery_mode": 2,
            "priority": 5,
            "correlation_id": "c-1",
            "reply_to": "answers",
            "expiration": "120000",
            "message_id": "m-1",
            "timestamp": 1_700_000_000,
            "type": "kind",
            "user_id": "guest",
            "app_id": "app",
        }
        message = amqp.Message("body", application_headers=HEADERS, **said)
        channel.basic_publish(message, routing_key=queue.name)
        received = queue.get(no_ack=True)
        assert received.headers == HEADERS, received.headers
        properties = dict(received.properties, content_type=received.content_type)
        properties["content_encoding"] = received.content_encoding
        properties.pop("application_headers", None)
        assert properties == said, properties


def exchanges():
    """Every kind of exchange routes, also to one another."""
    with connect() as connection, connection.channel() as channel:
        topics = Exchange("kombu.topics", "topic", auto_delete=True)(channel)
        everything = Exchange("kombu.everything", "fanout", auto_delete=True)(channel)
        heads = Exchange("kombu.heads", "headers", auto_delete=True)(channel)
        for exchange in (topics, everything, heads):
            exchange.declare()
        everything.bind_to(topics, routing_key="a.#")
        bound = {
            "topics": Queue("kombu.q.topics", topics, "*.b", auto_delete=True),
            "everything": Queue("kombu.q.everything", everything, auto_delete=True),
            "heads": Queue("kombu.q.heads", heads, binding_arguments={"x-match": "all", "k": 1}, auto_delete=True),
        }
        for queue in bound.values():
            queue(channel).declare()
        producer = Producer(channel)
        for key in ("a.b", "x.b", "a.b.c", "x"):
            producer.publish(key, exchange=topics, routing_key=key)
        producer.publish("with", exchange=heads, headers={"k": 1, "l": 2})
        producer.publish("without", exchange=heads, headers={"l": 2})
        found = {}
        for name, queue in bound.items():
            found[name] = []
            while (message := queue(channel).get(no_ack=True)) is not None:
                found[name].append(message.payload)
        assert found == {
            "topics": ["a.b", "x.b"],
            "everything": ["a.b", "a.b.c"],
            "heads": ["with"],
        }, found
        for queue in bound.values():
            queue(channel).delete()


def death():
    """What was rejected, and what lived too long, is a dead letter; priorities overtake."""
    with confirmed() as connection, connection.channel() as channel:
        letters = Queue("kombu.letters", durable=True)(channel)
        letters.declare()
        short = Queue("kombu.short", durable=True, message_ttl=0.1, queue_arguments={
            "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "kombu.letters",
        })(channel)
        short.declare()
        producer = Producer(channel)
        producer.publish("late", routing_key="kombu.short", headers={"a": 1})
        until = time.monotonic() + PATIENCE_S
        while (letter := letters.get(no_ack=True)) is None and time.monotonic() < until:
            time.sleep(0.02)
        death = letter.headers["x-death"][0]
        assert (letter.payload, death["reason"], death["queue"]) == ("late", "expired", "kombu.short"), letter.headers
        urgent = Queue("kombu.urgent", durable=True, max_priority=9)(channel)
        urgent.declare()
        for priority in (1, 9, 5):
            producer.publish(priority, routing_key="kombu.urgent", priority=priority)
        assert [urgent.get(no_ack=True).payload for _ in range(3)] == [9, 5, 1]
        for queue in (letters, short, urgent):
            queue.delete()


def cancelled():
    """A consumer hears that its queue is gone; a channel that is refused something closes, and the connection goes on."""
    with connect() as connection, connection.channel() as channel, connection.channel() as other:
        queue = Queue("kombu.gone", durable=True)(channel)
        queue.declare()
        heard = []
        channel.basic_consume("kombu.gone", callback=print, on_cancel=heard.append)
        Queue("kombu.gone")(other).delete()
        drain(connection, lambda: heard, "the consumer is cancelled")
        try:
            Queue("kombu.missing")(other).queue_declare(passive=True)
            raise AssertionError("there is no such queue")
        except amqp.exceptions.NotFound as error:
            assert error.reply_code == 404 and "no queue 'kombu.missing'" in error.reply_text, error
        connection.channel().close()


def rpc():
    """Questions and answers by a queue of the client's own, and by none."""
    with connect() as connection, connection.channel() as service, connection.channel() as client:
        questions = Queue("kombu.rpc", auto_delete=True)(service)
        questions.declare()

        def answer(body, message):
            reply, asked = message.properties["reply_to"], message.properties["correlation_id"]
            Producer(service).publish(body.upper(), routing_key=reply, correlation_id=asked)
            message.ack()

        own = Queue(exclusive=True)(client)
        own.declare()
        with Consumer(service, [questions], callbacks=[answer]):
            for name, no_ack in [(own.name, False), ("amq.rabbitmq.reply-to", True)]:
                received = {}

                def on_answer(message):
                    received[message.properties["correlation_id"]] = message.body
                    if not no_ack:
                        client.basic_ack(message.delivery_tag)

                tag = client.basic_consume(name, no_ack=no_ack, callback=on_answer)
                for number in range(20):
                    Producer(client).publish(
                        f"q{number}", routing_key="kombu.rpc", reply_to=name, correlation_id=str(number)
                    )
                    drain(connection, lambda: len(received) > number, "the answer is there")
                assert received == {str(number): f"Q{number}" for number in range(20)}, received
                client.basic_cancel(tag)


class Worker(ConsumerMixin):
    """Consumes, and comes back by itself."""

    def __init__(self, connection):
        self.connection = connection
        self.received = []
        self.revivals = 0
        self.news = threading.Condition()

    def get_consumers(self, consumer, channel):
        queue = Queue("kombu.durable", JOBS, routing_key="durable", durable=True)
        return [consumer([queue], callbacks=[self.on_task], prefetch_count=5)]

    def on_task(self, body, message):
        with self.news:
            self.received.append(body)
            self.news.notify_all()
        message.ack()

    def on_connection_revived(self):
        with self.news:
            self.revivals += 1
            self.news.notify_all()

    def wait_for(self, condition):
        with self.news:
            assert self.news.wait_for(condition, PATIENCE_S), (self.revivals, self.received)


def recover():
    """A worker and a producer of a pool come back when their broker does."""
    worker = Worker(connect(heartbeat=4))
    thread = threading.Thread(target=worker.run, daemon=True)
    thread.start()
    pool = producers[confirmed()]
    declare = [Queue("kombu.durable", JOBS, routing_key="durable", durable=True)]

    def publish(body):
        with pool.acquire(block=True, timeout=PATIENCE_S) as producer:
            policy = {"max_retries": 100, "interval_start": 0, "interval_step": 0.2, "interval_max": 0.5}
            producer.publish(
                body, exchange=JOBS, routing_key="durable", declare=declare, retry=True, retry_policy=policy
            )

    publish("before")
    worker.wait_for(lambda: "before" in worker.received)
    revivals = worker.revivals
    print("ready", flush=True)
    worker.wait_for(lambda: worker.revivals > revivals)
    publish("after")
    worker.wait_for(lambda: "after" in worker.received)
    worker.should_stop = True
    thread.join(PATIENCE_S)


SCENES = [everyday, properties, exchanges, death, cancelled, rpc, recover]
{scene.__name__: scene for scene in SCENES}[SCENE]()
