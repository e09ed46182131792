"""Time, frames, delays and the verdict: what an episode is, whichever simulator plays it.

`pybullet_world.PybulletWorld` and `mujoco_world.MujocoWorld` offer the same interface to the deployment loop, to tasks
and to nodes. `ArmWorld` is that interface; `TickedWorld` is the part of a world that knows no physics.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import deque
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from rlfp_ros.contract import CameraContract
from rlfp_ros.control.arm import Arm, JointState
from rlfp_ros.control.trajectory import Trajectory
from rlfp_ros.perception.camera import CameraModel
from rlfp_ros.simulation.camera import Frame
from rlfp_ros.simulation.randomization import Sample, stream
from rlfp_ros.simulation.tasks.task import Task
from rlfp_ros.simulation.tasks.task_scene import SceneBuilder, TaskScene
from rlfp_ros.simulation.trajectory_controller import TrajectoryController

TICKS_PER_SECOND = 240
DT = 1 / TICKS_PER_SECOND  # s
# Ticks are no whole number of ns: their stamps are 4,166,666 or 4,166,667 ns apart, in this cycle. Every episode starts
# at its beginning, or the same seed would differ by a nanosecond's motion.
STAMP_CYCLE = TICKS_PER_SECOND // math.gcd(TICKS_PER_SECOND, 1_000_000_000)


@dataclass(frozen=True)
class Outcome:
    """How an episode ended."""

    success: bool
    steps: int  # camera frames
    distance_m: float


class WorldCamera(Protocol):
    """What callers ask of a world's camera."""

    contract: CameraContract  # of the bundle


class ArmWorld(TaskScene, Protocol):
    """One arm, one task, one camera in any simulator."""

    arm: Arm
    task: Task
    tick: int
    origin_ns: int
    image: np.ndarray  # uint8 [H, W, 3] rgb, the picture just captured
    image_stamp_ns: int
    captured: bool
    ticks_per_frame: int
    frame_stride: int  # only every so many frames has a picture
    outcome: Outcome | None
    sample: Sample

    @property
    def camera(self) -> WorldCamera: ...

    @property
    def stamp_ns(self) -> int: ...

    @property
    def calibration(self) -> CameraModel | None: ...  # the live camera; None: the bundle's

    def stamp_of(self, tick: int) -> int: ...

    def reset(self, seed: int) -> Sample: ...

    def delivered_frames(self) -> list[Frame]: ...

    def joint_state(self) -> JointState: ...

    def picture(self) -> np.ndarray: ...

    def step(self, trajectory: Trajectory | None, gripper_width: float | None = None) -> None: ...

    def close(self) -> None: ...


class TickedWorld(TaskScene, SceneBuilder, ABC):
    """The clock of an episode. A simulator fills in what is abstract; every random number comes from the seed."""

    def __init__(self, arm: Arm, task: Task, rate_hz: float) -> None:
        self.arm, self.task = arm, task
        self.ticks_per_frame = round(TICKS_PER_SECOND / rate_hz)
        self.tick = 0
        self.origin_ns = 0  # stamp of tick 0
        self.outcome: Outcome | None = None
        self.judged = True  # False: the episode goes on whatever happens, as before a run is enabled
        self.captured = False
        self.extra_dropped_frames = 0.0  # probability, on top of the sample's: a fault
        self.frame_stride = 1  # only every so many frames has a picture: a renderer too slow for the camera's rate
        self._controller = TrajectoryController(len(arm.home))

    # --- the life of an episode -------------------------------------------------------------------------------------

    def reset(self, seed: int) -> Sample:
        """Start an episode. Time goes on by a few ticks: stamps never repeat and never jump back."""
        self.sample = self._draw(seed)
        self.tick += STAMP_CYCLE - self.tick % STAMP_CYCLE
        self._start_tick = self.tick
        self._frames, self._held_frames = 0, 0
        self.outcome = None
        self._pending: deque[tuple[int, Frame]] = deque()
        self._timing = stream(seed, "timing")
        self._dropping = 0  # frames that are still to be lost
        self._setpoints: deque[tuple[np.ndarray, np.ndarray]] = deque()
        self._command_delay = round(self.sample["command_latency"] * TICKS_PER_SECOND)
        self._measured: JointState | None = None
        self._prepare(seed)
        self._capture()
        return self.sample

    @property
    def stamp_ns(self) -> int:
        """Time of the current tick, ns."""
        return self.stamp_of(self.tick)

    def stamp_of(self, tick: int) -> int:
        """Time of a tick, ns."""
        return self.origin_ns + tick * 1_000_000_000 // TICKS_PER_SECOND

    def delivered_frames(self) -> list[Frame]:
        """Frames whose modelled latency ends at this tick, oldest first. Each is given once."""
        delivered = []
        while self._pending and self._pending[0][0] <= self.tick:
            delivered.append(self._pending.popleft()[1])
        return delivered

    def restamp_frames(self) -> None:
        """After `origin_ns` changed: the pictures on their way and the last one were taken at the present tick."""
        self._pending = deque((due, Frame(self.stamp_ns, frame.image)) for due, frame in self._pending)
        self.image_stamp_ns = self.stamp_ns
        self._measured = None

    def joint_state(self) -> JointState:
        """What the joint sensors say at this tick."""
        if self._measured is None:
            self._measured = self._measure()
        return self._measured

    def step(self, trajectory: Trajectory | None, gripper_width: float | None = None) -> None:
        """Give the command of this tick (None: the one before goes on) and move to the next tick.

        `captured` says whether this step took a picture (then in `image`), `outcome` whether the episode ended with it.
        """
        if trajectory is not None:
            self._controller.accept(trajectory, self.stamp_ns)
        position, velocity, _ = self._controller.sample(self.stamp_of(self.tick + 1))
        self._setpoints.append((position, velocity))
        setpoint = self._setpoints.popleft() if len(self._setpoints) > self._command_delay else None
        self._simulate(setpoint, gripper_width)
        self.tick += 1
        self._measured = None
        self.captured = False
        into_frame = (self.tick - self._start_tick) % self.ticks_per_frame
        if into_frame == 0:
            self._judge()
            self._capture()
        else:
            self._expose(self.ticks_per_frame - into_frame)

    # --- what a simulator fills in ----------------------------------------------------------------------------------

    @abstractmethod
    def _draw(self, seed: int) -> Sample:
        """What the episode of this seed is like, with command_latency, camera_latency and _jitter, dropped_frames."""

    @abstractmethod
    def _prepare(self, seed: int) -> None:
        """Put arm, task and appearance to the start of the episode of `self.sample`."""

    @abstractmethod
    def _simulate(self, setpoint: tuple[np.ndarray, np.ndarray] | None, gripper_width: float | None) -> None:
        """DT of physics, with a new setpoint ([J] rad, [J] rad/s) for the arm or the one before."""

    @abstractmethod
    def _measure(self) -> JointState:
        """The joints now."""

    @abstractmethod
    def picture(self) -> np.ndarray:
        """A picture of the world as it stands, uint8 [H, W, 3] rgb; outside the camera's schedule."""

    def _photograph(self) -> np.ndarray:
        """The picture that the camera takes at the end of a frame, uint8 [H, W, 3] rgb."""
        return self.picture()

    def _expose(self, ticks_left: int) -> None:
        """A tick within a frame, so many before its end, for cameras that look longer than a moment."""

    # --- the camera's schedule --------------------------------------------------------------------------------------

    def _judge(self) -> None:
        """Count a frame and decide whether the episode ended with it."""
        self._frames += 1
        if not self.judged:
            return
        settings, frame_s = self.task.settings, self.ticks_per_frame * DT
        self._held_frames = self._held_frames + 1 if self.task.success(self) else 0
        success = self._held_frames * frame_s >= settings.hold and self._held_frames > 0
        if success or self._frames * frame_s >= settings.time_limit:
            self.outcome = Outcome(success, self._frames, float(self.task.distance(self)))

    def _capture(self) -> None:
        """Take a picture, unless this frame is dropped, and schedule its delivery."""
        lost = self.sample["dropped_frames"] + self.extra_dropped_frames
        dropped = self._timing.uniform() < lost and self._frames > 0
        if self._dropping > 0:
            dropped, self._dropping = True, self._dropping - 1
        elif dropped:
            self._dropping = round(self.sample["dropped_run"]) - 1
        latency = self.sample["camera_latency"] + abs(self._timing.normal()) * self.sample["camera_jitter"]
        self.captured = not dropped and self._frames % self.frame_stride == 0
        if not self.captured:
            return
        self.image, self.image_stamp_ns = self._photograph(), self.stamp_ns
        due = self.tick + max(1, round(latency * TICKS_PER_SECOND))
        if self._pending:
            due = max(due, self._pending[-1][0] + 1)  # a driver delivers in order
        self._pending.append((due, Frame(self.stamp_ns, self.image)))
