"""Who may open the operator's page: names, origins, token, and the headers of every answer."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rlfp_ros.operator.page_address import AccessSettings

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

PROTOCOL = "rlfp.operator.1"  # subprotocol of the WebSocket; the token is a second one
TOKEN_PREFIX = "token."
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")  # names by which a browser on this computer reaches the page

HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


@dataclass(frozen=True)
class Access:
    """Decides about each connection.

    Attributes
    ----------
    token
        Of this start.
    hosts
        Values of the header Host that are accepted.
    scheme
        http or https, as browsers see it.
    """

    token: str
    hosts: frozenset[str]
    scheme: str = "http"

    @classmethod
    def of(cls, settings: AccessSettings, port: int, token: str) -> Access:
        """Return the access for settings and the port that is used."""
        names = [*LOOPBACK] if settings.is_loopback or settings.behind_proxy else [settings.host]
        hosts = {f"{name}:{port}" for name in names}
        for name in settings.names:
            hosts |= {name.lower(), name.lower() if ":" in name else f"{name.lower()}:{port}"}
        secure = bool(settings.tls_certificate) or (settings.behind_proxy and not settings.is_loopback)
        return cls(token, frozenset(hosts), "https" if secure else "http")

    def allows_host(self, host: str) -> bool:
        """Whether a request's Host is one of ours. Another one means that a foreign name leads here (DNS rebinding)."""
        return host.lower() in self.hosts

    def allows_origin(self, origin: str | None, host: str) -> bool:
        """Whether a page of this server sent the request. No origin at all: the caller is not a browser's page."""
        return origin is not None and origin.lower() == f"{self.scheme}://{host.lower()}"

    def token_of(self, protocols: list[str]) -> bool:
        """Whether the right token is among a WebSocket's subprotocols; takes the same time for every wrong one."""
        given = [name.removeprefix(TOKEN_PREFIX) for name in protocols if name.startswith(TOKEN_PREFIX)]
        if len(given) != 1 or PROTOCOL not in protocols:
            return False
        return hmac.compare_digest(given[0].encode("utf-8", "replace"), self.token.encode())


def header(scope: Scope, name: str) -> str | None:
    """Return a header's value; None if it is missing or given more than once."""
    values = [value for key, value in scope["headers"] if key == name.encode()]
    return values[0].decode("latin-1") if len(values) == 1 else None


class Guard:
    """Refuses requests with a foreign Host, before anything else sees them, and puts `HEADERS` on every answer."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        host = header(scope, "host")
        if host is None or not self._access.allows_host(host):
            await _refuse(scope, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *_encoded(HEADERS)]
            await send(message)

        await self._app(scope, receive, with_headers)


def _encoded(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in headers.items()]


async def _refuse(scope: Scope, send: Send) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    start: dict[str, Any] = {"type": "http.response.start", "status": 400}
    start["headers"] = [(b"content-type", b"text/plain; charset=utf-8"), *_encoded(HEADERS)]
    await send(start)
    body = b"This page answers to its own address only; open the address that the program printed.\n"
    await send({"type": "http.response.body", "body": body})
