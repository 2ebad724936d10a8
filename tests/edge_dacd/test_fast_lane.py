from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import grpc
import pytest
from http2 import CLOSED_WINDOW, PREFACE, begun_call, frame

from edge_dacd.fast_lane import FastLane, LaneCall, open_lane
from edge_dacd.status import RequestError, invalid

LANE, OTHER = "/test.Service/Lane", "/test.Service/Other"
LIMIT = 8
RESOURCE_EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED


class Usual(grpc.GenericRpcHandler):
    """Answers every method the usual way."""

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        return grpc.unary_unary_rpc_method_handler(lambda data, context: b"usual")


class Lane:
    """A server with a lane, whose answers do what a message says."""

    def __init__(self) -> None:
        self.arrived = threading.Semaphore(0)
        self.go = threading.Event()
        self.gone = threading.Event()
        self.remaining_s = 0.0
        self.server = grpc.server(ThreadPoolExecutor(2), handlers=(Usual(),))
        self.lane = FastLane(self.server, {LANE: self._answer}, LIMIT)
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()
        self.lane.start()
        self.channel = grpc.insecure_channel(f"127.0.0.1:{self.port}")
        self.ask = self.channel.unary_unary(LANE)

    def _answer(self, data: bytes, call: LaneCall) -> bytes:
        match data:
            case b"wrong":
                raise invalid("wrong: größer als 1 %")
            case b"broken":
                raise ZeroDivisionError
            case b"tell":
                self.arrived.release()
            case b"wait" | b"wait unannounced":
                self.remaining_s = call.time_remaining()
                call.add_callback(self.gone.set)
                if data == b"wait":
                    call.give_way()
                self.arrived.release()
                assert self.go.wait(20)
        return data[::-1]

    def close(self) -> None:
        self.go.set()
        self.server.stop(20).wait()
        self.lane.close()
        self.channel.close()


@pytest.fixture
def lane() -> Iterator[Lane]:
    made = Lane()
    yield made
    made.close()


def test_the_method_takes_the_lane_and_others_do_not(lane: Lane) -> None:
    assert lane.ask(b"abc", timeout=20) == b"cba"
    assert lane.ask(bytes(range(256)) * 8000, timeout=20) == bytes(range(255, -1, -1)) * 8000
    assert lane.channel.unary_unary(OTHER)(b"abc", timeout=20) == b"usual"


def test_errors_become_statuses(lane: Lane) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        lane.ask(b"wrong", timeout=20)
    assert (caught.value.code(), caught.value.details()) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "wrong: größer als 1 %",
    )


def test_many_at_once_up_to_the_limit(lane: Lane) -> None:
    waiting = [lane.ask.future(b"wait", timeout=20) for _ in range(LIMIT)]
    for _ in waiting:
        assert lane.arrived.acquire(timeout=20)
    assert lane.ask.future(b"abc", timeout=20).code() is RESOURCE_EXHAUSTED
    lane.go.set()
    assert [one.result() for one in waiting] == [b"tiaw"] * LIMIT
    assert lane.ask(b"abc", timeout=20) == b"cba"


@pytest.mark.parametrize("message", [b"wait", b"wait unannounced"])
def test_the_end_of_a_call_is_told(lane: Lane, message: bytes) -> None:
    call = lane.ask.future(message, timeout=15)
    assert lane.arrived.acquire(timeout=20)
    assert 0 < lane.remaining_s < 16
    assert not lane.gone.is_set()
    call.cancel()
    assert lane.gone.wait(20)
    lane.go.set()
    assert lane.ask(b"abc", timeout=20) == b"cba"


def test_one_that_takes_time_and_has_not_said_so_keeps_nobody_waiting(lane: Lane) -> None:
    for _ in range(3):
        call = lane.ask.future(b"wait unannounced", timeout=20)
        assert lane.arrived.acquire(timeout=20)
        assert lane.ask(b"abc", timeout=20) == b"cba"
        lane.go.set()
        assert call.result() == b"decnuonnanu tiaw"
        lane.go.clear()


def test_clients_that_do_not_take_their_answers_make_room(lane: Lane, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_connection(("127.0.0.1", lane.port), timeout=20) as connection:
        connection.sendall(PREFACE + CLOSED_WINDOW)
        for stream in range(1, 2 * LIMIT, 2):
            connection.sendall(begun_call(stream, LANE) + frame(0, 1, stream, b"\0\0\0\0\4tell"))
            assert lane.arrived.acquire(timeout=20)
        monkeypatch.setattr("edge_dacd.fast_lane._UNREAD_S", 60.0)
        assert lane.ask.future(b"abc", timeout=20).code() is RESOURCE_EXHAUSTED
        monkeypatch.setattr("edge_dacd.fast_lane._UNREAD_S", 0.0)
        assert [lane.ask(b"abc", timeout=20) for _ in range(2 * LIMIT)] == [b"cba"] * 2 * LIMIT


def test_quick_calls_stay_on_one_thread(lane: Lane) -> None:
    for _ in range(50):
        assert lane.ask(b"abc", timeout=20) == b"cba"
    waiting = [lane.ask.future(b"wait", timeout=20) for _ in range(3)]
    for _ in waiting:
        assert lane.arrived.acquire(timeout=20)
    working = [
        thread for thread in threading.enumerate() if thread.name.startswith("lane_") and "guard" not in thread.name
    ]
    assert len(working) == len(waiting) + 1
    lane.go.set()
    assert [one.result() for one in waiting] == [b"tiaw"] * 3


def test_no_callback_after_the_end(lane: Lane) -> None:
    call = LaneCall(lane.lane, SimpleNamespace(call_details=SimpleNamespace(deadline=0.0)))
    call.end()
    assert not call.add_callback(lambda: None)
    assert call.time_remaining() == 0


def test_calls_in_flight_end_before_the_lane() -> None:
    lane = Lane()
    call = lane.ask.future(b"wait", timeout=20)
    assert lane.arrived.acquire(timeout=20)
    stopping = lane.server.stop(20)
    lane.go.set()
    assert call.result() == b"tiaw"
    assert stopping.wait(20)
    lane.lane.close()
    lane.channel.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("lane_")]


def test_an_error_that_nobody_expected_does_not_end_the_lane(lane: Lane, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        with pytest.raises(grpc.RpcError, match="internal error"):
            lane.ask(b"broken", timeout=20)
    assert lane.ask(b"abc", timeout=20) == b"cba"
    assert "an event of the fast lane failed" in caplog.messages


def test_no_lane_in_a_grpcio_that_is_another_inside(caplog: pytest.LogCaptureFixture) -> None:
    def answer(data: bytes, call: LaneCall) -> bytes:
        raise RequestError(grpc.StatusCode.INTERNAL, "")

    assert open_lane(object(), {LANE: answer}, LIMIT) is None
    assert caplog.messages == ["no fast lane in this grpcio"]
