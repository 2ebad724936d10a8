"""All schemes at all ranks for all layers of VGG16 with its dense head: seconds by scheme, and the memory it takes.

Weights alone, seeded; layers one after the other, as planning does it. Of the large products, at the ranks that planners are
offered.

Usage: python -m benchmarks.decompositions [--threads 2]
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from edge_dac.convolution import ConvAttributes, ConvLayer, Rank
from edge_dac.planning.candidates import FRACTIONS
from edge_dac.schemes import SCHEMES
from edge_dac.schemes.channel import LARGE_WEIGHT

Shape = tuple[str, int, int, int]
"""Name, outputs, inputs, and height and width of the map; 0 for a product."""


def vgg16_shapes() -> list[Shape]:
    """Its 13 convolutions 3x3 and 3 products, at 224 x 224."""
    shapes: list[Shape] = []
    inputs, size = 3, 224
    for block, (outputs, repeats) in enumerate(((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)), start=1):
        for index in range(1, repeats + 1):
            shapes.append((f"conv{block}_{index}", outputs, inputs, size))
            inputs = outputs
        size //= 2
    return [*shapes, ("fc6", 4096, 512 * 7 * 7, 0), ("fc7", 4096, 4096, 0), ("fc8", 1000, 4096, 0)]


def seeded_layer(shape: Shape) -> ConvLayer:
    """A layer of normally distributed weights."""
    name, outputs, inputs, size = shape
    kernel = (3, 3) if size else ()
    weight = np.random.default_rng(outputs + inputs).standard_normal((outputs, inputs, *kernel), np.float32)
    weight *= np.float32(np.sqrt(2 / weight[0].size))
    axes = len(kernel)
    attributes = ConvAttributes((1,) * axes, (1,) * (2 * axes), (1,) * axes)
    return ConvLayer(name, weight, np.zeros(outputs, np.float32), attributes, (size,) * axes)


def ranks_of(scheme: str, layer: ConvLayer) -> Sequence[Rank]:
    """All ranks; of large weights those offered, the largest first."""
    if layer.weight.size < LARGE_WEIGHT:
        return SCHEMES[scheme].ranks(layer)
    return SCHEMES[scheme].candidate_ranks(layer, FRACTIONS)[::-1]


def decompose_layer(shape: Shape) -> dict[str, float]:
    """Seconds by scheme."""
    layer = seeded_layer(shape)
    seconds: dict[str, float] = {}
    for name, scheme in SCHEMES.items():
        if scheme.computes_integers or scheme.refuse(layer) is not None:
            continue
        begin = time.perf_counter()
        decomposition = scheme.decompose(layer)
        for rank in ranks_of(name, layer):
            decomposition.at(rank)
            if name != "dense" and layer.axes == 0:
                decomposition.weight_error(rank)
        del decomposition
        seconds[name] = time.perf_counter() - begin
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2, help="of the linear algebra (default: %(default)s)")
    threads = parser.parse_args().threads
    by_weights = sorted(vgg16_shapes(), key=lambda shape: -shape[1] * shape[2] * max(shape[3] > 0, 1))
    with threadpool_limits(threads):
        by_layer = {shape[0]: decompose_layer(shape) for shape in by_weights}
    convolved: Counter[str] = Counter()
    print(f"{'layer':10} {'seconds':>8}  by scheme")
    for name, seconds in by_layer.items():
        if name.startswith("conv"):
            convolved.update(seconds)
        shares = ", ".join(f"{scheme} {value:.1f}" for scheme, value in seconds.items() if value >= 0.05)
        print(f"{name:10} {sum(seconds.values()):8.1f}  {shares}")
    shares = ", ".join(f"{scheme} {value:.1f}" for scheme, value in convolved.items())
    total = sum(sum(seconds.values()) for seconds in by_layer.values())
    print(f"convolutions: {sum(convolved.values()):.1f} s ({shares})")
    total = sum(sum(seconds.values()) for seconds in by_layer.values())
    print(f"all layers: {total:.1f} s with {threads} thread(s)")
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    print(f"peak resident memory: {int(peak.split()[1]) / 1e3:.0f} MB")


if __name__ == "__main__":
    main()
