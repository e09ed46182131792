"""`rlfp train`: trains a bundle by a recipe, in stages that can be resumed: check, train, export, evaluate."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

from pydantic import JsonValue
from rich.console import Console

from rlfp_ros.contract import Bundle, Contract, Latency, check_replaceable
from rlfp_ros.evaluation.results import code_commit
from rlfp_ros.files import RESUME, full_disk_explained
from rlfp_ros.learning.cell import Cell, load_cell
from rlfp_ros.learning.export.build import build_contract
from rlfp_ros.learning.export.export import OBSERVATIONS, export_bundle
from rlfp_ros.learning.export.trained import save_trained
from rlfp_ros.learning.recipes.recipe import RECIPES, FinishedTraining, Recipe
from rlfp_ros.learning.report.training_report import write_report
from rlfp_ros.learning.runs.checkpoint import claim_run
from rlfp_ros.learning.runs.progress import TrainingProgress
from rlfp_ros.schema import ConfigurationError
from rlfp_ros.seeds import check_training_seed
from rlfp_ros.simulation.randomization import PARAMETERS, Profile
from rlfp_ros.simulation.tasks.task import parameters

DEFAULT = "reinforcement"
PACKAGES = ("torch", "pybullet", "numpy", "onnxruntime", "opencv-python-headless")


def recipe_for(task: str, arm: str = "panda", profile: str = "train", seed: int = 0, recipe: str = DEFAULT) -> Recipe:
    """Make the recipe that `rlfp train` uses for a task, with the sizes that suit it."""
    return RECIPES[recipe].for_task(task, arm, profile, seed)


def main(
    recipe: Recipe,
    out: Path,
    run: Path,
    resume: bool = False,
    evaluation_episodes: int = 100,
    observations: int = OBSERVATIONS,
) -> Bundle:
    """Train a recipe, write the bundle, and write the report of the training into the run folder.

    Parameters
    ----------
    recipe
        Everything that determines the training.
    out
        The bundle's folder.
    run
        Folder of checkpoints and logs.
    resume
        Whether to continue the training in `run`.
    evaluation_episodes, observations
        See `export_bundle`.

    Raises
    ------
    ConfigurationError
        If something cannot be trained or exported, if `run` exists without `resume`, or if it holds another training or
        files of the cell have changed since it began. Raised before anything is written or rendered.
    """
    check_replaceable(out)
    check_training_seed(recipe.seed)
    cell = load_cell(recipe.task, recipe.arm, recipe.profile, recipe.image_size)
    recipe.check(cell)
    claim_run(run, "recipe.json", {"recipe": type(recipe).__qualname__} | recipe.document() | cell.contents(), resume)
    console = Console()
    console.print(
        f"training [bold]{recipe.task}[/] for {cell.arm.name} in {run} (seed {recipe.seed}); "
        "Ctrl-C keeps it, --resume continues"
    )
    started = time.monotonic()
    with full_disk_explained(run, RESUME):
        with TrainingProgress(console, run) as progress:
            finished = recipe.train(cell, run, progress)
        minutes = progress.seconds / 60
        console.print(f"trained in {minutes:.1f} minutes; writing {out}")
        contract = _contract(recipe, cell, finished, minutes)
        save_trained(run, contract, cell.arm, finished.encoder, finished.policy)
        try:
            bundle = export_bundle(run, out, evaluation_episodes, observations, console)
        except ConfigurationError:  # a bundle that is refused needs the report most
            with suppress(ConfigurationError):  # the reason of the refusal matters more than that of a missing report
                console.print(f"report: {write_report(run)}")
            raise
        console.print(f"done: {out} after {(time.monotonic() - started) / 60:.1f} minutes in all")
        console.print(f"report: {write_report(run)}")
    return bundle


def _contract(recipe: Recipe, cell: Cell, finished: FinishedTraining, minutes: float) -> Contract:
    task, profile = cell.make_task(), cell.profile
    provenance: dict[str, JsonValue] = {
        "commit": code_commit(),
        "seed": recipe.seed,
        "profile": profile.name,
        "wall_minutes": round(minutes, 1),
        "config_sha256": hashlib.sha256(json.dumps(recipe.document(), sort_keys=True).encode()).hexdigest(),
        "cores": os.cpu_count(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "task_settings": parameters(task),
    }
    return build_contract(
        name=f"{cell.task}_{cell.arm.label}",
        task=task,
        arm=cell.arm,
        camera=finished.camera,
        encoder=finished.encoder_contract,
        observed=finished.observed,
        state_size=finished.state_size,
        action=cell.action.deciding_every(finished.images_per_decision),
        base_controller=cell.base_controller,
        latency=Latency(camera_s=_middle(profile, "camera_latency"), command_s=_middle(profile, "command_latency")),
        feature_statistics=finished.feature_statistics,
        provenance=provenance | finished.provenance,
    )


def _middle(profile: Profile, name: str) -> float:
    """Return the middle of a parameter's range, or its nominal value."""
    given = profile.ranges.get(name)
    return PARAMETERS[name].nominal if given is None else round(sum(given.ends) / 2, 4)
