"""The same ONNX network in other engines: ncnn, MNN, OpenVINO, and ONNX Runtime's static int8. One thread each.

``build_peers`` gives a callable with the interface of a session for every engine that takes the network *and* computes
what the original computes; for the others, the reason. Networks with free dimensions are frozen at the given shapes.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx.version_converter
from onnxruntime.tools.onnx_model_utils import fix_output_shapes, make_input_shape_fixed

from benchmarks.tasks.task import Array, Run, session_run

LOSSLESS_TOLERANCE = 2e-3
"""Largest relative difference of a lossless engine's outputs: Winograd in float32 stays far below it."""

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Unavailable:
    """Why an engine does not run a network."""

    reason: str


def build_peers(model: Path, shapes: Shapes, sample: dict[str, Array]) -> dict[str, Run | Unavailable]:
    """Lossless engines for ``model``; ``sample`` feeds the check that their outputs are the original's."""
    frozen = freeze_shapes(model, shapes)
    expected = session_run(frozen.SerializeToString())(sample)
    builders: dict[str, Callable[[onnx.ModelProto, Shapes], Run]] = {
        "ncnn": _ncnn,
        "MNN": _mnn,
        "OpenVINO": _openvino,
    }
    return {name: _checked(builder, frozen, shapes, sample, expected) for name, builder in builders.items()}


def freeze_shapes(model: Path, shapes: Shapes) -> onnx.ModelProto:
    """``model`` with its inputs fixed at ``shapes``."""
    frozen = onnx.load(model)
    for name, shape in shapes.items():
        make_input_shape_fixed(frozen.graph, name, shape)
    fix_output_shapes(frozen)
    return frozen


def quantize_static(model: Path, input_name: str, images: Array) -> bytes:
    """ONNX Runtime's static int8: QDQ, per channel, MinMax over ``images`` ``[n, *shape]``."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Images(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._rest: Iterator[Array] = iter(images)

        def get_next(self) -> dict[str, Array] | None:
            image = next(self._rest, None)
            return None if image is None else {input_name: image[np.newaxis]}

    with tempfile.TemporaryDirectory() as folder:
        prepared, quantized = Path(folder) / "prepared.onnx", Path(folder) / "int8.onnx"
        onnx.save(_with_per_channel_opset(onnx.load(model)), prepared)
        quant_pre_process(prepared, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            quantized,
            Images(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            nodes_to_exclude=_final_probabilities(onnx.load(prepared)),
        )
        return quantized.read_bytes()


def _final_probabilities(model: onnx.ModelProto) -> list[str]:
    """Names of the nodes that end a network in probabilities: 255 levels of them would decide the measure alone."""
    outputs = {output.name for output in model.graph.output}
    ends = [node for node in model.graph.node if node.op_type in ("Softmax", "Sigmoid")]
    return [node.name for node in ends if node.name and outputs.intersection(node.output)]


def _with_per_channel_opset(model: onnx.ModelProto) -> onnx.ModelProto:
    """QuantizeLinear and DequantizeLinear have an axis since opset 13."""
    version = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    return model if version >= 13 else onnx.version_converter.convert_version(model, 13)


def _checked(
    build: Callable[[onnx.ModelProto, Shapes], Run],
    model: onnx.ModelProto,
    shapes: Shapes,
    sample: dict[str, Array],
    expected: list[Array],
) -> Run | Unavailable:
    try:
        run = build(model, shapes)
        outputs = run(sample)
    except (RuntimeError, ImportError, ValueError, OSError, subprocess.SubprocessError) as error:
        first = (str(error).strip().splitlines() or [""])[0]
        return Unavailable(f"{type(error).__name__}: {first[:100]}")
    sizes = [(output.size, original.size) for output, original in zip(outputs, expected, strict=True)]
    if any(size != wanted for size, wanted in sizes):
        return Unavailable("its outputs do not have the original's shape")
    difference = max(
        float(np.linalg.norm(output.ravel() - original.ravel()) / max(float(np.linalg.norm(original)), 1e-12))
        for output, original in zip(outputs, expected, strict=True)
    )
    if not difference <= LOSSLESS_TOLERANCE:
        return Unavailable(f"its outputs differ from the original's by {difference:.2g}")
    return run


def _openvino(model: onnx.ModelProto, shapes: Shapes) -> Run:
    import openvino

    settings = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    with _as_file(model) as path:
        compiled = openvino.Core().compile_model(path, "CPU", settings)
    request = compiled.create_infer_request()

    def run(feeds: dict[str, Array]) -> list[Array]:
        results = request.infer(feeds)
        return [np.array(results[port]) for port in compiled.outputs]

    return run


def _mnn(model: onnx.ModelProto, shapes: Shapes) -> Run:
    # `_tools` is the converter itself. The command `mnnconvert` around it installs and calls a logging service.
    import _tools
    import MNN

    with _as_file(model) as path:
        target = str(Path(path).with_suffix(".mnn"))
        with _quiet():
            _tools.mnnconvert(["mnnconvert", "-f", "ONNX", "--modelFile", path, "--MNNModel", target, "--bizCode", "x"])
        if not Path(target).is_file():
            raise RuntimeError("mnnconvert does not take the network")
        interpreter = MNN.Interpreter(target)
    session = interpreter.createSession({"numThread": 1, "precision": "high", "backend": "CPU"})
    inputs = interpreter.getSessionInputAll(session)
    for name, shape in shapes.items():
        interpreter.resizeTensor(inputs[name], shape)
    interpreter.resizeSession(session)
    names = [output.name for output in model.graph.output]
    tensors = interpreter.getSessionOutputAll(session)

    def run(feeds: dict[str, Array]) -> list[Array]:
        for name, array in feeds.items():
            host = MNN.Tensor(array.shape, MNN.Halide_Type_Float, array, MNN.Tensor_DimensionType_Caffe)
            inputs[name].copyFrom(host)
        interpreter.runSession(session)
        return [_mnn_to_numpy(tensors[name]) for name in names]

    return run


def _mnn_to_numpy(tensor: object) -> Array:
    import MNN

    shape = tensor.getShape()  # type: ignore[attr-defined]
    host = MNN.Tensor(shape, MNN.Halide_Type_Float, np.empty(shape, np.float32), MNN.Tensor_DimensionType_Caffe)
    tensor.copyToHostTensor(host)  # type: ignore[attr-defined]
    return np.array(host.getNumpyData()).reshape(shape)


def _ncnn(model: onnx.ModelProto, shapes: Shapes) -> Run:
    import ncnn

    net = ncnn.Net()
    net.opt.num_threads = 1
    net.opt.use_vulkan_compute = False
    for option in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage"):
        setattr(net.opt, option, False)
    with _as_file(model) as path:
        _pnnx(path, [shapes[entry.name] for entry in model.graph.input if entry.name in shapes])
        stem = Path(path).with_suffix("")
        if net.load_param(f"{stem}.ncnn.param") or net.load_model(f"{stem}.ncnn.bin"):
            raise RuntimeError("ncnn does not take what pnnx writes for this network")
    names = [entry.name for entry in model.graph.input if entry.name in shapes]
    count = len(model.graph.output)

    def run(feeds: dict[str, Array]) -> list[Array]:
        with net.create_extractor() as extractor:
            for index, name in enumerate(names):
                extractor.input(f"in{index}", ncnn.Mat(np.ascontiguousarray(feeds[name][0])).clone())
            outputs = [extractor.extract(f"out{index}") for index in range(count)]
            if any(status for status, _ in outputs):
                raise RuntimeError("ncnn cannot run the network that pnnx wrote")
            return [np.array(mat) for _, mat in outputs]

    return run


def _pnnx(path: str, shapes: list[tuple[int, ...]]) -> None:
    """Write ``NAME.ncnn.param`` and ``NAME.ncnn.bin`` next to ``path``; in a process of its own, for it may crash."""
    spec = importlib.util.find_spec("pnnx")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("pnnx is not installed (see benchmarks/requirements.txt)")
    tool = Path(next(iter(spec.submodule_search_locations))) / "pnnx"
    described = ",".join(f"[{','.join(map(str, shape))}]f32" for shape in shapes)
    command = [str(tool), path, f"inputshape={described}", "fp16=0"]
    subprocess.run(command, cwd=Path(path).parent, check=True, capture_output=True, timeout=300)


@contextlib.contextmanager
def _as_file(model: onnx.ModelProto) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        onnx.save(model, path)
        yield str(path)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Drop what native code prints to standard output."""
    sys.stdout.flush()
    saved = os.dup(1)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        try:
            yield
        finally:
            os.dup2(saved, 1)
            os.close(saved)
