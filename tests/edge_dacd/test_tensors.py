from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from edge_dacd.status import RequestError
from edge_dacd.tensors import BY_NAME, TensorSpec, decode_raw, encode_raw

NUMERIC = sorted(set(BY_NAME) - {"BYTES"})


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_numbers_go_there_and_back(data: st.DataObject) -> None:
    datatype = BY_NAME[data.draw(st.sampled_from(NUMERIC))]
    shape = data.draw(nps.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
    array = data.draw(nps.arrays(datatype.numpy, shape))
    encoded = bytes(encode_raw(array))
    assert encoded == array.astype(datatype.numpy.newbyteorder("<")).tobytes()
    decoded = decode_raw(datatype, shape, encoded, "x")
    assert decoded.shape == shape
    assert decoded.tobytes() == array.tobytes()


@settings(deadline=None, max_examples=60)
@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), max_size=6))
def test_strings_go_there_and_back(texts: list[str]) -> None:
    array = np.array(texts, dtype=np.object_)
    decoded = decode_raw(BY_NAME["BYTES"], [len(texts)], encode_raw(array), "x")
    assert decoded.tolist() == texts


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=40), st.integers(0, 5))
def test_any_bytes_are_strings_or_refused(data: bytes, count: int) -> None:
    try:
        decoded = decode_raw(BY_NAME["BYTES"], [count], data, "x")
    except RequestError:
        return
    assert bytes(encode_raw(decoded)) == data


def test_views_where_nothing_must_change() -> None:
    data = np.arange(6, dtype=np.float32).tobytes()
    decoded = decode_raw(BY_NAME["FP32"], [2, 3], data, "x")
    assert np.shares_memory(decoded, np.frombuffer(data, np.uint8))
    array = np.arange(6, dtype=np.float16).reshape(2, 3)
    assert np.shares_memory(np.asarray(encode_raw(array)), array)
    assert bytes(encode_raw(array.T)) == array.T.tobytes()


@pytest.mark.parametrize(
    ("spec", "shape", "fits"),
    [
        ((2, 3), (2, 3), True),
        ((2, 3), (3, 2), False),
        ((2, 3), (2, 3, 1), False),
        ((-1, 3), (0, 3), True),
        ((-1, 3), (7, 3), True),
        ((-1, -1), (7,), False),
        ((), (), True),
        ((), (1,), False),
        ((-1,), (-1,), False),
        ((-1, -1), (1 << 40, 2), False),
    ],
)
def test_shapes(spec: tuple[int, ...], shape: tuple[int, ...], fits: bool) -> None:
    tensor = TensorSpec("x", BY_NAME["FP32"], spec)
    if fits:
        tensor.check(shape, "x")
    else:
        with pytest.raises(RequestError):
            tensor.check(shape, "x")
