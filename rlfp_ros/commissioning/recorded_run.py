"""Reads one run from a bag: the drivers' messages, and the graph's results."""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rlfp_ros.contract import ActionContract, Contract
from rlfp_ros.control.actions import action_of
from rlfp_ros.control.arm import Arm, JointState
from rlfp_ros.control.trajectory import Residual
from rlfp_ros.episode import Phase
from rlfp_ros.perception.camera import CameraModel, camera_model
from rlfp_ros.recording import decode, topics
from rlfp_ros.recording.bag_topics import ANY, RobotTopics, TopicChoice, namespace_of, robot_topics
from rlfp_ros.recording.clock import unusable_stamps
from rlfp_ros.recording.reader import BagReader, RecordedMessage
from rlfp_ros.recording.snapshots import BagJoints
from rlfp_ros.schema import ConfigurationError

MAX_IMAGES = 150  # images that are read
FEWEST_IMAGES = 5  # a run with fewer is refused
# A latched message that was recorded this long after its publication was published before the recorder joined.
LIVE_NS = 500_000_000


@dataclass(frozen=True)
class RecordedJoints:
    """One joint state, and the first J positions in the order in which the driver sent them."""

    state: JointState
    in_message_order: np.ndarray


@dataclass(frozen=True)
class RecordedAction:
    """One answer of the policy.

    Attributes
    ----------
    stamp_ns
        Stamp of the image that it answers.
    twist
        [6] m/s and rad/s, or [J] rad/s; None if the message is not in the bag.
    sequence
        Number of the message, counted by its publisher from 1; 0 if the bag does not hold it.
    goal
        [3] m in the base frame, at the time when the policy acted; None if there was none.
    published_ns
        When it was published, on the clock of the recording; None if the bag does not hold it.
    """

    stamp_ns: int
    twist: np.ndarray | None
    sequence: int = 0
    goal: np.ndarray | None = None
    published_ns: int | None = None


@dataclass(frozen=True)
class AppliedAction:
    """What the controller admitted of the answer to the image with this stamp: [A] in action units."""

    stamp_ns: int
    action: np.ndarray
    published_ns: int


@dataclass(frozen=True)
class PastActions:
    """The admitted actions [A] that the policy had received when it acted, oldest first.

    Attributes
    ----------
    admitted
        Those of its episode.
    commanded
        The same actions as the policy asked for them.
    earlier
        Those of the episodes before.
    """

    admitted: list[np.ndarray]
    commanded: list[np.ndarray]
    earlier: list[np.ndarray]


@dataclass(frozen=True)
class Reset:
    """The reset of an episode, at which the policy forgets; `live` if it was recorded when it was published."""

    stamp_ns: int
    live: bool


@dataclass(frozen=True)
class Stretch:
    """Consecutive actions. `from_start`: the policy remembered nothing before the first of them."""

    from_start: bool
    actions: list[RecordedAction]


@dataclass
class RecordedRun:
    """The messages of one run by stamp, ns."""

    topics: RobotTopics
    joint_names: tuple[str, ...] = ()  # of the arm
    camera: CameraModel | None = None
    images: dict[int, np.ndarray] = field(default_factory=dict)  # uint8 [H, W, 3] rgb
    received: dict[int, int] = field(default_factory=dict)  # time at which the image was recorded, ns
    joints: list[RecordedJoints] = field(default_factory=list)  # by stamp
    features: dict[int, np.ndarray] = field(default_factory=dict)  # [K, 3], as perception published them
    actions: list[RecordedAction] = field(default_factory=list)  # in the order of recording
    resets: list[Reset] = field(default_factory=list)
    applied: list[AppliedAction] = field(default_factory=list)  # in the order of recording

    def joints_at(self, stamp_ns: int) -> RecordedJoints | None:
        """Return the newest joint state that is not newer than `stamp_ns`."""
        place = bisect.bisect_right(self.joints, stamp_ns, key=lambda joints: joints.state.stamp_ns) - 1
        return self.joints[place] if place >= 0 else None

    def past_actions(self, action: RecordedAction, contract: ActionContract) -> PastActions:
        """Return what the policy had received of the controller when it gave `action`."""
        began_ns = max((reset.stamp_ns for reset in self.resets if reset.stamp_ns < action.stamp_ns), default=-1)
        asked = {other.stamp_ns: other.twist for other in self.actions if other.twist is not None}
        past = PastActions([], [], [])
        newest_ns = -1
        for applied in self.applied:
            late = action.published_ns is not None and applied.published_ns > action.published_ns
            if late or applied.stamp_ns >= action.stamp_ns or applied.stamp_ns <= newest_ns:
                continue
            newest_ns = applied.stamp_ns
            if applied.stamp_ns <= began_ns:
                past.earlier.append(applied.action)
                continue
            past.admitted.append(applied.action)
            commanded, twist = applied.action.copy(), asked.get(applied.stamp_ns)
            if twist is not None:
                moves = [name != "gripper" for name in contract.components]
                commanded[moves] = action_of(Residual(0, twist), contract, self.joint_names)[moves]
            past.commanded.append(commanded)
        return past

    def stretches(self) -> list[Stretch]:
        """Split the actions at each restart of the policy's memory, and at each gap in the bag.

        The policy remembers only the frames on which it acted. The numbers of its messages show whether an action is
        missing; features between two actions without a gap in the numbers are frames that it skipped.
        """
        found: list[Stretch] = []
        before: RecordedAction | None = None
        broken = False  # the last action cannot be replayed
        for action in self.actions:
            if before is not None and action.stamp_ns == before.stamp_ns:
                before = action  # the same image was published again, and so was its answer
                continue
            if before is None or broken or action.sequence == 1:
                found.append(Stretch(self._starts(before, action), []))
            else:
                missing = self._missing(before, action)
                if missing is None:
                    found.append(Stretch(False, []))
                elif any(before.stamp_ns <= reset.stamp_ns < action.stamp_ns for reset in self.resets):
                    found.append(Stretch(not missing, []))
                else:
                    found[-1].actions.extend(missing)
            found[-1].actions.append(action)
            broken = action.stamp_ns not in self.features or self.joints_at(action.stamp_ns) is None
            if broken:
                found[-1].actions.pop()
            before = action
        return [stretch for stretch in found if stretch.actions]

    def _starts(self, before: RecordedAction | None, action: RecordedAction) -> bool:
        """Whether the policy remembered nothing before `action`, the first after a break."""
        since = -1 if before is None else before.stamp_ns
        resets = [reset for reset in self.resets if since <= reset.stamp_ns < action.stamp_ns]
        return action.sequence == 1 or any(reset.live for reset in resets)

    def _missing(self, before: RecordedAction, action: RecordedAction) -> list[RecordedAction] | None:
        """Return the actions between two that are not in the bag; None if their frames are not known."""
        if not before.sequence or not action.sequence:
            return []
        lost = action.sequence - before.sequence - 1
        skipped = [stamp for stamp in sorted(self.features) if before.stamp_ns < stamp < action.stamp_ns]
        if lost == 0:
            return []
        if lost != len(skipped) or any(self.joints_at(stamp) is None for stamp in skipped):
            return None
        return [RecordedAction(stamp, None, goal=action.goal) for stamp in skipped]


def read_run(folder: str | Path, arm: Arm, contract: Contract, choice: TopicChoice = ANY) -> RecordedRun:
    """Read the first `MAX_IMAGES` images of a bag and the messages that belong to them.

    Parameters
    ----------
    folder
        The bag.
    arm
        The arm whose joints to read.
    contract
        The contract of the bundle that ran: the policy's inputs and the camera's pose.
    choice
        Which camera and which robot, if the bag holds several.

    Raises
    ------
    ConfigurationError
        If the bag holds too little of a run, or several cameras or robots.
    """
    joints = BagJoints(arm)
    with BagReader(folder) as bag:
        run = RecordedRun(robot_topics(bag, arm, choice), arm.joint_names)
        if unusable := unusable_stamps(bag, {run.topics.camera.image, *run.topics.joint_states}):
            raise ConfigurationError(
                f"{folder}: {unusable}; the graph matches images, joints and actions by their stamps, so let the "
                "drivers stamp every message with the time of its measurement"
            )
        _Reading(bag, run, arm, contract, joints, namespace_of(bag, choice)).read()
    run.joints.sort(key=lambda recorded: recorded.state.stamp_ns)
    if len(run.images) < FEWEST_IMAGES or not run.joints:
        raise ConfigurationError(
            f"{folder}: holds {len(run.images)} images and {len(run.joints)} joint states of {arm.name}, expected at "
            f"least {FEWEST_IMAGES} images and the joints; "
            + (joints.first_refusal() or "record the graph while it runs (record:=FOLDER)")
        )
    return run


class _Reading:
    """Reads one bag into a RecordedRun; keeps the current goal while it reads."""

    def __init__(
        self, bag: BagReader, run: RecordedRun, arm: Arm, contract: Contract, joints: BagJoints, namespace: str
    ) -> None:
        self._bag, self._run, self._arm, self._contract, self._joints = bag, run, arm, contract, joints
        self._namespace = namespace
        self._goal: Any = None  # the newest PointStamped
        self._optical_frame = ""

    def read(self) -> None:
        """Read up to the last image that is used."""
        chosen = self._run.topics
        takers = {
            chosen.camera.image: self._image,
            chosen.camera.camera_info: self._camera_info,
            **dict.fromkeys(chosen.joint_states, self._joint_state),
            f"{self._namespace}/{topics.FEATURES}": self._features,
            f"{self._namespace}/{topics.RESIDUAL}": self._residual,
            f"{self._namespace}/{topics.ACTION_APPLIED}": self._action_applied,
            f"{self._namespace}/{topics.GOAL}": self._goal_point,
            f"{self._namespace}/{topics.EPISODE}": self._episode,
        }
        for message in self._messages(set(takers)):
            takers[message.topic](message, self._bag.decode(message))

    def _messages(self, names: set[str]) -> Iterator[RecordedMessage]:
        for message in self._bag.messages(names):
            if len(self._run.images) >= MAX_IMAGES:
                return
            yield message

    def _image(self, message: RecordedMessage, content: Any) -> None:
        stamp = decode.stamp_ns(content.header.stamp)
        self._run.images[stamp] = decode.image_from_message(content, message.topic)
        self._run.received[stamp] = message.log_time_ns

    def _camera_info(self, message: RecordedMessage, content: Any) -> None:
        self._run.camera = camera_model(content, message.topic, self._run.topics.camera.rectified)

    def _joint_state(self, message: RecordedMessage, content: Any) -> None:
        state = self._joints(message, content)
        if state is not None:
            positions = np.asarray(content.position, dtype=float)[: len(self._arm.joint_names)]
            self._run.joints.append(RecordedJoints(state, positions))

    def _features(self, message: RecordedMessage, content: Any) -> None:
        self._optical_frame = content.header.frame_id
        stamp = decode.stamp_ns(content.header.stamp)
        self._run.features[stamp] = decode.features_from_message(content, message.topic)

    def _residual(self, message: RecordedMessage, content: Any) -> None:
        if hasattr(content, "points"):
            twist = decode.joint_velocities_from_message(content, self._arm.joint_names)
        else:
            twist = decode.twist_from_message(content, self._arm.base_frame, message.topic)
        stamp = decode.stamp_ns(content.header.stamp)
        published_ns = message.publish_time_ns
        self._run.actions.append(RecordedAction(stamp, twist, message.sequence, self._goal_now(), published_ns))

    def _action_applied(self, message: RecordedMessage, content: Any) -> None:
        stamp, action = decode.action_from_message(content, self._contract.action.components, message.topic)
        self._run.applied.append(AppliedAction(stamp, action, message.publish_time_ns))

    def _goal_point(self, message: RecordedMessage, content: Any) -> None:
        self._goal = content

    def _goal_now(self) -> np.ndarray | None:
        """Return the newest goal as the policy node uses it; None if it refuses the goal."""
        if self._goal is None or self._contract.goal == "none":
            return None
        T_base_camera = self._contract.camera.T_base_camera.matrix()
        try:
            return decode.goal_from_message(self._goal, self._arm.base_frame, self._optical_frame, T_base_camera)
        except ConfigurationError:
            return None

    def _episode(self, message: RecordedMessage, content: Any) -> None:
        episode = decode.episode_from_message(content)
        if episode.phase is Phase.RESET:
            live = message.log_time_ns - message.publish_time_ns < LIVE_NS
            self._run.resets.append(Reset(episode.stamp, live))
