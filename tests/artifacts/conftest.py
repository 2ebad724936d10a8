import pytest

from edge_dac.planning.plan import LayerChoice, Plan, Refused


@pytest.fixture
def plan():
    return Plan(
        model_digest="ab" * 32,
        choices=(LayerChoice("conv1", "tucker", (8, 16), "direct", 100, 200, 1.0, 2.0, 0.01),),
        refused=(Refused("conv2", "depthwise", "conv2: depthwise already"),),
        input_shapes={"x": (1, 3, 32, 32)},
        threads=1,
        original_latency_ms=10.0,
        predicted_latency_ms=5.0,
        measured_latency_ms=5.1,
        measured_ratio=0.51,
        latency_p95_ms=5.5,
        predicted_error=0.02,
        macs=100,
        original_macs=200,
        device_fingerprint="0123456789ab",
    )
