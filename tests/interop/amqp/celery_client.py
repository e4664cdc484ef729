"""Celery's side of its users: celery_client.py, with a worker of celery_app beside it.

Ends with 0 when every result was right, else with an exception. Every wait is bounded.
"""

from celery import chain, group

from celery_app import add, app, at_the_second_try, double, fails, negate

PATIENCE_S = 60

assert chain(add.s(2, 3), double.s(), negate.s()).apply_async().get(timeout=PATIENCE_S) == -10
results = group(double.s(number) for number in range(50)).apply_async().get(timeout=PATIENCE_S)
assert results == [2 * number for number in range(50)], results
assert at_the_second_try.delay(7).get(timeout=PATIENCE_S) == 7
# Not before a time: the worker holds it, unacknowledged.
assert add.apply_async((1, 1), countdown=1).get(timeout=PATIENCE_S) == 2
try:
    fails.delay().get(timeout=PATIENCE_S)
    raise AssertionError("the task was due to fail")
except ValueError as error:
    assert "as it is meant to" in str(error), error
# Control by broadcast, and answers to it.
answers = app.control.broadcast("ping", reply=True, timeout=PATIENCE_S, limit=1)
assert len(answers) == 1 and list(answers[0].values()) == [{"ok": "pong"}], answers
queues = app.control.inspect(timeout=PATIENCE_S, limit=1).active_queues()
assert [queue["name"] for queue in next(iter(queues.values()))] == ["celery"], queues
app.control.shutdown()
