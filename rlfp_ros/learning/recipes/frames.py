"""Labelled pictures for perception training, rendered by a process of their own while the encoder learns.

Frame i depends on `seed` and i alone, and lies in a memory-mapped file that trainer and renderer share, so that a
training gives the same result however fast either is, and resumes without rendering again.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np

from rlfp_ros.contract import TWIST_COMPONENTS, ActionContract, CameraContract
from rlfp_ros.control.arm import load_arm
from rlfp_ros.control.kinematics import Kinematics, rotation_matrix
from rlfp_ros.control.policy import ObservationContract, Observer
from rlfp_ros.simulation.postures import arrange, random_posture, tool_at
from rlfp_ros.simulation.randomization import Profile, stream
from rlfp_ros.simulation.scene import Scene
from rlfp_ros.simulation.tasks.task import TASKS, load_task

JOINT_SPEED = 0.15  # rad/s, of the made-up velocities that teach a policy what does not matter
POSTURES_PER_EPISODE = 3  # pictures with the same appearance: dressing a scene anew costs as much as a picture
MOVE_S = 4 / 30  # s, how long the action between two pictures of a sequence lasts: long enough to be seen
DEPTH_CELL_PX = 4  # depth maps are averaged over cells of so many pixels
POOL_FRAMES = 600  # pictures before the textures are exchanged for others: 48 are soon known by heart


@dataclass(frozen=True)
class FrameSource:
    """What is rendered."""

    arm: str
    task: str
    profile: Profile
    scene: Scene
    camera: CameraContract
    seed: int
    count: int
    # Pictures of one appearance follow from each other by an action, and what objectives need that learn from
    # sequences is kept with them; otherwise each shows a posture of its own.
    sequences: bool = False


class Frames:
    """`count` labelled pictures that grow from the front. A context manager: the renderer ends with it.

    `images` uint8 [count, H, W, 3]; `keypoints` float32 [count, P, 2] on the plane z = 1;
    `positions` float32 [count, 3] m, the object in the nominal camera's optical frame, so that a network which sees the
    arm can correct for a camera that stands elsewhere; `proprioception` float32 [count, Q] as a policy sees it;
    `goal` float32 [count, 4], point [m] in the base frame and whether there is one; `teacher` float32 [count, A], what
    the task's teacher would do.

    With `source.sequences`, pictures 3 n, 3 n + 1, 3 n + 2 follow from each other (nothing is pushed, the arm is put
    there): `actions` int64 [count] is which of `discrete_actions` led to a picture (0 for the first), `rewards` float32
    [count] the task's reward there, `depths` float32 [count, rows, columns] m of what it shows.
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
        task, arm = load_task(source.task), load_arm(source.arm)
        rows, columns = source.camera.height // DEPTH_CELL_PX, source.camera.width // DEPTH_CELL_PX
        widths: dict[str, tuple[type, tuple[int, ...]]] = {
            "images": (np.uint8, (source.camera.height, source.camera.width, 3)),
            "keypoints": (np.float32, (len(task.keypoints), 2)),
            "positions": (np.float32, (3,)),
            "proprioception": (np.float32, (Observer(arm, ObservationContract()).proprioception_size,)),
            "goal": (np.float32, (4,)),
            "teacher": (np.float32, (len(TASKS[source.task].action.components),)),
        }
        if source.sequences:
            widths |= {"actions": (np.int64, ()), "rewards": (np.float32, ()), "depths": (np.float32, (rows, columns))}
        self._progress = directory / "rendered.json"
        done = json.loads(self._progress.read_text())["count"] if self._progress.exists() else 0
        mode = "r+" if done else "w+"
        for name, (kind, width) in widths.items():
            array = np.lib.format.open_memmap(directory / f"{name}.npy", mode, kind, (source.count, *width))
            setattr(self, name, array)
        context = multiprocessing.get_context("spawn")
        self._ready = context.Value("q", done)
        self._process = context.Process(target=_render, args=(source, directory, self._ready), daemon=True)

    def __enter__(self) -> Frames:
        if self.available < self.source.count:
            self._process.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.pid is not None:
            self._process.terminate()
            self._process.join()

    @property
    def available(self) -> int:
        """How many frames are there, from the front."""
        return int(self._ready.value)

    def wait_for(self, count: int) -> None:
        """Block until that many frames are there. Raises RuntimeError where the renderer died."""
        while self.available < min(count, self.source.count):
            self._process.join(timeout=0.02)
            if self._process.exitcode not in (None, 0):
                raise RuntimeError(f"the rendering process died with exit code {self._process.exitcode}")


def held_out_count(count: int) -> int:
    """How many of `count` pictures, the last ones, no network learns from: what is said of it is measured on them."""
    return max(1, count // 30)


def discrete_actions(action: ActionContract) -> np.ndarray:
    """[2 A + 1, A] in [-1, 1]: nothing, then each component to its end one way and the other."""
    size = len(action.components)
    actions = np.zeros((2 * size + 1, size))
    for component in range(size):
        actions[1 + 2 * component, component], actions[2 + 2 * component, component] = 1, -1
    return actions


def _moved(
    kinematics: Kinematics, joints: np.ndarray, width: float, chosen: np.ndarray, action: ActionContract
) -> tuple[np.ndarray, float]:
    """Joint positions [J] rad and opening m after the action `chosen` [A] has lasted `MOVE_S`."""
    motion = np.zeros(6)
    for value, component, scale in zip(chosen.tolist(), action.components, action.scale, strict=True):
        if component != "gripper":
            motion[TWIST_COMPONENTS.index(component)] = MOVE_S * scale * value
        elif value:  # an opening is a place, not a speed: 0 leaves the fingers where they are
            width = scale * (value + 1)
    position, rotation, _ = kinematics.evaluate(joints)
    limits = kinematics.arm.tool_limits
    target = np.clip(position + motion[:3], limits.lower, limits.upper)
    return tool_at(kinematics, target, rotation_matrix(motion[3:]) @ rotation), width


def _render(source: FrameSource, directory: Path, ready: Any) -> None:
    """Render from where the last run stopped."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C reaches us too; the trainer ends us
    trainer = multiprocessing.parent_process()
    from rlfp_ros.simulation.pybullet_world import PybulletWorld

    def opened(*names: str) -> list[np.memmap]:
        return [np.lib.format.open_memmap(directory / f"{name}.npy", "r+") for name in names]

    images, keypoints, positions, proprioception, goal, teacher = opened(
        "images", "keypoints", "positions", "proprioception", "goal", "teacher"
    )
    if source.sequences:
        actions, rewards, depths = opened("actions", "rewards", "depths")
    arm = load_arm(source.arm)
    world, pool = None, -1
    kinematics, observer = Kinematics(arm), Observer(arm, ObservationContract())
    action = TASKS[source.task].action
    choices = discrete_actions(action)
    T_camera_base = np.linalg.inv(source.camera.T_base_camera.matrix())
    index = ready.value
    while index < source.count and trainer is not None and trainer.is_alive():
        seed = source.seed + index
        if world is None or index // POOL_FRAMES != pool:
            if world is not None:
                world.close()
            pool = index // POOL_FRAMES
            world = PybulletWorld(arm, load_task(source.task), source.profile, source.scene, source.camera, pool)
        world.reset(seed)
        rng, lying = stream(seed, "postures"), world.task.object_pose(world)[0]
        for place in range(min(POSTURES_PER_EPISODE, source.count - index)):
            choice = 0
            if not source.sequences:
                arrange(world, kinematics, lying, rng)
            elif place == 0:
                width = arm.gripper.open_width * rng.uniform(0.3, 1.0) if arm.gripper else 0.0
                joints = random_posture(kinematics, lying, rng)
                world.move_arm(joints, width)
            else:
                choice = int(rng.integers(len(choices)))
                joints, width = _moved(kinematics, joints, width, choices[choice], action)
                world.move_arm(joints, width)
            object_position = world.task.object_pose(world)[0]
            images[index] = world.picture()
            keypoints[index] = world.keypoints()
            moving = replace(world.joint_state(), velocities=rng.normal(0, JOINT_SPEED, len(arm.joint_names)))
            proprioception[index] = observer.proprioception(moving)
            told = world.task.goal(world)
            goal[index] = 0.0 if told is None else (*told, 1.0)
            teacher[index] = world.task.teacher(world, action)
            positions[index] = T_camera_base[:3, :3] @ object_position + T_camera_base[:3, 3]
            if source.sequences:
                size = depths.shape[:0:-1]
                depths[index] = cv2.resize(world.depth(), size, interpolation=cv2.INTER_AREA)
                actions[index], rewards[index] = choice, world.task.reward(world, False)
            index += 1
        if index % 3000 < POSTURES_PER_EPISODE or index == source.count:
            scratch = directory / "rendered.tmp"
            scratch.write_text(json.dumps({"count": index}))
            os.replace(scratch, directory / "rendered.json")  # the trainer may end us at any time
        ready.value = index  # last: whoever waited for it may end this process
