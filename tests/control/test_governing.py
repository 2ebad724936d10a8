"""What the governing thread does in its rounds, with a clock of the test and without the thread."""

from dataclasses import replace

import pytest

from edge_dac.device.sensors import Sensors
from edge_dacd.governing import Governing
from edge_dacd.statistics import Observation


class Clock:
    def __init__(self):
        self.now_s = 0.0

    def __call__(self):
        return self.now_s


class Governed:
    """A device whose rounds this test makes; the active point is said to take 6 ms."""

    def __init__(self, device):
        self.device = device
        self.clock = Clock()
        self.governing = Governing(device.reconfigurator, device.events, Sensors(), self.clock)
        self.governing.attach(device.model)
        self.managed = device.reconfigurator.managed("scale")

    def seconds(self, count, compute_ms, requests_a_second=1):
        for _ in range(count):
            for _ in range(requests_a_second):
                point = self.device.model.active.point_id
                self.device.model.statistics.succeeded(Observation(point, 0, 0, int(compute_ms * 1e6), 0))
            self.clock.now_s += 1
            self.governing.look()


@pytest.fixture
def governed(start):
    return Governed(start())


def test_lasting_drift_measures_again(governed):
    governed.seconds(9 * 60, compute_ms=9.0)
    assert governed.managed.journal.pending is None
    with governed.device.events.watch(lambda: True) as events:
        governed.seconds(2 * 60, compute_ms=9.0)
        # What the device itself does meanwhile (throttling, say) is told too.
        accepted = next(event.accepted for event in events if event.HasField("accepted"))
    assert (accepted.generation, accepted.cause) == (2, "reprofile")
    pending = governed.managed.journal.pending
    assert (pending.budget, pending.best_effort) == ({"speedup": 1.5}, True)


def test_drift_waits_while_much_is_asked(governed):
    governed.seconds(15 * 60, compute_ms=9.0, requests_a_second=80)
    assert governed.managed.journal.head == 1
    governed.seconds(2 * 60, compute_ms=9.0, requests_a_second=1)
    assert governed.managed.journal.head == 2


def test_pinned_point_is_not_measured_again(governed, prepared):
    governed.device.change("set_active_point", point=prepared.fast_point)
    governed.seconds(15 * 60, compute_ms=9.0)
    assert governed.managed.journal.head == 2


def test_moves_down_and_up_by_itself(governed, prepared):
    """A budget of 8 ms: the active point takes 12 where 6 were measured, and half of that when the load is gone."""
    journal = governed.managed.journal
    governed.device.reconfigurator.managed("scale").points.offer()
    journal.decide(replace(journal.applied, budget={"latency_ms": 8.0, "percentile": 95}))
    governed.governing.governs = False
    governed.seconds(30, compute_ms=12.0, requests_a_second=5)
    assert governed.device.model.active.point_id == prepared.slow_point
    governed.governing.governs = True
    governed.seconds(30, compute_ms=12.0, requests_a_second=5)
    assert governed.device.model.active.point_id == prepared.fast_point
    governed.seconds(120, compute_ms=3.0, requests_a_second=5)
    assert governed.device.model.active.point_id == prepared.slow_point
    assert governed.governing.service_p95_ms("scale") == 3.0


def test_service_p95_needs_requests(governed):
    assert governed.governing.service_p95_ms("scale") is None
    governed.seconds(2, compute_ms=4.0)
    assert governed.governing.service_p95_ms("scale") == 4.0
    governed.seconds(1, compute_ms=4.0, requests_a_second=0)
    governed.clock.now_s += 120
    assert governed.governing.service_p95_ms("scale") is None


def test_metrics_show_generation_and_budget(governed):
    families = {family.name: family.samples for family in governed.governing.collect()}
    assert families["edge_dac_budget"] == [("", {"model": "scale", "key": "speedup"}, 1.5)]
    assert families["edge_dac_generation"] == [("", {"model": "scale"}, 1)]
