"""The operator's page: where it is served, and the token that opens it. Needs no package of the page's server."""

from __future__ import annotations

import contextlib
import importlib.util
import ipaddress
import os
import secrets
import socket
from pathlib import Path

from pydantic import Field

from rlfp_ros.requirements import fix_for
from rlfp_ros.schema import ConfigurationError, Schema

DEFAULT_PORT = 8460
TOKEN_VARIABLE = "RLFP_OPERATOR_TOKEN"  # environment variable; the token of a page whose address another process shows
TOKEN_BYTES = 32
PAGE_LINE = "the operator's page: "  # begins the line with which the node shows the address
PACKAGES = ("starlette", "uvicorn", "websockets")


def check_packages() -> None:
    """Refuse to start without the server's packages. Raises ConfigurationError that says how to install them."""
    for name in PACKAGES:
        if importlib.util.find_spec(name) is None:
            raise ConfigurationError(
                f"operator: the page needs the Python package {name!r}, which is not installed; {fix_for(name)}"
            )


class AccessSettings(Schema):
    """Addresses of the page."""

    host: str = Field(
        default="127.0.0.1",
        description="address that the page is served on; other computers reach it only if this is not a loopback "
        "address, which needs tls_certificate and tls_key, or behind_proxy",
    )
    port: int = Field(default=DEFAULT_PORT, ge=0, le=65535, description="TCP port of the page; 0: any free one")
    names: tuple[str, ...] = Field(
        default=(), description="further names (host or host:port) that browsers may use in the page's address"
    )
    tls_certificate: str = Field(default="", description="PEM file with the certificate; empty: no TLS")
    tls_key: str = Field(default="", description="PEM file with the certificate's key; empty: no TLS")
    behind_proxy: bool = Field(
        default=False, description="true: a reverse proxy with TLS and a login stands in front of the page"
    )

    @property
    def is_loopback(self) -> bool:
        """Whether only this computer reaches the page."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def check(self) -> None:
        """Refuse settings that let others reach the page without encryption.

        Raises
        ------
        ConfigurationError
            If the address is not a loopback address and there is neither TLS nor a proxy, or a file is missing.
        """
        if bool(self.tls_certificate) != bool(self.tls_key):
            raise ConfigurationError("operator: tls_certificate and tls_key belong together; give both or neither")
        for name in ("tls_certificate", "tls_key"):
            path = getattr(self, name)
            if path and not Path(path).is_file():
                raise ConfigurationError(f"operator: {name} is {path!r}, which is not a file; correct the path")
        if not (self.is_loopback or self.tls_certificate or self.behind_proxy):
            raise ConfigurationError(
                f"operator: host is {self.host!r}, which other computers reach; give tls_certificate and tls_key, set "
                "behind_proxy:=true behind a proxy with TLS and a login, or leave host at 127.0.0.1 and use "
                f"ssh -L {self.port}:127.0.0.1:{self.port}"
            )


def open_sockets(settings: AccessSettings) -> list[socket.socket]:
    """Listen on the address; a loopback address is both 127.0.0.1 and, if the system has it, ::1.

    Raises
    ------
    ConfigurationError
        If the settings are refused, or the port cannot be used.
    """
    settings.check()
    host = "127.0.0.1" if settings.host == "localhost" else settings.host
    sockets = [_listen(host, settings.port)]
    if host == "127.0.0.1":
        # Without IPv6, or if another program has the port there: the address that is shown has 127.0.0.1.
        with contextlib.suppress(ConfigurationError, OSError):
            sockets.append(_listen("::1", sockets[0].getsockname()[1]))
    return sockets


def _listen(host: str, port: int) -> socket.socket:
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if ":" in host:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listening.bind((host, port))
        listening.listen(64)
    except OSError as error:
        listening.close()
        raise ConfigurationError(
            f"operator: the page cannot be served on {host} port {port} ({error.strerror}); another program or "
            "another page may use it: stop that, or choose another port"
        ) from None
    return listening


def check_port(port: int) -> None:
    """Refuse a port of this computer that is taken. Raises ConfigurationError."""
    for listening in open_sockets(AccessSettings(port=port)):
        listening.close()


def new_token() -> str:
    """Return the token of this start: that of the environment if a parent process gave one, else a new one."""
    return os.environ.get(TOKEN_VARIABLE) or secrets.token_hex(TOKEN_BYTES)
