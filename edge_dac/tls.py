"""Certificates of a client that controls devices over TLS."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import grpc

from edge_dac.errors import UsageError


@dataclass(frozen=True, slots=True)
class ClientTls:
    """Files in PEM form.

    Attributes:
        ca: certificate authority that the daemon's certificate must be signed by (or that certificate itself).
        certificate, key: of this client, where the daemon wants one.
    """

    ca: Path
    certificate: Path | None = None
    key: Path | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """For a channel.

        Raises:
            UsageError: a file cannot be read, or there is a certificate without its key.
        """
        if (self.certificate is None) != (self.key is None):
            raise UsageError("TLS: expected a client certificate and its key together, got one of them")
        return grpc.ssl_channel_credentials(_read(self.ca), _read(self.key), _read(self.certificate))


def _read(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: expected a PEM file for TLS: {error.strerror}") from error
