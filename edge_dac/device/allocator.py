"""What glibc does with memory that was freed."""

from __future__ import annotations

import ctypes

_M_MMAP_THRESHOLD = -3  # malloc.h
MAPPED_BYTES = 1 << 20


def return_large_blocks() -> None:
    """Give blocks of 1 MiB and more back to the system as soon as they are freed. For the process that plans.

    By itself glibc raises that bound up to 32 MiB as such blocks come and go, and keeps the weights of models that are
    long gone: after loading VGG16's features 526 MB instead of 229 MB. Other C libraries are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, MAPPED_BYTES)
