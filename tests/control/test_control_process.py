"""The daemon as a process, controlled from outside while tritonclient asks it to compute."""

import asyncio
import random
import signal
import threading
import time
from dataclasses import replace

import numpy as np
import psutil
import pytest
import tritonclient.grpc as triton
from control.prepared import Prepared
from control.serving import poll

from edge_dac.client import AsyncControlClient, BudgetRefusedError, ChangeOptions, ControlClient, ControlError
from edge_dac.planning.budget import Budget, LayerRank


class Load:
    """Clients that ask one after the other without a pause, each answer checked: ``y = k x`` for a known ``k``."""

    def __init__(self, address, factors, clients=4):
        self.factors, self.address = factors, address
        self.answers, self.failures = 0, []
        self.latencies_ms = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(seed,)) for seed in range(clients)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    def _ask(self, seed):
        rng = np.random.default_rng(seed)
        with triton.InferenceServerClient(self.address) as client:
            while not self._stop.is_set():
                x = rng.standard_normal((1, 8)).astype(np.float32)
                tensor = triton.InferInput("x", [1, 8], "FP32")
                tensor.set_data_from_numpy(x)
                started = time.perf_counter()
                try:
                    y = client.infer("scale", [tensor]).as_numpy("y")
                except triton.InferenceServerException as error:
                    self.failures.append(str(error))
                    continue
                self.latencies_ms.append(1e3 * (time.perf_counter() - started))
                if not any(np.array_equal(y, np.float32(factor) * x) for factor in self.factors):
                    self.failures.append(f"wrong answer {y} for {x}")
                self.answers += 1


def swap_under_load(serve, prepared, count):
    daemon = serve(prepared.model, prepared.state)
    with ControlClient(daemon.address) as client, Load(daemon.address, prepared.ids.values()) as load:
        generations = []
        for index in range(count):
            point = list(prepared.ids)[index % 3]
            generations.append(client.pin("scale", point).generation)
        assert client.model("scale").active_point == point
    assert load.failures == []
    assert load.answers > count
    assert generations == sorted(set(generations))
    assert daemon.stop() == 0


def test_swaps_under_load(serve, prepared):
    swap_under_load(serve, prepared, 12)


@pytest.mark.slow
def test_thousand_swaps_under_load(serve, prepared):
    swap_under_load(serve, prepared, 1000)


def kill_at_random_moments(serve, prepared, rounds):
    """Pins follow each other until the process is killed; the next one serves a whole generation, old or new."""
    rng = random.Random(7)
    acknowledged, highest = prepared.slow_point, 1
    for _ in range(rounds):
        daemon = serve(prepared.model, prepared.state)
        address = daemon.address
        # A client tries again for as long as it has time.
        with ControlClient(address, change_timeout_s=1.0) as client:
            state = client.model("scale")
            assert state.active_point in prepared.ids
            assert state.generation >= highest
            # What was acknowledged counts, unless the change that was cut short has become durable.
            assert state.active_point == acknowledged or state.generation > highest
            assert not state.last_failure
            acknowledged, highest = state.active_point, state.generation
            killer = threading.Timer(rng.uniform(0.0, 0.1), daemon.stop, (signal.SIGKILL,))
            killer.start()
            with pytest.raises(ControlError) as error:  # noqa: PT012 - whichever change the kill meets
                while True:
                    point = rng.choice(list(prepared.ids))
                    result = client.pin("scale", point)
                    acknowledged, highest = point, result.generation
            assert error.value.code in ("UNAVAILABLE", "CANCELLED", "UNKNOWN")
            killer.join()


def test_killed_at_random_moments(serve, prepared):
    kill_at_random_moments(serve, prepared, 3)


@pytest.mark.slow
def test_killed_at_a_hundred_random_moments(serve, prepared):
    kill_at_random_moments(serve, prepared, 100)


def computes(process):
    """Whether it still does; what has ended may wait for long until somebody takes note of it."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def kill_in_reconfigurations(serve, small_network, rounds):
    """Each budget is cut short at a random one of the events that it causes; after the last start it is applied."""
    rng = random.Random(3)
    for _ in range(rounds):
        daemon = serve(small_network)
        with ControlClient(daemon.address) as client:
            events = client.watch()
            next(events)
            number = client.set_budget("small", Budget(max_error=0.5), ChangeOptions(no_wait=True)).generation
            for _ in range(rng.randint(2, 12)):
                next(events)
            children = psutil.Process(daemon.process.pid).children()
            daemon.stop(signal.SIGKILL)
            poll(
                lambda children=children: not any(map(computes, children)), "the compiler has ended with its daemon", 10
            )
            with pytest.raises(ControlError):
                list(events)
    with ControlClient(serve(small_network).address) as client:
        state = client.model("small")
        assert number in (state.pending_generation, state.generation)
        assert not state.last_failure
        poll(lambda: client.model("small").generation == number, "the change that was cut short has been made")


def test_killed_in_the_middle_of_a_compilation(serve, small_network):
    kill_in_reconfigurations(serve, small_network, 1)


@pytest.mark.slow
def test_killed_at_a_hundred_moments_of_reconfigurations(serve, small_network):
    kill_in_reconfigurations(serve, small_network, 100)


def test_storm_of_budgets_under_load(serve, prepared):
    daemon = serve(prepared.model, prepared.state)
    with ControlClient(daemon.address) as client, Load(daemon.address, prepared.ids.values(), clients=2) as load:
        options = ChangeOptions(no_wait=True)
        numbers = [
            client.set_budget("scale", Budget(latency_ms=50.0 + index), options).generation for index in range(15)
        ]
        state = client.model("scale")
        assert numbers == sorted(set(numbers))
        assert state.pending_generation == numbers[-1]
        assert client.pin("scale", "original").generation == numbers[-1] + 1
    assert load.failures == []
    assert load.answers > 0


def test_deadline_chooses_a_point_for_one_request(serve, tmp_path):
    """The original is said to take a minute, the point that doubles 6 ms: time enough on any machine."""
    prepared = Prepared(tmp_path, original_latency_ms=60_000.0)
    journal = prepared.journal()
    assert journal.applied is not None
    journal.decide(replace(journal.applied, active_point="original"))  # as if the budget had led there
    daemon = serve(prepared.model, prepared.state)
    x = np.ones((1, 8), np.float32)
    tensor = triton.InferInput("x", [1, 8], "FP32")
    tensor.set_data_from_numpy(x)
    with ControlClient(daemon.address) as control, triton.InferenceServerClient(daemon.address) as client:

        def factor(deadline_s):
            return client.infer("scale", [tensor], client_timeout=deadline_s).as_numpy("y")[0, 0]

        control.pin("scale", "original")
        poll(lambda: all(point.loaded for point in control.model("scale").points), "the ladder is loaded")
        assert factor(30) == 1.0  # an operator's pin comes first
        control.unpin("scale")
        assert [factor(deadline_s) for deadline_s in (None, 3600, 30, 120)] == [1.0, 1.0, 2.0, 1.0]


def test_compiler_killed(small_daemon):
    """The daemon goes on serving and says what happened; the next change works."""
    address = small_daemon.address
    errors = []

    def ask():
        with ControlClient(address) as client:
            try:
                client.set_budget("small", Budget(speedup=1.01))
            except ControlError as error:
                errors.append(error)

    with ControlClient(address) as client:
        before = client.model("small")
        asking = threading.Thread(target=ask)
        asking.start()
        (child,) = poll(psutil.Process(small_daemon.process.pid).children, "the compiler has been started")
        child.kill()
        asking.join(30)
        assert [error.code for error in errors] == ["INTERNAL"]
        assert "killed by SIGKILL" in str(errors[0])
        state = client.model("small")
        assert (state.pending_generation, state.active_point) == (0, before.active_point)
        assert state.generation == before.generation
        assert "killed by SIGKILL" in state.last_failure
        result = client.set_ranks("small", layers={"conv1": LayerRank("dac", 3)})
        assert result.applied
        assert [layer.rank for layer in result.point.layers if layer.layer == "conv1"] == [3]
        assert client.model("small").active_point == result.point.id
    assert not computes(child)


def test_impossible_budget_changes_nothing(small_daemon):
    with ControlClient(small_daemon.address) as client:
        before = client.model("small")
        with pytest.raises(BudgetRefusedError) as error:
            client.set_budget("small", Budget(latency_ms=1e-6, percentile=95))
        assert f"latency at p95 {error.value.best_latency_ms:.3g} ms where 1e-06 ms is wanted" in str(error.value)
        assert error.value.best_error >= 0
        after = client.model("small")
        assert (after.generation, after.active_point, after.budget) == (
            before.generation,
            before.active_point,
            before.budget,
        )
        with pytest.raises(ControlError, match="INVALID_ARGUMENT"):
            client.set_ranks("small")
        with pytest.raises(ControlError, match="NOT_FOUND"):
            client.model("other")


def test_reprofile_replaces_what_was_measured(small_daemon):
    with ControlClient(small_daemon.address) as client:
        client.set_ranks("small", layers={"conv1": LayerRank("dac", 3)})
        before = client.model("small")
        result = client.reprofile("small")
        after = client.model("small")
        assert (result.applied, after.generation) == (True, before.generation + 1)
        assert after.budget == before.budget
        assert before.active_point != after.active_point == result.point.id
        assert before.active_point not in [point.id for point in after.points]


def test_token_outside_the_socket(serve, prepared, tmp_path):
    token = tmp_path / "token"
    token.write_text("a-secret-of-this-test\n")
    config = tmp_path / "config.toml"
    socket = tmp_path / "control.sock"
    config.write_text(f'[control]\ntoken_file = "{token}"\n[server]\nlisten = ["unix:{socket}", "127.0.0.1:0"]\n')
    daemon = serve(prepared.model, prepared.state, "--config", str(config))
    assert daemon.address == f"unix:{socket}"
    tcp = daemon.entries("listening")[1]["address"]
    with ControlClient(f"unix:{socket}") as client:
        assert client.pin("scale", "original").applied
    with ControlClient(tcp) as client, pytest.raises(ControlError, match="UNAUTHENTICATED"):
        client.models()
    with ControlClient(tcp, token="a-wrong-one") as client, pytest.raises(ControlError, match="UNAUTHENTICATED"):
        client.models()
    with ControlClient(tcp, token="a-secret-of-this-test") as client:
        assert client.rollback("scale").applied


def test_asyncio_client_and_watch(serve, prepared):
    daemon = serve(prepared.model, prepared.state)

    async def follow():
        async with AsyncControlClient(daemon.address) as client:
            assert (await client.device()).cpu_model
            assert [model.name for model in await client.models()] == ["scale"]
            kinds, changes = [], []
            async for event in client.watch():
                kinds.append(event.kind)
                if event.kind == "snapshot":
                    changes.append(asyncio.create_task(client.pin("scale", "original")))
                if event.kind == "applied":
                    break
            await asyncio.gather(*changes)
            return kinds, event

    kinds, event = asyncio.run(asyncio.wait_for(follow(), 30))
    assert kinds == ["snapshot", "accepted", "swap", "applied"]
    assert event.values == {"generation": 2, "active_point": "original"}


def test_stops_with_watchers(serve, prepared):
    daemon = serve(prepared.model, prepared.state)
    with ControlClient(daemon.address) as client:
        events = client.watch()
        assert next(events).kind == "snapshot"
        daemon.process.send_signal(signal.SIGTERM)
        assert list(events) == []
    assert daemon.process.wait(30) == 0
