"""The tasks of celery_client.py. FLUXMQ_AMQP is the broker's host and port."""

import os

from celery import Celery

app = Celery("tasks", broker=f"amqp://guest:guest@{os.environ['FLUXMQ_AMQP']}//", backend="rpc://")
app.conf.update(
    broker_connection_retry_on_startup=True,
    task_acks_late=True,
    worker_prefetch_multiplier=1,
    result_expires=60,
)


@app.task
def add(x, y):
    return x + y


@app.task
def double(x):
    return x * 2


@app.task
def negate(x):
    return -x


@app.task(bind=True, max_retries=3, default_retry_delay=0.2)
def at_the_second_try(self, x):
    if self.request.retries == 0:
        raise self.retry()
    return x


@app.task
def fails():
    raise ValueError("as it is meant to")
