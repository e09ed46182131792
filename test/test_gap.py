"""The gap doctor: a mistake planted in a deployment is named by its stage, and a healthy one has none."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from written_bag import write_bag

from rlfp_ros import cli
from rlfp_ros.commissioning.gap import compare, read_observations
from rlfp_ros.contract import load_bundle
from rlfp_ros.control.arm import JointState, load_arm
from rlfp_ros.control.policy import Policy
from rlfp_ros.nodes import messages as m
from rlfp_ros.perception.camera import CameraModel
from rlfp_ros.perception.encoder import Perception
from rlfp_ros.perception.preprocess import Preprocessor
from rlfp_ros.simulation.mujoco_world import MujocoWorld
from rlfp_ros.simulation.room import load_room
from rlfp_ros.simulation.scene import load_scene
from rlfp_ros.simulation.tasks.task import load_task

ARM = load_arm("panda")
BUNDLE = load_bundle("reach_panda")
FRAMES = 10
START = 1_800_000_000_000_000_000  # ns, a wall clock


@pytest.fixture(scope="module")
def taken() -> tuple[list[tuple[np.ndarray, np.ndarray]], CameraModel]:
    """Images [H, W, 3] of a moving arm in the twin's room with its joints [7], and the camera."""
    world = MujocoWorld(ARM, load_task("reach"), load_room("twin_near"), load_scene(), BUNDLE.contract.camera)
    world.reset(3)
    frames = []
    for frame in range(FRAMES):
        joints = np.array(ARM.home) + 0.03 * frame * np.array([1, -0.5, 0.6, 0.8, 0.3, 0.5, -1.0])
        world.move_arm(joints, 0.04)
        frames.append((world.picture(), joints))
    camera = world.calibration
    world.close()
    assert camera is not None
    assert camera.distortion is not None
    return frames, camera


@dataclass
class Deployment:
    """What a deployment does; a test plants its mistake by replacing a part."""

    picture: Callable[[np.ndarray], np.ndarray] | None = None  # the encoder's input, in place of training's
    policy_joints: Callable[[JointState], JointState] = lambda state: state
    driver_joints: Callable[[np.ndarray], np.ndarray] = lambda positions: positions
    reverse_stack: bool = False
    newest_joints: bool = False
    residual_scale: float = 1.0
    one_frame_late: bool = False
    rate_hz: float = 30.0
    delay_s: float = 0.035


def record(folder: Path, taken: Any, planted: Deployment) -> Path:
    """Run the deployment over the pictures and record what went over the topics."""
    frames, camera = taken
    perception, policy, preprocess = Perception(BUNDLE), Policy(BUNDLE, ARM), Preprocessor(BUNDLE.contract)
    if planted.reverse_stack:
        observe = policy._observer.observe

        def reversed_stack(*arguments: Any) -> dict[str, np.ndarray]:
            observation = observe(*arguments)
            return observation | {"features": observation["features"][::-1].copy()}

        policy._observer.observe = reversed_stack  # type: ignore[method-assign]
    rows: list[tuple[m.Topic, Any, int]] = []
    last = None
    for number, (image, joints) in enumerate(frames):
        stamp = START + int(number * 1e9 / planted.rate_hz)
        received = stamp + int(planted.delay_s * 1e9)
        states = []
        for after_ms in (0, 10, 20, 30):  # the arm goes on while the picture is on its way
            positions = planted.driver_joints(joints + 0.001 * after_ms * np.arange(1, 8))
            now = stamp + after_ms * 1_000_000
            states.append(JointState(now, positions, np.full(7, 0.01), np.zeros(7), 0.04))
            message = m.joint_state_message(states[-1], ARM)
            for name in ("name", "position", "velocity", "effort"):  # this driver has an order of its own
                setattr(message, name, list(getattr(message, name))[::-1])
            rows.append((m.JOINT_STATES, message, now))
        rows.append(
            (m.CAMERA_INFO, m.camera_info_message(stamp, "optical", 160, 120, camera.K, camera.distortion), received)
        )
        rows.append((m.IMAGE, m.image_message(stamp, image, "optical"), received))
        if planted.picture is None:
            features = perception(image, camera).features
        else:
            features = perception._encoder(planted.picture(preprocess(image, camera)))[0]
        if planted.one_frame_late:
            last, features = features, last if last is not None else features
        rows.append((m.FEATURES, m.features_message(stamp, features, "optical"), received + 5_000_000))
        used = states[-1] if planted.newest_joints else states[0]
        residual = policy.act(features, planted.policy_joints(used), stamp)
        residual = replace(residual, twist=residual.twist * planted.residual_scale)
        rows.append((m.RESIDUAL, m.residual_message(residual, ARM.base_frame), received + 8_000_000))
    return write_bag(folder, sorted(rows, key=lambda row: row[2]))


def parted(folder: Path) -> dict[str, str]:
    return {stage.name: stage.detail for stage in compare(BUNDLE, ARM, read_observations(folder, ARM)) if stage.parts}


def plain_resize(image: np.ndarray) -> np.ndarray:
    return np.asarray(cv2.resize(image, (84, 84), interpolation=cv2.INTER_AREA))


def in_message_order(state: JointState) -> JointState:
    """The driver's first seven: the fingers and then the arm backwards."""
    return replace(state, positions=np.array([0.02, 0.02, *state.positions[::-1][:5]]))


def test_healthy_deployment_parts_nowhere(taken: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bag = record(tmp_path / "bag", taken, Deployment())
    assert parted(bag) == {}
    assert cli.main(["gap", "--bag", str(bag), "--json", str(tmp_path / "gap.json")]) == 0
    stages = json.loads((tmp_path / "gap.json").read_text())["stages"]
    assert [stage["stage"] for stage in stages] == [
        "rate", "latency", "size", "crop", "colour order", "normalisation", "joint order", "units", "stack order",
    ]  # fmt: skip
    assert "30.0 Hz" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("planted", "stage", "words"),
    [
        (Deployment(rate_hz=15.0), "rate", "pictures come at 15.0 Hz, trained at 30 Hz"),
        (Deployment(delay_s=0.4), "latency", "pictures are 400 ms old"),
        (Deployment(delay_s=-2.0), "latency", "stamp with the system clock"),
        (Deployment(one_frame_late=True), "latency", "of the picture before"),
        (Deployment(newest_joints=True, delay_s=0.031), "latency", "the newest joints were used"),
        (Deployment(picture=lambda image: image[..., ::-1]), "colour order", "red and blue are swapped"),
        (Deployment(picture=lambda image: image // 255), "normalisation", "scaled to 0..1"),
        (Deployment(picture=lambda image: image[::-1, ::-1]), "crop", "upside down"),
        (Deployment(policy_joints=in_message_order), "joint order", "as the driver orders them"),
        (
            Deployment(policy_joints=lambda state: replace(state, positions=np.degrees(state.positions))),
            "units", "joints in degrees",
        ),
        (Deployment(driver_joints=np.degrees), "units", "joint_states are in degrees"),
        (Deployment(residual_scale=1 / BUNDLE.contract.action.scale[0]), "units", "not multiplied"),
        (Deployment(reverse_stack=True), "stack order", "the newest frame comes first"),
        (Deployment(residual_scale=-1.0), "residual", "for no reason that is known here"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_planted_mistake_is_named_by_its_stage(
    taken: Any, tmp_path: Path, planted: Deployment, stage: str, words: str
) -> None:
    found = parted(record(tmp_path / "bag", taken, planted))
    assert list(found) == [stage], found
    assert words in found[stage]


def test_pictures_that_were_cut_or_resized_without_their_lens(taken: Any, tmp_path: Path) -> None:
    frames, _ = taken
    for name, change in (("crop", lambda image: plain_resize(image[:, 20:140])), ("size", plain_resize)):
        images = iter([change(image) for image, _ in frames])
        planted = Deployment(picture=lambda _, images=images: next(images))
        found = parted(record(tmp_path / name, taken, planted))
        assert list(found) == [name], found


def test_camera_info_of_another_size_is_said(taken: Any, tmp_path: Path) -> None:
    bag = record(tmp_path / "bag", taken, Deployment())
    seen = read_observations(bag, ARM)
    assert seen.camera is not None
    seen.camera = replace(seen.camera, width=320, height=240)
    found = {stage.name: stage.detail for stage in compare(BUNDLE, ARM, seen) if stage.parts}
    assert found == {
        "size": "pictures are 160 x 120, but camera_info says 320 x 240; let the driver publish both for the same size"
    }


def test_bag_without_the_graph_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    info = m.camera_info_message(START, "optical", 160, 120, np.eye(3))
    bag = write_bag(tmp_path / "bag", [(m.CAMERA_INFO, info, START)])
    assert cli.main(["gap", "--bag", str(bag)]) == 2
    assert "holds no images" in capsys.readouterr().err
