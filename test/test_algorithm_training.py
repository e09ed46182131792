"""Tests that each algorithm solves a small task, continues from its checkpoint, and survives a full disk."""

from __future__ import annotations

import errno
import io
import itertools
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

pytest.importorskip("torch")

import torch

from rlfp_ros.learning.algorithms import a3c, dqn, ppo, sac
from rlfp_ros.learning.algorithms.algorithm import ALGORITHMS
from rlfp_ros.learning.algorithms.networks import batch_of_one
from rlfp_ros.learning.algorithms.point_mass import LIMIT, MakePointMass
from rlfp_ros.learning.algorithms.run import Plan, main, score_of
from rlfp_ros.learning.runs.history import read_history
from rlfp_ros.learning.runs.progress import TrainingProgress
from rlfp_ros.learning.runs.training_log import TrainingLog
from rlfp_ros.schema import ConfigurationError

pytestmark = pytest.mark.usefixtures("seeded_torch")


# --- learning --------------------------------------------------------------------------------------------------------


QUICK = {
    "sac": (
        sac.SacSettings(hidden=32, batch=64, first_steps=200, learning_rate=3e-3, discount=0.9, reward_scale=1.0),
        1_600,
    ),
    "ppo": (ppo.PpoSettings(hidden=32, rollout=512, discount=0.9, reward_scale=1.0), 8_000),
    "dqn": (
        dqn.DqnSettings(
            hidden=32,
            batch=64,
            first_steps=200,
            learning_rate=2e-3,
            discount=0.9,
            copy_every=100,
            levels=5,
            reward_scale=1.0,
        ),
        5_000,
    ),
    "a3c": (a3c.A3cSettings(hidden=32, learning_rate=3e-3, discount=0.9), 12_800),
    "a2c": (a3c.A3cSettings(hidden=32, learning_rate=3e-3, discount=0.9, synchronous=True), 12_800),
}


@pytest.mark.parametrize("name", list(QUICK))
def test_each_algorithm_learns_to_move_a_point_to_its_goal(name: str) -> None:
    """The deployed action ends within 0.15 of goals in a square of side 2; a point that stays, 1 in 30."""
    settings, steps = QUICK[name]
    agent = ALGORITHMS[name].train(MakePointMass(), settings, steps, 0, TrainingLog()).eval()
    assert score_of(MakePointMass(), agent, range(50)).successes >= 35


def test_sac_learns_as_it_did_before_it_also_became_the_recipes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses and entropies of the implementation before, with the same seeds; they were equal to all digits."""
    figures: list[dict[str, float]] = []
    update = sac.SoftActorCritic.update

    def recorded(learner: Any, *given: Any) -> dict[str, float]:
        figures.append(update(learner, *given))
        return figures[-1]

    monkeypatch.setattr(sac.SoftActorCritic, "update", recorded)
    monkeypatch.setattr(sac, "episode_seeds", lambda *_: itertools.count(5))
    settings = sac.SacSettings(hidden=32, batch=64, first_steps=100, discount=0.9, reward_scale=1.0)
    log = TrainingLog()
    sac.train(MakePointMass(), settings, 400, 0, log)
    assert len(figures) == 306
    found = [(figures[row]["critic_loss"], figures[row]["entropy"]) for row in (0, 50, 100)]
    for one, before in zip(found, [(2.91812, -1.64327), (0.2661, 1.07974), (0.08781, 1.05)], strict=True):
        assert one == pytest.approx(before, rel=0.02)
    assert sum(episode.episode_return for episode in log.episodes) == pytest.approx(-352.4, abs=10)


@pytest.mark.parametrize("name", ["sac", "ppo", "dqn", "a3c"])
def test_each_algorithm_takes_stacked_images(name: str) -> None:
    settings = ALGORITHMS[name].settings.changed(hidden=8)
    if name in ("sac", "dqn"):
        settings = settings.changed(batch=8, first_steps=20)
    if name == "ppo":
        settings = settings.changed(rollout=32, batch=8, epochs=1, augmentation="shift")
    maker = MakePointMass(pixels=True, frame_stack=2)
    agent = ALGORITHMS[name].train(maker, settings, 64, 0, TrainingLog())
    observation, _ = maker().reset(seed=0)
    assert observation["image"].shape == (16, 16, 6)
    with torch.no_grad():
        action = agent(batch_of_one(observation))
    assert action.shape == (1, 2)
    assert (action.abs() <= 1).all()


@pytest.mark.parametrize("name", ["sac", "ppo", "dqn", "a2c"])
def test_a_training_is_repeatable_and_continues_from_its_checkpoint(name: str, tmp_path: Path) -> None:
    settings = ALGORITHMS[name].settings.changed(hidden=8)
    if name in ("sac", "dqn"):
        settings = settings.changed(batch=8, first_steps=20)
    if name == "ppo":
        settings = settings.changed(rollout=32)
    train = ALGORITHMS[name].train
    log = TrainingLog(tmp_path, {"seed": 0})
    first = train(MakePointMass(), settings, 96, 0, log).state_dict()
    second = train(MakePointMass(), settings, 96, 0, TrainingLog()).state_dict()
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    again = TrainingLog(tmp_path, {"seed": 0})
    assert again.resumed is not None
    assert again.resumed["step"] == 96
    assert again.episodes == log.episodes
    third = train(MakePointMass(), settings, 128, 0, again).state_dict()
    assert len(again.episodes) == 128 // LIMIT
    counts = [state[name].item() for state in (first, third) for name in state if name.endswith("normaliser.count")]
    assert counts[-1] == counts[0] + 32  # the statistics went on too
    with pytest.raises(ConfigurationError, match="seed 0, this training has 1"):
        TrainingLog(tmp_path, {"seed": 1})


# --- a full disk -----------------------------------------------------------------------------------------------------


FSYNC = os.fsync


class FullDisk:
    """Refuses to write once `after` more files have been written whole."""

    def __init__(self, after: int) -> None:
        self.left = after

    def __call__(self, handle: int) -> None:
        if self.left == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.left -= 1
        FSYNC(handle)


@pytest.mark.parametrize(
    ("written", "file"),
    [(0, "plan.json"), (1, "checkpoint.pt"), (2, "seconds.txt"), (3, "policy.pt"), (4, "result.json")],
)
def test_a_full_disk_is_one_sentence_and_the_training_resumes(
    written: int, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever file meets it: none is left half written, and --resume ends the training as if nothing had been."""
    monkeypatch.setattr("rlfp_ros.learning.algorithms.run.MIN_STEPS", 1)
    monkeypatch.setattr("rlfp_ros.learning.algorithms.run.TaskEnvironment", PointTask)
    plan = Plan(algorithm="ppo", task="reach", observation="state", profile="train", steps=64, settings=("rollout=64",))
    run = tmp_path / "run"
    monkeypatch.setattr(os, "fsync", FullDisk(written))
    expected = rf"{file}: cannot be written \(No space left on device\); free space on its disk, then "
    with pytest.raises(ConfigurationError, match=expected):
        main(plan, run, evaluation_episodes=1)
    monkeypatch.setattr(os, "fsync", FSYNC)
    assert not list(run.glob(".*"))
    result = main(plan, run, resume=True, evaluation_episodes=1)
    assert json.loads((run / "result.json").read_text())["steps"] == result["steps"] == 64
    assert torch.load(run / "policy.pt", weights_only=True)["agent"]


@dataclass(frozen=True)
class PointTask:
    """A point mass with the arguments of a TaskEnvironment."""

    task: str
    arm: str
    profile: str
    observation: str
    image_size: int
    frame_stack: int
    encoder: Path | None

    def __call__(self) -> Any:
        return MakePointMass()()


class FillingDisk(io.BytesIO):
    """A file on a disk that takes its first few hundred bytes."""

    def write(self, data: Any) -> int:
        if self.tell() > 200:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(data)


def test_a_curve_that_cannot_be_written_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorBoard's own writer leaves it to a thread."""
    monkeypatch.setattr(Path, "open", lambda *_, **__: FillingDisk())
    progress = TrainingProgress(Console(), tmp_path)
    progress.stage("sac", 10, "")
    log = TrainingLog(tmp_path, {}, progress)
    curve = {f"loss_{number}": 1.0 for number in range(20)}
    with pytest.raises(ConfigurationError, match=r"tfevents.*cannot be written \(No space left on device\)"):
        log.figures(1, **curve)


def test_episodes_and_losses_of_an_algorithm_are_rows_of_the_run(tmp_path: Path) -> None:
    with TrainingProgress(Console(file=io.StringIO()), tmp_path) as progress:
        progress.stage("sac", 40, "random actions")
        log = TrainingLog(tmp_path, {}, progress)
        for number in range(4):
            log.episode(10 * (number + 1), {"episode": {"r": -float(number)}, "success": number == 3})
        log.figures(40, critic_loss=0.5)
    rows = read_history(tmp_path)
    assert [row.done for row in rows] == [10, 20, 30, 40, 40]
    assert rows[3].figures == {"success_rate": 0.25, "episode_return": -3.0, "success": 1.0}
    assert rows[4].figures == {"critic_loss": 0.5}
