"""Replays a recorded run of the real graph through the controller: the camera dies and returns, then an e-stop.

`test/data/camera_dead_then_estop.mcap` holds what the node heard (joint states, residuals, percepts, e-stop) and said.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from rlfp_ros.contract import load_bundle
from rlfp_ros.control.arm import JointState, load_arm
from rlfp_ros.control.residual_controller import ControllerSettings, ResidualController, State
from rlfp_ros.control.trajectory import Residual
from rlfp_ros.episode import Episode, Phase
from rlfp_ros.recording.reader import BagReader

BAG = Path(__file__).parent / "data" / "camera_dead_then_estop.mcap"
ARM = load_arm("panda")
MS = 1e-6  # of a ns
TICK = 1_000_000_000 // 240  # ns


@dataclass
class Run:
    """What happened, by the time at which it was recorded (ns)."""

    states: list[tuple[int, State, float, float]] = field(default_factory=list)  # state, gain, largest speed told
    poses: list[int] = field(default_factory=list)
    residuals: list[int] = field(default_factory=list)
    estop: int = 0

    def first(self, since: int, condition: Callable[[State, float, float], bool]) -> float:
        """ms from `since` to the first tick of which it holds."""
        return next(
            (at - since) * MS for at, state, gain, speed in self.states if at >= since and condition(state, gain, speed)
        )


@pytest.fixture(scope="module")
def run(tiny_bundle: Path) -> Run:
    contract = load_bundle(tiny_bundle).contract
    controller = ResidualController(ARM, contract, ControllerSettings(start_enabled=True))
    result, tick_at, number, origin = Run(), 0, 0, 0  # ns of the next tick; ticks since the stamp `origin`
    newest = 0  # stamp of the joints
    with BagReader(BAG) as bag:
        for message in bag.messages():
            now, content, topic = message.log_time_ns, bag.decode(message), message.topic.lstrip("/")
            while 0 < tick_at <= now:  # the node's timer; its stamps do not run away from the clock
                if origin + (number + 1) * TICK <= newest + 2 * TICK:
                    number += 1
                command = controller.tick(origin + number * TICK, tick_at)
                speed = 0.0 if command.trajectory is None else float(np.abs(command.trajectory.velocities[0]).max())
                result.states.append((tick_at, controller.state, controller.gain, speed))
                tick_at += TICK
            stamp = 0
            if hasattr(content, "header"):
                stamp = content.header.stamp.sec * 1_000_000_000 + content.header.stamp.nanosec
            if topic == "episode":
                episode = Episode.from_json(content.data)
                if episode.phase is Phase.RESET:
                    controller.on_episode_reset(episode.stamp)
                    result = Run()
            elif topic == "policy/residual":
                linear = content.twist.linear
                result.residuals.append(now)
                twist = np.array((linear.x, linear.y, linear.z, 0.0, 0.0, 0.0))
                controller.on_residual(Residual(stamp, np.clip(twist, -0.1, 0.1), 0.04), now)
            elif topic == "perception/object_pose":
                place = content.pose.pose.position
                result.poses.append(now)
                controller.on_object_pose(np.array((place.x, place.y, place.z)), None, stamp, now)
            elif topic == "safety/estop":
                result.estop = now
                controller.estop()
            elif topic == "joint_states":
                index = [list(content.name).index(name) for name in ARM.joint_names]
                measured = content.position[index], content.velocity[index], np.zeros(len(index))
                controller.on_joint_state(JointState(stamp, *measured, 0.04), now)
                newest = stamp
                if not tick_at or stamp - origin - number * TICK > 3 * TICK:
                    origin, number, tick_at = stamp, 0, max(tick_at, now)
    return result


@pytest.fixture(scope="module")
def dark(run: Run) -> tuple[int, int]:
    """When the last pose before the camera's death came, and the first after it."""
    gap = int(np.argmax(np.diff(run.poses)))
    return run.poses[gap], run.poses[gap + 1]


def test_there_is_no_false_stop_before_the_estop(run: Run, dark: tuple[int, int]) -> None:
    before = [(state, gain) for at, state, gain, _ in run.states if at < run.estop]
    assert len(before) > 200
    assert State.STOPPED not in {state for state, _ in before}
    lit = [state for at, state, _, _ in run.states if at < dark[0]]
    assert set(lit[lit.index(State.ACTIVE) :]) == {State.ACTIVE}


def test_the_dead_camera_ends_the_residual_within_150_ms_and_then_holds(run: Run, dark: tuple[int, int]) -> None:
    assert run.first(dark[0], lambda state, gain, speed: gain == 0.0) <= 150.0
    assert run.first(dark[0], lambda state, gain, speed: state is State.HOLDING) <= 280.0
    assert run.first(dark[0] + 400_000_000, lambda state, gain, speed: speed < 1e-3) <= 50.0


def test_the_first_residual_after_it_acts_within_300_ms(run: Run, dark: tuple[int, int]) -> None:
    back = next(at for at in run.residuals if at >= dark[1])
    assert run.first(back, lambda state, gain, speed: gain > 0.0) <= 300.0


def test_the_estop_brings_the_arm_to_rest_and_latches(run: Run) -> None:
    assert run.first(run.estop, lambda state, gain, speed: state is State.STOPPED) <= 20.0
    assert run.first(run.estop, lambda state, gain, speed: speed == 0.0) <= 250.0
    assert run.states[-1][1] is State.STOPPED
