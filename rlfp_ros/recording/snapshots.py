"""Pictures out of a bag, each with the camera's calibration and the arm's joints when it was taken."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlfp_ros.control.arm import Arm, JointState
from rlfp_ros.perception import images
from rlfp_ros.perception.camera import CameraModel, camera_model
from rlfp_ros.recording.reader import BagReader, RecordedMessage
from rlfp_ros.schema import ConfigurationError

STANDING_RAD_S = 0.02  # measured speed below this is noise
NEW_POSTURE_RAD = 0.05  # a joint moved by so much: another posture
SETTLED_S = 0.3  # standing for so long, nothing swings any more


@dataclass(frozen=True)
class Snapshot:
    """One picture. `camera` and `joints` are None where the bag had none of it yet."""

    stamp_ns: int
    image: np.ndarray  # uint8 [H, W, 3] rgb
    camera: CameraModel | None
    joints: JointState | None  # the newest not newer than the picture


def find_topic(bag: BagReader, types: tuple[str, ...], ending: str, what: str) -> str:
    """The bag's topic of one of these types; of several, the one whose name ends so. Raises ConfigurationError."""
    names = sorted(name for name, kind in bag.topics.items() if kind in types)
    chosen = [name for name in names if name.endswith(ending)] or names
    if not chosen:
        there = ", ".join(sorted(bag.topics)) or "nothing"
        raise ConfigurationError(f"{bag.path}: holds no {what} ({' or '.join(types)}); it holds: {there}")
    return chosen[0]


def decode_image(message: RecordedMessage, content: Any) -> np.ndarray:
    """rgb uint8 [H, W, 3] of an Image or CompressedImage."""
    if message.type.endswith("CompressedImage"):
        return images.from_compressed(content.format, content.data, message.topic)
    return images.from_raw(content.encoding, content.height, content.width, content.step, content.data, message.topic)


def decode_joints(content: Any, arm: Arm) -> JointState | None:
    """The arm's joints of a JointState; None where it is another device's."""
    index = {name: place for place, name in enumerate(content.name)}
    names = arm.driver_names(arm.joint_names)
    fingers = arm.driver_names(arm.gripper.joint_names) if arm.gripper else ()
    if any(name not in index for name in names):
        return None
    picks = [index[name] for name in names]
    position, velocity = np.asarray(content.position), np.asarray(content.velocity)
    width = 0.0
    if arm.gripper is not None and all(name in index for name in fingers):
        width = arm.gripper.width(position[[index[name] for name in fingers]])
    still = np.zeros(len(picks))
    velocities = velocity[picks] if len(velocity) == len(position) else still
    return JointState(stamp_of(content), position[picks].astype(float), velocities, still, width)


def stamp_of(content: Any) -> int:
    """ns of a message's header."""
    return int(content.header.stamp.sec) * 1_000_000_000 + int(content.header.stamp.nanosec)


def read_snapshots(bag_folder: str | Path, arm: Arm | None = None) -> Iterator[Snapshot]:
    """Every picture of a bag, in order. Raises ConfigurationError.

    Without `arm` neither joints nor the camera's calibration are looked for, which may not be known yet.
    """
    with BagReader(bag_folder) as bag:
        image = find_topic(bag, ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"), "image_raw", "pictures")
        info = ""
        joints: set[str] = set()
        if arm is not None:
            joints = {name for name, kind in bag.topics.items() if kind == "sensor_msgs/msg/JointState"}
            if "sensor_msgs/msg/CameraInfo" in bag.topics.values():
                info = find_topic(bag, ("sensor_msgs/msg/CameraInfo",), "camera_info", "camera_info")
        camera: CameraModel | None = None
        history: list[JointState] = []
        for message in bag.messages({image, info, *joints}):
            content = bag.decode(message)
            if message.topic == info:
                camera = camera_model(content, info)
            elif message.topic in joints and arm is not None:
                state = decode_joints(content, arm)
                if state is not None:
                    history.append(state)
                    del history[:-480]
            elif message.topic == image:
                stamp = stamp_of(content)
                state = next((state for state in reversed(history) if state.stamp_ns <= stamp), None)
                yield Snapshot(stamp, decode_image(message, content), camera, state)


def standing_snapshots(bag_folder: str | Path, arm: Arm) -> list[Snapshot]:
    """One picture for every posture in which the arm stood. Raises ConfigurationError where it stood in none."""
    kept: list[Snapshot] = []
    standing_since: tuple[int, np.ndarray] | None = None
    for snapshot in read_snapshots(bag_folder, arm):
        joints = snapshot.joints
        if joints is None:
            continue
        moved = standing_since is None or np.abs(joints.positions - standing_since[1]).max() > STANDING_RAD_S / 4
        if moved or np.abs(joints.velocities).max() > STANDING_RAD_S:
            standing_since = (snapshot.stamp_ns, joints.positions)
            continue
        assert standing_since is not None
        settled = (snapshot.stamp_ns - standing_since[0]) * 1e-9 >= SETTLED_S
        last = kept[-1].joints if kept else None
        if settled and (last is None or np.abs(joints.positions - last.positions).max() > NEW_POSTURE_RAD):
            kept.append(snapshot)
    if not kept:
        raise ConfigurationError(
            f"{bag_folder}: holds no picture with the joints of a standing arm {arm.name}; record pictures and "
            f"joint_states, and let the arm stand for {SETTLED_S:g} s at every posture"
        )
    return kept
