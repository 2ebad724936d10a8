"""What it costs that layers in real numbers stand among layers in integers.

Maps are converted on the way from one to the other, and sums and joins on which both lead are computed in real numbers. No
layer's own time tells that: u2netp with three tenths of its convolutions left in real numbers took .62 of the original's time
where the layers add up to .55. What is paid was found to be near one price for each value that a layer in real numbers reads
and writes, times the share of its neighbours that are in integers.

Pairs of layers make the knapsack quadratic. It is solved for the layers' prices as they are in a given selection, then for
those in the solution, and so on, from none in integers and from all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from itertools import combinations

import onnx

from edge_dac.graph.layers import Inventory
from edge_dac.planning.selection import Option

_MEETINGS = frozenset({"Add", "Concat", "Mul"})
_TELLS_SIZES = frozenset({"Shape", "Size"})
_ROUNDS = 4


def neighbours(model: onnx.ModelProto, inventory: Inventory) -> dict[str, set[str]]:
    """By layer of the main graph: the layers that read what it writes, behind other nodes or not, that write what it
    reads, and that write what its result is added or joined to."""
    layers = {site.index: name for name, site in inventory.sites.items() if not site.path}
    found: dict[str, set[str]] = {name: set() for name in layers.values()}
    writers: dict[str, frozenset[str]] = {}
    for index, node in enumerate(model.graph.node):
        inputs = [writers.get(name, frozenset()) for name in node.input]
        behind: frozenset[str] = frozenset().union(*inputs)
        name = layers.get(index)
        if name is not None:
            pairs = [(name, other) for other in behind]
            behind = frozenset({name})
        elif node.op_type in _MEETINGS:
            pairs = [(a, b) for one, other in combinations(inputs, 2) for a in one for b in other if a != b]
        else:
            pairs = []
        for one, other in pairs:
            found[one].add(other)
            found[other].add(one)
        if node.op_type not in _TELLS_SIZES:
            writers.update((output, behind) for output in node.output)
    return found


def share_in_integers(around: Set[str], integers: Set[str]) -> float:
    """Share of the neighbours that are in integers; 0 where there are none."""
    return len(around & integers) / len(around) if around else 0.0


@dataclass(frozen=True, eq=False)
class Conversions:
    """Prices of standing among layers in integers.

    Attributes:
        price_ms: by layer, for all that it reads and writes in real numbers.
        around: from :func:`neighbours`.
    """

    price_ms: Mapping[str, float]
    around: Mapping[str, set[str]]

    def paid_ms(self, integers: Set[str]) -> float:
        """What all layers in real numbers pay, where these are in integers."""
        return sum(
            price * share_in_integers(self.around.get(name, set()), integers)
            for name, price in self.price_ms.items()
            if name not in integers
        )

    def settle(
        self,
        options: Mapping[str, Sequence[Option]],
        choose: Callable[[list[list[Option]], float], Sequence[int] | None],
    ) -> Iterator[dict[str, Option]]:
        """Selections that are what ``choose`` takes at the prices of the one before.

        Args:
            options: by layer.
            choose: called with the options at such prices and the milliseconds that all prices together count twice;
                returns the index of the chosen option of every layer, or None.
        """
        able = frozenset(
            name for name, entries in options.items() if any(o.candidate.computes_integers for o in entries)
        )
        for start in dict.fromkeys((able, frozenset[str]())):
            integers: Set[str] = start
            for _ in range(_ROUNDS):
                chosen = choose(self._priced(options, integers), self.paid_ms(integers))
                if chosen is None:
                    break
                choices = {name: options[name][index] for name, index in zip(options, chosen, strict=True)}
                yield choices
                found = in_integers(choices)
                if found == integers:
                    break
                integers = found

    def _priced(self, options: Mapping[str, Sequence[Option]], integers: Set[str]) -> list[list[Option]]:
        """The options with what each pays and makes its neighbours pay, where these others are in integers."""
        result = []
        for name, entries in options.items():
            around = self.around.get(name, set())
            paid_ms = self.price_ms.get(name, 0.0) * share_in_integers(around, integers - {name})
            caused_ms = sum(self.price_ms.get(o, 0.0) / len(self.around[o]) for o in around - integers)
            extra = {True: caused_ms, False: paid_ms}
            result.append([replace(o, latency_ms=o.latency_ms + extra[o.candidate.computes_integers]) for o in entries])
        return result


def in_integers(choices: Mapping[str, Option]) -> set[str]:
    """The layers that a selection computes in integers."""
    return {name for name, option in choices.items() if option.candidate.computes_integers}
