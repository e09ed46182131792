"""`rlfp train`: from nothing to a bundle, in stages that each resume: encoder, policy, export, evaluation."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import platform
import time
from collections import deque
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from rlfp_ros.contract import Bundle, FeatureStatistics, Latency, check_replaceable
from rlfp_ros.control.arm import load_arm
from rlfp_ros.control.policy import ObservationContract
from rlfp_ros.evaluation.results import code_commit
from rlfp_ros.learning.encoders.novelty import RARE, Novelty, NoveltyTraining, learn_novelty, marks_of
from rlfp_ros.learning.encoders.spatial import Encoder, EncoderSettings
from rlfp_ros.learning.export.build import build_contract, encoder_contract
from rlfp_ros.learning.export.export import OBSERVATIONS, export_bundle
from rlfp_ros.learning.export.networks import ExportedPolicy, deployed_encoder, export_encoder
from rlfp_ros.learning.export.trained import save_trained
from rlfp_ros.learning.objectives.objective import AnyEncoder, features_of
from rlfp_ros.learning.objectives.representation import SUPERVISED, AnyEncoderSettings, check_representation
from rlfp_ros.learning.recipes.collector import Collector, Experience, success_rate
from rlfp_ros.learning.recipes.dagger import TREMBLING, DaggerTraining, picture_demonstrations, train_dagger
from rlfp_ros.learning.recipes.dagger_collector import Lessons
from rlfp_ros.learning.recipes.estimator import SeeingActor, export_estimator
from rlfp_ros.learning.recipes.frames import FrameSource, held_out_count
from rlfp_ros.learning.recipes.privileged_sac import Actor, ReplayBuffer, SacSettings, SoftActorCritic
from rlfp_ros.learning.recipes.train_encoder import EncoderReport, EncoderTraining, train_encoder
from rlfp_ros.learning.runs.checkpoint import claim_run, load_checkpoint, save_checkpoint
from rlfp_ros.learning.runs.progress import RunClock, Show, TrainingProgress
from rlfp_ros.perception.domain_shift import DomainShift
from rlfp_ros.schema import ConfigurationError
from rlfp_ros.simulation.environment import ManipulationEnv
from rlfp_ros.simulation.randomization import PARAMETERS, Profile, load_profile
from rlfp_ros.simulation.scene import load_scene
from rlfp_ros.simulation.tasks.task import TASKS, load_task, parameters

FRAME_SEEDS = 1_000_000  # frames, experience and evaluation draw from seeds that never meet
EXPERIENCE_SEEDS = 500_000_000
SELECTION_SEEDS = 400_000_000
STATISTICS_FRAMES = 6_000  # for the domain-shift reference of latent encoders
SMALLEST_DISTANCE = 0.01  # of training's usual embedding, and from there to a rare one
SMALLEST_WORK = 0.003  # share of the full training


@dataclass(frozen=True)
class PolicyTraining:
    """How long the policy learns."""

    steps: int = 15_000  # camera frames played
    round_steps: int = 250  # between two exchanges of weights and experience
    updates_per_step: float = 0.5  # gradient steps for each played frame
    first_rounds: int = 8  # played by the teacher alone, before the first gradient step
    imitation_updates: int = 12_000  # of the actor towards the teacher, on the encoder's pictures, before it plays
    teacher_share: float = 0.05  # of the episodes after that; keeps good ends in the buffer
    selection_episodes: int = 100  # played by the actor before and after reinforcement learning; the better one ships


@dataclass(frozen=True)
class Recipe:
    """Everything that decides about a training."""

    task: str
    arm: str = "panda"
    profile: str = "train"
    seed: int = 0
    image_size: int = 84
    feature_stack: int = ObservationContract().feature_stack  # frames of features that the policy sees
    encoder: AnyEncoderSettings = field(default_factory=EncoderSettings)
    representation: str = SUPERVISED  # what the encoder learns from: names of `representation`, joined with +
    encoder_training: EncoderTraining = field(default_factory=EncoderTraining)
    dagger: DaggerTraining | None = field(default_factory=DaggerTraining)  # None: only as below
    policy: SacSettings = field(default_factory=SacSettings)
    policy_training: PolicyTraining = field(default_factory=PolicyTraining)

    @property
    def imitates(self) -> bool:
        """Imitation through the estimator: for supervised points, and an actor without a memory of its own."""
        points = self.representation == SUPERVISED and isinstance(self.encoder, EncoderSettings)
        return self.dagger is not None and points and not self.policy.memory

    def shortened(self, factor: float) -> Recipe:
        """The same training with `factor` of the work, for tests and first looks.

        Raises ConfigurationError where that is too little to train anything.
        """
        if factor < SMALLEST_WORK:
            raise ConfigurationError(
                f"--work is {factor:g}, expected at least {SMALLEST_WORK:g}; less leaves the encoder fewer than ten "
                "gradient steps, which train nothing"
            )
        encoder, policy = self.encoder_training, self.policy_training
        dagger = None if self.dagger is None else self.dagger.shortened(factor)
        return replace(
            self,
            dagger=dagger,
            encoder_training=replace(
                encoder, frames=max(256, int(encoder.frames * factor)), updates=max(10, int(encoder.updates * factor)),
                first_frames=max(64, int(encoder.first_frames * factor)),
            ),
            policy_training=replace(
                policy, steps=max(400, int(policy.steps * factor)), round_steps=min(policy.round_steps, 100),
                imitation_updates=int(policy.imitation_updates * factor),
                selection_episodes=max(2, int(policy.selection_episodes * factor)),
                first_rounds=max(2, int(policy.first_rounds * factor)),
            ),
        )  # fmt: skip


def recipe_for(task: str, arm: str = "panda", profile: str = "train", seed: int = 0) -> Recipe:
    """The recipe that `rlfp train` uses, with the sizes that the task gives."""
    recipe = Recipe(task, arm, profile, seed)
    sizes = TASKS[task].training
    return replace(recipe, **{part: replace(getattr(recipe, part), **sizes[part]) for part in sizes})


def main(
    recipe: Recipe, out: Path, run: Path, resume: bool = False, evaluation_episodes: int = 100,
    observations: int = OBSERVATIONS,
) -> Bundle:  # fmt: skip
    """Train `recipe` in the folder `run` and write the bundle to `out`.

    `evaluation_episodes` and `observations` are `export_bundle`'s.

    Raises ConfigurationError where `run` exists and `resume` is not set, or holds another training.
    """
    check_replaceable(out)
    _check_task(recipe)
    threads = torch.get_num_threads()
    profile = load_profile(recipe.profile)
    scene = load_scene(image_size=recipe.image_size, arm=recipe.arm)
    task = load_task(recipe.task)
    task.fit_to(load_arm(recipe.arm))
    source = FrameSource(
        recipe.arm, recipe.task, profile, scene, scene.camera.contract(),
        FRAME_SEEDS * (recipe.seed + 1), recipe.encoder_training.frames,
    )  # fmt: skip
    check_representation(recipe.representation, recipe.encoder, source)
    claim_run(run, "recipe.json", asdict(recipe), resume)
    console = Console()
    console.print(
        f"training [bold]{recipe.task}[/] for {recipe.arm} in {run} (seed {recipe.seed}); "
        "Ctrl-C keeps it, --resume goes on"
    )
    started = time.monotonic()
    with TrainingProgress(console, run) as progress, RunClock(run) as clock:
        updates = recipe.encoder_training.updates
        progress.stage("encoder", updates, "rendering the first frames")
        encoder, report = train_encoder(
            source, run, recipe.encoder_training, recipe.encoder, progress.show, recipe.representation, threads=threads
        )
        progress.show(updates, f"object {report.position_error_mm:.1f} mm, points {_pixels(report)} px")
        images = np.load(run / "frames" / "images.npy", mmap_mode="r")
        encoder_file = run / "encoder.onnx"
        encoder_file.write_bytes(export_encoder(encoder, images[0]))
        actor: Actor | SeeingActor
        selection: dict[str, float] = {}
        if recipe.imitates:
            assert recipe.dagger is not None
            progress.stage("imitate", recipe.dagger.steps, "the teacher looks at the pictures")
            actor = _imitate(recipe, profile, encoder, run, progress.show)
        else:
            progress.stage("policy", recipe.policy_training.steps, "the teacher plays")
            demonstrations = _demonstrations(encoder, run / "frames", recipe.feature_stack)
            actor, selection = _train_policy(recipe, profile, encoder_file, demonstrations, run, progress.show)
    torch.set_num_threads(threads)
    minutes = clock.total / 60
    console.print(f"trained in {minutes:.1f} minutes; writing {out}")
    novelty, statistics = _novelty(recipe, source, encoder, run / "frames")
    deployed = deployed_encoder(encoder, novelty)
    arm = load_arm(recipe.arm)
    contract = build_contract(
        name=f"{recipe.task}_{arm.name}",
        task=task,
        arm=arm,
        camera=source.camera,
        encoder=encoder_contract(deployed, images[0]),
        observed=ObservationContract(feature_stack=recipe.feature_stack),
        state_size=actor.state_size,
        action=TASKS[recipe.task].action,
        base_controller=TASKS[recipe.task].base_controller,
        latency=Latency(camera_s=_middle(profile, "camera_latency"), command_s=_middle(profile, "command_latency")),
        feature_statistics=statistics,
        provenance=_provenance(recipe, profile, report, minutes)
        | {"task_settings": parameters(task), "selection": selection},
    )
    policy = ExportedPolicy(copy.deepcopy(actor).double() if isinstance(actor, SeeingActor) else actor)
    save_trained(run, contract, arm, deployed, policy)
    bundle = export_bundle(run, out, evaluation_episodes, observations, console)
    console.print(f"done: {out} after {(time.monotonic() - started) / 60:.1f} minutes in all")
    return bundle


def _imitate(recipe: Recipe, profile: Profile, encoder: AnyEncoder, run: Path, show: Show) -> SeeingActor:
    """Imitation of a teacher that sees what the policy's estimator sees."""
    assert recipe.dagger is not None
    assert isinstance(recipe.encoder, EncoderSettings)
    lessons = Lessons(
        recipe.task, recipe.arm, profile, run / "encoder.onnx", run / "estimator.onnx", recipe.image_size,
        recipe.feature_stack, recipe.encoder.points, recipe.policy.hidden, recipe.dagger.teacher_sees,
        EXPERIENCE_SEEDS + recipe.seed * 10_000_000,
    )  # fmt: skip
    proprioception = np.load(run / "frames" / "proprioception.npy", mmap_mode="r").shape[1]
    exported = export_estimator(lessons.estimator(), proprioception, recipe.encoder.points)
    lessons.estimator_file.write_bytes(exported)
    pictures = picture_demonstrations(encoder, lessons, run / "frames", recipe.feature_stack)
    return train_dagger(lessons, pictures, recipe.dagger, recipe.seed, run, show)


def _demonstrations(encoder: AnyEncoder, frames: Path, stack: int) -> dict[str, np.ndarray]:
    """What the teacher would do in each of the encoder's pictures: observation [N, O] and action [N, A].

    Far more cameras and places than reinforcement learning visits, for the price of one pass of the encoder.
    """
    images = np.load(frames / "images.npy", mmap_mode="r")
    features = features_of(encoder, images)
    # The frame before is not there; the same one with the encoder's own trembling stands for it.
    stacked = torch.stack([features + TREMBLING * torch.randn_like(features) for _ in range(stack - 1)] + [features], 1)
    goal = np.zeros((len(images), 4), np.float32)  # no goal, mask 0
    observation = np.concatenate([stacked.flatten(1).numpy(), np.load(frames / "proprioception.npy"), goal], axis=1)
    return {"observation": observation, "teacher": np.load(frames / "teacher.npy")}


def _train_policy(
    recipe: Recipe, profile: Profile, encoder_file: Path, demonstrations: dict[str, np.ndarray], run: Path,
    show: Show,
) -> tuple[Actor, dict[str, float]]:  # fmt: skip
    torch.set_num_threads(1)  # the collector has the other core
    training, settings = recipe.policy_training, recipe.policy
    checkpoint = run / "policy.pt"
    key = {"stage": "policy", "training": asdict(training), "settings": asdict(settings), "seed": recipe.seed}
    torch.manual_seed(recipe.seed)
    rng = np.random.default_rng([recipe.seed, 7])
    rounds = training.steps // training.round_steps
    recent: deque[bool] = deque(maxlen=100)

    def some_demonstrations() -> dict[str, Tensor]:
        picks = rng.integers(0, len(demonstrations["teacher"]), settings.batch)
        return {name: torch.from_numpy(values[picks]) for name, values in demonstrations.items()}

    def played() -> dict[str, Tensor]:
        return buffer.sample(settings.batch, rng, settings.sequence if settings.memory else 1)

    state = load_checkpoint(checkpoint, key)
    first_round = state["round"] if state else 0
    seed = EXPERIENCE_SEEDS + recipe.seed * 1_000_000 + first_round * 10_000
    experience = Experience(
        recipe.task, recipe.arm, profile, encoder_file, settings.hidden, recipe.feature_stack, settings.memory, seed
    )  # fmt: skip
    with Collector(experience) as collector:
        sizes, points = collector.shapes()
        learner = SoftActorCritic(sizes, points, settings)
        buffer = ReplayBuffer(settings.capacity, sizes)
        imitator = copy.deepcopy(learner.actor)
        if state:
            learner.load_state_dict(state["learner"])
            imitator.load_state_dict(state["imitator"])
            recent.extend(state["recent"])
        warm = first_round if state else training.first_rounds
        for index in range(first_round, rounds):
            # A resumed training plays the first round anew to have experience at all.
            guided = index < training.first_rounds and not state
            share = 1.0 if guided else training.teacher_share
            collector.start_round(learner.actor.state_dict(), training.round_steps, share)
            figures = {}
            if buffer.count and index >= warm:
                for _ in range(int(training.round_steps * training.updates_per_step)):
                    figures = learner.update(played(), index / rounds, some_demonstrations())
            transitions, successes = collector.finish_round()
            buffer.add(transitions)
            recent.extend(successes)
            if index + 1 == training.first_rounds and not state:
                learner.fit_normalisers(buffer)
                for update in range(training.imitation_updates):
                    sequences = played() if settings.memory else None
                    loss = learner.imitate(some_demonstrations(), update / training.imitation_updates, sequences)
                    if update % 100 == 0:
                        show((index + 1) * training.round_steps, f"imitation {update}, loss {loss:.3f}")
                imitator = copy.deepcopy(learner.actor)
            share_won = float(np.mean(recent)) if recent else 0.0
            show(
                (index + 1) * training.round_steps,
                f"success {share_won:.2f}" + _brief(figures),
                success_rate=share_won,
                **figures,
            )
            if (index + 1) % 20 == 0 or index + 1 == rounds:
                save_checkpoint(
                    checkpoint, key, learner=learner.state_dict(), imitator=imitator.state_dict(), round=index + 1,
                    recent=list(recent),
                )  # fmt: skip
    return _better(experience, {"imitation": imitator, "reinforcement": learner.actor}, training, show)


def _better(
    experience: Experience, actors: dict[str, Actor], training: PolicyTraining, show: Show
) -> tuple[Actor, dict[str, float]]:
    """The actor that solves more of the same fresh episodes, and both figures; the later one where they agree."""
    fresh = replace(experience, seed=SELECTION_SEEDS)
    rates = {}
    for name, actor in actors.items():
        rates[name] = success_rate(fresh, actor, training.selection_episodes)
        show(training.steps, ", ".join(f"{key} {rate:.2f}" for key, rate in rates.items()))
    chosen = max(reversed(rates), key=lambda name: rates[name])
    return actors[chosen], rates


def _brief(figures: dict[str, float]) -> str:
    return "".join(f", {name.replace('_', ' ')} {value:.3g}" for name, value in figures.items())


def _pixels(report: EncoderReport) -> str:
    return "/".join(f"{error:.2f}" for error in report.keypoint_error_px)


def _check_task(recipe: Recipe) -> None:
    """Refuse, before anything is written, a task whose critics and teacher would have nothing to go by."""
    task = load_task(recipe.task)
    task.require_teacher("the recipe imitates one")
    env = ManipulationEnv(task.settings.task, recipe.arm, load_profile("none"), "state", image_size=16)
    env.reset(seed=0)
    size = env.world.task.privileged_state(env.world).size
    env.close()
    if size == 0:
        raise ConfigurationError(
            f"task {recipe.task}: has no privileged state, which critics and teacher learn from; return one from "
            f"privileged_state() in simulation/{recipe.task}.py"
        )


def _provenance(recipe: Recipe, profile: Profile, report: EncoderReport, minutes: float) -> dict[str, Any]:
    packages = ("torch", "pybullet", "numpy", "onnxruntime", "opencv-python-headless")
    return {
        "commit": code_commit(),
        "seed": recipe.seed,
        "profile": profile.name,
        "wall_minutes": round(minutes, 1),
        "config_sha256": hashlib.sha256(json.dumps(asdict(recipe), sort_keys=True).encode()).hexdigest(),
        "cores": os.cpu_count(),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in packages},
        "encoder": {
            "position_error_mm": round(report.position_error_mm, 2),
            "keypoint_error_px": [round(error, 3) for error in report.keypoint_error_px],
            "inside_nominal_90": round(report.inside_90, 3),
        },
    }


def _novelty(
    recipe: Recipe, source: FrameSource, encoder: AnyEncoder, frames: Path
) -> tuple[Novelty | None, FeatureStatistics]:
    """What tells how unlike training a picture is, and the `feature_statistics` of a contract that go with it.

    Marks of novelty are read off feature maps, which encoders of points alone have. A latent encoder has none, and its
    own embedding is judged instead.
    """
    images = np.load(frames / "images.npy", mmap_mode="r")
    if not isinstance(encoder, Encoder):
        picks = np.random.default_rng(recipe.seed).permutation(len(images))[:STATISTICS_FRAMES]
        with torch.no_grad():
            parts = [encoder(torch.from_numpy(images[part]))[3] for part in np.array_split(picks, 60)]
        embeddings = torch.cat(parts).double().numpy()
        return None, _statistics(embeddings, embeddings.mean(axis=0), np.cov(embeddings.T))
    held_out = held_out_count(source.count)
    novelty = learn_novelty(
        encoder, images, np.load(frames / "positions.npy"), held_out, source.camera.intrinsics.matrix(),
        recipe.seed, NoveltyTraining(updates=min(NoveltyTraining.updates, recipe.encoder_training.updates)),
    )  # fmt: skip
    marks = marks_of(novelty, encoder, images[-held_out:])
    return novelty, _statistics(marks[:, None], np.zeros(1), np.eye(1))  # marks are scaled already


def _statistics(embeddings: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> FeatureStatistics:
    """The statistics of training's own embeddings [N, E], with the distances that they have."""
    rounded = FeatureStatistics(
        mean=tuple(float(f"{value:.6g}") for value in mean),
        covariance=tuple(tuple(float(f"{value:.6g}") for value in row) for row in covariance),
        usual_distance=1.0,
        rare_distance=2.0,
    )
    scale = DomainShift(rounded)
    usual, rare = np.quantile([scale.distance(embedding) for embedding in embeddings], [0.5, RARE])
    # Few embeddings can all lie at the same distance; the score needs a usual one above 0 and a rare one above that.
    usual = max(round(float(usual), 6), SMALLEST_DISTANCE)
    rare = max(round(float(rare), 6), usual + SMALLEST_DISTANCE)
    return rounded.model_copy(update={"usual_distance": usual, "rare_distance": rare})


def _middle(profile: Profile, name: str) -> float:
    given = profile.ranges.get(name)
    return PARAMETERS[name].nominal if given is None else round((given.low + given.high) / 2, 4)
