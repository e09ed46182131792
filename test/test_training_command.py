"""Tests of `rlfp train --algorithm`: the command, its settings, and plugins."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from python_process import run_python

pytest.importorskip("torch")

import torch

from rlfp_ros import cli
from rlfp_ros.contract import load_bundle
from rlfp_ros.evaluation.rollout import Rollout
from rlfp_ros.learning.algorithms import dqn
from rlfp_ros.learning.algorithms.algorithm import ALGORITHMS
from rlfp_ros.learning.algorithms.environments import TaskEnvironment
from rlfp_ros.learning.algorithms.networks import batch_of_one
from rlfp_ros.learning.algorithms.run import Plan, main, save_policy, settings_of
from rlfp_ros.learning.export.export import export_bundle
from rlfp_ros.learning.runs.training_log import TrainingLog
from rlfp_ros.schema import ConfigurationError
from rlfp_ros.simulation.randomization import load_profile

pytestmark = pytest.mark.usefixtures("seeded_torch")


@pytest.mark.slow
def test_the_command_trains_on_the_arm_and_leaves_a_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlfp_ros.learning.algorithms.run.MIN_STEPS", 1)
    run = tmp_path / "run"
    words = [
        "train",
        "reach",
        "--algorithm",
        "ppo",
        "--steps",
        "40",
        "--profile",
        "none",
        "--image-size",
        "16",
        "--frame-stack",
        "2",
        "--set",
        "rollout=20",
        "--set",
        "augmentation=shift",
        "--run",
        str(run),
        "--evaluation-episodes",
        "1",
    ]
    assert cli.main(words) == 0
    result = json.loads((run / "result.json").read_text())
    assert result["settings"]["rollout"] == 20
    assert [(found["profile"], found["episodes"]) for found in result["evaluation"]] == [("none", 1), ("train", 1)]
    policy = torch.load(run / "policy.pt", weights_only=True)["agent"]
    assert policy["encoder.convolutions.0.weight"].shape[1] == 6
    assert cli.main(words) == 2  # the folder is taken
    assert cli.main([*words, "--resume"]) == 0


def test_features_come_from_a_bundles_encoder_and_hold_nothing_of_the_simulators_state() -> None:
    encoder = load_bundle("reach_panda").directory / "encoder.onnx"
    env = TaskEnvironment("reach", profile="none", observation="features", encoder=encoder)()
    observation, _ = env.reset(seed=5)
    assert list(observation) == ["vector"]
    world: Any = env.unwrapped
    before = world.observe()
    world.world.task.privileged_state = lambda _: 1 / 0  # a use of it raises
    after = world.observe()
    np.testing.assert_array_equal(before["features"], after["features"])
    proprioception = 7 + 7 + 1 + 3 + 3  # joints, their speeds, gripper, tool, where the tool points
    assert observation["vector"].shape == (2 * 16 * 3 + proprioception + 3 + 1,)
    env.close()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"algorithm": "ddpg"}, "algorithm is 'ddpg', expected one of: a2c, a3c, dqn, ppo, sac"),
        ({"observation": "sound"}, "observation is 'sound', but it should be 'pixels', 'features' or 'state'"),
        ({"steps": 10}, "steps is 10, too few to train anything; give at least 2000"),
        ({"encoder": "reach_panda"}, "--observation is 'pixels'; only features have an encoder"),
        ({"task": "juggle"}, "juggle"),
        ({"profile": "no_such"}, "no_such: no such file"),
        ({"settings": ("augmentation=blur",)}, "augmentation is 'blur', but it should be none or one of: shift"),
        ({"seed": -1}, "plan: seed is -1, but it should be greater than or equal to 0"),
        ({"seed": 10_000}, "plan: seed is 10000, but it should be less than or equal to 9999"),
        ({"image_size": -4}, "image_size is -4, but it should be greater than or equal to 8"),
        ({"steps": 10**8}, "steps is 100000000, but it should be less than or equal to 10000000"),
        ({"settings": ("colour=red",)}, "--set colour=red: ppo has no 'colour'; it has: hidden"),
        ({"settings": ("batch=many",)}, "--set: batch is 'many', but it should be a valid integer"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused_before_anything_is_written(
    change: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match=expected):
        main(Plan(algorithm="ppo", task="reach").changed("plan", **change), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_settings_are_given_by_name() -> None:
    settings = settings_of(
        Plan(algorithm="dqn", task="reach", settings=("double=false", "batch=64", "learning_rate=0.01"))
    )
    assert isinstance(settings, dqn.DqnSettings)
    assert (settings.double, settings.batch, settings.learning_rate) == (False, 64, 0.01)


def test_out_is_refused_if_there_is_no_encoder_to_export(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "reach", "--algorithm", "sac", "--out", "models/x"]) == 2
    assert "a policy from pixels has no encoder that a bundle could hold" in capsys.readouterr().err


def test_a_policy_from_features_ships_in_a_bundle_and_acts_as_it_did(tmp_path: Path) -> None:
    plan = Plan(algorithm="dqn", task="reach", observation="features")
    encoder = load_bundle("reach_panda").file("encoder.onnx")
    make_env = TaskEnvironment("reach", profile="none", observation="features", encoder=encoder)
    settings = dqn.DqnSettings(hidden=8, batch=8, first_steps=10)
    agent = dqn.train(make_env, settings, 24, 0, TrainingLog()).eval()
    save_policy(plan, agent, tmp_path / "run")
    bundle = export_bundle(tmp_path / "run", tmp_path / "bundle", evaluation_episodes=0, observations=20)
    assert bundle.contract.name == "dqn_reach_panda"
    assert bundle.contract.evaluation == ()
    rollout = Rollout(bundle, load_profile("none"))  # deployment's own perception and policy
    residuals = rollout.play(seed=1).residuals[:10]
    rollout.close()
    env = make_env()
    observation, _ = env.reset(seed=1)
    for residual in residuals:
        with torch.no_grad():
            action = agent(batch_of_one(observation))[0].numpy()
        np.testing.assert_allclose(residual.twist[:3], action * bundle.contract.action.scale, atol=1e-5)
        observation, *_ = env.step(action)
    env.close()


@pytest.mark.parametrize(
    ("algorithm", "change", "expected"),
    [
        ("ppo", "clip=-0.2", "clip is '-0.2', but it should be greater than 0"),
        ("ppo", "discount=1.5", "discount is '1.5', but it should be less than or equal to 1"),
        ("ppo", "learning_rate=nan", "learning_rate is 'nan', but it should be a finite number"),
        ("ppo", "epochs=0", "epochs is '0', but it should be greater than or equal to 1"),
        ("dqn", "levels=1", "levels is '1', but it should be greater than or equal to 2"),
        ("a3c", "workers=1000", "workers is '1000', but it should be less than or equal to 100"),
        ("sac", "target_rate=0", "target_rate is '0', but it should be greater than 0"),
        ("sac", "reward_scale=inf", "reward_scale is 'inf', but it should be a finite number"),
    ],
)
def test_a_setting_outside_its_bounds_gives_one_sentence(
    algorithm: str, change: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "reach", "--algorithm", algorithm, "--set", change, "--run", str(tmp_path / "run")]
    assert cli.main(words) == 2
    assert f"rlfp: --set: {expected}" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["train", "reach", "--algorithm", "ppo", "--seed", "-1"], "seed is -1, but it should be greater"),
        (["train", "reach", "--seed", "-1"], "--seed is -1, expected 0 to 9999"),
        (["evaluate", "reach_panda", "--seed", "-1"], "--seed is -1 for 200 episodes, expected 0 to 999800"),
        (["evaluate", "reach_panda", "--seed", "1000000"], "other seeds belong to trainings"),
        (["preview", "--seed", "-3"], "--seed is -3 for 36 episodes"),
        (["demo", "--seed", "-3"], "--seed is -3 for 10 episodes"),
    ],
)
def test_seeds_that_trainings_could_meet_are_refused_everywhere(
    words: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words) == 2
    assert expected in capsys.readouterr().err


def test_all_settings_of_all_algorithms_have_bounds() -> None:
    """A number without a bound trains in silence with nonsense."""
    unbounded = {
        (name, setting)
        for name in ALGORITHMS
        for setting, field in type(ALGORITHMS[name].settings).model_fields.items()
        if isinstance(getattr(ALGORITHMS[name].settings, setting), float | int)
        and not isinstance(getattr(ALGORITHMS[name].settings, setting), bool)
        and not field.metadata
    }
    assert unbounded == set()


PLUGIN = """
import torch
from pydantic import Field
from rlfp_ros.learning.algorithms.algorithm import algorithm
from rlfp_ros.learning.algorithms.environments import episode_seeds, shapes
from rlfp_ros.learning.algorithms.networks import batch_of_one, layers
from rlfp_ros.learning.runs.settings import TrainingSettings


class SearchSettings(TrainingSettings):
    spread: float = Field(0.1, gt=0)


class Linear(torch.nn.Module):
    def __init__(self, inputs, actions):
        super().__init__()
        self.layer = torch.nn.Linear(inputs, actions)

    def forward(self, observation):
        return torch.tanh(self.layer(observation["vector"]))


@algorithm("search", SearchSettings(), steps=2_000)
def train(make_env, settings, steps, seed, log):
    torch.manual_seed(seed)
    env = make_env()
    space, actions = shapes(env)
    policy, ended, step = Linear(space["vector"].shape[0], actions), False, 0
    observation, _ = env.reset(seed=next(episode_seeds(seed)))
    while not ended and step < 20:
        with torch.no_grad():
            action = policy(batch_of_one(observation))[0].numpy()
        observation, _, terminated, truncated, info = env.step(action)
        step, ended = step + 1, terminated or truncated
    env.close()
    return policy
"""


@pytest.mark.slow
def test_a_users_algorithm_in_a_file_trains_by_its_name(tmp_path: Path) -> None:
    """In a process of its own, because a registry keeps what it once loaded."""
    (tmp_path / "my_search.py").write_text(PLUGIN)
    words = [
        "train",
        "reach",
        "--plugin",
        str(tmp_path / "my_search.py"),
        "--algorithm",
        "search",
        "--profile",
        "none",
        "--observation",
        "state",
        "--set",
        "spread=0.2",
        "--run",
        str(tmp_path / "run"),
        "--evaluation-episodes",
        "1",
    ]
    done = run_python("-m", "rlfp_ros.cli", *words)
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["settings"] == {"spread": 0.2}
    assert result["plan"]["algorithm"] == "search"
    wrong = run_python("-m", "rlfp_ros.cli", *[word.replace("spread=0.2", "spread=-1") for word in words[:-4]])
    assert wrong.returncode == 2
    assert "spread is '-1', but it should be greater than 0" in wrong.stderr


def test_a_policy_for_a_task_with_a_goal_keeps_it_though_its_encoder_had_none(tmp_path: Path) -> None:
    """The contract is that of the task that was trained, not of the bundle that the encoder comes from."""
    plan = Plan(algorithm="dqn", task="push", observation="features", encoder="reach_panda")
    assert load_bundle("reach_panda").contract.goal == "none"
    space = gymnasium.spaces.Dict({"vector": gymnasium.spaces.Box(-1, 1, (2 * 16 * 3 + 21 + 4,), np.float32)})
    save_policy(plan, dqn.QNetwork(space, dqn.action_set(3, 3), 8), tmp_path)
    contract = json.loads((tmp_path / "trained" / "trained.json").read_text())["contract"]
    assert (contract["task"], contract["goal"]) == ("push", "point")


@pytest.mark.parametrize(("given", "expected"), [(None, "passive"), ("active", "active")])
def test_waiting_threads_sleep_unless_the_user_says_otherwise(
    given: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", given or "")
    if given is None:
        monkeypatch.delenv("OMP_WAIT_POLICY")
    assert cli.main(["train", "reach", "--recipe", "magic"]) == 2
    assert os.environ["OMP_WAIT_POLICY"] == expected
