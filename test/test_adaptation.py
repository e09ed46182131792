"""Tests of `adapt`: the methods, and the acceptance test."""

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

from rlfp_ros import cli
from rlfp_ros.adaptation import adapt, arm_points
from rlfp_ros.adaptation.acceptance import AdaptationScore, refusal
from rlfp_ros.adaptation.adaptation import ADAPTATIONS, AdaptationTraining, Report
from rlfp_ros.adaptation.arm_points import ArmLabels
from rlfp_ros.adaptation.encoder import AdaptableEncoder, DeployedEncoder
from rlfp_ros.adaptation.material import AdaptationMaterial, RecordedImages, RenderedImages
from rlfp_ros.adaptation.methods import adabn, style
from rlfp_ros.adaptation.methods.image_adapter import PREFIX, TRAINED, with_image_adapter
from rlfp_ros.adaptation.methods.refit import Refit
from rlfp_ros.adaptation.onnx_network import float_model
from rlfp_ros.contract import load_bundle, sha256
from rlfp_ros.control.policy import Policy
from rlfp_ros.control.trained_arm import trained_arm
from rlfp_ros.perception.encoder import Perception
from rlfp_ros.schema import ConfigurationError
from rlfp_ros.simulation.tasks.task import load_task


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Train on one thread, as `adapt` does: two that spin beside other tests are slower."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def video() -> tuple[np.ndarray, np.ndarray]:
    """Images of a moving arm in the tinted room, and its joints."""
    return tinted_video()


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
