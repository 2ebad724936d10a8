"""The labels of least cost where neighbours pay for being labelled differently: a minimum cut.

Costs of single nodes and of pairs that are 0 for equal labels are minimized exactly over all labelings by the smallest cut
between two more nodes (Greig, Porteous, Seheult, J. R. Stat. Soc. B 51, 1989; Kolmogorov, Zabih, TPAMI 26, 2004), which a
largest flow finds (Edmonds, Karp, J. ACM 19, 1972).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

SOURCE, SINK = -1, -2


def cheapest_labels(off: Sequence[float], on: Sequence[float], pairs: Mapping[tuple[int, int], float]) -> list[bool]:
    """Which nodes are on, so that the sum of all costs is least.

    Args:
        off, on: cost of each node by its label, infinite for one that it cannot have.
        pairs: by ``(i, j)``, the cost, not below 0, of ``i`` being off and ``j`` on.
    """
    room: dict[int, dict[int, float]] = {node: {} for node in (*range(len(off)), SOURCE, SINK)}
    for node, (without, with_it) in enumerate(zip(off, on, strict=True)):
        least = min(without, with_it)  # both may be below 0; only their difference counts
        _open(room, SOURCE, node, without - least)
        _open(room, node, SINK, with_it - least)
    for (one, other), cost in pairs.items():
        _open(room, other, one, cost)
    while path := _shortest_path(room):
        amount = min(room[tail][head] for tail, head in path)
        for tail, head in path:
            room[tail][head] -= amount
            room[head][tail] += amount
    reached = _reached(room)
    return [node in reached for node in range(len(off))]


def _open(room: dict[int, dict[int, float]], tail: int, head: int, amount: float) -> None:
    room[tail][head] = room[tail].get(head, 0.0) + amount
    room[head].setdefault(tail, 0.0)


def _shortest_path(room: Mapping[int, Mapping[int, float]]) -> list[tuple[int, int]]:
    """From source to sink along edges with room; empty if there is none."""
    came_from = _reached(room)
    path: list[tuple[int, int]] = []
    head = SINK
    while head in came_from and head != SOURCE:
        path.append((came_from[head], head))
        head = came_from[head]
    return path


def _reached(room: Mapping[int, Mapping[int, float]]) -> dict[int, int]:
    """Nodes that edges with room lead to from the source, and from where each was reached first."""
    came_from = {SOURCE: SOURCE}
    pending = deque([SOURCE])
    while pending and SINK not in came_from:
        tail = pending.popleft()
        for head, amount in room[tail].items():
            if amount > 0.0 and head not in came_from:
                came_from[head] = tail
                pending.append(head)
    return came_from
