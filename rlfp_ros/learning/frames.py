"""Labelled pictures for perception training, rendered by a process of their own while the encoder learns.

Frame i depends on `seed` and i alone, and lies in a memory-mapped file that trainer and renderer share, so that a
training gives the same result however fast either is, and resumes without rendering again.
"""

from __future__ import annotations

import json
import multiprocessing
import signal
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from rlfp_ros.bundle import CameraContract
from rlfp_ros.control.arm import load_arm
from rlfp_ros.control.policy import ObservationContract, Observer
from rlfp_ros.simulation.environment import BEHAVIOURS
from rlfp_ros.simulation.randomization import Profile, stream
from rlfp_ros.simulation.scene import Scene
from rlfp_ros.simulation.task import load_task

JOINT_SPEED = 0.15  # rad/s, of the made-up velocities that teach a policy what does not matter
POSTURES_PER_EPISODE = 3  # pictures with the same appearance: dressing a scene anew costs as much as a picture


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


class Frames:
    """`count` labelled pictures that grow from the front. A context manager: the renderer ends with it.

    `images` uint8 [count, H, W, 3]; `keypoints` float32 [count, P, 2] on the plane z = 1;
    `positions` float32 [count, 3] m, the object in the nominal camera's optical frame, so that a network which sees the
    arm can correct for a camera that stands elsewhere; `proprioception` float32 [count, Q] as a policy sees it;
    `teacher` float32 [count, A], what the task's teacher would do.
    """

    images: np.ndarray
    keypoints: np.ndarray
    positions: np.ndarray
    proprioception: np.ndarray
    teacher: np.ndarray

    def __init__(self, source: FrameSource, directory: Path) -> None:
        self.source = source
        directory.mkdir(parents=True, exist_ok=True)
        task, arm = load_task(source.task), load_arm(source.arm)
        widths = {
            "images": (np.uint8, (source.camera.height, source.camera.width, 3)),
            "keypoints": (np.float32, (len(task.keypoints), 2)),
            "positions": (np.float32, (3,)),
            "proprioception": (np.float32, (Observer(arm, ObservationContract()).proprioception_size,)),
            "teacher": (np.float32, (len(BEHAVIOURS[source.task].action.components),)),
        }
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
        self._process.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
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


def _render(source: FrameSource, directory: Path, ready: Any) -> None:
    """Render from where the last run stopped."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C reaches us too; the trainer ends us
    trainer = multiprocessing.parent_process()
    from rlfp_ros.control.kinematics import Kinematics
    from rlfp_ros.simulation.postures import random_posture
    from rlfp_ros.simulation.world import World

    names = ("images", "keypoints", "positions", "proprioception", "teacher")
    images, keypoints, positions, proprioception, teacher = (
        np.lib.format.open_memmap(directory / f"{name}.npy", "r+") for name in names
    )
    arm = load_arm(source.arm)
    world = World(arm, load_task(source.task), source.profile, source.scene, source.camera)
    kinematics, observer = Kinematics(arm), Observer(arm, ObservationContract())
    action = BEHAVIOURS[source.task].action
    T_camera_base = np.linalg.inv(source.camera.T_base_camera.matrix())
    index = ready.value
    while index < source.count and trainer is not None and trainer.is_alive():
        seed = source.seed + index
        world.reset(seed)
        rng = stream(seed, "postures")
        for _ in range(min(POSTURES_PER_EPISODE, source.count - index)):
            object_position = world.task.object_pose(world)[0]
            width = arm.gripper.open_width * rng.uniform(0.3, 1.0) if arm.gripper else 0.0
            world.move_arm(random_posture(kinematics, object_position, rng), width)
            images[index] = world.picture()
            keypoints[index] = world.keypoints()
            moving = replace(world.joint_state(), velocities=rng.normal(0, JOINT_SPEED, len(arm.joint_names)))
            proprioception[index] = observer.proprioception(moving)
            teacher[index] = world.task.teacher(world, action)
            positions[index] = T_camera_base[:3, :3] @ object_position + T_camera_base[:3, 3]
            index += 1
        ready.value = index
        if index % 3000 < POSTURES_PER_EPISODE or index == source.count:
            (directory / "rendered.json").write_text(json.dumps({"count": index}))
