"""All lowerings of one layer side by side, and whole networks with the fastest exact lowering in every layer.

    python -m benchmarks.lowerings shapes                     table over channels and map sizes, one and two threads
    python -m benchmarks.lowerings network                    VGG16's features with seeded weights
    python -m benchmarks.lowerings network --model NET.onnx   any model with a fixed input shape
    python -m benchmarks.lowerings network --peers            the same, with ncnn, MNN and OpenVINO in the same rounds

Everything is timed in interleaved rounds; a figure is the median of the ratios to the plain layer. With one thread the
clock is the process's CPU time, so that other work on the machine disturbs less.
"""

from __future__ import annotations

import argparse
import functools
import math
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

from benchmarks.interleaved import time_interleaved
from benchmarks.peers import Unavailable, build_peers
from edge_dac.convolution import ConvAttributes, ConvLayer, Factor, Factorization, FloatArray
from edge_dac.graph.canonical import canonicalize
from edge_dac.graph.layers import find_layers
from edge_dac.graph.layouts import merge_layouts
from edge_dac.graph.loading import load_model
from edge_dac.graph.rewriting import replace_layers
from edge_dac.graph.shapes import resolve_input_shapes
from edge_dac.lowerings import LOWERINGS, LoweredLayer, Lowering

CHANNELS = (32, 64, 128, 256, 512)
SIZES = (7, 14, 28, 56, 112, 224)
MOST_MACS = 4e9
DAC_RANK = 3
WORTHWHILE = 1.05
"""A lowering must win by this much in isolation to be taken in a network."""
VGG16_BLOCKS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["shapes", "network"])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--channels", type=int, nargs="+", default=CHANNELS)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--model", type=Path, help="a model instead of VGG16's features")
    parser.add_argument("--peers", action="store_true", help="other engines on one thread, on the network as it is")
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    for threads in arguments.threads:
        if arguments.what == "shapes":
            compare_shapes(arguments.channels, arguments.sizes, threads, arguments.rounds)
        else:
            model = vgg16_features() if arguments.model is None else load_model(arguments.model)
            compare_network(model, threads, arguments.rounds, peers=arguments.peers)


def compare_shapes(channels: Sequence[int], sizes: Sequence[int], threads: int, rounds: int) -> None:
    """A line a layer: milliseconds of the plain 3x3 layer, then how much faster each lowering is."""
    names = [name for name in LOWERINGS if name != "direct" and not name.startswith("taps")]
    print(
        f"\n{threads} thread(s); speed over the plain 3x3 layer; multiplier, concat, branch_sum: dac of rank {DAC_RANK}"
    )
    print(f"{'layer':>14} {'ms':>8} " + " ".join(f"{name:>16}" for name in names))
    for count in channels:
        for size in sizes:
            layer = square_layer(count, size)
            if layer.macs > MOST_MACS:
                continue
            rng = np.random.default_rng(0)
            choices = {name: dense(layer) if name.startswith("winograd") else random_dac(layer, rng) for name in names}
            lowered = [LOWERINGS[name].lower(layer, choices[name], "x", "y") for name in names]
            plain = LOWERINGS["direct"].lower(layer, dense(layer), "x", "y")
            milliseconds, *speeds = time_layers(layer, [plain, *lowered], threads, rounds)
            print(
                f"{count:>8}@{size:<5} {milliseconds:8.2f} " + " ".join(f"{speed:16.2f}" for speed in speeds),
                flush=True,
            )


def compare_network(original: onnx.ModelProto, threads: int, rounds: int, *, peers: bool = False) -> None:
    """The whole model as it is, in canonical form, and with the fastest exact lowering of each layer.

    Also prints the largest relative deviation of the last from the first, and the speeds of other engines.
    """
    model = canonicalize(original)
    shapes = resolve_input_shapes(model, {})
    inventory = find_layers(model, shapes)
    fastest: dict[tuple[object, ...], str] = {}
    replacements: dict[str, Callable[[ConvLayer, str, str], LoweredLayer]] = {}
    for layer in inventory.layers:
        key = (layer.shape, layer.input_size)
        if key not in fastest:
            fastest[key] = fastest_exact(layer, threads, rounds)
            print(f"{layer.in_channels:>5} -> {layer.out_channels:<5} {layer.input_size} {fastest[key]}", flush=True)
        if fastest[key] != "direct":
            replacements[layer.name] = exactly(LOWERINGS[fastest[key]])
    rewritten = replace_layers(model, inventory, replacements)
    rng = np.random.default_rng(0)
    feed = {name: rng.random(shape, dtype=np.float32) for name, shape in shapes.items()}
    sessions = [make_session(each, threads) for each in (original, model, rewritten)]
    before, _, after = (session.run(None, feed) for session in sessions)
    error = max(float(np.abs(new - old).max() / np.abs(old).max()) for old, new in zip(before, after, strict=True))
    runs: dict[str, Callable[[], object]] = {
        name: functools.partial(session.run, None, feed)
        for name, session in zip(("as it is", "canonical", "rewritten"), sessions, strict=True)
    }
    if peers:
        runs |= {name: functools.partial(run, feed) for name, run in other_engines(original, shapes, feed).items()}
    clock = time.process_time if threads == 1 else time.perf_counter
    timings = time_interleaved(runs, rounds=rounds, clock=clock)
    speeds = "; ".join(f"{name} {1 / timing.ratio:.2f}x" for name, timing in timings.items() if name != "as it is")
    print(
        f"{threads} thread(s): {timings['as it is'].median_ms:.1f} ms as it is; {speeds}; "
        f"{len(replacements)} of {len(inventory.layers)} layers rewritten, largest relative deviation {error:.1e}"
    )


def other_engines(
    model: onnx.ModelProto, shapes: dict[str, tuple[int, ...]], feed: dict[str, FloatArray]
) -> dict[str, Callable[[dict[str, FloatArray]], object]]:
    """Those that take the model; for the others, the reason is printed."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(model, path)
        for name, peer in build_peers(path, shapes, feed).items():
            if isinstance(peer, Unavailable):
                print(f"{name}: {peer.reason}")
            else:
                found[name] = peer
    return found


def exactly(lowering: Lowering) -> Callable[[ConvLayer, str, str], LoweredLayer]:
    """Writes a layer's own kernel with ``lowering``."""
    return lambda layer, source, output: lowering.lower(layer, dense(layer), source, output)


def fastest_exact(layer: ConvLayer, threads: int, rounds: int) -> str:
    """The name of the lowering of the layer's own kernel that is the fastest by itself."""
    names = ["direct"]
    names += [
        name for name, each in LOWERINGS.items() if name != "direct" and each.refuse(layer, (layer.shape,)) is None
    ]
    if len(names) == 1 or layer.operator != "Conv":
        return "direct"
    lowered = [LOWERINGS[name].lower(layer, dense(layer), "x", "y") for name in names]
    _, *speeds = time_layers(layer, lowered, threads, rounds)
    best = int(np.argmax(speeds))
    return names[best + 1] if speeds[best] > WORTHWHILE else "direct"


def time_layers(layer: ConvLayer, lowered: Iterable[LoweredLayer], threads: int, rounds: int) -> list[float]:
    """Milliseconds of the first, then the speed of each other one relative to it.

    Each layer stands between cheap nodes, as in a network: what its neighbours' data layout costs or saves is part of its
    price.
    """
    sessions = [make_session(framed_model(layer, each), threads) for each in lowered]
    shape = (layer.batch, layer.in_channels, *(length or 1 for length in layer.input_size))
    feed = {"input": np.random.default_rng(0).standard_normal(shape, dtype=np.float32)}
    return time_sessions(sessions, feed, threads, rounds)


def framed_model(layer: ConvLayer, lowered: LoweredLayer) -> onnx.ModelProto:
    """``Conv`` (one product a pixel), ``Relu``, the layer, ``Relu``, ``MaxPool`` (takes every other pixel)."""
    rng = np.random.default_rng(0)
    point = rng.standard_normal((layer.in_channels, 1) + (1,) * layer.axes, dtype=np.float32)
    shape = [layer.batch, layer.in_channels, *layer.input_size]
    nodes = [
        helper.make_node("Conv", ["input", "point"], ["before"], group=layer.in_channels),
        helper.make_node("Relu", ["before"], ["x"]),
        *lowered.nodes,
        helper.make_node("Relu", ["y"], ["after"]),
        helper.make_node("MaxPool", ["after"], ["output"], kernel_shape=[1] * layer.axes, strides=[2] * layer.axes),
    ]
    constants = [numpy_helper.from_array(point, "point"), *lowered.initializers]
    model = make_model(nodes, constants, shape, layer.opset)
    merge_layouts(model, {"y"})
    return model


def make_model(
    nodes: list[onnx.NodeProto], constants: list[onnx.TensorProto], shape: Sequence[int | None], opset: int = 17
) -> onnx.ModelProto:
    """A model from ``input`` to ``output``."""
    source = helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, list(shape))
    result = helper.make_tensor_value_info("output", onnx.TensorProto.FLOAT, [None] * len(shape))
    graph = helper.make_graph(nodes, "benchmark", [source], [result], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def make_session(model: onnx.ModelProto, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def time_sessions(
    sessions: Sequence[ort.InferenceSession], feed: dict[str, FloatArray], threads: int, rounds: int
) -> list[float]:
    """Milliseconds of the first session, then the median of its time over that of each other one."""
    clock = time.process_time if threads == 1 else time.perf_counter
    seconds = np.empty((rounds + 1, len(sessions)))
    for turn in range(rounds + 1):
        for index, session in enumerate(sessions):
            start = clock()
            session.run(None, feed)
            seconds[turn, index] = clock() - start
    warm = seconds[1:]
    return [float(np.median(warm[:, 0]) * 1e3), *np.median(warm[:, :1] / warm[:, 1:], axis=0).tolist()]


def square_layer(channels: int, size: int) -> ConvLayer:
    """A 3x3 layer of stride 1 that keeps channels and size."""
    rng = np.random.default_rng(1)
    weight = rng.standard_normal((channels, channels, 3, 3), dtype=np.float32) / math.sqrt(9 * channels)
    attributes = ConvAttributes((1, 1), (1, 1, 1, 1), (1, 1))
    bias = rng.standard_normal(channels, dtype=np.float32)
    return ConvLayer(f"conv{channels}x{size}", weight, bias, attributes, (size, size))


def dense(layer: ConvLayer) -> Factorization:
    return Factorization("dense", 1, (Factor(layer.weight, layer.attributes),), layer.bias)


def random_dac(layer: ConvLayer, rng: np.random.Generator) -> Factorization:
    """A ``dac`` chain of random factors: speed does not depend on their values."""
    channels = layer.in_channels
    depthwise = rng.standard_normal((channels * DAC_RANK, 1, *layer.kernel), dtype=np.float32)
    pointwise = rng.standard_normal((layer.out_channels, channels * DAC_RANK, 1, 1), dtype=np.float32)
    attributes = ConvAttributes((1, 1), layer.attributes.pads, (1, 1), channels)
    factors = (Factor(depthwise, attributes), Factor(pointwise, ConvAttributes.pointwise(2)))
    return Factorization("dac", DAC_RANK, factors, layer.bias)


def vgg16_features() -> onnx.ModelProto:
    """The thirteen convolutions of VGG16 with seeded weights, 1x3x224x224."""
    rng = np.random.default_rng(0)
    nodes, constants = [], []
    source, channels = "input", 3
    for block, outputs in enumerate(VGG16_BLOCKS):
        for place, count in enumerate(outputs):
            name = f"conv{block + 1}_{place + 1}"
            weight = rng.standard_normal((count, channels, 3, 3), dtype=np.float32) * math.sqrt(2 / (9 * channels))
            constants.append(numpy_helper.from_array(weight.astype(np.float32), f"{name}/weight"))
            constants.append(numpy_helper.from_array(np.zeros(count, np.float32), f"{name}/bias"))
            inputs = [source, f"{name}/weight", f"{name}/bias"]
            nodes.append(helper.make_node("Conv", inputs, [f"{name}/y"], name=name, pads=[1, 1, 1, 1]))
            nodes.append(helper.make_node("Relu", [f"{name}/y"], [f"{name}/relu"]))
            source, channels = f"{name}/relu", count
        result = "output" if block == len(VGG16_BLOCKS) - 1 else f"pool{block + 1}"
        nodes.append(helper.make_node("MaxPool", [source], [result], kernel_shape=[2, 2], strides=[2, 2]))
        source = result
    return make_model(nodes, constants, (1, 3, 224, 224))


if __name__ == "__main__":
    main()
