"""Chooses the topics of one camera and one robot in a bag that may hold several: the same choice for every tool.

Names are compared whole, and only topics of the right type count. If several fit, nothing is guessed: the error lists
them with the option that chooses.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from rlfp_ros.control.arm import Arm
from rlfp_ros.perception import images
from rlfp_ros.perception.image_topics import ImageKind, base_topic, camera_info_beside, is_rectified
from rlfp_ros.recording import topics
from rlfp_ros.recording.reader import BagReader
from rlfp_ros.schema import ConfigurationError

RAW_IMAGE, COMPRESSED_IMAGE = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
JOINT_STATE = "sensor_msgs/msg/JointState"
# Name and type of topics that every graph publishes, by which the namespaces of the robots in a bag are found.
MARKERS = {
    topics.FEATURES: ("sensor_msgs/msg/PointCloud2",),
    topics.RESIDUAL: ("geometry_msgs/msg/TwistStamped", "trajectory_msgs/msg/JointTrajectory"),
}
LOOKED_AT = 50  # number of messages per topic that are searched for the arm's joints


@dataclass(frozen=True)
class TopicChoice:
    """A user's choice of a bag's topics. An empty field is found in the bag.

    Attributes
    ----------
    image, camera_info, joint_states
        Names of topics, absolute or relative to `namespace`.
    namespace
        The robot's namespace, such as /arm_1; "/" is the root.
    image_kind
        Whether the images are raw or rectified.
    """

    image: str = ""
    camera_info: str = ""
    joint_states: str = ""
    namespace: str = ""
    image_kind: ImageKind = "auto"


ANY = TopicChoice()


@dataclass(frozen=True)
class CameraTopics:
    """One camera's topics in a bag. `camera_info` is empty if the bag holds none that belongs to the images."""

    image: str
    camera_info: str
    rectified: bool

    def __str__(self) -> str:
        kind = " (rectified)" if self.rectified else ""
        return f"images from {self.image}{kind}, camera_info from {self.camera_info or 'no topic'}"


@dataclass(frozen=True)
class RobotTopics:
    """One robot's topics in a bag: its camera, and the joint states that carry its arm's joints."""

    camera: CameraTopics
    joint_states: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.camera}, joints from {', '.join(self.joint_states) or 'no topic'}"


def namespace_of(bag: BagReader, choice: TopicChoice = ANY) -> str:
    """Find the namespace of the robot that a bag is about.

    Returns
    -------
    str
        "" for the root, else /name.

    Raises
    ------
    ConfigurationError
        If several robots are in the bag and `choice` names none of them.
    """
    if choice.namespace:
        wanted = choice.namespace.strip("/")
        namespace = f"/{wanted}" if wanted else ""
        if namespace and not any(name.startswith(f"{namespace}/") for name in bag.topics):
            raise ConfigurationError(
                f"{bag.path}: holds no topic of namespace {namespace}; it holds: {_list(bag.topics)}"
            )
        return namespace
    found = _namespaces(bag)
    if len(found) > 1:
        shown = ", ".join(sorted(name or "/" for name in found))
        raise ConfigurationError(f"{bag.path}: holds several robots ({shown}); choose one with --namespace NAME")
    return next(iter(found), "")


def own_topic(bag: BagReader, namespace: str, name: str, types: Sequence[str]) -> str:
    """Return a topic of the graph by its relative name, or "" if the bag holds none of these types there."""
    topic = f"{namespace}/{name}"
    return topic if bag.topics.get(topic) in types else ""


def camera_topics(bag: BagReader, choice: TopicChoice = ANY) -> CameraTopics:
    """Choose a camera: its image topic, and the camera_info that belongs to it.

    Raises
    ------
    ConfigurationError
        If the bag holds no image, or images of several cameras and `choice` names none of them.
    """
    image = image_topic(bag, choice)
    return CameraTopics(image, _camera_info_topic(bag, image, choice), is_rectified(image, choice.image_kind))


def robot_topics(bag: BagReader, arm: Arm, choice: TopicChoice = ANY) -> RobotTopics:
    """Choose the topics of one robot. Raises ConfigurationError as `camera_topics` and `joint_states_topics` do."""
    return RobotTopics(camera_topics(bag, choice), joint_states_topics(bag, arm, choice))


def joint_states_topics(bag: BagReader, arm: Arm, choice: TopicChoice = ANY) -> tuple[str, ...]:
    """Choose the joint states of one robot.

    Returns
    -------
    tuple of str
        The topic that was named, the one that the arm's file names, or the only one that carries the arm's joints.
        Empty if the bag holds none.

    Raises
    ------
    ConfigurationError
        If the topic that was named is not in the bag, or several carry joints of these names.
    """
    if choice.joint_states:
        return (_given(bag, choice.joint_states, (JOINT_STATE,), choice, "--joint-states-topic"),)
    namespace = namespace_of(bag, choice)
    usual = arm.topics.joint_states
    topic = usual if usual.startswith("/") else f"{namespace}/{usual}"
    if bag.topics.get(topic) == JOINT_STATE:
        return (topic,)
    wanted = set(arm.driver_names(arm.joint_names))
    names = [
        name
        for name in _of_robot(bag, [JOINT_STATE], namespace, choice)
        if any(wanted & set(bag.decode(message).name) for message in islice(bag.messages({name}), LOOKED_AT))
    ]
    if len(names) > 1:
        raise ConfigurationError(
            f"{bag.path}: holds joints of {arm.name} on several topics ({', '.join(names)}); choose one with "
            "--joint-states-topic NAME, or a robot with --namespace NAME"
        )
    return tuple(names)


def _namespaces(bag: BagReader) -> set[str]:
    found = set()
    for marker, types in MARKERS.items():
        for name, kind in bag.topics.items():
            if kind in types and name.endswith(f"/{marker}"):
                found.add(name.removesuffix(f"/{marker}"))
    return found


def _of_robot(bag: BagReader, types: Sequence[str], namespace: str, choice: TopicChoice) -> list[str]:
    """Return the topics of these types in the robot's namespace; if there are none, those outside any robot's."""
    names = sorted(name for name, kind in bag.topics.items() if kind in types)
    robots = _namespaces(bag)
    deeper = [other for other in robots if other.startswith(f"{namespace}/")]
    mine = [name for name in names if name.startswith(f"{namespace}/") and not _inside(name, deeper)]
    if mine or (choice.namespace and namespace not in robots):
        return mine
    return [name for name in names if not _inside(name, [other for other in robots if other])]


def _inside(name: str, namespaces: Iterable[str]) -> bool:
    return any(name.startswith(f"{namespace}/") for namespace in namespaces)


def _given(bag: BagReader, name: str, types: Sequence[str], choice: TopicChoice, option: str) -> str:
    """Return the topic that a person named, absolute. Raises ConfigurationError if the bag does not hold it."""
    namespace = choice.namespace.strip("/")
    wanted = [name] if name.startswith("/") else [f"/{namespace}/{name}", f"/{name}"]
    for topic in wanted:
        if bag.topics.get(topic.replace("//", "/")) in types:
            return topic.replace("//", "/")
    there = [topic for topic, kind in bag.topics.items() if kind in types]
    raise ConfigurationError(
        f"{bag.path}: {option} is {name}, which it does not hold as {' or '.join(types)}; it holds: {_list(there)}"
    )


def image_topic(bag: BagReader, choice: TopicChoice = ANY) -> str:
    """Choose the image topic. Raises ConfigurationError as `camera_topics` does."""
    types = (RAW_IMAGE, COMPRESSED_IMAGE)
    if choice.image:
        return _given(bag, choice.image, types, choice, "--image-topic")
    namespaces = [namespace_of(bag, choice)] if choice.namespace else sorted(_namespaces(bag)) or [""]
    names = sorted({name for namespace in namespaces for name in _of_robot(bag, types, namespace, choice)})
    names = [name for name in names if not name.endswith(f"/{topics.OVERLAY}")]
    # If an image is recorded in several transports, the raw one is used.
    names = [name for name in names if base_topic(name) == name or base_topic(name) not in names]
    if not names:
        raise ConfigurationError(f"{bag.path}: holds no images ({' or '.join(types)}); it holds: {_list(bag.topics)}")
    if len(names) > 1:
        names = [name for name in names if _is_readable(bag, name)] or names
    if len(names) > 1:
        raise ConfigurationError(
            f"{bag.path}: holds images of several cameras ({', '.join(names)}); choose one with --image-topic NAME, or "
            "a robot with --namespace NAME"
        )
    return names[0]


def _camera_info_topic(bag: BagReader, image: str, choice: TopicChoice) -> str:
    """Find the camera_info beside an image topic; if there is none, one of the images' frame and of no other images."""
    if choice.camera_info:
        return _given(bag, choice.camera_info, (CAMERA_INFO,), choice, "--camera-info-topic")
    beside = camera_info_beside(image)
    if bag.topics.get(beside) == CAMERA_INFO:
        return beside
    there = sorted(name for name, kind in bag.topics.items() if kind == CAMERA_INFO)
    image_types = (RAW_IMAGE, COMPRESSED_IMAGE)
    taken = {camera_info_beside(name) for name, kind in bag.topics.items() if kind in image_types}
    frame = _frame(bag, image)
    fitting = [name for name in there if name not in taken and frame and _frame(bag, name) == frame]
    if len(fitting) > 1 or (there and not fitting):
        raise ConfigurationError(
            f"{bag.path}: holds no {beside} for {image}, but {', '.join(there)}; choose with --camera-info-topic NAME, "
            "or record the one beside the images"
        )
    return fitting[0] if fitting else ""


def _first(bag: BagReader, topic: str) -> Any:
    message = next(iter(bag.messages({topic})), None)
    return None if message is None else bag.decode(message)


def _frame(bag: BagReader, topic: str) -> str:
    message = _first(bag, topic)
    return "" if message is None else str(message.header.frame_id)


def _is_readable(bag: BagReader, topic: str) -> bool:
    """Return whether a topic's images can be a policy's input; depth and disparity cannot."""
    message = _first(bag, topic)
    if message is None:
        return False
    if bag.topics[topic] == RAW_IMAGE:
        return message.encoding in images.ENCODINGS
    return not topic.endswith(("/compressedDepth", "/theora")) and not message.format.startswith(("16UC1", "32FC1"))


def _list(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "nothing"
