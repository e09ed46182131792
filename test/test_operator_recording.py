"""Tests of what the operator's desk does with recordings and plots, without network and ROS."""

from __future__ import annotations

import json

import numpy as np
import pytest
from operator_robot import Setting

from rlfp_ros.control.arm import load_arm
from rlfp_ros.operator.plots import POINTS, PlotPoint, position_share, velocity_share
from rlfp_ros.recording.bag_list import BagListing, LabelRequest, ListedBag
from rlfp_ros.recording.labels import MAX_NOTE, MAX_OPERATOR, BagLabel, Label


@pytest.fixture
def at() -> Setting:
    return Setting()


# --- recording -------------------------------------------------------------------------------------------------------

LABEL = {"bag": "recording_0001", "label": "success", "note": "clean", "operator": "Ada"}


def test_a_recording_is_started_labelled_and_ended_by_the_operator(at: Setting) -> None:
    page = at.desk.join()
    at.recorder_reports(recording=False)
    at.send(page, "record")
    at.send(page, "label", **LABEL)
    at.send(page, "end_record")
    assert at.recorder.calls == ["start", "stop"]
    assert at.recorder.labels == [LabelRequest(**LABEL)]
    assert [line for line in at.robot.lines if line["command"] == "label"] == [
        {"from": "page 1", "command": "label", **LABEL}
    ]
    texts = [event["text"] for event in at.desk.status(page)["events"]]
    assert texts[1:] == [
        "page 1: record: recording_0001",
        "page 1: label success: recording_0001",
        "page 1: end_record: recording_0001",
    ]


@pytest.mark.parametrize("message", [("record", {}), ("end_record", {}), ("label", LABEL)], ids=lambda entry: entry[0])
def test_recording_counts_from_the_operator_only_and_needs_a_recorder(
    at: Setting, message: tuple[str, dict[str, str]]
) -> None:
    operator, watcher = at.desk.join(), at.desk.join()
    name, fields = message
    at.send(operator, name, **fields)  # no recorder has reported
    assert at.desk.status(operator)["recorder"] is None
    assert "refused: no recorder is running; start the graph with" in at.desk.status(operator)["events"][-1]["text"]
    at.recorder_reports()
    at.send(watcher, name, **fields)
    assert "only watches" in at.desk.status(watcher)["events"][-1]["text"]
    at.clock.now += 7.0  # it was killed
    at.send(operator, name, **fields)
    assert at.desk.status(operator)["recorder"] is None
    assert (at.recorder.calls, at.recorder.labels) == ([], [])


@pytest.mark.parametrize("note", ["a\nb", "a\x07", "\x1b[2J", "a\u2028b"], ids=ascii)
def test_a_note_with_a_control_character_is_refused_in_one_sentence(at: Setting, note: str) -> None:
    page = at.desk.join()
    at.recorder_reports()
    at.send(page, "label", **(LABEL | {"note": note}))
    assert at.recorder.labels == []
    text = at.desk.status(page)["events"][-1]["text"]
    assert "refused: label: note is" in text
    assert "expected one line of text" in text
    assert not set(text) & {"\n", "\x07", "\x1b"}


def test_the_longest_note_fits_into_a_message_even_if_all_of_it_is_escaped(at: Setting) -> None:
    page = at.desk.join()
    at.recorder_reports()
    at.send(page, "label", bag="a" * 200, label="discard", note='"' * MAX_NOTE, operator='"' * MAX_OPERATOR)
    assert at.recorder.labels[0].note == '"' * MAX_NOTE


def test_a_refusal_of_the_recorder_is_shown_and_recorded(at: Setting) -> None:
    page = at.desk.join()
    at.recorder_reports()
    at.recorder.answer = (False, "bags: 3 MB of disk are free, expected at least 50; free some")
    at.send(page, "record")
    assert at.desk.status(page)["events"][-1]["text"].startswith("page 1: record refused: bags: 3 MB of disk are free")
    assert at.robot.lines[-1]["ok"] is False


def test_status_has_the_recorder_and_the_list_of_bags_once(at: Setting) -> None:
    page, other = at.desk.join(), at.desk.join()
    assert at.desk.status(page)["bags"] == {"bags": [], "more": 0}
    at.recorder_reports(duration_s=3.0, messages=7, dropped=2)
    at.clock.now += 1.0
    shown = at.desk.status(page)["recorder"]
    assert (shown["bag"], shown["duration_s"], shown["messages"], shown["dropped"]) == ("recording_0001", 4.0, 7, 2)
    at.desk.recording.on_listing(BagListing(bags=(ListedBag(name="a", label=BagLabel(label=Label.FAILURE)),), more=3))
    for one in (page, other):
        status = at.desk.status(one)
        assert status["bags"]["bags"][0]["label"] == {"label": "failure", "note": "", "operator": ""}
        assert "bags" not in at.desk.status(one)
        json.dumps(status, allow_nan=False)


# --- plots -----------------------------------------------------------------------------------------------------------


def test_each_page_gets_each_point_of_the_plots_once_and_a_new_page_the_last_20_s(at: Setting) -> None:
    first = at.desk.join()
    at.desk.plots.name(("x", "gripper"), ("j1",))
    for number in range(POINTS + 5):
        at.desk.plots.add(PlotPoint(0.1 * number, asked=np.array([0.001 * number, np.nan])))
        if number == 3:
            assert [point["asked"] for point in at.desk.status(first)["plots"]["points"]] == [
                [0.0, None],
                [0.001, None],
                [0.002, None],
                [0.003, None],
            ]
            assert at.desk.status(first)["plots"]["points"] == []
    late = at.desk.status(at.desk.join())["plots"]
    assert (late["components"], late["joints"]) == (("x", "gripper"), ("j1",))
    assert len(late["points"]) == POINTS
    assert len(at.desk.status(first)["plots"]["points"]) == POINTS
    json.dumps(late, allow_nan=False)


def test_commands_are_plotted_as_shares_of_the_arms_own_limits() -> None:
    arm = load_arm("panda")
    lower, upper = np.array(arm.limits.lower), np.array(arm.limits.upper)
    np.testing.assert_allclose(position_share(lower, arm), -1.0)
    np.testing.assert_allclose(position_share(upper, arm), 1.0)
    np.testing.assert_allclose(position_share((lower + upper) / 2, arm), 0.0, atol=1e-9)
    np.testing.assert_allclose(velocity_share(-0.5 * np.array(arm.limits.velocity), arm), -0.5)
