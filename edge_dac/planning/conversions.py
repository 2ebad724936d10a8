"""What it costs that layers in real numbers stand beside layers in integers.

Maps are converted on the way from one to the other, and sums and joins on which both lead are computed in real numbers. No
layer's own time tells that: u2netp with three tenths of its convolutions left in real numbers took .62 of the original's time
where the layers add up to .55. What is paid was found to be near one price for each byte that is converted
(docs/algorithm.md).

Pairs of layers make the knapsack quadratic. For a given worth of a millisecond it is a minimum cut, and with the layers in
integers given, a knapsack again: so a few sets of these are found by the first, and what each layer takes by the second.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from itertools import product

import onnx

from edge_dac.convolution import ConvLayer
from edge_dac.graph.layers import Inventory
from edge_dac.planning.minimum_cut import cheapest_labels
from edge_dac.planning.selection import Limits, Option, cheapest_damage, fastest_within

_SUMS = frozenset({"Add", "Mul"})
_TELLS_SIZES = frozenset({"Shape", "Size"})
_ROUNDING = 1e-9
_MOST_CLIMBING = 40
"""Knapsacks, of some milliseconds each."""


def converted_bytes(model: onnx.ModelProto, inventory: Inventory) -> dict[tuple[str, str], float]:
    """Bytes (of real numbers) to convert where the first layer of a pair is in integers and the second is not.

    Pairs are convolutions of the main graph: one that reads what the other writes, behind other nodes or not, and two whose
    results are added or joined. A map in integers is converted where it is written, once for all that read it; one in real
    numbers where it is read, for it may have been enlarged. Of a sum each term counts for its share.
    """
    layers = {layer.name: layer for layer in inventory.layers}
    sites = {site.index: name for name, site in inventory.sites.items() if not site.path}
    found: defaultdict[tuple[str, str], float] = defaultdict(float)
    writers: dict[str, dict[str, float]] = {}
    reads: dict[tuple[str, str], float] = {}
    for index, node in enumerate(model.graph.node):
        inputs = [writers[name] for name in node.input if name in writers]
        name = sites.get(index)
        if name is not None and not layers[name].axes:
            behind: dict[str, float] = {}  # a product reads and writes real numbers in any case
        elif name is not None:
            reads.update({(writer, name): share for one in inputs for writer, share in one.items()})
            behind = {name: 1.0}
        else:
            behind = _merged(inputs, 1.0 if node.op_type not in _SUMS else 1 / max(len(inputs), 1))
            if node.op_type in _SUMS or node.op_type == "Concat":
                _meet(inputs, layers, found)
        if node.op_type not in _TELLS_SIZES:
            writers.update((output, behind) for output in node.output)
    readers = Counter(writer for writer, _ in reads)
    for (writer, reader), share in reads.items():
        found[writer, reader] += share * _written(layers[writer]) / readers[writer]
        found[reader, writer] += share * _read(layers[reader], layers[writer]) / readers[writer]
    return dict(found)


def _merged(inputs: Sequence[Mapping[str, float]], share: float) -> dict[str, float]:
    """The shares of all inputs, each ``share`` of what it was."""
    result: dict[str, float] = {}
    for one in inputs:
        for writer, held in one.items():
            result[writer] = min(result.get(writer, 0.0) + share * held, 1.0)
    return result


def _meet(
    inputs: Sequence[Mapping[str, float]],
    layers: Mapping[str, ConvLayer],
    found: defaultdict[tuple[str, str], float],
) -> None:
    """Each in integers among the inputs is converted for each other that is not."""
    for position, ones in enumerate(inputs):
        others = [other for o in (*inputs[:position], *inputs[position + 1 :]) for other in o]
        for one, other in product(ones, others):
            if one != other:
                found[one, other] += _written(layers[one]) / (len(ones) * len(others))


def _written(layer: ConvLayer) -> float:
    return map_bytes(layer, layer.out_channels, layer.output_size)


def _read(layer: ConvLayer, writer: ConvLayer) -> float:
    """What ``layer`` reads of what ``writer`` wrote: it may be joined to others, and have another size by then."""
    return map_bytes(layer, min(layer.in_channels, writer.out_channels), layer.input_size)


def map_bytes(layer: ConvLayer, channels: int, size: Sequence[int | None]) -> int:
    """A map of ``channels`` and ``size`` in float32, for all that the layer reads or writes in a run."""
    return 4 * channels * math.prod(extent or 1 for extent in size) * layer.batch * layer.positions


@dataclass(frozen=True, slots=True)
class _Selected:
    integers: frozenset[str]
    latency_ms: float
    cost: float

    def total(self, cost_weight: float, latency_weight: float) -> float:
        return float(cost_weight * self.cost + latency_weight * self.latency_ms)


@dataclass(frozen=True, eq=False)
class Conversions:
    """Prices of standing beside layers in integers.

    Attributes:
        price_ms: by pair of layers, where the first is in integers and the second is not.
    """

    price_ms: Mapping[tuple[str, str], float]

    def paid_ms(self, integers: Set[str]) -> float:
        """All that is paid, where these layers are in integers."""
        return sum(ms for (one, other), ms in self.price_ms.items() if one in integers and other not in integers)

    def least_damage(
        self,
        options: Mapping[str, Sequence[Option]],
        limits: Limits,
        exponent: float,
        most_ms: Callable[[Set[str]], float] | None,
    ) -> dict[str, Option] | None:
        """One option of every layer: of little, mostly the least, sum of damage**exponent within all limits.

        Exact for the layers that it takes integers in; these are the best for some worth of a millisecond, or near that.
        None where it finds nothing within the limits.

        Args:
            limits: without latency.
            most_ms: the limit on latency, conversions included, where these layers are in integers; None for no limit.
        """
        if most_ms is None:
            return _picked(options, cheapest_damage(list(options.values()), limits, exponent))

        def within(integers: frozenset[str]) -> dict[str, Option] | None:
            latency_ms = most_ms(integers) - self.paid_ms(integers)
            classes = _restricted(options, integers)
            return _picked(
                classes, cheapest_damage(list(classes.values()), replace(limits, latency_ms=latency_ms), exponent)
            )

        sets = self._trade_offs(options, exponent, lambda s: s.latency_ms <= most_ms(s.integers))
        return _climbed(options, sets, within, lambda c: sum(o.damage**exponent for o in c.values()))

    def least_latency(self, options: Mapping[str, Sequence[Option]], max_damage: float) -> dict[str, Option]:
        """One option of every layer: of little, mostly the least, latency with a total damage of at most ``max_damage``.

        Every layer must have an option without damage.
        """

        def within(integers: frozenset[str]) -> dict[str, Option] | None:
            classes = _restricted(options, integers)
            if sum(min(o.damage for o in entries) for entries in classes.values()) > max_damage:
                return None
            return _picked(classes, fastest_within(list(classes.values()), max_damage))

        sets = self._trade_offs(options, 1.0, lambda s: s.cost <= max_damage)
        found = _climbed(
            options, sets, within, lambda c: sum(o.latency_ms for o in c.values()) + self.paid_ms(in_integers(c))
        )
        assert found is not None
        return found

    def _trade_offs(
        self,
        options: Mapping[str, Sequence[Option]],
        exponent: float,
        is_within: Callable[[_Selected], bool],
    ) -> list[frozenset[str]]:
        """Layers to compute in integers: sets that are best for some worth of a millisecond, near a limit.

        With such a worth, which options and which layers in integers are best together is a minimum cut. The worth is
        sought at which the limit lies between two selections, of those that no other worth gives (the breakpoints of the
        Lagrangian dual); all sets met on the way are returned.

        Args:
            options: by layer.
            exponent: on a layer's damage in the cost.
            is_within: whether a selection is within the limit, on milliseconds or on the cost.
        """
        quickest, cheapest = self._best(options, exponent, 0.0, 1.0), self._best(options, exponent, 1.0, 0.0)
        found = dict.fromkeys((quickest.integers, cheapest.integers, frozenset[str]()))
        if is_within(quickest) == is_within(cheapest):
            return list(found)
        while quickest.cost > cheapest.cost and cheapest.latency_ms > quickest.latency_ms:
            weights = cheapest.latency_ms - quickest.latency_ms, quickest.cost - cheapest.cost
            between = self._best(options, exponent, *weights)
            found[between.integers] = None
            if between.total(*weights) >= quickest.total(*weights) * (1 - _ROUNDING):
                break
            if is_within(between) == is_within(quickest):
                quickest = between
            else:
                cheapest = between
        return list(found)

    def _best(
        self, options: Mapping[str, Sequence[Option]], exponent: float, cost_weight: float, latency_weight: float
    ) -> _Selected:
        """The selection of least weighted sum."""
        names = list(options)
        index = {name: position for position, name in enumerate(names)}

        def weighed(option: Option) -> float:
            return cost_weight * float(option.damage**exponent) + latency_weight * option.latency_ms

        best = [
            {
                kind: min(
                    (o for o in options[name] if o.candidate.computes_integers is kind), key=weighed, default=None
                )
                for kind in (False, True)
            }
            for name in names
        ]
        off, on = (
            [float("inf") if (o := entry[kind]) is None else weighed(o) for entry in best] for kind in (False, True)
        )
        pairs: dict[tuple[int, int], float] = {}
        for (one, other), ms in self.price_ms.items():
            if one in index and other in index:
                pairs[index[other], index[one]] = latency_weight * ms
            elif one in index:  # the other has no choice
                on[index[one]] += latency_weight * ms
        labels = cheapest_labels(off, on, pairs)
        chosen = [option for entry, label in zip(best, labels, strict=True) if (option := entry[label]) is not None]
        integers = frozenset(name for name, label in zip(names, labels, strict=True) if label)
        latency_ms = sum(o.latency_ms for o in chosen) + self.paid_ms(integers)
        return _Selected(integers, latency_ms, sum(o.damage**exponent for o in chosen))


def _climbed(
    options: Mapping[str, Sequence[Option]],
    sets: Sequence[frozenset[str]],
    within: Callable[[frozenset[str]], dict[str, Option] | None],
    cost: Callable[[dict[str, Option]], float],
) -> dict[str, Option] | None:
    """The cheapest selection of these sets of layers in integers, and of those that differ from the best in one layer more.

    Layers with most to gain are tried first, for there may be many.
    """
    able = [name for name, entries in options.items() if len({o.candidate.computes_integers for o in entries}) == 2]
    able.sort(key=lambda name: -max(o.latency_ms for o in options[name]))
    tried = {integers: within(integers) for integers in sets}
    known = [integers for integers, choices in tried.items() if choices is not None]
    best = min(known, key=lambda integers: cost(tried[integers] or {}), default=None)
    most = len(tried) + _MOST_CLIMBING
    while best is not None:
        start = best
        for name in able:
            other = start ^ {name}
            if other not in tried and len(tried) < most:
                tried[other] = choices = within(other)
                if choices is not None and cost(choices) < cost(tried[best] or {}):
                    best = other
        if best is start:
            return tried[best]
    return None


def _restricted(options: Mapping[str, Sequence[Option]], integers: Set[str]) -> dict[str, list[Option]]:
    """The options with which exactly these layers are in integers."""
    return {
        name: [o for o in entries if o.candidate.computes_integers == (name in integers)]
        for name, entries in options.items()
    }


def _picked(options: Mapping[str, Sequence[Option]], chosen: Sequence[int] | None) -> dict[str, Option] | None:
    if chosen is None:
        return None
    return {name: entries[index] for (name, entries), index in zip(options.items(), chosen, strict=True)}


def in_integers(choices: Mapping[str, Option]) -> set[str]:
    """The layers that a selection computes in integers."""
    return {name for name, option in choices.items() if option.candidate.computes_integers}
