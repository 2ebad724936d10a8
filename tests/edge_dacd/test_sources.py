from __future__ import annotations

from pathlib import Path

import pytest

from edge_dac.planning.budget import Budget
from edge_dacd.config import Config, ConfigError, ModelConfig, RepositoryConfig
from edge_dacd.sources import find_sources


def test_the_demo_is_served_when_nothing_else_is() -> None:
    sources = find_sources(Config())
    assert list(sources) == ["demo"]
    assert sources["demo"].path.is_file()


def test_folder_with_files_and_versions(tmp_path: Path) -> None:
    for name in ("flat.onnx", "deep/1/model.onnx", "deep/10/model.onnx", "deep/9/model.onnx", "deep/x/model.onnx"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    sources = find_sources(Config(repository=RepositoryConfig(str(tmp_path))))
    assert {name: source.version for name, source in sources.items()} == {"flat": "1", "deep": "10"}
    assert sources["deep"].path == tmp_path / "deep" / "10" / "model.onnx"


def test_an_empty_folder_is_no_demo(tmp_path: Path) -> None:
    assert find_sources(Config(repository=RepositoryConfig(str(tmp_path / "nothing")))) == {}


def test_the_configuration_says_more_than_the_folder(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").touch()
    config = Config(repository=RepositoryConfig(str(tmp_path)), models={"a": ModelConfig("a.onnx", queue_size=3)})
    assert find_sources(config)["a"].queue_size == 3


def test_budgets() -> None:
    own = ModelConfig("a.onnx", budget={"speedup": 2.0})
    config = Config(models={"a": own, "b": ModelConfig("b.onnx")})
    sources = find_sources(config, budget=Budget(latency_ms=5))
    assert (sources["a"].budget, sources["b"].budget) == (Budget(speedup=2.0), Budget(latency_ms=5))


def test_names_must_differ() -> None:
    with pytest.raises(ConfigError, match="model 'a': expected names that differ"):
        find_sources(Config(models={"a": ModelConfig("a.onnx")}), [Path("other/a.onnx")])
