"""A serialized model in parts is the model."""

from __future__ import annotations

import io

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from edge_dac.graph.wire_format import WireFormatError, head_of, take_apart, varint

LEAST = 200


def _model(sizes: list[int], seed: int) -> onnx.ModelProto:
    rng = np.random.default_rng(seed)
    constants = [numpy_helper.from_array(rng.normal(size=size), f"c{index}") for index, size in enumerate(sizes)]
    nodes = [helper.make_node("Identity", [f"c{index}"], [f"y{index}"]) for index in range(len(sizes))]
    outputs = [onnx.ValueInfoProto(name=f"y{index}") for index in range(len(sizes))]
    return helper.make_model(helper.make_graph(nodes, "g", [], outputs, constants), ir_version=8)


@given(sizes=st.lists(st.integers(0, 60), max_size=6), seed=st.integers(0, 2**32 - 1))
def test_the_parts_are_all_there(sizes: list[int], seed: int) -> None:
    model = _model(sizes, seed)
    content = model.SerializeToString()
    parts = take_apart(io.BytesIO(content), len(content), LEAST)
    assert set(parts.places) == {index for index, size in enumerate(sizes) if 8 * size >= LEAST}
    rest = onnx.ModelProto.FromString(parts.rest)
    for index, (begin, size) in parts.places.items():
        assert rest.graph.initializer[index].raw_data == b""
        rest.graph.initializer[index].raw_data = content[begin : begin + size]
    assert rest == model


@given(cut=st.integers(1, 900))
def test_what_is_cut_off_is_told_or_short(cut: int) -> None:
    content = _model([40, 3], 0).SerializeToString()
    short = content[: max(len(content) - cut, 1)]
    try:
        parts = take_apart(io.BytesIO(short), len(short), LEAST)
    except WireFormatError:
        return
    assert len(parts.rest) <= len(short)


@given(content=st.binary(max_size=100))
def test_any_bytes_are_taken_or_refused(content: bytes) -> None:
    try:
        take_apart(io.BytesIO(content), len(content), 0)
    except WireFormatError:
        return


def test_a_file_that_shrinks_is_refused() -> None:
    content = _model([40], 0).SerializeToString()
    with pytest.raises(WireFormatError):
        take_apart(io.BytesIO(content[:-5]), len(content), LEAST)


@given(number=st.integers(0, 2**63 - 1))
def test_numbers_are_written_as_protobuf_does(number: int) -> None:
    entry = onnx.OperatorSetIdProto(version=number)
    assert varint(2 << 3) + varint(number) == entry.SerializeToString()
    assert head_of(7, 5) == b"\x3a\x05"
