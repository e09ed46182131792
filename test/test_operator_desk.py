"""Tests of the operator's desk without network and ROS: who operates, what counts as a heartbeat, clicks, and words."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from operator_robot import T_BASE_CAMERA, Setting, controller, seen_image

from rlfp_ros.commissioning.checklist import ChecklistReport, Line
from rlfp_ros.control.safety.safety_state import SafetyState
from rlfp_ros.control.safety.verdict import Reason, State
from rlfp_ros.operator.action import Action
from rlfp_ros.operator.desk import LEASE_S, SHOWN_MAX_AGE_S, SILENT_S
from rlfp_ros.operator.open_page import BURST
from rlfp_ros.operator.reasons import REASONS, STATES, in_words
from rlfp_ros.operator.requests import MAX_CHARACTERS, BadRequest, parse_request
from rlfp_ros.recording.labels import MAX_NOTE

ACTIVE = SafetyState(state=State.ACTIVE, gain=1.0)
STOPPED = SafetyState(state=State.STOPPED, reasons=("estop",))
DISABLED = SafetyState(state=State.DISABLED, reasons=("not_enabled",))


@pytest.fixture
def at() -> Setting:
    return Setting()


# --- heartbeat and the operator's place ------------------------------------------------------------------------------


def test_a_heartbeat_is_published_for_each_beat_of_the_operator_and_at_no_other_time(at: Setting) -> None:
    page = at.desk.join()
    at.clock.now += 60.0
    at.desk.status(page)
    assert at.robot.beats == 0
    for count in range(1, 4):
        at.beat(page)
        assert at.robot.beats == count


def test_beats_of_a_page_that_watches_do_not_count(at: Setting) -> None:
    operator, watcher = at.desk.join(), at.desk.join()
    at.beat(watcher)
    assert at.robot.beats == 0
    at.beat(operator)
    assert at.robot.beats == 1


def test_a_page_that_shows_an_old_status_gives_no_heartbeat(at: Setting) -> None:
    page = at.desk.join()
    at.beat(page, age_s=SHOWN_MAX_AGE_S + 0.05)
    at.send(page, "beat", shown=round(1e3 * (at.clock.now + 5.0)))  # a status that was never sent
    assert at.robot.beats == 0
    at.beat(page, age_s=SHOWN_MAX_AGE_S - 0.05)
    assert at.robot.beats == 1


def test_heartbeat_ends_with_a_stop_until_the_arm_is_stopped(at: Setting) -> None:
    page = at.desk.join()
    at.desk.on_state(ACTIVE)
    at.send(page, "stop")
    assert at.robot.stops == 1
    at.beat(page)
    at.desk.on_state(ACTIVE)
    at.beat(page)
    assert at.robot.beats == 0
    at.desk.on_state(STOPPED)
    at.beat(page)
    assert at.robot.beats == 1


def test_a_second_stop_that_comes_after_the_arm_stopped_does_not_end_the_heartbeat(at: Setting) -> None:
    page = at.desk.join()
    at.desk.on_state(ACTIVE)
    at.send(page, "stop")
    at.desk.on_state(STOPPED)
    at.desk.stop("POST /estop")  # the page sends both
    assert not at.desk.status(page)["stopping"]
    at.beat(page)
    assert at.robot.beats == 1


def test_the_place_is_free_after_the_operator_was_silent_and_another_page_takes_it(at: Setting) -> None:
    first, second = at.desk.join(), at.desk.join()
    at.clock.now += LEASE_S - 0.1
    at.beat(first)
    at.clock.now += LEASE_S - 0.1
    at.send(second, "take")
    assert at.desk.is_operator(first)
    at.clock.now += 0.2
    at.send(second, "take")
    assert at.desk.is_operator(second)
    at.beat(first)
    assert at.robot.beats == 1  # the one from before
    at.send(second, "release")
    at.send(first, "take")
    assert at.desk.is_operator(first)
    at.desk.leave(first)
    assert not at.desk.is_operator(second)
    assert at.desk.status(second)["operator"] is None


@pytest.mark.parametrize("name", ["enable", "step", "disable", "reset"])
def test_commands_count_from_the_operator_only(at: Setting, name: str) -> None:
    operator, watcher = at.desk.join(), at.desk.join()
    at.send(watcher, name)
    assert at.robot.calls == []
    assert "only watches" in at.desk.status(watcher)["events"][-1]["text"]
    at.send(operator, name)
    assert at.robot.calls == [Action(name)]


def test_stop_counts_from_every_page_and_with_an_expired_place(at: Setting) -> None:
    _, watcher = at.desk.join(), at.desk.join()
    at.send(watcher, "stop")
    at.clock.now += 100.0
    at.send(watcher, "stop")
    at.desk.stop("POST /estop")
    assert at.robot.stops == 3


def test_stop_counts_although_the_page_sends_too_much(at: Setting) -> None:
    page = at.desk.join()
    for _ in range(round(BURST)):
        at.send(page, "take")
    with pytest.raises(BadRequest, match="messages per second"):
        at.send(page, "take")
    at.send(page, "stop")
    assert at.robot.stops == 1


def test_a_page_may_send_at_its_usual_rate_for_ever(at: Setting) -> None:
    page = at.desk.join()
    for index in range(2000):
        at.clock.now += 0.02
        at.send(page, "drawn", image=index)
        at.beat(page)
    assert at.robot.beats == 2000


def test_every_command_and_its_answer_are_recorded(at: Setting) -> None:
    page = at.desk.join()
    at.robot.answer = (False, "not enabled: home is red")
    at.send(page, "enable")
    at.send(page, "gain", value=0.5)
    at.send(page, "stop")
    lines = [{key: line[key] for key in ("command", "ok") if key in line} for line in at.robot.lines[1:]]
    assert lines == [
        {"command": "enable"},
        {"command": "enable", "ok": False},
        {"command": "gain"},
        {"command": "gain 0.5", "ok": True},
        {"command": "stop"},
    ]
    assert at.robot.lines[2]["answer"] == "not enabled: home is red"


def test_gain_is_limited_by_the_parameters_own_range(at: Setting) -> None:
    page = at.desk.join()
    at.desk.on_controller(controller(gain_range=(0.1, 0.6)))
    for value in (0.05, 0.7, 1.0, 0.3):
        at.send(page, "gain", value=value)
    assert at.robot.gains == [0.3]
    assert "gain is 1, expected 0.1 to 0.6" in at.desk.status(page)["events"][-2]["text"]


# --- messages --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "{}",
        '"stop"',
        '{"type": "shutdown"}',
        '{"type": "enable", "force": true}',
        '{"type": "gain"}',
        '{"type": "gain", "value": "1"  ',
        '{"type": "gain", "value": NaN}',
        '{"type": "gain", "value": 1e999}',
        '{"type": "beat", "shown": -1}',
        '{"type": "beat", "shown": true}',
        '{"type": "beat", "shown": 1.5}',
        '{"type": "click", "image": 1, "u": 1e9, "v": 0}',
        '{"type": "label", "label": "success"}',
        '{"type": "label", "bag": "a", "label": "great"}',
        '{"type": "label", "bag": "a", "label": "success", "path": "/etc"}',
        '{"type": "label", "bag": "a", "label": "success", "note": "\\ud800"}',
        json.dumps({"type": "label", "bag": "a", "label": "success", "note": "a" * (MAX_NOTE + 1)}),
        "[" * 400,
        '{"type": "stop", "x": "' + "a" * MAX_CHARACTERS + '"}',
    ],
)
def test_other_messages_are_refused(text: str) -> None:
    with pytest.raises(BadRequest):
        parse_request(text)


@settings(deadline=None)
@given(
    st.text(max_size=60)
    | st.recursive(st.none() | st.booleans() | st.integers() | st.floats(), st.lists).map(json.dumps)
)
def test_any_text_is_parsed_or_refused(text: str) -> None:
    with contextlib.suppress(BadRequest):
        parse_request(text)


# --- images ----------------------------------------------------------------------------------------------------------


def test_one_image_is_in_flight_and_the_next_is_the_newest(at: Setting) -> None:
    page = at.desk.join()
    assert at.desk.next_image(page) is None
    first, second, third = (seen_image(number) for number in (1, 2, 3))
    at.desk.on_image(first)
    assert at.desk.next_image(page) is first
    for image in (second, third):
        at.desk.on_image(image)
        assert at.desk.next_image(page) is None
    at.send(page, "drawn", image=7)  # not the one in flight
    assert at.desk.next_image(page) is None
    at.send(page, "drawn", image=1)
    assert at.desk.next_image(page) is third
    at.send(page, "drawn", image=3)
    assert at.desk.next_image(page) is None


def test_a_goal_is_shown_first_and_sent_by_the_second_click(at: Setting) -> None:
    page = at.desk.join()
    image = seen_image(4)
    at.desk.on_image(image)
    at.desk.next_image(page)
    at.send(page, "click", image=4, u=30.0, v=20.0)
    shown = at.desk.status(page)["goal"]
    assert shown["pixel"] == pytest.approx([30.0, 20.0], abs=0.05)
    assert at.robot.goals == []
    at.send(page, "send_goal", goal=shown["goal"] + 1)  # an older one
    assert at.robot.goals == []
    at.send(page, "click", image=4, u=30.0, v=20.0)
    at.send(page, "send_goal", goal=at.desk.status(page)["goal"]["goal"])
    ((point, stamp),) = at.robot.goals
    assert point == pytest.approx(T_BASE_CAMERA[:3, 3] + [3.5 / 60, 1.5 / 60, -1.0])
    assert stamp == image.stamp_ns
    assert at.desk.status(page)["goal"] is None


def test_a_goal_is_refused_where_the_policy_takes_none_and_for_an_old_image(at: Setting) -> None:
    page = at.desk.join()
    at.send(page, "click", image=4, u=30.0, v=20.0)
    assert at.desk.status(page)["goal_fault"] == "the clicked image is too old; click again"
    at.desk.on_controller(controller(takes_goal=False))
    at.send(page, "click", image=4, u=30.0, v=20.0)
    assert at.desk.status(page)["goal_fault"] == "this policy takes no goal"


# --- words -----------------------------------------------------------------------------------------------------------


def test_every_reason_and_state_has_words() -> None:
    assert set(REASONS) == set(Reason)
    assert set(STATES) == set(State)
    assert in_words("effort_limit").meaning == "A joint's effort was too high."
    assert in_words("of_another_version").meaning == "of another version"


def test_status_has_state_reasons_and_red_lines_with_what_to_do(at: Setting) -> None:
    page = at.desk.join()
    assert at.desk.status(page)["state_words"] == "Nothing comes on safety/state. Is the graph running?"
    at.desk.on_state(DISABLED)
    line = Line(name="home", ok=False, found="far", fix="bring it home")
    at.desk.on_checklist(ChecklistReport(lines=(line,)))
    status = at.desk.status(page)
    assert status["state"] == "DISABLED"
    assert status["reasons"][0]["code"] == "not_enabled"
    assert status["reasons"][0]["remedy"].startswith("Press Enable")
    assert status["checklist"] == [{"name": "home", "ok": False, "found": "far", "fix": "bring it home"}]
    assert status["operates"]
    json.dumps(status, allow_nan=False)


def test_a_controller_that_died_is_not_shown_in_its_last_state(at: Setting) -> None:
    page = at.desk.join()
    at.desk.on_state(ACTIVE)
    at.desk.on_report()
    at.clock.now += SILENT_S - 0.1
    assert at.desk.status(page)["state"] == "ACTIVE"
    at.clock.now += 0.2
    status = at.desk.status(page)
    assert (status["state"], status["enabled"]) == (None, False)
    assert status["state_words"].startswith("The safety controller has been silent for 5 s.")
    at.desk.on_report()
    assert at.desk.status(page)["state"] == "ACTIVE"


def test_reasons_that_come_and_go_while_the_arm_moves_do_not_fill_the_log(at: Setting) -> None:
    page = at.desk.join()
    for _ in range(10):
        at.desk.on_state(ACTIVE)
        at.desk.on_state(SafetyState(state=State.ACTIVE, reasons=("input_late",), gain=0.5))
        at.desk.on_state(SafetyState(state=State.HOLDING, reasons=("waiting_for_joint_state",)))
    at.desk.on_state(STOPPED)
    texts = [event["text"] for event in at.desk.status(page)["events"]]
    assert texts == ["page 1: take: operates", "ACTIVE", "STOPPED: STOP was pressed."]
