"""The servicer of ``edge_dac.control.v1.Control``: checks who asks and what, hands it on, answers."""

# ruff: noqa: N802 - methods are called as in proto/

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import grpc

from edge_dac import wire
from edge_dac.budget_messages import budget_from_message, layer_ranks_from
from edge_dac.device.profile import profile_device
from edge_dac.planning.budget import Budget
from edge_dacd.authorization import Authorizer
from edge_dacd.changes import BudgetImpossibleError, ChangeRequest
from edge_dacd.control_messages import device_message, model_message, result_message
from edge_dacd.events import EventHub
from edge_dacd.managed_model import ManagedModel
from edge_dacd.reconfiguration import Reconfigurator
from edge_dacd.status import RequestError, invalid

SERVICE = "edge_dac.control.v1.Control"
_LONGEST_KEY = 128


class ControlServicer:
    """One method per RPC, see ``control.proto``.

    Args:
        service_p95_ms: what the requests of a model take, over the last minute; None if there were none.
    """

    def __init__(
        self,
        reconfigurator: Reconfigurator,
        events: EventHub,
        authorizer: Authorizer,
        service_p95_ms: Callable[[str], float | None],
    ) -> None:
        self._reconfigurator = reconfigurator
        self._events = events
        self._authorizer = authorizer
        self._service_p95_ms = service_p95_ms

    # Looking.

    def GetDevice(self, request: Any, context: grpc.ServicerContext) -> Any:
        self._authorizer.check(context, changes=False)
        return device_message(profile_device())

    def ListModels(self, request: Any, context: grpc.ServicerContext) -> Any:
        self._authorizer.check(context, changes=False)
        models = [self._model(managed) for managed in self._reconfigurator.models()]
        return wire.message("edge_dac.control.v1.ListModelsResponse")(models=models)

    def GetModel(self, request: Any, context: grpc.ServicerContext) -> Any:
        self._authorizer.check(context, changes=False)
        return self._model(self._reconfigurator.managed(request.model), with_layers=request.with_layers)

    def Watch(self, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        self._authorizer.check(context, changes=False)
        wanted = frozenset(request.models)
        watched = [self._reconfigurator.managed(name) for name in sorted(wanted)] or self._reconfigurator.models()
        with self._events.watch(context.is_active) as events:
            for managed in watched:
                yield self._events.snapshot(managed.name, snapshot=self._model(managed))
            for event in events:
                if not wanted or not event.model or event.model in wanted:
                    yield event

    def _model(self, managed: ManagedModel, *, with_layers: bool = False) -> Any:
        return model_message(managed, with_layers=with_layers, service_p95_ms=self._service_p95_ms(managed.name))

    # Changing.

    def SetBudget(self, request: Any, context: grpc.ServicerContext) -> Any:
        return self._change(request, context, "set_budget", budget=budget_from_message(request.budget))

    def SetRanks(self, request: Any, context: grpc.ServicerContext) -> Any:
        budget = Budget(
            uniform_rank=request.uniform_rank if request.HasField("uniform_rank") else None,
            total_rank=request.total_rank if request.HasField("total_rank") else None,
            layer_ranks=layer_ranks_from(request.layers),
            mac_fraction=request.mac_fraction if request.HasField("mac_fraction") else None,
        )
        if not budget.to_json():
            raise invalid(
                "ranks: expected a uniform rank, a total, a choice for a layer or a share of the MACs, got none of them"
            )
        return self._change(request, context, "set_ranks", budget=budget)

    def SetActivePoint(self, request: Any, context: grpc.ServicerContext) -> Any:
        return self._change(request, context, "set_active_point", point=request.point)

    def Reprofile(self, request: Any, context: grpc.ServicerContext) -> Any:
        return self._change(request, context, "reprofile")

    def Rollback(self, request: Any, context: grpc.ServicerContext) -> Any:
        return self._change(request, context, "rollback", generation=request.generation)

    def _change(self, request: Any, context: grpc.ServicerContext, cause: str, **wish: Any) -> Any:
        self._authorizer.check(context, changes=True)
        change = request.change
        if len(change.idempotency_key) > _LONGEST_KEY:
            message = f"idempotency_key: expected at most {_LONGEST_KEY} characters, got {len(change.idempotency_key)}"
            raise invalid(message)
        wanted = ChangeRequest(
            change.model,
            cause,
            idempotency_key=change.idempotency_key,
            dry_run=change.dry_run,
            best_effort=change.best_effort,
            allow_gap=change.allow_gap,
            **wish,
        )
        if change.HasField("expected_generation"):
            wanted = replace(wanted, expected_generation=change.expected_generation)
        try:
            outcome = self._reconfigurator.change(wanted, wait=not change.no_wait, is_wanted=context.is_active)
        except BudgetImpossibleError as error:
            _tell_best(context, error)
            raise
        if outcome is None:
            raise RequestError(grpc.StatusCode.CANCELLED, "nobody waits for the answer; the change goes on")
        return result_message(outcome, active=outcome.applied)


def _tell_best(context: grpc.ServicerContext, error: BudgetImpossibleError) -> None:
    best = {"edge-dac-best-latency-ms": error.latency_ms, "edge-dac-best-error": error.error}
    context.set_trailing_metadata(tuple((key, f"{value:.6g}") for key, value in best.items() if value is not None))
