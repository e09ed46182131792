"""Serves the operator's page: one page, one WebSocket, and POST /estop. Runs in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import threading
from importlib import resources

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from rlfp_ros.operator.access import PROTOCOL, Access, Guard, header
from rlfp_ros.operator.desk import STATUS_S, Desk
from rlfp_ros.operator.open_page import Page
from rlfp_ros.operator.page_address import AccessSettings, new_token, open_sockets
from rlfp_ros.operator.requests import MAX_CHARACTERS, BadRequest

MAX_PAGES = 8
POLICY_VIOLATION, FAILED, TOO_MANY = 1008, 1011, 1013  # WebSocket close codes
FILES = {  # path -> file of the package, type: no other path is served, and none is looked up
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/stop.js": ("stop.js", "text/javascript; charset=utf-8"),
    "/drawing.js": ("drawing.js", "text/javascript; charset=utf-8"),
    "/elements.js": ("elements.js", "text/javascript; charset=utf-8"),
    "/recording.js": ("recording.js", "text/javascript; charset=utf-8"),
    "/jog.js": ("jog.js", "text/javascript; charset=utf-8"),
    "/plots.js": ("plots.js", "text/javascript; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}


def make_app(desk: Desk, access: Access) -> Starlette:
    """Return the page's ASGI application."""
    folder = resources.files("rlfp_ros.operator") / "page"

    def file_route(path: str, name: str, media_type: str) -> Route:
        content = (folder / name).read_bytes()

        async def serve(_: Request) -> Response:
            return Response(content, media_type=media_type)

        return Route(path, serve, methods=["GET"])

    async def estop(request: Request) -> Response:
        # A foreign web page may not stop the arm; a button or a script sends no Origin.
        host, origin = header(request.scope, "host") or "", request.headers.get("origin")
        if origin is not None and not access.allows_origin(origin, host):
            return PlainTextResponse("this origin may not stop the arm\n", 403)
        desk.stop("POST /estop")
        return PlainTextResponse("stop sent; read the state on the page or on safety/state\n")

    async def connect(socket: WebSocket) -> None:
        host = header(socket.scope, "host") or ""
        if not access.allows_origin(header(socket.scope, "origin"), host):
            await socket.close(POLICY_VIOLATION)
            return
        if not access.token_of(list(socket.scope.get("subprotocols", ()))):
            # After accepting, because a browser does not learn the reason before.
            await socket.accept(PROTOCOL)
            await socket.close(POLICY_VIOLATION, "wrong token; open the address that the program printed")
            return
        await socket.accept(PROTOCOL)
        if len(desk.pages) >= MAX_PAGES:
            await socket.close(TOO_MANY, f"{MAX_PAGES} pages are open; close one")
            return
        await _serve_page(socket, desk)

    routes: list[Route | WebSocketRoute] = [file_route(path, *entry) for path, entry in FILES.items()]
    routes += [Route("/estop", estop, methods=["POST"]), WebSocketRoute("/page", connect)]
    return Starlette(routes=routes, middleware=[Middleware(Guard, access=access)])


async def _serve_page(socket: WebSocket, desk: Desk) -> None:
    news = asyncio.Event()
    page = desk.join(news.set)
    sender = asyncio.create_task(_send(socket, desk, page, news))
    try:
        while True:
            desk.receive(page, await socket.receive_text())
    except WebSocketDisconnect:
        pass
    except (BadRequest, KeyError) as error:  # KeyError: a binary message
        reason = str(error) if isinstance(error, BadRequest) else "a binary message"
        with contextlib.suppress(RuntimeError, WebSocketDisconnect):
            await socket.close(POLICY_VIOLATION, reason)
    finally:
        desk.leave(page)
        sender.cancel()
        with contextlib.suppress(asyncio.CancelledError, WebSocketDisconnect, RuntimeError):
            await sender


async def _send(socket: WebSocket, desk: Desk, page: Page, news: asyncio.Event) -> None:
    """Send a status every STATUS_S, and images. One coroutine sends everything, so that nothing piles up."""
    try:
        await _send_all(socket, desk, page, news)
    except (WebSocketDisconnect, RuntimeError):
        pass  # the page is closed
    except Exception as error:  # a page without a status would not say why
        reason = f"the server failed: {type(error).__name__}"
        with contextlib.suppress(RuntimeError, WebSocketDisconnect):
            await socket.close(FAILED, reason)
        print(f"operator: {reason}: {error}", file=sys.stderr, flush=True)


async def _send_all(socket: WebSocket, desk: Desk, page: Page, news: asyncio.Event) -> None:
    status_at = 0.0
    while socket.application_state is WebSocketState.CONNECTED:
        news.clear()
        now = desk.clock()
        if now >= status_at:
            status_at = now + STATUS_S
            await socket.send_text(json.dumps(desk.status(page), allow_nan=False, separators=(",", ":")))
        image = desk.next_image(page)
        if image is not None:
            await socket.send_bytes(image.message(desk.clock()))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(news.wait(), max(0.0, status_at - desk.clock()))


class OperatorServer:
    """The page on its sockets, in a thread. Make it, `start` it, and call `wake` when the desk has news.

    Attributes
    ----------
    address
        Of the page, without the token.
    """

    def __init__(self, desk: Desk, settings: AccessSettings) -> None:
        """Open the sockets. Raises ConfigurationError if the settings are refused or the port is taken."""
        self._desk = desk
        self._sockets = open_sockets(settings)
        port = self._sockets[0].getsockname()[1]
        self.access = access = Access.of(settings, port, new_token())
        host = settings.host if ":" not in settings.host else f"[{settings.host}]"
        self.address = f"{access.scheme}://{host}:{port}/"
        self._server = uvicorn.Server(
            uvicorn.Config(
                make_app(desk, access),
                lifespan="off",
                log_config=None,
                log_level="warning",  # at debug it logs the headers, and with them the token
                access_log=False,
                server_header=False,
                date_header=False,
                proxy_headers=False,
                ws="websockets-sansio",
                ws_max_size=4 * MAX_CHARACTERS,
                ws_per_message_deflate=False,
                ws_ping_interval=2.0,
                ws_ping_timeout=4.0,
                limit_concurrency=64,
                timeout_keep_alive=5,
                timeout_graceful_shutdown=1,
                h11_max_incomplete_event_size=16_384,
                ssl_certfile=settings.tls_certificate or None,
                ssl_keyfile=settings.tls_key or None,
            )
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="operator page", daemon=True)

    @property
    def address_with_token(self) -> str:
        """The address that opens the page. The token is in the fragment, which browsers do not send or log."""
        return f"{self.address}#{self.access.token}"

    def start(self) -> None:
        """Serve until `stop`."""
        self._thread.start()

    def wake(self) -> None:
        """Tell the pages' senders that there is something new. From any thread."""
        loop = self._loop
        if loop is not None and self._desk.pages:
            with contextlib.suppress(RuntimeError):  # the loop has just ended
                loop.call_soon_threadsafe(self._wake_pages)

    def stop(self) -> None:
        """Close all pages and end the thread."""
        self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join(timeout=3.0)
        for listening in self._sockets:
            listening.close()

    @property
    def is_serving(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def _wake_pages(self) -> None:
        for page in self._desk.pages:
            page.wake()

    def _run(self) -> None:
        async def serve() -> None:
            self._loop = asyncio.get_running_loop()
            await self._server.serve(sockets=self._sockets)

        asyncio.run(serve())
