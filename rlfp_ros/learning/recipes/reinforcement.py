"""The recipe `reinforcement`: a policy from the task's reward and success alone, without teacher and estimator.

1. An expert learns by reinforcement from the simulator's privileged state, without rendering (`expert`).
2. An encoder learns with randomised, labelled images (`train_encoder`).
3. The deployed policy learns to act like the expert, from the encoder's features, the joints and its past actions, and
   with a learned memory (`student`).
4. It keeps learning, by reinforcement, with critics that see the privileged state (`student_reinforcement`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import torch

from rlfp_ros.control.observation import ObservationContract
from rlfp_ros.learning.algorithms.environments import TaskEnvironment
from rlfp_ros.learning.cell import Cell, check_learnable
from rlfp_ros.learning.encoders.encoder import EncoderChoice
from rlfp_ros.learning.export.networks import ExportedPolicy
from rlfp_ros.learning.recipes.expert import ExpertLessons, ExpertSettings, train_expert
from rlfp_ros.learning.recipes.frames import FrameSource
from rlfp_ros.learning.recipes.perception import as_provenance, encoder_stage, finish_perception
from rlfp_ros.learning.recipes.recipe import RECIPES, FinishedTraining, Recipe
from rlfp_ros.learning.recipes.representation import SUPERVISED, Representation
from rlfp_ros.learning.recipes.shaping import RewardSettings
from rlfp_ros.learning.recipes.student import StudentLessons, StudentSettings, train_student
from rlfp_ros.learning.recipes.student_reinforcement import (
    ReinforcementLessons,
    StudentReinforcementSettings,
    reinforce_student,
)
from rlfp_ros.learning.recipes.train_encoder import EncoderTraining
from rlfp_ros.learning.runs.progress import TrainingProgress
from rlfp_ros.seeds import FRAMES


@RECIPES.register("reinforcement")
@dataclass(frozen=True)
class ReinforcementRecipe(Recipe):
    """Everything that determines a training by reinforcement."""

    options = ("encoder", "feature_stack", "work")
    images_per_decision: int = 3  # images for which an action is held
    past_actions: int = 9  # admitted actions that expert and policy see, one for each image
    encoder: EncoderChoice = field(default_factory=EncoderChoice)
    encoder_training: EncoderTraining = field(default_factory=EncoderTraining)
    reward: RewardSettings = field(default_factory=RewardSettings)
    expert: ExpertSettings = field(default_factory=ExpertSettings)
    student: StudentSettings = field(default_factory=StudentSettings)
    student_reinforcement: StudentReinforcementSettings = field(default_factory=StudentReinforcementSettings)

    def with_options(self, **options: Any) -> Self:
        """Apply options of the command line: encoder, feature_stack and work."""
        self.refuse_unknown(options)
        recipe = self
        if "encoder" in options:
            recipe = replace(recipe, encoder=EncoderChoice(options["encoder"]))
        if "feature_stack" in options:
            recipe = replace(recipe, feature_stack=options["feature_stack"])
        return recipe.shortened(options["work"]) if options.get("work", 1) < 1 else recipe

    def shortened(self, factor: float) -> Self:
        """Return the same training with `factor` of the work, for tests and first looks."""
        return replace(
            self,
            encoder_training=self.encoder_training.shortened(factor),
            expert=self.expert.shortened(factor),
            student=self.student.shortened(factor),
            student_reinforcement=self.student_reinforcement.shortened(factor),
        )

    def check(self, cell: Cell) -> None:
        """Refuse an encoder that does not fit the camera, and a task without a privileged state."""
        Representation(SUPERVISED, self.encoder.build(cell.camera), self.source(cell))
        check_learnable(cell)

    def source(self, cell: Cell) -> FrameSource:
        """The images that the encoder learns from."""
        return FrameSource(cell, FRAMES.block_of(self.seed).start, self.encoder_training.frames)

    def train(self, cell: Cell, run: Path, progress: TrainingProgress) -> FinishedTraining:
        """Train expert, encoder and policy."""
        threads = torch.get_num_threads()
        progress.stage("expert", self.expert.steps, "random actions")
        lessons = ExpertLessons(self._environment(cell), self.expert, self.reward)
        expert = train_expert(lessons, self.seed, run, progress.show)
        encoder, report = encoder_stage(
            self.source(cell), self.encoder_training, self.encoder, SUPERVISED, run, progress, threads
        )
        progress.stage("student", self.student.steps, "the expert plays")
        seeing = self._environment(cell, run / "encoder.onnx")
        seen_lessons = StudentLessons(seeing, self.student, expert.policy, self.reward)
        student = train_student(seen_lessons, self.seed, run, progress.show)
        progress.stage("reinforcement", self.student_reinforcement.steps, "the critics learn")
        exploring = ReinforcementLessons(seen_lessons, self.student_reinforcement)
        policy = reinforce_student(student, expert, exploring, self.seed, run, progress.show)
        torch.set_num_threads(threads)
        perception = finish_perception(encoder, cell, run, self.seed, self.encoder_training.updates)
        return FinishedTraining(
            policy=ExportedPolicy(policy),
            state_size=policy.state_size,
            observed=ObservationContract(feature_stack=self.feature_stack, past_actions=self.past_actions),
            encoder=perception.encoder,
            encoder_contract=perception.contract,
            camera=cell.camera,
            feature_statistics=perception.feature_statistics,
            provenance={"recipe": "reinforcement", "encoder": as_provenance(report)},
            images_per_decision=self.images_per_decision,
        )

    def _environment(self, cell: Cell, encoder: Path | None = None) -> TaskEnvironment:
        """Return an environment that observes the encoder's features and the state, or only the state."""
        return TaskEnvironment(
            cell.task,
            cell.arm,
            cell.profile,
            "state" if encoder is None else "features",
            encoder=encoder,
            feature_stack=self.feature_stack,
            images_per_decision=self.images_per_decision,
            past_actions=self.past_actions,
            privileged=encoder is not None,
        )
