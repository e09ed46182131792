"""Tests of training: each part matches its paper, and the whole makes a bundle and resumes without losses."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from benchmarks import teachers
from rlfp_ros.contract import load_bundle
from rlfp_ros.evaluation.rollout import Rollout
from rlfp_ros.learning.encoders.cnn import CnnSettings
from rlfp_ros.learning.encoders.encoder import EncoderChoice
from rlfp_ros.learning.encoders.exported import ExportedEncoder
from rlfp_ros.learning.encoders.spatial import SpatialEncoder
from rlfp_ros.learning.recipes.appearance import Appearance
from rlfp_ros.learning.recipes.estimator import SceneEstimator
from rlfp_ros.learning.recipes.imitation import ImitationRecipe
from rlfp_ros.learning.recipes.train import main
from rlfp_ros.learning.recipes.train_encoder import SMALLEST_WORK
from rlfp_ros.learning.runs.checkpoint import claim_run, load_checkpoint, save_checkpoint
from rlfp_ros.perception.encoder import OnnxEncoder
from rlfp_ros.schema import ConfigurationError
from rlfp_ros.simulation.randomization import load_profile
from rlfp_ros.simulation.scene import load_scene
from rlfp_ros.simulation.tasks.reach import Reach
from rlfp_ros.simulation.tasks.task import ARM_FOOT
from rlfp_ros.simulation.tasks.task_scene import HAND_BEHIND_TOOL

CAMERA = load_scene().camera.contract()


pytestmark = pytest.mark.usefixtures("seeded_torch")


def test_feature_points_are_at_the_maxima_of_the_heat_maps() -> None:
    """All heat in one cell: the point is the middle of that cell's pixels, on the plane z = 1, with full confidence."""
    encoder = SpatialEncoder(CAMERA).eval()
    rows, columns = encoder.cells
    heat = torch.full((1, encoder.settings.points, rows, columns), -1e4)
    heat[:, :, 7, 12] = 0.0
    with torch.no_grad():
        features = encoder.describe(torch.zeros(1, 32, rows, columns), heat.flatten(2))[0][0]
    pixels = features[:, :2] * CAMERA.intrinsics.fx + torch.tensor([CAMERA.intrinsics.cx, CAMERA.intrinsics.cy])
    torch.testing.assert_close(pixels, torch.tensor([[12 * 2 + 0.5, 7 * 2 + 0.5]]).expand(16, 2))
    torch.testing.assert_close(features[:, 2], torch.ones(16))


def test_of_two_places_a_feature_point_is_at_the_likelier() -> None:
    """Not between them, where nothing is."""
    encoder = SpatialEncoder(CAMERA).eval()
    rows, columns = encoder.cells
    heat = torch.full((1, encoder.settings.points, rows, columns), -1e4)
    heat[:, :, 7, 12], heat[:, :, 30, 33] = math.log(0.7), math.log(0.3)
    with torch.no_grad():
        features = encoder.describe(torch.zeros(1, 32, rows, columns), heat.flatten(2))[0][0]
    pixels = features[:, :2] * CAMERA.intrinsics.fx + torch.tensor([CAMERA.intrinsics.cx, CAMERA.intrinsics.cy])
    assert (pixels - torch.tensor([12 * 2 + 0.5, 7 * 2 + 0.5])).norm(dim=1).max() < 1.0  # the plain mean: 18 pixels off
    torch.testing.assert_close(features[:, 2], torch.full((16,), 0.7))


@pytest.mark.parametrize("sharpness", [0.0, 1.0, 10.0, 100.0])
def test_a_feature_point_weighs_each_cell_by_its_neighbours(sharpness: float) -> None:
    """From maps that say nothing to maps with one place only; gradients stay finite."""
    encoder = SpatialEncoder(CAMERA)
    heat = sharpness * torch.randn(2, encoder.settings.points, encoder.grid.shape[0])
    log_weights = torch.log_softmax(heat, dim=-1).requires_grad_()
    points = encoder.describe(torch.zeros(2, 32, *encoder.cells), log_weights)[0][..., :2]
    weights = log_weights.detach().double().exp()
    around = torch.nn.functional.avg_pool2d(weights.unflatten(-1, encoder.cells), 5, 1, 2).flatten(2)
    power = weights * around**4
    expected = (power / power.sum(-1, keepdim=True)) @ encoder.grid.double()
    torch.testing.assert_close(points.double(), expected, atol=1e-5, rtol=0)
    points.sum().backward()
    assert log_weights.grad is not None
    assert log_weights.grad.isfinite().all()


def test_cell_weights_average_to_their_point() -> None:
    encoder = SpatialEncoder(CAMERA)
    points = torch.rand(5, 3, 2) * 0.4 - 0.2
    weights = encoder.cell_weights(points)
    torch.testing.assert_close(weights.sum(-1), torch.ones(5, 3))
    torch.testing.assert_close(weights @ encoder.grid, points, atol=1e-5, rtol=0)


def test_the_pose_covariance_is_positive_definite() -> None:
    with torch.no_grad():
        covariance = ExportedEncoder(SpatialEncoder(CAMERA).eval())(torch.randint(0, 255, (1, 84, 84, 3)).byte())[2]
    assert torch.linalg.eigvalsh(covariance[0]).min() > 0


def test_other_appearances_do_not_move_or_hide_objects_and_repeat_with_their_seed() -> None:
    """Two red squares on grey: whatever is done to the image, their middles are still redder than the surroundings."""
    images = torch.full((48, 84, 84, 3), 110, dtype=torch.uint8)
    for row, column in ((30, 50), (60, 20)):
        images[:, row : row + 8, column : column + 8] = torch.tensor([220, 30, 30], dtype=torch.uint8)
    middles = torch.tensor([[53.5, 33.5], [23.5, 63.5]]).expand(48, 2, 2)
    appearance = Appearance(84, 84, seed=5)
    appearance.seed(5)
    changed = appearance(images, middles)
    red = changed[..., 0] - changed[..., 1:].mean(dim=-1)
    for row, column in ((30, 50), (60, 20)):
        inside = red[:, row + 2 : row + 6, column + 2 : column + 6].mean(dim=(1, 2))
        assert (inside > red[:, row - 2 : row, column : column + 8].mean(dim=(1, 2)) + 20).all()
    assert (changed - images).abs().mean() > 5
    appearance.seed(5)
    torch.testing.assert_close(appearance(images, middles), changed, atol=0, rtol=0)


def test_other_appearances_take_images_of_any_size() -> None:
    """A batch with more values than there is noise in store."""
    images = torch.full((128, 150, 150, 3), 110, dtype=torch.uint8)
    changed = Appearance(150, 150, seed=5)(images, torch.tensor([[75.0, 75.0]]).expand(128, 1, 2))
    assert changed.shape == images.shape
    assert changed.isfinite().all()


def seen_through(camera: np.ndarray, points: np.ndarray) -> torch.Tensor:
    """Feature points [1, 2, N, 3] of points [N, 3] in the base frame, for a camera at `camera` (T_base_camera)."""
    inverse = np.linalg.inv(camera)
    optical = points @ inverse[:3, :3].T + inverse[:3, 3]
    plane = np.column_stack([optical[:, :2] / optical[:, 2:], np.ones(len(points))])
    return torch.tensor(np.stack([plane, plane]), dtype=torch.float32)[None]


def test_the_estimator_finds_the_object_through_a_displaced_camera() -> None:
    """The camera stands 2 cm and 2 degrees off, 4 cm on the table; the arm, seen moving, tells where it stands. The way
    to the goal comes out in the arm's coordinates."""
    estimator = SceneEstimator(CAMERA, ("object", "tool", "hand", "base"), joints=7, stack=2, block_size=(0.034,) * 3)
    camera = CAMERA.T_base_camera.matrix()
    camera[:3, :3] = camera[:3, :3] @ cv2.Rodrigues(np.array([0.03, -0.02, 0.01]))[0]
    camera[:3, 3] += (0.01, -0.015, 0.01)
    block, goal, state = np.array([0.5, -0.08, 0.017]), torch.tensor([[0.4, 0.1, 0.017]]), torch.zeros(1, 61)
    up = np.array([0.0, 0.0, 1.0])
    errors = []
    for step in range(30):
        tool = np.array([0.4 + 0.005 * step, 0.1 - 0.006 * step, 0.2 - 0.005 * step])
        points = np.stack([block, tool, tool + HAND_BEHIND_TOOL * up, ARM_FOOT])
        joints = torch.cat([torch.zeros(15), torch.tensor(tool).float(), torch.tensor([0.0, 0.0, -1.0])])[None]
        inputs, state = estimator(seen_through(camera, points), joints, goal, torch.ones(1, 1), state)
        errors.append(float(np.linalg.norm(state[0, estimator.state["object"]].numpy() - block[:2])))
    assert inputs.shape == (1, estimator.input_size)
    assert errors[-1] < 0.008
    way = inputs[0, estimator.inputs["object_to_goal"]]
    np.testing.assert_allclose(way, goal[0, :2] - state[0, estimator.state["object"]], atol=1e-6)
    sight, height = seen_through(camera, points)[:, 0, 0, :2], torch.tensor([[0.017]])
    unaided = estimator.on_plane(sight.double(), torch.zeros(1, 7).double(), height.double())
    assert float(np.linalg.norm(unaided[0].numpy() - block[:2])) > 0.03


def test_the_estimator_keeps_an_object_that_the_hand_hides_in_front_of_the_tool_that_pushes_it() -> None:
    """Seen from far, then pushed 10 cm with its point of confidence next to none, drawn 25 mm to the hand's side."""
    names, size = ("object", "tool", "hand", "base"), (0.034,) * 3
    estimators = [SceneEstimator(CAMERA, names, 7, 2, size, pushes=pushes) for pushes in (True, False)]
    states = [torch.zeros(1, 61), torch.zeros(1, 61)]
    camera, up = CAMERA.T_base_camera.matrix(), np.array([0.0, 0.0, 1.0])
    block, goal = np.array([0.45, 0.05, 0.017]), torch.tensor([[0.6, 0.05, 0.017]])
    errors = np.zeros((2, 80))
    for step in range(80):
        pushing = step >= 40
        tool = np.array([0.40 + 0.0025 * (step - 30), 0.05, 0.022]) if pushing else np.array([0.40, 0.05, 0.2])
        block[0] = max(block[0], tool[0] + 0.025) if pushing else block[0]
        shown = block + np.array([0.0, 0.025, 0.0]) if pushing else block
        points = seen_through(camera, np.stack([shown, tool, tool + HAND_BEHIND_TOOL * up, ARM_FOOT]))
        points[:, :, 0, 2] = 0.25 if pushing else 1.0
        joints = torch.cat([torch.zeros(15), torch.tensor(tool).float(), torch.tensor([0.0, 0.0, -1.0])])[None]
        for number, estimator in enumerate(estimators):
            _, states[number] = estimator(points, joints, goal, torch.ones(1, 1), states[number])
            errors[number, step] = np.linalg.norm(states[number][0, estimator.state["object"]].numpy() - block[:2])
    assert errors[:, 39].max() < 0.002
    assert errors[0].max() < 0.015
    assert errors[1, -1] > 0.05  # it lies where it was


def test_a_teacher_that_sees_through_the_bundle_wins_in_both_worlds() -> None:
    for world, place, seed in (("pybullet", "none", 0), ("mujoco", "twin_near", 1)):
        found = teachers.play_through("push_panda", world, place, range(seed, seed + 1))
        assert found["successes"] == 1, place
        assert 0 < found["median_error_mm"] < 15


def test_the_privileged_state_reaches_no_deployed_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Critic's and teacher's knowledge is scrambled: the bundle does, bit for bit, what it did."""
    bundle = load_bundle("reach_panda")

    def played() -> np.ndarray:
        rollout = Rollout(bundle, load_profile("train"))
        residuals = [residual.twist for residual in rollout.play(3).residuals]
        rollout.close()
        return np.stack(residuals)

    before = played()
    rng = np.random.default_rng(0)
    monkeypatch.setattr(Reach, "privileged_state", lambda task, world: rng.normal(size=12).astype(np.float32))
    monkeypatch.setattr(Reach, "teacher", lambda task, world, action: rng.uniform(-1, 1, 3).astype(np.float32))
    np.testing.assert_array_equal(played(), before)


def test_checkpoints_refuse_another_training_and_damage(tmp_path: Path) -> None:
    path = tmp_path / "stage.pt"
    assert load_checkpoint(path, {"seed": 1}) is None
    save_checkpoint(path, {"seed": 1}, update=7)
    state = load_checkpoint(path, {"seed": 1})
    assert state is not None
    assert state["update"] == 7
    with pytest.raises(ConfigurationError, match="seed 1, this training has 2"):
        load_checkpoint(path, {"seed": 2})
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ConfigurationError, match="is damaged"):
        load_checkpoint(path, {"seed": 1})
    with pytest.raises(ConfigurationError, match="is a file, expected a folder; choose another with --run"):
        claim_run(path, "recipe.json", {}, resume=False)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_latent_with_memory_and_three_frames_makes_a_bundle_that_carries_them(tmp_path: Path) -> None:
    recipe = ImitationRecipe(
        "reach", encoder=EncoderChoice("cnn"), representation="vae+inverse_dynamics", feature_stack=3
    )
    recipe = recipe.with_options(memory=16, work=0.004)
    contract = main(recipe, tmp_path / "bundle", tmp_path / "run", evaluation_episodes=0).contract
    assert contract.encoder.outputs["features"] == (1, CnnSettings().latent)
    assert (contract.policy.feature_stack, contract.policy.state_size) == (3, 16)
    rollout = Rollout(load_bundle(tmp_path / "bundle"), load_profile("none"))
    first, other, again = rollout.play(5), rollout.play(6), rollout.play(5)
    rollout.close()
    assert len(first.residuals) == len(again.residuals) != 0
    for one, repeated in zip(first.residuals, again.residuals, strict=True):
        np.testing.assert_array_equal(one.twist, repeated.twist)  # nothing of the episodes between is remembered
    assert any(
        np.abs(one.twist - two.twist).max() > 1e-6 for one, two in zip(first.residuals, other.residuals, strict=False)
    )


@pytest.mark.slow
@pytest.mark.timeout(900)  # two trainings, which take a minute on an idle machine
def test_a_tiny_training_makes_a_bundle_and_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Whether int8 is kept depends on the machine's clock; test_int8.py tests that.
    monkeypatch.setattr("rlfp_ros.learning.export.quantise.trial", lambda *given: None)
    recipe = ImitationRecipe("reach").shortened(SMALLEST_WORK)
    bundle = main(recipe, tmp_path / "bundle", tmp_path / "run", evaluation_episodes=0, observations=50)
    contract = load_bundle(bundle.directory).contract
    assert contract.task == "reach"
    assert contract.base_controller.name == "hold"
    # PyTorch and ONNX Runtime agree on what a policy uses of real images; the rest is novelty's, on top.
    encoder = SpatialEncoder(CAMERA)
    encoder.load_state_dict(torch.load(tmp_path / "run" / "encoder.pt", weights_only=True)["encoder"])
    exported, deployed = ExportedEncoder(encoder).eval(), OnnxEncoder(bundle.session("encoder.onnx"))
    for image in np.load(tmp_path / "run" / "frames" / "images.npy")[:50]:
        with torch.no_grad():
            expected = exported(torch.from_numpy(image[None]))
        for one, other in zip(deployed(image)[:2], expected[:2], strict=True):
            np.testing.assert_allclose(np.asarray(one), other[0].numpy(), atol=1e-5, rtol=1e-5)

    events = EventAccumulator(str(tmp_path / "run"))
    events.Reload()
    assert {"imitate/success_rate", "imitate/loss"} <= set(events.Tags()["scalars"])
    report = (tmp_path / "run" / "report.html").read_text()
    assert "<h3>imitate: " in report
    with pytest.raises(ConfigurationError, match="continue it with --resume"):
        main(recipe, tmp_path / "bundle", tmp_path / "run", evaluation_episodes=0)
    with pytest.raises(ConfigurationError, match="seed was 0 and is 1 now"):
        main(ImitationRecipe("reach", seed=1).shortened(SMALLEST_WORK), tmp_path / "b", tmp_path / "run", resume=True)
    (tmp_path / "run" / "dagger.pt").unlink()  # as if it was stopped after the encoder
    again = main(recipe, tmp_path / "bundle", tmp_path / "run", resume=True, evaluation_episodes=0, observations=50)
    assert again.contract.files["encoder.onnx"] == contract.files["encoder.onnx"]
