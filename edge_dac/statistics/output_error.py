"""How far a rewritten model's outputs are from the original's: the predictor of damage that needs no labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx

from edge_dac.graph.pointwise import LAYERS
from edge_dac.statistics.execution import Array
from edge_dac.statistics.selection import chosen_from

_SQUASHING = frozenset({"Softmax", "LogSoftmax", "Sigmoid", "HardSigmoid"})
_SHAPING = frozenset(
    {"Identity", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Cast", "Concat", "Slice", "Dropout"}
)


def output_spreads(references: Sequence[Sequence[Array]]) -> list[float]:
    """By output: sum of squared deviations from the mean over all runs, for one run.

    Over all, since an output may be a single number, which varies from run to run only. Never below a millionth of
    the sum of squares, so that constant outputs give large errors, not infinite ones.

    Args:
        references: what the original answers, run by run.
    """
    return [_spread(answers) for answers in zip(*references, strict=True)]


def has_variety(references: Sequence[Sequence[Array]]) -> bool:
    """Whether any output holds different finite numbers: else nothing can be judged by them."""
    outputs = (np.concatenate([np.ravel(answer) for answer in answers]) for answers in zip(*references, strict=True))
    return any(np.unique(numbers[np.isfinite(numbers)]).size > 1 for numbers in outputs)


def output_error(reference: Sequence[Array], outputs: Sequence[Array], spreads: Sequence[float]) -> float:
    """Relative squared error of one run's outputs, averaged over the outputs.

    0 is no error; a mean of 1 over the runs is as far off as answering with a constant, which is also what an answer of
    other extents counts for: models that go on until they have seen enough may stop one turn earlier. Infinite where an
    answer is not finite or of another number of axes; where the original's is not finite, any will do.

    Args:
        reference: what the original answers.
        outputs: what the rewritten model answers, in the same order.
        spreads: from :func:`output_spreads`, over all runs.
    """
    errors = [_relative(*answers) for answers in zip(reference, outputs, spreads, strict=True)]
    mean = float(np.mean(errors)) if errors else 0.0
    return mean if np.isfinite(mean) else float("inf")


def comparable_tensors(model: onnx.ModelProto) -> tuple[str, ...]:
    """The tensors that stand for the outputs: numbers before a final softmax or sigmoid, and before a choice among them."""
    producers = {name: node for node in model.graph.node for name in node.output if name}
    found: dict[str, None] = {}
    for output in model.graph.output:
        if output.name not in producers:
            continue
        for name in chosen_from(model.graph, output.name):
            found.update(dict.fromkeys(_before_squashing(producers, name) or [name]))
    return tuple(found)


def features_behind(model: onnx.ModelProto, tensor: str) -> str | None:
    """What the last layer on the way to ``tensor`` reads; None where that is an input of the model, or a weight.

    A few numbers, two logits say, hardly move on synthetic inputs whatever is lost before them; the features that they are
    made of tell it.
    """
    producers = {name: node for node in model.graph.node for name in node.output if name}
    while tensor in producers:
        node = producers[tensor]
        sources = [name for name in node.input if name in producers]
        if node.op_type in LAYERS:
            return node.input[0] if node.input[0] in producers else None
        if not sources:
            return None
        tensor = sources[0]
    return None


def _before_squashing(producers: Mapping[str, onnx.NodeProto], name: str) -> list[str]:
    """Tensors under the reshaping at the end of the graph, if one of them is squashed; else nothing."""
    leaves: list[str] = []
    squashed = False
    pending, seen = [name], {name}
    while pending:
        current = pending.pop()
        node = producers.get(current)
        if node is None:
            continue
        if node.op_type in _SQUASHING and node.input[0] in producers:
            squashed = True
            leaves.append(node.input[0])
        elif node.op_type in _SHAPING:
            sources = node.input if node.op_type == "Concat" else node.input[:1]
            pending.extend(source for source in sources if source not in seen)
            seen.update(sources)
        else:
            leaves.append(current)
    return leaves[::-1] if squashed else []


def _relative(wanted: Array, got: Array, spread: float) -> float:
    if wanted.ndim != got.ndim:
        return float("inf")
    if wanted.shape != got.shape:
        return 1.0 if np.isfinite(got).all() else float("inf")
    known = np.isfinite(wanted)
    return float(np.square(np.subtract(got, wanted, where=known, out=np.zeros(wanted.shape))).sum()) / spread


def _spread(answers: Sequence[Array]) -> float:
    """Of one output, run by run."""
    numbers = np.concatenate([np.ravel(answer) for answer in answers]).astype(np.float64)
    numbers = numbers[np.isfinite(numbers)]
    energy = float(np.square(numbers).sum())
    deviation = float(np.square(numbers - numbers.mean()).sum()) if numbers.size else 0.0
    return max(deviation, 1e-6 * energy, 1e-30) / len(answers)
