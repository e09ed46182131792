"""The state of a PyBullet world at one tick, from which an episode continues."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from rlfp_ros.control.trajectory_controller import TrajectoryController
from rlfp_ros.simulation.camera import Electronics
from rlfp_ros.simulation.randomization import Sample
from rlfp_ros.simulation.ticked_world import EpisodeState

Setpoint = tuple[np.ndarray, np.ndarray]  # [J] rad and [J] rad/s
TickCommand = tuple[Setpoint | None, float | None]  # input of the motors in one tick: a setpoint and a width in m


@dataclass(frozen=True)
class WorldState:
    """A world at one tick, from `PybulletWorld.save`: plain data, for any world of the same make.

    PyBullet's own snapshots lose the order of contacts, so that a restored world drifts by rounding. This holds the
    commands to the physics server instead.
    """

    sample: Sample
    positions: np.ndarray | None  # [J] rad that the episode was reset to
    tick: int
    commands: tuple[TickCommand, ...]  # one per tick
    episode: EpisodeState
    controller: TrajectoryController
    electronics: Electronics
    task: Any  # the task's `state`
