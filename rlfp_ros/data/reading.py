"""Reads from one bag what a policy could know: images, joints, actions and commands, and how each episode ended.

Only the topics of a fixed list are read, and of an episode's announcement only its phase, its stamp and whether it was
won. A simulator publishes more about itself: the randomisation that it drew, its seed, how far the object was from the
goal. None of that may reach a training, because no arm publishes it.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rlfp_ros.contract import Contract
from rlfp_ros.control.actions import action_of
from rlfp_ros.control.arm import Arm, JointState
from rlfp_ros.control.safety.safety_state import SafetyState
from rlfp_ros.control.safety.verdict import Reason
from rlfp_ros.control.trajectory import Residual
from rlfp_ros.data.dataset import DecidedBy
from rlfp_ros.episode import Phase
from rlfp_ros.perception.camera import CameraModel, camera_model
from rlfp_ros.recording import decode, topics
from rlfp_ros.recording.bag_topics import ANY, RobotTopics, TopicChoice, namespace_of, robot_topics
from rlfp_ros.recording.clock import unusable_stamps
from rlfp_ros.recording.reader import BagReader, RecordedMessage
from rlfp_ros.recording.snapshots import BagJoints
from rlfp_ros.schema import ConfigurationError

# What is read besides the camera's and the arm's topics. A topic that is not listed here never enters a dataset.
GRAPH_TOPICS = (
    topics.FEATURES,
    topics.RESIDUAL,
    topics.GRIPPER,
    topics.RESIDUAL_APPLIED,
    topics.ACTION_APPLIED,
    topics.EPISODE,
    topics.SAFETY_STATE,
)
JOINT_MAX_AGE_S = 0.1  # of the joint state that goes with an image, as in the live nodes


@dataclass(frozen=True)
class EpisodeMark:
    """What is kept of one message on `episode`.

    Attributes
    ----------
    phase
        The phase that began.
    stamp_ns
        The time of the announcement, on the clock of the images.
    received_ns
        When the recorder received it.
    success
        Whether the episode was won; None unless it has finished.
    """

    phase: Phase
    stamp_ns: int
    received_ns: int
    success: bool | None = None


@dataclass
class BagContents:
    """Everything of one bag but its images, by stamp, ns.

    Attributes
    ----------
    topics
        The camera and the robot.
    complete
        False if the bag was cut short.
    joints
        By stamp.
    features
        As perception published them, [K, 3] or [Z].
    asked, applied
        Actions [A] in action units: of the policy, and what the safety controller admitted of them. Missing components
        are NaN.
    decided_by
        Who decided on what was admitted.
    commands
        Stamp and position [J] rad of the first point of each trajectory that was sent to the arm, by stamp.
    marks
        What was announced about episodes, in the order of recording.
    """

    topics: RobotTopics
    complete: bool
    joints: list[JointState] = field(default_factory=list)
    features: dict[int, np.ndarray] = field(default_factory=dict)
    asked: dict[int, np.ndarray] = field(default_factory=dict)
    applied: dict[int, np.ndarray] = field(default_factory=dict)
    decided_by: dict[int, DecidedBy] = field(default_factory=dict)
    commands: list[tuple[int, np.ndarray]] = field(default_factory=list)
    marks: list[EpisodeMark] = field(default_factory=list)

    def joints_at(self, stamp_ns: int) -> JointState | None:
        """Return the newest joint state that is not newer than `stamp_ns`, or None if it is too old to be used."""
        place = bisect.bisect_right(self.joints, stamp_ns, key=lambda state: state.stamp_ns) - 1
        if place < 0 or stamp_ns - self.joints[place].stamp_ns > JOINT_MAX_AGE_S * decode.NANOSECONDS:
            return None
        return self.joints[place]

    def command_at(self, stamp_ns: int) -> np.ndarray | None:
        """Return the position [J] rad that the newest command before `stamp_ns` asked for."""
        place = bisect.bisect_right(self.commands, stamp_ns, key=lambda command: command[0]) - 1
        return self.commands[place][1] if place >= 0 else None


@dataclass(frozen=True)
class BagImage:
    """One image of a bag, and the camera's calibration at that time."""

    stamp_ns: int
    received_ns: int
    image: np.ndarray  # uint8 [H, W, 3] rgb
    camera: CameraModel | None


def read_contents(bag: BagReader, arm: Arm, contract: Contract, choice: TopicChoice = ANY) -> BagContents:
    """Read everything of a bag but its images.

    Parameters
    ----------
    bag
        The bag.
    arm
        The arm whose joints to read.
    contract
        The contract of the bundle that ran.
    choice
        Which camera and which robot, if the bag holds several.

    Raises
    ------
    ConfigurationError
        If the bag holds no images, no camera_info, no joints of this arm, several cameras or robots, or stamps that
        cannot order its messages.
    """
    chosen = robot_topics(bag, arm, choice)
    if not chosen.camera.camera_info:
        raise ConfigurationError(
            f"{bag.path}: holds no camera_info for {chosen.camera.image}, so the policy's view of the images is not "
            "known; record the camera_info topic too"
        )
    if unusable := unusable_stamps(bag, {chosen.camera.image, *chosen.joint_states}):
        raise ConfigurationError(
            f"{bag.path}: {unusable}; images, joints and actions are matched by their stamps, so let the drivers stamp "
            "every message with the time of its measurement"
        )
    joints = BagJoints(arm)
    contents = BagContents(chosen, bag.complete)
    for message in bag.messages(set(chosen.joint_states)):
        state = joints(message, bag.decode(message))
        if state is not None:
            contents.joints.append(state)
    if not contents.joints:
        reason = joints.first_refusal() or "record joint_states, or choose the arm with --arm"
        raise ConfigurationError(f"{bag.path}: holds no joint states of arm {arm.name}; {reason}")
    contents.joints.sort(key=lambda state: state.stamp_ns)
    _Reading(contents, bag, arm, contract, namespace_of(bag, choice)).read()
    contents.commands.sort(key=lambda command: command[0])
    return contents


def read_images(bag: BagReader, contents: BagContents) -> Iterator[BagImage]:
    """Yield the images of a bag in the order of recording."""
    chosen = contents.topics.camera
    camera: CameraModel | None = None
    for message in bag.messages({chosen.image, chosen.camera_info}):
        content = bag.decode(message)
        if message.topic == chosen.camera_info:
            camera = camera_model(content, message.topic, chosen.rectified)
            continue
        stamp = decode.stamp_ns(content.header.stamp)
        image = decode.image_from_message(content, message.topic)
        yield BagImage(stamp, message.log_time_ns, image, camera)


class _Reading:
    """Reads the graph's own topics."""

    def __init__(self, contents: BagContents, bag: BagReader, arm: Arm, contract: Contract, namespace: str) -> None:
        self._contents, self._bag, self._arm, self._contract = contents, bag, arm, contract
        self._namespace = namespace
        self._widths: dict[int, float] = {}  # of the policy's gripper, by the stamp of its image
        self._decided_by = DecidedBy.POLICY  # as of the message that is read

    def read(self) -> None:
        """Read the bag once."""
        own = {name: f"{self._namespace}/{name}" for name in GRAPH_TOPICS}
        command = self._arm.topics.joint_trajectory
        takers = {
            own[topics.FEATURES]: self._features,
            own[topics.RESIDUAL]: self._residual,
            own[topics.GRIPPER]: self._gripper,
            own[topics.RESIDUAL_APPLIED]: self._residual_applied,
            own[topics.ACTION_APPLIED]: self._action_applied,
            own[topics.EPISODE]: self._episode,
            own[topics.SAFETY_STATE]: self._safety_state,
            command if command.startswith("/") else f"{self._namespace}/{command}": self._command,
        }
        for message in self._bag.messages(set(takers)):
            takers[message.topic](message, self._bag.decode(message))

    def _features(self, message: RecordedMessage, content: Any) -> None:
        stamp = decode.stamp_ns(content.header.stamp)
        self._contents.features[stamp] = decode.features_from_message(content, message.topic)

    def _gripper(self, message: RecordedMessage, content: Any) -> None:
        stamp, width = decode.gripper_from_message(content)
        self._widths[stamp] = width

    def _residual(self, message: RecordedMessage, content: Any) -> None:
        stamp, action = self._action(message, content)
        self._contents.asked[stamp] = action

    def _residual_applied(self, message: RecordedMessage, content: Any) -> None:
        stamp, action = self._action(message, content, gripper=False)
        self._contents.applied.setdefault(stamp, action)
        self._contents.decided_by[stamp] = self._decided_by

    def _safety_state(self, message: RecordedMessage, content: Any) -> None:
        try:
            reasons = SafetyState.from_json(content.data).reasons
        except ConfigurationError:  # of another release, which knew no takeovers
            reasons = ()
        deciders = {Reason.JOG: DecidedBy.PERSON, Reason.WAITING_FOR_RESUME: DecidedBy.NEITHER}
        self._decided_by = next((deciders[reason] for reason in deciders if reason in reasons), DecidedBy.POLICY)

    def _action_applied(self, message: RecordedMessage, content: Any) -> None:
        stamp, action = decode.action_from_message(content, self._contract.action.components, message.topic)
        self._contents.applied[stamp] = action  # it has the gripper, too

    def _action(self, message: RecordedMessage, content: Any, gripper: bool = True) -> tuple[int, np.ndarray]:
        """Decode a residual to the stamp of its image and the action [A] in action units."""
        stamp, contract = decode.stamp_ns(content.header.stamp), self._contract.action
        in_joint_space = hasattr(content, "points")
        if in_joint_space != (contract.kind == "joint_velocity"):
            found = "velocities of the joints" if in_joint_space else "a velocity of the tool"
            raise ConfigurationError(
                f"{self._bag.path}: topic {message.topic} holds {found}, but the actions of bundle "
                f"{self._contract.name} are of kind {contract.kind}; give the bundle that ran with --bundle"
            )
        if in_joint_space:
            twist = decode.joint_velocities_from_message(content, self._arm.joint_names)
        else:
            twist = decode.twist_from_message(content, self._arm.base_frame, message.topic)
        width = self._widths.get(stamp) if gripper else None
        action = action_of(Residual(stamp, twist, width), contract, self._arm.joint_names)
        if width is None and "gripper" in contract.components:
            action[contract.components.index("gripper")] = np.nan
        return stamp, action

    def _command(self, message: RecordedMessage, content: Any) -> None:
        if not content.points:  # it ends the trajectory before it, as at the start of an episode
            return
        trajectory = decode.trajectory_from_message(
            content, self._arm.driver_names(self._arm.joint_names), message.topic
        )
        self._contents.commands.append((trajectory.stamp_ns, trajectory.positions[0]))

    def _episode(self, message: RecordedMessage, content: Any) -> None:
        episode = decode.episode_from_message(content)
        success = (episode.outcome or {}).get("success") if episode.phase is Phase.FINISHED else None
        mark = EpisodeMark(
            episode.phase, episode.stamp, message.log_time_ns, success if isinstance(success, bool) else None
        )
        self._contents.marks.append(mark)
