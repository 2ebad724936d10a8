"""Does the data-free score rank plans as true accuracy does? Random plans of ddddocr, fitted to synthetic images.

``python -m benchmarks.fidelity_ranking [PLANS]`` prints one line a plan and the rank correlations at the end.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import onnx

from benchmarks.tasks.captcha_ocr import CaptchaOcr
from edge_dac.convolution import ConvLayer, Factorization
from edge_dac.graph.canonical import canonicalize
from edge_dac.graph.layers import Inventory, find_layers
from edge_dac.graph.loading import load_model
from edge_dac.graph.rewriting import replace_layers
from edge_dac.lowerings import LOWERINGS
from edge_dac.lowerings.lowering import LoweredLayer
from edge_dac.schemes import SCHEMES
from edge_dac.schemes.error import layer_error
from edge_dac.schemes.scheme import Moments
from edge_dac.statistics.execution import Inputs, extract, feeds, open_session
from edge_dac.statistics.images import synthetic_inputs
from edge_dac.statistics.input_spec import infer_input_specs
from edge_dac.statistics.moments import collect_moments
from edge_dac.statistics.output_error import comparable_tensors, output_error, output_spreads

FRACTIONS = (0.72, 0.5, 0.36, 0.25, 0.16, 0.1)
PROBE_ERROR = 0.06
NEAR = (0.03, 0.12)
"""Differences of accuracy between which two plans count as a near tie that can still be told apart."""

Fit = tuple[Factorization, float]


class Ranking:
    """The network, its fits, and the scores of plans made of them."""

    def __init__(self) -> None:
        self.task = CaptchaOcr()
        self.shapes = dict(self.task.input_shapes)
        loaded = load_model(self.task.model_path())
        specs = infer_input_specs(loaded, self.shapes)
        self.model = canonicalize(loaded)
        self.inventory: Inventory = find_layers(self.model, self.shapes)
        self.tensors = comparable_tensors(self.model)
        self.held_out: Inputs = synthetic_inputs(specs, 15, 1234)
        self.layers = [layer for layer in self.inventory.layers if min(layer.weight.shape[:2]) >= 16 and layer.axes]
        fitting = collect_moments(self.model, self.layers, synthetic_inputs(specs, 24, 3), self.shapes, seed=4)
        judging = collect_moments(self.model, self.layers, synthetic_inputs(specs, 10, 77), self.shapes, seed=5)
        self.fits: dict[str, list[Fit]] = {}
        by_name = {layer.name: layer for layer in self.layers}
        for (name, moments), (_, held_out) in zip(fitting, judging, strict=True):
            self.fits[name] = list(_fits(by_name[name], moments, held_out))
        self.reference = self.answers({})
        self.spreads = output_spreads(self.reference)

    def answers(self, choice: Mapping[str, Factorization]) -> list[list[np.ndarray]]:
        session = open_session(extract(self.rewrite(choice), self.tensors), threads=1)
        names = [value.name for value in session.get_inputs()]
        return [session.run(None, feed) for feed in feeds(self.held_out, self.shapes, names)]

    def rewrite(self, choice: Mapping[str, Factorization]) -> onnx.ModelProto:
        def replacement(factorization: Factorization) -> Callable[[ConvLayer, str, str], LoweredLayer]:
            def replace(layer: ConvLayer, source: str, target: str) -> LoweredLayer:
                return LOWERINGS["direct"].lower(layer, factorization, source, target)

            return replace

        return replace_layers(self.model, self.inventory, {name: replacement(f) for name, f in choice.items()})

    def joint_error(self, choice: Mapping[str, Factorization]) -> float:
        pairs = zip(self.reference, self.answers(choice), strict=True)
        return float(np.mean([output_error(reference, answer, self.spreads) for reference, answer in pairs]))

    def slopes(self) -> dict[str, float]:
        slopes = {}
        for name, fits in self.fits.items():
            factorization, error = min(fits, key=lambda fit: abs(np.log(fit[1] / PROBE_ERROR)))
            slopes[name] = self.joint_error({name: factorization}) / error
        return slopes

    def accuracy(self, choice: Mapping[str, Factorization]) -> float:
        session = open_session(self.rewrite(choice), threads=1)
        return self.task.evaluate(lambda inputs: list(session.run(None, inputs)))["accuracy"]


def _fits(layer: ConvLayer, moments: Moments, held_out: Moments) -> Iterator[Fit]:
    for name in ("spatial_vh", "spatial_hv") if min(layer.kernel) > 1 else ("channel",):
        scheme = SCHEMES[name]
        decomposition = scheme.decompose(layer, moments)
        for rank in scheme.candidate_ranks(layer, FRACTIONS):
            factorization = decomposition.at(rank)
            yield factorization, layer_error(layer, factorization, held_out)


def random_plan(rng: np.random.Generator, fits: Mapping[str, list[Fit]]) -> dict[str, Fit]:
    """A plan whose layer errors add up to a number drawn between 0.2 and 2.4, the best of 300 tries."""
    target, best, distance = rng.uniform(0.2, 2.4), {}, np.inf
    for _ in range(300):
        share = rng.uniform(0.3, 1.0)
        plan = {name: some[rng.integers(len(some))] for name, some in fits.items() if some and rng.uniform() < share}
        if abs(sum(error for _, error in plan.values()) - target) < distance:
            best, distance = plan, abs(sum(error for _, error in plan.values()) - target)
    return best


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's rho; ties share the mean of their ranks."""

    def ranks(values: np.ndarray) -> np.ndarray:
        _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
        return (np.cumsum(counts) - (counts - 1) / 2)[inverse]

    return float(np.corrcoef(ranks(first), ranks(second))[0, 1])


def near_ties_right(score: np.ndarray, accuracy: np.ndarray) -> float:
    """Share of the near ties in which the plan of lower score is the more accurate one."""
    gain = accuracy[:, None] - accuracy
    pairs = (gain > NEAR[0]) & (gain < NEAR[1])
    return float(np.mean((score[:, None] < score)[pairs])) if pairs.any() else float("nan")


def main(plans: int = 40) -> None:
    ranking, rng = Ranking(), np.random.default_rng(0)
    slopes = ranking.slopes()
    rows = []
    for index in range(plans):
        plan = random_plan(rng, ranking.fits)
        choice = {name: factorization for name, (factorization, _) in plan.items()}
        total = sum(error for _, error in plan.values())
        weighted = sum(slopes[name] * error for name, (_, error) in plan.items())
        rows.append((ranking.accuracy(choice), total, weighted, ranking.joint_error(choice)))
        print(f"{index}: accuracy %.4f, sum %.3f, slopes %.3f, joint %.4f" % rows[-1], flush=True)
    accuracy, total, weighted, joint = np.array(rows).T
    scores = {"sum": total, "sum of slope x error": weighted, "joint": joint, "joint x slopes": joint * weighted}
    for name, score in scores.items():
        rho, right = rank_correlation(score, -accuracy), near_ties_right(score, accuracy)
        print(f"{name:22} rank correlation {rho:.3f}, near ties right {right:.2f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
