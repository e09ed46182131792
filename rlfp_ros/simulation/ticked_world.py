"""Time, frames, delays and outcome of an episode, in any simulator.

`pybullet_world.PybulletWorld` and `mujoco_world.MujocoWorld` have the same interface for the deployment loop, tasks and
nodes. `ArmWorld` is that interface; `TickedWorld` is the part of a world that does not depend on the physics.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import deque
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import numpy as np

from rlfp_ros.contract import CameraContract
from rlfp_ros.control.arm import Arm, JointState
from rlfp_ros.control.trajectory import Trajectory
from rlfp_ros.control.trajectory_controller import TrajectoryController
from rlfp_ros.perception.camera import CameraModel
from rlfp_ros.simulation.camera import Frame
from rlfp_ros.simulation.randomization import Sample, stream
from rlfp_ros.simulation.tasks.task import Task
from rlfp_ros.simulation.tasks.task_scene import SceneBuilder, TaskScene

TICKS_PER_SECOND = 240
DT = 1 / TICKS_PER_SECOND  # s
# A tick is not a whole number of ns: stamps are 4,166,666 or 4,166,667 ns apart, in this cycle. Every episode starts
# with a new cycle, or the motion of the same seed would differ by rounding.
STAMP_CYCLE = TICKS_PER_SECOND // math.gcd(TICKS_PER_SECOND, 1_000_000_000)


@dataclass(frozen=True)
class Outcome:
    """How an episode ended."""

    success: bool
    steps: int  # camera frames
    distance_m: float


@dataclass
class EpisodeState:
    """The state of an episode, without the physics and the arm's controller."""

    start_tick: int
    timing: np.random.Generator  # of dropped frames and latencies
    sensors: np.random.Generator  # of the joints' noise
    frames: int = 0  # camera frames since the start
    held_frames: int = 0  # frames in a row with success
    dropping: int = 0  # number of coming frames that will be lost
    outcome: Outcome | None = None
    captured: bool = False  # this tick took an image
    image: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 3), np.uint8))  # the newest
    image_stamp_ns: int = 0
    measured: JointState | None = None  # at this tick, if it was requested
    pending: deque[tuple[int, Frame]] = field(default_factory=deque)  # tick of delivery, and the frame
    setpoints: deque[tuple[np.ndarray, np.ndarray]] = field(default_factory=deque)  # not yet at the motors
    exposures: list[np.ndarray] = field(default_factory=list)  # images of this frame's exposure time, before its end


class WorldCamera(Protocol):
    """The interface of a world's camera."""

    contract: CameraContract  # of the bundle
    T_base_camera: np.ndarray  # [4, 4], the camera's true pose in this episode, from `reset` on


class ArmWorld(TaskScene, Protocol):
    """One arm, one task, one camera in any simulator."""

    arm: Arm
    task: Task
    tick: int
    origin_ns: int
    judged: bool  # if False, nothing ends the episode
    ticks_per_frame: int
    frame_stride: int  # only every so many frames has an image
    sample: Sample

    @property
    def camera(self) -> WorldCamera: ...

    @property
    def image(self) -> np.ndarray: ...  # the newest, uint8 [H, W, 3] rgb

    @property
    def image_stamp_ns(self) -> int: ...

    @property
    def captured(self) -> bool: ...

    @property
    def outcome(self) -> Outcome | None: ...

    @property
    def stamp_ns(self) -> int: ...

    @property
    def calibration(self) -> CameraModel | None: ...  # the live camera; None: the bundle's

    def stamp_of(self, tick: int) -> int: ...

    def reset(self, seed: int) -> Sample: ...

    def delivered_frames(self) -> list[Frame]: ...

    def joint_state(self) -> JointState: ...

    def commanded(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]: ...

    def render(self) -> np.ndarray: ...

    def step(self, trajectory: Trajectory | None, gripper_width: float | None = None) -> None: ...

    def close(self) -> None: ...


class TickedWorld(TaskScene, SceneBuilder, ABC):
    """The clock of an episode. A simulator implements the abstract methods; all random numbers come from the seed."""

    sensor_stream: ClassVar[str]  # name of the random stream of the joints' noise

    def __init__(self, arm: Arm, task: Task, rate_hz: float) -> None:
        self.arm, self.task = arm, task
        self.ticks_per_frame = round(TICKS_PER_SECOND / rate_hz)
        self.tick = 0
        self.origin_ns = 0  # stamp of tick 0
        self.judged = True  # if False, nothing ends the episode, as before a run is enabled
        self.extra_dropped_frames = 0.0  # probability, in addition to the sample's; a simulated fault
        self.frame_stride = 1  # only every n-th frame has an image, for a renderer slower than the camera's rate
        self.arm_controller = TrajectoryController(len(arm.home))
        self.episode_state = self._new_episode(0)

    def _new_episode(self, seed: int) -> EpisodeState:
        return EpisodeState(self.tick, stream(seed, "timing"), stream(seed, self.sensor_stream))

    # --- the life of an episode -------------------------------------------------------------------------------------

    def reset(self, seed: int) -> Sample:
        """Start an episode. Time continues by a few ticks: stamps never repeat and never jump back."""
        self.sample = self._draw(seed)
        self.tick += STAMP_CYCLE - self.tick % STAMP_CYCLE
        self.episode_state = self._new_episode(seed)
        self._command_delay = round(self.sample["command_latency"] * TICKS_PER_SECOND)
        self._prepare(seed)
        self._capture()
        return self.sample

    @property
    def outcome(self) -> Outcome | None:
        """The outcome of the episode, or None while it runs."""
        return self.episode_state.outcome

    @property
    def captured(self) -> bool:
        """Whether the last step took an image."""
        return self.episode_state.captured

    @property
    def image(self) -> np.ndarray:
        """The newest image, uint8 [H, W, 3] rgb."""
        return self.episode_state.image

    @property
    def image_stamp_ns(self) -> int:
        """Time of the newest image, ns."""
        return self.episode_state.image_stamp_ns

    @property
    def stamp_ns(self) -> int:
        """Time of the current tick, ns."""
        return self.stamp_of(self.tick)

    def stamp_of(self, tick: int) -> int:
        """Time of a tick, ns."""
        return self.origin_ns + tick * 1_000_000_000 // TICKS_PER_SECOND

    def delivered_frames(self) -> list[Frame]:
        """Return the frames whose modelled latency ends at this tick, oldest first, each once."""
        delivered = []
        while self.episode_state.pending and self.episode_state.pending[0][0] <= self.tick:
            delivered.append(self.episode_state.pending.popleft()[1])
        return delivered

    def restamp_frames(self) -> None:
        """Set the stamps of pending images and of the newest one to the present tick, after `origin_ns` changed."""
        self.episode_state.pending = deque(
            (due, Frame(self.stamp_ns, frame.image)) for due, frame in self.episode_state.pending
        )
        self.episode_state.image_stamp_ns = self.stamp_ns
        self.episode_state.measured = None

    def joint_state(self) -> JointState:
        """Return the joint measurement of this tick."""
        if self.episode_state.measured is None:
            self.episode_state.measured = self._measure()
        return self.episode_state.measured

    def commanded(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the commanded positions, velocities and accelerations at this tick, each [J]."""
        return self.arm_controller.sample(self.stamp_ns)

    def step(self, trajectory: Trajectory | None, gripper_width: float | None = None) -> None:
        """Apply the command of this tick (None: the last one continues) and move to the next tick.

        `captured` is true if this step took an image, which is then in `image`; `outcome` is set if the episode ended.
        """
        if trajectory is not None:
            self.arm_controller.accept(trajectory, self.stamp_ns)
        position, velocity, _ = self.arm_controller.sample(self.stamp_of(self.tick + 1))
        episode = self.episode_state
        episode.setpoints.append((position, velocity))
        setpoint = episode.setpoints.popleft() if len(episode.setpoints) > self._command_delay else None
        self._simulate(setpoint, gripper_width)
        self.tick += 1
        episode.measured = None
        episode.captured = False
        into_frame = (self.tick - episode.start_tick) % self.ticks_per_frame
        if into_frame == 0:
            self._judge()
            self._capture()
        else:
            self._expose(self.ticks_per_frame - into_frame)

    # --- to be defined by a simulator -------------------------------------------------------------------------------

    @abstractmethod
    def _draw(self, seed: int) -> Sample:
        """Sample the episode: command_latency, camera_latency, camera_jitter, dropped_frames, dropped_run, others."""

    @abstractmethod
    def _prepare(self, seed: int) -> None:
        """Set arm, task and appearance to the start of the episode of `self.sample`."""

    @abstractmethod
    def _simulate(self, setpoint: tuple[np.ndarray, np.ndarray] | None, gripper_width: float | None) -> None:
        """Run one tick of physics with a setpoint ([J] rad, [J] rad/s) for the arm; None keeps the last one."""

    @abstractmethod
    def _measure(self) -> JointState:
        """Measure the joints."""

    @abstractmethod
    def render(self) -> np.ndarray:
        """Return an image of the present state, uint8 [H, W, 3] rgb, outside the camera's schedule."""

    def _photograph(self) -> np.ndarray:
        """Return the image that the camera takes at the end of a frame, uint8 [H, W, 3] rgb."""
        return self.render()

    def _expose(self, ticks_left: int) -> None:
        """Expose the camera to the tick `ticks_left` before the end of a frame, for cameras with an exposure time."""

    def run_on(self) -> None:
        """Continue after the episode's end without judging, because an arm that is not enabled plays no episode."""
        self.judged = False
        self.episode_state.outcome = None

    # --- the camera's schedule --------------------------------------------------------------------------------------

    def _judge(self) -> None:
        """Count a frame and decide whether the episode ended with it."""
        episode = self.episode_state
        episode.frames += 1
        if not self.judged:
            return
        settings, frame_s = self.task.settings, self.ticks_per_frame * DT
        episode.held_frames = episode.held_frames + 1 if self.task.success(self) else 0
        success = episode.held_frames * frame_s >= settings.hold and episode.held_frames > 0
        if success or episode.frames * frame_s >= settings.time_limit:
            episode.outcome = Outcome(success, episode.frames, float(self.task.distance(self)))

    def _capture(self) -> None:
        """Take an image, unless this frame is dropped, and schedule its delivery."""
        episode = self.episode_state
        lost = self.sample["dropped_frames"] + self.extra_dropped_frames
        dropped = episode.timing.uniform() < lost and episode.frames > 0
        if episode.dropping > 0:
            dropped, episode.dropping = True, episode.dropping - 1
        elif dropped:
            episode.dropping = round(self.sample["dropped_run"]) - 1
        latency = self.sample["camera_latency"] + abs(episode.timing.normal()) * self.sample["camera_jitter"]
        episode.captured = not dropped and episode.frames % self.frame_stride == 0
        if not episode.captured:
            return
        episode.image, episode.image_stamp_ns = self._photograph(), self.stamp_ns
        due = self.tick + max(1, round(latency * TICKS_PER_SECOND))
        if episode.pending:
            due = max(due, episode.pending[-1][0] + 1)  # a driver delivers in order
        episode.pending.append((due, Frame(self.stamp_ns, episode.image)))
