"""The interface and the registry of recipes, which train a policy for a cell; one file per recipe.

A recipe is a frozen data class with everything that decides about a training. `train.main` checks it, claims the run
folder, calls `train`, and exports the result.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import JsonValue
from torch import nn

from rlfp_ros.contract import MAX_FEATURE_STACK, CameraContract, EncoderContract, FeatureStatistics
from rlfp_ros.control.policy import ObservationContract
from rlfp_ros.learning.cell import Cell
from rlfp_ros.learning.runs.progress import TrainingProgress
from rlfp_ros.learning.runs.settings import TrainingSettings
from rlfp_ros.plugins import Registry
from rlfp_ros.schema import ConfigurationError
from rlfp_ros.simulation.tasks.task import TASKS


@dataclass(frozen=True)
class FinishedTraining:
    """The result of a recipe, input of the export."""

    policy: nn.Module  # takes POLICY_INPUTS, returns POLICY_OUTPUTS, batch 1
    state_size: int  # of the policy
    observed: ObservationContract  # the policy's inputs besides the features
    encoder: nn.Module | bytes  # a `deployed_encoder`, or an `encoder.onnx`
    encoder_contract: EncoderContract
    camera: CameraContract  # that the encoder was trained with
    feature_statistics: FeatureStatistics
    provenance: dict[str, JsonValue]  # results of the training, information for people only
    images_per_decision: int = 1  # images for which the policy holds an action


@dataclass(frozen=True)
class Recipe(ABC):
    """Everything that determines a training."""

    options: ClassVar[tuple[str, ...]] = ()  # of the command line, that `with_options` takes

    task: str
    arm: str = "panda"
    profile: str = "train"
    seed: int = 0
    image_size: int = 84  # px
    feature_stack: int = 1  # decisions whose features the policy sees

    def __post_init__(self) -> None:
        if not 1 <= self.feature_stack <= MAX_FEATURE_STACK:
            raise ConfigurationError(
                f"feature_stack is {self.feature_stack}, expected 1 to {MAX_FEATURE_STACK}, which a bundle can hold"
            )

    def document(self) -> dict[str, JsonValue]:
        """Return everything that determines the training, as JSON."""
        return {part.name: _plain(getattr(self, part.name)) for part in fields(self)}

    @classmethod
    def for_task(cls, task: str, arm: str, profile: str, seed: int) -> Self:
        """Make the recipe with the sizes that the task gives in `Task.training`.

        Raises
        ------
        ConfigurationError
            If there is no such task, or no recipe has a part that it names.
        """
        recipe, sizes = cls(task, arm, profile, seed), TASKS[task].training
        known = {part.name for name in RECIPES for part in fields(RECIPES[name])}
        unknown = sorted(set(sizes) - known)
        if unknown:
            raise ConfigurationError(
                f"task {task}: training has {unknown[0]!r}, which is a part of no recipe; the parts are: "
                f"{', '.join(sorted(known - {part.name for part in fields(Recipe)}))}"
            )
        own = [part.name for part in fields(cls) if part.name in sizes]
        return replace(recipe, **{part: getattr(recipe, part).changed(f"task {task}", **sizes[part]) for part in own})

    @abstractmethod
    def with_options(self, **options: Any) -> Self:
        """Apply options of the command line, by name; those that were not given are absent.

        Raises
        ------
        ConfigurationError
            If the recipe does not know an option, or its value does not fit.
        """

    def refuse_unknown(self, given: Iterable[str]) -> None:
        """Raise ConfigurationError if an option is not one of `options`."""
        for option in sorted(set(given) - set(self.options)):
            name = next(name for name in RECIPES if RECIPES[name] is type(self))
            others = [other for other in RECIPES if option in RECIPES[other].options]
            hint = f"; use --recipe {' or '.join(others)} with it" if others else ""
            raise ConfigurationError(
                f"recipe {name} has no option --{option.replace('_', '-')}{hint}; it has: {', '.join(self.options)}"
            )

    @abstractmethod
    def check(self, cell: Cell) -> None:
        """Raise ConfigurationError if this cannot be trained, before anything is written or rendered."""

    @abstractmethod
    def train(self, cell: Cell, run: Path, progress: TrainingProgress) -> FinishedTraining:
        """Train in the folder `run`, or continue the training in it."""


def _plain(value: Any) -> JsonValue:
    if isinstance(value, TrainingSettings):
        plain: JsonValue = value.model_dump(mode="json")
        return plain
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


RECIPES: Registry[type[Recipe]] = Registry("recipe", builtin="rlfp_ros.learning.recipes", entry_type=Recipe)
