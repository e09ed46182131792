"""Tests of the identification motion: alone, in simulation and in the graph of a real arm with mock hardware."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from rlfp_ros.contract import ActionContract, BaseControllerContract
from rlfp_ros.control.arm import Arm, JointState, load_arm
from rlfp_ros.control.controller_settings import ControllerSettings
from rlfp_ros.control.residual_controller import ResidualController, State
from rlfp_ros.control.trajectory import Residual
from rlfp_ros.graph.real_arm import REAL_ARM
from rlfp_ros.graph.resolution import resolve
from rlfp_ros.graph.sim import SIM
from rlfp_ros.schema import ConfigurationError

RATE = 240
ACTION = ActionContract(components=("vx",), scale=(0.1,), units=("m/s",), rate_hz=30.0)
HOLD = SimpleNamespace(action=ACTION, base_controller=BaseControllerContract(name="hold"))
DURATION_S = 8.0
CHOICE = {"base_controller": "excite", "base_parameters": f"{{duration_s: {DURATION_S:g}}}"}


def excited(
    arm: Arm, start: np.ndarray, seconds: float = DURATION_S + 4, **choice: str
) -> tuple[np.ndarray, ResidualController]:
    """Play the motion on an arm that follows perfectly; return the commanded joints [N, J] and the controller."""
    settings = ControllerSettings(start_enabled=True, **{**CHOICE, **choice})
    controller, joints, commanded = ResidualController(arm, HOLD, settings), start, []
    zeros = np.zeros(len(start))
    for tick in range(round(seconds * RATE)):
        now = tick * 1_000_000_000 // RATE
        controller.on_joint_state(JointState(now, joints, zeros, zeros, 0.02), now)
        if tick % 8 == 0:  # a policy that asks for its largest motion all the time
            controller.admit(Residual(now, np.array([0.1, 0, 0, 0, 0, 0])), now)
        controller.tick(now, now)
        assert controller.state is State.ACTIVE or tick < 30, controller.reasons
        joints = controller.commanded if controller.state is State.ACTIVE else joints
        commanded.append(joints)
    return np.array(commanded), controller


@pytest.mark.parametrize("name", ["panda", "so101", "ur5e"])
def test_the_motion_keeps_away_from_every_limit_and_ends_at_rest_at_home(name: str) -> None:
    arm = load_arm(name)
    start = np.array(arm.home) + np.random.default_rng(1).uniform(-0.04, 0.04, len(arm.home))
    joints, controller = excited(arm, start)
    counts, limits = controller.filter.counts, arm.limits
    assert counts.braked == counts.stop_followed == counts.limited == 0
    assert not counts.refused
    assert ((joints > limits.lower) & (joints < limits.upper)).all()
    places = np.array([controller.kinematics.tool_position(posture) for posture in joints[::8]])
    tool = arm.tool_limits
    assert ((places > tool.lower) & (places < tool.upper)).all()
    floor, home = tool.lower[2], controller.kinematics.tool_position(np.array(arm.home))[2]
    assert places[:, 2].min() > (floor + home) / 2
    assert np.abs(joints[-1] - arm.home).max() < 1e-3
    assert np.abs(joints[-1] - joints[-10]).max() < 1e-6
    assert np.ptp(joints[480:], axis=0).min() > 0.06
    # The gain stays 0, whatever is asked for.
    controller.set_residual_gain(1.0)
    controller.tick(10**11, 10**11)
    assert controller.gain == 0.0


def test_a_seed_gives_the_same_motion_and_another_seed_another() -> None:
    arm = load_arm("so101")
    home = np.array(arm.home)
    first, again = (excited(arm, home, 3.0)[0] for _ in range(2))
    other, _ = excited(arm, home, 3.0, base_parameters="{duration_s: 8, seed: 1}")
    assert (first == again).all()
    assert np.abs(first - other).max() > 0.02


def test_a_motion_that_is_interrupted_by_a_hold_is_played_to_its_end() -> None:
    arm = load_arm("so101")
    settings = ControllerSettings(start_enabled=True, **CHOICE)
    controller, zeros, joints = ResidualController(arm, HOLD, settings), np.zeros(5), np.array(arm.home)
    held, away = 0, []
    for tick in range(round((DURATION_S + 6) * RATE)):
        now = tick * 1_000_000_000 // RATE
        controller.on_joint_state(JointState(now, joints, zeros, zeros, 0.02), now)
        if tick % 8 == 0:
            dark = 600 < tick < 900
            controller.on_scene(1.0 if dark else 0.0, now, now)
        controller.tick(now, now)
        held += controller.state is State.HOLDING
        joints = controller.commanded if tick > 10 else joints
        away.append(np.abs(joints - arm.home).max())
    assert held > 200
    assert max(away[round((DURATION_S + 0.2) * RATE) :]) > 0.02  # without the hold it has ended by then
    assert controller.state is State.ACTIVE
    assert np.abs(joints - arm.home).max() < 1e-3


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"base_controller": "dance"}, "base_controller is 'dance', expected one of"),
        ({"base_parameters": "{duration_s: 3}"}, "base_parameters: duration_s is 3"),
        ({"base_parameters": "{speed: 3}"}, "base_parameters: speed is not a known field"),
        ({"base_parameters": "3 s"}, "base_parameters is '3 s', expected names and values"),
        ({"base_parameters": "{low_hz: 1.5, high_hz: 1}"}, "low_hz is 1.5, expected less than high_hz"),
        ({"base_controller": ""}, "without a base_controller"),
    ],
)
def test_a_wrong_choice_is_refused_in_a_sentence(choice: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        ResidualController(load_arm("so101"), HOLD, ControllerSettings(**{**CHOICE, **choice}))


def test_both_graphs_play_it_without_policy_and_episodes() -> None:
    for which, world, option in ((SIM, "simulator", "judged"), (REAL_ARM, "arm_twin", "referee")):
        overrides = {"use_mock_hardware": True} if which is REAL_ARM else {}
        for chosen in (True, False):
            resolved = resolve(which, {**overrides, **(CHOICE if chosen else {})}, check=False)
            parameters = {process.name: process.parameters for process in resolved.processes}
            assert parameters[world][option] is not chosen
            assert (CHOICE.items() <= parameters["residual_controller"].items()) is chosen


# Only the operator stops the arm here, not a busy machine.
PATIENT = """
checklist:
  ros__parameters: {home_tolerance_rad: 3.0, camera_max_age_s: 4.0, joint_max_age_s: 0.7}
residual_controller:
  ros__parameters: {joint_state_max_age_s: 0.8, joint_state_timeout_s: 0.8, percept_timeout_s: 5.0,
                    percept_max_age_s: 5.0, clock_jump_s: 2.0, heartbeat_timeout_s: 3.0}
"""


@pytest.mark.graph
@pytest.mark.slow
def test_the_graph_of_a_real_arm_plays_the_motion_and_records_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("rclpy")
    from rlfp_ros.graph.dds import environment
    from rlfp_ros.graph.domains import reserved_domain
    from rlfp_ros.graph.runner import Runner
    from rlfp_ros.nodes.graph_listener import GraphListener
    from rlfp_ros.recording.reader import BagReader

    (tmp_path / "patient.yaml").write_text(PATIENT)
    with reserved_domain() as domain:
        resolved = resolve(
            REAL_ARM,
            {
                **CHOICE,
                "use_mock_hardware": True,
                "transport": "local",
                "domain_id": str(domain),
                "params_file": str(tmp_path / "patient.yaml"),
                "record": str(tmp_path / "bags"),
            },
        )
        for name, value in environment("local", str(domain)).items():
            monkeypatch.setenv(name, value)
        with (
            GraphListener(lambda episode: None, always=True, operates=True) as observer,
            Runner(resolved, console="quiet", handle_signals=False) as runner,
        ):
            end, heard = time.monotonic() + 120, observer.current
            assert heard is not None
            while time.monotonic() < end and len(heard.commands) < (DURATION_S + 3) * RATE:
                observer.spin(0.2)
                assert runner.poll() is None, runner.failure
    arm = load_arm("panda")
    with BagReader(tmp_path / "bags" / "run") as bag:
        topic = "/" + arm.topics.joint_trajectory
        commands = [bag.decode(message) for message in bag.messages({topic})]
    first = np.array([command.points[0].positions for command in commands])
    assert observer.resets == 0
    assert np.ptp(first, axis=0).min() > 0.05
    assert np.abs(first[-1] - arm.home).max() < 2e-3
