"""Tests of the choice of topics in a bag: those of one camera and one robot, or an error that lists them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from geometry_msgs.msg import TwistStamped
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from std_msgs.msg import String
from written_bag import write_bag

from rlfp_ros.control.arm import JointState, load_arm
from rlfp_ros.nodes import messages as m
from rlfp_ros.recording.bag_topics import (
    ANY,
    TopicChoice,
    camera_topics,
    image_topic,
    joint_states_topics,
    namespace_of,
    robot_topics,
)
from rlfp_ros.recording.reader import BagReader
from rlfp_ros.recording.snapshots import read_snapshots
from rlfp_ros.schema import ConfigurationError

ARM = load_arm("panda")
K = np.array([[400.0, 0, 40], [0, 400, 30], [0, 0, 1]])
PIXELS = np.zeros((60, 80, 3), np.uint8)

Row = tuple[m.Topic, Any, int]


def topic(name: str, kind: Any) -> m.Topic:
    return m.Topic(name, kind, m.LATEST)


def image(name: str, frame: str = "optical", encoding: str = "rgb8") -> Row:
    message = m.image_message(5, PIXELS, frame)
    message.encoding = encoding
    return topic(name, Image), message, 5


def info(name: str, frame: str = "optical", focal: float = 400.0) -> Row:
    return topic(name, CameraInfo), m.camera_info_message(4, frame, 80, 60, K * [[focal / 400], [focal / 400], [1]]), 4


def joints(name: str, offset: float = 0.0) -> Row:
    state = JointState(3, np.array(ARM.home) + offset, np.zeros(7), np.zeros(7), 0.04)
    return topic(name, m.JOINT_STATES.type), m.joint_state_message(state, ARM), 3


def features(name: str) -> Row:
    return topic(name, PointCloud2), m.features_message(5, np.zeros((4, 3), np.float32), "optical"), 6


def bag_of(folder: Path, rows: Sequence[Row]) -> BagReader:
    return BagReader(write_bag(folder / "bag", sorted(rows, key=lambda row: row[2])))


def robot(namespace: str, offset: float = 0.0, focal: float = 400.0) -> list[Row]:
    return [
        image(f"{namespace}/camera/image_raw"),
        info(f"{namespace}/camera/camera_info", focal=focal),
        joints(f"{namespace}/joint_states", offset),
        features(f"{namespace}/perception/features"),
    ]


def test_camera_info_is_taken_from_the_namespace_of_the_images(tmp_path: Path) -> None:
    rows = [
        image("/rgb/image_raw"),
        info("/depth/camera_info", focal=360.0),
        info("/rgb/camera_info"),
        joints("/joint_states"),
    ]
    with bag_of(tmp_path, rows) as bag:
        chosen = camera_topics(bag)
    assert (chosen.image, chosen.camera_info) == ("/rgb/image_raw", "/rgb/camera_info")
    assert str(chosen) == "images from /rgb/image_raw, camera_info from /rgb/camera_info"
    (snapshot,) = read_snapshots(tmp_path / "bag", ARM)
    assert snapshot.camera is not None
    assert snapshot.camera.K[0, 0] == 400.0


def test_depth_images_are_no_camera_for_a_policy(tmp_path: Path) -> None:
    depth = "/camera/camera/aligned_depth_to_color"
    rows = [
        image(f"{depth}/image_raw", encoding="16UC1"),
        info(f"{depth}/camera_info", focal=390.0),
        image("/camera/camera/color/image_raw"),
        info("/camera/camera/color/camera_info"),
    ]
    with bag_of(tmp_path, rows) as bag:
        assert camera_topics(bag).image == "/camera/camera/color/image_raw"
        assert camera_topics(bag).camera_info == "/camera/camera/color/camera_info"


def test_two_cameras_are_refused_by_name_until_one_is_chosen(tmp_path: Path) -> None:
    rows = [image("/oak/left/image_raw", encoding="mono8"), image("/oak/rgb/image_raw"), info("/oak/rgb/camera_info")]
    with bag_of(tmp_path, rows) as bag:
        with pytest.raises(ConfigurationError) as caught:
            image_topic(bag)
        assert "several cameras (/oak/left/image_raw, /oak/rgb/image_raw)" in str(caught.value)
        assert "--image-topic NAME" in str(caught.value)
        for name in ("/oak/rgb/image_raw", "oak/rgb/image_raw"):
            assert image_topic(bag, TopicChoice(image=name)) == "/oak/rgb/image_raw"
        with pytest.raises(ConfigurationError, match="--image-topic is /oak/right, which it does not hold"):
            image_topic(bag, TopicChoice(image="/oak/right"))
        with pytest.raises(ConfigurationError, match=r"no /oak/left/camera_info for /oak/left/image_raw"):
            camera_topics(bag, TopicChoice(image="/oak/left/image_raw"))


def test_camera_info_of_another_frame_is_never_taken(tmp_path: Path) -> None:
    rows = [image("/rgb/image_raw", "rgb_optical"), info("/depth/camera_info", "depth_optical")]
    with bag_of(tmp_path, rows) as bag:
        with pytest.raises(ConfigurationError, match=r"no /rgb/camera_info for /rgb/image_raw, but /depth/camera_info"):
            camera_topics(bag)
        given = TopicChoice(camera_info="/depth/camera_info")
        assert camera_topics(bag, given).camera_info == "/depth/camera_info"


def test_camera_info_under_another_name_is_known_by_its_frame(tmp_path: Path) -> None:
    rows = [image("/rgb/image_raw", "rgb"), info("/calibration", "rgb"), info("/depth/camera_info", "depth")]
    with bag_of(tmp_path, rows) as bag:
        assert camera_topics(bag).camera_info == "/calibration"


def test_bag_without_camera_info_names_none(tmp_path: Path) -> None:
    with bag_of(tmp_path, [image("/rgb/image_raw")]) as bag:
        assert camera_topics(bag).camera_info == ""
        assert str(camera_topics(bag)).endswith("camera_info from no topic")


def test_one_image_in_two_transports_is_one_camera(tmp_path: Path) -> None:
    from sensor_msgs.msg import CompressedImage

    compressed = CompressedImage(header=m.header_message(5, "optical"), format="jpeg", data=b"\xff\xd8")
    rows = [
        image("/rgb/image_raw"),
        info("/rgb/camera_info"),
        (topic("/rgb/image_raw/compressed", CompressedImage), compressed, 5),
    ]
    with bag_of(tmp_path, rows) as bag:
        assert camera_topics(bag).image == "/rgb/image_raw"
        only = TopicChoice(image="/rgb/image_raw/compressed")
        assert camera_topics(bag, only).camera_info == "/rgb/camera_info"


def test_the_graphs_own_overlay_is_not_a_camera(tmp_path: Path) -> None:
    with bag_of(tmp_path, [*robot(""), image("/perception/overlay")]) as bag:
        assert image_topic(bag) == "/camera/image_raw"


def test_two_robots_are_refused_by_name_until_one_is_chosen(tmp_path: Path) -> None:
    with bag_of(tmp_path, [*robot("/arm_1", 0.1, 410.0), *robot("/arm_2", 0.2, 420.0)]) as bag:
        with pytest.raises(
            ConfigurationError, match=r"holds several robots \(/arm_1, /arm_2\); choose one with --name"
        ):
            namespace_of(bag)
        with pytest.raises(ConfigurationError, match="--namespace NAME"):
            robot_topics(bag, ARM)
        for name in ("arm_2", "/arm_2", "/arm_2/"):
            chosen = robot_topics(bag, ARM, TopicChoice(namespace=name))
            assert chosen.camera.image == "/arm_2/camera/image_raw"
            assert chosen.camera.camera_info == "/arm_2/camera/camera_info"
            assert chosen.joint_states == ("/arm_2/joint_states",)
        with pytest.raises(ConfigurationError, match="holds no topic of namespace /arm_3"):
            namespace_of(bag, TopicChoice(namespace="arm_3"))
    (snapshot,) = read_snapshots(tmp_path / "bag", ARM, choice=TopicChoice(namespace="arm_2"))
    assert snapshot.camera is not None
    assert snapshot.joints is not None
    assert snapshot.camera.K[0, 0] == 420.0
    np.testing.assert_allclose(snapshot.joints.positions, np.array(ARM.home) + 0.2)


def test_root_robot_beside_one_in_a_namespace_has_the_root_s_topics(tmp_path: Path) -> None:
    with bag_of(tmp_path, [*robot(""), *robot("/arm_2", 0.2, 420.0)]) as bag:
        root, other = (robot_topics(bag, ARM, TopicChoice(namespace=name)) for name in ("/", "arm_2"))
    assert root.camera.image == "/camera/image_raw"
    assert root.joint_states == ("/joint_states",)
    assert other.camera.image == "/arm_2/camera/image_raw"


def test_camera_outside_the_robot_s_namespace_is_found(tmp_path: Path) -> None:
    rows = [image("/cell/rgb/image_raw"), info("/cell/rgb/camera_info"), *robot("/arm_1")[2:]]
    with bag_of(tmp_path, rows) as bag:
        assert robot_topics(bag, ARM).camera.image == "/cell/rgb/image_raw"
        assert robot_topics(bag, ARM, TopicChoice(namespace="arm_1")).camera.image == "/cell/rgb/image_raw"


def test_joints_on_two_topics_are_refused_unless_one_is_the_arm_s(tmp_path: Path) -> None:
    with bag_of(
        tmp_path, [image("/rgb/image_raw"), joints("/left/joint_states"), joints("/right/joint_states")]
    ) as bag:
        with pytest.raises(ConfigurationError, match="joints of panda on several topics"):
            joint_states_topics(bag, ARM)
        assert joint_states_topics(bag, ARM, TopicChoice(joint_states="right/joint_states")) == ("/right/joint_states",)
    with bag_of(tmp_path / "usual", [joints("/joint_states"), joints("/commanded/joint_states")]) as bag:
        assert joint_states_topics(bag, ARM) == ("/joint_states",)


def test_topics_match_by_their_full_name_and_other_types_are_skipped(tmp_path: Path) -> None:
    """Names that end alike, or another type under the name of ours, are none of the graph's topics."""
    rows = [
        *robot(""),
        (topic("/my_perception/features", PointCloud2), m.features_message(5, np.ones((4, 3), np.float32), "o"), 7),
        (topic("/other/policy/residual", String), String(data="words"), 7),
        (topic("/other/goal", TwistStamped), TwistStamped(), 7),
    ]
    with bag_of(tmp_path, rows) as bag:
        assert namespace_of(bag) == ""
        assert robot_topics(bag, ARM, ANY).camera.image == "/camera/image_raw"
