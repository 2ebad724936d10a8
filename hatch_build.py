"""Compile ``proto/`` into descriptor sets at build time.

Descriptor sets instead of generated Python: they load into a descriptor pool of our own (two files of package
``inference`` in the default pool collide with ``tritonclient``) and do not tie the wheel to one protobuf runtime.
"""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ProtocolBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        from grpc_tools import protoc

        root = Path(self.root)
        sources = sorted(str(path.relative_to(root / "proto")) for path in (root / "proto").rglob("*.proto"))
        target = root / "edge_dac" / "wire" / "descriptors.binpb"
        arguments = ["protoc", f"-I{root / 'proto'}", f"--descriptor_set_out={target}", "--include_imports", *sources]
        if protoc.main(arguments) != 0:
            raise RuntimeError(f"protoc could not compile {', '.join(sources)}")
