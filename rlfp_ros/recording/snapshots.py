"""Reads images from a bag, each with the camera's calibration and the arm's joints at that time."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from rlfp_ros.control.arm import Arm, JointState
from rlfp_ros.perception.camera import CameraModel, camera_model
from rlfp_ros.recording import decode
from rlfp_ros.recording.bag_topics import ANY, TopicChoice, image_topic, robot_topics
from rlfp_ros.recording.clock import bag_clock
from rlfp_ros.recording.reader import BagReader, RecordedMessage
from rlfp_ros.schema import ConfigurationError

STANDING_RAD_S = 0.02  # measured speed below this is noise
NEW_POSTURE_RAD = 0.05  # motion of a joint that makes a new posture
SETTLED_S = 0.3  # time at rest after which the arm does not swing any more
HISTORY = 480  # joint states that are kept to find the one for an image: 2 s at 240 Hz

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Snapshot:
    """One image. `camera` and `joints` are None if the bag had none before it."""

    stamp_ns: int
    image: np.ndarray  # uint8 [H, W, 3] rgb
    camera: CameraModel | None
    joints: JointState | None  # the newest that is not newer than the image


class BagJoints:
    """Reads the arm's joints from a bag's JointState messages, by the rules of the live nodes.

    Attributes
    ----------
    refused : collections.Counter
        Messages that a live node would have refused, counted by the reason.
    """

    def __init__(self, arm: Arm) -> None:
        self._arm = arm
        self._names = set(arm.driver_names(arm.joint_names))
        self._matchers: dict[str, decode.JointMatcher] = {}  # by topic
        self.refused: Counter[str] = Counter()

    def __call__(self, message: RecordedMessage, content: Any) -> JointState | None:
        """Return the joints of one message, or None if it is another device's or refused."""
        if not self._names & set(content.name):
            return None
        matcher = self._matchers.get(message.topic)
        if matcher is None:
            matcher = self._matchers[message.topic] = decode.JointMatcher(self._arm, message.topic)
        try:
            return matcher(content)
        except ConfigurationError as error:
            self.refused[str(error)] += 1
            return None

    def first_refusal(self) -> str:
        """The first reason for which a message was refused, or ""."""
        return next(iter(self.refused), "")


def read_snapshots(
    bag_folder: str | Path, arm: Arm | None = None, joints: BagJoints | None = None, choice: TopicChoice = ANY
) -> Iterator[Snapshot]:
    """Read every image of a bag, in order.

    Parameters
    ----------
    bag_folder
        The bag.
    arm
        The arm whose joints to read. Without it neither joints nor the camera's calibration are read, because they may
        not be known yet.
    joints
        Collects the joint states that are refused; by default they are only logged.
    choice
        Which camera and which robot, if the bag holds several.

    Raises
    ------
    ConfigurationError
        If the bag is not readable or holds no images, or an image is one that the live node refuses.
    """
    with BagReader(bag_folder) as bag:
        image, info, rectified = image_topic(bag, choice), "", False
        joint_topics: set[str] = set()
        if arm is not None:
            joints = joints or BagJoints(arm)
            chosen = robot_topics(bag, arm, choice)
            info, rectified, joint_topics = chosen.camera.camera_info, chosen.camera.rectified, set(chosen.joint_states)
        clock = bag_clock(bag, {image, *joint_topics})
        camera: CameraModel | None = None
        history: list[JointState] = []
        for message in bag.messages({image, info, *joint_topics}):
            content = bag.decode(message)
            if message.topic == info:
                camera = camera_model(content, info, rectified)
            elif message.topic in joint_topics and joints is not None:
                state = joints(message, content)
                if state is not None:
                    history.append(replace(state, stamp_ns=clock.time_ns(message)))
                    del history[:-HISTORY]
            elif message.topic == image:
                stamp = clock.time_ns(message)
                state = next((state for state in reversed(history) if state.stamp_ns <= stamp), None)
                yield Snapshot(stamp, decode.image_from_message(content, message.topic), camera, state)
        for reason, count in joints.refused.items() if joints else ():
            log.warning("%s: %d joint states are refused: %s", bag.path, count, reason)


def standing_snapshots(bag_folder: str | Path, arm: Arm, choice: TopicChoice = ANY) -> list[Snapshot]:
    """Return one image per posture in which the arm was at rest. Raises ConfigurationError if there is none."""
    kept: list[Snapshot] = []
    standing_since: tuple[int, np.ndarray] | None = None
    bag_joints = BagJoints(arm)
    for snapshot in read_snapshots(bag_folder, arm, bag_joints, choice):
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
    if not kept and bag_joints.refused:
        raise ConfigurationError(f"{bag_folder}: {bag_joints.first_refusal()}")
    if not kept:
        raise ConfigurationError(
            f"{bag_folder}: holds no image with the joints of a standing arm {arm.name}; record images and "
            f"joint_states, and let the arm stand for {SETTLED_S:g} s at every posture"
        )
    return kept
