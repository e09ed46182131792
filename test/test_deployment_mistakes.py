"""Tests that the known mistakes in deploying a good policy are found before anything moves.

Code that a later change may break is patched; files that a person may mix up are edited, their sha256 corrected, so
that only what they say and compute can give them away.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
import yaml

from rlfp_ros.contract import load_bundle, sha256
from rlfp_ros.control import policy as policies
from rlfp_ros.control.arm import Arm, JointState, load_arm
from rlfp_ros.control.policy import RATE_FRAMES, Observer, Policy
from rlfp_ros.perception import images
from rlfp_ros.perception.encoder import OnnxEncoder, Perception, enlarged
from rlfp_ros.perception.preprocess import Preprocessor
from rlfp_ros.schema import ConfigurationError

PANDA = load_arm("panda")
Patch = pytest.MonkeyPatch


@pytest.fixture
def shipped(tmp_path: Path) -> Path:
    """A copy of a bundle that was really trained, which a test may damage."""
    source = Path(__file__).resolve().parents[1] / "models" / "reach_panda"
    return Path(shutil.copytree(source, tmp_path / "reach_panda"))


def refusal(deploy: Callable[[], Any]) -> str:
    with pytest.raises(ConfigurationError) as error:
        deploy()
    assert "\n" not in str(error.value)
    return str(error.value)


def policy_refusal(bundle: Path, arm: Arm = PANDA) -> str:
    return refusal(lambda: Policy(load_bundle(bundle), arm))


def perception_refusal(bundle: Path) -> str:
    return refusal(lambda: Perception(load_bundle(bundle)))


def edit_contract(bundle: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change bundle.yaml, with the digests that its files have now."""
    path = bundle / "bundle.yaml"
    document = yaml.safe_load(path.read_text())
    change(document)
    document["files"] = {name: sha256(bundle / name) for name in document["files"]}
    path.write_text(yaml.safe_dump(document))


def edit_network(file: Path, change: Callable[[onnx.ModelProto], None]) -> None:
    model = onnx.load(file)
    change(model)
    onnx.save(model, file)
    edit_contract(file.parent, lambda document: None)


def test_nothing_planted_nothing_found(shipped: Path, tiny_bundle: Path, tiny_goal_bundle: Path) -> None:
    for bundle in (shipped, tiny_bundle, tiny_goal_bundle):
        Perception(load_bundle(bundle))
        Policy(load_bundle(bundle), PANDA)


# --- the action's scale ----------------------------------------------------------------------------------------------


def test_action_scale_applied_twice(shipped: Path, monkeypatch: Patch) -> None:
    right = policies.residual_of

    def twice(action: np.ndarray, contract: Any, *rest: Any) -> Any:
        return right(action * contract.scale[0], contract, *rest)

    monkeypatch.setattr(policies, "residual_of", twice)
    assert "the action's scale" in policy_refusal(shipped)


def test_action_scale_not_applied(shipped: Path, monkeypatch: Patch) -> None:
    right = policies.residual_of

    def never(action: np.ndarray, contract: Any, *rest: Any) -> Any:
        return right(action / contract.scale[0], contract, *rest)

    monkeypatch.setattr(policies, "residual_of", never)
    assert "the action's scale" in policy_refusal(shipped)


def test_action_scale_inside_the_network_too(shipped: Path) -> None:
    def scale_output(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            for index, name in enumerate(node.output):
                if name == "action":
                    node.output[index] = "unscaled"
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(0.25, np.float32), "scale"))
        model.graph.node.append(onnx.helper.make_node("Mul", ["unscaled", "scale"], ["action"]))

    edit_network(shipped / "policy.onnx", scale_output)
    assert "action differs from golden.npz" in policy_refusal(shipped)


# --- normalisation ---------------------------------------------------------------------------------------------------


def test_pixel_normaliser_missing_from_the_network(shipped: Path) -> None:
    def pass_through(model: onnx.ModelProto) -> None:
        node = next(node for node in model.graph.node if node.op_type == "Mul")  # pixels / 127.5
        for value in model.graph.initializer:
            if value.name in node.input:
                value.CopyFrom(onnx.numpy_helper.from_array(np.ones(value.dims, np.float32), value.name))

    edit_network(shipped / "encoder.onnx", pass_through)
    assert "differs from golden.npz" in perception_refusal(shipped)


def test_pixels_normalised_outside_the_network_too(shipped: Path, monkeypatch: Patch) -> None:
    right = OnnxEncoder.__call__
    monkeypatch.setattr(OnnxEncoder, "__call__", lambda self, image: right(self, (image / 255).astype(np.uint8)))
    assert "normalisation" in perception_refusal(shipped)


def test_observation_normaliser_missing_from_the_network(shipped: Path) -> None:
    def pass_through(model: onnx.ModelProto) -> None:
        mean = next(value for value in model.graph.initializer if value.name.endswith("normaliser.mean"))
        mean.CopyFrom(onnx.numpy_helper.from_array(np.zeros_like(onnx.numpy_helper.to_array(mean)), mean.name))

    edit_network(shipped / "policy.onnx", pass_through)
    assert "differs from golden.npz" in policy_refusal(shipped)


def test_normalisation_declared_beside_the_one_inside(shipped: Path) -> None:
    edit_contract(shipped, lambda document: document["normalisation"].update(mean=[0.0]))
    assert "normalisation.mean is not a known field" in refusal(lambda: load_bundle(shipped))


# --- joints ----------------------------------------------------------------------------------------------------------


def test_joint_order_of_the_arm_file(shipped: Path) -> None:
    swapped = PANDA.model_copy(update={"joint_names": PANDA.joint_names[::-1]})
    assert "joint_names" in policy_refusal(shipped, swapped)


def test_joint_order_ignored_on_the_way(shipped: Path) -> None:
    """A node that takes joints as they come in the message, not by name."""
    bundle = load_bundle(shipped)
    policy = Policy(bundle, PANDA)

    def unmatched(joint_state: JointState) -> JointState:
        return replace(joint_state, positions=joint_state.positions[::-1], velocities=joint_state.velocities[::-1])

    assert "the joints' order" in refusal(lambda: policy.rehearse(bundle.golden_frames(), unmatched))


def test_the_policy_node_matches_joints_by_name_in_its_own_rehearsal(shipped: Path) -> None:
    """The mistake: the message's order instead of the names."""
    pytest.importorskip("rclpy")
    from rlfp_ros.nodes.policy import receive_golden
    from rlfp_ros.recording import decode

    bundle = load_bundle(shipped)
    policy = Policy(bundle, PANDA)
    by_name = decode.JointMatcher(PANDA)
    policy.rehearse(bundle.golden_frames(), lambda state: receive_golden(state, PANDA, by_name))

    def in_order(message: Any) -> JointState:
        joints = np.array(message.position[:7]), np.array(message.velocity[:7]), np.array(message.effort[:7])
        return JointState(decode.stamp_ns(message.header.stamp), *joints, by_name(message).gripper_width)

    deploy = partial(policy.rehearse, bundle.golden_frames(), lambda state: receive_golden(state, PANDA, in_order))
    assert "the joints' order" in refusal(deploy)


def test_joint_direction(shipped: Path, tmp_path: Path) -> None:
    """An arm description in which one joint turns the other way."""
    text = PANDA.urdf_path.read_text()
    joint = text.index('name="panda_joint4"')
    axis = text.index("<axis", joint)
    end = text.index("/>", axis)
    reversed_axis = text[axis:end].replace("0 0 1", "0 0 -1")
    assert reversed_axis != text[axis:end]
    urdf = tmp_path / "reversed.urdf"
    urdf.write_text(text[:axis] + reversed_axis + text[end:])
    assert "direction" in policy_refusal(shipped, PANDA.model_copy(update={"urdf": str(urdf)}))


def test_joint_units(shipped: Path, monkeypatch: Patch) -> None:
    right = Observer.proprioception
    in_degrees: Any = lambda self, state: right(self, replace(state, positions=np.degrees(state.positions)))  # noqa: E731
    monkeypatch.setattr(Observer, "proprioception", in_degrees)
    assert "units" in policy_refusal(shipped)


# --- memory ----------------------------------------------------------------------------------------------------------


def test_feature_stack_reversed(shipped: Path, monkeypatch: Patch) -> None:
    right = Observer.observe

    def newest_first(self: Observer, *arguments: Any) -> dict[str, np.ndarray]:
        observation = right(self, *arguments)
        return observation | {"features": observation["features"][::-1]}

    monkeypatch.setattr(Observer, "observe", newest_first)
    assert "feature stack" in policy_refusal(shipped)


def test_feature_stack_starting_with_zeros(shipped: Path, monkeypatch: Patch) -> None:
    right = Observer.observe

    def padded(self: Observer, features: np.ndarray, *arguments: Any) -> dict[str, np.ndarray]:
        if not self.stack:
            self.stack = [np.zeros_like(features)] * 2
        return right(self, features, *arguments)

    monkeypatch.setattr(Observer, "observe", padded)
    assert "feature stack" in policy_refusal(shipped)


@pytest.mark.parametrize("fed_back", ["nothing", "scaled"])
def test_a_memory_that_is_fed_back_differently_is_found(tiny_bundle: Path, monkeypatch: Patch, fed_back: str) -> None:
    """`state`, which carries a policy's previous action where it wants one, comes back as `next_state` exactly."""
    right = Policy.act

    def act(self: Policy, *arguments: Any) -> Any:
        residual = right(self, *arguments)
        self._state = self._state * (0.0 if fed_back == "nothing" else self.contract.action.scale[0])
        return residual

    monkeypatch.setattr(Policy, "act", act)
    assert "what is fed back" in policy_refusal(tiny_bundle)


# --- images --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [cv2.INTER_NEAREST, cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_LANCZOS4])
def test_resize_filter(shipped: Path, monkeypatch: Patch, wrong: int) -> None:
    monkeypatch.setattr(cv2, "INTER_AREA", wrong)
    assert "resize filter" in perception_refusal(shipped)


def test_colour_order(shipped: Path, monkeypatch: Patch) -> None:
    right = Preprocessor.__call__
    monkeypatch.setattr(Preprocessor, "__call__", lambda self, image, *camera: right(self, image[..., ::-1], *camera))
    assert "colour order" in perception_refusal(shipped)


def test_colour_order_of_messages(shipped: Path) -> None:
    """A camera of bgr8 whose images are taken for rgb8."""
    bundle = load_bundle(shipped)
    perception = Perception(bundle)

    def received(encoding: str) -> Callable[[np.ndarray], np.ndarray]:
        def decoded(image: np.ndarray) -> np.ndarray:
            height, width, _ = image.shape
            return images.from_raw(encoding, height, width, width * 3, image[..., ::-1].tobytes())

        return decoded

    perception.rehearse(bundle.golden_frames(), received("bgr8"))
    assert "colour order" in refusal(lambda: perception.rehearse(bundle.golden_frames(), received("rgb8")))


def test_a_golden_image_comes_back_by_area_alone() -> None:
    image = np.random.default_rng(0).integers(0, 256, (84, 84, 3), dtype=np.uint8)
    np.testing.assert_array_equal(cv2.resize(enlarged(image), (84, 84), interpolation=cv2.INTER_AREA), image)


# --- rates -----------------------------------------------------------------------------------------------------------


def test_control_rate_in_the_contract(shipped: Path) -> None:
    def slower(document: dict[str, Any]) -> None:
        document["action"]["rate_hz"] = document["camera"]["rate_hz"] = 15.0

    edit_contract(shipped, slower)
    assert "action.rate_hz is 15.0, but policy.onnx was trained with 30.0" in policy_refusal(shipped)


def test_control_rate_in_the_contract_and_in_the_network(shipped: Path) -> None:
    """Somebody who makes all of the bundle agree: the recording still has the stamps of training."""

    def slower(document: dict[str, Any]) -> None:
        document["action"]["rate_hz"] = document["camera"]["rate_hz"] = 15.0

    def agree(model: onnx.ModelProto) -> None:
        for note in model.metadata_props:
            if note.key == "rlfp_ros.action":
                note.value = json.dumps(json.loads(note.value) | {"rate_hz": 15.0})

    edit_network(shipped / "policy.onnx", agree)
    edit_contract(shipped, slower)
    assert "action.rate_hz is 15, but golden.npz was recorded at 30.0" in policy_refusal(shipped)


@pytest.mark.parametrize(("interval_ms", "caught"), [(33.3, False), (66.7, True), (16.7, True)])
def test_control_rate_of_the_live_camera(shipped: Path, interval_ms: float, caught: bool) -> None:
    bundle = load_bundle(shipped)
    policy, golden = Policy(bundle, PANDA), bundle.golden_frames()
    home = JointState(0, np.array(PANDA.home), np.zeros(7), np.zeros(7))

    def run() -> None:
        for number in range(RATE_FRAMES + 1):
            policy.act(golden.features[0], home, round(number * interval_ms * 1e6))

    if caught:
        assert "was trained at 30 Hz" in refusal(run)
    else:
        run()


def test_lost_frames_do_not_change_the_measured_rate(shipped: Path) -> None:
    """Twenty minutes with one frame in ten lost, the worst case of validation, are never refused."""
    policy = Policy(load_bundle(shipped), PANDA)
    stamp, rng = 0, np.random.default_rng(0)
    for lost in rng.uniform(size=36_000) < 0.1:
        stamp += 33_333_333
        if not lost:
            policy.check_rate(stamp)


# --- mixed-up files --------------------------------------------------------------------------------------------------


def test_networks_with_another_bundles_yaml(shipped: Path, tmp_path: Path) -> None:
    """push beside reach: the same shapes, another task and scale."""
    other = Path(shutil.copytree(shipped, tmp_path / "other"))

    def another(document: dict[str, Any]) -> None:
        document.update(name="push_panda", task="push")
        document["action"]["scale"] = [0.1, 0.1, 0.1]

    edit_contract(other, another)
    assert "task is push, but policy.onnx was trained with reach" in policy_refusal(other)


def test_encoder_with_the_yaml_of_another_camera(shipped: Path) -> None:
    edit_contract(shipped, lambda document: document["camera"]["T_base_camera"].update(xyz=[1.0, 0.0, 0.7]))
    assert "camera.T_base_camera is" in perception_refusal(shipped)


def test_encoder_with_the_feature_statistics_of_another(shipped: Path) -> None:
    def move(document: dict[str, Any]) -> None:
        statistics = document["feature_statistics"]
        statistics["mean"] = [value + 3.0 for value in statistics["mean"]]

    edit_contract(shipped, move)
    assert "domain_shift" in perception_refusal(shipped)


def test_a_network_without_metadata_is_refused(shipped: Path) -> None:
    edit_network(shipped / "policy.onnx", lambda model: model.ClearField("metadata_props"))
    assert "rlfp export" in policy_refusal(shipped)


def test_the_error_for_missing_golden_frames_names_the_command_that_makes_them(shipped: Path) -> None:
    with np.load(shipped / "golden.npz") as golden:
        kept = {name: golden[name] for name in golden if not name.startswith("frames/")}
    np.savez(shipped / "golden.npz", **kept)
    edit_contract(shipped, lambda document: None)
    assert "rlfp export" in perception_refusal(shipped)
