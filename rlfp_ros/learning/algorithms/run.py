"""The algorithms by name, and one run of one of them: `rlfp train TASK --algorithm NAME`.

Each algorithm is one file: settings, networks, loss, and `train(make_env, settings, steps, seed, log)`, which returns a
module whose `forward` gives the action to deploy, [B, A] in [-1, 1], for an observation. That is all that is asked.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from rlfp_ros.contract import check_replaceable, load_bundle
from rlfp_ros.control.arm import load_arm
from rlfp_ros.control.policy import ObservationContract
from rlfp_ros.evaluation.statistics import wilson95
from rlfp_ros.learning.algorithms import a3c, dqn, ppo
from rlfp_ros.learning.algorithms import sac as drq
from rlfp_ros.learning.algorithms.augmentation import augmentation
from rlfp_ros.learning.algorithms.environments import OBSERVATIONS, EnvironmentMaker, ObservationKind, TaskEnvironment
from rlfp_ros.learning.algorithms.networks import batch_of_one
from rlfp_ros.learning.export.build import build_contract
from rlfp_ros.learning.export.export import export_bundle
from rlfp_ros.learning.export.trained import save_trained
from rlfp_ros.learning.runs.checkpoint import claim_run, save_checkpoint
from rlfp_ros.learning.runs.progress import RunClock, TrainingProgress
from rlfp_ros.learning.runs.training_log import TrainingLog
from rlfp_ros.schema import ConfigurationError
from rlfp_ros.simulation.randomization import load_profile
from rlfp_ros.simulation.tasks.task import TASKS, load_task

EVALUATION_SEEDS = 450_000_000
SMALLEST_STEPS = 2_000  # environment steps; with fewer, some algorithms would not have begun to learn


@dataclass(frozen=True)
class Algorithm:
    """What a name stands for."""

    settings: Any  # the defaults
    train: Callable[..., nn.Module]
    steps: int  # environment steps of a training, by default


ALGORITHMS = {
    "sac": Algorithm(drq.DrqSettings(), drq.train, 60_000),
    "ppo": Algorithm(ppo.PpoSettings(), ppo.train, 200_000),
    "dqn": Algorithm(dqn.DqnSettings(), dqn.train, 100_000),
    "a3c": Algorithm(a3c.A3cSettings(), a3c.train, 300_000),
    "a2c": Algorithm(a3c.A3cSettings(synchronous=True), a3c.train, 300_000),
}


@dataclass(frozen=True)
class Plan:
    """Everything that decides about a run."""

    algorithm: str
    task: str
    arm: str = "panda"
    profile: str = "train"
    seed: int = 0
    observation: ObservationKind = "pixels"
    image_size: int = 32  # px
    frame_stack: int = 1  # pictures in an observation
    encoder: str | None = None  # bundle whose encoder gives the features; by default the task's that ships
    steps: int | None = None  # environment steps; by default the algorithm's own
    settings: tuple[str, ...] = ()  # name=value, each in place of a default


def settings_of(plan: Plan) -> Any:
    """The algorithm's settings with the plan's changes. Raises ConfigurationError where one does not exist or fit."""
    settings = ALGORITHMS[plan.algorithm].settings
    kinds = {field.name: type(getattr(settings, field.name)) for field in fields(settings)}
    for change in plan.settings:
        name, _, text = change.partition("=")
        if name not in kinds:
            raise ConfigurationError(f"--set {change}: {plan.algorithm} has no {name!r}; it has: {', '.join(kinds)}")
        try:
            value = text == "true" if kinds[name] is bool else kinds[name](text)
            if kinds[name] is bool and text not in ("true", "false"):
                raise ValueError
        except ValueError:
            raise ConfigurationError(
                f"--set {change}: {name} is {text!r}, expected {kinds[name].__name__}, "
                f"for example {getattr(settings, name)}"
            ) from None
        settings = replace(settings, **{name: value})
    return settings


def main(
    plan: Plan, run: Path, out: Path | None = None, resume: bool = False, evaluation_episodes: int = 100
) -> dict[str, Any]:
    """Train by `plan` in the folder `run`, which gets `policy.pt`, `result.json` and TensorBoard's event files,
    and from features what `rlfp export` makes a bundle of; with `out` it does so at once.

    Raises ConfigurationError for a plan that makes no sense, before anything is written, and where `run` holds another
    training, or this one and `resume` is not set.
    """
    make_env, settings, steps = _checked(plan)
    if out and plan.observation != "features":
        raise ConfigurationError(
            f"--out {out}: a policy from {plan.observation} has no encoder that a bundle could hold; leave --out away, "
            "or train from features"
        )
    if out:
        check_replaceable(out)
    claim_run(run, "plan.json", asdict(plan), resume)
    torch.set_num_threads(1)  # A3C's workers and the other cores have one each
    algorithm = ALGORITHMS[plan.algorithm]
    console = Console()
    console.print(
        f"training [bold]{plan.task}[/] by {plan.algorithm} from {plan.observation} in {run} (seed {plan.seed}); "
        "Ctrl-C keeps it, --resume goes on"
    )
    key = {"stage": plan.algorithm, "settings": asdict(settings), "plan": json.dumps(asdict(plan))}
    with TrainingProgress(console) as progress, RunClock(run) as clock:
        progress.stage(plan.algorithm, steps, "random actions")
        log = TrainingLog(run, key, progress.show)
        agent = algorithm.train(make_env, settings, steps, plan.seed, log).eval()
        log.close()
    save_checkpoint(run / "policy.pt", key, agent=agent.state_dict())
    if plan.observation == "features":
        save_policy(plan, agent, run)
    minutes = round(clock.total / 60, 1)
    console.print(f"trained in {minutes} minutes: {run / 'policy.pt'}")
    result: dict[str, Any] = {
        "plan": asdict(plan), "settings": asdict(settings), "steps": steps, "minutes": minutes,
        "torch": version("torch"), "evaluation": [],
    }  # fmt: skip
    for profile in dict.fromkeys((plan.profile, "train")):
        won = success_count(replace(make_env, profile=profile), agent, evaluation_episodes)
        low, high = wilson95(won, evaluation_episodes)
        console.print(
            f"  {won} of {evaluation_episodes} fresh episodes under {profile} succeeded, "
            f"95 % interval {low:.2f} to {high:.2f}"
        )
        result["evaluation"].append(
            {"profile": profile, "episodes": evaluation_episodes, "successes": won, "wilson95": (low, high)}
        )
    (run / "result.json").write_text(json.dumps(result, indent=1) + "\n")
    if out:
        export_bundle(run, out, evaluation_episodes, console=console)
        console.print(f"done: {out}")
    return result


class DeployedPolicy(nn.Module):
    """An agent that learnt from features, with the inputs and outputs that a bundle declares."""

    def __init__(self, agent: nn.Module) -> None:
        super().__init__()
        self.agent = agent

    def forward(
        self, features: Tensor, proprioception: Tensor, goal: Tensor, goal_mask: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        """action [1, A] in [-1, 1], next_state [1, S] of features [1, stack, K, 3] and the rest, batch 1."""
        vector = torch.cat([features.flatten(1), proprioception, goal, goal_mask], dim=-1)
        return self.agent({"vector": vector}), state * 1.0


def save_policy(plan: Plan, agent: nn.Module, run: Path) -> None:
    """Leave an agent that learnt from features in `run`, with the encoder that gave them, for `rlfp export`."""
    source = load_bundle(_encoder_bundle(plan))
    arm, behaviour = load_arm(plan.arm), TASKS[plan.task]
    contract = build_contract(
        name=f"{plan.algorithm}_{plan.task}_{arm.name}",
        task=load_task(plan.task),
        arm=arm,
        camera=source.contract.camera,
        encoder=source.contract.encoder,
        observed=ObservationContract(),
        state_size=1,
        action=behaviour.action,
        base_controller=behaviour.base_controller,
        latency=source.contract.latency,
        feature_statistics=source.contract.feature_statistics,
        provenance={
            "profile": plan.profile,
            "algorithm": plan.algorithm,
            "plan": asdict(plan) | {"settings": list(plan.settings)},
            "encoder_of": source.contract.provenance,
        },
    )
    save_trained(run, contract, arm, source.file("encoder.onnx").read_bytes(), DeployedPolicy(agent))


def success_count(make_env: EnvironmentMaker, agent: nn.Module, episodes: int) -> int:
    """How many of `episodes`, on seeds that no training played, the action to deploy solves."""
    env = make_env()
    won = 0
    for episode in range(episodes):
        observation, info = env.reset(seed=EVALUATION_SEEDS + episode)
        ended = False
        while not ended:
            with torch.no_grad():
                action = agent(batch_of_one(observation))[0].numpy()
            observation, _, terminated, truncated, info = env.step(action)
            ended = terminated or truncated
        won += bool(info["success"])
    env.close()
    return won


def _encoder_bundle(plan: Plan) -> str:
    return plan.encoder or f"{plan.task}_{plan.arm}"


def _checked(plan: Plan) -> tuple[TaskEnvironment, Any, int]:
    """Environment, settings and steps of a plan that makes sense; what is named is loaded once to see that it does."""
    if plan.algorithm not in ALGORITHMS:
        raise ConfigurationError(f"algorithm is {plan.algorithm!r}; there are: {', '.join(ALGORITHMS)}")
    if plan.observation not in OBSERVATIONS:
        raise ConfigurationError(f"observation is {plan.observation!r}; there are: {', '.join(OBSERVATIONS)}")
    steps = plan.steps or ALGORITHMS[plan.algorithm].steps
    if steps < SMALLEST_STEPS:
        raise ConfigurationError(
            f"steps is {steps}, too few to train anything; give at least {SMALLEST_STEPS} environment steps"
        )
    encoder = None
    if plan.observation == "features":
        encoder = load_bundle(_encoder_bundle(plan)).file("encoder.onnx")
    elif plan.encoder:
        raise ConfigurationError(
            f"--encoder-from is {plan.encoder!r}, but --observation is {plan.observation!r}; "
            "only features have an encoder"
        )
    load_task(plan.task)
    load_arm(plan.arm)
    load_profile(plan.profile)
    settings = settings_of(plan)
    augmentation(getattr(settings, "augmentation", "none"))
    size = plan.image_size if plan.observation == "pixels" else 16  # nobody looks
    make_env = TaskEnvironment(
        plan.task, plan.arm, plan.profile, plan.observation, size, plan.frame_stack, encoder
    )  # fmt: skip
    return make_env, settings, steps
