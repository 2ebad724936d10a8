"""A short way for the calls of unary methods: the thread that takes a call from gRPC's queue also answers it.

grpcio's own server takes every event from its queue on one thread and answers calls on others; a call changes threads four
times before its handler has the message. Here it never does: a third less processor time for a small answer. The
lane shares server, ports, limits and certificates with grpcio's server, which goes on to serve streams, and all methods
where there is no lane: the way in, ``grpc._cython``, is not public and may change (see :func:`open_lane`).

A call whose message does not come has no thread here, where it would hold one of grpcio's: so a client that sends slowly
takes nobody's place.

One thread takes events, and answers at once what can be answered at once: a second one would be woken for every event, and
both would ask for the interpreter. A call that will take time says so (:meth:`LaneCall.give_way`), and another thread
takes the events from then on. Where one takes time and has not said so, a guard says it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import grpc

from edge_dacd.status import RequestError

_log = logging.getLogger(__name__)
_CALLS_AHEAD = 4
"""Calls that gRPC may hand over before it is asked for the next."""
_UNREAD_S = 1.0
"""A client that has not taken its answer for so long makes room for others."""
_SURPRISE_S = 0.01
"""How often the guard looks whether one call still keeps all others from being answered."""
_NO_FLAGS = 0
_NO_METADATA = ()


class LaneCall:
    """One call: what :class:`grpc.ServicerContext` offers, as far as a unary method needs it."""

    def __init__(self, lane: FastLane, event: Any) -> None:
        self._lane = lane
        self._event = event
        self._callback: Callable[[], None] | None = None
        self._afterwards: Callable[[], None] | None = None
        self._trailing_metadata: tuple[tuple[str, str], ...] = ()
        self._ended = False
        self._gave_way = False

    def time_remaining(self) -> float:
        """Seconds until the client gives up."""
        return max(0.0, float(self._event.call_details.deadline) - time.time())

    def peer(self) -> str:
        """Where the client is, as grpcio names it."""
        peer: str | bytes = self._event.call.peer()
        return peer if isinstance(peer, str) else peer.decode()

    def invocation_metadata(self) -> Any:
        """Pairs of name and value that the client sent."""
        return self._event.invocation_metadata

    def set_trailing_metadata(self, metadata: tuple[tuple[str, str], ...]) -> None:
        """Send these pairs with the status."""
        self._trailing_metadata = metadata

    def is_active(self) -> bool:
        """Whether the client still waits. Nobody is there to tell before :meth:`give_way`."""
        return not self._ended

    def when_answered(self, work: Callable[[], None]) -> None:
        """Do ``work`` as soon as gRPC has the answer, or the refusal. One a call."""
        self._afterwards = work

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """Call ``callback`` at the end of the call; False if that has been already. One a call.

        Before :meth:`give_way` nobody is there to tell of it.
        """
        self._callback = callback
        return not self._ended

    def give_way(self) -> None:
        """Before anything that may take time: from now on others are answered meanwhile, and the end of calls is told."""
        self._lane.give_way(self)

    def end(self) -> None:
        """The client has gone, or has its answer."""
        self._ended = True
        callback, self._callback = self._callback, None
        if callback is not None:
            callback()


Answer = Callable[[bytes, LaneCall], bytes]
"""Gives the answer to a message, or raises RequestError."""


class FastLane:
    """Serves calls on ``server``. Make it before the server starts, :meth:`start` it after.

    Args:
        answers: by path, of each method.
        limit: calls at once; more are refused with RESOURCE_EXHAUSTED: those first whose message does not come, and those
            are given up whose answer is not taken, so that a client that sends or reads slowly takes nobody's place.

    Raises:
        ImportError, AttributeError: this grpcio is another inside.
    """

    def __init__(self, server: grpc.Server, answers: Mapping[str, Answer], limit: int) -> None:
        from grpc._cython import cygrpc

        self._grpc = cygrpc
        self._server = server._cy_server
        self._answers = answers
        self._limit = limit
        self._queue = cygrpc.CompletionQueue()
        self._server.register_completion_queue(self._queue)
        for path in answers:
            self._server.register_method(path)
        self._lock = threading.Lock()
        self._room = threading.Condition(self._lock)
        self._threads: list[threading.Thread] = []
        self._is_polled = False
        """Whether a thread takes events, or answers a call in between."""
        self._in_hand: LaneCall | None = None
        """What that thread answers at the moment."""
        self._parked = 0
        self._calls = 0
        self._begun: dict[LaneCall, None] = {}
        """Calls whose message has not come yet, the oldest first."""
        self._unread: dict[LaneCall, float] = {}
        """Calls whose client has not taken the answer yet, and since when; the oldest first."""
        self._answered = 0
        self._closed = False
        self._is_guarded = threading.Event()
        self._guard = threading.Thread(target=self._watch, name="lane_guard", daemon=True)

    def start(self) -> None:
        """Take calls."""
        for path in self._answers:
            for _ in range(_CALLS_AHEAD):
                self._request_call(path)
        self._guard.start()
        with self._lock:
            self._add_thread()

    def close(self) -> None:
        """End the threads; the server must have stopped before."""
        with self._lock:
            self._closed = True
            self._room.notify_all()
        self._is_guarded.set()
        self._queue.shutdown()
        for thread in (self._guard, *self._threads):
            thread.join()

    # Threads.

    def _add_thread(self) -> None:
        self._is_polled = True
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

    def give_way(self, call: LaneCall) -> None:
        """See :meth:`LaneCall.give_way`."""
        with self._lock:
            if not call._gave_way:
                self._let_others_pass(call)

    def _let_others_pass(self, call: LaneCall) -> None:
        call._gave_way = True
        self._in_hand = None
        self._is_polled = False
        if self._parked:
            self._room.notify()
        else:
            self._add_thread()

    def _step_in(self) -> None:
        """Take events again, as soon as nobody does."""
        with self._lock:
            self._parked += 1
            while self._is_polled and not self._closed:
                self._room.wait()
            self._parked -= 1
            self._is_polled = True

    def _watch(self) -> None:
        """The guard: a call that is still in hand when it looks again has to give way."""
        seen: LaneCall | None = None
        answered = 0
        while self._is_guarded.wait() and not self._closed:
            time.sleep(_SURPRISE_S)
            with self._lock:
                if seen is not None and self._in_hand is seen:
                    self._let_others_pass(seen)
                seen = self._in_hand
            if seen is None and answered == self._answered:
                # Nothing to do: sleep until the next call. One that comes just now is seen here, or sees the flag.
                self._is_guarded.clear()
                if self._in_hand is not None or self._closed:
                    self._is_guarded.set()
            answered = self._answered

    # Events of a call, in their order.

    def _request_call(self, path: str) -> None:
        try:
            self._server.request_registered_call(self._queue, self._queue, path, partial(self._arrived, path))
        except ValueError:
            _log.debug("the server stops")

    def _arrived(self, path: str, event: Any) -> None:
        if not event.success:  # the server stops
            return
        self._request_call(path)
        call = LaneCall(self, event)
        with self._lock:
            self._calls += 1
            refused = self._make_room(call) if self._calls > self._limit else None
            if refused is not call:
                self._begun[call] = None
        event.call.start_server_batch(
            (self._grpc.ReceiveCloseOnServerOperation(_NO_FLAGS),), lambda _: self._ended(call)
        )
        if refused is not None:
            message = f"expected at most {self._limit} calls at once"
            self._send(refused, grpc.StatusCode.RESOURCE_EXHAUSTED, message, None)
        if refused is call:
            return
        event.call.start_server_batch(
            (self._grpc.ReceiveMessageOperation(_NO_FLAGS),), lambda received: self._received(path, call, received)
        )

    def _make_room(self, call: LaneCall) -> LaneCall | None:
        """Who is refused in favour of others, ``call`` if nobody else can be; None where one was given up for it."""
        if self._begun:
            oldest = next(iter(self._begun))
            del self._begun[oldest]
            return oldest
        for unread, since in self._unread.items():
            if time.monotonic() - since < _UNREAD_S:
                break
            del self._unread[unread]
            unread._event.call.cancel(self._grpc.StatusCode.cancelled, "the answer was not taken")
            return None
        return call

    def _received(self, path: str, call: LaneCall, event: Any) -> None:
        with self._lock:
            if call not in self._begun:  # it was refused meanwhile
                return
            del self._begun[call]
        data = event.batch_operations[0].message()
        if data is None:
            self._send(call, grpc.StatusCode.INVALID_ARGUMENT, "expected one message, got none", None)
            return
        self._in_hand = call
        if not self._is_guarded.is_set():
            self._is_guarded.set()
        try:
            self._send(call, grpc.StatusCode.OK, "", self._answers[path](data, call))
        except RequestError as error:
            self._send(call, error.code, error.message, None)
        except Exception:
            self._send(call, grpc.StatusCode.INTERNAL, "internal error", None)
            raise
        finally:
            if call._afterwards is not None:
                call._afterwards()
            with self._lock:
                gave_way = call._gave_way
                if not gave_way:
                    self._in_hand = None
            self._answered += 1
            if gave_way:
                self._step_in()

    def _send(self, call: LaneCall, code: grpc.StatusCode, details: str, answer: bytes | None) -> None:
        operations = [
            self._grpc.SendInitialMetadataOperation(_NO_METADATA, _NO_FLAGS),
            self._grpc.SendStatusFromServerOperation(
                call._trailing_metadata, code.value[0], details.encode(), _NO_FLAGS
            ),
        ]
        if answer is not None:
            operations.append(self._grpc.SendMessageOperation(answer, _NO_FLAGS))
        with self._lock:
            if not call._ended:
                self._unread[call] = time.monotonic()
        call._event.call.start_server_batch(operations, _sent)

    def _ended(self, call: LaneCall) -> None:
        with self._lock:
            self._calls -= 1
            call._ended = True
            self._unread.pop(call, None)
        call.end()


def _sent(event: Any) -> None:
    """Nothing is left to do."""


def open_lane(server: grpc.Server, answers: Mapping[str, Answer], limit: int) -> FastLane | None:
    """A lane on ``server``, or None where this grpcio is another inside; then the methods take the usual way."""
    try:
        return FastLane(server, answers, limit)
    except (ImportError, AttributeError) as error:
        _log.warning("no fast lane in this grpcio", extra={"grpcio": grpc.__version__, "reason": str(error)})
        return None
