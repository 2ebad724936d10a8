"""Answers that only describe: metadata, configuration, statistics, index, regions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.metadata import version
from typing import Any

from edge_dac import wire
from edge_dacd.models import ModelStatus, ServedModel
from edge_dacd.shared_memory import Region
from edge_dacd.statistics import Histogram, Totals
from edge_dacd.tensors import TensorSpec

SERVER_NAME = "edge-dac"
PLATFORM = "onnxruntime_onnx"
EXTENSIONS = (
    "model_configuration",
    "model_repository",
    "schedule_policy",
    "statistics",
    "system_shared_memory",
    "binary_tensor_data",
    "parameters",
)


def server_metadata() -> Any:
    """A ``ServerMetadataResponse``."""
    return wire.message("inference.ServerMetadataResponse")(
        name=SERVER_NAME, version=version("edge-dac"), extensions=EXTENSIONS
    )


def model_metadata(model: ServedModel) -> Any:
    """A ``ModelMetadataResponse``."""
    metadata = wire.message("inference.ModelMetadataResponse")(
        name=model.name, versions=[model.source.version], platform=PLATFORM
    )
    for spec in model.inputs:
        metadata.inputs.add(name=spec.name, datatype=spec.datatype.name, shape=spec.shape)
    for spec in model.outputs:
        metadata.outputs.add(name=spec.name, datatype=spec.datatype.name, shape=spec.shape)
    return metadata


def model_config(model: ServedModel, slots: int, message_bytes: int) -> Any:
    """A ``ModelConfigResponse`` in Triton's terms.

    gRPC refuses a message over the limit before we see it, with the sizes but no name of the setting: the parameters
    tell it, by the key in the configuration.
    """
    batched = model.source.max_batch_size if model.source.max_batch_size > 1 else 0
    response = wire.message("inference.ModelConfigResponse")()
    config = response.config
    config.name = model.name
    config.platform = PLATFORM
    config.backend = "onnxruntime"
    config.max_batch_size = batched
    config.default_model_filename = "model.onnx"
    types = wire.enum("inference.DataType")
    for specs, described in ((model.inputs, config.input), (model.outputs, config.output)):
        for spec in specs:
            described.add(name=spec.name, data_type=types[spec.datatype.config_name], dims=_dims(spec, batched))
    config.instance_group.add(name=model.name, count=slots, kind=2)
    batching = config.dynamic_batching
    batching.default_queue_policy.max_queue_size = model.source.queue_size
    batching.default_queue_policy.allow_timeout_override = True
    config.parameters["active_point"].string_value = model.active.point_id
    config.parameters["server.max_message_bytes"].string_value = str(message_bytes)
    return response


def _dims(spec: TensorSpec, batched: int) -> Sequence[int]:
    return spec.shape[1:] if batched else spec.shape


def model_statistics(models: Iterable[ServedModel]) -> Any:
    """A ``ModelStatisticsResponse``."""
    response = wire.message("inference.ModelStatisticsResponse")()
    for model in models:
        entry = response.model_stats.add(name=model.name, version=model.source.version)

        def fill(totals: Totals, entry: Any = entry) -> None:
            entry.last_inference = totals.last_inference_ms
            entry.inference_count = totals.request.count
            entry.execution_count = sum(totals.batches.values())
            stats = entry.inference_stats
            for duration, histogram in (
                (stats.success, totals.request),
                (stats.queue, totals.queue),
                (stats.compute_input, totals.decode),
                (stats.compute_infer, totals.compute),
                (stats.compute_output, totals.encode),
            ):
                _set(duration, histogram)
            stats.fail.count = sum(totals.failures.values())
            stats.fail.ns = totals.failed_ns
            for size, count in sorted(totals.batches.items()):
                entry.batch_stats.add(batch_size=size).compute_infer.count = count

        model.statistics.read(fill)
        entry.memory_usage.add(type="CPU", byte_size=model.active.size_bytes)
    return response


def _set(duration: Any, histogram: Histogram) -> None:
    duration.count = histogram.count
    duration.ns = histogram.sum_ns


def repository_index(lines: Iterable[ModelStatus]) -> Any:
    """A ``RepositoryIndexResponse``."""
    response = wire.message("inference.RepositoryIndexResponse")()
    for line in lines:
        response.models.add(name=line.name, version=line.version, state=line.state, reason=line.reason)
    return response


def shared_memory_status(regions: Iterable[Region]) -> Any:
    """A ``SystemSharedMemoryStatusResponse``."""
    response = wire.message("inference.SystemSharedMemoryStatusResponse")()
    for region in regions:
        status = response.regions[region.name]
        status.name, status.key = region.name, region.key
        status.offset, status.byte_size = region.offset, region.byte_size
    return response
