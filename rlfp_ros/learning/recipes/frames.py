"""Labelled images for perception training, rendered in a separate process while the encoder learns.

Frame i depends only on `seed` and i. It is kept in a memory-mapped file that trainer and renderer share, so that
timing never changes the result of a training, and a training resumes without rendering again.
"""

from __future__ import annotations

import json
import multiprocessing
import signal
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np

from rlfp_ros.contract import TWIST_COMPONENTS, ActionContract, CameraContract
from rlfp_ros.control.kinematics import Kinematics, rotation_matrix
from rlfp_ros.control.policy import ObservationContract, Observer
from rlfp_ros.files import RESUME, reserve, write_whole
from rlfp_ros.learning.cell import Cell
from rlfp_ros.learning.runs import processes
from rlfp_ros.simulation.postures import arrange, random_posture, tool_at
from rlfp_ros.simulation.pybullet_world import PybulletWorld
from rlfp_ros.simulation.randomization import stream

JOINT_SPEED = 0.15  # rad/s, standard deviation of random joint velocities, so that a policy learns to ignore them
POSTURES_PER_EPISODE = 3  # images with the same appearance, because randomising a scene takes as long as rendering
MOVE_S = 4 / 30  # s, duration of the action between two images of a sequence: long enough to be visible
DEPTH_CELL_PX = 4  # px, side of the cells over which depth maps are averaged
POOL_FRAMES = 600  # images before the textures are exchanged, so that the encoder does not memorise 48 of them


@dataclass(frozen=True)
class FrameSource:
    """The images to render."""

    cell: Cell
    seed: int  # of the first image
    count: int
    # Whether images of one appearance are consecutive, with an action between them and the data for objectives on
    # sequences. Otherwise each image shows an independent posture.
    sequences: bool = False
    teacher: bool = False  # whether the action of the task's teacher is recorded
    other_camera: CameraContract | None = None  # replaces the cell's camera

    @property
    def camera(self) -> CameraContract:
        """The nominal camera."""
        return self.other_camera or self.cell.camera


class Frames:
    """`count` labelled images that become available from the front. A context manager: the renderer ends with it.

    Attributes
    ----------
    images
        uint8 [count, H, W, 3].
    keypoints
        float32 [count, P, 2] on the plane z = 1.
    positions
        float32 [count, 3] m, the object in the optical frame of the nominal camera, so that a network that sees the arm
        can correct for a displaced camera.
    proprioception
        float32 [count, Q], as a policy sees it.
    goal
        float32 [count, 4]: a point [3] m in the base frame, and whether there is one.
    teacher
        float32 [count, A], the action of the task's teacher; only with `source.teacher`.
    actions
        int64 [count], index of the one of `discrete_actions` before an image; 0 for the first image of a sequence. This
        and the next two exist only with `source.sequences`: images 3 n, 3 n + 1, 3 n + 2 are then consecutive. The arm
        is placed and pushes nothing.
    rewards
        float32 [count], the task's reward.
    depths
        float32 [count, rows, columns] m.
    """

    images: np.ndarray
    keypoints: np.ndarray
    positions: np.ndarray
    proprioception: np.ndarray
    goal: np.ndarray
    teacher: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    depths: np.ndarray

    def __init__(self, source: FrameSource, directory: Path) -> None:
        self.source = source
        directory.mkdir(parents=True, exist_ok=True)
        cell, task = source.cell, source.cell.make_task()
        rows, columns = source.camera.height // DEPTH_CELL_PX, source.camera.width // DEPTH_CELL_PX
        widths: dict[str, tuple[type, tuple[int, ...]]] = {
            "images": (np.uint8, (source.camera.height, source.camera.width, 3)),
            "keypoints": (np.float32, (len(task.keypoints), 2)),
            "positions": (np.float32, (3,)),
            "proprioception": (np.float32, (Observer(cell.arm, ObservationContract()).proprioception_size,)),
            "goal": (np.float32, (4,)),
        }
        if source.teacher:
            widths["teacher"] = (np.float32, (len(cell.action.components),))
        if source.sequences:
            widths |= {"actions": (np.int64, ()), "rewards": (np.float32, ()), "depths": (np.float32, (rows, columns))}
        self._progress = directory / "rendered.json"
        done = json.loads(self._progress.read_text())["count"] if self._progress.exists() else 0
        mode = "r+" if done else "w+"
        for name, (kind, width) in widths.items():
            array = np.lib.format.open_memmap(directory / f"{name}.npy", mode, kind, (source.count, *width))
            reserve(directory / f"{name}.npy", RESUME)
            reserve(directory / f"{name}.npy", RESUME)
            setattr(self, name, array)
        context = multiprocessing.get_context("spawn")
        self._ready = context.Value("q", done)
        self.process = context.Process(target=_render, args=(source, directory, self._ready), daemon=True)

    def __enter__(self) -> Frames:
        if self.available < self.source.count:
            processes.start([self.process])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        processes.end([self.process])

    @property
    def available(self) -> int:
        """Number of finished frames, counted from the first."""
        return int(self._ready.value)

    def wait_for(self, count: int) -> None:
        """Block until that many frames are finished. Raises RuntimeError if the renderer died."""
        while self.available < min(count, self.source.count):
            self.process.join(timeout=0.02)
            if self.process.exitcode not in (None, 0):
                raise RuntimeError(f"the rendering process died with exit code {self.process.exitcode}")


def held_out_count(count: int) -> int:
    """Return the number of images at the end of `count` that are only for measurements."""
    return max(1, count // 30)


def discrete_actions(action: ActionContract) -> np.ndarray:
    """List actions [2 A + 1, A] in [-1, 1]: no motion, then each component at its largest and smallest value."""
    size = len(action.components)
    actions = np.zeros((2 * size + 1, size))
    for component in range(size):
        actions[1 + 2 * component, component], actions[2 + 2 * component, component] = 1, -1
    return actions


def _moved(
    kinematics: Kinematics, joints: np.ndarray, width: float, chosen: np.ndarray, action: ActionContract
) -> tuple[np.ndarray, float]:
    """Compute joint positions [J] rad and opening m after the action `chosen` [A] lasted `MOVE_S`."""
    motion = np.zeros(6)
    for value, component, scale in zip(chosen.tolist(), action.components, action.scale, strict=True):
        if component != "gripper":
            motion[TWIST_COMPONENTS.index(component)] = MOVE_S * scale * value
        elif value:  # the gripper's action is an opening, not a speed; 0 leaves the fingers where they are
            width = scale * (value + 1)
    position, rotation, _ = kinematics.evaluate(joints)
    limits = kinematics.arm.tool_limits
    target = np.clip(position + motion[:3], limits.lower, limits.upper)
    return tool_at(kinematics, target, rotation_matrix(motion[3:]) @ rotation), width


def _render(source: FrameSource, directory: Path, ready: Any) -> None:
    """Render, from the first image that is missing. Runs in a process of its own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C on a terminal reaches this process too; the trainer ends it
    trainer = multiprocessing.parent_process()
    names = ["images", "keypoints", "positions", "proprioception", "goal"]
    names += ["teacher"] if source.teacher else []
    names += ["actions", "rewards", "depths"] if source.sequences else []
    arrays = {name: np.lib.format.open_memmap(directory / f"{name}.npy", "r+") for name in names}
    episodes = _Episodes(source)
    index = ready.value
    while index < source.count and trainer is not None and trainer.is_alive():
        for labels in episodes.frames(index, min(POSTURES_PER_EPISODE, source.count - index)):
            for name, array in arrays.items():
                array[index] = labels[name]
            index += 1
        if index % 3000 < POSTURES_PER_EPISODE or index == source.count:
            write_whole(directory / "rendered.json", json.dumps({"count": index}), RESUME)
        ready.value = index  # last, because the waiting process may end this one


class _Episodes:
    """Worlds in which the images are taken, each for `POOL_FRAMES` of them."""

    def __init__(self, source: FrameSource) -> None:
        self._source, cell = source, source.cell
        self._kinematics = Kinematics(cell.arm)
        self._observer = Observer(cell.arm, ObservationContract())
        self._choices = discrete_actions(cell.action)
        self._T_camera_base = np.linalg.inv(source.camera.T_base_camera.matrix())
        self._pool = -1
        self._world: PybulletWorld | None = None

    def frames(self, index: int, count: int) -> Iterator[dict[str, Any]]:
        """Render `count` images of one episode, from `index` on, with their labels."""
        source, arm = self._source, self._source.cell.arm
        action, kinematics = source.cell.action, self._kinematics
        seed = source.seed + index
        world = self._world_for(index)
        world.reset(seed)
        rng, lying = stream(seed, "postures"), world.task.object_pose(world)[0]
        joints, width = np.array(arm.home), 0.0
        for place in range(count):
            choice = 0
            if not source.sequences:
                arrange(world, kinematics, lying, rng)
            elif place == 0:
                width = arm.gripper.open_width * rng.uniform(0.3, 1.0) if arm.gripper else 0.0
                joints = random_posture(kinematics, lying, rng)
                world.move_arm(joints, width)
            else:
                choice = int(rng.integers(len(self._choices)))
                joints, width = _moved(kinematics, joints, width, self._choices[choice], action)
                world.move_arm(joints, width)
            object_position = world.task.object_pose(world)[0]
            image = world.render()
            moving = replace(world.joint_state(), velocities=rng.normal(0, JOINT_SPEED, len(arm.joint_names)))
            goal = world.task.goal(world)
            labels: dict[str, Any] = {
                "images": image,
                "keypoints": world.keypoints(),
                "positions": self._T_camera_base[:3, :3] @ object_position + self._T_camera_base[:3, 3],
                "proprioception": self._observer.proprioception(moving),
                "goal": np.zeros(4) if goal is None else np.append(goal, 1.0),
            }
            if source.teacher:
                labels["teacher"] = world.task.teacher(world, action)
            if source.sequences:
                size = (source.camera.width // DEPTH_CELL_PX, source.camera.height // DEPTH_CELL_PX)
                labels["depths"] = cv2.resize(world.depth(), size, interpolation=cv2.INTER_AREA)
                labels |= {"actions": choice, "rewards": world.task.reward(world, False)}
            yield labels

    def _world_for(self, index: int) -> PybulletWorld:
        pool, cell = index // POOL_FRAMES, self._source.cell
        if self._world is None or pool != self._pool:
            if self._world is not None:
                self._world.close()
            self._pool = pool
            self._world = PybulletWorld(cell.arm, cell.make_task(), cell.profile, cell.scene, self._source.camera, pool)
        return self._world
