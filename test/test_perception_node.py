"""Tests of the perception node in a process of its own, over real DDS."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import Process, TestNode
from fixture_bundle import FX, HEIGHT, WIDTH
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image

from rlfp_ros.contract import load_bundle
from rlfp_ros.nodes import messages
from rlfp_ros.perception.encoder import Perception
from rlfp_ros.recording import decode

pytestmark = pytest.mark.graph
FRAME = "camera_optical_frame"
K = np.array([[FX, 0, (WIDTH - 1) / 2], [0, FX, (HEIGHT - 1) / 2], [0, 0, 1]])
PIXELS = np.random.default_rng(8).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


class Camera:
    """A camera driver, and everything that perception publishes."""

    def __init__(self, node: TestNode) -> None:
        self.node = node
        self.image = node.publisher(messages.IMAGE)
        self.info = node.publisher(messages.CAMERA_INFO)
        self.features = node.listen(messages.FEATURES)
        self.poses = node.listen(messages.OBJECT_POSE)
        self.shifts = node.listen(messages.DOMAIN_SHIFT)
        self.diagnostics = node.listen(messages.DIAGNOSTICS)

    def connected(self) -> None:
        self.node.connected(self.image, self.info)
        for topic in (messages.FEATURES, messages.OBJECT_POSE, messages.DOMAIN_SHIFT):
            self.node.spin_until(partial(self.node.node.count_publishers, topic.name))
        self.node.spin_for(0.2)  # the other direction of the match

    def send_info(self, stamp: int = 1, width: int = WIDTH, height: int = HEIGHT, matrix: np.ndarray = K) -> None:
        self.info.publish(messages.camera_info_message(stamp, FRAME, width, height, matrix))

    def send(self, stamp: int, pixels: np.ndarray = PIXELS) -> None:
        self.send_info(stamp)
        self.image.publish(messages.image_message(stamp, pixels, FRAME))

    def answered(self, publish: Callable[[], None], by: Callable[[], Any] | None = None) -> None:
        """Publish until features come, or what `by` waits for; a busy machine may lose the first image."""
        again = 0.0

        def seen() -> Any:
            nonlocal again
            if time.monotonic() >= again:
                publish()
                again = time.monotonic() + 2.0
            return by() if by else self.features

        self.node.spin_until(seen, what="an answer to what was published")

    def diagnosis(self, pattern: str) -> Any:
        """Wait for a diagnostics message like this."""
        return self.node.spin_until(self.diagnosed(pattern), what=f"diagnostics with {pattern!r}")

    def diagnosed(self, pattern: str) -> Callable[[], Any]:
        """Return a function that returns the newest diagnostics message like this, or None."""

        def found() -> Any:
            for array in reversed(self.diagnostics):
                for status in array.status:
                    if status.name == "perception" and re.search(pattern, status.message):
                        return status
            return None

        return found


@pytest.fixture
def camera(test_node: TestNode) -> Camera:
    return Camera(test_node)


@pytest.fixture(scope="module")
def running(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """One node for the tests that leave it as they found it."""
    process = Process("perception", {"bundle": tiny_bundle}, {}, tmp_path_factory.mktemp("perception"))
    yield process
    process.stop()


def test_features_pose_and_shift_are_those_in_process_with_the_image_s_stamp(
    camera: Camera, start_node: Callable[..., Process], tiny_bundle: Path
) -> None:
    bundle = load_bundle(tiny_bundle)
    expected = Perception(bundle)(PIXELS)
    start_node("perception", {"bundle": tiny_bundle})
    camera.connected()
    stamp = 1_790_000_000_033_333_333
    camera.answered(lambda: camera.send(stamp))
    camera.node.spin_until(lambda: camera.poses and camera.shifts)
    features = camera.features[0]
    assert decode.stamp_ns(features.header.stamp) == stamp
    assert features.header.frame_id == FRAME
    np.testing.assert_array_equal(decode.features_from_message(features), expected.features)
    T_base_camera = bundle.contract.camera.T_base_camera.matrix()
    truth = expected.in_base(T_base_camera)
    pose, found = decode.object_pose_from_message(camera.poses[0], "panda_link0")
    np.testing.assert_array_equal(pose, np.concatenate([truth.position, truth.orientation]))
    np.testing.assert_array_equal(found, truth.covariance)
    assert decode.stamp_ns(camera.poses[0].header.stamp) == stamp
    assert camera.shifts[0].data == np.float32(expected.domain_shift)
    status = camera.diagnosis("running|camera runs")
    assert any(value.key == "processing_count" and int(value.value) >= 1 for value in status.values)


def test_an_image_that_comes_before_its_camera_info_is_not_lost(
    camera: Camera, start_node: Callable[..., Process], tiny_bundle: Path
) -> None:
    start_node("perception", {"bundle": tiny_bundle})
    camera.connected()
    image = messages.image_message(5, PIXELS, FRAME)
    camera.answered(lambda: camera.image.publish(image), by=camera.diagnosed("no camera_info"))
    assert not camera.features
    camera.send_info()
    camera.node.spin_until(lambda: camera.features)
    assert decode.stamp_ns(camera.features[0].header.stamp) == 5


def test_a_camera_that_does_not_fit_is_refused_until_it_does(
    camera: Camera, start_node: Callable[..., Process], tiny_bundle: Path
) -> None:
    process = start_node("perception", {"bundle": tiny_bundle})
    camera.connected()
    narrow = np.array([[300.0, 0, 31.5], [0, 300.0, 23.5], [0, 0, 1]])
    camera.send_info(matrix=narrow)
    status = camera.diagnosis("sees .* of the bundle's image")
    assert status.level == b"\x02"
    camera.image.publish(messages.image_message(5, PIXELS, FRAME))
    camera.node.spin_for(0.3)
    assert not camera.features
    assert process.output.count("of the bundle's image") == 1
    camera.answered(lambda: camera.send(6))
    assert decode.stamp_ns(camera.features[0].header.stamp) == 6


def test_a_larger_camera_is_resized(camera: Camera, start_node: Callable[..., Process], tiny_bundle: Path) -> None:
    start_node("perception", {"bundle": tiny_bundle})
    camera.connected()
    large = np.repeat(np.repeat(PIXELS, 4, axis=0), 4, axis=1)
    matrix = np.array([[4 * FX, 0, 4 * WIDTH / 2 - 0.5], [0, 4 * FX, 4 * HEIGHT / 2 - 0.5], [0, 0, 1]])
    camera.send_info(7, 4 * WIDTH, 4 * HEIGHT, matrix)
    camera.answered(lambda: camera.image.publish(messages.image_message(7, large, FRAME)))
    mean = PIXELS.reshape(-1, 3).mean(axis=0) / 255
    np.testing.assert_allclose(decode.features_from_message(camera.features[0])[0], mean, atol=1e-5)


@pytest.mark.parametrize("transport", ["auto", "compressed"])
def test_compressed_images_are_used_if_there_are_no_raw_ones(
    test_node: TestNode, start_node: Callable[..., Process], tiny_bundle: Path, transport: str
) -> None:
    compressed = test_node.publisher(messages.IMAGE_COMPRESSED)
    info = test_node.publisher(messages.CAMERA_INFO)
    features = test_node.listen(messages.FEATURES)
    start_node("perception", {"bundle": tiny_bundle, "image_transport": transport})
    test_node.connected(compressed, info)
    content = cv2.imencode(".png", PIXELS[..., ::-1])[1].tobytes()
    message = CompressedImage(
        header=messages.header_message(5, FRAME), format="rgb8; png compressed bgr8", data=content
    )

    def heard() -> bool:
        info.publish(messages.camera_info_message(5, FRAME, WIDTH, HEIGHT, K))
        compressed.publish(message)
        test_node.spin_for(0.05)
        return bool(features)

    test_node.spin_until(heard)
    mean = PIXELS.reshape(-1, 3).mean(axis=0) / 255
    np.testing.assert_allclose(decode.features_from_message(features[0])[0], mean, atol=1e-5)


def test_the_overlay_is_drawn_only_while_it_has_a_subscriber(
    camera: Camera, start_node: Callable[..., Process], tiny_bundle: Path
) -> None:
    start_node("perception", {"bundle": tiny_bundle})
    camera.connected()
    camera.answered(lambda: camera.send(5))
    overlays: list[Image] = []
    watcher = camera.node.node.create_subscription(Image, messages.OVERLAY.name, overlays.append, messages.BEST_EFFORT)
    stamps = iter(range(10, 10_000))

    def sent_and_heard() -> bool:
        camera.send(next(stamps))
        camera.node.spin_for(0.05)
        return bool(overlays)

    camera.node.spin_until(sent_and_heard)
    assert overlays[0].width >= 400
    assert overlays[0].header.frame_id == FRAME
    camera.node.node.destroy_subscription(watcher)


def test_a_best_effort_camera_is_seen_too(
    test_node: TestNode, start_node: Callable[..., Process], tiny_bundle: Path
) -> None:
    sensor = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
    image, info = test_node.publisher(messages.IMAGE, sensor), test_node.publisher(messages.CAMERA_INFO, sensor)
    features = test_node.listen(messages.FEATURES)
    start_node("perception", {"bundle": tiny_bundle})
    test_node.connected(image, info)

    def heard() -> bool:
        info.publish(messages.camera_info_message(5, FRAME, WIDTH, HEIGHT, K))
        image.publish(messages.image_message(5, PIXELS, FRAME))
        test_node.spin_for(0.05)
        return bool(features)

    test_node.spin_until(heard)


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({}, "perception parameters: bundle is missing"),
        ({"bundle": "nowhere"}, "nowhere: no such file, and models/ has no 'nowhere'"),
        ({"bundle": "{tiny}", "rate": 3}, "rate is not a parameter of this node, which has: arm, bundle, extrinsics"),
        ({"bundle": "{tiny}", "image_transport": "theora"}, "image_transport is 'theora', but it should be 'auto'"),
        ({"bundle": "{tiny}", "extrinsics": "/nowhere.yaml"}, "/nowhere.yaml: no such file"),
    ],
)
def test_an_error_that_the_user_can_correct_ends_with_one_line_and_code_2(
    start_node: Callable[..., Process], tiny_bundle: Path, parameters: dict[str, Any], words: str
) -> None:
    given = {name: str(value).replace("{tiny}", str(tiny_bundle)) for name, value in parameters.items()}
    if "rate" in parameters:
        given["rate"] = parameters["rate"]
    process = start_node("perception", given)
    assert process.wait() == 2
    assert words in process.output
    assert len(process.output.strip().splitlines()) == 1


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_the_node_cleanly_and_quickly(
    camera: Camera, start_node: Callable[..., Process], tiny_bundle: Path, signal_number: int
) -> None:
    process = start_node("perception", {"bundle": tiny_bundle})
    camera.connected()
    began = time.monotonic()
    process.popen.send_signal(signal_number)
    process.popen.send_signal(signal_number)  # a terminal's Ctrl-C and a launcher's both arrive
    assert process.wait(3.0) == 0
    assert time.monotonic() - began < 3.0
    assert "Traceback" not in process.output


# ---- the tests that share a node come last: as long as it runs, every image has two perceivers ----


@pytest.mark.parametrize("encoding", ["bgr8", "rgba8", "bgra8"])
def test_other_encodings_and_padded_rows_give_the_same_features(
    camera: Camera, running: Process, encoding: str
) -> None:
    camera.connected()
    camera.send(10)
    camera.node.spin_until(lambda: len(camera.features) == 1)
    rgba = np.dstack([PIXELS, np.zeros((HEIGHT, WIDTH), np.uint8)])
    pixels = {"bgr8": PIXELS[..., ::-1], "rgba8": rgba, "bgra8": rgba[..., [2, 1, 0, 3]]}[encoding]
    rows = np.hstack([pixels.reshape(HEIGHT, -1), np.full((HEIGHT, 9), 99, np.uint8)])
    message = messages.image_message(20, PIXELS, FRAME)
    message.encoding, message.step, message.data = encoding, rows.shape[1], rows.tobytes()
    camera.image.publish(message)
    camera.node.spin_until(lambda: len(camera.features) == 2)
    first, second = (decode.features_from_message(features) for features in camera.features)
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"encoding": "16UC1"}, "topic /camera/image_raw: encoding is '16UC1', expected one of rgb8"),
        ({"step": 3}, "step is 3, expected at least 192"),
        ({"height": HEIGHT + 1}, "data has 9216 bytes, expected 9408"),
        ({"height": HEIGHT // 2}, "image is 64 x 24, but camera_info says 64 x 48"),
    ],
)
def test_a_wrong_image_is_reported_in_one_sentence_and_the_next_good_one_is_used(
    camera: Camera, running: Process, change: dict[str, Any], sentence: str
) -> None:
    camera.connected()
    camera.send_info()
    message = messages.image_message(5, PIXELS, FRAME)
    for field, value in change.items():
        setattr(message, field, value)
    camera.image.publish(message)
    camera.diagnosis(re.escape(sentence))
    assert "Traceback" not in running.output
    camera.answered(lambda: camera.send(6))
    camera.diagnosis("^running|camera runs")
