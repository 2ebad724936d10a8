"""Freed memory goes back to the system."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import sys
import numpy as np
import psutil
if sys.argv[1] == "yes":
    from edge_dac.device.allocator import return_large_blocks
    return_large_blocks()
process = psutil.Process()
np.ones(20 << 20, np.uint8)  # glibc raises its bound when such a block is freed
blocks = [np.ones(16 << 20, np.uint8) for _ in range(8)]
pin = bytes(64 << 10)
keep = blocks[-1:]
before = process.memory_info().rss
del blocks
print(before - process.memory_info().rss)
"""


def _returned_bytes(mapped: str) -> int:
    done = subprocess.run([sys.executable, "-c", SCRIPT, mapped], capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_large_blocks_are_returned_when_they_are_freed() -> None:
    assert _returned_bytes("yes") > 100 << 20
    assert _returned_bytes("no") < 50 << 20
