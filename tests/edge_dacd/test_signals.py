from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from edge_dacd.signals import Signals

NUMBERS = (signal.SIGUSR1, signal.SIGUSR2)


@pytest.fixture
def signals() -> Iterator[Signals]:
    before = {number: signal.getsignal(number) for number in NUMBERS}
    made = Signals(NUMBERS)
    yield made
    made.close()
    for number, handler in before.items():
        signal.signal(number, handler)


def test_they_are_kept_until_they_are_asked_for(signals: Signals) -> None:
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGUSR1):
        os.kill(os.getpid(), number)
    assert [signals.next(20) for _ in range(3)] == [signal.SIGUSR1, signal.SIGUSR2, signal.SIGUSR1]


def test_none_within_the_limit(signals: Signals) -> None:
    assert signals.next(0.01) is None
