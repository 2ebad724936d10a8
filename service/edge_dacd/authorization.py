"""Who may control this daemon.

A client on the daemon's Unix socket is an operator: the file's permissions have let it in. So is a client of this
device on the loopback interface. Any other needs the token of the configuration, as metadata ``authorization: Bearer
TOKEN``; where no token is configured it may look, but not change anything. Where one is configured, every client
outside the Unix socket needs it.
"""

from __future__ import annotations

import hmac
from pathlib import Path

import grpc

from edge_dac.errors import UsageError
from edge_dacd.status import RequestError

_SHORTEST_TOKEN = 16
_LOOPBACK = ("ipv4:127.", "ipv6:%5B::1%5D", "ipv6:[::1]")


class Authorizer:
    """Decides on each call of the control service.

    Attributes:
        token: shared with the operators, None for none; may be replaced at any time.
    """

    def __init__(self, token: str | None) -> None:
        self.token = token

    def check(self, context: grpc.ServicerContext, *, changes: bool) -> None:
        """Let the call pass, or not.

        Raises:
            RequestError: UNAUTHENTICATED or PERMISSION_DENIED.
        """
        peer = context.peer()
        if peer.startswith("unix:"):
            return
        token = self.token
        if token is not None:
            given = dict(context.invocation_metadata()).get("authorization", "")
            if not hmac.compare_digest(str(given).encode(), f"Bearer {token}".encode()):
                got = "another" if given else "none"
                message = (
                    f"control: expected the operator's token in the metadata `authorization: Bearer TOKEN`, got {got}"
                )
                raise RequestError(grpc.StatusCode.UNAUTHENTICATED, message)
        elif changes and not peer.startswith(_LOOPBACK):
            message = "control: changes from another device need a token, and none is configured on this one"
            raise RequestError(grpc.StatusCode.PERMISSION_DENIED, message)


def read_token(path: Path) -> str:
    """The token in a file: its first line.

    Raises:
        UsageError: the file cannot be read, is not text, or the token is too short to be a secret.
    """
    try:
        token = path.read_text().partition("\n")[0].strip()
    except OSError as error:
        raise UsageError(f"{path}: expected a file with the control token: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: expected a file with the control token: not UTF-8") from error
    if len(token) < _SHORTEST_TOKEN:
        raise UsageError(f"{path}: expected a token of at least {_SHORTEST_TOKEN} characters, got {len(token)}")
    return token
