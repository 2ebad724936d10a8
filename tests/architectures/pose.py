"""A pose network of the OpenPose type (Cao et al. 2017): VGG front, one 3x3 stage, refining 7x7 stages."""

from __future__ import annotations

import onnx

from architectures.network import Network, scaled


def build_pose_network(width: float = 1.0, size: int = 368, stages: int = 6, seed: int = 0) -> onnx.ModelProto:
    """Outputs: part affinity fields ``[1, 38, size/8, size/8]`` and confidence maps ``[1, 19, size/8, size/8]``."""
    net = Network("pose", 3, size, size, seed=seed)
    features = _front(net, width)
    fields, maps = (_first_stage(net, features, width, outputs) for outputs in (38, 19))
    for _ in range(stages - 1):
        x = net.concat([fields, maps, features])
        fields, maps = (_refining_stage(net, x, width, outputs) for outputs in (38, 19))
    return net.build([fields, maps])


def _front(net: Network, width: float) -> str:
    x = net.image
    for channels, repeats in ((64, 2), (128, 2), (256, 4)):
        for _ in range(repeats):
            x = net.conv_relu(x, scaled(channels, width))
        x = net.max_pool(x)
    for channels in (512, 512, 256, 128):
        x = net.conv_relu(x, scaled(channels, width))
    return x


def _first_stage(net: Network, x: str, width: float, outputs: int) -> str:
    for _ in range(3):
        x = net.conv_relu(x, scaled(128, width))
    x = net.conv_relu(x, scaled(512, width), 1)
    return net.conv(x, outputs, 1)


def _refining_stage(net: Network, x: str, width: float, outputs: int) -> str:
    for _ in range(5):
        x = net.conv_relu(x, scaled(128, width), 7)
    x = net.conv_relu(x, scaled(128, width), 1)
    return net.conv(x, outputs, 1)
