"""Tests of a person who takes the arm over: `operator/jog` in the controller, hostile jogs, and what a bag keeps."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from controller_rig import PUSH, SIMULATED, Rig, contract, joint_contract
from hypothesis import given, settings
from hypothesis import strategies as st

from rlfp_ros.control.controller_settings import ControllerSettings
from rlfp_ros.control.residual_controller import Reason, State
from rlfp_ros.control.safety.takeover import Jog
from rlfp_ros.schema import ConfigurationError

LEASE = "page-1"
LEFT = (0.0, -1.0, 0.0)  # against PUSH
LIMIT_M_S = SIMULATED.jog_scale * Rig().controller.arm.tool_limits.speed


class Cell(Rig):
    """A rig with an operator's page that sends heartbeats, and jogs at 20 Hz while `jog` is set."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.jog: tuple[float, float, float] | None = None
        self.lease, self.beats = LEASE, True

    def run(self, seconds: float) -> Cell:
        for _ in range(round(seconds * 240 / 12)):
            if self.beats:
                self.controller.on_heartbeat(self.now, LEASE)
            if self.jog is not None:
                self.controller.on_jog(Jog(stamp=self.now, lease=self.lease, linear=self.jog), self.now)
            super().run(12 / 240)
        return self

    def moved(self, seconds: float) -> np.ndarray:
        """Displacement [3] m of the tool in some time."""
        before = self.tool
        return self.run(seconds).tool - before


def test_a_persons_velocity_replaces_the_residual_and_is_a_share_of_the_tools_limit() -> None:
    cell = Cell().run(2.0)
    assert cell.moved(0.5)[1] > 0.02
    assert cell.applied == pytest.approx(PUSH)
    cell.jog = LEFT
    cell.run(1.0)
    assert cell.state() is State.ACTIVE
    assert cell.reasons() == (Reason.JOG,)
    assert cell.moved(0.2)[1] == pytest.approx(-0.2 * LIMIT_M_S, rel=0.1)
    assert cell.applied == pytest.approx([0.0, -LIMIT_M_S, 0.0, 0.0, 0.0, 0.0])  # what a dataset learns from


def test_policy_and_person_are_never_added_and_both_changes_are_ramps() -> None:
    cell = Cell().run(2.0)
    cell.jog = LEFT
    speeds = [(cell.run(12 / 240).applied[1], cell.controller.supervisor.person_acts) for _ in range(20)]
    assert all(speed >= 0.0 for speed, person in speeds if not person)
    persons = [speed for speed, person in speeds if person]
    assert all(-LIMIT_M_S <= speed <= 0.0 for speed in persons)
    assert sum(-LIMIT_M_S < speed < 0.0 for speed in persons) > 2  # it ramps up
    cell.jog = None
    cell.run(1.0)
    assert cell.controller.enable().ok
    gains = [cell.run(12 / 240).controller.gain for _ in range(8)]
    assert gains == sorted(gains)
    assert 0.0 < gains[0] < 1.0 == gains[-1]


def test_an_arm_that_is_let_go_rests_within_the_timeout_and_waits_for_a_person() -> None:
    cell = Cell().run(2.0)
    cell.jog = LEFT
    cell.run(1.0)
    cell.jog = None
    cell.run(SIMULATED.jog_timeout_s + 0.15)  # and its deceleration
    assert cell.speed < 1e-3
    assert cell.state() is State.HOLDING
    assert cell.reasons() == (Reason.WAITING_FOR_RESUME,)
    assert np.abs(cell.moved(2.0)).max() < 1e-4
    assert not cell.applied.any()
    assert cell.controller.enable() == (True, "resumed")
    assert cell.moved(1.0)[1] > 0.02
    assert cell.reasons() == ()


def test_the_arm_is_not_given_back_while_a_person_moves_it() -> None:
    cell = Cell().run(1.0)
    cell.jog = LEFT
    cell.run(0.5)
    answer = cell.controller.enable()
    assert not answer.ok
    assert "let go" in answer.message
    assert not cell.controller.step().ok
    assert cell.run(0.2).reasons() == (Reason.JOG,)


def test_a_person_moves_an_arm_whose_base_controller_would_move_it_and_whose_policy_is_dead() -> None:
    made_for = contract("servo")
    cell = Cell(made_for=made_for).run(1.0)
    cell.twist = None
    cell.camera_alive = False
    target = cell.tool + np.array([0.2, 0.2, 0.0])

    def perceive(seconds: float) -> np.ndarray:
        before = cell.tool
        for _ in range(round(seconds * 20)):
            cell.controller.on_object_pose(target, None, cell.now, cell.now)
            cell.run(0.05)
        return cell.tool - before

    assert perceive(0.5)[0] > 0.02
    cell.jog = LEFT
    perceive(0.6)
    moved = perceive(0.1)
    assert moved[1] < -0.01
    assert abs(moved[0]) < 0.1 * abs(moved[1])


def test_a_joint_space_policy_reports_the_persons_motion_as_joint_velocities() -> None:
    cell = Cell(made_for=joint_contract())
    cell.twist = np.zeros(7)
    cell.run(1.0)
    cell.jog = LEFT
    cell.run(1.0)
    assert cell.controller.as_twist(cell.applied)[1] == pytest.approx(-LIMIT_M_S, rel=1e-3)


def test_a_changed_scene_does_not_stop_a_person_and_a_dead_camera_does() -> None:
    cell = Cell().run(1.0)
    cell.shift = 1.0
    assert cell.run(1.0).state() is State.HOLDING
    cell.jog = LEFT
    cell.run(0.6)
    assert cell.moved(0.2)[1] < -0.01
    cell.camera_alive = False
    cell.run(0.6)
    assert cell.state() is State.HOLDING
    assert Reason.PERCEPT_STALE in cell.reasons()


@pytest.mark.parametrize("end", ["estop", "disable", "heartbeat", "joints"])
def test_stop_disable_heartbeat_and_robot_faults_end_a_takeover(end: str) -> None:
    cell = Cell(ControllerSettings(start_enabled=True, require_heartbeat=True)).run(1.0)
    cell.jog = LEFT
    cell.run(0.6)
    if end in ("estop", "disable"):
        getattr(cell.controller, end)()
    cell.beats, cell.joints_alive = end != "heartbeat", end != "joints"
    cell.run(1.2)
    assert cell.state() is (State.DISABLED if end == "disable" else State.STOPPED)
    assert cell.speed == 0.0
    assert not cell.controller.supervisor.person_has_arm
    assert np.abs(cell.moved(0.5)).max() == 0.0
    assert cell.controller.supervisor.counts[Reason.JOG_NOT_ENABLED] > 0


def test_jogs_of_another_page_old_jogs_and_repeated_ones_do_not_reach_the_arm() -> None:
    cell = Cell()
    cell.twist = np.zeros(6)
    cell.run(1.0)
    start, count = cell.tool, cell.controller.supervisor.counts
    cell.jog, cell.lease = LEFT, "page-2"
    cell.run(0.5)
    assert count[Reason.JOG_LEASE] == 10
    cell.lease, cell.beats, cell.jog = LEASE, False, None
    cell.run(0.6)
    cell.jog = LEFT
    cell.run(0.5)
    assert count[Reason.JOG_LEASE] == 20
    cell.beats, cell.jog = True, None
    cell.run(0.1)
    for stamp, reason in (
        (cell.now - 400_000_000, Reason.JOG_OLD),
        (cell.now + 10**9, Reason.JOG_FUTURE),
        (0, Reason.JOG_OLD),
    ):
        before = count.get(reason, 0)
        cell.controller.on_jog(Jog(stamp=stamp, lease=LEASE, linear=LEFT), cell.now)
        assert count[reason] == before + 1
    cell.run(0.5)
    assert cell.tool == pytest.approx(start, abs=1e-6)
    assert not cell.controller.supervisor.person_has_arm
    jog = Jog(stamp=cell.now, lease=LEASE, linear=LEFT)
    for _ in range(30):  # a message that is sent again and again does not keep the arm moving
        cell.controller.on_jog(jog, cell.now)
        cell.run(12 / 240)
    assert cell.state() is State.HOLDING
    assert count[Reason.JOG_OLD] > 25


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    st.one_of(
        st.text(max_size=60),
        st.recursive(st.none() | st.floats() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=4)).map(
            json.dumps
        ),
        st.fixed_dictionaries(
            {
                "stamp": st.one_of(st.integers(), st.floats()),
                "lease": st.one_of(st.text(max_size=80), st.none()),
                "linear": st.lists(st.floats(), max_size=4),
                "angular": st.lists(st.floats(), max_size=4),
            }
        ).map(json.dumps),
    )
)
def test_only_a_finite_jog_within_one_is_read_and_everything_else_is_one_sentence(text: str) -> None:
    try:
        jog = Jog.from_json(text)
    except ConfigurationError:
        return
    assert np.isfinite([*jog.linear, *jog.angular]).all()
    assert np.abs([*jog.linear, *jog.angular]).max() <= 1.0


@pytest.mark.parametrize(
    "text",
    [
        '{"stamp": 1, "lease": "a", "linear": [NaN, 0, 0]}',
        '{"stamp": 1, "lease": "a", "linear": [1.01, 0, 0]}',
        '{"stamp": 1, "lease": "a", "linear": [0, 0]}',
        '{"stamp": 1, "lease": "", "linear": [0, 0, 0]}',
        '{"stamp": -1, "lease": "a", "linear": [0, 0, 0]}',
        '{"stamp": 1, "lease": "a", "linear": [0, 0, 0], "gain": 1}',
        "[" * 100_000,
    ],
)
def test_a_jog_that_is_not_one_of_ours_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="operator/jog"):
        Jog.from_json(text)
