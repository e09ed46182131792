"""A bundle with `trust.onnx` on the perception node: a process of its own, real DDS, a broken file."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import Process, TestNode
from fixture_bundle import make_bundle
from test_perception_node import PIXELS, Camera

from rlfp_ros.contract import load_bundle
from rlfp_ros.contract.bundle import sha256
from rlfp_ros.control import arm as arms
from rlfp_ros.nodes import messages
from rlfp_ros.perception.encoder import Perception

pytestmark = pytest.mark.graph
PANDA = arms.load_arm("panda")
STAMP = 1_790_000_000_033_333_333
TICK = 4_166_667


@pytest.fixture(scope="module")
def trusted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundles"), name="trusted", trust=True).directory


def joints(stamp: int, first: float) -> arms.JointState:
    positions = np.array(PANDA.home)
    positions[0] = first
    return arms.JointState(stamp, positions, np.zeros(7), np.zeros(7), 0.04)


class Robot(Camera):
    """A camera, and an arm that publishes its joints."""

    def __init__(self, node: TestNode) -> None:
        super().__init__(node)
        self.joint_states = node.publisher(messages.JOINT_STATES)

    def move(self, stamp: int, first: float) -> None:
        self.joint_states.publish(messages.joint_state_message(joints(stamp, first), PANDA))

    def score(self, stamp: int, first: float | None, joints_first: bool = True) -> float:
        """The domain shift of an image at `stamp`, with the first joint there, or without joints."""
        before = len(self.shifts)

        def sent() -> bool:
            nonlocal stamp
            if len(self.shifts) > before:
                return True
            stamp += TICK
            if first is not None and joints_first:
                self.move(stamp, first)
                self.node.spin_for(0.05)
            self.send(stamp)
            if first is not None and not joints_first:
                self.node.spin_for(0.05)
                self.move(stamp, first)
            self.node.spin_for(0.3)
            return False

        self.node.spin_until(sent, what="a domain shift")
        return float(self.shifts[-1].data)


@pytest.mark.parametrize("joints_first", [True, False])
def test_the_score_is_that_of_the_image_and_of_the_joints_at_its_time(
    test_node: TestNode, start_node: Callable[..., Process], trusted: Path, joints_first: bool
) -> None:
    robot = Robot(test_node)
    start_node("perception", {"bundle": trusted})
    robot.connected()
    test_node.connected(robot.joint_states)
    perception = Perception(load_bundle(trusted))
    red = float(PIXELS[..., 0].mean() / 255)
    for number, first in enumerate((-0.6, 0.2)):
        found = robot.score(STAMP + number * 100 * TICK, first, joints_first)
        assert found == pytest.approx(1 / (1 + np.exp(-(4 * first + red))), abs=1e-5)
        assert found == np.float32(perception(PIXELS, joint_positions=joints(0, first).positions).domain_shift)


def test_without_joints_the_image_alone_is_judged_and_that_is_reported(
    test_node: TestNode, start_node: Callable[..., Process], trusted: Path
) -> None:
    robot = Robot(test_node)
    process = start_node("perception", {"bundle": trusted})
    robot.connected()
    alone = Perception(load_bundle(trusted))(PIXELS).domain_shift

    stamp = STAMP

    def published() -> bool:  # the next image shows that no joints came for the one before
        nonlocal stamp
        stamp += 100 * TICK
        robot.send(stamp)
        test_node.spin_for(0.1)
        return bool(robot.shifts)

    test_node.spin_until(published)
    assert robot.shifts[0].data == np.float32(alone)
    robot.diagnosis("the domain shift is judged by the images alone")
    assert process.output.count("until then the domain shift is judged by the images alone") == 1


def test_a_score_that_is_not_finite_means_that_nothing_is_trusted(
    test_node: TestNode, start_node: Callable[..., Process], trusted: Path
) -> None:
    robot = Robot(test_node)
    start_node("perception", {"bundle": trusted})
    robot.connected()
    test_node.connected(robot.joint_states)
    assert robot.score(STAMP, 2.5) == 1.0


def altered(folder: Path) -> None:
    file = folder / "trust.onnx"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(bytes(content))


def cut(folder: Path) -> None:
    (folder / "trust.onnx").write_bytes((folder / "trust.onnx").read_bytes()[:200])
    _sign(folder)


def missing(folder: Path) -> None:
    (folder / "trust.onnx").unlink()


def another_network(folder: Path) -> None:
    """The encoder under the name of the score."""
    shutil.copy(folder / "encoder.onnx", folder / "trust.onnx")
    _sign(folder)


def other_weights(folder: Path) -> None:
    file = folder / "trust.onnx"
    four = np.float32(4).tobytes()
    content = file.read_bytes()
    assert content.count(four) == 1
    file.write_bytes(content.replace(four, np.float32(-4).tobytes()))
    _sign(folder)


def _sign(folder: Path) -> None:
    """Make bundle.yaml agree with the file."""
    file = folder / "bundle.yaml"
    document = yaml.safe_load(file.read_text())
    document["files"]["trust.onnx"] = sha256(folder / "trust.onnx")
    file.write_text(yaml.safe_dump(document))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (altered, "trust.onnx: sha256 is .*copy or export the bundle again"),
        (cut, "trust.onnx: ONNX Runtime cannot load it .*copy or export the bundle again"),
        (missing, "trust.onnx: no such file, but bundle.yaml lists it; copy the whole folder again"),
        (another_network, "trust.onnx: its metadata has no arm|trust.inputs is"),
        (other_weights, "trust.onnx: domain_shift differs from golden.npz"),
    ],
)
def test_a_broken_score_ends_the_node_in_one_line_and_exit_code_2(
    start_node: Callable[..., Process], trusted: Path, tmp_path: Path, damage: Callable[[Path], None], words: str
) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(trusted, folder)
    damage(folder)
    process = start_node("perception", {"bundle": folder})
    assert process.wait() == 2
    assert re.search(words, process.output)
    assert len(process.output.strip().splitlines()) == 1
