"""edge-dac: pretrained ONNX convolutional networks, faster on this device, without data.

The public functions load on first use: whoever needs only the client or the wire protocol does not pay for ONNX.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge_dac.compression import Compressed, Options, compress, compress_ladder
    from edge_dac.device.profile import DeviceProfile, profile_device
    from edge_dac.planning.budget import Budget, LayerRank
    from edge_dac.planning.plan import LayerChoice, Plan
    from edge_dac.planning.subject import InputRange, Subject
    from edge_dac.planning.subject import load_subject as inspect

_PLACES = {
    "Budget": ("edge_dac.planning.budget", "Budget"),
    "Compressed": ("edge_dac.compression", "Compressed"),
    "DeviceProfile": ("edge_dac.device.profile", "DeviceProfile"),
    "InputRange": ("edge_dac.planning.subject", "InputRange"),
    "LayerChoice": ("edge_dac.planning.plan", "LayerChoice"),
    "LayerRank": ("edge_dac.planning.budget", "LayerRank"),
    "Options": ("edge_dac.compression", "Options"),
    "Plan": ("edge_dac.planning.plan", "Plan"),
    "Subject": ("edge_dac.planning.subject", "Subject"),
    "compress": ("edge_dac.compression", "compress"),
    "compress_ladder": ("edge_dac.compression", "compress_ladder"),
    "inspect": ("edge_dac.planning.subject", "load_subject"),
    "profile_device": ("edge_dac.device.profile", "profile_device"),
}

__all__ = [
    "Budget",
    "Compressed",
    "DeviceProfile",
    "InputRange",
    "LayerChoice",
    "LayerRank",
    "Options",
    "Plan",
    "Subject",
    "compress",
    "compress_ladder",
    "inspect",
    "profile_device",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'edge_dac' has no attribute {name!r}")
    module, attribute = _PLACES[name]
    return getattr(import_module(module), attribute)
