"""A U-Net (Ronneberger et al. 2015) that doubles its size with ``ConvTranspose``."""

from __future__ import annotations

import onnx

from architectures.network import Network, scaled


def build_unet(width: float = 1.0, size: int = 256, classes: int = 2, depth: int = 4, seed: int = 0) -> onnx.ModelProto:
    """``size`` must be a multiple of ``2 ** depth``. Output ``[1, classes, size, size]``."""
    net = Network("unet", 3, size, size, seed=seed)
    x = net.image
    skips: list[str] = []
    for level in range(depth):
        x = _double(net, x, scaled(64 * 2**level, width))
        skips.append(x)
        x = net.max_pool(x)
    x = _double(net, x, scaled(64 * 2**depth, width))
    for level in reversed(range(depth)):
        channels = scaled(64 * 2**level, width)
        x = _double(net, net.concat([skips[level], net.conv_transpose(x, channels)]), channels)
    return net.build([net.conv(x, classes, 1)])


def _double(net: Network, x: str, channels: int) -> str:
    return net.relu(net.conv_norm(net.relu(net.conv_norm(x, channels)), channels))
