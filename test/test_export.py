"""Tests of the export from a finished training to a bundle, and of errors that must leave existing files unharmed."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from rlfp_ros.cli import main as rlfp
from rlfp_ros.contract import Bundle, Evaluation, FeatureStatistics, GoldenFrames, load_bundle, write_bundle
from rlfp_ros.control.arm import JointState, load_arm
from rlfp_ros.control.policy import ObservationContract, Observer, Policy
from rlfp_ros.evaluation.rollout import Rollout
from rlfp_ros.learning.algorithms.networks import GaussianActor, ImageEncoder, RelativePoints, Trunk
from rlfp_ros.learning.algorithms.sac import SacPolicy
from rlfp_ros.learning.encoders.cnn import CnnEncoder, CnnSettings
from rlfp_ros.learning.encoders.spatial import SpatialEncoder
from rlfp_ros.learning.export import export, trained
from rlfp_ros.learning.export.build import POLICY_OUTPUTS, build_contract, encoder_contract
from rlfp_ros.learning.export.networks import (
    ExportedPolicy,
    PixelEncoder,
    deployed_encoder,
    in_onnx_runtime,
)
from rlfp_ros.learning.export.reference import golden_frames
from rlfp_ros.learning.export.trained import save_trained
from rlfp_ros.learning.recipes import train
from rlfp_ros.learning.recipes.imitation import ImitationRecipe
from rlfp_ros.perception.encoder import Perception
from rlfp_ros.schema import ConfigurationError
from rlfp_ros.simulation.tasks.reach import Reach
from rlfp_ros.simulation.tasks.task import load_task
from rlfp_ros.simulation.worlds import load_conditions

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = ROOT / "models" / "reach_panda"
CAMERA = load_bundle(SHIPPED).contract.camera
OBSERVATIONS = 20  # the command compares 1,000


def finished(folder: Path, encoder: Any, memory: int = 0, past_actions: int = 0, every: int = 1) -> Path:
    """The run folder of a training that ended at once: networks as they were initialised."""
    shipped, arm = load_bundle(SHIPPED).contract, load_arm("panda")
    network = encoder if isinstance(encoder, PixelEncoder) else deployed_encoder(encoder.eval())
    parts = encoder_contract(network, np.zeros(shipped.encoder.inputs["image"][1:], np.uint8))
    size = parts.outputs["embedding"][1]
    observed = replace(ObservationContract.of(shipped), past_actions=past_actions)
    contract = build_contract(
        name="reach_panda",
        task=load_task("reach"),
        arm=arm,
        camera=shipped.camera,
        encoder=parts,
        observed=observed,
        state_size=max(1, memory),
        action=shipped.action.deciding_every(every),
        base_controller=shipped.base_controller,
        latency=shipped.latency,
        feature_statistics=FeatureStatistics(
            mean=(0.0,) * size, covariance=tuple(map(tuple, np.eye(size))), usual_distance=1.0, rare_distance=2.0
        ),
        provenance={},
    )
    points = (observed.feature_stack, *parts.outputs["features"][1:])
    seen = int(np.prod(points)) + Observer(arm, observed, 3).proprioception_size
    seen += 4 + 3 * past_actions  # goal, its mask, and past actions
    actor = GaussianActor(Trunk(0, seen, RelativePoints(points)), 3, 32, memory)
    policy = SacPolicy(ImageEncoder(gymnasium.spaces.Dict()), actor)
    save_trained(folder, contract, arm, network, ExportedPolicy(policy))
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    return finished(tmp_path_factory.mktemp("run"), SpatialEncoder(CAMERA))


@pytest.fixture(scope="module")
def bundle(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The bundle that `export_bundle` makes of the run."""
    return exported(run, tmp_path_factory.mktemp("models") / "new")


@pytest.fixture
def converted(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's slow conversion, done once for the tests of what comes after it."""
    monkeypatch.setattr(
        trained,
        "program_to_onnx",
        lambda program, inputs, outputs: bundle.file(
            "policy.onnx" if outputs == POLICY_OUTPUTS else "encoder.onnx"
        ).read_bytes(),
    )


@pytest.fixture
def older(tmp_path: Path) -> Path:
    """A bundle that must survive what goes wrong."""
    return Path(shutil.copytree(SHIPPED, tmp_path / "older"))


def exported(run: Path, out: Path) -> Bundle:
    return export.export_bundle(run, out, evaluation_episodes=0, observations=OBSERVATIONS)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_run_becomes_a_bundle_that_deploys(bundle: Bundle) -> None:
    assert sorted(contents(bundle.directory)) == [
        "arm.yaml",
        "bundle.yaml",
        "encoder.onnx",
        "golden.npz",
        "policy.onnx",
    ]
    Perception(bundle)
    Policy(bundle, load_arm("panda"))


def test_a_latent_and_a_memory_become_a_bundle_and_an_episode_starts_without_the_memory(tmp_path: Path) -> None:
    """Golden frames follow each other, so the deployed policy remembers what PyTorch does; after a reset nothing."""
    torch.manual_seed(0)
    bundle = exported(finished(tmp_path / "run", CnnEncoder(CAMERA, CnnSettings()), memory=8), tmp_path / "remembers")
    Perception(bundle)
    arm = load_arm("panda")
    policy = Policy(bundle, arm)
    (latent,) = bundle.contract.encoder.outputs["features"][1:]
    features = np.random.default_rng(0).normal(size=latent).astype(np.float32)
    joints = JointState(0, np.array(arm.home), np.zeros(len(arm.joint_names)), np.zeros(len(arm.joint_names)))

    def episode() -> list[np.ndarray]:
        return [policy.act(features, joints, step).twist for step in range(4)]

    first = episode()
    assert np.abs(first[2] - first[1]).max() > 1e-5  # the same image, another memory
    policy.reset()
    np.testing.assert_array_equal(episode(), first)


@pytest.fixture(scope="module")
def from_pixels(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A recurrent policy from raw pixels that observes past actions and decides on every third image."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    encoder = PixelEncoder(Convolutions()).eval()
    folder = tmp_path_factory.mktemp("pixels")
    return exported(finished(folder / "run", encoder, memory=8, past_actions=4, every=3), folder / "pixels")


class Convolutions(torch.nn.Module):
    """An image uint8 [1, H, W, 3] to a latent [1, 8]."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(3, 4, 5, stride=4),
            torch.nn.ReLU(),
            torch.nn.Flatten(),
            torch.nn.LazyLinear(8),
            torch.nn.Tanh(),
        )
        self.layers(torch.zeros(1, 3, CAMERA.height, CAMERA.width))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        latent: torch.Tensor = self.layers(image.permute(0, 3, 1, 2).float() / 127.5 - 1)
        return latent


def test_a_recurrent_policy_from_pixels_becomes_a_bundle_that_deploys(from_pixels: Bundle) -> None:
    """Its golden frames come from the training environment: held images, admitted actions and memory included."""
    contract, golden = from_pixels.contract, from_pixels.golden_frames()
    assert sorted(contract.encoder.outputs) == ["embedding", "features"]
    assert contract.action.decision_rate_hz == 10.0
    assert golden.covered is not None
    assert {"image", "features", "proprioception", "past_actions", "state"} <= set(golden.covered.tolist())
    decisions = [0]
    for number, stamp in enumerate(golden.stamps_ns):
        if stamp - golden.stamps_ns[decisions[-1]] > 0.09e9:  # the third image, or a later one if that was lost
            decisions.append(number)
        np.testing.assert_array_equal(golden.twists[number], golden.twists[decisions[-1]])
    assert len(decisions) >= 5
    assert len({tuple(golden.twists[number]) for number in decisions}) == len(decisions)
    assert golden.past_actions is not None
    assert np.abs(golden.past_actions[decisions[-1]]).max() > 0
    assert not golden.past_actions[0].any()
    Perception(from_pixels)
    Policy(from_pixels, load_arm("panda"))


@pytest.mark.parametrize(
    ("planted", "said"),
    [
        ("newest first", "past actions of golden frame"),
        ("one late", "past actions of golden frame"),
        ("not received", "past actions of golden frame"),
        ("every image", "the residual of golden frame"),
        ("memory runs on", "the residual of golden frame"),
    ],
)
def test_golden_frames_find_a_mistake_with_past_actions_and_held_ones(
    from_pixels: Bundle, monkeypatch: pytest.MonkeyPatch, planted: str, said: str
) -> None:
    right, saw = Observer.past_actions, Observer.saw_applied
    if planted == "newest first":
        monkeypatch.setattr(Observer, "past_actions", lambda self: right(self)[::-1])
    elif planted == "one late":
        monkeypatch.setattr(Observer, "past_actions", lambda self: np.roll(right(self), 1, axis=0))
    elif planted == "not received":
        monkeypatch.setattr(Observer, "saw_applied", lambda self, stamp, action: saw(self, stamp, 0 * action))
    elif planted == "every image":
        monkeypatch.setattr("rlfp_ros.control.policy.decides", lambda *_: True)
    else:
        act = Policy.act

        def running(self: Policy, *arguments: Any) -> Any:
            residual = act(self, *arguments)
            self._state = self._state * 0.9
            return residual

        monkeypatch.setattr(Policy, "act", running)
    with pytest.raises(ConfigurationError, match=said):
        Policy(from_pixels, load_arm("panda"))


@pytest.mark.parametrize("world", ["pybullet", "mujoco"])
def test_a_bundle_from_pixels_plays_in_every_simulator(from_pixels: Bundle, world: str) -> None:
    conditions = load_conditions(world, "twin_near" if world == "mujoco" else "train")
    rollout = Rollout(from_pixels, conditions)
    played = rollout.play(3)
    assert len(played.residuals) > 10
    again = rollout.play(3)
    assert again.outcome == played.outcome
    for one, other in zip(again.residuals, played.residuals, strict=True):
        np.testing.assert_array_equal(one.twist, other.twist)
    rollout.close()


def test_the_networks_metadata_names_action_arm_and_proprioception(bundle: Bundle) -> None:
    notes = bundle.session("policy.onnx").get_modelmeta().custom_metadata_map
    assert json.loads(notes["rlfp_ros.action"])["scale"] == [0.25, 0.25, 0.25]
    assert json.loads(notes["rlfp_ros.arm"])["joint_names"] == list(load_arm("panda").joint_names)
    assert json.loads(notes["rlfp_ros.proprioception"])[0] == "joint_positions"
    for name in ("encoder.onnx", "policy.onnx"):
        assert str(ROOT).encode() not in bundle.file(name).read_bytes()


@pytest.mark.usefixtures("converted")
def test_pytorch_and_onnx_runtime_that_differ_write_nothing(
    run: Path, older: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, right = contents(older), in_onnx_runtime

    def slightly_off(file: bytes, outputs: tuple[str, ...]) -> Any:
        network = right(file, outputs)
        return lambda inputs: tuple(output + np.float32(1e-4) for output in network(inputs))

    monkeypatch.setattr("rlfp_ros.learning.export.networks.in_onnx_runtime", slightly_off)
    with pytest.raises(ConfigurationError, match=r"ONNX Runtime differs from PyTorch by 0\.0001"):
        exported(run, older)
    assert contents(older) == before
    assert [path.name for path in older.parent.iterdir()] == ["older"]


@pytest.mark.usefixtures("converted")
def test_a_bundle_that_would_not_deploy_leaves_the_older_one(
    run: Path, older: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, right = contents(older), golden_frames

    def wrong(*arguments: Any) -> GoldenFrames:
        frames = right(*arguments)
        return replace(frames, twists=2 * frames.twists + 0.01)

    monkeypatch.setattr(export, "golden_frames", wrong)
    with pytest.raises(ConfigurationError, match="the residual of golden frame 0"):
        exported(run, older)
    assert contents(older) == before
    assert [path.name for path in older.parent.iterdir()] == ["older"]


@pytest.mark.usefixtures("converted")
def test_a_policy_that_solves_nothing_replaces_nothing(run: Path, older: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(older)
    none_won = (Evaluation(world="pybullet", profile="train", episodes=3, success_rate=0.0, wilson95=(0.0, 0.7)),)
    monkeypatch.setattr(export, "measured", lambda *arguments: none_won)
    with pytest.raises(ConfigurationError, match="keeps its older bundle"):
        export.export_bundle(run, older, evaluation_episodes=3, observations=OBSERVATIONS)
    assert contents(older) == before


def test_an_older_bundle_is_brought_up_to_date_without_its_training(tmp_path: Path) -> None:
    old = tmp_path / "old"
    files = {name: (SHIPPED / name).read_bytes() for name in ("encoder.onnx", "policy.onnx")}
    with np.load(SHIPPED / "golden.npz") as golden:
        np.savez(tmp_path / "golden.npz", **{name: golden[name] for name in golden if not name.startswith("frames/")})
    write_bundle(old, load_bundle(SHIPPED).contract, files | {"golden.npz": (tmp_path / "golden.npz").read_bytes()})
    with pytest.raises(ConfigurationError, match="rlfp export"):
        Perception(load_bundle(old))
    assert rlfp(["export", str(old), "--out", str(old)]) == 0
    Perception(load_bundle(old))
    Policy(load_bundle(old), load_arm("panda"))
    assert load_bundle(old).contract.evaluation == load_bundle(SHIPPED).contract.evaluation


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda run: (run / "trained" / "policy.pt2").write_bytes(b"PK"), "policy.pt2: is missing, cut short"),
        (lambda run: (run / "trained" / "encoder.pt2").unlink(), "encoder.pt2: is missing, cut short"),
        (lambda run: (run / "trained" / "trained.json").write_text('{"version": 99}'), "version is 99, expected 2"),
        (lambda run: (run / "trained" / "trained.json").write_text('{"versi'), "trained.json: is damaged"),
        (lambda run: (run / "trained" / "trained.json").rename(run / "recipe.json"), "its training has not ended"),
        (lambda run: (run / "trained" / "trained.json").unlink(), "give a folder of `rlfp train`, or a bundle"),
    ],
)
def test_a_run_folder_that_cannot_serve_is_refused_in_a_sentence(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Any, said: str
) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    damage(copy)
    assert rlfp(["export", str(copy), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("converted")
def test_a_run_of_an_older_contract_is_exported_and_a_newer_one_says_what_to_install(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    marker = copy / "trained" / "trained.json"
    document = json.loads(marker.read_text())
    del document["contract"]["policy"]["past_actions"], document["contract"]["action"]["decision_rate_hz"]
    del document["contract"]["written_with"]
    document["contract"]["schema"] = 1
    marker.write_text(json.dumps(document))
    assert exported(copy, tmp_path / "out").contract.action.images_per_decision == 1
    document["contract"] |= {"schema": 7, "written_with": "8.0.0"}
    marker.write_text(json.dumps(document))
    with pytest.raises(ConfigurationError, match=r"schema is 7, .* install rlfp_ros 8\.0\.0 or newer"):
        exported(copy, tmp_path / "out")


def test_an_output_folder_that_holds_something_else_is_left_alone(run: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigurationError, match="is not a bundle and would be lost"):
        exported(run, tmp_path)
    with pytest.raises(ConfigurationError, match="is not a bundle and would be lost"):
        train.main(ImitationRecipe("reach"), tmp_path, tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_bundle_whose_writing_was_killed_half_way_is_there_again(older: Path) -> None:
    before = contents(older)
    contract = load_bundle(older).contract
    camera = contract.camera.model_copy(update={"width": 17})  # contradicts the encoder
    contract = contract.model_copy(update={"camera": camera})
    older.rename(older.parent / ".older.replaced")  # where a killed writer leaves the older one
    with pytest.raises(ConfigurationError):
        write_bundle(older, contract, before)
    assert contents(older) == before


def test_too_little_work_is_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "reach", "--work", "0.0001", "--out", str(tmp_path / "out"), "--run", str(tmp_path / "run")]
    assert rlfp(words) == 2
    assert "--work is 0.0001, expected at least 0.003" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_task_without_privileged_state_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Reach, "privileged_state", lambda self, world: np.zeros(0, np.float32))
    with pytest.raises(ConfigurationError, match="task reach: has no privileged state"):
        train.main(ImitationRecipe("reach"), tmp_path / "out", tmp_path / "run")
    assert not list(tmp_path.iterdir())
