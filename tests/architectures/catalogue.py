"""The architectures in forms small enough for every test run."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import onnx

from architectures import (
    build_cifar_vgg,
    build_mobilenet_v2,
    build_pose_network,
    build_resnet18,
    build_resnet50,
    build_ssd300,
    build_text_recognizer,
    build_unet,
    build_vgg16,
)
from edge_dac.convolution import Reason

Build = Callable[[], onnx.ModelProto]

# name: (builder of a small form, layers, refusals by reason)
SMALL: dict[str, tuple[Build, int, dict[Reason, int]]] = {
    "vgg16": (partial(build_vgg16, width=1 / 16, size=32, classes=10), 16, {}),
    "cifar_vgg": (partial(build_cifar_vgg, width=1 / 16), 15, {}),
    "ssd300": (partial(build_ssd300, width=1 / 32), 35, {}),
    "pose": (partial(build_pose_network, width=1 / 16, size=64, stages=2), 36, {}),
    "resnet18": (partial(build_resnet18, width=1 / 8, size=64, classes=10), 21, {}),
    "resnet50": (partial(build_resnet50, width=1 / 16, size=64, classes=10), 54, {}),
    "mobilenet_v2": (partial(build_mobilenet_v2, width=1 / 4, size=64, classes=10), 36, {Reason.DEPTHWISE: 17}),
    "unet": (partial(build_unet, width=1 / 16, size=32), 19, {Reason.UNSUPPORTED_OPERATOR: 4}),
    "text_recognizer": (partial(build_text_recognizer, width=1 / 4), 9, {Reason.DEPTHWISE: 5}),
}
REQUESTED = {"text_recognizer": {"image": (1, 3, 48, 96)}}
