"""Tests of the recipe: refused settings, changes that a resumed training notices, and own encoders and objectives."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from rlfp_ros.contract import FeatureStatistics, load_bundle
from rlfp_ros.learning.cell import check_encoder_bundle, load_cell
from rlfp_ros.learning.recipes import train
from rlfp_ros.learning.recipes.domain_shift_reference import statistics_of
from rlfp_ros.learning.recipes.imitation import ImitationRecipe
from rlfp_ros.learning.recipes.reinforcement import ReinforcementRecipe
from rlfp_ros.perception.domain_shift import DomainShift
from rlfp_ros.schema import ConfigurationError
from rlfp_ros.simulation.environment import ManipulationEnv
from rlfp_ros.simulation.tasks.task import TASKS

ROOT = Path(__file__).resolve().parents[1]


class Stopped(Exception):
    """Stands for a training that was stopped."""


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings stop as soon as everything was checked and the run folder is claimed."""

    def stop(*arguments: Any) -> None:
        raise Stopped

    monkeypatch.setattr(ImitationRecipe, "train", stop)


# --- one cell ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arm", ["so101", "config/arms/so101.yaml"])
def test_encoder_and_environment_see_one_camera_whether_the_arm_is_a_name_or_a_file(
    arm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    cell = load_cell("reach", arm, "none", 24)
    source = ImitationRecipe("reach", arm, "none").source(cell)
    env = ManipulationEnv(cell.task, cell.arm, cell.profile, "state", image_size=cell.image_size)
    assert env.world.camera.contract == source.camera == cell.camera
    assert cell.camera.T_base_camera == load_bundle("reach_so101").contract.camera.T_base_camera
    env.close()


def test_an_encoder_of_another_arm_is_refused_at_once() -> None:
    cell = load_cell("reach", "panda", "none", 84)
    check_encoder_bundle(load_bundle("reach_panda"), cell)
    check_encoder_bundle(load_bundle("push_panda"), cell)
    with pytest.raises(ConfigurationError, match="encoder was trained with the arm so101, but this training's arm is"):
        check_encoder_bundle(load_bundle("reach_so101"), cell)


def test_an_encoder_of_another_camera_is_refused_at_once() -> None:
    cell = load_cell("reach", "panda", "none", 84)
    moved = cell.scene.camera.model_copy(update={"position": (1.0, 0.3, 0.6)})
    other = type(cell)(cell.task, cell.arm, cell.profile, replace(cell.scene, camera=moved))
    with pytest.raises(ConfigurationError, match=r"trained with camera\.T_base_camera\.xyz \[1\.08, 0\.34, 0\.62\]"):
        check_encoder_bundle(load_bundle("reach_panda"), other)


# --- resuming ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("interrupted")
def test_resume_notices_that_the_content_of_the_profile_changed(tmp_path: Path) -> None:
    profile, run, out = tmp_path / "mine.yaml", tmp_path / "run", tmp_path / "bundle"
    text = "name: mine\ntextures: plain\ngamma: {low: 0.9, high: %s, unit: '1'}\n"
    profile.write_text(text % 1.1)
    recipe = ImitationRecipe("reach", profile=str(profile))
    with pytest.raises(Stopped):
        train.main(recipe, out, run)
    profile.write_text("# a comment\n" + text % 1.1)
    with pytest.raises(Stopped):
        train.main(recipe, out, run, resume=True)
    profile.write_text(text % 1.5)
    said = r"profile_file\.ranges\.gamma\.high was 1\.1 and is 1\.5 now"
    with pytest.raises(ConfigurationError, match=said):
        train.main(recipe, out, run, resume=True)


@pytest.mark.usefixtures("interrupted")
def test_resume_notices_that_the_content_of_the_arm_changed(tmp_path: Path) -> None:
    arm, run, out = tmp_path / "slow_panda.yaml", tmp_path / "run", tmp_path / "bundle"
    document = yaml.safe_load((ROOT / "config" / "arms" / "panda.yaml").read_text()) | {"name": "slow_panda"}
    arm.write_text(yaml.safe_dump(document))
    recipe = ImitationRecipe("reach", str(arm))
    with pytest.raises(Stopped):
        train.main(recipe, out, run)
    document["limits"]["velocity"] = [0.2] * 7
    arm.write_text(yaml.safe_dump(document))
    with pytest.raises(ConfigurationError, match=r"arm_file\.limits\.velocity was \[.*\] and is \[0\.2, .*\] now"):
        train.main(recipe, out, run, resume=True)


@pytest.mark.usefixtures("interrupted")
@pytest.mark.parametrize("part", ["task_file", "scene_file"])
def test_resume_notices_that_task_or_scene_changed(part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, out, recipe = tmp_path / "run", tmp_path / "bundle", ImitationRecipe("reach")
    with pytest.raises(Stopped):
        train.main(recipe, out, run)
    right = load_cell

    def changed(*arguments: Any) -> Any:
        cell = right(*arguments)
        contents = cell.contents()
        name = next(name for name, value in contents[part].items() if isinstance(value, float))
        contents[part][name] = 0.123
        monkeypatch.setattr(type(cell), "contents", lambda self: contents)
        return cell

    monkeypatch.setattr(train, "load_cell", changed)
    with pytest.raises(ConfigurationError, match=rf"{part}\..* was .* and is 0\.123 now"):
        train.main(recipe, out, run, resume=True)


# --- the domain-shift reference of little data ------------------------------------------------------------------------


@pytest.mark.parametrize("embeddings", [np.zeros((8, 1)), np.ones((8, 3)), np.eye(3), np.zeros((1, 2))])
def test_the_reference_of_few_equal_embeddings_is_valid(embeddings: np.ndarray) -> None:
    size = embeddings.shape[1]
    covariance = np.atleast_2d(np.cov(embeddings.T)) if len(embeddings) > 1 else np.zeros((size, size))
    statistics = statistics_of(embeddings, embeddings.mean(axis=0), covariance)
    assert FeatureStatistics.model_validate(statistics.model_dump()) == statistics
    score = DomainShift(statistics)
    assert score(embeddings[0]) <= 0.5
    assert score(embeddings[0] + 100.0) == 1.0


# --- plugins ----------------------------------------------------------------------------------------------------------

PLUGIN = """
from torch import nn

from rlfp_ros.learning.encoders.encoder import ENCODERS
from rlfp_ros.learning.encoders.latent import LatentEncoder, trunk_width
from rlfp_ros.learning.objectives.objective import OBJECTIVES, Objective


@ENCODERS.register("mine")
class MyEncoder(LatentEncoder):
    def build_trunk(self, camera):
        self.layers = nn.Sequential(nn.AvgPool2d(12), nn.Flatten())
        return trunk_width(self.layers, camera)

    def trunk(self, pixels):
        hidden = self.layers(pixels)
        return hidden, hidden[:, :8]


@OBJECTIVES.register("mine")
class SmallFeatures(Objective):
    def loss(self, encoder, batch):
        return batch.code.square().mean()
"""


def rlfp(*words: str, timeout: float) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, so that its plugins are not loaded here."""
    return subprocess.run(
        [sys.executable, "-P", "-m", "rlfp_ros.cli", *words],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.timeout(900)  # a minute on an idle machine
def test_an_encoder_and_an_objective_of_ones_own_make_a_bundle_with_the_least_work(tmp_path: Path) -> None:
    plugin, bundle = tmp_path / "my_perception.py", tmp_path / "bundle"
    plugin.write_text(textwrap.dedent(PLUGIN))
    done = rlfp(
        "train",
        "reach",
        "--plugin",
        str(plugin),
        "--recipe",
        "imitation",
        "--encoder",
        "mine",
        "--representation",
        "supervised+mine",
        "--work",
        "0.003",
        "--evaluation-episodes",
        "0",
        "--run",
        str(tmp_path / "run"),
        "--out",
        str(bundle),
        timeout=880,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    contract = load_bundle(bundle).contract
    assert contract.encoder.outputs["features"] == (1, 64)
    assert contract.encoder.outputs["embedding"] == (1, 8)
    state = torch.load(tmp_path / "run" / "encoder.pt", weights_only=True)
    assert (state["key"]["encoder"], state["key"]["representation"]) == ("mine", "supervised+mine")


def test_an_encoder_that_no_plugin_defines_is_refused_with_those_that_there_are(tmp_path: Path) -> None:
    done = rlfp("train", "reach", "--encoder", "mine", "--run", str(tmp_path / "run"), timeout=100)
    assert done.returncode == 2
    assert done.stderr.startswith("rlfp: encoder is 'mine', expected one of: cnn, spatial, vit;")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_task_gives_sizes_to_the_recipes_that_have_the_part(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"dagger": {"steps": 7_000}, "student": {"steps": 9_000}}
    monkeypatch.setattr(TASKS["push"], "training", sizes)
    imitation = ImitationRecipe.for_task("push", "panda", "train", 0)
    assert imitation.dagger is not None
    assert imitation.dagger.steps == 7_000
    assert ReinforcementRecipe.for_task("push", "panda", "train", 0).student.steps == 9_000
    monkeypatch.setattr(TASKS["push"], "training", {"dager": {"steps": 7}})
    with pytest.raises(ConfigurationError, match="task push: training has 'dager', which is a part of no recipe"):
        ImitationRecipe.for_task("push", "panda", "train", 0)
