"""Finds why an episode failed, judged by the simulator's true state and by the safety controller's reasons."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import cv2
import numpy as np

from rlfp_ros.contract import Bundle
from rlfp_ros.control.safety.verdict import Reason, State
from rlfp_ros.evaluation.rollout import Rollout, Watch
from rlfp_ros.perception.encoder import Percept
from rlfp_ros.perception.images import write_image
from rlfp_ros.simulation.tasks.task import Task
from rlfp_ros.simulation.ticked_world import Outcome

LOST_M = 0.03  # median error of the perceived object above which perception caused the failure
HELD_SHARE = 0.2  # of the images, with the controller not ACTIVE or its gain 0, above which it caused the failure
NEAR_M = 0.05  # distance between tool and object that is close enough to grasp
LIFTED_M = 0.02  # rise of the object that counts as grasped
FALLEN_M = 0.03  # drop of the object below where it lay that counts as lost
NEAR_SUCCESS = 2.0  # final distance from success that counts as near, in units of the task's `success_distance`
PROGRESS = 0.1  # change of the distance from success that counts as progress, as a fraction of the first distance
LAST_IMAGES = 30  # images at the end in which an episode may still make progress
LIMIT_SLACK = 1.0 + 1e-6  # allows for rounding when sampled commands are compared with published limits


class FailureMode(StrEnum):
    """Cause of a failure; an episode has the first that applies."""

    DOMAIN_SHIFT = "domain_shift"  # the safety controller held the arm because images looked unlike training
    CONTROLLER = "controller"  # the safety controller held or stopped the arm for another reason
    LOST = "lost"  # the object fell
    PERCEPTION = "perception"  # the perceived position of the object was wrong
    NEAR_SUCCESS = "near_success"  # the time was over close to success
    GRASP = "grasp"  # the tool reached the object but did not lift it
    NO_PROGRESS = "no_progress"  # the distance from success hardly changed: nothing moved that matters
    WRONG_PLACE = "wrong_place"  # the episode ended far from success and did not come nearer any more
    TIMEOUT = "timeout"  # none of these, and the time was over


@dataclass
class Trace:
    """One episode with the true state."""

    seed: int
    outcome: Outcome | None = None
    object_errors_m: list[float] = field(default_factory=list)  # between perceived and true position, if perceived
    images: int = 0  # that were perceived
    distrusted: int = 0  # images with the controller not ACTIVE, or its gain at 0
    shifted: int = 0  # those of them for which the domain shift was a reason
    success_distance_m: float = 0.0  # distance from success that wins
    distances_m: list[float] = field(default_factory=list)  # from success, per image, if the task measures it
    fallen_m: float = 0.0  # largest drop of the object below its first position
    nearest_m: float = np.inf  # tool to object
    risen_m: float = 0.0  # height of the object above its first position
    limits_exceeded: int = 0  # ticks whose sampled command exceeded a published limit
    image: np.ndarray | None = None  # the last image, uint8 [H, W, 3] rgb

    def mode_of(self, grips: bool) -> FailureMode | None:
        """Return the cause of the failure, or None if the episode succeeded.

        Parameters
        ----------
        grips
            Whether the task grips the object.
        """
        assert self.outcome is not None
        if self.outcome.success:
            return None
        if self.distrusted / max(1, self.images) > HELD_SHARE:
            return FailureMode.DOMAIN_SHIFT if 2 * self.shifted > self.distrusted else FailureMode.CONTROLLER
        if self.fallen_m > FALLEN_M:
            return FailureMode.LOST
        if np.median(self.object_errors_m or [0.0]) > LOST_M:
            return FailureMode.PERCEPTION
        if self.distances_m and self.outcome.distance_m <= NEAR_SUCCESS * self.success_distance_m:
            return FailureMode.NEAR_SUCCESS
        if grips and self.nearest_m < NEAR_M and self.risen_m < LIFTED_M:
            return FailureMode.GRASP
        return self._mode_of_motion() if self.distances_m else FailureMode.TIMEOUT

    def _mode_of_motion(self) -> FailureMode:
        """Return the cause as the course of the distance from success shows it."""
        enough = PROGRESS * self.distances_m[0]
        if max(self.distances_m) - min(self.distances_m) < enough:
            return FailureMode.NO_PROGRESS
        recent = self.distances_m[-LAST_IMAGES:]
        return FailureMode.TIMEOUT if recent[0] - recent[-1] > enough else FailureMode.WRONG_PLACE


class TracedRollout:
    """Plays episodes like `Rollout`, with the same motion, and records traces."""

    def __init__(self, bundle: Bundle, rollout: Rollout) -> None:
        self.rollout = rollout
        self._T_base_camera = bundle.contract.camera.T_base_camera.matrix()
        self._limits = _Limits(rollout)
        self._trace = Trace(0)
        self._start_height = 0.0
        self._measures = measures_distance(rollout.world.task)

    def play(self, seed: int, watch: Watch = lambda percept: None) -> Trace:
        """Play one episode. `watch` is called with the percept of each image before the world continues."""
        task = self.rollout.world.task
        self._trace = trace = Trace(seed, success_distance_m=task.settings.success_distance)
        self._limits.exceeded = 0

        def watch_both(percept: Percept) -> None:
            self._watch(percept)
            watch(percept)

        trace.outcome = self.rollout.play(seed, watch_both).outcome
        trace.limits_exceeded = self._limits.exceeded
        trace.image = np.array(self.rollout.world.image)
        return trace

    def _watch(self, percept: Percept) -> None:
        trace, world, controller = self._trace, self.rollout.world, self.rollout.controller
        position, _ = world.task.object_pose(world)
        tool = world.tool_position()
        if not trace.images:
            self._start_height = float(position[2])
        if percept.object_pose is not None:
            perceived_position = percept.in_base(self._T_base_camera).position
            trace.object_errors_m.append(float(np.linalg.norm(perceived_position - position)))
        trace.images += 1
        waiting = trace.images <= 15  # the first half second: the gain is still ramping up
        distrusted = not waiting and (controller.state is not State.ACTIVE or controller.gain == 0.0)
        trace.distrusted += distrusted
        trace.shifted += distrusted and Reason.DOMAIN_SHIFT in controller.reasons
        if self._measures:
            trace.distances_m.append(world.task.distance(world))
        trace.fallen_m = max(trace.fallen_m, self._start_height - float(position[2]))
        trace.nearest_m = min(trace.nearest_m, float(np.linalg.norm(tool - position)))
        trace.risen_m = max(trace.risen_m, float(position[2]) - self._start_height)


def measures_distance(task: Task) -> bool:
    """Return whether `task.distance` measures how far success is; a task may define `success` alone."""
    return type(task).distance is not Task.distance or type(task).success is Task.success


class _Limits:
    """Counts ticks at which the setpoint of the arm's controller exceeds a published limit."""

    def __init__(self, rollout: Rollout) -> None:
        world = rollout.world
        limits = world.arm.limits
        self.exceeded = 0
        self._lower, self._upper = np.array(limits.lower), np.array(limits.upper)
        self._velocity, self._acceleration = np.array(limits.velocity), np.array(limits.acceleration)
        self._world = world
        rollout.deployment.on_tick = self._look

    def _look(self) -> None:
        position, velocity, acceleration = self._world.commanded()
        inside = (
            (position >= self._lower).all()
            and (position <= self._upper).all()
            and (np.abs(velocity) <= LIMIT_SLACK * self._velocity).all()
            and (np.abs(acceleration) <= LIMIT_SLACK * self._acceleration).all()
        )
        self.exceeded += not inside


def write_failure_images(traces: list[Trace], grips: bool, folder: Path, name: str) -> dict[str, str]:
    """Write an image of the first failure of each mode, `<folder>/<name>_<mode>.png`; return file names by mode."""
    written: dict[str, str] = {}
    for trace in traces:
        mode = trace.mode_of(grips)
        if mode is None or mode in written or trace.image is None:
            continue
        file = folder / f"{name}_{mode}.png"
        scale = max(1, 320 // trace.image.shape[1])
        image = cv2.resize(trace.image, None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST)
        write_image(file, image)
        written[mode.value] = file.name
    return written


def count_modes(traces: list[Trace], grips: bool) -> dict[str, int]:
    """Return how many episodes failed in each mode."""
    counted = Counter(mode for trace in traces if (mode := trace.mode_of(grips)) is not None)
    return {mode.value: counted.get(mode, 0) for mode in FailureMode}
