"""The governor against simulated devices: the clock, the load and the sensors are ours."""

import math
import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_dac.device.sensors import SensorReading
from edge_dacd.governor import Decision, Governor, GovernorSettings, Rung

LADDER = (Rung("original", 40.0), Rung("a", 30.0), Rung("b", 22.0), Rung("c", 16.0), Rung("d", 12.0))
BUDGET_MS = 33.0
NOISE = 0.04
COOL = SensorReading(50.0, 1500.0, (), 1 << 30)


@dataclass
class Simulation:
    """One device under one load. ``slowdown(t)`` multiplies every latency."""

    governor: Governor
    rate_hz: int = 20
    seed: int = 0
    changes: list[tuple[float, Decision]] = field(default_factory=list)
    held: list[bool] = field(default_factory=list)
    now_s: float = 0.0

    def run(self, seconds, slowdown, reading=lambda t: COOL):
        rng = random.Random(self.seed)
        latencies = {rung.id: rung.latency_ms for rung in self.governor.rungs}
        for _ in range(seconds):
            factor = slowdown(self.now_s)
            true_p95 = latencies[self.governor.active] * factor * math.exp(1.645 * NOISE)
            limit = self.governor.budget_ms * (1 + self.governor.settings.tolerance)
            fastest_p95 = min(latencies.values()) * factor * math.exp(1.645 * NOISE)
            if fastest_p95 <= limit:
                self.held.append(true_p95 <= limit)
            for index in range(self.rate_hz):
                compute_ms = latencies[self.governor.active] * factor * rng.lognormvariate(0, NOISE)
                self.governor.observe(self.now_s + index / self.rate_hz, 0.0, compute_ms, self.governor.active)
            self.now_s += 1.0
            decision = self.governor.decide(self.now_s, reading(self.now_s))
            if decision is not None:
                assert decision.from_point == self.governor.active
                self.changes.append((self.now_s, decision))
                self.governor.switched(self.now_s, decision.to_point)
        return self

    @property
    def held_share(self):
        return sum(self.held) / max(1, len(self.held))


def simulate(active="a", ladder=LADDER, **options):
    return Simulation(Governor(BUDGET_MS, 95, ladder, active), **options)


def test_steady_load_changes_nothing():
    simulation = simulate().run(1800, lambda t: 1.0)
    assert simulation.changes == []
    assert simulation.held_share == 1.0


def test_step_up_goes_straight_to_the_point_that_holds():
    simulation = simulate().run(300, lambda t: 1.0).run(300, lambda t: 1.7)
    assert [decision.to_point for _, decision in simulation.changes] == ["c"]
    when, decision = simulation.changes[0]
    assert when - 300 < 6
    assert "over the budget of 33.00 ms" in decision.reason
    assert simulation.held_share > 0.98


def test_climbs_back_one_by_one_when_the_load_has_gone():
    simulation = simulate().run(100, lambda t: 2.4).run(600, lambda t: 1.0)
    ups = [decision.to_point for when, decision in simulation.changes if when > 100]
    assert ups == ["c", "b"]  # "a" would need 91 % of the budget, and 85 % is the limit
    assert simulation.held_share > 0.95


def test_ramp():
    simulation = simulate().run(1200, lambda t: 1 + t / 1200)
    assert simulation.held_share > 0.95
    assert len(simulation.changes) <= 4
    assert all(decision.to_point > decision.from_point for _, decision in simulation.changes)


@pytest.mark.parametrize("period_s", [20, 60, 240, 900])
def test_oscillating_load_does_not_make_it_flap(period_s):
    simulation = simulate().run(3600, lambda t: 1.7 if (t % period_s) < period_s / 2 else 1.0)
    assert len(simulation.changes) <= 3600 / 60
    assert simulation.held_share > 0.95


def test_spikes_shorter_than_the_patience_are_ridden_out():
    simulation = simulate().run(1200, lambda t: 3.0 if t % 100 == 0 else 1.0)
    assert len(simulation.changes) <= 1200 / 60


def test_budget_that_nothing_holds_ends_at_the_fastest_and_stays():
    simulation = simulate().run(600, lambda t: 5.0)
    assert simulation.governor.active == "d"
    assert len(simulation.changes) == 1


def test_queueing_counts():
    governor = Governor(BUDGET_MS, 95, LADDER, "a")
    for index in range(100):
        governor.observe(index / 20, 40.0, 28.0, "a")
    assert governor.decide(5.0, COOL) is None  # patience
    assert governor.decide(8.0, COOL).to_point == "d"


def test_no_climb_while_busy():
    """At 50 requests a second the slower point would compute all the time: its queue would grow without end."""
    ladder = (Rung("original", 16.0), Rung("fast", 13.0))
    simulation = Simulation(Governor(BUDGET_MS, 95, ladder, "fast"), rate_hz=60).run(600, lambda t: 1.0)
    assert simulation.changes == []


@pytest.mark.parametrize("rate_hz", [1, 5])
def test_few_requests_are_enough(rate_hz):
    simulation = simulate("original", rate_hz=rate_hz).run(120, lambda t: 1.0)
    assert [decision.to_point for _, decision in simulation.changes] == ["a"]


def test_silence_changes_nothing():
    governor = Governor(BUDGET_MS, 95, LADDER, "d")
    assert all(governor.decide(float(t), COOL) is None for t in range(600))


@pytest.mark.parametrize(
    "reading",
    [
        SensorReading(80.0, 600.0, ("throttled",), 1 << 30),
        SensorReading(None, None, ("under_voltage",), None),
        SensorReading(50.0, 1500.0, (), 1 << 20),
    ],
)
def test_no_climb_while_throttled_or_short_of_memory(reading):
    simulation = simulate("d").run(600, lambda t: 1.0, lambda t: reading)
    assert simulation.changes == []


def test_operators_swap_starts_the_evidence_anew():
    simulation = simulate().run(100, lambda t: 1.0)
    simulation.governor.switched(simulation.now_s, "original")
    assert simulation.governor.service_ms(simulation.now_s) is None
    simulation.run(30, lambda t: 1.0)
    assert [decision.to_point for _, decision in simulation.changes] == ["a"]


def test_unknown_latencies_and_unknown_active_point():
    ladder = (Rung("original", None), Rung("a", 30.0))
    simulation = Simulation(Governor(20.0, 95, (Rung("original", 40.0), Rung("a", None)), "original"))
    for index in range(100):
        simulation.governor.observe(index / 20, 0.0, 40.0, "original")
    simulation.governor.decide(5.0, COOL)
    assert simulation.governor.decide(8.0, COOL).to_point == "a"
    assert Simulation(Governor(BUDGET_MS, 95, ladder, "gone")).governor.decide(1.0, COOL) is None


absurd = st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True))
readings = st.builds(
    SensorReading,
    absurd,
    absurd,
    st.one_of(st.none(), st.just(()), st.just(("throttled",))),
    st.one_of(st.none(), st.integers(-(2**63), 2**63)),
)


@settings(max_examples=12, deadline=None)
@given(
    levels=st.lists(st.floats(0.3, 2.6), min_size=1, max_size=5),
    seen=st.lists(readings, min_size=1, max_size=4),
    seed=st.integers(0, 100),
)
def test_holds_the_budget_and_never_flaps(levels, seen, seed):
    """Any load that changes every ten minutes, with sensors that say anything."""
    simulation = simulate(seed=seed, rate_hz=10)
    for level in levels:
        simulation.run(600, lambda t, level=level: level, lambda t: seen[int(t) % len(seen)])
    assert simulation.held_share >= 0.95
    times = [when for when, _ in simulation.changes]
    for start in times:
        assert sum(start <= when < start + 60 for when in times) <= 3
    assert len(times) <= len(levels) * 10


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(absurd, absurd), max_size=200))
def test_absurd_measurements_never_raise(pairs):
    governor = Governor(BUDGET_MS, 95, LADDER, "b", GovernorSettings())
    for index, (queue_ms, compute_ms) in enumerate(pairs):
        governor.observe(index / 10, queue_ms or 0.0, compute_ms or 0.0, "b")
        decision = governor.decide(index / 10, COOL)
        assert decision is None or decision.to_point in {rung.id for rung in LADDER}
