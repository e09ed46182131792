"""Tests of `adapt`: encoders from shipped files, labels from kinematics, the methods, and the acceptance test."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from fixture_bundle import make_bundle
from onnx import numpy_helper

from rlfp_ros import cli
from rlfp_ros.adaptation import adapt, arm_points, material
from rlfp_ros.adaptation.acceptance import AdaptationScore, refusal
from rlfp_ros.adaptation.adaptation import ADAPTATIONS, AdaptationTraining, Report
from rlfp_ros.adaptation.arm_points import ArmLabels
from rlfp_ros.adaptation.encoder import AdaptableEncoder, DeployedEncoder, MarkConstants, check_mark
from rlfp_ros.adaptation.material import AdaptationMaterial, RecordedImages, RenderedImages
from rlfp_ros.adaptation.methods import adabn, style
from rlfp_ros.adaptation.methods.image_adapter import PREFIX, TRAINED, with_image_adapter
from rlfp_ros.adaptation.methods.refit import Refit
from rlfp_ros.adaptation.onnx_network import OnnxNetwork, float_model
from rlfp_ros.contract import Bundle, load_bundle, onnx_session, sha256
from rlfp_ros.control.arm import load_arm
from rlfp_ros.control.kinematics import rotation_matrix
from rlfp_ros.control.policy import Policy
from rlfp_ros.control.trained_arm import trained_arm
from rlfp_ros.data.dataset import Dataset, DatasetDocument, EpisodeArrays, EpisodeEntry, write_dataset, write_episode
from rlfp_ros.perception.encoder import Perception
from rlfp_ros.schema import ConfigurationError
from rlfp_ros.simulation.mujoco_world import MujocoWorld
from rlfp_ros.simulation.pybullet_world import PybulletWorld
from rlfp_ros.simulation.randomization import load_profile
from rlfp_ros.simulation.room import load_room
from rlfp_ros.simulation.scene import load_scene
from rlfp_ros.simulation.tasks.task import load_task

ARM = load_arm("panda")
SHIPPED = ("reach_panda", "push_panda", "lift_panda", "reach_so101")
INT8 = ("push_panda", "reach_so101")
BUNDLE = load_bundle("reach_panda")
FILE = BUNDLE.file("encoder.onnx").read_bytes()
CAMERA = BUNDLE.contract.camera
PARITY = 1e-5
RECORDED = 120  # images of the moving arm


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Train on one thread, as `adapt` does: two that spin beside other tests are slower."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def video() -> tuple[np.ndarray, np.ndarray]:
    """Images [N, 84, 84, 3] of a moving arm in the tinted room, as the policy sees them, and its joints [N, 7]."""
    world = MujocoWorld(ARM, load_task("reach"), load_room("adapt_tint"), load_scene(), CAMERA)
    world.reset(5003)
    perception = Perception(BUNDLE)
    images, joints = [], []
    for frame in range(RECORDED):
        phase = np.array([0.11, 0.07, 0.13, 0.09, 0.05, 0.12, 0.08]) * frame
        positions = np.array(ARM.home) + 0.3 * np.sin(phase) * np.array([1, -0.5, 0.6, 0.8, 0.3, 0.5, -1.0])
        world.move_arm(positions, 0.04)
        images.append(perception(world.render(), world.calibration).image.copy())
        joints.append(positions)
    world.close()
    return np.stack(images), np.stack(joints)


def written(
    folder: Path, images: np.ndarray, joints: np.ndarray, bundle: Bundle = BUNDLE, **changes: object
) -> Dataset:
    """Write a dataset of one episode."""
    count, actions = len(images), len(bundle.contract.action.components)
    arrays = EpisodeArrays(
        stamps_ns=np.arange(count) * 33_333_333,
        images=images,
        positions=joints,
        velocities=np.zeros_like(joints),
        gripper_widths=np.full(count, 0.04),
        proprioception=np.zeros((count, 1), np.float32),
        asked=np.zeros((count, actions), np.float32),
        applied=np.zeros((count, actions), np.float32),
        commands=joints,
    )

    def fill(scratch: Path) -> DatasetDocument:
        digest = write_episode(scratch / "episode_0000.npz", arrays)
        entry = EpisodeEntry(
            file="episode_0000.npz",
            sha256=digest,
            bag="bag",
            frames=count,
            duration_s=count / 30,
            rate_hz=30.0,
            longest_gap_s=0.034,
            answered=count,
            admitted=count,
            outcome="unknown",
        )
        contract = bundle.contract
        document = DatasetDocument(
            bundle=contract.name,
            encoder_sha256=contract.files["encoder.onnx"],
            task=contract.task,
            arm=contract.arm.name,
            joint_names=contract.arm.joint_names,
            camera=contract.camera,
            action_components=contract.action.components,
            episodes=(entry,),
        )
        return document.model_copy(update=changes)

    return write_dataset(folder, fill)


def golden_images(name: str) -> tuple[Bundle, torch.Tensor]:
    bundle = load_bundle(name)
    return bundle, torch.from_numpy(bundle.golden_frames().images)


def outputs_in_onnx_runtime(file: bytes, images: torch.Tensor) -> dict[str, np.ndarray]:
    session = onnx_session(file)
    names = [value.name for value in session.get_outputs()]
    rows = [session.run(names, {"image": image[None].numpy()}) for image in images]
    return dict(zip(names, (np.concatenate(part) for part in zip(*rows, strict=True)), strict=True))


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


def test_recorded_images_are_labelled_by_the_joints(video: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    dataset = written(tmp_path / "data", *video)
    learned, held_out = material.recorded_images(dataset, BUNDLE, ARM)
    assert (len(learned.images), len(held_out.images)) == (90, 30)
    features = DeployedEncoder(FILE).features(held_out.images)[0]
    right = arm_points.reprojection_px(features, held_out.labels, CAMERA)
    swapped = dataclasses.replace(held_out.labels, points=held_out.labels.points[::-1])
    assert right < 2.5
    assert arm_points.reprojection_px(features, swapped, CAMERA) > 1.5 * right


# --- the methods ------------------------------------------------------------------------------------------------------


def small_material(video: tuple[np.ndarray, np.ndarray]) -> AdaptationMaterial:
    """Recorded images of the tinted room, and golden frames instead of rendered ones."""
    images, joints = video
    names, indices = arm_points.arm_indices(load_task("reach"))
    points = arm_points.project(arm_points.arm_points(ARM, names, joints), CAMERA.T_base_camera.matrix())
    labels = ArmLabels(indices, points.astype(np.float32), arm_points.inside(points, CAMERA))
    recorded = RecordedImages(images, labels)
    golden = BUNDLE.golden_frames()
    rendered = RenderedImages(golden.images, golden.features[:, :4, :2], np.zeros((len(golden.images), 3), np.float32))
    return AdaptationMaterial(CAMERA, FILE, recorded, recorded, rendered, rendered)


def test_refit_leaves_what_the_encoder_sees(video: tuple[np.ndarray, np.ndarray]) -> None:
    assert ADAPTATIONS["refit"]().adapt(small_material(video), AdaptationTraining(), print) == FILE


def test_the_image_adapter_begins_as_the_identity_and_onnx_runtime_agrees_with_pytorch() -> None:
    _, images = golden_images("reach_panda")
    plain, adapted = AdaptableEncoder(FILE, CAMERA), AdaptableEncoder(FILE, CAMERA, with_image_adapter)
    with torch.no_grad():
        np.testing.assert_allclose(adapted(images)[0], plain(images)[0], atol=2e-3)
        rng = torch.Generator().manual_seed(1)
        for name in TRAINED:
            weight = adapted.network.weight(PREFIX + name)
            weight.add_(0.05 * torch.randn(weight.shape, generator=rng))
        changed = adapted(images)[0].numpy()
    assert np.abs(changed - plain(images)[0].detach().numpy()).max() > 0.01
    np.testing.assert_allclose(outputs_in_onnx_runtime(adapted.file(), images)["features"], changed, atol=PARITY)
    with pytest.raises(ConfigurationError, match="has an image adapter already"):
        AdaptableEncoder(adapted.file(), CAMERA, with_image_adapter)


@pytest.mark.parametrize(
    ("method", "changed"), [("last-layers", 6), ("image-adapter", 8), ("style", 20), ("adabn", 18)]
)
def test_a_method_changes_the_weights_that_it_names_and_no_others(
    video: tuple[np.ndarray, np.ndarray], method: str, changed: int
) -> None:
    kind = ADAPTATIONS[method]()
    before = {value.name: numpy_helper.to_array(value) for value in kind.prepare(float_model(FILE)).graph.initializer}
    training = AdaptationTraining(updates=3, batch=4)
    file = kind.adapt(small_material(video), training, lambda line: None)
    after = {value.name: numpy_helper.to_array(value) for value in onnx.load_from_string(file).graph.initializer}
    assert before.keys() == after.keys()
    differing = [name for name in after if not np.array_equal(after[name], before[name])]
    assert len(differing) == changed, differing
    assert all(name.startswith((PREFIX, "encoder.convolutions", "encoder.heat")) for name in differing)
    assert kind.adapt(small_material(video), training, lambda line: None) == file  # the same seed, the same file


def test_last_layers_bring_the_arm_closer_to_where_the_joints_put_it(video: tuple[np.ndarray, np.ndarray]) -> None:
    given = small_material(video)
    training = AdaptationTraining(updates=30, batch=16, learning_rate=1e-3)
    file = ADAPTATIONS["last-layers"]().adapt(given, training, lambda line: None)
    before, after = (
        arm_points.reprojection_px(
            DeployedEncoder(each).features(given.recorded.images)[0], given.recorded.labels, CAMERA
        )
        for each in (FILE, file)
    )
    assert after < 0.9 * before


def test_adabn_gives_recorded_images_the_statistics_of_rendered_ones(
    video: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adabn, "SHARE", 1.0)
    given = small_material(video)
    file = ADAPTATIONS["adabn"]().adapt(given, AdaptationTraining(), lambda line: None)
    original, adapted = AdaptableEncoder(FILE, CAMERA), AdaptableEncoder(file, CAMERA)
    images = [torch.from_numpy(each) for each in (given.rendered.images, given.recorded.images)]
    for _, _, output in original.parts.convolutions[:2]:  # later layers have channels that are hardly active
        with torch.no_grad():
            ours, theirs = original.network(images[0], (output,))[0], adapted.network(images[1], (output,))[0]
            far = original.network(images[1], (output,))[0]
        for part in (torch.mean, torch.std):
            wanted, found, before = (part(each, dim=(0, 2, 3)) for each in (ours, theirs, far))
            assert (wanted - found).abs().median() < 0.02 * (wanted - before).abs().median()


def test_a_style_is_exchanged_and_the_content_stays() -> None:
    rng = np.random.default_rng(0)
    image, other = rng.integers(0, 256, (2, 84, 84, 3)).astype(np.uint8)
    other = (other * np.array([0.9, 0.5, 0.1])).astype(np.uint8)
    coloured = style.colour_exchanged(image, other)
    np.testing.assert_allclose(coloured.mean((0, 1)), other.mean((0, 1)), atol=0.1)
    np.testing.assert_allclose(coloured.std((0, 1)), other.std((0, 1)), atol=0.1)
    for channel in range(3):
        assert np.corrcoef(coloured[..., channel].ravel(), image[..., channel].ravel())[0, 1] > 0.999
    np.testing.assert_allclose(style.fourier_exchanged(image, image, 0.05), image, atol=1e-2)
    mean_only = style.fourier_exchanged(image, other, 0.0)
    np.testing.assert_allclose(mean_only.mean((0, 1)), other.mean((0, 1)), atol=0.1)
    np.testing.assert_allclose(mean_only.std((0, 1)), image.std((0, 1)), atol=0.5)


# --- the acceptance test ----------------------------------------------------------------------------------------------

BEFORE = AdaptationScore(1.0, 1.3, 0.015, held=0.3, shift=0.9, detection=0.95)


@pytest.mark.parametrize(
    ("changes", "changes_encoder", "words"),
    [
        ({}, True, "1.00 px off, before 1.00 px, which is no improvement"),
        ({"reprojection_px": 0.8}, True, ""),
        ({"reprojection_px": 0.8, "training_px": 1.5}, True, "on images of training the keypoints are 1.50 px off"),
        ({"reprojection_px": 0.8, "training_m": 0.018}, True, "the object is 18.0 mm off instead of 15.0 mm"),
        ({"reprojection_px": 0.8, "held": 0.5}, True, "it holds the arm in 50%"),
        ({"reprojection_px": 0.8, "detection": 0.9}, True, "tells altered images less well"),
        ({"shift": 0.2, "held": 0.0}, False, ""),
        ({"shift": 0.95, "held": 0.3}, False, "which is no improvement"),
        ({"shift": 0.2, "held": 0.0, "detection": 0.5}, False, "0.500 instead of 0.950"),
    ],
)
def test_a_bundle_is_refused_unless_it_is_better_and_nowhere_worse(
    changes: dict[str, float], changes_encoder: bool, words: str
) -> None:
    reason = refusal(BEFORE, dataclasses.replace(BEFORE, **changes), changes_encoder)
    assert (words in reason) if words else reason == ""


def test_refit_writes_a_whole_bundle_and_changes_nothing_else(
    video: tuple[np.ndarray, np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path.name: sha256(path) for path in BUNDLE.directory.iterdir()}
    written(tmp_path / "data", *video)
    arguments = ["adapt", "reach_panda", "--data", str(tmp_path / "data"), "--images", "120"]
    out = tmp_path / "adapted"
    assert cli.main([*arguments, "--method", "refit", "--out", str(out)]) == 0
    bundle = load_bundle(out)
    perception = Perception(bundle)  # it repeats its golden frames
    Policy(bundle, trained_arm(bundle))
    assert bundle.contract.provenance["adaptation"]["method"] == "refit"  # type: ignore[index,call-overload]
    assert bundle.contract.evaluation == ()
    policies = (onnx.load(str(each.file("policy.onnx"))).graph for each in (bundle, BUNDLE))
    assert len({graph.SerializeToString() for graph in policies}) == 1
    images, _ = video
    old = Perception(BUNDLE)
    ours, theirs = ([each.encode(image) for image in images[90:]] for each in (perception, old))
    assert np.median([percept.domain_shift for percept in ours]) < np.median([each.domain_shift for each in theirs])
    np.testing.assert_array_equal([percept.features for percept in ours], [percept.features for percept in theirs])
    assert {path.name: sha256(path) for path in BUNDLE.directory.iterdir()} == before
    capsys.readouterr()
    content = {path.name: sha256(path) for path in out.iterdir()}
    assert cli.main([*arguments, "--method", "refit", "--out", str(out)]) == 2
    assert "exists already; choose another folder for the adapted bundle" in capsys.readouterr().err
    assert {path.name: sha256(path) for path in out.iterdir()} == content


def test_an_adaptation_that_makes_training_worse_is_not_written(
    video: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    class Blinding(Refit):
        def adapt(self, given: AdaptationMaterial, training: AdaptationTraining, report: Report) -> bytes:
            encoder = self.encoder(given)
            with torch.no_grad():
                encoder.network.weight(encoder.parts.convolutions[-1][0]).mul_(-1.0)
            return encoder.file()

    ADAPTATIONS.add("blinding", Blinding)
    try:
        dataset = written(tmp_path / "data", *video)
        with pytest.raises(ConfigurationError, match=r"not written: on images of training the keypoints are"):
            adapt.adapt(BUNDLE, dataset, "blinding", tmp_path / "out", AdaptationTraining(images=60))
    finally:
        ADAPTATIONS.remove("blinding")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_data_that_cannot_be_learned_from_is_one_sentence(
    video: tuple[np.ndarray, np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, joints = video
    so101 = load_bundle("reach_so101")
    datasets = {
        "the arm stood still": written(tmp_path / "still", images, np.repeat(joints[:1], len(joints), axis=0)),
        "the images are dark": written(tmp_path / "dark", images // 64, joints),
        "holds 50 images, expected at least 100": written(tmp_path / "few", images[:50], joints[:50]),
        "was recorded with arm so101": written(tmp_path / "arm", images, joints[:, :5], so101),
        "was recorded with another bundle": written(tmp_path / "bundle", images, joints, encoder_sha256="0" * 64),
    }
    for words, dataset in datasets.items():
        command = ["adapt", "reach_panda", "--data", str(dataset.directory), "--method", "refit", "--out"]
        assert cli.main([*command, str(tmp_path / "out")]) == 2
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1
        assert not (tmp_path / "out").exists()


def test_what_cannot_be_adapted_is_one_sentence(
    video: tuple[np.ndarray, np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = written(tmp_path / "data", *video).directory
    pixels = make_bundle(tmp_path, "pixels", from_pixels=True).directory
    trusted = make_bundle(tmp_path, "trusted", trust=True).directory
    expected = {
        (
            "reach_panda",
            "magic",
            str(data),
        ): "adaptation is 'magic', expected one of: adabn, image-adapter, last-layers",
        ("reach_panda", "refit", "nothing"): "nothing: is not a dataset",
        (str(pixels), "refit", str(data)): "gives a latent vector instead of points",
        (str(trusted), "refit", str(data)): "its domain-shift score is trust.onnx",
    }
    for (bundle, method, folder), words in expected.items():
        command = ["adapt", bundle, "--data", folder, "--method", method, "--out", str(tmp_path / "out")]
        assert cli.main(command) == 2
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()
