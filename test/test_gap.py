"""Tests of `gap`: it names the stage of a planted mistake, and finds nothing in a healthy run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from written_bag import write_bag

from rlfp_ros import cli
from rlfp_ros.commissioning.gap import compare
from rlfp_ros.commissioning.recorded_run import read_run
from rlfp_ros.contract import load_bundle
from rlfp_ros.control.arm import JointState, load_arm
from rlfp_ros.control.policy import Observation, Policy
from rlfp_ros.nodes import messages as m
from rlfp_ros.perception.camera import CameraModel
from rlfp_ros.perception.encoder import Perception
from rlfp_ros.perception.preprocess import Preprocessor
from rlfp_ros.recording import decode
from rlfp_ros.simulation.mujoco_world import MujocoWorld
from rlfp_ros.simulation.room import load_room
from rlfp_ros.simulation.scene import load_scene
from rlfp_ros.simulation.tasks.task import load_task

ARM = load_arm("panda")
BUNDLE = load_bundle("reach_panda")
FRAMES = 36
START = 1_800_000_000_000_000_000  # ns, a wall clock


@pytest.fixture(scope="module")
def taken() -> tuple[list[tuple[np.ndarray, np.ndarray]], CameraModel]:
    """Images [H, W, 3] of a moving arm in the twin's room with its joints [7], and the camera."""
    world = MujocoWorld(ARM, load_task("reach"), load_room("twin_near"), load_scene(), BUNDLE.contract.camera)
    world.reset(3)
    frames = []
    for frame in range(FRAMES):
        joints = np.array(ARM.home) + 0.3 * np.sin(0.1 * frame) * np.array([1, -0.5, 0.6, 0.8, 0.3, 0.5, -1.0])
        world.move_arm(joints, 0.04)
        frames.append((world.render(), joints))
    camera = world.calibration
    world.close()
    assert camera is not None
    assert camera.distortion is not None
    return frames, camera


@dataclass
class Deployment:
    """What a deployment does; a test plants its mistake by replacing a part."""

    change_image: Callable[[np.ndarray], np.ndarray] | None = None  # the encoder's input, instead of training's
    policy_joints: Callable[[JointState], JointState] = lambda state: state
    driver_joints: Callable[[np.ndarray], np.ndarray] = lambda positions: positions
    reverse_stack: bool = False
    newest_joints: bool = False
    residual_scale: float = 1.0
    one_frame_late: bool = False
    rate_hz: float = 30.0
    delay_s: float = 0.035
    acts_from: int = 0  # the frame at which the policy first acts; those before are skipped, and no mistake
    restarts_at: int = -1  # the frame at which the policy has forgotten everything
    begins_at: int = 0  # the frame at which the recording begins
    lost: tuple[int, ...] = ()  # frames whose residual the recorder did not get
    numbered: bool = True  # messages carry their publisher's numbers, as our recorder writes them

    def changes(self) -> str:
        """Return the parts that differ from a plain deployment."""
        differing = (part.name for part in fields(self) if getattr(self, part.name) != part.default)
        return ", ".join(f"{name}={getattr(self, name)}" for name in differing)


def record(folder: Path, taken: Any, planted: Deployment) -> Path:
    """Run the deployment over the images and record what went over the topics."""
    frames, camera = taken
    perception, policy, preprocess = Perception(BUNDLE), Policy(BUNDLE, ARM), Preprocessor(BUNDLE.contract)
    rows: list[tuple[m.Topic, Any, int]] = []
    last = None
    for number, (image, joints) in enumerate(frames):
        stamp = START + int(number * 1e9 / planted.rate_hz)
        received = stamp + int(planted.delay_s * 1e9)
        states = []
        for after_ms in (0, 10, 20, 30):  # the arm continues while the image is on its way
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
        if planted.change_image is None:
            features = perception(image, camera).features
        else:
            features = perception.encode(planted.change_image(preprocess(image, camera))).features
        if planted.one_frame_late:
            last, features = features, last if last is not None else features
        rows.append((m.FEATURES, m.features_message(stamp, features, "optical"), received + 5_000_000))
        used = states[-1] if planted.newest_joints else states[0]
        if number < planted.acts_from:
            continue
        if number == planted.restarts_at:
            policy.reset()
        change = newest_first if planted.reverse_stack else None
        residual = policy.step(features, planted.policy_joints(used), stamp, alter=change).residual
        residual = replace(residual, twist=residual.twist * planted.residual_scale)
        rows.append((m.RESIDUAL, m.residual_message(residual, ARM.base_frame), received + 8_000_000))
    begin = START + int((planted.begins_at - 0.5) * 1e9 / planted.rate_hz)
    lost = {START + int(number * 1e9 / planted.rate_hz) for number in planted.lost}

    def got(topic: m.Topic, message: Any) -> bool:
        stamp = decode.stamp_ns(message.header.stamp)
        return stamp >= begin and not (topic is m.RESIDUAL and stamp in lost)

    return write_bag(folder, sorted(rows, key=lambda row: row[2]), planted.numbered, got)


def newest_first(observation: Observation) -> Observation:
    return observation | {"features": observation["features"][::-1].copy()}


def verdicts(folder: Path) -> dict[str, str]:
    stages = compare(BUNDLE, ARM, read_run(folder, ARM, BUNDLE.contract))
    return {stage.name: stage.verdict for stage in stages}


def diverging(folder: Path) -> dict[str, str]:
    stages = compare(BUNDLE, ARM, read_run(folder, ARM, BUNDLE.contract))
    return {stage.name: stage.detail for stage in stages if stage.diverges}


def plain_resize(image: np.ndarray) -> np.ndarray:
    return np.asarray(cv2.resize(image, (84, 84), interpolation=cv2.INTER_AREA))


def in_message_order(state: JointState) -> JointState:
    """The driver's first seven: the fingers and then the arm backwards."""
    return replace(state, positions=np.array([0.02, 0.02, *state.positions[::-1][:5]]))


def test_healthy_deployment_diverges_nowhere(taken: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bag = record(tmp_path / "bag", taken, Deployment())
    assert diverging(bag) == {}
    assert cli.main(["gap", "--bag", str(bag), "--json", str(tmp_path / "gap.json")]) == 0
    stages = json.loads((tmp_path / "gap.json").read_text())["stages"]
    assert [stage["stage"] for stage in stages] == [
        "rate",
        "latency",
        "size",
        "crop",
        "colour order",
        "normalisation",
        "joint order",
        "units",
        "stack order",
    ]
    assert "30.0 Hz" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("planted", "stage", "words"),
    [
        (Deployment(rate_hz=15.0), "rate", "images come at 15.0 Hz, trained at 30 Hz"),
        (Deployment(delay_s=0.4), "latency", "images are 400 ms old"),
        (Deployment(delay_s=-2.0), "latency", "stamp with the system clock"),
        (Deployment(one_frame_late=True), "latency", "of the image before"),
        (Deployment(newest_joints=True, delay_s=0.031), "latency", "the newest joints were used"),
        (Deployment(change_image=lambda image: image[..., ::-1]), "colour order", "red and blue are swapped"),
        (Deployment(change_image=lambda image: image // 255), "normalisation", "scaled to 0..1"),
        (Deployment(change_image=lambda image: image[::-1, ::-1]), "crop", "upside down"),
        (Deployment(policy_joints=in_message_order), "joint order", "as the driver orders them"),
        (
            Deployment(policy_joints=lambda state: replace(state, positions=np.degrees(state.positions))),
            "units",
            "joints in degrees",
        ),
        (Deployment(driver_joints=np.degrees), "units", "joint_states are in degrees"),
        (Deployment(residual_scale=1 / BUNDLE.contract.action.scale[0]), "units", "not multiplied"),
        (Deployment(reverse_stack=True), "stack order", "the newest frame comes first"),
        (Deployment(residual_scale=-1.0), "residual", "for no reason that is known here"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_planted_mistake_is_named_by_its_stage(
    taken: Any, tmp_path: Path, planted: Deployment, stage: str, words: str
) -> None:
    found = diverging(record(tmp_path / "bag", taken, planted))
    assert list(found) == [stage], found
    assert words in found[stage]


def next_of(images: Iterator[np.ndarray], _: np.ndarray) -> np.ndarray:
    return next(images)


def test_images_that_were_cut_or_resized_without_their_lens(taken: Any, tmp_path: Path) -> None:
    frames, _ = taken
    for name, change in (("crop", lambda image: plain_resize(image[:, 20:140])), ("size", plain_resize)):
        planted = Deployment(change_image=partial(next_of, iter([change(image) for image, _ in frames])))
        found = diverging(record(tmp_path / name, taken, planted))
        assert list(found) == [name], found


@pytest.mark.parametrize(
    "healthy",
    [
        Deployment(acts_from=7),
        Deployment(acts_from=7, numbered=False),
        Deployment(lost=(3, 4, 20)),
        Deployment(acts_from=5, lost=(5, 6, 11)),
        Deployment(restarts_at=15),
        Deployment(begins_at=12),
        Deployment(begins_at=12, numbered=False),
        Deployment(begins_at=25),
        Deployment(begins_at=25, numbered=False),
    ],
    ids=lambda healthy: healthy.changes(),
)
def test_a_healthy_run_diverges_nowhere_even_if_the_recorder_lost_messages(
    taken: Any, tmp_path: Path, healthy: Deployment
) -> None:
    found = verdicts(record(tmp_path / "bag", taken, healthy))
    assert "diverges" not in found.values(), found
    assert {name for name, verdict in found.items() if verdict == "not judged"} <= {"stack order"}


def test_the_replay_of_a_complete_run_is_exact(taken: Any, tmp_path: Path) -> None:
    """The policy's memory begins at the first frame on which it acts, and skips those on which it does not."""
    bag = record(tmp_path / "bag", taken, Deployment(acts_from=7, lost=(12, 13), restarts_at=20))
    run = read_run(bag, ARM, BUNDLE.contract)
    stretches = run.stretches()
    assert [stretch.from_start for stretch in stretches] == [True]
    assert len(stretches[0].actions) == FRAMES - 7
    assert [action.twist is None for action in stretches[0].actions].count(True) == 2


def test_a_recording_that_begins_later_has_an_unknown_memory(taken: Any, tmp_path: Path) -> None:
    for numbered in (True, False):
        bag = record(tmp_path / f"bag_{numbered}", taken, Deployment(begins_at=12, numbered=numbered))
        assert [stretch.from_start for stretch in read_run(bag, ARM, BUNDLE.contract).stretches()] == [False]


@pytest.mark.parametrize(
    ("planted", "stage"),
    [
        (Deployment(reverse_stack=True, acts_from=7), "stack order"),
        (Deployment(reverse_stack=True, numbered=False), "stack order"),
        (Deployment(residual_scale=-1.0, begins_at=12), "residual"),
        (Deployment(residual_scale=-1.0, numbered=False), "residual"),
        (
            Deployment(policy_joints=lambda state: replace(state, positions=np.degrees(state.positions)), begins_at=12),
            "units",
        ),
        (Deployment(residual_scale=1 / BUNDLE.contract.action.scale[0], begins_at=12), "units"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_mistake_is_found_although_the_recorder_missed_something(
    taken: Any, tmp_path: Path, planted: Deployment, stage: str
) -> None:
    found = diverging(record(tmp_path / "bag", taken, planted))
    assert list(found) == [stage], found


def test_joint_states_out_of_order_in_the_bag_keep_their_own_values(taken: Any, tmp_path: Path) -> None:
    run = read_run(record(tmp_path / "bag", taken, Deployment()), ARM, BUNDLE.contract)
    for recorded in run.joints:
        np.testing.assert_allclose(recorded.in_message_order[2:], recorded.state.positions[::-1][:5])


def test_camera_info_of_another_size_is_said(taken: Any, tmp_path: Path) -> None:
    bag = record(tmp_path / "bag", taken, Deployment())
    run = read_run(bag, ARM, BUNDLE.contract)
    assert run.camera is not None
    run.camera = replace(run.camera, width=320, height=240)
    found = {stage.name: stage.detail for stage in compare(BUNDLE, ARM, run) if stage.diverges}
    assert found == {
        "size": "topic /camera/image_raw: image is 160 x 120, but camera_info says 320 x 240; let the driver publish "
        "both for the same size"
    }


def test_bag_without_the_graph_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    info = m.camera_info_message(START, "optical", 160, 120, np.eye(3))
    bag = write_bag(tmp_path / "bag", [(m.CAMERA_INFO, info, START)])
    assert cli.main(["gap", "--bag", str(bag)]) == 2
    assert "holds no images" in capsys.readouterr().err
