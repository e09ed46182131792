"""Tests of the parts of `adapt`: encoders from the files that ship, and labels from kinematics."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from tinted_video import (
    ARM,
    BUNDLE,
    CAMERA,
    FILE,
    PARITY,
    golden_images,
    outputs_in_onnx_runtime,
    tinted_video,
    written,
)

from rlfp_ros.adaptation import arm_points, material
from rlfp_ros.adaptation.encoder import DeployedEncoder, MarkConstants, check_mark
from rlfp_ros.adaptation.onnx_network import OnnxNetwork, float_model
from rlfp_ros.contract import load_bundle
from rlfp_ros.control.kinematics import rotation_matrix
from rlfp_ros.schema import ConfigurationError
from rlfp_ros.simulation.pybullet_world import PybulletWorld
from rlfp_ros.simulation.randomization import load_profile
from rlfp_ros.simulation.scene import load_scene
from rlfp_ros.simulation.tasks.task import load_task

SHIPPED = ("reach_panda", "push_panda", "lift_panda", "reach_so101")
INT8 = ("push_panda", "reach_so101")


# --- the encoder from its file ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHIPPED)
def test_an_encoder_is_rebuilt_exactly_from_its_file(name: str) -> None:
    """No weights besides the file are needed. Int8 files give the float network that they stand for."""
    bundle, images = golden_images(name)
    model = float_model(bundle.file("encoder.onnx").read_bytes())
    network = OnnxNetwork(model)
    expected = outputs_in_onnx_runtime(model.SerializeToString(), images)
    with torch.no_grad():
        found = network(images, tuple(expected))
    for output, values in zip(expected, found, strict=True):
        np.testing.assert_allclose(values.numpy(), expected[output], atol=PARITY)
    golden = bundle.golden_frames().features
    error = np.abs(found[list(expected).index("features")].numpy() - golden)
    if name in INT8:
        assert np.median(error) < 2e-3  # the rounding of the activations
    else:
        assert error.max() < PARITY
    np.testing.assert_array_equal(
        outputs_in_onnx_runtime(network.to_model().SerializeToString(), images)["features"], expected["features"]
    )


def test_changed_weights_are_written_and_no_two_nodes_share_a_constant() -> None:
    _, images = golden_images("push_panda")
    network = OnnxNetwork(float_model(load_bundle("push_panda").file("encoder.onnx").read_bytes()))
    used = [name for node in network.model.graph.node for name in node.input]
    constants = [value.name for value in network.model.graph.initializer]
    assert all(used.count(name) == 1 for name in constants)
    with torch.no_grad():
        network.weight("encoder.pose_head.2.bias")[0] += 1.0  # x of the object, in units of 0.1 m or so
        expected = network(images, ("object_pose",))[0].numpy()
    found = outputs_in_onnx_runtime(network.to_model().SerializeToString(), images)["object_pose"]
    np.testing.assert_allclose(found, expected, atol=PARITY)
    before = network.model.SerializeToString()
    assert np.abs(found - outputs_in_onnx_runtime(before, images)["object_pose"])[:, 0].min() > 0.01


@pytest.mark.parametrize("name", SHIPPED)
def test_the_mark_of_novelty_is_read_from_the_file_and_written_back(name: str) -> None:
    bundle, images = golden_images(name)
    file = bundle.file("encoder.onnx").read_bytes()
    constants, encoder = MarkConstants(file), DeployedEncoder(file)
    novelty = constants.novelty()
    check_mark(encoder, novelty, images.numpy())
    assert constants.replaced(novelty) == onnx.load_from_string(file).SerializeToString()
    novelty.usual.sub_(1.0)
    novelty.rare.add_(2.0)
    changed = constants.replaced(novelty)
    check_mark(DeployedEncoder(changed), novelty, images.numpy())
    with pytest.raises(ConfigurationError, match="computes its mark of novelty in another way"):
        check_mark(encoder, novelty, images.numpy())
    ours, theirs = (DeployedEncoder(each).features(images.numpy()) for each in (file, changed))
    np.testing.assert_array_equal(ours[0], theirs[0])


# --- labels from kinematics -------------------------------------------------------------------------------------------


def test_points_of_the_arm_are_those_that_the_encoder_was_trained_to_see() -> None:
    task = load_task("reach")
    world = PybulletWorld(ARM, task, load_profile("none"), load_scene(), CAMERA)
    world.reset(3)
    joints = np.array(ARM.home) + 0.2
    world.move_arm(joints, 0.04)
    names, indices = arm_points.arm_indices(task)
    assert names == ("tool", "hand", "base")
    points = arm_points.arm_points(ARM, names, joints[None])
    np.testing.assert_allclose(points[0], task.keypoint_positions(world)[indices], atol=1e-3)
    np.testing.assert_allclose(
        arm_points.project(points, CAMERA.T_base_camera.matrix())[0], world.keypoints()[indices], atol=1e-3
    )
    world.close()


def test_the_camera_is_fitted_although_a_third_of_the_points_is_seen_at_wrong_places() -> None:
    rng = np.random.default_rng(2)
    joints = np.array(ARM.home) + rng.uniform(-0.4, 0.4, (150, 7))
    points = arm_points.arm_points(ARM, ("tool", "hand", "base"), joints)
    moved = CAMERA.T_base_camera.matrix()
    moved[:3, 3] += (0.006, -0.008, 0.004)
    turn = rotation_matrix(np.array([0.01, -0.012, 0.008]))
    moved[:3, :3] = moved[:3, :3] @ turn
    seen = arm_points.project(points, moved)
    seen += rng.normal(0, 0.5 / CAMERA.intrinsics.fx, seen.shape)
    wrong = rng.uniform(size=seen.shape[:2]) < 0.3
    seen[wrong] += rng.uniform(-0.3, 0.3, (int(wrong.sum()), 2))
    fitted = arm_points.fit_camera(points, seen, CAMERA)
    error = np.linalg.norm(arm_points.project(points, fitted) - arm_points.project(points, moved), axis=-1)
    assert error.max() * CAMERA.intrinsics.fx < 0.5
    unfitted = np.linalg.norm(
        arm_points.project(points, CAMERA.T_base_camera.matrix()) - arm_points.project(points, moved), axis=-1
    )
    assert unfitted.mean() * CAMERA.intrinsics.fx > 1.0


def test_recorded_images_are_labelled_by_the_joints(tmp_path: Path) -> None:
    dataset = written(tmp_path / "data", *tinted_video())
    learned, held_out = material.recorded_images(dataset, BUNDLE, ARM)
    assert (len(learned.images), len(held_out.images)) == (90, 30)
    features = DeployedEncoder(FILE).features(held_out.images)[0]
    right = arm_points.reprojection_px(features, held_out.labels, CAMERA)
    swapped = dataclasses.replace(held_out.labels, points=held_out.labels.points[::-1])
    assert right < 2.5
    assert arm_points.reprojection_px(features, swapped, CAMERA) > 1.5 * right
