"""Tests of the outputs `forward_position` and `forward_velocity`, whose arm keeps the last command."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
from controller_rig import ARM, Rig

from rlfp_ros.control.residual_controller import ControllerSettings, State


@pytest.mark.parametrize("happens", ["estop", "error", "frozen_clock", "missed_ticks", "disable", "episode"])
@pytest.mark.parametrize("output", ["forward_position", "forward_velocity"])
def test_forward_commands_keep_the_limits_and_play_every_stop_to_its_end(
    output: Literal["forward_position", "forward_velocity"], happens: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a controller keeps its last command, so every command must be valid by itself."""
    rig = Rig(ControllerSettings(start_enabled=True, output=output)).run(1.0)
    assert rig.speed > 0.05
    if happens == "estop":
        rig.controller.estop()
    elif happens == "disable":
        rig.controller.disable()
    elif happens == "error":
        monkeypatch.setattr(rig.controller.base, "wanted", lambda *_: 1 / 0)
    elif happens == "missed_ticks":
        rig.tick += 20
    elif happens == "episode":
        rig.controller.on_episode_reset(rig.now + 2_000_000_000)  # no joint state is of the new one yet
    if happens == "frozen_clock":
        stamp, steady = rig.now, rig.now
        for _ in range(240):
            steady += 1_000_000_000 // 240
            rig.commands.append(rig.controller.tick(stamp, steady))
    else:
        rig.run(1.0)
    told = [command.trajectory for command in rig.commands if command.trajectory is not None]
    moving = happens == "missed_ticks"
    states = {"missed_ticks": State.ACTIVE, "disable": State.DISABLED, "episode": State.HOLDING}
    assert rig.state() is states.get(happens, State.STOPPED)
    assert moving or not told[-1].velocities[0].any()
    tolerance = 1 + 1e-6
    if output == "forward_position":
        positions = np.array([trajectory.positions[0] for trajectory in told])
        velocities = 240 * np.diff(positions, axis=0)
    else:
        velocities = np.array([trajectory.velocities[0] for trajectory in told])
    accelerations = 240 * np.diff(velocities, axis=0)
    assert (np.abs(velocities) <= tolerance * np.array(ARM.limits.velocity)).all()
    assert (np.abs(accelerations) <= tolerance * np.array(ARM.limits.acceleration)).all()
    assert (np.abs(240 * np.diff(accelerations, axis=0)) <= tolerance * np.array(ARM.limits.jerk)).all()


def test_under_a_forward_controller_a_new_episode_starts_once_the_arm_is_at_rest() -> None:
    rig = Rig(ControllerSettings(start_enabled=True, output="forward_velocity")).run(1.0)
    rig.controller.on_episode_reset(rig.now)
    first = len(rig.commands)
    rig.run(2.0)
    speeds = [np.abs(command.trajectory.velocities[0]).max() for command in rig.commands[first:] if command.trajectory]
    assert min(speeds) == 0.0
    assert rig.state() is State.ACTIVE
    assert rig.speed > 0.05
