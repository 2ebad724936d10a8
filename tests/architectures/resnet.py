"""ResNet-18 and ResNet-50 (He et al. 2016)."""

from __future__ import annotations

import onnx

from architectures.network import Network, scaled

_STAGE_CHANNELS = (64, 128, 256, 512)


def build_resnet18(width: float = 1.0, size: int = 224, classes: int = 1000, seed: int = 0) -> onnx.ModelProto:
    """Basic blocks: two 3x3 convolutions each."""
    net = Network("resnet18", 3, size, size, seed=seed)
    x = _stem(net, width)
    for stage, channels in enumerate(_STAGE_CHANNELS):
        for block in range(2):
            x = _basic(
                net, x, scaled(channels, width), 2 if stage and not block else 1, project=bool(stage and not block)
            )
    return net.build([net.gemm(net.global_average(x), classes)])


def build_resnet50(width: float = 1.0, size: int = 224, classes: int = 1000, seed: int = 0) -> onnx.ModelProto:
    """Bottleneck blocks: 1x1, 3x3, 1x1."""
    net = Network("resnet50", 3, size, size, seed=seed)
    x = _stem(net, width)
    for stage, (channels, blocks) in enumerate(zip(_STAGE_CHANNELS, (3, 4, 6, 3), strict=True)):
        for block in range(blocks):
            x = _bottleneck(net, x, scaled(channels, width), 2 if stage and not block else 1, project=not block)
    return net.build([net.gemm(net.global_average(x), classes)])


def _stem(net: Network, width: float) -> str:
    x = net.relu(net.conv_norm(net.image, scaled(64, width), 7, stride=2))
    return net.max_pool(x, 3, stride=2, pad=1)


def _basic(net: Network, x: str, channels: int, stride: int, *, project: bool) -> str:
    y = net.relu(net.conv_norm(x, channels, stride=stride))
    y = net.conv_norm(y, channels)
    shortcut = net.conv_norm(x, channels, 1, stride=stride) if project else x
    return net.relu(net.add(y, shortcut))


def _bottleneck(net: Network, x: str, channels: int, stride: int, *, project: bool) -> str:
    y = net.relu(net.conv_norm(x, channels, 1))
    y = net.relu(net.conv_norm(y, channels, stride=stride))
    y = net.conv_norm(y, 4 * channels, 1)
    shortcut = net.conv_norm(x, 4 * channels, 1, stride=stride) if project else x
    return net.relu(net.add(y, shortcut))
