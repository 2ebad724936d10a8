"""VGG16 (Simonyan and Zisserman 2014), its CIFAR form, and SSD300 on top of it (Liu et al. 2016)."""

from __future__ import annotations

import onnx

from architectures.network import Network, scaled

_BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))


def build_vgg16(
    width: float = 1.0, size: int = 224, classes: int = 1000, seed: int = 0, *, head: bool = True
) -> onnx.ModelProto:
    """13 convolutions 3x3 and, with ``head``, three matrix products. ``size`` must be a multiple of 32."""
    net = Network("vgg16", 3, size, size, seed=seed)
    x = net.image
    for channels, repeats in _BLOCKS:
        for _ in range(repeats):
            x = net.conv_relu(x, scaled(channels, width))
        x = net.max_pool(x)
    if not head:
        return net.build([x])
    x = net.flatten(x, scaled(512, width) * (size // 32) ** 2)
    for _ in range(2):
        x = net.relu(net.gemm(x, scaled(4096, width)))
    return net.build([net.gemm(x, classes)])


def build_cifar_vgg(width: float = 1.0, classes: int = 10, seed: int = 0) -> onnx.ModelProto:
    """VGG16 for 32x32 images: normalized convolutions, one hidden matrix product."""
    net = Network("cifar_vgg", 3, 32, 32, seed=seed)
    x = net.image
    for channels, repeats in _BLOCKS:
        for _ in range(repeats):
            x = net.relu(net.conv_norm(x, scaled(channels, width)))
        x = net.max_pool(x)
    x = net.relu(net.gemm(net.flatten(x, scaled(512, width)), scaled(512, width)))
    return net.build([net.gemm(x, classes)])


def build_ssd300(width: float = 1.0, classes: int = 21, size: int = 300, seed: int = 0) -> onnx.ModelProto:
    """VGG16 with a dilated fc6, extra layers, and box and class heads on six scales.

    Outputs: boxes ``[1, boxes, 4]`` and scores ``[1, boxes, classes]``; 8732 boxes at size 300.
    """
    net = Network("ssd300", 3, size, size, seed=seed)
    x = net.image
    scales: list[str] = []
    for block, (channels, repeats) in enumerate(_BLOCKS):
        for _ in range(repeats):
            x = net.conv_relu(x, scaled(channels, width))
        if block == 3:
            scales.append(x)
        x = net.max_pool(x, 3, stride=1, pad=1) if block == 4 else net.max_pool(x, ceil=True)
    x = net.conv_relu(x, scaled(1024, width), dilation=6)
    x = net.conv_relu(x, scaled(1024, width), 1)
    scales.append(x)
    for narrow, wide, stride, pad in ((256, 512, 2, 1), (128, 256, 2, 1), (128, 256, 1, 0), (128, 256, 1, 0)):
        x = net.conv_relu(x, scaled(narrow, width), 1)
        x = net.conv_relu(x, scaled(wide, width), stride=stride, pad=pad)
        scales.append(x)
    boxes = [_head(net, scale, count, 4) for scale, count in zip(scales, (4, 6, 6, 6, 4, 4), strict=True)]
    scores = [_head(net, scale, count, classes) for scale, count in zip(scales, (4, 6, 6, 6, 4, 4), strict=True)]
    return net.build([net.concat(boxes), net.concat(scores)])


def _head(net: Network, scale: str, boxes: int, values: int) -> str:
    x = net.add_node("Transpose", [net.conv(scale, boxes * values)], perm=[0, 2, 3, 1])
    return net.reshape(x, (1, -1, values))
