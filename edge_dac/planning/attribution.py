"""Which layer a profiled node belongs to.

ONNX Runtime renames what it fuses: a node in its blocked layout carries the name of its output tensor and a suffix, a
fused activation gives its output's name to the whole, layout reorders appear under names of their own. Names that no rule
explains stay unattributed and count as the rest of the model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import onnx

_FOLLOWERS = frozenset(
    {"Relu", "Clip", "LeakyRelu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Elu", "PRelu", "Add", "Sum"}
    | {"BatchNormalization", "Gelu", "Erf"}
)
"""Operators that ONNX Runtime may fuse into the convolution before them; they count with it, fused or not."""

_INSERTED_TRANSPOSE = re.compile(r"^Transpose(_token_\d+)?$")
"""Between the layouts of real and integer convolutions."""

_DECORATION = re.compile(r"^fused |(_nchwc|_token_\d+|_\d+_fused)$")


class Attribution:
    """Maps profiled node names of one model to layer names.

    Args:
        model: the model before ONNX Runtime's optimizations.
        layers: names of its layers; nodes that replace a layer are named ``<layer>/<suffix>``.
    """

    def __init__(self, model: onnx.ModelProto, layers: Iterable[str]) -> None:
        names = frozenset(layers)
        self._owner: dict[str, str] = {name: name for name in names}
        made_at: dict[str, int] = {}
        for position, node in enumerate(model.graph.node):
            made_at.update((output, position) for output in node.output)
            owner = self._find(node.name) or next((o for o in map(self._find, node.output) if o in names), None)
            if owner is None and node.op_type in _FOLLOWERS:
                latest = max((name for name in node.input if name in made_at), key=made_at.__getitem__, default="")
                owner = self._owner.get(latest)
            if owner is not None:
                self._owner.update((name, owner) for name in (node.name, *node.output) if name)

    def _find(self, name: str) -> str | None:
        """The owner of a name, or of the longest prefix of it that ends before a slash."""
        while name:
            if name in self._owner:
                return self._owner[name]
            name = name.rpartition("/")[0]
        return None

    def layer_ms(self, node_ms: Mapping[str, float]) -> dict[str, float]:
        """Milliseconds by layer from milliseconds by profiled node (in execution order).

        A reorder into the blocked layout counts for the layer that runs after it. One out of it counts for the layer
        that runs after it if that reads the plain layout in nodes of its own, else for the one before.
        """
        totals: dict[str, float] = {}
        before: str | None = None
        pending_ms = 0.0
        names = list(node_ms)
        for name, following in zip(names, [*names[1:], ""], strict=True):
            spent_ms = node_ms[name]
            if name.startswith("ReorderInput"):
                pending_ms += spent_ms
                continue
            if name.startswith("ReorderOutput"):
                owner = self._written_owner(following) or before
            elif _INSERTED_TRANSPOSE.match(name) and self._find(name) is None:
                owner = before
            else:
                owner = self._owner_of_profiled(name)
                if owner is not None:
                    spent_ms += pending_ms
                    pending_ms = 0.0
                    before = owner
            if owner is not None:
                totals[owner] = totals.get(owner, 0.0) + spent_ms
        return totals

    def _written_owner(self, name: str) -> str | None:
        """The layer that a node belongs to which a lowering wrote and ONNX Runtime left as it is; None for others."""
        owner = self._find(name)
        return owner if owner is not None and name.startswith(f"{owner}/") and not _DECORATION.search(name) else None

    def _owner_of_profiled(self, name: str) -> str | None:
        while True:
            owner = self._find(name)
            if owner is not None:
                return owner
            plain = _DECORATION.sub("", name)
            if plain == name:
                return None
            name = plain
