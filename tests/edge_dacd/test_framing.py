from __future__ import annotations

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_dac import wire
from edge_dacd.framing import (
    AnswerFrame,
    ModelInferRequest,
    ModelInferResponse,
    ModelStreamInferResponse,
    RequestHead,
    parse_request,
    serialize_answer,
    serialize_stream_error,
    serialize_streamed,
)

WholeRequest = wire.message("inference.ModelInferRequest")


@settings(deadline=None, max_examples=60)
@given(st.lists(st.binary(max_size=300)), st.text(max_size=20), st.lists(st.integers(0, 2**60), max_size=4))
def test_a_request_is_split_as_protobuf_would(raw: list[bytes], name: str, shape: list[int]) -> None:
    whole = ModelInferRequest(model_name=name, id="1", raw_input_contents=raw)
    whole.inputs.add(name=name, datatype="FP32", shape=shape)
    request = parse_request(whole.SerializeToString())
    assert [bytes(view) for view in request.raw] == raw
    assert request.id == "1"
    whole.ClearField("raw_input_contents")
    whole.ClearField("id")
    assert request.head.message == whole


def test_raw_contents_are_views_of_the_received_bytes() -> None:
    data = ModelInferRequest(model_name="m", raw_input_contents=[b"abc"]).SerializeToString()
    view = parse_request(data).raw[0]
    assert isinstance(view, memoryview)
    assert view.obj is data


def test_fields_in_any_order() -> None:
    head = ModelInferRequest(model_name="m").SerializeToString()
    raw = ModelInferRequest(raw_input_contents=[b"a", b"b"]).SerializeToString()
    ids = [ModelInferRequest(id=text).SerializeToString() for text in ("first", "größer")]
    request = parse_request(raw + ids[0] + head + ids[1] + raw)
    assert [bytes(view) for view in request.raw] == [b"a", b"b", b"a", b"b"]
    assert request.head.message == ModelInferRequest(model_name="m")
    assert request.id == "größer"


def test_heads_are_kept_as_long_as_they_are_small() -> None:
    def head(name: str, request_id: str) -> RequestHead:
        data = ModelInferRequest(model_name=name, id=request_id, raw_input_contents=[request_id.encode()])
        return parse_request(data.SerializeToString()).head

    assert head("m", "1") is head("m", "2")
    assert head("m", "1") is not head("n", "1")
    assert head("m" * 3000, "1") is not head("m" * 3000, "1")


@settings(deadline=None, max_examples=60)
@given(st.binary(max_size=60))
def test_any_bytes_are_accepted_exactly_when_protobuf_accepts_them(data: bytes) -> None:
    try:
        expected = WholeRequest.FromString(data)
    except DecodeError:
        expected = None
    try:
        request = parse_request(data)
    except DecodeError:
        return  # groups and fields that no client of the protocol sends may be refused
    assert expected is not None
    assert [bytes(view) for view in request.raw] == list(expected.raw_input_contents)
    assert (request.head.message.model_name, request.id) == (expected.model_name, expected.id)


@pytest.mark.parametrize("data", [b"\x3a", b"\x3a\x05ab", b"\xff" * 11, b"\x0b\x0c", b"\x0d\x01", b"\x1a\x01\xff"])
def test_broken_bytes(data: bytes) -> None:
    with pytest.raises(DecodeError):
        parse_request(data)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.binary(max_size=300)))
def test_an_answer_is_what_protobuf_would_write(raw: list[bytes]) -> None:
    message = ModelInferResponse(model_name="m")
    message.outputs.add(name="y", datatype="FP32", shape=[1, 2])
    parts = AnswerFrame(message, [len(content) for content in raw]).fill("größer", list(map(memoryview, raw)))
    expected = ModelInferResponse()
    expected.CopyFrom(message)
    expected.id = "größer"
    expected.raw_output_contents.extend(raw)
    assert ModelInferResponse.FromString(serialize_answer(parts)) == expected
    expected.parameters["triton_final_response"].bool_param = True
    assert ModelStreamInferResponse.FromString(serialize_streamed(parts)).infer_response == expected


def test_stream_error() -> None:
    response = ModelStreamInferResponse.FromString(serialize_stream_error("7", "no"))
    assert (response.error_message, response.infer_response.id) == ("no", "7")
