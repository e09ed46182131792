"""A single-threaded executor for one node that needs a fraction of the processor time of rclpy's.

rclpy's executors build a new wait set of all entities of a node, QoS events included, and wrap every callback in a
coroutine and a task: at 240 Hz in five nodes this takes a whole core. This executor keeps its wait set, calls plain
functions, runs everything that is ready after one wait, and checks QoS events (an incompatible QoS, a missed deadline)
only every EVENTS_S, because they are only for people. `benchmarks/executor.py` compares the two. Callbacks must not be
coroutines.

A node that only records need not wake up for every message: on two cores this delays the nodes that move the arm. With
`batch_s`, messages stay in their queues for that long; DDS records when each of them came.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from rclpy.exceptions import InvalidHandle
from rclpy.executors import ExternalShutdownException
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.node import Node
from rclpy.signals import SignalHandlerGuardCondition
from rclpy.subscription import Subscription

EVENTS_S = 0.25  # between checks of QoS events, and the longest wait


class NodeExecutor:
    """Runs the callbacks of `node` in the thread that calls `spin_once`.

    With `batch_s` above 0, messages are taken once per `batch_s` and run in the order in which they were published,
    across topics; queues must hold the messages of that time. With 0, each is taken as soon as it comes.
    A node's subscriptions that are in its `polled` are left to the node, which takes from them itself.
    """

    def __init__(self, node: Node, batch_s: float = 0.0) -> None:
        self._node = node
        self._batch_s = batch_s
        self._batch_at = 0.0
        self._batch: deque[tuple[Subscription, Any]] = deque()  # messages that were taken but not run yet
        self._interrupt = SignalHandlerGuardCondition(node.context)
        self._entities: tuple[tuple[Any, ...], ...] = ()  # entities of the wait set
        self._wait_set: Any = None
        self._events_at = 0.0

    def spin_once(self, timeout_s: float = EVENTS_S) -> None:
        """Wait until something is ready, at most `timeout_s`, and run all that is: timers, then subscriptions in the
        order in which they were created (one message each; or a batch), then services and clients.

        Raises ExternalShutdownException once the context is shut down, and what a callback raises; what was ready
        behind it is still ready.
        """
        now = time.monotonic()
        if now >= self._events_at:
            self._events_at = now + EVENTS_S
            self._run_events()
        if self._batch_s:
            left = max(0.0, self._batch_at - now)
            time.sleep(min(left, timeout_s))
            if left > timeout_s:
                return
            self._batch_at, timeout_s = time.monotonic() + self._batch_s, 0.0
        wait_set = self._filled_wait_set()
        wait_set.wait(int(max(0.0, min(timeout_s, EVENTS_S)) * 1e9))
        if not self._node.context.ok():
            raise ExternalShutdownException
        if not self._run_ready(wait_set):
            self._events_at = 0.0  # check events now: one that is not taken ends every further wait at once

    def close(self) -> None:
        """Free the interrupt's guard condition while the context exists."""
        self._interrupt.destroy()

    def _filled_wait_set(self) -> Any:
        node = self._node
        polled = getattr(node, "polled", ())
        heard = tuple(subscription for subscription in node.subscriptions if subscription not in polled)
        entities = heard, tuple(node.timers), tuple(node.services), tuple(node.clients)
        if entities != self._entities:
            subscriptions, timers, services, clients = map(len, entities)
            self._wait_set = rclpy_implementation.WaitSet(
                subscriptions, 1, timers, clients, services, 0, node.context.handle
            )
            self._entities = entities
        wait_set = self._wait_set
        wait_set.clear_entities()
        add = wait_set.add_subscription, wait_set.add_timer, wait_set.add_service, wait_set.add_client
        for add_one, kind in zip(add, entities, strict=True):
            for entity in kind:
                add_one(entity.handle)
        wait_set.add_guard_condition(self._interrupt.handle)
        return wait_set

    def _run_ready(self, wait_set: Any) -> bool:
        """Run everything that is ready; return False if nothing was."""
        kinds = ("subscription", "timer", "service", "client")
        pointers = {kind: wait_set.get_ready_entities(kind) for kind in kinds}
        subscriptions, timers, services, clients = (
            [entity for entity in entities if entity.handle.pointer in pointers[kind]] if pointers[kind] else ()
            for kind, entities in zip(kinds, self._entities, strict=True)
        )
        for timer in timers:
            if timer.handle.is_timer_ready():
                timer.handle.call_timer()
                timer.callback()
        if self._batch_s:
            self._run_batch(subscriptions)
        else:
            for subscription in subscriptions:
                _run_subscription(self._node, subscription)
        for service in services:
            request, header = service.handle.service_take_request(service.srv_type.Request)
            if header is not None:
                response = service.srv_type.Response()  # an empty one, no success, if the callback raises
                try:
                    response = service.callback(request, response)
                finally:
                    service.send_response(response, header)
        for client in clients:
            header, response = client.handle.take_response(client.srv_type.Response)
            if header is not None:
                client.get_pending_request(header.request_id.sequence_number).set_result(response)
        return any(pointers.values())

    def _run_batch(self, subscriptions: Sequence[Subscription]) -> None:
        came = []
        for subscription in subscriptions:
            while (taken := _take_if_alive(self._node, subscription)) is not None:
                came.append((subscription, taken))
        self._batch.extend(sorted(came, key=lambda entry: entry[1][1]["source_timestamp"]))
        while self._batch:  # after a callback raises, the next pass runs the rest
            _call(*self._batch.popleft())

    def _run_events(self) -> None:
        waitables = tuple(self._node.waitables)
        wait_set = rclpy_implementation.WaitSet(0, 0, 0, 0, 0, len(waitables), self._node.context.handle)
        wait_set.clear_entities()
        for waitable in waitables:
            waitable.add_to_wait_set(wait_set)
        wait_set.wait(0)
        for waitable in waitables:
            if waitable.is_ready(wait_set):
                _run_coroutine(waitable.execute(waitable.take_data()))


def _run_subscription(node: Node, subscription: Subscription) -> None:
    taken = _take_if_alive(node, subscription)
    if taken is not None:
        _call(subscription, taken)


def _take_if_alive(node: Node, subscription: Subscription) -> Any:
    """The next message and its info, or None; also if a callback before destroyed the subscription.

    Perception does that if the transport changes, the recorder if the type of a topic changes.
    """
    try:
        return take(subscription)
    except (InvalidHandle, rclpy_implementation.RCLError):
        if subscription in tuple(node.subscriptions):
            raise
        return None


def take(subscription: Subscription) -> Any:
    """The subscription's next message and its info, or None."""
    return subscription.handle.take_message(subscription.msg_type, subscription.raw)


def _call(subscription: Subscription, taken: Any) -> None:
    if subscription._callback_type is Subscription.CallbackType.MessageOnly:
        subscription.callback(taken[0])
    else:
        subscription.callback(*taken)


def _run_coroutine(coroutine: Any) -> None:
    """An event's `execute` is a coroutine that never waits."""
    with contextlib.suppress(StopIteration):
        coroutine.send(None)
