"""HTTP/2 by hand, for clients that no library is."""

from __future__ import annotations

import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def header(name: bytes, value: bytes) -> bytes:
    """A header field of HPACK, literal and not indexed."""
    return b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value


def begun_call(stream: int, path: str) -> bytes:
    """Headers of a call."""
    fields = (
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path.encode()),
        (b":authority", b"x"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
    )
    return frame(1, 4, stream, b"".join(header(*field) for field in fields))


CLOSED_WINDOW = frame(4, 0, 0, struct.pack(">HI", 4, 0))
"""Settings of a client that takes not a single byte of any answer."""
