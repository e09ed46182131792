"""The recipe `imitation`: trains an encoder with labels, then a policy that imitates a teacher.

Stage one trains the encoder on randomised, labelled images. In stage two the policy learns from the task's teacher: by
DAgger with the hand-written scene estimator, if the encoder's features are supervised points and the policy has no
learnt memory, otherwise by reinforcement learning with the teacher's guidance (`reinforcement`).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from pydantic import JsonValue

from rlfp_ros.contract import MAX_FEATURE_STACK
from rlfp_ros.control.policy import ObservationContract
from rlfp_ros.files import RESUME, write_whole
from rlfp_ros.learning.algorithms.environments import TaskEnvironment
from rlfp_ros.learning.cell import Cell
from rlfp_ros.learning.encoders.encoder import Encoder, EncoderChoice, PointEncoder
from rlfp_ros.learning.encoders.novelty import NoveltyTraining
from rlfp_ros.learning.export.build import encoder_contract
from rlfp_ros.learning.export.networks import ExportedPolicy, deployed_encoder, export_encoder
from rlfp_ros.learning.recipes.dagger import DaggerLessons, DaggerTraining, image_inputs, train_dagger
from rlfp_ros.learning.recipes.domain_shift_reference import domain_shift_reference
from rlfp_ros.learning.recipes.estimator import export_estimator
from rlfp_ros.learning.recipes.frames import FrameSource
from rlfp_ros.learning.recipes.recipe import RECIPES, FinishedTraining, Recipe
from rlfp_ros.learning.recipes.reinforcement import (
    Playground,
    ReinforcementSettings,
    image_demonstrations,
    train_reinforcement,
)
from rlfp_ros.learning.recipes.representation import SUPERVISED, Representation, objectives_of
from rlfp_ros.learning.recipes.train_encoder import EncoderReport, EncoderTraining, train_encoder
from rlfp_ros.learning.runs.progress import Show, TrainingProgress
from rlfp_ros.schema import ConfigurationError
from rlfp_ros.seeds import FRAMES
from rlfp_ros.simulation.environment import ManipulationEnv
from rlfp_ros.simulation.randomization import load_profile
from rlfp_ros.simulation.tasks.task import TASKS

SMALLEST_WORK = 0.003  # smallest share of the full training
OPTIONS = ("encoder", "representation", "feature_stack", "memory", "work")  # command-line options of this recipe


@dataclass(frozen=True)
class TrainedPolicy:
    """The result of stage two."""

    policy: ExportedPolicy
    state_size: int
    selection: dict[str, JsonValue]  # success rates by which the policy was chosen


@RECIPES.register("imitation")
@dataclass(frozen=True)
class ImitationRecipe(Recipe):
    """Everything that determines a training by imitation."""

    feature_stack: int = ObservationContract().feature_stack  # frames of features that the policy sees
    encoder: EncoderChoice = field(default_factory=EncoderChoice)
    representation: str = SUPERVISED  # the encoder's objectives: names joined with +
    encoder_training: EncoderTraining = field(default_factory=EncoderTraining)
    dagger: DaggerTraining | None = field(default_factory=DaggerTraining)  # None for no training with the estimator
    reinforcement: ReinforcementSettings = field(default_factory=ReinforcementSettings)

    def __post_init__(self) -> None:
        if not 1 <= self.feature_stack <= MAX_FEATURE_STACK:
            raise ConfigurationError(
                f"feature_stack is {self.feature_stack}, expected 1 to {MAX_FEATURE_STACK}, which a bundle can hold"
            )

    @classmethod
    def for_task(cls, task: str, arm: str, profile: str, seed: int) -> Self:
        """Make the recipe with the sizes that the task gives."""
        recipe, sizes = cls(task, arm, profile, seed), TASKS[task].training
        changed = {part: getattr(recipe, part).changed(f"task {task}", **sizes[part]) for part in sizes}
        return replace(recipe, **changed)

    def with_options(self, **options: Any) -> Self:
        """Apply options of the command line: encoder, representation, feature_stack, memory and work."""
        unknown = set(options) - set(OPTIONS)
        if unknown:
            raise ConfigurationError(
                f"recipe imitation has no option {sorted(unknown)[0]}; it has: {', '.join(OPTIONS)}"
            )
        changes: dict[str, Any] = {
            name: options[name] for name in ("representation", "feature_stack") if name in options
        }
        if "encoder" in options:
            changes["encoder"] = EncoderChoice(options["encoder"])
        if "memory" in options:
            sac = self.reinforcement.sac.changed("rlfp train", memory=options["memory"])
            changes["reinforcement"] = self.reinforcement.changed(sac=sac)
        recipe = replace(self, **changes)
        return recipe.shortened(options["work"]) if options.get("work", 1) < 1 else recipe

    def shortened(self, factor: float) -> Self:
        """The same training with `factor` of the work, for tests and first looks.

        Raises
        ------
        ConfigurationError
            If that is too little to train anything.
        """
        if factor < SMALLEST_WORK:
            raise ConfigurationError(
                f"--work is {factor:g}, expected at least {SMALLEST_WORK:g}; less leaves the encoder fewer than ten "
                "gradient steps, which train nothing"
            )
        encoder = self.encoder_training
        return replace(
            self,
            dagger=None if self.dagger is None else self.dagger.shortened(factor),
            encoder_training=encoder.changed(
                frames=max(256, int(encoder.frames * factor)),
                updates=max(10, int(encoder.updates * factor)),
                first_frames=max(64, int(encoder.first_frames * factor)),
            ),
            reinforcement=self.reinforcement.shortened(factor),
        )

    def check(self, cell: Cell) -> None:
        """Refuse encoders and objectives that do not fit, and tasks without a teacher or a privileged state."""
        Representation(self.representation, self.encoder.build(cell.camera), self.source(cell))
        cell.make_task().require_teacher("the recipe imitates one")
        _check_learnable(cell)

    def source(self, cell: Cell) -> FrameSource:
        """The images that the encoder learns from."""
        sequences = any(kind.sequences for kind in objectives_of(self.representation)[1])
        seed = FRAMES.block_of(self.seed).start
        return FrameSource(cell, seed, self.encoder_training.frames, sequences, teacher=True)

    def train(self, cell: Cell, run: Path, progress: TrainingProgress) -> FinishedTraining:
        """Train encoder and policy."""
        threads = torch.get_num_threads()
        encoder, report = self._train_encoder(cell, run, progress, threads)
        trained = self._train_policy(cell, encoder, run, progress)
        torch.set_num_threads(threads)
        novelty, statistics = domain_shift_reference(
            encoder,
            run / "frames",
            cell.camera,
            self.seed,
            NoveltyTraining(updates=min(NoveltyTraining.updates, self.encoder_training.updates)),
        )
        deployed = deployed_encoder(encoder, novelty)
        return FinishedTraining(
            policy=trained.policy,
            state_size=trained.state_size,
            observed=ObservationContract(feature_stack=self.feature_stack),
            encoder=deployed,
            encoder_contract=encoder_contract(deployed, _first_image(run)),
            camera=cell.camera,
            feature_statistics=statistics,
            provenance={
                "encoder": {
                    "position_error_mm": round(report.position_error_mm, 2),
                    "keypoint_error_px": [round(error, 3) for error in report.keypoint_error_px],
                    "inside_nominal_90": round(report.inside_90, 3),
                },
                "selection": trained.selection,
            },
        )

    def _train_encoder(
        self, cell: Cell, run: Path, progress: TrainingProgress, threads: int
    ) -> tuple[Encoder, EncoderReport]:
        updates = self.encoder_training.updates
        progress.stage("encoder", updates, "rendering the first frames")
        encoder, report = train_encoder(
            self.source(cell),
            run,
            self.encoder_training,
            self.encoder,
            progress.show,
            self.representation,
            threads=threads,
        )
        pixels = "/".join(f"{error:.2f}" for error in report.keypoint_error_px)
        points = f", points {pixels} px" if pixels else ""
        progress.show(updates, f"object {report.position_error_mm:.1f} mm{points}")
        write_whole(run / "encoder.onnx", export_encoder(encoder, _first_image(run)), RESUME)
        return encoder, report

    def _train_policy(self, cell: Cell, encoder: Encoder, run: Path, progress: TrainingProgress) -> TrainedPolicy:
        supervised_points = self.representation == SUPERVISED and isinstance(encoder, PointEncoder)
        if self.dagger is not None and supervised_points and not self.reinforcement.sac.memory:
            assert isinstance(encoder, PointEncoder)
            progress.stage("imitate", self.dagger.steps, "the teacher looks at the images")
            return self._imitate(cell, encoder, self.dagger, run, progress.show)
        progress.stage("policy", self.reinforcement.steps, "the teacher plays")
        return self._reinforce(cell, encoder, run, progress.show)

    def _imitate(
        self, cell: Cell, encoder: PointEncoder, dagger: DaggerTraining, run: Path, show: Show
    ) -> TrainedPolicy:
        """Imitate a teacher that gets the estimates of the policy's estimator."""
        estimator_file = run / "estimator.onnx"
        make_env = self._task_environment(cell, run)
        lessons = DaggerLessons(cell, make_env, estimator_file, encoder.points, dagger.hidden, dagger.teacher_sees)
        proprioception = np.load(run / "frames" / "proprioception.npy", mmap_mode="r").shape[1]
        write_whole(estimator_file, export_estimator(lessons.estimator(), proprioception, encoder.points), RESUME)
        actor = train_dagger(lessons, image_inputs(encoder, lessons, run / "frames"), dagger, self.seed, run, show)
        # In double precision, like its estimator: it resolves millimetres, and with float32's rounding in between
        # ONNX Runtime computes another action than PyTorch.
        return TrainedPolicy(ExportedPolicy(copy.deepcopy(actor).double()), actor.state_size, {})

    def _reinforce(self, cell: Cell, encoder: Encoder, run: Path, show: Show) -> TrainedPolicy:
        make_env = self._task_environment(cell, run, privileged=True)
        demonstrations = image_demonstrations(encoder, run / "frames", self.feature_stack)
        playground = Playground(make_env, self.reinforcement)
        policy, selection = train_reinforcement(playground, demonstrations, self.seed, run, show)
        return TrainedPolicy(ExportedPolicy(policy), policy.state_size, dict(selection))

    def _task_environment(self, cell: Cell, run: Path, privileged: bool = False) -> TaskEnvironment:
        """Return the policy's training environment, with the features of the run's encoder."""
        return TaskEnvironment(
            cell.task,
            cell.arm,
            cell.profile,
            "features",
            encoder=run / "encoder.onnx",
            feature_stack=self.feature_stack,
            privileged=privileged,
        )


def _first_image(run: Path) -> np.ndarray:
    images: np.ndarray = np.load(run / "frames" / "images.npy", mmap_mode="r")
    return images[0]


def _check_learnable(cell: Cell) -> None:
    """Raise ConfigurationError if the task has no teacher or no privileged state."""
    env = ManipulationEnv(cell.task, cell.arm, load_profile("none"), "state", image_size=cell.image_size)
    env.reset(seed=0)
    size = env.world.task.privileged_state(env.world).size
    env.close()
    if size == 0:
        raise ConfigurationError(
            f"task {cell.task}: has no privileged state, which critics and teacher learn from; return one from "
            "privileged_state() of the task's class"
        )
