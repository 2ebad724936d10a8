"""Well-known networks with seeded weights: right in shapes and MACs, not trained."""

from architectures.mobile import build_mobilenet_v2, build_text_recognizer
from architectures.pose import build_pose_network
from architectures.resnet import build_resnet18, build_resnet50
from architectures.unet import build_unet
from architectures.vgg import build_cifar_vgg, build_ssd300, build_vgg16

__all__ = [
    "build_cifar_vgg",
    "build_mobilenet_v2",
    "build_pose_network",
    "build_resnet18",
    "build_resnet50",
    "build_ssd300",
    "build_text_recognizer",
    "build_unet",
    "build_vgg16",
]
