"""TLS on the daemon's addresses: its certificate, and whose clients may connect at all."""

from __future__ import annotations

import ssl
from pathlib import Path

import grpc

from edge_dac.errors import UsageError
from edge_dacd.config import ServerConfig


def server_credentials(config: ServerConfig) -> grpc.ServerCredentials | None:
    """For the addresses over TCP; None where no certificate is configured. Unix sockets never leave the device.

    Raises:
        UsageError: a file cannot be read, is not PEM, or key and certificate do not belong together.
    """
    if not config.tls_certificate:
        return None
    certificate, key = Path(config.tls_certificate), Path(config.tls_key)
    authority = Path(config.tls_client_ca) if config.tls_client_ca else None
    _check(certificate, key, authority)
    return grpc.ssl_server_credentials(
        [(key.read_bytes(), certificate.read_bytes())],
        root_certificates=authority.read_bytes() if authority else None,
        require_client_auth=authority is not None,
    )


def _check(certificate: Path, key: Path, authority: Path | None) -> None:
    """Let the standard library look at the files first: gRPC would only say that it cannot listen."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key)
    except OSError as error:
        raise UsageError(f"server.tls_certificate, server.tls_key: {certificate}, {key}: {_why(error)}") from error
    if authority is not None:
        try:
            context.load_verify_locations(authority)
        except OSError as error:
            raise UsageError(f"server.tls_client_ca: {authority}: {_why(error)}") from error


def _why(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return f"expected certificates and keys in PEM form that belong together ({error.reason or error})"
    return str(error.strerror)
