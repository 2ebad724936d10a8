"""The reconfigurator in this process, with a real store and real runtimes."""

from __future__ import annotations

import numpy as np

from edge_dacd.changes import ChangeRequest
from edge_dacd.config import CompressionConfig
from edge_dacd.events import EventHub
from edge_dacd.executor import Executor
from edge_dacd.models import ModelSource, ServedModel
from edge_dacd.reconfiguration import Reconfigurator
from edge_dacd.runtime import Runtime


class Device:
    """What a daemon would hold; ``memory_bytes`` is what its sensors say."""

    def __init__(self, prepared, *, enabled=True, budget=None, room_for_one=False):
        self.prepared = prepared
        self.memory_bytes = 1 << 40
        self.room_for_one = room_for_one
        self.in_gap = lambda: None
        self.executor = Executor(1, lambda group: [work() for work in group])
        self.events = EventHub()
        self.reconfigurator = Reconfigurator(
            prepared.state,
            CompressionConfig(enabled=enabled, nice=0),  # a busy machine would starve the compiler
            1,
            self.events,
            self.available_memory_bytes,
            self.executor.hold,
        )
        self.name = prepared.model.stem
        source = ModelSource(self.name, prepared.model, budget=budget)
        self.model = ServedModel(source, Runtime.load(prepared.model, threads=1), 0.0)
        self.reconfigurator.attach(self.model)

    def available_memory_bytes(self):
        if self.room_for_one:
            if self.model.active.is_loaded:
                return 0
            self.in_gap()
        return self.memory_bytes

    def change(self, cause, *, wait=True, **values):
        return self.reconfigurator.change(ChangeRequest(self.name, cause, **values), wait=wait, is_wanted=lambda: True)

    @property
    def factor(self):
        return float(self.model.active.run({"x": np.ones((1, 8), np.float32)})[0][0, 0])

    @property
    def journal(self):
        return self.reconfigurator.managed(self.name).journal
