"""Tests of a person who moves the arm on the operator's page: what the desk passes on, and the page in a browser."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conftest import wait_until
from operator_robot import Setting
from playwright.sync_api import Page, expect
from served_page import Cell

from rlfp_ros.control.safety.safety_state import SafetyState
from rlfp_ros.control.safety.verdict import State
from rlfp_ros.operator.action import Action
from rlfp_ros.operator.desk import JOG_MAX_AGE_S
from rlfp_ros.operator.open_page import Page as OpenPage
from rlfp_ros.operator.requests import BadRequest

ACTIVE = SafetyState(state=State.ACTIVE, gain=1.0)
STOPPED = SafetyState(state=State.STOPPED, reasons=("estop",))
JOGGING = SafetyState(state=State.ACTIVE, reasons=("jog",), gain=1.0)
WAITING = SafetyState(state=State.HOLDING, reasons=("waiting_for_resume",))
STILL = (0.0, 0.0, 0.0)

expect.set_options(timeout=20_000)


@pytest.fixture
def at() -> Setting:
    made = Setting()
    made.desk.on_state(ACTIVE)
    return made


def jog(at: Setting, page: OpenPage, age_s: float = 0.0, **fields: Any) -> None:
    content = {"shown": round(1e3 * (at.clock.now - age_s)), "linear": (0.5, 0.0, 0.0), "angular": STILL} | fields
    at.send(page, "jog", **content)


def test_a_jog_goes_on_with_the_lease_of_the_heartbeats(at: Setting) -> None:
    page = at.desk.join()
    at.beat(page)
    jog(at, page)
    assert at.robot.jogs == [(at.robot.leases[-1], (0.5, 0.0, 0.0), STILL)]
    assert at.robot.leases[-1]
    at.send(page, "release")
    second = at.desk.join()
    at.beat(second)
    assert at.robot.leases[-1] != at.robot.leases[0]  # jogs of the page before no longer fit


@pytest.mark.parametrize("case", ["watches", "old", "future", "stopping", "stopped", "no_state"])
def test_no_jog_goes_on_from_a_page_that_watches_or_shows_the_past_or_while_the_arm_is_not_enabled(
    at: Setting, case: str
) -> None:
    page = at.desk.join()
    age_s = {"old": JOG_MAX_AGE_S + 0.05, "future": -5.0}.get(case, 0.0)
    if case == "watches":
        page = at.desk.join()
    elif case == "stopping":
        at.send(page, "stop")
    elif case == "stopped":
        at.desk.on_state(STOPPED)
    elif case == "no_state":
        at.desk.state = None
    for _ in range(30):
        jog(at, page, age_s)
    assert at.robot.jogs == []
    refusals = [event for event in at.desk.status(page)["events"] if "jog refused" in event["text"]]
    assert len(refusals) == 1  # not one for each message


@pytest.mark.parametrize(
    "fields",
    [{"linear": (1.01, 0.0, 0.0)}, {"angular": (float("nan"), 0.0, 0.0)}, {"linear": (0.0, 0.0)}, {"gripper": 1.0}],
)
def test_a_jog_that_no_page_of_ours_sends_closes_the_connection(at: Setting, fields: dict[str, Any]) -> None:
    page = at.desk.join()
    with pytest.raises(BadRequest):
        jog(at, page, **fields)
    assert at.robot.jogs == []


@pytest.fixture
def cell() -> Iterator[Cell]:
    made = Cell()
    made.desk.on_state(ACTIVE)
    yield made
    made.close()


def test_keys_move_the_arm_while_they_are_held_and_collide_with_no_command(
    opened: Callable[..., Page], cell: Cell
) -> None:
    page = opened()
    expect(page.get_by_role("button", name="Forward")).to_be_enabled()
    page.keyboard.down("i")
    page.keyboard.down("n")
    wait_until(lambda: len(cell.robot.jogs) > 5)
    assert cell.robot.jogs[-1][1:] == ((0.5, 0.0, 0.0), (0.0, 0.0, 0.5))
    cell.desk.on_state(JOGGING)
    expect(page.locator("#jog-words")).to_have_text("You are moving the arm.")
    expect(page.locator("#state")).to_have_text("You are moving the arm")
    page.keyboard.up("i")
    page.keyboard.up("n")
    wait_until(lambda: cell.robot.jogs[-1][1:] == (STILL, STILL))
    count = len(cell.robot.jogs)
    cell.desk.on_state(WAITING)
    expect(page.get_by_role("button", name="Resume")).to_be_enabled()
    page.get_by_label("Note").fill("ijkl")  # writing moves nothing
    page.get_by_role("button", name="Resume").click()
    wait_until(lambda: cell.robot.calls == [Action.ENABLE])
    assert len(cell.robot.jogs) == count


@pytest.mark.parametrize("key", ["Enter", "NumpadEnter"])
def test_a_button_that_is_held_by_keyboard_is_let_go_with_its_key(
    opened: Callable[..., Page], cell: Cell, key: str
) -> None:
    page = opened()
    button = page.get_by_role("button", name="Up +z")
    expect(button).to_be_enabled()
    button.focus()
    page.keyboard.down(key)
    wait_until(lambda: len(cell.robot.jogs) > 3)
    page.keyboard.up(key)
    wait_until(lambda: cell.robot.jogs[-1][1:] == (STILL, STILL))
    count = len(cell.robot.jogs)
    page.wait_for_timeout(300)
    assert len(cell.robot.jogs) == count


def test_a_finger_moves_the_arm_on_a_phone_until_it_lets_go_or_stop_is_pressed(
    opened: Callable[..., Page], cell: Cell
) -> None:
    page = opened(width=390, height=780)
    button = page.get_by_role("button", name="Up +z")
    expect(button).to_be_enabled()
    button.scroll_into_view_if_needed()
    box = button.bounding_box()
    assert box is not None
    assert box["width"] > 60
    assert box["height"] > 44
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    wait_until(lambda: cell.robot.jogs and cell.robot.jogs[-1][1] == (0.0, 0.0, 0.5))
    page.mouse.move(5, 5)  # a finger that slides off still holds
    before = len(cell.robot.jogs)
    wait_until(lambda: len(cell.robot.jogs) > before + 3)
    page.keyboard.press("Space")
    wait_until(lambda: cell.robot.stops >= 1)
    page.wait_for_timeout(300)
    count = len(cell.robot.jogs)
    page.wait_for_timeout(300)
    assert len(cell.robot.jogs) == count


GAMEPAD = """() => {
    const buttons = Array.from({ length: 8 }, () => ({ pressed: false }));
    const pad = { connected: true, axes: [0, -1, 0.05, 0], buttons };
    window.pad = pad;
    navigator.getGamepads = () => [null, pad];
}"""


def test_a_gamepad_moves_the_arm_only_while_a_shoulder_button_is_held(opened: Callable[..., Page], cell: Cell) -> None:
    page = opened()
    expect(page.get_by_role("button", name="Forward")).to_be_enabled()
    page.evaluate(GAMEPAD)
    page.wait_for_timeout(300)
    assert cell.robot.jogs == []
    page.evaluate("() => { window.pad.buttons[5].pressed = true; }")
    wait_until(lambda: len(cell.robot.jogs) > 3)
    assert cell.robot.jogs[-1][1:] == ((0.5, 0.0, 0.0), STILL)  # the other stick is in its dead zone


def test_a_page_that_watches_moves_nothing_and_says_who_does(opened: Callable[..., Page], cell: Cell) -> None:
    opened()
    watcher = opened()
    cell.desk.on_state(JOGGING)
    expect(watcher.locator("#jog-words")).to_have_text("A person moves the arm on another page.")
    expect(watcher.get_by_role("button", name="Forward")).to_be_disabled()
    watcher.keyboard.down("i")
    watcher.wait_for_timeout(300)
    assert cell.robot.jogs == []
