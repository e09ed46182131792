"""One training by one algorithm: `rlfp train TASK --algorithm NAME`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from rich.console import Console
from torch import nn

from rlfp_ros.contract import check_replaceable, load_bundle
from rlfp_ros.control.arm import load_arm
from rlfp_ros.control.policy import ObservationContract
from rlfp_ros.evaluation.episodes import Score, count, play_episodes
from rlfp_ros.files import RESUME, full_disk_explained, write_whole
from rlfp_ros.learning.algorithms.algorithm import ALGORITHMS
from rlfp_ros.learning.algorithms.environments import EnvironmentMaker, ObservationKind, TaskEnvironment
from rlfp_ros.learning.algorithms.networks import batch_of_one, policy_step, state_size
from rlfp_ros.learning.cell import check_encoder_bundle, load_cell
from rlfp_ros.learning.export.build import build_contract
from rlfp_ros.learning.export.export import export_bundle
from rlfp_ros.learning.export.networks import ExportedPolicy
from rlfp_ros.learning.export.trained import save_trained
from rlfp_ros.learning.report.training_report import write_report
from rlfp_ros.learning.runs.checkpoint import claim_run, save_checkpoint
from rlfp_ros.learning.runs.progress import TrainingProgress
from rlfp_ros.learning.runs.settings import TrainingSettings
from rlfp_ros.learning.runs.training_log import TrainingLog
from rlfp_ros.schema import ConfigurationError
from rlfp_ros.seeds import HELD_OUT, MAX_STEPS, MAX_TRAINING_SEED
from rlfp_ros.simulation.randomization import load_profile
from rlfp_ros.simulation.tasks.task import TASKS, load_task

MIN_STEPS = 2_000  # environment steps; with fewer, some algorithms do not begin to learn
BLIND_SIZE = 16  # px; the environment's smallest image, because nothing reads it


class Plan(TrainingSettings):
    """Everything that determines a training."""

    algorithm: str
    task: str
    arm: str = "panda"
    profile: str = "train"
    seed: int = Field(0, ge=0, le=MAX_TRAINING_SEED)
    observation: ObservationKind = "pixels"
    image_size: int = Field(32, ge=8, le=1024)  # px
    frame_stack: int = Field(1, ge=1, le=32)  # images in an observation
    encoder: str | None = None  # bundle whose encoder computes the features; by default the shipped bundle of the task
    steps: int | None = Field(None, ge=1, le=MAX_STEPS)  # environment steps; by default the algorithm's own
    settings: tuple[str, ...] = ()  # name=value pairs that replace defaults

    @property
    def encoder_bundle(self) -> str:
        """The bundle whose encoder gives the features."""
        return self.encoder or f"{self.task}_{load_arm(self.arm).label}"


def settings_of(plan: Plan) -> TrainingSettings:
    """The algorithm's settings with the plan's changes.

    Raises
    ------
    ConfigurationError
        If there is no such setting, or if its value has the wrong type or is out of bounds.
    """
    defaults = ALGORITHMS[plan.algorithm].settings
    changes: dict[str, str] = {}
    for change in plan.settings:
        name, _, text = change.partition("=")
        if name not in type(defaults).model_fields:
            names = ", ".join(type(defaults).model_fields)
            raise ConfigurationError(f"--set {change}: {plan.algorithm} has no {name!r}; it has: {names}")
        changes[name] = text
    return defaults.changed("--set", **changes)


def main(
    plan: Plan, run: Path, out: Path | None = None, resume: bool = False, evaluation_episodes: int = 100
) -> dict[str, Any]:
    """Train by `plan` in the folder `run`.

    The folder gets `policy.pt`, `result.json`, `report.html` and TensorBoard's event files and, if the policy learns
    from features, the input of `rlfp export`.

    Parameters
    ----------
    plan
        What to train.
    run
        The run folder.
    out
        The bundle to export at the end, or None.
    resume
        Whether to continue the training in the folder.
    evaluation_episodes
        Episodes that are played at the end under each profile.

    Returns
    -------
    dict
        The content of `result.json`.

    Raises
    ------
    ConfigurationError
        If the plan is invalid (nothing is written then), if `run` holds another training, or this one without
        `resume`, or if the disk is full.
    """
    make_env, settings, steps = _checked(plan)
    if out and plan.observation != "features":
        raise ConfigurationError(
            f"--out {out}: a policy from {plan.observation} has no encoder that a bundle could hold; leave --out away, "
            "or train from features"
        )
    if out:
        check_replaceable(out)
    document = plan.model_dump(mode="json") | load_cell(plan.task, plan.arm, plan.profile).contents()
    claim_run(run, "plan.json", document, resume)
    console = Console()
    console.print(
        f"training [bold]{plan.task}[/] by {plan.algorithm} from {plan.observation} in {run} (seed {plan.seed}); "
        "Ctrl-C keeps it, --resume continues it"
    )
    with full_disk_explained(run, RESUME):
        agent, minutes = _train(plan, make_env, settings, steps, run, console)
        result: dict[str, Any] = {
            "plan": document,
            "settings": settings.model_dump(mode="json"),
            "steps": steps,
            "minutes": minutes,
            "torch": version("torch"),
            "evaluation": [
                _evaluated(make_env, agent, profile, evaluation_episodes, console)
                for profile in dict.fromkeys((plan.profile, "train"))
            ],
        }
        write_whole(run / "result.json", json.dumps(result, indent=1) + "\n", RESUME)
        if out:
            export_bundle(run, out, evaluation_episodes, console=console)
            console.print(f"done: {out}")
        console.print(f"report: {write_report(run)}")
    return result


def _train(
    plan: Plan, make_env: TaskEnvironment, settings: TrainingSettings, steps: int, run: Path, console: Console
) -> tuple[nn.Module, float]:
    """Train the policy and save it in the run folder; return it and the minutes that this took."""
    torch.set_num_threads(1)  # A3C's workers and the other cores have one each
    document = plan.model_dump(mode="json") | load_cell(plan.task, plan.arm, plan.profile).contents()
    key = {"stage": plan.algorithm, "settings": settings.model_dump(), "plan": json.dumps(document)}
    with TrainingProgress(console, run) as progress:
        progress.stage(plan.algorithm, steps, "random actions", "environment steps")
        log = TrainingLog(run, key, progress)
        agent = ALGORITHMS[plan.algorithm].train(make_env, settings, steps, plan.seed, log).eval()
    save_checkpoint(run / "policy.pt", key, agent=agent.state_dict())
    if plan.observation == "features":
        save_policy(plan, agent, run)
    minutes = round(progress.seconds / 60, 1)
    console.print(f"trained in {minutes} minutes: {run / 'policy.pt'}")
    return agent, minutes


def _evaluated(
    make_env: TaskEnvironment, agent: nn.Module, profile: str, episodes: int, console: Console
) -> dict[str, Any]:
    seeds = HELD_OUT.episodes(HELD_OUT.first, episodes, "the first held-out seed")
    score = score_of(replace(make_env, profile=profile), agent, seeds)
    low, high = score.wilson95
    console.print(
        f"  {score.successes} of {episodes} fresh episodes under {profile} succeeded, "
        f"95 % interval {low:.2f} to {high:.2f}"
    )
    return {"profile": profile} | score.document()


def save_policy(plan: Plan, agent: nn.Module, run: Path) -> None:
    """Save a policy that learnt from features in `run`, with the encoder that gave them, for `rlfp export`."""
    source = load_bundle(plan.encoder_bundle)
    arm, behaviour = load_arm(plan.arm), TASKS[plan.task]
    contract = build_contract(
        name=f"{plan.algorithm}_{plan.task}_{arm.label}",
        task=load_task(plan.task),
        arm=arm,
        camera=source.contract.camera,
        encoder=source.contract.encoder,
        observed=ObservationContract(),
        state_size=state_size(agent),
        action=behaviour.action,
        base_controller=behaviour.base_controller,
        latency=source.contract.latency,
        feature_statistics=source.contract.feature_statistics,
        provenance={
            "profile": plan.profile,
            "algorithm": plan.algorithm,
            "plan": plan.model_dump(mode="json"),
            "encoder_of": source.contract.provenance,
        },
    )
    save_trained(run, contract, arm, source.file("encoder.onnx").read_bytes(), ExportedPolicy(agent))


def score_of(make_env: EnvironmentMaker, policy: nn.Module, seeds: Iterable[int]) -> Score:
    """Play the policy's action to deploy in one episode per seed."""
    state = start = torch.zeros(1, state_size(policy))

    def begin() -> None:
        nonlocal state
        state = start

    def act(observation: dict[str, np.ndarray]) -> np.ndarray:
        nonlocal state
        with torch.no_grad():
            action, state = policy_step(policy, batch_of_one(observation), state)
        return action[0].numpy()

    env = make_env()
    score = count(play_episodes(env, act, seeds, begin))
    env.close()
    return score


def _checked(plan: Plan) -> tuple[TaskEnvironment, TrainingSettings, int]:
    """Check the plan and return its environment, settings and steps; everything that it names is loaded once."""
    steps = plan.steps or ALGORITHMS[plan.algorithm].steps
    if steps < MIN_STEPS:
        raise ConfigurationError(
            f"steps is {steps}, too few to train anything; give at least {MIN_STEPS} environment steps"
        )
    encoder = None
    if plan.observation == "features":
        bundle = load_bundle(plan.encoder_bundle)
        check_encoder_bundle(bundle, load_cell(plan.task, plan.arm, plan.profile))
        encoder = bundle.file("encoder.onnx")
    elif plan.encoder:
        raise ConfigurationError(
            f"--encoder-from is {plan.encoder!r}, but --observation is {plan.observation!r}; "
            "only features have an encoder"
        )
    load_task(plan.task)
    load_arm(plan.arm)
    load_profile(plan.profile)
    settings = settings_of(plan)
    size = plan.image_size if plan.observation == "pixels" else BLIND_SIZE
    make_env = TaskEnvironment(plan.task, plan.arm, plan.profile, plan.observation, size, plan.frame_stack, encoder)
    return make_env, settings, steps
