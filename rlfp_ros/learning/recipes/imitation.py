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

from rlfp_ros.control.policy import ObservationContract
from rlfp_ros.files import RESUME, write_whole
from rlfp_ros.learning.algorithms.environments import TaskEnvironment
from rlfp_ros.learning.cell import Cell, check_learnable
from rlfp_ros.learning.encoders.encoder import Encoder, EncoderChoice, PointEncoder
from rlfp_ros.learning.export.networks import ExportedPolicy
from rlfp_ros.learning.recipes.dagger import DaggerLessons, DaggerTraining, image_inputs, train_dagger
from rlfp_ros.learning.recipes.estimator import export_estimator
from rlfp_ros.learning.recipes.frames import FrameSource
from rlfp_ros.learning.recipes.guided import (
    Playground,
    ReinforcementSettings,
    image_demonstrations,
    train_reinforcement,
)
from rlfp_ros.learning.recipes.perception import as_provenance, encoder_stage, finish_perception
from rlfp_ros.learning.recipes.recipe import RECIPES, FinishedTraining, Recipe
from rlfp_ros.learning.recipes.representation import SUPERVISED, Representation, objectives_of
from rlfp_ros.learning.recipes.train_encoder import EncoderTraining
from rlfp_ros.learning.runs.progress import Show, TrainingProgress
from rlfp_ros.seeds import FRAMES


@dataclass(frozen=True)
class TrainedPolicy:
    """The result of stage two."""

    policy: ExportedPolicy
    state_size: int
    selection: dict[str, JsonValue]  # success rates by which the policy was chosen


@RECIPES.register("imitation")
@dataclass(frozen=True)
class ImitationRecipe(Recipe):
    """An encoder from labelled images, then a policy by imitation of a teacher, then reinforcement."""

    options = ("encoder", "representation", "feature_stack", "memory", "work")
    feature_stack: int = ObservationContract().feature_stack  # frames of features that the policy sees
    encoder: EncoderChoice = field(default_factory=EncoderChoice)
    representation: str = SUPERVISED  # the encoder's objectives: names joined with +
    encoder_training: EncoderTraining = field(default_factory=EncoderTraining)
    dagger: DaggerTraining | None = field(default_factory=DaggerTraining)  # None for no training with the estimator
    reinforcement: ReinforcementSettings = field(default_factory=ReinforcementSettings)

    def with_options(self, **options: Any) -> Self:
        """Apply options of the command line: encoder, representation, feature_stack, memory and work."""
        self.refuse_unknown(options)
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
        """Return the same training with `factor` of the work, for tests and first looks.

        Raises
        ------
        ConfigurationError
            If that is too little to train anything.
        """
        return replace(
            self,
            dagger=None if self.dagger is None else self.dagger.shortened(factor),
            encoder_training=self.encoder_training.shortened(factor),
            reinforcement=self.reinforcement.shortened(factor),
        )

    def check(self, cell: Cell) -> None:
        """Refuse encoders and objectives that do not fit, and tasks without a teacher or a privileged state."""
        Representation(self.representation, self.encoder.build(cell.camera), self.source(cell))
        cell.make_task().require_teacher("the recipe imitates one")
        check_learnable(cell)

    def source(self, cell: Cell) -> FrameSource:
        """The images that the encoder learns from."""
        sequences = any(kind.sequences for kind in objectives_of(self.representation)[1])
        seed = FRAMES.block_of(self.seed).start
        return FrameSource(cell, seed, self.encoder_training.frames, sequences, teacher=True)

    def train(self, cell: Cell, run: Path, progress: TrainingProgress) -> FinishedTraining:
        """Train encoder and policy."""
        threads = torch.get_num_threads()
        encoder, report = encoder_stage(
            self.source(cell), self.encoder_training, self.encoder, self.representation, run, progress, threads
        )
        trained = self._train_policy(cell, encoder, run, progress)
        torch.set_num_threads(threads)
        perception = finish_perception(encoder, cell, run, self.seed, self.encoder_training.updates)
        return FinishedTraining(
            policy=trained.policy,
            state_size=trained.state_size,
            observed=ObservationContract(feature_stack=self.feature_stack),
            encoder=perception.encoder,
            encoder_contract=perception.contract,
            camera=cell.camera,
            feature_statistics=perception.feature_statistics,
            provenance={"encoder": as_provenance(report), "selection": trained.selection},
        )

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
