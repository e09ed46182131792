"""Tests of recording, labels, the list of bags and plots on the operator's page, in a real browser."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from conftest import wait_until
from playwright.sync_api import Page, expect
from served_page import DISABLED, Cell

from rlfp_ros.control.safety.safety_state import SafetyState
from rlfp_ros.control.safety.verdict import State
from rlfp_ros.operator import recording_panel
from rlfp_ros.operator.plots import PlotPoint
from rlfp_ros.recording.bag_list import BagListing, ListedBag
from rlfp_ros.recording.labels import BagLabel, Label

ACTIVE = SafetyState(state=State.ACTIVE, gain=1.0)

expect.set_options(timeout=20_000)


@pytest.fixture
def cell(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cell]:
    monkeypatch.setattr(recording_panel, "SILENT_S", 600.0)  # a recorder reports here only if the test says so
    made = Cell()
    yield made
    made.close()


def test_a_bag_is_recorded_and_labelled_with_the_keyboard(opened: Callable[..., Page], cell: Cell) -> None:
    page = opened()
    expect(page.locator("#record-words")).to_have_text(
        "No recorder runs. Start the graph with operator:=true or record:=FOLDER."
    )
    expect(page.get_by_role("button", name="Record")).to_be_disabled()
    cell.recorder_reports()
    expect(page.get_by_role("button", name="Record")).to_be_enabled()
    expect(page.get_by_role("button", name="Success")).to_be_disabled()
    page.keyboard.press("b")
    wait_until(lambda: cell.recorder.calls == ["start"])
    cell.recorder_reports(recording=True, bag="recording_0001", messages=12, dropped=3)
    expect(page.get_by_role("button", name="End recording")).to_be_enabled()
    expect(page.locator("#record-facts")).to_have_text(re.compile("12 messages · 0.0 MB · 3 LOST"))
    page.get_by_label("Note").fill("it touched")
    page.get_by_label("Your name").fill("Ada")
    page.keyboard.press("Enter")
    for key in "gfx":
        page.keyboard.press(key)
    wait_until(lambda: len(cell.recorder.labels) == 3)
    assert [label.label.value for label in cell.recorder.labels] == ["success", "failure", "discard"]
    first = cell.recorder.labels[0]
    assert (first.bag, first.note, first.operator) == ("recording_0001", "it touched", "Ada")
    cell.recorder_reports(recording=True, bag="recording_0001", label=BagLabel(label=Label.DISCARD))
    expect(page.get_by_role("button", name="Discard")).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_role("button", name="Success")).to_have_attribute("aria-pressed", "false")
    page.keyboard.press("b")
    wait_until(lambda: cell.recorder.calls == ["start", "stop"])
    assert cell.robot.calls == []  # none of these keys moves the arm
    cell.recorder_reports(bag="recording_0001", fault="the disk is full")
    expect(page.locator("#record-fault")).to_have_text("the disk is full")


def test_keys_write_into_a_note_and_the_space_bar_does_so_only_while_the_arm_is_at_rest(
    opened: Callable[..., Page], cell: Cell
) -> None:
    page = opened()
    cell.recorder_reports(bag="recording_0001")
    note = page.get_by_label("Note")
    expect(page.get_by_role("button", name="Success")).to_be_enabled()
    note.focus()
    page.keyboard.type("bed reset")  # keys of Record, Enable, Disable, STOP, Reset and Step
    expect(note).to_have_value("bed reset")
    assert (cell.robot.calls, cell.robot.stops, cell.recorder.calls) == ([], 0, [])
    cell.desk.on_state(ACTIVE)
    expect(page.locator("#typing-hint")).to_be_visible()
    page.keyboard.press("Space")
    wait_until(lambda: cell.robot.stops >= 1)
    expect(note).to_have_value("bed reset")
    cell.desk.on_state(DISABLED)
    expect(page.locator("#typing-hint")).to_be_hidden()


def test_bags_are_listed_with_their_labels_as_plain_text(opened: Callable[..., Page], cell: Cell) -> None:
    page = opened()
    expect(page.locator("#bags-sum")).to_have_text("none yet")
    label = BagLabel(label=Label.FAILURE, note="<img src=x onerror=alert(1)>", operator="Ada")
    bags = (
        ListedBag(name="recording_0002", start_ms=1_790_000_000_000, duration_s=12.34, label=label, episodes="1 lost"),
        ListedBag(name="run", duration_s=3.0),
    )
    cell.desk.recording.on_listing(BagListing(bags=bags, more=4))
    expect(page.locator("#bags-sum")).to_have_text("the newest 2 of 6")
    rows = page.locator("#bags").get_by_role("listitem")
    expect(rows.first).to_contain_text("recording_0002")
    expect(rows.first).to_contain_text("12.3 s")
    expect(rows.first).to_contain_text("episodes: 1 lost")
    expect(rows.first).to_contain_text("labelled by Ada")
    expect(rows.first).to_contain_text("<img src=x onerror=alert(1)>")
    expect(rows.last).to_contain_text("no label")
    assert page.locator("#bags img").count() == 0


def test_plots_are_drawn_and_scale_with_the_limits(opened: Callable[..., Page], cell: Cell) -> None:
    cell.desk.plots.name(("x", "y"), ("j1", "j2", "j3"))
    page = opened()
    for number in range(100):
        at = cell.desk.clock() - 10.0 + 0.1 * number
        cell.desk.plots.add(PlotPoint(at, np.array([1.0, 0.0]), np.array([0.5, 0.0]), np.array([0.0, 0.5, -0.5])))
    expect(page.locator("#keys-joints")).to_have_text("j1j2j3")
    coloured = """() => {
        const canvas = document.getElementById("plot-residual");
        const { width, height } = canvas;
        const data = canvas.getContext("2d").getImageData(0, 0, Math.round(0.85 * width), height).data;
        const rows = new Set();
        for (let place = 0; place < data.length; place += 4) {
            const [r, g, b, a] = data.slice(place, place + 4);
            if (a > 200 && r > 180 && g < 90 && b < 90) rows.add(Math.floor(place / 4 / Math.round(0.85 * width)));
        }
        return [...rows].map((row) => row / height);
    }"""

    def drawn() -> list[float]:
        page.wait_for_timeout(200)
        found: list[float] = page.evaluate(coloured)
        return found

    # Component x is red: admitted 0.5 is drawn at 0.3 of the height, -1 to 1 being 0.1 to 0.9.
    wait_until(lambda: any(0.27 < row < 0.34 for row in drawn()), 20.0)
    assert not any(0.55 < row < 0.85 for row in drawn())
