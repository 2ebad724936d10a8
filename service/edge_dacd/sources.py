"""Which models could be served: those of the configuration, of the command line, of the repository folder."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

from edge_dac.planning.budget import Budget
from edge_dacd.config import Config, ConfigError
from edge_dacd.models import ModelSource

DEMO = "demo"
"""Name of the embedded model, which is served when no other is given."""
_VERSION = re.compile(r"[1-9][0-9]{0,17}")


def find_sources(
    config: Config,
    paths: Sequence[Path] = (),
    budget: Budget | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    values: Mapping[str, float] | None = None,
) -> dict[str, ModelSource]:
    """All models that could be served now, by name.

    Args:
        config: its models and its repository folder.
        paths: further ONNX files, served under their stem.
        budget: for every model that has none of its own.
        shapes, values: input shapes and constant inputs of the one file in ``paths``.

    Raises:
        ConfigError: two models have the same name.
    """
    sources: dict[str, ModelSource] = {}
    for name, model in config.models.items():
        sources[name] = ModelSource(
            name,
            Path(model.path),
            shapes=model.shapes,
            values=model.values,
            queue_size=model.queue_size,
            max_batch_size=model.max_batch_size,
            budget=Budget.from_json(model.budget) if model.budget else budget,
        )
    for path in paths:
        if path.stem in sources:
            raise ConfigError(f"model {path.stem!r}: expected names that differ, got {path} as well")
        sources[path.stem] = ModelSource(path.stem, path, shapes=shapes or {}, values=values or {}, budget=budget)
    if config.repository.path:
        for name, source in _in_folder(Path(config.repository.path), budget).items():
            sources.setdefault(name, source)
    elif not sources:
        demo = Path(str(resources.files("edge_dac.assets") / "demo.onnx"))
        sources[DEMO] = ModelSource(DEMO, demo, budget=budget)
    return sources


def _in_folder(folder: Path, budget: Budget | None) -> Mapping[str, ModelSource]:
    sources = {}
    for path in sorted(folder.glob("*.onnx")):
        sources[path.stem] = ModelSource(path.stem, path, budget=budget)
    for path in folder.glob("*/*/model.onnx"):
        name, version = path.parent.parent.name, path.parent.name
        known = sources.get(name)
        if _VERSION.fullmatch(version) and (known is None or int(version) > int(known.version)):
            sources[name] = ModelSource(name, path, version, budget=budget)
    return sources
