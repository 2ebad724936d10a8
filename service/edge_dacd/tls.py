"""TLS on the daemon's addresses: its certificate, and whose clients may connect at all."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path

import grpc

from edge_dac.errors import UsageError
from edge_dacd.config import ServerConfig

_log = logging.getLogger(__name__)


def server_credentials(config: ServerConfig) -> grpc.ServerCredentials | None:
    """For the addresses over TCP; None where no certificate is configured. Unix sockets never leave the device.

    Raises:
        UsageError: a file cannot be read, is not PEM, or key and certificate do not belong together.
    """
    if not config.tls_certificate:
        return None
    certificates = _Certificates(config)
    return grpc.dynamic_ssl_server_credentials(
        certificates.read(), certificates.renewed, require_client_authentication=bool(config.tls_client_ca)
    )


class _Certificates:
    """The files, read again when they have changed: a certificate is renewed many times in the life of a device."""

    def __init__(self, config: ServerConfig) -> None:
        self._certificate, self._key = Path(config.tls_certificate), Path(config.tls_key)
        self._authority = Path(config.tls_client_ca) if config.tls_client_ca else None
        self._stamp: tuple[int, ...] = ()

    def read(self) -> grpc.ServerCertificateConfiguration:
        """
        Raises:
            UsageError: they cannot be used.
        """
        self._stamp = self._stamp_now()
        _check(self._certificate, self._key, self._authority)
        return grpc.ssl_server_certificate_configuration(
            [(self._key.read_bytes(), self._certificate.read_bytes())],
            root_certificates=self._authority.read_bytes() if self._authority else None,
        )

    def renewed(self) -> grpc.ServerCertificateConfiguration | None:
        """What is new at the moment of a connection; None if nothing is, or if it cannot be used."""
        try:
            return self.read() if self._stamp_now() != self._stamp else None
        except (UsageError, OSError) as error:
            _log.error("the certificates before stay in use", extra={"reason": str(error)})
            return None

    def _stamp_now(self) -> tuple[int, ...]:
        files = (self._certificate, self._key, self._authority)
        return tuple(file.stat().st_mtime_ns for file in files if file is not None and file.exists())


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
