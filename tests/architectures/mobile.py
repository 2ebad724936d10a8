"""MobileNetV2 (Sandler et al. 2018) and a text recognizer of the PP-OCR type with weights in ``Constant`` nodes."""

from __future__ import annotations

import onnx

from architectures.network import Network, scaled

_MOBILENET_V2 = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Expansion, channels, repeats, stride of the first repeat."""


def build_mobilenet_v2(width: float = 1.0, size: int = 224, classes: int = 1000, seed: int = 0) -> onnx.ModelProto:
    """Inverted residual blocks; its only kernels above 1x1 with full channels are in the first layer."""
    net = Network("mobilenet_v2", 3, size, size, seed=seed)
    before = scaled(32, width)
    x = net.relu6(net.conv_norm(net.image, before, stride=2))
    settings = (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    )
    for expansion, channels, repeats, stride in settings:
        after = scaled(channels, width)
        for repeat in range(repeats):
            x = _inverted_residual(net, x, before, after, expansion, stride if repeat == 0 else 1)
            before = after
    x = net.relu6(net.conv_norm(x, scaled(1280, width), 1))
    return net.build([net.gemm(net.global_average(x), classes)])


def _inverted_residual(net: Network, x: str, before: int, after: int, expansion: int, stride: int) -> str:
    hidden = before * expansion
    y = net.relu6(net.conv_norm(x, hidden, 1)) if expansion > 1 else x
    y = net.relu6(net.conv_norm(y, hidden, stride=stride, groups=hidden))
    y = net.conv_norm(y, after, 1)
    return net.add(x, y) if stride == 1 and before == after else y


def build_text_recognizer(width: float = 1.0, classes: int = 97, seed: int = 0) -> onnx.ModelProto:
    """Image ``[1, 3, 48, any width]`` to ``[1, width/8, classes]``: all weights and shapes are ``Constant`` nodes."""
    net = Network("text_recognizer", 3, 48, "width", seed=seed, constant_nodes=True, opset=11)
    x = net.add_node("HardSigmoid", [net.conv_norm(net.image, scaled(16, width), stride=2)])
    for channels, stride in ((32, 1), (64, (2, 1)), (128, 2), (128, 1), (256, (2, 2))):
        hidden = net.channels(x)
        x = net.relu(net.conv_norm(x, hidden, groups=hidden, stride=stride))
        x = net.relu(net.conv_norm(x, scaled(channels, width), 1))
    x = net.relu(net.conv_norm(x, scaled(128, width), (1, 3)))
    x = net.relu(net.conv_norm(x, scaled(128, width), (3, 3), stride=(3, 1), pad=(0, 1)))
    x = net.add_node("Squeeze", [x], axes=[2])
    x = net.add_node("Transpose", [x], perm=[0, 2, 1])
    x = net.add(net.matmul(x, classes), net.vector(classes))
    return net.build([net.add_node("Softmax", [x], axis=2)])
