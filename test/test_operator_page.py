"""Tests of the operator's page in a real browser, with a robot that takes notes instead of a graph."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from browser import open_page
from conftest import wait_until
from operator_robot import T_BASE_CAMERA, controller
from playwright.sync_api import Browser, Page, expect
from served_page import Cell

from rlfp_ros.commissioning.checklist import ChecklistReport, Line
from rlfp_ros.control.safety.safety_state import SafetyState
from rlfp_ros.control.safety.verdict import State
from rlfp_ros.operator.action import Action
from rlfp_ros.operator.page_address import TOKEN_VARIABLE

ACTIVE = SafetyState(state=State.ACTIVE, gain=1.0)
STOPPED = SafetyState(state=State.STOPPED, reasons=("estop",))
DISABLED = SafetyState(state=State.DISABLED, reasons=("not_enabled",))
GREEN = Line(name="images", ok=True, found="30.0 Hz, 40 ms old")
RED = Line(name="home", ok=False, found="0.4 rad from home", fix="bring the arm home")

expect.set_options(timeout=20_000)


@pytest.fixture
def cell() -> Iterator[Cell]:
    made = Cell()
    yield made
    made.close()


def colour_at(page: Page, u: float, v: float) -> list[int]:
    """The drawn colour at a pixel of the camera's image."""
    script = """([u, v]) => {
        const canvas = document.getElementById("image");
        const scale = canvas.width / 64;
        return [...canvas.getContext("2d").getImageData((u + 0.5) * scale, (v + 0.5) * scale, 1, 1).data].slice(0, 3);
    }"""
    found: list[int] = page.evaluate(script, [u, v])
    return found


# --- state and STOP --------------------------------------------------------------------------------------------------


def test_page_shows_state_reasons_and_what_to_do(opened: Callable[..., Page], cell: Cell) -> None:
    page = opened()
    expect(page.locator(".status")).to_contain_text("DISABLED")
    expect(page.locator(".status")).to_contain_text("Press Enable when the checklist is green")
    cell.desk.on_state(STOPPED)
    expect(page.locator(".status")).to_contain_text("STOPPED")
    expect(page.locator(".status")).to_contain_text("STOP was pressed. Press Reset when the cell is clear.")
    assert page.evaluate("document.body.dataset.state") == "STOPPED"
    expect(page.locator(".stop-note")).to_contain_text("not safety-rated")


@pytest.mark.parametrize("focus", ["#enable", "#gain", "body"])
def test_space_stops_wherever_the_focus_is_and_presses_no_other_button(
    opened: Callable[..., Page], cell: Cell, focus: str
) -> None:
    page = opened()
    if focus != "body":
        expect(page.locator(focus)).to_be_enabled()
        page.focus(focus)
    page.keyboard.press("Space")
    wait_until(lambda: cell.robot.stops >= 1)
    time.sleep(0.3)
    assert cell.robot.calls == []
    assert cell.robot.gains == []


def test_stop_works_with_the_pointer_and_on_a_page_that_has_lost_its_connection(
    opened: Callable[..., Page], cell: Cell
) -> None:
    page = opened()
    page.get_by_role("button", name="STOP").click()
    wait_until(lambda: cell.robot.stops >= 1)
    page.evaluate("location.hash = '#' + '0'.repeat(64)")  # the page loads again with a wrong token
    expect(page.locator("#state-words")).to_have_text(
        "The program was started again. Open the address that it printed now."
    )
    before = cell.robot.stops
    page.keyboard.press("Space")
    wait_until(lambda: cell.robot.stops == before + 1)


# --- heartbeat -------------------------------------------------------------------------------------------------------


def test_beats_come_while_the_page_is_visible_and_end_when_it_is_blocked(
    opened: Callable[..., Page], cell: Cell
) -> None:
    page = opened()
    wait_until(lambda: cell.robot.beats > 5)
    page.evaluate("() => { const end = performance.now() + 2000; while (performance.now() < end); }")
    blocked = cell.robot.beats
    wait_until(lambda: cell.robot.beats > blocked)  # and come back

    def beats_while_blocked() -> int:
        page.evaluate("() => { const end = performance.now() + 300; while (performance.now() < end); }")
        before = cell.robot.beats
        page.evaluate("() => { const end = performance.now() + 1200; while (performance.now() < end); }")
        return cell.robot.beats - before

    assert beats_while_blocked() <= 3  # those on their way


def test_a_hidden_page_disables_the_arm_and_its_beats_end(opened: Callable[..., Page], cell: Cell) -> None:
    page = opened()
    cell.desk.on_state(ACTIVE)
    expect(page.locator("#state")).to_have_text("ACTIVE")
    expect(page.locator("#heartbeat-words")).to_contain_text("If it is hidden, closed, blocked or disconnected")
    page.evaluate("""() => {
        Object.defineProperty(document, "visibilityState", { value: "hidden", configurable: true });
        document.dispatchEvent(new Event("visibilitychange"));
    }""")
    wait_until(lambda: cell.robot.calls == [Action.DISABLE])
    time.sleep(0.3)
    before = cell.robot.beats
    time.sleep(1.0)
    assert cell.robot.beats == before
    page.evaluate("""() => {
        delete document.visibilityState;
        document.dispatchEvent(new Event("visibilitychange"));
    }""")
    wait_until(lambda: cell.robot.beats > before)
    expect(page.get_by_role("alert")).to_have_text("The page was hidden, so the arm was disabled.")


def test_a_second_page_watches_until_the_first_hands_over(opened: Callable[..., Page], cell: Cell) -> None:
    first, second = opened(), opened()
    expect(second.locator("#lease")).to_have_text(re.compile("operates. This page .* watches; STOP works here too"))
    expect(second.get_by_role("button", name="Enable")).to_be_disabled()
    expect(second.get_by_role("button", name="Take control")).to_be_disabled()
    first.get_by_role("button", name="Hand over").click()
    second.get_by_role("button", name="Take control").click()
    expect(second.get_by_role("button", name="Enable")).to_be_enabled()
    expect(first.get_by_role("button", name="Enable")).to_be_disabled()


# --- commands --------------------------------------------------------------------------------------------------------


def test_buttons_and_keys_call_the_services_that_the_state_allows(opened: Callable[..., Page], cell: Cell) -> None:
    page = opened()
    page.get_by_role("button", name="Enable").click()
    cell.desk.on_state(ACTIVE)
    expect(page.get_by_role("button", name="Disable")).to_be_enabled()
    expect(page.get_by_role("button", name="Enable")).to_be_disabled()
    page.keyboard.press("e")
    page.keyboard.press("s")
    page.keyboard.press("d")
    cell.desk.on_state(STOPPED)
    expect(page.get_by_role("button", name="Reset")).to_be_enabled()
    page.keyboard.press("r")
    wait_until(lambda: len(cell.robot.calls) == 4)
    assert cell.robot.calls == [Action.ENABLE, Action.STEP, Action.DISABLE, Action.RESET]
    expect(page.locator("#log")).to_contain_text("page 1: reset: done")


def test_a_red_line_says_what_to_do_and_keeps_enable_off(opened: Callable[..., Page], cell: Cell) -> None:
    page = opened()
    expect(page.locator("#checklist-sum")).to_have_text("all green")
    cell.desk.on_checklist(ChecklistReport(lines=(GREEN, RED)))
    first = page.get_by_role("list").filter(has_text="home").get_by_role("listitem").first
    expect(first).to_contain_text("0.4 rad from home")
    expect(first).to_contain_text("bring the arm home")
    expect(page.get_by_role("button", name="Enable")).to_be_disabled()
    expect(page.locator("#hint")).to_have_text("Enable is refused until the checklist is green: 1 line is red.")


def test_gain_slider_has_the_parameters_range_and_sends_a_value(opened: Callable[..., Page], cell: Cell) -> None:
    cell.desk.on_controller(controller(gain=0.6, gain_range=(0.2, 0.8)))
    page = opened()
    slider = page.get_by_role("slider", name="Residual gain")
    expect(slider).to_be_enabled()
    expect(slider).to_have_value("0.6")
    assert (slider.get_attribute("min"), slider.get_attribute("max")) == ("0.2", "0.8")
    slider.focus()
    page.keyboard.press("Home")
    wait_until(lambda: cell.robot.gains == [0.2])


# --- image -----------------------------------------------------------------------------------------------------------


def test_image_points_ellipse_and_goal_are_drawn_where_they_are(opened: Callable[..., Page], cell: Cell) -> None:
    page = opened()
    expect(page.locator("#image-empty")).to_be_visible()
    cell.film()
    expect(page.locator("#image-empty")).to_be_hidden()
    expect(page.locator("#image-facts")).to_contain_text("64 × 48")
    expect(page.locator("#shift-now")).to_have_text("0.30")
    red = colour_at(page, 5, 5)
    assert np.abs(np.array(red) - (200, 40, 30)).max() < 12
    assert np.abs(np.array(colour_at(page, 49.5, 41.5)) - (245, 51, 51)).max() < 40  # the feature point, hue 0
    assert colour_at(page, 31.5, 23.5)[2] > 150  # the cross of the object's ellipse
    assert min(colour_at(page, 19.5, 29.5)) > 150  # the goal's dot


def test_two_clicks_send_a_goal_and_one_outside_the_workspace_is_refused(
    opened: Callable[..., Page], cell: Cell
) -> None:
    cell.film()
    page = opened()
    expect(page.locator("#image")).to_have_class("clickable")
    box = page.locator("#image").bounding_box()
    assert box is not None
    scale = box["width"] / 64

    def click(u: float, v: float) -> None:
        page.mouse.click(box["x"] + (u + 0.5) * scale, box["y"] + (v + 0.5) * scale)

    click(25.5, 29.5)
    shown = re.compile(r"Goal \(0\.(39|40)\d, 0\.(09|10)\d, 0\.000\) m: click it again to send it\.")
    expect(page.locator("#goal-text")).to_have_text(shown)
    assert cell.robot.goals == []
    click(25.5, 29.5)
    wait_until(lambda: len(cell.robot.goals) == 1)
    assert cell.robot.goals[0][0] == pytest.approx(T_BASE_CAMERA[:3, 3] + [-0.1, 0.1, -1.0], abs=0.01)
    click(31.5, 1)  # 0.875 m in front of the base
    expect(page.locator("#goal-text")).to_have_text(re.compile("Refused: the goal is outside the workspace: x is 0.8"))
    cell.desk.on_controller(controller(takes_goal=False))
    expect(page.locator("#goal-row")).to_be_hidden()


# --- screens and connections -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "height"), [(360, 640), (768, 1024), (1280, 720)])
def test_stop_and_state_are_always_visible(opened: Callable[..., Page], cell: Cell, width: int, height: int) -> None:
    cell.film()
    page = opened(width=width, height=height)
    expect(page.locator("#image-empty")).to_be_hidden()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for place in ("0", "document.body.scrollHeight"):
        page.evaluate(f"window.scrollTo(0, {place})")
        for name in ("#stop", "#state"):
            box = page.locator(name).bounding_box()
            assert box is not None
            assert box["x"] >= 0
            assert box["y"] >= 0
            assert box["x"] + box["width"] <= width
            assert box["y"] + box["height"] <= height
    stop = page.locator("#stop").bounding_box()
    assert stop is not None
    assert stop["height"] >= 60
    on_top = page.evaluate(
        "([x, y]) => document.elementFromPoint(x, y).closest('#stop') !== null",
        [stop["x"] + stop["width"] / 2, stop["y"] + stop["height"] / 2],
    )
    assert on_top


def test_everything_that_can_be_used_has_a_name(opened: Callable[..., Page]) -> None:
    page = opened()
    names = page.evaluate("""() => [...document.querySelectorAll("button, input, canvas, section")].map((element) =>
        element.getAttribute("aria-label") || element.labels?.[0]?.textContent || element.textContent.trim())""")
    assert len(names) > 10
    assert all(names)
    assert page.get_attribute("html", "lang") == "en"


def test_page_comes_back_after_the_connection_was_lost(chromium: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, "ab" * 32)
    first = Cell()
    page = open_page(chromium, first.address)
    expect(page.locator("#state")).to_have_text("DISABLED")
    port = int(first.server.address.rstrip("/").rpartition(":")[2])
    first.close()
    expect(page.locator("#state")).to_have_text("Disconnected")
    expect(page.locator("#state-words")).to_contain_text("the arm stops")
    second = Cell(port)
    expect(page.locator("#state")).to_have_text("DISABLED")
    wait_until(lambda: second.robot.beats > 0)
    page.context.close()
    second.close()
