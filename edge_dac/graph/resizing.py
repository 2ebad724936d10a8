"""``Resize`` by a whole number, said in the way that ONNX Runtime runs in its blocked layout.

Exporters write the target size, often computed from the shape of another tensor, and a coordinate rule of PyTorch's own.
ONNX Runtime enlarges maps in its blocked layout, but only where constant ``scales`` and one of the common rules say by how
much; otherwise it reorders the map, enlarges it several times more slowly, and reorders it back. The same function:

1. ``sizes`` become ``scales`` where the model fixes the shapes before and after, and every extent grows by a whole number.
2. ``pytorch_half_pixel`` becomes ``half_pixel`` where, besides, no resized extent of the output is 1; only there they differ.

What computed the sizes goes, if nothing else reads it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edge_dac.errors import InputShapeError
from edge_dac.graph.scopes import attributes, count_uses, drop_unused, is_default_domain, unique_name, value_names, walk
from edge_dac.graph.shapes import Shape, fixed_shapes

_SCALES, _SIZES = 2, 3


def fix_scales(model: onnx.ModelProto) -> None:
    """Rewrite what the rules allow, in place; in the main graph."""
    scope = next(walk(model))
    resizes = [
        node for node in scope.graph.node if node.op_type == "Resize" and is_default_domain(node) and _may_fix(node)
    ]
    if not resizes:
        return
    try:
        shapes = fixed_shapes(model, {name for node in resizes for name in (node.input[0], node.output[0])})
    except InputShapeError:
        return
    names = value_names(model)
    released: set[str] = set()
    for node in resizes:
        scales = _whole_scales(node, shapes)
        if scales is None:
            continue
        released.update(node.input[_SCALES:])
        data, roi = node.input[:_SCALES]
        name = unique_name(f"{node.name or node.output[0]}/scales", names)
        node.input[:] = [data, roi, name]
        scope.add_initializer(numpy_helper.from_array(np.asarray(scales, np.float32), name))
        _use_common_rule(node, scales, shapes[node.output[0]])
    _drop_unread(scope.graph, released)
    drop_unused(model, released - {""})


def _may_fix(node: onnx.NodeProto) -> bool:
    """Whether the node gives sizes for all axes, as they are."""
    values = attributes(node)
    return (
        len(node.input) > _SIZES
        and bool(node.input[_SIZES])
        and "axes" not in values
        and values.get("keep_aspect_ratio_policy", b"stretch") == b"stretch"
        and values.get("coordinate_transformation_mode") != b"tf_crop_and_resize"
    )


def _whole_scales(node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> list[int] | None:
    before, after = (shapes.get(name, (None,)) for name in (node.input[0], node.output[0]))
    scales = []
    for old, new in zip(before, after, strict=False):
        if not old or not new or new % old:
            return None
        scales.append(new // old)
    return scales if len(before) == len(after) == len(scales) else None


def _use_common_rule(node: onnx.NodeProto, scales: Iterable[int], after: Shape) -> None:
    if any(scale > 1 and extent == 1 for scale, extent in zip(scales, after, strict=True)):
        return
    for attribute in node.attribute:
        if attribute.name == "coordinate_transformation_mode" and attribute.s == b"pytorch_half_pixel":
            attribute.CopyFrom(helper.make_attribute(attribute.name, "half_pixel"))


def _drop_unread(graph: onnx.GraphProto, names: set[str]) -> None:
    """Remove nodes that wrote ``names`` where nothing reads any of their outputs, and what only they read."""
    uses = count_uses(graph)
    for index in range(len(graph.node) - 1, -1, -1):
        node = graph.node[index]
        if names.intersection(node.output) and not any(uses[name] for name in node.output):
            uses.subtract(name for name in node.input if name)
            names.update(name for name in node.input if name)
            del graph.node[index]
