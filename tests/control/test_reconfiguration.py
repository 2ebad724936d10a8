"""The reconfigurator in this process, with a real store, real runtimes and, where a plan is made, the real child."""

import threading
from types import SimpleNamespace

import grpc
import psutil
import pytest
from control.device import Device
from control.serving import poll

from edge_dac.errors import ArtifactError, UsageError
from edge_dac.planning.budget import Budget, LayerRank
from edge_dacd.executor import Ticket
from edge_dacd.models import ServedModel
from edge_dacd.runtime import Runtime
from edge_dacd.status import RequestError


def code_of(error):
    return error.value.code


def test_serves_the_last_good_point_at_once(start):
    device = start()
    assert device.factor == 2.0
    assert device.journal.applied.number == 1
    assert device.reconfigurator.managed("scale").points.reason.startswith("the last good operating point")


def test_pin_moves_and_survives_a_restart(start, prepared):
    device = start()
    outcome = device.change("set_active_point", point=prepared.fast_point[:8])
    assert (outcome.generation, outcome.applied, outcome.point.id) == (2, True, prepared.fast_point)
    assert device.factor == 3.0
    device.reconfigurator.close()
    again = start()
    assert again.factor == 3.0
    assert again.reconfigurator.managed("scale").pinned_point == prepared.fast_point
    outcome = again.change("set_active_point")
    assert again.reconfigurator.managed("scale").pinned_point is None
    assert again.factor == 2.0  # where the budget had led


def test_rollback(start, prepared):
    device = start()
    device.change("set_active_point", point="original")
    assert device.factor == 1.0
    outcome = device.change("rollback")
    assert (outcome.generation, device.factor) == (3, 2.0)
    outcome = device.change("rollback", generation=2)
    assert (outcome.generation, device.factor) == (4, 1.0)
    with pytest.raises(RequestError, match=r"expected a generation of \[1, 2, 3, 4\], got 9") as error:
        device.change("rollback", generation=9)
    assert code_of(error) is grpc.StatusCode.FAILED_PRECONDITION


def test_expected_generation(start):
    device = start()
    with pytest.raises(RequestError, match="expected generation 7, the newest is 1") as error:
        device.change("set_active_point", point="original", expected_generation=7)
    assert code_of(error) is grpc.StatusCode.ABORTED
    assert device.factor == 2.0
    assert device.change("set_active_point", point="original", expected_generation=1).generation == 2


def test_idempotency_key_makes_one_change_of_two_also_after_a_restart(start):
    device = start()
    first = device.change("set_active_point", point="original", idempotency_key="k")
    assert device.change("set_active_point", point="original", idempotency_key="k").generation == first.generation
    device.reconfigurator.close()
    again = start()
    assert again.change("set_active_point", point="original", idempotency_key="k").generation == first.generation
    assert again.journal.head == first.generation


def test_late_repetition_does_not_overtake_a_newer_change(start):
    device = start()
    device.change("set_budget", wait=False, budget=Budget(latency_ms=100.0), idempotency_key="old")
    device.change("set_active_point", point="original", idempotency_key="new")
    with pytest.raises(RequestError, match="superseded by generation 3") as error:
        device.change("set_budget", budget=Budget(latency_ms=100.0), idempotency_key="old")
    assert code_of(error) is grpc.StatusCode.ABORTED
    assert (device.journal.head, device.factor) == (3, 1.0)


@pytest.mark.parametrize("point", ["nonsense", "0" * 64])
def test_unknown_point(start, point):
    with pytest.raises(RequestError, match="expected one operating point") as error:
        start().change("set_active_point", point=point)
    assert code_of(error) is grpc.StatusCode.NOT_FOUND


def test_dry_run_of_a_pin_changes_nothing(start, prepared):
    device = start()
    outcome = device.change("set_active_point", point=prepared.fast_point, dry_run=True)
    assert (outcome.applied, outcome.point.id) == (False, prepared.fast_point)
    assert (device.factor, device.journal.head) == (2.0, 1)


def test_short_memory_refuses_the_swap_and_changes_nothing(start, prepared):
    device = start()
    device.memory_bytes = 1 << 20
    device.reconfigurator.managed("scale").points.shed()
    with pytest.raises(RequestError, match="MiB free") as error:
        device.change("set_active_point", point=prepared.fast_point)
    assert code_of(error) is grpc.StatusCode.FAILED_PRECONDITION
    assert device.factor == 2.0
    assert device.journal.applied.number == 1
    device.memory_bytes = 1 << 40
    assert device.change("set_active_point", point=prepared.fast_point).generation == 3


@pytest.fixture
def short(start):
    """A device with memory for one point at a time."""
    device = start(room_for_one=True)
    device.reconfigurator.managed("scale").points.shed()
    return device


def test_unloads_first_where_the_operator_allows_a_gap(short, prepared):
    with pytest.raises(RequestError, match="MiB free"):
        short.change("set_active_point", point=prepared.fast_point)
    assert short.factor == 2.0
    outcome = short.change("set_active_point", point=prepared.fast_point, allow_gap=True)
    assert (outcome.applied, short.factor) == (True, 3.0)
    points = short.reconfigurator.managed("scale").points
    assert points.loaded_ids() == {prepared.fast_point}
    assert "ms without a runtime" in points.reason


def test_a_gap_that_the_configuration_allows_later_counts_for_models_that_are_there(short, prepared):
    with pytest.raises(RequestError):
        short.change("set_active_point", point=prepared.fast_point)
    short.reconfigurator.allow_gap = True
    assert short.change("set_active_point", point=prepared.fast_point).applied
    assert short.factor == 3.0


def test_requests_of_the_gap_wait_in_their_line(short, prepared):
    answers = []

    def ask():
        answers.append(short.executor.perform(Ticket(lambda: short.factor, "scale", 1)))

    asking = threading.Thread(target=ask)

    def in_gap():
        asking.start()
        poll(lambda: short.executor.waiting("scale") == 1, "the request waits")

    short.in_gap = in_gap
    assert short.change("set_active_point", point=prepared.fast_point, allow_gap=True).applied
    asking.join(30)
    assert answers == [3.0]


def damage(prepared, point):
    path = prepared.store.look_up(point).model_path
    path.write_bytes(path.read_bytes()[::-1])


def test_what_was_there_comes_back_if_the_new_point_cannot_be_loaded(short, prepared):
    damage(prepared, prepared.fast_point)
    with pytest.raises(RequestError, match="set aside as damaged"):
        short.change("set_active_point", point=prepared.fast_point, allow_gap=True)
    assert short.factor == 2.0
    assert short.journal.applied.number == 1
    assert short.reconfigurator.managed("scale").points.reason.startswith("it came back")


def test_the_original_comes_back_if_nothing_else_can(short, prepared):
    points = short.reconfigurator.managed("scale").points
    damage(prepared, prepared.fast_point)
    damage(prepared, prepared.slow_point)
    with pytest.raises(ArtifactError):
        points.activate(prepared.fast_point, "a test", allow_gap=True)
    assert (points.active_id, short.factor) == ("original", 1.0)


def test_governor_revives_what_could_not_come_back(short, prepared):
    points = short.reconfigurator.managed("scale").points
    model = prepared.model.read_bytes()
    prepared.model.unlink()
    damage(prepared, prepared.fast_point)
    damage(prepared, prepared.slow_point)
    with pytest.raises(ArtifactError):
        points.activate(prepared.fast_point, "a test", allow_gap=True)
    with pytest.raises(RequestError, match="not loaded") as error:
        assert short.factor
    assert code_of(error) is grpc.StatusCode.UNAVAILABLE
    prepared.model.write_bytes(model)
    points.revive()
    assert short.factor == 1.0


class CrowdedDevice(Device):
    """Its memory is short while a compiler child lives, and only then."""

    def available_memory_bytes(self):
        return 0 if any("edge_dacd.compiler" in child.cmdline() for child in psutil.Process().children()) else 1 << 40


def test_compiler_gives_way_to_the_point_that_it_has_made(small_network, tmp_path):
    device = CrowdedDevice(SimpleNamespace(model=small_network, state=tmp_path / "state"))
    try:
        # Ranks are obeyed whatever is measured meanwhile.
        outcome = device.change("set_ranks", budget=Budget(layer_ranks={"conv1": LayerRank("dac", 3)}))
        assert outcome.applied
        assert outcome.point.id != "original"
        assert device.model.active.point_id == outcome.point.id
    finally:
        device.reconfigurator.close()


def test_serves_the_last_good_point_with_memory_for_one(start):
    assert start(room_for_one=True).factor == 2.0


def test_damaged_point_falls_back_and_is_reported(start, prepared):
    damage(prepared, prepared.slow_point)
    device = start()
    assert device.factor == 1.0
    managed = device.reconfigurator.managed("scale")
    assert "set aside as damaged" in managed.last_failure
    assert device.journal.pending.cause == "repair"


def test_changed_model_file_is_served_as_it_is_and_planned_anew(start, prepared):
    prepared.rewrite_model(5.0)
    device = start()
    assert device.factor == 5.0
    assert device.journal.pending.cause == "model_changed"


def test_points_measured_on_another_device_serve_until_it_has_been_measured(start):
    device = start("prepared_elsewhere")
    assert device.factor == 2.0
    assert device.journal.pending.cause == "device_changed"


def test_pinned_point_stays_on_another_device(start, prepared_elsewhere):
    device = start("prepared_elsewhere")
    device.change("set_active_point", point=prepared_elsewhere.fast_point)
    device.reconfigurator.close()
    again = start("prepared_elsewhere")
    assert again.factor == 3.0
    assert again.journal.pending is None


def test_damaged_journal_is_reported_and_the_model_served(start, prepared):
    for slot in (prepared.state / "generations").iterdir():
        slot.write_bytes(slot.read_bytes()[:-20])
    device = start()
    assert device.factor == 1.0
    assert "journal slot" in device.reconfigurator.managed("scale").last_failure
    assert device.change("set_active_point", point="original").applied


def test_requests_with_a_wish_find_the_ladder_loaded(start, prepared):
    device = start()
    managed = device.reconfigurator.managed("scale")
    managed.points.offer()
    assert managed.points.loaded_ids() == set(prepared.ids)
    assert device.model.runtime_for(max_latency_ms=4.0).point_id == prepared.fast_point
    assert device.model.runtime_for(max_error=0.02).point_id == prepared.slow_point
    managed.points.shed()
    assert managed.points.loaded_ids() == {prepared.slow_point}


def test_switched_off(start):
    device = start(enabled=False)
    assert device.factor == 1.0
    with pytest.raises(RequestError, match="switched off"):
        device.change("set_active_point", point="original")


def test_reloaded_model_takes_over_the_journal(start):
    """As SIGHUP does it: the new one is attached first, then the one before is detached."""
    device = start()
    device.change("set_active_point", point="original")
    before = device.model
    device.model = ServedModel(before.source, Runtime.load(device.prepared.model, threads=1), 0.0)
    device.reconfigurator.attach(device.model)
    device.reconfigurator.detach(before)
    assert device.factor == 1.0
    assert device.change("rollback").generation == 3
    assert device.factor == 2.0


def test_second_daemon_on_the_same_state(start, prepared):
    start()
    with pytest.raises(UsageError, match="another daemon uses it"):
        start()


def test_newer_change_aborts_the_pending_one(start):
    device = start()
    errors = []

    def ask():
        try:
            device.change("set_budget", budget=Budget(speedup=1.2))
        except RequestError as error:
            errors.append(error)

    with device.events.watch(lambda: True) as events:
        asking = threading.Thread(target=ask)
        asking.start()
        assert next(events).accepted.generation == 2
        outcome = device.change("set_active_point", point="original")
        asking.join(30)
    assert outcome.generation == 3
    assert [error.code for error in errors] == [grpc.StatusCode.ABORTED]
    assert "superseded by generation 3" in errors[0].message
    assert device.factor == 1.0


def test_storm_of_budgets_keeps_the_last(start):
    device = start()
    for index in range(12):
        device.change("set_budget", wait=False, budget=Budget(latency_ms=100.0 + index))
    assert device.journal.head == 13
    assert device.journal.pending.budget["latency_ms"] == 111.0
    assert device.factor == 2.0
    assert device.change("set_active_point", point="original").generation == 14


def test_pending_change_goes_on_after_a_restart(start):
    device = start()
    device.change("set_budget", wait=False, budget=Budget(latency_ms=100.0))
    device.reconfigurator.close()
    again = start()
    assert again.factor == 2.0
    assert again.journal.pending.budget == {"latency_ms": 100.0, "percentile": 50}
    assert again.journal.head == 2


def test_new_budget_in_the_configuration_is_a_new_generation_once(start):
    device = start(budget=Budget(speedup=3.0))
    assert device.journal.pending.cause == "configuration"
    device.change("set_active_point", point="original")
    device.reconfigurator.close()
    again = start(budget=Budget(speedup=3.0))
    assert again.journal.pending is None
    assert again.factor == 1.0
