"""Tests of the page's server: who gets in, what is served, and what closes a connection."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import wait_until
from operator_robot import NotedRobot, controller, seen_image
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect as connect_websocket
from websockets.typing import Origin

from rlfp_ros import cli
from rlfp_ros.operator.access import PROTOCOL, TOKEN_PREFIX, Access
from rlfp_ros.operator.desk import Desk
from rlfp_ros.operator.page_address import (
    TOKEN_VARIABLE,
    AccessSettings,
    check_packages,
    check_port,
    new_token,
    open_sockets,
)
from rlfp_ros.operator.requests import MAX_CHARACTERS
from rlfp_ros.operator.seen_image import LENGTH
from rlfp_ros.operator.server import FILES, MAX_PAGES, OperatorServer, make_app
from rlfp_ros.schema import ConfigurationError

TOKEN = "0123456789abcdef" * 4
HOST = "127.0.0.1:8460"
ORIGIN = f"http://{HOST}"
FOREIGN = ("http://evil.example", "http://127.0.0.1:9999", "https://127.0.0.1:8460", "null", f"{ORIGIN}.evil.example")


class Site:
    """The application without a network, with its robot."""

    def __init__(self) -> None:
        self.robot = NotedRobot()
        self.desk = Desk(self.robot)
        self.desk.on_controller(controller())
        app = make_app(self.desk, Access.of(AccessSettings(), 8460, TOKEN))
        self.client = TestClient(app, base_url=ORIGIN)

    def connect(self, token: str = TOKEN, origin: str | None = ORIGIN, host: str = HOST) -> Any:
        headers = {"host": host} | ({"origin": origin} if origin is not None else {})
        return self.client.websocket_connect("/page", [PROTOCOL, f"{TOKEN_PREFIX}{token}"], headers=headers)

    def close_of(self, **given: Any) -> int:
        """The code with which the server closes a connection; 0 if it sends a status instead."""
        try:
            with self.connect(**given) as page:
                page.receive_json()
        except WebSocketDisconnect as closed:
            return closed.code
        return 0


def close_code(page: Any) -> int:
    """Read until the server closes the connection, and return its code."""
    try:
        while True:
            page.receive_json()
    except WebSocketDisconnect as closed:
        return closed.code


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()
    with made.client:
        yield made


# --- addresses -------------------------------------------------------------------------------------------------------


def test_only_loopback_addresses_listen() -> None:
    sockets = open_sockets(AccessSettings(port=0))
    try:
        addresses = [listening.getsockname()[0] for listening in sockets]
        assert addresses in (["127.0.0.1", "::1"], ["127.0.0.1"])
        assert len({listening.getsockname()[1] for listening in sockets}) == 1
    finally:
        for listening in sockets:
            listening.close()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "robot.example"])
def test_other_addresses_are_refused_without_tls_or_proxy(host: str) -> None:
    with pytest.raises(ConfigurationError, match=f"host is '{host}'.*tls_certificate and tls_key.*behind_proxy"):
        open_sockets(AccessSettings(host=host))


def test_tls_files_and_a_proxy_allow_other_addresses(tmp_path: Path) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    certificate.touch()
    with pytest.raises(ConfigurationError, match="belong together"):
        AccessSettings(host="0.0.0.0", tls_certificate=str(certificate)).check()
    with pytest.raises(ConfigurationError, match=r"tls_key is .* not a file"):
        AccessSettings(host="0.0.0.0", tls_certificate=str(certificate), tls_key=str(key)).check()
    key.touch()
    AccessSettings(host="0.0.0.0", tls_certificate=str(certificate), tls_key=str(key)).check()
    AccessSettings(host="0.0.0.0", behind_proxy=True).check()


def test_a_port_that_is_taken_is_one_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"127.0.0.1 port {port}.*choose another port"):
            check_port(port)
    check_port(port)


@pytest.mark.parametrize("words", [["operate", "operator_port:={port}"], ["demo", "--operate", "--port", "{port}"]])
def test_commands_refuse_a_port_that_is_taken_before_they_start_anything(
    words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert cli.main([word.format(port=port) for word in words]) == 2
    error = capsys.readouterr().err
    assert f"127.0.0.1 port {port}" in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_server_needs_its_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    check_packages()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match="'starlette', which is not installed; it is in the requirement set"):
        check_packages()


def test_each_start_has_its_own_token_unless_a_parent_process_gives_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    first, second = new_token(), new_token()
    assert first != second
    assert re.fullmatch("[0-9a-f]{64}", first)
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    assert new_token() == TOKEN


# --- who gets in -----------------------------------------------------------------------------------------------------


def test_the_right_token_from_our_own_page_gets_a_status(site: Site) -> None:
    with site.connect() as page:
        assert page.accepted_subprotocol == PROTOCOL
        status = page.receive_json()
        assert status["operates"]
        assert status["controller"]["bundle"] == "push_panda"


@pytest.mark.parametrize("token", ["", "0" * 64, TOKEN[:-1], TOKEN + "0", TOKEN.upper()])
def test_wrong_tokens_are_refused(site: Site, token: str) -> None:
    assert site.close_of(token=token) == 1008
    assert site.desk.pages == []


def test_a_token_elsewhere_does_not_count(site: Site) -> None:
    headers = {"origin": ORIGIN, "authorization": f"Bearer {TOKEN}", "cookie": f"token={TOKEN}"}
    with (
        pytest.raises(WebSocketDisconnect),
        site.client.websocket_connect(f"/page?token={TOKEN}", [PROTOCOL], headers=headers) as page,
    ):
        page.receive_json()
    assert site.desk.pages == []


@pytest.mark.parametrize("origin", [*FOREIGN, None])
def test_a_foreign_origin_is_refused_with_the_right_token(site: Site, origin: str | None) -> None:
    assert site.close_of(origin=origin) == 1008


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8460", "127.0.0.1", "127.0.0.1:80", "192.0.2.7:8460"])
def test_a_foreign_host_is_refused_everywhere(site: Site, host: str) -> None:
    for path in FILES:
        assert site.client.get(path, headers={"host": host}).status_code == 400
    assert site.client.post("/estop", headers={"host": host}).status_code == 400
    assert site.close_of(host=host, origin=f"http://{host}") == 1008
    assert site.robot.stops == 0


@pytest.mark.parametrize("host", ["127.0.0.1:8460", "localhost:8460", "[::1]:8460", "LOCALHOST:8460"])
def test_every_name_of_this_computer_is_accepted(site: Site, host: str) -> None:
    assert site.client.get("/", headers={"host": host}).status_code == 200
    assert site.close_of(host=host, origin=f"http://{host}") == 0


def test_names_behind_a_proxy_are_accepted_with_https() -> None:
    access = Access.of(AccessSettings(host="0.0.0.0", behind_proxy=True, names=("Robot.example:443",)), 8460, TOKEN)
    assert access.allows_origin("https://robot.example:443", "robot.example:443")
    assert not access.allows_origin("http://robot.example:443", "robot.example:443")
    assert not access.allows_host("robot.example:8460")


# --- what is served --------------------------------------------------------------------------------------------------


def test_every_answer_has_a_strict_policy_and_sets_no_cookie(site: Site) -> None:
    answers = [site.client.get(path) for path in (*FILES, "/nothing")] + [site.client.post("/estop")]
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cache-control"] == "no-store"
        assert "set-cookie" not in answer.headers
        assert "access-control-allow-origin" not in answer.headers


def test_the_page_has_nothing_inline_and_nothing_from_elsewhere(site: Site) -> None:
    for path in FILES:
        text = site.client.get(path).text
        foreign = set(re.findall(r"https?://[^\s\"'`]+", text)) - {"http://www.w3.org/2000/svg"}
        assert foreign == set()
        assert not re.search(r"<script(?![^>]*src=)|<style|\son\w+=|style=|innerHTML|\beval\(", text), path


@pytest.mark.parametrize(
    "path",
    ["/../setup.cfg", "/page.js/../../server.py", "/%2e%2e/%2e%2e/setup.cfg", "//etc/passwd", "/page/", "/server.py"],
)
def test_no_path_of_a_request_reaches_the_file_system(site: Site, path: str) -> None:
    answer = site.client.get(path)
    assert answer.status_code == 404
    assert answer.text == "Not Found"


def test_only_the_methods_that_are_needed_exist(site: Site) -> None:
    assert site.client.get("/estop").status_code == 405
    assert site.client.post("/").status_code == 405
    assert site.client.options("/estop", headers={"origin": "http://evil.example"}).status_code == 405


# --- STOP ------------------------------------------------------------------------------------------------------------


def test_estop_needs_neither_token_nor_place_nor_page(site: Site) -> None:
    assert site.client.post("/estop").status_code == 200
    assert site.client.post("/estop", headers={"origin": ORIGIN}, content=b"x" * 100_000).status_code == 200
    assert site.robot.stops == 2
    assert site.robot.lines == 2 * [{"from": "POST /estop", "command": "stop"}]


@pytest.mark.parametrize("origin", FOREIGN)
def test_a_foreign_page_cannot_stop_the_arm(site: Site, origin: str) -> None:
    assert site.client.post("/estop", headers={"origin": origin}).status_code == 403
    assert site.robot.stops == 0


def test_stop_counts_from_a_page_that_watches(site: Site) -> None:
    with site.connect() as first, site.connect() as second:
        first.receive_json()
        second.send_json({"type": "stop"})
        wait_until(lambda: site.robot.stops == 1)


# --- what closes a connection ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ['{"type": "shutdown"}', '{"type": "enable", "x": 1}', "no JSON", json.dumps("a" * (MAX_CHARACTERS + 1))]
)
def test_unknown_and_wrong_messages_close_the_socket(site: Site, text: str) -> None:
    with site.connect() as page:
        page.send_text(text)
        assert close_code(page) == 1008
    wait_until(lambda: not site.desk.pages)
    assert site.robot.calls == []


def test_a_binary_message_closes_the_socket(site: Site) -> None:
    with site.connect() as page:
        page.send_bytes(b"\x00" * 8)
        assert close_code(page) == 1008


def test_one_more_page_than_allowed_is_refused(site: Site) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(MAX_PAGES):
            stack.enter_context(site.connect()).receive_json()
        assert site.close_of() == 1013
    wait_until(lambda: not site.desk.pages)
    assert site.close_of() == 0


# --- on a real socket ------------------------------------------------------------------------------------------------


class Served:
    """The server on a free port, in its thread."""

    def __init__(self) -> None:
        self.robot = NotedRobot()
        self.desk = Desk(self.robot)
        self.server = OperatorServer(self.desk, AccessSettings(port=0))
        self.address = self.server.address.rstrip("/")
        self.server.start()
        wait_until(lambda: self._answers())

    def _answers(self) -> bool:
        try:
            return bool(urllib.request.urlopen(f"{self.address}/icon.svg", timeout=5).status == 200)
        except urllib.error.URLError:
            return False

    def connect(self) -> ClientConnection:
        protocols: Any = [PROTOCOL, f"{TOKEN_PREFIX}{self.server.access.token}"]
        url = self.address.replace("http", "ws") + "/page"
        return connect_websocket(url, origin=Origin(self.address), subprotocols=protocols)


@pytest.fixture
def served() -> Iterator[Served]:
    made = Served()
    yield made
    made.server.stop()
    assert not made.server.is_serving


def test_images_come_one_at_a_time_uncompressed_and_with_their_header(served: Served) -> None:
    with served.connect() as page:
        assert page.protocol.extensions == []  # a compressed JPEG costs time and gains nothing
        for number in range(1, 6):
            served.desk.on_image(seen_image(number, time.monotonic()))
            served.server.wake()
        images = []
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            data = page.recv(timeout=1.0)
            if isinstance(data, bytes):
                (length,) = LENGTH.unpack_from(data)
                header = json.loads(data[4 : 4 + length])
                images.append(header["image"])
                assert data[4 + length : 6 + length] == b"\xff\xd8"
                if len(images) == 2:
                    break
                page.send(json.dumps({"type": "drawn", "image": header["image"]}))
        assert images[-1] == 5
        assert len(images) <= 2
        served.desk.on_image(seen_image(6, time.monotonic()))
        served.server.wake()
        time.sleep(0.3)
        kinds = []
        with contextlib.suppress(TimeoutError):
            while True:
                kinds.append(type(page.recv(timeout=0.05)))
        # The last image is not drawn yet, so the next one waits.
        assert (bytes in kinds) == (len(images) == 1)


def test_a_message_above_the_size_limit_closes_the_socket(served: Served) -> None:
    with served.connect() as page:
        with contextlib.suppress(ConnectionClosed):
            page.send("a" * 1_000_000)
            while True:
                page.recv(timeout=5.0)
        assert page.close_code in (1008, 1009)


def test_closing_the_page_ends_its_heartbeat_at_once(served: Served) -> None:
    with served.connect() as page:
        status = json.loads(page.recv())
        for _ in range(3):
            page.send(json.dumps({"type": "beat", "shown": status["now"]}))
        wait_until(lambda: served.robot.beats == 3)
    wait_until(lambda: not served.desk.pages)
    time.sleep(0.5)
    assert served.robot.beats == 3


def test_the_token_is_in_no_log_and_in_no_file(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), served.connect() as page:
        page.recv()
        urllib.request.urlopen(f"{served.address}/", timeout=5).read()
    logged = "\n".join(
        record.getMessage() for record in caplog.records if not record.name.startswith("websockets.client")
    )
    assert served.server.access.token not in logged
    assert served.server.access.token not in served.server.address
    assert served.server.address_with_token.endswith(f"/#{served.server.access.token}")
