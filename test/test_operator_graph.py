"""Tests of the operator's page in a real browser on the real-arm graph with mock hardware."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from browser import open_page
from conftest import TestNode, wait_until
from playwright.sync_api import Browser, Page, expect
from playwright.sync_api import TimeoutError as PageTimeout
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin

from rlfp_ros.contract import load_bundle
from rlfp_ros.control.arm import load_arm
from rlfp_ros.control.trained_arm import choose_arm
from rlfp_ros.data.admission import Admission
from rlfp_ros.data.build import build_dataset
from rlfp_ros.graph.real_arm import REAL_ARM
from rlfp_ros.graph.resolution import resolve
from rlfp_ros.graph.runner import Runner
from rlfp_ros.operator.access import PROTOCOL, TOKEN_PREFIX
from rlfp_ros.operator.page_address import PAGE_LINE, TOKEN_VARIABLE
from rlfp_ros.recording.labels import BagLabel, Label, read_label
from rlfp_ros.recording.reader import BagReader

pytestmark = [pytest.mark.graph, pytest.mark.slow, pytest.mark.timeout(400)]

LIMIT_S = 90.0  # a loaded machine brings the graph up in 20 s
TOKEN = "cd" * 32
LOST = {"STOPPED": "heartbeat_lost"}

# Only the operator stops the arm here, not a busy machine; and it is enabled where the test before left it.
PATIENT = """
checklist:
  ros__parameters: {home_tolerance_rad: 3.0, camera_max_age_s: 4.0, joint_max_age_s: 0.7, shift_limit: 1.0}
residual_controller:
  ros__parameters: {joint_state_max_age_s: 0.8, joint_state_timeout_s: 0.8, percept_timeout_s: 1.0,
                    residual_fade_s: 0.5, residual_timeout_s: 1.0, residual_max_age_s: 2.0,
                    heartbeat_timeout_s: 1.0}
recorder:
  ros__parameters: {directory: BAGS}
"""


class Cell:
    """The running graph, and where its page is."""

    def __init__(self, runner: Runner, lines: list[str], bags: Path) -> None:
        self.runner, self._lines, self.bags = runner, lines, bags
        wait_until(lambda: self.addresses, LIMIT_S, "the page's address")

    @property
    def addresses(self) -> list[str]:
        return [line.removeprefix(PAGE_LINE) for line in self._lines if line.startswith(PAGE_LINE)]

    @property
    def address(self) -> str:
        return f"{self.addresses[-1]}#{TOKEN}"


@pytest.fixture(scope="module")
def cell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cell]:
    folder = tmp_path_factory.mktemp("graph")
    parameters = folder / "patient.yaml"
    parameters.write_text(PATIENT.replace("BAGS", str(folder / "bags")))
    lines: list[str] = []
    arguments = {
        "use_mock_hardware": True,
        "bundle": "push_panda",
        "transport": "local",
        "params_file": str(parameters),
        "operator": True,
        "operator_port": 0,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(TOKEN_VARIABLE, TOKEN)
        resolved = resolve(REAL_ARM, arguments)

        def on_line(node: str, line: str) -> None:
            if node == "operator":
                lines.append(line)

        with Runner(resolved, console="quiet", handle_signals=False, on_line=on_line) as runner:
            yield Cell(runner, lines, folder / "bags")
            assert runner.poll() is None, runner.failure
    assert not [line for line in lines if TOKEN in line]


@pytest.fixture
def page(cell: Cell, chromium: Browser) -> Iterator[Page]:
    opened = open_page(chromium, cell.address)
    yield opened
    opened.context.close()


def until(page: Page, state: str, press: str = "") -> None:
    """Wait for a state; press a button again each time that the page allows it, and reset a stop on the way."""

    def reached() -> bool:
        found = page.inner_text("#state")
        if found == state:
            return True
        for name in ([press] if press else []) + (["#reset"] if press == "#enable" else []):
            if page.is_enabled(name):
                with contextlib.suppress(PageTimeout):  # the state changed meanwhile, and the button with it
                    page.click(name, timeout=1000)
        page.wait_for_timeout(300)
        return False

    try:
        wait_until(reached, LIMIT_S, state)
    except AssertionError as error:
        raise AssertionError(f"{error}: {page.inner_text('.status')} {page.inner_text('#checklist')}") from None


def newest(states: list[Any]) -> dict[str, Any]:
    """Return the newest safety state; one without content before the first has come."""
    found: dict[str, Any] = {"state": "", "reasons": None, "gain": None}
    return json.loads(states[-1].data) if states else found


def test_a_person_enables_stops_resets_and_disables_the_arm_on_the_page(
    page: Page, cell: Cell, test_node: TestNode
) -> None:
    from rlfp_ros.nodes import messages

    commands = test_node.listen(messages.OPERATOR_COMMAND, messages.qos(200))  # it is read at the end
    states = test_node.listen(messages.SAFETY_STATE)
    until(page, "ACTIVE", "#enable")
    expect(page.locator("#bundle")).to_have_text("push_panda")
    expect(page.locator("#image-facts")).to_have_text(re.compile(r"160 × 120 · age \d+ ms · \d+ images/s"))
    assert page.evaluate("document.getElementById('image').width") > 300
    page.keyboard.press("Space")
    until(page, "STOPPED")
    expect(page.locator("#reasons")).to_contain_text("STOP was pressed.")
    until(page, "DISABLED", "#reset")
    slider = page.get_by_role("slider", name="Residual gain")
    slider.focus()
    page.keyboard.press("Home")
    expect(page.locator("#log")).to_contain_text("gain 0: set")
    page.keyboard.press("End")
    expect(page.locator("#log")).to_contain_text("gain 1: set")
    until(page, "ACTIVE", "#enable")
    page.click("#disable")
    until(page, "DISABLED")
    test_node.spin_until(lambda: states and newest(states)["state"] == "DISABLED")
    lines: list[dict[str, Any]] = []

    def answered() -> bool:
        lines[:] = [json.loads(message.data) for message in commands]
        return bool(lines) and lines[-1]["command"] == "disable" and lines[-1].get("ok") is True

    test_node.spin_until(answered)
    assert {line["command"] for line in lines} >= {"enable", "stop", "reset", "gain", "disable"}
    assert any(line["command"] == "enable" and line.get("ok") for line in lines)


def test_the_demos_graph_opens_the_port_of_its_page_on_loopback_and_nothing_else(page: Page, cell: Cell) -> None:
    until(page, "DISABLED", "#disable")
    for name, pid in cell.runner.pids().items():
        sockets = psutil.Process(pid).net_connections()
        places = {tuple(one.laddr) for one in sockets if one.status in ("LISTEN", "NONE")}
        port = int(cell.addresses[-1].rstrip("/").rpartition(":")[2])
        assert places <= ({("127.0.0.1", port), ("::1", port)} if name == "operator" else set())


def test_a_goal_of_two_clicks_reaches_the_graph_in_the_base_frame(page: Page, cell: Cell, test_node: TestNode) -> None:
    from rlfp_ros.nodes import messages

    goals = test_node.listen(messages.GOAL)
    expect(page.locator("#image")).to_have_class("clickable", timeout=60_000)
    box = page.locator("#image").bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + 0.5 * box["width"], box["y"] + 0.75 * box["height"])
    expect(page.locator("#goal-text")).to_have_text(re.compile("^Goal"))
    shown = [float(value) for value in re.findall(r"-?\d\.\d+", page.inner_text("#goal-text"))]
    before = len(goals)
    page.get_by_role("button", name="Send goal").click()

    def sent() -> bool:
        """Whether it came; the twin publishes the goals of its own task beside it."""
        places = [[goal.point.x, goal.point.y, goal.point.z] for goal in goals[before:]]
        return any(place == pytest.approx(shown, abs=1e-3) for place in places)

    test_node.spin_until(sent)
    assert {goal.header.frame_id for goal in goals} == {"panda_link0"}


class Operator:
    """Speaks the page's protocol without a browser, and shows what it is sent."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.bags: list[dict[str, Any]] = []
        self.points: list[dict[str, Any]] = []

    def send(self, type: str, **fields: Any) -> None:
        self.socket.send(json.dumps({"type": type, **fields}))

    def status(self) -> dict[str, Any]:
        """Wait for the next status, and keep the operator's place."""
        while isinstance(text := self.socket.recv(timeout=LIMIT_S), bytes):
            header = json.loads(text[4 : 4 + int.from_bytes(text[:4], "little")])
            self.send("drawn", image=header["image"])
        status: dict[str, Any] = json.loads(text)
        self.send("beat", shown=status["now"])
        self.bags = status["bags"]["bags"] if "bags" in status else self.bags
        self.points += status["plots"]["points"]
        return status

    def take(self) -> None:
        """Ask for the operator's place until it is free: the page of the test before may not be gone yet."""
        asked = 0.0

        def operates(status: dict[str, Any]) -> bool:
            nonlocal asked
            if not status["operates"] and time.monotonic() - asked > 1.0:
                asked = time.monotonic()
                self.send("take")
            return bool(status["operates"])

        self.until(operates, "the operator's place")

    def until(self, condition: Callable[[dict[str, Any]], Any], what: str) -> dict[str, Any]:
        found: dict[str, Any] = {}

        def holds() -> bool:
            found.update(self.status())
            return bool(condition(found))

        wait_until(holds, LIMIT_S, what)
        return found


def test_a_recording_of_the_page_reaches_the_bag_and_the_dataset_with_its_label(cell: Cell, tmp_path: Path) -> None:
    address = cell.addresses[-1].rstrip("/")
    protocols: Any = [PROTOCOL, f"{TOKEN_PREFIX}{TOKEN}"]
    url = address.replace("http", "ws") + "/page"
    with connect(url, origin=Origin(address), subprotocols=protocols) as socket:
        operator = Operator(socket)
        operator.until(lambda status: status["recorder"] and status["controller"], "the recorder")
        assert not cell.bags.exists()
        operator.take()
        operator.send("record")
        operator.until(lambda status: status["recorder"]["recording"], "a recording")
        seen = operator.until(lambda status: status["recorder"]["duration_s"] > 8.0, "8 s of recording")
        name = seen["recorder"]["bag"]
        assert name == "recording_0001"
        operator.send("label", bag=name, label="failure", note="wrong key", operator="Ada")
        operator.send("label", bag=name, label="success", note="it touched", operator="Ada")
        operator.until(lambda status: (status["recorder"]["label"] or {}).get("label") == "success", "the label")
        operator.send("label", bag="../patient", label="discard")
        operator.send("end_record")
        operator.until(lambda status: not status["recorder"]["recording"] and operator.bags, "the end")
        (bag,) = operator.bags
        assert (bag["name"], bag["label"]["label"], bag["label"]["note"]) == (name, "success", "it touched")
        events = [event["text"] for event in operator.status()["events"]]
        assert any("holds no closed bag '../patient'" in text for text in events)
        assert any(point["asked"] for point in operator.points)
    assert read_label(cell.bags / name) == BagLabel(label=Label.SUCCESS, note="it touched", operator="Ada")
    with BagReader(cell.bags / name) as read:
        lines = [json.loads(read.decode(message).data) for message in read.messages({"/operator/command"})]
    assert [line["label"] for line in lines if line["command"] == "label"][:2] == ["failure", "success"]
    admission = Admission(gap_s=5.0, rate_tolerance=10.0)  # a loaded machine is slower than a camera
    bundle = load_bundle("push_panda")
    dataset = build_dataset(
        [cell.bags / name], bundle, choose_arm(bundle, None), tmp_path / "dataset", admission=admission
    )
    assert dataset.document.episodes
    for entry in dataset.document.episodes:
        assert entry.label == BagLabel(label=Label.SUCCESS, note="it touched", operator="Ada")


def block(page: Page) -> None:
    page.evaluate("() => { const end = performance.now() + 5000; while (performance.now() < end); }")


def hide(page: Page) -> None:
    page.evaluate("""() => {
        Object.defineProperty(document, "visibilityState", { value: "hidden", configurable: true });
        document.dispatchEvent(new Event("visibilitychange"));
    }""")


@pytest.mark.parametrize(
    ("lose", "expected"),
    [
        # A browser hides a page before it closes it; if that message is lost, the missing heartbeat stops the arm.
        (lambda page, cell: page.close(run_before_unload=False), {"DISABLED": "not_enabled"} | LOST),
        (lambda page, cell: block(page), LOST),
        (lambda page, cell: hide(page), {"DISABLED": "not_enabled"}),
        (lambda page, cell: os.kill(cell.runner.pids()["operator"], signal.SIGKILL), LOST),
    ],
    ids=["closed", "blocked", "hidden", "server_killed"],
)
def test_a_lost_page_stops_the_arm(
    page: Page, cell: Cell, test_node: TestNode, lose: Callable[[Page, Cell], None], expected: dict[str, str]
) -> None:
    from rlfp_ros.nodes import messages

    states = test_node.listen(messages.SAFETY_STATE)
    until(page, "ACTIVE", "#enable")
    test_node.spin_until(lambda: states and newest(states)["state"] == "ACTIVE")
    addresses = len(cell.addresses)
    began = time.monotonic()
    lose(page, cell)
    test_node.spin_until(lambda: newest(states)["state"] in expected, 10.0, f"one of {list(expected)}")
    found = newest(states)
    assert expected[found["state"]] in found["reasons"]
    if not page.is_closed() and "operator" not in cell.runner.pids():  # killed: a new page comes by itself
        wait_until(lambda: len(cell.addresses) > addresses, LIMIT_S)
    assert time.monotonic() - began < LIMIT_S


def test_a_person_takes_the_arm_over_in_the_browser_and_gives_it_back(
    page: Page, cell: Cell, test_node: TestNode
) -> None:
    from rlfp_ros.nodes import messages

    states, jogs = test_node.listen(messages.SAFETY_STATE), test_node.listen(messages.JOG)
    applied = test_node.listen(messages.RESIDUAL_APPLIED)
    until(page, "ACTIVE", "#enable")
    page.keyboard.down("u")
    expect(page.locator("#state")).to_have_text("You are moving the arm", timeout=60_000)
    # The person's velocity, and nothing of the policy's, is what was admitted.
    limit_m_s = 0.5 * 0.25 * load_arm("panda").tool_limits.speed

    def moves_up() -> bool:
        newest_one = applied[-1].twist.linear if applied else None
        return newest_one is not None and (newest_one.x, newest_one.y) == (0.0, 0.0) and newest_one.z > 0.9 * limit_m_s

    test_node.spin_until(moves_up, LIMIT_S, "the arm moves up")
    test_node.spin_until(lambda: jogs)
    assert json.loads(jogs[-1].data)["lease"]
    page.keyboard.up("u")
    test_node.spin_until(lambda: newest(states)["reasons"] == ["waiting_for_resume"], LIMIT_S, "it holds")
    assert newest(states)["state"] == "HOLDING"
    expect(page.locator("#jog-words")).to_contain_text("You have the arm.")
    page.get_by_role("button", name="Resume").click()
    test_node.spin_until(lambda: newest(states)["reasons"] == [], LIMIT_S, "the policy acts")


def test_a_second_policy_stops_the_arm_and_a_restarted_one_does_not(
    page: Page, cell: Cell, test_node: TestNode
) -> None:
    from rlfp_ros.nodes import messages

    states = test_node.listen(messages.SAFETY_STATE)
    until(page, "ACTIVE", "#enable")
    killed = cell.runner.pids()["policy"]
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: cell.runner.pids().get("policy", killed) != killed, LIMIT_S, "another policy")
    test_node.spin_until(lambda: states and newest(states)["gain"] == 0.0, LIMIT_S, "no residual")

    def acts() -> bool:
        until(page, "ACTIVE", "#enable")  # a busy machine may have stopped the arm by itself
        test_node.spin_for(0.3)
        return bool(newest(states)["gain"] > 0.0)

    wait_until(acts, LIMIT_S, "its residuals act")
    test_node.spin_for(1.0)
    assert not [state.data for state in states if "additional_publisher" in state.data]
    test_node.publisher(messages.RESIDUAL)
    test_node.spin_until(lambda: newest(states)["state"] == "STOPPED", LIMIT_S, "a stop")
    expect(page.locator("#reasons")).to_contain_text("/test publishes on /policy/residual beside /policy")


def test_the_page_of_a_killed_server_comes_back(cell: Cell, chromium: Browser) -> None:
    before = len(cell.addresses)
    os.kill(cell.runner.pids()["operator"], signal.SIGKILL)
    wait_until(lambda: len(cell.addresses) > before, LIMIT_S)
    again = open_page(chromium, cell.address)
    until(again, "ACTIVE", "#enable")
    again.context.close()
