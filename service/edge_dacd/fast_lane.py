"""A short way for the calls of one unary method: the thread that takes a call from gRPC's queue also answers it.

grpcio's own server takes every event from its queue on one thread and answers calls on others; a call changes threads four
times before its handler has the message. Here it never does: a third less processor time for a small answer. The
lane shares server, ports, limits and certificates with grpcio's server, which goes on to serve all other methods, and
this one too where there is no lane: the way in, ``grpc._cython``, is not public and may change (see :func:`open_lane`).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import grpc

from edge_dacd.status import RequestError

_log = logging.getLogger(__name__)
_POLLERS = 2
"""Threads that wait for events at once. One must, whatever the others do; with two there is rarely one to be woken."""
_CALLS_AHEAD = 4
"""Calls that gRPC may hand over before it is asked for the next."""
_NO_FLAGS = 0
_NO_METADATA = ()


class LaneCall:
    """One call: what :class:`grpc.ServicerContext` offers, as far as a unary method needs it."""

    def __init__(self, call: Any, deadline_s: float) -> None:
        self._call = call
        self._deadline_s = deadline_s
        self._callback: Callable[[], None] | None = None
        self._ended = False

    def time_remaining(self) -> float:
        """Seconds until the client gives up."""
        return max(0.0, self._deadline_s - time.time())

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """Call ``callback`` at the end of the call; False if that has been already. One a call."""
        self._callback = callback
        return not self._ended

    def end(self) -> None:
        """The client has gone, or has its answer."""
        self._ended = True
        if self._callback is not None:
            self._callback()


Answer = Callable[[bytes, LaneCall], bytes]
"""Gives the answer to a message, or raises RequestError."""


class FastLane:
    """Serves the calls of the method ``path`` on ``server``. Make it before the server starts, :meth:`start` it after.

    Args:
        limit: calls at once; more are refused with RESOURCE_EXHAUSTED.

    Raises:
        ImportError, AttributeError: this grpcio is another inside.
    """

    def __init__(self, server: grpc.Server, path: str, answer: Answer, limit: int) -> None:
        from grpc._cython import cygrpc

        self._grpc = cygrpc
        self._server = server._cy_server
        self._path = path
        self._answer = answer
        self._limit = limit
        self._queue = cygrpc.CompletionQueue()
        self._server.register_completion_queue(self._queue)
        self._server.register_method(path)
        self._lock = threading.Lock()
        self._room = threading.Condition(self._lock)
        self._threads: list[threading.Thread] = []
        self._polling = 0
        self._parked = 0
        self._calls = 0
        self._closed = False

    def start(self) -> None:
        """Take calls."""
        for _ in range(_CALLS_AHEAD):
            self._request_call()
        with self._lock:
            for _ in range(_POLLERS):
                self._add_thread()

    def close(self) -> None:
        """End the threads; the server must have stopped before."""
        with self._lock:
            self._closed = True
            self._room.notify_all()
        self._queue.shutdown()
        for thread in self._threads:
            thread.join()

    # Threads.

    def _add_thread(self) -> None:
        self._polling += 1
        thread = threading.Thread(target=self._work, name=f"lane_{len(self._threads)}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _work(self) -> None:
        shutdown = self._grpc.CompletionType.queue_shutdown
        while (event := self._queue.poll()).completion_type != shutdown:
            try:
                event.tag(event)
            except Exception:  # noqa: BLE001 - a call that fails must not take the lane with it
                _log.exception("an event of the fast lane failed")
            # It holds the call, which must be gone before the queue can end.
            del event

    def _step_out(self) -> None:
        """This thread has something to do; see to it that another takes the events."""
        with self._lock:
            self._polling -= 1
            if self._polling == 0:
                if self._parked:
                    self._room.notify()
                else:
                    self._add_thread()

    def _step_in(self) -> None:
        """Take events again, as soon as not too many do."""
        with self._lock:
            self._parked += 1
            while self._polling >= _POLLERS and not self._closed:
                self._room.wait()
            self._parked -= 1
            self._polling += 1

    # Events of a call, in their order.

    def _request_call(self) -> None:
        try:
            self._server.request_registered_call(self._queue, self._queue, self._path, self._arrived)
        except ValueError:
            _log.debug("the server stops")

    def _arrived(self, event: Any) -> None:
        if not event.success:  # the server stops
            return
        self._request_call()
        with self._lock:
            self._calls += 1
            full = self._calls > self._limit
        call = LaneCall(event.call, event.call_details.deadline)
        event.call.start_server_batch(
            (self._grpc.ReceiveCloseOnServerOperation(_NO_FLAGS),), lambda _: self._ended(call)
        )
        if full:
            self._send(call, grpc.StatusCode.RESOURCE_EXHAUSTED, f"expected at most {self._limit} calls at once", None)
            return
        event.call.start_server_batch(
            (self._grpc.ReceiveMessageOperation(_NO_FLAGS),), lambda received: self._received(call, received)
        )

    def _received(self, call: LaneCall, event: Any) -> None:
        data = event.batch_operations[0].message()
        if data is None:
            self._send(call, grpc.StatusCode.INVALID_ARGUMENT, "expected one message, got none", None)
            return
        self._step_out()
        try:
            self._send(call, grpc.StatusCode.OK, "", self._answer(data, call))
        except RequestError as error:
            self._send(call, error.code, error.message, None)
        finally:
            self._step_in()

    def _send(self, call: LaneCall, code: grpc.StatusCode, details: str, answer: bytes | None) -> None:
        operations = [
            self._grpc.SendInitialMetadataOperation(_NO_METADATA, _NO_FLAGS),
            self._grpc.SendStatusFromServerOperation(_NO_METADATA, code.value[0], details.encode(), _NO_FLAGS),
        ]
        if answer is not None:
            operations.append(self._grpc.SendMessageOperation(answer, _NO_FLAGS))
        call._call.start_server_batch(operations, _sent)

    def _ended(self, call: LaneCall) -> None:
        with self._lock:
            self._calls -= 1
        call.end()


def _sent(event: Any) -> None:
    """Nothing is left to do."""


def open_lane(server: grpc.Server, path: str, answer: Answer, limit: int) -> FastLane | None:
    """A lane on ``server``, or None where this grpcio is another inside; then the method takes the usual way."""
    try:
        return FastLane(server, path, answer, limit)
    except (ImportError, AttributeError) as error:
        _log.warning("no fast lane in this grpcio", extra={"grpcio": grpc.__version__, "reason": str(error)})
        return None
